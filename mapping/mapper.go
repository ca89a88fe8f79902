package mapping

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"drover/hbase"
	"drover/jobs"
)

// Mapper appends the rows of documents to batches. It belongs to one goroutine.
//
// The documents of a collection have mostly the same fields in mostly the same order. So each name seen gets a slot with all
// that is known of it, and each slot remembers which one came after it last: the usual field costs one comparison of its
// name. Slots only make it fast; what a document becomes does not depend on them.
type Mapper struct {
	m         *Mapping
	timestamp int64  // the plan's
	keyWord   string // the plan's key type; "" takes any
	wantTyp   byte   // keyWord, taken apart
	wantSub   byte

	slots []slot           // slots[0] stands before the first field
	names map[string]int32 // to slots
	held  int              // bytes of names in slots
	gen   uint64           // of this document

	elems []elem  // of this document: the top-level fields that something needs
	at    []int32 // by ref: its top-level field in elems, or -1

	keyTyp byte   // of the value that the key was made of
	keyVal []byte //
	key    []byte // of this document; part of it, or of keyBuf
	keyBuf []byte
	buf    []byte // one encoded value
	run    runner // of expressions
}

// slot is a top-level field's name and what it is for.
type slot struct {
	name    []byte // with its terminator
	next    int32  // the slot that came next in an earlier document; 0 for none yet
	wanted  bool   // a value of that name is used
	clash   bool   // its column is the document's
	seen    uint64 // the last document that had it
	column  target // of all fields
	columns []int32
	refs    []int32
}

// elem is a top-level field of the current document; its value is raw[off:end].
type elem struct {
	off, end int32
	slot     int32
	typ      byte
}

const (
	maxSlots   = 10_000  // names kept, where every document brings new ones
	maxHeld    = 1 << 20 // bytes of such names
	maxScratch = 1 << 20 // bytes kept between documents
)

func (m *Mapping) newMapper(timestamp int64, keyType string) *Mapper {
	p := &Mapper{m: m, timestamp: timestamp, keyWord: keyType, at: make([]int32, len(m.refs))}
	p.wantTyp, p.wantSub = typeNamed(keyType)
	p.forget()
	return p
}

// forget drops the slots.
func (p *Mapper) forget() {
	p.slots = append([]slot(nil), slot{})
	p.names, p.held = make(map[string]int32), 0
}

// trim gives back what documents with many names or large values have left.
func (p *Mapper) trim() {
	if len(p.slots) > maxSlots || p.held > maxHeld {
		p.forget()
	}
	if cap(p.buf) > maxScratch {
		p.buf = nil
	}
	if cap(p.keyBuf) > maxScratch {
		p.keyBuf = nil
	}
}

// Map appends the document's row to the batch that route gives for its key.
func (p *Mapper) Map(raw []byte, route func(key []byte) *hbase.Batch) (jobs.Outcome, string) {
	p.trim()
	if o, why := p.prepare(raw); o != jobs.Mapped {
		return o, why
	}
	ts, why := p.stamp(raw)
	if why != "" {
		return jobs.Refused, why
	}

	b := route(p.key)
	before := b.Bytes()
	b.Begin(p.key)
	n, why := p.cells(raw, b, ts)
	if why == "" && p.m.maxRow > 0 && b.Bytes()-before+hbase.RowEnd > p.m.maxRow {
		why = fmt.Sprintf("row of %d bytes is over the %d that the gateways take", b.Bytes()-before+hbase.RowEnd, p.m.maxRow)
	}
	switch {
	case why != "":
		b.Rollback()
		return jobs.Refused, why
	case n > 0:
		b.End()
		return jobs.Mapped, ""
	}
	b.Rollback()
	if p.m.skipEmpty {
		return jobs.Filtered, ""
	}
	return jobs.Refused, "maps to no cell; set empty: skip to leave such documents out"
}

// prepare checks the document, filters it and finds its key.
func (p *Mapper) prepare(raw []byte) (jobs.Outcome, string) {
	if why := p.scan(raw); why != "" {
		return jobs.Refused, why
	}
	if f := p.m.filter; f != nil {
		keep, why := p.run.filter(p, raw, f)
		if why != "" {
			return jobs.Refused, "filter: " + why
		}
		if !keep {
			return jobs.Filtered, ""
		}
	}
	if why := p.findKey(raw); why != "" {
		return jobs.Refused, why
	}
	return jobs.Mapped, ""
}

// scan checks the whole document and notes the top-level fields that something needs.
func (p *Mapper) scan(raw []byte) string {
	if len(raw) < 5 || int32At(raw, 0) != len(raw) {
		return corrupt(0, nil, fmt.Sprintf("document has %d bytes, which is not the length at its start", len(raw)))
	}
	end := len(raw) - 1
	if raw[end] != 0 {
		return corrupt(end, nil, "document has no terminator")
	}
	for i := range p.at {
		p.at[i] = -1
	}
	p.gen++
	p.elems = p.elems[:0]
	prev := int32(0)
	for at := 4; at < end; {
		typ := raw[at]
		at++
		i := p.slots[prev].next
		name := p.slots[i].name
		if i == 0 || end-at < len(name) || string(raw[at:at+len(name)]) != string(name) {
			n := bytes.IndexByte(raw[at:end], 0)
			if n < 0 {
				return corrupt(at, nil, "field name has no terminator")
			}
			i = p.slotFor(raw[at : at+n+1])
			p.slots[prev].next = i
		}
		s := &p.slots[i]
		at += len(s.name)
		off := at
		if n := int(fixedSize[typ]); n >= 0 && end-at >= n {
			at += n
		} else if typ == tString && end-at >= 5 && uint(int32At(raw, at)-1) < uint(end-at-4) && raw[at+3+int32At(raw, at)] == 0 {
			at += 4 + int32At(raw, at)
		} else {
			next, why := checkValue(raw, at, end, typ, 0)
			if why != "" {
				return corrupt(next, s.name, why)
			}
			at = next
		}
		if s.wanted {
			if s.seen == p.gen {
				return fmt.Sprintf("field %s is there twice, and a row has only one place for it", quote(s.name))
			}
			s.seen = p.gen
			for _, r := range s.refs {
				p.at[r] = int32(len(p.elems))
			}
			p.elems = append(p.elems, elem{int32(off), int32(at), i, typ})
		}
		prev = i
	}
	return ""
}

// slotFor finds the slot of a name, which comes with its terminator, or makes it.
func (p *Mapper) slotFor(name []byte) int32 {
	if i, ok := p.names[string(name)]; ok {
		return i
	}
	s := slot{name: bytes.Clone(name)}
	bare := s.name[:len(name)-1]
	m := p.m
	if m.allFields {
		s.wanted = true
		s.column = newTarget(m.family, bare)
		s.clash = m.document != nil && m.documentName == string(m.family)+":"+string(bare)
	}
	for i := range m.columns {
		if m.columns[i].top == string(bare) {
			s.columns, s.wanted = append(s.columns, int32(i)), true
		}
	}
	for i := range m.refs {
		if m.refs[i].path[0].name == string(bare) {
			s.refs, s.wanted = append(s.refs, int32(i)), true
		}
	}
	i := int32(len(p.slots))
	p.slots = append(p.slots, s)
	p.names[string(name)] = i
	p.held += len(name)
	return i
}

// value gives the value of a ref; typ 0 says that the document has none.
func (p *Mapper) value(raw []byte, r int) (typ byte, v []byte, why string) {
	at := p.at[r]
	if at < 0 {
		return 0, nil, ""
	}
	e := p.elems[at]
	typ, v = e.typ, raw[e.off:e.end]
	if path := p.m.refs[r].path; len(path) > 1 {
		var twice bool
		if typ, v, twice = follow(typ, v, path[1:]); twice {
			return 0, nil, fmt.Sprintf("field %q is there twice", p.m.refs[r].text)
		}
	}
	return typ, v, ""
}

func (p *Mapper) findKey(raw []byte) (why string) {
	m := p.m
	var typ byte
	var v []byte
	if m.keyExpr != nil {
		if typ, v, why = p.run.key(p, raw, m.keyExpr); why != "" {
			return "key: " + why
		}
	} else {
		typ, v, why = p.value(raw, m.key)
		switch {
		case why != "":
			return "key: " + why
		case typ == 0:
			return fmt.Sprintf("key field %q is missing", m.refs[m.key].text)
		case typ == tNull || typ == tUndefined:
			return fmt.Sprintf("key field %q is %s", m.refs[m.key].text, typeName(typ, v))
		}
	}
	p.keyTyp, p.keyVal = typ, v
	if p.keyWord != "" && m.keyEnc == encBytes && (typ != p.wantTyp || typ == tBinary && v[4] != p.wantSub) {
		return fmt.Sprintf("key is of type %s, where the plan found %s: with key_encoding bytes, keys of two types can become one row",
			typeName(typ, v), p.keyWord)
	}
	var ok bool
	if p.key, ok = within(m.keyEnc, typ, v); !ok {
		if p.keyBuf, why = appendEncoded(p.keyBuf[:0], m.keyEnc, typ, v); why != "" {
			return "key: " + why
		}
		p.key = p.keyBuf
	}
	if len(p.key) == 0 {
		return "key is empty, which HBase does not take"
	}
	if len(p.key) > hbase.MaxKeyBytes {
		return fmt.Sprintf("key of %d bytes is over HBase's bound of %d", len(p.key), hbase.MaxKeyBytes)
	}
	return ""
}

func (p *Mapper) stamp(raw []byte) (ms int64, why string) {
	m := p.m
	switch m.stamp {
	case stampPlan:
		return p.timestamp, ""
	case stampFixed:
		return m.fixedTS, ""
	}
	typ, v, why := p.value(raw, m.stamp)
	if why != "" {
		return 0, "timestamp: " + why
	}
	name := m.refs[m.stamp].text
	switch typ {
	case tDate, tInt64:
		ms = int64At(v)
	case tInt32:
		ms = int64(int32At(v, 0))
	case tObjectID:
		ms = int64(binary.BigEndian.Uint32(v)) * 1000
	case 0:
		return 0, fmt.Sprintf("timestamp field %q is missing", name)
	default:
		return 0, fmt.Sprintf("timestamp field %q is of type %s; a date, objectId, int32 or int64 can be one", name, typeName(typ, v))
	}
	if ms < 0 || ms > hbase.MaxTimestamp {
		return 0, fmt.Sprintf("timestamp field %q is %d ms; HBase takes 0 to %d", name, ms, int64(hbase.MaxTimestamp))
	}
	return ms, ""
}

// cells appends the cells of the begun row and says how many.
func (p *Mapper) cells(raw []byte, b *hbase.Batch, ts int64) (n int, why string) {
	m := p.m
	for i := range p.elems {
		e := &p.elems[i]
		s := &p.slots[e.slot]
		v := raw[e.off:e.end]
		if m.allFields {
			put, why := p.put(b, &s.column, m.enc, ts, e.typ, v)
			if why != "" {
				return 0, "field " + quote(s.name) + ": " + why
			}
			if put > 0 && s.clash {
				return 0, "field " + quote(s.name) + " has the column where the whole document goes"
			}
			n += put
		}
		for _, c := range s.columns {
			col := &m.columns[c]
			typ, v := e.typ, v
			if len(col.path) > 0 {
				var twice bool
				if typ, v, twice = follow(typ, v, col.path); twice {
					return 0, fmt.Sprintf("field %q is there twice", col.from)
				}
				if typ == 0 {
					continue
				}
			}
			put, why := p.put(b, &col.target, col.enc, ts, typ, v)
			if why != "" {
				return 0, fmt.Sprintf("field %q: %s", col.from, why)
			}
			n += put
		}
	}
	if d := m.document; d != nil {
		if room := hbase.MaxCellBytes - d.size - len(p.key); len(raw) > room {
			return 0, "document: " + tooBig(room, len(raw))
		}
		b.Value(&d.Column, ts, raw)
		n++
	}
	return n, ""
}

// put appends a value's cell and returns 1, or 0 where the encoding has no cell for it.
func (p *Mapper) put(b *hbase.Batch, c *target, enc encoding, ts int64, typ byte, v []byte) (n int, why string) {
	room := hbase.MaxCellBytes - c.size - len(p.key) // for the value
	switch enc {
	case encBSON:
		if len(v) >= room {
			return 0, tooBig(room, 1+len(v))
		}
		dst := b.ReserveValue(&c.Column, ts, 1+len(v))
		dst[0] = typ
		copy(dst[1:], v)
		return 1, ""
	case encBytes:
		switch typ {
		case tNull:
			return 0, ""
		case tString, tObjectID:
			if typ == tString {
				v = text(v)
			}
			if len(v) > room {
				return 0, tooBig(room, len(v))
			}
			b.Value(&c.Column, ts, v)
			return 1, ""
		case tDouble, tInt64, tDate, tTimestamp:
			if room < 8 {
				return 0, tooBig(room, 8)
			}
			binary.BigEndian.PutUint64(b.ReserveValue(&c.Column, ts, 8), binary.LittleEndian.Uint64(v))
			return 1, ""
		case tInt32:
			if room < 4 {
				return 0, tooBig(room, 4)
			}
			binary.BigEndian.PutUint32(b.ReserveValue(&c.Column, ts, 4), binary.LittleEndian.Uint32(v))
			return 1, ""
		}
	}
	val, ok := within(enc, typ, v)
	if !ok {
		p.buf, why = appendEncoded(p.buf[:0], enc, typ, v)
		val = p.buf
	}
	if why != "" {
		return 0, why
	}
	if len(val) > room {
		return 0, tooBig(room, len(val))
	}
	b.Value(&c.Column, ts, val)
	return 1, ""
}

// tooBig says why HBase does not take a cell with a value of n bytes where there is room for fewer.
func tooBig(room, n int) string {
	return fmt.Sprintf("cell of %d bytes is over HBase's bound of %d", hbase.MaxCellBytes-room+n, hbase.MaxCellBytes)
}

// corrupt says where a document is broken. name is the top-level field it is in, with its terminator, or nil.
func corrupt(at int, name []byte, why string) string {
	if name == nil {
		return fmt.Sprintf("corrupt document, at byte %d: %s", at, why)
	}
	return fmt.Sprintf("corrupt document, at byte %d in field %s: %s", at, quote(name), why)
}

// quote gives a field name with its terminator as text, cut where it is long.
func quote(name []byte) string {
	const most = 100
	name = name[:len(name)-1]
	if len(name) > most {
		return fmt.Sprintf("%q…", name[:most])
	}
	return fmt.Sprintf("%q", name)
}
