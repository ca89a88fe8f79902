package fleet

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"drover/zookeeper"
)

// incarnation is a member from one session to the next: a worker that stands for election, and a leader while it is elected.
// It is pure: it is told what happens, with the time, and gives effects.
type incarnation struct {
	*machine
	*worker
	lead   *leader // nil while somebody else leads
	memory *memory
	name   func() string
	rand   *rand.Rand

	vacant  bool          // the leader's node was seen missing
	mine    bool          // the leader's node is this incarnation's
	since   time.Duration // when it may stand for election
	term    node
	known   bool // the term was seen
	record  termRecord
	running bool // its election is being written
	leads   bool // it may be elected
}

func newIncarnation(p paths, id string, timeout time.Duration, self beatRecord, mem *memory, name func() string, r *rand.Rand) *incarnation {
	m := newMachine()
	return &incarnation{
		leads: true, machine: m, worker: newWorker(m, p, id, timeout, self, mem, name), memory: mem, name: name, rand: r,
	}
}

func (i *incarnation) start(now time.Duration) {
	i.worker.start(now)
	i.machine.watch(i.p.leader(), func(n node) {
		i.mine = false
		if t, err := decode[termRecord](i.p.leader(), n.data); n.exists && err == nil {
			i.mine = strings.HasPrefix(t.Leader, i.id+".")
		}
		if i.vacant = !n.exists; i.vacant && i.lead == nil {
			// Not all at once: most see that another was elected before their turn.
			i.since = i.machine.now + time.Duration(i.rand.Int64N(int64(i.timeout/20)+1))
		}
	})
	i.machine.watch(i.p.term(), func(n node) {
		if n.exists {
			t, err := decode[termRecord](i.p.term(), n.data)
			if err != nil {
				i.known = false
				i.worker.fault = err
				return
			}
			i.record = t
		}
		i.memory.sawTerm(n, i.record)
		i.term, i.known = n, n.exists
		if i.lead != nil && n.exists && n.version > i.lead.term {
			i.resign()
		}
	})
}

func (i *incarnation) resign() {
	i.lead.stop()
	i.lead = nil
}

// leave says that nothing is worked on any more, and leads no more. over tells that the leader heard it, or has nothing to hear.
func (i *incarnation) leave(now time.Duration) (over bool) {
	i.machine.now = now
	if !i.self.Left {
		i.self.Left, i.leads = true, false
		i.tell()
		if l := i.lead; l != nil {
			i.resign()
			i.vacate(l.fence)
		}
	}
	return i.dead || !i.registered || i.order.Rev == 0
}

// vacate gives the leader's place up, in the term that the fence names.
func (i *incarnation) vacate(fence op) {
	i.machine.write([]op{fence, remove(i.p.leader(), -1)}, 1, func(v verdict) {
		if !v.done && v.at < 0 {
			i.vacate(fence)
		}
	})
}

func (i *incarnation) tick(now time.Duration) {
	i.machine.now = now
	i.worker.tick(now)
	i.alarm()
	if i.lead != nil && i.memory.isHeld() {
		i.resign() // its term may be one that ZooKeeper has forgotten, and gives again
	}
	if i.lead != nil {
		i.lead.tick(now)
		if i.lead.over {
			i.resign()
		}
		return
	}
	if i.mine && !i.running && i.known && !i.self.Left {
		// It lost the term and not its session, or resigned because everything is held. Whoever comes next waits for this node to go.
		i.running = true
		i.machine.write([]op{check(i.p.term(), i.term.version), remove(i.p.leader(), -1)}, 1, func(v verdict) {
			i.running = false
			i.mine = i.mine && !v.done
		})
	}
	i.stand()
}

// alarm writes into the term that everything is held, and why, so that all hold who have not seen it, and nobody leads: not a worker
// either that is started now, which has seen nothing.
func (i *incarnation) alarm() {
	why := i.memory.alert()
	if why == "" || i.record.Held != "" || i.running || !i.known || i.dead || !i.registered {
		return
	}
	i.running = true
	t := i.record
	t.V, t.Held = format, i.id+" found: "+why
	i.machine.write([]op{set(i.p.term(), encode(t), i.term.version)}, 0, func(verdict) { i.running = false })
}

// stand has the member elected, if nobody leads: its node and the next term in one write, so that whoever led before writes
// nothing more. The term's node is never made here: its version would begin again.
func (i *incarnation) stand() {
	if !i.leads || !i.vacant || i.running || !i.known || i.dead || !i.registered || i.machine.now < i.since || i.memory.isHeld() {
		return
	}
	i.running = true
	t, v := i.record, i.term.version
	t.V, t.Leader = format, i.id+"."+i.name()
	i.machine.write([]op{ephemeral(i.p.leader(), encode(t)), set(i.p.term(), encode(t), v)}, 0, func(d verdict) {
		i.running = false
		i.since = i.machine.now + i.timeout/10
		if !d.done {
			if errors.Is(d.err, zookeeper.ErrNodeExists) || errors.Is(d.err, zookeeper.ErrBadVersion) {
				i.vacant = false // until it is seen so again
				i.machine.get(i.p.leader(), true, func(n node) { i.vacant = !n.exists })
			}
			return
		}
		i.vacant = false
		i.lead = newLeader(i.machine, i.p, i.id, i.timeout, i.memory, v+1, i.name)
		i.lead.wall = i.wall
		i.lead.start(i.machine.now)
	})
}
