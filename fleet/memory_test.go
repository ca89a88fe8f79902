package fleet

import (
	"errors"
	"strings"
	"testing"
)

func TestMemoryHoldsWhenZooKeeperGoesBack(t *testing.T) {
	term := func(created int64, version int32, restored string) (node, termRecord) {
		return node{exists: true, created: created, version: version}, termRecord{Restored: restored}
	}
	began := func() *memory {
		m := newMemory()
		m.sawTerm(term(10, 5, ""))
		m.sawTide(200)
		m.sawRun("/r", node{exists: true, created: 50, version: 3})
		if m.isHeld() {
			t.Fatalf("held from the beginning: %s", m.alert())
		}
		return m
	}
	for name, c := range map[string]struct {
		harm, mend func(m *memory)
		says       string
	}{
		"the tree is gone":           {func(m *memory) { m.sawTerm(node{}, termRecord{}) }, func(m *memory) { m.sawTerm(term(10, 5, "")) }, "deleted"},
		"another tree":               {func(m *memory) { m.sawTerm(term(300, 9, "")) }, func(m *memory) { m.sawTerm(term(300, 10, "x")) }, "old copy"},
		"an old term":                {func(m *memory) { m.sawTerm(term(10, 4, "")) }, func(m *memory) { m.sawTerm(term(10, 4, "x")) }, "5 was seen"},
		"old servers":                {func(m *memory) { m.sawTide(150) }, func(m *memory) { m.sawTerm(term(10, 5, "x")) }, "older state"},
		"old servers that beat once": {func(m *memory) { m.sawTide(200) }, func(m *memory) { m.sawTerm(term(10, 5, "x")) }, "older state"},
		"told by another": {
			func(m *memory) { n, r := term(10, 6, ""); r.Held = "w found: it"; m.sawTerm(n, r) }, func(m *memory) { m.sawTerm(term(10, 7, "x")) }, "w found: it",
		},
		"an old run": {
			func(m *memory) { m.sawRun("/r", node{exists: true, created: 50, version: 2}) },
			func(m *memory) { m.sawRun("/r", node{exists: true, created: 50, version: 3}) }, "/r has version 2",
		},
		"a run made anew": {
			func(m *memory) { m.sawRun("/r", node{exists: true, created: 300, version: 4}) },
			func(m *memory) { m.sawTerm(term(10, 6, "x")) }, "old copy",
		},
		"a run is gone": {func(m *memory) { m.sawRun("/r", node{}) }, func(m *memory) { m.sawTerm(term(10, 6, "x")) }, "gone"},
		"shards are gone": {
			func(m *memory) { m.hold("/r/a/c/0", "/r/a/c/0 is gone") }, func(m *memory) { m.sawTerm(term(10, 6, "x")) }, "gone",
		},
	} {
		m := began()
		c.harm(m)
		if !m.isHeld() || !strings.Contains(m.alert(), c.says) {
			t.Errorf("%s: held %v, %q", name, m.isHeld(), m.alert())
		}
		c.mend(m)
		if m.isHeld() {
			t.Errorf("%s, mended: still held: %s", name, m.alert())
		}
	}
	m := began()
	m.sawTerm(node{}, termRecord{})
	for n := range 20 { // of several reasons it tells one: a deleted tree wrote a line of log for each look
		m.sawRun("/r", node{})
		m.hold("/r/a/c/0", "/r/a/c/0 is gone")
		if a := m.alert(); !strings.Contains(a, "tree in ZooKeeper was deleted") {
			t.Fatalf("look %d tells %q", n, a)
		}
	}
	m = began()
	for _, v := range []int32{1<<31 - 1, -1 << 31, -1<<31 + 1} {
		if m.sawTide(v); m.isHeld() && v != 1<<31-1 {
			t.Errorf("held by a tide that begins anew: %s", m.alert())
		}
	}
	m = began()
	m.sawTerm(term(10, 6, ""))
	if !m.sawRun("/r", node{exists: true, created: 50, version: 9}) || m.sawRun("/new", node{}) || m.isHeld() {
		t.Errorf("held by what is new: %s", m.alert())
	}
}

// A record of another format is refused by name, and nothing is taken from it.
func TestOtherFormatsAreRefused(t *testing.T) {
	_, err := decode[beatRecord]("/p/workers/old-host", []byte(`{"v":2,"name":"old-host","capacity":5}`))
	if f, ok := errors.AsType[*FormatError](err); !ok || f.Have != 2 || !strings.Contains(err.Error(), "old-host") {
		t.Errorf("%v", err)
	}
	if _, err := decode[beatRecord]("/p/workers/x", []byte(`{`)); err == nil {
		t.Error("half a record is taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"rev":3,"shards":{"/a":[{"n":1,"e":2}]},"grants":[{"table":"t","kind":"puts","list":[{"id":1,"part":0.5}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := decode[orderRecord]("/o", data)
		if err != nil {
			return
		}
		if _, err := decode[orderRecord]("/o", encode(o)); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}
