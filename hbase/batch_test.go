package hbase

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"drover/hbase/thrift2"
)

func drawBytes(t *rapid.T, label string, least, most int) []byte {
	return rapid.SliceOfN(rapid.Byte(), least, most).Draw(t, label)
}

func drawRow(t *rapid.T) Row {
	r := Row{Key: drawBytes(t, "key", 1, 20)}
	stamps := rapid.SliceOfN(rapid.Int64(), 1, 2).Draw(t, "timestamps")
	for range rapid.IntRange(1, 20).Draw(t, "cells") {
		c := Cell{
			Op:        Op(rapid.IntRange(int(Put), int(DeleteFamilyVersion)).Draw(t, "op")),
			Family:    drawBytes(t, "family", 1, 5),
			Timestamp: rapid.SampledFrom(stamps).Draw(t, "timestamp"),
		}
		if c.Op == Put {
			c.Value = drawBytes(t, "value", 0, 300)
		}
		if c.Op < DeleteFamily {
			c.Qualifier = drawBytes(t, "qualifier", 0, 40)
		}
		r.Cells = append(r.Cells, c)
	}
	return r
}

func drawRows(t *rapid.T) []Row { return rapid.SliceOfN(rapid.Custom(drawRow), 1, 20).Draw(t, "rows") }

// fill appends rows, by each of the ways to append.
func fill(b *Batch, rows []Row) {
	for i, r := range rows {
		b.Begin(r.Key)
		for j, c := range r.Cells {
			column := NewColumn(c.Family, c.Qualifier)
			switch {
			case c.Op == Put && (i+j)%3 == 0:
				b.Value(&column, c.Timestamp, c.Value)
			case c.Op == Put && (i+j)%3 == 1:
				copy(b.ReserveValue(&column, c.Timestamp, len(c.Value)), c.Value)
			default:
				b.Cell(c.Op, c.Family, c.Qualifier, c.Timestamp, c.Value)
			}
		}
		b.End()
	}
}

// sorted is the row with its puts first, as a batch keeps it.
func sorted(r Row) Row {
	out := Row{Key: r.Key}
	for _, c := range r.Cells {
		if c.Op == Put {
			out.Cells = append(out.Cells, c)
		}
	}
	for _, c := range r.Cells {
		if c.Op != Put {
			out.Cells = append(out.Cells, c)
		}
	}
	return out
}

func TestBatchRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := drawRows(t)
		b := AcquireBatch(SyncWAL)
		defer b.Release()
		fill(b, rows)
		other := AcquireBatch(SkipWAL)
		defer other.Release()
		checkBatch(t, b, rows)
		for i := range b.Rows() {
			other.AppendRow(b, i)
		}
		checkBatch(t, other, rows)
		if !bytes.Equal(other.puts, b.puts) || !bytes.Equal(other.dels, b.dels) {
			t.Fatal("copied rows are encoded otherwise")
		}
	})
}

func checkBatch(t *rapid.T, b *Batch, rows []Row) {
	if b.Rows() != len(rows) {
		t.Fatalf("%d rows of %d", b.Rows(), len(rows))
	}
	cells, size, deletes := 0, 0, false
	for i, r := range rows {
		want := sorted(r)
		if diff := cmp.Diff(want, b.Row(i), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("row %d (-want +got):\n%s", i, diff)
		}
		if !bytes.Equal(b.Key(i), r.Key) || b.RowCells(i) != len(r.Cells) {
			t.Fatalf("row %d: key %q with %d cells", i, b.Key(i), b.RowCells(i))
		}
		cells += len(r.Cells)
		size += b.RowBytes(i)
		deletes = deletes || want.Cells[len(want.Cells)-1].Op != Put
	}
	if b.Cells() != cells || b.Bytes() != size || b.HasDeletes() != deletes {
		t.Fatalf("%d cells, %d bytes, deletes %v; want %d, %d, %v", b.Cells(), b.Bytes(), b.HasDeletes(), cells, size, deletes)
	}
}

func TestBatchRollback(t *testing.T) {
	b := AcquireBatch(SyncWAL)
	defer b.Release()
	row := Row{Key: []byte("a"), Cells: []Cell{{Family: []byte("d"), Qualifier: []byte("q"), Timestamp: 1, Value: []byte("v")}}}
	fill(b, []Row{row})
	size := b.Bytes()

	b.Begin([]byte("b"))
	b.Cell(Put, []byte("d"), nil, 2, []byte("w"))
	b.Cell(DeleteFamily, []byte("d"), nil, 2, nil)
	if b.Bytes() <= size {
		t.Error("Bytes leaves the open row out")
	}
	b.Rollback()
	b.Begin([]byte("c")) // without cells
	b.End()
	if b.Rows() != 1 || b.Cells() != 1 || b.Bytes() != size || b.HasDeletes() {
		t.Errorf("%d rows, %d cells, %d bytes, deletes %v after rollback", b.Rows(), b.Cells(), b.Bytes(), b.HasDeletes())
	}
	b.Begin([]byte("d"))
	b.Cell(DeleteColumn, []byte("d"), []byte("q"), 3, nil)
	b.End()
	if got := string(b.Key(1)); got != "d" {
		t.Errorf("key %q of a row that only deletes", got)
	}
}

func TestReleaseDropsBigBuffers(t *testing.T) {
	b := AcquireBatch(SyncWAL)
	b.Begin([]byte("k"))
	b.Reserve([]byte("d"), []byte("q"), 1, maxPooled)
	b.End()
	b.Release()
	if b.Rows() == 0 {
		t.Error("the batch was emptied, and so is in the pool")
	}
}

// thriftPuts and thriftDeletes are what the generated code is given for the same rows.
func thriftPuts(rows []Row, d Durability) (out []*thrift2.TPut) {
	durability := thrift2.TDurability(d)
	for _, r := range rows {
		p := &thrift2.TPut{Row: r.Key, Durability: &durability}
		for _, c := range r.Cells {
			if c.Op != Put {
				continue
			}
			v := &thrift2.TColumnValue{Family: c.Family, Qualifier: c.Qualifier, Value: c.Value}
			switch {
			case p.Timestamp == nil:
				p.Timestamp = &c.Timestamp
			case *p.Timestamp != c.Timestamp:
				v.Timestamp = &c.Timestamp
			}
			p.ColumnValues = append(p.ColumnValues, v)
		}
		if len(p.ColumnValues) > 0 {
			out = append(out, p)
		}
	}
	return out
}

func thriftDeletes(rows []Row, d Durability) (out []*thrift2.TDelete) {
	durability := thrift2.TDurability(d)
	types := map[Op]thrift2.TDeleteType{
		DeleteVersion: thrift2.TDeleteType_DELETE_COLUMN, DeleteColumn: thrift2.TDeleteType_DELETE_COLUMNS,
		DeleteFamily: thrift2.TDeleteType_DELETE_FAMILY, DeleteFamilyVersion: thrift2.TDeleteType_DELETE_FAMILY_VERSION,
	}
	for _, r := range rows {
		for _, c := range r.Cells {
			if c.Op == Put {
				continue
			}
			column := &thrift2.TColumn{Family: c.Family, Timestamp: &c.Timestamp}
			if c.Op == DeleteVersion || c.Op == DeleteColumn {
				column.Qualifier = notNil(c.Qualifier)
			}
			out = append(out, &thrift2.TDelete{
				Row: r.Key, Columns: []*thrift2.TColumn{column}, DeleteType: types[c.Op], Durability: &durability,
			})
		}
	}
	return out
}

// generated is a whole message as the generated code writes it, framed if framed.
func generated(t interface{ Fatal(...any) }, tr Transport, method string, kind thrift.TMessageType, seq int32, body thrift.TStruct) []byte {
	ctx := context.Background()
	mem := thrift.NewTMemoryBuffer()
	var p thrift.TProtocol = thrift.NewTBinaryProtocolConf(mem, nil)
	if tr.Compact {
		p = thrift.NewTCompactProtocolConf(mem, nil)
	}
	for _, err := range []error{
		p.WriteMessageBegin(ctx, method, kind, seq), body.Write(ctx, p), p.WriteMessageEnd(ctx), p.Flush(ctx),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if tr.Framed {
		return append(binary.BigEndian.AppendUint32(nil, uint32(mem.Len())), mem.Bytes()...)
	}
	return mem.Bytes()
}

func BenchmarkBatchCell(b *testing.B) {
	// Small cells, as a document with five fields makes them: 200 payload bytes a row.
	family := []byte("d")
	names := [][]byte{[]byte("name"), []byte("city"), []byte("depth"), []byte("created"), []byte("_id")}
	columns := make([]Column, len(names))
	for i, n := range names {
		columns[i] = NewColumn(family, n)
	}
	value := make([]byte, 40)
	key := []byte("0123456789ab")
	run := func(name string, row func(batch *Batch)) {
		b.Run(name, func(b *testing.B) {
			batch := AcquireBatch(SyncWAL)
			b.ReportAllocs()
			cells := 0
			for b.Loop() {
				if batch.Rows() == 500 {
					batch.Release()
					batch = AcquireBatch(SyncWAL)
				}
				batch.Begin(key)
				row(batch)
				batch.End()
				cells += len(names)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(cells), "ns/cell")
		})
	}
	run("cell", func(batch *Batch) {
		for _, n := range names {
			batch.Cell(Put, family, n, 1700000000000, value)
		}
	})
	run("column", func(batch *Batch) {
		for i := range columns {
			batch.Value(&columns[i], 1700000000000, value)
		}
	})
	run("number", func(batch *Batch) {
		for i := range columns {
			binary.BigEndian.PutUint64(batch.ReserveValue(&columns[i], 1700000000000, 8), 42)
		}
	})
}
