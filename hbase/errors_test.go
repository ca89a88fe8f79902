package hbase

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
)

func TestClassifyTexts(t *testing.T) {
	for _, c := range []struct {
		text string
		kind Kind
		wait time.Duration
	}{
		{"org.apache.hadoop.hbase.RegionTooBusyException: Over memstore limit=256.0M, regionName=t", Again, 0},
		{"Failed 500 actions: Over memstore limit=256.0M, regionName=t, server=rs1,16020,1: 500 times, servers with issues: rs1,16020,1", Again, 0},
		{"org.apache.hadoop.hbase.quotas.RpcThrottlingException: number of requests exceeded - wait 1sec, 20ms", Again, 1020 * time.Millisecond},
		{"write size limit exceeded - wait 2mins, 5sec", Again, 125 * time.Second},
		{"read size limit exceeded - wait 300ms", Again, 300 * time.Millisecond},
		{"request size exceeded - wait 1hrs, 1mins, 1sec", Again, time.Hour},
		{"request size exceeded - wait 99999999999999999999hrs, 1mins, 1sec", Again, time.Hour},
		{"Call queue is full on rs1,16020,1, too many items queued ?", Again, 0},
		{"Failed 2 actions: NotServingRegionException: 2 times, servers with issues: rs1,16020,1", Again, 0},
		{"Failed 1 action: ConnectException: 1 time, servers with issues: rs1,16020,1", Elsewhere, 0},
		{"Failed 1 action: CallTimeoutException: 1 time, servers with issues: rs1,16020,1", Again, 0},
		{"Server rs1 is not running yet: org.apache.hadoop.hbase.ipc.ServerNotRunningYetException", Again, 0},

		{"Failed 1 action: nope: 1 time, servers with issues: null", Table, 0},
		{"Failed 12 actions: ns:nope: 12 times, servers with issues: null", Table, 0},
		{"Failed 1 action: IOException: 1 time, servers with issues: null", Again, 0},
		{"Failed 1 action: org.apache.hadoop.hbase.regionserver.NoSuchColumnFamilyException: Column family nofam does not exist in region t,,1.x. in table 't'", Table, 0},
		{"org.apache.hadoop.hbase.security.AccessDeniedException: Insufficient permissions (user=x)", Table, 0},
		{"org.apache.hadoop.hbase.quotas.SpaceLimitingException: NO_INSERTS Puts are disallowed due to a space quota.", Table, 0},
		{"t is disabled.", Table, 0},
		{"nope", Table, 0},
		{"ns:nope", Table, 0},
		{"null", Again, 0},

		{"Internal error processing putMultiple", Never, 0},
		{"Failed 1 action: org.apache.hadoop.hbase.DoNotRetryIOException: Cell with size 10485768 exceeds limit of 10485760 bytes", Never, 0},
		{"org.apache.hadoop.hbase.constraint.ConstraintException: Put failed", Never, 0},
		{"org.apache.hadoop.hbase.DoNotRetryIOException: whatever", Never, 0},
		// One row is refused and the region is busy: first the region must be free.
		{"Failed 2 actions: org.apache.hadoop.hbase.DoNotRetryIOException: x: 1 time, Over memstore limit=1: 1 time, servers with issues: a", Again, 0},
		{"Internal error processing getScannerResults", Again, 0},

		{"org.apache.hadoop.hbase.ipc.RequestTooBigException: RPC data length of 300000000 received", Smaller, 0},
		{"org.apache.hadoop.hbase.ZooKeeperConnectionException: no ensemble", Elsewhere, 0},
		{"KeeperErrorCode = ConnectionLoss for /hbase/meta-region-server", Elsewhere, 0},
		{"", Again, 0},
		{"something that nobody has seen yet", Again, 0},
	} {
		kind, wait := Classify(ioError(c.text))
		if kind != c.kind || wait != c.wait {
			t.Errorf("%q: %v, %v; want %v, %v", c.text, kind, wait, c.kind, c.wait)
		}
		if kind, _ := Classify(fmt.Errorf("wrapped: %w", ioError(c.text))); kind != c.kind {
			t.Errorf("%q wrapped: %v, want %v", c.text, kind, c.kind)
		}
	}
}

func TestClassifyErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		kind Kind
	}{
		{nil, 0},
		{context.Canceled, Canceled},
		{context.DeadlineExceeded, Elsewhere},
		{os.ErrDeadlineExceeded, Elsewhere},
		{io.EOF, Elsewhere},
		{syscall.ECONNREFUSED, Elsewhere},
		{syscall.EPIPE, Elsewhere},
		{thrift.NewTProtocolException(io.ErrUnexpectedEOF), Elsewhere},
		{thrift.NewTProtocolException(errTooBig), Smaller},
		{thrift.NewTTransportException(thrift.TIMED_OUT, "slow"), Elsewhere},
		{thrift.NewTApplicationException(thrift.UNKNOWN_METHOD, "Invalid method name: 'x'"), Elsewhere},
		{thrift.NewTApplicationException(thrift.BAD_SEQUENCE_ID, "stale"), Elsewhere},
		{thrift.NewTApplicationException(thrift.INTERNAL_ERROR, "Internal error processing putMultiple"), Never},
		{thrift.NewTApplicationException(thrift.INTERNAL_ERROR, "Internal error processing get"), Again},
		{&Error{Kind: Smaller, Err: io.EOF}, Smaller},
		{errors.New("?"), Elsewhere},
	} {
		if kind, _ := Classify(c.err); kind != c.kind {
			t.Errorf("%v: %v, want %v", c.err, kind, c.kind)
		}
	}
}

func TestErrorText(t *testing.T) {
	trace := "org.apache.hadoop.hbase.X: bad\n\tat org.apache\n"
	e := &Error{Op: "put 5 rows to t", Gateway: "g:1", Err: ioError(trace)}
	if got, want := e.Error(), "put 5 rows to t via g:1: org.apache.hadoop.hbase.X: bad"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	e.Err = ioError(strings.Repeat("é", 4000))
	if got := e.Error(); len(got) > 500 {
		t.Errorf("%d bytes of message", len(got))
	}
}

func FuzzClassify(f *testing.F) {
	f.Add("exceeded - wait 1sec, 20ms")
	f.Add("Failed 1 action: nope: 1 time, servers with issues: null")
	f.Fuzz(func(t *testing.T, text string) {
		kind, wait := Classify(ioError(text))
		if kind < Again || kind > Never || wait < 0 || wait > longestWait || wait > 0 && kind != Again {
			t.Errorf("%q: %v, %v", text, kind, wait)
		}
	})
}
