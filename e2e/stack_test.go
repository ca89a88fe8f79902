package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"drover/e2e/check"
	"drover/e2e/stack"
	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

// TestStack harms each kind of server and sees that it is gone, or stuck, and back.
func TestStack(t *testing.T) {
	s := stack.Shared(t)
	name := newTable(t, s)
	table := &thrift2.TTableName{Ns: []byte("default"), Qualifier: []byte(name)}
	must(t, gatewayCall(s, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		desc := &thrift2.TTableDescriptor{TableName: table, Columns: []*thrift2.TColumnFamilyDescriptor{{Name: []byte("d")}}}
		return c.CreateTable(ctx, desc, [][]byte{{'1'}, {'2'}, {'3'}, {'4'}, {'5'}})
	}))
	write := func(from, to int) error {
		var puts []*thrift2.TPut
		timestamp := int64(5)
		for i := from; i < to; i++ {
			puts = append(puts, &thrift2.TPut{Row: fmt.Appendf(nil, "%d-%d", i%6, i), ColumnValues: []*thrift2.TColumnValue{{
				Family: []byte("d"), Qualifier: []byte("q"), Value: []byte("v"), Timestamp: &timestamp,
			}}})
		}
		return gatewayCall(s, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			return c.PutMultiple(ctx, []byte(name), puts)
		})
	}
	count := func(t *testing.T, want int64) {
		t.Helper()
		v, err := check.CountVersions(t.Context(), check.Table{Addr: s.Addrs()[0], Name: name})
		must(t, err)
		if v.Rows != want || v.Cells != want {
			t.Errorf("got %+v, want %d rows of one cell", v, want)
		}
	}
	must(t, write(0, 600))
	count(t, 600)

	t.Run("region servers share the regions", func(t *testing.T) {
		servers := map[int32]bool{}
		must(t, gatewayCall(s, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			locations, err := c.GetAllRegionLocations(ctx, []byte(name))
			for _, l := range locations {
				servers[l.ServerName.GetPort()] = true
			}
			return err
		}))
		if len(servers) != len(s.RegionServers) {
			t.Errorf("six regions are on %d of %d region servers", len(servers), len(s.RegionServers))
		}
	})
	t.Run("gateways tell their state over HTTP", func(t *testing.T) {
		resp, err := http.Get("http://" + s.Gateways[0].Info + "/jmx")
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("got %s", resp.Status)
		}
	})
	t.Run("a gateway killed", func(t *testing.T) {
		g := s.Gateways[1]
		must(t, g.Kill())
		if g.Alive() || g.PID() != 0 {
			t.Error("it lives")
		}
		if _, err := wire.Dial(t.Context(), g.Addr, g.Protocol); err == nil {
			t.Error("it still takes connections")
		}
		must(t, g.Restart(t.Context()))
		must(t, ping(t.Context(), g, time.Minute))
	})
	t.Run("a gateway stopped", func(t *testing.T) {
		g := s.Gateways[2]
		must(t, g.Stop())
		if err := ping(t.Context(), g, time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a stopped gateway answers %v", err)
		}
		must(t, g.Cont())
		must(t, ping(t.Context(), g, time.Minute))
	})
	t.Run("a region server killed", func(t *testing.T) {
		began := time.Now()
		must(t, s.RegionServers[0].Kill())
		must(t, s.RegionServers[0].Restart(t.Context()))
		t.Logf("back after %.1f s", time.Since(began).Seconds())
		count(t, 600) // waits until its regions are served again
		must(t, write(600, 1200))
		count(t, 1200)
	})
	t.Run("what a test left dead is mended", func(t *testing.T) {
		must(t, s.Gateways[0].Kill())
		must(t, s.Gateways[1].Stop())
		stack.Shared(t)
		for _, g := range s.Gateways {
			must(t, ping(t.Context(), g, time.Minute))
		}
	})
	var sum int64
	for _, p := range append(append([]*stack.Process{s.Quorum, s.Master}, s.RegionServers...), s.Gateways...) {
		sum += p.RSS()
	}
	t.Logf("all servers hold %d MB", sum>>20)
}

func ping(ctx context.Context, g *stack.Process, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return wire.Call(ctx, g.Addr, g.Protocol, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		_, err := c.ListNamespaces(ctx)
		return err
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
