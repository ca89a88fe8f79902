package hbase

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"

	"drover/hbase/thrift2"
)

// Caller makes a call on a connection of its choice, which fn must not keep. It may call fn again, on another connection,
// for errors of kind Again and Elsewhere; what names the call, in logs and at the start of its errors.
type Caller interface {
	Call(ctx context.Context, what string, fn func(ctx context.Context, c *Conn) error) error
}

// Admin looks after tables. Gateways before HBase 2.0 know none of its methods but TableExists and Empty, and answer the
// others with ErrUnknownMethod.
type Admin struct{ caller Caller }

// NewAdmin returns an Admin that calls through c.
func NewAdmin(c Caller) *Admin { return &Admin{c} }

// TableInfo is what a table looks like.
type TableInfo struct {
	Name     string
	Families []Family // sorted by name
}

// TableSpec is a table to create.
type TableSpec struct {
	Name     string // "table" or "namespace:table"
	Families []Family
	Splits   [][]byte // region boundaries, ascending; empty is one region
}

// Region is the rows of [Start, End) and who serves them. "" is the table's own start and end.
type Region struct {
	Start, End []byte
	Server     string // host:port; "" when none does at the moment
}

const defaultNamespace = "default"

func splitName(table string) (namespace, name string) {
	namespace, name, found := strings.Cut(table, ":")
	if !found {
		return defaultNamespace, table
	}
	return namespace, name
}

func tableName(table string) *thrift2.TTableName {
	ns, name := splitName(table)
	return &thrift2.TTableName{Ns: []byte(ns), Qualifier: []byte(name)}
}

// call makes a generated call about a table, or about none.
func (a *Admin) call(ctx context.Context, what, table string, f func(ctx context.Context, c *thrift2.THBaseServiceClient) error) error {
	if table != "" {
		what += " " + table
	}
	return a.caller.Call(ctx, what, func(ctx context.Context, c *Conn) error {
		err := c.Call(ctx, f)
		if e, ok := errors.AsType[*Error](err); ok {
			e.Table = table
		}
		return err
	})
}

func isKind(err error, kinds ...Kind) bool {
	k, _ := Classify(err)
	return slices.Contains(kinds, k)
}

// TableExists tells whether there is such a table, enabled or not.
func (a *Admin) TableExists(ctx context.Context, table string) (there bool, err error) {
	err = a.call(ctx, "look for table", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) (err error) {
		there, err = c.TableExists(ctx, tableName(table))
		return err
	})
	if !errors.Is(err, ErrUnknownMethod) {
		return there, err
	}
	// An old gateway: ask for some row.
	err = a.call(ctx, "look for table", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		_, err := c.Exists(ctx, []byte(table), &thrift2.TGet{Row: []byte{0}})
		return err
	})
	if isKind(err, Table) && !strings.Contains(err.Error(), "AccessDenied") && !strings.Contains(err.Error(), "Insufficient permissions") {
		return false, nil
	}
	return err == nil, err
}

// Describe reads a table's families. A missing table is an error of kind Table.
func (a *Admin) Describe(ctx context.Context, table string) (*TableInfo, error) {
	info := &TableInfo{Name: table}
	err := a.call(ctx, "describe table", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		d, err := c.GetTableDescriptor(ctx, tableName(table))
		if err != nil {
			return err
		}
		info.Families = info.Families[:0]
		for _, f := range d.Columns {
			info.Families = append(info.Families, familyOf(f))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(info.Families, func(a, b Family) int { return strings.Compare(a.Name, b.Name) })
	return info, nil
}

// Regions lists a table's regions in order of their keys; none for a table that does not exist.
func (a *Admin) Regions(ctx context.Context, table string) (regions []Region, err error) {
	err = a.call(ctx, "list regions of", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		found, err := c.GetAllRegionLocations(ctx, []byte(table))
		regions = make([]Region, 0, len(found))
		for _, l := range found {
			r := Region{Start: l.RegionInfo.StartKey, End: l.RegionInfo.EndKey}
			if s := l.ServerName; s != nil && s.HostName != "" {
				r.Server = net.JoinHostPort(s.HostName, strconv.Itoa(int(s.GetPort())))
			}
			regions = append(regions, r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(regions, func(a, b Region) int { return bytes.Compare(a.Start, b.Start) })
	return regions, nil
}

// Empty tells whether a table holds nothing at all, not even deletes.
func (a *Admin) Empty(ctx context.Context, table string) (empty bool, err error) {
	err = a.caller.Call(ctx, "look into "+table, func(ctx context.Context, c *Conn) error {
		p := Page{Limit: 4 << 10} // however large the first row is
		err := c.ScanPage(ctx, table, &Scan{Raw: true}, 1, &p)
		empty = len(p.Rows) == 0 && !p.More
		return err
	})
	return empty && err == nil, err
}

// Enabled tells whether a table is enabled.
func (a *Admin) Enabled(ctx context.Context, table string) (enabled bool, err error) {
	err = a.call(ctx, "look whether enabled is", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) (err error) {
		enabled, err = c.IsTableEnabled(ctx, tableName(table))
		return err
	})
	return enabled, err
}

// Disable disables an enabled table.
func (a *Admin) Disable(ctx context.Context, table string) error {
	return a.call(ctx, "disable table", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.DisableTable(ctx, tableName(table))
	})
}

// Enable enables a disabled table.
func (a *Admin) Enable(ctx context.Context, table string) error {
	return a.call(ctx, "enable table", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.EnableTable(ctx, tableName(table))
	})
}

// Delete deletes a disabled table.
func (a *Admin) Delete(ctx context.Context, table string) error {
	return a.call(ctx, "delete table", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.DeleteTable(ctx, tableName(table))
	})
}

// Truncate deletes all rows of a disabled table, keeps its boundaries and enables it.
func (a *Admin) Truncate(ctx context.Context, table string) error {
	return a.call(ctx, "truncate table", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.TruncateTable(ctx, tableName(table), true)
	})
}

// ClusterID is the name that the cluster gave itself when it was made.
func (a *Admin) ClusterID(ctx context.Context) (id string, err error) {
	err = a.call(ctx, "ask for the cluster's id", "", func(ctx context.Context, c *thrift2.THBaseServiceClient) (err error) {
		id, err = c.GetClusterId(ctx)
		return err
	})
	return id, err
}

// ServerType is 1 for a Thrift1 gateway and 2 for a Thrift2 one.
func (a *Admin) ServerType(ctx context.Context) (n int, err error) {
	err = a.call(ctx, "ask for the gateway's type", "", func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		t, err := c.GetThriftServerType(ctx)
		n = int(t)
		return err
	})
	return n, err
}

// ShellCreate is the command that creates the table in the hbase shell.
func ShellCreate(s TableSpec) string {
	parts := []string{quote([]byte(s.Name))}
	for _, f := range s.Families {
		parts = append(parts, f.shell())
	}
	if len(s.Splits) > 0 {
		keys := make([]string, len(s.Splits))
		for i, k := range s.Splits {
			keys[i] = quote(k)
		}
		parts = append(parts, "SPLITS => ["+strings.Join(keys, ", ")+"]")
	}
	return "create " + strings.Join(parts, ", ")
}
