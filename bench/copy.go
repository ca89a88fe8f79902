package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"drover/jobs/mongodump/dumpgen"
)

// Targets of part g.
const (
	leastOfCopyTable       = 1.0
	leastOfCopyTableNative = 1.5
)

// copyPairs is how many pairs part g takes at most.
const copyPairs = 5

// cachings are the rows a scan of CopyTable's fetches at once, of which its best is taken.
var cachings = []int{500, 2000, 5000}

//go:embed peers/Copy.java
var copyProgram []byte

// copies is part g: from table to table, beside HBase's own CopyTable.
func (b *bench) copies(ctx context.Context) error {
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	return errors.Join(b.copiesOn(ctx, c), c.stop())
}

func (b *bench) copiesOn(ctx context.Context, c *cluster) error {
	docs := int64(b.rows)
	if b.quick {
		docs = min(docs, 20_000)
	}
	file, err := b.dump(ctx, dumpgen.Flat5, docs)
	if err != nil {
		return err
	}
	splits, err := splitKeys(file, regions)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "java")
	if err := compileJava(ctx, c, dir, "Copy", copyProgram); err != nil {
		return err
	}
	return c.fresh(ctx, splits, func(source string) error {
		if _, _, err := b.move(ctx, job{name: "bench-g-fill", file: file, table: source, gateways: c.Addrs()}); err != nil {
			return err
		}
		g := &copier{bench: b, cluster: c, dir: dir, file: file, docs: docs, splits: splits, source: source}
		return g.run(ctx)
	})
}

type copier struct {
	*bench
	*cluster
	dir     string
	file    string
	docs    int64
	splits  [][]byte
	source  string
	caching int
}

func (g *copier) run(ctx context.Context) error {
	// CopyTable's best caching is looked for first; it warms the servers up, too.
	best, seen := 0.0, []string{}
	for i, n := range cachings {
		g.caching = n
		m, err := g.measure(ctx, i == 0, g.copyTable)
		if err != nil {
			return err
		}
		seen = append(seen, fmt.Sprintf("%d: %.0f", n, m.rate))
		if m.rate > best {
			best = m.rate
			cachings[0], cachings[i] = n, cachings[0]
		}
		if g.quick {
			break
		}
	}
	g.caching = cachings[0]
	names := []string{"drover through gateways", "drover, native scans", fmt.Sprintf("CopyTable, 2 maps, caching %d", g.caching)}
	ways := []func(ctx context.Context, table string) (wall, cpu time.Duration, err error){g.gateways, g.native, g.copyTable}
	for _, way := range ways[:2] { // looked at, and forgotten
		if _, err := g.measure(ctx, true, way); err != nil {
			return err
		}
	}
	all := make([][]measured, len(ways))
	rounds := min(g.pairs, copyPairs)
	for round := range rounds {
		order := []int{0, 2, 1}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			m, err := g.measure(ctx, false, ways[i])
			if err != nil {
				return fmt.Errorf("%s: %w", names[i], err)
			}
			all[i] = append(all[i], m)
		}
		g.logf("g: round %d: gateways %.0f rows/s, native %.0f, CopyTable %.0f", round+1, all[0][round].rate, all[1][round].rate, all[2][round].rate)
	}
	rates := func(i int) []float64 { return column(all[i], func(m measured) float64 { return m.rate }) }
	p := &part{
		title:  fmt.Sprintf("g. %d rows of 5 cells from one table to another of the same HBase, %d regions each, %d rounds", g.docs, regions, rounds),
		header: spreadHeader,
	}
	for i, name := range names {
		p.rows = append(p.rows, spreadOf(rates(i)).row(name+", rows/s", "%.0f"))
	}
	through, past := spreadOf(ratios(rates(0), rates(2))), spreadOf(ratios(rates(1), rates(2)))
	p.rows = append(p.rows, through.row("through gateways ÷ CopyTable", "%.2f"), past.row("native ÷ CopyTable", "%.2f"))
	for i, name := range names {
		p.rows = append(p.rows,
			spreadOf(column(all[i], func(m measured) float64 { return m.drover })).row(name+", its CPU s a million rows", "%.1f"),
			spreadOf(column(all[i], func(m measured) float64 { return m.cluster })).row("… and the cluster's", "%.1f"))
	}
	p.notes = []string{
		"drover's clock and CPU are its whole process's, from start to exit, its plan and its child for native scans included. CopyTable's begin with its first map: the JVM's start, its loading of",
		"the job's classes and the submission, about as long again as drover's whole start, are left out.",
		"CopyTable by caching, one run each, rows/s: " + strings.Join(seen, ", "),
	}
	g.report.add(p)
	g.report.judge(through.median >= leastOfCopyTable, fmt.Sprintf("(g) rows/s through gateways ÷ CopyTable at least %.1f", leastOfCopyTable), fmt.Sprintf("%.2f", through.median))
	g.report.judge(past.median >= leastOfCopyTableNative, fmt.Sprintf("(g) rows/s of native scans ÷ CopyTable at least %.1f", leastOfCopyTableNative), fmt.Sprintf("%.2f", past.median))
	return nil
}

// measure copies into a fresh table.
func (g *copier) measure(ctx context.Context, check bool, way func(ctx context.Context, table string) (wall, cpu time.Duration, err error)) (m measured, err error) {
	err = g.fresh(ctx, g.splits, func(table string) error {
		before := g.cluster.cpu()
		wall, cpu, err := way(ctx, table)
		if err != nil {
			return err
		}
		millions := float64(g.docs) / 1e6
		m = measured{rate: float64(g.docs) / wall.Seconds(), drover: cpu.Seconds() / millions, cluster: (g.cluster.cpu() - before).Seconds() / millions}
		if check {
			return g.holds(ctx, table, g.file, 100)
		}
		return nil
	})
	return m, err
}

func (g *copier) gateways(ctx context.Context, table string) (wall, cpu time.Duration, err error) {
	return g.drover(ctx, table, fmt.Sprintf("{hbase: {table: %q}}", g.source))
}

func (g *copier) native(ctx context.Context, table string) (wall, cpu time.Duration, err error) {
	return g.drover(ctx, table, fmt.Sprintf("{hbase: {table: %q, via: native, zookeeper: %q}}", g.source, g.ZooKeeper))
}

func (g *copier) drover(ctx context.Context, table, source string) (wall, cpu time.Duration, err error) {
	var env []string
	if g.profile != "" {
		path, err := filepath.Abs(g.profile)
		if err != nil {
			return 0, 0, err
		}
		env = append(env, "DROVER_CPUPROFILE="+path)
	}
	bk, u, err := g.move(ctx, job{name: "bench-g", source: source, table: table, gateways: g.Addrs()}, env...)
	if err == nil && (bk.Rows != g.docs || bk.Cells != 5*g.docs) {
		err = fmt.Errorf("drover copied %d rows of %d cells, want %d of %d", bk.Rows, bk.Cells, g.docs, 5*g.docs)
	}
	return u.wall, u.cpu, err
}

func (g *copier) copyTable(ctx context.Context, table string) (wall, cpu time.Duration, err error) {
	tmp, err := os.MkdirTemp(g.bench.dir, "copytable-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(tmp)
	bin, args := g.Java(g.dir, "Copy", g.source, table, strconv.Itoa(g.caching), tmp)
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = tmp
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(errs.String())
		return 0, 0, fmt.Errorf("run CopyTable: %w: … %s", err, said[max(0, len(said)-4000):])
	}
	line := lastLine(out.String())
	if n, _, _ := strings.Cut(line, " "); n != strconv.FormatInt(g.docs, 10) {
		return 0, 0, fmt.Errorf("CopyTable says %q, want %d rows", line, g.docs)
	}
	return figures(line)
}

// compileJava compiles the only class of a program.
func compileJava(ctx context.Context, c *cluster, dir, class string, program []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	source := filepath.Join(dir, class+".java")
	if err := os.WriteFile(source, program, 0o644); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "javac", "-nowarn", "-cp", c.Classpath(), "-d", dir, source).CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s.java: %w: %s", class, err, out)
	}
	return nil
}
