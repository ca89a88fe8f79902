package hbase

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func refusedRows(a Applied) []int {
	var rows []int
	for _, r := range a.Refused {
		rows = append(rows, r.Row)
	}
	slices.Sort(rows)
	return rows
}

func TestRefusedRows(t *testing.T) {
	const size = 500
	for _, gateways := range [][]string{three, {"a:1"}} {
		for _, partial := range []bool{true, false} {
			for _, bad := range [][]int{{0}, {499}, {250}, {3, 4, 5}, {0, 100, 499}} {
				t.Run(fmt.Sprint(len(gateways), partial, bad), func(t *testing.T) {
					bubble(t, gateways, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
						c.partial = partial
						mustApply(t, p, testBatch("w", 5))
						for _, i := range bad {
							c.bad[fmt.Sprintf("x%05d", i)] = true
						}
						a := mustApply(t, p, testBatch("x", size))
						if !slices.Equal(refusedRows(a), bad) {
							t.Errorf("refused %v", a.Refused)
						}
						if a.Resent > 2*size*len(bad) {
							t.Errorf("%d rows sent again for %d refused", a.Resent, len(bad))
						}
						if c.sent != 5+size+a.Resent {
							t.Errorf("%d rows sent, %+v", c.sent, a)
						}
						for _, r := range a.Refused {
							if r.Attempts < proofRefusals || !strings.Contains(r.Reason, "FailedSanityCheck") {
								t.Errorf("%+v", r)
							}
						}
						c.check(t, 5+size-len(bad))
						t.Logf("%d calls, %d rows sent again", a.Attempts, a.Resent)
					})
				})
			}
		}
	}
}

// The first batch of a table: the rest of it is the witness.
func TestRefusedRowsOfTheFirstBatch(t *testing.T) {
	for _, partial := range []bool{true, false} {
		bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
			c.partial = partial
			c.bad["x00000"], c.bad["x00077"] = true, true
			start := time.Now()
			a := mustApply(t, p, testBatch("x", 100))
			if !slices.Equal(refusedRows(a), []int{0, 77}) || time.Since(start) > 10*time.Second {
				t.Errorf("%+v after %v", a, time.Since(start))
			}
		})
	}
}

// event is what a gateway answered for one row.
type event struct {
	addr    string
	key     string
	refused bool
}

func TestProofIsComplete(t *testing.T) {
	for _, gateways := range [][]string{three, {"a:1"}} {
		bubble(t, gateways, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
			var events []event
			c.record = func(l *fakeLink, b *Batch, lo, hi int, err error) {
				k, _ := Classify(err)
				if hi-lo == 1 && (k == 0 || k == Never) {
					events = append(events, event{l.addr, string(b.Key(lo)), k == Never})
				}
			}
			// The first gateway is the one to choose, were it not for the proof.
			for _, addr := range gateways[1:] {
				c.gates[addr].slow = 6
			}
			for i := range 50 {
				mustApply(t, p, testBatch(fmt.Sprint("w", i), 1))
			}
			c.set(func() { c.bad["x00001"] = true })
			a := mustApply(t, p, testBatch("x", 2))
			if !slices.Equal(refusedRows(a), []int{1}) {
				t.Fatalf("%+v", a)
			}
			through := map[string]bool{}
			refusals := 0
			for i, e := range events {
				if !e.refused {
					continue
				}
				refusals++
				through[e.addr] = true
				if !slices.ContainsFunc(events[i:], func(w event) bool { return w.addr == e.addr && !w.refused }) {
					t.Errorf("no witness after refusal %d through %s: %v", refusals, e.addr, events)
				}
			}
			if refusals < 3 || len(through) != min(2, len(gateways)) && len(through) != 3 {
				t.Errorf("%d refusals through %v", refusals, through)
			}
		})
	}
}

// The table stops taking rows in the middle of a proof.
func TestProofNeedsTheWitness(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		mustApply(t, p, testBatch("w", 5))
		c.partial = false
		c.bad["x00001"] = true
		alone := 0
		c.record = func(_ *fakeLink, b *Batch, lo, hi int, err error) {
			if hi-lo == 1 && string(b.Key(lo)) == "x00001" && err != nil {
				alone++
			}
			if hi-lo == 1 && string(b.Key(lo)) == "x00000" && err == nil {
				c.rowFault = true
				clear(c.bad)
			}
		}
		time.AfterFunc(time.Minute, func() { c.set(func() { c.rowFault = false }) })
		if a := mustApply(t, p, testBatch("x", 2)); len(a.Refused) > 0 || alone < proofRefusals {
			t.Errorf("%+v after %d refusals", a, alone)
		}
		c.check(t, 7)
	})
}

// What was sent before a table paused, and is acknowledged late, does not let it go on.
func TestLateAcknowledgementDoesNotResume(t *testing.T) {
	p := newPool(PoolOptions{}, nil)
	tab := p.table("t")
	g := &gateway{host: &host{addr: "a:1"}}
	p.pause(tab, answer{g: g, seq: 5}, "disabled", false, false)
	p.ack(tab, answer{g: g, began: 4, seq: 6}, nil, -1)
	if tab.reason == "" {
		t.Error("goes on after a late acknowledgement")
	}
	p.ack(tab, answer{g: g, began: 5, seq: 7}, nil, -1)
	if tab.reason != "" {
		t.Error("does not go on")
	}
}

// A row is not refused while no row at all is accepted.
func TestNoRowAcceptedIsATableFault(t *testing.T) {
	for _, known := range []bool{true, false} {
		for _, size := range []int{1, 100} {
			t.Run(fmt.Sprint(known, size), func(t *testing.T) {
				var mu sync.Mutex
				var told []string
				o := PoolOptions{Paused: func(table, reason string) {
					mu.Lock()
					told = append(told, reason)
					mu.Unlock()
				}}
				bubble(t, three, o, func(t *testing.T, c *cluster, p *Pool) {
					if known {
						mustApply(t, p, testBatch("w", 5))
					}
					c.set(func() { c.rowFault = true })
					var wg sync.WaitGroup
					for i := range 4 {
						wg.Go(func() {
							if a := mustApply(t, p, testBatch(fmt.Sprint("x", i, "-"), size)); len(a.Refused) != 0 {
								t.Errorf("refused %v", a.Refused)
							}
						})
					}
					time.Sleep(5 * time.Second)
					synctest.Wait()
					sent := c.count()
					time.Sleep(5 * time.Minute)
					synctest.Wait()
					if n := c.count() - sent; n == 0 || n > 25*(size+1) {
						t.Errorf("%d rows sent in 5 min of pause", n)
					}
					c.set(func() { c.rowFault = false })
					start := time.Now()
					wg.Wait()
					if d := time.Since(start); d > 45*time.Second {
						t.Errorf("went on after %v", d)
					}
					if len(told) != 2 || !strings.Contains(told[0], "Internal error") || told[1] != "" {
						t.Errorf("told %q", told)
					}
					want := 4 * size
					if known {
						want += 5
					}
					c.check(t, want)
				})
			})
		}
	}
}

func TestTableErrorWhenEveryRowIsRefused(t *testing.T) {
	bubble(t, three, PoolOptions{OutageLimit: 5 * time.Minute}, func(t *testing.T, c *cluster, p *Pool) {
		c.rowFault = true
		a, err := p.Apply(t.Context(), "t", testBatch("x", 50))
		var te *TableError
		if !errors.As(err, &te) || len(a.Refused) != 0 {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

// Every row of a batch is bad, and the table is fine.
func TestWholeBatchRefused(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		mustApply(t, p, testBatch("w", 5))
		for i := range 20 {
			c.bad[fmt.Sprintf("x%05d", i)] = true
		}
		a := mustApply(t, p, testBatch("x", 20))
		if len(a.Refused) != 20 || a.Resent > 20*2*20 {
			t.Errorf("%d refused, %d sent again", len(a.Refused), a.Resent)
		}
	})
}

// More bad rows than the pool tries alone before it suspects the table, and the good one last.
func TestFewGoodRowsInTheFirstBatch(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.partial, c.noReads = false, true
		for i := range 9 {
			c.bad[fmt.Sprintf("x%05d", i)] = true
		}
		a := mustApply(t, p, testBatch("x", 10))
		if len(a.Refused) != 9 {
			t.Errorf("%+v", a)
		}
		c.check(t, 1)
	})
}

func TestTroubleInTheMiddleOfAProof(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		mustApply(t, p, testBatch("w", 5))
		faults := map[Kind]int{}
		c.script = func(string, int) (error, bool) {
			switch x := c.rng.IntN(10); {
			case x < 2:
				faults[Again]++
				return fail(Again, "RegionTooBusyException"), false
			case x < 4:
				faults[Elsewhere]++
				return fail(Elsewhere, "EOF"), x == 2
			}
			return nil, false
		}
		for k := range 10 {
			c.partial = k%2 == 0
			prefix := fmt.Sprint("x", k, "-")
			c.set(func() { c.bad[prefix+"00007"] = true })
			a := mustApply(t, p, testBatch(prefix, 60))
			if !slices.Equal(refusedRows(a), []int{7}) {
				t.Errorf("%+v", a)
			}
		}
		c.check(t, 5+10*59)
		if faults[Again] < 5 || faults[Elsewhere] < 5 {
			t.Errorf("faults: %v", faults)
		}
	})
}

// A row that one gateway alone refuses is not dead.
func TestOneGatewayRefuses(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		faults := 0
		c.script = func(addr string, _ int) (error, bool) {
			if addr == "a:1" {
				faults++
				return fail(Never, "DoNotRetryIOException"), false
			}
			return nil, false
		}
		for i := range 10 {
			if a := mustApply(t, p, testBatch(fmt.Sprint("x", i, "-"), 30)); len(a.Refused) > 0 {
				t.Errorf("%+v", a)
			}
		}
		c.check(t, 300)
		if faults == 0 {
			t.Error("the gateway refused nothing")
		}
	})
}

func TestRefusedAmongManyApplies(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.partial = false
		var wg sync.WaitGroup
		for w := range 24 {
			wg.Go(func() {
				for k := range 10 {
					prefix := fmt.Sprint("w", w, "-", k, "-")
					var want []int
					if (w+k)%5 == 0 {
						want = []int{(w * k) % 200}
						c.set(func() { c.bad[fmt.Sprintf("%s%05d", prefix, want[0])] = true })
					}
					a := mustApply(t, p, testBatch(prefix, 200))
					if !slices.Equal(refusedRows(a), want) || a.Resent > 400 {
						t.Errorf("%s: want %v, %+v", prefix, want, a)
					}
				}
			})
		}
		wg.Wait()
		c.check(t, 24*10*200-48)
	})
}

// Whatever the gateways do, a row that HBase takes is acknowledged, and one that it never takes is refused, with its proof.
func TestApplyProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(rt, "gateways")
		seed := rapid.Uint64().Draw(rt, "seed")
		trouble := rapid.IntRange(0, 6).Draw(rt, "trouble in ten")
		partial, noReads := rapid.Bool().Draw(rt, "partial"), rapid.Bool().Draw(rt, "no reads")
		maxRows := rapid.SampledFrom([]int{0, 1, 9}).Draw(rt, "max rows")
		applies := rapid.IntRange(1, 6).Draw(rt, "applies")
		badPart := rapid.IntRange(0, 30).Draw(rt, "bad in 100")
		hangs := rapid.Bool().Draw(rt, "hangs")
		synctest.Test(t, func(t *testing.T) {
			var addrs []string
			for i := range n {
				addrs = append(addrs, fmt.Sprintf("g%d:1", i))
			}
			c := newCluster(seed, addrs...)
			c.partial, c.noReads, c.maxRows = partial, noReads, maxRows
			pc := &pacer{}
			p := newPool(PoolOptions{Pacer: pc, Connections: 2}, c.dial)
			p.random = func() float64 { c.mu.Lock(); defer c.mu.Unlock(); return c.rng.Float64() }
			p.start()
			update(p, addrs...)
			defer p.Close()
			mustApply(t, p, testBatch("w", 3))
			c.set(func() {
				c.script = func(string, int) (error, bool) {
					if c.rng.IntN(10) >= trouble {
						return nil, false
					}
					switch c.rng.IntN(8) {
					case 0, 1, 2:
						return fail(Again, "RegionTooBusyException"), c.rng.IntN(2) == 0
					case 3:
						return fail(Smaller, "RequestTooBigException"), false
					case 4:
						return fail(Table, "TableNotEnabledException"), false
					}
					return fail(Elsewhere, "EOF"), c.rng.IntN(2) == 0
				}
				if hangs {
					c.gates[addrs[0]].hang = true
				}
			})
			if hangs {
				time.AfterFunc(30*time.Second, func() { c.set(func() { c.gates[addrs[0]].hang = false }) })
			}
			rng := rand.New(rand.NewPCG(seed, 2))
			var wg sync.WaitGroup
			for i := range applies {
				prefix := fmt.Sprint("x", i, "-")
				size := 1 + rng.IntN(40)
				var want []int
				c.set(func() {
					for k := range size {
						if rng.IntN(100) < badPart {
							want = append(want, k)
							c.bad[fmt.Sprintf("%s%05d", prefix, k)] = true
						}
					}
				})
				wg.Go(func() {
					a, err := p.Apply(t.Context(), "t", testBatch(prefix, size))
					if err != nil {
						t.Errorf("%v", err)
					}
					got := refusedRows(a)
					for _, r := range got {
						if !slices.Contains(want, r) && trouble == 0 {
							t.Errorf("row %d is refused, and would be taken", r)
						}
					}
					c.mu.Lock()
					defer c.mu.Unlock()
					for k := range size {
						key := fmt.Sprintf("%s%05d", prefix, k)
						if !slices.Contains(got, k) && c.took[key] == 0 {
							t.Errorf("%s is neither there nor refused", key)
						}
						if slices.Contains(got, k) && !c.bad[key] {
							t.Errorf("%s is refused, and would be taken", key)
						}
					}
				})
			}
			wg.Wait()
			calls := 0
			for _, g := range c.gates {
				calls += g.calls
			}
			if pc.waits < calls {
				t.Errorf("%d calls, %d paced", calls, pc.waits)
			}
		})
		if t.Failed() {
			rt.Fatalf("seed %d", seed)
		}
	})
}
