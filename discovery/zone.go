package discovery

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Zone says which gateways are in a zone.
type Zone struct {
	Name string // dc1, or dc1/rack7 for a part of dc1
	// Gateways are patterns of path.Match against a gateway's name, its address and its host, and prefixes of IP addresses
	// such as 10.1.0.0/16.
	Gateways []string
}

func (z Zone) has(g Gateway) bool {
	host, _, _ := net.SplitHostPort(g.Addr)
	return slices.ContainsFunc(z.Gateways, func(pattern string) bool {
		if prefix, err := netip.ParsePrefix(pattern); err == nil {
			ip, err := netip.ParseAddr(host)
			return err == nil && prefix.Contains(ip)
		}
		return slices.ContainsFunc([]string{g.Name, g.Addr, host}, func(s string) bool {
			match, err := path.Match(pattern, s)
			return s != "" && match && err == nil
		})
	})
}

// ZoneOf is the name of the first zone that has the gateway, "" when none has.
func ZoneOf(zones []Zone, g Gateway) string {
	if i := slices.IndexFunc(zones, func(z Zone) bool { return z.has(g) }); i >= 0 {
		return zones[i].Name
	}
	return ""
}

// Zoned gives zones to the gateways whose source says none: that of the first of Zones that has them.
type Zoned struct {
	Provider
	Zones []Zone
}

// Run implements Provider.
func (z Zoned) Run(ctx context.Context, update func(View)) error {
	return z.Provider.Run(ctx, func(v View) {
		for i, g := range v.Gateways {
			if g.Zone == "" {
				v.Gateways[i].Zone = ZoneOf(z.Zones, g)
			}
		}
		update(v)
	})
}

// Prefer chooses the gateways of the own zone while enough of them are healthy, else those further away too. The zones are a
// tree: for dc1/rack7, first that rack, then dc1, then everywhere. The near ones stay in the set when it widens, so that the
// pool sees when they are back. Not for several goroutines.
type Prefer struct {
	Zone  string        // where this process is; "" takes every gateway
	Least int           // near ones that must be healthy; 0 is a third of them, and at least one
	Widen time.Duration // for how long too few must be healthy before it widens; 0 is 2 s
	Back  time.Duration // for how long enough must be healthy before it narrows; 0 is 30 s, so that a shaky one moves nothing

	depth   int // parts of the zone that a gateway must share
	started bool
	short   time.Time   // since when too few are healthy; zero: enough are
	since   []time.Time // by depth: since when enough are healthy that near; zero: they aren't
}

const (
	defaultWiden = 2 * time.Second
	defaultBack  = 30 * time.Second
)

// Choose gives those of all to use from now on. What is not in use yet counts as healthy if healthy says so.
func (p *Prefer) Choose(now time.Time, all []Gateway, healthy func(addr string) bool) []Gateway {
	if p.Zone == "" {
		return all
	}
	within := func(depth int) []Gateway {
		return slices.DeleteFunc(slices.Clone(all), func(g Gateway) bool { return shared(p.Zone, g.Zone) < depth })
	}
	enough := func(depth int) bool {
		near := within(depth)
		n := len(near)
		near = slices.DeleteFunc(near, func(g Gateway) bool { return !healthy(g.Addr) })
		return len(near) > 0 && len(near) >= min(cmp.Or(p.Least, (n+2)/3), n)
	}
	deepest := strings.Count(p.Zone, "/") + 1
	if !p.started {
		p.started, p.depth, p.since = true, deepest, make([]time.Time, deepest+1)
		for p.depth > 0 && !enough(p.depth) {
			p.depth--
		}
	}
	switch {
	case p.depth == 0 || enough(p.depth):
		p.short = time.Time{}
	case p.short.IsZero():
		p.short = now
	}
	// With no gateway at all in reach there is nothing to wait for.
	for p.depth > 0 && (len(within(p.depth)) == 0 || !p.short.IsZero() && now.Sub(p.short) >= cmp.Or(p.Widen, defaultWiden)) {
		p.depth, p.short = p.depth-1, time.Time{}
	}
	for d := deepest; d > p.depth; d-- {
		switch {
		case !enough(d):
			p.since[d] = time.Time{}
		case p.since[d].IsZero():
			p.since[d] = now
		case now.Sub(p.since[d]) >= cmp.Or(p.Back, defaultBack):
			p.depth, p.short = d, time.Time{}
		}
	}
	return within(p.depth)
}

// Far tells whether the last choice went beyond the own zone.
func (p *Prefer) Far() bool {
	return p.Zone != "" && p.started && p.depth <= strings.Count(p.Zone, "/")
}

// SameCentre tells whether two zones are in the same largest one, a data centre.
func SameCentre(a, b string) bool { return a != "" && shared(a, b) > 0 }

// shared counts the leading parts that two zones have in common.
func shared(a, b string) int {
	n := 0
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for n < min(len(as), len(bs)) && as[n] == bs[n] {
		n++
	}
	return n
}

// nearEvery is how often Near looks at the health of gateways.
const nearEvery = 500 * time.Millisecond

// Near passes the sets of run on, narrowed by p, and chooses again as health changes. healthy is called often and must not
// block; a gateway that it knows nothing of is healthy. update is called as run calls its own: from one goroutine, and it
// owns the slice.
func Near(ctx context.Context, run func(context.Context, func([]Gateway)) error, p *Prefer, healthy func(addr string) bool, update func([]Gateway)) error {
	if p.Zone == "" {
		return run(ctx, update)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sets := make(chan []Gateway)
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, func(gs []Gateway) {
			select {
			case sets <- gs:
			case <-ctx.Done():
			}
		})
	}()
	tick := time.NewTicker(nearEvery)
	defer tick.Stop()
	var all, now []Gateway
	for {
		select {
		case all = <-sets:
		case <-tick.C:
		case err := <-ended:
			return err
		}
		if len(all) == 0 {
			continue
		}
		if next := p.Choose(time.Now(), all, healthy); len(next) > 0 && !slices.Equal(next, now) {
			now = next
			update(slices.Clone(next))
		}
	}
}
