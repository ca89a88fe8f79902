package check

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/hbase/thrift2"
)

// tableServer is a gateway with one table of which it only gives pages.
type tableServer struct {
	thrift2.THBaseService // nil: nothing else may be called
	rows                  []*thrift2.TResult_
	fail                  int // pages to refuse first
	raw                   bool
}

func (s *tableServer) GetScannerResults(_ context.Context, _ []byte, scan *thrift2.TScan, n int32) ([]*thrift2.TResult_, error) {
	if s.fail > 0 {
		s.fail--
		return nil, &thrift2.TIOError{Message: thrift.StringPtr("region is moving")}
	}
	s.raw = len(scan.Attributes["_raw_"]) == 1
	i, _ := slices.BinarySearchFunc(s.rows, scan.StartRow, func(r *thrift2.TResult_, start []byte) int { return bytes.Compare(r.Row, start) })
	return s.rows[i:min(i+int(n), len(s.rows))], nil
}

func serve(t testing.TB, s *tableServer) Table {
	t.Helper()
	sock, err := thrift.NewTServerSocket("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := sock.Listen(); err != nil {
		t.Fatal(err)
	}
	server := thrift.NewTSimpleServer4(thrift2.NewTHBaseServiceProcessor(s), sock, thrift.NewTBufferedTransportFactory(1<<16), thrift.NewTBinaryProtocolFactoryConf(nil))
	done := make(chan error, 1)
	go func() { done <- server.AcceptLoop() }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return Table{Addr: sock.Addr().String(), Name: "t"}
}

func result(key string, cells ...*thrift2.TColumnValue) *thrift2.TResult_ {
	return &thrift2.TResult_{Row: []byte(key), ColumnValues: cells}
}

func column(name string, timestamp int64, value string) *thrift2.TColumnValue {
	family, qualifier, _ := strings.Cut(name, ":")
	return &thrift2.TColumnValue{Family: []byte(family), Qualifier: []byte(qualifier), Value: []byte(value), Timestamp: &timestamp}
}

func document(t *testing.T, d bson.D) bson.Raw {
	t.Helper()
	raw, err := bson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func writeFile(t *testing.T, name string, parts ...[]byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, bytes.Join(parts, nil), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// people is a dump of three documents, out of order, and the table that it must become.
func people(t *testing.T) ([][]byte, []*thrift2.TResult_) {
	t.Helper()
	docs := [][]byte{
		document(t, bson.D{{Key: "_id", Value: "c"}, {Key: "n", Value: int32(3)}, {Key: "none", Value: nil}}),
		document(t, bson.D{{Key: "_id", Value: "a"}, {Key: "tags", Value: bson.A{"x", int32(1)}}, {Key: "n", Value: int32(1)}}),
		document(t, bson.D{{Key: "_id", Value: "b"}}),
	}
	rows := []*thrift2.TResult_{
		result("a", column("d:_id", 7, "a"), column("d:n", 7, "\x00\x00\x00\x01"), column("d:tags", 7, `["x",{"$numberInt":"1"}]`)),
		result("b", column("d:_id", 7, "b")),
		result("c", column("d:_id", 7, "c"), column("d:n", 7, "\x00\x00\x00\x03")),
	}
	return docs, rows
}

func TestEqual(t *testing.T) {
	for _, fail := range []int{0, 2} {
		docs, rows := people(t)
		file := writeFile(t, "people.bson", docs...)
		s := &tableServer{rows: rows, fail: fail}
		for _, timestamp := range []int64{0, 7} {
			rep, err := Equal(t.Context(), serve(t, s), Source{Path: file}, Mapping{Timestamp: timestamp})
			if err != nil {
				t.Fatal(err)
			}
			if err := rep.Err(); err != nil {
				t.Error(err)
			}
			if rep.Documents != 3 || rep.Rows != 3 || rep.Cells != 6 || rep.Timestamp != 7 {
				t.Errorf("got %+v, want 3 documents, 3 rows, 6 cells at 7", rep)
			}
			fail = 0
		}
		if s.raw {
			t.Error("the comparison scanned raw")
		}
	}
}

// A checker that passes everything is worse than none: every way in which a table can be wrong must show.
func TestEqualFindsDifferences(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(rows []*thrift2.TResult_) []*thrift2.TResult_
		want  string
	}{
		{"first row missing", func(r []*thrift2.TResult_) []*thrift2.TResult_ { return r[1:] }, `row "a" is missing`},
		{"middle row missing", func(r []*thrift2.TResult_) []*thrift2.TResult_ { return slices.Delete(r, 1, 2) }, `row "b" is missing`},
		{"last row missing", func(r []*thrift2.TResult_) []*thrift2.TResult_ { return r[:2] }, `row "c" is missing`},
		{"row too many", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			return slices.Insert(r, 2, result("bb", column("d:_id", 7, "bb")))
		}, `row "bb" is in the table`},
		{"row too many at the end", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			return append(r, result("d", column("d:_id", 7, "d")))
		}, `row "d" is in the table`},
		{"cell missing", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			r[2].ColumnValues = r[2].ColumnValues[:1]
			return r
		}, `cell d:n = 00000003 is missing`},
		{"cell too many", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			r[2].ColumnValues = append(r[2].ColumnValues, column("d:none", 7, ""))
			return r
		}, `cell d:none at 7 = "" is not expected`},
		{"cell in another family", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			r[1].ColumnValues[0].Family = []byte("e")
			return r
		}, `cell e:_id`},
		{"value", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			r[2].ColumnValues[1].Value = []byte{3, 0, 0, 0}
			return r
		}, `cell d:n is 03000000, want 00000003`},
		{"JSON value", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			r[0].ColumnValues[2].Value = []byte(`["x",{"$numberInt":"2"}]`)
			return r
		}, `cell d:tags is`},
		{"timestamp", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			r[2].ColumnValues[1] = column("d:n", 8, "\x00\x00\x00\x03")
			return r
		}, `cell d:n is at 8, want 7`},
		{"second version", func(r []*thrift2.TResult_) []*thrift2.TResult_ {
			r[1].ColumnValues = append(r[1].ColumnValues, column("d:_id", 6, "b"))
			return r
		}, `cell d:_id has a second version at 6 beside 7`},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs, rows := people(t)
			s := &tableServer{rows: c.spoil(rows)}
			rep, err := Equal(t.Context(), serve(t, s), Source{Path: writeFile(t, "people.bson", docs...)}, Mapping{})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(rep.String(), c.want) || rep.Err() == nil {
				t.Errorf("got %v, want %q", rep, c.want)
			}
		})
	}
}

func TestEqualOfKeysThatMeet(t *testing.T) {
	docs, rows := people(t)
	docs = append(docs, docs[0])
	rep, err := Equal(t.Context(), serve(t, &tableServer{rows: rows}), Source{Path: writeFile(t, "people.bson", docs...)}, Mapping{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Differences != 1 || !strings.Contains(rep.String(), "both give it") {
		t.Errorf("got %v, want that two documents give row c", rep)
	}
}

func TestEqualOfOmitted(t *testing.T) {
	docs, rows := people(t)
	m := Mapping{Omit: func(doc bson.Raw) bool {
		id, _ := lookup(doc, "_id")
		return id.StringValue() == "b"
	}}
	file := writeFile(t, "people.bson", docs...)
	rep, err := Equal(t.Context(), serve(t, &tableServer{rows: slices.Delete(slices.Clone(rows), 1, 2)}), Source{Path: file}, m)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Err() != nil || rep.Omitted != 1 {
		t.Errorf("got %v, want one omitted and no difference", rep)
	}
	rep, err = Equal(t.Context(), serve(t, &tableServer{rows: rows}), Source{Path: file}, m)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Differences != 1 {
		t.Errorf("got %v, want the row of the omitted document as a difference", rep)
	}
}

func TestEqualOfColumns(t *testing.T) {
	when := time.UnixMilli(1234567)
	doc := document(t, bson.D{
		{Key: "_id", Value: int32(5)},
		{Key: "key", Value: int64(-1)},
		{Key: "at", Value: when},
		{Key: "place", Value: bson.D{{Key: "city", Value: "Bergen"}, {Key: "geo", Value: bson.A{1.5, true}}}},
	})
	m := Mapping{
		Key: "key",
		Columns: []Column{
			{From: "place.city", To: "e:city", Encoding: "json"},
			{From: "place.geo.1", To: "d:b"},
			{From: "place.geo.2", To: "d:missing"},
			{From: "_id", To: "d:id", Encoding: "bson"},
		},
		Document:      "d:_doc",
		TimestampFrom: "at",
	}
	rows := []*thrift2.TResult_{result("\xff\xff\xff\xff\xff\xff\xff\xff",
		column("d:_doc", 1234567, string(doc)),
		column("d:b", 1234567, "\xff"),
		column("d:id", 1234567, "\x10\x05\x00\x00\x00"),
		column("e:city", 1234567, `"Bergen"`),
	)}
	rep, err := Equal(t.Context(), serve(t, &tableServer{rows: rows}), Source{Path: writeFile(t, "x.bson", doc)}, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.Err(); err != nil {
		t.Error(err)
	}
}

func TestSources(t *testing.T) {
	docs, rows := people(t)
	namespace := func(collection string, eof bool) []byte {
		return document(t, bson.D{{Key: "db", Value: "x"}, {Key: "collection", Value: collection}, {Key: "EOF", Value: eof}, {Key: "CRC", Value: int64(0)}})
	}
	end := []byte{0xff, 0xff, 0xff, 0xff}
	archive := bytes.Join([][]byte{
		{0x6d, 0xe2, 0x99, 0x81},
		document(t, bson.D{{Key: "version", Value: "0.1"}}), document(t, bson.D{{Key: "db", Value: "x"}}), end,
		namespace("people", false), docs[0], end,
		namespace("other", false), document(t, bson.D{{Key: "_id", Value: "zz"}}), end,
		namespace("people", false), docs[1], docs[2], end,
		namespace("other", true), end,
		namespace("people", true), end,
	}, nil)
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}
	for _, s := range []Source{
		{Path: writeFile(t, "people.bson.gz", zip(bytes.Join(docs, nil)))},
		{Path: writeFile(t, "a.archive", archive), Collection: "x.people"},
		{Path: writeFile(t, "a.archive.gz", zip(archive)), Collection: "x.people"},
	} {
		rep, err := Equal(t.Context(), serve(t, &tableServer{rows: rows}), s, Mapping{})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Err() != nil || rep.Documents != 3 {
			t.Errorf("%s: got %v", s.Path, rep)
		}
	}
	if _, err := Equal(t.Context(), Table{}, Source{Path: writeFile(t, "a.archive", archive), Collection: "x.absent"}, Mapping{}); err == nil {
		t.Error("a collection that the archive lacks gives no error")
	}
	if _, err := Equal(t.Context(), Table{}, Source{Path: writeFile(t, "cut.bson", docs[0], docs[1][:9])}, Mapping{}); err == nil {
		t.Error("a file that ends inside a document gives no error")
	}
}

func TestCountVersions(t *testing.T) {
	marker := column("d:b", 9, "")
	kind := int8(12)
	marker.Type = &kind
	s := &tableServer{rows: []*thrift2.TResult_{
		result("a", column("d:a", 7, "1"), marker, column("d:b", 7, "1"), column("d:b", 6, "1"), column("d:b", 5, "1")),
		result("b", column("d:b", 7, "1"), column("e:b", 7, "1")),
	}}
	v, err := CountVersions(t.Context(), serve(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if !s.raw {
		t.Error("the scan was not raw")
	}
	if v.Rows != 2 || v.Columns != 4 || v.Cells != 6 || v.Deletes != 1 || len(v.Several) != 1 || !strings.Contains(v.Several[0], "d:b has versions 7 and 6") {
		t.Errorf("got %+v", v)
	}
}

// The cells are written out here from the description of the encodings, so that an error in encode cannot hide.
func TestEncode(t *testing.T) {
	id := bson.ObjectID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	decimal, err := bson.ParseDecimal128("-1.50")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		value any
		bytes string // hex, or text after a quote
		bson  string
		json  string
	}{
		{int32(-2), "fffffffe", "10feffffff", `{"$numberInt":"-2"}`},
		{int64(258), "0000000000000102", "120201000000000000", `{"$numberLong":"258"}`},
		{1.0, "3ff0000000000000", "01000000000000f03f", `{"$numberDouble":"1.0"}`},
		{"é", "c3a9", "0203000000c3a900", `"é"`},
		{"", "", "020100000000", `""`},
		{true, "ff", "0801", `true`},
		{false, "00", "0800", `false`},
		{id, "0102030405060708090a0b0c", "070102030405060708090a0b0c", `{"$oid":"0102030405060708090a0b0c"}`},
		{bson.DateTime(-1), "ffffffffffffffff", "09ffffffffffffffff", `{"$date":{"$numberLong":"-1"}}`},
		{bson.Timestamp{T: 1, I: 2}, "0000000100000002", "110200000001000000", `{"$timestamp":{"t":1,"i":2}}`},
		{bson.Binary{Subtype: 4, Data: []byte{9, 8}}, "0908", "0502000000040908", `{"$binary":{"base64":"CQg=","subType":"04"}}`},
		{bson.Binary{Subtype: 2, Data: []byte{9, 8}}, "0908", "050600000002020000000908", `{"$binary":{"base64":"CQg=","subType":"02"}}`},
		{bson.Binary{Subtype: 2}, "", "05040000000200000000", `{"$binary":{"base64":"","subType":"02"}}`},
		{decimal, "'-1.50", "filled below", `{"$numberDecimal":"-1.50"}`},
		{nil, "none", "0a", `null`},
		{bson.D{{Key: "a", Value: int32(1)}}, `'{"a":{"$numberInt":"1"}}`, "030c0000001061000100000000", `{"a":{"$numberInt":"1"}}`},
		{bson.A{"x"}, `'["x"]`, "040e00000002300002000000780000", `["x"]`},
		{bson.Regex{Pattern: "a", Options: "i"}, `'{"$regularExpression":{"pattern":"a","options":"i"}}`, "0b61006900", `{"$regularExpression":{"pattern":"a","options":"i"}}`},
		{bson.JavaScript("f"), `'{"$code":"f"}`, "0d020000006600", `{"$code":"f"}`},
		{bson.Symbol("s"), `'{"$symbol":"s"}`, "0e020000007300", `{"$symbol":"s"}`},
		{bson.MinKey{}, `'{"$minKey":1}`, "ff", `{"$minKey":1}`},
		{bson.MaxKey{}, `'{"$maxKey":1}`, "7f", `{"$maxKey":1}`},
		{bson.Undefined{}, `'{"$undefined":true}`, "06", `{"$undefined":true}`},
	} {
		v := document(t, bson.D{{Key: "v", Value: c.value}}).Lookup("v")
		if v.Type == bson.TypeDecimal128 {
			c.bson = "13" + hex.EncodeToString(v.Value)
		}
		for encoding, want := range map[string]string{"bytes": c.bytes, "bson": c.bson, "json": "'" + c.json} {
			got, exists, err := encode(encoding, v)
			if err != nil {
				t.Errorf("%s of %v: %v", encoding, v, err)
				continue
			}
			if exists == (want == "none") {
				t.Errorf("%s of %v: a cell exists: %v", encoding, v, exists)
				continue
			}
			if !exists {
				continue
			}
			text := hex.EncodeToString(got)
			if strings.HasPrefix(want, "'") {
				text = "'" + string(got)
			}
			if text != want {
				t.Errorf("%s of %v: got %s, want %s", encoding, v, text, want)
			}
		}
	}
}

func TestSameJSON(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`{"a":"<"}`, `{"a":"\u003c"}`, true},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, false},
		{`{"a": 1}`, `{"a":1}`, false},
		{`[1]`, `[1.0]`, false},
		{`[1]`, `[1]]`, false},
		{`"a"`, `"a`, false},
	} {
		if got := sameJSON([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("sameJSON(%s, %s) = %v", c.a, c.b, got)
		}
	}
}

// BenchmarkEqual tells what the checker costs: rows a second, and bytes held for each.
func BenchmarkEqual(b *testing.B) {
	const n = 20000
	var file bytes.Buffer
	var rows []*thrift2.TResult_
	value := strings.Repeat("v", 200)
	for i := range n {
		key := fmt.Sprintf("%08d", i)
		raw, err := bson.Marshal(bson.D{{Key: "_id", Value: key}, {Key: "a", Value: value}, {Key: "b", Value: value}})
		if err != nil {
			b.Fatal(err)
		}
		file.Write(raw)
		rows = append(rows, result(key, column("d:_id", 7, key), column("d:a", 7, value), column("d:b", 7, value)))
	}
	path := filepath.Join(b.TempDir(), "x.bson")
	if err := os.WriteFile(path, file.Bytes(), 0o644); err != nil {
		b.Fatal(err)
	}
	table := serve(b, &tableServer{rows: rows})
	b.ReportAllocs()
	for b.Loop() {
		rep, err := Equal(context.Background(), table, Source{Path: path}, Mapping{})
		if err != nil || rep.Err() != nil || rep.Rows != n {
			b.Fatal(err, rep)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
