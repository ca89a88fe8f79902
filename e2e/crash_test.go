package e2e

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/crashpoint"
	"drover/jobs/mongodump/dumpgen"
)

func broken(raw bson.Raw) bool { return raw.Validate() != nil }

// Killed at each numbered step of a run, the next run ends equal, and puts again exactly what was beyond the watermark.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	r := seed(t)
	const corrupt = 7
	file := dump(t, dumpgen.Options{Profile: dumpgen.KB, Docs: 20_000, Seed: r.Uint64(), Corrupt: corrupt})
	docs := documents(t, file)
	f := newFleet(t, 3)
	killed := 0
	for _, point := range crashpoint.Points {
		passes := []int{1}
		if point == crashpoint.Sent || point == crashpoint.Acked {
			passes = []int{1, 2 + r.IntN(10), 15}
		}
		for _, n := range passes {
			at := fmt.Sprintf("%s:%d", point, n)
			name := fmt.Sprintf("step-%s-%d", point, n)
			table := fmt.Sprintf("s%d", killed)
			yaml := job(t, name, file, table, f.addrs(), "dead_letters: {max: unlimited}", "limits: {rows: 200000}")
			f.take()
			first := drover(t, "DROVER_CRASH="+at, "run", yaml, "--json")
			if first.signal != syscall.SIGKILL {
				t.Fatalf("%s: the step was not passed: exit %d\n%s", at, first.code, first.stderr)
			}
			killed++
			before := f.take()
			saved, known := readState(t, stateHome(t), name)
			end := drover(t, "run", yaml, "--json").must(t, 3)
			end.json.close(t)
			if end.json.Read != int64(len(docs)) || end.json.Dead != corrupt {
				t.Errorf("%s: read %d and dead %d, want %d and %d", at, end.json.Read, end.json.Dead, len(docs), corrupt)
			}
			f.equal(t, table, file, end.json.Timestamp, broken)
			after := f.take()
			if point == crashpoint.MarkedDone {
				if len(after) != 0 {
					t.Errorf("%s: a done run put %d rows again", at, len(after))
				}
				continue
			}
			again := twice(t, at, docs, saved, known, before, after)
			t.Logf("%-22s %5d rows seen before, %5d again", at, len(before), again)
			letters := drover(t, "dead", "list", yaml, "--json").must(t, 0)
			if n := lines(letters.stdout); n != corrupt {
				t.Errorf("%s: %d letters, want %d", at, n, corrupt)
			}
		}
	}
	t.Logf("%d kills at %d steps", killed, len(crashpoint.Points))
}

func lines(s string) int {
	n := 0
	for _, c := range s {
		if c == '\n' {
			n++
		}
	}
	return n
}

// Killed at random times, again and again, a job ends equal.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	r := seed(t)
	const together = 5 // runs on one fleet, whose tables are kept in memory
	const limit = "limits: {rows: 20000}"
	runs := scaled(200, 10)
	file := dump(t, dumpgen.Options{Profile: dumpgen.KB, Docs: 18_000, Seed: r.Uint64()})
	docs := documents(t, file)
	var kills, resumes, again atomic.Int64
	t.Run("runs", func(t *testing.T) {
		for part := range runs / together {
			r := rand.New(rand.NewPCG(r.Uint64(), uint64(part)))
			t.Run(fmt.Sprint(part*together), func(t *testing.T) {
				t.Parallel()
				f := newFleet(t, 3)
				began := time.Now()
				drover(t, "run", job(t, "whole", file, "whole", f.addrs(), limit)).must(t, 0)
				whole := time.Since(began)
				for i := range together {
					name := fmt.Sprintf("random-%d", part*together+i)
					yaml := job(t, name, file, name, f.addrs(), limit)
					f.take()
					seen := map[string]int{}
					for try := 0; ; try++ {
						saved, known := readState(t, stateHome(t), name)
						p := start(t, "run", yaml, "--json")
						if try < 2 {
							killAfter(r, p, whole)
						}
						end := p.wait()
						now := f.take()
						if end.signal != syscall.SIGKILL {
							end.must(t, 0)
							end.json.close(t)
							again.Add(int64(twice(t, name, docs, saved, known, seen, now)))
							f.equal(t, name, file, end.json.Timestamp, nil)
							resumes.Add(int64(end.json.Resumed))
							break
						}
						kills.Add(1)
						for k, n := range now {
							seen[k] += n
						}
					}
				}
			})
		}
	})
	if kills.Load() < int64(runs/2) || resumes.Load() == 0 {
		t.Errorf("only %d kills and %d resumes in %d runs: the fault did not happen", kills.Load(), resumes.Load(), runs)
	}
	t.Logf("%d runs, %d kills, %d resumes, %d rows seen again", runs, kills.Load(), resumes.Load(), again.Load())
}

// killAfter kills a process at a time that chance picks, if it still runs then.
func killAfter(r *rand.Rand, p *process, most time.Duration) {
	timer := time.AfterFunc(time.Duration(r.Int64N(int64(most))), func() { p.signal(syscall.SIGKILL) })
	p.t.Cleanup(func() { timer.Stop() })
}
