package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/e2e/check"
	"drover/e2e/stack"
	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
)

// What is shown with real HBase beside TestCopyToHBase, which takes every sample file there and runs each plan twice.

func gatewayList(s *stack.Stack) string {
	return `["` + strings.Join(s.Addrs(), `", "`) + `"]`
}

// gatewayCaller is gatewayCall of one stack.
func gatewayCaller(s *stack.Stack) func(func(context.Context, *thrift2.THBaseServiceClient) error) error {
	return func(call func(context.Context, *thrift2.THBaseServiceClient) error) error {
		return gatewayCall(s, call)
	}
}

// realEqual compares a table of real HBase with a file, each cell in one version.
func realEqual(t testing.TB, s *stack.Stack, table, file string, m check.Mapping) check.Report {
	t.Helper()
	at := check.Table{Addr: s.Addrs()[0], Name: table}
	r, err := check.Equal(context.Background(), at, check.Source{Path: file}, m)
	must(t, err)
	if err := r.Err(); err != nil {
		t.Errorf("%s is not what %s maps to: %v", table, filepath.Base(file), err)
	}
	v, err := check.CountVersions(context.Background(), at)
	must(t, err)
	if v.Cells != v.Columns || v.Cells != r.Cells || v.Deletes != 0 {
		t.Errorf("a raw scan of %s finds %+v beside %v", table, v, r)
	}
	return r
}

// A mapping that uses what a mapping can: salted keys, a filter, the whole document, columns in several encodings. Before and
// after it, plan says what there is.
func TestRealMappingAndPlan(t *testing.T) {
	t.Parallel()
	s := stack.Shared(t)
	file := sampleNamed(t, "shipwrecks.bson")
	table := newTable(t, s)
	job := spec{
		name: "wrecks", source: file, gateways: gatewayList(s),
		target: fmt.Sprintf("{table: %s, create: true, regions: 4, families: {d: {versions: 5}, m: {versions: 5}}}", table),
		mapping: `
  key: salt(_id, 16)
  family: d
  encoding: bson
  document: m:_doc
  filter: 'depth > 10'
  columns:
    - {from: _id, to: id}
    - {from: depth, to: depth}
    - {from: feature_type, to: "d:type", encoding: bytes}
    - {from: coordinates.0, to: "m:long", encoding: bytes}
    - {from: coordinates, to: "m:at", encoding: json}
    - {from: nosuch.field, to: "m:never"}`,
	}
	mapping := check.Mapping{
		Encoding: "bson", Document: "m:_doc",
		Columns: []check.Column{
			{From: "_id", To: "d:id"},
			{From: "depth", To: "d:depth"},
			{From: "feature_type", To: "d:type", Encoding: "bytes"},
			{From: "coordinates.0", To: "m:long", Encoding: "bytes"},
			{From: "coordinates", To: "m:at", Encoding: "json"},
		},
		RowKey: func(doc bson.Raw) ([]byte, error) {
			id := doc.Lookup("_id").ObjectID()
			return append([]byte{byte(xxh3.Hash(id[:]) % 16)}, id[:]...), nil
		},
		Omit: func(doc bson.Raw) bool {
			v := doc.Lookup("depth")
			deep := v.Type == bson.TypeDouble && v.Double() > 10 || v.Type == bson.TypeInt32 && v.Int32() > 10
			return !deep
		},
	}
	plan := func(code int, says ...string) {
		t.Helper()
		r := drover(t, "plan", job.file(t), "--hbase-zookeeper", s.ZooKeeper).must(t, code)
		says = append(says, "in 1 shard of 1 collection", "table "+table+" from shipwrecks", "m:_doc", "cluster "+s.ClusterID, "HBase 2.")
		for _, text := range says {
			if !strings.Contains(r.stdout, text) {
				t.Errorf("the plan does not show %q:\n%s", text, r.stdout)
			}
		}
		if n := strings.Count(r.stdout, "  region server "); n != len(s.RegionServers) {
			t.Errorf("the plan shows %d region servers, want %d:\n%s", n, len(s.RegionServers), r.stdout)
		}
	}
	plan(0, "to create  with 4 regions")
	if left, err := os.ReadDir(stateHome(t)); err != nil || len(left) != 0 {
		t.Errorf("plan left %v in the state folder (%v)", left, err)
	}

	b := carry(t, job.file(t)).ends(t, 0)
	mapping.Timestamp = b.Timestamp
	r := realEqual(t, s, table, file, mapping)
	if b.Rows != r.Rows || b.Cells != r.Cells || b.Read != r.Documents || b.Filtered != r.Omitted || r.Rows == 0 || r.Omitted == 0 {
		t.Errorf("the books say %+v, the table %v", b, r)
	}
	t.Logf("%d of %d documents in %d cells", r.Rows, r.Documents, r.Cells)

	plan(1, "REFUSED", "table "+table+" is not empty")
	job.target = fmt.Sprintf("{table: %s, existing: merge}", table)
	plan(0, "exists     with 4 regions")
}

// settled is how many documents of a job's run the last checkpoint covers.
func settled(t testing.TB, name string) (n int64) {
	t.Helper()
	s, ok := readState(t, stateHome(t), name)
	if !ok {
		return 0
	}
	var saved struct {
		Shards []struct {
			Tables map[string]books `json:"tables"`
		} `json:"shards"`
	}
	readRecord(t, filepath.Join(s.dir, "checkpoint"), &saved)
	for _, x := range saved.Shards {
		for _, c := range x.Tables {
			n += c.Read
		}
	}
	return n
}

// Real servers die and hang in mid-run, and the run ends by itself, equal and with no dead letter.
func TestRealServersFail(t *testing.T) {
	s := stack.Shared(t)
	r := seed(t)
	const rate = 4000
	docs := int64(rate * scaled(30, 6))
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: docs, Seed: r.Uint64()})
	for _, c := range []struct {
		name    string
		proving bool
		native  bool // past the gateways
		strike  func(table string) error
		after   time.Duration // to mend, when the run lasts that long; in any case after it
		mend    func(table string) error
		says    string // on stderr
	}{
		{
			name: "gateway killed", strike: func(string) error { return s.Gateways[1].Kill() }, after: 2 * time.Second,
			mend: func(string) error { return s.Gateways[1].Restart(context.Background()) },
		},
		{
			name: "gateway stopped", strike: func(string) error { return s.Gateways[2].Stop() }, after: 5 * time.Second,
			mend: func(string) error { return s.Gateways[2].Cont() },
		},
		{
			// HBase answers batches late, and only that no server serves the region: the reason has to be asked for.
			name: "table disabled", strike: onTable(s, (*thrift2.THBaseServiceClient).DisableTable), after: 8 * time.Second,
			mend: onTable(s, (*thrift2.THBaseServiceClient).EnableTable), says: "the table is disabled",
		},
		{
			name: "region server killed", proving: true, strike: func(string) error { return s.RegionServers[1].Kill() }, after: 5 * time.Second,
			mend: func(string) error { return s.RegionServers[1].Restart(context.Background()) },
		},
		{
			name: "past the gateways, region server stopped", native: true, strike: func(string) error { return s.RegionServers[0].Stop() }, after: 5 * time.Second,
			mend: func(string) error { return s.RegionServers[0].Cont() },
		},
		{
			name: "past the gateways, table disabled", native: true, strike: onTable(s, (*thrift2.THBaseServiceClient).DisableTable), after: 8 * time.Second,
			mend: onTable(s, (*thrift2.THBaseServiceClient).EnableTable), says: "the table is disabled",
		},
		{
			name: "past the gateways, region server killed", proving: true, native: true, strike: func(string) error { return s.RegionServers[1].Kill() }, after: 5 * time.Second,
			mend: func(string) error { return s.RegionServers[1].Restart(context.Background()) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.proving && !proving() {
				t.Skip("moving its regions takes HBase minutes: with DROVER_PROVE=1")
			}
			stack.Shared(t)
			table := newTable(t, s)
			job := spec{
				name: table, source: file, gateways: gatewayList(s), limit: "10m", rest: fmt.Sprintf("limits: {rows: %d}", rate),
				target: fmt.Sprintf("{table: %s, create: true, regions: 6, families: {d: {versions: 5}}}", table),
			}
			if c.native {
				job.native = s.ZooKeeper
			}
			yaml := job.file(t)
			p := start(t, "run", yaml, "--json")
			var struck time.Time
			var had int64
			mended := false
			end := whileRunning(p, 50*time.Millisecond, func() {
				switch {
				case struck.IsZero():
					if had = settled(t, table); had > 0 {
						struck = time.Now()
						must(t, c.strike(table))
					}
				case !mended && time.Since(struck) > c.after:
					mended = true
					must(t, c.mend(table))
				}
			})
			took := time.Since(struck)
			if !mended {
				must(t, c.mend(table))
			}
			b := end.ends(t, 0)
			if !strings.Contains(end.stderr, c.says) {
				t.Errorf("stderr does not say %q:\n%s", c.says, end.stderr)
			}
			if struck.IsZero() || had >= docs {
				t.Fatalf("the fault did not happen in mid-run: %d of %d documents were settled", had, docs)
			}
			if b.Dead != 0 || b.Written != docs || b.Resumed != 0 {
				t.Errorf("the books say %+v, want %d written in one go", b, docs)
			}
			realEqual(t, s, table, file, check.Mapping{Timestamp: b.Timestamp})
			t.Logf("struck at %d of %d documents, ended %.1f s later, %d retries", had, docs, took.Seconds(), b.Retries)
		})
	}
}

// onTable is an admin call on a table of the default namespace.
func onTable(s *stack.Stack, call func(*thrift2.THBaseServiceClient, context.Context, *thrift2.TTableName) error) func(string) error {
	return func(table string) error {
		return gatewayCall(s, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			return call(c, ctx, &thrift2.TTableName{Qualifier: []byte(table)})
		})
	}
}
