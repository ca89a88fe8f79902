// Package pressure decides how fast rows may go to a table, or to one region server, that says it has had too much.
//
//   - A valve is open until trouble comes: then nothing is held back. Trouble shuts it to a rate below what got through lately.
//   - Trouble is an answer that says busy, or answers that take several times longer than they did while fewer get through.
//   - A ramp is the percentage of its limit that a job starts with, and goes up by steps while all is well.
//
// A shut valve's rate falls by a part with each trouble and rises while there is none: quickly up to nine tenths of the rate
// that trouble was seen at, slowly around it, quickly again beyond. So a lasting bound, such as a quota, is touched every ten
// seconds or so and kept to nine tenths on average, and 90 % of the rate is back ten seconds after a trouble that ended, however
// far it had pressed the rate.
//
// All of it is arithmetic on the times and answers it is told: nothing here waits, reads a clock or locks. It holds nobody
// back either: whoever uses it keeps the rates. Not for a budget that must not be exceeded; a valve never lets more through than
// its limit, but is open where that is the only bound.
package pressure

import (
	"math"
	"time"
)

// Trouble is what went wrong.
type Trouble uint8

// The kinds of trouble. The zero Trouble is none.
const (
	Busy      Trouble = iota + 1 // a region takes no more for now
	Queued                       // a server's queue of calls is full
	Throttled                    // a quota is used up
	Silent                       // a server did not answer the gateway in time
	Slow                         // answers take long; it is noticed by the valve itself
)

// Rate is per second, for rows and bytes together. A dimension of 0 is not bounded.
type Rate struct{ Rows, Bytes float64 }

// How a valve goes. Each number says why it is what it is.
const (
	// What is left of the rate after the first trouble, when it is not known how much is too much; after a further one; after one
	// while nothing gets through; and after slowness, which is a guess, and the rate has fallen by itself by then. The next cut
	// comes when this one had time to show: two calls, within these. A gateway tries again by itself before it says busy, and
	// such a call may take ten seconds.
	afterFirst, afterTrouble, afterOutage, afterSlow = 0.5, 0.7, 0.5, 0.8
	settle, longestSettle                            = time.Second, 2 * time.Second

	// So long after the last trouble the rate does not rise, also where that trouble made no cut.
	pause = 500 * time.Millisecond

	// The least that is let through, as a part of the last rate at which anything got through: with less it would be known too
	// late that all is well again. And so that a call like the last that met trouble goes this often: calls that are made up already
	// wait whole for their turn.
	floor, leastRows, callEvery = 0.05, 1, 2 * time.Second

	// The rate doubles in this time where there was no trouble before: 4.2 doublings from the floor to 90 %.
	doubling = 2 * time.Second
	// Near the rate of the last trouble it rises by this part of that rate each second: one trouble in ten seconds or more.
	creep        = 0.01
	near, beyond = 0.9, 1.05

	// What got through since the last cut is behind a rate that rises by up to this; and no cut goes below this part of it.
	lag, kept = 1.5, 0.85

	// An unlimited valve opens when it lets through this many times what comes, for this long after the last trouble.
	ample     = 2
	openAfter = 10 * time.Second

	// Answers count in windows of this length. What got through "lately" is the best of so many.
	window  = time.Second
	windows = 8

	// Slow is what takes this many times longer than it did, per unit of work, and so long at least, while less than half of
	// what got through lately does. The fastest answer of a window counts, for one slow gateway among several is not HBase;
	// and a window needs some. What it took before creeps up, so that what stays slow becomes usual in a minute or two.
	slowFactor  = 4
	slowFloor   = 500 * time.Millisecond
	slowDrop    = 0.5
	slowSamples = 3
	usualCreep  = 1.02

	// What a server asks to wait is believed up to this.
	longestHold = 5 * time.Minute
)

// Valve bounds the rate of one flow of rows. The zero value has no limit and is open. Not safe for concurrent use; times that
// it is given do not go back.
type Valve struct {
	limit Rate

	shut    bool
	base    Rate    // what level 1 is: what got through before the first trouble
	level   float64 // of base; positive while shut
	bound   float64 // the level that trouble was seen at
	well    bool    // something that was sent after the last cut got through
	passed  float64 // rows, since then
	waited  float64 // for the answers to these: rows times seconds
	cut     time.Time
	last    time.Time // the last trouble
	hold    time.Time // nothing goes before
	call    Rate      // rows and bytes of the last call that met trouble
	trouble Trouble
	moved   time.Time // when level was last looked at

	// What got through, by windows; the present one is at [0].
	began   time.Time
	got     [windows]Rate
	samples int
	fastest float64       // seconds a unit in the present window
	took    time.Duration // of that answer
	usual   float64       // seconds a unit when all is well
}

// Limit sets what the valve never exceeds, 0 for none in a dimension.
func (v *Valve) Limit(l Rate) {
	v.limit = l
	v.clamp()
}

// work is the size of a call in the units that its time is compared by: a call costs something beside its rows and KiB.
func work(rows, bytes int) float64 { return 64 + float64(rows) + float64(bytes)/1024 }

// roll moves on to the window of now, judging those that ended.
func (v *Valve) roll(now time.Time) {
	if v.began.IsZero() {
		v.began = now
	}
	for i := 0; now.Sub(v.began) >= window; i++ {
		if i == windows {
			v.began = now
			break
		}
		v.judge(v.began.Add(window))
		copy(v.got[1:], v.got[:windows-1])
		v.got[0] = Rate{}
		v.samples, v.fastest, v.took = 0, 0, 0
		v.began = v.began.Add(window)
	}
}

// judge looks for slowness in the window that ends.
func (v *Valve) judge(end time.Time) {
	if v.samples < slowSamples {
		return
	}
	if v.usual == 0 {
		v.usual = v.fastest
	}
	slow := v.fastest > slowFactor*v.usual && v.took > slowFloor
	v.usual = min(v.fastest, v.usual*usualCreep)
	best := v.lately()
	if !slow || v.got[0].Rows > slowDrop*best.Rows || end.Sub(v.cut) < 2*window {
		return
	}
	if !v.shut {
		v.base = Rate{max(best.Rows, leastRows), max(best.Bytes, 1)}
		v.level, v.bound = 1, 1
	}
	v.cutTo(end, min(v.level, v.got[0].Rows/v.base.Rows)*afterSlow, Slow)
}

// lately is the best of the windows that are kept, in each dimension.
func (v *Valve) lately() Rate {
	var r Rate
	for _, g := range v.got {
		r.Rows, r.Bytes = max(r.Rows, g.Rows), max(r.Bytes, g.Bytes)
	}
	return r
}

// Done tells of rows that got through with one call, sent at start. timed says that its time counts: not where several valves
// see the same calls and another looks for slowness.
func (v *Valve) Done(now, start time.Time, rows, bytes int, timed bool) {
	v.roll(now)
	v.got[0].Rows += float64(rows)
	v.got[0].Bytes += float64(bytes)
	if start.After(v.cut) { // what was sent before the cut tells nothing
		v.well = true
		v.passed += float64(rows)
		v.waited += float64(rows) * now.Sub(start).Seconds()
	}
	if timed {
		took := now.Sub(start)
		v.samples++
		if x := took.Seconds() / work(rows, bytes); v.samples == 1 || x < v.fastest {
			v.fastest, v.took = x, took
		}
	}
	v.Look(now)
}

// Trouble tells of a call of so many rows and bytes, sent at start, that was answered with trouble. wait is what the server
// asks for, 0 when it does not say.
func (v *Valve) Trouble(now, start time.Time, why Trouble, wait time.Duration, rows, bytes int) {
	v.roll(now)
	v.Look(now)
	v.last, v.call = now, Rate{float64(rows), float64(bytes)}
	if until := now.Add(min(wait, longestHold)); wait > 0 && until.After(v.hold) {
		v.hold = until
	}
	if v.shut && !start.After(v.cut) {
		return // of the same trouble: it was sent at the rate before
	}
	if !v.shut {
		best := v.lately()
		if best == v.got[0] { // it has just begun: a part of a window tells of all of it
			part := max(now.Sub(v.began), window/20).Seconds() / window.Seconds()
			best = Rate{best.Rows / part, best.Bytes / part}
		}
		v.base = Rate{max(best.Rows, float64(rows), leastRows), max(best.Bytes, float64(bytes), 1)}
		v.level, v.bound = 1, 1
		v.cutTo(now, afterFirst, why)
		return
	}
	since, took := now.Sub(v.cut), now.Sub(start)
	if since < min(max(settle, 2*took), longestSettle) {
		return
	}
	if !v.well {
		v.cutTo(now, v.level*afterOutage, why)
		return
	}
	// The rate may be far above what there was to send, or what is taken; and what is taken may go on.
	takes := v.takes(since)
	// One cut says too little to look for the bound far below.
	v.bound = max(min(v.level, lag*takes), takes, v.bound/2)
	v.cutTo(now, max(v.bound*afterTrouble, takes*kept), why)
}

// takes is the level that got through since the last cut. What was sent within the time that an answer takes is not among it
// yet: an answer to what passes, for what does not may be tried by a gateway for long before it says so.
func (v *Valve) takes(since time.Duration) float64 {
	if v.passed == 0 {
		return 0
	}
	s := since.Seconds()
	return v.passed / max(s-v.waited/v.passed, s/2) / v.base.Rows
}

// cutTo cuts the rate to a level.
func (v *Valve) cutTo(now time.Time, level float64, why Trouble) {
	if !v.shut {
		v.shut, v.moved = true, now
	}
	v.level = level
	v.cut, v.last, v.trouble, v.well, v.passed, v.waited = now, now, why, false, 0, 0
	v.clamp()
}

func (v *Valve) top() float64 {
	top := math.Inf(1)
	if v.limit.Rows > 0 {
		top = v.limit.Rows / v.base.Rows
	}
	if v.limit.Bytes > 0 {
		top = min(top, v.limit.Bytes/v.base.Bytes)
	}
	return top
}

func (v *Valve) clamp() {
	if !v.shut {
		return
	}
	call := max(v.call.Rows/v.base.Rows, v.call.Bytes/v.base.Bytes) / callEvery.Seconds()
	v.level = min(max(v.level, floor*v.bound, leastRows/v.base.Rows, call), v.top())
}

// Look lets time pass up to now.
func (v *Valve) Look(now time.Time) {
	v.roll(now)
	if !v.shut {
		return
	}
	from := v.moved
	if v.hold.After(from) {
		from = v.hold // what is held is no sign of health
	}
	if still := v.last.Add(pause); still.After(from) {
		from = still
	}
	v.moved = now
	if left := now.Sub(from); left > 0 && v.well {
		v.rise(left.Seconds())
	}
	v.clamp()
	top := v.top()
	switch {
	case now.Before(v.hold) || !v.well:
	case v.level >= top, math.IsInf(top, 1) && now.Sub(v.last) >= openAfter && v.level*v.base.Rows >= ample*v.lately().Rows && v.level > v.bound*beyond:
		v.shut, v.trouble = false, 0
	}
}

// rise lets the rate grow for so many seconds.
func (v *Valve) rise(s float64) {
	fast := func(to float64) {
		if v.level >= to || s <= 0 {
			return
		}
		need := math.Log2(to/v.level) * doubling.Seconds()
		if need > s {
			v.level *= math.Exp2(s / doubling.Seconds())
			s = 0
			return
		}
		v.level = to
		s -= need
	}
	fast(near * v.bound)
	if s > 0 && v.level < beyond*v.bound {
		need := (beyond*v.bound - v.level) / (creep * v.bound)
		v.level += creep * v.bound * min(s, need)
		s -= need
	}
	// Without a bound above, this ends where nothing could ask for more.
	fast(min(v.top(), 1000*beyond*max(v.bound, 1)))
}

// Shut tells whether the valve holds anything back.
func (v *Valve) Shut() bool { return v.shut }

// Cut is when the rate was last cut, zero for never.
func (v *Valve) Cut() time.Time { return v.cut }

// Limited tells whether there is a limit.
func (v *Valve) Limited() bool { return v.limit != Rate{} }

// Rate is what the valve lets through while it is shut.
func (v *Valve) Rate() Rate { return Rate{v.level * v.base.Rows, v.level * v.base.Bytes} }

// Hold is the time before which nothing may go, as the server asked; it may be past.
func (v *Valve) Hold() time.Time { return v.hold }

// Why is the last trouble, and what the valve lets through as a part of its limit, or of what got through before the trouble
// when it has none. An open valve gives 0 and 1.
func (v *Valve) Why() (Trouble, float64) {
	if !v.shut {
		return 0, 1
	}
	if top := v.top(); !math.IsInf(top, 1) {
		return v.trouble, v.level / top
	}
	return v.trouble, min(v.level, 1)
}
