package fleet

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drover/checkpoints"
	"drover/fleet/share"
	"drover/jobs"
	"drover/zookeeper"
)

// Config says what a member is.
type Config struct {
	ZK       *zookeeper.Client // the process's own; it stays the caller's
	Root     string            // the pool's node, such as /drover/main
	Name     string            // of the host, for people and for drain
	Version  string            // of drover
	Labels   map[string]string // data centre, and what file sources it can open
	Capacity int               // shards at once; 0 works on none, but leads and takes shares

	// Plan plans a run from its job file. after is the timestamp of the job's last plan. It is called by who leads, or by who has the labels
	// that the run needs; nil plans nothing and never leads.
	Plan func(ctx context.Context, file []byte, after int64) (Planned, error)

	// Work works on the shards that leases gives, of one run, until ctx ends; it returns when no lease is in its hands any more.
	// It is called again when there is work later. nil with a capacity of 0.
	Work func(ctx context.Context, r Run, leases Leases) error

	// Clock goes on while the host sleeps; nil is the host's own.
	Clock func() time.Duration
	// Wall is the time of day, by which schedules go; nil is the host's own.
	Wall func() time.Time
	Log  *slog.Logger
}

// Run is a run as a worker gets it.
type Run struct {
	Job, ID   string
	File      []byte // the job file
	Plan      []byte // what Config.Plan gave
	Timestamp int64  // the plan's
	Spec      Spec

	// Store keeps the checkpoints of this worker's leases, and of no others: it refuses a shard from when its Lease.Done was
	// called, or the session lost.
	Store checkpoints.Store

	// SaveEvery is how far apart this worker's saves are to be at present, so that all workers together write ZooKeeper no more
	// than it bears, however many they are. The end of a shard need not wait for it.
	SaveEvery func() time.Duration
}

// Leases hands out the right to work on shards of one run.
type Leases interface {
	// Next waits until a shard is there to work on; false when ctx ended or nothing more comes.
	Next(ctx context.Context) (Lease, bool)
}

// Lease is the right to work on one shard.
type Lease struct {
	Shard jobs.Shard
	From  checkpoints.Checkpoint

	// Lost is closed when the right is gone, or asked back: nothing more is sent. What is in flight is waited for and, if
	// Save still takes it, saved.
	Lost <-chan struct{}

	// Hold is called just before each put. It returns at once while this process is sure to hold the right, waits while it is
	// not, and fails with ErrLost when the right is gone or with ctx's error.
	Hold func(ctx context.Context) error

	// Done is called once, when nothing of the shard is in flight here any more: with the last checkpoint that was saved and nil
	// when the shard is done, or why it ended. ErrLost, a context's end and a *checkpoints.FencedError are no faults.
	Done func(c checkpoints.Checkpoint, err error)

	// Split gives a value when what is left of the shard is wanted in two parts, for workers that idle. It is answered by Cut
	// or Whole; when Cut fails, a value may come again.
	Split <-chan struct{}

	// Cut makes it so. The owner has read nothing of rest, and reads nothing beyond head from now on. head has the shard's
	// number and its start, rest the shard's end; rest.N is chosen by Cut. When it returns nil the lease is for head only;
	// after an error the shard is as it was, and work goes on, but after ErrLost: then the right is gone, or it cannot be known
	// whether the shard was cut. Save and Cut of one shard may be called at once.
	Cut func(ctx context.Context, head, rest jobs.Shard) error

	// Whole says that the shard cannot be cut, because it is a stream or too little is left, so that nobody asks again.
	Whole func()
}

// ErrLost says that the right to a shard is gone or was asked back.
var ErrLost = errors.New("the right to the shard is gone")

// Use is what a run does to a table here.
type Use struct {
	Weight float64 // against others of its class; 0 is 1
	Class  int     // 0 is served first
	Cap    float64 // the largest part for this worker; 0 is none
	// Limit is in force for the table while the use lasts, beside those of the pool's runs, which have it by their Spec. nil is none.
	Limit *share.Limit
}

// Member is a process of the pool. Run drives it; the other methods may be called from several goroutines, also before.
type Member struct {
	c      Config
	log    *slog.Logger
	memory *memory

	reads chan struct{}  // bounds readings under way
	works sync.WaitGroup // that outlive their incarnation, until they have noticed

	mu       sync.Mutex
	now      *present // nil between incarnations
	accounts map[budget]*account
	draining bool
	alerted  string
	woken    chan struct{} // holds one when a tick is wanted at once
}

// account is a budget that is used here.
type account struct {
	*share.Account
	uses map[string]Use // by who
	// As last told to the account.
	limit    share.Limit
	part     float64
	deadline time.Duration
}

// present is a member's incarnation with what belongs to it at the edge. Guarded by Member.mu.
type present struct {
	*incarnation
	m       *Member
	ctx     context.Context
	cancel  context.CancelFunc
	zk      *zookeeper.Bound
	session zookeeper.Session
	id      string
	over    bool
	wg      sync.WaitGroup
	stops   map[int]func() // of watches
	works   map[string]*work
	plans   map[runKey]context.CancelFunc // made here because an order asks
	// employed counts the works that there were.
	employed int
	// until is the deadline, 0 without one, for those who cannot wait for Member.mu.
	until   atomic.Int64
	changed chan struct{} // closed when a deadline comes after there was none, and replaced
	leadCtx context.Context
	endLead context.CancelFunc
	stopped bool // nothing new is taken

	inbox struct { // of what watches tell, in order
		sync.Mutex
		list []answer
		some chan struct{} // holds one when there are some
	}
}

// work is a run that is worked on.
type work struct {
	p       *present
	at      string
	cancel  context.CancelFunc
	wake    chan struct{} // closed when there may be a lease to take, and replaced
	handles map[int]*handle
	store   *checkpoints.ZooKeeperStore // nil until the plan is read; before that there are no handles
	ended   bool
	retry   time.Duration
}

// handle is a lease in the hands of Config.Work.
type handle struct {
	*lease
	w    *work
	lost chan struct{}
	gone bool // lost is closed

	split chan struct{} // holds one when the shard is wanted in two and nobody has heard of it
	told  int64         // the ask that was told; 0 is none
	again time.Duration // not to be told before, after a cut that came to nothing
	// unsure is when it is not known whether the shard was cut: nothing is saved, as that could be beyond its end.
	unsure bool
}

// readsAtOnce bounds the readings under way, of the 512 calls that a zookeeper.Client may have under way: beats and orders find room. A
// leader reads two nodes a shard: where a round trip takes 200 ms, 10,000 shards take it 16 s.
const readsAtOnce = 256

// Join makes a member of a pool, and the pool if there was none. It waits until ZooKeeper can be asked.
func Join(ctx context.Context, c Config) (*Member, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = bootClock
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Name == "" || strings.ContainsAny(c.Name, "/\x00") {
		return nil, fmt.Errorf("join the pool: %q is no name for a worker: give it one without /", c.Name)
	}
	if c.Capacity > 0 && c.Work == nil {
		return nil, errors.New("join the pool: a worker with a capacity needs something to do its work")
	}
	if err := c.ZK.Wait(ctx); err != nil {
		return nil, fmt.Errorf("join the pool: %w", err)
	}
	if err := found(ctx, c.ZK, paths(c.Root)); err != nil {
		return nil, fmt.Errorf("join the pool at %s: %w", c.Root, err)
	}
	return &Member{
		c: c, log: c.Log, memory: newMemory(), reads: make(chan struct{}, readsAtOnce), accounts: map[budget]*account{}, woken: make(chan struct{}, 1),
	}, nil
}

// found makes a pool unless it is there. The term comes last, and only here: its version would begin again.
func found(ctx context.Context, zk *zookeeper.Client, p paths) error {
	data, _, err := zk.Get(ctx, p.term())
	if err == nil {
		_, err = decode[termRecord](p.term(), data)
		return err
	}
	if !errors.Is(err, zookeeper.ErrNoNode) {
		return err
	}
	for _, f := range p.folders() {
		if err := zk.CreateAll(ctx, f); err != nil {
			return err
		}
	}
	err = zk.Create(ctx, p.term(), encode(termRecord{head: head{format}}))
	if errors.Is(err, zookeeper.ErrNodeExists) || errors.Is(err, zookeeper.ErrUnknown) {
		return nil // whoever made it; the watch of it shows
	}
	return err
}

// Run works and leads as it comes until ctx ends. Then it lets go of its shards: what is in flight is waited for and saved, and
// the leader told; for a session timeout at most, or as long as the runs take beyond that. Its error is that ZooKeeper does not let it
// be part of the pool.
func (m *Member) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := m.c.ZK.Wait(ctx); err != nil {
			break
		}
		if err := m.live(ctx, m.c.ZK.Session()); err != nil {
			m.works.Wait()
			return fmt.Errorf("join the pool at %s: %w", m.c.Root, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(beatGap(m.c.ZK.Session().Timeout) + time.Duration(mathrand.Int64N(int64(50*time.Millisecond)))):
		}
	}
	m.works.Wait()
	return nil
}

// live is one incarnation. Its error is that it may not be part of the pool.
func (m *Member) live(ctx context.Context, s zookeeper.Session) error {
	id := m.c.Name + "-" + rand.Text()[:10]
	p := &present{
		m: m, id: id, session: s, zk: m.c.ZK.In(s), stops: map[int]func(){}, works: map[string]*work{}, plans: map[runKey]context.CancelFunc{}, changed: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	defer p.cancel()
	p.inbox.some = make(chan struct{}, 1)
	self := beatRecord{Name: m.c.Name, Version: m.c.Version, Labels: m.c.Labels, Capacity: m.c.Capacity}
	p.incarnation = newIncarnation(paths(m.c.Root), id, s.Timeout, self, m.memory, rand.Text, mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64())))
	p.leads, p.self.Plans = m.c.Plan != nil, m.c.Plan != nil
	p.wall = m.c.Wall

	lost := make(chan struct{})
	var once sync.Once
	stopState := m.c.ZK.OnState(func(state zookeeper.State, is zookeeper.Session) {
		if state == zookeeper.Lost || is.N != s.N && is.N != 0 {
			once.Do(func() { close(lost) })
		}
	})
	defer stopState()

	m.mu.Lock()
	m.now = p
	m.mu.Unlock()
	p.wg.Go(p.read)
	p.step(func() { p.start(m.c.Clock()) })

	every := min(max(s.Timeout/40, 20*time.Millisecond), 250*time.Millisecond)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	stopping, leaving := ctx.Done(), (<-chan time.Time)(nil)
	for over := false; !over; {
		select {
		case <-lost:
			m.log.Warn("the session with ZooKeeper is lost: all shards are let go", "worker", id)
			over = true
		case <-stopping:
			stopping = nil
			leaving = time.After(s.Timeout)
			m.mu.Lock()
			p.stopped, m.draining = true, true
			m.mu.Unlock()
		case <-leaving:
			over = true
		case <-ticker.C:
		case <-m.woken:
		}
		p.step(func() {
			if p.stopped && p.idle() {
				over = over || p.leave(m.c.Clock())
			}
			p.tick(m.c.Clock())
			over = over || p.dead
		})
	}
	p.end(ctx.Err() != nil)
	return p.denied
}

// idle tells whether nothing is worked on.
func (p *present) idle() bool {
	for _, w := range p.works {
		if len(w.handles) > 0 {
			return false
		}
	}
	return true
}

// end ends an incarnation. What is still worked on has no right to anything any more, and is not waited for here.
func (p *present) end(leave bool) {
	m := p.m
	m.mu.Lock()
	p.over = true
	p.until.Store(0)
	m.now = nil
	if p.endLead != nil {
		p.endLead()
	}
	for _, w := range p.works {
		for _, h := range w.handles {
			h.lose()
		}
		w.cancel()
	}
	m.account(p)
	stops := p.stops
	p.stops = nil
	m.mu.Unlock()
	for _, stop := range stops {
		stop()
	}
	if leave {
		// So that nobody has to wait for the end of the session. What does not succeed, its end does.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		p.zk.Delete(ctx, p.p.worker(p.id), zookeeper.AnyVersion)
		cancel()
	}
	p.cancel()
	p.wg.Wait()
}

// step changes the incarnation and does what comes of it.
func (p *present) step(f func()) {
	m := p.m
	m.mu.Lock()
	if p.over {
		m.mu.Unlock()
		return
	}
	p.self.Draining = m.draining
	if p.self.Wants = nil; !p.self.Left {
		p.self.Wants = m.wants()
	}
	f()
	p.arrange()
	effects := p.take()
	var stops []func()
	for _, e := range effects {
		if e.kind == doForget {
			if stop := p.stops[e.id]; stop != nil {
				stops = append(stops, stop)
				delete(p.stops, e.id)
			}
			continue
		}
		p.begin(e)
	}
	m.mu.Unlock()
	for _, stop := range stops {
		stop()
	}
}

func toNode(exists bool, data []byte, s zookeeper.Stat) node {
	return node{exists: exists, data: data, version: s.Version, created: s.Czxid, owner: s.EphemeralOwner}
}

// begin starts an effect.
func (p *present) begin(e effect) {
	zk := p.m.c.ZK
	switch e.kind {
	case doWatch:
		p.stops[e.id] = zk.WatchNode(p.ctx, e.path, func(n zookeeper.Node) {
			p.post(answer{id: e.id, err: n.Err, node: toNode(n.Exists, n.Data, n.Stat)})
		})
		return
	case doWatchList:
		p.stops[e.id] = zk.WatchChildren(p.ctx, e.path, func(l zookeeper.Listing) {
			p.post(answer{id: e.id, err: l.Err, names: l.Children, node: toNode(l.Exists, nil, l.Stat)})
		})
		return
	}
	p.wg.Go(func() {
		a := p.perform(e)
		if p.ctx.Err() != nil || errors.Is(a.err, zookeeper.ErrSessionLost) || errors.Is(a.err, zookeeper.ErrClosed) {
			return // and nothing more of this incarnation matters
		}
		p.step(func() { p.answered(p.m.c.Clock(), a) })
	})
}

// post takes what a watch tells, for read to hand on in order. It is called from within the client and must not wait.
func (p *present) post(a answer) {
	p.inbox.Lock()
	defer p.inbox.Unlock()
	p.inbox.list = append(p.inbox.list, a)
	select {
	case p.inbox.some <- struct{}{}:
	default:
	}
}

// read hands on what watches tell.
func (p *present) read() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.inbox.some:
		}
		p.inbox.Lock()
		list := p.inbox.list
		p.inbox.list = nil
		p.inbox.Unlock()
		for _, a := range list {
			p.step(func() { p.answered(p.m.c.Clock(), a) })
		}
	}
}

func (p *present) perform(e effect) answer {
	a := answer{id: e.id, index: -1}
	switch e.kind {
	case doGet:
		p.m.reads <- struct{}{}
		defer func() { <-p.m.reads }()
		if e.sync {
			if a.err = p.zk.Sync(p.ctx, e.path); a.err != nil {
				return a
			}
		}
		data, stat, err := p.zk.Get(p.ctx, e.path)
		if errors.Is(err, zookeeper.ErrNoNode) {
			return a
		}
		a.node, a.err = toNode(err == nil, data, stat), err
	case doList:
		p.m.reads <- struct{}{}
		defer func() { <-p.m.reads }()
		names, stat, err := p.zk.Children(p.ctx, e.path)
		if errors.Is(err, zookeeper.ErrNoNode) {
			return a
		}
		a.names, a.node, a.err = names, toNode(err == nil, nil, stat), err
	case doMulti:
		ops := make([]zookeeper.Op, len(e.ops))
		for i, o := range e.ops {
			ops[i] = o.zookeeper()
		}
		results, err := p.zk.Multi(p.ctx, ops...)
		a.err = err
		if op, ok := errors.AsType[*zookeeper.OpError](err); ok {
			a.index = op.Index
		}
		for _, r := range results {
			a.after = append(a.after, r.Stat.Version)
		}
	}
	return a
}

// arrange brings what is at the edge in line with the incarnation: the deadline, accounts, works and their handles, plans.
func (p *present) arrange() {
	m := p.m
	now := m.c.Clock()
	until := time.Duration(0)
	if p.sure(now) && !p.self.Left {
		until = p.deadline
	}
	if old := time.Duration(p.until.Swap(int64(until))); until > old && old <= now {
		close(p.changed)
		p.changed = make(chan struct{})
	}
	if alert := m.memory.alert(); alert != m.alerted {
		if m.alerted = alert; alert != "" {
			m.log.Error("everything is held: "+alert, "next", "find out what happened to ZooKeeper; drover restore goes on from a backup")
		} else {
			m.log.Info("held no more")
		}
	}
	m.account(p)
	for at, w := range p.works {
		for _, h := range w.handles {
			if h.state == leaseEnding || p.leases[h.key] != h.lease || p.stopped {
				h.lose()
			}
			h.hear(now)
		}
		r := p.runs[at]
		if w.ended {
			if now >= w.retry {
				delete(p.works, at)
			}
		} else if len(w.handles) == 0 && (r == nil || !r.works() || p.stopped) {
			w.cancel()
		}
	}
	for k, l := range p.leases {
		if l.state != leaseReady || p.stopped {
			continue
		}
		w := p.works[k.at]
		if w == nil {
			w = p.employ(k.at)
		}
		if w.wake != nil {
			close(w.wake)
			w.wake = nil
		}
	}
	switch {
	case p.lead == nil && p.endLead != nil:
		p.endLead()
		p.endLead = nil
		m.log.Info("leads no more", "worker", p.id)
	case p.lead != nil && p.endLead == nil:
		p.leadCtx, p.endLead = context.WithCancel(p.ctx)
		m.log.Info("leads the pool", "worker", p.id, "term", p.lead.term)
	}
	if p.lead != nil {
		l := p.lead
		for _, k := range l.toPlan {
			after := int64(0)
			if j := l.jobs[k.job]; j != nil {
				after = j.record.Last
			}
			p.plan(p.leadCtx, k, l.runs[k].record.Spec.File, after, func(made Planned, err error) {
				if p.lead == l {
					l.planned(m.c.Clock(), k, made, err)
				}
			})
		}
		l.toPlan = nil
	}
	for k, cancel := range p.plans {
		if p.worker.plans[k] == nil || p.stopped {
			cancel()
			delete(p.plans, k)
		}
	}
	for _, k := range p.worker.toPlan {
		x := p.worker.plans[k]
		if x == nil || p.stopped {
			continue
		}
		ctx, cancel := context.WithCancel(p.ctx)
		if before := p.plans[k]; before != nil {
			before()
		}
		p.plans[k] = cancel
		p.plan(ctx, k, x.run.Spec.File, x.job.Last, func(made Planned, err error) {
			if p.worker.plans[k] == x {
				p.worker.planned(m.c.Clock(), k, made, err)
			}
		})
	}
	p.worker.toPlan = nil
}

// plan plans a run, beside everything else, and hands on what comes of it.
func (p *present) plan(ctx context.Context, k runKey, file []byte, after int64, made func(Planned, error)) {
	p.wg.Go(func() {
		p.m.log.Info("plans", "run", k)
		planned, err := p.m.c.Plan(ctx, file, after)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			planned.Plan, err = squeeze(planned.Plan)
		}
		p.step(func() { made(planned, err) })
	})
}

// account tells accounts what is in force. p is nil or over when nothing is.
func (m *Member) account(p *present) {
	for b, a := range m.accounts {
		limit, part, deadline := share.Pause, 0.0, time.Duration(0)
		if !p.over {
			deadline = time.Duration(p.until.Load())
			if t := p.watchTable(b.Table); t.known {
				limit = t.record.limits().Of(b.Kind)
				for _, u := range a.uses { // here at once, elsewhere when the leader has heard of them
					if u.Limit != nil {
						limit = share.Lowest(limit, *u.Limit)
					}
				}
			}
			part = p.grants()[b].Part
		}
		if deadline != a.deadline {
			a.deadline = deadline
			a.Deadline(deadline)
		}
		if part != a.part {
			a.part = part
			a.Grant(part)
		}
		if limit != a.limit {
			a.limit = limit
			a.Limit(limit)
		}
	}
}

// wants are what the accounts could use.
func (m *Member) wants() []want {
	var all []want
	for b, a := range m.accounts {
		if len(a.uses) == 0 {
			continue
		}
		demand := a.Demand()
		if math.IsInf(demand, 1) {
			demand = -1
		}
		classes := map[int]*want{}
		for _, u := range a.uses {
			w := classes[u.Class]
			if w == nil {
				w = &want{budget: b, Demand: demand, Class: u.Class}
				classes[u.Class] = w
			}
			w.Weight += max(u.Weight, 0)
			if u.Weight == 0 {
				w.Weight++
			}
			if u.Cap > 0 && (w.Cap == 0 || u.Cap < w.Cap) {
				w.Cap = u.Cap
			}
			if u.Limit != nil {
				low := *u.Limit
				if w.Limit != nil {
					low = share.Lowest(low, *w.Limit)
				}
				w.Limit = &low
			}
		}
		for _, w := range classes {
			all = append(all, *w)
		}
	}
	return all
}

// Budget gives the account that everything this process does to a table is paid from, and says that who, such as a run, uses
// it from now on until release. What comes of that takes as long as a beat and an order; until then the account gives nothing.
func (m *Member) Budget(table string, kind share.Kind, who string, u Use) (a *share.Account, release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := budget{table, kind}
	acc := m.accounts[b]
	if acc == nil {
		acc = &account{Account: share.NewAccount(m.c.Clock), uses: map[string]Use{}}
		m.accounts[b] = acc
	}
	acc.uses[who] = u
	if m.now != nil {
		m.now.tell()
	}
	m.wake()
	return acc.Account, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(acc.uses, who)
		if m.now != nil {
			m.now.tell()
		}
		m.wake()
	}
}

func (m *Member) wake() {
	select {
	case m.woken <- struct{}{}:
	default:
	}
}

// Drain gives all shards back and takes no more. It returns when none is left here, or ctx ends.
func (m *Member) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.draining = true
	if m.now != nil {
		m.now.tell()
	}
	m.mu.Unlock()
	m.wake()
	for {
		m.mu.Lock()
		p := m.now
		idle := p == nil || len(p.order.Shards) == 0 && p.idle()
		m.mu.Unlock()
		if idle {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("drain: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Alert is why everything is held, "" when it is not.
func (m *Member) Alert() string { return m.memory.alert() }

// Leads tells whether this member leads now, and in which term.
func (m *Member) Leads() (term int32, leads bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now == nil || m.now.lead == nil {
		return 0, false
	}
	return m.now.lead.term, true
}

// ID is the present incarnation's, "" without one.
func (m *Member) ID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now == nil {
		return ""
	}
	return m.now.id
}

// employ starts work on a run.
func (p *present) employ(at string) *work {
	r := p.runs[at]
	ctx, cancel := context.WithCancel(p.ctx)
	w := &work{p: p, at: at, cancel: cancel, handles: map[int]*handle{}}
	p.works[at] = w
	key, rec := r.key, r.record
	p.m.works.Go(func() {
		defer cancel()
		err := w.run(ctx, key, rec)
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		why := ""
		if err != nil && ctx.Err() == nil {
			p.m.log.Warn("work on a run ended", "run", key, "err", err)
			if !errors.Is(err, zookeeper.ErrNotConnected) && !errors.Is(err, zookeeper.ErrSessionLost) {
				why = err.Error()
			}
		}
		for _, h := range w.handles { // none, if it keeps the contract
			h.finish(false, why)
		}
		if why != "" && !p.over {
			p.refuse(at, why)
		}
		w.ended, w.retry = true, p.m.c.Clock()+p.timeout/4
	})
	return w
}

func (w *work) run(ctx context.Context, k runKey, rec runRecord) error {
	p := w.p
	plan, err := readPlan(ctx, p.zk, w.at, rec.Parts)
	if err != nil {
		return err
	}
	p.m.mu.Lock()
	// A name of its own for each time that a run is worked on: its totals begin at nothing, and those before stay.
	p.employed++
	store := checkpoints.OpenZooKeeper(p.zk, w.at, fmt.Sprintf("%s.%d", p.id, p.employed), w.epoch)
	w.store = store
	p.m.mu.Unlock()
	return p.m.c.Work(ctx, Run{
		Job: k.job, ID: k.id, File: rec.Spec.File, Plan: plan, Timestamp: rec.Timestamp, Spec: rec.Spec, Store: beginning{store, w}, SaveEvery: w.saveEvery,
	}, w)
}

// beginning is a store that tells when something was saved.
type beginning struct {
	*checkpoints.ZooKeeperStore
	w *work
}

func (b beginning) Save(ctx context.Context, changed []checkpoints.Checkpoint, t checkpoints.Totals) error {
	err := b.ZooKeeperStore.Save(ctx, changed, t)
	if err == nil && len(changed) > 0 {
		b.w.p.m.mu.Lock()
		b.w.p.began(b.w.at)
		b.w.p.m.mu.Unlock()
	}
	return err
}

const (
	// savesPerSecond is what all workers on a run may save together in a second; a save is one write for all shards of a worker.
	savesPerSecond = 200
	// Saves of a worker are no closer and no further apart than these: what would have to be done again must not grow without bound.
	leastSaveGap = 2 * time.Second
	mostSaveGap  = 10 * time.Second
)

// saveGap is how far apart the saves of a worker are that has some of a run's shards. Its part of all saves is its part of the
// shards, so nobody has to know how many workers there are.
func saveGap(has, shards int) time.Duration {
	gap := time.Duration(float64(shards) / (savesPerSecond * float64(max(1, has))) * float64(time.Second))
	return min(max(gap, leastSaveGap), mostSaveGap)
}

func (w *work) saveEvery() time.Duration {
	w.p.m.mu.Lock()
	defer w.p.m.mu.Unlock()
	shards := 0
	if r := w.p.runs[w.at]; r != nil {
		shards = r.record.Shards
	}
	return saveGap(len(w.handles), shards)
}

// epoch is that of the lease that is in hand. A lease that this process has under another epoch meanwhile is not.
func (w *work) epoch(shard int) (int32, bool) {
	w.p.m.mu.Lock()
	defer w.p.m.mu.Unlock()
	h := w.handles[shard]
	if h == nil || h.unsure || w.p.over {
		return 0, false
	}
	return h.epoch, true
}

// Next implements Leases.
func (w *work) Next(ctx context.Context) (Lease, bool) {
	p, m := w.p, w.p.m
	for {
		m.mu.Lock()
		if p.over || p.stopped || w.ended || ctx.Err() != nil {
			m.mu.Unlock()
			return Lease{}, false
		}
		var next *lease
		for k, l := range p.leases {
			if k.at == w.at && l.state == leaseReady && w.handles[k.n] == nil && (next == nil || k.n < next.key.n) {
				next = l
			}
		}
		if next != nil {
			p.grab(next)
			h := &handle{lease: next, w: w, lost: make(chan struct{}), split: make(chan struct{}, 1)}
			w.handles[next.key.n] = h
			l := Lease{
				Shard: next.shard, From: next.from, Lost: h.lost, Hold: h.hold, Done: h.done, Split: h.split, Cut: h.cut, Whole: h.whole,
			}
			m.mu.Unlock()
			return l, true
		}
		if w.wake == nil {
			w.wake = make(chan struct{})
		}
		wake := w.wake
		m.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return Lease{}, false
		case <-p.ctx.Done():
			return Lease{}, false
		}
	}
}

// lose tells that the right is gone or asked back.
func (h *handle) lose() {
	if !h.gone {
		h.gone = true
		close(h.lost)
	}
}

func (h *handle) hold(ctx context.Context) error {
	p := h.w.p
	for {
		select {
		case <-h.lost:
			return ErrLost
		default:
		}
		if p.m.c.Clock() < time.Duration(p.until.Load()) {
			return nil
		}
		p.m.mu.Lock()
		changed := p.changed
		p.m.mu.Unlock()
		if p.m.c.Clock() < time.Duration(p.until.Load()) {
			return nil
		}
		select {
		case <-changed:
		case <-h.lost:
			return ErrLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hear passes on that the shard is wanted in two, or is not any more.
func (h *handle) hear(now time.Duration) {
	switch {
	case h.gone || !h.asks():
		h.told = 0
		select {
		case <-h.split:
		default:
		}
	case h.told != h.ask && now >= h.again:
		h.told = h.ask
		select {
		case h.split <- struct{}{}:
		default:
		}
	}
}

func (h *handle) cut(ctx context.Context, head, rest jobs.Shard) error {
	p, m := h.w.p, h.w.p.m
	m.mu.Lock()
	gone, err := h.gone || p.over, cuttable(h.shard, head, rest)
	k, _ := p.p.runOf(h.key.at)
	run := p.p.run(k.job, k.id)
	m.mu.Unlock()
	if gone {
		return ErrLost
	}
	if err != nil {
		return err
	}
	_, err = h.w.store.Cut(ctx, checkpoints.Cut{
		Shard: head.N, Run: run,
		Parts: func(have json.RawMessage, n int) (json.RawMessage, json.RawMessage, error) {
			return cutParts(have, head, rest, n)
		},
		Grow: func(data []byte, write string) ([]byte, int, error) { return grow(run, h.key.at, data, write) },
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		p.worker.cut(h.lease, head)
		m.wake()
		return nil
	}
	_, fenced := errors.AsType[*checkpoints.FencedError](err)
	unsettled := errors.Is(err, checkpoints.ErrUnsettled)
	if unsettled {
		h.unsure, p.unsure[h.key] = true, true
	}
	if unsettled || fenced || errors.Is(err, ErrLost) || errors.Is(err, zookeeper.ErrSessionLost) || errors.Is(err, zookeeper.ErrClosed) {
		h.lose()
		return fmt.Errorf("cut shard %d: %w (%w)", head.N, ErrLost, err)
	}
	h.told, h.again = 0, m.c.Clock()+p.timeout/4
	return fmt.Errorf("cut shard %d: %w", head.N, err)
}

func (h *handle) whole() {
	m := h.w.p.m
	m.mu.Lock()
	h.w.p.keep(h.lease)
	m.mu.Unlock()
	m.wake()
}

func (h *handle) done(_ checkpoints.Checkpoint, err error) {
	why := ""
	_, fenced := errors.AsType[*checkpoints.FencedError](err)
	if err != nil && !fenced && !errors.Is(err, ErrLost) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		why = err.Error()
	}
	m := h.w.p.m
	m.mu.Lock()
	h.finish(err == nil, why)
	m.mu.Unlock()
	m.wake()
}

// finish ends a handle.
func (h *handle) finish(done bool, why string) {
	if h.w.handles[h.key.n] != h {
		return
	}
	delete(h.w.handles, h.key.n)
	h.lose()
	if !h.w.p.over {
		h.w.p.let(h.lease, done, why)
	}
}

// squeeze packs a plan, unsqueeze gives it back.
func squeeze(plan []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(plan)
	err = errors.Join(err, z.Close())
	return b.Bytes(), err
}

func unsqueeze(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// reader is what reading a plan needs.
type reader interface {
	Get(ctx context.Context, path string) ([]byte, zookeeper.Stat, error)
}

func readPlan(ctx context.Context, zk reader, at string, parts int) ([]byte, error) {
	var packed []byte
	for i := range parts {
		data, _, err := zk.Get(ctx, fmt.Sprintf("%s/plan/%d", at, i))
		if err != nil {
			return nil, fmt.Errorf("read the plan of %s: %w", at, err)
		}
		packed = append(packed, data...)
	}
	plan, err := unsqueeze(packed)
	if err != nil {
		return nil, fmt.Errorf("read the plan of %s: %w", at, err)
	}
	return plan, nil
}
