package stack

import (
	"bytes"
	_ "embed"
	"encoding/xml"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

//go:embed log4j.properties
var log4j []byte

// baseSite is what every process must agree on.
func baseSite(dir string, zookeeper int) map[string]string {
	return map[string]string{
		"hbase.cluster.distributed":           "true",
		"hbase.rootdir":                       "file://" + filepath.Join(dir, "hbase"),
		"hbase.tmp.dir":                       filepath.Join(dir, "tmp"),
		"hbase.zookeeper.quorum":              "127.0.0.1",
		"hbase.zookeeper.property.clientPort": strconv.Itoa(zookeeper),
		// Hadoop's file system with checksums keeps what it was told to flush in the process, so that HBase loses acknowledged rows
		// with a region server that dies, or that is taken for dead. The raw one hands it to the kernel.
		"fs.file.impl":                        "org.apache.hadoop.fs.RawLocalFileSystem",
		"hbase.wal.provider":                  "filesystem",
		"zookeeper.session.timeout":           "10000", // how long a killed server is missed; two busy cores stall for seconds
		"hbase.thrift.info.bindAddress":       "127.0.0.1",
		"hbase.regionserver.thrift.ipaddress": "127.0.0.1",
		"hbase.unsafe.regionserver.hostname":  "localhost",
		"hbase.master.hostname":               "localhost",
		"hbase.master.ipc.address":            "127.0.0.1",
		"hbase.regionserver.ipc.address":      "127.0.0.1",
		"hbase.master.info.port":              "-1",
		"hbase.regionserver.info.port":        "-1",
	}
}

// serverSite is of master and region servers.
func serverSite(regionServers int) map[string]string {
	n := strconv.Itoa(regionServers)
	return map[string]string{
		// Regions are assigned when all servers are there, and at once: else the first one gets all, and the master waits
		// seconds for more.
		"hbase.master.wait.on.regionservers.mintostart": n,
		"hbase.master.wait.on.regionservers.maxtostart": n,
		"hbase.master.wait.on.regionservers.interval":   "100",
		"hbase.regionserver.msginterval":                "1000",
		"hbase.regionserver.handler.count":              "10",
		// What dropped tables and old logs leave fills a disk in ten minutes of measuring, if it is kept for as long as by default.
		"hbase.master.hfilecleaner.ttl": "30000",
		"hbase.master.logcleaner.ttl":   "30000",
		"hbase.master.cleaner.interval": "20000",
		// No table has a quota until a test sets one, and then it is in force at once.
		"hbase.quota.enabled":        "true",
		"hbase.quota.refresh.period": "1000",
	}
}

// gatewaySite makes a gateway, which is a client of HBase's, give up in seconds. By itself it retries for up to 20 minutes,
// and a test would never see an error.
func gatewaySite() map[string]string {
	return map[string]string{
		"hbase.client.retries.number":         "4",
		"hbase.client.pause":                  "100",
		"hbase.client.operation.timeout":      "12000",
		"hbase.client.meta.operation.timeout": "12000",
		"hbase.client.scanner.timeout.period": "12000",
		"hbase.rpc.timeout":                   "6000",
		"zookeeper.recovery.retry":            "1",
	}
}

// merge lays maps over each other, the last on top.
func merge(sites ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, s := range sites {
		maps.Copy(all, s)
	}
	return all
}

// writeConf makes a configuration folder for one process.
func writeConf(dir string, site map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make configuration folder: %w", err)
	}
	var b bytes.Buffer
	b.WriteString("<configuration>\n")
	for _, name := range slices.Sorted(maps.Keys(site)) {
		b.WriteString("<property><name>")
		xml.EscapeText(&b, []byte(name)) // writes to memory: no error
		b.WriteString("</name><value>")
		xml.EscapeText(&b, []byte(site[name]))
		b.WriteString("</value></property>\n")
	}
	b.WriteString("</configuration>\n")
	if err := os.WriteFile(filepath.Join(dir, "hbase-site.xml"), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log4j.properties"), log4j, 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func zooCfg(dir string, port int) string {
	return fmt.Sprintf("tickTime=2000\ndataDir=%s\nclientPort=%d\n%s", dir, port, zooCommon)
}

// zooCommon is what every ZooKeeper server has.
const zooCommon = `clientPortAddress=127.0.0.1
admin.enableServer=false
maxClientCnxns=0
4lw.commands.whitelist=*
`

func address(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// freePorts finds n ports that nobody listens on. They lie below the range that systems give to outgoing connections, so
// that none is taken between here and the server's bind; being drawn at random, two stacks that start together do not meet.
func freePorts(n int) ([]int, error) {
	const low, high = 10000, 32000
	var ports []int
	for range 50 * (n + 1) {
		if len(ports) == n {
			return ports, nil
		}
		p := low + rand.IntN(high-low)
		if slices.Contains(ports, p) {
			continue
		}
		l, err := net.Listen("tcp", address(p))
		if err != nil {
			continue
		}
		l.Close()
		ports = append(ports, p)
	}
	return nil, fmt.Errorf("find %d free ports between %d and %d on 127.0.0.1: nearly all are taken", n, low, high)
}
