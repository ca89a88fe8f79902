package share

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

const sec = time.Second

// about allows for the margin that rates keep for fast clocks, over the few seconds of a test.
func about(got, want time.Duration) bool {
	return (got - want).Abs() <= 4*time.Millisecond+want/500
}

func running(limit Limit, part float64) *Meter {
	m := &Meter{}
	m.Limit(0, limit)
	m.Grant(0, part)
	m.Deadline(0, time.Hour)
	return m
}

func TestMeterPaysBeforehand(t *testing.T) {
	m := running(Limit{1000, 100_000}, 0.5)
	a, b, c := &Ticket{Rows: 500, Bytes: 100}, &Ticket{Rows: 5, Bytes: 100_000}, &Ticket{Rows: 250}
	for _, q := range []*Ticket{a, b, c} {
		m.Queue(0, q)
	}
	if w := m.Wait(0, a); !about(w, sec) {
		t.Errorf("500 rows at 500 rows/s wait %v", w)
	}
	if w := m.Wait(0, b); !about(w, 2002*time.Millisecond) {
		t.Errorf("100,000 bytes at 50,000 bytes/s, behind 100, wait %v", w)
	}
	if w := m.Wait(0, c); !about(w, 1510*time.Millisecond) {
		t.Errorf("250 rows behind 505 wait %v", w)
	}
	if w := m.Wait(1002*time.Millisecond, a); w != 0 {
		t.Errorf("a waits another %v", w)
	}
	if w := m.Wait(1600*time.Millisecond, c); w != 0 {
		t.Errorf("c waits another %v; it does not need the bytes that b waits for", w)
	}
}

func TestMeterZeroValuePassesNothing(t *testing.T) {
	m := &Meter{}
	ticket := &Ticket{Rows: 1}
	m.Queue(0, ticket)
	if w := m.Wait(1000*sec, ticket); w != Never {
		t.Fatalf("waits %v", w)
	}
}

func TestMeterWithoutLimit(t *testing.T) {
	m := &Meter{}
	m.Limit(0, NoLimit)
	ticket := &Ticket{Rows: 1e6, Bytes: 1e9}
	m.Queue(0, ticket)
	if w := m.Wait(0, ticket); w != 0 {
		t.Fatalf("waits %v; where there is no limit there is nothing to grant", w)
	}
}

func TestMeterChangesAtOnce(t *testing.T) {
	m := running(Limit{1000, math.Inf(1)}, 1)
	ticket := &Ticket{Rows: 10_000}
	m.Queue(0, ticket)
	m.Limit(sec, Pause)
	if w := m.Wait(100*sec, ticket); w != Never {
		t.Fatalf("waits %v during a pause", w)
	}
	m.Limit(100*sec, Limit{1000, math.Inf(1)})
	if w := m.Wait(100*sec, ticket); !about(w, 9*sec) {
		t.Fatalf("waits %v after a pause, want 9 s: a second of it is paid", w)
	}
	m.Grant(100*sec, 0.1)
	if w := m.Wait(100*sec, ticket); !about(w, 90*sec) {
		t.Fatalf("waits %v with a tenth", w)
	}
}

func TestMeterDeadline(t *testing.T) {
	m := running(Limit{1000, math.Inf(1)}, 1)
	m.Deadline(0, 5*sec)
	ticket := &Ticket{Rows: 6000}
	m.Queue(0, ticket)
	if w := m.Wait(0, ticket); w != Never {
		t.Errorf("waits %v for what comes after the deadline", w)
	}
	// Stopped, and continued long after the deadline; then a heartbeat is acknowledged.
	if rows, _ := m.Given(100 * sec); math.Abs(rows-5000*(1-drift)) > 1e-6 {
		t.Errorf("collected %v rows by a deadline of 5 s", rows)
	}
	m.Deadline(100*sec, 110*sec)
	if w := m.Wait(100*sec, ticket); !about(w, sec) {
		t.Errorf("waits %v under the new deadline, want a second", w)
	}
	m.Deadline(100*sec+sec/2, 0) // ended early
	if w := m.Wait(200*sec, ticket); w != Never {
		t.Errorf("waits %v after the right was ended", w)
	}
	// What was saved up ends with the right.
	m = running(Limit{1000, math.Inf(1)}, 1)
	m.Deadline(0, sec)
	m.Given(2 * sec)
	m.Deadline(3*sec, 10*sec)
	one := &Ticket{Rows: 1}
	m.Queue(3*sec, one)
	if w := m.Wait(3*sec, one); w == 0 {
		t.Error("spent what was saved before the deadline")
	}
}

func TestMeterSavesTwentyMilliseconds(t *testing.T) {
	m := running(Limit{1000, math.Inf(1)}, 1)
	ticket := &Ticket{Rows: 100}
	m.Queue(50*sec, ticket)
	if w := m.Wait(50*sec, ticket); !about(w, 80*time.Millisecond) {
		t.Fatalf("100 rows at 1000 rows/s after a long time of nothing wait %v, want 80ms", w)
	}
	// A part that is lost takes what was saved with it, and one that is won brings nothing.
	m = running(Limit{1000, math.Inf(1)}, 1)
	m.Grant(10*sec, 0.1)
	m.Grant(10*sec, 1)
	ticket = &Ticket{Rows: 100}
	m.Queue(10*sec, ticket)
	if w := m.Wait(10*sec, ticket); !about(w, 98*time.Millisecond) {
		t.Fatalf("waits %v, want 98ms", w)
	}
}

func TestMeterDrop(t *testing.T) {
	m := running(Limit{1000, math.Inf(1)}, 1)
	a, b := &Ticket{Rows: 2000}, &Ticket{Rows: 1500}
	m.Queue(0, a)
	m.Queue(0, b)
	m.Drop(sec, a)
	m.Drop(sec, a)
	if w := m.Wait(sec, b); !about(w, 500*time.Millisecond) {
		t.Fatalf("waits %v, want half a second: what was collected for the other is its own now", w)
	}
	m.Drop(1200*time.Millisecond, b)
	c := &Ticket{Rows: 100}
	m.Queue(1200*time.Millisecond, c)
	if w := m.Wait(1200*time.Millisecond, c); !about(w, 80*time.Millisecond) {
		t.Fatalf("waits %v, want 80ms: what nobody waits for is not saved", w)
	}
}

func TestMeterTimeGoesBack(t *testing.T) {
	m := running(Limit{1000, math.Inf(1)}, 1)
	ticket := &Ticket{Rows: 1000}
	m.Queue(10*sec, ticket)
	if a, b := m.Wait(10500*time.Millisecond, ticket), m.Wait(sec, ticket); a != b {
		t.Fatalf("waits %v, then %v", a, b)
	}
}

func TestMeterDemand(t *testing.T) {
	m := running(Limit{1000, 1e6}, 0.5)
	if d := m.Demand(sec); !math.IsInf(d, 1) {
		t.Errorf("unknown: %v", d)
	}
	now := time.Duration(0)
	spend := func(rows, bytes float64, every time.Duration) {
		for range int(30 * sec / every) {
			now += every
			m.Queue(now, &Ticket{Rows: rows, Bytes: bytes})
		}
		now += time.Millisecond
	}
	spend(10, 100, 100*time.Millisecond) // 100 rows/s of 1000
	if d := m.Demand(now); math.Abs(d-0.106) > 0.01 {
		t.Errorf("demands %v for 100 rows/s of 1000", d)
	}
	spend(10, 30_000, 100*time.Millisecond)
	if d := m.Demand(now); math.Abs(d-0.318) > 0.03 {
		t.Errorf("demands %v for 300 kB/s of 1 MB/s", d)
	}
	spend(100, 1000, 100*time.Millisecond)
	if d := m.Demand(now); d != 1 {
		t.Errorf("demands %v, not twice its part, while more than it gets waits", d)
	}
}

// model collects in small steps what Meter settles in large ones.
type model struct {
	part, limit, saved, given, need float64
	at, deadline                    time.Duration
}

func (m *model) run(to time.Duration) {
	const step = time.Millisecond
	for ; m.at < to; m.at += step {
		rate := m.part * m.limit * (1 - drift)
		if m.at < m.deadline {
			m.saved += rate * step.Seconds()
		}
		m.spend()
		m.saved = min(m.saved, rate*burst.Seconds())
		if m.at+step >= m.deadline {
			m.saved = 0
		}
	}
}

func (m *model) spend() {
	n := min(m.need, m.saved)
	m.need -= n
	m.saved -= n
	m.given += n
}

func (m *model) trim() {
	m.saved = min(m.saved, m.part*m.limit*(1-drift)*burst.Seconds())
	if m.at >= m.deadline {
		m.saved = 0
	}
}

func TestMeterAgainstSmallSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, o := &Meter{}, &model{}
		m.Limit(0, Limit{0, math.Inf(1)})
		now := time.Duration(0)
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			now += time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond
			o.run(now)
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0:
				o.part = rapid.SampledFrom([]float64{0, 0.1, 0.5, 1}).Draw(t, "part")
				m.Grant(now, o.part)
			case 1:
				o.limit = rapid.SampledFrom([]float64{0, 100, 1000}).Draw(t, "limit")
				m.Limit(now, Limit{o.limit, math.Inf(1)})
			case 2:
				o.deadline = now + time.Duration(rapid.IntRange(-200, 2000).Draw(t, "deadline"))*time.Millisecond
				m.Deadline(now, o.deadline)
			case 3:
				rows := float64(rapid.IntRange(0, 300).Draw(t, "rows"))
				m.Queue(now, &Ticket{Rows: rows, Bytes: 1})
				o.need += rows
				o.spend()
			}
			o.trim()
			if rows, _ := m.Given(now); math.Abs(rows-o.given) > 1e-3 {
				t.Fatalf("at %v: collected %v, by small steps %v", now, rows, o.given)
			}
			if waiting := len(m.queue) > 0; waiting != (o.need > 1e-4) && o.limit > 0 {
				t.Fatalf("at %v: %v wait, by small steps %v rows", now, m.queue, o.need)
			}
		}
	})
}

func TestAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		a := NewAccount(func() time.Duration { return time.Since(start) })
		a.Limit(Limit{1000, math.Inf(1)})
		a.Deadline(time.Hour)
		var mu sync.Mutex
		var ends []time.Duration
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := a.Wait(t.Context(), 1000, 10); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, time.Since(start))
			})
		}
		time.Sleep(10 * sec)
		a.Grant(1) // those who wait hear of it at once
		time.Sleep(1500 * time.Millisecond)
		a.Limit(Pause)
		time.Sleep(10 * sec)
		a.Limit(Limit{2000, math.Inf(1)})
		wg.Wait()
		want := []time.Duration{11 * sec, 21750 * time.Millisecond, 22250 * time.Millisecond}
		if !slices.EqualFunc(ends, want, func(a, b time.Duration) bool { return (a - b).Abs() < 5*time.Millisecond }) {
			t.Errorf("paid at %v, want %v", ends, want)
		}
		if rows, _ := a.Given(); math.Abs(rows-3000) > 1e-3 {
			t.Errorf("given %v", rows)
		}
	})
}

func TestAccountCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		a := NewAccount(func() time.Duration { return time.Since(start) })
		a.Limit(Limit{1000, math.Inf(1)})
		a.Grant(1)
		a.Deadline(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), sec)
		defer cancel()
		if waited, err := a.Wait(ctx, 5000, 0); !errors.Is(err, context.DeadlineExceeded) || waited != sec {
			t.Fatalf("%v, %v", waited, err)
		}
		if _, err := a.Wait(ctx, 1, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("with a context that is over: %v", err)
		}
		if waited, err := a.Wait(t.Context(), 1000, 0); err != nil || !about(waited, 980*time.Millisecond) {
			t.Fatalf("%v, %v", waited, err)
		}
	})
}

// BenchmarkMeter is one batch's cost, with others waiting.
func BenchmarkMeter(b *testing.B) {
	m := running(Limit{1e6, 1e9}, 0.5)
	m.Deadline(0, 1e6*time.Hour)
	r := rand.New(rand.NewPCG(1, 2))
	now := time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		t := Ticket{Rows: float64(400 + r.IntN(200)), Bytes: 100}
		m.Queue(now, &t)
		now += m.Wait(now, &t)
	}
}
