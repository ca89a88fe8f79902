package share

import (
	"context"
	"sync"
	"time"
)

// Account is a meter that goroutines can wait at. Its methods may be called from several of them.
//
// A batch that is under several budgets, its table's and its namespace's, waits at one account after the other.
type Account struct {
	clock func() time.Duration

	mu      sync.Mutex
	meter   Meter
	changed chan struct{} // closed when what is in force changes, and replaced
}

// NewAccount makes an account whose clock, CLOCK_BOOTTIME, is that of the deadlines it is told. It has no grant.
func NewAccount(clock func() time.Duration) *Account {
	return &Account{clock: clock, changed: make(chan struct{})}
}

// Wait waits until rows and bytes are paid for, and says how long that was. They are spent when it returns nil, and not when it returns ctx's
// error.
func (a *Account) Wait(ctx context.Context, rows, bytes int) (waited time.Duration, err error) {
	return a.wait(ctx, &Ticket{Rows: float64(rows), Bytes: float64(bytes)})
}

// WaitFirst is Wait before all that wait already, but for others that came by this way.
func (a *Account) WaitFirst(ctx context.Context, rows, bytes int) (waited time.Duration, err error) {
	return a.wait(ctx, &Ticket{Rows: float64(rows), Bytes: float64(bytes), First: true})
}

func (a *Account) wait(ctx context.Context, t *Ticket) (waited time.Duration, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	start := a.clock()
	a.mu.Lock()
	a.meter.Queue(start, t)
	a.mu.Unlock()
	var timer *time.Timer
	for {
		a.mu.Lock()
		now := a.clock()
		wait, changed := a.meter.Wait(now, t), a.changed
		a.mu.Unlock()
		switch {
		case wait == 0:
			return max(0, now-start), nil
		case timer == nil:
			timer = time.NewTimer(wait)
			defer timer.Stop()
		default:
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			now := a.clock()
			a.meter.Drop(now, t)
			return max(0, now-start), ctx.Err()
		}
	}
}

// change tells the meter something, and all that wait look again.
func (a *Account) change(f func(m *Meter, now time.Duration)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.meter, a.clock())
	close(a.changed)
	a.changed = make(chan struct{})
}

// Limit sets the budget's limit; those who wait go on under it at once.
func (a *Account) Limit(l Limit) {
	a.change(func(m *Meter, now time.Duration) { m.Limit(now, l) })
}

// Grant sets the part that the newest grant gives.
func (a *Account) Grant(part float64) {
	a.change(func(m *Meter, now time.Duration) { m.Grant(now, part) })
}

// Deadline sets the local deadline.
func (a *Account) Deadline(deadline time.Duration) {
	a.change(func(m *Meter, now time.Duration) { m.Deadline(now, deadline) })
}

// Demand is what a heartbeat says that this worker could use: a part of the limit, or +Inf.
func (a *Account) Demand() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.meter.Demand(a.clock())
}

// Given is how many tokens were collected, ever.
func (a *Account) Given() (rows, bytes float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.meter.Given(a.clock())
}
