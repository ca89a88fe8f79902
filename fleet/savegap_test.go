package fleet

import (
	"testing"
	"time"
)

// However a run's shards are spread over workers, all together save at most savesPerSecond times, up to a pool in which even
// the longest gap is too short; and a small pool saves as often as a process alone.
func TestSavesOfAPoolAreBounded(t *testing.T) {
	for _, shards := range []int{1, 60, 1000, 10_000, 100_000} {
		for _, workers := range []int{1, 6, 100, 400, 1000} {
			if workers > shards {
				continue
			}
			sum := 0.0
			for i := range workers {
				has := shards / workers
				if i%2 == 1 && i < workers-1 { // unevenly: pairs that have twice as many together
					has = max(1, has/2)
				} else if i+1 < workers {
					has = 2*(shards/workers) - max(1, shards/workers/2)
				}
				gap := saveGap(has, shards)
				if gap < leastSaveGap || gap > mostSaveGap {
					t.Fatalf("a gap of %v for %d of %d shards", gap, has, shards)
				}
				sum += 1 / gap.Seconds()
			}
			if sum > savesPerSecond*1.01 {
				t.Errorf("%d workers on %d shards save %.0f times a second", workers, shards, sum)
			}
			if workers <= 100 && saveGap(shards/workers, shards) != leastSaveGap {
				t.Errorf("%d workers on %d shards save every %v", workers, shards, saveGap(shards/workers, shards))
			}
		}
	}
	if g := saveGap(0, 10_000); g != 10*time.Second {
		t.Errorf("with no shard in hand: %v", g)
	}
}
