package fleet

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"drover/checkpoints"
	"drover/fleet/share"
	"drover/jobs"
	"drover/zookeeper"
)

// leaseFor is how long after the sending of a beat that was acknowledged a member is sure that its session lives. A server
// gives up a session when it has not heard of it for the timeout, counted from no earlier than when the beat came. What is
// taken off: a server's tick, which is at most a half but by default a twentieth of the timeout; clocks that run apart by
// a hundredth; and what stands between the last look at the clock and the gateway.
func leaseFor(timeout time.Duration) time.Duration { return timeout * 7 / 10 }

// beatEvery is how often a member tells of itself.
func beatEvery(timeout time.Duration) time.Duration { return timeout / 3 }

// beatGap is the least time between two beats, when there is news.
func beatGap(timeout time.Duration) time.Duration { return min(timeout/20, 500*time.Millisecond) }

type leaseState uint8

const (
	leaseLoading leaseState = iota // its checkpoint is being read
	leaseReady                     // waits to be taken
	leaseTaken                     // is worked on
	leaseEnding                    // was lost or asked back while worked on: the work ends
	leaseLet                       // let go for good, under this epoch
)

// lease is the right to a shard under one epoch.
type lease struct {
	key   shardKey
	epoch int32
	state leaseState
	shard jobs.Shard
	from  checkpoints.Checkpoint
	done  bool
	why   string

	ask      int64 // to split it, as ordered; 0 is none
	answered int64 // the ask that was obeyed
	whole    bool  // it cannot be split
}

// asks tells whether the shard is wanted in two.
func (l *lease) asks() bool {
	return l.state == leaseTaken && l.ask != 0 && l.ask != l.answered && !l.whole
}

// runView is a run as a worker sees it.
type runView struct {
	key     runKey
	attempt string // path
	watch   int
	known   bool
	record  runRecord
	saved   time.Duration // when something of it was saved first; 0 is never
	begun   bool          // that was a while ago
}

// works tells whether leases of this attempt may be worked on.
func (r *runView) works() bool {
	return r.known && r.record.State == Running && base(r.attempt) == r.record.Attempt
}

// worker is the part of a member that obeys: it tells its beats, takes up what it is ordered and lets go what is asked back.
// It lives as long as its session.
type worker struct {
	*machine
	p       paths
	id      string
	timeout time.Duration // of the session
	self    beatRecord    // what is constant of the beats, and the wants
	memory  *memory

	registered bool
	denied     error // it may not be part of the pool
	dead       bool  // its node went, or its order says that it was given up: a new incarnation is needed
	order      orderRecord
	fault      error // of the order
	leases     map[shardKey]*lease
	unsure     map[shardKey]bool   // those of which a write may still be under way: they are read behind it
	runs       map[string]*runView // by attempt path
	tables     map[string]*tableView
	plans      map[runKey]*planning
	toPlan     []runKey         // for the edge, which answers with planned
	name       func() string    // a new random name
	wall       func() time.Time // the time of day; nil tells none

	deadline time.Duration // until then the session lives for sure
	sent     time.Duration // the last beat
	news     bool          // there is something to tell before the next beat is due
	beating  bool
	beats    int
}

type tableView struct {
	watch  int
	known  bool
	record tableRecord
}

func newWorker(m *machine, p paths, id string, timeout time.Duration, self beatRecord, mem *memory, name func() string) *worker {
	self.V = format
	return &worker{
		machine: m, p: p, id: id, timeout: timeout, self: self, memory: mem, name: name,
		leases: map[shardKey]*lease{}, unsure: map[shardKey]bool{}, runs: map[string]*runView{}, tables: map[string]*tableView{}, plans: map[runKey]*planning{},
	}
}

// start registers.
func (w *worker) start(now time.Duration) {
	w.now = now
	sent := now
	w.write(w.withTide(ephemeral(w.p.worker(w.id), encode(w.beat()))), 0, func(v verdict) {
		switch {
		case v.done:
			w.sawTide(v.after)
			w.registered = true
			w.sent = sent
			w.deadline = sent + leaseFor(w.timeout)
			w.watch(w.p.order(w.id), w.ordered)
		case errors.Is(v.err, zookeeper.ErrNoNode) && v.at == 1:
			w.noTide()
			w.start(w.now)
		case errors.Is(v.err, zookeeper.ErrNoNode):
			w.dead = true // the pool's root is gone: the member looks why
		case errors.Is(v.err, zookeeper.ErrNoAuth):
			w.dead, w.denied = true, fmt.Errorf("create %s: %w: it takes the digest that the pool was made with", w.p.worker(w.id), zookeeper.ErrNoAuth)
		default:
			w.start(w.now)
		}
	})
}

// beat is what there is to tell.
func (w *worker) beat() beatRecord {
	b := w.self
	b.Seen = w.order.Rev
	b.Held = w.memory.alert()
	b.Let, b.Grants, b.Asked, b.Begun = nil, nil, nil, nil
	for _, at := range slices.Sorted(maps.Keys(w.runs)) {
		if w.runs[at].begun {
			b.Begun = append(b.Begun, at)
		}
	}
	for _, g := range w.order.Grants {
		b.Grants = append(b.Grants, seen{g.budget, share.Newest(g.List).ID})
	}
	for _, k := range slices.SortedFunc(maps.Keys(w.leases), compareKeys) {
		switch l := w.leases[k]; {
		case l.state == leaseLet:
			b.Let = append(b.Let, let{At: k.at, N: k.n, Epoch: l.epoch, Done: l.done, Why: l.why})
		case l.whole:
			b.Asked = append(b.Asked, asked{At: k.at, N: k.n, Epoch: l.epoch, Whole: true})
		case l.ask != 0 && l.ask == l.answered:
			b.Asked = append(b.Asked, asked{At: k.at, N: k.n, Epoch: l.epoch, Ask: l.ask})
		}
	}
	return b
}

func compareKeys(a, b shardKey) int {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.n, b.n))
}

// tick does what is due.
func (w *worker) tick(now time.Duration) {
	w.now = now
	for _, r := range w.runs {
		if r.saved > 0 && !r.begun && now-r.saved >= settleIn {
			r.begun = true
			w.tell()
		}
	}
	w.replan()
	if !w.registered || w.dead || w.beating {
		return
	}
	if since := now - w.sent; since < beatEvery(w.timeout) && !(w.news && since >= beatGap(w.timeout)) {
		return
	}
	w.sent, w.news, w.beating = now, false, true
	sent := now
	w.beats++
	w.ask(effect{kind: doMulti, ops: w.withTide(set(w.p.worker(w.id), encode(w.beat()), zookeeper.AnyVersion))}, func(a answer) {
		w.beating = false
		switch {
		case a.err == nil:
			w.deadline = max(w.deadline, sent+leaseFor(w.timeout))
			w.memory.sawBeat(w.p.worker(w.id), a.after[0])
			w.sawTide(a.after)
		case errors.Is(a.err, zookeeper.ErrNoNode) && a.index == 1:
			w.noTide()
		case errors.Is(a.err, zookeeper.ErrNoNode):
			w.dead = true
		default:
			w.news = true
		}
	})
}

// withTide is a beat that raises the tide, in the same write. One that holds does not: what it found is behind what all others have
// seen, and has to stay there until each of them has found it too.
func (w *worker) withTide(beat op) []op {
	if w.memory.isHeld() {
		return []op{beat}
	}
	return []op{beat, set(w.p.tide(), nil, zookeeper.AnyVersion)}
}

func (w *worker) sawTide(after []int32) {
	if len(after) == 2 {
		w.memory.sawTide(after[1])
	}
}

func (w *worker) noTide() {
	w.memory.hold("tide", w.p.tide()+" is gone: a part of the pool's nodes was deleted")
}

// tell has the next beat sent soon.
func (w *worker) tell() { w.news = true }

// ordered takes the leader's word.
func (w *worker) ordered(n node) {
	if !n.exists {
		if w.order.Rev > 0 {
			// The leader takes away the order only of one that it has given up.
			w.dead = true
		}
		return
	}
	o, err := decode[orderRecord](w.p.order(w.id), n.data)
	if w.fault = err; err != nil || o.Rev < w.order.Rev {
		return
	}
	if o.Rev > w.order.Rev {
		w.order = o
		w.tell()
	}
	for _, at := range slices.Sorted(maps.Keys(o.Shards)) {
		if w.runs[at] == nil {
			if k, ok := w.p.runOf(at); ok {
				r := &runView{key: k, attempt: at}
				w.runs[at] = r
				r.watch = w.watch(w.p.run(k.job, k.id), func(n node) { w.sawRun(r, n) })
			}
		}
	}
	for _, at := range slices.Sorted(maps.Keys(w.runs)) {
		if _, has := o.Shards[at]; !has && !w.busy(at) {
			w.forget(w.runs[at].watch)
			delete(w.runs, at)
		}
	}
	for _, g := range o.Grants {
		w.watchTable(g.Table)
	}
	w.asked(o.Plans)
	w.settle()
}

// watchTable has a table's limit known.
func (w *worker) watchTable(name string) *tableView {
	t := w.tables[name]
	if t == nil {
		t = &tableView{}
		w.tables[name] = t
		t.watch = w.watch(w.p.table(name), func(n node) {
			r, err := decode[tableRecord](w.p.table(name), n.data)
			if t.known = n.exists && err == nil; t.known {
				t.record = r
			}
		})
	}
	return t
}

// busy tells whether leases of an attempt are not let go yet.
func (w *worker) busy(at string) bool {
	for k, l := range w.leases {
		if k.at == at && l.state != leaseLet {
			return true
		}
	}
	return false
}

func (w *worker) sawRun(r *runView, n node) {
	path := w.p.run(r.key.job, r.key.id)
	if !w.memory.sawRun(path, n) {
		r.known = false
		w.settle()
		return
	}
	rec, err := decode[runRecord](path, n.data)
	r.known = err == nil
	r.record = rec
	w.settle()
}

// settle brings the leases in line with the order and the runs.
func (w *worker) settle() {
	want := map[shardKey]slot{}
	for at, slots := range w.order.Shards {
		for _, s := range slots {
			want[shardKey{at, s.N}] = s
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(w.leases), compareKeys) {
		l := w.leases[k]
		s, ordered := want[k]
		r := w.runs[k.at]
		works := r != nil && r.works()
		same := ordered && s.Epoch == l.epoch
		if l.ask = 0; same {
			l.ask = s.Ask
		}
		switch l.state {
		case leaseTaken:
			if !same || s.Back || !works {
				l.state = leaseEnding
			}
		case leaseLoading, leaseReady:
			switch {
			case !same:
				delete(w.leases, k)
			case s.Back:
				l.state = leaseLet
				w.tell()
			case !works:
				delete(w.leases, k) // made anew when the run goes on
			}
		case leaseLet:
			if !same {
				delete(w.leases, k)
			}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(want), compareKeys) {
		s, r := want[k], w.runs[k.at]
		if w.leases[k] != nil || r == nil {
			continue
		}
		switch {
		case s.Back:
			w.leases[k] = &lease{key: k, epoch: s.Epoch, state: leaseLet}
			w.tell()
		case r.works():
			w.load(k, s)
		}
	}
}

// load makes a lease, and reads the checkpoint. It is read after the order that names the epoch, which came with the epoch in
// one write; so it holds all that was written under the epochs before, and nobody writes under them any more.
func (w *worker) load(k shardKey, s slot) {
	l := &lease{key: k, epoch: s.Epoch, ask: s.Ask}
	w.leases[k] = l
	unsure := w.unsure[k]
	delete(w.unsure, k)
	w.get(k.markPath(), unsure, func(n node) {
		if w.leases[k] != l || l.state != leaseLoading {
			return
		}
		if !n.exists {
			l.state, l.why = leaseLet, checkpoints.ErrGone.Error()
			w.tell()
			return
		}
		m, err := checkpoints.DecodeMark(n.data)
		if err == nil {
			err = json.Unmarshal(m.Shard, &l.shard)
		}
		if err != nil {
			l.state, l.why = leaseLet, err.Error()
			w.tell()
			return
		}
		if m.Checkpoint != nil {
			l.from = *m.Checkpoint
		}
		l.from.Shard = k.n
		if l.from.Done {
			l.state, l.done = leaseLet, true
			w.tell()
			return
		}
		l.state = leaseReady
	})
}

// sure tells whether work under leases is allowed now.
func (w *worker) sure(now time.Duration) bool {
	return w.registered && !w.dead && now < w.deadline && !w.memory.isHeld()
}

// grab starts work on a lease that is ready.
func (w *worker) grab(l *lease) { l.state = leaseTaken }

// settleIn is for how long a worker has saved something of a run before it says that it has begun: in that time its part of the limits
// grows to what it is to be.
const settleIn = 2 * time.Second

// began takes that something of an attempt was saved: the source is open, the table is reached, and there is a part of the limits.
func (w *worker) began(at string) {
	if r := w.runs[at]; r != nil && r.saved == 0 {
		r.saved = w.now
	}
}

// cut takes that a lease is for less from now on: the rest is a shard of its own.
func (w *worker) cut(l *lease, head jobs.Shard) {
	l.shard, l.answered = head, l.ask
	w.tell()
}

// keep takes that a lease's shard cannot be split.
func (w *worker) keep(l *lease) {
	l.whole = true
	w.tell()
}

// let takes the end of work on a lease: nothing is in flight any more. why is the fault that ended it, "" for none.
func (w *worker) let(l *lease, done bool, why string) {
	l.done, l.why = done, why
	asked := false
	for _, s := range w.order.Shards[l.key.at] {
		if s.N == l.key.n && s.Epoch == l.epoch {
			asked = s.Back
		}
	}
	if w.leases[l.key] != l {
		return
	}
	if !done && why == "" && !asked {
		// Paused, or another epoch was ordered meanwhile: as if it had never been taken.
		delete(w.leases, l.key)
		w.settle()
		return
	}
	l.state = leaseLet
	w.tell()
	w.settle()
}

// refuse lets go what nobody works on of a run, because of a fault.
func (w *worker) refuse(at, why string) {
	for k, l := range w.leases {
		if k.at == at && l.state == leaseReady {
			l.state, l.why = leaseLet, why
			w.tell()
		}
	}
}

// grants are the newest of each budget, which are in force.
func (w *worker) grants() map[budget]share.Grant {
	all := map[budget]share.Grant{}
	for _, g := range w.order.Grants {
		all[g.budget] = share.Newest(g.List)
	}
	return all
}
