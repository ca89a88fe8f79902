package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"drover/checkpoints"
	"drover/jobs"
)

// Splitting is for the end of a run, or for one with fewer shards than the pool has room: those who would idle get a part of
// what others still have before them. The leader asks in the owner's order, the owner chooses where, because only it knows
// what it has read, and makes the new shard in one write (checkpoints.Cut). Nothing follows from an ask: one that is lost,
// repeated, or obeyed when nobody wants it any more costs a shard that is smaller than it had to be.
const (
	// splitEvery is how often the leader looks whom to ask.
	splitEvery = time.Second
	// splitsPerSecond and splitBurst bound the asks. Each split is seen by everybody who works on the run, and two splits of
	// one run at once make one of the owners try again. A pool of a thousand has all it can use from one shard in three minutes.
	splitsPerSecond = 5
	splitBurst      = 10
	// leastLeft is what a shard must have left, in bytes as stored, to be worth the ask. A new shard costs an order, a write to
	// everybody's watch, an opening of the source and a checkpoint, together a second or two, in which one worker moves about as
	// much. And a rate may be unknown, or so low because of a limit that splitting gains nothing; then this ends it.
	leastLeft = 8 << 20
	// leastTime is how long that must take at the rate that was seen: half of it is to be well above those two seconds.
	leastTime = 10 * time.Second
	// rateOver is the least time over which a rate is taken. Checkpoints are seconds apart.
	rateOver = 5 * time.Second
	// freshFor is how long it counts what was read of a shard. Nothing is left of it but less, so what is older is a bound.
	freshFor = 5 * time.Second
	// marksPerLook bounds how many checkpoints the leader reads for that in a look.
	marksPerLook = 16
)

// askFor is how long an owner has to answer before another is asked instead.
func askFor(timeout time.Duration) time.Duration { return max(2*timeout, 10*time.Second) }

// extent is what the leader knows of how much a shard has left, as of when it read its checkpoint.
type extent struct {
	bytes, stored int64 // of the source, as stored: all, and behind the watermark
	at            time.Duration
	known         bool
	reading       bool

	rate   float64 // bytes a second; 0 is unknown
	rated  bool
	from   int64         // stored when the rate was begun to be taken
	fromAt time.Duration // when that was
}

// saw takes a checkpoint.
func (e *extent) saw(m checkpoints.Mark, now time.Duration) {
	var s jobs.Shard
	if json.Unmarshal(m.Shard, &s) != nil {
		return // whoever works on it says so
	}
	stored := int64(0)
	if m.Checkpoint != nil {
		stored = m.Checkpoint.Stored
	}
	if !e.known {
		e.from, e.fromAt = stored, now
	}
	e.bytes, e.stored, e.at, e.known = s.Bytes, stored, now, true
	if now-e.fromAt >= rateOver {
		e.rate, e.rated = float64(stored-e.from)/(now-e.fromAt).Seconds(), true
		e.from, e.fromAt = stored, now
	}
}

// begin is when somebody else begins to work on it.
func (e *extent) begin(now time.Duration) {
	e.from, e.fromAt, e.rated = e.stored, now, false
}

// left is how many bytes there are still to move; 0 when it is not known. A source's sizes are estimates: a shard that has
// more than was thought is thought to have an eighth more, and its owner knows better.
func (e *extent) left() int64 {
	switch {
	case e.stored >= e.bytes:
		return e.stored / 8
	default:
		return e.bytes - e.stored
	}
}

// worth tells whether what is left is worth a split.
func (e *extent) worth() bool {
	left := e.left()
	return left >= leastLeft && !(e.rated && float64(left) < e.rate*leastTime.Seconds())
}

// split asks owners to split their shards, when there are members with room for which there is nothing else: those of the most
// urgent runs and with most left, one for each place that is free, less those that were asked and have not answered. seats
// are the members as they stand before given takes effect.
func (l *leader) split(seats []seat, given map[*shardState]int) {
	if l.now-l.splitAt < splitEvery {
		return
	}
	l.asks = min(splitBurst, l.asks+splitsPerSecond*(l.now-l.splitAt).Seconds())
	l.splitAt = l.now
	idle, room := make([]int, len(seats)), 0
	for i, s := range seats {
		idle[i] = max(0, s.capacity-len(s.has))
		room += idle[i]
	}
	take := func(i int) {
		idle[i]--
		room--
	}
	// fill takes the emptiest place where a shard of a run fits, if there is one.
	fill := func(r *runState) bool {
		best := -1
		for i, s := range seats {
			if idle[i] > 0 && fits(s.labels, r.record.Spec.Needs) && (best < 0 || idle[i] > idle[best]) {
				best = i
			}
		}
		if best >= 0 {
			take(best)
		}
		return best >= 0
	}
	if room == 0 {
		return
	}
	var list []*shardState
	for _, k := range slices.SortedFunc(maps.Keys(l.runs), compareRuns) {
		r := l.runs[k]
		switch {
		case r.record.State != Running:
			continue
		case !r.known || !r.listed || r.reading > 0:
			return // what there is to do is not known yet
		}
		for _, s := range r.shards {
			if s.done {
				continue
			}
			seat, gets := given[s]
			m := l.members[s.owner]
			switch {
			case gets:
				take(seat)
			case s.owner == "" || m == nil || !m.present || s.back || s.busy:
				fill(r) // it goes to somebody soon
			case s.ask != 0 && l.now-s.asked < askFor(l.timeout):
				fill(r)
			case s.ask != 0: // the owner may be at it still, which harms nobody
				s.ask, s.asked = 0, l.now
				m.changed = true
			case !s.whole && m.fault == nil && s.extent.worth() && (s.asked == 0 || l.now-s.asked >= askFor(l.timeout)):
				list = append(list, s)
			}
		}
	}
	if room <= 0 {
		return
	}
	slices.SortStableFunc(list, func(a, b *shardState) int {
		return cmp.Or(cmp.Compare(a.run.record.Spec.Class, b.run.record.Spec.Class), cmp.Compare(b.extent.left(), a.extent.left()))
	})
	reads := marksPerLook
	for _, s := range list {
		if room <= 0 || reads == 0 {
			return
		}
		if !fill(s.run) {
			continue
		}
		// The place is kept for it also when it has to be looked at first: those behind it have less left.
		switch {
		case s.extent.reading:
		case l.now-s.extent.at > freshFor:
			reads--
			l.look(s)
		case l.asks >= 1:
			l.asks--
			m := l.members[s.owner]
			s.ask, s.asked = m.order.Rev+1, l.now
			m.changed = true
		}
	}
}

// look reads a shard's checkpoint again.
func (l *leader) look(s *shardState) {
	s.extent.reading = true
	at := s.run.at
	l.get(shardKey{at, s.n}.markPath(), false, func(n node) {
		if s.extent.reading = false; l.over || s.run.at != at {
			return
		}
		if m, err := checkpoints.DecodeMark(n.data); n.exists && err == nil {
			s.extent.saw(m, l.now)
		}
	})
}

// answers takes what a member says to asks.
func (l *leader) answers(m *member) {
	for _, x := range m.beat.Asked {
		s := m.has[shardKey{x.At, x.N}]
		if s == nil || s.epoch != x.Epoch {
			continue
		}
		s.whole = s.whole || x.Whole
		if s.ask != 0 && (x.Whole || x.Ask == s.ask) {
			s.ask, s.asked = 0, 0
			s.extent.at = -freshFor // it is another shard now
			m.changed = true
		}
	}
}

// grow counts a run's shards one up, for a split under an attempt. It refuses when the attempt is not the run's any more, so
// that nobody who still has an old one, such as from before a restore, changes the new one.
func grow(path, attempt string, data []byte, write string) (grown []byte, n int, err error) {
	rec, err := decode[runRecord](path, data)
	switch {
	case err != nil:
		return nil, 0, err
	case rec.Attempt != base(attempt) || rec.State.final():
		return nil, 0, ErrLost
	case rec.State != Running:
		return nil, 0, fmt.Errorf("%s is %s", path, rec.State)
	}
	n = rec.Shards
	rec.Shards++
	rec.Write = write
	return encode(rec), n, nil
}

// cutParts gives what a cut makes of a shard, whose bounds have to be those of head and rest together.
func cutParts(have json.RawMessage, head, rest jobs.Shard, n int) (h, r json.RawMessage, err error) {
	var s jobs.Shard
	if err := json.Unmarshal(have, &s); err != nil {
		return nil, nil, fmt.Errorf("read the bounds of shard %d: %w", head.N, err)
	}
	if s.N != head.N || s.Start != head.Start || s.End != rest.End || s.Database != rest.Database || s.Collection != rest.Collection {
		return nil, nil, ErrLost // it was cut before
	}
	rest.N = n
	return encode(head), encode(rest), nil
}

// cuttable tells what is wrong with a cut of a shard, for whoever made it.
func cuttable(s, head, rest jobs.Shard) error {
	m := head.End
	switch {
	case head.N != s.N || head.Start != s.Start || rest.Start != m || rest.End != s.End:
		return fmt.Errorf("cut shard %d, %q to %q: %q to %q and %q to %q are not its parts", s.N, s.Start, s.End, head.Start, head.End, rest.Start, rest.End)
	case m == "" || m == s.Start || m == s.End:
		return fmt.Errorf("cut shard %d, %q to %q, at %q: a part is empty", s.N, s.Start, s.End, m)
	}
	return nil
}
