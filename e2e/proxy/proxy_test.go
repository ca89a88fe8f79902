package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// echo is a server that answers every byte with itself, and a proxy before it.
func echo(t *testing.T) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	p, err := Start(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		l.Close()
		wg.Wait()
		goleak.VerifyNone(t)
	})
	return p
}

func dial(t *testing.T, p *Proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// exchange sends data and reads as much back.
func exchange(c net.Conn, data []byte) ([]byte, error) {
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		failed <- err
	}()
	got := make([]byte, len(data))
	n, err := io.ReadFull(c, got)
	if err != nil {
		c.Close()
	}
	return got[:n], errors.Join(err, <-failed)
}

func data(n int) []byte { return slices.Repeat([]byte("0123456789abcdef"), n/16) }

func TestPass(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	want := data(1 << 20)
	got, err := exchange(c, want)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %d bytes, %v", len(rest), err)
	}
	if n := p.Counts(); n.Connections != 1 || n.Bytes[Up] != 1<<20 || n.Bytes[Down] != 1<<20 {
		t.Errorf("got %+v", n)
	}
}

func TestThrottleIsShared(t *testing.T) {
	p := echo(t)
	p.Throttle(Up, 1<<20)
	began := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		c := dial(t, p)
		wg.Go(func() {
			if _, err := exchange(c, data(128<<10)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// 512 KiB at 1 MiB/s, less a burst; the upper bound only says that it is no constant stall.
	if took := time.Since(began); took < 450*time.Millisecond || took > 5*time.Second {
		t.Errorf("took %v, want about 0.5 s", took)
	}
	p.Throttle(Up, 0)
	if _, err := exchange(dial(t, p), data(1<<20)); err != nil {
		t.Error(err)
	}
}

func TestDelay(t *testing.T) {
	p := echo(t)
	p.Delay(50 * time.Millisecond)
	began := time.Now()
	// Many chunks, each of which waits: together they take the delay of one.
	if _, err := exchange(dial(t, p), data(512<<10)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 100*time.Millisecond || took > time.Second {
		t.Errorf("took %v, want the delay there and back", took)
	}
}

func TestHold(t *testing.T) {
	p := echo(t)
	p.Hold()
	c := dial(t, p)
	done := make(chan error, 1)
	go func() {
		_, err := exchange(c, data(1<<10))
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("something passed while held: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	p.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReset(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	if _, err := exchange(c, data(16)); err != nil {
		t.Fatal(err)
	}
	if n := p.Reset(); n != 1 {
		t.Errorf("reset %d connections, want 1", n)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a reset", err)
	}
	if n := p.Counts().Resets; n != 1 {
		t.Errorf("counts %d resets, want 1", n)
	}
}

func TestRefuse(t *testing.T) {
	p := echo(t)
	p.Refuse(true)
	// The reset may come before the dialer looks, or after.
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		defer c.Close()
		if _, err := exchange(c, data(16)); err == nil {
			t.Error("a refused connection works")
		}
	}
	p.Refuse(false)
	if _, err := exchange(dial(t, p), data(16)); err != nil {
		t.Error(err)
	}
	if n := p.Counts(); n.Refused != 1 || n.Connections != 1 {
		t.Errorf("got %+v", n)
	}
}

func TestCutAfter(t *testing.T) {
	p := echo(t)
	p.CutAfter(Down, 100)
	if _, err := exchange(dial(t, p), data(64)); err != nil {
		t.Fatal(err)
	}
	got, err := exchange(dial(t, p), data(64))
	if err == nil || len(got) != 36 {
		t.Errorf("got %d bytes and %v, want 36 and an error", len(got), err)
	}
	if _, err := exchange(dial(t, p), data(1<<16)); err != nil {
		t.Errorf("after the cut: %v", err)
	}
	if n := p.Counts().Cuts; n != 1 {
		t.Errorf("counts %d cuts, want 1", n)
	}
}
