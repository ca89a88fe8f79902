package mongodump

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"

	"drover/jobs"
)

const (
	chunkBytes = 1 << 20 // documents are read in runs of about this much
	chunkDocs  = 1 << 14 // and of no more than this many, so that tiny documents do not grow the slice headers without bound

	minDocBytes = 5               // a length and the closing zero
	maxDocBytes = 16<<20 + 16<<10 // what MongoDB stores, and what it allows itself around that

	heldFactor = 3 // a chunk is held once as read and about twice as encoded
)

// blockSizes are the sizes of pooled buffers, ascending. The last takes the largest document there can be.
var blockSizes = [...]int{64 << 10, 256 << 10, chunkBytes, 2 << 20, 4 << 20, 8 << 20, maxDocBytes}

var blockPools [len(blockSizes)]sync.Pool

// block is a pooled buffer of consecutive documents, and the accounting for it. It belongs to one chunk, or to the reader
// that fills it.
type block struct {
	class  int
	buf    []byte
	used   int      // docs lie in buf[:used] without gaps
	docs   [][]byte // subslices of buf
	starts []uint32 // where they start in buf
	base   int64    // where buf[0] is in the file or stream

	mem   jobs.Memory
	held  int         // acquired from mem, until chunk is set and counts it
	chunk *jobs.Chunk // once sealed
}

// chunkFor is how many bytes of documents are read at once.
func chunkFor(mem jobs.Memory) int {
	if m, ok := mem.(jobs.Crowded); ok {
		return min(max(m.Chunk(), blockSizes[0]), chunkBytes)
	}
	return chunkBytes
}

// newBlock acquires the memory for n bytes of documents, and then the block. The caller holds no other memory that only it
// can give back.
func newBlock(ctx context.Context, mem jobs.Memory, n int) (*block, error) {
	class := 0
	for blockSizes[class] < n {
		class++
	}
	held := max(heldFactor*n, blockSizes[class])
	if err := mem.Acquire(ctx, held); err != nil {
		return nil, err
	}
	b, _ := blockPools[class].Get().(*block)
	if b == nil {
		b = &block{class: class, buf: make([]byte, blockSizes[class])}
	}
	b.mem, b.held = mem, held
	return b, nil
}

// free gives the memory back. Nothing of the block may be used after it.
func (b *block) free() {
	if c := b.chunk; c != nil {
		b.held = c.Held
		*c = jobs.Chunk{} // a second Free panics here rather than freeing what is someone else's by then
	}
	b.mem.Adjust(-b.held)
	b.mem, b.held, b.chunk = nil, 0, nil
	b.docs, b.starts, b.used = b.docs[:0], b.starts[:0], 0
	blockPools[b.class].Put(b)
}

// at is jobs.Chunk.At.
func (b *block) at(i int) jobs.Cursor {
	if i == len(b.starts) {
		return cursorAt(b.base + int64(b.used))
	}
	return cursorAt(b.base + int64(b.starts[i]))
}

// add makes the n bytes after the used ones a document.
func (b *block) add(n int) {
	b.docs = append(b.docs, b.buf[b.used:b.used+n:b.used+n])
	b.starts = append(b.starts, uint32(b.used))
	b.used += n
}

// seal makes the block a chunk of the collection and passes its ownership on with it.
func (b *block) seal(c jobs.Collection, stored int64) *jobs.Chunk {
	held := max(heldFactor*b.used, len(b.buf))
	b.mem.Adjust(held - b.held)
	b.chunk = &jobs.Chunk{
		Database: c.Database, Collection: c.Name,
		Docs: b.docs, Stored: stored, Held: held,
		At: b.at, Free: b.free,
	}
	return b.chunk
}

// split makes documents of buf[:n], as many as are whole. remain is what the file or shard has from buf[0] on, at least n.
// It gives the length of the document after them when that one does not end in buf[:n], 0 when there is none or its length
// is not in buf[:n] either; a fault is what is wrong with that length, in words.
func (b *block) split(n int, remain int64) (next int, fault string) {
	o := 0
	for len(b.docs) < chunkDocs && int64(o) < remain {
		if n-o < 4 {
			if remain-int64(o) < 4 {
				fault = tailFault(remain - int64(o))
			}
			break
		}
		l := lengthOf(b.buf[o:])
		if fault = lengthFault(l, remain-int64(o)); fault != "" {
			break
		}
		if l > n-o {
			next = l
			break
		}
		b.docs = append(b.docs, b.buf[o:o+l:o+l])
		b.starts = append(b.starts, uint32(o))
		o += l
	}
	b.used = o
	return next, fault
}

// lengthOf is the length that a document states in its first four bytes.
func lengthOf(b []byte) int { return int(int32(binary.LittleEndian.Uint32(b))) }

// lengthFault says what is wrong with a document length where remain bytes are left, its own four included; "" is sound.
func lengthFault(l int, remain int64) string {
	switch {
	case l < minDocBytes:
		return fmt.Sprintf("document length %d is below %d", l, minDocBytes)
	case l > maxDocBytes:
		return fmt.Sprintf("document length %d is above %d, the most MongoDB writes", l, maxDocBytes)
	case int64(l) > remain:
		return fmt.Sprintf("truncated: a document of %d bytes starts here, and %d bytes are left", l, remain)
	}
	return ""
}

func tailFault(n int64) string {
	return fmt.Sprintf("truncated: %d bytes are left, too few for a document's length", n)
}

func cursorAt(offset int64) jobs.Cursor { return jobs.Cursor(strconv.FormatInt(offset, 10)) }

// offsetOf is the offset that a cursor stands for, or otherwise for "".
func offsetOf(c jobs.Cursor, otherwise int64) (int64, error) {
	if c == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(string(c), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("cursor %q is not a byte offset", string(c))
	}
	return int64(n), nil
}

// A filler reads the chunks of one shard, on the reader's goroutine. After an error it is not called again.
type filler interface {
	next(ctx context.Context) (*jobs.Chunk, error)
	close() error
}

// ahead is how many chunks lie ready while the next one is read.
const ahead = 2

// reader reads ahead of its caller.
type reader struct {
	name   string
	chunks chan *jobs.Chunk
	err    error // set before chunks is closed
	cancel context.CancelFunc
	f      filler
	close  func() error
}

func newReader(ctx context.Context, name string, f filler) *reader {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &reader{name: name, chunks: make(chan *jobs.Chunk, ahead), cancel: cancel, f: f}
	r.close = sync.OnceValue(r.stop)
	go r.run(ctx)
	return r
}

func (r *reader) run(ctx context.Context) {
	defer close(r.chunks)
	for {
		c, err := r.f.next(ctx)
		if err != nil {
			r.err = err
			return
		}
		select {
		case r.chunks <- c:
		case <-ctx.Done():
			c.Free()
			r.err = ctx.Err()
			return
		}
	}
}

// Next implements jobs.Reader.
func (r *reader) Next(ctx context.Context) (*jobs.Chunk, error) {
	select {
	case c, ok := <-r.chunks:
		if !ok {
			return nil, r.err
		}
		return c, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for documents of %s: %w", r.name, ctx.Err())
	}
}

// Close ends reading ahead and gives back what was read and not taken. It may be called again.
func (r *reader) Close() error { return r.close() }

func (r *reader) stop() error {
	r.cancel()
	for c := range r.chunks {
		c.Free()
	}
	return r.f.close()
}
