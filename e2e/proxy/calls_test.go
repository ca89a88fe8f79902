package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/e2e/wire"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

// behind is an embedded gateway with a table t, behind a proxy.
func behind(t *testing.T) (*Proxy, *wire.Conn) {
	t.Helper()
	store, err := gateway.OpenStore("")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.Open(gateway.Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(g.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		g.Close()
		store.Close()
	})
	c := client(t, p)
	if err := c.Do(t.Context(), func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.CreateTable(ctx, &thrift2.TTableDescriptor{
			TableName: &thrift2.TTableName{Qualifier: []byte("t")}, Columns: []*thrift2.TColumnFamilyDescriptor{{Name: []byte("d")}},
		}, nil)
	}); err != nil {
		t.Fatal(err)
	}
	return p, c
}

func client(t *testing.T, p *Proxy) *wire.Conn {
	t.Helper()
	c, err := wire.Dial(t.Context(), p.Addr(), wire.Protocol{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// put puts n rows of k bytes each to a table.
func put(t *testing.T, c *wire.Conn, table string, n, k int) error {
	t.Helper()
	return putWithin(t, 20*time.Second, c, table, n, k)
}

func putWithin(t *testing.T, timeout time.Duration, c *wire.Conn, table string, n, k int) error {
	t.Helper()
	timestamp := int64(1)
	var puts []*thrift2.TPut
	for i := range n {
		puts = append(puts, &thrift2.TPut{Row: fmt.Appendf(nil, "row%d", i), ColumnValues: []*thrift2.TColumnValue{{
			Family: []byte("d"), Qualifier: []byte("q"), Value: data(k), Timestamp: &timestamp,
		}}})
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return c.Do(ctx, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.PutMultiple(ctx, []byte(table), puts)
	})
}

func TestCallsAreCounted(t *testing.T) {
	p, c := behind(t)
	var mu sync.Mutex
	var seen []Call
	p.OnAcknowledged(func(c Call) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, c)
	})
	began := p.Counts()
	for _, n := range []int{1, 300, 2} {
		if err := put(t, c, "t", n, 160); err != nil {
			t.Fatal(err)
		}
	}
	if put(t, c, "nosuch", 5, 16) == nil {
		t.Fatal("a table that does not exist takes rows")
	}
	got := p.Counts()
	if got.Calls-began.Calls != 4 || got.Puts != 4 || got.Acknowledged != 3 || got.Rows != 303 {
		t.Errorf("counted %+v, want 4 calls and 3 acknowledged with 303 rows", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 3 || seen[1].Rows != 300 || string(seen[1].Key) != "row0" || seen[1].Method != "putMultiple" {
		t.Errorf("acknowledged %+v", seen)
	}
}

func TestRowsAreThrottled(t *testing.T) {
	p, _ := behind(t)
	const perSecond, connections, rows = 2000, 4, 100
	p.ThrottleRows(perSecond)
	var wg sync.WaitGroup
	began := time.Now()
	for range connections {
		c := client(t, p)
		wg.Go(func() {
			for range 3 {
				if err := put(t, c, "t", rows, 16); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if took, want := time.Since(began), time.Duration(3*connections*rows)*time.Second/perSecond-catchUp; took < want {
		t.Errorf("%d rows took %s, want at least %s", 3*connections*rows, took, want)
	}
}

func TestCallsAreHeldByMethod(t *testing.T) {
	p, c := behind(t)
	p.HoldCalls("putMultiple")
	other := client(t, p)
	done := make(chan error, 1)
	go func() { done <- put(t, c, "t", 1, 16) }()
	for p.Counts().HeldCalls == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := other.Do(t.Context(), func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		_, err := c.Exists(ctx, []byte("t"), &thrift2.TGet{Row: []byte("row0")})
		return err
	}); err != nil {
		t.Errorf("a read beside a held put: %v", err)
	}
	select {
	case err := <-done:
		t.Errorf("the put ended with %v while puts were held", err)
	default:
	}
	p.HoldCalls("")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnswersAreHarmed(t *testing.T) {
	p, c := behind(t)
	p.Garble(true)
	// The client may take it for the length of something and wait for the rest.
	if err := putWithin(t, time.Second, c, "t", 1, 16); err == nil {
		t.Error("garbage is taken for an answer")
	}
	p.Garble(false)
	p.Truncate(9)
	err := put(t, client(t, p), "t", 1, 16)
	if e, ok := errors.AsType[thrift.TTransportException](err); !ok || e.TypeId() != thrift.END_OF_FILE && !strings.Contains(e.Error(), "EOF") {
		t.Errorf("a truncated answer ends with %v, want the end of the stream", err)
	}
	p.Truncate(0)
	if err := put(t, client(t, p), "t", 1, 16); err != nil {
		t.Error(err)
	}
	if got := p.Counts(); got.Garbled == 0 || got.Truncated != 1 || got.Acknowledged != 1 {
		t.Errorf("counted %+v", got)
	}
}

func TestRetarget(t *testing.T) {
	p, c := behind(t)
	second, _ := behind(t)
	p.Retarget(second.target)
	p.Reset()
	if put(t, c, "t", 1, 16) == nil {
		t.Error("the connection before is not reset")
	}
	before := second.Counts().Connections
	if err := put(t, client(t, p), "t", 1, 16); err != nil {
		t.Error(err)
	}
	if second.Counts().Connections != before {
		t.Error("the proxy was used and not the server")
	}
}

func TestParseCallTakesAnything(t *testing.T) {
	whole := "\x80\x01\x00\x01\x00\x00\x00\x0bputMultiple\x00\x00\x00\x01\x0b\x00\x01\x00\x00\x00\x01t\x0f\x00\x02\x0c\x00\x00\x00\x07\x0b\x00\x01\x00\x00\x00\x02ab"
	if c := parseCall([]byte(whole)); c.Rows != 7 || string(c.Key) != "ab" {
		t.Errorf("got %+v", c)
	}
	for n := range len(whole) {
		parseCall([]byte(whole[:n]))
	}
	for _, text := range []string{"", "GET / HTTP/1.1\r\n", "\x80\x01\x00\x01\xff\xff\xff\xff", "\x80\x01\x00\x01\x7f\xff\xff\xff"} {
		if c := parseCall([]byte(text)); c.Method != "" || c.Rows != 0 {
			t.Errorf("%q is taken for %+v", text, c)
		}
	}
}
