package mongodump

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"drover/jobs"
	"drover/jobs/mongodump/dumpgen"
)

// endless is memory without a bound.
type endless struct{}

func (endless) Acquire(context.Context, int) error { return nil }
func (endless) Adjust(int)                         {}

func benchFile(b *testing.B, name string, o dumpgen.Options) (*Source, int64) {
	b.Helper()
	p := filepath.Join(b.TempDir(), name)
	stats, err := dumpgen.File(b.Context(), p, o)
	if err != nil {
		b.Fatal(err)
	}
	return New(p), stats.Bytes
}

func BenchmarkPlan(b *testing.B) {
	for _, p := range dumpgen.Profiles {
		b.Run(string(p), func(b *testing.B) {
			o := dumpgen.Options{Profile: p, Docs: 200_000}
			if p == dumpgen.Big {
				o.Docs = 800
			}
			s, n := benchFile(b, "c.bson", o)
			b.SetBytes(n)
			b.ResetTimer()
			for b.Loop() {
				if _, err := s.Plan(b.Context(), 16); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRead reads a whole cached file as one shard; an operation is the file.
func BenchmarkRead(b *testing.B) {
	for _, bb := range []struct {
		name string
		file string
		o    dumpgen.Options
	}{
		{"flat5", "c.bson", dumpgen.Options{Profile: dumpgen.Flat5, Docs: 400_000}},
		{"kb", "c.bson", dumpgen.Options{Profile: dumpgen.KB, Docs: 200_000}},
		{"big", "c.bson", dumpgen.Options{Profile: dumpgen.Big, Docs: 800}},
		{"kb.gz", "c.bson.gz", dumpgen.Options{Profile: dumpgen.KB, Docs: 60_000}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s, n := benchFile(b, bb.file, bb.o)
			l, err := s.Plan(b.Context(), 1)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(n)
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if docs := drain(b, s, l); docs != bb.o.Docs {
					b.Fatalf("%d documents", docs)
				}
			}
		})
	}
}

func BenchmarkReadArchive(b *testing.B) {
	p := filepath.Join(b.TempDir(), "dump.archive")
	f, err := os.Create(p)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	o := dumpgen.Options{Docs: 100_000}
	stats, err := dumpgen.Archive(b.Context(), f, []dumpgen.Collection{{"d", "a", o}, {"d", "b", o}}, 16<<20)
	if err != nil {
		b.Fatal(err)
	}
	s := New(p)
	l, err := s.Plan(b.Context(), 1)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(stats.Bytes)
	b.ReportAllocs()
	for b.Loop() {
		if docs := drain(b, s, l); docs != stats.Docs {
			b.Fatalf("%d documents", docs)
		}
	}
}

func drain(b *testing.B, s *Source, l jobs.Layout) (docs int64) {
	b.Helper()
	for _, sh := range l.Shards {
		r, err := s.Open(b.Context(), endless{}, l, sh, "")
		if err != nil {
			b.Fatal(err)
		}
		for {
			c, err := r.Next(b.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			docs += int64(len(c.Docs))
			c.Free()
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return docs
}
