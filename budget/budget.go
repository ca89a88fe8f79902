// Package budget makes all processes of a host that work on one table keep one limit of rows and bytes a second.
//
//   - A member is one process's part in a budget: it asks before it sends, and may bring limits of its own.
//   - The limits in force are, in each dimension, the lowest that a living member brings. One without a limit lifts nothing.
//   - A place is a position in the budget's schedule. Places are given out in the order they are asked for.
//
// The schedule is exact: in every second the tokens that Wait lets pass are at most 1.02 times the limit and one
// reservation, whatever the members do, and they come at the full rate while anybody is waiting. Time in which nobody asks
// is lost beyond 20 ms.
//
// Members meet in a folder, with no server between them: a file that they lock for microseconds holds the schedule, and a
// file of its own that each locks for life shows that it is alive. Nothing in it outlives a reboot.
//
// Not for several hosts (a share of a fleet's budget is a limit like any other), and not for single rows: a Wait takes some
// microseconds when there is a limit, so ask once for a batch.
package budget

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Limits are per second. 0 is none.
type Limits struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
}

// lower is the lower of two in each dimension.
func (l Limits) lower(o Limits) Limits {
	pick := func(a, b int64) int64 {
		if a == 0 || b != 0 && b < a {
			return b
		}
		return a
	}
	return Limits{pick(l.Rows, o.Rows), pick(l.Bytes, o.Bytes)}
}

func (l Limits) check() error {
	if l.Rows < 0 || l.Bytes < 0 {
		return fmt.Errorf("limits of %d rows/s and %d bytes/s: they must be 0 (none) or more", l.Rows, l.Bytes)
	}
	return nil
}

// ErrClosed is what a member's methods return after Close.
var ErrClosed = errors.New("the budget's member is closed")

const (
	// recheck is how often the members are looked at and a sleeper reads the schedule again: so a changed limit, a member
	// that joined and one that died are known well within a second.
	recheck = 250 * time.Millisecond
	// patience is how long a call without a context waits for the folder's lock, which is held for microseconds unless its
	// holder is stopped.
	patience = time.Second
)

// Member is a process's part in one budget. Its methods may be called from several goroutines.
type Member struct {
	base time.Time
	free atomic.Bool // there is no limit, so Wait need not look; doubt takes that back when it has to look again

	gate   chan struct{} // holds one token; whoever took it owns what follows
	closed bool
	own    Limits
	last   Limits // in force when last looked at
	state  state  // in memory without a folder, else what was last read

	// Both are nil for a member that is alone.
	folder *folder
	doubt  *time.Timer
}

// NewLocal makes a member that shares its budget with nobody.
func NewLocal(l Limits) *Member {
	m := newMember(l)
	m.state.schedule.set(0, l)
	m.last = l
	m.free.Store(l == Limits{})
	return m
}

// Join makes this process a member of the budget that key names in dir. key is free text, the table and cluster; the same
// text is the same budget. A dir that is missing is made for every user of the host, as /tmp is, because the limit is the
// table's and not a user's; one that exists keeps its mode, so an administrator can restrict it. The budget is an agreement
// among well-meaning processes, and no protection from others.
func Join(dir, key string, l Limits) (*Member, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("join the budget of %s: %w", key, err)
	}
	m := newMember(l)
	m.doubt = time.AfterFunc(recheck, func() { m.free.Store(false) })
	var err error
	if m.folder, err = openFolder(dir, key); err != nil {
		return nil, fmt.Errorf("join the budget of %s: %w", key, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	defer cancel()
	err = m.locked(ctx, true, func(int64) {})
	if err != nil {
		m.folder.close()
		return nil, fmt.Errorf("join the budget of %s: %w", key, err)
	}
	return m, nil
}

func newMember(l Limits) *Member {
	m := &Member{base: time.Now(), gate: make(chan struct{}, 1), own: l}
	m.gate <- struct{}{}
	return m
}

// Wait waits until rows and bytes may be spent, and says how long that was. They are spent when it returns nil, and also
// when it returns an error after the place was taken: what was given up, or taken by a process that died, is lost, never
// given out twice.
//
// More than a second's budget at once is let through when its turn comes, and those behind wait for as long as it is worth.
// When a limit changes, those who wait keep their order, and their places come earlier or later with the new rate, within
// a second. An error other than ctx's says that the folder cannot be used.
func (m *Member) Wait(ctx context.Context, rows, bytes int) (waited time.Duration, err error) {
	if err := ctx.Err(); err != nil || m.free.Load() {
		return 0, err
	}
	start := time.Now()
	r := place{reservation: reservation{tokens: [dimensions]int64{int64(rows), int64(bytes)}}}
	for slept := false; ; slept = true {
		wait, err := m.ask(ctx, &r)
		if err == nil && wait <= 0 {
			if !slept {
				return 0, nil
			}
			return time.Since(start), nil
		}
		if err == nil {
			err = sleep(ctx, min(wait, recheck))
		}
		if err != nil {
			return time.Since(start), err
		}
	}
}

// place is a reservation in one era of the schedule.
type place struct {
	reservation
	era  uint64
	made bool
}

func (m *Member) ask(ctx context.Context, r *place) (wait time.Duration, err error) {
	err = m.locked(ctx, false, func(now int64) {
		s := &m.state.schedule
		if s.unlimited() {
			return
		}
		if !r.made || r.era != m.state.era {
			r.made, r.era = true, m.state.era
			s.reserve(now, &r.reservation)
		}
		wait = time.Duration(s.use(now, &r.reservation))
	})
	return wait, err
}

// SetLimits changes what this member brings.
func (m *Member) SetLimits(l Limits) error {
	if err := l.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	defer cancel()
	if err := m.enter(ctx); err != nil {
		return err
	}
	m.own = l
	m.leave()
	return m.locked(ctx, true, func(int64) {})
}

// Limits are those in force now: the lowest that the living members bring. When the folder cannot be read in time, they
// are the last that were known.
func (m *Member) Limits() Limits {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m.locked(ctx, false, func(int64) {})
	if err := m.wait(ctx); err != nil {
		return Limits{}
	}
	defer m.leave()
	return m.last
}

// Close ends the membership; those who wait get ErrClosed. A second time it does nothing.
func (m *Member) Close() error {
	<-m.gate
	defer m.leave()
	if m.closed {
		return nil
	}
	m.closed = true
	m.free.Store(false)
	if m.folder == nil {
		return nil
	}
	m.doubt.Stop()
	return m.folder.close()
}

func (m *Member) wait(ctx context.Context) error {
	select {
	case <-m.gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Member) leave() { m.gate <- struct{}{} }

func (m *Member) enter(ctx context.Context) error {
	if err := m.wait(ctx); err != nil {
		return err
	}
	if m.closed {
		m.leave()
		return ErrClosed
	}
	return nil
}

// locked runs f with the newest state, the limits in force set in it, and keeps what f makes of it. look is for a change of
// the members that must be seen at once.
func (m *Member) locked(ctx context.Context, look bool, f func(now int64)) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.leave()
	if m.folder == nil {
		now := int64(time.Since(m.base))
		m.state.schedule.set(now, m.own)
		m.last = m.own
		m.free.Store(m.own == Limits{})
		f(now)
		return nil
	}
	return m.folder.update(ctx, &m.state, m.own, look, func(now int64) {
		m.last = Limits{m.state.schedule[rows].rate, m.state.schedule[bytes].rate}
		m.free.Store(m.last == Limits{})
		if m.last == (Limits{}) {
			m.doubt.Reset(recheck)
		}
		f(now)
	})
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// set puts limits in force from now on.
func (s *schedule) set(now int64, l Limits) {
	s[rows].set(now, l.Rows)
	s[bytes].set(now, l.Bytes)
}
