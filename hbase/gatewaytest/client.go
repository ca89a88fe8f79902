package gatewaytest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase"
	"drover/hbase/thrift2"
)

// client speaks to one gateway with the generated code alone, so that the suite does not judge a gateway by our own client.
type client struct {
	*thrift2.THBaseServiceClient
	t  *testing.T
	to Target
}

func dial(t *testing.T, to Target) *client {
	t.Helper()
	conf := &thrift.TConfiguration{ConnectTimeout: 10 * time.Second, SocketTimeout: 2 * time.Minute}
	var trans thrift.TTransport
	switch {
	case to.Transport.HTTP:
		scheme, path := "http", to.Transport.Path
		if to.Transport.TLS != nil {
			scheme = "https"
		}
		if path == "" {
			path = "/"
		}
		h, err := thrift.NewTHttpClient(scheme + "://" + to.Addrs[0] + path)
		if err != nil {
			t.Fatalf("make a client of %s: %v", to.Addrs[0], err)
		}
		trans = h
	case to.Transport.Framed:
		trans = thrift.NewTFramedTransportConf(thrift.NewTSocketConf(to.Addrs[0], conf), conf)
	default:
		trans = thrift.NewTBufferedTransport(thrift.NewTSocketConf(to.Addrs[0], conf), 64<<10)
	}
	if err := trans.Open(); err != nil {
		t.Fatalf("connect to the gateway %s: %v", to.Addrs[0], err)
	}
	t.Cleanup(func() { trans.Close() })
	var p thrift.TProtocol = thrift.NewTBinaryProtocolConf(trans, conf)
	if to.Transport.Compact {
		p = thrift.NewTCompactProtocolConf(trans, conf)
	}
	return &client{thrift2.NewTHBaseServiceClient(thrift.NewTStandardClient(p, p)), t, to}
}

func ptr[T any](v T) *T { return &v }

// family describes a column family with this many versions; edit changes what else matters.
func fam(name string, versions int, edit ...func(*thrift2.TColumnFamilyDescriptor)) *thrift2.TColumnFamilyDescriptor {
	f := &thrift2.TColumnFamilyDescriptor{Name: []byte(name), MaxVersions: ptr(int32(versions))}
	for _, e := range edit {
		e(f)
	}
	return f
}

func name(table string) *thrift2.TTableName {
	ns, q, found := strings.Cut(table, ":")
	if !found {
		return &thrift2.TTableName{Ns: []byte("default"), Qualifier: []byte(table)}
	}
	return &thrift2.TTableName{Ns: []byte(ns), Qualifier: []byte(q)}
}

// create makes a table of the suite's own that is dropped when the test ends.
func (c *client) create(families []*thrift2.TColumnFamilyDescriptor, splits ...string) string {
	c.t.Helper()
	table := c.to.Table()
	keys := make([][]byte, len(splits))
	for i, s := range splits {
		keys[i] = []byte(s)
	}
	desc := &thrift2.TTableDescriptor{TableName: name(table), Columns: families}
	if err := c.CreateTable(c.t.Context(), desc, keys); err != nil {
		c.t.Fatalf("create %s: %s", table, text(err))
	}
	c.t.Cleanup(func() {
		ctx := context.Background() // the test's own has ended
		c.DisableTable(ctx, name(table))
		if err := c.DeleteTable(ctx, name(table)); err != nil {
			c.t.Errorf("drop %s: %s", table, text(err))
		}
	})
	return table
}

func cv(column, value string, ts ...int64) *thrift2.TColumnValue {
	f, q, _ := strings.Cut(column, ":")
	v := &thrift2.TColumnValue{Family: []byte(f), Qualifier: []byte(q), Value: []byte(value)}
	if len(ts) > 0 {
		v.Timestamp = &ts[0]
	}
	return v
}

func put(row string, cells ...*thrift2.TColumnValue) *thrift2.TPut {
	return &thrift2.TPut{Row: []byte(row), ColumnValues: cells, Durability: ptr(thrift2.TDurability_SYNC_WAL)}
}

func (c *client) put(table string, puts ...*thrift2.TPut) {
	c.t.Helper()
	if err := c.PutMultiple(c.t.Context(), []byte(table), puts); err != nil {
		c.t.Fatalf("put to %s: %s", table, text(err))
	}
}

func (c *client) delete(table string, d *thrift2.TDelete) {
	c.t.Helper()
	if err := c.DeleteSingle(c.t.Context(), []byte(table), d); err != nil {
		c.t.Fatalf("delete in %s: %s", table, text(err))
	}
}

// del is a delete of one column (or family) of a row; no timestamp is the latest.
func del(kind thrift2.TDeleteType, row, column string, ts ...int64) *thrift2.TDelete {
	d := thrift2.NewTDelete()
	d.Row, d.DeleteType = []byte(row), kind
	f, q, found := strings.Cut(column, ":")
	col := &thrift2.TColumn{Family: []byte(f)}
	if found {
		col.Qualifier = []byte(q)
	}
	if len(ts) > 0 {
		col.Timestamp = &ts[0]
	}
	d.Columns = []*thrift2.TColumn{col}
	return d
}

func scan(edit ...func(*thrift2.TScan)) *thrift2.TScan {
	s := thrift2.NewTScan()
	s.CacheBlocks = ptr(false)
	for _, e := range edit {
		e(s)
	}
	return s
}

func between(start, stop string) func(*thrift2.TScan) {
	return func(s *thrift2.TScan) { s.StartRow, s.StopRow = []byte(start), []byte(stop) }
}

func versions(n int32) func(*thrift2.TScan) { return func(s *thrift2.TScan) { s.MaxVersions = n } }

func raw(s *thrift2.TScan) { s.Attributes = map[string][]byte{"_raw_": {0xff}} }

func columns(names ...string) []*thrift2.TColumn {
	var cols []*thrift2.TColumn
	for _, n := range names {
		f, q, found := strings.Cut(n, ":")
		col := &thrift2.TColumn{Family: []byte(f)}
		if found {
			col.Qualifier = []byte(q)
		}
		cols = append(cols, col)
	}
	return cols
}

// rows scans and gives one line a result: "row family:qualifier@ts=value …", tombstones with their type in front.
func (c *client) rows(table string, s *thrift2.TScan) []string {
	c.t.Helper()
	got, err := c.GetScannerResults(c.t.Context(), []byte(table), s, 1000)
	if err != nil {
		c.t.Fatalf("scan %s: %s", table, text(err))
	}
	return lines(got)
}

func lines(results []*thrift2.TResult_) []string {
	var out []string
	for _, r := range results {
		out = append(out, line(r))
	}
	return out
}

var kinds = map[int8]string{4: "", 8: "delete ", 10: "family-version ", 12: "columns ", 14: "family "}

func line(r *thrift2.TResult_) string {
	var b strings.Builder
	b.Write(r.Row)
	for _, c := range r.ColumnValues {
		kind, known := kinds[c.GetType()]
		if !known {
			kind = fmt.Sprintf("type %d ", c.GetType())
		}
		fmt.Fprintf(&b, " %s%s:%s@%d=%s", kind, c.Family, c.Qualifier, c.GetTimestamp(), c.Value)
	}
	return b.String()
}

func (c *client) want(table string, s *thrift2.TScan, want ...string) {
	c.t.Helper()
	if got := c.rows(table, s); !slices.Equal(got, want) {
		c.t.Errorf("scan gave\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// text tells an error's type with its text: the generated exceptions print pointers.
func text(err error) string {
	if e, ok := errors.AsType[*thrift2.TIOError](err); ok {
		return fmt.Sprintf("TIOError(canRetry %v): %s", e.GetCanRetry(), e.GetMessage())
	}
	if e, ok := errors.AsType[*thrift2.TIllegalArgument](err); ok {
		return "TIllegalArgument: " + e.GetMessage()
	}
	if e, ok := errors.AsType[thrift.TApplicationException](err); ok {
		return fmt.Sprintf("TApplicationException(%d): %s", e.TypeId(), e.Error())
	}
	return fmt.Sprintf("%T: %v", err, err)
}

// fails checks that an error is of the kind and says what it must: prefix is of text(err), the others are in it.
func (c *client) fails(what string, err error, prefix string, parts ...string) {
	c.t.Helper()
	if err == nil {
		c.t.Errorf("%s: no error, want %s %q", what, prefix, parts)
		return
	}
	got := text(err)
	c.t.Logf("%s: %.300s", what, got)
	if !strings.HasPrefix(got, prefix) {
		c.t.Errorf("%s: got %.600s\nwant it to start with %s", what, got, prefix)
	}
	for _, p := range parts {
		if !strings.Contains(got, p) {
			c.t.Errorf("%s: got %.600s\nwant it to hold %q", what, got, p)
		}
	}
}

const (
	retry    = "TIOError(canRetry true): "
	noRetry  = "TIOError(canRetry false): "
	internal = "TApplicationException(6): Internal error processing "
	now      = math.MaxInt64
)

func big(n int) string { return strings.Repeat("x", n) }

func ttlAttribute(d time.Duration) map[string][]byte {
	return map[string][]byte{"_ttl": binary.BigEndian.AppendUint64(nil, uint64(d.Milliseconds()))}
}

// largest is the longest value that HBase takes for a cell of these parts.
func largest(row, column string) int {
	return hbase.MaxCellBytes - hbase.CellBytes(len(row), len(column)-1, 0, 0)
}
