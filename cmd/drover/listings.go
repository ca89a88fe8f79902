package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"drover/fleet"
	"drover/fleet/tick"
)

// listing makes a command that lists something of the pool.
func listing[T any](c *cobra.Command, get func(ctx context.Context, p fleet.Pool) ([]T, error), head string, line func(w io.Writer, t T)) *cobra.Command {
	var pool poolFlags
	var asJSON bool
	c.Args = cobra.NoArgs
	c.RunE = ran(func(*cobra.Command, []string) error {
		return pool.at(nil, func(ctx context.Context, p fleet.Pool) error {
			list, err := get(ctx, p)
			if err != nil {
				return err
			}
			return show(list, asJSON, head, line)
		})
	})
	pool.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return c
}

// show prints what a command lists, under a head or as JSON.
func show[T any](list []T, asJSON bool, head string, line func(w io.Writer, t T)) error {
	if asJSON {
		for _, t := range list {
			if err := printJSON(os.Stdout, t); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for _, t := range list {
		line(w, t)
	}
	return w.Flush()
}

// jobLine is a job of the pool, for people and as JSON.
type jobLine struct {
	Job       string `json:"job"`
	Run       string `json:"run,omitempty"` // the newest
	State     string `json:"state,omitempty"`
	Class     int    `json:"class"`
	Schedule  string `json:"schedule,omitempty"`
	Paused    bool   `json:"schedule_paused,omitempty"`
	Submitted string `json:"file,omitempty"`
}

func jobsCommand() *cobra.Command {
	return listing(&cobra.Command{Use: "jobs", Short: "List the pool's jobs"}, func(ctx context.Context, p fleet.Pool) ([]jobLine, error) {
		list, err := p.Jobs(ctx)
		out := make([]jobLine, 0, len(list))
		for _, j := range list {
			l := jobLine{Job: j.Job, Run: j.Newest, State: string(j.State), Class: j.Spec.Class, Paused: j.Paused}
			if j.Spec.Schedule != nil {
				l.Schedule = j.Spec.Schedule.Cron
			}
			if s, _, err := parseSubmitted(j.Spec.File); err == nil {
				l.Submitted = s.Host + ":" + s.Path
			}
			out = append(out, l)
		}
		return out, err
	}, "JOB\tSTATE\tRUN\tSCHEDULE\tFILE", func(w io.Writer, j jobLine) {
		schedule := j.Schedule
		if j.Paused {
			schedule += " (paused)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", j.Job, dash(j.State), dash(j.Run), dash(schedule), plainText(j.Submitted))
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// workerLine is a worker of the pool.
type workerLine struct {
	Worker   string             `json:"worker"`
	ID       string             `json:"id"`
	Version  string             `json:"version"`
	Labels   map[string]string  `json:"labels,omitempty"`
	Capacity int                `json:"capacity"`
	Shards   int                `json:"shards"`
	Leads    bool               `json:"leads"`
	Draining bool               `json:"draining"`
	Parts    map[string]float64 `json:"parts,omitempty"` // of tables' limits of puts
	Fault    string             `json:"fault,omitempty"`
}

func workersCommand() *cobra.Command {
	return listing(&cobra.Command{Use: "workers", Short: "List the pool's workers, and what each of them has"}, func(ctx context.Context, p fleet.Pool) ([]workerLine, error) {
		list, err := p.Workers(ctx)
		out := make([]workerLine, 0, len(list))
		for _, w := range list {
			out = append(out, workerLine{w.Name, w.ID, w.Version, w.Labels, w.Capacity, w.Shards, w.Leads, w.Draining, w.Parts, w.Fault})
		}
		return out, err
	}, "WORKER\tSHARDS\tSTATE\tVERSION\tLABELS\tPARTS OF LIMITS\tID", func(w io.Writer, l workerLine) {
		var state []string
		if l.Leads {
			state = append(state, "leads")
		}
		if l.Draining {
			state = append(state, "draining")
		}
		if l.Fault != "" {
			state = append(state, plainText(l.Fault))
		}
		var labels, parts []string
		for _, k := range slices.Sorted(maps.Keys(l.Labels)) {
			labels = append(labels, k+"="+l.Labels[k])
		}
		for _, k := range slices.Sorted(maps.Keys(l.Parts)) {
			if strings.HasSuffix(k, ":*") {
				continue // a namespace's are much the same; the JSON has them
			}
			parts = append(parts, fmt.Sprintf("%s %.0f %%", k, 100*l.Parts[k]))
		}
		fmt.Fprintf(w, "%s\t%d of %d\t%s\t%s\t%s\t%s\t%s\n", plainText(l.Worker), l.Shards, l.Capacity, dash(strings.Join(state, ", ")), dash(plainText(l.Version)),
			dash(plainText(strings.Join(labels, " "))), dash(strings.Join(parts, ", ")), plainText(l.ID))
	})
}

// auditLine is a command that was given to the pool.
type auditLine struct {
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	What string    `json:"what"`
}

func auditCommand() *cobra.Command {
	n := 20
	c := listing(&cobra.Command{Use: "audit", Short: "List the newest commands that were given to the pool: when, by whom, what"}, func(ctx context.Context, p fleet.Pool) ([]auditLine, error) {
		list, err := p.Commands(ctx, n)
		out := make([]auditLine, 0, len(list))
		for _, c := range list {
			out = append(out, auditLine(c))
		}
		return out, err
	}, "AT\tBY\tWHAT", func(w io.Writer, l auditLine) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", l.At.Local().Format(time.DateTime), plainText(l.By), plainText(l.What))
	})
	c.Flags().IntVarP(&n, "number", "n", n, "how many")
	return c
}

func ticksCommand() *cobra.Command {
	var pool poolFlags
	var asJSON bool
	var n int
	c := &cobra.Command{
		Use: "ticks JOB", Short: "List what became of the newest instants of a job's schedule",
		Long: `Lists the newest instants of a job's schedule, and what the pool decided of each: fired, skipped or missed, and why. JOB is the job's
name or its job file.`,
		Args: cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			job, f, err := jobName(args[0])
			if err != nil {
				return err
			}
			return pool.at(f, func(ctx context.Context, p fleet.Pool) error {
				list, err := p.Ticks(ctx, job, n)
				if err != nil {
					return err
				}
				return show(list, asJSON, "AT\tOUTCOME\tRUN\tWHY", func(w io.Writer, d tick.Decision) {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.At.Local().Format(time.DateTime), d.Outcome, dash(d.Run), dash(plainText(d.Why)))
				})
			})
		}),
	}
	pool.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	c.Flags().IntVarP(&n, "number", "n", 20, "how many")
	return c
}
