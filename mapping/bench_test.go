package mapping_test

import (
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/hbase"
	"drover/jobs"
	"drover/mapping"
)

// small has five fields and about 200 bytes of payload.
func small(i int) bson.D {
	return bson.D{
		{Key: "_id", Value: oid(i)},
		{Key: "name", Value: strings.Repeat("n", 40)},
		{Key: "text", Value: strings.Repeat("t", 132)},
		{Key: "count", Value: int64(i)},
		{Key: "when", Value: bson.DateTime(1_700_000_000_000 + i)},
	}
}

// large has twelve fields and about 1 KiB.
func large(i int) bson.D {
	return bson.D{
		{Key: "_id", Value: oid(i)},
		{Key: "name", Value: strings.Repeat("n", 40)},
		{Key: "title", Value: strings.Repeat("t", 120)},
		{Key: "body", Value: strings.Repeat("b", 480)},
		{Key: "count", Value: int32(i)},
		{Key: "total", Value: int64(i)},
		{Key: "score", Value: float64(i) / 7},
		{Key: "active", Value: i%2 == 0},
		{Key: "created", Value: bson.DateTime(1_700_000_000_000 + i)},
		{Key: "place", Value: bson.D{{Key: "city", Value: "Hamburg"}, {Key: "geo", Value: bson.A{9.99, 53.55}}}},
		{Key: "tags", Value: bson.A{"a", "bc", "def", "ghij"}},
		{Key: "owner", Value: oid(i + 1)},
	}
}

func oid(i int) bson.ObjectID {
	return bson.NewObjectIDFromTimestamp(time.Unix(int64(1_700_000_000+i), 0))
}

func benchmark(b *testing.B, s mapping.Spec, doc func(int) bson.D) {
	m, err := mapping.Compile(s)
	if err != nil {
		b.Fatal(err)
	}
	var docs [][]byte
	for i := range 1000 {
		raw, err := bson.Marshal(doc(i))
		if err != nil {
			b.Fatal(err)
		}
		docs = append(docs, raw)
	}
	p := m.Mapper("c", 1_700_000_000_000, "")
	batch := hbase.AcquireBatch(hbase.SyncWAL)
	route := func([]byte) *hbase.Batch { return batch }
	b.SetBytes(int64(len(docs[0])))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if batch.Rows() == 1000 {
			batch.Release()
			batch = hbase.AcquireBatch(hbase.SyncWAL)
		}
		if o, why := p.Map(docs[i%len(docs)], route); o != jobs.Mapped {
			b.Fatal(o, why)
		}
	}
}

func BenchmarkMap(b *testing.B) {
	five := []mapping.Column{{From: "_id", To: "id"}, {From: "name", To: "n"}, {From: "text", To: "t"}, {From: "count", To: "c"}, {From: "when", To: "w"}}
	for _, c := range []struct {
		name string
		spec mapping.Spec
		doc  func(int) bson.D
	}{
		{"small/fields", mapping.Spec{Family: "d"}, small},
		{"small/columns", mapping.Spec{Family: "d", Columns: five}, small},
		{"small/bson", mapping.Spec{Family: "d", Encoding: mapping.BSON}, small},
		{"small/json", mapping.Spec{Family: "d", Encoding: mapping.JSON}, small},
		{"small/document", mapping.Spec{Document: "d:doc"}, small},
		{"small/filter", mapping.Spec{Family: "d", Filter: "count >= 0"}, small},
		{"small/salt", mapping.Spec{Family: "d", Key: "salt(_id, 16)"}, small},
		{"large/fields", mapping.Spec{Family: "d"}, large},
		{"large/path", mapping.Spec{Family: "d", Columns: []mapping.Column{{From: "place.city", To: "c"}, {From: "place.geo.1", To: "g"}}}, large},
	} {
		b.Run(c.name, func(b *testing.B) { benchmark(b, c.spec, c.doc) })
	}
}
