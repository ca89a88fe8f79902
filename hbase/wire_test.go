package hbase

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"drover/hbase/thrift2"
)

// tape is a gateway that takes anything and plays a reply from memory.
type tape struct {
	net.Conn
	written bytes.Buffer
	reply   io.Reader
}

func (p *tape) Write(b []byte) (int, error) { return p.written.Write(b) }
func (p *tape) Read(b []byte) (int, error)  { return p.reply.Read(b) }
func (p *tape) Close() error                { return nil }
func (p *tape) SetDeadline(time.Time) error { return nil }
func play(reply []byte, t Transport) (*Conn, *tape) {
	p := &tape{reply: bytes.NewReader(reply)}
	return newConn(p, "gw:9090", t), p
}

// sockets are the ways to speak without HTTP.
var sockets = []Transport{{}, {Framed: true}, {Compact: true}, {Framed: true, Compact: true}}

func (t Transport) testName() string {
	return fmt.Sprintf("http=%v framed=%v compact=%v", t.HTTP, t.Framed, t.Compact)
}

func TestRequestsEqualGenerated(t *testing.T) {
	for _, tr := range sockets {
		tr.MaxFrame = 64 << 20
		t.Run(tr.testName(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				rows := drawRows(t)
				table := rapid.StringN(1, 20, 40).Draw(t, "table")
				durability := Durability(rapid.IntRange(0, 4).Draw(t, "durability"))
				b := AcquireBatch(durability)
				defer b.Release()
				fill(b, rows)
				lo := rapid.IntRange(0, len(rows)).Draw(t, "lo")
				hi := rapid.IntRange(lo, len(rows)).Draw(t, "hi")

				puts, dels := thriftPuts(rows[lo:hi], durability), thriftDeletes(rows[lo:hi], durability)
				var want []byte
				seq := int32(0)
				if len(puts) > 0 {
					seq++
					want = append(want, generated(t, tr, "putMultiple", thrift.CALL, seq, &thrift2.THBaseServicePutMultipleArgs{Table: []byte(table), Tputs: puts})...)
				}
				replies := bytes.NewBuffer(nil)
				if seq > 0 {
					replies.Write(generated(t, tr, "putMultiple", thrift.REPLY, seq, &thrift2.THBaseServicePutMultipleResult{}))
				}
				// The replies come one at a time, since one that comes early counts as stale.
				c, p := play(replies.Bytes(), tr)
				if err := c.PutMultiple(context.Background(), table, b, lo, hi); err != nil {
					t.Fatal(err)
				}
				undone := false
				if len(dels) > 0 {
					undone = rapid.Bool().Draw(t, "undone")
					left := []*thrift2.TDelete{}
					if undone {
						left = dels
					}
					seq++
					want = append(want, generated(t, tr, "deleteMultiple", thrift.CALL, seq, &thrift2.THBaseServiceDeleteMultipleArgs{Table: []byte(table), Tdeletes: dels})...)
					p.reply = bytes.NewReader(generated(t, tr, "deleteMultiple", thrift.REPLY, seq, &thrift2.THBaseServiceDeleteMultipleResult{
						Success: left,
					}))
				}
				if err := c.DeleteMultiple(context.Background(), table, b, lo, hi); (err != nil) != undone {
					t.Fatal(err)
				}
				if !bytes.Equal(p.written.Bytes(), want) {
					t.Fatalf("wrote\n%x\nthe generated code writes\n%x", p.written.Bytes(), want)
				}
				if !c.Reusable() {
					t.Fatal("not reusable after good replies")
				}
			})
		})
	}
}

func TestRepliesOfPuts(t *testing.T) {
	text, retry := "org.apache.hadoop.hbase.RegionTooBusyException: Over memstore limit=1", true
	thrown := &thrift2.TIOError{Message: &text, CanRetry: &retry}
	void := &thrift2.THBaseServicePutMultipleResult{}
	type reply struct {
		name string
		kind thrift.TMessageType
		seq  int32
		call string
		body thrift.TStruct

		want     Kind
		reusable bool
	}
	for _, tr := range sockets {
		for _, r := range []reply{
			{"void", thrift.REPLY, 1, "putMultiple", void, 0, true},
			{"thrown", thrift.REPLY, 1, "putMultiple", &thrift2.THBaseServicePutMultipleResult{Io: thrown}, Again, true},
			{"internal", thrift.EXCEPTION, 1, "putMultiple", exception(6, "Internal error processing putMultiple"), Never, true},
			{"unknown", thrift.EXCEPTION, 1, "putMultiple", exception(1, "Invalid method name"), Elsewhere, true},
			{"protocol", thrift.EXCEPTION, 1, "putMultiple", exception(7, "bad"), Elsewhere, false},
			{"stale", thrift.REPLY, 0, "putMultiple", void, Elsewhere, false},
			{"other", thrift.REPLY, 1, "putMultiplf", void, Elsewhere, false},
			{"longer", thrift.REPLY, 1, "putMultiples", void, Elsewhere, false},
			{"call", thrift.CALL, 1, "putMultiple", void, Elsewhere, false},
		} {
			t.Run(tr.testName()+"/"+r.name, func(t *testing.T) {
				whole := generated(t, tr, r.call, r.kind, r.seq, r.body)
				b := oneRow()
				c, _ := play(whole, tr)
				err := c.PutMultiple(context.Background(), "t", b, 0, 1)
				if kind, _ := Classify(err); kind != r.want || c.Reusable() != r.reusable {
					t.Errorf("%v: kind %v, reusable %v; want %v, %v", err, kind, c.Reusable(), r.want, r.reusable)
				}
				if errors.Is(err, ErrUnknownMethod) != (r.name == "unknown") {
					t.Errorf("%v is ErrUnknownMethod: %v", err, errors.Is(err, ErrUnknownMethod))
				}
				for cut := range whole {
					c, _ := play(whole[:cut], tr)
					err := c.PutMultiple(context.Background(), "t", b, 0, 1)
					if kind, _ := Classify(err); kind != Elsewhere || c.Reusable() {
						t.Fatalf("cut after %d bytes: %v, kind %v, reusable %v", cut, err, kind, c.Reusable())
					}
				}
				c, _ = play(append(bytes.Clone(whole), whole...), tr)
				if c.PutMultiple(context.Background(), "t", b, 0, 1); c.Reusable() {
					t.Error("reusable with a reply too many")
				}
			})
		}
	}
}

func exception(code int32, text string) thrift.TStruct {
	return thrift.NewTApplicationException(code, text)
}

func oneRow() *Batch {
	b := AcquireBatch(SyncWAL)
	b.Begin([]byte("k"))
	b.Cell(Put, []byte("d"), []byte("q"), 1, []byte("v"))
	b.End()
	return b
}

// drawResults makes what a scan of [a, …) finds, as the generated code takes it and as a Page gives it.
func drawResults(t *rapid.T) (out []*thrift2.TResult_, rows []Row, partial []bool) {
	types := map[Op]int8{Put: 4, DeleteVersion: 8, DeleteFamilyVersion: 10, DeleteColumn: 12, DeleteFamily: 14}
	for i := range rapid.IntRange(0, 20).Draw(t, "results") {
		r := drawRow(t)
		r.Key = append([]byte{byte(i)}, r.Key...)
		res := thrift2.NewTResult_()
		res.Row = r.Key
		res.ColumnValues = []*thrift2.TColumnValue{}
		res.Partial = rapid.Bool().Draw(t, "partial")
		res.Stale = rapid.Bool().Draw(t, "stale")
		r.Cells = r.Cells[:rapid.IntRange(0, len(r.Cells)).Draw(t, "cells")]
		for _, c := range r.Cells {
			v := &thrift2.TColumnValue{Family: c.Family, Qualifier: c.Qualifier, Value: c.Value, Timestamp: &c.Timestamp}
			if typ := types[c.Op]; c.Op != Put || rapid.Bool().Draw(t, "typed") {
				v.Type = &typ
			}
			if rapid.Bool().Draw(t, "tagged") {
				v.Tags = []byte("tags")
			}
			res.ColumnValues = append(res.ColumnValues, v)
		}
		out, rows, partial = append(out, res), append(rows, r), append(partial, res.Partial)
	}
	return out, rows, partial
}

// wholeRows is what a page keeps of results of different rows: all before the first that is not known to be whole.
func wholeRows(rows []Row, partial []bool) (_ []Row, more bool) {
	for i := range rows {
		if partial[i] && (i > 0 || len(rows) == 1) {
			return rows[:i], true
		}
	}
	return rows, false
}

func unpack(t interface{ Fatal(...any) }, p *Page) []Row {
	var out []Row
	for _, r := range p.Rows {
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		row := r.Row()
		if repacked := AppendPacked(nil, row); !bytes.Equal(repacked, r) {
			t.Fatal("packed again it is another row")
		}
		out = append(out, row)
	}
	return out
}

func TestPagesEqualGenerated(t *testing.T) {
	for _, tr := range sockets {
		t.Run(tr.testName(), func(t *testing.T) {
			var page Page // reused, as a reader does
			rapid.Check(t, func(t *rapid.T) {
				results, rows, partial := drawResults(t)
				c, p := play(generated(t, tr, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{Success: append([]*thrift2.TResult_{}, results...)}), tr)
				scan := &Scan{
					Stop: []byte{255, 255}, MaxVersions: 3, TimeRange: TimeRange{From: 5}, Filter: "KeyOnlyFilter()",
					Columns: []Column{NewColumn([]byte("d"), nil), NewColumn([]byte("d"), []byte{})},
				}
				if err := c.ScanPage(context.Background(), "t", scan, 20, &page); err != nil {
					t.Fatal(err)
				}
				rows, more := wholeRows(rows, partial)
				if diff := cmp.Diff(rows, unpack(t, &page), cmpopts.EquateEmpty()); diff != "" || more != page.More {
					t.Fatalf("rows (-want +got), more is %v, want %v:\n%s", page.More, more, diff)
				}
				if !c.Reusable() {
					t.Fatal("not reusable after a good page")
				}
				n, cache, read := int32(20), false, thrift2.TReadType_PREAD
				want := thrift2.NewTScan()
				want.ReadType = &read
				want.StopRow, want.MaxVersions, want.Caching, want.Limit, want.CacheBlocks = scan.Stop, 3, &n, &n, &cache
				want.TimeRange = &thrift2.TTimeRange{MinStamp: 5, MaxStamp: 1<<63 - 1}
				want.FilterString = []byte("KeyOnlyFilter()")
				want.Columns = []*thrift2.TColumn{{Family: []byte("d")}, {Family: []byte("d"), Qualifier: []byte{}}}
				asked := generated(t, tr, "getScannerResults", thrift.CALL, 1, &thrift2.THBaseServiceGetScannerResultsArgs{Table: []byte("t"), Tscan: want, NumRows: 20})
				if !bytes.Equal(p.written.Bytes(), asked) {
					t.Fatalf("asked\n%x\nwant\n%x", p.written.Bytes(), asked)
				}
			})
		})
	}
}

func TestPagesOutOfOrder(t *testing.T) {
	result := func(keys ...string) (out []*thrift2.TResult_) {
		for _, k := range keys {
			key, partial := strings.CutSuffix(k, "+")
			out = append(out, &thrift2.TResult_{Row: []byte(key), ColumnValues: []*thrift2.TColumnValue{}, Partial: partial})
		}
		return out
	}
	for _, c := range []struct {
		keys []string
		good bool
	}{
		{[]string{"b", "c"}, true},
		{[]string{"b+", "b", "c"}, true},
		{[]string{"b", "b"}, false},
		{[]string{"c", "b"}, false},
		{[]string{"a"}, false},
		{[]string{"d"}, false},
		{[]string{"b", "c", "c1", "c2"}, false}, // more than asked for
	} {
		conn, _ := play(generated(t, Transport{}, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{Success: result(c.keys...)}), Transport{})
		var p Page
		err := conn.ScanPage(context.Background(), "t", &Scan{Start: []byte("b"), Stop: []byte("d")}, 3, &p)
		if (err == nil) != c.good || conn.Reusable() != c.good {
			t.Errorf("page %q: %v, reusable %v", c.keys, err, conn.Reusable())
		}
		if kind, _ := Classify(err); !c.good && (kind != Elsewhere || len(p.Rows) > 0) {
			t.Errorf("page %q: kind %v, %d rows left", c.keys, kind, len(p.Rows))
		}
	}
}

func TestScanOfNothing(t *testing.T) {
	for _, s := range []Scan{{Start: []byte("b"), Stop: []byte("b")}, {Start: []byte("c"), Stop: []byte("b")}} {
		c, p := play(nil, Transport{})
		if err := c.ScanPage(context.Background(), "t", &s, 10, new(Page)); err != nil || p.written.Len() > 0 {
			t.Errorf("[%q, %q): %v, %d bytes sent", s.Start, s.Stop, err, p.written.Len())
		}
	}
}

func TestHostileLengths(t *testing.T) {
	// A list of 500 million results, a key of 500 MB, a frame of 500 MB: each stated, none sent.
	huge := []byte{0x1d, 0xcd, 0x65, 0x00}
	head := generated(t, Transport{}, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{})
	head = head[:len(head)-1]
	for name, reply := range map[string][]byte{
		"list":  append(append(bytes.Clone(head), tList, 0, 0, tStruct), huge...),
		"key":   append(append(bytes.Clone(head), tList, 0, 0, tStruct, 0, 0, 0, 1, tString, 0, 1), huge...),
		"skip":  append(append(bytes.Clone(head), tMap, 0, 9, tI64, tI64), huge...),
		"frame": huge,
	} {
		c, _ := play(reply, Transport{Framed: name == "frame"})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := c.ScanPage(context.Background(), "t", &Scan{}, 1<<30, new(Page))
		runtime.ReadMemStats(&after)
		if kind, _ := Classify(err); kind != Elsewhere || c.Reusable() {
			t.Errorf("%s: %v, reusable %v", name, err, c.Reusable())
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

func TestFrameLimit(t *testing.T) {
	b := AcquireBatch(SyncWAL)
	defer b.Release()
	b.Begin([]byte("k"))
	b.Reserve([]byte("d"), []byte("q"), 1, 2<<20)
	b.End()
	for _, tr := range sockets {
		c, p := play(generated(t, tr, "putMultiple", thrift.REPLY, 1, &thrift2.THBaseServicePutMultipleResult{}), tr)
		err := c.PutMultiple(context.Background(), "t", b, 0, 1)
		kind, _ := Classify(err)
		if tr.Framed != (kind == Smaller) || tr.Framed != (p.written.Len() == 0) || !c.Reusable() {
			t.Errorf("%s: %v, %d bytes sent, reusable %v", tr.testName(), err, p.written.Len(), c.Reusable())
		}
	}
	// The generated client's messages have the same limit.
	c, p := play(nil, Transport{Framed: true})
	err := c.Call(context.Background(), func(ctx context.Context, client *thrift2.THBaseServiceClient) error {
		return client.Put(ctx, []byte("t"), &thrift2.TPut{Row: make([]byte, 2<<20)})
	})
	if kind, _ := Classify(err); kind != Smaller || p.written.Len() > 0 || !c.Reusable() {
		t.Errorf("generated: %v, %d bytes sent, reusable %v", err, p.written.Len(), c.Reusable())
	}
}

func FuzzReply(f *testing.F) {
	text := "nope"
	for _, tr := range sockets {
		f.Add(generated(f, tr, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{
			Success: []*thrift2.TResult_{{Row: []byte("k"), ColumnValues: []*thrift2.TColumnValue{{Family: []byte("d"), Qualifier: []byte("q"), Value: []byte("v"), Tags: []byte("t")}}, Partial: true}},
		}))
		f.Add(generated(f, tr, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{Io: &thrift2.TIOError{Message: &text}}))
		f.Add(generated(f, tr, "getScannerResults", thrift.EXCEPTION, 1, exception(6, "Internal error")))
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, reply []byte) {
		for _, tr := range append(sockets, Transport{HTTP: true}, Transport{HTTP: true, Compact: true}) {
			c, _ := play(reply, tr)
			var p Page
			err := c.ScanPage(context.Background(), "t", &Scan{}, 100, &p)
			if err != nil && len(p.Rows) > 0 {
				t.Fatalf("%d rows beside %v", len(p.Rows), err)
			}
			if kind, _ := Classify(err); (err == nil) != (kind == 0) {
				t.Fatalf("%v is of kind %v", err, kind)
			}
			// What was accepted must be what the generated code reads too.
			if err == nil && !tr.HTTP {
				checkAgainstGenerated(t, reply, tr, &p)
			}
		}
	})
}

func checkAgainstGenerated(t *testing.T, reply []byte, tr Transport, page *Page) {
	if tr.Framed {
		reply = reply[4:]
	}
	mem := thrift.NewTMemoryBuffer()
	mem.Write(reply)
	var p thrift.TProtocol = thrift.NewTBinaryProtocolConf(mem, nil)
	if tr.Compact {
		p = thrift.NewTCompactProtocolConf(mem, nil)
	}
	ctx := context.Background()
	if _, _, _, err := p.ReadMessageBegin(ctx); err != nil {
		t.Fatal(err)
	}
	var r thrift2.THBaseServiceGetScannerResultsResult
	if err := r.Read(ctx, p); err != nil {
		return // stricter: required fields, for one
	}
	keys := map[string]bool{} // parts of one row become one
	for _, s := range r.Success {
		if len(s.Row) > 0 {
			keys[string(s.Row)] = true
		}
	}
	with := 0
	for _, row := range unpack(t, page) {
		if len(row.Key) == 0 {
			continue
		}
		with++
		if !keys[string(row.Key)] {
			t.Fatalf("row %q, which the generated code does not read", row.Key)
		}
	}
	if len(keys) != with && !page.More {
		t.Fatalf("%d rows, the generated code reads %d", with, len(keys))
	}
}

// Parts of a row come as results of the same key, of which all but the last are partial.
func TestPartsOfRows(t *testing.T) {
	cells := func(n, from int) (out []*thrift2.TColumnValue) {
		for i := range n {
			ts := int64(from + i)
			out = append(out, &thrift2.TColumnValue{Family: []byte("d"), Qualifier: []byte("q"), Value: []byte("v"), Timestamp: &ts})
		}
		return out
	}
	type part struct {
		key     string
		cells   int
		partial bool
	}
	const size = keyHead + 1 + 6*(cellHead+3) // of a row of 6 cells
	for name, c := range map[string]struct {
		parts []part
		limit int
		want  map[string]int
		more  bool
		need  int
	}{
		"whole":                    {parts: []part{{"a", 2, false}, {"b", 3, false}}, want: map[string]int{"a": 2, "b": 3}},
		"in three parts":           {parts: []part{{"a", 2, true}, {"a", 3, true}, {"a", 1, false}, {"b", 1, false}}, want: map[string]int{"a": 6, "b": 1}},
		"the last one open":        {parts: []part{{"a", 2, false}, {"b", 3, true}, {"b", 3, true}}, want: map[string]int{"a": 2}, more: true},
		"one open alone":           {parts: []part{{"a", 2, true}, {"a", 4, true}}, more: true, need: size},
		"open and then another":    {parts: []part{{"a", 2, false}, {"b", 3, true}, {"c", 3, false}}, want: map[string]int{"a": 2}, more: true},
		"first, open, and another": {parts: []part{{"b", 3, true}, {"c", 3, false}}, want: map[string]int{"b": 3, "c": 3}},
		"beyond the limit":         {parts: []part{{"a", 6, false}, {"b", 6, false}, {"c", 6, false}}, limit: 2*size + 5, want: map[string]int{"a": 6, "b": 6}, more: true},
		"up to the limit":          {parts: []part{{"a", 6, false}, {"b", 6, false}}, limit: 2 * size, want: map[string]int{"a": 6, "b": 6}},
		"first beyond the limit":   {parts: []part{{"a", 6, false}, {"b", 6, false}}, limit: size - 1, more: true, need: size},
		"parts beyond the limit":   {parts: []part{{"a", 3, true}, {"a", 3, false}, {"b", 1, false}}, limit: size - 1, more: true, need: size + keyHead + 1},
		"no room at all":           {parts: []part{{"a", 6, false}}, limit: 1, more: true, need: size},
	} {
		for _, tr := range sockets {
			var results []*thrift2.TResult_
			from := 0
			for _, p := range c.parts {
				results = append(results, &thrift2.TResult_{Row: []byte(p.key), ColumnValues: cells(p.cells, from), Partial: p.partial})
				from += p.cells
			}
			conn, _ := play(generated(t, tr, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{Success: results}), tr)
			p := Page{Limit: c.limit}
			if err := conn.ScanPage(context.Background(), "t", &Scan{}, 10, &p); err != nil || !conn.Reusable() {
				t.Errorf("%s: %v, reusable %v", name, err, conn.Reusable())
				continue
			}
			got := map[string]int{}
			last := int64(-1)
			for _, r := range unpack(t, &p) {
				got[string(r.Key)] = len(r.Cells)
				for _, cell := range r.Cells {
					if cell.Timestamp <= last {
						t.Errorf("%s: cells came out of order", name)
					}
					last = cell.Timestamp
				}
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" || p.More != c.more || p.Need != c.need {
				t.Errorf("%s over %s: more %v, need %d, want %v, %d; rows (-want +got):\n%s", name, tr.testName(), p.More, p.Need, c.more, c.need, diff)
			}
			if c.limit > 0 && cap(p.buf) > c.limit {
				t.Errorf("%s: the page took %d bytes where %d are the limit", name, cap(p.buf), c.limit)
			}
		}
	}
}

// Nothing says that a server writes a struct's fields in the order of their numbers.
func TestFieldsInAnyOrder(t *testing.T) {
	head := generated(t, Transport{}, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{})
	reply := bytes.Clone(head[:len(head)-1])
	field := func(id byte, s string) { reply = appendBinary(append(reply, tString, 0, id), []byte(s)) }
	reply = append(reply, tList, 0, 0, tStruct, 0, 0, 0, 1)
	reply = append(reply, tList, 0, 2, tStruct, 0, 0, 0, 2)
	field(3, "value")
	field(2, "qualifier")
	field(1, "f")
	reply = append(reply, tI64, 0, 4, 0, 0, 0, 0, 0, 0, 0, 7, tStop)
	field(2, "")
	field(3, "w")
	field(1, "g")
	reply = append(reply, tStop)
	field(1, "key")
	reply = append(reply, tStop, tStop)
	conn, _ := play(reply, Transport{})
	var p Page
	if err := conn.ScanPage(context.Background(), "t", &Scan{}, 10, &p); err != nil {
		t.Fatal(err)
	}
	want := []Row{{Key: []byte("key"), Cells: []Cell{
		{Family: []byte("f"), Qualifier: []byte("qualifier"), Timestamp: 7, Value: []byte("value")},
		{Family: []byte("g"), Qualifier: []byte{}, Value: []byte("w")},
	}}}
	if diff := cmp.Diff(want, unpack(t, &p), cmpopts.EquateEmpty()); diff != "" || !p.Untyped {
		t.Errorf("untyped %v; rows (-want +got):\n%s", p.Untyped, diff)
	}
}

func FuzzPackedRow(f *testing.F) {
	f.Add([]byte(AppendPacked(nil, Row{Key: []byte("k"), Cells: []Cell{{Op: DeleteFamily, Family: []byte("d"), Timestamp: 5}}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := PackedRow(b)
		if r.Check() != nil {
			return
		}
		if again := AppendPacked(nil, r.Row()); !bytes.Equal(again, b) {
			t.Errorf("%x packed again is %x", b, again)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	for _, tr := range sockets {
		b.Run(tr.testName(), func(b *testing.B) {
			batch := AcquireBatch(SyncWAL)
			column := NewColumn([]byte("d"), []byte("name"))
			for i := range 500 {
				batch.Begin(fmt.Appendf(nil, "%012d", i))
				for range 5 {
					batch.Value(&column, 1700000000000, make([]byte, 40))
				}
				batch.End()
			}
			reply := generated(b, tr, "putMultiple", thrift.REPLY, 1, &thrift2.THBaseServicePutMultipleResult{})
			c, p := play(nil, tr)
			r := bytes.NewReader(reply)
			p.reply = r
			b.ReportAllocs()
			b.SetBytes(int64(batch.Bytes()))
			for b.Loop() {
				r.Reset(reply)
				p.written.Reset()
				c.seq = 0
				if err := c.PutMultiple(context.Background(), "t", batch, 0, 500); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPage(b *testing.B) {
	for _, tr := range sockets {
		b.Run(tr.testName(), func(b *testing.B) {
			var results []*thrift2.TResult_
			ts, put := int64(1700000000000), int8(4)
			for i := range 2000 {
				r := &thrift2.TResult_{Row: fmt.Appendf(nil, "%012d", i)}
				for range 5 {
					r.ColumnValues = append(r.ColumnValues, &thrift2.TColumnValue{Family: []byte("d"), Qualifier: []byte("name"), Value: make([]byte, 40), Timestamp: &ts, Type: &put})
				}
				results = append(results, r)
			}
			reply := generated(b, tr, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{Success: results})
			r := bytes.NewReader(reply)
			d := decoder{r: bufio.NewReaderSize(r, readBuffer), compact: tr.Compact}
			var p Page
			b.ReportAllocs()
			b.SetBytes(int64(len(reply)))
			for b.Loop() {
				r.Reset(reply)
				d.r.Reset(r)
				d.reset(d.r, maxReply)
				if tr.Framed {
					d.take(4)
				}
				p.Reset()
				if err := d.begin("getScannerResults", 1); err != nil {
					b.Fatal(err)
				}
				if err := d.result(func(typ byte) { p.read(&d, typ, 2000) }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*10000), "ns/cell")
		})
	}
}

// A cell is the same whether it is buffered as a whole, which most are, or read field by field.
func TestPlainCells(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var results []*thrift2.TResult_
	for i := range 300 {
		row := &thrift2.TResult_{Row: fmt.Appendf(nil, "%05d", i)}
		for range r.IntN(6) {
			ts, typ := r.Int64(), []int8{0, 4, 8, 10, 12, 14}[r.IntN(6)]
			c := &thrift2.TColumnValue{Family: make([]byte, 1+r.IntN(9)), Qualifier: make([]byte, r.IntN(9)), Value: make([]byte, r.IntN(90)), Timestamp: &ts, Type: &typ}
			for _, p := range [][]byte{c.Family, c.Qualifier, c.Value} {
				for j := range p {
					p[j] = byte(r.Uint32())
				}
			}
			switch r.IntN(8) {
			case 0:
				c.Type = nil
			case 1:
				c.Tags = []byte("tag")
			}
			row.ColumnValues = append(row.ColumnValues, c)
		}
		results = append(results, row)
	}
	reply := generated(t, Transport{}, "getScannerResults", thrift.REPLY, 1, &thrift2.THBaseServiceGetScannerResultsResult{Success: results})
	for _, limit := range []int{0, 500, 5000, 20_000} {
		var pages [2]Page
		for i, buffer := range []int{16, readBuffer} { // in the smaller no cell has room
			d := decoder{r: bufio.NewReaderSize(bytes.NewReader(reply), buffer)}
			d.reset(d.r, maxReply)
			p := &pages[i]
			p.Limit = limit
			p.Reset()
			if err := d.begin("getScannerResults", 1); err != nil {
				t.Fatal(err)
			}
			if err := d.result(func(typ byte) { p.read(&d, typ, len(results)) }); err != nil {
				t.Fatal(err)
			}
		}
		a, b := &pages[0], &pages[1]
		if !slices.EqualFunc(a.Rows, b.Rows, func(x, y PackedRow) bool { return bytes.Equal(x, y) }) || a.More != b.More || a.Need != b.Need || a.Untyped != b.Untyped || len(a.Rows) == 0 && limit != 500 {
			t.Errorf("limit %d: %d rows, more %v, need %d, untyped %v; field by field %d, %v, %d, %v", limit,
				len(b.Rows), b.More, b.Need, b.Untyped, len(a.Rows), a.More, a.Need, a.Untyped)
		}
	}
}
