package native

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tsuna/gohbase/pb"
	"google.golang.org/protobuf/proto"

	"drover/hbase"
	"drover/hbase/thrift2"
)

// regionsOf is a map of regions that start at the keys given, one behind the other on the servers given.
func regionsOf(servers []string, starts ...string) *regionMap {
	m := &regionMap{}
	for i, s := range starts {
		r := located{start: []byte(s), name: []byte("t," + s + ",1.abc."), server: servers[i%len(servers)]}
		if i+1 < len(starts) {
			r.end = []byte(starts[i+1])
		}
		m.list = append(m.list, r)
	}
	return m
}

// putting is work on rows of two cells each.
func putting(keys []string) work {
	return work{
		n:   len(keys),
		key: func(i int) []byte { return []byte(keys[i]) },
		add: func(a *action, i int) error {
			a.mutation(mutationPut, []byte(keys[i]), hbase.SyncWAL)
			a.attribute("_ttl", []byte("12345678"))
			return errors.Join(
				a.cell(typePut, []byte(keys[i]), []byte("d"), []byte("q"), []byte("value of "+keys[i]), int64(i)),
				a.cell(typePut, []byte(keys[i]), []byte("d"), nil, nil, math.MaxInt64))
		},
	}
}

func upTo(n int) []int {
	var all []int
	for i := range n {
		all = append(all, i)
	}
	return all
}

func sent(t *testing.T, c *multiCall) *pb.MultiRequest {
	t.Helper()
	msg, cells, n := c.SerializeCellBlocks()
	raw, err := proto.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	m := &pb.MultiRequest{}
	if err := proto.Unmarshal(raw, m); err != nil {
		t.Fatal(err)
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 || len(cells) != 1 || len(cells[0]) != int(n) {
		t.Fatalf("a request with what HBase does not know, or cells in %d pieces of %d bytes", len(cells), n)
	}
	return m
}

// What is encoded by hand is read back with HBase's own definitions: each row in the region and the server that it belongs to, with
// its cells in the order of the rows.
func TestMultiRequest(t *testing.T) {
	m := regionsOf([]string{"one:1", "two:2"}, "", "g", "n", "t")
	keys := []string{"zz", "a", "h", "b", "o", "m", "t", "g"}
	calls, err := m.divide("t", putting(keys), upTo(len(keys)))
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, c := range calls {
		r := sent(t, c)
		if len(r.RegionAction) != len(c.parts) {
			t.Fatalf("%d regions, want %d", len(r.RegionAction), len(c.parts))
		}
		cells := c.rows.cells
		for i, ra := range r.RegionAction {
			if ra.Region.GetType() != pb.RegionSpecifier_REGION_NAME {
				t.Errorf("a region by its %v", ra.Region.GetType())
			}
			region := m.list[slices.IndexFunc(m.list, func(r located) bool { return bytes.Equal(r.name, ra.Region.Value) })]
			if region.server != c.server {
				t.Errorf("region %s asked of %s, it is on %s", region.name, c.server, region.server)
			}
			for j, a := range ra.Action {
				p := a.Mutation
				key := string(p.Row)
				seen = append(seen, key)
				if row := c.parts[i].rows[a.GetIndex()]; int(a.GetIndex()) != j || keys[row] != key {
					t.Errorf("action %d of %q has index %d, which is row %d", j, key, a.GetIndex(), row)
				}
				if key < string(region.start) || len(region.end) > 0 && key >= string(region.end) {
					t.Errorf("row %q in region %s", key, region.name)
				}
				if p.GetMutateType() != pb.MutationProto_PUT || p.GetDurability() != pb.MutationProto_SYNC_WAL || p.GetAssociatedCellCount() != 2 ||
					len(p.Attribute) != 1 || p.Attribute[0].GetName() != "_ttl" || string(p.Attribute[0].Value) != "12345678" {
					t.Errorf("row %q is sent as %v", key, p)
				}
				for n := range 2 {
					var cell keyValue
					if cell, cells, err = nextCell(cells); err != nil {
						t.Fatal(err)
					}
					at := slices.Index(keys, key)
					want := keyValue{row: p.Row, family: []byte("d"), qualifier: []byte("q"), value: []byte("value of " + key), ts: int64(at)}
					if n == 1 {
						want.qualifier, want.value, want.ts = nil, nil, math.MaxInt64
					}
					if got := fmt.Sprintf("%q", []any{cell.row, cell.family, cell.qualifier, cell.value}); cell.ts != want.ts || cell.op != hbase.Put ||
						got != fmt.Sprintf("%q", []any{want.row, want.family, want.qualifier, want.value}) {
						t.Errorf("cell %d of %q is %s at %d", n, key, got, cell.ts)
					}
				}
			}
		}
		if len(cells) > 0 {
			t.Errorf("%d bytes of cells that no row has", len(cells))
		}
	}
	slices.Sort(seen)
	if want := slices.Sorted(slices.Values(keys)); !slices.Equal(seen, want) || len(calls) != 2 {
		t.Errorf("%d calls with rows %q, want 2 with %q", len(calls), seen, want)
	}
}

func TestMultiDeletesAndGets(t *testing.T) {
	m := regionsOf([]string{"one:1"}, "")
	a := work{n: 2, key: func(int) []byte { return []byte("k") }, add: func(a *action, i int) error {
		if i == 0 {
			a.mutation(mutationDelete, []byte("k"), hbase.SyncWAL)
			a.timestamp(77)
			return nil
		}
		ts := int64(5)
		a.exists(&thrift2.TGet{Row: []byte("k"), Timestamp: &ts, Columns: []*thrift2.TColumn{{Family: []byte("f")}, {Family: []byte("g"), Qualifier: []byte("q")}}})
		return nil
	}}
	calls, err := m.divide("t", a, upTo(2))
	if err != nil {
		t.Fatal(err)
	}
	actions := sent(t, calls[0]).RegionAction[0].Action
	d := actions[0].Mutation
	if d.GetMutateType() != pb.MutationProto_DELETE || d.GetTimestamp() != 77 || d.AssociatedCellCount == nil || d.GetAssociatedCellCount() != 0 {
		t.Errorf("a whole row's delete is sent as %v", d)
	}
	g := actions[1].Get
	if !g.GetExistenceOnly() || string(g.Row) != "k" || g.TimeRange.GetFrom() != 5 || g.TimeRange.GetTo() != 6 || len(g.Column) != 2 ||
		len(g.Column[0].Qualifier) != 0 || string(g.Column[1].Qualifier[0]) != "q" {
		t.Errorf("a get is sent as %v", g)
	}
	if _, err := m.divide("t", work{n: 1, key: a.key, add: func(a *action, _ int) error {
		return a.cell(typePut, []byte("k"), bytes.Repeat([]byte("f"), 128), nil, nil, 0)
	}}, upTo(1)); err == nil {
		t.Error("a family of 128 bytes was encoded, for which a cell has no room")
	}
}

// answered gives the reasons of the rows that failed, after an answer.
func answered(t *testing.T, keys []string, answer *pb.MultiResponse, found []bool) (map[string]string, []*part, error) {
	t.Helper()
	w := putting(keys)
	w.found = found
	calls, err := regionsOf([]string{"one:1"}, "", "g", "n").divide("t", w, upTo(w.n))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := proto.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	err = calls[0].read(raw)
	failed := map[string]string{}
	for _, p := range calls[0].parts {
		for _, f := range p.failed {
			failed[keys[f.row]] = f.reason
		}
	}
	return failed, calls[0].parts, err
}

func TestMultiResponse(t *testing.T) {
	thrown := func(class, text string) *pb.NameBytesPair {
		return &pb.NameBytesPair{Name: &class, Value: []byte(text)}
	}
	well := func(i uint32, exists bool) *pb.ResultOrException {
		return &pb.ResultOrException{Index: &i, Result: &pb.Result{Exists: &exists}}
	}
	keys := []string{"a", "b", "h", "i", "o"}
	whole := &pb.MultiResponse{RegionActionResult: []*pb.RegionActionResult{
		{ResultOrException: []*pb.ResultOrException{well(1, true), {Index: proto.Uint32(0), Exception: thrown("x.NoSuchColumnFamilyException", "x.NoSuchColumnFamilyException: d\n\tat y")}}},
		{Exception: thrown("x.NotServingRegionException", "x.NotServingRegionException: moved")},
		{ResultOrException: []*pb.ResultOrException{well(0, false)}},
	}}
	found := make([]bool, len(keys))
	failed, parts, err := answered(t, keys, whole, found)
	want := map[string]string{
		"a": "x.NoSuchColumnFamilyException: d\n\tat y",
		"h": "x.NotServingRegionException: moved", "i": "x.NotServingRegionException: moved",
	}
	if err != nil || fmt.Sprint(failed) != fmt.Sprint(want) {
		t.Errorf("failed %v, %v, want %v", failed, err, want)
	}
	if parts[0].moved || !parts[1].moved || parts[2].moved {
		t.Errorf("regions thought to have moved: %v %v %v", parts[0].moved, parts[1].moved, parts[2].moved)
	}
	if !slices.Equal(found, []bool{false, true, false, false, false}) {
		t.Errorf("found %v", found)
	}

	for name, broken := range map[string]*pb.MultiResponse{
		"a region without an answer": {RegionActionResult: whole.RegionActionResult[:2]},
		"a region too many":          {RegionActionResult: append(slices.Clone(whole.RegionActionResult), whole.RegionActionResult[1])},
		"a row without an answer": {RegionActionResult: []*pb.RegionActionResult{
			{ResultOrException: []*pb.ResultOrException{well(0, true)}}, whole.RegionActionResult[1], whole.RegionActionResult[2],
		}},
		"a row answered twice, and another not": {RegionActionResult: []*pb.RegionActionResult{
			{ResultOrException: []*pb.ResultOrException{well(0, true), well(0, true)}}, whole.RegionActionResult[1], whole.RegionActionResult[2],
		}},
		"a row that was not asked for": {RegionActionResult: []*pb.RegionActionResult{
			{ResultOrException: []*pb.ResultOrException{well(0, true), well(2, true)}}, whole.RegionActionResult[1], whole.RegionActionResult[2],
		}},
	} {
		if _, _, err := answered(t, keys, broken, nil); err == nil {
			t.Errorf("%s: taken for an answer", name)
		}
	}
	calls, _ := regionsOf([]string{"one:1"}, "").divide("t", putting([]string{"a"}), upTo(1))
	for _, junk := range []string{"\x0a\xff", "\xff\xff\xff", "\x0a\x02\x0a\x05"} {
		if err := calls[0].read([]byte(junk)); err == nil {
			t.Errorf("answer %q was taken for one", junk)
		}
	}
}

func TestRegionsInMotionAreNoMap(t *testing.T) {
	good := regionsOf([]string{"one:1"}, "", "g", "n").list
	if err := tiles(good); err != nil {
		t.Error(err)
	}
	gap, over, cut := slices.Clone(good), slices.Clone(good), good[:2]
	gap[1].end = []byte("h")
	over[2].start = []byte("m")
	for _, list := range [][]located{gap, over, cut, good[1:]} {
		err := tiles(list)
		if err == nil {
			t.Errorf("%d regions that do not tile the keys were taken", len(list))
			continue
		}
		if kind, _ := hbase.Classify(told("t", err)); kind != hbase.Again {
			t.Errorf("%v is %v, want %v: it passes", err, kind, hbase.Again)
		}
	}
	m := regionsOf([]string{"one:1"}, "", "g", "n", "t")
	for key, want := range map[string]int{"a": 0, "g": 1, "fz": 0, "z": 3, "t": 3, "n": 2, "": 0} {
		for from := range m.list {
			if got := m.near([]byte(key), from); got != want {
				t.Errorf("key %q from region %d: %d, want %d", key, from, got, want)
			}
		}
	}
}

func TestToldSaysWhatTheServerSaid(t *testing.T) {
	for text, want := range map[string]string{
		"HBase Java exception org.apache.hadoop.hbase.CallQueueTooBigException:\nqueue is full":     "org.apache.hadoop.hbase.CallQueueTooBigException: queue is full",
		"region.RetryableError: HBase Java exception a.b.CException:\na.b.CException: text\n\tat x": "a.b.CException: text\n\tat x",
		"something of gohbase's own": "something of gohbase's own",
	} {
		e, ok := errors.AsType[*thrift2.TIOError](told("t", errors.New(text)))
		if !ok || e.GetMessage() != want || !e.GetCanRetry() {
			t.Errorf("%q is told as %v", text, e)
		}
	}
	if e := told("t", errors.New("HBase Java exception x.DoNotRetryIOException:\nno")).(*thrift2.TIOError); e.GetCanRetry() || !strings.HasPrefix(e.GetMessage(), "x.DoNotRetryIOException: no") {
		t.Errorf("told %v", e)
	}
}
