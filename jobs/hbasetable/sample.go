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
	var pages [planWidth]hbase.Page
	for i := range pages {
		pages[i].Limit = 2 * pageBytes
	}
	var next []byte // where what was not sampled begins
	for places := id.Places; len(places) > 0 && n > 0; {
		some := places[:min(planWidth, len(places))]
		rows := (n + len(places) - 1) / len(places)
		err := abreast(ctx, len(some), func(ctx context.Context, i int) error {
			start, err := hbase.ParseKey(some[i])
			if err != nil {
				return err
			}
			if bytes.Compare(start, next) < 0 {
				start = next
			}
			scan := s.scan(start, s.opts.Stop)
			return s.fetch(ctx, &scan, rows, &pages[i])
		})
		if err != nil {
			return fmt.Errorf("sample %s: %w", s.opts.Table, err)
		}
		for i := range some {
			for _, r := range pages[i].Rows {
				if n == 0 || bytes.Compare(r.Key(), next) < 0 { // places may lie closer than what is read at each
					continue
				}
				n--
				next = after(r.Key())
				if err := f(r); err != nil {
					return err
				}
			}
		}
		places = places[len(some):]
	}
	return nil
}
