package e2e

import (
	"fmt"
	"os"
	"testing"

	"drover/e2e/stack"
	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/gatewaytest"
	"drover/hbase/native"
)

// TestRealGateways holds HBase's own gateways to the suite that the embedded one passes, so that what the embedded one
// shows is true of HBase.
func TestRealGateways(t *testing.T) {
	t.Parallel()
	s := stack.Shared(t)
	table := func() string { return fmt.Sprintf("suite%d_%d", os.Getpid(), tables.Add(1)) }
	// The suite mostly waits for the master, one table at a time, so the gateways take it side by side.
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		gatewaytest.Run(t, func(*testing.T) gatewaytest.Target {
			return gatewaytest.Target{Addrs: s.Addrs(), Table: table, Shared: true}
		})
	})
	// Our own gateway over gohbase speaks for the same HBase. It knows no more than a Pool and an Admin need.
	t.Run("relay", func(t *testing.T) {
		t.Parallel()
		g, err := gateway.Open(gateway.Options{Backend: native.NewRelay(s.ZooKeeper)})
		must(t, err)
		defer func() { must(t, g.Close()) }()
		gatewaytest.Run(t, func(*testing.T) gatewaytest.Target {
			return gatewaytest.Target{
				Addrs: []string{g.Addr()}, Table: table, Shared: true,
				Lacks: []string{"Families", "Namespaces", "ScanParts", "Scanners"},
			}
		})
	})
	for _, c := range []struct {
		name string
		site map[string]string
		args []string
	}{
		{"framed", nil, []string{"-threadedselector"}},
		{"compact", nil, []string{"-c"}},
		{"framed compact", nil, []string{"-f", "-c"}},
		{"http", map[string]string{"hbase.regionserver.thrift.http": "true"}, nil},
	} {
		if c.name == "framed compact" && !proving() {
			continue // each of the two alone is enough for every day
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g, err := s.AddGateway(t.Context(), c.site, c.args...)
			must(t, err)
			defer func() { must(t, g.Kill()) }()
			transport := hbase.Transport{Framed: g.Protocol.Framed, Compact: g.Protocol.Compact, HTTP: g.Protocol.HTTP}
			gatewaytest.Run(t, func(*testing.T) gatewaytest.Target {
				return gatewaytest.Target{Addrs: []string{g.Addr}, Transport: transport, Table: table, BrokenSplits: transport.Framed, Shared: true}
			})
		})
	}
}
