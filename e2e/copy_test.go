package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/e2e/check"
	"drover/e2e/stack"
	"drover/hbase/gateway"
)

// copyCase is a dump file, the map section of a job and what the checker makes of the same section.
type copyCase struct {
	name    string
	file    string
	section string // lines of `map:`, indented by two
	mapping check.Mapping
}

// copyCases are all sample files with the default mapping, and a generated file of every BSON type under each encoding.
func copyCases(t *testing.T) []copyCase {
	t.Helper()
	var cases []copyCase
	for _, file := range sampleData(t) {
		cases = append(cases, copyCase{name: filepath.Base(file), file: file})
	}
	every := generate(t, "-profile=every", fmt.Sprintf("-docs=%d", scaled(20000, 2000)))
	for _, e := range []string{"bytes", "bson", "json"} {
		cases = append(cases, copyCase{
			name: "every type as " + e, file: every, section: "  encoding: " + e + "\n",
			mapping: check.Mapping{Encoding: e},
		})
	}
	return append(cases,
		copyCase{
			name: "mixed keys as bson", file: generate(t, "-profile=kb", "-id=mixed", fmt.Sprintf("-docs=%d", scaled(20000, 2000))),
			section: "  key_encoding: bson\n", mapping: check.Mapping{KeyEncoding: "bson"},
		},
		copyCase{
			name: "columns and the whole document", file: sampleNamed(t, "theaters.bson"),
			section: `  key: theaterId
  timestamp: _id
  document: d:_doc
  columns:
    - {from: location.address.city, to: "d:city", encoding: json}
    - {from: location.geo.coordinates.0, to: "d:long"}
    - {from: location.geo, to: "d:geo"}
    - {from: theaterId, to: "d:id", encoding: bson}
    - {from: location.address.street2, to: "d:street2"}
`,
			mapping: check.Mapping{
				Key: "theaterId", TimestampFrom: "_id", Document: "d:_doc",
				Columns: []check.Column{
					{From: "location.address.city", To: "d:city", Encoding: "json"},
					{From: "location.geo.coordinates.0", To: "d:long"},
					{From: "location.geo", To: "d:geo"},
					{From: "theaterId", To: "d:id", Encoding: "bson"},
					{From: "location.address.street2", To: "d:street2"},
				},
			},
		})
}

func sampleNamed(t *testing.T, name string) string {
	t.Helper()
	for _, f := range sampleData(t) {
		if filepath.Base(f) == name {
			return f
		}
	}
	t.Fatalf("the sample data has no %s", name)
	return ""
}

// generate makes a dump file with the real binary's `gen`.
func generate(t testing.TB, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gen.bson")
	all := []string{"gen"}
	for _, a := range args {
		all = append(all, "-"+a)
	}
	drover(t, append(all, file)...).must(t, 0)
	return file
}

// copyJob is a job file that copies one dump file to a new table.
func copyJob(file, table string, addrs []string, section string) string {
	return fmt.Sprintf(`name: copy
source:
  mongodump: %s
target:
  table: %s
  create: true
  regions: 6
  families: {d: {versions: 5}}
map:
  family: d
%sgateways: {static: ["%s"]}
`, file, table, section, strings.Join(addrs, `", "`))
}

// copyTwice runs a job, compares the table, then runs the same plan with its checkpoints deleted, and finds nothing added.
func copyTwice(t *testing.T, c copyCase, table string, addrs []string) {
	t.Helper()
	job := jobFile(t, copyJob(c.file, table, addrs, c.section))
	state := t.TempDir()
	at := check.Table{Addr: addrs[0], Name: table}
	var first books
	for _, pass := range []string{"first", "again"} {
		b := drover(t, "run", "--json", "--state", state, job).must(t, 0).json
		b.close(t)
		if first.Run == "" {
			first = b
		}
		if b.State != "done" || b.Again || b.Run != first.Run || b.Rows != b.Written || b.Timestamp == 0 {
			t.Errorf("%s run ended with %+v, want the done run %s", pass, b, first.Run)
		}
		m := c.mapping
		m.Timestamp = b.Timestamp
		rep, err := check.Equal(t.Context(), at, check.Source{Path: c.file}, m)
		must(t, err)
		if err := rep.Err(); err != nil {
			t.Fatalf("%s run: %v", pass, err)
		}
		if rep.Rows != b.Rows || rep.Cells != b.Cells || rep.Documents != b.Read {
			t.Errorf("%s run: the books say %+v, the table %v", pass, b, rep)
		}
		v, err := check.CountVersions(t.Context(), at)
		must(t, err)
		if v.Cells != v.Columns || v.Cells != rep.Cells || v.Deletes != 0 {
			t.Errorf("%s run: a raw scan finds %+v beside %v", pass, v, rep)
		}
		for _, name := range []string{"checkpoint*", "result*"} {
			files, err := filepath.Glob(filepath.Join(state, "copy", "runs", b.Run, name))
			must(t, err)
			if len(files) == 0 && pass == "first" {
				t.Fatalf("no %s in the state folder of run %s: nothing to delete, so nothing is shown", name, b.Run)
			}
			for _, f := range files {
				must(t, os.Remove(f))
			}
		}
	}
	t.Logf("%d rows, %d cells, twice", first.Rows, first.Cells)
}

// TestCopy copies through an embedded gateway: what HBase itself is not needed for.
func TestCopy(t *testing.T) {
	t.Parallel()
	g, err := gateway.Open(gateway.Options{})
	must(t, err)
	defer func() { must(t, g.Close()) }()
	for i, c := range copyCases(t) {
		t.Run(c.name, func(t *testing.T) { copyTwice(t, c, fmt.Sprintf("copy%d", i), []string{g.Addr()}) })
	}
}

// TestCopyToHBase copies into real HBase through three gateways.
func TestCopyToHBase(t *testing.T) {
	t.Parallel()
	s := stack.Shared(t)
	for _, c := range copyCases(t) {
		t.Run(c.name, func(t *testing.T) { copyTwice(t, c, newTable(t, s), s.Addrs()) })
	}
}
