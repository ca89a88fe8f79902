package gateway_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/gatewaytest"
)

func TestSuite(t *testing.T) {
	for name, transport := range map[string]hbase.Transport{
		"unframed": {}, "framed": {Framed: true}, "compact": {Compact: true}, "framed compact": {Framed: true, Compact: true}, "http": {HTTP: true},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := gateway.OpenStore("")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { store.Close() })
			var addrs []string
			for range 3 {
				addrs = append(addrs, open(t, gateway.Options{Store: store, Transport: transport}).Addr())
			}
			var tables atomic.Int64
			gatewaytest.Run(t, func(*testing.T) gatewaytest.Target {
				return gatewaytest.Target{Addrs: addrs, Transport: transport, Table: func() string { return fmt.Sprintf("t%06d", tables.Add(1)) }}
			})
		})
	}
}

func open(t *testing.T, o gateway.Options) *gateway.Server {
	t.Helper()
	s, err := gateway.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}
