package e2e

import (
	"bytes"
	"context"
	endian "encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/e2e/check"
	"drover/hbase/gateway"
	"drover/jobs/mongodump/dumpgen"
)

// fleet is embedded gateways before one store: a small HBase that a test can break, and that tells what it saw.
type fleet struct {
	servers []*gateway.Server
	close   func() // before the test's end, where each of many has a lot in memory

	mu   sync.Mutex
	seen map[string]int // row key to how often it was applied
}

func newFleet(t testing.TB, n int) *fleet {
	t.Helper()
	store, err := gateway.OpenStore("")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{seen: map[string]int{}}
	for range n {
		s, err := gateway.Open(gateway.Options{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		s.Faults().Observe(func(_ string, key []byte, _ int) {
			f.mu.Lock()
			f.seen[string(key)]++
			f.mu.Unlock()
		})
		f.servers = append(f.servers, s)
	}
	f.close = sync.OnceFunc(func() {
		for _, s := range f.servers {
			s.Close()
		}
		store.Close()
		f.servers, store = nil, nil // the test's end still knows f
	})
	t.Cleanup(func() { f.close() })
	return f
}

// addrs are the gateways' addresses as a job file has them, and list is each.
func (f *fleet) addrs() string { return flow(f.list()) }

func (f *fleet) list() (addrs []string) {
	for _, s := range f.servers {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

// flow writes a list into a job file.
func flow(list []string) string {
	var out []string
	for _, x := range list {
		out = append(out, strconv.Quote(x))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// take gives what was seen since the last call.
func (f *fleet) take() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen
	f.seen = map[string]int{}
	return seen
}

// table is one as the first gateway shows it.
func (f *fleet) table(name string) check.Table {
	return check.Table{Addr: f.servers[0].Addr(), Name: name}
}

// equal fails the test unless the table is what the file maps to, every cell in one version.
func (f *fleet) equal(t testing.TB, table, file string, timestamp int64, omit func(bson.Raw) bool) {
	t.Helper()
	r, err := check.Equal(context.Background(), f.table(table), check.Source{Path: file}, check.Mapping{Timestamp: timestamp, Omit: omit})
	if err != nil {
		t.Fatalf("check %s: %v", table, err)
	}
	if err := r.Err(); err != nil {
		t.Errorf("%s is not what %s maps to: %v", table, filepath.Base(file), err)
	}
	v, err := check.CountVersions(context.Background(), f.table(table))
	if err != nil {
		t.Fatalf("count versions of %s: %v", table, err)
	}
	if v.Cells != v.Columns || v.Deletes != 0 {
		t.Errorf("%s has %d cells in %d columns, %d delete markers: %v", table, v.Cells, v.Columns, v.Deletes, v.Several)
	}
}

// dump makes a dump file and gives its path.
func dump(t testing.TB, o dumpgen.Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "db")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "c.bson")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dumpgen.Write(context.Background(), file, o); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// job is a job file of the default mapping. extra is more YAML at the top level.
func job(t testing.TB, name, source, table, gateways string, extra ...string) string {
	t.Helper()
	return jobFile(t, fmt.Sprintf(`name: %s
source: {mongodump: %s}
target: {table: %s, create: true, regions: 4, families: {d: {versions: 5}}}
map: {key: _id, family: d}
gateways: {static: %s, outage_limit: 2m}
%s
`, name, source, table, gateways, strings.Join(extra, "\n")))
}

// document is where one stands in a file.
type document struct {
	offset int64
	key    string
	broken bool
}

// documents reads a plain file's, with their row keys under the default mapping.
func documents(t testing.TB, path string) []document {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []document
	for at := int64(0); at < int64(len(data)); {
		n := int64(endian.LittleEndian.Uint32(data[at:]))
		raw := bson.Raw(data[at : at+n])
		d := document{offset: at, broken: raw.Validate() != nil}
		if !d.broken {
			id := raw.Lookup("_id").ObjectID()
			d.key = string(id[:])
		}
		out = append(out, d)
		at += n
	}
	return out
}

// state reads what a state folder says of a job's run: its shards, and how far each is settled.
type state struct {
	dir    string
	shards []shardState
}

type shardState struct {
	n          int
	start, end int64 // offsets; end is 1<<62 for the file's
	mark       int64 // settled below
}

func readState(t testing.TB, home, name string) (state, bool) {
	t.Helper()
	var s state
	var rec struct {
		Run string `json:"run"`
	}
	folder := filepath.Join(home, "drover", name)
	if !readRecord(t, filepath.Join(folder, "job"), &rec) {
		return s, false
	}
	s.dir = filepath.Join(folder, "runs", rec.Run)
	var plan struct {
		Layout struct {
			Shards []struct {
				N          int `json:"n"`
				Start, End string
			} `json:"shards"`
		} `json:"layout"`
	}
	if !readRecord(t, filepath.Join(s.dir, "plan"), &plan) {
		return s, false
	}
	number := func(text string, def int64) int64 {
		if text == "" {
			return def
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatalf("cursor %q: %v", text, err)
		}
		return n
	}
	for _, p := range plan.Layout.Shards {
		start := number(p.Start, 0)
		s.shards = append(s.shards, shardState{n: p.N, start: start, end: number(p.End, 1<<62), mark: start})
	}
	var saved struct {
		Shards []struct {
			Shard  int    `json:"shard"`
			Cursor string `json:"cursor"`
		} `json:"shards"`
	}
	if readRecord(t, filepath.Join(s.dir, "checkpoint"), &saved) {
		for _, c := range saved.Shards {
			i := slices.IndexFunc(s.shards, func(x shardState) bool { return x.n == c.Shard })
			s.shards[i].mark = number(c.Cursor, s.shards[i].start)
		}
	}
	return s, true
}

// settled tells whether the saved watermark of its shard is behind a document.
func (s state) settled(offset int64) bool {
	for _, x := range s.shards {
		if offset >= x.start && offset < x.end {
			return offset < x.mark
		}
	}
	panic(fmt.Sprintf("no shard holds offset %d", offset))
}

// readRecord reads a record's payload, of the generation before if the newest has no name yet, as a crash between two renames
// leaves it.
func readRecord(t testing.TB, path string, v any) bool {
	t.Helper()
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		data, err = os.ReadFile(path + ".prev")
	}
	if os.IsNotExist(err) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	_, payload, _ := bytes.Cut(data, []byte("\n"))
	if err := json.Unmarshal(payload, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return true
}

// twice checks what a resumed run put: exactly the rows beyond the saved watermark, so that what the gateways saw twice is
// what they had seen beyond it.
func twice(t testing.TB, what string, docs []document, saved state, known bool, first, second map[string]int) (again int) {
	t.Helper()
	missing, needless := 0, 0
	for _, d := range docs {
		if d.broken {
			continue
		}
		due := !known || !saved.settled(d.offset)
		got := second[d.key] > 0
		switch {
		case due && !got:
			missing++
		case !due && got:
			needless++
		}
		if !due && first[d.key] == 0 {
			t.Errorf("%s: the saved watermark covers the document at %d, which no gateway ever saw", what, d.offset)
			return again
		}
		if got && first[d.key] > 0 {
			again++
		}
	}
	if missing > 0 || needless > 0 {
		t.Errorf("%s: the resumed run left out %d rows beyond the saved watermark and put %d again that were behind it", what, missing, needless)
	}
	return again
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }
