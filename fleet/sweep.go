package fleet

import (
	"strings"
	"time"
)

// sweepAfter is how long the nodes of a run's shards stay when it is over, for those who look and for zombies to be refused.
const sweepAfter = time.Minute

// sweep deletes the shards of a run that is over, whose record with its books stays. Their names are random: nobody makes them
// again.
func (l *leader) sweep(r *runState) {
	r.swept = true
	path := l.p.run(r.key.job, r.key.id)
	l.below(path, func(paths []string) {
		l.removeAll(paths)
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

// removeAll deletes nodes that are listed after their parents.
func (l *leader) removeAll(paths []string) {
	if len(paths) == 0 || l.over {
		return
	}
	n := min(len(paths), shardsPerWrite)
	var ops []op
	for i := range n {
		ops = append(ops, remove(paths[len(paths)-1-i], -1))
	}
	l.do(ops, n-1, func(v verdict) {
		if v.done {
			l.removeAll(paths[:len(paths)-n])
		}
	})
}
