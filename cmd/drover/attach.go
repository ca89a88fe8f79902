package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"drover/budget"
	"drover/fleet/share"
	"drover/hbase"
	"drover/hbase/native"
	"drover/jobfile"
	"drover/jobs"
	"drover/jobs/hbasetable"
	"drover/mapping"
	"drover/runner"
)

// attachTable completes cfg where the job's source is a table: how it is reached, and what its table says of the target's.
func attachTable(f *jobfile.File, cfg *runner.Config, pool budgeter) error {
	source, ok := cfg.Job.Source.(*hbasetable.Source)
	if !ok {
		return nil
	}
	other := source.Options().Gateways
	if other != nil {
		conf, err := f.SourceTLS()
		if err != nil {
			return err
		}
		g := *other
		g.Transport.TLS = conf
		if limit := cfg.Job.Gateways.OutageLimit; limit != f.Job().Gateways.OutageLimit {
			g.OutageLimit = limit // a plan does not wait as long as a run
		}
		other = &g
	}
	cfg.Attach = func(ctx context.Context, own *hbase.Pool, j *jobs.Job) (detach func(), err error) {
		a := attachment{cfg: cfg, source: source, own: own, job: j, budgets: pool}
		if err := a.attach(ctx, other); err != nil {
			a.close()
			return nil, err
		}
		return a.close, nil
	}
	return nil
}

func readsTable(j jobs.Job) bool {
	_, ok := j.Source.(*hbasetable.Source)
	return ok
}

// attachment is a source's way to its table.
type attachment struct {
	cfg    *runner.Config
	source *hbasetable.Source
	own    *hbase.Pool
	job    *jobs.Job

	pool    *hbase.Pool    // own, or that of the source's cluster; nil where that is read natively
	native  *native.Client // nil is through gateways
	budgets budgeter       // the pool's; nil without one
	member  runner.Budget  // of those who read the table; nil without limits
}

func (a *attachment) close() {
	if a.member != nil {
		a.member.Close()
	}
	if a.pool != nil && a.pool != a.own {
		a.pool.Close()
	}
	if a.native != nil {
		a.native.Close()
	}
}

func (a *attachment) attach(ctx context.Context, other *jobs.Gateways) error {
	o := a.source.Options()
	static := a.job.Gateways.Static
	var link hbasetable.Link
	switch {
	case o.Quorum != "":
		a.native = native.Open(native.Options{Quorum: o.Quorum, OutageLimit: a.job.Gateways.OutageLimit, Log: a.cfg.Log})
		link.Cluster = a.native
	case other != nil:
		a.pool = hbase.NewPool(hbase.PoolOptions{
			Transport: other.Transport, Connections: other.Connections, OutageLimit: other.OutageLimit, Log: a.cfg.Log,
		})
		static = other.Static
		eps := make([]hbase.Endpoint, len(static))
		for i, addr := range static {
			eps[i] = hbase.Endpoint{Addr: addr}
		}
		a.pool.Update(eps)
	default:
		a.pool = a.own
	}
	if a.pool != nil {
		link.Cluster = hbasetable.Through(a.pool, static)
	}
	cluster, err := link.Cluster.ClusterID(ctx)
	if err != nil {
		return err
	}
	if err := a.checkLoop(ctx, cluster); err != nil {
		return err
	}
	if l := o.Limits; a.budgets != nil {
		a.member = a.budgets(o.Table, share.Scans, l) // a table of a pool can be throttled at any time
	} else if l != (jobs.Limits{}) {
		m, err := budget.Join(a.cfg.Budgets, "reading "+o.Table+"@"+cluster, budget.Limits{Rows: l.Rows, Bytes: l.Bytes})
		if err != nil {
			return fmt.Errorf("join the budget of reading table %s: %w", o.Table, err)
		}
		a.member = m
	}
	if m := a.member; m != nil {
		link.Pace = func(ctx context.Context, rows, bytes int) error {
			_, err := m.Wait(ctx, rows, bytes)
			return err
		}
	}
	a.source.Connect(link)
	return a.families(ctx)
}

// way is what in the job file leads to the source's cluster.
func (a *attachment) way() string {
	if a.native != nil {
		return "source.hbase.zookeeper"
	}
	return "the gateways"
}

// checkLoop refuses to copy a table to itself.
func (a *attachment) checkLoop(ctx context.Context, cluster string) error {
	if !a.source.Is(a.job.Target.Table) {
		return nil
	}
	if a.pool != a.own {
		own, err := hbasetable.Through(a.own, a.job.Gateways.Static).ClusterID(ctx)
		if err != nil {
			return err
		}
		if own != cluster {
			return nil
		}
	}
	return &runner.RefusedError{Reason: fmt.Sprintf("the source and the target are one table, %s of cluster %s: name another target.table", a.source.Options().Table, cluster)}
}

// tables says what tables look like.
type tables interface {
	TableExists(ctx context.Context, table string) (bool, error)
	Describe(ctx context.Context, table string) (*hbase.TableInfo, error)
}

// families completes the mapping, and the families of a table to create, by those of the source's table.
func (a *attachment) families(ctx context.Context) error {
	table := a.source.Options().Table
	m, ok := a.job.Mapping.(*mapping.RowMapping)
	if !ok {
		return fmt.Errorf("the mapping of table %s is none of rows", table)
	}
	var admin tables = a.native
	if a.native == nil {
		admin = hbase.NewAdmin(a.pool)
	}
	there, err := admin.TableExists(ctx, table)
	if err != nil {
		return err
	}
	if !there {
		return &runner.RefusedError{Reason: fmt.Sprintf("there is no table %s to read from: correct source.hbase.table, or %s", table, a.way())}
	}
	t := &a.job.Target
	info, err := admin.Describe(ctx, table)
	if errors.Is(err, hbase.ErrUnknownMethod) {
		if t.Create && len(t.Families) == 0 {
			return &runner.RefusedError{Reason: fmt.Sprintf("the gateways are too old to say which families table %s has: name them in target.families", table)}
		}
		return nil
	}
	if err != nil {
		return err
	}
	names := make([]string, len(info.Families))
	for i, f := range info.Families {
		names[i] = f.Name
	}
	if m, err = m.Bind(names); err != nil {
		return &runner.RefusedError{Reason: err.Error()}
	}
	a.job.Mapping = m
	if t.Create && len(t.Families) == 0 {
		t.Families = targetFamilies(m, info.Families)
		return nil
	}
	have := t.Families
	if !t.Create {
		admin := hbase.NewAdmin(a.own)
		if there, err := admin.TableExists(ctx, t.Table); err != nil || !there {
			return nil // the plan says so
		}
		target, err := admin.Describe(ctx, t.Table)
		if err != nil {
			return nil
		}
		have = target.Families
	}
	a.warnVersions(m, info.Families, have)
	return nil
}

// targetFamilies are the source's under their new names. Where several become one, the one that keeps most stands.
func targetFamilies(m *mapping.RowMapping, source []hbase.Family) []hbase.Family {
	most := 1
	for _, f := range source {
		most = max(most, f.Versions)
	}
	var out []hbase.Family
	for _, name := range m.Families() {
		made := hbase.Family{Name: name, Versions: most}
		first := true
		for _, f := range source {
			switch {
			case m.Target(f.Name) != name:
			case first:
				made, first = f, false
				made.Name = name
			default:
				made.Versions = max(made.Versions, f.Versions)
				if made.TTL != 0 && (f.TTL == 0 || f.TTL > made.TTL) {
					made.TTL = f.TTL
				}
			}
		}
		out = append(out, made)
	}
	return out
}

// warnVersions tells of families that keep fewer versions than are copied: HBase drops the rest in silence.
func (a *attachment) warnVersions(m *mapping.RowMapping, source, target []hbase.Family) {
	for _, f := range source {
		versions := f.Versions
		if n := a.source.Options().Versions; n > 0 {
			versions = min(versions, n)
		}
		i := slices.IndexFunc(target, func(t hbase.Family) bool { return t.Name == m.Target(f.Name) })
		if i >= 0 && target[i].Versions < versions && a.cfg.Log != nil {
			a.cfg.Log.Warn("the target keeps fewer versions than the source has: HBase drops the older ones",
				"family", f.Name, "versions", versions, "target_family", target[i].Name, "target_versions", target[i].Versions)
		}
	}
}
