package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"drover/checkpoints"
	"drover/hbase"
	"drover/jobfile"
	"drover/jobs"
	"drover/jobs/mongodump/dumpgen"
	"drover/runner"
)

// shardPool hands out shards to several runner.Work at once, takes them back in mid-flight, leaves them unsure and has them cut: what
// package fleet does through ZooKeeper, without it.
type shardPool struct {
	mu     sync.Mutex
	r      *rand.Rand
	shards map[int]*poolShard
	total  int

	stolen, asked, unsure, cut, fenced int
}

type poolShard struct {
	jobs.Shard
	mark  checkpoints.Checkpoint
	owner *poolWorker // nil is free
	lost  chan struct{}
	asked bool // back
	split chan struct{}
	whole bool
}

// poolWorker is one process's end of it: runner.Leases and checkpoints.Store.
type poolWorker struct {
	p     *shardPool
	until time.Time // it is unsure until then
}

func (w *poolWorker) Next(ctx context.Context) (runner.Lease, bool) {
	for ctx.Err() == nil {
		w.p.mu.Lock()
		open := 0
		for _, n := range sortedShards(w.p.shards) {
			s := w.p.shards[n]
			if s.mark.Done {
				continue
			}
			open++
			if s.owner == nil {
				s.asked = false
				s.owner, s.lost, s.split = w, make(chan struct{}), make(chan struct{}, 1)
				l := w.lease(s)
				w.p.mu.Unlock()
				return l, true
			}
		}
		w.p.mu.Unlock()
		if open == 0 {
			return runner.Lease{}, false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return runner.Lease{}, false
}

func sortedShards(m map[int]*poolShard) []int {
	var all []int
	for n := range m {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

func (w *poolWorker) lease(s *poolShard) runner.Lease {
	lost := s.lost
	mine := func() bool { return s.owner == w && s.lost == lost }
	return runner.Lease{
		Shard: s.Shard, From: s.mark, Lost: lost, Split: s.split,
		Hold: func(ctx context.Context) error {
			for {
				w.p.mu.Lock()
				unsure, own := time.Now().Before(w.until), mine()
				w.p.mu.Unlock()
				switch {
				case !own:
					return runner.ErrLost
				case !unsure:
					return nil
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(5 * time.Millisecond):
				}
			}
		},
		Done: func(c checkpoints.Checkpoint, err error) {
			w.p.mu.Lock()
			defer w.p.mu.Unlock()
			if err != nil && !errors.Is(err, runner.ErrLost) {
				panic(fmt.Sprintf("shard %d: %v", s.N, err))
			}
			if mine() {
				s.owner = nil
			}
		},
		Cut: func(_ context.Context, head, rest jobs.Shard) error {
			w.p.mu.Lock()
			defer w.p.mu.Unlock()
			if !mine() {
				return runner.ErrLost
			}
			if w.p.r.IntN(4) == 0 {
				return errors.New("not now")
			}
			w.p.cut++
			rest.N = w.p.total
			w.p.total++
			s.Shard = head
			w.p.shards[rest.N] = &poolShard{Shard: rest, mark: checkpoints.Checkpoint{Shard: rest.N}}
			return nil
		},
		Whole: func() {
			w.p.mu.Lock()
			s.whole = true
			w.p.mu.Unlock()
		},
	}
}

func (w *poolWorker) Load(context.Context) (map[int]checkpoints.Checkpoint, checkpoints.Totals, error) {
	panic("a worker reads no other's shards")
}

func (w *poolWorker) Save(_ context.Context, changed []checkpoints.Checkpoint, _ checkpoints.Totals) error {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if w.p.r.IntN(10) == 0 {
		return errors.New("no connection")
	}
	var fenced []int
	for _, c := range changed {
		s := w.p.shards[c.Shard]
		if s.owner != w {
			fenced = append(fenced, c.Shard)
			continue
		}
		s.mark = c
	}
	if len(fenced) > 0 {
		w.p.fenced += len(fenced)
		return &checkpoints.FencedError{Shards: fenced}
	}
	return nil
}

// trouble takes a shard from its owner, leaves an owner unsure, or asks for a cut.
func (p *shardPool) trouble() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var held []*poolShard
	for _, n := range sortedShards(p.shards) {
		if s := p.shards[n]; s.owner != nil && !s.mark.Done {
			held = append(held, s)
		}
	}
	if len(held) == 0 {
		return
	}
	s := held[p.r.IntN(len(held))]
	switch p.r.IntN(12) {
	case 0:
		if !s.asked {
			close(s.lost)
		}
		s.owner, s.lost = nil, nil
		p.stolen++
	case 1, 2: // what it settled until then is still saved
		if !s.asked {
			s.asked = true
			close(s.lost)
			p.asked++
		}
	case 3, 4, 5, 6, 7:
		s.owner.until = time.Now().Add(time.Duration(p.r.IntN(50)) * time.Millisecond)
		p.unsure++
	default:
		select {
		case s.split <- struct{}{}:
		default:
		}
	}
}

// Several runners share a run's shards, which are taken from them, cut and left unsure all the while: every document is moved, the
// shards tile the file, and the books close.
func TestRunnersShareShards(t *testing.T) {
	t.Parallel()
	r := seed(t)
	const docs, workers = 60_000, 3
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: r.Uint64()})
	f := newFleet(t, 2)
	loaded, err := jobfile.Load(job(t, "shared", file, "shared", f.addrs(), "limits: {rows: 30000}"))
	must(t, err)
	config := func() runner.Config {
		return runner.Config{
			Job: loaded.Job(), StateDir: t.TempDir(), Budgets: t.TempDir(), Shards: 2,
			Discover: func(ctx context.Context, update func([]hbase.Endpoint)) error {
				var eps []hbase.Endpoint
				for _, s := range f.servers {
					eps = append(eps, hbase.Endpoint{Addr: s.Addr()})
				}
				update(eps)
				<-ctx.Done()
				return nil
			},
		}
	}
	const after = 4_000_000_000_000
	plan, text, err := runner.MakePlan(t.Context(), config(), after)
	must(t, err)
	if plan.Timestamp != after+1 {
		t.Errorf("timestamp %d, want one above the last plan's, %d", plan.Timestamp, int64(after))
	}
	p := &shardPool{r: r, shards: map[int]*poolShard{}, total: len(plan.Layout.Shards)}
	for _, s := range plan.Layout.Shards {
		p.shards[s.N] = &poolShard{Shard: s, mark: checkpoints.Checkpoint{Shard: s.N}}
	}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	for range workers {
		w := &poolWorker{p: p}
		wg.Go(func() {
			if err := runner.Work(t.Context(), config(), runner.Pooled{Run: "r1", Plan: text, Store: w, Leases: w}); err != nil {
				t.Errorf("a worker: %v", err)
			}
		})
	}
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(80 * time.Millisecond):
				p.trouble()
			}
		}
	}()
	wg.Wait()
	close(ended)
	var sum checkpoints.Counts
	var all []*poolShard
	for _, s := range p.shards {
		for _, c := range s.mark.Tables {
			sum.Add(c)
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *poolShard) int {
		var x, y int64
		fmt.Sscan(string(a.Start), &x)
		fmt.Sscan(string(b.Start), &y)
		return cmp.Compare(x, y)
	})
	for i, s := range all {
		if i > 0 && all[i-1].End != s.Start {
			data, _ := json.Marshal(s.Shard)
			t.Errorf("what ends at %q is not followed by %s", all[i-1].End, data)
		}
	}
	if sum.Read != docs || sum.Written != docs || !sum.Balanced() {
		t.Errorf("the books say %+v, want %d documents written", sum, docs)
	}
	f.equal(t, "shared", file, plan.Timestamp, nil)
	t.Logf("%d shards taken away, %d asked back, %d times unsure, %d cuts, %d saves refused, %d shards in the end", p.stolen, p.asked, p.unsure, p.cut, p.fenced, len(all))
	if p.stolen == 0 || p.asked == 0 || p.unsure == 0 || p.cut == 0 {
		t.Error("nothing happened")
	}
}
