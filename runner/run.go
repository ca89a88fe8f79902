package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"drover/budget"
	"drover/checkpoints"
	"drover/crashpoint"
	"drover/deadletters"
	"drover/hbase"
	"drover/jobs"
)

// Bounds of a batch. Within them a batch is what one call carries; a limit makes it smaller, so that the rate stays even.
const (
	maxRows  = 1000
	maxBytes = 1 << 20
	maxCells = 20_000
)

// Defaults of Config.
const (
	DefaultMemory = 64 << 20
	drainFor      = 30 * time.Second // a first signal waits this long for what is in flight
)

// Config is what a run is made of.
type Config struct {
	Job      jobs.Job
	StateDir string // holds a folder per job name
	Budgets  string // folder of this host's table budgets
	Fresh    bool   // start a new run whatever the state folder says
	Limit    int64  // documents; 0 is all. A limited run has an id of its own and never marks the job's run done
	DryRun   bool   // read and map everything, write nothing anywhere
	Memory   int    // bytes in flight; 0 is DefaultMemory
	Shards   int    // moved at once; 0 is one per processor, at least 2
	Log      *slog.Logger
	Monitor  *Monitor

	// Drain ends the run when closed: reading stops, what is in flight is waited for, the watermarks are saved.
	Drain <-chan struct{}
	// Discover tells who the gateways are until ctx ends.
	Discover func(ctx context.Context, update func([]hbase.Endpoint))
}

// table is one target table of the run.
type table struct {
	plan              TablePlan
	regions           atomic.Pointer[hbase.Regions]
	maxRows, maxBytes int
}

// run is one execution under way.
type run struct {
	cfg      Config
	folder   *folder
	plan     *Plan
	log      *slog.Logger
	mon      *Monitor
	mem      *memory
	tables   map[namespace]*table
	pool     *hbase.Pool // nil in a dry run
	saver    *saver
	books    checkpoints.Totals // of earlier processes
	capacity int                // flights that keep every gateway busy
	active   atomic.Int64       // shards being moved
	moving   atomic.Bool        // from the first shard on

	ctx     context.Context
	cancel  context.CancelCauseFunc
	drain   chan struct{}
	drainer sync.Once
	flights sync.WaitGroup
	pacer   *pacer

	retries  atomic.Int64 // of this process
	recycled sync.Pool    // of *flight

	letters *deadletters.Log // nil in a dry run
	dead    atomic.Int64
	limit   *countdown

	mu       sync.Mutex
	failures []error
}

// countdown is a limited run's number of documents.
type countdown struct{ left atomic.Int64 }

func (c *countdown) take() bool { return c.left.Add(-1) >= 0 }

// errLimit ends a shard of a limited run.
var errLimit = errors.New("the limit of documents is reached")

// Run carries the job through, from wherever the state folder says it is. The error, if any, is in the result.
func Run(ctx context.Context, cfg Config) Result {
	began := time.Now()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Monitor == nil {
		cfg.Monitor = &Monitor{}
	}
	if cfg.Memory == 0 {
		cfg.Memory = DefaultMemory
	}
	if cfg.Shards == 0 {
		cfg.Shards = max(2, runtime.GOMAXPROCS(0))
	}
	if cfg.Limit > 0 {
		cfg.Shards = 1
	}
	r := &run{cfg: cfg, log: cfg.Log, mon: cfg.Monitor, mem: &memory{bound: cfg.Memory}, tables: map[namespace]*table{}, drain: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	r.recycled.New = func() any { return &flight{} }

	res := r.execute()
	res.Job = cfg.Job.Name
	res.DryRun = cfg.DryRun
	res.Seconds = seconds(time.Since(began))
	res.PeakRSSBytes = peakRSS()
	return res
}

func (r *run) execute() Result {
	stopWatch := r.watchDrain()
	defer stopWatch()
	if !r.cfg.DryRun {
		f, err := openFolder(r.cfg.StateDir, r.cfg.Job.Name, r.log)
		if err != nil {
			return r.ended(err)
		}
		defer f.close()
		r.folder = f
	}
	defer r.disconnect()
	earlier, err := r.decide()
	if err != nil {
		return r.ended(err)
	}
	if earlier != nil {
		return *earlier
	}
	if err := r.prepare(); err != nil {
		return r.ended(err)
	}
	if err := r.begin(); err != nil {
		return r.ended(err)
	}
	r.move()
	return r.finish()
}

// watchDrain turns the caller's wish to stop into the run's, and after drainFor into an end.
func (r *run) watchDrain() (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-r.cfg.Drain:
		case <-r.drain:
		case <-quit:
			return
		}
		r.startDrain()
		wait := drainFor
		if !r.moving.Load() {
			wait = 0 // nothing is in flight yet, and planning may be waiting for gateways
		}
		select {
		case <-time.After(wait):
			r.cancel(errDrained)
		case <-quit:
		}
	})
	return func() { close(quit); wg.Wait() }
}

func (r *run) startDrain() { r.drainer.Do(func() { close(r.drain) }) }

// fail records what ended the run, and ends it: in order, as far as that is possible.
func (r *run) fail(err error) {
	r.note(err)
	r.startDrain()
}

func (r *run) note(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	r.failures = append(r.failures, err)
	r.mu.Unlock()
}

// decide finds out whether there is a run to resume, to repeat the books of, or to plan, and leaves r.plan and r.saver.
func (r *run) decide() (*Result, error) {
	now := fingerprint(r.cfg.Job)
	if r.cfg.DryRun || r.cfg.Limit > 0 {
		return nil, r.planAnew(now)
	}
	rec, err := r.folder.job()
	if err != nil {
		return nil, err
	}
	if rec.Run == "" || r.cfg.Fresh {
		return nil, r.planAnew(now)
	}
	plan, err := r.folder.plan(rec.Run)
	if errors.Is(err, checkpoints.ErrNone) {
		return nil, r.planAnew(now) // killed between naming the run and saving its plan: nothing was done under it
	}
	if err != nil {
		return nil, err
	}
	last, err := r.folder.result(rec.Run)
	if err != nil {
		return nil, err
	}
	diff := plan.Fingerprint.diff(now)
	changed := r.cfg.Job.Source.Check(r.ctx, plan.Layout)
	var change *jobs.ChangedError
	switch {
	case last != nil && last.ended():
		if changed != nil && !errors.As(changed, &change) {
			return nil, changed
		}
		if len(diff) > 0 || changed != nil {
			r.log.Info("the job's last run is done and what it moved is not what the job says now: starting a new run", "last", rec.Run)
			return nil, r.planAnew(now)
		}
		r.plan = plan
		if err := r.load(); err != nil {
			return nil, err
		}
		res := r.result(last.State, nil)
		res.Again, res.Job = true, r.cfg.Job.Name
		return &res, nil
	case len(diff) > 0:
		return nil, refuse("run %s is not done and cannot go on with another source, map or target table: %s. Put it back, or start a new run with --fresh",
			rec.Run, strings.Join(diff, "; "))
	case changed != nil:
		if errors.As(changed, &change) {
			return nil, refuse("run %s is not done and %v. Put the file back, or start a new run with --fresh", rec.Run, changed)
		}
		return nil, changed
	}
	r.plan = plan
	if err := r.load(); err != nil {
		return nil, err
	}
	r.books.Resumed++
	r.log.Info("resuming", "run", plan.Run, "documents", r.progressBooks().Read)
	return nil, nil
}

func (r *run) progressBooks() checkpoints.Counts {
	c, _, _ := r.saver.books()
	return c
}

// load opens the plan's checkpoints.
func (r *run) load() error {
	store, err := checkpoints.OpenFile(r.folder.runDir(r.plan.Run), r.plan.Run)
	if err != nil {
		return err
	}
	marks, totals, err := store.Load(r.ctx)
	if err != nil {
		return err
	}
	r.folder.warn(store.Warning())
	r.books = totals
	r.saver = newSaver(store, marks)
	return nil
}

// planAnew makes a plan, and its record unless it is a dry run.
func (r *run) planAnew(fp Fingerprint) error {
	r.mon.setPhase("planning")
	now := time.Now()
	ts := now.UnixMilli()
	var rec jobRecord
	if r.folder != nil {
		var err error
		if rec, err = r.folder.job(); err != nil {
			return err
		}
		ts = max(ts, rec.LastTimestamp+1)
	}
	layout, err := r.cfg.Job.Source.Plan(r.ctx, r.cfg.Shards*8)
	if err != nil {
		return err
	}
	tabs, err := tables(r.cfg.Job.Target.Table, layout.Collections)
	if err != nil {
		return err
	}
	p := &Plan{
		Run: newRunID(now), Job: r.cfg.Job.Name, Created: now.UTC(), Timestamp: ts, Fingerprint: fp,
		Layout: layout, Tables: tabs, Limit: r.cfg.Limit,
	}
	for i := range p.Tables {
		t := &p.Tables[i]
		s, err := sample(r.ctx, r.cfg.Job, layout, layout.Collections[i], ts, 10_000, 0)
		if err != nil {
			return fmt.Errorf("sample collection %s: %w", t.namespace(), err)
		}
		t.KeyType = s.KeyType
		if r.cfg.Job.Target.Create {
			t.Splits = splits(s.Keys, r.cfg.Job.Target.Regions)
		}
	}
	r.plan = p
	if r.cfg.DryRun {
		r.saver = newSaver(discard{}, map[int]checkpoints.Checkpoint{})
		return nil
	}
	if err := r.connect(); err != nil {
		return err
	}
	c := cluster{r.pool, hbase.NewAdmin(r.pool)}
	for i := range p.Tables {
		if err := c.checkTable(r.ctx, r.cfg.Job, &p.Tables[i]); err != nil {
			return err
		}
	}
	rec.LastTimestamp = ts
	if p.Limit == 0 {
		rec.Run = p.Run
	}
	// The plan first: a run that is named and has no plan is planned again.
	if err := r.folder.savePlan(p); err != nil {
		return err
	}
	if err := r.folder.saveJob(rec); err != nil {
		return err
	}
	crashpoint.Pass(crashpoint.Planned)
	if err := r.load(); err != nil {
		return err
	}
	r.log.Info("planned", "run", p.Run, "shards", len(layout.Shards), "tables", len(p.Tables), "timestamp", ts)
	return nil
}

// connect makes the pool, once.
func (r *run) connect() error {
	if r.pool != nil {
		return nil
	}
	r.pacer = newPacer()
	g := r.cfg.Job.Gateways
	r.pool = hbase.NewPool(hbase.PoolOptions{
		Transport: g.Transport, Pacer: r.pacer, Connections: g.Connections, OutageLimit: g.OutageLimit, Log: r.log,
		Paused: func(table, reason string) {
			r.mon.setPaused(table, reason)
		},
	})
	r.mon.mu.Lock()
	r.mon.pool = r.pool
	r.mon.mu.Unlock()
	first := make(chan struct{})
	var once sync.Once
	r.flights.Go(func() {
		r.cfg.Discover(r.ctx, func(eps []hbase.Endpoint) {
			r.pool.Update(eps)
			once.Do(func() { close(first) })
		})
	})
	select {
	case <-first:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

func (r *run) disconnect() {
	r.cancel(nil)
	if r.pool != nil {
		r.pool.Close()
	}
	r.flights.Wait()
	if r.letters != nil {
		r.letters.Close()
	}
	if r.pacer != nil {
		r.pacer.close()
	}
}

// prepare makes everything ready to move: tables, regions, budgets, letters.
func (r *run) prepare() error {
	r.mon.setPhase("preparing")
	for _, t := range r.plan.Tables {
		r.tables[t.namespace()] = &table{plan: t, maxRows: maxRows, maxBytes: maxBytes}
	}
	r.capacity = 8
	if r.plan.Limit > 0 {
		r.limit = &countdown{}
		r.limit.left.Store(r.plan.Limit)
	}
	r.dead.Store(r.progressBooks().Dead)
	if r.cfg.DryRun {
		return nil
	}
	if err := r.connect(); err != nil {
		return err
	}
	admin := hbase.NewAdmin(r.pool)
	moved := r.saver.byTable()
	for _, t := range r.tables {
		if err := r.readyTable(admin, t, moved[t.plan.Table].Written); err != nil {
			return err
		}
	}
	crashpoint.Pass(crashpoint.Created)
	if err := r.joinBudgets(admin); err != nil {
		return err
	}
	dir := r.cfg.Job.DeadLetters.To
	if dir == "" {
		dir = r.folder.letters()
	}
	var err error
	if r.letters, err = deadletters.Open(dir, r.plan.Run); err != nil {
		return err
	}
	g := r.cfg.Job.Gateways
	r.capacity = max(len(r.pool.Stats().Gateways), 1)*r.pool.Connections() + 2
	if f := g.Transport; f.Framed {
		frame := f.MaxFrame
		if frame == 0 {
			frame = 2 << 20
		}
		for _, t := range r.tables {
			t.maxBytes = min(t.maxBytes, frame/2)
		}
	}
	return nil
}

// readyTable creates the table if the plan says so and it is still missing, and reads its regions.
func (r *run) readyTable(admin *hbase.Admin, t *table, moved int64) error {
	exists, err := admin.TableExists(r.ctx, t.plan.Table)
	if err != nil {
		return err
	}
	switch {
	case exists:
		info, err := admin.Describe(r.ctx, t.plan.Table)
		if errors.Is(err, hbase.ErrUnknownMethod) {
			break
		}
		if err != nil {
			return err
		}
		if err := hasFamilies(r.cfg.Job, t.plan.Table, info); err != nil {
			return err
		}
	case moved > 0:
		return refuse("table %s is gone, and run %s had written %d rows to it: bring it back, or start a new run with --fresh", t.plan.Table, r.plan.Run, moved)
	case !t.plan.Create:
		return refuse("table %s does not exist any more: bring it back, or set target.create: true and start a new run with --fresh", t.plan.Table)
	default:
		spec := hbase.TableSpec{Name: t.plan.Table, Families: r.cfg.Job.Target.Families, Splits: t.plan.Splits}
		r.log.Info("creating table", "table", t.plan.Table, "regions", len(t.plan.Splits)+1)
		if err := admin.Create(r.ctx, spec); err != nil {
			return err
		}
	}
	return r.refreshRegions(t)
}

// refreshRegions reads where a table's rows live. It only steers grouping, so what cannot be read leaves it as it was.
func (r *run) refreshRegions(t *table) error {
	reg, err := r.pool.Regions(r.ctx, t.plan.Table)
	if err != nil {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		r.log.Debug("regions not read", "table", t.plan.Table, "error", err)
		return nil
	}
	t.regions.Store(reg)
	return nil
}

const regionsEvery = 30 * time.Second

func (r *run) watchRegions(ctx context.Context) {
	tick := time.NewTicker(regionsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, t := range r.tables {
			if reg, err := r.pool.Regions(ctx, t.plan.Table); err == nil {
				t.regions.Store(reg)
			}
		}
	}
}

// joinBudgets takes part in each table's budget of this host.
func (r *run) joinBudgets(admin *hbase.Admin) error {
	l := r.cfg.Job.Limits
	cluster, err := admin.ClusterID(r.ctx)
	if errors.Is(err, hbase.ErrUnknownMethod) {
		cluster, err = strings.Join(slices.Sorted(slices.Values(r.cfg.Job.Gateways.Static)), ","), nil
	}
	if err != nil {
		return err
	}
	for _, t := range r.tables {
		m, err := budget.Join(r.cfg.Budgets, t.plan.Table+"@"+cluster, budget.Limits{Rows: l.Rows, Bytes: l.Bytes})
		if err != nil {
			return fmt.Errorf("join the budget of table %s: %w", t.plan.Table, err)
		}
		r.pacer.add(t.plan.Table, m)
		// A batch is at most a tenth of a second's budget, so that the rate stays even and others get their turn.
		if in := m.Limits(); in.Rows > 0 {
			t.maxRows = int(min(int64(t.maxRows), max(1, in.Rows/10)))
		}
		if in := m.Limits(); in.Bytes > 0 {
			t.maxBytes = int(min(int64(t.maxBytes), max(1, in.Bytes/10)))
		}
	}
	return nil
}

// begin records that a process is at work: if it dies, what the process before it said of its end is no longer true.
func (r *run) begin() error {
	if r.folder == nil {
		return nil
	}
	return r.folder.saveResult(r.plan.Run, resultRecord{State: Running, Ended: time.Now().UTC()})
}

// move runs the shards that are not done.
func (r *run) move() {
	r.mon.setPhase("moving")
	r.moving.Store(true)
	var total int64
	for _, s := range r.plan.Layout.Shards {
		total += s.Bytes
	}
	r.mon.mu.Lock()
	r.mon.run, r.mon.total, r.mon.shards, r.mon.current = r.plan.Run, total, len(r.plan.Layout.Shards), r.saver.books
	r.mon.mu.Unlock()
	r.saver.mon = r.mon
	r.saver.totals = r.totals
	r.saver.letters = func() error {
		if r.letters == nil {
			return nil
		}
		return r.letters.Sync()
	}
	leases := newAllShards(r.plan.Layout.Shards, r.saver.latest)
	aside, stop := context.WithCancel(r.ctx)
	var helpers, workers sync.WaitGroup
	helpers.Go(func() { r.saver.loop(aside, r.fail) })
	if r.pool != nil {
		helpers.Go(func() { r.watchRegions(aside) })
	}
	for range min(r.cfg.Shards, max(1, leases.left())) {
		workers.Go(func() { r.work(leases) })
	}
	workers.Wait()
	stop()
	helpers.Wait()
}

// work moves shards until none is left or the run ends.
func (r *run) work(leases Leases) {
	for {
		select {
		case <-r.drain:
			return
		default:
		}
		spec, from, ok := leases.Next(r.ctx)
		if !ok {
			return
		}
		r.active.Add(1)
		err := r.newShard(spec, from).move(r.ctx)
		r.active.Add(-1)
		switch {
		case err == nil:
		case errors.Is(err, errLimit):
			r.startDrain()
			return
		case errors.Is(err, errDrained):
			return
		default:
			r.shardFailed(spec, err)
		}
	}
}

// window is how many flights one shard may have: its part of what keeps every gateway busy, and one more to have ready.
func (r *run) window() int {
	return r.capacity/int(max(1, r.active.Load())) + 1
}

// shardFailed decides whether a shard's end is the run's: a broken file or a faulty table leaves the others to go on.
func (r *run) shardFailed(spec jobs.Shard, err error) {
	var broken *jobs.BrokenError
	var tableErr *hbase.TableError
	if errors.As(err, &broken) || errors.As(err, &tableErr) {
		r.log.Error("shard failed, the others go on", "shard", spec.N, "error", err)
		r.note(err)
		return
	}
	r.fail(err)
}

// finish saves what is settled and says how the run ended.
func (r *run) finish() Result {
	r.mon.setPhase("ending")
	// The last save is not bound to the run's context: a second signal ends what is in flight, not this.
	if err := r.saver.save(context.WithoutCancel(r.ctx)); err != nil {
		r.note(err)
	}
	r.mu.Lock()
	failures := slices.Clone(r.failures)
	r.mu.Unlock()
	if len(failures) > 0 {
		return r.ended(worst(failures))
	}
	_, _, ended := r.saver.books()
	switch {
	case r.cfg.DryRun || r.plan.Limit > 0:
		if stopped(r.cfg.Drain) {
			return r.ended(errDrained)
		}
		return r.close(Partial)
	case ended < len(r.plan.Layout.Shards):
		return r.ended(errDrained)
	}
	crashpoint.Pass(crashpoint.BooksClose)
	state := Done
	if r.progressBooks().Dead > 0 {
		state = DeadLetters
	}
	return r.close(state)
}

func stopped(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// worst picks the failure to show: one that needs a person before one that does not.
func worst(errs []error) error {
	for _, err := range errs {
		if s, _ := stateOf(err); s == Failed {
			return err
		}
	}
	return errs[0]
}

// close marks the run as ended in its record.
func (r *run) close(state State) Result {
	res := r.result(state, nil)
	if r.folder == nil {
		return res
	}
	if err := r.folder.saveResult(r.plan.Run, resultRecord{State: state, Ended: time.Now().UTC()}); err != nil {
		return r.ended(err)
	}
	crashpoint.Pass(crashpoint.MarkedDone)
	return res
}

// ended gives the result of a run that an error ended, and records it as far as possible: the record is for people.
func (r *run) ended(err error) Result {
	state, reason := stateOf(err)
	if state == Running {
		return r.runningElsewhere(reason)
	}
	res := r.result(state, err)
	res.Reason = reason
	if r.folder != nil && r.plan != nil && r.saver != nil {
		if rerr := r.folder.saveResult(r.plan.Run, resultRecord{State: state, Reason: reason, Ended: time.Now().UTC()}); rerr != nil {
			r.log.Warn("the run's end is not recorded; its progress is", "error", rerr)
		}
	}
	return res
}

// stateOf says what an error makes of a run, and in which words.
func stateOf(err error) (State, string) {
	var stop *StopError
	var outage *hbase.OutageError
	var tableErr *hbase.TableError
	var locked *checkpoints.LockedError
	switch {
	case errors.As(err, &locked):
		return Running, err.Error()
	case errors.Is(err, errDrained), errors.Is(err, context.Canceled):
		return Stopped, "stopped on request: run the same command again to go on"
	case errors.As(err, &stop), errors.As(err, &outage), errors.As(err, &tableErr):
		return Stopped, err.Error()
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return Stopped, err.Error() // what to do is said where it is written
	}
	return Failed, err.Error()
}

func (r *run) totals() checkpoints.Totals {
	t := r.books
	t.Retries += r.retries.Load()
	if r.pacer != nil {
		t.Limited += r.pacer.limited()
	}
	return t
}

// result gives the books as they are.
func (r *run) result(state State, err error) Result {
	res := Result{Job: r.cfg.Job.Name, State: state, Err: err, Tables: []TableBooks{}}
	if r.plan != nil {
		res.Run, res.Timestamp, res.Shards = r.plan.Run, r.plan.Timestamp, len(r.plan.Layout.Shards)
	}
	if r.saver == nil {
		return res
	}
	t := r.totals()
	res.Retries, res.LimitedSeconds, res.Resumed = t.Retries, seconds(t.Limited), t.Resumed
	by := r.saver.byTable()
	if r.folder != nil {
		replays, rerr := r.folder.replays(r.cfg.Job, r.plan)
		if rerr != nil {
			r.log.Warn("replays are not counted", "error", rerr)
		}
		for name, c := range replays {
			sum := by[name]
			sum.Add(c)
			by[name] = sum
		}
	}
	for _, tp := range r.plan.Tables {
		c := by[tp.Table]
		res.Tables = append(res.Tables, TableBooks{Table: tp.Table, Collection: tp.Collection, Counts: c})
	}
	for c := range maps.Values(by) {
		res.Counts.Add(c)
	}
	if (state == Done || state == DeadLetters) && res.Dead == 0 {
		res.State = Done // what was dead has been replayed since
	}
	return res
}

func (r *run) account(a hbase.Applied) {
	if a.Attempts > 1 {
		r.retries.Add(int64(a.Attempts - 1))
	}
}

// apply sends a batch, or in a dry run does not.
func (r *run) apply(ctx context.Context, table string, b *hbase.Batch) (hbase.Applied, error) {
	if r.pool == nil {
		return hbase.Applied{}, nil
	}
	return r.pool.Apply(ctx, table, b)
}

func (r *run) newFlight(l *lane, g *group) *flight {
	f := r.recycled.Get().(*flight)
	f.lane, f.group, f.opened = l, g, time.Now()
	f.batch = hbase.AcquireBatch(r.cfg.Job.Target.Durability)
	return f
}

func (r *run) recycle(f *flight) {
	f.batch.Release()
	clear(f.items)
	*f = flight{items: f.items[:0]}
	r.recycled.Put(f)
}

// bury writes a dead letter, unless that would be one more than the job allows.
func (r *run) bury(spec jobs.Shard, p place, stage, reason string, attempts int, key []byte) error {
	position := string(p.chunk.At(int(p.i)))
	n := r.dead.Add(1)
	allowed := r.cfg.Job.DeadLetters.Max
	if r.letters == nil { // a dry run buries nothing, and shows the first few
		if n <= 10 {
			r.log.Warn("would be a dead letter", "collection", p.chunk.Collection, "position", position, "reason", reason)
		}
		return nil
	}
	if allowed != jobs.Unlimited && n > allowed {
		return &StopError{Reason: fmt.Sprintf("a document cannot be moved and dead_letters.max is %d: shard %d, position %s, %s: %s. Mend the cause, or raise dead_letters.max, and run the same command again",
			allowed, spec.N, position, stage, reason)}
	}
	return r.letters.Append(deadletters.Letter{
		Run: r.plan.Run, Shard: spec.N, Position: position, Collection: p.chunk.Collection, Table: p.chunk.lane.table.plan.Table,
		Key: fmt.Sprintf("%x", key), Stage: stage, Reason: reason, Attempts: attempts, Raw: p.chunk.Docs[p.i], Time: time.Now().UTC(),
	})
}

// discard is the store of a dry run.
type discard struct{}

func (discard) Load(context.Context) (map[int]checkpoints.Checkpoint, checkpoints.Totals, error) {
	return nil, checkpoints.Totals{}, nil
}

func (discard) Save(context.Context, []checkpoints.Checkpoint, checkpoints.Totals) error { return nil }
