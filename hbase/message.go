package hbase

import (
	"context"

	"github.com/apache/thrift/lib/go/thrift"
)

// message is the transport under the generated client: it collects a message until Flush and reads the reply through the
// connection's own reader. The connection's calls encoded by hand and the generated ones so share one stream.
type message struct{ c *Conn }

func (m message) Write(p []byte) (int, error) {
	m.c.out = append(m.c.out, p...)
	return len(p), nil
}

func (m message) Flush(context.Context) error {
	err := m.c.send(m.c.out)
	m.c.out = m.c.out[:0]
	return err
}

func (m message) Read(p []byte) (int, error) {
	c := m.c
	if !c.begun {
		if err := c.begin(); err != nil {
			return 0, err
		}
	}
	d := &c.reply
	if d.left == 0 {
		return 0, garbage("message ends within a value")
	}
	p = p[:min(int64(len(p)), d.left)]
	n, err := d.r.Read(p)
	d.left -= int64(n)
	return n, noEOF(err)
}

// RemainingBytes lets the protocol refuse lengths beyond the message.
func (m message) RemainingBytes() uint64 {
	if m.c.transport.Framed && !m.c.transport.HTTP && m.c.begun {
		return uint64(m.c.reply.left)
	}
	return thrift.UnknownRemainingBytes
}

func (m message) Open() error  { return nil }
func (m message) IsOpen() bool { return !m.c.broken }
func (m message) Close() error { return m.c.Close() }
