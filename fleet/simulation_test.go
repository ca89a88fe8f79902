package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"drover/checkpoints"
	"drover/fleet/share"
	"drover/fleet/tick"
	"drover/jobs"
	"drover/zookeeper"
)

// flaws are mutants: each takes away one thing that the design says is needed, and the simulation has to find it.
type flaws struct {
	noFence      bool // checkpoints are written without a look at the epoch
	highestAcked bool // the watermark is the highest acknowledged row
	noTerm       bool // a leader's writes are on condition of its own node, which is made anew at each election
	growFirst    bool // grants grow before a beat says that others shrank
	rereadEpoch  bool // who is refused reads the epoch again and goes on with it

	// Of servers that were put back.
	noTide  bool // beats raise nothing that is common to all
	noAlarm bool // who holds tells nobody

	// Of splitting.
	neverCut    bool // no mutant: all shards are whole
	cutNoFence  bool // a split is written without a look at the epoch
	cutNoRun    bool // the run counts the new shard in a write behind it
	cutNoBounds bool // the bounds of the shard that is split stay
	cutOldMark  bool // who split saves with the bounds from before
	cutInRead   bool // it is split within what was read already
	cutLost     bool // an answer that was lost is taken for a refusal
	earlyList   bool // a run is ended by what was heard of its shards, on condition of its version when it is ended
}

const (
	simTimeout = 2 * time.Second
	simRoot    = paths("/drover/sim")
	simRows    = 120 // of a shard of the plan
	simWindow  = 4
)

// simulation is a pool with a run to move, and a table that takes its rows.
type simulation struct {
	*ensemble
	flaws  flaws
	procs  []*proc
	rows   []bool // what HBase has; a row is at its place in the key space, and 1 MiB as stored
	ends   []int  // of the shards of the plan
	pace   float64
	needs  map[string]string
	fault  error
	names  int
	steps  int
	calm   bool
	done   bool
	marks  map[string]int        // watermarks as last written, by path
	bounds map[string]jobs.Shard // as last written, by path
	puts   int
	splits int
	whole  int
	movers map[int]map[string]bool // by shard of the plan: who put rows of it

	started time.Time // of the schedule
	ticks   int
}

// proc is a process: a member with work that moves rows.
type proc struct {
	s      *simulation
	name   string
	labels map[string]string
	memory *memory
	skew   float64
	offset time.Duration
	alive  bool
	paused time.Duration // until then
	queue  []func()
	in     *incarnation
	conn   *client
	leaves bool // it was told to stop
	jobs   map[shardKey]*moving
	gen    int
}

// moving is the work on one lease.
type moving struct {
	l      *lease
	sent   int
	acked  map[int]bool
	open   int
	mark   int // watermark
	saved  int
	saving bool // or splitting
	epoch  int32
	writes int
	over   bool

	start, end int
	limit      int // nothing is read beyond it; end, but while it is being split

	// As the store keeps it.
	read    bool
	known   checkpoints.Mark
	version int32
}

func (p *proc) clock() time.Duration {
	return p.offset + p.s.now + time.Duration(float64(p.s.now)*p.skew)
}

func (s *simulation) name() string {
	s.names++
	return fmt.Sprintf("n%d", s.names)
}

// wall is the time of day, in which a minute passes each second.
func (s *simulation) wall() time.Time {
	return time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC).Add(60 * s.now)
}

// decided looks at the decisions of the schedule: one for each instant up to the last, and a run for each that was fired.
func (s *simulation) decided() (instants int) {
	names, fired := s.truth.children(simRoot.ticks("k")), 0
	at := s.started
	for _, name := range names {
		at = at.Add(time.Minute)
		if name != tick.Name(at) {
			s.fail("after %v decisions that of %s is missing: %v", instants, tick.Name(at), names)
			return instants
		}
		r, err := decode[tickRecord](name, s.truth.nodes[simRoot.ticks("k")+"/"+name].data)
		if err != nil {
			s.fail("%v", err)
		}
		if r.Outcome == tick.Fired {
			fired++
		}
		instants++
	}
	if runs := len(s.truth.children(simRoot.runs("k"))); runs != fired {
		s.fail("%d instants were fired, and there are %d runs", fired, runs)
	}
	return instants
}

func (s *simulation) fail(format string, args ...any) {
	if s.fault == nil {
		s.fault = fmt.Errorf("at %v: "+format, append([]any{s.now}, args...)...)
	}
}

func newSimulation(seed uint64, f flaws) *simulation {
	w := &world{rand: rand.New(rand.NewPCG(seed, seed)), faults: map[string]int{}}
	w.now = time.Second
	s := &simulation{
		ensemble: newEnsemble(w, simTimeout), flaws: f, marks: map[string]int{}, bounds: map[string]jobs.Shard{},
		movers: map[int]map[string]bool{},
	}
	s.started = s.wall()
	s.pace = []float64{0.7, 0.7, 0.25}[s.rand.IntN(3)]
	for n := range 4 + s.rand.IntN(10) {
		s.ends = append(s.ends, (n+1)*simRows)
	}
	s.rows = make([]bool, s.ends[len(s.ends)-1])
	s.ensemble.wrote = s.wrote
	var ops []op
	for at := 1; at < len(simRoot); at++ {
		if simRoot[at] == '/' {
			ops = append(ops, create(string(simRoot[:at]), nil))
		}
	}
	ops = append(ops, create(string(simRoot), nil))
	for _, f := range simRoot.folders() {
		ops = append(ops, create(f, nil))
	}
	ops = append(ops, create(simRoot.term(), encode(termRecord{head: head{format}})))
	if s.rand.IntN(3) == 0 {
		s.needs = map[string]string{"disk": "a"}
	}
	spec := Spec{File: []byte("job"), Needs: s.needs, Limits: map[string]Limits{"t": {share.Limit{Rows: 100, Bytes: 1e9}, share.NoLimit}}}
	ops = append(ops,
		create(simRoot.job("j"), encode(jobRecord{head: head{format}, Spec: spec, Newest: "r"})),
		create(simRoot.runs("j"), nil),
		create(simRoot.run("j", "r"), encode(runRecord{head: head{format}, State: Planning, Spec: spec})))
	// A job whose runs end as they begin, so that a run is made for each instant.
	cron := Spec{Schedule: &tick.Settings{Cron: "* * * * *", Misfire: time.Hour}}
	ops = append(ops, create(simRoot.job("k"), encode(jobRecord{head: head{format}, Spec: cron, Since: s.wall()})),
		create(simRoot.runs("k"), nil), create(simRoot.ticks("k"), nil))
	if _, err := s.apply(nil, 0, ops); err != nil {
		panic(err)
	}
	for i := range 3 + s.rand.IntN(3) {
		p := &proc{s: s, name: fmt.Sprintf("w%d", i), skew: (s.rand.Float64() - 0.5) / 100, offset: s.between(0, time.Hour)}
		if i%2 == 0 {
			p.labels = map[string]string{"disk": "a"}
		}
		s.procs = append(s.procs, p)
		s.after(s.between(0, time.Second), p.boot)
	}
	s.after(0, s.beatOfEnsemble)
	return s
}

func (s *simulation) beatOfEnsemble() {
	s.expire()
	s.after(100*time.Millisecond, s.beatOfEnsemble)
}

// boot starts a process.
func (p *proc) boot() {
	p.gen++
	p.alive, p.memory, p.paused, p.queue, p.leaves = true, newMemory(), 0, nil, false
	p.live()
	gen := p.gen
	var tick func()
	tick = func() {
		if p.gen != gen {
			return
		}
		p.run(func() {
			if p.leaves && len(p.jobs) == 0 {
				p.leave()
			}
			if p.gen == gen {
				p.step(func() { p.in.tick(p.clock()) })
				p.work()
			}
		})
		p.s.after(p.s.between(80*time.Millisecond, 120*time.Millisecond), tick)
	}
	tick()
	var ping func()
	ping = func() {
		if p.gen != gen {
			return
		}
		p.run(func() { p.conn.ping() })
		p.s.after(p.s.timeout/3, ping)
	}
	ping()
}

// live starts an incarnation.
func (p *proc) live() {
	if p.conn != nil {
		p.conn.over = true
	}
	cut := p.conn != nil && p.conn.cut
	p.conn = p.s.connect()
	p.conn.cut, p.conn.who = cut, p
	gen := p.gen
	conn := p.conn
	p.conn.deliver = func(a answer) {
		p.run(func() {
			if p.gen == gen && p.conn == conn {
				p.step(func() { p.in.answered(p.clock(), a) })
			}
		})
	}
	p.conn.lost = func() {
		p.run(func() {
			if p.gen == gen && p.conn == conn {
				p.s.faults["session lost"]++
				p.live()
			}
		})
	}
	self := beatRecord{Name: p.name, Labels: p.labels, Plans: true, Capacity: 3 + p.s.rand.IntN(4), Wants: []want{{budget: budget{"t", share.Puts}, Demand: -1}}}
	p.in = newIncarnation(simRoot, p.name+"-"+p.s.name(), p.s.timeout, self, p.memory, p.s.name, p.s.rand)
	p.in.wall = p.s.wall
	p.jobs = map[shardKey]*moving{}
	p.step(func() { p.in.start(p.clock()) })
}

// leave is a clean stop, once nothing is in flight: the leader is told, and the session ended.
func (p *proc) leave() {
	over := false
	p.step(func() {
		p.in.self.Draining, p.in.self.Wants = true, nil
		over = p.in.leave(p.clock())
	})
	if !over || !p.leaves {
		return
	}
	p.s.faults["clean stop ended"]++
	p.alive, p.gen, p.conn.over = false, p.gen+1, true
	p.s.end(p.conn.session)
	p.s.after(p.s.between(0, 4*time.Second), p.boot)
}

// run does something in a process when it runs: at once, after its pause, or never.
func (p *proc) run(f func()) {
	switch {
	case !p.alive:
	case p.s.now < p.paused || len(p.queue) > 0:
		if p.queue = append(p.queue, f); len(p.queue) == 1 {
			gen := p.gen
			p.s.after(p.paused-p.s.now, func() { p.resume(gen) })
		}
	default:
		f()
	}
}

// resume does what came up in a pause, in order.
func (p *proc) resume(gen int) {
	if p.gen != gen {
		return
	}
	if p.s.now < p.paused {
		p.s.after(p.paused-p.s.now, func() { p.resume(gen) })
		return
	}
	queue := p.queue
	p.queue = nil
	for _, f := range queue {
		if p.gen == gen {
			f()
		}
	}
}

// step makes a step and does what comes of it.
func (p *proc) step(f func()) {
	s := p.s
	s.steps++
	f()
	in := p.in
	if in.dead && p.leaves {
		return // leave sees it
	}
	if in.dead {
		p.s.faults["incarnation ended"]++
		p.conn.over = true
		s.end(p.conn.session)
		p.live()
		return
	}
	if l := in.lead; l != nil {
		if s.flaws.noTerm {
			l.fence = check(simRoot.leader(), 0)
		}
		if s.flaws.growFirst {
			for _, g := range l.ledgers {
				for id := range l.members {
					g.Seen(id, share.Newest(g.Listed(id)).ID)
				}
			}
		}
		for _, k := range l.toPlan {
			p.plan(k, func(made Planned, err error) {
				if in.lead == l {
					l.planned(p.clock(), k, made, err)
				}
			})
		}
		l.toPlan = nil
		if s.flaws.earlyList {
			s.endEarly(l)
		}
	}
	for _, k := range in.worker.toPlan {
		s.faults["planned for a leader that does not see the source"]++
		x := in.worker.plans[k]
		p.plan(k, func(made Planned, err error) {
			if in.worker.plans[k] == x {
				in.worker.planned(p.clock(), k, made, err)
			}
		})
	}
	in.worker.toPlan = nil
	for _, e := range in.machine.take() {
		if s.flaws.noTide && len(e.ops) == 2 && e.ops[1].path == simRoot.tide() {
			e.ops = e.ops[:1]
		}
		if s.flaws.noAlarm && len(e.ops) == 1 && e.ops[0].path == simRoot.term() {
			continue
		}
		p.conn.do(e)
	}
	s.check()
}

// plan makes a plan, if this process sees the source.
func (p *proc) plan(k runKey, made func(Planned, error)) {
	s, in := p.s, p.in
	s.after(s.between(0, 300*time.Millisecond), func() {
		p.run(func() {
			if p.in != in {
				return
			}
			var err error
			if k.job == "k" {
				err = errors.New("there is nothing to move")
			} else if !fits(p.labels, s.needs) {
				err = errors.New("there is no such file here")
			}
			p.step(func() { made(s.plan(), err) })
		})
	})
}

// endEarly is the mutant that ends a run by the list of its shards that the leader has.
func (s *simulation) endEarly(l *leader) {
	r := l.runs[runKey{"j", "r"}]
	if r == nil || !r.known || r.busy || r.record.State != Running || !r.listed || r.reading > 0 || r.open > 0 {
		return
	}
	path := simRoot.run("j", "r")
	n := s.truth.nodes[path]
	rec, err := decode[runRecord](path, n.data)
	if err != nil || rec.State != Running {
		return
	}
	rec.State, rec.Write, rec.Books = Done, s.name(), &Books{Tables: map[string]checkpoints.Counts{"t": {Written: int64(len(s.rows))}}}
	r.busy = true
	l.do([]op{set(path, encode(rec), n.version)}, 0, func(verdict) { r.busy = false })
}

func (s *simulation) plan() Planned {
	p := Planned{Plan: []byte("plan"), Fingerprint: "f", Timestamp: int64(s.now)}
	from := 0
	for n, end := range s.ends {
		p.Shards = append(p.Shards, simShard(n, from, end))
		from = end
	}
	return p
}

func simShard(n, from, end int) jobs.Shard {
	return jobs.Shard{N: n, Start: jobs.Cursor(strconv.Itoa(from)), End: jobs.Cursor(strconv.Itoa(end)), Bytes: int64(end-from) << 20}
}

func span(s jobs.Shard) (from, end int) {
	from, _ = strconv.Atoi(string(s.Start))
	end, _ = strconv.Atoi(string(s.End))
	return from, end
}

// work moves rows: what Config.Work does.
func (p *proc) work() {
	for _, k := range slices.SortedFunc(maps.Keys(p.in.leases), compareKeys) {
		l := p.in.leases[k]
		if l.state == leaseReady && p.jobs[k] == nil && !p.leaves {
			p.in.grab(l)
			start, end := span(l.shard)
			from := start
			if l.from.Cursor != "" {
				from, _ = strconv.Atoi(l.from.Cursor)
			}
			p.jobs[k] = &moving{l: l, start: start, end: end, limit: end, sent: from, mark: from, saved: from, acked: map[int]bool{}, epoch: l.epoch}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(p.jobs), compareKeys) {
		p.move(k, p.jobs[k])
	}
	for _, e := range p.in.machine.take() {
		p.conn.do(e)
	}
}

func (p *proc) move(k shardKey, m *moving) {
	s := p.s
	lost := p.leaves || m.l.state == leaseEnding || p.in.leases[k] != m.l || m.over
	for !lost && p.in.sure(p.clock()) && m.sent < m.limit && m.open < simWindow && s.chance(s.pace) {
		row := m.sent
		m.sent++
		m.open++
		s.puts++
		in, gen := p.in, p.gen
		s.after(s.between(time.Millisecond, 200*time.Millisecond), func() {
			s.rows[row] = true
			of, _ := slices.BinarySearch(s.ends, row+1)
			if s.movers[of] == nil {
				s.movers[of] = map[string]bool{}
			}
			s.movers[of][p.name] = true
			p.run(func() {
				if p.gen != gen || p.in != in {
					return
				}
				m.open--
				m.acked[row] = true
				for m.acked[m.mark] {
					m.mark++
				}
				if s.flaws.highestAcked {
					m.mark = max(m.mark, row+1)
				}
			})
		})
	}
	if m.saving {
		return
	}
	if !m.over && (m.mark > m.saved && s.chance(0.3) || m.mark > m.saved && (lost || m.mark == m.end)) {
		p.save(k, m)
		return
	}
	if !lost && m.l.asks() && s.chance(0.5) {
		switch left := m.end - m.sent; {
		case left < 3 || s.chance(0.02) || s.flaws.neverCut:
			s.whole++
			p.in.keep(m.l)
		default:
			at := m.sent + 1
			if s.chance(0.7) {
				at += s.rand.IntN(left - 2)
			}
			if s.flaws.cutInRead && m.sent > m.mark+1 {
				at = m.mark + 1 + s.rand.IntN(m.sent-m.mark-1)
			}
			m.limit = at
			p.cut(k, m)
		}
		return
	}
	switch {
	case lost && m.open == 0:
		delete(p.jobs, k)
		p.in.let(m.l, false, "")
	case m.saved == m.end && m.open == 0:
		delete(p.jobs, k)
		p.in.let(m.l, true, "")
	}
}

// learn reads a shard's mark, as checkpoints.ZooKeeperStore does.
func (p *proc) learn(k shardKey, m *moving) {
	p.in.get(k.markPath(), true, func(n node) {
		known, err := checkpoints.DecodeMark(n.data)
		if err != nil {
			p.s.fail("%v", err)
		}
		m.read, m.known, m.version, m.saving = true, known, n.version, false
	})
}

func (m *moving) name(in *incarnation) string {
	m.writes++
	return fmt.Sprintf("%s %d %d", in.id, m.epoch, m.writes)
}

// save writes a checkpoint, as checkpoints.ZooKeeperStore does.
func (p *proc) save(k shardKey, m *moving) {
	m.saving = true
	in := p.in
	if !m.read {
		p.learn(k, m)
		return
	}
	mark, known := m.mark, m.known
	known.Checkpoint = &checkpoints.Checkpoint{
		Shard: k.n, Cursor: strconv.Itoa(mark), Done: mark == m.end, Stored: int64(mark-m.start) << 20,
		Tables: map[string]checkpoints.Counts{"t": {Read: int64(mark - m.start), Written: int64(mark - m.start)}},
	}
	known.Write = m.name(in)
	ops := []op{check(k.epochPath(), m.epoch), set(k.markPath(), known.Encode(), m.version)}
	if p.s.flaws.noFence {
		ops = ops[1:]
		ops[0].version = -1
	}
	in.write(ops, len(ops)-1, func(v verdict) {
		m.saving = false
		switch {
		case v.done:
			m.known = known
			m.version++
			m.saved = mark
			p.in.began(k.at)
		case errors.Is(v.err, zookeeper.ErrBadVersion) && v.at == 0 && p.s.flaws.rereadEpoch:
			m.saving = true
			in.get(k.epochPath(), true, func(n node) {
				m.saving, m.read, m.epoch = false, false, n.version
			})
		case errors.Is(v.err, zookeeper.ErrBadVersion) && v.at == 0:
			m.over = true
		case errors.Is(v.err, zookeeper.ErrBadVersion):
			m.read = false
		}
	})
}

// cut splits a shard at m.limit, as checkpoints.ZooKeeperStore does. Now and then the process fails meanwhile.
func (p *proc) cut(k shardKey, m *moving) {
	s, in, f := p.s, p.in, p.s.flaws
	m.saving = true
	fail := func(lost bool) {
		m.saving, m.over = false, m.over || lost
		m.limit = m.end
	}
	if !m.read {
		fail(false)
		m.saving = true
		p.learn(k, m) // and then it is tried again
		return
	}
	run := simRoot.run("j", "r")
	in.get(run, false, func(n node) {
		name := m.name(in)
		grown, number, err := grow(run, k.at, n.data, name)
		if err != nil {
			fail(errors.Is(err, ErrLost))
			return
		}
		head, rest := simShard(k.n, m.start, m.limit), simShard(0, m.limit, m.end)
		if err := cuttable(m.l.shard, head, rest); err != nil && !f.cutLost {
			s.fail("%v", err)
		}
		headText, restText, err := cutParts(m.known.Shard, head, rest, number)
		if err != nil {
			fail(true)
			return
		}
		known := m.known
		known.Shard, known.Write = headText, name
		ops := []op{check(k.epochPath(), m.epoch), set(run, grown, n.version), set(k.markPath(), known.Encode(), m.version)}
		fence, runs, marks := 0, 1, 2
		drop := func(i *int) {
			ops = slices.Delete(ops, *i, *i+1)
			for _, j := range []*int{&fence, &runs, &marks} {
				if *j > *i {
					*j--
				}
			}
			*i = -1
		}
		if f.cutNoFence {
			drop(&fence)
		}
		if f.cutNoRun {
			drop(&runs)
		}
		proof := marks
		if f.cutNoBounds {
			drop(&marks)
			proof = len(ops) + 1
		}
		rk := shardKey{k.at, number}
		ops = append(ops, create(rk.epochPath(), nil), create(rk.markPath(), checkpoints.Mark{Shard: restText, Of: m.known.Of, Write: name}.Encode()))
		if !s.calm && s.chance(0.3) {
			s.after(s.between(0, 40*time.Millisecond), func() {
				if s.faultOf(p, s.rand.IntN(3)) {
					s.faults["trouble around a split"]++
				}
			})
		}
		done := func(v verdict) {
			m.saving = false
			switch {
			case v.done && v.at < 0:
				m.end = m.limit
				if !f.cutNoBounds {
					m.version++
				}
				if !f.cutOldMark {
					m.known = known
				}
				in.cut(m.l, head)
				if f.cutNoRun {
					p.count(run, k.at)
				}
			case errors.Is(v.err, zookeeper.ErrBadVersion) && v.at == fence:
				fail(true)
			case errors.Is(v.err, zookeeper.ErrBadVersion) && v.at == runs:
				s.faults["split beside another"]++
				fail(false)
			case errors.Is(v.err, zookeeper.ErrBadVersion):
				m.read = false
				fail(false)
			default:
				fail(false)
			}
		}
		if f.cutLost {
			in.ask(effect{kind: doMulti, ops: ops}, func(a answer) { done(verdict{done: a.err == nil, at: a.index, err: a.err}) })
			return
		}
		in.write(ops, proof, done)
	})
}

// count counts a new shard, in the mutant that does not do it with the split.
func (p *proc) count(run, at string) {
	in := p.in
	in.get(run, true, func(n node) {
		grown, _, err := grow(run, at, n.data, p.s.name())
		if err != nil {
			return
		}
		in.write([]op{set(run, grown, n.version)}, 0, func(v verdict) {
			if !v.done {
				p.count(run, at)
			}
		})
	})
}

// wrote looks at each transaction.
func (s *simulation) wrote(from *client, ops []op) {
	split := false
	for _, o := range ops {
		if from == nil || o.kind != opCreate || !strings.Contains(o.path, "/c/") {
			continue
		}
		m, err := checkpoints.DecodeMark(o.data)
		if err != nil {
			continue // a folder
		}
		if err := json.Unmarshal(m.Shard, new(jobs.Shard)); err != nil {
			s.fail("%s: %v", o.path, err)
		}
		split = split || m.Write != ""
		s.bounds[o.path] = simBounds(m)
	}
	for _, o := range ops {
		if o.kind != opSet || from == nil {
			continue
		}
		switch {
		case strings.Contains(o.path, "/c/"):
			m, err := checkpoints.DecodeMark(o.data)
			if err != nil {
				s.fail("%s: %v", o.path, err)
				continue
			}
			n, _ := strconv.Atoi(base(o.path))
			if is := simBounds(m); is != s.bounds[o.path] {
				if !split {
					s.fail("the bounds of shard %d were %+v and are %+v, and it was not split", n, s.bounds[o.path], is)
				}
				s.bounds[o.path] = is
			}
			start, end := span(s.bounds[o.path])
			mark := start
			if m.Checkpoint != nil {
				mark, _ = strconv.Atoi(m.Checkpoint.Cursor)
			}
			if mark > end {
				s.fail("the checkpoint of shard %d says %d, it ends at %d", n, mark, end)
				continue
			}
			for row := start; row < mark; row++ {
				if !s.rows[row] {
					s.fail("the checkpoint of shard %d says %d, row %d was never put", n, mark, row)
					break
				}
			}
			if mark < s.marks[o.path] {
				s.fail("the checkpoint of shard %d goes back from %d to %d", n, s.marks[o.path], mark)
			}
			s.marks[o.path] = mark
			epoch := s.truth.nodes[strings.Replace(o.path, "/c/", "/s/", 1)]
			if want := fmt.Sprintf("%s %d ", epoch.data, epoch.version); !strings.HasPrefix(m.Write, want) {
				s.fail("a checkpoint of shard %d was taken from %q, its owner is %q", n, m.Write, want)
			}
		case split && o.path == simRoot.run("j", "r"):
		case s.flaws.cutNoRun && o.path == simRoot.run("j", "r") && !s.done && from.who.(*proc).in.lead == nil:
		case strings.HasPrefix(o.path, simRoot.orders()+"/"), strings.Contains(o.path, "/s/"), strings.HasPrefix(o.path, simRoot.jobs()):
			// A leader's. The term names who was elected last. Or a plan's, by who was asked for it in this term.
			t, _ := decode[termRecord](simRoot.term(), s.truth.nodes[simRoot.term()].data)
			id := from.who.(*proc).name + "-"
			asked := ops[0].kind == opCheck && ops[0].path == simRoot.term() && from.who.(*proc).in.worker.plans[runKey{"j", "r"}] != nil
			if !strings.HasPrefix(t.Leader, id) && !(asked && strings.HasPrefix(o.path, simRoot.job("j"))) {
				s.fail("%s was written by %s, the leader is %s", o.path, id, t.Leader)
			}
			if r, err := decode[orderRecord](o.path, o.data); err == nil && r.Rev > 0 && r.Term != s.truth.nodes[simRoot.term()].version {
				s.fail("%s was written in term %d, the term is %d", o.path, r.Term, s.truth.nodes[simRoot.term()].version)
			}
			if o.path == simRoot.run("j", "r") {
				r, err := decode[runRecord](o.path, o.data)
				if err != nil {
					s.fail("%v", err)
				}
				if r.State == Failed {
					s.fail("the run failed: %s", r.Reason)
				}
				if r.State == Done {
					s.done = true
					if i := slices.Index(s.rows, false); i >= 0 {
						s.fail("the run is done, row %d was never put", i)
					}
					marks := s.tiled()
					for n, m := range marks {
						if m.Checkpoint == nil || !m.Checkpoint.Done {
							s.fail("the run is done, shard %d is not", n)
						}
					}
					if got := r.Books.Tables["t"].Written; got != int64(len(s.rows)) {
						s.fail("the books say %d rows, there are %d", got, len(s.rows))
					}
				}
			}
		}
	}
	if split {
		s.splits++
		s.tiled()
	}
}

func simBounds(m checkpoints.Mark) (s jobs.Shard) {
	json.Unmarshal(m.Shard, &s) // what is none tiles nothing
	return s
}

// tiled looks whether the shards are those that were planned and what was split from them, and gives them.
func (s *simulation) tiled() map[int]checkpoints.Mark {
	rec, err := decode[runRecord]("run", s.truth.nodes[simRoot.run("j", "r")].data)
	if err != nil {
		s.fail("%v", err)
		return nil
	}
	at := simRoot.attempt(runKey{"j", "r"}, rec.Attempt)
	marks := map[int]checkpoints.Mark{}
	for path, n := range s.truth.nodes {
		if !strings.HasPrefix(path, at+"/c/") {
			continue
		}
		if m, err := checkpoints.DecodeMark(n.data); err == nil {
			number, _ := strconv.Atoi(base(path))
			marks[number] = m
			if !s.truth.nodes[strings.Replace(path, "/c/", "/s/", 1)].exists {
				s.fail("shard %d has no epoch", number)
			}
		}
	}
	if err := tile(marks, rec.Planned, rec.Shards); err != nil && !s.flaws.cutNoRun {
		s.fail("%v", err)
	}
	return marks
}

// check looks at everybody after each step.
func (s *simulation) check() {
	sum := 0.0
	var sure map[shardKey]string
	for _, p := range s.procs {
		if !p.alive || p.in == nil {
			continue
		}
		if !p.in.sure(p.clock()) || p.in.self.Left {
			continue
		}
		sum += p.in.grants()[budget{"t", share.Puts}].Part
		for k := range p.jobs {
			if p.in.leases[k] == nil || p.in.leases[k].state != leaseTaken {
				continue
			}
			if sure == nil {
				sure = map[shardKey]string{}
			}
			if other := sure[k]; other != "" {
				s.fail("shard %d is held by %s and %s, both are sure", k.n, other, p.in.id)
			}
			sure[k] = p.in.id
		}
	}
	if sum > 1 {
		s.fail("the grants in force sum to %v", sum)
	}
}

// strike has something go wrong.
func (s *simulation) strike() {
	if s.calm {
		return
	}
	s.after(s.between(200*time.Millisecond, 3*time.Second), s.strike)
	p := s.procs[s.rand.IntN(len(s.procs))]
	if s.chance(0.4) {
		for _, q := range s.procs {
			if q.alive && q.in != nil && q.in.lead != nil {
				p = q
			}
		}
	}
	s.faultOf(p, s.rand.IntN(5))
}

// faultOf has something go wrong with a process, if it is there.
func (s *simulation) faultOf(p *proc, kind int) bool {
	if !p.alive || p.in == nil {
		return false
	}
	leads := ""
	if p.in.lead != nil {
		leads = " of a leader"
	}
	switch kind {
	case 0:
		s.faults["crash"+leads]++
		p.alive, p.gen = false, p.gen+1
		p.conn.over = true
		s.after(s.between(0, 4*time.Second), p.boot)
	case 1:
		s.faults["pause"+leads]++
		p.paused = max(p.paused, s.now+s.between(0, 3*s.timeout/2)*[]time.Duration{1, 1, 2}[s.rand.IntN(3)])
	case 2:
		s.faults["partition"+leads]++
		conn := p.conn
		conn.cut = true
		s.after(s.between(0, 2*s.timeout), func() {
			p.conn.cut = false
			if p.conn == conn && !conn.over {
				conn.move()
			}
		})
	case 3:
		s.faults["clean stop"+leads]++
		p.leaves = true
	case 4:
		s.faults["reconnection"+leads]++
		p.conn.move()
	}
	return true
}

// simulate runs one seed to its end.
func simulate(seed uint64, f flaws) *simulation {
	s := newSimulation(seed, f)
	s.after(s.between(0, 2*time.Second), s.strike)
	const chaos, most = 20 * time.Second, 120 * time.Second
	for s.fault == nil && s.events.Len() > 0 {
		e := heapPop(&s.events)
		s.now = e.at
		if s.now > chaos && !s.calm {
			s.calm = true
		}
		if s.now > most {
			if !s.done {
				s.fail("the run is not done: %s", s.stand())
			}
			break
		}
		if s.done && s.calm {
			break
		}
		e.f()
	}
	if s.fault == nil {
		s.ticks = s.decided()
	}
	return s
}

// stand says how it stands, for a run that does not end.
func (s *simulation) stand() string {
	var b strings.Builder
	for _, p := range s.procs {
		if p.in == nil {
			continue
		}
		fmt.Fprintf(&b, "\n%s alive %v sure %v held %q order %+v jobs %d", p.in.id, p.alive, p.in.sure(p.clock()), p.memory.alert(), p.in.order, len(p.jobs))
		for k, l := range p.in.leases {
			fmt.Fprintf(&b, " [%d e%d state %d]", k.n, l.epoch, l.state)
		}
		if l := p.in.lead; l != nil {
			fmt.Fprintf(&b, "\n  leads term %d loads %d over %v", l.term, l.loads, l.over)
			for _, r := range l.runs {
				fmt.Fprintf(&b, " run known %v busy %v %s listed %v reading %d open %d", r.known, r.busy, r.record.State, r.listed, r.reading, r.open)
				for _, x := range r.shards {
					fmt.Fprintf(&b, " {%d e%d %s fresh %v done %v back %v busy %v ask %d}", x.n, x.epoch, x.owner, x.fresh, x.done, x.back, x.busy, x.ask)
				}
			}
		}
	}
	return b.String()
}

func seeds(t *testing.T) (from, n uint64) {
	if text := os.Getenv("DROVER_SEED"); text != "" {
		from, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return from, 1
	}
	if n, err := strconv.ParseUint(os.Getenv("DROVER_SEEDS"), 10, 64); err == nil {
		return 0, n
	}
	if os.Getenv("DROVER_PROVE") == "1" {
		return 0, 10_000
	}
	return 0, 300
}

// Whatever happens to processes, connections and clocks, the invariants hold after each event, and the run ends.
func TestSimulation(t *testing.T) {
	from, n := seeds(t)
	faults := map[string]int{}
	steps, puts, ticks, splits, whole, failed := 0, 0, 0, 0, 0, 0
	if a, b := simulate(from, flaws{}), simulate(from, flaws{}); a.steps != b.steps || a.puts != b.puts || a.now != b.now {
		t.Errorf("a seed gives %d steps and then %d: it cannot be repeated", a.steps, b.steps)
	}
	for seed := from; seed < from+n; seed++ {
		s := simulate(seed, flaws{})
		steps += s.steps
		puts += s.puts
		ticks += s.ticks
		splits += s.splits
		whole += s.whole
		for f, n := range s.faults {
			faults[f] += n
		}
		if s.fault != nil {
			t.Errorf("DROVER_SEED=%d: %v", seed, s.fault)
			if failed++; failed == 3 {
				t.Fatal("enough")
			}
		}
	}
	t.Logf("%d seeds, %d steps, %d puts, %d instants of a schedule, %d splits and %d refused", n, steps, puts, ticks, splits, whole)
	if splits == 0 || n > 1 && whole == 0 {
		t.Errorf("%d shards were split, %d said that they cannot be", splits, whole)
	}
	for _, f := range slices.Sorted(maps.Keys(faults)) {
		t.Logf("%8d %s", faults[f], f)
	}
	for _, f := range []string{
		"crash", "crash of a leader", "pause", "pause of a leader", "clean stop of a leader", "clean stop ended", "partition", "partition of a leader", "reconnection", "session lost",
		"planned for a leader that does not see the source", "trouble around a split", "split beside another", "watch late", "request lost", "answer lost", "write after the session's end refused",
	} {
		if n > 1 && faults[f] == 0 {
			t.Errorf("fault %q never happened", f)
		}
	}
}

// Each thing that the design says is needed is: without it the simulation finds a broken invariant.
func TestMutantsAreFound(t *testing.T) {
	for name, f := range map[string]flaws{
		"no fence":                   {noFence: true},
		"watermark of highest acked": {highestAcked: true},
		"term without its node":      {noTerm: true},
		"grants grown before shrunk": {growFirst: true},
		"epoch from a re-read":       {rereadEpoch: true},
		"split without the epoch":    {cutNoFence: true},
		"split without the run":      {cutNoRun: true},
		"split with old bounds":      {cutNoBounds: true},
		"saved with old bounds":      {cutOldMark: true},
		"split in what was read":     {cutInRead: true},
		"split with a lost answer":   {cutLost: true},
		"end by an earlier list":     {earlyList: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3000) {
				if s := simulate(seed, f); s.fault != nil {
					t.Logf("found by seed %d after %d steps: %v", seed, s.steps, s.fault)
					return
				}
			}
			t.Error("3000 seeds did not find it")
		})
	}
}

// A minute after a run is over its shards are gone, and what stays are its record and its books.
func TestOverRunsAreSwept(t *testing.T) {
	s := newSimulation(1, flaws{})
	for s.now < 2*time.Minute && s.fault == nil {
		e := heapPop(&s.events)
		s.now = e.at
		e.f()
	}
	if s.fault != nil {
		t.Fatal(s.fault)
	}
	path := simRoot.run("j", "r")
	r, err := decode[runRecord](path, s.truth.nodes[path].data)
	if err != nil || r.State != Done {
		t.Fatalf("the run is %s: %v", r.State, err)
	}
	if want := int64(len(s.rows)); r.Books == nil || r.Books.Tables["t"].Written != want {
		t.Errorf("its books are %+v, want %d rows", r.Books, want)
	}
	if left := s.truth.children(path); len(left) > 0 {
		t.Errorf("below it there are still %v", left)
	}
}

// Of a job's runs that are over, the newest stay, and those that ended not long ago; what stays of others goes with them.
func TestOldRunsArePruned(t *testing.T) {
	s := newSimulation(1, flaws{})
	s.calm = true
	job, _ := decode[jobRecord]("job", s.truth.nodes[simRoot.job("k")].data)
	job.Paused, job.Newest = true, "k05" // of runs that were put back
	ops := []op{set(simRoot.job("k"), encode(job), -1)}
	want := []string{}
	for i := range 34 {
		id := fmt.Sprintf("k%02d", i)
		at := s.wall().Add(-time.Duration(60-i) * 24 * time.Hour)
		rec := runRecord{head: head{format}, State: []State{Done, Cancelled}[i%2], At: at, Ended: at}
		keep := i >= 34-keepRuns || i == 5
		switch i {
		case 3: // it took long
			rec.Ended, keep = s.wall().Add(-6*24*time.Hour), true
		case 7: // it may be resumed
			rec.State, keep = Failed, true
		case 8:
			rec.Ended, keep = time.Time{}, true
		case 30: // its dead letters may be replayed by its plan
			rec.Attempt, rec.Books = "A", &Books{Tables: map[string]checkpoints.Counts{"t": {Read: 1, Dead: 1}}}
		}
		ops = append(ops, create(simRoot.run("k", id), encode(rec)))
		if i%3 == 0 {
			at := simRoot.run("k", id) + "/A"
			ops = append(ops, create(at, nil), create(at+"/t", nil), create(at+"/t/w", nil), create(at+"/plan", nil), create(at+"/plan/0", []byte("plan")))
		}
		if keep {
			want = append(want, id)
		}
	}
	for i := range keepTicks + 100 {
		at := s.wall().Add(-time.Duration(8*24+i) * time.Hour)
		ops = append(ops, create(simRoot.ticks("k")+"/"+tick.Name(at), encode(tickRecord{head{format}, tick.Decision{At: at, Outcome: tick.Skipped}})))
	}
	if _, err := s.apply(nil, 0, ops); err != nil {
		t.Fatal(err)
	}
	for s.now < sweepAfter+16*pruneEvery && s.fault == nil {
		e := heapPop(&s.events)
		s.now = e.at
		if e.f(); s.now < sweepAfter && len(s.truth.children(simRoot.runs("k"))) < 34 {
			t.Fatalf("one is gone after %v", s.now)
		}
	}
	if s.fault != nil {
		t.Fatal(s.fault)
	}
	if got := s.truth.children(simRoot.runs("k")); !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if n := len(s.truth.children(simRoot.ticks("k"))); n != keepTicks {
		t.Errorf("%d decisions of the schedule are left, want %d", n, keepTicks)
	}
	for i, want := range map[int][]string{27: nil, 30: {"plan"}} {
		at := simRoot.run("k", fmt.Sprintf("k%02d", i)) + "/A"
		if got := s.truth.children(at); !slices.Equal(got, want) {
			t.Errorf("below %s there are %v, want %v", at, got, want)
		}
	}
	for _, p := range s.procs {
		if why := p.memory.alert(); why != "" {
			t.Errorf("%s is held: %s", p.name, why)
		}
	}
}

// How long a leader of the largest pool that is meant takes to look at everything once, when nothing changes and when all is to
// be given out.
func BenchmarkLeader(b *testing.B) {
	pool := func(fresh bool) *leader {
		l := newLeader(newMachine(), "/p", "me", 30*time.Second, newMemory(), 1, func() string { return "x" })
		l.ready = true
		r := &runState{key: runKey{"j", "r"}, known: true, record: runRecord{State: Running}, at: "/p/jobs/j/runs/r/a", listed: true, open: 10_000}
		l.runs[r.key] = r
		for i := range 1000 {
			m := l.member(fmt.Sprintf("w%04d", i))
			m.present, m.seen, m.exists = true, true, true
			m.beat = beatRecord{Capacity: 12, Wants: []want{{budget: budget{"t", share.Puts}, Demand: -1}}}
		}
		for n := range 10_000 {
			s := &shardState{run: r, n: n, fresh: fresh}
			r.shards = append(r.shards, s)
			if !fresh {
				s.owner, s.epoch = fmt.Sprintf("w%04d", n%1000), 1
				l.members[s.owner].has[shardKey{r.at, n}] = s
			}
		}
		return l
	}
	b.Run("nothing changes", func(b *testing.B) {
		l := pool(false)
		for b.Loop() {
			l.tick(l.now + time.Millisecond)
			l.take()
		}
	})
	b.Run("first assignment", func(b *testing.B) {
		for b.Loop() {
			l := pool(true)
			l.tick(l.now + time.Millisecond)
			if n := len(l.take()); n < 1000 {
				b.Fatalf("%d orders", n)
			}
		}
	})
}
