package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"drover/checkpoints"
	"drover/zookeeper"
)

// A shard's right and its checkpoint, as everybody sees them who hands the right over, saves and reads at once: one register
// with an epoch, whatever becomes of answers, sessions and servers. Writes by those who lost the right are in fleet's TestFences.

type registerKind uint8

const (
	handOver  registerKind = iota // the epoch goes from one to the next
	saving                        // the value is set under an epoch
	readValue                     // of the mark
	readEpoch
)

type registerInput struct {
	kind  registerKind
	shard int
	epoch int32 // before a hand-over, or under which is saved
	value int64
}

type registerAnswer uint8

const (
	answered registerAnswer = iota // done, or read
	refused                        // because of the epoch
	// unknown may have happened, or will, or never does. One that was refused after an answer was lost may have happened.
	unknown
)

type registerOutput struct {
	answer registerAnswer
	epoch  int32
	value  int64
}

// rightAndValue is what a shard is.
type rightAndValue struct {
	epoch int32
	value int64
}

// fencedRegister is the model: what is done under another epoch than the present one changes nothing and is refused, and nothing
// is refused under the present one.
var fencedRegister = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[int][]porcupine.Operation{}
		for _, o := range history {
			n := o.Input.(registerInput).shard
			by[n] = append(by[n], o)
		}
		return slices.Collect(maps.Values(by))
	},
	Init: func() []any { return []any{rightAndValue{}} },
	Step: func(state, input, output any) []any {
		r, in, out := state.(rightAndValue), input.(registerInput), output.(registerOutput)
		next := r
		switch in.kind {
		case readValue:
			if out.value == r.value {
				return []any{r}
			}
			return nil
		case readEpoch:
			if out.epoch == r.epoch {
				return []any{r}
			}
			return nil
		case handOver:
			next.epoch++
		case saving:
			next.value = in.value
		}
		fits := in.epoch == r.epoch
		switch {
		case out.answer == unknown && fits && next != r:
			return []any{r, next}
		case out.answer == unknown, out.answer == refused && !fits:
			return []any{r}
		case out.answer == answered && fits:
			return []any{next}
		}
		return nil
	},
}).ToModel()

// history is what happened, by the clock of this process.
type history struct {
	mu    sync.Mutex
	began time.Time
	list  []porcupine.Operation
	count map[string]int
}

func newHistory() *history { return &history{began: time.Now(), count: map[string]int{}} }

// take makes an operation and puts it down. One of which nothing is known, not even that it will not happen later, never ends.
func (h *history) take(client int, in registerInput, f func() (out registerOutput, later bool)) registerOutput {
	call := time.Since(h.began).Nanoseconds()
	out, later := f()
	end := time.Since(h.began).Nanoseconds()
	if later {
		end = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
	h.count[fmt.Sprint(
		[]string{"hand-overs", "saves", "checkpoints read", "epochs read"}[in.kind], " ", []string{"done", "refused", "unknown"}[out.answer])]++
	return out
}

// judge checks each shard's part of it.
func (h *history) judge(t *testing.T) (illegal int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, part := range fencedRegister.Partition(h.list) {
		switch porcupine.CheckOperationsTimeout(fencedRegister, part, time.Minute) {
		case porcupine.Illegal:
			illegal++
		case porcupine.Unknown:
			t.Errorf("shard %d: not judged within a minute, of %d operations", part[0].Input.(registerInput).shard, len(part))
		}
	}
	return illegal
}

// lossy loses answers to writes, of those that happened and of others, for one that calls at a time.
type lossy struct {
	checkpoints.Ensemble
	rnd   *rand.Rand
	every int // of so many answers one is lost; 0 loses none
	lost  int
}

func (l *lossy) Multi(ctx context.Context, list ...zookeeper.Op) ([]zookeeper.Result, error) {
	lose := l.every > 0 && l.rnd.IntN(l.every) == 0
	if lose && l.rnd.IntN(2) == 0 {
		l.lost++
		return nil, fmt.Errorf("lost: %w", zookeeper.ErrUnknown)
	}
	r, err := l.Ensemble.Multi(ctx, list...)
	if lose && err == nil {
		l.lost++
		return nil, fmt.Errorf("lost: %w", zookeeper.ErrUnknown)
	}
	if errors.Is(err, zookeeper.ErrUnknown) {
		l.lost++
	}
	return r, err
}

const registersAt = "/registers/attempt"

// registers is a pool of shards that are handed to and fro.
type registers struct {
	t      *testing.T
	h      *history
	shards int

	mu     sync.Mutex
	epochs []map[int]int32 // by client and shard: under which it last got it, and believes that it has it
	values atomic.Int64
}

// saver is a client that saves what it believes it has.
func (r *registers) saver(ctx context.Context, me int, rnd *rand.Rand, z *zookeeper.Client, every int, reread bool) {
	for ctx.Err() == nil {
		if z.Wait(ctx) != nil {
			return
		}
		// A store belongs to a session, and its writes with it. Rights that are gone it keeps: so they are tried.
		session := z.Session()
		way := &lossy{Ensemble: z.In(session), rnd: rnd, every: every}
		under := int32(0)
		epoch := func(int) (int32, bool) { return under, true }
		if reread {
			epoch = func(n int) (int32, bool) {
				_, stat, err := z.Get(ctx, checkpoints.EpochPath(registersAt, n))
				return stat.Version, err == nil
			}
		}
		store := checkpoints.OpenZooKeeper(way, registersAt, fmt.Sprintf("c%d.%d", me, session.N), epoch)
		for ctx.Err() == nil && z.Session().N == session.N {
			time.Sleep(time.Duration(rnd.Int64N(int64(4 * time.Millisecond))))
			n := rnd.IntN(r.shards)
			r.mu.Lock()
			e, has := r.epochs[me][n]
			r.mu.Unlock()
			if !has {
				continue
			}
			under = e
			value := r.values.Add(1)
			r.h.take(me, registerInput{kind: saving, shard: n, epoch: e, value: value}, func() (registerOutput, bool) {
				way.lost = 0
				err := store.Save(ctx, []checkpoints.Checkpoint{{Shard: n, Cursor: strconv.FormatInt(value, 10)}}, checkpoints.Totals{})
				_, fenced := errors.AsType[*checkpoints.FencedError](err)
				switch {
				case err == nil:
					return registerOutput{}, false
				case fenced && way.lost == 0:
					return registerOutput{answer: refused}, false
				case fenced:
					return registerOutput{answer: unknown}, false
				default:
					return registerOutput{answer: unknown}, true
				}
			})
		}
	}
}

// leader hands shards over.
func (r *registers) leader(ctx context.Context, me int, rnd *rand.Rand, z *zookeeper.Client, pause time.Duration) {
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(time.Duration(rnd.Int64N(int64(pause))))
		if z.Wait(ctx) != nil {
			return
		}
		shard, to := rnd.IntN(r.shards), rnd.IntN(len(r.epochs))
		path := checkpoints.EpochPath(registersAt, shard)
		_, stat, err := z.Get(ctx, path) // old or not, the write decides
		if err != nil {
			continue
		}
		from := stat.Version
		id := fmt.Sprintf("%d to %d: %d.%d", shard, to, me, n)
		out := r.h.take(me, registerInput{kind: handOver, shard: shard, epoch: from}, func() (registerOutput, bool) {
			_, err := z.Multi(ctx, zookeeper.SetOp(path, []byte(id), from))
			switch {
			case err == nil:
				return registerOutput{}, false
			case errors.Is(err, zookeeper.ErrBadVersion):
				return registerOutput{answer: refused}, false
			}
			if data, stat, err := z.Get(ctx, path); err == nil && string(data) == id && stat.Version == from+1 {
				return registerOutput{}, false
			}
			return registerOutput{answer: unknown}, true
		})
		if out.answer == answered {
			r.mu.Lock()
			r.epochs[to][shard] = from + 1 // those who had it before are not told
			r.mu.Unlock()
		}
	}
}

// reader reads behind a write of its own, so that what it sees is not older than when it began. A server that was stopped while
// it led may answer a Sync from before.
func (r *registers) reader(ctx context.Context, me int, rnd *rand.Rand, z *zookeeper.Client) {
	own := fmt.Sprintf("/registers/reader%d", me)
	for ctx.Err() == nil {
		if z.Wait(ctx) != nil {
			return
		}
		n := rnd.IntN(r.shards)
		in := registerInput{kind: readValue, shard: n}
		path := checkpoints.MarkPath(registersAt, n)
		if rnd.IntN(3) == 0 {
			in.kind, path = readEpoch, checkpoints.EpochPath(registersAt, n)
		}
		began := time.Since(r.h.began).Nanoseconds()
		b := z.In(z.Session())
		if _, err := b.Set(ctx, own, nil, zookeeper.AnyVersion); err != nil {
			continue
		}
		data, stat, err := b.Get(ctx, path)
		if err != nil {
			continue
		}
		out := registerOutput{epoch: stat.Version}
		if in.kind == readValue {
			m, err := checkpoints.DecodeMark(data)
			if err != nil {
				r.t.Error(err)
				return
			}
			if m.Checkpoint != nil {
				out.value, _ = strconv.ParseInt(string(m.Checkpoint.Cursor), 10, 64)
			}
		}
		r.h.mu.Lock()
		r.h.list = append(r.h.list, porcupine.Operation{
			ClientId: me, Input: in, Call: began, Output: out, Return: time.Since(r.h.began).Nanoseconds(),
		})
		r.h.count[[]string{readValue: "checkpoints read", readEpoch: "epochs read"}[in.kind]]++
		r.h.mu.Unlock()
		time.Sleep(time.Duration(rnd.Int64N(int64(4 * time.Millisecond))))
	}
}

// run has savers, leaders and readers at it for a while.
func (r *registers) run(ctx context.Context, rnd *rand.Rand, savers []*session, leaders, readers []*session, every int, pause time.Duration, reread bool) {
	var wg sync.WaitGroup
	me := 0
	for range savers {
		r.epochs = append(r.epochs, map[int]int32{})
	}
	each := func(list []*session, f func(me int, rnd *rand.Rand, z *zookeeper.Client)) {
		for _, z := range list {
			n, own := me, rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
			me++
			wg.Go(func() { f(n, own, z.Client) })
		}
	}
	each(savers, func(me int, rnd *rand.Rand, z *zookeeper.Client) { r.saver(ctx, me, rnd, z, every, reread) })
	each(leaders, func(me int, rnd *rand.Rand, z *zookeeper.Client) { r.leader(ctx, me, rnd, z, pause) })
	each(readers, func(me int, rnd *rand.Rand, z *zookeeper.Client) { r.reader(ctx, me, rnd, z) })
	wg.Wait()
}

// Every shard's history is that of a fenced register, under lost answers, sessions that expire and servers that hang or die.
func TestFencesAreLinearizable(t *testing.T) {
	beside(t)
	e := ensemble(t, 3)
	rnd := seed(t)
	config := zookeeper.Config{SessionTimeout: 2 * time.Second}
	z := open(t, e, config)
	must(t, z.Wait(t.Context()))
	const shards = 8
	stageShards(t, z.Client, registersAt, shards)
	ways := make([]*network, 4)
	var savers []*session
	for i := range ways {
		ways[i] = &network{}
		config.Dial = ways[i].dial
		savers = append(savers, open(t, e, config))
	}
	config.Dial = nil
	leaders := []*session{open(t, e, config), open(t, e, config)}
	readers := []*session{open(t, e, config), open(t, e, config)}
	for i := range readers {
		must(t, z.Create(t.Context(), fmt.Sprintf("/registers/reader%d", len(savers)+len(leaders)+i), nil))
	}
	r := &registers{t: t, h: newHistory(), shards: shards}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.run(ctx, rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64())), savers, leaders, readers, 20, 20*time.Millisecond, false)
	}()
	stopped, killed := 0, 0
	for round := range scaled(12, 3) {
		time.Sleep(time.Second)
		p := e.Servers[rnd.IntN(len(e.Servers))]
		if round%3 == 0 {
			if leads, err := e.Leader(t.Context()); err == nil {
				p = leads
			}
		}
		if round%2 == 0 {
			must(t, p.Stop())
			stopped++
		} else {
			must(t, p.Kill())
			killed++
		}
		way := ways[round%len(ways)]
		way.set(cut)
		time.Sleep(1500 * time.Millisecond)
		must(t, e.Restart(t.Context()))
		time.Sleep(3 * time.Second) // a server that begins to lead counts every session from then on
		way.set(whole)
	}
	time.Sleep(time.Second)
	cancel()
	<-over
	lost := int64(0)
	for _, s := range savers {
		lost += s.lost.Load()
	}
	illegal := r.h.judge(t)
	t.Logf("%d operations on %d shards: %v", len(r.h.list), shards, r.h.count)
	t.Logf("servers stopped %d times, killed %d times; sessions expired %d times", stopped, killed, lost)
	t.Logf("shards whose history is not linearizable: %d", illegal)
	if illegal > 0 {
		t.Error("a history is not that of a fenced register")
	}
	for _, what := range []string{"hand-overs done", "saves done", "saves refused", "saves unknown", "checkpoints read", "epochs read"} {
		if r.h.count[what] == 0 {
			t.Errorf("there were no %s", what)
		}
	}
	if lost < int64(stopped+killed)/2 || killed == 0 || stopped == 0 {
		t.Error("a fault did not happen")
	}
}

// A store that reads the epoch back before it writes is found out, without any fault.
func TestFencesFindWhoReadsTheEpochBack(t *testing.T) {
	beside(t)
	e := ensemble(t, 1)
	rnd := seed(t)
	z := open(t, e, zookeeper.Config{})
	must(t, z.Wait(t.Context()))
	const shards = 4
	stageShards(t, z.Client, registersAt, shards)
	must(t, z.Create(t.Context(), "/registers/reader3", nil))
	r := &registers{t: t, h: newHistory(), shards: shards}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	savers := []*session{open(t, e, zookeeper.Config{}), open(t, e, zookeeper.Config{})}
	r.run(ctx, rnd, savers, []*session{z}, []*session{open(t, e, zookeeper.Config{})}, 0, 20*time.Millisecond, true)
	illegal := r.h.judge(t)
	t.Logf("%d operations on %d shards, %d histories not linearizable: %v", len(r.h.list), shards, illegal, r.h.count)
	if illegal == 0 {
		t.Error("saves under rights that are gone were not found")
	}
}
