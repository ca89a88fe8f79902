package fleet

import (
	"testing"
	"time"
)

// A run that needs labels is planned by who has them: here if that is the leader, else by one worker at a time, and by another when
// that one takes nothing more.
func TestRunsArePlannedByWhoHasTheirLabels(t *testing.T) {
	began := func(needs map[string]string) (*leader, *runState) {
		l := newLeader(newMachine(), "/p", "w0", 4*time.Second, newMemory(), 1, func() string { return "x" })
		for _, id := range []string{"w0", "w1", "w2", "w3"} {
			m := l.member(id)
			m.present, m.seen, m.beat.Plans, m.beat.Name = true, true, true, id
		}
		for _, id := range []string{"w1", "w2"} {
			l.members[id].beat.Labels = map[string]string{"disk": "a"}
		}
		r := &runState{key: runKey{"j", "r"}, known: true, record: runRecord{State: Planning, Spec: Spec{Needs: needs}}}
		l.runs[r.key] = r
		return l, r
	}
	disk := map[string]string{"disk": "a"}
	here := func(l *leader, r *runState) bool { return len(l.toPlan) == 1 && r.busy && r.planner == "" }

	l, r := began(nil)
	if l.plan(r); !here(l, r) {
		t.Error("a run that needs nothing is not planned by the leader")
	}
	l, r = began(disk)
	r.record.Spec.Planned = true
	if l.plan(r); !here(l, r) {
		t.Error("a run that brings its plan is not taken by the leader")
	}
	l, r = began(map[string]string{"disk": "b"})
	if l.plan(r); len(l.toPlan) > 0 || r.planner != "" || r.busy {
		t.Error("a run that nobody can plan is planned")
	}
	l.members["w3"].beat.Labels, l.members["w3"].beat.Plans = map[string]string{"disk": "b"}, false
	if l.plan(r); !here(l, r) {
		t.Error("whose only fit worker plans nothing: it is not told why there is no plan")
	}

	l, r = began(disk)
	l.plan(r)
	l.plan(r)
	if r.planner != "w1" || !l.members["w1"].changed || l.members["w2"].changed || r.busy {
		t.Errorf("it is planned by %q", r.planner)
	}
	l.members["w1"].changed, l.members["w1"].beat.Draining = false, true
	if l.plan(r); r.planner != "w2" || !l.members["w1"].changed || !l.members["w2"].changed {
		t.Errorf("who was asked drains, and it is planned by %q", r.planner)
	}
	l.members["w2"].present, l.members["w1"].beat.Draining = false, false
	if l.plan(r); r.planner != "w1" {
		t.Errorf("who was asked is gone, and it is planned by %q", r.planner)
	}
	l.members["w1"].changed = false
	l.sawRun(r, node{exists: true, version: 1, data: encode(runRecord{head: head{format}, State: Failed})})
	if r.planner != "" || !l.members["w1"].changed {
		t.Error("a run that failed is still to be planned")
	}
}

// Who is asked again, for another version of the run, looks at it again.
func TestWhoIsAskedToPlanAgainLooksAgain(t *testing.T) {
	m := newMachine()
	w := newWorker(m, "/p", "w", 4*time.Second, beatRecord{}, newMemory(), func() string { return "x" })
	reads := func() (n int) {
		for _, e := range m.take() {
			if e.kind == doGet && e.path == "/p/jobs/j/runs/r" {
				n++
			}
		}
		return n
	}
	for i, c := range []struct {
		refs  []runRef
		looks int
	}{
		{[]runRef{{"j", "r", 3}}, 1}, {[]runRef{{"j", "r", 3}}, 0}, {[]runRef{{"j", "r", 5}}, 1}, {nil, 0}, {[]runRef{{"j", "r", 5}}, 1},
	} {
		if w.asked(c.refs); reads() != c.looks {
			t.Errorf("order %d: not looked at %d times", i, c.looks)
		}
	}
}
