package hbase

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// fewestRows is what a page is asked for at least: the row that it is known by, and one more.
const fewestRows = 2

// ScanPage is Conn.ScanPage through the gateway that suits, which may be another one for each page. It blocks until a page has
// come, and asks again, maybe for fewer rows, whatever happens to gateways and table meanwhile: only the end of ctx,
// *OutageError, ErrClosed, s.Again's error and errors that no repetition mends end it before.
func (p *Pool) ScanPage(ctx context.Context, table string, s *Scan, n int, page *Page) error {
	what := "read " + table
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer leave()
	t, since := p.table(table), time.Now()
	expected := page.Bytes() // the page before
	for try, again, slow := 0, 0, 0; ; try++ {
		if try > 0 && s.Again != nil {
			if err := s.Again(ctx); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		units := work(n, expected)
		if s.sparse() {
			units = 0
		}
		g, err := p.acquire(ctx, &waiter{lane: p.reads, since: since})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		a, err := p.measured(ctx, g, units, slow, func(ctx context.Context, l link) (float64, error) {
			if err := l.ScanPage(ctx, table, s, n, page); err != nil || units == 0 {
				return units, err
			}
			return work(len(page.Rows), page.Bytes()), nil
		})
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case a.kind == 0:
			p.mu.Lock()
			g.rows += int64(len(page.Rows))
			p.mu.Unlock()
			if t.stopped.Load() && a.began >= t.pausedAt() {
				p.resume(t)
			}
			return nil
		case a.kind == Again:
			again++
			if again%8 == 4 && notServing(a.err) && p.disabled(ctx, t, g.host) {
				p.pause(t, a, tableDisabled, false, false)
			}
			if err := p.reads.rest(ctx, since, again-1, a.wait); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		case a.kind == Elsewhere && !errors.Is(a.err, ErrUnknownMethod):
			if a.late { // it has to read far for this many, or the rows are large
				slow++
				n = max(n/4, min(n, fewestRows))
			}
		default:
			return fmt.Errorf("%s: %w", what, a.err)
		}
	}
}
