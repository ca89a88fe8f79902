package fleet

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/fleet/tick"
)

const (
	// sweepAfter is how long the nodes of a run's shards stay when it is over, for those who look and for zombies to be refused.
	sweepAfter = time.Minute
	// keepRuns and keepFor are which runs stay with their books when they are over: a job's newest, and those that ended not
	// long ago. A schedule that fires each minute makes ten thousand in that time; a server keeps all of them in memory.
	keepRuns = 20
	keepFor  = 7 * 24 * time.Hour
	// keepTicks and keepCommands are how many decisions of a schedule stay, beside those of keepFor, and how many commands.
	keepTicks, keepCommands = 1000, 10_000
	// pruneEvery is how often one run is taken away, and it is looked whether one schedule has too many decisions. Nothing waits for it.
	pruneEvery = 10 * time.Second
)

// sweep deletes the shards of a run that is over, whose record with its books stays. Their names are random: nobody makes them
// again. A run with dead letters keeps its plan, by which they are replayed.
func (l *leader) sweep(r *runState) {
	r.swept = true
	path := l.p.run(r.key.job, r.key.id)
	keep := ""
	if b := r.record.Books; b != nil && r.record.Attempt != "" {
		for _, c := range b.Tables {
			if c.Dead > 0 {
				keep = l.p.attempt(r.key, r.record.Attempt)
			}
		}
	}
	l.below(path, func(paths []string) {
		if keep != "" {
			paths = slices.DeleteFunc(paths, func(p string) bool { return p == keep || p == keep+"/plan" || strings.HasPrefix(p, keep+"/plan/") })
		}
		l.removeAll(paths, func(bool) {})
	})
}

// prune takes away a run that has been over for long, with all that is still below it. Nobody looks for it any more: a job
// names its newest, and only those who work on a run watch it.
func (l *leader) prune() {
	if l.wall == nil || l.pruning || l.now-l.prunedAt < pruneEvery {
		return
	}
	l.prunedAt = l.now
	l.trim()
	by := map[string][]*runState{}
	for _, r := range l.runs {
		if !r.known {
			return // what is the newest is not known yet
		}
		if !r.pruned {
			by[r.key.job] = append(by[r.key.job], r)
		}
	}
	for _, job := range slices.Sorted(maps.Keys(by)) {
		j, runs := l.jobs[job], by[job]
		if j == nil || !j.known || len(runs) <= keepRuns {
			continue
		}
		slices.SortFunc(runs, func(a, b *runState) int {
			return cmp.Or(b.record.At.Compare(a.record.At), cmp.Compare(b.key.id, a.key.id))
		})
		for _, r := range slices.Backward(runs[keepRuns:]) {
			if r.busy || !r.swept || !r.record.State.final() || r.record.Ended.IsZero() || l.wall().Sub(r.record.Ended) < keepFor || r.key.id == j.record.Newest {
				continue
			}
			path := l.p.run(job, r.key.id)
			l.pruning = true
			l.below(path, func(paths []string) {
				l.removeAll(append([]string{path}, paths...), func(done bool) { // else it is listed anew the next time
					l.pruning, r.pruned = false, done
				})
			})
			return
		}
	}
}

// trim takes away old decisions of the next schedule in turn, or old commands. An instant whose decision is gone is not decided
// again: the job says up to where all is decided, and what a backup undoes of that is a week at most, or else long missed.
func (l *leader) trim() {
	turns := []string{""}
	for _, name := range slices.Sorted(maps.Keys(l.jobs)) {
		if l.jobs[name].known && l.jobs[name].record.Spec.Schedule != nil {
			turns = append(turns, name)
		}
	}
	l.trimmed++
	path, keep, young := l.p.audit(), keepCommands, func(string) bool { return false }
	if name := turns[l.trimmed%len(turns)]; name != "" {
		path, keep = l.p.ticks(name), keepTicks
		young = func(name string) bool {
			at, err := tick.Instant(name)
			return err != nil || l.wall().Sub(at) < keepFor
		}
	}
	l.list(path, func(names []string, _ bool) {
		if l.over || len(names) <= keep {
			return
		}
		slices.Sort(names)
		old := slices.DeleteFunc(names[:len(names)-keep], young)
		old = old[:min(len(old), shardsPerWrite)]
		for i := range old {
			old[i] = path + "/" + old[i]
		}
		l.removeAll(old, func(bool) {})
	})
}

// below lists all below a node, the deepest first.
func (l *leader) below(path string, f func([]string)) {
	var all []string
	open := 0
	var visit func(path string)
	visit = func(path string) {
		open++
		l.list(path, func(names []string, _ bool) {
			if l.over {
				return
			}
			for _, n := range names {
				child := path + "/" + n
				all = append(all, child)
				// Below jobs/JOB/runs/RUN are attempts, their folders, buckets and then shards, which have nothing below.
				if depth := strings.Count(child, "/") - strings.Count(string(l.p), "/"); depth < 8 {
					visit(child)
				}
			}
			if open--; open == 0 {
				f(all)
			}
		})
	}
	visit(path)
}

// removeAll deletes nodes that are listed after their parents, until one cannot be.
func (l *leader) removeAll(paths []string, f func(done bool)) {
	if len(paths) == 0 {
		f(true)
		return
	}
	n := min(len(paths), shardsPerWrite)
	var ops []op
	for i := range n {
		ops = append(ops, remove(paths[len(paths)-1-i], -1))
	}
	l.do(ops, n-1, func(v verdict) {
		if v.done {
			l.removeAll(paths[:len(paths)-n], f)
		} else {
			f(false)
		}
	})
}
