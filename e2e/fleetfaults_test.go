package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drover/e2e/check"
	"drover/e2e/proxy"
	"drover/e2e/stack"
	"drover/e2e/wire"
	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
)

// Real HBase behind three gateways of a bounded rate each, a job at full speed, and every way in which one gateway, or all of
// them, may stop being of use. What each gateway acknowledged is counted by the proxy before it, ten times a second.
//
// DROVER_RECORD names a folder that takes the counts, from which e2e/shares draws docs/gateways-faults.svg.

// gatewayRate is what one gateway takes, in rows a second. Calls are as large as take a third of a second.
func gatewayRate() int { return scaled(3000, 1500) }

// siege is a run against proxied gateways that are harmed while it goes on.
type siege struct {
	t       *testing.T
	stack   *stack.Stack
	proxies []*proxy.Proxy
	job     spec
	yaml    string
	table   string
	file    string
	docs    int64
	mapping check.Mapping
	began   time.Time
	faults  []mishap

	process *process
	ended   chan result
	stderr  strings.Builder // of the processes that ended
	stop    func()          // ends the recording

	mu      sync.Mutex
	samples []sample // what the proxies had counted since they started
	servers []int64  // acknowledged rows by region server; set by countServers
}

// sample is what the gateways had acknowledged at one moment.
type sample struct {
	at      time.Duration
	rows    []int64 // by gateway
	calls   []int64 // of any kind, connections refused included
	puts    int64   // of all gateways, tries on refused connections included
	acks    int64
	servers []int64 // rows by region server
}

// mishap is a fault that took place.
type mishap struct {
	name     string
	gateway  int // -1 when it is not one gateway's
	from, to time.Duration
}

type siegeOptions struct {
	profile  dumpgen.Profile
	seconds  int    // of documents, at full speed
	rate     int    // of each gateway
	rest     string // of the job file
	ofServer bool   // count rows by region server

	connections int // to each gateway; 0 is drover's own
}

// sample interval, and how long a share is averaged to tell whether a gateway takes part.
const (
	sampled  = 100 * time.Millisecond
	averaged = 2 * time.Second
)

func newSiege(t *testing.T, o siegeOptions) *siege {
	t.Helper()
	s := &siege{t: t, stack: stack.Shared(t), began: time.Now()}
	s.docs = int64(o.seconds) * int64(o.rate) * int64(len(s.stack.Gateways))
	s.file = dump(t, dumpgen.Options{Profile: o.profile, Docs: s.docs, Seed: seed(t).Uint64(), ID: dumpgen.String}) // in no order: rows of all regions at any time
	s.table = newTable(t, s.stack)
	addrs := make([]string, len(s.stack.Gateways))
	for i, g := range s.stack.Gateways {
		p, err := proxy.Start(g.Addr)
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		p.ThrottleRows(o.rate)
		s.proxies = append(s.proxies, p)
		addrs[i] = p.Addr()
	}
	connections := ""
	if o.connections > 0 {
		connections = fmt.Sprintf(", connections: %d", o.connections)
	}
	s.job = spec{
		name: s.table, source: s.file, gateways: `["` + strings.Join(addrs, `", "`) + `"]` + connections, limit: "10m", rest: o.rest,
		target: fmt.Sprintf("{table: %s, create: true, regions: 6, families: {d: {versions: 5}}}", s.table),
	}
	if o.profile == dumpgen.Flat5 {
		// One cell a row: many rows are wanted, not much work for HBase.
		s.job.mapping = `{key: _id, family: d, columns: [{from: n, to: "d:n"}]}`
		s.mapping.Columns = []check.Column{{From: "n", To: "d:n"}}
	}
	s.yaml = s.job.file(t)
	s.launch()
	if o.ofServer {
		s.countServers()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(sampled)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.sample()
			case <-ctx.Done():
				return
			}
		}
	})
	s.stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(s.stop)
	return s
}

// launch starts the run, or goes on with it, and waits until rows arrive.
func (s *siege) launch() {
	s.t.Helper()
	had := s.rows()
	p := start(s.t, "run", s.yaml, "--json")
	ended := make(chan result, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- p.wait() })
	s.process, s.ended = p, ended
	s.t.Cleanup(func() {
		p.cmd.Process.Kill() // fails when it has ended
		wg.Wait()
	})
	deadline := time.Now().Add(time.Minute)
	for s.rows() == had {
		s.pass(sampled)
		if time.Now().After(deadline) {
			s.t.Fatal("no row arrives")
		}
	}
}

// rows is how many were acknowledged in all.
func (s *siege) rows() (n int64) {
	for _, p := range s.proxies {
		n += p.Counts().Rows
	}
	return n
}

func (s *siege) now() time.Duration { return time.Since(s.began) }

// pass lets time pass under a run that must not end meanwhile.
func (s *siege) pass(d time.Duration) {
	s.t.Helper()
	select {
	case <-time.After(d):
	case r := <-s.ended:
		s.t.Fatalf("the run ended with %d while it was looked at:\n%s", r.code, r.stderr)
	}
}

func (s *siege) sample() {
	x := sample{at: s.now()}
	for _, p := range s.proxies {
		c := p.Counts()
		x.rows = append(x.rows, c.Rows)
		x.calls = append(x.calls, c.Calls+c.Refused)
		x.puts += c.Puts + c.Refused
		x.acks += c.Acknowledged
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x.servers = slices.Clone(s.servers)
	s.samples = append(s.samples, x)
}

// between gives what was counted in a span of time.
func (s *siege) between(from, to time.Duration) (d sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Nothing outside of the span counts: the end of a fault often lets what was held arrive at once.
	after := func(x sample, t time.Duration) int { return cmp.Compare(x.at, t) }
	i, _ := slices.BinarySearchFunc(s.samples, from, after)
	j, found := slices.BinarySearchFunc(s.samples, to, after)
	if !found {
		j--
	}
	j = max(j, 0)
	a, b := s.samples[min(i, j)], s.samples[j]
	d = sample{at: b.at - a.at, puts: b.puts - a.puts, acks: b.acks - a.acks}
	for i := range b.rows {
		d.rows = append(d.rows, b.rows[i]-a.rows[i])
		d.calls = append(d.calls, b.calls[i]-a.calls[i])
	}
	for i := range b.servers {
		d.servers = append(d.servers, b.servers[i]-a.servers[i])
	}
	return d
}

func (d sample) sum() (n int64) {
	for _, r := range d.rows {
		n += r
	}
	return n
}

// rate is in rows a second.
func (d sample) rate() float64 { return float64(d.sum()) / math.Max(d.at.Seconds(), 0.001) }

// share is the part of all rows that one gateway acknowledged.
func (d sample) share(gateway int) float64 {
	return float64(d.rows[gateway]) / float64(max(d.sum(), 1))
}

// countServers counts rows by the region server that had their region at the beginning.
func (s *siege) countServers() {
	var locations []*thrift2.THRegionLocation
	must(s.t, gatewayCall(s.stack, func(ctx context.Context, c *thrift2.THBaseServiceClient) (err error) {
		locations, err = c.GetAllRegionLocations(ctx, []byte(s.table))
		return err
	}))
	s.servers = make([]int64, len(s.stack.RegionServers))
	server := func(key []byte) int {
		for _, l := range locations {
			r := l.RegionInfo
			if bytes.Compare(key, r.StartKey) >= 0 && (len(r.EndKey) == 0 || bytes.Compare(key, r.EndKey) < 0) {
				port := strconv.Itoa(int(l.ServerName.GetPort()))
				return slices.IndexFunc(s.stack.RegionServers, func(p *stack.Process) bool { return strings.HasSuffix(p.Addr, ":"+port) })
			}
		}
		return -1
	}
	for _, p := range s.proxies {
		// drover sends rows of one region server in a call; where it did not, a stopped one would hold the rows of others.
		p.OnAcknowledged(func(c proxy.Call) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if i := server(c.Key); i >= 0 {
				s.servers[i] += int64(c.Rows)
			}
		})
	}
}

// resources is what the process holds.
type resources struct {
	rss     int64
	threads int
	sockets map[string]int // to gateways, by their TCP state
}

func (r resources) String() string {
	return fmt.Sprintf("%d MB, %d threads, sockets %v", r.rss>>20, r.threads, r.sockets)
}

func (r resources) open() (n int) {
	for _, k := range r.sockets {
		n += k
	}
	return n
}

var tcpStates = map[string]string{"01": "ESTABLISHED", "02": "SYN_SENT", "04": "FIN_WAIT1", "05": "FIN_WAIT2", "06": "TIME_WAIT", "07": "CLOSE", "08": "CLOSE_WAIT", "09": "LAST_ACK", "0B": "CLOSING"}

// resources reads what the run's process holds now.
func (s *siege) resources() (r resources) {
	s.t.Helper()
	dir := fmt.Sprintf("/proc/%d", s.process.cmd.Process.Pid)
	if b, err := os.ReadFile(dir + "/statm"); err == nil {
		if f := bytes.Fields(b); len(f) > 1 {
			pages, _ := strconv.ParseInt(string(f[1]), 10, 64)
			r.rss = pages * int64(os.Getpagesize())
		}
	}
	threads, err := os.ReadDir(dir + "/task")
	must(s.t, err)
	r.threads = len(threads)
	// A connection that its process has closed belongs to no file any more, and is the kernel's to end.
	mine := map[string]bool{}
	fds, err := os.ReadDir(dir + "/fd")
	must(s.t, err)
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				mine[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	r.sockets = map[string]int{}
	table, err := os.ReadFile(dir + "/net/tcp")
	must(s.t, err)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && mine[f[9]] {
			state := f[3]
			if name, ok := tcpStates[state]; ok {
				state = name
			}
			r.sockets[state]++
		}
	}
	return r
}

var goroutine = regexp.MustCompile(`(?m)^goroutine \d+ .*\[`)

// quit ends the process with a signal at which Go lists every goroutine, and gives their number. The run goes on with launch.
func (s *siege) quit() int {
	s.t.Helper()
	s.process.signal(syscall.SIGQUIT)
	r := <-s.ended
	s.stderr.WriteString(r.stderr)
	n := len(goroutine.FindAllString(r.stderr, -1))
	if n == 0 {
		s.t.Fatalf("the process listed no goroutines at SIGQUIT: exit %d, %v\n%s", r.code, r.signal, r.stderr)
	}
	return n
}

// finish lets the rest pass at any rate, and compares the table with the file.
func (s *siege) finish() {
	s.t.Helper()
	if s.process.cmd.ProcessState == nil {
		s.process.signal(syscall.SIGTERM)
		r := <-s.ended
		s.stderr.WriteString(r.stderr)
		if r.code != 143 {
			s.t.Errorf("a drained run ended with %d:\n%s", r.code, r.stderr)
		}
	}
	for _, p := range s.proxies {
		p.ThrottleRows(0)
	}
	end := drover(s.t, "run", s.job.quick(s.t), "--json")
	b := end.ends(s.t, 0)
	s.stderr.WriteString(end.stderr)
	if b.Dead != 0 || b.Written != s.docs {
		s.t.Errorf("the books say %+v, want %d written and none dead", b, s.docs)
	}
	s.mapping.Timestamp = b.Timestamp
	realEqual(s.t, s.stack, s.table, s.file, s.mapping)
	s.save()
}

// save writes the recording where it is wanted.
func (s *siege) save() {
	s.stop()
	dir := os.Getenv("DROVER_RECORD")
	if dir == "" {
		return
	}
	var b bytes.Buffer
	for _, m := range s.faults {
		fmt.Fprintf(&b, "fault,%.1f,%.1f,%d,%s\n", m.from.Seconds(), m.to.Seconds(), m.gateway, m.name)
	}
	for i, x := range s.samples[1:] {
		fmt.Fprintf(&b, "%.1f", x.at.Seconds())
		for g, n := range x.rows {
			fmt.Fprintf(&b, ",%d", n-s.samples[i].rows[g])
		}
		b.WriteByte('\n')
	}
	must(s.t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(s.t.Name(), "/", "-")+".csv"), b.Bytes(), 0o644))
}

var ejection = regexp.MustCompile(`(?m)^.*?(\d\d:\d\d:\d\d) WRN gateway set aside.* gateway=(\S+).*$`)

// ejections sorts what drover said of gateways that it set aside into those of gateways that had a fault about then, and others.
func (s *siege) ejections() (right int, wrong []string) {
	for _, m := range ejection.FindAllStringSubmatch(s.stderr.String(), -1) {
		clock, err := time.ParseInLocation(time.DateTime, s.began.Format(time.DateOnly)+" "+m[1], time.Local)
		must(s.t, err)
		at := clock.Sub(s.began)
		if at < -time.Hour {
			at += 24 * time.Hour // midnight has passed
		}
		gateway := slices.IndexFunc(s.proxies, func(p *proxy.Proxy) bool { return p.Addr() == m[2] })
		// The clock shows whole seconds, and a gateway that has just come back is cold.
		if slices.ContainsFunc(s.faults, func(f mishap) bool {
			return f.gateway == gateway && at >= f.from-2*time.Second && at <= f.to+20*time.Second
		}) {
			right++
		} else {
			wrong = append(wrong, strings.TrimSpace(m[0]))
		}
	}
	return right, wrong
}

// strike is something that happens to one gateway, or to HBase behind all of them.
type strike struct {
	name       string
	within     time.Duration // until the gateway's share is below 1 %; 0 when it may keep its share
	cluster    bool          // it is no gateway's fault
	lasts      time.Duration
	begin, end func(s *siege, gateway int) error
	happened   func(before, after proxy.Counts) bool // nil: the strike's own error tells
}

func onProxy(do func(*proxy.Proxy)) func(*siege, int) error {
	return func(s *siege, gateway int) error {
		do(s.proxies[gateway])
		return nil
	}
}

// The deadlines for a gateway that is dead, that hangs, and that is slow.
const (
	ofDead = 1 * time.Second
	ofHung = 5 * time.Second
	ofSlow = 10 * time.Second
)

func killed(lasts time.Duration) strike {
	return strike{
		name: "killed", within: ofDead, lasts: lasts,
		begin: func(s *siege, g int) error { return s.stack.Gateways[g].Kill() },
		end:   func(s *siege, g int) error { return s.stack.Gateways[g].Restart(context.Background()) },
	}
}

func stopped(lasts time.Duration) strike {
	return strike{
		name: fmt.Sprintf("stopped %.0f s", lasts.Seconds()), within: ofHung, lasts: lasts,
		begin: func(s *siege, g int) error { return s.stack.Gateways[g].Stop() },
		end:   func(s *siege, g int) error { return s.stack.Gateways[g].Cont() },
	}
}

func slowed(lasts time.Duration) strike {
	return strike{
		name: "2 s slower", within: ofSlow, lasts: lasts,
		begin: onProxy(func(p *proxy.Proxy) { p.Delay(time.Second) }), // each way
		end:   onProxy(func(p *proxy.Proxy) { p.Delay(0) }),
	}
}

func garbled(lasts time.Duration) strike {
	return strike{
		name: "answers garbage", within: ofDead, lasts: lasts,
		begin:    onProxy(func(p *proxy.Proxy) { p.Garble(true) }),
		end:      onProxy(func(p *proxy.Proxy) { p.Garble(false) }),
		happened: func(a, b proxy.Counts) bool { return b.Garbled > a.Garbled },
	}
}

func resetting(lasts time.Duration) strike {
	return strike{
		name: "resets", within: ofDead, lasts: lasts,
		begin: onProxy(func(p *proxy.Proxy) {
			p.Refuse(true)
			p.Reset()
		}),
		end:      onProxy(func(p *proxy.Proxy) { p.Refuse(false) }),
		happened: func(a, b proxy.Counts) bool { return b.Resets > a.Resets && b.Refused > a.Refused },
	}
}

func truncating(lasts time.Duration) strike {
	return strike{
		name: "truncates", within: ofDead, lasts: lasts,
		begin:    onProxy(func(p *proxy.Proxy) { p.Truncate(9) }), // within the head of any answer
		end:      onProxy(func(p *proxy.Proxy) { p.Truncate(0) }),
		happened: func(a, b proxy.Counts) bool { return b.Truncated > a.Truncated },
	}
}

func halfOpen(lasts time.Duration) strike {
	return strike{
		name: "half-open", within: ofHung, lasts: lasts,
		begin: onProxy((*proxy.Proxy).Hold),
		end: onProxy(func(p *proxy.Proxy) {
			p.Reset() // what was held is lost, as with a peer that had gone
			p.Release()
		}),
	}
}

// writesHeld is a gateway that answers everything but puts, as one whose threads for writes wait for a stalled log.
func writesHeld(lasts time.Duration) strike {
	return strike{
		name: "takes no writes", within: ofHung, lasts: lasts,
		begin:    onProxy(func(p *proxy.Proxy) { p.HoldCalls("putMultiple") }),
		end:      onProxy(func(p *proxy.Proxy) { p.HoldCalls("") }),
		happened: func(a, b proxy.Counts) bool { return b.HeldCalls > a.HeldCalls },
	}
}

// replaced has another server answer at the gateway's address.
func replaced(name string, lasts time.Duration, by func(s *siege) (addr string, err error)) strike {
	return strike{
		name: name, within: ofDead, lasts: lasts,
		begin: func(s *siege, g int) error {
			addr, err := by(s)
			if err == nil {
				s.proxies[g].Retarget(addr)
				s.proxies[g].Reset()
			}
			return err
		},
		end: func(s *siege, g int) error {
			s.proxies[g].Retarget(s.stack.Gateways[g].Addr)
			s.proxies[g].Reset()
			return nil
		},
		happened: func(a, b proxy.Counts) bool { return b.Connections > a.Connections },
	}
}

func thrift1(s *siege) (string, error) {
	p, err := s.stack.AddThrift1(context.Background())
	if err != nil {
		return "", err
	}
	s.t.Cleanup(func() { must(s.t, p.Kill()) })
	return p.Addr, nil
}

func webServer(s *siege) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	s.t.Cleanup(func() {
		server.Close()
		wg.Wait()
	})
	return l.Addr().String(), nil
}

// crowded has others open more connections to a gateway than it has threads. It goes on with those that it has.
func crowded(lasts time.Duration) strike {
	const many = 1100
	var conns []net.Conn
	return strike{
		name: "1,100 foreign connections", lasts: lasts,
		begin: func(s *siege, g int) error {
			for range many {
				c, err := net.DialTimeout("tcp", s.stack.Gateways[g].Addr, 5*time.Second)
				if err != nil {
					return fmt.Errorf("after %d connections: %w", len(conns), err)
				}
				conns = append(conns, c)
			}
			return nil
		},
		end: func(*siege, int) error {
			var errs []error
			for _, c := range conns {
				errs = append(errs, c.Close())
			}
			conns = nil
			return errors.Join(errs...)
		},
	}
}

// serverStopped has a region server stand still until the master gives it up. It does not go on from there: on HDFS its log is taken
// from it before others read that, and it could acknowledge nothing more. A local file system fences nobody: a server that went on
// would acknowledge, for half a second until it hears that it is dead, rows into a log that has been read already, and HBase would
// have lost them.
func serverStopped(server int, lasts time.Duration) strike {
	return strike{
		name: "region server stopped", cluster: true, lasts: lasts,
		begin: func(s *siege, _ int) error { return s.stack.RegionServers[server].Stop() },
		end:   func(s *siege, _ int) error { return s.stack.RegionServers[server].Restart(context.Background()) }, // kills it
	}
}

// suffer strikes one gateway, ends it, waits until the gateway takes part again, and judges what was seen.
func (s *siege) suffer(f strike, gateway int) {
	s.t.Helper()
	t := s.t
	before := s.proxies[gateway].Counts()
	must(t, f.begin(s, gateway))
	from := s.now()
	s.pass(f.lasts)
	to := s.now()
	m := mishap{f.name, gateway, from, to}
	if f.cluster {
		m.gateway = -1
	}
	must(t, f.end(s, gateway))
	after := s.proxies[gateway].Counts()
	if f.happened != nil && !f.happened(before, after) {
		t.Errorf("%s: the fault did not happen: %+v, then %+v", f.name, before, after)
	}
	m.to = s.now() // a restart takes its time
	s.faults = append(s.faults, m)

	// A slow start spreads over 30 s, but begins at once.
	const back = time.Minute
	for s.between(s.now()-averaged, s.now()).share(gateway) < 0.15 || s.now()-m.to < averaged {
		if s.now()-m.to > back {
			t.Errorf("%s: %s later the gateway has no share of a sixth", f.name, back)
			break
		}
		s.pass(sampled)
	}
	took := s.now() - m.to

	d := s.between(from, to)
	good := len(s.proxies)
	if !f.cluster {
		good--
	}
	want := 0.9 * float64(gatewayRate()*good)
	share := 0.0
	if f.within > 0 && f.lasts > f.within {
		if share = s.between(from+f.within, to).share(gateway); share >= 0.01 {
			t.Errorf("%s: from %s after the strike on the gateway had %.1f %% of the rows", f.name, f.within, 100*share)
		}
	}
	if !f.cluster && d.rate() < want && proving() {
		t.Errorf("%s: %.0f rows/s meanwhile, want at least %.0f", f.name, d.rate(), want)
	}
	r := s.resources()
	t.Logf("%-26s %4.1f s: %5.0f rows/s meanwhile, %.2f of what the others take; its share afterwards %.2f %%; back %.1f s after the end; %v",
		f.name, (to - from).Seconds(), d.rate(), d.rate()/want*0.9, 100*share, took.Seconds(), r)
	for deadline := time.Now().Add(5 * time.Second); r.sockets["CLOSE_WAIT"] > 0; r = s.resources() {
		if time.Now().After(deadline) {
			t.Errorf("%s: the process has not closed what others closed: %v", f.name, r)
			break
		}
		s.pass(sampled)
	}
}

// besiege lets a run suffer faults one after the other, on one gateway after the other.
func besiege(t *testing.T, clean time.Duration, connections int, faults []strike, more ...func(*siege)) {
	t.Helper()
	// Of documents: what is left at the end takes time too.
	seconds := int(clean.Seconds()) + 8 + 20*len(more)
	calmAgain := 3 * time.Second
	for _, f := range faults {
		seconds += int(f.lasts.Seconds()) + scaled(15, 4)
		if f.cluster { // rows that a server could not take wait for their turn in small batches, until it has taken more again for a while
			calmAgain = 35 * time.Second
		}
	}
	seconds += int(calmAgain.Seconds())
	s := newSiege(t, siegeOptions{
		profile: dumpgen.Flat5, seconds: seconds, rate: gatewayRate(), connections: connections,
		rest: fmt.Sprintf("limits: {rows: %d}", gatewayRate()*10/3), // makes calls as large; no bound
	})
	s.pass(clean)
	calm := s.between(s.now()-clean, s.now())
	base := s.resources()
	goroutines := s.quit()
	t.Logf("without a fault %.0f rows/s in %.0f s, of %d gateways with %d each; %v, %d goroutines", calm.rate(), calm.at.Seconds(), len(s.proxies), gatewayRate(), base, goroutines)
	s.launch()
	s.pass(3 * time.Second)
	for i, f := range faults {
		s.suffer(f, i%len(s.proxies))
	}
	s.pass(calmAgain)
	after := s.resources()
	n := s.quit()
	t.Logf("after %d faults %v, %d goroutines", len(faults), after, n)
	// As many calls are in flight, give or take a few: each takes a goroutine or two, and a connection at most.
	if n > goroutines+16 {
		t.Errorf("%d goroutines after the faults, %d before", n, goroutines)
	}
	if after.open() > max(base.open(), 8*len(s.proxies))+2 {
		t.Errorf("sockets %v after the faults, %v before", after.sockets, base.sockets)
	}
	if after.rss > base.rss*5/4+32<<20 {
		t.Errorf("%d MB after the faults, %d MB before", after.rss>>20, base.rss>>20)
	}
	for _, f := range more {
		s.launch()
		f(s)
	}
	s.finish()
	right, wrong := s.ejections()
	if len(wrong) > 0 {
		t.Errorf("%d gateways were set aside without a fault of theirs:\n%s", len(wrong), strings.Join(wrong, "\n"))
	}
	t.Logf("gateways set aside %d times for a fault, %d times without", right, len(wrong))
}

// One gateway of three at a time, and with reduced counts all of them at last.
func TestGatewayFaults(t *testing.T) {
	if !proving() {
		besiege(t, 20*time.Second, 0, []strike{stopped(7 * time.Second), truncating(4 * time.Second)}, func(s *siege) {
			s.allFail(outages[0], 7*time.Second, 15*time.Second)
		})
		return
	}
	t.Run("servers", func(t *testing.T) {
		besiege(t, 20*time.Second, 0, []strike{
			killed(10 * time.Second), stopped(5 * time.Second), stopped(30 * time.Second), stopped(90 * time.Second), crowded(20 * time.Second),
		})
	})
	t.Run("ways", func(t *testing.T) {
		besiege(t, 20*time.Second, 0, []strike{
			resetting(15 * time.Second), truncating(15 * time.Second), garbled(15 * time.Second), halfOpen(20 * time.Second),
		})
	})
	// With eight calls under way to each, a call takes eight times as long as one alone, 2.7 s, by waiting for the others at the
	// gateway. Then 2 s of delay take the place of that wait: the gateway is not slower than the others, and keeps its share.
	t.Run("slow", func(t *testing.T) {
		besiege(t, 20*time.Second, 2, []strike{slowed(40 * time.Second)})
	})
	t.Run("others", func(t *testing.T) {
		besiege(t, 20*time.Second, 0, []strike{
			replaced("Thrift1 server", 15*time.Second, thrift1), replaced("web server", 15*time.Second, webServer), writesHeld(20 * time.Second),
		})
	})
	t.Run("region server", func(t *testing.T) {
		besiege(t, 20*time.Second, 0, []strike{serverStopped(1, 20*time.Second)})
	})
}

// Without a fault no gateway is set aside. (With reduced counts TestGatewayFaults shows it, for 20 s.)
func TestNoFaultNoEjection(t *testing.T) {
	if !proving() {
		t.Skip("ten minutes: with DROVER_PROVE=1")
	}
	const parts, part = 2, 5 * time.Minute // a process may take ten minutes
	s := newSiege(t, siegeOptions{
		profile: dumpgen.Flat5, seconds: parts*int(part.Seconds()) + 20, rate: gatewayRate(),
		rest: fmt.Sprintf("limits: {rows: %d}", gatewayRate()*10/3),
	})
	for i := range parts {
		if i > 0 {
			s.launch()
		}
		from := s.now()
		s.pass(part)
		d := s.between(from, s.now())
		r := s.resources()
		n := s.quit()
		t.Logf("%.0f rows/s for %.0f s, by gateway %v; %v, %d goroutines", d.rate(), d.at.Seconds(), d.rows, r, n)
	}
	if right, wrong := s.ejections(); right+len(wrong) > 0 {
		t.Errorf("gateways were set aside:\n%s", strings.Join(wrong, "\n"))
	}
}

// outage is a fault of all gateways.
type outage struct {
	name       string
	begin, end func(*proxy.Proxy)
}

var outages = []outage{
	{"failing", func(p *proxy.Proxy) {
		p.Refuse(true)
		p.Reset()
	}, func(p *proxy.Proxy) { p.Refuse(false) }},
	{"slow", func(p *proxy.Proxy) { p.Delay(5 * time.Second) }, func(p *proxy.Proxy) { p.Delay(0) }}, // each way
	{"silent", (*proxy.Proxy).Hold, (*proxy.Proxy).Release},
}

// allFail strikes all gateways, after a time without a fault, and looks at that time, the outage and as long after it.
func (s *siege) allFail(o outage, around, lasts time.Duration) {
	s.t.Helper()
	t := s.t
	s.pass(around)
	from := s.now()
	before := s.between(from-around/2, from).rate()
	for _, p := range s.proxies {
		o.begin(p)
	}
	s.pass(lasts)
	to := s.now()
	for i, p := range s.proxies {
		o.end(p)
		s.faults = append(s.faults, mishap{o.name, i, from, to})
	}
	s.pass(around + averaged)
	// The calls in flight at the strike are not of the outage.
	d := s.between(from+time.Second, to)
	for i, n := range d.calls {
		if perSecond := float64(n) / d.at.Seconds(); perSecond > 2 {
			t.Errorf("all %s: gateway %d got %.1f calls a second", o.name, i, perSecond)
		}
	}
	back := time.Duration(0)
	for back < around && s.between(to+back, to+back+averaged).rate() < 0.95*before {
		back += sampled
	}
	if back > 10*time.Second && proving() {
		t.Errorf("all %s: 95 %% of %.0f rows/s were back after %s", o.name, before, back)
	}
	all := s.between(from-around, to+around)
	attempts := float64(all.puts) / float64(max(all.acks, 1))
	if attempts > 1.1 && proving() {
		t.Errorf("all %s: %.3f attempts for each success over %s around it", o.name, attempts, all.at)
	}
	t.Logf("all %s for %.0f s: calls a gateway %v, %.2f a second at most; %.3f attempts a success in %.0f s around it; %.0f rows/s before, 95 %% of it back after %.1f s",
		o.name, d.at.Seconds(), d.calls, float64(slices.Max(d.calls))/d.at.Seconds(), attempts, all.at.Seconds(), before, back.Seconds())
}

// All gateways fail, or are slow, at the same time: they are left in peace, and taken up again at once when it is over. (With
// reduced counts at the end of TestGatewayFaults.)
func TestAllGatewaysFail(t *testing.T) {
	if !proving() {
		t.Skip("five minutes for each: with DROVER_PROVE=1")
	}
	const around, lasts = 2 * time.Minute, time.Minute
	for _, o := range outages {
		t.Run(o.name, func(t *testing.T) {
			s := newSiege(t, siegeOptions{
				profile: dumpgen.Flat5, seconds: int((2 * around).Seconds()) + 20, rate: gatewayRate(),
				rest: fmt.Sprintf("limits: {rows: %d}", gatewayRate()*10/3),
			})
			s.allFail(o, around, lasts)
			s.finish()
		})
	}
}

// One region server of three hangs: rows for the others go on, for as long as memory for those that wait lasts.
func TestRegionServerStopped(t *testing.T) {
	if !proving() {
		t.Skip("HBase moves its regions for a minute: with DROVER_PROVE=1")
	}
	const rate = 3000
	s := newSiege(t, siegeOptions{
		profile: dumpgen.KB, seconds: 110, rate: rate / 3, rest: fmt.Sprintf("limits: {rows: %d}", rate), ofServer: true,
	})
	for _, p := range s.proxies {
		p.ThrottleRows(0)
	}
	s.pass(15 * time.Second)
	from := s.now()
	before := s.between(from-10*time.Second, from)
	busiest := slices.Index(before.servers, slices.Max(before.servers)) // where regions are is HBase's to say
	f := serverStopped(busiest, 30*time.Second)
	must(t, f.begin(s, 0))
	s.pass(f.lasts)
	must(t, f.end(s, 0))
	to := s.now()
	s.faults = append(s.faults, mishap{f.name, -1, from, to})
	others := func(d sample) (perSecond float64) {
		for i, n := range d.servers {
			if i != busiest {
				perSecond += float64(n)
			}
		}
		return perSecond / d.at.Seconds()
	}
	had := others(before)
	if had == 0 {
		t.Fatalf("all rows are of one region server: %v", before.servers)
	}
	got := others(s.between(from, from+10*time.Second))
	var seconds []string
	for at := from; at < to; at += averaged {
		seconds = append(seconds, fmt.Sprintf("%.0f", 100*others(s.between(at, at+averaged))/had))
	}
	t.Logf("rows/s for the others: %.0f before, %.2f of it in the first 10 s; every %s, in %%: %s; by server before %v", had, got/had, averaged, strings.Join(seconds, " "), before.servers)
	if got < 0.8*had {
		t.Errorf("rows for the other region servers went on at %.2f of their rate, want 0.8", got/had)
	}
	s.finish()
	// After some ten seconds HBase gives the server up and puts its regions elsewhere, while gateways still send to where they were:
	// from then on it is those that do not answer.
	const givenUp = 10 * time.Second
	for gateway := range s.proxies {
		s.faults = append(s.faults, mishap{"sends to where regions were", gateway, from + givenUp + 2*time.Second, to})
	}
	right, wrong := s.ejections()
	if len(wrong) > 0 {
		t.Errorf("gateways were set aside for a region server's fault:\n%s", strings.Join(wrong, "\n"))
	}
	t.Logf("gateways set aside after the server was given up: %d", right)
}

// The write-ahead logs stall, all at once, by a file system that is frozen under them. Then writes wait, reads go on, and
// nothing is lost. It takes root and a loop device.
func TestStalledLog(t *testing.T) {
	if !proving() {
		t.Skip("a stack of its own and a file system to freeze: with DROVER_PROVE=1")
	}
	mount := frozenable(t)
	s, err := stack.Start(t.Context(), stack.Options{
		GatewaySite: map[string]string{"hbase.wal.dir": "file://" + mount}, Site: map[string]string{"hbase.wal.dir": "file://" + mount},
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	const rate = 4000
	docs := int64(rate * 30)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: seed(t).Uint64()})
	table := "stalled"
	p := start(t, "run", spec{
		name: table, source: file, gateways: gatewayList(s), limit: "10m", rest: fmt.Sprintf("limits: {rows: %d}", rate),
		target: fmt.Sprintf("{table: %s, create: true, regions: 6, families: {d: {versions: 5}}}", table),
	}.file(t), "--json")
	read := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		g := s.Gateways[0]
		return wire.Call(ctx, g.Addr, g.Protocol, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			_, err := c.Exists(ctx, []byte(table), &thrift2.TGet{Row: []byte("x")})
			return err
		})
	}
	var struck, mended time.Time
	var had, during int64
	reads := 0
	end := whileRunning(p, 100*time.Millisecond, func() {
		switch {
		case struck.IsZero():
			if had = settled(t, table); had > int64(rate) {
				must(t, freeze(mount, true))
				struck = time.Now()
			}
		case mended.IsZero():
			if read() == nil {
				reads++
			}
			if time.Since(struck) > 20*time.Second {
				during = settled(t, table) - had
				must(t, freeze(mount, false))
				mended = time.Now()
			}
		}
	})
	if struck.IsZero() || mended.IsZero() {
		t.Fatal("the fault did not happen in mid-run")
	}
	b := end.ends(t, 0)
	if b.Dead != 0 || b.Written != docs {
		t.Errorf("the books say %+v, want %d written", b, docs)
	}
	if during > 4*rate {
		t.Errorf("%d rows were settled while the logs stood", during)
	}
	if reads == 0 {
		t.Error("no read was answered meanwhile: more than the logs stood still")
	}
	realEqual(t, s, table, file, check.Mapping{Timestamp: b.Timestamp})
	t.Logf("%d rows settled in 20 s of stalled logs, %d reads answered; ended %.1f s later with %d retries; %d gateways set aside", during, reads,
		time.Since(mended).Seconds(), b.Retries, len(ejection.FindAllString(end.stderr, -1)))
}

// frozenable mounts a file system of its own, which freeze can stop.
func frozenable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "drover-log-")
	must(t, err)
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	must(t, os.Mkdir(mount, 0o755))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 1<<30))
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("a log cannot be stalled here, which takes root and a loop device: %s: %v: %s", args[0], err, out)
		}
	}
	t.Cleanup(func() {
		freeze(mount, false) // fails unless the test left it frozen
		if out, err := exec.Command("umount", "-l", mount).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", mount, err, out)
		}
	})
	return mount
}

func freeze(mount string, on bool) error {
	flag := "-u"
	if on {
		flag = "-f"
	}
	if out, err := exec.Command("fsfreeze", flag, mount).CombinedOutput(); err != nil {
		return fmt.Errorf("fsfreeze %s %s: %w: %s", flag, mount, err, out)
	}
	return nil
}
