package hbase

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// PackedRow is one whole row as a page's decoder writes it, and as it is walked without allocation: big-endian throughout,
//
//	key's length, 2 bytes · key · cells until the end, each
//	op, 1 byte · family's length, 1 · qualifier's length, 4 · value's length, 4 · timestamp, 8 · family · qualifier · value
//
// This file and Page alone know the form. What ScanPage gives is sound; bytes from elsewhere are Checked before they are used.
type PackedRow []byte

const (
	keyHead  = 2
	cellHead = 1 + 1 + 4 + 4 + 8

	maxPackedKey    = 1<<16 - 1
	maxPackedFamily = 1<<8 - 1
)

// Key is a slice of the row.
func (r PackedRow) Key() []byte {
	n := keyHead + int(binary.BigEndian.Uint16(r))
	return r[keyHead:n:n]
}

// Cells walks the cells in the order of the row.
func (r PackedRow) Cells() CellWalk {
	return CellWalk{r[keyHead+int(binary.BigEndian.Uint16(r)):]}
}

// CellWalk is where a walk over cells stands. Copying it marks a place to go back to.
type CellWalk struct{ rest []byte }

// Next gives the next cell, whose slices are the row's, or false after the last.
func (w *CellWalk) Next(c *Cell) bool {
	p := w.rest
	if len(p) < cellHead {
		return false
	}
	f := cellHead + int(p[1])
	q := f + int(binary.BigEndian.Uint32(p[2:]))
	v := q + int(binary.BigEndian.Uint32(p[6:]))
	c.Op = Op(p[0])
	c.Timestamp = int64(binary.BigEndian.Uint64(p[10:]))
	c.Value = p[q:v:v]
	c.Qualifier = p[f:q:q]
	c.Family = p[cellHead:f:f]
	w.rest = p[v:]
	return true
}

// Check tells whether bytes are a row.
func (r PackedRow) Check() error {
	if len(r) < keyHead || len(r) < keyHead+int(binary.BigEndian.Uint16(r)) {
		return errors.New("row ends within its key")
	}
	at := keyHead + int(binary.BigEndian.Uint16(r))
	for at < len(r) {
		p := r[at:]
		if len(p) < cellHead {
			return fmt.Errorf("row ends at byte %d within a cell", len(r))
		}
		n := uint64(cellHead) + uint64(p[1]) + uint64(binary.BigEndian.Uint32(p[2:])) + uint64(binary.BigEndian.Uint32(p[6:]))
		if n > uint64(len(p)) {
			return fmt.Errorf("row ends at byte %d within a cell", len(r))
		}
		if p[0] > byte(DeleteFamilyVersion) {
			return fmt.Errorf("cell at byte %d has the unknown op %d", at, p[0])
		}
		at += int(n)
	}
	return nil
}

// Row decodes the row. Its slices are the packed row's.
func (r PackedRow) Row() Row {
	out := Row{Key: r.Key()}
	w := r.Cells()
	for c := (Cell{}); w.Next(&c); {
		out.Cells = append(out.Cells, c)
	}
	return out
}

// AppendPacked packs a row. Keys over 65,535 bytes and families over 255, which HBase does not have, are its caller's fault.
func AppendPacked(dst []byte, r Row) PackedRow {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Key)))
	dst = append(dst, r.Key...)
	for i := range r.Cells {
		c := &r.Cells[i]
		at := len(dst)
		dst = append(dst, make([]byte, cellHead)...)
		putCellHead(dst[at:], c.Op, len(c.Family), len(c.Qualifier), len(c.Value), c.Timestamp)
		dst = append(dst, c.Family...)
		dst = append(dst, c.Qualifier...)
		dst = append(dst, c.Value...)
	}
	return dst
}

// AppendKey begins a packed row, whose cells are added by AppendCell. It is for those who get rows otherwise than by a gateway,
// and it does not check what AppendPacked does not.
func AppendKey(dst, key []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(key)))
	return append(dst, key...)
}

// AppendCell adds a cell to the packed row that dst ends with.
func AppendCell(dst []byte, op Op, family, qualifier []byte, ts int64, value []byte) []byte {
	at := len(dst)
	n := cellHead + len(family) + len(qualifier) + len(value)
	dst = slices.Grow(dst, n)[:at+n]
	p := dst[at:]
	putCellHead(p, op, len(family), len(qualifier), len(value), ts)
	p = p[cellHead:]
	p = p[copy(p, family):]
	p = p[copy(p, qualifier):]
	copy(p, value)
	return dst
}

// OpOf is the op that HBase's KeyValue gives a number to.
func OpOf(code byte) (Op, bool) {
	switch code {
	case 0, 4:
		return Put, true
	case 8:
		return DeleteVersion, true
	case 10:
		return DeleteFamilyVersion, true
	case 12:
		return DeleteColumn, true
	case 14:
		return DeleteFamily, true
	}
	return Put, false
}

func putCellHead(p []byte, op Op, family, qualifier, value int, ts int64) {
	_ = p[cellHead-1]
	p[0], p[1] = byte(op), byte(family)
	binary.BigEndian.PutUint32(p[2:], uint32(qualifier))
	binary.BigEndian.PutUint32(p[6:], uint32(value))
	binary.BigEndian.PutUint64(p[10:], uint64(ts))
}
