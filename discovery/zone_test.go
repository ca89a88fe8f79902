package discovery

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestZonesOfGateways(t *testing.T) {
	zones := []Zone{{"dc1", []string{"10.1.0.0/16", "thrift_1?"}}, {"dc2/r1", []string{"gw2*.example"}}, {"dc2", []string{"*:9091"}}}
	for _, test := range []struct {
		g    Gateway
		want string
	}{
		{Gateway{Addr: "10.1.200.3:9090"}, "dc1"},
		{Gateway{Addr: "10.2.0.3:9090"}, ""},
		{Gateway{Addr: "h:1", Name: "thrift_11"}, "dc1"},
		{Gateway{Addr: "h:1", Name: "thrift_1"}, ""},
		{Gateway{Addr: "gw21.example:1"}, "dc2/r1"},
		{Gateway{Addr: "h:9091"}, "dc2"},
		{Gateway{Addr: "", Name: "thrift_15", Out: "ok is false"}, "dc1"},
	} {
		if got := ZoneOf(zones, test.g); got != test.want {
			t.Errorf("%v is in %q, want %q", test.g, got, test.want)
		}
	}
	z := Zoned{Static{"10.1.0.1:9090", "10.2.0.1:9090"}, zones}
	ctx, cancel := context.WithCancel(t.Context())
	err := z.Run(ctx, func(v View) {
		if v.Gateways[0].Zone != "dc1" || v.Gateways[1].Zone != "" {
			t.Errorf("zones are %+v", v.Gateways)
		}
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
}

// TestPreferWidensAndNarrows tells a story: seconds, which gateways are down, and which are used then.
func TestPreferWidensAndNarrows(t *testing.T) {
	in := func(zone string, hosts ...string) (gs []Gateway) {
		for _, h := range hosts {
			gs = append(gs, Gateway{Addr: h + ":1", Zone: zone})
		}
		return gs
	}
	rack := in("dc1/r1", "a", "b")
	centre := append(slices.Clone(rack), in("dc1/r2", "c", "d", "e", "f")...)
	all := append(slices.Clone(centre), append(in("dc2/r1", "x", "y"), in("", "z")...)...)
	down := func(hosts ...string) []string { return hosts }
	for _, test := range []struct {
		name  string
		zone  string
		steps []struct {
			at   float64
			down []string
			want []Gateway
		}
	}{
		{"no zone of its own", "", []struct {
			at   float64
			down []string
			want []Gateway
		}{{0, nil, all}}},
		{"a zone of nobody", "dc9", []struct {
			at   float64
			down []string
			want []Gateway
		}{{0, nil, all}}},
		{"the rack, then the centre, then the world, and back", "dc1/r1", []struct {
			at   float64
			down []string
			want []Gateway
		}{
			{0, nil, rack},
			{1, down("a"), rack}, // one of two is enough
			{2, down("a", "b"), rack},
			{3.9, down("a", "b"), rack},
			{4, down("a", "b"), centre},
			{5, down("a", "b", "c", "d", "e"), centre}, // one of six is too few
			{7, down("a", "b", "c", "d", "e"), all},
			{8, down("a"), all},
			{37, down("a", "b"), all}, // the rack is shaky: its time begins anew
			{38, down("a"), centre},   // but that of the centre ran
			{67, down("a"), centre},
			{68, down("a"), rack},
		}},
		{"one that comes and goes moves nothing", "dc1/r1", []struct {
			at   float64
			down []string
			want []Gateway
		}{
			{0, nil, rack},
			{1, down("a", "b"), rack},
			{2, nil, rack},
			{3, down("a", "b"), rack},
			{4.5, down("a", "b"), rack},
			{5, down("a", "b"), centre},
		}},
		{"a whole centre", "dc1", []struct {
			at   float64
			down []string
			want []Gateway
		}{
			{0, down("a", "b", "c", "d", "e", "f"), all}, // at the start nothing is waited for
			{1, nil, all},
			{30, nil, all},
			{31, nil, centre},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &Prefer{Zone: test.zone}
			start := time.Now()
			for _, s := range test.steps {
				got := p.Choose(start.Add(time.Duration(s.at*float64(time.Second))), all, func(addr string) bool {
					return !slices.Contains(s.down, addr[:1])
				})
				if !same(got, s.want) {
					t.Fatalf("at %v s with %v down: %v, want %v", s.at, s.down, addrs(got), addrs(s.want))
				}
			}
		})
	}
}

func TestNearChoosesAgainAsHealthChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		local, far := Gateway{Addr: "a:1", Zone: "dc1"}, Gateway{Addr: "x:1", Zone: "dc2"}
		source := script()
		g := &Guard{Provider: source}
		var mu sync.Mutex
		dead := false
		var sets [][]Gateway
		ended := make(chan error, 1)
		go func() {
			ended <- Near(ctx, g.Run, &Prefer{Zone: "dc1"}, func(addr string) bool {
				mu.Lock()
				defer mu.Unlock()
				return addr != "a:1" || !dead
			}, func(gs []Gateway) {
				mu.Lock()
				defer mu.Unlock()
				sets = append(sets, gs)
			})
		}()
		expect := func(after time.Duration, want ...Gateway) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(sets) == 0 || !same(sets[len(sets)-1], want) {
				t.Fatalf("sets are %v, want %v last", sets, want)
			}
		}
		time.Sleep(time.Minute)
		source.views <- known([]Gateway{local, far})
		expect(0, local)
		mu.Lock()
		dead = true
		mu.Unlock()
		expect(3*time.Second, local, far)
		mu.Lock()
		dead = false
		mu.Unlock()
		expect(20*time.Second, local, far)
		expect(15*time.Second, local)
		if len(sets) != 3 {
			t.Errorf("%d sets, want 3: %v", len(sets), sets)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
