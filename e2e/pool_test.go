package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/jobs/mongodump/dumpgen"
)

// The commands of a pool: workers, and what is said to them, on ZooKeeper's own servers and embedded gateways.

// crew is the workers of a pool, as processes.
type crew struct {
	t    *testing.T
	pool string // as --zookeeper takes it
	root string
	n    int
}

func newCrew(t *testing.T) *crew {
	t.Helper()
	root := fmt.Sprintf("/drover/%s", strings.ToLower(t.Name()))
	return &crew{t: t, root: root, pool: strings.Join(ensemble(t, 3).Addrs(), ",") + root}
}

// env is what every command of the pool is started with.
func (c *crew) env(args ...string) []string {
	return append([]string{"DROVER_ZOOKEEPER=" + c.pool, "DROVER_ZOOKEEPER_SESSION_TIMEOUT=2s"}, args...)
}

func (c *crew) drover(args ...string) result {
	c.t.Helper()
	return drover(c.t, c.env(args...)...)
}

func (c *crew) start(args ...string) *process {
	c.t.Helper()
	return start(c.t, c.env(args...)...)
}

// worker starts one.
func (c *crew) worker(args ...string) *process {
	c.t.Helper()
	c.n++
	return c.start(append([]string{"worker", "--name", fmt.Sprintf("w%d", c.n), "--capacity", "4"}, args...)...)
}

// there waits until so many workers are.
func (c *crew) there(n int) {
	c.t.Helper()
	soon(c.t, 20*time.Second, func() error {
		if r := c.drover("workers", "--json"); r.code != 0 || lines(r.stdout) != n {
			return fmt.Errorf("workers: %s%s", r.stdout, r.stderr)
		}
		return nil
	})
}

// Three workers move a job that a fourth process waits for; one is killed and one told to end in mid-run.
func TestPoolMovesAJob(t *testing.T) {
	t.Parallel()
	c := newCrew(t)
	f := newFleet(t, 2)
	const docs = 60_000
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: 7})
	var workers []*process
	for range 3 {
		workers = append(workers, c.worker())
	}
	c.there(3)
	waits := c.start("submit", job(t, "moved", file, "moved", f.addrs(), "limits: {rows: 10000}"), "--wait", "--json")
	time.Sleep(3 * time.Second)
	workers[0].signal(syscall.SIGKILL)
	time.Sleep(time.Second)
	workers[1].signal(syscall.SIGTERM)
	r := waits.wait()
	t.Log(r.stderr, r.stdout)
	for i, w := range workers {
		w.signal(syscall.SIGTERM)
		e := w.wait()
		if i > 0 {
			e.must(t, 0)
		}
		t.Logf("worker %d: %s", i, e.stderr)
	}
	t.Log(r.stderr, r.stdout)
	r.must(t, 0)
	r.json.close(t)
	if r.json.Written != docs || r.json.State != "done" {
		t.Errorf("the books say %+v", r.json)
	}
	f.equal(t, "moved", file, r.json.Timestamp, nil)
}
