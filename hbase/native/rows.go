package native

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"drover/hbase"
)

// buffer is rows that were read and not yet given out.
type buffer struct {
	data []byte // packed rows, one behind the other
	ends []int  // of each whole row, in data
	next int    // the first row in ends that was not given out
	from int    // where it starts
	open bool   // after the last whole row there is one of which more parts may come
}

func (b *buffer) rows() int { return len(b.ends) - b.next }

// whole is where the last whole row ends.
func (b *buffer) whole() int {
	if len(b.ends) == 0 {
		return 0
	}
	return b.ends[len(b.ends)-1]
}

// settle drops what was given out.
func (b *buffer) settle() {
	if b.from == 0 {
		return
	}
	b.data = b.data[:copy(b.data, b.data[b.from:])]
	n := copy(b.ends, b.ends[b.next:])
	b.ends = b.ends[:n]
	for i := range b.ends {
		b.ends[i] -= b.from
	}
	b.next, b.from = 0, 0
}

// close ends the open row, of which no part is missing.
func (b *buffer) close() {
	if b.open {
		b.ends = append(b.ends, len(b.data))
		b.open = false
	}
}

// add appends results as HBase's KeyValueCodec writes their cells: counts says how many cells each has, and parts whether it may
// be less than its row. A row's parts follow each other.
func (b *buffer) add(block []byte, counts []uint32, parts []bool) error {
	for i, n := range counts {
		for j := range n {
			c, rest, err := nextCell(block)
			if err != nil {
				return err
			}
			block = rest
			if j == 0 {
				if !b.open || !bytes.Equal(hbase.PackedRow(b.data[b.whole():]).Key(), c.row) {
					b.close()
					b.data = hbase.AppendKey(b.data, c.row)
					b.open = true
				}
			}
			b.data = hbase.AppendCell(b.data, c.op, c.family, c.qualifier, c.ts, c.value)
		}
		if n > 0 && (i >= len(parts) || !parts[i]) {
			b.close()
		}
	}
	if len(block) > 0 {
		return fmt.Errorf("%d bytes after the last cell", len(block))
	}
	return nil
}

// keyValue is a cell of a block. Its slices are the block's.
type keyValue struct {
	row, family, qualifier, value []byte
	ts                            int64
	op                            hbase.Op
}

// A cell is, big-endian: length, 4 bytes · key's length, 4 · value's length, 4 · key · value; and a key is row's length, 2 · row ·
// family's length, 1 · family · qualifier · timestamp, 8 · type, 1.
const (
	cellLengths = 4 + 4 + 4
	keyFixed    = 2 + 1 + 8 + 1
)

func nextCell(p []byte) (c keyValue, rest []byte, err error) {
	bad := func() (keyValue, []byte, error) {
		return keyValue{}, nil, fmt.Errorf("a cell's lengths do not fit the %d bytes of its block", len(p))
	}
	if len(p) < cellLengths+keyFixed {
		return bad()
	}
	total, key, value := uint64(binary.BigEndian.Uint32(p)), uint64(binary.BigEndian.Uint32(p[4:])), uint64(binary.BigEndian.Uint32(p[8:]))
	if total != 8+key+value || total > uint64(len(p)-4) || key < keyFixed {
		return bad()
	}
	k := p[cellLengths : cellLengths+key]
	c.value = p[cellLengths+key : 4+total]
	rest = p[4+total:]
	n := uint64(binary.BigEndian.Uint16(k))
	if n+keyFixed > key {
		return bad()
	}
	c.row = k[2 : 2+n]
	f := uint64(k[2+n])
	if n+f+keyFixed > key {
		return bad()
	}
	c.family = k[3+n : 3+n+f]
	c.qualifier = k[3+n+f : key-9]
	c.ts = int64(binary.BigEndian.Uint64(k[key-9:]))
	var ok bool
	if c.op, ok = hbase.OpOf(k[key-1]); !ok {
		return keyValue{}, nil, fmt.Errorf("a cell has the unknown type %d", k[key-1])
	}
	return c, rest, nil
}
