package hbase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"drover/hbase/thrift2"
)

// cluster is a fake HBase behind fake gateways, in the time of a synctest bubble.
type cluster struct {
	mu       sync.Mutex
	rng      *rand.Rand
	took     map[string]int  // key to how often it was accepted
	deleted  map[string]int  // the same for deletes
	bad      map[string]bool // keys that are never taken
	partial  bool            // a refused call writes its good rows, as HBase does
	noReads  bool
	fault    string // a table fault, "" when there is none
	rowFault bool   // every row gets a never error
	latency  time.Duration
	perRow   time.Duration
	noise    bool
	waited   time.Duration // what calls took in all
	maxRows  int           // more are too many; 0 is any
	gates    map[string]*fakeGateway

	sent int // rows
	// script, when set, decides a put's fate before all else; n counts the calls to that gateway from 0.
	script     func(addr string, n int) (err error, applied bool)
	record     func(l *fakeLink, b *Batch, lo, hi int, err error)
	off        bool   // the table is disabled: calls hang,
	offAnswers bool   // or are answered that no server serves the region
	mostRows   int    // in a page that comes in time; 0 is any
	stuck      string // calls whose first key begins so hang; "" is none
	stuckCalls int
}

type fakeGateway struct {
	dead, hang bool
	slow       time.Duration // times this many; 0 is 1
	delay      time.Duration // on top of that
	rate       int           // rows a second, one call after another; 0 is any number
	free       time.Time     // when it has worked off what it was given
	calls      int
	dials      int
	open       int
	max        int // most calls at once
	now        int
	times      []time.Time // of dials and calls
	noThreads  bool        // connections opened from now on are never answered
	stall      bool        // puts hang, reads do not
}

func newCluster(seed uint64, addrs ...string) *cluster {
	c := &cluster{
		rng: rand.New(rand.NewPCG(seed, 1)), took: map[string]int{}, deleted: map[string]int{}, bad: map[string]bool{}, partial: true,
		latency: 50 * time.Millisecond, perRow: time.Millisecond, gates: map[string]*fakeGateway{},
	}
	for _, a := range addrs {
		c.gates[a] = &fakeGateway{}
	}
	return c
}

func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *cluster) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

func fail(kind Kind, text string) error { return &Error{Kind: kind, Err: errors.New(text)} }

func (c *cluster) dial(ctx context.Context, addr string) (link, error) {
	c.mu.Lock()
	g := c.gates[addr]
	if g == nil {
		g = &fakeGateway{dead: true}
		c.gates[addr] = g
	}
	g.dials++
	dead := g.dead
	if dead {
		g.times = append(g.times, time.Now())
	} else {
		g.open++
	}
	c.mu.Unlock()
	if dead {
		return nil, fail(Elsewhere, "connection refused")
	}
	l := &fakeLink{c: c, addr: addr, g: g, used: time.Now()}
	c.set(func() { l.mute = g.noThreads })
	return l, nil
}

type fakeLink struct {
	c      *cluster
	addr   string
	g      *fakeGateway
	used   time.Time
	broken bool
	closed bool
	mute   bool // no thread answers it
}

func (l *fakeLink) Reusable() bool      { return !l.broken }
func (l *fakeLink) LastUsed() time.Time { return l.used }
func (l *fakeLink) Close() error {
	l.c.set(func() {
		if l.closed {
			panic("closed twice")
		}
		l.closed = true
		l.g.open--
	})
	return nil
}

func (l *fakeLink) broke(err error) error {
	l.broken = true
	return err
}

// wait lets a call take its time; an error is the call's end.
func (l *fakeLink) wait(ctx context.Context, rows int) (n int, err error) {
	c := l.c
	c.mu.Lock()
	if time.Since(l.used) > time.Minute {
		c.mu.Unlock()
		return 0, l.broke(fail(Elsewhere, "EOF"))
	}
	g := l.g
	n = g.calls
	g.calls++
	g.now++
	g.max = max(g.max, g.now)
	g.times = append(g.times, time.Now())
	d := (c.latency+time.Duration(rows)*c.perRow)*max(g.slow, 1) + g.delay
	if c.noise {
		d = time.Duration(float64(d) * math.Exp(c.rng.NormFloat64()/2))
		if c.rng.IntN(50) == 0 {
			d *= 10
		}
	}
	if c.off && c.offAnswers { // a gateway tries by itself first
		d += 1500 * time.Millisecond
	}
	c.waited += d
	if g.rate > 0 {
		now := time.Now()
		if g.free.Before(now) {
			g.free = now
		}
		g.free = g.free.Add(time.Duration(rows) * time.Second / time.Duration(g.rate) * max(g.slow, 1))
		d += g.free.Sub(now)
	}
	c.mu.Unlock()
	defer c.set(func() { g.now-- })
	for {
		timer := time.NewTimer(d)
		select {
		case <-ctx.Done():
			timer.Stop()
			return n, l.broke(fail(Elsewhere, ctx.Err().Error()))
		case <-timer.C:
		}
		var hang, dead bool
		c.set(func() { hang, dead = g.hang || c.off && !c.offAnswers || l.mute || g.stall && rows > 0, g.dead })
		if dead {
			return n, l.broke(fail(Elsewhere, "connection reset"))
		}
		if !hang {
			l.used = time.Now()
			return n, nil
		}
		d = 50 * time.Millisecond
	}
}

func (l *fakeLink) PutMultiple(ctx context.Context, table string, b *Batch, lo, hi int) (err error) {
	defer func() {
		if l.c.record != nil {
			l.c.set(func() { l.c.record(l, b, lo, hi, err) })
		}
	}()
	c := l.c
	held := func() (on bool) {
		c.set(func() { on = c.stuck != "" && strings.HasPrefix(string(b.Key(lo)), c.stuck) })
		return on
	}
	if held() {
		c.set(func() { c.stuckCalls++ })
	}
	for held() {
		select {
		case <-ctx.Done():
			return l.broke(fail(Elsewhere, ctx.Err().Error()))
		case <-time.After(tick):
		}
	}
	n, err := l.wait(ctx, hi-lo)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += hi - lo
	take := func() error {
		if c.fault != "" && table == "t" {
			return fail(Table, c.fault)
		}
		if c.off {
			return fail(Again, "NotServingRegionException")
		}
		if c.rowFault {
			return fail(Never, "Internal error processing putMultiple")
		}
		if c.maxRows > 0 && hi-lo > c.maxRows {
			return fail(Smaller, "RequestTooBigException")
		}
		var bad []string
		for i := lo; i < hi; i++ {
			if c.bad[string(b.Key(i))] && b.rows[i].puts > 0 {
				bad = append(bad, string(b.Key(i)))
			}
		}
		if len(bad) > 0 && !c.partial {
			return fail(Never, "FailedSanityCheckException: at "+time.Now().String())
		}
		for i := lo; i < hi; i++ {
			if k := string(b.Key(i)); !c.bad[k] && b.rows[i].puts > 0 {
				c.took[k]++
			}
		}
		if len(bad) > 0 {
			return fail(Never, "FailedSanityCheckException: "+bad[0])
		}
		return nil
	}
	if c.script != nil {
		err, applied := c.script(l.addr, n)
		if k, _ := Classify(err); k == Smaller && hi-lo == 1 {
			err = nil
		}
		if err != nil {
			if applied {
				_ = take()
			}
			if k, _ := Classify(err); k == Elsewhere {
				l.broken = true
			}
			return err
		}
	}
	return take()
}

func (l *fakeLink) DeleteMultiple(ctx context.Context, table string, b *Batch, lo, hi int) error {
	if _, err := l.wait(ctx, hi-lo); err != nil {
		return err
	}
	l.c.set(func() {
		for i := lo; i < hi; i++ {
			k := string(b.Key(i))
			if b.rows[i].dels == 0 {
				continue
			}
			if b.RowCells(i) > 1 && l.c.took[k] == 0 {
				panic("deleted before it was put")
			}
			l.c.deleted[k]++
		}
	})
	return nil
}

func (l *fakeLink) Exists(ctx context.Context, table string, b *Batch, rows []int) ([]bool, error) {
	if _, err := l.wait(ctx, len(rows)); err != nil {
		return nil, err
	}
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noReads {
		return nil, fail(Never, "AnException")
	}
	found := make([]bool, len(rows))
	for k, i := range rows {
		found[k] = c.took[string(b.Key(i))] > 0
	}
	return found, nil
}

func (l *fakeLink) Call(ctx context.Context, f func(context.Context, *thrift2.THBaseServiceClient) error) error {
	if _, err := l.wait(ctx, 0); err != nil {
		return err
	}
	return f(ctx, nil)
}

// Disabled costs the table nothing, so it is not among the calls that are counted.
func (l *fakeLink) Disabled(ctx context.Context, _ string) (off bool, err error) {
	l.c.set(func() { off = l.c.off })
	return off, ctx.Err()
}

// ScanPage gives rows 00000 to 09999, as far as the scan wants them.
func (l *fakeLink) ScanPage(ctx context.Context, _ string, s *Scan, n int, page *Page) error {
	page.Reset()
	if _, err := l.wait(ctx, 0); err != nil {
		return err
	}
	c := l.c
	if n > c.mostRows && c.mostRows > 0 { // more would take too long
		<-ctx.Done()
		return l.broke(fail(Elsewhere, ctx.Err().Error()))
	}
	if c.script != nil {
		if err, _ := c.script(l.addr, n); err != nil {
			return err
		}
	}
	for i := range 10_000 {
		if k := fmt.Appendf(nil, "%05d", i); string(k) >= string(s.Start) && len(page.Rows) < n {
			page.Append(Row{Key: k, Cells: []Cell{{Op: Put, Family: []byte("d"), Qualifier: []byte("q"), Timestamp: 1, Value: k}}})
		}
	}
	return nil
}

// Alive is answered by the gateway itself, whatever the cluster does, and costs no table anything.
func (l *fakeLink) Alive(ctx context.Context) (bool, error) {
	for {
		var hang, dead bool
		l.c.set(func() { hang, dead = l.g.hang || l.mute, l.g.dead })
		switch {
		case dead:
			return false, l.broke(fail(Elsewhere, "connection reset"))
		case !hang:
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, l.broke(fail(Elsewhere, ctx.Err().Error()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *fakeLink) Reach(ctx context.Context) error {
	l.c.set(func() { l.g.times = append(l.g.times, time.Now()) })
	return ctx.Err()
}

// pacer counts what it lets pass.
type pacer struct {
	mu          sync.Mutex
	waits, rows int
	seen        map[Kind]int
	delay       time.Duration
}

func (p *pacer) Wait(ctx context.Context, _ string, rows, bytes int) error {
	p.mu.Lock()
	p.waits++
	p.rows += rows
	d := p.delay
	p.mu.Unlock()
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *pacer) Observe(_ string, k Kind, _ time.Duration) {
	p.mu.Lock()
	if p.seen == nil {
		p.seen = map[Kind]int{}
	}
	p.seen[k]++
	p.mu.Unlock()
}

func testBatch(prefix string, n int) *Batch {
	b := new(Batch)
	b.durability = SyncWAL
	for i := range n {
		b.Begin(fmt.Appendf(nil, "%s%05d", prefix, i))
		b.Cell(Put, []byte("d"), []byte("q"), 1, []byte("v"))
		b.End()
	}
	return b
}

// bubble runs f in a bubble with a pool over the cluster, and closes the pool.
func bubble(t *testing.T, addrs []string, o PoolOptions, f func(t *testing.T, c *cluster, p *Pool)) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(seed, addrs...)
		p := newPool(o, c.dial)
		p.random = func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.rng.Float64()
		}
		p.start()
		update(p, addrs...)
		f(t, c, p)
		p.Close()
		for addr, g := range c.gates {
			if g.open != 0 {
				t.Errorf("%s: %d connections left open", addr, g.open)
			}
		}
	})
}

func update(p *Pool, addrs ...string) {
	var eps []Endpoint
	for _, a := range addrs {
		eps = append(eps, Endpoint{a})
	}
	p.Update(eps)
}

func mustApply(t *testing.T, p *Pool, b *Batch) Applied {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour) // of a bubble's time
	defer cancel()
	a, err := p.Apply(ctx, "t", b)
	if err != nil {
		t.Errorf("Apply: %v, %+v", err, a)
	}
	return a
}

// load applies batches one after another in n goroutines for d, and gives the rows accepted and the longest Apply.
func load(t *testing.T, p *Pool, n int, d time.Duration) (rows int, longest time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for w := range n {
		wg.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				start := time.Now()
				b := testBatch(fmt.Sprintf("w%d-%d-%d-", w, start.UnixNano(), i), 5)
				if _, err := p.Apply(t.Context(), "t", b); err != nil {
					t.Errorf("Apply: %v", err)
					return
				}
				mu.Lock()
				rows += b.Rows()
				longest = max(longest, time.Since(start))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return rows, longest
}

func (c *cluster) check(t *testing.T, rows int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.took) != rows {
		t.Errorf("%d rows are there, want %d", len(c.took), rows)
	}
}

var three = []string{"a:1", "b:1", "c:1"}

func TestApplyUsesAllGateways(t *testing.T) {
	pc := &pacer{}
	bubble(t, three, PoolOptions{Pacer: pc}, func(t *testing.T, c *cluster, p *Pool) {
		rows, _ := load(t, p, 24, 5*time.Second)
		c.check(t, rows)
		least, most := rows, 0
		for addr, g := range c.gates {
			least, most = min(least, g.calls), max(most, g.calls)
			if g.max > defaultConnections {
				t.Errorf("%s had %d calls at once", addr, g.max)
			}
			if g.dials > defaultConnections {
				t.Errorf("%s was dialled %d times", addr, g.dials)
			}
		}
		if least*2 < most {
			t.Errorf("calls are spread unevenly: %d to %d", least, most)
		}
		if pc.rows != rows || pc.seen[0] != pc.waits {
			t.Errorf("paced %d rows of %d, observed %v of %d", pc.rows, rows, pc.seen, pc.waits)
		}
		var acked int64
		for _, g := range p.Stats().Gateways {
			acked += g.Rows
			if g.State != "healthy" || g.Latency == 0 {
				t.Errorf("stats: %+v", g)
			}
		}
		if acked != int64(rows) {
			t.Errorf("stats say %d rows, want %d", acked, rows)
		}
	})
}

func TestDeadGatewayStopsCosting(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		before, _ := load(t, p, 16, 2*time.Second)
		c.set(func() { c.gates["b:1"].dead = true })
		_, longest := load(t, p, 16, time.Second)
		if longest > time.Second {
			t.Errorf("a batch took %v beside a dead gateway", longest)
		}
		g := c.gates["b:1"]
		calls := len(g.times)
		after, _ := load(t, p, 16, 20*time.Second)
		if n := len(g.times) - calls; n == 0 || n > 20 {
			t.Errorf("a dead gateway was tried %d times in 20 s", n)
		}
		if after/20 < before/2*2/3*9/10 {
			t.Errorf("%d rows/s beside a dead gateway, %d before", after/20, before/2)
		}
		if s := p.Stats().Gateways[1]; s.State != "dead" || s.Last == "" || s.Errors[Elsewhere] == 0 {
			t.Errorf("stats: %+v", s)
		}
		c.set(func() { g.dead = false })
		load(t, p, 16, 15*time.Second)
		if s := p.Stats().Gateways[1]; s.State != "healthy" {
			t.Errorf("after its return: %+v", s)
		}
	})
}

func TestHangingGatewayIsLeft(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		before, _ := load(t, p, 16, 2*time.Second)
		g := c.gates["b:1"]
		c.set(func() { g.hang = true })
		_, longest := load(t, p, 16, 5*time.Second)
		if longest > 5*time.Second {
			t.Errorf("a batch took %v beside a hanging gateway", longest)
		}
		if longest < 3*time.Second {
			t.Errorf("the longest batch took %v: the hang did not happen", longest)
		}
		after, longest := load(t, p, 16, 20*time.Second)
		if longest > time.Second {
			t.Errorf("a batch took %v while the hanging gateway was known", longest)
		}
		if after/20 < before/2*2/3*9/10 {
			t.Errorf("%d rows/s beside a hanging gateway, %d before", after/20, before/2)
		}
		if s := p.Stats().Gateways[1]; s.State != "silent" {
			t.Errorf("stats: %+v", s)
		}
		c.set(func() { g.hang = false })
		load(t, p, 16, 20*time.Second)
		if s := p.Stats().Gateways[1]; s.State != "healthy" {
			t.Errorf("after its return: %+v", s)
		}
	})
}

// A write-ahead log that stalls stops no scan: reads and writes are judged apart.
func TestStalledWritesStopNoReads(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		load(t, p, 8, time.Second)
		c.set(func() {
			for _, g := range c.gates {
				g.stall = true
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() { p.Apply(ctx, "t", testBatch(fmt.Sprint("x", i), 10)) })
		}
		time.Sleep(20 * time.Second)
		for _, g := range p.Stats().Gateways {
			if g.Reads.State != "healthy" {
				t.Errorf("stats: %+v", g)
			}
		}
		for range 100 {
			start := time.Now()
			err := p.call(t.Context(), "read", func(ctx context.Context, l link) error {
				return l.Call(ctx, func(context.Context, *thrift2.THBaseServiceClient) error { return nil })
			})
			if took := time.Since(start); err != nil || took > time.Second {
				t.Fatalf("a read ended after %v: %v", took, err)
			}
		}
		cancel()
		wg.Wait()
	})
}

// Pages move between gateways, come again when one breaks, and get smaller when they take too long. Every attempt is paced.
func TestScanPages(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.set(func() { c.mostRows = 300 })
		calls, paced, faults := 0, 0, 0
		c.script = func(string, int) (error, bool) {
			if calls++; calls%5 == 0 {
				faults++
				return fail([]Kind{Elsewhere, Again}[calls%2], "NotServingRegionException"), false
			}
			return nil, false
		}
		scan := Scan{Again: func(context.Context) error { paced++; return nil }}
		var page Page
		next, n := 0, 1000
		for {
			if err := p.ScanPage(t.Context(), "s", &scan, n, &page); err != nil {
				t.Fatal(err)
			}
			if len(page.Rows) == 0 {
				break
			}
			for _, r := range page.Rows {
				if want := fmt.Sprintf("%05d", next); string(r.Key()) != want {
					t.Fatalf("row %s, want %s", r.Key(), want)
				}
				next++
			}
			scan.Start = append(bytes.Clone(page.Rows[len(page.Rows)-1].Key()), 0)
			n = 250
		}
		if next != 10_000 || faults == 0 || paced <= faults {
			t.Errorf("%d rows, %d faults, %d repetitions paced", next, faults, paced)
		}
		for _, g := range p.Stats().Gateways {
			if g.Reads.Rows == 0 || g.Attempts != 0 {
				t.Errorf("stats: %+v", g)
			}
		}
	})
}

// A region that is stuck keeps its calls waiting through every gateway. What else a gateway answers meanwhile shows that it is
// not at fault.
func TestStuckRegionBlamesNoGateway(t *testing.T) {
	var log bytes.Buffer // a handler writes to it one after the other
	o := PoolOptions{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	bubble(t, three, o, func(t *testing.T, c *cluster, p *Pool) {
		clean, _ := load(t, p, 4*p.Connections(), time.Minute)
		c.set(func() { c.stuck = "stuck" })
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { mustApply(t, p, testBatch(fmt.Sprintf("stuck%d-", i), 5)) })
		}
		rows, _ := load(t, p, 4*p.Connections(), time.Minute)
		if n := strings.Count(log.String(), "set aside"); n > 6 {
			t.Errorf("gateways were set aside %d times:\n%s", n, log.String())
		}
		if share := float64(rows) / float64(clean); share < 0.8 {
			t.Errorf("rows of other regions go at %.2f of their rate", share)
		} else {
			t.Logf("rows of other regions go at %.2f of their rate", share)
		}
		c.set(func() { c.stuck = "" })
		if c.stuckCalls < 8 {
			t.Errorf("calls to the stuck region were made only %d times", c.stuckCalls)
		}
		wg.Wait()
	})
}

// A region server that hangs takes up the calls of every gateway. Whoever says which server its rows are for has none set aside for
// it; a gateway that hangs meanwhile is.
func TestHangingRegionServerBlamesNoGateway(t *testing.T) {
	var log bytes.Buffer
	o := PoolOptions{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	bubble(t, three, o, func(t *testing.T, c *cluster, p *Pool) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, server := range []string{"stuck", "x", "y"} {
			for i := range 2 * p.Connections() {
				wg.Go(func() {
					for ctx.Err() == nil {
						if _, err := p.Apply(ForServer(t.Context(), server), "t", testBatch(fmt.Sprintf("%s%d-", server, i), 50)); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		time.Sleep(20 * time.Second)
		c.set(func() { c.stuck = "stuck" })
		time.Sleep(30 * time.Second)
		if strings.Contains(log.String(), "set aside") {
			t.Errorf("for a region server's fault:\n%s", log.String())
		}
		g := c.gates["b:1"]
		c.set(func() { g.hang = true })
		time.Sleep(10 * time.Second)
		if s := p.Stats().Gateways[1]; s.State == "healthy" {
			t.Errorf("it hangs, and is %+v", s)
		}
		for _, i := range []int{0, 2} {
			if s := p.Stats().Gateways[i]; s.Last != "" {
				t.Errorf("it does not hang, and is %+v", s)
			}
		}
		c.set(func() { g.hang, c.stuck = false, "" })
		cancel()
		wg.Wait()
	})
}

// A gateway whose threads others have taken answers no new connection, and goes on serving those that it has.
func TestGatewayWithoutThreadsKeepsItsConnections(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		load(t, p, 4, 2*time.Second) // some connections to each
		g := c.gates["b:1"]
		c.set(func() { g.noThreads = true })
		load(t, p, 24, 10*time.Second)
		before := g.calls
		_, longest := load(t, p, 24, 10*time.Second)
		if longest > 7*time.Second { // twice on a connection that is not answered
			t.Errorf("a batch took %v", longest)
		}
		if n := g.calls - before; n < 40 {
			t.Errorf("it got %d calls in 10 s", n)
		}
		if s := p.Stats().Gateways[1]; !s.Full {
			t.Errorf("stats: %+v", s)
		}
		c.set(func() { g.noThreads = false })
		for i := 0; p.Stats().Gateways[1].Full; i++ {
			if i == 10 {
				t.Fatalf("long after threads were free again: %+v", p.Stats().Gateways[1])
			}
			load(t, p, 24, 15*time.Second)
		}
	})
}

// A gateway that comes back beside others gets its connections one by one.
func TestReturningGatewayStartsSlowly(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		load(t, p, 24, 2*time.Second)
		g := c.gates["b:1"]
		c.set(func() { g.dead = true })
		load(t, p, 24, 5*time.Second)
		c.set(func() { g.dead, g.max = false, 0 })
		for p.Stats().Gateways[1].State != "healthy" {
			load(t, p, 24, 100*time.Millisecond)
		}
		load(t, p, 24, 5*time.Second)
		if g.max > 3 {
			t.Errorf("%d calls in flight 5 s after its return", g.max)
		}
		load(t, p, 24, 30*time.Second)
		if g.max < 7 {
			t.Errorf("%d calls in flight at most, 35 s after its return", g.max)
		}
	})
}

func TestSlowGatewayGetsLess(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		before, _ := load(t, p, 16, 5*time.Second)
		g := c.gates["b:1"]
		c.set(func() { g.slow = 20 })
		calls := g.calls
		after, _ := load(t, p, 16, 30*time.Second)
		if after/30 < before/5*2/3*9/10 {
			t.Errorf("%d rows/s beside a gateway 20 times slower, %d before", after/30, before/5)
		}
		others := c.gates["a:1"].calls
		if n := g.calls - calls; n == 0 || n*20 > others {
			t.Errorf("the slow gateway got %d calls, another %d", n, others)
		}
		if s := p.Stats().Gateways[1]; s.State == "dead" {
			t.Errorf("stats: %+v", s)
		}
	})
}

// A gateway that begins to answer late is found out within ten seconds. From then on only as much is tried of it as it takes to see
// that it still does, and it is found out when it no longer does. Chance decides when its calls are tried: several fleets tell.
func TestSlowGatewayIsTriedWithLittle(t *testing.T) {
	for range 10 {
		bubble(t, three, PoolOptions{Connections: 2}, func(t *testing.T, c *cluster, p *Pool) {
			c.latency, c.perRow = 200*time.Millisecond, 0
			for _, g := range c.gates {
				g.rate = 3000
			}
			b := c.gates["b:1"]
			rows := func() (all, slow float64) {
				for _, g := range p.Stats().Gateways {
					all += float64(g.Rows)
				}
				return all, float64(p.Stats().Gateways[1].Rows)
			}
			share := func(d time.Duration) float64 {
				all, slow := rows()
				inOrder(t, p, 8, 1000, d)
				allThen, slowThen := rows()
				return (slowThen - slow) / (allThen - all)
			}
			share(20 * time.Second)
			c.set(func() { b.delay = 2 * time.Second })
			var all, slow float64
			calls := 0
			time.AfterFunc(10*time.Second, func() { // without a break: calls are under way
				all, slow = rows()
				c.set(func() { calls = b.calls })
			})
			share(time.Minute)
			allThen, slowThen := rows()
			if part := (slowThen - slow) / (allThen - all); part > 0.005 || b.calls == calls {
				t.Errorf("it got %.2f %% of the rows with %d calls", 100*part, b.calls-calls)
			}
			c.set(func() { b.delay = 0 })
			for waited := time.Duration(0); ; waited += 5 * time.Second {
				if share(5*time.Second) > 1.0/6 {
					t.Logf("%.2f %% of the rows; its share is back after %v", 100*(slowThen-slow)/(allThen-all), waited)
					break
				}
				if waited > time.Minute {
					t.Fatal("its share is not back after a minute")
				}
			}
		})
	}
}

// Calls that take very different times are no reason to leave a gateway idle. Now and then chance sets one back for some
// seconds, so what counts is the mean of several minutes with a fleet of its own each.
func TestNoiseLeavesNoGatewayIdle(t *testing.T) {
	const fleets, workers, d = 20, 24, 60 * time.Second
	sum := 0.0
	for range fleets {
		bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
			c.noise = true
			load(t, p, workers, d)
			busy := c.waited.Seconds() / (workers * d.Seconds())
			t.Logf("calls fill %.2f of the connections", busy)
			sum += busy
		})
	}
	if mean := sum / fleets; mean < 0.93 {
		t.Errorf("calls fill %.2f of the connections", mean)
	}
}

// Gateways that take 3000 rows a second each, and a shard that may be only so many batches ahead of its oldest.
func TestThrottledGateways(t *testing.T) {
	for name, harm := range map[string]func(g *fakeGateway){
		"none":  func(*fakeGateway) {},
		"dead":  func(g *fakeGateway) { g.dead = true },
		"hangs": func(g *fakeGateway) { g.hang = true },
		"slow":  func(g *fakeGateway) { g.slow = 20 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
				c.perRow = 0
				for _, g := range c.gates {
					g.rate = 3000
				}
				window := 3*p.Connections() + 2
				inOrder(t, p, window, 500, 20*time.Second)
				c.set(func() { harm(c.gates["b:1"]) })
				rows := inOrder(t, p, window, 500, 90*time.Second)
				rate := float64(rows) / 90
				t.Logf("%.0f rows/s", rate)
				if least := 0.9 * 6000; rate < least || name == "none" && rate < 0.95*9000 {
					t.Errorf("%.0f rows/s", rate)
				}
			})
		})
	}
}

// A gateway that returns has few calls under way, and answers them sooner than the full ones do. That is no reason to leave
// those idle.
func TestReturningGatewayLeavesNoneIdle(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.perRow = 0
		for _, g := range c.gates {
			g.rate = 3000
		}
		var wg sync.WaitGroup
		wg.Go(func() { inOrder(t, p, 3*p.Connections()+2, 1000, 90*time.Second) })
		time.Sleep(20 * time.Second)
		g := c.gates["b:1"]
		c.set(func() { g.dead = true })
		time.Sleep(10 * time.Second)
		c.set(func() { g.dead = false })
		for p.Stats().Gateways[1].State != "healthy" {
			time.Sleep(tick)
		}
		const d = 5 * time.Second
		for range 4 {
			var began, ended int
			c.set(func() { began = c.gates["a:1"].calls + c.gates["c:1"].calls })
			time.Sleep(d)
			c.set(func() { ended = c.gates["a:1"].calls + c.gates["c:1"].calls })
			if rows, least := float64(ended-began)*1000/d.Seconds(), 0.9*6000; rows < least {
				t.Errorf("the two that were never away take %.0f rows/s after the third's return, want at least %.0f", rows, least)
			}
		}
		wg.Wait()
	})
}

// inOrder applies batches of size rows for d, at most window of them ahead of the oldest that is not settled, as a shard
// does, and gives the rows settled.
func inOrder(t *testing.T, p *Pool, window, size int, d time.Duration) int {
	t.Helper()
	b := testBatch("x", size)
	end := time.Now().Add(d)
	var flights []chan error
	rows := 0
	for {
		for len(flights) < window && time.Now().Before(end) {
			done := make(chan error, 1)
			flights = append(flights, done)
			go func() { _, err := p.Apply(t.Context(), "t", b); done <- err }()
		}
		if len(flights) == 0 {
			return rows
		}
		if err := <-flights[0]; err != nil {
			t.Error(err)
		}
		if time.Now().Before(end) {
			rows += size
		}
		flights = flights[1:]
	}
}

func TestSlowClusterIsNotStormed(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		load(t, p, 6, 2*time.Second)
		c.set(func() { c.latency = 20 * time.Second }) // a thousand times slower than known
		sent := c.count()
		rows, _ := load(t, p, 6, 60*time.Second)
		if n := c.count() - sent; n > rows*3 {
			t.Errorf("%d rows sent for %d", n, rows)
		}
		calls := 0
		for _, g := range c.gates {
			calls += g.calls
		}
		t.Logf("%d calls in all", calls)
	})
}

func TestAmbiguousAnswersAreSentElsewhere(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		faults := 0
		c.script = func(addr string, n int) (error, bool) {
			if n%5 == 4 {
				faults++
				return fail(Elsewhere, "not the reply that was asked for"), n%2 == 0
			}
			return nil, false
		}
		rows, _ := load(t, p, 8, 10*time.Second)
		c.check(t, rows)
		if faults < 10 {
			t.Errorf("%d faults", faults)
		}
	})
}

func TestOutageIsProbedCalmlyAndEnds(t *testing.T) {
	var mu sync.Mutex
	var told []string
	o := PoolOptions{Paused: func(table, reason string) {
		mu.Lock()
		told = append(told, table+"|"+reason)
		mu.Unlock()
	}}
	for _, known := range []bool{true, false} {
		told = nil
		bubble(t, three, o, func(t *testing.T, c *cluster, p *Pool) {
			rows := 0
			if known {
				rows, _ = load(t, p, 12, time.Second)
			}
			c.set(func() {
				for _, g := range c.gates {
					g.dead, g.times = true, nil
				}
			})
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() { mustApply(t, p, testBatch(fmt.Sprint("x", i), 10)) })
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			for addr, g := range c.gates {
				for _, from := range g.times {
					n := 0
					for _, at := range g.times {
						if d := at.Sub(from); d >= 0 && d < 10*time.Second && from.After(g.times[0].Add(time.Second)) {
							n++
						}
					}
					if n > 20 {
						t.Errorf("%s: %d calls within 10 s of an outage", addr, n)
						break
					}
				}
				if n := len(g.times); n < 20 || n > 200 {
					t.Errorf("%s: %d calls in 5 min", addr, n)
				}
			}
			start := time.Now()
			c.set(func() {
				for _, g := range c.gates {
					g.dead = false
				}
			})
			wg.Wait()
			if d := time.Since(start); d > 13*time.Second {
				t.Errorf("went on %v after the gateways were back", d)
			}
			c.check(t, rows+120)
			mu.Lock()
			defer mu.Unlock()
			if len(told) != 2 || !strings.Contains(told[0], "|no gateway answers: a:1: connection") || told[1] != "|" {
				t.Errorf("told %q", told)
			}
		})
	}
}

func TestOutageLimit(t *testing.T) {
	bubble(t, three, PoolOptions{OutageLimit: time.Minute}, func(t *testing.T, c *cluster, p *Pool) {
		load(t, p, 4, time.Second)
		time.Sleep(time.Hour) // idle time is no outage
		c.set(func() {
			for _, g := range c.gates {
				g.dead = true
			}
		})
		for name, f := range map[string]func() error{
			"Apply": func() error { _, err := p.Apply(t.Context(), "t", testBatch("x", 5)); return err },
			"Call": func() error {
				return p.call(t.Context(), "look", func(ctx context.Context, l link) error { return nil })
			},
		} {
			start := time.Now()
			err := f()
			var out *OutageError
			if !errors.As(err, &out) {
				t.Fatalf("%s: %v", name, err)
			}
			if d := time.Since(start); d < time.Minute || d > 65*time.Second || len(out.Last) != 3 || !strings.Contains(err.Error(), "b:1: connection refused") {
				t.Errorf("%s after %v: %v", name, d, err)
			}
		}
		update(p)
		var out *OutageError
		if _, err := p.Apply(t.Context(), "t", testBatch("x", 5)); !errors.As(err, &out) || !strings.Contains(err.Error(), "no gateway is known") {
			t.Errorf("without gateways: %v", err)
		}
	})
	// Busy for ever is an outage too.
	bubble(t, three, PoolOptions{OutageLimit: time.Minute}, func(t *testing.T, c *cluster, p *Pool) {
		c.script = func(string, int) (error, bool) { return fail(Again, "RegionTooBusyException"), false }
		var out *OutageError
		if _, err := p.Apply(t.Context(), "t", testBatch("x", 5)); !errors.As(err, &out) {
			t.Errorf("%v", err)
		}
		if n := c.sent / 5; n < 15 || n > 60 {
			t.Errorf("%d calls in a minute of a busy cluster", n)
		}
	})
}

func TestBusyClusterNamesItsWait(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		n := 0
		c.script = func(string, int) (error, bool) {
			if n++; n <= 3 {
				return &Error{Kind: Again, Wait: 20 * time.Second, Err: errors.New("exceeded - wait 20sec, 0ms")}, false
			}
			return nil, false
		}
		start := time.Now()
		a := mustApply(t, p, testBatch("x", 10))
		if d := time.Since(start); d < time.Minute || d > 65*time.Second {
			t.Errorf("took %v for three waits of 20 s", d)
		}
		if a.Attempts != 4 || a.Resent != 30 {
			t.Errorf("%+v", a)
		}
	})
}

func TestSmaller(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.maxRows = 7
		a := mustApply(t, p, testBatch("x", 100))
		c.check(t, 100)
		if len(a.Refused) != 0 || a.Attempts != 31 {
			t.Errorf("%+v", a)
		}
	})
}

func TestTablePausesAndGoesOn(t *testing.T) {
	var mu sync.Mutex
	var told []string
	o := PoolOptions{Paused: func(table, reason string) {
		mu.Lock()
		told = append(told, table+"|"+reason)
		mu.Unlock()
	}}
	bubble(t, three, o, func(t *testing.T, c *cluster, p *Pool) {
		rows, _ := load(t, p, 8, time.Second)
		c.set(func() { c.fault = "t is disabled" })
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if a := mustApply(t, p, testBatch(fmt.Sprint("x", i, "-"), 10)); len(a.Refused) > 0 {
					t.Errorf("refused: %+v", a)
				}
			})
		}
		time.Sleep(time.Second / 2)
		synctest.Wait()
		sent := c.count()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := (c.count() - sent) / 10; n < 15 || n > 40 {
			t.Errorf("%d tries in 10 min", n)
		}
		// Another table does not wait.
		if _, err := p.Apply(t.Context(), "other", testBatch("o", 1)); err != nil {
			t.Error(err)
		}
		mu.Lock()
		if !slices.Equal(told, []string{"t|t is disabled"}) {
			t.Errorf("told %q", told)
		}
		mu.Unlock()
		c.set(func() { c.fault = "" })
		start := time.Now()
		wg.Wait()
		if d := time.Since(start); d > 40*time.Second {
			t.Errorf("went on after %v", d)
		}
		c.check(t, rows+201)
		if !slices.Equal(told, []string{"t|t is disabled", "t|"}) {
			t.Errorf("told %q", told)
		}
	})
}

// Gateways keep calls for a disabled table, until they are all set aside. The reason is told all the same, and soon: also when
// nothing was answered yet, so that calls are given long, and when they answer what they also say of a region that moves.
func TestDisabledTableIsToldThoughNoGatewaySaysSo(t *testing.T) {
	for name, c := range map[string]struct{ warm, answers bool }{
		"in mid-run":   {warm: true},
		"at the start": {},
		"not serving":  {warm: true, answers: true},
	} {
		warm, answers := c.warm, c.answers
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var told []string
			o := PoolOptions{Paused: func(table, reason string) {
				if mu.Lock(); table == "t" {
					told = append(told, reason)
				}
				mu.Unlock()
			}}
			bubble(t, three, o, func(t *testing.T, c *cluster, p *Pool) {
				rows := 0
				if warm {
					rows, _ = load(t, p, 8, time.Second)
				}
				c.set(func() { c.off, c.offAnswers = true, answers })
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() { mustApply(t, p, testBatch(fmt.Sprint("x", i, "-"), 10)) })
				}
				time.Sleep(4 * time.Second)
				mu.Lock()
				if !slices.Equal(told, []string{tableDisabled}) {
					t.Errorf("told %q", told)
				}
				mu.Unlock()
				time.Sleep(26 * time.Second)
				sent := c.count()
				time.Sleep(10 * time.Minute)
				if n := (c.count() - sent) / 10; n > 40 {
					t.Errorf("%d tries in 10 min", n)
				}
				c.set(func() { c.off = false })
				start := time.Now()
				wg.Wait()
				if d := time.Since(start); d > 45*time.Second {
					t.Errorf("went on after %v", d)
				}
				c.check(t, rows+200)
				if !slices.Equal(told, []string{tableDisabled, ""}) {
					t.Errorf("told %q", told)
				}
			})
		})
	}
}

func TestTableErrorAfterTheLimit(t *testing.T) {
	bubble(t, three, PoolOptions{OutageLimit: 10 * time.Minute}, func(t *testing.T, c *cluster, p *Pool) {
		c.fault = "AccessDeniedException: no"
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				a, err := p.Apply(t.Context(), "t", testBatch(fmt.Sprint("x", i), 10))
				var te *TableError
				if !errors.As(err, &te) || te.Table != "t" || !strings.Contains(te.Reason, "AccessDenied") || len(a.Refused) > 0 {
					t.Errorf("%+v, %v", a, err)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		if d := time.Since(start); d < 10*time.Minute || d > 11*time.Minute {
			t.Errorf("gave up after %v", d)
		}
		// Resumed: the table is still paused, and whoever comes first tries it.
		c.set(func() { c.fault = "" })
		mustApply(t, p, testBatch("y", 10))
	})
}

func TestContextEndsApply(t *testing.T) {
	stop := errors.New("stop")
	for name, arrange := range map[string]func(c *cluster){
		"hanging": func(c *cluster) {
			for _, g := range c.gates {
				g.hang = true
			}
		},
		"dead": func(c *cluster) {
			for _, g := range c.gates {
				g.dead = true
			}
		},
		"paused": func(c *cluster) { c.fault = "t is disabled" },
		"busy": func(c *cluster) {
			c.script = func(string, int) (error, bool) { return fail(Again, "busy"), false }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
				arrange(c)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(1500*time.Millisecond, func() { cancel(stop) })
				start := time.Now()
				if _, err := p.Apply(ctx, "t", testBatch("x", 5)); !errors.Is(err, stop) {
					t.Errorf("%v", err)
				}
				if d := time.Since(start); d != 1500*time.Millisecond {
					t.Errorf("ended after %v", d)
				}
				for _, s := range p.Stats().Gateways {
					if s.InFlight != 0 {
						t.Errorf("%+v", s)
					}
				}
			})
		})
	}
}

func TestCancellingBlamesNoGateway(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := p.Apply(ctx, "t", testBatch("x", 5)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		for _, s := range p.Stats().Gateways {
			if s.State != "healthy" || len(s.Errors) > 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestUpdateUnderLoad(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.set(func() { c.gates["d:1"] = &fakeGateway{} })
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 20 {
				time.Sleep(200 * time.Millisecond)
				set := []string{"a:1", "b:1", "c:1", "d:1"}
				update(p, slices.Delete(set, i%4, i%4+1)...)
			}
			update(p)
			time.Sleep(2 * time.Second)
			update(p, "d:1", "d:1")
		}()
		rows, _ := load(t, p, 16, 8*time.Second)
		<-done
		c.check(t, rows)
		if c.sent != rows {
			t.Errorf("%d rows sent for %d: draining cut calls", c.sent, rows)
		}
		if s := p.Stats(); len(s.Gateways) != 1 || c.gates["d:1"].calls == 0 || s.Out {
			t.Errorf("%+v", s)
		}
		if n := c.gates["a:1"].open; n != 0 {
			t.Errorf("%d connections to a gateway that is gone", n)
		}
	})
}

func TestCloseUnderLoad(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.gates["b:1"].hang = true
		c.gates["c:1"].dead = true
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				for k := 0; ; k++ {
					_, err := p.Apply(t.Context(), "t", testBatch(fmt.Sprint("x", i, "-", k, "-"), 5))
					if errors.Is(err, ErrClosed) {
						return
					}
					if err != nil {
						t.Errorf("%v", err)
						return
					}
				}
			})
		}
		time.Sleep(time.Second)
		start := time.Now()
		p.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("Close took %v", d)
		}
		wg.Wait()
		if len(c.took) == 0 {
			t.Error("nothing was written before")
		}
		if err := p.call(t.Context(), "look", nil); !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c := newCluster(1, three...)
	c.gates["b:1"].dead = true
	p := newPool(PoolOptions{}, c.dial)
	p.start()
	update(p, three...)
	for i := range 20 {
		mustApply(t, p, testBatch(fmt.Sprint("x", i), 5))
	}
	p.Close()
}

func TestIdleConnectionsAreRecycled(t *testing.T) {
	bubble(t, []string{"a:1"}, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		load(t, p, 8, time.Second)
		g := c.gates["a:1"]
		if g.open == 0 {
			t.Fatal("no connections")
		}
		for i := range 10 {
			time.Sleep(40 * time.Second)
			synctest.Wait()
			if g.open > 1 && i > 0 {
				t.Errorf("%d connections after idling", g.open)
			}
			if a := mustApply(t, p, testBatch(fmt.Sprint("x", i), 5)); a.Attempts != 1 {
				t.Errorf("an idle connection was used: %+v", a)
			}
		}
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if g.open != 0 {
			t.Errorf("%d connections idle for 50 s", g.open)
		}
	})
}

func TestCall(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		c.gates["a:1"].dead = true
		calls := 0
		err := p.call(t.Context(), "create table x", func(ctx context.Context, l link) error {
			if calls++; calls <= 2 {
				l.(*fakeLink).broken = true
				return fail(Elsewhere, "cut")
			}
			if calls == 3 {
				return fail(Again, "PleaseHoldException")
			}
			return nil
		})
		if err != nil || calls != 4 {
			t.Errorf("%d calls, %v", calls, err)
		}
		own := errors.New("keys do not ascend")
		for _, e := range []error{fail(Table, "TableNotFoundException"), fail(Never, "x"), own, ErrUnknownMethod} {
			calls = 0
			err := p.call(t.Context(), "look", func(context.Context, link) error { calls++; return e })
			if !errors.Is(err, e) || calls != 1 || !strings.HasPrefix(err.Error(), "look: ") {
				t.Errorf("%d calls, %v", calls, err)
			}
		}
	})
}

func TestPacerIsAskedBeforeEveryAttempt(t *testing.T) {
	pc := &pacer{delay: 10 * time.Millisecond}
	bubble(t, three, PoolOptions{Pacer: pc}, func(t *testing.T, c *cluster, p *Pool) {
		c.script = func(_ string, n int) (error, bool) {
			switch n % 4 {
			case 1:
				return fail(Again, "RegionTooBusyException"), false
			case 2:
				return fail(Elsewhere, "cut"), true
			}
			return nil, false
		}
		load(t, p, 6, 10*time.Second)
		time.Sleep(time.Minute) // a probe may be under way
		synctest.Wait()
		attempts := 0
		for _, g := range c.gates {
			attempts += g.calls
		}
		if pc.waits != attempts || pc.rows != c.sent || pc.seen[Again] == 0 || pc.seen[Elsewhere] == 0 {
			t.Errorf("%d waits for %d attempts, %d rows for %d, observed %v", pc.waits, attempts, pc.rows, c.sent, pc.seen)
		}
	})
}

func TestDeletesFollowPuts(t *testing.T) {
	bubble(t, three, PoolOptions{}, func(t *testing.T, c *cluster, p *Pool) {
		mustApply(t, p, testBatch("w", 5))
		b := new(Batch)
		for i := range 30 {
			b.Begin(fmt.Appendf(nil, "k%02d", i))
			if i%3 != 1 {
				b.Cell(Put, []byte("d"), []byte("q"), 1, nil)
			}
			if i%3 != 0 {
				b.Cell(DeleteColumn, []byte("d"), []byte("r"), 1, nil)
			}
			b.End()
		}
		c.bad["k05"] = true // a put and a delete
		a := mustApply(t, p, b)
		if len(a.Refused) != 1 || a.Refused[0].Row != 5 {
			t.Errorf("%+v", a)
		}
		if len(c.took) != 5+19 || len(c.deleted) != 19 || c.deleted["k05"] != 0 {
			t.Errorf("%d put, %d deleted", len(c.took), len(c.deleted))
		}
	})
}

// Of a big fleet a pool uses some gateways only, others than the next pool does; where one of them dies, another takes its place
// until it is back.
func TestSubset(t *testing.T) {
	var fleet []string
	for i := range 20 {
		fleet = append(fleet, fmt.Sprint("g", i))
	}
	var used []map[string]bool
	for range 2 {
		bubble(t, fleet, PoolOptions{Subset: 4}, func(t *testing.T, c *cluster, p *Pool) {
			called := func() map[string]bool {
				m := map[string]bool{}
				for addr, g := range c.gates {
					if g.calls > 0 {
						m[addr] = true
					}
					g.calls = 0
				}
				return m
			}
			load(t, p, 64, 5*time.Second)
			first := called()
			if len(first) != 4 {
				t.Fatalf("%d gateways were used, want 4: %v", len(first), first)
			}
			var dead string
			for dead = range first {
				break
			}
			c.set(func() { c.gates[dead].dead = true; c.gates[dead].hang = true })
			load(t, p, 64, 5*time.Second)
			called()
			load(t, p, 64, 5*time.Second)
			now := called()
			delete(now, dead) // its probes
			if len(now) != 4 {
				t.Errorf("%d gateways were used while one is dead, want 4: %v", len(now), now)
			}
			c.set(func() { c.gates[dead].dead = false; c.gates[dead].hang = false })
			load(t, p, 64, 20*time.Second)
			called()
			load(t, p, 64, 5*time.Second)
			if again := called(); !maps.Equal(first, again) {
				t.Errorf("used are %v after %s is back, want %v", again, dead, first)
			}
			used = append(used, first)
		})
	}
	if len(used) == 2 && maps.Equal(used[0], used[1]) {
		t.Error("two pools use the same gateways, by a chance of one in five thousand")
	}
}
