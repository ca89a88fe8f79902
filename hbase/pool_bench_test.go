package hbase

import (
	"context"
	"fmt"
	"testing"
	"time"

	"drover/hbase/thrift2"
)

type instantLink struct{}

func (instantLink) ScanPage(context.Context, string, *Scan, int, *Page) error      { return nil }
func (instantLink) Alive(context.Context) (bool, error)                            { return false, nil }
func (instantLink) Reach(context.Context) error                                    { return nil }
func (instantLink) Disabled(context.Context, string) (bool, error)                 { return false, nil }
func (instantLink) PutMultiple(context.Context, string, *Batch, int, int) error    { return nil }
func (instantLink) DeleteMultiple(context.Context, string, *Batch, int, int) error { return nil }
func (instantLink) Exists(context.Context, string, *Batch, []int) ([]bool, error)  { return nil, nil }
func (instantLink) Call(context.Context, func(context.Context, *thrift2.THBaseServiceClient) error) error {
	return nil
}
func (instantLink) Reusable() bool      { return true }
func (instantLink) LastUsed() time.Time { return time.Now() }
func (instantLink) Close() error        { return nil }

// BenchmarkApply is what the pool adds to a call.
func BenchmarkApply(b *testing.B) {
	for _, gateways := range []int{3, 30} {
		for _, rows := range []int{1, 1000} {
			b.Run(fmt.Sprintf("gateways=%d/rows=%d", gateways, rows), func(b *testing.B) {
				p := newPool(PoolOptions{}, func(context.Context, string) (link, error) { return instantLink{}, nil })
				p.start()
				defer p.Close()
				var eps []Endpoint
				for i := range gateways {
					eps = append(eps, Endpoint{fmt.Sprintf("g%d:1", i)})
				}
				p.Update(eps)
				batch := testBatch("x", rows)
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := p.Apply(context.Background(), "t", batch); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
