package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/e2e/wire"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
)

// whileRunning calls f now and then until the process ends, and gives its result.
func whileRunning(p *process, every time.Duration, f func()) result {
	p.t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f()
			case <-done:
				return
			}
		}
	})
	r := p.wait()
	close(done)
	wg.Wait()
	return r
}

func (f *fleet) counts() gateway.Counts {
	var sum gateway.Counts
	for _, s := range f.servers {
		c := s.Faults().Counts()
		sum.Cut += c.Cut
		sum.TooBusy += c.TooBusy
		sum.RowsRefused += c.RowsRefused
		sum.Denied += c.Denied
		sum.Hung += c.Hung
		sum.Refused += c.Refused
		sum.Throttled += c.Throttled
		sum.OverQuota += c.OverQuota
	}
	return sum
}

func (f *fleet) clear() {
	for _, s := range f.servers {
		s.Faults().Clear()
		s.Faults().Observe(func(_ string, key []byte, _ int) {
			f.mu.Lock()
			f.seen[string(key)]++
			f.mu.Unlock()
		})
	}
}

// Replies cut after the rows were applied, and regions too busy: ambiguous and passing answers by the hundred.
func TestCutRepliesAndBusyRegions(t *testing.T) {
	t.Parallel()
	r := seed(t)
	want := int64(scaled(1000, 60))
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 60_000, Seed: r.Uint64()})
	// A gateway that is cut at every call is dead for all it does, and a region that is too busy for ever takes no row: new rows
	// have to pass between two cuts, and between two flushes that all calls are too busy for. drover slows down after each, so that
	// few calls are left to meet the next: the flushes are all at a run's start.
	const between, flush, flushed = 1500, 100 * time.Millisecond, 20_000
	rounds, turn := 0, 0
	var cut, busy int64 // of the rounds before
	for ; cut < want || busy < want; rounds++ {
		if rounds == 200 {
			t.Fatalf("after %d runs only %d replies cut and %d too busy", rounds, cut, busy)
		}
		f := newFleet(t, 3)
		table, last, lastBusy := fmt.Sprintf("cut%d", rounds), 0, 0
		p := start(t, "run", job(t, table, file, table, f.addrs()), "--json")
		end := whileRunning(p, 10*time.Millisecond, func() {
			if c := f.counts(); cut+c.Cut < want && f.applied() >= last+between {
				f.servers[turn%len(f.servers)].Faults().CutReply(1, r.IntN(24))
				last = f.applied()
				turn++
			}
			if c := f.counts(); busy+c.TooBusy < want && f.applied() >= lastBusy+between && f.applied() < flushed {
				lastBusy = f.applied()
				for _, s := range f.servers {
					s.Faults().TooBusyFor(nil, nil, flush)
				}
			}
		}).must(t, 0)
		f.clear()
		end.json.close(t)
		if end.json.Dead != 0 {
			t.Errorf("%d dead letters", end.json.Dead)
		}
		f.equal(t, table, file, end.json.Timestamp, nil)
		c := f.counts()
		cut, busy = cut+c.Cut, busy+c.TooBusy
		f.close()
	}
	t.Logf("%d replies cut, %d too busy, in %d runs", cut, busy, rounds)
}

// Rows that HBase refuses become exactly that many dead letters, whatever lies around them.
func TestRefusedRows(t *testing.T) {
	t.Parallel()
	r := seed(t)
	const batch = 1000
	refused := scaled(100, 20)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: int64(scaled(1_000_000, 60_000)), Seed: r.Uint64()})
	docs := documents(t, file)
	bad := map[string]int64{}
	for len(bad) < refused {
		d := pick(r, docs)
		bad[d.key] = d.offset
	}
	f := newFleet(t, 3)
	for _, s := range f.servers {
		s.Faults().RefuseRows(func(key []byte) bool { _, ok := bad[string(key)]; return ok }, "the row does not please the constraint")
	}
	yaml := job(t, "refused", file, "refused", f.addrs(), fmt.Sprintf("dead_letters: {max: %d}", refused))
	end := drover(t, "run", yaml, "--json").must(t, 3)
	end.json.close(t)
	if end.json.Dead != int64(refused) {
		t.Errorf("%d dead letters, want %d", end.json.Dead, refused)
	}
	list := drover(t, "dead", "list", yaml, "--json").must(t, 0)
	for key, offset := range bad {
		if !strings.Contains(list.stdout, fmt.Sprintf(`"position":"%d"`, offset)) {
			t.Errorf("no letter for row %x at %d", key, offset)
		}
	}
	if n := lines(list.stdout); n != refused {
		t.Errorf("%d letters, want %d", n, refused)
	}
	again := 0
	for _, n := range f.take() {
		again += n - 1
	}
	if per := float64(again) / float64(refused); per > 2*batch {
		t.Errorf("%.0f rows put again for each dead letter, want at most %d", per, 2*batch)
	}
	t.Logf("%d refused rows among %d: %d letters, %.1f rows put again for each, %d answers refused a row", refused, len(docs), end.json.Dead,
		float64(again)/float64(refused), f.counts().RowsRefused)

	// The cause mended, replay writes them with the run's own timestamp, and the books follow.
	f.clear()
	drover(t, "dead", "replay", yaml).must(t, 0)
	drover(t, "dead", "replay", yaml).must(t, 0)
	after := drover(t, "run", yaml, "--json").must(t, 0)
	after.json.close(t)
	if after.json.Dead != 0 || after.json.Written != int64(len(docs)) || after.json.State != "done" {
		t.Errorf("after the replay: %+v", after.json)
	}
	f.equal(t, "refused", file, end.json.Timestamp, nil)
}

// Refused rows cost the others little, at one in 10,000 and the rate that a real HBase reaches where this runs, 30,000 rows/s.
// (An embedded gateway left to itself takes ten times that, with both cores busy. Then reading back which rows of a refused
// batch are there, a tenth of all rows at this count, and the proofs leave 0.5 to 0.7 of the rate.) Pairs are taken in turn;
// the share is asserted only where it is measured for docs/proof.md.
func TestRefusedRowsCostLittle(t *testing.T) {
	r := seed(t)
	refused, pairs := scaled(100, 10), scaled(5, 1)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: int64(scaled(1_000_000, 100_000)), Seed: r.Uint64()})
	docs := documents(t, file)
	bad := map[string]bool{}
	for len(bad) < refused {
		bad[pick(r, docs).key] = true
	}
	run := func(name string, match func(key []byte) bool) float64 {
		f := newFleet(t, 3)
		defer f.close()
		f.each(func(x *gateway.Faults) {
			x.Observe(nil)
			x.Throttle(10_000)
			x.RefuseRows(match, "the row does not please the constraint")
		})
		b := drover(t, "run", job(t, name, file, name, f.addrs(), "dead_letters: {max: unlimited}"), "--json").json
		b.close(t)
		if want := int64(len(bad)); match != nil && b.Dead != want {
			t.Errorf("%s: %d dead letters, want %d", name, b.Dead, want)
		}
		return float64(b.Read) / b.Seconds
	}
	var shares []float64
	for i := range pairs {
		clean := run(fmt.Sprintf("clean%d", i), nil)
		with := run(fmt.Sprintf("refused%d", i), func(key []byte) bool { return bad[string(key)] })
		shares = append(shares, with/clean)
		t.Logf("pair %d: %.0f rows/s without refused rows, %.0f with %d among %d: %.3f", i+1, clean, with, refused, len(docs), with/clean)
	}
	slices.Sort(shares)
	median := shares[len(shares)/2]
	t.Logf("median share %.3f", median)
	if proving() && median < 0.9 {
		t.Errorf("with %d refused rows the throughput is %.3f of what it is without, want at least 0.9", refused, median)
	}
}

// A grant revoked or a table disabled in mid-run pauses the run. Nothing dies, and it goes on by itself.
func TestTableFaultPauses(t *testing.T) {
	t.Parallel()
	r := seed(t)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 60_000, Seed: r.Uint64()})
	for _, c := range []struct {
		name      string
		on, off   func(t testing.TB, f *fleet, table string)
		mentioned string
	}{
		{
			"denied",
			func(_ testing.TB, f *fleet, table string) { f.each(func(x *gateway.Faults) { x.Deny(table) }) },
			func(_ testing.TB, f *fleet, table string) { f.each(func(x *gateway.Faults) { x.Allow(table) }) },
			"AccessDenied",
		},
		{
			"disabled",
			func(t testing.TB, f *fleet, table string) {
				f.admin(t, table, (*thrift2.THBaseServiceClient).DisableTable)
			},
			func(t testing.TB, f *fleet, table string) {
				f.admin(t, table, (*thrift2.THBaseServiceClient).EnableTable)
			},
			"disabled",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t, 3)
			yaml := job(t, c.name, file, c.name, f.addrs(), "limits: {rows: 20000}")
			p := start(t, "run", yaml, "--json")
			var once sync.Once
			began := time.Now()
			var faultAt time.Time
			end := whileRunning(p, 50*time.Millisecond, func() {
				switch {
				case faultAt.IsZero() && f.applied() > 5000:
					c.on(t, f, c.name)
					faultAt = time.Now()
				case !faultAt.IsZero() && time.Since(faultAt) > 2*time.Second:
					once.Do(func() { c.off(t, f, c.name) })
				}
			}).must(t, 0)
			if faultAt.IsZero() {
				t.Fatal("the fault did not happen")
			}
			end.json.close(t)
			if end.json.Dead != 0 || end.json.Written != 60_000 {
				t.Errorf("dead %d, written %d", end.json.Dead, end.json.Written)
			}
			if !strings.Contains(strings.ToLower(end.stderr), strings.ToLower(c.mentioned)) {
				t.Errorf("the reason is not shown, want %q:\n%s", c.mentioned, end.stderr)
			}
			f.equal(t, c.name, file, end.json.Timestamp, nil)
			t.Logf("fault after %v, ended after %v", faultAt.Sub(began).Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		})
	}
}

func (f *fleet) each(do func(*gateway.Faults)) {
	for _, s := range f.servers {
		do(s.Faults())
	}
}

// applied is how many different rows the gateways saw.
func (f *fleet) applied() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

func (f *fleet) admin(t testing.TB, table string, call func(*thrift2.THBaseServiceClient, context.Context, *thrift2.TTableName) error) {
	err := wire.Call(context.Background(), f.servers[0].Addr(), wire.Protocol{}, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return call(c, ctx, &thrift2.TTableName{Qualifier: []byte(table)})
	})
	if err != nil {
		t.Errorf("admin call on %s: %v", table, err)
	}
}

// One gateway of three dies, hangs or gets slow. Rates are asserted only where they are measured for docs/proof.md.
func TestOneGatewayOfThree(t *testing.T) {
	r := seed(t)
	const rate = 3000
	seconds := scaled(20, 4)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: int64(3 * rate * seconds), Seed: r.Uint64()})
	run := func(name string, fault func(r *rand.Rand, s *gateway.Server)) (perSecond float64) {
		f := newFleet(t, 3)
		f.each(func(x *gateway.Faults) { x.Throttle(rate) })
		p := start(t, "run", job(t, name, file, name, f.addrs()), "--json")
		began := time.Now()
		struck := false
		end := whileRunning(p, 20*time.Millisecond, func() {
			if !struck && f.applied() > rate/2 {
				struck = true
				fault(r, pick(r, f.servers[1:]))
			}
		}).must(t, 0)
		perSecond = float64(end.json.Rows) / time.Since(began).Seconds()
		if !struck {
			t.Errorf("%s: the fault did not happen", name)
		}
		if end.json.Dead != 0 {
			t.Errorf("%s: %d dead letters", name, end.json.Dead)
		}
		end.json.close(t)
		for _, s := range f.servers {
			s.Faults().Hang(false)
		}
		f.equal(t, name, file, end.json.Timestamp, nil)
		return perSecond
	}
	clean := run("clean", func(*rand.Rand, *gateway.Server) {})
	for _, c := range []struct {
		name  string
		fault func(r *rand.Rand, s *gateway.Server)
	}{
		{"killed", func(_ *rand.Rand, s *gateway.Server) { s.Faults().Die() }},
		{"stopped", func(_ *rand.Rand, s *gateway.Server) { s.Faults().Hang(true) }},
		{"slow", func(_ *rand.Rand, s *gateway.Server) { s.Faults().Throttle(rate / 20) }},
	} {
		got := run(c.name, c.fault)
		t.Logf("one of three %-8s %6.0f rows/s, %.2f of two thirds of the %.0f without a fault", c.name, got, got/(clean*2/3), clean)
		if proving() && got < 0.9*clean*2/3 {
			t.Errorf("%s: %.0f rows/s, want at least %.0f", c.name, got, 0.9*clean*2/3)
		}
	}
}
