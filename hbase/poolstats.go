package hbase

import "time"

// Stats is what a pool does at one moment, for people to look at.
type Stats struct {
	Gateways []GatewayStats
	Out      bool          // no gateway takes part
	Retries  int64         // calls beyond the first of each finished Apply
	Waiting  time.Duration // for the pacer, summed over finished Apply calls
	Calling  time.Duration // for gateways and their answers, the same
}

// GatewayStats is how one gateway fares.
type GatewayStats struct {
	Addr     string
	State    string // healthy, slow, blocked (silent) or dead
	InFlight int
	Rows     int64 // acknowledged
	Attempts int64 // calls
	Errors   map[Kind]int64
	Latency  time.Duration // estimated, for a call of 1000 rows of 1 KiB; 0 is unknown
	Last     string        // the error that set it aside, "" while it takes part
}

// Stats may be called at any time, also from Paused.
func (p *Pool) Stats() Stats {
	const slowFactor = 3
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Out: p.out, Retries: p.retries, Waiting: p.waited, Calling: p.inCall}
	fastest := 0.0
	for _, g := range p.gateways {
		if u := g.est.unit; u > 0 && (fastest == 0 || u < fastest) {
			fastest = u
		}
	}
	for _, g := range p.gateways {
		v := GatewayStats{
			Addr: g.addr, State: "healthy", InFlight: g.busy, Rows: g.rows, Attempts: g.attempts,
			Latency: g.est.of(work(1000, 1000<<10)),
		}
		switch {
		case g.state != healthy && g.hangs, p.suspectLocked(g, now):
			v.State = "blocked"
		case g.state != healthy:
			v.State = "dead"
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
		s.Gateways = append(s.Gateways, v)
	}
	return s
}
