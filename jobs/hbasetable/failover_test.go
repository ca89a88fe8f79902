package hbasetable

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"drover/hbase"
	"drover/hbase/gateway"
)

// cutter is a way to a gateway on which most connections break in the middle of an answer.
type cutter struct {
	l    net.Listener
	to   string
	wg   sync.WaitGroup
	cuts atomic.Int64

	mu sync.Mutex
	r  *rand.Rand
}

func newCutter(t testing.TB, to string, seed uint64) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, to: to, r: rand.New(rand.NewPCG(seed, seed))}
	c.wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.pass(near) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.wg.Wait()
	})
	return c
}

// pass copies in both directions until answers have had their share of bytes: 9 of 10 connections less than a page, and none
// more than some pages.
func (c *cutter) pass(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer far.Close()
	c.mu.Lock()
	share := 1 + c.r.Int64N(150_000)
	if c.r.IntN(10) == 0 {
		share += 500_000
	}
	c.mu.Unlock()
	var up sync.WaitGroup
	up.Go(func() {
		io.Copy(far, near)
		far.Close()
	})
	if n, _ := io.CopyN(near, far, share); n == share {
		c.cuts.Add(1)
	}
	near.Close()
	up.Wait()
}

// rotating asks another gateway for each page, and the next one when that fails.
type rotating struct {
	addrs []string
	admin *hbase.Admin

	mu    sync.Mutex
	next  int
	conns []*hbase.Conn
	fails int // answers that did not come whole, each followed by the next gateway's
	moves int // pages that came from another gateway than the page before
	last  int
}

func (c *rotating) ClusterID(context.Context) (string, error) { return "one", nil }

func (c *rotating) Regions(ctx context.Context, table string) ([]hbase.Region, error) {
	return c.admin.Regions(ctx, table)
}

func (c *rotating) ScanPage(ctx context.Context, table string, s *hbase.Scan, n int, page *hbase.Page) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		i := c.next % len(c.addrs)
		c.next++
		if c.conns[i] == nil {
			conn, err := hbase.Dial(ctx, c.addrs[i], hbase.Transport{})
			if err != nil {
				return err
			}
			c.conns[i] = conn
		}
		err := c.conns[i].ScanPage(ctx, table, s, n, page)
		if err == nil {
			if i != c.last {
				c.moves++
			}
			c.last = i
			return nil
		}
		if kind, _ := hbase.Classify(err); kind != hbase.Elsewhere {
			return err
		}
		if len(page.Rows) > 0 {
			return fmt.Errorf("%d rows of an answer that did not come whole: %w", len(page.Rows), err)
		}
		c.conns[i].Close()
		c.conns[i] = nil
		c.fails++
	}
}

type direct struct{ conn *hbase.Conn }

func (d direct) Call(ctx context.Context, _ string, f func(context.Context, *hbase.Conn) error) error {
	return f(ctx, d.conn)
}

// Pages whose answers break off in the middle are asked for through the next gateway, again and again: no row is missed and
// none comes twice. Reduced unless DROVER_PROVE=1, which has 10,000 fail-overs over 1,000,000 rows.
func TestFailOvers(t *testing.T) {
	r := seed(t)
	n, want := 60_000, 300
	if os.Getenv("DROVER_PROVE") == "1" {
		n, want = 1_000_000, 10_000
	}
	store, err := gateway.OpenStore("")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := &rotating{conns: make([]*hbase.Conn, 3)}
	var cutters []*cutter
	for i := range 3 {
		g, err := gateway.Open(gateway.Options{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		cutters = append(cutters, newCutter(t, g.Addr(), r.Uint64()))
		c.addrs = append(c.addrs, cutters[i].l.Addr().String())
		if i == 0 {
			conn, err := hbase.Dial(t.Context(), g.Addr(), hbase.Transport{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			c.admin = hbase.NewAdmin(direct{conn})
			fill(t, c.admin, conn, n)
		}
	}
	defer func() {
		for _, conn := range c.conns {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	s := connect(c, Options{})
	l := plan(t, s, 4)
	rows, passes := 0, 0
	for c.fails < want {
		passes++
		next := 0
		for _, row := range readAll(t, s, l, never) {
			if key := fmt.Sprintf("row%09d", next); string(row.Key) != key || len(row.Cells) != 1 || string(row.Cells[0].Value) != key {
				t.Fatalf("row %d is %q with %d cells, want %q", next, row.Key, len(row.Cells), key)
			}
			next++
		}
		if next != n {
			t.Fatalf("%d rows, want %d", next, n)
		}
		rows += next
	}
	cuts := int64(0)
	for _, x := range cutters {
		cuts += x.cuts.Load()
	}
	t.Logf("%d answers broke off (%d connections cut) while %d rows were read in %d passes; %d pages came from another gateway than the one before",
		c.fails, cuts, rows, passes, c.moves)
	if c.moves == 0 || cuts == 0 {
		t.Error("nothing was shown")
	}
}

func fill(t testing.TB, admin *hbase.Admin, conn *hbase.Conn, n int) {
	t.Helper()
	err := admin.Create(t.Context(), hbase.TableSpec{Name: "t", Families: []hbase.Family{{Name: "d"}}, Splits: [][]byte{fmt.Appendf(nil, "row%09d", n/3)}})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; {
		b := hbase.AcquireBatch(hbase.SyncWAL)
		for ; i < n && b.Rows() < 2000; i++ {
			key := fmt.Appendf(nil, "row%09d", i)
			b.Begin(key)
			b.Cell(hbase.Put, []byte("d"), []byte("q"), 1, key)
			b.End()
		}
		if err := conn.PutMultiple(t.Context(), "t", b, 0, b.Rows()); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
}
