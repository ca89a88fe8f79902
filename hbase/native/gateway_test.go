package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/hbase"
	"drover/hbase/gateway"
)

// relayWord stands before the folder of a Gateway's child.
const relayWord = "relay "

// serveHanded is the child: a gateway over a folder.
func serveHanded(dir string) error {
	conn, err := net.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	l := &handedListener{conn: conn.(*net.UnixConn), ended: make(chan struct{})}
	s, err := gateway.Open(gateway.Options{Listener: l, Dir: dir})
	if err != nil {
		return err
	}
	<-l.ended
	return s.Close()
}

func openGateway(t *testing.T, log *slog.Logger) *Gateway {
	t.Helper()
	dir := t.TempDir()
	g := OpenGateway("nowhere:1", log)
	g.command = func() *exec.Cmd {
		cmd := itself(context.Background())
		cmd.Env = []string{childVariable + "=" + relayWord + dir}
		return cmd
	}
	t.Cleanup(g.Close)
	return g
}

func dialGateway(t *testing.T, g *Gateway) net.Conn {
	t.Helper()
	c, err := g.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// isEnded waits until a child is reaped.
func isEnded(t *testing.T, k *relayChild) {
	t.Helper()
	select {
	case <-k.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the child does not end")
	}
}

// isCut waits until the other end of a connection is closed.
func isCut(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection to a child that has ended: %v", err)
	}
}

// A pool goes on when the child is killed in the middle of its puts: another one answers, and no row that was acknowledged is gone.
func TestGatewayThroughAPool(t *testing.T) {
	var said bytes.Buffer
	g := openGateway(t, slog.New(slog.NewTextHandler(&said, nil)))
	if g.child != nil {
		t.Error("a child is started before anything is asked")
	}
	p := hbase.NewPool(hbase.PoolOptions{
		Dial:        func(ctx context.Context, _ string) (net.Conn, error) { return g.Dial(ctx) },
		Connections: 4, OutageLimit: 30 * time.Second,
	})
	defer p.Close()
	p.Update([]hbase.Endpoint{{Addr: "native"}})
	if err := hbase.NewAdmin(p).Create(t.Context(), hbase.TableSpec{Name: "t", Families: []hbase.Family{{Name: "d", Versions: 1}}}); err != nil {
		t.Fatal(err)
	}
	first := g.child

	const writers, batches, rows = 4, 40, 50
	var wg sync.WaitGroup
	var done atomic.Int32
	for w := range writers {
		wg.Go(func() {
			for i := range batches {
				b := hbase.AcquireBatch(hbase.SyncWAL)
				for r := range rows {
					b.Begin(fmt.Appendf(nil, "%d/%02d/%02d", w, i, r))
					b.Cell(hbase.Put, []byte("d"), []byte("q"), 1, []byte("v"))
					b.End()
				}
				if _, err := p.Apply(t.Context(), "t", b); err != nil {
					t.Error(err)
					return
				}
				b.Release()
				if done.Add(1) == writers*batches/4 {
					first.cmd.Process.Kill()
				}
			}
		})
	}
	wg.Wait()
	isEnded(t, first)
	found := 0
	page := hbase.Page{}
	scan := hbase.Scan{MaxVersions: 1}
	for {
		if err := p.ScanPage(t.Context(), "t", &scan, 1000, &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Rows) == 0 {
			break
		}
		found += len(page.Rows)
		scan.Start = append(page.Rows[len(page.Rows)-1].Key(), 0)
	}
	if want := writers * batches * rows; found != want {
		t.Errorf("%d rows, want %d", found, want)
	}
	p.Close()
	if g.child == first || !strings.Contains(said.String(), "another is started") || !strings.Contains(said.String(), "signal: killed") {
		t.Errorf("the child was not replaced, or nothing was said of it: %s", said.String())
	}
}

// What a child says at length keeps its beginning and its end.
func TestTail(t *testing.T) {
	for _, n := range []int{1, 1 << 20} {
		var said tail
		text := "panic: at the start\n" + strings.Repeat("stack\n", 1000) + "exit status 2\n"
		for p := []byte(text); len(p) > 0; p = p[min(n, len(p)):] {
			said.Write(p[:min(n, len(p))])
		}
		if s := said.String(); !strings.HasPrefix(s, "panic: at the start") || !strings.HasSuffix(s, "exit status 2") || len(s) > firstBytes+tailBytes+10 {
			t.Errorf("%d bytes at a time: %q", n, s)
		}
	}
	var said tail
	fmt.Fprint(&said, strings.Repeat("x", 500))
	if s := said.String(); s != strings.Repeat("x", 500) {
		t.Errorf("got %q", s)
	}
}

// No child outlives its parent's end of the control socket.
func TestGatewayWithoutAParent(t *testing.T) {
	g := openGateway(t, nil)
	c := dialGateway(t, g)
	k := g.child
	k.control.Close()
	isEnded(t, k)
	if !k.cmd.ProcessState.Success() {
		t.Errorf("the child ended with %v: %s", k.cmd.ProcessState, &k.said)
	}
	isCut(t, c)
	dialGateway(t, g)
	if g.child == k {
		t.Error("no other child is started")
	}
}

// Close ends a child that would not end by itself, and what is connected to it.
func TestGatewayClose(t *testing.T) {
	openGateway(t, nil).Close() // nothing was started

	g := openGateway(t, nil)
	c := dialGateway(t, g)
	k := g.child
	k.cmd.Process.Signal(syscall.SIGSTOP)
	g.Close()
	g.Close()
	isEnded(t, k)
	isCut(t, c)
	if _, err := g.Dial(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A child that takes no connection any more is killed where that is found, and holds nobody up for longer than the context.
func TestGatewayThatHangs(t *testing.T) {
	g := openGateway(t, nil)
	c := dialGateway(t, g)
	k := g.child
	k.cmd.Process.Signal(syscall.SIGSTOP)
	for n := 0; ; n++ {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		waits, err := g.Dial(ctx)
		cancel()
		if err != nil {
			break
		}
		waits.Close()
		if n > 100_000 {
			t.Fatal("a child that is stopped takes connections without end")
		}
	}
	isEnded(t, k)
	isCut(t, c)
	dialGateway(t, g)
	if g.child == k {
		t.Error("no other child is started")
	}
}

// A child that cannot be started is an error that says so, and the next connection tries again.
func TestGatewayThatDoesNotStart(t *testing.T) {
	g := openGateway(t, nil)
	works := g.command
	g.command = func() *exec.Cmd { return exec.Command("/nonexistent/drover") }
	if _, err := g.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "start the child process that passes rows on to HBase") {
		t.Errorf("error is %v", err)
	}
	g.command = works
	io.WriteString(dialGateway(t, g), "no Thrift")
}
