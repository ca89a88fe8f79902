package gateway

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func anyCell(t *rapid.T) cell {
	c := cell{
		kind:      rapid.SampledFrom([]byte{typePut, typePut, typeDelete, typeDeleteColumn, typeDeleteFamily, typeDeleteFamilyVersion}).Draw(t, "kind"),
		family:    []byte(rapid.SampledFrom([]string{"d", "e"}).Draw(t, "family")),
		qualifier: []byte(rapid.SampledFrom([]string{"", "a", "a\x00", "b"}).Draw(t, "qualifier")),
		ts:        rapid.Int64Range(0, 5).Draw(t, "ts"),
		ttl:       rapid.SampledFrom([]int64{0, 0, 1000}).Draw(t, "ttl"),
		value:     rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "value"),
	}
	return c
}

func encodeCells(cells []cell) []byte {
	var out []byte
	for i := range cells {
		b := make([]byte, cells[i].size())
		if n := cells[i].put(b); n != len(b) {
			panic("a cell's size is wrong")
		}
		out = append(out, b...)
	}
	return out
}

// TestMergeAssociative checks that a row comes out the same however Pebble groups its writes, and holds for every cell what
// was written last.
func TestMergeAssociative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		writes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) []cell { return rapid.SliceOfN(rapid.Custom(anyCell), 1, 4).Draw(t, "cells") }), 1, 8).Draw(t, "writes")
		var all []cell
		parts := make([][]byte, len(writes))
		for i, w := range writes {
			all = append(all, w...)
			parts[i] = encodeCells(w)
		}
		want := encodeCells(settle(all))

		from := rapid.IntRange(0, len(parts)-1).Draw(t, "from")
		to := rapid.IntRange(from, len(parts)-1).Draw(t, "to")
		inner := merge(t, parts[from:to+1], rapid.IntRange(0, to-from).Draw(t, "inner"))
		grouped := append(append(append([][]byte{}, parts[:from]...), inner), parts[to+1:]...)
		got := merge(t, grouped, rapid.IntRange(0, len(grouped)-1).Draw(t, "outer"))
		cells, err := decodeCells(nil, got)
		if err != nil {
			t.Fatal(err)
		}
		if got = encodeCells(settle(cells)); !bytes.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// merge starts at one part and takes those after it and before it in turn, as Pebble may.
func merge(t *rapid.T, parts [][]byte, first int) []byte {
	m, err := rowMerger.Merge(nil, parts[first])
	if err != nil {
		t.Fatal(err)
	}
	for i := first + 1; i < len(parts); i++ {
		if err := m.MergeNewer(parts[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := first - 1; i >= 0; i-- {
		if err := m.MergeOlder(parts[i]); err != nil {
			t.Fatal(err)
		}
	}
	v, _, err := m.Finish(true)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// FuzzCells feeds garbage to the row decoder; what it takes must come out again.
func FuzzCells(f *testing.F) {
	c := cell{kind: typePut, family: []byte("d"), qualifier: []byte("q"), ts: 5, ttl: 7, value: []byte("v")}
	f.Add(encodeCells([]cell{c, c}))
	f.Fuzz(func(t *testing.T, b []byte) {
		cells, err := decodeCells(nil, b)
		if err != nil {
			return
		}
		again, err := decodeCells(nil, encodeCells(cells))
		if err != nil || len(again) != len(cells) {
			t.Fatalf("%d cells became %d, %v", len(cells), len(again), err)
		}
	})
}
