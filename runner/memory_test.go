package runner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

func TestMemoryServesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{bound: 100}
		if err := m.Acquire(t.Context(), 80); err != nil {
			t.Fatal(err)
		}
		granted := map[int]*bool{}
		for _, n := range []int{90, 10, 20} {
			got := new(bool)
			granted[n] = got
			go func() {
				if err := m.Acquire(context.Background(), n); err != nil {
					t.Error(err)
				}
				*got = true
			}()
			synctest.Wait()
		}
		if *granted[90] || *granted[10] || *granted[20] {
			t.Fatal("a small one overtook a waiting 90")
		}
		m.Adjust(-80)
		synctest.Wait()
		if !*granted[90] || !*granted[10] || *granted[20] || m.inUse() != 100 {
			t.Fatalf("after all was given back: %d in use", m.inUse())
		}
		m.Adjust(-100)
		synctest.Wait()
		if m.inUse() != 20 {
			t.Fatalf("%d in use, want the last 20", m.inUse())
		}
	})
}

func TestMemoryLetsOneBeyondTheBoundThrough(t *testing.T) {
	m := &memory{bound: 100}
	if err := m.Acquire(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if err := m.Acquire(ctx, 1); !errors.Is(err, why) {
		t.Fatalf("beside a document beyond the bound: %v", err)
	}
	m.Adjust(-1000)
	if m.starved() || m.inUse() != 0 {
		t.Fatalf("%d in use after all was given back", m.inUse())
	}
}

func TestSplits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 3), 0, 50).Draw(t, "keys")
		regions := rapid.IntRange(1, 20).Draw(t, "regions")
		got := splits(keys, regions)
		if len(got) > regions-1 {
			t.Fatalf("%d split keys for %d regions", len(got), regions)
		}
		for i, k := range got {
			if len(k) == 0 || i > 0 && string(got[i-1]) >= string(k) {
				t.Fatalf("split keys %q do not ascend", got)
			}
		}
	})
}

func TestFingerprintNamesWhatDiffers(t *testing.T) {
	was := Fingerprint{Source: map[string]string{"mongodump": "/a"}, Map: map[string]string{"key": "_id", "filter": "x > 1"}, Table: "t"}
	now := Fingerprint{Source: map[string]string{"mongodump": "/a"}, Map: map[string]string{"key": "k", "empty": "skip"}, Table: "u"}
	got := was.diff(now)
	want := []string{`map.filter was "x > 1", is ""`, `map.key was "_id", is "k"`, `map.empty was "", is "skip"`, `target.table was "t", is "u"`}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("difference %d is %s, want %s", i, got[i], want[i])
		}
	}
	if d := was.diff(was); len(d) != 0 {
		t.Errorf("the same differs: %q", d)
	}
}

// Two shards read chunks of the usual size; forty hold as much together, each a little, so that none waits for what the others send.
func TestManyReadersHoldLessEach(t *testing.T) {
	m := &memory{bound: DefaultMemory, readers: 2}
	if c := m.Chunk(); c < 1<<20 {
		t.Errorf("a chunk of %d bytes for each of two, want 1 MiB", c)
	}
	m.readers = 40
	if c := m.Chunk(); c*chunksEach*m.readers > DefaultMemory || c < 32<<10 {
		t.Errorf("a chunk of %d bytes for each of forty", c)
	}
}
