package mapping_test

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/hbase"
	"drover/jobs"
	"drover/mapping"
)

const planTime = 1_700_000_000_000

var someID = bson.ObjectID{0x50, 0x7f, 0x1f, 0x77, 0xbc, 0xf8, 0x6c, 0xd7, 0x99, 0x43, 0x90, 0x11}

var _ jobs.Mapping = (*mapping.Mapping)(nil)

func compile(t testing.TB, s mapping.Spec) *mapping.Mapping {
	t.Helper()
	m, err := mapping.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func marshal(t testing.TB, d any) []byte {
	t.Helper()
	raw, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// mapOne maps one document. The batch has to stay as it was when there is no row.
func mapOne(t testing.TB, p jobs.Mapper, raw []byte) (hbase.Row, jobs.Outcome, string) {
	t.Helper()
	b := hbase.AcquireBatch(hbase.SyncWAL)
	defer b.Release()
	b.Begin([]byte("before"))
	b.Cell(hbase.Put, []byte("f"), []byte("q"), 1, nil)
	b.End()
	size := b.Bytes()
	var routed []byte
	o, why := p.Map(raw, func(key []byte) *hbase.Batch {
		routed = slices.Clone(key)
		return b
	})
	if o != jobs.Mapped {
		if b.Rows() != 1 || b.Bytes() != size {
			t.Errorf("outcome %d left %d rows and %d bytes in the batch, not 1 and %d", o, b.Rows(), b.Bytes(), size)
		}
		if (why == "") == (o == jobs.Refused) {
			t.Errorf("outcome %d with the reason %q", o, why)
		}
		return hbase.Row{}, o, why
	}
	if b.Rows() != 2 {
		t.Fatalf("mapped, but the batch has %d rows", b.Rows())
	}
	r := b.Row(1)
	if string(routed) != string(r.Key) {
		t.Errorf("routed by %q, written to %q", routed, r.Key)
	}
	return r, o, why
}

// show writes a row on a line: key, then cells with their timestamps where these are not the plan's.
func show(r hbase.Row) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%q", r.Key)
	for _, c := range r.Cells {
		fmt.Fprintf(&s, " %s:%s=%q", c.Family, c.Qualifier, c.Value)
		if c.Timestamp != planTime {
			fmt.Fprintf(&s, "@%d", c.Timestamp)
		}
	}
	return s.String()
}

func TestMap(t *testing.T) {
	doc := bson.D{
		{Key: "_id", Value: "k"},
		{Key: "n", Value: int32(7)},
		{Key: "", Value: "empty name"},
		{Key: "gone", Value: nil},
		{Key: "when", Value: bson.DateTime(12345)},
		{Key: "oid", Value: someID},
		{Key: "place", Value: bson.D{
			{Key: "city", Value: "Kiel"},
			{Key: "at", Value: bson.A{1.5, bson.D{{Key: "x", Value: true}}}},
			{Key: "0", Value: "zero"},
		}},
	}
	place := `{"city":"Kiel","at":[{"$numberDouble":"1.5"},{"x":true}],"0":"zero"}`
	fields := `"k" d:_id="k" d:n="\x00\x00\x00\a" d:="empty name" d:when="\x00\x00\x00\x00\x00\x0009" d:oid=` + fmt.Sprintf("%q", someID[:]) + ` d:place=` + fmt.Sprintf("%q", place)
	col := func(from, to string) []mapping.Column { return []mapping.Column{{From: from, To: to}} }
	for _, c := range []struct {
		name string
		spec mapping.Spec
		want string
	}{
		{"all fields", mapping.Spec{Family: "d"}, fields},
		{"document beside all fields", mapping.Spec{Family: "d", Document: "e:doc"}, fields + fmt.Sprintf(" e:doc=%q", marshal(t, doc))},
		{"document alone", mapping.Spec{Document: "e:doc"}, fmt.Sprintf(`"k" e:doc=%q`, marshal(t, doc))},
		{"document in the family", mapping.Spec{Family: "d", Document: "doc", Columns: col("n", "n")}, fmt.Sprintf(`"k" d:n="\x00\x00\x00\a" d:doc=%q`, marshal(t, doc))},
		{"one column", mapping.Spec{Columns: col("n", "x:y:z")}, `"k" x:y:z="\x00\x00\x00\a"`},
		{"column without qualifier", mapping.Spec{Columns: col("n", "x:")}, `"k" x:="\x00\x00\x00\a"`},
		{"column's encoding", mapping.Spec{Encoding: mapping.BSON, Columns: []mapping.Column{{From: "n", To: "a:j", Encoding: mapping.JSON}, {From: "gone", To: "a:b"}}}, `"k" a:j="{\"$numberInt\":\"7\"}" a:b="\n"`},
		{"one field in two columns", mapping.Spec{Family: "d", Columns: append(col("n", "a"), col("n", "b")...)}, `"k" d:a="\x00\x00\x00\a" d:b="\x00\x00\x00\a"`},
		{"path", mapping.Spec{Family: "d", Columns: col("place.city", "c")}, `"k" d:c="Kiel"`},
		{"number in an array", mapping.Spec{Family: "d", Columns: col("place.at.1.x", "c")}, `"k" d:c="\xff"`},
		{"number in a document", mapping.Spec{Family: "d", Columns: col("place.0", "c")}, `"k" d:c="zero"`},
		{"key path", mapping.Spec{Key: "place.city", Columns: col("n", "d:n")}, `"Kiel" d:n="\x00\x00\x00\a"`},
		{"key in bson", mapping.Spec{KeyEncoding: mapping.BSON, Columns: col("n", "d:n")}, `"\x02\x02\x00\x00\x00k\x00" d:n="\x00\x00\x00\a"`},
		{"key in json", mapping.Spec{KeyEncoding: mapping.JSON, Columns: col("n", "d:n")}, `"\"k\"" d:n="\x00\x00\x00\a"`},
		{"timestamp of a date", mapping.Spec{Timestamp: "when", Columns: col("_id", "d:i")}, `"k" d:i="k"@12345`},
		{"timestamp of an objectId", mapping.Spec{Timestamp: "oid", Columns: col("_id", "d:i")}, `"k" d:i="k"@1350508407000`},
		{"timestamp of an int32", mapping.Spec{Timestamp: "n", Columns: col("_id", "d:i")}, `"k" d:i="k"@7`},
		{"fixed timestamp", mapping.Spec{Timestamp: "042", Columns: col("_id", "d:i")}, `"k" d:i="k"@42`},
		{"plan's timestamp", mapping.Spec{Timestamp: "plan", Columns: col("_id", "d:i")}, `"k" d:i="k"`},
	} {
		p := compile(t, c.spec).Mapper("c", planTime, "")
		for range 2 { // with its slots cold, then warm
			row, o, why := mapOne(t, p, marshal(t, doc))
			if o != jobs.Mapped {
				t.Errorf("%s: outcome %d: %s", c.name, o, why)
			} else if diff := cmp.Diff(c.want, show(row)); diff != "" {
				t.Errorf("%s: -want +got\n%s", c.name, diff)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	id := bson.E{Key: "_id", Value: "k"}
	with := func(name string, v any) bson.D { return bson.D{id, {Key: name, Value: v}} }
	twice := bson.D{id, {Key: "a", Value: int32(1)}, {Key: "a", Value: int32(2)}}
	nested := with("n", bson.D{{Key: "a", Value: int32(1)}, {Key: "a", Value: int32(2)}})
	ofA := []mapping.Column{{From: "a", To: "d:a"}}
	ofNA := []mapping.Column{{From: "n.a", To: "d:a"}}
	big := strings.Repeat("x", hbase.MaxCellBytes)
	for _, c := range []struct {
		name string
		spec mapping.Spec
		doc  any
		key  string // the plan's key type
		want string
	}{
		{"no key", mapping.Spec{Family: "d"}, bson.D{{Key: "a", Value: "x"}}, "", `key field "_id" is missing`},
		{"null key", mapping.Spec{Family: "d"}, bson.D{{Key: "_id", Value: nil}}, "", `key field "_id" is null`},
		{"undefined key", mapping.Spec{Family: "d", KeyEncoding: mapping.BSON}, bson.D{{Key: "_id", Value: bson.Undefined{}}}, "", `key field "_id" is undefined`},
		{"no nested key", mapping.Spec{Family: "d", Key: "a.b"}, with("a", "x"), "", `key field "a.b" is missing`},
		{"empty key", mapping.Spec{Family: "d"}, bson.D{{Key: "_id", Value: ""}}, "", `key is empty, which HBase does not take`},
		{"long key", mapping.Spec{Family: "d"}, bson.D{{Key: "_id", Value: strings.Repeat("k", 32768)}}, "", `key of 32768 bytes is over HBase's bound of 32767`},
		{"key of another type", mapping.Spec{Family: "d"}, bson.D{{Key: "_id", Value: int32(1)}}, "objectId", `key is of type int32, where the plan found objectId: with key_encoding bytes, keys of two types can become one row`},
		{"key of another subtype", mapping.Spec{Family: "d"}, bson.D{{Key: "_id", Value: bson.Binary{Subtype: 4, Data: []byte("x")}}}, "binary(0)", `key is of type binary(4), where the plan found binary(0): with key_encoding bytes, keys of two types can become one row`},
		{"key twice", mapping.Spec{Columns: ofA}, bson.D{id, id, {Key: "a", Value: "x"}}, "", `field "_id" is there twice, and a row has only one place for it`},
		{"nested key twice", mapping.Spec{Key: "n.a", Columns: ofA}, nested, "", `key: field "n.a" is there twice`},
		{"key that is not UTF-8", mapping.Spec{Family: "d", KeyEncoding: mapping.JSON}, bson.D{{Key: "_id", Value: "\xff"}}, "", `key: text is not UTF-8, which JSON needs; use the encoding bson`},
		{"no timestamp", mapping.Spec{Family: "d", Timestamp: "t"}, bson.D{id}, "", `timestamp field "t" is missing`},
		{"negative timestamp", mapping.Spec{Family: "d", Timestamp: "t"}, with("t", bson.DateTime(-1)), "", `timestamp field "t" is -1 ms; HBase takes 0 to 9223372036854775806`},
		{"largest timestamp", mapping.Spec{Family: "d", Timestamp: "t"}, with("t", int64(math.MaxInt64)), "", `timestamp field "t" is 9223372036854775807 ms; HBase takes 0 to 9223372036854775806`},
		{"timestamp of another type", mapping.Spec{Family: "d", Timestamp: "t"}, with("t", 1.5), "", `timestamp field "t" is of type double; a date, objectId, int32 or int64 can be one`},
		{"timestamp twice", mapping.Spec{Timestamp: "n.a", Columns: ofA}, nested, "", `timestamp: field "n.a" is there twice`},
		{"big string", mapping.Spec{Family: "d"}, with("a", big), "", `field "a": cell of 10485787 bytes is over HBase's bound of 10485760`},
		{"big bson", mapping.Spec{Family: "d", Encoding: mapping.BSON}, with("a", big), "", `field "a": cell of 10485793 bytes is over HBase's bound of 10485760`},
		{"big column", mapping.Spec{Columns: ofA}, with("a", big), "", `field "a": cell of 10485787 bytes is over HBase's bound of 10485760`},
		{"big number", mapping.Spec{Family: "d"}, with(big[26:], int32(1)), "", `field "` + big[:100] + `"…: cell of 10485764 bytes is over HBase's bound of 10485760`},
		{"big long number", mapping.Spec{Family: "d"}, with(big[26:], 1.5), "", `field "` + big[:100] + `"…: cell of 10485768 bytes is over HBase's bound of 10485760`},
		{"big document", mapping.Spec{Document: "d:doc"}, with("a", big), "", `document: cell of 10485813 bytes is over HBase's bound of 10485760`},
		{"field twice", mapping.Spec{Family: "d"}, twice, "", `field "a" is there twice, and a row has only one place for it`},
		{"column's field twice", mapping.Spec{Columns: ofA}, twice, "", `field "a" is there twice, and a row has only one place for it`},
		{"nested field twice", mapping.Spec{Columns: ofNA}, nested, "", `field "n.a" is there twice`},
		{"field on the document", mapping.Spec{Family: "d", Document: "a"}, with("a", "x"), "", `field "a" has the column where the whole document goes`},
		{"no cell", mapping.Spec{Columns: ofA}, bson.D{id}, "", `maps to no cell; set empty: skip to leave such documents out`},
		{"null cell", mapping.Spec{Columns: ofA}, with("a", nil), "", `maps to no cell; set empty: skip to leave such documents out`},
		{"large row", mapping.Spec{Family: "d", MaxRow: 40}, with("a", "x"), "", `row of 87 bytes is over the 40 that the gateways take`},
		{"not UTF-8", mapping.Spec{Family: "d", Encoding: mapping.JSON}, with("a", "x\xc3("), "", `field "a": text is not UTF-8, which JSON needs; use the encoding bson`},
		{"not UTF-8 within", mapping.Spec{Family: "d"}, with("a", bson.A{"\xff"}), "", `field "a": text is not UTF-8, which JSON needs; use the encoding bson`},
		{"filter's field twice", mapping.Spec{Columns: ofNA, Filter: "n.a > 1"}, nested, "", `filter: field "n.a" is there twice`},
		{"filter without order", mapping.Spec{Family: "d", Filter: "a > \"2020-01-01\""}, with("a", bson.DateTime(0)), "", `filter: operator >: a date and a string have no order; write a date as date("2020-01-01") (column 3)`},
		{"filter of no truth", mapping.Spec{Family: "d", Filter: "a"}, with("a", "x"), "", `filter: operator bool: a string is not true or false (column 1)`},
		{"key expression of nothing", mapping.Spec{Family: "d", Key: "a ?? nil"}, bson.D{id}, "", `key: expression gives nothing; a field that it names is missing or null`},
		{"key expression fails", mapping.Spec{Family: "d", Key: "pad(a, 2)"}, with("a", int32(100)), "", `key: pad: 100 has more than 2 digits (column 1)`},
		{"key expression of an array", mapping.Spec{Family: "d", Key: "[a]"}, with("a", "x"), "", `key: an array has no bytes of its own; name a field in it`},
		{"key expression of another type", mapping.Spec{Family: "d", Key: "a ?? _id"}, with("a", int64(1)), "string", `key is of type int64, where the plan found string: with key_encoding bytes, keys of two types can become one row`},
	} {
		raw := marshal(t, c.doc)
		_, o, why := mapOne(t, compile(t, c.spec).Mapper("c", planTime, c.key), raw)
		if o != jobs.Refused || why != c.want {
			t.Errorf("%s: outcome %d, got  %s\nwant %s", c.name, o, why, c.want)
		}
	}
}

// An old binary whose inner length lies is the one value that only bson takes.
func TestOldBinary(t *testing.T) {
	raw := marshal(t, bson.D{{Key: "_id", Value: "k"}, {Key: "a", Value: bson.Binary{Subtype: 2, Data: []byte("xyz")}}})
	i := strings.Index(string(raw), "\x02\x03\x00\x00\x00xyz")
	raw[i+1] = 9
	for enc, want := range map[mapping.Encoding]jobs.Outcome{mapping.Bytes: jobs.Refused, mapping.JSON: jobs.Refused, mapping.BSON: jobs.Mapped} {
		_, o, why := mapOne(t, compile(t, mapping.Spec{Family: "d", Encoding: enc}).Mapper("c", planTime, ""), raw)
		if o != want {
			t.Errorf("%s: outcome %d: %s", enc, o, why)
		}
	}
}

func TestLargestThatHBaseTakes(t *testing.T) {
	p := compile(t, mapping.Spec{Family: "d", Key: "k", Columns: []mapping.Column{{From: "a", To: "a"}}}).Mapper("c", hbase.MaxTimestamp, "")
	key := strings.Repeat("k", hbase.MaxKeyBytes)
	room := hbase.MaxCellBytes - hbase.CellBytes(len(key), 1, 1, 0)
	row, o, why := mapOne(t, p, marshal(t, bson.D{{Key: "k", Value: key}, {Key: "a", Value: strings.Repeat("a", room)}}))
	if o != jobs.Mapped || len(row.Cells[0].Value) != room || row.Cells[0].Timestamp != hbase.MaxTimestamp {
		t.Errorf("outcome %d: %s", o, why)
	}
	if _, o, _ = mapOne(t, p, marshal(t, bson.D{{Key: "k", Value: key}, {Key: "a", Value: strings.Repeat("a", room+1)}})); o != jobs.Refused {
		t.Errorf("a byte more: outcome %d", o)
	}
}

func TestMaxRowIsTheBatchs(t *testing.T) {
	raw := marshal(t, bson.D{{Key: "_id", Value: "k"}, {Key: "a", Value: "x"}})
	b := hbase.AcquireBatch(hbase.SyncWAL)
	defer b.Release()
	route := func([]byte) *hbase.Batch { return b }
	if o, why := compile(t, mapping.Spec{Family: "d"}).Mapper("c", planTime, "").Map(raw, route); o != jobs.Mapped {
		t.Fatal(why)
	}
	size := b.RowBytes(0)
	for max, want := range map[int]jobs.Outcome{size: jobs.Mapped, size - 1: jobs.Refused} {
		if _, o, why := mapOne(t, compile(t, mapping.Spec{Family: "d", MaxRow: max}).Mapper("c", planTime, ""), raw); o != want {
			t.Errorf("a row of %d bytes where %d are the most: outcome %d: %s", size, max, o, why)
		}
	}
}

func TestFiltered(t *testing.T) {
	for _, s := range []mapping.Spec{
		{Family: "d", Filter: "n > 10"},
		{Family: "d", Filter: "missing"},
		{Empty: "skip", Columns: []mapping.Column{{From: "missing", To: "d:m"}}},
	} {
		raw := marshal(t, bson.D{{Key: "_id", Value: "k"}, {Key: "n", Value: int32(7)}})
		if _, o, why := mapOne(t, compile(t, s).Mapper("c", planTime, ""), raw); o != jobs.Filtered {
			t.Errorf("%+v: outcome %d: %s", s, o, why)
		}
	}
}

func TestKeyType(t *testing.T) {
	doc := bson.D{{Key: "_id", Value: someID}, {Key: "u", Value: bson.Binary{Subtype: 4, Data: []byte("x")}}, {Key: "z", Value: nil}}
	for _, c := range []struct {
		spec mapping.Spec
		want string
	}{
		{mapping.Spec{Family: "d"}, "objectId"},
		{mapping.Spec{Family: "d", Key: "u"}, "binary(4)"},
		{mapping.Spec{Family: "d", Key: `doc["u"]`}, "binary(4)"},
		{mapping.Spec{Family: "d", Key: "hex(_id)"}, "string"},
		{mapping.Spec{Family: "d", Key: "salt(_id, 16)"}, "binary(0)"},
		{mapping.Spec{Family: "d", Key: "z"}, ""},
		{mapping.Spec{Family: "d", Key: "missing"}, ""},
		{mapping.Spec{Family: "d", Filter: "z == 1"}, ""},
		{mapping.Spec{Family: "d", KeyEncoding: mapping.BSON}, ""},
		{mapping.Spec{Family: "d", KeyEncoding: mapping.JSON}, ""},
	} {
		m := compile(t, c.spec)
		raw := marshal(t, doc)
		got := m.KeyType(raw)
		if got != c.want {
			t.Errorf("%+v: got %q, want %q", c.spec, got, c.want)
		}
		if got != "" {
			if _, o, why := mapOne(t, m.Mapper("c", planTime, got), raw); o != jobs.Mapped {
				t.Errorf("%+v: its own key type: outcome %d: %s", c.spec, o, why)
			}
		}
	}
	if got := compile(t, mapping.Spec{Family: "d"}).KeyType([]byte("corrupt")); got != "" {
		t.Errorf("corrupt: got %q", got)
	}
}

func TestCorrupt(t *testing.T) {
	good := marshal(t, bson.D{{Key: "_id", Value: "k"}, {Key: "s", Value: "x"}, {Key: "d", Value: bson.D{{Key: "e", Value: "y"}}}})
	deep := bson.D{{Key: "_id", Value: "k"}}
	for range 300 {
		deep = bson.D{{Key: "_id", Value: "k"}, {Key: "d", Value: deep}}
	}
	edit := func(from string, to string) []byte {
		if !strings.Contains(string(good), from) || len(from) != len(to) {
			t.Fatalf("%q is not in the document, or not as long as %q", from, to)
		}
		return []byte(strings.Replace(string(good), from, to, 1))
	}
	value := func(typ, v string) []byte { // in field v of a document with a sound length
		raw := "\x02_id\x00\x02\x00\x00\x00k\x00" + typ + "v\x00" + v + "\x00"
		return append([]byte{byte(len(raw) + 4), 0, 0, 0}, raw...)
	}
	const at = `corrupt document, at byte `
	for _, c := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"nothing", nil, at + `0: document has 0 bytes, which is not the length at its start`},
		{"other length", good[:len(good)-1], at + `0: document has 41 bytes, which is not the length at its start`},
		{"no terminator", append(slices.Clone(good[:len(good)-1]), 1), at + `41: document has no terminator`},
		{"string too long", edit("\x02s\x00\x02", "\x02s\x00\x7e"), at + `18 in field "s": string length 126 is not 1 to 19`},
		{"string of length 0", edit("\x02s\x00\x02", "\x02s\x00\x00"), at + `18 in field "s": string length 0 is not 1 to 19`},
		{"string of negative length", edit("\x02s\x00\x02\x00\x00\x00", "\x02s\x00\x02\x00\x00\x80"), at + `18 in field "s": string length -2147483646 is not 1 to 19`},
		{"string without end", edit("x\x00", "xx"), at + `23 in field "s": string has no terminator`},
		{"unknown type", edit("\x02s", "\x20s"), at + `18 in field "s": unknown type 0x20`},
		{"type 0", edit("\x02s", "\x00s"), at + `18 in field "s": unknown type 0x00`},
		{"nested length", edit("d\x00\x0e", "d\x00\x0f"), at + `27 in field "d": document length 15 is not 5 to 14`},
		{"nested short length", edit("d\x00\x0e", "d\x00\x04"), at + `27 in field "d": document length 4 is not 5 to 14`},
		{"nested string", edit("e\x00\x02", "e\x00\x03"), at + `34 in field "d": string length 3 is not 1 to 2`},
		{"too deep", marshal(t, deep), at + `4518 in field "d": documents nest deeper than 250`},
		{"short number", value("\x01", "1234567"), at + `18 in field "v": value runs beyond its document`},
		{"bool of 2", value("\x08", "\x02"), at + `18 in field "v": bool byte is 0x02, not 0 or 1`},
		{"no bool", value("\x08", ""), at + `18 in field "v": value runs beyond its document`},
		{"short binary", value("\x05", "\x00\x00\x00\x00"), at + `18 in field "v": value runs beyond its document`},
		{"long binary", value("\x05", "\x02\x00\x00\x00\x00a"), at + `18 in field "v": binary length 2 is not 0 to 1`},
		{"negative binary", value("\x05", "\x02\x00\x00\xff\x00a"), at + `18 in field "v": binary length -16777214 is not 0 to 1`},
		{"open regex", value("\x0b", "a\x00b"), at + `20 in field "v": regex has no terminator`},
		{"short dbPointer", value("\x0c", "\x01\x00\x00\x00\x0012345678901"), at + `23 in field "v": value runs beyond its document`},
		{"short code with scope", value("\x0f", "abc"), at + `18 in field "v": value runs beyond its document`},
		{"long code with scope", value("\x0f", "\x20\x00\x00\x00"), at + `18 in field "v": code with scope length 32 is not 4 to 4`},
		{"code with scope and more", value("\x0f", "\x0f\x00\x00\x00\x01\x00\x00\x00\x00\x05\x00\x00\x00\x00a"), at + `18 in field "v": code with scope length 15, but its parts have 14 bytes`},
		{"code with a broken scope", value("\x0f", "\x0e\x00\x00\x00\x01\x00\x00\x00\x00\x04\x00\x00\x00\x00"), at + `27 in field "v": document length 4 is not 5 to 5`},
		{"open empty name", value("\x0a", "\x0a"), at + `19: field name has no terminator`},
		{"open name", value("\x05", "\x00\x00\x00\x00\x00\x0aabc"), at + `24: field name has no terminator`},
	} {
		p := compile(t, mapping.Spec{Family: "d"}).Mapper("c", planTime, "")
		for range 2 {
			if _, o, why := mapOne(t, p, c.raw); o != jobs.Refused || why != c.want {
				t.Errorf("%s: outcome %d, got  %s\nwant %s", c.name, o, why, c.want)
			}
			for _, d := range []bson.D{{{Key: "_id", Value: "k"}, {Key: "v", Value: 1}, {Key: "", Value: 1}}, {{Key: "_id", Value: "k"}, {Key: "s", Value: 1}, {Key: "d", Value: 1}}} {
				mapOne(t, p, marshal(t, d)) // now it knows what comes after what
			}
		}
	}
}

// What one document taught a mapper must not show in another's row.
func TestMappersForgetDocuments(t *testing.T) {
	m := compile(t, mapping.Spec{Family: "d", Empty: "skip", Columns: []mapping.Column{{From: "a", To: "a"}, {From: "b.c", To: "c"}}, Filter: `x != "no"`})
	var docs [][]byte
	for i := range 64 {
		d := bson.D{}
		for _, e := range []struct {
			in bool
			e  bson.E
		}{
			{i&1 != 0, bson.E{Key: "b", Value: bson.D{{Key: "c", Value: i}}}},
			{true, bson.E{Key: "_id", Value: fmt.Sprint("key", i)}},
			{i&2 != 0, bson.E{Key: "a", Value: i}},
			{i&4 != 0, bson.E{Key: "x", Value: "no"}},
			{i&8 != 0, bson.E{Key: "aa", Value: "other"}},
			{i&16 != 0, bson.E{Key: "a", Value: "second"}},
			{i&32 != 0, bson.E{Key: "b", Value: "second"}},
		} {
			if e.in {
				d = append(d, e.e)
			}
		}
		docs = append(docs, marshal(t, d))
	}
	one := m.Mapper("c", planTime, "")
	for round := range 7 {
		for i := range docs {
			raw := docs[i*(2*round+1)%len(docs)]
			r1, o1, why1 := mapOne(t, one, raw)
			r2, o2, why2 := mapOne(t, m.Mapper("c", planTime, ""), raw)
			if show(r1) != show(r2) || o1 != o2 || why1 != why2 {
				t.Fatalf("%s: used mapper %s %d %s; new one %s %d %s", bson.Raw(raw), show(r1), o1, why1, show(r2), o2, why2)
			}
		}
	}
}

// A collection that has new names in each document must not fill the memory, nor go wrong when the names are dropped.
func TestEndlessNames(t *testing.T) {
	p := compile(t, mapping.Spec{Family: "d"}).Mapper("c", planTime, "")
	for i := range 300 {
		d := bson.D{{Key: "_id", Value: "k"}}
		for j := range 100 {
			d = append(d, bson.E{Key: fmt.Sprintf("name %d", 100*i+j), Value: int32(j)})
		}
		row, o, why := mapOne(t, p, marshal(t, d))
		if o != jobs.Mapped || len(row.Cells) != 101 {
			t.Fatalf("document %d: outcome %d with %d cells: %s", i, o, len(row.Cells), why)
		}
		if got, want := string(row.Cells[100].Qualifier), fmt.Sprintf("name %d", 100*i+99); got != want {
			t.Fatalf("document %d: last column %q, want %q", i, got, want)
		}
	}
}

func TestMappersShareAMapping(t *testing.T) {
	m := compile(t, mapping.Spec{Family: "d", Key: "salt(_id, 16)", Filter: "count >= 0 and not (name in ['x'])"})
	raw := marshal(t, large(3))
	want, _, _ := mapOne(t, m.Mapper("c", planTime, ""), raw)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			p := m.Mapper("c", planTime, "")
			for range 50 {
				if got, _, why := mapOne(t, p, raw); show(got) != show(want) {
					t.Errorf("got %s %s, want %s", show(got), why, show(want))
				}
				m.KeyType(raw)
			}
		})
	}
	wg.Wait()
}

func TestNoAllocations(t *testing.T) {
	for _, s := range []mapping.Spec{
		{Family: "d"},
		{Family: "d", Encoding: mapping.BSON, KeyEncoding: mapping.BSON, Timestamp: "created"},
		{Family: "d", Encoding: mapping.JSON, KeyEncoding: mapping.JSON},
		{Columns: []mapping.Column{{From: "place.city", To: "d:c"}, {From: "place.geo.1", To: "d:g"}}, Document: "d:doc"},
	} {
		b := hbase.AcquireBatch(hbase.SyncWAL)
		p := compile(t, s).Mapper("c", planTime, "")
		raw := marshal(t, large(1))
		route := func([]byte) *hbase.Batch { return b }
		n := testing.AllocsPerRun(100, func() {
			if o, why := p.Map(raw, route); o != jobs.Mapped {
				t.Fatal(why)
			}
			if b.Rows() == 8 {
				b.Release() // keeps its memory
				b = hbase.AcquireBatch(hbase.SyncWAL)
			}
		})
		if n > 0 {
			t.Errorf("%+v: %v allocations a row", s, n)
		}
		b.Release()
	}
}

func FuzzMap(f *testing.F) {
	f.Add(marshal(f, large(1)))
	f.Add(marshal(f, bson.D{{Key: "_id", Value: bson.CodeWithScope{Code: "f", Scope: bson.D{{Key: "a", Value: bson.Regex{Pattern: "x", Options: "i"}}}}}}))
	f.Add(marshal(f, bson.D{{Key: "_id", Value: bson.DBPointer{DB: "x"}}, {Key: "b", Value: bson.Binary{Subtype: 2, Data: []byte("abc")}}}))
	var ms []*mapping.Mapping
	for _, s := range []mapping.Spec{
		{Family: "d"},
		{Family: "d", Encoding: mapping.JSON, KeyEncoding: mapping.JSON, Document: "d:doc"},
		{Key: "salt(_id, 7)", Encoding: mapping.BSON, Timestamp: "a.0", Columns: []mapping.Column{{From: "a.b.0", To: "d:x"}, {From: "b", To: "d:y"}}, Filter: "a == b or not (c in [1, 2])"},
	} {
		ms = append(ms, compile(f, s))
	}
	used := make([]jobs.Mapper, len(ms))
	for i, m := range ms {
		used[i] = m.Mapper("c", planTime, "")
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := slices.Clone(raw)
		for i, m := range ms {
			r1, o1, why1 := mapOne(t, m.Mapper("c", planTime, ""), raw)
			r2, o2, why2 := mapOne(t, used[i], raw)
			if show(r1) != show(r2) || o1 != o2 || why1 != why2 {
				t.Errorf("once %s %d %s, then %s %d %s", show(r1), o1, why1, show(r2), o2, why2)
			}
			// What the driver cannot read must be refused as well; it does not look into what it skips, and so takes more.
			if o1 == jobs.Mapped && bson.Raw(raw).Validate() != nil {
				t.Errorf("mapped to %s, but the driver says %v", show(r1), bson.Raw(raw).Validate())
			}
			m.KeyType(raw)
		}
		if string(before) != string(raw) {
			t.Error("the document was changed")
		}
	})
}

func TestDescribe(t *testing.T) {
	base := mapping.Spec{Family: "d"}
	same := []mapping.Spec{
		{Family: "d", Key: "_id", KeyEncoding: mapping.Bytes, Encoding: mapping.Bytes, Timestamp: "plan", Empty: "dead"},
		{Family: "d", MaxRow: 1000},
		{Family: "d", Key: " _id "},
	}
	other := []mapping.Spec{
		{Family: "e"},
		{Family: "d", Key: "a"},
		{Family: "d", KeyEncoding: mapping.BSON},
		{Family: "d", Encoding: mapping.BSON},
		{Family: "d", Timestamp: "1"},
		{Family: "d", Timestamp: "a"},
		{Family: "d", Document: "doc"},
		{Family: "d", Columns: []mapping.Column{{From: "a", To: "a"}}},
		{Family: "d", Filter: "a"},
		{Family: "d", Empty: "skip"},
	}
	want := compile(t, base).Describe()
	for _, s := range same {
		if diff := cmp.Diff(want, compile(t, s).Describe()); diff != "" {
			t.Errorf("%+v: %s", s, diff)
		}
	}
	for _, s := range other {
		if cmp.Equal(want, compile(t, s).Describe()) {
			t.Errorf("%+v is described as %+v", s, base)
		}
	}
	got := compile(t, mapping.Spec{Family: "d", Timestamp: "007", Document: "e:doc", Filter: "a", Encoding: mapping.JSON, Columns: []mapping.Column{{From: "b.c", To: "c"}, {From: "a", To: "d:a", Encoding: mapping.BSON}}}).Describe()
	if diff := cmp.Diff(map[string]string{
		"map.key": "_id", "map.key_encoding": "bytes", "map.timestamp": "7", "map.document": "e:doc", "map.filter": "a", "map.empty": "dead",
		"map.columns[d:c]": "b.c as json", "map.columns[d:a]": "a as bson",
	}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestFamilies(t *testing.T) {
	m := compile(t, mapping.Spec{Family: "d", Document: "x:doc", Columns: []mapping.Column{{From: "a", To: "b:a"}, {From: "b", To: "a:b"}, {From: "c", To: "b:c"}}})
	if diff := cmp.Diff([]string{"a", "b", "x"}, m.Families()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"d"}, compile(t, mapping.Spec{Family: "d"}).Families()); diff != "" {
		t.Error(diff)
	}
}

func TestExpressions(t *testing.T) {
	when := time.Date(2020, 5, 6, 7, 8, 9, 123e6, time.UTC)
	raw := marshal(t, bson.D{
		{Key: "_id", Value: someID},
		{Key: "s", Value: "Abc"},
		{Key: "space", Value: " "},
		{Key: "i", Value: int32(7)},
		{Key: "l", Value: int64(1) << 40},
		{Key: "f", Value: 2.5},
		{Key: "whole", Value: 42.0},
		{Key: "t", Value: true},
		{Key: "when", Value: bson.NewDateTimeFromTime(when)},
		{Key: "bin", Value: bson.Binary{Subtype: 4, Data: []byte{0xDE, 0xAD}}},
		{Key: "dec", Value: mustDecimal("10.50")},
		{Key: "z", Value: nil},
		{Key: "tags", Value: bson.A{"x", "y", int32(3)}},
		{Key: "items", Value: bson.A{bson.D{{Key: "price", Value: 5}}, bson.D{{Key: "price", Value: 50}}, bson.D{}}},
		{Key: "place", Value: bson.D{{Key: "city", Value: "Kiel"}, {Key: "odd name", Value: "odd"}}},
		{Key: "a.b", Value: "dotted"},
		{Key: "hash", Value: "named as a function"},
		{Key: "ts", Value: bson.Timestamp{T: 1, I: 2}},
	})
	keys := map[string]string{
		`concat(s, "-", place.city)`:        "=Abc-Kiel",
		`concat(s, i)`:                      "41626300000007",
		`concat(_id, bin)`:                  "507f1f77bcf86cd799439011dead",
		`pad(i, 5)`:                         "=00007",
		`pad(whole, 3)`:                     "=042",
		`pad(str(i), 3)`:                    "=007",
		`fixed(s, 5)`:                       "4162630000",
		`reverse(s)`:                        "=cbA",
		`reverse(i)`:                        "07000000",
		`hex(_id)`:                          "=507f1f77bcf86cd799439011",
		`hex(t)`:                            "=ff",
		`hash(lower(s))`:                    "06b05ab6733a618578af5f94892f3950",
		`hash(lower(s), 4)`:                 "06b05ab6",
		`hash(trim(space))`:                 "99aa06d3014798d86001c324468d497f",
		`salt(lower(s), 256)`:               "50616263",
		`salt(lower(s), 10)`:                fmt.Sprintf("%02x616263", uint64(0x78af5f94892f3950)%10),
		`be(i)`:                             "00000007",
		`be(i + 0)`:                         "0000000000000007",
		`be(l)`:                             "0000010000000000",
		`be(f)`:                             "4004000000000000",
		`be(when)`:                          "00000171e8d02c23",
		`invert(when)`:                      "7ffffe8e172fd3dc",
		`invert(i)`:                         "7ffffffffffffff8",
		`str(_id)`:                          "=507f1f77bcf86cd799439011",
		`str(i)`:                            "=7",
		`str(f)`:                            "=2.5",
		`str(t)`:                            "=true",
		`str(when)`:                         "=2020-05-06T07:08:09.123Z",
		`str(dec)`:                          "=10.50",
		`str(ts)`:                           "0000000100000002",
		`lower(s) + upper(s)`:               "=abcABC",
		`i * 2`:                             "000000000000000e",
		`f * 2`:                             "4014000000000000",
		`doc["a.b"] + "!"`:                  "=dotted!",
		`doc["a.b"]`:                        "=dotted",
		`place["odd name"]`:                 "=odd",
		`doc["hash"] ?? s`:                  "=named as a function",
		`hash ?? s`:                         "=named as a function",
		`missing ?? z ?? s`:                 "=Abc",
		`tags[1] + "z"`:                     "=yz",
		`place?.city ?? s`:                  "=Kiel",
		`let city = place.city; city + "!"`: "=Kiel!",
		`i > 5 ? "many" : "few"`:            "=many",
		`date(_id) < when ? "old" : "new"`:  "=old",
		`tags[len(tags) - 2]`:               "=y",
		`bin ?? s`:                          "dead",
		`t and i == 7`:                      "ff",
		`s | reverse() | hex()`:             "=636241",
		`concat(pad(i, 4), "/", invert(when), _id)`:      "303030372f" + "7ffffe8e172fd3dc" + "507f1f77bcf86cd799439011",
		`concat(place.city, "\x00", hex(_id))`:           "=Kiel\x00507f1f77bcf86cd799439011",
		`be(date("2020-05-06T09:08:09.123+02:00")) ?? s`: "00000171e8d02c23",
		`items[1].price * 2`:                             "0000000000000064",
	}
	for expr, want := range keys {
		p := compile(t, mapping.Spec{Family: "d", Key: expr}).Mapper("c", planTime, "")
		row, o, why := mapOne(t, p, raw)
		if text, ok := strings.CutPrefix(want, "="); ok {
			want = hex.EncodeToString([]byte(text))
		}
		if got := hex.EncodeToString(row.Key); o != jobs.Mapped || got != want {
			t.Errorf("key %s: got %s (%q) %s, want %s", expr, got, row.Key, why, want)
		}
	}
	filters := map[string]jobs.Outcome{
		`i > 5`:                jobs.Mapped,
		`i > 7`:                jobs.Filtered,
		`i >= 7 && i <= 7`:     jobs.Mapped,
		`7 < i`:                jobs.Filtered,
		`missing > 5`:          jobs.Filtered,
		`missing < 5`:          jobs.Filtered,
		`5 < z`:                jobs.Filtered,
		`missing == nil`:       jobs.Mapped,
		`z == nil`:             jobs.Mapped,
		`place.nothing.at.all`: jobs.Filtered,
		`!missing`:             jobs.Mapped,
		`missing or t`:         jobs.Mapped,
		`t and missing`:        jobs.Filtered,
		`missing ? false : t`:  jobs.Mapped,
		`i == 7.0`:             jobs.Mapped,
		`i == "7"`:             jobs.Filtered,
		`i != "7"`:             jobs.Mapped,
		`l == 1099511627776`:   jobs.Mapped,
		`dec > 10`:             jobs.Mapped,
		`dec == 10.5`:          jobs.Mapped,
		`s == "Abc"`:           jobs.Mapped,
		`s < "Abd"`:            jobs.Mapped,
		`s startsWith "A"`:     jobs.Mapped,
		`s matches "^[A-C]"`:   jobs.Mapped,
		`missing matches "x"`:  jobs.Filtered,
		`missing contains "x"`: jobs.Filtered,
		`bin == b"\xde\xad"`:   jobs.Mapped,
		`when > date("2020-01-01") and when < date("2020-05-06T07:08:10Z")`: jobs.Mapped,
		`when == date(1588748889123)`:                                       jobs.Mapped,
		`when > date("2020-05-06 07:08:09") + duration("1s")`:               jobs.Filtered,
		`_id == "507f1f77bcf86cd799439011"`:                                 jobs.Mapped,
		`_id == "507F1F77BCF86CD799439011"`:                                 jobs.Mapped,
		`_id < "600000000000000000000000"`:                                  jobs.Mapped,
		`_id in ["507f1f77bcf86cd799439011", "x"]`:                          jobs.Mapped,
		`i in [1, 7]`:                   jobs.Mapped,
		`i in 1..6`:                     jobs.Filtered,
		`"y" in tags`:                   jobs.Mapped,
		`"y" in missing`:                jobs.Filtered,
		`3.0 in tags`:                   jobs.Mapped,
		`"city" in place`:               jobs.Mapped,
		`tags == ["x", "y", 3]`:         jobs.Mapped,
		`any(items, .price > 10)`:       jobs.Mapped,
		`all(items, .price > 10)`:       jobs.Filtered,
		`count(items, .price > 1) == 2`: jobs.Mapped,
		`len(tags) == 3`:                jobs.Mapped,
		`ts == ts`:                      jobs.Mapped,
		`when >= date("2020-01-01") and not (s in ["draft", "deleted"])`: jobs.Mapped,
		`i > 5 and "x" in tags`: jobs.Mapped,
		`f > 2 and f < 3`:       jobs.Mapped,
		`i > "5"`:               jobs.Filtered,
		`when > "2020-01-01"`:   jobs.Refused,
		`_id > "short"`:         jobs.Filtered,
		`s`:                     jobs.Refused,
		`s and t`:               jobs.Refused,
		`tags[7] == nil`:        jobs.Mapped,
		`tags[i] == nil`:        jobs.Refused,
		`hex(missing) == "x"`:   jobs.Refused,
	}
	for expr, want := range filters {
		p := compile(t, mapping.Spec{Document: "d:doc", Filter: expr}).Mapper("c", planTime, "")
		for range 2 {
			if _, o, why := mapOne(t, p, raw); o != want {
				t.Errorf("filter %s: outcome %d %s, want %d", expr, o, why, want)
			}
		}
	}
}

func mustDecimal(s string) bson.Decimal128 {
	d, err := bson.ParseDecimal128(s)
	if err != nil {
		panic(err)
	}
	return d
}
