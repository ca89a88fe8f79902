package gatewaytest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"drover/hbase"
	"drover/hbase/thrift2"
)

func TestProbe(t *testing.T) {
	if os.Getenv("GW") == "" {
		t.Skip()
	}
	n := 0
	c := dial(t, Target{Addrs: []string{os.Getenv("GW")}, Table: func() string { n++; return fmt.Sprintf("p%d_%d", time.Now().UnixMilli()%1e8, n) }})
	ctx := t.Context()
	show := func(what string, err error) {
		if err != nil {
			t.Logf("%s: %.500s", what, text(err))
		} else {
			t.Logf("%s: ok", what)
		}
	}
	table := c.create(one(1))
	base := hbase.MaxCellBytes - hbase.CellBytes(1, 2, 0, 0)
	for d := 0; d <= 40; d += 4 {
		show(fmt.Sprint("over by ", d), c.PutMultiple(ctx, []byte(table), []*thrift2.TPut{put("a", cv("d:a", "1", 1)), put("r", cv("d:a", big(base+d), 2))}))
	}
	show("put over by 1", c.Put(ctx, []byte(table), put("r", cv("d:a", big(base+1), 2))))
	t.Log(len(c.rows(table, scan(between("a", "b")))))

	neg := c.create(one(9))
	c.put(neg, put("r", cv("d:a", "zero", 0), cv("d:a", "minus", -5)))
	for _, s := range []*thrift2.TScan{scan(), scan(versions(9)), scan(versions(9), func(s *thrift2.TScan) { s.TimeRange = &thrift2.TTimeRange{MinStamp: 0, MaxStamp: now} }), scan(raw, versions(9))} {
		r, err := c.GetScannerResults(ctx, []byte(neg), s, 10)
		show("negative scan", err)
		t.Log(lines(r))
	}
	neg2 := c.create(one(9))
	c.put(neg2, put("r", cv("d:a", "zero", 0), cv("d:a", "last", now-1)))
	for _, s := range []*thrift2.TScan{scan(), scan(versions(9)), scan(versions(9), func(s *thrift2.TScan) { s.TimeRange = &thrift2.TTimeRange{MinStamp: 0, MaxStamp: now} })} {
		r, err := c.GetScannerResults(ctx, []byte(neg2), s, 10)
		show("last scan", err)
		t.Log(lines(r))
	}
	_, err := c.GetMultiple(ctx, []byte(table), []*thrift2.TGet{{Row: []byte("a")}, {Row: []byte("b"), Columns: columns("nofam:a")}})
	show("getMultiple one missing family", err)
	_, err = c.GetMultiple(ctx, []byte(table), []*thrift2.TGet{{Row: []byte("a")}, {Row: []byte("")}})
	show("getMultiple empty key", err)
	_, err = c.Get(ctx, []byte(table), &thrift2.TGet{Row: []byte("a"), MaxVersions: ptr(int32(0))})
	show("get 0 versions", err)
	show("close no scanner", c.CloseScanner(ctx, 12345))
	d := thrift2.NewTDelete()
	d.Row, d.Timestamp = []byte("a"), ptr(int64(-1))
	show("delete ts -1", c.DeleteSingle(ctx, []byte(table), d))
	show("delete col ts -1", c.DeleteSingle(ctx, []byte(table), del(thrift2.TDeleteType_DELETE_COLUMNS, "a", "d:a", -1)))
	d = thrift2.NewTDelete()
	d.Row, d.Timestamp, d.Columns = []byte("a"), ptr(int64(7)), columns("d:zz")
	show("delete with own ts", c.DeleteSingle(ctx, []byte(table), d))
	d = thrift2.NewTDelete()
	d.Row, d.Columns = []byte("a"), columns("d")
	show("delete columns without qualifier", c.DeleteSingle(ctx, []byte(table), d))
	t.Log(c.rows(table, scan(raw, versions(9), between("a", "b"))))
	id, err := c.OpenScanner(ctx, []byte("nope"), scan())
	show(fmt.Sprint("open scanner on nope ", id), err)
	id, err = c.OpenScanner(ctx, []byte(table), scan(func(s *thrift2.TScan) { s.Columns = columns("nofam") }))
	show(fmt.Sprint("open scanner on nofam ", id), err)
	show("create no such ns pattern", c.CreateTable(ctx, &thrift2.TTableDescriptor{TableName: name("nons:t"), Columns: one(1)}, nil))
	show("ttl 0", c.CreateTable(ctx, &thrift2.TTableDescriptor{TableName: name(c.to.Table()), Columns: []*thrift2.TColumnFamilyDescriptor{fam("d", 1, func(f *thrift2.TColumnFamilyDescriptor) { f.TimeToLive = ptr(int32(0)) })}}, nil))
	show("min>max", c.CreateTable(ctx, &thrift2.TTableDescriptor{TableName: name(c.to.Table()), Columns: []*thrift2.TColumnFamilyDescriptor{fam("d", 1, func(f *thrift2.TColumnFamilyDescriptor) { f.MinVersions = ptr(int32(5)) })}}, nil))
	show("family twice", c.CreateTable(ctx, &thrift2.TTableDescriptor{TableName: name(c.to.Table()), Columns: append(one(1), one(2)...)}, nil))
	show("drop hbase ns", c.DeleteNamespace(ctx, "hbase"))
	show("drop nons", c.DeleteNamespace(ctx, "nons"))
	show("bad ns", c.CreateNamespace(ctx, &thrift2.TNamespaceDescriptor{Name: "a-b"}))
	desc, _ := c.GetTableDescriptor(ctx, name(table))
	t.Logf("%v", desc)
	names, err := c.GetTableNamesByPattern(ctx, "", true)
	t.Log(names, err)
	names, err = c.GetTableNamesByPattern(ctx, "(", true)
	show("bad pattern", err)
	regions, _ := c.GetAllRegionLocations(ctx, []byte(table))
	t.Logf("%v", regions)
	show("no family deleted", c.DisableTable(ctx, name(table)))
	for range 3 {
		show("disabled putMultiple", c.PutMultiple(ctx, []byte(table), []*thrift2.TPut{put("a", cv("d:a", "1", 1)), put("b", cv("d:a", "1", 1))}))
	}
	_, err = c.GetMultiple(ctx, []byte(table), []*thrift2.TGet{{Row: []byte("a")}, {Row: []byte("b")}})
	show("disabled getMultiple", err)
	_, err = c.ExistsAll(ctx, []byte(table), []*thrift2.TGet{{Row: []byte("a")}, {Row: []byte("b")}})
	show("disabled existsAll", err)
	_, err = c.DeleteMultiple(ctx, []byte(table), []*thrift2.TDelete{del(1, "a", "d:a", 1)})
	show("disabled deleteMultiple", err)
	show("disabled put", c.Put(ctx, []byte(table), put("a", cv("d:a", "1", 1))))
	rs, err := c.GetAllRegionLocations(ctx, []byte(table))
	t.Log(len(rs), err)
	_, err = c.GetRegionLocation(ctx, []byte(table), []byte("a"), true)
	show("disabled regionlocation", err)
}
