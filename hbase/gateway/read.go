package gateway

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"drover/hbase/thrift2"
)

// query is what a get or a scan wants of a row. A scan's query belongs to one call at a time.
type query struct {
	columns  []column // by family and qualifier; empty is all
	versions int
	raw      bool
	from, to int64 // [from, to)
	perFam   map[string][2]int64
	keysOnly bool
	first    bool // the first cell of a row only

	cells []cell // scratch
	marks marks  // scratch
}

type column struct {
	family, qualifier []byte
	whole             bool // the whole family
}

// marks are the tombstones seen so far in a family, and in the column at hand.
type marks struct {
	familyUpTo  int64
	familyAt    []int64
	columnUpTo  int64
	columnAt    []int64
	hasFamily   bool
	hasColumn   bool
	thisFamily  []byte
	thisColumn  []byte
	versions    int
	info        *family
	from, to    int64
	initialized bool
}

func (m *marks) hides(ts int64) bool {
	return m.hasFamily && ts <= m.familyUpTo || m.hasColumn && ts <= m.columnUpTo ||
		slices.Contains(m.columnAt, ts) || slices.Contains(m.familyAt, ts)
}

func (m *marks) add(c *cell) {
	switch c.kind {
	case typeDeleteFamily:
		if !m.hasFamily || c.ts > m.familyUpTo {
			m.hasFamily, m.familyUpTo = true, c.ts
		}
	case typeDeleteFamilyVersion:
		m.familyAt = append(m.familyAt, c.ts)
	case typeDeleteColumn:
		if !m.hasColumn || c.ts > m.columnUpTo {
			m.hasColumn, m.columnUpTo = true, c.ts
		}
	case typeDelete:
		m.columnAt = append(m.columnAt, c.ts)
	}
}

// pick gives what the query wants of a stored row, in HBase's order. The cells are parts of stored.
func (q *query) pick(t *table, stored []byte, now int64) ([]cell, error) {
	all, err := decodeCells(q.cells[:0], stored)
	if err != nil {
		return nil, err
	}
	q.cells = all
	all = settle(all)
	kept := all[:0]
	m := &q.marks
	*m = marks{familyAt: m.familyAt[:0], columnAt: m.columnAt[:0]}
	for i := range all {
		c := &all[i]
		if !m.initialized || !bytes.Equal(c.family, m.thisFamily) {
			*m = marks{familyAt: m.familyAt[:0], columnAt: m.columnAt[:0], thisFamily: c.family, thisColumn: c.qualifier, initialized: true}
			m.info = t.family(c.family)
			m.from, m.to = q.from, q.to
			if r, ok := q.perFam[string(c.family)]; ok {
				m.from, m.to = r[0], r[1]
			}
		} else if !bytes.Equal(c.qualifier, m.thisColumn) {
			m.thisColumn, m.hasColumn, m.columnAt, m.versions = c.qualifier, false, m.columnAt[:0], 0
		}
		if m.info == nil { // the family was removed
			continue
		}
		if c.kind != typePut {
			if !q.raw {
				if !m.info.keepDeleted || c.ts < m.to {
					m.add(c)
				}
				continue
			}
		} else if !q.raw && m.hides(c.ts) {
			continue
		}
		if c.ts < 0 && !q.raw && m.versions < min(q.versions, m.info.versions) && q.wants(c) {
			// HBase takes such cells, and its region servers stumble over them in every scan that comes to them.
			return nil, ioError(false, "Failed after retry of OutOfOrderScannerNextException: was there a rpc timeout?")
		}
		if c.ts < m.from || c.ts >= m.to && m.to != math.MaxInt64 || !q.wants(c) {
			continue
		}
		if c.kind == typePut {
			m.versions++
			most := q.versions
			if !q.raw {
				most = min(most, m.info.versions)
			}
			if m.versions > most {
				continue
			}
			if !q.raw && m.versions > m.info.minVersions && m.info.ttl != 0 && c.ts < now-m.info.ttl {
				continue
			}
			if !q.raw && c.ttl != 0 && c.ts+c.ttl < now {
				m.versions--
				continue
			}
		}
		kept = append(kept, *c)
		if q.first {
			break
		}
	}
	if q.keysOnly {
		for i := range kept {
			kept[i].value = nil
		}
	}
	return kept, nil
}

func (q *query) wants(c *cell) bool {
	if len(q.columns) == 0 {
		return true
	}
	_, found := slices.BinarySearchFunc(q.columns, c, func(w column, c *cell) int {
		if n := bytes.Compare(w.family, c.family); n != 0 || w.whole {
			return n
		}
		return bytes.Compare(w.qualifier, c.qualifier)
	})
	return found
}

// newQuery checks what a read wants of the table's columns, as the region server does.
func newQuery(t *table, columns []*thrift2.TColumn, versions int, timeRange *thrift2.TTimeRange, attributes map[string][]byte) (*query, error) {
	q := &query{versions: versions, to: math.MaxInt64}
	if timeRange != nil {
		q.from, q.to = timeRange.MinStamp, timeRange.MaxStamp
		if q.from < 0 || q.to < 0 || q.to < q.from {
			return nil, internalError{fmt.Sprintf("Timestamp cannot be negative, or maxStamp is smaller than minStamp: %d, %d", q.from, q.to)}
		}
	}
	for _, b := range attributes["_raw_"] {
		q.raw = q.raw || b != 0
	}
	whole := map[string]bool{}
	for _, c := range columns {
		if t.family(c.Family) == nil {
			return nil, ioError(false, "%s", t.noFamily(c.Family, nil))
		}
		if !c.IsSetQualifier() {
			whole[string(c.Family)] = true
		}
	}
	for _, c := range columns {
		if c.IsSetQualifier() && q.raw {
			return nil, refused("DoNotRetryIOException", "Cannot specify any column for a raw scan")
		}
		if whole[string(c.Family)] {
			if c.IsSetQualifier() {
				continue
			}
			q.columns = append(q.columns, column{family: c.Family, whole: true})
			continue
		}
		q.columns = append(q.columns, column{family: c.Family, qualifier: c.Qualifier})
	}
	slices.SortFunc(q.columns, func(a, b column) int {
		return cmp.Or(bytes.Compare(a.family, b.family), bytes.Compare(a.qualifier, b.qualifier))
	})
	return q, nil
}

// filter understands the two filters that counting and probing need.
func (q *query) filter(text []byte, bin []byte) error {
	if len(bin) > 0 {
		return ioError(false, "the embedded gateway knows no filterBytes")
	}
	if len(text) == 0 {
		return nil
	}
	for part := range strings.SplitSeq(string(text), " AND ") {
		name, args, _ := strings.Cut(strings.Trim(part, " ()"), "(")
		switch {
		case name == "KeyOnlyFilter" && args == "":
			q.keysOnly = true
		case name == "FirstKeyOnlyFilter" && args == "":
			q.first = true
		default:
			return ioError(false, "the embedded gateway does not know the filter %s: it has KeyOnlyFilter() and FirstKeyOnlyFilter(), also joined with AND", part)
		}
	}
	return nil
}

// row reads one row, nil when it holds nothing that the query wants.
func (s *Store) row(t *table, key []byte, q *query) ([]cell, error) {
	stored, err := s.value(t.appendKey(nil, key))
	if err != nil || stored == nil {
		return nil, err
	}
	return q.pick(t, stored, time.Now().UnixMilli())
}

// scan is where a reading of a range stands.
type scan struct {
	table    *table
	query    *query
	from, to []byte // keys in Pebble, [from, to)
	reversed bool
	batch    int // cells a result; 0 is all
	limit    int // rows left; < 0 is no limit
	done     bool
	pending  []*thrift2.TResult_ // of the row before, when batch cut it
}

// next gives up to n results. It looks at the store as it is now, from after the row it stopped at.
func (s *Store) next(c *scan, n int) ([]*thrift2.TResult_, error) {
	results := []*thrift2.TResult_{}
	take := func() bool {
		k := min(n-len(results), len(c.pending))
		results = append(results, c.pending[:k]...)
		c.pending = c.pending[k:]
		return len(results) >= n
	}
	if n <= 0 || take() || c.done || c.limit == 0 {
		return results, nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: c.from, UpperBound: c.to})
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixMilli()
	ok := false
	if c.reversed {
		ok = it.Last()
	} else {
		ok = it.First()
	}
	for ok {
		stored, err := it.ValueAndErr()
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		key := bytes.Clone(it.Key())
		cells, err := c.query.pick(c.table, bytes.Clone(stored), now)
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		if c.reversed {
			c.to = key
		} else {
			c.from = append(key, 0)
		}
		if len(cells) > 0 {
			row := key[prefixLen:len(key):len(key)]
			c.limit--
			c.pending = c.pending[:0]
			step := c.batch
			if step <= 0 {
				step = len(cells)
			}
			for part := range slices.Chunk(cells, step) {
				c.pending = append(c.pending, result(row, part))
			}
			if take() || c.limit == 0 {
				return results, it.Close()
			}
		}
		if c.reversed {
			ok = it.Prev()
		} else {
			ok = it.Next()
		}
	}
	c.done = true
	return results, errors.Join(it.Error(), it.Close())
}

// result makes the answer for a row. The cells' bytes must be the result's own.
func result(row []byte, cells []cell) *thrift2.TResult_ {
	r := thrift2.NewTResult_()
	r.ColumnValues = make([]*thrift2.TColumnValue, len(cells))
	if len(cells) == 0 {
		return r
	}
	r.Row = row
	values := make([]thrift2.TColumnValue, len(cells))
	marks := make([]struct {
		ts   int64
		kind int8
	}, len(cells))
	for i := range cells {
		c := &cells[i]
		marks[i].ts, marks[i].kind = c.ts, int8(c.kind)
		values[i] = thrift2.TColumnValue{Family: c.family, Qualifier: c.qualifier, Value: c.value, Timestamp: &marks[i].ts, Type: &marks[i].kind}
		if c.value == nil {
			values[i].Value = []byte{}
		}
		r.ColumnValues[i] = &values[i]
	}
	return r
}

// after is the first key in Pebble beyond the table's rows.
func (t *table) after() []byte {
	return binary.BigEndian.AppendUint32([]byte{keyRow}, t.number+1)
}
