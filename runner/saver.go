package runner

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"drover/checkpoints"
)

// How much may have to be done again after a crash: what is acknowledged in this time, or this much.
const (
	saveEvery = 2 * time.Second
	saveBytes = 64 << 20
)

// saver makes watermarks durable, for all shards of the process together: one write serves them all.
type saver struct {
	store   checkpoints.Store
	letters func() error // makes every dead letter written so far durable
	totals  func() checkpoints.Totals
	mon     *Monitor

	mu      sync.Mutex
	pending map[int]checkpoints.Checkpoint
	latest  map[int]checkpoints.Checkpoint // what was offered last, for progress
	bytes   int64

	kick   chan struct{}
	saving sync.Mutex
}

func newSaver(store checkpoints.Store, loaded map[int]checkpoints.Checkpoint) *saver {
	return &saver{
		store: store, pending: map[int]checkpoints.Checkpoint{}, latest: maps.Clone(loaded),
		kick: make(chan struct{}, 1),
	}
}

// offer hands over a shard's newest watermark. Every letter that it covers was written before.
func (s *saver) offer(c checkpoints.Checkpoint, bytes int64) {
	s.mu.Lock()
	s.pending[c.Shard] = c
	s.latest[c.Shard] = c
	s.bytes += bytes
	due := s.bytes >= saveBytes
	s.mu.Unlock()
	if due {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

// save makes everything offered so far durable. After an error nothing more is saved by this process.
func (s *saver) save(ctx context.Context) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	changed := slices.SortedFunc(maps.Values(s.pending), func(a, b checkpoints.Checkpoint) int { return a.Shard - b.Shard })
	clear(s.pending)
	s.bytes = 0
	s.mu.Unlock()
	began := time.Now()
	defer func() { s.mon.waited(WaitCheckpoint, time.Since(began)) }()
	if err := s.letters(); err != nil {
		return err
	}
	return s.store.Save(ctx, changed, s.totals())
}

// loop saves until ctx ends, and gives the first error to fail.
func (s *saver) loop(ctx context.Context, fail func(error)) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.kick:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		idle := len(s.pending) == 0
		s.mu.Unlock()
		if idle {
			continue
		}
		// ctx ends the loop when the last shard is done, and not a save under way: that would end a finished run as stopped.
		if err := s.save(context.WithoutCancel(ctx)); err != nil {
			fail(err)
			return
		}
	}
}

// books sums what was offered: the settled documents of the run, with stored bytes and ended shards.
func (s *saver) books() (sum checkpoints.Counts, stored int64, ended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.latest {
		for _, t := range c.Tables {
			sum.Add(t)
		}
		stored += c.Stored
		if c.Done {
			ended++
		}
	}
	return sum, stored, ended
}

// byTable sums the books of each table.
func (s *saver) byTable() map[string]checkpoints.Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]checkpoints.Counts{}
	for _, c := range s.latest {
		for name, t := range c.Tables {
			sum := out[name]
			sum.Add(t)
			out[name] = sum
		}
	}
	return out
}
