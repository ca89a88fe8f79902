package gateway

import (
	"fmt"
	"strings"

	"drover/hbase/thrift2"
)

// The one region server that the embedded gateway pretends to have.
const (
	serverHost = "localhost"
	serverPort = 16020
	startCode  = 1700000000000
)

var serverName = fmt.Sprintf("%s,%d,%d", serverHost, serverPort, int64(startCode))

// ioError is the exception HBase's gateway makes of any IOException. Real gateways say canRetry of all but subclasses of
// DoNotRetryIOException, and batches wrap even those.
func ioError(retry bool, format string, args ...any) *thrift2.TIOError {
	message := fmt.Sprintf(format, args...)
	return &thrift2.TIOError{Message: &message, CanRetry: &retry}
}

// internalError is a fault whose reason HBase's gateway keeps to itself: the client gets TApplicationException 6.
type internalError struct{ reason string }

func (e internalError) Error() string { return e.reason }

// Failures collects why rows of one call were refused, as HBase's client sums them up.
type Failures struct {
	Servers string // that they are of: "host,port,startcode"; "" is the one that the embedded gateway pretends to have

	rows    int
	reasons []string
	counts  []int
}

// Add adds a row that was refused.
func (f *Failures) Add(reason string) {
	f.rows++
	for i, r := range f.reasons {
		if r == reason {
			f.counts[i]++
			return
		}
	}
	f.reasons = append(f.reasons, reason)
	f.counts = append(f.counts, 1)
}

// Err is a *thrift2.TIOError, or nil where no row was refused.
func (f *Failures) Err() error {
	if f.rows == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Failed %d action%s: ", f.rows, plural(f.rows))
	for i, r := range f.reasons {
		fmt.Fprintf(&b, "%s: %d time%s, ", r, f.counts[i], plural(f.counts[i]))
	}
	servers := f.Servers
	if servers == "" {
		servers = serverName
	}
	b.WriteString("servers with issues: " + servers)
	return ioError(true, "%s", b.String())
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// remote is an exception that the master or a region server threw: its class in front, its stack behind, as they arrive.
func remote(class, format string, args ...any) string {
	return "org.apache.hadoop.hbase." + class + ": " + fmt.Sprintf(format, args...) +
		"\n\tat org.apache.hadoop.hbase.ipc.RpcServer.call(RpcServer.java)\n\tat drover.EmbeddedGateway"
}

// refused is the error of a call that the master or a region server refused for good.
func refused(class, format string, args ...any) error {
	return ioError(false, "%s", remote(class, format, args...))
}

func tableNotFound(name string) error { return ioError(false, "%s", name) }

func tableNotEnabled(name string) error { return ioError(false, "%s is disabled.", name) }

// noFamily is the text of the region server for one row.
func (t *table) noFamily(family, row []byte) string {
	return remote("regionserver.NoSuchColumnFamilyException", "Column family %s does not exist in region %s in table %s",
		family, t.regionName(row), t.describe())
}

// regionName is the name of the region that holds the row.
func (t *table) regionName(row []byte) string {
	start, _ := t.region(row)
	return fmt.Sprintf("%s,%s,%d.%032x.", t.name, start, int64(startCode), t.number)
}

func (t *table) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "'%s'", t.name)
	for _, f := range t.families {
		fmt.Fprintf(&b, ", {NAME => '%s', VERSIONS => '%d'}", f.name, f.versions)
	}
	return b.String()
}
