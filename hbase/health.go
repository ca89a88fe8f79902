package hbase

import (
	"context"
	"math"
	"slices"
	"time"
)

// How a gateway's health is judged. Each number says why it is what it is.
const (
	// A call has a fixed cost beside its rows and bytes. Work is counted in units so that calls of any size compare: 64
	// for the call, one for a row, one for each KiB.
	callUnits = 64

	// A call of less than this part of the usual size takes no less time: it waits behind others.
	smallPart = 4

	// The weight of a call in the estimate, and how many times over the estimate it counts at most: single calls are
	// slow for reasons that are not the gateway's, such as a flush. Three slow ones in a row are believed.
	callWeight, callBound = 0.15, 3

	// A call during which nothing else was answered tells of all that time, and weighs as much as the calls that would have been
	// answered in it: a gateway that answers every two seconds is found out in seconds, too. This is the time of which two thirds are
	// made up of what was last heard.
	callTime = 5 * time.Second

	// A gateway that gets no call because it was slow is thought half as slow after this long, so that it is tried again.
	// Each try that disappoints doubles it.
	shortestForgive, longestForgive = 7 * time.Second, 20 * time.Second

	// One that was slow and got no call for this long is tried with one call at a time, which carries a part of a batch: what is the
	// matter with it holds little.
	unprovenAfter = tick
	trialPart     = 16

	// A call this many times over its estimate is overdue: with no answer from its gateway meanwhile, the others are
	// preferred.
	overdueFactor = 4
	overdueFloor  = 250 * time.Millisecond

	// A gateway that answers nothing for this many times the estimate, while others do, hangs: its calls are cut.
	hungFactor = 2

	// A call is bounded by this many times its estimate. The floor bounds what a hanging gateway costs, the ceiling
	// what a slow cluster may take before a batch is sent twice. Without any estimate the cluster may still be warming
	// up.
	timeoutFactor   = 8
	shortestTimeout = 3 * time.Second
	longestTimeout  = 60 * time.Second
	firstTimeout    = 15 * time.Second
	patience        = 10 * time.Minute // what doubling after timeouts may reach

	// A gateway with a connection error or a timeout is set aside: the first time just long enough to let a restarted one
	// listen, then doubling, and never more often than twice a second.
	shortestAside = 200 * time.Millisecond
	secondAside   = 700 * time.Millisecond
	longestAside  = 10 * time.Second

	// The same while more than half of the gateways are aside: then each is worth more than the calls it costs.
	longestPanic = 2 * time.Second

	// A gateway that comes back while others serve gets its connections one by one over this time: a restarted one is cold.
	slowStart = 30 * time.Second

	// For this long no new connection is tried to a gateway that has no thread left.
	fullFor = 10 * time.Second

	// Gateways close a connection that idles for 60 s.
	idleLimit = 45 * time.Second
)

// work is the size of a call in units.
func work(rows, bytes int) float64 { return float64(callUnits+rows) + float64(bytes)/1024 }

// estimate is a moving average of what a unit of work takes.
type estimate struct {
	unit    float64       // seconds a unit, at the load below; 0 is unknown
	size    float64       // units of a call
	load    float64       // calls in flight meanwhile
	at      time.Time     // of the last call that counted
	forgive time.Duration // halves it while there is no call
}

func (e *estimate) add(now time.Time, took time.Duration, units float64, load int) {
	x := took.Seconds() / units
	if e.unit == 0 {
		e.unit, e.load, e.size = x, float64(load), units
	}
	alone := min(took, now.Sub(e.at))
	weight := max(callWeight, 1-math.Exp(-alone.Seconds()/callTime.Seconds()))
	weight *= min(1, units/e.size) // a call much smaller than others waits behind them: what it took says little of a unit
	e.unit += weight * (min(x, callBound*e.unit) - e.unit)
	e.load += weight * (float64(load) - e.load)
	e.size += callWeight * (units - e.size)
	e.at = now
}

// forgiven is what a unit is thought to take after so long without a call.
func (e *estimate) forgiven(idle time.Duration) float64 {
	return e.unit * math.Exp2(-idle.Seconds()/max(e.forgive, shortestForgive).Seconds())
}

func (e *estimate) of(units float64) time.Duration { return seconds(e.unit * units) }

func seconds(s float64) time.Duration {
	if s >= patience.Seconds() {
		return patience
	}
	return time.Duration(s * float64(time.Second))
}

// state is what the pool does with a gateway.
type state uint8

const (
	healthy state = iota
	trial         // it was set aside and its time is over: one call at a time until one is answered
	aside         // it gets no call
)

// host is what the lanes share of a gateway. The pool's mutex guards all of it but addr.
type host struct {
	addr string
	gone bool   // no longer in the pool's set: it drains
	idle []link // the one used last at the end

	// A gateway whose threads are all taken accepts connections, answers none, and goes on serving those that it has. Until
	// full no new one is tried, and after it one at a time, until one is answered.
	full   time.Time // zero while new connections are answered
	trying bool      // one is tried

	old bool // it lacks methods that came with HBase 2
}

// gateway is one Thrift server as a lane sees it. The pool's mutex guards all of it.
type gateway struct {
	*host
	lane *lane

	state    state
	fails    int       // in a row
	failedAt time.Time // when it was last set aside; what was sent before tells nothing new
	until    time.Time // when it may be tried again
	probing  bool      // a probe is under way
	hangs    bool      // it was set aside for silence, not for an error
	asked    bool      // whether it lives
	doubts   int       // how often it was, since it last answered
	doubted  time.Time // when it was last; what was sent before tells nothing new
	lastErr  error
	finding  Finding // of the last diagnosis, while it is aside

	busy     int     // connections in use, each for one call
	calls    []*call // in flight, oldest first; calls of unknown size are left out
	answered time.Time
	est      estimate
	ramp     int       // bounds the calls in flight while it is new: doubles with each success; 0 is no bound
	back     time.Time // when it came back while others served; it starts slowly from then on

	rows, attempts int64
	errors         [len(kindNames)]int64
}

// call is one call in flight.
type call struct {
	start  time.Time
	units  float64 // 0 when its size says nothing of how long it takes
	slow   int     // timeouts of the same rows before
	server *server // that all its rows are for, nil when it is not known
	cancel context.CancelFunc
}

// quiet tells for how long the gateway has answered nothing while it had to, and the oldest call it owes.
func (g *gateway) quiet(now time.Time) (time.Duration, *call) {
	if len(g.calls) == 0 {
		return 0, nil
	}
	c := g.calls[0]
	from := c.start
	if g.answered.After(from) {
		from = g.answered
	}
	return now.Sub(from), c
}

// unitLocked is the gateway's estimate, or the pool's while it has none; 0 when neither is known.
func (l *lane) unitLocked(g *gateway) float64 {
	if g.est.unit > 0 {
		return g.est.unit
	}
	return l.est.unit
}

// suspectLocked tells whether the gateway is silent for longer than its calls should take. Silence counts, and not the
// age of one call, because a call may wait for a stuck region that is no fault of the gateway.
func (l *lane) suspectLocked(g *gateway, now time.Time) bool {
	quiet, c := g.quiet(now)
	unit := l.unitLocked(g)
	return c != nil && unit > 0 && quiet > max(seconds(overdueFactor*unit*c.units), overdueFloor)
}

// How long nothing may be answered before it is asked whether a table is disabled, and how often. A gateway tries a call to a
// disabled table again by itself for minutes, and the first calls, whose time is not known yet, are given long.
const stuckFor, askStuckEvery = 2 * time.Second, 5 * time.Second

// stuckLocked tells whether no gateway answers anything, though some have calls.
func (l *lane) stuckLocked(now time.Time) bool {
	some := false
	for _, g := range l.gateways {
		quiet, oldest := g.quiet(now)
		if oldest == nil {
			continue
		}
		if quiet < stuckFor {
			return false
		}
		some = true
	}
	return some
}

// cutLocked cuts the calls that are better made elsewhere: those of a gateway that is silent for too long, and those
// that take too long at one that has become slow. Another gateway's answer in the meantime is the evidence that it is
// not the cluster.
func (l *lane) cutLocked(g *gateway, now time.Time) {
	quiet, oldest := g.quiet(now)
	if oldest == nil {
		return
	}
	limit := func(c *call) time.Duration {
		return clampTimeout(seconds(hungFactor*max(l.est.unit, g.est.unit)*c.units), c.slow)
	}
	// What is owed for long by a gateway may all be for one region server; then others must have had answers of it.
	half := now.Add(-quiet / 2)
	owed := func(c *call) bool { return c.start.Before(half) && c.server.steady(c.start, half) }
	switch longest := limit(oldest); {
	case quiet > longest && l.succeeded.After(half) && slices.ContainsFunc(g.calls, owed):
		for _, c := range g.calls {
			// What timed out before gets the longer time that it needs, should it be the cluster after all.
			if c.slow == 0 || now.Sub(c.start) > limit(c) {
				c.cancel()
			}
		}
	case g.est.unit > tooLate*l.est.unit:
		for _, c := range g.calls {
			if now.Sub(c.start) > clampTimeout(seconds(2*hungFactor*l.est.unit*c.units), c.slow) {
				c.cancel()
			}
		}
	}
}

// learnLocked counts a success; back tells that it is the one that brought the gateway back.
func (l *lane) learnLocked(g *gateway, now time.Time, took time.Duration, units float64, load int, back bool) {
	// Below a part of the usual size a call takes as long as one of that part.
	switch slow := took.Seconds() > tooLate*l.est.unit*max(units, l.est.size/smallPart); {
	case l.est.unit == 0:
	case back:
		// It may have been hanging when the call began. The next one tells.
		took = min(took, seconds(tooLate*l.est.unit*units))
	case slow && load == 1:
		g.est.forgive = min(2*max(g.est.forgive, shortestForgive), longestForgive)
	case !slow:
		// What was forgiven while it got no call turns out to be true. Otherwise a gateway that a run of slow answers had set
		// back would need a dozen tries, each after a long wait, to be believed again.
		if idle := now.Add(-took).Sub(g.est.at); idle > 0 {
			g.est.unit = g.est.forgiven(idle)
		}
		g.est.forgive = 0
	}
	if !back {
		l.est.add(now, took, units, load)
		if g.ramp *= 2; g.ramp >= l.pool.connections {
			g.ramp = 0
		}
	}
	g.est.add(now, took, units, load)
}

// unprovenLocked tells whether a gateway was slow when it was last heard of, a while ago, and another one is not.
func (l *lane) unprovenLocked(g *gateway, now time.Time) bool {
	return g.est.unit > tooLate*l.est.unit && now.Sub(g.est.at) > unprovenAfter && slices.ContainsFunc(l.gateways, func(o *gateway) bool {
		return o.state == healthy && o.est.unit > 0 && g.est.unit > tooLate*o.est.unit
	})
}

// tries tells whether the call that a gateway was just taken for is to find out what it is like now.
func (p *Pool) tries(g *gateway) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return g.state == healthy && g.busy == 1 && g.lane.unprovenLocked(g, time.Now())
}

// timeoutLocked bounds a call.
func (l *lane) timeoutLocked(g *gateway, units float64, slow int) time.Duration {
	unit := max(g.est.unit, l.est.unit)
	if unit == 0 {
		return min(firstTimeout<<min(slow, 6), patience)
	}
	return clampTimeout(seconds(timeoutFactor*unit*units), slow)
}

func clampTimeout(d time.Duration, slow int) time.Duration {
	return min(min(max(d, shortestTimeout), longestTimeout)<<min(slow, 8), patience)
}

// forecastLocked is what a unit takes at the gateway now, in seconds; silence and idling count. 0 is unknown.
func (l *lane) forecastLocked(g *gateway, now time.Time) float64 {
	unit := l.unitLocked(g)
	if g.est.unit == 0 {
		unit /= 2 // so that it is tried
	}
	if quiet, c := g.quiet(now); c != nil {
		return max(unit, quiet.Seconds()/c.units)
	}
	if g.est.unit > 0 {
		unit = g.est.forgiven(now.Sub(g.est.at))
	}
	return unit
}

// chooseLocked gives the gateway for a call, or nil when it is better to wait.
func (l *lane) chooseLocked(w *waiter, now time.Time) *gateway {
	if w.only != nil {
		if w.only.busy < l.capLocked(w.only, now) {
			return w.only
		}
		return nil
	}
	// A gateway on trial comes first: nothing but a call can bring it back.
	for _, g := range l.gateways {
		if g.state == trial && g.busy == 0 && !slices.Contains(w.avoid, g) {
			return g
		}
	}
	if g, some := l.cheapestLocked(now, func(g *gateway) bool {
		return g.state == healthy && !slices.Contains(w.avoid, g) && !l.suspectLocked(g, now)
	}); some {
		return g
	}
	if g, some := l.cheapestLocked(now, func(g *gateway) bool {
		return g.state == healthy && !slices.Contains(w.avoid, g)
	}); some {
		return g
	}
	g, _ := l.cheapestLocked(now, func(g *gateway) bool { return g.state != aside })
	return g
}

// tooLate is how many times longer than elsewhere a call may take before it is better to wait for a connection
// elsewhere. A batch that is late holds its shard's watermark, and so those that were sent after it, of which there are
// not many more than connections.
const tooLate = 1.7

// candidate is a gateway for a call. Seconds a unit.
type candidate struct {
	g    *gateway
	cost float64 // time and calls in flight: the lower, the sooner its turn; balances gateways that are equal
	done float64 // when the call would be done, thought of as the last in a queue that is worked off in order
}

// cheapestLocked chooses among the gateways that are eligible; some tells whether there are any. Of those that would
// not be too late and have a free connection, it takes the cheaper of two random ones (of all, when they are few), so
// that many processes do not run to the same gateway.
func (l *lane) cheapestLocked(now time.Time, eligible func(*gateway) bool) (choice *gateway, some bool) {
	const few = 4
	l.free = l.free[:0]
	soonest := math.Inf(1)
	used := 0
	for _, g := range l.gateways {
		if !eligible(g) {
			continue
		}
		if used++; l.pool.opts.Subset > 0 && used > l.pool.opts.Subset {
			break
		}
		n := float64(g.busy + 1)
		unit := l.forecastLocked(g, now)
		c := candidate{g, n * unit, unit * max(1, n/max(g.est.load, 1))}
		if unit == 0 {
			c.cost = n
		}
		// One that is new is quick because it has few calls, and few is all it takes. What it would be when full is what the others
		// are to be compared with, or they would idle until its few connections have carried everything.
		done := c.done
		if l.capLocked(g, now) < l.pool.connections {
			done = unit * max(1, float64(l.pool.connections)/max(g.est.load, 1))
		}
		soonest = min(soonest, done)
		l.free = append(l.free, c)
	}
	if len(l.free) == 0 {
		return nil, false
	}
	l.free = slices.DeleteFunc(l.free, func(c candidate) bool {
		return c.g.busy >= l.capLocked(c.g, now) || c.done > tooLate*soonest || c.g.busy > 0 && l.unprovenLocked(c.g, now)
	})
	n := len(l.free)
	if n == 0 {
		return nil, true
	}
	pick := l.free[l.pool.pickLocked(n)]
	if n > few {
		if other := l.free[l.pool.pickLocked(n)]; other.cost < pick.cost {
			pick = other
		}
		return pick.g, true
	}
	for _, other := range l.free {
		if other.cost < pick.cost {
			pick = other
		}
	}
	return pick.g, true
}

func (p *Pool) pickLocked(n int) int { return min(int(p.random()*float64(n)), n-1) }

// capLocked is how many calls the gateway may have in flight.
func (l *lane) capLocked(g *gateway, now time.Time) int {
	n := l.pool.connections
	switch g.state {
	case aside:
		return 0
	case trial:
		n = 1
	case healthy:
		if g.ramp > 0 {
			n = min(g.ramp, n)
		}
		if since := now.Sub(g.back); since < slowStart {
			n = min(n, 1+int(float64(n)*since.Seconds()/slowStart.Seconds()))
		}
	}
	if !g.full.IsZero() {
		free := len(g.idle)
		if !g.trying && !now.Before(g.full) {
			free++
		}
		n = min(n, g.busy+free)
	}
	return n
}

// healthyLocked counts the gateways that take part.
func (l *lane) healthyLocked() int {
	n := 0
	for _, g := range l.gateways {
		if g.state == healthy {
			n++
		}
	}
	return n
}

// setAsideLocked takes a gateway out after a call that began at start and got no answer of its own.
func (l *lane) setAsideLocked(g *gateway, now, start time.Time, hangs bool, err error) {
	g.lastErr = err
	if g.fails > 0 && !start.After(g.failedAt) {
		return // of the same trouble
	}
	g.fails++
	g.state, g.hangs, g.failedAt = aside, hangs, now
	back := shortestAside
	if g.fails > 1 {
		longest := longestAside
		if 2*l.healthyLocked() < len(l.gateways) {
			longest = longestPanic
		}
		back = min(secondAside<<min(g.fails-2, 8), longest)
	}
	g.until = now.Add(l.pool.jitter(back))
	if !hangs || g.fails > 1 { // else one of them may tell whether all threads are taken
		l.pool.doomed = append(l.pool.doomed, g.idle...)
		g.idle = nil
	}
	if g.fails == 1 && !g.gone {
		l.pool.log.Warn("gateway set aside", "gateway", g.addr, "error", reasonOf(err))
	}
}

// backLocked makes a gateway healthy after a call that began at start was answered.
func (l *lane) backLocked(g *gateway, start time.Time) {
	if g.fails == 0 || !start.After(g.failedAt) {
		return
	}
	l.pool.log.Info("gateway is back", "gateway", g.addr, "after", time.Since(g.failedAt).Round(time.Millisecond))
	g.state, g.fails, g.lastErr, g.finding = healthy, 0, nil, Finding{}
	g.est, g.ramp = estimate{}, 1 // what it was before tells nothing
	if l.healthyLocked() > 1 {
		g.back = time.Now()
	}
}

// othersHangLocked tells whether another gateway was set aside for its silence within the longest that a call of the same
// trouble takes.
func (l *lane) othersHangLocked(g *gateway, now time.Time) bool {
	return slices.ContainsFunc(l.gateways, func(o *gateway) bool {
		return o != g && o.hangs && now.Sub(o.failedAt) < 2*shortestTimeout
	})
}

// absolve gives the gateways that were set aside for their silence a call at once: it was a table that kept them.
func (l *lane) absolve() {
	l.pool.mu.Lock()
	defer l.pool.unlock()
	for _, g := range l.gateways {
		if g.state == aside && g.hangs && !g.probing {
			g.state = trial
		}
	}
	l.dispatchLocked(time.Now())
}

// jitter spreads d over 0.75 to 1.25 of it, so that what failed together does not come back together.
func (p *Pool) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + 0.5*p.random()))
}
