package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"drover/jobs/mongodump/dumpgen"
)

// tailOf moves a folder through a pool whose workers each take a third of a table's limit at most, and tells how long it took
// and how much of that passed from the first worker without a shard to the end.
func tailOf(t *testing.T, s *squad, name, folder, gateways string, limit int) (b books, took, idle time.Duration) {
	t.Helper()
	waits, _ := s.submitted(job(t, name, folder, fmt.Sprintf("%q", name+"_{collection}"), gateways, fmt.Sprintf("limits: {rows: %d}\nshards: 1", limit)), name)
	began := time.Now()
	var first time.Time
	all := false
	end := whileRunning(waits, 100*time.Millisecond, func() {
		list, err := s.pool.Workers(t.Context())
		if err != nil {
			return
		}
		some := false
		for _, w := range list {
			some = some || w.Shards == 0
		}
		switch all = all || !some; {
		case !some:
			first = time.Time{} // what one got in the meantime is no end
		case all && first.IsZero():
			first = time.Now()
		}
	})
	b = end.must(t, 0).json
	b.close(t)
	if took = time.Since(began); !first.IsZero() {
		idle = time.Since(first)
	}
	return b, took, idle
}

// One shard has fifty times what each of the others has. Its owner is asked to split it, so that no worker idles for long before
// the end; that of a stream, which cannot be split, ends when its one owner is done.
func TestPoolSplitsALargeShard(t *testing.T) {
	beside(t)
	r := seed(t)
	limit, small := scaled(3000, 9000), int64(scaled(5000, 1500))
	f := newFleet(t, 3)
	s := newSquad(t, 3, 4, "--share=34%")
	folder := filepath.Join(t.TempDir(), "db")
	must(t, os.MkdirAll(folder, 0o755))
	write := func(name string, docs int64) (path string) {
		path = filepath.Join(folder, name)
		_, err := dumpgen.File(t.Context(), path, dumpgen.Options{Profile: dumpgen.KB, AvgBytes: 1000, Docs: docs, Seed: r.Uint64()})
		must(t, err)
		return path
	}
	const others = 11
	for i := range others {
		write(fmt.Sprintf("small%d.bson", i), small)
	}
	large := write("large.bson", 50*small)
	docs := (50 + others) * small
	cut, took, idle := tailOf(t, s, "cut", filepath.Dir(folder), f.addrs(), limit)
	f.equal(t, "cut_large", large, cut.Timestamp, nil)
	t.Logf("%d shards in the end, of %d: done after %.1f s, of which a worker was idle for the last %.1f s, %.1f %%",
		cut.Shards, others+1, took.Seconds(), idle.Seconds(), 100*idle.Seconds()/took.Seconds())
	if cut.Written != docs || cut.Shards <= others+1 {
		t.Errorf("the books say %+v, want %d written in more than %d shards", cut, docs, others+1)
	}

	data, err := os.ReadFile(large)
	must(t, err)
	must(t, os.Remove(large))
	must(t, os.WriteFile(large+".gz", zipped(t, data), 0o644))
	whole, wholeTook, wholeIdle := tailOf(t, s, "whole", filepath.Dir(folder), f.addrs(), limit)
	t.Logf("with the large one as a stream: done after %.1f s, of which a worker was idle for the last %.1f s, %.1f %%",
		wholeTook.Seconds(), wholeIdle.Seconds(), 100*wholeIdle.Seconds()/wholeTook.Seconds())
	if whole.Written != docs || whole.Shards != others+1 {
		t.Errorf("the books say %+v, want %d written in %d shards", whole, docs, others+1)
	}
	if !proving() {
		return
	}
	if idle > took/20 || took > wholeTook*2/3 {
		t.Errorf("split, a worker was idle for the last %v of %v; as a stream it took %v", idle, took, wholeTook)
	}
}
