package runner

import (
	"cmp"
	"context"
	"errors"
	"time"

	"drover/hbase"
	"drover/jobs"
)

// Preview is what a run would do, as far as can be told without writing anything.
type Preview struct {
	Layout jobs.Layout
	Tables []TablePreview
	// Unreachable says why HBase could not be asked; the tables are then as the source and the mapping alone tell.
	Unreachable string
}

// TablePreview is one table of a preview.
type TablePreview struct {
	TablePlan
	Documents int // in the sample
	Filtered  int
	Refused   []string    // why documents of the sample would die, the first few
	Rows      []hbase.Row // the first mapped rows
	RowBytes  []int       // encoded
	Exists    bool
	Regions   int    // of the existing table
	Problem   string // why a run would be refused
}

// Look plans the job without writing anything, anywhere.
func Look(ctx context.Context, cfg Config, rows int) (Preview, error) {
	r := &run{cfg: cfg, log: cfg.Log, mon: &Monitor{}, mem: &memory{bound: DefaultMemory}, drain: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.disconnect()
	var p Preview
	err := r.attach()
	if err != nil {
		return p, err
	}
	cfg.Job = r.cfg.Job
	if p.Layout, err = cfg.Job.Source.Plan(ctx, cmp.Or(cfg.Job.Shards, 16)); err != nil {
		return p, err
	}
	plans, err := tables(cfg.Job.Target.Table, p.Layout.Collections)
	if err != nil {
		return p, err
	}
	ts := time.Now().UnixMilli()
	for i, t := range plans {
		out := TablePreview{TablePlan: t}
		s, err := sample(ctx, cfg.Job, p.Layout, p.Layout.Collections[i], ts, 10_000, rows)
		var refused *RefusedError
		switch {
		case errors.As(err, &refused):
			out.Problem = refused.Reason
		case err != nil:
			return p, err
		}
		out.KeyType, out.Documents, out.Filtered, out.Refused, out.Rows, out.RowBytes = s.KeyType, s.Documents, s.Filtered, s.Refused, s.Rows, s.RowBytes
		if cfg.Job.Target.Create {
			out.Splits = splits(s.Keys, cfg.Job.Target.Regions)
		}
		p.Tables = append(p.Tables, out)
	}
	if cfg.Discover == nil {
		return p, nil
	}
	if err := r.connect(); err != nil {
		return p, err
	}
	c := cluster{r.pool, hbase.NewAdmin(r.pool)}
	for i := range p.Tables {
		t := &p.Tables[i]
		err := c.checkTable(ctx, cfg.Job, &t.TablePlan)
		var refused *RefusedError
		switch {
		case errors.As(err, &refused):
			t.Problem = refused.Reason
		case err != nil:
			p.Unreachable = err.Error()
			return p, nil
		}
		t.Exists = !t.Create && t.Problem == ""
		if regions, err := c.admin.Regions(ctx, t.Table); err == nil && len(regions) > 0 {
			t.Exists, t.Regions = true, len(regions)
		}
	}
	return p, nil
}
