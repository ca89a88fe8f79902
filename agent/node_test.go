package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"drover/zookeeper"
)

func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		raw    string
		ok     bool
		reason string
		want   string // "" is refused
	}{
		{``, true, "", `{"ok": true}`},
		{`{}`, false, "", `{"ok": false}`},
		{`{"ok":true}`, true, "", `{"ok": true}`},
		{` {"ok" : true} `, false, "", `{"ok": false}`},
		{`{"zone":"dc1","ok":true,"weight":1.50,"tags":[1, {"a":null}]}`, false, "", `{"zone": "dc1", "ok": false, "weight": 1.50, "tags": [1, {"a":null}]}`},
		{`{"addr":"10.0.0.1:9090"}`, false, "", `{"addr": "10.0.0.1:9090", "ok": false}`},
		{`{"ok":true,"n":12345678901234567890}`, false, "", `{"ok": false, "n": 12345678901234567890}`},
		{`{"ok":true,"ok":false,"ä\"":1}`, true, "", `{"ok": true, "ä\"": 1}`},
		{`{"ok": true}`, false, "dead: \"x\"", `{"ok": false, "reason": "dead: \"x\""}`},
		{`{"ok": false, "reason": "dead", "zone": "a"}`, true, "sound", `{"ok": true, "zone": "a"}`},
		{`{"ok": false, "reason": "by Ann"}`, true, "", `{"ok": true, "reason": "by Ann"}`},
		{`10.0.0.1:9090`, false, "", ``},
		{`[true]`, false, "", ``},
		{`{"ok": true`, false, "", ``},
		{`{"ok": true} x`, false, "", ``},
		{`{"ok": true}{}`, false, "", ``},
	} {
		got, err := rewrite([]byte(c.raw), c.ok, c.reason)
		if err != nil {
			got = nil
		}
		if string(got) != c.want {
			t.Errorf("rewrite %s as %v, %q: %s, %v; want %s", c.raw, c.ok, c.reason, got, err, c.want)
		}
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add(`{"ok": true}`, false)
	f.Add(`{"a":{"ok":1},"ok":null}`, true)
	f.Add(`{"\u0000":0}`, true)
	f.Fuzz(func(t *testing.T, raw string, ok bool) {
		got, err := rewrite([]byte(raw), ok, "")
		if err != nil {
			return
		}
		var before, after map[string]any
		if strings.TrimSpace(raw) != "" {
			if err := json.Unmarshal([]byte(raw), &before); err != nil {
				t.Fatalf("%q is no object, and was taken: %v", raw, err)
			}
		}
		if err := json.Unmarshal(got, &after); err != nil {
			t.Fatalf("%q became %q: %v", raw, got, err)
		}
		if after["ok"] != ok {
			t.Fatalf("%q became %q", raw, got)
		}
		delete(before, "ok")
		delete(after, "ok")
		was, _ := json.Marshal(before)
		is, _ := json.Marshal(after)
		if len(before)+len(after) > 0 && string(was) != string(is) {
			t.Fatalf("%q became %q: %s beside ok was %s", raw, got, is, was)
		}
		again, err := rewrite(got, ok, "")
		if err != nil || string(again) != string(got) {
			t.Fatalf("%q became %q, and then %q, %v", raw, got, again, err)
		}
	})
}

func TestDecide(t *testing.T) {
	node := func(data string, version int32) zookeeper.Node {
		return zookeeper.Node{Exists: true, Data: []byte(data), Stat: zookeeper.Stat{Czxid: 7, Version: version}}
	}
	own := func(version int32) memory { return memory{Own: &mark{7, version}} }
	for _, c := range []struct {
		name string
		f    facts
		do   doing
		data string
		held string
	}{
		{"says it", facts{node: node(`{"ok": true}`, 3), want: true}, leave, "", ""},
		{"takes it out", facts{node: node(`{"ok": true}`, 3)}, write, `{"ok": false}`, ""},
		{"takes its own no back", facts{node: node(`{"ok": false}`, 3), memory: own(3), want: true}, write, `{"ok": true}`, ""},
		{"leaves another one's no", facts{node: node(`{"ok": false}`, 4), memory: own(3), want: true}, leave, "", "somebody else"},
		{"leaves a no of another node", facts{node: node(`{"ok": false}`, 3), memory: memory{Own: &mark{6, 3}}, want: true}, leave, "", "somebody else"},
		{"agrees with another one's no", facts{node: node(`{"ok": false}`, 4)}, leave, "", ""},
		{"knows a write without an answer", facts{node: node(`{"ok": false}`, 4), memory: memory{Intent: &intent{7, 3, `{"ok": false}`}}, want: true}, write, `{"ok": true}`, ""},
		{"not if it is another's", facts{node: node(`{"ok":false}`, 4), memory: memory{Intent: &intent{7, 3, `{"ok": false}`}}, want: true}, leave, "", "somebody else"},
		{"fills an empty node", facts{node: node(``, 0), want: true}, write, `{"ok": true}`, ""},
		{"an address alone is ok", facts{node: node(`{"addr":"a:1"}`, 0), want: true}, leave, "", ""},
		{"cannot keep an address", facts{node: node(`10.0.0.1:9090`, 0), want: true}, leave, "", "cannot be kept"},
		{"no bool", facts{node: node(`{"ok":"yes"}`, 0)}, leave, "", "neither true nor false"},
		{"makes it when it is sound", facts{want: true, create: true}, create, `{"ok": true}`, ""},
		{"and not before", facts{create: true}, leave, "", ""},
		{"nor unless it may", facts{want: true}, leave, "", "--create"},
		{"nor if it was deleted", facts{want: true, create: true, seen: true}, leave, "", "deleted"},
	} {
		s := decide(c.f)
		if s.doing != c.do || string(s.data) != c.data || (s.held == "") != (c.held == "") || !strings.Contains(s.held, c.held) {
			t.Errorf("%s: %d, %s, held %q", c.name, s.doing, s.data, s.held)
		}
	}
}

func TestMetrics(t *testing.T) {
	const page = `{"beans": [
		{"name": "java.lang:type=Memory", "numActiveWorkers": 99},
		{"name": "Hadoop:service=HBase,name=Thrift,sub=ThriftTwo", "modelerType": "x", "tag.Context": "thrift", "numActiveWorkers": 12,
		 "callQueueLen": 3, "put_num_ops": 40, "exists_num_ops": 2, "put_max": 7}]}`
	m, err := parseMetrics([]byte(page))
	if want := (Metrics{Workers: 12, Queue: 3, Ops: 42}); err != nil || m != want {
		t.Errorf("metrics are %+v, %v; want %+v", m, err, want)
	}
	for _, bad := range []string{"", "<html>", `{"beans": []}`, `{"beans": 1}`} {
		if m, err := parseMetrics([]byte(bad)); err == nil {
			t.Errorf("%q has the metrics %+v", bad, m)
		}
	}
}

func FuzzMetrics(f *testing.F) {
	f.Add([]byte(`{"beans": [{"name": "sub=Thrift", "numActiveWorkers": 1e300}]}`))
	f.Fuzz(func(_ *testing.T, page []byte) { parseMetrics(page) })
}

func TestGaugesExplainAndNoMore(t *testing.T) {
	g := gauges{threads: 10}
	now := start
	for i, c := range []struct {
		probe Trouble
		m     Metrics
		want  Trouble
		why   string
	}{
		{Sound, Metrics{Workers: 9, Ops: 5}, Sound, ""},
		{Sound, Metrics{Workers: 10, Ops: 5}, Sound, ""}, // it is old: the probe had a thread
		{Stalled, Metrics{Workers: 10, Ops: 5}, Exhausted, "10 connections hold its 10 threads"},
		{Stalled, Metrics{Workers: 9, Ops: 6}, Stalled, "silent"},
		{Stalled, Metrics{Workers: 9, Queue: 2, Ops: 6}, Stalled, "silent"},
		{Stalled, Metrics{Workers: 9, Queue: 2, Ops: 6}, Stalled, "silent"},
		{Stalled, Metrics{Workers: 9, Queue: 2, Ops: 6}, Stalled, "silent; none of its calls has ended for 24s, and 2 wait"},
		{Dead, Metrics{Workers: 10, Queue: 2, Ops: 6}, Dead, "silent"},
		{Stalled, Metrics{Workers: 9, Queue: 2, Ops: 7}, Stalled, "silent"},
	} {
		now = now.Add(8 * time.Second)
		l := Look{At: now, Trouble: c.probe, Reason: "silent"}
		if c.probe == Sound {
			l.Reason = ""
		}
		g.read(c.m, now)
		g.explain(&l)
		if l.Trouble != c.want || l.Reason != c.why {
			t.Errorf("look %d, %+v: %q %q; want %q %q", i, c.m, l.Trouble, l.Reason, c.want, c.why)
		}
	}
}
