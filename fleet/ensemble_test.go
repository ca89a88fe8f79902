package fleet

import (
	"container/heap"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"drover/zookeeper"
)

// world is what a simulation happens in: true time, and what is to come.
type world struct {
	rand   *rand.Rand
	now    time.Duration
	events events
	serial int
	faults map[string]int
}

type event struct {
	at time.Duration
	n  int
	f  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

func (w *world) after(d time.Duration, f func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + d, w.serial, f})
}

// between gives a random time.
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rand.Int64N(int64(b-a)+1))
}

func (w *world) chance(p float64) bool { return w.rand.Float64() < p }

// tree is ZooKeeper's nodes, as one server has them.
type tree struct {
	nodes   map[string]node
	applied int // of the log
}

// ensemble is ZooKeeper, as far as it matters here: one order of writes, servers that lag behind it, sessions that end, and
// ephemeral nodes that go with them.
type ensemble struct {
	*world
	timeout time.Duration
	epoch   int64             // of elections among the servers
	log     []map[string]node // what each transaction wrote; a node that does not exist was deleted
	truth   tree
	servers [3]*tree
	session map[int64]time.Duration // last heard of
	clients []*client
	// wrote is called after each transaction with who sent it and, by path, what it wrote.
	wrote func(from *client, ops []op)
}

// client is a process's connection.
type client struct {
	e       *ensemble
	session int64
	server  *tree
	cut     bool // no packet passes
	arrives time.Duration
	watches map[int]*watching
	deliver func(answer)
	lost    func()
	over    bool
	who     any
	ghost   int // 0 is not decided, 1 it goes on, 2 it does not
}

type watching struct {
	path    string
	list    bool
	pending bool
}

func newEnsemble(w *world, timeout time.Duration) *ensemble {
	e := &ensemble{world: w, timeout: timeout, session: map[int64]time.Duration{}, truth: tree{nodes: map[string]node{}}}
	for i := range e.servers {
		e.servers[i] = &tree{nodes: map[string]node{}}
	}
	return e
}

func (e *ensemble) connect() *client {
	id := int64(len(e.clients) + 1)
	c := &client{e: e, session: id, watches: map[int]*watching{}}
	c.server = e.servers[e.rand.IntN(3)]
	e.session[id] = e.now
	e.catchUp(c.server, len(e.log)) // a session is a transaction, too
	e.clients = append(e.clients, c)
	return c
}

// expire ends sessions that were not heard of.
func (e *ensemble) expire() {
	for _, id := range slices.Sorted(maps.Keys(e.session)) {
		if e.now-e.session[id] > e.timeout {
			e.end(id)
		}
	}
}

func (e *ensemble) end(id int64) {
	delete(e.session, id)
	var ops []op
	for _, path := range slices.Sorted(maps.Keys(e.truth.nodes)) {
		if n := e.truth.nodes[path]; n.owner == id {
			ops = append(ops, remove(path, -1))
		}
	}
	if len(ops) > 0 {
		e.apply(nil, 0, ops)
	}
}

// apply does a multi on the truth.
func (e *ensemble) apply(from *client, session int64, ops []op) (index int, err error) {
	over := map[string]node{}
	look := func(path string) node {
		if n, ok := over[path]; ok {
			return n
		}
		return e.truth.nodes[path]
	}
	zxid := e.zxid() + 1
	writes := false
	for i, o := range ops {
		n := look(o.path)
		switch o.kind {
		case opCreate, opEphemeral:
			if n.exists {
				return i, zookeeper.ErrNodeExists
			}
			if parent := o.path[:strings.LastIndexByte(o.path, '/')]; parent != "" && !look(parent).exists {
				return i, zookeeper.ErrNoNode
			}
			n = node{exists: true, data: o.data, created: zxid}
			if o.kind == opEphemeral {
				n.owner = session
			}
		default:
			if !n.exists {
				return i, zookeeper.ErrNoNode
			}
			if o.version != -1 && o.version != n.version {
				return i, zookeeper.ErrBadVersion
			}
			switch o.kind {
			case opSet:
				n.data, n.version = o.data, n.version+1
			case opDelete:
				n = node{}
			case opCheck:
				continue
			}
		}
		over[o.path], writes = n, true
	}
	if !writes {
		return -1, nil
	}
	e.log = append(e.log, over)
	e.catchUp(&e.truth, len(e.log))
	if e.wrote != nil {
		e.wrote(from, ops)
	}
	for _, s := range e.servers {
		e.after(e.between(0, 30*time.Millisecond), func() { e.catchUp(s, len(e.log)) })
	}
	return -1, nil
}

// zxid is that of the last transaction.
func (e *ensemble) zxid() int64 { return e.epoch<<32 + int64(len(e.log)) }

// putBack has all servers be as they were when the log had a length, but for their epoch, which each election raises. They know the
// sessions of then, and no later ones; late says that they were away for longer than those last.
func (e *ensemble) putBack(to int, late bool) {
	e.log, e.epoch = e.log[:to:to], e.epoch+1
	live := e.session
	e.session = map[int64]time.Duration{}
	for _, t := range []*tree{&e.truth, e.servers[0], e.servers[1], e.servers[2]} {
		t.nodes, t.applied = map[string]node{}, 0
		e.catchUp(t, to)
	}
	for _, n := range e.truth.nodes {
		if n.owner != 0 {
			if e.session[n.owner] = e.now; late {
				e.session[n.owner] -= 2 * e.timeout
			}
		}
	}
	for _, c := range e.clients {
		if _, known := e.session[c.session]; !known {
			if _, was := live[c.session]; was && !c.over {
				c.lost()
			}
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(c.watches)) {
			c.fire(id)
		}
	}
}

// catchUp brings a server to a place in the log, and has the watches there fire.
func (e *ensemble) catchUp(s *tree, to int) {
	for ; s.applied < to; s.applied++ {
		for _, path := range slices.Sorted(maps.Keys(e.log[s.applied])) {
			n := e.log[s.applied][path]
			was := s.nodes[path].exists
			if n.exists {
				s.nodes[path] = n
			} else {
				delete(s.nodes, path)
			}
			if s == &e.truth {
				continue
			}
			for _, c := range e.clients {
				if c.server != s || c.over {
					continue
				}
				for _, id := range slices.Sorted(maps.Keys(c.watches)) {
					w := c.watches[id]
					if !w.list && w.path == path || w.list && was != n.exists && strings.HasPrefix(path, w.path+"/") && !strings.Contains(path[len(w.path)+1:], "/") {
						c.fire(id)
					}
				}
			}
		}
	}
}

func (t *tree) children(path string) (names []string) {
	for p := range t.nodes {
		if rest, ok := strings.CutPrefix(p, path+"/"); ok && !strings.Contains(rest, "/") {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names
}

// fire has a watch tell, soon and once, what stands there then.
func (c *client) fire(id int) {
	w := c.watches[id]
	if w == nil || w.pending {
		return
	}
	w.pending = true
	late := c.e.between(0, 20*time.Millisecond)
	if c.e.chance(0.02) {
		c.e.faults["watch late"]++ // what it tells is read behind it, and that is repeated
		late = c.e.between(0, c.e.timeout/2)
	}
	c.e.after(late, func() {
		w.pending = false
		if c.over || c.watches[id] != w {
			return
		}
		if c.cut || c.e.session[c.session] == 0 && !c.alive() {
			w.pending = true // told after the reconnection
			c.e.after(50*time.Millisecond, func() { w.pending = false; c.fire(id) })
			return
		}
		c.deliver(c.look(id, w.path, w.list))
	})
}

// undead tells whether requests go on after the session's end until the client notices, as if a library had sent them in the next
// session without a word. ZooKeeper refuses them in truth; here the conditions of a write must be enough.
func (c *client) undead() bool {
	if c.ghost == 0 {
		c.ghost = 1 + c.e.rand.IntN(2)
	}
	return c.ghost == 1
}

func (c *client) alive() bool { _, ok := c.e.session[c.session]; return ok }

func (c *client) look(id int, path string, list bool) answer {
	a := answer{id: id, index: -1, node: c.server.nodes[path]}
	if list {
		a.names = c.server.children(path)
	}
	return a
}

// do takes an effect.
func (c *client) do(e effect) {
	w := c.e
	switch e.kind {
	case doWatch, doWatchList:
		c.watches[e.id] = &watching{path: e.path, list: e.kind == doWatchList}
		c.fire(e.id)
		return
	case doForget:
		delete(c.watches, e.id)
		return
	}
	fail := func(err error, after time.Duration) {
		w.after(after, func() {
			if !c.over {
				c.deliver(answer{id: e.id, err: err, index: -1})
			}
		})
	}
	broken := zookeeper.ErrNotConnected
	if e.kind == doMulti {
		broken = zookeeper.ErrUnknown
	}
	if c.cut {
		w.faults["request without a connection"]++
		fail(zookeeper.ErrNotConnected, w.between(0, w.timeout/2))
		return
	}
	if w.chance(0.01) {
		w.faults["request lost"]++
		fail(broken, w.between(0, w.timeout/4))
		return
	}
	// A client's requests come in order.
	c.arrives = max(c.arrives, w.now+w.between(0, 10*time.Millisecond))
	w.after(c.arrives-w.now, func() {
		if c.cut {
			w.faults["request lost in a partition"]++
			fail(broken, w.between(0, w.timeout/4))
			return
		}
		if dead := !c.alive(); dead && (!c.undead() || slices.ContainsFunc(e.ops, func(o op) bool { return o.kind == opEphemeral })) {
			w.after(w.between(0, 10*time.Millisecond), func() {
				if !c.over {
					c.lost()
				}
			})
			return
		} else if !dead {
			w.session[c.session] = w.now
		}
		a := answer{id: e.id, index: -1}
		switch e.kind {
		case doMulti:
			a.index, a.err = w.apply(c, c.session, e.ops)
			if !c.alive() && a.err == nil {
				w.faults["write after the session's end done"]++
			} else if !c.alive() {
				w.faults["write after the session's end refused"]++
			}
			if a.err == nil {
				for _, o := range e.ops {
					a.after = append(a.after, w.truth.nodes[o.path].version)
				}
			}
			w.catchUp(c.server, len(w.log))
		default:
			if e.sync {
				w.catchUp(c.server, len(w.log))
			}
			a = c.look(e.id, e.path, e.kind == doList)
		}
		if w.chance(0.01) {
			w.faults["answer lost"]++
			a = answer{id: e.id, err: broken, index: -1}
		}
		w.after(w.between(0, 10*time.Millisecond), func() {
			if c.over {
				return
			}
			if c.cut {
				w.faults["answer lost in a partition"]++
				a = answer{id: e.id, err: broken, index: -1}
			}
			c.deliver(a)
		})
	})
}

// ping keeps the session, as clients do by themselves.
func (c *client) ping() {
	if c.cut || c.over {
		return
	}
	if !c.alive() {
		c.lost()
		return
	}
	c.e.session[c.session] = c.e.now
}

// move has a client reconnect to another server that is not behind what it saw.
func (c *client) move() {
	s := c.e.servers[c.e.rand.IntN(3)]
	c.e.catchUp(s, c.server.applied)
	c.server = s
	for _, id := range slices.Sorted(maps.Keys(c.watches)) {
		c.fire(id)
	}
}

func heapPop(e *events) event { return heap.Pop(e).(event) }
