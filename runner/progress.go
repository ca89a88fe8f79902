package runner

import (
	"sync"
	"sync/atomic"
	"time"

	"drover/checkpoints"
	"drover/hbase"
)

// Wait names what a run waits for.
type Wait string

// What a shard's goroutine can wait for.
const (
	WaitSource     Wait = "source"
	WaitMapping    Wait = "mapping"
	WaitLimit      Wait = "limit"
	WaitGateway    Wait = "gateway"
	WaitCheckpoint Wait = "checkpoint"
)

// Monitor shows a run from outside while it goes. The zero value is ready. Nothing in it decides anything.
type Monitor struct {
	source, mapping, limit, gateway, checkpoint atomic.Int64 // nanoseconds

	mu      sync.Mutex
	phase   string // "planning", "moving", …
	run     string
	total   int64 // stored bytes of the whole plan
	shards  int
	paused  map[string]string
	current func() (checkpoints.Counts, int64, int)
	pool    *hbase.Pool
	pacer   *pacer
	began   time.Time
}

// Progress is one look at a run.
type Progress struct {
	Phase         string
	Run           string
	Counts        checkpoints.Counts // settled
	Stored, Total int64              // source bytes behind the watermarks, of all; 0 when unknown
	Shards, Ended int
	Gateways      hbase.Stats
	Paused        map[string]string // table to reason
	Slowed        []Slowed          // the slowest first
	Ramps         map[string]int    // table to percent, of those that are not at 100
	Waits         map[Wait]time.Duration
	Elapsed       time.Duration
}

func (m *Monitor) waited(w Wait, d time.Duration) {
	switch w {
	case WaitSource:
		m.source.Add(int64(d))
	case WaitMapping:
		m.mapping.Add(int64(d))
	case WaitLimit:
		m.limit.Add(int64(d))
	case WaitGateway:
		m.gateway.Add(int64(d))
	case WaitCheckpoint:
		m.checkpoint.Add(int64(d))
	}
}

func (m *Monitor) setPhase(p string) {
	m.mu.Lock()
	m.phase = p
	if m.began.IsZero() {
		m.began = time.Now()
	}
	m.mu.Unlock()
}

func (m *Monitor) setPaused(table, reason string) {
	m.mu.Lock()
	if m.paused == nil {
		m.paused = map[string]string{}
	}
	if reason == "" {
		delete(m.paused, table)
	} else {
		m.paused[table] = reason
	}
	m.mu.Unlock()
}

// Look gives the run as it stands.
func (m *Monitor) Look() Progress {
	m.mu.Lock()
	p := Progress{Phase: m.phase, Run: m.run, Total: m.total, Shards: m.shards, Paused: map[string]string{}}
	for t, r := range m.paused {
		p.Paused[t] = r
	}
	current, pool, pacer := m.current, m.pool, m.pacer
	if !m.began.IsZero() {
		p.Elapsed = time.Since(m.began)
	}
	m.mu.Unlock()
	if current != nil {
		p.Counts, p.Stored, p.Ended = current()
	}
	if pool != nil {
		p.Gateways = pool.Stats()
	}
	if pacer != nil {
		p.Slowed, p.Ramps = pacer.slowed()
	}
	p.Waits = map[Wait]time.Duration{
		WaitSource: time.Duration(m.source.Load()), WaitMapping: time.Duration(m.mapping.Load()), WaitLimit: time.Duration(m.limit.Load()),
		WaitGateway: time.Duration(m.gateway.Load()), WaitCheckpoint: time.Duration(m.checkpoint.Load()),
	}
	return p
}
