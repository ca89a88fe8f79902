package runner

import (
	"context"
	"errors"
	"testing"
	"time"

	"drover/jobs"
)

// wanted is a source that only hears into how many shards it is to be cut.
type wanted struct {
	jobs.Source
	want int
}

var errHeard = errors.New("heard")

func (w *wanted) Plan(_ context.Context, want int) (jobs.Layout, error) {
	w.want = want
	return jobs.Layout{}, errHeard
}

// A job's own number of shards goes before what follows from the process, in a run and in a preview.
func TestShardsOfTheJob(t *testing.T) {
	for _, c := range []struct{ job, run, preview int }{{0, 24, 16}, {1, 1, 1}, {100_000, 100_000, 100_000}} {
		w := &wanted{}
		cfg := Config{Job: jobs.Job{Source: w, Shards: c.job}, Shards: 3}
		if _, err := newRun(t.Context(), cfg).makePlan(Fingerprint{}, time.Now(), 0); !errors.Is(err, errHeard) || w.want != c.run {
			t.Errorf("shards %d: the run asks for %d: %v", c.job, w.want, err)
		}
		if _, err := Look(t.Context(), cfg, 1); !errors.Is(err, errHeard) || w.want != c.preview {
			t.Errorf("shards %d: the preview asks for %d: %v", c.job, w.want, err)
		}
	}
}
