package native

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

// TestReadAllStale reads a table whose scanners are lost again and again, in the middle of rows too.
func TestReadAllStale(t *testing.T) {
	for _, rows := range []int{1, 36, 37, 200, fakeRows, 2 * fakeRows} {
		b := &fakeBackend{how: "stale"}
		got, err := readAll(t.Context(), &request{Table: "t", Rows: rows}, func(q *request) (fetcher, error) {
			s, err := b.scan(q)
			if err != nil {
				return nil, err
			}
			return &torn{s.(*fakeScan)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := min(rows, fakeRows); len(got) != want {
			t.Fatalf("%d rows, want %d", len(got), want)
		}
		for i, r := range got {
			if string(r.Row) != fakeKey(i) || len(r.ColumnValues) != 1 || r.ColumnValues[0].GetTimestamp() != int64(i) {
				t.Fatalf("row %d is %q with %d cells", i, r.Row, len(r.ColumnValues))
			}
		}
		if rows > 200 && b.opens < 2 {
			t.Errorf("%d opens: no scanner was lost", b.opens)
		}
	}
}

// torn leaves a part of a row behind when its scanner is lost.
type torn struct{ *fakeScan }

func (s *torn) fetch(ctx context.Context, b *buffer, rows int) error {
	err := s.fakeScan.fetch(ctx, b, rows)
	if errors.As(err, new(staleError)) {
		b.data = append(b.data, 0, 1, 'r')
		b.open = true
	}
	return err
}

func TestReadAllGivesUp(t *testing.T) {
	opens := 0
	_, err := readAll(t.Context(), &request{Table: "t", Rows: 9}, func(*request) (fetcher, error) {
		opens++
		return lost{}, nil
	})
	if err == nil || err.Error() != "gone" || opens != staleTries {
		t.Errorf("%v after %d scanners, want gone after %d", err, opens, staleTries)
	}
}

// lost is a scan whose scanner is never there.
type lost struct{}

func (lost) fetch(context.Context, *buffer, int) error { return staleError{errors.New("gone")} }
func (lost) finished() bool                            { return false }
func (lost) close()                                    {}

func TestScanRequest(t *testing.T) {
	yes := true
	for _, x := range []struct {
		what string
		scan thrift2.TScan
		rows int // < 0 is an error
	}{
		{"all", thrift2.TScan{MaxVersions: 1}, 10},
		{"no versions", thrift2.TScan{}, 0},
		{"start is stop", thrift2.TScan{MaxVersions: 1, StartRow: []byte("b"), StopRow: []byte("b"), Reversed: &yes}, 10},
		{"start after stop", thrift2.TScan{MaxVersions: 1, StartRow: []byte("c"), StopRow: []byte("b")}, 0},
		{"reversed", thrift2.TScan{MaxVersions: 1, StartRow: []byte("c"), StopRow: []byte("b"), Reversed: &yes}, 10},
		{"reversed, wrong way round", thrift2.TScan{MaxVersions: 1, StartRow: []byte("b"), StopRow: []byte("c"), Reversed: &yes}, 0},
		{"no time", thrift2.TScan{MaxVersions: 1, TimeRange: &thrift2.TTimeRange{}}, 0},
		{"time wrong way round", thrift2.TScan{MaxVersions: 1, TimeRange: &thrift2.TTimeRange{MinStamp: 2, MaxStamp: 1}}, -1},
		{"bytes of a filter", thrift2.TScan{MaxVersions: 1, FilterBytes: []byte{1}}, -1},
	} {
		q, err := scanRequest("t", &x.scan, 10)
		switch {
		case x.rows < 0:
			if err == nil {
				t.Errorf("%s: no error", x.what)
			}
		case err != nil || q.Rows != x.rows:
			t.Errorf("%s: %+v, %v, want %d rows", x.what, q, err, x.rows)
		case string(q.Start) == "b" && string(q.Spec.Stop) == "b" && q.Spec.Reversed:
			t.Errorf("%s: one row is read backwards", x.what)
		}
	}
}

// TestDescriptor takes a descriptor to the master's words and back.
func TestDescriptor(t *testing.T) {
	yes, hour, replicas := true, int32(3600), int16(2)
	gz, fsync := thrift2.TCompressionAlgorithm_GZ, thrift2.TDurability_FSYNC_WAL
	want, _, err := gateway.Complete(&thrift2.TTableDescriptor{
		TableName: &thrift2.TTableName{Ns: []byte("ns"), Qualifier: []byte("t")}, Durability: &fsync,
		Columns: []*thrift2.TColumnFamilyDescriptor{{
			Name: []byte("d"), CompressionType: &gz, TimeToLive: &hour, InMemory: &yes, CacheDataOnWrite: &yes, DfsReplication: &replicas,
			Configuration: map[string]string{"k": "v"},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := descriptorOf(schemaOf(want))
	if f := got.Columns[0]; string(f.Attributes["TTL"]) != "3600" || string(f.Attributes["COMPRESSION"]) != "GZ" || f.Attributes["COMPRESS_TAGS"] != nil {
		t.Errorf("attributes %q", f.Attributes)
	}
	got.Attributes, got.Columns[0].Attributes = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n\t%v\nwant\n\t%v", got, want)
	}
}

func TestTold(t *testing.T) {
	for text, want := range map[string]bool{
		"HBase Java exception org.apache.hadoop.hbase.TableExistsException:\norg.apache.hadoop.hbase.TableExistsException: t\n\tat x":                  false,
		"HBase Java exception org.apache.hadoop.hbase.PleaseHoldException:\norg.apache.hadoop.hbase.PleaseHoldException: Master is initializing\n\tat": true,
		"HBase Java exception org.apache.hadoop.hbase.DoNotRetryIOException:\nno":                                                                      false,
	} {
		e, ok := errors.AsType[*thrift2.TIOError](told("t", errors.New(text)))
		if !ok || e.GetCanRetry() != want || !strings.HasPrefix(e.GetMessage(), "org.apache.hadoop.hbase.") {
			t.Errorf("%q became %q, can retry %v", text, e.GetMessage(), e.GetCanRetry())
		}
	}
}
