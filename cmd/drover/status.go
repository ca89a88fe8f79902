package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"drover/fleet"
	"drover/runner"
)

func statusCommand() *cobra.Command {
	var o struct {
		json  bool
		state string
	}
	var pool poolFlags
	c := &cobra.Command{
		Use:   "status JOB [RUN]",
		Short: "Say how a job stands, running or not",
		Long: `Says how a job stands by its state folder on this host; JOB is its job file. Where a pool is named, by --zookeeper or
DROVER_ZOOKEEPER, it is the pool's job, by name or job file: its newest run, or the one that is named. --state is this host's again.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: ran(func(cmd *cobra.Command, args []string) error {
			if o.state == "" {
				known, err := poolStatus(&pool, args, o.json)
				if known || err != nil {
					return err
				}
			}
			if len(args) > 1 {
				return usageError{errors.New("status: a run is named only where a pool is: give --zookeeper, or set DROVER_ZOOKEEPER")}
			}
			f, err := loadJob(args[0])
			if err != nil {
				return err
			}
			ctx, stop := interruptible()
			defer stop()
			res, ok, err := runner.Status(ctx, stateDir(o.state), f.Job())
			if err != nil {
				return err
			}
			if !ok {
				fmt.Fprintf(os.Stderr, "%s was never run with its state in %s\n", f.Job().Name, stateDir(o.state))
				return exit{runner.ExitFailed}
			}
			if o.json {
				return printJSON(os.Stdout, res)
			}
			printBooks(os.Stdout, res)
			return nil
		}),
	}
	pool.add(c)
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	c.Flags().StringVar(&o.state, "state", "", "folder of the job's state (default $XDG_STATE_HOME/drover)")
	return c
}

// poolStatus is a pool's status of a job. known is false where no pool is named, or the pool has no such job and a job file was given,
// which may have its state here.
func poolStatus(o *poolFlags, args []string, asJSON bool) (known bool, err error) {
	job, run, f, err := jobAndRun(args)
	if err != nil {
		return false, err
	}
	a, ok, err := o.address(f)
	if err != nil || !ok {
		return false, err
	}
	known = true
	err = o.at(f, func(ctx context.Context, p fleet.Pool) error {
		info, err := p.Status(ctx, job, run)
		if errors.Is(err, fleet.ErrNoRun) && f != nil && run == "" && !f.Job().Pooled {
			known = false
			return nil
		}
		if err != nil {
			return err
		}
		var plan *runner.Plan
		if info.Plan != nil {
			plan = &runner.Plan{}
			if err := json.Unmarshal(info.Plan, plan); err != nil {
				return fmt.Errorf("read the plan of run %s: %w", info.ID, err)
			}
		}
		res := booksOf(info, plan)
		if asJSON {
			return printJSON(os.Stdout, res)
		}
		if info.State != fleet.Done {
			res.State = runner.State(info.State) // the pool's own word
		}
		printBooks(os.Stdout, res)
		sayLetters(os.Stdout, res)
		fmt.Printf("  pool       %s, %s, %d of %s done, submitted %s by %s\n", a, info.State, info.Done, plural(info.Shards, "shard"), info.At.Local().Format(time.DateTime), plainText(info.By))
		return nil
	})
	return known, err
}
