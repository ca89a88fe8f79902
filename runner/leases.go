package runner

import (
	"context"
	"sync"

	"drover/checkpoints"
	"drover/jobs"
)

// Leases hands out the right to work on shards. A process alone holds every shard (allShards); a worker of a pool will hold
// those that the leader assigned to it.
type Leases interface {
	// Next gives a shard to move and where it stands, or false when there is none left for this process.
	Next(ctx context.Context) (jobs.Shard, checkpoints.Checkpoint, bool)
}

// allShards hands out every shard that is not done, once.
type allShards struct {
	mu     sync.Mutex
	shards []jobs.Shard
	marks  map[int]checkpoints.Checkpoint
}

func newAllShards(shards []jobs.Shard, marks map[int]checkpoints.Checkpoint) *allShards {
	a := &allShards{marks: map[int]checkpoints.Checkpoint{}}
	for _, s := range shards {
		m := marks[s.N]
		if !m.Done {
			a.shards = append(a.shards, s)
			a.marks[s.N] = m
		}
	}
	return a
}

func (a *allShards) Next(ctx context.Context) (jobs.Shard, checkpoints.Checkpoint, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.shards) == 0 || ctx.Err() != nil {
		return jobs.Shard{}, checkpoints.Checkpoint{}, false
	}
	s := a.shards[0]
	a.shards = a.shards[1:]
	return s, a.marks[s.N], true
}
