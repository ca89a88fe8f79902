package mongodump

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

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

// cpu is what the process has used so far, in seconds. On a machine that does other work too, it says more than the time.
func cpu(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// perCPU reports the bytes of all operations by CPU second, in millions.
func perCPU(b *testing.B, n int64, before float64) {
	b.Helper()
	b.ReportMetric(float64(n)*float64(b.N)/1e6/(cpu(b)-before), "MB/cpu-s")
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
			before := cpu(b)
			for b.Loop() {
				if _, err := s.Plan(b.Context(), 16); err != nil {
					b.Fatal(err)
				}
			}
			perCPU(b, n, before)
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
			before := cpu(b)
			for b.Loop() {
				if docs := drain(b, s, l); docs != bb.o.Docs {
					b.Fatalf("%d documents", docs)
				}
			}
			perCPU(b, n, before)
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
	stats, err := dumpgen.Archive(b.Context(), f, []dumpgen.Collection{{Database: "d", Name: "a", Options: o}, {Database: "d", Name: "b", Options: o}}, 16<<20)
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
	before := cpu(b)
	for b.Loop() {
		if docs := drain(b, s, l); docs != stats.Docs {
			b.Fatalf("%d documents", docs)
		}
	}
	perCPU(b, stats.Bytes, before)
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
