package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drover/zookeeper"
)

// zoo is an ensemble in memory, whose clock is the bubble's.
type zoo struct {
	mu       sync.Mutex
	nodes    map[string]*zookeeper.Node
	zxid     int64
	sessions int64
	clients  []*zooClient
	writes   []string // "path data", in order
	lose     int      // so many writes take effect and are not answered
}

func newZoo(paths ...string) *zoo {
	z := &zoo{nodes: map[string]*zookeeper.Node{}}
	for _, p := range paths {
		z.nodes[p] = &zookeeper.Node{Exists: true}
	}
	return z
}

// zooClient is one session after the other.
type zooClient struct {
	z       *zoo
	session zookeeper.Session
	away    bool
	watches map[string]func(zookeeper.Node)
}

func (z *zoo) client() *zooClient {
	c := &zooClient{z: z, watches: map[string]func(zookeeper.Node){}}
	z.mu.Lock()
	z.clients = append(z.clients, c)
	z.mu.Unlock()
	c.expire()
	return c
}

// expire ends the session with its nodes, and begins another.
func (c *zooClient) expire() {
	c.z.mu.Lock()
	c.z.sessions++
	old := c.session.ID
	c.session = zookeeper.Session{ID: c.z.sessions, N: c.session.N + 1}
	for p, n := range c.z.nodes {
		if old != 0 && n.Stat.EphemeralOwner == old {
			delete(c.z.nodes, p)
			c.z.fireLocked(p)
		}
	}
	c.z.mu.Unlock()
}

func (z *zoo) fireLocked(p string) {
	for _, c := range z.clients {
		if f := c.watches[p]; f != nil {
			f(zookeeper.Node{}) // the agent reads for itself
		}
	}
}

func (z *zoo) setAway(away bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, c := range z.clients {
		c.away = away
	}
}

// by writes, creates (of version -2) or deletes (data nil) as somebody else.
func (z *zoo) by(p string, data any) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if data == nil {
		delete(z.nodes, p)
	} else {
		z.putLocked(p, []byte(data.(string)), 0)
	}
	z.fireLocked(p)
}

func (z *zoo) putLocked(p string, data []byte, owner int64) {
	z.zxid++
	n := z.nodes[p]
	if n == nil {
		n = &zookeeper.Node{Exists: true, Stat: zookeeper.Stat{Czxid: z.zxid, Ctime: time.Now().UnixMilli(), EphemeralOwner: owner, Version: -1}}
		z.nodes[p] = n
	}
	n.Data = bytes.Clone(data)
	n.Stat.Version++
	n.Stat.Mtime = time.Now().UnixMilli()
	z.writes = append(z.writes, p+" "+string(data))
}

func (z *zoo) data(p string) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	if n := z.nodes[p]; n != nil {
		return string(n.Data)
	}
	return "none"
}

// count tells how often a path was written.
func (z *zoo) count(p string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := 0
	for _, w := range z.writes {
		if strings.HasPrefix(w, p+" ") {
			n++
		}
	}
	return n
}

func (c *zooClient) call(f func() error) error {
	time.Sleep(5 * time.Millisecond) // in the bubble
	c.z.mu.Lock()
	defer c.z.mu.Unlock()
	if c.away {
		return zookeeper.ErrNotConnected
	}
	return f()
}

// answer loses the answer of a write if it is to be lost.
func (z *zoo) answerLocked() error {
	if z.lose > 0 {
		z.lose--
		return zookeeper.ErrUnknown
	}
	return nil
}

func (c *zooClient) Get(_ context.Context, p string) (data []byte, s zookeeper.Stat, err error) {
	err = c.call(func() error {
		n := c.z.nodes[p]
		if n == nil {
			return zookeeper.ErrNoNode
		}
		data, s = bytes.Clone(n.Data), n.Stat
		return nil
	})
	return data, s, err
}

func (c *zooClient) Exists(ctx context.Context, p string) (bool, zookeeper.Stat, error) {
	_, s, err := c.Get(ctx, p)
	if errors.Is(err, zookeeper.ErrNoNode) {
		return false, s, nil
	}
	return err == nil, s, err
}

func (c *zooClient) Children(_ context.Context, p string) (names []string, s zookeeper.Stat, err error) {
	err = c.call(func() error {
		for q := range c.z.nodes {
			if path.Dir(q) == p {
				names = append(names, path.Base(q))
			}
		}
		return nil
	})
	return names, s, err
}

func (c *zooClient) Create(_ context.Context, p string, data []byte, flags ...zookeeper.Flag) error {
	return c.call(func() error {
		switch {
		case c.z.nodes[p] != nil:
			return zookeeper.ErrNodeExists
		case c.z.nodes[path.Dir(p)] == nil:
			return zookeeper.ErrNoNode
		}
		owner := int64(0)
		if len(flags) > 0 {
			owner = c.session.ID
		}
		c.z.putLocked(p, data, owner)
		c.z.fireLocked(p)
		return c.z.answerLocked()
	})
}

func (c *zooClient) CreateAll(_ context.Context, p string) error {
	return c.call(func() error {
		if c.z.nodes[p] == nil {
			c.z.putLocked(p, nil, 0)
		}
		return nil
	})
}

func (c *zooClient) Set(_ context.Context, p string, data []byte, version int32) (s zookeeper.Stat, err error) {
	err = c.call(func() error {
		n := c.z.nodes[p]
		switch {
		case n == nil:
			return zookeeper.ErrNoNode
		case version >= 0 && version != n.Stat.Version:
			return zookeeper.ErrBadVersion
		}
		c.z.putLocked(p, data, 0)
		c.z.fireLocked(p)
		s = n.Stat
		return c.z.answerLocked()
	})
	return s, err
}

func (c *zooClient) Delete(_ context.Context, p string, _ int32) error {
	return c.call(func() error {
		if c.z.nodes[p] == nil {
			return zookeeper.ErrNoNode
		}
		delete(c.z.nodes, p)
		return nil
	})
}

func (c *zooClient) Sync(context.Context, string) error { return c.call(func() error { return nil }) }

func (c *zooClient) WatchNode(_ context.Context, p string, f func(zookeeper.Node)) (stop func()) {
	c.z.mu.Lock()
	c.watches[p] = f
	c.z.mu.Unlock()
	return func() {
		c.z.mu.Lock()
		delete(c.watches, p)
		c.z.mu.Unlock()
	}
}

func (c *zooClient) State() zookeeper.State {
	c.z.mu.Lock()
	defer c.z.mu.Unlock()
	if c.away {
		return zookeeper.Suspended
	}
	return zookeeper.Connected
}

func (c *zooClient) Session() zookeeper.Session {
	c.z.mu.Lock()
	defer c.z.mu.Unlock()
	return c.session
}

func (c *zooClient) Within(s zookeeper.Session) Nodes { return within{c, s} }

type within struct {
	*zooClient
	s zookeeper.Session
}

func (w within) Create(ctx context.Context, p string, data []byte, flags ...zookeeper.Flag) error {
	if w.Session() != w.s {
		return zookeeper.ErrSessionLost
	}
	return w.zooClient.Create(ctx, p, data, flags...)
}

// gateway is one that can be in trouble, with an agent beside it.
type gateway struct {
	z       *zoo
	client  *zooClient
	mu      sync.Mutex
	trouble Trouble
	workers int64
	looks   int
	log     bytes.Buffer
	config  Config
	stop    func()
}

func (g *gateway) become(t Trouble) {
	g.mu.Lock()
	g.trouble = t
	g.mu.Unlock()
}

func (g *gateway) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.Write(p)
}

func (g *gateway) said(what string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Count(g.log.String(), what)
}

func (z *zoo) gateway(t *testing.T, name string, edit ...func(*Config)) *gateway {
	g := &gateway{z: z, client: z.client()}
	g.config = Config{
		Ensemble: g.client, Path: "/gw/" + name, Log: slog.New(slog.NewTextHandler(g, nil)),
		Probe: func(context.Context) (Trouble, string) {
			time.Sleep(3 * time.Millisecond)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.looks++
			return g.trouble, "as the test says"
		},
	}
	for _, e := range edit {
		e(&g.config)
	}
	g.start(t)
	return g
}

func (g *gateway) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, g.config) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// saying waits until the node says something, and gives how long that took.
func (g *gateway) saying(t *testing.T, within time.Duration, want string) time.Duration {
	t.Helper()
	from := time.Now()
	for g.z.data(g.config.Path) != want {
		time.Sleep(100 * time.Millisecond)
		if time.Since(from) > within {
			t.Fatalf("after %v %s says %s, want %s; the log:\n%s", within, g.config.Path, g.z.data(g.config.Path), want, g.log.String())
		}
	}
	return time.Since(from)
}

// stays checks that the node says something, for a time.
func (g *gateway) stays(t *testing.T, d time.Duration, want string) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if got := g.z.data(g.config.Path); got != want {
			t.Fatalf("%s says %s, want %s; the log:\n%s", g.config.Path, got, want, g.log.String())
		}
	}
}

const yes, no = `{"ok": true}`, `{"ok": false}`

func TestTheNodeFollowsTheGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		z.by("/gw/a", `{"ok":true,"zone":"dc1"}`)
		g := z.gateway(t, "a")
		defer g.stop()
		g.stays(t, time.Minute, `{"ok":true,"zone":"dc1"}`)
		for _, trouble := range []Trouble{Dead, Stalled, Blocked, Exhausted, Wrong} {
			g.become(trouble)
			if took := g.saying(t, 10*time.Second, `{"ok": false, "zone": "dc1"}`); took < 2*time.Second {
				t.Errorf("%s: out after %v, by one look", trouble, took)
			}
			g.become(Sound)
			if took := g.saying(t, 10*time.Minute, `{"ok": true, "zone": "dc1"}`); took < 29*time.Second {
				t.Errorf("%s: back after %v", trouble, took)
			}
			time.Sleep(20 * time.Minute)
		}
		if n := z.count("/gw/a"); n != 11 {
			t.Errorf("%d writes", n)
		}
	})
}

func TestANodeIsMadeOnlyIfAskedAndOnlyOfASoundGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		never := z.gateway(t, "never")
		dead := z.gateway(t, "dead", func(c *Config) { c.Create = true })
		dead.become(Dead)
		g := z.gateway(t, "a", func(c *Config) { c.Create = true })
		g.saying(t, 15*time.Second, yes)
		time.Sleep(time.Minute)
		dead.stays(t, time.Second, "none")
		never.stays(t, time.Second, "none")
		dead.become(Sound)
		dead.saying(t, 15*time.Second, yes)

		z.by("/gw/a", nil)
		g.stays(t, 10*time.Minute, "none")
		if g.said("the node is left as it is") != 1 {
			t.Errorf("the log says: %s", g.log.String())
		}
		z.by("/gw/a", yes) // somebody else puts it back
		g.become(Dead)
		g.saying(t, time.Minute, no)
		for _, g := range []*gateway{never, dead, g} {
			g.stop()
		}
	})
}

func TestAnEphemeralNodeGoesWithItsSessionAndComesBackUnderTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		g := z.gateway(t, "a", func(c *Config) { c.Create, c.Ephemeral = true, true })
		defer g.stop()
		g.saying(t, 15*time.Second, yes)
		g.client.expire()
		g.saying(t, 15*time.Second, yes)
		if owner := z.nodes["/gw/a"].Stat.EphemeralOwner; owner != g.client.session.ID {
			t.Errorf("the node is of session %d, the agent's is %d", owner, g.client.session.ID)
		}
		z.by("/gw/a", nil)
		g.stays(t, 10*time.Minute, "none")
	})
}

func TestAPersonsNoStandsAndTheAgentsOwnDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		z.by("/gw/a", yes)
		file := filepath.Join(t.TempDir(), "a.json")
		g := z.gateway(t, "a", func(c *Config) { c.File = file })
		time.Sleep(time.Minute)
		z.by("/gw/a", no)
		g.stays(t, time.Hour, no)
		g.become(Dead)
		time.Sleep(time.Minute)
		g.become(Sound)
		g.stays(t, time.Hour, no)
		if g.said("somebody else set ok to false") == 0 {
			t.Errorf("the log says: %s", g.log.String())
		}
		g.stop()
		g.start(t)
		g.stays(t, time.Hour, no)

		z.by("/gw/a", yes)
		g.become(Dead)
		g.saying(t, time.Minute, no)
		g.stop() // in the middle of it
		g.become(Sound)
		g.start(t)
		g.saying(t, time.Minute, yes)

		// A person who writes no over the agent's own means it.
		g.become(Dead)
		g.saying(t, time.Minute, no)
		z.by("/gw/a", no)
		g.become(Sound)
		g.stays(t, time.Hour, no)
		g.stop()
	})
}

func TestAWriteWithoutAnAnswerIsTheAgentsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		g := z.gateway(t, "a", func(c *Config) { c.Create = true })
		z.lose = 3
		defer g.stop()
		g.saying(t, time.Minute, yes)
		for range 2 {
			g.become(Dead)
			g.saying(t, time.Minute, no)
			g.become(Sound)
			g.saying(t, 2*time.Minute, yes)
		}
		if z.lose != 0 {
			t.Errorf("%d answers were not lost", z.lose)
		}
	})
}

func TestWithoutZooKeeperTheAgentGoesOnAndWritesWhatHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		z.by("/gw/a", yes)
		g := z.gateway(t, "a")
		defer g.stop()
		z.setAway(true)
		time.Sleep(30 * time.Second)
		before := g.looks
		g.become(Stalled)
		time.Sleep(time.Minute)
		if g.looks < before+25 || g.said("no connection to ZooKeeper") != 1 {
			t.Errorf("%d looks; the log says: %s", g.looks-before, g.log.String())
		}
		z.setAway(false)
		g.saying(t, 15*time.Second, no)
		z.setAway(true)
		g.become(Sound)
		time.Sleep(10 * time.Minute)
		z.setAway(false)
		if took := g.saying(t, 15*time.Second, yes); took > 3*time.Second {
			t.Errorf("written %v after ZooKeeper was back", took)
		}
		if g.said("ZooKeeper is back") != 2 {
			t.Errorf("the log says: %s", g.log.String())
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		z.by("/gw/a", yes)
		file := filepath.Join(t.TempDir(), "a.json")
		var g *gateway
		g = z.gateway(t, "a", func(c *Config) {
			c.File, c.Drain = file, time.Minute
			c.Metrics = func(context.Context) (Metrics, error) {
				g.mu.Lock()
				defer g.mu.Unlock()
				return Metrics{Workers: g.workers}, nil
			}
		})
		g.mu.Lock()
		g.workers = 3
		g.mu.Unlock()
		time.Sleep(time.Minute)
		began := time.Now()
		go func() {
			time.Sleep(20 * time.Second)
			if z.data("/gw/a") != no {
				t.Errorf("while it drains the node says %s", z.data("/gw/a"))
			}
			g.mu.Lock()
			g.workers = 0
			g.mu.Unlock()
		}()
		g.stop()
		if took := time.Since(began); took < 20*time.Second || took > 23*time.Second {
			t.Errorf("drained in %v", took)
		}
		g.stays(t, time.Minute, no)

		g.workers = 1
		g.start(t)
		g.saying(t, 20*time.Second, yes)
		began = time.Now()
		g.stop()
		if took := time.Since(began); took < time.Minute || took > 61*time.Second || g.said("the time is over") != 1 {
			t.Errorf("drained in %v: %s", took, g.log.String())
		}
		// A gateway that is dead has no connections, whatever cannot be read of them.
		g.start(t)
		time.Sleep(30 * time.Second)
		g.become(Dead)
		g.saying(t, time.Minute, no)
		began = time.Now()
		g.stop()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("a dead gateway was drained for %v", took)
		}
		// With ZooKeeper away there is nothing to wait for but the time.
		g.become(Sound)
		g.start(t)
		time.Sleep(30 * time.Second)
		z.setAway(true)
		began = time.Now()
		g.stop()
		if took := time.Since(began); took > 61*time.Second {
			t.Errorf("ended %v after the signal", took)
		}
	})
}

func TestSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		z.by("/gw/a", yes)
		g := z.gateway(t, "a")
		defer g.stop()
		time.Sleep(30 * time.Second)
		hand := z.client()
		z.lose = 1
		if said, err := Say(t.Context(), hand, "/gw/a", false, ""); err != nil || said != no {
			t.Fatalf("it says %s, %v", said, err)
		}
		g.stays(t, time.Hour, no)
		if _, err := Say(t.Context(), hand, "/gw/a", true, ""); err != nil {
			t.Fatal(err)
		}
		g.stays(t, time.Hour, yes)
		// What the agent said already becomes the hand's.
		g.become(Dead)
		g.saying(t, time.Minute, no)
		if _, err := Say(t.Context(), hand, "/gw/a", false, ""); err != nil {
			t.Fatal(err)
		}
		g.become(Sound)
		g.stays(t, time.Hour, no)
		if _, err := Say(t.Context(), hand, "/gw/b", false, ""); err == nil {
			t.Error("a node that is missing says no")
		}
	})
}

func TestRestartsAreOneAtATimeAndLeaveTheFleetAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		const n = 6
		var mu sync.Mutex
		running, most := 0, 0
		var began []time.Time
		var gs []*gateway
		for i := range n {
			name := fmt.Sprintf("g%d", i)
			z.by("/gw/"+name, yes)
			var g *gateway
			g = z.gateway(t, name, func(c *Config) {
				c.Restart.Run = func(ctx context.Context) error {
					mu.Lock()
					running++
					most = max(most, running)
					began = append(began, time.Now())
					mu.Unlock()
					time.Sleep(20 * time.Second)
					g.become(Sound)
					mu.Lock()
					running--
					mu.Unlock()
					return nil
				}
			})
			gs = append(gs, g)
		}
		time.Sleep(time.Minute)
		gs[0].become(Stalled)
		gs[1].become(Blocked)
		gs[2].become(Exhausted)
		time.Sleep(30 * time.Minute)
		if len(began) != 3 || most != 1 {
			t.Fatalf("%d restarts, %d at once", len(began), most)
		}
		for i := 1; i < len(began); i++ {
			if d := began[i].Sub(began[i-1]); d < 5*time.Minute {
				t.Errorf("two restarts within %v", d)
			}
		}
		for _, g := range gs {
			if got := z.data(g.config.Path); got != yes {
				t.Errorf("%s says %s in the end", g.config.Path, got)
			}
		}

		// More than half in trouble: it is not the gateways.
		for _, g := range gs[:4] {
			g.become(Blocked)
		}
		time.Sleep(time.Hour)
		if len(began) != 3 || gs[0].said("less than half") == 0 {
			t.Errorf("%d restarts of a cluster that is down", len(began)-3)
		}
		gs[3].become(Dead) // which no restart of the agent's mends
		for _, g := range gs[:3] {
			g.become(Sound)
		}
		time.Sleep(time.Hour)
		if len(began) != 3 {
			t.Errorf("%d restarts of a dead gateway", len(began)-3)
		}
		// One that a person took out is theirs.
		z.by("/gw/g5", no)
		gs[5].become(Stalled)
		time.Sleep(time.Hour)
		if len(began) != 3 {
			t.Errorf("%d restarts of a gateway that a person took out", len(began)-3)
		}
		for _, g := range gs {
			g.stop()
		}
	})
}

func TestARestartThatDoesNotHelpIsTriedEverLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		z.by("/gw/a", yes)
		z.by("/gw/b", yes)
		var tries []time.Time
		g := z.gateway(t, "a", func(c *Config) {
			c.Restart.Run = func(context.Context) error {
				tries = append(tries, time.Now())
				return errors.New("no such service")
			}
		})
		time.Sleep(time.Minute)
		g.become(Stalled)
		time.Sleep(2 * time.Hour)
		g.stop()
		if len(tries) < 4 || len(tries) > 6 {
			t.Errorf("%d restarts in two hours", len(tries))
		}
		for i := 2; i < len(tries); i++ {
			if a, b := tries[i-1].Sub(tries[i-2]), tries[i].Sub(tries[i-1]); b < 2*a-time.Minute {
				t.Errorf("a restart after %v, the next after %v", a, b)
			}
		}
	})
}

func TestASessionThatIsLostLetsNoSecondRestartBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		for _, name := range []string{"a", "b", "c", "d"} {
			z.by("/gw/"+name, yes)
		}
		var mu sync.Mutex
		running, most, runs := 0, 0, 0
		var gs []*gateway
		for _, name := range []string{"a", "b"} {
			var g *gateway
			g = z.gateway(t, name, func(c *Config) {
				c.Restart.Run = func(context.Context) error {
					mu.Lock()
					running++
					runs++
					most = max(most, running)
					mu.Unlock()
					g.client.expire() // the lock is free now
					time.Sleep(100 * time.Second)
					mu.Lock()
					running--
					mu.Unlock()
					return nil
				}
			})
			gs = append(gs, g)
		}
		time.Sleep(time.Minute)
		for _, g := range gs {
			g.become(Stalled)
		}
		time.Sleep(20 * time.Minute)
		for _, g := range gs {
			g.stop()
		}
		mu.Lock()
		defer mu.Unlock()
		if runs < 2 || most != 1 {
			t.Errorf("%d restarts, %d at once", runs, most)
		}
	})
}

func TestTheCanaryIsHeardAndTheGaugesExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo("/gw")
		z.by("/gw/a", yes)
		z.by("/gw/b", yes)
		var mu sync.Mutex
		stuck, workers := false, int64(5)
		a := z.gateway(t, "a", func(c *Config) {
			c.Canary = func(ctx context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				if stuck {
					return errors.New("no answer in 10s")
				}
				return nil
			}
		})
		b := z.gateway(t, "b", func(c *Config) {
			c.Threads = 1000
			c.Metrics = func(context.Context) (Metrics, error) {
				mu.Lock()
				defer mu.Unlock()
				if workers < 0 {
					return Metrics{}, errors.New("nobody listens")
				}
				return Metrics{Workers: workers}, nil
			}
		})
		time.Sleep(time.Minute)
		mu.Lock()
		stuck, workers = true, 1063
		mu.Unlock()
		a.saying(t, 30*time.Second, no)
		b.stays(t, time.Minute, yes) // it answers
		b.become(Stalled)
		b.saying(t, 30*time.Second, no)
		if a.said("blocked: no answer") == 0 || b.said("1063 connections") == 0 {
			t.Errorf("the logs say:\n%s\n%s", a.log.String(), b.log.String())
		}
		mu.Lock()
		stuck, workers = false, -1 // an info port that nobody listens at is no trouble
		mu.Unlock()
		b.become(Sound)
		a.saying(t, 2*time.Minute, yes)
		b.saying(t, 2*time.Minute, yes)
		a.stop()
		b.stop()
	})
}

func TestValidateTellsAllFaults(t *testing.T) {
	c := Config{Path: "thrift_11", Every: -1, Rules: Rules{Down: time.Hour, MaxDown: time.Minute}}
	c.Restart = Restart{Run: func(context.Context) error { return nil }, Every: time.Minute}
	err := c.Validate()
	for _, want := range []string{`"thrift_11"`, "-1ns", "1h0m0s", "restarts every 1m0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell %q", err, want)
		}
	}
	for _, p := range []string{"", "/a", "/a/b/", "/a//b"} {
		if err := (Config{Path: p}).Validate(); err == nil {
			t.Errorf("the path %q is taken", p)
		}
	}
	if err := (Config{Path: "/a/b"}).Validate(); err != nil {
		t.Error(err)
	}
}
