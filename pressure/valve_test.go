package pressure

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// cluster is a server that takes so many rows a second and answers the rest with trouble, behind a sender that has so many to
// send and keeps to its valve.
type cluster struct {
	v     Valve
	now   time.Time
	offer float64 // rows a second
	takes float64 // rows a second; math.Inf is all
	took  time.Duration
	tried time.Duration // for which a gateway tries what is refused before it says so
	rows  int           // of a batch

	sent, got     float64 // tokens of the sender and of the server
	done, refused int     // batches
	through       float64 // rows, in all
	refusals      []refusal
}

// refusal is trouble that is not told yet.
type refusal struct {
	at, start time.Time
	rows      int
}

const step = 20 * time.Millisecond

// run lets time pass and gives the rows a second that got through.
func (c *cluster) run(d time.Duration) float64 {
	before := c.through
	for range int(d / step) {
		c.now = c.now.Add(step)
		s := step.Seconds()
		c.v.Look(c.now)
		rate := c.offer
		if c.v.Shut() {
			rate = min(rate, c.v.Rate().Rows)
		}
		if c.now.Before(c.v.Hold()) {
			rate = 0
		}
		n := c.rows
		if c.v.Shut() {
			n = max(1, min(n, int(c.v.Rate().Rows/10)))
		}
		c.sent = min(c.sent+rate*s, rate*s+float64(n))
		c.got = min(c.got+c.takes*s, c.takes/5+float64(n))
		if c.takes == 0 {
			c.got = 0
		}
		for c.sent >= float64(n) {
			c.sent -= float64(n)
			if c.got < float64(n) {
				c.refused++
				c.refusals = append(c.refusals, refusal{c.now.Add(c.tried), c.now.Add(-c.took), n})
				continue
			}
			c.got -= float64(n)
			c.done++
			c.through += float64(n)
			c.v.Done(c.now, c.now.Add(-c.took), n, 1000*n, true)
		}
		for len(c.refusals) > 0 && !c.refusals[0].at.After(c.now) {
			r := c.refusals[0]
			c.refusals = c.refusals[1:]
			c.v.Trouble(c.now, r.start, Busy, 0, r.rows, 1000*r.rows)
		}
	}
	return (c.through - before) / d.Seconds()
}

func newCluster(offer float64) *cluster {
	return &cluster{now: start, offer: offer, takes: math.Inf(1), took: 10 * time.Millisecond, rows: 100}
}

func TestOpenWhileWell(t *testing.T) {
	c := newCluster(3000)
	if rate := c.run(time.Minute); rate < 2990 || c.v.Shut() {
		t.Errorf("%.0f rows/s of 3000, shut %v", rate, c.v.Shut())
	}
}

// A lasting bound below what is offered is kept to nine tenths, at few refusals.
func TestLastingBound(t *testing.T) {
	for _, takes := range []float64{100, 700, 1500, 2700} {
		for _, limit := range []float64{0, 3000} {
			c := newCluster(3000)
			c.v.Limit(Rate{Rows: limit})
			c.run(20 * time.Second)
			c.takes = takes
			c.run(20 * time.Second)
			c.done, c.refused = 0, 0
			rate := c.run(2 * time.Minute)
			share := float64(c.refused) / float64(c.done+c.refused)
			t.Logf("takes %.0f, limit %.0f: %.0f rows/s, %d refused of %d", takes, limit, rate, c.refused, c.refused+c.done)
			if rate < 0.8*takes || share > 0.05 {
				t.Errorf("takes %.0f, limit %.0f: %.0f rows/s, %.1f %% refused", takes, limit, rate, 100*share)
			}
		}
	}
}

// A gateway that tries for seconds what a quota refuses does not make what got through look like more: the rate that is found is
// about what is taken, and few batches are refused on the way.
func TestLateRefusals(t *testing.T) {
	for _, takes := range []float64{250, 500, 1000} {
		c := newCluster(2000)
		c.v.Limit(Rate{Rows: 2000})
		c.tried = 2300 * time.Millisecond
		c.run(20 * time.Second)
		c.takes = takes
		c.run(12 * time.Second)
		for i := range 5 {
			if r := c.v.Rate().Rows; r > 1.3*takes {
				t.Errorf("takes %.0f: the rate is %.0f after %d s", takes, r, 12+4*i)
			}
			c.run(4 * time.Second)
		}
		t.Logf("takes %.0f: %d refused of %d", takes, c.refused, c.refused+c.done)
	}
}

// However low the rate was pressed, down to a hundredth or to nothing, and for however long, 90 % is back within 30 s of the trouble's end.
func TestRecovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offer := rapid.Float64Range(50, 100_000).Draw(t, "offer")
		takes := max(rapid.Float64Range(0.01, 0.9).Draw(t, "takes")*offer, 2)
		if rapid.Bool().Draw(t, "outage") {
			takes = 0
		}
		trouble := time.Duration(rapid.IntRange(5, 240).Draw(t, "seconds")) * time.Second
		c := newCluster(offer)
		c.rows = max(1, int(offer/10))
		if rapid.Bool().Draw(t, "limited") {
			c.v.Limit(Rate{Rows: offer})
		}
		c.run(10 * time.Second)
		if c.v.Shut() {
			t.Fatal("shut without trouble")
		}
		c.takes = takes
		c.run(trouble)
		if c.refused == 0 {
			t.Fatal("the trouble did not happen")
		}
		c.takes = math.Inf(1)
		c.run(30 * time.Second)
		if rate := c.run(2 * time.Second); rate < 0.9*offer {
			t.Fatalf("%.0f rows/s of %.0f after 30 s", rate, offer)
		}
		if c.run(time.Minute); c.v.Shut() {
			t.Fatalf("still shut to %+v a minute later", c.v.Rate())
		}
	})
}

// Whatever it is told, a shut valve's rate stays between its floor and its limit, and only the named wait holds all.
func TestBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var v Valve
		limit := Rate{Rows: float64(rapid.IntRange(0, 10_000).Draw(t, "rows")), Bytes: float64(rapid.IntRange(0, 1_000_000).Draw(t, "bytes"))}
		v.Limit(limit)
		now := start
		asked := start // the latest end of a wait that was asked for
		for range rapid.IntRange(1, 100).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			sent := now.Add(-time.Duration(rapid.IntRange(0, 5000).Draw(t, "took")) * time.Millisecond)
			rows, bytes := rapid.IntRange(1, 1000).Draw(t, "n"), rapid.IntRange(1, 1<<20).Draw(t, "size")
			cut := v.Cut()
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0:
				wait := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "wait")) * time.Millisecond
				if until := now.Add(wait); until.After(asked) {
					asked = until
				}
				v.Trouble(now, sent, Trouble(rapid.IntRange(1, 4).Draw(t, "why")), wait, rows, bytes)
				if !v.Shut() {
					t.Fatal("open after trouble")
				}
				if sent.After(cut) && now.Sub(cut) > longestSettle && !v.Cut().Equal(now) {
					t.Fatalf("sent after the cut at %v, refused, and no other cut", cut)
				}
			case 1:
				v.Look(now)
			default:
				v.Done(now, sent, rows, bytes, true)
			}
			if v.Hold().After(asked) {
				t.Fatalf("held until %v, asked for %v", v.Hold(), asked)
			}
			if !v.Shut() {
				continue
			}
			r := v.Rate()
			const slack = 1 + 1e-9
			if limit.Rows > 0 && r.Rows > limit.Rows*slack || limit.Bytes > 0 && r.Bytes > limit.Bytes*slack {
				t.Fatalf("rate %+v above the limit %+v", r, limit)
			}
			least := min(max(floor*v.bound, leastRows/v.base.Rows), v.top())
			if v.level < least/slack || math.IsNaN(v.level) || math.IsInf(v.level, 0) {
				t.Fatalf("level %v below %v", v.level, least)
			}
			if _, part := v.Why(); part <= 0 || part > slack {
				t.Fatalf("part %v", part)
			}
		}
	})
}

// One event refuses everything under way: it is one cut.
func TestOneCutForOneEvent(t *testing.T) {
	c := newCluster(3000)
	c.run(10 * time.Second)
	for range 26 {
		c.v.Trouble(c.now, c.now.Add(-time.Second), Busy, 0, 100, 1000)
	}
	if _, part := c.v.Why(); math.Abs(part-afterFirst) > 0.01 {
		t.Errorf("down to %.2f, want one cut to %v", part, afterFirst)
	}
	c.v.Trouble(c.now.Add(2*time.Second), c.now.Add(time.Second), Busy, 0, 100, 1000)
	if _, part := c.v.Why(); part > afterFirst*afterTrouble+0.01 {
		t.Errorf("%.2f after what was sent later was refused too", part)
	}
}

func TestNamedWait(t *testing.T) {
	c := newCluster(3000)
	c.run(10 * time.Second)
	c.v.Trouble(c.now, c.now.Add(-time.Millisecond), Throttled, 4*time.Second, 100, 1000)
	if rate := c.run(3900 * time.Millisecond); rate != 0 {
		t.Errorf("%.0f rows/s while held", rate)
	}
	if c.run(30 * time.Second); c.run(2*time.Second) < 2700 {
		t.Error("not back")
	}
}

// Answers that take longer while fewer get through are trouble; the same for one gateway of three is not, nor is a queue of
// one's own making, which takes nothing away.
func TestSlowness(t *testing.T) {
	feed := func(v *Valve, from time.Time, seconds int, rows int, took ...time.Duration) time.Time {
		for range seconds {
			for i := range 12 {
				now := from.Add(time.Duration(i) * time.Second / 12)
				v.Done(now, now.Add(-took[i%len(took)]), rows, 100*rows, true)
			}
			from = from.Add(time.Second)
		}
		return from
	}
	for _, test := range []struct {
		name string
		rows int
		took []time.Duration
		want bool
	}{
		{"all slow", 30, []time.Duration{time.Second}, true},
		{"one gateway slow", 30, []time.Duration{time.Second, 20 * time.Millisecond, time.Second}, false},
		{"own queue", 100, []time.Duration{time.Second}, false},
		{"slower within the usual", 30, []time.Duration{60 * time.Millisecond}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var v Valve
			now := feed(&v, start, 10, 100, 20*time.Millisecond, 30*time.Millisecond)
			if v.Shut() {
				t.Fatal("shut while well")
			}
			feed(&v, now, 3, test.rows, test.took...)
			why, _ := v.Why()
			if got := v.Shut(); got != test.want || got && why != Slow {
				t.Errorf("shut %v for %v, want %v", got, why, test.want)
			}
		})
	}
}

// Waits and times in any order of size never make it panic or turn into no number.
func TestRandomTimes(t *testing.T) {
	n := rand.Uint64()
	t.Logf("seed %d", n)
	r := rand.New(rand.NewPCG(n, n))
	var v Valve
	now := start
	for range 10_000 {
		now = now.Add(time.Duration(r.ExpFloat64() * float64(time.Second)))
		if r.IntN(3) == 0 {
			v.Trouble(now, now.Add(-time.Duration(r.IntN(1e9))), Busy, 0, 1, 1)
		} else {
			v.Done(now, now.Add(-time.Duration(r.IntN(1e9))), r.IntN(1000), r.IntN(1e6), r.IntN(2) == 0)
		}
		if r := v.Rate(); math.IsNaN(r.Rows) || math.IsInf(r.Rows, 0) {
			t.Fatalf("rate %+v", r)
		}
	}
}

// Trouble in the first moments tells little of what a server takes: the rate is that of the moments, and a call as large as those
// made up already goes every two seconds whatever comes.
func TestTroubleAtTheStart(t *testing.T) {
	var v Valve
	at := time.Unix(1000, 0)
	v.Done(at, at.Add(-4*time.Millisecond), 1000, 100_000, true)
	v.Done(at.Add(100*time.Millisecond), at, 1000, 100_000, true)
	now := at.Add(100 * time.Millisecond)
	v.Trouble(now, now.Add(-time.Millisecond), Busy, 0, 1000, 100_000)
	if r := v.Rate(); r.Rows < 9000 || r.Rows > 11_000 {
		t.Errorf("2000 rows in 0.1 s, then trouble: %v rows/s, want half of 20,000", r.Rows)
	}
	for range 100 {
		now = now.Add(3 * time.Second)
		v.Trouble(now, now.Add(-time.Millisecond), Busy, 0, 1000, 100_000)
		if r := v.Rate(); r.Rows < 500 || r.Bytes < 50_000 {
			t.Fatalf("%+v: a call of 1000 rows would wait more than 2 s", r)
		}
	}
}
