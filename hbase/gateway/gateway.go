// Package gateway is a small HBase in one process: the Thrift2 gateway's service on a real TCP socket, over Pebble, with
// HBase's semantics and its error texts. It lets one binary run a job on a laptop, and gives tests a server that they can
// break on purpose.
//
//	store    the tables and rows, in a folder or in memory; the "HBase" behind the gateways
//	server   one gateway: an address, the connections to it, its open scanners and its faults; several may share a store
//	fault    something a test does to one server: refuse, delay, hang, cut a reply after applying, ...; each is counted
//	cell     a put or a tombstone of one column at one timestamp; a row's value in the store is the list of its cells
//
// It behaves as HBase 2.6 does with a table that is never compacted: tombstones stay, and hide older puts that arrive after
// them; versions beyond a family's maximum are hidden and not dropped. Where it cannot do what a call asks (filters other
// than KeyOnlyFilter and FirstKeyOnlyFilter, coprocessors, scans of hbase:meta) it answers with an error that says so.
//
// Do not use it to keep data that matters: it has no replicas, no repair tools and one region server that does not exist.
// Nor to measure HBase: it is faster.
package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"drover/hbase"
)

// Options says where a Server listens and what is behind it.
type Options struct {
	// Listen is a TCP address; "" is 127.0.0.1 with a free port. Listener, if set, takes its place; Close closes it.
	Listen   string
	Listener net.Listener

	// Dir is the folder of a store of its own, made if missing. "" keeps all in memory, unless Store is set.
	Dir string

	// Store is shared with other Servers, and stays open when this one is closed. Dir and Fsync are then without meaning.
	Store *Store

	// Backend carries the calls out in place of a store. Dir, Store, Fsync and Old are then without meaning.
	Backend Backend

	// Fsync makes a put that is acknowledged survive the machine too. Without it, the default, it survives the end of the
	// process at any instant (its log is written and not fsynced), which is what a laptop and a test need, many times faster.
	// Puts with SKIP_WAL and ASYNC_WAL wait for neither.
	Fsync bool

	// Transport is how clients speak. TLS, if set, is the server's configuration, with its certificate. MaxFrame bounds
	// framed requests, 2 MiB for 0.
	Transport hbase.Transport

	// Old makes it a gateway of HBase 1.x: it does not know the methods that came with 2.0, which are those about tables and
	// namespaces, and what it is itself.
	Old bool

	// Log gets what goes wrong with connections; nil drops it.
	Log *slog.Logger
}

// Server is one gateway. It is made by Open.
type Server struct {
	store    *Store  // nil with a backend
	backend  Backend // nil with a store
	owned    bool
	faults   *Faults
	log      *slog.Logger
	trans    hbase.Transport
	old      bool
	listener net.Listener
	done     chan struct{} // closed by Close
	work     sync.WaitGroup

	closeOnce sync.Once
	closeErr  error

	mu       sync.Mutex
	conns    map[*trackedConn]struct{}
	ended    bool
	scanners map[int32]*scanner
	nextScan int32
}

// Open opens the store, listens, and serves until Close.
func Open(o Options) (*Server, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	s := &Server{
		store: o.Store, backend: o.Backend, listener: o.Listener, log: o.Log, trans: o.Transport, old: o.Old, done: make(chan struct{}),
		conns: map[*trackedConn]struct{}{}, scanners: map[int32]*scanner{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.trans.MaxFrame == 0 {
		s.trans.MaxFrame = 2 << 20
	}
	s.faults = newFaults(s)
	if s.store == nil && s.backend == nil {
		store, err := openStore(StoreOptions{Dir: o.Dir, Fsync: o.Fsync, Log: s.log})
		if err != nil {
			return nil, err
		}
		s.store, s.owned = store, true
	}
	if s.listener == nil {
		var err error
		if s.listener, err = net.Listen("tcp", o.Listen); err != nil {
			err = fmt.Errorf("listen for Thrift clients on %s: %w", o.Listen, err)
			if s.owned {
				err = errors.Join(err, s.store.Close())
			}
			return nil, err
		}
	}
	s.work.Go(s.serve)
	return s, nil
}

// Addr is the address that clients connect to.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Faults is what tests do to this Server.
func (s *Server) Faults() *Faults { return s.faults }

// Store is the store behind this Server; nil with a backend.
func (s *Server) Store() *Store { return s.store }

// Close ends the connections in the middle of what they do, waits until they have ended, and closes a store of its own. A call
// that is being applied is applied or not, and not answered. It is idempotent.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		close(s.done)
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.listener.Close()
		s.drop()
		s.work.Wait()
		if s.owned {
			s.closeErr = s.store.Close()
		}
	})
	return s.closeErr
}

// drop closes the open connections and tells how many there were.
func (s *Server) drop() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		reset(c.Conn)
	}
	return len(s.conns)
}

// reset closes a connection with RST where it can, as a killed process does while it has unread input.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

func (s *Server) serve() {
	var listener net.Listener = &tracked{s.listener, s}
	if s.trans.HTTP {
		s.serveHTTP(listener)
		return
	}
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		s.work.Go(func() { s.converse(c) })
	}
}

// tracked is the listener as the server sees it: refused connections never show, the others are known to drop.
type tracked struct {
	net.Listener
	s *Server
}

func (l *tracked) Accept() (net.Conn, error) {
	for wait := time.Millisecond; ; {
		c, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil, err
			}
			l.s.log.Error("accept a connection", "error", err) // out of file descriptors: it passes
			if pause(l.s.done, wait) != nil {
				return nil, net.ErrClosed
			}
			wait = min(2*wait, time.Second)
			continue
		}
		if !l.s.faults.accept() {
			c.Close()
			continue
		}
		t := &trackedConn{Conn: c, s: l.s}
		l.s.mu.Lock()
		ended := l.s.ended
		if !ended {
			l.s.conns[t] = struct{}{}
		}
		l.s.mu.Unlock()
		if ended {
			c.Close()
			return nil, net.ErrClosed
		}
		if l.s.trans.TLS != nil {
			return tls.Server(t, l.s.trans.TLS), nil
		}
		return t, nil
	}
}

// trackedConn is known to its server until its owner closes it; drop only breaks what is below.
type trackedConn struct {
	net.Conn
	s *Server
}

func (c *trackedConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}
