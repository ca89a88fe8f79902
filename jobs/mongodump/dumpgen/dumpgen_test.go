package dumpgen

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// split cuts a file into its documents.
func split(t *testing.T, b []byte) []bson.Raw {
	t.Helper()
	var docs []bson.Raw
	for len(b) > 0 {
		n := int(b[0]) | int(b[1])<<8 | int(b[2])<<16 | int(b[3])<<24
		if n < 5 || n > len(b) {
			t.Fatalf("document %d: length %d of %d", len(docs), n, len(b))
		}
		docs = append(docs, bson.Raw(b[:n]))
		b = b[n:]
	}
	return docs
}

func generate(t *testing.T, o Options) ([]byte, Stats) {
	t.Helper()
	var buf bytes.Buffer
	stats, err := Write(t.Context(), &buf, o)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Bytes != int64(buf.Len()) || stats.Docs != o.Docs {
		t.Fatalf("stats %+v for %d bytes", stats, buf.Len())
	}
	return buf.Bytes(), stats
}

func TestEveryDocumentIsValid(t *testing.T) {
	for _, p := range Profiles {
		for _, id := range IDs {
			for _, skew := range []bool{false, true} {
				t.Run(fmt.Sprint(p, id, skew), func(t *testing.T) {
					o := Options{Profile: p, ID: id, Skew: skew, Seed: 7, Docs: 300}
					if p == Big {
						o.AvgBytes = 20_000
					}
					b, _ := generate(t, o)
					ids := make(map[string]bool)
					for i, raw := range split(t, b) {
						if err := raw.Validate(); err != nil {
							t.Fatalf("document %d: %v", i, err)
						}
						ids[raw.Lookup("_id").String()] = true
					}
					if len(ids) != 300 {
						t.Fatalf("%d different ids of 300", len(ids))
					}
				})
			}
		}
	}
}

func TestSameOptionsSameBytes(t *testing.T) {
	o := Options{Profile: Every, ID: Mixed, Seed: 42, Docs: 2000, Corrupt: 3}
	a, _ := generate(t, o)
	b, _ := generate(t, o)
	if !bytes.Equal(a, b) {
		t.Error("the same options gave other bytes")
	}
	o.Seed++
	if c, _ := generate(t, o); bytes.Equal(a, c) {
		t.Error("another seed gave the same bytes")
	}
}

func TestEveryHasEveryType(t *testing.T) {
	b, _ := generate(t, Options{Profile: Every, Docs: 200})
	seen := make(map[bson.Type]int)
	for _, raw := range split(t, b) {
		elements, err := raw.Elements()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range elements {
			seen[e.Value().Type]++
		}
	}
	for _, k := range []bson.Type{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 0x7f, 0xff} {
		if seen[k] < 200 {
			t.Errorf("type %s: %d times in 200 documents", k, seen[k])
		}
	}
}

func TestFlat5Is200Bytes(t *testing.T) {
	for _, id := range IDs {
		b, _ := generate(t, Options{Profile: Flat5, ID: id, Docs: 100})
		for _, raw := range split(t, b) {
			elements, _ := raw.Elements()
			n := 0
			for _, e := range elements {
				if v := e.Value(); v.Type == bson.TypeString {
					n += len(v.StringValue())
				} else {
					n += len(v.Value)
				}
			}
			if len(elements) != 5 || n != 200 {
				t.Fatalf("id %s: %d fields of %d bytes: %s", id, len(elements), n, raw)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for _, tt := range []struct {
		o        Options
		min, max int64 // of the average
	}{
		{Options{Profile: KB, Docs: 5000}, 980, 1020},
		{Options{Profile: KB, AvgBytes: 400, Docs: 5000}, 390, 410},
		{Options{Profile: KB, Skew: true, Docs: 20000}, 700, 1500},
		{Options{Profile: Every, Docs: 20000}, 1800, 3500},
		{Options{Profile: Big, Docs: 1500}, 120 << 10, 500 << 10},
	} {
		g, err := New(tt.o)
		if err != nil {
			t.Fatal(err)
		}
		var buf []byte
		for g.More() {
			buf = g.Append(buf[:0])
			if tt.o.Profile == Big && len(buf) > maxPayload+200 {
				t.Fatalf("a document of %d bytes", len(buf))
			}
		}
		if avg := g.Stats().Bytes / g.Stats().Docs; avg < tt.min || avg > tt.max {
			t.Errorf("%+v: %d bytes on average, not within %d and %d", tt.o, avg, tt.min, tt.max)
		}
	}
}

func TestCorruptDocuments(t *testing.T) {
	for _, p := range Profiles {
		b, stats := generate(t, Options{Profile: p, AvgBytes: 600, Docs: 1000, Corrupt: 37})
		bad := 0
		for _, raw := range split(t, b) {
			if raw.Validate() != nil {
				bad++
			}
		}
		if bad != 37 || stats.Corrupt != 37 {
			t.Errorf("%s: %d invalid documents, %d in the stats, not 37", p, bad, stats.Corrupt)
		}
	}
}

func TestValidate(t *testing.T) {
	err := Options{Profile: "x", ID: "y", Docs: -1, AvgBytes: -1, MaxBytes: 1 << 30, Corrupt: 1}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 6 {
		t.Errorf("%d faults, not 6:\n%v", got, err)
	}
	if err := (Options{}).Validate(); err != nil {
		t.Errorf("the zero value: %v", err)
	}
}

func TestFile(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "shop")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	o := Options{Docs: 500}
	want, _ := generate(t, o)
	for _, name := range []string{"a.bson", "b.bson.gz"} {
		if _, err := File(t.Context(), filepath.Join(folder, name), o); err != nil {
			t.Fatal(err)
		}
	}
	a, err := os.ReadFile(filepath.Join(folder, "a.bson"))
	if err != nil || !bytes.Equal(a, want) {
		t.Errorf("a.bson: %d bytes, %v", len(a), err)
	}
	meta, err := os.ReadFile(filepath.Join(folder, "a.metadata.json"))
	if err != nil || !strings.Contains(string(meta), `"ns":"shop.a"`) {
		t.Errorf("metadata %s, %v", meta, err)
	}
	if b := unzip(t, filepath.Join(folder, "b.bson.gz")); !bytes.Equal(b, want) {
		t.Errorf("b.bson.gz has %d bytes inside", len(b))
	}
	unzip(t, filepath.Join(folder, "b.metadata.json.gz"))
}

func unzip(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWriteStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	stats, err := Write(ctx, io.Discard, Options{Docs: 1 << 40})
	if err != context.Canceled || stats.Docs > 10000 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, p := range Profiles {
		b.Run(string(p), func(b *testing.B) {
			b.ReportAllocs()
			stats, err := Write(b.Context(), io.Discard, Options{Profile: p, Docs: int64(b.N)})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(stats.Bytes / stats.Docs)
		})
	}
}
