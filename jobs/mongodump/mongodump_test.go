package mongodump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"

	"drover/jobs"
	"drover/jobs/mongodump/dumpgen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a bound that tests can look into.
type memory struct {
	mu         sync.Mutex
	bound      int
	held, peak int
	freed      chan struct{} // closed and replaced at each release
}

func newMemory(bound int) *memory { return &memory{bound: bound, freed: make(chan struct{})} }

func (m *memory) Acquire(ctx context.Context, n int) error {
	for {
		m.mu.Lock()
		if m.held == 0 || m.held+n <= m.bound {
			m.held += n
			m.peak = max(m.peak, m.held)
			m.mu.Unlock()
			return nil
		}
		freed := m.freed
		m.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) Adjust(delta int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held += delta
	m.peak = max(m.peak, m.held)
	close(m.freed)
	m.freed = make(chan struct{})
}

func (m *memory) balanced(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held != 0 {
		t.Errorf("%d bytes of memory are still held", m.held)
	}
}

// got is a document as read, with the cursors around it.
type got struct {
	collection string
	raw        string
	at, after  jobs.Cursor
}

// readShard reads a shard from a cursor to its end, or to an error.
func readShard(t *testing.T, s *Source, l jobs.Layout, sh jobs.Shard, from jobs.Cursor) ([]got, error) {
	t.Helper()
	m := newMemory(64 << 20)
	defer m.balanced(t)
	r, err := s.Open(t.Context(), m, l, sh, from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var docs []got
	for {
		c, err := r.Next(t.Context())
		if err == io.EOF {
			return docs, nil
		}
		if err != nil {
			return docs, err
		}
		if len(c.Docs) == 0 {
			t.Fatal("a chunk without documents")
		}
		for i, raw := range c.Docs {
			docs = append(docs, got{c.Database + "." + c.Collection, string(raw), c.At(i), c.At(i + 1)})
		}
		if c.Held < len(c.Docs[0]) {
			t.Errorf("only %d bytes are held for a chunk that starts with a document of %d", c.Held, len(c.Docs[0]))
		}
		c.Free()
	}
}

// readAll plans and reads everything, checking that the shards of each collection tile it.
func readAll(t *testing.T, path string, want int) (jobs.Layout, map[string][]string) {
	t.Helper()
	s := New(path)
	l, err := s.Plan(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	docs := make(map[string][]string)
	end := jobs.Cursor("")
	for i, sh := range l.Shards {
		if sh.N != i || sh.Start != end {
			t.Fatalf("shard %d: %+v after end %q", i, sh, end)
		}
		end = sh.End
		found, err := readShard(t, s, l, sh, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range found {
			docs[d.collection] = append(docs[d.collection], d.raw)
		}
	}
	if end != "" {
		t.Fatalf("the last shard ends at %q", end)
	}
	return l, docs
}

// naive is the tests' own reading of a .bson file.
func naive(b []byte) []string {
	var docs []string
	for len(b) > 0 {
		n := int(b[0]) | int(b[1])<<8 | int(b[2])<<16 | int(b[3])<<24
		docs = append(docs, string(b[:n]))
		b = b[n:]
	}
	return docs
}

func bytesOf(t *testing.T, o dumpgen.Options) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := dumpgen.Write(t.Context(), &buf, o); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// put writes a file in a folder named shop, and gives its path.
func put(t *testing.T, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "shop", name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func rewrite(t *testing.T, p string, b []byte) {
	t.Helper()
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func zip(t *testing.T, parts ...[]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	for _, b := range parts {
		z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// sample gives the folder of real dumps.
func sampleData(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
	data := filepath.Join(dir, "..", "shared", "data")
	if _, err := os.Stat(data); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the sample dumps are missing: %v; put mongodump folders there", err)
		}
		t.Skipf("the sample dumps are missing: %v", err)
	}
	return data
}

func TestRealDumps(t *testing.T) {
	data := sampleData(t)
	want := make(map[string][]string)
	files, err := filepath.Glob(filepath.Join(data, "*", "*.bson"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no .bson file in %s: %v", data, err)
	}
	for _, p := range files {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		ns := filepath.Base(filepath.Dir(p)) + "." + strings.TrimSuffix(filepath.Base(p), ".bson")
		want[ns] = naive(b)
		for _, path := range []string{p, put(t, "c.bson.gz", zip(t, b))} {
			_, docs := readAll(t, path, 4)
			if len(docs) != 1 {
				t.Fatalf("%s: %d collections", path, len(docs))
			}
			for _, found := range docs {
				if !slices.Equal(found, want[ns]) {
					t.Errorf("%s: %d documents, not the %d there are", path, len(found), len(want[ns]))
				}
			}
		}
	}
	l, docs := readAll(t, data, 4)
	if len(docs) != len(files) || len(l.Collections) != len(files) {
		t.Errorf("%d of %d collections read from the folder, %d planned", len(docs), len(files), len(l.Collections))
	}
	for ns := range want {
		if !slices.Equal(docs[ns], want[ns]) {
			t.Errorf("%s in the folder: %d documents, not %d", ns, len(docs[ns]), len(want[ns]))
		}
	}
}

func TestShards(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Profile: dumpgen.Every, Docs: 12_000, Seed: 1, ID: dumpgen.Mixed})
	all := naive(b)
	if len(b) < 4*shardBytes {
		t.Fatalf("only %d bytes generated", len(b))
	}
	p := put(t, "c.bson", b)
	for _, tt := range []struct{ want, shards int }{{0, 1}, {1, 1}, {2, 2}, {3, 3}, {1000, len(b) / shardBytes}} {
		l, docs := readAll(t, p, tt.want)
		if len(l.Shards) != tt.shards {
			t.Errorf("%d shards wanted of %d bytes: %d, not %d", tt.want, len(b), len(l.Shards), tt.shards)
		}
		if !slices.Equal(docs["shop.c"], all) {
			t.Errorf("%d shards: %d documents, not the %d there are", tt.want, len(docs["shop.c"]), len(all))
		}
		equal, sum := int64(len(b)/len(l.Shards)), int64(0)
		for _, sh := range l.Shards {
			sum += sh.Bytes
			if sh.Bytes < equal-(1<<20) || sh.Bytes > equal+(1<<20) {
				t.Errorf("%d shards: one of %d bytes, far from %d", tt.want, sh.Bytes, equal)
			}
		}
		if sum != int64(len(b)) {
			t.Errorf("the shards have %d of %d bytes", sum, len(b))
		}
	}
}

func TestLargeDocuments(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Profile: dumpgen.Big, Docs: 16, AvgBytes: 3 << 20, MaxBytes: 9_000_000})
	all := naive(b)
	if largest := len(slices.MaxFunc(all, func(x, y string) int { return len(x) - len(y) })); largest < 8<<20 {
		t.Fatalf("the largest document has only %d bytes", largest)
	}
	for name, b := range map[string][]byte{"c.bson": b, "c.bson.gz": zip(t, b)} {
		p := put(t, name, b)
		if _, docs := readAll(t, p, 100); !slices.Equal(docs["shop.c"], all) {
			t.Errorf("%s: %d documents of %d", name, len(docs["shop.c"]), len(all))
		}
	}
}

// TestResume reads on from random cursors.
func TestResume(t *testing.T) {
	plain := bytesOf(t, dumpgen.Options{Profile: dumpgen.Every, Docs: 10_000, Seed: 3})
	few := bytesOf(t, dumpgen.Options{Profile: dumpgen.Every, Docs: 1500, Seed: 3})
	for name, p := range map[string]string{
		"plain":   put(t, "c.bson", plain),
		"gzip":    put(t, "c.bson.gz", zip(t, few[:1000], few[1000:])),
		"archive": put(t, "dump.archive", archiveOf(t)),
		"both":    put(t, "dump.archive.gz", zip(t, archiveOf(t))),
	} {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			s := New(p)
			l, err := s.Plan(t.Context(), 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, sh := range l.Shards {
				all, err := readShard(t, s, l, sh, "")
				if err != nil {
					t.Fatal(err)
				}
				tries := []int{0, 1, len(all) - 1, len(all)}
				for range 5 {
					tries = append(tries, rnd.IntN(len(all)))
				}
				for _, k := range tries {
					var cursors []jobs.Cursor
					if k < len(all) {
						cursors = append(cursors, all[k].at)
					}
					if k > 0 {
						cursors = append(cursors, all[k-1].after)
					}
					for _, from := range cursors {
						rest, err := readShard(t, s, l, sh, from)
						if err != nil {
							t.Fatalf("from %s: %v", from, err)
						}
						if !slices.Equal(rest, all[k:]) {
							t.Fatalf("from %s: %d documents, not %d", from, len(rest), len(all)-k)
						}
					}
				}
				for _, from := range []jobs.Cursor{all[7].at + "x", "-1", cursorPlus(all[7].at, 1), "99999999999"} {
					rest, err := readShard(t, s, l, sh, from)
					if err == nil {
						t.Errorf("cursor %s: %d documents and no error", from, len(rest))
					} else if len(rest) > 0 {
						t.Errorf("cursor %s: %d documents before %v", from, len(rest), err)
					}
				}
			}
		})
	}
}

func cursorPlus(c jobs.Cursor, n int64) jobs.Cursor {
	off, _ := offsetOf(c, 0)
	return cursorAt(off + n)
}

// archiveOf has three interleaved collections, one that belongs to the server, and an empty one.
func archiveOf(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	_, err := dumpgen.Archive(t.Context(), &buf, []dumpgen.Collection{
		{Database: "shop", Name: "a", Options: dumpgen.Options{Profile: dumpgen.Every, Docs: 900}},
		{Database: "shop", Name: "b", Options: dumpgen.Options{Docs: 3000, Seed: 2}},
		{Database: "shop", Name: "system.views", Options: dumpgen.Options{Docs: 50, Seed: 3}},
		{Database: "other", Name: "a", Options: dumpgen.Options{Profile: dumpgen.Flat5, Docs: 5000, Seed: 4}},
		{Database: "other", Name: "none"},
	}, 40_000)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestArchive(t *testing.T) {
	b := archiveOf(t)
	for name, b := range map[string][]byte{"dump.archive": b, "dump": zip(t, b)} {
		l, docs := readAll(t, put(t, name, b), 10)
		if len(l.Shards) != 1 || len(docs) != 3 {
			t.Fatalf("%d shards, %d collections", len(l.Shards), len(docs))
		}
		for ns, o := range map[string]dumpgen.Options{
			"shop.a":  {Profile: dumpgen.Every, Docs: 900},
			"shop.b":  {Docs: 3000, Seed: 2},
			"other.a": {Profile: dumpgen.Flat5, Docs: 5000, Seed: 4},
		} {
			if !slices.Equal(docs[ns], naive(bytesOf(t, o))) {
				t.Errorf("%s: %s has %d documents of %d", name, ns, len(docs[ns]), o.Docs)
			}
		}
		want := []jobs.Collection{{Database: "shop", Name: "a"}, {Database: "shop", Name: "b"}, {Database: "other", Name: "a"}, {Database: "other", Name: "none"}}
		if !slices.Equal(l.Collections, want) {
			t.Errorf("collections %+v", l.Collections)
		}
	}
}

// broken reads everything that can be read, and gives the error at the end of it.
func broken(t *testing.T, p string, want int) ([]got, *jobs.BrokenError, error) {
	t.Helper()
	s := New(p)
	l, err := s.Plan(t.Context(), want)
	var docs []got
	for _, sh := range l.Shards {
		if err != nil {
			t.Fatalf("%v in a shard that is not the last", err)
		}
		var found []got
		found, err = readShard(t, s, l, sh, "")
		docs = append(docs, found...)
	}
	b, _ := errors.AsType[*jobs.BrokenError](err)
	return docs, b, err
}

func TestTruncatedAtEveryByte(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 3})
	all := naive(b)
	p := put(t, "c.bson", nil)
	for n := range b {
		whole, end := 0, 0
		for end+len(all[whole]) <= n {
			end += len(all[whole])
			whole++
		}
		rewrite(t, p, b[:n])
		docs, fault, err := broken(t, p, 1)
		if len(docs) != whole {
			t.Fatalf("cut at %d: %d documents, not %d", n, len(docs), whole)
		}
		if n == end {
			if err != nil {
				t.Fatalf("cut at %d, between documents: %v", n, err)
			}
			continue
		}
		if fault == nil || fault.Offset != int64(end) || !strings.Contains(fault.Reason, "truncated") {
			t.Fatalf("cut at %d in the document at %d: %v", n, end, err)
		}
	}
}

func TestGzipTruncatedAtEveryByte(t *testing.T) {
	z := zip(t, bytesOf(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 3}))
	p := put(t, "c.bson.gz", nil)
	for n := range z {
		rewrite(t, p, z[:n])
		_, fault, err := broken(t, p, 1)
		if fault == nil || !strings.Contains(fault.Reason, "truncated") {
			t.Fatalf("cut at %d of %d: %v", n, len(z), err)
		}
	}
}

func TestArchiveTruncated(t *testing.T) {
	var buf bytes.Buffer
	_, err := dumpgen.Archive(t.Context(), &buf, []dumpgen.Collection{
		{Database: "d", Name: "a", Options: dumpgen.Options{Profile: dumpgen.Flat5, Docs: 2}},
		{Database: "d", Name: "b", Options: dumpgen.Options{Profile: dumpgen.Flat5, Docs: 1}},
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	p := put(t, "x", nil)
	for n := 4; n < buf.Len(); n++ {
		if n%5 > 0 && n < buf.Len()-80 {
			continue
		}
		rewrite(t, p, buf.Bytes()[:n])
		if _, fault, err := broken(t, p, 1); fault == nil {
			t.Fatalf("cut at %d of %d: %v", n, buf.Len(), err)
		}
	}
}

func TestBrokenLengths(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Docs: 40_000})
	all := naive(b)
	at := 0
	for _, d := range all[:29_000] {
		at += len(d)
	}
	for i, tt := range []struct {
		length []byte
		reason string
	}{
		{[]byte{4, 0, 0, 0}, "document length 4 is below 5"},
		{[]byte{0xff, 0xff, 0xff, 0xff}, "document length -1 is below 5"},
		{[]byte{0, 0x50, 0, 1}, "document length 16797696 is above 16793600"},
		{[]byte{0, 0, 0xff, 0}, "truncated: a document of 16711680 bytes"},
	} {
		cut := append(slices.Clone(b[:at]), tt.length...)
		cut = append(cut, b[at+4:]...)
		files := map[string][]byte{"c.bson": cut}
		if i == 0 {
			files["c.bson.gz"] = zip(t, cut)
		}
		for name, b := range files {
			docs, fault, err := broken(t, put(t, name, b), 4)
			if len(docs) != 29_000 {
				t.Errorf("%s with %s: %d documents before the break, not 29000", name, tt.reason, len(docs))
			}
			if fault == nil || fault.Offset != int64(at) || !strings.Contains(fault.Reason, tt.reason) {
				t.Errorf("%s: %v, not %s at %d", name, err, tt.reason, at)
			}
		}
		// The shards before the break are as they would be, and the break is in the last.
		l, err := New(put(t, "c.bson", cut)).Plan(t.Context(), 4)
		if err != nil || len(l.Shards) != 3 {
			t.Errorf("%s: %d shards, %v", tt.reason, len(l.Shards), err)
		}
	}
}

func TestFlippedBytesAreFoundOrInsideDocuments(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{AvgBytes: 100, Docs: 50})
	p := put(t, "c.bson", nil)
	for i := 0; i < len(b); i += 13 {
		flipped := slices.Clone(b)
		flipped[i] ^= 0x40
		rewrite(t, p, flipped)
		docs, fault, err := broken(t, p, 1)
		if fault == nil && err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		n := 0
		for _, d := range docs {
			n += len(d.raw)
		}
		if fault == nil && n != len(b) || fault != nil && fault.Offset != int64(n) {
			t.Fatalf("byte %d: %d bytes read, then %v", i, n, err)
		}
	}
}

func TestGzipDamage(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Docs: 3000})
	z := zip(t, b)
	for _, tt := range []struct {
		name   string
		mend   func([]byte) []byte
		docs   int
		reason string
	}{
		{"checksum", func(z []byte) []byte { z[len(z)-8] ^= 1; return z }, 3000, "its checksum is another"},
		{"length", func(z []byte) []byte { z[len(z)-1] ^= 1; return z }, 3000, "its checksum is another"},
		{"garbage behind", func(z []byte) []byte { return append(z, "garbage behind it"...) }, 3000, "is not gzip"},
		{"second member cut", func(z []byte) []byte { return append(z, z[:len(z)/2]...) }, -1, "truncated: the compressed data ends early"},
	} {
		docs, fault, err := broken(t, put(t, "c.bson.gz", tt.mend(slices.Clone(z))), 1)
		if fault == nil || !strings.Contains(fault.Reason, tt.reason) {
			t.Errorf("%s: %v, not %s", tt.name, err, tt.reason)
		}
		if tt.docs >= 0 && len(docs) != tt.docs {
			t.Errorf("%s: %d documents, not %d", tt.name, len(docs), tt.docs)
		}
	}
}

func TestArchiveDamage(t *testing.T) {
	b := archiveOf(t)
	for _, tt := range []struct {
		name   string
		mend   func(b []byte) []byte
		reason string
	}{
		{"a byte in a document", func(b []byte) []byte {
			i := bytes.Index(b, []byte("about\x00"))
			b[i+50] ^= 1
			return b
		}, "do not have the checksum"},
		{"a block dropped", func(b []byte) []byte {
			// Between two headers of the same collection.
			header := []byte("\x02db\x00\x05\x00\x00\x00shop\x00\x02collection\x00\x02\x00\x00\x00b\x00\x08EOF\x00")
			i := bytes.Index(b, header)
			i += len(header) + bytes.Index(b[i+len(header):], header)
			end := i + bytes.Index(b[i:], []byte("\x00\xff\xff\xff\xff")) + 5
			return append(b[:i-4], b[end:]...)
		}, "do not have the checksum"},
		{"not the magic inside", func(b []byte) []byte { b[4] = 1; return b }, "document length"},
	} {
		_, fault, err := broken(t, put(t, "x.archive", tt.mend(slices.Clone(b))), 1)
		if fault == nil || !strings.Contains(fault.Reason, tt.reason) {
			t.Errorf("%s: %v, not %s", tt.name, err, tt.reason)
		}
	}
}

func TestChanged(t *testing.T) {
	old := bytesOf(t, dumpgen.Options{Docs: 40_000})
	half := len(old) / 2
	for _, tt := range []struct {
		name   string
		change func(p string) error
		says   string
	}{
		{
			"grown", func(p string) error { return os.WriteFile(p, append(slices.Clone(old), old[:99]...), 0o644) },
			fmt.Sprintf("size was %d, is %d", len(old), len(old)+99),
		},
		{"replaced", func(p string) error {
			return os.WriteFile(p, bytesOf(t, dumpgen.Options{Docs: 40_000, Seed: 5})[:len(old)], 0o644)
		}, "its first 65536 bytes are others"},
		{"tail", func(p string) error { return flip(p, int64(len(old)-100)) }, "its last 65536 bytes are others"},
		{"touched", func(string) error { return nil }, "only touched"},
		{"middle", func(p string) error {
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			l, err := New(p).Plan(t.Context(), 2)
			if err != nil {
				return err
			}
			at, _ := offsetOf(l.Shards[0].End, 0)
			if at < int64(half)-2000 || at > int64(half)+2000 {
				return fmt.Errorf("cut at %d of %d", at, len(old))
			}
			if err := flip(p, at+20); err != nil {
				return err
			}
			return os.Chtimes(p, time.Time{}, info.ModTime())
		}, "the document at offset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := put(t, "c.bson", old)
			past := time.Date(2024, 2, 3, 4, 5, 6, 789, time.UTC)
			if err := os.Chtimes(p, past, past); err != nil {
				t.Fatal(err)
			}
			s := New(p)
			l, err := s.Plan(t.Context(), 2)
			if err != nil || len(l.Shards) != 2 {
				t.Fatalf("%d shards, %v", len(l.Shards), err)
			}
			if err := tt.change(p); err != nil {
				t.Fatal(err)
			}
			if tt.name == "touched" {
				if err := os.Chtimes(p, past, past.Add(time.Nanosecond)); err != nil {
					t.Fatal(err)
				}
			}
			for what, err := range map[string]error{
				"check": s.Check(t.Context(), l),
				"open":  func() error { _, err := s.Open(t.Context(), newMemory(1), l, l.Shards[1], ""); return err }(),
			} {
				changed, ok := errors.AsType[*jobs.ChangedError](err)
				if !ok || !strings.Contains(changed.What, tt.says) || !strings.Contains(changed.What, p) {
					t.Errorf("%s: %v, not %s", what, err, tt.says)
				}
			}
		})
	}
}

func flip(p string, at int64) error {
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	return err
}

func TestMissing(t *testing.T) {
	p := put(t, "c.bson", bytesOf(t, dumpgen.Options{Docs: 10}))
	s := New(p)
	l, err := s.Plan(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
	_, planned := s.Plan(t.Context(), 1)
	_, opened := s.Open(t.Context(), newMemory(1), l, l.Shards[0], "")
	for what, err := range map[string]error{"plan": planned, "open": opened, "check": s.Check(t.Context(), l)} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), p) || !strings.Contains(err.Error(), "source.mongodump") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFolder(t *testing.T) {
	doc := bytesOf(t, dumpgen.Options{Docs: 1, AvgBytes: 1})
	root := t.TempDir()
	write := func(rel string, b []byte) {
		t.Helper()
		p := filepath.Join(root, rel)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("x", 208) + "%24" + strings.Repeat("h", 28)
	write("d1/a.bson", doc)
	write("d1/a.metadata.json", []byte("{}"))
	write("d2/a.bson.gz", zip(t, doc))
	write("d2/x%2Fy.bson", doc)
	write("d2/"+long+".bson", doc)
	write("d2/"+long+".metadata.json", []byte(`{"collectionName":"`+strings.Repeat("x", 240)+`"}`))
	write("d2/system.views.bson", doc)
	write("d2/system.buckets.t.bson", doc)
	write("d2/$admin.system.users.bson", doc)
	write("d2/empty.bson", nil)
	write("d2/oplog.bson", doc)
	write("d2/oplog.metadata.json", []byte("{}"))
	write("prelude.json", []byte("{}"))
	l, docs := readAll(t, root, 3)
	want := []string{"d1.a", "d2.a", "d2.oplog", "d2.system.buckets.t", "d2.x/y", "d2." + strings.Repeat("x", 240)}
	for _, ns := range want {
		if !slices.Equal(docs[ns], []string{string(doc)}) {
			t.Errorf("%s: %d documents", ns, len(docs[ns]))
		}
	}
	if len(docs) != len(want) || len(l.Collections) != len(want)+1 {
		t.Errorf("%d collections read, %d planned", len(docs), len(l.Collections))
	}

	write("d1/b.bson", doc)
	var changed *jobs.ChangedError
	if err := New(root).Check(t.Context(), l); !errors.As(err, &changed) || !strings.Contains(changed.What, "d1/b.bson: it was not there") {
		t.Errorf("a file more: %v", err)
	}
	for name, says := range map[string]string{"oplog.bson": "--oplog", "d2/a.bson": "both hold d2.a"} {
		write(name, doc)
		if _, err := New(root).Plan(t.Context(), 1); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("with %s: %v", name, err)
		}
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("d1/z.bson", archiveOf(t))
	if _, err := New(root).Plan(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "is an archive") {
		t.Errorf("with an archive: %v", err)
	}
	if err := os.Remove(filepath.Join(root, "d1/z.bson")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "d1"), filepath.Join(root, "d3")); err != nil {
		t.Fatal(err)
	}
	if _, err := New(root).Plan(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "is a link to a folder") {
		t.Errorf("with a link: %v", err)
	}
	if _, err := New(os.DevNull).Plan(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a device: %v", err)
	}
	if _, err := New(t.TempDir()).Plan(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "no .bson") {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestKinds(t *testing.T) {
	doc := bytesOf(t, dumpgen.Options{Docs: 1})
	// A document whose length is what gzip starts with.
	odd := make([]byte, 0x88b1f)
	copy(odd, "\x1f\x8b\x08\x00\x05a\x00\x11\x8b\x08\x00\x00")
	for _, tt := range []struct {
		name string
		b    []byte
		want kind
	}{
		{"a.bson", nil, plainKind},
		{"a.bson.gz", nil, gzipKind},
		{"a.bson.gz", doc, plainKind},
		{"a.bson", zip(t, doc), gzipKind},
		{"a.bson", zip(t, nil), gzipKind},
		{"a.bson", archiveOf(t), archiveKind},
		{"a.bson", zip(t, archiveOf(t)), gzipArchiveKind},
		{"a.bson", odd, plainKind},
		{"a", []byte{5}, plainKind},
	} {
		f, err := os.Open(put(t, tt.name, tt.b))
		if err != nil {
			t.Fatal(err)
		}
		is, err := kindOf(f)
		f.Close()
		if err != nil || is != tt.want {
			t.Errorf("%s of %d bytes: %q, %v, not %q", tt.name, len(tt.b), is, err, tt.want)
		}
	}
}

func TestSample(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Docs: 40_000, ID: dumpgen.Int})
	for _, tt := range []struct {
		name     string
		path     string
		n, want  int
		lastFrom int64 // the last document sampled is at least this one
	}{
		{"plain", put(t, "c.bson", b), 1000, 1000, 39_000},
		{"more than there are", put(t, "c.bson", b[:len(naive(b)[0])]), 10, 1, 0},
		{"gzip", put(t, "c.bson.gz", zip(t, b)), 1000, 1000, 999},
		{"none", put(t, "c.bson", nil), 10, 0, -1},
		{"broken", put(t, "c.bson", b[:len(b)-1]), 1000, 1000, 39_000},
	} {
		s := New(tt.path)
		l, err := s.Plan(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		n, last := 0, int64(-1)
		err = s.Sample(t.Context(), l, l.Collections[0], tt.n, func(raw []byte) error {
			n++
			id := int64(raw[9]) | int64(raw[10])<<8
			if id <= last {
				return fmt.Errorf("document %d after %d", id, last)
			}
			last = id
			return nil
		})
		if err != nil || n != tt.want || last < tt.lastFrom {
			t.Errorf("%s: %d documents, the last %d, %v", tt.name, n, last, err)
		}
	}
	s := New(put(t, "x.archive", archiveOf(t)))
	l, err := s.Plan(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range l.Collections {
		n := 0
		if err := s.Sample(t.Context(), l, c, 500, func([]byte) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		if want := 500; c.Name != "none" && n != want || c.Name == "none" && n != 0 {
			t.Errorf("%+v: %d documents", c, n)
		}
	}
	stop := errors.New("stop")
	if err := s.Sample(t.Context(), l, l.Collections[0], 5, func([]byte) error { return stop }); err != stop {
		t.Errorf("an error of the caller: %v", err)
	}
}

// TestMemoryBound reads documents of 9 MB in several shards at once within a bound that holds little more than one.
func TestMemoryBound(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Profile: dumpgen.Big, Docs: 24, AvgBytes: 4 << 20, MaxBytes: 9_000_000})
	s := New(put(t, "c.bson", b))
	l, err := s.Plan(t.Context(), 4)
	if err != nil || len(l.Shards) < 4 {
		t.Fatalf("%d shards, %v", len(l.Shards), err)
	}
	m := newMemory(40 << 20)
	var wg sync.WaitGroup
	read := make([]int64, len(l.Shards))
	for i, sh := range l.Shards {
		wg.Go(func() {
			r, err := s.Open(t.Context(), m, l, sh, "")
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			for {
				c, err := r.Next(t.Context())
				if err == io.EOF {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				for _, d := range c.Docs {
					read[i] += int64(len(d))
				}
				if i%2 == 0 { // as the runner does once it has encoded the chunk
					c.Held += 1000
					m.Adjust(1000)
				}
				c.Free()
			}
		})
	}
	wg.Wait()
	for i, sh := range l.Shards {
		if read[i] != sh.Bytes {
			t.Errorf("shard %d: %d of %d bytes", i, read[i], sh.Bytes)
		}
	}
	m.balanced(t)
	if m.peak > m.bound+len(l.Shards)*1000 {
		t.Errorf("%d bytes were held, above %d", m.peak, m.bound)
	}
	if m.peak < 24<<20 {
		t.Errorf("only %d bytes were held at most: the test does not reach the bound", m.peak)
	}
}

func TestCloseGivesBackWhatWasReadAhead(t *testing.T) {
	b := bytesOf(t, dumpgen.Options{Docs: 20_000})
	for name, b := range map[string][]byte{"c.bson": b, "c.bson.gz": zip(t, b)} {
		s := New(put(t, name, b))
		l, err := s.Plan(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		m := newMemory(7 << 20) // two chunks, so that the third waits
		r, err := s.Open(t.Context(), m, l, l.Shards[0], "")
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first := string(c.Docs[0])
		for range 2 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if string(c.Docs[0]) != first {
			t.Error("closing changed a chunk that was taken")
		}
		c.Free()
		m.balanced(t)
		if _, err := r.Next(t.Context()); err == nil {
			t.Error("a chunk after closing")
		}
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	s := New(put(t, "c.bson", bytesOf(t, dumpgen.Options{Docs: 10})))
	l, err := s.Plan(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory(1 << 20)
	if err := m.Acquire(t.Context(), 1<<20); err != nil { // so that the reader waits
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), m, l, l.Shards[0], "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next: %v", err)
	}
	m.Adjust(-1 << 20)
	c, err := r.Next(t.Context())
	if err != nil || len(c.Docs) != 10 {
		t.Fatalf("after memory is free: %v", err)
	}
	c.Free()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	m.balanced(t)
}

func TestDescribe(t *testing.T) {
	if got := New("/a/../b/./c.bson").Describe()["mongodump"]; got != "/b/c.bson" {
		t.Error(got)
	}
	if got := New("x").Describe()["mongodump"]; !filepath.IsAbs(got) {
		t.Error(got)
	}
}
