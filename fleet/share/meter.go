package share

import (
	"math"
	"slices"
	"time"
)

const (
	// burst is how much of a worker's rate it saves up while nothing waits: all workers' together are 2 % of a second's limit.
	burst = 20 * time.Millisecond
	// drift is by how much of a second the clock of a host may be fast, at most: what the kernel lets NTP slew it. The rates are lower by that.
	drift = 500e-6
	// memory is the time over which a demand is averaged.
	memory = 2 * time.Second
	// busy is the part of the time in which something waits, from which on a worker counts as one that could use more. A batch waits
	// for as long as it takes to collect its tokens even if the worker has more than enough, so it is near 1.
	busy = 0.97
	// headroom is what a worker that is not busy demands over what it uses, less than 1/busy allows: with exactly that it is not busy.
	headroom = 1.06
	// more is what a worker that is busy demands over its part. One that is a little short and asked for all there is would be given a lot, and
	// have to give it back.
	more = 2
	// Never is the wait for what no tokens come for, until something changes.
	Never = time.Duration(math.MaxInt64)
	// crumb is the tokens that are too few to wait for: sums of rounded numbers.
	crumb = 1e-6
)

const (
	inRows = iota
	inBytes
	dimensions
)

// Ticket is a batch that waits to be paid for. Its zero value, with Rows and Bytes set, can be queued once.
type Ticket struct {
	Rows, Bytes float64
	First       bool // before those that are not

	need [dimensions]float64
}

func (t *Ticket) paid() bool { return t.need[inRows] <= crumb && t.need[inBytes] <= crumb }

// Meter spends a worker's part of one budget. Tokens come at part × limit a second, from the moment the part is granted until the local
// deadline, and go to the tickets in their order; what nobody waits for is saved up for 20 ms and lost beyond that. A ticket is paid for before
// it goes, never after, so that no debt stays behind when the part goes to somebody else.
//
// Each call says what time it is, and everything up to then is settled by what was in force before. So a process that was stopped, and a timer that
// came late, collect what was due in the meantime, up to what waits, and nothing from beyond the deadline. A time that goes back counts as
// no time.
//
// The zero value has no grant, a deadline in the past and a limit of 0: nothing passes. It is not safe for concurrent use.
type Meter struct {
	limit    [dimensions]float64
	part     float64
	deadline time.Duration

	at    time.Duration // settled until here
	queue []*Ticket
	saved [dimensions]float64
	given [dimensions]float64 // to tickets, ever

	// Averages, each to be divided by weight, which is near 1 once there is enough history.
	weight  float64
	waited  float64             // the part of the time in which something waited
	used    [dimensions]float64 // tokens a second
	counted [dimensions]float64 // of given, those that are in used
}

// Limit sets the budget's limit.
func (m *Meter) Limit(now time.Duration, l Limit) {
	m.settle(now)
	m.limit = [dimensions]float64{max(0, l.Rows), max(0, l.Bytes)}
	m.trim()
}

// Grant sets the part that the newest grant gives. A worker says that it has taken a grant up only after this.
func (m *Meter) Grant(now time.Duration, part float64) {
	m.settle(now)
	m.part = min(1, max(0, part))
	m.trim()
}

// Deadline sets the local deadline: the process is sure to hold its grants until then. It grows with each heartbeat that is acknowledged; a lower one
// ends the right early.
func (m *Meter) Deadline(now, deadline time.Duration) {
	m.settle(now)
	m.deadline = deadline
	m.trim()
}

// Queue puts t, which asks for t.Rows and t.Bytes, behind those that wait, or, if it is to be first, behind the others of which that is said. What
// one that was passed over has collected stays its own.
func (m *Meter) Queue(now time.Duration, t *Ticket) {
	m.settle(now)
	t.need = [dimensions]float64{max(0, t.Rows), max(0, t.Bytes)}
	at := len(m.queue)
	if t.First {
		at = 0
		for at < len(m.queue) && m.queue[at].First {
			at++
		}
	}
	m.queue = slices.Insert(m.queue, at, t)
	m.pay(0)
}

// Wait is how long t has still to wait if nothing changes; 0: it is paid for, and no longer in the queue. [Never] is the answer during a pause, and when the
// grant ends before; ask again after a change.
func (m *Meter) Wait(now time.Duration, t *Ticket) time.Duration {
	m.settle(now)
	if t.paid() {
		return 0
	}
	var before [dimensions]float64
	for _, q := range m.queue {
		for d := range before {
			before[d] += q.need[d]
		}
		if q == t {
			break
		}
	}
	wait := 0.0
	for d, n := range before {
		if t.need[d] > crumb {
			wait = max(wait, n/m.rate(d))
		}
	}
	w := Never
	if ns := math.Ceil(wait * 1e9); ns < float64(Never) {
		w = max(1, time.Duration(ns))
	}
	if w > m.deadline-m.at {
		return Never
	}
	return w
}

// Drop takes t out of the queue. Its tokens go to those that wait behind it.
func (m *Meter) Drop(now time.Duration, t *Ticket) {
	m.settle(now)
	i := slices.Index(m.queue, t)
	if i < 0 {
		return
	}
	m.queue = slices.Delete(m.queue, i, i+1)
	back := [dimensions]float64{t.Rows - t.need[inRows], t.Bytes - t.need[inBytes]}
	for d := range back {
		m.given[d] -= m.hand(d, max(0, back[d])) // they were counted when t collected them
	}
	m.shorten()
	m.trim()
}

// Given is how many tokens tickets have collected, ever.
func (m *Meter) Given(now time.Duration) (rows, bytes float64) {
	m.settle(now)
	return m.given[inRows], m.given[inBytes]
}

// Demand is the part of the limit that the worker could use: what it used lately and a little more, twice its part when batches waited nearly
// all the time, +Inf as long as nothing is known.
func (m *Meter) Demand(now time.Duration) float64 {
	m.settle(now)
	switch {
	case m.weight < 0.5:
		return math.Inf(1)
	case m.waited/m.weight >= busy:
		return more * m.part
	}
	return headroom / m.weight * Limit{m.limit[inRows], m.limit[inBytes]}.Part(m.used[inRows], m.used[inBytes])
}

// rate is tokens a second in a dimension; +Inf without a limit, whatever the part is.
func (m *Meter) rate(d int) float64 {
	if math.IsInf(m.limit[d], 1) {
		return m.limit[d]
	}
	return m.part * m.limit[d] * (1 - drift)
}

// settle gives out what came until now.
func (m *Meter) settle(now time.Duration) {
	if now <= m.at {
		return
	}
	live := max(0, min(now, m.deadline)-m.at).Seconds()
	waiting := m.pay(live)
	all := (now - m.at).Seconds()
	if len(m.queue) > 0 {
		waiting = all
	}
	m.at = now
	m.trim()

	if live == 0 || m.part == 0 {
		return // that tells nothing
	}
	keep := math.Exp(-all / memory.Seconds())
	m.weight = keep*m.weight + (1 - keep)
	m.waited = keep*m.waited + (1-keep)*min(1, waiting/all)
	for d := range m.used {
		m.used[d] = keep*m.used[d] + (1-keep)*(m.given[d]-m.counted[d])/all
	}
	m.counted = m.given
}

// pay gives what is saved, and what came in some seconds, to those that wait. It returns how much of the time somebody waited.
func (m *Meter) pay(seconds float64) (waited float64) {
	if len(m.queue) == 0 {
		for d := range m.saved {
			if r := m.rate(d); !math.IsInf(r, 1) {
				m.saved[d] += r * seconds
			}
		}
		return 0
	}
	for d := range m.saved {
		r := m.rate(d)
		if math.IsInf(r, 1) {
			for _, t := range m.queue {
				m.given[d] += t.need[d]
				t.need[d] = 0
			}
			m.saved[d] = 0
			continue
		}
		had := m.saved[d]
		tokens := had + r*seconds
		m.saved[d] = 0
		got := m.hand(d, tokens)
		if r > 0 {
			waited = max(waited, (got-had)/r)
		}
	}
	m.shorten()
	return waited
}

// hand gives tokens to those that wait, in their order; the rest is saved. It returns how many were taken.
func (m *Meter) hand(d int, tokens float64) (taken float64) {
	for _, t := range m.queue {
		n := min(t.need[d], tokens-taken)
		t.need[d] -= n
		taken += n
	}
	m.given[d] += taken
	m.saved[d] += tokens - taken
	return taken
}

// shorten takes those that are paid for out of the queue.
func (m *Meter) shorten() {
	m.queue = slices.DeleteFunc(m.queue, (*Ticket).paid)
}

// trim bounds what is saved up by what the newest part and limit allow: before others get what this worker has lost.
func (m *Meter) trim() {
	for d := range m.saved {
		if r := m.rate(d); math.IsInf(r, 1) || m.at >= m.deadline {
			m.saved[d] = 0
		} else {
			m.saved[d] = min(m.saved[d], r*burst.Seconds())
		}
	}
}
