package discovery

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
)

const (
	// A loss is judged over this long: nodes that are deleted one by one are one loss. Long enough for a script that does so
	// slowly, short enough that a rolling restart, whose gateways return, does not add up.
	lossWindow = 10 * time.Minute

	leastGuarded = 5 // gateways; of fewer, half may well go at once

	// A lost gateway is believed to be lost once this many probes in a row got no answer.
	probeFailures = 2
	probeEvery    = 10 * time.Second

	// patience is how long a source may take at the start before the last good set serves. A session with an ensemble needs a
	// second or two.
	patience = 3 * time.Second
)

// Origin is where the set in use comes from.
type Origin string

// The origins.
const (
	Nowhere  Origin = ""          // there is no set
	Source   Origin = "source"    // the provider's, as it is, or as it was before it was held
	LastGood Origin = "last-good" // the file: the source has not been read yet
	Pinned   Origin = "pin"
)

// Held is a change that the guard does not believe yet.
type Held struct {
	Since  time.Time `json:"since"`
	Empty  bool      `json:"empty"`  // it names no gateway: never believed, and not to be confirmed
	Of     int       `json:"of"`     // gateways, before the loss
	Lost   []Gateway `json:"lost"`   // still in use
	Wanted []Gateway `json:"wanted"` // the set that the source gives
	Token  string    `json:"token"`  // names the set wanted, for Confirm

	silent map[string]int // probes without answer in a row, by address; absent is not known
	from   time.Time      // a confirmation from before that is of another time
}

// Why says what is held, for people.
func (h *Held) Why() string {
	if h.Empty {
		return "the source names no gateway that may be used, which is never believed"
	}
	return fmt.Sprintf("the source lost %d of %d gateways: %s", len(h.Lost), h.Of, names(h.Lost))
}

// Answering counts the lost ones that answered their last probe, and those that did not.
func (h *Held) Answering() (answering, silent int) {
	for _, n := range h.silent {
		if n == 0 {
			answering++
		} else {
			silent++
		}
	}
	return answering, silent
}

func names(gs []Gateway) string {
	const most = 6
	var out []string
	for _, g := range gs[:min(len(gs), most)] {
		out = append(out, cmp.Or(g.Name, g.Addr))
	}
	if len(gs) > most {
		out = append(out, fmt.Sprintf("%d more", len(gs)-most))
	}
	return strings.Join(out, ", ")
}

// core decides what the guard believes. It looks at nothing: what happens is told, with the time.
type core struct {
	trust   bool      // every set but the empty one is believed
	started time.Time // when the source was first asked
	view    View      // the source's last
	spoke   bool      // a view was Known

	good []Gateway // the set that is believed; before spoke, the last good one of an earlier process
	at   time.Time // when an earlier process changed that
	gone []loss    // what was taken out of good within lossWindow, and did not return
	held *Held     // nil: good is what the source says
	next time.Time // of the next round of probes
	pin  []Gateway // nil: none
}

type loss struct {
	Gateway Gateway   `json:"gateway"`
	At      time.Time `json:"at"`
}

// see takes a view of the source.
func (c *core) see(now time.Time, v View) {
	c.view = v
	if !v.Known {
		return
	}
	from := now
	if !c.spoke {
		from = c.at // the loss may be as old as that
	}
	c.spoke = true
	set := v.Set()
	c.gone = slices.DeleteFunc(c.gone, func(l loss) bool { return now.Sub(l.At) >= lossWindow || has(set, l.Gateway.Addr) })
	before := slices.Clone(c.good)
	for _, l := range c.gone {
		before = append(before, l.Gateway)
	}
	lost := slices.DeleteFunc(slices.Clone(before), func(g Gateway) bool { return has(set, g.Addr) })
	switch {
	case len(set) == 0:
		c.hold(now, &Held{Empty: true, Of: len(c.good), Token: token(nil)})
	case !c.trust && len(before) >= leastGuarded && 2*len(lost) >= len(before):
		c.good, c.gone = before, nil
		c.hold(now, &Held{Of: len(before), Lost: lost, Wanted: set, Token: token(set), from: from})
	default:
		for _, g := range c.good {
			if !has(set, g.Addr) {
				c.gone = append(c.gone, loss{g, now})
			}
		}
		c.good, c.held = set, nil
	}
}

// hold begins to hold a change, or goes on with it.
func (c *core) hold(now time.Time, h *Held) {
	h.Since, h.silent = now, map[string]int{}
	if c.held == nil {
		c.next = now
	} else if c.held.Empty == h.Empty {
		h.Since, h.from = c.held.Since, c.held.from
	}
	for _, g := range h.Lost {
		if c.held == nil {
			break
		}
		if n, known := c.held.silent[g.Addr]; known {
			h.silent[g.Addr] = n
		}
	}
	c.held = h
}

// probes gives the gateways to probe now.
func (c *core) probes(now time.Time) []Gateway {
	if c.held == nil || c.held.Empty || now.Before(c.next) {
		return nil
	}
	c.next = now.Add(probeEvery)
	return slices.Clone(c.held.Lost)
}

// probed takes the end of a probe. Once none of the lost answers, the loss is believed.
func (c *core) probed(addr string, err error) {
	if c.held == nil || !has(c.held.Lost, addr) {
		return
	}
	if err == nil {
		c.held.silent[addr] = 0
		return
	}
	c.held.silent[addr]++
	for _, g := range c.held.Lost {
		if c.held.silent[g.Addr] < probeFailures {
			return
		}
	}
	c.believe()
}

// confirm believes what is held if token names it, and was given while it was held.
func (c *core) confirm(at time.Time, token string) {
	if c.held != nil && !c.held.Empty && c.held.Token == token && !at.Before(c.held.from) {
		c.believe()
	}
}

func (c *core) believe() {
	// What was settled is not counted again with the next loss.
	c.good, c.gone, c.held = c.held.Wanted, nil, nil
}

// use gives the set in use; it is not to be changed.
func (c *core) use(now time.Time) ([]Gateway, Origin) {
	switch {
	case c.pin != nil:
		return c.pin, Pinned
	case len(c.good) == 0:
		return nil, Nowhere
	case c.spoke:
		return c.good, Source
	case now.Sub(c.started) >= patience:
		return c.good, LastGood
	}
	return nil, Nowhere
}

func has(gs []Gateway, addr string) bool {
	return slices.ContainsFunc(gs, func(g Gateway) bool { return g.Addr == addr })
}

// token names a set, whatever its order.
func token(gs []Gateway) string {
	var addrs []string
	for _, g := range gs {
		addrs = append(addrs, g.Addr)
	}
	slices.Sort(addrs)
	return fmt.Sprintf("%016x", xxh3.HashString(strings.Join(addrs, "\n")))
}
