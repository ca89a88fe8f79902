package runner

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"drover/checkpoints"
)

// How much may have to be done again after a crash: what is acknowledged in this time, or this much.
const (
	saveEvery = 2 * time.Second
	saveBytes = 64 << 20
	// saveFirst is how soon the first watermark of a shard that was taken is saved where other processes share the run: it shows that the
	// shard is in good hands, and whoever has to take it next begins behind what may have been done twice. The wait lets shards
	// that came together be saved together.
	saveFirst = 100 * time.Millisecond
)

// saver makes watermarks durable, for all shards of the process together: one write serves them all.
type saver struct {
	store   checkpoints.Store
	letters func() error // makes every dead letter written so far durable
	totals  func() checkpoints.Totals
	mon     *Monitor

	// shared says that other processes save shards of the same run: one whose right went to another is fenced, alone.
	shared bool
	// every is how far apart saves are, nil for saveEvery: many processes share what keeps them.
	every func() time.Duration

	mu      sync.Mutex
	pending map[int]checkpoints.Checkpoint
	latest  map[int]checkpoints.Checkpoint // what was offered last, for progress
	saved   map[int]checkpoints.Checkpoint // what is durable; of shared stores only
	fresh   map[int]bool                   // taken, and nothing offered yet; of shared stores only
	bytes   int64
	dead    int64 // that the store was told of

	kick   chan struct{}
	first  chan struct{} // a fresh shard has something to save
	saving sync.Mutex
}

func newSaver(store checkpoints.Store, loaded map[int]checkpoints.Checkpoint) *saver {
	return &saver{
		store: store, pending: map[int]checkpoints.Checkpoint{}, latest: maps.Clone(loaded), saved: map[int]checkpoints.Checkpoint{},
		fresh: map[int]bool{}, kick: make(chan struct{}, 1), first: make(chan struct{}, 1),
	}
}

// offer hands over a shard's newest watermark. Every letter that it covers was written before.
func (s *saver) offer(c checkpoints.Checkpoint, bytes int64) {
	// Where saves are far apart, an ended shard does not wait for the next: its worker could have another one meanwhile.
	ended := c.Done && s.every != nil && s.every() > saveEvery
	s.mu.Lock()
	s.pending[c.Shard] = c
	s.latest[c.Shard] = c
	s.bytes += bytes
	due, first := s.bytes >= saveBytes || ended, s.fresh[c.Shard]
	delete(s.fresh, c.Shard)
	s.mu.Unlock()
	if due {
		poke(s.kick)
	}
	if first {
		poke(s.first)
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take begins with a shard, from where it stands.
func (s *saver) take(c checkpoints.Checkpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, c.Shard)
	s.saved[c.Shard], s.latest[c.Shard] = c, c
	s.fresh[c.Shard] = true
}

// leave ends with a shard: what was offered and not saved is forgotten. It gives what is durable of it.
func (s *saver) leave(shard int) checkpoints.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, shard)
	delete(s.fresh, shard)
	c := s.saved[shard]
	delete(s.saved, shard)
	s.latest[shard] = c // whoever goes on with it goes on from there
	return c
}

// told is how many dead letters of this process the store knows of.
func (s *saver) told() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// durable tells whether all that was offered of a shard is.
func (s *saver) durable(shard int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, waits := s.pending[shard]
	return !waits
}

// save makes everything offered so far durable. After an error nothing more is saved by this process, unless the store is shared.
func (s *saver) save(ctx context.Context) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	changed := slices.SortedFunc(maps.Values(s.pending), func(a, b checkpoints.Checkpoint) int { return a.Shard - b.Shard })
	if !s.shared {
		clear(s.pending)
	}
	s.bytes = 0
	s.mu.Unlock()
	began := time.Now()
	defer func() { s.mon.waited(WaitCheckpoint, time.Since(began)) }()
	err := s.letters()
	totals := s.totals()
	if err == nil {
		err = s.store.Save(ctx, changed, totals)
	}
	if s.shared {
		s.settle(changed, totals, err)
	}
	return err
}

// settle takes what became of a save in a shared store. What could not be saved stays offered, and what was offered anew meanwhile;
// what may not be saved here any more is dropped.
func (s *saver) settle(changed []checkpoints.Checkpoint, totals checkpoints.Totals, err error) {
	fenced, some := errors.AsType[*checkpoints.FencedError](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !some {
		return
	}
	s.dead = totals.Dead
	for _, c := range changed {
		if some && slices.Contains(fenced.Shards, c.Shard) {
			delete(s.pending, c.Shard)
			continue
		}
		if _, held := s.saved[c.Shard]; held {
			s.saved[c.Shard] = c
		}
		if reflect.DeepEqual(s.pending[c.Shard], c) {
			delete(s.pending, c.Shard)
		}
	}
}

// loop saves until ctx ends, and gives the first error to fail.
func (s *saver) loop(ctx context.Context, fail func(error)) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-tick.C:
			if s.every != nil && time.Since(last) < s.every()-saveEvery/2 {
				continue
			}
		case <-s.kick:
		case <-s.first:
			select {
			case <-time.After(saveFirst):
			case <-s.kick:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		idle := len(s.pending) == 0
		s.mu.Unlock()
		if idle {
			continue
		}
		last = time.Now()
		// ctx ends the loop when the last shard is done, and not a save under way: that would end a finished run as stopped.
		if err := s.save(context.WithoutCancel(ctx)); err != nil && !s.passes(err) {
			fail(err)
			return
		}
	}
}

// passes tells of an error that only says that it has to be tried again later, or that a shard went to another process.
func (s *saver) passes(err error) bool {
	return s.shared && !errors.Is(err, checkpoints.ErrGone)
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
