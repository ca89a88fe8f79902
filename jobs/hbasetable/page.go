package hbasetable

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"drover/hbase"
	"drover/jobs"
)

// Pages. 2000 rows a page are read more than twice as fast as 500: each page costs the gateway a scanner of its own.
const (
	pageRows  = 2000
	pageBytes = 1 << 20 // about what a page should hold
	firstRows = 256     // of the first page, while nothing is known of the rows

	// A page is waited for until all of it may be read. Under a low limit pages are smaller, so that rows come all the time and not
	// many at once after seconds: about as many as are waited for so long, but not fewer than pacedRows.
	pageWait  = time.Second
	pacedRows = 64

	heldFactor = 3 // a page is held once as read and about twice as encoded
)

// limits are what pages may hold, ascending: at least twice what is expected of them, so that a run of larger rows seldom costs a page
// whose second half has to be read again.
var limits = [...]int{256 << 10, 512 << 10, 1 << 20, 2 * pageBytes}

var pools [len(limits)]sync.Pool

// sheet is a pooled page with its accounting. It belongs to one chunk, or to the reader that fills it.
type sheet struct {
	page  hbase.Page
	class int // in limits; -1 is a page of its own size, which is not kept
	docs  [][]byte

	mem   jobs.Memory
	held  int         // acquired from mem, until chunk is set and counts it
	chunk *jobs.Chunk // once sealed
}

// newSheet acquires the memory for a page of about want bytes, or of limit bytes where that is more than pages have.
func newSheet(ctx context.Context, mem jobs.Memory, want, limit int) (*sheet, error) {
	class := 0
	for class < len(limits)-1 && limits[class] < 2*want {
		class++
	}
	if limit > limits[class] {
		class = len(limits) - 1
		if limit > limits[class] {
			class = -1
		}
	}
	if class >= 0 {
		limit = limits[class]
	} else {
		want = limit
	}
	held := max(heldFactor*want, limit)
	if err := mem.Acquire(ctx, held); err != nil {
		return nil, err
	}
	var s *sheet
	if class >= 0 {
		s, _ = pools[class].Get().(*sheet)
	}
	if s == nil {
		s = &sheet{class: class}
		s.page.Limit = limit
	}
	s.mem, s.held = mem, held
	return s, nil
}

// free gives the memory back. Nothing of the sheet may be used after it.
func (s *sheet) free() {
	if c := s.chunk; c != nil {
		s.held = c.Held
		*c = jobs.Chunk{} // a second Free panics here rather than freeing what is someone else's by then
	}
	s.mem.Adjust(-s.held)
	s.mem, s.held, s.chunk, s.docs = nil, 0, nil, s.docs[:0]
	if s.class >= 0 {
		pools[s.class].Put(s)
	}
}

// seal makes the rows a chunk, and passes the ownership on with it.
func (s *sheet) seal(c jobs.Collection, rows []hbase.PackedRow) *jobs.Chunk {
	bytes := 0
	for _, r := range rows {
		s.docs = append(s.docs, r)
		bytes += len(r)
	}
	held := max(heldFactor*bytes, s.page.Limit)
	s.mem.Adjust(held - s.held)
	s.chunk = &jobs.Chunk{
		Database: c.Database, Collection: c.Name,
		Docs: s.docs, Stored: int64(bytes), Held: held,
		At: s.at, Free: s.free,
	}
	return s.chunk
}

// at is jobs.Chunk.At.
func (s *sheet) at(i int) jobs.Cursor {
	if n := len(s.docs); i == n {
		return jobs.Cursor(hbase.KeyText(after(hbase.PackedRow(s.docs[n-1]).Key())))
	}
	return jobs.Cursor(hbase.KeyText(hbase.PackedRow(s.docs[i]).Key()))
}

// errUntyped is a gateway that is too old for raw scans.
var errUntyped = errors.New("the gateway does not say which cells of a raw scan are deletes (it is of an HBase before 2.3): take source.hbase.raw out, or upgrade it")

// foreignTries is how many times a page is asked for that comes back out of order or out of range. The pool has tried other
// gateways for each of them.
const foreignTries = 5

// fetch asks for a page until one comes that can be of this scan.
func (s *Source) fetch(ctx context.Context, scan *hbase.Scan, n int, page *hbase.Page) error {
	if pace := s.link.Pace; pace != nil {
		bytes := page.Bytes() // as many as the page before had
		scan.Again = func(ctx context.Context) error { return pace(ctx, n, bytes) }
	}
	for try := 1; ; try++ {
		err := s.link.Cluster.ScanPage(ctx, s.opts.Table, scan, n, page)
		if err != nil {
			return err
		}
		if err = scan.Check(page); err == nil && len(page.Rows) > n {
			err = fmt.Errorf("%d rows, asked were %d", len(page.Rows), n)
		}
		switch {
		case err == nil && scan.Raw && page.Untyped:
			return errUntyped
		case err == nil:
			return nil
		case try == foreignTries:
			return fmt.Errorf("read %s from %s: %d pages in a row are not of this scan: %w", s.opts.Table, hbase.KeyText(scan.Start), try, err)
		}
	}
}
