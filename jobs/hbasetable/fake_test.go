package hbasetable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"drover/hbase"
	"drover/jobs"
)

// fake is a table whose pages a test can spoil.
type fake struct {
	id     string
	bounds []string // of its regions

	mu    sync.Mutex
	rows  []hbase.Row // by key
	calls int
	spoil func(call int, s *hbase.Scan, n int, page *hbase.Page) error // after a page was made; may be nil
	parts int                                                          // cells of a result, where rows come in parts; 0 is whole rows
}

func (f *fake) ClusterID(context.Context) (string, error) { return f.id, nil }

func (f *fake) Regions(context.Context, string) ([]hbase.Region, error) {
	var out []hbase.Region
	for i := 0; i <= len(f.bounds); i++ {
		r := hbase.Region{}
		if i > 0 {
			r.Start = []byte(f.bounds[i-1])
		}
		if i < len(f.bounds) {
			r.End = []byte(f.bounds[i])
		}
		out = append(out, r)
	}
	return out, nil
}

func (f *fake) ScanPage(ctx context.Context, _ string, s *hbase.Scan, n int, page *hbase.Page) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	page.Reset()
	f.fill(s, n, page)
	if f.spoil != nil {
		return f.spoil(f.calls, s, n, page)
	}
	return nil
}

// fill makes an honest page.
func (f *fake) fill(s *hbase.Scan, n int, page *hbase.Page) {
	i := f.find(s.Start)
	if s.Reversed {
		if i = len(f.rows) - 1; len(s.Start) > 0 {
			if i = f.find(s.Start); i == len(f.rows) || !bytes.Equal(f.rows[i].Key, s.Start) {
				i--
			}
		}
	}
	for left := n; i >= 0 && i < len(f.rows); {
		r := f.rows[i]
		if s.Reversed && len(s.Stop) > 0 && bytes.Compare(r.Key, s.Stop) <= 0 || !s.Reversed && len(s.Stop) > 0 && bytes.Compare(r.Key, s.Stop) >= 0 {
			return
		}
		if strings.Contains(s.Filter, "FirstKeyOnlyFilter") {
			r.Cells = r.Cells[:1]
		}
		if left == 0 {
			return
		}
		results := 1
		if f.parts > 0 {
			results = (len(r.Cells) + f.parts - 1) / f.parts
		}
		size := len(hbase.AppendPacked(nil, r))
		if results > left || page.Limit > 0 && page.Bytes()+size > page.Limit {
			page.More = true
			if len(page.Rows) == 0 {
				page.Need = size
				if results > left {
					page.Need = min(size*left/results, page.Limit)
				}
			}
			return
		}
		left -= results
		page.Append(r)
		if i++; s.Reversed {
			i -= 2
		}
	}
}

func (f *fake) find(key []byte) int {
	return sort.Search(len(f.rows), func(i int) bool { return bytes.Compare(f.rows[i].Key, key) >= 0 })
}

// newFake makes a table of these keys, with values of about size bytes.
func newFake(keys []string, size int) *fake {
	f := &fake{id: "cluster-1"}
	slices.Sort(keys)
	for i, k := range slices.Compact(keys) {
		f.rows = append(f.rows, hbase.Row{Key: []byte(k), Cells: []hbase.Cell{
			{Family: []byte("d"), Qualifier: []byte("n"), Timestamp: int64(i), Value: fmt.Appendf(nil, "%d", i)},
			{Op: hbase.DeleteColumn, Family: []byte("d"), Qualifier: []byte("o"), Timestamp: 7, Value: []byte{}},
			{Family: []byte("e"), Qualifier: []byte{}, Timestamp: 5, Value: make([]byte, size*(i%7)/6)},
		}})
	}
	return f
}

// memory bounds nothing and counts everything.
type memory struct {
	mu         sync.Mutex
	held, most int
}

func (m *memory) Acquire(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.Adjust(n)
	return nil
}

func (m *memory) Adjust(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held += n
	m.most = max(m.most, m.held)
}

func connect(c Cluster, o Options) *Source {
	if o.Table == "" {
		o.Table = "t"
	}
	s := New(o)
	s.Connect(Link{Cluster: c})
	return s
}

func plan(t testing.TB, s *Source, want int) jobs.Layout {
	t.Helper()
	l, err := s.Plan(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	// What is saved and loaded is what the source gets back.
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	var again jobs.Layout
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	return again
}

// readShard reads a shard from a cursor, until f says to stop.
func readShard(t testing.TB, s *Source, l jobs.Layout, sh jobs.Shard, from jobs.Cursor, f func(c *jobs.Chunk) (more bool)) error {
	t.Helper()
	mem := &memory{}
	r, err := s.Open(t.Context(), mem, l, sh, from)
	if err != nil {
		return err
	}
	defer func() {
		r.Close()
		if mem.held != 0 {
			t.Errorf("%d bytes are held after the end", mem.held)
		}
	}()
	for {
		c, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(c.Docs) == 0 || c.Collection != s.Name().Name || c.Database != s.Name().Database {
			t.Fatalf("chunk of %d documents of %s.%s", len(c.Docs), c.Database, c.Collection)
		}
		more := f(c)
		c.Free()
		if !more {
			return nil
		}
	}
}

// readAll reads every shard, and starts anew from a cursor wherever again says so.
func readAll(t testing.TB, s *Source, l jobs.Layout, again func() bool) []hbase.Row {
	t.Helper()
	var out []hbase.Row
	for _, sh := range l.Shards {
		from := jobs.Cursor("")
		for done := false; !done; {
			done = true
			err := readShard(t, s, l, sh, from, func(c *jobs.Chunk) bool {
				for i, d := range c.Docs {
					if again() {
						from, done = c.At(i), false
						return false
					}
					r := hbase.PackedRow(bytes.Clone(d))
					if err := r.Check(); err != nil {
						t.Fatal(err)
					}
					out = append(out, r.Row())
				}
				if again() {
					from, done = c.At(len(c.Docs)), false
					return false
				}
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

func never() bool { return false }

// sameRows compares what was read with the table.
func sameRows(t testing.TB, want, got []hbase.Row) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		if w, g := hbase.AppendPacked(nil, want[i]), hbase.AppendPacked(nil, got[i]); !bytes.Equal(w, g) {
			t.Fatalf("row %d is\n%.300q\nwant\n%.300q", i, g, w)
		}
	}
	if len(want) != len(got) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
}
