package hbase_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drover/hbase"
	"drover/hbase/gateway"
)

// A pool with a dialer of its own connects by nothing else, to addresses that mean something to it alone, and speaks as its Transport says.
func TestPoolDial(t *testing.T) {
	for name, transport := range map[string]hbase.Transport{"plain": {}, "framed": {Framed: true}, "http": {HTTP: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := gateway.Open(gateway.Options{Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var dials, refuse atomic.Int32 // refuse is how many more fail
			p := hbase.NewPool(hbase.PoolOptions{
				Transport: transport, OutageLimit: 10 * time.Second,
				Dial: func(ctx context.Context, addr string) (net.Conn, error) {
					dials.Add(1)
					switch {
					case addr != "own":
						return nil, errors.New("the dialer is asked for " + addr)
					case refuse.Add(-1) >= 0:
						return nil, errors.New("not now")
					}
					return new(net.Dialer).DialContext(ctx, "tcp", s.Addr())
				},
			})
			defer p.Close()
			p.Update([]hbase.Endpoint{{Addr: "own"}})
			admin := hbase.NewAdmin(p)
			if there, err := admin.TableExists(t.Context(), "t"); there || err != nil {
				t.Fatalf("table t: %v, %v", there, err)
			}

			// The gateway breaks and is set aside; the probe that brings it back needs a connection too.
			before := dials.Load()
			refuse.Store(2)
			s.Faults().Drop()
			if there, err := admin.TableExists(t.Context(), "t"); there || err != nil {
				t.Errorf("after the outage: table t: %v, %v", there, err)
			}
			if n := dials.Load() - before; n < 3 {
				t.Errorf("%d connections were asked for, two of which failed", n)
			}
		})
	}
}

// ConnectTimeout bounds a dialer, and what it says is in the error.
func TestPoolDialFails(t *testing.T) {
	for _, test := range []struct {
		want string
		dial hbase.DialFunc
	}{
		{"nobody there", func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody there") }},
		{"deadline exceeded", func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }},
	} {
		p := hbase.NewPool(hbase.PoolOptions{
			Transport: hbase.Transport{ConnectTimeout: 20 * time.Millisecond}, Dial: test.dial, OutageLimit: 300 * time.Millisecond,
		})
		p.Update([]hbase.Endpoint{{Addr: "own"}})
		_, err := hbase.NewAdmin(p).TableExists(t.Context(), "t")
		if _, ok := errors.AsType[*hbase.OutageError](err); !ok || !strings.Contains(err.Error(), "own: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error is %v, want an outage with %q", err, test.want)
		}
		p.Close()
	}
}
