package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"drover/checkpoints"
	"drover/hbase"
)

// Pooled is a run that several processes work on, as one of them gets it.
type Pooled struct {
	Run    string
	Plan   []byte            // what MakePlan gave
	Store  checkpoints.Store // of this process's leases; it refuses all other shards with a *checkpoints.FencedError
	Leases Leases

	// SaveEvery is how far apart saves are to be at present; the ends of shards do not wait for it. nil is two seconds.
	SaveEvery func() time.Duration

	Resumed bool // it counts as taken up again
}

// MakePlan plans a job that a pool will carry through, and gives the plan with its text for Pooled. The plan's timestamp is
// above after, that of the job's last plan. Nothing is written anywhere: the table, if there is none, is created by whoever works
// on the run first. Where a table alone speaks against it, the plan comes with the error.
func MakePlan(ctx context.Context, cfg Config, after int64) (*Plan, []byte, error) {
	r := newRun(ctx, cfg)
	defer r.disconnect()
	if err := r.attach(); err != nil {
		return nil, nil, err
	}
	p, err := r.makePlan(fingerprint(r.cfg.Job), time.Now(), after)
	if err != nil {
		return nil, nil, err
	}
	p.Run = ""
	if err := r.checkTables(p); err != nil {
		return p, nil, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, nil, fmt.Errorf("write the plan: %w", err)
	}
	return p, text, nil
}

// Work moves the shards that leases hands out, until it hands out no more or ctx ends; it returns when none is in its hands. An
// error says that this process can do nothing for the run at present; a shard's own trouble is told to its lease.
func Work(ctx context.Context, cfg Config, p Pooled) error {
	r := newRun(ctx, cfg)
	r.shared, r.leases = true, p.Leases
	stopWatch := r.watchDrain()
	defer stopWatch()
	defer r.disconnect()
	var plan Plan
	if err := json.Unmarshal(p.Plan, &plan); err != nil {
		return fmt.Errorf("read the plan of run %s: %w", p.Run, err)
	}
	plan.Run = p.Run
	r.plan = &plan
	if p.Resumed {
		r.books.Resumed = 1
	}
	if err := r.attach(); err != nil {
		return err
	}
	if diff := plan.Fingerprint.diff(fingerprint(r.cfg.Job)); len(diff) > 0 {
		return refuse("run %s was planned for another source, map or target table than this host sees: %s", p.Run, diff[0])
	}
	r.saver = newSaver(p.Store, map[int]checkpoints.Checkpoint{})
	r.saver.shared, r.saver.every = true, p.SaveEvery
	if err := r.prepare(); err != nil {
		return err
	}
	hear := r.hearDead(p.Store)
	hear() // before the first of its own: an earlier process may have ended at the bound
	var watch sync.WaitGroup
	watching, stopWatching := context.WithCancel(r.ctx)
	watch.Go(func() {
		tick := time.NewTicker(hearEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				hear()
			case <-watching.Done():
				return
			}
		}
	})
	r.move()
	stopWatching()
	watch.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.failures {
		if !ofShard(err) { // whose lease was told
			return err
		}
	}
	return nil
}

// hearEvery is how often a process asks how many letters the others have written.
const hearEvery = 5 * time.Second

// hearDead gives what adds the others' dead letters to this process's, so that dead_letters.max is one number for all of them: a run goes
// over it by what dies within hearEvery, at most.
func (r *run) hearDead(store checkpoints.Store) func() {
	sums, can := store.(interface {
		SumTotals(ctx context.Context) (checkpoints.Totals, error)
	})
	if !can || r.cfg.Job.DeadLetters.Max <= 0 { // with 0 the first one ends it
		return func() {}
	}
	return func() {
		if t, err := sums.SumTotals(r.ctx); err == nil {
			r.others.Store(max(0, t.Dead-r.saver.told()))
		}
	}
}

func newRun(ctx context.Context, cfg Config) *run {
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
		cfg.Shards = defaultShards()
	}
	r := &run{cfg: cfg, log: cfg.Log, mon: cfg.Monitor, mem: &memory{bound: cfg.Memory, readers: cfg.Shards}, tables: map[namespace]*table{}, drain: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.recycled.Most, r.windows.Most = recycledMost, windowsMost
	return r
}

// saveAgain is how long a shard that ends waits before it tries again to save what it settled.
const saveAgain = 200 * time.Millisecond

// giveBack saves what was settled of a shard that ended, as far as its store takes it, and tells the lease.
func (r *run) giveBack(l Lease, s *shard, err error) {
	for !r.saver.durable(l.Shard.N) {
		serr := r.saver.save(r.ctx)
		if _, fenced := errors.AsType[*checkpoints.FencedError](serr); serr == nil || fenced {
			continue
		}
		r.log.Debug("checkpoint is not saved", "shard", l.Shard.N, "error", serr)
		if errors.Is(serr, checkpoints.ErrGone) {
			err = errors.Join(err, serr)
			break
		}
		select {
		case <-time.After(saveAgain):
			continue
		case <-r.ctx.Done():
		}
		break
	}
	c := r.saver.leave(l.Shard.N)
	switch {
	case err == nil && !c.Done:
		err = ErrLost // it was moved to its end, and may not be said to be
	case err == nil, errors.Is(err, ErrLost), ofShard(err):
	case errors.Is(err, hbase.ErrClosed), errors.Is(err, errDrained):
		err = context.Canceled // the run ends here, for a reason that is no fault of the shard's
	}
	l.Done(c, err)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
