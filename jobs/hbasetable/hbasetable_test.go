package hbasetable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/hbase"
	"drover/jobs"
)

func seed(t testing.TB) *rand.Rand {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("DROVER_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DROVER_SEED=%d repeats this", n)
	return rand.New(rand.NewPCG(n, n))
}

// kinds are row keys as tables have them.
var kinds = map[string]func(i int) string{
	"digits":      func(i int) string { return fmt.Sprintf("user_%09d", i*7) },
	"hexadecimal": func(i int) string { return fmt.Sprintf("%08x", uint32(i)*2654435761) },
	"random":      func(i int) string { return string(binary.BigEndian.AppendUint64(nil, uint64(i)*0x9e3779b97f4a7c15)) },
	"salted":      func(i int) string { return fmt.Sprintf("%c%08d", i%16, i) },
	"times": func(i int) string {
		return fmt.Sprintf("s%d-%s", i%3, binary.BigEndian.AppendUint64(nil, uint64(1700000000000+i)))
	},
	"object ids":                    func(i int) string { return objectID(i/1000, 0, i) },
	"object ids of several clients": func(i int) string { return objectID(i/7, i%5, i/5) },
	"one prefix":                    func(i int) string { return strings.Repeat("p", 60) + fmt.Sprint(i) },
	"skewed": func(i int) string {
		if i%20 == 0 {
			return fmt.Sprintf("%c%d", i%251, i)
		}
		return fmt.Sprintf("mmmm%06d", i)
	},
}

// objectID is MongoDB's: seconds, a number of the client's own, and a counter of the client's.
func objectID(second, client, count int) string {
	id := binary.BigEndian.AppendUint32(nil, uint32(1704067200+second))
	id = append(id, byte(17+50*client), 0x18, 'X', 0xfe, 'e')
	id = binary.BigEndian.AppendUint32(id, uint32(0xfd1000*(client+1)+count))
	return string(slices.Delete(id, 9, 10))
}

func keysOf(kind string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = kinds[kind](i)
	}
	return keys
}

func TestEveryRowOnce(t *testing.T) {
	r := seed(t)
	resumed := 0
	for kind := range kinds {
		for _, n := range []int{0, 1, 2, 255, 256, 257, 2300, 30_000} {
			f := newFake(keysOf(kind, n), 100)
			if n > 1000 {
				for range r.IntN(4) {
					f.bounds = append(f.bounds, string(f.rows[r.IntN(len(f.rows))].Key))
				}
				slices.Sort(f.bounds)
			}
			s := connect(f, Options{})
			l := plan(t, s, 1+r.IntN(8))
			sameRows(t, f.rows, readAll(t, s, l, never))
			sameRows(t, f.rows, readAll(t, s, l, func() bool {
				again := r.IntN(500) == 0
				if again {
					resumed++
				}
				return again
			}))
		}
	}
	if resumed == 0 {
		t.Error("nothing was resumed")
	}
	t.Logf("resumed %d times", resumed)
}

func TestRanges(t *testing.T) {
	f := newFake(keysOf("digits", 5000), 10)
	f.bounds = []string{"user_000003000", "user_000020000"}
	for _, o := range []Options{
		{Start: []byte("user_00001")},
		{Stop: []byte("user_00002")},
		{Start: []byte("user_000001"), Stop: []byte("user_000001001")},
		{Start: []byte("user_00001"), Stop: Prefix([]byte("user_00001"))},
		{Start: []byte("z")},
		{Start: []byte("a"), Stop: []byte("b")},
		{Stop: []byte{0}},
	} {
		var want []hbase.Row
		for _, r := range f.rows {
			if string(r.Key) >= string(o.Start) && (o.Stop == nil || string(r.Key) < string(o.Stop)) {
				want = append(want, r)
			}
		}
		s := connect(f, o)
		l := plan(t, s, 4)
		sameRows(t, want, readAll(t, s, l, never))
		if sh := l.Shards; sh[0].Start != "" || sh[len(sh)-1].End != "" {
			t.Errorf("%q to %q: the shards are from %s to %s", o.Start, o.Stop, sh[0].Start, sh[len(sh)-1].End)
		}
	}
}

func TestPrefix(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "a\xff\xff": "b", "\xff\xff": "", "": "", "a\x00": "a\x01"} {
		if got := Prefix([]byte(prefix)); string(got) != want {
			t.Errorf("behind %q is %q, want %q", prefix, got, want)
		}
	}
}

// Shards hold about the same number of rows, whatever the keys are, and tile the table.
func TestShardsAreEven(t *testing.T) {
	const n, want = 80_000, 8
	for kind := range kinds {
		for _, regions := range []int{1, 5, 9, 100} {
			f := newFake(keysOf(kind, n), 0)
			for i := 1; i < regions; i++ {
				f.bounds = append(f.bounds, string(f.rows[len(f.rows)*i/regions].Key))
			}
			l := plan(t, connect(f, Options{}), want)
			calls := f.calls
			at, most := 0, 0
			for i, sh := range l.Shards {
				start, err := hbase.ParseKey(string(sh.Start))
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 && (sh.Start != l.Shards[i-1].End || sh.Start == "") {
					t.Fatalf("shard %d starts at %q, where %q is the end of the one before", i, sh.Start, l.Shards[i-1].End)
				}
				if f.find(start) != at {
					t.Fatalf("shard %d starts at row %d, want %d", i, f.find(start), at)
				}
				end := len(f.rows)
				if sh.End != "" {
					key, err := hbase.ParseKey(string(sh.End))
					if err != nil {
						t.Fatal(err)
					}
					end = f.find(key)
				}
				most = max(most, end-at)
				at = end
			}
			if at != len(f.rows) {
				t.Fatalf("the shards end at row %d of %d", at, len(f.rows))
			}
			page := new(hbase.Page)
			page.Append(f.rows[0])
			whole := float64(len(f.rows) * page.Bytes())
			size := float64(l.Collections[0].Bytes) / whole
			t.Logf("%-12s %3d regions: %2d shards of up to %5d rows, %3d calls; size %.2g", kind, regions, len(l.Shards), most, calls, size)
			if size < 0.1 || size > 10 {
				t.Errorf("%s in %d regions: thought to have %.2g times its size", kind, regions, size)
			}
			if most > 4*len(f.rows)/want || len(l.Shards) > 2*want {
				t.Errorf("%s in %d regions: %d shards, the largest of %d rows", kind, regions, len(l.Shards), most)
			}
		}
	}
}

// A page that is not of the scan is never taken for one.
func TestForeignPages(t *testing.T) {
	r := seed(t)
	const n = 30_000
	other := newFake(keysOf("hexadecimal", 2000), 10)
	type spoiler func(f *fake, s *hbase.Scan, n int, page *hbase.Page)
	spoilers := map[string]spoiler{
		"before the range": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) {
			page.Reset()
			f.fill(&hbase.Scan{Stop: s.Stop}, n, page)
		},
		"later in the range": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) {
			page.Reset()
			f.fill(&hbase.Scan{Start: f.rows[min(f.find(s.Start)+1+r.IntN(2*n+1), len(f.rows)-1)].Key, Stop: s.Stop}, n, page)
		},
		"behind the range": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) {
			page.Reset()
			f.fill(&hbase.Scan{Start: s.Stop}, n, page)
		},
		"empty": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) { page.Reset() },
		"another table's": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) {
			page.Reset()
			other.fill(&hbase.Scan{}, n, page)
		},
		"reversed": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) { slices.Reverse(page.Rows) },
		"doubled": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) {
			if k := len(page.Rows); k > 0 {
				page.Rows = slices.Insert(page.Rows, r.IntN(k), page.Rows[r.IntN(k)])
			}
		},
		"without its first row": func(f *fake, s *hbase.Scan, n int, page *hbase.Page) {
			if len(page.Rows) > 0 {
				page.Rows = page.Rows[1:]
			}
		},
	}
	for name, spoil := range spoilers {
		f := newFake(keysOf("digits", n), 30)
		s := connect(f, Options{})
		l := plan(t, s, 3)
		injected, row := 0, 0
		f.spoil = func(call int, s *hbase.Scan, n int, page *hbase.Page) error {
			honest := fmt.Sprintf("%q", page.Rows)
			// Answers in a row that say the same are proof, so none follow each other.
			if r.IntN(3) > 0 || row == 1 {
				row = 0
				return nil
			}
			row++
			if len(s.Stop) == 0 && name == "behind the range" {
				return nil // there is nothing behind
			}
			spoil(f, s, n, page)
			if fmt.Sprintf("%q", page.Rows) != honest {
				injected++
			}
			return nil
		}
		calls := f.calls
		rows := readAll(t, s, l, never)
		if injected == 0 {
			t.Errorf("%s: no page was spoilt", name)
		}
		t.Logf("%-22s %3d of %3d pages spoilt", name, injected, f.calls-calls)
		sameRows(t, f.rows, rows)
	}
}

// A gateway that always answers with another's pages ends the shard with an error that says so.
func TestForeignPagesForEver(t *testing.T) {
	f := newFake(keysOf("digits", 5000), 30)
	s := connect(f, Options{})
	l := plan(t, s, 1)
	f.spoil = func(_ int, _ *hbase.Scan, _ int, page *hbase.Page) error {
		slices.Reverse(page.Rows)
		return nil
	}
	err := readShard(t, s, l, l.Shards[0], "", func(*jobs.Chunk) bool { return true })
	if err == nil || !strings.Contains(err.Error(), "are not of this scan") || !strings.Contains(err.Error(), "read shard 0 of t") {
		t.Errorf("the error is %v", err)
	}
}

// Rows that are deleted behind the reader do not stop it.
func TestRowsGoWhileRead(t *testing.T) {
	f := newFake(keysOf("digits", 20_000), 30)
	s := connect(f, Options{})
	l := plan(t, s, 1)
	gone := 0
	f.spoil = func(call int, s *hbase.Scan, n int, page *hbase.Page) error {
		if k := len(page.Rows); k > 1 && call%2 == 0 {
			last := string(page.Rows[k-1].Key())
			f.rows = slices.DeleteFunc(f.rows, func(r hbase.Row) bool { return string(r.Key) == last })
			gone++
		}
		return nil
	}
	seen := map[string]bool{}
	for _, r := range readAll(t, s, l, never) {
		if seen[string(r.Key)] {
			t.Fatalf("row %q came twice", r.Key)
		}
		seen[string(r.Key)] = true
	}
	for _, r := range f.rows {
		if !seen[string(r.Key)] {
			t.Fatalf("row %q was left out", r.Key)
		}
	}
	if gone == 0 {
		t.Error("no row went")
	}
}

// Rows of any size come whole, and a page never holds more than its memory was acquired for.
func TestLargeRows(t *testing.T) {
	for _, parts := range []int{0, 1, 3} {
		f := newFake(keysOf("digits", 3000), 200)
		f.parts = parts
		for i, size := range map[int]int{0: 3 << 20, 700: 9 << 20, 701: 100 << 10, 1500: 5 << 20, 2999: 4 << 20} {
			f.rows[i].Cells[0].Value = make([]byte, size/2)
			for range 20 {
				f.rows[i].Cells = append(f.rows[i].Cells, hbase.Cell{Family: []byte("f"), Qualifier: []byte("many"), Timestamp: 9, Value: make([]byte, size/40)})
			}
		}
		s := connect(f, Options{})
		l := plan(t, s, 2)
		f.spoil = func(_ int, s *hbase.Scan, n int, page *hbase.Page) error {
			if page.Limit == 0 || page.Bytes() > page.Limit {
				t.Errorf("a page of %d bytes, with %d the limit", page.Bytes(), page.Limit)
			}
			return nil
		}
		sameRows(t, f.rows, readAll(t, s, l, never))
		t.Logf("parts of %d cells: %d calls", parts, f.calls)
	}
}

// What is held for a chunk covers the page and what is encoded from it.
func TestMemory(t *testing.T) {
	f := newFake(keysOf("digits", 50_000), 500)
	s := connect(f, Options{})
	l := plan(t, s, 1)
	chunks := 0
	err := readShard(t, s, l, l.Shards[0], "", func(c *jobs.Chunk) bool {
		chunks++
		n := 0
		for _, d := range c.Docs {
			n += len(d)
		}
		if c.Held < 3*n || c.Stored != int64(n) || n > 2*pageBytes || len(c.Docs) > pageRows {
			t.Errorf("chunk of %d rows, %d bytes: held %d, stored %d", len(c.Docs), n, c.Held, c.Stored)
		}
		return true
	})
	if err != nil || chunks > 60 {
		t.Errorf("%d chunks, %v", chunks, err)
	}
}

func TestErrorsAndContexts(t *testing.T) {
	f := newFake(keysOf("digits", 5000), 30)
	s := connect(f, Options{})
	l := plan(t, s, 1)
	broken := errors.New("broken")
	f.spoil = func(call int, _ *hbase.Scan, _ int, page *hbase.Page) error {
		if call > 20 {
			return broken
		}
		return nil
	}
	f.calls = 18
	if err := readShard(t, s, l, l.Shards[0], "", func(*jobs.Chunk) bool { return true }); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	f.spoil = nil
	mem := &memory{}
	r, err := s.Open(t.Context(), mem, l, l.Shards[0], "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if c, err := r.Next(ctx); errors.Is(err, context.Canceled) {
			break
		} else if err != nil {
			t.Fatal(err)
		} else {
			c.Free()
		}
	}
	r.Close()
	r.Close()
	if mem.held != 0 {
		t.Errorf("%d bytes are held after the end", mem.held)
	}
	for _, from := range []jobs.Cursor{"a", `\q`, "zz"} {
		sh := jobs.Shard{Start: "b", End: "c"}
		if _, err := s.Open(t.Context(), mem, l, sh, from); err == nil {
			t.Errorf("opened at %s, which is not inside the shard", from)
		}
	}
}

func TestRawNeedsTypes(t *testing.T) {
	f := newFake(keysOf("digits", 10), 0)
	f.spoil = func(_ int, _ *hbase.Scan, _ int, page *hbase.Page) error {
		page.Untyped = true
		return nil
	}
	if _, err := connect(f, Options{}).Plan(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if _, err := connect(f, Options{Raw: true}).Plan(t.Context(), 1); !errors.Is(err, errUntyped) {
		t.Errorf("the error is %v", err)
	}
}

func TestIdentity(t *testing.T) {
	f := newFake(keysOf("digits", 10), 0)
	s := connect(f, Options{})
	l := plan(t, s, 1)
	if err := s.Check(t.Context(), l); err != nil {
		t.Error(err)
	}
	f.id = "cluster-2"
	var changed *jobs.ChangedError
	if err := s.Check(t.Context(), l); !errors.As(err, &changed) || changed.What != "table t: its cluster was cluster-1, is cluster-2" {
		t.Errorf("the error is %v", err)
	}
	if _, err := s.Open(t.Context(), &memory{}, l, l.Shards[0], ""); !errors.As(err, &changed) {
		t.Errorf("opened: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	full := Options{
		Table: "ns:t", Start: []byte("a\x00"), Stop: []byte("b"), From: 5, To: 7, Versions: 2, Filter: "KeyOnlyFilter()", Raw: true,
		Columns: []Column{{Family: "e", AllOf: true}, {Family: "d", Qualifier: "\xff"}}, Limits: jobs.Limits{Rows: 5}, Gateways: &jobs.Gateways{},
	}
	for _, c := range []struct {
		o    Options
		want map[string]string
	}{
		{Options{Table: "t"}, map[string]string{"hbase.table": "default:t", "hbase.versions": "all"}},
		{full, map[string]string{
			"hbase.table": "ns:t", "hbase.start": `a\x00`, "hbase.stop": "b", "hbase.from": "5", "hbase.to": "7", "hbase.versions": "2",
			"hbase.filter": "KeyOnlyFilter()", "hbase.raw": "true", "hbase.columns": `d:\xFF, e`,
		}},
	} {
		if diff := cmp.Diff(c.want, New(c.o).Describe()); diff != "" {
			t.Error(diff)
		}
	}
	for table, same := range map[string]bool{"t": true, "default:t": true, "{collection}": true, "{database}:{collection}": true, "t2": false, "ns:t": false} {
		if New(Options{Table: "default:t"}).Is(table) != same {
			t.Errorf("%s is the table: want %v", table, same)
		}
	}
}

// A sample comes from everywhere, in bounded calls.
func TestSample(t *testing.T) {
	for kind := range kinds {
		f := newFake(keysOf(kind, 50_000), 20)
		s := connect(f, Options{})
		l := plan(t, s, 8)
		f.calls = 0
		var at []int
		last := ""
		err := s.Sample(t.Context(), l, s.Name(), 1<<40, func(raw []byte) error {
			key := string(hbase.PackedRow(raw).Key())
			if key <= last {
				t.Fatalf("%s: row %q after %q", kind, key, last)
			}
			last = key
			at = append(at, f.find([]byte(key)))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		widest := len(f.rows) - at[len(at)-1]
		for i := 1; i < len(at); i++ {
			widest = max(widest, at[i]-at[i-1])
		}
		t.Logf("%-12s %5d rows, widest gap %5d, %d calls", kind, len(at), widest, f.calls)
		if len(at) > maxSample || len(at) < maxSample/2 || widest > len(f.rows)/8 || f.calls > samplePlaces {
			t.Errorf("%s: %d rows, the widest gap %d, %d calls", kind, len(at), widest, f.calls)
		}
		if err := s.Sample(t.Context(), l, s.Name(), 10, func([]byte) error { return context.Canceled }); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestRender(t *testing.T) {
	s := New(Options{Table: "t"})
	raw := hbase.AppendPacked(nil, hbase.Row{Key: []byte("k\x00"), Cells: []hbase.Cell{
		{Op: hbase.DeleteFamily, Family: []byte("d"), Timestamp: 9},
		{Family: []byte("d"), Qualifier: []byte{}, Timestamp: 5, Value: []byte("a\\\xff")},
		{Op: hbase.DeleteVersion, Family: []byte("d"), Qualifier: []byte("q"), Timestamp: 7},
	}})
	got, err := s.Render(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"key":"k\\x00","cells":[{"op":"delete family","family":"d","timestamp":9},{"family":"d","qualifier":"","timestamp":5,"value":"a\\x5C\\xFF"},{"op":"delete version","family":"d","qualifier":"q","timestamp":7}]}`
	if string(got) != want {
		t.Errorf("rendered as\n%s\nwant\n%s", got, want)
	}
	if _, err := s.Render(raw[:len(raw)-1]); err == nil {
		t.Error("half a row was rendered")
	}
}

// Pace is asked for all that is read.
func TestPace(t *testing.T) {
	f := newFake(keysOf("digits", 30_000), 60)
	s := New(Options{Table: "t"})
	rows, size := 0, 0
	var mu sync.Mutex // a plan asks for several reads at once
	s.Connect(Link{Cluster: f, Pace: func(_ context.Context, r, b int) error {
		mu.Lock()
		defer mu.Unlock()
		rows += r
		size += b
		return nil
	}})
	for _, shards := range []int{1, 60} { // what the end of one leaves over the next one uses
		l := plan(t, s, shards)
		rows, size = 0, 0
		read, bytes := 0, 0
		for _, sh := range l.Shards {
			err := readShard(t, s, l, sh, "", func(c *jobs.Chunk) bool {
				read += len(c.Docs)
				bytes += int(c.Stored)
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if read != 30_000 || rows < read-pageRows || rows > read+2*pageRows || size < bytes-2*pageBytes || size > bytes+4*pageBytes {
			t.Errorf("%d shards: waited for %d rows and %d bytes, read %d and %d", len(l.Shards), rows, size, read, bytes)
		}
	}
}
