// Package wire talks to a Thrift2 gateway with the generated client over thrift's own transports, so that tests have a way
// to HBase that shares no code with drover's client. Nothing outside the tests may use it: it decodes every cell into
// objects and knows no retries.
package wire

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
)

// Protocol says how a gateway is spoken to. The zero value is unframed binary over TCP.
type Protocol struct {
	Framed  bool // also what hsha, nonblocking and threadedselector servers speak
	Compact bool
	HTTP    bool // POST to "/"
}

func (p Protocol) String() string {
	s := "unframed"
	switch {
	case p.HTTP:
		s = "http"
	case p.Framed:
		s = "framed"
	}
	if p.Compact {
		return s + " compact"
	}
	return s + " binary"
}

// callTimeout bounds a call whose context has no deadline.
const callTimeout = 2 * time.Minute

// Conn is one connection to a gateway. Calls on it must not overlap.
type Conn struct {
	addr      string
	transport thrift.TTransport
	interrupt func()
	client    *thrift2.THBaseServiceClient
}

// Dial connects. For HTTP nothing is sent before the first call.
func Dial(ctx context.Context, addr string, p Protocol) (*Conn, error) {
	conf := &thrift.TConfiguration{
		ConnectTimeout: 5 * time.Second,
		SocketTimeout:  callTimeout,
		MaxMessageSize: math.MaxInt32,
		MaxFrameSize:   math.MaxInt32,
	}
	c := &Conn{addr: addr}
	if p.HTTP {
		t, err := thrift.NewTHttpClient("http://" + addr + "/")
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
		// The HTTP client honours the context of a call by itself.
		c.transport, c.interrupt = t, func() {}
	} else {
		sock := thrift.NewTSocketConf(addr, conf)
		// Write and read errors alike surface only through a buffered transport here: the server sees whole messages.
		if p.Framed {
			c.transport = thrift.NewTFramedTransportConf(sock, conf)
		} else {
			c.transport = thrift.NewTBufferedTransport(sock, 64<<10)
		}
		c.interrupt = func() { sock.Interrupt() }
	}
	var protocol thrift.TProtocol
	if p.Compact {
		protocol = thrift.NewTCompactProtocolConf(c.transport, conf)
	} else {
		protocol = thrift.NewTBinaryProtocolConf(c.transport, conf)
	}
	c.client = thrift2.NewTHBaseServiceClient(thrift.NewTStandardClient(protocol, protocol))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	if err := c.transport.Open(); err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, nil
}

// Do runs one call, which ctx bounds. After an error other than HBase's own the connection is of no more use: the stream
// may stand inside a reply.
func (c *Conn) Do(ctx context.Context, call func(context.Context, *thrift2.THBaseServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// thrift ignores the context while it waits for a reply, so the socket is closed under it.
	stop := context.AfterFunc(ctx, c.interrupt)
	err := call(ctx, c.client)
	if !stop() && err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return Explain(err)
}

// Close closes the connection.
func (c *Conn) Close() error { return c.transport.Close() }

// Call dials, runs one call and closes.
func Call(ctx context.Context, addr string, p Protocol, call func(context.Context, *thrift2.THBaseServiceClient) error) error {
	c, err := Dial(ctx, addr, p)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Do(ctx, call); err != nil {
		return fmt.Errorf("call %s: %w", addr, err)
	}
	return nil
}

// Explain gives HBase's exceptions their text, which the generated types print as pointers.
func Explain(err error) error {
	switch e := err.(type) {
	case *thrift2.TIOError:
		return &exception{"TIOError: " + e.GetMessage(), err}
	case *thrift2.TIllegalArgument:
		return &exception{"TIllegalArgument: " + e.GetMessage(), err}
	}
	return err
}

type exception struct {
	text string
	err  error
}

func (e *exception) Error() string { return e.text }
func (e *exception) Unwrap() error { return e.err }
