package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/jobs/mongodump/dumpgen"
)

// Part d.
const (
	limitRows     = 5000 // a second
	mostInWindow  = 1.02 // of the limit, and one batch
	leastMeanRate = 0.97 // of the limit
)

// limit is part d: one run, and two on one table together.
func (b *bench) limit(ctx context.Context) error {
	p := &part{
		title:  fmt.Sprintf("d. A limit of %d rows/s, as the rows arrive", limitRows),
		header: []string{"", "rows", "seconds", "mean rows/s", "batch", "most in 1 s", "bound"},
	}
	type outcome struct {
		name string
		w    window
	}
	var all []outcome
	for _, runs := range []int{1, 2} {
		w, err := b.limited(ctx, runs)
		if err != nil {
			return err
		}
		name := "one run"
		if runs > 1 {
			name = fmt.Sprintf("%d runs on one table", runs)
		}
		all = append(all, outcome{name, w})
		p.rows = append(p.rows, []string{
			name, fmt.Sprint(w.rows), fmt.Sprintf("%.2f", w.span.Seconds()), fmt.Sprintf("%.0f", w.mean), fmt.Sprint(w.batch),
			fmt.Sprint(w.most), fmt.Sprintf("%.0f", w.bound()),
		})
	}
	p.notes = []string{"A call counts from when its first byte is read. The mean leaves out the first batch, which comes at once."}
	b.report.add(p)
	for _, o := range all {
		b.report.judge(float64(o.w.most) <= o.w.bound(), fmt.Sprintf("(d) %s: rows in any 1 s at most %.2f × %d + one batch", o.name, mostInWindow, limitRows),
			fmt.Sprintf("%d of %.0f", o.w.most, o.w.bound()))
		b.report.judge(o.w.mean >= leastMeanRate*limitRows, fmt.Sprintf("(d) %s: mean at least %.2f × %d", o.name, leastMeanRate, limitRows),
			fmt.Sprintf("%.0f rows/s, %.3f", o.w.mean, o.w.mean/limitRows))
	}
	return nil
}

// limited runs drover so many times at once on one table and gives how the rows arrived.
func (b *bench) limited(ctx context.Context, runs int) (window, error) {
	docs := int64(limitRows * b.seconds / runs)
	file, err := b.dump(ctx, dumpgen.Flat5, docs)
	if err != nil {
		return window{}, err
	}
	log := filepath.Join(b.dir, fmt.Sprintf("arrivals-%d", runs))
	ack, err := startAck(ctx, log, nil)
	if err != nil {
		return window{}, err
	}
	g, gctx := errgroup.WithContext(ctx)
	for i := range runs {
		g.Go(func() error {
			_, _, err := b.move(gctx, job{name: fmt.Sprintf("bench-d%d", i), file: file, table: "bench", gateways: []string{ack.addr}, rows: limitRows})
			return err
		})
	}
	if err := errors.Join(g.Wait(), ack.stop()); err != nil {
		return window{}, err
	}
	arrivals, err := readArrivals(log)
	if err != nil {
		return window{}, err
	}
	if len(arrivals) < 2 {
		return window{}, fmt.Errorf("only %d calls arrived", len(arrivals))
	}
	w := windowOf(arrivals, time.Second)
	if w.rows != int(docs)*runs {
		return window{}, fmt.Errorf("%d rows arrived, %d were sent", w.rows, int(docs)*runs)
	}
	return w, nil
}

// window is how rows arrived.
type window struct {
	rows  int
	batch int           // most rows of a call
	most  int           // rows in any window
	span  time.Duration // from the first call to the last
	mean  float64       // rows/s
}

func (w window) bound() float64 { return mostInWindow*limitRows + float64(w.batch) }

// windowOf looks at every window of length d, half open, that starts with a call: one that starts elsewhere holds no more.
func windowOf(a []arrival, d time.Duration) window {
	a = slices.SortedFunc(slices.Values(a), func(x, y arrival) int { return cmp.Compare(x.at, y.at) })
	var w window
	in, first := 0, 0
	for _, x := range a {
		w.rows += x.rows
		w.batch = max(w.batch, x.rows)
		in += x.rows
		for x.at-a[first].at >= int64(d) {
			in -= a[first].rows
			first++
		}
		w.most = max(w.most, in)
	}
	w.span = time.Duration(a[len(a)-1].at - a[0].at)
	w.mean = float64(w.rows-a[0].rows) / w.span.Seconds()
	return w
}
