package hbasetable

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"drover/hbase"
	"drover/jobs"
)

// Open implements jobs.Source.
func (s *Source) Open(ctx context.Context, mem jobs.Memory, l jobs.Layout, sh jobs.Shard, from jobs.Cursor) (jobs.Reader, error) {
	if err := s.Check(ctx, l); err != nil {
		return nil, err
	}
	start, stop, err := s.span(sh)
	if err != nil {
		return nil, err
	}
	if start, err = cursor(from, start, stop); err != nil {
		return nil, fmt.Errorf("open shard %d of %s: %w", sh.N, s.opts.Table, err)
	}
	w := &walker{s: s, mem: mem, shard: sh.N, scan: s.scan(start, stop), rows: firstRows}
	if n := len(start) - 1; from != "" && n > 0 && start[n] == 0 {
		w.anchor = start[:n:n] // the cursor is behind a row that was read before
	}
	return newReader(ctx, w), nil
}

// cursor is the key of a cursor in [start, stop], and start for "".
func cursor(from jobs.Cursor, start, stop []byte) ([]byte, error) {
	if from == "" {
		return start, nil
	}
	at, err := hbase.ParseKey(string(from))
	if err != nil {
		return nil, fmt.Errorf("cursor: %w", err)
	}
	if bytes.Compare(at, start) < 0 || len(stop) > 0 && bytes.Compare(at, stop) > 0 {
		return nil, fmt.Errorf("cursor %s is not inside [%s, %s): the checkpoint is of another plan", from, hbase.KeyText(start), hbase.KeyText(stop))
	}
	return at, nil
}

// walker reads a shard page by page.
type walker struct {
	s     *Source
	mem   jobs.Memory
	shard int
	scan  hbase.Scan // its Start is where the next page's rows begin

	anchor []byte // the last row read, which the next page must start with; nil when there is none to ask for
	rows   int    // to ask for
	size   int    // bytes of a row, as seen; 0 while nothing is known
	limit  int    // bytes that the next page must have room for, 0 for what is usual
	claim  []byte // the first row of the last answer that may not be of this scan
	doubts int    // answers in a row that claimed it
	tries  int    // answers in a row that may not be of this scan

	waited time.Duration // for the limit, before the last page
}

// An anchor larger than this, in bytes, is not read twice.
const maxAnchor = 64 << 10

// How many answers must say that the anchor is gone, or another row the first, and, without an anchor, that nothing is left.
const (
	proofGone  = 3
	proofEmpty = 3
	mostTries  = 20
)

// next reads the next chunk, or gives io.EOF.
func (w *walker) next(ctx context.Context) (*jobs.Chunk, error) {
	for {
		if len(w.scan.Stop) > 0 && bytes.Compare(w.scan.Start, w.scan.Stop) >= 0 {
			return nil, io.EOF
		}
		want := pageBytes
		if w.size > 0 {
			want = w.rows * w.size
		}
		sheet, err := newSheet(ctx, w.mem, want, w.limit)
		if err != nil {
			return nil, err
		}
		rows, end, err := w.page(ctx, &sheet.page)
		if err != nil {
			sheet.free()
			return nil, fmt.Errorf("read shard %d of %s from %s: %w", w.shard, w.s.opts.Table, hbase.KeyText(w.scan.Start), err)
		}
		if len(rows) > 0 {
			return sheet.seal(w.s.Name(), rows), nil
		}
		sheet.free()
		if end {
			return nil, io.EOF
		}
	}
}

// page asks for one page and goes on behind it. Without rows and end it has to be asked again.
func (w *walker) page(ctx context.Context, page *hbase.Page) (rows []hbase.PackedRow, end bool, err error) {
	began := time.Now()
	paid, err := w.s.pay(ctx, amount{w.rows, w.rows * w.size})
	if err != nil {
		return nil, false, err
	}
	w.waited = time.Since(began)
	scan, n := w.scan, w.rows
	if w.anchor != nil {
		scan.Start = w.anchor
		n++
	}
	if err := w.s.fetch(ctx, &scan, n, page); err != nil {
		return nil, false, err
	}
	w.s.settle(paid, page)
	rows = page.Rows
	anchored := w.anchor != nil && len(rows) > 0 && bytes.Equal(rows[0].Key(), w.anchor)
	switch {
	case anchored:
		rows = rows[1:]
	case w.anchor != nil:
		if !w.believe(rows, proofGone) {
			return nil, false, nil
		}
		w.anchor = nil
	case len(rows) > 0:
		ok, err := w.confirm(ctx, rows[0].Key())
		if err != nil {
			return nil, false, err
		}
		if !ok { // two answers that differ prove nothing, however often the first one comes
			w.doubts = 0
			if w.tries++; w.tries < mostTries {
				return nil, false, nil
			}
		}
	}
	switch {
	case len(rows) > 0:
		w.doubts, w.tries, w.limit = 0, 0, 0
		w.learn(rows, page.More)
		return rows, false, nil
	case page.More && anchored: // the row after it is too large beside it
		w.anchor = nil
		return nil, false, nil
	case page.More:
		w.enlarge(page)
		return nil, false, nil
	case anchored:
		return nil, true, nil
	}
	return nil, w.believe(nil, proofEmpty), nil
}

// believe tells whether an answer that may not be of this scan has to be believed: because so many in a row have said the
// same, or because too many were asked for, where the table changes faster than it is read.
func (w *walker) believe(rows []hbase.PackedRow, enough int) bool {
	var first []byte
	if len(rows) > 0 {
		first = rows[0].Key()
	}
	if w.doubts == 0 || !bytes.Equal(first, w.claim) {
		w.doubts = 0
		w.claim = bytes.Clone(first)
	}
	w.doubts++
	w.tries++
	return w.doubts >= enough || w.tries >= mostTries
}

// confirm asks once more for the first row of a page without an anchor, which is a shard's first or follows a large row.
func (w *walker) confirm(ctx context.Context, first []byte) (bool, error) {
	paid, err := w.s.pay(ctx, amount{1, w.size})
	if err != nil {
		return false, err
	}
	page := hbase.Page{Limit: maxAnchor}
	if err := w.s.fetch(ctx, &w.scan, 1, &page); err != nil {
		return false, err
	}
	w.s.settle(paid, &page)
	if len(page.Rows) == 0 {
		return page.More, nil // too large to be looked at
	}
	return bytes.Equal(page.Rows[0].Key(), first), nil
}

// learn sets the place and the size of the next page by the rows of this one.
func (w *walker) learn(rows []hbase.PackedRow, more bool) {
	last := rows[len(rows)-1]
	w.scan.Start = after(last.Key())
	w.anchor = nil
	if len(last) <= maxAnchor {
		w.anchor = w.scan.Start[: len(w.scan.Start)-1 : len(w.scan.Start)-1]
	}
	bytes := 0
	for _, r := range rows {
		bytes += len(r)
	}
	size := max(1, bytes/len(rows))
	if w.size > 0 && !more { // larger rows count at once, smaller ones by and by
		size = max(size, (w.size+size)/2)
	}
	w.size = size
	most := 4 * w.rows
	if w.waited > pageWait/4 { // else it may be four times as large
		most = max(pacedRows, int(float64(w.rows)*float64(pageWait)/float64(w.waited)))
	}
	w.rows = max(1, min(pageBytes/size, most, pageRows))
}

// enlarge makes room for a row of which a page has too small a part.
func (w *walker) enlarge(page *hbase.Page) {
	if page.Need > page.Limit {
		w.limit = page.Need + page.Need/8
		w.rows = 1
		return
	}
	// The gateway gives the row in parts, and each counts as a row.
	w.limit = 2 * page.Limit
	w.rows = min(2*w.rows, 1<<20)
}

// ahead is how many pages lie ready while the next one is read.
const ahead = 1

// reader reads ahead of its caller.
type reader struct {
	table  string
	chunks chan *jobs.Chunk
	err    error // set before chunks is closed
	cancel context.CancelFunc
	close  func() // idempotent
}

func newReader(ctx context.Context, w *walker) *reader {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &reader{table: w.s.opts.Table, chunks: make(chan *jobs.Chunk, ahead), cancel: cancel}
	r.close = sync.OnceFunc(r.stop)
	go r.run(ctx, w)
	return r
}

func (r *reader) run(ctx context.Context, w *walker) {
	defer close(r.chunks)
	for {
		c, err := w.next(ctx)
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
		return nil, fmt.Errorf("wait for rows of %s: %w", r.table, ctx.Err())
	}
}

// Close ends reading ahead and gives back what was read and not taken. It may be called again.
func (r *reader) Close() error {
	r.close()
	return nil
}

func (r *reader) stop() {
	r.cancel()
	for c := range r.chunks {
		c.Free()
	}
}
