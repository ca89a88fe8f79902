package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drover/discovery"
	"drover/jobs"
)

func gws(addrs ...string) []discovery.Gateway {
	var out []discovery.Gateway
	for _, a := range addrs {
		out = append(out, discovery.Gateway{Addr: a})
	}
	return out
}

func TestTheListingOfEndpoints(t *testing.T) {
	t.Setenv("TZ", "UTC")
	since := time.Date(2024, 11, 1, 9, 30, 0, 0, time.Local)
	lost := []discovery.Gateway{{Addr: "10.0.0.3:9090", Name: "thrift_3"}}
	s := discovery.Status{
		From: discovery.Source,
		Use:  append([]discovery.Gateway{{Addr: "10.0.0.1:9090", Name: "thrift_1", Zone: "dc1"}}, lost...),
		View: discovery.View{Known: true, Gateways: []discovery.Gateway{
			{Addr: "10.0.0.1:9090", Name: "thrift_1", Zone: "dc1"},
			{Addr: "10.0.0.2:9090", Name: "thrift_2", Zone: "dc2", Out: "ok is false: threads exhausted"},
			{Name: "odd\x1b[31m", Out: "neither its data nor its name is an address"},
		}},
		Held: &discovery.Held{Since: since, Of: 5, Lost: lost},
	}
	rows := rowsOf(s)
	yes, no, ms := true, false, 2.345
	rows[0].Answers, rows[0].Millis, rows[0].Probe = &yes, &ms, "answers"
	rows[1].Answers, rows[1].Millis, rows[1].Probe = &no, &ms, "silent"
	rows[3].Answers, rows[3].Millis, rows[3].Probe = &yes, &ms, "answers"
	const want = `zookeeper zk1:2181 /buzzthrift: 2 gateways in use, as the source said before
HELD      the source lost 1 of 5 gateways: thrift_3; going on with 2 gateways of before until none of the lost answers, or a person runs drover endpoints confirm
          held since 2024-11-01 09:30:00

ADDRESS        NAME      ZONE  SOURCE  USED  PROBE    LATENCY  REASON
10.0.0.1:9090  thrift_1  dc1   in      yes   answers  2.3 ms
10.0.0.2:9090  thrift_2  dc2   out     no    silent   -        ok is false: threads exhausted
-              odd�[31m  -     out     no    -        -        neither its data nor its name is an address
10.0.0.3:9090  thrift_3  -     gone    yes   answers  2.3 ms
`
	var out strings.Builder
	if err := printEndpoints(&out, "zookeeper zk1:2181 /buzzthrift", s, rows, 0); err != nil {
		t.Fatal(err)
	}
	if out.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", out.String(), want)
	}
	out.Reset()
	if err := printEndpoints(&out, "x", s, rows, 70); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(out.String(), "\n\n")
	for line := range strings.Lines(table) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 70 {
			t.Errorf("%d columns on a terminal of 70: %q", n, line)
		}
	}
}

func TestWhatIsWrittenForOtherProgramsCanBeReadAgain(t *testing.T) {
	set := []discovery.Gateway{{Addr: "10.0.0.1:9090", Name: "thrift_1", Zone: "dc1"}, {Addr: "[::1]:9090"}}
	for _, format := range []string{"json", "list"} {
		data, err := render(format, "a\nb", set)
		if err != nil {
			t.Fatal(err)
		}
		got, err := discovery.ParseFile(data)
		if err != nil || len(got) != 2 || got[0].Addr != set[0].Addr || got[1].Addr != set[1].Addr {
			t.Errorf("%s is read as %v, %v:\n%s", format, got, err, data)
		}
		if format == "json" && (!json.Valid(data) || got[0] != set[0]) {
			t.Errorf("JSON loses what it had: %v", got)
		}
	}
	data, err := render("haproxy", "zookeeper", append(set, discovery.Gateway{Addr: "gw:1", Name: "thrift 1"}, discovery.Gateway{Addr: "gw:2", Name: "thrift/1"}))
	const want = `# written by drover endpoints from zookeeper; reload haproxy when it changes
backend drover_gateways
    mode tcp
    balance leastconn
    server thrift_1 10.0.0.1:9090 check
    server ___1__9090 [::1]:9090 check
    server thrift_1_2 gw:1 check
    server thrift_1_3 gw:2 check
`
	if err != nil || string(data) != want {
		t.Errorf("%v, for haproxy:\n%s\nwant:\n%s", err, data, want)
	}
}

func TestTheFileForOtherProgramsIsTriedAgainAndNeverEmptied(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "away", "gateways")
		k := &fileKeeper{path: path, format: "list", what: "x", log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		sets := make(chan []discovery.Gateway)
		ended := make(chan error, 1)
		fault := errors.New("no permission")
		go func() {
			ended <- k.run(ctx, func(ctx context.Context, update func([]discovery.Gateway)) error {
				for gs := range sets {
					update(gs)
				}
				return fault
			})
		}()
		sets <- gws("a:1")
		synctest.Wait()
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeAgain + time.Second)
		synctest.Wait()
		read := func() string {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		if !strings.Contains(read(), "a:1\n") {
			t.Errorf("the file is %q", read())
		}
		sets <- gws("b:1")
		synctest.Wait()
		if strings.Contains(read(), "a:1\n") || !strings.Contains(read(), "b:1\n") {
			t.Errorf("the file is %q", read())
		}
		close(sets)
		if err := <-ended; err != fault {
			t.Errorf("it ends with %v, want %v", err, fault)
		}
		cancel()
		if !strings.Contains(read(), "b:1\n") {
			t.Errorf("at the end the file is %q", read())
		}
	})
}

func TestEachSourceHasAFolderOfItsOwn(t *testing.T) {
	t.Setenv("DROVER_GATEWAYS", t.TempDir())
	dirs := map[string]jobs.Gateways{}
	for _, g := range []jobs.Gateways{
		{Static: []string{"a:1", "b:1"}},
		{Static: []string{"a:1"}},
		{File: "/a"},
		{File: "/b"},
		{DNS: "a:1"},
	} {
		s, err := openGateways(nil, g, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := dirs[s.dir]; taken {
			t.Errorf("%+v and %+v share %s", g, other, s.dir)
		}
		dirs[s.dir] = g
		if s.trust != (g.Static != nil) {
			t.Errorf("trust in %+v is %v", g, s.trust)
		}
	}
	a, _ := openGateways(nil, jobs.Gateways{Static: []string{"b:1", "A:1"}}, slog.New(slog.DiscardHandler))
	if _, known := dirs[a.dir]; !known {
		t.Error("the order of a list makes it another source")
	}

	if _, _, err := onlySource(gatewaysDir()); err == nil {
		t.Error("a source of which there is nothing was found")
	}
	a.note()
	dir, what, err := onlySource(gatewaysDir())
	if err != nil || dir != a.dir || what != a.what {
		t.Errorf("the only source is %s, %s, %v", dir, what, err)
	}
	b, _ := openGateways(nil, jobs.Gateways{File: "/a"}, slog.New(slog.DiscardHandler))
	b.note()
	if _, _, err := onlySource(gatewaysDir()); err == nil || !strings.Contains(err.Error(), "file /a") {
		t.Errorf("with two sources: %v", err)
	}
}

// Gateways that live only with a run cannot be listed, pinned or confirmed.
func TestGatewaysOfARunHaveNoEndpoints(t *testing.T) {
	for gateways, want := range map[string]string{"{embedded: data}": "embedded gateway", `{native: "zk:2181"}`: "gateways.native"} {
		path := filepath.Join(t.TempDir(), "job.yaml")
		if err := os.WriteFile(path, []byte(jobOf("t", gateways, "")), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := new(sourceFlags).open([]string{path}, slog.New(slog.DiscardHandler))
		if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a usage error that names %s", gateways, err, want)
		}
	}
}

func TestGatewayFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--hbase zk:2181 --dir data":    "--hbase and --dir are both given",
		"--hbase zk:2181 --dialect 2.x": "--hbase and --dialect are both given",
		"--hbase zk":                    `--hbase: "zk" has no port`,
		"--dialect 3":                   "want 2.x or 1.x",
	} {
		c := gatewayCommand()
		c.SetArgs(strings.Fields(args))
		c.SilenceErrors, c.SilenceUsage = true, true
		if err := c.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

func TestASecretIsTakenFromTheEnvironmentAndNotShown(t *testing.T) {
	t.Setenv("ZK_AUTH", "digest:drover:secret:with:colons")
	a, err := zookeeperAuth("env:ZK_AUTH")
	if err != nil || a.Scheme != "digest" || a.Credential != "drover:secret:with:colons" {
		t.Errorf("got %+v, %v", a, err)
	}
	t.Setenv("ZK_AUTH", "hunter2")
	if _, err := zookeeperAuth("env:ZK_AUTH"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a secret that is not understood: %v", err)
	}
	if _, err := zookeeperAuth("env:NOT_SET_ANYWHERE"); err == nil || !strings.Contains(err.Error(), "NOT_SET_ANYWHERE") {
		t.Errorf("a variable that is not set: %v", err)
	}
}
