package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"drover/fleet"
	"drover/fleet/share"
	"drover/jobfile"
	"drover/jobs"
	"drover/jobs/hbasetable"
	"drover/runner"
	"drover/zookeeper"
)

// poolFlags say where the pool is, of every command that speaks with one.
type poolFlags struct {
	zookeeper string
	jobFile   string
	session   time.Duration
}

func (o *poolFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&o.zookeeper, "zookeeper", "", "the pool: HOST:PORT,…/NODE (default $DROVER_ZOOKEEPER)")
	c.Flags().StringVar(&o.jobFile, "pool", "", "job file whose zookeeper section says where the pool is, with its TLS and auth")
	c.Flags().DurationVar(&o.session, "session-timeout", 0, "of the ZooKeeper session to ask for (default $DROVER_ZOOKEEPER_SESSION_TIMEOUT, or 10s)")
}

// poolAddress is where a pool is.
type poolAddress struct {
	jobs.Ensemble
	tls func() (*tls.Config, error)
}

// address finds out where the pool is: the flags go first, then the environment, then the job file; f may be nil. ok is false when
// none names one.
func (o *poolFlags) address(f *jobfile.File) (a poolAddress, ok bool, err error) {
	if o.jobFile != "" {
		if o.zookeeper != "" {
			return a, false, usageError{errors.New("--zookeeper and --pool both name a pool: give one of them")}
		}
		if f, err = jobfile.Load(o.jobFile); err != nil {
			return a, false, usageError{err}
		}
		if f.Job().Pool == nil {
			return a, false, usageError{fmt.Errorf("--pool %s: the file has no zookeeper section", o.jobFile)}
		}
	}
	a.tls = f.PoolTLS
	text, from := o.zookeeper, "--zookeeper"
	if text == "" && o.jobFile == "" {
		text, from = os.Getenv("DROVER_ZOOKEEPER"), "DROVER_ZOOKEEPER"
	}
	switch {
	case text != "":
		if a.Ensemble, err = jobfile.ParseZooKeeper(text); err != nil {
			return a, false, usageError{fmt.Errorf("%s: %w", from, err)}
		}
		if os.Getenv("DROVER_ZOOKEEPER_AUTH") != "" {
			a.Auth = "env:DROVER_ZOOKEEPER_AUTH"
		}
	case f != nil && f.Job().Pool != nil:
		a.Ensemble = *f.Job().Pool
	default:
		return a, false, nil
	}
	if s := os.Getenv("DROVER_ZOOKEEPER_SESSION_TIMEOUT"); s != "" && a.SessionTimeout == 0 {
		if a.SessionTimeout, err = time.ParseDuration(s); err != nil {
			return a, false, usageError{fmt.Errorf("DROVER_ZOOKEEPER_SESSION_TIMEOUT %q: want a length of time, such as 10s", s)}
		}
	}
	if o.session != 0 {
		a.SessionTimeout = o.session
	}
	return a, true, nil
}

// need is address where a pool has to be named.
func (o *poolFlags) need(f *jobfile.File) (poolAddress, error) {
	a, ok, err := o.address(f)
	if err == nil && !ok {
		err = usageError{errors.New("no pool is named: give --zookeeper HOST:PORT,…/NODE, or set DROVER_ZOOKEEPER")}
	}
	return a, err
}

func (a poolAddress) String() string { return strings.Join(a.Servers, ",") + a.Path }

func (a poolAddress) open(log *slog.Logger) (*zookeeper.Client, error) {
	return openZooKeeper(a.tls, &a.Ensemble, os.Getenv("DROVER_ZONE"), nil, log)
}

// patience is how long a command waits for ZooKeeper before it says that it is not there.
const patience = 15 * time.Second

// command opens the pool for one command. ctx ends with a signal.
func (a poolAddress) command() (ctx context.Context, p fleet.Pool, closer func(), err error) {
	zk, err := a.open(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, p, nil, err
	}
	ctx, stop := interruptible()
	closer = func() { stop(); zk.Close() }
	if err := await(ctx, zk, a); err != nil {
		closer()
		return nil, p, nil, err
	}
	return ctx, fleet.Pool{ZK: zk, Root: a.Path, By: whoami()}, closer, nil
}

func await(ctx context.Context, zk *zookeeper.Client, a poolAddress) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := zk.Wait(ctx); err != nil {
		return fmt.Errorf("reach ZooKeeper at %s: %w", strings.Join(a.Servers, ","), err)
	}
	return nil
}

// whoami is who gives a command, for the record.
func whoami() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@" + hostname()
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil || h == "" {
		return "unknown"
	}
	return h
}

// submitted is what a Spec has as a run's job file: the text, and where it was, so that paths in it mean the same on every host.
type submitted struct {
	Host string `json:"host"` // that it was submitted from
	Path string `json:"path"`
	Text string `json:"text"`
	// Plan was made by who submitted it, who alone can read the source. Whoever leads gives it another timestamp only.
	Plan []byte `json:"plan,omitempty"`
}

// newSubmitted reads a job file as it is to be submitted.
func newSubmitted(path string) (submitted, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return submitted{}, fmt.Errorf("find job file %s: %w", path, err)
	}
	text, err := os.ReadFile(full)
	if err != nil {
		return submitted{}, usageError{fmt.Errorf("read job file: %w", err)}
	}
	return submitted{Host: hostname(), Path: full, Text: string(text)}, nil
}

func (s submitted) encode() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // of strings
	}
	return data
}

func parseSubmitted(data []byte) (s submitted, f *jobfile.File, err error) {
	if err := json.Unmarshal(data, &s); err != nil {
		return s, nil, fmt.Errorf("read the submitted job: %w: use the same version of drover on every host of the pool", err)
	}
	f, err = jobfile.Parse(s.Path, []byte(s.Text))
	return s, f, err
}

// noEmbedded refuses a job that no other process could work on.
func noEmbedded(j jobs.Job) error {
	if j.Gateways.Embedded == "" {
		return nil
	}
	return fmt.Errorf("job %s names an embedded gateway (gateways.embedded: %s), which lives in one process: a pool needs gateways that all its workers reach", j.Name, j.Gateways.Embedded)
}

// specOf is what the pool has to know of a job.
func specOf(s submitted, f *jobfile.File) fleet.Spec {
	j := f.Job()
	spec := fleet.Spec{
		File: s.encode(), Class: j.Priority.Class(), Weight: float64(j.Weight), Schedule: f.Schedule(), Needs: j.Needs, Planned: s.Plan != nil,
		Limits: map[string]fleet.Limits{}, Daily: j.Daily.Windows, Zone: j.Daily.Zone,
	}
	if !strings.Contains(j.Target.Table, "{") { // else the plan says which tables there are
		addLimits(spec.Limits, j.Target.Table, share.Puts, j.Limits)
	}
	if src, ok := j.Source.(*hbasetable.Source); ok {
		addLimits(spec.Limits, src.Options().Table, share.Scans, src.Options().Limits)
	}
	return spec
}

// limitsOf are a planned job's, of every table that it has to do with.
func limitsOf(j jobs.Job, p *runner.Plan) map[string]fleet.Limits {
	all := map[string]fleet.Limits{}
	for _, t := range p.Tables {
		addLimits(all, t.Table, share.Puts, j.Limits)
	}
	if src, ok := j.Source.(*hbasetable.Source); ok {
		addLimits(all, src.Options().Table, share.Scans, src.Options().Limits)
	}
	return all
}

func addLimits(all map[string]fleet.Limits, table string, kind share.Kind, l jobs.Limits) {
	have, ok := all[table]
	if !ok {
		have = fleet.NoLimits
	}
	if kind == share.Scans {
		have.Scans = share.Lowest(have.Scans, limitOf(l))
	} else {
		have.Puts = share.Lowest(have.Puts, limitOf(l))
	}
	all[table] = have
}

func limitOf(l jobs.Limits) share.Limit {
	limit := share.NoLimit
	if l.Rows > 0 {
		limit.Rows = float64(l.Rows)
	}
	if l.Bytes > 0 {
		limit.Bytes = float64(l.Bytes)
	}
	return limit
}

// payment is the parts that a process has of the budgets that hold for a table, its namespace's and its own, as package runner wants
// them.
type payment struct {
	accounts []*share.Account
	release  func()
}

// Wait waits at one account after the other, the table's last: its limit is the one that has to be kept to the second.
func (p payment) Wait(ctx context.Context, rows, bytes int) (waited time.Duration, err error) {
	for _, a := range p.accounts {
		wait := a.Wait
		if runner.GoesFirst(ctx) {
			wait = a.WaitFirst
		}
		w, err := wait(ctx, rows, bytes)
		if waited += w; err != nil {
			return waited, err
		}
	}
	return waited, nil
}

func (p payment) Close() error {
	p.release()
	return nil
}

// namespaceOf is the name under which all tables of a table's namespace are limited together.
func namespaceOf(table string) string {
	ns, _, ok := strings.Cut(table, ":")
	if !ok {
		ns = "default"
	}
	return ns + ":*"
}

// budgets gives a run its part of the pool's budgets, which are by the table's name alone: tables of one name in two clusters share
// a limit, which keeps every one of them below it.
//
// The run's limits go with it as long as it is at work. daily is for a run that the pool knows nothing else of.
func budgets(m *fleet.Member, who string, u fleet.Use, daily jobs.Daily) budgeter {
	factor := func() float64 { return 1 }
	if zone, err := time.LoadLocation(daily.Zone); err == nil && daily.Windows != "" {
		if d, err := share.ParseDaily(daily.Windows, zone); err == nil { // the job file's check saw to both
			factor = func() float64 { return d.Factor(time.Now()) }
		}
	}
	return func(table string, kind share.Kind, l jobs.Limits) runner.Budget {
		use := func(part float64) fleet.Use {
			u, limit := u, limitOf(l).Times(part)
			u.Limit = &limit
			return u
		}
		part := factor()
		ns, leave := m.Budget(namespaceOf(table), kind, who, u)
		own, release := m.Budget(table, kind, who, use(part))
		pays := payment{[]*share.Account{ns, own}, func() { leave(); release() }}
		if daily.Windows == "" {
			return pays
		}
		quit := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-time.After(5 * time.Second):
				case <-quit:
					return
				}
				if now := factor(); now != part {
					part = now
					m.Budget(table, kind, who, use(part))
				}
			}
		})
		pays.release = func() { close(quit); wg.Wait(); leave(); release() }
		return pays
	}
}

type budgeter func(table string, kind share.Kind, l jobs.Limits) runner.Budget

// in puts the budgets into a run.
func (b budgeter) in(cfg *runner.Config) {
	limits := cfg.Job.Limits
	cfg.Budget = func(table, _ string) (runner.Budget, error) { return b(table, share.Puts, limits), nil }
}
