package fleet

import (
	"strings"

	"drover/checkpoints"
)

// paths are the pool's nodes; the value is the root, such as /drover/main.
type paths string

func (p paths) leader() string                    { return string(p) + "/leader" }
func (p paths) term() string                      { return string(p) + "/term" }
func (p paths) tide() string                      { return string(p) + "/tide" }
func (p paths) workers() string                   { return string(p) + "/workers" }
func (p paths) worker(id string) string           { return string(p) + "/workers/" + id }
func (p paths) orders() string                    { return string(p) + "/assign" }
func (p paths) order(id string) string            { return string(p) + "/assign/" + id }
func (p paths) tables() string                    { return string(p) + "/tables" }
func (p paths) table(name string) string          { return string(p) + "/tables/" + name }
func (p paths) drains() string                    { return string(p) + "/drain" }
func (p paths) drain(worker string) string        { return string(p) + "/drain/" + worker }
func (p paths) audit() string                     { return string(p) + "/audit" }
func (p paths) jobs() string                      { return string(p) + "/jobs" }
func (p paths) job(job string) string             { return string(p) + "/jobs/" + job }
func (p paths) runs(job string) string            { return string(p) + "/jobs/" + job + "/runs" }
func (p paths) ticks(job string) string           { return string(p) + "/jobs/" + job + "/ticks" }
func (p paths) run(job, id string) string         { return string(p) + "/jobs/" + job + "/runs/" + id }
func (p paths) attempt(r runKey, a string) string { return p.run(r.job, r.id) + "/" + a }

// folders are made with the pool, but for the term, which comes last.
func (p paths) folders() []string {
	return []string{p.tide(), p.workers(), p.orders(), p.tables(), p.drains(), p.audit(), p.jobs()}
}

// runKey names a run.
type runKey struct{ job, id string }

func (k runKey) String() string { return k.job + "/" + k.id }

// runOf takes an attempt's path apart.
func (p paths) runOf(attempt string) (k runKey, ok bool) {
	rest, ok := strings.CutPrefix(attempt, p.jobs()+"/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 4 || parts[1] != "runs" {
		return k, false
	}
	return runKey{parts[0], parts[2]}, true
}

// base is the last part of a path.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// shardKey names a shard: its attempt's path and its number.
type shardKey struct {
	at string
	n  int
}

func (k shardKey) epochPath() string { return checkpoints.EpochPath(k.at, k.n) }
func (k shardKey) markPath() string  { return checkpoints.MarkPath(k.at, k.n) }
