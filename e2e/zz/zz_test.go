package zz

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"drover/e2e/check"
	"drover/e2e/stack"
	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

func TestZZ(t *testing.T) {
	s, err := stack.Start(t.Context(), stack.Options{Dir: "/tmp/st2", Log: os.Stderr, Gateways: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	call := func(f func(context.Context, *thrift2.THBaseServiceClient) error) error {
		return wire.Call(t.Context(), s.Addrs()[0], wire.Protocol{}, f)
	}
	table := &thrift2.TTableName{Ns: []byte("default"), Qualifier: []byte("t")}
	if err := call(func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		desc := &thrift2.TTableDescriptor{TableName: table, Columns: []*thrift2.TColumnFamilyDescriptor{{Name: []byte("d")}}}
		return c.CreateTable(ctx, desc, [][]byte{{'1'}, {'2'}, {'3'}, {'4'}, {'5'}})
	}); err != nil {
		t.Fatal(err)
	}
	for round := range 4 {
		var puts []*thrift2.TPut
		ts := int64(5)
		for i := range 600 {
			puts = append(puts, &thrift2.TPut{Row: fmt.Appendf(nil, "%d-%d-%d", i%6, round, i), ColumnValues: []*thrift2.TColumnValue{{Family: []byte("d"), Qualifier: []byte("q"), Value: []byte("v"), Timestamp: &ts}}})
		}
		if err := call(func(ctx context.Context, c *thrift2.THBaseServiceClient) error { return c.PutMultiple(ctx, []byte("t"), puts) }); err != nil {
			t.Fatal(err)
		}
		b := time.Now()
		p := s.RegionServers[round%3]
		fmt.Println("round", round, "kill", p.Addr, b.UTC())
		p.Kill()
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		fmt.Println("restarted after", time.Since(b))
		v, err := check.CountVersions(t.Context(), check.Table{Addr: s.Addrs()[0], Name: "t"})
		if err != nil {
			t.Error("FAILED", time.Since(b), err.Error()[:300])
			return
		}
		fmt.Println("scanned", v.Rows, "after", time.Since(b))
	}
}
