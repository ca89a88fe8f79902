package hbase

import (
	"testing"

	"pgregory.net/rapid"

	"drover/hbase/thrift2"
)

func location(start, end, host string) *thrift2.THRegionLocation {
	port := int32(16020)
	return &thrift2.THRegionLocation{
		ServerName: &thrift2.TServerName{HostName: host, Port: &port},
		RegionInfo: &thrift2.THRegionInfo{StartKey: []byte(start), EndKey: []byte(end)},
	}
}

func TestRegions(t *testing.T) {
	replica, offline := int32(1), true
	second := location("m", "", "one")
	second.RegionInfo.ReplicaId = &replica
	parent := location("", "m", "one")
	parent.RegionInfo.Offline = &offline
	r, err := newRegions([]*thrift2.THRegionLocation{
		location("t", "", "one"), second, location("", "g", "one"), parent, location("g", "m", "two"), location("m", "t", "three"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Servers() != 3 || len(r.Bounds()) != 3 || string(r.Bounds()[0]) != "g" {
		t.Errorf("%d servers, bounds %q", r.Servers(), r.Bounds())
	}
	for key, want := range map[string]struct{ index, same int }{
		"": {0, 3}, "fz": {0, 3}, "g": {1, 1}, "lz": {1, 1}, "m": {2, 2}, "szz": {2, 2}, "t": {3, 0}, "\xff": {3, 0},
	} {
		if got := r.Index([]byte(key)); got != want.index {
			t.Errorf("%q is in region %d, want %d", key, got, want.index)
		}
		if r.Server([]byte(key)) != r.server[want.same] {
			t.Errorf("%q is at server %d", key, r.Server([]byte(key)))
		}
	}
	for name, bad := range map[string][]*thrift2.THRegionLocation{
		"none":     nil,
		"hole":     {location("", "g", "one"), location("h", "", "one")},
		"overlap":  {location("", "m", "one"), location("g", "", "one")},
		"twice":    {location("", "", "one"), location("", "", "two")},
		"no start": {location("g", "", "one")},
		"no end":   {location("", "g", "one")},
	} {
		if _, err := newRegions(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRegionsIndexProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		keys := rapid.SliceOfDistinct(rapid.StringN(1, 4, 6), rapid.ID[string]).Draw(rt, "keys")
		key := rapid.String().Draw(rt, "key")
		want := 0
		var found []*thrift2.THRegionLocation
		starts := append([]string{""}, keys...)
		for _, s := range starts {
			end := ""
			for _, e := range starts {
				if e > s && (end == "" || e < end) {
					end = e
				}
			}
			if s <= key && s != "" {
				want++
			}
			found = append(found, location(s, end, "one"))
		}
		r, err := newRegions(found)
		if err != nil {
			rt.Fatal(err)
		}
		if got := r.Index([]byte(key)); got != want {
			rt.Fatalf("%q in region %d, want %d", key, got, want)
		}
	})
}
