package hbase

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"drover/hbase/thrift2"
)

// Scan says what to read of a table: the rows of [Start, Stop), where "" is the table's own start and end.
type Scan struct {
	Start, Stop []byte
	Columns     []Column // empty is all
	MaxVersions int      // of each column; 0 is 1
	TimeRange   TimeRange
	Raw         bool   // also what is deleted, and the deletes themselves
	Filter      string // in HBase's filter language; "" is none

	// Reversed scans from Start, or the table's end, down to Stop, which is left out. Start is a row of it, if it is there.
	Reversed bool

	// Again is called before a page is asked for once more, as each attempt costs the cluster; its error ends ScanPage. May be
	// nil.
	Again func(ctx context.Context) error
}

// sparse tells that a page may take the servers far longer than its rows would.
func (s *Scan) sparse() bool {
	return s.Filter != "" || s.TimeRange != (TimeRange{}) || len(s.Columns) > 0
}

// TimeRange is the timestamps in [From, To), in milliseconds; To 0 is without end.
type TimeRange struct{ From, To int64 }

// empty tells that no row can match. HBase takes equal bounds for a Get of that row.
func (s *Scan) empty() bool {
	if s.Reversed {
		return len(s.Start) > 0 && bytes.Compare(s.Start, s.Stop) <= 0
	}
	return len(s.Stop) > 0 && bytes.Compare(s.Start, s.Stop) >= 0
}

func (s *Scan) thrift(n int) *thrift2.TScan {
	t := thrift2.NewTScan() // a literal would ask for 0 versions, which finds nothing
	rows, cache := int32(n), false
	t.Caching, t.CacheBlocks = &rows, &cache
	t.Limit = &rows // then the region server closes the scanner by itself: a call less for a small page. HBase 1.x does not know it
	// A page is a scanner of its own. Else its region server would read the first blocks of each file so, and then open the file
	// once more, as a stream, for every page.
	read := thrift2.TReadType_PREAD
	t.ReadType = &read
	t.StartRow, t.StopRow = s.Start, s.Stop
	if len(s.Start) == 0 {
		t.StartRow = nil
	}
	if len(s.Stop) == 0 {
		t.StopRow = nil
	}
	if s.MaxVersions > 0 {
		t.MaxVersions = int32(min(s.MaxVersions, math.MaxInt32))
	}
	for _, c := range s.Columns {
		t.Columns = append(t.Columns, &thrift2.TColumn{Family: c.family, Qualifier: c.qualifier})
	}
	if s.TimeRange != (TimeRange{}) {
		t.TimeRange = &thrift2.TTimeRange{MinStamp: s.TimeRange.From, MaxStamp: s.TimeRange.To}
		if s.TimeRange.To == 0 {
			t.TimeRange.MaxStamp = math.MaxInt64
		}
	}
	if s.Raw {
		t.Attributes = map[string][]byte{"_raw_": {1}}
	}
	if s.Filter != "" {
		t.FilterString = []byte(s.Filter)
	}
	if s.Reversed {
		t.Reversed = &s.Reversed
	}
	return t
}

// ScanPage reads up to n rows from s.Start on into p, without keeping anything open in the gateway, so that the next page
// may come from another: it starts at the last row's key with a 0 byte appended. A page of fewer rows than n does not prove
// the end; an empty one without More does. Blocks are not cached.
func (c *Conn) ScanPage(ctx context.Context, table string, s *Scan, n int, p *Page) error {
	p.Reset()
	if n <= 0 || s.empty() {
		return nil
	}
	err := c.bounded(ctx, func() error {
		if err := c.sendScan(ctx, table, s, n); err != nil {
			return err
		}
		if err := c.receive("getScannerResults", func(typ byte) { p.read(&c.reply, typ, n) }); err != nil {
			return err
		}
		return s.Check(p)
	})
	if err != nil {
		p.Reset()
		return c.error(err, fmt.Sprintf("scan %s from %q", table, s.Start), table, 0)
	}
	return nil
}

func (c *Conn) sendScan(ctx context.Context, table string, s *Scan, n int) error {
	c.seq++
	args := &thrift2.THBaseServiceGetScannerResultsArgs{Table: []byte(table), Tscan: s.thrift(n), NumRows: int32(n)}
	return c.generated.Send(ctx, c.proto, c.seq, "getScannerResults", args)
}

// Check finds pages that a gateway mixed up: keys must ascend within the range, or descend in a reversed one.
func (s *Scan) Check(p *Page) error {
	var before []byte
	for i, r := range p.Rows {
		key := r.Key()
		switch {
		case s.Reversed && (len(s.Start) > 0 && bytes.Compare(key, s.Start) > 0 || len(s.Stop) > 0 && bytes.Compare(key, s.Stop) <= 0):
			return garbage("row %q outside of [%q, %q), reversed", key, s.Start, s.Stop)
		case s.Reversed && i > 0 && bytes.Compare(before, key) <= 0:
			return garbage("row %q after %q, reversed", key, before)
		case s.Reversed:
		case bytes.Compare(key, s.Start) < 0, len(s.Stop) > 0 && bytes.Compare(key, s.Stop) >= 0:
			return garbage("row %q outside of [%q, %q)", key, s.Start, s.Stop)
		case i > 0 && bytes.Compare(before, key) >= 0:
			return garbage("row %q after %q", key, before)
		}
		before = key
	}
	return nil
}
