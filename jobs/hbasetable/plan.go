package hbasetable

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"drover/hbase"
	"drover/jobs"
)

const (
	probeRows    = 128     // rows that a probe looks at, to see how close they lie
	leastShard   = 10_000  // rows of a shard, below which it is not worth a cut
	mostShards   = 1024    // checkpoints hold all of them
	mostProbes   = 1000    // halvings of one plan
	evenProbes   = 128     // at least, over the whole table
	sizeRows     = 32      // whole rows that are read to see how large they are
	sizeBytes    = 1 << 20 // and of what size at most
	finestPieces = 512     // regions, beyond which they are not looked into
	planWidth    = 8       // calls under way at once: each is small, and mostly waited for
	mostPaths    = 8       // ways that are followed to count the rows of a segment: with 3, one of 20 counts was far off
	allPaths     = 24      // and of all pieces together: with many, what is too much by chance in one is too little in another
	leastPaths   = 2
	widestGap    = 16      // times what an estimate makes of it, beyond which it is not believed
	maxBytes     = 1 << 53 // of a shard
)

// abreast calls f for 0 to n-1, planWidth at a time, and gives the first error.
func abreast(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(planWidth)
	for i := range n {
		work.Go(func() error { return f(ctx, i) })
	}
	return work.Wait()
}

// segment is a run of rows between two probes.
type segment struct {
	start []byte // where a shard that begins with it starts
	stop  []byte // the key that it ends before; nil is the table's end
	first []byte // the first row's key
	last  []byte // the last row's key, or one between that and stop
	half  []byte // the key in the middle of what the probe at start looked at
	seen  []byte // the last one of it
	rows  int    // that the probe looked at
	whole bool   // it looked at all of them, or there is nothing more to learn
	depth int    // how many times it was halved
	scale *scale // of its region

	estimate float64 // rows
	counted  bool    // the estimate is by follow, since the first rows lie closer than others
	halves   *halves // nil until halve has looked
}

// Plan implements jobs.Source. It scans keys only, in a number of calls that hardly grows with the table.
func (s *Source) Plan(ctx context.Context, want int) (jobs.Layout, error) {
	cluster := s.link.Cluster
	id, err := cluster.ClusterID(ctx)
	if err != nil {
		return jobs.Layout{}, err
	}
	regions, err := cluster.Regions(ctx, s.opts.Table)
	if err != nil {
		return jobs.Layout{}, err
	}
	if len(regions) == 0 {
		return jobs.Layout{}, fmt.Errorf("plan the copy of table %s: there is no such table: correct source.hbase.table, or the gateways", s.opts.Table)
	}
	segments, err := s.segments(ctx, pieces(regions, s.opts.Start, s.opts.Stop), s.opts.Stop, max(want, 1), planCare(want))
	if err != nil {
		return jobs.Layout{}, fmt.Errorf("plan the copy of table %s: %w", s.opts.Table, err)
	}
	size, err := s.rowSize(ctx, s.opts.Start, s.opts.Stop)
	if err != nil {
		return jobs.Layout{}, fmt.Errorf("plan the copy of table %s: %w", s.opts.Table, err)
	}
	l := jobs.Layout{Shards: s.shards(segments, max(want, 1), size)}
	c := s.Name()
	for i := range l.Shards {
		sh := &l.Shards[i]
		sh.N, sh.Database, sh.Collection = i, c.Database, c.Name
		c.Bytes += sh.Bytes
	}
	l.Collections = []jobs.Collection{c}
	if l.Identity, err = json.Marshal(identity{Cluster: id, Places: places(segments)}); err != nil {
		return jobs.Layout{}, fmt.Errorf("encode the identity of table %s: %w", s.opts.Table, err)
	}
	return l, nil
}

// pieces cuts a range at the starts of regions: the keys where pieces begin, the first the range's own start. A region that
// moves or splits meanwhile only makes a cut in another place.
func pieces(regions []hbase.Region, start, stop []byte) [][]byte {
	starts := [][]byte{start}
	for _, r := range regions {
		if within(r.Start, start, stop) {
			starts = append(starts, r.Start)
		}
	}
	slices.SortFunc(starts, bytes.Compare)
	return slices.CompactFunc(starts, bytes.Equal)
}

// within tells whether a key lies between two others and is neither.
func within(key, start, stop []byte) bool {
	return bytes.Compare(key, start) > 0 && (len(stop) == 0 || bytes.Compare(key, stop) < 0)
}

// care says how closely segments are looked into.
type care struct {
	least float64 // rows of a shard, whose half is not worth a look of its own
	even  int     // probes at least, before estimates are believed
	most  int     // probes at most
}

func planCare(want int) care {
	return care{least: leastShard, even: max(evenProbes, 8*want), most: mostProbes}
}

// segments looks into the pieces, which end at end, and into the larger parts of them, until no part has much more than half
// of what one of want shards would have.
func (s *Source) segments(ctx context.Context, starts [][]byte, end []byte, want int, c care) ([]segment, error) {
	stop := func(i int) []byte {
		if i+1 < len(starts) {
			return starts[i+1]
		}
		return end
	}
	var all []segment
	if len(starts) > finestPieces {
		for i, start := range starts {
			all = append(all, segment{start: start, stop: stop(i), whole: true, estimate: leastShard})
		}
		return all, nil
	}
	all = make([]segment, len(starts))
	err := abreast(ctx, len(starts), func(ctx context.Context, i int) (err error) {
		all[i], err = s.region(ctx, starts[i], stop(i))
		return err
	})
	if err != nil {
		return nil, err
	}
	paths := min(mostPaths, max(leastPaths, allPaths/len(starts)))
	for n := 0; ; {
		next := c.next(all, want, n)
		if len(next) == 0 {
			return all, nil
		}
		parts := make([][]segment, len(next))
		err := abreast(ctx, len(next), func(ctx context.Context, i int) (err error) {
			parts[i], err = s.divide(ctx, &all[next[i]], paths, n < c.even)
			return err
		})
		if err != nil {
			return nil, err
		}
		n += len(next)
		for i := len(next) - 1; i >= 0; i-- {
			all = slices.Replace(all, next[i], next[i]+1, parts[i]...)
		}
	}
}

// next gives the segments to halve after n probes, ascending: of those that are too large the largest.
func (c care) next(all []segment, want, n int) []int {
	total := 0.0
	var open []int
	for i, g := range all {
		total += g.estimate
		if !g.whole {
			open = append(open, i)
		}
	}
	slices.SortStableFunc(open, func(i, j int) int { return cmp.Compare(all[j].estimate, all[i].estimate) })
	most := min(planWidth, c.most-n)
	fits := slices.IndexFunc(open, func(i int) bool { return all[i].estimate <= max(total/float64(want), c.least)/2 })
	switch {
	case fits > 0:
		open = open[:fits]
	case fits == 0: // an estimate is by the first rows of a segment only: before it is believed, all are looked into evenly
		most = min(most, c.even-n)
		slices.SortStableFunc(open, func(i, j int) int { return cmp.Compare(all[i].depth, all[j].depth) })
	}
	open = open[:max(0, min(most, len(open)))]
	slices.Sort(open)
	return open
}

// region looks at a whole piece.
func (s *Source) region(ctx context.Context, start, stop []byte) (segment, error) {
	g := segment{start: start, stop: stop, whole: true}
	var page hbase.Page
	if err := s.probe(ctx, &g, &page, start); err != nil || g.whole {
		return g, err
	}
	last, err := s.last(ctx, g.seen, stop)
	if err != nil {
		return g, err
	}
	g.last = last
	g.scale = newScale(page.Rows, last)
	g.guess()
	return g, nil
}

// probe looks at the first rows of a segment from a key on.
func (s *Source) probe(ctx context.Context, g *segment, page *hbase.Page, from []byte) error {
	if err := s.keys(ctx, page, hbase.Scan{Start: from, Stop: g.stop}, probeRows); err != nil {
		return err
	}
	g.rows = len(page.Rows)
	g.whole = g.rows < probeRows
	g.estimate = float64(g.rows)
	if g.rows > 0 {
		g.first = bytes.Clone(page.Rows[0].Key())
		g.half = bytes.Clone(page.Rows[g.rows/2].Key())
		g.seen = bytes.Clone(page.Rows[g.rows-1].Key())
	}
	return nil
}

// keys scans the keys of rows alone: one cell of each, without its value.
func (s *Source) keys(ctx context.Context, page *hbase.Page, scan hbase.Scan, n int) error {
	scan.Filter = "FirstKeyOnlyFilter() AND KeyOnlyFilter()"
	if w := s.link.Pace; w != nil {
		if err := w(ctx, n, 0); err != nil {
			return err
		}
	}
	return s.fetch(ctx, &scan, n, page)
}

// last finds the last row's key of [first, stop), where first is a row.
func (s *Source) last(ctx context.Context, first, stop []byte) ([]byte, error) {
	var page hbase.Page
	// A reversed scan starts at the stop, which is not part of the range, if it is a row.
	if err := s.keys(ctx, &page, hbase.Scan{Start: stop, Stop: first, Reversed: true}, 2); err != nil {
		return nil, err
	}
	for _, r := range page.Rows {
		if len(stop) == 0 || bytes.Compare(r.Key(), stop) < 0 {
			return bytes.Clone(r.Key()), nil
		}
	}
	return first, nil
}

// guess estimates the rows: as close as those that were looked at, or as the last half of them, where the probe ran into a
// crowd.
func (g *segment) guess() {
	at, seen, end := g.scale.at(g.first), g.scale.at(g.seen), g.scale.at(g.last)
	g.estimate = float64(g.rows)
	if seen.Cmp(at) <= 0 || end.Cmp(seen) <= 0 {
		g.whole = true // keys that lie too close to be told apart are not cut
		return
	}
	g.estimate *= ratio(at, seen, end)
	if half := g.scale.at(g.half); half.Cmp(seen) < 0 {
		g.estimate = max(g.estimate, float64(g.rows)/2*ratio(half, seen, end))
	}
}

// divide halves a segment. Where that shows that its estimate was by a crowd, such as the ObjectIDs of one second, the rows of both
// parts are counted, along so many paths. Parts of what was counted share that; if one is thought to be very unlike the other, they are
// counted again, where that is allowed.
func (s *Source) divide(ctx context.Context, g *segment, paths int, again bool) ([]segment, error) {
	h, err := s.halve(ctx, g)
	if err != nil {
		return nil, err
	}
	parts := []segment{*h.lower}
	if h.upper != nil {
		parts = append(parts, *h.upper)
	}
	if !h.crowd(g) && !g.counted {
		return parts, nil
	}
	sum, least, most := 0.0, math.Inf(1), 0.0
	for _, p := range parts {
		sum += p.estimate
		least, most = min(least, p.estimate), max(most, p.estimate)
	}
	share := g.counted && (most <= widestGap*least || !again)
	for i := range parts {
		p := &parts[i]
		switch {
		case p.whole:
			continue
		case share:
			p.estimate = max(g.estimate*p.estimate/sum, float64(p.rows))
		default:
			total := 0.0
			for range paths {
				rows, err := s.follow(ctx, p)
				if err != nil {
					return nil, err
				}
				total += rows
			}
			p.estimate = total / float64(paths)
		}
		p.counted = true
	}
	return parts, nil
}

// follow says how many rows a segment has: it halves it again and again, each time going on with one half that chance picks, until
// the estimate of what is left can be believed. The half that is thought to have more is picked more often, and counts less for it, so
// that on average over all paths the true number comes out.
func (s *Source) follow(ctx context.Context, g *segment) (float64, error) {
	rows, alike := float64(g.rows), 1.0
	for !g.whole {
		h, err := s.halve(ctx, g)
		switch {
		case err != nil:
			return 0, err
		case h.upper == nil:
			g = h.lower
			continue
		case !h.crowd(g):
			return rows + alike*(h.lower.estimate-float64(g.rows)+h.upper.estimate), nil
		}
		rows += alike * float64(h.upper.rows)
		switch upper := 0.1 + 0.8*h.upper.estimate/(h.upper.estimate+h.lower.estimate); {
		case h.lower.whole:
			g = h.upper
		case h.upper.whole:
			g = h.lower
		case rand.Float64() < upper:
			alike /= upper
			g = h.upper
		default:
			alike /= 1 - upper
			g = h.lower
		}
	}
	return rows, nil
}

// halves are what a segment was cut to.
type halves struct {
	lower *segment
	upper *segment // nil when there was nothing in it
	gap   float64  // times the segment is larger than the space about its middle that no row is in; +Inf is none
}

// crowd tells whether no row is near the middle, although there would be many if the segment had as many as is thought.
func (h *halves) crowd(g *segment) bool { return g.estimate/h.gap > 2*widestGap }

// halve is cut, which looks once for each segment, however many ways lead through it.
func (s *Source) halve(ctx context.Context, g *segment) (_ *halves, err error) {
	if g.halves == nil {
		g.halves, err = s.cut(ctx, g)
	}
	return g.halves, err
}

// cut cuts a segment at a row near its middle.
func (s *Source) cut(ctx context.Context, g *segment) (*halves, error) {
	lower := *g
	lower.depth++
	h := &halves{lower: &lower, gap: math.Inf(1)}
	from, to := g.scale.at(g.seen), g.scale.at(g.last)
	// Not the very middle: of the ObjectIDs of one client that is an ObjectID of its, and there may be many about it, whatever lies between.
	middle := g.scale.between(from, to, 503, 1009)
	if bytes.Compare(middle, g.seen) <= 0 || bytes.Compare(middle, g.last) > 0 {
		lower.whole = true
		return h, nil
	}
	up := segment{stop: g.stop, depth: lower.depth}
	var page hbase.Page
	if err := s.probe(ctx, &up, &page, middle); err != nil {
		return nil, err
	}
	if up.rows == 0 {
		// Keys may end far below the middle, as binary times do below the next series: halving alone would need a probe for each bit.
		last, err := s.last(ctx, g.seen, middle)
		if err != nil {
			return nil, err
		}
		lower.last, h.gap = last, 0
		lower.guess()
		return h, nil
	}
	at := g.scale.at(middle)
	if next := g.scale.at(up.first); at.Cmp(to) < 0 && next.Cmp(at) > 0 {
		h.gap = ratio(at, next, to)
	}
	up.start = up.first
	if !up.whole {
		up.last = g.last
		up.scale = newScale(page.Rows, up.last)
		up.guess()
	}
	h.upper = &up
	lower.stop, lower.last = up.first, middle
	lower.guess()
	return h, nil
}

// shards joins segments to about want shards.
func (s *Source) shards(all []segment, want int, size float64) []jobs.Shard {
	total := 0.0
	for _, g := range all {
		total += g.estimate
	}
	target := max(total/float64(min(want, mostShards)), leastShard)
	if len(all) > finestPieces {
		target = total / float64(mostShards/2)
	}
	var out []jobs.Shard
	rows := 0.0
	cut := func(end []byte) {
		sh := jobs.Shard{Bytes: int64(min(rows*size, maxBytes)), End: jobs.Cursor(hbase.KeyText(end))}
		if len(out) > 0 {
			sh.Start = out[len(out)-1].End
		}
		out = append(out, sh)
		rows = 0
	}
	for i, g := range all {
		if i > 0 && rows > 0 && rows+g.estimate/2 > target {
			cut(g.start)
		}
		rows += g.estimate
	}
	cut(nil)
	return out
}

// rowSize reads the first rows of a range as they will be read, to say about how large one is, in bytes.
func (s *Source) rowSize(ctx context.Context, start, stop []byte) (float64, error) {
	page := hbase.Page{Limit: sizeBytes}
	scan := s.scan(start, stop)
	if err := s.fetch(ctx, &scan, sizeRows, &page); err != nil {
		return 0, err
	}
	if len(page.Rows) == 0 {
		return float64(page.Need), nil
	}
	return float64(page.Bytes()) / float64(len(page.Rows)), nil
}
