package fleet

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"drover/checkpoints"
	"drover/zookeeper"
)

// A run is planned by who leads, or, where that one lacks the labels that the run needs and so may not see its source, by a worker that
// has them and is asked to by its order. Either way the plan is written under the condition of the term in which it was asked for.

// plan has a run planned.
func (l *leader) plan(r *runState) {
	needs := r.record.Spec.Needs
	me := l.members[l.id]
	if me == nil || r.record.Spec.Planned || fits(me.beat.Labels, needs) {
		l.planHere(r)
		return
	}
	can := func(m *member) bool {
		return m != nil && m.present && m.fault == nil && m.beat.Plans && !l.drained(m) && fits(m.beat.Labels, needs)
	}
	if can(l.members[r.planner]) {
		return
	}
	l.unplan(r)
	others := false
	for _, id := range slices.Sorted(maps.Keys(l.members)) {
		m := l.members[id]
		if can(m) {
			r.planner, m.plans[r.key], m.changed = id, r, true
			return
		}
		others = others || m.present && m.fault == nil && !m.beat.Plans && fits(m.beat.Labels, needs)
	}
	if others { // who could work on it plans nothing: what is found here is told
		l.planHere(r)
	}
}

func (l *leader) planHere(r *runState) {
	l.unplan(r)
	r.busy = true
	l.toPlan = append(l.toPlan, r.key)
}

// unplan asks nobody to plan a run any more.
func (l *leader) unplan(r *runState) {
	if m := l.members[r.planner]; m != nil {
		delete(m.plans, r.key)
		m.changed = true
	}
	r.planner = ""
}

// planned takes a plan that was made here, or why there is none.
func (l *leader) planned(now time.Duration, k runKey, p Planned, err error) {
	l.now = now
	r := l.runs[k]
	if l.over || r == nil {
		return
	}
	r.busy = false
	if !r.known || r.record.State != Planning {
		return
	}
	if err != nil {
		l.end(r, Failed, err.Error(), nil)
		return
	}
	j := l.jobs[k.job]
	r.busy = true
	x := publication{p: l.p, key: k, run: r.record, version: r.version, job: j.record, jobVersion: j.version, name: l.name, do: l.do}
	x.publish(p, func(bool) { r.busy = false }) // else planned anew, under another name
}

// planning is a run that this member is asked to plan.
type planning struct {
	publication
	asked int32         // the run's version
	again time.Duration // when it is to be looked at again; 0 is not
}

// asked takes what an order wants planned.
func (w *worker) asked(refs []runRef) {
	want := map[runKey]bool{}
	for _, ref := range refs {
		k := runKey{ref.Job, ref.ID}
		want[k] = true
		if x := w.plans[k]; x == nil || x.asked != ref.Version {
			x := &planning{asked: ref.Version, publication: publication{p: w.p, key: k, name: w.name, do: w.underOrder}}
			w.plans[k] = x
			w.lookAt(x)
		}
	}
	maps.DeleteFunc(w.plans, func(k runKey, _ *planning) bool { return !want[k] })
}

// underOrder writes under the term of the order that is obeyed: once another leads, nothing that was asked for before is written.
func (w *worker) underOrder(ops []op, proof int, f func(verdict)) {
	w.write(append([]op{check(w.p.term(), w.order.Term)}, ops...), proof+1, func(v verdict) {
		v.at--
		f(v)
	})
}

// lookAt reads what is to be planned, and has the edge plan it.
func (w *worker) lookAt(x *planning) {
	if w.memory.isHeld() {
		x.again = w.now + w.timeout/4
		return
	}
	k := x.key
	w.get(w.p.run(k.job, k.id), true, func(n node) {
		rec, err := decode[runRecord](w.p.run(k.job, k.id), n.data)
		if w.plans[k] != x || !n.exists || err != nil || rec.State != Planning {
			return
		}
		w.get(w.p.job(k.job), false, func(jn node) {
			job, err := decode[jobRecord](w.p.job(k.job), jn.data)
			if w.plans[k] != x || !jn.exists || err != nil {
				return
			}
			x.run, x.version, x.job, x.jobVersion = rec, n.version, job, jn.version
			w.toPlan = append(w.toPlan, k)
		})
	})
}

// planned takes a plan that was asked for, or why there is none.
func (w *worker) planned(now time.Duration, k runKey, p Planned, err error) {
	w.now = now
	x := w.plans[k]
	if x == nil || w.self.Left {
		return
	}
	again := func(done bool) {
		if !done { // the job changed, or another leads, who may ask again
			x.again = w.now + w.timeout/4
		}
	}
	switch {
	case w.memory.isHeld():
		again(false)
	case err != nil:
		x.fail(err.Error(), w.wall, again)
	default:
		x.publish(p, again)
	}
}

// replan looks again at what could not be written.
func (w *worker) replan() {
	for _, k := range slices.SortedFunc(maps.Keys(w.plans), compareRuns) {
		if x := w.plans[k]; x.again > 0 && w.now >= x.again {
			x.again = 0
			w.lookAt(x)
		}
	}
}

// publication is the way of a plan into the tree, from the run and the job as they were read.
type publication struct {
	p          paths
	key        runKey
	run        runRecord
	version    int32
	job        jobRecord
	jobVersion int32
	name       func() string
	do         func(ops []op, proof int, f func(verdict)) // under the fence
}

// publish writes the nodes of a plan under a new name, and then has the run name them, if it and the job are as they were read.
func (x *publication) publish(p Planned, f func(done bool)) {
	attempt := x.name()
	at := x.p.attempt(x.key, attempt)
	shards, ends := make([]json.RawMessage, len(p.Shards)), make([]string, len(p.Shards))
	for i, s := range p.Shards {
		shards[i], ends[i] = encode(s), string(s.End)
	}
	var ops []op
	for _, s := range checkpoints.Stage(at, shards, ends) {
		ops = append(ops, create(s.Path, s.Data))
	}
	ops = append(ops, create(at+"/plan", nil))
	parts := 0
	for text := p.Plan; len(text) > 0; parts++ {
		n := min(len(text), bytesPerWrite)
		ops = append(ops, create(at+"/plan/"+strconv.Itoa(parts), text[:n]))
		text = text[n:]
	}
	rec := x.run
	rec.State, rec.Reason, rec.Attempt, rec.Fingerprint, rec.Timestamp = Running, "", attempt, p.Fingerprint, p.Timestamp
	if p.Limits != nil {
		rec.Spec.Limits = p.Limits
	}
	rec.Planned, rec.Shards, rec.Parts, rec.Write = len(p.Shards), len(p.Shards), parts, x.name()
	job := x.job
	job.Last = p.Timestamp
	last := []op{
		set(x.p.run(x.key.job, x.key.id), encode(rec), x.version),
		set(x.p.job(x.key.job), encode(job), x.jobVersion),
		x.p.same(x.key, attempt),
	}
	x.stage(ops, func(ok bool) {
		if !ok {
			f(false)
			return
		}
		x.do(last, 0, func(v verdict) { f(v.done) })
	})
}

// stage makes nodes, as many at once as go into one write.
func (x *publication) stage(ops []op, f func(ok bool)) {
	n, size := 0, 0
	for n < len(ops) && n < 2*shardsPerWrite && (n == 0 || size+len(ops[n].data) < bytesPerWrite) {
		size += len(ops[n].data) + len(ops[n].path) + 100
		n++
	}
	x.do(ops[:n], n-1, func(v verdict) {
		switch {
		case !v.done && errors.Is(v.err, errNotDone), !v.done && errors.Is(v.err, zookeeper.ErrNotConnected):
			x.stage(ops, f)
		case !v.done:
			f(false)
		case n == len(ops):
			f(true)
		default:
			x.stage(ops[n:], f)
		}
	})
}

// fail says why there is no plan.
func (x *publication) fail(why string, wall func() time.Time, f func(done bool)) {
	rec := x.run
	rec.end(Failed, why, x.name(), wall)
	x.do([]op{set(x.p.run(x.key.job, x.key.id), encode(rec), x.version)}, 0, func(v verdict) { f(v.done) })
}

// same is the condition that a run's node is the one that was read, beside that of its version: one that was deleted and put back
// may have that version again, and its attempt has another name.
func (p paths) same(k runKey, attempt string) op { return check(p.attempt(k, attempt), 0) }
