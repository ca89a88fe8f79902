package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase"
)

// NullServer acknowledges putMultiple and keeps nothing. It counts, and spends as little CPU as it can, so that a benchmark
// beside it measures the client. It answers no other call, and checks nothing.
type NullServer struct {
	trans    hbase.Transport
	listener net.Listener
	work     sync.WaitGroup

	rows, bytes, calls atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	ended bool
}

// Null listens and serves until Close; "" is 127.0.0.1 with a free port. It speaks framed and unframed binary and compact.
func Null(listen string, t hbase.Transport) (*NullServer, error) {
	if t.HTTP || t.TLS != nil {
		return nil, errors.New("the null gateway speaks plain TCP only: leave out HTTP and TLS")
	}
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listen for Thrift clients on %s: %w", listen, err)
	}
	n := &NullServer{trans: t, listener: l, conns: map[net.Conn]struct{}{}}
	n.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			if n.ended {
				n.mu.Unlock()
				c.Close()
				return
			}
			n.conns[c] = struct{}{}
			n.mu.Unlock()
			n.work.Go(func() { n.converse(c) })
		}
	})
	return n, nil
}

// Addr is the address that clients connect to.
func (n *NullServer) Addr() string { return n.listener.Addr().String() }

// Rows is how many rows were acknowledged.
func (n *NullServer) Rows() int64 { return n.rows.Load() }

// Bytes is how many bytes of messages were read.
func (n *NullServer) Bytes() int64 { return n.bytes.Load() }

// Calls is how many calls were acknowledged.
func (n *NullServer) Calls() int64 { return n.calls.Load() }

// Close ends the connections and waits for them. It is idempotent.
func (n *NullServer) Close() error {
	n.mu.Lock()
	n.ended = true
	n.listener.Close()
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.work.Wait()
	return nil
}

func (n *NullServer) converse(c net.Conn) {
	defer func() {
		c.Close()
		n.mu.Lock()
		delete(n.conns, c)
		n.mu.Unlock()
	}()
	w := &wire{compact: n.trans.Compact}
	for n.turn(c, w) == nil {
	}
}

// turn acknowledges one call. An unframed message has to be walked through to find its end; of a framed one the head is
// enough, and the rest is thrown away unread.
func (n *NullServer) turn(c net.Conn, w *wire) error {
	frame := 0
	if n.trans.Framed {
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return err
		}
		frame = int(binary.BigEndian.Uint32(head[:]))
		if err := w.load(io.LimitReader(c, int64(frame)), frame); err != nil {
			return err
		}
		w.out = append(w.out, head[:]...)
	} else {
		w.begin()
		w.src = c
	}
	method, seq := w.message()
	if w.err == nil && string(w.at(method)) != "putMultiple" {
		return fmt.Errorf("the null gateway knows putMultiple only, not %q", w.at(method))
	}
	rows := 0
	var last int16
	for {
		t := w.field(&last)
		if t == thrift.STOP {
			break
		}
		if last == 2 && t == thrift.LIST {
			var elem byte
			elem, rows = w.list()
			if frame > 0 {
				break
			}
			for i := 0; i < rows && w.err == nil; i++ {
				w.skip(elem, false, 0)
			}
			continue
		}
		w.skip(t, true, 0)
	}
	if w.err != nil {
		return w.err
	}
	size := w.pos
	if frame > 0 {
		size = frame + 4
	}
	w.out = appendReply(w.out, w.compact, "putMultiple", seq)
	if frame > 0 {
		binary.BigEndian.PutUint32(w.out, uint32(len(w.out)-4))
	}
	n.rows.Add(int64(rows)) // before the reply: who has it may look
	n.bytes.Add(int64(size))
	n.calls.Add(1)
	_, err := c.Write(w.out)
	return err
}

// appendReply appends the reply of a void method that went well.
func appendReply(b []byte, compact bool, method string, seq int32) []byte {
	if compact {
		b = append(b, 0x82, 2<<5|1)
		b = binary.AppendUvarint(b, uint64(uint32(seq)))
		b = binary.AppendUvarint(b, uint64(len(method)))
		b = append(b, method...)
		return append(b, 0)
	}
	b = append(b, 0x80, 0x01, 0, 2)
	b = binary.BigEndian.AppendUint32(b, uint32(len(method)))
	b = append(b, method...)
	b = binary.BigEndian.AppendUint32(b, uint32(seq))
	return append(b, 0)
}
