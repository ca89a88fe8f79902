package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/checkpoints"
	"drover/checkpoints/checkpointstest"
	"drover/zookeeper"
)

// The store in ZooKeeper is held to the suite of all stores, also when every few answers are lost, of writes that happened
// and of ones that did not.
func TestZooKeeperStore(t *testing.T) {
	beside(t)
	e := ensemble(t, 1)
	z := open(t, e, zookeeper.Config{SessionTimeout: 5 * time.Second})
	must(t, z.Wait(t.Context()))
	rnd := seed(t)
	attempts := map[string]string{}
	staged := func(t *testing.T) string {
		if at := attempts[t.Name()]; at != "" {
			return at
		}
		at := fmt.Sprintf("/store/%d", len(attempts))
		attempts[t.Name()] = at
		stageShards(t, z.Client, at, 1000)
		return at
	}
	mine := func(int) (int32, bool) { return 0, true }
	t.Run("plain", func(t *testing.T) {
		checkpointstest.Run(t, func(t *testing.T) checkpoints.Store {
			return checkpoints.OpenZooKeeper(z.Client, staged(t), "w", mine)
		})
	})
	t.Run("ambiguous", func(t *testing.T) {
		a := &ambiguous{Client: z.Client, rnd: rnd}
		checkpointstest.Run(t, func(t *testing.T) checkpoints.Store { return checkpoints.OpenZooKeeper(a, staged(t), "w", mine) })
		t.Logf("answers lost: %d of writes that happened, %d of others", a.after, a.before)
		if a.after == 0 || a.before == 0 {
			t.Error("no answer was lost")
		}
	})
}

// Of several shards in one save, those whose right is gone are named and nothing of them is written; the others are.
func TestZooKeeperStoreFences(t *testing.T) {
	e := ensemble(t, 1)
	z := open(t, e, zookeeper.Config{SessionTimeout: 5 * time.Second})
	must(t, z.Wait(t.Context()))
	const at = "/fence"
	stageShards(t, z.Client, at, 10)
	epochs := map[int]int32{}
	s := checkpoints.OpenZooKeeper(z.Client, at, "w", func(n int) (int32, bool) { v, none := epochs[n]; return v, !none || v >= 0 })
	save := func(cursor string) error {
		var all []checkpoints.Checkpoint
		for n := range 10 {
			all = append(all, checkpoints.Checkpoint{Shard: n, Cursor: cursor})
		}
		return s.Save(t.Context(), all, checkpoints.Totals{})
	}
	must(t, save("1"))
	// 3 and 7 are handed to somebody else; 5 was never this process's.
	for _, n := range []int{3, 7} {
		_, err := z.Set(t.Context(), checkpoints.EpochPath(at, n), []byte("other"), 0)
		must(t, err)
	}
	epochs[5] = -1
	err := save("2")
	fenced, ok := errors.AsType[*checkpoints.FencedError](err)
	if !ok || fmt.Sprint(fenced.Shards) != "[3 5 7]" {
		t.Fatalf("save: %v", err)
	}
	have, _, err := s.Load(t.Context())
	must(t, err)
	for n := range 10 {
		want := "2"
		if n == 3 || n == 5 || n == 7 {
			want = "1"
		}
		if have[n].Cursor != want {
			t.Errorf("shard %d: %q, want %q", n, have[n].Cursor, want)
		}
	}
	// A run whose nodes are gone is another matter than one that another has.
	must(t, z.Delete(t.Context(), checkpoints.MarkPath(at, 1), zookeeper.AnyVersion))
	if err := save("3"); !errors.Is(err, checkpoints.ErrGone) {
		t.Errorf("save without its node: %v", err)
	}
}

// ambiguous loses the answers of writes.
type ambiguous struct {
	*zookeeper.Client
	mu            sync.Mutex
	rnd           *rand.Rand
	before, after int
}

func (a *ambiguous) Multi(ctx context.Context, list ...zookeeper.Op) ([]zookeeper.Result, error) {
	a.mu.Lock()
	n := a.rnd.IntN(4)
	if n == 0 {
		a.before++
	}
	a.mu.Unlock()
	if n == 0 && len(list) > 1 {
		return nil, fmt.Errorf("lost: %w", zookeeper.ErrUnknown)
	}
	r, err := a.Client.Multi(ctx, list...)
	if n == 1 && len(list) > 1 && err == nil {
		a.mu.Lock()
		a.after++
		a.mu.Unlock()
		return nil, fmt.Errorf("lost: %w", zookeeper.ErrUnknown)
	}
	return r, err
}

func stageShards(t *testing.T, z *zookeeper.Client, at string, n int) {
	t.Helper()
	must(t, z.CreateAll(t.Context(), at[:max(1, strings.LastIndexByte(at, '/'))]))
	shards, ends := make([]json.RawMessage, n), make([]string, n)
	for i := range shards {
		shards[i], ends[i] = json.RawMessage(`{"n":`+strconv.Itoa(i)+`}`), ""
	}
	var ops []zookeeper.Op
	for _, s := range checkpoints.Stage(at, shards, ends) {
		ops = append(ops, zookeeper.CreateOp(s.Path, s.Data))
	}
	for len(ops) > 0 {
		k := min(len(ops), 500)
		_, err := z.Multi(t.Context(), ops[:k]...)
		must(t, err)
		ops = ops[k:]
	}
}
