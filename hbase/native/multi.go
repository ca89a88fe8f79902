package native

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tsuna/gohbase/hrpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

// PutRows implements gateway.Backend.
func (r *relay) PutRows(table string, rows gateway.Rows, single bool) error {
	return r.multi(table, single, work{
		n:   rows.Len(),
		key: func(i int) []byte { return rows.Row(i).Key },
		add: func(a *action, i int) error {
			row := rows.Row(i)
			a.mutation(mutationPut, row.Key, row.Durability)
			if row.TTL != 0 {
				a.attribute("_ttl", binary.BigEndian.AppendUint64(nil, uint64(row.TTL)))
			}
			for j := range row.Cells {
				c := rows.Cell(i, j)
				if err := a.cell(typePut, row.Key, c.Family, c.Qualifier, c.Value, c.Timestamp); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// DeleteSingle implements thrift2.THBaseService.
func (r *relay) DeleteSingle(_ context.Context, table []byte, d *thrift2.TDelete) error {
	return r.delete(table, []*thrift2.TDelete{d}, true)
}

// DeleteMultiple implements thrift2.THBaseService.
func (r *relay) DeleteMultiple(_ context.Context, table []byte, deletes []*thrift2.TDelete) ([]*thrift2.TDelete, error) {
	return []*thrift2.TDelete{}, r.delete(table, deletes, false)
}

// deleteTypes are HBase's types of the cells that delete.
var deleteTypes = map[thrift2.TDeleteType]byte{
	thrift2.TDeleteType_DELETE_COLUMN: 8, thrift2.TDeleteType_DELETE_FAMILY_VERSION: 10,
	thrift2.TDeleteType_DELETE_COLUMNS: 12, thrift2.TDeleteType_DELETE_FAMILY: 14,
}

func (r *relay) delete(table []byte, deletes []*thrift2.TDelete, single bool) error {
	if err := gateway.CheckDeletes(deletes); err != nil {
		return err
	}
	return r.multi(plain(table), single, work{
		n:   len(deletes),
		key: func(i int) []byte { return deletes[i].Row },
		add: func(a *action, i int) error {
			d := deletes[i]
			a.mutation(mutationDelete, d.Row, hbase.Durability(d.GetDurability()))
			if len(d.Columns) == 0 {
				if d.IsSetTimestamp() { // it counts for whole rows only
					a.timestamp(*d.Timestamp)
				}
				return nil
			}
			for _, c := range d.Columns {
				ts, qualifier := int64(math.MaxInt64), c.Qualifier
				if c.IsSetTimestamp() {
					ts = *c.Timestamp
				}
				if d.DeleteType == thrift2.TDeleteType_DELETE_FAMILY || d.DeleteType == thrift2.TDeleteType_DELETE_FAMILY_VERSION {
					qualifier = nil
				}
				if err := a.cell(deleteTypes[d.DeleteType], d.Row, c.Family, qualifier, nil, ts); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// Exists implements thrift2.THBaseService.
func (r *relay) Exists(_ context.Context, table []byte, g *thrift2.TGet) (bool, error) {
	found, err := r.exists(table, []*thrift2.TGet{g}, true)
	return err == nil && found[0], err
}

// ExistsAll implements thrift2.THBaseService.
func (r *relay) ExistsAll(_ context.Context, table []byte, gets []*thrift2.TGet) ([]bool, error) {
	return r.exists(table, gets, false)
}

func (r *relay) exists(table []byte, gets []*thrift2.TGet, single bool) ([]bool, error) {
	for _, g := range gets {
		if err := gateway.CheckKey(g.Row); err != nil {
			return nil, err
		}
	}
	found := make([]bool, len(gets))
	return found, r.multi(plain(table), single, work{
		n:   len(gets),
		key: func(i int) []byte { return gets[i].Row },
		add: func(a *action, i int) error {
			a.exists(gets[i])
			return nil
		},
		found: found,
	})
}

// work is what is asked of some rows of a table.
type work struct {
	n     int
	key   func(i int) []byte
	add   func(a *action, i int) error // encodes what is asked of a row; its error refuses all of the work
	found []bool                       // what of the rows is there, of those that are asked for
}

// Rows whose region is not where it was looked for are sent again, this often and with these pauses, as HBase's client does: a region
// that has moved is found so, and one that is opened or split is waited for.
var movedPauses = [...]time.Duration{2 * youngest, 2 * youngest, 4 * youngest}

// multi does the work with one call to each region server that has rows of it, all at once. Rows that fail are summed up, as in
// HBase's own client; but with all that the servers say of them. Nothing else is tried again: whoever asked knows better when.
func (r *relay) multi(table string, single bool, w work) error {
	if w.n == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), multiTime)
	defer cancel()
	rows := make([]int, w.n)
	for i := range rows {
		rows[i] = i
	}
	var failed gateway.Failures
	var servers []string
	for try := 0; ; try++ {
		regions, err := r.maps.of(r.hbase, table)
		switch {
		case err != nil:
			return told(table, err)
		case regions == nil && single:
			return ioError(false, table)
		case regions == nil:
			failed.Servers = "null"
			for range w.n {
				failed.Add(table)
			}
			return failed.Err()
		}
		calls, err := regions.divide(table, w, rows)
		if err != nil {
			return err
		}
		off := r.send(ctx, table, calls)
		if off != nil && single {
			return off
		}
		last := off != nil || try == len(movedPauses) || ctx.Err() != nil
		rows = rows[:0]
		for _, c := range calls {
			for _, p := range c.parts {
				if p.moved {
					r.maps.forget(table, regions)
					r.maps.wake(r.hbase, table, p.key)
				}
				for _, f := range p.failed {
					switch {
					case f.moved() && !last:
						rows = append(rows, f.row)
						continue
					case single:
						return ioError(!isFinal(f.reason), f.reason)
					}
					failed.Add(f.summed())
					if name := serverName(c.server); !slices.Contains(servers, name) {
						servers = append(servers, name)
					}
				}
			}
		}
		if len(rows) == 0 {
			failed.Servers = strings.Join(servers, ", ")
			return failed.Err()
		}
		slices.Sort(rows)
		wait(ctx, movedPauses[try])
	}
}

// multiTime bounds the work.
const multiTime = 10 * time.Second

// send makes the calls, and gives up those for a table that is found to be disabled: off says so.
func (r *relay) send(ctx context.Context, table string, calls []*multiCall) (off error) {
	err := r.attended(ctx, table, func(ctx context.Context) error {
		var all sync.WaitGroup
		for _, c := range calls[1:] {
			all.Go(func() { c.send(ctx, r.hbase) })
		}
		calls[0].send(ctx, r.hbase)
		all.Wait()
		return ctx.Err()
	})
	if e, ok := errors.AsType[*thrift2.TIOError](err); !ok || e.GetMessage() != disabledText(table) {
		return nil
	}
	for _, c := range calls {
		for _, p := range c.parts {
			for i := range p.failed {
				p.failed[i].reason = "NotServingRegionException"
			}
		}
	}
	return err
}

// serverName is how HBase writes a server of which the start code is not known.
func serverName(address string) string {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return "null"
	}
	return address[:i] + "," + address[i+1:] + ",0"
}

// divide makes the calls for some of the rows, of which there is one at least.
func (m *regionMap) divide(table string, w work, rows []int) ([]*multiCall, error) {
	type place struct{ region, row int }
	places := make([]place, len(rows))
	ordered, near := true, 0
	for i, row := range rows {
		near = m.near(w.key(row), near)
		places[i] = place{near, row}
		ordered = ordered && (i == 0 || places[i-1].region <= near)
	}
	if !ordered {
		slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.region, b.region) })
	}
	var calls []*multiCall
	byServer := map[string]*multiCall{}
	a := &action{}
	for len(places) > 0 {
		region := &m.list[places[0].region]
		n := 1
		for n < len(places) && places[n].region == places[0].region {
			n++
		}
		c := byServer[region.server]
		if c == nil {
			c = &multiCall{
				table: []byte(table), server: region.server, key: w.key(places[0].row), found: w.found,
				result: make(chan hrpc.RPCResult, 1), rows: spareRows.Get(),
			}
			if c.rows == nil {
				c.rows = &rowBuffers{}
			}
			calls = append(calls, c)
			byServer[region.server] = c
		}
		p := &part{key: w.key(places[0].row), rows: make([]int, 0, n)}
		c.parts = append(c.parts, p)
		a.begin(c.rows.cells, region.name)
		for _, at := range places[:n] {
			a.next(len(p.rows))
			if err := w.add(a, at.row); err != nil {
				return nil, err
			}
			a.end()
			p.rows = append(p.rows, at.row)
		}
		c.rows.cells = a.cells
		c.rows.request = protowire.AppendTag(c.rows.request, 1, protowire.BytesType)
		c.rows.request = protowire.AppendBytes(c.rows.request, a.region)
		places = places[n:]
	}
	return calls, nil
}

// HBase's numbers for what a mutation does, and for a cell that puts.
const (
	mutationPut    = 2
	mutationDelete = 3
	typePut        = 4
)

// action encodes what is asked of the rows of one region: RegionAction, Action, MutationProto and Get of HBase's Client.proto, and
// the cells as its KeyValueCodec has them. Written by hand, since there is one for every row.
type action struct {
	cells  []byte // of all regions of a call
	region []byte // the RegionAction
	one    []byte // the Action
	what   []byte // its mutation or get
	field  protowire.Number
	count  int // cells of the mutation
}

func (a *action) begin(cells, name []byte) {
	a.cells = cells
	specifier := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1) // a region's name follows
	specifier = protowire.AppendBytes(protowire.AppendTag(specifier, 2, protowire.BytesType), name)
	a.region = protowire.AppendBytes(protowire.AppendTag(a.region[:0], 1, protowire.BytesType), specifier)
}

func (a *action) next(index int) {
	a.one = protowire.AppendVarint(protowire.AppendTag(a.one[:0], 1, protowire.VarintType), uint64(index))
	a.what, a.count = a.what[:0], -1
}

func (a *action) number(id protowire.Number, v uint64) {
	a.what = protowire.AppendVarint(protowire.AppendTag(a.what, id, protowire.VarintType), v)
}

func (a *action) bytes(id protowire.Number, v []byte) {
	a.what = protowire.AppendBytes(protowire.AppendTag(a.what, id, protowire.BytesType), v)
}

func (a *action) mutation(kind uint64, row []byte, d hbase.Durability) {
	a.field, a.count = 2, 0
	a.bytes(1, row)
	a.number(2, kind)
	if d != 0 {
		a.number(6, uint64(d))
	}
}

func (a *action) timestamp(ts int64) { a.number(4, uint64(ts)) }

func (a *action) attribute(name string, value []byte) {
	pair := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	a.bytes(5, protowire.AppendBytes(protowire.AppendTag(pair, 2, protowire.BytesType), value))
}

// longestFamily is what a cell has room for.
const longestFamily = math.MaxInt8

func (a *action) cell(kind byte, row, family, qualifier, value []byte, ts int64) error {
	if len(family) > longestFamily {
		return fmt.Errorf("family of %d bytes", len(family))
	}
	key := len(row) + len(family) + len(qualifier) + keyFixed
	c := slices.Grow(a.cells, cellLengths+key+len(value))
	c = binary.BigEndian.AppendUint32(c, fits32(8+key+len(value)))
	c = binary.BigEndian.AppendUint32(c, fits32(key))
	c = binary.BigEndian.AppendUint32(c, fits32(len(value)))
	c = binary.BigEndian.AppendUint16(c, uint16(len(row)))
	c = append(c, row...)
	c = append(c, byte(len(family)))
	c = append(c, family...)
	c = append(c, qualifier...)
	c = binary.BigEndian.AppendUint64(c, uint64(ts))
	c = append(c, kind)
	a.cells = append(c, value...)
	a.count++
	return nil
}

func (a *action) exists(g *thrift2.TGet) {
	a.field = 3
	a.bytes(1, g.Row)
	for _, c := range g.Columns {
		column := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), c.Family)
		if c.IsSetQualifier() {
			column = protowire.AppendBytes(protowire.AppendTag(column, 2, protowire.BytesType), c.Qualifier)
		}
		a.bytes(2, column)
	}
	if from, to, ok := getRange(g); ok {
		span := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(from))
		a.bytes(5, protowire.AppendVarint(protowire.AppendTag(span, 2, protowire.VarintType), uint64(to)))
	}
	a.number(10, 1) // existence only
}

// getRange is the timestamps [from, to) that a get is for.
func getRange(g *thrift2.TGet) (from, to int64, ok bool) {
	switch {
	case g.IsSetTimestamp():
		return *g.Timestamp, *g.Timestamp + 1, true
	case g.TimeRange != nil:
		return g.TimeRange.MinStamp, g.TimeRange.MaxStamp, true
	}
	return 0, 0, false
}

func (a *action) end() {
	if a.count >= 0 {
		a.number(8, uint64(a.count))
	}
	a.one = protowire.AppendBytes(protowire.AppendTag(a.one, a.field, protowire.BytesType), a.what)
	a.region = protowire.AppendBytes(protowire.AppendTag(a.region, 3, protowire.BytesType), a.one)
}

// part is a region's share of a call.
type part struct {
	key    []byte // of one of its rows
	rows   []int  // by their place in the RegionAction
	seen   []bool // which of them were answered
	failed []failure
	moved  bool // the region was not where it was looked for
}

type failure struct {
	row    int
	reason string
}

// summed is a reason as HBase's client has it in a sum: of a region that is not there, the class alone.
func (f *failure) summed() string {
	if !f.moved() {
		return f.reason
	}
	class, _, _ := strings.Cut(f.reason, ":")
	return class[strings.LastIndexByte(class, '.')+1:]
}

func (p *part) fail(i int, reason string) {
	f := failure{p.rows[i], reason}
	p.failed = append(p.failed, f)
	p.moved = p.moved || f.moved()
}

func (p *part) failAll(reason string) {
	p.failed = p.failed[:0]
	for i := range p.rows {
		p.fail(i, reason)
	}
}

// moved tells whether the server does not have the row's region.
func (f *failure) moved() bool {
	for _, s := range []string{"NotServingRegion", "RegionMoved", "WrongRegion", "RegionServerStopped", "RegionServerAborted"} {
		if strings.Contains(f.reason, s) {
			return true
		}
	}
	return false
}

// multiCall is a call to one region server, as gohbase's connections take it. It goes where the region of its first row is.
type multiCall struct {
	ctx        context.Context
	table, key []byte
	server     string // host:port, as hbase:meta has it
	region     hrpc.RegionInfo
	result     chan hrpc.RPCResult
	rows       *rowBuffers
	parts      []*part
	found      []bool
}

// rowBuffers are what a call sends.
type rowBuffers struct {
	request []byte // a MultiRequest
	cells   []byte
}

func (c *multiCall) Table() []byte                   { return c.table }
func (c *multiCall) Name() string                    { return "Multi" }
func (c *multiCall) Key() []byte                     { return c.key }
func (c *multiCall) Region() hrpc.RegionInfo         { return c.region }
func (c *multiCall) SetRegion(r hrpc.RegionInfo)     { c.region = r }
func (c *multiCall) ResultChan() chan hrpc.RPCResult { return c.result }
func (c *multiCall) Description() string             { return "Multi" }
func (c *multiCall) Context() context.Context        { return c.ctx }
func (c *multiCall) CellBlocksEnabled() bool         { return true }

// ToProto gives a message of which all fields are unknown: they are encoded already.
func (c *multiCall) ToProto() proto.Message {
	m := &emptypb.Empty{}
	m.ProtoReflect().SetUnknown(c.rows.request)
	return m
}

// SerializeCellBlocks is called, in place of ToProto, for each time that the call is sent.
func (c *multiCall) SerializeCellBlocks() (proto.Message, [][]byte, uint32) {
	return c.ToProto(), [][]byte{c.rows.cells}, uint32(len(c.rows.cells))
}

// NewResponse is decoded by hand, as the request is encoded.
func (c *multiCall) NewResponse() proto.Message { return &emptypb.Empty{} }

// slots bound the calls that a region server works at for this process. HBase's own client has the same bound: more of them get in each
// other's way in the memory of a region, where rows that come in the order of their keys all belong behind the last one.
type slots struct {
	mu sync.Mutex
	of map[string]chan struct{} // by server
}

const callsEach = 2

// take waits for a slot.
func (s *slots) take(ctx context.Context, server string) (free func(), err error) {
	s.mu.Lock()
	slot := s.of[server]
	if slot == nil {
		if s.of == nil {
			s.of = map[string]chan struct{}{}
		}
		slot = make(chan struct{}, callsEach)
		s.of[server] = slot
	}
	s.mu.Unlock()
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send makes the call and leaves in its parts what failed.
func (c *multiCall) send(ctx context.Context, h *hbaseBackend) {
	c.ctx = ctx
	if c.server == "" {
		c.failAll("org.apache.hadoop.hbase.NotServingRegionException: no server has the region at the moment")
		return
	}
	free, err := h.slots.take(ctx, c.server)
	if err != nil {
		c.failAll(told(string(c.table), err).(*thrift2.TIOError).GetMessage())
		return
	}
	msg, err := h.rpc().SendRPC(c)
	free()
	if ctx.Err() == nil {
		c.rows.give() // of a call that was given up, gohbase may have something still
	}
	if err != nil {
		c.failAll(told(string(c.table), err).(*thrift2.TIOError).GetMessage())
		return
	}
	if err := c.read(msg.ProtoReflect().GetUnknown()); err != nil {
		c.failAll(fmt.Sprintf("the answer of %s is none: %v", c.server, err))
	}
}

func (c *multiCall) failAll(reason string) {
	for _, p := range c.parts {
		p.failAll(reason)
	}
}

var errAnswer = errors.New("broken message")

// fields calls f for each field of a message.
func fields(p []byte, f func(id protowire.Number, number uint64, bytes []byte) error) error {
	for len(p) > 0 {
		id, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return errAnswer
		}
		p = p[n:]
		var number uint64
		var bytes []byte
		switch typ {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(p)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(p)
		default:
			n = protowire.ConsumeFieldValue(id, typ, p)
		}
		if n < 0 {
			return errAnswer
		}
		p = p[n:]
		if err := f(id, number, bytes); err != nil {
			return err
		}
	}
	return nil
}

// read decodes a MultiResponse. A row of which it says nothing has failed.
func (c *multiCall) read(answer []byte) error {
	at := 0
	err := fields(answer, func(id protowire.Number, _ uint64, b []byte) error {
		if id != 1 {
			return nil
		}
		if at == len(c.parts) {
			return errAnswer
		}
		p := c.parts[at]
		at++
		return c.readPart(p, b)
	})
	if err == nil && at < len(c.parts) {
		err = fmt.Errorf("%d of %d regions", at, len(c.parts))
	}
	return err
}

// readPart decodes a RegionActionResult.
func (c *multiCall) readPart(p *part, b []byte) error {
	p.seen = make([]bool, len(p.rows))
	whole := ""
	err := fields(b, func(id protowire.Number, _ uint64, b []byte) error {
		switch id {
		case 1:
			return c.readOne(p, b)
		case 2:
			var err error
			whole, err = exception(b)
			return err
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case whole != "":
		p.failAll(whole)
	case slices.Contains(p.seen, false):
		return fmt.Errorf("%d rows were asked for, and one not answered", len(p.rows))
	}
	return nil
}

// readOne decodes a ResultOrException.
func (c *multiCall) readOne(p *part, b []byte) error {
	index, reason, found := 0, "", false
	err := fields(b, func(id protowire.Number, number uint64, b []byte) (err error) {
		switch id {
		case 1:
			index = int(number)
		case 2:
			if c.found != nil {
				err = fields(b, func(id protowire.Number, number uint64, _ []byte) error {
					found = found || id == 3 && number != 0
					return nil
				})
			}
		case 3:
			reason, err = exception(b)
		}
		return err
	})
	if err != nil {
		return err
	}
	if index < 0 || index >= len(p.rows) {
		return errAnswer
	}
	p.seen[index] = true
	if reason != "" {
		p.fail(index, reason)
	}
	if c.found != nil {
		c.found[p.rows[index]] = found
	}
	return nil
}

// exception is what a server threw: its class in front, its stack behind.
func exception(b []byte) (string, error) {
	var class, stack string
	err := fields(b, func(id protowire.Number, _ uint64, b []byte) error {
		switch id {
		case 1:
			class = string(b)
		case 2:
			stack = string(b)
		}
		return nil
	})
	if strings.HasPrefix(stack, class) {
		return stack, err
	}
	return class + ": " + stack, err
}
