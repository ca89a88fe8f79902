package checkpoints

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/zookeeper"
)

// FencedError says that the right to some shards has gone to somebody else: nothing was written for them, and never will
// be under that right; only when an answer was lost on the way may it have been written just before the right went, and whoever
// has it now went on from there. The other shards of the same save are written.
type FencedError struct {
	Shards []int // ascending
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("save the checkpoints of shards %v: another worker has them now", e.Shards)
}

// ErrGone says that the nodes of a run are not in ZooKeeper any more, though nobody ended the run.
var ErrGone = errors.New("the run's nodes are gone from ZooKeeper: look whether its tree was deleted or an old copy was put back, then use drover restore")

const (
	markFormat = 1
	bucket     = 100 // shards to a bucket, so that no list of children grows long
	// A multi takes 1 MB; these leave room for what stands around the data.
	multiShards = 64
	multiBytes  = 512 << 10
	atOnce      = 32 // requests under way together
)

// EpochPath is the node whose version is the epoch of a shard: the number of times that the right to it changed hands. It is
// written only then, and made once: attempt, the folder of a plan's shards, has a random name.
func EpochPath(attempt string, shard int) string { return shardPath(attempt, "s", shard) }

// MarkPath is the node that holds a shard's bounds and checkpoint, a Mark.
func MarkPath(attempt string, shard int) string { return shardPath(attempt, "c", shard) }

func shardPath(attempt, kind string, shard int) string {
	return attempt + "/" + kind + "/" + strconv.Itoa(shard/bucket) + "/" + strconv.Itoa(shard)
}

// Bucket is the name of the folder of a shard below attempt/s and attempt/c.
func Bucket(shard int) string { return strconv.Itoa(shard / bucket) }

// Mark is what stands in a shard's node.
type Mark struct {
	V          int             `json:"v"`
	Shard      json.RawMessage `json:"shard"`                // a jobs.Shard, which this package only carries
	Of         int             `json:"of"`                   // the shard of the plan that it was split from; itself when it was not
	Planned    string          `json:"planned,omitempty"`    // of a shard of the plan: its end before it was split
	Checkpoint *Checkpoint     `json:"checkpoint,omitempty"` // none before the first save
	Write      string          `json:"write,omitempty"`      // names the write, so that who got no answer can look
}

// DecodeMark reads a Mark.
func DecodeMark(data []byte) (Mark, error) {
	var m Mark
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read a shard's checkpoint: %w", err)
	}
	if m.V != markFormat {
		return m, fmt.Errorf("read a shard's checkpoint: it has format %d, this drover knows %d: use the version that wrote it", m.V, markFormat)
	}
	return m, nil
}

// Encode gives m in the present format.
func (m Mark) Encode() []byte {
	m.V = markFormat
	data, err := json.Marshal(m)
	if err != nil {
		panic(err) // a RawMessage that is no JSON, which DecodeMark does not let in
	}
	return data
}

// Ensemble is what a ZooKeeperStore needs of a zookeeper.Client or, so that nothing of it outlives a session, a
// zookeeper.Bound.
type Ensemble interface {
	Get(ctx context.Context, path string) ([]byte, zookeeper.Stat, error)
	Children(ctx context.Context, path string) ([]string, zookeeper.Stat, error)
	Sync(ctx context.Context, path string) error
	Multi(ctx context.Context, list ...zookeeper.Op) ([]zookeeper.Result, error)
	Create(ctx context.Context, path string, data []byte, flags ...zookeeper.Flag) error
}

// ZooKeeperStore keeps checkpoints in a node a shard, each written under the condition that the shard's epoch is the one
// that this process holds. It is the store of a run that several processes share; each opens its own.
//
// Totals are not under that condition, as they decide nothing: every process writes those of its own, and Load gives them
// back. SumTotals adds up what all wrote.
type ZooKeeperStore struct {
	zk      Ensemble
	attempt string
	process string
	epoch   func(shard int) (int32, bool)

	mu     sync.Mutex // held while something is saved
	marks  map[int]known
	writes int
	name   string // of this store's writes, with writes
	told   bool   // the node of the totals is there
}

// known is a mark as this store last saw or wrote it.
type known struct {
	mark    Mark
	version int32
}

// OpenZooKeeper opens the checkpoints below attempt, whose nodes exist. process names what is counted in this process's
// totals. epoch tells under which epoch this process holds a shard now, false when it does not; it must never be read back
// from ZooKeeper, where it may already be another's.
func OpenZooKeeper(zk Ensemble, attempt, process string, epoch func(shard int) (int32, bool)) *ZooKeeperStore {
	return &ZooKeeperStore{zk: zk, attempt: attempt, process: process, epoch: epoch, marks: map[int]known{}, name: rand.Text()}
}

// Load implements Store. It reads every shard of the run.
func (s *ZooKeeperStore) Load(ctx context.Context) (map[int]Checkpoint, Totals, error) {
	marks, err := s.Marks(ctx)
	if err != nil {
		return nil, Totals{}, err
	}
	shards := map[int]Checkpoint{}
	for n, m := range marks {
		if m.Checkpoint != nil {
			shards[n] = *m.Checkpoint
		}
	}
	t, err := s.readTotals(ctx, s.process)
	if err != nil {
		return nil, Totals{}, err
	}
	return shards, t, nil
}

// Marks reads every shard's mark.
func (s *ZooKeeperStore) Marks(ctx context.Context) (map[int]Mark, error) {
	buckets, _, err := s.zk.Children(ctx, s.attempt+"/c")
	if err != nil {
		return nil, s.wrap("list the shards", err)
	}
	var mu sync.Mutex
	marks := map[int]Mark{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, b := range buckets {
		names, _, err := s.zk.Children(ctx, s.attempt+"/c/"+b)
		if err != nil {
			g.Go(func() error { return s.wrap("list the shards", err) })
			break
		}
		for _, name := range names {
			g.Go(func() error {
				n, err := strconv.Atoi(name)
				if err != nil {
					return fmt.Errorf("list the shards of %s: %q is no shard", s.attempt, name)
				}
				k, err := s.read(ctx, n)
				mu.Lock()
				defer mu.Unlock()
				marks[n] = k.mark
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return marks, nil
}

func (s *ZooKeeperStore) wrap(what string, err error) error {
	if errors.Is(err, zookeeper.ErrNoNode) {
		return fmt.Errorf("%s of %s: %w", what, s.attempt, ErrGone)
	}
	return fmt.Errorf("%s of %s: %w", what, s.attempt, err)
}

func (s *ZooKeeperStore) read(ctx context.Context, n int) (known, error) {
	data, stat, err := s.zk.Get(ctx, MarkPath(s.attempt, n))
	if err != nil {
		return known{}, s.wrap(fmt.Sprintf("read shard %d", n), err)
	}
	m, err := DecodeMark(data)
	if err != nil {
		return known{}, s.wrap(fmt.Sprintf("read shard %d", n), err)
	}
	return known{m, stat.Version}, nil
}

// SumTotals adds up the totals of every process that worked on the run.
func (s *ZooKeeperStore) SumTotals(ctx context.Context) (Totals, error) {
	var sum Totals
	names, _, err := s.zk.Children(ctx, s.attempt+"/t")
	if errors.Is(err, zookeeper.ErrNoNode) {
		return sum, nil
	}
	if err != nil {
		return sum, s.wrap("list the totals", err)
	}
	for _, name := range names {
		t, err := s.readTotals(ctx, name)
		if err != nil {
			return sum, err
		}
		sum.Add(t)
	}
	return sum, nil
}

// Add adds o to t.
func (t *Totals) Add(o Totals) {
	t.Calls += o.Calls
	t.Retries += o.Retries
	t.Limited += o.Limited
	t.Slowed += o.Slowed
	t.Resumed += o.Resumed
	t.Dead += o.Dead
}

func (s *ZooKeeperStore) totalsPath(process string) string { return s.attempt + "/t/" + process }

func (s *ZooKeeperStore) readTotals(ctx context.Context, process string) (t Totals, err error) {
	data, _, err := s.zk.Get(ctx, s.totalsPath(process))
	if errors.Is(err, zookeeper.ErrNoNode) || err == nil && len(data) == 0 {
		return t, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		return t, s.wrap("read the totals", err)
	}
	return t, nil
}

// Save implements Store. Shards to which this process has no right are named in a *FencedError, once the others are saved.
func (s *ZooKeeperStore) Save(ctx context.Context, changed []Checkpoint, t Totals) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	totals, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode the totals: %w", err)
	}
	if !s.told {
		// Its folder was made with the shards: a run that was ended and swept must not come back.
		err := s.zk.Create(ctx, s.totalsPath(s.process), nil)
		if errors.Is(err, zookeeper.ErrUnknown) && !errors.Is(err, zookeeper.ErrSessionLost) {
			err = s.zk.Create(ctx, s.totalsPath(s.process), nil)
		}
		if err != nil && !errors.Is(err, zookeeper.ErrNodeExists) {
			return s.wrap("save the totals", err)
		}
		s.told = true
	}
	set := zookeeper.SetOp(s.totalsPath(s.process), totals, zookeeper.AnyVersion)
	if len(changed) == 0 {
		if _, err := s.zk.Multi(ctx, set); err != nil {
			return s.wrap("save the totals", err)
		}
		return nil
	}
	if err := s.learn(ctx, changed); err != nil {
		return err
	}
	var fenced []int
	for len(changed) > 0 {
		n, size := 0, 0
		for n < min(len(changed), multiShards) && (n == 0 || size < multiBytes) {
			size += len(s.marks[changed[n].Shard].mark.Shard) + len(changed[n].Cursor) + 200*len(changed[n].Tables)
			n++
		}
		lost, err := s.write(ctx, changed[:n], set)
		fenced = append(fenced, lost...)
		if err != nil {
			return err
		}
		changed = changed[n:]
	}
	if len(fenced) > 0 {
		slices.Sort(fenced)
		return &FencedError{Shards: fenced}
	}
	return nil
}

// learn reads the marks of shards that this store has not seen.
func (s *ZooKeeperStore) learn(ctx context.Context, changed []Checkpoint) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, c := range changed {
		mu.Lock()
		_, seen := s.marks[c.Shard]
		mu.Unlock()
		if seen {
			continue
		}
		g.Go(func() error {
			k, err := s.read(ctx, c.Shard)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			s.marks[c.Shard] = k
			return nil
		})
	}
	return g.Wait()
}

// write saves some shards in one multi. One that is refused costs the others nothing: they are written without it.
func (s *ZooKeeperStore) write(ctx context.Context, list []Checkpoint, totals zookeeper.Op) (fenced []int, err error) {
	const perShard = 2 // operations; the totals come behind them
	for {
		var ops []zookeeper.Op
		var written []known
		held := list[:0:0]
		s.writes++
		id := fmt.Sprintf("%s.%d", s.name, s.writes)
		for _, c := range list {
			epoch, ok := s.epoch(c.Shard)
			if !ok {
				fenced = append(fenced, c.Shard)
				continue
			}
			c.Tables = maps.Clone(c.Tables)
			k := s.marks[c.Shard]
			k.mark.Checkpoint, k.mark.Write = &c, id
			ops = append(ops, zookeeper.Check(EpochPath(s.attempt, c.Shard), epoch),
				zookeeper.SetOp(MarkPath(s.attempt, c.Shard), k.mark.Encode(), k.version))
			k.version++
			written, held = append(written, k), append(held, c)
		}
		list = held
		_, err := s.zk.Multi(ctx, append(ops, totals)...)
		if errors.Is(err, zookeeper.ErrUnknown) && !errors.Is(err, zookeeper.ErrSessionLost) && len(list) > 0 {
			err = s.resolve(ctx, list[0].Shard, id)
			if err == errNotWritten {
				continue
			}
		}
		if err == nil {
			for i, c := range list {
				s.marks[c.Shard] = written[i]
			}
			return fenced, nil
		}
		op, refused := errors.AsType[*zookeeper.OpError](err)
		if !refused || op.Index >= perShard*len(list) || errors.Is(err, zookeeper.ErrNoNode) {
			return fenced, s.wrap("save the checkpoints", err)
		}
		at := op.Index / perShard
		if op.Index%perShard == 0 {
			fenced = append(fenced, list[at].Shard)
			list = slices.Delete(slices.Clone(list), at, at+1)
			continue
		}
		// The mark is newer than was thought: a write of this store whose answer was lost, or a split. The epoch is checked
		// again with the new version, so whoever has the shard by then is safe.
		k, err := s.reread(ctx, list[at].Shard)
		if err != nil {
			return fenced, err
		}
		s.marks[list[at].Shard] = k
	}
}

var errNotWritten = errors.New("it was not written")

// resolve finds out whether the write id, whose answer was lost, happened.
func (s *ZooKeeperStore) resolve(ctx context.Context, shard int, id string) error {
	k, err := s.reread(ctx, shard)
	if err == nil && k.mark.Write != id {
		return errNotWritten
	}
	return err
}

func (s *ZooKeeperStore) reread(ctx context.Context, shard int) (known, error) {
	if err := s.zk.Sync(ctx, MarkPath(s.attempt, shard)); err != nil {
		return known{}, s.wrap(fmt.Sprintf("read shard %d again", shard), err)
	}
	return s.read(ctx, shard)
}

// ErrUnsettled says that the answer to a write was lost, and that what became of it could not be found out.
var ErrUnsettled = errors.New("it is not known whether the shard was cut")

// Cut is a shard that becomes two.
type Cut struct {
	Shard int    // its number; the new one gets the next that the run has
	Run   string // the node that counts the run's shards

	// Parts gives what the shard is from now on, and the new one with number n. have is the shard as it stands; an error, for
	// bounds that are not those which are to be cut, leaves it so.
	Parts func(have json.RawMessage, n int) (head, rest json.RawMessage, err error)
	// Grow counts one shard more in the data of Run's node, which names the write by write, and says how many there were. An
	// error leaves everything as it is.
	Grow func(data []byte, write string) (grown []byte, n int, err error)
}

// Cut makes a shard two in one write, under the right that this process has to it, which stays. So an attempt's shards tile what
// was planned at every instant, and whoever counts them on condition of the run's version counts all. It tries again when only
// the run's node was changed by others. A *FencedError says that the right is gone. After every other error but ErrUnsettled
// the shard is as it was.
func (s *ZooKeeperStore) Cut(ctx context.Context, c Cut) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.learn(ctx, []Checkpoint{{Shard: c.Shard}}); err != nil {
		return 0, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		epoch, ok := s.epoch(c.Shard)
		if !ok {
			return 0, &FencedError{Shards: []int{c.Shard}}
		}
		data, stat, err := s.zk.Get(ctx, c.Run)
		if err != nil {
			return 0, s.wrap("read the run", err)
		}
		s.writes++
		id := fmt.Sprintf("%s.%d", s.name, s.writes)
		grown, n, err := c.Grow(data, id)
		if err != nil {
			return 0, err
		}
		k := s.marks[c.Shard]
		head, rest, err := c.Parts(k.mark.Shard, n)
		if err != nil {
			return 0, err
		}
		k.mark.Shard, k.mark.Write = head, id
		ops := []zookeeper.Op{
			zookeeper.Check(EpochPath(s.attempt, c.Shard), epoch),
			// Before the new nodes, so that of two cuts at once the later hears of this, and not that its number is taken.
			zookeeper.SetOp(c.Run, grown, stat.Version),
			zookeeper.SetOp(MarkPath(s.attempt, c.Shard), k.mark.Encode(), k.version),
		}
		for _, node := range stageShard(s.attempt, n, Mark{Shard: rest, Of: k.mark.Of, Write: id}) {
			ops = append(ops, zookeeper.CreateOp(node.Path, node.Data))
		}
		_, err = s.zk.Multi(ctx, ops...)
		if errors.Is(err, zookeeper.ErrUnknown) {
			if err = s.settle(ctx, c.Shard, id); err == errNotWritten {
				continue
			}
		}
		if err == nil {
			k.version++
			s.marks[c.Shard] = k
			return n, nil
		}
		op, refused := errors.AsType[*zookeeper.OpError](err)
		switch {
		case !refused || !errors.Is(err, zookeeper.ErrBadVersion):
			return 0, s.wrap(fmt.Sprintf("cut shard %d", c.Shard), err)
		case op.Index == 0:
			return 0, &FencedError{Shards: []int{c.Shard}}
		case op.Index == 2: // a write of this store whose answer was lost; Parts looks whether the bounds are still the same
			k, err := s.reread(ctx, c.Shard)
			if err != nil {
				return 0, err
			}
			s.marks[c.Shard] = k
		}
	}
}

// settle finds out whether a cut happened, for as long as that can be: it would be wrong either way to go on with the shard.
func (s *ZooKeeperStore) settle(ctx context.Context, shard int, id string) error {
	for {
		err := s.resolve(ctx, shard, id)
		if err == nil || err == errNotWritten {
			return err
		}
		if errors.Is(err, zookeeper.ErrSessionLost) || errors.Is(err, zookeeper.ErrClosed) || errors.Is(err, ErrGone) {
			return fmt.Errorf("%w: %w", ErrUnsettled, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnsettled, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Staged is a node that is to be made.
type Staged struct {
	Path string
	Data []byte
}

// Stage lists the nodes of a plan's shards in the order in which they are made, in writes of any size: the folders, and for
// each shard its epoch at 0 and its mark. shards are the encoded jobs.Shards by number, ends where each ends.
func Stage(attempt string, shards []json.RawMessage, ends []string) []Staged {
	nodes := []Staged{{Path: attempt}, {Path: attempt + "/s"}, {Path: attempt + "/c"}, {Path: attempt + "/t"}}
	for n, shard := range shards {
		nodes = append(nodes, stageShard(attempt, n, Mark{Shard: shard, Of: n, Planned: ends[n]})...)
	}
	return nodes
}

// stageShard lists the nodes of the shard that comes behind those before n.
func stageShard(attempt string, n int, m Mark) (nodes []Staged) {
	if n%bucket == 0 {
		nodes = append(nodes, Staged{Path: attempt + "/s/" + Bucket(n)}, Staged{Path: attempt + "/c/" + Bucket(n)})
	}
	return append(nodes, Staged{Path: EpochPath(attempt, n)}, Staged{MarkPath(attempt, n), m.Encode()})
}
