package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drover/e2e/stack"
	"drover/zookeeper"
)

// What package zookeeper promises, on ZooKeeper's own servers.

// ensemble starts a ZooKeeper for one test, of n servers with ticks of 500 ms: sessions are between 1 and 10 s.
func ensemble(t *testing.T, n int) *stack.Ensemble {
	t.Helper()
	if testing.Short() {
		t.Skip("starting ZooKeeper takes seconds: not with -short")
	}
	e, err := stack.StartEnsemble(t.Context(), stack.EnsembleOptions{Servers: n})
	if errors.Is(err, stack.ErrNoTools) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return e
}

// session is a client that counts what happens to its session.
type session struct {
	*zookeeper.Client
	suspended, lost atomic.Int64
}

func open(t *testing.T, e *stack.Ensemble, c zookeeper.Config) *session {
	t.Helper()
	c.Servers = e.Addrs()
	z, err := zookeeper.Open(c)
	must(t, err)
	s := &session{Client: z}
	t.Cleanup(func() { must(t, z.Close()) })
	z.OnState(func(state zookeeper.State, _ zookeeper.Session) {
		switch state {
		case zookeeper.Suspended:
			s.suspended.Add(1)
		case zookeeper.Lost:
			s.lost.Add(1)
		}
	})
	return s
}

// soon waits until f is nil, and fails with what it last said.
func soon(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	end := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Sessions outlive whatever happens to a minority of the servers, one after the other, and a short end of all of them.
func TestZooKeeperSessionsOutliveServers(t *testing.T) {
	e := ensemble(t, 3)
	n := scaled(100, 40)
	clients := make([]*session, n)
	for i := range clients {
		clients[i] = open(t, e, zookeeper.Config{SessionTimeout: 8 * time.Second})
	}
	path := func(i int) string { return fmt.Sprintf("/sessions/%d", i) }
	must(t, clients[0].CreateAll(t.Context(), "/sessions"))
	for i, c := range clients {
		must(t, c.Create(t.Context(), path(i), nil, zookeeper.Ephemeral))
	}
	// Changes that a watcher must not miss, whatever happens in between.
	must(t, clients[0].CreateAll(t.Context(), "/changes"))
	told := make([]atomic.Value, n)
	for i, c := range clients {
		stop := c.WatchNode(t.Context(), "/changes", func(n zookeeper.Node) { told[i].Store(string(n.Data)) })
		t.Cleanup(stop)
	}
	// all sees that every client can write, in the session that it began with.
	all := func(t *testing.T) {
		t.Helper()
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				for {
					_, err := c.Set(ctx, path(i), []byte("here"), zookeeper.AnyVersion)
					if err == nil {
						break
					}
					if ctx.Err() != nil || errors.Is(err, zookeeper.ErrNoNode) {
						t.Errorf("client %d: %v", i, err)
						return
					}
				}
				must(t, c.Sync(ctx, path(i)))
				exists, stat, err := c.Exists(ctx, path(i))
				if err != nil || !exists || stat.EphemeralOwner != c.Session().ID || c.Session().N != 1 {
					t.Errorf("client %d: its node exists %v of %#x, %v; it is in its session %+v", i, exists, stat.EphemeralOwner, err, c.Session())
				}
			})
		}
		wg.Wait()
	}
	all(t)

	step := func(name string, least int, strike func(t *testing.T)) {
		if t.Failed() {
			return
		}
		t.Run(name, func(t *testing.T) {
			before := make([]int64, n)
			for i, c := range clients {
				before[i] = c.suspended.Load()
			}
			began := time.Now()
			strike(t)
			all(t)
			took := time.Since(began)
			suspended, lost := 0, int64(0)
			for i, c := range clients {
				if c.suspended.Load() > before[i] {
					suspended++
				}
				lost += c.lost.Load()
			}
			if lost != 0 {
				t.Errorf("%d of %d sessions are lost", lost, n)
			}
			if suspended < least {
				t.Errorf("only %d of %d clients noticed: the fault did not happen", suspended, n)
			}
			for {
				if _, err := clients[0].Set(t.Context(), "/changes", []byte(name), zookeeper.AnyVersion); err == nil {
					break
				}
			}
			soon(t, 10*time.Second, func() error {
				for i := range told {
					if s, _ := told[i].Load().(string); s != name {
						return fmt.Errorf("watcher %d stands at %q", i, s)
					}
				}
				return nil
			})
			t.Logf("%d of %d clients were suspended, none lost, all back after %.1f s", suspended, n, took.Seconds())
			must(t, e.Restart(t.Context()))
			soon(t, 20*time.Second, func() error { _, err := e.Leader(t.Context()); return err })
		})
	}
	step("leader stopped", 1, func(t *testing.T) {
		p, err := e.Leader(t.Context())
		must(t, err)
		must(t, p.Stop())
	})
	step("leader killed", 1, func(t *testing.T) {
		p, err := e.Leader(t.Context())
		must(t, err)
		must(t, p.Kill())
	})
	step("rolling restart", n/2, func(t *testing.T) {
		for _, p := range e.Servers {
			must(t, p.Kill())
			must(t, p.Restart(t.Context()))
		}
	})
	// The ensemble that comes back gives every session its whole timeout. A session that was without a connection for
	// three of its timeouts is given up nevertheless: short has one of 1 s.
	short := open(t, e, zookeeper.Config{SessionTimeout: time.Second})
	must(t, short.Create(t.Context(), "/short", nil, zookeeper.Ephemeral))
	bound := short.In(short.Session())
	step("full outage", n, func(t *testing.T) {
		for _, p := range e.Servers {
			must(t, p.Kill())
		}
		soon(t, 10*time.Second, func() error {
			if s := short.State(); s != zookeeper.Lost {
				return fmt.Errorf("the short session is %v", s)
			}
			return nil
		})
		if err := bound.Create(t.Context(), "/late", nil); !errors.Is(err, zookeeper.ErrSessionLost) || errors.Is(err, zookeeper.ErrUnknown) {
			t.Errorf("a write bound to a lost session: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, _, err := clients[0].Get(ctx, "/sessions"); !errors.Is(err, zookeeper.ErrNotConnected) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a read without servers: %v", err)
		}
		must(t, e.Restart(t.Context()))
		ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		must(t, short.Wait(ctx))
		if s := short.Session(); s.N != 2 || short.lost.Load() != 1 {
			t.Errorf("the short client is in session %+v after %d losses", s, short.lost.Load())
		}
	})
}

// network is a client's way to the servers, which can fail.
type network struct {
	mu    sync.Mutex
	fault fault
	conns []*faulty
	dials int
}

type fault int

const (
	whole fault = iota
	hole        // nothing can be sent any more
	cut         // connections break, and none can be made
)

func (n *network) set(f fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
	if f == cut {
		for _, c := range n.conns {
			c.Close()
		}
		n.conns = nil
	}
}

func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials++
	if n.fault != whole {
		return nil, errors.New("the network is down")
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	f := &faulty{Conn: c, n: n}
	n.conns = append(n.conns, f)
	return f, nil
}

type faulty struct {
	net.Conn
	n        *network
	deadline atomic.Int64 // of writing, in ns
}

func (f *faulty) SetWriteDeadline(t time.Time) error {
	f.deadline.Store(t.UnixNano())
	return f.Conn.SetWriteDeadline(t)
}

// Write fails at its deadline when it meets a hole, as with a server whose buffers are full.
func (f *faulty) Write(p []byte) (int, error) {
	f.n.mu.Lock()
	hole := f.n.fault == hole
	f.n.mu.Unlock()
	if hole {
		time.Sleep(time.Until(time.Unix(0, f.deadline.Load())))
		return 0, os.ErrDeadlineExceeded
	}
	return f.Conn.Write(p)
}

// Nothing that was asked for under a session takes effect under the next one, wherever it was waiting.
func TestZooKeeperExpiry(t *testing.T) {
	e := ensemble(t, 1)
	observer := open(t, e, zookeeper.Config{})
	must(t, observer.CreateAll(t.Context(), "/queued"))
	rounds, requests := scaled(20, 3), scaled(300, 100)
	refused, unknown := 0, 0
	for round := range rounds {
		way := &network{}
		c := open(t, e, zookeeper.Config{SessionTimeout: time.Second, Dial: way.dial})
		me := fmt.Sprintf("/me%d", round)
		must(t, c.Create(t.Context(), me, nil, zookeeper.Ephemeral))
		first := c.Session()
		bound := c.In(first)

		// Some are being sent, some wait in the library's queue, some in ours.
		way.set(hole)
		errs := make([]error, requests)
		var wg sync.WaitGroup
		for i := range errs {
			if i == requests/2 {
				soon(t, 10*time.Second, func() error {
					if c.suspended.Load() == 0 {
						return errors.New("the connection has not broken")
					}
					return nil
				})
			}
			wg.Go(func() {
				path := fmt.Sprintf("/queued/%d-%d", round, i)
				if i%2 == 0 {
					errs[i] = c.Create(t.Context(), path, nil)
				} else {
					_, errs[i] = bound.Multi(t.Context(), zookeeper.Check("/queued", 0), zookeeper.CreateOp(path, nil))
				}
			})
		}
		soon(t, 10*time.Second, func() error {
			exists, _, err := observer.Exists(t.Context(), me)
			if err == nil && exists {
				err = errors.New("the session has not expired")
			}
			return err
		})
		way.set(whole)
		wg.Wait()
		soon(t, 10*time.Second, func() error {
			if s := c.Session(); s.N != 2 || s.ID == first.ID || c.lost.Load() != 1 || c.State() != zookeeper.Connected {
				return fmt.Errorf("the session is %+v after %+v and %d losses", s, first, c.lost.Load())
			}
			return nil
		})
		for i, err := range errs {
			switch {
			case err == nil:
				t.Errorf("request %d of round %d succeeded", i, round)
			case errors.Is(err, zookeeper.ErrUnknown):
				unknown++
			case errors.Is(err, zookeeper.ErrSessionLost), errors.Is(err, zookeeper.ErrNotConnected):
				refused++
			default:
				t.Errorf("request %d of round %d: %v", i, round, err)
			}
		}
		if err := bound.Delete(t.Context(), "/queued", 0); !errors.Is(err, zookeeper.ErrSessionLost) {
			t.Errorf("a write bound to the lost session: %v", err)
		}
		must(t, c.Create(t.Context(), me, nil, zookeeper.Ephemeral))
	}
	must(t, observer.Sync(t.Context(), "/queued"))
	names, _, err := observer.Children(t.Context(), "/queued")
	must(t, err)
	if len(names) != 0 {
		t.Errorf("%d requests took effect after their session: %q", len(names), names)
	}
	if unknown == 0 || refused == 0 {
		t.Errorf("%d requests were under way when their session ended, and %d were not: there were to be both", unknown, refused)
	}
	t.Logf("%d sessions expired, over %d requests that were under way and %d that were not", rounds, unknown, refused)
}

func TestZooKeeperWatchesCoalesce(t *testing.T) {
	t.Parallel()
	e := ensemble(t, 1)
	writer := open(t, e, zookeeper.Config{})
	way := &network{}
	c := open(t, e, zookeeper.Config{Dial: way.dial})
	must(t, writer.CreateAll(t.Context(), "/a/list"))

	var running, most, nodeCalls, listCalls atomic.Int64
	release := make(chan struct{})
	first := make(chan struct{})
	nodes := make(chan zookeeper.Node, 1000)
	lists := make(chan zookeeper.Listing, 1000)
	var once sync.Once
	stopNode := c.WatchNode(t.Context(), "/a/node", func(n zookeeper.Node) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		nodeCalls.Add(1)
		once.Do(func() { close(first); <-release })
		nodes <- n
	})
	c.WatchChildren(t.Context(), "/a/list", func(l zookeeper.Listing) { listCalls.Add(1); lists <- l })
	<-first

	changes := scaled(2000, 300)
	must(t, writer.Create(t.Context(), "/a/node", nil))
	for i := range changes {
		_, err := writer.Set(t.Context(), "/a/node", []byte(fmt.Sprint(i)), int32(i))
		must(t, err)
	}
	close(release)
	if n := <-nodes; n.Exists || n.Err != nil {
		t.Errorf("before its creation the node is %+v", n)
	}
	last := fmt.Sprint(changes - 1)
	for n := range nodes {
		if string(n.Data) == last {
			break
		}
	}
	if calls := nodeCalls.Load(); calls > 4 || most.Load() != 1 {
		t.Errorf("%d calls for %d changes behind one slow call, %d at once", calls, changes, most.Load())
	}
	for i := range 20 {
		must(t, writer.Create(t.Context(), fmt.Sprintf("/a/list/%02d", i), nil))
	}
	for l := range lists {
		if len(l.Children) == 20 {
			if !slices.IsSorted(l.Children) {
				t.Errorf("children are not sorted: %q", l.Children)
			}
			break
		}
	}

	// What changes while the connection is away is told after it, and deletions are.
	way.set(cut)
	must(t, writer.Delete(t.Context(), "/a/node", zookeeper.AnyVersion))
	must(t, writer.Delete(t.Context(), "/a/list/07", zookeeper.AnyVersion))
	way.set(whole)
	for n := range nodes {
		if !n.Exists {
			break
		}
	}
	for l := range lists {
		if len(l.Children) == 19 {
			break
		}
	}
	if c.Session().N != 1 || c.suspended.Load() == 0 {
		t.Errorf("the connection did not break, or the session did: %+v", c.Session())
	}
	// One watch stands at the server, however often the node was read. It counts those of nodes alone.
	out, err := e.Ask(t.Context(), e.Servers[0], "wchs")
	must(t, err)
	if !strings.Contains(out, "Total watches:1\n") {
		t.Errorf("the server says %s", out)
	}
	stopNode()
	calls := nodeCalls.Load()
	must(t, writer.Create(t.Context(), "/a/node", nil))
	must(t, c.Sync(t.Context(), "/a/node"))
	if now := nodeCalls.Load(); now != calls {
		t.Errorf("%d calls after stop", now-calls)
	}
	t.Logf("%d changes behind one slow call made %d calls", changes, calls)
}

func TestZooKeeperAuth(t *testing.T) {
	t.Parallel()
	e := ensemble(t, 1)
	auth := []zookeeper.Auth{{Scheme: "digest", Credential: "drover:secret"}, {Scheme: "digest", Credential: "other:one"}}
	way := &network{}
	owner := open(t, e, zookeeper.Config{Auth: auth, Dial: way.dial})
	private := open(t, e, zookeeper.Config{Auth: auth[:1], ACL: []zookeeper.ACL{{Perms: 31, Scheme: "auth"}}})
	stranger := open(t, e, zookeeper.Config{})
	must(t, owner.Create(t.Context(), "/shown", []byte("v")))
	must(t, private.Create(t.Context(), "/hidden", []byte("v")))

	if _, _, err := stranger.Get(t.Context(), "/shown"); err != nil {
		t.Error(err)
	}
	if _, err := stranger.Set(t.Context(), "/shown", nil, 0); !errors.Is(err, zookeeper.ErrNoAuth) {
		t.Errorf("a stranger writes: %v", err)
	}
	if _, _, err := stranger.Get(t.Context(), "/hidden"); !errors.Is(err, zookeeper.ErrNoAuth) {
		t.Errorf("a stranger reads what is hidden: %v", err)
	}
	nodes := make(chan zookeeper.Node, 10)
	stranger.WatchNode(t.Context(), "/hidden", func(n zookeeper.Node) { nodes <- n })
	if n := <-nodes; !errors.Is(n.Err, zookeeper.ErrNoAuth) {
		t.Errorf("a stranger watches what is hidden: %+v", n)
	}

	way.set(cut)
	way.set(whole)
	if _, err := owner.Set(t.Context(), "/shown", nil, 0); err != nil {
		t.Errorf("after a reconnection: %v", err)
	}
	if _, _, err := owner.Get(t.Context(), "/hidden"); err != nil {
		t.Errorf("after a reconnection: %v", err)
	}
	soon(t, 5*time.Second, func() error {
		if owner.suspended.Load() == 0 {
			return errors.New("the connection did not break")
		}
		return nil
	})
}

// Every operation, and every way in which one is refused.
func TestZooKeeperCalls(t *testing.T) {
	t.Parallel()
	e := ensemble(t, 1)
	c := open(t, e, zookeeper.Config{})
	ctx := t.Context()
	is := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) || errors.Is(err, zookeeper.ErrUnknown) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	for range 2 {
		must(t, c.CreateAll(ctx, "/x/y/z"))
	}
	must(t, c.Create(ctx, "/x/n", []byte("0")))
	is(c.Create(ctx, "/x/n", nil), zookeeper.ErrNodeExists)
	is(c.Create(ctx, "/no/n", nil), zookeeper.ErrNoNode)
	is(c.Delete(ctx, "/x", 0), zookeeper.ErrNotEmpty)
	_, err := c.Set(ctx, "/x/n", nil, 7)
	is(err, zookeeper.ErrBadVersion)
	is(c.Create(ctx, "/x/big", make([]byte, 1<<20)), zookeeper.ErrTooLarge)
	must(t, c.Create(ctx, "/x/big", make([]byte, 1_000_000)))
	data, _, err := c.Get(ctx, "/x/big")
	if err != nil || len(data) != 1_000_000 {
		t.Errorf("read back %d bytes, %v", len(data), err)
	}
	if err := c.Create(ctx, "x", nil); err == nil {
		t.Error("a path without a slash is taken")
	}
	stat, err := c.Set(ctx, "/x/n", []byte("1"), 0)
	if err != nil || stat.Version != 1 {
		t.Errorf("set gives %+v, %v", stat, err)
	}

	results, err := c.Multi(ctx, zookeeper.Check("/x/n", 1), zookeeper.SetOp("/x/n", []byte("2"), 1), zookeeper.CreateOp("/x/m", nil), zookeeper.DeleteOp("/x/y/z", 0))
	must(t, err)
	if len(results) != 4 || results[1].Stat.Version != 2 {
		t.Errorf("results are %+v", results)
	}
	results, err = c.Multi(ctx, zookeeper.SetOp("/x/n", []byte("3"), 2), zookeeper.Check("/x/m", 5), zookeeper.DeleteOp("/x/m", 0))
	is(err, zookeeper.ErrBadVersion)
	var op *zookeeper.OpError
	if !errors.As(err, &op) || op.Index != 1 || len(results) != 3 || results[0].Err != zookeeper.ErrRolledBack || results[1].Err != zookeeper.ErrBadVersion || results[2].Err != zookeeper.ErrRolledBack {
		t.Errorf("results are %+v, %v", results, err)
	}
	if data, stat, err := c.Get(ctx, "/x/n"); err != nil || string(data) != "2" || stat.Version != 2 {
		t.Errorf("a failed multi left %q, %+v, %v", data, stat, err)
	}
	names, stat, err := c.Children(ctx, "/x")
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"big", "m", "n", "y"}) || stat.NumChildren != 4 {
		t.Errorf("children are %q, %+v, %v", names, stat, err)
	}
	if exists, _, err := c.Exists(ctx, "/none"); exists || err != nil {
		t.Errorf("what is not there exists %v, %v", exists, err)
	}
	// A clean end takes the ephemerals along at once.
	other := open(t, e, zookeeper.Config{})
	must(t, other.Create(ctx, "/e", nil, zookeeper.Ephemeral))
	must(t, other.Close())
	if exists, _, err := c.Exists(ctx, "/e"); exists || err != nil {
		t.Errorf("after the end of its session the ephemeral exists %v, %v", exists, err)
	}
	is(other.Sync(ctx, "/"), zookeeper.ErrClosed)
}

// Servers that were put back to an older state refuse a newer client and never say that its session is over.
func TestZooKeeperPutBack(t *testing.T) {
	e := ensemble(t, 1)
	c := open(t, e, zookeeper.Config{SessionTimeout: time.Second})
	for i := range 20 {
		must(t, c.Create(t.Context(), fmt.Sprintf("/n%d", i), nil))
	}
	nodes := make(chan zookeeper.Node, 100)
	c.WatchNode(t.Context(), "/n7", func(n zookeeper.Node) { nodes <- n })
	if n := <-nodes; !n.Exists {
		t.Error("the node does not exist")
	}
	p := e.Servers[0]
	must(t, p.Kill())
	must(t, os.RemoveAll(filepath.Join(e.Dir, p.Name, "version-2")))
	began := time.Now()
	must(t, p.Restart(t.Context()))
	for n := range nodes {
		if !n.Exists {
			break
		}
	}
	if s := c.Session(); s.N != 2 || c.lost.Load() != 1 {
		t.Errorf("the session is %+v after %d losses", s, c.lost.Load())
	}
	t.Logf("back in a new session %.1f s after the restart", time.Since(began).Seconds())
}
