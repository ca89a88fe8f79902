package native

import (
	"bytes"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/tsuna/gohbase/hrpc"
	"golang.org/x/sync/singleflight"

	"drover/spare"
)

// located is a region with its name, by which region servers know it.
type located struct {
	start, end []byte
	name       []byte
	server     string // host:port; "" when none does at the moment
}

// regionMap is a table's regions, which tile the key space in order. It never changes.
type regionMap struct {
	list []located
	at   time.Time
}

// near is the number of the region that has the key, found quickly where the key is likely to be in the region of that number.
func (m *regionMap) near(key []byte, region int) int {
	if string(key) >= string(m.list[region].start) && (region+1 == len(m.list) || string(key) < string(m.list[region+1].start)) {
		return region
	}
	return sort.Search(len(m.list), func(i int) bool { return bytes.Compare(m.list[i].start, key) > 0 }) - 1
}

// regionMaps are the maps of the tables that are used. Its zero value is empty.
type regionMaps struct {
	group singleflight.Group

	mu     sync.Mutex
	tables map[string]*regionMap
	waking map[string]bool // table and key
}

// youngest is how old a map must be to be read anew: regions that move take longer.
const youngest = 100 * time.Millisecond

// of gives a table's map, read from hbase:meta when it is not known; nil is a table that does not exist.
func (m *regionMaps) of(h *hbaseBackend, table string) (*regionMap, error) {
	m.mu.Lock()
	have := m.tables[table]
	m.mu.Unlock()
	if have != nil {
		return have, nil
	}
	return m.read(h, table)
}

// read is of, but asks HBase.
func (m *regionMaps) read(h *hbaseBackend, table string) (*regionMap, error) {
	v, err, _ := m.group.Do(table, func() (any, error) {
		ctx, cancel := relayContext() // not of the one who happens to come first
		defer cancel()
		list, err := h.located(ctx, table)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			return (*regionMap)(nil), nil
		}
		if err := tiles(list); err != nil {
			return nil, err
		}
		fresh := &regionMap{list: list, at: time.Now()}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.tables == nil {
			m.tables = map[string]*regionMap{}
		}
		m.tables[table] = fresh
		return fresh, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*regionMap), nil
}

// tiles refuses what hbase:meta says in the middle of a split or a merge.
func tiles(list []located) error {
	var end []byte
	for i, r := range list {
		if !bytes.Equal(r.start, end) || i > 0 && len(end) == 0 {
			return fmt.Errorf("org.apache.hadoop.hbase.NotServingRegionException: regions are in motion: one starts at %q, where %q ends the one before", r.start, end)
		}
		end = r.end
	}
	if len(end) > 0 {
		return fmt.Errorf("org.apache.hadoop.hbase.NotServingRegionException: regions are in motion: the last one ends at %q", end)
	}
	return nil
}

// forget has a map read anew when it is next asked for, unless that was done just now.
func (m *regionMaps) forget(table string, old *regionMap) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tables[table] == old && time.Since(old.at) > youngest {
		delete(m.tables, table)
	}
}

// wake has gohbase look for the region of a key, which it does only when a call for that region alone is refused.
func (m *regionMaps) wake(h *hbaseBackend, table string, key []byte) {
	id := table + "\x00" + string(key)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waking[id] {
		return
	}
	if m.waking == nil {
		m.waking = map[string]bool{}
	}
	m.waking[id] = true
	key = bytes.Clone(key)
	go func() {
		defer func() {
			m.mu.Lock()
			delete(m.waking, id)
			m.mu.Unlock()
		}()
		ctx, cancel := relayContext()
		defer cancel()
		get, err := hrpc.NewGet(ctx, []byte(table), key)
		if err != nil {
			return
		}
		get.ExistsOnly()
		// As it is, and not as a part of a Multi: gohbase would wait for others to send with it.
		_, _ = h.rpc().SendRPC(lone{get})
	}()
}

// lone is a call that is no hrpc.Batchable.
type lone struct{ hrpc.Call }

// spareRows are kept for the calls that follow.
var spareRows = spare.List[*rowBuffers]{Most: 64 << 20}

// largestSpare is what a buffer may have to be kept, in bytes.
const largestSpare = 8 << 20

func (b *rowBuffers) give() {
	size := cap(b.request) + cap(b.cells)
	if size > largestSpare {
		return
	}
	b.request, b.cells = b.request[:0], b.cells[:0]
	spareRows.Put(b, size)
}
