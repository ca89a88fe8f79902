package hbasetable

import (
	"context"
	"errors"
	"slices"
	"strings"

	"drover/hbase"
)

// Through is a pool's cluster. ClusterID is the list of gateways where they are too old to say it.
func Through(p *hbase.Pool, gateways []string) Cluster {
	return &pooled{pool: p, admin: hbase.NewAdmin(p), gateways: gateways}
}

// pooled is the Cluster of a pool of gateways.
type pooled struct {
	pool     *hbase.Pool
	admin    *hbase.Admin
	gateways []string
}

func (c *pooled) ScanPage(ctx context.Context, table string, s *hbase.Scan, n int, page *hbase.Page) error {
	return c.pool.ScanPage(ctx, table, s, n, page)
}

func (c *pooled) Regions(ctx context.Context, table string) ([]hbase.Region, error) {
	return c.admin.Regions(ctx, table)
}

func (c *pooled) ClusterID(ctx context.Context) (string, error) {
	id, err := c.admin.ClusterID(ctx)
	if errors.Is(err, hbase.ErrUnknownMethod) {
		return strings.Join(slices.Sorted(slices.Values(c.gateways)), ","), nil
	}
	return id, err
}
