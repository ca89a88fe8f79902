package gateway_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

// one calls through a connection.
type one struct{ c *hbase.Conn }

func (o one) Call(ctx context.Context, _ string, f func(context.Context, *hbase.Conn) error) error {
	return f(ctx, o.c)
}

func TestAnOldGatewayKnowsRowsAndNoTables(t *testing.T) {
	for name, transport := range map[string]hbase.Transport{"unframed": {}, "framed compact": {Framed: true, Compact: true}, "http": {HTTP: true}} {
		t.Run(name, func(t *testing.T) {
			store, err := gateway.OpenStore("")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { store.Close() })
			dial := func(o gateway.Options) *hbase.Conn {
				o.Store, o.Transport = store, transport
				c, err := hbase.Dial(t.Context(), open(t, o).Addr(), transport)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			c := dial(gateway.Options{Old: true})
			spec := hbase.TableSpec{Name: "t", Families: []hbase.Family{{Name: "f", Versions: 1}}, Splits: [][]byte{[]byte("m")}}
			old := hbase.NewAdmin(one{c})

			if there, err := old.TableExists(t.Context(), "t"); there || err != nil {
				t.Errorf("a missing table: %v, %v", there, err)
			}
			for what, err := range map[string]error{
				"create":          old.Create(t.Context(), spec),
				"create in other": old.Create(t.Context(), hbase.TableSpec{Name: "ns:t", Families: spec.Families}),
			} {
				if !errors.Is(err, hbase.ErrUnknownMethod) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := hbase.NewAdmin(one{dial(gateway.Options{})}).Create(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			if there, err := old.TableExists(t.Context(), "t"); !there || err != nil {
				t.Errorf("a table that is there: %v, %v", there, err)
			}
			regions, err := old.Regions(t.Context(), "t")
			if err != nil || len(regions) != 2 || string(regions[1].Start) != "m" {
				t.Errorf("regions: %v, %v", regions, err)
			}
			if empty, err := old.Empty(t.Context(), "t"); !empty || err != nil {
				t.Errorf("empty: %v, %v", empty, err)
			}
			b := hbase.AcquireBatch(hbase.SyncWAL)
			defer b.Release()
			for _, key := range []string{"a", "z"} {
				b.Begin([]byte(key))
				b.Cell(hbase.Put, []byte("f"), []byte("q"), 7, []byte("v"))
				b.End()
			}
			if err := c.PutMultiple(t.Context(), "t", b, 0, 2); err != nil {
				t.Fatal(err)
			}
			if found, err := c.Exists(t.Context(), "t", b, []int{0, 1}); err != nil || slices.Contains(found, false) {
				t.Errorf("the rows are there: %v, %v", found, err)
			}
			var page hbase.Page
			if err := c.ScanPage(t.Context(), "t", &hbase.Scan{}, 10, &page); err != nil || len(page.Rows) != 2 {
				t.Errorf("scan: %d rows, %v", len(page.Rows), err)
			}

			// All that came with HBase 2, in the words of a 1.x gateway, and the connection goes on.
			n := &thrift2.TTableName{Ns: []byte("default"), Qualifier: []byte("t")}
			for what, f := range map[string]func(context.Context, *thrift2.THBaseServiceClient) error{
				"getTableDescriptor": func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
					_, err := c.GetTableDescriptor(ctx, n)
					return err
				},
				"isTableEnabled": func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
					_, err := c.IsTableEnabled(ctx, n)
					return err
				},
				"disableTable": func(ctx context.Context, c *thrift2.THBaseServiceClient) error { return c.DisableTable(ctx, n) },
				"listNamespaces": func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
					_, err := c.ListNamespaces(ctx)
					return err
				},
				"getThriftServerType": func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
					_, err := c.GetThriftServerType(ctx)
					return err
				},
				"getClusterId": func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
					_, err := c.GetClusterId(ctx)
					return err
				},
			} {
				err := c.Call(t.Context(), f)
				if !errors.Is(err, hbase.ErrUnknownMethod) || !strings.Contains(err.Error(), "Invalid method name: '"+what+"'") || !c.Reusable() {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}
