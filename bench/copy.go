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
	"strconv"
	"strings"
	"time"

	"drover/e2e/stack"
	"drover/jobs/mongodump/dumpgen"
)

// Targets of part g.
const (
	leastOfCopyTable       = 1.0
	leastOfCopyTableNative = 1.5
)

// copyPairs is how many pairs part g takes at most.
const copyPairs = 5

// How often each of drover's ways copies the table before it is measured. Java's compilers take most of the CPU of a gateway's first
// million rows, a tenth of the sixth's and a thirtieth of the eleventh's: code that runs once for each call is compiled late. Gateways
// run for weeks.
const (
	warmUps        = 2
	gatewayWarmUps = 8
)

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
	for range len(g.Gateways) {
		p, err := g.AddGateway(ctx, gatewaySite, "-framed")
		if err != nil {
			return err
		}
		g.framed = append(g.framed, p)
	}
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
	ways := []way{
		{"drover through gateways", gatewayWarmUps, g.drover(static(g.Addrs()), false)},
		{"drover through framed gateways", gatewayWarmUps, g.drover(static(addrs(g.framed), "framed: true"), false)},
		{"drover, native scans", warmUps, g.drover(static(g.Addrs()), true)},
		{"drover, native scans and puts", warmUps, g.drover(fmt.Sprintf("{native: %q}", g.ZooKeeper), true)},
		{fmt.Sprintf("CopyTable, 2 maps, caching %d", g.caching), 0, g.copyTable}, // warmed the servers up above, and is a new JVM each time
	}
	copyTable := len(ways) - 1
	for pass := range gatewayWarmUps { // looked at, and forgotten: gateways and servers compile their code meanwhile
		for _, w := range ways {
			if pass >= w.warmUps {
				continue
			}
			if _, err := g.measure(ctx, pass == 0, w.copy); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
		if g.quick {
			break
		}
	}
	all := make([][]measured, len(ways))
	rounds := min(g.pairs, copyPairs)
	for round := range rounds {
		seen := ""
		for n := range ways {
			i := n
			if round%2 == 1 {
				i = len(ways) - 1 - n
			}
			m, err := g.measure(ctx, false, ways[i].copy)
			if err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
			all[i] = append(all[i], m)
			seen += fmt.Sprintf("; %s %.0f rows/s", ways[i].name, m.rate)
		}
		g.logf("g: round %d%s", round+1, seen)
	}
	p := &part{
		title:  fmt.Sprintf("g. %d rows of 5 cells from one table to another of the same HBase, %d regions each, %d rounds", g.docs, regions, rounds),
		header: spreadHeader,
	}
	of := func(i int, f func(measured) float64) spread { return spreadOf(column(all[i], f)) }
	rates := func(i int) []float64 { return column(all[i], func(m measured) float64 { return m.rate }) }
	for i, w := range ways {
		p.rows = append(p.rows, spreadOf(rates(i)).row(w.name+", rows/s", "%.0f"))
	}
	wholes := func(i int) []float64 { return column(all[i], func(m measured) float64 { return m.whole }) }
	p.rows = append(p.rows, spreadOf(wholes(copyTable)).row("… from its program's start", "%.0f"))
	to := make([]spread, copyTable)
	for i := range to {
		to[i] = spreadOf(ratios(wholes(i), wholes(copyTable)))
		p.rows = append(p.rows,
			to[i].row(ways[i].name+" ÷ CopyTable, each from its program's start", "%.2f"),
			spreadOf(ratios(rates(i), rates(copyTable))).row("… CopyTable from its first map", "%.2f"))
	}
	for i, w := range ways {
		p.rows = append(p.rows,
			of(i, func(m measured) float64 { return m.drover }).row(w.name+", its CPU s a million rows", "%.1f"),
			of(i, func(m measured) float64 { return m.cluster - m.gateways }).row("… the region servers'", "%.1f"),
			of(i, func(m measured) float64 { return m.gateways }).row("… and the gateways'", "%.1f"),
			of(i, func(m measured) float64 { return m.compilers }).row("… of both, what Java's compilers took", "%.1f"))
	}
	p.notes = []string{
		"drover's clock and CPU are its whole process's, from start to exit, its plan and its children for native scans and puts included. CopyTable's begin with its first map: its",
		"loading of the job's classes, its plan and its submission are left out. From its program's start on they are in; the JVM's start is not. The master's and ZooKeeper's CPU is in the region servers'.",
		"CopyTable by caching, one run each, rows/s: " + strings.Join(seen, ", "),
	}
	g.report.add(p)
	through := max(to[0].median, to[1].median) // the better of its settings, as for CopyTable's caching
	g.report.judge(through >= leastOfCopyTable, fmt.Sprintf("(g) rows/s through gateways, framed or not, ÷ CopyTable, each from its program's start, at least %.1f", leastOfCopyTable), fmt.Sprintf("%.2f", through))
	g.report.judge(to[3].median >= leastOfCopyTableNative, fmt.Sprintf("(g) rows/s of native scans and puts ÷ CopyTable, each from its program's start, at least %.1f", leastOfCopyTableNative), fmt.Sprintf("%.2f", to[3].median))
	return nil
}

// way is one way to copy the table.
type way struct {
	name    string
	warmUps int // how often it copies before it is measured
	copy    copyFunc
}

// copyFunc copies into a table.
type copyFunc func(ctx context.Context, table string) (took, error)

// took is what a copy took. All of it is from the program's start to its end; wall and cpu may begin later.
type took struct{ wall, cpu, all time.Duration }

func addrs(all []*stack.Process) []string {
	var out []string
	for _, p := range all {
		out = append(out, p.Addr)
	}
	return out
}

// measure copies into a fresh table.
func (g *copier) measure(ctx context.Context, check bool, way copyFunc) (m measured, err error) {
	err = g.fresh(ctx, g.splits, func(table string) error {
		before := g.spent()
		t, err := way(ctx, table)
		if err != nil {
			return err
		}
		used, millions := g.spent().since(before), float64(g.docs)/1e6
		m = measured{
			rate: float64(g.docs) / t.wall.Seconds(), whole: float64(g.docs) / t.all.Seconds(), drover: t.cpu.Seconds() / millions,
			cluster: used.all().Seconds() / millions, gateways: used.gateways.Seconds() / millions,
			compilers: used.compilers.Seconds() / millions,
		}
		if check {
			return g.holds(ctx, table, g.file, 100)
		}
		return nil
	})
	return m, err
}

// drover copies through the gateways that stand behind "gateways:", with native scans or theirs.
func (g *copier) drover(through string, native bool) copyFunc {
	source := fmt.Sprintf("{hbase: {table: %q}}", g.source)
	if native {
		source = fmt.Sprintf("{hbase: {table: %q, via: native, zookeeper: %q}}", g.source, g.ZooKeeper)
	}
	return func(ctx context.Context, table string) (took, error) {
		var env []string
		if g.profile != "" {
			path, err := filepath.Abs(g.profile)
			if err != nil {
				return took{}, err
			}
			env = append(env, "DROVER_CPUPROFILE="+path)
		}
		bk, u, err := g.move(ctx, job{name: "bench-g", source: source, table: table, through: through}, env...)
		if err == nil && (bk.Rows != g.docs || bk.Cells != 5*g.docs) {
			err = fmt.Errorf("drover copied %d rows of %d cells, want %d of %d", bk.Rows, bk.Cells, g.docs, 5*g.docs)
		}
		return took{u.wall, u.cpu, u.wall}, err
	}
}

func (g *copier) copyTable(ctx context.Context, table string) (took, error) {
	tmp, err := os.MkdirTemp(g.bench.dir, "copytable-")
	if err != nil {
		return took{}, err
	}
	defer os.RemoveAll(tmp)
	bin, args := g.Java(g.dir, "Copy", g.source, table, strconv.Itoa(g.caching), tmp)
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = tmp
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(errs.String())
		return took{}, fmt.Errorf("run CopyTable: %w: … %s", err, said[max(0, len(said)-4000):])
	}
	line := lastLine(out.String())
	var rows int64
	var wall, cpu, all float64
	if _, err := fmt.Sscan(line, &rows, &wall, &cpu, &all); err != nil {
		return took{}, fmt.Errorf("read CopyTable's figures %q: %w", line, err)
	}
	if rows != g.docs {
		return took{}, fmt.Errorf("CopyTable says %q, want %d rows", line, g.docs)
	}
	return took{seconds(wall), seconds(cpu), seconds(all)}, nil
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
