package zookeeper

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

const (
	// reread is how often a watched path is read whatever is heard of it, give or take a fifth: no lost event is missed longer.
	reread = 30 * time.Second
	// reretry is how soon a reading is tried again that failed though there is a connection.
	reretry = time.Second
	// maxReaders bounds the watched paths that are read, and whose funcs run, at the same time. Where a round trip takes 200 ms,
	// 320 a second are: the leader of a large pool hears of a hundred changes a second.
	maxReaders = 64
)

// Node is what stands at a watched path. Its data belongs to all who watch the path: it is not to be changed.
type Node struct {
	Exists bool
	Data   []byte
	Stat   Stat
	Err    error // what waiting alone does not mend, as ErrNoAuth; the path is still watched
}

// Listing is the children of a watched path, which belong to all who watch it: they are not to be changed.
type Listing struct {
	Exists   bool
	Children []string // names, sorted
	Stat     Stat
	Err      error // as of Node
}

// watches are the paths that somebody watches. An event, a reconnection and the passing of time do one thing only: they
// mark a path as dirty. A bounded number of readers take dirty paths, read what stands there and tell those who watch it,
// so that many changes become one reading, and the event callback never waits. Guarded by Client.mu.
type watches struct {
	spots   map[spotKey]*spot
	dirty   []*spot // to be read, in order
	readers int
	refresh *time.Timer
}

type spotKey struct {
	path     string
	children bool
}

// spot is a watched path, as a node or as a list of children. Two watches of it share one reading.
type spot struct {
	spotKey
	watchers []*watcher
	queued   bool
	busy     bool // a reader has it
	again    bool // it became dirty while busy
	gone     bool // nobody watches it any more
	timer    *time.Timer
	told     bool // somebody was told at least once
}

type watcher struct {
	ctx   context.Context
	mu    sync.Mutex // held while f runs
	f     func(reply, error)
	ended bool
}

// arm is one of the library's watches, which each fire once, and stay there until they do: one that is armed must not be
// armed again, or the library would hold one more for each reading. Nodes and lists have their own, since each must
// trust its own alone.
type arm struct {
	spotKey
	on armed
}

type armed int

const (
	onData armed = iota
	onCreation
	onChildren
)

// WatchNode calls f with what stands at path: soon, after each change, after each reconnection, and every half minute.
// Changes in between are passed over: only the newest matters. Calls come from a few goroutines that all watches share, so
// f must be quick, and never two at once for one watch. No connection is no news: f is not called. The watch ends with ctx;
// f is not called after stop has returned, so f must not call stop.
func (c *Client) WatchNode(ctx context.Context, path string, f func(Node)) (stop func()) {
	return c.watch(ctx, spotKey{path: path}, func(r reply, err error) {
		f(Node{Exists: r.exists, Data: r.data, Stat: r.stat, Err: err})
	})
}

// WatchChildren is WatchNode for the names of a node's children. Changes of their data are not seen.
func (c *Client) WatchChildren(ctx context.Context, path string, f func(Listing)) (stop func()) {
	return c.watch(ctx, spotKey{path: path, children: true}, func(r reply, err error) {
		f(Listing{Exists: r.exists, Children: r.children, Stat: r.stat, Err: err})
	})
}

func (c *Client) watch(ctx context.Context, key spotKey, f func(reply, error)) (stop func()) {
	w := &watcher{ctx: ctx, f: f}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return func() {}
	}
	s := c.spots[key]
	if s == nil {
		s = &spot{spotKey: key}
		s.timer = time.AfterFunc(reread, func() { c.soil(s) })
		c.spots[key] = s
	}
	s.watchers = append(s.watchers, w)
	c.soilLocked(s)
	c.mu.Unlock()

	forget := context.AfterFunc(ctx, func() { c.unwatch(s, w) })
	return func() {
		forget()
		c.unwatch(s, w)
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
	}
}

func (c *Client) unwatch(s *spot, w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.watchers = slices.DeleteFunc(s.watchers, func(x *watcher) bool { return x == w })
	if len(s.watchers) == 0 && !s.gone {
		s.gone = true
		s.timer.Stop()
		if s.queued {
			c.dirty = slices.DeleteFunc(c.dirty, func(x *spot) bool { return x == s })
		}
		delete(c.spots, s.spotKey)
	}
}

// soil marks a spot as dirty.
func (c *Client) soil(s *spot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.soilLocked(s)
}

func (c *Client) soilLocked(s *spot) {
	switch {
	case s.gone || s.queued || c.closed:
	case s.busy:
		s.again = true
	default:
		s.queued = true
		c.dirty = append(c.dirty, s)
		c.readLocked()
	}
}

// fired takes an event of the library's.
func (c *Client) fired(l *link, what zk.EventType, path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l != c.link {
		return
	}
	node, list := spotKey{path: path}, spotKey{path: path, children: true}
	for _, k := range []spotKey{node, list} {
		switch what {
		case zk.EventNodeCreated:
			delete(l.armed, arm{k, onCreation})
		case zk.EventNodeDataChanged:
			delete(l.armed, arm{k, onCreation})
			delete(l.armed, arm{k, onData})
		case zk.EventNodeChildrenChanged:
			delete(l.armed, arm{k, onChildren})
		case zk.EventNodeDeleted:
			delete(l.armed, arm{k, onCreation})
			delete(l.armed, arm{k, onData})
			delete(l.armed, arm{k, onChildren})
		default:
			return
		}
	}
	if s := c.spots[node]; s != nil && what != zk.EventNodeChildrenChanged {
		c.soilLocked(s)
	}
	if s := c.spots[list]; s != nil && what != zk.EventNodeDataChanged {
		c.soilLocked(s)
	}
}

// reconnectedLocked has every spot read: at once what was never read, and the rest spread over a moment, because other
// clients do the same now. What changed meanwhile the server tells at once, unless the session is a new one.
func (c *Client) reconnectedLocked() {
	for _, s := range c.spots {
		if !s.told {
			c.soilLocked(s)
		}
	}
	c.readLocked()
	if c.refresh != nil {
		c.refresh.Stop()
	}
	c.refresh = time.AfterFunc(rand.N(jitterStep(c.config.SessionTimeout)), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.spots {
			c.soilLocked(s)
		}
	})
}

// readLocked sees that there are readers for what is dirty.
func (c *Client) readLocked() {
	for c.state == Connected && !c.closed && c.readers < min(len(c.dirty), maxReaders) {
		c.readers++
		c.wg.Go(c.read)
	}
}

// read takes dirty spots until there are none, or no connection.
func (c *Client) read() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == Connected && !c.closed && len(c.dirty) > 0 {
		s := c.dirty[0]
		c.dirty[0] = nil
		c.dirty = c.dirty[1:]
		s.queued = false
		s.busy, s.again = true, false
		l, watchers := c.link, slices.Clone(s.watchers)
		c.mu.Unlock()

		r, err := c.look(l, s)
		failed := err != nil && transient(err)
		if !failed {
			for _, w := range watchers {
				w.tell(r, err)
			}
		}

		c.mu.Lock()
		s.busy = false
		if s.gone || c.closed {
			continue
		}
		if failed {
			// After a loss, the next connection soils it anyway.
			s.timer.Reset(reretry/2 + rand.N(reretry))
		} else {
			s.told = true
			s.timer.Reset(reread*4/5 + rand.N(reread*2/5))
		}
		if s.again {
			c.soilLocked(s)
		}
	}
	c.readers--
}

func (w *watcher) tell(r reply, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended && w.ctx.Err() == nil {
		w.f(r, err)
	}
}

// look reads what stands at a spot and leaves it armed, all in the link's session.
func (c *Client) look(l *link, s *spot) (reply, error) {
	o := ops{c: c, n: l.session.N}
	read, on := readNode, arm{s.spotKey, onData}
	if s.children {
		read, on.on = readChildren, onChildren
	}
	creation := arm{s.spotKey, onCreation}
	for {
		seen, was := c.arm(l, on)
		r, err := read(c.ctx, o, s.path, !was)
		none := errors.Is(err, ErrNoNode)
		if err != nil && (!was || none) {
			c.disarm(l, on)
		}
		if err != nil && !none {
			return reply{}, err
		}
		if !none {
			change := r.stat.Mzxid
			if s.children {
				change = r.stat.Pzxid
			}
			if was && change != seen && c.disarm(l, on) {
				// Nobody told of this change, and servers tell of one before they show it: this watch is lost.
				continue
			}
			c.saw(l, on, change)
			r.exists = true
			slices.Sort(r.children)
			return r, nil
		}
		// Watch for a node to come.
		_, was = c.arm(l, creation)
		r, err = readExistence(c.ctx, o, s.path, !was)
		if err != nil && !was || r.exists {
			c.disarm(l, creation)
		}
		if err != nil || !r.exists {
			return reply{}, err
		}
	}
}

// arm says that a watch is about to be set, and tells whether it was already, and the change that was seen then. It is said
// before, as the event may come before the call returns.
func (c *Client) arm(l *link, a arm) (seen int64, was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, was = l.armed[a]
	l.armed[a] = seen
	return seen, was
}

// saw notes the change that an armed watch is newer than.
func (c *Client) saw(l *link, a arm, change int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, is := l.armed[a]; is {
		l.armed[a] = change
	}
}

// disarm says that a watch is not set, and tells whether it was.
func (c *Client) disarm(l *link, a arm) (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, was = l.armed[a]
	delete(l.armed, a)
	return was
}

func readNode(ctx context.Context, o ops, path string, watch bool) (reply, error) {
	return call(ctx, o, "watch "+path, true, func(z *zk.Conn) (r reply, err error) {
		var stat *zk.Stat
		if watch {
			r.data, stat, _, err = z.GetW(path)
		} else {
			r.data, stat, err = z.Get(path)
		}
		r.stat = fill(stat)
		return r, err
	})
}

func readChildren(ctx context.Context, o ops, path string, watch bool) (reply, error) {
	return call(ctx, o, "watch "+path, true, func(z *zk.Conn) (r reply, err error) {
		var stat *zk.Stat
		if watch {
			r.children, stat, _, err = z.ChildrenW(path)
		} else {
			r.children, stat, err = z.Children(path)
		}
		r.stat = fill(stat)
		return r, err
	})
}

func readExistence(ctx context.Context, o ops, path string, watch bool) (reply, error) {
	return call(ctx, o, "watch "+path, true, func(z *zk.Conn) (r reply, err error) {
		if watch {
			r.exists, _, _, err = z.ExistsW(path)
		} else {
			r.exists, _, err = z.Exists(path)
		}
		return r, err
	})
}
