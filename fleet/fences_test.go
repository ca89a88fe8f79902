package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/checkpoints"
	"drover/e2e/stack"
	"drover/fleet/share"
	"drover/fleet/tick"
	"drover/jobs"
	"drover/zookeeper"
)

// Control writes by those who had the right and lost it, on ZooKeeper's own servers. Leaders and workers are the very machines
// of a member, and their effects are done by a member's edge, but one at a time: so a write can be held back when everything
// before it was done, until the right has gone for real, and what is in ZooKeeper can be compared before it and after it.

const fencesTimeout = 2 * time.Second

// fenceWay is a client's way to the servers, which can be cut.
type fenceWay struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (w *fenceWay) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errors.New("the network is down")
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		w.conns = append(w.conns, c)
	}
	return c, err
}

func (w *fenceWay) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut = cut; cut {
		for _, c := range w.conns {
			c.Close()
		}
		w.conns = nil
	}
}

// scene is a pool of one try, with a root of its own.
type scene struct {
	t       *testing.T
	rnd     *rand.Rand
	servers []string
	clients []*zookeeper.Client // which stay; the first is who looks
	fresh   []*zookeeper.Client // of this try
	pool    Pool
	p       paths
	now     time.Duration
	began   time.Time
	names   int
	strip   bool // a mutant: what is tried is written without its fence
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) name() string {
	s.names++
	return fmt.Sprintf("n%d.%s", s.names, strconv.FormatUint(s.rnd.Uint64(), 36))
}

func openFenceClient(t *testing.T, servers []string, way *fenceWay) *zookeeper.Client {
	t.Helper()
	c := zookeeper.Config{Servers: servers, SessionTimeout: fencesTimeout}
	if way != nil {
		c.Dial = way.dial
	}
	z, err := zookeeper.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := z.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return z
}

// client opens one that ends with the try.
func (s *scene) client(way *fenceWay) *zookeeper.Client {
	z := openFenceClient(s.t, s.servers, way)
	s.fresh = append(s.fresh, z)
	return z
}

func (s *scene) close() {
	for _, z := range s.fresh {
		z.Close()
	}
}

// tree is all that is in the pool, with versions and transactions, but for the beats and for what processes count of
// themselves, which decide nothing.
func (s *scene) tree() map[string]string {
	s.t.Helper()
	zk := s.clients[0]
	s.must(zk.Sync(s.t.Context(), string(s.p)))
	all := map[string]string{}
	var mu sync.Mutex
	var visit func(paths []string) error
	visit = func(level []string) error {
		var next []string
		g, ctx := errgroup.WithContext(s.t.Context())
		g.SetLimit(16)
		for _, path := range level {
			g.Go(func() error {
				data, stat, err := zk.Get(ctx, path)
				if err != nil {
					return err
				}
				names, _, err := zk.Children(ctx, path)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				all[path] = fmt.Sprintf("version %d, made in %#x, changed in %#x: %s", stat.Version, stat.Czxid, stat.Mzxid, data)
				if path == s.p.tide() {
					delete(all, path)
				}
				if path == s.p.workers() || base(path) == "t" {
					return nil
				}
				for _, n := range names {
					next = append(next, path+"/"+n)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil || len(next) == 0 {
			return err
		}
		return visit(next)
	}
	s.must(visit([]string{string(s.p)}))
	return all
}

// changes tells what is different, "" when nothing is.
func changes(before, after map[string]string) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if before[path] != after[path] {
			fmt.Fprintf(&b, "%s\n  was %s\n  is  %s\n", path, before[path], after[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[path]; !ok {
			fmt.Fprintf(&b, "%s is gone\n", path)
		}
	}
	return b.String()
}

// actor is a process of the pool.
type actor struct {
	s    *scene
	in   *incarnation
	zk   *zookeeper.Client
	way  *fenceWay // nil when it cannot be cut
	edge *present
	// blind is who hears of nothing any more, deaf who does not hear of elections.
	blind, deaf bool
	watches     map[int]effect
	told        map[int]string

	plans  bool
	keep   func(effect) bool // the write that is held back
	kept   *effect
	writes int // sent, but for beats
}

func (s *scene) actor(name string, zk *zookeeper.Client, leads bool, capacity int, wants ...want) *actor {
	a := &actor{s: s, zk: zk, watches: map[int]effect{}, told: map[int]string{}, plans: true}
	a.connect(zk)
	self := beatRecord{Name: name, Capacity: capacity, Wants: wants}
	a.in = newIncarnation(s.p, name+"-"+s.name(), fencesTimeout, self, newMemory(), s.name, s.rnd)
	a.in.leads = leads
	a.in.wall = func() time.Time { return s.began.Add(s.now) }
	a.in.start(s.now)
	a.pump()
	return a
}

// connect has what the actor does from now on done under the session that a client has now.
func (a *actor) connect(zk *zookeeper.Client) {
	a.zk = zk
	a.edge = &present{m: &Member{reads: make(chan struct{}, 4)}, ctx: a.s.t.Context(), zk: zk.In(zk.Session())}
}

// pump does what the machine wants done, until it wants nothing.
func (a *actor) pump() {
	for {
		out := a.in.take()
		if len(out) == 0 {
			return
		}
		for _, e := range out {
			switch {
			case e.kind == doWatch || e.kind == doWatchList:
				a.watches[e.id] = e
				a.hear(e.id)
			case e.kind == doForget:
				delete(a.watches, e.id)
			case e.kind == doMulti && a.keep != nil && a.keep(e):
				a.keep, a.kept = nil, &e
			default:
				a.in.answered(a.s.now, a.perform(e))
			}
		}
	}
}

func (a *actor) perform(e effect) answer {
	if e.kind == doMulti && e.ops[0].path != a.in.p.worker(a.in.id) {
		a.writes++
	}
	return a.edge.perform(e)
}

// hear tells what stands at a watch, if it is news.
func (a *actor) hear(id int) {
	e, there := a.watches[id]
	if !there || a.blind || a.deaf && (e.path == a.s.p.leader() || e.path == a.s.p.term()) {
		return
	}
	kind := doGet
	if e.kind == doWatchList {
		kind = doList
	}
	n := a.edge.perform(effect{id: id, kind: kind, path: e.path})
	if n.err != nil {
		return
	}
	now := fmt.Sprint(n.node.exists, n.node.created, n.node.version, n.names)
	if a.told[id] != now {
		a.told[id] = now
		a.in.answered(a.s.now, n)
	}
}

// step lets it see what changed, and do what is due.
func (a *actor) step() {
	for _, id := range slices.Sorted(maps.Keys(a.watches)) {
		a.hear(id)
	}
	a.pump()
	a.in.tick(a.s.now)
	a.pump()
	if l := a.in.lead; l != nil && a.plans {
		for _, k := range l.toPlan {
			plan, err := squeeze([]byte("plan"))
			a.s.must(err)
			l.planned(a.s.now, k, Planned{Plan: plan, Shards: []jobs.Shard{simShard(0, 0, 100), simShard(1, 100, 200)}, Fingerprint: "f", Timestamp: 1}, nil)
		}
		l.toPlan = nil
		a.pump()
	}
	for _, k := range a.in.worker.toPlan {
		plan, err := squeeze([]byte("plan"))
		a.s.must(err)
		a.in.worker.planned(a.s.now, k, Planned{Plan: plan, Shards: []jobs.Shard{simShard(0, 0, 100), simShard(1, 100, 200)}, Fingerprint: "f", Timestamp: 1}, nil)
	}
	a.in.worker.toPlan = nil
	a.pump()
	for _, l := range a.in.leases {
		if l.state == leaseReady {
			a.in.grab(l)
		}
	}
}

// until steps actors until something is so.
func (s *scene) until(what string, so func() bool, actors ...*actor) {
	s.t.Helper()
	for range 400 {
		if so() {
			return
		}
		s.now += 150 * time.Millisecond
		for _, a := range actors {
			a.step()
		}
	}
	s.t.Fatalf("it does not come to it that %s", what)
}

func (a *actor) leading() bool { return a.in.lead != nil && a.in.lead.ready }

// holds is how many shards it works on.
func (a *actor) holds() (n int) {
	for _, l := range a.in.leases {
		if l.state == leaseTaken {
			n++
		}
	}
	return n
}

// release does the write that was held back, and gives the answer to who wanted it.
func (a *actor) release() error {
	e := *a.kept
	a.kept = nil
	if a.s.strip {
		e.ops = slices.Clone(e.ops)
		for i := range e.ops { // what is read is not looked at: neither the term nor the run
			if o := &e.ops[i]; o.kind == opSet && (o.path == a.s.p.term() || o.path == a.s.p.run("j", "r")) {
				o.version = -1
			}
		}
		if e.ops[0].kind == opCheck {
			e.ops = e.ops[1:]
		}
	}
	ans := a.perform(e)
	a.in.answered(a.s.now, ans)
	a.pump()
	return ans.err
}

func (s *scene) limit(rows float64) map[string]Limits {
	return map[string]Limits{"t": {share.Limit{Rows: rows, Bytes: 1e9}, share.NoLimit}}
}

func (s *scene) submit(job, run string, rows float64) {
	_, err := s.pool.Submit(s.t.Context(), run, job, Spec{File: []byte("job"), Limits: s.limit(rows)})
	s.must(err)
}

func writes(e effect, kind opKind, under string) bool {
	return slices.ContainsFunc(e.ops, func(o op) bool {
		return o.kind == kind && (o.path == under || strings.HasPrefix(o.path, under+"/"))
	})
}

func stateOf(e effect, path string) State {
	for _, o := range e.ops {
		if o.kind == opSet && o.path == path {
			r, _ := decode[runRecord](path, o.data)
			return r.State
		}
	}
	return ""
}

// stage is a pool at the point where its leader is about to make a write, which is held back.
type stage struct {
	*scene
	a *actor // leads, and is held back
	w *actor // works, unless it is nil
}

func (s *scene) found() {
	s.must(found(s.t.Context(), s.clients[0], s.p))
}

func (s *scene) leader(zk *zookeeper.Client) *actor {
	a := s.actor("a", zk, true, 0)
	s.until("a leads", a.leading, a)
	return a
}

// working is a pool whose worker has both shards of a run.
func (s *scene) working(leader, worker *zookeeper.Client, wants ...want) (a, w *actor) {
	s.found()
	a = s.leader(leader)
	s.submit("j", "r", 100)
	w = s.actor("w", worker, false, 2, wants...)
	s.until("w has both shards", func() bool { return w.holds() == 2 }, a, w)
	return a, w
}

var fencesBudget = want{budget: budget{"t", share.Puts}, Demand: -1}

// leaderWrites bring a leader to where it makes a write, each of another kind. They get the client that it uses.
var leaderWrites = map[string]func(s *scene, zk *zookeeper.Client) stage{
	"hand-over": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		s.submit("j", "r", 100)
		k := runKey{"j", "r"}
		s.until("the run is planned", func() bool { r := a.in.lead.runs[k]; return r != nil && r.listed && r.reading == 0 }, a)
		a.keep = func(e effect) bool { return writes(e, opSet, a.in.lead.runs[k].at+"/s") }
		w := s.actor("w", s.clients[1], false, 2)
		s.until("the shards are given", func() bool { return a.kept != nil }, a, w)
		return stage{s, a, w}
	},
	"grants": func(s *scene, zk *zookeeper.Client) stage {
		a, w := s.working(zk, s.clients[1])
		a.keep = func(e effect) bool { return writes(e, opSet, s.p.order(w.in.id)) }
		w.in.self.Wants = []want{fencesBudget}
		w.in.tell()
		s.until("a part is granted", func() bool { return a.kept != nil }, a, w)
		return stage{s, a, w}
	},
	"first order": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		w := s.actor("w", s.clients[1], false, 0, fencesBudget)
		a.keep = func(e effect) bool { return writes(e, opCreate, s.p.orders()) }
		s.until("a part is granted", func() bool { return a.kept != nil }, a, w)
		return stage{s, a, w}
	},
	"staging": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		a.keep = func(e effect) bool { return writes(e, opCreate, s.p.run("j", "r")) }
		s.submit("j", "r", 100)
		s.until("a plan is staged", func() bool { return a.kept != nil }, a)
		return stage{s, a, nil}
	},
	"plan": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		a.keep = func(e effect) bool { return stateOf(e, s.p.run("j", "r")) == Running }
		s.submit("j", "r", 100)
		s.until("a plan is published", func() bool { return a.kept != nil }, a)
		return stage{s, a, nil}
	},
	"done": func(s *scene, zk *zookeeper.Client) stage {
		a, w := s.working(zk, s.clients[1])
		a.keep = func(e effect) bool { return stateOf(e, s.p.run("j", "r")) == Done }
		st, _ := s.store(w)
		for n := range 2 {
			s.must(st.Save(s.t.Context(), []checkpoints.Checkpoint{{Shard: n, Cursor: "end", Done: true}}, checkpoints.Totals{}))
		}
		for _, l := range w.in.leases {
			w.in.let(l, true, "")
		}
		s.until("the run is done", func() bool { return a.kept != nil }, a, w)
		return stage{s, a, w}
	},
	"failed": func(s *scene, zk *zookeeper.Client) stage {
		a, w := s.working(zk, s.clients[1])
		a.keep = func(e effect) bool { return stateOf(e, s.p.run("j", "r")) == Failed }
		a.in.lead.end(a.in.lead.runs[runKey{"j", "r"}], Failed, "three times", nil)
		a.pump()
		return stage{s, a, w}
	},
	"limits": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		s.submit("j", "r", 100)
		s.until("the limit is there", func() bool { t := a.in.lead.tables["t"]; return t != nil && t.known && t.exists }, a)
		a.plans = false
		a.keep = func(e effect) bool { return writes(e, opSet, s.p.table("t")) }
		s.submit("k", "lower", 10)
		s.until("the limit is lowered", func() bool { return a.kept != nil }, a)
		return stage{s, a, nil}
	},
	"retiring": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		w := s.actor("w", s.clients[1], false, 0, fencesBudget)
		s.until("w has a part", func() bool { return w.in.order.Rev > 0 }, a, w)
		a.keep = func(e effect) bool { return writes(e, opDelete, s.p.orders()) }
		s.must(s.clients[1].Delete(s.t.Context(), s.p.worker(w.in.id), zookeeper.AnyVersion))
		s.until("its order is taken away", func() bool { return a.kept != nil }, a)
		return stage{s, a, nil}
	},
	"leaving": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		a.keep = func(e effect) bool { return writes(e, opDelete, s.p.leader()) }
		a.in.leave(s.now)
		a.pump()
		return stage{s, a, nil}
	},
	"sweeping": func(s *scene, zk *zookeeper.Client) stage {
		a, w := s.working(zk, s.clients[1])
		s.must(s.pool.Cancel(s.t.Context(), "j", "r"))
		k := runKey{"j", "r"}
		s.until("it is heard that the run is over", func() bool { return a.in.lead.runs[k].record.State == Cancelled }, a, w)
		a.keep = func(e effect) bool { return writes(e, opDelete, s.p.run("j", "r")) }
		s.now += 2 * sweepAfter
		s.until("its shards are taken away", func() bool { return a.kept != nil }, a)
		return stage{s, a, w}
	},
	"schedule": func(s *scene, zk *zookeeper.Client) stage {
		s.found()
		a := s.leader(zk)
		_, err := s.pool.Submit(s.t.Context(), "request", "k", Spec{Schedule: &tick.Settings{Cron: "* * * * *", Misfire: time.Hour}})
		s.must(err)
		a.keep = func(e effect) bool { return writes(e, opCreate, s.p.ticks("k")) }
		s.until("the job is known", func() bool { return a.in.lead.jobs["k"] != nil }, a)
		s.now += 2 * time.Minute
		s.until("an instant is decided", func() bool { return a.kept != nil }, a)
		return stage{s, a, nil}
	},
}

// lane is a worker's way to ZooKeeper, on which its next write of a shard is held back until something has happened.
type lane struct {
	checkpoints.Ensemble
	before func()
	lose   bool // the write that was held back is never done, and its answer lost
	strip  bool
	sent   int
}

func (l *lane) Multi(ctx context.Context, list ...zookeeper.Op) ([]zookeeper.Result, error) {
	if f := l.before; f != nil && len(list) > 1 {
		l.before = nil
		f()
		if l.lose {
			return nil, fmt.Errorf("lost: %w", zookeeper.ErrUnknown)
		}
	}
	l.sent++
	if l.strip {
		list = slices.DeleteFunc(slices.Clone(list), func(o zookeeper.Op) bool { return strings.HasPrefix(o.String(), "check") })
	}
	return l.Ensemble.Multi(ctx, list...)
}

// store is that of a worker for its run, as package fleet opens it: the epochs are those of the leases in its hands.
func (s *scene) store(w *actor) (*checkpoints.ZooKeeperStore, *lane) {
	at := slices.Sorted(maps.Keys(w.in.order.Shards))[0]
	way := &lane{Ensemble: w.edge.zk, strip: s.strip}
	return checkpoints.OpenZooKeeper(way, at, w.in.id, func(n int) (int32, bool) {
		l := w.in.leases[shardKey{at, n}]
		if l == nil || l.state != leaseTaken {
			return 0, false
		}
		return l.epoch, true
	}), way
}

// ownerWrites are what the owner of a shard writes.
var ownerWrites = map[string]func(s *scene, st *checkpoints.ZooKeeperStore, at string) error{
	"save": func(s *scene, st *checkpoints.ZooKeeperStore, _ string) error {
		return st.Save(s.t.Context(), []checkpoints.Checkpoint{{Shard: 0, Cursor: "50"}}, checkpoints.Totals{})
	},
	"save of two": func(s *scene, st *checkpoints.ZooKeeperStore, _ string) error {
		return st.Save(s.t.Context(), []checkpoints.Checkpoint{{Shard: 0, Cursor: "50"}, {Shard: 1, Cursor: "150"}}, checkpoints.Totals{})
	},
	"save at the end": func(s *scene, st *checkpoints.ZooKeeperStore, _ string) error {
		return st.Save(s.t.Context(), []checkpoints.Checkpoint{{Shard: 0, Cursor: "100", Done: true}}, checkpoints.Totals{})
	},
	"cut": func(s *scene, st *checkpoints.ZooKeeperStore, at string) error {
		return s.cut(st, at)
	},
}

func (s *scene) cut(st *checkpoints.ZooKeeperStore, at string) error {
	path := s.p.run("j", "r")
	_, err := st.Cut(s.t.Context(), checkpoints.Cut{
		Shard: 0, Run: path,
		Parts: func(have json.RawMessage, n int) (json.RawMessage, json.RawMessage, error) {
			return cutParts(have, simShard(0, 0, 70), simShard(0, 70, 100), n)
		},
		Grow: func(data []byte, write string) ([]byte, int, error) { return grow(path, at, data, write) },
	})
	return err
}

// deleteAll takes away all below a node, and the node.
func (s *scene) deleteAll(path string) {
	names, _, err := s.clients[0].Children(s.t.Context(), path)
	s.must(err)
	for _, n := range names {
		s.deleteAll(path + "/" + n)
	}
	s.must(s.clients[0].Delete(s.t.Context(), path, zookeeper.AnyVersion))
}

// gone waits until a node is gone, because of the end of a session.
func (s *scene) gone(path string) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s.must(s.clients[0].Sync(s.t.Context(), path))
		exists, _, err := s.clients[0].Exists(s.t.Context(), path)
		s.must(err)
		if !exists {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s is still there", path)
		}
	}
}

// expire has a process's session end by itself, and its client go on in the next one.
func (a *actor) expire(path string) {
	s, n := a.s, a.zk.Session().N
	a.way.set(true)
	s.gone(path)
	a.way.set(false)
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	for a.zk.Session().N == n {
		if err := ctx.Err(); err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.must(a.zk.Wait(ctx))
	a.connect(a.zk)
}

// elect has somebody else lead, who goes on with what there is, or not yet.
func (s *scene) elect(zk *zookeeper.Client, busy bool, w *actor) *actor {
	s.t.Helper()
	b := s.actor("b", zk, true, 0)
	s.until("b is elected", func() bool { return b.in.lead != nil }, b)
	if busy {
		s.until("b leads", b.leading, b)
		for range 5 {
			s.now += 150 * time.Millisecond
			b.step()
			if w != nil {
				w.step()
			}
		}
	}
	return b
}

// fenceTry makes one try and gives the name of the write that was tried, and whether any of it was accepted.
type fenceTry func(s *scene) (what string, accepted string)

// pick takes one of a table, by chance.
func pick[T any](s *scene, from map[string]T, only ...string) (string, T) {
	if len(only) == 0 {
		only = slices.Sorted(maps.Keys(from))
	}
	name := only[s.rnd.IntN(len(only))]
	return name, from[name]
}

// outrun is a try of a leader, whose leadership move takes away while its write is held back.
func outrun(s *scene, zk *zookeeper.Client, way *fenceWay, what string, move func(st stage), lose bool) string {
	st := leaderWrites[what](s, zk)
	a := st.a
	if a.kept == nil {
		s.t.Fatalf("%s: nothing was written", what)
	}
	a.way = way
	move(st)
	before := s.tree()
	a.writes = 0
	var err error
	if lose {
		// Its answer was lost, and so was the request: it reads everything again, only not that another was elected.
		a.deaf = true
		e := *a.kept
		a.kept = nil
		a.in.answered(s.now, answer{id: e.id, err: zookeeper.ErrUnknown, index: -1})
		a.pump()
		a.plans = true
		for n := 0; n < 100 && (a.in.lead != nil || a.writes == 0); n++ {
			s.now += 150 * time.Millisecond
			a.step()
		}
	} else {
		a.blind = true
		err = a.release()
	}
	for range 3 { // and it goes on
		s.now += 150 * time.Millisecond
		a.step()
	}
	if a.writes == 0 {
		s.t.Fatalf("%s: nothing was tried", what)
	}
	diff := changes(before, s.tree())
	if diff == "" && !lose && err == nil {
		diff = "the answer was that it was done"
	}
	if diff == "" && a.in.lead != nil {
		s.t.Fatalf("%s: it goes on leading, after %v", what, err)
	}
	return diff
}

// dispossess is a try of an owner, whose right goes while its write is held back.
func dispossess(s *scene, zk *zookeeper.Client, way *fenceWay, what string, move func(a, w *actor, l *lane), lose bool) string {
	a, w := s.working(s.clients[2], zk)
	w.way = way
	store, l := s.store(w)
	l.lose = lose
	at := slices.Sorted(maps.Keys(w.in.order.Shards))[0]
	write := ownerWrites[what]
	if s.rnd.IntN(2) == 0 {
		s.must(store.Save(s.t.Context(), []checkpoints.Checkpoint{{Shard: 0, Cursor: "10"}}, checkpoints.Totals{}))
	}
	var before map[string]string
	l.before = func() {
		move(a, w, l)
		before = s.tree()
		l.sent = 0
	}
	err := write(s, store, at)
	if before == nil || l.sent == 0 && !lose {
		s.t.Fatalf("%s: nothing was tried: %v", what, err)
	}
	if err == nil {
		return "the answer was that it was done"
	}
	if _, fenced := errors.AsType[*checkpoints.FencedError](err); !fenced && !errors.Is(err, checkpoints.ErrGone) && !errors.Is(err, ErrLost) {
		if diff := changes(before, s.tree()); diff != "" {
			return diff
		}
		s.t.Fatalf("%s: refused for another reason: %v", what, err)
	}
	// And once more, from the beginning.
	if err := write(s, store, at); err == nil {
		return "the second answer was that it was done"
	}
	return changes(before, s.tree())
}

// taken has a worker's shards given to another one, by name, who may write what it has.
func taken(s *scene, a, w *actor, name string, zk *zookeeper.Client) {
	s.t.Helper()
	w.blind = true
	x := s.actor(name, zk, false, 2)
	s.until("another has both shards", func() bool { return x.holds() == 2 }, a, x)
	if !s.strip && s.rnd.IntN(2) == 0 {
		st, _ := s.store(x)
		s.must(st.Save(s.t.Context(), []checkpoints.Checkpoint{{Shard: 0, Cursor: "20"}}, checkpoints.Totals{}))
	}
}

// restored has a run deleted, and put back from a backup; within is before the restore is at its end. The run's version is then
// what it was, if it can be.
func (s *scene) restored(within bool) {
	s.t.Helper()
	ctx := s.t.Context()
	path := s.p.run("j", "r")
	b, err := s.pool.Backup(ctx)
	s.must(err)
	_, stat, err := s.clients[0].Get(ctx, path)
	s.must(err)
	s.deleteAll(path)
	if within {
		s.must(s.pool.restoreJob(ctx, "j", b.Jobs["j"]))
	} else {
		s.must(s.pool.Restore(ctx, b))
	}
	for paused := false; ; paused = !paused {
		_, now, err := s.clients[0].Get(ctx, path)
		s.must(err)
		if now.Version >= stat.Version {
			return
		}
		if paused {
			s.must(s.pool.Resume(ctx, "j", "r"))
		} else {
			s.must(s.pool.Pause(ctx, "j", "r"))
		}
	}
}

func (s *scene) deleteLeader() {
	s.must(s.clients[0].Delete(s.t.Context(), s.p.leader(), zookeeper.AnyVersion))
}

// fenceKinds are the ways in which a right goes, with how many tries of each there are at full count.
var fenceKinds = []struct {
	name string
	full int
	try  fenceTry
}{
	{"leader: its node deleted and recreated", 90, func(s *scene) (string, string) {
		what, _ := pick(s, leaderWrites)
		return what, outrun(s, s.clients[2], nil, what, func(st stage) {
			s.deleteLeader()
			s.elect(s.clients[3], s.rnd.IntN(2) == 0, st.w)
		}, false)
	}},
	{"leader: elected again in the same process", 40, func(s *scene) (string, string) {
		what, _ := pick(s, leaderWrites)
		return what, outrun(s, s.clients[2], nil, what, func(st stage) {
			s.deleteLeader()
			b := s.elect(s.clients[3], false, nil)
			s.deleteLeader()
			b.blind = true
			s.elect(s.clients[2], s.rnd.IntN(2) == 0, st.w)
		}, false)
	}},
	{"leader: its session ended, a new connection", 50, func(s *scene) (string, string) {
		what, _ := pick(s, leaderWrites)
		zk := s.client(nil)
		return what, outrun(s, zk, nil, what, func(st stage) {
			s.must(zk.Close())
			s.elect(s.clients[3], s.rnd.IntN(2) == 0, st.w)
			st.a.connect(s.client(nil))
		}, false)
	}},
	{"leader: its session expired", 10, func(s *scene) (string, string) {
		what, _ := pick(s, leaderWrites)
		way := &fenceWay{}
		return what, outrun(s, s.client(way), way, what, func(st stage) {
			st.a.expire(s.p.leader())
			s.elect(s.clients[3], s.rnd.IntN(2) == 0, st.w)
		}, false)
	}},
	{"leader: a re-read after connection loss", 50, func(s *scene) (string, string) {
		what, _ := pick(s, leaderWrites, "hand-over", "grants", "first order", "staging", "plan", "done", "limits", "retiring", "schedule")
		return what, outrun(s, s.clients[2], nil, what, func(stage) {
			s.deleteLeader()
			s.elect(s.clients[3], false, nil)
		}, true)
	}},
	{"leader: a run's nodes recreated by restore", 40, func(s *scene) (string, string) {
		what, _ := pick(s, leaderWrites, "hand-over", "plan", "done", "failed")
		return what, outrun(s, s.clients[2], nil, what, func(stage) { s.restored(false) }, false)
	}},
	{"leader: a run's nodes recreated, the restore not at its end", 30, func(s *scene) (string, string) {
		what, prepare := pick(s, leaderWrites, "hand-over", "plan", "done", "failed")
		st := prepare(s, s.clients[2])
		s.restored(true)
		before := s.tree()
		st.a.blind = true
		if err := st.a.release(); err == nil {
			return what, "the answer was that it was done"
		}
		return what, changes(before, s.tree())
	}},
	{"leader: a split between listing and done", 40, func(s *scene) (string, string) {
		st := leaderWrites["done"](s, s.clients[2])
		// The owner's right is as it was: it finds, late, that there is more than it thought.
		at := st.a.in.lead.runs[runKey{"j", "r"}].at
		owner := checkpoints.OpenZooKeeper(st.w.edge.zk, at, st.w.in.id, func(int) (int32, bool) { return 1, true })
		s.must(s.cut(owner, at))
		before := s.tree()
		st.a.blind = true
		err := st.a.release()
		diff := changes(before, s.tree())
		if diff == "" && err == nil {
			diff = "the answer was that it was done"
		}
		if diff == "" && st.a.in.lead == nil {
			s.t.Fatal("it led no more: that was another fence")
		}
		return "done", diff
	}},
	{"leader: elected by an old term", 30, func(s *scene) (string, string) {
		s.found()
		c := s.actor("c", s.clients[2], true, 0)
		c.keep = func(e effect) bool { return writes(e, opEphemeral, s.p.leader()) }
		s.until("c stands for election", func() bool { return c.kept != nil }, c)
		for range 1 + s.rnd.IntN(3) {
			b := s.elect(s.clients[3], s.rnd.IntN(2) == 0, nil)
			b.blind = true
			s.deleteLeader()
		}
		before := s.tree()
		c.blind = true
		err := c.release()
		diff := changes(before, s.tree())
		if diff == "" && err == nil {
			diff = "the answer was that it was done"
		}
		return "term", diff
	}},
	{"owner: given up, its shards taken by another", 50, func(s *scene) (string, string) {
		what, _ := pick(s, ownerWrites)
		return what, dispossess(s, s.clients[1], nil, what, func(a, w *actor, _ *lane) {
			s.must(s.clients[0].Delete(s.t.Context(), s.p.worker(w.in.id), zookeeper.AnyVersion))
			taken(s, a, w, "x", s.clients[3])
		}, false)
	}},
	{"owner: its session ended, a new connection", 40, func(s *scene) (string, string) {
		what, _ := pick(s, ownerWrites)
		zk := s.client(nil)
		return what, dispossess(s, zk, nil, what, func(a, w *actor, l *lane) {
			s.must(zk.Close())
			taken(s, a, w, "x", s.clients[3])
			w.connect(s.client(nil))
			l.Ensemble = w.edge.zk
		}, false)
	}},
	{"owner: its session expired", 10, func(s *scene) (string, string) {
		what, _ := pick(s, ownerWrites)
		way := &fenceWay{}
		return what, dispossess(s, s.client(way), way, what, func(a, w *actor, l *lane) {
			w.expire(s.p.worker(w.in.id))
			taken(s, a, w, "x", s.clients[3])
			l.Ensemble = w.edge.zk
		}, false)
	}},
	{"owner: the same worker started twice", 50, func(s *scene) (string, string) {
		what, _ := pick(s, ownerWrites)
		zk := s.client(nil)
		return what, dispossess(s, zk, nil, what, func(a, w *actor, l *lane) {
			// The second is there while the first is, under the same name, and takes over when the first one's session ends; the
			// first lives on.
			second := s.actor("w", s.clients[3], false, 2)
			s.until("the second one is known", func() bool { m := a.in.lead.members[second.in.id]; return m != nil && m.seen }, a, second)
			s.must(zk.Close())
			w.blind = true
			s.until("the second one has both shards", func() bool { return second.holds() == 2 }, a, second)
			w.connect(s.client(nil))
			l.Ensemble = w.edge.zk
		}, false)
	}},
	{"owner: asked back while it writes", 40, func(s *scene) (string, string) {
		what, _ := pick(s, ownerWrites)
		return what, dispossess(s, s.clients[1], nil, what, func(a, w *actor, _ *lane) {
			s.must(s.pool.DrainWorker(s.t.Context(), "w", true))
			x := s.actor("x", s.clients[3], false, 2)
			s.until("they are asked back", func() bool { return w.holds() == 0 }, a, w)
			for _, l := range w.in.leases {
				if l.state == leaseEnding {
					w.in.let(l, false, "")
				}
			}
			s.until("another has both shards", func() bool { return x.holds() == 2 }, a, w, x)
		}, false)
	}},
	{"owner: a re-read after connection loss", 40, func(s *scene) (string, string) {
		what, _ := pick(s, ownerWrites)
		return what, dispossess(s, s.clients[1], nil, what, func(a, w *actor, _ *lane) {
			s.must(s.clients[0].Delete(s.t.Context(), s.p.worker(w.in.id), zookeeper.AnyVersion))
			taken(s, a, w, "x", s.clients[3])
		}, true)
	}},
	{"owner: a run's nodes recreated by restore", 40, func(s *scene) (string, string) {
		what, _ := pick(s, ownerWrites)
		return what, dispossess(s, s.clients[1], nil, what, func(_, w *actor, _ *lane) {
			w.blind = true
			s.restored(s.rnd.IntN(2) == 0)
		}, false)
	}},
}

// fenceStage starts the servers, and gives what makes scenes on them.
func fenceStage(t *testing.T) func(t *testing.T, rnd *rand.Rand) func() *scene {
	if testing.Short() {
		t.Skip("starting ZooKeeper takes seconds: not with -short")
	}
	e, err := stack.StartEnsemble(t.Context(), stack.EnsembleOptions{Tick: 500 * time.Millisecond})
	if errors.Is(err, stack.ErrNoTools) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	var mu sync.Mutex
	roots := 0
	return func(t *testing.T, rnd *rand.Rand) func() *scene {
		var clients []*zookeeper.Client
		for range 4 {
			z := openFenceClient(t, e.Addrs(), nil)
			t.Cleanup(func() { z.Close() })
			clients = append(clients, z)
		}
		return func() *scene {
			mu.Lock()
			defer mu.Unlock()
			roots++
			p := paths(fmt.Sprintf("/fences/%d", roots))
			return &scene{
				t: t, rnd: rnd, servers: e.Addrs(), clients: clients, p: p, now: time.Minute, began: time.Now(),
				pool: Pool{ZK: clients[0], Root: string(p), By: "test"},
			}
		}
	}
}

func fenceSeed(t *testing.T) uint64 {
	seed := rand.Uint64()
	if text := os.Getenv("DROVER_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("DROVER_SEED=%s: want a number from 0", text)
		}
		seed = n
	}
	t.Logf("DROVER_SEED=%d repeats this", seed)
	return seed
}

// No control write of who lost the right to it is accepted, however late it comes and however the right went.
func TestFences(t *testing.T) {
	scenes := fenceStage(t)
	seed := fenceSeed(t)
	var mu sync.Mutex
	tries, accepted := 0, 0
	lines := make([]string, len(fenceKinds))
	t.Run("try", func(t *testing.T) {
		for i, k := range fenceKinds {
			t.Run(k.name, func(t *testing.T) {
				t.Parallel()
				rnd := rand.New(rand.NewPCG(seed, uint64(i)))
				next := scenes(t, rnd)
				n := (k.full + 8) / 9
				if os.Getenv("DROVER_PROVE") == "1" {
					n = k.full
				}
				took, by := 0, map[string]int{}
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					tries += took
					var b bytes.Buffer
					for _, what := range slices.Sorted(maps.Keys(by)) {
						fmt.Fprintf(&b, ", %s %d", what, by[what])
					}
					lines[i] = fmt.Sprintf("%s: %d tries (%s)", k.name, took, strings.TrimPrefix(b.String(), ", "))
				}()
				for range n {
					s := next()
					what, changed := k.try(s)
					s.close()
					took++
					by[what]++
					if changed != "" {
						mu.Lock()
						accepted++
						mu.Unlock()
						t.Errorf("%s was accepted:\n%s", what, changed)
					}
				}
			})
		}
	})
	for _, line := range lines {
		t.Log(line)
	}
	least := 60
	if os.Getenv("DROVER_PROVE") == "1" {
		least = 500
	}
	t.Logf("control writes by stale owners or leaders accepted: %d of %d tries", accepted, tries)
	if tries < least {
		t.Errorf("%d tries prove too little: want %d", tries, least)
	}
}

// Without its fence each of these writes is accepted: so it was the fence that refused them above, and they would have been
// seen. Whoever has the right meanwhile has not written yet.
func TestFencesAreNeeded(t *testing.T) {
	scenes := fenceStage(t)
	rnd := rand.New(rand.NewPCG(1, 1))
	next := scenes(t, rnd)
	need := func(what string, try func(s *scene) string) {
		s := next()
		s.strip = true
		if try(s) == "" {
			t.Errorf("%s without its fence changed nothing", what)
		}
		s.close()
	}
	for _, what := range slices.Sorted(maps.Keys(leaderWrites)) {
		need("leader: "+what, func(s *scene) string {
			st := leaderWrites[what](s, s.clients[2])
			s.deleteLeader()
			s.elect(s.clients[3], false, nil)
			before := s.tree()
			st.a.blind = true
			st.a.release()
			return changes(before, s.tree())
		})
	}
	for _, what := range slices.Sorted(maps.Keys(ownerWrites)) {
		need("owner: "+what, func(s *scene) string {
			return dispossess(s, s.clients[1], nil, what, func(a, w *actor, _ *lane) {
				s.must(s.clients[0].Delete(s.t.Context(), s.p.worker(w.in.id), zookeeper.AnyVersion))
				taken(s, a, w, "x", s.clients[3])
			}, false)
		})
	}
	for _, k := range fenceKinds {
		if strings.Contains(k.name, "old term") || strings.Contains(k.name, "split between") {
			need(k.name, func(s *scene) string { _, changed := k.try(s); return changed })
		}
	}
}
