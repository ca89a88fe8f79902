package hbasetable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"drover/hbase"
	"drover/jobs"
)

var _ jobs.Splitter = (*Source)(nil)

// keysIn reads a shard from a cursor on and gives its rows' keys.
func keysIn(s *Source, l jobs.Layout, sh jobs.Shard, from jobs.Cursor) (keys []string, err error) {
	r, err := s.Open(context.Background(), &memory{}, l, sh, from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for {
		c, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return keys, err
		}
		for _, d := range c.Docs {
			keys = append(keys, string(hbase.PackedRow(d).Key()))
		}
		c.Free()
	}
}

// TestSplitTiles cuts shards at random cursors, the parts again, and compares what is read with the whole.
func TestSplitTiles(t *testing.T) {
	names := make([]string, 0, len(kinds))
	tables := map[string]*fake{}
	for kind := range kinds {
		names = append(names, kind)
		tables[kind] = newFake(keysOf(kind, 20_000), 2000) // rows of which a page holds half as many as it may
	}
	slices.Sort(names)
	split, whole, bounded := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		table := tables[rapid.SampledFrom(names).Draw(t, "keys")]
		f := &fake{id: table.id, rows: table.rows[:rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, len(table.rows)), rapid.IntRange(len(table.rows)/2, len(table.rows))).Draw(t, "rows")]}
		key := func(i int) string { return string(f.rows[i].Key) }
		if len(f.rows) > 0 {
			for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(f.rows)-1), 0, 40, rapid.ID[int]).Draw(t, "regions") {
				f.bounds = append(f.bounds, key(i))
			}
			slices.Sort(f.bounds)
		}
		o := Options{Table: "t"}
		if len(f.rows) > 10 && rapid.Bool().Draw(t, "range") {
			o.Start, o.Stop = f.rows[len(f.rows)/10].Key, f.rows[len(f.rows)*9/10].Key
		}
		s := New(o)
		s.Connect(Link{Cluster: f})
		l, err := s.Plan(context.Background(), rapid.IntRange(1, 2).Draw(t, "want"))
		if err != nil {
			t.Fatal(err)
		}
		sh := rapid.SampledFrom(l.Shards).Draw(t, "shard")
		all, err := keysIn(s, l, sh, "")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			k := 0
			after := sh.Start
			if len(all) > 0 {
				k = rapid.OneOf(rapid.Just(0), rapid.IntRange(0, len(all)/4), rapid.IntRange(0, len(all)), rapid.IntRange(max(0, len(all)-2), len(all))).Draw(t, "read")
			}
			switch {
			case k > 0 && k < len(all) && rapid.Bool().Draw(t, "at a row"):
				after = jobs.Cursor(hbase.KeyText([]byte(all[k])))
			case k > 0:
				after = jobs.Cursor(hbase.KeyText(append([]byte(all[k-1]), 0)))
			case rapid.Bool().Draw(t, "none"):
				after = ""
			}
			f.calls = 0
			head, rest, ok, err := s.Split(context.Background(), l, sh, after)
			if err != nil {
				t.Fatal(err)
			}
			if f.calls > 2*finestSplit+2*splitCare.most+1 {
				t.Fatalf("%d calls", f.calls)
			}
			if !ok {
				whole++
				if left := len(all) - k; left > 8*leastPages*pageRows {
					t.Fatalf("whole, with %d rows left", left)
				}
				return
			}
			split++
			start, stop, err := s.span(rest)
			if err != nil {
				t.Fatal(err)
			}
			at, _, err := s.span(sh)
			if after != "" && err == nil {
				at, err = hbase.ParseKey(string(after))
			}
			if err != nil || !within(start, at, stop) {
				t.Fatalf("cut at %q, between %q and %q (%v)", start, at, stop, err)
			}
			if head.Start != sh.Start || rest.Start != head.End || rest.End != sh.End || head.Bytes < 0 || rest.Bytes < 0 || head.Collection != sh.Collection || rest.Collection != sh.Collection {
				t.Fatalf("%+v was cut into %+v and %+v", sh, head, rest)
			}
			if slices.Contains(f.bounds, string(start)) {
				bounded++
			}
			left, err := keysIn(s, l, head, after)
			if err != nil {
				t.Fatal(err)
			}
			right, err := keysIn(s, l, rest, "")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(slices.Concat(left, right), all[k:]) {
				t.Fatalf("head and rest give %d and %d rows, the whole %d from %s on", len(left), len(right), len(all)-k, after)
			}
			sh, all = rest, right
			if rapid.Bool().Draw(t, "head") {
				if all, err = keysIn(s, l, head, ""); err != nil {
					t.Fatal(err)
				}
				sh = head
			}
		}
	})
	if split == 0 || whole == 0 {
		t.Errorf("%d shards were split, %d stayed whole", split, whole)
	}
	t.Logf("%d shards were split, %d of them at a region's start, %d stayed whole", split, bounded, whole)
}

// Parts are about even whatever the keys are, and their sizes are about right.
func TestSplitIsEven(t *testing.T) {
	const n = 60_000
	for kind := range kinds {
		for _, regions := range []int{1, 3, 10, 100} {
			f := newFake(keysOf(kind, n), 0)
			for i := 1; i < regions; i++ {
				f.bounds = append(f.bounds, string(f.rows[len(f.rows)*i/regions].Key))
			}
			s := connect(f, Options{})
			l := plan(t, s, 1)
			read := len(f.rows) / 5
			f.calls = 0
			head, rest, ok, err := s.Split(t.Context(), l, l.Shards[0], jobs.Cursor(hbase.KeyText(f.rows[read].Key)))
			if err != nil || !ok {
				t.Fatalf("%s in %d regions: split %v, %v", kind, regions, ok, err)
			}
			m, err := hbase.ParseKey(string(rest.Start))
			if err != nil {
				t.Fatal(err)
			}
			left, right := f.find(m)-read, len(f.rows)-f.find(m)
			share := float64(rest.Bytes) / float64(head.Bytes+rest.Bytes) * float64(len(f.rows)) / float64(right)
			t.Logf("%-12s planned %10d, %3d regions: %5d and %5d rows, size of the rest %3.0f %% of what is right, %2d calls", kind, l.Shards[0].Bytes, regions, left, right, 100*share, f.calls)
			if min(left, right)*4 < max(left, right) || share < 0.4 || share > 2.5 {
				t.Errorf("%s in %d regions: %d and %d rows, sizes %d and %d", kind, regions, left, right, head.Bytes, rest.Bytes)
			}
		}
	}
}

// A region's start is the cut where it is near the middle, and never where it is a bound of what is left.
func TestSplitAtRegions(t *testing.T) {
	const n = 40_000
	for _, c := range []struct {
		bounds []int
		from   int
		want   int // -1 is within a region
	}{
		{[]int{20_000}, 0, 20_000},
		{[]int{18_000, 39_000}, 0, 18_000},
		{[]int{10, 39_990}, 0, -1},
		{[]int{20_000}, 20_000, -1}, // where the reader stands
		{[]int{20_000}, 30_000, -1}, // behind it
	} {
		f := newFake(keysOf("digits", n), 0)
		for _, i := range c.bounds {
			f.bounds = append(f.bounds, string(f.rows[i].Key))
		}
		s := connect(f, Options{})
		l := plan(t, s, 1)
		_, rest, ok, err := s.Split(t.Context(), l, l.Shards[0], jobs.Cursor(hbase.KeyText(f.rows[c.from].Key)))
		if err != nil || !ok {
			t.Fatalf("%v: split %v, %v", c, ok, err)
		}
		m, err := hbase.ParseKey(string(rest.Start))
		if err != nil {
			t.Fatal(err)
		}
		if c.want >= 0 && string(m) != string(f.rows[c.want].Key) || c.want < 0 && slices.Contains(f.bounds, string(m)) {
			t.Errorf("%v: cut at row %d", c, f.find(m))
		}
	}
}

// Too little is as little as that: rows that fill a page each are cut when there are few, small ones are not.
func TestSplitOfLittle(t *testing.T) {
	for _, c := range []struct {
		rows, size int
		want       bool
	}{
		{0, 0, false},
		{1, 2 << 20, false},
		{3, 2 << 20, false},
		{24, 2 << 20, true},
		{100, 100, false},
		{2*leastPages*pageRows - 200, 0, false},
		{4 * leastPages * pageRows, 0, true},
	} {
		f := newFake(keysOf("digits", c.rows), c.size)
		s := connect(f, Options{})
		l := plan(t, s, 1)
		_, rest, ok, err := s.Split(t.Context(), l, l.Shards[0], "")
		if err != nil || ok != c.want {
			t.Errorf("%d rows of up to %d bytes: split %v, %v", c.rows, c.size, ok, err)
		}
		if !ok {
			continue
		}
		keys, err := keysIn(s, l, rest, "")
		if err != nil || len(keys) < c.rows/4 || len(keys) > c.rows*3/4 {
			t.Errorf("%d rows of up to %d bytes: %d in the rest, %v", c.rows, c.size, len(keys), err)
		}
	}
}

func TestSplitErrors(t *testing.T) {
	f := newFake(keysOf("digits", 30_000), 0)
	s := connect(f, Options{})
	l := plan(t, s, 1)
	sh := jobs.Shard{Start: "user_000010000", End: "user_000200000"}
	for _, after := range []jobs.Cursor{`\q`, "user_0", "user_1"} {
		if _, _, ok, err := s.Split(t.Context(), l, sh, after); ok || err == nil {
			t.Errorf("split at cursor %s: %v, %v", after, ok, err)
		}
	}
	if _, _, ok, err := s.Split(t.Context(), l, sh, sh.End); ok || err != nil {
		t.Errorf("split at its end: %v, %v", ok, err)
	}
	broken := fmt.Errorf("no gateway answers")
	f.spoil = func(int, *hbase.Scan, int, *hbase.Page) error { return broken }
	if _, _, ok, err := s.Split(t.Context(), l, sh, ""); ok || !errors.Is(err, broken) {
		t.Errorf("split without a gateway: %v, %v", ok, err)
	}
}

// A crowd that comes to light only after many other looks is counted, too: its first rows say that there are 10^19.
func TestLateCrowdIsCounted(t *testing.T) {
	f := newFake(keysOf("object ids", 20_000), 0)
	f.bounds = []string{string(f.rows[6561].Key)}
	const from, to = 1882, 16_891
	s := connect(f, Options{Stop: f.rows[to].Key})
	all, err := s.segments(t.Context(), [][]byte{f.rows[from].Key, f.rows[6561].Key}, s.opts.Stop, splitShards, splitCare)
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, g := range all {
		total += g.estimate
	}
	if total < (to-from)/3 || total > (to-from)*3 {
		t.Errorf("thought to have %.3g rows, and has %d", total, to-from)
	}
}
