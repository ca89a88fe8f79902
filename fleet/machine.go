package fleet

import (
	"bytes"
	"errors"
	"time"

	"drover/zookeeper"
)

// node is what stands at a path.
type node struct {
	exists  bool
	data    []byte
	version int32
	created int64 // zxid
	owner   int64 // session of an ephemeral one
}

type opKind uint8

const (
	opCheck opKind = iota
	opSet
	opCreate
	opEphemeral
	opDelete
)

// op is one operation of a multi.
type op struct {
	kind    opKind
	path    string
	data    []byte
	version int32
}

func check(path string, version int32) op { return op{kind: opCheck, path: path, version: version} }
func set(path string, data []byte, version int32) op {
	return op{kind: opSet, path: path, data: data, version: version}
}
func create(path string, data []byte) op    { return op{kind: opCreate, path: path, data: data} }
func ephemeral(path string, data []byte) op { return op{kind: opEphemeral, path: path, data: data} }
func remove(path string, version int32) op {
	return op{kind: opDelete, path: path, version: version}
}

func (o op) zookeeper() zookeeper.Op {
	switch o.kind {
	case opSet:
		return zookeeper.SetOp(o.path, o.data, o.version)
	case opCreate:
		return zookeeper.CreateOp(o.path, o.data)
	case opEphemeral:
		return zookeeper.CreateOp(o.path, o.data, zookeeper.Ephemeral)
	case opDelete:
		return zookeeper.DeleteOp(o.path, o.version)
	default:
		return zookeeper.Check(o.path, o.version)
	}
}

type effectKind uint8

const (
	doGet effectKind = iota
	doList
	doMulti
	doWatch     // and tell of the node again whenever it may have changed
	doWatchList // the same of its children
	doForget    // a watch, by its id
)

// effect is something that a machine wants done. What it is answered, once or for a watch many times, has its id.
type effect struct {
	id   int
	kind effectKind
	path string
	ops  []op
	sync bool // before a get: it must see all that was written
}

// answer is of an effect. Errors are those of package zookeeper; a node that does not exist is none.
type answer struct {
	id    int
	err   error
	index int     // of the operation that was refused, with err
	after []int32 // of a multi that was done: the versions of what it wrote, by operation
	node  node
	names []string
}

// machine is what leader and worker are made of: it keeps what was asked until it is answered. It belongs to one session:
// when that is lost, so is the machine, and what it still asks is never done.
type machine struct {
	now     time.Duration // of the host's boot clock, as of the present step
	out     []effect
	waiting map[int]func(answer)
	watched map[int]bool // of those waiting, which stay
	next    int
}

func newMachine() *machine {
	return &machine{waiting: map[int]func(answer){}, watched: map[int]bool{}}
}

func (m *machine) ask(e effect, f func(answer)) int {
	m.next++
	e.id = m.next
	m.waiting[e.id] = f
	m.out = append(m.out, e)
	return e.id
}

// take gives the effects that came up.
func (m *machine) take() []effect {
	out := m.out
	m.out = nil
	return out
}

// answered takes an answer.
func (m *machine) answered(now time.Duration, a answer) {
	m.now = now
	f := m.waiting[a.id]
	if f == nil {
		return
	}
	if !m.watched[a.id] {
		delete(m.waiting, a.id)
	}
	f(a)
}

// get reads a node until it is told. What has a connection is told within a session timeout.
func (m *machine) get(path string, sync bool, f func(node)) {
	m.ask(effect{kind: doGet, path: path, sync: sync}, func(a answer) {
		if a.err != nil {
			m.get(path, sync, f)
			return
		}
		f(a.node)
	})
}

// list reads the names of a node's children until it is told; none when there is no such node.
func (m *machine) list(path string, f func(names []string, exists bool)) {
	m.ask(effect{kind: doList, path: path}, func(a answer) {
		if a.err != nil {
			m.list(path, f)
			return
		}
		f(a.names, a.node.exists)
	})
}

func (m *machine) watch(path string, f func(node)) int {
	id := m.ask(effect{kind: doWatch, path: path}, func(a answer) {
		if a.err == nil {
			f(a.node)
		}
	})
	m.watched[id] = true
	return id
}

func (m *machine) watchList(path string, f func(names []string, exists bool)) int {
	id := m.ask(effect{kind: doWatchList, path: path}, func(a answer) {
		if a.err == nil {
			f(a.names, a.node.exists)
		}
	})
	m.watched[id] = true
	return id
}

func (m *machine) forget(id int) {
	if m.watched[id] {
		delete(m.watched, id)
		delete(m.waiting, id)
		m.out = append(m.out, effect{id: id, kind: doForget})
	}
}

// verdict is what became of a write: done, or refused because of an operation, or neither, for which it was not done.
type verdict struct {
	done  bool
	at    int // the operation that was refused; -1 when none was
	err   error
	after []int32 // as in answer; nil when its answer was lost
}

// write does all operations or none. When the answer is lost, proof, an operation, tells: it is a set or a creation whose data
// nobody else ever writes, or a deletion, and nobody writes that node again before f is called. So f gets the truth.
func (m *machine) write(ops []op, proof int, f func(verdict)) {
	m.ask(effect{kind: doMulti, ops: ops}, func(a answer) {
		switch {
		case a.err == nil:
			f(verdict{done: true, at: -1, after: a.after})
		case errors.Is(a.err, zookeeper.ErrUnknown):
			m.get(ops[proof].path, true, func(n node) {
				if ops[proof].kind == opDelete && !n.exists || n.exists && bytes.Equal(n.data, ops[proof].data) {
					f(verdict{done: true, at: -1})
				} else {
					f(verdict{at: -1, err: errNotDone})
				}
			})
		default:
			f(verdict{at: a.index, err: a.err})
		}
	})
}

var errNotDone = errors.New("its answer was lost, and it was not done")
