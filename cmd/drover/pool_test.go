package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drover/fleet"
	"drover/fleet/share"
	"drover/hbase"
	"drover/jobfile"
	"drover/runner"
)

func parseJob(t *testing.T, text string) *jobfile.File {
	t.Helper()
	f, err := jobfile.Parse("/jobs/job.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const poolJob = `name: j
source: {mongodump: c.bson}
target: {table: TABLE, create: true, families: {d: {}}}
map: {key: _id, family: d}
limits: {rows: 500}
gateways: GATEWAYS
`

func jobOf(table, gateways, more string) string {
	return strings.NewReplacer("TABLE", table, "GATEWAYS", gateways).Replace(poolJob) + more
}

// Where a pool is named by several, the nearest to the command counts, and only the job file's own session and auth are its own.
func TestPoolAddress(t *testing.T) {
	f := parseJob(t, jobOf("t", "{static: [\"g:9090\"]}", "zookeeper: {servers: [\"file:2181\"], path: /f, session_timeout: 30s, auth: env:A}\n"))
	other := filepath.Join(t.TempDir(), "other.yaml")
	if err := os.WriteFile(other, []byte(jobOf("t", "{static: [\"g:9090\"]}", "zookeeper: other:2181/o\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags           poolFlags
		env             map[string]string
		file            *jobfile.File
		want, auth, err string
		session         time.Duration
	}{
		{want: ""},
		{file: f, want: "file:2181/f", session: 30 * time.Second, auth: "env:A"},
		{env: map[string]string{"DROVER_ZOOKEEPER": "env:2181", "DROVER_ZOOKEEPER_AUTH": "digest:a:b"}, file: f, want: "env:2181/drover/main", auth: "env:DROVER_ZOOKEEPER_AUTH"},
		{env: map[string]string{"DROVER_ZOOKEEPER": "env:2181", "DROVER_ZOOKEEPER_SESSION_TIMEOUT": "5s"}, flags: poolFlags{zookeeper: "flag:2181,flag:2182/x"}, want: "flag:2181,flag:2182/x", session: 5 * time.Second},
		{env: map[string]string{"DROVER_ZOOKEEPER_SESSION_TIMEOUT": "5s"}, file: f, flags: poolFlags{session: time.Second}, want: "file:2181/f", auth: "env:A", session: time.Second},
		{env: map[string]string{"DROVER_ZOOKEEPER": "env:2181"}, file: f, flags: poolFlags{jobFile: other}, want: "other:2181/o"},
		{flags: poolFlags{zookeeper: "flag"}, err: "--zookeeper"},
		{env: map[string]string{"DROVER_ZOOKEEPER": "x"}, err: "DROVER_ZOOKEEPER"},
		{env: map[string]string{"DROVER_ZOOKEEPER": "env:2181", "DROVER_ZOOKEEPER_SESSION_TIMEOUT": "5"}, err: "DROVER_ZOOKEEPER_SESSION_TIMEOUT"},
		{flags: poolFlags{zookeeper: "flag:2181", jobFile: other}, err: "one of them"},
	} {
		for _, name := range []string{"DROVER_ZOOKEEPER", "DROVER_ZOOKEEPER_AUTH", "DROVER_ZOOKEEPER_SESSION_TIMEOUT"} {
			t.Setenv(name, c.env[name])
		}
		a, ok, err := c.flags.address(c.file)
		if c.err != "" {
			if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v, want a usage error that names %s", c, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if got := a.String(); got != c.want || ok != (c.want != "") || a.Auth != c.auth || a.SessionTimeout != c.session {
			t.Errorf("%q (%v), auth %q, session %v; want %q, %q, %v", got, ok, a.Auth, a.SessionTimeout, c.want, c.auth, c.session)
		}
	}
}

// The pool is told of the limits as soon as the tables are known, and of what else it goes by.
func TestSpecOfAJob(t *testing.T) {
	f := parseJob(t, jobOf("t", "{static: [\"g:9090\"]}", "priority: high\nweight: 3\nneeds: {dc: east}\nschedule: 0 3 * * *\n"))
	s := specOf(submitted{Path: "/jobs/job.yaml", Text: "text"}, f)
	want := fleet.Limits{Puts: share.Limit{Rows: 500, Bytes: share.NoLimit.Bytes}, Scans: share.NoLimit}
	if s.Limits["t"] != want || len(s.Limits) != 1 || s.Class != 1 || s.Weight != 3 || s.Needs["dc"] != "east" || s.Schedule == nil {
		t.Errorf("the spec is %+v", s)
	}
	s = specOf(submitted{}, parseJob(t, jobOf(`"t_{collection}"`, "{static: [\"g:9090\"]}", "")))
	if len(s.Limits) != 0 {
		t.Errorf("the limits of tables that are not known yet are %v", s.Limits)
	}
	s = specOf(submitted{}, parseJob(t, `name: j
source: {hbase: {table: from, limits: {bytes: 1MiB}}}
target: {table: to, create: true}
gateways: {static: ["g:9090"]}
`))
	if s.Limits["from"] != (fleet.Limits{Puts: share.NoLimit, Scans: share.Limit{Rows: share.NoLimit.Rows, Bytes: 1 << 20}}) || s.Limits["to"] != fleet.NoLimits {
		t.Errorf("the limits of a copy are %v", s.Limits)
	}
}

// A native gateway is each process's own, so that a pool may work on such a job. It starts with the first connection.
func TestNativeGateways(t *testing.T) {
	f := parseJob(t, jobOf("t", `{native: "zk1:2181,zk2:2181"}`, ""))
	if err := noEmbedded(f.Job()); err != nil {
		t.Error(err)
	}
	cfg := runner.Config{Job: f.Job()}
	closer, err := connectTo(f, &cfg, true, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var eps []hbase.Endpoint
	err = cfg.Discover(ctx, func(now []hbase.Endpoint) {
		eps = now
		cancel()
	})
	if err != nil || len(eps) != 1 || eps[0].Addr != nativeEndpoint {
		t.Errorf("the gateways are %v, error %v", eps, err)
	}
	closer()
	if _, err := cfg.Dial(t.Context(), nativeEndpoint); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// A job with an embedded gateway, however it came into the pool, fails by name, and so does one from another version.
func TestWorkerRefuses(t *testing.T) {
	w := &worker{name: "w1"}
	file := submitted{Host: "h", Path: "/jobs/job.yaml", Text: jobOf("t", "{embedded: /data}", "")}.encode()
	_, planErr := w.plan(t.Context(), file, 0)
	workErr := w.work(t.Context(), fleet.Run{Job: "j", ID: "r", File: file}, nil)
	_, otherErr := w.plan(t.Context(), []byte("name: j"), 0)
	for err, want := range map[error]string{planErr: "gateways.embedded: /data", workErr: "job j names an embedded gateway", otherErr: "same version of drover"} {
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "worker w1: ") {
			t.Errorf("%v, want worker w1 and %q", err, want)
		}
	}
}
