package fleet

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/checkpoints"
	"drover/fleet/share"
	"drover/fleet/tick"
	"drover/zookeeper"
)

// Pool is where a command finds a pool. By names who gives it, for the record.
type Pool struct {
	ZK   *zookeeper.Client
	Root string
	By   string // user@host
}

// ErrNoPool says that there is no pool at a root.
var ErrNoPool = errors.New("no worker was ever started there, or the pool's nodes were deleted: check zookeeper.path, then start drover worker or use drover restore")

// ErrNoRun says that a pool has no such job, or the job no such run.
var ErrNoRun = errors.New("there is no such job or run: drover jobs lists them")

func (c Pool) p() paths { return paths(c.Root) }

// audit makes the record of a command, which goes into the same write as what it does.
func (c Pool) audit(what string) zookeeper.Op {
	now := time.Now().UTC()
	name := now.Format("20060102T150405.000") + "-" + rand.Text()[:6]
	return zookeeper.CreateOp(c.p().audit()+"/"+name, encode(auditRecord{head{format}, now, c.By, what}))
}

// Command is one command that was given to the pool.
type Command struct {
	At   time.Time
	By   string
	What string
}

// Commands lists the newest n commands, the newest first.
func (c Pool) Commands(ctx context.Context, n int) ([]Command, error) {
	list, err := newestIn[auditRecord](ctx, c, c.p().audit(), n)
	commands := make([]Command, len(list))
	for i, r := range list {
		commands[i] = Command{r.At, r.By, r.What}
	}
	return commands, err
}

// newestIn reads the last n records of a folder whose names are in the order of time, the last first.
func newestIn[T any](ctx context.Context, c Pool, path string, n int) ([]T, error) {
	names, err := c.children(ctx, path)
	if err != nil {
		return nil, err
	}
	slices.Reverse(names)
	names = names[:min(n, len(names))]
	list := make([]T, len(names))
	err = c.each(ctx, len(names), func(ctx context.Context, i int) (err error) {
		list[i], _, err = get[T](ctx, c, path+"/"+names[i])
		return err
	})
	return list, err
}

func get[T any](ctx context.Context, c Pool, path string) (T, int32, error) {
	data, stat, err := c.ZK.Get(ctx, path)
	var none T
	if err != nil {
		return none, 0, err
	}
	r, err := decode[T](path, data)
	return r, stat.Version, err
}

func (c Pool) children(ctx context.Context, path string) ([]string, error) {
	names, _, err := c.ZK.Children(ctx, path)
	if errors.Is(err, zookeeper.ErrNoNode) {
		return nil, fmt.Errorf("%s: %w", c.Root, ErrNoPool)
	}
	slices.Sort(names)
	return names, err
}

// each calls f for 0 to n-1, several at a time.
func (c Pool) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

// change makes one conditional write until it is known what became of it. build is called with each try: it reads, and gives
// the operations, the first of them a set or creation with data of its own. It may end the change with an error, or with no
// operations when nothing is left to do.
func (c Pool) change(ctx context.Context, build func(ctx context.Context) ([]zookeeper.Op, func(ctx context.Context) (done bool, err error), error)) error {
	for {
		ops, happened, err := build(ctx)
		if err != nil || len(ops) == 0 {
			return err
		}
		_, err = c.ZK.Multi(ctx, ops...)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, zookeeper.ErrUnknown):
			done, err := happened(ctx)
			if err != nil || done {
				return err
			}
		case errors.Is(err, zookeeper.ErrBadVersion), errors.Is(err, zookeeper.ErrNodeExists):
			// Somebody else was faster: look again.
		default:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// written tells whether a node has data, after all that was written before.
func (c Pool) written(path string, data []byte) func(ctx context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		if err := c.ZK.Sync(ctx, path); err != nil {
			return false, err
		}
		have, _, err := c.ZK.Get(ctx, path)
		if errors.Is(err, zookeeper.ErrNoNode) {
			return false, nil
		}
		return string(have) == string(data), err
	}
}

// NewRequest makes a request id.
func NewRequest() string {
	return time.Now().UTC().Format("20060102-150405-") + strings.ToLower(rand.Text()[:8])
}

// BusyError says that the newest run of a job is not over.
type BusyError struct {
	Job, Run string
	State    State
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("run %s of %s is %s", e.Run, e.Job, e.State)
}

// Submit hands a job to the pool, as a run that is named by the request. Repeating a request changes nothing, and gives the
// same run. A spec with a schedule is kept and fired by the pool; run is "" then.
func (c Pool) Submit(ctx context.Context, request, job string, spec Spec) (run string, err error) {
	return c.submit(ctx, request, job, spec, false)
}

// SubmitAlone is Submit for a job without a schedule whose newest run is over, done or failed; else it gives a *BusyError.
func (c Pool) SubmitAlone(ctx context.Context, request, job string, spec Spec) (run string, err error) {
	return c.submit(ctx, request, job, spec, true)
}

func (c Pool) submit(ctx context.Context, request, job string, spec Spec, alone bool) (run string, err error) {
	for _, name := range []string{request, job} {
		if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." || name == "zookeeper" {
			return "", fmt.Errorf("submit %s: %q is no name", job, name)
		}
	}
	if spec.Schedule != nil {
		if _, err := tick.Parse(*spec.Schedule); err != nil {
			return "", fmt.Errorf("submit %s: schedule: %w", job, err)
		}
	}
	p := c.p()
	err = c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		runPath := p.run(job, request)
		if exists, _, err := c.ZK.Exists(ctx, runPath); err != nil || exists {
			return nil, nil, err
		}
		now := time.Now().UTC()
		j, version, err := get[jobRecord](ctx, c, p.job(job))
		fresh := errors.Is(err, zookeeper.ErrNoNode)
		if err != nil && !fresh {
			return nil, nil, err
		}
		if alone && spec.Schedule == nil && j.Newest != "" { // no other gets between: the job's version is a condition of the write
			r, _, err := get[runRecord](ctx, c, p.run(job, j.Newest))
			if err != nil {
				return nil, nil, err
			}
			if !r.State.final() && r.State != Failed {
				return nil, nil, &BusyError{job, j.Newest, r.State}
			}
		}
		j.V, j.Spec = format, spec
		what := fmt.Sprintf("submit %s", job)
		var ops []zookeeper.Op
		if spec.Schedule == nil {
			j.Newest = request
			what += " as run " + request
		} else {
			j.Since = now
			what += " by schedule " + spec.Schedule.Cron
		}
		data := encode(j)
		if fresh {
			ops = append(ops, zookeeper.CreateOp(p.job(job), data), zookeeper.CreateOp(p.runs(job), nil), zookeeper.CreateOp(p.ticks(job), nil))
		} else {
			ops = append(ops, zookeeper.SetOp(p.job(job), data, version))
		}
		happened := c.written(p.job(job), data)
		if spec.Schedule == nil {
			rec := encode(runRecord{head: head{format}, State: Planning, Spec: spec, By: c.By, At: now, Write: rand.Text()})
			ops = append(ops, zookeeper.CreateOp(runPath, rec))
			happened = func(ctx context.Context) (bool, error) {
				if err := c.ZK.Sync(ctx, runPath); err != nil {
					return false, err
				}
				exists, _, err := c.ZK.Exists(ctx, runPath)
				return exists, err
			}
		}
		return append(ops, c.audit(what)), happened, nil
	})
	if errors.Is(err, zookeeper.ErrNoNode) {
		err = ErrNoPool
	}
	if err != nil {
		return "", fmt.Errorf("submit %s to %s: %w", job, c.Root, err)
	}
	if spec.Schedule != nil {
		return "", nil
	}
	return request, nil
}

// JobInfo is a job of the pool.
type JobInfo struct {
	Job    string
	Spec   Spec
	Newest string // run
	Paused bool   // its schedule
	State  State  // of the newest run
}

// Jobs lists the pool's jobs by name.
func (c Pool) Jobs(ctx context.Context) ([]JobInfo, error) {
	p := c.p()
	names, err := c.children(ctx, p.jobs())
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	list := make([]JobInfo, len(names))
	err = c.each(ctx, len(names), func(ctx context.Context, i int) error {
		j, _, err := get[jobRecord](ctx, c, p.job(names[i]))
		if err != nil {
			return err
		}
		list[i] = JobInfo{Job: names[i], Spec: j.Spec, Newest: j.Newest, Paused: j.Paused}
		if j.Newest != "" {
			r, _, err := get[runRecord](ctx, c, p.run(names[i], j.Newest))
			if err != nil {
				return err
			}
			list[i].State = r.State
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return list, nil
}

// Ticks lists what was decided of the newest instants of a job's schedule, the newest first.
func (c Pool) Ticks(ctx context.Context, job string, n int) ([]tick.Decision, error) {
	if _, _, err := get[jobRecord](ctx, c, c.p().job(job)); errors.Is(err, zookeeper.ErrNoNode) {
		return nil, fmt.Errorf("%s: %w", job, ErrNoRun)
	} else if err != nil {
		return nil, fmt.Errorf("look at %s: %w", job, err)
	}
	list, err := newestIn[tickRecord](ctx, c, c.p().ticks(job), n)
	if err != nil {
		return nil, fmt.Errorf("list the instants of %s: %w", job, err)
	}
	decisions := make([]tick.Decision, len(list))
	for i, r := range list {
		decisions[i] = r.Decision
	}
	return decisions, nil
}

// RunInfo is a run of the pool.
type RunInfo struct {
	Job, ID     string
	State       State
	Reason      string
	By          string
	At, Ended   time.Time
	Spec        Spec
	Timestamp   int64
	Fingerprint string
	Shards      int
	Done        int   // shards
	Stored      int64 // source bytes behind the watermarks
	Tables      map[string]checkpoints.Counts
	Totals      checkpoints.Totals
	Plan        []byte // nil when the run has none yet, or none any more
	Held        string // why the pool holds everything; "" when it does not
}

// Status tells how it stands with a run; "" is the job's newest. It reads every shard of one that is not done.
func (c Pool) Status(ctx context.Context, job, id string) (RunInfo, error) {
	info, err := c.status(ctx, job, id)
	if errors.Is(err, zookeeper.ErrNoNode) {
		err = ErrNoRun
	}
	if err != nil {
		return info, fmt.Errorf("look at %s: %w", nameOf(job, id), err)
	}
	return info, nil
}

// nameOf is a run in an error; one without an id is the job's newest.
func nameOf(job, id string) string {
	if id == "" {
		return job
	}
	return job + "/" + id
}

// held is why everything is held, as its finder wrote it into the term.
func (c Pool) held(ctx context.Context) (string, error) {
	t, _, err := get[termRecord](ctx, c, c.p().term())
	if errors.Is(err, zookeeper.ErrNoNode) {
		return "the pool's term is gone: its tree in ZooKeeper was deleted", nil
	}
	return t.Held, err
}

func (c Pool) newest(ctx context.Context, job, id string) (string, error) {
	if id != "" {
		return id, nil
	}
	j, _, err := get[jobRecord](ctx, c, c.p().job(job))
	if err == nil && j.Newest == "" {
		err = errors.New("the job has had no run yet")
	}
	return j.Newest, err
}

func (c Pool) status(ctx context.Context, job, id string) (RunInfo, error) {
	id, err := c.newest(ctx, job, id)
	if err != nil {
		return RunInfo{}, err
	}
	r, _, err := get[runRecord](ctx, c, c.p().run(job, id))
	if err != nil {
		return RunInfo{}, err
	}
	info := RunInfo{
		Job: job, ID: id, State: r.State, Reason: r.Reason, By: r.By, At: r.At, Ended: r.Ended, Spec: r.Spec, Timestamp: r.Timestamp,
		Fingerprint: r.Fingerprint, Shards: r.Shards, Tables: map[string]checkpoints.Counts{},
	}
	if !r.State.final() {
		if info.Held, err = c.held(ctx); err != nil {
			return info, err
		}
	}
	if r.Attempt == "" {
		return info, nil
	}
	at := c.p().attempt(runKey{job, id}, r.Attempt)
	if r.State.final() {
		// Its shards may be gone, and its plan.
		info.Plan, _ = readPlan(ctx, c.ZK, at, r.Parts)
		if r.Books != nil {
			info.Tables, info.Totals, info.Done = r.Books.Tables, r.Books.Totals, r.Shards
			addTo(info.Tables, r.Replays)
		}
		return info, nil
	}
	if info.Plan, err = readPlan(ctx, c.ZK, at, r.Parts); err != nil {
		return info, err
	}
	store := checkpoints.OpenZooKeeper(c.ZK, at, "", nil)
	if info.Totals, err = store.SumTotals(ctx); err != nil {
		return info, err
	}
	marks, err := store.Marks(ctx)
	if err != nil {
		return info, err
	}
	for _, m := range marks {
		if m.Checkpoint == nil {
			continue
		}
		if m.Checkpoint.Done {
			info.Done++
		}
		info.Stored += m.Checkpoint.Stored
		addTo(info.Tables, m.Checkpoint.Tables)
	}
	return info, nil
}

// addTo adds books by table to others.
func addTo(sums, more map[string]checkpoints.Counts) {
	for table, n := range more {
		sum := sums[table]
		sum.Add(n)
		sums[table] = sum
	}
}

// WorkerInfo is a member of the pool.
type WorkerInfo struct {
	ID, Name, Version string
	Labels            map[string]string
	Capacity          int
	Shards            int // that it has now
	Draining, Leads   bool
	Parts             map[string]float64 // of each table's puts
	Fault             string             // why it is given nothing
}

// Workers lists the members that are there.
func (c Pool) Workers(ctx context.Context) ([]WorkerInfo, error) {
	p := c.p()
	ids, err := c.children(ctx, p.workers())
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	drained, err := c.children(ctx, p.drains())
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	leader, _, err := get[termRecord](ctx, c, p.leader())
	if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	list := make([]WorkerInfo, len(ids))
	err = c.each(ctx, len(ids), func(ctx context.Context, i int) error {
		w := WorkerInfo{ID: ids[i], Leads: strings.HasPrefix(leader.Leader, ids[i]+"."), Parts: map[string]float64{}}
		b, _, err := get[beatRecord](ctx, c, p.worker(ids[i]))
		if other, ok := errors.AsType[*FormatError](err); ok {
			w.Fault = other.Error()
		} else if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
			return err
		}
		w.Name, w.Version, w.Labels, w.Capacity = b.Name, b.Version, b.Labels, b.Capacity
		if b.Held != "" {
			w.Fault = "held: " + b.Held
		}
		w.Draining = b.Draining || slices.Contains(drained, b.Name) || slices.Contains(drained, ids[i])
		o, _, err := get[orderRecord](ctx, c, p.order(ids[i]))
		if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
			return err
		}
		for _, slots := range o.Shards {
			w.Shards += len(slots)
		}
		for _, g := range o.Grants {
			if g.Kind == share.Puts {
				w.Parts[g.Table] = share.Newest(g.List).Part
			}
		}
		list[i] = w
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return list, nil
}

// to changes a run's state. from lists those that it may be in; when it is in the new one already, nothing is done.
func (c Pool) to(ctx context.Context, job, id, what string, s State, from ...State) error {
	id, err := c.newest(ctx, job, id)
	if err == nil {
		path := c.p().run(job, id)
		err = c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
			r, version, err := get[runRecord](ctx, c, path)
			if err != nil || r.State == s {
				return nil, nil, err
			}
			if !slices.Contains(from, r.State) {
				return nil, nil, fmt.Errorf("it is %s", r.State)
			}
			r.State, r.Reason, r.Write = s, "", rand.Text()
			if s == Running && r.Attempt == "" {
				r.State = Planning
			}
			if s.final() {
				r.Ended = time.Now().UTC()
			}
			data := encode(r)
			return []zookeeper.Op{zookeeper.SetOp(path, data, version), c.audit(fmt.Sprintf("%s %s/%s", what, job, id))}, c.written(path, data), nil
		})
	}
	if errors.Is(err, zookeeper.ErrNoNode) {
		err = ErrNoRun
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, nameOf(job, id), err)
	}
	return nil
}

// Pause stops a run until Resume; "" is the job's newest.
func (c Pool) Pause(ctx context.Context, job, id string) error {
	return c.to(ctx, job, id, "pause", Paused, Running, Planning)
}

// Resume lets a run that was paused or that failed go on where it stood.
func (c Pool) Resume(ctx context.Context, job, id string) error {
	return c.to(ctx, job, id, "resume", Running, Paused, Failed, Planning)
}

// Cancel ends a run for good. What it wrote stays.
func (c Pool) Cancel(ctx context.Context, job, id string) error {
	return c.to(ctx, job, id, "cancel", Cancelled, Planning, Running, Paused, Failed)
}

// Replayed keeps what all replays of a run's dead letters came to.
func (c Pool) Replayed(ctx context.Context, job, id string, all Replays) error {
	path := c.p().run(job, id)
	err := c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		r, version, err := get[runRecord](ctx, c, path)
		switch {
		case errors.Is(err, zookeeper.ErrNoNode):
			return nil, nil, ErrNoRun
		case err != nil || maps.Equal(r.Replays, all):
			return nil, nil, err
		case r.State != Done:
			return nil, nil, fmt.Errorf("it is %s", r.State)
		}
		r.Replays, r.Write = all, rand.Text()
		data := encode(r)
		return []zookeeper.Op{zookeeper.SetOp(path, data, version), c.audit("replay the dead letters of " + nameOf(job, id))}, c.written(path, data), nil
	})
	if err != nil {
		return fmt.Errorf("keep the replays of %s: %w", nameOf(job, id), err)
	}
	return nil
}

// Schedule stops a job's schedule, or lets it go on.
func (c Pool) Schedule(ctx context.Context, job string, paused bool) error {
	what := "resume the schedule of "
	if paused {
		what = "pause the schedule of "
	}
	path := c.p().job(job)
	err := c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		j, version, err := get[jobRecord](ctx, c, path)
		if err != nil || j.Paused == paused {
			return nil, nil, err
		}
		j.Paused = paused
		data := encode(j)
		return []zookeeper.Op{zookeeper.SetOp(path, data, version), c.audit(what + job)}, c.written(path, data), nil
	})
	if err != nil {
		return fmt.Errorf("%s%s: %w", what, job, err)
	}
	return nil
}

// Throttle sets a table's limits over those of its jobs; nil takes them away. The lower of both holds, within a second.
func (c Pool) Throttle(ctx context.Context, table string, limits *Limits) error {
	what := "end the throttle of " + table
	if limits != nil {
		what = fmt.Sprintf("throttle %s to puts of %v, scans of %v", table, limits.Puts, limits.Scans)
	}
	return c.table(ctx, table, what, func(t *tableRecord) { t.Throttle = limits })
}

// PauseTable stops all work on a table, or lets it go on.
func (c Pool) PauseTable(ctx context.Context, table string, paused bool) error {
	what := "resume table " + table
	if paused {
		what = "pause table " + table
	}
	return c.table(ctx, table, what, func(t *tableRecord) { t.Paused = paused })
}

func (c Pool) table(ctx context.Context, table, what string, f func(*tableRecord)) error {
	path := c.p().table(table)
	err := c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		t, version, err := get[tableRecord](ctx, c, path)
		fresh := errors.Is(err, zookeeper.ErrNoNode)
		if err != nil && !fresh {
			return nil, nil, err
		}
		if fresh {
			t = tableRecord{Jobs: NoLimits, Factor: 1}
		}
		t.V = format
		f(&t)
		data := encode(t)
		op := zookeeper.SetOp(path, data, version)
		if fresh {
			op = zookeeper.CreateOp(path, data)
		}
		return []zookeeper.Op{op, c.audit(what)}, c.written(path, data), nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// DrainWorker has a worker, by name or id, give its shards back and take no more, or work again.
func (c Pool) DrainWorker(ctx context.Context, worker string, drained bool) error {
	path := c.p().drain(worker)
	what := "drain " + worker
	if !drained {
		what = "end the drain of " + worker
	}
	err := c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		exists, _, err := c.ZK.Exists(ctx, path)
		if err != nil || exists == drained {
			return nil, nil, err
		}
		op := zookeeper.CreateOp(path, nil)
		if !drained {
			op = zookeeper.DeleteOp(path, zookeeper.AnyVersion)
		}
		return []zookeeper.Op{op, c.audit(what)}, func(ctx context.Context) (bool, error) {
			exists, _, err := c.ZK.Exists(ctx, path)
			return exists == drained, err
		}, nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Backup is all of a pool that cannot be made again.
type Backup struct {
	V      int                    `json:"v"`
	At     time.Time              `json:"at"`
	Tables map[string]tableRecord `json:"tables"`
	Jobs   map[string]backupOfJob `json:"jobs"`
}

type backupOfJob struct {
	Job  jobRecord              `json:"job"`
	Runs map[string]backupOfRun `json:"runs"`
}

type backupOfRun struct {
	Run   runRecord          `json:"run"`
	Plan  []byte             `json:"plan,omitempty"`
	Marks []checkpoints.Mark `json:"marks,omitempty"` // by shard
}

// Backup reads jobs, runs, plans and checkpoints. Each run is of one moment at which its checkpoints were all true, whatever
// is written meanwhile: checkpoints only grow, and a split between two readings is seen by the run's version.
func (c Pool) Backup(ctx context.Context) (*Backup, error) {
	b := &Backup{V: format, At: time.Now().UTC(), Tables: map[string]tableRecord{}, Jobs: map[string]backupOfJob{}}
	p := c.p()
	tables, err := c.children(ctx, p.tables())
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", c.Root, err)
	}
	for _, name := range tables {
		t, _, err := get[tableRecord](ctx, c, p.table(name))
		if err != nil {
			return nil, fmt.Errorf("back up table %s: %w", name, err)
		}
		b.Tables[name] = t
	}
	names, err := c.children(ctx, p.jobs())
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", c.Root, err)
	}
	for _, name := range names {
		j := backupOfJob{Runs: map[string]backupOfRun{}}
		// The runs before the job: its last timestamp is then no older than theirs.
		runs, err := c.children(ctx, p.runs(name))
		if err != nil {
			return nil, fmt.Errorf("back up job %s: %w", name, err)
		}
		for _, id := range runs {
			r, err := c.backupRun(ctx, runKey{name, id})
			if errors.Is(err, zookeeper.ErrNoNode) && r.Run.V == 0 {
				continue // over for long, and pruned since it was listed
			}
			if err != nil {
				return nil, fmt.Errorf("back up run %s/%s: %w", name, id, err)
			}
			j.Runs[id] = r
		}
		if j.Job, _, err = get[jobRecord](ctx, c, p.job(name)); err != nil {
			return nil, fmt.Errorf("back up job %s: %w", name, err)
		}
		b.Jobs[name] = j
	}
	return b, nil
}

func (c Pool) backupRun(ctx context.Context, k runKey) (b backupOfRun, err error) {
	path := c.p().run(k.job, k.id)
	for {
		r, version, err := get[runRecord](ctx, c, path)
		if err != nil {
			return b, err
		}
		b = backupOfRun{Run: r}
		if r.Attempt == "" || r.State.final() {
			return b, nil
		}
		at := c.p().attempt(k, r.Attempt)
		if b.Plan, err = readPlan(ctx, c.ZK, at, r.Parts); err != nil {
			return b, err
		}
		marks, err := checkpoints.OpenZooKeeper(c.ZK, at, "", nil).Marks(ctx)
		if err != nil {
			return b, err
		}
		again, err := c.versionOf(ctx, path)
		if err != nil {
			return b, err
		}
		if again != version {
			continue
		}
		if err := tile(marks, r.Planned, r.Shards); err != nil {
			return b, err
		}
		for _, n := range slices.Sorted(maps.Keys(marks)) {
			b.Marks = append(b.Marks, marks[n])
		}
		return b, nil
	}
}

func (c Pool) versionOf(ctx context.Context, path string) (int32, error) {
	if err := c.ZK.Sync(ctx, path); err != nil {
		return 0, err
	}
	_, stat, err := c.ZK.Get(ctx, path)
	return stat.Version, err
}

// termsLost is by how much a restore raises the term: by more than there were elections that ZooKeeper has forgotten, when it was put
// back. Who was elected in one of them has not heard of it yet, maybe, and its term must not be given again.
const termsLost = 1000

// Restore puts a backup in the place of what is there, and lets what was held go on. Every run that is not over gets a new
// attempt, so that nobody who still has an old one can write to the new; what was done since the backup is done again, which
// changes nothing. Where what is there is newer than the backup, it stays: the checkpoints of the run's own shards are kept when
// they are whole.
func (c Pool) Restore(ctx context.Context, b *Backup) error {
	if b.V != format {
		return fmt.Errorf("restore %s: the backup has format %d, this drover knows %d: use the version that wrote it", c.Root, b.V, format)
	}
	p := c.p()
	if err := found(ctx, c.ZK, p); err != nil {
		return fmt.Errorf("restore %s: %w", c.Root, err)
	}
	for _, f := range p.folders() {
		if err := c.ZK.CreateAll(ctx, f); err != nil {
			return fmt.Errorf("restore %s: %w", c.Root, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Tables)) {
		want := b.Tables[name]
		if err := c.table(ctx, name, "restore table "+name, func(t *tableRecord) { *t = want }); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Jobs)) {
		if err := c.restoreJob(ctx, name, b.Jobs[name]); err != nil {
			return fmt.Errorf("restore job %s: %w", name, err)
		}
	}
	// Last: from now on nobody holds on to what was seen before.
	err := c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		t, version, err := get[termRecord](ctx, c, p.term())
		if err != nil {
			return nil, nil, err
		}
		t.V, t.Restored, t.Held = format, rand.Text(), ""
		data := encode(t)
		ops := []zookeeper.Op{zookeeper.SetOp(p.term(), data, version), c.audit("restore a backup of " + b.At.Format(time.RFC3339))}
		for range termsLost {
			ops = append(ops, zookeeper.SetOp(p.term(), data, zookeeper.AnyVersion))
		}
		return ops, c.written(p.term(), data), nil
	})
	if err != nil {
		return fmt.Errorf("restore %s: %w", c.Root, err)
	}
	return nil
}

func (c Pool) restoreJob(ctx context.Context, name string, b backupOfJob) error {
	p := c.p()
	for _, path := range []string{p.runs(name), p.ticks(name)} {
		if err := c.ZK.CreateAll(ctx, path); err != nil {
			return err
		}
	}
	err := c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		data, stat, err := c.ZK.Get(ctx, p.job(name))
		if err != nil {
			return nil, nil, err
		}
		want := b.Job
		if have, err := decode[jobRecord](p.job(name), data); err == nil {
			want.Last = max(want.Last, have.Last) // timestamps never go back
		}
		data = encode(want)
		return []zookeeper.Op{zookeeper.SetOp(p.job(name), data, stat.Version)}, c.written(p.job(name), data), nil
	})
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(b.Runs)) {
		if err := c.restoreRun(ctx, runKey{name, id}, b.Runs[id]); err != nil {
			return fmt.Errorf("run %s: %w", id, err)
		}
	}
	return nil
}

func (c Pool) restoreRun(ctx context.Context, k runKey, b backupOfRun) error {
	path := c.p().run(k.job, k.id)
	if have, _, err := get[runRecord](ctx, c, path); err == nil && have.State.final() {
		return nil // it ended since
	}
	rec := b.Run
	if err := c.ZK.CreateAll(ctx, path); err != nil {
		return err
	}
	fresh := rec.Attempt != "" && !rec.State.final()
	if fresh {
		rec.Attempt = rand.Text()
		if err := c.stage(ctx, c.p().attempt(k, rec.Attempt), b); err != nil {
			return err
		}
		rec.Parts = parts(b.Plan)
	}
	return c.change(ctx, func(ctx context.Context) ([]zookeeper.Op, func(context.Context) (bool, error), error) {
		have, stat, err := c.ZK.Get(ctx, path)
		if err != nil {
			return nil, nil, err
		}
		if r, err := decode[runRecord](path, have); err == nil && fresh && r.Attempt == rec.Attempt {
			return nil, nil, nil // it was done and its answer lost; a shard may have been split since
		}
		rec.Write = rand.Text()
		data := encode(rec)
		return []zookeeper.Op{zookeeper.SetOp(path, data, stat.Version)}, c.written(path, data), nil
	})
}

func parts(plan []byte) int {
	packed, err := squeeze(plan)
	if err != nil {
		panic(err) // writing to memory
	}
	return (len(packed) + bytesPerWrite - 1) / bytesPerWrite
}

// stage writes the nodes of an attempt with the checkpoints of a backup.
func (c Pool) stage(ctx context.Context, at string, b backupOfRun) error {
	shards := make([]json.RawMessage, len(b.Marks))
	for i, m := range b.Marks {
		shards[i] = m.Shard
	}
	marks := map[string][]byte{}
	for n, m := range b.Marks {
		marks[checkpoints.MarkPath(at, n)] = m.Encode()
	}
	nodes := checkpoints.Stage(at, shards, make([]string, len(shards)))
	for i, n := range nodes {
		if data := marks[n.Path]; data != nil {
			nodes[i].Data = data
		}
	}
	packed, err := squeeze(b.Plan)
	if err != nil {
		return err
	}
	nodes = append(nodes, checkpoints.Staged{Path: at + "/plan"})
	for i := 0; len(packed) > 0; i++ {
		n := min(len(packed), bytesPerWrite)
		nodes = append(nodes, checkpoints.Staged{Path: fmt.Sprintf("%s/plan/%d", at, i), Data: packed[:n]})
		packed = packed[n:]
	}
	for _, n := range nodes {
		err := c.ZK.Create(ctx, n.Path, n.Data)
		if errors.Is(err, zookeeper.ErrUnknown) {
			err = c.ZK.Create(ctx, n.Path, n.Data) // nobody else knows the name
		}
		if err != nil && !errors.Is(err, zookeeper.ErrNodeExists) {
			return err
		}
	}
	return nil
}
