package budget

import (
	"math"
	"math/bits"
	"time"
)

const (
	second = int64(time.Second)
	// burst is how far a rate may run ahead after idling, in nanoseconds, and how late a slot may be used: long enough for a
	// timer's usual overshoot, and 2 % of the second in which the rate is judged.
	burst = int64(20 * time.Millisecond)
	// never is further away than any slot, and leaves room to add to it.
	never = math.MaxInt64 / 4
	// none is the position of a reservation in a dimension that had no limit.
	none = -1
)

// The two dimensions of a budget.
const (
	rows = iota
	bytes
	dimensions
)

// clock is the schedule of one dimension. Its time is counted in tokens: it advances by rate tokens a second, a
// reservation of n tokens takes the positions [next, next+n), and may be used when the clock reaches the first of them. So
// a sleeper's position stays right when the rate changes, and sleeping too long loses nothing: the clock went on.
//
// Times are nanoseconds of the host's clock. The zero value has no limit.
type clock struct {
	rate   int64 // tokens a second; 0 is no limit, the clock stands
	anchor int64 // when the clock showed tokens
	tokens int64
	next   int64 // the first position that is free
}

// at is the position at a time, rounded down. There is no accumulated error: the anchor moves with the rate only.
func (c *clock) at(now int64) int64 {
	return min(c.tokens+muldiv(max(0, now-c.anchor), c.rate, second), never)
}

// when is the first time at which the clock is at p or beyond it, or the anchor when that is already there.
func (c *clock) when(p int64) int64 {
	if p <= c.tokens {
		return c.anchor
	}
	hi, lo := bits.Mul64(uint64(p-c.tokens), uint64(second))
	if hi >= uint64(c.rate) {
		return never
	}
	q, r := bits.Div64(hi, lo, uint64(c.rate))
	if r > 0 {
		q++
	}
	return int64(min(q, never)) + c.anchor
}

// saved is how many tokens the clock may be beyond a position that is used.
func (c *clock) saved() int64 { return muldiv(c.rate, burst, second) }

// over is by how many tokens a position is used too late, if it is used now; not positive when it is not.
func (c *clock) over(now, p int64) int64 { return c.at(now) - p - c.saved() }

// set changes the rate from now on. Positions that are taken are kept, and so come earlier or later.
func (c *clock) set(now, rate int64) {
	if rate == c.rate {
		return
	}
	if c.rate == 0 {
		c.tokens = c.next // no limit saves nothing for the time when there is one
	} else {
		c.tokens = c.at(now)
	}
	c.anchor, c.rate = now, rate
}

// schedule is a budget's two clocks.
type schedule [dimensions]clock

// reservation is a place in a schedule.
type reservation struct {
	tokens   [dimensions]int64
	position [dimensions]int64
}

func (s *schedule) unlimited() bool { return s[rows].rate == 0 && s[bytes].rate == 0 }

// reserve takes the next places for r.tokens. Both dimensions start at the same instant, that of the one which is busy for
// longer; the other idles until then, and idle time is not saved beyond the burst.
func (s *schedule) reserve(now int64, r *reservation) {
	start := now
	for d := range s {
		if c := &s[d]; c.rate > 0 && r.tokens[d] > 0 {
			start = max(start, c.when(c.next))
		}
	}
	for d := range s {
		c := &s[d]
		if c.rate == 0 || r.tokens[d] <= 0 {
			r.position[d] = none
			continue
		}
		r.position[d] = max(c.next, c.at(start)-c.saved())
		c.next = min(r.position[d]+min(r.tokens[d], never), never)
	}
}

// use asks whether a reservation's tokens may be spent now. If not, it returns how long to wait before asking again, at
// least 1 ns.
//
// A place that is used later than the burst allows would crowd those after it into one second. The time that was lost is
// taken from the schedule: everybody's place moves back by it; or, where that would cost the others more than the
// reservation is worth, the place is given up and r gets a new one at the end.
func (s *schedule) use(now int64, r *reservation) (wait int64) {
	for fresh := false; ; fresh = true {
		late, worth, missing := false, false, false
		wait = 0
		for d := range s {
			c := &s[d]
			if c.rate == 0 || r.tokens[d] <= 0 {
				continue
			}
			if r.position[d] == none { // the limit came after the reservation
				missing = true
				continue
			}
			wait = max(wait, c.when(r.position[d])-now)
			over := c.over(now, r.position[d])
			late = late || over > 0
			worth = worth || over <= r.tokens[d]
		}
		if !fresh && (missing || wait <= 0 && late && !worth) {
			s.reserve(now, r)
			continue
		}
		if wait > 0 {
			return wait
		}
		for d := range s {
			if c := &s[d]; c.rate > 0 && r.tokens[d] > 0 {
				c.tokens -= max(0, c.over(now, r.position[d]))
			}
		}
		return 0
	}
}

// muldiv is a*b/c, rounded down, for numbers that are not negative and c > 0, and at most never.
func muldiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return never
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, never))
}
