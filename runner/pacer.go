package runner

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drover/budget"
	"drover/hbase"
	"drover/jobs"
	"drover/pressure"
)

// pacer holds each attempt to what HBase can take at the moment, to the job's ramp and, last, to its table's budget: what is
// held for the sake of one region server takes no place in the budget. Tables that were not added are not held.
//
// It implements hbase.Pacer and hbase.Witness. A batch's region server is known by the context of its Apply (on).
type pacer struct {
	tables atomic.Pointer[map[string]*paced]
	log    *slog.Logger

	limits, slow holding
}

// Budget is what everything is paid from that is done to one table.
type Budget interface {
	// Wait waits until rows and bytes are paid for, and says how long that was. They are spent when it returns nil.
	Wait(ctx context.Context, rows, bytes int) (waited time.Duration, err error)
	Close() error
}

type firstKey struct{}

// GoesFirst tells a Budget that what waits goes before what does not: the first rows of a shard that was taken over from another
// process. Until they are settled nobody knows how far it is, and the rows of shards that were here before may be many.
func GoesFirst(ctx context.Context) bool {
	first, _ := ctx.Value(firstKey{}).(bool)
	return first
}

// paced is one table.
type paced struct {
	budget Budget
	whole  *valve
	ramp   ramp

	mu      sync.Mutex
	servers map[string]*valve // by host:port
}

func newPacer(log *slog.Logger) *pacer {
	p := &pacer{log: log}
	p.tables.Store(&map[string]*paced{})
	return p
}

// add is for the time before the run moves; it is not safe beside itself.
func (p *pacer) add(table string, b Budget, j jobs.Job) *paced {
	t := &paced{budget: b, whole: newValve(p.log, table, "", j.Limits), servers: map[string]*valve{}}
	t.ramp.init(j)
	next := maps.Clone(*p.tables.Load())
	next[table] = t
	p.tables.Store(&next)
	return t
}

func (p *pacer) close() {
	for _, t := range *p.tables.Load() {
		t.budget.Close()
	}
}

// server gives a region server's valve for a table, nil when the table is not held or the server has no name.
func (p *pacer) server(table, name string) *valve {
	t := (*p.tables.Load())[table]
	if t == nil || name == "" {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.servers[name]
	if v == nil {
		v = newValve(p.log, table, name, jobs.Limits{})
		t.servers[name] = v
	}
	return v
}

type serverKey struct{}

// on gives the context for batches to a region server.
func on(ctx context.Context, v *valve) context.Context {
	if v == nil {
		return ctx
	}
	return context.WithValue(ctx, serverKey{}, v)
}

// Wait implements hbase.Pacer.
func (p *pacer) Wait(ctx context.Context, table string, rows, bytes int) error {
	t := (*p.tables.Load())[table]
	if t == nil {
		return ctx.Err()
	}
	server, _ := ctx.Value(serverKey{}).(*valve)
	for {
		for _, v := range [...]*valve{server, t.whole} {
			if v == nil || !v.shut.Load() {
				continue
			}
			p.slow.hold(1)
			err := v.wait(ctx, rows, bytes)
			p.slow.hold(-1)
			if err != nil {
				return err
			}
		}
		if err := p.inLimits(ctx, t, rows, bytes); err != nil {
			return err
		}
		// What a server asked for meanwhile costs the place in the budget: kept, it would be used in a later second.
		if server.held() <= 0 && t.whole.held() <= 0 {
			return nil
		}
	}
}

func (p *pacer) inLimits(ctx context.Context, t *paced, rows, bytes int) error {
	p.limits.hold(1)
	defer p.limits.hold(-1)
	if err := t.ramp.wait(ctx, rows, bytes); err != nil {
		return err
	}
	_, err := t.budget.Wait(ctx, rows, bytes)
	return err
}

// Observe implements hbase.Pacer; Witness is told the same and more.
func (p *pacer) Observe(string, hbase.Kind, time.Duration) {}

// Witness implements hbase.Witness.
func (p *pacer) Witness(ctx context.Context, table string, a hbase.Attempt) {
	t := (*p.tables.Load())[table]
	if t == nil || a.Rows == 0 {
		return
	}
	server, _ := ctx.Value(serverKey{}).(*valve)
	t.ramp.answered(a)
	if a.Kind == 0 {
		t.whole.done(a, server == nil)
		if server != nil {
			server.done(a, true)
		}
		return
	}
	why := troubles[a.Strain]
	switch {
	case why == 0:
	case why == pressure.Throttled || server == nil:
		t.whole.trouble(a, why)
	default:
		server.trouble(a, why)
	}
}

var troubles = map[hbase.Strain]pressure.Trouble{
	hbase.RegionBusy: pressure.Busy, hbase.QueueFull: pressure.Queued, hbase.QuotaSpent: pressure.Throttled, hbase.Unanswering: pressure.Silent,
}

// tendEvery is how often the rates follow the time.
const tendEvery = 100 * time.Millisecond

// tend lets rates recover and ramps go up, until ctx ends. well tells whether the gateways are, as far as a ramp must know.
func (p *pacer) tend(ctx context.Context, well func() bool) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		var now time.Time
		select {
		case now = <-tick.C:
		case <-ctx.Done():
			return
		}
		for name, t := range *p.tables.Load() {
			shut, cut := t.look(now)
			if from, to, moved := t.ramp.look(now, cut, func() bool { return !shut && well() }); moved {
				p.log.Info("ramp", "table", name, "from", from, "percent", to)
			}
		}
	}
}

// look tells whether the table is slowed, as a whole or for half of its servers, and when that was last found necessary.
func (t *paced) look(now time.Time) (shut bool, cut time.Time) {
	shut, cut = t.whole.look(now)
	n := 0
	var last time.Time
	servers := t.valves()
	for _, v := range servers {
		if s, c := v.look(now); s {
			n++
			last = latest(last, c)
		}
	}
	if n > 0 && 2*n >= len(servers) {
		return true, latest(cut, last)
	}
	return shut, cut
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (t *paced) valves() []*valve {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.servers))
}

// valve keeps the rate that a pressure.Valve decides on.
type valve struct {
	table, server string // server is "" for the whole table
	log           *slog.Logger
	rate          *budget.Member // a local one: it keeps turns in order and the rate exactly

	shut        atomic.Bool
	rows, bytes atomic.Int64  // that a batch may have; 0 while open
	flights     atomic.Uint32 // per mille of those in flight to the server otherwise; 0 while open

	mu   sync.Mutex
	core pressure.Valve
	was  bool // shut when last published
}

func newValve(log *slog.Logger, table, server string, l jobs.Limits) *valve {
	v := &valve{table: table, server: server, log: log, rate: budget.NewLocal(budget.Limits{})}
	v.core.Limit(pressure.Rate{Rows: float64(l.Rows), Bytes: float64(l.Bytes)})
	return v
}

// wait waits until the time that the server asked for is over and then for a turn. A turn that comes while the server asks for
// time again is lost: else all that came meanwhile would be taken at once.
func (v *valve) wait(ctx context.Context, rows, bytes int) error {
	for {
		for d := v.held(); d > 0; d = v.held() {
			// Those who wait for the same instant must not come at the same instant.
			d += time.Duration(rand.Float64() * float64(min(d/4+50*time.Millisecond, time.Second)))
			timer := time.NewTimer(d)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		if _, err := v.rate.Wait(ctx, rows, bytes); err != nil || v.held() <= 0 {
			return err
		}
	}
}

// held is for how long the server asked that nothing be sent.
func (v *valve) held() time.Duration {
	if v == nil || !v.shut.Load() {
		return 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Until(v.core.Hold())
}

// done and trouble tell of an answer; timed says that slowness is this valve's to notice.
func (v *valve) done(a hbase.Attempt, timed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.core.Done(a.End, a.Start, a.Rows, a.Bytes, timed)
	v.publishLocked()
}

func (v *valve) trouble(a hbase.Attempt, why pressure.Trouble) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.core.Trouble(a.End, a.Start, why, a.Wait, a.Rows, a.Bytes)
	v.publishLocked()
}

func (v *valve) look(now time.Time) (shut bool, cut time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.core.Look(now)
	v.publishLocked()
	return v.core.Shut(), v.core.Cut()
}

// batchesPerSecond divides a rate into batches, so that it stays even and no quota's second is asked for at once.
const batchesPerSecond = 10

// publishLocked brings what the core decided into force.
func (v *valve) publishLocked() {
	shut := v.core.Shut()
	if !shut && !v.was {
		return
	}
	why, part := v.core.Why()
	if shut != v.was {
		v.was = shut
		if shut {
			v.log.Warn("slowed by HBase", "table", v.table, "why", slowed(v.server, why))
		} else {
			v.log.Info("no longer slowed by HBase", "table", v.table, "server", v.server)
		}
	}
	if !shut {
		v.shut.Store(false)
		v.rows.Store(0)
		v.bytes.Store(0)
		v.flights.Store(0)
		v.rate.SetLimits(budget.Limits{})
		return
	}
	r := v.core.Rate()
	l := budget.Limits{Rows: max(1, int64(r.Rows)), Bytes: max(1, int64(r.Bytes))}
	v.rows.Store(max(1, l.Rows/batchesPerSecond))
	v.bytes.Store(max(1, l.Bytes/batchesPerSecond))
	v.flights.Store(max(1, uint32(1000*part)))
	v.rate.SetLimits(l)
	v.shut.Store(true)
}

// batch bounds a batch's rows and bytes.
func (v *valve) batch(rows, bytes int) (int, int) {
	if !v.shut.Load() {
		return rows, bytes
	}
	if n := v.rows.Load(); n > 0 {
		rows = min(rows, int(n))
	}
	if n := v.bytes.Load(); n > 0 {
		bytes = min(bytes, int(n))
	}
	return rows, bytes
}

// bound is how many of n flights there may be.
func (v *valve) bound(n int) int {
	if v == nil {
		return n
	}
	if part := v.flights.Load(); part > 0 {
		return max(min(n, 2), int(part)*n/1000)
	}
	return n
}

// ramp is a table's way to its limit: a part of the limits, or without any of the flights.
type ramp struct {
	limits  jobs.Limits
	percent atomic.Int32
	rate    *budget.Member

	mu   sync.Mutex
	core *pressure.Ramp
}

func (r *ramp) init(j jobs.Job) {
	r.limits, r.core = j.Limits, pressure.NewRamp(j.Ramp.Steps, j.Ramp.Every)
	r.rate = budget.NewLocal(budget.Limits{})
	r.publish()
}

// publish brings the percentage into force. At 100 the table's budget alone does it.
func (r *ramp) publish() {
	p := int64(r.core.Percent())
	part := func(n int64) int64 {
		if n == 0 || p == 100 {
			return 0
		}
		return max(1, n/100*p+n%100*p/100)
	}
	r.percent.Store(int32(p))
	r.rate.SetLimits(budget.Limits{Rows: part(r.limits.Rows), Bytes: part(r.limits.Bytes)})
}

func (r *ramp) wait(ctx context.Context, rows, bytes int) error {
	if r.percent.Load() == 100 {
		return nil
	}
	_, err := r.rate.Wait(ctx, rows, bytes)
	return err
}

func (r *ramp) answered(a hbase.Attempt) {
	r.mu.Lock()
	r.core.Answered(a.End, a.Kind == hbase.Again && a.Strain != 0)
	r.mu.Unlock()
}

func (r *ramp) look(now, cut time.Time, well func() bool) (from, to int, moved bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from = r.core.Percent()
	if moved = r.core.Look(now, cut, well); moved {
		r.publish()
	}
	return from, r.core.Percent(), moved
}

// batch bounds a batch's rows, so that a step's rate is even too.
func (r *ramp) batch(rows int) int {
	if p := int(r.percent.Load()); p < 100 && r.limits.Rows > 0 {
		return max(1, min(rows, int(min(r.limits.Rows, 1<<32))*p/100/batchesPerSecond))
	}
	return rows
}

// bound is how many of n flights there may be.
func (r *ramp) bound(n int) int {
	if p := int(r.percent.Load()); p < 100 && r.limits == (jobs.Limits{}) {
		return max(1, n*p/100)
	}
	return n
}

// holding sums the time on the clock in which anybody was held, not each one's.
type holding struct {
	mu    sync.Mutex
	n     int       // held now
	since time.Time // when the first of them began to be
	sum   time.Duration
}

func (h *holding) hold(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n == 0 {
		h.since = time.Now()
	}
	if h.n += n; h.n == 0 {
		h.sum += time.Since(h.since)
	}
}

func (h *holding) total() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n > 0 {
		return h.sum + time.Since(h.since)
	}
	return h.sum
}

// Slowed is a flow of rows that HBase has no room for at its full rate.
type Slowed struct {
	Table, Server string // Server is "" for all of the table
	Why           string // for people
	Percent       int    // of its limit, or of what got through before when it has none
	Limited       bool   // it has one
}

// slowed gives what is held back now, and where ramps stand that are not at their end.
func (p *pacer) slowed() (out []Slowed, ramps map[string]int) {
	for name, t := range *p.tables.Load() {
		for _, v := range append(t.valves(), t.whole) {
			if !v.shut.Load() {
				continue
			}
			v.mu.Lock()
			why, part := v.core.Why()
			v.mu.Unlock()
			out = append(out, Slowed{
				Table: name, Server: v.server, Why: slowed(v.server, why), Percent: int(100*part + 0.5), Limited: v.core.Limited(),
			})
		}
		if n := t.ramp.percent.Load(); n < 100 {
			if ramps == nil {
				ramps = map[string]int{}
			}
			ramps[name] = int(n)
		}
	}
	slices.SortFunc(out, func(a, b Slowed) int { return a.Percent - b.Percent })
	return out, ramps
}

// slowed says in words why a flow is.
func slowed(server string, why pressure.Trouble) string {
	who := "region server " + server
	if server == "" {
		who = "the table"
	}
	switch why {
	case pressure.Throttled:
		return "a quota is used up"
	case pressure.Queued:
		return "the call queue of " + who + " is full"
	case pressure.Silent:
		return who + " leaves gateways without an answer"
	case pressure.Slow:
		return who + " answers slowly"
	}
	return who + " is too busy"
}
