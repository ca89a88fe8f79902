package zookeeper

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	// maxHandshake bounds the reply to a handshake, in bytes; it has 37.
	maxHandshake = 1 << 10
	// maxReply bounds any other reply, in bytes. Servers send at most 1 MB of data, and longer lists of children.
	maxReply = 8 << 20
	// replyHeader is what each reply begins with: request, transaction, error.
	replyHeader = 4 + 8 + 4
)

// wire is a connection to a server as the library is given it. It stands between the two where the library trusts servers
// too far: it would wait nearly seven session timeouts for the reply to a handshake, and without end for the rest of one
// that has begun; it would allocate whatever size a reply claims, and panic at one that is too short. All reading, and the
// setting of deadlines before the handshake is over, comes from one goroutine at a time.
type wire struct {
	net.Conn
	bare  net.Conn  // below TLS
	until time.Time // end of the handshake
	took  func(session int64, timeout time.Duration)

	shaken  bool
	pending []byte // read and looked at, not yet given on
	left    int    // bytes of the present reply behind pending
	head    [4 + replyHeader]byte
}

// abort cuts the connection without a word. It never blocks, as a TLS connection's Close may.
func (w *wire) abort() { w.bare.Close() }

func (w *wire) SetReadDeadline(t time.Time) error  { return w.Conn.SetReadDeadline(w.capped(t)) }
func (w *wire) SetWriteDeadline(t time.Time) error { return w.Conn.SetWriteDeadline(w.capped(t)) }

func (w *wire) capped(t time.Time) time.Time {
	if !w.shaken && (t.IsZero() || t.After(w.until)) {
		return w.until
	}
	return t
}

func (w *wire) Read(p []byte) (int, error) {
	if len(w.pending) == 0 && w.left == 0 {
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	if len(w.pending) > 0 {
		n := copy(p, w.pending)
		w.pending = w.pending[n:]
		return n, nil
	}
	n, err := w.Conn.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

// begin reads the beginning of the next reply, or the whole reply to the handshake.
func (w *wire) begin() error {
	if !w.shaken {
		return w.handshake()
	}
	if _, err := io.ReadFull(w.Conn, w.head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(w.head[:])
	if size < replyHeader || size > maxReply {
		return fmt.Errorf("read from %s: a reply of %d bytes is none of ZooKeeper's", w.RemoteAddr(), size)
	}
	w.pending, w.left = w.head[:], int(size)-replyHeader
	return nil
}

func (w *wire) handshake() error {
	var size [4]byte
	if _, err := io.ReadFull(w.Conn, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	// Protocol version, timeout in ms, session, password with its length.
	if n < 4+4+8+4 || n > maxHandshake {
		return fmt.Errorf("shake hands with %s: it answers %q, which is not ZooKeeper's", w.RemoteAddr(), size)
	}
	reply := make([]byte, 4+n)
	copy(reply, size[:])
	if _, err := io.ReadFull(w.Conn, reply[4:]); err != nil {
		return err
	}
	w.took(int64(binary.BigEndian.Uint64(reply[12:])), time.Duration(binary.BigEndian.Uint32(reply[8:]))*time.Millisecond)
	w.pending, w.shaken = reply, true
	return nil
}
