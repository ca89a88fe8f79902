package hbase

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
)

// store is a small Thrift2 service: tables of rows with one version, and an error to throw.
type store struct {
	thrift2.THBaseService // what is not written below must not be called

	mu        sync.Mutex
	tables    map[string]*storedTable
	loseSplit bool  // as framed gateways do
	fail      error // returned by calls about rows
}

type storedTable struct {
	families []*thrift2.TColumnFamilyDescriptor
	splits   [][]byte
	disabled bool
	rows     map[string][]*thrift2.TColumnValue
	deletes  int
}

func newStore() *store { return &store{tables: map[string]*storedTable{}} }

func ioError(text string) error { return &thrift2.TIOError{Message: &text} }

func (s *store) table(name string) (*storedTable, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	return nil, ioError(name)
}

func named(n *thrift2.TTableName) string {
	if ns := string(n.Ns); ns != "" && ns != "default" {
		return ns + ":" + string(n.Qualifier)
	}
	return string(n.Qualifier)
}

func (s *store) PutMultiple(_ context.Context, table []byte, puts []*thrift2.TPut) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.table(string(table))
	if err != nil {
		return err
	}
	for _, p := range puts {
		for _, v := range p.ColumnValues {
			if v.Timestamp == nil {
				v.Timestamp = p.Timestamp
			}
		}
		t.rows[string(p.Row)] = append(t.rows[string(p.Row)], p.ColumnValues...)
	}
	return nil
}

func (s *store) DeleteMultiple(_ context.Context, table []byte, deletes []*thrift2.TDelete) ([]*thrift2.TDelete, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.table(string(table))
	if err == nil {
		t.deletes += len(deletes)
	}
	return []*thrift2.TDelete{}, err
}

func (s *store) GetMultiple(_ context.Context, table []byte, gets []*thrift2.TGet) ([]*thrift2.TResult_, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.table(string(table))
	if err != nil {
		return nil, err
	}
	out := make([]*thrift2.TResult_, len(gets))
	for i, g := range gets {
		out[i] = &thrift2.TResult_{Row: g.Row, ColumnValues: []*thrift2.TColumnValue{}}
		for _, v := range t.rows[string(g.Row)] {
			if slices.ContainsFunc(g.Columns, func(c *thrift2.TColumn) bool {
				return bytes.Equal(v.Family, c.Family) && bytes.Equal(v.Qualifier, c.Qualifier) && c.Qualifier != nil && *v.Timestamp == g.GetTimestamp()
			}) {
				out[i].ColumnValues = append(out[i].ColumnValues, v)
			}
		}
	}
	return out, nil
}

func (s *store) GetScannerResults(_ context.Context, table []byte, scan *thrift2.TScan, n int32) ([]*thrift2.TResult_, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.table(string(table))
	if err != nil {
		return nil, err
	}
	if scan.GetCacheBlocks() || scan.GetCaching() != n || scan.MaxVersions < 1 {
		return nil, ioError("a careless scan")
	}
	out := []*thrift2.TResult_{}
	for _, key := range slices.Sorted(maps.Keys(t.rows)) {
		if len(out) == int(n) || key < string(scan.StartRow) || len(scan.StopRow) > 0 && key >= string(scan.StopRow) {
			continue
		}
		out = append(out, &thrift2.TResult_{Row: []byte(key), ColumnValues: t.rows[key]})
	}
	return out, nil
}

func (s *store) GetClusterId(context.Context) (string, error) { return "cluster-1", nil }

// listen starts a gateway for a transport and returns its address.
func listen(t *testing.T, h thrift2.THBaseService, tr *Transport) string {
	t.Helper()
	processor := thrift2.NewTHBaseServiceProcessor(h)
	var protocols thrift.TProtocolFactory = thrift.NewTBinaryProtocolFactoryConf(nil)
	if tr.Compact {
		protocols = thrift.NewTCompactProtocolFactoryConf(nil)
	}
	if tr.HTTP {
		handler := http.HandlerFunc(thrift.NewThriftHandlerFunc(processor, protocols, protocols))
		server := httptest.NewUnstartedServer(handler)
		if tr.TLS != nil {
			server.StartTLS()
			tr.TLS = server.Client().Transport.(*http.Transport).TLSClientConfig
		} else {
			server.Start()
		}
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	transports := thrift.NewTTransportFactory()
	if tr.Framed {
		transports = thrift.NewTFramedTransportFactoryConf(transports, nil)
	}
	socket, err := thrift.NewTServerSocket("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := thrift.NewTSimpleServer4(processor, socket, transports, protocols)
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve() })
	t.Cleanup(func() { server.Stop(); wg.Wait() })
	return socket.Addr().String()
}

func dialTest(t *testing.T, addr string, tr Transport) *Conn {
	t.Helper()
	c, err := Dial(context.Background(), addr, tr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var transports = append([]Transport{{HTTP: true}, {HTTP: true, Compact: true}, {HTTP: true, TLS: new(tls.Config), Path: "/hbase"}}, sockets...)

func TestConn(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.testName(), func(t *testing.T) {
			ctx := context.Background()
			s := newStore()
			s.tables["t"] = &storedTable{rows: map[string][]*thrift2.TColumnValue{}}
			addr := listen(t, s, &tr)
			c := dialTest(t, addr, tr)

			b := AcquireBatch(SyncWAL)
			defer b.Release()
			for i := range 1000 {
				b.Begin(fmt.Appendf(nil, "%04d", i))
				if i != 7 {
					b.Cell(Put, []byte("d"), nil, int64(i), []byte("v"))
				}
				if i%10 == 7 {
					b.Cell(DeleteColumn, []byte("d"), []byte("q"), int64(i), nil)
				}
				b.End()
			}
			if err := c.PutMultiple(ctx, "t", b, 0, 10); err != nil {
				t.Fatal(err)
			}
			if err := c.PutMultiple(ctx, "t", b, 10, 1000); err != nil {
				t.Fatal(err)
			}
			if err := c.DeleteMultiple(ctx, "t", b, 0, 1000); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			if n, d := len(s.tables["t"].rows), s.tables["t"].deletes; n != 999 || d != 100 {
				t.Errorf("%d rows put and %d deletes, want 999 and 100", n, d)
			}
			delete(s.tables["t"].rows, "0500")
			cells := s.tables["t"].rows["0501"] // its last cell: same column, same time, another value
			other := *cells[len(cells)-1]
			other.Value = []byte("another mapping's")
			cells[len(cells)-1] = &other
			s.mu.Unlock()
			found, err := c.Exists(ctx, "t", b, []int{499, 500, 7, 501})
			if err != nil || !slices.Equal(found, []bool{true, false, true, false}) {
				t.Errorf("exists: %v, %v", found, err)
			}

			var p Page
			n := 0
			for scan := (Scan{Stop: []byte("0900")}); ; scan.Start = append(bytes.Clone(p.Rows[len(p.Rows)-1].Key()), 0) {
				if err := c.ScanPage(ctx, "t", &scan, 300, &p); err != nil {
					t.Fatal(err)
				}
				if len(p.Rows) == 0 {
					break
				}
				n += len(p.Rows)
			}
			if n != 898 {
				t.Errorf("%d rows scanned, want 898", n)
			}

			// The generated client, hand-written calls and errors of the server take turns on the one connection.
			for range 3 {
				var id string
				err := c.Call(ctx, func(ctx context.Context, client *thrift2.THBaseServiceClient) (err error) {
					id, err = client.GetClusterId(ctx)
					return err
				})
				if err != nil || id != "cluster-1" {
					t.Fatalf("cluster %q, %v", id, err)
				}
				err = c.PutMultiple(ctx, "nope", b, 0, 3)
				if kind, _ := Classify(err); kind != Table || !c.Reusable() {
					t.Fatalf("%v: kind %v, reusable %v", err, kind, c.Reusable())
				}
				if want := "put 3 rows to nope via " + addr + ": nope"; err.Error() != want {
					t.Errorf("%q, want %q", err, want)
				}
				if err := c.ScanPage(ctx, "nope", &Scan{}, 3, &p); !isKind(err, Table) {
					t.Errorf("scan of a missing table: %v", err)
				}
				if _, err := c.Exists(ctx, "nope", b, []int{1}); !isKind(err, Table) {
					t.Errorf("exists in a missing table: %v", err)
				}
			}
			if c.LastUsed().IsZero() || !c.Reusable() {
				t.Errorf("last used %v, reusable %v", c.LastUsed(), c.Reusable())
			}
			c.Close()
			if err := c.PutMultiple(ctx, "t", b, 0, 1); !isKind(err, Elsewhere) || c.Reusable() {
				t.Errorf("on a closed connection: %v, reusable %v", err, c.Reusable())
			}
		})
	}
}

// silent accepts connections and never answers. It takes what is sent until it is told to hold.
func silent(t *testing.T, take bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			if take {
				wg.Go(func() { io.Copy(io.Discard, c) })
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestSilentGateway(t *testing.T) {
	big := AcquireBatch(SyncWAL)
	defer big.Release()
	big.Begin([]byte("k"))
	big.Reserve([]byte("d"), []byte("q"), 1, 16<<20) // more than sockets buffer
	big.End()

	type call func(ctx context.Context, c *Conn) error
	calls := map[string]call{
		"put":  func(ctx context.Context, c *Conn) error { return c.PutMultiple(ctx, "t", oneRow(), 0, 1) },
		"big":  func(ctx context.Context, c *Conn) error { return c.PutMultiple(ctx, "t", big, 0, 1) },
		"scan": func(ctx context.Context, c *Conn) error { return c.ScanPage(ctx, "t", &Scan{}, 1, new(Page)) },
		"exists": func(ctx context.Context, c *Conn) error {
			_, err := c.Exists(ctx, "t", oneRow(), []int{0})
			return err
		},
		"call": func(ctx context.Context, c *Conn) error {
			return c.Call(ctx, func(ctx context.Context, client *thrift2.THBaseServiceClient) error {
				_, err := client.GetClusterId(ctx)
				return err
			})
		},
	}
	check := func(t *testing.T, c *Conn, call call, ctx context.Context, want Kind) {
		t.Helper()
		err := call(ctx, c)
		if kind, _ := Classify(err); kind != want || !errors.Is(err, ctx.Err()) {
			t.Errorf("%v: kind %v, want %v", err, kind, want)
		}
		if c.Reusable() {
			t.Error("reusable after a timeout: the next call could read this one's reply")
		}
		if err := call(context.Background(), c); !isKind(err, Elsewhere) {
			t.Errorf("call on a broken connection: %v", err)
		}
	}
	const limit = 50 * time.Millisecond
	for _, tr := range []Transport{{}, {Framed: true, MaxFrame: 1 << 30}, {HTTP: true}} {
		for name, call := range calls {
			// Time stands still in a bubble until all wait: there a call ends at its limit to the nanosecond.
			t.Run(tr.testName()+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					for _, want := range []Kind{Elsewhere, Canceled} {
						near, far := net.Pipe()
						if name != "big" {
							go io.Copy(io.Discard, far)
						}
						ctx, cancel := context.WithTimeout(t.Context(), limit)
						if want == Canceled {
							ctx, cancel = context.WithCancel(t.Context())
							time.AfterFunc(limit, cancel)
						}
						start := time.Now()
						check(t, newConn(near, "gw:9090", tr), call, ctx, want)
						if took := time.Since(start); took != limit {
							t.Errorf("took %v with a limit of %v", took, limit)
						}
						cancel()
						far.Close()
						near.Close()
					}
				})
			})
			t.Run(tr.testName()+"/"+name+" on a socket", func(t *testing.T) {
				c := dialTest(t, silent(t, name != "big"), tr)
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				check(t, c, call, ctx, Elsewhere)
			})
		}
	}
}

func TestEndedContextSendsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c, p := play(nil, Transport{})
	err := c.PutMultiple(ctx, "t", oneRow(), 0, 1)
	if !isKind(err, Canceled) || p.written.Len() > 0 || !c.Reusable() {
		t.Errorf("%v, %d bytes sent, reusable %v", err, p.written.Len(), c.Reusable())
	}
	if _, err := Dial(ctx, "127.0.0.1:1", Transport{}); !isKind(err, Canceled) {
		t.Errorf("dial: %v", err)
	}
}

func TestDialRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = Dial(context.Background(), addr, Transport{})
	if !isKind(err, Elsewhere) || !strings.HasPrefix(err.Error(), "connect to "+addr+": ") {
		t.Errorf("%v", err)
	}
}

func TestDialTLSTimeout(t *testing.T) {
	addr := silent(t, true)
	start := time.Now()
	_, err := Dial(context.Background(), addr, Transport{TLS: new(tls.Config), ConnectTimeout: 50 * time.Millisecond})
	if took := time.Since(start); !isKind(err, Elsewhere) || took > defaultConnectTimeout {
		t.Errorf("%v after %v", err, took)
	}
}

func TestHTTPAnswers(t *testing.T) {
	void := string(generated(t, Transport{}, "putMultiple", thrift.REPLY, 1, &thrift2.THBaseServicePutMultipleResult{}))
	length := fmt.Sprintf("Content-Length: %d\r\n\r\n", len(void))
	for _, c := range []struct {
		answer   string
		want     Kind
		reusable bool
	}{
		{"HTTP/1.1 200 OK\r\n" + length + void, 0, true},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + length + void, 0, true},
		{fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(void), void), 0, true},
		{"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + void, 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + void, 0, false},
		{"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope", Table, false},
		{"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n", Smaller, false},
		{"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Again, false},
		{"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n", Elsewhere, false},
		{"SSH-2.0-OpenSSH\r\n", Elsewhere, false},
		{"", Elsewhere, false},
	} {
		conn, p := play([]byte(c.answer), Transport{HTTP: true, Path: "/thrift"})
		err := conn.PutMultiple(context.Background(), "t", oneRow(), 0, 1)
		if kind, _ := Classify(err); kind != c.want || conn.Reusable() != c.reusable {
			t.Errorf("%q: %v, kind %v, reusable %v; want %v, %v", c.answer, err, kind, conn.Reusable(), c.want, c.reusable)
		}
		if !strings.HasPrefix(p.written.String(), "POST /thrift HTTP/1.1\r\nHost: gw:9090\r\n") {
			t.Errorf("asked %q", p.written.String())
		}
	}
}

func TestNewConnScansEverything(t *testing.T) {
	s := (&Scan{}).thrift(7)
	if s.MaxVersions != 1 || s.GetCacheBlocks() || s.Caching == nil || s.CacheBlocks == nil || s.IsSetStartRow() || s.IsSetStopRow() {
		t.Errorf("%v", s)
	}
	raw := (&Scan{Raw: true, MaxVersions: math.MaxInt}).thrift(7)
	if raw.MaxVersions != math.MaxInt32 || !bytes.Equal(raw.Attributes["_raw_"], []byte{1}) {
		t.Errorf("%v", raw)
	}
}
