package fleet

import (
	"testing"
	"time"
)

// putBack runs a pool whose servers are put back to what they were some time before. Some sessions end in that time, and all that
// began in it are not known afterwards; and a process is started behind it, which has seen nothing. It gives who does not hold, then
// who still holds after a restore.
func putBack(seed uint64, f flaws) (loose, stuck []string) {
	s := newSimulation(seed, f)
	s.ensemble.wrote = nil // its invariants are those of a log that only grows
	until := func(at time.Duration) {
		for s.now < at {
			e := heapPop(&s.events)
			s.now = e.at
			e.f()
		}
	}
	until(s.between(4*time.Second, 8*time.Second))
	then := len(s.log)
	until(s.now + s.between(simTimeout, 3*simTimeout))
	for _, p := range s.procs {
		switch s.rand.IntN(6) {
		case 0:
			s.end(p.conn.session)
		case 1:
			p.gen, p.conn.over = p.gen+1, true
			p.boot() // it is another process
		}
	}
	until(s.now + s.between(0, 2*simTimeout))
	s.putBack(then, s.chance(0.5))
	late := &proc{s: s, name: "late"}
	s.procs = append(s.procs, late)
	s.after(s.between(0, simTimeout), late.boot)
	wait := 6 * simTimeout
	if s.chance(0.2) { // the restore comes before all have seen anything
		wait = s.between(0, simTimeout/10)
	}
	until(s.now + wait)
	for _, p := range s.procs {
		if wait > simTimeout && p.alive && (!p.memory.isHeld() || p.in.sure(p.clock()) || p.in.lead != nil) {
			loose = append(loose, p.name)
		}
	}
	n := s.truth.nodes[simRoot.term()]
	t, _ := decode[termRecord](simRoot.term(), n.data)
	t.Restored, t.Held = "once", ""
	var ops []op
	for range termsLost {
		ops = append(ops, set(simRoot.term(), encode(t), -1))
	}
	if _, err := s.apply(nil, 0, ops); err != nil {
		panic(err)
	}
	until(s.now + 3*simTimeout)
	for end := s.now + 20*simTimeout; s.now < end; until(s.now + simTimeout/4) {
		stuck = nil
		for _, p := range s.procs {
			if p.alive && p.memory.isHeld() {
				stuck = append(stuck, p.name+": "+p.memory.alert())
			}
		}
		if !s.truth.nodes[simRoot.leader()].exists {
			stuck = append(stuck, "nobody leads")
		}
		if stuck == nil {
			break
		}
	}
	return loose, stuck
}

// Servers that were put back hold every process, whatever sessions it had, and those too that were started since; a restore lets
// them all go on.
func TestServersPutBackHoldAll(t *testing.T) {
	from, n := seeds(t)
	for seed := from; seed < from+n/10+1; seed++ {
		if loose, stuck := putBack(seed, flaws{}); len(loose)+len(stuck) > 0 {
			t.Fatalf("DROVER_SEED=%d: %v go on, and %v hold after the restore", seed, loose, stuck)
		}
	}
	for name, f := range map[string]flaws{"no tide": {noTide: true}, "no alarm": {noAlarm: true}} {
		found := false
		for seed := uint64(0); seed < 50 && !found; seed++ {
			loose, _ := putBack(seed, f)
			found = len(loose) > 0
		}
		if !found {
			t.Errorf("%s: and nobody goes on", name)
		}
	}
}
