// Package gatewaytest says what a Thrift2 gateway of HBase does, as one suite that the embedded gateway and gateways of real
// HBase both pass. Where they differ, the real one is right, and this suite is the place to write down how.
//
// It speaks with the generated client only. Use it to test a gateway, not a client.
package gatewaytest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/hbase"
	"drover/hbase/thrift2"
)

// Target is a gateway under test and the tables the suite may make there.
type Target struct {
	Addrs     []string // at least one; the suite goes through the first, and looks at the others from there
	Transport hbase.Transport

	// Table gives a table name that nobody used before.
	Table func() string

	// BrokenSplits tells that createTable with split keys, and scans with a time range for a family, do not work through this
	// gateway, as in HBase 2.6 when framed.
	BrokenSplits bool

	// Shared tells that others use the servers behind the gateway and may kill them. HBase takes a cell with a negative
	// timestamp and then cannot replay its log: the regions of a server that dies afterwards never come back. So none is put.
	Shared bool

	// Lacks names tests of things that this gateway does not claim to do. They are skipped.
	Lacks []string
}

// Run runs the suite. open is called for every test and may give the same gateway each time.
func Run(t *testing.T, open func(t *testing.T) Target) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, c *client)
	}{
		{"Server", testServer},
		{"Table", testTable},
		{"TableStates", testTableStates},
		{"Truncate", testTruncate},
		{"Regions", testRegions},
		{"Families", testFamilies},
		{"Namespaces", testNamespaces},
		{"CreateErrors", testCreateErrors},
		{"PutAndScan", testPutAndScan},
		{"Versions", testVersions},
		{"Timestamps", testTimestamps},
		{"Tombstones", testTombstones},
		{"TombstonesLatest", testTombstonesLatest},
		{"RawScan", testRawScan},
		{"TTL", testTTL},
		{"ScanRange", testScanRange},
		{"ScanShape", testScanShape},
		{"ScanParts", testScanParts},
		{"ScanErrors", testScanErrors},
		{"Scanners", testScanners},
		{"Gets", testGets},
		{"PutErrors", testPutErrors},
		{"PutSome", testPutSome},
		{"DeleteErrors", testDeleteErrors},
		{"MissingTable", testMissingTable},
		{"DisabledTable", testDisabledTable},
		{"BigCells", testBigCells},
		{"OddKeys", testOddKeys},
		{"Gateways", testGateways},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := open(t)
			if slices.Contains(to.Lacks, c.name) {
				t.Skip("not claimed")
			}
			c.test(t, dial(t, to))
		})
	}
}

func one(versions int) []*thrift2.TColumnFamilyDescriptor {
	return []*thrift2.TColumnFamilyDescriptor{fam("d", versions)}
}

func testServer(t *testing.T, c *client) {
	kind, err := c.GetThriftServerType(t.Context())
	if err != nil || kind != thrift2.TThriftServerType_TWO {
		t.Errorf("server type %v, %v, want TWO", kind, err)
	}
	id, err := c.GetClusterId(t.Context())
	if err != nil || id == "" {
		t.Fatalf("cluster id %q, %v", id, err)
	}
	if again, err := c.GetClusterId(t.Context()); again != id || err != nil {
		t.Errorf("cluster id %q, %v, then %q", again, err, id)
	}
}

func testTable(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create([]*thrift2.TColumnFamilyDescriptor{
		fam("z", 3, func(f *thrift2.TColumnFamilyDescriptor) {
			f.CompressionType = ptr(thrift2.TCompressionAlgorithm_GZ)
			f.BloomnFilterType = ptr(thrift2.TBloomFilterType_ROWCOL)
			f.DataBlockEncoding = ptr(thrift2.TDataBlockEncoding_FAST_DIFF)
			f.TimeToLive = ptr(int32(3600))
		}),
		{Name: []byte("a")},
	})
	if ok, err := c.TableExists(ctx, name(table)); !ok || err != nil {
		t.Errorf("exists: %v, %v", ok, err)
	}
	if ok, err := c.TableExists(ctx, name(c.to.Table())); ok || err != nil {
		t.Errorf("another exists: %v, %v", ok, err)
	}
	desc, err := c.GetTableDescriptor(ctx, name(table))
	if err != nil {
		t.Fatalf("describe: %s", text(err))
	}
	if string(desc.TableName.Qualifier) != table || string(desc.TableName.Ns) != "default" {
		t.Errorf("described as %q in %q", desc.TableName.Qualifier, desc.TableName.Ns)
	}
	var got []string
	for _, f := range desc.Columns {
		got = append(got, fmt.Sprintf("%s versions=%d min=%d compression=%v bloom=%v encoding=%v ttl=%d block=%d keep=%v scope=%d cache=%v memory=%v",
			f.Name, f.GetMaxVersions(), f.GetMinVersions(), f.GetCompressionType(), f.GetBloomnFilterType(), f.GetDataBlockEncoding(), f.GetTimeToLive(),
			f.GetBlockSize(), f.GetKeepDeletedCells(), f.GetScope(), f.GetBlockCacheEnabled(), f.GetInMemory()))
	}
	want := []string{
		"a versions=1 min=0 compression=NONE bloom=ROW encoding=NONE ttl=2147483647 block=65536 keep=FALSE scope=0 cache=true memory=false",
		"z versions=3 min=0 compression=GZ bloom=ROWCOL encoding=FAST_DIFF ttl=3600 block=65536 keep=FALSE scope=0 cache=true memory=false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("families\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	names, err := c.GetTableNamesByPattern(ctx, table[:len(table)-1]+".", false)
	if err != nil {
		t.Fatalf("names: %s", text(err))
	}
	if !slices.ContainsFunc(names, func(n *thrift2.TTableName) bool { return string(n.Qualifier) == table }) {
		t.Errorf("names %v lack %s", names, table)
	}
	_, err = c.GetTableDescriptor(ctx, name("nope"))
	c.fails("describe a missing table", err, noRetry, "nope")
}

func testTableStates(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create(one(1))
	state := func() string {
		on, err := c.IsTableEnabled(ctx, name(table))
		off, err2 := c.IsTableDisabled(ctx, name(table))
		there, err3 := c.IsTableAvailable(ctx, name(table))
		if err != nil || err2 != nil || err3 != nil {
			t.Fatalf("state of %s: %v %v %v", table, err, err2, err3)
		}
		return fmt.Sprint(on, off, there)
	}
	if got := state(); got != "true false true" {
		t.Errorf("after create: %s", got)
	}
	c.fails("drop an enabled table", c.DeleteTable(ctx, name(table)), noRetry, "Not DISABLED", table)
	c.fails("enable an enabled table", c.EnableTable(ctx, name(table)), noRetry, "tableName="+table+", state=ENABLED")
	if err := c.DisableTable(ctx, name(table)); err != nil {
		t.Fatalf("disable: %s", text(err))
	}
	if got := state(); got[:10] != "false true" {
		t.Errorf("after disable: %s", got)
	}
	c.fails("disable a disabled table", c.DisableTable(ctx, name(table)), noRetry, "TableNotEnabledException: "+table)
	if err := c.EnableTable(ctx, name(table)); err != nil {
		t.Fatalf("enable: %s", text(err))
	}
	if got := state(); got != "true false true" {
		t.Errorf("after enable: %s", got)
	}
	c.fails("disable a missing table", c.DisableTable(ctx, name("nope")), noRetry, "TableNotFoundException: nope")
	c.fails("enable a missing table", c.EnableTable(ctx, name("nope")), noRetry, "nope")
	c.fails("drop a missing table", c.DeleteTable(ctx, name("nope")), noRetry, "TableNotFoundException: nope")
	_, err := c.IsTableEnabled(ctx, name("nope"))
	c.fails("is a missing table enabled", err, noRetry, "nope")
}

func testTruncate(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create(one(1))
	c.put(table, put("r", cv("d:a", "1", 5)))
	c.fails("truncate an enabled table", c.TruncateTable(ctx, name(table), true), noRetry, "TableNotDisabledException: "+table)
	if err := c.DisableTable(ctx, name(table)); err != nil {
		t.Fatalf("disable: %s", text(err))
	}
	if err := c.TruncateTable(ctx, name(table), true); err != nil {
		t.Fatalf("truncate: %s", text(err))
	}
	c.want(table, scan(raw))
	c.put(table, put("r", cv("d:a", "2", 1)))
	c.want(table, scan(), "r d:a@1=2")
}

func testRegions(t *testing.T, c *client) {
	ctx := t.Context()
	if regions, err := c.GetAllRegionLocations(ctx, []byte("nope")); err != nil || len(regions) != 0 {
		t.Errorf("regions of a missing table: %d, %v; want none and no error", len(regions), err)
	}
	if c.to.BrokenSplits {
		t.Skip("this gateway breaks split keys")
	}
	table := c.create(one(1), "g", "m\x00", "t") // HBase sorts them
	regions, err := c.GetAllRegionLocations(ctx, []byte(table))
	if err != nil {
		t.Fatalf("regions: %s", text(err))
	}
	var got []string
	for _, r := range regions {
		got = append(got, fmt.Sprintf("%q %q", r.RegionInfo.StartKey, r.RegionInfo.EndKey))
		if string(r.RegionInfo.TableName) != table || r.RegionInfo.RegionId != 0 || r.ServerName.HostName == "" || r.ServerName.GetPort() == 0 {
			t.Errorf("region %v on %v", r.RegionInfo, r.ServerName)
		}
	}
	want := []string{`"" "g"`, `"g" "m\x00"`, `"m\x00" "t"`, `"t" ""`}
	if !slices.Equal(got, want) {
		t.Errorf("regions %s, want %s", got, want)
	}
	for key, start := range map[string]string{"a": "", "g": "g", "m": "g", "m\x00": "m\x00", "zzz": "t"} {
		r, err := c.GetRegionLocation(ctx, []byte(table), []byte(key), false)
		if err != nil {
			t.Fatalf("region of %q: %s", key, text(err))
		}
		if string(r.RegionInfo.StartKey) != start {
			t.Errorf("region of %q starts at %q, want %q", key, r.RegionInfo.StartKey, start)
		}
	}
	_, err = c.GetRegionLocation(ctx, []byte("nope"), []byte("a"), false)
	c.fails("region of a missing table", err, "TIOError", "nope")
}

func testFamilies(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create(one(1))
	if err := c.AddColumnFamily(ctx, name(table), fam("e", 2)); err != nil {
		t.Fatalf("add a family: %s", text(err))
	}
	c.put(table, put("r", cv("e:a", "1", 1)), put("r", cv("e:a", "2", 2)), put("r", cv("e:a", "3", 3)))
	c.want(table, scan(versions(9)), "r e:a@3=3 e:a@2=2")
	if err := c.ModifyColumnFamily(ctx, name(table), fam("e", 1)); err != nil {
		t.Fatalf("change a family: %s", text(err))
	}
	c.want(table, scan(versions(9)), "r e:a@3=3")
	c.fails("add a family again", c.AddColumnFamily(ctx, name(table), fam("e", 2)), noRetry, "'e'")
	c.fails("change a missing family", c.ModifyColumnFamily(ctx, name(table), fam("x", 2)), noRetry, "'x'")
	c.fails("add to a missing table", c.AddColumnFamily(ctx, name("nope"), fam("x", 2)), noRetry, "nope")
}

func testNamespaces(t *testing.T, c *client) {
	ctx := t.Context()
	all, err := c.ListNamespaces(ctx)
	if err != nil {
		t.Fatalf("list: %s", text(err))
	}
	for _, ns := range []string{"default", "hbase"} {
		if !slices.Contains(all, ns) {
			t.Errorf("namespaces %q lack %s", all, ns)
		}
	}
	ns := strings.ReplaceAll("ns_"+c.to.Table(), "-", "_")
	if err := c.CreateNamespace(ctx, &thrift2.TNamespaceDescriptor{Name: ns, Configuration: map[string]string{"a": "b"}}); err != nil {
		t.Fatalf("create: %s", text(err))
	}
	c.fails("create again", c.CreateNamespace(ctx, &thrift2.TNamespaceDescriptor{Name: ns}), noRetry, ns)
	if d, err := c.GetNamespaceDescriptor(ctx, ns); err != nil || d.Configuration["a"] != "b" {
		t.Errorf("describe: %v, %v", d, err)
	}
	table := ns + ":t"
	if err := c.CreateTable(ctx, &thrift2.TTableDescriptor{TableName: name(table), Columns: one(1)}, nil); err != nil {
		t.Fatalf("create a table: %s", text(err))
	}
	c.put(table, put("r", cv("d:a", "1", 1)))
	c.want(table, scan(), "r d:a@1=1")
	if regions, err := c.GetAllRegionLocations(ctx, []byte(table)); err != nil || len(regions) != 1 || string(regions[0].RegionInfo.TableName) != table {
		t.Errorf("regions %v, %v", regions, err)
	}
	c.fails("drop a namespace with a table", c.DeleteNamespace(ctx, ns), noRetry, ns)
	if err := c.DisableTable(ctx, name(table)); err != nil {
		t.Fatalf("disable: %s", text(err))
	}
	if err := c.DeleteTable(ctx, name(table)); err != nil {
		t.Fatalf("drop: %s", text(err))
	}
	if err := c.DeleteNamespace(ctx, ns); err != nil {
		t.Fatalf("drop the namespace: %s", text(err))
	}
	_, err = c.GetNamespaceDescriptor(ctx, ns)
	c.fails("describe a missing namespace", err, noRetry, ns)
	err = c.CreateTable(ctx, &thrift2.TTableDescriptor{TableName: name(table), Columns: one(1)}, nil)
	c.fails("create a table in a missing namespace", err, noRetry, ns)
}

func testCreateErrors(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create(one(1))
	create := func(table string, families []*thrift2.TColumnFamilyDescriptor, splits ...string) error {
		var keys [][]byte
		for _, s := range splits {
			keys = append(keys, []byte(s))
		}
		return c.CreateTable(ctx, &thrift2.TTableDescriptor{TableName: name(table), Columns: families}, keys)
	}
	c.fails("create again", create(table, one(1)), noRetry, "TableExistsException: "+table)
	c.fails("no families", create(c.to.Table(), nil), internal+"createTable")
	c.fails("bad name", create("no/slash", one(1)), internal+"createTable")
	c.fails("bad family", create(c.to.Table(), []*thrift2.TColumnFamilyDescriptor{fam("a:b", 1)}), internal+"createTable")
	c.fails("no versions", create(c.to.Table(), one(0)), internal+"createTable")
	if !c.to.BrokenSplits {
		c.fails("same split twice", create(c.to.Table(), one(1), "a", "a"), internal+"createTable")
		c.fails("empty split", create(c.to.Table(), one(1), "", "a"), internal+"createTable")
	}
}

func testPutAndScan(t *testing.T, c *client) {
	table := c.create([]*thrift2.TColumnFamilyDescriptor{fam("d", 1), fam("b", 1)})
	c.put(table,
		put("r2", cv("d:y", "2", 7), cv("d:x", "1", 7), cv("b:z", "0", 9)),
		put("r1", cv("d:", "empty qualifier", 1), cv("d:q", "", 2)),
		put("r10", cv("d:\xff\x00", "\x00\x01", 3)))
	c.want(table, scan(),
		"r1 d:@1=empty qualifier d:q@2=",
		"r10 d:\xff\x00@3=\x00\x01",
		"r2 b:z@9=0 d:x@7=1 d:y@7=2")
	if err := c.Put(t.Context(), []byte(table), put("r3", cv("d:a", "3", 4))); err != nil {
		t.Fatalf("put: %s", text(err))
	}
	c.want(table, scan(between("r3", "")), "r3 d:a@4=3")
	if err := c.PutMultiple(t.Context(), []byte(table), nil); err != nil {
		t.Errorf("put of no rows: %s", text(err))
	}
	results, err := c.GetScannerResults(t.Context(), []byte(table), scan(between("r1", "r10")), 10)
	if err != nil || len(results) != 1 {
		t.Fatalf("scan: %v, %v", results, err)
	}
	r := results[0]
	if r.GetPartial() || r.GetStale() || r.ColumnValues[0].GetType() != 4 || len(r.ColumnValues[0].Tags) != 0 {
		t.Errorf("result %v", r)
	}
}

func testVersions(t *testing.T, c *client) {
	table := c.create([]*thrift2.TColumnFamilyDescriptor{fam("d", 3), fam("o", 1)})
	for _, ts := range []int64{5, 1, 4, 2, 3} {
		v := fmt.Sprint(ts)
		c.put(table, put("r", cv("d:a", v, ts), cv("o:a", v, ts)))
	}
	c.want(table, scan(), "r d:a@5=5 o:a@5=5")
	c.want(table, scan(versions(2)), "r d:a@5=5 d:a@4=4 o:a@5=5")
	c.want(table, scan(versions(99)), "r d:a@5=5 d:a@4=4 d:a@3=3 o:a@5=5")
	c.put(table, put("r", cv("d:a", "5b", 5)))
	c.want(table, scan(versions(2)), "r d:a@5=5b d:a@4=4 o:a@5=5")
	// One put with a column twice at one timestamp, and in two versions.
	c.put(table, put("s", cv("d:a", "x", 1), cv("d:a", "y", 1), cv("d:b", "old", 1), cv("d:b", "new", 2)))
	c.want(table, scan(between("s", ""), versions(9)), "s d:a@1=y d:b@2=new d:b@1=old")
	// Twice the same row in one call.
	c.put(table, put("t", cv("d:a", "first", 1)), put("t", cv("d:a", "second", 1)))
	c.want(table, scan(between("t", ""), versions(9), raw), "t d:a@1=second")
}

func testTimestamps(t *testing.T, c *client) {
	table := c.create(one(9))
	c.put(table, put("r", cv("d:a", "zero", 0), cv("d:a", "last", math.MaxInt64-1)))
	c.want(table, scan(versions(9), func(s *thrift2.TScan) { s.TimeRange = &thrift2.TTimeRange{MinStamp: 0, MaxStamp: now} }),
		fmt.Sprintf("r d:a@%d=last d:a@0=zero", int64(math.MaxInt64-1)))
	if !c.to.Shared {
		// Cells before 1970 are taken, and break the scans that come to them.
		c.put(table, put("q", cv("d:a", "zero", 0), cv("d:a", "minus", -5)))
		c.want(table, scan(between("q", "q")), "q d:a@0=zero")
		_, err := c.GetScannerResults(t.Context(), []byte(table), scan(between("q", "q"), versions(9)), 1)
		c.fails("scan of a negative timestamp", err, noRetry, "OutOfOrderScannerNextException")
	}
	p := put("own", cv("d:a", "row's", 3), cv("d:b", "put's"))
	p.Timestamp = ptr(int64(77))
	c.put(table, p)
	c.want(table, scan(between("own", "own")), "own d:a@3=row's d:b@77=put's")

	before := time.Now().Add(-time.Minute).UnixMilli()
	c.put(table, put("server", cv("d:a", "none"), cv("d:b", "max", now)))
	got, err := c.Get(t.Context(), []byte(table), &thrift2.TGet{Row: []byte("server")})
	if err != nil || len(got.ColumnValues) != 2 {
		t.Fatalf("get: %v, %v", got, err)
	}
	for _, v := range got.ColumnValues {
		if ts := v.GetTimestamp(); ts < before || ts > before+3600_000 {
			t.Errorf("%s has timestamp %d, want the server's now", v.Value, ts)
		}
	}
	p = put("minus", cv("d:a", "1"))
	p.Timestamp = ptr(int64(-1))
	c.fails("negative timestamp of a put", c.PutMultiple(t.Context(), []byte(table), []*thrift2.TPut{p}), internal+"putMultiple")
}

func testTombstones(t *testing.T, c *client) {
	table := c.create([]*thrift2.TColumnFamilyDescriptor{fam("d", 9), fam("e", 9)})
	fill := func(row string) {
		for ts := int64(1); ts <= 3; ts++ {
			v := fmt.Sprint(ts)
			c.put(table, put(row, cv("d:a", v, ts), cv("d:b", v, ts), cv("e:a", v, ts)))
		}
	}
	all := func(row string) *thrift2.TScan { return scan(between(row, row), versions(9)) }

	fill("version")
	c.delete(table, del(thrift2.TDeleteType_DELETE_COLUMN, "version", "d:a", 2))
	c.want(table, all("version"), "version d:a@3=3 d:a@1=1 d:b@3=3 d:b@2=2 d:b@1=1 e:a@3=3 e:a@2=2 e:a@1=1")
	fill("columns")
	c.delete(table, del(thrift2.TDeleteType_DELETE_COLUMNS, "columns", "d:a", 2))
	c.want(table, all("columns"), "columns d:a@3=3 d:b@3=3 d:b@2=2 d:b@1=1 e:a@3=3 e:a@2=2 e:a@1=1")
	fill("family")
	c.delete(table, del(thrift2.TDeleteType_DELETE_FAMILY, "family", "d", 2))
	c.want(table, all("family"), "family d:a@3=3 d:b@3=3 e:a@3=3 e:a@2=2 e:a@1=1")
	fill("familyversion")
	c.delete(table, del(thrift2.TDeleteType_DELETE_FAMILY_VERSION, "familyversion", "d", 2))
	c.want(table, all("familyversion"), "familyversion d:a@3=3 d:a@1=1 d:b@3=3 d:b@1=1 e:a@3=3 e:a@2=2 e:a@1=1")
	fill("row")
	d := thrift2.NewTDelete()
	d.Row, d.Timestamp = []byte("row"), ptr(int64(2))
	c.delete(table, d)
	c.want(table, all("row"), "row d:a@3=3 d:b@3=3 e:a@3=3")

	// A tombstone hides what comes after it with a timestamp that it covers.
	fill("version")
	fill("columns")
	fill("family")
	fill("familyversion")
	fill("row")
	c.want(table, all("version"), "version d:a@3=3 d:a@1=1 d:b@3=3 d:b@2=2 d:b@1=1 e:a@3=3 e:a@2=2 e:a@1=1")
	c.want(table, all("columns"), "columns d:a@3=3 d:b@3=3 d:b@2=2 d:b@1=1 e:a@3=3 e:a@2=2 e:a@1=1")
	c.want(table, all("family"), "family d:a@3=3 d:b@3=3 e:a@3=3 e:a@2=2 e:a@1=1")
	c.want(table, all("familyversion"), "familyversion d:a@3=3 d:a@1=1 d:b@3=3 d:b@1=1 e:a@3=3 e:a@2=2 e:a@1=1")
	c.want(table, all("row"), "row d:a@3=3 d:b@3=3 e:a@3=3")

	rest, err := c.DeleteMultiple(t.Context(), []byte(table), []*thrift2.TDelete{
		del(thrift2.TDeleteType_DELETE_FAMILY, "row", "d", 9), del(thrift2.TDeleteType_DELETE_FAMILY, "row", "e", 9),
	})
	if err != nil || len(rest) != 0 {
		t.Fatalf("delete two: %v, %v", rest, err)
	}
	c.want(table, all("row"))
}

func testTombstonesLatest(t *testing.T, c *client) {
	table := c.create(one(9))
	for _, row := range []string{"one", "all", "row"} {
		c.put(table, put(row, cv("d:a", "1", 1), cv("d:a", "2", 2), cv("d:b", "1", 1)))
	}
	c.delete(table, del(thrift2.TDeleteType_DELETE_COLUMN, "one", "d:a"))
	c.want(table, scan(between("one", "one"), versions(9)), "one d:a@1=1 d:b@1=1")
	c.delete(table, del(thrift2.TDeleteType_DELETE_COLUMNS, "all", "d:a"))
	c.want(table, scan(between("all", "all"), versions(9)), "all d:b@1=1")
	d := thrift2.NewTDelete()
	d.Row = []byte("row")
	c.delete(table, d)
	c.want(table, scan(between("row", "row"), versions(9)))
	// With columns the delete's own timestamp is ignored.
	c.put(table, put("own", cv("d:a", "1", 10), cv("d:a", "2", 20)))
	d = del(thrift2.TDeleteType_DELETE_COLUMNS, "own", "d:a")
	d.Timestamp = ptr(int64(10))
	c.delete(table, d)
	c.want(table, scan(between("own", "own"), versions(9)))
	// The default type deletes all versions of the column.
	c.put(table, put("default", cv("d:a", "1", 1), cv("d:a", "2", 2)))
	d = thrift2.NewTDelete()
	d.Row, d.Columns = []byte("default"), columns("d:a")
	c.delete(table, d)
	c.want(table, scan(between("default", "default"), versions(9)))
}

func testRawScan(t *testing.T, c *client) {
	table := c.create(one(2))
	for ts := int64(1); ts <= 4; ts++ {
		c.put(table, put("r", cv("d:a", fmt.Sprint(ts), ts)))
	}
	c.put(table, put("r", cv("d:a", "4", 4)), put("r", cv("d:a", "4", 4)))
	c.delete(table, del(thrift2.TDeleteType_DELETE_COLUMN, "r", "d:a", 4))
	c.delete(table, del(thrift2.TDeleteType_DELETE_COLUMNS, "r", "d:a", 2))
	c.delete(table, del(thrift2.TDeleteType_DELETE_FAMILY, "r", "d", 3))
	c.delete(table, del(thrift2.TDeleteType_DELETE_FAMILY_VERSION, "r", "d", 9))
	c.want(table, scan(versions(99)))
	c.want(table, scan(versions(99), raw), "r family-version d:@9= family d:@3= delete d:a@4= d:a@4=4 d:a@3=3 columns d:a@2= d:a@2=2 d:a@1=1")
	_, err := c.GetScannerResults(t.Context(), []byte(table), scan(raw, func(s *thrift2.TScan) { s.Columns = columns("d:a") }), 10)
	c.fails("raw scan of a column", err, noRetry, "Cannot specify any column for a raw scan")
	c.want(table, scan(versions(99), raw, func(s *thrift2.TScan) { s.TimeRange = &thrift2.TTimeRange{MinStamp: 3, MaxStamp: 5} }),
		"r family d:@3= delete d:a@4= d:a@4=4 d:a@3=3")
}

func testTTL(t *testing.T, c *client) {
	table := c.create([]*thrift2.TColumnFamilyDescriptor{
		fam("d", 9), fam("s", 9, func(f *thrift2.TColumnFamilyDescriptor) { f.TimeToLive = ptr(int32(3600)) }),
	})
	ms := time.Now().UnixMilli()
	old, fresh := ms-2*3600_000, ms-1800_000
	c.put(table, put("family", cv("d:a", "kept", old), cv("s:a", "gone", old), cv("s:a", "kept", fresh)))
	c.want(table, scan(versions(9)), fmt.Sprintf("family d:a@%d=kept s:a@%d=kept", old, fresh))
	gone, kept := put("gone", cv("d:a", "gone", old)), put("kept", cv("d:a", "kept", fresh))
	gone.Attributes, kept.Attributes = ttlAttribute(time.Hour), ttlAttribute(time.Hour)
	c.put(table, gone, kept)
	c.want(table, scan(between("gone", "kept\x00"), versions(9)), fmt.Sprintf("kept d:a@%d=kept", fresh))
}

func testScanRange(t *testing.T, c *client) {
	table := c.create(one(1))
	for _, r := range []string{"a", "a\x00", "a\x00\x00", "a\x01", "b", "c", "\xff", "\xff\xff"} {
		c.put(table, put(r, cv("d:v", "", 1)))
	}
	keys := func(s *thrift2.TScan) string {
		got, err := c.GetScannerResults(t.Context(), []byte(table), s, 100)
		if err != nil {
			t.Fatalf("scan: %s", text(err))
		}
		var rows []string
		for _, r := range got {
			rows = append(rows, fmt.Sprintf("%x", r.Row))
		}
		return strings.Join(rows, " ")
	}
	reversed := func(s *thrift2.TScan) { s.Reversed = ptr(true) }
	limit := func(n int32) func(*thrift2.TScan) { return func(s *thrift2.TScan) { s.Limit = &n } }
	for _, x := range []struct {
		what string
		scan *thrift2.TScan
		want string
	}{
		{"all", scan(), "61 6100 610000 6101 62 63 ff ffff"},
		{"from", scan(between("a\x00", "")), "6100 610000 6101 62 63 ff ffff"},
		{"to", scan(between("", "a\x01")), "61 6100 610000"},
		{"between", scan(between("a\x00", "b")), "6100 610000 6101"},
		{"absent bounds", scan(between("a\x00\x01", "bb")), "6101 62"},
		{"start is stop", scan(between("b", "b")), "62"},
		{"start is stop and absent", scan(between("bb", "bb")), ""},
		{"start after stop", scan(between("c", "b")), ""},
		{"after a row", scan(between("a\x00", "c")), "6100 610000 6101 62"},
		{"limit", scan(limit(3)), "61 6100 610000"},
		{"reversed", scan(reversed), "ffff ff 63 62 6101 610000 6100 61"},
		{"reversed between", scan(reversed, between("c", "a\x00")), "63 62 6101 610000"},
		{"reversed to", scan(reversed, between("", "c")), "ffff ff"},
		{"reversed limit", scan(reversed, limit(2), between("b", "")), "62 6101"},
		{"reversed, wrong way round", scan(reversed, between("a", "c")), ""},
		{"past the end", scan(between("\xff\xff\xff", "")), ""},
	} {
		if got := keys(x.scan); got != x.want {
			t.Errorf("%s: %s, want %s", x.what, got, x.want)
		}
	}
	// Stateless pages: the next one starts at the last key with a zero byte.
	var got [][]byte
	for cursor := []byte{}; ; {
		page, err := c.GetScannerResults(t.Context(), []byte(table), scan(func(s *thrift2.TScan) { s.StartRow = cursor }), 3)
		if err != nil {
			t.Fatalf("page: %s", text(err))
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			got = append(got, r.Row)
		}
		cursor = append(bytes.Clone(page[len(page)-1].Row), 0)
	}
	if len(got) != 8 || !slices.IsSortedFunc(got, bytes.Compare) {
		t.Errorf("pages gave %x", got)
	}
}

func testScanShape(t *testing.T, c *client) {
	table := c.create([]*thrift2.TColumnFamilyDescriptor{fam("d", 9), fam("e", 9)})
	c.put(table,
		put("r1", cv("d:a", "a1", 1), cv("d:a", "a2", 2), cv("d:b", "b1", 1), cv("d:c", "c3", 3), cv("e:a", "e1", 1)),
		put("r2", cv("d:b", "x", 5)))
	cols := func(names ...string) func(*thrift2.TScan) {
		return func(s *thrift2.TScan) { s.Columns = columns(names...) }
	}
	stamps := func(from, to int64) func(*thrift2.TScan) {
		return func(s *thrift2.TScan) { s.TimeRange = &thrift2.TTimeRange{MinStamp: from, MaxStamp: to} }
	}
	c.want(table, scan(), "r1 d:a@2=a2 d:b@1=b1 d:c@3=c3 e:a@1=e1", "r2 d:b@5=x")
	c.want(table, scan(cols("d:b")), "r1 d:b@1=b1", "r2 d:b@5=x")
	c.want(table, scan(cols("d:c", "d:a")), "r1 d:a@2=a2 d:c@3=c3")
	c.want(table, scan(cols("e")), "r1 e:a@1=e1")
	c.want(table, scan(cols("e", "d:b")), "r1 d:b@1=b1 e:a@1=e1", "r2 d:b@5=x")
	c.want(table, scan(stamps(1, 2), versions(9)), "r1 d:a@1=a1 d:b@1=b1 e:a@1=e1")
	c.want(table, scan(stamps(2, 4), versions(9)), "r1 d:a@2=a2 d:c@3=c3")
	c.want(table, scan(stamps(1, 2)), "r1 d:a@1=a1 d:b@1=b1 e:a@1=e1")
	c.want(table, scan(versions(0)))
	filter := func(text string) func(*thrift2.TScan) {
		return func(s *thrift2.TScan) { s.FilterString = []byte(text) }
	}
	c.want(table, scan(filter("KeyOnlyFilter()")), "r1 d:a@2= d:b@1= d:c@3= e:a@1=", "r2 d:b@5=")
	c.want(table, scan(filter("FirstKeyOnlyFilter()")), "r1 d:a@2=a2", "r2 d:b@5=x")
	c.want(table, scan(filter("FirstKeyOnlyFilter() AND KeyOnlyFilter()")), "r1 d:a@2=", "r2 d:b@5=")
	if got := c.rows(table, scan(func(s *thrift2.TScan) { s.Caching = ptr(int32(1)) })); len(got) != 2 {
		t.Errorf("caching 1 gave %q", got)
	}
	for _, n := range []int32{0, 1} {
		got, err := c.GetScannerResults(t.Context(), []byte(table), scan(), n)
		if err != nil || len(got) != int(n) {
			t.Errorf("%d rows asked: got %d, %v", n, len(got), err)
		}
	}
}

// testScanParts checks scans that give a row in pieces, or not all families alike.
func testScanParts(t *testing.T, c *client) {
	table := c.create([]*thrift2.TColumnFamilyDescriptor{fam("d", 9), fam("e", 9)})
	c.put(table,
		put("r1", cv("d:a", "a1", 1), cv("d:a", "a2", 2), cv("d:b", "b1", 1), cv("d:c", "c3", 3), cv("e:a", "e1", 1)),
		put("r2", cv("d:b", "x", 5)))
	batch := func(n int32) func(*thrift2.TScan) { return func(s *thrift2.TScan) { s.BatchSize = &n } }
	c.want(table, scan(batch(2), versions(9)), "r1 d:a@2=a2 d:a@1=a1", "r1 d:b@1=b1 d:c@3=c3", "r1 e:a@1=e1", "r2 d:b@5=x")
	// A framed HBase takes the whole request for the map's key, as it does with split keys, and filters nothing.
	if !c.to.BrokenSplits {
		c.want(table, scan(func(s *thrift2.TScan) {
			s.MaxVersions, s.ColFamTimeRangeMap = 9, map[string]*thrift2.TTimeRange{"d": {MinStamp: 1, MaxStamp: 2}}
		}), "r1 d:a@1=a1 d:b@1=b1 e:a@1=e1")
	}
}

func testScanErrors(t *testing.T, c *client) {
	table := c.create(one(1))
	_, err := c.GetScannerResults(t.Context(), []byte(table), scan(func(s *thrift2.TScan) { s.Columns = columns("nofam") }), 1)
	c.fails("scan of a missing family", err, noRetry, "NoSuchColumnFamilyException", "nofam")
	_, err = c.GetScannerResults(t.Context(), []byte(table), scan(func(s *thrift2.TScan) { s.TimeRange = &thrift2.TTimeRange{MinStamp: 5, MaxStamp: 2} }), 1)
	c.fails("time range wrong way round", err, internal+"getScannerResults")
}

func testScanners(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create(one(1))
	for i := range 10 {
		c.put(table, put(fmt.Sprintf("r%d", i), cv("d:a", "v", 1)))
	}
	id, err := c.OpenScanner(ctx, []byte(table), scan(between("r2", "r9")))
	if err != nil || id < 0 {
		t.Fatalf("open: %d, %v", id, err)
	}
	other, err := c.OpenScanner(ctx, []byte(table), scan())
	if err != nil || other == id {
		t.Fatalf("open another: %d after %d, %v", other, id, err)
	}
	var got []string
	for {
		page, err := c.GetScannerRows(ctx, id, 3)
		if err != nil {
			t.Fatalf("rows: %s", text(err))
		}
		if len(page) == 0 {
			break
		}
		if len(page) > 3 {
			t.Errorf("%d rows of 3", len(page))
		}
		for _, r := range page {
			got = append(got, string(r.Row))
		}
	}
	if want := strings.Fields("r2 r3 r4 r5 r6 r7 r8"); !slices.Equal(got, want) {
		t.Errorf("scanner gave %q, want %q", got, want)
	}
	if page, err := c.GetScannerRows(ctx, other, 1); err != nil || len(page) != 1 || string(page[0].Row) != "r0" {
		t.Errorf("the other gave %v, %v", page, err)
	}
	for _, id := range []int32{id, other} {
		if err := c.CloseScanner(ctx, id); err != nil {
			t.Errorf("close: %s", text(err))
		}
	}
	_, err = c.GetScannerRows(ctx, id, 3)
	c.fails("rows of a closed scanner", err, "TIllegalArgument: ", "Invalid scanner")
	if err := c.CloseScanner(ctx, id); err != nil {
		t.Errorf("close again: %s", text(err))
	}
	for what, open := range map[string]func() (int32, error){
		"nope": func() (int32, error) { return c.OpenScanner(ctx, []byte("nope"), scan()) },
		"nofam": func() (int32, error) {
			return c.OpenScanner(ctx, []byte(table), scan(func(s *thrift2.TScan) { s.Columns = columns("nofam") }))
		},
	} {
		id, err := open()
		if err != nil {
			t.Errorf("open on %s: %s, want the error with the first rows", what, text(err))
			continue
		}
		_, err = c.GetScannerRows(ctx, id, 1)
		c.fails("rows of "+what, err, "TIOError", what)
	}
	_, err = c.GetScannerRows(ctx, 1<<30, 3)
	c.fails("rows of no scanner", err, "TIllegalArgument: ", "Invalid scanner")
}

func testGets(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create([]*thrift2.TColumnFamilyDescriptor{fam("d", 9), fam("e", 9)})
	c.put(table, put("r", cv("d:a", "1", 1), cv("d:a", "2", 2), cv("d:b", "3", 3), cv("e:a", "4", 4)), put("s", cv("d:a", "s", 1)))
	get := func(row string, edit ...func(*thrift2.TGet)) *thrift2.TGet {
		g := &thrift2.TGet{Row: []byte(row)}
		for _, e := range edit {
			e(g)
		}
		return g
	}
	for _, x := range []struct {
		what string
		get  *thrift2.TGet
		want string
	}{
		{"a row", get("r"), "r d:a@2=2 d:b@3=3 e:a@4=4"},
		{"versions", get("r", func(g *thrift2.TGet) { g.MaxVersions = ptr(int32(9)) }), "r d:a@2=2 d:a@1=1 d:b@3=3 e:a@4=4"},
		{"a timestamp", get("r", func(g *thrift2.TGet) { g.Timestamp = ptr(int64(1)) }), "r d:a@1=1"},
		{"a time range", get("r", func(g *thrift2.TGet) { g.TimeRange = &thrift2.TTimeRange{MinStamp: 3, MaxStamp: 5} }), "r d:b@3=3 e:a@4=4"},
		{"columns", get("r", func(g *thrift2.TGet) { g.Columns = columns("e", "d:a") }), "r d:a@2=2 e:a@4=4"},
		{"a column of it", get("s", func(g *thrift2.TGet) { g.Columns = columns("e") }), ""},
		{"no row", get("nope"), ""},
	} {
		r, err := c.Get(ctx, []byte(table), x.get)
		if err != nil {
			t.Errorf("%s: %s", x.what, text(err))
			continue
		}
		if got := line(r); got != x.want {
			t.Errorf("%s: %q, want %q", x.what, got, x.want)
		}
		if ok, err := c.Exists(ctx, []byte(table), x.get); err != nil || ok != (x.want != "") {
			t.Errorf("%s exists: %v, %v", x.what, ok, err)
		}
	}
	gets := []*thrift2.TGet{get("s"), get("nope"), get("r", func(g *thrift2.TGet) { g.Columns = columns("d:b") })}
	got, err := c.GetMultiple(ctx, []byte(table), gets)
	if err != nil || !slices.Equal(lines(got), []string{"s d:a@1=s", "", "r d:b@3=3"}) {
		t.Errorf("getMultiple: %q, %v", lines(got), err)
	}
	found, err := c.ExistsAll(ctx, []byte(table), gets)
	if err != nil || !slices.Equal(found, []bool{true, false, true}) {
		t.Errorf("existsAll: %v, %v", found, err)
	}
	_, err = c.Get(ctx, []byte(table), get("r", func(g *thrift2.TGet) { g.Columns = columns("nofam:a") }))
	c.fails("get of a missing family", err, noRetry, "NoSuchColumnFamilyException", "nofam")
	_, err = c.Get(ctx, []byte(table), get(""))
	c.fails("get of an empty key", err, internal+"get")
	_, err = c.GetMultiple(ctx, []byte("nope"), gets)
	c.fails("getMultiple of a missing table", err, retry, "Failed 3 actions: nope: 3 times, servers with issues: null")
	_, err = c.ExistsAll(ctx, []byte("nope"), gets)
	c.fails("existsAll of a missing table", err, retry, "Failed 3 actions: nope: 3 times, servers with issues: null")
	_, err = c.GetMultiple(ctx, []byte(table), []*thrift2.TGet{get("r"), get("s", func(g *thrift2.TGet) { g.Columns = columns("nofam:a") })})
	c.fails("getMultiple of a missing family", err, retry, "Failed 1 action: ", "NoSuchColumnFamilyException", "nofam")
	_, err = c.GetMultiple(ctx, []byte(table), []*thrift2.TGet{get("r"), get("")})
	c.fails("getMultiple of an empty key", err, internal+"getMultiple")
	_, err = c.Get(ctx, []byte(table), get("r", func(g *thrift2.TGet) { g.MaxVersions = ptr(int32(0)) }))
	c.fails("get of no versions", err, retry, "versions must be positive")
}

// testPutErrors checks what the gateway refuses before it sends anything: nothing of the call is applied.
func testPutErrors(t *testing.T, c *client) {
	table := c.create(one(1))
	good := put("good", cv("d:a", "1", 1))
	for what, bad := range map[string]*thrift2.TPut{
		"empty key":    put("", cv("d:a", "1", 1)),
		"key too long": put(big(hbase.MaxKeyBytes+1), cv("d:a", "1", 1)),
		"no cells":     put("r"),
	} {
		err := c.PutMultiple(t.Context(), []byte(table), []*thrift2.TPut{good, bad})
		c.fails(what, err, internal+"putMultiple")
		c.fails(what+", put", c.Put(t.Context(), []byte(table), bad), internal+"put")
	}
	c.want(table, scan())
	c.put(table, put(big(hbase.MaxKeyBytes), cv("d:a", "1", 1)))
	if got := c.rows(table, scan()); len(got) != 1 {
		t.Errorf("the longest key: %d rows", len(got))
	}
}

// testPutSome checks what the region server refuses row by row: the others are applied.
func testPutSome(t *testing.T, c *client) {
	table := c.create(one(1))
	err := c.PutMultiple(t.Context(), []byte(table), []*thrift2.TPut{
		put("a", cv("d:a", "1", 1)), put("b", cv("nofam:a", "1", 1)), put("c", cv("d:a", "1", 1)),
	})
	c.fails("a missing family", err, retry, "Failed 1 action: ", "NoSuchColumnFamilyException: Column family nofam does not exist in region "+table+",", ": 1 time, servers with issues: ")
	c.want(table, scan(), "a d:a@1=1", "c d:a@1=1")
	err = c.PutMultiple(t.Context(), []byte(table), []*thrift2.TPut{
		put("d", cv("nofam:a", "1", 1), cv("d:a", "1", 1)), put("e", cv("nofam:a", "1", 1)),
	})
	c.fails("two rows", err, retry, "Failed 2 actions: ", "NoSuchColumnFamilyException", ": 2 times, servers with issues: ")
	c.want(table, scan(between("d", "")))
	c.fails("one put", c.Put(t.Context(), []byte(table), put("f", cv("nofam:a", "1", 1))), noRetry, "NoSuchColumnFamilyException", "nofam")
}

func testDeleteErrors(t *testing.T, c *client) {
	table := c.create(one(1))
	ctx := t.Context()
	c.put(table, put("a", cv("d:a", "1", 1)), put("b", cv("d:a", "1", 1)))
	columns := thrift2.TDeleteType_DELETE_COLUMNS
	c.fails("a missing family", c.DeleteSingle(ctx, []byte(table), del(columns, "a", "nofam:a", 1)), noRetry, "NoSuchColumnFamilyException", "nofam")
	_, err := c.DeleteMultiple(ctx, []byte(table), []*thrift2.TDelete{del(columns, "a", "d:a", 1), del(columns, "b", "nofam:a", 1)})
	c.fails("two rows", err, retry, "Failed 1 action: ", "NoSuchColumnFamilyException")
	c.want(table, scan(), "b d:a@1=1")
	c.fails("a negative timestamp", c.DeleteSingle(ctx, []byte(table), del(columns, "b", "d:a", -1)), internal+"deleteSingle")
	c.fails("an empty key", c.DeleteSingle(ctx, []byte(table), del(columns, "", "d:a", 1)), internal+"deleteSingle")
}

func testMissingTable(t *testing.T, c *client) {
	ctx := t.Context()
	nope := []byte("nope")
	p := put("r", cv("d:a", "1", 1))
	c.fails("putMultiple", c.PutMultiple(ctx, nope, []*thrift2.TPut{p, put("s", cv("d:a", "1", 1))}), retry, "Failed 2 actions: nope: 2 times, servers with issues: null")
	c.fails("put", c.Put(ctx, nope, p), "TIOError", "nope")
	_, err := c.Get(ctx, nope, &thrift2.TGet{Row: []byte("r")})
	c.fails("get", err, "TIOError", "nope")
	_, err = c.GetScannerResults(ctx, nope, scan(), 1)
	c.fails("scan", err, "TIOError", "nope")
	c.fails("deleteSingle", c.DeleteSingle(ctx, nope, del(thrift2.TDeleteType_DELETE_COLUMNS, "r", "d:a", 1)), "TIOError", "nope")
	_, err = c.DeleteMultiple(ctx, nope, []*thrift2.TDelete{del(thrift2.TDeleteType_DELETE_COLUMNS, "r", "d:a", 1)})
	c.fails("deleteMultiple", err, "TIOError", "nope")
}

func testDisabledTable(t *testing.T, c *client) {
	ctx := t.Context()
	table := c.create(one(1))
	c.put(table, put("r", cv("d:a", "1", 1)))
	if err := c.DisableTable(ctx, name(table)); err != nil {
		t.Fatalf("disable: %s", text(err))
	}
	err := c.PutMultiple(ctx, []byte(table), []*thrift2.TPut{put("s", cv("d:a", "1", 1))})
	c.fails("putMultiple", err, retry, "Failed 1 action: NotServingRegionException: 1 time, servers with issues: ")
	_, err = c.DeleteMultiple(ctx, []byte(table), []*thrift2.TDelete{del(thrift2.TDeleteType_DELETE_COLUMNS, "r", "d:a", 1)})
	c.fails("deleteMultiple", err, retry, "Failed 1 action: NotServingRegionException: 1 time, servers with issues: ")
	_, err = c.ExistsAll(ctx, []byte(table), []*thrift2.TGet{{Row: []byte("r")}, {Row: []byte("s")}})
	c.fails("existsAll", err, retry, "Failed 2 actions: NotServingRegionException: 2 times, servers with issues: ")
	c.fails("put", c.Put(ctx, []byte(table), put("s", cv("d:a", "1", 1))), noRetry, table+" is disabled.")
	_, err = c.Get(ctx, []byte(table), &thrift2.TGet{Row: []byte("r")})
	c.fails("get", err, noRetry, table+" is disabled.")
	_, err = c.GetScannerResults(ctx, []byte(table), scan(), 1)
	c.fails("scan", err, noRetry, table+" is disabled.")
	if regions, err := c.GetAllRegionLocations(ctx, []byte(table)); err != nil || len(regions) != 1 {
		t.Errorf("regions of a disabled table: %d, %v", len(regions), err)
	}
	if err := c.EnableTable(ctx, name(table)); err != nil {
		t.Fatalf("enable: %s", text(err))
	}
	c.want(table, scan(), "r d:a@1=1")
}

func testBigCells(t *testing.T, c *client) {
	table := c.create(one(1))
	if c.to.Transport.Framed {
		c.put(table, put("r", cv("d:a", big(1<<20), 1))) // more than a frame breaks the connection
		return
	}
	most := largest("r", "d:a")
	c.put(table, put("r", cv("d:a", big(most), 1)))
	r, err := c.Get(t.Context(), []byte(table), &thrift2.TGet{Row: []byte("r")})
	if err != nil || len(r.ColumnValues) != 1 || len(r.ColumnValues[0].Value) != most {
		t.Fatalf("the largest cell: %s", text(err))
	}
	err = c.PutMultiple(t.Context(), []byte(table), []*thrift2.TPut{put("a", cv("d:a", "1", 1)), put("r", cv("d:a", big(most+1), 2))})
	c.fails("one byte more", err, retry, "Failed 2 actions: ", "DoNotRetryIOException: Cell[r/d:a/2/Put/vlen=", " exceeds limit of 10485760 bytes")
	err = c.PutMultiple(t.Context(), []byte(table), []*thrift2.TPut{put("a", cv("d:a", "1", 1)), put("r", cv("d:a", big(most+5), 2))})
	c.fails("five bytes more", err, internal+"putMultiple")
	if got := c.rows(table, scan(between("a", "b"))); len(got) != 0 {
		t.Errorf("of a refused call were applied %q", got)
	}
}

func testOddKeys(t *testing.T, c *client) {
	table := c.create(one(1))
	keys := []string{"\x00", "\x00\x00", "\x00\x01", "\x00\xff", "a\x00b", "a\x01", "\x7f", "\x80", "\xff\x00"}
	var puts []*thrift2.TPut
	var want []string
	for _, k := range keys {
		puts = append(puts, put(k, cv("d:\x00\xff", k, 1)))
		want = append(want, fmt.Sprintf("%s d:\x00\xff@1=%s", k, k))
	}
	slices.Reverse(puts)
	c.put(table, puts...)
	slices.Sort(want)
	slices.Sort(keys)
	got := c.rows(table, scan())
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, k := range keys {
		c.want(table, scan(between(k, k)), fmt.Sprintf("%s d:\x00\xff@1=%s", k, k))
	}
}

// testGateways checks that all addresses lead to the same HBase.
func testGateways(t *testing.T, c *client) {
	table := c.create(one(1))
	c.put(table, put("r", cv("d:a", "1", 1)))
	for _, addr := range c.to.Addrs {
		to := c.to
		to.Addrs = []string{addr}
		other := dial(t, to)
		other.want(table, scan(), "r d:a@1=1")
		mine, _ := c.GetClusterId(context.Background())
		if id, err := other.GetClusterId(t.Context()); err != nil || id != mine {
			t.Errorf("%s leads to cluster %q, %v, want %q", addr, id, err, mine)
		}
	}
}
