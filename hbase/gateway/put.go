package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/cockroachdb/pebble/v2"

	"drover/hbase"
)

// putCall is a decoded put or putMultiple. It refers to the message by offset and is reused for the next call.
type putCall struct {
	table span
	rows  []putRow
	cells []putCell
	large bool // a cell is near the limit
}

type putRow struct {
	key     span
	cell    int32 // its cells are cells[cell:end]
	end     int32
	ts      int64
	hasTS   bool
	ttl     int64
	durable hbase.Durability
	reason  string // why the row is refused
}

type putCell struct {
	family, qualifier, value span
	ts                       int64
	hasTS                    bool
}

// decode reads the arguments of put (one row) or putMultiple.
func (p *putCall) decode(w *wire, single bool) {
	p.table, p.rows, p.cells, p.large = span{}, p.rows[:0], p.cells[:0], false
	var last int16
	for {
		t := w.field(&last)
		switch {
		case t == thrift.STOP:
			return
		case last == 1 && t == thrift.STRING:
			p.table = w.bytes()
		case last == 2 && single && t == thrift.STRUCT:
			p.row(w)
		case last == 2 && !single && t == thrift.LIST:
			elem, n := w.list()
			if elem != thrift.STRUCT && n > 0 {
				w.fail("puts that are no structs")
			}
			for i := 0; i < n && w.err == nil; i++ {
				p.row(w)
			}
		default:
			w.skip(t, true, 0)
		}
	}
}

func (p *putCall) row(w *wire) {
	r := putRow{cell: int32(len(p.cells)), end: int32(len(p.cells))}
	var last int16
	for {
		t := w.field(&last)
		switch {
		case t == thrift.STOP:
			p.rows = append(p.rows, r)
			return
		case last == 1 && t == thrift.STRING:
			r.key = w.bytes()
		case last == 2 && t == thrift.LIST:
			_, n := w.list()
			for i := 0; i < n && w.err == nil; i++ {
				if w.compact || !p.plainCell(w) {
					p.cell(w)
				}
			}
			r.end = int32(len(p.cells))
		case last == 3 && t == thrift.I64:
			r.ts, r.hasTS = w.i64(), true
		case last == 5 && t == thrift.MAP:
			_, _, n := w.mapping()
			for i := 0; i < n && w.err == nil; i++ {
				name, value := w.bytes(), w.bytes()
				if string(w.at(name)) == "_ttl" && value.n == 8 {
					r.ttl = int64(binary.BigEndian.Uint64(w.at(value)))
				}
			}
		case last == 6 && t == thrift.I32:
			r.durable = hbase.Durability(w.i32())
		default:
			w.skip(t, true, 0)
		}
	}
}

// What a cell has in the binary protocol beside its bytes: the heads of family, qualifier and value, maybe a timestamp with its head,
// and the end.
const (
	plainHead  = 3 + 4
	plainStamp = 3 + 8
	plainFixed = 3*plainHead + 1
)

// plainCell decodes a cell whose fields are those that nearly all have, in the order of their numbers, and that has arrived as a whole.
// It reads nothing where one of these is not so. What cell makes of such a cell is the same, at some times the cost.
func (p *putCall) plainCell(w *wire) bool {
	in := w.buf[w.pos:w.end]
	if len(in) < plainFixed {
		return false
	}
	var parts [3]span
	at := uint64(0)
	for i := range parts {
		head := binary.BigEndian.Uint64(in[at:]) // with the first byte of what follows
		n := head >> 8 & math.MaxUint32
		if head>>40 != thrift.STRING<<16|uint64(i+1) || at+n+uint64(3-i)*plainHead+1 > uint64(len(in)) {
			return false
		}
		at += plainHead
		parts[i] = span{int32(w.pos) + int32(at), int32(n)}
		at += n
	}
	c := putCell{family: parts[0], qualifier: parts[1], value: parts[2]}
	tail := in[at:]
	if len(tail) > plainStamp && tail[0] == thrift.I64 && tail[1] == 0 && tail[2] == 4 {
		c.ts, c.hasTS = int64(binary.BigEndian.Uint64(tail[3:])), true
		tail = tail[plainStamp:]
	}
	if tail[0] != thrift.STOP {
		return false
	}
	p.large = p.large || c.value.n > hbase.MaxCellBytes-4*hbase.MaxKeyBytes
	p.cells = append(p.cells, c)
	w.pos += len(in) - len(tail) + 1
	return true
}

func (p *putCall) cell(w *wire) {
	var c putCell
	var last int16
	for {
		t := w.field(&last)
		switch {
		case t == thrift.STOP:
			p.cells = append(p.cells, c)
			return
		case last == 1 && t == thrift.STRING:
			c.family = w.bytes()
		case last == 2 && t == thrift.STRING:
			c.qualifier = w.bytes()
		case last == 3 && t == thrift.STRING:
			c.value = w.bytes()
			p.large = p.large || c.value.n > hbase.MaxCellBytes-4*hbase.MaxKeyBytes
		case last == 4 && t == thrift.I64:
			c.ts, c.hasTS = w.i64(), true
		default:
			w.skip(t, true, 0)
		}
	}
}

// check is what HBase's client does inside the gateway before it sends anything: one bad row refuses the whole call, and
// the reason is lost.
func (p *putCall) check() error {
	for i := range p.rows {
		r := &p.rows[i]
		switch {
		case r.key.n == 0:
			return internalError{"Row length is 0"}
		case r.key.n > hbase.MaxKeyBytes:
			return internalError{fmt.Sprintf("Row length %d is > %d", r.key.n, hbase.MaxKeyBytes)}
		case r.hasTS && r.ts < 0:
			return internalError{fmt.Sprintf("Timestamp cannot be negative. ts=%d", r.ts)}
		case r.cell == r.end:
			return internalError{"No columns to insert"}
		}
		for _, c := range p.cells[r.cell:r.end] {
			if c.size(r)-4 > hbase.MaxCellBytes {
				return internalError{"KeyValue size too large"}
			}
		}
	}
	return nil
}

// stamp is the cell's timestamp, the row's where it has none, or the greatest, which stands for the server's clock.
func (c *putCell) stamp(r *putRow) int64 {
	switch {
	case c.hasTS:
		return c.ts
	case r.hasTS:
		return r.ts
	}
	return math.MaxInt64
}

// size is what the region server compares with its limit. HBase's client compares 4 bytes less.
func (c *putCell) size(r *putRow) int {
	return hbase.CellBytes(int(r.key.n), int(c.family.n), int(c.qualifier.n), int(c.value.n))
}

// checkSizes refuses the rows of a region when one of them has a cell over the region server's limit: all that go to a
// region in one call are refused with it.
func (p *putCall) checkSizes(w *wire, t *table) {
	for i := range p.rows {
		r := &p.rows[i]
		for j := r.cell; j < r.end; j++ {
			c := &p.cells[j]
			if c.size(r) <= hbase.MaxCellBytes {
				continue
			}
			region, _ := t.region(w.at(r.key))
			reason := remote("DoNotRetryIOException", "Cell[%s/%s:%s/%d/Put/vlen=%d/seqid=0] with size %d exceeds limit of %d bytes",
				w.at(r.key), w.at(c.family), w.at(c.qualifier), c.stamp(r), c.value.n, c.size(r), hbase.MaxCellBytes)
			for k := range p.rows {
				if start, _ := t.region(w.at(p.rows[k].key)); p.rows[k].reason == "" && bytes.Equal(start, region) {
					p.rows[k].reason = reason
				}
			}
		}
	}
}

// put applies a put or putMultiple that w holds.
func (s *Server) put(w *wire, p *putCall, single bool) error {
	if err := p.check(); err != nil {
		return err
	}
	if len(p.rows) == 0 {
		return nil
	}
	if err := s.faults.pace(s.done, len(p.rows)); err != nil {
		return err
	}
	name := plainName(w.at(p.table))
	if s.backend != nil {
		return s.backend.PutRows(name, Rows{w, p}, single)
	}

	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	if s.store.closed {
		return errClosed
	}
	t := s.store.tables[name]
	if t == nil || t.disabled {
		return unusable(name, t, len(p.rows), single)
	}
	s.faults.refuse(w, p, t)
	if p.large {
		p.checkSizes(w, t)
	}

	now := time.Now().UnixMilli()
	batch := s.store.db.NewBatchWithSize(w.pos + w.pos/4)
	defer batch.Close()
	var failed Failures
	var last *family
	durable := false
	for i := range p.rows {
		r := &p.rows[i]
		size := 0
		for j := r.cell; j < r.end && r.reason == ""; j++ {
			c := &p.cells[j]
			if name := w.at(c.family); last == nil || last.name != string(name) {
				if last = t.family(name); last == nil {
					r.reason = t.noFamily(name, w.at(r.key))
				}
			}
			if c.ts = c.stamp(r); c.ts == math.MaxInt64 {
				c.ts = now
			}
			size += 9 + uvarintLen(int(c.family.n)) + int(c.family.n) + uvarintLen(int(c.qualifier.n)) + int(c.qualifier.n) +
				uvarintLen(int(c.value.n)) + int(c.value.n)
			if r.ttl != 0 {
				size += 8
			}
		}
		if r.reason != "" {
			failed.Add(r.reason)
			continue
		}
		durable = durable || (r.durable != hbase.SkipWAL && r.durable != hbase.AsyncWAL)
		op := batch.MergeDeferred(prefixLen+int(r.key.n), size)
		op.Key[0] = keyRow
		binary.BigEndian.PutUint32(op.Key[1:], t.number)
		copy(op.Key[prefixLen:], w.at(r.key))
		at := 0
		for j := r.cell; j < r.end; j++ {
			c := &p.cells[j]
			stored := cell{kind: typePut, family: w.at(c.family), qualifier: w.at(c.qualifier), ts: c.ts, ttl: r.ttl, value: w.at(c.value)}
			at += stored.put(op.Value[at:])
		}
		if err := op.Finish(); err != nil {
			return fmt.Errorf("batch a row: %w", err)
		}
	}
	if err := s.store.commit(batch, durable); err != nil {
		return ioError(true, "put to %s: %v", name, err)
	}
	s.faults.applied(w, p, name)
	if single && failed.rows > 0 {
		return ioError(false, "%s", failed.reasons[0])
	}
	return failed.Err()
}

// commit applies a batch; durable waits until it would survive the end of the process (or of the machine, with Fsync).
func (s *Store) commit(b *pebble.Batch, durable bool) error {
	if b.Empty() {
		return nil
	}
	if durable {
		return b.Commit(pebble.Sync)
	}
	return b.Commit(pebble.NoSync)
}

// unusable is the error for a call on a table that is missing (t is nil) or disabled. Batches do not name a disabled table:
// the gateway knows where its regions were, asks there, and sums up what it hears.
func unusable(name string, t *table, rows int, single bool) error {
	if single {
		if t == nil {
			return tableNotFound(name)
		}
		return tableNotEnabled(name)
	}
	var f Failures
	reason := "NotServingRegionException"
	if t == nil {
		reason, f.Servers = name, "null"
	}
	for range rows {
		f.Add(reason)
	}
	return f.Err()
}
