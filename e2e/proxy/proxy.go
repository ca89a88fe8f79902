// Package proxy is a TCP proxy that harms what passes: it slows, delays, holds, cuts, resets and garbles, and counts what it
// did, so that a test can tell that its fault took place. Rates hold for all connections of one proxy together, as a slow
// server's would. It moves bytes, and knows of Thrift only how a call starts: to count rows, and to bound them. Use a server's own signals (stop, kill) where the server is at fault, and this where the way to it is.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// chunk is the most that moves at once, in bytes, and so the burst of a throttle.
const chunk = 16 << 10

// Direction is one of the two ways through a proxy.
type Direction int

// The directions.
const (
	Up   Direction = iota // from client to server
	Down                  // from server to client
)

// Counts is what a proxy did since it started.
type Counts struct {
	Connections int64    // accepted and passed on
	Bytes       [2]int64 // by Direction
	Refused     int64    // connections closed at once by Refuse, or because the server took none
	Resets      int64    // connections reset by Reset
	Cuts        int64    // connections cut by CutAfter

	Calls        int64 // begun by clients, whatever became of them
	Puts         int64 // of these, putMultiple
	Acknowledged int64 // of these, answered without an error, and the answer passed on whole
	Rows         int64 // in those
	HeldCalls    int64 // that HoldCalls held
	Garbled      int64 // pieces of answers
	Truncated    int64 // answers
}

// Proxy passes connections on to one server. Its methods may be called from several goroutines at once, and a change holds
// for bytes that have not passed yet, on old and new connections.
type Proxy struct {
	listener net.Listener
	target   string
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	limits   [2]*rate.Limiter
	wg       sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]struct{}
	held   chan struct{} // closed by Release; nil while bytes flow
	refuse bool
	delay  time.Duration
	cut    [2]int64 // bytes until a cut; negative when none is wanted
	counts Counts

	rowRate      int // rows a second; 0 is no bound
	heldMethod   string
	heldCalls    chan struct{} // closed when heldMethod changes
	garble       bool
	truncate     int // bytes of each answer that pass; 0 is all
	acknowledged func(Call)
	began        func(port int, c Call)

	turn chan struct{} // holds one: the call that a row throttle works on
	free time.Time     // when it is done with it; of whoever has the turn
}

// link is one client's connection with its connection to the server.
type link struct {
	client, server *net.TCPConn
	ctx            context.Context
	cancel         context.CancelFunc

	mu      sync.Mutex
	calling bool // bytes went up since the last that came down
	call    Call // the last one begun
	passed  int  // bytes of the answer so far
}

// Start listens on a free port of this host and passes to target. The caller closes the proxy.
func Start(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start proxy to %s: %w", target, err)
	}
	p := &Proxy{
		listener: l,
		target:   target,
		limits:   [2]*rate.Limiter{rate.NewLimiter(rate.Inf, chunk), rate.NewLimiter(rate.Inf, chunk)},
		links:    map[*link]struct{}{},
		cut:      [2]int64{-1, -1},
		turn:     make(chan struct{}, 1),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where clients connect, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends every connection and waits for all that the proxy started. Calling it again does nothing.
func (p *Proxy) Close() error {
	p.cancel()
	err := p.listener.Close()
	p.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close proxy on %s: %w", p.Addr(), err)
	}
	return nil
}

// Throttle bounds a direction to bytes a second over all connections together. 0 lifts the bound.
func (p *Proxy) Throttle(d Direction, bytesPerSecond int) {
	limit := rate.Inf
	if bytesPerSecond > 0 {
		limit = rate.Limit(bytesPerSecond)
	}
	p.limits[d].SetLimit(limit)
}

// Delay makes bytes of both directions arrive this much later. It does not bound how many do.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Hold lets nothing pass until Release, and loses nothing. Connections stay open and new ones are accepted, as with a
// server that hangs.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// Release ends a Hold.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// Refuse makes the proxy reset new connections at once, or take them again.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Reset resets every connection there is now, and tells how many.
func (p *Proxy) Reset() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
	p.counts.Resets += int64(len(p.links))
	return len(p.links)
}

// CutAfter resets the connection that carries byte n from now in this direction, counted over all connections, when that
// many have passed. One cut, then things are as before. A reply cut in its middle leaves its client not knowing what the
// server did.
func (p *Proxy) CutAfter(d Direction, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut[d] = n
}

// Counts tells what was done so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed, for a listener on the loopback has no other reason
		}
		p.wg.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

func (p *Proxy) serve(client *net.TCPConn) {
	defer client.Close()
	p.mu.Lock()
	refuse, target := p.refuse, p.target
	p.mu.Unlock()
	var server net.Conn
	var err error
	if !refuse {
		var d net.Dialer
		server, err = d.DialContext(p.ctx, "tcp", target)
	}
	if refuse || err != nil {
		p.mu.Lock()
		p.counts.Refused++
		p.mu.Unlock()
		client.SetLinger(0)
		return
	}
	defer server.Close()
	l := &link{client: client, server: server.(*net.TCPConn)}
	l.ctx, l.cancel = context.WithCancel(p.ctx)
	// Reads and writes end when the link does, whoever ends it.
	stop := context.AfterFunc(l.ctx, func() {
		client.Close()
		server.Close()
	})
	defer stop()
	defer l.cancel()
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.counts.Connections++
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(l, Up, l.server, l.client) })
	wg.Go(func() { p.pump(l, Down, l.client, l.server) })
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// reset makes both ends see a reset connection instead of an end.
func (l *link) reset() {
	l.client.SetLinger(0)
	l.server.SetLinger(0)
	l.cancel()
}

// piece is bytes on their way.
type piece struct {
	data []byte
	due  time.Time
}

// pump moves one direction of a link until its source ends, which it passes on, or the link does.
func (p *Proxy) pump(l *link, d Direction, dst, src *net.TCPConn) {
	// Reading goes on while earlier bytes wait for their time, or a delay would bound the rate.
	way := make(chan piece, 64)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(way)
		for {
			buf := make([]byte, chunk)
			n, err := src.Read(buf)
			if n > 0 {
				p.mu.Lock()
				due := time.Now().Add(p.delay)
				p.mu.Unlock()
				select {
				case way <- piece{buf[:n], due}:
				case <-l.ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					l.cancel()
				}
				return
			}
		}
	})
	for x := range way {
		if !p.pass(l, d, dst, x) {
			l.cancel()
			return
		}
	}
	dst.CloseWrite() // fails only when the link is gone
}

// pass writes one piece when it may, and tells whether the link goes on.
func (p *Proxy) pass(l *link, d Direction, dst *net.TCPConn, x piece) bool {
	if wait := time.Until(x.due); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-l.ctx.Done():
			return false
		}
	}
	if p.limits[d].WaitN(l.ctx, len(x.data)) != nil || d == Up && !p.begin(l, x.data) {
		return false
	}
	p.mu.Lock()
	for p.held != nil {
		held := p.held
		p.mu.Unlock()
		select {
		case <-held:
		case <-l.ctx.Done():
			return false
		}
		p.mu.Lock()
	}
	n, cut := len(x.data), false
	if left := p.cut[d]; left >= 0 {
		if left <= int64(n) {
			n, cut = int(left), true
			p.cut[d] = -1
			p.counts.Cuts++
		} else {
			p.cut[d] -= int64(n)
		}
	}
	p.counts.Bytes[d] += int64(n)
	p.mu.Unlock()
	data, end := x.data[:n], false
	if d == Down {
		data, end = p.answer(l, data)
	}
	if _, err := dst.Write(data); err != nil || end {
		return false
	}
	if cut {
		l.reset()
		return false
	}
	return true
}
