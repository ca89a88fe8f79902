package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"drover/checkpoints"
	"drover/fleet/share"
	"drover/fleet/tick"
	"drover/jobs"
	"drover/zookeeper"
)

const (
	// movesPerSecond bounds the shards that change hands, but for those that nobody had yet.
	movesPerSecond = 200
	// moveBurst is how many moves may come at once.
	moveBurst = 50
	// ordersAhead is how many orders a member may get at once. Over time it is one in ordersEvery for each member of the pool, so that all get
	// no more than a hundred a second, and one a second in a large pool: each order has a beat follow it.
	ordersAhead = 5
	ordersEvery = 10 * time.Millisecond
	// grantsPerSecond bounds the orders that only change grants, and grantBurst those that may come at once. Each has a beat
	// follow it, and of many members there are always some whose demand changed: a thousand would write without end. A member's first
	// grant of a budget does not wait.
	grantsPerSecond = 30
	grantBurst      = 30
	// shardsPerWrite and bytesPerWrite bound a multi, well below the 1 MB that servers take.
	shardsPerWrite = 200
	bytesPerWrite  = 400 << 10
	// maxFaults is how often a shard may end with a fault before its run fails.
	maxFaults = 3
)

// member is what the leader knows of a process of the pool.
type member struct {
	id      string
	watch   int
	present bool // its node is there
	seen    bool // its node was there once
	beat    beatRecord
	fault   error         // of its beat: it is given nothing
	gone    time.Duration // since when it is not present

	order   orderRecord // as written
	version int32       // of the order's node
	exists  bool        // the order's node
	busy    bool        // an order is being written
	due     time.Duration
	has     map[shardKey]*shardState
	plans   map[runKey]*runState // that it is asked to plan
	changed bool                 // has or plans differ from the order
	granted bool                 // grants differ from the order
}

// shardState is what the leader knows of a shard.
type shardState struct {
	run    *runState
	n      int
	epoch  int32
	owner  string // who has it under that epoch, even when he is gone; "" when he let it go, or nobody had it
	fresh  bool   // nobody has to be asked or outlived: it can be given at once
	done   bool
	back   bool
	meant  string // for whom it was asked back; "" is for nobody in particular
	busy   bool   // it is being given
	faults int
	avoid  string
	after  time.Duration // not to be given before

	// Of splitting.
	extent extent
	ask    int64         // in its owner's order; 0 is none
	asked  time.Duration // when that was, or when an ask came to nothing; 0 is never
	whole  bool          // its owner said that it cannot be split
}

// runState is what the leader knows of a run.
type runState struct {
	key     runKey
	watch   int
	known   bool
	version int32
	record  runRecord

	at      string // the attempt that shards are of
	shards  []*shardState
	reading int    // shards still to be read
	listed  bool   // all shards are there
	busy    bool   // it is being planned here, staged, ended
	planner string // the member that is asked to plan it; "" is none
	open    int    // shards that are not done

	ended  time.Duration // when it was seen to be over
	swept  bool
	pruned bool // it is there no more
}

// jobState is what the leader knows of a job.
type jobState struct {
	name        string
	watch, runs int // watches
	known       bool
	version     int32
	record      jobRecord

	// Of its schedule.
	busy     bool
	parsed   *tick.Schedule
	parsedAt int32     // version of the record that it is of
	next     time.Time // nothing is to be decided before
}

// tableState is what the leader knows of a table.
type tableState struct {
	watch   int
	known   bool
	exists  bool
	version int32
	record  tableRecord
	busy    bool
}

// Planned is a plan.
type Planned struct {
	Plan        []byte // opaque to the pool
	Shards      []jobs.Shard
	Fingerprint string
	Timestamp   int64
	Limits      map[string]Limits // by table, in place of those of the Spec, which was written before the tables were known; nil leaves them
}

// leader is the part of a member that leads, from an election until it loses the term or its session. All it writes is under
// the condition that the term is still its own, so what it believes may be old without harm. What only leaders write, orders
// and epochs, it reads once: nobody else writes it while the term stands.
type leader struct {
	*machine
	p       paths
	id      string
	timeout time.Duration
	memory  *memory
	name    func() string    // a new random name
	wall    func() time.Time // the time of day

	fence   op // the condition of every write
	term    int32
	elected time.Duration
	over    bool // somebody else has the term
	loads   int  // what must be read before it acts
	ready   bool // it acted once
	watches []int

	members map[string]*member
	runs    map[runKey]*runState
	jobs    map[string]*jobState
	tables  map[string]*tableState
	ledgers map[budget]*share.Ledger
	drains  map[string]bool

	tokens   float64 // moves
	regrants float64 // orders that only change grants
	tokensAt time.Duration
	vanished []time.Duration // when members went without having been drained, newest last
	toPlan   []runKey        // for the edge, which answers with planned
	asks     float64         // that may be made
	splitAt  time.Duration   // when it was last looked whom to ask
	prunedAt time.Duration   // when it was last looked what to prune
	pruning  bool
	trimmed  int // how often it was looked what to trim
	writes   int
	moved    int
}

func newLeader(m *machine, p paths, id string, timeout time.Duration, mem *memory, term int32, name func() string) *leader {
	return &leader{
		machine: m, p: p, id: id, timeout: timeout, memory: mem, name: name,
		fence: check(p.term(), term), term: term,
		members: map[string]*member{}, runs: map[runKey]*runState{}, jobs: map[string]*jobState{},
		tables: map[string]*tableState{}, ledgers: map[budget]*share.Ledger{}, drains: map[string]bool{}, tokens: moveBurst, regrants: grantBurst, asks: splitBurst,
	}
}

// start reads what there is.
func (l *leader) start(now time.Duration) {
	l.now, l.elected, l.tokensAt, l.splitAt = now, now, now, now
	l.loads = 4
	once := func(f func(names []string)) func([]string, bool) {
		first := true
		return func(names []string, _ bool) {
			if l.over {
				return
			}
			f(names)
			if first {
				first = false
				l.loads--
			}
		}
	}
	l.list(l.p.orders(), once(func(names []string) {
		for _, id := range names {
			m := l.member(id)
			l.loads++
			l.get(l.p.order(id), false, func(n node) {
				l.loads--
				if !n.exists {
					return
				}
				m.exists, m.version = true, n.version
				o, err := decode[orderRecord](l.p.order(id), n.data)
				if err != nil {
					m.fault = err
				}
				m.order = o
				m.changed = m.changed || len(o.Plans) > 0 // it is asked anew, in this term
				for _, g := range o.Grants {
					l.ledger(g.budget).Load(id, g.List)
				}
				l.named(m)
			})
		}
	}))
	l.watches = append(l.watches,
		l.watchList(l.p.workers(), once(l.sawWorkers)),
		l.watchList(l.p.jobs(), once(l.sawJobs)),
		l.watchList(l.p.drains(), once(func(names []string) {
			clear(l.drains)
			for _, n := range names {
				l.drains[n] = true
			}
		})))
}

// stop lets go of everything. Another leads, or nobody.
func (l *leader) stop() {
	l.over = true
	for _, id := range l.watches {
		l.forget(id)
	}
}

func (l *leader) observe(path string, f func(node)) int {
	id := l.watch(path, func(n node) {
		if !l.over {
			f(n)
		}
	})
	l.watches = append(l.watches, id)
	return id
}

// do writes under the fence. f is not called once the term is lost.
func (l *leader) do(ops []op, proof int, f func(verdict)) {
	l.writes++
	l.write(append([]op{l.fence}, ops...), proof+1, func(v verdict) {
		if l.over {
			return
		}
		if !v.done && v.at == 0 {
			l.over = true
			return
		}
		v.at--
		f(v)
	})
}

// drained tells whether a member is to take nothing new.
func (l *leader) drained(m *member) bool {
	return m.beat.Draining || l.drains[m.beat.Name] || l.drains[m.id]
}

func (l *leader) member(id string) *member {
	m := l.members[id]
	if m == nil {
		m = &member{id: id, gone: l.now, has: map[shardKey]*shardState{}, plans: map[runKey]*runState{}}
		l.members[id] = m
	}
	return m
}

func (l *leader) sawWorkers(ids []string) {
	there := map[string]bool{}
	for _, id := range ids {
		there[id] = true
		m := l.member(id)
		if m.watch == 0 {
			// Who is there at the election must be known to be before it acts.
			first := !l.ready
			if first {
				l.loads++
			}
			m.watch = l.observe(l.p.worker(id), func(n node) {
				if first {
					first = false
					l.loads--
				}
				l.sawBeat(m, n)
			})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.members)) {
		if m := l.members[id]; m.present && !there[id] {
			l.lost(m)
		}
	}
}

// lost takes the end of a member's session.
func (l *leader) lost(m *member) {
	m.present, m.gone = false, l.now
	if !m.beat.Left {
		l.absent(m)
	}
	if !m.beat.Draining && len(m.has) > 0 {
		l.vanished = append(l.vanished, l.now)
	}
	if m.watch > 0 {
		l.forget(m.watch)
		l.watches = slices.DeleteFunc(l.watches, func(id int) bool { return id == m.watch })
		m.watch = -1 // an id never comes back
	}
}

// absent has a member's grants end.
func (l *leader) absent(m *member) {
	for _, g := range l.ledgers {
		g.Gone(m.id, m.gone)
	}
}

func (l *leader) sawBeat(m *member, n node) {
	if !n.exists {
		if m.present {
			l.lost(m)
		}
		return
	}
	m.present, m.seen = true, true
	m.beat, m.fault = beatRecord{}, nil
	b, err := decode[beatRecord](l.p.worker(m.id), n.data)
	if err != nil {
		m.fault = err
		return
	}
	m.beat = b
	l.named(m)
	l.takeBack(m)
	if b.Left {
		l.left(m)
	}
}

// left takes a member's word that it has and spends nothing any more. It waits for its order to go.
func (l *leader) left(m *member) {
	for k, s := range m.has {
		if s.busy {
			continue
		}
		delete(m.has, k)
		s.owner, s.fresh, s.back, s.ask = "", true, false, 0
	}
	l.lost(m)
	m.gone = l.now - l.timeout - 1
	l.absent(m)
}

// named takes which grants a member says that it has taken up. It is told again once its order is read, whichever comes first.
func (l *leader) named(m *member) {
	for _, g := range m.beat.Grants {
		l.ledger(g.budget).Seen(m.id, g.ID)
	}
}

// takeBack takes what a member let go, and its answers.
func (l *leader) takeBack(m *member) {
	for _, x := range m.beat.Let {
		k := shardKey{x.At, x.N}
		s := m.has[k]
		if s == nil || s.epoch != x.Epoch || s.busy {
			continue
		}
		delete(m.has, k)
		m.changed = true
		s.owner, s.fresh, s.back, s.ask = "", true, false, 0
		switch {
		case x.Done:
			s.setDone(true)
		case x.Why != "":
			s.faults++
			s.avoid = m.id
			s.after = l.now + time.Duration(s.faults)*l.timeout
			if s.faults >= maxFaults {
				l.end(s.run, Failed, fmt.Sprintf("shard %d on %s: %s", s.n, m.beat.Name, x.Why), nil)
			}
		}
	}
	l.answers(m)
}

func (s *shardState) setDone(done bool) {
	if s.done != done {
		s.done = done
		if done {
			s.run.open--
		} else {
			s.run.open++
		}
	}
}

func (l *leader) sawJobs(names []string) {
	for _, name := range names {
		if l.jobs[name] != nil {
			continue
		}
		j := &jobState{name: name}
		l.jobs[name] = j
		l.loads += 2
		first := true
		j.watch = l.observe(l.p.job(name), func(n node) {
			if first {
				first = false
				l.loads--
			}
			if j.known && n.exists && n.version < j.version {
				return // older than what was written here
			}
			r, err := decode[jobRecord](l.p.job(name), n.data)
			j.known, j.version, j.record = n.exists && err == nil, n.version, r
		})
		listed := false
		j.runs = l.watchList(l.p.runs(name), func(ids []string, _ bool) {
			if l.over {
				return
			}
			if !listed {
				listed = true
				l.loads--
			}
			for _, id := range ids {
				l.sawRunID(runKey{name, id})
			}
		})
		l.watches = append(l.watches, j.runs)
	}
}

func (l *leader) sawRunID(k runKey) {
	if l.runs[k] != nil {
		return
	}
	r := &runState{key: k}
	l.runs[k] = r
	l.loads++
	first := true
	r.watch = l.observe(l.p.run(k.job, k.id), func(n node) {
		if first {
			first = false
			l.loads--
		}
		l.sawRun(r, n)
	})
}

func (l *leader) sawRun(r *runState, n node) {
	path := l.p.run(r.key.job, r.key.id)
	if !l.memory.sawRun(path, n) {
		r.known = false
		return
	}
	rec, err := decode[runRecord](path, n.data)
	if err != nil || r.known && n.version < r.version {
		return
	}
	if r.known && r.record.State == Failed && rec.State == Running {
		for _, s := range r.shards { // a person looked at it
			s.faults, s.after = 0, 0
		}
	}
	if rec.State != Planning || n.version != r.version {
		l.unplan(r)
	}
	r.known, r.version, r.record = true, n.version, rec
	if rec.State.final() {
		l.drop(r)
		r.ended = l.now
		l.forget(r.watch)
		l.watches = slices.DeleteFunc(l.watches, func(id int) bool { return id == r.watch })
		l.memory.forgetRun(path)
		return
	}
	if rec.Attempt == "" {
		return
	}
	if at := l.p.attempt(r.key, rec.Attempt); at != r.at {
		l.drop(r)
		r.at = at
		l.read(r)
	} else if r.listed && rec.Shards > len(r.shards) {
		for n := len(r.shards); n < rec.Shards; n++ {
			l.readShard(r, n)
		}
	}
}

// drop forgets a run's shards: they are given to nobody any more, and orders lose them.
func (l *leader) drop(r *runState) {
	for _, m := range l.members {
		for k, s := range m.has {
			if s.run == r {
				delete(m.has, k)
				m.changed = true
			}
		}
	}
	r.at, r.shards, r.open, r.listed, r.reading = "", nil, 0, false, 0
}

// read reads who has an attempt's shards and which are done.
func (l *leader) read(r *runState) {
	for n := range r.record.Shards {
		l.readShard(r, n)
	}
	r.listed = true
}

func (l *leader) readShard(r *runState, n int) {
	s := &shardState{run: r, n: n, done: true}
	for len(r.shards) <= n {
		r.shards = append(r.shards, nil)
	}
	r.shards[n] = s
	k := shardKey{r.at, n}
	r.reading++
	l.loads++
	var epoch node
	left := 2
	both := func() {
		if left--; left > 0 || l.over {
			return
		}
		l.loads--
		if r.at != k.at {
			return
		}
		r.reading--
		s.epoch, s.owner, s.fresh = epoch.version, string(epoch.data), epoch.version == 0 && len(epoch.data) == 0
		if l.ready {
			l.own(s)
		}
	}
	lack := func(path string) {
		l.memory.hold(path, path+" is gone: a part of the run's nodes was deleted")
	}
	l.get(k.epochPath(), false, func(n node) {
		if !n.exists && r.at == k.at && !l.over {
			lack(k.epochPath())
		}
		epoch = n
		both()
	})
	l.get(k.markPath(), false, func(n node) {
		if !n.exists && r.at == k.at && !l.over {
			lack(k.markPath())
		}
		m, err := checkpoints.DecodeMark(n.data)
		if n.exists && (err != nil || m.Checkpoint == nil || !m.Checkpoint.Done) {
			s.setDone(false)
		}
		if n.exists && err == nil {
			s.extent.saw(m, l.now)
		}
		both()
	})
}

// own says who has a shard that was read, once all orders are read too. The epoch and the order that names it were written at
// once, so an owner whose order does not list the shard any more has let it go: a leader before heard it and did not get
// further.
func (l *leader) own(s *shardState) {
	k := shardKey{s.run.at, s.n}
	if s.done || s.owner == "" {
		return
	}
	m := l.member(s.owner)
	i := slices.IndexFunc(m.order.Shards[k.at], func(x slot) bool { return x.N == s.n && x.Epoch == s.epoch })
	if i < 0 {
		s.owner, s.fresh = "", true
		return
	}
	s.back = m.order.Shards[k.at][i].Back
	if s.ask = m.order.Shards[k.at][i].Ask; s.ask != 0 {
		s.asked = l.now
	}
	m.has[k] = s
	l.takeBack(m)
}

// tick does what is due.
func (l *leader) tick(now time.Duration) {
	l.now = now
	if l.over || l.loads > 0 || l.memory.isHeld() {
		return
	}
	l.tokens = min(moveBurst, l.tokens+movesPerSecond*(now-l.tokensAt).Seconds())
	l.regrants = min(grantBurst, l.regrants+grantsPerSecond*(now-l.tokensAt).Seconds())
	l.tokensAt = now
	if !l.ready {
		// All is read. Who has grants and is not there was gone before the election, nobody knows for how long.
		l.ready = true
		for _, r := range l.runs {
			for _, s := range r.shards {
				l.own(s)
			}
		}
		for _, m := range l.members {
			switch {
			case m.present:
			case m.beat.Left:
				l.left(m)
			default:
				m.gone = l.elected
				l.absent(m)
			}
		}
	}
	l.limits()
	for _, k := range slices.SortedFunc(maps.Keys(l.runs), compareRuns) {
		r := l.runs[k]
		if !r.known || r.busy {
			continue
		}
		switch {
		case r.record.State.final() && !r.swept && now-r.ended > sweepAfter:
			l.sweep(r)
		case r.record.State == Planning && !l.waits(r):
			l.plan(r)
		case r.record.State == Running && r.listed && r.reading == 0 && r.open == 0:
			l.finish(r)
		}
	}
	l.schedule()
	l.prune()
	l.grant()
	given := l.assign()
	ids := slices.Sorted(maps.Keys(l.members))
	if len(ids) > grantsPerSecond {
		// Not all can have new grants each second: who got no order for the longest time comes first.
		slices.SortStableFunc(ids, func(a, b string) int { return cmp.Compare(l.members[a].due, l.members[b].due) })
	}
	for _, id := range ids {
		l.send(l.members[id], given[id])
	}
}

func compareRuns(a, b runKey) int {
	return cmp.Or(cmp.Compare(a.job, b.job), cmp.Compare(a.id, b.id))
}

// taking tells whether the shards of members that vanished may be handed on. When half of a pool vanishes at once, it is more
// likely the network than the hosts: they are given one session timeout more to come back.
func (l *leader) taking() bool {
	l.vanished = slices.DeleteFunc(l.vanished, func(at time.Duration) bool { return l.now-at > 2*l.timeout })
	if len(l.vanished) < 2 {
		return true
	}
	newest := l.vanished[len(l.vanished)-1]
	within, present := 0, 0
	for _, at := range l.vanished {
		if newest-at <= l.timeout {
			within++
		}
	}
	for _, m := range l.members {
		if m.present {
			present++
		}
	}
	return 2*within < present+len(l.vanished) || l.now-newest > l.timeout
}

// assign decides who is given what, by member.
func (l *leader) assign() map[string][]*shardState {
	var seats []seat
	pieces := map[*piece]*shardState{}
	for _, id := range slices.Sorted(maps.Keys(l.members)) {
		m := l.members[id]
		if !m.present || m.fault != nil || !m.seen {
			continue
		}
		s := seat{id: id, capacity: m.beat.Capacity, labels: m.beat.Labels, begun: map[string]bool{}}
		for _, at := range m.beat.Begun {
			s.begun[at] = true
		}
		if l.drained(m) {
			s.capacity = 0
		}
		for _, k := range slices.SortedFunc(maps.Keys(m.has), compareKeys) {
			x := m.has[k]
			if x.run.record.State != Running && !x.back {
				x.back, x.ask = true, 0
				m.changed = true
			}
			p := x.piece()
			s.has = append(s.has, p)
			pieces[p] = x
		}
		seats = append(seats, s)
	}
	taking := l.taking()
	var loose []*piece
	for _, k := range slices.SortedFunc(maps.Keys(l.runs), compareRuns) {
		r := l.runs[k]
		if !r.known || r.record.State != Running || r.busy || !r.listed || r.reading > 0 || r.open == 0 {
			continue
		}
		for _, x := range r.shards {
			if x.done || x.busy || l.now < x.after {
				continue
			}
			if x.owner != "" && (!taking || l.members[x.owner] != nil && l.members[x.owner].present) {
				continue
			}
			p := x.piece()
			loose = append(loose, p)
			pieces[p] = x
		}
	}
	given, back, left := place(seats, loose, int(l.tokens))
	l.moved += int(l.tokens) - left
	l.tokens -= float64(int(l.tokens) - left)
	for _, p := range back {
		x := pieces[p]
		x.back, x.meant, x.ask = true, p.meant, 0
		l.members[x.owner].changed = true
	}
	out, gets := map[string][]*shardState{}, map[*shardState]int{}
	for _, g := range given {
		id := seats[g.seat].id
		out[id] = append(out[id], pieces[g.piece])
		gets[pieces[g.piece]] = g.seat
	}
	l.split(seats, gets)
	return out
}

func (s *shardState) piece() *piece {
	return &piece{
		key: shardKey{s.run.at, s.n}, class: s.run.record.Spec.Class, order: int(s.run.record.At.Unix()),
		needs: s.run.record.Spec.Needs, fresh: s.fresh, had: s.epoch > 0, back: s.back, meant: s.meant, avoid: s.avoid,
	}
}

// send writes a member's order, if there is anything new in it.
func (l *leader) send(m *member, given []*shardState) {
	if m.busy {
		return
	}
	if !m.present {
		l.retire(m)
		return
	}
	if m.fault != nil || l.now < m.due-(ordersAhead-1)*l.orderGap() {
		return
	}
	grants := l.listed(m.id)
	if len(given) == 0 && !m.changed && m.exists {
		if !m.granted {
			return
		}
		if len(grants) <= len(m.order.Grants) { // else one is the first of its budget
			if l.regrants < 1 {
				return
			}
			l.regrants--
		}
	}
	given = given[:min(len(given), shardsPerWrite)]
	o := orderRecord{head: head{format}, Rev: m.order.Rev + 1, Term: l.term, Shards: map[string][]slot{}, Grants: grants}
	for _, k := range slices.SortedFunc(maps.Keys(m.has), compareKeys) {
		s := m.has[k]
		o.Shards[k.at] = append(o.Shards[k.at], slot{N: s.n, Epoch: s.epoch, Back: s.back, Ask: s.ask})
	}
	for _, k := range slices.SortedFunc(maps.Keys(m.plans), compareRuns) {
		o.Plans = append(o.Plans, runRef{k.job, k.id, m.plans[k].version})
	}
	var ops []op
	for _, s := range given {
		k := shardKey{s.run.at, s.n}
		// The write makes the epoch one higher, or fails.
		ops = append(ops, set(k.epochPath(), []byte(m.id), s.epoch))
		o.Shards[k.at] = append(o.Shards[k.at], slot{N: s.n, Epoch: s.epoch + 1})
		s.busy = true
	}
	if m.exists {
		ops = append(ops, set(l.p.order(m.id), encode(o), m.version))
	} else {
		ops = append(ops, create(l.p.order(m.id), encode(o)))
	}
	m.busy, m.changed, m.granted = true, false, false
	m.due = max(m.due, l.now) + l.orderGap()
	l.do(ops, len(ops)-1, func(v verdict) {
		m.busy = false
		for _, s := range given {
			s.busy = false
		}
		if !v.done {
			m.changed = true
			if v.at >= 0 && v.at < len(given) {
				l.stray(given[v.at])
			} else if v.at == len(ops)-1 {
				l.reread(m)
			}
			return
		}
		if m.exists {
			m.version++
		}
		m.exists = true
		m.order = o
		for _, s := range given {
			k := shardKey{s.run.at, s.n}
			if old := l.members[s.owner]; old != nil {
				delete(old.has, k)
				old.changed = true
			}
			s.epoch, s.owner, s.fresh, s.back, s.meant, s.ask = s.epoch+1, m.id, false, false, "", 0
			s.asked = 0
			s.extent.begin(l.now)
			if s.run.at == k.at && k.at != "" && s.run.shards != nil {
				m.has[k] = s
			}
		}
		l.takeBack(m)
	})
}

// orderGap is how far apart a member's orders are, over time.
func (l *leader) orderGap() time.Duration {
	return min(time.Duration(len(l.members))*ordersEvery, time.Second)
}

// stray looks again at a shard whose epoch is not what was thought. Only leaders write epochs, so this is a tree that somebody
// else changed.
func (l *leader) stray(s *shardState) {
	k := shardKey{s.run.at, s.n}
	s.busy = true
	l.get(k.epochPath(), true, func(n node) {
		if l.over {
			return
		}
		s.busy = false
		if !n.exists {
			l.memory.hold(k.epochPath(), k.epochPath()+" is gone: a part of the run's nodes was deleted")
			return
		}
		s.epoch = max(s.epoch, n.version)
	})
}

func (l *leader) reread(m *member) {
	m.busy = true
	l.get(l.p.order(m.id), true, func(n node) {
		m.busy = false
		if m.exists, m.version = n.exists, n.version; n.exists {
			if o, err := decode[orderRecord](l.p.order(m.id), n.data); err == nil {
				m.order = o
			}
		}
	})
}

// retire removes the order of a member that is gone, when nothing of it counts any more.
func (l *leader) retire(m *member) {
	if len(m.has) > 0 || l.counting(m) {
		return
	}
	if !m.exists {
		if m.watch != 0 {
			delete(l.members, m.id)
		}
		return
	}
	m.busy = true
	l.do([]op{remove(l.p.order(m.id), m.version)}, 0, func(v verdict) {
		m.busy = false
		if v.done || errors.Is(v.err, zookeeper.ErrNoNode) {
			delete(l.members, m.id)
		} else {
			l.reread(m)
		}
	})
}

// counting tells whether a member's grants count: while it is there, and when it is gone for one session timeout more, from
// when its node was missed or, if that was before, from the election. Its deadline passed before its session ended.
func (l *leader) counting(m *member) bool {
	return m.present || !m.beat.Left && l.now-max(m.gone, l.elected) <= l.timeout
}

func (l *leader) ledger(b budget) *share.Ledger {
	g := l.ledgers[b]
	if g == nil {
		g = share.NewLedger(l.timeout)
		l.ledgers[b] = g
	}
	return g
}

// grant divides the budgets among the members that want some. Those whose order has to list something else are changed.
func (l *leader) grant() {
	wants := map[budget][]share.Want{}
	for _, id := range slices.Sorted(maps.Keys(l.members)) {
		m := l.members[id]
		if !m.present || m.fault != nil {
			continue
		}
		for _, w := range m.beat.Wants {
			demand := w.Demand
			if demand < 0 {
				demand = math.Inf(1)
			}
			wants[w.budget] = append(wants[w.budget], share.Want{Worker: id, Demand: demand, Weight: w.Weight, Class: w.Class, Cap: w.Cap})
			l.ledger(w.budget)
			l.table(w.Table)
		}
	}
	for _, b := range slices.SortedFunc(maps.Keys(l.ledgers), compareBudgets) {
		for _, id := range l.ledgers[b].Plan(l.now, 1, wants[b]) {
			if m := l.members[id]; m != nil {
				m.granted = true
			}
		}
	}
}

// listed are a member's grants as its order has to have them.
func (l *leader) listed(id string) []grants {
	var all []grants
	for _, b := range slices.SortedFunc(maps.Keys(l.ledgers), compareBudgets) {
		if list := l.ledgers[b].Listed(id); len(list) > 0 {
			all = append(all, grants{b, list})
		}
	}
	return all
}

func (l *leader) table(name string) *tableState {
	t := l.tables[name]
	if t == nil {
		t = &tableState{}
		l.tables[name] = t
		t.watch = l.observe(l.p.table(name), func(n node) {
			r, err := decode[tableRecord](l.p.table(name), n.data)
			t.known = err == nil || !n.exists
			t.exists, t.version, t.record = n.exists, n.version, r
		})
	}
	return t
}

// limits keeps the tables' limits at the lowest of the jobs that are not over.
func (l *leader) limits() {
	lowest := map[string]tableRecord{}
	for name := range l.tables {
		lowest[name] = tableRecord{head: head{format}, Jobs: NoLimits, Factor: 1}
	}
	for _, r := range l.runs {
		if !r.known || r.record.State.final() || r.record.State == Failed {
			continue
		}
		factor := l.daily(r.record.Spec)
		for name, limit := range r.record.Spec.Limits {
			l.table(name)
			t, ok := lowest[name]
			if !ok {
				t = tableRecord{head: head{format}, Jobs: NoLimits, Factor: 1}
			}
			t.Jobs = t.Jobs.lowest(limit)
			t.Factor = min(t.Factor, factor)
			lowest[name] = t
		}
	}
	for _, m := range l.members {
		if !m.present || m.fault != nil {
			continue
		}
		for _, w := range m.beat.Wants {
			if t, ok := lowest[w.Table]; ok && w.Limit != nil {
				o := NoLimits
				if w.Kind == share.Scans {
					o.Scans = *w.Limit
				} else {
					o.Puts = *w.Limit
				}
				t.Jobs = t.Jobs.lowest(o)
				lowest[w.Table] = t
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.tables)) {
		t, want := l.tables[name], lowest[name]
		if !t.known || t.busy || t.exists && t.record.Jobs == want.Jobs && t.record.Factor == want.Factor {
			continue
		}
		want.Throttle, want.Paused = t.record.Throttle, t.record.Paused
		o := create(l.p.table(name), encode(want))
		if t.exists {
			o = set(l.p.table(name), encode(want), t.version)
		}
		t.busy, t.known = true, false // until it is seen again
		l.do([]op{o}, 0, func(v verdict) {
			t.busy = false
			if !v.done && (errors.Is(v.err, errNotDone) || errors.Is(v.err, zookeeper.ErrNotConnected)) {
				t.known = true // nothing changed that could be seen
			}
		})
	}
}

// daily is the part of a job's limits that holds at this time of day.
func (l *leader) daily(s Spec) float64 {
	if s.Daily == "" || l.wall == nil {
		return 1
	}
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		return 1
	}
	d, err := share.ParseDaily(s.Daily, zone)
	if err != nil {
		return 1
	}
	return d.Factor(l.wall())
}

// end changes a run's state, unless the run changed.
func (l *leader) end(r *runState, s State, why string, books *Books) {
	if r.busy || !r.known || r.record.State.final() {
		return
	}
	rec := r.record
	rec.end(s, why, l.name(), l.wall)
	rec.Books = books
	r.busy = true
	ops := []op{set(l.p.run(r.key.job, r.key.id), encode(rec), r.version)}
	if rec.Attempt != "" {
		ops = append(ops, l.p.same(r.key, rec.Attempt))
	}
	l.do(ops, 0, func(v verdict) {
		r.busy = false
		if v.done {
			r.record, r.version = rec, r.version+1
		}
	})
}
