package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/checkpoints"
	"drover/jobs"
	"drover/zookeeper"
)

// A shard that has fifty times what the others have is cut until all who would idle work on it, and is done in a fraction of
// the time that its owner alone takes.
func TestLargeShardIsCutForIdleWorkers(t *testing.T) {
	const small = 30
	finish := func(seed uint64, f flaws) *simulation {
		s := newSimulation(seed, f)
		s.pace, s.calm, s.ends = 0.7, true, []int{50 * small}
		for range 7 {
			s.ends = append(s.ends, s.ends[len(s.ends)-1]+small)
		}
		s.rows = make([]bool, s.ends[len(s.ends)-1])
		for s.now < 5*time.Minute && s.fault == nil && !s.done {
			e := heapPop(&s.events)
			s.now = e.at
			e.f()
		}
		if s.fault != nil || !s.done {
			t.Fatalf("seed %d: the run is not done after %v: %v", seed, s.now, s.fault)
		}
		return s
	}
	var gains []float64
	all := 0
	for seed := range uint64(15) {
		alone, cut := finish(seed, flaws{neverCut: true}), finish(seed, flaws{})
		gains = append(gains, alone.now.Seconds()/cut.now.Seconds())
		if alone.splits != 0 {
			t.Errorf("seed %d: who says whole is cut %d times", seed, alone.splits)
		}
		if cut.splits == 0 {
			t.Errorf("seed %d: nothing was split", seed)
		}
		if len(cut.movers[0]) == len(cut.procs) {
			all++
		}
	}
	slices.Sort(gains)
	t.Logf("all three worked on the large shard under %d of %d seeds; times as fast as by one: least %.2f, median %.2f, most %.2f", all, len(gains), gains[0], gains[len(gains)/2], gains[len(gains)-1])
	if 2*all < len(gains) {
		t.Error("most of the time one idled")
	}
	if gains[len(gains)/2] < 2.3 { // shards of less than leastLeft stay whole
		t.Errorf("by three it is %.2f times as fast", gains[len(gains)/2])
	}
}

// asking is a leader of one run, whose shards are all with members that have room for more.
func asking(members, capacity int, sizes ...int64) (*leader, *runState) {
	l := newLeader(newMachine(), "/p", "me", 4*time.Second, newMemory(), 1, func() string { return "x" })
	l.now = time.Minute
	r := &runState{key: runKey{"j", "r"}, known: true, record: runRecord{State: Running}, at: "/p/jobs/j/runs/r/a", listed: true}
	l.runs[r.key] = r
	for i := range members {
		m := l.member(fmt.Sprintf("w%d", i))
		m.present, m.seen, m.exists = true, true, true
		m.beat.Capacity = capacity
	}
	for n, size := range sizes {
		m := l.members[fmt.Sprintf("w%d", n%members)]
		s := &shardState{run: r, n: n, epoch: 1, owner: m.id, extent: extent{bytes: size, known: true, at: l.now}}
		r.shards = append(r.shards, s)
		r.open++
		m.has[shardKey{r.at, n}] = s
	}
	return l, r
}

func seatsOf(l *leader, r *runState) (seats []seat) {
	for i := range len(l.members) {
		m := l.members[fmt.Sprintf("w%d", i)]
		s := seat{id: m.id, capacity: m.beat.Capacity, labels: m.beat.Labels}
		for k := range m.has {
			s.has = append(s.has, r.shards[k.n].piece())
		}
		seats = append(seats, s)
	}
	return seats
}

func TestWhoIsAskedToSplit(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		capacity int
		sizes    []int64
		change   func(l *leader, r *runState)
		want     string // numbers of the shards that are asked
	}{
		"nobody has room":                {capacity: 2, sizes: []int64{100 * mib, 90 * mib, 80 * mib, 70 * mib}},
		"one place, the largest":         {capacity: 2, sizes: []int64{100 * mib, 300 * mib, 200 * mib}, want: "1"},
		"two places, what is left":       {capacity: 2, sizes: []int64{100 * mib, 300 * mib}, want: "0 1"},
		"by what is left, not by size":   {2, []int64{100 * mib, 300 * mib, 200 * mib}, func(_ *leader, r *runState) { r.shards[1].extent.stored = 290 * mib }, "2"},
		"little is left":                 {capacity: 4, sizes: []int64{7 * mib, 300 * mib}, want: "1"},
		"less than ten seconds are left": {4, []int64{100 * mib, 300 * mib}, func(_ *leader, r *runState) { r.shards[1].extent.rate, r.shards[1].extent.rated = 40*mib, true }, "0"},
		"it has more than was thought":   {4, []int64{100 * mib}, func(_ *leader, r *runState) { r.shards[0].extent.stored = 200 * mib }, "0"},
		"it is whole":                    {4, []int64{100 * mib, 300 * mib}, func(_ *leader, r *runState) { r.shards[1].whole = true }, "0"},
		"it is asked back":               {4, []int64{100 * mib, 300 * mib}, func(_ *leader, r *runState) { r.shards[1].back = true }, "0"},
		"it is done":                     {4, []int64{100 * mib, 300 * mib}, func(_ *leader, r *runState) { r.shards[1].done = true }, "0"},
		"one that nobody has comes first": {2, []int64{100 * mib, 300 * mib, 200 * mib}, func(l *leader, r *runState) {
			delete(l.members["w0"].has, shardKey{r.at, 2})
			r.shards[2].owner = ""
			delete(l.members["w0"].has, shardKey{r.at, 0})
			r.shards[0].done = true
			l.members["w1"].beat.Capacity = 1
			l.members["w0"].beat.Capacity = 1
		}, ""},
		"its owner is gone":  {4, []int64{100 * mib, 300 * mib}, func(l *leader, _ *runState) { l.members["w1"].present = false }, "0"},
		"the run is paused":  {4, []int64{100 * mib, 300 * mib}, func(_ *leader, r *runState) { r.record.State = Paused }, ""},
		"shards are unknown": {4, []int64{100 * mib, 300 * mib}, func(_ *leader, r *runState) { r.reading = 1 }, ""},
		"nobody with room has the labels": {4, []int64{100 * mib, 300 * mib}, func(l *leader, r *runState) {
			r.record.Spec.Needs = map[string]string{"dc": "1"}
			l.members["w0"].beat.Labels = map[string]string{"dc": "1"}
			l.members["w0"].beat.Capacity = 1
		}, ""},
		"what is known of it is old": {4, []int64{100 * mib, 300 * mib}, func(l *leader, r *runState) { r.shards[1].extent.at = 0 }, "0"},
		"many places, at a rate": {
			100,
			[]int64{90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib, 90 * mib},
			nil,
			"0 1 2 3 4 5 6 7 8 9",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, r := asking(2, c.capacity, c.sizes...)
			if c.change != nil {
				c.change(l, r)
			}
			l.split(seatsOf(l, r), nil)
			var got []string
			for _, s := range r.shards {
				if s.ask != 0 {
					got = append(got, fmt.Sprint(s.n))
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("asked: %v, want %s", got, c.want)
			}
		})
	}
}

// One ask of a shard is made at a time, and one for each free place; who answers is asked again only as another shard, who does
// not is left alone for a while.
func TestAsksEnd(t *testing.T) {
	l, r := asking(2, 2, 100<<20, 300<<20, 200<<20)
	look := func(after time.Duration) {
		l.now += after
		for _, s := range r.shards {
			s.extent.at = l.now
		}
		l.split(seatsOf(l, r), nil)
	}
	look(0)
	big, m := r.shards[1], l.members["w1"]
	first := big.ask
	if first == 0 {
		t.Fatal("the largest is not asked")
	}
	look(2 * time.Second)
	if big.ask != first || r.shards[0].ask != 0 || r.shards[2].ask != 0 {
		t.Fatal("there is one place free, and more than one was asked for it")
	}
	look(askFor(l.timeout))
	if big.ask != 0 {
		t.Fatal("who does not answer is asked for ever")
	}
	look(2 * time.Second)
	if big.ask != 0 || r.shards[2].ask == 0 {
		t.Fatal("who did not answer is asked again at once, or nobody else is")
	}
	m.order.Rev = 9
	r.shards[2].whole, r.shards[2].ask = true, 0
	look(askFor(l.timeout))
	if big.ask != 10 {
		t.Fatalf("ask %d after revision 9", big.ask)
	}
	m.beat.Asked = []asked{{At: r.at, N: 1, Epoch: 1, Ask: first}}
	l.answers(m)
	if big.ask != 10 {
		t.Fatal("an answer to an earlier ask counts")
	}
	m.beat.Asked = []asked{{At: r.at, N: 1, Epoch: 1, Ask: 10}}
	l.answers(m)
	if big.ask != 0 || l.now-big.extent.at <= freshFor {
		t.Fatal("an answer does not count, or what was known from before does")
	}
	m.beat.Asked = []asked{{At: r.at, N: 1, Epoch: 1, Whole: true}}
	l.answers(m)
	look(2 * askFor(l.timeout))
	if big.ask != 0 || !big.whole {
		t.Fatal("one that is whole is asked")
	}
}

// A rate is taken over seconds, and anew when somebody else works on a shard.
func TestExtentRates(t *testing.T) {
	mark := func(stored int64) checkpoints.Mark {
		return checkpoints.Mark{Shard: encode(jobs.Shard{Bytes: 1 << 30}), Checkpoint: &checkpoints.Checkpoint{Stored: stored}}
	}
	var e extent
	e.saw(mark(0), time.Second)
	e.saw(mark(100<<20), 2*time.Second)
	if e.rated || e.left() != 1<<30-100<<20 {
		t.Errorf("after a second: %+v", e)
	}
	e.saw(mark(500<<20), 6*time.Second)
	if !e.rated || e.rate != 100<<20 || e.worth() {
		t.Errorf("524 MiB are left and 100 MiB/s are moved: %+v", e)
	}
	e.begin(7 * time.Second)
	if e.saw(mark(510<<20), 8*time.Second); e.rated || !e.worth() {
		t.Errorf("somebody else has begun: %+v", e)
	}
}

func TestGrowRefuses(t *testing.T) {
	rec := func(s State, attempt string) []byte {
		return encode(runRecord{head: head{format}, State: s, Attempt: attempt, Shards: 7, Planned: 3})
	}
	data, n, err := grow("run", "/p/jobs/j/runs/r/A", rec(Running, "A"), "w1")
	got, _ := decode[runRecord]("run", data)
	if err != nil || n != 7 || got.Shards != 8 || got.Planned != 3 || got.Write != "w1" {
		t.Errorf("%d, %+v: %v", n, got, err)
	}
	for name, c := range map[string]struct {
		data []byte
		lost bool
	}{
		"restored":  {rec(Running, "B"), true},
		"done":      {rec(Done, "A"), true},
		"cancelled": {rec(Cancelled, "A"), true},
		"paused":    {rec(Paused, "A"), false},
		"failed":    {rec(Failed, "A"), false},
	} {
		if _, _, err := grow("run", "/p/jobs/j/runs/r/A", c.data, "w1"); err == nil || errors.Is(err, ErrLost) != c.lost {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// direct has the calls of a store on the ensemble in memory, at once. Now and then an answer is lost, and before a write somebody
// else may be faster.
type direct struct {
	e      *ensemble
	lose   func() (before, after bool)
	faster func()
	lost   [2]int // writes that did not happen, and that did
	away   error  // of reading
}

func (d *direct) Get(_ context.Context, path string) ([]byte, zookeeper.Stat, error) {
	n := d.e.truth.nodes[path]
	switch {
	case d.away != nil:
		return nil, zookeeper.Stat{}, d.away
	case !n.exists:
		return nil, zookeeper.Stat{}, zookeeper.ErrNoNode
	}
	return n.data, zookeeper.Stat{Version: n.version}, nil
}

func (d *direct) Children(_ context.Context, path string) ([]string, zookeeper.Stat, error) {
	return d.e.truth.children(path), zookeeper.Stat{}, nil
}

func (d *direct) Sync(context.Context, string) error { return d.away }

func (d *direct) Create(ctx context.Context, path string, data []byte, _ ...zookeeper.Flag) error {
	_, err := d.e.apply(nil, 0, []op{create(path, data)})
	return err
}

func (d *direct) Multi(_ context.Context, list ...zookeeper.Op) ([]zookeeper.Result, error) {
	var ops []op
	for _, o := range list {
		v := reflect.ValueOf(o)
		kind := map[string]opKind{"check": opCheck, "set": opSet, "create": opCreate, "delete": opDelete}[v.FieldByName("kind").String()]
		ops = append(ops, op{kind, v.FieldByName("path").String(), v.FieldByName("data").Bytes(), int32(v.FieldByName("version").Int())})
	}
	if d.faster != nil {
		f := d.faster
		d.faster = nil
		f()
	}
	before, after := false, false
	if d.lose != nil {
		before, after = d.lose()
	}
	if before {
		d.lost[0]++
		return nil, zookeeper.ErrUnknown
	}
	at, err := d.e.apply(nil, 0, ops)
	if err != nil {
		return nil, &zookeeper.OpError{Index: at, Op: list[at], Err: err}
	}
	if after {
		d.lost[1]++
		return nil, zookeeper.ErrUnknown
	}
	return nil, nil
}

const cutRun, cutAt = "/p/jobs/j/runs/r", "/p/jobs/j/runs/r/A"

// staged is a run of shards of 1,000, and a store of who has shard 0 under an epoch.
func staged(t *testing.T, shards int, epoch *int32) (*direct, *checkpoints.ZooKeeperStore) {
	t.Helper()
	d := &direct{e: newEnsemble(&world{rand: rand.New(rand.NewPCG(1, 1)), faults: map[string]int{}}, time.Second)}
	var list []json.RawMessage
	var ends []string
	for n := range shards {
		s := simShard(n, 1000*n, 1000*(n+1))
		list, ends = append(list, encode(s)), append(ends, string(s.End))
	}
	var ops []op
	for at := 1; at < len(cutAt); at++ {
		if cutAt[at] == '/' && cutAt[:at] != cutRun {
			ops = append(ops, create(cutAt[:at], nil))
		}
	}
	ops = append(ops, create(cutRun, encode(runRecord{head: head{format}, State: Running, Attempt: "A", Planned: shards, Shards: shards})))
	for _, s := range checkpoints.Stage(cutAt, list, ends) {
		ops = append(ops, create(s.Path, s.Data))
	}
	if _, err := d.e.apply(nil, 0, ops); err != nil {
		t.Fatal(err)
	}
	return d, checkpoints.OpenZooKeeper(d, cutAt, "p", func(int) (int32, bool) { return *epoch, *epoch >= 0 })
}

func cutOf(head, rest jobs.Shard) checkpoints.Cut {
	return checkpoints.Cut{
		Shard: head.N, Run: cutRun,
		Parts: func(have json.RawMessage, n int) (json.RawMessage, json.RawMessage, error) {
			return cutParts(have, head, rest, n)
		},
		Grow: func(data []byte, write string) ([]byte, int, error) { return grow(cutRun, cutAt, data, write) },
	}
}

// tiles looks at all that there is.
func tiles(t *testing.T, d *direct, s *checkpoints.ZooKeeperStore, shards int) map[int]checkpoints.Mark {
	t.Helper()
	marks, err := s.Marks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rec, err := decode[runRecord](cutRun, d.e.truth.nodes[cutRun].data)
	if err != nil || rec.Shards != shards {
		t.Fatalf("the run has %d shards, want %d: %v", rec.Shards, shards, err)
	}
	if err := tile(marks, rec.Planned, rec.Shards); err != nil {
		t.Fatal(err)
	}
	return marks
}

// Whatever answers are lost and whoever else changes the run at once, a cut that says that it was done was done once, one that
// does not was not, and what is saved later has the new bounds.
func TestCut(t *testing.T) {
	epoch := int32(0)
	d, s := staged(t, 98, &epoch) // the third cut needs a folder
	r := rand.New(rand.NewPCG(2, 2))
	d.lose = func() (bool, bool) { n := r.IntN(3); return n == 0, n == 1 }
	save := func(cursor int) {
		t.Helper()
		c := checkpoints.Checkpoint{Shard: 0, Cursor: fmt.Sprint(cursor), Stored: int64(cursor)}
		if err := s.Save(t.Context(), []checkpoints.Checkpoint{c}, checkpoints.Totals{}); err != nil {
			t.Fatal(err)
		}
	}
	end, shards := 1000, 98
	for i := range 20 {
		at := end - 20
		if i%3 == 0 {
			d.faster = func() { // another worker's cut
				n := d.e.truth.nodes[cutRun]
				rec, _ := decode[runRecord](cutRun, n.data)
				other, _ := checkpoints.DecodeMark(d.e.truth.nodes[checkpoints.MarkPath(cutAt, 1)].data)
				from, to := span(simBounds(other))
				other.Shard = encode(simShard(1, from, to-1))
				ops := []op{create(checkpoints.EpochPath(cutAt, rec.Shards), nil), set(checkpoints.MarkPath(cutAt, 1), other.Encode(), -1)}
				if rec.Shards%100 == 0 {
					return
				}
				ops = append(ops, create(checkpoints.MarkPath(cutAt, rec.Shards), checkpoints.Mark{Shard: encode(simShard(rec.Shards, to-1, to)), Of: 1}.Encode()))
				rec.Shards++
				if _, err := d.e.apply(nil, 0, append(ops, set(cutRun, encode(rec), n.version))); err != nil {
					t.Fatal(err)
				}
				shards++
			}
		}
		n, err := s.Cut(t.Context(), cutOf(simShard(0, 0, at), simShard(0, at, end)))
		if err != nil || n != shards {
			t.Fatalf("cut %d: shard %d, want %d: %v", i, n, shards, err)
		}
		shards++
		save(i + 1)
		marks := tiles(t, d, s, shards)
		if m := marks[0]; m.Checkpoint.Cursor != fmt.Sprint(i+1) || simBounds(m) != simShard(0, 0, at) || m.Planned != "1000" {
			t.Fatalf("after cut %d the shard is %+v", i, m)
		}
		if m := marks[n]; simBounds(m) != simShard(n, at, end) || m.Of != 0 || m.Checkpoint != nil || m.Planned != "" {
			t.Fatalf("after cut %d the new one is %+v", i, m)
		}
		if e := d.e.truth.nodes[checkpoints.EpochPath(cutAt, n)]; !e.exists || e.version != 0 || len(e.data) > 0 {
			t.Fatalf("the epoch of the new one is %+v", e)
		}
		end = at
	}
	if d.lost[0] == 0 || d.lost[1] == 0 {
		t.Errorf("answers lost: %v", d.lost)
	}
}

// A cut that may not be made changes nothing.
func TestCutRefused(t *testing.T) {
	first, rest := simShard(0, 0, 500), simShard(0, 500, 1000)
	for name, c := range map[string]struct {
		change func(d *direct, epoch *int32)
		want   func(err error) bool
	}{
		"another has the shard": {
			func(d *direct, _ *int32) {
				d.e.apply(nil, 0, []op{set(checkpoints.EpochPath(cutAt, 0), []byte("other"), 0)})
			},
			func(err error) bool { _, ok := errors.AsType[*checkpoints.FencedError](err); return ok },
		},
		"another gets it meanwhile": {
			func(d *direct, _ *int32) {
				d.faster = func() { d.e.apply(nil, 0, []op{set(checkpoints.EpochPath(cutAt, 0), []byte("other"), 0)}) }
			},
			func(err error) bool { _, ok := errors.AsType[*checkpoints.FencedError](err); return ok },
		},
		"it was let go": {
			func(_ *direct, epoch *int32) { *epoch = -1 },
			func(err error) bool { _, ok := errors.AsType[*checkpoints.FencedError](err); return ok },
		},
		"the run is paused meanwhile": {
			func(d *direct, _ *int32) {
				d.faster = func() {
					d.e.apply(nil, 0, []op{set(cutRun, encode(runRecord{head: head{format}, State: Paused, Attempt: "A", Planned: 2, Shards: 2}), 0)})
				}
			},
			func(err error) bool { return !errors.Is(err, ErrLost) && strings.Contains(err.Error(), "paused") },
		},
		"a backup is restored meanwhile": {
			func(d *direct, _ *int32) {
				d.faster = func() {
					d.e.apply(nil, 0, []op{set(cutRun, encode(runRecord{head: head{format}, State: Running, Attempt: "B", Planned: 2, Shards: 2}), 0)})
				}
			},
			func(err error) bool { return errors.Is(err, ErrLost) },
		},
		"its bounds are others": {
			func(d *direct, _ *int32) {
				m := checkpoints.Mark{Shard: encode(simShard(0, 0, 700)), Planned: "1000"}
				d.faster = func() { d.e.apply(nil, 0, []op{set(checkpoints.MarkPath(cutAt, 0), m.Encode(), 0)}) }
			},
			func(err error) bool { return errors.Is(err, ErrLost) },
		},
		"ZooKeeper is away": {
			func(d *direct, _ *int32) { d.away = zookeeper.ErrNotConnected },
			func(err error) bool {
				return errors.Is(err, zookeeper.ErrNotConnected) && !errors.Is(err, checkpoints.ErrUnsettled)
			},
		},
		"the session ends with the answer": {
			func(d *direct, _ *int32) {
				d.lose = func() (bool, bool) {
					d.away = zookeeper.ErrSessionLost
					return true, false
				}
			},
			func(err error) bool { return errors.Is(err, checkpoints.ErrUnsettled) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			epoch := int32(0)
			d, s := staged(t, 2, &epoch)
			c.change(d, &epoch)
			if n, err := s.Cut(t.Context(), cutOf(first, rest)); err == nil || !c.want(err) {
				t.Errorf("shard %d: %v", n, err)
			}
			if n := d.e.truth.nodes[checkpoints.EpochPath(cutAt, 2)]; n.exists {
				t.Error("a shard was made")
			}
		})
	}
}

// When it cannot be known in time whether a shard was cut, nobody goes on with it as it was.
func TestCutUnsettledInTime(t *testing.T) {
	epoch := int32(0)
	d, s := staged(t, 2, &epoch)
	ctx, cancel := context.WithCancel(t.Context())
	d.lose = func() (bool, bool) { d.away = zookeeper.ErrNotConnected; cancel(); return false, true }
	_, err := s.Cut(ctx, cutOf(simShard(0, 0, 500), simShard(0, 500, 1000)))
	if !errors.Is(err, checkpoints.ErrUnsettled) {
		t.Fatal(err)
	}
	// What is saved afterwards keeps the bounds that it has meanwhile.
	d.lose, d.away = nil, nil
	if err := s.Save(t.Context(), []checkpoints.Checkpoint{{Shard: 0, Cursor: "10"}}, checkpoints.Totals{}); err != nil {
		t.Fatal(err)
	}
	if m := tiles(t, d, s, 3)[0]; simBounds(m) != simShard(0, 0, 500) || m.Checkpoint.Cursor != "10" {
		t.Errorf("%+v", m)
	}
}

// holding is a member that can take a lease of shard 0 of two.
func holding(t *testing.T) (*present, *work, *direct) {
	t.Helper()
	m := &Member{
		c: Config{Clock: func() time.Duration { return time.Minute }}, log: slog.New(slog.DiscardHandler), memory: newMemory(),
		accounts: map[budget]*account{}, woken: make(chan struct{}, 1),
	}
	epoch := int32(0)
	d, _ := staged(t, 2, &epoch)
	p := &present{m: m, ctx: t.Context(), works: map[string]*work{}, changed: make(chan struct{})}
	p.incarnation = newIncarnation("/p", "me", 4*time.Second, beatRecord{}, m.memory, func() string { return "x" }, nil)
	w := &work{p: p, at: cutAt, handles: map[int]*handle{}, cancel: func() {}}
	w.store = checkpoints.OpenZooKeeper(d, cutAt, "me.1", w.epoch)
	p.works[cutAt] = w
	p.runs[cutAt] = &runView{key: runKey{"j", "r"}, attempt: cutAt, known: true, record: runRecord{State: Running, Attempt: "A"}}
	k := shardKey{cutAt, 0}
	p.leases[k] = &lease{key: k, state: leaseReady, shard: simShard(0, 0, 1000)}
	return p, w, d
}

// What Config.Work has in its hands: a value for each ask, a cut that makes the lease smaller and the shard another, errors that
// say whether it goes on.
func TestLeaseIsCut(t *testing.T) {
	p, w, d := holding(t)
	now := time.Minute
	p.m.c.Clock = func() time.Duration { return now }
	order := func(s slot) {
		p.order.Shards = map[string][]slot{cutAt: {s}}
		p.settle()
		p.arrange()
	}
	l, ok := w.Next(t.Context())
	if !ok {
		t.Fatal("no lease")
	}
	asked := func() bool {
		select {
		case <-l.Split:
			return true
		default:
			return false
		}
	}
	order(slot{})
	if asked() {
		t.Fatal("asked, and nobody did")
	}
	order(slot{Ask: 5})
	order(slot{Ask: 5})
	if !asked() || asked() {
		t.Fatal("an ask gives one value")
	}
	// A cut that makes no sense, and one that does not come about now: it is asked again, but not at once.
	for _, cut := range [][2]jobs.Shard{
		{simShard(0, 0, 500), simShard(0, 600, 1000)},
		{simShard(0, 0, 0), simShard(0, 0, 1000)},
		{simShard(0, 0, 1000), simShard(0, 1000, 1000)},
		{simShard(1, 0, 500), simShard(0, 500, 1000)},
		{simShard(0, 0, 500), simShard(0, 500, 900)},
	} {
		if err := l.Cut(t.Context(), cut[0], cut[1]); err == nil || errors.Is(err, ErrLost) {
			t.Errorf("cut into %v: %v", cut, err)
		}
	}
	d.away = zookeeper.ErrNotConnected
	if err := l.Cut(t.Context(), simShard(0, 0, 500), simShard(0, 500, 1000)); err == nil || errors.Is(err, ErrLost) {
		t.Fatalf("without ZooKeeper: %v", err)
	}
	d.away = nil
	if order(slot{Ask: 5}); asked() {
		t.Fatal("asked again at once")
	}
	now += 4 * time.Second
	if order(slot{Ask: 5}); !asked() {
		t.Fatal("not asked again")
	}
	if err := l.Cut(t.Context(), simShard(0, 0, 500), simShard(0, 500, 1000)); err != nil {
		t.Fatal(err)
	}
	b := p.beat()
	if len(b.Asked) != 1 || b.Asked[0].Ask != 5 || b.Asked[0].Whole {
		t.Errorf("the beat says %+v", b.Asked)
	}
	tiles(t, d, w.store, 3)
	// The ask is still in the order: it was answered. The next one is another.
	if order(slot{Ask: 5}); asked() {
		t.Error("an ask that was answered is asked again")
	}
	order(slot{})
	if b := p.beat(); len(b.Asked) > 0 {
		t.Errorf("nobody asks, and the beat says %+v", b.Asked)
	}
	if order(slot{Ask: 8}); !asked() {
		t.Fatal("not asked a second time")
	}
	if err := l.Cut(t.Context(), simShard(0, 0, 200), simShard(0, 200, 500)); err != nil {
		t.Fatal(err)
	}
	tiles(t, d, w.store, 4)
	order(slot{Ask: 9})
	l.Whole()
	if order(slot{Ask: 9}); asked() {
		t.Error("one that is whole is asked")
	}
	if b := p.beat(); len(b.Asked) != 1 || !b.Asked[0].Whole {
		t.Errorf("the beat says %+v", b.Asked)
	}
	// Another has it: the lease is lost, and nothing was cut.
	d.e.apply(nil, 0, []op{set(checkpoints.EpochPath(cutAt, 0), []byte("other"), 0)})
	if err := l.Cut(t.Context(), simShard(0, 0, 100), simShard(0, 100, 200)); !errors.Is(err, ErrLost) {
		t.Errorf("a cut under a lost right: %v", err)
	}
	select {
	case <-l.Lost:
	default:
		t.Error("the lease is not lost")
	}
	tiles(t, d, w.store, 4)
	l.Done(checkpoints.Checkpoint{}, ErrLost)
}

// Who cannot know whether a shard was cut gives it up and reads it again, behind all that he has sent.
func TestUnsettledLeaseIsReadAnew(t *testing.T) {
	p, w, d := holding(t)
	k := shardKey{cutAt, 0}
	p.order.Shards = map[string][]slot{cutAt: {{Ask: 5}}}
	l, ok := w.Next(t.Context())
	if !ok {
		t.Fatal("no lease")
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.lose = func() (bool, bool) { d.away = zookeeper.ErrNotConnected; cancel(); return false, true }
	if err := l.Cut(ctx, simShard(0, 0, 500), simShard(0, 500, 1000)); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	select {
	case <-l.Lost:
	default:
		t.Error("the lease is not lost")
	}
	d.lose, d.away = nil, nil
	err := w.store.Save(t.Context(), []checkpoints.Checkpoint{{Shard: 0, Cursor: "700"}}, checkpoints.Totals{})
	if _, fenced := errors.AsType[*checkpoints.FencedError](err); !fenced {
		t.Errorf("a checkpoint of what may be another's was saved: %v", err)
	}
	p.take()
	l.Done(l.From, ErrLost)
	for _, e := range p.take() {
		if e.kind == doGet && e.path == k.markPath() && e.sync {
			return
		}
	}
	t.Error("the shard is not read again, or not behind a sync")
}
