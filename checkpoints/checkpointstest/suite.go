// Package checkpointstest is what every checkpoints.Store must do, as a test.
package checkpointstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/checkpoints"
)

// Run checks a kind of store. open opens the same, at first empty, store each time it is called within one t, as the next
// process of the same run would.
func Run(t *testing.T, open func(t *testing.T) checkpoints.Store) {
	for name, f := range map[string]func(t *testing.T, reopen func() checkpoints.Store){
		"Empty": empty, "Durable": durable, "Copies": copies, "Many": many, "Cancelled": cancelled, "AtOnce": atOnce,
	} {
		t.Run(name, func(t *testing.T) { f(t, func() checkpoints.Store { return open(t) }) })
	}
}

func point(shard int, cursor string) checkpoints.Checkpoint {
	n := int64(shard + 1)
	return checkpoints.Checkpoint{Shard: shard, Cursor: cursor, Tables: map[string]checkpoints.Counts{
		"ns:ships": {Read: 3 * n, Written: n, Filtered: n, Dead: n, Rows: n, Cells: 9 * n, Bytes: 100 * n},
		"":         {},
	}}
}

func save(t *testing.T, s checkpoints.Store, totals checkpoints.Totals, changed ...checkpoints.Checkpoint) {
	t.Helper()
	if err := s.Save(context.Background(), changed, totals); err != nil {
		t.Fatalf("save: %v", err)
	}
}

func expect(t *testing.T, s checkpoints.Store, totals checkpoints.Totals, want ...checkpoints.Checkpoint) {
	t.Helper()
	have, haveTotals, err := s.Load(context.Background())
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	if have == nil {
		t.Fatal("load gave no map")
	}
	wanted := map[int]checkpoints.Checkpoint{}
	for _, c := range want {
		wanted[c.Shard] = c
	}
	if d := cmp.Diff(wanted, have); d != "" {
		t.Fatalf("checkpoints, - wanted + loaded:\n%s", d)
	}
	if totals != haveTotals {
		t.Fatalf("totals %+v, want %+v", haveTotals, totals)
	}
}

func empty(t *testing.T, reopen func() checkpoints.Store) {
	expect(t, reopen(), checkpoints.Totals{})
	save(t, reopen(), checkpoints.Totals{})
	expect(t, reopen(), checkpoints.Totals{})
}

func durable(t *testing.T, reopen func() checkpoints.Store) {
	first := checkpoints.Totals{Retries: 4, Limited: 3*time.Second + 1, Resumed: 1}
	save(t, reopen(), first, point(0, "100"), point(7, "a\"\n\x00é"))
	expect(t, reopen(), first, point(0, "100"), point(7, "a\"\n\x00é"))

	// A save changes what it names and nothing else, and the newest wins.
	s := reopen()
	done := point(0, "")
	done.Done = true
	second := checkpoints.Totals{Retries: 5, Limited: 4 * time.Second, Resumed: 2}
	save(t, s, second, done, point(3, "1"))
	save(t, s, second, point(3, "2"))
	for _, s := range []checkpoints.Store{s, reopen()} {
		expect(t, s, second, done, point(3, "2"), point(7, "a\"\n\x00é"))
	}
}

func copies(t *testing.T, reopen func() checkpoints.Store) {
	s := reopen()
	given := []checkpoints.Checkpoint{point(1, "x")}
	save(t, s, checkpoints.Totals{}, given...)
	clear(given[0].Tables)
	given[0].Cursor = "y"
	expect(t, s, checkpoints.Totals{}, point(1, "x"))
	loaded, _, err := s.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(loaded[1].Tables, func(string, checkpoints.Counts) bool { return true })
	clear(loaded)
	expect(t, s, checkpoints.Totals{}, point(1, "x"))
	save(t, s, checkpoints.Totals{}, point(2, "z"))
	expect(t, reopen(), checkpoints.Totals{}, point(1, "x"), point(2, "z"))
}

func many(t *testing.T, reopen func() checkpoints.Store) {
	var all []checkpoints.Checkpoint
	for n := range 1000 {
		all = append(all, point(n, fmt.Sprint(n*1000)))
	}
	save(t, reopen(), checkpoints.Totals{}, all...)
	expect(t, reopen(), checkpoints.Totals{}, all...)
}

func cancelled(t *testing.T, reopen func() checkpoints.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := reopen()
	if err := s.Save(ctx, []checkpoints.Checkpoint{point(1, "x")}, checkpoints.Totals{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("save with a cancelled context: %v", err)
	}
	save(t, s, checkpoints.Totals{Retries: 1}, point(1, "x"))
	expect(t, reopen(), checkpoints.Totals{Retries: 1}, point(1, "x"))
}

func atOnce(t *testing.T, reopen func() checkpoints.Store) {
	s := reopen()
	var wg sync.WaitGroup
	var want []checkpoints.Checkpoint
	for shard := range 8 {
		want = append(want, point(shard, "9"))
		wg.Go(func() {
			for i := range 10 {
				if err := s.Save(context.Background(), []checkpoints.Checkpoint{point(shard, fmt.Sprint(i))}, checkpoints.Totals{}); err != nil {
					t.Errorf("save: %v", err)
				}
				if _, _, err := s.Load(context.Background()); err != nil {
					t.Errorf("load: %v", err)
				}
			}
		})
	}
	wg.Wait()
	expect(t, reopen(), checkpoints.Totals{}, want...)
}
