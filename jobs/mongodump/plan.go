package mongodump

import (
	"context"
	"os"
)

const (
	shardBytes = 8 << 20  // no file is cut into smaller shards than about this
	passBytes  = 1 << 20  // read at once in the pass over the lengths
	largeBytes = 64 << 10 // where documents are larger than this it pays to skip their bytes,
	hopBytes   = 4 << 10  // reading this much at each start
)

// cuts gives the offsets at which to cut [from, end) of a .bson file into at most n parts, where from is a document's start:
// document starts nearest to equal byte splits, ascending, without from and end. They come from a pass over the lengths of
// the documents up to the last cut, as BSON has nothing else to find a start by. Where the chain of lengths breaks the cuts
// end, and whoever reads the last part meets the break.
func cuts(ctx context.Context, f *os.File, from, end, n int64) ([]int64, error) {
	var (
		offsets []int64
		last    = from
		split   = int64(1) // the equal split looked for next, of n-1
		buf     = make([]byte, passBytes)
		read    = passBytes
		off     = from // where a document starts
	)
	for split < n && end-off >= 4 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b := buf[:min(int64(read), end-off)]
		if err := readAt(f, b, off); err != nil {
			return nil, err
		}
		docs, o := 0, 0
		target := from + (end-from)/n*split
		for o+4 <= len(b) {
			l := lengthOf(b[o:])
			if lengthFault(l, end-off-int64(o)) != "" {
				return offsets, nil
			}
			start, next := off+int64(o), off+int64(o+l)
			for next >= target && split < n {
				cut := next
				if target-start < next-target {
					cut = start
				}
				if cut > last && cut < end {
					offsets = append(offsets, cut)
					last = cut
				}
				split++
				target = from + (end-from)/n*split
			}
			o += l
			docs++
		}
		off += int64(o)
		read = passBytes
		if o/docs > largeBytes {
			read = hopBytes
		}
	}
	return offsets, nil
}
