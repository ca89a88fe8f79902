package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

const (
	pageRows  = 2000    // most rows in one call
	pageBytes = 4 << 20 // wanted in one call; a gateway holds a page several times over

	// How long one page is asked for. Regions of a killed server are away for its session's timeout and some seconds.
	patience = 2 * time.Minute
)

// Scan is a pass over a table through one gateway.
type Scan struct {
	Table Table
	Raw   bool // every version, and delete markers too, as far as no compaction has dropped them

	// rows tells how many rows the next call may ask for; nil is by the size of the page before.
	rows func() int
}

// Each calls f with each row in the order of keys. What f gets is its own. Pages that fail are asked for again; an error of
// f's ends the scan and is returned as it is.
func (s Scan) Each(ctx context.Context, f func(*thrift2.TResult_) error) error {
	var conn *wire.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	var start []byte
	want := 16
	moved := time.Now() // when the scan last went on
	for {
		if s.rows != nil {
			want = s.rows()
		}
		page, err := s.page(ctx, &conn, start, want)
		if err != nil {
			if time.Since(moved) > patience || ctx.Err() != nil {
				return fmt.Errorf("scan %s from %q via %s: %w", s.Table.Name, start, s.Table.Addr, err)
			}
			if err := pause(ctx, time.Second); err != nil {
				return fmt.Errorf("scan %s: %w", s.Table.Name, err)
			}
			continue
		}
		moved = time.Now()
		size := 0
		for _, r := range page {
			if bytes.Compare(r.Row, start) < 0 {
				return fmt.Errorf("scan %s via %s: row %q came after %q", s.Table.Name, s.Table.Addr, r.Row, start)
			}
			if r.GetPartial() {
				return fmt.Errorf("scan %s via %s: row %q came in part", s.Table.Name, s.Table.Addr, r.Row)
			}
			for _, c := range r.ColumnValues {
				size += len(r.Row) + len(c.Family) + len(c.Qualifier) + len(c.Value)
			}
			start = append(bytes.Clone(r.Row), 0)
			if err := f(r); err != nil {
				return err
			}
		}
		if len(page) == 0 {
			return nil
		}
		switch {
		case size > pageBytes:
			want = max(1, want/4)
		case size < pageBytes/4:
			want = min(pageRows/4, want*2)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// page asks for up to n rows from start on. After an error the connection is closed and *conn nil.
func (s Scan) page(ctx context.Context, conn **wire.Conn, start []byte, n int) (rows []*thrift2.TResult_, err error) {
	if *conn == nil {
		if *conn, err = wire.Dial(ctx, s.Table.Addr, s.Table.Protocol); err != nil {
			return nil, err
		}
	}
	scan := thrift2.NewTScan()
	scan.StartRow = start
	scan.MaxVersions = math.MaxInt32
	caching, cacheBlocks := int32(n), false
	scan.Caching, scan.CacheBlocks = &caching, &cacheBlocks
	if s.Raw {
		scan.Attributes = map[string][]byte{"_raw_": {0xff}}
	}
	err = (*conn).Do(ctx, func(ctx context.Context, c *thrift2.THBaseServiceClient) (err error) {
		rows, err = c.GetScannerResults(ctx, []byte(s.Table.Name), scan, int32(n))
		return err
	})
	if err != nil {
		err = errors.Join(err, (*conn).Close())
		*conn = nil
		return nil, err
	}
	return rows, nil
}

// Versions counts what a raw scan sees: every version of every column, and delete markers.
type Versions struct {
	Rows    int64
	Columns int64 // pairs of row and column
	Cells   int64 // all versions of them
	Deletes int64 // markers

	// Several lists the first columns with more than one version, in words. Cells - Columns is how many versions too many
	// there are.
	Several []string
}

// maxListed bounds how much of what is wrong is kept in words.
const maxListed = 20

// put is the cell type of a value, in HBase's numbers; all others are deletes.
const put = 4

// CountVersions looks at every version in a table. A second version of a cell shows here even where the family keeps one,
// until a flush or compaction drops it; two puts of one timestamp are one version.
func CountVersions(ctx context.Context, t Table) (Versions, error) {
	var v Versions
	err := Scan{Table: t, Raw: true}.Each(ctx, func(r *thrift2.TResult_) error {
		v.Rows++
		var last *thrift2.TColumnValue
		n := 0
		for _, c := range r.ColumnValues {
			if c.Type != nil && *c.Type != put {
				v.Deletes++
				continue
			}
			v.Cells++
			if last == nil || !bytes.Equal(c.Family, last.Family) || !bytes.Equal(c.Qualifier, last.Qualifier) {
				v.Columns++
				last, n = c, 1
				continue
			}
			if n++; n == 2 && len(v.Several) < maxListed {
				v.Several = append(v.Several, fmt.Sprintf("row %q column %s:%s has versions %d and %d", r.Row, c.Family, c.Qualifier, last.GetTimestamp(), c.GetTimestamp()))
			}
		}
		return nil
	})
	if err != nil {
		return Versions{}, fmt.Errorf("count versions: %w", err)
	}
	return v, nil
}
