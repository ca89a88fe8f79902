package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/checkpoints"
	"drover/e2e/check"
	"drover/e2e/proxy"
	"drover/e2e/stack"
	pool "drover/fleet"
	"drover/fleet/tick"
	"drover/jobs/mongodump/dumpgen"
	"drover/zookeeper"
)

// The workers of a pool under faults: the real binary on ZooKeeper's own servers. TestFleetUnderChaos and those beside it show
// what package fleet promises with a work that only counts; here rows are moved.

// squad is workers of a pool that are killed, stopped and started again.
type squad struct {
	*crew
	ensemble *stack.Ensemble
	zk       *zookeeper.Client // the test's own
	pool     pool.Pool
	capacity int
	settings []string // of the workers: flags, and their environment
	workers  map[string]*process
	said     map[string]string // by workers that ended
}

func newSquad(t *testing.T, n, capacity int, settings ...string) *squad {
	t.Helper()
	s := newSquadOn(t, ensemble(t, 3), capacity, settings...)
	for i := range n {
		s.launch(fmt.Sprintf("w%d", i))
	}
	s.there(n)
	return s
}

// newSquadOn is one without workers.
func newSquadOn(t *testing.T, e *stack.Ensemble, capacity int, settings ...string) *squad {
	t.Helper()
	c := newCrew(t, e)
	zk, err := zookeeper.Open(zookeeper.Config{Servers: e.Addrs(), SessionTimeout: 5 * time.Second})
	must(t, err)
	t.Cleanup(func() { must(t, zk.Close()) })
	s := &squad{
		crew: c, ensemble: e, zk: zk, pool: pool.Pool{ZK: zk, Root: c.pool[strings.Index(c.pool, "/"):], By: "test@here"}, capacity: capacity,
		settings: settings, workers: map[string]*process{}, said: map[string]string{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.dump()
		}
	})
	return s
}

func (s *squad) launch(name string) {
	s.t.Helper()
	args := []string{"worker", "--name", name, "--capacity", fmt.Sprint(s.capacity)}
	for _, x := range s.settings {
		if isSetting(x) {
			args = slices.Insert(args, 0, x)
		} else {
			args = append(args, x)
		}
	}
	s.workers[name] = s.start(args...)
}

// end ends a worker with a signal and waits for its end.
func (s *squad) end(name string, sig syscall.Signal) result {
	s.t.Helper()
	p := s.workers[name]
	delete(s.workers, name)
	p.signal(sig)
	r := p.wait()
	if want := sig; sig == syscall.SIGKILL && r.signal != want || sig == syscall.SIGTERM && r.code != 0 {
		s.t.Errorf("worker %s ended with %d (%v) after %v:\n%s", name, r.code, r.signal, sig, tail(r.stderr))
	}
	s.said[name] += r.stderr
	return r
}

// endAll lets all workers end, and gives what each said in its lives.
func (s *squad) endAll() map[string]string {
	s.t.Helper()
	for _, name := range s.names() {
		s.end(name, syscall.SIGTERM)
	}
	return s.said
}

func (s *squad) names() (list []string) {
	for name := range s.workers {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// dump shows what workers said last when the test failed. All have ended by then.
func (s *squad) dump() {
	for name, p := range s.workers {
		s.said[name] += p.stderr.String()
	}
	for name, text := range s.said {
		s.t.Logf("%s:\n%s", name, tail(text))
	}
}

func tail(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// leader names the worker that leads, "" when none does.
func (s *squad) leader() string { return leaderOf(s.t, s.pool) }

// submitted is a run that a command waits for.
func (s *squad) submitted(yaml, job string) (waits *process, run string) {
	s.t.Helper()
	waits = s.start("submit", yaml, "--wait", "--json", "--request", "r1")
	s.moved(job, 1)
	return waits, "r1"
}

// attempt is the folder of a run's shards.
func (s *squad) attempt(job, run string) (path string, shards int) {
	s.t.Helper()
	var rec struct {
		Attempt string
		Shards  int
	}
	at := s.pool.Root + "/jobs/" + job + "/runs/" + run
	data, _, err := s.zk.Get(s.t.Context(), at)
	must(s.t, err)
	must(s.t, json.Unmarshal(data, &rec))
	return at + "/" + rec.Attempt, rec.Shards
}

// mark is a shard's, and when it was written last by ZooKeeper's clock.
func (s *squad) mark(attempt string, n int) (checkpoints.Mark, time.Time, error) {
	data, stat, err := s.zk.Get(s.t.Context(), checkpoints.MarkPath(attempt, n))
	if err != nil {
		return checkpoints.Mark{}, time.Time{}, err
	}
	m, err := checkpoints.DecodeMark(data)
	return m, time.UnixMilli(stat.Mtime), err
}

// owned gives the shards that a worker has and that are not done, with their epochs.
func (s *squad) owned(attempt string, shards int, name string) map[int]int32 {
	s.t.Helper()
	list := map[int]int32{}
	for n := range shards {
		owner, epoch, err := s.zk.Get(s.t.Context(), checkpoints.EpochPath(attempt, n))
		must(s.t, err)
		if !strings.HasPrefix(string(owner), name+"-") {
			continue
		}
		m, _, err := s.mark(attempt, n)
		must(s.t, err)
		if m.Checkpoint == nil || !m.Checkpoint.Done {
			list[n] = epoch.Version
		}
	}
	return list
}

// handed is when a shard was given to somebody else, and when that one's first checkpoint of it was written, by ZooKeeper's clock.
type handed struct {
	shard        int
	given, saved time.Time
}

// taken waits until each of these shards was given to somebody else who has written a checkpoint of it. epochs are their nodes' versions
// before: a write of whoever had a shard then is refused once it was given away.
func (s *squad) taken(attempt string, epochs map[int]int32) (list []handed) {
	s.t.Helper()
	soon(s.t, 30*time.Second, func() error {
		var lack []string
		for n, was := range epochs {
			owner, epoch, err := s.zk.Get(s.t.Context(), checkpoints.EpochPath(attempt, n))
			must(s.t, err)
			m, at, err := s.mark(attempt, n)
			must(s.t, err)
			given := time.UnixMilli(epoch.Mtime)
			switch c := m.Checkpoint; {
			case epoch.Version > was && at.After(given):
				list = append(list, handed{n, given, at})
				delete(epochs, n)
			case epoch.Version == was && c != nil && c.Done: // its owner's last write was done after its end
				delete(epochs, n)
			default:
				lack = append(lack, fmt.Sprintf("%d: owner %s since %v, checkpoint %+v at %v", n, owner, given, c, at))
			}
		}
		if len(lack) > 0 {
			return fmt.Errorf("shards were not taken over:\n%s", strings.Join(lack, "\n"))
		}
		return nil
	})
	return list
}

// target is where a test's rows go: real HBase at full count, embedded gateways else.
type target struct {
	fleet *fleet
	stack *stack.Stack
	table string
	list  string // of gateways, as a job file has it
}

func newTarget(t *testing.T, table string) *target {
	t.Helper()
	if proving() {
		s := stack.Shared(t)
		return &target{stack: s, table: newTable(t, s), list: gatewayList(s)}
	}
	f := newFleet(t, 3)
	return &target{fleet: f, table: table, list: f.addrs()}
}

// equal fails the test unless the table is what the file maps to, every cell in one version.
func (x *target) equal(t *testing.T, file string, timestamp int64) {
	t.Helper()
	if x.stack != nil {
		realEqual(t, x.stack, x.table, file, check.Mapping{Timestamp: timestamp})
		return
	}
	x.fleet.equal(t, x.table, file, timestamp, nil)
}

// Six workers, of which one is killed every one to five seconds and some are stopped for less and for more than their sessions,
// leaders among them: every row is there, once.
func TestPoolUnderChaos(t *testing.T) {
	beside(t)
	rnd := seed(t)
	limit, docs, kills, stops := scaled(3000, 2000), int64(scaled(1_000_000, 60_000)), scaled(100, 12), scaled(15, 3)
	longest := time.Duration(scaled(5, 3)) * time.Second
	x := newTarget(t, "chaos")
	s := newSquad(t, 6, 40)
	// Shards have 8 MiB at least: documents of this size make 200 of a million, and 14 of the reduced count.
	file := dump(t, dumpgen.Options{Profile: dumpgen.KB, AvgBytes: scaled(1750, 2000), Docs: docs, Seed: rnd.Uint64()})
	waits, run := s.submitted(job(t, "chaos", file, x.table, x.list, fmt.Sprintf("limits: {rows: %d}\nshards: 200", limit)), "chaos")
	_, shards := s.attempt("chaos", run)
	began := time.Now()

	stopped := map[string]time.Time{} // until when
	resume := func(all bool) {
		for name, until := range stopped {
			if all || time.Now().After(until) {
				s.workers[name].signal(syscall.SIGCONT)
				delete(stopped, name)
			}
		}
	}
	killed, leaders, paused := 0, 0, 0
	for n := range kills {
		for until := time.Now().Add(time.Second + time.Duration(rnd.Int64N(int64(longest-time.Second)))); time.Now().Before(until); {
			time.Sleep(50 * time.Millisecond)
			resume(false)
		}
		pickOne := func() string {
			name := s.leader()
			if _, is := stopped[name]; n%3 != 0 || name == "" || is || s.workers[name] == nil {
				for name = pick(rnd, s.names()); stopped[name] != (time.Time{}); name = pick(rnd, s.names()) {
				}
			}
			return name
		}
		if paused*kills < n*stops && len(stopped) == 0 {
			name := pickOne()
			long := []time.Duration{fleetSession / 2, fleetSession * 3 / 2, fleetSession * 5}[paused%3]
			s.workers[name].signal(syscall.SIGSTOP)
			stopped[name] = time.Now().Add(long)
			paused++
		}
		name := pickOne()
		if name == s.leader() {
			leaders++
		}
		s.end(name, syscall.SIGKILL)
		killed++
		time.Sleep(time.Duration(rnd.Int64N(int64(500 * time.Millisecond))))
		s.launch(name)
	}
	resume(true)
	chaos := time.Since(began)
	before := s.status("chaos")
	if before.Written >= docs {
		t.Error("all rows were moved before the chaos ended: it shows too little")
	}
	b := waits.wait().must(t, 0).json
	took := time.Since(began)
	b.close(t)
	if b.Written != docs || b.Dead != 0 || b.State != "done" {
		t.Errorf("the books say %+v, want %d written", b, docs)
	}
	x.equal(t, file, b.Timestamp)
	more := ""
	if x.fleet != nil {
		puts := 0
		for _, n := range x.fleet.take() {
			puts += n
		}
		more = fmt.Sprintf(", %d rows put again", puts-int(docs))
	}
	t.Logf("%d rows in %d shards (%d in the end) at %d rows/s: %d kills (%d of leaders) and %d stops in %.0f s, done after %.0f s%s",
		docs, shards, b.Shards, limit, killed, leaders, paused, chaos.Seconds(), took.Seconds(), more)
	if shards < 12 {
		t.Errorf("%d shards are too few for six workers", shards)
	}
	if killed < kills || leaders < kills/5 || paused < stops {
		t.Errorf("too few faults: want %d kills, %d of leaders, and %d stops", kills, kills/5, stops)
	}
}

// takeOver is the end of a worker, and when its shards had a checkpoint of somebody else.
type takeOver struct {
	signalled, ended time.Time
	shards           []handed
}

func since(list []takeOver, from func(takeOver) time.Time) (all []time.Duration) {
	for _, o := range list {
		for _, h := range o.shards {
			all = append(all, h.saved.Sub(from(o)))
		}
	}
	return all
}

func distribution(list []time.Duration) string {
	return fmt.Sprintf("p50 %.2f s, p90 %.2f s, p99 %.2f s, most %.2f s",
		percentile(list, 0.5).Seconds(), percentile(list, 0.9).Seconds(), percentile(list, 0.99).Seconds(), percentile(list, 1).Seconds())
}

// How soon a shard has another's checkpoint: after a kill within a session timeout, a tick and three seconds, and after a clean stop in one.
const takenAfterKill, takenAfterStop = fleetSession + 3500*time.Millisecond, time.Second

// The shards of a worker that died have another's checkpoint within a session timeout, a tick and three seconds; those of one
// that was ended cleanly within one second of its end.
func TestPoolTakesOver(t *testing.T) {
	beside(t)
	rnd := seed(t)
	least := scaled(100, 10)
	const limit = 3000
	f := newFleet(t, 3)
	s := newSquad(t, 6, 40)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: int64(limit * scaled(400, 120)), Seed: rnd.Uint64()})
	waits, run := s.submitted(job(t, "takeover", file, "takeover", f.addrs(), fmt.Sprintf("limits: {rows: %d}", limit)), "takeover")
	attempt, _ := s.attempt("takeover", run)
	var kills, stops []takeOver
	overs := func(list []takeOver) (n int) {
		for _, o := range list {
			n += len(o.shards)
		}
		return n
	}
	leaders := 0
	for n := 0; overs(kills) < least || overs(stops) < least; n++ {
		if s.status("takeover").State != "running" {
			t.Fatalf("the run ended after %d and %d take-overs", overs(kills), overs(stops))
		}
		// All shards are at somebody who is there, and have been for a while.
		time.Sleep(fleetSession)
		var shards int
		soon(t, 30*time.Second, func() error {
			list, err := s.pool.Workers(t.Context())
			least := 1000
			for _, w := range list {
				least = min(least, w.Shards)
			}
			if err != nil || len(list) != 6 || least == 0 {
				return fmt.Errorf("%d workers have at least %d shards: %w", len(list), least, err)
			}
			return nil
		})
		_, shards = s.attempt("takeover", run)
		name := pick(rnd, s.names())
		lead := s.leader()
		if n%4 < 2 && lead != "" {
			name = lead
			leaders++
		}
		of := map[int]int32{}
		for n, epoch := range s.owned(attempt, shards, name) {
			if m, _, err := s.mark(attempt, n); err == nil && m.Checkpoint != nil {
				of[n] = epoch
			}
		}
		o := takeOver{signalled: time.Now()}
		sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[n%2]
		s.end(name, sig)
		o.ended = time.Now()
		o.shards = s.taken(attempt, of)
		from, allowed := o.signalled, takenAfterKill
		if sig == syscall.SIGTERM {
			from, allowed = o.ended, takenAfterStop
		}
		for _, h := range o.shards {
			if took := h.saved.Sub(from); took > allowed {
				t.Logf("shard %d of %s after %v (leader: %v): given after %.2f s, with a checkpoint after %.2f s", h.shard, name, sig, name == lead,
					h.given.Sub(from).Seconds(), took.Seconds())
			}
		}
		if sig == syscall.SIGKILL {
			kills = append(kills, o)
		} else {
			stops = append(stops, o)
		}
		s.launch(name)
		s.there(6)
	}
	s.drover("cancel", "takeover").must(t, 0)
	waits.wait().must(t, 6)
	began := func(o takeOver) time.Time { return o.signalled }
	ended := func(o takeOver) time.Time { return o.ended }
	k, c := since(kills, began), since(stops, ended)
	t.Logf("%d take-overs after %d kills (%d of all ends were leaders'): %s", len(k), len(kills), leaders, distribution(k))
	t.Logf("%d take-overs after %d clean stops: %s after the end; %s after the signal", len(c), len(stops), distribution(c), distribution(since(stops, began)))
	// How soon rows of a shard come depends on the machine too: the bounds count where they are measured for docs/proof.md.
	if !proving() {
		return
	}
	if m := percentile(k, 0.99); m > takenAfterKill {
		t.Errorf("after kills the slowest of a hundred take-overs took %v", m)
	}
	if m := percentile(c, 0.99); m > takenAfterStop {
		t.Errorf("after clean stops the slowest of a hundred take-overs took %v", m)
	}
}

// deleteAll deletes a node and all below it, whatever others do there meanwhile.
func (s *squad) deleteAll(path string) {
	s.t.Helper()
	p := &fleetPool{t: s.t, zk: s.zk}
	p.deleteAll(path)
}

// stands fails the test when rows arrive, over a while.
func (f *fleet) stands(t *testing.T, d time.Duration, when string) {
	t.Helper()
	if n := f.rate(d); n > 0 {
		t.Errorf("%.0f rows/s %s", n, when)
	}
}

// goesOnFrom restores a pool that is held, and waits until its run is done with nothing lost. The job's name is its table's.
func (s *squad) goesOnFrom(backup, job, file string, docs int64, f *fleet) {
	s.t.Helper()
	t := s.t
	s.drover("restore", backup).must(t, 0)
	soon(t, 60*time.Second, func() error {
		if b := s.drover("status", job, "--json").json; b.State != "done" {
			return fmt.Errorf("the run is %+v", b)
		}
		return nil
	})
	b := s.status(job)
	b.close(t)
	if b.Run != "r1" || b.Written != docs {
		t.Errorf("the books say %+v, want run r1 with %d written", b, docs)
	}
	f.equal(t, job, file, b.Timestamp, nil)
	for name, text := range s.endAll() {
		tells(t, name, text, "everything is held", "held no more")
	}
}

// A tree that was deleted in mid-run holds everything, visibly; nothing is planned anew; restore goes on, and no row is lost.
func TestPoolWithoutItsTree(t *testing.T) {
	beside(t)
	rnd := seed(t)
	const limit, docs = 3000, 60_000
	f := newFleet(t, 3)
	s := newSquad(t, 3, 8)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: rnd.Uint64()})
	waits, _ := s.submitted(job(t, "tree", file, "tree", f.addrs(), fmt.Sprintf("limits: {rows: %d}", limit)), "tree")
	s.moved("tree", 2*limit)
	backup := t.TempDir() + "/backup"
	s.drover("backup", backup).must(t, 0)
	s.moved("tree", 4*limit)
	waits.signal(syscall.SIGTERM)
	waits.wait().must(t, 143)

	s.deleteAll(s.pool.Root)
	time.Sleep(2 * fleetSession)
	f.stands(t, 2*fleetSession, "without the tree")
	if exists, _, err := s.zk.Exists(t.Context(), s.pool.Root); err != nil || exists {
		t.Errorf("the tree is there again: %v, %v", exists, err)
	}
	tells(t, "drover workers", s.drover("workers").must(t, 1).stderr, "drover restore")
	moved := f.applied()
	if moved >= docs {
		t.Error("all rows were moved before the fault")
	}
	s.goesOnFrom(backup, "tree", file, docs, f)
	t.Logf("held with %d of %d rows moved", moved, docs)
}

// ZooKeeper's servers put back to what they were some seconds before, as by somebody who restores a snapshot of theirs: everything is
// held, visibly, also by a worker whose session ended meanwhile and by one that is started behind it, until restore brings the pool's
// own backup; and no row is lost.
func TestPoolOnServersPutBack(t *testing.T) {
	beside(t)
	rnd := seed(t)
	const limit, docs = 3000, 90_000
	f := newFleet(t, 3)
	s := newSquad(t, 3, 8)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: rnd.Uint64()})
	waits, _ := s.submitted(job(t, "back", file, "back", f.addrs(), fmt.Sprintf("limits: {rows: %d}", limit)), "back")
	s.moved("back", 2*limit)
	waits.signal(syscall.SIGTERM)
	waits.wait().must(t, 143)
	before := t.TempDir()
	for _, p := range s.ensemble.Servers {
		must(t, p.Stop())
	}
	for _, p := range s.ensemble.Servers {
		must(t, os.CopyFS(before+"/"+p.Name, os.DirFS(s.ensemble.Dir+"/"+p.Name)))
	}
	must(t, s.ensemble.Restart(t.Context()))
	s.moved("back", 6*limit)
	backup := t.TempDir() + "/backup"
	s.drover("backup", backup).must(t, 0)
	for _, p := range s.ensemble.Servers {
		must(t, p.Kill())
	}
	for _, p := range s.ensemble.Servers {
		must(t, os.RemoveAll(s.ensemble.Dir+"/"+p.Name))
		must(t, os.CopyFS(s.ensemble.Dir+"/"+p.Name, os.DirFS(before+"/"+p.Name)))
	}
	must(t, s.ensemble.Restart(t.Context()))
	struck := time.Now()
	hold := func(n int) {
		t.Helper()
		soon(t, 10*fleetSession, func() error {
			if r := s.drover("workers"); strings.Count(r.stdout, "put back") < n {
				return fmt.Errorf("not all %d say that they hold: %s%s", n, r.stdout, r.stderr)
			}
			return nil
		})
	}
	hold(3)
	t.Logf("noticed by all after %.1f s", time.Since(struck).Seconds())
	s.launch("late")
	hold(4)
	tells(t, "drover status", s.drover("status", "back").must(t, 0).stdout, "everything is held", "put back", "drover restore")
	f.stands(t, 2*fleetSession, "on servers that were put back")
	if moved := f.applied(); moved >= docs {
		t.Error("all rows were moved before the fault")
	}
	s.goesOnFrom(backup, "back", file, docs, f)
}

// All of ZooKeeper hangs: everything waits, and goes on by itself under the same processes.
func TestPoolWithoutZooKeeper(t *testing.T) {
	beside(t)
	rnd := seed(t)
	const limit, docs = 3000, 60_000
	outage := time.Duration(scaled(300, 20)) * time.Second
	f := newFleet(t, 3)
	s := newSquad(t, 3, 8)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: rnd.Uint64()})
	waits, _ := s.submitted(job(t, "outage", file, "outage", f.addrs(), fmt.Sprintf("limits: {rows: %d}", limit)), "outage")
	s.moved("outage", 2*limit)
	for _, p := range s.ensemble.Servers {
		must(t, p.Stop())
	}
	struck := time.Now()
	time.Sleep(fleetSession)
	moved := f.applied()
	if moved == 0 || moved >= docs {
		t.Errorf("%d of %d rows were moved at the fault", moved, docs)
	}
	f.stands(t, outage-time.Since(struck), "without ZooKeeper")
	must(t, s.ensemble.Restart(t.Context()))
	back := time.Now()
	soon(t, 60*time.Second, func() error {
		if f.applied() == moved {
			return errors.New("nothing moves though ZooKeeper is back")
		}
		return nil
	})
	goes := time.Since(back)
	b := waits.wait().must(t, 0).json
	b.close(t)
	if b.Written != docs {
		t.Errorf("the books say %+v, want %d written", b, docs)
	}
	f.equal(t, "outage", file, b.Timestamp, nil)
	for name, text := range s.endAll() {
		tells(t, name, text, "ZooKeeper is not reached", "ZooKeeper is reached again")
	}
	t.Logf("ZooKeeper hung for %.0f s with %d of %d rows moved; rows arrived again %.1f s after its return", back.Sub(struck).Seconds(), moved, docs, goes.Seconds())
}

// Each instant of a schedule has one decision, whoever leads: its run, or why there is none; and there are no other runs. A clock that
// runs sixty times as fast brings an instant each second.
func TestPoolScheduleUnderKills(t *testing.T) {
	beside(t)
	rnd := seed(t)
	ticks := scaled(100, 15)
	f := newFleet(t, 2)
	s := newSquad(t, 3, 4, "DROVER_CLOCK="+time.Now().UTC().Format(time.RFC3339)+",60")
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 100, Seed: rnd.Uint64()})
	s.drover("submit", merging(t, "cron", file, "cron", f.addrs(), `schedule: {cron: "* * * * *", misfire: 1h}`)).must(t, 0)
	folder := s.pool.Root + "/jobs/cron"
	kills := 0
	for {
		names, _, err := s.zk.Children(t.Context(), folder+"/ticks")
		if err != nil && !errors.Is(err, zookeeper.ErrNoNode) {
			must(t, err)
		}
		if len(names) >= ticks {
			break
		}
		time.Sleep(2*time.Second + time.Duration(rnd.Int64N(int64(3*time.Second))))
		if name := s.leader(); s.workers[name] != nil {
			s.end(name, syscall.SIGKILL)
			kills++
			s.launch(name)
		}
	}
	s.drover("pause", "--schedule", "cron").must(t, 0)
	soon(t, 30*time.Second, func() error {
		if b := s.status("cron"); b.State == "running" {
			return errors.New("the last run is not over")
		}
		return nil
	})
	names, _, err := s.zk.Children(t.Context(), folder+"/ticks")
	must(t, err)
	slices.Sort(names)
	var decided []tick.Decision
	fired, outcomes := map[string]bool{}, map[tick.Outcome]int{}
	for _, name := range names {
		data, stat, err := s.zk.Get(t.Context(), folder+"/ticks/"+name)
		must(t, err)
		var d tick.Decision
		must(t, json.Unmarshal(data, &d))
		if stat.Version != 0 {
			t.Errorf("the decision on %s was changed %d times", name, stat.Version)
		}
		if n := len(decided); n > 0 && d.At.Sub(decided[n-1].At) != time.Minute && decided[n-1].Outcome != tick.Missed && d.Outcome != tick.Missed {
			t.Errorf("%v is followed by %v: what lies between was not decided", decided[n-1].At, d.At)
		}
		decided = append(decided, d)
		outcomes[d.Outcome]++
		if d.Outcome == tick.Fired {
			if fired[d.Run] {
				t.Errorf("run %s was fired twice", d.Run)
			}
			fired[d.Run] = true
		}
	}
	runs, _, err := s.zk.Children(t.Context(), folder+"/runs")
	must(t, err)
	for _, run := range runs {
		if !fired[run] {
			t.Errorf("run %s was not fired by any instant", run)
		}
	}
	if len(runs) != len(fired) {
		t.Errorf("%d runs are there, %d were fired", len(runs), len(fired))
	}
	if n := lines(s.drover("ticks", "cron", "-n", "1000", "--json").must(t, 0).stdout); n != len(names) {
		t.Errorf("%d instants are listed, want %d", n, len(names))
	}
	if kills == 0 || len(fired) < ticks/6 {
		t.Errorf("%d kills and %d runs show too little", kills, len(fired))
	}
	t.Logf("%d instants under %d kills of the leader: %v, %d runs", len(names), kills, outcomes, len(runs))
}

// ports lists the local ports of a process's connections, which tell its calls from others'.
func ports(t *testing.T, pid int) map[int]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", pid)
	fds, err := os.ReadDir(dir + "/fd")
	must(t, err)
	mine := map[string]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				mine[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	text, err := os.ReadFile(dir + "/net/tcp")
	must(t, err)
	list := map[int]bool{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 9 && mine[f[9]] {
			var port int
			if _, port16, ok := strings.Cut(f[1], ":"); ok {
				fmt.Sscanf(port16, "%x", &port)
			}
			list[port] = true
		}
	}
	return list
}

// A worker that was stopped for longer than its session, and whose shards others have, puts nothing more when it goes on: its last
// attempt, as the gateways see it, comes within a tenth of a second. It is drained meanwhile, so that it is given nothing new.
func TestPoolZombieStops(t *testing.T) {
	rnd := seed(t)
	rounds := scaled(34, 3)
	const limit, each = 2000, 3 // of six workers at a time
	f := newFleet(t, 3)
	type attempt struct {
		port int
		at   time.Time
	}
	var mu sync.Mutex
	var attempts []attempt
	addrs := make([]string, len(f.servers))
	for i, server := range f.servers {
		p, err := proxy.Start(server.Addr())
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		p.OnCall(func(port int, c proxy.Call) {
			if c.Rows > 0 {
				mu.Lock()
				defer mu.Unlock()
				attempts = append(attempts, attempt{port, time.Now()})
			}
		})
		addrs[i] = p.Addr()
	}
	s := newSquad(t, 6, 8)
	file := dump(t, dumpgen.Options{Profile: dumpgen.KB, AvgBytes: 1500, Docs: int64(limit * scaled(400, 60)), Seed: rnd.Uint64()})
	waits, _ := s.submitted(job(t, "zombie", file, "zombie", `["`+strings.Join(addrs, `", "`)+`"]`, fmt.Sprintf("limits: {rows: %d}", limit)), "zombie")
	var last []time.Duration
	stopped, tried := 0, 0
	for range rounds {
		s.allBusy()
		names := s.names()
		rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		names = names[:each]
		of := map[string]map[int]bool{}
		mu.Lock()
		attempts = nil
		mu.Unlock()
		time.Sleep(500 * time.Millisecond)
		for _, name := range names {
			s.workers[name].signal(syscall.SIGSTOP)
			of[name] = ports(t, s.workers[name].cmd.Process.Pid)
		}
		for _, name := range names {
			s.drover("drain", name).must(t, 0)
		}
		s.left(6 - each)
		mu.Lock()
		before := attempts
		attempts = nil
		mu.Unlock()
		for _, name := range names {
			if slices.ContainsFunc(before, func(a attempt) bool { return of[name][a.port] }) {
				stopped++
			} else {
				delete(of, name) // it was at nothing when it was stopped
			}
		}
		cont := map[string]time.Time{}
		for _, name := range names {
			cont[name] = time.Now()
			s.workers[name].signal(syscall.SIGCONT)
		}
		for range 20 {
			time.Sleep(50 * time.Millisecond)
			for name := range of {
				maps.Copy(of[name], ports(t, s.workers[name].cmd.Process.Pid))
			}
		}
		mu.Lock()
		for name, mine := range of {
			took := time.Duration(0)
			for _, a := range attempts {
				if mine[a.port] {
					took = max(took, a.at.Sub(cont[name]))
				}
			}
			if took > 0 {
				tried++
			}
			last = append(last, took)
		}
		mu.Unlock()
		for _, name := range names {
			s.drover("undrain", name).must(t, 0)
		}
	}
	if b := s.status("zombie"); b.State != "running" {
		t.Errorf("the run is %s: it should have lasted", b.State)
	}
	s.drover("cancel", "zombie").must(t, 0)
	waits.wait().must(t, 6)
	t.Logf("%d workers were stopped at work for longer than their sessions; %d tried to put afterwards; from SIGCONT to the last attempt: p99 %v, most %v",
		stopped, tried, percentile(last, 0.99), percentile(last, 1))
	if stopped < scaled(rounds, 1) {
		t.Errorf("%d workers were at work when they were stopped: too few", stopped)
	}
	if m := percentile(last, 0.99); m > 100*time.Millisecond {
		t.Errorf("the slowest of a hundred zombies put for %v", m)
	}
}

// allBusy waits until all workers have shards, left until only so many are there.
func (s *squad) allBusy() {
	s.t.Helper()
	s.workersAre(func(list []pool.WorkerInfo) bool {
		return len(list) == len(s.workers) && !slices.ContainsFunc(list, func(w pool.WorkerInfo) bool { return w.Shards == 0 })
	})
}

func (s *squad) left(n int) {
	s.t.Helper()
	s.workersAre(func(list []pool.WorkerInfo) bool { return len(list) == n })
}

func (s *squad) workersAre(f func([]pool.WorkerInfo) bool) {
	s.t.Helper()
	soon(s.t, 30*time.Second, func() error {
		list, err := s.pool.Workers(s.t.Context())
		if err != nil || !f(list) {
			return fmt.Errorf("the workers are %+v: %w", list, err)
		}
		return nil
	})
}
