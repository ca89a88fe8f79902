package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/checkpoints"
	"drover/e2e/stack"
	pool "drover/fleet"
	"drover/fleet/share"
	"drover/jobs"
	"drover/zookeeper"
)

// What package fleet promises, with processes that are killed and stopped, on ZooKeeper's own servers. The work is not HBase's
// but counting: a shard is a number of rows, and a row is moved when the test has heard of it.

const (
	fleetMemberEnv = "DROVER_E2E_MEMBER" // what a child is
	fleetRoot      = "/drover/e2e"
	fleetSession   = 2 * time.Second
)

// fleetChild says what a child process is.
type fleetChild struct {
	Name     string
	Servers  []string
	Recorder string // host:port
	Capacity int
	Batch    int // rows
}

// fleetJob is the job file of these tests.
type fleetJob struct {
	Shards int `json:"shards"`
	Rows   int `json:"rows"` // of a shard
}

// fleetEvent is what a child tells: rows that it moved, and its tries to save.
type fleetEvent struct {
	What   string `json:"what"` // put, begin, saved, fenced, done
	Member string `json:"member"`
	Shard  int    `json:"shard"`
	From   int    `json:"from,omitempty"`
	To     int    `json:"to"`
}

// fleetMember is the child process.
func fleetMember() int {
	var c fleetChild
	if err := json.Unmarshal([]byte(os.Getenv(fleetMemberEnv)), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	conn, err := net.Dial("tcp", c.Recorder)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer conn.Close()
	zk, err := zookeeper.Open(zookeeper.Config{Servers: c.Servers, SessionTimeout: fleetSession, Log: log})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer zk.Close()
	w := &fleetWork{child: c, enc: json.NewEncoder(conn)}
	w.member, err = pool.Join(ctx, pool.Config{
		ZK: zk, Root: fleetRoot, Name: c.Name, Capacity: c.Capacity, Plan: planFleetJob, Work: w.work, Log: log,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := w.member.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func planFleetJob(_ context.Context, file []byte, after int64) (pool.Planned, error) {
	var j fleetJob
	if err := json.Unmarshal(file, &j); err != nil {
		return pool.Planned{}, err
	}
	p := pool.Planned{Plan: file, Fingerprint: "counting", Timestamp: max(time.Now().UnixMilli(), after+1)}
	for n := range j.Shards {
		p.Shards = append(p.Shards, jobs.Shard{N: n, Start: "0", End: jobs.Cursor(strconv.Itoa(j.Rows))})
	}
	return p, nil
}

// fleetWork counts.
type fleetWork struct {
	child  fleetChild
	member *pool.Member
	mu     sync.Mutex
	enc    *json.Encoder
}

// tell writes to the recorder. What was written arrives, even when the process is killed right behind it.
func (w *fleetWork) tell(e fleetEvent) error {
	e.Member = w.child.Name
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.enc.Encode(e)
}

func (w *fleetWork) work(ctx context.Context, r pool.Run, leases pool.Leases) error {
	account, release := w.member.Budget("t", share.Puts, r.ID, pool.Use{})
	defer release()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		l, ok := leases.Next(ctx)
		if !ok {
			return nil
		}
		wg.Go(func() { w.shard(ctx, r, account, l) })
	}
}

func (w *fleetWork) shard(ctx context.Context, r pool.Run, account *share.Account, l pool.Lease) {
	end, _ := strconv.Atoi(string(l.Shard.End))
	at, _ := strconv.Atoi(l.From.Cursor)
	saved := l.From
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-l.Lost:
			cancel()
		case <-ctx.Done():
		}
	}()
	save := func() error {
		c := checkpoints.Checkpoint{Shard: l.Shard.N, Cursor: strconv.Itoa(at), Done: at == end, Tables: map[string]checkpoints.Counts{
			"t": {Read: int64(at), Written: int64(at), Rows: int64(at)},
		}}
		w.tell(fleetEvent{What: "begin", Shard: l.Shard.N, To: at})
		err := r.Store.Save(context.Background(), []checkpoints.Checkpoint{c}, checkpoints.Totals{})
		if err == nil {
			saved = c
			return w.tell(fleetEvent{What: "saved", Shard: l.Shard.N, To: at})
		}
		if _, fenced := errors.AsType[*checkpoints.FencedError](err); fenced {
			w.tell(fleetEvent{What: "fenced", Shard: l.Shard.N, To: at})
		}
		return err
	}
	var err error
	last := time.Now().Add(-time.Hour) // the first settlement is saved at once
	for err == nil && at < end {
		n := min(w.child.Batch, end-at)
		if _, err = account.Wait(ctx, n, n); err != nil {
			break
		}
		if err = l.Hold(ctx); err != nil {
			break
		}
		if err = w.tell(fleetEvent{What: "put", Shard: l.Shard.N, From: at, To: at + n}); err != nil {
			break
		}
		at += n
		if time.Since(last) > 300*time.Millisecond || at == end {
			last = time.Now()
			if err = save(); err != nil && !fencedOrLost(err) {
				err = nil // ZooKeeper is away: later
			}
		}
	}
	for err == nil && !saved.Done {
		if err = l.Hold(ctx); err == nil {
			if err = save(); err != nil && !fencedOrLost(err) {
				err = nil
			}
		}
	}
	if err != nil && strconv.Itoa(at) != saved.Cursor {
		save() // asked back: what is settled is told to whoever comes next
	}
	if ctx.Err() != nil {
		err = pool.ErrLost
	}
	l.Done(saved, err)
}

func fencedOrLost(err error) bool {
	_, fenced := errors.AsType[*checkpoints.FencedError](err)
	return fenced || errors.Is(err, zookeeper.ErrSessionLost) || errors.Is(err, checkpoints.ErrGone)
}

// recorder hears from the children.
type recorder struct {
	listener net.Listener
	mu       sync.Mutex
	rows     [][]bool
	puts     int
	twice    int
	at       []time.Time // of rows, ascending
	saves    []fleetSave
	fenced   int
	begun    map[string]time.Time // by member and shard
}

type fleetSave struct {
	member    string
	shard, to int
	began, at time.Time
}

func newRecorder(t *testing.T, j fleetJob) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &recorder{listener: l, rows: make([][]bool, j.Shards), begun: map[string]time.Time{}}
	for n := range r.rows {
		r.rows[n] = make([]bool, j.Rows)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				in := bufio.NewScanner(c)
				for in.Scan() {
					var e fleetEvent
					if json.Unmarshal(in.Bytes(), &e) == nil {
						r.hear(e)
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return r
}

func (r *recorder) hear(e fleetEvent) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	who := fmt.Sprintf("%s/%d", e.Member, e.Shard)
	switch e.What {
	case "put":
		for n := e.From; n < e.To; n++ {
			if r.rows[e.Shard][n] {
				r.twice++
			}
			r.rows[e.Shard][n] = true
			r.puts++
			r.at = append(r.at, now)
		}
	case "begin":
		r.begun[who] = now
	case "saved":
		r.saves = append(r.saves, fleetSave{e.Member, e.Shard, e.To, r.begun[who], now})
	case "fenced":
		r.fenced++
	}
}

// missing counts rows that were never moved.
func (r *recorder) missing() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rows := range r.rows {
		for _, there := range rows {
			if !there {
				n++
			}
		}
	}
	return n
}

// pool is six children, and a client of the test's own.
type fleetPool struct {
	t        *testing.T
	ensemble *stack.Ensemble
	recorder *recorder
	zk       *zookeeper.Client
	pool     pool.Pool
	children map[string]*exec.Cmd
	config   fleetChild
	logs     map[string]*os.File
}

func newFleetPool(t *testing.T, j fleetJob, workers, capacity int) *fleetPool {
	t.Helper()
	e := ensemble(t, 3)
	r := newRecorder(t, j)
	zk, err := zookeeper.Open(zookeeper.Config{Servers: e.Addrs(), SessionTimeout: 5 * time.Second})
	must(t, err)
	t.Cleanup(func() { must(t, zk.Close()) })
	p := &fleetPool{
		t: t, ensemble: e, recorder: r, zk: zk, pool: pool.Pool{ZK: zk, Root: fleetRoot, By: "test@here"}, children: map[string]*exec.Cmd{},
		config: fleetChild{Servers: e.Addrs(), Recorder: r.listener.Addr().String(), Capacity: capacity, Batch: 5}, logs: map[string]*os.File{},
	}
	t.Cleanup(func() {
		for _, c := range p.children {
			c.Process.Kill()
			c.Wait()
		}
	})
	for i := range workers {
		p.start(fmt.Sprintf("w%d", i))
	}
	return p
}

func (p *fleetPool) start(name string) {
	p.t.Helper()
	c := p.config
	c.Name = name
	text, err := json.Marshal(c)
	must(p.t, err)
	exe, err := os.Executable()
	must(p.t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), fleetMemberEnv+"="+string(text))
	if p.logs[name] == nil {
		p.logs[name], err = os.Create(fmt.Sprintf("%s/%s.log", p.t.TempDir(), name))
		must(p.t, err)
	}
	cmd.Stderr = p.logs[name]
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(p.t, cmd.Start())
	p.children[name] = cmd
}

// kill ends a child with a signal and waits for its end.
func (p *fleetPool) kill(name string, s syscall.Signal) {
	p.t.Helper()
	c := p.children[name]
	must(p.t, c.Process.Signal(s))
	c.Wait()
	delete(p.children, name)
}

// leader names the child that leads, "" when none does.
func (p *fleetPool) leader() string { return leaderOf(p.t, p.pool) }

// leaderOf names the member of a pool that leads, "" when none does.
func leaderOf(t *testing.T, p pool.Pool) string {
	list, err := p.Workers(t.Context())
	if err != nil {
		return ""
	}
	for _, w := range list {
		if w.Leads {
			return w.Name
		}
	}
	return ""
}

func (p *fleetPool) submit(j fleetJob, limit float64) (run string) {
	p.t.Helper()
	file, err := json.Marshal(j)
	must(p.t, err)
	soon(p.t, 10*time.Second, func() error {
		if list, err := p.pool.Workers(p.t.Context()); err != nil || len(list) < len(p.children) {
			return fmt.Errorf("%d workers are there: %w", len(list), err)
		}
		return nil
	})
	spec := pool.Spec{File: file, Limits: map[string]pool.Limits{"t": {Puts: share.Limit{Rows: limit, Bytes: 1e12}, Scans: share.NoLimit}}}
	request := pool.NewRequest()
	for range 2 { // the second changes nothing
		run, err = p.pool.Submit(p.t.Context(), request, "counting", spec)
		must(p.t, err)
	}
	return run
}

// finish waits for the run's end and looks at the books.
func (p *fleetPool) finish(run string, j fleetJob, within time.Duration) {
	p.t.Helper()
	var info pool.RunInfo
	soon(p.t, within, func() (err error) {
		if info, err = p.pool.Status(p.t.Context(), "counting", run); err == nil && info.State != pool.Done {
			err = fmt.Errorf("the run is %s (%s), %d of %d shards are done", info.State, info.Reason, info.Done, info.Shards)
		}
		return err
	})
	if got, want := info.Tables["t"].Written, int64(j.Shards*j.Rows); got != want {
		p.t.Errorf("the books say %d rows, want %d", got, want)
	}
	if n := p.recorder.missing(); n != 0 {
		p.t.Errorf("%d rows were never moved", n)
	}
}

// dump shows the children's logs when the test failed.
func (p *fleetPool) dump() {
	if !p.t.Failed() {
		return
	}
	for name, f := range p.logs {
		text, _ := os.ReadFile(f.Name())
		lines := strings.Split(string(text), "\n")
		p.t.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

// stale tries to write as somebody whose right is gone, or never was, as often as it can.
type stale struct {
	tries, accepted, leaders, leadersAccepted atomic.Int64
	wg                                        sync.WaitGroup
	stop                                      context.CancelFunc
}

func (p *fleetPool) stale(r *rand.Rand, run string, j fleetJob, every time.Duration) *stale {
	s := &stale{}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	runPath := fleetRoot + "/jobs/counting/runs/" + run
	s.wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(every)
			var rec struct{ Attempt string }
			data, _, err := p.zk.Get(ctx, runPath)
			if err != nil || json.Unmarshal(data, &rec) != nil || rec.Attempt == "" {
				continue
			}
			at := runPath + "/" + rec.Attempt
			n := r.IntN(j.Shards)
			_, stat, err := p.zk.Get(ctx, checkpoints.EpochPath(at, n))
			if err != nil || stat.Version == 0 {
				continue
			}
			old := r.Int32N(stat.Version)
			store := checkpoints.OpenZooKeeper(p.zk, at, "stale", func(int) (int32, bool) { return old, true })
			err = store.Save(ctx, []checkpoints.Checkpoint{{Shard: n, Cursor: "0"}}, checkpoints.Totals{})
			if _, fenced := errors.AsType[*checkpoints.FencedError](err); fenced {
				s.tries.Add(1)
			} else if err == nil {
				s.tries.Add(1)
				s.accepted.Add(1)
			}
			// A leader of the term before, who had the run ended.
			_, term, err := p.zk.Get(ctx, fleetRoot+"/term")
			_, stat, err2 := p.zk.Get(ctx, runPath)
			if err != nil || err2 != nil || term.Version == 0 {
				continue
			}
			_, err = p.zk.Multi(ctx, zookeeper.Check(fleetRoot+"/term", r.Int32N(term.Version)), zookeeper.SetOp(runPath, []byte(`{"v":1,"state":"done"}`), stat.Version))
			if errors.Is(err, zookeeper.ErrBadVersion) {
				s.leaders.Add(1)
			} else if err == nil {
				s.leaders.Add(1)
				s.leadersAccepted.Add(1)
			}
		}
	})
	return s
}

func (s *stale) end(t *testing.T, least int64) {
	t.Helper()
	s.stop()
	s.wg.Wait()
	t.Logf("writes by stale owners: %d tried, %d accepted; by stale leaders: %d tried, %d accepted",
		s.tries.Load(), s.accepted.Load(), s.leaders.Load(), s.leadersAccepted.Load())
	if s.accepted.Load()+s.leadersAccepted.Load() > 0 {
		t.Error("writes without a right were accepted")
	}
	if s.tries.Load() < least || s.leaders.Load() < 1 {
		t.Errorf("too few tries to prove anything: want %d", least)
	}
}

func percentile(list []time.Duration, p float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[min(len(list)-1, int(float64(len(list))*p))]
}

// Six workers, of which one is killed or stopped every one to three seconds, leaders among them, move every row; nobody
// without a right writes; the limit is kept; who takes over does so in time.
func TestFleetUnderChaos(t *testing.T) {
	beside(t)
	rnd := seed(t)
	kills := scaled(100, 14)
	const limit = 1500
	j := fleetJob{Shards: 60, Rows: limit * scaled(330, 55) / 60}
	p := newFleetPool(t, j, 6, 12)
	defer p.dump()
	run := p.submit(j, limit)
	s := p.stale(rand.New(rand.NewPCG(rnd.Uint64(), 1)), run, j, 50*time.Millisecond)
	soon(t, 20*time.Second, func() error {
		if p.recorder.missing() == j.Shards*j.Rows {
			return errors.New("nothing moves")
		}
		return nil
	})
	began := time.Now()

	var deaths []fleetDeath
	leaders, stops := 0, 0
	for n := range kills {
		time.Sleep(time.Second + time.Duration(rnd.Int64N(int64(2*time.Second))))
		name := fmt.Sprintf("w%d", rnd.IntN(6))
		lead := p.leader()
		if n%3 == 0 && lead != "" {
			name = lead
		}
		if name == lead {
			leaders++
		}
		if n%4 == 3 {
			stops++
			c := p.children[name]
			must(t, c.Process.Signal(syscall.SIGSTOP))
			long := []time.Duration{fleetSession / 2, fleetSession * 3 / 2, fleetSession * 5}[stops%3]
			time.Sleep(long)
			must(t, c.Process.Signal(syscall.SIGCONT))
			continue
		}
		deaths = append(deaths, fleetDeath{name, time.Now(), p.owned(run, j, name)})
		p.kill(name, syscall.SIGKILL)
		time.Sleep(time.Duration(rnd.Int64N(int64(500 * time.Millisecond))))
		p.start(name)
	}
	chaos := time.Since(began)
	if p.recorder.missing() == 0 {
		t.Errorf("all rows were moved before the chaos ended: it shows too little")
	}
	p.finish(run, j, 3*time.Minute)
	s.end(t, int64(scaled(500, 50)))
	t.Logf("%d kills and stops (%d of leaders, %d stops) in %.0f s; %d rows moved, %d of them again; %d saves, %d refused to workers",
		kills, leaders, stops, chaos.Seconds(), p.recorder.puts, p.recorder.twice, len(p.recorder.saves), p.recorder.fenced)
	p.takeOvers(deaths) // each meets others' deaths, so no bound is kept here
	p.rate(limit)
	p.order()
}

// Whose owner died is worked on again within a session timeout, a tick of the server and three seconds; whose owner was
// stopped cleanly, within one second.
func TestFleetTakesOver(t *testing.T) {
	rnd := seed(t)
	const limit = 3000
	kills := scaled(12, 4)
	j := fleetJob{Shards: 60, Rows: limit * kills * 18 / 60}
	p := newFleetPool(t, j, 6, 15)
	defer p.dump()
	run := p.submit(j, limit)
	var killed, stopped []fleetDeath
	for n := range 2 * kills {
		// Until all shards that are left are at somebody who is there, and have been for a while. On a slow machine some are done by then.
		time.Sleep(fleetSession)
		soon(t, 30*time.Second, func() error {
			list, err := p.pool.Workers(t.Context())
			shards, least := 0, j.Shards
			for _, w := range list {
				shards += w.Shards
				least = min(least, w.Shards)
			}
			info, failed := p.pool.Status(t.Context(), "counting", run)
			if err = errors.Join(err, failed); err != nil || len(list) != 6 || shards+info.Done < j.Shards || least == 0 && info.Done == 0 {
				return fmt.Errorf("%d workers have %d shards, %d are done: %w", len(list), shards, info.Done, err)
			}
			return nil
		})
		name := fmt.Sprintf("w%d", rnd.IntN(6))
		if lead := p.leader(); n%4 < 2 && lead != "" {
			name = lead
		}
		d := fleetDeath{name, time.Now(), p.owned(run, j, name)}
		d.at = time.Now()
		if n%2 == 0 {
			killed = append(killed, d)
			p.kill(name, syscall.SIGKILL)
			time.Sleep(fleetSession + fleetSession/2)
		} else {
			stopped = append(stopped, d)
			p.kill(name, syscall.SIGTERM)
		}
		p.start(name)
	}
	must(t, p.pool.Throttle(t.Context(), "t", &pool.Limits{Puts: share.Limit{Rows: limit, Bytes: 1e12}, Scans: share.NoLimit}))
	if p.recorder.missing() == 0 {
		t.Error("all rows were moved before the last death")
	}
	p.finish(run, j, 3*time.Minute)
	p.order()
	p.rate(limit)
	// On a machine that has other things to do, processes wait for a core for seconds: every day only twice and thrice of what
	// is promised counts.
	slack := time.Duration(scaled(1, 2))
	if m := p.takeOvers(killed); m > slack*(fleetSession+500*time.Millisecond+3*time.Second) {
		t.Errorf("after kills the slowest of a hundred take-overs took %v", m)
	}
	if m := p.takeOvers(stopped); m > (2*slack-1)*time.Second {
		t.Errorf("after clean stops the slowest of a hundred take-overs took %v", m)
	}
}

// Pausing a table or a run stops all work on it within a second, with or without a leader; and a backup restored under a pool
// that works costs no row.
func TestFleetObeysCommands(t *testing.T) {
	const limit = 1000
	j := fleetJob{Shards: 20, Rows: limit * 30 / 20}
	p := newFleetPool(t, j, 3, 10)
	defer p.dump()
	run := p.submit(j, limit)
	moves := func() error {
		before := p.recorder.missing()
		time.Sleep(100 * time.Millisecond)
		if p.recorder.missing() == before {
			return errors.New("nothing moves")
		}
		return nil
	}
	soon(t, 30*time.Second, moves)
	ctx := t.Context()
	var stops []time.Duration
	// stopped measures how long rows went on after a command.
	stopped := func(what string) {
		t.Helper()
		began := time.Now()
		time.Sleep(1500 * time.Millisecond)
		p.recorder.mu.Lock()
		last := p.recorder.at[len(p.recorder.at)-1]
		p.recorder.mu.Unlock()
		took := max(0, last.Sub(began))
		stops = append(stops, took)
		if took > time.Second {
			t.Errorf("%s: rows went on for %v", what, took)
		}
	}
	for range scaled(10, 2) {
		must(t, p.pool.PauseTable(ctx, "t", true))
		stopped("pause of the table")
		must(t, p.pool.PauseTable(ctx, "t", false))
		soon(t, 5*time.Second, moves)
		must(t, p.pool.Pause(ctx, "counting", run))
		stopped("pause of the run")
		must(t, p.pool.Resume(ctx, "counting", run))
		soon(t, 10*time.Second, moves)
	}
	// Without a leader.
	lead := p.leader()
	p.kill(lead, syscall.SIGKILL)
	must(t, p.pool.PauseTable(ctx, "t", true))
	stopped("pause without a leader")
	must(t, p.pool.PauseTable(ctx, "t", false))
	p.start(lead)
	soon(t, 15*time.Second, moves)
	t.Logf("rows went on for %v after %d pauses", percentile(stops, 1), len(stops))

	b, err := p.pool.Backup(ctx)
	must(t, err)
	time.Sleep(time.Second)
	must(t, p.pool.Restore(ctx, b))
	soon(t, 20*time.Second, moves)
	p.finish(run, j, time.Minute)
	commands, err := p.pool.Commands(ctx, 100)
	must(t, err)
	if len(commands) < 8 || commands[0].By != "test@here" {
		t.Errorf("the records of commands: %+v", commands)
	}
}

// A tree that was deleted in mid-run holds everything, and nothing is planned anew; restore goes on, and no row is lost.
func TestFleetHoldsWithoutItsTree(t *testing.T) {
	beside(t)
	const limit = 1000
	j := fleetJob{Shards: 20, Rows: limit * 20 / 20}
	p := newFleetPool(t, j, 3, 10)
	defer p.dump()
	run := p.submit(j, limit)
	soon(t, 30*time.Second, func() error {
		if n := j.Shards*j.Rows - p.recorder.missing(); n < 5*limit {
			return fmt.Errorf("%d rows were moved", n)
		}
		return nil
	})
	b, err := p.pool.Backup(t.Context())
	must(t, err)
	text, err := json.Marshal(b)
	must(t, err)
	p.deleteAll(fleetRoot)
	time.Sleep(2 * fleetSession)
	held := p.recorder.missing()
	time.Sleep(2 * fleetSession)
	if n := p.recorder.missing(); n != held || n == 0 {
		t.Errorf("%d rows were moved without the tree, %d are left", held-n, n)
	}
	if exists, _, err := p.zk.Exists(t.Context(), fleetRoot); err != nil || exists {
		t.Errorf("the tree is there again: %v, %v", exists, err)
	}
	var back pool.Backup
	must(t, json.Unmarshal(text, &back))
	must(t, p.pool.Restore(t.Context(), &back))
	p.finish(run, j, time.Minute)
	t.Logf("held with %d rows left; %d rows were moved again after the restore", held, p.recorder.twice)
}

// deleteAll deletes a node and all below it, whatever others do there meanwhile.
func (p *fleetPool) deleteAll(path string) {
	p.t.Helper()
	for {
		names, _, err := p.zk.Children(p.t.Context(), path)
		if errors.Is(err, zookeeper.ErrNoNode) {
			return
		}
		must(p.t, err)
		for _, n := range names {
			p.deleteAll(path + "/" + n)
		}
		err = p.zk.Delete(p.t.Context(), path, zookeeper.AnyVersion)
		if err == nil || errors.Is(err, zookeeper.ErrNoNode) {
			return
		}
		if !errors.Is(err, zookeeper.ErrNotEmpty) {
			must(p.t, err)
		}
	}
}

// fleetDeath is a kill, and the shards that the killed one had.
type fleetDeath struct {
	name   string
	at     time.Time
	shards []int
}

// owned lists the shards that a child has now.
func (p *fleetPool) owned(run string, j fleetJob, name string) (list []int) {
	runPath := fleetRoot + "/jobs/counting/runs/" + run
	var rec struct{ Attempt string }
	data, _, err := p.zk.Get(p.t.Context(), runPath)
	if err != nil || json.Unmarshal(data, &rec) != nil {
		return nil
	}
	for n := range j.Shards {
		owner, _, err := p.zk.Get(p.t.Context(), checkpoints.EpochPath(runPath+"/"+rec.Attempt, n))
		if err == nil && strings.HasPrefix(string(owner), name+"-") {
			list = append(list, n)
		}
	}
	return list
}

// takeOvers measures from each death to the first save by somebody else, for the shards that were not done, and gives the
// slowest of a hundred.
func (p *fleetPool) takeOvers(deaths []fleetDeath) time.Duration {
	p.t.Helper()
	var all []time.Duration
	for _, d := range deaths {
		for _, n := range d.shards {
			done, found := false, time.Duration(0)
			for _, s := range p.recorder.saves {
				if s.shard != n {
					continue
				}
				if s.at.Before(d.at) {
					done = done || s.to == len(p.recorder.rows[n])
				} else if s.began.After(d.at) {
					found = s.at.Sub(d.at)
					break
				}
			}
			if !done && found > 0 {
				all = append(all, found)
			}
		}
	}
	p.t.Logf("%d take-overs of shards: p50 %.2f s, p99 %.2f s, most %.2f s", len(all),
		percentile(all, 0.5).Seconds(), percentile(all, 0.99).Seconds(), percentile(all, 1).Seconds())
	if len(all) == 0 {
		p.t.Error("no take-over was seen")
	}
	return percentile(all, 0.99)
}

// rate sees that no second had more rows than the limit and its bursts. What arrives may have been under way for a moment.
func (p *fleetPool) rate(limit float64) {
	p.t.Helper()
	most := 0
	at := p.recorder.at
	for i, k := 0, 0; i < len(at); i++ {
		for at[i].Sub(at[k]) > time.Second {
			k++
		}
		most = max(most, i-k+1)
	}
	span := at[len(at)-1].Sub(at[0]).Seconds()
	p.t.Logf("limit %.0f rows/s: %.0f over all %.0f s, %d in the fullest second", limit, float64(len(at))/span, span, most)
	if float64(most) > limit*1.02+600 { // 60 shards with a batch of 5 each, paid and under way, when processes are stopped and go on
		p.t.Errorf("%d rows in a second, the limit is %.0f", most, limit)
	}
}

// order sees that saves of a shard never went back.
func (p *fleetPool) order() {
	p.t.Helper()
	saves := slices.Clone(p.recorder.saves)
	slices.SortStableFunc(saves, func(a, b fleetSave) int { return cmp.Or(cmp.Compare(a.shard, b.shard), a.at.Compare(b.at)) })
	for i := 1; i < len(saves); i++ {
		a, b := saves[i-1], saves[i]
		// The one that began after the other had ended must say more.
		if a.shard == b.shard && b.began.After(a.at) && b.to < a.to {
			p.t.Errorf("shard %d: %s saved %d after %s had saved %d", a.shard, b.member, b.to, a.member, a.to)
		}
	}
}
