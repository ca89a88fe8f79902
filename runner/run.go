package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"drover/checkpoints"
	"drover/deadletters"
	"drover/hbase"
	"drover/jobs"
	"drover/spare"
)

// Bounds of a batch. Within them a batch is what one call carries; a limit makes it smaller, so that the rate stays even.
const (
	maxRows  = 1000
	maxBytes = 1 << 20
	maxCells = 20_000
)

// Defaults of Config.
const (
	DefaultMemory = 32 << 20
	// TableMemory is for a source that is a table: region servers stand still for half a second and more, to flush or to collect, and
	// there are twice as many that may, those that are read and those that are written. Less memory is full before they go on.
	TableMemory = 64 << 20

	drainFor = 30 * time.Second // a first signal waits this long for what is in flight
)

// Config is what a run is made of.
type Config struct {
	Job      jobs.Job
	StateDir string // holds a folder per job name
	Budgets  string // folder of this host's table budgets, where Budget is nil
	Fresh    bool   // start a new run whatever the state folder says
	Limit    int64  // documents; 0 is all. A limited run has an id of its own and never marks the job's run done
	DryRun   bool   // read and map everything, write nothing anywhere
	Memory   int    // bytes in flight; 0 is DefaultMemory
	Shards   int    // moved at once; 0 is one per processor, at least 2
	Log      *slog.Logger
	Monitor  *Monitor

	// Budget gives a table's budget that is shared beyond this host. May be nil.
	Budget func(table, cluster string) (Budget, error)

	// Letters keeps the dead letters where Job.DeadLetters.Table says so. nil is a folder.
	Letters LetterStore

	// Drain ends the run when closed: reading stops, what is in flight is waited for, the watermarks are saved.
	Drain <-chan struct{}
	// Open makes the gateways ready, once, when the job's lock is held and HBase is needed; before Discover. May be nil.
	Open func() error
	// Dial makes the connections to the job's gateways. nil is TCP.
	Dial hbase.DialFunc
	// Attach gives a source that reads from HBase its way there, and completes the job by what it finds: once, when the job's
	// lock is held and before the source is used. own is the pool of the job's gateways. detach comes at the run's end, before
	// own closes. nil for all other sources.
	Attach func(ctx context.Context, own *hbase.Pool, j *jobs.Job) (detach func(), err error)
	// Discover tells who the gateways are until ctx ends. Its error is what waiting cannot mend, and ends the run.
	Discover func(ctx context.Context, update func([]hbase.Endpoint)) error
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
	pool     *hbase.Pool // nil until connected, and in a dry run that reads no table
	detach   func()      // nil until attached
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
	leases  Leases
	shared  bool // several processes work on the run: each saves its own shards, and what cannot be saved now is saved later

	calls    atomic.Int64 // of this process
	retries  atomic.Int64 // the same
	recycled spare.List[*flight]
	windows  spare.List[*checkpoints.Window[place]] // empty, of shards that ended

	letters deadletters.Sink // nil in a dry run
	dead    atomic.Int64
	others  atomic.Int64 // dead letters of other processes of the run, as last heard
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
	if cfg.Limit > 0 {
		cfg.Shards = 1
	}
	r := newRun(ctx, cfg)
	defer r.cancel(nil)

	res := r.execute()
	res.Job = cfg.Job.Name
	res.DryRun = cfg.DryRun
	res.Seconds = seconds(time.Since(began))
	res.PeakRSSBytes = PeakRSS()
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
	if err := r.attach(); err != nil {
		return r.ended(err)
	}
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
	if r.leases == nil {
		r.leases = newAllShards(r.plan.Layout.Shards, r.saver.latest)
	}
	aside, stop := context.WithCancel(r.ctx)
	var helpers, workers sync.WaitGroup
	helpers.Go(func() { r.saver.loop(aside, r.fail) })
	if !r.cfg.DryRun {
		helpers.Go(func() { r.watchRegions(aside) })
		helpers.Go(func() { r.pacer.tend(aside, r.well) })
	}
	r.work(&workers)
	workers.Wait()
	stop()
	helpers.Wait()
}

// tails is how many shards may be under way for each one that is read.
const tails = 4

// work starts shards until none is left or the run ends. A shard that is read to its end makes room for the next one while
// its last rows are on their way: a single row that takes long must not leave the gateways idle.
func (r *run) work(workers *sync.WaitGroup) {
	ctx, stop := context.WithCancel(r.ctx)
	defer stop()
	go func() {
		select {
		case <-r.drain:
			stop()
		case <-ctx.Done():
		}
	}()
	reading := make(chan struct{}, r.cfg.Shards)
	under := make(chan struct{}, tails*r.cfg.Shards)
	for {
		for _, room := range []chan struct{}{under, reading} {
			select {
			case room <- struct{}{}:
			case <-r.drain:
				return
			case <-r.ctx.Done():
				return
			}
		}
		l, ok := r.leases.Next(ctx)
		if !ok {
			return
		}
		r.active.Add(1)
		wasRead := sync.OnceFunc(func() {
			r.active.Add(-1)
			<-reading
		})
		workers.Go(func() {
			if r.shared {
				r.saver.take(l.From)
			}
			s := r.newShard(l)
			err := s.move(r.ctx, wasRead)
			wasRead()
			if s.win.Len() == 0 {
				r.windows.Put(s.win, s.win.Room()*slotBytes)
			}
			if err != nil && !ofShard(err) && closed(l.Lost) {
				err = ErrLost // and all that came of that
			}
			switch {
			case err == nil, errors.Is(err, errDrained), errors.Is(err, ErrLost):
			case errors.Is(err, errLimit):
				r.startDrain()
			default:
				r.shardFailed(s.spec, err)
			}
			if l.Done != nil {
				r.giveBack(l, s, err)
			}
			<-under
		})
	}
}

// window is how many flights one shard may have: its part of what keeps every gateway busy, and one more to have ready.
func (r *run) window() int {
	return r.capacity/int(max(1, r.active.Load())) + 1
}

func defaultShards() int { return max(2, runtime.GOMAXPROCS(0)) }

// well tells whether the gateways are, for a ramp to go on: most take part.
func (r *run) well() bool {
	s := r.pool.Stats()
	up := 0
	for _, g := range s.Gateways {
		if g.State == "healthy" || g.State == "slow" {
			up++
		}
	}
	return !s.Out && 2*up > len(s.Gateways)
}

// shardFailed decides whether a shard's end is the run's: a broken file or a faulty table leaves the others to go on.
func (r *run) shardFailed(spec jobs.Shard, err error) {
	if ofShard(err) {
		r.log.Error("shard failed, the others go on", "shard", spec.N, "error", err)
		r.note(err)
		return
	}
	r.fail(err)
}

func ofShard(err error) bool {
	var broken *jobs.BrokenError
	var tableErr *hbase.TableError
	return errors.As(err, &broken) || errors.As(err, &tableErr)
}

// apply sends a batch, or in a dry run does not.
func (r *run) apply(ctx context.Context, table string, b *hbase.Batch) (hbase.Applied, error) {
	if r.cfg.DryRun {
		return hbase.Applied{}, nil
	}
	return r.pool.Apply(ctx, table, b)
}

// What is kept of flights and of windows, in bytes.
const recycledMost, windowsMost = 4 << 20, 8 << 20

func (r *run) newFlight(l *lane, g *group) *flight {
	f := r.recycled.Get()
	if f == nil {
		f = new(flight)
	}
	f.lane, f.group, f.opened, f.ctx = l, g, time.Now(), g.ctx
	f.maxRows, f.maxBytes = l.batch()
	f.batch = hbase.AcquireBatch(r.cfg.Job.Target.Durability)
	return f
}

func (r *run) recycle(f *flight) {
	f.batch.Release()
	clear(f.items)
	*f = flight{items: f.items[:0]}
	r.recycled.Put(f, cap(f.items)*itemBytes)
}

// bury writes a dead letter, unless that would be one more than the job allows.
func (r *run) bury(spec jobs.Shard, p place, stage, reason string, attempts int, key []byte) error {
	position := string(p.chunk.At(int(p.i)))
	n := r.dead.Add(1) + r.others.Load()
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
	l := deadletters.Letter{
		Run: r.plan.Run, Shard: spec.N, Position: position, Collection: p.chunk.Collection, Table: p.chunk.lane.table.plan.Table,
		Key: fmt.Sprintf("%x", key), Stage: stage, Reason: reason, Attempts: attempts, Raw: p.chunk.Docs[p.i], Time: time.Now().UTC(),
	}
	if source, ok := r.cfg.Job.Source.(jobs.Renderer); ok {
		l.Show(source.Render)
	}
	return r.letters.Append(l)
}

// discard is the store of a dry run.
type discard struct{}

func (discard) Load(context.Context) (map[int]checkpoints.Checkpoint, checkpoints.Totals, error) {
	return nil, checkpoints.Totals{}, nil
}

func (discard) Save(context.Context, []checkpoints.Checkpoint, checkpoints.Totals) error { return nil }
