package pressure

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func yes() bool { return true }

func TestRampGoesUp(t *testing.T) {
	r := NewRamp([]int{10, 30, 100}, 10*time.Second)
	var seen []int
	now := start
	if r.Look(now.Add(time.Hour), time.Time{}, yes) {
		t.Error("moved before anything was answered")
	}
	for range 40 {
		now = now.Add(time.Second)
		r.Answered(now, false)
		if r.Look(now, time.Time{}, yes) || len(seen) == 0 {
			seen = append(seen, r.Percent())
		}
	}
	if !slices.Equal(seen, []int{10, 30, 100}) {
		t.Errorf("steps %v", seen)
	}
}

func TestRampGate(t *testing.T) {
	r := NewRamp([]int{10, 30, 100}, 10*time.Second)
	now := start
	pass := func(seconds int, busyEach int, well bool) {
		for i := range seconds {
			now = now.Add(time.Second)
			r.Answered(now, busyEach > 0 && i%busyEach == 0)
			r.Look(now, time.Time{}, func() bool { return well })
		}
	}
	pass(25, 0, false)
	if r.Percent() != 10 {
		t.Errorf("at %d %% though the gate was closed", r.Percent())
	}
	pass(25, 0, true)
	if r.Percent() < 30 {
		t.Errorf("at %d %% though the gate is open", r.Percent())
	}
	pass(20, 2, true)
	if r.Percent() != 10 {
		t.Errorf("at %d %% though half of the answers say busy", r.Percent())
	}
	at := now
	for r.Percent() == 10 && now.Sub(at) < time.Hour {
		pass(1, 0, true)
	}
	if took := now.Sub(at); took < 15*time.Second {
		t.Errorf("up again after %v, want longer than a step", took)
	}
	before := r.Percent()
	now = now.Add(5 * time.Second)
	r.Look(now, now.Add(-time.Millisecond), yes)
	if r.Percent() >= before {
		t.Errorf("at %d %% after a cut at %d %%", r.Percent(), before)
	}
	at10 := r.Percent()
	for range 5 {
		now = now.Add(time.Second)
		if r.Look(now, at, yes) || r.Percent() != at10 {
			t.Error("an old cut moved it")
		}
	}
}

// A ramp moves one step at a time, and up only after its time.
func TestRampSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOfNDistinct(rapid.IntRange(1, 100), 0, 6, rapid.ID[int]).Draw(t, "steps")
		slices.Sort(steps)
		r := NewRamp(steps, 10*time.Second)
		now, moved := start, start
		for range 200 {
			now = now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
			before := r.at
			var cut time.Time
			if rapid.IntRange(0, 20).Draw(t, "cut") == 0 {
				cut = now
			}
			r.Answered(now, rapid.IntRange(0, 30).Draw(t, "busy") == 0)
			r.Look(now, cut, func() bool { return rapid.Bool().Draw(t, "well") })
			switch {
			case len(steps) == 0:
				if r.Percent() != 100 {
					t.Fatalf("%d %% without steps", r.Percent())
				}
			case r.at > before:
				if r.at != before+1 || now.Sub(moved) < 10*time.Second {
					t.Fatalf("from step %d to %d after %v", before, r.at, now.Sub(moved))
				}
				moved = now
			case r.at < before:
				if r.at != before-1 {
					t.Fatalf("from step %d to %d", before, r.at)
				}
				moved = now
			}
		}
	})
}
