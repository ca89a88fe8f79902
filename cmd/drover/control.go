package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"drover/fleet"
	"drover/fleet/share"
	"drover/jobfile"
)

// controlFlags are those of commands that change a run or a table of the pool.
type controlFlags struct {
	poolFlags
	table    string
	schedule bool
}

// at runs f with the pool. job is the job file that may name it; nil is none.
func (o *poolFlags) at(job *jobfile.File, f func(ctx context.Context, p fleet.Pool) error) error {
	a, err := o.need(job)
	if err != nil {
		return err
	}
	ctx, p, closer, err := a.command()
	if err != nil {
		return err
	}
	defer closer()
	return f(ctx, p)
}

// jobName takes a job's name, or the path of its job file.
func jobName(arg string) (string, *jobfile.File, error) {
	if _, err := os.Stat(arg); err != nil && !strings.Contains(arg, "/") && !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(arg)) {
		return arg, nil, nil
	}
	f, err := jobfile.Load(arg)
	if err != nil {
		return "", nil, usageError{err}
	}
	return f.Job().Name, f, nil
}

func jobAndRun(args []string) (job, run string, f *jobfile.File, err error) {
	if job, f, err = jobName(args[0]); err == nil && len(args) > 1 {
		run = args[1]
	}
	return job, run, f, err
}

// control makes a command of JOB [RUN], or --table.
func control(use, short, long string, tables bool, did string, do func(ctx context.Context, p fleet.Pool, o controlFlags, job, run string) error) *cobra.Command {
	var o controlFlags
	c := &cobra.Command{
		Use: use + " JOB [RUN]", Short: short, Long: long, Args: cobra.RangeArgs(0, 2),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			var job, run string
			var f *jobfile.File
			switch {
			case o.table == "" && len(args) == 0, o.table != "" && len(args) > 0:
				return usageError{fmt.Errorf("%s: want %s JOB [RUN]%s", use, use, map[bool]string{true: ", or --table TABLE"}[tables])}
			case o.table == "":
				var err error
				if job, run, f, err = jobAndRun(args); err != nil {
					return err
				}
			}
			return o.at(f, func(ctx context.Context, p fleet.Pool) error {
				if err := do(ctx, p, o, job, run); err != nil {
					return err
				}
				switch {
				case o.table != "":
					fmt.Printf("table %s: %s\n", o.table, did)
				case o.schedule:
					fmt.Printf("the schedule of %s: %s\n", job, did)
				default:
					info, err := p.Status(ctx, job, run)
					if err != nil {
						return err
					}
					fmt.Printf("%s, run %s: %s\n", job, info.ID, did)
				}
				return nil
			})
		}),
	}
	o.add(c)
	if tables {
		c.Flags().StringVar(&o.table, "table", "", "all work on this table, in place of a run")
		c.Flags().BoolVar(&o.schedule, "schedule", false, "the job's schedule, in place of its run")
	}
	return c
}

func pauseCommand() *cobra.Command {
	return control("pause", "Pause a run, a job's schedule or a table of the pool",
		`Pauses the job's newest run, or the one that is named: its shards are saved and handed back, and nothing of it moves until drover resume.
JOB is the job's name or its job file. With --table nothing at all is sent to a table, within a second; with --schedule the job's
schedule starts no more runs.`, true, "paused",
		func(ctx context.Context, p fleet.Pool, o controlFlags, job, run string) error {
			switch {
			case o.table != "":
				return p.PauseTable(ctx, o.table, true)
			case o.schedule:
				return p.Schedule(ctx, job, true)
			}
			return p.Pause(ctx, job, run)
		})
}

func resumeCommand() *cobra.Command {
	return control("resume", "Let what was paused, or a run that failed, go on",
		`Lets the job's newest run, or the one that is named, go on where it stood: one that was paused, or one that failed, once its cause is
mended. With --table, work on a table that was paused; with --schedule, the job's schedule.`, true, "goes on",
		func(ctx context.Context, p fleet.Pool, o controlFlags, job, run string) error {
			switch {
			case o.table != "":
				return p.PauseTable(ctx, o.table, false)
			case o.schedule:
				return p.Schedule(ctx, job, false)
			}
			return p.Resume(ctx, job, run)
		})
}

func cancelCommand() *cobra.Command {
	return control("cancel", "End a run of the pool for good",
		`Ends the job's newest run, or the one that is named, for good. What it wrote stays.`, false, "cancelled",
		func(ctx context.Context, p fleet.Pool, _ controlFlags, job, run string) error {
			return p.Cancel(ctx, job, run)
		})
}

func throttleCommand() *cobra.Command {
	var pool poolFlags
	var o struct {
		rows, scanRows   int64
		bytes, scanBytes string
		off              bool
	}
	c := &cobra.Command{
		Use:   "throttle TABLE",
		Short: "Limit all work of the pool on a table, whatever its jobs allow",
		Long: `Sets limits for a table, over those of its jobs: the lower of both holds, within a second, for all workers together and for every
drover run that takes part. What is not given is not limited. --off takes the throttle away. To stop all work: drover pause --table.

NAMESPACE:* in place of a table limits all tables of a namespace together, beside what holds for each; default:* those without one.`,
		Example: `  drover throttle events --rows 5000 --bytes 8MiB
  drover throttle 'ops:*' --rows 20000
  drover throttle events --off`,
		Args: cobra.ExactArgs(1),
		RunE: ran(func(cmd *cobra.Command, args []string) error {
			l := fleet.NoLimits
			given := false
			for _, d := range []struct {
				flag string
				to   *float64
				text string
			}{
				{"rows", &l.Puts.Rows, fmt.Sprint(o.rows)},
				{"bytes", &l.Puts.Bytes, o.bytes},
				{"scan-rows", &l.Scans.Rows, fmt.Sprint(o.scanRows)},
				{"scan-bytes", &l.Scans.Bytes, o.scanBytes},
			} {
				if !cmd.Flags().Changed(d.flag) {
					continue
				}
				given = true
				n, err := jobfile.ParseSize(d.text)
				if err == nil && n < 1 {
					err = errors.New("want a number from 1; drover pause --table stops all work")
				}
				if err != nil {
					return usageError{fmt.Errorf("--%s %s: %w", d.flag, d.text, err)}
				}
				*d.to = float64(n)
			}
			if given == o.off {
				return usageError{errors.New("throttle: want limits (--rows, --bytes, --scan-rows, --scan-bytes), or --off")}
			}
			return pool.at(nil, func(ctx context.Context, p fleet.Pool) error {
				if o.off {
					if err := p.Throttle(ctx, args[0], nil); err != nil {
						return err
					}
					fmt.Printf("table %s: no throttle\n", args[0])
					return nil
				}
				if err := p.Throttle(ctx, args[0], &l); err != nil {
					return err
				}
				fmt.Printf("table %s: puts %s, scans %s\n", args[0], limitText(l.Puts), limitText(l.Scans))
				return nil
			})
		}),
	}
	pool.add(c)
	f := c.Flags()
	f.Int64Var(&o.rows, "rows", 0, "rows written a second")
	f.StringVar(&o.bytes, "bytes", "", "bytes written a second, such as 8MiB")
	f.Int64Var(&o.scanRows, "scan-rows", 0, "rows read a second")
	f.StringVar(&o.scanBytes, "scan-bytes", "", "bytes read a second")
	f.BoolVar(&o.off, "off", false, "take the throttle away")
	return c
}

// limitText is a limit for people.
func limitText(l share.Limit) string {
	var parts []string
	if !math.IsInf(l.Rows, 1) {
		parts = append(parts, fmt.Sprintf("%.0f rows/s", l.Rows))
	}
	if !math.IsInf(l.Bytes, 1) {
		parts = append(parts, size(l.Bytes)+"/s")
	}
	if len(parts) == 0 {
		return "unlimited"
	}
	return strings.Join(parts, ", ")
}

func drainCommand() *cobra.Command {
	return drains("drain", "Have a worker give its shards back and take no more", true,
		`The worker, by its name or id, saves and hands back its shards, and takes none until drover undrain; it stays in the pool. For a
gateway there is drover agent drain.`)
}

func undrainCommand() *cobra.Command {
	return drains("undrain", "Let a worker that was drained work again", false, "")
}

func drains(use, short string, drained bool, long string) *cobra.Command {
	var pool poolFlags
	c := &cobra.Command{
		Use: use + " WORKER", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			return pool.at(nil, func(ctx context.Context, p fleet.Pool) error {
				list, err := p.Workers(ctx)
				if err != nil {
					return err
				}
				there := false
				for _, w := range list {
					there = there || w.Name == args[0] || w.ID == args[0]
				}
				if err := p.DrainWorker(ctx, args[0], drained); err != nil {
					return err
				}
				what := map[bool]string{true: "gives its shards back and takes no more", false: "takes shards"}[drained]
				if !there {
					what += " when it is there: no such worker is in the pool now"
				}
				fmt.Printf("worker %s %s\n", args[0], what)
				return nil
			})
		}),
	}
	pool.add(c)
	return c
}
