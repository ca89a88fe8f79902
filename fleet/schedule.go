package fleet

import (
	"errors"
	"maps"
	"slices"
	"time"

	"drover/fleet/tick"
	"drover/zookeeper"
)

// tickRecord is what was decided of one instant of a schedule.
type tickRecord struct {
	head
	tick.Decision
}

// over tells whether a run is in nobody's way any more.
func (r *runState) over() bool {
	return r.known && (r.record.State.final() || r.record.State == Failed)
}

// schedule decides the instants of the jobs' schedules, each in one write with the run that it makes, those that it cancels, and
// the job, which says up to where all is decided. So whoever leads next goes on from there.
func (l *leader) schedule() {
	if l.wall == nil {
		return
	}
	now := l.wall()
	for _, name := range slices.Sorted(maps.Keys(l.jobs)) {
		j := l.jobs[name]
		if !j.known || j.busy || j.record.Paused || j.record.Spec.Schedule == nil {
			continue
		}
		if j.parsed == nil || j.parsedAt != j.version {
			s, err := tick.Parse(*j.record.Spec.Schedule)
			if err != nil {
				continue // submit takes none like that
			}
			j.parsed, j.parsedAt, j.next = s, j.version, time.Time{}
		}
		if newest := j.record.Newest; newest != "" && l.runs[runKey{name, newest}] == nil {
			continue // it counts, and was not seen yet
		}
		var open []tick.Run
		for _, k := range slices.SortedFunc(maps.Keys(l.runs), compareRuns) {
			if r := l.runs[k]; k.job == name && !r.over() {
				open = append(open, tick.Run{ID: k.id, At: r.record.Instant, Waiting: l.waits(r)})
			}
		}
		for _, id := range j.parsed.Overdue(open, now) {
			l.end(l.runs[runKey{name, id}], Cancelled, "its deadline has passed", nil)
		}
		if now.Before(j.next) {
			continue
		}
		last := j.record.Ticked
		if last.Before(j.record.Since) {
			last = j.record.Since
		}
		decisions := j.parsed.Decide(last, open, now)
		if len(decisions) == 0 {
			if j.next = j.parsed.Next(now); j.next.IsZero() {
				j.next = now.Add(time.Hour)
			}
			continue
		}
		l.decide(j, decisions[0])
	}
}

// waits tells whether a run must not start before others are over.
func (l *leader) waits(r *runState) bool {
	return slices.ContainsFunc(r.record.Behind, func(id string) bool {
		other := l.runs[runKey{r.key.job, id}]
		return other != nil && !other.over()
	})
}

// decide writes one decision.
func (l *leader) decide(j *jobState, d tick.Decision) {
	rec := j.record
	rec.Ticked = d.At
	if d.Outcome == tick.Fired {
		rec.Newest = d.Run
	}
	ops := []op{
		create(l.p.ticks(j.name)+"/"+tick.Name(d.At), encode(tickRecord{head{format}, d})),
		set(l.p.job(j.name), encode(rec), j.version),
	}
	if d.Outcome == tick.Fired {
		ops = append(ops, create(l.p.run(j.name, d.Run), encode(runRecord{
			head: head{format}, State: Planning, Spec: rec.Spec, By: "schedule", At: l.wall().UTC(), Instant: d.At, Behind: d.After, Write: l.name(),
		})))
	}
	for _, id := range d.Cancel {
		r := l.runs[runKey{j.name, id}]
		if r.busy {
			return // what it is at comes first; the next tick decides anew
		}
		c := r.record
		c.State, c.Reason, c.Ended, c.Write = Cancelled, "replaced by run "+d.Run, l.wall().UTC(), l.name()
		ops = append(ops, set(l.p.run(j.name, id), encode(c), r.version))
	}
	j.busy = true
	l.do(ops, 0, func(v verdict) {
		switch {
		case v.done:
			j.busy = false
			j.record, j.version, j.parsedAt = rec, j.version+1, j.version+1
		case v.at == 0 && errors.Is(v.err, zookeeper.ErrNodeExists):
			// It was decided, and the job is older: from a backup. The decision stands.
			rec.Newest = j.record.Newest
			l.do([]op{set(l.p.job(j.name), encode(rec), j.version)}, 0, func(v verdict) {
				j.busy = false
				if v.done {
					j.record, j.version, j.parsedAt = rec, j.version+1, j.version+1
				}
			})
		default:
			j.busy = false
		}
	})
}
