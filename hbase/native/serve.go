package native

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"
	"github.com/tsuna/gohbase/pb"
	"google.golang.org/protobuf/proto"

	"drover/hbase"
)

// ServeCommand is the hidden command by which a child process of the same binary runs Serve.
const ServeCommand = "native-serve"

// firstLane is the child's file descriptor of its first lane.
const firstLane = 3

// Serve answers requests on so many lanes, which are file descriptors from firstLane on, until in ends: so no child outlives its
// parent.
func Serve(quorum string, lanes int, in io.Reader) error {
	boundMemory()
	logrus.SetLevel(logrus.FatalLevel) // what is not fatal comes back as an error
	hosts, options := clientOptions(quorum)
	b := &hbaseBackend{hosts: hosts, options: options}
	return serve(b, lanes, in)
}

// boundMemory lets the heap of a child grow well beyond what lives before a collection is worth its cost: nearly all of it is answers of
// megabytes, and buffers that are used again. GOGC and GOMEMLIMIT in the environment go first.
func boundMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(256 << 20)
	}
}

// clientOptions splits a quorum, which may end in HBase's own root: "zk1:2181,zk2:2181/hbase-secure".
func clientOptions(quorum string) (hosts string, options []gohbase.Option) {
	options = []gohbase.Option{
		gohbase.RegionLookupTimeout(20 * time.Second), gohbase.ZookeeperTimeout(10 * time.Second),
		gohbase.RegionReadTimeout(90 * time.Second), // beyond HBase's own bound of a call, so that one slow call does not break a connection
	}
	hosts, root, found := strings.Cut(quorum, "/")
	if found {
		options = append(options, gohbase.ZookeeperRoot("/"+root))
	}
	return hosts, options
}

// backend is what a child serves.
type backend interface {
	scan(q *request) (fetcher, error)
	ask(ctx context.Context, q *request) (any, error)
}

// fetcher reads a table's rows, some with each call.
type fetcher interface {
	fetch(ctx context.Context, b *buffer, rows int) error
	finished() bool
	close()
}

func serve(b backend, lanes int, in io.Reader) error {
	for i := range lanes {
		f := os.NewFile(uintptr(firstLane+i), "lane "+strconv.Itoa(i))
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("open lane %d: %w", i, err)
		}
		go func() { // until the process ends, which waits for no call
			defer conn.Close()
			l := &server{backend: b, conn: conn}
			l.run()
			l.drop()
		}()
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

// server is the child's end of a lane.
type server struct {
	backend backend
	conn    net.Conn

	// The scan that is kept open.
	scan  fetcher // nil is none
	of    request // that opened it
	last  []byte  // the last row that was given out, packed; empty is none
	first []byte  // where the scan began, which is where it goes on while last is empty
	rows  buffer

	waited time.Time // when the parent last heard something
	sizes  []byte
}

func (s *server) run() {
	var q request
	for {
		if err := readRequest(s.conn, &q); err != nil {
			return
		}
		s.waited = time.Now()
		var err error
		if q.Op == opPage {
			err = s.page(&q)
		} else {
			err = s.value(&q)
		}
		if _, gone := errors.AsType[laneError](err); gone {
			return
		}
		if err != nil && writeValue(s.conn, frameError, answerOf(err)) != nil {
			return
		}
	}
}

// laneError is the parent's end being gone.
type laneError struct{ error }

func answerOf(err error) answerError {
	var final finalError
	var stale staleError
	kind, _ := hbase.KindOf(err.Error())
	text := strings.TrimSpace(err.Error())
	// gohbase puts the class of a server's exception on a line of its own, before its message.
	if _, message, ok := strings.Cut(text, ":\n"); ok && strings.Contains(text, "HBase Java exception") {
		text = message
	}
	text, _, _ = strings.Cut(text, "\n")
	return answerError{
		Text: text, Fresh: errors.As(err, &stale),
		Final: errors.As(err, &final) || errors.Is(err, gohbase.TableNotFound) || !errors.As(err, &stale) && kind == hbase.Never ||
			strings.Contains(text, "NoSuchColumnFamilyException"),
	}
}

func (s *server) value(q *request) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(q.Millis)*time.Millisecond)
	defer cancel()
	v, err := s.backend.ask(ctx, q)
	if err != nil {
		return err
	}
	if err := writeValue(s.conn, frameValue, v); err != nil {
		return laneError{err}
	}
	return nil
}

// drop ends the open scan.
func (s *server) drop() {
	if s.scan != nil {
		s.scan.close()
	}
	s.scan, s.last, s.first = nil, s.last[:0], nil
	s.rows = buffer{data: s.rows.data[:0], ends: s.rows.ends[:0]}
	if cap(s.rows.data) > 4*answerBytes { // an outsized row's
		s.rows.data = nil
	}
}

// again tells whether the last row begins the page that is asked for, and whether the page goes on with the open scan at all.
func (s *server) goesOn(q *request) (again, ok bool) {
	switch {
	case s.scan == nil || q.Table != s.of.Table || !sameSpec(&q.Spec, &s.of.Spec):
		return false, false
	case len(s.last) == 0:
		return false, bytes.Equal(q.Start, s.first)
	}
	key := hbase.PackedRow(s.last).Key()
	if q.Spec.Reversed {
		return false, false
	}
	if bytes.Equal(q.Start, key) {
		return true, true
	}
	n := len(q.Start) - 1
	return false, n == len(key) && q.Start[n] == 0 && bytes.Equal(q.Start[:n], key)
}

func sameSpec(a, b *spec) bool {
	if a.Versions != b.Versions || a.From != b.From || a.To != b.To || a.Raw != b.Raw || a.Filter != b.Filter || a.Reversed != b.Reversed ||
		!bytes.Equal(a.Stop, b.Stop) || len(a.Columns) != len(b.Columns) {
		return false
	}
	for i := range a.Columns {
		x, y := &a.Columns[i], &b.Columns[i]
		if !bytes.Equal(x.Family, y.Family) || !bytes.Equal(x.Qualifier, y.Qualifier) || (x.Qualifier == nil) != (y.Qualifier == nil) {
			return false
		}
	}
	return true
}

// page answers a request for a page.
func (s *server) page(q *request) error {
	again, ok := s.goesOn(q)
	if !ok {
		if q.Once && s.scan != nil {
			// A page of its own must not cost the open scan.
			aside := &server{backend: s.backend, conn: s.conn, waited: s.waited}
			defer aside.drop()
			return aside.page(q)
		}
		s.drop()
		scan, err := s.backend.scan(q)
		if err != nil {
			return err
		}
		s.scan, s.of, s.first = scan, *q, q.Start
	}
	want := q.Rows
	if again {
		want--
	}
	s.rows.settle()
	for want > 0 && s.rows.rows() == 0 && !s.scan.finished() {
		if err := s.fetch(q); err != nil {
			s.drop()
			return err
		}
	}
	return s.give(q, again, want)
}

// quiet is how long a child says nothing while it is at work. The parent waits several times as long.
const quiet = 5 * time.Second

func (s *server) fetch(q *request) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(q.Millis)*time.Millisecond)
	defer cancel()
	if err := s.scan.fetch(ctx, &s.rows, max(q.Rows, 1)); err != nil {
		return err
	}
	if now := time.Now(); s.rows.rows() == 0 && now.Sub(s.waited) > quiet {
		var p [frameHead]byte
		putFrameHead(p[:], frameWait, 0)
		if _, err := s.conn.Write(p[:]); err != nil {
			return laneError{err}
		}
		s.waited = now
	}
	return nil
}

// give writes a page of at most want of the rows at hand, behind the last row where that is wanted again.
func (s *server) give(q *request, again bool, want int) error {
	const heads = frameHead + pageHead
	s.sizes = append(s.sizes[:0], make([]byte, heads)...)
	bytes, rows, more, need := 0, 0, false, 0
	fits := func(n int) bool {
		if q.Limit > 0 && bytes+n > q.Limit {
			more = true
			if rows == 0 {
				need = n
			}
			return false
		}
		s.sizes = binary.BigEndian.AppendUint32(s.sizes, fits32(n))
		bytes += n
		rows++
		return true
	}
	out := net.Buffers{nil}
	if again && fits(len(s.last)) {
		out = append(out, s.last)
	}
	from := s.rows.from
	latest, to := from, from // where the last row given begins and ends
	for range want {
		if more || s.rows.rows() == 0 {
			break
		}
		end := s.rows.ends[s.rows.next]
		if fits(end - to) {
			latest, to = to, end
			s.rows.next++
		}
	}
	given := s.rows.data[from:to]
	if len(given) > 0 {
		out = append(out, given)
	}
	head := s.sizes[:heads]
	putFrameHead(head, framePage, len(s.sizes)-frameHead+bytes)
	head[frameHead] = 0
	if more {
		head[frameHead] = flagMore
	}
	binary.BigEndian.PutUint32(head[frameHead+1:], fits32(need))
	binary.BigEndian.PutUint32(head[frameHead+5:], fits32(rows))
	out[0] = s.sizes
	if _, err := out.WriteTo(s.conn); err != nil {
		return laneError{err}
	}
	if len(given) > 0 {
		s.last = append(s.last[:0], s.rows.data[latest:to]...)
		s.rows.from = to
	}
	return nil
}

// hbaseBackend is HBase.
type hbaseBackend struct {
	hosts   string
	options []gohbase.Option

	once  sync.Once
	admin gohbase.AdminClient

	slots slots

	mu     sync.Mutex
	client gohbase.RPCClient
	made   time.Time
}

// rpc is the client at hand.
func (h *hbaseBackend) rpc() gohbase.RPCClient {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == nil {
		h.client, h.made = gohbase.NewClient(h.hosts, h.options...).(gohbase.RPCClient), time.Now()
	}
	return h.client
}

const (
	// renewAfter is for how long a client is kept at least.
	renewAfter = 5 * time.Second
	// goneAfter is when nobody uses one any more.
	goneAfter = 2 * callTime
)

// renew has the calls to come go by another client than the one that a call waited for until its time was over: gohbase looks for
// a region that is not there less and less often, and in the end not for minutes.
func (h *hbaseBackend) renew(old gohbase.RPCClient) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client != old || time.Since(h.made) < renewAfter {
		return
	}
	h.client = nil
	if c, ok := old.(gohbase.Client); ok {
		time.AfterFunc(goneAfter, c.Close)
	}
}

func (s *scanner) finished() bool { return s.done }

func (h *hbaseBackend) scan(q *request) (fetcher, error) {
	s, err := newScanner(h.rpc(), q)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (h *hbaseBackend) master() gohbase.AdminClient {
	h.once.Do(func() { h.admin = gohbase.NewAdminClient(h.hosts, h.options...) })
	return h.admin
}

func (h *hbaseBackend) ask(ctx context.Context, q *request) (any, error) {
	switch q.Op {
	case opRegions:
		return h.regions(ctx, q.Table)
	case opCluster:
		c, err := within(ctx, func() (Cluster, error) { return statusOf(h.master(), h.hosts) })
		return c, err
	case opDescribe:
		return h.describe(ctx, q.Table)
	}
	return nil, finalError{fmt.Errorf("unknown request %q", q.Op)}
}

// within bounds a call that knows no context. What goes on after its time is over ends with the process.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, fmt.Errorf("no answer: %w", ctx.Err())
	}
}

func (h *hbaseBackend) regions(ctx context.Context, table string) ([]hbase.Region, error) {
	found, err := h.located(ctx, table)
	if err != nil {
		return nil, err
	}
	regions := make([]hbase.Region, len(found))
	for i, r := range found {
		regions[i] = hbase.Region{Start: r.start, End: r.end, Server: r.server}
	}
	return regions, nil
}

// located reads a table's rows of hbase:meta, which are in the order of their starts.
func (h *hbaseBackend) located(ctx context.Context, table string) ([]located, error) {
	// Meta sorts by table, start and id; the first region's start is empty, and ' ' is the byte before ','... of a table, all
	// lie between "t,," and "t-", as no table's name has a byte below '-'.
	scan, err := hrpc.NewScanRange(ctx, []byte("hbase:meta"), []byte(table+",,"), []byte(table+" ,,"),
		hrpc.Families(map[string][]string{"info": {"regioninfo", "server"}}), hrpc.CacheBlocks(true))
	if err != nil {
		return nil, err
	}
	rows := h.rpc().(gohbase.Client).Scan(scan)
	defer rows.Close()
	var regions []located
	for {
		r, err := rows.Next()
		if errors.Is(err, io.EOF) {
			return regions, nil
		}
		if err != nil {
			return nil, err
		}
		var one located
		live := false
		for _, c := range r.Cells {
			switch string(c.Qualifier) {
			case "server":
				one.server = string(c.Value)
			case "regioninfo":
				body, ok := bytes.CutPrefix(c.Value, []byte("PBUF"))
				if !ok {
					continue
				}
				var info pb.RegionInfo
				if err := proto.Unmarshal(body, &info); err != nil {
					return nil, fmt.Errorf("decode region %q: %w", c.Row, err)
				}
				live = !info.GetOffline() && !info.GetSplit() && info.GetReplicaId() == 0
				one.name, one.start, one.end = c.Row, info.StartKey, info.EndKey
			}
		}
		if live {
			regions = append(regions, one)
		}
	}
}

// describe asks the master for a table's families.
func (h *hbaseBackend) describe(ctx context.Context, table string) ([]hbase.Family, error) {
	answer, err := askMaster(ctx, h, "GetTableDescriptors", &pb.GetTableDescriptorsRequest{TableNames: []*pb.TableName{pbName(table)}}, &pb.GetTableDescriptorsResponse{})
	if err != nil {
		return nil, err
	}
	families := []hbase.Family{}
	for _, t := range answer.TableSchema {
		for _, f := range t.ColumnFamilies {
			families = append(families, familyOf(f))
		}
	}
	return families, nil
}

func familyOf(s *pb.ColumnFamilySchema) hbase.Family {
	f := hbase.Family{Name: string(s.Name), Versions: 1, Compression: "none", Bloom: "row", Encoding: "none"}
	for _, a := range s.Attributes {
		value := strings.ToLower(string(a.Second))
		n, err := strconv.Atoi(value)
		switch key := string(a.First); {
		case key == "VERSIONS" && err == nil:
			f.Versions = max(n, 1)
		case key == "TTL" && err == nil && n > 0 && n < foreverSeconds:
			f.TTL = time.Duration(n) * time.Second
		case key == "COMPRESSION":
			f.Compression = value
		case key == "BLOOMFILTER":
			f.Bloom = value
		case key == "DATA_BLOCK_ENCODING":
			f.Encoding = value
		}
	}
	return f
}

// foreverSeconds is HBase's time to live of what never ends.
const foreverSeconds = 1<<31 - 1
