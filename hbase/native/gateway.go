package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Gateway is a Thrift2 gateway of one's own: a child process that passes on to HBase's region servers what it is asked. It is
// started with the first connection, and again when it died. It listens nowhere: connections are handed to it.
type Gateway struct {
	quorum  string
	log     *slog.Logger
	command func() *exec.Cmd // the child's; tests have children of their own

	mu     sync.Mutex
	child  *relayChild // nil is none yet
	closed bool
}

// relayChild is one process.
type relayChild struct {
	cmd     *exec.Cmd
	control *net.UnixConn
	said    tail
	ended   chan struct{} // closed once it is reaped
}

// OpenGateway starts nothing yet. quorum is as in Options.
func OpenGateway(quorum string, log *slog.Logger) *Gateway {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Gateway{quorum: quorum, log: log, command: func() *exec.Cmd {
		return itself(context.Background(), RelayCommand, quorum)
	}}
}

// Dial gives a connection to the gateway, which speaks the binary protocol unframed. A child that takes no connection before ctx ends
// is killed: it hangs.
func (g *Gateway) Dial(ctx context.Context) (net.Conn, error) {
	k, err := g.living()
	if err != nil {
		return nil, err
	}
	conn, err := k.hand(ctx)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = k.cmd.Process.Kill()
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the child process that passes rows on to HBase: %w", err)
	}
	return conn, nil
}

// living is the child, or one that is started in the place of one that died.
func (g *Gateway) living() (*relayChild, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, net.ErrClosed
	}
	if k := g.child; k != nil {
		select {
		case <-k.ended:
			g.log.Warn("the child process that passes rows on to HBase died; another is started", "state", k.cmd.ProcessState.String(), "said", k.said.String())
			g.child = nil
		default:
		}
	}
	if g.child == nil {
		k, err := g.start()
		if err != nil {
			return nil, fmt.Errorf("start the child process that passes rows on to HBase: %w", err)
		}
		g.child = k
	}
	return g.child, nil
}

// hand makes a connection and hands its other end to the child.
func (k *relayChild) hand(ctx context.Context) (net.Conn, error) {
	conn, theirs, err := socketPair("relay")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	until, _ := ctx.Deadline() // none is for ever
	err = k.control.SetWriteDeadline(until)
	if err == nil {
		_, _, err = k.control.WriteMsgUnix([]byte{1}, unix.UnixRights(int(theirs.Fd())), nil)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// start starts a child, which ends when its end of the control socket does.
func (g *Gateway) start() (*relayChild, error) {
	cmd := g.command()
	conn, theirs, err := socketPair("control")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	k := &relayChild{cmd: cmd, control: conn.(*net.UnixConn), ended: make(chan struct{})}
	cmd.Env = append(childEnv("relay"), cmd.Env...)
	cmd.Stderr = &k.said
	cmd.ExtraFiles = []*os.File{theirs}
	// A signal from the terminal is the parent's: it may still need the child to come to an end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, err
	}
	go func() { // ends with the process
		_ = cmd.Wait()
		conn.Close()
		close(k.ended)
	}()
	return k, nil
}

// closeRelay is how long a child may take to end by itself.
const closeRelay = time.Second

// Close ends the child, in the middle of what it does.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	k := g.child
	g.mu.Unlock()
	if k == nil {
		return
	}
	k.control.Close()
	late := time.AfterFunc(closeRelay, func() { _ = k.cmd.Process.Kill() })
	defer late.Stop()
	<-k.ended
}

// handedListener gives the connections that come over a control socket.
type handedListener struct {
	conn  *net.UnixConn
	once  sync.Once
	ended chan struct{} // closed when the parent has gone, or by Close
}

// Accept implements net.Listener.
func (l *handedListener) Accept() (net.Conn, error) {
	for {
		var body [1]byte
		rights := make([]byte, unix.CmsgSpace(4))
		n, oob, _, _, err := l.conn.ReadMsgUnix(body[:], rights)
		if err != nil || n == 0 {
			l.Close()
			return nil, net.ErrClosed
		}
		conn, err := handed(rights[:oob])
		if err == nil {
			return conn, nil
		}
	}
}

func handed(rights []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "handed")
			defer f.Close()
			return net.FileConn(f)
		}
	}
	return nil, errors.New("a message without a connection")
}

// Close implements net.Listener.
func (l *handedListener) Close() error {
	l.once.Do(func() {
		close(l.ended)
		l.conn.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *handedListener) Addr() net.Addr { return l.conn.LocalAddr() }
