package hbase

import "time"

// Stats is what a pool does at one moment, for people to look at.
type Stats struct {
	Gateways []GatewayStats
	Out      bool          // no gateway takes part in writes, or none in reads
	Retries  int64         // calls of finished Apply calls that were not acknowledged
	Waiting  time.Duration // for the pacer, summed over finished Apply calls
	Calling  time.Duration // for gateways and their answers, the same
}

// GatewayStats is how one gateway fares: with writes, and beside them with reads.
type GatewayStats struct {
	Addr string
	LaneStats
	Reads LaneStats
	Full  bool // it has no thread left for another connection
	Old   bool // HBase 1.x: it lacks methods, and puts and scans work
}

// LaneStats is how a gateway fares with one kind of calls.
type LaneStats struct {
	State    string // healthy, slow, silent, blocked, dead or wrong protocol
	InFlight int
	Rows     int64 // acknowledged, or read
	Attempts int64 // calls
	Errors   map[Kind]int64
	Latency  time.Duration // estimated, for a call of 1000 rows of 1 KiB; 0 is unknown
	Last     string        // what set it aside, "" while it takes part
}

// Stats may be called at any time, also from Paused.
func (p *Pool) Stats() Stats {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Out: p.writes.out || p.reads.out, Retries: p.retries, Waiting: p.waited, Calling: p.inCall}
	for i, h := range p.hosts {
		s.Gateways = append(s.Gateways, GatewayStats{
			Addr: h.addr, LaneStats: p.writes.statsLocked(i, now), Reads: p.reads.statsLocked(i, now), Full: !h.full.IsZero(), Old: h.old,
		})
	}
	return s
}

func (l *lane) statsLocked(i int, now time.Time) LaneStats {
	const slowFactor = 3
	fastest := 0.0
	for _, g := range l.gateways {
		if u := g.est.unit; u > 0 && (fastest == 0 || u < fastest) {
			fastest = u
		}
	}
	g := l.gateways[i]
	v := LaneStats{State: "healthy", InFlight: g.busy, Rows: g.rows, Attempts: g.attempts, Latency: g.est.of(work(1000, 1000<<10))}
	switch {
	case g.state != healthy && g.finding.Condition != Sound:
		v.State = string(g.finding.Condition)
	case g.state != healthy && g.hangs, l.suspectLocked(g, now):
		v.State = string(Blocked)
	case g.state != healthy:
		v.State = string(Dead)
	case g.est.unit > slowFactor*fastest:
		v.State = "slow"
	}
	if g.state != healthy && g.lastErr != nil {
		v.Last = reasonOf(g.lastErr)
	}
	for k, n := range g.errors {
		if n > 0 && k > 0 {
			if v.Errors == nil {
				v.Errors = map[Kind]int64{}
			}
			v.Errors[Kind(k)] = n
		}
	}
	return v
}
