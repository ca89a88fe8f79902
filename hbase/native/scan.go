package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/filter"
	"github.com/tsuna/gohbase/hrpc"
	"github.com/tsuna/gohbase/pb"
	"google.golang.org/protobuf/proto"

	"drover/hbase"
)

// scanner reads a table's rows from a key on, region by region, over gohbase's connections. gohbase's own scanner is not used:
// it sends a call again whose answer was lost, and HBase, which has moved on meanwhile, gives it the rows after those. Here each
// call carries its number, so that HBase refuses the second of them; the scan is then begun anew behind the last row that arrived.
type scanner struct {
	client gohbase.RPCClient
	table  []byte
	spec   *pb.Scan // without its start

	start []byte // the region at hand is read from here on
	route []byte // a key of the region at hand
	id    uint64 // HBase's name of the open scanner
	open  bool
	calls uint64 // made with it
	done  bool
}

const (
	// answerBytes bounds an answer, as HBase counts: with what cells take in its memory. It is the memory of one scan, too.
	answerBytes = 4 << 20
	closeWithin = 10 * time.Second
)

func newScanner(c gohbase.RPCClient, q *request) (*scanner, error) {
	f, err := filterOf(q.Spec.Filter)
	if err != nil {
		return nil, err
	}
	p := &pb.Scan{
		StopRow: q.Spec.Stop, MaxVersions: proto.Uint32(uint32(min(max(q.Spec.Versions, 1), math.MaxInt32))),
		CacheBlocks: proto.Bool(false), MaxResultSize: proto.Uint64(answerBytes), TimeRange: &pb.TimeRange{}, Filter: f,
	}
	if q.Spec.From > 0 {
		p.TimeRange.From = proto.Uint64(uint64(q.Spec.From))
	}
	if q.Spec.To > 0 {
		p.TimeRange.To = proto.Uint64(uint64(q.Spec.To))
	}
	if q.Spec.Reversed {
		p.Reversed = proto.Bool(true)
	}
	if q.Spec.Raw {
		p.Attribute = []*pb.NameBytesPair{{Name: proto.String("_raw_"), Value: []byte{0xff}}}
	}
	for _, c := range q.Spec.Columns {
		i := slices.IndexFunc(p.Column, func(have *pb.Column) bool { return bytes.Equal(have.Family, c.Family) })
		switch {
		case i < 0 && c.Qualifier == nil:
			p.Column = append(p.Column, &pb.Column{Family: c.Family})
		case i < 0:
			p.Column = append(p.Column, &pb.Column{Family: c.Family, Qualifier: [][]byte{c.Qualifier}})
		case c.Qualifier == nil:
			p.Column[i].Qualifier = nil
		case p.Column[i].Qualifier != nil: // else the whole family is asked for
			p.Column[i].Qualifier = append(p.Column[i].Qualifier, c.Qualifier)
		}
	}
	s := &scanner{client: c, table: []byte(q.Table), spec: p, start: q.Start, route: q.Start}
	// gohbase looks for a region by "table,key,:" in hbase:meta, whose keys are no longer than others. No region begins there.
	if n := hbase.MaxKeyBytes - len(q.Table) - len(",,:"); len(s.route) > n {
		s.route = s.route[:n]
	}
	if q.Spec.Reversed && len(q.Start) == 0 {
		s.route = bytes.Repeat([]byte{0xff}, 64)
	}
	return s, nil
}

// filterOf knows the filters that a plan scans keys by. Gateways know HBase's filter language, region servers do not.
func filterOf(text string) (*pb.Filter, error) {
	if text == "" {
		return nil, nil
	}
	var all []filter.Filter
	for part := range strings.SplitSeq(text, " AND ") {
		switch part {
		case "FirstKeyOnlyFilter()":
			all = append(all, filter.NewFirstKeyOnlyFilter())
		case "KeyOnlyFilter()":
			all = append(all, filter.NewKeyOnlyFilter(false))
		default:
			return nil, finalError{fmt.Errorf("filter %q is known to gateways only: take via: native out", text)}
		}
	}
	return filter.NewList(filter.MustPassAll, all...).ConstructPBFilter()
}

// finalError is not worth another try.
type finalError struct{ error }

// staleError says that an open scanner is of no use any more.
type staleError struct{ error }

// fetch makes one call for at most so many rows, and adds what it brought to b. Nothing may have come, and more may follow, until the scanner is done.
func (s *scanner) fetch(ctx context.Context, b *buffer, rows int) error {
	c := &scanCall{
		ctx: ctx, table: s.table, key: s.route, result: make(chan hrpc.RPCResult, 1),
		request: &pb.ScanRequest{NumberOfRows: proto.Uint32(fits32(rows)), ClientHandlesPartials: proto.Bool(true), ClientHandlesHeartbeats: proto.Bool(true)},
	}
	if s.open {
		c.request.ScannerId, c.request.NextCallSeq = &s.id, proto.Uint64(s.calls)
	} else {
		open := proto.Clone(s.spec).(*pb.Scan)
		open.StartRow = s.start
		c.request.Scan, c.request.CloseScanner = open, proto.Bool(false)
	}
	msg, err := s.client.SendRPC(c)
	if err != nil {
		was := s.open
		s.close()
		if was && ctx.Err() == nil {
			return staleError{err}
		}
		return err
	}
	answer, ok := msg.(*pb.ScanResponse)
	if !ok || len(answer.Results) > 0 {
		s.close()
		return errors.New("the answer to a scan is none")
	}
	if err := b.add(c.block, answer.CellsPerResult, answer.PartialFlagPerResult); err != nil {
		s.close()
		return fmt.Errorf("decode the rows of a scan: %w", err)
	}
	if s.open {
		s.calls++
	} else if answer.ScannerId != nil {
		s.id, s.open, s.calls = answer.GetScannerId(), true, 0
	}
	if answer.MoreResults != nil && !answer.GetMoreResults() {
		s.finish(b)
		return nil
	}
	if answer.GetMoreResultsInRegion() {
		return nil
	}
	b.close()
	s.close()
	return s.nextRegion(c.region, b)
}

// nextRegion goes on behind a region that was read to its end.
func (s *scanner) nextRegion(r hrpc.RegionInfo, b *buffer) error {
	if s.spec.GetReversed() {
		edge := r.StartKey()
		if len(edge) == 0 || len(s.spec.StopRow) > 0 && bytes.Compare(s.spec.StopRow, edge) >= 0 {
			s.finish(b)
			return nil
		}
		// HBase gives the rows before the edge; a key shortly before it finds the region that they are in.
		s.start, s.route = edge, before(edge)
		return nil
	}
	edge := r.StopKey()
	if len(edge) == 0 || len(s.spec.StopRow) > 0 && bytes.Compare(s.spec.StopRow, edge) <= 0 {
		s.finish(b)
		return nil
	}
	if bytes.Compare(edge, s.start) <= 0 {
		return fmt.Errorf("region %q ends at %q, where %q was read on from", r.Name(), edge, s.start)
	}
	s.start, s.route = edge, edge
	return nil
}

func before(key []byte) []byte {
	n := len(key) - 1
	if key[n] == 0 {
		return key[:n:n]
	}
	out := bytes.Clone(key)
	out[n]--
	return append(out, bytes.Repeat([]byte{0xff}, 16)...)
}

func (s *scanner) finish(b *buffer) {
	b.close()
	s.done = true
	s.close()
}

// close gives the scanner in HBase back, without waiting for it: what is not given back ends by itself after a minute.
func (s *scanner) close() {
	if !s.open {
		return
	}
	s.open = false
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	c := &scanCall{
		ctx: ctx, table: s.table, key: s.route, result: make(chan hrpc.RPCResult, 1),
		request: &pb.ScanRequest{ScannerId: proto.Uint64(s.id), NumberOfRows: proto.Uint32(0), CloseScanner: proto.Bool(true)},
	}
	client := s.client
	go func() {
		defer cancel()
		_, _ = client.SendRPC(c)
	}()
}

// scanCall is one call of a scan, as gohbase's connections take it.
type scanCall struct {
	ctx        context.Context
	table, key []byte
	request    *pb.ScanRequest
	region     hrpc.RegionInfo
	result     chan hrpc.RPCResult
	block      []byte // cells of the answer; the answer's own memory
}

func (c *scanCall) Table() []byte                   { return c.table }
func (c *scanCall) Name() string                    { return "Scan" }
func (c *scanCall) Key() []byte                     { return c.key }
func (c *scanCall) Region() hrpc.RegionInfo         { return c.region }
func (c *scanCall) SetRegion(r hrpc.RegionInfo)     { c.region = r }
func (c *scanCall) NewResponse() proto.Message      { return &pb.ScanResponse{} }
func (c *scanCall) ResultChan() chan hrpc.RPCResult { return c.result }
func (c *scanCall) Description() string             { return "Scan" }
func (c *scanCall) Context() context.Context        { return c.ctx }

// ToProto is called for each time that the call is sent.
func (c *scanCall) ToProto() proto.Message {
	r := proto.Clone(c.request).(*pb.ScanRequest)
	r.Region = &pb.RegionSpecifier{Type: hrpc.RegionSpecifierRegionName, Value: c.region.Name()}
	return r
}

// DeserializeCellBlocks keeps the cells for the goroutine that waits for them: this one serves all calls of a connection.
func (c *scanCall) DeserializeCellBlocks(_ proto.Message, b []byte) (uint32, error) {
	c.block = b
	return uint32(len(b)), nil
}
