package mapping

import (
	"bytes"
	"fmt"

	"github.com/zeebo/xxh3"

	"drover/hbase"
	"drover/jobs"
)

// RowMapper appends what becomes of a table's rows to batches. It belongs to one goroutine.
type RowMapper struct {
	m *RowMapping

	values [][]byte // by ref: of this row, nil for none
	run    runner   // of expressions
	keyBuf []byte
	met    meeting
}

// Map implements jobs.Mapper. The document is an hbase.PackedRow.
func (p *RowMapper) Map(raw []byte, route func(key []byte) *hbase.Batch) (jobs.Outcome, string) {
	m := p.m
	row := hbase.PackedRow(raw)
	if err := row.Check(); err != nil {
		return jobs.Refused, "corrupt row: " + err.Error()
	}
	if len(m.refs) > 0 {
		p.find(row)
	}
	if m.filter != nil {
		keep, why := p.filter()
		if why != "" {
			return jobs.Refused, "filter: " + why
		}
		if !keep {
			return jobs.Filtered, ""
		}
	}
	key := row.Key()
	if m.key != nil {
		var why string
		if key, why = p.key(); why != "" {
			return jobs.Refused, "key: " + why
		}
	}
	switch {
	case len(key) == 0:
		return jobs.Refused, "key is empty, which HBase does not take"
	case len(key) > hbase.MaxKeyBytes:
		return jobs.Refused, fmt.Sprintf("key of %d bytes is over HBase's bound of %d", len(key), hbase.MaxKeyBytes)
	}
	b := route(key)
	before := b.Bytes()
	b.Begin(key)
	n, why := p.cells(row, key, b)
	if why == "" && m.maxRow > 0 && b.Bytes()-before+hbase.RowEnd > m.maxRow {
		why = fmt.Sprintf("row of %d bytes is over the %d that the gateways take", b.Bytes()-before+hbase.RowEnd, m.maxRow)
	}
	switch {
	case why != "":
		b.Rollback()
		return jobs.Refused, why
	case n == 0: // all of it is dropped
		b.Rollback()
		return jobs.Filtered, ""
	}
	b.End()
	return jobs.Mapped, ""
}

// find looks for the values that expressions name: of a column the newest put.
func (p *RowMapper) find(row hbase.PackedRow) {
	clear(p.values)
	left := 0
	for i := range p.m.refs {
		if isKey(p.m.refs[i].path) {
			p.values[i] = row.Key()
		} else {
			left++
		}
	}
	w := row.Cells()
	for c := (hbase.Cell{}); left > 0 && w.Next(&c); {
		if c.Op != hbase.Put {
			continue
		}
		for i := range p.m.refs {
			path := p.m.refs[i].path
			if len(path) == 2 && p.values[i] == nil && string(c.Family) == path[0].name && string(c.Qualifier) == path[1].name {
				p.values[i] = c.Value
				left--
			}
		}
	}
}

func (p *RowMapper) eval(e *expression) (any, string) {
	r := &p.run
	if r.env == nil {
		r.env = make(map[string]any)
	}
	for i, f := range e.fields {
		if v := p.values[f]; v != nil {
			r.env[e.names[i]] = string(v)
		} else {
			r.env[e.names[i]] = nil
		}
	}
	return r.exec(e)
}

func (p *RowMapper) filter() (keep bool, why string) {
	x, why := p.eval(p.m.filter)
	if why != "" {
		return false, why
	}
	return keeps(x)
}

// key gives the bytes of the key's expression, valid until the next call.
func (p *RowMapper) key() (key []byte, why string) {
	if only := p.m.key.only; only >= 0 {
		if v := p.values[only]; v != nil {
			return v, ""
		}
		return nil, fmt.Sprintf("the row has no column %s", p.m.refs[only].text)
	}
	x, why := p.eval(p.m.key)
	if why != "" {
		return nil, why
	}
	switch x := x.(type) {
	case nil:
		return nil, "expression gives nothing; the row has no column of those that it names"
	case string:
		p.keyBuf = append(p.keyBuf[:0], x...)
		return p.keyBuf, ""
	}
	key, err := asBytes(x)
	if err != nil {
		return nil, err.Error()
	}
	return key, ""
}

// cells appends the cells of the begun row and says how many.
func (p *RowMapper) cells(row hbase.PackedRow, key []byte, b *hbase.Batch) (n int, why string) {
	m := p.m
	p.met.begin()
	var rule *family
	var c hbase.Cell
	for w := row.Cells(); w.Next(&c); {
		if c.Timestamp < 0 || c.Timestamp > hbase.MaxTimestamp {
			return 0, fmt.Sprintf("column %s has the timestamp %d; HBase takes 0 to %d", columnText(&c), c.Timestamp, int64(hbase.MaxTimestamp))
		}
		to, qualifier := c.Family, c.Qualifier
		if !m.identity {
			if rule == nil || !bytes.Equal(rule.name, c.Family) {
				rule = m.rule(c.Family)
			}
			if c.Op == hbase.DeleteFamily || c.Op == hbase.DeleteFamilyVersion {
				k, why := rule.delete(&c, b)
				if why != "" {
					return 0, why
				}
				n += k
				continue
			}
			mixed := rule.mixed
			if col := rule.column(c.Qualifier); col != nil {
				if col.drop {
					continue
				}
				to, qualifier, mixed = col.family, col.to, col.mixed
			} else if rule.drop {
				continue
			} else if rule.to != nil {
				to = rule.to
			}
			if mixed {
				if other := p.met.at(to, qualifier, &c); other != nil {
					return 0, fmt.Sprintf("columns %s and %s both go to %s:%s", columnText(other), columnText(&c), to, hbase.KeyText(qualifier))
				}
			}
		}
		if c.Op == hbase.Put {
			if size := hbase.CellBytes(len(key), len(to), len(qualifier), len(c.Value)); size > hbase.MaxCellBytes {
				return 0, fmt.Sprintf("column %s: cell of %d bytes is over HBase's bound of %d", columnText(&c), size, hbase.MaxCellBytes)
			}
			copy(b.Reserve(to, qualifier, c.Timestamp, len(c.Value)), c.Value)
		} else {
			b.Cell(c.Op, to, qualifier, c.Timestamp, nil)
		}
		n++
	}
	return n, ""
}

// column is the rule of a column, or nil.
func (f *family) column(qualifier []byte) *columnRule {
	for i := range f.columns {
		if c := &f.columns[i]; string(c.qualifier) == string(qualifier) {
			return c
		}
	}
	return nil
}

// delete appends what a delete of a whole family becomes: the delete of the family that it goes to, and of each column that
// goes elsewhere.
func (f *family) delete(c *hbase.Cell, b *hbase.Batch) (n int, why string) {
	if !f.drop {
		to := c.Family
		if f.to != nil {
			to = f.to
		}
		if f.others {
			return 0, fmt.Sprintf("deletes all of family %s, and its columns share family %s with others, which would be deleted too", c.Family, to)
		}
		b.Cell(c.Op, to, nil, c.Timestamp, nil)
		n++
	}
	op := hbase.DeleteColumn
	if c.Op == hbase.DeleteFamilyVersion {
		op = hbase.DeleteVersion
	}
	for i := range f.columns {
		if col := &f.columns[i]; col.moved {
			b.Cell(op, col.family, col.to, c.Timestamp, nil)
			n++
		}
	}
	return n, ""
}

func columnText(c *hbase.Cell) string {
	return string(c.Family) + ":" + hbase.KeyText(c.Qualifier)
}

// meeting finds columns of one row that go to one place. It is a hash table that is emptied by counting on.
type meeting struct {
	slots []met
	row   uint32
	used  int
}

type met struct {
	row               uint32
	hash              uint64
	family, qualifier []byte // where it goes
	from              hbase.Cell
}

func (t *meeting) begin() {
	if t.row++; t.row == 0 {
		clear(t.slots)
		t.row = 1
	}
	t.used = 0
}

// at notes that the column of c goes to a place, and gives the other one that does so, or nil.
func (t *meeting) at(family, qualifier []byte, c *hbase.Cell) *hbase.Cell {
	if 2*t.used >= len(t.slots) {
		t.grow()
	}
	h := xxh3.HashSeed(qualifier, xxh3.Hash(family))
	for i := h; ; i++ {
		s := &t.slots[i&uint64(len(t.slots)-1)]
		switch {
		case s.row != t.row:
			*s = met{t.row, h, family, qualifier, *c}
			t.used++
			return nil
		case s.hash == h && bytes.Equal(s.family, family) && bytes.Equal(s.qualifier, qualifier):
			if bytes.Equal(s.from.Family, c.Family) && bytes.Equal(s.from.Qualifier, c.Qualifier) {
				return nil
			}
			return &s.from
		}
	}
}

func (t *meeting) grow() {
	old := t.slots
	t.slots = make([]met, max(64, 2*len(old)))
	for _, s := range old {
		if s.row != t.row {
			continue
		}
		for i := s.hash; ; i++ {
			if free := &t.slots[i&uint64(len(t.slots)-1)]; free.row != t.row {
				*free = s
				break
			}
		}
	}
}
