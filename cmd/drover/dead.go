package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"drover/deadletters"
	"drover/deadletters/lettertable"
	"drover/fleet"
	"drover/jobs"
	"drover/runner"
)

func deadCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "dead",
		Short: "List, show and replay the documents that could not be moved",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(deadListCommand(), deadShowCommand(), deadReplayCommand())
	return c
}

// letterTable is where a job's dead letters are in HBase; nil where they are in a folder.
func letterTable(j jobs.Job) runner.LetterStore {
	if j.DeadLetters.Table == "" {
		return nil
	}
	t := lettertable.Table{Name: j.DeadLetters.Table, Job: j.Name}
	if g := j.Gateways.Transport; g.Framed {
		t.Piece = cmp.Or(g.MaxFrame, 2<<20) / 2 // the rest is for the row around it
	}
	return t
}

// openLetters opens the letters of a job's run, "" for its newest on this host. Only for those in a table it needs a gateway, and does not wait long for one.
func openLetters(ctx context.Context, path, state, id string) (x *deadletters.Index, run string, done func(), err error) {
	f, err := loadJob(path)
	if err != nil {
		return nil, "", nil, err
	}
	cfg := runner.Config{Job: f.Job(), StateDir: stateDir(state), Log: logger(os.Stderr, false), Monitor: &runner.Monitor{}}
	closer := func() {}
	if cfg.Job.DeadLetters.Table != "" {
		cfg.Job.Gateways.OutageLimit = 5 * time.Second
		if closer, err = connectTo(f, &cfg, false, nil, nil); err != nil {
			return nil, "", nil, err
		}
	}
	x, run, end, err := runner.Letters(ctx, cfg, id)
	if err != nil {
		closer()
		return nil, "", nil, err
	}
	return x, run, func() { end(); closer() }, nil
}

func deadListCommand() *cobra.Command {
	var asJSON bool
	var state, id string
	c := &cobra.Command{
		Use:   "list JOB.yaml",
		Short: "List the dead letters of the job's newest run, or of another",
		Args:  cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			ctx, stop := interruptible()
			defer stop()
			x, run, done, err := openLetters(ctx, args[0], state, id)
			if err != nil {
				return err
			}
			defer done()
			for _, d := range x.Damaged() {
				fmt.Fprintln(os.Stderr, "drover: WARNING: not a letter:", d)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
			if !asJSON {
				fmt.Fprintf(os.Stderr, "run %s\n", run)
				fmt.Fprintln(w, "SHARD\tPOSITION\tTABLE\tSTAGE\tATTEMPTS\tREPLAYED\tREASON")
			}
			for e := range x.Entries() {
				l, err := x.Brief(e)
				if err != nil {
					return err
				}
				if asJSON {
					err := printJSON(os.Stdout, struct {
						deadletters.Letter
						Replayed bool `json:"replayed"`
						Document bool `json:"document,omitempty"`
						Raw      bool `json:"raw,omitempty"`
					}{Letter: l, Replayed: e.Replay != nil})
					if err != nil {
						return err
					}
					continue
				}
				yes := "no"
				if e.Replay != nil {
					yes = "yes"
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\n", l.Shard, l.Position, l.Table, l.Stage, l.Attempts, yes, cut(l.Reason))
			}
			return w.Flush()
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, without the documents")
	c.Flags().StringVar(&state, "state", "", "folder of the job's state (default $XDG_STATE_HOME/drover)")
	c.Flags().StringVar(&id, "run", "", "the run (default the newest of the job on this host)")
	return c
}

// cut keeps a reason on one line of a terminal.
func cut(s string) string {
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && width > 60 && len([]rune(s)) > width-50 {
		return string([]rune(s)[:width-51]) + "…"
	}
	return s
}

func deadShowCommand() *cobra.Command {
	var state, id string
	c := &cobra.Command{
		Use:   "show JOB.yaml SHARD POSITION",
		Short: "Show one dead letter with its document",
		Args:  cobra.ExactArgs(3),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			shard, err := strconv.Atoi(args[1])
			if err != nil {
				return usageError{fmt.Errorf("shard %q: want a number, as `drover dead list` shows it", args[1])}
			}
			ctx, stop := interruptible()
			defer stop()
			x, run, done, err := openLetters(ctx, args[0], state, id)
			if err != nil {
				return err
			}
			defer done()
			for e := range x.Entries() {
				if e.Shard != shard || e.Position != args[2] {
					continue
				}
				l, err := x.Letter(e)
				if err != nil {
					return err
				}
				out := json.NewEncoder(os.Stdout)
				out.SetEscapeHTML(false)
				out.SetIndent("", "  ")
				return out.Encode(l)
			}
			return fmt.Errorf("run %s has no letter of shard %d at position %s: `drover dead list` shows what there is", run, shard, args[2])
		}),
	}
	c.Flags().StringVar(&state, "state", "", "folder of the job's state (default $XDG_STATE_HOME/drover)")
	c.Flags().StringVar(&id, "run", "", "the run (default the newest of the job on this host)")
	return c
}

func deadReplayCommand() *cobra.Command {
	var asJSON, remap bool
	var state, id string
	var pool poolFlags
	c := &cobra.Command{
		Use:   "replay JOB.yaml",
		Short: "Write the dead documents after all, once the cause is mended",
		Long: `Maps and puts each dead document of the job's newest run again, with that run's timestamp, and moves it from dead to
written in the run's books. What is still refused stays dead, and the exit code is then 3.

Where a pool is named and has a run of the job, that run's letters are replayed, by this process alone and without the pool's limits;
they have to be in a table, or in a folder that is declared shared. --state names a run of this host in its place.`,
		Args: cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			f, err := loadJob(args[0])
			if err != nil {
				return err
			}
			at, ok, err := pool.address(f)
			if err != nil {
				return err
			}
			if id != "" && (!ok || state != "") {
				return usageError{errors.New("--run names a run of a pool: name the pool too (--zookeeper), and leave out --state")}
			}
			cfg := runner.Config{Job: f.Job(), StateDir: stateDir(state), Budgets: budgetDir(), Log: logger(os.Stderr, false), Monitor: &runner.Monitor{}}
			closer, err := connectTo(f, &cfg, true, nil, nil)
			if err != nil {
				return err
			}
			defer closer()
			var res runner.ReplayResult
			if ok && state == "" {
				res, err = replayPooled(at, cfg, id, remap)
			} else {
				ctx, stop := interruptible()
				defer stop()
				res, err = runner.Replay(ctx, cfg, remap)
			}
			if asJSON && err == nil {
				if err := printJSON(os.Stdout, res); err != nil {
					return err
				}
			}
			if err != nil {
				f := runner.Failure(cfg.Job.Name, err)
				fmt.Fprintln(os.Stderr, "drover:", f.Reason)
				return exit{f.ExitCode()}
			}
			if !asJSON {
				fmt.Printf("run %s: %d replayed, %d still dead\n", res.Run, res.Replayed, res.Still)
				for _, why := range res.Reasons {
					fmt.Println("  still dead:", why)
				}
			}
			if res.Still > 0 {
				return exit{runner.ExitDeadLetters}
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().BoolVar(&remap, "remap", false, "allow a mapping that differs from the run's, where that is what mends the documents")
	c.Flags().StringVar(&state, "state", "", "folder of the job's state (default $XDG_STATE_HOME/drover)")
	c.Flags().StringVar(&id, "run", "", "the pool's run (default the job's newest there)")
	pool.add(c)
	return c
}

// replayPooled replays the letters of a pool's run and has the pool keep what came of it; of a job that the pool has no run of, those of
// its run on this host.
func replayPooled(at poolAddress, cfg runner.Config, id string, remap bool) (res runner.ReplayResult, err error) {
	ctx, p, done, err := at.command()
	if err != nil {
		return res, err
	}
	defer done()
	job := cfg.Job.Name
	info, err := p.Status(ctx, job, id)
	switch {
	case errors.Is(err, fleet.ErrNoRun) && id == "":
		return runner.Replay(ctx, cfg, remap)
	case err != nil:
		return res, err
	case info.State != fleet.Done:
		return res, &runner.RefusedError{Reason: fmt.Sprintf("run %s of %s is %s: its letters can be replayed when it is done", info.ID, job, info.State)}
	case info.Plan == nil:
		return res, &runner.RefusedError{Reason: fmt.Sprintf("run %s of %s has no plan any more, since it has no dead letters", info.ID, job)}
	}
	res, moved, err := runner.ReplayPooled(ctx, cfg, info.ID, info.Plan, remap)
	if moved != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err = errors.Join(err, p.Replayed(last, job, info.ID, moved))
	}
	return res, err
}
