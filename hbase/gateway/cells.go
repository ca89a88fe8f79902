package gateway

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// HBase's type codes of a cell. At one timestamp of one column the higher code sorts first, so that a tombstone comes
// before what it hides.
const (
	typePut                 = 4
	typeDelete              = 8  // one version
	typeDeleteFamilyVersion = 10 // one version of each column of a family
	typeDeleteColumn        = 12 // the versions of a column up to the timestamp
	typeDeleteFamily        = 14 // the versions of each column of a family up to the timestamp

	ttlFlag = 0x80 // set in a stored type: a cell TTL follows the timestamp
)

// cell is a decoded cell. Its slices are parts of what it was decoded from.
type cell struct {
	kind              byte
	family, qualifier []byte
	ts                int64
	ttl               int64 // milliseconds; 0 is none
	value             []byte
}

// order sorts the cells of a row as HBase does: by family and qualifier, then newest first, tombstones before puts.
func (c *cell) order(d *cell) int {
	if n := bytes.Compare(c.family, d.family); n != 0 {
		return n
	}
	if n := bytes.Compare(c.qualifier, d.qualifier); n != 0 {
		return n
	}
	if n := cmp.Compare(d.ts, c.ts); n != 0 {
		return n
	}
	return cmp.Compare(d.kind, c.kind)
}

func uvarintLen(n int) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}

func (c *cell) size() int {
	n := 1 + uvarintLen(len(c.family)) + len(c.family) + uvarintLen(len(c.qualifier)) + len(c.qualifier) + 8 +
		uvarintLen(len(c.value)) + len(c.value)
	if c.ttl != 0 {
		n += 8
	}
	return n
}

// put writes the cell to the start of b, which must have room for size() bytes, and returns that size.
func (c *cell) put(b []byte) int {
	b[0] = c.kind
	i := 1
	i += binary.PutUvarint(b[i:], uint64(len(c.family)))
	i += copy(b[i:], c.family)
	i += binary.PutUvarint(b[i:], uint64(len(c.qualifier)))
	i += copy(b[i:], c.qualifier)
	binary.BigEndian.PutUint64(b[i:], uint64(c.ts))
	i += 8
	if c.ttl != 0 {
		b[0] |= ttlFlag
		binary.BigEndian.PutUint64(b[i:], uint64(c.ttl))
		i += 8
	}
	i += binary.PutUvarint(b[i:], uint64(len(c.value)))
	return i + copy(b[i:], c.value)
}

var errBroken = errors.New("the gateway's store holds a row that cannot be decoded")

func cutBytes(b []byte) (piece, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	return b[w : w+int(n) : w+int(n)], b[w+int(n):], true
}

// decodeCells appends the cells of a stored row to dst in the order in which they were written.
func decodeCells(dst []cell, b []byte) ([]cell, error) {
	for len(b) > 0 {
		c := cell{kind: b[0] &^ ttlFlag}
		hasTTL := b[0]&ttlFlag != 0
		var ok bool
		if c.family, b, ok = cutBytes(b[1:]); !ok {
			return dst, errBroken
		}
		if c.qualifier, b, ok = cutBytes(b); !ok || len(b) < 8 {
			return dst, errBroken
		}
		c.ts = int64(binary.BigEndian.Uint64(b))
		b = b[8:]
		if hasTTL {
			if len(b) < 8 {
				return dst, errBroken
			}
			c.ttl = int64(binary.BigEndian.Uint64(b))
			b = b[8:]
		}
		if c.value, b, ok = cutBytes(b); !ok {
			return dst, errBroken
		}
		dst = append(dst, c)
	}
	return dst, nil
}

// settle sorts cells that were written in this order, and keeps of each row, column, timestamp and type the one written last.
func settle(cells []cell) []cell {
	ordered := true
	for i := 1; i < len(cells); i++ {
		if cells[i-1].order(&cells[i]) >= 0 {
			ordered = false
			break
		}
	}
	if ordered {
		return cells
	}
	slices.SortStableFunc(cells, func(a, b cell) int { return a.order(&b) })
	kept := cells[:1]
	for i := 1; i < len(cells); i++ {
		if kept[len(kept)-1].order(&cells[i]) == 0 {
			kept[len(kept)-1] = cells[i]
			continue
		}
		kept = append(kept, cells[i])
	}
	return kept
}

// rowMerger makes one value of the writes to a row: their cells, settled. It is associative: settling keeps the last
// write of each cell, and the cells it keeps stay in the place of that write.
var rowMerger = &pebble.Merger{
	Name: "drover.gateway.row.v1",
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		return &rowMerge{newer: [][]byte{bytes.Clone(value)}}, nil
	},
}

type rowMerge struct {
	newer [][]byte // oldest first
	older [][]byte // newest first, all older than newer
}

func (m *rowMerge) MergeNewer(value []byte) error {
	m.newer = append(m.newer, bytes.Clone(value))
	return nil
}

func (m *rowMerge) MergeOlder(value []byte) error {
	m.older = append(m.older, bytes.Clone(value))
	return nil
}

func (m *rowMerge) Finish(bool) ([]byte, io.Closer, error) {
	if len(m.newer)+len(m.older) == 1 {
		return m.newer[0], nil, nil
	}
	slices.Reverse(m.older)
	var cells []cell
	var err error
	for _, part := range append(m.older, m.newer...) {
		if cells, err = decodeCells(cells, part); err != nil {
			return nil, nil, err
		}
	}
	cells = settle(cells)
	size := 0
	for i := range cells {
		size += cells[i].size()
	}
	out := make([]byte, size)
	at := 0
	for i := range cells {
		at += cells[i].put(out[at:])
	}
	return out, nil, nil
}
