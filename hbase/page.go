package hbase

// Page is the rows of one ScanPage. It is reused: rows and all their slices are valid until the next call with it.
type Page struct {
	Rows    []Row
	Partial []bool // row i has more cells than these; read it again from its key

	cells []Cell
	buf   []byte
}

func (p *Page) reset() {
	if cap(p.buf) > maxPooled {
		p.buf = nil
	}
	p.Rows, p.Partial, p.cells, p.buf = p.Rows[:0], p.Partial[:0], p.cells[:0], p.buf[:0]
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
		p.result(d)
	}
}

func (p *Page) result(d *decoder) {
	var row Row
	partial := false
	for id := int16(0); d.err == nil; {
		var t byte
		switch t, id = d.field(id); {
		case t == tStop:
			if row.Key != nil && d.err == nil {
				p.Rows, p.Partial = append(p.Rows, row), append(p.Partial, partial)
			}
			return
		case id == 1 && t == tString:
			row.Key = p.bytes(d)
		case id == 2 && t == tList:
			row.Cells = p.readCells(d)
		case id == 4 && t == tBool:
			partial = d.boolean()
		default:
			d.skip(t, false, 0)
		}
	}
}

func (p *Page) readCells(d *decoder) []Cell {
	elem, n := d.list()
	if n > 0 && elem != tStruct {
		d.fail(garbage("list of cells of type %d", elem))
	}
	at := len(p.cells)
	for ; n > 0 && d.err == nil; n-- {
		p.cells = append(p.cells, Cell{})
		p.cell(d, &p.cells[len(p.cells)-1])
	}
	return p.cells[at:len(p.cells):len(p.cells)]
}

func (p *Page) cell(d *decoder, c *Cell) {
	for id := int16(0); d.err == nil; {
		var t byte
		switch t, id = d.field(id); {
		case t == tStop:
			return
		case id == 1 && t == tString:
			c.Family = p.bytes(d)
		case id == 2 && t == tString:
			c.Qualifier = p.bytes(d)
		case id == 3 && t == tString:
			c.Value = p.bytes(d)
		case id == 4 && t == tI64:
			c.Timestamp = d.i64()
		case id == 6 && t == tByte:
			c.Op = opOf(d)
		default:
			d.skip(t, false, 0)
		}
	}
}

// opOf reads a cell's type, which raw scans state. The numbers are those of HBase's KeyValue.
func opOf(d *decoder) Op {
	switch n := d.u8(); n {
	case 0, 4:
		return Put
	case 8:
		return DeleteVersion
	case 10:
		return DeleteFamilyVersion
	case 12:
		return DeleteColumn
	case 14:
		return DeleteFamily
	default:
		d.fail(garbage("cell of type %d", n))
		return Put
	}
}

func (p *Page) bytes(d *decoder) []byte {
	at := len(p.buf)
	p.buf = d.bytes(p.buf)
	return p.buf[at:len(p.buf):len(p.buf)]
}
