package budget

import (
	"math"
	"math/bits"
	"time"
)

const (
	second = int64(time.Second)
	// burst is how much of a rate is saved up, in nanoseconds: long enough for a timer's usual overshoot, and 2 % of the
	// second in which the rate is judged.
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
// reservation of n tokens takes the positions [next, next+n), and its turn is when the clock reaches the first of them. So
// a sleeper's position stays right when the rate changes, and sleeping too long loses nothing: the clock went on.
//
// Turns say who is next and when; the bound is kept by a bucket that what is used fills and the rate empties. Nothing is
// used while more than the burst is in it, so in any second that is at most a second's tokens, the burst, and the last use.
//
// Times are nanoseconds of the host's clock. The zero value has no limit.
type clock struct {
	rate   int64 // tokens a second; 0 is no limit, the clock stands
	anchor int64 // when ticks were shown
	ticks  int64 // tokens that the rate has given
	lag    int64 // the clock's position is this far behind the ticks
	next   int64 // the first position that is free
	full   int64 // the ticks at which the bucket is empty
}

// gave is the ticks at a time, rounded down. There is no accumulated error: the anchor moves with the rate only.
func (c *clock) gave(now int64) int64 {
	return min(c.ticks+muldiv(max(0, now-c.anchor), c.rate, second), never)
}

// at is the position at a time.
func (c *clock) at(now int64) int64 { return c.gave(now) - c.lag }

// when is the first time at which the clock is at p or beyond it, or the anchor when that is already there.
func (c *clock) when(p int64) int64 {
	p += c.lag
	if p <= c.ticks {
		return c.anchor
	}
	hi, lo := bits.Mul64(uint64(p-c.ticks), uint64(second))
	if hi >= uint64(c.rate) {
		return never
	}
	q, r := bits.Div64(hi, lo, uint64(c.rate))
	if r > 0 {
		q++
	}
	return min(int64(min(q, never))+c.anchor, never)
}

// saved is how many tokens the burst is.
func (c *clock) saved() int64 { return muldiv(c.rate, burst, second) }

// excess is by how many tokens the bucket is too full for anything to be used now; not positive when it is not.
func (c *clock) excess(now int64) int64 { return c.full - c.gave(now) - c.saved() }

// set changes the rate from now on. Positions that are taken are kept, and so come earlier or later.
func (c *clock) set(now, rate int64) {
	rate = min(rate, never)
	if rate == c.rate {
		return
	}
	if c.rate == 0 {
		c.lag, c.full = c.ticks-c.next, c.ticks // without a limit nothing was saved up and nothing is owed
	} else {
		c.ticks = c.gave(now)
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

// in tells whether a dimension limits a reservation.
func (r *reservation) in(s *schedule, d int) bool { return s[d].rate > 0 && r.tokens[d] > 0 }

// reserve takes the next places for r.tokens. Both dimensions start at the same instant, that of the one which is busy for
// longer; the other idles until then, and idle time is not saved beyond the burst.
func (s *schedule) reserve(now int64, r *reservation) {
	start := now
	for d := range s {
		if r.in(s, d) {
			start = max(start, s[d].when(s[d].next))
		}
	}
	for d := range s {
		r.position[d] = none
		if r.in(s, d) {
			c := &s[d]
			r.position[d] = max(c.next, c.at(start)-c.saved())
			c.next = min(r.position[d]+min(r.tokens[d], never), never)
		}
	}
}

// use asks whether a reservation's tokens may be used now, and counts them as used if so. If not, it returns how long to
// wait before asking again, at least 1 ns.
//
// Those who slept too long find the bucket too full when others have used their time. Then everybody's turn moves back by
// what is missing; or, where that would cost the others more than the reservation is worth, its place is given up for a
// new one at the end.
func (s *schedule) use(now int64, r *reservation) (wait int64) {
	for fresh := false; ; fresh = true {
		missing, full, worth := false, false, fresh
		wait = 0
		for d := range s {
			if !r.in(s, d) {
				continue
			}
			c := &s[d]
			if r.position[d] == none { // the limit came after the reservation
				missing = true
				continue
			}
			wait = max(wait, c.when(r.position[d])-now)
			excess := max(0, c.excess(now))
			full = full || excess > 0
			worth = worth || c.at(now)-r.position[d]+excess <= r.tokens[d]
		}
		switch {
		case missing:
			s.reserve(now, r)
			continue
		case wait > 0:
			return wait
		case full && !worth:
			s.reserve(now, r)
			continue
		}
		for d := range s {
			if c := &s[d]; r.in(s, d) && full {
				if excess := c.excess(now); excess > 0 {
					c.lag = min(c.lag+c.at(now)-r.position[d]+excess, never)
					wait = max(wait, c.when(r.position[d])-now, 1)
				}
			} else if r.in(s, d) {
				c.full = min(max(c.full, c.gave(now))+min(r.tokens[d], never), never)
			}
		}
		return wait
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
