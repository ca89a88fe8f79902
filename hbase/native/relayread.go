package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

const (
	// patience is how long a read keeps a client waiting before the table's state is looked up, and again after that. gohbase
	// waits for the regions of a disabled table until the call's time is over.
	patience = time.Second

	// staleTries is how often a scan is begun anew that brought nothing since it was last.
	staleTries = 3

	// getsAtOnce is how many rows of one getMultiple are read at a time.
	getsAtOnce = 16
)

// GetScannerResults implements thrift2.THBaseService.
func (r *relay) GetScannerResults(_ context.Context, table []byte, s *thrift2.TScan, rows int32) ([]*thrift2.TResult_, error) {
	ctx, cancel := relayContext()
	defer cancel()
	q, err := scanRequest(plain(table), s, rows)
	if err != nil {
		return nil, err
	}
	return r.read(ctx, q)
}

// scanRequest is a scan as HBase's client makes it: start == stop is that row, start > stop is nothing.
func scanRequest(table string, s *thrift2.TScan, rows int32) (*request, error) {
	switch {
	case len(s.ColFamTimeRangeMap) > 0:
		return nil, unknown("colFamTimeRangeMap")
	case s.IsSetBatchSize():
		return nil, unknown("batchSize")
	}
	q, err := newRequest(table, s.Columns, s.TimeRange, s.Attributes, s.FilterString, s.FilterBytes)
	if err != nil {
		return nil, err
	}
	q.Start, q.Spec.Stop, q.Spec.Reversed = s.StartRow, s.StopRow, s.GetReversed()
	q.Spec.Versions = int(s.MaxVersions)
	q.Rows = int(rows)
	if l := s.GetLimit(); l > 0 {
		q.Rows = min(q.Rows, int(l))
	}
	if len(q.Start) > 0 && len(q.Spec.Stop) > 0 {
		switch order := bytes.Compare(q.Start, q.Spec.Stop); {
		case order == 0:
			q.Spec.Reversed = false
		case (order > 0) != q.Spec.Reversed:
			q.Rows = 0
		}
	}
	if s.MaxVersions <= 0 || s.IsSetTimeRange() && s.TimeRange.MaxStamp == 0 {
		q.Rows = 0
	}
	return q, nil
}

func unknown(field string) error {
	return ioError(false, "the native gateway does not know "+field)
}

// newRequest is what scans and gets have in common.
func newRequest(table string, columns []*thrift2.TColumn, stamps *thrift2.TTimeRange, attributes map[string][]byte, filter, filterBytes []byte) (*request, error) {
	if len(filterBytes) > 0 {
		return nil, unknown("filterBytes")
	}
	q := &request{Table: table, Spec: spec{Filter: string(filter)}}
	if stamps != nil {
		if stamps.MinStamp < 0 || stamps.MaxStamp < stamps.MinStamp {
			return nil, fmt.Errorf("a time range from %d to %d", stamps.MinStamp, stamps.MaxStamp)
		}
		q.Spec.From, q.Spec.To = stamps.MinStamp, stamps.MaxStamp
	}
	for _, b := range attributes["_raw_"] {
		q.Spec.Raw = q.Spec.Raw || b != 0
	}
	for _, c := range columns {
		q.Spec.Columns = append(q.Spec.Columns, column{c.Family, c.Qualifier})
	}
	return q, nil
}

// Get implements thrift2.THBaseService.
func (r *relay) Get(_ context.Context, table []byte, g *thrift2.TGet) (*thrift2.TResult_, error) {
	ctx, cancel := relayContext()
	defer cancel()
	q, err := getRequest(plain(table), g)
	if err != nil {
		return nil, err
	}
	return r.get(ctx, q)
}

// GetMultiple implements thrift2.THBaseService. What HBase refuses for good is summed up, as its client does.
func (r *relay) GetMultiple(_ context.Context, table []byte, gets []*thrift2.TGet) ([]*thrift2.TResult_, error) {
	ctx, cancel := relayContext()
	defer cancel()
	requests := make([]*request, len(gets))
	for i, g := range gets {
		var err error
		if requests[i], err = getRequest(plain(table), g); err != nil {
			return nil, err
		}
	}
	results, errs := make([]*thrift2.TResult_, len(gets)), make([]error, len(gets))
	var work errgroup.Group
	work.SetLimit(getsAtOnce)
	for i, q := range requests {
		work.Go(func() error {
			results[i], errs[i] = r.get(ctx, q)
			return nil
		})
	}
	_ = work.Wait()
	failed := gateway.Failures{Servers: "null"}
	for _, err := range errs {
		if e, ok := errors.AsType[*thrift2.TIOError](err); ok && !e.GetCanRetry() {
			failed.Add(summed(e.GetMessage(), plain(table)))
		} else if err != nil {
			return nil, err
		}
	}
	return results, failed.Err()
}

// summed is an error in a sum of HBase's client, which does not know that a table is disabled: it asks where the regions were.
func summed(reason, table string) string {
	if reason == disabledText(table) {
		return "NotServingRegionException"
	}
	return reason
}

func getRequest(table string, g *thrift2.TGet) (*request, error) {
	if err := gateway.CheckKey(g.Row); err != nil {
		return nil, err
	}
	versions := 1
	if g.IsSetMaxVersions() {
		if versions = int(*g.MaxVersions); versions <= 0 {
			return nil, ioError(true, "versions must be positive")
		}
	}
	if g.IsSetStoreLimit() || g.IsSetStoreOffset() {
		return nil, unknown("storeLimit and storeOffset")
	}
	stamps := g.TimeRange
	if g.IsSetTimestamp() {
		stamps = &thrift2.TTimeRange{MinStamp: *g.Timestamp, MaxStamp: *g.Timestamp + 1}
	}
	q, err := newRequest(table, g.Columns, stamps, g.Attributes, g.FilterString, g.FilterBytes)
	if err != nil {
		return nil, err
	}
	q.Start, q.Spec.Stop, q.Spec.Versions, q.Rows = g.Row, g.Row, versions, 1
	if stamps != nil && stamps.MaxStamp == 0 {
		q.Rows = 0
	}
	return q, nil
}

// get reads one row by a scan that begins and ends there, which brings even the largest row in parts.
func (r *relay) get(ctx context.Context, q *request) (*thrift2.TResult_, error) {
	rows, err := r.read(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		none := thrift2.NewTResult_()
		none.ColumnValues = []*thrift2.TColumnValue{}
		return none, nil
	}
	return rows[0], nil
}

// read gives the first q.Rows rows of a scan, or all when there are less.
func (r *relay) read(ctx context.Context, q *request) ([]*thrift2.TResult_, error) {
	results := []*thrift2.TResult_{}
	if q.Rows <= 0 {
		return results, nil
	}
	err := r.attended(ctx, q.Table, func(ctx context.Context) (err error) {
		results, err = readAll(ctx, q, func(q *request) (fetcher, error) { return r.hbase.scan(q) })
		return err
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// readAll begins a scan anew whose scanner was lost, with the last whole row that it brought: HBase does not know "behind" both
// ways.
func readAll(ctx context.Context, q *request, open func(q *request) (fetcher, error)) ([]*thrift2.TResult_, error) {
	results := []*thrift2.TResult_{}
	from := *q
	var last []byte // nil is none
	for tries := 1; ; tries++ {
		s, err := open(&from)
		if _, final := errors.AsType[finalError](err); final {
			return nil, unknown(fmt.Sprintf("the filter %q: it has KeyOnlyFilter() and FirstKeyOnlyFilter(), also joined with AND", q.Spec.Filter))
		}
		if err != nil {
			return nil, err
		}
		want := q.Rows - len(results)
		if last != nil {
			want++ // it may be gone by now
		}
		var b buffer // whose bytes the results keep
		err = fill(ctx, s, &b, want)
		s.close()
		had := len(results)
		results = b.results(results, last)
		stale, again := errors.AsType[staleError](err)
		if len(results) > had {
			last = results[len(results)-1].Row
			from.Start, tries = last, 0
		}
		switch {
		case err == nil || len(results) >= q.Rows:
			return results[:min(len(results), q.Rows)], nil
		case again && tries >= staleTries:
			return nil, stale.error
		case !again:
			return nil, err
		}
	}
}

// fill fetches until so many whole rows are there, or no more follow.
func fill(ctx context.Context, s fetcher, b *buffer, rows int) error {
	for b.rows() < rows && !s.finished() {
		if err := s.fetch(ctx, b, rows-b.rows()); err != nil {
			return err
		}
	}
	return nil
}

// results appends the whole rows of a buffer that nothing was given out of, but for a first one that is known already. They keep
// the buffer's bytes.
func (b *buffer) results(to []*thrift2.TResult_, known []byte) []*thrift2.TResult_ {
	start := 0
	for i, end := range b.ends {
		row := hbase.PackedRow(b.data[start:end:end])
		start = end
		if i == 0 && known != nil && bytes.Equal(row.Key(), known) {
			continue
		}
		to = append(to, resultOf(row))
	}
	return to
}

// kinds are the numbers of a cell's types in HBase's answers.
var kinds = [...]int8{
	hbase.Put: 4, hbase.DeleteVersion: 8, hbase.DeleteFamilyVersion: 10, hbase.DeleteColumn: 12, hbase.DeleteFamily: 14,
}

func resultOf(row hbase.PackedRow) *thrift2.TResult_ {
	r := thrift2.NewTResult_()
	r.Row = row.Key()
	n := 0
	var c hbase.Cell
	for w := row.Cells(); w.Next(&c); {
		n++
	}
	type cell struct {
		value thrift2.TColumnValue
		ts    int64
		kind  int8
	}
	cells := make([]cell, n)
	r.ColumnValues = make([]*thrift2.TColumnValue, n)
	w := row.Cells()
	for i := range cells {
		w.Next(&c)
		x := &cells[i]
		x.ts, x.kind = c.Timestamp, kinds[c.Op]
		x.value = thrift2.TColumnValue{Family: c.Family, Qualifier: c.Qualifier, Value: c.Value, Timestamp: &x.ts, Type: &x.kind}
		r.ColumnValues[i] = &x.value
	}
	return r
}

func disabledText(table string) string { return table + " is disabled." }

// attended runs a call on a table's regions, and ends it when it takes long and the table is found to be disabled. The error is
// in the words of HBase's gateway.
func (r *relay) attended(ctx context.Context, table string, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if table != metaTable {
		go func() { // ends with ctx
			for wait(ctx, patience) {
				if state, err := r.state(ctx, table); err == nil && state == tableDisabled {
					cancel(ioError(false, disabledText(table)))
				}
			}
		}()
	}
	client := r.hbase.rpc()
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		r.hbase.renew(client)
	}
	if off, ok := errors.AsType[*thrift2.TIOError](context.Cause(ctx)); ok && err != nil {
		return off
	}
	return told(table, err)
}

// wait tells whether the time passed before the context ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// finalClasses are of the exceptions that HBase calls not worth another try, those that a relay's calls meet. What the text of an
// exception shows is its class, and not what that one descends from.
var finalClasses = []string{
	"DoNotRetry", "TableExistsException", "TableNotFoundException", "TableNotEnabledException", "TableNotDisabledException",
	"NamespaceExistException", "NamespaceNotFoundException", "NoSuchColumnFamilyException", "InvalidFamilyOperationException",
	"ConstraintException", "AccessDeniedException", "FailedSanityCheckException", "QuotaExceededException", "SpaceLimitingException",
}

// isFinal tells whether a server's exception, its class in front, is of those.
func isFinal(text string) bool {
	class, _, _ := strings.Cut(text, "\n")
	for _, c := range finalClasses {
		if strings.Contains(class, c) {
			return true
		}
	}
	return false
}
