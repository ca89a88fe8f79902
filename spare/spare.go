// Package spare keeps large buffers for the next who needs one. A sync.Pool is emptied by the collector, whose rounds come with
// what is allocated: buffers of half a megabyte that are made anew after each round, and grown by doubling, bring the next one on.
// A List is emptied by nobody and bounded in bytes instead.
//
// Not for anything small, nor for what many processors take at the same moment: a List is one lock.
package spare

import "sync"

// List holds what is not in use. The last one put is the first one taken, while the processor still has it in its cache. The zero
// value keeps nothing.
type List[T any] struct {
	Most int // bytes kept

	mu   sync.Mutex
	kept []item[T]
	held int
}

type item[T any] struct {
	v    T
	size int
}

// Get gives one back, or the zero value when there is none.
func (l *List[T]) Get() (v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.kept) - 1
	if n < 0 {
		return v
	}
	it := l.kept[n]
	l.kept[n] = item[T]{}
	l.kept = l.kept[:n]
	l.held -= it.size
	return it.v
}

// Put keeps one that takes size bytes, unless that would be too much. Its caller must not use it again.
func (l *List[T]) Put(v T, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held+size > l.Most {
		return
	}
	l.kept = append(l.kept, item[T]{v, size})
	l.held += size
}
