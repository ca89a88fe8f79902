package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drover/hbase"
)

// Options says how HBase is reached.
type Options struct {
	// Quorum is HBase's own ZooKeeper, "host:port,host:port", with HBase's root behind it where that is not /hbase.
	Quorum string
	// OutageLimit is how long a call is repeated while nothing succeeds; 0 is for ever.
	OutageLimit time.Duration
	Log         *slog.Logger // nil is none

	// command makes the child's; nil is ServeCommand of this binary. Tests have children of their own.
	command func(ctx context.Context, quorum string, lanes int) (*exec.Cmd, error)
	// patience is how long a child may be silent; 0 is lanePatience.
	patience time.Duration
}

const (
	// lanes is how many calls one child serves at once: more than there are shards at a time, so that none takes the lane of
	// another's open scan.
	lanes = 16
	// callTime bounds one call to HBase, retries of gohbase's included.
	callTime = 60 * time.Second
	// lanePatience is after how much silence a child counts as hung.
	lanePatience = callTime + 6*quiet

	firstWait = 50 * time.Millisecond
	mostWait  = 5 * time.Second
)

// Client reads tables through a child process, which is started when it is needed and again when it died. It asks again for what
// may pass, as long as its OutageLimit allows. Its methods may be called from several goroutines; Close comes after all of them.
type Client struct {
	opts Options
	ctx  context.Context // whose end kills children
	kill context.CancelFunc
	free chan struct{} // has a place for each call under way

	mu    sync.Mutex
	child *child // that new calls go to; nil is none yet
	all   sync.WaitGroup
	since time.Time // when the first of the failures came that nothing has succeeded after; zero is none
	last  error
}

// Open starts nothing yet.
func Open(o Options) *Client {
	if o.command == nil {
		o.command = ownCommand
	}
	if o.patience == 0 {
		o.patience = lanePatience
	}
	c := &Client{opts: o, free: make(chan struct{}, lanes)}
	c.ctx, c.kill = context.WithCancel(context.Background())
	return c
}

// Close ends the child. One that does not end by itself is killed.
func (c *Client) Close() {
	c.mu.Lock()
	c.retireLocked()
	c.mu.Unlock()
	late := time.AfterFunc(closeWithin, c.kill)
	c.all.Wait()
	late.Stop()
	c.kill()
}

// ScanPage is hbase.Conn.ScanPage past the gateways. The scan stays open in the child for the page that follows.
func (c *Client) ScanPage(ctx context.Context, table string, s *hbase.Scan, n int, page *hbase.Page) error {
	page.Reset()
	if n <= 0 || len(s.Stop) > 0 && !s.Reversed && string(s.Start) >= string(s.Stop) || s.Reversed && len(s.Start) > 0 && string(s.Start) <= string(s.Stop) {
		return nil
	}
	q := &request{Op: opPage, Table: table, Spec: specOf(s), Start: s.Start, Rows: n, Limit: page.Limit, Once: n <= once || s.Reversed}
	err := c.do(ctx, "scan "+table, q, func(l *lane, kind byte, n int) error {
		if kind != framePage {
			return fmt.Errorf("an answer of kind %q", kind)
		}
		if err := readPage(l.conn, n, page, &l.scratch); err != nil {
			return err
		}
		switch rows := page.Rows; {
		case q.Once:
		case len(rows) > 0:
			l.table, l.next = table, append(l.next[:0], rows[len(rows)-1].Key()...)
		case !l.follows(q): // a scan that has given nothing yet goes on where it began
			l.table, l.next = table, append(l.next[:0], q.Start...)
		}
		return s.Check(page)
	})
	if err != nil {
		page.Reset()
	}
	return err
}

// once is up to how many rows a page is taken for one that none follows.
const once = 1

// Regions lists a table's regions in order of their keys; none for a table that does not exist.
func (c *Client) Regions(ctx context.Context, table string) (regions []hbase.Region, err error) {
	return regions, c.value(ctx, "list regions of "+table, &request{Op: opRegions, Table: table}, &regions)
}

// ClusterID is the name that the cluster gave itself when it was made.
func (c *Client) ClusterID(ctx context.Context) (string, error) {
	var s Cluster
	err := c.value(ctx, "ask for the cluster's id", &request{Op: opCluster}, &s)
	if err == nil && s.ID == "" {
		err = errors.New("ask for the cluster's id: the master does not say it")
	}
	return s.ID, err
}

// TableExists tells whether there is such a table.
func (c *Client) TableExists(ctx context.Context, table string) (bool, error) {
	info, err := c.Describe(ctx, table)
	return err == nil && len(info.Families) > 0, err
}

// Describe reads a table's families; none of a table that does not exist.
func (c *Client) Describe(ctx context.Context, table string) (*hbase.TableInfo, error) {
	info := &hbase.TableInfo{Name: table}
	err := c.value(ctx, "describe table "+table, &request{Op: opDescribe, Table: table}, &info.Families)
	slices.SortFunc(info.Families, func(a, b hbase.Family) int { return strings.Compare(a.Name, b.Name) })
	return info, err
}

func (c *Client) value(ctx context.Context, what string, q *request, v any) error {
	return c.do(ctx, what, q, func(l *lane, kind byte, n int) error {
		if kind != frameValue {
			return fmt.Errorf("an answer of kind %q", kind)
		}
		return readValue(l.conn, n, v)
	})
}

// reply takes an answer of so many bytes off a lane.
type reply func(l *lane, kind byte, n int) error

// do makes a call until it succeeds.
func (c *Client) do(ctx context.Context, what string, q *request, read reply) error {
	select {
	case c.free <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	defer func() { <-c.free }()
	began, wait := time.Now(), firstWait
	fresh := 0
	for {
		err := c.try(ctx, q, read)
		switch a, told := errors.AsType[*answerFault](err); {
		case err == nil:
			c.succeeded(what)
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case told && a.Final:
			return fmt.Errorf("%s past the gateways: %w", what, err)
		case told && a.Fresh && fresh < mostFresh:
			fresh++
			continue
		}
		if err := c.failed(what, began, err); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		// Half of it by chance, so that calls that failed together do not come back together.
		pause := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		wait = min(2*wait, mostWait)
	}
}

// mostFresh is how many times in a row a scan is begun anew at once.
const mostFresh = 3

// answerFault is what the child met.
type answerFault struct{ answerError }

func (e *answerFault) Error() string { return e.Text }

func (c *Client) succeeded(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.since.IsZero() && c.opts.Log != nil {
		c.opts.Log.Info("native scans: HBase answers again", "call", what, "after", time.Since(c.since).Round(time.Millisecond))
	}
	c.since, c.last = time.Time{}, nil
}

// failed notes a failure, and gives the error to end with when it was the last one that is allowed.
func (c *Client) failed(what string, began time.Time, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.since.IsZero() {
		c.since = now
		if c.opts.Log != nil {
			c.opts.Log.Warn("native scans: a call failed and is made again", "call", what, "error", err)
		}
	}
	c.last = err
	from := c.since
	if began.After(from) {
		from = began
	}
	if l := c.opts.OutageLimit; l > 0 && now.Sub(from) >= l {
		return &hbase.OutageError{For: now.Sub(from), Last: []string{err.Error()}, Way: "past the gateways, by HBase's ZooKeeper " + c.opts.Quorum + ","}
	}
	return nil
}

// try makes a call once.
func (c *Client) try(ctx context.Context, q *request, read reply) error {
	l, err := c.take(q)
	if err != nil {
		return err
	}
	patience, limited := c.opts.patience, callTime
	if o := c.opts.OutageLimit; o > 0 && o < limited {
		limited, patience = o, min(patience, o+2*quiet)
	}
	q.Millis = limited.Milliseconds()
	if err := l.call(ctx, q, patience, read); err != nil {
		fault, told := errors.AsType[*answerFault](err)
		c.give(l, told)
		if told {
			return fault
		}
		if ctx.Err() == nil {
			err = l.child.explain(err)
		}
		return err
	}
	c.give(l, true)
	return nil
}

// take finds a free lane: the one whose scan goes on where q starts, if there is one, or else the one that was not used for the
// longest time.
func (c *Client) take(q *request) (*lane, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child == nil {
		child, err := start(c.ctx, &c.opts)
		if err != nil {
			return nil, err
		}
		c.child = child
		c.all.Go(child.wait)
	}
	idle := c.child.idle
	at := 0
	for i, l := range idle {
		if l.follows(q) {
			at = i
			break
		}
	}
	l := idle[at]
	c.child.idle = append(idle[:at], idle[at+1:]...)
	return l, nil
}

// give takes a lane back after a call. A lane that was left in the middle of an answer ends its child: its other lanes finish what
// they are at.
func (c *Client) give(l *lane, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := l.child
	if !whole {
		l.conn.Close()
		k.lanes--
		if c.child == k {
			c.retireLocked()
		}
	} else if c.child == k {
		k.idle = append(k.idle, l)
		return
	} else {
		l.conn.Close()
		k.lanes--
	}
	if k.lanes == 0 {
		k.in.Close()
	}
}

// retireLocked gives no more calls to the child, which ends when it has no more of them.
func (c *Client) retireLocked() {
	k := c.child
	if k == nil {
		return
	}
	c.child = nil
	for _, l := range k.idle {
		l.conn.Close()
		k.lanes--
	}
	k.idle = nil
	if k.lanes == 0 {
		k.in.Close()
	}
}

// child is a child process. The client's mutex guards idle and lanes.
type child struct {
	cmd   *exec.Cmd
	in    io.Closer // whose end is the child's
	said  tail
	idle  []*lane // the longest unused first
	lanes int     // that are idle or in use

	ended chan struct{} // closed after the process has ended
	state error
}

// lane is the parent's end of a lane.
type lane struct {
	child   *child
	conn    net.Conn
	scratch scratch

	table string
	next  []byte // the key of the last row that its open scan gave, or where that began; empty is none
}

// follows tells whether a page starts with the lane's last row, or right behind it.
func (l *lane) follows(q *request) bool {
	if q.Op != opPage || len(l.next) == 0 || l.table != q.Table {
		return false
	}
	n := len(l.next)
	return string(q.Start) == string(l.next) || len(q.Start) == n+1 && q.Start[n] == 0 && string(q.Start[:n]) == string(l.next)
}

func ownCommand(ctx context.Context, quorum string, lanes int) (*exec.Cmd, error) {
	return itself(ctx, ServeCommand, quorum, strconv.Itoa(lanes)), nil
}

// itself runs this binary, also where its file was replaced or removed meanwhile.
func itself(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	return cmd
}

// socketPair makes a connection, whose other end is for a child.
func socketPair(name string) (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), name)
	near := os.NewFile(uintptr(fds[0]), name)
	defer near.Close()
	if ours, err = net.FileConn(near); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// childEnv is the parent's environment without what is meant for the parent alone. what is the child's work.
func childEnv(what string) []string {
	var env []string
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		switch name {
		case "DROVER_CRASH":
		case "DROVER_CPUPROFILE":
			env = append(env, name+"="+value+"."+what)
		default:
			env = append(env, v)
		}
	}
	return env
}

func start(ctx context.Context, o *Options) (*child, error) {
	cmd, err := o.command(ctx, o.Quorum, lanes)
	if err != nil {
		return nil, fmt.Errorf("start the child process for native scans: %w", err)
	}
	k := &child{cmd: cmd, lanes: lanes, ended: make(chan struct{})}
	cmd.Env = append(childEnv("native"), cmd.Env...)
	cmd.Stderr = &k.said
	// A signal from the terminal is the parent's: it may still need the child to come to an end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	fail := func(err error) (*child, error) {
		for _, l := range k.idle {
			l.conn.Close()
		}
		return nil, fmt.Errorf("start the child process for native scans: %w", err)
	}
	for range lanes {
		conn, end, err := socketPair("lane")
		if err != nil {
			return fail(err)
		}
		theirs = append(theirs, end)
		k.idle = append(k.idle, &lane{child: k, conn: conn})
	}
	cmd.ExtraFiles = theirs
	if k.in, err = cmd.StdinPipe(); err != nil {
		return fail(err)
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	return k, nil
}

// wait reaps the process. One that hangs is killed where that is found.
func (k *child) wait() {
	k.state = k.cmd.Wait()
	close(k.ended)
}

// explain says why a lane broke.
func (k *child) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = k.cmd.Process.Kill() // it hangs, and what else it is at hangs with it
		return errors.New("the child process for native scans says nothing any more; another is started")
	}
	select {
	case <-k.ended:
	case <-time.After(time.Second): // it lives, and has only broken this lane
		return fmt.Errorf("talk to the child process for native scans: %w", err)
	}
	state := "it ended"
	if k.state != nil {
		state = k.state.Error()
	}
	if said := k.said.String(); said != "" {
		state += ": " + said
	}
	return fmt.Errorf("the child process for native scans died (%s); another is started", state)
}

// call makes one call on the lane. After an error that is no *answerFault the lane is of no use any more.
func (l *lane) call(ctx context.Context, q *request, patience time.Duration, read reply) error {
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	defer stop()
	if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := writeRequest(l.conn, q); err != nil {
		return err
	}
	for {
		kind, n, err := readFrameHead(l.conn)
		if err != nil {
			return err
		}
		switch kind {
		case frameWait:
			if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			continue
		case frameError:
			fault := &answerFault{}
			if err := readValue(l.conn, n, &fault.answerError); err != nil {
				return err
			}
			l.next = l.next[:0]
			return fault
		}
		return read(l, kind, n)
	}
}

// tail keeps the first and the last of what a child says: a panic says what it is before its stacks, other ends come last.
type tail struct {
	mu    sync.Mutex
	first []byte
	buf   []byte
	cut   bool // between the two
}

const firstBytes, tailBytes = 300, 700

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(p), firstBytes-len(t.first))
	t.first = append(t.first, p[:n]...)
	t.buf = append(t.buf, p[n:]...)
	if n := len(t.buf) - tailBytes; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
		t.cut = true
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	between := ""
	if t.cut {
		between = " … "
	}
	return strings.TrimSpace(string(t.first) + between + string(t.buf))
}
