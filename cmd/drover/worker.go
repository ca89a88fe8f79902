package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"drover/checkpoints"
	"drover/durable"
	"drover/fleet"
	"drover/jobfile"
	"drover/jobs"
	"drover/runner"
	"drover/zookeeper"
)

func workerCommand() *cobra.Command {
	var pool poolFlags
	var o struct {
		name, state, status string
		labels              []string
		capacity, memory    int
		share               string
		follow              bool
	}
	c := &cobra.Command{
		Use:   "worker",
		Short: "Join a pool of hosts, and work on what is submitted to it",
		Long: `Joins the pool at --zookeeper and works on its runs' shards, as many at once as --capacity says, until it gets a signal. One worker
of the pool leads: it plans runs, or has them planned by who has the labels that they need, and says who has which shard. When a
worker ends or is cut off, the others go on with its shards.

Every worker needs the gateways, and the sources by the paths that the job files give. A job that names labels under needs goes only
to workers that have them (--label), and is planned there. With --follow it never leads, and plans nothing: for hosts that see no
source.

The first SIGINT or SIGTERM drains: what is in flight is finished and saved, the shards are handed back, and the command ends with 0.
A second one ends it at once. drover drain does the same from afar, without ending it.`,
		Example: `  drover worker --zookeeper zk1:2181,zk2:2181,zk3:2181/drover/main --label dc=east
  DROVER_ZOOKEEPER=zk1:2181,zk2:2181/drover/main drover worker --capacity 8 --memory 128`,
		Args: cobra.NoArgs,
		RunE: ran(func(*cobra.Command, []string) error {
			labels, err := parseLabels(o.labels)
			if err != nil {
				return usageError{err}
			}
			if o.memory < 4 {
				return usageError{fmt.Errorf("--memory %d: want at least 4 (MiB)", o.memory)}
			}
			if o.capacity < 0 {
				return usageError{fmt.Errorf("--capacity %d: want a number of shards from 0", o.capacity)}
			}
			part, err := parsePart(o.share)
			if err != nil {
				return usageError{err}
			}
			wall, err := wallClock(os.Getenv("DROVER_CLOCK"))
			if err != nil {
				return usageError{err}
			}
			at, err := pool.need(nil)
			if err != nil {
				return err
			}
			log := logger(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
			w := &worker{
				name: o.name, state: stateDir(o.state), capacity: o.capacity, memory: o.memory << 20, part: part, wall: wall, log: log, runs: map[string]*underway{},
			}
			return w.serve(at, labels, !o.follow, o.status)
		}),
	}
	pool.add(c)
	f := c.Flags()
	f.StringVar(&o.name, "name", hostname(), "its name in the pool, for people and for drover drain")
	f.IntVar(&o.capacity, "capacity", defaultCapacity(), "shards to move at once; 0 works on none, but leads")
	f.StringArrayVar(&o.labels, "label", nil, "KEY=VALUE that jobs may ask for; several times for several")
	f.IntVar(&o.memory, "memory", runner.DefaultMemory>>20, "MiB of documents and rows in flight, for each run that it works on")
	f.StringVar(&o.share, "share", "100%", "the most of a table's limit that it takes, also when nobody else does: for a host that is weak")
	f.BoolVar(&o.follow, "follow", false, "never lead")
	f.StringVar(&o.state, "state", "", "folder for dead letters (default $XDG_STATE_HOME/drover)")
	f.StringVar(&o.status, "status-file", "", "write what it does into this file, as JSON, in place of progress lines")
	return c
}

func defaultCapacity() int { return max(2, runtime.GOMAXPROCS(0)) }

// wallClock is the time of day by which a worker that leads fires schedules, for tests: text is a moment and how many times as fast as others
// this clock goes from there. Nothing else goes by it.
func wallClock(text string) (func() time.Time, error) {
	if text == "" {
		return time.Now, nil
	}
	moment, factor, _ := strings.Cut(text, ",")
	from, err := time.Parse(time.RFC3339, moment)
	times, err2 := strconv.Atoi(factor)
	if err != nil || err2 != nil || times < 1 {
		return nil, fmt.Errorf("DROVER_CLOCK %q: want a moment and a factor, such as 2026-01-02T15:04:05Z,60", text)
	}
	return func() time.Time { return from.Add(time.Since(from) * time.Duration(times)) }, nil
}

// parsePart reads a part of a limit, such as 40%.
func parsePart(text string) (float64, error) {
	n, ok := strings.CutSuffix(text, "%")
	p, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
	if !ok || err != nil || !(p > 0 && p <= 100) {
		return 0, fmt.Errorf("--share %s: want a part of the limit above 0 and up to 100%%, such as 40%%", text)
	}
	return p / 100, nil
}

func parseLabels(list []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--label %q: want KEY=VALUE, such as dc=east", l)
		}
		labels[k] = v
	}
	return labels, nil
}

// worker is a process of a pool: what package fleet leaves to others, planning and working.
type worker struct {
	name, state      string
	capacity, memory int
	part             float64          // the most of a budget that is taken; 0 is all
	wall             func() time.Time // nil is the host's
	member           *fleet.Member
	log              *slog.Logger
	quiet            bool    // shards come and go unsaid
	alone            *inPool // the one run that this process works on; nil is a worker of the pool

	mu   sync.Mutex
	runs map[string]*underway // by job and run
}

// underway is a run that is worked on here.
type underway struct {
	name   string
	mon    *runner.Monitor
	rates  rates
	shards map[int]bool // in hand
}

// serve is the command.
func (w *worker) serve(at poolAddress, labels map[string]string, leads bool, statusFile string) error {
	zk, err := at.open(w.log)
	if err != nil {
		return err
	}
	defer zk.Close()
	stop := sayZooKeeper(zk, w.log)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	atOnce := make(chan struct{})
	sigs := watchSignals(w.log, func() { close(atOnce) })
	ended := make(chan error, 1)
	go func() {
		<-sigs.first
		cancel()
	}()
	go func() { ended <- w.run(ctx, at, zk, labels, leads, statusFile) }()
	select {
	case err := <-ended:
		if err != nil && ctx.Err() == nil {
			return err
		}
		w.log.Info("left the pool")
		return nil
	case <-atOnce:
		return exit{128 + int(sigs.caught())}
	}
}

func (w *worker) run(ctx context.Context, at poolAddress, zk *zookeeper.Client, labels map[string]string, leads bool, statusFile string) error {
	if err := w.join(ctx, at, zk, labels, leads); err != nil {
		return err
	}
	w.log.Info("joined the pool", "pool", at.String(), "worker", w.name, "capacity", w.capacity)
	var aside sync.WaitGroup
	watching, stop := context.WithCancel(context.Background())
	aside.Go(func() { w.report(watching, statusFile) })
	err := w.member.Run(ctx)
	stop()
	aside.Wait()
	return err
}

// join makes the member. Run it then.
func (w *worker) join(ctx context.Context, at poolAddress, zk *zookeeper.Client, labels map[string]string, leads bool) (err error) {
	c := fleet.Config{
		ZK: zk, Root: at.Path, Name: w.name, Version: version, Labels: labels, Capacity: w.capacity, Work: w.work, Wall: w.wall, Log: w.log,
	}
	if leads {
		c.Plan = w.plan
	}
	w.member, err = fleet.Join(ctx, c)
	return err
}

// sayZooKeeper logs when the session is in doubt and when it stands again.
func sayZooKeeper(zk *zookeeper.Client, log *slog.Logger) (stop func()) {
	var mu sync.Mutex
	var last zookeeper.State
	return zk.OnState(func(s zookeeper.State, _ zookeeper.Session) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case s == last:
		case s == zookeeper.Suspended:
			log.Warn("ZooKeeper is not reached: work goes on until the deadline of the session, then waits for it")
		case s == zookeeper.Connected && last != zookeeper.Connecting:
			log.Info("ZooKeeper is reached again")
		}
		last = s
	})
}

// config is what a run of a submitted job is made of here.
func (w *worker) config(f *jobfile.File, log *slog.Logger) runner.Config {
	return runner.Config{
		Job: f.Job(), StateDir: w.state, Budgets: budgetDir(), Memory: w.memory, Shards: max(1, w.capacity), Log: log, Monitor: &runner.Monitor{},
	}
}

// blame says on which host something failed.
func (w *worker) blame(err error) error { return fmt.Errorf("worker %s: %w", w.name, err) }

// planFor is how many shards at once a plan of the pool is made for, at least.
const planFor = 32

// plan is fleet.Config.Plan.
func (w *worker) plan(ctx context.Context, file []byte, after int64) (fleet.Planned, error) {
	s, f, err := parseSubmitted(file)
	if err != nil {
		return fleet.Planned{}, w.blame(err)
	}
	if s.Plan != nil {
		return retimed(s, f, after)
	}
	if err := noEmbedded(f.Job()); err != nil {
		return fleet.Planned{}, w.blame(err)
	}
	cfg := w.config(f, w.log)
	cfg.Shards = max(cfg.Shards, planFor) // for more workers than this one
	p, text, err := makePlan(ctx, f, cfg, after)
	if err != nil {
		return fleet.Planned{}, w.blame(err)
	}
	return planned(f.Job(), p, text), nil
}

func makePlan(ctx context.Context, f *jobfile.File, cfg runner.Config, after int64) (*runner.Plan, []byte, error) {
	closer, err := connectTo(f, &cfg, false, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	defer closer()
	return runner.MakePlan(ctx, cfg, after)
}

func planned(j jobs.Job, p *runner.Plan, text []byte) fleet.Planned {
	return fleet.Planned{Plan: text, Shards: p.Layout.Shards, Fingerprint: fingerprintOf(p), Timestamp: p.Timestamp, Limits: limitsOf(j, p)}
}

// fingerprintOf is what a run was planned for, and what its source was then.
func fingerprintOf(p *runner.Plan) string {
	print, err := json.Marshal(struct {
		runner.Fingerprint
		Identity json.RawMessage `json:"identity"`
	}{p.Fingerprint, p.Layout.Identity})
	if err != nil {
		panic(err) // of what was JSON before
	}
	return string(print)
}

// retimed is the plan that a job brought with it, with a timestamp above after.
func retimed(s submitted, f *jobfile.File, after int64) (fleet.Planned, error) {
	var p runner.Plan
	text, err := unpack(s.Plan)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return fleet.Planned{}, fmt.Errorf("read the plan that was submitted: %w", err)
	}
	p.Timestamp = max(p.Timestamp, after+1)
	if text, err = json.Marshal(p); err != nil {
		return fleet.Planned{}, fmt.Errorf("write the plan: %w", err)
	}
	all := planned(f.Job(), &p, text)
	all.Limits = nil // whoever works on it tells them
	return all, nil
}

// work is fleet.Config.Work.
func (w *worker) work(ctx context.Context, r fleet.Run, from fleet.Leases) error {
	if w.alone != nil {
		return w.alone.work(ctx, r, from)
	}
	_, f, err := parseSubmitted(r.File)
	if err == nil {
		err = noEmbedded(f.Job())
	}
	if err != nil {
		return w.blame(err)
	}
	err = w.move(ctx, r, f, w.config(f, w.log.With("run", r.Job+"/"+r.ID)), from, false)
	if err != nil && !errors.Is(err, context.Canceled) {
		return w.blame(err)
	}
	return err
}

// move works on a run's shards.
func (w *worker) move(ctx context.Context, r fleet.Run, f *jobfile.File, cfg runner.Config, from fleet.Leases, resumed bool) error {
	name := r.Job + "/" + r.ID
	u := w.begin(name, cfg.Monitor)
	defer w.end(name, u)
	daily := cfg.Job.Daily
	if w.alone == nil {
		daily = jobs.Daily{} // the pool has it by the run's Spec
	}
	// Not the run alone: what worked on it under a session that was lost may still be about to end.
	pays := budgets(w.member, name+" "+rand.Text(), fleet.Use{Weight: r.Spec.Weight, Class: r.Spec.Class, Cap: w.part}, daily)
	closer, err := connectTo(f, &cfg, true, nil, pays)
	if err != nil {
		return err
	}
	defer closer()
	return runner.Work(ctx, cfg, runner.Pooled{
		Run: r.ID, Plan: r.Plan, Store: r.Store, Leases: &leases{w: w, u: u, from: from, log: cfg.Log}, Resumed: resumed,
		SaveEvery: r.SaveEvery,
	})
}

func (w *worker) begin(name string, mon *runner.Monitor) *underway {
	u := &underway{name: name, mon: mon, shards: map[int]bool{}}
	u.rates.add(time.Now(), mon.Look())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[name] = u
	boundMemory(w.memory * len(w.runs))
	return u
}

func (w *worker) end(name string, u *underway) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runs[name] == u {
		delete(w.runs, name)
	}
	boundMemory(w.memory * max(1, len(w.runs)))
}

// leases hands the pool's leases to package runner, which knows nothing of pools.
type leases struct {
	w    *worker
	u    *underway
	from fleet.Leases
	log  *slog.Logger
}

func (l *leases) Next(ctx context.Context) (runner.Lease, bool) {
	x, ok := l.from.Next(ctx)
	if !ok {
		return runner.Lease{}, false
	}
	n := x.Shard.N
	l.hold(n, true)
	l.say("takes", n, slog.String("from", string(x.From.Cursor)))
	return runner.Lease{
		Shard: x.Shard, From: x.From, Lost: x.Lost,
		Hold:  func(ctx context.Context) error { return lost(x.Hold(ctx), fleet.ErrLost, runner.ErrLost) },
		Split: x.Split, Whole: x.Whole,
		Cut: func(ctx context.Context, head, rest jobs.Shard) error {
			err := x.Cut(ctx, head, rest)
			if err == nil {
				l.say("has cut", n)
			}
			return lost(err, fleet.ErrLost, runner.ErrLost)
		},
		Done: func(c checkpoints.Checkpoint, err error) {
			l.hold(n, false)
			switch {
			case err == nil:
				l.say("has moved", n)
			case errors.Is(err, runner.ErrLost), errors.Is(err, context.Canceled):
				l.say("gives back", n, slog.String("at", string(c.Cursor)))
			default:
				l.log.Warn("gives back a shard that failed", "shard", n, "error", err)
				err = l.w.blame(err)
			}
			x.Done(c, lost(err, runner.ErrLost, fleet.ErrLost))
		},
	}, true
}

// lost puts one package's word for a lease that is gone in the place of the other's.
func lost(err, from, to error) error {
	if errors.Is(err, from) {
		return to
	}
	return err
}

func (l *leases) hold(n int, yes bool) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if yes {
		l.u.shards[n] = true
	} else {
		delete(l.u.shards, n)
	}
}

func (l *leases) say(what string, n int, more ...any) {
	if !l.w.quiet {
		l.log.Info(what+" a shard", append([]any{"shard", n}, more...)...)
	}
}

// workerStatus is what a worker does, for --status-file.
type workerStatus struct {
	At     time.Time       `json:"at"`
	Worker string          `json:"worker"`
	ID     string          `json:"id"`
	Leads  bool            `json:"leads"`
	Held   string          `json:"held,omitempty"` // why nothing moves
	Runs   []workingStatus `json:"runs"`
}

type workingStatus struct {
	Run     string  `json:"run"`
	Shards  []int   `json:"shards"`
	Rows    int64   `json:"rows"` // by this process, since it took up the run
	Dead    int64   `json:"dead"`
	PerSec  float64 `json:"rows_per_second"`
	Waiting string  `json:"waiting"`
}

// report says every 10 s how it stands.
func (w *worker) report(ctx context.Context, file string) {
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	failed := false
	for {
		if file != "" {
			data, err := json.Marshal(w.status())
			if err == nil {
				err = durable.Replace(file, append(data, '\n'))
			}
			if err != nil && !failed {
				w.log.Warn("the status file cannot be written", "error", err)
			}
			failed = err != nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if file == "" {
			w.lines(os.Stderr)
		}
	}
}

// lines writes a line for each run.
func (w *worker) lines(out io.Writer) {
	for _, u := range w.underway() {
		p := u.mon.Look()
		u.rates.add(time.Now(), p)
		rows, bytes, _ := u.rates.perSecond()
		fmt.Fprintf(out, "%s %s  %d rows here  %s rows/s  %s/s  %s in hand  gateways %s%s · %s\n", time.Now().Format(time.TimeOnly), u.name, p.Counts.Rows,
			count(rows), size(bytes), plural(w.inHand(u), "shard"), inUse(p.Gateways), deadNote(p), waitLine(p))
	}
}

func (w *worker) underway() []*underway {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*underway
	for _, name := range slices.Sorted(maps.Keys(w.runs)) {
		list = append(list, w.runs[name])
	}
	return list
}

func (w *worker) inHand(u *underway) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(u.shards)
}

func (w *worker) status() workerStatus {
	_, leads := w.member.Leads()
	s := workerStatus{At: time.Now().UTC(), Worker: w.name, ID: w.member.ID(), Leads: leads, Held: w.member.Alert(), Runs: []workingStatus{}}
	for _, u := range w.underway() {
		p := u.mon.Look()
		u.rates.add(time.Now(), p)
		rows, _, _ := u.rates.perSecond()
		w.mu.Lock()
		shards := slices.Sorted(maps.Keys(u.shards))
		w.mu.Unlock()
		s.Runs = append(s.Runs, workingStatus{u.name, append([]int{}, shards...), p.Counts.Rows, p.Counts.Dead, rows, waitLine(p)})
	}
	return s
}
