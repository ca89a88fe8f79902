// Package zookeeper keeps one session with a ZooKeeper ensemble and makes it safe to stand on: calls that end, requests that
// never cross from a session into the next one, watches that cannot be missed, and no storm when servers come back.
//
// A session is what the ensemble knows a client by. It outlives connections and holds the client's ephemeral nodes; it ends
// when the ensemble has not heard of the client for its timeout, which only the ensemble can say. A client is Connected, or
// Suspended: the connection broke and the session may live; or Lost: that session is over, and a new one is being built. A
// link, inside, is the library's connection for one session; it dies with the session and what was queued in it is never sent.
//
// There is to be one Client for each ensemble and process. It is not for locks and queues, which ZooKeeper clients often
// bring: here one fixed path, its version and its owner decide. Nor for data that changes often or exceeds some kilobytes.
package zookeeper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

// Config says which ensemble and how.
type Config struct {
	Servers []string // host:port; names are resolved again whenever servers are tried in a new order
	Local   []string // those of Servers that are tried first: the own data centre. Empty: none is preferred

	// SessionTimeout is what to ask for; the ensemble puts it between 2 and 20 of its ticks. Calls end after it, too. 0 is 10 s:
	// a server that hangs is noticed after two thirds of it.
	SessionTimeout time.Duration

	Auth []Auth      // sent on each connection before anything else
	ACL  []ACL       // of created nodes. Empty: everybody may do everything or, with Auth, read, and only the creator may write
	TLS  *tls.Config // nil is plain. Without a ServerName the host's name from Servers is checked
	Log  *slog.Logger

	// Dial replaces net.Dialer; TLS comes on top of what it returns. Names are then its to resolve.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Auth is who the client is: for the scheme "digest" the credential is "user:password".
type Auth struct{ Scheme, Credential string }

// ACL gives somebody permissions on a node.
type ACL = zk.ACL

func (c Config) withDefaults() Config {
	if c.SessionTimeout == 0 {
		c.SessionTimeout = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if len(c.ACL) == 0 {
		c.ACL = zk.WorldACL(zk.PermAll)
		if len(c.Auth) > 0 {
			c.ACL = append(zk.AuthACL(zk.PermAll), zk.WorldACL(zk.PermRead)...)
		}
	}
	return c
}

// minSession leaves a millisecond for every part that a session timeout is divided into.
const minSession = 100 * time.Millisecond

func (c Config) validate() error {
	var faults []error
	if len(c.Servers) == 0 {
		faults = append(faults, errors.New("no server is named: give at least one host:port"))
	}
	for _, s := range c.Servers {
		host, port, err := net.SplitHostPort(s)
		if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			faults = append(faults, fmt.Errorf("server %q is not host:port", s))
		}
	}
	for _, s := range c.Local {
		if !slices.Contains(c.Servers, s) {
			faults = append(faults, fmt.Errorf("local server %q is not among the servers %q", s, c.Servers))
		}
	}
	if c.SessionTimeout != 0 && c.SessionTimeout < minSession {
		faults = append(faults, fmt.Errorf("session timeout %v: the least is %v", c.SessionTimeout, minSession))
	}
	for i, a := range c.Auth {
		if a.Scheme == "" || a.Credential == "" {
			faults = append(faults, fmt.Errorf(`auth %d has no scheme or no credential: for the scheme "digest" it is "user:password"`, i+1))
		}
	}
	return errors.Join(faults...)
}

// State is how it stands with the session.
type State int

const (
	Connecting State = iota // there was no session yet
	Connected
	Suspended // the connection broke, and the session may live
	Lost      // the session expired or was given up, and a new one is being built
)

func (s State) String() string {
	return [...]string{"connecting", "connected", "suspended", "lost"}[s]
}

// Session is who this client is to the ensemble. The zero value is no session.
type Session struct {
	ID      int64         // what Stat.EphemeralOwner names
	N       int           // of this client's sessions: 1, 2, …
	Timeout time.Duration // as negotiated
}

// maxCalls bounds the calls of one link that are under way, those included that nobody waits for any more.
const maxCalls = 512

// Client holds the session. Its methods may be called from several goroutines at once.
type Client struct {
	config Config
	log    *slog.Logger
	ctx    context.Context // until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything that runs
	ended  chan struct{}  // closed when Close is through

	// mu is held for moments only, never while something is sent, awaited or called: the library's goroutines need it.
	mu        sync.Mutex
	closed    bool
	state     State
	changed   chan struct{} // closed, and replaced, with each change of state
	link      *link
	last      Session // the newest
	cause     error   // of the last failed connection, for those who wait
	listeners []*listener
	notes     []note
	noted     chan struct{} // holds one when there are notes

	ops // bound to no session
	watches
}

// link is the library's connection for one session.
type link struct {
	c      *Client
	conn   *zk.Conn
	events <-chan zk.Event // nobody reads it while the link lives; closed when the library's goroutines have ended
	built  chan struct{}   // closed once conn is set
	ctx    context.Context // of dials
	cancel context.CancelFunc
	hosts  *hosts
	over   chan struct{} // closed when the link is dead: it never connects again, and sends nothing
	calls  chan struct{} // one for each call under way
	opened struct {      // of the last handshake; the library's loop alone uses it
		session int64
		timeout time.Duration
	}

	// Guarded by Client.mu.
	dead      bool
	wire      *wire
	session   Session
	connected bool // a handshake succeeded, and the connection has not broken since
	attempt   int  // counts the handshakes that succeeded
	authed    int  // how many of Config.Auth the library has, which sends them again by itself
	authing   bool
	giveUp    *time.Timer
	armed     map[arm]int64 // the library's watches that have not fired → the change seen when each was set
}

// Open starts a client, which connects in the background and goes on trying until it is closed. The only errors are faults
// in the configuration, all of them.
func Open(c Config) (*Client, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("open ZooKeeper client: %w", err)
	}
	c = c.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	z := &Client{
		config: c, log: c.Log, ctx: ctx, cancel: cancel, ended: make(chan struct{}),
		changed: make(chan struct{}), noted: make(chan struct{}, 1), watches: watches{spots: map[spotKey]*spot{}},
	}
	z.ops = ops{c: z}
	l, err := z.build(true)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open ZooKeeper client: %w", err)
	}
	z.link = l
	close(l.built)
	z.wg.Go(func() { z.run(l) })
	z.wg.Go(z.notify)
	return z, nil
}

// Close ends the session, so that its ephemeral nodes go at once if a server can be told within a second, and waits for
// everything that the client started. Calls under way end with ErrClosed. Calling it again waits as well and does nothing.
// It must not be called from a func given to the client.
func (c *Client) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	if first {
		c.broadcastLocked()
		for _, s := range c.spots {
			s.timer.Stop()
		}
		if c.refresh != nil {
			c.refresh.Stop()
		}
	}
	c.mu.Unlock()
	if first {
		c.cancel()
		c.wg.Wait()
		close(c.ended)
	}
	<-c.ended
	return nil
}

// run replaces links as they end.
func (c *Client) run(l *link) {
	for {
		select {
		case <-c.ctx.Done():
			c.bury(l)
			return
		case <-l.over:
		}
		c.wg.Go(l.end)
		next, err := c.build(false)
		if err != nil {
			// Not seen yet: the library refuses only what validate has refused.
			c.log.Error("ZooKeeper: no new session can be built", "err", err)
			return
		}
		c.mu.Lock()
		c.link = next
		c.mu.Unlock()
		close(next.built)
		l = next
	}
}

// bury ends the last link, telling the server if one can be told.
func (c *Client) bury(l *link) {
	c.mu.Lock()
	connected := l.connected && !l.dead
	if l.giveUp != nil {
		l.giveUp.Stop()
	}
	c.mu.Unlock()
	if connected {
		l.conn.Close() // waits a second for the answer
	}
	c.mu.Lock()
	l.killLocked()
	c.mu.Unlock()
	l.end()
}

// build starts the library on a new link. It does not connect before built is closed.
func (c *Client) build(first bool) (*link, error) {
	l := &link{
		c: c, built: make(chan struct{}), over: make(chan struct{}),
		calls: make(chan struct{}, maxCalls), armed: map[arm]int64{},
	}
	l.ctx, l.cancel = context.WithCancel(c.ctx)
	l.hosts = &hosts{
		local: c.config.Local, timeout: c.config.SessionTimeout, ctx: l.ctx, first: first, known: map[string][]string{},
		resolve: net.DefaultResolver.LookupHost,
		ended:   func() bool { return l.ctx.Err() != nil },
	}
	if c.config.Dial != nil {
		l.hosts.resolve = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	}
	for _, s := range c.config.Servers {
		if !slices.Contains(c.config.Local, s) {
			l.hosts.others = append(l.hosts.others, s)
		}
	}
	conn, events, err := zk.Connect(c.config.Servers, c.config.SessionTimeout,
		zk.WithHostProvider(l.hosts), zk.WithDialer(l.dial), zk.WithEventCallback(l.event),
		zk.WithLogger(libraryLog{c.log}), zk.WithMaxBufferSize(maxReply), zk.WithMaxConnBufferSize(maxRequest+1<<10))
	if err != nil {
		l.cancel()
		return nil, err
	}
	l.conn, l.events = conn, events
	return l, nil
}

// libraryLog takes what the library prints, which says in its own words what the client logs anyway.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("ZooKeeper: " + fmt.Sprintf(format, args...))
	}
}

// dial connects to addr, for the library, after the pause that keeps many clients from coming at once.
func (l *link) dial(network, addr string, _ time.Duration) (net.Conn, error) {
	select {
	case <-l.built:
	case <-l.ctx.Done():
		return nil, l.ctx.Err()
	}
	wait, name := l.hosts.next()
	select {
	case <-time.After(wait):
	case <-l.ctx.Done():
		return nil, l.ctx.Err()
	}
	w, err := l.connect(network, addr, name)
	if err != nil {
		l.c.failed(l, err)
		return nil, err
	}
	return w, nil
}

// patience is how long a server has to answer at each step of a connection. Two thirds of the session timeout may be gone
// before a broken connection is noticed: the third that is left is for two servers.
func (l *link) patience() time.Duration { return l.hosts.timeout / 6 }

func (l *link) connect(network, addr, name string) (*wire, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.patience())
	defer cancel()
	dial := l.c.config.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	bare, err := dial(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("connect to ZooKeeper at %s: %w", addr, err)
	}
	w := &wire{Conn: bare, bare: bare}
	if t := l.c.config.TLS; t != nil {
		t = t.Clone()
		if t.ServerName == "" {
			t.ServerName, _, _ = net.SplitHostPort(name)
		}
		secure := tls.Client(bare, t)
		if err := secure.HandshakeContext(ctx); err != nil {
			bare.Close()
			return nil, fmt.Errorf("connect to ZooKeeper at %s (%s) by TLS: %w", addr, name, err)
		}
		w.Conn = secure
	}
	w.until = time.Now().Add(l.patience())
	w.took = func(session int64, timeout time.Duration) {
		l.opened.session, l.opened.timeout = session, timeout
		if session != 0 {
			l.hosts.timeout = timeout
		}
	}
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.dead || l.ctx.Err() != nil {
		bare.Close()
		return nil, fmt.Errorf("connect to ZooKeeper at %s: %w", addr, context.Canceled)
	}
	l.wire = w
	return w, nil
}

// event takes what the library tells, on its own goroutines, which wait meanwhile.
func (l *link) event(e zk.Event) {
	switch {
	case e.Type != zk.EventSession:
		l.c.fired(l, e.Type, e.Path)
	case e.State == zk.StateHasSession:
		l.c.opened(l)
	case e.State == zk.StateExpired:
		l.c.lose(l, "expired")
	case e.State == zk.StateDisconnected:
		l.c.disconnected(l)
	}
}

func (c *Client) failed(l *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l && !l.dead {
		c.cause = err
	}
}

// opened takes a handshake that succeeded.
func (c *Client) opened(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.dead || c.closed {
		return
	}
	if l.session.N == 0 {
		l.session = Session{ID: l.opened.session, N: c.last.N + 1, Timeout: l.opened.timeout}
		c.last = l.session
	}
	l.connected = true
	l.attempt++
	if l.authed == len(c.config.Auth) {
		c.readyLocked(l)
	} else if !l.authing {
		l.authing = true
		c.wg.Go(func() { c.auth(l) })
	}
}

// auth hands the library those credentials that it does not have yet, in which the link is not ready before. When the
// connection breaks, the next one goes on with them.
func (c *Client) auth(l *link) {
	for {
		c.mu.Lock()
		done := l.authed == len(c.config.Auth)
		if done || !l.connected || l.dead || c.closed {
			l.authing = false
			if done && l.connected {
				c.readyLocked(l)
			}
			c.mu.Unlock()
			return
		}
		a, attempt := c.config.Auth[l.authed], l.attempt
		c.mu.Unlock()

		err := l.conn.AddAuth(a.Scheme, []byte(a.Credential))

		c.mu.Lock()
		if err == nil {
			l.authed++
		} else if attempt == l.attempt {
			// The server closes the connection after a refusal; the next handshake comes here again.
			if errors.Is(err, zk.ErrAuthFailed) {
				c.cause = fmt.Errorf("authenticate with scheme %s: %w: check the credentials that ZooKeeper is given", a.Scheme, ErrNoAuth)
				c.log.Error("ZooKeeper refuses the credentials", "scheme", a.Scheme)
			}
			l.connected = false
		}
		c.mu.Unlock()
	}
}

func (c *Client) readyLocked(l *link) {
	if l != c.link || l.dead || c.closed {
		return
	}
	l.hosts.settled()
	if l.giveUp != nil {
		l.giveUp.Stop()
		l.giveUp = nil
	}
	c.cause = nil
	c.log.Info("ZooKeeper connected", "server", l.wire.RemoteAddr(), "session", fmt.Sprintf("%#x", l.session.ID), "timeout", l.session.Timeout)
	c.setLocked(Connected, l.session)
	c.reconnectedLocked()
}

func (c *Client) disconnected(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.connected = false
	if l != c.link || l.dead || c.closed || l.session.N == 0 {
		return
	}
	if c.state == Connected {
		c.log.Warn("ZooKeeper connection broke", "server", l.wire.RemoteAddr(), "session", fmt.Sprintf("%#x", l.session.ID))
		c.setLocked(Suspended, l.session)
	}
	if l.giveUp == nil {
		// Servers that were put back to an older state refuse this link for good and never say that its session is over.
		l.giveUp = time.AfterFunc(3*l.session.Timeout, func() { c.lose(l, "given up after three session timeouts without a connection") })
	}
}

// lose ends a link for good.
func (c *Client) lose(l *link, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.dead || c.closed {
		return
	}
	l.killLocked()
	if l.session.N != 0 {
		c.log.Warn("ZooKeeper session lost", "session", fmt.Sprintf("%#x", l.session.ID), "why", why)
		if c.state != Connecting {
			c.setLocked(Lost, l.session)
		}
	}
}

// killLocked makes sure that nothing is sent on the link any more.
func (l *link) killLocked() {
	if l.dead {
		return
	}
	l.dead, l.connected = true, false
	l.cancel()
	if l.wire != nil {
		l.wire.abort()
	}
	if l.giveUp != nil {
		l.giveUp.Stop()
	}
	close(l.over)
}

// end waits for the library's goroutines of a dead link: three seconds at most.
func (l *link) end() {
	l.conn.Close()
	for range l.events { //nolint:revive // until it is closed
	}
}

func (c *Client) setLocked(s State, session Session) {
	if s == c.state {
		return
	}
	c.state = s
	c.broadcastLocked()
	for _, f := range c.listeners {
		c.notes = append(c.notes, note{f, s, session})
	}
	c.wake()
}

func (c *Client) broadcastLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// State tells how it stands now.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Session gives the present session; when Lost the one that was lost last, and before the first the zero value.
func (c *Client) Session() Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Wait waits until the client is connected. When ctx ends first, the error says what stood in the way.
func (c *Client) Wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		state, closed, changed := c.state, c.closed, c.changed
		c.mu.Unlock()
		if closed {
			return fmt.Errorf("wait for ZooKeeper: %w", ErrClosed)
		}
		if state == Connected {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for ZooKeeper at %v: %w", c.config.Servers, c.notConnected(ctx))
		}
	}
}

// notConnected is the error of who waited for a connection until ctx ended.
func (c *Client) notConnected(ctx context.Context) error {
	c.mu.Lock()
	cause := c.cause
	c.mu.Unlock()
	if cause == nil {
		return fmt.Errorf("%w: %w", ErrNotConnected, context.Cause(ctx))
	}
	return fmt.Errorf("%w: %w, after: %w", ErrNotConnected, context.Cause(ctx), cause)
}

// note is a state that a listener is yet to be told.
type note struct {
	to      *listener
	state   State
	session Session
}

type listener struct {
	mu    sync.Mutex // held while f runs
	f     func(State, Session)
	ended bool
}

// OnState calls f with the present state and then with each new one, in order and with the session that it is about, from
// the one goroutine that all listeners share. f is not called after stop has returned, so f must not call stop.
func (c *Client) OnState(f func(State, Session)) (stop func()) {
	l := &listener{f: f}
	c.mu.Lock()
	c.listeners = append(c.listeners, l)
	c.notes = append(c.notes, note{l, c.state, c.last})
	c.mu.Unlock()
	c.wake()
	return func() {
		c.mu.Lock()
		c.listeners = slices.DeleteFunc(c.listeners, func(x *listener) bool { return x == l })
		c.mu.Unlock()
		l.mu.Lock()
		l.ended = true
		l.mu.Unlock()
	}
}

func (c *Client) wake() {
	select {
	case c.noted <- struct{}{}:
	default:
	}
}

func (c *Client) notify() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.noted:
		}
		c.mu.Lock()
		notes := c.notes
		c.notes = nil
		c.mu.Unlock()
		for _, n := range notes {
			n.to.mu.Lock()
			if !n.to.ended && c.ctx.Err() == nil {
				n.to.f(n.state, n.session)
			}
			n.to.mu.Unlock()
		}
	}
}
