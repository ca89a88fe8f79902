package budget

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"
)

const ms = int64(time.Millisecond)

// used is one spending of tokens, at the time it happened.
type used struct {
	at int64
	n  [dimensions]int64
}

// most is the largest number of tokens of a dimension in any second, and the largest single spending.
func most(us []used, d int) (second1s, single int64) {
	slices.SortFunc(us, func(a, b used) int { return cmp.Compare(a.at, b.at) })
	var sum int64
	first := 0
	for _, u := range us {
		sum += u.n[d]
		single = max(single, u.n[d])
		for ; us[first].at <= u.at-second; first++ {
			sum -= us[first].n[d]
		}
		second1s = max(second1s, sum)
	}
	return second1s, single
}

// caller asks for tokens again and again.
type caller struct {
	r       reservation
	waiting bool
	wake    int64
}

// simulate lets callers share a schedule until end. overshoot is by how much a sleep is too long, think how long a caller
// does something else after it got its tokens. It returns what was used, in order.
func simulate(s *schedule, end int64, callers int, size func() [dimensions]int64, overshoot, think func() int64, start int64) []used {
	cs := make([]caller, callers)
	for i := range cs {
		cs[i].wake = start + think()
	}
	var us []used
	for {
		c := &cs[0]
		for i := range cs {
			if cs[i].wake < c.wake {
				c = &cs[i]
			}
		}
		now := c.wake
		if now > end {
			return us
		}
		if !c.waiting {
			c.r.tokens = size()
			s.reserve(now, &c.r)
			c.waiting = true
		}
		if wait := s.use(now, &c.r); wait > 0 {
			c.wake = now + min(wait, int64(recheck)) + overshoot()
			continue
		}
		us = append(us, used{now, c.r.tokens})
		c.waiting = false
		c.wake = now + 1 + think()
	}
}

// random is cheaper than a draw for each step: a number of 0 to n.
func random(t *rapid.T) func(n int64) int64 {
	seed := rapid.Uint64().Draw(t, "seed")
	r := rand.New(rand.NewPCG(seed, 1))
	return func(n int64) int64 { return r.Int64N(n + 1) }
}

// In every second, whatever the callers do and however badly they sleep, at most 1.02 times the rate and one reservation.
func TestScheduleBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 1<<50).Draw(t, "start")
		l := Limits{
			Rows:  rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, 50), rapid.Int64Range(100, 100_000)).Draw(t, "rows"),
			Bytes: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1000, 50<<20)).Draw(t, "bytes"),
		}
		if l == (Limits{}) {
			l.Rows = 1000
		}
		largest := [dimensions]int64{max(1, l.Rows/rapid.Int64Range(1, 60).Draw(t, "rowsPart")), max(1, l.Bytes/rapid.Int64Range(1, 60).Draw(t, "bytesPart"))}
		bad := rapid.SampledFrom([]int64{0, 2 * ms, 15 * ms, 40 * ms, 300 * ms, 3000 * ms}).Draw(t, "overshoot")
		lazy := rapid.SampledFrom([]int64{0, 0, 5 * ms, 100 * ms, 2000 * ms}).Draw(t, "think")
		rnd := random(t)
		var s schedule
		s.set(start, l)
		us := simulate(&s, start+6*second, rapid.IntRange(1, 12).Draw(t, "callers"),
			func() [dimensions]int64 {
				return [dimensions]int64{1 + rnd(largest[rows]-1), 1 + rnd(largest[bytes]-1)}
			},
			func() int64 {
				if rnd(3) > 0 {
					return rnd(min(bad, ms))
				}
				return rnd(bad)
			}, func() int64 { return rnd(lazy) }, start)
		for d, rate := range [dimensions]int64{l.Rows, l.Bytes} {
			if rate == 0 {
				continue
			}
			got, single := most(us, d)
			if bound := rate + rate/50 + single + 1; got > bound {
				t.Fatalf("dimension %d: %d tokens in a second, at most %d at %d a second and %d at once", d, got, bound, rate, single)
			}
		}
	})
}

// While callers wait, the rate is used, although they sleep too long.
func TestScheduleRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{
			Rows:  rapid.Int64Range(100, 100_000).Draw(t, "rows"),
			Bytes: rapid.Int64Range(10_000, 50<<20).Draw(t, "bytes"),
		}
		part := rapid.Int64Range(4, 500).Draw(t, "part") // of a second in a batch
		n := [dimensions]int64{max(1, l.Rows/part), max(1, l.Bytes/part)}
		n[rapid.IntRange(rows, bytes).Draw(t, "slack")] /= rapid.Int64Range(1, 4).Draw(t, "by")
		n = [dimensions]int64{max(1, n[rows]), max(1, n[bytes])}
		rnd := random(t)
		bad := rapid.Int64Range(0, 15).Draw(t, "overshoot") * ms
		rarely := rapid.Int64Range(0, 60).Draw(t, "worst") * ms // one sleep in 50, on a busy machine
		var s schedule
		s.set(0, l)
		us := simulate(&s, 10*second, rapid.IntRange(4, 12).Draw(t, "callers"),
			func() [dimensions]int64 { return n },
			func() int64 {
				if rnd(49) == 0 {
					return rnd(rarely)
				}
				return rnd(bad)
			}, func() int64 { return 0 }, 0)
		// The dimension that allows fewer batches binds.
		want := min(float64(l.Rows)/float64(n[rows]), float64(l.Bytes)/float64(n[bytes])) * 10
		if got := float64(len(us)); got+1 < 0.97*want {
			t.Fatalf("%v batches in 10 s where the limits allow %v", got, want)
		}
	})
}

// Callers that sleep for much too long, as those of a stopped process do, cost the others little more than what they use,
// and do not use it all at once.
func TestScheduleStopped(t *testing.T) {
	var s schedule
	s.set(0, Limits{Rows: 1000})
	var stopped [10]reservation
	for i := range stopped {
		stopped[i].tokens[rows] = 50
		s.reserve(0, &stopped[i])
	}
	others := func(from, to int64) []used {
		return simulate(&s, to, 3, func() [dimensions]int64 { return [dimensions]int64{10, 0} },
			func() int64 { return 0 }, func() int64 { return 0 }, from)
	}
	us := others(0, 5*second)
	late := 0
	for i := range stopped {
		if wait := s.use(5*second, &stopped[i]); wait > second {
			t.Fatalf("a place 5 s late is used %v later, want at the end of a short queue", time.Duration(wait))
		} else if wait > 0 {
			late++
		} else {
			us = append(us, used{5 * second, stopped[i].tokens})
		}
	}
	if late < 8 {
		t.Fatalf("%d of 10 places that came 5 s late had to wait", late)
	}
	us = append(us, others(5*second, 10*second)...)
	var sum int64
	for _, u := range us {
		sum += u.n[rows]
	}
	// The stopped ones' first places, and their new ones, are lost: they never come to use them.
	if sum < 10_000-2*500-100 || sum > 10_050 {
		t.Fatalf("%d rows in 10 s at 1000 a second, less what the stopped ones had", sum)
	}
	if got, _ := most(us, rows); got > 1020+50 {
		t.Fatalf("%d rows in a second at 1000 a second", got)
	}
}

func wait(t *testing.T, s *schedule, now int64, r *reservation, want time.Duration) {
	t.Helper()
	if got := time.Duration(max(0, s.use(now, r))); got != want {
		t.Fatalf("at %v: wait %v, want %v", time.Duration(now), got, want)
	}
}

func TestScheduleLimitChanges(t *testing.T) {
	var s schedule
	s.set(0, Limits{Rows: 1})
	a := reservation{tokens: [dimensions]int64{1000, 8000}}
	b := reservation{tokens: [dimensions]int64{10, 80}}
	s.reserve(0, &a)
	s.reserve(0, &b)
	wait(t, &s, 0, &a, 0)
	wait(t, &s, 0, &b, 1000*time.Second)
	s.set(10*second, Limits{Rows: 10}) // b is at 1000, the clock at 10
	wait(t, &s, 10*second, &b, 99*time.Second)
	s.set(12*second, Limits{Rows: 1}) // the clock is at 30
	wait(t, &s, 12*second, &b, 970*time.Second)
	s.set(13*second, Limits{})
	wait(t, &s, 13*second, &b, 0)
	s.set(14*second, Limits{Rows: 10}) // nobody waits behind those who went without a limit
	s.reserve(14*second, &b)
	wait(t, &s, 14*second, &b, 0)
	s.reserve(14*second, &b)
	wait(t, &s, 14*second, &b, time.Second)

	// A limit in a dimension that had none takes those who wait in by the end of its queue.
	s = schedule{}
	s.set(0, Limits{Rows: 100})
	a.tokens[rows], b.tokens[rows] = 100, 100
	s.reserve(0, &a)
	s.reserve(0, &b)
	s.set(0, Limits{Rows: 100, Bytes: 40})
	wait(t, &s, 0, &a, 2*time.Second) // its old place is lost
	wait(t, &s, 0, &b, 202*time.Second)
	wait(t, &s, 2*second, &a, 0)
}

// Idle time is saved for 20 ms and no more.
func TestScheduleBurst(t *testing.T) {
	var s schedule
	s.set(0, Limits{Rows: 1000})
	now := 3600 * second
	for i := range 22 {
		r := reservation{tokens: [dimensions]int64{1, 0}}
		s.reserve(now, &r)
		wait(t, &s, now, &r, time.Duration(max(0, int64(i)-20)*ms))
	}
}

func TestScheduleExtremes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s schedule
		any64 := rapid.OneOf(rapid.Int64Range(0, math.MaxInt64), rapid.Int64Range(0, 10), rapid.Int64Range(math.MaxInt64-10, math.MaxInt64))
		now := int64(0)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now = max(now, min(now+any64.Draw(t, "pass"), math.MaxInt64/2))
			s.set(now, Limits{any64.Draw(t, "rows"), any64.Draw(t, "bytes")})
			r := reservation{tokens: [dimensions]int64{any64.Draw(t, "n"), any64.Draw(t, "m")}}
			s.reserve(now, &r)
			s.use(now, &r)
			for d, c := range s {
				for _, v := range []int64{c.ticks, c.lag, c.next, c.full} {
					if v > never || v < -never {
						t.Fatalf("dimension %d left its bounds: %+v", d, c)
					}
				}
			}
		}
	})
}

func FuzzState(f *testing.F) {
	var s state
	s.schedule.set(5, Limits{3, 4})
	f.Add(s.append(nil))
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == stateSize { // let it past the checksum
			b = binary.LittleEndian.AppendUint64(b[:stateSize-8:stateSize-8], xxh3.Hash(b[:stateSize-8]))
		}
		var s state
		now := int64(1 << 40)
		if !s.parse(b, now) {
			if s != (state{}) {
				t.Fatal("changed by bytes that were refused")
			}
			return
		}
		if !slices.Equal(b, s.append(nil)) {
			t.Fatal("encodes to something else")
		}
		s.schedule.set(now, Limits{7, 8})
		r := reservation{tokens: [dimensions]int64{1, 1}}
		s.schedule.reserve(now, &r)
		s.schedule.use(now, &r)
	})
}

// BenchmarkSchedule is one reservation that need not wait.
func BenchmarkSchedule(b *testing.B) {
	var s schedule
	s.set(0, Limits{Rows: 1_000_000, Bytes: 1 << 30})
	r := reservation{tokens: [dimensions]int64{1, 200}}
	now := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 2000
		s.reserve(now, &r)
		if s.use(now, &r) > 0 {
			b.Fatal("waits")
		}
	}
}
