package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/checkpoints"
	"drover/e2e/proxy"
	"drover/e2e/stack"
	pool "drover/fleet"
	"drover/fleet/share"
	"drover/zookeeper"
)

// What a pool costs ZooKeeper, and how exactly it keeps a budget, with many members in this process. Each has a session of its
// own on ZooKeeper's own servers; the work is made up, the sessions, orders and accounts are not.

// scaleNet is what all members' connections together do.
type scaleNet struct {
	via map[string]string // a server's address → its proxy's; nil is straight

	mu      sync.Mutex
	tries   []time.Time // to connect
	made    []time.Time // connections
	largest int         // bytes of a reply
}

// scaleDial is a member's way to ZooKeeper, which can be cut.
type scaleDial struct {
	net *scaleNet

	mu    sync.Mutex
	cut   bool
	conns map[*scaleConn]struct{}
}

// scaleConn looks at the sizes of replies.
type scaleConn struct {
	net.Conn
	dial *scaleDial
	head []byte
	left int
}

func (d *scaleDial) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	now := time.Now()
	d.mu.Lock()
	cut := d.cut
	d.mu.Unlock()
	if cut {
		return nil, errors.New("cut off")
	}
	d.net.mu.Lock()
	d.net.tries = append(d.net.tries, now)
	addr = cmp.Or(d.net.via[addr], addr)
	d.net.mu.Unlock()
	bare, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	d.net.mu.Lock()
	d.net.made = append(d.net.made, now)
	d.net.mu.Unlock()
	c := &scaleConn{Conn: bare, dial: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		bare.Close()
		return nil, errors.New("cut off")
	}
	d.conns[c] = struct{}{}
	return c, nil
}

func (c *scaleConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		if c.left > 0 {
			k := min(c.left, len(b))
			c.left -= k
			b = b[k:]
			continue
		}
		c.head = append(c.head, b[0])
		b = b[1:]
		if len(c.head) == 4 {
			c.left = int(c.head[0])<<24 | int(c.head[1])<<16 | int(c.head[2])<<8 | int(c.head[3])
			c.head = c.head[:0]
			c.dial.net.mu.Lock()
			c.dial.net.largest = max(c.dial.net.largest, c.left)
			c.dial.net.mu.Unlock()
		}
	}
	return n, err
}

func (c *scaleConn) Close() error {
	c.dial.mu.Lock()
	delete(c.dial.conns, c)
	c.dial.mu.Unlock()
	return c.Conn.Close()
}

// sever ends all connections without a word, and lets none come.
func (d *scaleDial) sever() {
	d.mu.Lock()
	d.cut = true
	conns := d.conns
	d.conns = map[*scaleConn]struct{}{}
	d.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}

// fullest gives the largest number of times within a second.
func fullest(at []time.Time) (most int) {
	at = slices.SortedFunc(slices.Values(at), time.Time.Compare)
	for i, k := 0, 0; i < len(at); i++ {
		for at[i].Sub(at[k]) >= time.Second {
			k++
		}
		most = max(most, i-k+1)
	}
	return most
}

// scaleWorker is a member of the pool, with a session and a clock of its own.
type scaleWorker struct {
	pool    *scalePool
	name    string
	dial    *scaleDial
	zk      *zookeeper.Client
	member  *pool.Member
	account atomic.Pointer[share.Account]
	dead    context.Context // ends when the process would: nothing of it goes on
	die     context.CancelFunc
	stop    context.CancelFunc
	ended   chan struct{}
	lost    atomic.Int64 // sessions
	last    atomic.Int64 // when its account last let rows pass, in ns of the pool's time
	saves   atomic.Int64
}

// scalePool is an ensemble with members in this process.
type scalePool struct {
	t        *testing.T
	ensemble *stack.Ensemble
	session  time.Duration
	net      *scaleNet
	zk       *zookeeper.Client // the test's own
	pool     pool.Pool
	began    time.Time
	capacity int
	drift    func() float64 // of a member's clock
	work     func(w *scaleWorker, ctx context.Context, r pool.Run, leases pool.Leases) error

	mu      sync.Mutex
	names   int
	workers []*scaleWorker // those that live
	all     []*scaleWorker
	wg      sync.WaitGroup
}

func newScalePool(t *testing.T, tick, session, delay time.Duration, capacity int) *scalePool {
	t.Helper()
	if testing.Short() {
		t.Skip("starting ZooKeeper takes seconds: not with -short")
	}
	e, err := stack.StartEnsemble(t.Context(), stack.EnsembleOptions{Servers: 3, Tick: tick})
	if errors.Is(err, stack.ErrNoTools) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	p := &scalePool{t: t, ensemble: e, session: session, net: &scaleNet{}, began: time.Now(), capacity: capacity, drift: func() float64 { return 0 }}
	if delay > 0 {
		p.net.via = map[string]string{}
		for _, addr := range e.Addrs() {
			x, err := proxy.Start(addr)
			must(t, err)
			t.Cleanup(func() { x.Close() })
			x.Delay(delay)
			p.net.via[addr] = x.Addr()
		}
	}
	p.zk, err = zookeeper.Open(zookeeper.Config{Servers: e.Addrs(), SessionTimeout: session})
	must(t, err)
	t.Cleanup(func() { must(t, p.zk.Close()) })
	must(t, p.zk.Wait(t.Context()))
	p.pool = pool.Pool{ZK: p.zk, Root: fleetRoot, By: "test@here"}
	t.Cleanup(p.close)
	return p
}

// join starts a member.
func (p *scalePool) join() *scaleWorker {
	p.mu.Lock()
	p.names++
	w := &scaleWorker{pool: p, name: fmt.Sprintf("w%d", p.names), dial: &scaleDial{net: p.net, conns: map[*scaleConn]struct{}{}}, ended: make(chan struct{})}
	speed := 1 + p.drift()
	p.mu.Unlock()
	w.dead, w.die = context.WithCancel(context.Background())
	var err error
	w.zk, err = zookeeper.Open(zookeeper.Config{Servers: p.ensemble.Addrs(), SessionTimeout: p.session, Dial: w.dial.connect})
	if err != nil {
		p.t.Error(err)
		return nil
	}
	w.zk.OnState(func(s zookeeper.State, _ zookeeper.Session) {
		if s == zookeeper.Lost {
			w.lost.Add(1)
		}
	})
	offset := time.Duration(len(w.name)) * 1000 * time.Hour
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.member, err = pool.Join(ctx, pool.Config{
		ZK: w.zk, Root: fleetRoot, Name: w.name, Capacity: p.capacity, Plan: planFleetJob,
		Work:  func(ctx context.Context, r pool.Run, leases pool.Leases) error { return p.work(w, ctx, r, leases) },
		Clock: func() time.Duration { return offset + time.Duration(float64(time.Since(p.began))*speed) },
	})
	if err != nil {
		p.t.Error(err)
		stop()
		w.zk.Close()
		return nil
	}
	p.mu.Lock()
	p.workers = append(p.workers, w)
	p.all = append(p.all, w)
	p.mu.Unlock()
	p.wg.Go(func() {
		defer close(w.ended)
		w.member.Run(ctx)
		w.zk.Close()
	})
	return w
}

func (p *scalePool) forget(w *scaleWorker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.workers = slices.DeleteFunc(p.workers, func(x *scaleWorker) bool { return x == w })
}

// kill ends a member as a power cut does: its session hears no goodbye.
func (p *scalePool) kill(w *scaleWorker) {
	p.forget(w)
	w.dial.sever()
	w.die()
	w.stop()
}

// part cuts a member off from ZooKeeper for good. It goes on as long as it may, and ends later.
func (p *scalePool) part(w *scaleWorker) {
	p.forget(w)
	w.dial.sever()
	p.wg.Go(func() {
		time.Sleep(4 * p.session)
		w.die()
		w.stop()
	})
}

// leave has a member end in order.
func (p *scalePool) leave(w *scaleWorker) {
	p.forget(w)
	w.stop()
}

func (p *scalePool) live() []*scaleWorker {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.workers)
}

// leader is the member that leads, nil when none does.
func (p *scalePool) leader() *scaleWorker {
	for _, w := range p.live() {
		if _, leads := w.member.Leads(); leads {
			return w
		}
	}
	return nil
}

// close ends all members, many at once.
func (p *scalePool) close() {
	for _, w := range p.live() {
		w.die()
		w.stop()
	}
	gone := make(chan struct{})
	go func() { p.wg.Wait(); close(gone) }()
	for {
		// No leader is left to take their orders away, for which they wait a session timeout.
		orders, _, _ := p.zk.Children(context.Background(), fleetRoot+"/assign")
		for _, id := range orders {
			p.zk.Delete(context.Background(), fleetRoot+"/assign/"+id, zookeeper.AnyVersion)
		}
		select {
		case <-gone:
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// enlist starts n members, some at a time, and waits until the pool knows them.
func (p *scalePool) enlist(n int) {
	p.t.Helper()
	places := make(chan struct{}, 64)
	var wg sync.WaitGroup
	for range n {
		places <- struct{}{}
		wg.Go(func() {
			p.join()
			<-places
		})
	}
	wg.Wait()
	soon(p.t, time.Minute, func() error {
		names, _, err := p.zk.Children(p.t.Context(), fleetRoot+"/workers")
		if err == nil && (len(names) < n || p.leader() == nil) {
			err = fmt.Errorf("%d of %d members are there", len(names), n)
		}
		return err
	})
}

func (p *scalePool) submit(shards int, limit float64) {
	p.t.Helper()
	file, err := json.Marshal(fleetJob{Shards: shards, Rows: 1 << 30})
	must(p.t, err)
	spec := pool.Spec{File: file, Limits: map[string]pool.Limits{"t": {Puts: share.Limit{Rows: limit, Bytes: 1e12}, Scans: share.NoLimit}}}
	_, err = p.pool.Submit(p.t.Context(), pool.NewRequest(), "counting", spec)
	must(p.t, err)
}

// zxid is how many transactions the ensemble has counted in its present epoch, and the epoch.
func (p *scalePool) zxid() (count, epoch int64, err error) {
	leader, err := p.ensemble.Leader(p.t.Context())
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	said, err := p.ensemble.Ask(ctx, leader, "srvr")
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(said, "Zxid: 0x")
	hex, _, _ := strings.Cut(rest, "\n")
	z, err := strconv.ParseInt(strings.TrimSpace(hex), 16, 64)
	return z & 0xffffffff, z >> 32, err
}

// cpu is the time on processors that this process used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ledgerBook is what the budget's test wrote down.
type ledgerBook struct {
	mu   sync.Mutex
	paid []payment
	// Of all accounts, each between the two times of its sample.
	samples []given
}

type payment struct {
	at   time.Duration
	rows int
}

type given struct {
	from, to time.Duration
	rows     float64
}

// most is by how much the fullest of all windows, of any length, has more than rate gives.
func (b *ledgerBook) most() (paid, collected float64) {
	slices.SortFunc(b.paid, func(x, y payment) int { return cmp.Compare(x.at, y.at) })
	sum := 0.0
	low := 0.0
	for i, x := range b.paid {
		at := scaleRate * x.at.Seconds()
		if i == 0 || sum-at < low {
			low = sum - at
		}
		sum += float64(x.rows)
		paid = max(paid, sum-at-low)
	}
	for i, x := range b.samples {
		if i > 0 {
			collected = max(collected, x.rows-scaleRate*x.to.Seconds()-low)
		}
		if at := x.rows - scaleRate*x.from.Seconds(); i == 0 || at < low {
			low = at
		}
	}
	return paid, collected
}

// use is the part of the rate that was used in a span, without those after deaths.
func (b *ledgerBook) use(from, to time.Duration, without []time.Duration, each time.Duration) (part, overall float64) {
	var rows, span, allRows, allSpan float64
	for i := 1; i < len(b.samples); i++ {
		x, y := b.samples[i-1], b.samples[i]
		if x.to < from || y.to > to {
			continue
		}
		n, s := y.rows-x.rows, (y.to - x.to).Seconds()
		allRows, allSpan = allRows+n, allSpan+s
		if !slices.ContainsFunc(without, func(d time.Duration) bool { return x.to >= d && x.to < d+each }) {
			rows, span = rows+n, span+s
		}
	}
	return rows / max(span, 1e-9) / scaleRate, allRows / max(allSpan, 1e-9) / scaleRate
}

const scaleRate = 10_000.0 // rows/s

// All members together keep to a budget in every window of time and use it, while members join, leave, are cut off and die,
// leaders among them, by clocks that run apart as far as the rules allow. throttle and pause are everywhere within a second.
func TestPoolKeepsBudget(t *testing.T) {
	counts := []int{6}
	if proving() {
		counts = []int{1, 6, 64}
	}
	for _, n := range counts {
		t.Run(fmt.Sprintf("%d workers", n), func(t *testing.T) { poolBudget(t, n) })
	}
}

func poolBudget(t *testing.T, n int) {
	rnd := seed(t)
	session := fleetSession
	if n > 10 {
		session = 2 * fleetSession
	}
	shards := max(32, 4*n)
	p := newScalePool(t, 500*time.Millisecond, session, 0, 2*shards)
	if n > 1 {
		p.capacity = 2 * shards / n
	}
	p.drift = func() float64 { return (2*rnd.Float64() - 1) * 500e-6 }
	// Uneven: the rates that shards could go at differ by 16, and are three times the limit together.
	able, sum := make([]float64, shards), 0.0
	for i := range able {
		able[i] = 1 / float64(1+rnd.IntN(16))
		sum += able[i]
	}
	for i := range able {
		able[i] *= 3 * scaleRate / sum
	}
	batch := int(max(5, min(40, scaleRate/float64(shards)/8)))
	book := &ledgerBook{}
	p.work = func(w *scaleWorker, ctx context.Context, r pool.Run, leases pool.Leases) error {
		account, release := w.member.Budget("t", share.Puts, r.ID, pool.Use{})
		defer release()
		w.account.Store(account)
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			l, ok := leases.Next(ctx)
			if !ok {
				return nil
			}
			wg.Go(func() {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				defer l.Done(l.From, pool.ErrLost)
				defer context.AfterFunc(w.dead, cancel)()
				wg.Go(func() {
					select {
					case <-l.Lost:
						cancel()
					case <-ctx.Done():
					}
				})
				next := time.Now()
				for {
					if _, err := account.Wait(ctx, batch, batch); err != nil {
						return
					}
					now := time.Now()
					w.last.Store(int64(now.Sub(p.began)))
					book.mu.Lock()
					book.paid = append(book.paid, payment{now.Sub(p.began), batch})
					book.mu.Unlock()
					if l.Hold(ctx) != nil {
						return
					}
					next = next.Add(time.Duration(float64(batch) / able[l.Shard.N] * 1e9))
					if next.Before(now) {
						next = now
					}
					select {
					case <-time.After(time.Until(next)):
					case <-ctx.Done():
						return
					}
				}
			})
		}
	}

	stop, late := make(chan struct{}), time.Duration(0)
	var watch sync.WaitGroup
	watch.Go(func() { // looks at all accounts, and at how late a timer comes here
		for {
			due := time.Now().Add(20 * time.Millisecond)
			select {
			case <-stop:
				return
			case <-time.After(time.Until(due)):
			}
			late = max(late, time.Since(due))
			s := given{from: time.Since(p.began)}
			p.mu.Lock()
			all := slices.Clone(p.all)
			p.mu.Unlock()
			for _, w := range all {
				if a := w.account.Load(); a != nil {
					rows, _ := a.Given()
					s.rows += rows
				}
			}
			s.to = time.Since(p.began)
			book.mu.Lock()
			book.samples = append(book.samples, s)
			book.mu.Unlock()
		}
	})
	now := func() time.Duration { return time.Since(p.began) }
	used := func(from, to time.Duration) float64 {
		book.mu.Lock()
		defer book.mu.Unlock()
		part, _ := book.use(from, to, nil, 0)
		return part
	}
	p.enlist(n)
	submitted := now()
	p.submit(shards, scaleRate)
	soon(t, 30*time.Second, func() error {
		if part := used(now()-time.Second, now()); part < 0.97 {
			return fmt.Errorf("%.2f of the limit is used", part)
		}
		return nil
	})
	from := now()
	t.Logf("%d members, %d shards, batches of %d rows, session timeout %v: the limit was reached %.1f s after the job was submitted",
		n, shards, batch, session, (from - submitted).Seconds())

	// A death a minute, and comings and goings.
	length, minute := 20*time.Second, 20*time.Second
	if proving() {
		length, minute = 4*time.Minute, time.Minute
	}
	var deaths []time.Duration
	leaders, joins, leaves := 0, 0, 0
	nextDeath, nextMove := from+minute/5, from+3*time.Second
	for now() < from+length {
		time.Sleep(50 * time.Millisecond)
		if now() >= nextMove && n > 1 {
			nextMove = now() + minute/3
			p.join()
			joins++
			live := p.live()
			if w := live[rnd.IntN(len(live)-1)]; w != p.leader() {
				p.leave(w)
				leaves++
			}
		}
		if now() >= nextDeath {
			nextDeath += minute
			live := p.live()
			w := live[rnd.IntN(len(live))]
			if lead := p.leader(); lead != nil && len(deaths)%2 == 0 {
				w = lead
				leaders++
			}
			deaths = append(deaths, now())
			if len(deaths)%2 == 0 {
				p.kill(w)
			} else {
				p.part(w)
			}
			p.join()
		}
	}
	to := now()
	book.mu.Lock()
	part, overall := book.use(from, to, deaths, 2*session)
	book.mu.Unlock()

	// Throttle and pause, each taken back.
	tries := scaled(50, 10)
	var stops, goes []time.Duration
	changes := 0
	for i := range tries {
		if i%10 == 9 && n > 1 {
			if lead := p.leader(); lead != nil {
				p.kill(lead)
				p.join()
				changes++
			}
		}
		set := func(on bool) error {
			if i%2 == 0 {
				return p.pool.PauseTable(t.Context(), "t", on)
			}
			if on {
				return p.pool.Throttle(t.Context(), "t", &pool.Limits{Puts: share.Limit{Rows: 0, Bytes: 1e12}, Scans: share.NoLimit})
			}
			return p.pool.Throttle(t.Context(), "t", nil)
		}
		asked := now()
		must(t, set(true))
		time.Sleep(1200 * time.Millisecond)
		last := asked
		for _, w := range p.live() {
			last = max(last, time.Duration(w.last.Load()))
		}
		stops = append(stops, last-asked)
		asked = now()
		must(t, set(false))
		soon(t, 10*time.Second, func() error {
			if !slices.ContainsFunc(p.live(), func(w *scaleWorker) bool { return time.Duration(w.last.Load()) > asked }) {
				return errors.New("nothing goes on after a pause")
			}
			return nil
		})
		goes = append(goes, now()-asked)
		time.Sleep(time.Duration(rnd.Int64N(int64(300 * time.Millisecond))))
	}
	close(stop)
	watch.Wait()
	paid, collected := book.most()
	slack := float64(batch * len(p.all))
	t.Logf("%d deaths (%d of leaders), %d joins and %d leaves in %.0f s; %d batches were paid for; clocks off by up to 500 ppm",
		len(deaths), leaders, joins, leaves, (to - from).Seconds(), len(book.paid))
	t.Logf("tokens in the fullest of all windows: %.0f over R·W by the accounts (0.02 R is %.0f), %.0f over by when batches went; timers came up to %v late here",
		collected, 0.02*scaleRate, paid, late.Round(time.Millisecond))
	t.Logf("use: %.3f of the limit outside two session timeouts after each death, %.3f overall", part, overall)
	t.Logf("throttle and pause, %d tries, %d through a change of leaders: everywhere after p50 %v, p99 %v; going on after p99 %v", tries, changes,
		percentile(stops, 0.5).Round(time.Millisecond), percentile(stops, 0.99).Round(time.Millisecond), percentile(goes, 0.99).Round(time.Millisecond))
	if collected > 0.02*scaleRate {
		t.Errorf("the accounts gave %.0f rows more than R·W in some window", collected)
	}
	// A batch is logged when it is paid in full, and its goroutine has been given a processor.
	if allowed := 0.02*scaleRate + slack + scaleRate*(late+20*time.Millisecond).Seconds(); paid > allowed {
		t.Errorf("batches of %.0f rows more than R·W went in some window, want at most %.0f", paid, allowed)
	}
	if part < 0.97 && n > 1 || part < 0.9 {
		t.Errorf("%.3f of the limit was used", part)
	}
	if proving() && overall < 0.9 {
		t.Errorf("%.3f of the limit was used with a death a minute", overall)
	}
	if p99 := percentile(stops, 0.99); p99 > time.Second {
		t.Errorf("throttle and pause took %v", p99)
	}
}

// A large pool with all shards assigned costs ZooKeeper little, and nothing is lost when all of its servers start again.
func TestPoolAtScale(t *testing.T) {
	t.Run("near", func(t *testing.T) { poolAtScale(t, scaled(10_000, 1000), scaled(1000, 100), 0) })
	if proving() {
		t.Run("far", func(t *testing.T) { poolAtScale(t, 10_000, 1000, 100*time.Millisecond) })
	}
}

func poolAtScale(t *testing.T, shards, workers int, delay time.Duration) {
	const session = 30 * time.Second
	p := newScalePool(t, 2*time.Second, session, delay, 2*shards/workers)
	var held, lost, saves, refused atomic.Int64
	p.work = func(w *scaleWorker, ctx context.Context, r pool.Run, leases pool.Leases) error {
		account, release := w.member.Budget("t", share.Puts, r.ID, pool.Use{})
		defer release()
		var mu sync.Mutex
		mine := map[int]pool.Lease{}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { // as package runner saves: one write for all shards of the process
			for at := 0; ; at++ {
				if _, err := account.Wait(ctx, 10, 10); err != nil {
					return
				}
				select {
				case <-time.After(r.SaveEvery()):
				case <-ctx.Done():
					return
				}
				var list []checkpoints.Checkpoint
				mu.Lock()
				for k := range mine {
					list = append(list, checkpoints.Checkpoint{Shard: k, Cursor: strconv.Itoa(at)})
				}
				mu.Unlock()
				err := r.Store.Save(ctx, list, checkpoints.Totals{})
				if _, fenced := errors.AsType[*checkpoints.FencedError](err); fenced {
					refused.Add(1)
				} else if err == nil {
					saves.Add(1)
					w.saves.Add(1)
				}
			}
		})
		for {
			l, ok := leases.Next(ctx)
			if !ok {
				return nil
			}
			held.Add(1)
			mu.Lock()
			mine[l.Shard.N] = l
			mu.Unlock()
			wg.Go(func() {
				select {
				case <-l.Lost:
					if w.dead.Err() == nil {
						lost.Add(1)
					}
				case <-ctx.Done():
				case <-w.dead.Done():
				}
				held.Add(-1)
				mu.Lock()
				delete(mine, l.Shard.N)
				mu.Unlock()
				l.Done(l.From, pool.ErrLost)
			})
		}
	}
	expired := func() (n int64) {
		for _, w := range p.live() {
			n += w.lost.Load()
		}
		return n
	}
	began, before := time.Now(), cpu()
	p.enlist(workers)
	t.Logf("%d members joined in %.1f s, at most %d connections in a second; %.1f s of a processor in this process; round trips of %v more",
		workers, time.Since(began).Seconds(), fullest(p.net.made), (cpu() - before).Seconds(), 2*delay)

	first, _, err := p.zxid()
	must(t, err)
	began, before = time.Now(), cpu()
	p.submit(shards, scaleRate)
	soon(t, 2*time.Minute, func() error {
		if n := held.Load(); n < int64(shards) {
			return fmt.Errorf("%d of %d shards are assigned", n, shards)
		}
		return nil
	})
	took := time.Since(began)
	second, _, err := p.zxid()
	must(t, err)
	t.Logf("%d shards were planned, assigned and taken in %.1f s by %d transactions, beats and saves included; %.1f s of a processor",
		shards, took.Seconds(), second-first, (cpu() - before).Seconds())
	if took > time.Minute {
		t.Errorf("assigning took %v, want at most a minute", took)
	}
	if beats := int64(float64(workers) * took.Seconds() * (0.5 + 0.2)); second-first-beats > int64(shards) {
		t.Errorf("%d transactions for the first assignment of %d shards: it is not batched", second-first, shards)
	}

	time.Sleep(5 * time.Second)
	most, seconds := 0.0, scaled(60, 12)
	start, _, err := p.zxid()
	must(t, err)
	began, before = time.Now(), cpu()
	saved := saves.Load()
	last, at := start, began
	for range seconds {
		time.Sleep(time.Second)
		z, _, err := p.zxid()
		must(t, err)
		now := time.Now()
		most = max(most, float64(z-last)/now.Sub(at).Seconds())
		last, at = z, now
	}
	span := at.Sub(began).Seconds()
	t.Logf("once assigned: %.0f transactions a second, %.0f in the fullest second; of these %.0f saves; %.2f processors, %d goroutines",
		float64(last-start)/span, most, float64(saves.Load()-saved)/span, (cpu()-before).Seconds()/span, runtime.NumGoroutine())
	if all := float64(last-start) / span; all > 400 { // where servers stop for a moment, what waited comes at once
		t.Errorf("%.0f transactions a second, want at most 400", all)
	}

	// All servers die and start again.
	p.net.mu.Lock()
	p.net.tries, p.net.made = nil, nil
	p.net.mu.Unlock()
	moved := lost.Load() // for balance, before
	began = time.Now()
	for _, s := range p.ensemble.Servers {
		must(t, s.Kill())
	}
	must(t, p.ensemble.Restart(t.Context()))
	up := time.Since(began)
	marks := map[*scaleWorker]int64{}
	for _, w := range p.live() {
		marks[w] = w.saves.Load()
	}
	soon(t, 2*time.Minute, func() error {
		n := 0
		for w, was := range marks {
			if w.saves.Load() <= was {
				n++
			}
		}
		if n > 0 {
			return fmt.Errorf("%d members have saved nothing since ZooKeeper came back", n)
		}
		return nil
	})
	back := time.Since(began)
	time.Sleep(5 * time.Second)
	p.net.mu.Lock()
	tries, made, largest := fullest(p.net.tries), fullest(p.net.made), p.net.largest
	allTries, allMade := len(p.net.tries), len(p.net.made)
	p.net.mu.Unlock()
	t.Logf("ZooKeeper started again: up after %.1f s, every member saves after %.1f s; %d tries to connect, at most %d in a second; %d connections, at most %d in a second",
		up.Seconds(), back.Seconds(), allTries, tries, allMade, made)
	t.Logf("%d sessions expired, %d shards lost (%d changed hands before), %d saves refused, %d of %d shards in hand; the largest reply had %d bytes",
		expired(), lost.Load()-moved, moved, refused.Load(), held.Load(), shards, largest)
	if n := expired(); n > 0 {
		t.Errorf("%d sessions expired", n)
	}
	if lost.Load() > moved || refused.Load() > 0 || held.Load() != int64(shards) {
		t.Errorf("%d shards were lost, %d saves refused, %d shards are in hand", lost.Load()-moved, refused.Load(), held.Load())
	}
	if largest > 256<<10 {
		t.Errorf("a reply had %d bytes, want at most 256 KiB", largest)
	}
	// Each member waits before each try: it tries the three servers once and then, in a second or more, again.
	if tries > 4*workers {
		t.Errorf("%d tries to connect in a second by %d members", tries, workers)
	}
}
