package hbasetable

import (
	"context"
	"sync"

	"drover/hbase"
)

// amount is what is read.
type amount struct{ rows, bytes int }

// paid is what was waited for and not read, of all readers of a source. A page is waited for as a whole, and a shard's last ones hold less
// than was asked for: what is left over goes to the next page, whoever asks for it. Negative is owed: what pages hold is known afterwards only.
type paid struct {
	mu   sync.Mutex
	left amount
}

// pay waits until a page may be read, and gives what was waited for, for settle.
func (s *Source) pay(ctx context.Context, want amount) (amount, error) {
	if s.link.Pace == nil {
		return amount{}, nil
	}
	p := &s.paid
	p.mu.Lock()
	from := amount{min(p.left.rows, want.rows), min(p.left.bytes, want.bytes)} // negative: what is owed is paid, too
	p.left.rows -= from.rows
	p.left.bytes -= from.bytes
	p.mu.Unlock()
	err := s.link.Pace(ctx, want.rows-from.rows, want.bytes-from.bytes)
	if err != nil {
		p.mu.Lock()
		p.left.rows += from.rows
		p.left.bytes += from.bytes
		p.mu.Unlock()
	}
	return want, err
}

// settle takes what was read of what was paid.
func (s *Source) settle(had amount, page *hbase.Page) {
	if s.link.Pace == nil {
		return
	}
	s.paid.mu.Lock()
	defer s.paid.mu.Unlock()
	s.paid.left.rows += had.rows - len(page.Rows)
	s.paid.left.bytes += had.bytes - page.Bytes()
}
