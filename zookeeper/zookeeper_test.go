package zookeeper

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-zookeeper/zk"
)

func TestConfigTellsAllFaults(t *testing.T) {
	_, err := Open(Config{Servers: []string{"zk1", "zk2:0", ":2181"}, Local: []string{"zk9:2181"}, SessionTimeout: time.Millisecond, Auth: []Auth{{Scheme: "digest"}}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"zk1"`, `"zk2:0"`, `":2181"`, `"zk9:2181"`, "1ms", "auth 1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("no servers are taken")
	}
}

func mustWait(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// states collects what a client tells.
func states(c *Client) func() []string {
	var mu sync.Mutex
	var all []string
	c.OnState(func(s State, session Session) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, fmt.Sprintf("%v %d", s, session.N))
	})
	return func() []string {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func TestAHungServerCostsASixthOfTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.mute = true
		c := f.client(t)
		defer c.Close()
		began := time.Now()
		time.AfterFunc(time.Second, func() { f.set(func() { f.mute = false }) })
		mustWait(t, c)
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("connected after %v with one server that hangs, want little more than 2 s", took)
		}
		if n := f.connections(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

func TestNothingCrossesAnExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		defer c.Close()
		mustWait(t, c)
		told := states(c)
		old := c.Session()
		// The connection takes nothing any more: requests fill the library's queue.
		f.set(func() { f.mute = true })
		errs := make(chan error, 60)
		create := func(i int, o ops) { errs <- o.Create(t.Context(), fmt.Sprintf("/q%d", i), nil) }
		for i := range 40 {
			go create(i, c.ops)
		}
		synctest.Wait()
		f.mu.Lock()
		clear(f.sessions)
		f.down = true
		f.breakLocked()
		f.mu.Unlock()
		synctest.Wait()
		if s := c.State(); s != Suspended {
			t.Fatalf("the client is %v", s)
		}
		for i := range 20 {
			go create(40+i, c.In(old).ops)
		}
		synctest.Wait()
		f.set(func() { f.down, f.mute = false, false })
		unknown := 0
		for range 60 {
			err := <-errs
			if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrSessionLost) {
				t.Errorf("a request ended with %v", err)
			}
			if errors.Is(err, ErrUnknown) {
				unknown++
			}
		}
		mustWait(t, c)
		time.Sleep(time.Minute)
		if unknown == 0 || unknown > 40 {
			t.Errorf("%d of 60 are unknown: 40 were under way", unknown)
		}
		if n := f.requests("2:create"); n != 0 {
			t.Errorf("%d requests were sent under the next session", n)
		}
		if got, want := told(), []string{"connected 1", "suspended 1", "lost 1", "connected 2"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		if err := c.In(old).Create(t.Context(), "/late", nil); !errors.Is(err, ErrSessionLost) || errors.Is(err, ErrUnknown) {
			t.Errorf("a bound write: %v", err)
		}
		if err := c.In(Session{}).Create(t.Context(), "/none", nil); !errors.Is(err, ErrSessionLost) {
			t.Errorf("a write bound to no session: %v", err)
		}
		if err := c.In(c.Session()).Create(t.Context(), "/new", nil); err != nil {
			t.Error(err)
		}
	})
}

func TestSessionsFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		defer c.Close()
		for i := range 50 {
			mustWait(t, c)
			if n := c.Session().N; n != i+1 {
				t.Fatalf("after %d expiries it is session %d", i, n)
			}
			f.expire()
			synctest.Wait()
		}
		if n := f.connections(); n != 99 {
			t.Errorf("%d connections, want 1, and 2 for each of 49 expiries: one that says so and one that goes on", n)
		}
	})
}

func TestASuspendedSessionLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		defer c.Close()
		mustWait(t, c)
		told := states(c)
		f.set(func() { f.down = true })
		synctest.Wait()
		// A call waits for the connection, and is sent in the same session.
		time.AfterFunc(7*time.Second, func() { f.set(func() { f.down = false }) })
		if err := c.Create(t.Context(), "/n", nil); err != nil {
			t.Error(err)
		}
		if got, want := told(), []string{"connected 1", "suspended 1", "connected 1"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		f.set(func() { f.down = true })
		synctest.Wait()
		began := time.Now()
		err := c.Create(t.Context(), "/m", nil)
		if took := time.Since(began); took != 12*time.Second || !errors.Is(err, ErrNotConnected) || errors.Is(err, ErrUnknown) {
			t.Errorf("without a connection a write ended after %v with %v", took, err)
		}
	})
}

func TestASessionIsGivenUpAfterThreeTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		defer c.Close()
		mustWait(t, c)
		told := states(c)
		began := time.Now()
		var lost time.Duration
		c.OnState(func(s State, _ Session) {
			if s == Lost {
				lost = time.Since(began)
				f.set(func() { f.shut = false })
			}
		})
		f.set(func() { f.shut = true; f.breakLocked() })
		time.Sleep(35 * time.Second)
		if s := c.State(); s != Suspended {
			t.Errorf("after 35 s the client is %v", s)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if lost != 36*time.Second {
			t.Errorf("lost after %v, want three times 12 s", lost)
		}
		if got, want := told(), []string{"connected 1", "suspended 1", "lost 1", "connected 2"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		if n := f.connections(); n < 10 || n > 60 {
			t.Errorf("%d connections in 36 s", n)
		}
	})
}

func TestWatchesTellTheNewestWhateverIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		defer c.Close()
		var mu sync.Mutex
		var got []string
		hold := make(chan struct{})
		stop := c.WatchNode(t.Context(), "/n", func(n Node) {
			s := "none"
			if n.Exists {
				s = string(n.Data)
			}
			mu.Lock()
			got = append(got, s)
			mu.Unlock()
			if s == "0" {
				<-hold
			}
		})
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(got, want) {
				t.Errorf("told %q, want %q", got, want)
			}
			got = nil
		}
		time.Sleep(time.Second) // connects, and reads once more after that
		expect("none", "none")
		f.write("/n", "0")
		for i := range 100 {
			synctest.Wait()
			f.write("/n", fmt.Sprint(i+1))
		}
		close(hold)
		expect("0", "100")

		// Each half minute, whatever is heard; and a watch that the server has lost is set again.
		time.Sleep(37 * time.Second)
		expect("100")
		f.set(func() { f.deaf = true })
		f.write("/n", "unheard")
		f.set(func() { f.deaf = false; clearWatches(f) })
		time.Sleep(37 * time.Second)
		expect("unheard")
		f.write("/n", "heard")
		expect("heard")

		// Over a lost connection and over a lost session.
		f.set(func() { f.down = true })
		f.write("/n", "away")
		time.Sleep(5 * time.Second)
		expect()
		f.set(func() { f.down = false })
		time.Sleep(6 * time.Second)
		expect("away")
		f.expire()
		f.write("/n", "between")
		time.Sleep(3 * time.Second)
		expect("between")
		f.write("/n", "after")
		expect("after")

		// However often it was read, the library holds one watch.
		for range 20 {
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		c.mu.Lock()
		if n := len(c.link.armed); n != 1 {
			t.Errorf("%d watches are armed", n)
		}
		c.mu.Unlock()
		reads := f.requests("2:get") + f.requests("2:exists")
		mu.Lock()
		if len(got) < 30 || len(got) > 60 {
			t.Errorf("told %d times in 20 quiet minutes, want every half minute or so", len(got))
		}
		got = nil
		mu.Unlock()
		stop()
		f.write("/n", "unseen")
		time.Sleep(5 * time.Minute)
		expect()
		if n := f.requests("2:get") + f.requests("2:exists"); n > reads {
			t.Errorf("read %d times after stop", n-reads)
		}
	})
}

func clearWatches(f *fake) {
	for c := range f.conns {
		clear(c.watches)
	}
}

func TestReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		defer c.Close()
		hold := make(chan struct{})
		var mu sync.Mutex
		running, most, told := 0, 0, map[string]bool{}
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 100 {
			path := fmt.Sprintf("/n%d", i)
			c.WatchChildren(ctx, path, func(Listing) {
				mu.Lock()
				running++
				most = max(most, running)
				told[path] = true
				mu.Unlock()
				<-hold
				mu.Lock()
				running--
				mu.Unlock()
			})
		}
		mustWait(t, c)
		synctest.Wait()
		// Events, states and calls go on while every reader is held up.
		if err := c.Create(t.Context(), "/x", nil); err != nil {
			t.Error(err)
		}
		for i := range 100 {
			f.write(fmt.Sprintf("/n%d", i), "")
		}
		synctest.Wait()
		if most != maxReaders {
			t.Errorf("%d at once, want %d", most, maxReaders)
		}
		close(hold)
		synctest.Wait()
		if len(told) != 100 {
			t.Errorf("%d of 100 watches were told", len(told))
		}
		cancel()
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(c.spots); n != 0 {
			t.Errorf("%d paths are watched after the end of their context", n)
		}
	})
}

func TestClientsDoNotComeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		const n = 200
		clients := make([]*Client, n)
		for i := range clients {
			clients[i] = f.client(t)
			defer clients[i].Close()
			mustWait(t, clients[i])
		}
		// Servers go for 30 s and come back.
		f.set(func() { f.down, f.dials = true, nil })
		time.Sleep(10 * time.Second)
		f.set(func() { f.dials = nil })
		time.Sleep(20 * time.Second)
		if perSecond := f.connections() / 20; perSecond > 2*n {
			t.Errorf("%d clients make %d connections a second to servers that are away", n, perSecond)
		}
		f.set(func() { f.down, f.dials = false, nil })
		for _, c := range clients {
			mustWait(t, c)
			if c.Session().N != 1 {
				t.Error("a session was given up")
			}
		}
		// Spread over seconds: 20 ms never see a tenth of them.
		f.mu.Lock()
		defer f.mu.Unlock()
		for i := range f.dials {
			j := i
			for j < len(f.dials) && f.dials[j].Sub(f.dials[i]) < 20*time.Millisecond {
				j++
			}
			if j-i > n/10 {
				t.Fatalf("%d of %d clients come within 20 ms", j-i, n)
			}
		}
	})
}

func TestCredentialsComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.noes = true
		c := f.client(t, func(c *Config) { c.Auth = []Auth{{"digest", "a:b"}, {"digest", "c:d"}} })
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := c.Wait(ctx); !errors.Is(err, ErrNoAuth) || !errors.Is(err, ErrNotConnected) {
			t.Errorf("with refused credentials waiting ends with %v", err)
		}
		f.set(func() { f.noes = false; f.log = nil })
		if err := c.Create(t.Context(), "/n", nil); err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.breakLocked(); f.log = nil })
		synctest.Wait()
		if err := c.Create(t.Context(), "/m", nil); err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.log) < 3 || f.log[0] != "1:auth" || f.log[1] != "1:auth" {
			t.Errorf("after a reconnection came %q", f.log)
		}
	})
}

func TestTLS(t *testing.T) {
	// Only its certificate is of use here: it is for example.com.
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	certificate := web.TLS.Certificates[0]
	synctest.Test(t, func(t *testing.T) {
		for server, good := range map[string]bool{"example.com:2281": true, "example.org:2281": false} {
			f := newFake()
			c := f.client(t, func(c *Config) {
				c.Servers, c.TLS = []string{server}, &tls.Config{RootCAs: roots}
				c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					inner, err := f.dial(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					ours, theirs := net.Pipe()
					go func() { // ends when the client closes
						secure := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{certificate}})
						go io.Copy(secure, inner)
						io.Copy(inner, secure)
						inner.Close()
						theirs.Close()
					}()
					return ours, nil
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err := c.Wait(ctx)
			if good {
				if err == nil {
					err = c.Create(ctx, "/n", nil)
				}
				if err != nil {
					t.Errorf("%s: %v", server, err)
				}
			} else if !errors.Is(err, ErrNotConnected) || !strings.Contains(err.Error(), "example.org") {
				t.Errorf("%s: a server with a certificate for another name: %v", server, err)
			}
			cancel()
			c.Close()
		}
	})
}

func TestCloseEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		mustWait(t, c)
		c.Close()
		f.set(func() {
			if len(f.sessions) != 0 {
				t.Error("the session is left to expire")
			}
		})
		c.Close()
		if err := c.Wait(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("waiting ends with %v", err)
		}
		if err := c.Create(t.Context(), "/n", nil); !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknown) {
			t.Errorf("a write ends with %v", err)
		}

		// A server that hangs holds nobody up, nor one that is away.
		for name, fault := range map[string]func(){"mute": func() { f.mute = true }, "down": func() { f.down = true; f.breakLocked() }} {
			f.set(func() { f.mute, f.down = false, false })
			c := f.client(t)
			mustWait(t, c)
			f.set(fault)
			synctest.Wait()
			failed := make(chan error)
			go func() { failed <- c.Create(context.Background(), "/n", nil) }()
			synctest.Wait()
			began := time.Now()
			c.Close()
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%s: closing took %v", name, took)
			}
			if err := <-failed; !errors.Is(err, ErrClosed) {
				t.Errorf("%s: the write ended with %v", name, err)
			}
		}
	})
}

func TestOnState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := f.client(t)
		defer c.Close()
		calls := 0
		hold := make(chan struct{})
		stop := c.OnState(func(State, Session) { calls++; <-hold })
		mustWait(t, c) // while a listener is stuck
		f.set(func() { f.breakLocked() })
		time.Sleep(5 * time.Second)
		mustWait(t, c)
		close(hold)
		synctest.Wait()
		before := calls
		if before != 4 {
			t.Errorf("%d calls, want connecting, connected, suspended, connected", before)
		}
		stop()
		f.set(func() { f.breakLocked() })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if calls != before {
			t.Error("called after stop")
		}
	})
}

func TestHosts(t *testing.T) {
	over := false
	answers := map[string][]string{"l": {"10.0.0.1", "10.0.0.2"}, "o": {"10.1.0.1"}}
	h := &hosts{
		local: []string{"l:1"}, others: []string{"o:2", "gone:3"}, timeout: 12 * time.Second, ctx: t.Context(), first: true,
		known: map[string][]string{}, ended: func() bool { return over },
		resolve: func(_ context.Context, host string) ([]string, error) {
			if a := answers[host]; a != nil {
				return a, nil
			}
			return nil, errors.New("no such host")
		},
	}
	order := func(n int) (all []string) {
		for range n {
			a, flag := h.Next()
			if flag {
				t.Fatal("it says that the link is over")
			}
			all = append(all, a)
		}
		return all
	}
	firsts, waits := map[string]int{}, []time.Duration{}
	for i := range 200 {
		o := order(4)
		wait, _ := h.next()
		waits = append(waits, wait)
		local, others := slices.Sorted(slices.Values(o[:2])), slices.Sorted(slices.Values(o[2:]))
		if !slices.Equal(local, []string{"10.0.0.1:1", "10.0.0.2:1"}) || !slices.Equal(others, []string{"10.1.0.1:2", "gone:3"}) {
			t.Fatalf("order %d is %q", i, o)
		}
		firsts[o[0]]++
	}
	if firsts["10.0.0.1:1"] < 50 || firsts["10.0.0.2:1"] < 50 {
		t.Errorf("the first of 200 orders is %v", firsts)
	}
	if m := slices.Max(waits); m > 500*time.Millisecond {
		t.Errorf("inside an order it waits %v", m)
	}
	// The server that was lost comes last, names are resolved again, and one without an answer keeps its addresses.
	h.settled()
	lost, _ := h.Next()
	h.Connected()
	delete(answers, "l")
	answers["gone"] = []string{"10.3.0.1"}
	o := order(4)
	if o[3] != lost || !slices.Contains(o, "10.3.0.1:3") {
		t.Errorf("after the loss of %s the order is %q", lost, o)
	}
	if w, name := h.next(); name != "l:1" || w > 500*time.Millisecond {
		t.Errorf("the next is of %q after %v", name, w)
	}
	var longest time.Duration
	for range 20 {
		h.Next()
		w, _ := h.next()
		longest = max(longest, w)
		order(3)
	}
	if longest < time.Second || longest > 4*time.Second {
		t.Errorf("it waits %v between orders, want a third of the session timeout at most", longest)
	}
	over = true
	if _, flag := h.Next(); !flag {
		t.Error("it does not say that the link is over")
	}
}

// talk gives a wire whose other end says these bytes.
func talk(t *testing.T, says []byte) *wire {
	ours, theirs := net.Pipe()
	go func() {
		theirs.Write(says)
		theirs.Close()
	}()
	t.Cleanup(func() { ours.Close() })
	return &wire{Conn: ours, bare: ours, until: time.Now().Add(time.Minute), took: func(int64, time.Duration) {}}
}

func readAll(w *wire) (n int, err error) {
	buf := make([]byte, 1000)
	for {
		m, err := w.Read(buf)
		n += m
		if err != nil {
			return n, err
		}
	}
}

func hello() []byte {
	return str(nil, str(be64(be32(be32(nil, 0), 4000), 77), make([]byte, 16)))
}

func TestWireRefusesWhatIsNotZooKeeper(t *testing.T) {
	ok := append(hello(), str(nil, make([]byte, 16))...)
	ok = append(ok, str(nil, make([]byte, 5000))...)
	w := talk(t, ok)
	var session int64
	var timeout time.Duration
	w.took = func(s int64, d time.Duration) { session, timeout = s, d }
	if n, err := readAll(w); n != len(ok) || err == nil || strings.Contains(err.Error(), "ZooKeeper") {
		t.Errorf("read %d bytes of %d: %v", n, len(ok), err)
	}
	if session != 77 || timeout != 4*time.Second {
		t.Errorf("the handshake gave %d and %v", session, timeout)
	}
	for name, says := range map[string][]byte{
		"http":        []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"short hello": str(nil, make([]byte, 8)),
		"short reply": append(hello(), str(nil, make([]byte, 20)[:3])...),
		"long reply":  append(hello(), be32(nil, maxReply+1)...),
		"negative":    append(hello(), be32(nil, -5)...),
	} {
		says = append(says, make([]byte, 64)...)
		if n, err := readAll(talk(t, says)); err == nil || !strings.Contains(err.Error(), "ZooKeeper") || n > len(hello()) {
			t.Errorf("%s: %d bytes came through, %v", name, n, err)
		}
	}
}

func FuzzWire(f *testing.F) {
	f.Add(hello())
	f.Add(append(hello(), str(nil, make([]byte, 40))...))
	f.Fuzz(func(t *testing.T, says []byte) {
		// Whatever is said: no panic, no more than what was said, and whole frames of a size that the library takes.
		w := talk(t, says)
		n, err := readAll(w)
		if err == nil || n > len(says) {
			t.Errorf("%d bytes of %d, %v", n, len(says), err)
		}
	})
}

func TestWireCapsTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		w := &wire{Conn: ours, bare: ours, until: time.Now().Add(2 * time.Second), took: func(int64, time.Duration) {}}
		defer w.abort()
		// The library's own deadlines: nearly seven session timeouts, and none for what follows the first bytes.
		w.SetReadDeadline(time.Now().Add(80 * time.Second))
		go theirs.Write(hello()[:10])
		began := time.Now()
		_, err := w.Read(make([]byte, 4))
		if took := time.Since(began); took != 2*time.Second || err == nil {
			t.Errorf("half a handshake ended after %v with %v", took, err)
		}
	})
}

func TestErrors(t *testing.T) {
	l := &link{c: &Client{}}
	for _, x := range []struct{ theirs, ours error }{
		{zk.ErrNoNode, ErrNoNode},
		{zk.ErrBadVersion, ErrBadVersion},
		{zk.ErrConnectionClosed, ErrUnknown},
		{&net.OpError{Op: "write", Err: errors.New("reset")}, ErrUnknown},
		{zk.ErrSessionMoved, ErrUnknown},
		{zk.ErrSessionExpired, ErrSessionLost},
	} {
		if got := l.meaning(x.theirs); !errors.Is(got, x.ours) {
			t.Errorf("%v means %v, want %v", x.theirs, got, x.ours)
		}
	}
	l.dead = true
	if err := l.meaning(zk.ErrConnectionClosed); !errors.Is(err, ErrUnknown) || !errors.Is(err, ErrSessionLost) {
		t.Errorf("under way at the end of a link: %v", err)
	}
	if err := l.meaning(zk.ErrNoServer); errors.Is(err, ErrUnknown) || !errors.Is(err, ErrSessionLost) {
		t.Errorf("queued at the end of a link: %v", err)
	}
}
