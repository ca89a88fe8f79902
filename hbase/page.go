package hbase

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
)

// Page is the rows of one ScanPage. It is reused: rows are valid until the next call with it.
type Page struct {
	// Limit bounds what the page holds, in bytes of packed rows. What a reply has beyond it is read over and not kept. 0 is
	// no bound.
	Limit int

	// Rows are whole rows, ascending.
	Rows []PackedRow

	// More says that the reply went on after Rows with what was not kept: rows over Limit, or a row of which it had a part
	// only. Read it again from there.
	More bool

	// Need is, with More and no Rows, how many bytes of the first row the reply had.
	Need int

	// Untyped says that some cell came without its type: the gateway is older than HBase 2.3 or so, and in a raw scan it
	// cannot be told whether it was a delete.
	Untyped bool

	buf  []byte
	open int // where the row starts whose last part has not been seen; -1 is none
	over int // bytes of the result at hand that were not kept
}

// Bytes is what the page holds, in bytes of packed rows.
func (p *Page) Bytes() int { return len(p.buf) }

// Append adds a row, for those who make pages without a gateway.
func (p *Page) Append(r Row) {
	at := len(p.buf)
	p.buf = AppendPacked(p.buf, r)
	p.Rows = append(p.Rows, PackedRow(p.buf[at:len(p.buf):len(p.buf)]))
}

// Fill makes a page of rows that were packed elsewhere and lie one behind the other in r: sizes are their lengths. On an error
// the page is empty.
func (p *Page) Fill(r io.Reader, sizes []int) error {
	p.Reset()
	total := 0
	for _, n := range sizes {
		total += n
	}
	p.buf = slices.Grow(p.buf, total)[:total]
	if _, err := io.ReadFull(r, p.buf); err != nil {
		p.Reset()
		return err
	}
	rest := p.buf
	for _, n := range sizes {
		row := PackedRow(rest[:n:n])
		if err := row.Check(); err != nil {
			p.Reset()
			return err
		}
		p.Rows = append(p.Rows, row)
		rest = rest[n:]
	}
	return nil
}

// Reset empties the page, and gives it room for Limit bytes.
func (p *Page) Reset() {
	switch {
	case p.Limit > 0 && cap(p.buf) < p.Limit:
		p.buf = make([]byte, 0, p.Limit)
	case p.Limit <= 0 && cap(p.buf) > maxPooled:
		p.buf = nil
	}
	p.Rows, p.buf = p.Rows[:0], p.buf[:0]
	p.More, p.Need, p.Untyped, p.open, p.over = false, 0, false, -1, 0
}

// read decodes a list of at most limit TResults. A result without a row, which is what an absent row looks like, is left
// out. Slices that were given out stay right when a buffer grows, since the old one is not written any more.
func (p *Page) read(d *decoder, typ byte, limit int) {
	if typ != tList {
		d.fail(garbage("results of type %d", typ))
		return
	}
	elem, n := d.list()
	if n > 0 && elem != tStruct || n > limit {
		d.fail(garbage("list of %d results of type %d, asked were %d", n, elem, limit))
		return
	}
	for ; n > 0 && d.err == nil; n-- {
		if p.More {
			d.skip(tStruct, true, 0)
		} else {
			p.result(d)
		}
	}
	if p.open >= 0 {
		p.drop(p.open, 0)
	}
}

// drop forgets what begins at start, and all that follows in the reply.
func (p *Page) drop(start, over int) {
	if len(p.Rows) == 0 {
		p.Need = len(p.buf) - start + over
	}
	p.buf, p.open, p.More = p.buf[:start], -1, true
}

func (p *Page) result(d *decoder) {
	start := len(p.buf)
	p.over = 0
	p.head(keyHead)
	key, partial := -1, false
	for id := int16(0); d.err == nil; {
		var t byte
		switch t, id = d.field(id); {
		case t == tStop:
			if d.err == nil {
				p.end(start, key, partial)
			}
			return
		case id == 1 && t == tString && key < 0:
			if key = p.part(d, start+keyHead); key > maxPackedKey {
				d.fail(garbage("row key of %d bytes", key))
			}
		case id == 2 && t == tList:
			p.readCells(d)
		case id == 4 && t == tBool:
			partial = d.boolean()
		default:
			d.skip(t, false, 0)
		}
	}
}

// end completes the result that begins at start.
func (p *Page) end(start, key int, partial bool) {
	if key < 0 {
		p.buf = p.buf[:start]
		return
	}
	if p.over > 0 {
		from := start
		if p.open >= 0 { // a part of the same row, or of the next: neither is whole
			from = p.open
		}
		p.drop(from, p.over)
		return
	}
	binary.BigEndian.PutUint16(p.buf[start:], uint16(key))
	if p.open >= 0 {
		before := PackedRow(p.buf[p.open:start])
		switch {
		case bytes.Equal(before.Key(), PackedRow(p.buf[start:]).Key()): // its next part
			n := copy(p.buf[start:], p.buf[start+keyHead+key:])
			p.buf = p.buf[:start+n]
			start = p.open
		case len(p.Rows) > 0:
			p.drop(p.open, 0)
			return
		default: // it was read again from its start, and this time another row comes after it: it was whole
			p.push(p.open, start)
		}
		p.open = -1
	}
	if partial {
		p.open = start
		return
	}
	p.push(start, len(p.buf))
}

func (p *Page) push(start, end int) {
	p.Rows = append(p.Rows, PackedRow(p.buf[start:end:end]))
}

func (p *Page) readCells(d *decoder) {
	elem, n := d.list()
	if n > 0 && elem != tStruct {
		d.fail(garbage("list of cells of type %d", elem))
	}
	for ; n > 0 && d.err == nil; n-- {
		if d.compact || p.over > 0 || !p.plainCell(d) {
			p.cell(d)
		}
	}
}

// What a TColumnValue has in the binary protocol beside its bytes: the heads of family, qualifier and value, with their lengths;
// the timestamp with its head; the type with its head, and the end.
const (
	plainHead  = 3 + 4
	plainTail  = 3 + 8 + 3 + 1 + 1
	plainFixed = 3*plainHead + plainTail
)

// plainCell reads a cell whose fields are in the order that gateways write them in, and that is buffered and kept as a whole. It
// reads nothing where one of these is not so. What cell makes of such a cell is the same, at three times the cost.
func (p *Page) plainCell(d *decoder) bool {
	in := d.ahead
	if len(in) < plainFixed {
		return false
	}
	f := uint64(binary.BigEndian.Uint32(in[3:]))
	at := plainHead + f
	if head3(in) != tString<<16|1 || f > maxPackedFamily || at+2*plainHead+plainTail > uint64(len(in)) {
		return false
	}
	q := uint64(binary.BigEndian.Uint32(in[at+3:]))
	if head3(in[at:]) != tString<<16|2 || at+2*plainHead+plainTail+q > uint64(len(in)) {
		return false
	}
	family := in[plainHead:at]
	qualifier := in[at+plainHead : at+plainHead+q]
	at += plainHead + q
	v := uint64(binary.BigEndian.Uint32(in[at+3:]))
	if head3(in[at:]) != tString<<16|3 || at+plainHead+plainTail+v > uint64(len(in)) {
		return false
	}
	value := in[at+plainHead : at+plainHead+v]
	tail := in[at+plainHead+v:][:plainTail]
	if head3(tail) != tI64<<16|4 || head3(tail[11:]) != tByte<<16|6 || tail[15] != tStop {
		return false
	}
	op, ok := OpOf(tail[14])
	n := cellHead + int(f+q+v)
	if !ok || p.Limit > 0 && len(p.buf)+n > p.Limit {
		return false
	}
	p.buf = AppendCell(p.buf, op, family, qualifier, int64(binary.BigEndian.Uint64(tail[3:])), value)
	d.ahead = in[at+plainHead+v+plainTail:]
	return true
}

// head3 is a field's type and id.
func head3(p []byte) uint32 { return uint32(p[0])<<16 | uint32(p[1])<<8 | uint32(p[2]) }

func (p *Page) cell(d *decoder) {
	at := len(p.buf)
	p.head(cellHead)
	family, qualifier, value := -1, -1, -1
	var ts int64
	op, typed := Put, false
	for id := int16(0); d.err == nil; {
		var t byte
		switch t, id = d.field(id); {
		case t == tStop:
			if d.err != nil {
				return
			}
			if p.over == 0 {
				putCellHead(p.buf[at:], op, max(family, 0), max(qualifier, 0), max(value, 0), ts)
			}
			p.Untyped = p.Untyped || !typed
			return
		case id == 1 && t == tString && family < 0:
			if family = p.part(d, at+cellHead); family > maxPackedFamily {
				d.fail(garbage("family of %d bytes", family))
			}
		case id == 2 && t == tString && qualifier < 0:
			qualifier = p.part(d, at+cellHead+max(family, 0))
		case id == 3 && t == tString && value < 0:
			value = p.part(d, at+cellHead+max(family, 0)+max(qualifier, 0))
		case id == 4 && t == tI64:
			ts = d.i64()
		case id == 6 && t == tByte:
			op, typed = opOf(d), true
		default:
			d.skip(t, false, 0)
		}
	}
}

// opOf reads a cell's type, which raw scans state.
func opOf(d *decoder) Op {
	n := d.u8()
	op, ok := OpOf(n)
	if !ok {
		d.fail(garbage("cell of type %d", n))
	}
	return op
}

var noHead [cellHead]byte

// head makes room for n bytes.
func (p *Page) head(n int) {
	if p.fits(n) {
		p.buf = append(p.buf, noHead[:n]...)
	}
}

// fits tells whether n more bytes are kept; after the first that are not, none are of this result.
func (p *Page) fits(n int) bool {
	if p.over == 0 && (p.Limit <= 0 || len(p.buf)+n <= p.Limit) {
		return true
	}
	p.over += n
	return false
}

// part reads a field of bytes to where it belongs and gives its length. Servers write fields in order, so that is the end.
func (p *Page) part(d *decoder, at int) int {
	n := d.size()
	if !p.fits(n) {
		d.discard(n)
		return n
	}
	end := len(p.buf)
	p.buf = d.raw(p.buf, n)
	if at != end && d.err == nil {
		late := slices.Clone(p.buf[end:])
		copy(p.buf[at+n:], p.buf[at:end])
		copy(p.buf[at:], late)
	}
	return n
}
