package mapping_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/hbase"
	"drover/jobs"
	"drover/mapping"
)

func compileRows(t testing.TB, s mapping.RowSpec) *mapping.RowMapping {
	t.Helper()
	m, err := mapping.CompileRows(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mapRow gives a row as text, one cell a line: puts first, as a batch has them.
func mapRow(t testing.TB, m jobs.Mapping, r hbase.Row) (jobs.Outcome, string) {
	t.Helper()
	b := hbase.AcquireBatch(hbase.SyncWAL)
	defer b.Release()
	o, why := m.Mapper("t", 5, "").Map(hbase.AppendPacked(nil, r), func(key []byte) *hbase.Batch { return b })
	if o != jobs.Mapped {
		if b.Rows() != 0 || b.Bytes() != 0 {
			t.Errorf("%v left %d rows in the batch", o, b.Rows())
		}
		return o, why
	}
	if b.Rows() != 1 {
		t.Fatalf("%d rows", b.Rows())
	}
	return o, rowText(b.Row(0))
}

func rowText(r hbase.Row) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n", hbase.KeyText(r.Key))
	for _, c := range r.Cells {
		fmt.Fprintf(&s, "%s:%s @%d %s %s\n", c.Family, hbase.KeyText(c.Qualifier), c.Timestamp, c.Op, hbase.KeyText(c.Value))
	}
	return s.String()
}

// cells makes cells of texts such as "d:name@5=value" and "d:name@5 delete column".
func cells(texts ...string) (out []hbase.Cell) {
	ops := map[string]hbase.Op{}
	for op := hbase.Put; op <= hbase.DeleteFamilyVersion; op++ {
		ops[op.String()] = op
	}
	for _, s := range texts {
		var c hbase.Cell
		column, rest, _ := strings.Cut(s, "@")
		family, qualifier, _ := strings.Cut(column, ":")
		c.Family, c.Qualifier = []byte(family), []byte(qualifier)
		if ts, value, put := strings.Cut(rest, "="); put {
			fmt.Sscan(ts, &c.Timestamp)
			c.Value = []byte(value)
		} else {
			ts, op, _ := strings.Cut(rest, " ")
			fmt.Sscan(ts, &c.Timestamp)
			c.Op = ops[op]
		}
		out = append(out, c)
	}
	return out
}

func TestRows(t *testing.T) {
	for name, c := range map[string]struct {
		spec  mapping.RowSpec
		key   string
		cells []string
		want  string // of the row, or why it is refused
		o     jobs.Outcome
		bind  []string // families of the source's table
	}{
		"as it is": {
			key: "k\x00", cells: []string{"d:a@3=x", "d:a@2=", "d:b@5 delete version", "d:c@5 delete column", "e:@9 delete family", "e:@8 delete family version", "e:@1=y"},
			want: "k\\x00\nd:a @3 put x\nd:a @2 put \ne: @1 put y\nd:b @5 delete version \nd:c @5 delete column \ne: @9 delete family \ne: @8 delete family version \n",
		},
		"families renamed": {
			spec: mapping.RowSpec{Families: []mapping.FamilyRule{{From: "d", To: "data"}, {From: "e", To: "d"}}},
			bind: []string{"d", "e", "f"},
			key:  "k", cells: []string{"d:a@3=x", "e:a@2=y", "f:a@1=z", "e:b@5 delete column", "d:@4 delete family"},
			want: "k\ndata:a @3 put x\nd:a @2 put y\nf:a @1 put z\nd:b @5 delete column \ndata: @4 delete family \n",
		},
		"columns renamed": {
			spec: mapping.RowSpec{Columns: []mapping.ColumnRule{{From: `d:a\x00`, To: "d:b"}, {From: "d:c", To: `e:\xFF`}}},
			key:  "k", cells: []string{"d:a\x00@3=x", "d:a\x00@2=w", "d:c@2=y", "d:d@1=z", "d:c@7 delete version"},
			want: "k\nd:b @3 put x\nd:b @2 put w\ne:\\xFF @2 put y\nd:d @1 put z\ne:\\xFF @7 delete version \n",
		},
		"dropped": {
			spec: mapping.RowSpec{Drop: []string{"e", "d:a"}, Columns: []mapping.ColumnRule{{From: "e:keep", To: "d:kept"}}},
			key:  "k", cells: []string{"d:a@3=x", "d:b@3=y", "e:a@1=z", "e:keep@4=w", "d:a@9 delete column", "e:@9 delete family", "e:@8 delete family version"},
			want: "k\nd:b @3 put y\nd:kept @4 put w\nd:kept @9 delete column \nd:kept @8 delete version \n",
		},
		"all dropped": {
			spec: mapping.RowSpec{Drop: []string{"d"}}, key: "k", cells: []string{"d:a@3=x"}, o: jobs.Filtered,
		},
		"a family's delete goes along": {
			spec: mapping.RowSpec{Columns: []mapping.ColumnRule{{From: "d:a", To: "e:a"}, {From: "d:b", To: "d:c"}}},
			key:  "k", cells: []string{"d:@5 delete family", "d:@4 delete family version", "d:a@6=x"},
			want: "k\ne:a @6 put x\nd: @5 delete family \ne:a @5 delete column \nd: @4 delete family version \ne:a @4 delete version \n",
		},
		"a family's delete among others": {
			spec: mapping.RowSpec{Families: []mapping.FamilyRule{{From: "e", To: "d"}}},
			key:  "k", cells: []string{"e:@5 delete family"}, o: jobs.Refused,
			want: "deletes all of family e, and its columns share family d with others, which would be deleted too",
		},
		"the same where a column came in": {
			spec: mapping.RowSpec{Columns: []mapping.ColumnRule{{From: "e:a", To: "d:a"}}},
			key:  "k", cells: []string{"d:@5 delete family"}, o: jobs.Refused,
			want: "deletes all of family d, and its columns share family d with others, which would be deleted too",
		},
		"columns meet": {
			spec: mapping.RowSpec{Families: []mapping.FamilyRule{{From: "e", To: "d"}}},
			key:  "k", cells: []string{"d:a@3=x", "d:a@2=y", "d:b@2=y", "e:a@9=z"}, o: jobs.Refused,
			want: "columns d:a and e:a both go to d:a",
		},
		"columns do not meet": {
			spec: mapping.RowSpec{Families: []mapping.FamilyRule{{From: "e", To: "d"}}},
			key:  "k", cells: []string{"d:a@3=x", "d:a@2=y", "e:b@9=z", "e:b@8=z"},
			want: "k\nd:a @3 put x\nd:a @2 put y\nd:b @9 put z\nd:b @8 put z\n",
		},
		"a renamed column meets one in place": {
			spec: mapping.RowSpec{Columns: []mapping.ColumnRule{{From: "d:a", To: "d:b"}}},
			key:  "k", cells: []string{"d:a@3=x", "d:b@3=y"}, o: jobs.Refused,
			want: "columns d:a and d:b both go to d:b",
		},
		"columns swapped": {
			spec: mapping.RowSpec{Columns: []mapping.ColumnRule{{From: "d:a", To: "d:b"}, {From: "d:b", To: "d:a"}}},
			key:  "k", cells: []string{"d:a@3=x", "d:b@3=y"},
			want: "k\nd:b @3 put x\nd:a @3 put y\n",
		},
		"key": {
			spec: mapping.RowSpec{Key: `concat(hex(key[0:2]), "-", d.id, "-", str(number(d["odd name"])))`},
			key:  "\x01\xffz", cells: []string{"d:id@9=new", "d:id@3=old", "d:odd name@1=\x00\x00\x01\x00"},
			want: "01ff-new-256\nd:id @9 put new\nd:id @3 put old\nd:odd name @1 put \\x00\\x00\\x01\\x00\n",
		},
		"key of bytes":          {spec: mapping.RowSpec{Key: `concat(b"\xff\x00", reverse(key))`}, key: "ab", cells: []string{"d:a@1=x"}, want: "\\xFF\\x00ba\nd:a @1 put x\n"},
		"key salted":            {spec: mapping.RowSpec{Key: `salt(key, 256)[1:]`}, key: "ab", cells: []string{"d:a@1=x"}, want: "ab\nd:a @1 put x\n"},
		"key unsalted":          {spec: mapping.RowSpec{Key: `key[1:]`}, key: "\x07ab", cells: []string{"d:a@1=x"}, want: "ab\nd:a @1 put x\n"},
		"key of a number":       {spec: mapping.RowSpec{Key: `number(d.n) + 1`}, key: "k", cells: []string{"d:n@1=\x00\x01"}, want: "\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\nd:n @1 put \\x00\\x01\n"},
		"key is a column":       {spec: mapping.RowSpec{Key: `d.id`}, key: "k", cells: []string{"d:id@1=x\x00"}, want: "x\\x00\nd:id @1 put x\\x00\n"},
		"key that is not there": {spec: mapping.RowSpec{Key: `d.id`}, key: "k", cells: []string{"d:x@1=x"}, o: jobs.Refused, want: "key: the row has no column d.id"},
		"key of a deleted column": {
			spec: mapping.RowSpec{Key: `d.id`}, key: "k", cells: []string{"d:id@2 delete column", "d:id@1=x"}, want: "x\nd:id @1 put x\nd:id @2 delete column \n",
		},
		"key of nothing":    {spec: mapping.RowSpec{Key: `d.id ?? d.other`}, key: "k", cells: []string{"d:x@1=x"}, o: jobs.Refused, want: "key: expression gives nothing; the row has no column of those that it names"},
		"key in error":      {spec: mapping.RowSpec{Key: `concat(str(number(d.id)), key)`}, key: "k", cells: []string{"d:id@1=abc"}, o: jobs.Refused, want: "key: number: 3 bytes are no number; 1, 2, 4 or 8 are. Digits are read by int (column 12)"},
		"key empty":         {spec: mapping.RowSpec{Key: `key[1:]`}, key: "k", cells: []string{"d:x@1=x"}, o: jobs.Refused, want: "key is empty, which HBase does not take"},
		"key too long":      {spec: mapping.RowSpec{Key: `repeat(key, 40000)`}, key: "k", cells: []string{"d:x@1=x"}, o: jobs.Refused, want: "key of 40000 bytes is over HBase's bound of 32767"},
		"a family as doc":   {spec: mapping.RowSpec{Key: `concat(doc["key"]["a.b"], doc["odd-family"].q)`}, key: "k", cells: []string{"key:a.b@1=x", "odd-family:q@1=y"}, want: "xy\nkey:a.b @1 put x\nodd-family:q @1 put y\n"},
		"filtered":          {spec: mapping.RowSpec{Filter: `key startsWith "user_"`}, key: "k", cells: []string{"d:x@1=x"}, o: jobs.Filtered},
		"not filtered":      {spec: mapping.RowSpec{Filter: `key startsWith "k" and d.x == "x" and d.y == nil`}, key: "k", cells: []string{"d:x@1=x"}, want: "k\nd:x @1 put x\n"},
		"filtered by bytes": {spec: mapping.RowSpec{Filter: `key < b"\x80"`}, key: "\x80", cells: []string{"d:x@1=x"}, o: jobs.Filtered},
		"by length":         {spec: mapping.RowSpec{Filter: `len(key) == 2 and len(d.x) == 1`}, key: "ü", cells: []string{"d:x@1=\xff"}, want: "\\xC3\\xBC\nd:x @1 put \\xFF\n"},
		"by a time":         {spec: mapping.RowSpec{Filter: `time(d.t) >= date("2023-01-01")`}, key: "k", cells: []string{"d:t@1=\x00\x00\x01\x8b\xcf\xe5\x68\x00"}, want: "k\nd:t @1 put \\x00\\x00\\x01\\x8B\\xCF\\xE5h\\x00\n"},
		"by a double":       {spec: mapping.RowSpec{Filter: `double(d.t) > 1.4 and double(d.t) < 1.6`}, key: "k", cells: []string{"d:t@1=" + string(binary.BigEndian.AppendUint64(nil, math.Float64bits(1.5)))}, want: "k\nd:t @1 put ?\\xF8\\x00\\x00\\x00\\x00\\x00\\x00\n"},
		"filter in error":   {spec: mapping.RowSpec{Filter: `number(d.t) > 1`}, key: "k", cells: []string{"d:x@1=x"}, o: jobs.Refused, want: "filter: number: there is nothing; the row has no such column (column 1)"},
		"negative time":     {key: "k", cells: []string{"d:x@-1=x"}, o: jobs.Refused, want: "column d:x has the timestamp -1; HBase takes 0 to 9223372036854775806"},
		"time that is now":  {key: "k", cells: []string{"d:x@9223372036854775807 delete column"}, o: jobs.Refused, want: "column d:x has the timestamp 9223372036854775807; HBase takes 0 to 9223372036854775806"},
		"row too large":     {spec: mapping.RowSpec{MaxRow: 100}, key: "k", cells: []string{"d:x@1=" + strings.Repeat("x", 100)}, o: jobs.Refused, want: "row of 159 bytes is over the 100 that the gateways take"},
		"cell too large after its key": {
			spec: mapping.RowSpec{Key: `repeat(key, 30000)`}, key: "k", cells: []string{"d:x@1=" + strings.Repeat("x", hbase.MaxCellBytes-30000)},
			o: jobs.Refused, want: "column d:x: cell of 10485786 bytes is over HBase's bound of 10485760",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := compileRows(t, c.spec)
			if c.bind != nil {
				var err error
				if m, err = m.Bind(c.bind); err != nil {
					t.Fatal(err)
				}
			}
			o, got := mapRow(t, m, hbase.Row{Key: []byte(c.key), Cells: cells(c.cells...)})
			if o != c.o || got != c.want {
				t.Errorf("%v:\n%s\nwant %v:\n%s", o, got, c.o, c.want)
			}
		})
	}
}

func TestCorruptRow(t *testing.T) {
	m := compileRows(t, mapping.RowSpec{}).Mapper("t", 0, "")
	raw := hbase.AppendPacked(nil, hbase.Row{Key: []byte("k"), Cells: cells("d:x@1=x")})
	for n := range raw {
		if n == 3 {
			continue // a row without cells
		}
		o, why := m.Map(raw[:n], func([]byte) *hbase.Batch { t.Fatal("it has a batch"); return nil })
		if o != jobs.Refused || !strings.HasPrefix(why, "corrupt row: ") {
			t.Errorf("%d bytes of %d: %v, %s", n, len(raw), o, why)
		}
	}
}

func TestRowFaults(t *testing.T) {
	for _, c := range []struct {
		spec mapping.RowSpec
		want mapping.Faults
	}{
		{mapping.RowSpec{Key: `"x"`}, mapping.Faults{{Field: "key", Msg: `"\"x\"" names neither key nor a column, so all rows would be one; name at least one, such as key`}}},
		{mapping.RowSpec{Key: `d`}, mapping.Faults{{Field: "key", Msg: `d is a column family; name a column of it, such as d.name or d["odd name"]. The row key is key`}}},
		{mapping.RowSpec{Key: `d.a.b`}, mapping.Faults{{Field: "key", Msg: `d.a.b is no column; a qualifier with a dot in it is written d["a.b"]`}}},
		{mapping.RowSpec{Filter: `key`}, nil},
		{mapping.RowSpec{Filter: `len(key)`}, mapping.Faults{{Field: "filter", Msg: "gives int; a filter gives true or false, such as depth > 10"}}},
		{mapping.RowSpec{Families: []mapping.FamilyRule{{From: "a", To: "b"}, {From: "a", To: "c"}}}, mapping.Faults{{Field: "families.a", Msg: `family "a" is renamed twice; keep one`}}},
		{mapping.RowSpec{MaxRow: -1}, mapping.Faults{{Field: "max_row", Msg: "is -1; write a number of bytes, or 0 for no bound"}}},
	} {
		_, err := mapping.CompileRows(c.spec)
		var got mapping.Faults
		errors.As(err, &got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v: %s", c.spec, diff)
		}
	}
}

func TestBind(t *testing.T) {
	m := compileRows(t, mapping.RowSpec{
		Families: []mapping.FamilyRule{{From: "d", To: "data"}}, Columns: []mapping.ColumnRule{{From: "e:x", To: "f:x"}}, Drop: []string{"g", "h:x"}, Filter: `i.x != nil`,
	})
	if diff := cmp.Diff([]string{"data", "e", "f", "h"}, m.Families()); diff != "" {
		t.Error(diff)
	}
	all := []string{"d", "e", "g", "h", "i", "j"}
	bound, err := m.Bind(all)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"data", "e", "f", "h", "i", "j"}, bound.Families()); diff != "" {
		t.Error(diff)
	}
	for family, want := range map[string]string{"d": "data", "e": "e", "g": "", "z": "z"} {
		if got := bound.Target(family); got != want {
			t.Errorf("%s goes to %q, want %q", family, got, want)
		}
	}
	for _, missing := range []string{"d", "e", "g", "h", "i"} {
		rest := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == missing })
		if _, err := m.Bind(rest); err == nil || !strings.Contains(err.Error(), "families "+missing+",") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
	if diff := cmp.Diff(m.Describe(), bound.Describe()); diff != "" {
		t.Error(diff)
	}
	want := map[string]string{
		"map.key": "key", "map.filter": "i.x != nil", "map.families.d": "data", "map.columns[e:x]": "f:x", "map.drop[g]": "family", "map.drop[h:x]": "column",
	}
	if diff := cmp.Diff(want, m.Describe()); diff != "" {
		t.Error(diff)
	}
}

// A row with more columns than the table of meetings starts with.
func TestManyColumnsMeet(t *testing.T) {
	m := compileRows(t, mapping.RowSpec{Families: []mapping.FamilyRule{{From: "e", To: "d"}}})
	p := m.Mapper("t", 0, "")
	for _, meet := range []bool{false, true, false} {
		r := hbase.Row{Key: []byte("k")}
		for i := range 5000 {
			r.Cells = append(r.Cells, hbase.Cell{Family: []byte("d"), Qualifier: fmt.Appendf(nil, "q%d", i), Timestamp: 1})
		}
		name := "q5000"
		if meet {
			name = "q1234"
		}
		r.Cells = append(r.Cells, hbase.Cell{Family: []byte("e"), Qualifier: []byte(name), Timestamp: 1})
		b := hbase.AcquireBatch(hbase.SyncWAL)
		o, why := p.Map(hbase.AppendPacked(nil, r), func([]byte) *hbase.Batch { return b })
		if (o == jobs.Refused) != meet {
			t.Errorf("meet is %v: %v %s", meet, o, why)
		}
		b.Release()
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte(hbase.AppendPacked(nil, hbase.Row{Key: []byte("k"), Cells: cells("d:a@1=x", "e:a@2 delete column", "d:@5 delete family")})))
	var mappers []jobs.Mapper
	for _, s := range []mapping.RowSpec{
		{},
		{Key: `concat(reverse(key), d.a ?? "")`, Filter: `d.b != "x"`, Families: []mapping.FamilyRule{{From: "e", To: "d"}}, Columns: []mapping.ColumnRule{{From: "d:a", To: "e:a"}}, Drop: []string{"f", "d:z"}},
	} {
		mappers = append(mappers, compileRows(f, s).Mapper("t", 0, ""))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for i, p := range mappers {
			b := hbase.AcquireBatch(hbase.SyncWAL)
			if o, why := p.Map(raw, func([]byte) *hbase.Batch { return b }); (o == jobs.Refused) != (why != "") || (o == jobs.Mapped) != (b.Rows() == 1) {
				t.Fatalf("%v, %q, %d rows", o, why, b.Rows())
			}
			if i == 0 && b.Rows() == 1 {
				want := hbase.PackedRow(raw).Row()
				got := b.Row(0)
				if !bytes.Equal(got.Key, want.Key) || len(got.Cells) != len(want.Cells) {
					t.Fatalf("copied as\n%s\nof\n%s", rowText(got), rowText(want))
				}
			}
			b.Release()
		}
	})
}

// BenchmarkRows is a row's way from the page into the batch.
func BenchmarkRows(b *testing.B) {
	rows := func(columns, versions, size int) (out [][]byte, bytes int) {
		for i := range 1000 {
			r := hbase.Row{Key: fmt.Appendf(nil, "user_%010d", i)}
			for c := range columns {
				for v := range versions {
					r.Cells = append(r.Cells, hbase.Cell{Family: []byte("d"), Qualifier: fmt.Appendf(nil, "column%02d", c), Timestamp: int64(1700000000000 - v), Value: make([]byte, size)})
				}
			}
			raw := hbase.AppendPacked(nil, r)
			out = append(out, raw)
			bytes += len(raw)
		}
		return out, bytes
	}
	for _, c := range []struct {
		name                    string
		columns, versions, size int
		spec                    mapping.RowSpec
	}{
		{"identity, 5 cells", 5, 1, 40, mapping.RowSpec{}},
		{"identity, 10 columns of 3 versions", 10, 3, 30, mapping.RowSpec{}},
		{"renamed, 10 columns of 3 versions", 10, 3, 30, mapping.RowSpec{Families: []mapping.FamilyRule{{From: "d", To: "e"}}, Columns: []mapping.ColumnRule{{From: "d:column03", To: "f:x"}}, Drop: []string{"d:column04"}}},
		{"key and filter, 5 cells", 5, 1, 40, mapping.RowSpec{Key: "concat(hash(key, 2), key)", Filter: `key startsWith "user"`}},
	} {
		b.Run(c.name, func(b *testing.B) {
			docs, size := rows(c.columns, c.versions, c.size)
			p := compileRows(b, c.spec).Mapper("t", 0, "")
			batch := hbase.AcquireBatch(hbase.SyncWAL)
			route := func([]byte) *hbase.Batch { return batch }
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				for i, raw := range docs {
					if i%500 == 0 {
						batch.Release()
						batch = hbase.AcquireBatch(hbase.SyncWAL)
					}
					if o, why := p.Map(raw, route); o != jobs.Mapped {
						b.Fatal(why)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(docs)), "ns/row")
		})
	}
}
