package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// AddThrift1 starts a gateway of the old service, Thrift1, which other clients than drover speak. It lives until its Kill or
// the stack's Close.
func (s *Stack) AddThrift1(ctx context.Context) (*Process, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, fmt.Errorf("add a Thrift1 gateway: %w", err)
	}
	s.mu.Lock()
	name := fmt.Sprintf("thrift1-%d", s.added)
	s.added++
	s.mu.Unlock()
	p, err := s.add(name, ports[0], merge(s.base, s.gatewaySite), s.gatewayHeap, busy, "org.apache.hadoop.hbase.thrift.ThriftServer",
		"-p", fmt.Sprint(ports[0]), "--infoport", fmt.Sprint(ports[1]), "start")
	if err != nil {
		return nil, fmt.Errorf("add a Thrift1 gateway: %w", err)
	}
	p.Info = address(ports[1])
	// It listens once it is connected to the cluster; no call of the old service is spoken here that would show more.
	p.ready = func(ctx context.Context, _ time.Time) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", p.Addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := p.Restart(ctx); err != nil {
		return nil, fmt.Errorf("add a Thrift1 gateway: %w", errors.Join(err, p.Kill()))
	}
	return p, nil
}

// Java gives the command line of a Java program that is a client of the stack: HBase's jars and configuration, and the
// folder or jar that the program itself is in.
func (s *Stack) Java(program string, class string, args ...string) (bin string, all []string) {
	conf := filepath.Join(s.Dir, "conf", s.Gateways[0].Name)
	j := s.java
	j.classpath = program + string(filepath.ListSeparator) + j.classpath
	return j.bin, j.args(conf, 2048, busy, class, args...)
}

// Classpath lists HBase's jars, joined as javac wants them.
func (s *Stack) Classpath() string { return s.java.classpath }
