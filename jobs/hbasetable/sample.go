package hbasetable

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"drover/hbase"
	"drover/jobs"
)

const (
	maxSample    = 10_000
	samplePlaces = 256
)

// places are keys that are about the same number of rows apart.
func places(all []segment) []string {
	total := 0.0
	for _, g := range all {
		total += g.estimate
	}
	var out []string
	before, next := 0.0, 0.0
	for _, g := range all {
		if before >= next {
			out = append(out, hbase.KeyText(g.start))
			next = before + total/samplePlaces
		}
		before += g.estimate
	}
	return out
}

// Sample implements jobs.Source: runs of rows at the places that the plan found. Of a table there are never more than
// maxSample, whatever is asked for.
func (s *Source) Sample(ctx context.Context, l jobs.Layout, _ jobs.Collection, n int, f func(raw []byte) error) error {
	var id identity
	if err := json.Unmarshal(l.Identity, &id); err != nil {
		return fmt.Errorf("decode the identity of table %s in the plan: %w", s.opts.Table, err)
	}
	n = min(n, maxSample)
	page := hbase.Page{Limit: 2 * pageBytes}
	var next []byte // where what was not sampled begins
	for i, place := range id.Places {
		start, err := hbase.ParseKey(place)
		if err != nil {
			return fmt.Errorf("sample %s: %w", s.opts.Table, err)
		}
		if bytes.Compare(start, next) < 0 {
			start = next
		}
		left := len(id.Places) - i
		scan := s.scan(start, s.opts.Stop)
		if err := s.fetch(ctx, &scan, (n+left-1)/left, &page); err != nil {
			return fmt.Errorf("sample %s: %w", s.opts.Table, err)
		}
		n -= len(page.Rows)
		for _, r := range page.Rows {
			next = after(r.Key())
			if err := f(r); err != nil {
				return err
			}
		}
	}
	return nil
}
