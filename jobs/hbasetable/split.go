package hbasetable

import (
	"context"
	"fmt"
	"math"

	"drover/hbase"
	"drover/jobs"
)

const (
	// leastPages is what each part of a split must have to read, in pages as the reader asks for them. A reader has up to two
	// under way ahead of its caller, and who takes a part over asks for a first page and a proof of it: below this the part
	// would be read by the time that it has changed hands.
	leastPages = 2
	// finestSplit is how many regions of what is left are looked into. Nothing of the shard is read meanwhile, and among more
	// the one in the middle is about in the middle of the rows.
	finestSplit = 16
	// leastShare is what a boundary of regions must leave of the rows on each side to be the cut, although a key inside of a
	// region would be nearer to the middle: each part is then read from servers of its own.
	leastShare = 1.0 / 3
)

// splitCare is less than a plan's: the parts may be cut again, and nothing is read while the middle is looked for. What is left is
// looked into as for splitShards shards, so that one segment whose rows are estimated wrongly does not move the middle far.
var splitCare = care{even: 16, most: 64}

const splitShards = 4

// Split implements jobs.Splitter. The boundary is the start of a region, or where none is near the middle a row's key that
// scans of keys alone found, as Plan finds its own. It always lies between after and the shard's end and is neither, so that the
// parts tile the shard whatever the answers were: a wrong one only makes them uneven. The sizes are estimates. The numbers of both
// parts are the shard's.
func (s *Source) Split(ctx context.Context, _ jobs.Layout, sh jobs.Shard, after jobs.Cursor) (head, rest jobs.Shard, ok bool, err error) {
	fail := func(err error) (jobs.Shard, jobs.Shard, bool, error) {
		return jobs.Shard{}, jobs.Shard{}, false, fmt.Errorf("split shard %d of %s: %w", sh.N, s.opts.Table, err)
	}
	start, stop, err := s.span(sh)
	if err != nil {
		return fail(err)
	}
	at, err := cursor(after, start, stop)
	if err != nil {
		return fail(err)
	}
	if len(stop) > 0 && string(at) >= string(stop) {
		return head, rest, false, nil
	}
	regions, err := s.link.Cluster.Regions(ctx, s.opts.Table)
	if err != nil {
		return fail(err)
	}
	var m middle
	if starts := pieces(regions, at, stop); len(starts) > finestSplit {
		half := len(starts) / 2
		piece := sh.Bytes / int64(len(pieces(regions, start, stop)))
		m = middle{key: starts[half], left: piece * int64(half), rest: piece * int64(len(starts)-half)}
	} else if m, err = s.middle(ctx, starts, stop); err != nil {
		return fail(err)
	}
	if !within(m.key, at, stop) {
		return head, rest, false, nil
	}
	head, rest = sh, sh
	head.End = jobs.Cursor(hbase.KeyText(m.key))
	rest.Start = head.End
	rest.Bytes = m.rest
	head.Bytes = max(sh.Bytes-m.rest, m.left) // the plan may have thought that less is in the shard than was found now
	return head, rest, true, nil
}

// middle is where to cut, and how many bytes are left before it and behind it. Without a key there is too little for that.
type middle struct {
	key        []byte
	left, rest int64
}

// middle looks for the key in the middle of pieces that end at stop.
func (s *Source) middle(ctx context.Context, starts [][]byte, stop []byte) (middle, error) {
	segments, err := s.segments(ctx, starts, stop, splitShards, splitCare)
	if err != nil {
		return middle{}, err
	}
	total := 0.0
	for _, g := range segments {
		total += g.estimate
	}
	if total < 2*leastPages {
		return middle{}, nil // not even of rows that fill a page each
	}
	size, err := s.rowSize(ctx, starts[0], stop)
	if err != nil {
		return middle{}, err
	}
	page := float64(pageRows)
	if size > 0 {
		page = min(page, max(1, pageBytes/size))
	}
	var key, bound []byte
	var best, bestBound float64 // rows before them
	before, next := 0.0, 1
	nearer := func(rows, than float64) bool { return math.Abs(rows-total/2) < math.Abs(than-total/2) }
	for i, g := range segments {
		if i > 0 {
			if nearer(before, best) {
				key, best = g.start, before
			}
			if next < len(starts) && string(g.start) == string(starts[next]) {
				next++
				if nearer(before, bestBound) {
					bound, bestBound = g.start, before
				}
			}
		}
		// Few rows are not divided into segments, but all of them were seen.
		if half := before + float64(g.rows/2); g.rows > 1 && g.estimate == float64(g.rows) && nearer(half, best) {
			key, best = g.half, half
		}
		before += g.estimate
	}
	if bestBound >= total*leastShare && total-bestBound >= total*leastShare {
		key, best = bound, bestBound
	}
	if best < leastPages*page || total-best < leastPages*page {
		return middle{}, nil
	}
	return middle{key: key, left: int64(min(best*size, maxBytes)), rest: int64(min((total-best)*size, maxBytes))}, nil
}
