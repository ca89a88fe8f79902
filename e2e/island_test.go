package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/e2e/stack"
	"drover/jobs/mongodump/dumpgen"
)

// island is a network namespace that is joined to the test's own by two cables. What is sent over a cable that is pulled is lost, and
// neither end is told: unlike a server that is stopped or killed, whose kernel goes on answering.
type island struct {
	t      *testing.T
	name   string
	cables [2]struct{ link, addr string } // at this end
}

// newIsland takes root and the ip command of iproute2; where they are not at hand the test is skipped.
func newIsland(t *testing.T) *island {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("a network namespace takes the ip command (iproute2)")
	}
	id := os.Getpid() % 60_000
	x := &island{t: t, name: fmt.Sprintf("drover-%d", id)}
	if err := command("ip", "netns", "add", x.name); err != nil {
		t.Skipf("no network namespace is to be had here: %v", err)
	}
	t.Cleanup(func() { must(t, command("ip", "netns", "del", x.name)) }) // the cables go with it
	must(t, command("ip", "-n", x.name, "link", "set", "lo", "up"))
	for i := range x.cables {
		c := &x.cables[i]
		c.link = fmt.Sprintf("dr%d.%d", id, i)
		far := fmt.Sprintf("di%d.%d", id, i)
		net := fmt.Sprintf("10.%d.%d.", 64+id%64, (id/64*2+i)%256)
		c.addr = net + "1"
		if err := command("ip", "link", "add", c.link, "type", "veth", "peer", "name", far, "netns", x.name); err != nil {
			t.Skipf("no pair of network devices is to be had here: %v", err)
		}
		must(t, command("ip", "addr", "add", net+"1/30", "dev", c.link))
		must(t, command("ip", "-n", x.name, "addr", "add", net+"2/30", "dev", far))
		must(t, command("ip", "link", "set", c.link, "up"))
		must(t, command("ip", "-n", x.name, "link", "set", far, "up"))
	}
	return x
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// pull and plug do that to a cable.
func (x *island) pull(cable int) {
	must(x.t, command("ip", "link", "set", x.cables[cable].link, "down"))
}
func (x *island) plug(cable int) { must(x.t, command("ip", "link", "set", x.cables[cable].link, "up")) }

// start runs drover on the island.
func (x *island) start(args ...string) *process {
	x.t.Helper()
	return startIn(x.t, []string{"ip", "netns", "exec", x.name}, args...)
}

// forward gives the addresses under which the island reaches these, by a cable.
func (x *island) forward(cable int, to ...string) (addrs []string) {
	x.t.Helper()
	for _, addr := range to {
		l, err := net.Listen("tcp", x.cables[cable].addr+":0")
		must(x.t, err)
		var wg sync.WaitGroup
		x.t.Cleanup(func() {
			l.Close()
			wg.Wait()
		})
		wg.Go(func() {
			for {
				near, err := l.Accept()
				if err != nil {
					return
				}
				far, err := net.Dial("tcp", addr)
				if err != nil {
					near.Close()
					continue
				}
				unhook := closing(x.t, near, far)
				for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
					wg.Go(func() {
						io.Copy(pair[0], pair[1])
						unhook()
					})
				}
			}
		})
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// closing closes connections when it is called, or at the test's end.
func closing(t *testing.T, conns ...net.Conn) func() {
	f := sync.OnceFunc(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	t.Cleanup(f)
	return f
}

// For minutes every packet to ZooKeeper is lost: a pool holds, and goes on by itself with the same processes; a job that finds its
// gateways through ZooKeeper goes on with the last good set.
func TestPacketsToZooKeeperAreDropped(t *testing.T) {
	beside(t)
	rnd := seed(t)
	lasts := time.Duration(scaled(300, 20)) * time.Second
	x := newIsland(t)
	const byZooKeeper, byGateways = 0, 1
	e := ensemble(t, 3)
	servers := x.forward(byZooKeeper, e.Addrs()...)

	const limit, docs = 3000, 60_000
	f := newFleet(t, 3)
	s := islanders(t, x, e, servers, 8)
	for i := range 3 {
		s.launch(fmt.Sprintf("w%d", i))
	}
	s.there(3)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: rnd.Uint64()})
	gateways := flow(x.forward(byGateways, f.list()...))
	waits, _ := s.submitted(job(t, "island", file, "island", gateways, fmt.Sprintf("limits: {rows: %d}", limit)), "island")

	other := newFleet(t, 2)
	const slow = 500
	more := int64(slow) * int64(lasts/time.Second+30)
	registered := x.forward(byGateways, other.list()...)
	must(t, s.zk.Create(t.Context(), "/registered", nil))
	for i := range registered {
		must(t, s.zk.Create(t.Context(), fmt.Sprintf("/registered/g%d", i), []byte(`{"ok": true}`)))
	}
	second := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: more, Seed: rnd.Uint64()})
	alone := x.start("run", jobFile(t, fmt.Sprintf(`name: alone
source: {mongodump: %s}
target: {table: alone, create: true, families: {d: {}}}
map: {key: _id, family: d}
limits: {rows: %d}
gateways: {outage_limit: 2m, zookeeper: {servers: [%q], path: /registered, session_timeout: 2s, address: {g0: %q, g1: %q}}}
`, second, slow, servers[0], registered[0], registered[1])), "--json")

	s.moved("island", 2*limit)
	soon(t, time.Minute, func() error {
		if other.applied() < 2*slow {
			return errors.New("the job beside the pool does not move")
		}
		return nil
	})
	x.pull(byZooKeeper)
	struck := time.Now()
	time.Sleep(2 * fleetSession)
	moved := f.applied()
	if moved == 0 || moved >= docs {
		t.Errorf("%d of %d rows were moved at the fault", moved, docs)
	}
	for time.Since(struck) < lasts {
		f.stands(t, 2*time.Second, "while no packet comes to ZooKeeper")
		if r := other.rate(2 * time.Second); r < float64(scaled(slow/2, 1)) {
			t.Errorf("%.0f rows/s of the job that has its gateways already, of %d", r, slow)
		}
	}
	x.plug(byZooKeeper)
	back := time.Now()
	soon(t, 60*time.Second, func() error {
		if f.applied() == moved {
			return errors.New("nothing moves though packets come through")
		}
		return nil
	})
	t.Logf("packets were dropped for %.0f s, with %d of %d rows moved; rows arrived again %.1f s afterwards", back.Sub(struck).Seconds(), moved, docs, time.Since(back).Seconds())
	b := waits.wait().must(t, 0).json
	b.close(t)
	if b.Written != docs {
		t.Errorf("the books say %+v, want %d written", b, docs)
	}
	f.equal(t, "island", file, b.Timestamp, nil)
	r := alone.wait().must(t, 0)
	if r.json.Written != more || strings.Contains(r.stderr, "set aside") {
		t.Errorf("the books of the other say %+v, want %d written: %s", r.json, more, r.stderr)
	}
	other.equal(t, "alone", second, r.json.Timestamp, nil)
	for _, name := range s.names() {
		s.workers[name].signal(syscall.SIGTERM)
		tells(t, name, s.workers[name].wait().must(t, 0).stderr, "ZooKeeper is not reached", "ZooKeeper is reached again")
	}
}

// islanders is a squad without workers yet, who all live on an island.
func islanders(t *testing.T, x *island, e *stack.Ensemble, servers []string, capacity int) *squad {
	t.Helper()
	s := newSquadOn(t, e, capacity)
	s.crew.pool = strings.Join(servers, ",") + s.pool.Root
	s.crew.in = x
	return s
}
