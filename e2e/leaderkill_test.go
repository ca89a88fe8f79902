package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"drover/e2e/stack"
	pool "drover/fleet"
	"drover/jobs/mongodump/dumpgen"
	"drover/zookeeper"
)

// The leader of a pool is killed in mid-run: the others keep their pace, another leads, its shards are taken over, and the
// limit holds in every moment. DROVER_RECORD names a folder that takes rows and workers over time, from which e2e/rates
// draws docs/pool-leader-kill.svg.
func TestPoolLeaderKilled(t *testing.T) {
	dir := os.Getenv("DROVER_RECORD")
	if dir == "" && !proving() {
		t.Skip("takes two minutes: with DROVER_PROVE=1, or DROVER_RECORD=DIR")
	}
	const (
		limit   = 3000 // rows a second
		session = 10 * time.Second
		crewOf  = 4
		docs    = 105 * limit
	)
	e, err := stack.StartEnsemble(t.Context(), stack.EnsembleOptions{Servers: 3})
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	f := newFleet(t, 3)
	const node = "/drover/main"
	begin := func(args ...string) *process {
		return start(t, append([]string{"DROVER_ZOOKEEPER=" + strings.Join(e.Addrs(), ",") + node}, args...)...)
	}
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: 9})
	workers := map[string]*process{}
	work := func(name string) { workers[name] = begin("worker", "--name", name, "--capacity", "4") }
	for i := range crewOf {
		work(fmt.Sprintf("w%d", i+1))
	}

	zk, err := zookeeper.Open(zookeeper.Config{Servers: e.Addrs(), SessionTimeout: session})
	must(t, err)
	t.Cleanup(func() { must(t, zk.Close()) })
	p := pool.Pool{ZK: zk, Root: node, By: "test@here"}
	look := func() (n int, leader string) {
		list, err := p.Workers(t.Context())
		if err != nil && !errors.Is(err, pool.ErrNoPool) {
			t.Fatal(err)
		}
		for _, w := range list {
			if w.Leads {
				leader = w.Name
			}
		}
		return len(list), leader
	}
	soon(t, 20*time.Second, func() error {
		if n, leader := look(); n != crewOf || leader == "" {
			return fmt.Errorf("%d workers, %q leads", n, leader)
		}
		return nil
	})

	type second struct {
		at      float64
		rows    int
		workers int
	}
	var seconds []second
	var events bytes.Buffer
	begin("submit", job(t, "backfill", file, "backfill", f.addrs(), fmt.Sprintf("limits: {rows: %d}", limit))).wait().must(t, 0)
	began := time.Now()
	happened := func(what string) { fmt.Fprintf(&events, "event,%.3f,%s\n", time.Since(began).Seconds(), what) }
	_, first := look()
	var killed time.Time
	var back bool
	leader, last := first, f.puts()
	for tick := time.NewTicker(time.Second); ; {
		<-tick.C
		now, at := f.puts(), time.Since(began).Seconds()
		n, leads := look()
		seconds = append(seconds, second{at, now - last, n})
		last = now
		if now >= docs {
			tick.Stop()
			break
		}
		if leads != "" && leads != leader {
			happened(leads + " leads")
			leader = leads
		}
		switch since := time.Since(killed); {
		case killed.IsZero() && time.Since(began) > 25*time.Second:
			workers[first].signal(syscall.SIGKILL)
			workers[first].wait()
			killed = time.Now()
			happened("leader " + first + " killed")
		case !killed.IsZero() && !back && since > 40*time.Second:
			work(first)
			back = true
			happened(first + " is started again")
		case since > 5*time.Minute && !killed.IsZero():
			t.Fatalf("%d of %d rows after %v", now, docs, time.Since(began))
		}
	}
	var b books
	soon(t, 30*time.Second, func() error {
		if b = begin("status", "backfill", "--json").wait().must(t, 0).json; b.State != "done" {
			return fmt.Errorf("the status says %+v", b)
		}
		return nil
	})
	b.close(t)
	f.equal(t, "backfill", file, b.Timestamp, nil)
	if killed.IsZero() || leader == first {
		t.Fatalf("killed at %v, and %s leads at the end: want another", killed, leader)
	}
	for i, s := range seconds {
		if i >= 2 && s.rows+seconds[i-1].rows+seconds[i-2].rows > 3*limit*11/10 {
			t.Errorf("%d rows in the three seconds before second %.0f, want at most %d a second", s.rows+seconds[i-1].rows+seconds[i-2].rows, s.at, limit)
		}
		switch at := began.Add(time.Duration(s.at * float64(time.Second))).Sub(killed); {
		case at > time.Second && at < 35*time.Second && s.rows < limit/3:
			t.Errorf("%d rows a second %.0f s after the kill: three workers of four are there", s.rows, at.Seconds())
		case at > 3*session && at < 38*time.Second && s.rows < limit*3/4:
			t.Errorf("%d rows a second %.0f s after the kill: nobody has what the killed one had", s.rows, at.Seconds())
		}
	}
	if dir == "" {
		return
	}
	out := bytes.NewBuffer(events.Bytes())
	fmt.Fprintf(out, "limit,%d\n", limit)
	for _, s := range seconds {
		fmt.Fprintf(out, "%.3f,%d,%d\n", s.at, s.rows, s.workers)
	}
	must(t, os.WriteFile(filepath.Join(dir, "leader-kill.csv"), out.Bytes(), 0o644))
}

// puts is how many rows were applied, with repeats.
func (f *fleet) puts() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, times := range f.seen {
		n += times
	}
	return n
}
