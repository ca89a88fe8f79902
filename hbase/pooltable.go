package hbase

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// table is what the pool knows of a table that rows are sent to: whether it is paused, and what it accepted lately.
type table struct {
	name string

	mu      sync.Mutex
	reason  string // why it is paused; "" when it is not
	ofRows  bool   // it is paused because no row is accepted, though the table itself answers
	since   time.Time
	paused  uint64        // the number of the answer that paused it
	next    time.Time     // when it may be tried
	tries   int           // so far
	probing bool          // somebody tries
	changed chan struct{} // closed, and made anew, at each change of the above; nil when nobody waits

	acks    map[string]uint64 // gateway address to the number of its last acknowledgement of a row of this table
	lastAck uint64            // the highest of them
	row     *known            // a row that was accepted lately, or nil
	rowAt   time.Time         // when it was
	noReads bool              // reading rows back is refused

	unserved time.Time // when a region was first not served, with no row acknowledged since, or last asked about; zero is never

	stopped atomic.Bool  // reason is not ""
	under   atomic.Int64 // Apply calls under way
}

// known is a row that was acknowledged. Its batch is never changed nor released.
type known struct {
	t *table
	b *Batch
}

func (k *known) put(ctx context.Context, l link) error {
	return l.PutMultiple(ctx, k.t.name, k.b, 0, 1)
}

// How a paused table is tried.
const (
	shortestPause, longestPause = time.Second, 30 * time.Second

	// An accepted row is remembered for this long before another takes its place, and only if it is small: it is copied.
	rememberFor   = 5 * time.Second
	rememberBytes = 64 << 10
)

// TableError says that a table took no row for as long as the outage limit allows. No row is at fault: when the cause
// is gone, the run can be resumed.
type TableError struct {
	Table  string
	Reason string
}

func (e *TableError) Error() string {
	return fmt.Sprintf("table %s takes no rows: %s. Mend the cause, then resume", e.Table, e.Reason)
}

func (p *Pool) table(name string) *table {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tables[name]
	if t == nil {
		t = &table{name: name, acks: map[string]uint64{}}
		p.tables[name] = t
	}
	return t
}

func (t *table) changedLocked() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// gate waits until the table goes on, or until it is the caller's turn to try it. The one that tries must end that, by
// ack, resume, pause or leave.
func (p *Pool) gate(ctx context.Context, t *table, began time.Time) (probing bool, err error) {
	for {
		now := time.Now()
		t.mu.Lock()
		if t.reason == "" {
			t.mu.Unlock()
			return false, nil
		}
		var limit <-chan time.Time
		if l := p.opts.OutageLimit; l > 0 {
			from := t.since
			if began.After(from) {
				from = began
			}
			left := l - now.Sub(from)
			if left <= 0 {
				err := &TableError{t.name, t.reason}
				t.mu.Unlock()
				return false, err
			}
			limit = time.After(left)
		}
		var turn <-chan time.Time
		if !t.probing {
			left := t.next.Sub(now)
			if left <= 0 {
				t.probing = true
				t.mu.Unlock()
				return true, nil
			}
			turn = time.After(left)
		}
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-changed:
		case <-turn:
		case <-limit:
		}
	}
}

// pause stops all rows of the table after an answer; probing tells that the caller was the one that tried.
func (p *Pool) pause(t *table, a answer, reason string, ofRows, probing bool) {
	t.mu.Lock()
	switch {
	case t.reason == "":
		if a.seq < t.lastAck && !ofRows {
			break // a row was accepted since
		}
		t.reason, t.ofRows, t.since, t.paused = reason, ofRows, time.Now(), a.seq
		t.stopped.Store(true)
		t.tries, t.next = 0, time.Now().Add(p.jitter(shortestPause))
		p.log.Warn("table paused", "table", t.name, "reason", reason)
	case probing:
		t.reason, t.ofRows = reason, ofRows
		t.tries++
		t.next = time.Now().Add(p.jitter(min(shortestPause<<min(t.tries, 8), longestPause)))
		t.probing = false
		t.changedLocked()
	}
	t.mu.Unlock()
	p.announce(t.name)
}

// leave ends a try that told nothing about the table.
func (p *Pool) leave(t *table) {
	t.mu.Lock()
	t.probing = false
	t.next = time.Now().Add(p.jitter(shortestPause))
	t.changedLocked()
	t.mu.Unlock()
}

// askStuck finds out whether what everything waits for is that tables are disabled, and pauses those. seq is the number of the last
// answer before.
func (p *Pool) askStuck(seq uint64) {
	var all []*table
	p.mu.Lock()
	for _, t := range p.tables {
		if t.under.Load() > 0 && !t.stopped.Load() {
			all = append(all, t)
		}
	}
	p.mu.Unlock()
	for _, t := range all {
		if p.disabled(p.root, t, nil) {
			p.pause(t, answer{seq: seq}, tableDisabled, false, false)
		}
	}
}

func (t *table) resumeLocked() {
	t.reason, t.probing, t.ofRows = "", false, false
	t.stopped.Store(false)
	t.changedLocked()
}

// resume lets all rows go on.
func (p *Pool) resume(t *table) {
	t.mu.Lock()
	t.resumeLocked()
	t.mu.Unlock()
	p.announce(t.name)
}

// ack notes that row i of b was acknowledged, with the rest of what was sent. i is -1 when it was no put.
func (p *Pool) ack(t *table, a answer, b *Batch, i int) {
	t.mu.Lock()
	t.acks[a.g.addr] = max(t.acks[a.g.addr], a.seq)
	t.lastAck = max(t.lastAck, a.seq)
	t.unserved = time.Time{}
	// What was sent before the table paused may be acknowledged late: that tells nothing.
	resumed := t.reason != "" && a.began >= t.paused
	if resumed {
		t.resumeLocked()
	}
	t.mu.Unlock()
	if i >= 0 {
		p.remember(t, b, i, a.at)
	}
	if resumed {
		p.log.Info("table goes on", "table", t.name)
		p.announce(t.name)
	}
}

// remember copies a row that was accepted, unless another was remembered lately. A row with deletes, or beside some, is
// left: its put must not come back after them.
func (p *Pool) remember(t *table, b *Batch, i int, now time.Time) {
	if b.HasDeletes() {
		return
	}
	t.mu.Lock()
	if t.row != nil && (now.Sub(t.rowAt) < rememberFor || b.RowBytes(i) > rememberBytes) {
		t.mu.Unlock()
		return
	}
	own := new(Batch)
	own.AppendRow(b, i)
	k := &known{t, own}
	t.row, t.rowAt = k, now
	t.mu.Unlock()
	p.mu.Lock()
	p.lastRow = k
	p.mu.Unlock()
}

// Regions of a table that still takes rows elsewhere are only moving; one whose regions all move at once is worth a question a second.
const unservedFor = time.Second

// unservedLong notes an answer that a region of the table is served by nobody, and tells whether it is time to ask whether the
// table is disabled: no row of it was acknowledged for some time. One that only moves regions around takes rows in others.
func (t *table) unservedLong(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.unserved.IsZero():
		t.unserved = now
	case now.Sub(t.unserved) > unservedFor:
		t.unserved = now
		return true
	}
	return false
}

func (t *table) pausedAt() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.paused
}

// ackedVia tells whether a row of the table was acknowledged through the gateway after an answer.
func (t *table) ackedVia(g *gateway, after uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acks[g.addr] > after
}

// announce tells Paused how things are with a table, or with all gateways, unless it was told so before. Telling the
// present and not the change keeps late announcements right.
func (p *Pool) announce(name string) {
	if p.opts.Paused == nil {
		return
	}
	p.announceMu.Lock()
	defer p.announceMu.Unlock()
	reason := ""
	p.mu.Lock()
	t := p.tables[name]
	for _, l := range p.lanes() {
		if name == "" && l.out && reason == "" {
			reason = "no gateway answers"
			if last := l.lastErrorsLocked(); len(last) > 0 {
				reason += ": " + strings.Join(last, "; ")
			}
		}
	}
	p.mu.Unlock()
	if name != "" && t != nil {
		t.mu.Lock()
		reason = t.reason
		t.mu.Unlock()
	}
	if was := p.announced[name]; was == reason || name == "" && was != "" && reason != "" {
		return
	}
	p.announced[name] = reason
	p.opts.Paused(name, reason)
}

var exceptionClass = regexp.MustCompile(`\w+(Exception|Error)\b`)

// reasonOf is what HBase said, without what the client adds.
func reasonOf(err error) string {
	for {
		e, ok := err.(*Error)
		if !ok {
			return Reason(err)
		}
		err = e.Err
	}
}

// sameness is equal for errors that say the same: texts name regions, servers and times.
func sameness(a answer) string {
	text := reasonOf(a.err)
	if class := exceptionClass.FindString(text); class != "" {
		return a.kind.String() + " " + class
	}
	return a.kind.String() + " " + strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}
