package e2e

import (
	"bufio"
	"bytes"
	"context"
	endian "encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"drover/e2e/check"
	"drover/e2e/stack"
	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

// What is shown of copies from table to table. Tables are written and compared with the generated client alone.

// caller makes a call through some gateway.
type caller func(func(context.Context, *thrift2.THBaseServiceClient) error) error

func (f *fleet) caller() caller {
	return func(call func(context.Context, *thrift2.THBaseServiceClient) error) error {
		return wire.Call(context.Background(), f.servers[0].Addr(), wire.Protocol{}, call)
	}
}

// tableOf makes a table with families that keep five versions.
func tableOf(t testing.TB, call caller, name string, splits [][]byte, families ...string) {
	t.Helper()
	d := &thrift2.TTableDescriptor{TableName: &thrift2.TTableName{Qualifier: []byte(name)}}
	versions := int32(5)
	for _, f := range families {
		d.Columns = append(d.Columns, &thrift2.TColumnFamilyDescriptor{Name: []byte(f), MaxVersions: &versions})
	}
	must(t, call(func(ctx context.Context, c *thrift2.THBaseServiceClient) error { return c.CreateTable(ctx, d, splits) }))
}

// rowKeyOf is the key of the i-th row: text, digits and bytes of every kind.
func rowKeyOf(i int) []byte {
	switch i % 3 {
	case 0:
		return fmt.Appendf(nil, "user-%07d", i)
	case 1:
		return endian.BigEndian.AppendUint64([]byte{0, 0xff}, uint64(i)*0x9e3779b97f4a7c15)
	}
	return fmt.Appendf(nil, "%08x\x00\\end", uint32(i)*2654435761)
}

// fillTable writes rows [from, to), three versions of a few columns each, with timestamps from the past. With deletes, some
// cells, columns and families are deleted again.
func fillTable(t testing.TB, call caller, table string, r *rand.Rand, from, to int, deletes bool) {
	t.Helper()
	const atOnce = 500
	for ; from < to; from += atOnce {
		var puts []*thrift2.TPut
		var dels []*thrift2.TDelete
		for i := from; i < min(to, from+atOnce); i++ {
			key := rowKeyOf(i)
			put := &thrift2.TPut{Row: key}
			for version := range int64(3) {
				ts := 1000 + 1000*version + int64(i%7)
				add := func(family, qualifier string, value []byte) {
					put.ColumnValues = append(put.ColumnValues, &thrift2.TColumnValue{
						Family: []byte(family), Qualifier: []byte(qualifier), Value: value, Timestamp: &ts,
					})
				}
				value := make([]byte, r.IntN(60))
				for j := range value {
					value[j] = byte(r.Uint32())
				}
				add("a", "name", fmt.Appendf(nil, "n%d.%d", i, version))
				add("a", "count", endian.BigEndian.AppendUint64(nil, uint64(i)))
				if i%2 == 0 {
					add("b", "\x00odd:name", value)
				}
				if i%5 == 0 {
					add("b", "", []byte{})
				}
			}
			puts = append(puts, put)
			if !deletes || i%11 != 0 {
				continue
			}
			ts := int64(2500)
			dels = append(dels, []*thrift2.TDelete{
				{Row: key, Columns: []*thrift2.TColumn{{Family: []byte("a"), Qualifier: []byte("name"), Timestamp: &ts}}, DeleteType: thrift2.TDeleteType_DELETE_COLUMNS},
				{Row: key, Columns: []*thrift2.TColumn{{Family: []byte("b"), Timestamp: &ts}}, DeleteType: thrift2.TDeleteType_DELETE_FAMILY},
				{Row: key, Columns: []*thrift2.TColumn{{Family: []byte("a"), Qualifier: []byte("gone"), Timestamp: &ts}}, DeleteType: thrift2.TDeleteType_DELETE_COLUMN},
			}[r.IntN(3):]...)
		}
		must(t, call(func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			if err := c.PutMultiple(ctx, []byte(table), puts); err != nil {
				return err
			}
			if len(dels) == 0 {
				return nil
			}
			left, err := c.DeleteMultiple(ctx, []byte(table), dels)
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("%d deletes were not made", len(left))
			}
			return err
		}))
	}
}

// rowText is a row of a scan as text, after what a mapping is to make of it: to gives a cell's column, or "" for none.
func rowText(r *thrift2.TResult_, to func(family, qualifier string) (string, string)) string {
	var b strings.Builder
	for _, c := range r.ColumnValues {
		f, q := string(c.Family), string(c.Qualifier)
		if to != nil {
			if f, q = to(f, q); f == "" {
				continue
			}
		}
		fmt.Fprintf(&b, "%q:%q @%d type %d = %q\n", f, q, c.GetTimestamp(), c.GetType(), c.Value)
	}
	return b.String()
}

// copied is what a comparison saw.
type copied struct{ rows, cells, deletes int }

// sameRows compares two tables, row by row and cell by cell, with deletes and versions.
func sameRows(t testing.TB, from, to check.Table, raw bool) copied {
	t.Helper()
	type row struct{ key, text string }
	rows := make(chan row, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		defer close(rows)
		failed <- check.Scan{Table: from, Raw: raw}.Each(ctx, func(r *thrift2.TResult_) error {
			select {
			case rows <- row{string(r.Row), rowText(r, nil)}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	var n copied
	err := check.Scan{Table: to, Raw: raw}.Each(ctx, func(r *thrift2.TResult_) error {
		want, ok := <-rows
		got := row{string(r.Row), rowText(r, nil)}
		if !ok || want != got {
			return fmt.Errorf("row %d: %s has %q\n%sand %s %q\n%s", n.rows, from.Name, want.key, want.text, to.Name, got.key, got.text)
		}
		n.rows++
		n.cells += len(r.ColumnValues)
		for _, c := range r.ColumnValues {
			if c.GetType() != 4 && c.GetType() != 0 {
				n.deletes++
			}
		}
		return nil
	})
	must(t, err)
	if left, more := <-rows; more {
		t.Fatalf("%s ends after %d rows, and %s goes on with %q", to.Name, n.rows, from.Name, left.key)
	}
	must(t, <-failed)
	return n
}

// rowJob is a job from table to table.
func rowJob(t testing.TB, name, source, target, mapping, gateways string, rest ...string) string {
	t.Helper()
	text := fmt.Sprintf("name: %s\nsource: {hbase: %s}\ntarget: %s\ngateways: {static: %s, outage_limit: 2m}\n", name, source, target, gateways)
	if mapping != "" {
		text += "map: " + mapping + "\n"
	}
	return jobFile(t, text+strings.Join(rest, "\n")+"\n")
}

// A table is copied as it is: through three gateways, every version, and with raw the deletes and what they hide. Repeated with
// its checkpoints gone it adds nothing.
func TestRowCopy(t *testing.T) {
	t.Parallel()
	r := seed(t)
	f := newFleet(t, 3)
	n := scaled(200_000, 30_000)
	tableOf(t, f.caller(), "from", [][]byte{[]byte("4"), []byte("user-")}, "a", "b")
	fillTable(t, f.caller(), "from", r, 0, n, true)

	for _, c := range []struct {
		name, source string
		raw          bool
	}{
		{"live", "{table: from}", false},
		{"raw", "{table: from, raw: true}", true},
	} {
		table := "to_" + c.name
		yaml := rowJob(t, "rows-"+c.name, c.source, fmt.Sprintf("{table: %s, create: true, regions: 4}", table), "", f.addrs())
		plan := drover(t, "plan", yaml).must(t, 0)
		for _, says := range []string{"table " + table + " from from", "to create  with 4 regions", "a:name"} {
			if !strings.Contains(plan.stdout, says) {
				t.Errorf("%s: the plan does not show %q:\n%s", c.name, says, plan.stdout)
			}
		}
		dry := drover(t, "run", yaml, "--dry-run", "--json").must(t, 0).json
		if dry.Read != dry.Written || dry.Read == 0 {
			t.Errorf("%s: the dry run's books say %+v", c.name, dry)
		}
		b := carry(t, yaml).ends(t, 0)
		got := sameRows(t, f.table("from"), f.table(table), c.raw)
		if int64(got.rows) != b.Rows || b.Read != dry.Read || b.Shards < 2 || c.raw != (got.deletes > 0) || !c.raw && int64(got.cells) != b.Cells {
			t.Errorf("%s: the books say %+v, the tables %+v", c.name, b, got)
		}
		t.Logf("%s: %d rows, %d cells, %d deletes in %d shards, %.1f s", c.name, got.rows, got.cells, got.deletes, b.Shards, b.Seconds)
		if again := carry(t, yaml).ends(t, 0); !again.Again {
			t.Errorf("%s: run again, the books say %+v", c.name, again)
		}
	}
}

// mapped is what a mapping makes of a row, said again for the comparison: its new key, "" where it is left out, and its cells
// as text.
type mapped func(r *thrift2.TResult_) (key, text string)

// mappedRows compares a table with what a mapping makes of another, both without deletes.
func mappedRows(t testing.TB, from, to check.Table, m mapped) (rows, left int) {
	t.Helper()
	want := map[string]string{}
	must(t, check.Scan{Table: from}.Each(t.Context(), func(r *thrift2.TResult_) error {
		key, text := m(r)
		if key == "" {
			left++
			return nil
		}
		if _, twice := want[key]; twice {
			return fmt.Errorf("two rows become %q", key)
		}
		want[key] = text
		return nil
	}))
	must(t, check.Scan{Table: to}.Each(t.Context(), func(r *thrift2.TResult_) error {
		got := rowText(r, nil)
		if text, ok := want[string(r.Row)]; !ok || text != got {
			return fmt.Errorf("row %q is\n%swant\n%s", r.Row, got, text)
		}
		delete(want, string(r.Row))
		rows++
		return nil
	}))
	for key := range want {
		t.Fatalf("%d rows are missing, one of them %q", len(want), key)
	}
	return rows, left
}

// Keys rewritten, families and columns renamed, some dropped, rows filtered: from another cluster, with a part of the table.
func TestRowCopyMapped(t *testing.T) {
	t.Parallel()
	r := seed(t)
	old, f := newFleet(t, 2), newFleet(t, 3)
	n := scaled(100_000, 15_000)
	tableOf(t, old.caller(), "from", [][]byte{[]byte("user-0005")}, "a", "b")
	fillTable(t, old.caller(), "from", r, 0, n, false)
	source := "{table: from, prefix: user-, versions: 2, gateways: {static: " + old.addrs() + "}, limits: {rows: 100000, bytes: 100MiB}}"
	mapping := `
  key: concat(hash(key, 1), str(number(a.count)), "/", key[5:])
  families: {a: data}
  columns: [{from: 'b:\x00odd:name', to: "data:odd"}, {from: "a:count", to: 'more:c\xFF'}]
  drop: ["b"]
  filter: number(a.count) % 2 == 0`
	yaml := rowJob(t, "mapped", source, "{table: to, create: true, regions: 8}", mapping, f.addrs())
	plan := drover(t, "plan", yaml).must(t, 0)
	for _, says := range []string{"to create  with 8 regions", "more:c\\xFF", "data:name", "filtered"} {
		if !strings.Contains(plan.stdout, says) {
			t.Errorf("the plan does not show %q:\n%s", says, plan.stdout)
		}
	}
	b := carry(t, yaml).ends(t, 0)
	rows, left := mappedRows(t, old.table("from"), f.table("to"), func(r *thrift2.TResult_) (string, string) {
		var count uint64
		kept := r.ColumnValues[:0:0]
		versions := map[string]int{}
		for _, c := range r.ColumnValues {
			column := string(c.Family) + ":" + string(c.Qualifier)
			if versions[column]++; versions[column] > 2 {
				continue
			}
			if column == "a:count" {
				count = endian.BigEndian.Uint64(c.Value)
			}
			kept = append(kept, c)
		}
		if !strings.HasPrefix(string(r.Row), "user-") || count%2 != 0 {
			return "", ""
		}
		h := xxh3.Hash128(r.Row).Bytes()
		parts := map[string][]*thrift2.TColumnValue{}
		for _, c := range kept {
			switch column := string(c.Family) + ":" + string(c.Qualifier); column {
			case "a:count":
				parts["3"] = append(parts["3"], &thrift2.TColumnValue{Family: []byte("more"), Qualifier: []byte("c\xff"), Value: c.Value, Timestamp: c.Timestamp, Type: c.Type})
			case "a:name":
				parts["1"] = append(parts["1"], &thrift2.TColumnValue{Family: []byte("data"), Qualifier: []byte("name"), Value: c.Value, Timestamp: c.Timestamp, Type: c.Type})
			case "b:\x00odd:name":
				parts["2"] = append(parts["2"], &thrift2.TColumnValue{Family: []byte("data"), Qualifier: []byte("odd"), Value: c.Value, Timestamp: c.Timestamp, Type: c.Type})
			}
		}
		all := append(append(parts["1"], parts["2"]...), parts["3"]...)
		return string(h[:1]) + fmt.Sprintf("%d/%s", count, r.Row[5:]), rowText(&thrift2.TResult_{ColumnValues: all}, nil)
	})
	if int64(rows) != b.Rows || b.Filtered == 0 || b.Read != b.Rows+b.Filtered || rows == 0 || left == 0 {
		t.Errorf("the books say %+v, the tables %d rows and %d left out", b, rows, left)
	}
	t.Logf("%d rows, %d filtered, %d not in the range, in %d shards", rows, b.Filtered, left-int(b.Filtered), b.Shards)
}

// A table is never copied to itself, by whatever name and through whatever gateways; and what a table does not have is said.
func TestRowCopyRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	tableOf(t, f.caller(), "from", nil, "a", "b")
	fillTable(t, f.caller(), "from", seed(t), 0, 100, false)
	for _, c := range []struct {
		name, source, target, mapping string
		code                          int
		says                          string
	}{
		{"itself", "{table: from}", "{table: 'default:from', existing: merge}", "", 64, "is the source's own table"},
		{"itself through gateways of its own", "{table: from, gateways: {static: " + f.addrs() + "}}", "{table: from, existing: merge}", "", 1, "the source and the target are one table, from of cluster "},
		{"no table", "{table: nosuch}", "{table: to, create: true}", "", 1, "there is no table nosuch to read from"},
		{"no family", "{table: from}", "{table: to, create: true}", "{families: {c: d}}", 1, "map speaks of the column families c, which the source's table does not have (it has a, b)"},
		{"no family in a filter", "{table: from}", "{table: to, create: true}", "{filter: c.x == nil}", 1, "map speaks of the column families c,"},
		{"no target", "{table: from}", "{table: to}", "", 1, "table to does not exist"},
		{"a page filter", "{table: from, filter: PageFilter(5)}", "{table: to}", "", 64, "PageFilter counts over a whole scan"},
	} {
		t.Run(c.name, func(t *testing.T) {
			yaml := rowJob(t, "refused", c.source, c.target, c.mapping, f.addrs())
			for _, cmd := range []string{"run", "plan"} {
				if r := drover(t, cmd, yaml).must(t, c.code); !strings.Contains(r.stderr+r.stdout, c.says) {
					t.Errorf("%s does not say %q:\n%s%s", cmd, c.says, r.stderr, r.stdout)
				}
			}
		})
	}
}

// Rows that the mapping refuses are dead letters, shown with their cells, and replayed once the mapping is mended.
func TestRowLetters(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	tableOf(t, f.caller(), "from", nil, "a", "b")
	const n = 2000
	fillTable(t, f.caller(), "from", seed(t), 0, n, true)
	job := func(mapping string) string {
		return rowJob(t, "letters", "{table: from, raw: true}", "{table: to, create: true}", mapping, f.addrs(), "dead_letters: {max: unlimited}")
	}
	yaml := job("{key: 'concat(number(a.count) % 100 == 0 ? time(a.name) : number(a.count), key)'}")
	b := carry(t, yaml).ends(t, 3)
	if b.Dead != n/100 || b.Written != n-n/100 {
		t.Errorf("the books say %+v, want %d dead of %d", b, n/100, n)
	}
	list := drover(t, "dead", "list", "--json", yaml).must(t, 0)
	var first struct {
		Shard    int    `json:"shard"`
		Position string `json:"position"`
	}
	must(t, json.Unmarshal([]byte(strings.SplitN(list.stdout, "\n", 2)[0]), &first))
	show := drover(t, "dead", "show", yaml, fmt.Sprint(first.Shard), first.Position).must(t, 0)
	var letter struct {
		Stage, Reason string
		Document      struct {
			Key   string
			Cells []struct {
				Family, Qualifier, Value string
				Timestamp                int64
			}
		}
	}
	must(t, json.Unmarshal([]byte(show.stdout), &letter))
	if d := letter.Document; d.Key != first.Position || len(d.Cells) < 6 || letter.Stage != "mapping" || !strings.Contains(letter.Reason, "bytes are no time") {
		t.Errorf("the letter is %+v", letter)
	}
	yaml = job("{key: 'concat(number(a.count), key)'}")
	drover(t, "dead", "replay", yaml).must(t, 1)
	drover(t, "dead", "replay", "--remap", yaml).must(t, 0)
	rows := 0
	must(t, check.Scan{Table: f.table("to"), Raw: true}.Each(t.Context(), func(r *thrift2.TResult_) error {
		rows++
		return nil
	}))
	if rows != n {
		t.Errorf("%d rows after the replay, want %d", rows, n)
	}
}

// Killed and drained in mid-run, with gateways that drop their connections, a copy ends equal.
func TestRowCopyKilled(t *testing.T) {
	t.Parallel()
	r := seed(t)
	f := newFleet(t, 3)
	n := scaled(300_000, 60_000)
	tableOf(t, f.caller(), "from", [][]byte{[]byte("8"), []byte("user-00")}, "a", "b")
	fillTable(t, f.caller(), "from", r, 0, n, true)
	yaml := rowJob(t, "killed", "{table: from, raw: true}", "{table: to, create: true, regions: 3}", "", f.addrs(), fmt.Sprintf("limits: {rows: %d}", n/4))
	kills, drops, runs := 0, 0, 0
	for ; ; runs++ {
		p := start(t, "run", yaml, "--json")
		struck := false
		wait := time.Duration(200+r.IntN(1500)) * time.Millisecond
		began := time.Now()
		end := whileRunning(p, 100*time.Millisecond, func() {
			f.servers[r.IntN(3)].Faults().Drop()
			drops++
			if !struck && runs < 5 && time.Since(began) > wait {
				struck = true
				if runs%2 == 0 {
					p.signal(syscall.SIGKILL)
				} else {
					p.signal(syscall.SIGTERM)
				}
			}
		})
		if end.signal == syscall.SIGKILL || end.code == 143 {
			kills++
			continue
		}
		b := end.ends(t, 0)
		if b.Read != int64(n) || b.Dead != 0 {
			t.Errorf("the books say %+v, want %d rows", b, n)
		}
		break
	}
	if kills == 0 || drops == 0 {
		t.Errorf("%d kills and %d drops: nothing was shown", kills, drops)
	}
	got := sameRows(t, f.table("from"), f.table("to"), true)
	t.Logf("%d rows, %d cells, %d deletes; %d kills, connections dropped %d times", got.rows, got.cells, got.deletes, kills, drops)
}

// stirProgram flushes, moves, splits and merges a table's regions until it reads a byte, and says what it did.
const stirProgram = `
import java.util.*;
import java.util.concurrent.TimeUnit;
import org.apache.hadoop.hbase.*;
import org.apache.hadoop.hbase.client.*;

public class Stir {
	public static void main(String[] args) throws Exception {
		TableName t = TableName.valueOf(args[0]);
		Random r = new Random(Long.parseLong(args[1]));
		int flushes = 0, moves = 0, splits = 0, merges = 0, failures = 0;
		try (Connection c = ConnectionFactory.createConnection(HBaseConfiguration.create()); Admin admin = c.getAdmin()) {
			System.out.println("ready");
			for (int n = 0; System.in.available() == 0; n++) {
				try {
					List<RegionInfo> regions = admin.getRegions(t);
					RegionInfo one = regions.get(r.nextInt(regions.size()));
					switch (n % 4) {
					case 0: admin.flush(t); flushes++; break;
					case 1: admin.splitRegionAsync(one.getRegionName()).get(30, TimeUnit.SECONDS); splits++; break;
					case 2: admin.move(one.getEncodedNameAsBytes()); moves++; break;
					case 3:
						if (regions.size() < 4) break;
						int i = r.nextInt(regions.size() - 1);
						admin.mergeRegionsAsync(new byte[][]{regions.get(i).getRegionName(), regions.get(i + 1).getRegionName()}, false).get(30, TimeUnit.SECONDS);
						merges++;
					}
				} catch (Exception e) {
					failures++; // a region in motion takes no second command
				}
			}
		}
		System.out.println(flushes + " flushes, " + moves + " moves, " + splits + " splits, " + merges + " merges, " + failures + " commands refused");
		if (splits + moves + flushes == 0) System.exit(1);
	}
}
`

// stir runs stirProgram on a table until the returned func is called.
func stir(t testing.TB, s *stack.Stack, table string, seed uint64) (stop func() string) {
	t.Helper()
	javac, err := exec.LookPath("javac")
	if err != nil {
		t.Skip("no javac: regions can be split and moved by a Java program only")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "Stir.java")
	must(t, os.WriteFile(source, []byte(stirProgram), 0o644))
	if out, err := exec.Command(javac, "-cp", s.Classpath(), "-d", dir, source).CombinedOutput(); err != nil {
		t.Fatalf("compile Stir.java: %v\n%s", err, out)
	}
	bin, args := s.Java(dir, "Stir", table, fmt.Sprint(int64(seed>>1)))
	cmd := exec.CommandContext(t.Context(), bin, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the regions' stirrer did not start: %s", errs.String())
	}
	return func() string {
		in.Write([]byte{1})
		lines.Scan()
		did := lines.Text()
		if proving() && (strings.Contains(did, " 0 splits") || strings.Contains(did, " 0 moves")) { // a short copy leaves HBase no time for it
			t.Errorf("the regions of %s were not stirred: %s", table, did)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("stir the regions of %s: %v: %s\n%s", table, err, did, errs.String())
		}
		return did
	}
}

// Real HBase: a table of three versions is copied through three gateways, and by native scans, while its regions are flushed, split,
// moved and merged.
func TestRowCopyToHBase(t *testing.T) {
	t.Parallel()
	s := stack.Shared(t)
	r := seed(t)
	call := gatewayCaller(s)
	n := scaled(200_000, 20_000)
	from := newTable(t, s)
	tableOf(t, call, from, [][]byte{[]byte("4"), []byte("user-0")}, "a", "b")
	fillTable(t, call, from, r, 0, n, true)
	// Compactions drop deletes, and regions that are split are compacted: with deletes the table is copied first, at rest.
	native := fmt.Sprintf(", via: native, zookeeper: %q", s.ZooKeeper)
	for _, c := range []struct {
		name string
		raw  bool
		via  string
	}{
		{"raw", true, ""}, {"raw, native", true, native}, {"stirred", false, ""}, {"stirred, native", false, native},
	} {
		to, raw := newTable(t, s), c.raw
		stop, rest := func() string { return "no changes" }, ""
		if !raw {
			stop = stir(t, s, from, r.Uint64())
			if proving() { // splits and merges take HBase seconds
				rest = fmt.Sprintf("limits: {rows: %d}", n/20)
			}
		}
		yaml := rowJob(t, to, fmt.Sprintf("{table: %s, raw: %v%s}", from, raw, c.via), fmt.Sprintf("{table: %s, create: true, regions: 4}", to), "", gatewayList(s), rest)
		b := carry(t, yaml).ends(t, 0)
		did := stop()
		got := sameRows(t, check.Table{Addr: s.Addrs()[0], Name: from}, check.Table{Addr: s.Addrs()[1], Name: to}, raw)
		if int64(got.rows) != b.Rows || got.rows == 0 || raw != (got.deletes > 0) {
			t.Errorf("%s: the books say %+v, the tables %+v", c.name, b, got)
		}
		t.Logf("%s: %d rows, %d cells, %d deletes in %d shards, %.1f s, %d retries, through %s", c.name, got.rows, got.cells, got.deletes, b.Shards, b.Seconds, b.Retries, did)
	}
}
