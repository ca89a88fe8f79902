package hbase

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"

	"drover/hbase/thrift2"
)

// Regions is where a table's rows live, as it was when it was asked for. It never changes.
type Regions struct {
	starts  [][]byte // of each region, ascending; the first is empty
	server  []int    // of each region
	servers int
	names   []string // of servers, host:port
}

// Regions asks a gateway for the table's regions. Regions move and split: ask again from time to time. What is out of
// date costs time, not correctness.
func (p *Pool) Regions(ctx context.Context, table string) (*Regions, error) {
	var found []*thrift2.THRegionLocation
	what := "find regions of " + table
	err := p.call(ctx, what, func(ctx context.Context, l link) error {
		return l.Call(ctx, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			var err error
			found, err = c.GetAllRegionLocations(ctx, []byte(table))
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	r, err := newRegions(found)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return r, nil
}

// newRegions checks that the regions tile the key space: a gateway asked in the middle of a split may say otherwise.
func newRegions(found []*thrift2.THRegionLocation) (*Regions, error) {
	found = slices.DeleteFunc(slices.Clone(found), func(l *thrift2.THRegionLocation) bool {
		i := l.RegionInfo
		return i == nil || i.GetReplicaId() != 0 || i.GetOffline() || i.GetSplit()
	})
	if len(found) == 0 {
		return nil, fmt.Errorf("the table has none: it may not exist")
	}
	slices.SortFunc(found, func(a, b *thrift2.THRegionLocation) int {
		return bytes.Compare(a.RegionInfo.StartKey, b.RegionInfo.StartKey)
	})
	r := &Regions{}
	numbers := map[string]int{}
	end := []byte{}
	for i, l := range found {
		start := l.RegionInfo.StartKey
		if !bytes.Equal(start, end) || i > 0 && len(start) == 0 {
			return nil, fmt.Errorf("region %d starts at %q and not at %q, where the one before ends: ask again", i, start, end)
		}
		end = l.RegionInfo.EndKey
		r.starts = append(r.starts, start)
		name := ""
		if s := l.ServerName; s != nil {
			name = s.HostName + ":" + strconv.Itoa(int(s.GetPort()))
		}
		n, ok := numbers[name]
		if !ok {
			n = len(numbers)
			numbers[name] = n
			r.names = append(r.names, name)
		}
		r.server = append(r.server, n)
	}
	if len(end) != 0 {
		return nil, fmt.Errorf("the last region ends at %q: ask again", end)
	}
	r.servers = len(numbers)
	return r, nil
}

// Index is the number of the region that a row belongs to, from 0 in order of keys.
func (r *Regions) Index(key []byte) int {
	return sort.Search(len(r.starts), func(i int) bool { return bytes.Compare(r.starts[i], key) > 0 }) - 1
}

// Server is the number of the region server that a row belongs to, below Servers.
func (r *Regions) Server(key []byte) int { return r.server[r.Index(key)] }

// Near is Index, and quicker where the key is likely to be in the region of that index.
func (r *Regions) Near(key []byte, region int) int {
	if string(key) >= string(r.starts[region]) && (region+1 == len(r.starts) || string(key) < string(r.starts[region+1])) {
		return region
	}
	return r.Index(key)
}

// Of is the server of the region of that index.
func (r *Regions) Of(region int) int { return r.server[region] }

// Servers is how many region servers have regions of the table.
func (r *Regions) Servers() int { return r.servers }

// Name is the host:port of the server of that number, "" when the gateway did not know it.
func (r *Regions) Name(server int) string { return r.names[server] }

// Bounds are the keys between regions, ascending: the split keys that would make a table like this one. Not to be
// changed.
func (r *Regions) Bounds() [][]byte { return r.starts[1:] }
