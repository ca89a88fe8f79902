package zookeeper

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is an ensemble in memory, as far as these tests go: sessions, nodes with versions, watches, and ways to misbehave.
// Its answers are ZooKeeper's own format; what ZooKeeper does beyond that is shown on real servers.
type fake struct {
	mu       sync.Mutex
	nodes    map[string]*fakeNode
	zxid     int64
	sessions map[int64]bool
	created  int64
	conns    map[*fakeConn]bool
	log      []string // "session:op path" of each request that arrived
	dials    []time.Time

	down bool // nobody listens
	mute bool // connections are taken, and nothing is answered
	deaf bool // no watch ever fires
	shut bool // the handshake is answered by closing
	noes bool // credentials are refused
}

type fakeNode struct {
	data    []byte
	version int32
	mzxid   int64
}

type fakeConn struct {
	net.Conn
	session int64
	watches map[string]bool
	mu      sync.Mutex // of writing
}

func newFake() *fake {
	return &fake{nodes: map[string]*fakeNode{"/": {}}, sessions: map[int64]bool{}, conns: map[*fakeConn]bool{}, zxid: 1}
}

func (f *fake) dial(context.Context, string, string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials = append(f.dials, time.Now())
	if f.down {
		return nil, errors.New("nobody listens")
	}
	ours, theirs := net.Pipe()
	c := &fakeConn{Conn: theirs, watches: map[string]bool{}}
	f.conns[c] = true
	go f.serve(c) // ends with the connection
	return ours, nil
}

// set changes how the fake behaves; connections break when it is down.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	if f.down {
		f.breakLocked()
	}
}

func (f *fake) breakLocked() {
	for c := range f.conns {
		c.Close()
	}
}

// expire ends all sessions.
func (f *fake) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sessions)
	f.breakLocked()
}

// requests counts those that arrived and begin so.
func (f *fake) requests(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.log {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

// connections counts the tries to connect.
func (f *fake) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.dials)
}

// write sets a node as somebody else would.
func (f *fake) write(path, data string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.zxid++
	n, what := f.nodes[path], int32(3)
	if n == nil {
		n, what = &fakeNode{version: -1}, 1
		f.nodes[path] = n
	}
	n.data, n.mzxid, n.version = []byte(data), f.zxid, n.version+1
	f.fireLocked(path, what)
}

func (f *fake) fireLocked(path string, what int32) {
	if f.deaf {
		return
	}
	for c := range f.conns {
		if c.watches[path] {
			delete(c.watches, path)
			b := be32(be32(be64(be32(nil, -1), -1), 0), what)
			go c.send(str(be32(b, 3), path))
		}
	}
}

func be32(b []byte, n int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }
func be64(b []byte, n int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(n)) }
func str[T string | []byte](b []byte, s T) []byte {
	return append(be32(b, int32(len(s))), s...)
}

func (c *fakeConn) send(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Write(str(nil, b))
}

func (c *fakeConn) frame() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

func (f *fake) serve(c *fakeConn) {
	defer func() {
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
		c.Close()
	}()
	b, err := c.frame()
	if err != nil {
		return
	}
	timeout, session := int32(binary.BigEndian.Uint32(b[12:])), int64(binary.BigEndian.Uint64(b[16:]))
	f.mu.Lock()
	mute, shut := f.mute, f.shut
	switch {
	case session == 0 && !mute && !shut:
		f.created++
		session = f.created
		f.sessions[session] = true
	case !f.sessions[session]:
		session = 0
	}
	c.session = session
	f.mu.Unlock()
	if shut {
		return
	}
	if mute {
		io.Copy(io.Discard, c)
		return
	}
	c.send(str(be64(be32(be32(nil, 0), timeout), session), make([]byte, 16)))
	if session == 0 {
		return
	}
	for {
		b, err := c.frame()
		if err != nil {
			return
		}
		if answer := f.handle(c, b); answer != nil {
			c.send(answer)
		}
		if int32(binary.BigEndian.Uint32(b[4:])) == -11 {
			return
		}
	}
}

const (
	fakeNoNode     = -101
	fakeExists     = -110
	fakeBadVersion = -103
	fakeAuthFailed = -115
)

func (f *fake) handle(c *fakeConn, b []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mute {
		return nil
	}
	xid, op := int32(binary.BigEndian.Uint32(b)), int32(binary.BigEndian.Uint32(b[4:]))
	b = b[8:]
	next := func() string {
		n := binary.BigEndian.Uint32(b)
		s := string(b[4 : 4+n])
		b = b[4+n:]
		return s
	}
	names := map[int32]string{1: "create ", 3: "exists ", 4: "get ", 5: "set ", 9: "sync ", 12: "list ", 11: "ping", 100: "auth", 101: "watches", -11: "close"}
	entry, path := names[op], ""
	switch op {
	case 1, 3, 4, 5, 9, 12:
		path = next()
	}
	f.log = append(f.log, string(rune('0'+c.session))+":"+entry+path)
	code, body := int32(0), []byte(nil)
	n := f.nodes[path]
	stat := func(b []byte) []byte {
		b = be64(be64(be64(be64(b, n.mzxid), n.mzxid), 0), 0)
		b = be64(be32(be32(be32(b, n.version), 0), 0), 0)
		return be64(be32(be32(b, int32(len(n.data))), 0), n.mzxid)
	}
	switch op {
	case 1:
		if n != nil {
			code = fakeExists
			break
		}
		f.zxid++
		f.nodes[path] = &fakeNode{data: []byte(next()), mzxid: f.zxid}
		f.fireLocked(path, 1)
		body = str(body, path)
	case 3, 4, 12:
		watch := b[0] != 0
		if n == nil {
			code = fakeNoNode
			if watch && op == 3 {
				c.watches[path] = true
			}
			break
		}
		if watch {
			c.watches[path] = true
		}
		switch op {
		case 4:
			body = str(body, n.data)
		case 12:
			body = be32(body, 0)
		}
		body = stat(body)
	case 5:
		data := next()
		version := int32(binary.BigEndian.Uint32(b))
		switch {
		case n == nil:
			code = fakeNoNode
		case version != -1 && version != n.version:
			code = fakeBadVersion
		default:
			f.zxid++
			n.data, n.mzxid, n.version = []byte(data), f.zxid, n.version+1
			f.fireLocked(path, 3)
			body = stat(body)
		}
	case 9:
		body = str(body, path)
	case 100:
		if f.noes {
			code = fakeAuthFailed
			defer time.AfterFunc(time.Millisecond, func() { c.Close() })
		}
	case -11:
		delete(f.sessions, c.session)
	}
	return append(be32(be64(be32(nil, xid), f.zxid), code), body...)
}

// client opens one with a session timeout of 12 s, so that a server has 2 s to answer.
func (f *fake) client(t *testing.T, change ...func(*Config)) *Client {
	t.Helper()
	c := Config{Servers: []string{"a:1", "b:1", "c:1"}, SessionTimeout: 12 * time.Second, Dial: f.dial}
	for _, x := range change {
		x(&c)
	}
	z, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return z
}
