package pressure

import "time"

// DefaultRampEvery is how long a job stays at a step of its ramp: long enough for a region server to fill a memstore and show
// how it takes it.
const DefaultRampEvery = 30 * time.Second

// How a ramp goes.
const (
	// Of so many answers, this part may say busy and it is still well: single regions are busy for seconds on a sound cluster.
	wellShare = 0.01
	// A step is left for the one below when this part of its answers, and so many, say busy.
	backShare, backAtLeast = 0.1, 3
	// After a step back it takes longer to the next try, twice each time in a row, up to so many times.
	longestPatience = 8
	// What was sent before a step is answered after it: so long, nothing that goes wrong counts against the step.
	grace = 3 * time.Second
)

// Ramp is where a job stands on the way to its limit. Not safe for concurrent use.
type Ramp struct {
	steps []int // percent, ascending; the last is where it ends
	every time.Duration

	at       int
	since    time.Time // the round at this step began; zero before the first answer
	stepped  time.Time // the step began
	patience int       // how many times longer than every
	answers  int       // of this step
	busy     int
}

// NewRamp makes a ramp of ascending percentages; none is 100 from the start. every is the least time at a step, 0 for the
// default.
func NewRamp(steps []int, every time.Duration) *Ramp {
	if every <= 0 {
		every = DefaultRampEvery
	}
	return &Ramp{steps: steps, every: every, patience: 1}
}

// Percent is how much of the limit may be used now.
func (r *Ramp) Percent() int {
	if len(r.steps) == 0 {
		return 100
	}
	return r.steps[r.at]
}

// Answered tells of a call's answer.
func (r *Ramp) Answered(now time.Time, busy bool) {
	if r.since.IsZero() {
		r.since, r.stepped = now, now
	}
	if busy && now.Sub(r.stepped) < r.grace() {
		return
	}
	r.answers++
	if busy {
		r.busy++
	}
}

// Look goes on to the next step when this one has been well for long enough, or back when it is not. cut is when the rate was
// last cut for what the ramp is about, zero for never; well, asked at the end of a step's time, gates the way up. moved tells
// whether the percentage changed.
func (r *Ramp) Look(now, cut time.Time, well func() bool) (moved bool) {
	if len(r.steps) == 0 || r.since.IsZero() {
		return false
	}
	switch {
	case cut.After(r.since) && cut.After(r.stepped.Add(r.grace())), r.busy >= backAtLeast && float64(r.busy) >= backShare*float64(r.answers):
		if moved = r.at > 0; moved {
			r.at--
		}
		r.patience = min(2*r.patience, longestPatience)
	case now.Sub(r.since) < time.Duration(r.patience)*r.every:
		return false
	case r.answers == 0 || float64(r.busy) > wellShare*float64(r.answers) || !well():
		// The gate is closed: another round at this step.
	default:
		r.patience = 1
		if moved = r.at+1 < len(r.steps); moved {
			r.at++
		}
	}
	if moved {
		r.stepped = now
	}
	r.since, r.answers, r.busy = now, 0, 0
	return moved
}

func (r *Ramp) grace() time.Duration { return min(grace, r.every/2) }
