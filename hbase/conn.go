package hbase

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/crashpoint"
	"drover/hbase/thrift2"
)

// Conn is one connection to one gateway, which carries one call at a time: its methods are for one goroutine, but for
// Close. Every call is bounded by its context, and every error it returns is an *Error.
//
// After an answer that was cut, late or not understood nothing more is sent on the connection, so that no call ever reads
// another's reply; Reusable says so.
type Conn struct {
	addr      string
	transport Transport
	socket    net.Conn
	expire    func()           // ends reads and writes in progress
	in        *bufio.Reader    // the socket
	body      *bufio.Reader    // an HTTP answer's body
	answer    *http.Response   // nil when none is being read
	reply     decoder          // the message being read
	begun     bool             // its framing is read
	sent      bool             // something of this call was written
	broken    bool             // or a call is in progress
	lastUsed  time.Time        // end of the last call that left the connection in order
	seq       int32            // of calls encoded by hand; the generated client counts its own
	envelope  []byte           // scratch
	head      []byte           // scratch
	vector    [4][]byte        // scratch
	out       []byte           // what the generated client has written of its message
	proto     thrift.TProtocol // of the generated code, over message
	generated *thrift.TStandardClient
	client    *thrift2.THBaseServiceClient
}

const (
	defaultConnectTimeout = 5 * time.Second
	readBuffer            = 32 << 10
)

// DialFunc makes a connection to a gateway, which is then spoken to as its Transport says. It returns when ctx ends at the latest.
type DialFunc func(ctx context.Context, addr string) (net.Conn, error)

// Dial connects to the gateway at addr, host:port. That a connection stands proves nothing about the gateway: a full one
// accepts and never answers.
func Dial(ctx context.Context, addr string, t Transport) (*Conn, error) {
	return dialBy(ctx, addr, t, nil)
}

// dialBy is Dial over the connections that a function makes; nil is TCP.
func dialBy(ctx context.Context, addr string, t Transport, by DialFunc) (*Conn, error) {
	socket, err := dial(ctx, addr, &t, by)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, &Error{Kind: kindOf(ctx, err), Op: opConnect, Gateway: addr, Err: err}
	}
	return newConn(socket, addr, t), nil
}

func newConn(socket net.Conn, addr string, t Transport) *Conn {
	c := &Conn{addr: addr, transport: t, socket: socket, lastUsed: time.Now()}
	c.expire = func() { socket.SetDeadline(time.Unix(1, 0)) }
	c.in = bufio.NewReaderSize(socket, readBuffer)
	if t.HTTP {
		c.body = bufio.NewReaderSize(nil, readBuffer)
	}
	c.reply.compact = t.Compact

	conf := &thrift.TConfiguration{
		MaxMessageSize:    maxReply,
		MaxFrameSize:      maxReply,
		TBinaryStrictRead: thrift.BoolPtr(true), TBinaryStrictWrite: thrift.BoolPtr(true),
	}
	if t.Compact {
		c.proto = thrift.NewTCompactProtocolConf(message{c}, conf)
	} else {
		c.proto = thrift.NewTBinaryProtocolConf(message{c}, conf)
	}
	c.generated = thrift.NewTStandardClient(c.proto, c.proto)
	c.client = thrift2.NewTHBaseServiceClient(c.generated)
	return c
}

func dial(ctx context.Context, addr string, t *Transport, by DialFunc) (net.Conn, error) {
	if by == nil {
		by = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	timeout := t.ConnectTimeout
	if timeout == 0 {
		timeout = defaultConnectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	socket, err := by(ctx, addr)
	if err != nil || t.TLS == nil {
		return socket, err
	}
	conf := t.TLS
	if conf.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			socket.Close()
			return nil, err
		}
		conf = conf.Clone()
		conf.ServerName = host
	}
	secure := tls.Client(socket, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		socket.Close()
		return nil, err
	}
	return secure, nil
}

// PutMultiple puts the puts of rows [lo, hi) of b. Without any, it does nothing.
func (c *Conn) PutMultiple(ctx context.Context, table string, b *Batch, lo, hi int) error {
	rows, _, n, _ := b.span(lo, hi)
	if n == 0 {
		return nil
	}
	err := c.bounded(ctx, func() error {
		if err := c.sendRows("putMultiple", table, rows, n, appendCompactPuts); err != nil {
			return err
		}
		crashpoint.Pass(crashpoint.Sent)
		return c.receive("putMultiple", nil)
	})
	return c.wrap(err, "put", "to", table, n)
}

// DeleteMultiple makes the deletes of rows [lo, hi) of b. Without any, it does nothing.
func (c *Conn) DeleteMultiple(ctx context.Context, table string, b *Batch, lo, hi int) error {
	_, cells, _, n := b.span(lo, hi)
	if n == 0 {
		return nil
	}
	err := c.bounded(ctx, func() error {
		if err := c.sendRows("deleteMultiple", table, cells, n, appendCompactDeletes); err != nil {
			return err
		}
		undone := 0
		err := c.receive("deleteMultiple", func(typ byte) { undone = c.readDeletes(typ) })
		if err == nil && undone > 0 {
			text := fmt.Sprintf("%d of %d deletes were not made", undone, n)
			err = &thrift2.TIOError{Message: &text}
		}
		return err
	})
	return c.wrap(err, "delete", "from", table, hi-lo)
}

// readDeletes counts the deletes that were not made. HBase says so by an exception, but the contract has the list.
func (c *Conn) readDeletes(typ byte) int {
	d := &c.reply
	if typ != tList {
		d.fail(garbage("deletes of type %d", typ))
		return 0
	}
	elem, n := d.list()
	for i := 0; i < n && d.err == nil; i++ {
		d.skip(elem, true, 0)
	}
	return n
}

// Exists tells for each of the rows of b whether all that it puts is in the table, each cell with its timestamp and its value,
// in one call. A cell's timestamp alone would not tell: where timestamps come from the documents, an earlier run with another
// mapping may have put something else there. A row that puts nothing counts as there.
func (c *Conn) Exists(ctx context.Context, table string, b *Batch, rows []int) ([]bool, error) {
	found := make([]bool, len(rows))
	gets := make([]*thrift2.TGet, 0, len(rows))
	asked := make([][]Cell, 0, len(rows)) // what each get asks for
	of := make([]int, 0, len(rows))       // the index in rows that it is for
	for i, row := range rows {
		found[i] = true
		first := len(gets) // a get has one timestamp, and a row may have several
		for cell := range b.rowCells(row) {
			if cell.Op != Put {
				continue
			}
			at := first
			for at < len(gets) && *gets[at].Timestamp != cell.Timestamp {
				at++
			}
			if at == len(gets) {
				gets = append(gets, &thrift2.TGet{Row: b.Key(row), Timestamp: &cell.Timestamp})
				asked = append(asked, nil)
				of = append(of, i)
			}
			gets[at].Columns = append(gets[at].Columns, &thrift2.TColumn{Family: cell.Family, Qualifier: notNil(cell.Qualifier)})
			asked[at] = append(asked[at], cell)
		}
	}
	if len(gets) == 0 {
		return found, nil
	}
	err := c.bounded(ctx, func() error {
		answers, err := c.client.GetMultiple(ctx, []byte(table), gets)
		if err != nil {
			return err
		}
		if len(answers) != len(gets) {
			return garbage("%d answers for %d rows", len(answers), len(gets))
		}
		for i, there := range answers {
			found[of[i]] = found[of[i]] && holds(there, asked[i])
		}
		return nil
	})
	if err != nil {
		return nil, c.wrap(err, "look for", "in", table, len(rows))
	}
	return found, nil
}

// Disabled tells whether a table is disabled, or on its way there or back: HBase calls neither of these enabled.
func (c *Conn) Disabled(ctx context.Context, table string) (off bool, err error) {
	err = c.Call(ctx, func(ctx context.Context, client *thrift2.THBaseServiceClient) error {
		on, err := client.IsTableEnabled(ctx, tableName(table))
		off = !on && err == nil
		return err
	})
	return off, err
}

// holds tells whether a result has every one of the cells.
func holds(r *thrift2.TResult_, cells []Cell) bool {
	return !slices.ContainsFunc(cells, func(want Cell) bool {
		return !slices.ContainsFunc(r.ColumnValues, func(have *thrift2.TColumnValue) bool {
			return bytes.Equal(have.Family, want.Family) && bytes.Equal(have.Qualifier, want.Qualifier) &&
				have.GetTimestamp() == want.Timestamp && bytes.Equal(have.Value, want.Value)
		})
	})
}

// notNil keeps an empty qualifier on the wire, where an absent one would mean the whole family.
func notNil(p []byte) []byte {
	if p == nil {
		return []byte{}
	}
	return p
}

// Call makes one call through the generated client. f returns the error that the call returned.
func (c *Conn) Call(ctx context.Context, f func(ctx context.Context, client *thrift2.THBaseServiceClient) error) error {
	err := c.bounded(ctx, func() error { return f(ctx, c.client) })
	if err == nil {
		return nil
	}
	return c.error(err, "", "", 0)
}

// Reusable tells whether the connection can carry another call.
func (c *Conn) Reusable() bool { return !c.broken }

// LastUsed is when the last call ended that left the connection in order, or when it was made. Gateways close connections
// that were idle for 60 s.
func (c *Conn) LastUsed() time.Time { return c.lastUsed }

// Close closes the connection; a call in progress ends with an error. Closing twice is harmless.
func (c *Conn) Close() error {
	if err := c.socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close connection to %s: %w", c.addr, err)
	}
	return nil
}

// bounded runs one call, which ends when ctx does. Afterwards the connection is in order only if nothing was sent, or the
// call was answered, by a result or by an exception, and the answer was read to its end.
func (c *Conn) bounded(ctx context.Context, call func() error) error {
	if c.broken {
		return errBroken
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.sent, c.out, c.broken = false, c.out[:0], true
	stop := context.AfterFunc(ctx, c.expire)
	err := call()
	inTime := stop()
	switch {
	case err != nil && ctx.Err() != nil && !answered(err):
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	case !inTime: // the deadline is set, or will be at any moment
	case !c.sent, answered(err) && c.drained():
		c.broken = false
		c.lastUsed = time.Now()
	}
	if cap(c.out) > maxPooled {
		c.out = nil
	}
	return err
}

// answered tells whether err is what a server answers, as against what goes wrong on the way. The types of application
// exceptions left out are those that the generated client makes up when it reads another reply than it asked for.
func answered(err error) bool {
	if err == nil {
		return true
	}
	if _, ok := errors.AsType[*thrift2.TIOError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*thrift2.TIllegalArgument](err); ok {
		return true
	}
	if e, ok := errors.AsType[thrift.TApplicationException](err); ok {
		switch e.TypeId() {
		case thrift.UNKNOWN_APPLICATION_EXCEPTION, thrift.UNKNOWN_METHOD, thrift.MISSING_RESULT, thrift.INTERNAL_ERROR:
			return true
		}
	}
	return false
}

// sendRows sends a call with encoded rows, which are written from where they are, or through recode when compact.
func (c *Conn) sendRows(method, table string, rows []byte, n int, recode func(p, rows []byte) []byte) error {
	c.seq++
	c.head = appendCall(c.head[:0], c.transport.Compact, method, c.seq, table, n)
	if c.transport.Compact {
		buf := compacts.Get().(*[]byte)
		defer releaseCompact(buf)
		*buf = recode((*buf)[:0], rows)
		rows = *buf
	}
	return c.send(c.head, rows, stopByte)
}

var stopByte = []byte{tStop}

// send writes one message, given in pieces.
func (c *Conn) send(pieces ...[]byte) error {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	if limit := c.transport.frameLimit(); limit > 0 && n > limit {
		return fmt.Errorf("%w: %d bytes, the gateway takes %d", errTooBig, n, limit)
	}
	if c.in.Buffered() > 0 {
		c.sent = true
		return garbage("%d bytes that nobody asked for", c.in.Buffered())
	}
	c.envelope = c.transport.appendEnvelope(c.envelope[:0], c.addr, n)
	v := c.vector[:0]
	if len(c.envelope) > 0 {
		v = append(v, c.envelope)
	}
	v = append(v, pieces...)
	c.sent, c.begun = true, false
	buffers := net.Buffers(v)
	_, err := buffers.WriteTo(c.socket)
	clear(c.vector[:])
	return err
}

// receive reads the reply to the call sent last.
func (c *Conn) receive(method string, success func(typ byte)) error {
	if err := c.begin(); err != nil {
		return err
	}
	defer c.reply.settle()
	if err := c.reply.begin(method, c.seq); err != nil {
		return err
	}
	return c.reply.result(success)
}

// begin reads what comes before a reply.
func (c *Conn) begin() error {
	c.begun = true
	d := &c.reply
	d.reset(c.in, maxReply)
	switch {
	case c.transport.HTTP:
		return c.beginHTTP()
	case c.transport.Framed:
		n := int64(binary.BigEndian.Uint32(d.take(4)))
		if d.settle(); n > maxReply {
			d.fail(garbage("frame of %d bytes", n))
		}
		d.left = n
	}
	return d.err
}

func (c *Conn) beginHTTP() error {
	for {
		r, err := http.ReadResponse(c.in, postRequest)
		if err != nil {
			return noEOF(err)
		}
		if r.StatusCode >= 100 && r.StatusCode < 200 {
			continue
		}
		if r.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(r.Body, 300))
			text := strings.Join(strings.Fields(r.Status+": "+string(body)), " ")
			return &statusError{r.StatusCode, text}
		}
		c.answer = r
		c.body.Reset(r.Body)
		c.reply.reset(c.body, maxReply)
		return nil
	}
}

// drained tells whether the last reply was read to its end and nothing follows it. An HTTP answer that closes the
// connection counts as undrained.
func (c *Conn) drained() bool {
	if !c.begun {
		return false
	}
	if c.transport.HTTP {
		r := c.answer
		c.answer = nil
		if r == nil || r.Close {
			return false
		}
		if _, err := c.body.ReadByte(); err != io.EOF {
			return false
		}
		r.Body.Close()
	} else if c.transport.Framed && c.reply.left != 0 {
		return false
	}
	return c.in.Buffered() == 0
}

// wrap makes the error of a call about rows.
func (c *Conn) wrap(err error, verb, preposition, table string, rows int) error {
	if err == nil {
		return nil
	}
	noun := "rows"
	if rows == 1 {
		noun = "row"
	}
	return c.error(err, fmt.Sprintf("%s %d %s %s %s", verb, rows, noun, preposition, table), table, rows)
}

func (c *Conn) error(err error, op, table string, rows int) error {
	e := &Error{Op: op, Gateway: c.addr, Table: table, Rows: rows, Err: err}
	if io, ok := err.(*thrift2.TIOError); ok {
		e.Kind, e.Wait = classifyText(io.GetMessage(), table)
	} else if e.Kind, e.Wait = Classify(err); isUnknownMethod(err) {
		e.Err = fmt.Errorf("%w: %w", ErrUnknownMethod, err)
	}
	return e
}

func kindOf(ctx context.Context, err error) Kind {
	if errors.Is(ctx.Err(), context.Canceled) {
		return Canceled
	}
	k, _ := Classify(err)
	return k
}
