package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/crashpoint"
	"drover/e2e/check"
	"drover/jobs/mongodump/dumpgen"
)

// lettersOf reads what `dead list` shows, by position, with what was replayed.
func lettersOf(t testing.TB, yaml string, args ...string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	list := drover(t, append([]string{"dead", "list", yaml, "--json"}, args...)...).must(t, 0)
	for line := range strings.Lines(list.stdout) {
		var l struct {
			Position string
			Replayed bool
		}
		must(t, json.Unmarshal([]byte(line), &l))
		if _, twice := out[l.Position]; twice {
			t.Errorf("the letter at %s is listed twice", l.Position)
		}
		out[l.Position] = l.Replayed
	}
	return out
}

// Dead letters in a table: listed, shown whole even where a document is larger than any cell, replayed, and counted in the books.
func TestLettersInATable(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	const n, missing, large = 200, 17, 120
	docs := make([]bson.D, n)
	for i := range docs {
		docs[i] = bson.D{{Key: "_id", Value: fmt.Sprintf("id%05d", i)}, {Key: "k", Value: fmt.Sprintf("k%05d", i)}, {Key: "v", Value: "v"}}
	}
	docs[missing] = bson.D{docs[missing][0], docs[missing][2]}
	docs[large][2].Value = strings.Repeat("0123456789", 12<<20/10)
	file, offsets := dumpOf(t, docs)
	with := func(mapping string) string {
		return spec{name: "tabled", source: file, mapping: mapping, gateways: f.addrs(), rest: `dead_letters: {max: unlimited, to: "hbase:drover_letters"}`}.file(t)
	}
	yaml := with("{key: k, family: d}")
	b := carry(t, yaml).ends(t, 3)
	if b.Dead != 2 || b.Written != n-2 {
		t.Fatalf("the books say %+v, want 2 dead of %d", b, n)
	}
	if _, err := os.Stat(filepath.Join(stateHome(t), "drover", "tabled", "letters")); !os.IsNotExist(err) {
		t.Errorf("the state folder has letters too: %v", err)
	}
	at := map[string]int{fmt.Sprint(offsets[missing]): missing, fmt.Sprint(offsets[large]): large}
	if got := lettersOf(t, yaml); len(got) != 2 {
		t.Errorf("letters %v, want those at %v", got, at)
	}
	for position, i := range at {
		show := drover(t, "dead", "show", yaml, "0", position).must(t, 0)
		var l struct{ Raw, Reason, Stage string }
		must(t, json.Unmarshal([]byte(show.stdout), &l))
		raw, err := base64.StdEncoding.DecodeString(l.Raw)
		must(t, err)
		want, err := bson.Marshal(docs[i])
		must(t, err)
		if string(raw) != string(want) || l.Reason == "" || l.Stage != "mapping" {
			t.Errorf("the letter at %s has %d bytes of %d, stage %s: %s", position, len(raw), len(want), l.Stage, l.Reason)
		}
	}
	drover(t, "dead", "show", yaml, "0", "1").must(t, 1)
	// Named, the run is found also from a host that has none of the job's state.
	elsewhere := t.TempDir()
	if got := lettersOf(t, yaml, "--state", elsewhere, "--run", b.Run); len(got) != 2 {
		t.Errorf("from elsewhere: letters %v, want those at %v", got, at)
	}
	drover(t, "dead", "list", yaml, "--state", elsewhere).must(t, 1)

	drover(t, "dead", "replay", yaml).must(t, 3)
	mended := with("{key: _id, family: d, columns: [{from: k, to: 'd:k'}, {from: _id, to: 'd:_id'}]}")
	drover(t, "dead", "replay", mended).must(t, 1)
	drover(t, "dead", "replay", mended, "--remap").must(t, 0)
	drover(t, "dead", "replay", mended, "--remap").must(t, 0)
	for position, replayed := range lettersOf(t, yaml) {
		if !replayed {
			t.Errorf("the letter at %s is not replayed", position)
		}
	}
	if again := carry(t, yaml).ends(t, 0); !again.Again || again.Run != b.Run || again.Dead != 0 || again.Written != n {
		t.Errorf("after the replay the books say %+v, want %d written and none dead", again, n)
	}
	if rows := f.rows(t, "tabled"); rows != n {
		t.Errorf("%d rows after the replay, want %d", rows, n)
	}
}

// rows counts a table's.
func (f *fleet) rows(t testing.TB, table string) int64 {
	t.Helper()
	v, err := check.CountVersions(t.Context(), f.table(table))
	must(t, err)
	return v.Rows
}

// Killed where letters are under way, the next run ends with each letter once, in one version.
func TestLettersInATableKilled(t *testing.T) {
	t.Parallel()
	r := seed(t)
	const corrupt = 9
	file := dump(t, dumpgen.Options{Profile: dumpgen.KB, Docs: 20_000, Seed: r.Uint64(), Corrupt: corrupt})
	f := newFleet(t, 3)
	for i, point := range []string{crashpoint.Acked + ":15", crashpoint.Written + ":1", crashpoint.Synced + ":1", crashpoint.BooksClose + ":1"} {
		name := fmt.Sprintf("lk%d", i)
		yaml := job(t, name, file, name, f.addrs(), fmt.Sprintf("dead_letters: {max: unlimited, to: 'hbase:letters%d'}", i), "limits: {rows: 200000}")
		if first := drover(t, "DROVER_CRASH="+point, "run", yaml, "--json"); first.signal != syscall.SIGKILL {
			t.Fatalf("%s: the step was not passed: exit %d\n%s", point, first.code, first.stderr)
		}
		b := carry(t, yaml).ends(t, 3)
		if b.Dead != corrupt {
			t.Errorf("%s: %d dead, want %d", point, b.Dead, corrupt)
		}
		f.equal(t, name, file, b.Timestamp, broken)
		if n := len(lettersOf(t, yaml)); n != corrupt {
			t.Errorf("%s: %d letters, want %d", point, n, corrupt)
		}
		v, err := check.CountVersions(t.Context(), f.table(fmt.Sprintf("letters%d", i)))
		must(t, err)
		if v.Cells != v.Columns || v.Rows != corrupt {
			t.Errorf("%s: %d rows of letters with %d cells in %d columns", point, v.Rows, v.Cells, v.Columns)
		}
	}
}

// A folder that workers share: what each process wrote is one set of letters, and a replay finds all of it.
func TestLettersInASharedFolder(t *testing.T) {
	t.Parallel()
	r := seed(t)
	const corrupt = 9
	file := dump(t, dumpgen.Options{Profile: dumpgen.KB, Docs: 20_000, Seed: r.Uint64(), Corrupt: corrupt})
	f := newFleet(t, 2)
	dir := filepath.Join(t.TempDir(), "letters")
	yaml := job(t, "shared", file, "shared", f.addrs(), fmt.Sprintf("dead_letters: {max: unlimited, to: %q, shared: true}", dir), "limits: {rows: 200000}")
	if first := drover(t, "DROVER_CRASH="+crashpoint.Letter+":1", "run", yaml, "--json"); first.signal != syscall.SIGKILL {
		t.Fatalf("no letter was synced: exit %d\n%s", first.code, first.stderr)
	}
	b := carry(t, yaml).ends(t, 3)
	if b.Dead != corrupt || len(lettersOf(t, yaml)) != corrupt {
		t.Errorf("%d dead and %d letters, want %d", b.Dead, len(lettersOf(t, yaml)), corrupt)
	}
	logs, err := filepath.Glob(filepath.Join(dir, b.Run, "*", "letters-000001.jsonl"))
	must(t, err)
	if len(logs) != 2 {
		t.Errorf("%d logs, want one of each process: %v", len(logs), logs)
	}
	drover(t, "dead", "replay", yaml).must(t, 3)
}
