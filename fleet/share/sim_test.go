package share

import (
	"cmp"
	"container/heap"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The simulation: workers with clocks of their own, a ZooKeeper that expires sessions and fences leaders, and messages that take their time, all in
// virtual time. What is under test is Ledger and Meter; the rest plays the part of package fleet as simply as it goes.

const (
	simLimit   = 10_000.0 // rows/s
	simSession = 2 * sec
	simTick    = 500 * time.Millisecond
	simSafety  = 100 * time.Millisecond
	simStep    = 10 * time.Millisecond
)

var simSeeds = flag.Int("simseeds", 3, "seeds of each simulation")

// mutant is a fault that the simulation has to find.
type mutant string

const (
	noMutant          mutant = ""
	grownBeforeShrunk mutant = "grown before shrunk"
	noDeadline        mutant = "grants outlive the local deadline"
	newestOnly        mutant = "a new leader counts the newest grants only"
	unconfirmed       mutant = "a grant that was written counts as taken up"
)

type simFaults struct {
	deaths, leaderDeaths, joins, leaves, freezes, partitions, elections, resigned, expired, dropped int
}

type simEvent struct {
	at  time.Duration
	seq int
	do  func()
}

type simEvents []simEvent

func (h simEvents) Len() int { return len(h) }
func (h simEvents) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].at, h[j].at), h[i].seq-h[j].seq) < 0
}
func (h simEvents) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *simEvents) Push(e any)   { *h = append(*h, e.(simEvent)) }
func (h *simEvents) Pop() any {
	e := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return e
}

// simNode is what ZooKeeper knows of an incarnation.
type simNode struct {
	session time.Duration // when it expires
	alive   bool
	wants   []Want
	named   uint64
	listed  []Grant // the assign node
	written time.Duration
}

// simWorker is a process.
type simWorker struct {
	name      string
	id        string // of the incarnation
	offset    time.Duration
	speed     float64 // its clock's rate
	meter     Meter
	taken     Grant
	draining  bool
	frozen    time.Duration // until then
	cut       time.Duration // no message passes until then
	nextBeat  time.Duration // by truth; timers are near enough
	capacity  float64       // rows/s it could use
	batch     float64
	tickets   []*simBatch
	spent     float64
	deadline  time.Duration
	rerolled  time.Duration
	ledger    *Ledger // of a leader
	term      int
	unwritten map[string]bool
	planned   time.Duration
}

type simBatch struct {
	t    Ticket
	free time.Duration // when its shard has the next one
	paid bool
}

func (w *simWorker) clock(now time.Duration) time.Duration {
	return w.offset + time.Duration(float64(now)*w.speed)
}

type sim struct {
	r       *rand.Rand
	mutant  mutant
	chaos   bool
	now     time.Duration
	events  simEvents
	seq     int
	workers []*simWorker
	nodes   map[string]*simNode
	leader  string // incarnation
	term    int
	names   int
	target  int
	faults  simFaults

	excess, worst float64
	log           []float64 // tokens of each step
	deaths        []time.Duration
}

func (s *sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.events, simEvent{s.now + d, s.seq, do})
}

func (s *sim) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.r.Int64N(int64(hi-lo)+1))
}

// deliver has w see something, when a message can reach it.
func (s *sim) deliver(w *simWorker, id string, do func()) {
	s.after(s.between(5*time.Millisecond, 60*time.Millisecond), func() {
		switch {
		case w.id != id || !slices.Contains(s.workers, w):
		case s.now < w.cut:
			s.faults.dropped++
		case s.now < w.frozen:
			s.after(w.frozen-s.now, func() {
				if w.id == id {
					do()
				}
			})
		default:
			do()
		}
	})
}

func (s *sim) join() *simWorker {
	s.names++
	w := &simWorker{name: fmt.Sprint("w", s.names)}
	w.offset = s.between(0, 1000*time.Hour)
	w.speed = 1 + (2*s.r.Float64()-1)*drift
	s.reroll(w)
	s.workers = append(s.workers, w)
	s.incarnate(w)
	return w
}

// incarnate opens a session.
func (s *sim) incarnate(w *simWorker) {
	s.names++
	w.id = fmt.Sprintf("%s-%d", w.name, s.names)
	now := w.clock(s.now)
	w.taken, w.ledger, w.deadline = Grant{}, nil, 0
	w.meter.Deadline(now, 0)
	w.meter.Grant(now, 0)
	w.meter.Limit(now, Limit{simLimit, math.Inf(1)})
	s.nodes[w.id] = &simNode{alive: true, session: s.expiry()}
	w.nextBeat = s.now
}

func (s *sim) expiry() time.Duration {
	return (s.now + simSession).Truncate(simTick) + simTick
}

// reroll gives a worker other shards.
func (s *sim) reroll(w *simWorker) {
	fair := simLimit / float64(max(1, s.target))
	w.rerolled = s.now + s.between(40*sec, 120*sec)
	w.batch = min(500, max(5, fair/8))
	slow := 0
	for _, o := range s.workers {
		if o != w && o.capacity < fair {
			slow++
		}
	}
	if slow < s.target/3 && s.r.IntN(3) == 0 { // not so many that all together could not use the limit
		w.capacity = fair * (0.1 + 0.8*s.r.Float64())
	} else {
		w.capacity = fair * (2 + 10*s.r.Float64())
	}
	const shards = 4
	for len(w.tickets) < shards {
		w.tickets = append(w.tickets, &simBatch{paid: true, free: s.now})
	}
}

// beat writes a heartbeat.
func (s *sim) beat(w *simWorker) {
	w.nextBeat = s.now + simSession/3
	sent := w.clock(s.now)
	id, named := w.id, w.taken.ID
	var wants []Want
	if !w.draining {
		wants = []Want{{Worker: id, Demand: w.meter.Demand(sent) * simLimit}}
	}
	if s.now < w.cut {
		return
	}
	s.after(s.between(2*time.Millisecond, 30*time.Millisecond), func() {
		n := s.nodes[id]
		if n == nil || !n.alive {
			s.deliver(w, id, func() { s.incarnate(w) })
			return
		}
		n.session, n.named, n.wants = s.expiry(), named, wants
		s.deliver(w, id, func() {
			w.deadline = max(w.deadline, sent+simSession-simTick-simSafety)
			if s.mutant == noDeadline {
				w.deadline = math.MaxInt64
			}
			w.meter.Deadline(w.clock(s.now), w.deadline)
		})
	})
}

// seeGrants has a worker read its assign node.
func (s *sim) seeGrants(w *simWorker, id string) {
	s.deliver(w, id, func() {
		n := s.nodes[id]
		if n == nil {
			return
		}
		g := Newest(n.listed)
		if g.ID <= w.taken.ID {
			return
		}
		shrunk := g.Part < w.taken.Part
		w.taken = g
		w.meter.Grant(w.clock(s.now), g.Part)
		if shrunk {
			s.beat(w) // others wait for it
		}
	})
}

// elect makes a worker the leader.
func (s *sim) elect() {
	var able []*simWorker
	for _, w := range s.workers {
		if n := s.nodes[w.id]; s.now >= w.frozen && s.now >= w.cut && n != nil && n.alive {
			able = append(able, w)
		}
	}
	if len(able) == 0 {
		return
	}
	w := able[s.r.IntN(len(able))]
	s.faults.elections++
	s.term++
	s.leader, w.term = w.id, s.term
	w.ledger, w.unwritten = NewLedger(simSession), map[string]bool{}
	for id, n := range s.nodes {
		listed := n.listed
		if s.mutant == newestOnly && len(listed) > 0 {
			listed = []Grant{Newest(listed)}
		}
		w.ledger.Load(id, listed)
	}
	s.lead(w)
}

// lead has the leader look at everything.
func (s *sim) lead(w *simWorker) {
	w.planned = s.now
	now := w.clock(s.now)
	var wants []Want
	ids := make([]string, 0, len(s.nodes))
	for id := range s.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		n := s.nodes[id]
		if !n.alive {
			w.ledger.Gone(id, now)
			continue
		}
		w.ledger.Seen(id, n.named)
		wants = append(wants, n.wants...)
	}
	var changed []string
	switch s.mutant {
	case grownBeforeShrunk:
		w.ledger.Plan(now, simLimit, nil) // forgets the expired
		changed = w.ledger.plan(simLimit, wants, nil)
	case unconfirmed:
		for id, h := range w.ledger.workers {
			if len(h.grants) > 0 {
				w.ledger.Seen(id, Newest(h.grants).ID)
			}
		}
		fallthrough
	default:
		changed = w.ledger.Plan(now, simLimit, wants)
	}
	for _, id := range changed {
		w.unwritten[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(w.unwritten)) {
		n := s.nodes[id]
		if n == nil || !n.alive || s.now-n.written < sec && n.written > 0 { // at most one write a second
			continue
		}
		delete(w.unwritten, id)
		n.written = s.now
		listed, term := w.ledger.Listed(id), w.term
		s.after(s.between(2*time.Millisecond, 30*time.Millisecond), func() {
			if term != s.term {
				return // fenced
			}
			n.listed = listed
			if i := slices.IndexFunc(s.workers, func(w *simWorker) bool { return w.id == id }); i >= 0 {
				s.seeGrants(s.workers[i], id)
			}
		})
	}
	for _, id := range ids {
		if n := s.nodes[id]; !n.alive && w.ledger.Listed(id) == nil && s.now > n.session {
			delete(s.nodes, id)
		}
	}
}

// work has a worker put batches.
func (s *sim) work(w *simWorker) {
	now := w.clock(s.now)
	if s.now > w.rerolled {
		s.reroll(w)
	}
	for _, b := range w.tickets {
		if !b.paid && w.meter.Wait(now, &b.t) == 0 {
			b.paid = true
			b.free = max(s.now, b.free+time.Duration(float64(len(w.tickets))*w.batch/w.capacity*1e9))
		}
		if b.paid && s.now >= b.free && !w.draining {
			*b = simBatch{t: Ticket{Rows: w.batch, Bytes: w.batch * 1000}, free: s.now}
			w.meter.Queue(now, &b.t)
		}
	}
}

// step is 10 ms.
func (s *sim) step() {
	until := s.now + simStep
	for len(s.events) > 0 && s.events[0].at <= until {
		e := heap.Pop(&s.events).(simEvent)
		s.now = e.at
		e.do()
	}
	s.now = until

	for _, n := range s.nodes {
		if n.alive && s.now >= n.session {
			n.alive = false
			s.faults.expired++
		}
	}
	if n := s.nodes[s.leader]; n == nil || !n.alive {
		s.leader = ""
		if s.r.IntN(10) == 0 { // somebody notices
			s.elect()
		}
	}
	tokens := 0.0
	for _, w := range s.workers {
		if s.now >= w.frozen {
			s.work(w)
			if s.now >= w.nextBeat {
				s.beat(w)
			}
			if w.id == s.leader && s.now >= w.cut && s.now-w.planned >= 50*time.Millisecond {
				s.lead(w)
			}
		}
		rows, _ := w.meter.Given(w.clock(s.now))
		tokens += rows - w.spent
		w.spent = rows
	}
	s.log = append(s.log, tokens)
	s.excess = max(0, s.excess+tokens-simLimit*simStep.Seconds())
	s.worst = max(s.worst, s.excess)
}

// remove ends a process, without a word.
func (s *sim) remove(w *simWorker) {
	s.workers = slices.DeleteFunc(s.workers, func(o *simWorker) bool { return o == w })
}

func (s *sim) victim() *simWorker {
	if i := slices.IndexFunc(s.workers, func(w *simWorker) bool { return w.id == s.leader }); i >= 0 && s.r.IntN(2) == 0 {
		return s.workers[i]
	}
	return s.workers[s.r.IntN(len(s.workers))]
}

// kill has a process die, and another take its place within a second and a half.
func (s *sim) kill() {
	w := s.victim()
	s.faults.deaths++
	if w.id == s.leader {
		s.faults.leaderDeaths++
	}
	s.deaths = append(s.deaths, s.now)
	s.remove(w)
	s.after(s.between(200*time.Millisecond, 1500*time.Millisecond), func() { s.join() })
}

func (s *sim) comeOrGo() {
	if len(s.workers) > s.target {
		w := s.workers[s.r.IntN(len(s.workers))]
		s.faults.leaves++
		w.draining = true
		s.after(3*sec, func() { s.remove(w) })
		return
	}
	s.faults.joins++
	s.join()
}

// resign has another lead at once, in the middle of whatever was being done.
func (s *sim) resign() {
	if s.leader != "" {
		s.faults.resigned++
		s.elect()
	}
}

func (s *sim) disturb() {
	w := s.victim()
	d := s.between(simSession/4, 3*simSession)
	if s.r.IntN(3) == 0 {
		d = 5 * simSession
	}
	if s.r.IntN(2) == 0 {
		s.faults.freezes++
		w.frozen = s.now + d
	} else {
		s.faults.partitions++
		w.cut = s.now + d
	}
}

func simulate(seed uint64, workers int, length time.Duration, chaos bool, m mutant) *sim {
	s := &sim{r: rand.New(rand.NewPCG(seed, uint64(workers))), mutant: m, chaos: chaos, nodes: map[string]*simNode{}, target: workers}
	for range workers {
		s.join()
	}
	every := func(lo, hi time.Duration, do func()) {
		var again func()
		again = func() {
			if len(s.workers) > 0 {
				do()
			}
			s.after(s.between(lo, hi), again)
		}
		s.after(s.between(lo, hi), again)
	}
	if chaos {
		every(2*sec, 15*sec, s.kill)
		every(sec, 5*sec, s.disturb)
		every(3*sec, 12*sec, s.comeOrGo)
		if seed%2 == 1 { // each election counts the vanished anew, which hides other faults
			every(50*time.Millisecond, 600*time.Millisecond, s.resign)
		}
	} else {
		every(60*sec, 60*sec, s.kill)
		every(50*sec, 70*sec, s.comeOrGo)
	}
	for s.now < length {
		s.step()
	}
	return s
}

// used is the part of the limit that was used, over all steps after the start, and outside two session timeouts after each death.
func (s *sim) used() (overall, outside float64) {
	const start = 5 * sec
	all, calm := 0.0, 0.0
	steps, calmSteps := 0, 0
	for i, tokens := range s.log {
		at := time.Duration(i) * simStep
		if at < start {
			continue
		}
		all += tokens
		steps++
		if !slices.ContainsFunc(s.deaths, func(d time.Duration) bool { return at >= d && at < d+2*simSession }) {
			calm += tokens
			calmSteps++
		}
	}
	per := simLimit * simStep.Seconds()
	return all / (float64(steps) * per), calm / (float64(calmSteps) * per)
}

// TestFleetBudget is a budget of 10,000 rows/s with a death a minute: in each window W the workers together collect at most R·W and bursts of 0.02 R, and
// what can be used is used.
func TestFleetBudget(t *testing.T) {
	for _, workers := range []int{1, 6, 64} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			t.Parallel()
			leaders := 0
			for seed := range uint64(*simSeeds) {
				s := simulate(seed, workers, 6*time.Minute, false, noMutant)
				overall, outside := s.used()
				t.Logf("seed %d: burst %.4f R, use %.4f overall, %.4f outside of deaths; %+v", seed, s.worst/simLimit, overall, outside, s.faults)
				if s.worst > 0.02*simLimit {
					t.Errorf("seed %d: %v rows over the rate in some window, want at most %v", seed, s.worst, 0.02*simLimit)
				}
				if overall < 0.9 || outside < 0.97 {
					t.Errorf("seed %d: used %.4f of the limit overall (want 0.9), %.4f outside two session timeouts after each death (want 0.97)", seed, overall, outside)
				}
				if f := s.faults; f.deaths < 5 || f.joins == 0 || f.leaves == 0 {
					t.Errorf("seed %d: too few faults: %+v", seed, f)
				}
				leaders += s.faults.leaderDeaths
			}
			if leaders == 0 {
				t.Error("no leader died")
			}
		})
	}
}

// TestFleetChaos keeps the bound with processes that freeze, are cut off and die all the time.
func TestFleetChaos(t *testing.T) {
	var sum simFaults
	for _, workers := range []int{1, 3, 12} {
		for seed := range uint64(*simSeeds * 4) {
			s := simulate(seed, workers, time.Minute, true, noMutant)
			if s.worst > 0.02*simLimit {
				t.Errorf("%d workers, seed %d: %v rows over the rate, want at most %v; %+v", workers, seed, s.worst, 0.02*simLimit, s.faults)
			}
			sum.deaths += s.faults.deaths
			sum.leaderDeaths += s.faults.leaderDeaths
			sum.freezes += s.faults.freezes
			sum.partitions += s.faults.partitions
			sum.elections += s.faults.elections
			sum.resigned += s.faults.resigned
			sum.expired += s.faults.expired
			sum.dropped += s.faults.dropped
			sum.joins += s.faults.joins
			sum.leaves += s.faults.leaves
		}
	}
	t.Logf("%+v", sum)
	if sum.deaths == 0 || sum.leaderDeaths == 0 || sum.freezes == 0 || sum.partitions == 0 || sum.expired == 0 || sum.dropped == 0 {
		t.Fatalf("a fault never came: %+v", sum)
	}
}

// TestFleetMutants: each of these faults is found.
func TestFleetMutants(t *testing.T) {
	for _, m := range []mutant{grownBeforeShrunk, noDeadline, newestOnly, unconfirmed} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(100) {
				if s := simulate(seed, 6, 2*time.Minute, true, m); s.worst > 0.02*simLimit {
					t.Logf("found with seed %d: %.0f rows over the rate", seed, s.worst)
					return
				}
			}
			t.Error("not found in 100 seeds")
		})
	}
}
