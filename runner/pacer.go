package runner

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"drover/budget"
	"drover/hbase"
)

// pacer holds each attempt to its table's budget. Tables without a budget are not held.
type pacer struct {
	members atomic.Pointer[map[string]*budget.Member]

	mu      sync.Mutex
	holding int       // attempts that wait
	since   time.Time // when the first of them began to
	held    time.Duration
}

func newPacer() *pacer {
	p := &pacer{}
	p.members.Store(&map[string]*budget.Member{})
	return p
}

// add is for the time before the run moves; it is not safe beside itself.
func (p *pacer) add(table string, m *budget.Member) {
	next := maps.Clone(*p.members.Load())
	next[table] = m
	p.members.Store(&next)
}

func (p *pacer) close() {
	for _, m := range *p.members.Load() {
		m.Close()
	}
}

// Wait implements hbase.Pacer.
func (p *pacer) Wait(ctx context.Context, table string, rows, bytes int) error {
	m := (*p.members.Load())[table]
	if m == nil {
		return ctx.Err()
	}
	p.hold(1)
	defer p.hold(-1)
	_, err := m.Wait(ctx, rows, bytes)
	return err
}

// hold counts who waits. What is summed is time on the clock in which anybody did, not each one's.
func (p *pacer) hold(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holding == 0 {
		p.since = time.Now()
	}
	if p.holding += n; p.holding == 0 {
		p.held += time.Since(p.since)
	}
}

// limited is for how long attempts were held.
func (p *pacer) limited() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holding > 0 {
		return p.held + time.Since(p.since)
	}
	return p.held
}

// Observe implements hbase.Pacer. The limits here are fixed; what gateways say is the pool's to answer.
func (p *pacer) Observe(string, hbase.Kind, time.Duration) {}
