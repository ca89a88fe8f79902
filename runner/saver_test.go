package runner

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"drover/checkpoints"
)

// slowStore saves when it is let, and remembers what it was given.
type slowStore struct {
	begun, let chan struct{}
	saved      []checkpoints.Checkpoint
}

func (s *slowStore) Load(context.Context) (map[int]checkpoints.Checkpoint, checkpoints.Totals, error) {
	return nil, checkpoints.Totals{}, nil
}

func (s *slowStore) Save(ctx context.Context, changed []checkpoints.Checkpoint, _ checkpoints.Totals) error {
	s.begun <- struct{}{}
	<-s.let
	if err := ctx.Err(); err != nil {
		return err
	}
	s.saved = append(s.saved, changed...)
	return nil
}

// The loop ends with the last shard. A save that is under way then is carried through: once it was cancelled, lost what it
// held, and a finished run ended as stopped.
func TestSaveUnderWayOutlivesTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{begun: make(chan struct{}), let: make(chan struct{})}
		s := newSaver(store, nil)
		s.latest = map[int]checkpoints.Checkpoint{}
		s.mon, s.letters, s.totals = &Monitor{}, func() error { return nil }, func() checkpoints.Totals { return checkpoints.Totals{} }
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			s.loop(ctx, func(err error) { t.Errorf("the loop failed: %v", err) })
			close(ended)
		}()
		s.offer(checkpoints.Checkpoint{Shard: 3, Done: true}, saveBytes)
		<-store.begun
		stop()
		synctest.Wait()
		close(store.let)
		<-ended
		if len(store.saved) != 1 || store.saved[0].Shard != 3 {
			t.Fatalf("saved %v", store.saved)
		}
	})
}

// Of a shard that was taken from another process something is saved soon, once: what was done of it since the other's last save is
// then done a second time, and not a third.
func TestFirstWatermarkOfATakenShardIsSavedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{begun: make(chan struct{}, 10), let: make(chan struct{})}
		close(store.let)
		s := newSaver(store, nil)
		s.shared = true
		s.latest = map[int]checkpoints.Checkpoint{}
		s.mon, s.letters, s.totals = &Monitor{}, func() error { return nil }, func() checkpoints.Totals { return checkpoints.Totals{} }
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			s.loop(ctx, func(err error) { t.Errorf("the loop failed: %v", err) })
			close(ended)
		}()
		s.take(checkpoints.Checkpoint{Shard: 1, Cursor: "a"})
		s.take(checkpoints.Checkpoint{Shard: 2, Cursor: "a"})
		s.offer(checkpoints.Checkpoint{Shard: 1, Cursor: "b"}, 1)
		s.offer(checkpoints.Checkpoint{Shard: 2, Cursor: "b"}, 1)
		time.Sleep(saveFirst + time.Millisecond)
		synctest.Wait()
		if len(store.saved) != 2 || len(store.begun) != 1 {
			t.Errorf("%v later %d saves had %v, want one of both shards", saveFirst, len(store.begun), store.saved)
		}
		s.offer(checkpoints.Checkpoint{Shard: 1, Cursor: "c"}, 1)
		time.Sleep(2 * saveFirst)
		if len(store.begun) != 1 {
			t.Error("what came behind the first was saved before its time")
		}
		time.Sleep(saveEvery)
		synctest.Wait()
		if len(store.saved) != 3 {
			t.Errorf("saved %v, want what came behind the first too", store.saved)
		}
		stop()
		<-ended
	})
}

// Of a large pool, a process saves as seldom as it is told, but for the end of a shard, which is saved at once.
func TestSavesAreAsFarApartAsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{begun: make(chan struct{}, 100), let: make(chan struct{})}
		close(store.let)
		s := newSaver(store, nil)
		s.latest, s.shared, s.saved = map[int]checkpoints.Checkpoint{}, true, map[int]checkpoints.Checkpoint{}
		s.every = func() time.Duration { return 10 * time.Second }
		s.mon, s.letters, s.totals = &Monitor{}, func() error { return nil }, func() checkpoints.Totals { return checkpoints.Totals{} }
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			s.loop(ctx, func(err error) { t.Errorf("the loop failed: %v", err) })
			close(ended)
		}()
		for n := range 60 {
			time.Sleep(time.Second)
			s.offer(checkpoints.Checkpoint{Shard: 1, Cursor: strconv.Itoa(n)}, 1)
		}
		synctest.Wait() // the last second is one of a save too
		if n := len(store.begun); n < 5 || n > 6 {
			t.Errorf("%d saves in a minute, one every ten seconds was wanted", n)
		}
		before := len(store.begun)
		s.offer(checkpoints.Checkpoint{Shard: 1, Done: true}, 1)
		synctest.Wait()
		if n := len(store.begun); n != before+1 {
			t.Errorf("%d saves at the end of a shard, want one", n-before)
		}
		stop()
		<-ended
	})
}
