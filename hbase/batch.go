package hbase

import (
	"encoding/binary"
	"iter"
	"slices"

	"drover/spare"
)

// Batch is an append-only buffer of encoded rows, in the binary protocol whatever the gateway speaks. Rows are numbered
// from 0 in the order they were begun. A batch has one owner at a time; reading it from several goroutines is fine while
// nobody appends.
//
// Nothing is checked here: keys, cells and timestamps that HBase refuses are the mapping's to find.
type Batch struct {
	puts []byte // TPut structs, one for each row that puts something
	dels []byte // TDelete structs, one for each delete cell
	rows []rowEnd
	all  rowEnd // what puts and dels hold up to the last whole row; cells counted over all rows

	// Of the open row, whose TPut so far ends puts.
	openPuts int32
	openDels int32
	openList int   // offset in puts of its count of cells
	openTS   int64 // of its first put, which counts for all that have none of their own

	durability Durability
}

// rowEnd is where a row ends in both buffers, which is where the next one starts, and how many cells of each it has.
type rowEnd struct {
	put, del   int
	puts, dels int32
}

const rowEndBytes = 24

// What Release keeps, in bytes: of one batch, so that huge rows do not stay for ever, and of all.
const (
	maxPooled  = 4 << 20
	pooledMost = 16 << 20
)

var batches = spare.List[*Batch]{Most: pooledMost}

// AcquireBatch returns an empty batch whose cells are written with durability d.
func AcquireBatch(d Durability) *Batch {
	b := batches.Get()
	if b == nil {
		b = new(Batch)
	}
	b.durability = d
	return b
}

// Release gives the batch back. The caller, and whoever holds a slice of it, must not use it again.
func (b *Batch) Release() {
	size := cap(b.puts) + cap(b.dels) + cap(b.rows)*rowEndBytes
	if size > maxPooled {
		return
	}
	*b = Batch{puts: b.puts[:0], dels: b.dels[:0], rows: b.rows[:0]}
	batches.Put(b, size)
}

// Begin starts a row. Cells add to it, End completes it, Rollback forgets it. The key is copied.
func (b *Batch) Begin(key []byte) {
	b.openPuts, b.openDels = 0, 0
	p := append(b.puts, tString, 0, 1)
	p = binary.BigEndian.AppendUint32(p, uint32(len(key)))
	p = append(p, key...)
	p = append(p, tList, 0, 2, tStruct)
	b.openList = len(p)
	b.puts = append(p, 0, 0, 0, 0)
}

// Cell adds a cell to the open row. The value of a delete, and the qualifier of a family's delete, are ignored. The slices
// are copied.
func (b *Batch) Cell(op Op, family, qualifier []byte, ts int64, value []byte) {
	if op == Put {
		copy(b.Reserve(family, qualifier, ts, len(value)), value)
		return
	}
	b.openDels++
	d := append(b.dels, tString, 0, 1)
	d = appendBinary(d, b.openKey())
	d = append(d, tList, 0, 2, tStruct, 0, 0, 0, 1)
	d = append(d, tString, 0, 1)
	d = appendBinary(d, family)
	if op == DeleteVersion || op == DeleteColumn {
		d = append(d, tString, 0, 2)
		d = appendBinary(d, qualifier)
	}
	d = append(d, tI64, 0, 3)
	d = binary.BigEndian.AppendUint64(d, uint64(ts))
	d = append(d, tStop)
	if op != DeleteColumn { // Thrift's default is left out
		d = append(d, tI32, 0, 4)
		d = binary.BigEndian.AppendUint32(d, deleteTypes[op])
	}
	d = append(d, tI32, 0, 7)
	d = binary.BigEndian.AppendUint32(d, uint32(b.durability))
	b.dels = append(d, tStop)
}

// Reserve adds a put of n bytes to the open row and returns them, for the caller to fill in before it uses the batch
// again. They hold what the buffer held before.
func (b *Batch) Reserve(family, qualifier []byte, ts int64, n int) []byte {
	lf, lq := len(family), len(qualifier)
	c := b.open(3*7+lf+lq+n, ts)
	putHead(c, 1, lf)
	copy(c[7:], family)
	c = c[7+lf:]
	putHead(c, 2, lq)
	copy(c[7:], qualifier)
	c = c[7+lq:]
	putHead(c, 3, n)
	return c[7 : 7+n : 7+n]
}

// open adds a put's TColumnValue to the open row and returns it, for the caller to fill in its first n bytes. What follows them is
// written: the timestamp, unless it is the row's, and the end.
func (b *Batch) open(n int, ts int64) []byte {
	if b.openPuts == 0 {
		b.openTS = ts
	}
	b.openPuts++
	at := len(b.puts)
	end := at + n + 1
	if ts != b.openTS {
		end += 11
	}
	if end > cap(b.puts) {
		b.puts = slices.Grow(b.puts, end-at)
	}
	b.puts = b.puts[:end]
	c := b.puts[at:]
	if ts != b.openTS {
		putEnd(c[n:], ts)
	} else {
		c[n] = tStop
	}
	return c
}

// putHead writes the head of a field of n bytes.
func putHead(c []byte, id uint64, n int) {
	_ = c[6]
	binary.BigEndian.PutUint32(c, tString<<24|uint32(id)<<8|uint32(n)>>24)
	binary.BigEndian.PutUint32(c[3:], uint32(n))
}

// putEnd writes what follows the value where there is a timestamp, 12 bytes.
func putEnd(c []byte, ts int64) {
	_ = c[11]
	binary.BigEndian.PutUint64(c, tI64<<56|4<<40|uint64(ts)>>24)
	binary.BigEndian.PutUint32(c[8:], uint32(ts)<<8|tStop)
}

// Column is a family and a qualifier with their encoding, made once for a column that many rows have.
type Column struct {
	family, qualifier []byte
	head              []byte // of a TColumnValue, up to the value's length
}

// NewColumn copies its arguments. In a scan, a nil qualifier means the whole family.
func NewColumn(family, qualifier []byte) Column {
	c := Column{family: slices.Clone(family), qualifier: slices.Clone(qualifier)}
	c.head = append(c.head, tString, 0, 1)
	c.head = appendBinary(c.head, family)
	c.head = append(c.head, tString, 0, 2)
	c.head = appendBinary(c.head, qualifier)
	c.head = append(c.head, tString, 0, 3)
	return c
}

// Names are the family and the qualifier, which is nil for a whole family. They are the column's own.
func (c *Column) Names() (family, qualifier []byte) { return c.family, c.qualifier }

// Value adds a put of a column to the open row. The value is copied.
func (b *Batch) Value(c *Column, ts int64, value []byte) {
	copy(b.ReserveValue(c, ts, len(value)), value)
}

// ReserveValue is Reserve for a Column.
func (b *Batch) ReserveValue(c *Column, ts int64, n int) []byte {
	h := len(c.head)
	q := b.open(h+4+n, ts)
	copy(q, c.head)
	q = q[h:]
	binary.BigEndian.PutUint32(q, uint32(n))
	return q[4 : 4+n : 4+n]
}

// RowEnd is how many bytes End adds to a row that puts something: the timestamp, the durability and the end.
const RowEnd = 11 + 7 + 1

// End completes the open row. A row without cells is forgotten, since HBase refuses it.
func (b *Batch) End() {
	if b.openPuts == 0 && b.openDels == 0 {
		b.Rollback()
		return
	}
	if b.openPuts == 0 {
		b.puts = b.puts[:b.all.put]
	} else {
		binary.BigEndian.PutUint32(b.puts[b.openList:], uint32(b.openPuts))
		p := append(b.puts, tI64, 0, 3)
		p = binary.BigEndian.AppendUint64(p, uint64(b.openTS))
		p = append(p, tI32, 0, 6)
		p = binary.BigEndian.AppendUint32(p, uint32(b.durability))
		b.puts = append(p, tStop)
	}
	b.push(b.openPuts, b.openDels)
}

func (b *Batch) push(puts, dels int32) {
	b.rows = append(b.rows, rowEnd{len(b.puts), len(b.dels), puts, dels})
	b.all = rowEnd{len(b.puts), len(b.dels), b.all.puts + puts, b.all.dels + dels}
}

// Rollback forgets the open row.
func (b *Batch) Rollback() {
	b.puts, b.dels = b.puts[:b.all.put], b.dels[:b.all.del]
}

// AppendRow copies row i of src, with the durability it was encoded with. No row may be open.
func (b *Batch) AppendRow(src *Batch, i int) {
	from, to := src.start(i), src.rows[i]
	b.puts = append(b.puts, src.puts[from.put:to.put]...)
	b.dels = append(b.dels, src.dels[from.del:to.del]...)
	b.push(to.puts, to.dels)
}

// Rows is the number of whole rows.
func (b *Batch) Rows() int { return len(b.rows) }

// Cells is the number of cells in whole rows.
func (b *Batch) Cells() int { return int(b.all.puts) + int(b.all.dels) }

// Bytes is the size of the encoded rows, an open one included.
func (b *Batch) Bytes() int { return len(b.puts) + len(b.dels) }

// HasDeletes tells whether a whole row deletes anything.
func (b *Batch) HasDeletes() bool { return b.all.dels > 0 }

// Key is the key of row i, a slice of the batch.
func (b *Batch) Key(i int) []byte {
	from := b.start(i)
	if b.rows[i].puts > 0 {
		return keyAt(b.puts[from.put:])
	}
	return keyAt(b.dels[from.del:])
}

// RowBytes is the encoded size of row i.
func (b *Batch) RowBytes(i int) int {
	from, to := b.start(i), b.rows[i]
	return to.put - from.put + to.del - from.del
}

// RowCells is the number of cells of row i.
func (b *Batch) RowCells(i int) int { return int(b.rows[i].puts) + int(b.rows[i].dels) }

// Row decodes row i into memory of its own: puts first, then deletes.
func (b *Batch) Row(i int) Row {
	buf := make([]byte, 0, b.RowBytes(i))
	own := func(p []byte) []byte {
		at := len(buf)
		buf = append(buf, p...)
		return buf[at:len(buf):len(buf)]
	}
	r := Row{Key: own(b.Key(i)), Cells: make([]Cell, 0, b.RowCells(i))}
	for c := range b.rowCells(i) {
		c.Family, c.Qualifier, c.Value = own(c.Family), own(c.Qualifier), own(c.Value)
		r.Cells = append(r.Cells, c)
	}
	return r
}

func (b *Batch) start(i int) rowEnd {
	if i == 0 {
		return rowEnd{}
	}
	return b.rows[i-1]
}

// span is rows [lo, hi) as they are encoded, and how many structs each buffer has of them.
func (b *Batch) span(lo, hi int) (puts, dels []byte, nputs, ndels int) {
	if lo >= hi {
		return nil, nil, 0, 0
	}
	from, to := b.start(lo), b.rows[hi-1]
	for _, r := range b.rows[lo:hi] {
		if r.puts > 0 {
			nputs++
		}
		ndels += int(r.dels)
	}
	return b.puts[from.put:to.put], b.dels[from.del:to.del], nputs, ndels
}

func (b *Batch) openKey() []byte { return keyAt(b.puts[b.all.put:]) }

// rowCells yields the cells of row i as slices of the batch, puts first.
func (b *Batch) rowCells(i int) iter.Seq[Cell] {
	return func(yield func(Cell) bool) {
		from, to := b.start(i), b.rows[i]
		if to.puts > 0 {
			w := walk{b.puts[from.put:to.put]}
			ts := w.rowTS()
			w.binary() // key
			w.skip(8)
			for range to.puts {
				c, own := w.put()
				if !own {
					c.Timestamp = ts
				}
				if !yield(c) {
					return
				}
			}
		}
		w := walk{b.dels[from.del:to.del]}
		for range to.dels {
			w.binary()
			c, _ := w.del()
			if !yield(c) {
				return
			}
		}
	}
}
