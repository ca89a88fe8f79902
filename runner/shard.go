package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"drover/checkpoints"
	"drover/hbase"
	"drover/jobs"
)

// How long rows may lie in an open batch. A batch older than this goes as it is, so that a region server which few rows
// belong to does not hold the watermark, and so that a reader waiting for memory gets it.
const openFor = 300 * time.Millisecond

// written, filtered and dead are the window's outcomes.
const (
	written = iota
	filtered
	dead
)

// chunkRef is a chunk in a shard's hands. Its documents are given back when all of them are settled, so that one that takes
// long keeps no more than its own chunk; its places in the window remain until the watermark has passed it.
type chunkRef struct {
	*jobs.Chunk
	lane  *lane
	left  int         // documents not settled
	done  []bool      // which are settled
	bytes int         // encoded from it
	whole int         // left may not be above half of it for the chunk to be packed
	slots int         // bytes that its places in the window take
	end   jobs.Cursor // once it is freed
	freed bool
	taken time.Time
}

// packAfter is how long a chunk is waited for before what is left of it is copied. Where nothing is stuck chunks are settled sooner.
const packAfter = 500 * time.Millisecond

// smallRows is how large the first batches are of a shard that was taken over. Several shards come at once, and all of them have to show soon
// that they are in good hands, at the part of the limit that this process has.
const smallRows = 16

// slotBytes is what a document in the window takes.
const slotBytes = 48

// place is where a document stands in its shard.
type place struct {
	chunk *chunkRef
	i     int32
}

// item is a document on its way to a gateway.
type item struct {
	seq checkpoints.Seq
	place
}

const itemBytes = 24

// flight is a batch with its documents, open, parked or sent.
type flight struct {
	lane   *lane
	group  *group
	ctx    context.Context // of its Apply: says which region server it is for
	batch  *hbase.Batch
	items  []item
	opened time.Time

	maxRows, maxBytes int // when it is full

	applied hbase.Applied
	err     error
}

// group holds what goes to one region server.
type group struct {
	open   *flight
	parked []*flight // full, waiting for flights to come back
	flying int

	valve *valve // of the server; nil when it is not known
	ctx   context.Context
}

// lane is a shard's way to one table.
type lane struct {
	table   *table
	mapper  jobs.Mapper
	regions *hbase.Regions
	region  int // of the row before: neighbours in a dump are often neighbours in the table
	groups  []*group
	last    *group // that route chose
	route   func(key []byte) *hbase.Batch
	counts  checkpoints.Counts // settled, up to the watermark
}

// shard moves one shard. All its fields belong to the goroutine in move; flights come back through landed.
type shard struct {
	run   *run
	lease Lease
	spec  jobs.Shard      // the lease's, until it is cut
	ctx   context.Context // of what is sent
	lanes map[namespace]*lane
	win   *checkpoints.Window[place]

	chunks []*chunkRef // that the watermark has not passed, oldest first
	spent  []*chunkRef // all settled, not freed yet
	cursor jobs.Cursor // the watermark
	next   jobs.Cursor // where the next chunk starts
	stored int64       // source bytes up to the watermark, by whole chunks
	part   int64       // those of the chunk that the watermark is in
	read   int64       // documents taken from the reader, plus those settled before this process

	flying, parked int
	landed         chan *flight
	err            error // the first; nothing is launched after it
	fresh          bool  // rows were appended since the last look at stale batches
	limited        bool  // the limit of documents is reached: nothing more is read
	taken          bool  // it was another process's, and nothing is settled here yet
	small          int   // batches begun meanwhile that are small
	encoded        int   // bytes encoded from the chunk in hand
	limitNanos     int64 // decayed, to tell waiting for the limit from waiting for gateways
	callNanos      int64
}

func (r *run) newShard(l Lease) *shard {
	from := l.From
	s := &shard{
		run: r, lease: l, spec: l.Shard, ctx: r.ctx, lanes: map[namespace]*lane{},
		cursor: jobs.Cursor(from.Cursor), stored: from.Stored,
		landed: make(chan *flight, r.capacity+2),
		taken:  r.shared && from.Cursor != "",
	}
	if s.cursor == "" {
		s.cursor = s.spec.Start
	}
	s.next = s.cursor
	if s.win = r.windows.Get(); s.win == nil {
		s.win = new(checkpoints.Window[place])
	}
	for _, t := range r.tables {
		c, ok := from.Tables[t.plan.Table]
		if ok {
			s.lane(t.plan.namespace()).counts = c
			s.read += c.Read
		}
	}
	return s
}

func (s *shard) lane(ns namespace) *lane {
	if l := s.lanes[ns]; l != nil {
		return l
	}
	t := s.run.tables[ns]
	if t == nil {
		return nil
	}
	l := &lane{table: t, mapper: s.run.cfg.Job.Mapping.Mapper(ns.collection, s.run.plan.Timestamp, t.plan.KeyType)}
	l.route = func(key []byte) *hbase.Batch {
		g := l.groups[0]
		if len(l.groups) > 1 {
			l.region = l.regions.Near(key, l.region)
			g = l.groups[l.regions.Of(l.region)]
		}
		if g.open == nil {
			g.open = s.run.newFlight(l, g)
			if s.taken && s.small <= len(l.groups) { // it is settled sooner
				g.open.maxRows = min(g.open.maxRows, smallRows)
				s.small++
			}
			s.fresh = true
		}
		l.last = g
		return g.open.batch
	}
	s.lanes[ns] = l
	return l
}

// feed reads a shard ahead of who takes its chunks.
type feed struct {
	chunks chan fed
	reader jobs.Reader
	stop   context.CancelFunc
	done   sync.WaitGroup
}

type fed struct {
	chunk *jobs.Chunk
	err   error
}

// openFeed reads from s.next on.
func (s *shard) openFeed(ctx context.Context) (*feed, error) {
	r := s.run
	rd, err := r.cfg.Job.Source.Open(ctx, r.mem, r.plan.Layout, s.spec, s.next)
	if err != nil {
		return nil, err
	}
	f := &feed{chunks: make(chan fed), reader: rd}
	ctx, f.stop = context.WithCancel(ctx)
	f.done.Go(func() {
		for {
			c, err := rd.Next(ctx)
			select {
			case f.chunks <- fed{c, err}:
			case <-ctx.Done():
				if c != nil {
					c.Free()
				}
				return
			}
			if err != nil {
				return
			}
		}
	})
	return f, nil
}

// close ends the reading. A chunk that was read and not taken is read again by whoever goes on.
func (f *feed) close() {
	f.stop()
	f.done.Wait()
	f.reader.Close()
}

// move carries the shard from its watermark to its end. It returns nil when everything is settled, errLimit when all that the
// limit allows is settled, errDrained when it was asked to stop, ErrLost when the right to it is gone, and otherwise what stands
// in the way; in each case the watermark was handed to the saver, nothing is in flight and no memory is held. It calls wasRead
// when all is read and on its way, maybe more than once.
func (s *shard) move(ctx context.Context, wasRead func()) error {
	r := s.run
	if s.lease.Hold != nil {
		until, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		s.ctx = hbase.WithRight(ctx, &hbase.Right{Until: until, Sure: s.lease.Hold})
		go func() {
			select {
			case <-s.lease.Lost:
				stop(ErrLost)
			case <-until.Done():
			}
		}()
	}
	source, err := s.openFeed(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if source != nil {
			source.close()
		}
		s.release()
		for _, c := range s.chunks {
			if c.freed {
				r.mem.Adjust(-c.slots)
				continue
			}
			c.Free()
		}
	}()

	tick := time.NewTicker(openFor / 3)
	defer tick.Stop()
	drain, done, lost, splits := r.drain, ctx.Done(), s.lease.Lost, s.lease.Split
	cuts, cutting := make(chan jobs.Shard, 1), false // nothing is read while it is cut
	var cutter sync.WaitGroup
	defer cutter.Wait()
	var broken error
	ended := false
	end := func(err error) {
		ended = true
		if !errors.Is(err, io.EOF) {
			broken = err
		}
		s.flush()
	}
	for {
		var in chan fed
		if source != nil && !ended && s.err == nil && !s.saturated() {
			in = source.chunks
		}
		if s.flying == 0 && !cutting && (s.err != nil || ended && s.parked == 0) {
			break
		}
		// What is parked while the window has room waits for its region server, and must not keep the next shard from the others.
		if ended && (s.parked == 0 || s.flying < s.run.window()) {
			wasRead()
		}
		began := time.Now()
		select {
		case f := <-in:
			r.mon.waited(WaitSource, time.Since(began))
			if f.err != nil {
				end(f.err)
				break
			}
			began = time.Now()
			s.take(f.chunk)
			r.mon.waited(WaitMapping, time.Since(began))
			if s.limited {
				ended = true
				s.flush()
			}
			s.advance()
		case f := <-s.landed:
			s.account(time.Since(began), in != nil)
			s.land(f)
			s.advance()
		case <-tick.C:
			s.account(time.Since(began), in != nil)
			s.flushStale()
			s.pack()
		case <-splits:
			if ended || s.err != nil || cutting {
				break
			}
			source.close()
			source, cutting = nil, true
			from := s.next
			cutter.Go(func() { cuts <- s.cut(ctx, from) })
		case spec := <-cuts:
			s.spec, cutting = spec, false
			if source, err = s.openFeed(ctx); err != nil {
				end(err)
			}
		case <-lost:
			lost = nil
			s.fail(ErrLost)
		case <-drain:
			drain = nil
			s.fail(errDrained)
		case <-done:
			done = nil
			s.fail(context.Cause(ctx))
		}
	}
	s.advance()
	if s.err != nil {
		return s.err
	}
	if broken != nil {
		return broken
	}
	if s.limited {
		return errLimit
	}
	return s.close()
}

// cut makes two parts of what is left of the shard beyond a position, and gives the one that stays here; all of it when it cannot be cut.
func (s *shard) cut(ctx context.Context, from jobs.Cursor) jobs.Shard {
	sp, can := s.run.cfg.Job.Source.(jobs.Splitter)
	if !can {
		s.lease.Whole()
		return s.spec
	}
	head, rest, can, err := sp.Split(ctx, s.run.plan.Layout, s.spec, from)
	switch {
	case err != nil:
		s.run.log.Warn("shard is not split", "shard", s.spec.N, "error", err)
		return s.spec
	case !can:
		s.lease.Whole()
		return s.spec
	}
	if err := s.lease.Cut(ctx, head, rest); err != nil {
		s.run.log.Info("shard is not split", "shard", s.spec.N, "error", err)
		return s.spec
	}
	s.run.log.Info("shard split for others", "shard", s.spec.N, "at", head.End)
	return head
}

// account books time spent waiting. Waiting for a flight while input would be welcome is waiting for the source.
func (s *shard) account(d time.Duration, wantsInput bool) {
	switch {
	case wantsInput && !s.run.mem.starved():
		s.run.mon.waited(WaitSource, d)
	case s.limitNanos+s.callNanos == 0:
		s.run.mon.waited(WaitGateway, d)
	default:
		limit := time.Duration(float64(d) * float64(s.limitNanos) / float64(s.limitNanos+s.callNanos))
		s.run.mon.waited(WaitLimit, limit)
		s.run.mon.waited(WaitGateway, d-limit)
	}
}

// saturated says that every region server has as much under way as it may, so that reading on would only use memory.
func (s *shard) saturated() bool {
	if s.flying == 0 && s.parked == 0 {
		return false
	}
	for _, l := range s.lanes {
		for _, g := range l.groups {
			if len(g.parked) == 0 && s.room(l, g) {
				return false
			}
		}
	}
	return true
}

// room tells whether another flight may go to a group's server. One that is stuck leaves room for the others.
func (s *shard) room(l *lane, g *group) bool {
	window := l.ramped(s.run.window())
	per := window
	if s.run.shared && s.limitNanos >= 4*s.callNanos {
		// Nothing landed yet, or the limit alone is waited for: more would only lie in the queue for the worker's part of it, before the
		// first of a shard that was just taken over.
		window = min(window, len(l.groups)+1)
	}
	if n := len(l.groups); n > 1 {
		per = max(2, 2*window/(n+1))
	}
	return s.flying < window && g.flying < g.valve.bound(per)
}

// ramped is how many flights a shard may have at this step of the ramp.
func (l *lane) ramped(window int) int {
	if l.table.paced == nil {
		return window
	}
	return l.table.paced.ramp.bound(window)
}

// batch bounds a batch that begins now. A slowed server's are as large as ever: many of them may have to lie in memory, and it is
// a quota, which the table's valve answers to, that asks for smaller ones.
func (l *lane) batch() (rows, bytes int) {
	rows, bytes = l.table.maxRows, l.table.maxBytes
	if t := l.table.paced; t != nil {
		rows, bytes = t.whole.batch(t.ramp.batch(rows), bytes)
	}
	return rows, bytes
}

// take maps the documents of a chunk.
func (s *shard) take(c *jobs.Chunk) {
	ns := namespace{c.Database, c.Collection}
	l := s.lane(ns)
	if l == nil {
		c.Free()
		s.fail(fmt.Errorf("shard %d: the source gave a document of %s, which the plan does not have", s.spec.N, ns))
		return
	}
	l.regroup(s)
	n := len(c.Docs)
	s.next = c.At(n)
	ref := &chunkRef{Chunk: c, lane: l, left: n, done: make([]bool, n), whole: n, slots: slotBytes * n, taken: time.Now()}
	s.chunks = append(s.chunks, ref)
	s.encoded = 0
	r := s.run
	for i, raw := range c.Docs {
		if s.err != nil {
			return
		}
		if r.limit != nil && !r.limit.take() {
			s.limited = true
			break
		}
		p := place{ref, int32(i)}
		seq := s.win.Add(p)
		s.read++
		switch o, why := l.mapper.Map(raw, l.route); o {
		case jobs.Mapped:
			g := l.last
			f := g.open
			f.items = append(f.items, item{seq, p})
			b := f.batch
			n := b.Rows()
			s.encoded += b.RowBytes(n - 1)
			if n >= f.maxRows || b.Bytes() >= f.maxBytes || b.Cells() >= maxCells {
				s.close1(g)
			}
		case jobs.Filtered:
			s.settle(seq, p, checkpoints.Result{Outcome: filtered})
		case jobs.Refused:
			s.die(seq, p, "mapping", strings.Clone(why), 0, nil)
		}
	}
	ref.bytes = s.encoded
	if grow := s.encoded + rawBytes(c) - c.Held; grow > 0 {
		c.Held += grow
		r.mem.Adjust(grow)
	}
}

func rawBytes(c *jobs.Chunk) int {
	n := 0
	for _, d := range c.Docs {
		n += len(d)
	}
	return n
}

// regroup takes the present regions when they changed; what is open goes by the old ones.
func (l *lane) regroup(s *shard) {
	now := l.table.regions.Load()
	if l.groups != nil && l.regions == now {
		return
	}
	for _, g := range l.groups {
		s.close1(g)
	}
	old := l.groups
	l.regions, l.region = now, 0
	n := 1
	if now != nil && now.Servers() > 1 {
		n = now.Servers()
	}
	l.groups = make([]*group, n)
	for i := range l.groups {
		l.groups[i] = &group{ctx: s.ctx}
		if now != nil && i < now.Servers() && s.run.pacer != nil {
			l.groups[i].valve = s.run.pacer.server(l.table.plan.Table, now.Name(i))
			l.groups[i].ctx = hbase.ForServer(on(s.ctx, l.groups[i].valve), now.Name(i))
		}
	}
	// Parked flights of the old groups join a new one: any does, they are only a queue.
	for i, g := range old {
		for _, f := range g.parked {
			to := l.groups[i%n]
			f.group = to
			to.parked = append(to.parked, f)
		}
		g.parked = nil
	}
}

// close1 closes a group's open batch, and sends it or parks it.
func (s *shard) close1(g *group) {
	f := g.open
	if f == nil {
		return
	}
	g.open = nil
	if s.err == nil && len(g.parked) == 0 && s.room(f.lane, g) {
		s.launch(f)
		return
	}
	g.parked = append(g.parked, f)
	s.parked++
}

func (s *shard) launch(f *flight) {
	f.group.flying++
	s.flying++
	if s.taken {
		f.ctx = context.WithValue(f.ctx, firstKey{}, true)
	}
	s.run.flights.Go(func() {
		f.applied, f.err = s.run.apply(f.ctx, f.lane.table.plan.Table, f.batch)
		s.landed <- f
	})
}

// flush closes every open batch; flushStale those that have waited long enough.
func (s *shard) flush() {
	for _, l := range s.lanes {
		for _, g := range l.groups {
			s.close1(g)
		}
	}
}

func (s *shard) flushStale() {
	if !s.fresh {
		return
	}
	s.fresh = false
	limit := time.Now().Add(-openFor)
	for _, l := range s.lanes {
		for _, g := range l.groups {
			switch {
			case g.open == nil:
			case g.open.opened.Before(limit):
				s.close1(g)
			default:
				s.fresh = true
			}
		}
	}
}

// land settles what a flight brought back and launches what waited for it.
func (s *shard) land(f *flight) {
	r := s.run
	s.flying--
	f.group.flying--
	s.limitNanos += int64(f.applied.Wait) - s.limitNanos/8
	s.callNanos += int64(f.applied.Call) - s.callNanos/8
	r.account(f.applied)
	if f.err != nil {
		s.fail(f.err)
	} else {
		refused := f.applied.Refused
		slices.SortFunc(refused, func(a, b hbase.Refusal) int { return a.Row - b.Row })
		for k, it := range f.items {
			if len(refused) > 0 && refused[0].Row == k {
				s.die(it.seq, it.place, "hbase", refused[0].Reason, refused[0].Attempts, f.batch.Key(k))
				refused = refused[1:]
				continue
			}
			s.settle(it.seq, it.place, checkpoints.Result{Outcome: written, Rows: 1, Cells: int32(f.batch.RowCells(k)), Bytes: int32(f.batch.RowBytes(k))})
		}
	}
	g := f.group
	r.recycle(f)
	if s.err != nil {
		return
	}
	s.unpark(g)
	for _, l := range s.lanes {
		for _, g := range l.groups {
			s.unpark(g)
		}
	}
}

func (s *shard) unpark(g *group) {
	for len(g.parked) > 0 && s.room(g.parked[0].lane, g) {
		f := g.parked[0]
		g.parked = slices.Delete(g.parked, 0, 1)
		s.parked--
		s.launch(f)
	}
}

// die writes a document's dead letter and settles it. Over the job's maximum nothing is written and the document stays
// unsettled: mended, it is simply read again.
func (s *shard) die(seq checkpoints.Seq, p place, stage, reason string, attempts int, key []byte) {
	err := s.run.bury(s.spec, p, stage, reason, attempts, key)
	if err != nil {
		s.fail(err)
		return
	}
	s.settle(seq, p, checkpoints.Result{Outcome: dead})
}

func (s *shard) settle(seq checkpoints.Seq, p place, res checkpoints.Result) {
	s.win.Settle(seq, res)
	p.chunk.done[p.i] = true
	if p.chunk.left--; p.chunk.left == 0 {
		s.spent = append(s.spent, p.chunk)
	}
}

// release gives back the documents of chunks that are settled.
func (s *shard) release() {
	for i, c := range s.spent {
		c.end = c.At(len(c.Docs))
		c.freed = true
		c.Free()
		s.run.mem.Adjust(c.slots)
		s.spent[i] = nil
	}
	s.spent = s.spent[:0]
}

// pack makes room for the reader where chunks wait for few of their documents, as they do for those of a slowed region server:
// these are copied and the chunk is given back. So the rows for the other servers go on for as long as the memory can hold
// what is stuck, and not what lies between it.
func (s *shard) pack() {
	if !s.run.mem.starved() {
		return
	}
	stuck := time.Now().Add(-packAfter)
	for _, c := range s.chunks {
		if c.taken.After(stuck) {
			break
		}
		if c.freed || c.left == 0 || 2*c.left > c.whole || c.bytes == 0 {
			continue
		}
		c.whole = c.left
		old, n := c.Chunk, len(c.Docs)
		own := &jobs.Chunk{Database: old.Database, Collection: old.Collection, Docs: make([][]byte, n), Stored: old.Stored}
		at := make([]jobs.Cursor, n+1)
		size := 0
		for i, raw := range old.Docs {
			at[i] = old.At(i)
			if !c.done[i] {
				own.Docs[i] = slices.Clone(raw)
				size += len(raw)
			}
		}
		at[n] = old.At(n)
		own.At = func(i int) jobs.Cursor { return at[i] }
		own.Held = size + int(int64(c.bytes)*int64(c.left)/int64(n))
		own.Free = func() { s.run.mem.Adjust(-own.Held) }
		s.run.mem.Adjust(own.Held)
		old.Free()
		c.Chunk = own
	}
}

// advance moves the watermark over the settled prefix and hands it to the saver. The mark moves nowhere else.
func (s *shard) advance() {
	s.release()
	var last place
	bytes := int64(0)
	n := s.win.Advance(func(p place, res checkpoints.Result) {
		last = p
		c := &p.chunk.lane.counts
		c.Read++
		switch res.Outcome {
		case written:
			c.Written++
		case filtered:
			c.Filtered++
		case dead:
			c.Dead++
		}
		c.Rows += int64(res.Rows)
		c.Cells += int64(res.Cells)
		c.Bytes += int64(res.Bytes)
		bytes += int64(res.Bytes)
		if c := p.chunk; (int(p.i)+1)*slotBytes == c.slots { // its last, so all are settled and it is freed
			s.stored += c.Stored
			s.cursor = c.end
			s.run.mem.Adjust(-c.slots)
			s.chunks[0] = nil
			s.chunks = s.chunks[1:]
		}
	})
	if n == 0 {
		return
	}
	s.part, s.taken = 0, false
	if c := last.chunk; (int(last.i)+1)*slotBytes != c.slots {
		s.part = c.Stored * int64(last.i+1) / int64(c.slots/slotBytes)
	}
	if !last.chunk.freed {
		s.cursor = last.chunk.At(int(last.i) + 1)
	}
	s.run.saver.offer(s.mark(false), bytes)
}

func (s *shard) mark(done bool) checkpoints.Checkpoint {
	c := checkpoints.Checkpoint{Shard: s.spec.N, Cursor: string(s.cursor), Done: done, Stored: s.stored + s.part, Tables: make(map[string]checkpoints.Counts, len(s.lanes))}
	for _, l := range s.lanes {
		c.Tables[l.table.plan.Table] = l.counts
	}
	return c
}

// close checks the shard's books and marks it done.
func (s *shard) close() error {
	sum := checkpoints.Counts{}
	for c := range maps.Values(s.lanes) {
		sum.Add(c.counts)
	}
	if s.win.Len() != 0 || sum.Read != s.read || !sum.Balanced() || sum.Rows != sum.Written {
		return &BooksError{Shard: s.spec.N, Read: s.read, Counts: sum}
	}
	s.run.saver.offer(s.mark(true), 0)
	return nil
}

func (s *shard) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}
