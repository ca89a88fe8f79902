package lettertable

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"drover/deadletters"
	"drover/deadletters/sinktest"
	"drover/hbase"
	"drover/hbase/gateway"
)

const stamp = 1_700_000_000_000

func serve(t *testing.T, o gateway.Options) (*gateway.Server, *hbase.Pool) {
	t.Helper()
	s, err := gateway.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	pool := hbase.NewPool(hbase.PoolOptions{Transport: o.Transport})
	pool.Update([]hbase.Endpoint{{Addr: s.Addr()}})
	t.Cleanup(func() {
		pool.Close()
		s.Close()
	})
	return s, pool
}

func openSink(t *testing.T, p *hbase.Pool, x Table, run string) deadletters.Sink {
	t.Helper()
	s, err := x.Open(t.Context(), p, run, stamp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func readIndex(t *testing.T, p *hbase.Pool, x Table, run string) *deadletters.Index {
	t.Helper()
	i, err := x.Read(t.Context(), p, run)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestSuite(t *testing.T) {
	for name, test := range map[string]struct {
		transport hbase.Transport
		piece     int
	}{
		"unframed": {}, "framed": {transport: hbase.Transport{Framed: true}},
		"small frames": {transport: hbase.Transport{Framed: true, MaxFrame: 128 << 10}, piece: 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			sinktest.Run(t, func(t *testing.T) sinktest.Place {
				_, pool := serve(t, gateway.Options{Transport: test.transport})
				table := Table{Name: "letters", Job: "job", Piece: test.piece}
				return sinktest.Place{
					Open: func(t *testing.T, run string) deadletters.Sink { return openSink(t, pool, table, run) },
					Read: func(t *testing.T, run string) *deadletters.Index { return readIndex(t, pool, table, run) },
				}
			})
		})
	}
}

// The pieces of a letter that was written again in other sizes, and not to its end, are still its document.
func TestPiecesOfOtherSizes(t *testing.T) {
	_, pool := serve(t, gateway.Options{})
	raw := make([]byte, 300<<10)
	for i := range raw {
		raw[i] = byte(i * i >> 8)
	}
	l := deadletters.Letter{Position: "1", Raw: raw}
	for _, piece := range []int{100 << 10, 64 << 10, 200 << 10, 100 << 10, 1 << 20} {
		table := Table{Name: "letters", Job: "job", Piece: piece}
		s := openSink(t, pool, table, "run")
		if err := s.Append(l); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		// What a process with pieces of another size writes before it dies.
		half := openSink(t, pool, Table{Name: "letters", Job: "job", Piece: 30 << 10}, "run").(*sink)
		half.put(table.key("run", 0, "1"), qualifier("raw", half.piece, 0), raw[:half.piece])
		if err := half.Sync(); err != nil {
			t.Fatal(err)
		}
		x := readIndex(t, pool, table, "run")
		for e := range x.Entries() {
			if got, err := x.Letter(e); err != nil || string(got.Raw) != string(raw) {
				t.Errorf("pieces of %d bytes: %d bytes, %v", piece, len(got.Raw), err)
			}
		}
		if n := x.Counts().Letters; n != 1 {
			t.Errorf("%d letters", n)
		}
	}
}

// Until a letter is whole it is none: a process that dies in the middle of a large one leaves pieces that nobody lists.
func TestALetterWithoutItsEndIsNone(t *testing.T) {
	server, pool := serve(t, gateway.Options{})
	table := Table{Name: "letters", Job: "job"}
	s := openSink(t, pool, table, "run")
	var calls int
	server.Faults().Observe(func(string, []byte, int) { calls++ })
	if err := s.Append(deadletters.Letter{Position: "1", Raw: make([]byte, 5<<20)}); err != nil {
		t.Fatal(err)
	}
	if calls == 0 {
		t.Fatal("5 MiB were held back")
	}
	if n := readIndex(t, pool, table, "run").Counts().Letters; n != 0 {
		t.Errorf("%d letters before its end was sent", n)
	}
	var page hbase.Page
	if err := pool.ScanPage(t.Context(), "letters", &hbase.Scan{}, 10, &page); err != nil {
		t.Fatal(err)
	}
	there := 0
	for _, r := range page.Rows {
		walk := r.Cells()
		for c := (hbase.Cell{}); walk.Next(&c); {
			there += len(c.Value)
		}
	}
	if there != 5<<20 {
		t.Errorf("%d bytes are there before its end is, want all 5 MiB", there)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := readIndex(t, pool, table, "run").Counts().Letters; n != 1 {
		t.Errorf("%d letters after Sync", n)
	}
}

// What is appended is sent when it is synced, also after the run was told to end; and not before that without need.
func TestSyncAfterTheEnd(t *testing.T) {
	_, pool := serve(t, gateway.Options{})
	table := Table{Name: "letters", Job: "job"}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := table.Open(ctx, pool, "run", stamp)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Append(deadletters.Letter{Position: "1"}); err != nil {
		t.Fatal(err)
	}
	if n := readIndex(t, pool, table, "run").Counts().Letters; n != 0 {
		t.Errorf("%d letters before Sync", n)
	}
	cancel()
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := readIndex(t, pool, table, "run").Counts().Letters; n != 1 {
		t.Errorf("%d letters after Sync", n)
	}
}

// Every cell of a letter has the plan's timestamp, so that a letter written twice has one version even in a table that keeps more.
func TestOneVersion(t *testing.T) {
	_, pool := serve(t, gateway.Options{})
	table := Table{Name: "letters", Job: "job"}
	spec := table.spec()
	spec.Families[0].Versions = 10
	if err := hbase.NewAdmin(pool).Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s := openSink(t, pool, table, "run")
		if err := s.Append(deadletters.Letter{Position: "1", Raw: []byte{1}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Replayed(deadletters.Replay{Position: "1"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var page hbase.Page
	if err := pool.ScanPage(t.Context(), "letters", &hbase.Scan{MaxVersions: 10}, 10, &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Rows) != 1 {
		t.Fatalf("%d rows", len(page.Rows))
	}
	cells := 0
	walk := page.Rows[0].Cells()
	for c := (hbase.Cell{}); walk.Next(&c); cells++ {
		if c.Timestamp != stamp {
			t.Errorf("%s has timestamp %d", c.Qualifier, c.Timestamp)
		}
	}
	if cells != 3 {
		t.Errorf("%d cells, want the letter, its document and its replay", cells)
	}
}

func TestTheTable(t *testing.T) {
	_, pool := serve(t, gateway.Options{})
	if err := hbase.NewAdmin(pool).Create(t.Context(), hbase.TableSpec{Name: "other", Families: []hbase.Family{{Name: "x", Versions: 1}}}); err != nil {
		t.Fatal(err)
	}
	_, old := serve(t, gateway.Options{Old: true})
	for name, test := range map[string]struct {
		pool *hbase.Pool
		want []string
	}{
		"other":      {pool, []string{"has no family d", "name another"}},
		"no:letters": {pool, []string{"namespace no", "in the hbase shell", "create 'no:letters', {NAME => 'd'"}},
		"letters":    {old, []string{"HBase 1.x", "in the hbase shell", "create 'letters', {NAME => 'd'"}},
	} {
		_, err := Table{Name: name, Job: "job"}.Open(t.Context(), test.pool, "run", stamp)
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
	if n := readIndex(t, pool, Table{Name: "missing", Job: "job"}, "run").Counts().Letters; n != 0 {
		t.Errorf("%d letters in a table that is not there", n)
	}
}

// Two jobs may have runs of one name: those of a schedule are called by its instants.
func TestJobsAreApart(t *testing.T) {
	_, pool := serve(t, gateway.Options{})
	for _, job := range []string{"a", "b", "a-b"} {
		s := openSink(t, pool, Table{Name: "letters", Job: job}, "20260101T030000Z")
		if err := s.Append(deadletters.Letter{Position: job}); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for e := range readIndex(t, pool, Table{Name: "letters", Job: "a"}, "20260101T030000Z").Entries() {
		if e.Position != "a" {
			t.Errorf("job a has the letter of %s", e.Position)
		}
	}
}

// While HBase takes no letter nothing is durable, and Sync says so; what was appended is there once it does.
func TestSyncFailsAndGoesOn(t *testing.T) {
	server, err := gateway.Open(gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pool := hbase.NewPool(hbase.PoolOptions{OutageLimit: 300 * time.Millisecond})
	pool.Update([]hbase.Endpoint{{Addr: server.Addr()}})
	t.Cleanup(func() {
		pool.Close()
		server.Close()
	})
	table := Table{Name: "letters", Job: "job"}
	s := openSink(t, pool, table, "run")
	server.Faults().Deny("letters")
	if err := s.Append(deadletters.Letter{Position: "1"}); err != nil {
		t.Fatal(err)
	}
	var refused *hbase.TableError
	if err := s.Sync(); !errors.As(err, &refused) || refused.Table != "letters" {
		t.Fatalf("sync: %v, want that the table takes no rows", err)
	}
	server.Faults().Allow("letters")
	if err := s.Append(deadletters.Letter{Position: "2"}); err != nil {
		t.Fatal(err)
	}
	err = errors.New("not tried")
	for try := 0; err != nil && try < 50; try++ { // each waits for the outage limit, which is less than a paused table waits
		err = s.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := readIndex(t, pool, table, "run").Counts().Letters; n != 2 {
		t.Errorf("%d letters, want both", n)
	}
}

// A letter that HBase refuses is not counted as durable.
func TestARefusedLetter(t *testing.T) {
	server, pool := serve(t, gateway.Options{})
	table := Table{Name: "letters", Job: "job"}
	s := openSink(t, pool, table, "run")
	server.Faults().RefuseRows(func(key []byte) bool { return strings.HasSuffix(string(key), "/bad") }, "no such letter")
	for _, at := range []string{"good", "bad"} {
		if err := s.Append(deadletters.Letter{Position: at}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Sync(); err == nil || !strings.Contains(err.Error(), "refuses") {
			t.Errorf("sync: %v, want that the letter is refused", err)
		}
	}
}
