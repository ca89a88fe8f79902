package discovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"drover/zookeeper"
)

// Ensemble is what ZooKeeper needs of a session, as *zookeeper.Client has it.
type Ensemble interface {
	// WatchNode calls f with what stands at the path, soon and after each change, never twice at once, and not after stop
	// returned or ctx ended. What f is given is not to be changed.
	WatchNode(ctx context.Context, path string, f func(zookeeper.Node)) (stop func())
	WatchChildren(ctx context.Context, path string, f func(zookeeper.Listing)) (stop func()) // the same for the children
	State() zookeeper.State
}

// Rule says how the address of a gateway follows from the name of its node. The zero value is no rule.
type Rule struct {
	// Template has {name} for the node's name, {number} for the number at its end without leading zeros, and {digits} for the
	// number as it stands: "{name}.example.org:9090", "10.0.0.{number}:9090".
	Template string
	Map      map[string]string // from names to host:port; goes before Template
}

// apply gives "" where the rule says nothing of a name.
func (r Rule) apply(name string) (string, error) {
	if a, ok := r.Map[name]; ok {
		return ParseAddr(a)
	}
	if r.Template == "" {
		return "", nil
	}
	digits := name[len(strings.TrimRight(name, "0123456789")):]
	if digits == "" && (strings.Contains(r.Template, "{number}") || strings.Contains(r.Template, "{digits}")) {
		return "", fmt.Errorf("its name has no number at its end, which the address rule %q needs", r.Template)
	}
	number := strings.TrimLeft(digits, "0")
	if number == "" {
		number = "0"
	}
	a, err := ParseAddr(strings.NewReplacer("{name}", name, "{number}", number, "{digits}", digits).Replace(r.Template))
	if err != nil {
		return "", fmt.Errorf("the address rule %q: %w", r.Template, err)
	}
	return a, nil
}

// ZooKeeper takes the children of a path as gateways. Each has data: a JSON object with "ok" and perhaps "addr", or "host" and
// "port", "zone" and "reason"; or host:port. The address is what Rule makes of the child's name, else what the data says, else
// the name itself. A child that is not ok, or cannot be read, or is gone, leaves the set. That a child says that it is ok proves
// nothing: the pool finds out.
type ZooKeeper struct {
	Ensemble Ensemble // not closed by Run
	Path     string   // /buzzthrift
	Rule     Rule
}

// zkPatience is how long an ensemble may be silent before that is shown as a problem: a reconnection takes less.
const zkPatience = 3 * time.Second

// Run implements Provider. A permission that is missing when the path and its children are read first is an error; one that is
// taken away later is a problem, and what it hides leaves the set.
func (z ZooKeeper) Run(ctx context.Context, update func(View)) error {
	c := &children{path: z.Path, nodes: map[string]*child{}, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	defer c.stopAll()
	defer cancel()
	stop := z.Ensemble.WatchChildren(ctx, z.Path, func(l zookeeper.Listing) { c.list(ctx, z.Ensemble, l) })
	defer stop()
	t := teller{update: update}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	heard := time.Now() // when it was last connected, or before anything was listed when it began
	for {
		v, err := c.view(z.Rule, t.last)
		if err != nil {
			return err
		}
		now := time.Now()
		connected := z.Ensemble.State() == zookeeper.Connected
		if connected && v.Known {
			heard = now
		}
		if now.Sub(heard) >= zkPatience {
			switch {
			case !connected:
				v.Problem = "no connection to ZooKeeper"
			case v.Problem == "":
				v.Problem = "ZooKeeper has not answered yet about " + z.Path
			}
		}
		t.tell(v)
		select {
		case <-c.changed:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// children is what is known of a path and of each of its children. Its methods may be called from several goroutines.
type children struct {
	path    string
	changed chan struct{} // holds one

	mu      sync.Mutex
	over    bool
	listed  bool // the path was listed once, and what follows is of the last time
	listing zookeeper.Listing
	nodes   map[string]*child
}

type child struct {
	stop func()
	read bool
	node zookeeper.Node
}

// list takes a listing: children that are new get a watch, those gone lose theirs.
func (c *children) list(ctx context.Context, e Ensemble, l zookeeper.Listing) {
	var gone []func()
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	if l.Err == nil && l.Exists {
		for name, n := range c.nodes {
			if !slices.Contains(l.Children, name) {
				delete(c.nodes, name)
				gone = append(gone, n.stop)
			}
		}
	}
	c.listed, c.listing = true, l
	var fresh []string
	if l.Err == nil {
		for _, name := range l.Children {
			if c.nodes[name] == nil {
				c.nodes[name] = &child{stop: func() {}}
				fresh = append(fresh, name)
			}
		}
	}
	c.mu.Unlock()
	// Outside the mutex: a stop waits for a call under way, which may want it.
	for _, stop := range gone {
		stop()
	}
	for _, name := range fresh {
		stop := e.WatchNode(ctx, strings.TrimSuffix(c.path, "/")+"/"+name, func(n zookeeper.Node) { c.node(name, n) })
		c.mu.Lock()
		ch := c.nodes[name]
		if ch != nil && !c.over {
			ch.stop = stop
			stop = nil
		}
		c.mu.Unlock()
		if stop != nil {
			stop()
		}
	}
	c.poke()
}

func (c *children) node(name string, n zookeeper.Node) {
	c.mu.Lock()
	if ch := c.nodes[name]; ch != nil {
		ch.read, ch.node = true, n
	}
	c.mu.Unlock()
	c.poke()
}

func (c *children) poke() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *children) stopAll() {
	c.mu.Lock()
	c.over = true
	nodes := slices.Collect(maps.Values(c.nodes))
	c.mu.Unlock()
	for _, n := range nodes {
		n.stop()
	}
}

// view makes a view of what is known; last is the one before it. It is not Known until every child was read once, so that a
// start never looks like a small fleet.
func (c *children) view(rule Rule, last View) (View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	problem := func(text string) (View, error) {
		last.Problem = text
		return last, nil
	}
	last.Problem = ""
	if !c.listed {
		return last, nil
	}
	if err := c.listing.Err; err != nil {
		text := fmt.Sprintf("list the children of %s in ZooKeeper: %v", c.path, err)
		if errors.Is(err, zookeeper.ErrNoAuth) {
			text = noPermission(c.path)
			if !last.Known {
				return View{}, errors.New(text)
			}
		}
		return problem(text)
	}
	if !c.listing.Exists {
		return problem(fmt.Sprintf("ZooKeeper has no node %s: create it, or correct gateways.zookeeper.path", c.path))
	}
	v := View{Known: true}
	for _, name := range c.listing.Children {
		ch := c.nodes[name]
		if ch == nil || !ch.read {
			if !last.Known {
				return last, nil
			}
			continue // it joins when it is read
		}
		if errors.Is(ch.node.Err, zookeeper.ErrNoAuth) && !last.Known {
			return View{}, errors.New(noPermission(strings.TrimSuffix(c.path, "/") + "/" + name))
		}
		v.Gateways = append(v.Gateways, ch.gateway(name, rule))
	}
	slices.SortStableFunc(v.Gateways, func(a, b Gateway) int { return natural(a.Name, b.Name) })
	v.Gateways = unique(v.Gateways)
	return v, nil
}

func noPermission(path string) string {
	return fmt.Sprintf("ZooKeeper refuses to read %s: the permission READ is missing for this session; "+
		"give it by the node's ACL, or set gateways.zookeeper.auth", path)
}

// gateway is what a child says of its gateway.
func (ch *child) gateway(name string, rule Rule) Gateway {
	g := Gateway{Name: name}
	switch {
	case errors.Is(ch.node.Err, zookeeper.ErrNoAuth):
		g.Out = "the permission READ is missing"
	case ch.node.Err != nil:
		g.Out = "cannot be read: " + ch.node.Err.Error()
	case !ch.node.Exists:
		g.Out = "is gone"
	}
	if g.Out != "" {
		g.Addr, _ = rule.apply(name)
		return g
	}
	e, dataErr := parseData(ch.node.Data)
	g.Zone = e.Zone
	addr, err := rule.apply(name)
	if err == nil && addr == "" && dataErr == nil {
		addr, err = e.addr()
	}
	if err == nil && addr == "" {
		if addr, err = ParseAddr(name); err != nil {
			err = errors.New("neither its data nor its name is an address: give gateways.zookeeper.address a rule")
		}
	}
	g.Addr = addr
	switch {
	case dataErr != nil:
		g.Out = dataErr.Error()
	case e.out() != "":
		g.Out = e.out()
	case err != nil:
		g.Out = err.Error()
	}
	return g
}

// natural orders thrift_2 before thrift_11.
func natural(a, b string) int {
	split := func(s string) (string, int) {
		stem := strings.TrimRight(s, "0123456789")
		n, err := strconv.Atoi(s[len(stem):])
		if err != nil {
			return s, -1
		}
		return stem, n
	}
	as, an := split(a)
	bs, bn := split(b)
	if as != bs {
		return strings.Compare(as, bs)
	}
	if an != bn {
		return an - bn
	}
	return strings.Compare(a, b)
}
