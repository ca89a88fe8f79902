package runner

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/budget"
	"drover/hbase"
	"drover/jobs"
)

// server takes so many rows a second, saved up for a second, and refuses the rest with a strain, naming a wait for a quota.
type server struct {
	rows   float64
	strain hbase.Strain
	saved  float64
	at     time.Time

	mu            sync.Mutex
	took, refused int
	calls, busy   int
}

func (s *server) call(n int) hbase.Attempt {
	a := hbase.Attempt{Rows: n, Bytes: 1000 * n, Start: time.Now(), Gateway: "gw:1"}
	time.Sleep(10 * time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	a.End = now
	s.saved = min(s.saved+now.Sub(s.at).Seconds()*s.rows, s.rows)
	s.at = now
	s.calls++
	// A memstore with room takes a batch of any size.
	if float64(n) <= s.saved || s.strain == hbase.RegionBusy && s.saved > 0 || math.IsInf(s.rows, 1) {
		if !math.IsInf(s.rows, 1) {
			s.saved -= float64(n)
		}
		s.took += n
		return a
	}
	s.refused += n
	s.busy++
	a.Kind, a.Strain = hbase.Again, s.strain
	if s.strain == hbase.QuotaSpent {
		a.Wait = time.Duration((float64(n) - s.saved) / s.rows * float64(time.Second))
	}
	return a
}

func (s *server) set(rows float64) {
	s.mu.Lock()
	s.rows, s.saved = rows, 0
	s.mu.Unlock()
}

// take gives the rows that got through since the last time.
func (s *server) take() (rows, calls, busy int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, calls, busy = s.took, s.calls, s.busy
	s.took, s.calls, s.busy = 0, 0, 0
	return rows, calls, busy
}

// traffic sends batches to servers, as a pool does: so many under way for each, each repeated until it is taken.
type traffic struct {
	p       *pacer
	t       *paced
	servers []*server
	valves  []*valve
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

func newTraffic(job jobs.Job, servers ...*server) *traffic {
	x := &traffic{p: newPacer(slog.New(slog.DiscardHandler)), servers: servers}
	x.t = x.p.add("t", budget.NewLocal(budget.Limits{Rows: job.Limits.Rows, Bytes: job.Limits.Bytes}), job)
	var ctx context.Context
	ctx, x.stop = context.WithCancel(context.Background())
	x.wg.Go(func() { x.p.tend(ctx, func() bool { return true }) })
	for i, s := range servers {
		v := x.p.server("t", string(rune('a'+i)))
		x.valves = append(x.valves, v)
		s.at = time.Now()
		for range 8 {
			x.wg.Go(func() {
				for ctx.Err() == nil {
					n, _ := x.t.whole.batch(x.t.ramp.batch(100), 1<<20)
					for again := 0; ctx.Err() == nil; again++ {
						if x.p.Wait(on(ctx, v), "t", n, 1000*n) != nil {
							return
						}
						a := s.call(n)
						x.p.Witness(on(ctx, v), "t", a)
						if a.Kind == 0 {
							break
						}
						time.Sleep(max(a.Wait, 50*time.Millisecond<<min(again, 6)))
					}
				}
			})
		}
	}
	return x
}

func (x *traffic) end() {
	x.stop()
	x.wg.Wait()
	x.p.close()
}

// rates lets time pass and gives the rows a second of each server.
func (x *traffic) rates(d time.Duration) []float64 {
	for _, s := range x.servers {
		s.take()
	}
	time.Sleep(d)
	var out []float64
	for _, s := range x.servers {
		n, _, _ := s.take()
		out = append(out, float64(n)/d.Seconds())
	}
	return out
}

// A quota slows the table: to nine tenths of what it lets through, at few refusals, and no longer than it holds.
func TestQuotaSlowsTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &server{rows: math.Inf(1), strain: hbase.QuotaSpent}, &server{rows: math.Inf(1), strain: hbase.QuotaSpent}
		x := newTraffic(jobs.Job{Limits: jobs.Limits{Rows: 3000}}, a, b)
		defer x.end()
		if r := x.rates(10 * time.Second); r[0]+r[1] < 2900 {
			t.Fatalf("%.0f rows/s before", r)
		}
		a.set(500)
		b.set(500)
		time.Sleep(5 * time.Second)
		a.take()
		b.take()
		time.Sleep(30 * time.Second)
		calls, busy, rows := 0, 0, 0
		for _, s := range x.servers {
			n, c, r := s.take()
			rows, calls, busy = rows+n, calls+c, busy+r
		}
		t.Logf("%d rows/s of 1000, %d of %d calls refused", rows/30, busy, calls)
		if rows < 30*800 || busy*20 > calls {
			t.Errorf("%d rows/s of 1000, %d of %d calls refused", rows/30, busy, calls)
		}
		slowed, _ := x.p.slowed()
		if len(slowed) != 1 || slowed[0].Server != "" || slowed[0].Why != "a quota is used up" || !slowed[0].Limited || slowed[0].Percent > 50 {
			t.Errorf("shown as %+v", slowed)
		}
		if x.p.slow.total() < 30*time.Second {
			t.Errorf("slowed for %v", x.p.slow.total())
		}
		a.set(math.Inf(1))
		b.set(math.Inf(1))
		time.Sleep(28 * time.Second)
		if r := x.rates(2 * time.Second); r[0]+r[1] < 2700 {
			t.Errorf("%.0f rows/s 30 s after the quota", r)
		}
	})
}

// A region server that is too busy, or takes nothing at all, slows its own rows only.
func TestBusyServerSlowsItself(t *testing.T) {
	for name, takes := range map[string]float64{"busy": 100, "stopped": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := &server{rows: math.Inf(1), strain: hbase.RegionBusy}, &server{rows: math.Inf(1)}
				x := newTraffic(jobs.Job{Limits: jobs.Limits{Rows: 2000}}, a, b)
				defer x.end()
				before := x.rates(10 * time.Second)
				a.set(takes)
				time.Sleep(5 * time.Second)
				a.take()
				r := x.rates(20 * time.Second)
				t.Logf("from %.0f to %.0f rows/s", before, r)
				if r[0] < 0.7*takes || r[0] > 1.1*takes {
					t.Errorf("%.0f rows/s to the busy one, which takes %.0f", r[0], takes)
				}
				if r[1] < before[1] {
					t.Errorf("%.0f rows/s to the other, before %.0f", r[1], before[1])
				}
				slowed, _ := x.p.slowed()
				if len(slowed) != 1 || slowed[0].Server != "a" {
					t.Errorf("shown as %+v", slowed)
				}
				if n := x.valves[0].bound(8); n > 4 || x.valves[1].bound(8) != 8 {
					t.Errorf("%d flights to the busy one, %d to the other", n, x.valves[1].bound(8))
				}
				a.set(math.Inf(1))
				time.Sleep(25 * time.Second)
				if r := x.rates(5 * time.Second); r[0] < 0.9*before[0] {
					t.Errorf("%.0f rows/s 30 s later, before %.0f", r, before)
				}
			})
		})
	}
}

// A server's named wait holds every batch that the quota is about, and those that come together do not go together.
func TestNamedWaitHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{rows: math.Inf(1)}
		x := newTraffic(jobs.Job{Limits: jobs.Limits{Rows: 2000}}, s)
		defer x.end()
		x.rates(5 * time.Second)
		now := time.Now()
		x.p.Witness(context.Background(), "t", hbase.Attempt{
			Kind: hbase.Again, Strain: hbase.QuotaSpent, Wait: 3 * time.Second, Rows: 100, Bytes: 1000, Start: now.Add(-time.Millisecond), End: now,
		})
		time.Sleep(100 * time.Millisecond) // what is under way
		if r := x.rates(2800 * time.Millisecond); r[0] != 0 {
			t.Errorf("%.0f rows/s while the server asked for time", r[0])
		}
		if r := x.rates(5 * time.Second); r[0] < 1000 {
			t.Errorf("%.0f rows/s afterwards", r[0])
		}
	})
}

func TestRampOfLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{rows: math.Inf(1), strain: hbase.RegionBusy}
		job := jobs.Job{Limits: jobs.Limits{Rows: 2000}, Ramp: jobs.Ramp{Steps: []int{10, 50, 100}, Every: 10 * time.Second}}
		x := newTraffic(job, s)
		defer x.end()
		for _, want := range []float64{200, 1000, 2000} {
			time.Sleep(2 * time.Second)
			if r := x.rates(7 * time.Second); r[0] > 1.03*want || r[0] < 0.9*want {
				t.Errorf("%.0f rows/s, want %.0f", r[0], want)
			}
			time.Sleep(time.Second + 200*time.Millisecond)
		}
		s.set(1500)
		time.Sleep(3 * time.Second)
		if _, ramps := x.p.slowed(); ramps["t"] != 50 {
			t.Errorf("at %v, want a step back to 50 %%", ramps)
		}
		s.set(math.Inf(1))
		time.Sleep(time.Minute)
		if r := x.rates(5 * time.Second); r[0] < 1800 {
			t.Errorf("%.0f rows/s in the end", r[0])
		}
	})
}

func TestRampWithoutLimit(t *testing.T) {
	var r ramp
	r.init(jobs.Job{Ramp: jobs.Ramp{Steps: []int{10, 100}}})
	for n, want := range map[int]int{1: 1, 8: 1, 26: 2, 100: 10} {
		if got := r.bound(n); got != want {
			t.Errorf("%d of %d flights, want %d", got, n, want)
		}
	}
	if got := r.batch(1000); got != 1000 {
		t.Errorf("batches of %d", got)
	}
}
