package runner

import (
	"container/list"
	"context"
	"sync"
)

// memory bounds the bytes in flight for the process: what readers have read and what was encoded from it, until it is
// settled. Waiters are served in order, so a large document is not starved by small ones. It implements jobs.Memory.
type memory struct {
	bound   int
	readers int // how many shards may be read at a time; 0 is few

	mu      sync.Mutex
	held    int       // may exceed bound by what Adjust added, at most a chunk's growth for each shard
	waiters list.List // of *memoryWaiter
}

type memoryWaiter struct {
	n     int
	ready chan struct{}
}

// chunksEach is how many chunks of a shard are held at a time: what is read ahead, what is handed over, and what is on its way, each three
// times as large as its documents.
const chunksEach = 16

// Chunk implements jobs.Crowded. At a low rate a chunk is held for as long as it takes to send it, so with large chunks a few shards
// would leave no memory to those that come later: what counts is how many there may be.
func (m *memory) Chunk() int {
	if m.readers == 0 {
		return m.bound
	}
	return m.bound / (chunksEach * m.readers)
}

func (m *memory) fitsLocked(n int) bool { return m.held == 0 || m.held+n <= m.bound }

// Acquire waits until n bytes are free, or until nothing is held at all.
func (m *memory) Acquire(ctx context.Context, n int) error {
	m.mu.Lock()
	if m.waiters.Len() == 0 && m.fitsLocked(n) {
		m.held += n
		m.mu.Unlock()
		return nil
	}
	w := &memoryWaiter{n: n, ready: make(chan struct{})}
	e := m.waiters.PushBack(w)
	m.mu.Unlock()

	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		select {
		case <-w.ready: // granted in the same moment: give it back
			m.held -= n
			m.grantLocked()
		default:
			m.waiters.Remove(e)
			m.grantLocked() // a smaller one behind it may fit now
		}
		return context.Cause(ctx)
	}
}

// Adjust corrects what is held, without waiting.
func (m *memory) Adjust(delta int) {
	m.mu.Lock()
	m.held += delta
	if m.held < 0 {
		panic("runner: more memory given back than was acquired")
	}
	if delta < 0 {
		m.grantLocked()
	}
	m.mu.Unlock()
}

func (m *memory) grantLocked() {
	for e := m.waiters.Front(); e != nil; e = m.waiters.Front() {
		w := e.Value.(*memoryWaiter)
		if !m.fitsLocked(w.n) {
			return
		}
		m.held += w.n
		m.waiters.Remove(e)
		close(w.ready)
	}
}

func (m *memory) inUse() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}

// starved says that a reader is waiting.
func (m *memory) starved() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiters.Len() > 0
}
