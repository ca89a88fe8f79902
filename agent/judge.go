package agent

import (
	"fmt"
	"time"
)

// Trouble is what can be wrong with a gateway.
type Trouble string

// The troubles.
const (
	Sound     Trouble = ""
	Dead      Trouble = "dead"           // nobody listens, or connections are closed at once
	Stalled   Trouble = "stalled"        // it accepts connections and answers none, or its calls do not move
	Exhausted Trouble = "exhausted"      // every thread is held by a connection
	Blocked   Trouble = "blocked"        // it answers, and does not reach HBase, or what is put through it does not come to an end
	Wrong     Trouble = "wrong protocol" // what listens is no gateway as the agent was told
)

// curable tells whether a restart of the gateway may mend it.
func (t Trouble) curable() bool { return t == Stalled || t == Exhausted || t == Blocked }

// Look is what was seen of the gateway at one moment.
type Look struct {
	At      time.Time // when it ended
	Trouble Trouble
	Reason  string // of the trouble, in words
}

// Rules say when a verdict changes.
type Rules struct {
	// After is how much trouble ends a verdict of ok: time in trouble counts whole, time without takes half of itself back, and
	// a single look counts as half of it at most, so that one alone decides nothing. 0 is 5 s.
	After time.Duration

	// Down is how long the gateway is not ok at least. It doubles, up to MaxDown, each time that it was ok for less than four
	// times as long before. 0 is 30 s, and 30 min.
	Down, MaxDown time.Duration

	// Up is how long it is ok at least. 0 is 10 s.
	Up time.Duration
}

func (r Rules) withDefaults() Rules {
	if r.After == 0 {
		r.After = 5 * time.Second
	}
	if r.Down == 0 {
		r.Down = 30 * time.Second
	}
	if r.MaxDown == 0 {
		r.MaxDown = max(30*time.Minute, r.Down)
	}
	if r.Up == 0 {
		r.Up = 10 * time.Second
	}
	return r
}

// calm is how many times as long as it was out a gateway has to be ok until that is forgotten.
const calm = 4

// judge turns looks into a verdict that does not flap. It starts as not ok, with nothing to wait for but sound looks.
type judge struct {
	rules   Rules
	ok      bool
	trouble time.Duration // 0 to rules.After
	reason  Look          // the last look that was not sound
	since   time.Time     // of the verdict; zero at the start
	hold    time.Duration // how long the verdict stands at least
	back    time.Duration // the back-off: how long it was out at least, the last time
	last    time.Time     // of the newest look
}

func newJudge(r Rules) *judge {
	r = r.withDefaults()
	return &judge{rules: r, trouble: r.After}
}

// look takes a look, and tells whether the verdict changed.
func (j *judge) look(l Look) (changed bool) {
	most := j.rules.After / 2
	elapsed := most
	if !j.last.IsZero() {
		elapsed = min(max(l.At.Sub(j.last), 0), most)
	}
	j.last = l.At
	if l.Trouble != Sound {
		j.reason = l
		j.trouble = min(j.trouble+elapsed, j.rules.After)
	} else {
		j.trouble = max(j.trouble-elapsed/2, 0)
	}
	stood := l.At.Sub(j.since)
	switch {
	case j.ok && j.trouble >= j.rules.After && stood >= j.hold:
		if j.back > 0 && stood < calm*j.back {
			j.back = min(2*j.back, j.rules.MaxDown)
		} else {
			j.back = j.rules.Down
		}
		j.ok, j.since, j.hold = false, l.At, j.back
		return true
	case !j.ok && j.trouble == 0 && stood >= j.hold:
		j.ok, j.since, j.hold = true, l.At, j.rules.Up
		return true
	}
	return false
}

// adopt takes the verdict that stands when the agent begins.
func (j *judge) adopt(ok bool) {
	j.ok = ok
	if ok {
		j.trouble = 0
	}
}

// told takes it that somebody else said ok. It stands as long as the last time out was, so that two who disagree do not
// write in turn forever.
func (j *judge) told(now time.Time) {
	if j.ok {
		return
	}
	j.ok, j.since, j.hold = true, now, max(j.rules.Up, j.back)
}

// why is the reason of a verdict of not ok.
func (j *judge) why() string {
	if j.reason.Trouble == Sound {
		return "not seen sound yet"
	}
	if j.reason.Reason == "" {
		return string(j.reason.Trouble)
	}
	return fmt.Sprintf("%s: %s", j.reason.Trouble, j.reason.Reason)
}
