package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"drover/fleet"
	"drover/jobfile"
	"drover/runner"
	"drover/zookeeper"
)

// A drover run where a pool is named: one with its state on this host, that takes its part of the tables' budgets from the pool, and
// one with its state in the pool, that other processes of the pool may not work on.

// companion is this process as a member of a pool beside its own run.
type companion struct {
	*worker
	zk      *zookeeper.Client
	at      poolAddress
	start   func() // has the member take part
	started bool
	stop    context.CancelFunc
	done    chan struct{} // the member has ended
	mute    func()        // ends what is said of ZooKeeper
}

// accompany joins the pool, in which it takes part from its start on. It waits for ZooKeeper until ctx ends, and says so.
func accompany(ctx context.Context, at poolAddress, w *worker, labels map[string]string) (*companion, error) {
	zk, err := at.open(w.log)
	if err != nil {
		return nil, err
	}
	c := &companion{worker: w, zk: zk, at: at, done: make(chan struct{}), mute: sayZooKeeper(zk, w.log)}
	late := time.AfterFunc(3*time.Second, func() {
		w.log.Warn("waiting for ZooKeeper, without which the limits of the tables are not known", "servers", strings.Join(at.Servers, ","))
	})
	// Also one without shards of its own can lead: without a leader nobody would get a part of a limit.
	err = w.join(ctx, at, zk, labels, true)
	late.Stop()
	if err != nil {
		c.mute()
		zk.Close()
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.start = func() {
		c.started = true
		go func() {
			defer close(c.done)
			if err := w.member.Run(running); err != nil {
				w.log.Error("it takes no part in the pool, and so gets no part of any limit: mend that and start again", "error", err)
			}
		}()
	}
	return c, nil
}

// leaveFor is how long it is waited for the leader to hear of the end. It may be that nobody is there to hear it.
const leaveFor = time.Second

// close leaves the pool. Nothing is worked on any more.
func (c *companion) close() {
	c.stop()
	if c.started {
		select {
		case <-c.done:
		case <-time.After(leaveFor):
		}
	}
	c.mute()
	c.zk.Close() // the nodes of the member go with its session
}

// held is why nothing is sent, "" when that is not the pool's doing.
func (c *companion) held() string {
	if alert := c.member.Alert(); alert != "" {
		return "held: " + alert
	}
	if s := c.zk.State(); s != zookeeper.Connected {
		return "ZooKeeper is not reached (" + s.String() + "): nothing is sent beyond the deadline of the session"
	}
	return ""
}

// beside joins the pool as one that has no shards, for a run with its state on this host, and gives it its budgets.
func beside(ctx context.Context, at poolAddress, cfg runner.Config) (*companion, budgeter, error) {
	w := &worker{name: hostname(), state: cfg.StateDir, memory: cfg.Memory, log: cfg.Log, runs: map[string]*underway{}}
	c, err := accompany(ctx, at, w, map[string]string{"run": cfg.Job.Name})
	if err != nil {
		return nil, nil, err
	}
	c.start()
	use := fleet.Use{Weight: float64(cfg.Job.Weight), Class: cfg.Job.Priority.Class()}
	return c, budgets(w.member, "run "+cfg.Job.Name, use, cfg.Job.Daily), nil
}

// maxPlan bounds the plan that goes with a job: it is written twice at once, each time in base64 twice over, and a server takes 1 MB. A
// larger one is made anew by who leads, which is this process where it is alone.
const maxPlan = 200 << 10

// onlyLabel is what a worker must have to work on a run that is one process's: the job's name.
const onlyLabel = "only"

// inPool is a drover run with its state in the pool.
type inPool struct {
	f     *jobfile.File
	path  string // of it
	cfg   runner.Config
	host  *worker
	c     *companion
	pool  fleet.Pool
	began time.Time

	mu      sync.Mutex
	local   *runner.Monitor // of the work under way, or the last one
	resumed bool            // this process goes on with a run of another
	failed  error           // what ended the work here
	over    chan struct{}   // closed then
}

// carryInPool runs the job with signals and a display around it, as carry does.
func carryInPool(path string, f *jobfile.File, cfg runner.Config, at poolAddress, asJSON, quiet bool) error {
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	r := &inPool{f: f, path: path, cfg: cfg, began: time.Now(), over: make(chan struct{})}
	w := &waiting{job: cfg.Job.Name, mon: &poolMonitor{began: r.began}}
	show := newDisplay(os.Stderr, w.job, &mixedMonitor{pool: w.mon, r: r}, tty, quiet)
	r.cfg.Log = logger(show, tty)

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	atOnce := make(chan struct{})
	sigs := watchSignals(r.cfg.Log, func() { close(atOnce) })
	go func() {
		select {
		case <-sigs.first:
			cancel(context.Canceled)
		case <-ctx.Done():
		}
	}()
	ended := make(chan runner.Result, 1)
	go func() { ended <- r.run(ctx, at, w, show) }()
	var res runner.Result
	select {
	case res = <-ended:
	case <-atOnce:
		res = booksOf(w.seen())
		res.Job, res.State = w.job, runner.Stopped
		res.Reason = "stopped at once by a second signal: run the same command again to go on"
	}
	show.stop()
	res.Seconds = time.Since(r.began).Round(time.Millisecond).Seconds()
	res.PeakRSSBytes = runner.PeakRSS()
	return sigs.conclude(res, asJSON)
}

// run is all of it but signals and words.
func (r *inPool) run(ctx context.Context, at poolAddress, w *waiting, show *display) runner.Result {
	job := r.cfg.Job
	r.host = &worker{
		name: hostname(), state: r.cfg.StateDir, memory: r.cfg.Memory, capacity: defaultCapacity(), log: r.cfg.Log, quiet: true,
		runs: map[string]*underway{}, alone: r,
	}
	labels := maps.Clone(job.Needs)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[onlyLabel] = job.Name
	var err error
	if r.c, err = accompany(ctx, at, r.host, labels); err != nil {
		return runner.Failure(job.Name, err)
	}
	defer r.c.close()
	show.held(r.c.held)
	show.start()
	r.pool = fleet.Pool{ZK: r.c.zk, Root: at.Path, By: whoami()}
	w.pool = r.pool
	run, again, err := r.begin(ctx)
	if again != nil {
		return *again
	}
	if err != nil {
		return runner.Failure(job.Name, err)
	}
	w.run = run
	r.c.start()

	waits, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-r.over:
			stop()
		case <-waits.Done():
		}
	}()
	err = w.wait(waits)
	r.mu.Lock()
	failed := r.failed
	r.mu.Unlock()
	// Unless it is done it goes on another time: what is in flight is finished, saved and handed back.
	r.c.stop()
	r.settle()
	if err == nil {
		return booksOf(w.seen())
	}
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	w.look(last)
	res := booksOf(w.seen())
	end := runner.Failure(job.Name, cmp.Or(failed, err))
	res.State, res.Reason, res.Err = end.State, end.Reason, end.Err
	return res
}

// settle waits until nothing is worked on, for as long as a run would.
func (r *inPool) settle() {
	late := time.After(30 * time.Second)
	for len(r.c.underway()) > 0 {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-late:
			return
		}
	}
}

// begin finds the run to go on with, or submits one. again is the books of one that is done and would be the same.
func (r *inPool) begin(ctx context.Context) (run string, again *runner.Result, err error) {
	job := r.cfg.Job.Name
	other, err := r.other(ctx)
	if err != nil {
		return "", nil, err
	}
	if other != "" {
		res := runner.Result{Job: job, State: runner.Running, Reason: fmt.Sprintf("job %s is being run by %s already", job, other), Tables: []runner.TableBooks{}}
		return "", &res, nil
	}
	last, err := r.pool.Status(ctx, job, "")
	switch {
	case errors.Is(err, fleet.ErrNoRun):
	case err != nil:
		return "", nil, err
	case last.State == fleet.Done || last.State == fleet.Cancelled:
	case last.Spec.Needs[onlyLabel] != job:
		return "", nil, &runner.RefusedError{Reason: fmt.Sprintf("run %s of %s was submitted to the pool's workers and is %s: wait for its end, or end it with drover cancel %s", last.ID, job, last.State, job)}
	case r.cfg.Fresh:
		if err := r.pool.Cancel(ctx, job, last.ID); err != nil {
			return "", nil, err
		}
	case last.State == fleet.Paused:
		return "", nil, &runner.StopError{Reason: fmt.Sprintf("run %s is paused: drover resume %s, and run the same command again", last.ID, job)}
	default:
		if last.State == fleet.Failed {
			if err := r.pool.Resume(ctx, job, last.ID); err != nil {
				return "", nil, err
			}
		}
		r.resumed = true
		r.cfg.Log.Info("resuming", "run", last.ID, "documents", sumOf(last.Tables).Read)
		return last.ID, nil, nil
	}
	// Whoever leads may not see the source: the plan goes with the job.
	p, text, err := makePlan(ctx, r.f, r.cfg, last.Timestamp)
	if p != nil && last.State == fleet.Done && !r.cfg.Fresh && last.Fingerprint == fingerprintOf(p) {
		res := booksOf(last, nil)
		for i := range res.Tables {
			for _, t := range p.Tables {
				if t.Table == res.Tables[i].Table {
					res.Tables[i].Collection = t.Collection
				}
			}
		}
		res.Again = true
		return "", &res, nil
	}
	if err != nil {
		return "", nil, err
	}
	s, err := newSubmitted(r.path)
	if err != nil {
		return "", nil, err
	}
	if packed := pack(text); len(packed) < maxPlan {
		s.Plan = packed
	}
	spec := specOf(s, r.f)
	spec.Schedule, spec.Limits, spec.Daily = nil, nil, "" // the limits are those of the job file at each start, and told by who works on it
	spec.Needs = map[string]string{onlyLabel: job}
	maps.Copy(spec.Needs, r.cfg.Job.Needs)
	run, err = submit(ctx, r.pool, job, "", spec, false)
	return run, nil, err
}

// other names a process that runs the job already, "" for none. One that was killed is there until its session ends, and waited for.
func (r *inPool) other(ctx context.Context) (string, error) {
	until := time.Now().Add(r.c.zk.Session().Timeout * 3 / 2)
	said := false
	for {
		workers, err := r.pool.Workers(ctx)
		if err != nil {
			return "", err
		}
		there := ""
		for _, w := range workers {
			if w.Labels[onlyLabel] == r.cfg.Job.Name {
				there = w.ID
			}
		}
		if there == "" || time.Now().After(until) {
			return there, nil
		}
		if !said {
			r.cfg.Log.Info("waiting to see whether another process runs the job", "worker", there)
			said = true
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// work is worker.work for the one run: the job file is the one at hand, and what ends the work ends the command, not the run.
func (r *inPool) work(ctx context.Context, run fleet.Run, from fleet.Leases) error {
	select {
	case <-r.over:
		return nil
	default:
	}
	if run.Job != r.cfg.Job.Name {
		return fmt.Errorf("this process works on job %s alone", r.cfg.Job.Name)
	}
	cfg := r.cfg
	cfg.Monitor = &runner.Monitor{}
	r.mu.Lock()
	r.local = cfg.Monitor
	resumed := r.resumed
	r.resumed = false
	r.mu.Unlock()
	err := r.host.move(ctx, run, r.f, cfg, from, resumed)
	if err == nil || ctx.Err() != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
		close(r.over)
	}
	return nil
}

// mixedMonitor is the pool's view of a run, and what this process knows of its gateways and waits.
type mixedMonitor struct {
	pool *poolMonitor
	r    *inPool
}

func (m *mixedMonitor) Look() runner.Progress {
	p := m.pool.Look()
	m.r.mu.Lock()
	local := m.r.local
	m.r.mu.Unlock()
	if local == nil {
		if p.Phase == "" {
			p.Phase = "planning"
		}
		return p
	}
	l := local.Look()
	p.Gateways, p.Paused, p.Slowed, p.Ramps, p.Waits = l.Gateways, l.Paused, l.Slowed, l.Ramps, l.Waits
	return p
}
