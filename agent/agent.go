// Package agent stands beside one HBase gateway, looks at it as a client would, and says in ZooKeeper whether it is to be used.
// Not for programs that use gateways: those have discovery and the pool's own judgement, which believe no agent blindly.
//
//	look     what was seen of the gateway at one moment: sound, or in which trouble
//	verdict  ok or not, made of looks by the judge, slowly enough that it never flaps
//	node     the gateway's place in ZooKeeper, {"ok": true} or {"ok": false}; the agent changes ok and nothing else
//	held     the node stays as it is though the verdict is another: a person's false, a node that was deleted
//	drain    not ok because the gateway is about to be stopped, and waiting until its connections are gone
//	restart  what may mend a gateway: one at a time in the whole fleet, and only while most of the fleet is ok
//
// The judge, what to do about the node, and when to restart are pure: they are told what happened and when. Looking, ZooKeeper
// and the command are thin edges.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"drover/durable"
	"drover/zookeeper"
)

// Nodes are ZooKeeper's calls, as *zookeeper.Client and its Bound have them.
type Nodes interface {
	Get(ctx context.Context, path string) ([]byte, zookeeper.Stat, error)
	Exists(ctx context.Context, path string) (bool, zookeeper.Stat, error)
	Children(ctx context.Context, path string) ([]string, zookeeper.Stat, error)
	Create(ctx context.Context, path string, data []byte, flags ...zookeeper.Flag) error
	CreateAll(ctx context.Context, path string) error
	Set(ctx context.Context, path string, data []byte, version int32) (zookeeper.Stat, error)
	Delete(ctx context.Context, path string, version int32) error
	Sync(ctx context.Context, path string) error
}

// Ensemble is a session and the calls under it. Client makes one.
type Ensemble interface {
	Nodes
	// WatchNode calls f soon, after each change and after each reconnection, and no more once stop returned.
	WatchNode(ctx context.Context, path string, f func(zookeeper.Node)) (stop func())
	State() zookeeper.State
	Session() zookeeper.Session
	Within(s zookeeper.Session) Nodes // calls that fail once s is over
}

// Client is the Ensemble of a client, which stays the caller's to close, after Run.
func Client(c *zookeeper.Client) Ensemble { return client{c} }

type client struct{ *zookeeper.Client }

func (c client) Within(s zookeeper.Session) Nodes { return c.In(s) }

// Config says what to look at and where to say it.
type Config struct {
	Ensemble  Ensemble
	Path      string // of the node: /buzzthrift/thrift_11
	Create    bool   // make the node, once the gateway is sound, if there is none. Its parent must exist
	Ephemeral bool   // with Create: a node that goes with the agent's session
	Reason    bool   // put the reason beside a false ok; clients that compare the whole text would not know it

	// Probe looks at the gateway once, by real calls with deadlines of its own; ctx ends when the agent does.
	Probe func(ctx context.Context) (t Trouble, reason string)
	// Canary writes and reads a row of a table through the gateway. An error is trouble, which stands until the next one. nil is
	// none.
	Canary func(ctx context.Context) error
	// Metrics reads the gateway's info port. That it can't be read is no trouble. nil is none.
	Metrics func(ctx context.Context) (Metrics, error)
	Threads int64 // of the gateway: where it answers none, that many connections are the reason. 0 is not known

	Every       time.Duration // from the start of one look to that of the next. 0 is 2 s
	CanaryEvery time.Duration // 0 is 10 s
	Rules       Rules

	// Drain is how long to wait, at the end, for the gateway's connections to go after its node says no. 0 leaves the node as it
	// is.
	Drain time.Duration

	Restart Restart

	File   string        // keeps what the agent wrote last, in a folder that is there. "" forgets it at the end
	Status time.Duration // a line of how the gateway is is logged that often. 0 is every minute
	Log    *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Every == 0 {
		c.Every = 2 * time.Second
	}
	if c.CanaryEvery == 0 {
		c.CanaryEvery = 10 * time.Second
	}
	if c.Status == 0 {
		c.Status = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Rules = c.Rules.withDefaults()
	c.Restart = c.Restart.withDefaults()
	return c
}

// Validate gives all faults of a configuration.
func (c Config) Validate() error {
	var faults []error
	if path.Clean(c.Path) != c.Path || path.Dir(c.Path) == "/" || c.Path[0] != '/' {
		faults = append(faults, fmt.Errorf("%q is not the path of a gateway's node, as /buzzthrift/thrift_11 is", c.Path))
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"interval", c.Every},
		{"canary interval", c.CanaryEvery},
		{"trouble before not ok", c.Rules.After},
		{"time out", c.Rules.Down},
		{"time ok", c.Rules.Up},
		{"drain", c.Drain},
		{"status interval", c.Status},
	} {
		if d.d < 0 {
			faults = append(faults, fmt.Errorf("%s %v: it cannot be negative", d.name, d.d))
		}
	}
	if r := c.Rules.withDefaults(); r.MaxDown < r.Down {
		faults = append(faults, fmt.Errorf("the longest time out, %v, is less than the shortest, %v", r.MaxDown, r.Down))
	}
	faults = append(faults, c.Restart.validate())
	return errors.Join(faults...)
}

// answer is what came of a call about the node: what stands now, or why that is not known.
type answer struct {
	node  zookeeper.Node
	err   error
	wrote bool // the node is what this call made of it
}

// agent is a Run under way. One goroutine, the loop, owns all of it.
type agent struct {
	Config
	judge   *judge
	gauges  gauges
	memory  memory
	last    glance
	soundAt atomic.Int64 // of the last sound look, in Unix nanoseconds

	known    bool // the node was read
	node     zookeeper.Node
	seen     bool // there was a node, and it was deleted
	dirty    bool // it may have changed
	busy     bool // a call about the node is under way
	later    time.Time
	held     string
	away     time.Time // since when there is no connection
	alone    bool      // and it was said
	faults   [2]string // of the file and of ZooKeeper, each said once
	draining bool
	said     bool // and the node says no, as far as it can
	restarts restarts

	wg       sync.WaitGroup
	answers  chan answer
	looks    chan glance
	restored chan error
}

// awayAfter is how long ZooKeeper may be silent before that is said.
const awayAfter = 3 * time.Second

// Run looks at the gateway and keeps its node until ctx ends, and then drains. It returns with nothing left running; the only
// errors are faults of the configuration and of the file. A restart under way is waited for.
func Run(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	a := &agent{
		Config: c.withDefaults(), dirty: true,
		answers: make(chan answer, 1), looks: make(chan glance), restored: make(chan error, 1),
	}
	a.judge = newJudge(a.Rules)
	a.gauges.threads = a.Threads
	a.memory.Path = a.Path
	if err := a.remember(); err != nil {
		return err
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer a.wg.Wait()
	defer end()
	changed := make(chan struct{}, 1)
	unwatch := a.Ensemble.WatchNode(life, a.Path, func(zookeeper.Node) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer unwatch()
	looking, blind := context.WithCancel(life)
	defer blind()
	a.wg.Go(func() { a.watch(looking) })

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	status := time.NewTicker(a.Status)
	defer status.Stop()
	done := ctx.Done()
	gone := make(chan struct{}) // closed when the connections are
	waiting := false            // for that
	for {
		a.settle(life, time.Now())
		if a.draining && a.said && !waiting {
			waiting = true
			dead := a.last.Trouble == Dead // and has no connection
			a.wg.Go(func() {
				if dead || Emptied(life, a.Metrics) {
					a.Log.Info("drained: every connection is gone")
					close(gone)
				}
			})
		}
		select {
		case l := <-a.looks:
			a.look(l)
		case s := <-a.answers:
			a.busy = false
			a.answered(s, time.Now())
		case err := <-a.restored:
			a.restartEnded(err, time.Now())
		case <-changed:
			a.dirty = true
		case <-tick.C:
		case <-status.C:
			a.status()
		case <-gone:
			gone = nil
			end()
		case <-life.Done():
			return nil
		case <-done:
			done = nil
			blind()
			if a.Drain == 0 {
				return nil
			}
			a.draining = true
			a.Log.Info("draining: the gateway is to be stopped", "node", a.Path, "for", a.Drain)
			late := time.AfterFunc(a.Drain, func() {
				a.Log.Warn("not drained: the time is over", "node", a.Path)
				end()
			})
			defer late.Stop()
		}
	}
}

// look takes what was seen.
func (a *agent) look(g glance) {
	was, l := a.last.Look, g.Look
	a.last = g
	changed := a.judge.look(l)
	if l.Trouble == Sound {
		a.soundAt.Store(l.At.UnixNano())
	}
	if a.judge.ok && l.At.Sub(a.judge.since) >= a.Restart.Every {
		a.restarts.tries = 0
	}
	switch {
	case l.Trouble != was.Trouble && l.Trouble != Sound:
		a.Log.Warn("the gateway is in trouble", "trouble", l.Trouble, "reason", l.Reason)
	case l.Trouble != was.Trouble:
		a.Log.Info("the gateway answers again", "after", was.Trouble)
	}
	switch {
	case changed && a.judge.ok:
		a.Log.Info("the gateway is ok")
	case changed:
		a.Log.Warn("the gateway is not ok", "reason", a.judge.why(), "for_at_least", a.judge.hold)
	}
}

// want is what the node is to say.
func (a *agent) want() bool { return a.judge.ok && !a.draining }

// retry is how soon a call that failed is made again.
const retry = 2 * time.Second

// settle does what is to be done now: reads the node, writes it, restarts.
func (a *agent) settle(ctx context.Context, now time.Time) {
	connected := a.Ensemble.State() == zookeeper.Connected
	switch {
	case connected && a.alone:
		a.Log.Info("ZooKeeper is back", "after", now.Sub(a.away).Round(time.Second))
		a.alone, a.away, a.dirty = false, time.Time{}, true
	case connected:
		a.away = time.Time{}
	case a.away.IsZero():
		a.away = now
	case !a.alone && now.Sub(a.away) >= awayAfter:
		a.alone = true
		a.Log.Warn("no connection to ZooKeeper: the gateway is looked at all the same, and what holds is written when it is back", "state", a.Ensemble.State())
	}
	if a.busy || !connected || now.Before(a.later) {
		return
	}
	if a.dirty || !a.known {
		a.dirty, a.busy = false, true
		a.wg.Go(func() { a.answers <- a.read(ctx) })
		return
	}
	f := facts{node: a.node, memory: a.memory, want: a.want(), create: a.Create && !a.draining, seen: a.seen}
	if a.Reason {
		f.reason = a.judge.why()
		if a.draining {
			f.reason = "drained"
		}
	}
	s := decide(f)
	if s.held != a.held && s.held != "" {
		a.Log.Warn("the node is left as it is", "node", a.Path, "why", s.held)
	}
	a.held = s.held
	if s.doing == leave {
		a.said = a.said || a.draining
		a.considerRestart(ctx, now)
		return
	}
	in := intent{Czxid: a.node.Stat.Czxid, Version: a.node.Stat.Version, Data: string(s.data)}
	if s.doing == create {
		in = intent{Version: -1, Data: string(s.data)}
	}
	a.memory.Intent = &in
	if !a.keep() {
		a.later = now.Add(retry)
		return
	}
	a.busy = true
	a.wg.Go(func() {
		if s.doing == create {
			a.answers <- a.create(ctx, s.data)
		} else {
			a.answers <- a.write(ctx, s.data, in.Version)
		}
	})
}

func (a *agent) read(ctx context.Context) answer {
	if err := a.Ensemble.Sync(ctx, a.Path); err != nil {
		return answer{err: err}
	}
	raw, stat, err := a.Ensemble.Get(ctx, a.Path)
	if errors.Is(err, zookeeper.ErrNoNode) {
		return answer{}
	}
	return answer{node: zookeeper.Node{Exists: true, Data: raw, Stat: stat}, err: err}
}

func (a *agent) write(ctx context.Context, raw []byte, version int32) answer {
	stat, err := a.Ensemble.Set(ctx, a.Path, raw, version)
	return answer{node: zookeeper.Node{Exists: true, Data: raw, Stat: stat}, err: err, wrote: err == nil}
}

// create makes the node. What came of it, the next reading tells: an intent of it is remembered.
func (a *agent) create(ctx context.Context, raw []byte) answer {
	if a.Ephemeral {
		if err := a.Ensemble.Within(a.Ensemble.Session()).Create(ctx, a.Path, raw, zookeeper.Ephemeral); err != nil {
			return answer{err: err}
		}
	} else if err := a.Ensemble.Create(ctx, a.Path, raw); err != nil {
		return answer{err: err}
	}
	s := a.read(ctx)
	s.wrote = s.err == nil && s.node.Exists && s.node.Stat.Version == 0 && string(s.node.Data) == string(raw)
	return s
}

// answered takes what came of a call about the node.
func (a *agent) answered(s answer, now time.Time) {
	if s.err != nil {
		a.dirty, a.later = true, now.Add(retry)
		advice := ""
		switch {
		case errors.Is(s.err, zookeeper.ErrBadVersion), errors.Is(s.err, zookeeper.ErrNodeExists), errors.Is(s.err, zookeeper.ErrNoNode) && a.node.Exists:
			// Somebody was faster. What they wrote is not taken for what this was to write.
			a.memory.Intent = nil
			a.later = time.Time{}
			return
		case errors.Is(s.err, zookeeper.ErrNoNode):
			advice = "; the node's parent is missing: create " + path.Dir(a.Path)
		case errors.Is(s.err, zookeeper.ErrNoAuth):
			advice = "; give --auth what may read and write the node, or mend its ACL"
		}
		if text := s.err.Error() + advice; a.Ensemble.State() == zookeeper.Connected && text != a.faults[1] {
			a.faults[1] = text
			a.Log.Error("the node cannot be kept, which is tried again: " + text)
		}
		return
	}
	a.later, a.faults[1] = time.Time{}, ""
	before, first := a.node, !a.known
	a.node, a.known = s.node, true
	if !s.node.Exists {
		// An ephemeral node of a session that is over was nobody's to delete.
		owner := before.Stat.EphemeralOwner
		a.seen = a.seen || before.Exists && (owner == 0 || owner == a.Ensemble.Session().ID)
		return
	}
	a.seen = false
	own := s.wrote || a.memory.wrote(s.node)
	if own {
		m := markOf(s.node.Stat)
		if a.memory.Intent != nil || a.memory.Own == nil || *a.memory.Own != m {
			a.memory.Own, a.memory.Intent = &m, nil
			a.keep()
		}
	}
	says := s.node.Data
	if string(says) != string(before.Data) || !before.Exists {
		a.Log.Info("the node", "node", a.Path, "data", string(says), "version", s.node.Stat.Version, "own", own)
	}
	d, err := parseData(says)
	if err != nil {
		return
	}
	ok, err := d.ok()
	switch {
	case err != nil:
	case first && own || first && ok:
		a.judge.adopt(ok || a.judge.ok)
	case ok && !own && !a.judge.ok:
		a.judge.told(now)
		a.Log.Info("somebody else set ok: the gateway is looked at anew", "stands_for_at_least", a.judge.hold)
	}
}

// remember reads the file.
func (a *agent) remember() error {
	if a.File == "" {
		return nil
	}
	raw, err := os.ReadFile(a.File)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what the agent wrote last: %w", err)
	}
	var m memory
	if err := json.Unmarshal(raw, &m); err != nil {
		a.Log.Warn("what the agent wrote last cannot be read: an ok of false counts as somebody else's", "file", a.File, "error", err)
		return nil
	}
	if m.Path == a.Path {
		a.memory = m
	}
	return nil
}

// keep writes the file. Without it nothing is written into the node either: the next agent would take it for a person's.
func (a *agent) keep() bool {
	if a.File == "" {
		return true
	}
	raw, err := json.Marshal(a.memory)
	if err == nil {
		err = durable.Replace(a.File, append(raw, '\n'))
	}
	if err == nil {
		a.faults[0] = ""
		return true
	}
	if text := err.Error(); text != a.faults[0] {
		a.faults[0] = text
		a.Log.Error("the node is not written, because what was written could not be kept: "+text+durable.Advice(err, " with --state"), "folder", filepath.Dir(a.File))
	}
	return false
}

func (a *agent) connections() any {
	if a.last.metrics == nil {
		return "unknown"
	}
	return a.last.metrics.Workers
}

func (a *agent) status() {
	state, reason := "ok", ""
	if !a.judge.ok {
		state, reason = "not ok", a.judge.why()
	}
	node := "unknown"
	if a.known {
		node = "missing"
		if a.node.Exists {
			node = string(a.node.Data)
		}
	}
	a.Log.Info("status", "gateway", state, "reason", reason, "trouble", a.last.Trouble, "connections", a.connections(),
		"node", node, "held", a.held, "zookeeper", a.Ensemble.State().String())
}
