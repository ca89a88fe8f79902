package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"drover/e2e/wire"
)

// Process is one server. Its methods may be called from several goroutines at once.
type Process struct {
	Name     string
	Addr     string        // where it serves, host:port
	Info     string        // a gateway's info port, host:port, for /jmx; "" for others
	Log      string        // file of everything it printed, over restarts
	Protocol wire.Protocol // of a gateway

	bin   string
	args  []string
	ready func(ctx context.Context, since time.Time) error // nil once it serves

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended and is waited for; nil before the first start
	closed bool
}

// Restart kills the process if it lives, starts it on the same address and waits until it serves. When it does not, it is
// killed and the error holds the end of its log.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	// A server's start code is in whole milliseconds.
	began := time.Now().Truncate(time.Millisecond)
	exited, err := p.start()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	if err := p.wait(ctx, exited, began); err != nil {
		err = fmt.Errorf("start %s: %w\n%s ends:\n%s", p.Name, err, p.Log, p.tail())
		return errors.Join(err, p.Kill())
	}
	return nil
}

func (p *Process) start() (exited <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("the stack is closed")
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(p.bin, p.args...)
	cmd.Dir = filepath.Dir(p.Log)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C at a terminal reaches only the starter, which then ends the stack in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := fork(cmd.Start); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	p.cmd, p.exited = cmd, done
	go func() { // ends with the process, for which close and Kill wait
		cmd.Wait()
		close(done)
	}()
	return done, nil
}

// fork runs a start on the one thread that lives as long as this process. Linux sends the parent's death signal when the
// thread that forked ends, which for a goroutine's thread may be any time.
func fork(start func() error) error {
	err := make(chan error, 1)
	forks() <- func() { err <- start() }
	return <-err
}

var forks = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// wait polls until the process serves.
func (p *Process) wait(ctx context.Context, exited <-chan struct{}, began time.Time) error {
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	err := errors.New("nothing asked yet")
	for {
		select {
		case <-exited:
			return errors.New("it ended by itself")
		case <-ctx.Done():
			return fmt.Errorf("it does not serve after %.0f s (%v): %w", time.Since(began).Seconds(), err, ctx.Err())
		case <-tick.C:
		}
		// A server that is coming up accepts connections long before it answers.
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		err = p.ready(ask, began)
		cancel()
		if err == nil {
			return nil
		}
	}
}

// await waits until a process that was started before serves.
func (p *Process) await(ctx context.Context) error {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	if err := p.wait(ctx, exited, time.Now()); err != nil {
		return fmt.Errorf("wait for %s: %w", p.Name, err)
	}
	return nil
}

// Alive tells whether the process exists, stopped or not.
func (p *Process) Alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.aliveLocked()
}

func (p *Process) aliveLocked() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Kill ends the process with SIGKILL and waits for its end. A dead one stays dead.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.aliveLocked() {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.exited
	return nil
}

// Stop freezes the process: its sockets stay open and take bytes, and nothing answers.
func (p *Process) Stop() error { return p.signal(syscall.SIGSTOP) }

// Cont lets a stopped process go on.
func (p *Process) Cont() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.aliveLocked() {
		return fmt.Errorf("send %v to %s: it does not run", s, p.Name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %v to %s: %w", s, p.Name, err)
	}
	return nil
}

// close is Kill for good.
func (p *Process) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	return p.Kill()
}

// PID is the id of the running process, or 0.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.aliveLocked() {
		return 0
	}
	return p.cmd.Process.Pid
}

// RSS is the memory that the process holds, in bytes; 0 when it does not run.
func (p *Process) RSS() int64 {
	pid := p.PID()
	if pid == 0 {
		return 0
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// tail is the end of the log, enough for an exception and what led to it.
func (p *Process) tail() []byte {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return []byte(err.Error())
	}
	return lastLines(b, 60)
}

func lastLines(b []byte, n int) []byte {
	b = bytes.TrimRight(b, "\n")
	at := len(b)
	for range n {
		at = bytes.LastIndexByte(b[:at], '\n')
		if at < 0 {
			return b
		}
	}
	return b[at+1:]
}
