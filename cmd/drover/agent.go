package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/zeebo/xxh3"
	"golang.org/x/term"

	"drover/agent"
	"drover/discovery"
	"drover/durable"
	"drover/hbase"
	"drover/jobfile"
	"drover/jobs"
	"drover/runner"
	"drover/zookeeper"
)

// nodeFlags name a gateway's node, and where the gateway tells of its connections.
type nodeFlags struct {
	zookeeper        []string
	path, node, auth string
	session          time.Duration
	gateway, info    string
	drain            time.Duration
	reason           bool
}

func (o *nodeFlags) add(f *pflag.FlagSet) {
	f.StringSliceVar(&o.zookeeper, "zookeeper", nil, "ensemble, HOST:PORT,… (needed)")
	f.StringVar(&o.path, "path", "/buzzthrift", "node whose children are the gateways")
	f.StringVar(&o.node, "node", "", "name of the gateway's node there, such as thrift_11 (needed)")
	f.StringVar(&o.auth, "auth", "", "env:NAME of a variable that holds digest:USER:PASSWORD for ZooKeeper")
	f.DurationVar(&o.session, "session-timeout", 10*time.Second, "of the ZooKeeper session to ask for")
	f.StringVar(&o.gateway, "gateway", "127.0.0.1:9090", "the gateway, HOST:PORT")
	f.StringVar(&o.info, "info", "", `its info port, HOST:PORT (default: port 9095 of --gateway's host; "none" is none)`)
	f.DurationVar(&o.drain, "drain", 30*time.Second, "how long to wait at most until its connections are gone, once the node says no; 0 leaves the node as it is")
	f.BoolVar(&o.reason, "reason", false, `put the reason beside {"ok": false}; some clients expect ok alone`)
}

// envPrefix is what a flag's variable begins with: --session-timeout is $DROVER_AGENT_SESSION_TIMEOUT.
const envPrefix = "DROVER_AGENT_"

// fromEnv sets flags that were not given from their variables.
func fromEnv(f *pflag.FlagSet) error {
	var faults []error
	f.VisitAll(func(flag *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		value, set := os.LookupEnv(name)
		if !set || flag.Changed {
			return
		}
		if err := f.Set(flag.Name, value); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(faults...)
}

// check completes the flags, and gives all faults.
func (o *nodeFlags) check(f *pflag.FlagSet) error {
	faults := []error{fromEnv(f)}
	if len(o.zookeeper) == 0 {
		faults = append(faults, errors.New("--zookeeper names no ensemble: give it HOST:PORT,…"))
	}
	if o.node == "" || strings.Contains(o.node, "/") {
		faults = append(faults, fmt.Errorf("--node %q: want the name of the gateway's node, such as thrift_11", o.node))
	}
	if !strings.HasPrefix(o.path, "/") || o.path != "/" && strings.HasSuffix(o.path, "/") {
		faults = append(faults, fmt.Errorf("--path %q: want a node such as /buzzthrift", o.path))
	}
	addr, err := discovery.ParseAddr(o.gateway)
	if err != nil {
		faults = append(faults, fmt.Errorf("--gateway: %w", err))
	}
	switch o.info {
	case "none":
		o.info = ""
	case "":
		if host, _, err := net.SplitHostPort(addr); err == nil {
			o.info = net.JoinHostPort(host, "9095")
		}
	default:
		if _, err := discovery.ParseAddr(o.info); err != nil {
			faults = append(faults, fmt.Errorf("--info: %w", err))
		}
	}
	if o.drain < 0 {
		faults = append(faults, fmt.Errorf("--drain %v: it cannot be negative", o.drain))
	}
	if err := errors.Join(faults...); err != nil {
		return usageError{err}
	}
	return nil
}

func (o *nodeFlags) full() string { return strings.TrimSuffix(o.path, "/") + "/" + o.node }

func (o *nodeFlags) metrics() func(context.Context) (agent.Metrics, error) {
	if o.info == "" {
		return nil
	}
	return func(ctx context.Context) (agent.Metrics, error) { return agent.ReadMetrics(ctx, o.info) }
}

func (o *nodeFlags) open(log *slog.Logger) (*zookeeper.Client, error) {
	z := &jobs.Ensemble{Servers: o.zookeeper, Path: o.path, SessionTimeout: o.session, Auth: o.auth}
	return openZooKeeper((*jobfile.File)(nil).ZooKeeperTLS, z, os.Getenv("DROVER_ZONE"), nil, log)
}

func agentCommand() *cobra.Command {
	var n nodeFlags
	var o struct {
		framed, compact, http bool
		create, ephemeral     bool
		canary, canaryFamily  string
		onBlocked, state      string
	}
	var cfg agent.Config
	c := &cobra.Command{
		Use:   "agent",
		Short: "Stand beside a gateway, look at it, and say in ZooKeeper whether it is to be used",
		Long: `Looks at one gateway as a client would, by real calls with deadlines and by its info port, and keeps ok in the gateway's node:
{"ok": true} or {"ok": false}. Other fields of the node stay as they are. The node is never deleted, and made only with --create.

The gateway is not ok when it is dead, stalled, blocked, or has no thread left, for --after; and ok again once it was sound for twice
as long, though not before --down is over, which doubles each time that it did not last. What it is now is logged, and a status
line every --status.

{"ok": false} that somebody else wrote, a person or drover agent drain, stands until somebody takes it back. The agent knows its own
by the version it wrote last, which it keeps in a file under --state. So does a node that was deleted: it stays so.

Without ZooKeeper it goes on looking, and writes what holds when ZooKeeper is back.

SIGTERM and SIGINT drain: the node says no, and the agent ends when the gateway has no connection any more, or after --drain. So
stop the agent before its gateway. When it is started again, it takes its own no back. A second signal ends it at once.

--on-blocked restarts a gateway that is stalled, blocked or without threads: one at a time in the fleet, no more often than
--restart-every, never while less than half of the fleet is ok, and with doubling waits where it does not help.

Each flag may be given by the environment: --session-timeout as DROVER_AGENT_SESSION_TIMEOUT.`,
		Example: `  drover agent --zookeeper zk1:2181,zk2:2181,zk3:2181 --node thrift_11 --create
  drover agent --zookeeper zk1:2181 --node thrift_11 --canary drover_canary --on-blocked 'systemctl restart hbase-thrift2'
  drover agent drain --zookeeper zk1:2181 --node thrift_11`,
		Args: cobra.NoArgs,
		RunE: ran(func(cmd *cobra.Command, _ []string) error {
			if err := n.check(cmd.Flags()); err != nil {
				return err
			}
			log := logger(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
			t := hbase.Transport{Framed: o.framed, Compact: o.compact, HTTP: o.http}
			if o.http {
				t.Path = "/"
			}
			cfg.Path, cfg.Create, cfg.Ephemeral = n.full(), o.create || o.ephemeral, o.ephemeral
			cfg.Reason, cfg.Drain, cfg.Metrics, cfg.Log = n.reason, n.drain, n.metrics(), log
			cfg.Probe = func(ctx context.Context) (agent.Trouble, string) { return diagnose(ctx, n.gateway, t) }
			if o.canary != "" {
				if err := hbase.CheckTableName(o.canary); err != nil {
					return usageError{fmt.Errorf("--canary: %w", err)}
				}
				s := singer{addr: n.gateway, transport: t, table: o.canary, family: o.canaryFamily, row: "drover-canary-" + n.node, log: log}
				cfg.Canary = s.sing
			}
			if o.onBlocked != "" {
				cfg.Restart.Run = func(ctx context.Context) error { return shell(ctx, o.onBlocked) }
			}
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			dir := o.state
			if dir == "" {
				dir = filepath.Join(xdgState(), "drover-agent")
			}
			if err := durable.MakeDir(dir); err != nil {
				return fmt.Errorf("make the folder of the agent's state: %w%s", err, durable.Advice(err, " with --state"))
			}
			cfg.File = filepath.Join(dir, fmt.Sprintf("%s-%016x.json", n.node, xxh3.HashString(sorted(n.zookeeper)+" "+cfg.Path)))
			z, err := n.open(log)
			if err != nil {
				return err
			}
			defer z.Close()
			cfg.Ensemble = agent.Client(z)
			ctx, stop := interruptible()
			defer stop()
			context.AfterFunc(ctx, stop) // the next signal ends the process
			log.Info("looking at the gateway", "gateway", n.gateway, "info", n.info, "node", cfg.Path)
			return agent.Run(ctx, cfg)
		}),
	}
	f := c.Flags()
	n.add(f)
	f.BoolVar(&o.framed, "framed", false, "the gateway speaks the framed transport")
	f.BoolVar(&o.compact, "compact", false, "the gateway speaks the compact protocol")
	f.BoolVar(&o.http, "http", false, "the gateway speaks Thrift over HTTP")
	f.BoolVar(&o.create, "create", false, "make the node, once the gateway is sound, if there is none")
	f.BoolVar(&o.ephemeral, "ephemeral", false, "as --create, with a node that goes with the agent's session")
	f.StringVar(&o.canary, "canary", "", "table in which to write and read a row: one that does not come back in 10 s is a gateway that is blocked")
	f.StringVar(&o.canaryFamily, "canary-family", "c", "family of that row's cell")
	f.DurationVar(&cfg.CanaryEvery, "canary-every", 10*time.Second, "how often")
	f.Int64Var(&cfg.Threads, "threads", 1000, "of the gateway (hbase.thrift.maxWorkerThreads), to tell one that has none left from one that is frozen; 0 is unknown")
	f.DurationVar(&cfg.Every, "every", 2*time.Second, "between looks")
	f.DurationVar(&cfg.Rules.After, "after", 5*time.Second, "trouble that makes it not ok")
	f.DurationVar(&cfg.Rules.Down, "down", 30*time.Second, "how long it is not ok at least")
	f.DurationVar(&cfg.Rules.MaxDown, "max-down", 30*time.Minute, "how long that may become by doubling")
	f.DurationVar(&cfg.Rules.Up, "up", 10*time.Second, "how long it is ok at least")
	f.StringVar(&o.onBlocked, "on-blocked", "", "command that restarts the gateway, run by sh -c")
	f.DurationVar(&cfg.Restart.After, "restart-after", time.Minute, "how long it is not ok before a restart")
	f.DurationVar(&cfg.Restart.Timeout, "restart-timeout", 2*time.Minute, "of the command")
	f.DurationVar(&cfg.Restart.Settle, "restart-settle", 2*time.Minute, "how long the gateway may take to be sound after it")
	f.DurationVar(&cfg.Restart.Every, "restart-every", 5*time.Minute, "between two restarts in the fleet")
	f.StringVar(&o.state, "state", "", "folder of what it wrote last (default $XDG_STATE_HOME/drover-agent)")
	f.DurationVar(&cfg.Status, "status", time.Minute, "between status lines")
	c.AddCommand(agentDrainCommand(), agentUndrainCommand())
	return c
}

// diagnose puts the findings of hbase into the agent's words.
func diagnose(ctx context.Context, addr string, t hbase.Transport) (agent.Trouble, string) {
	f := hbase.Diagnose(ctx, addr, t)
	switch f.Condition {
	case hbase.Sound:
		return agent.Sound, ""
	case hbase.Silent:
		return agent.Stalled, f.Reason
	case hbase.WrongProtocol:
		return agent.Wrong, f.Reason
	case hbase.Blocked:
		return agent.Blocked, f.Reason
	}
	return agent.Dead, f.Reason
}

// singer is the canary: a row of its own that is written and read.
type singer struct {
	addr, table, family, row string
	transport                hbase.Transport
	log                      *slog.Logger
	mute                     bool // the last time the table was to blame
}

const canaryPatience = 10 * time.Second

// sing gives an error where the row did not come back. That the table is missing, closed or disabled is no fault of the
// gateway's.
func (s *singer) sing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, canaryPatience)
	defer cancel()
	err := s.try(ctx)
	kind, _ := hbase.Classify(err)
	ours := err != nil && kind != hbase.Elsewhere && kind != hbase.Again
	if ours && !s.mute {
		s.log.Warn("the canary tells nothing: mend its table, or correct --canary", "table", s.table, "error", err)
	}
	s.mute = ours
	if ours {
		return nil
	}
	return err
}

func (s *singer) try(ctx context.Context) error {
	c, err := hbase.Dial(ctx, s.addr, s.transport)
	if err != nil {
		return nil // the probe tells, and sooner when it is over
	}
	defer c.Close()
	b := hbase.AcquireBatch(hbase.SyncWAL)
	defer b.Release()
	now := time.Now()
	b.Begin([]byte(s.row))
	b.Cell(hbase.Put, []byte(s.family), []byte("at"), now.UnixMilli(), []byte(now.UTC().Format(time.RFC3339Nano)))
	b.End()
	if err := c.PutMultiple(ctx, s.table, b, 0, 1); err != nil {
		return err
	}
	_, err = c.Exists(ctx, s.table, b, []int{0})
	return err
}

// shell runs a command, whose last words are in the error.
func shell(ctx context.Context, command string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String())
		return fmt.Errorf("%s: %w: %s", command, err, plainText(text[max(0, len(text)-500):]))
	}
	return nil
}

func agentDrainCommand() *cobra.Command {
	var n nodeFlags
	c := &cobra.Command{
		Use:   "drain",
		Short: "Take a gateway out before a planned stop, and wait until its connections are gone",
		Long: `Sets ok to false in the gateway's node, as a person would: its agent does not take it back, drover agent undrain does. Then
waits until the gateway has no connection any more, as its info port says, or --drain is over. That takes 11 s at least: what the port
says is up to 10 s old.

Exit code 6: the time was over, and connections were left or their number is unknown.`,
		Args: cobra.NoArgs,
		RunE: ran(func(cmd *cobra.Command, _ []string) error {
			said, ctx, stop, err := n.say(cmd.Flags(), false)
			if err != nil {
				return err
			}
			defer stop()
			fmt.Printf("%s says %s\n", n.full(), plainText(said))
			ctx, cancel := context.WithTimeout(ctx, n.drain)
			defer cancel()
			if !agent.Emptied(ctx, n.metrics()) {
				fmt.Println("connections may be left: the time is over")
				return exit{runner.ExitStopped}
			}
			fmt.Println("every connection is gone")
			return nil
		}),
	}
	n.add(c.Flags())
	return c
}

func agentUndrainCommand() *cobra.Command {
	var n nodeFlags
	c := &cobra.Command{
		Use:   "undrain",
		Short: "Put a gateway back that drain, or a person, took out",
		Args:  cobra.NoArgs,
		RunE: ran(func(cmd *cobra.Command, _ []string) error {
			said, _, stop, err := n.say(cmd.Flags(), true)
			if err != nil {
				return err
			}
			defer stop()
			fmt.Printf("%s says %s\n", n.full(), plainText(said))
			return nil
		}),
	}
	n.add(c.Flags())
	return c
}

// say sets ok in the node. ctx ends with a signal.
func (o *nodeFlags) say(f *pflag.FlagSet, ok bool) (said string, ctx context.Context, stop func(), err error) {
	if err := o.check(f); err != nil {
		return "", nil, nil, err
	}
	z, err := o.open(slog.New(slog.DiscardHandler))
	if err != nil {
		return "", nil, nil, err
	}
	defer z.Close()
	ctx, stop = interruptible()
	reason := ""
	if o.reason {
		reason = "drained"
	}
	said, err = agent.Say(ctx, z, o.full(), ok, reason)
	if err != nil {
		stop()
		return "", nil, nil, err
	}
	return said, ctx, stop, nil
}
