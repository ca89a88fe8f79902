package fleet

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// memory is what a process has seen of ZooKeeper and must not see go back. It outlives sessions and leadership. A tree that
// was deleted, an old copy of it, or servers that were put back hold everything: what they say of the past is wrong, and work
// planned from it would be done again or, worse, taken for done.
//
// Its methods may be called from several goroutines.
type memory struct {
	mu       sync.Mutex
	term     int32  // highest version
	created  int64  // of the term's node, its zxid; 0 before one was seen
	tide     *int32 // the tide's version after the last beat; nil before one
	own      string // the path that this process beats at
	beats    int32  // its version after the last beat
	restored string
	runs     map[string]seenRun // by path
	why      map[string]string  // what holds, by what is wrong; empty when nothing does
}

type seenRun struct {
	created int64
	version int32
}

func newMemory() *memory {
	return &memory{runs: map[string]seenRun{}, why: map[string]string{}}
}

// sawTide takes the version that a beat of this process gave the tide. Each beat of any member raises it, but for those of members
// that hold. So after all that was seen here it is higher, whatever sessions came and went, or ZooKeeper was put back.
func (m *memory) sawTide(version int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tide != nil && version-*m.tide <= 0 { // a difference, as it begins anew beyond 2^31
		m.why["tide"] = fmt.Sprintf("the pool's beats are at %d now, %d was seen: ZooKeeper's servers were put back to an older state", version, *m.tide)
		return
	}
	m.tide = &version
}

// sawBeat takes the version that a beat gave a member's own node. It only grows, as nobody else writes it.
func (m *memory) sawBeat(path string, version int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if path == m.own && version <= m.beats {
		m.why["worker"] = fmt.Sprintf("%s has version %d now, and had %d: ZooKeeper's servers were put back to an older state", path, version, m.beats)
	}
	m.own, m.beats = path, version
}

// sawTerm takes the term's node as it stands.
func (m *memory) sawTerm(n node, t termRecord) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !n.exists && m.created == 0:
	case !n.exists:
		m.why["term"] = "the pool's term is gone: its tree in ZooKeeper was deleted"
	case m.created == 0 || t.Restored != m.restored:
		// The first one, or a restore: what was before counts no more.
		m.created, m.term, m.restored = n.created, n.version, t.Restored
		m.tide, m.own = nil, ""
		clear(m.runs)
		clear(m.why)
	case n.created != m.created || n.version < m.term:
		m.why["term"] = fmt.Sprintf("the pool's term is %d now, %d was seen: an old copy of its tree was put back", n.version, m.term)
	default:
		m.term = n.version
		delete(m.why, "term")
	}
	if delete(m.why, "alarm"); t.Held != "" {
		m.why["alarm"] = t.Held
	}
}

// sawRun takes a run's node as it stands, and tells whether it may be believed.
func (m *memory) sawRun(path string, n node) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen, known := m.runs[path]
	switch {
	case !n.exists && !known:
		return false
	case !n.exists:
		m.why[path] = path + " is gone, and no command takes runs away"
		return false
	case known && (n.created != seen.created || n.version < seen.version):
		m.why[path] = fmt.Sprintf("%s has version %d now, %d was seen: an old copy was put back", path, n.version, seen.version)
		return false
	}
	m.runs[path] = seenRun{n.created, n.version}
	delete(m.why, path)
	return true
}

// forgetRun is for a run that its end took away.
func (m *memory) forgetRun(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.runs, path)
	delete(m.why, path)
}

func (m *memory) isHeld() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.why) > 0
}

// alert says what holds, "" when nothing does. Of several reasons it is always the same one, the servers' or the term's before a
// run's, so that who logs its changes logs it once.
func (m *memory) alert() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.why) == 0 {
		return ""
	}
	return m.why[slices.Max(slices.Collect(maps.Keys(m.why)))]
}

// hold holds everything because of what is found missing or in disorder.
func (m *memory) hold(what, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.why[what] = why
}
