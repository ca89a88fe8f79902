package fleet

import (
	"encoding/json"
	"fmt"
	"slices"

	"drover/checkpoints"
	"drover/jobs"
)

// Books are of a run that is done, over all who worked on it.
type Books struct {
	Tables map[string]checkpoints.Counts `json:"tables"`
	Totals checkpoints.Totals            `json:"totals"`
}

// finish ends a run whose shards are all done. What was heard of them does not count here: the run's version is read first,
// then every shard, and the end is written on condition of that version. A split writes the run's node, so it either is among
// what was read or makes the write fail.
func (l *leader) finish(r *runState) {
	r.busy = true
	at, path := r.at, l.p.run(r.key.job, r.key.id)
	l.get(path, true, func(n node) {
		if l.over {
			return
		}
		rec, err := decode[runRecord](path, n.data)
		if !n.exists || err != nil || rec.State != Running || l.p.attempt(r.key, rec.Attempt) != at {
			r.busy = false
			return
		}
		version := n.version
		l.marks(at, func(marks map[int]checkpoints.Mark, err error) {
			if l.over {
				return
			}
			r.busy = false
			if r.at != at {
				return
			}
			open := false
			for n, m := range marks {
				if m.Checkpoint != nil && m.Checkpoint.Done {
					continue
				}
				if open = true; n < len(r.shards) {
					r.shards[n].setDone(false) // whoever said so was wrong
				} // else it was split off, and is seen soon
			}
			if open || r.open > 0 || len(marks) != rec.Shards && len(r.shards) < rec.Shards {
				return
			}
			if err == nil {
				err = tile(marks, rec.Planned, rec.Shards)
			}
			if err != nil {
				// Unless a shard was split while they were read.
				r.busy = true
				l.get(path, true, func(n node) {
					if r.busy = false; !l.over && n.exists && n.version == version {
						l.memory.hold("the shards of "+path, fmt.Sprintf("run %s cannot be ended: %v", r.key, err))
					}
				})
				return
			}
			books := Books{Tables: map[string]checkpoints.Counts{}}
			state, why := Done, ""
			for _, n := range sortedShards(marks) {
				for table, c := range marks[n].Checkpoint.Tables {
					if !c.Balanced() {
						state, why = Failed, fmt.Sprintf("the books of shard %d do not close: read %d, written %d, filtered %d, dead %d", n, c.Read, c.Written, c.Filtered, c.Dead)
					}
					sum := books.Tables[table]
					sum.Add(c)
					books.Tables[table] = sum
				}
			}
			if l.wall != nil {
				rec.Ended = l.wall().UTC()
			}
			r.busy = true
			l.totals(at, func(t checkpoints.Totals) {
				books.Totals = t
				rec.State, rec.Reason, rec.Write, rec.Books = state, why, l.name(), &books
				l.do([]op{set(path, encode(rec), version), l.p.same(r.key, rec.Attempt)}, 0, func(verdict) { r.busy = false })
			})
		})
	})
}

// totals adds up what the processes counted that worked on an attempt.
func (l *leader) totals(at string, f func(checkpoints.Totals)) {
	l.list(at+"/t", func(names []string, _ bool) {
		var sum checkpoints.Totals
		left := len(names)
		if left == 0 {
			f(sum)
		}
		for _, name := range names {
			l.get(at+"/t/"+name, false, func(n node) {
				var t checkpoints.Totals
				if json.Unmarshal(n.data, &t) == nil { // one that never saved is empty
					sum.Add(t)
				}
				if left--; left == 0 && !l.over {
					f(sum)
				}
			})
		}
	})
}

func sortedShards(marks map[int]checkpoints.Mark) []int {
	list := make([]int, 0, len(marks))
	for n := range marks {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// marks reads all shards of an attempt, as they are listed.
func (l *leader) marks(at string, f func(map[int]checkpoints.Mark, error)) {
	marks := map[int]checkpoints.Mark{}
	var bad error
	open := 1
	closed := func() {
		if open--; open == 0 {
			f(marks, bad)
		}
	}
	l.list(at+"/c", func(buckets []string, _ bool) {
		for _, b := range buckets {
			open++
			l.list(at+"/c/"+b, func(names []string, _ bool) {
				for _, name := range names {
					open++
					l.get(at+"/c/"+b+"/"+name, false, func(n node) {
						m, err := checkpoints.DecodeMark(n.data)
						var number int
						if err == nil {
							_, err = fmt.Sscanf(name, "%d", &number)
						}
						if err != nil {
							bad = err
						} else {
							marks[number] = m
						}
						closed()
					})
				}
				closed()
			})
		}
		closed()
	})
}

// tile tells whether shards cover what was planned, each part once: the pieces of each planned shard follow one another from
// its start to its end, and none is left over.
func tile(marks map[int]checkpoints.Mark, planned, shards int) error {
	if len(marks) != shards {
		return fmt.Errorf("%d shards are there, the run has %d", len(marks), shards)
	}
	type span struct {
		n          int
		start, end string
	}
	pieces := map[int][]span{}
	for n, m := range marks {
		var s jobs.Shard
		if err := json.Unmarshal(m.Shard, &s); err != nil {
			return fmt.Errorf("shard %d: %w", n, err)
		}
		if n >= shards || m.Of >= planned || m.Of < 0 || n < planned && m.Of != n {
			return fmt.Errorf("shard %d of %d is out of place", n, m.Of)
		}
		pieces[m.Of] = append(pieces[m.Of], span{n, string(s.Start), string(s.End)})
	}
	for of := range planned {
		list := pieces[of]
		root := slices.IndexFunc(list, func(s span) bool { return s.n == of })
		if root < 0 {
			return fmt.Errorf("shard %d is missing", of)
		}
		at := list[root].end
		left := len(list) - 1
		for ; left > 0; left-- {
			next := slices.IndexFunc(list, func(s span) bool { return s.n != of && s.start == at })
			if next < 0 {
				return fmt.Errorf("shard %d: nothing goes on from %q", of, at)
			}
			at = list[next].end
			list[next].start = "\x00used"
		}
		if at != marks[of].Planned {
			return fmt.Errorf("shard %d ends at %q, it was planned to %q", of, at, marks[of].Planned)
		}
	}
	return nil
}
