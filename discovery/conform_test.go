package discovery

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a provider over a source that a test moves.
type rig struct {
	Provider
	set   func(addrs ...string) // makes the source name these; nil for one that never changes
	fail  func()                // makes it impossible to read
	clear func()                // makes it name nobody, as an empty set or as a problem; nil where it cannot
	delay time.Duration         // within which a change is seen
}

var rigs = map[string]func(t *testing.T) rig{
	"Static": func(*testing.T) rig { return rig{Provider: Static{"10.0.0.1:9090", "10.0.0.2:9090", "10.0.0.3:9090"}} },
	"File":   fileRig, "DNS": dnsRig, "SRV": srvRig, "ZooKeeper": zooRig, "ZooKeeperAway": zooAwayRig,
}

// views gathers what a provider says.
type views struct {
	mu   sync.Mutex
	all  []View
	busy bool
}

func (v *views) update(t *testing.T) func(View) {
	return func(view View) {
		v.mu.Lock()
		if v.busy {
			t.Error("two updates at once")
		}
		v.busy = true
		v.all = append(v.all, View{view.Known, slices.Clone(view.Gateways), view.Problem})
		v.mu.Unlock()
		time.Sleep(time.Millisecond) // of the bubble: gives another update the chance to come at once
		v.mu.Lock()
		v.busy = false
		v.mu.Unlock()
		for i := range view.Gateways {
			view.Gateways[i].Addr = "changed by its owner"
		}
	}
}

// last is the newest view, after d of the bubble's time.
func (v *views) last(d time.Duration) View {
	time.Sleep(d + 5*time.Millisecond)
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.all) == 0 {
		return View{}
	}
	return v.all[len(v.all)-1]
}

func (v *views) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.all)
}

func addrs(gs []Gateway) []string {
	var out []string
	for _, g := range gs {
		out = append(out, g.Addr)
	}
	slices.Sort(out)
	return out
}

// conform runs f in a bubble with a provider that runs, and checks that it ends with its context. That nothing of it is left
// running is checked by the bubble.
func conform(t *testing.T, f func(t *testing.T, r rig, v *views, start func())) {
	for name, build := range rigs {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := build(t)
				ctx, cancel := context.WithCancel(t.Context())
				v := &views{}
				ended := make(chan error, 1)
				started := false
				start := func() {
					started = true
					go func() { ended <- r.Run(ctx, v.update(t)) }()
				}
				f(t, r, v, start)
				cancel()
				if !started {
					return
				}
				if err := <-ended; err != nil {
					t.Errorf("Run returned %v at the end of its context, want nil", err)
				}
				n := v.count()
				synctest.Wait()
				if v.count() != n {
					t.Error("an update after Run returned")
				}
			})
		})
	}
}

var three = []string{"10.0.0.1:9090", "10.0.0.2:9090", "10.0.0.3:9090"}

func TestEveryProviderGivesItsSetOnceAndThenEachChange(t *testing.T) {
	conform(t, func(t *testing.T, r rig, v *views, start func()) {
		if r.set != nil {
			r.set(three...)
		}
		start()
		if got := v.last(r.delay); !got.Known || got.Problem != "" || !slices.Equal(addrs(got.Set()), three) {
			t.Fatalf("the first view is %+v, want %v", got, three)
		}
		if v.count() != 1 {
			t.Errorf("%d views of one set, want 1: %+v", v.count(), v.all)
		}
		v.last(2 * time.Minute)
		if v.count() != 1 {
			t.Errorf("%d views after a time without a change, want 1: %+v", v.count(), v.all)
		}
		if r.set == nil {
			return
		}
		for _, want := range [][]string{{"10.0.0.1:9090"}, {"10.0.0.1:9090", "10.0.0.7:9090"}, three} {
			r.set(want...)
			if got := v.last(r.delay); !got.Known || !slices.Equal(addrs(got.Set()), want) {
				t.Fatalf("after a change the view is %+v, want %v", got, want)
			}
		}
	})
}

func TestEveryProviderKeepsItsSetWhileTheSourceCannotBeRead(t *testing.T) {
	conform(t, func(t *testing.T, r rig, v *views, start func()) {
		if r.fail == nil {
			t.Skip("it cannot fail")
		}
		r.set(three...)
		start()
		v.last(r.delay)
		r.fail()
		got := v.last(r.delay)
		if !got.Known || got.Problem == "" || !slices.Equal(addrs(got.Set()), three) {
			t.Fatalf("while the source cannot be read the view is %+v, want a problem and %v", got, three)
		}
		t.Log(got.Problem)
		n := v.count()
		v.last(2 * time.Minute)
		if v.count() != n {
			t.Errorf("the same problem was told %d times", v.count()-n+1)
		}
		r.set(three...)
		if got := v.last(r.delay); got.Problem != "" || !slices.Equal(addrs(got.Set()), three) {
			t.Fatalf("once it can be read again the view is %+v, want %v and no problem", got, three)
		}
	})
}

func TestEveryProviderKnowsNothingUntilTheSourceWasRead(t *testing.T) {
	conform(t, func(t *testing.T, r rig, v *views, start func()) {
		if r.fail == nil {
			t.Skip("it cannot fail")
		}
		r.fail()
		start()
		got := v.last(max(r.delay, time.Minute))
		if got.Known || len(got.Gateways) > 0 || got.Problem == "" {
			t.Fatalf("before the source was read the view is %+v, want a problem and nothing known", got)
		}
		r.set(three...)
		if got := v.last(r.delay); !got.Known || got.Problem != "" || !slices.Equal(addrs(got.Set()), three) {
			t.Fatalf("once it can be read the view is %+v, want %v", got, three)
		}
	})
}

func TestNoProviderTurnsNobodyIntoASetThatIsUsed(t *testing.T) {
	conform(t, func(t *testing.T, r rig, v *views, start func()) {
		if r.clear == nil {
			t.Skip("it cannot name nobody")
		}
		r.set(three...)
		start()
		v.last(r.delay)
		r.clear()
		got := v.last(r.delay)
		if len(got.Set()) > 0 && got.Problem == "" {
			t.Fatalf("the view of a source that names nobody is %+v, want a problem or an empty set", got)
		}
	})
}
