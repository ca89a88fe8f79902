package hbase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/google/go-cmp/cmp"

	"drover/hbase/thrift2"
)

func (s *store) TableExists(_ context.Context, n *thrift2.TTableName) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tables[named(n)] != nil, nil
}

func (s *store) GetNamespaceDescriptor(_ context.Context, name string) (*thrift2.TNamespaceDescriptor, error) {
	if name != "ns" {
		return nil, ioError(name)
	}
	return &thrift2.TNamespaceDescriptor{Name: name}, nil
}

func (s *store) CreateTable(_ context.Context, d *thrift2.TTableDescriptor, splits [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.tables[named(d.TableName)] != nil:
		return ioError("org.apache.hadoop.hbase.TableExistsException: " + named(d.TableName))
	case s.loseSplit && len(splits) > 1:
		return errors.New("Internal error processing createTable")
	case s.loseSplit && len(splits) == 1:
		splits = [][]byte{[]byte("the whole frame")}
	}
	s.tables[named(d.TableName)] = &storedTable{families: d.Columns, splits: splits, rows: map[string][]*thrift2.TColumnValue{}}
	return s.fail
}

func (s *store) GetThriftServerType(context.Context) (thrift2.TThriftServerType, error) {
	return thrift2.TThriftServerType_TWO, nil
}

func (s *store) IsTableAvailable(context.Context, *thrift2.TTableName) (bool, error) {
	return true, nil
}

func (s *store) GetTableDescriptor(_ context.Context, n *thrift2.TTableName) (*thrift2.TTableDescriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.table(named(n))
	if err != nil {
		return nil, err
	}
	return &thrift2.TTableDescriptor{TableName: n, Columns: t.families}, nil
}

func (s *store) GetAllRegionLocations(_ context.Context, table []byte) ([]*thrift2.THRegionLocation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []*thrift2.THRegionLocation{}
	if t := s.tables[string(table)]; t != nil {
		port := int32(16020)
		for i := range len(t.splits) + 1 {
			r := &thrift2.THRegionInfo{TableName: table, StartKey: []byte{}, EndKey: []byte{}}
			if i > 0 {
				r.StartKey = t.splits[i-1]
			}
			if i < len(t.splits) {
				r.EndKey = t.splits[i]
			}
			out = append(out, &thrift2.THRegionLocation{ServerName: &thrift2.TServerName{HostName: "rs", Port: &port}, RegionInfo: r})
		}
	}
	slices.Reverse(out)
	return out, nil
}

func (s *store) DisableTable(_ context.Context, n *thrift2.TTableName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tables[named(n)].disabled = true
	return nil
}

func (s *store) DeleteTable(_ context.Context, n *thrift2.TTableName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.tables[named(n)].disabled {
		return ioError("org.apache.hadoop.hbase.TableNotDisabledException: " + named(n))
	}
	delete(s.tables, named(n))
	return nil
}

// single calls through one connection, once.
type single struct{ *Conn }

func (s single) Call(ctx context.Context, what string, fn func(context.Context, *Conn) error) error {
	if err := fn(ctx, s.Conn); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func testAdmin(t *testing.T, h thrift2.THBaseService) *Admin {
	tr := Transport{}
	return NewAdmin(single{dialTest(t, listen(t, h, &tr), tr)})
}

var spec = TableSpec{
	Name: "ns:t",
	Families: []Family{
		{Name: "a", Versions: 3, Compression: "zstd", Bloom: "rowcol", TTL: time.Hour, Encoding: "fast_diff"},
		{Name: "d"},
	},
	Splits: [][]byte{[]byte("g'"), {'p', 0, 0xff}},
}

func TestCreate(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	a := testAdmin(t, s)
	if err := a.Create(ctx, spec); err != nil {
		t.Fatal(err)
	}
	info, err := a.Describe(ctx, "ns:t")
	if err != nil {
		t.Fatal(err)
	}
	want := &TableInfo{Name: "ns:t", Families: []Family{
		spec.Families[0],
		{Name: "d", Versions: 1, Compression: "none", Bloom: "row", Encoding: "none"},
	}}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Errorf("described (-want +got):\n%s", diff)
	}
	regions, err := a.Regions(ctx, "ns:t")
	if err != nil || len(regions) != 3 || regions[1].Server != "rs:16020" || string(regions[0].End) != "g'" {
		t.Errorf("regions %v, %v", regions, err)
	}
	if empty, err := a.Empty(ctx, "ns:t"); err != nil || !empty {
		t.Errorf("empty %v, %v", empty, err)
	}
	if err := a.Create(ctx, spec); !isKind(err, Table) || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("created twice: %v", err)
	}
	missing := spec
	missing.Name = "no:t"
	if err := a.Create(ctx, missing); !isKind(err, Table) || !strings.Contains(err.Error(), "create_namespace 'no'") {
		t.Errorf("in a missing namespace: %v", err)
	}
	if _, err := a.Describe(ctx, "nope"); !isKind(err, Table) || !strings.Contains(err.Error(), "describe table nope: gateway 127.0.0.1:") {
		t.Errorf("described a missing table: %v", err)
	}
	if n, err := a.ServerType(ctx); err != nil || n != 2 {
		t.Errorf("server type %d, %v", n, err)
	}
	if id, err := a.ClusterID(ctx); err != nil || id != "cluster-1" {
		t.Errorf("cluster %q, %v", id, err)
	}
}

// A createTable whose answer was lost is settled by reading the boundaries back.
func TestCreateAmbiguous(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	s.fail = ioError("org.apache.hadoop.hbase.TableExistsException: ns:t")
	a := testAdmin(t, s)
	if err := a.Create(ctx, spec); err != nil {
		t.Errorf("created, but told that it exists: %v", err)
	}
}

func TestCreateLosesSplits(t *testing.T) {
	ctx := context.Background()
	for n := 1; n <= 2; n++ {
		s := newStore()
		s.loseSplit = true
		a := testAdmin(t, s)
		one := spec
		one.Splits = spec.Splits[:n]
		err := a.Create(ctx, one)
		s.mu.Lock()
		left := len(s.tables)
		s.mu.Unlock()
		if left != 0 {
			t.Errorf("%d splits: the wrong table was left", n)
		}
		if !isKind(err, Table) || !strings.Contains(err.Error(), "unframed or HTTP") || !strings.HasSuffix(err.Error(), ShellCreate(one)) {
			t.Errorf("%d splits: %v", n, err)
		}
	}
}

// Gateways before HBase 2.0 know the calls about rows only.
func TestOldGateway(t *testing.T) {
	ctx := context.Background()
	unknown := exception(thrift.UNKNOWN_METHOD, "Invalid method name: 'x'")
	missing := "nope"
	for _, method := range []string{"getClusterId", "getThriftServerType"} {
		c, _ := play(generated(t, Transport{}, method, thrift.EXCEPTION, 1, unknown), Transport{})
		a := NewAdmin(single{c})
		var err error
		if method == "getClusterId" {
			_, err = a.ClusterID(ctx)
		} else {
			_, err = a.ServerType(ctx)
		}
		if !errors.Is(err, ErrUnknownMethod) || !c.Reusable() {
			t.Errorf("%s: %v, reusable %v", method, err, c.Reusable())
		}
	}
	for _, there := range []bool{false, true} {
		found := &thrift2.THBaseServiceExistsResult{}
		if there {
			found.Success = new(bool)
		} else {
			found.Io = &thrift2.TIOError{Message: &missing}
		}
		first := generated(t, Transport{}, "tableExists", thrift.EXCEPTION, 1, unknown)
		c, p := play(nil, Transport{})
		p.reply = &turns{[][]byte{first, generated(t, Transport{}, "exists", thrift.REPLY, 2, found)}}
		got, err := NewAdmin(single{c}).TableExists(ctx, "nope")
		if err != nil || got != there {
			t.Errorf("table exists %v, %v; want %v", got, err, there)
		}
	}
}

// turns gives one reply for each read.
type turns struct{ replies [][]byte }

func (t *turns) Read(p []byte) (int, error) {
	n := copy(p, t.replies[0])
	t.replies = t.replies[1:]
	return n, nil
}

func TestShellCreate(t *testing.T) {
	want := `create 'ns:t', {NAME => 'a', VERSIONS => 3, COMPRESSION => 'ZSTD', BLOOMFILTER => 'ROWCOL', DATA_BLOCK_ENCODING => 'FAST_DIFF', TTL => 3600}, ` +
		`{NAME => 'd', VERSIONS => 1, COMPRESSION => 'NONE', BLOOMFILTER => 'ROW', DATA_BLOCK_ENCODING => 'NONE'}, SPLITS => ['g\x27', 'p\x00\xFF']`
	if got := ShellCreate(spec); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSpecFaults(t *testing.T) {
	for want, s := range map[string]TableSpec{
		"at least one family": {Name: "t"},
		"compression":         {Name: "t", Families: []Family{{Name: "d", Compression: "zip"}}},
		"bloom":               {Name: "t", Families: []Family{{Name: "d", Bloom: "cuckoo"}}},
		"encoding":            {Name: "t", Families: []Family{{Name: "d", Encoding: "utf8"}}},
		"ttl":                 {Name: "t", Families: []Family{{Name: "d", TTL: time.Millisecond}}},
		"versions":            {Name: "t", Families: []Family{{Name: "d", Versions: -1}}},
		"family":              {Name: "t", Families: []Family{{Name: "d:q"}}},
		"split key 1":         {Name: "t", Families: []Family{{Name: "d"}}, Splits: [][]byte{{2}, {1}}},
	} {
		err := NewAdmin(nil).Create(context.Background(), s)
		if err == nil || !strings.Contains(err.Error(), want) || !isKind(err, Table) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
