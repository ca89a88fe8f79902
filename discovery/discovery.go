// Package discovery says who the gateways are: the addresses at which HBase's Thrift servers may be found. How they feel,
// and which of them to use, is the business of hbase.Pool. Not for finding anything else, and not for probing: what must know
// whether an address answers is given a func for it.
//
// The words:
//
//	Provider  reads one kind of source (Static, File, DNS, ZooKeeper) and gives a View each time that it changes
//	View      what the source says: the gateways, those that it says not to use, and why it cannot be read if it can't
//	Zoned     wraps a provider and says in which zone, a data centre or a rack, each gateway is
//	Guard     wraps a provider and turns views into the set in use: it does not believe everything, remembers the last good
//	          set, and obeys a pin
//	Prefer    chooses the near ones of a set, and the rest when too few of those are healthy; Near runs it
//
// They are stacked in cmd: Near(Guard(Zoned(provider))) gives sets to the pool. A provider tells what it sees and never
// judges; the guard judges and never looks.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Gateway is one of a source.
type Gateway struct {
	Addr string `json:"addr"`           // host:port; may be "" for one that is out
	Name string `json:"name,omitempty"` // what the source calls it, such as thrift_11; may be ""
	Zone string `json:"zone,omitempty"` // dc1 or dc1/rack7; "" is unknown
	Out  string `json:"out,omitempty"`  // why it is not to be used; "" for those of the set
}

func (g Gateway) String() string {
	if g.Name == "" || g.Name == g.Addr {
		return g.Addr
	}
	if g.Addr == "" {
		return g.Name
	}
	return g.Name + " (" + g.Addr + ")"
}

// View is what a provider knows at one moment.
type View struct {
	// Known is false until the source was read for the first time. A source that is known and has no gateway is empty; one
	// that cannot be read is never that.
	Known    bool
	Gateways []Gateway // no address of the set stands twice
	Problem  string    // why the source cannot be read now; Gateways is then what it said last
}

// Set is the gateways of the view that may be used.
func (v View) Set() []Gateway {
	return slices.DeleteFunc(slices.Clone(v.Gateways), func(g Gateway) bool { return g.Out != "" })
}

func (v View) equal(o View) bool {
	return v.Known == o.Known && v.Problem == o.Problem && slices.Equal(v.Gateways, o.Gateways)
}

// Provider reads a source of gateways. All of them pass one conformance suite.
type Provider interface {
	// Run calls update with a view once there is something to say, and again each time that it changes, from one goroutine
	// and never two calls at once; update owns the slice. A source that cannot be read leaves the gateways as they were and
	// says so in Problem. Run returns nil when ctx ends, with nothing left running, and an error only for what waiting cannot
	// mend.
	Run(ctx context.Context, update func(View)) error
}

// teller passes on views that differ from the one before.
type teller struct {
	update func(View)
	last   View
}

func (t *teller) tell(v View) {
	if t.last.equal(v) {
		return
	}
	t.last = v
	v.Gateways = slices.Clone(v.Gateways)
	t.update(v)
}

// problem leaves the last gateways standing.
func (t *teller) problem(text string) {
	v := t.last
	v.Problem = text
	t.tell(v)
}

// Static is a set of gateways that never changes, as host:port.
type Static []string

// Run gives the set once and waits for the end of ctx.
func (s Static) Run(ctx context.Context, update func(View)) error {
	if len(s) == 0 {
		return errors.New("no gateway is named: give gateways.static at least one host:port")
	}
	v := View{Known: true}
	for _, a := range s {
		addr, err := ParseAddr(a)
		if err != nil {
			return err
		}
		v.Gateways = append(v.Gateways, Gateway{Addr: addr})
	}
	v.Gateways = unique(v.Gateways)
	update(v)
	<-ctx.Done()
	return nil
}

// unique takes those out whose address another one of the set has.
func unique(gs []Gateway) []Gateway {
	first := map[string]int{}
	for i, g := range gs {
		if g.Out != "" {
			continue
		}
		if j, twice := first[g.Addr]; twice {
			gs[i].Out = "has the address of " + gs[j].String()
			continue
		}
		first[g.Addr] = i
	}
	// Without names of their own there is nothing to tell of the others.
	return slices.DeleteFunc(gs, func(g Gateway) bool { return g.Out != "" && g.Name == "" })
}

// ParseAddr checks host:port and gives it in the one form that equal addresses share.
func ParseAddr(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%q is not HOST:PORT", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '+' {
		return "", fmt.Errorf("%q has the port %q; want a number from 1 to 65535", s, port)
	} else {
		port = strconv.FormatUint(n, 10)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return net.JoinHostPort(ip.String(), port), nil
	}
	if host == "" || len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}) {
		return "", fmt.Errorf("%q has no sound host; want a host name or an IP address before the port", s)
	}
	return net.JoinHostPort(strings.ToLower(host), port), nil
}
