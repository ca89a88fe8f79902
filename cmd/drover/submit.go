package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"drover/checkpoints"
	"drover/fleet"
	"drover/jobfile"
	"drover/runner"
	"drover/zookeeper"
)

func submitCommand() *cobra.Command {
	var pool poolFlags
	var o struct {
		wait, json, fresh, quiet, plan bool
		request                        string
	}
	c := &cobra.Command{
		Use:   "submit JOB.yaml",
		Short: "Hand a job to a pool of workers",
		Long: `Gives the job to the pool at --zookeeper as a new run, and prints the run's id. The pool's leader plans it, and the workers move it; what
the job file names must be there on their hosts, by the same absolute paths.

While the job's last run is not over, nothing is submitted, and the exit code is 5; --fresh cancels that run and starts a new one. A
run that failed goes on with drover resume, once its cause is mended; a new one begins from the start.

With --wait the command shows the run as drover run does, and ends as it does: the same books, with --json the same object, and the
same exit codes. A signal ends the waiting, not the run: drover cancel does that.

The leader plans whatever its labels are. Where it may not see the source, --plan plans here, and gives the plan with the job.

--request names the run. Repeating it submits nothing again, so a caller that got no answer can ask once more.`,
		Example: `  drover submit job.yaml --zookeeper zk1:2181,zk2:2181,zk3:2181/drover/main --wait --json`,
		Args:    cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			s, err := newSubmitted(args[0])
			if err != nil {
				return err
			}
			f, err := loadJob(args[0])
			if err != nil {
				return err
			}
			if err := noEmbedded(f.Job()); err != nil {
				return usageError{err}
			}
			if o.wait && f.Schedule() != nil {
				return usageError{fmt.Errorf("submit --wait: %s has a schedule, and each of its runs starts at a time of its own: leave out --wait", f.Job().Name)}
			}
			if o.plan && f.Schedule() != nil {
				return usageError{fmt.Errorf("submit --plan: %s has a schedule, and each of its runs has a plan of its own: leave out --plan", f.Job().Name)}
			}
			at, err := pool.need(f)
			if err != nil {
				return err
			}
			ctx, p, closer, err := at.command()
			if err != nil {
				return err
			}
			defer closer()
			job := f.Job().Name
			if o.plan {
				if s.Plan, err = planHere(ctx, f); err != nil {
					return err
				}
			}
			run, err := submit(ctx, p, job, o.request, specOf(s, f), o.fresh)
			if busy, ok := errors.AsType[*fleet.BusyError](err); ok {
				return refused(ctx, p, at, busy, o.json)
			}
			if err != nil {
				return err
			}
			if run == "" && !o.json {
				fmt.Fprintf(os.Stderr, "%s is scheduled: drover jobs shows it\n", job)
				return nil
			}
			if !o.wait {
				if o.json {
					return printJSON(os.Stdout, map[string]string{"job": job, "run": run})
				}
				fmt.Println(run)
				return nil
			}
			// Signals are the waiting's own from here on.
			return waitFor(p, f, run, o.json, o.quiet)
		}),
	}
	pool.add(c)
	f := c.Flags()
	f.BoolVar(&o.plan, "plan", false, "plan on this host, for a leader that does not see the source")
	f.BoolVar(&o.wait, "wait", false, "wait for the run's end, and end as drover run does")
	f.BoolVar(&o.json, "json", false, "print one JSON object: with --wait the books at the end")
	f.BoolVar(&o.fresh, "fresh", false, "cancel the job's last run, if it is not over, and start a new one")
	f.BoolVar(&o.quiet, "quiet", false, "no bar and no progress lines")
	f.StringVar(&o.request, "request", "", "id of the run (default: a new one)")
	return c
}

func submit(ctx context.Context, p fleet.Pool, job, request string, spec fleet.Spec, fresh bool) (run string, err error) {
	if request == "" {
		request = fleet.NewRequest()
	}
	for {
		run, err = p.SubmitAlone(ctx, request, job, spec)
		busy, is := errors.AsType[*fleet.BusyError](err)
		if !is || !fresh {
			return run, err
		}
		if err := p.Cancel(ctx, job, busy.Run); err != nil {
			return "", err
		}
	}
}

// refused says that a job's last run is in the way.
func refused(ctx context.Context, p fleet.Pool, at poolAddress, busy *fleet.BusyError, asJSON bool) error {
	why := fmt.Sprintf("run %s is %s: wait for its end (drover status %s), end it (drover cancel %s), or start a new one with --fresh", busy.Run, busy.State, busy.Job, busy.Job)
	if busy.State == fleet.Paused {
		why = fmt.Sprintf("run %s is paused: go on with it (drover resume %s), or start a new one with --fresh", busy.Run, busy.Job)
	}
	fmt.Fprintf(os.Stderr, "drover: %s has a run that is not over at %s: %s\n", busy.Job, at, why)
	if asJSON {
		info, err := p.Status(ctx, busy.Job, busy.Run)
		if err != nil {
			return err
		}
		res := booksOf(info, nil)
		res.State, res.Reason = runner.Running, why
		if err := printJSON(os.Stdout, res); err != nil {
			return err
		}
	}
	return exit{runner.ExitRunning}
}

// waiting is a run of the pool that somebody waits for.
type waiting struct {
	pool     fleet.Pool
	job, run string

	mon *poolMonitor

	mu   sync.Mutex
	info fleet.RunInfo // as last seen
	plan *runner.Plan  // nil until seen
}

// seen is the run as it was when it was looked at last.
func (w *waiting) seen() (fleet.RunInfo, *runner.Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.info, w.plan
}

// look looks at the run.
func (w *waiting) look(ctx context.Context) error {
	info, err := w.pool.Status(ctx, w.job, w.run)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.info = info
	if w.plan == nil && info.Plan != nil {
		var p runner.Plan
		if json.Unmarshal(info.Plan, &p) == nil {
			w.plan = &p
		}
	}
	w.mon.saw(info, w.plan)
	return nil
}

// waitFor shows a run until its end, or a signal.
func waitFor(p fleet.Pool, f *jobfile.File, run string, asJSON, quiet bool) error {
	w := &waiting{pool: p, job: f.Job().Name, run: run, mon: &poolMonitor{began: time.Now()}}
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	show := newDisplay(os.Stderr, w.job, w.mon, tty, quiet)
	log := logger(show, tty)
	log.Info("submitted", "run", run)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(sig)
	var got syscall.Signal
	ended := make(chan struct{})
	go func() {
		select {
		case s := <-sig:
			got = s.(syscall.Signal)
		case <-ctx.Done():
		}
		cancel()
		close(ended)
	}()
	show.start()
	err := w.wait(ctx)
	show.stop()
	cancel()
	<-ended
	if err != nil && got == 0 {
		return err
	}
	res := booksOf(w.seen())
	code := res.ExitCode()
	if got != 0 && res.State == runner.Running {
		code = 128 + int(got)
		res.Signal = got.String()
		res.Reason = fmt.Sprintf("the waiting was ended by a signal; the run goes on: drover status %s, or drover cancel %s to end it", w.job, w.job)
	}
	if asJSON {
		if err := printJSON(os.Stdout, res); err != nil {
			return err
		}
	}
	printBooks(os.Stderr, res)
	sayLetters(os.Stderr, res)
	if code != 0 {
		return exit{code}
	}
	return nil
}

// Between two looks at a run. Each reads every shard's node.
const (
	lookEvery   = 300 * time.Millisecond
	lookPerNode = 5 * time.Millisecond
	lookAtMost  = 5 * time.Second
)

// wait returns nil when the run needs nobody who waits any more.
func (w *waiting) wait(ctx context.Context) error {
	failed := 0
	var still stillness
	for {
		err := w.look(ctx)
		info, _ := w.seen()
		if err == nil && still.lasts(info) {
			if why := w.idle(ctx, info); why != "" {
				w.mon.away(why)
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			failed = 0
			if info.State != fleet.Planning && info.State != fleet.Running {
				return nil
			}
		case errors.Is(err, zookeeper.ErrNotConnected), errors.Is(err, zookeeper.ErrSessionLost), errors.Is(err, zookeeper.ErrUnknown):
			w.mon.away("ZooKeeper is not reached; the run goes on without this command")
		default:
			if failed++; failed == 3 { // what was just swept away is looked for again
				return err
			}
		}
		select {
		case <-time.After(min(max(lookEvery, time.Duration(info.Shards)*lookPerNode), lookAtMost)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stillness notices that nothing of a run moves.
type stillness struct {
	rows  int64
	since time.Time
}

const stillFor = 5 * time.Second

func (s *stillness) lasts(info fleet.RunInfo) bool {
	if rows := sumOf(info.Tables).Read; rows != s.rows || s.since.IsZero() {
		s.rows, s.since = rows, time.Now()
	}
	return time.Since(s.since) >= stillFor
}

// idle says why nobody works on the run, as far as the pool's workers show it.
func (w *waiting) idle(ctx context.Context, info fleet.RunInfo) string {
	if info.Held != "" {
		return heldWhy(info)
	}
	list, err := w.pool.Workers(ctx)
	if err != nil {
		return ""
	}
	leads, works, fits := false, false, false
	for _, m := range list {
		leads = leads || m.Leads
		if m.Capacity == 0 || m.Draining || m.Fault != "" {
			continue
		}
		works = true
		all := true
		for k, v := range info.Spec.Needs {
			all = all && m.Labels[k] == v
		}
		fits = fits || all
	}
	state := string(info.State)
	switch {
	case !leads:
		return state + ": no worker leads the pool: start drover worker"
	case !works:
		return state + ": no worker of the pool takes shards: start drover worker, or end a drain"
	case !fits:
		return state + ": no worker has the labels that the job needs (drover workers shows them)"
	}
	return ""
}

// poolMonitor shows a run of the pool as a runner.Monitor shows one of this process.
type poolMonitor struct {
	mu    sync.Mutex
	p     runner.Progress
	began time.Time
}

func (m *poolMonitor) Look() runner.Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.p
}

func (m *poolMonitor) away(why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Phase = why
}

func (m *poolMonitor) saw(info fleet.RunInfo, plan *runner.Plan) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := runner.Progress{
		Phase: string(info.State), Run: info.ID, Counts: sumOf(info.Tables), Stored: info.Stored, Shards: info.Shards, Ended: info.Done, Elapsed: time.Since(m.began),
	}
	if plan != nil {
		for _, s := range plan.Layout.Shards {
			p.Total += s.Bytes
		}
	}
	m.p = p
}

// sayLetters says where the dead letters of a pool's run are.
func sayLetters(w io.Writer, r runner.Result) {
	if r.Dead > 0 {
		fmt.Fprintf(w, "  letters    drover dead list JOB.yaml --run %s; where dead_letters.to is a folder that is not shared, on each worker's host\n", r.Run)
	}
}

func sumOf(tables map[string]checkpoints.Counts) (sum checkpoints.Counts) {
	for c := range maps.Values(tables) {
		sum.Add(c)
	}
	return sum
}

func heldWhy(info fleet.RunInfo) string {
	return "everything is held: " + info.Held + "; drover restore goes on from a backup"
}

// booksOf says in the words of drover run how it stands with a run of the pool. plan may be nil.
func booksOf(info fleet.RunInfo, plan *runner.Plan) runner.Result {
	t := info.Totals
	res := runner.Result{
		Job: info.Job, Run: info.ID, Reason: info.Reason, Counts: sumOf(info.Tables), Resumed: t.Resumed, Shards: info.Shards, Calls: t.Calls, Retries: t.Retries,
		LimitedSeconds: t.Limited.Seconds(), SlowedSeconds: t.Slowed.Seconds(), Timestamp: info.Timestamp, Tables: []runner.TableBooks{},
	}
	if end := info.Ended; !end.IsZero() {
		res.Seconds = end.Sub(info.At).Seconds()
	} else {
		res.Seconds = time.Since(info.At).Seconds()
	}
	switch info.State {
	case fleet.Done:
		res.State = runner.Done
		if res.Dead > 0 {
			res.State = runner.DeadLetters
		}
	case fleet.Failed:
		res.State = runner.Failed
	case fleet.Paused:
		res.State = runner.Stopped
		res.Reason = cmp.Or(res.Reason, "it is paused: drover resume "+info.Job+" goes on")
	case fleet.Cancelled:
		res.State = runner.Stopped
		res.Reason = cmp.Or(res.Reason, "it was cancelled: what it wrote stays")
	default:
		res.State = runner.Running
		if info.Held != "" {
			res.Reason = heldWhy(info)
		}
	}
	if plan != nil {
		for _, tp := range plan.Tables {
			res.Tables = append(res.Tables, runner.TableBooks{Table: tp.Table, Collection: tp.Collection, Counts: info.Tables[tp.Table]})
		}
		return res
	}
	for _, name := range slices.Sorted(maps.Keys(info.Tables)) {
		res.Tables = append(res.Tables, runner.TableBooks{Table: name, Counts: info.Tables[name]})
	}
	return res
}

// planHere plans a job for whoever leads, which gives it the timestamp.
func planHere(ctx context.Context, f *jobfile.File) ([]byte, error) {
	cfg := runner.Config{Job: f.Job(), Budgets: budgetDir(), Log: logger(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))}
	_, text, err := makePlan(ctx, f, cfg, 0)
	if err != nil {
		return nil, err
	}
	packed := pack(text)
	if len(packed) >= maxPlan {
		return nil, &runner.RefusedError{Reason: fmt.Sprintf("the plan of %s takes %d bytes, more than goes with a job (%d): set fewer shards, or leave out --plan", f.Job().Name, len(packed), maxPlan)}
	}
	return packed, nil
}

// pack makes a plan small enough for a node, unpack gives it back.
func pack(plan []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(plan)
	z.Close() // of memory: neither fails
	return b.Bytes()
}

func unpack(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
