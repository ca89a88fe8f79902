package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"drover/discovery"
	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/native"
	"drover/jobfile"
	"drover/runner"
)

func runCommand() *cobra.Command {
	var o struct {
		json, dry, fresh, quiet bool
		state                   string
		limit                   int64
		memory                  int
	}
	var pool poolFlags
	c := &cobra.Command{
		Use:   "run JOB.yaml",
		Short: "Run a job, or go on with it where it stands",
		Long: `Runs the job: plans it the first time, goes on from its checkpoints when an earlier run did not end, and prints the
books of a run that is done without moving anything. The first SIGINT or SIGTERM drains and saves, a second one stops at once;
either way the same command goes on.

Where a pool of workers is named, by --zookeeper, DROVER_ZOOKEEPER or the job file, the run takes its part of each table's limits from
the pool, together with all others that work on the table. With --state zookeeper, or state: zookeeper in the job file, its state is in
the pool too, and the same command goes on with it on any host; the pool's workers leave it alone.`,
		Args: cobra.ExactArgs(1),
		RunE: ran(func(cmd *cobra.Command, args []string) error {
			if o.limit < 0 {
				return usageError{fmt.Errorf("--limit %d: want a number of documents from 1", o.limit)}
			}
			f, err := loadJob(args[0])
			if err != nil {
				return err
			}
			switch {
			case cmd.Flags().Changed("memory"):
			case readsTable(f.Job()):
				o.memory = runner.TableMemory >> 20
			default:
				o.memory = runner.DefaultMemory >> 20
			}
			if o.memory < 4 {
				return usageError{fmt.Errorf("--memory %d: want at least 4 (MiB)", o.memory)}
			}
			boundMemory(o.memory << 20)
			cfg := runner.Config{
				Memory: o.memory << 20, Job: f.Job(), StateDir: stateDir(o.state), Budgets: budgetDir(), Fresh: o.fresh, Limit: o.limit, DryRun: o.dry,
				Monitor: &runner.Monitor{},
			}
			at, named, err := pool.address(f)
			if err != nil {
				return err
			}
			inPool := o.state == stateZooKeeper || o.state == "" && f.Job().Pooled
			if inPool {
				cfg.StateDir = stateDir("")
			}
			switch {
			case inPool && !named:
				return usageError{errors.New("--state zookeeper: no pool is named: give --zookeeper HOST:PORT,…/NODE, or set DROVER_ZOOKEEPER")}
			case inPool && o.limit > 0:
				return usageError{errors.New("--limit: a limited run has its state on this host: give --state DIR")}
			case !named, o.dry:
				return carry(f, cfg, nil, o.json, o.quiet)
			case !inPool:
				return carry(f, cfg, &at, o.json, o.quiet)
			}
			if err := noEmbedded(f.Job()); err != nil {
				return usageError{err}
			}
			return carryInPool(args[0], f, cfg, at, o.json, o.quiet)
		}),
	}
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON object with the books on stdout at the end")
	c.Flags().BoolVar(&o.dry, "dry-run", false, "read and map every document, write nothing anywhere")
	c.Flags().BoolVar(&o.fresh, "fresh", false, "start a new run, whatever the last one left")
	c.Flags().BoolVar(&o.quiet, "quiet", false, "no bars and no progress lines")
	c.Flags().StringVar(&o.state, "state", "", "folder for the job's state, or zookeeper (default $XDG_STATE_HOME/drover)")
	pool.add(c)
	c.Flags().IntVar(&o.memory, "memory", 0, "MiB of documents and rows in flight; raise it for many gateways (default 32, for a job that reads a table 64)")
	c.Flags().Int64Var(&o.limit, "limit", 0, "move only the first N documents, as a run of its own that never marks the job done")
	return c
}

// boundMemory tells the collector what is in flight at most. Nearly all of the heap is buffers that are used again, so it may
// grow well beyond what lives before a collection is worth its cost, up to a limit that leaves room for the rest of the
// process. GOGC and GOMEMLIMIT in the environment go first.
func boundMemory(inFlight int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(inFlight) + 80<<20)
	}
}

// loadJob reads a job file and prints its warnings.
func loadJob(path string) (*jobfile.File, error) {
	f, err := jobfile.Load(path)
	if err != nil {
		return nil, usageError{err}
	}
	for _, w := range f.Warnings() {
		fmt.Fprintln(os.Stderr, "drover: WARNING:", w)
	}
	return f, nil
}

// stateZooKeeper is the --state that is no folder.
const stateZooKeeper = "zookeeper"

// carry runs the job with signals, gateways and a display around it, and ends with its exit code. at is the pool whose limits hold for
// it; nil is none.
func carry(f *jobfile.File, cfg runner.Config, at *poolAddress, asJSON, quiet bool) error {
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	show := newDisplay(os.Stderr, cfg.Job.Name, cfg.Monitor, tty, quiet)
	cfg.Log = logger(show, tty)

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	sigs := watchSignals(cfg.Log, func() {
		cancel(&runner.StopError{Reason: "stopped at once by a second signal: run the same command again to go on"})
	})
	cfg.Drain = sigs.first

	var pays budgeter
	var err error
	if at != nil {
		joining, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-sigs.first:
				stop()
			case <-joining.Done():
			}
		}()
		var c *companion
		if c, pays, err = beside(joining, *at, cfg); err == nil {
			defer c.close()
			show.held(c.held)
		}
		stop()
	}
	closeGateways := func() {}
	if err == nil {
		closeGateways, err = connectTo(f, &cfg, !cfg.DryRun, show.alert, pays)
	}
	var res runner.Result
	if err != nil {
		res = runner.Failure(cfg.Job.Name, err)
	} else {
		show.start()
		res = runner.Run(ctx, cfg)
		show.stop()
		closeGateways()
	}
	return sigs.conclude(res, asJSON)
}

// conclude prints how a run of this process ended, and ends it with the exit code.
func (s *signals) conclude(res runner.Result, asJSON bool) error {
	code := res.ExitCode()
	if got := s.caught(); got != 0 && res.State == runner.Stopped {
		code = 128 + int(got)
		res.Signal = got.String()
	}
	if asJSON {
		if err := printJSON(os.Stdout, res); err != nil {
			return err
		}
	}
	printBooks(os.Stderr, res)
	if code != 0 {
		return exit{code}
	}
	return nil
}

// nativeEndpoint is how the one gateway of gateways.native is called in what is said of gateways.
const nativeEndpoint = "native"

// nativeConnections is how many calls the native gateway has at once, where the job does not say it. What it does with them is work for
// this host's processors; more calls than keep them busy only wait, with all that they carry.
func nativeConnections() int { return max(4, 2*runtime.GOMAXPROCS(0)) }

// connectTo completes cfg with who the gateways are: the job's, an embedded one in this process, or a native one in a child of it. Their
// alerts are logged, and given to told, which may be nil. keep tells whether what is learned of them is kept on this host. pool gives a pool's budgets; nil is this host's.
func connectTo(f *jobfile.File, cfg *runner.Config, keep bool, told func(discovery.Alert), pool budgeter) (closer func(), err error) {
	g := &cfg.Job.Gateways
	tls, err := f.TLS()
	if err != nil {
		return nil, err
	}
	g.Transport.TLS = tls
	cfg.Letters = letterTable(cfg.Job)
	if pool != nil {
		pool.in(cfg)
	}
	if err := attachTable(f, cfg, pool); err != nil {
		return nil, err
	}
	if g.Native != "" {
		if g.Connections == 0 {
			g.Connections = nativeConnections()
		}
		own := native.OpenGateway(g.Native, cfg.Log)
		cfg.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return own.Dial(ctx) }
		cfg.Discover = func(ctx context.Context, update func([]hbase.Endpoint)) error {
			update([]hbase.Endpoint{{Addr: nativeEndpoint}})
			<-ctx.Done()
			return nil
		}
		return own.Close, nil
	}
	if g.Embedded == "" {
		cfg.Discover = func(ctx context.Context, update func([]hbase.Endpoint)) error {
			src, err := openGateways(f, cfg.Job.Gateways, cfg.Log)
			if err != nil {
				return err
			}
			defer src.close()
			src.readOnly = !keep
			return src.follow(ctx, cfg.Log, told, healthIn(cfg.Monitor), update)
		}
		return func() {}, nil
	}
	// Not before the job's lock is held: a second run of the job is to find that, and not that the folder is in use.
	var server *gateway.Server
	cfg.Open = func() (err error) {
		server, err = gateway.Open(gateway.Options{Dir: g.Embedded, Transport: g.Transport, Log: cfg.Log})
		return err
	}
	cfg.Discover = func(ctx context.Context, update func([]hbase.Endpoint)) error {
		return discovery.Static{server.Addr()}.Run(ctx, func(v discovery.View) { update(endpoints(v.Set())) })
	}
	return func() {
		if server != nil {
			server.Close()
		}
	}, nil
}

func logger(w io.Writer, tty bool) *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv("DROVER_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: !tty}))
}

// signals gives the first SIGINT or SIGTERM as a closed channel, and calls second on the next.
type signals struct {
	first chan struct{}
	sig   chan syscall.Signal
}

func watchSignals(log *slog.Logger, second func()) *signals {
	s := &signals{first: make(chan struct{}), sig: make(chan syscall.Signal, 1)}
	in := make(chan os.Signal, 2)
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM)
	go func() { // lives as long as the process
		got := (<-in).(syscall.Signal)
		log.Warn("stopping: finishing what is in flight and saving; again to stop at once", "signal", got)
		s.sig <- got
		close(s.first)
		<-in
		second()
	}()
	return s
}

func (s *signals) caught() syscall.Signal {
	select {
	case got := <-s.sig:
		return got
	default:
		return 0
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// interruptible is a context for commands that have nothing to save.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
}
