package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

// Heaps in MiB, unless Options says others: three region servers, three gateways, master and ZooKeeper together stay below 3 GB.
const (
	zookeeperHeap    = 128
	masterHeap       = 384
	regionServerHeap = 768
	gatewayHeap      = 320
)

// Collectors that pause take less memory and fewer cores than G1. Servers that do little are not worth the second compiler.
var (
	small = []string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote"}
	busy  = []string{"-XX:+UseSerialGC", "-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote"}
)

// add registers a process that is not started yet.
func (s *Stack) add(name string, port int, site map[string]string, heap int, tuning []string, class string, rest ...string) (*Process, error) {
	conf := filepath.Join(s.Dir, "conf", name)
	if err := writeConf(conf, site); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	logs := filepath.Join(s.Dir, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	p := &Process{
		Name: name,
		Addr: address(port),
		Log:  filepath.Join(logs, name+".log"),
		bin:  s.java.bin,
		args: s.java.args(conf, heap, tuning, class, rest...),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the stack is closed")
	}
	s.all = append(s.all, p)
	return p, nil
}

func (s *Stack) zookeeper(port int) (*Process, error) {
	cfg := filepath.Join(s.Dir, "zoo.cfg")
	if err := os.WriteFile(cfg, []byte(zooCfg(filepath.Join(s.Dir, "zookeeper"), port)), 0o644); err != nil {
		return nil, fmt.Errorf("prepare zookeeper: %w", err)
	}
	p, err := s.add("zookeeper", port, nil, zookeeperHeap, small, "org.apache.zookeeper.server.ZooKeeperServerMain", cfg)
	if err != nil {
		return nil, err
	}
	p.ready = serves(p)
	return p, nil
}

// serves tells whether a ZooKeeper server takes sessions. "imok" comes before it does; a mode does not.
func serves(p *Process) func(context.Context, time.Time) error {
	return func(ctx context.Context, _ time.Time) error {
		out, err := fourLetters(ctx, p.Addr, "srvr")
		if err != nil {
			return err
		}
		if !bytes.Contains(out, []byte("Mode:")) {
			return fmt.Errorf("srvr answers %q", out)
		}
		return nil
	}
}

func (s *Stack) master(port int) (*Process, error) {
	site := merge(s.base, s.server, map[string]string{"hbase.master.port": strconv.Itoa(port)})
	p, err := s.add("master", port, site, masterHeap, small, "org.apache.hadoop.hbase.master.HMaster", "start")
	if err != nil {
		return nil, err
	}
	p.ready = func(ctx context.Context, _ time.Time) error {
		out, err := fourLetters(ctx, s.ZooKeeper, "dump")
		if err != nil {
			return err
		}
		if !bytes.Contains(out, []byte("/hbase/rs/")) {
			return errors.New("no region server is registered in ZooKeeper")
		}
		// The master refuses commands until it is initialised, and speaks only HBase's own protocol: ask through a gateway.
		for _, g := range s.Gateways {
			if !g.Alive() {
				continue
			}
			return wire.Call(ctx, g.Addr, g.Protocol, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
				_, err := c.ListNamespaces(ctx)
				return err
			})
		}
		return errors.New("no gateway lives to ask it through")
	}
	return p, nil
}

func (s *Stack) regionServer(i, port int) (*Process, error) {
	site := merge(s.base, s.server, map[string]string{"hbase.regionserver.port": strconv.Itoa(port)})
	p, err := s.add(fmt.Sprintf("regionserver%d", i), port, site, s.regionServerHeap, busy, "org.apache.hadoop.hbase.regionserver.HRegionServer", "start")
	if err != nil {
		return nil, err
	}
	// Its node in ZooKeeper carries its start time, which tells it from that of a killed predecessor.
	node := regexp.MustCompile(fmt.Sprintf(`/hbase/rs/localhost,%d,(\d+)`, port))
	p.ready = func(ctx context.Context, since time.Time) error {
		out, err := fourLetters(ctx, s.ZooKeeper, "dump")
		if err != nil {
			return err
		}
		for _, m := range node.FindAllSubmatch(out, -1) {
			if ms, err := strconv.ParseInt(string(m[1]), 10, 64); err == nil && ms >= since.UnixMilli() {
				return nil
			}
		}
		return errors.New("it is not registered in ZooKeeper")
	}
	return p, nil
}

func (s *Stack) gateway(name string, port, info int, site map[string]string, args []string) (*Process, error) {
	all := merge(s.base, s.gatewaySite, site)
	rest := append([]string{"-p", strconv.Itoa(port), "--infoport", strconv.Itoa(info)}, args...)
	p, err := s.add(name, port, all, s.gatewayHeap, busy, "org.apache.hadoop.hbase.thrift2.ThriftServer", append(rest, "start")...)
	if err != nil {
		return nil, err
	}
	p.Info = address(info)
	p.Protocol = protocol(all, args)
	p.ready = func(ctx context.Context, _ time.Time) error {
		// A gateway that is asked before the cluster has an id takes "default-cluster" and keeps it. Region servers register
		// after they have read the id.
		out, err := fourLetters(ctx, s.ZooKeeper, "dump")
		if err != nil {
			return err
		}
		if !bytes.Contains(out, []byte("/hbase/rs/")) {
			return errors.New("no region server is registered in ZooKeeper")
		}
		// Reading the table of regions goes the whole way to a region server.
		return wire.Call(ctx, p.Addr, p.Protocol, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			_, err := c.GetScannerResults(ctx, []byte("hbase:meta"), thrift2.NewTScan(), 1)
			return err
		})
	}
	return p, nil
}

// clusterID asks a gateway for the cluster's id.
func clusterID(ctx context.Context, g *Process) (string, error) {
	var id string
	err := wire.Call(ctx, g.Addr, g.Protocol, func(ctx context.Context, c *thrift2.THBaseServiceClient) (err error) {
		id, err = c.GetClusterId(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ask for the cluster's id: %w", err)
	}
	if id == "" || id == "default-cluster" {
		return "", fmt.Errorf("ask %s for the cluster's id: it says %q", g.Addr, id)
	}
	return id, nil
}

// fourLetters sends one of ZooKeeper's four-letter commands and returns all of the answer.
func fourLetters(ctx context.Context, addr, command string) ([]byte, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("ask zookeeper: %w", err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, fmt.Errorf("ask zookeeper: %w", err)
		}
	}
	if _, err := io.WriteString(conn, command); err != nil {
		return nil, fmt.Errorf("ask zookeeper: %w", err)
	}
	out, err := io.ReadAll(conn)
	if err != nil {
		return nil, fmt.Errorf("ask zookeeper: %w", err)
	}
	return out, nil
}
