package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

func ptr[T any](v T) *T { return &v }

type client struct {
	*thrift2.THBaseServiceClient
	trans thrift.TTransport
}

// connect gives a client of an unframed binary gateway whose calls end after a while.
func connect(t *testing.T, addr string, timeout time.Duration) client {
	t.Helper()
	conf := &thrift.TConfiguration{ConnectTimeout: 5 * time.Second, SocketTimeout: timeout}
	trans := thrift.NewTBufferedTransport(thrift.NewTSocketConf(addr, conf), 64<<10)
	if err := trans.Open(); err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	t.Cleanup(func() { trans.Close() })
	p := thrift.NewTBinaryProtocolConf(trans, conf)
	return client{thrift2.NewTHBaseServiceClient(thrift.NewTStandardClient(p, p)), trans}
}

func (c client) create(t *testing.T, table string, splits ...string) {
	t.Helper()
	var keys [][]byte
	for _, s := range splits {
		keys = append(keys, []byte(s))
	}
	err := c.CreateTable(t.Context(), &thrift2.TTableDescriptor{
		TableName: &thrift2.TTableName{Qualifier: []byte(table)},
		Columns:   []*thrift2.TColumnFamilyDescriptor{{Name: []byte("d"), MaxVersions: ptr(int32(9))}},
	}, keys)
	if err != nil {
		t.Fatalf("create %s: %v", table, err)
	}
}

func (c client) put(ctx context.Context, table string, keys ...string) error {
	var puts []*thrift2.TPut
	for _, k := range keys {
		puts = append(puts, &thrift2.TPut{
			Row: []byte(k), Durability: ptr(thrift2.TDurability_SYNC_WAL),
			ColumnValues: []*thrift2.TColumnValue{{Family: []byte("d"), Qualifier: []byte("a"), Value: []byte("v"), Timestamp: ptr(int64(1))}},
		})
	}
	return c.PutMultiple(ctx, []byte(table), puts)
}

func (c client) keys(t *testing.T, table string) []string {
	t.Helper()
	rows, err := c.GetScannerResults(t.Context(), []byte(table), thrift2.NewTScan(), 1<<20)
	if err != nil {
		t.Fatalf("scan %s: %v", table, err)
	}
	var keys []string
	for _, r := range rows {
		keys = append(keys, string(r.Row))
	}
	return keys
}

func message(err error) string {
	if e, ok := errors.AsType[*thrift2.TIOError](err); ok {
		return e.GetMessage()
	}
	return fmt.Sprint(err)
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(message(err), p) {
			t.Errorf("error %q lacks %q", message(err), p)
		}
	}
}

func wantKeys(t *testing.T, got []string, want string) {
	t.Helper()
	if strings.Join(got, " ") != want {
		t.Errorf("rows %q, want %q", got, want)
	}
}

func TestRefuseAndDrop(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t")
	s.Faults().Refuse(true)
	if err := c.put(t.Context(), "t", "a"); err == nil {
		t.Error("the open connection still works")
	}
	again := connect(t, s.Addr(), 10*time.Second)
	if err := again.put(t.Context(), "t", "a"); err == nil {
		t.Error("a new connection works")
	}
	s.Faults().Refuse(false)
	c = connect(t, s.Addr(), 10*time.Second)
	wantKeys(t, c.keys(t, "t"), "")
	s.Faults().Drop()
	if err := c.put(t.Context(), "t", "a"); err == nil {
		t.Error("the dropped connection still works")
	}
	if n := s.Faults().Counts(); n.Refused != 1 || n.Dropped < 2 {
		t.Errorf("counts %+v, want 1 refused and at least 2 dropped", n)
	}
}

func TestHang(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t")
	applied := make(chan string, 1)
	s.Faults().Observe(func(_ string, key []byte, _ int) { applied <- string(key) })
	s.Faults().Hang(true)
	impatient := connect(t, s.Addr(), 50*time.Millisecond)
	if err := impatient.put(t.Context(), "t", "zombie"); err == nil {
		t.Fatal("a hung gateway answered")
	}
	impatient.trans.Close()
	if n := s.Faults().Counts().Hung; n != 1 {
		t.Fatalf("%d calls hung, want 1", n)
	}
	s.Faults().Hang(false)
	if key := <-applied; key != "zombie" {
		t.Errorf("applied %q", key)
	}
	wantKeys(t, c.keys(t, "t"), "zombie")
}

func TestDelayAndThrottle(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t")
	s.Faults().Delay(30 * time.Millisecond)
	start := time.Now()
	if err := c.put(t.Context(), "t", "a"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("a delayed call took %v", took)
	}
	s.Faults().Delay(0)
	s.Faults().Throttle(100)
	start = time.Now()
	for range 3 {
		if err := c.put(t.Context(), "t", "a", "b"); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("6 rows at 100 a second took %v", took)
	}
	if n := s.Faults().Counts(); n.Delayed != 1 || n.Throttled != 3 {
		t.Errorf("counts %+v, want 1 delayed and 3 throttled", n)
	}
}

func TestCutReply(t *testing.T) {
	for _, tr := range []hbase.Transport{{}, {HTTP: true}} {
		for _, after := range []int{0, 10} {
			s := open(t, gateway.Options{Transport: tr})
			h := dialAny(t, s.Addr(), tr)
			h.create(t, "t")
			s.Faults().CutReply(2, after)
			for i := range 2 {
				if err := dialAny(t, s.Addr(), tr).put(t.Context(), "t", fmt.Sprint(i)); err == nil {
					t.Errorf("%+v after %d: no error from a cut reply", tr, after)
				}
			}
			c := dialAny(t, s.Addr(), tr)
			if err := c.put(t.Context(), "t", "2"); err != nil {
				t.Errorf("the third put: %v", err)
			}
			wantKeys(t, c.keys(t, "t"), "0 1 2")
			if n := s.Faults().Counts().Cut; n != 2 {
				t.Errorf("%d replies cut, want 2", n)
			}
		}
	}
}

func dialAny(t *testing.T, addr string, tr hbase.Transport) client {
	t.Helper()
	if !tr.HTTP {
		return connect(t, addr, 10*time.Second)
	}
	trans, err := thrift.NewTHttpClient("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { trans.Close() })
	p := thrift.NewTBinaryProtocolConf(trans, nil)
	return client{thrift2.NewTHBaseServiceClient(thrift.NewTStandardClient(p, p)), trans}
}

func TestTooBusy(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t", "m")
	s.Faults().TooBusy([]byte("m"), nil, 2)
	wantError(t, c.put(t.Context(), "t", "a", "m", "z"), "Failed 2 actions: ", "RegionTooBusyException: Over memstore limit=", "regionName=t,m,", ": 2 times, servers with issues: ")
	if err := c.put(t.Context(), "t", "b"); err != nil {
		t.Errorf("another range: %v", message(err))
	}
	wantError(t, c.put(t.Context(), "t", "z"), "Failed 1 action: ", "RegionTooBusyException")
	wantKeys(t, c.keys(t, "t"), "a b")
	if err := c.put(t.Context(), "t", "m", "z"); err != nil {
		t.Errorf("after two answers: %v", message(err))
	}
	if n := s.Faults().Counts().TooBusy; n != 2 {
		t.Errorf("%d answers, want 2", n)
	}
}

func TestRefuseRows(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t")
	s.Faults().RefuseRows(func(key []byte) bool { return key[0] == 'x' }, "no x here")
	wantError(t, c.put(t.Context(), "t", "a", "x1", "b", "x2"), "Failed 2 actions: org.apache.hadoop.hbase.DoNotRetryIOException: no x here", ": 2 times, ")
	wantKeys(t, c.keys(t, "t"), "a b")
	if n := s.Faults().Counts().RowsRefused; n != 2 {
		t.Errorf("%d rows refused, want 2", n)
	}
	s.Faults().Clear()
	if err := c.put(t.Context(), "t", "x1"); err != nil {
		t.Errorf("after Clear: %v", message(err))
	}
}

func TestDeny(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t")
	c.create(t, "other")
	s.Faults().Deny("t")
	wantError(t, c.put(t.Context(), "t", "a"), "Failed 1 action: ", "AccessDeniedException: Insufficient permissions")
	_, err := c.GetScannerResults(t.Context(), []byte("t"), thrift2.NewTScan(), 1)
	wantError(t, err, "AccessDeniedException")
	if err := c.put(t.Context(), "other", "a"); err != nil {
		t.Errorf("another table: %v", message(err))
	}
	s.Faults().Allow("t")
	wantKeys(t, c.keys(t, "t"), "")
	if n := s.Faults().Counts().Denied; n != 2 {
		t.Errorf("%d calls denied, want 2", n)
	}
}

func TestWrongSplits(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	s.Faults().WrongSplits(true)
	c.create(t, "t", "a", "b")
	regions, err := c.GetAllRegionLocations(t.Context(), []byte("t"))
	if err != nil || len(regions) != 1 || s.Faults().Counts().WrongSplits != 1 {
		t.Errorf("%d regions, %v, counts %+v", len(regions), err, s.Faults().Counts())
	}
}

func TestObserve(t *testing.T) {
	s := open(t, gateway.Options{})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t")
	var mu sync.Mutex
	var seen []string
	s.Faults().Observe(func(table string, key []byte, cells int) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf("%s %s %d", table, key, cells))
	})
	s.Faults().RefuseRows(func(key []byte) bool { return string(key) == "b" }, "no")
	wantError(t, c.put(t.Context(), "t", "a", "b", "a"), "no")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"t a 1", "t a 1"}; !slices.Equal(seen, want) {
		t.Errorf("saw %q, want %q", seen, want)
	}
}

func TestDieAndComeBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, gateway.Options{Dir: dir})
	c := connect(t, s.Addr(), 10*time.Second)
	c.create(t, "t", "m")
	if err := c.put(t.Context(), "t", "a"); err != nil {
		t.Fatal(err)
	}
	id, err := c.GetClusterId(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Faults().Die(); err != nil {
		t.Fatal(err)
	}
	if err := c.put(t.Context(), "t", "b"); err == nil {
		t.Error("a dead gateway answered")
	}
	if s.Faults().Counts().Dropped != 1 {
		t.Errorf("counts %+v, want 1 dropped", s.Faults().Counts())
	}
	s = open(t, gateway.Options{Dir: dir, Listen: s.Addr()})
	c = connect(t, s.Addr(), 10*time.Second)
	wantKeys(t, c.keys(t, "t"), "a")
	if again, err := c.GetClusterId(t.Context()); again != id || err != nil {
		t.Errorf("cluster id %q, %v, was %q", again, err, id)
	}
	regions, err := c.GetAllRegionLocations(t.Context(), []byte("t"))
	if err != nil || len(regions) != 2 {
		t.Errorf("%d regions, %v", len(regions), err)
	}
}

func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, gateway.Options{Dir: dir})
	_, err := gateway.Open(gateway.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another gateway") || !strings.Contains(err.Error(), dir) {
		t.Errorf("opened twice: %v", err)
	}
}

func TestWrongTransport(t *testing.T) {
	s := open(t, gateway.Options{Transport: hbase.Transport{Framed: true}})
	c := connect(t, s.Addr(), 10*time.Second) // unframed
	if _, err := c.GetClusterId(t.Context()); err == nil {
		t.Error("an unframed client got an answer from a framed gateway")
	}
}

// TestKilled puts rows through a gateway in another process, kills that with SIGKILL in mid-stream, and looks for every row
// that was acknowledged.
func TestKilled(t *testing.T) {
	dir := os.Getenv("GATEWAY_TEST_DIR")
	if dir != "" {
		s, err := gateway.Open(gateway.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("listening", s.Addr())
		select {}
	}
	dir = filepath.Join(t.TempDir(), "store")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "GATEWAY_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	addr := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if a, found := strings.CutPrefix(lines.Text(), "listening "); found {
			addr = a
			break
		}
	}
	if addr == "" {
		t.Fatal("the gateway did not start")
	}
	c := connect(t, addr, 10*time.Second)
	c.create(t, "t")
	acked := 0
	for ; acked < 500; acked++ {
		if err := c.put(t.Context(), "t", fmt.Sprintf("%06d-a", acked), fmt.Sprintf("%06d-b", acked)); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	s := open(t, gateway.Options{Dir: dir})
	if got := len(connect(t, s.Addr(), 10*time.Second).keys(t, "t")); got != 2*acked {
		t.Errorf("%d rows after the kill, want %d", got, 2*acked)
	}
}

func TestNull(t *testing.T) {
	for _, tr := range []hbase.Transport{{}, {Framed: true}, {Compact: true}, {Framed: true, Compact: true}} {
		s, err := gateway.Null("", tr)
		if err != nil {
			t.Fatal(err)
		}
		conf := &thrift.TConfiguration{SocketTimeout: 10 * time.Second}
		var trans thrift.TTransport = thrift.NewTBufferedTransport(thrift.NewTSocketConf(s.Addr(), conf), 4096)
		if tr.Framed {
			trans = thrift.NewTFramedTransportConf(thrift.NewTSocketConf(s.Addr(), conf), conf)
		}
		if err := trans.Open(); err != nil {
			t.Fatal(err)
		}
		var p thrift.TProtocol = thrift.NewTBinaryProtocolConf(trans, conf)
		if tr.Compact {
			p = thrift.NewTCompactProtocolConf(trans, conf)
		}
		c := client{thrift2.NewTHBaseServiceClient(thrift.NewTStandardClient(p, p)), trans}
		for range 3 {
			if err := c.put(t.Context(), "t", "a", "b", "c"); err != nil {
				t.Errorf("%+v: %v", tr, err)
			}
		}
		if s.Rows() != 9 || s.Calls() != 3 || s.Bytes() == 0 {
			t.Errorf("%+v: counted %d rows, %d calls, %d bytes", tr, s.Rows(), s.Calls(), s.Bytes())
		}
		trans.Close()
		s.Close()
	}
}
