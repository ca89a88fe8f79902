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

// cuts gives the offsets at which to cut a .bson file of size bytes into at most want shards: document starts nearest to
// equal byte splits, ascending, without 0 and size. They come from a pass over the lengths of all documents, as BSON has
// nothing else to find a start by. Where the chain of lengths breaks the cuts end, and whoever reads the last shard meets
// the break.
func cuts(ctx context.Context, f *os.File, size int64, want int) ([]int64, error) {
	n := min(int64(want), size/shardBytes)
	var (
		offsets []int64
		last    int64
		split   = int64(1) // the equal split looked for next, of n-1
		buf     = make([]byte, passBytes)
		read    = passBytes
		off     int64 // where a document starts
	)
	for split < n && size-off >= 4 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b := buf[:min(int64(read), size-off)]
		if err := readAt(f, b, off); err != nil {
			return nil, err
		}
		docs, o := 0, 0
		target := size / n * split
		for o+4 <= len(b) {
			l := lengthOf(b[o:])
			if l < minDocBytes || l > maxDocBytes || int64(l) > size-off-int64(o) {
				return offsets, nil
			}
			start, end := off+int64(o), off+int64(o+l)
			for end >= target && split < n {
				cut := end
				if target-start < end-target {
					cut = start
				}
				if cut > last && cut < size {
					offsets = append(offsets, cut)
					last = cut
				}
				split++
				target = size / n * split
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
