package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// dnsEvery is how often a name is resolved anew. Shorter than the usual time to live, so that it is the resolver's cache
	// that decides; the Go resolver does not say how long an answer lives.
	dnsEvery   = 15 * time.Second
	dnsTimeout = 10 * time.Second
)

// Resolver is what DNS needs of a net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// DNS resolves a name again and again.
type DNS struct {
	// Name is host:port, whose addresses (A and AAAA) are the gateways; or, without a port, the full name of SRV records, such
	// as _thrift._tcp.example.org. A gateway that has addresses of both kinds would be two: IPv6 ones count only for a name
	// that has no others.
	Name     string
	Resolver Resolver // nil: the system's
}

// Run implements Provider.
func (d DNS) Run(ctx context.Context, update func(View)) error {
	t := teller{update: update}
	tick := time.NewTicker(dnsEvery)
	defer tick.Stop()
	for {
		gs, err := d.resolve(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			t.problem(fmt.Sprintf("resolve %s: %v", d.Name, err))
		default:
			t.tell(View{Known: true, Gateways: gs})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// resolve gives at least one gateway, or an error.
func (d DNS) resolve(ctx context.Context) ([]Gateway, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	var r Resolver = net.DefaultResolver
	if d.Resolver != nil {
		r = d.Resolver
	}
	var gs []Gateway
	if host, port, err := net.SplitHostPort(d.Name); err == nil {
		ips, err := r.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, plainDNS(err)
		}
		for i := range ips {
			ips[i] = ips[i].Unmap()
		}
		if slices.ContainsFunc(ips, netip.Addr.Is4) {
			ips = slices.DeleteFunc(ips, netip.Addr.Is6)
		}
		for _, ip := range ips {
			gs = append(gs, Gateway{Addr: net.JoinHostPort(ip.String(), port)})
		}
	} else {
		_, records, err := r.LookupSRV(ctx, "", "", d.Name)
		if err != nil {
			return nil, plainDNS(err)
		}
		for _, s := range records {
			addr, err := ParseAddr(net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port))))
			if err != nil {
				return nil, fmt.Errorf("an SRV record: %w", err)
			}
			gs = append(gs, Gateway{Addr: addr})
		}
	}
	if len(gs) == 0 {
		return nil, errors.New("the name has no address")
	}
	slices.SortFunc(gs, func(a, b Gateway) int { return cmp.Compare(a.Addr, b.Addr) }) // servers turn them round at each question
	return unique(gs), nil
}

// plainDNS is the error without the name, which its reader adds, and without the server asked.
func plainDNS(err error) error {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(e.Err)
	}
	return err
}
