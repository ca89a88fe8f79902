package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/e2e/stack"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
	"drover/zookeeper"
)

// What agents beside gateways promise, on a real ZooKeeper: with embedded gateways, which can be broken at will, and with one of
// HBase's own. How an agent judges, and that it never flaps, is shown in package agent.

const yes, no = `{"ok": true}`, `{"ok": false}`

// startAgent starts one that is quicker than by default.
func startAgent(t testing.TB, zoo []string, path, node, gateway string, args ...string) *process {
	t.Helper()
	var p *process
	t.Cleanup(func() { // after it has ended
		if t.Failed() && p != nil {
			t.Logf("the agent of %s said:\n%s", node, p.stderr.String())
		}
	})
	p = start(t, append([]string{
		"agent", "--zookeeper", strings.Join(zoo, ","), "--path", path, "--node", node, "--gateway", gateway, "--info", "none",
		"--session-timeout", "4s", "--every", "300ms", "--after", "2s", "--down", "3s", "--up", "2s", "--drain", "4s", "--status", "5s",
	}, args...)...)
	return p
}

func (r *registry) agent(node string, args ...string) *process {
	r.t.Helper()
	return startAgent(r.t, r.zoo.Addrs(), registryPath, node, r.servers[node].Addr(), args...)
}

// node is what a node says, "none" if there is none.
func nodeOf(t testing.TB, z *zookeeper.Client, path string) (data string, stat zookeeper.Stat, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	raw, stat, err := z.Get(ctx, path)
	if errors.Is(err, zookeeper.ErrNoNode) {
		return "none", stat, nil
	}
	return string(raw), stat, err
}

// says waits until a node says something, and tells how long that took.
func says(t *testing.T, z *zookeeper.Client, path, want string) time.Duration {
	t.Helper()
	from := time.Now()
	soon(t, 40*time.Second, func() error {
		got, _, err := nodeOf(t, z, path)
		if err == nil && got != want {
			err = fmt.Errorf("%s says %s, want %s", path, got, want)
		}
		return err
	})
	return time.Since(from)
}

// ends stops an agent as systemd does, and checks what it says in the end.
func ends(t *testing.T, p *process, wants ...string) {
	t.Helper()
	p.signal(syscall.SIGTERM)
	res := p.wait().must(t, 0)
	for _, want := range wants {
		if !strings.Contains(res.stderr, want) {
			t.Errorf("the agent's log has no %q:\n%s", want, res.stderr)
		}
	}
}

// infoPort serves /jmx as a gateway's info port does.
func infoPort(t *testing.T) (addr string, workers *atomic.Int64) {
	t.Helper()
	workers = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/jmx" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"beans": [{"name": "Hadoop:service=HBase,name=Thrift,sub=ThriftTwo", "numActiveWorkers": %d, "callQueueLen": 0, "exists_num_ops": 7}]}`, workers.Load())
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), workers
}

func TestAgentsTakeBadGatewaysOutAndGoodOnesBack(t *testing.T) {
	t.Parallel()
	r := register(t, 1, 4)
	const killed, hung, full, blocked = "thrift_01", "thrift_02", "thrift_03", "thrift_04"
	r.put(full, `{"ok":true,"zone":"dc1"}`)
	for i := range 4 { // else less than half of the fleet would be ok, and nothing restarted
		r.put(fmt.Sprintf("other_%d", i), yes)
	}
	tableOf(t, r.fleet.caller(), "canary", nil, "c")
	info, workers := infoPort(t)
	restarted := filepath.Join(t.TempDir(), "restarted")
	agents := []*process{
		r.agent(killed), r.agent(full, "--info", info, "--drain", "20s"),
		r.agent(hung, "--on-blocked", "echo x >>"+restarted, "--restart-after", "1s", "--restart-timeout", "2s", "--restart-settle", "2s", "--restart-every", "4s"),
		r.agent(blocked, "--canary", "canary", "--canary-every", "300ms"),
	}
	path := func(name string) string { return registryPath + "/" + name }
	version := func(name string, want int32) {
		t.Helper()
		if _, stat, err := nodeOf(t, r.client, path(name)); err != nil || stat.Version != want {
			t.Errorf("%s was written %d times, %v; want %d", name, stat.Version, err, want)
		}
	}
	soon(t, 20*time.Second, func() error { // the canary sings, so its agent runs
		if rows := r.rows(t, "canary"); rows != 1 {
			return fmt.Errorf("%d canary rows", rows)
		}
		return nil
	})

	addr := r.servers[killed].Addr()
	must(t, r.servers[killed].Close())
	r.servers[hung].Faults().Hang(true)
	r.servers[full].Faults().Hang(true)
	workers.Store(1063)
	r.servers[blocked].Faults().TooBusy(nil, nil, -1)
	for name, out := range map[string]string{killed: no, hung: no, full: `{"ok": false, "zone": "dc1"}`, blocked: no} {
		t.Logf("%s is out after %v", name, says(t, r.client, path(name), out).Round(time.Millisecond))
	}
	// A hung gateway is restarted, by the command; a killed one and such as are blocked by a table have none.
	soon(t, 20*time.Second, func() error {
		_, err := os.Stat(restarted)
		return err
	})
	s, err := gateway.Open(gateway.Options{Store: r.servers[full].Store(), Listen: addr})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	r.servers[hung].Faults().Hang(false)
	r.servers[full].Faults().Hang(false)
	workers.Store(0)
	r.servers[blocked].Faults().Clear()
	for name, in := range map[string]string{killed: yes, hung: yes, full: `{"ok": true, "zone": "dc1"}`, blocked: yes} {
		says(t, r.client, path(name), in)
	}
	for _, name := range []string{killed, hung, blocked} {
		version(name, 2)
	}
	version(full, 3)
	if c := r.servers[hung].Faults().Counts(); c.Hung == 0 {
		t.Error("no call hung")
	}
	if c := r.servers[blocked].Faults().Counts(); c.TooBusy == 0 {
		t.Error("the canary was not refused")
	}
	if data, _, err := nodeOf(t, r.client, registryPath+".agents/restarted"); err != nil || !strings.Contains(data, hung) {
		t.Errorf("the fleet's last restart is %s, %v", data, err)
	}

	// By hand: a no stands, whoever thinks otherwise, until it is taken back.
	r.put(killed, no)
	out := drover(t, "agent", "drain", "--zookeeper", strings.Join(r.zoo.Addrs(), ","), "--node", hung, "--info", info, "--drain", "20s").must(t, 0)
	if !strings.Contains(out.stdout, "every connection is gone") {
		t.Errorf("drain says %s", out.stdout)
	}
	time.Sleep(6 * time.Second)
	for _, name := range []string{killed, hung} {
		if data, _, err := nodeOf(t, r.client, path(name)); err != nil || data != no {
			t.Errorf("a person's no became %s, %v", data, err)
		}
	}
	drover(t, "agent", "undrain", "--zookeeper", strings.Join(r.zoo.Addrs(), ","), "--node", hung, "--info", "none").must(t, 0)
	says(t, r.client, path(hung), yes)

	// Stopped, an agent drains, and started again takes its own no back.
	workers.Store(0)
	ends(t, agents[1], "1063 connections hold", "drained: every connection is gone")
	says(t, r.client, path(full), `{"ok": false, "zone": "dc1"}`)
	ends(t, agents[0], "trouble=dead", "somebody else set ok to false")
	agents[1] = r.agent(full, "--info", info)
	says(t, r.client, path(full), `{"ok": true, "zone": "dc1"}`)
	ends(t, agents[1])
	ends(t, agents[2], "restarting the gateway", "stalled", "not drained: the time is over")
	ends(t, agents[3], "blocked")
	for name := range r.servers {
		if _, stat, err := nodeOf(t, r.client, path(name)); err != nil || stat.EphemeralOwner != 0 || stat.Cversion != 0 {
			t.Errorf("%s: %+v, %v", name, stat, err)
		}
	}
}

// rows counts those of a table.
func (r *registry) rows(t *testing.T, table string) int {
	t.Helper()
	return sameRows(t, r.fleet.table(table), r.fleet.table(table), false).rows
}

func TestAgentsThroughZooKeepersTroubles(t *testing.T) {
	t.Parallel()
	r := register(t, 3, 3)
	names := r.names()
	r.remove(names[2])
	path := func(i int) string { return registryPath + "/" + names[i] }
	r.put(names[1], no) // a person's
	agents := []*process{r.agent(names[0]), r.agent(names[1]), r.agent(names[2], "--ephemeral")}
	says(t, r.client, path(2), yes)

	// The leader hangs, and a gateway does while nobody leads.
	leader, err := r.zoo.Leader(t.Context())
	must(t, err)
	must(t, leader.Stop())
	r.servers[names[0]].Faults().Hang(true)
	says(t, r.client, path(0), no)
	must(t, leader.Cont())
	r.servers[names[0]].Faults().Hang(false)
	says(t, r.client, path(0), yes)

	// All of ZooKeeper is gone for longer than a session. What changed meanwhile is written when it is back.
	for _, p := range r.zoo.Servers {
		must(t, p.Kill())
	}
	r.servers[names[0]].Faults().Hang(true)
	time.Sleep(8 * time.Second)
	must(t, r.zoo.Restart(t.Context()))
	says(t, r.client, path(0), no)
	// The ephemeral node's session may have outlived the outage, whose time ZooKeeper does not count.
	says(t, r.client, path(2), yes)
	for _, p := range r.zoo.Servers {
		must(t, p.Kill())
	}
	r.servers[names[0]].Faults().Hang(false)
	time.Sleep(6 * time.Second)
	must(t, r.zoo.Restart(t.Context()))
	says(t, r.client, path(0), yes)
	says(t, r.client, path(2), yes)
	if data, stat, err := nodeOf(t, r.client, path(1)); err != nil || data != no || stat.Version != 1 {
		t.Errorf("a person's no became %s in version %d, %v", data, stat.Version, err)
	}
	if _, stat, err := nodeOf(t, r.client, path(0)); err != nil || stat.Version != 4 {
		t.Errorf("%d writes for four changes, %v", stat.Version, err)
	}

	// Killed, an agent leaves a node that is its session's to keep; the next one of that name takes its place.
	must(t, agents[2].cmd.Process.Kill())
	agents[2].wait()
	agents[2] = r.agent(names[2], "--ephemeral")
	before := r.client.Session()
	soon(t, 40*time.Second, func() error {
		data, stat, err := nodeOf(t, r.client, path(2))
		if err == nil && (data != yes || stat.EphemeralOwner == before.ID) {
			err = fmt.Errorf("%s, %+v", data, stat)
		}
		return err
	})
	ends(t, agents[0], "no connection to ZooKeeper", "ZooKeeper is back", "stalled")
	ends(t, agents[1], "somebody else set ok to false")
	ends(t, agents[2])
	says(t, r.client, path(2), "none") // it went with its session
}

func TestAgentsGatewaysZooKeeperAndJobComeUpInAnyOrder(t *testing.T) {
	t.Parallel()
	rnd := seed(t)
	e := ensemble(t, 1)
	client, err := zookeeper.Open(zookeeper.Config{Servers: e.Addrs()})
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	source := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 2000, Seed: 1})

	orders := permutations([]string{"agents", "gateways", "job", "zookeeper"})
	rnd.Shuffle(len(orders), func(i, j int) { orders[i], orders[j] = orders[j], orders[i] })
	for i, order := range orders[:scaled(len(orders), 4)] {
		t.Run(strings.Join(order, ","), func(t *testing.T) {
			anyOrder(t, rnd, e, client, source, fmt.Sprintf("/order%d", i), order)
		})
	}
}

func anyOrder(t *testing.T, rnd *rand.Rand, e *stack.Ensemble, client *zookeeper.Client, source, path string, order []string) {
	must(t, client.CreateAll(t.Context(), path))
	for _, p := range e.Servers {
		must(t, p.Kill())
	}
	store, err := gateway.OpenStore("")
	must(t, err)
	t.Cleanup(func() { store.Close() })
	const n = 3
	var addrs []string
	for range n {
		addrs = append(addrs, "127.0.0.1:"+closedPort(t))
	}
	f := &fleet{seen: map[string]int{}}
	var agents []*process
	var job *process
	table := strings.TrimPrefix(path, "/")
	text := fmt.Sprintf(`name: %s
source: {mongodump: %s}
target: {table: %s, create: true, families: {d: {}}}
map: {key: _id, family: d}
gateways: {outage_limit: 2m, connections: 2, zookeeper: {servers: [%q], path: %s, session_timeout: 4s, address: {g0: %q, g1: %q, g2: %q}}}
`, table, source, table, e.Addrs()[0], path, addrs[0], addrs[1], addrs[2])
	for _, step := range order {
		switch step {
		case "zookeeper":
			must(t, e.Restart(t.Context()))
		case "gateways":
			for _, a := range addrs {
				s, err := gateway.Open(gateway.Options{Store: store, Listen: a})
				must(t, err)
				t.Cleanup(func() { s.Close() })
				f.servers = append(f.servers, s)
			}
		case "agents":
			for i, a := range addrs {
				agents = append(agents, startAgent(t, e.Addrs(), path, fmt.Sprintf("g%d", i), a, "--create", "--drain", "0s"))
			}
		case "job":
			job = start(t, "run", "--json", "--quiet", jobFile(t, text))
		}
		time.Sleep(time.Duration(rnd.IntN(2500)) * time.Millisecond)
	}
	for i := range n {
		says(t, client, fmt.Sprintf("%s/g%d", path, i), yes)
	}
	res := job.wait().must(t, 0)
	res.json.close(t)
	f.equal(t, table, source, res.json.Timestamp, nil)
	for i, a := range agents {
		ends(t, a, "the gateway is ok")
		if _, stat, err := nodeOf(t, client, fmt.Sprintf("%s/g%d", path, i)); err != nil || stat.Version != 0 {
			t.Errorf("the node of g%d was written %d times beyond its creation, %v", i, stat.Version, err)
		}
	}
}

// permutations gives every order.
func permutations(list []string) [][]string {
	if len(list) == 0 {
		return [][]string{nil}
	}
	var out [][]string
	for i, first := range list {
		rest := append(append([]string{}, list[:i]...), list[i+1:]...)
		for _, p := range permutations(rest) {
			out = append(out, append([]string{first}, p...))
		}
	}
	return out
}

// HBase's own gateway, whose threads somebody else takes, and that is stopped.
func TestAnAgentBesideARealGateway(t *testing.T) {
	t.Parallel()
	s := stack.Shared(t)
	workers, opened := scaled(1000, 100), scaled(1100, 160)
	g, err := s.AddGateway(t.Context(), nil, "-w", fmt.Sprint(workers))
	must(t, err)
	defer func() { must(t, g.Kill()) }()
	client, err := zookeeper.Open(zookeeper.Config{Servers: []string{s.ZooKeeper}})
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	parent := fmt.Sprintf("/agents%d", os.Getpid())
	must(t, client.CreateAll(t.Context(), parent))
	const node = "thrift_11"
	path := parent + "/" + node
	table := newTable(t, s)
	tableOf(t, func(call func(context.Context, *thrift2.THBaseServiceClient) error) error {
		return gatewayCall(s, call)
	}, table, nil, "c")
	agent := startAgent(t, []string{s.ZooKeeper}, parent, node, g.Addr, "--create", "--info", g.Info, "--threads", fmt.Sprint(workers),
		"--canary", table, "--canary-every", "2s", "--after", "4s", "--max-down", "3s", "--drain", "20s")
	says(t, client, path, yes)

	var conns []net.Conn
	for range opened {
		c, err := net.DialTimeout("tcp", g.Addr, 5*time.Second)
		must(t, err)
		conns = append(conns, c)
	}
	t.Logf("out %v after %d connections", says(t, client, path, no).Round(time.Millisecond), opened)
	time.Sleep(12 * time.Second) // until the info port tells of them
	for _, c := range conns {
		c.Close()
	}
	t.Logf("back %v after they were closed", says(t, client, path, yes).Round(time.Millisecond))

	must(t, g.Stop())
	t.Logf("out %v after it was stopped", says(t, client, path, no).Round(time.Millisecond))
	must(t, g.Cont())
	says(t, client, path, yes)
	if _, stat, err := nodeOf(t, client, path); err != nil || stat.Version != 4 {
		t.Errorf("%d writes for four changes, %v", stat.Version, err)
	}
	ends(t, agent, fmt.Sprintf("connections hold its %d threads", workers), "drained: every connection is gone")
	says(t, client, path, no)
}
