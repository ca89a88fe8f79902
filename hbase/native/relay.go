package native

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tsuna/gohbase"

	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

// relay is a Thrift2 gateway's service over gohbase: what a Gateway's child, and drover gateway --hbase, serve. It knows what a
// Pool and an Admin ask for, and no more. What HBase says of a call reaches the client in the words of HBase's own gateways.
type relay struct {
	thrift2.THBaseService // nil: what is not in relayMethods does not come here

	hbase *hbaseBackend
	maps  regionMaps
}

var relayMethods = []string{
	"putMultiple", "put", "deleteSingle", "deleteMultiple",
	"exists", "existsAll", "get", "getMultiple", "getScannerResults",
	"getRegionLocation", "getAllRegionLocations", "tableExists", "getTableDescriptor", "getTableNamesByPattern",
	"isTableEnabled", "isTableDisabled", "isTableAvailable",
	"createTable", "deleteTable", "truncateTable", "enableTable", "disableTable", "getNamespaceDescriptor",
	"getThriftServerType", "getClusterId",
}

// Methods implements gateway.Backend.
func (*relay) Methods() []string { return relayMethods }

// relayTime bounds what one call may take, as HBase's client in its gateways bounds its own.
const relayTime = 30 * time.Second

func relayContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), relayTime)
}

// NewRelay is a backend for a gateway.Server in front of the HBase whose ZooKeeper is named: "host:port,host:port", with HBase's
// root behind it where that is not /hbase. It connects when it is first used, and its calls may end the process: see Gateway.
func NewRelay(quorum string) gateway.Backend {
	logrus.SetLevel(logrus.FatalLevel) // what is not fatal comes back as an error
	hosts, options := clientOptions(quorum)
	return &relay{hbase: &hbaseBackend{hosts: hosts, options: options}}
}

// plain is a table's name without the default namespace.
func plain(table []byte) string { return strings.TrimPrefix(string(table), "default:") }

// ioError is what HBase's gateway makes of an IOException.
func ioError(retry bool, text string) *thrift2.TIOError {
	return &thrift2.TIOError{Message: &text, CanRetry: &retry}
}

// told is an error of gohbase as a client of a gateway gets to know it: the class that the server threw comes first.
func told(table string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*thrift2.TIOError](err); ok {
		return e
	}
	if errors.Is(err, gohbase.TableNotFound) {
		return ioError(false, table)
	}
	text := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		text = "org.apache.hadoop.hbase.ipc.CallTimeoutException: no answer in time: " + err.Error()
	}
	if _, said, ok := strings.Cut(text, "HBase Java exception "); ok {
		class, stack, _ := strings.Cut(said, ":\n")
		if text = stack; !strings.HasPrefix(stack, class) {
			text = class + ": " + stack
		}
	}
	return ioError(!isFinal(text), text)
}

// RelayCommand is the hidden command by which a child process of the same binary runs ServeRelay.
const RelayCommand = "native-relay"

// ServeRelay serves the connections that come as file descriptors over control, until control ends: no child outlives its parent.
func ServeRelay(quorum string, control *os.File) error {
	boundMemory()
	conn, err := net.FileConn(control)
	control.Close()
	if err != nil {
		return fmt.Errorf("open the parent's socket: %w", err)
	}
	l := &handedListener{conn: conn.(*net.UnixConn), ended: make(chan struct{})}
	s, err := gateway.Open(gateway.Options{Listener: l, Backend: NewRelay(quorum)})
	if err != nil {
		return err
	}
	<-l.ended
	return s.Close()
}
