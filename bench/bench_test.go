package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(help(role, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// TestQuick goes through the parts that need no HBase, with small numbers and nothing judged. The others need minutes: they
// run with make bench.
func TestQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("builds drover and runs it: not with -short")
	}
	report := filepath.Join(t.TempDir(), "report.md")
	var out, log bytes.Buffer
	if code := run(t.Context(), []string{"-quick", "-parts", "b,d,e", "-out", report}, &out, &log); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, &out, &log)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## b. ", "## d. ", "## e. ", "| ratio | ", "| 2 runs on one table | "} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	t.Logf("%s", &out)
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-parts", "x"}, {"-pairs", "0"}, {"-nonsense"}} {
		if code := run(t.Context(), args, &bytes.Buffer{}, &bytes.Buffer{}); code != 64 {
			t.Errorf("%q: exit code %d, want 64", args, code)
		}
	}
}

// TestLoopEncodesTheSame compares the bare loop's rows, written by hand, with the generated code's.
func TestLoopEncodesTheSame(t *testing.T) {
	g, err := dumpgen.New(dumpgen.Options{Profile: dumpgen.Flat5, Seed: 7, Docs: 50})
	if err != nil {
		t.Fatal(err)
	}
	for g.More() {
		doc := g.Append(nil)
		var l loop
		if err := l.row(doc); err != nil {
			t.Fatal(err)
		}
		put, err := putOf(doc, loopTimestamp)
		if err != nil {
			t.Fatal(err)
		}
		buf := thrift.NewTMemoryBuffer()
		if err := put.Write(t.Context(), thrift.NewTBinaryProtocolConf(buf, nil)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(l.out, buf.Bytes()) {
			t.Fatalf("document %x:\nby hand   %x\ngenerated %x", doc, l.out, buf.Bytes())
		}
	}
}

// TestFramesAreCalls reads a frame back with the generated code.
func TestFramesAreCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kb.bson")
	if _, err := dumpgen.File(t.Context(), path, dumpgen.Options{Profile: dumpgen.KB, Docs: 25}); err != nil {
		t.Fatal(err)
	}
	e, err := encode(t.Context(), path, 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range orders {
		rows := map[string]bool{}
		for _, f := range frames(e, "some", shape{10, 2, o}) {
			buf := thrift.NewTMemoryBuffer()
			buf.Write(f)
			proto := thrift.NewTBinaryProtocolConf(buf, nil)
			name, kind, _, err := proto.ReadMessageBegin(t.Context())
			if err != nil || name != "putMultiple" || kind != thrift.CALL {
				t.Fatalf("%s: message %q of type %d, %v", o, name, kind, err)
			}
			var args thrift2.THBaseServicePutMultipleArgs
			if err := args.Read(t.Context(), proto); err != nil {
				t.Fatal(err)
			}
			if string(args.Table) != "some" || buf.Len() > 0 {
				t.Fatalf("%s: table %q, %d bytes follow", o, args.Table, buf.Len())
			}
			for _, p := range args.Tputs {
				rows[string(p.Row)] = true
			}
		}
		if len(rows) != 25 {
			t.Errorf("%s: %d rows, want 25", o, len(rows))
		}
	}
}

func TestWindowOf(t *testing.T) {
	at := func(s float64) int64 { return int64(s * 1e9) }
	w := windowOf([]arrival{{at(1.999), 30}, {at(1), 10}, {at(1.5), 20}, {at(2), 40}, {at(5), 5}}, time.Second)
	want := window{rows: 105, batch: 40, most: 90, span: 4 * time.Second, mean: 95.0 / 4}
	if w != want {
		t.Errorf("got %+v, want %+v", w, want)
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{4, 1}, spread{1, 2.5, 4}},
		{[]float64{9, 1, 4}, spread{1, 4, 9}},
	} {
		if got := spreadOf(c.v); got != c.want {
			t.Errorf("%v: got %v, want %v", c.v, got, c.want)
		}
	}
}
