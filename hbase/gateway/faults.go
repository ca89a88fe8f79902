package gateway

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errClosed = errors.New("the gateway is closed")
	errCut    = errors.New("the reply was cut")
)

// Faults is what tests do to one Server. All of it is off at first, may be changed at any time from any goroutine, and is
// counted, so that a test can tell a fault that was set from one that happened.
type Faults struct {
	server *Server
	rules  atomic.Pointer[rules] // immutable; a change makes another one

	mu     sync.Mutex
	resume chan struct{} // open while Hang is on; closed when it ends
	cuts   int           // replies still to be cut
	after  int           // bytes of each that are still sent
	next   time.Time     // when Throttle has room for another row

	refused, delayed, hung, cut, tooBusy, rowsRefused, denied, throttled, dropped, wrongSplits, overQuota atomic.Int64
}

// Counts tells how often each fault has happened.
type Counts struct {
	Refused     int64 // connections closed at once
	Delayed     int64 // calls
	Hung        int64 // calls held, those answered later among them
	Cut         int64 // replies to writes cut after they were applied
	TooBusy     int64 // calls answered with RegionTooBusy
	RowsRefused int64
	Denied      int64 // calls
	Throttled   int64 // calls that waited
	Dropped     int64 // open connections closed by Drop, Refuse and Die
	WrongSplits int64 // tables created without the splits asked for
	OverQuota   int64 // calls refused, or in part, by a Quota
}

type rules struct {
	refuse   bool
	delay    time.Duration
	busy     []busyRange
	match    func(key []byte) bool
	message  string
	deny     map[string]bool
	rate     float64
	observe  func(table string, key []byte, cells int)
	noSplits bool
	quotas   []*Quota
}

type busyRange struct {
	lo, hi []byte // hi empty: no end
	left   *atomic.Int64
	until  time.Time // zero: no end
}

func (b busyRange) over() bool { return !b.until.IsZero() && time.Now().After(b.until) }

func newFaults(s *Server) *Faults {
	f := &Faults{server: s}
	f.rules.Store(&rules{})
	return f
}

func (f *Faults) change(edit func(*rules)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := *f.rules.Load()
	edit(&r)
	f.rules.Store(&r)
}

// Refuse closes the open connections, and every new one as soon as it is accepted, until it is turned off.
func (f *Faults) Refuse(on bool) {
	f.change(func(r *rules) { r.refuse = on })
	if on {
		f.Drop()
	}
}

// Drop closes the open connections once, in the middle of whatever they do. What was being applied may still be applied.
func (f *Faults) Drop() { f.dropped.Add(int64(f.server.drop())) }

// Delay makes every call wait before it is looked at. 0 ends it.
func (f *Faults) Delay(d time.Duration) { f.change(func(r *rules) { r.delay = d }) }

// Hang accepts connections and calls and answers none. When it ends the calls held are carried out and answered, as those
// of a stopped process are when it goes on, their callers gone or not.
func (f *Faults) Hang(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case on && f.resume == nil:
		f.resume = make(chan struct{})
	case !on && f.resume != nil:
		close(f.resume)
		f.resume = nil
	}
}

// CutReply closes the connection instead of answering, for the next n calls that write rows, after they were applied; after
// is how many bytes of the reply are still sent. n = 0 ends it.
func (f *Faults) CutReply(n, after int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cuts, f.after = n, after
}

// TooBusy answers the next n calls that write to row keys in [lo, hi) with HBase's RegionTooBusyException, and applies
// their other rows. An empty hi is no end, n < 0 is until Clear. Several ranges hold at once.
func (f *Faults) TooBusy(lo, hi []byte, n int) {
	f.busy(lo, hi, n, time.Time{})
}

// TooBusyFor is TooBusy for all calls of the next while, as a region is that is being flushed.
func (f *Faults) TooBusyFor(lo, hi []byte, d time.Duration) {
	f.busy(lo, hi, -1, time.Now().Add(d))
}

func (f *Faults) busy(lo, hi []byte, n int, until time.Time) {
	left := new(atomic.Int64)
	left.Store(int64(n))
	if n < 0 {
		left.Store(1 << 62)
	}
	f.change(func(r *rules) {
		kept := slices.DeleteFunc(slices.Clone(r.busy), busyRange.over)
		r.busy = append(kept, busyRange{bytes.Clone(lo), bytes.Clone(hi), left, until})
	})
}

// Quota lets this many rows a second be written, in all through the Servers that share it, and refuses the others of a call
// at once, as HBase does: with RpcThrottlingException, which names a wait, or as a region that is too busy. A second's rows are
// saved up at most, so a call that has more for it is always refused; but a region takes any call while it has room.
type Quota struct {
	Rows   float64
	Lo, Hi []byte // the row keys it is about; an empty Hi is no end
	Region bool   // it is a region that is too busy, and not a quota: no wait is named

	mu    sync.Mutex
	saved float64
	at    time.Time

	took, refused atomic.Int64
}

// Counts tells how many rows the quota let through and how many it refused.
func (q *Quota) Counts() (took, refused int64) { return q.took.Load(), q.refused.Load() }

// take asks for n rows, all or none; wait is how long until there is room.
func (q *Quota) take(n int, now time.Time) (ok bool, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.at.IsZero() {
		q.saved = q.Rows
	} else {
		q.saved = min(q.saved+now.Sub(q.at).Seconds()*q.Rows, q.Rows)
	}
	q.at = now
	// A memstore with room takes a batch of any size, and is then too full for longer.
	if float64(n) > q.saved && (!q.Region || q.saved <= 0) {
		q.refused.Add(int64(n))
		return false, time.Duration((float64(n) - q.saved) / q.Rows * float64(time.Second))
	}
	q.saved -= float64(n)
	q.took.Add(int64(n))
	return true, 0
}

// Quota adds a quota, until Clear or Lift.
func (f *Faults) Quota(q *Quota) {
	f.change(func(r *rules) { r.quotas = append(r.quotas[:len(r.quotas):len(r.quotas)], q) })
}

// Lift ends the quotas.
func (f *Faults) Lift() { f.change(func(r *rules) { r.quotas = nil }) }

// RefuseRows refuses single rows for good with a DoNotRetryIOException of that message, and applies the others. match is
// called from several goroutines. nil ends it.
func (f *Faults) RefuseRows(match func(key []byte) bool, message string) {
	f.change(func(r *rules) { r.match, r.message = match, message })
}

// Deny answers all calls on the table with AccessDeniedException, until Allow.
func (f *Faults) Deny(table string) { f.denial(table, true) }

// Allow ends Deny.
func (f *Faults) Allow(table string) { f.denial(table, false) }

func (f *Faults) denial(table string, on bool) {
	f.change(func(r *rules) {
		deny := map[string]bool{plainName([]byte(table)): on}
		for name, was := range r.deny {
			if _, ok := deny[name]; !ok {
				deny[name] = was
			}
		}
		r.deny = deny
	})
}

// Throttle lets this many rows a second be written through this Server. 0 ends it.
func (f *Faults) Throttle(rows float64) { f.change(func(r *rules) { r.rate = rows }) }

// Observe calls g for every row put, after it was applied and before the reply, from the goroutine of its connection. The
// key is valid during the call. nil ends it.
func (f *Faults) Observe(g func(table string, key []byte, cells int)) {
	f.change(func(r *rules) { r.observe = g })
}

// WrongSplits makes createTable succeed without the splits it was given, much as framed gateways of HBase 2.6 do.
func (f *Faults) WrongSplits(on bool) { f.change(func(r *rules) { r.noSplits = on }) }

// Die ends the Server as a crash does: connections break, the address and a store of its own are released.
func (f *Faults) Die() error {
	f.Drop()
	return f.server.Close()
}

// Clear turns every fault off, Observe too, and keeps the counts.
func (f *Faults) Clear() {
	f.Hang(false)
	f.CutReply(0, 0)
	f.change(func(r *rules) { *r = rules{} })
}

// Counts tells how often each fault has happened so far.
func (f *Faults) Counts() Counts {
	return Counts{
		Refused: f.refused.Load(), Delayed: f.delayed.Load(), Hung: f.hung.Load(), Cut: f.cut.Load(),
		TooBusy: f.tooBusy.Load(), RowsRefused: f.rowsRefused.Load(), Denied: f.denied.Load(),
		Throttled: f.throttled.Load(), Dropped: f.dropped.Load(), WrongSplits: f.wrongSplits.Load(),
		OverQuota: f.overQuota.Load(),
	}
}

// accept tells whether a new connection may stay.
func (f *Faults) accept() bool {
	if f.rules.Load().refuse {
		f.refused.Add(1)
		return false
	}
	return true
}

// before holds a call back as Delay and Hang say. It fails when the server ends meanwhile.
func (f *Faults) before(done <-chan struct{}) error {
	if d := f.rules.Load().delay; d > 0 {
		f.delayed.Add(1)
		if err := pause(done, d); err != nil {
			return err
		}
	}
	f.mu.Lock()
	resume := f.resume
	f.mu.Unlock()
	if resume == nil {
		return nil
	}
	f.hung.Add(1)
	select {
	case <-resume:
		return nil
	case <-done:
		return errClosed
	}
}

func pause(done <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-done:
		return errClosed
	}
}

// pace waits for Throttle.
func (f *Faults) pace(done <-chan struct{}, rows int) error {
	rate := f.rules.Load().rate
	if rate <= 0 {
		return nil
	}
	f.mu.Lock()
	now := time.Now()
	if f.next.Before(now) {
		f.next = now
	}
	f.next = f.next.Add(time.Duration(float64(rows) / rate * float64(time.Second)))
	wait := f.next.Sub(now)
	f.mu.Unlock()
	f.throttled.Add(1)
	return pause(done, wait)
}

// access fails a call on a table that is denied.
func (f *Faults) access(table, action string) error {
	if !f.rules.Load().deny[table] {
		return nil
	}
	f.denied.Add(1)
	return ioError(false, "%s", deniedText(table, action))
}

func deniedText(table, action string) string {
	return remote("security.AccessDeniedException", "Insufficient permissions (user=drover, scope=%s, action=%s)", table, action)
}

// refuse marks the rows of a call that faults refuse with the reason.
func (f *Faults) refuse(w *wire, p *putCall, t *table) {
	r := f.rules.Load()
	if r.deny[t.name] {
		f.denied.Add(1)
		reason := deniedText(t.name, "WRITE")
		for i := range p.rows {
			p.rows[i].reason = reason
		}
		return
	}
	busy := false
	for _, b := range r.busy {
		if b.over() {
			continue
		}
		took, gave := false, false
		for i := range p.rows {
			key := w.at(p.rows[i].key)
			if bytes.Compare(key, b.lo) < 0 || len(b.hi) > 0 && bytes.Compare(key, b.hi) >= 0 {
				continue
			}
			if !took {
				took, gave = true, b.left.Add(-1) >= 0
			}
			if !gave {
				break
			}
			busy = true
			p.rows[i].reason = remote("RegionTooBusyException", "Over memstore limit=512.0 M, regionName=%s, server=%s",
				t.regionName(key), serverName)
		}
	}
	if busy {
		f.tooBusy.Add(1)
	}
	for _, q := range r.quotas {
		f.ration(w, p, t, q)
	}
	if r.match == nil {
		return
	}
	for i := range p.rows {
		if p.rows[i].reason == "" && r.match(w.at(p.rows[i].key)) {
			f.rowsRefused.Add(1)
			p.rows[i].reason = remote("DoNotRetryIOException", "%s", r.message)
		}
	}
}

// ration refuses a call's rows that a quota has no room for.
func (f *Faults) ration(w *wire, p *putCall, t *table, q *Quota) {
	subject := func(i int) bool {
		key := w.at(p.rows[i].key)
		return p.rows[i].reason == "" && bytes.Compare(key, q.Lo) >= 0 && (len(q.Hi) == 0 || bytes.Compare(key, q.Hi) < 0)
	}
	n := 0
	for i := range p.rows {
		if subject(i) {
			n++
		}
	}
	if n == 0 {
		return
	}
	ok, wait := q.take(n, time.Now())
	if ok {
		return
	}
	f.overQuota.Add(1)
	reason := remote("quotas.RpcThrottlingException", "number of write requests exceeded - wait %dsec, %dms", wait/time.Second, wait%time.Second/time.Millisecond)
	for i := range p.rows {
		if !subject(i) {
			continue
		}
		p.rows[i].reason = reason
		if q.Region {
			key := w.at(p.rows[i].key)
			p.rows[i].reason = remote("RegionTooBusyException", "Over memstore limit=512.0 M, regionName=%s, server=%s", t.regionName(key), serverName)
		}
	}
}

// applied tells the observer of the rows that were applied.
func (f *Faults) applied(w *wire, p *putCall, table string) {
	observe := f.rules.Load().observe
	if observe == nil {
		return
	}
	for i := range p.rows {
		if r := &p.rows[i]; r.reason == "" {
			observe(table, w.at(r.key), int(r.end-r.cell))
		}
	}
}

// trim cuts the reply to a write, if it is to be cut.
func (f *Faults) trim(reply []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cuts == 0 {
		return reply, nil
	}
	f.cuts--
	f.cut.Add(1)
	return reply[:min(f.after, len(reply))], errCut
}
