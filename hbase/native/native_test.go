package native

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/hbase"
)

// child says as what this test binary runs when it is a child.
const childVariable = "DROVER_NATIVE_TEST"

func TestMain(m *testing.M) {
	if how := os.Getenv(childVariable); how != "" {
		var err error
		if dir, relays := strings.CutPrefix(how, relayWord); relays {
			err = serveHanded(dir)
		} else {
			err = serve(&fakeBackend{how: how}, lanes, os.Stdin)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const fakeRows = 3000

func fakeKey(i int) string { return fmt.Sprintf("row%06d", i) }

// fakeBackend has one table of fakeRows rows, whose values are large now and then.
type fakeBackend struct {
	how string

	mu    sync.Mutex
	opens int
	calls int
}

// fakeScan gives a few rows with each call.
type fakeScan struct {
	b    *fakeBackend
	next int
	stop string
	done bool
}

func (b *fakeBackend) scan(q *request) (fetcher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q.Table != "t" {
		return nil, finalError{fmt.Errorf("no table %s", q.Table)}
	}
	b.opens++
	s := &fakeScan{b: b, stop: string(q.Spec.Stop)}
	for s.next < fakeRows && fakeKey(s.next) < string(q.Start) {
		s.next++
	}
	return s, nil
}

func (b *fakeBackend) ask(context.Context, *request) (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Cluster{ID: fmt.Sprintf("%d opens", b.opens)}, nil
}

func (s *fakeScan) finished() bool { return s.done }
func (s *fakeScan) close()         {}

func (s *fakeScan) fetch(_ context.Context, b *buffer, rows int) error {
	s.b.mu.Lock()
	s.b.calls++
	calls := s.b.calls
	s.b.mu.Unlock()
	switch {
	case s.b.how == "dies" && calls%7 == 0:
		fmt.Fprintln(os.Stderr, "something is fatal")
		os.Exit(3)
	case s.b.how == "hangs" && calls == 5:
		select {}
	case s.b.how == "fails" && calls%5 == 0:
		return errors.New("HBase Java exception org.apache.hadoop.hbase.NotServingRegionException:\nnot here")
	case s.b.how == "stale" && calls%5 == 0:
		return staleError{errors.New("UnknownScannerException")}
	case s.b.how == "never":
		return errors.New("NoSuchColumnFamilyException: none")
	}
	for n := 0; n < min(rows, 37); n++ {
		if s.next == fakeRows || s.stop != "" && fakeKey(s.next) >= s.stop {
			s.done = true
			return nil
		}
		key := []byte(fakeKey(s.next))
		value := make([]byte, 10)
		if s.next%500 == 499 {
			value = make([]byte, 5000)
		}
		b.data = hbase.AppendCell(hbase.AppendKey(b.data, key), hbase.Put, []byte("d"), []byte("q"), int64(s.next), value)
		b.open = true
		b.close()
		s.next++
	}
	return nil
}

func open(t testing.TB, how string, o Options) *Client {
	o.Quorum = "nowhere:1"
	o.command = func(ctx context.Context, _ string, _ int) (*exec.Cmd, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, self)
		cmd.Env = []string{childVariable + "=" + how}
		return cmd, nil
	}
	c := Open(o)
	t.Cleanup(c.Close)
	return c
}

// readFake reads the rows [from, to) page by page, as hbasetable does: each page begins with the last row of the one before.
func readFake(ctx context.Context, c *Client, from, to int, anchored bool) error {
	scan := hbase.Scan{Start: []byte(fakeKey(from)), Stop: []byte(fakeKey(to)), MaxVersions: 1}
	page := hbase.Page{Limit: 4096}
	next, first := from, true
	for {
		if err := c.ScanPage(ctx, "t", &scan, 60, &page); err != nil {
			return err
		}
		rows := page.Rows
		if !first && anchored && scan.Start[len(scan.Start)-1] != 0 {
			if len(rows) == 0 || string(rows[0].Key()) != fakeKey(next-1) {
				return fmt.Errorf("the page after row %d does not begin with it", next-1)
			}
			rows = rows[1:]
		}
		for _, r := range rows {
			if string(r.Key()) != fakeKey(next) {
				return fmt.Errorf("row %q, want %q", r.Key(), fakeKey(next))
			}
			next++
		}
		switch {
		case len(rows) > 0:
			page.Limit, first = 4096, false
			scan.Start = []byte(fakeKey(next - 1))
			if !anchored || len(rows[len(rows)-1]) > 1000 { // a row as large is not read twice
				scan.Start = append(scan.Start, 0)
			}
		case page.More && anchored && !first && page.Need == 0:
			page.Limit *= 2 // the next row is too large beside the anchor
		case page.More:
			page.Limit = page.Need
		case next == to:
			return nil
		default:
			return fmt.Errorf("the end came at row %d, want %d", next, to)
		}
	}
}

// Rows come whole and once, whatever becomes of the child: several scans at a time.
func TestPages(t *testing.T) {
	for how, patience := range map[string]time.Duration{"well": 0, "dies": 0, "hangs": time.Second, "fails": 0, "stale": 0} {
		for _, anchored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", how, anchored), func(t *testing.T) {
				t.Parallel()
				c := open(t, how, Options{patience: patience})
				rows := fakeRows / 4
				if how == "dies" {
					rows = fakeRows / 60
				}
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() {
						if err := readFake(t.Context(), c, i*rows, (i+1)*rows, anchored); err != nil {
							t.Errorf("scan %d: %v", i, err)
						}
					})
				}
				wg.Wait()
				id, err := c.ClusterID(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if how == "well" && id != "4 opens" {
					t.Errorf("4 scans cost %s", id)
				}
			})
		}
	}
}

// A page of one row does not end the scan of another lane, and what HBase refuses is not asked for again.
func TestErrors(t *testing.T) {
	c := open(t, "never", Options{})
	page := hbase.Page{}
	err := c.ScanPage(t.Context(), "t", &hbase.Scan{}, 10, &page)
	if err == nil || !strings.Contains(err.Error(), "NoSuchColumnFamilyException") {
		t.Errorf("error is %v", err)
	}
	if err = c.ScanPage(t.Context(), "u", &hbase.Scan{}, 10, &page); err == nil || !strings.Contains(err.Error(), "no table u") {
		t.Errorf("error is %v", err)
	}
	if err := c.ScanPage(t.Context(), "u", &hbase.Scan{Start: []byte("b"), Stop: []byte("b")}, 10, &page); err != nil || len(page.Rows) > 0 {
		t.Errorf("an empty range: %d rows, error %v", len(page.Rows), err)
	}
}

func TestOutage(t *testing.T) {
	c := open(t, "well", Options{OutageLimit: 300 * time.Millisecond})
	c.opts.command = func(ctx context.Context, _ string, _ int) (*exec.Cmd, error) {
		return exec.CommandContext(ctx, "/nonexistent/drover"), nil
	}
	_, err := c.Regions(t.Context(), "t")
	outage, ok := errors.AsType[*hbase.OutageError](err)
	if !ok || len(outage.Last) != 1 || !strings.Contains(err.Error(), "by HBase's ZooKeeper nowhere:1") {
		t.Errorf("error is %v", err)
	}
}

// A call that its caller gives up ends at once, and the next one finds a child that answers.
func TestGivenUp(t *testing.T) {
	c := open(t, "hangs", Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	err := readFake(ctx, c, 0, fakeRows, true)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
		t.Errorf("error is %v after %v", err, time.Since(began))
	}
	if err := readFake(t.Context(), c, 0, 50, true); err != nil {
		t.Error(err)
	}
}

// kv is a cell as HBase's KeyValueCodec writes it.
func kv(row, family, qualifier string, ts int64, code byte, value string) []byte {
	key := binary.BigEndian.AppendUint16(nil, uint16(len(row)))
	key = append(key, row...)
	key = append(key, byte(len(family)))
	key = append(key, family+qualifier...)
	key = binary.BigEndian.AppendUint64(key, uint64(ts))
	key = append(key, code)
	p := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)+len(value)))
	p = binary.BigEndian.AppendUint32(p, uint32(len(key)))
	p = binary.BigEndian.AppendUint32(p, uint32(len(value)))
	return append(append(p, key...), value...)
}

// Rows that come in parts, within an answer and from one to the next, are whole, in whatever pieces they are given out.
func TestParts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		type row struct {
			key   string
			cells int
		}
		var want []row
		for i := range 1 + r.IntN(8) {
			want = append(want, row{fmt.Sprintf("r%02d", i), 1 + r.IntN(9)})
		}
		var b buffer
		var got []hbase.PackedRow
		take := func() {
			for b.rows() > 0 && r.IntN(3) > 0 {
				end := b.ends[b.next]
				got = append(got, hbase.PackedRow(string(b.data[b.from:end])))
				b.from = end
				b.next++
			}
			b.settle()
		}
		var block []byte
		var counts []uint32
		var parts []bool
		flush := func() {
			if err := b.add(block, counts, parts); err != nil {
				t.Fatal(err)
			}
			block, counts, parts = nil, nil, nil
			take()
		}
		for _, w := range want {
			for at := 0; at < w.cells; {
				n := 1 + r.IntN(w.cells-at)
				for i := range n {
					block = append(block, kv(w.key, "f", strconv.Itoa(at+i), int64(i), 4, w.key)...)
				}
				at += n
				counts = append(counts, uint32(n))
				parts = append(parts, at < w.cells || r.IntN(4) == 0) // HBase may not know yet that a part was the last
				if r.IntN(2) == 0 {
					flush()
				}
			}
		}
		flush()
		b.close()
		for b.rows() > 0 {
			take()
		}
		if len(got) != len(want) {
			t.Fatalf("%d rows, want %d", len(got), len(want))
		}
		for i, g := range got {
			if err := g.Check(); err != nil {
				t.Fatal(err)
			}
			x := g.Row()
			if string(x.Key) != want[i].key || len(x.Cells) != want[i].cells {
				t.Fatalf("row %d is %q of %d cells, want %+v", i, x.Key, len(x.Cells), want[i])
			}
			for j, c := range x.Cells {
				if string(c.Qualifier) != strconv.Itoa(j) {
					t.Fatalf("row %d: cell %d is %q", i, j, c.Qualifier)
				}
			}
		}
	}
}

func FuzzCells(f *testing.F) {
	f.Add(kv("row", "f", "q", 5, 4, "value"), uint8(1))
	f.Add(append(kv("row", "f", "", 5, 14, ""), kv("row2", "", "q", -1, 8, "v")...), uint8(2))
	f.Add([]byte{0, 0, 0, 200}, uint8(1))
	f.Fuzz(func(t *testing.T, p []byte, n uint8) {
		var b buffer
		if err := b.add(p, []uint32{uint32(n)}, nil); err != nil || n == 0 {
			return
		}
		at := 0
		for _, end := range b.ends {
			if err := hbase.PackedRow(b.data[at:end]).Check(); err != nil {
				t.Fatal(err)
			}
			at = end
		}
	})
}

func TestClientOptions(t *testing.T) {
	if hosts, o := clientOptions("a:1,b:2"); hosts != "a:1,b:2" || len(o) != 3 {
		t.Errorf("%q with %d options", hosts, len(o))
	}
	if hosts, o := clientOptions("a:1,b:2/hbase-secure"); hosts != "a:1,b:2" || len(o) != 4 {
		t.Errorf("%q with %d options", hosts, len(o))
	}
}
