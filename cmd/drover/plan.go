package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"drover/hbase"
	"drover/hbase/native"
	"drover/jobs"
	"drover/runner"
)

func planCommand() *cobra.Command {
	var o struct {
		json      bool
		rows      int
		zookeeper string
	}
	c := &cobra.Command{
		Use:   "plan JOB.yaml",
		Short: "Show what a run would do: shards, tables, mapped sample rows; write nothing",
		Args:  cobra.ExactArgs(1),
		RunE: ran(func(cmd *cobra.Command, args []string) error {
			f, err := loadJob(args[0])
			if err != nil {
				return err
			}
			cfg := runner.Config{Job: f.Job(), Budgets: budgetDir(), Log: logger(os.Stderr, false), Monitor: &runner.Monitor{}}
			// A plan asks once and does not wait for gateways to come back.
			cfg.Job.Gateways.OutageLimit = 5 * time.Second
			if cfg.Job.Gateways.Embedded == "" || readsTable(cfg.Job) {
				closer, err := connectTo(f, &cfg, false, nil, nil)
				if err != nil {
					return err
				}
				defer closer()
			}
			ctx, stop := interruptible()
			defer stop()
			p, err := runner.Look(ctx, cfg, o.rows)
			if err != nil {
				return err
			}
			if o.json {
				if err := printJSON(os.Stdout, p); err != nil {
					return err
				}
			} else {
				printPlan(os.Stdout, cfg.Job, p)
			}
			if o.zookeeper != "" && !o.json {
				c, err := native.Ask(ctx, o.zookeeper, 10*time.Second)
				if err != nil {
					return err
				}
				printCluster(os.Stdout, c)
			}
			if p.Unreachable != "" {
				return exit{runner.ExitFailed}
			}
			for _, t := range p.Tables {
				if t.Problem != "" {
					return exit{runner.ExitFailed}
				}
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	c.Flags().StringVar(&o.zookeeper, "hbase-zookeeper", "", "HBase's own ZooKeeper quorum: also ask the master how the cluster is")
	c.Flags().IntVar(&o.rows, "rows", 3, "mapped sample rows to show of each table")
	return c
}

func printPlan(w io.Writer, j jobs.Job, p runner.Preview) {
	var total int64
	for _, s := range p.Layout.Shards {
		total += s.Bytes
	}
	fmt.Fprintf(w, "job %s: %s in %s of %s\n", j.Name, size(float64(total)), plural(len(p.Layout.Shards), "shard"), plural(len(p.Layout.Collections), "collection"))
	for _, s := range p.Layout.Shards {
		start, end := cmp.Or(string(s.Start), "start"), cmp.Or(string(s.End), "end")
		fmt.Fprintf(w, "  shard %-4d %s  [%s, %s)  %s\n", s.N, s.Collection, start, end, size(float64(s.Bytes)))
	}
	for _, t := range p.Tables {
		fmt.Fprintf(w, "\ntable %s from %s\n", t.Table, t.Collection)
		switch {
		case t.Problem != "":
			fmt.Fprintf(w, "  REFUSED    %s\n", t.Problem)
		case p.Unreachable != "":
			fmt.Fprintf(w, "  unknown    HBase was not reached\n")
		case t.Create:
			fmt.Fprintf(w, "  to create  with %d regions\n", len(t.Splits)+1)
		case t.Exists:
			fmt.Fprintf(w, "  exists     with %d regions\n", t.Regions)
		}
		if t.KeyType != "" {
			fmt.Fprintf(w, "  key type   %s\n", t.KeyType)
		}
		fmt.Fprintf(w, "  sample     %d documents, %d filtered, %d shown below\n", t.Documents, t.Filtered, len(t.Rows))
		for _, why := range t.Refused {
			fmt.Fprintf(w, "  would die  %s\n", why)
		}
		for i, row := range t.Rows {
			printRow(w, row, t.RowBytes[i])
		}
	}
	if p.Unreachable != "" {
		fmt.Fprintf(w, "\nHBase was not reached: %s\n", p.Unreachable)
	}
}

func printRow(w io.Writer, row hbase.Row, encoded int) {
	fmt.Fprintf(w, "  row %s  %d cells, %d bytes encoded\n", legible(row.Key, 40), len(row.Cells), encoded)
	for _, c := range row.Cells {
		value := fmt.Sprintf("%6d B  %s", len(c.Value), legible(c.Value, 48))
		if c.Op != hbase.Put {
			value = c.Op.String()
		}
		fmt.Fprintf(w, "    %-28s @%d  %s\n", string(c.Family)+":"+legible(c.Qualifier, 40), c.Timestamp, value)
	}
}

// legible shows bytes as text where they are text, else with HBase's \x escapes, cut to about n columns.
func legible(b []byte, n int) string {
	var s strings.Builder
	for i := 0; i < len(b); {
		if s.Len() >= n {
			s.WriteString("…")
			break
		}
		r, k := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && k <= 1 || r < 0x20 || r == 0x7f {
			fmt.Fprintf(&s, "\\x%02X", b[i])
			i++
			continue
		}
		s.WriteRune(r)
		i += k
	}
	return s.String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
