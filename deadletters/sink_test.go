package deadletters_test

import (
	"fmt"
	"testing"

	"drover/deadletters"
	"drover/deadletters/sinktest"
)

func TestSuite(t *testing.T) {
	for name, open := range map[string]func(dir, run string, n int) (*deadletters.Log, error){
		"alone":      func(dir, run string, _ int) (*deadletters.Log, error) { return deadletters.Open(dir, run) },
		"one worker": func(dir, run string, _ int) (*deadletters.Log, error) { return deadletters.OpenWorker(dir, run, "w") },
		"workers": func(dir, run string, n int) (*deadletters.Log, error) {
			return deadletters.OpenWorker(dir, run, fmt.Sprintf("w%d", n))
		},
	} {
		t.Run(name, func(t *testing.T) {
			sinktest.Run(t, func(t *testing.T) sinktest.Place {
				dir, n := t.TempDir(), 0
				return sinktest.Place{
					Open: func(t *testing.T, run string) deadletters.Sink {
						n++
						l, err := open(dir, run, n)
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { l.Close() })
						return l
					},
					Read: func(t *testing.T, run string) *deadletters.Index {
						x, err := deadletters.Read(dir, run)
						if err != nil {
							t.Fatal(err)
						}
						return x
					},
				}
			})
		})
	}
}

// Two workers write to one folder at the same time; what one of them has not written whole is left out, and a letter of both is one.
func TestWorkersShareAFolder(t *testing.T) {
	dir := t.TempDir()
	for _, worker := range []string{"a-1", "b-2"} {
		l, err := deadletters.OpenWorker(dir, "run1", worker)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for _, at := range []string{"both", worker} {
			if err := l.Append(deadletters.Letter{Shard: 1, Position: at}); err != nil {
				t.Fatal(err)
			}
		}
		if worker == "b-2" { // it is noted where the letter is not
			if err := l.Replayed(deadletters.Replay{Run: "run1", Shard: 1, Position: "a-1"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := deadletters.Count(dir, "run1")
	if want := (deadletters.Counts{Letters: 3, Replayed: 1, Repeats: 1}); err != nil || c != want {
		t.Errorf("counts %+v, %v, want %+v", c, err, want)
	}
	for _, worker := range []string{"", ".", "..", "a/b", ".hidden"} {
		if l, err := deadletters.OpenWorker(dir, "run1", worker); err == nil {
			l.Close()
			t.Errorf("worker %q got a folder", worker)
		}
	}
}
