// Package checkpoints keeps what a run has settled: which documents of a shard are behind its watermark, and the durable
// record of that. It says nothing about how documents are read or written (package runner does), and it starts no goroutine.
//
//   - A document is settled when it is acknowledged, filtered, or durably dead.
//   - The watermark is the end of the contiguous prefix of a shard that is settled. Window finds it.
//   - A checkpoint is the durable record of a shard's watermark and counts. Store keeps it, FileStore in a folder.
//   - A record is one small file with a checksum and a predecessor. Record keeps it; plans use it too.
//   - A lock says that one process works in a folder. The kernel takes it back when that process dies.
//
// Everything here covers only what is settled: a crash anywhere repeats documents and never skips one.
//
// Not for anything that changes more than a few times a second: a save waits for the disk.
package checkpoints

// Result is what became of a document.
type Result struct {
	Outcome uint8 // the caller's: written, filtered, dead
	Cells   int32
	Bytes   int32 // encoded
	Rows    int32
}

// Seq names a document in its window. It grows by one with each document.
type Seq uint64

// slot keeps a Result's fields beside settled, where they fit into 16 bytes.
type slot[P any] struct {
	place              P
	cells, bytes, rows int32
	outcome            uint8
	settled            bool
}

// Window holds the documents of one shard between read and settled, in the order they were read. They are settled in any
// order and leave in the order they came, so what has left is a contiguous prefix: the only thing a watermark may cover.
// (The highest settled document would be simpler to keep, and would skip the unsettled ones below it after a crash.)
//
// P is where a document stands, in the caller's words. The zero value is ready. One goroutine at a time.
type Window[P any] struct {
	slots      []slot[P] // a ring; its length is a power of two, or 0
	head, tail uint64    // documents head..tail-1 are inside; tail-head <= len(slots)
}

// Add takes the next document in, pending.
func (w *Window[P]) Add(p P) Seq {
	if w.tail-w.head == uint64(len(w.slots)) {
		w.grow()
	}
	s := w.tail
	w.slots[s&uint64(len(w.slots)-1)].place = p
	w.tail++
	return Seq(s)
}

// Settle says what became of a document. Once for each: a second time, or a document that was never added, is a bug of the
// caller that would let the watermark pass something, so it panics.
func (w *Window[P]) Settle(s Seq, r Result) {
	if uint64(s)-w.head >= w.tail-w.head { // below head wraps around to far above it
		panic("checkpoints: settled a document that is not in the window")
	}
	d := &w.slots[uint64(s)&uint64(len(w.slots)-1)]
	if d.settled {
		panic("checkpoints: settled a document twice")
	}
	d.cells, d.bytes, d.rows, d.outcome, d.settled = r.Cells, r.Bytes, r.Rows, r.Outcome, true
}

// Advance hands the settled prefix to f, in order, and lets it go. It returns how many documents that was. f may add and
// settle.
func (w *Window[P]) Advance(f func(p P, r Result)) int {
	n := 0
	for w.head < w.tail {
		d := &w.slots[w.head&uint64(len(w.slots)-1)]
		if !d.settled {
			break
		}
		p, r := d.place, Result{d.outcome, d.cells, d.bytes, d.rows}
		var gone P
		d.place, d.settled = gone, false // whatever p points at is free once f has it
		w.head++
		n++
		f(p, r)
	}
	return n
}

// Len is how many documents are inside.
func (w *Window[P]) Len() int { return int(w.tail - w.head) }

// Room is how many documents it takes before it grows.
func (w *Window[P]) Room() int { return len(w.slots) }

// Oldest is where the first document that keeps the watermark back stands; false when the window is empty.
func (w *Window[P]) Oldest() (P, bool) {
	if w.head == w.tail {
		var none P
		return none, false
	}
	return w.slots[w.head&uint64(len(w.slots)-1)].place, true
}

func (w *Window[P]) grow() {
	old := w.slots
	w.slots = make([]slot[P], max(64, 2*len(old)))
	for s := w.head; s < w.tail; s++ {
		w.slots[s&uint64(len(w.slots)-1)] = old[s&uint64(len(old)-1)]
	}
}
