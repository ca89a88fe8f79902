package hbase

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
)

// Kind is what an error asks of the caller.
type Kind uint8

// The kinds. The zero Kind is no error.
const (
	Again     Kind = iota + 1 // the cluster is busy or in motion: the same call later, through the same gateway too
	Elsewhere                 // this gateway or the way to it; the call may have taken effect all the same
	Smaller                   // the message is too big: fewer rows
	Table                     // the table, a family, a right or a quota is missing: no row fares better
	Never                     // HBase refuses this call whoever asks; proof that a row is at fault needs more than one
	Canceled                  // the caller's own context was cancelled
)

var kindNames = [...]string{"none", "again", "elsewhere", "smaller", "table", "never", "canceled"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// ErrUnknownMethod says that the gateway does not know a method: it is older than HBase 2.0, or speaks Thrift1. Its kind
// is Elsewhere, though all gateways of one cluster are likely to say the same.
var ErrUnknownMethod = errors.New("the gateway does not know this method (HBase before 2.0, or a Thrift1 gateway)")

// Error is an error of one call to one gateway.
type Error struct {
	Kind    Kind
	Op      string // what was done: "put 500 rows to t"; "" where the caller names it
	Gateway string // its address
	Table   string
	Rows    int
	Wait    time.Duration // how long the server asks to wait, 0 when it does not say
	Err     error
}

func (e *Error) Error() string {
	reason := Reason(e.Err)
	switch {
	case e.Gateway == "":
		return e.Op + ": " + reason
	case e.Op == "":
		return "gateway " + e.Gateway + ": " + reason
	case e.Op == opConnect:
		return "connect to " + e.Gateway + ": " + reason
	}
	return e.Op + " via " + e.Gateway + ": " + reason
}

const opConnect = "connect"

func (e *Error) Unwrap() error { return e.Err }

func isUnknownMethod(err error) bool {
	a, ok := errors.AsType[thrift.TApplicationException](err)
	return ok && a.TypeId() == thrift.UNKNOWN_METHOD
}

// Reason is what went wrong without the call's name. Of what a server wrote, which may be a stack trace, it is the first
// line within bounds. Generated exceptions print pointers where their message should be.
func Reason(err error) string {
	switch e := err.(type) {
	case *thrift2.TIOError:
		return firstLine(e.GetMessage())
	case *thrift2.TIllegalArgument:
		return firstLine(e.GetMessage())
	case thrift.TApplicationException:
		return firstLine(e.Error())
	}
	return err.Error()
}

func firstLine(s string) string {
	const longest = 400
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

// Classify says what an error asks of the caller, and how long the server asks to wait first. Where nothing is known of a
// text, it is Again: Never and Table need a reason. TIOError.canRetry is not looked at, for servers set it wrong.
func Classify(err error) (Kind, time.Duration) {
	if err == nil {
		return 0, 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind, e.Wait
	}
	if errors.Is(err, context.Canceled) {
		return Canceled, 0
	}
	if e, ok := errors.AsType[*thrift2.TIOError](err); ok {
		return classifyText(e.GetMessage(), "")
	}
	if e, ok := errors.AsType[*thrift2.TIllegalArgument](err); ok {
		return classifyText(e.GetMessage(), "")
	}
	if e, ok := errors.AsType[thrift.TApplicationException](err); ok {
		switch e.TypeId() {
		case thrift.INTERNAL_ERROR, thrift.UNKNOWN_APPLICATION_EXCEPTION:
			return classifyText(e.Error(), "")
		}
		return Elsewhere, 0
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.kind(), 0
	}
	if errors.Is(err, errTooBig) {
		return Smaller, 0
	}
	return Elsewhere, 0 // deadlines, sockets, names, TLS, protocol: all of them the way to the gateway
}

// classOf says which kind a text that occurs in a server's message has; the first match counts. Overload comes first: in
// an error for many rows, whatever else is wrong is seen again when the overload is over.
var classOf = []struct {
	kind Kind
	text string
}{
	// overload
	{Again, "RegionTooBusyException"},
	{Again, "Over memstore limit"},
	{Again, "Above memstore limit"},
	{Again, "Failed to obtain lock"},
	{Again, "failed to get a lock in"},
	{Again, "ThrottlingException"},
	{Again, "exceeded - wait"},
	{Again, "CallQueueTooBigException"},
	{Again, "Call queue is full"},
	{Again, "CallDroppedException"},
	{Again, "ServerOverloadedException"},
	{Again, "TooManyRegionsInTransition"},

	{Smaller, "RequestTooBigException"},
	{Smaller, "RPC data length of"},
	{Smaller, "MultiActionResultTooLarge"},
	{Smaller, "larger than max length"},
	{Smaller, "MaxMessageSize reached"},

	{Table, "TableNotFoundException"},
	{Table, "TableNotEnabledException"},
	{Table, "TableExistsException"},
	{Table, "TableNotDisabledException"},
	{Table, "NamespaceNotFoundException"},
	{Table, "NoSuchColumnFamilyException"},
	{Table, "InvalidFamilyOperationException"},
	{Table, "AccessDeniedException"},
	{Table, "Insufficient permissions"},
	{Table, "SpaceLimitingException"},
	{Table, "disallowed due to a space quota"},
	{Table, "QuotaExceededException"},
	{Table, "is disabled"},
	{Table, "RegionInfo was null"},

	// a row that no server takes
	{Never, "Internal error processing putMultiple"},
	{Never, "Internal error processing deleteMultiple"},
	{Never, "Internal error processing put"},
	{Never, "Internal error processing deleteSingle"},
	{Never, "Internal error processing createTable"},
	{Never, "ConstraintException"},
	{Never, "FailedSanityCheckException"},
	{Never, "KeyValue size too large"},
	{Never, "exceeds limit of"}, // Cell with size n exceeds limit of m bytes
	{Never, "Row length"},
	{Never, "Row key is invalid"},
	{Never, "No columns to insert"},
	{Never, "Timestamp cannot be negative"},

	// the gateway's own trouble
	{Elsewhere, "StoppedRpcClientException"},
	{Elsewhere, "FatalConnectionException"},
	{Elsewhere, "GSS initiate failed"},
	{Elsewhere, "KerberosAuthException"},
	{Elsewhere, "ZooKeeperConnectionException"},
	{Elsewhere, "ConnectionLossException"},
	{Elsewhere, "KeeperErrorCode"},
	{Elsewhere, "MasterNotRunningException"},
	{Elsewhere, "NoServerForRegionException"},
	{Elsewhere, "ConnectionClosedException"},
	{Elsewhere, "onnection is closed"},
	{Elsewhere, "UnknownHostException"},
	{Elsewhere, "OutOfMemoryError"},
	{Elsewhere, "RejectedExecutionException"},

	// a region that moves or a server that starts, stops or hangs: every gateway waits for the same one
	{Again, "NotServingRegionException"},
	{Again, "RegionOpeningException"},
	{Again, "RegionMovedException"},
	{Again, "RegionInRecoveryException"},
	{Again, "WrongRegionException"},
	{Again, "ServerNotRunningYetException"},
	{Again, "RegionServerStoppedException"},
	{Again, "RegionServerAbortedException"},
	{Again, "PleaseHoldException"},
	{Again, "FailedServerException"},
	{Again, "CallTimeoutException"},
	{Again, "CallTimedOutException"},
	{Again, "SocketTimeoutException"},
	{Again, "InterruptedIOException"},

	{Elsewhere, "ConnectException"},
	{Elsewhere, "Connection refused"},
	{Elsewhere, "NoRouteToHostException"},

	{Never, "DoNotRetryIOException"}, // none of its known descendants
}

// KindOf classes a server's message as Classify does, for those who get it otherwise than by a gateway.
func KindOf(text string) (Kind, time.Duration) { return classifyText(text, "") }

var (
	// A client's error for many rows names a missing or disabled table by its bare name, because the class is dropped:
	// "Failed 1 action: nope: 1 time, servers with issues: null".
	failedActions = regexp.MustCompile(`^Failed \d+ actions?: ([\w.:-]+): \d+ times?, servers with issues: null`)

	// So does a single call's: the message of the exception is the table's name.
	bareTable = regexp.MustCompile(`^[\w.-]+(:[\w.-]+)?$`)

	waits = regexp.MustCompile(`wait (?:(\d+)hrs?, )?(?:(\d+)mins?, )?(?:(\d+)sec(?:, )?)?(?:(\d+)ms)?`)
)

// longestWait bounds what a server may ask for.
const longestWait = time.Hour

func classifyText(text, table string) (Kind, time.Duration) {
	if table != "" && text == table {
		return Table, 0
	}
	for _, c := range classOf {
		if strings.Contains(text, c.text) {
			if c.kind == Again {
				return Again, waitIn(text)
			}
			return c.kind, 0
		}
	}
	name := text
	if m := failedActions.FindStringSubmatch(text); m != nil {
		name = m[1]
	}
	if bareTable.MatchString(name) && !strings.HasSuffix(name, "Exception") && !strings.HasSuffix(name, "Error") && name != "null" {
		return Table, 0
	}
	return Again, 0
}

func waitIn(text string) time.Duration {
	m := waits.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	var wait time.Duration
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second, time.Millisecond} {
		n, err := strconv.ParseInt("0"+m[i+1], 10, 64)
		if err != nil || n > int64(longestWait/unit) {
			return longestWait
		}
		wait += time.Duration(n) * unit
	}
	return min(wait, longestWait)
}

// Errors of the wire itself.
var (
	errTooBig  = errors.New("message too big")
	errGarbage = errors.New("not the reply that was asked for")
	errBroken  = errors.New("connection is no longer usable")
)

func garbage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errGarbage, fmt.Sprintf(format, args...))
}

// statusError is an HTTP answer other than 200.
type statusError struct {
	code int
	text string // status line's, and the start of the body
}

func (e *statusError) Error() string { return "HTTP " + e.text }

func (e *statusError) kind() Kind {
	switch e.code {
	case 401, 403:
		return Table
	case 413:
		return Smaller
	case 429, 503:
		return Again
	}
	return Elsewhere
}
