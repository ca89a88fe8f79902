package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/e2e/stack"
	"drover/jobs/mongodump/dumpgen"
)

// The commands of a pool: workers, and what is said to them, on ZooKeeper's own servers and embedded gateways.

// crew is the workers of a pool, as processes.
type crew struct {
	t    *testing.T
	pool string // as --zookeeper takes it
	n    int
	in   *island // where workers and jobs live; nil is here
}

func newCrew(t *testing.T, e *stack.Ensemble) *crew {
	t.Helper()
	name := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
	return &crew{t: t, pool: strings.Join(e.Addrs(), ",") + "/drover/" + strings.ToLower(name)}
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
	if c.in != nil {
		return c.in.start(c.env(args...)...)
	}
	return start(c.t, c.env(args...)...)
}

// worker starts one.
func (c *crew) worker(args ...string) *process {
	c.t.Helper()
	c.n++
	return c.start(append([]string{"worker", "--name", fmt.Sprintf("w%d", c.n), "--capacity", "4"}, args...)...)
}

// poolWorkerLine is a line of drover workers --json.
type poolWorkerLine struct {
	Worker   string
	ID       string
	Labels   map[string]string
	Capacity int
	Shards   int
	Leads    bool
	Draining bool
}

func jsonLines[T any](t *testing.T, text string) (list []T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	for d.More() {
		var v T
		must(t, d.Decode(&v))
		list = append(list, v)
	}
	return list
}

// workers waits until they are as f wants them.
func (c *crew) workers(f func(map[string]poolWorkerLine) bool) {
	c.t.Helper()
	soon(c.t, 20*time.Second, func() error {
		r := c.drover("workers", "--json")
		by := map[string]poolWorkerLine{}
		for _, w := range jsonLines[poolWorkerLine](c.t, r.stdout) {
			by[w.Worker] = w
		}
		if r.code != 0 || !f(by) {
			return fmt.Errorf("workers: %s%s", r.stdout, r.stderr)
		}
		return nil
	})
}

func (c *crew) there(n int) {
	c.t.Helper()
	c.workers(func(by map[string]poolWorkerLine) bool {
		leads := false
		for _, w := range by {
			leads = leads || w.Leads
		}
		return len(by) == n && leads
	})
}

// status is drover status --json.
func (c *crew) status(job string) books {
	c.t.Helper()
	return c.drover("status", job, "--json").must(c.t, 0).json
}

// moved waits until so many rows of a job are saved.
func (c *crew) moved(job string, n int64) (b books) {
	c.t.Helper()
	soon(c.t, 30*time.Second, func() error {
		r := c.drover("status", job, "--json") // of a run that may not be there yet
		if b = r.json; b.Written < n {
			return fmt.Errorf("%d rows are written, want %d: %s%s", b.Written, n, r.stdout, r.stderr)
		}
		return nil
	})
	return b
}

// merging is job with a table that may have rows already.
func merging(t *testing.T, name, source, table, gateways string, extra ...string) string {
	t.Helper()
	path := job(t, name, source, table, gateways, extra...)
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(text), "target: {", "target: {existing: merge, ", 1)), 0o644))
	return path
}

// rate is how many rows a second the gateways apply, over a while.
func (f *fleet) rate(d time.Duration) float64 {
	count := func() (n int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, times := range f.seen {
			n += times
		}
		return n
	}
	before, at := count(), time.Now()
	time.Sleep(d)
	return float64(count()-before) / time.Since(at).Seconds()
}

func tells(t *testing.T, what, text string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q:\n%s", what, w, text)
		}
	}
}

func TestPoolCommands(t *testing.T) {
	t.Parallel()
	e := ensemble(t, 3)
	const docs = 60_000
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: 7})
	limited := func(rows int) string { return fmt.Sprintf("limits: {rows: %d}", rows) }

	// The plan comes with the job: whoever leads plans nothing, and so says nothing of the source that is not there any more.
	t.Run("Plan", func(t *testing.T) {
		t.Parallel()
		c, f := newCrew(t, e), newFleet(t, 1)
		c.worker()
		c.there(1)
		own := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 2000, Seed: 9})
		yaml := job(t, "planned", own, "planned", f.addrs())
		must(t, os.Rename(own, own+".away"))
		tells(t, "stderr", c.drover("submit", yaml, "--plan").must(t, 1).stderr, "no such file")
		must(t, os.Rename(own+".away", own))
		b := c.drover("submit", yaml, "--plan", "--wait", "--json").must(t, 0).json
		b.close(t)
		f.equal(t, "planned", own, b.Timestamp, nil)
	})

	// Three workers move a job that a fourth process waits for; one is killed and one told to end in mid-run.
	t.Run("Submit", func(t *testing.T) {
		t.Parallel()
		c, f := newCrew(t, e), newFleet(t, 2)
		w := []*process{c.worker(), c.worker(), c.worker()}
		c.there(3)
		waits := c.start("submit", job(t, "moved", file, `"moved_{collection}"`, f.addrs(), limited(8000)), "--wait", "--json")
		c.moved("moved", 4000)
		if n := f.rate(2 * time.Second); n < float64(scaled(3000, 1)) || n > 9600 { // the table's name was known by the plan only
			t.Errorf("%.0f rows/s under a limit of 8000", n)
		}
		w[0].signal(syscall.SIGKILL)
		c.moved("moved", c.status("moved").Written+8000)
		w[1].signal(syscall.SIGTERM)
		ended := w[1].wait().must(t, 0)
		tells(t, "the worker that was told to end", ended.stderr, "joined the pool", "left the pool")
		r := waits.wait().must(t, 0)
		r.json.close(t)
		if b := r.json; b.Written != docs || b.State != "done" || b.Job != "moved" || b.Shards < 1 || b.Calls == 0 || b.Cells == 0 || b.Run == "" {
			t.Errorf("the books say %+v", b)
		}
		tells(t, "the object", r.stdout, `"tables":[{"table":"moved_c","collection":"c"`)
		f.equal(t, "moved_c", file, r.json.Timestamp, nil)
		if s := c.status("moved"); s.Written != docs || s.State != "done" {
			t.Errorf("the status says %+v", s)
		}
		w[2].signal(syscall.SIGTERM) // it waits for another that leads to hear it
		time.Sleep(300 * time.Millisecond)
		w[2].signal(syscall.SIGTERM)
		w[2].wait().must(t, 143)
	})

	t.Run("Commands", func(t *testing.T) {
		t.Parallel()
		c, f := newCrew(t, e), newFleet(t, 2)
		r := c.drover("submit", job(t, "early", file, "early", f.addrs())).must(t, 1)
		tells(t, "a submit before there is a pool", r.stderr, "start drover worker")
		c.worker()
		c.there(1)
		c.workers(func(by map[string]poolWorkerLine) bool { return by["w1"].Leads })
		c.worker("--label", "dc=east")
		c.there(2)

		// Who leads lacks the label, and so may not see the source: the other one plans.
		r = c.drover("submit", job(t, "afar", filepath.Join(t.TempDir(), "none.bson"), "afar", f.addrs(), "needs: {dc: east}"), "--wait", "--json").must(t, 1)
		tells(t, "a run without its source where its label is", r.stdout, "none.bson", "worker w2", `"state":"failed"`)
		r = c.drover("submit", job(t, "missing", filepath.Join(t.TempDir(), "none.bson"), "missing", f.addrs()), "--wait", "--json").must(t, 1)
		tells(t, "a run without its source", r.stdout, "none.bson", "worker w", `"state":"failed"`)
		embedded := jobFile(t, "name: inside\nsource: {mongodump: "+file+"}\ntarget: {table: inside, create: true, families: {d: {}}}\nmap: {key: _id, family: d}\ngateways: {embedded: "+t.TempDir()+"}\n")
		r = c.drover("submit", embedded).must(t, 64)
		tells(t, "an embedded gateway", r.stderr, "gateways.embedded")

		yaml := merging(t, "slow", file, "slow", f.addrs(), limited(4000), "needs: {dc: east}")
		r = c.drover("submit", yaml, "--request", "first").must(t, 0)
		tells(t, "submit", r.stdout, "first")
		c.drover("submit", yaml, "--request", "first").must(t, 0)
		r = c.drover("submit", yaml, "--json").must(t, 5)
		tells(t, "a second submit", r.stderr, "first", "drover cancel slow")
		tells(t, "a second submit", r.stdout, `"run":"first"`, `"state":"running"`)
		c.moved("slow", 4000)
		if n := f.rate(2 * time.Second); n < float64(scaled(2000, 1)) || n > 4800 {
			t.Errorf("%.0f rows/s under a limit of 4000", n)
		}
		c.workers(func(by map[string]poolWorkerLine) bool { return by["w2"].Shards > 0 && by["w1"].Shards == 0 }) // it needs the label

		c.drover("throttle", "slow", "--rows", "1000").must(t, 0)
		time.Sleep(time.Second)
		if n := f.rate(2 * time.Second); n < float64(scaled(300, 1)) || n > 1200 {
			t.Errorf("%.0f rows/s under a throttle of 1000", n)
		}
		c.drover("throttle", "slow", "--off").must(t, 0)
		stops := func(what string) {
			t.Helper()
			soon(t, 5*time.Second, func() error {
				if n := f.rate(500 * time.Millisecond); n > 0 {
					return fmt.Errorf("%.0f rows/s after %s", n, what)
				}
				return nil
			})
		}
		goes := func(what string) {
			t.Helper()
			soon(t, 5*time.Second, func() error {
				if n := f.rate(500 * time.Millisecond); n == 0 {
					return errors.New("nothing moves after " + what)
				}
				return nil
			})
		}
		c.drover("pause", "--table", "slow").must(t, 0)
		stops("pause --table")
		c.drover("resume", "--table", "slow").must(t, 0)
		goes("resume --table")
		r = c.drover("pause", yaml).must(t, 0)
		tells(t, "pause", r.stdout, "slow, run first: paused")
		stops("pause")
		if b := c.status("slow"); b.State != "stopped" || !strings.Contains(b.Reason, "drover resume slow") {
			t.Errorf("the status of a paused run is %+v", b)
		}
		saved := filepath.Join(t.TempDir(), "backup")
		c.drover("backup", saved).must(t, 0)
		c.drover("resume", "slow").must(t, 0)
		goes("resume")
		c.drover("drain", "w2").must(t, 0)
		stops("drain")
		c.workers(func(by map[string]poolWorkerLine) bool { return by["w2"].Draining && by["w2"].Shards == 0 })
		c.drover("undrain", "w2").must(t, 0)
		goes("undrain")

		r = c.drover("submit", job(t, "nightly", file, "nightly", f.addrs(), "schedule: 0 3 29 2 *")).must(t, 0)
		tells(t, "a job with a schedule", r.stderr, "scheduled")
		c.drover("pause", "nightly", "--schedule").must(t, 0)
		tells(t, "jobs", c.drover("jobs").must(t, 0).stdout, "0 3 29 2 * (paused)")
		r = c.drover("jobs").must(t, 0)
		tells(t, "jobs", r.stdout, "JOB", "slow", "running", "first", "missing", "failed", yaml)
		r = c.drover("workers").must(t, 0)
		tells(t, "workers", r.stdout, "w1", "w2", "leads", "dc=east", "slow 100 %")
		r = c.drover("status", "slow").must(t, 0)
		tells(t, "status", r.stdout, "slow: running", "submitted", "first")

		c.drover("restore", saved).must(t, 0)
		if b := c.status("slow"); b.State != "stopped" {
			t.Errorf("after the restore of a paused run it is %+v", b)
		}
		text, err := os.ReadFile(saved)
		must(t, err)
		text[len(text)-9] ^= 1
		must(t, os.WriteFile(saved, text, 0o644))
		r = c.drover("restore", saved).must(t, 1)
		tells(t, "a damaged backup", r.stderr, "damaged")
		c.drover("resume", "slow").must(t, 0)
		goes("restore and resume")
		c.drover("cancel", "slow", "first").must(t, 0)
		stops("cancel")
		c.drover("resume", "slow").must(t, 1)
		r = c.drover("submit", yaml, "--request", "second").must(t, 0)
		tells(t, "submit", r.stdout, "second")
		waits := c.start("submit", yaml, "--fresh", "--wait", "--json")
		soon(t, 10*time.Second, func() error {
			if b := c.status("slow"); b.Run == "second" || b.Written == 0 {
				return fmt.Errorf("the run of --fresh is not there: %+v", b)
			}
			return nil
		})
		waits.signal(syscall.SIGINT)
		r = waits.wait().must(t, 130)
		tells(t, "a wait that ended", r.stdout, "the run goes on", `"state":"running"`)
		goes("the wait's end")
		waits = c.start("submit", yaml, "--wait", "--json", "--request", r.json.Run)
		time.Sleep(time.Second)
		c.drover("cancel", "slow").must(t, 0)
		r = waits.wait().must(t, 6)
		tells(t, "a run that was cancelled", r.stdout, "cancelled")
		r = c.drover("audit", "-n", "50").must(t, 0)
		tells(t, "audit", r.stdout, "@", "submit slow as run first", "throttle slow", "pause table slow", "pause slow/first", "drain w2", "restore a backup", "cancel slow/second")
		if n := lines(c.drover("audit", "-n", "3", "--json").must(t, 0).stdout); n != 3 {
			t.Errorf("audit -n 3 lists %d", n)
		}
	})

	// A table is copied, under a limit on reading it that nobody but the pool knows.
	t.Run("Table", func(t *testing.T) {
		t.Parallel()
		c, f := newCrew(t, e), newFleet(t, 2)
		small := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: int64(scaled(100_000, 20_000)), Seed: 9})
		first := drover(t, "run", job(t, "load", small, "from", f.addrs()), "--json").must(t, 0).json
		c.worker()
		c.worker()
		c.there(2)
		c.drover("throttle", "from", "--scan-rows", "2000").must(t, 0)
		p := c.start("submit", rowJob(t, "copy", "{table: from}", "{table: to, create: true, regions: 4}", "", f.addrs()), "--wait", "--json")
		c.moved("copy", int64(scaled(6000, 1))) // first every reader waits for a page of its own
		if n := f.rate(3 * time.Second); n < float64(scaled(1000, 1)) || n > 2600 {
			t.Errorf("%.0f rows/s copied while 2000 may be read", n)
		}
		c.drover("throttle", "from", "--off").must(t, 0)
		r := p.wait().must(t, 0)
		r.json.close(t)
		f.equal(t, "to", small, first.Timestamp, nil)
	})

	t.Run("Dead", func(t *testing.T) {
		t.Parallel()
		c, f := newCrew(t, e), newFleet(t, 1)
		c.worker()
		c.there(1)
		bad := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 3_000, Seed: 10, Corrupt: 5})
		yaml := job(t, "dead", bad, "dead", f.addrs(), "dead_letters: {max: 5}")
		r := c.drover("submit", yaml, "--wait", "--json").must(t, 3)
		r.json.close(t)
		if b := r.json; b.Dead != 5 || b.State != "dead_letters" {
			t.Errorf("the books say %+v", b)
		}
		tells(t, "the end", r.stderr, "drover dead list JOB.yaml --run "+r.json.Run)
		if n := lines(c.drover("dead", "list", yaml, "--json", "--run", r.json.Run).must(t, 0).stdout); n != 5 {
			t.Errorf("%d letters are listed", n)
		}
		r = c.drover("submit", job(t, "deader", bad, "deader", f.addrs(), "dead_letters: {max: 4}"), "--wait", "--json").must(t, 1)
		tells(t, "a run with too many dead letters", r.stdout, "dead_letters.max is 4")
		tells(t, "a replay of letters on workers' hosts", c.drover("dead", "replay", yaml).must(t, 1).stderr, "shared: true")
	})

	// Dead letters of a pool's run in a table are replayed from any host, also when the run's shards are swept.
	t.Run("Replay", func(t *testing.T) {
		t.Parallel()
		c, f := newCrew(t, e), newFleet(t, 2)
		c.worker()
		c.worker()
		c.there(2)
		const n, without = 3000, 7
		docs := make([]bson.D, n)
		for i := range docs {
			docs[i] = bson.D{{Key: "_id", Value: fmt.Sprintf("id%05d", i)}, {Key: "k", Value: fmt.Sprintf("k%05d", i)}}
			if i%(n/without) == 3 && i/(n/without) < without {
				docs[i] = docs[i][:1]
			}
		}
		file, _ := dumpOf(t, docs)
		with := func(mapping string) string {
			return spec{name: "replayed", source: file, mapping: mapping, gateways: f.addrs(), rest: `dead_letters: {max: unlimited, to: "hbase:letters"}`}.file(t)
		}
		yaml, mended := with("{key: k, family: d}"), with("{key: _id, family: d}")
		r := c.drover("submit", yaml, "--wait", "--json").must(t, 3)
		if b := r.json; b.Dead != without || b.Written != n-without {
			t.Fatalf("the books say %+v, want %d dead of %d", b, without, n)
		}
		c.drover("dead", "replay", yaml).must(t, 3)
		tells(t, "a replay by another mapping", c.drover("dead", "replay", mended).must(t, 1).stderr, "--remap")
		tells(t, "the replay", c.drover("dead", "replay", mended, "--remap", "--run", r.json.Run).must(t, 0).stdout, fmt.Sprintf("%d replayed, 0 still dead", without))
		tells(t, "one more", c.drover("dead", "replay", mended, "--remap").must(t, 0).stdout, "0 replayed, 0 still dead")
		if b := c.status("replayed"); b.State != "done" || b.Dead != 0 || b.Written != n || b.Rows != n {
			t.Errorf("after the replay the books say %+v, want %d written and none dead", b, n)
		}
		if rows := f.rows(t, "replayed"); rows != n {
			t.Errorf("%d rows after the replay, want %d", rows, n)
		}
		tells(t, "the audit", c.drover("audit").must(t, 0).stdout, "replay the dead letters of replayed/"+r.json.Run)
	})

	// A run whose state is in the pool is killed, and goes on; the pool's worker leaves it alone.
	t.Run("State", func(t *testing.T) {
		t.Parallel()
		c, f := newCrew(t, e), newFleet(t, 2)
		c.worker()
		c.there(1)
		yaml := job(t, "own", file, "own", f.addrs(), limited(5000))
		run := []string{"run", yaml, "--state", "zookeeper", "--json"}
		p := c.start(run...)
		c.moved("own", 4000)
		if n := f.rate(2 * time.Second); n < float64(scaled(2000, 1)) || n > 6000 {
			t.Errorf("%.0f rows/s under a limit of 5000", n)
		}
		if r := c.drover(run...).must(t, 5); r.json.State != "running" {
			t.Errorf("beside the first, a second says %+v", r.json)
		}
		p.signal(syscall.SIGKILL)
		p.wait()
		before := c.status("own").Written
		p = c.start(run...)
		c.moved("own", before+4000)
		p.signal(syscall.SIGTERM)
		r := p.wait().must(t, 143)
		if r.json.State != "stopped" || r.json.Written == 0 {
			t.Errorf("a run that was told to stop says %+v", r.json)
		}
		r = c.drover(run...).must(t, 0)
		r.json.close(t)
		if b := r.json; b.Written != docs || b.State != "done" || b.Resumed != 2 {
			t.Errorf("the books say %+v", b)
		}
		f.equal(t, "own", file, r.json.Timestamp, nil)
		if again := c.drover(run...).must(t, 0).json; !again.Again || again.Run != r.json.Run {
			t.Errorf("once more it says %+v", again)
		}
	})
}

// A run with its state on its host keeps to the table's limit together with the pool's, and holds while ZooKeeper is away.
func TestPoolLimitsARunBesideIt(t *testing.T) {
	t.Parallel()
	e := ensemble(t, 3)
	c, f := newCrew(t, e), newFleet(t, 2)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 60_000, Seed: 8})
	c.worker()
	c.there(1)
	c.drover("submit", job(t, "shared", file, "shared", f.addrs(), "limits: {rows: 8000}")).must(t, 0)
	c.moved("shared", 4000)
	p := c.start("run", merging(t, "beside", file, "shared", f.addrs(), "limits: {rows: 3000}"), "--json")
	c.workers(func(by map[string]poolWorkerLine) bool { return len(by) == 2 })
	time.Sleep(time.Second)
	if n := f.rate(3 * time.Second); n < float64(scaled(1500, 1)) || n > 3400 {
		t.Errorf("%.0f rows/s of both under a limit of 3000", n)
	}
	for _, s := range e.Servers {
		must(t, s.Stop())
	}
	time.Sleep(3 * time.Second)
	if n := f.rate(time.Second); n > 0 {
		t.Errorf("%.0f rows/s without ZooKeeper", n)
	}
	must(t, e.Restart(t.Context()))
	soon(t, 20*time.Second, func() error {
		if n := f.rate(500 * time.Millisecond); n == 0 {
			return errors.New("nothing moves though ZooKeeper is back")
		}
		return nil
	})
	// A namespace's limit holds for all its tables together, beside their own.
	c.drover("throttle", "default:*", "--rows", "1000").must(t, 0)
	time.Sleep(2 * time.Second)
	if n := f.rate(3 * time.Second); n < float64(scaled(500, 1)) || n > 1150 {
		t.Errorf("%.0f rows/s under a limit of 1000 for the namespace", n)
	}
	c.drover("throttle", "default:*", "--off").must(t, 0)
	p.signal(syscall.SIGTERM)
	r := p.wait().must(t, 143)
	tells(t, "the run", r.stderr, "ZooKeeper is not reached", "ZooKeeper is reached again")
	soon(t, 10*time.Second, func() error { // its limit went with it
		if n := f.rate(time.Second); n < float64(scaled(4000, 1)) {
			return fmt.Errorf("%.0f rows/s of the pool's run alone", n)
		}
		return nil
	})
}

// A worker whose password is not the pool's is told so and ends, in place of trying for ever.
func TestPoolOfAnotherPassword(t *testing.T) {
	t.Parallel()
	c := newCrew(t, ensemble(t, 1))
	c.start(append([]string{"DROVER_ZOOKEEPER_AUTH=digest:drover:right"}, c.env("worker", "--name", "w1")...)...)
	soon(t, 20*time.Second, func() error {
		r := drover(t, append([]string{"DROVER_ZOOKEEPER_AUTH=digest:drover:right"}, c.env("workers")...)...)
		if r.code != 0 || !strings.Contains(r.stdout, "w1") {
			return fmt.Errorf("workers: %s%s", r.stdout, r.stderr)
		}
		return nil
	})
	r := drover(t, append([]string{"DROVER_ZOOKEEPER_AUTH=digest:drover:wrong"}, c.env("worker", "--name", "w2")...)...).must(t, 1)
	tells(t, "stderr", r.stderr, "no permission", "/workers/w2", "digest")
}
