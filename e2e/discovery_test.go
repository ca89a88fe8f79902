package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/e2e/stack"
	"drover/hbase/gateway"
	"drover/jobs/mongodump/dumpgen"
	"drover/zookeeper"
)

// What the discovery of gateways promises, on a real ZooKeeper and with embedded gateways: nodes as operators and agents keep
// them, a daemon that writes what is in use into a file, and a job that goes through all of it.

// registry is gateways that are registered in a ZooKeeper.
type registry struct {
	t       *testing.T
	zoo     *stack.Ensemble
	client  *zookeeper.Client
	fleet   *fleet
	servers map[string]*gateway.Server // by the name of their nodes
}

const registryPath = "/buzzthrift"

func register(t *testing.T, servers, gateways int) *registry {
	t.Helper()
	e := ensemble(t, servers)
	client, err := zookeeper.Open(zookeeper.Config{Servers: e.Addrs()})
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	r := &registry{t: t, zoo: e, client: client, fleet: newFleet(t, gateways), servers: map[string]*gateway.Server{}}
	must(t, client.CreateAll(t.Context(), registryPath))
	for i, s := range r.fleet.servers {
		name := fmt.Sprintf("thrift_%02d", i+1)
		r.servers[name] = s
		r.put(name, `{"ok": true}`)
	}
	return r
}

func (r *registry) names() []string {
	var names []string
	for name := range r.servers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// put writes a node, which may be new.
func (r *registry) put(name, data string) {
	r.t.Helper()
	path := registryPath + "/" + name
	err := r.client.Create(r.t.Context(), path, []byte(data))
	if errors.Is(err, zookeeper.ErrNodeExists) {
		_, err = r.client.Set(r.t.Context(), path, []byte(data), zookeeper.AnyVersion)
	}
	must(r.t, err)
}

func (r *registry) remove(names ...string) {
	r.t.Helper()
	for _, name := range names {
		must(r.t, r.client.Delete(r.t.Context(), registryPath+"/"+name, zookeeper.AnyVersion))
	}
}

// addrs are those of nodes, sorted.
func (r *registry) addrs(names ...string) []string {
	var out []string
	for _, name := range names {
		out = append(out, r.servers[name].Addr())
	}
	slices.Sort(out)
	return out
}

// gateways is the section of a job file.
func (r *registry) gateways() string {
	var rule []string
	for name, s := range r.servers {
		rule = append(rule, fmt.Sprintf("%s: %q", name, s.Addr()))
	}
	slices.Sort(rule)
	var servers []string
	for _, a := range r.zoo.Addrs() {
		servers = append(servers, fmt.Sprintf("%q", a))
	}
	return fmt.Sprintf("{outage_limit: 2m, connections: 2, zookeeper: {servers: [%s], path: %s, session_timeout: 4s, address: {%s}}}",
		strings.Join(servers, ", "), registryPath, strings.Join(rule, ", "))
}

// job writes a job file of these gateways.
func (r *registry) job(source string, rows int) string {
	return jobFile(r.t, fmt.Sprintf(`name: registered
source: {mongodump: %s}
target: {table: registered, create: true, regions: 4, families: {d: {}}}
map: {key: _id, family: d}
limits: {rows: %d}
gateways: %s
`, source, rows, r.gateways()))
}

// listing is what drover endpoints --json prints.
type listing struct {
	From   string            `json:"from"`
	Alerts map[string]string `json:"alerts"`
	Held   *struct {
		Empty bool `json:"empty"`
		Of    int  `json:"of"`
	} `json:"held"`
	Gateways []struct {
		Name    string `json:"name"`
		Addr    string `json:"addr"`
		Source  string `json:"source"`
		Used    bool   `json:"used"`
		Answers *bool  `json:"answers"`
		Reason  string `json:"reason"`
	} `json:"gateways"`
}

func (l listing) used() []string {
	var out []string
	for _, g := range l.Gateways {
		if g.Used {
			out = append(out, g.Addr)
		}
	}
	slices.Sort(out)
	return out
}

func endpointsOf(t *testing.T, job string) listing {
	t.Helper()
	out := drover(t, "endpoints", "--json", job)
	var l listing
	if err := json.Unmarshal([]byte(out.stdout), &l); err != nil {
		t.Fatalf("drover endpoints: %v\n%s\n%s", err, out.stdout, out.stderr)
	}
	return l
}

// written gives the addresses in a file of the daemon, sorted.
func written(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var content struct {
		Gateways []struct {
			Addr string `json:"addr"`
		} `json:"gateways"`
	}
	if err := json.Unmarshal(data, &content); err != nil {
		return nil, fmt.Errorf("%w in %q", err, data)
	}
	var out []string
	for _, g := range content.Gateways {
		out = append(out, g.Addr)
	}
	slices.Sort(out)
	return out, nil
}

// becomes waits until the daemon's file names exactly these.
func becomes(t *testing.T, file string, within time.Duration, want []string) {
	t.Helper()
	soon(t, within, func() error {
		got, err := written(file)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("the file names %v, want %v", got, want)
		}
		return err
	})
}

func TestTheGuardActsAsToldOnARealZooKeeper(t *testing.T) {
	t.Parallel()
	r := register(t, 3, 10)
	all := r.names()
	source := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: int64(scaled(120_000, 60_000)), Seed: 1})
	job := r.job(source, 1500)
	file := filepath.Join(t.TempDir(), "gateways.json")

	daemon := start(t, "endpoints", "--write", file, job)
	becomes(t, file, 20*time.Second, r.addrs(all...))
	run := start(t, "run", "--json", "--quiet", job)

	// stays checks that nothing changes though the guard had the time to look, and that it says what it holds.
	stays := func(what string, want []string, empty bool) {
		t.Helper()
		soon(t, 10*time.Second, func() error {
			l := endpointsOf(t, job)
			if l.Held == nil || l.Held.Empty != empty {
				return fmt.Errorf("%s: nothing of it is held: %+v", what, l)
			}
			if !slices.Equal(l.used(), want) {
				t.Fatalf("%s: in use are %v, want %v", what, l.used(), want)
			}
			return nil
		})
		if got, err := written(file); err != nil || !slices.Equal(got, want) {
			t.Fatalf("%s: the file names %v, %v; want %v", what, got, err, want)
		}
	}
	heals := func() {
		t.Helper()
		for _, name := range all {
			r.put(name, `{"ok": true}`)
		}
		soon(t, 10*time.Second, func() error {
			if l := endpointsOf(t, job); l.Held != nil || len(l.used()) != len(all) {
				return fmt.Errorf("after all came back: %+v", l)
			}
			return nil
		})
	}

	r.remove(all...)
	stays("deleted to none", r.addrs(all...), true)
	if out := drover(t, "endpoints", "confirm", job); out.code == 0 || !strings.Contains(out.stderr, "cannot be confirmed") {
		t.Errorf("an empty set was confirmed: %+v", out)
	}
	heals()

	r.remove(all[4:]...)
	stays("deleted to 40 %", r.addrs(all...), false)
	drover(t, "endpoints", "confirm", job).must(t, 0)
	becomes(t, file, 10*time.Second, r.addrs(all[:4]...))
	heals()
	becomes(t, file, 10*time.Second, r.addrs(all...))

	// New nodes with wrong addresses in the place of all: the job file's rule knows nothing of their names.
	r.remove(all...)
	nobody := closedPort(t)
	for i := range 10 {
		r.put(fmt.Sprintf("wrong_%d", i), fmt.Sprintf(`{"ok": true, "host": "127.0.0.%d", "port": %s}`, i+2, nobody))
	}
	stays("replaced by wrong addresses", r.addrs(all...), false)
	for i := range 10 {
		r.remove(fmt.Sprintf("wrong_%d", i))
	}
	heals()

	// By hand: a few are taken at once, and half of them are not while they answer.
	r.put(all[0], `{"ok": false}`)
	r.put(all[1], `{"ok": false, "reason": "maintenance"}`)
	becomes(t, file, 10*time.Second, r.addrs(all[2:]...))
	for _, g := range endpointsOf(t, job).Gateways {
		if g.Name == all[1] && (g.Source != "out" || !strings.Contains(g.Reason, "maintenance") || g.Answers == nil || !*g.Answers) {
			t.Errorf("a gateway that is blocked by hand is listed as %+v", g)
		}
	}
	heals()
	for _, name := range all[5:] {
		r.put(name, `{"ok": false}`)
	}
	stays("half of them blocked by hand", r.addrs(all...), false)
	heals()

	// A pin goes before all of it.
	pin := filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(pin, []byte(strings.Join(r.addrs(all[:2]...), "\n")+"\n"), 0o644))
	drover(t, "endpoints", "pin", pin, job).must(t, 0)
	becomes(t, file, 10*time.Second, r.addrs(all[:2]...))
	r.remove(all[3:]...)
	becomes(t, file, time.Second, r.addrs(all[:2]...))
	for _, name := range all[3:] {
		r.put(name, `{"ok": true}`)
	}
	drover(t, "endpoints", "unpin").must(t, 0) // the one source that is known
	becomes(t, file, 10*time.Second, r.addrs(all...))

	// ZooKeeper away: nothing changes, and who starts now goes on with the last good set.
	for _, p := range r.zoo.Servers {
		must(t, p.Kill())
	}
	second := filepath.Join(t.TempDir(), "second.json")
	other := start(t, "endpoints", "--write", second, job)
	becomes(t, second, 20*time.Second, r.addrs(all...))
	if l := endpointsOf(t, job); l.From != "last-good" || l.Alerts["last-good"] == "" || l.Alerts["problem"] == "" {
		t.Errorf("without ZooKeeper: %+v", l)
	}
	must(t, r.zoo.Restart(t.Context()))
	soon(t, 30*time.Second, func() error {
		if l := endpointsOf(t, job); l.From != "source" || l.Held != nil {
			return fmt.Errorf("with ZooKeeper back: %+v", l)
		}
		return nil
	})

	// Six that die, and whose nodes go: silence is proof.
	for _, name := range all[4:] {
		must(t, r.servers[name].Close())
	}
	r.remove(all[4:]...)
	stays("six that died", r.addrs(all...), false)
	becomes(t, file, 60*time.Second, r.addrs(all[:4]...))

	res := run.wait().must(t, 0)
	res.json.close(t)
	r.fleet.equal(t, "registered", source, res.json.Timestamp, nil)
	t.Logf("the job moved %d rows in %.0f s, with %d retries", res.json.Rows, res.json.Seconds, res.json.Retries)
	for _, p := range []*process{daemon, other} {
		p.signal(syscall.SIGTERM)
		if out := p.wait().must(t, 0); !strings.Contains(out.stderr, "gateways written") {
			t.Errorf("the daemon says %q", out.stderr)
		}
	}
}

// closedPort is one at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}

func TestAMissingPermissionInZooKeeperEndsARunAtOnceNamingIt(t *testing.T) {
	t.Parallel()
	r := register(t, 1, 1)
	secret := "digest:drover:secret"
	owner, err := zookeeper.Open(zookeeper.Config{
		Servers: r.zoo.Addrs(), Auth: []zookeeper.Auth{{Scheme: "digest", Credential: "drover:secret"}},
		ACL: []zookeeper.ACL{{Perms: 31, Scheme: "auth"}},
	})
	must(t, err)
	defer owner.Close()
	must(t, owner.Create(t.Context(), registryPath+"/thrift_99", []byte(`{"ok": true}`)))
	source := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10, Seed: 1})
	job := r.job(source, 1000)
	out := drover(t, "run", "--quiet", job).must(t, 1)
	if !strings.Contains(out.stderr, registryPath+"/thrift_99") || !strings.Contains(out.stderr, "READ") {
		t.Errorf("the reason names neither path nor permission: %s", out.stderr)
	}
	text, err := os.ReadFile(job)
	must(t, err)
	with := jobFile(t, strings.Replace(string(text), "session_timeout: 4s", "session_timeout: 4s, auth: env:ZK_AUTH", 1))
	drover(t, "ZK_AUTH="+secret, "run", "--quiet", with).must(t, 0)
}

// kazoo is Python's client of ZooKeeper, which those who register gateways use.
func kazoo(t *testing.T, e *stack.Ensemble, script string) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		skipUnlessCI(t, err)
	}
	cache, err := os.UserCacheDir()
	must(t, err)
	dir := filepath.Join(cache, "drover-e2e", "kazoo-2.11.0")
	if _, err := os.Stat(filepath.Join(dir, "kazoo", "client.py")); err != nil {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", dir, "kazoo==2.11.0").CombinedOutput()
		if err != nil {
			skipUnlessCI(t, fmt.Errorf("install kazoo: %w\n%s", err, out))
		}
	}
	const head = "import sys, json\nfrom kazoo.client import KazooClient\nzk = KazooClient(hosts=sys.argv[1], timeout=5)\nzk.start(timeout=15)\n"
	cmd := exec.CommandContext(t.Context(), python, "-c", head+script+"\nzk.stop()\n", strings.Join(e.Addrs(), ","))
	cmd.Env = append(os.Environ(), "PYTHONPATH="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kazoo: %v\n%s", err, out)
	}
	return string(out)
}

func skipUnlessCI(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func TestNodesThatKazooWrites(t *testing.T) {
	t.Parallel()
	r := register(t, 1, 3)
	names := r.names()
	r.remove(names...)
	kazoo(t, r.zoo, `
for n in ("thrift_01", "thrift_02", "thrift_03"):
    zk.create("/buzzthrift/" + n, json.dumps({"ok": True}).encode())
`)
	source := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 100, Seed: 1})
	job := r.job(source, 1000)
	if l := endpointsOf(t, job); !slices.Equal(l.used(), r.addrs(names...)) {
		t.Fatalf("of the nodes that kazoo wrote, in use are %v", l.used())
	}
	kazoo(t, r.zoo, `
path = "/buzzthrift/thrift_02"
data, stat = zk.get(path)
assert data == b'{"ok": true}', data
zk.set(path, json.dumps({"ok": False}).encode(), version=stat.version)
`)
	if l := endpointsOf(t, job); !slices.Equal(l.used(), r.addrs(names[0], names[2])) {
		t.Fatalf("after kazoo blocked one, in use are %v", l.used())
	}
	r.put(names[1], `{"ok": true}`)
	if out := kazoo(t, r.zoo, `print(sorted((n, json.loads(zk.get("/buzzthrift/" + n)[0])["ok"]) for n in zk.get_children("/buzzthrift")))`); strings.Count(out, "True") != 3 {
		t.Errorf("kazoo reads %s", out)
	}
	drover(t, "run", "--quiet", job).must(t, 0)
}

func TestFarGatewaysAreUsedOnlyWhileTheNearOnesAreGone(t *testing.T) {
	t.Parallel()
	store, err := gateway.OpenStore("")
	must(t, err)
	defer store.Close()
	var far atomic.Int64 // rows through the far gateways
	serve := func(listen string, count *atomic.Int64) *gateway.Server {
		s, err := gateway.Open(gateway.Options{Store: store, Listen: listen})
		must(t, err)
		if count != nil {
			s.Faults().Observe(func(string, []byte, int) { count.Add(1) })
		}
		return s
	}
	near := []*gateway.Server{serve("", nil), serve("", nil)}
	away := []*gateway.Server{serve("", &far), serve("", &far)}
	list := filepath.Join(t.TempDir(), "gateways.json")
	var entries []string
	for i, s := range slices.Concat(near, away) {
		entries = append(entries, fmt.Sprintf(`{"addr": %q, "name": "gw%d"}`, s.Addr(), i+1))
	}
	must(t, os.WriteFile(list, []byte("["+strings.Join(entries, ",")+"]"), 0o644))
	source := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 50_000, Seed: 1})
	run := start(t, "DROVER_ZONE=dc1", "run", "--json", jobFile(t, fmt.Sprintf(`name: zones
source: {mongodump: %s}
target: {table: zones, create: true, families: {d: {}}}
map: {key: _id, family: d}
limits: {rows: 1000}
gateways: {file: %s, zone: dc2, zones: {dc1: [gw1, gw2], dc2: [gw*]}, connections: 2}
`, source, list)))
	time.Sleep(4 * time.Second)
	if n := far.Load(); n > 0 {
		t.Errorf("%d rows went far while the near gateways were well", n)
	}
	addrs := []string{near[0].Addr(), near[1].Addr()}
	for _, s := range near {
		must(t, s.Close())
	}
	soon(t, 15*time.Second, func() error {
		if far.Load() < 1000 {
			return fmt.Errorf("%d rows went far", far.Load())
		}
		return nil
	})
	for i, addr := range addrs {
		near[i] = serve(addr, nil)
	}
	res := run.wait().must(t, 0)
	res.json.close(t)
	for _, want := range []string{"too few of the own zone", "used alone"} {
		if !strings.Contains(res.stderr, want) {
			t.Errorf("the log has no %q:\n%s", want, res.stderr)
		}
	}
	if n := far.Load(); n > 45_000 {
		t.Errorf("%d of 50000 rows went far", n)
	}
	for _, s := range slices.Concat(near, away) {
		must(t, s.Close())
	}
}
