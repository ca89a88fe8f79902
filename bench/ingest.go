package main

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"drover/jobs/mongodump/dumpgen"
)

// Targets of parts a and c.
const (
	leastOfFrames = 0.9
	leastOfPlain  = 0.8
)

// The sweep of part a.
var (
	sweepBatches     = []int{250, 500, 1000, 2000}
	sweepConnections = []int{2, 4, 8}
)

// ingest is parts a and c, which share the cluster, the file and drover's runs over it.
func (b *bench) ingest(ctx context.Context, partA, partC bool) error {
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	i := &ingest{bench: b, cluster: c}
	return errors.Join(i.run(ctx, partA, partC), c.stop())
}

type ingest struct {
	*bench
	*cluster
	file   string
	docs   int64
	splits [][]byte
	rows   *encoded
	best   shape
}

// measured is one run into a fresh table.
type measured struct {
	rate      float64 // rows/s
	whole     float64 // rows/s from the program's start on, in part g
	cluster   float64 // CPU seconds of the cluster a million rows
	gateways  float64 // and of those, the gateways'
	compilers float64 // and of all of those, what Java's compilers took
	drover    float64 // CPU seconds of drover a million rows
}

func (i *ingest) run(ctx context.Context, partA, partC bool) error {
	rate, err := i.sweep(ctx, partA)
	if err != nil {
		return err
	}
	// To two digits, so that with -keep a file is found again.
	i.docs = int64(rate * float64(i.seconds))
	for unit := int64(1); ; unit *= 10 {
		if i.docs/unit < 100 {
			i.docs = i.docs / unit * unit
			break
		}
	}
	if err := i.load(ctx, i.docs, partA); err != nil {
		return err
	}
	zipped := i.file + ".gz"
	if partC {
		if err := compress(i.file, zipped); err != nil {
			return err
		}
	}
	var prepared, plain, gz []measured
	add := func(to *[]measured, f func() (measured, error)) func() error {
		return func() error {
			m, err := f()
			*to = append(*to, m)
			return err
		}
	}
	// One round more, which warms the servers' compilers for rows of this size and is forgotten.
	for n := range i.pairs + 1 {
		steps := []func() error{add(&plain, func() (measured, error) { return i.drover(ctx, i.file, n == 0) })}
		if partA {
			steps = append(steps, add(&prepared, func() (measured, error) { return i.frames(ctx, i.best, n == 0) }))
		}
		if partC {
			steps = append(steps, add(&gz, func() (measured, error) { return i.drover(ctx, zipped, false) }))
		}
		if n%2 == 1 {
			slices.Reverse(steps)
		}
		for _, s := range steps {
			if err := s(); err != nil {
				return err
			}
		}
		if n == 0 {
			prepared, plain, gz = nil, nil, nil
			continue
		}
		line := fmt.Sprintf("a, c: pair %d: drover %.0f rows/s", n, plain[n-1].rate)
		if partA {
			line += fmt.Sprintf(", frames %.0f", prepared[n-1].rate)
		}
		if partC {
			line += fmt.Sprintf(", gzip %.0f", gz[n-1].rate)
		}
		i.logf("%s", line)
	}
	rates := func(m []measured) []float64 { return column(m, func(m measured) float64 { return m.rate }) }
	cpus := func(m []measured) []float64 { return column(m, func(m measured) float64 { return m.cluster }) }
	if partA {
		ratio := spreadOf(ratios(rates(plain), rates(prepared)))
		i.report.add(&part{
			title:  fmt.Sprintf("a. Rows/s of %d documents of 1 KB into HBase: 3 region servers, 3 gateways, %d regions", i.docs, regions),
			header: spreadHeader,
			rows: [][]string{
				spreadOf(rates(plain)).row("drover run, whole process", "%.0f"),
				spreadOf(rates(prepared)).row("pre-encoded frames, "+i.best.String(), "%.0f"),
				ratio.row("ratio", "%.3f"),
				spreadOf(column(plain, func(m measured) float64 { return m.drover })).row("drover's CPU s a million rows", "%.2f"),
				spreadOf(cpus(plain)).row("cluster's CPU s a million rows, under drover", "%.1f"),
				spreadOf(cpus(prepared)).row("cluster's CPU s a million rows, under frames", "%.1f"),
			},
		})
		i.report.judge(ratio.median >= leastOfFrames, fmt.Sprintf("(a) rows/s ÷ pre-encoded frames at least %.1f", leastOfFrames), fmt.Sprintf("%.3f", ratio.median))
	}
	if partC {
		ratio := spreadOf(ratios(rates(gz), rates(plain)))
		i.report.add(&part{
			title:  "c. One gzip file, one shard, beside the plain file",
			header: spreadHeader,
			rows: [][]string{
				spreadOf(rates(gz)).row("gzip, rows/s", "%.0f"),
				spreadOf(rates(plain)).row("plain, rows/s", "%.0f"),
				ratio.row("ratio", "%.3f"),
				spreadOf(column(gz, func(m measured) float64 { return m.drover })).row("gzip, drover's CPU s a million rows", "%.2f"),
			},
		})
		i.report.judge(ratio.median >= leastOfPlain, fmt.Sprintf("(c) rows/s of gzip ÷ plain at least %.1f", leastOfPlain), fmt.Sprintf("%.3f", ratio.median))
	}
	return nil
}

func column(m []measured, f func(measured) float64) []float64 {
	v := make([]float64, len(m))
	for i := range m {
		v[i] = f(m[i])
	}
	return v
}

// load makes the file ready, and its rows where they are wanted.
func (i *ingest) load(ctx context.Context, docs int64, rows bool) error {
	var err error
	if i.file, err = i.dump(ctx, dumpgen.KB, docs); err != nil {
		return err
	}
	if i.splits, err = splitKeys(i.file, regions); err != nil {
		return err
	}
	if rows {
		i.rows, err = encode(ctx, i.file, time.Now().UnixMilli())
	}
	return err
}

// sweep finds the best shape for frames, and says how many rows a second to expect.
func (i *ingest) sweep(ctx context.Context, all bool) (rate float64, err error) {
	docs, batches, connections, kinds := int64(3000*i.seconds), sweepBatches, sweepConnections, orders
	if i.quick || !all {
		batches, connections, kinds = []int{1000}, []int{4}, []order{framesMixed}
	}
	if err := i.load(ctx, docs, true); err != nil {
		return 0, err
	}
	// Twice for the compilers in the servers, which take some ten seconds of work to get into their stride.
	for range 2 {
		if _, err := i.frames(ctx, shape{1000, 4, framesMixed}, false); err != nil {
			return 0, err
		}
	}
	type result struct {
		shape
		rates []float64
	}
	var results []*result
	measure := func(r *result) error {
		m, err := i.frames(ctx, r.shape, false)
		r.rates = append(r.rates, m.rate)
		return err
	}
	for _, k := range kinds {
		for _, n := range batches {
			for _, c := range connections {
				r := &result{shape: shape{n, c, k}}
				if err := measure(r); err != nil {
					return 0, err
				}
				results = append(results, r)
			}
		}
	}
	// What came out best may have been lucky: the best few run again until the winner has won three times out of three.
	byMedian := func(a, b *result) int { return cmp.Compare(spreadOf(b.rates).median, spreadOf(a.rates).median) }
	slices.SortStableFunc(results, byMedian)
	if len(results) > 1 {
		for range 2 {
			for _, r := range results[:4] {
				if err := measure(r); err != nil {
					return 0, err
				}
			}
		}
		slices.SortStableFunc(results[:4], byMedian)
	}
	i.best = results[0].shape
	if all {
		p := &part{
			title:  fmt.Sprintf("a. The sweep of pre-encoded frames: %d rows each, rows/s", docs),
			header: []string{"order", "rows a batch", "2 connections", "4", "8 to each gateway"},
		}
		if len(results) == 1 {
			p.header = p.header[:3]
		}
		for _, k := range kinds {
			for _, n := range batches {
				row := []string{string(k), fmt.Sprint(n)}
				for _, c := range connections {
					for _, r := range results {
						if r.shape == (shape{n, c, k}) {
							row = append(row, fmt.Sprintf("%.0f", spreadOf(r.rates).median))
						}
					}
				}
				p.rows = append(p.rows, row)
			}
		}
		p.notes = []string{fmt.Sprintf("The best four ran three times, of which this is the median; best: %s.", i.best)}
		i.report.add(p)
	}
	return spreadOf(results[0].rates).median, nil
}

// frames sends the encoded rows into a fresh table.
func (i *ingest) frames(ctx context.Context, s shape, check bool) (m measured, err error) {
	err = i.fresh(ctx, i.splits, func(table string) error {
		all := frames(i.rows, table, s)
		before := i.cpuOf()
		took, err := blast(ctx, i.Addrs(), all, s.connections)
		if err != nil {
			return err
		}
		millions := float64(i.rows.len()) / 1e6
		m = measured{rate: millions * 1e6 / took.Seconds(), cluster: (i.cpuOf() - before).Seconds() / millions}
		if check {
			return i.holds(ctx, table, i.file, 200)
		}
		return nil
	})
	return m, err
}

// drover moves a file into a fresh table.
func (i *ingest) drover(ctx context.Context, file string, check bool) (m measured, err error) {
	err = i.fresh(ctx, i.splits, func(table string) error {
		before := i.cpuOf()
		bk, u, err := i.move(ctx, job{name: "bench-a", file: file, table: table, gateways: i.Addrs()})
		if err != nil {
			return err
		}
		if bk.Rows != i.docs {
			return fmt.Errorf("drover moved %d rows, want %d", bk.Rows, i.docs)
		}
		if file != i.file && bk.Shards != 1 {
			return fmt.Errorf("a gzip file was moved in %d shards, want 1", bk.Shards)
		}
		if bk.Retries > 0 {
			i.logf("drover sent %d batches again", bk.Retries)
		}
		millions := float64(bk.Rows) / 1e6
		m = measured{rate: float64(bk.Rows) / u.wall.Seconds(), drover: u.cpu.Seconds() / millions, cluster: (i.cpuOf() - before).Seconds() / millions}
		if check {
			return i.holds(ctx, table, i.file, 200)
		}
		return nil
	})
	return m, err
}

func (i *ingest) cpuOf() time.Duration { return i.cluster.cpu() }

// compress makes path.gz as gzip does by default, unless it is there.
func compress(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to + ".new")
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("compress %s: %w", from, err)
	}
	return os.Rename(out.Name(), to)
}
