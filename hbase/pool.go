package hbase

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"golang.org/x/sync/singleflight"

	"drover/hbase/thrift2"
)

// Endpoint says where a gateway listens.
type Endpoint struct {
	Addr string // host:port, or what PoolOptions.Dial takes
}

// Pacer holds back what costs a table: puts, deletes, their repeats and halves, probes, and reads of rows that were
// refused. Its methods are called by many goroutines at once.
type Pacer interface {
	// Wait is called before every attempt, with what the attempt carries: encoded bytes, and rows, which are 0 for a
	// read. It returns when they may be sent; an error, which should be ctx's, ends the Apply.
	Wait(ctx context.Context, table string, rows, bytes int) error

	// Observe is called after every attempt that was not cut by its caller: 0 for success, else the kind of its error
	// and the wait that the server asks for.
	Observe(table string, kind Kind, wait time.Duration)
}

// PoolOptions are what a Pool needs to know; the zero value works for gateways with HBase's defaults.
type PoolOptions struct {
	Transport Transport
	Dial      DialFunc // makes the connections, those of probes too; nil is TCP
	Pacer     Pacer    // nil: no pacing

	// Connections bounds the calls in flight to each gateway. A threadpool gateway holds a thread for each connection,
	// of the 1000 that it has for all its clients. 0 is 8.
	Connections int

	// Subset is how many gateways are used at once, of those that are well, so that many processes do not all hold connections to
	// all of a big fleet. Each pool has an order of its own by chance; where one of the first fails, the next takes its place until
	// it is back. 0 is all.
	Subset int

	// OutageLimit is how long nothing may succeed before Apply and Call give up, with *OutageError or *TableError. 0 is
	// for ever.
	OutageLimit time.Duration

	Log *slog.Logger // nil: discarded

	// Paused is told when a table pauses, with the reason, and with "" when it goes on; the same for all gateways with
	// table "". It must not block, and may call Stats only. May be nil.
	Paused func(table, reason string)
}

const defaultConnections = 8

// ErrClosed is what Apply and Call return when the pool is closed meanwhile. What they had sent may or may not be
// written.
var ErrClosed = errors.New("the pool of gateways is closed")

// link is what the pool needs of a Conn. One call at a time; an error after which Reusable is false, or a context that
// ended during a call, is the end of it.
type link interface {
	PutMultiple(ctx context.Context, table string, b *Batch, lo, hi int) error
	DeleteMultiple(ctx context.Context, table string, b *Batch, lo, hi int) error
	Exists(ctx context.Context, table string, b *Batch, rows []int) ([]bool, error)
	ScanPage(ctx context.Context, table string, s *Scan, n int, page *Page) error
	Disabled(ctx context.Context, table string) (bool, error)
	Alive(ctx context.Context) (old bool, err error)
	Reach(ctx context.Context) error
	Call(ctx context.Context, f func(context.Context, *thrift2.THBaseServiceClient) error) error
	Reusable() bool
	LastUsed() time.Time
	Close() error
}

// Pool sends batches and scans through the gateways of one cluster, and alone retries. For each call it picks the gateway
// that is likely to be done with it first; one that breaks or falls silent is set aside and comes back after one call that
// works. Reads and writes are judged apart, each in a lane: a stalled write-ahead log stops no scan.
//
// A pool has one goroutine of its own, which looks after silent gateways, idle connections and waiting calls, and one
// for each probe of a gateway. Its methods may be called by many goroutines at once.
type Pool struct {
	opts        PoolOptions
	connections int
	log         *slog.Logger
	dial        func(ctx context.Context, addr string) (link, error)
	random      func() float64 // in [0, 1), for many goroutines
	order       maphash.Seed   // of gateways, for a subset

	root context.Context // ends when the pool closes
	stop context.CancelFunc
	wg   sync.WaitGroup // its own goroutines, and the calls under way
	kick chan struct{}  // wakes tend; holds one

	mu      sync.Mutex
	closed  bool
	hosts   []*host
	writes  *lane
	reads   *lane
	doomed  []link // closed by unlock, outside the mutex
	users   int    // Apply, ScanPage and Call under way
	tending bool   // tend looks again within tick
	tables  map[string]*table
	seq     uint64 // counts answers: times may be equal

	asking singleflight.Group // whether a table is disabled
	stuck  time.Time          // when that was last asked because nothing was answered

	lastRow *known // the row put again to try a gateway; nil until one was acknowledged

	retries        int64
	waited, inCall time.Duration
	announceMu     sync.Mutex
	announced      map[string]string // what Paused was told last, guarded by announceMu
}

// lane is one kind of calls over all gateways: whom it trusts, what it expects of each, and who waits. The pool's mutex guards
// all of it.
type lane struct {
	pool     *Pool
	gateways []*gateway
	waiting  []*waiter // for a gateway, first come first
	free     []candidate

	est       estimate           // over all gateways
	succeeded time.Time          // the last success, of any gateway
	servers   map[string]*server // that callers named, by host:port
	down      time.Time          // the start of the first failure since then, or zero
	out       bool               // somebody waits and no gateway takes part
}

func (p *Pool) lanes() [2]*lane { return [2]*lane{p.writes, p.reads} }

// NewPool makes a pool without gateways: Update names them. Close ends it.
func NewPool(o PoolOptions) *Pool {
	p := newPool(o, func(ctx context.Context, addr string) (link, error) { return dialBy(ctx, addr, o.Transport, o.Dial) })
	p.start()
	return p
}

func newPool(o PoolOptions, dial func(context.Context, string) (link, error)) *Pool {
	p := &Pool{
		opts: o, connections: o.Connections, log: o.Log, dial: dial, random: rand.Float64,
		order: maphash.MakeSeed(), kick: make(chan struct{}, 1), tables: map[string]*table{}, announced: map[string]string{},
	}
	p.writes, p.reads = &lane{pool: p, servers: map[string]*server{}}, &lane{pool: p, servers: map[string]*server{}}
	if p.connections <= 0 {
		p.connections = defaultConnections
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.root, p.stop = context.WithCancel(context.Background())
	return p
}

func (p *Pool) start() { p.wg.Go(p.tend) }

// Connections is how many calls a gateway may have in flight.
func (p *Pool) Connections() int { return p.connections }

// Update replaces the set of gateways. Connections to those no longer in it are closed, after the call they carry. With
// an empty set Apply and Call wait as when all gateways are down.
func (p *Pool) Update(eps []Endpoint) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed {
		return
	}
	var now []*host
	for _, e := range eps {
		same := func(h *host) bool { return h.addr == e.Addr }
		if slices.ContainsFunc(now, same) {
			continue
		}
		if i := slices.IndexFunc(p.hosts, same); i >= 0 {
			now = append(now, p.hosts[i])
			continue
		}
		now = append(now, &host{addr: e.Addr})
	}
	for _, h := range p.hosts {
		if !slices.Contains(now, h) {
			h.gone = true
			p.doomed = append(p.doomed, h.idle...)
			h.idle = nil
		}
	}
	if p.opts.Subset > 0 {
		slices.SortFunc(now, func(a, b *host) int {
			return cmp.Compare(maphash.String(p.order, a.addr), maphash.String(p.order, b.addr))
		})
	}
	p.hosts = now
	for _, l := range p.lanes() {
		had := l.gateways
		l.gateways = nil
		for _, h := range now {
			if i := slices.IndexFunc(had, func(g *gateway) bool { return g.host == h }); i >= 0 {
				l.gateways = append(l.gateways, had[i])
			} else {
				l.gateways = append(l.gateways, &gateway{host: h, lane: l, ramp: 1})
			}
		}
		l.dispatchLocked(time.Now())
	}
}

// Close closes every connection and waits for the pool's goroutines. Apply and Call calls under way are cut and return
// ErrClosed: what they had sent may or may not be written. Safe to call more than once.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	for _, h := range p.hosts {
		p.doomed = append(p.doomed, h.idle...)
		h.idle = nil
	}
	p.unlock()
	p.stop()
	p.wg.Wait()
	return nil
}

// enter registers an Apply or Call, so that Close waits for it, and gives it a context that ends with the pool.
func (p *Pool) enter(ctx context.Context) (context.Context, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	p.users++
	p.wg.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(p.root, func() { cancel(ErrClosed) })
	return ctx, func() {
		unhook()
		cancel(nil)
		p.mu.Lock()
		p.users--
		p.mu.Unlock()
		p.wg.Done()
	}, nil
}

// unlock unlocks mu and closes what was doomed under it.
func (p *Pool) unlock() {
	doomed := p.doomed
	p.doomed = nil
	p.mu.Unlock()
	for _, l := range doomed {
		l.Close()
	}
}

// waiter is a call that wants a gateway.
type waiter struct {
	lane  *lane
	since time.Time  // when its Apply or Call began, for the outage limit
	only  *gateway   // no other will do; nil is any
	avoid []*gateway // only when no other is healthy
	first bool       // before those that wait already: a small call that much waits for

	// For a gateway that is tried after it was slow: makes the call small and tells what is left of it. What the rest was paid is lost,
	// so a budget is used less, and never more. nil: the call stays as it is.
	shrink func() (rows, bytes int)

	ready chan struct{} // closed when g or err is set
	g     *gateway
	err   error
}

// errGone says that the one gateway that would do takes no part now.
var errGone = errors.New("gateway is set aside or gone")

// acquire waits for a gateway with a free connection and takes it; release gives it back.
func (p *Pool) acquire(ctx context.Context, w *waiter) (*gateway, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	l, now := w.lane, time.Now()
	p.mu.Lock()
	if w.only != nil && (w.only.gone || w.only.state == aside) {
		p.mu.Unlock()
		return nil, errGone
	}
	if len(l.waiting) == 0 || w.only != nil || w.first {
		if g := l.chooseLocked(w, now); g != nil {
			g.busy++
			p.mu.Unlock()
			return g, nil
		}
	}
	w.ready = make(chan struct{})
	w.g, w.err = nil, nil
	if w.first {
		l.waiting = slices.Insert(l.waiting, 0, w)
	} else {
		l.waiting = append(l.waiting, w)
	}
	l.dispatchLocked(now)
	p.kickLocked()
	p.mu.Unlock()
	p.announce("")

	select {
	case <-w.ready:
		return w.g, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	} else if w.g != nil {
		w.g.busy--
		l.dispatchLocked(time.Now())
	}
	return nil, context.Cause(ctx)
}

// dispatchLocked gives gateways to those who wait.
func (l *lane) dispatchLocked(now time.Time) {
	if len(l.waiting) == 0 {
		return
	}
	usable := slices.ContainsFunc(l.gateways, func(g *gateway) bool { return g.state != aside })
	if !usable {
		if l.down.IsZero() {
			l.down = now
		}
		l.out = true
	}
	full := false // a call that may go anywhere found no gateway
	l.waiting = slices.DeleteFunc(l.waiting, func(w *waiter) bool {
		plain := w.only == nil && len(w.avoid) == 0
		switch {
		case w.only != nil && (w.only.gone || w.only.state == aside):
			w.err = errGone
		case full && plain:
		default:
			if w.g = l.chooseLocked(w, now); w.g != nil {
				w.g.busy++
			} else if plain {
				full = true
			}
		}
		if w.g == nil && w.err == nil && l.outLocked(now, w.since) {
			w.err = l.outageLocked(now)
		}
		if w.g == nil && w.err == nil {
			return false
		}
		close(w.ready)
		return true
	})
}

// outLocked tells whether a call that began at since has to give up.
func (l *lane) outLocked(now, since time.Time) bool {
	if l.pool.opts.OutageLimit <= 0 || l.down.IsZero() {
		return false
	}
	from := l.down
	if since.After(from) {
		from = since
	}
	return now.Sub(from) >= l.pool.opts.OutageLimit
}

func (l *lane) outageLocked(now time.Time) *OutageError {
	return &OutageError{For: now.Sub(l.down), Last: l.lastErrorsLocked()}
}

func (l *lane) lastErrorsLocked() []string {
	var last []string
	for _, g := range l.gateways {
		switch {
		case g.lastErr != nil:
			last = append(last, g.addr+": "+reasonOf(g.lastErr))
		default:
			last = append(last, g.addr+": no error")
		}
	}
	return last
}

// OutageError says that nothing succeeded through any gateway for as long as the outage limit allows. Nothing is lost
// by trying again later.
type OutageError struct {
	For  time.Duration
	Last []string // for each gateway its address and the last error
	Way  string   // past the gateways, by which nothing succeeded; "" is by a gateway
}

func (e *OutageError) Error() string {
	if e.Way != "" {
		return fmt.Sprintf("nothing succeeded %s for %s: check that ZooKeeper and the region servers can be reached from here, then resume (%s)",
			e.Way, e.For.Round(time.Second), strings.Join(e.Last, "; "))
	}
	if len(e.Last) == 0 {
		return fmt.Sprintf("no gateway is known for %s: check the gateways section of the job file, then resume", e.For.Round(time.Second))
	}
	return fmt.Sprintf("nothing succeeded through any gateway for %s: check the gateways and HBase, then resume (%s)",
		e.For.Round(time.Second), strings.Join(e.Last, "; "))
}

// answer is how one call ended.
type answer struct {
	g       *gateway
	start   time.Time
	at      time.Time
	began   uint64 // the number of the last answer before the call
	seq     uint64 // its own number
	kind    Kind   // 0 is success
	wait    time.Duration
	rows    int  // that it carried, for a call of rows
	bytes   int  // of these
	stuck   bool // it was given up, and what it waited for is behind the gateway
	late    bool // it was given up: no answer in time
	reached bool // it was sent, as far as is known
	err     error
}

// once makes one call through the gateway that suits it. The error says that no call was made, or that ctx ended it.
func (p *Pool) once(ctx context.Context, w *waiter, units float64, slow int, do func(context.Context, link) error) (answer, error) {
	g, err := p.acquire(ctx, w)
	if err != nil {
		return answer{}, err
	}
	return p.through(ctx, g, units, slow, do)
}

// through makes one call through a gateway that was acquired, gives it back, and judges it by the answer.
func (p *Pool) through(ctx context.Context, g *gateway, units float64, slow int, do func(context.Context, link) error) (answer, error) {
	return p.measured(ctx, g, units, slow, func(ctx context.Context, l link) (float64, error) { return units, do(ctx, l) })
}

// measured is through for a call whose work is known only when it is done, as that of a page; do tells it. units is what is
// expected.
func (p *Pool) measured(ctx context.Context, g *gateway, units float64, slow int, do func(context.Context, link) (float64, error)) (answer, error) {
	c := &call{start: time.Now(), units: units, slow: slow}
	var l link
	p.mu.Lock()
	limit := adminTimeout(slow)
	if units > 0 {
		limit = g.lane.timeoutLocked(g, units, slow)
		g.calls = append(g.calls, c)
		c.server = g.lane.serverLocked(ctx)
		c.server.begins(c.start)
	}
	for n := len(g.idle); n > 0 && l == nil; n = len(g.idle) {
		last := g.idle[n-1]
		g.idle = g.idle[:n-1]
		if c.start.Sub(last.LastUsed()) < idleLimit {
			l = last
		} else {
			p.doomed = append(p.doomed, last)
		}
	}
	fresh := l == nil
	g.trying = g.trying || fresh
	load := g.busy
	g.attempts++
	a := answer{g: g, start: c.start, began: p.seq}
	cctx, cancel := context.WithTimeout(ctx, limit)
	c.cancel = cancel
	p.kickLocked()
	p.unlock()
	defer cancel()

	sent := c.start
	var err error
	if fresh {
		l, err = p.dial(cctx, g.addr)
		sent = time.Now()
	}
	if err == nil {
		a.reached = true
		units, err = do(cctx, l)
	} else {
		l = nil
	}
	a.at = time.Now()
	a.kind, a.wait = Classify(err)
	if err != nil {
		a.late = cctx.Err() != nil
		if a.late || a.kind == Canceled {
			a.kind, a.wait = Elsewhere, 0
		}
		if a.late {
			err = fmt.Errorf("no answer in %s: %w", a.at.Sub(c.start).Round(time.Millisecond), err)
		}
		a.err = err
	}

	p.mu.Lock()
	defer p.unlock()
	if fresh {
		if g.trying = false; err == nil {
			g.full = time.Time{}
		}
	}
	g.busy--
	if i := slices.Index(g.calls, c); i >= 0 {
		g.calls = slices.Delete(g.calls, i, i+1)
	}
	c.server.ends(a.at, err == nil)
	if ctx.Err() != nil && err != nil {
		p.keepLocked(g, l, false) // whatever was read is not known to be whole
		p.dispatchBothLocked(a.at)
		return a, context.Cause(ctx)
	}
	if fresh && a.late && a.reached && g.answered.After(c.start) && !g.lane.suspectLocked(g, a.at) && c.server.steady(c.start, c.start) {
		p.fullLocked(g.host, a.at) // it serves the connections that it has
		a.late = false             // nor do the rows take long
		p.seq++
		a.seq = p.seq
		g.lastErr = a.err
	} else {
		g.lane.judgeLocked(g, &a, c, units, load, sent)
	}
	p.keepLocked(g, l, !a.late)
	p.dispatchBothLocked(a.at)
	return a, nil
}

// adminTimeout bounds a call whose size is unknown: it may create a table of many regions, or fetch a page of big rows.
func adminTimeout(slow int) time.Duration { return min(30*time.Second<<min(slow, 2), 2*time.Minute) }

// judgeLocked learns from a call.
func (l *lane) judgeLocked(g *gateway, a *answer, c *call, units float64, load int, sent time.Time) {
	l.pool.seq++
	a.seq = l.pool.seq
	g.errors[min(int(a.kind), len(g.errors)-1)]++
	half := a.at.Add(-a.at.Sub(a.start) / 2)
	switch {
	case !a.late:
	case g.answered.After(half):
		// It waits for something behind the gateway, such as a region that is stuck.
		a.stuck = true
		g.lastErr = a.err
		return
	case l.succeeded.After(half) && !c.server.steady(c.start, half) && l.doubtLocked(g, a.at, a.start):
		a.stuck = true
		g.lastErr = a.err
		return
	}
	if a.kind == Elsewhere && !errors.Is(a.err, ErrUnknownMethod) {
		if l.down.IsZero() {
			l.down = a.start
		}
		l.setAsideLocked(g, a.at, a.start, a.late, a.err)
		return
	}
	g.answered, g.doubts = a.at, 0
	wasOut := g.fails > 0
	l.backLocked(g, a.start)
	switch a.kind {
	case 0:
		l.succeeded = a.at
		if units > 0 {
			l.learnLocked(g, a.at, a.at.Sub(sent), units, load, wasOut)
		}
	case Again:
		g.lastErr = a.err
		if l.down.IsZero() {
			l.down = a.start
		}
		return
	}
	// The pool is not out: this cluster answers, even if it refuses.
	l.down, l.out = time.Time{}, false
}

// keepLocked puts a connection back for the next call, or closes it.
func (p *Pool) keepLocked(g *gateway, l link, sound bool) {
	switch {
	case l == nil:
	case sound && l.Reusable() && !g.gone && !p.closed && g.state != aside:
		g.idle = append(g.idle, l)
	default:
		p.doomed = append(p.doomed, l)
	}
}

// tick is how often tend looks at calls in flight. It bounds how late a silent gateway is noticed.
const tick = 100 * time.Millisecond

// kickLocked makes sure that tend looks within tick.
func (p *Pool) kickLocked() {
	if p.tending {
		return
	}
	p.tending = true
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// tend looks after what time alone changes, until the pool closes.
func (p *Pool) tend() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.root.Done():
			return
		case <-timer.C:
		case <-p.kick:
		}
		p.mu.Lock()
		next := p.tendLocked(time.Now())
		p.unlock()
		p.announce("")
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// tendLocked says when to look again; 0 is when kicked.
func (p *Pool) tendLocked(now time.Time) time.Duration {
	busy, idle := false, false
	next := tick
	for _, l := range p.lanes() {
		busy = busy || len(l.waiting) > 0
		for _, g := range l.gateways {
			busy = busy || len(g.calls) > 0
			if g.state == aside && !g.probing && p.users > 0 {
				busy = true
				if d := g.until.Sub(now); d > 0 {
					next = min(next, d)
				} else if !p.closed {
					g.probing = true
					p.wg.Go(func() { p.probe(g) })
				}
			}
			l.cutLocked(g, now)
		}
		l.dispatchLocked(now)
	}
	if p.writes.stuckLocked(now) && now.Sub(p.stuck) > askStuckEvery && !p.closed {
		p.stuck = now
		seq := p.seq
		p.wg.Go(func() { p.askStuck(seq) })
	}
	for _, h := range p.hosts {
		for len(h.idle) > 0 && now.Sub(h.idle[0].LastUsed()) >= idleLimit {
			p.doomed = append(p.doomed, h.idle[0])
			h.idle = slices.Delete(h.idle, 0, 1)
		}
		idle = idle || len(h.idle) > 0
	}
	p.tending = busy
	switch {
	case busy:
		return next
	case idle:
		return idleLimit / 9
	}
	return 0
}

func (p *Pool) dispatchBothLocked(now time.Time) {
	for _, l := range p.lanes() {
		l.dispatchLocked(now)
	}
}

// probe tries a gateway that was set aside, so that no batch and no page is put at risk for it: first, when it was silent or
// failed again, with calls that tell what is the matter, then in the lane of writes with a row that is known to be accepted. It goes the
// way that rows go, and putting it again changes nothing. Where no such row is known, the next call is the probe. The gateway
// stays aside for all others until it has answered.
func (p *Pool) probe(g *gateway) {
	p.mu.Lock()
	k, fails, hangs := p.lastRow, g.fails, g.hangs
	p.mu.Unlock()
	sound := true
	if fails > 1 || hangs {
		start := time.Now()
		f, err := p.diagnose(p.root, g.host)
		p.mu.Lock()
		if p.root.Err() == nil {
			g.finding, g.old = f, f.Old
			if sound = err == nil; sound && hangs && g.state == aside && g.lane.othersHangLocked(g, start) {
				// It answers and reaches HBase, and others were silent at the same time: what they all wait for is behind them.
				g.state, g.fails = healthy, 0
				sound = false
				p.log.Info("gateway is back: it answers, and others wait for HBase as it does", "gateway", g.addr)
			} else if !sound {
				g.lane.setAsideLocked(g, time.Now(), start, f.Condition.silent(), err)
			}
		}
		p.unlock()
	}
	switch {
	case !sound:
	case g.lane == p.writes && k != nil && !k.t.stopped.Load():
		size := k.b.Bytes()
		if p.pace(p.root, k.t.name, 1, size) == nil {
			p.mu.Lock()
			g.busy++
			slow := min(g.fails-1, 4) // a slow cluster answers no probe in the shortest time
			p.mu.Unlock()
			a, err := p.through(p.root, g, work(1, size), slow, k.put)
			if err == nil {
				p.observe(k.t.name, a)
			}
		}
	default:
		p.mu.Lock()
		if g.state == aside {
			g.state = trial
		}
		p.unlock()
	}
	p.mu.Lock()
	g.probing = false
	g.lane.dispatchLocked(time.Now())
	p.mu.Unlock()
}

func (p *Pool) pace(ctx context.Context, table string, rows, bytes int) error {
	if p.opts.Pacer == nil {
		return nil
	}
	if err := p.opts.Pacer.Wait(ctx, table, rows, bytes); err != nil {
		return fmt.Errorf("wait for the budget of %s: %w", table, err)
	}
	return nil
}

func (p *Pool) observe(table string, a answer) {
	if p.opts.Pacer != nil {
		p.opts.Pacer.Observe(table, a.kind, a.wait)
	}
}

// Call makes a call that is not rows: f is called with a connection to a healthy gateway, again while the cluster is
// busy, and through another gateway when one fails. What f does must bear being done twice, for an answer may be lost.
// Errors of other kinds, and f's own, are returned. what says what is done, as "create table t". Calls are not paced.
func (p *Pool) Call(ctx context.Context, what string, f func(ctx context.Context, c *Conn) error) error {
	return p.call(ctx, what, func(ctx context.Context, l link) error {
		c, _ := l.(*Conn)
		return f(ctx, c)
	})
}

func (p *Pool) call(ctx context.Context, what string, f func(context.Context, link) error) error {
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer leave()
	since := time.Now()
	for again, slow := 0, 0; ; {
		var own error
		a, err := p.once(ctx, &waiter{lane: p.reads, since: since}, 0, slow, func(ctx context.Context, l link) error {
			err := f(ctx, l)
			if err != nil && l.Reusable() && !ofGateway(err) {
				own = err
				return nil
			}
			return err
		})
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case own != nil:
			return fmt.Errorf("%s: %w", what, own)
		case a.kind == 0:
			return nil
		case a.kind == Again:
			err = p.reads.rest(ctx, since, again, a.wait)
			again++
		case a.kind == Elsewhere && !errors.Is(a.err, ErrUnknownMethod):
			if a.late {
				slow++
			}
		default:
			return fmt.Errorf("%s: %w", what, a.err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// ofGateway tells an error of a call from an error that the function around it made.
func ofGateway(err error) bool {
	if _, ok := errors.AsType[*Error](err); ok {
		return true
	}
	_, ok := errors.AsType[thrift.TException](err)
	return ok
}

// How long a call waits that the cluster is too busy for. Half a region's flush is the order of the upper bound.
const shortestRest, longestRest = 50 * time.Millisecond, 5 * time.Second

// rest waits before the same call is made again: longer each time, at least as long as the server asks for, and never at
// the same time as others.
func (l *lane) rest(ctx context.Context, since time.Time, again int, wait time.Duration) error {
	d := l.pool.jitter(min(shortestRest<<min(again, 10), longestRest) * 4 / 5)
	if wait > 0 {
		d = max(d, wait+time.Duration(l.pool.random()*float64(min(wait/4, time.Second))))
	}
	if limit := l.pool.opts.OutageLimit; limit > 0 {
		d = min(d, limit)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if now := time.Now(); l.outLocked(now, since) {
		return l.outageLocked(now)
	}
	return nil
}
