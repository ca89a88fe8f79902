package runner

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"drover/checkpoints"
	"drover/crashpoint"
	"drover/hbase"
	"drover/jobs"
)

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
	var rec jobRecord
	if r.folder != nil {
		var err error
		if rec, err = r.folder.job(); err != nil {
			return err
		}
	}
	p, err := r.makePlan(fp, time.Now(), rec.LastTimestamp)
	if err != nil {
		return err
	}
	r.plan = p
	if r.cfg.DryRun {
		r.saver = newSaver(discard{}, map[int]checkpoints.Checkpoint{})
		return nil
	}
	if err := r.checkTables(p); err != nil {
		return err
	}
	rec.LastTimestamp = p.Timestamp
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
	r.log.Info("planned", "run", p.Run, "shards", len(p.Layout.Shards), "tables", len(p.Tables), "timestamp", p.Timestamp)
	return nil
}

// makePlan cuts the source, samples it and names the tables, without asking HBase. The timestamp is above after.
func (r *run) makePlan(fp Fingerprint, now time.Time, after int64) (*Plan, error) {
	ts := max(now.UnixMilli(), after+1)
	layout, err := r.cfg.Job.Source.Plan(r.ctx, cmp.Or(r.cfg.Job.Shards, r.cfg.Shards*8))
	if err != nil {
		return nil, err
	}
	tabs, err := tables(r.cfg.Job.Target.Table, layout.Collections)
	if err != nil {
		return nil, err
	}
	p := &Plan{
		Run: newRunID(now), Job: r.cfg.Job.Name, Created: now.UTC(), Timestamp: ts, Fingerprint: fp,
		Layout: layout, Tables: tabs, Limit: r.cfg.Limit,
	}
	for i := range p.Tables {
		t := &p.Tables[i]
		s, err := sample(r.ctx, r.cfg.Job, layout, layout.Collections[i], ts, 10_000, 0)
		if err != nil {
			return nil, fmt.Errorf("sample collection %s: %w", t.namespace(), err)
		}
		t.KeyType = s.KeyType
		if r.cfg.Job.Target.Create {
			t.Splits = splits(s.Keys, r.cfg.Job.Target.Regions)
		}
	}
	return p, nil
}

// checkTables compares the plan's tables with those of HBase, and notes which are to be created.
func (r *run) checkTables(p *Plan) error {
	if err := r.connect(); err != nil {
		return err
	}
	c := cluster{r.pool, hbase.NewAdmin(r.pool)}
	for i := range p.Tables {
		if err := c.checkTable(r.ctx, r.cfg.Job, &p.Tables[i]); err != nil {
			return err
		}
	}
	return nil
}
