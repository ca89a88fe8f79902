package runner

import (
	"context"
	"errors"
	"sync"

	"drover/checkpoints"
	"drover/jobs"
)

// Leases hands out the right to move shards. A process alone holds every shard (allShards); a worker of a pool holds those that
// the leader assigned to it.
type Leases interface {
	// Next waits for a shard to move; false when ctx ended or none is left for this process.
	Next(ctx context.Context) (Lease, bool)
}

// Lease is the right to move one shard. Of a process alone only Shard and From are set.
type Lease struct {
	Shard jobs.Shard
	From  checkpoints.Checkpoint

	// Lost is closed when the right is gone, or asked back: nothing more is sent. What is in flight is waited for and, if the store
	// still takes it, saved.
	Lost <-chan struct{}

	// Hold is called just before each put. It returns at once while the right is sure, waits while it is not, and fails with ErrLost
	// when it is gone or with ctx's error.
	Hold func(ctx context.Context) error

	// Done is called once, when nothing of the shard is in flight any more: with the last checkpoint that was saved, and nil when
	// the shard is done or why it ended. ErrLost and a context's end are no faults of the shard.
	Done func(c checkpoints.Checkpoint, err error)

	// Split gives a value when what is left of the shard is wanted in two parts, for workers that idle.
	Split <-chan struct{}

	// Cut makes it so: this lease is for head from then on, and rest becomes a shard of its own, whose number Cut chooses. After an
	// error the shard is as it was.
	Cut func(ctx context.Context, head, rest jobs.Shard) error

	// Whole says that the shard cannot be cut, so that nobody asks again.
	Whole func()
}

// ErrLost says that the right to a shard is gone or was asked back.
var ErrLost = errors.New("the right to the shard is gone")

// allShards hands out every shard that is not done, once.
type allShards struct {
	mu     sync.Mutex
	leases []Lease
}

func newAllShards(shards []jobs.Shard, marks map[int]checkpoints.Checkpoint) *allShards {
	a := &allShards{}
	for _, s := range shards {
		if m := marks[s.N]; !m.Done {
			a.leases = append(a.leases, Lease{Shard: s, From: m})
		}
	}
	return a
}

func (a *allShards) Next(ctx context.Context) (Lease, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.leases) == 0 || ctx.Err() != nil {
		return Lease{}, false
	}
	l := a.leases[0]
	a.leases = a.leases[1:]
	return l, true
}
