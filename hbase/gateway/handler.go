package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"drover/hbase"
	"drover/hbase/thrift2"
)

// handler carries out the calls that come through the generated code: all but put and putMultiple.
type handler struct{ s *Server }

var _ thrift2.THBaseService = (*handler)(nil)

// scanner is a scan kept open in the server's memory.
type scanner struct {
	mu sync.Mutex
	scan
	err error // what the region server says of it, which HBase's client only learns with the first rows
}

// open gives a table that rows can be read from or deleted in.
func (h *handler) open(name []byte, action string) (*table, error) {
	plain := plainName(name)
	if err := h.s.faults.access(plain, action); err != nil {
		return nil, err
	}
	t := h.s.store.table(name)
	if t == nil {
		return nil, tableNotFound(plain)
	}
	if t.disabled {
		return nil, tableNotEnabled(plain)
	}
	return t, nil
}

// reading turns a fault of the store into what a client may see.
func reading(t *table, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*thrift2.TIOError](err); ok {
		return e // bare, as the generated code wants it
	}
	return ioError(true, "read %s: %v", t.name, err)
}

// CheckKey is what HBase's client checks of a row's key before it sends anything. Of its error clients only learn that there was one.
func CheckKey(row []byte) error {
	if len(row) == 0 || len(row) > hbase.MaxKeyBytes {
		return internalError{fmt.Sprintf("Row length is %d", len(row))}
	}
	return nil
}

func (h *handler) get(table []byte, g *thrift2.TGet) (*table, []cell, error) {
	if err := CheckKey(g.Row); err != nil {
		return nil, nil, err
	}
	t, err := h.open(table, "READ")
	if err != nil {
		return nil, nil, err
	}
	versions := 1
	if g.IsSetMaxVersions() {
		if versions = int(*g.MaxVersions); versions <= 0 {
			return nil, nil, ioError(true, "versions must be positive")
		}
	}
	timeRange := g.TimeRange
	if g.IsSetTimestamp() {
		timeRange = &thrift2.TTimeRange{MinStamp: *g.Timestamp, MaxStamp: *g.Timestamp + 1}
	}
	q, err := newQuery(t, g.Columns, versions, timeRange, g.Attributes)
	if err != nil {
		return nil, nil, err
	}
	if err := q.filter(g.FilterString, g.FilterBytes); err != nil {
		return nil, nil, err
	}
	if g.IsSetStoreLimit() || g.IsSetStoreOffset() {
		return nil, nil, ioError(false, "the embedded gateway knows no storeLimit and storeOffset")
	}
	cells, err := h.s.store.row(t, g.Row, q)
	return t, cells, reading(t, err)
}

// batch fails a read of several rows as HBase's client does, in one sum, when the table cannot be read.
func (h *handler) batch(table []byte, rows int) error {
	name := plainName(table)
	if err := h.s.faults.access(name, "READ"); err != nil {
		return err
	}
	if t := h.s.store.table(table); t == nil || t.disabled {
		return unusable(name, t, rows, false)
	}
	return nil
}

// gets reads several rows; a missing family is summed up.
func (h *handler) gets(table []byte, gets []*thrift2.TGet, f func(i int, cells []cell)) error {
	for _, g := range gets {
		if err := CheckKey(g.Row); err != nil {
			return err
		}
	}
	if err := h.batch(table, len(gets)); err != nil {
		return err
	}
	var failed Failures
	for i, g := range gets {
		_, cells, err := h.get(table, g)
		if e, ok := errors.AsType[*thrift2.TIOError](err); ok && !e.GetCanRetry() {
			failed.Add(e.GetMessage())
		} else if err != nil {
			return err
		}
		f(i, cells)
	}
	return failed.Err()
}

func (h *handler) Exists(_ context.Context, table []byte, g *thrift2.TGet) (bool, error) {
	_, cells, err := h.get(table, g)
	return len(cells) > 0, err
}

func (h *handler) ExistsAll(_ context.Context, table []byte, gets []*thrift2.TGet) ([]bool, error) {
	found := make([]bool, len(gets))
	err := h.gets(table, gets, func(i int, cells []cell) { found[i] = len(cells) > 0 })
	return found, err
}

func (h *handler) Get(_ context.Context, table []byte, g *thrift2.TGet) (*thrift2.TResult_, error) {
	_, cells, err := h.get(table, g)
	if err != nil {
		return nil, err
	}
	return result(g.Row, cells), nil
}

func (h *handler) GetMultiple(_ context.Context, table []byte, gets []*thrift2.TGet) ([]*thrift2.TResult_, error) {
	results := make([]*thrift2.TResult_, len(gets))
	err := h.gets(table, gets, func(i int, cells []cell) { results[i] = result(gets[i].Row, cells) })
	return results, err
}

// scan opens a scan as HBase does: start == stop is that row, start > stop is nothing.
func (h *handler) scan(name []byte, s *thrift2.TScan) (*scan, error) {
	t, err := h.open(name, "READ")
	if err != nil {
		return nil, err
	}
	q, err := newQuery(t, s.Columns, int(s.GetMaxVersions()), s.TimeRange, s.Attributes)
	if err != nil {
		return nil, err
	}
	if err := q.filter(s.FilterString, s.FilterBytes); err != nil {
		return nil, err
	}
	for family, r := range s.ColFamTimeRangeMap {
		if q.perFam == nil {
			q.perFam = map[string][2]int64{}
		}
		q.perFam[family] = [2]int64{r.MinStamp, r.MaxStamp}
	}
	c := &scan{table: t, query: q, reversed: s.GetReversed(), batch: int(s.GetBatchSize()), limit: -1}
	if l := s.GetLimit(); l > 0 {
		c.limit = int(l)
	}
	start, stop := s.StartRow, s.StopRow
	c.from, c.to = t.appendKey(nil, start), t.after()
	switch {
	case len(start) > 0 && bytes.Equal(start, stop):
		c.to = append(t.appendKey(nil, stop), 0)
	case c.reversed:
		c.from = t.appendKey(nil, stop)
		if len(stop) > 0 {
			c.from = append(c.from, 0)
		}
		if len(start) > 0 {
			c.to = append(t.appendKey(nil, start), 0)
		}
		c.done = len(start) > 0 && len(stop) > 0 && bytes.Compare(start, stop) < 0
	case len(stop) > 0:
		c.to = t.appendKey(nil, stop)
		c.done = bytes.Compare(start, stop) > 0
	}
	return c, nil
}

func (h *handler) GetScannerResults(_ context.Context, table []byte, s *thrift2.TScan, rows int32) ([]*thrift2.TResult_, error) {
	c, err := h.scan(table, s)
	if err != nil {
		return nil, err
	}
	results, err := h.s.store.next(c, int(rows))
	return results, reading(c.table, err)
}

func (h *handler) OpenScanner(_ context.Context, table []byte, s *thrift2.TScan) (int32, error) {
	open := &scanner{}
	if c, err := h.scan(table, s); err == nil {
		open.scan = *c
	} else if open.err = err; !errors.As(err, new(*thrift2.TIOError)) {
		return 0, err
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	id := h.s.nextScan
	h.s.nextScan++
	h.s.scanners[id] = open
	return id, nil
}

func (h *handler) scanner(id int32) (*scanner, error) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	c := h.s.scanners[id]
	if c == nil {
		message := "Invalid scanner Id"
		return nil, &thrift2.TIllegalArgument{Message: &message}
	}
	return c, nil
}

func (h *handler) GetScannerRows(_ context.Context, id, rows int32) ([]*thrift2.TResult_, error) {
	c, err := h.scanner(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if _, err := h.open([]byte(c.table.name), "READ"); err != nil {
		return nil, err
	}
	results, err := h.s.store.next(&c.scan, int(rows))
	return results, reading(c.table, err)
}

// CloseScanner takes any id, as HBase does since a scanner may have expired.
func (h *handler) CloseScanner(_ context.Context, id int32) error {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	delete(h.s.scanners, id)
	return nil
}

// Put and PutMultiple are decoded by hand (put.go) and never come here.
func (h *handler) Put(context.Context, []byte, *thrift2.TPut) error { return errByHand }

func (h *handler) PutMultiple(context.Context, []byte, []*thrift2.TPut) error { return errByHand }

var errByHand = errors.New("puts are decoded by hand")

func (h *handler) DeleteSingle(_ context.Context, table []byte, d *thrift2.TDelete) error {
	t, err := h.open(table, "WRITE")
	if err != nil {
		return err
	}
	var f Failures
	if err := h.delete(t, []*thrift2.TDelete{d}, &f); err != nil {
		return err
	}
	if f.rows > 0 {
		return ioError(false, "%s", f.reasons[0])
	}
	return nil
}

func (h *handler) DeleteMultiple(_ context.Context, table []byte, deletes []*thrift2.TDelete) ([]*thrift2.TDelete, error) {
	name := plainName(table)
	if err := h.s.faults.access(name, "WRITE"); err != nil {
		return nil, err
	}
	if t := h.s.store.table(table); t == nil || t.disabled {
		return nil, unusable(name, t, len(deletes), false)
	} else {
		var f Failures
		if err := h.delete(t, deletes, &f); err != nil {
			return nil, err
		}
		return []*thrift2.TDelete{}, f.Err()
	}
}

// CheckDeletes is CheckKey for deletes, with their timestamps.
func CheckDeletes(deletes []*thrift2.TDelete) error {
	for _, d := range deletes {
		if err := CheckKey(d.Row); err != nil {
			return err
		}
		negative := d.GetTimestamp() < 0
		for _, c := range d.Columns {
			negative = negative || c.GetTimestamp() < 0
		}
		if negative {
			return internalError{"Timestamp cannot be negative"}
		}
	}
	return nil
}

// delete writes the tombstones of every row but those whose families are missing.
func (h *handler) delete(t *table, deletes []*thrift2.TDelete, failed *Failures) error {
	if err := CheckDeletes(deletes); err != nil {
		return err
	}
	s := h.s.store
	s.latest.Lock()
	defer s.latest.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if now := s.tables[t.name]; now != t {
		return tableNotEnabled(t.name)
	}
	batch := s.db.NewBatch()
	defer batch.Close()
	now := time.Now().UnixMilli()
	for _, d := range deletes {
		cells, missing, err := s.tombstones(t, d, now)
		if err != nil {
			return reading(t, err)
		}
		if missing != nil {
			failed.Add(t.noFamily(missing, d.Row))
			continue
		}
		size := 0
		for i := range cells {
			size += cells[i].size()
		}
		op := batch.MergeDeferred(prefixLen+len(d.Row), size)
		t.appendKey(op.Key[:0], d.Row)
		at := 0
		for i := range cells {
			at += cells[i].put(op.Value[at:])
		}
		if err := op.Finish(); err != nil {
			return err
		}
	}
	if err := s.commit(batch, true); err != nil {
		return ioError(true, "delete in %s: %v", t.name, err)
	}
	return nil
}

// tombstones gives the cells of one delete, or the family that is missing.
func (s *Store) tombstones(t *table, d *thrift2.TDelete, now int64) (cells []cell, missing []byte, err error) {
	at := func(ts int64) int64 {
		if ts == math.MaxInt64 {
			return now
		}
		return ts
	}
	if len(d.Columns) == 0 {
		ts := int64(math.MaxInt64)
		if d.IsSetTimestamp() {
			ts = *d.Timestamp
		}
		for i := range t.families {
			cells = append(cells, cell{kind: typeDeleteFamily, family: []byte(t.families[i].name), ts: at(ts)})
		}
		return cells, nil, nil
	}
	for _, col := range d.Columns {
		if t.family(col.Family) == nil {
			return nil, col.Family, nil
		}
		ts := int64(math.MaxInt64)
		if col.IsSetTimestamp() {
			ts = *col.Timestamp
		} // the delete's own timestamp counts for whole rows only
		c := cell{family: col.Family, qualifier: col.Qualifier, ts: at(ts)}
		switch d.DeleteType {
		case thrift2.TDeleteType_DELETE_COLUMN:
			c.kind = typeDelete
			if ts == math.MaxInt64 {
				latest, err := s.row(t, d.Row, &query{columns: []column{{family: col.Family, qualifier: col.Qualifier}}, versions: 1, to: math.MaxInt64})
				if err != nil {
					return nil, nil, err
				}
				if len(latest) > 0 {
					c.ts = latest[0].ts
				}
			}
		case thrift2.TDeleteType_DELETE_COLUMNS:
			c.kind = typeDeleteColumn
		case thrift2.TDeleteType_DELETE_FAMILY:
			c.kind, c.qualifier = typeDeleteFamily, nil
		case thrift2.TDeleteType_DELETE_FAMILY_VERSION:
			c.kind, c.qualifier = typeDeleteFamilyVersion, nil
		}
		cells = append(cells, c)
	}
	return cells, nil, nil
}

func (h *handler) GetThriftServerType(context.Context) (thrift2.TThriftServerType, error) {
	return thrift2.TThriftServerType_TWO, nil
}

func (h *handler) GetClusterId(context.Context) (string, error) { return h.s.store.cluster, nil }
