package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drover/budget"
	"drover/crashpoint"
	"drover/hbase"
)

// table is one target table of the run.
type table struct {
	plan              TablePlan
	regions           atomic.Pointer[hbase.Regions]
	maxRows, maxBytes int
	paced             *paced // nil in a dry run
}

// connect makes the pool, once.
func (r *run) connect() error {
	if r.pool != nil {
		return nil
	}
	if r.cfg.Open != nil {
		if err := r.cfg.Open(); err != nil {
			return err
		}
	}
	r.pacer = newPacer(r.log)
	g := r.cfg.Job.Gateways
	r.pool = hbase.NewPool(hbase.PoolOptions{
		Transport: g.Transport, Dial: r.cfg.Dial, Pacer: r.pacer, Connections: g.Connections, Subset: g.Subset, OutageLimit: g.OutageLimit, Log: r.log,
		Paused: func(table, reason string) {
			r.mon.setPaused(table, reason)
		},
	})
	r.mon.mu.Lock()
	r.mon.pool, r.mon.pacer = r.pool, r.pacer
	r.mon.mu.Unlock()
	first := make(chan struct{})
	var once sync.Once
	r.flights.Go(func() {
		err := r.cfg.Discover(r.ctx, func(eps []hbase.Endpoint) {
			r.pool.Update(eps)
			once.Do(func() { close(first) })
		})
		if err != nil {
			r.cancel(err)
		}
	})
	var late <-chan time.Time
	if g.OutageLimit > 0 {
		late = time.After(g.OutageLimit)
	}
	select {
	case <-first:
		return nil
	case <-late:
		return &hbase.OutageError{For: g.OutageLimit}
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// attach connects a source that reads from HBase.
func (r *run) attach() error {
	if r.cfg.Attach == nil {
		return nil
	}
	r.mon.setPhase("connecting")
	if err := r.connect(); err != nil {
		return err
	}
	var err error
	r.detach, err = r.cfg.Attach(r.ctx, r.pool, &r.cfg.Job)
	return err
}

func (r *run) disconnect() {
	r.cancel(nil)
	if r.detach != nil {
		r.detach()
	}
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
	var err error
	if r.letters, err = r.openLetters(); err != nil {
		return err
	}
	g := r.cfg.Job.Gateways
	used := max(len(r.pool.Stats().Gateways), 1)
	if g.Subset > 0 {
		used = min(used, g.Subset)
	}
	r.capacity = used*r.pool.Connections() + 2
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
		err := admin.Create(r.ctx, spec)
		if err != nil && r.shared {
			if there, terr := admin.TableExists(r.ctx, t.plan.Table); terr == nil && there {
				err = nil // another process of the run was faster
			}
		}
		if errors.Is(err, hbase.ErrUnknownMethod) {
			return refuse("the gateways are of HBase 1.x and cannot create table %s: create it in the hbase shell, then run again: %s", t.plan.Table, hbase.ShellCreate(spec))
		}
		if err != nil {
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

// A batch is at most this part of a second's limit, so that the rate stays even and others get their turn.
const ofSecond, ofSecondShared = 10, 50

// joinBudgets takes part in each table's budget: the one that was given, or this host's.
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
		in, part := budget.Limits{Rows: l.Rows, Bytes: l.Bytes}, int64(ofSecond)
		if r.cfg.Budget != nil {
			b, err := r.cfg.Budget(t.plan.Table, cluster)
			if err != nil {
				return fmt.Errorf("take part in the budget of table %s: %w", t.plan.Table, err)
			}
			t.paced, part = r.pacer.add(t.plan.Table, b, r.cfg.Job), ofSecondShared
		} else {
			m, err := budget.Join(r.cfg.Budgets, t.plan.Table+"@"+cluster, in)
			if err != nil {
				return fmt.Errorf("join the budget of table %s: %w", t.plan.Table, err)
			}
			t.paced, in = r.pacer.add(t.plan.Table, m, r.cfg.Job), m.Limits()
		}
		if in.Rows > 0 {
			t.maxRows = int(min(int64(t.maxRows), max(1, in.Rows/part)))
		}
		if in.Bytes > 0 {
			t.maxBytes = int(min(int64(t.maxBytes), max(1, in.Bytes/part)))
		}
	}
	return nil
}
