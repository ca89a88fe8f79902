// Package stack starts a whole HBase for tests: ZooKeeper, a master, region servers and Thrift2 gateways, each a process
// of its own that can be killed, stopped and started again, with jars from Maven. Use it where only the real thing proves
// something; everything else runs on the embedded gateway, which is there in milliseconds.
//
// Every stack has free ports and a folder of its own, so that several can run side by side. Its processes end with the
// process that started them, however that ends.
package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/e2e/wire"
)

// ErrNoTools marks that this machine lacks Java or Maven, which a test may take as a reason to skip.
var ErrNoTools = errors.New("no Java or Maven")

// Options says what to start. The zero value is three region servers and three gateways in a temporary folder.
type Options struct {
	RegionServers int // 0 is 3
	Gateways      int // 0 is 3; what follows a start is watched through them, so there is at least one

	// Dir holds data, configuration and logs. It must be empty or missing, and stays after Close. "" is a temporary folder
	// that Close removes.
	Dir string

	Site        map[string]string // properties of master and region servers beside or instead of the stack's own
	GatewaySite map[string]string // the same for the gateways
	Log         io.Writer         // one line for each step; nil is none

	// Heaps in MiB. 0 is what tests need: as little as works.
	RegionServerHeap int
	GatewayHeap      int
}

// startTimeout bounds a whole start, for contexts without a deadline. Two idle cores need half a minute, which they have
// to share with all that a machine does beside the tests.
const startTimeout = 6 * time.Minute

// Stack is a running HBase. Its methods may be called from several goroutines at once; the exported fields do not change.
type Stack struct {
	Dir           string
	ZooKeeper     string // host:port
	ClusterID     string
	Quorum        *Process // ZooKeeper's process
	Master        *Process
	RegionServers []*Process
	Gateways      []*Process // those of Options; AddGateway's are not listed

	java        java
	temporary   bool
	base        map[string]string // of every process
	server      map[string]string // of master and region servers
	gatewaySite map[string]string
	log         io.Writer

	regionServerHeap, gatewayHeap int // MiB

	mu     sync.Mutex
	all    []*Process
	added  int // gateways beyond Options, for their names
	closed bool
}

// Start starts a stack and returns when a call through every gateway reads from a region server and the master takes
// commands. After an error nothing is left running, and the error ends with the log of the process that is to blame.
func Start(ctx context.Context, o Options) (*Stack, error) {
	if o.RegionServers == 0 {
		o.RegionServers = 3
	}
	if o.Gateways == 0 {
		o.Gateways = 3
	}
	if o.RegionServers < 0 || o.Gateways < 0 {
		return nil, fmt.Errorf("start stack: %d region servers and %d gateways: at least one of each is needed", o.RegionServers, o.Gateways)
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	j, err := findJava(ctx, o.Log)
	if err != nil {
		return nil, fmt.Errorf("start stack: %w", err)
	}
	s := &Stack{java: j, log: o.Log}
	if err := s.makeDir(o.Dir); err != nil {
		return nil, fmt.Errorf("start stack: %w", err)
	}
	if err := s.start(ctx, o); err != nil {
		err = fmt.Errorf("start stack: %w", err)
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stack) makeDir(dir string) error {
	if dir == "" {
		d, err := os.MkdirTemp("", "drover-stack-")
		if err != nil {
			return fmt.Errorf("make a folder: %w", err)
		}
		s.Dir, s.temporary = d, true
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("folder %s is not empty: name another, a stack never starts on an old one's data", dir)
	}
	s.Dir = dir
	return nil
}

func (s *Stack) start(ctx context.Context, o Options) error {
	began := time.Now()
	ports, err := freePorts(2 + o.RegionServers + 2*o.Gateways)
	if err != nil {
		return err
	}
	next := func() int {
		p := ports[0]
		ports = ports[1:]
		return p
	}
	zk := next()
	s.ZooKeeper = address(zk)
	s.base = baseSite(s.Dir, zk)
	s.server = merge(serverSite(o.RegionServers), o.Site)
	s.gatewaySite = merge(gatewaySite(), o.GatewaySite)
	s.regionServerHeap, s.gatewayHeap = cmp.Or(o.RegionServerHeap, regionServerHeap), cmp.Or(o.GatewayHeap, gatewayHeap)

	if s.Quorum, err = s.zookeeper(zk); err != nil {
		return err
	}
	if s.Master, err = s.master(next()); err != nil {
		return err
	}
	for i := range o.RegionServers {
		p, err := s.regionServer(i, next())
		if err != nil {
			return err
		}
		s.RegionServers = append(s.RegionServers, p)
	}
	for i := range o.Gateways {
		p, err := s.gateway(fmt.Sprintf("gateway%d", i), next(), next(), nil, nil)
		if err != nil {
			return err
		}
		s.Gateways = append(s.Gateways, p)
	}
	// ZooKeeper comes first: servers that do not find it wait in steps of seconds. All others start at once.
	if err := s.Quorum.Restart(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range s.all[1:] {
		g.Go(func() error { return p.Restart(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.ClusterID, err = clusterID(ctx, s.Gateways[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(s.log, "stack is up after %.1f s in %s\n", time.Since(began).Seconds(), s.Dir)
	return nil
}

// Addrs lists the addresses of Gateways.
func (s *Stack) Addrs() []string {
	addrs := make([]string, len(s.Gateways))
	for i, g := range s.Gateways {
		addrs[i] = g.Addr
	}
	return addrs
}

// AddGateway starts one more gateway, with arguments of HBase's ThriftServer ("-f" framed, "-c" compact,
// "-threadedselector", "-w 50") and properties of its own. It lives until its Kill or the stack's Close.
func (s *Stack) AddGateway(ctx context.Context, site map[string]string, args ...string) (*Process, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, fmt.Errorf("add a gateway: %w", err)
	}
	s.mu.Lock()
	name := fmt.Sprintf("gateway-extra%d", s.added)
	s.added++
	s.mu.Unlock()
	p, err := s.gateway(name, ports[0], ports[1], site, args)
	if err != nil {
		return nil, fmt.Errorf("add a gateway: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.Restart(ctx); err != nil {
		return nil, fmt.Errorf("add a gateway: %w", errors.Join(err, p.Kill()))
	}
	return p, nil
}

// Close kills every process, waits for their ends and removes a temporary folder. Calling it again does nothing.
func (s *Stack) Close() error {
	s.mu.Lock()
	all := s.all
	done := s.closed
	s.closed = true
	s.mu.Unlock()
	if done {
		return nil
	}
	var errs []error
	for _, p := range all {
		errs = append(errs, p.close())
	}
	if s.temporary {
		errs = append(errs, os.RemoveAll(s.Dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close stack: %w", err)
	}
	return nil
}

// protocol tells how a gateway with these arguments and properties is spoken to.
func protocol(site map[string]string, args []string) wire.Protocol {
	p := wire.Protocol{HTTP: site["hbase.regionserver.thrift.http"] == "true"}
	for _, a := range args {
		switch a {
		case "-f", "-framed", "-hsha", "-nonblocking", "-threadedselector":
			p.Framed = true
		case "-c", "-compact":
			p.Compact = true
		}
	}
	return p
}
