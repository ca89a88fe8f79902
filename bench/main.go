// Command bench measures drover beside something else in the same run, so that a figure means something on a machine that is
// slow, shared or both. `make bench` runs it.
//
//	part   what it measures
//	a      rows/s into real HBase ÷ the same cells as pre-encoded frames from plain sockets
//	b      CPU per million rows ÷ that of a bare loop that does only what is unavoidable
//	c      rows/s from a gzip file, which is one shard ÷ those from the plain file
//	d      how exactly a limit is kept, by one run and by two on one table
//	e      memory at the peak, with fields of up to 9 MB
//	f      beside a happybase script and a BufferedMutator program
//	g      rows/s from table to table, through gateways and by native scans ÷ those of HBase's CopyTable
//
// What is compared is measured in pairs, one right after the other; the ratio is taken within a pair, and the least, the
// median and the greatest over the pairs are printed. A part that misses its target says MISS and makes the exit code 1;
// figures are printed either way. drover is built and run as a process of its own. The helpers are this binary again
// (DROVER_BENCH_ROLE says as what), so that their CPU is counted apart.
//
// Absolute figures hold for the machine they name only. Do not use this for correctness: e2e does that.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"drover/jobs/mongodump/dumpgen"
)

// options are the command line.
type options struct {
	parts   string
	pairs   int
	seconds int
	rows    int
	keep    string
	out     string
	profile string
	seed    uint64
	quick   bool
}

// bench is one invocation.
type bench struct {
	options
	dir    string // for everything that is written
	drover string // the binary under test
	report *report
	log    io.Writer
}

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(help(role, os.Args[1:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run gives the exit code: 1 for a target that was missed, 2 for a measurement that could not be made, 64 for a wrong command
// line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.parts, "parts", "a,b,c,d,e,f,g", "which parts to run")
	f.IntVar(&o.pairs, "pairs", 7, "pairs of measurements in a, b and c; at most 5 of them in g")
	f.IntVar(&o.seconds, "seconds", 20, "about how long each measurement of a, c, d and f takes")
	f.IntVar(&o.rows, "rows", 1_000_000, "rows of the table that is copied in g")
	f.StringVar(&o.keep, "keep", "", "folder for data and logs, which stays and is used again; empty is a temporary one")
	f.StringVar(&o.out, "out", "", "file for the tables as Markdown")
	f.StringVar(&o.profile, "profile", "", "file for a CPU profile of drover in parts b and g")
	f.Uint64Var(&o.seed, "seed", 1, "of the generated documents")
	f.BoolVar(&o.quick, "quick", false, "a few seconds for each part, nothing judged: shows that the bench works")
	if err := f.Parse(args); err != nil {
		return 64
	}
	parts := strings.Split(o.parts, ",")
	for _, p := range parts {
		if len(p) != 1 || !strings.Contains("abcdefg", p) {
			fmt.Fprintf(stderr, "bench: part %q: want some of a,b,c,d,e,f,g\n", p)
			return 64
		}
	}
	if o.quick {
		o.pairs, o.seconds = 1, 2
	}
	if o.pairs < 1 || o.seconds < 1 || o.rows < 1 {
		fmt.Fprintln(stderr, "bench: -pairs, -seconds and -rows must be at least 1")
		return 64
	}
	b := &bench{options: o, log: stderr}
	if err := b.prepare(ctx); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	defer b.cleanUp()
	b.report = newReport(ctx, stdout, o)
	broken := false
	for _, p := range []struct {
		names string
		run   func(context.Context) error
	}{
		{"b", b.cpu},
		{"ac", func(ctx context.Context) error {
			return b.ingest(ctx, slices.Contains(parts, "a"), slices.Contains(parts, "c"))
		}},
		{"d", b.limit},
		{"e", b.memory},
		{"f", b.peers},
		{"g", b.copies},
	} {
		if !slices.ContainsFunc(parts, func(s string) bool { return strings.Contains(p.names, s) }) {
			continue
		}
		began := time.Now()
		if err := p.run(ctx); err != nil {
			fmt.Fprintf(stderr, "bench: part %s: %v\n", strings.Join(strings.Split(p.names, ""), ", "), err)
			broken = true
			if ctx.Err() != nil {
				break
			}
		}
		fmt.Fprintf(stderr, "part %s took %.0f s\n", p.names, time.Since(began).Seconds())
	}
	b.report.verdicts()
	if o.out != "" {
		if err := os.WriteFile(o.out, b.report.markdown(), 0o644); err != nil {
			fmt.Fprintln(stderr, "bench: write the report:", err)
			broken = true
		}
	}
	switch {
	case broken:
		return 2
	case b.report.missed() && !o.quick:
		return 1
	}
	return 0
}

// prepare makes the folder and builds drover.
func (b *bench) prepare(ctx context.Context) error {
	var err error
	if b.keep != "" {
		b.dir, err = filepath.Abs(b.keep)
		if err == nil {
			err = os.MkdirAll(b.dir, 0o755)
		}
	} else {
		b.dir, err = os.MkdirTemp("", "drover-bench-")
	}
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	b.drover = filepath.Join(b.dir, "drover")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.drover, "drover/cmd/drover")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build drover: %w: %s", err, bytes.TrimSpace(out)), b.cleanUp())
	}
	return nil
}

func (b *bench) cleanUp() error {
	if b.keep != "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

func (b *bench) logf(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

// dump gives a file of generated documents, made unless it is there from an earlier run.
func (b *bench) dump(ctx context.Context, profile dumpgen.Profile, docs int64) (string, error) {
	path := filepath.Join(b.dir, fmt.Sprintf("%s-%d-seed%d.bson", profile, docs, b.seed))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	b.logf("generating %d documents of profile %s", docs, profile)
	f, err := os.Create(path + ".new")
	if err != nil {
		return "", fmt.Errorf("generate documents: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, err = dumpgen.Write(ctx, w, dumpgen.Options{Profile: profile, Seed: b.seed, Docs: docs})
	// What is still to be written to the disk would be written during the first measurement.
	if err = errors.Join(err, w.Flush(), f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("generate documents: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return path, os.Rename(f.Name(), path)
}

// machine names the CPU that absolute figures hold for.
func machine() string {
	model := "unknown CPU"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s/%s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
}
