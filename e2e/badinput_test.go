package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/e2e/check"
	"drover/e2e/wire"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
)

// What can be wrong around a run, each with its message and exit code; and mended, the same command ends with what it should.

// spec is a job file in sections; an empty one is as job has it, with the job's name for its table.
type spec struct {
	name, source, target, mapping, gateways string
	embedded                                string // folder of an embedded gateway, in the place of gateways
	native                                  string // HBase's ZooKeeper, in the place of gateways
	limit                                   string // outage_limit
	rest                                    string
}

func (s spec) file(t testing.TB) string {
	t.Helper()
	or := func(text, def string) string {
		if text == "" {
			return def
		}
		return text
	}
	gateways := "static: " + s.gateways
	if s.embedded != "" {
		gateways = "embedded: " + s.embedded
	}
	if s.native != "" {
		gateways = fmt.Sprintf("native: %q", s.native)
	}
	return jobFile(t, fmt.Sprintf("name: %s\nsource: {mongodump: %q}\ntarget: %s\nmap: %s\ngateways: {%s, outage_limit: %s}\n%s\n",
		s.name, s.source, or(s.target, fmt.Sprintf("{table: %s, create: true, regions: 4, families: {d: {versions: 5}}}", s.name)),
		or(s.mapping, "{key: _id, family: d}"), gateways, or(s.limit, "2m"), s.rest))
}

// quick is the same job without its limits, which may change between resumes: the rest of it need not take its time.
func (s spec) quick(t testing.TB) string {
	s.rest = ""
	return s.file(t)
}

func carry(t testing.TB, job string, args ...string) result {
	t.Helper()
	return drover(t, append([]string{"run", job, "--json"}, args...)...)
}

// crash runs a job that is killed at a step.
func crash(t testing.TB, at, job string) {
	t.Helper()
	if r := drover(t, "DROVER_CRASH="+at, "run", job, "--json"); r.signal != syscall.SIGKILL {
		t.Fatalf("%s was not passed: exit %d\n%s", at, r.code, r.stderr)
	}
}

// ended lists the states that go with an exit code.
var ended = map[int][]string{
	0: {"done", "partial"}, 1: {"failed"}, 3: {"dead_letters", "partial"}, 5: {"running"}, 6: {"stopped"}, 130: {"stopped"}, 143: {"stopped"},
}

// ends checks how `run --json` ended: its code, exactly one object with every key and the code's state on stdout, books that
// close, and the words that both the object's reason and stderr must have.
func (r result) ends(t testing.TB, code int, says ...string) books {
	t.Helper()
	r.must(t, code)
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.stdout), &keys); err != nil {
		t.Fatalf("stdout is not one JSON object: %v\n%s", err, r.stdout)
	}
	for _, k := range []string{
		"job", "run", "state", "read", "written", "filtered", "dead", "rows", "cells", "bytes", "resumed", "shards", "retries",
		"limited_seconds", "seconds", "peak_rss_bytes",
	} {
		if _, ok := keys[k]; !ok {
			t.Errorf("the JSON has no %q: %s", k, r.stdout)
		}
	}
	if !slices.Contains(ended[code], r.json.State) {
		t.Errorf("exit code %d with state %q, want one of %q", code, r.json.State, ended[code])
	}
	for _, s := range says {
		if !strings.Contains(r.json.Reason, s) {
			t.Errorf("the reason does not say %q: %s", s, r.json.Reason)
		}
		if !strings.Contains(r.stderr, s) {
			t.Errorf("stderr does not say %q: %s", s, r.stderr)
		}
	}
	r.json.close(t)
	return r.json
}

// stop runs a job until this many more rows are in HBase, and ends it with SIGTERM. The job needs a limit, so that it does not
// end before.
func (f *fleet) stop(t testing.TB, job string, rows int) books {
	t.Helper()
	f.take()
	p := start(t, "run", job, "--json")
	r := whileRunning(p, 10*time.Millisecond, func() {
		if f.applied() >= rows {
			p.signal(syscall.SIGTERM)
		}
	})
	// More than one signal may have been sent: what a second one means is tested elsewhere.
	return r.ends(t, 143, "run the same command again to go on")
}

// alike compares a table with a source under a mapping, in every version.
func (f *fleet) alike(t testing.TB, table string, s check.Source, m check.Mapping) {
	t.Helper()
	r, err := check.Equal(context.Background(), f.table(table), s, m)
	must(t, err)
	if err := r.Err(); err != nil {
		t.Errorf("%s is not what %s maps to: %v", table, s.Path, err)
	}
}

// call makes a call on a table through the first gateway.
func (f *fleet) call(t testing.TB, call func(context.Context, *thrift2.THBaseServiceClient) error) {
	t.Helper()
	must(t, wire.Call(context.Background(), f.servers[0].Addr(), wire.Protocol{}, call))
}

func (f *fleet) create(t testing.TB, table, family string) {
	t.Helper()
	f.call(t, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.CreateTable(ctx, &thrift2.TTableDescriptor{
			TableName: &thrift2.TTableName{Qualifier: []byte(table)}, Columns: []*thrift2.TColumnFamilyDescriptor{{Name: []byte(family)}},
		}, nil)
	})
}

func (f *fleet) drop(t testing.TB, table string) {
	t.Helper()
	f.admin(t, table, (*thrift2.THBaseServiceClient).DisableTable)
	f.admin(t, table, (*thrift2.THBaseServiceClient).DeleteTable)
}

// dumpOf makes a dump file of these documents and tells where each starts.
func dumpOf(t testing.TB, docs []bson.D) (path string, offsets []int) {
	t.Helper()
	var buf bytes.Buffer
	for _, d := range docs {
		raw, err := bson.Marshal(d)
		must(t, err)
		offsets = append(offsets, buf.Len())
		buf.Write(raw)
	}
	path = filepath.Join(t.TempDir(), "c.bson")
	must(t, os.WriteFile(path, buf.Bytes(), 0o644))
	return path, offsets
}

// overwrite changes bytes of a file, and leaves its time as it was.
func overwrite(t testing.TB, path string, at int64, b []byte) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt(b, at)
	must(t, errors.Join(err, file.Close(), os.Chtimes(path, info.ModTime(), info.ModTime())))
}

func TestBadSource(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	addrs := f.addrs()
	t.Run("missing", func(t *testing.T) {
		file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 500})
		yaml := spec{name: "missing", source: file, gateways: addrs}.file(t)
		must(t, os.Rename(file, file+".away"))
		carry(t, yaml).ends(t, 1, "no such file", file)
		must(t, os.Rename(file+".away", file))
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "missing", file, b.Timestamp, nil)
	})
	t.Run("truncated", func(t *testing.T) {
		file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 3000})
		docs := documents(t, file)
		whole, err := os.ReadFile(file)
		must(t, err)
		must(t, os.Truncate(file, int64(len(whole)-20)))
		yaml := spec{name: "truncated", source: file, gateways: addrs}.file(t)
		last := docs[len(docs)-1].offset
		b := carry(t, yaml).ends(t, 1, file, fmt.Sprintf("offset %d", last))
		if b.Read != int64(len(docs)-1) || b.Written != b.Read {
			t.Errorf("read %d and written %d, want all %d before the break", b.Read, b.Written, len(docs)-1)
		}
		// A whole dump is another file: only a person can say that it takes the other's place.
		must(t, os.WriteFile(file, whole, 0o644))
		carry(t, yaml).ends(t, 1, "the source changed", "--fresh")
		carry(t, yaml, "--fresh").ends(t, 1, "table truncated is not empty")
		f.drop(t, "truncated")
		b = carry(t, yaml, "--fresh").ends(t, 0)
		f.equal(t, "truncated", file, b.Timestamp, nil)
	})
	t.Run("length flipped", func(t *testing.T) {
		// Large enough for three shards, and the break inside the second.
		file := dump(t, dumpgen.Options{Profile: dumpgen.KB, AvgBytes: 8000, Docs: 3300})
		docs := documents(t, file)
		yaml := spec{name: "flipped", source: file, gateways: addrs}.file(t)
		crash(t, "planned", yaml)
		s, ok := readState(t, stateHome(t), "flipped")
		if !ok || len(s.shards) < 3 {
			t.Fatalf("the plan has %d shards, want 3 or more", len(s.shards))
		}
		second := s.shards[1]
		i := slices.IndexFunc(docs, func(d document) bool { return d.offset > (second.start+second.end)/2 })
		was := make([]byte, 4)
		whole, err := os.ReadFile(file)
		must(t, err)
		copy(was, whole[docs[i].offset:])
		flipped := slices.Clone(was)
		flipped[3] ^= 0x40
		overwrite(t, file, docs[i].offset, flipped)
		lost := 0
		for _, d := range docs[i:] {
			if d.offset < second.end {
				lost++
			}
		}
		for range 2 { // it fails as often as it is tried
			b := carry(t, yaml).ends(t, 1, file, fmt.Sprintf("offset %d", docs[i].offset))
			if b.Read != int64(len(docs)-lost) || b.Written != b.Read {
				t.Errorf("read %d and written %d, want %d: all but the %d behind the break in its shard", b.Read, b.Written, len(docs)-lost, lost)
			}
		}
		f.take()
		overwrite(t, file, docs[i].offset, was)
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "flipped", file, b.Timestamp, nil)
		if n := f.applied(); n != lost {
			t.Errorf("mended, it put %d rows, want the %d that were left", n, lost)
		}
	})
	t.Run("replaced on resume", func(t *testing.T) {
		file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10_000, Seed: 1})
		other := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10_000, Seed: 2})
		yaml := spec{name: "replaced", source: file, gateways: addrs}.file(t)
		crash(t, "acked:3", yaml)
		must(t, os.Rename(file, file+".away"))
		must(t, os.Rename(other, file))
		carry(t, yaml).ends(t, 1, "the source changed", "Put the file back", file)
		seen := f.take() // what the killed process had sent may be among it
		for _, d := range documents(t, file) {
			if seen[d.key] > 0 {
				t.Fatalf("row %x of the other file was put", d.key)
			}
		}
		must(t, os.Rename(file+".away", file))
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "replaced", file, b.Timestamp, nil)
	})
	t.Run("another path on resume", func(t *testing.T) {
		file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10_000})
		other := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10_000})
		yaml := spec{name: "path", source: file, gateways: addrs}.file(t)
		crash(t, "acked:3", yaml)
		carry(t, spec{name: "path", source: other, gateways: addrs}.file(t)).ends(t, 1, "source.mongodump was", other)
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "path", file, b.Timestamp, nil)
	})
	t.Run("done, then another dump", func(t *testing.T) {
		file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 500, Seed: 1})
		yaml := spec{name: "nightly", source: file, gateways: addrs}.file(t)
		first := carry(t, yaml).ends(t, 0)
		must(t, os.Rename(dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 500, Seed: 2}), file))
		f.drop(t, "nightly")
		b := carry(t, yaml).ends(t, 0)
		if b.Run == first.Run || b.Again || b.Timestamp <= first.Timestamp {
			t.Errorf("a new dump after a done run gave %+v after %+v, want a new run with a later timestamp", b, first)
		}
		f.equal(t, "nightly", file, b.Timestamp, nil)
	})
}

// Documents that can never become a row stop the run while none may die, and are dead letters once they may.
func TestBadDocuments(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	docs := func(n int) []bson.D {
		var out []bson.D
		for i := range n {
			out = append(out, bson.D{{Key: "_id", Value: bson.NewObjectID()}, {Key: "k", Value: fmt.Sprintf("k%05d", i)}, {Key: "v", Value: "v"}})
		}
		return out
	}
	for _, c := range []struct {
		name string
		n    int // documents
		bad  int // which of them
		as   func(d bson.D) bson.D
		says []string
	}{
		{"key field missing", 200, 100, func(d bson.D) bson.D { return bson.D{d[0], d[2]} }, []string{"k", "missing"}},
		{"key too long", 200, 0, func(d bson.D) bson.D { d[1].Value = strings.Repeat("x", 32_768); return d }, []string{"32768", "32767"}},
		{"key empty", 200, 199, func(d bson.D) bson.D { d[1].Value = ""; return d }, []string{"k", "empty"}},
		{"cell too big", 20, 10, func(d bson.D) bson.D { d[2].Value = strings.Repeat("x", 11<<20); return d }, []string{"v", "10485760"}},
		// Of this many documents the sample takes 10,000, evenly, and so not the seventh.
		{"key of another type", 12_000, 6, func(d bson.D) bson.D { d[1].Value = int32(7); return d }, []string{"int32", "string"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := strings.ReplaceAll(c.name, " ", "-")
			all := docs(c.n)
			all[c.bad] = c.as(all[c.bad])
			file, offsets := dumpOf(t, all)
			with := func(max string) string {
				return spec{name: name, source: file, mapping: "{key: k, family: d}", gateways: f.addrs(), rest: "dead_letters: {max: " + max + "}"}.file(t)
			}
			position := strconv.Itoa(offsets[c.bad])
			stopped := carry(t, with("0")).ends(t, 6, append(c.says, "dead_letters.max is 0", "position "+position, "raise dead_letters.max")...)
			if stopped.Dead != 0 {
				t.Errorf("%d dead letters where none may be", stopped.Dead)
			}
			b := carry(t, with("1")).ends(t, 3)
			if b.Run != stopped.Run || b.Resumed != 1 || b.Read != int64(c.n) || b.Dead != 1 {
				t.Errorf("after raising the maximum: %+v", b)
			}
			f.alike(t, name, check.Source{Path: file}, check.Mapping{Key: "k", Timestamp: b.Timestamp, Omit: func(raw bson.Raw) bool {
				return bytes.Equal(raw.Lookup("_id").Value, idOf(all[c.bad]))
			}})
			list := drover(t, "dead", "list", with("1"), "--json").must(t, 0)
			if lines(list.stdout) != 1 || !strings.Contains(list.stdout, `"position":"`+position+`"`) {
				t.Errorf("want one letter, at %s: %s", position, list.stdout)
			}
			show := drover(t, "dead", "show", with("1"), "0", position).must(t, 0)
			if !strings.Contains(show.stdout, c.says[0]) {
				t.Errorf("the letter does not tell the reason: %.2000s", show.stdout)
			}
			drover(t, "dead", "show", with("1"), "0", "1").must(t, 1)
		})
	}
	t.Run("mixed key types", func(t *testing.T) {
		file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 500, ID: dumpgen.Mixed})
		carry(t, spec{name: "mixed", source: file, gateways: f.addrs()}.file(t)).ends(t, 1, "mixed types", "key_encoding")
		b := carry(t, spec{name: "mixed", source: file, mapping: "{key_encoding: bson, family: d}", gateways: f.addrs()}.file(t)).ends(t, 0)
		f.alike(t, "mixed", check.Source{Path: file}, check.Mapping{KeyEncoding: "bson", Timestamp: b.Timestamp})
	})
}

func idOf(d bson.D) []byte {
	id := d[0].Value.(bson.ObjectID)
	return id[:]
}

func TestBadTable(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 500})
	t.Run("no such family", func(t *testing.T) {
		f.create(t, "family", "d")
		yaml := spec{name: "family", source: file, target: "{table: family}", mapping: "{family: e}", gateways: f.addrs()}.file(t)
		carry(t, yaml).ends(t, 1, `table family has no column family "e"`, "alter 'family', NAME => 'e'")
		f.call(t, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			return c.AddColumnFamily(ctx, &thrift2.TTableName{Qualifier: []byte("family")}, &thrift2.TColumnFamilyDescriptor{Name: []byte("e")})
		})
		b := carry(t, yaml).ends(t, 0)
		f.alike(t, "family", check.Source{Path: file}, check.Mapping{Family: "e", Timestamp: b.Timestamp})
	})
	t.Run("missing", func(t *testing.T) {
		yaml := spec{name: "nocreate", source: file, target: "{table: nocreate}", gateways: f.addrs()}.file(t)
		carry(t, yaml).ends(t, 1, "table nocreate does not exist", "create 'nocreate', ", "target.create: true")
		f.create(t, "nocreate", "d")
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "nocreate", file, b.Timestamp, nil)
	})
	t.Run("disabled", func(t *testing.T) {
		f.create(t, "off", "d")
		f.admin(t, "off", (*thrift2.THBaseServiceClient).DisableTable)
		yaml := spec{name: "off", source: file, target: "{table: off}", gateways: f.addrs()}.file(t)
		carry(t, yaml).ends(t, 1, "table off is disabled", "enable 'off'")
		f.admin(t, "off", (*thrift2.THBaseServiceClient).EnableTable)
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "off", file, b.Timestamp, nil)
	})
	t.Run("not empty", func(t *testing.T) {
		carry(t, spec{name: "full", source: file, gateways: f.addrs()}.file(t)).ends(t, 0)
		more := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 300, Seed: 2})
		second := spec{name: "full2", source: more, target: "{table: full}", gateways: f.addrs()}
		f.take()
		carry(t, second.file(t)).ends(t, 1, "table full is not empty", "target.existing: merge")
		if n := f.applied(); n != 0 {
			t.Errorf("%d rows were put all the same", n)
		}
		second.target = "{table: full, existing: merge}"
		carry(t, second.file(t)).ends(t, 0)
		v, err := check.CountVersions(context.Background(), f.table("full"))
		must(t, err)
		if v.Rows != 800 || v.Cells != v.Columns {
			t.Errorf("merged: %+v, want 800 rows", v)
		}
	})
	t.Run("gone on resume", func(t *testing.T) {
		many := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 60_000})
		yaml := spec{name: "gone", source: many, gateways: f.addrs(), rest: "limits: {rows: 5000}"}.file(t)
		b := f.stop(t, yaml, 1000)
		f.drop(t, "gone")
		carry(t, yaml).ends(t, 1, "table gone is gone", b.Run, "--fresh")
		carry(t, spec{name: "gone", source: many, target: "{table: other, create: true, families: {d: {}}}", gateways: f.addrs()}.file(t)).
			ends(t, 1, `target.table was "gone", is "other"`)
		fresh := carry(t, spec{name: "gone", source: many, gateways: f.addrs()}.file(t), "--fresh").ends(t, 0)
		f.equal(t, "gone", many, fresh.Timestamp, nil)
	})
}

func TestGatewaysDown(t *testing.T) {
	t.Parallel()
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 20_000})
	const rate = "limits: {rows: 10000}"
	t.Run("at start", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		addr := l.Addr().String()
		must(t, l.Close())
		yaml := spec{name: "start", source: file, gateways: fmt.Sprintf("[%q]", addr), limit: "2s"}.file(t)
		carry(t, yaml).ends(t, 6, "nothing succeeded through any gateway", "connection refused", addr)
		g, err := gateway.Open(gateway.Options{Listen: addr})
		must(t, err)
		f := &fleet{servers: []*gateway.Server{g}, seen: map[string]int{}}
		defer g.Close()
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "start", file, b.Timestamp, nil)
	})
	t.Run("at start, and stopped", func(t *testing.T) {
		f := newFleet(t, 2)
		f.each(func(x *gateway.Faults) { x.Refuse(true) })
		p := start(t, "run", spec{name: "wait", source: file, gateways: f.addrs(), limit: "10m"}.file(t), "--json")
		var signalled time.Time
		r := whileRunning(p, 20*time.Millisecond, func() {
			if f.counts().Refused > 0 && signalled.IsZero() {
				p.signal(syscall.SIGTERM)
				signalled = time.Now()
			}
		})
		r.ends(t, 143)
		if took := time.Since(signalled); took > 15*time.Second {
			t.Errorf("it took %v to end, with nothing in flight", took)
		}
	})
	t.Run("half way", func(t *testing.T) {
		f := newFleet(t, 3)
		p := start(t, "run", spec{name: "half", source: file, gateways: f.addrs(), rest: rate}.file(t), "--json")
		var from time.Time
		back := false
		b := whileRunning(p, 20*time.Millisecond, func() {
			switch {
			case from.IsZero() && f.applied() > 5000:
				f.each(func(x *gateway.Faults) { x.Refuse(true) })
				from = time.Now()
			case !from.IsZero() && !back && time.Since(from) > 2*time.Second:
				f.each(func(x *gateway.Faults) { x.Refuse(false) })
				back = true
			}
		}).ends(t, 0)
		if f.counts().Refused == 0 || !back {
			t.Errorf("the fault did not happen: %+v", f.counts())
		}
		if b.Resumed != 0 {
			t.Errorf("resumed %d times, want to come back alone", b.Resumed)
		}
		f.equal(t, "half", file, b.Timestamp, nil)
	})
	t.Run("longer than the outage limit", func(t *testing.T) {
		f := newFleet(t, 3)
		s := spec{name: "longer", source: file, gateways: f.addrs(), limit: "3s", rest: rate}
		p := start(t, "run", s.file(t), "--json")
		down := false
		first := whileRunning(p, 20*time.Millisecond, func() {
			if !down && f.applied() > 5000 {
				f.each(func(x *gateway.Faults) { x.Refuse(true) })
				down = true
			}
		}).ends(t, 6, "nothing succeeded through any gateway")
		if first.Read == 0 || first.Dead != 0 {
			t.Errorf("settled %d, dead %d", first.Read, first.Dead)
		}
		f.each(func(x *gateway.Faults) { x.Refuse(false) })
		b := carry(t, s.quick(t)).ends(t, 0)
		if b.Run != first.Run || b.Resumed != 1 {
			t.Errorf("it did not go on: %+v after %+v", b, first)
		}
		f.equal(t, "longer", file, b.Timestamp, nil)
	})
}

// tmpfs mounts a file system of its own for a test.
func tmpfs(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a tmpfs: %v", err)
		}
		t.Skipf("mount a tmpfs: %v: this test needs root", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

func remount(t testing.TB, dir string, flags uintptr, data string) {
	t.Helper()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, data))
}

// fill writes a file until the disk is full.
func fill(t testing.TB, path string) {
	t.Helper()
	file, err := os.Create(path)
	must(t, err)
	defer file.Close()
	for b := make([]byte, 4096); ; {
		if _, err := file.Write(b); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// withFormat gives a record's generation with another format number and a right checksum.
func withFormat(t testing.TB, data []byte, format string) []byte {
	t.Helper()
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	words := strings.Fields(string(line)) // drover KIND FORMAT "BINDING" LENGTH CHECKSUM
	if len(words) != 6 {
		t.Fatalf("the header is %q", line)
	}
	words[2] = format
	head := strings.Join(words[:5], " ") + " "
	var h xxh3.Hasher
	h.WriteString(head)
	h.Write(bytes.TrimSuffix(rest, []byte("\n")))
	return fmt.Appendf(nil, "%s%016x\n%s", head, h.Sum64(), rest)
}

// flip changes a byte in the middle of a file.
func flip(t testing.TB, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(path, data, 0o644))
}

func TestBadState(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10_000})
	const rate = "limits: {rows: 5000}"
	t.Run("read-only", func(t *testing.T) {
		dir := tmpfs(t, "4m")
		yaml := spec{name: "readonly", source: file, gateways: f.addrs()}.file(t)
		remount(t, dir, syscall.MS_RDONLY, "")
		carry(t, yaml, "--state", dir).ends(t, 1, "read-only file system", dir, "make the folder writable")
		remount(t, dir, 0, "")
		crashed := drover(t, "DROVER_CRASH=acked:2", "run", yaml, "--state", dir)
		if crashed.signal != syscall.SIGKILL {
			t.Fatalf("not killed: %d\n%s", crashed.code, crashed.stderr)
		}
		remount(t, dir, syscall.MS_RDONLY, "")
		carry(t, yaml, "--state", dir).ends(t, 1, "read-only file system", dir)
		drover(t, "status", yaml, "--state", dir).must(t, 0)
		remount(t, dir, 0, "")
		b := carry(t, yaml, "--state", dir).ends(t, 0)
		f.equal(t, "readonly", file, b.Timestamp, nil)
	})
	t.Run("below a file", func(t *testing.T) {
		not := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(not, nil, 0o644))
		carry(t, spec{name: "notdir", source: file, gateways: f.addrs()}.file(t), "--state", filepath.Join(not, "state")).ends(t, 1, "not a directory", not)
	})
	t.Run("disk full", func(t *testing.T) {
		dir := tmpfs(t, "1m")
		many := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 25_000})
		s := spec{name: "diskfull", source: many, gateways: f.addrs(), rest: rate}
		yaml := s.quick(t)
		f.take()
		filler := filepath.Join(dir, "filler")
		full := false
		first := whileRunning(start(t, "run", s.file(t), "--json", "--state", dir), 20*time.Millisecond, func() {
			if !full && f.applied() > 1000 {
				fill(t, filler)
				full = true
			}
		}).ends(t, 6, "no space left on device", "make room", dir)
		// Still full, it says so again; nothing gets worse by trying.
		carry(t, yaml, "--state", dir).ends(t, 6, "no space left on device", "make room")
		must(t, os.Remove(filler))
		b := carry(t, yaml, "--state", dir).ends(t, 0)
		if b.Run != first.Run {
			t.Errorf("run %s, want to go on with %s", b.Run, first.Run)
		}
		f.equal(t, "diskfull", many, b.Timestamp, nil)
	})
	t.Run("disk of the letters full", func(t *testing.T) {
		const corrupt = 150
		dir := tmpfs(t, "64k")
		bad := dump(t, dumpgen.Options{Profile: dumpgen.KB, Docs: 6000, Corrupt: corrupt})
		yaml := spec{name: "lettersfull", source: bad, gateways: f.addrs(), rest: fmt.Sprintf("dead_letters: {max: unlimited, to: %s}", dir)}.file(t)
		first := carry(t, yaml).ends(t, 6, "no space left on device", "make room", dir)
		remount(t, dir, 0, "size=8m")
		b := carry(t, yaml).ends(t, 3)
		if b.Run != first.Run || b.Dead != corrupt {
			t.Errorf("with room: %+v after %+v, want %d dead", b, first, corrupt)
		}
		if list := drover(t, "dead", "list", yaml, "--json").must(t, 0); lines(list.stdout) != corrupt {
			t.Errorf("%d letters, want %d", lines(list.stdout), corrupt)
		}
		f.equal(t, "lettersfull", bad, b.Timestamp, broken)
	})
	t.Run("a second run", func(t *testing.T) {
		yaml := spec{name: "second", source: file, gateways: f.addrs(), rest: rate}.file(t)
		f.take()
		p := start(t, "run", yaml, "--json")
		var second, status *result
		first := whileRunning(p, 20*time.Millisecond, func() {
			if second == nil && f.applied() > 0 {
				r := carry(t, yaml)
				s := drover(t, "status", yaml, "--json")
				second, status = &r, &s
			}
		}).ends(t, 0)
		if second == nil {
			t.Fatal("the first run was too short")
		}
		b := second.ends(t, 5, fmt.Sprintf("process %d", p.cmd.Process.Pid))
		if b.Run != first.Run {
			t.Errorf("it names run %q, want %q", b.Run, first.Run)
		}
		if status.must(t, 0); status.json.State != "running" {
			t.Errorf("status says %q", status.json.State)
		}
		f.equal(t, "second", file, first.Timestamp, nil)
	})
	t.Run("a second run on an embedded gateway", func(t *testing.T) {
		store := filepath.Join(t.TempDir(), "hbase")
		s := spec{name: "embedded", source: file, embedded: store, rest: "limits: {rows: 2500}"}
		p := start(t, "run", s.file(t), "--json")
		var second, other *result
		first := whileRunning(p, 20*time.Millisecond, func() {
			if second == nil && settled(t, "embedded") > 0 {
				r := carry(t, s.file(t))
				second = &r
				s := s
				s.name = "neighbour"
				n := carry(t, s.file(t))
				other = &n
			}
		}).ends(t, 0)
		if second == nil {
			t.Fatal("the first run was too short")
		}
		second.ends(t, 5, fmt.Sprintf("process %d", p.cmd.Process.Pid))
		other.ends(t, 1, store, "in use by another gateway")
		if b := carry(t, s.file(t)).ends(t, 0); !b.Again || b.Run != first.Run {
			t.Errorf("run again it says %+v", b)
		}
		g, err := gateway.Open(gateway.Options{Dir: store})
		must(t, err)
		defer g.Close()
		(&fleet{servers: []*gateway.Server{g}}).equal(t, "embedded", file, first.Timestamp, nil)
	})
	// records is a run that was stopped twice, so that its checkpoints have two generations.
	records := func(t *testing.T, name string) (yaml, dir string) {
		s := spec{name: name, source: file, gateways: f.addrs(), rest: rate}
		b := f.stop(t, s.file(t), 1000)
		f.stop(t, s.file(t), 1000)
		return s.quick(t), filepath.Join(stateHome(t), "drover", name, "runs", b.Run)
	}
	t.Run("newer format", func(t *testing.T) {
		yaml, dir := records(t, "newer")
		for _, path := range []string{
			filepath.Join(dir, "..", "..", "job"), filepath.Join(dir, "plan"), filepath.Join(dir, "checkpoint"), filepath.Join(dir, "result"),
		} {
			was, err := os.ReadFile(path)
			must(t, err)
			newer := withFormat(t, was, "2")
			must(t, os.WriteFile(path, newer, 0o644))
			carry(t, yaml).ends(t, 1, filepath.Base(path)+" has format 2", "knows formats up to 1", "use the version that wrote it")
			drover(t, "status", yaml).must(t, 1)
			if is, err := os.ReadFile(path); err != nil || !bytes.Equal(is, newer) {
				t.Errorf("%s was replaced (%v)", path, err)
			}
			// With the same header and its own format it is sound: what was refused was the format.
			must(t, os.WriteFile(path, withFormat(t, newer, "1"), 0o644))
		}
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "newer", file, b.Timestamp, nil)
	})
	t.Run("newest generation damaged", func(t *testing.T) {
		yaml, dir := records(t, "damaged")
		flip(t, filepath.Join(dir, "checkpoint"))
		var prev struct {
			Shards []struct {
				Tables map[string]books `json:"tables"`
			} `json:"shards"`
		}
		if !readRecord(t, filepath.Join(dir, "checkpoint.prev"), &prev) {
			t.Fatal("there is no generation before")
		}
		left := 10_000
		for _, s := range prev.Shards {
			left -= int(s.Tables["damaged"].Read)
		}
		f.take()
		r := carry(t, yaml)
		b := r.ends(t, 0)
		if !strings.Contains(r.stderr, "checkpoint is damaged") || !strings.Contains(r.stderr, "going on from the generation before") {
			t.Errorf("no warning: %s", r.stderr)
		}
		if n := f.applied(); n != left || left == 10_000 {
			t.Errorf("%d rows were put, want the %d beyond the generation before", n, left)
		}
		f.equal(t, "damaged", file, b.Timestamp, nil)
	})
	t.Run("both generations damaged", func(t *testing.T) {
		yaml, dir := records(t, "ruined")
		saved := map[string][]byte{}
		for _, name := range []string{"checkpoint", "checkpoint.prev"} {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			must(t, err)
			saved[path] = data
			flip(t, path)
		}
		carry(t, yaml).ends(t, 1, "checkpoint is damaged", "so is checkpoint.prev", "from a backup")
		for path, data := range saved {
			must(t, os.WriteFile(path, data, 0o644))
		}
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "ruined", file, b.Timestamp, nil)
	})
	t.Run("plan damaged", func(t *testing.T) {
		yaml := spec{name: "noplan", source: file, gateways: f.addrs()}.file(t)
		crash(t, "acked:2", yaml)
		s, ok := readState(t, stateHome(t), "noplan")
		if !ok {
			t.Fatal("no plan")
		}
		plan := filepath.Join(s.dir, "plan")
		flip(t, plan)
		carry(t, yaml).ends(t, 1, plan+" is damaged", "from a backup")
		flip(t, plan)
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "noplan", file, b.Timestamp, nil)
	})
}

func TestMappingChangedOnResume(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10_000})
	const one = "{table: remapped, create: true, families: {d: {versions: 1}}}"
	s := spec{name: "remapped", source: file, target: one, gateways: f.addrs()}
	yaml := s.file(t)
	crash(t, "acked:3", yaml)
	s.mapping = "{key: _id, family: d, encoding: json}"
	f.take()
	carry(t, s.file(t)).ends(t, 1, `map.encoding was "bytes", is "json"`, "--fresh")
	carry(t, s.file(t), "--fresh").ends(t, 1, "table remapped is not empty")
	// A refused new run leaves the old one as it is, with a limit that may differ.
	s.mapping, s.rest = "", "limits: {rows: 100000}"
	old := carry(t, s.file(t)).ends(t, 0)
	f.equal(t, "remapped", file, old.Timestamp, nil)
	s.mapping, s.target = "{key: _id, family: d, encoding: json}", strings.Replace(one, "create", "existing: merge, create", 1)
	b := carry(t, s.file(t)).ends(t, 0) // done: another mapping is a new run
	if b.Run == old.Run || b.Timestamp <= old.Timestamp {
		t.Errorf("run %s at %d after %s at %d, want a new and later one", b.Run, b.Timestamp, old.Run, old.Timestamp)
	}
	f.alike(t, "remapped", check.Source{Path: file}, check.Mapping{Encoding: "json", Timestamp: b.Timestamp})
	// The same, asked for in words while a run is under way.
	s.mapping, s.rest = "{key: _id, family: d, encoding: bson}", "limits: {rows: 5000}"
	f.stop(t, s.file(t), 500)
	s.mapping, s.rest = "", ""
	carry(t, s.file(t)).ends(t, 1, `map.encoding was "bson", is "bytes"`)
	b = carry(t, s.file(t), "--fresh").ends(t, 0)
	f.alike(t, "remapped", check.Source{Path: file}, check.Mapping{Timestamp: b.Timestamp})
}

func TestSignals(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 15_000})
	for sig, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		t.Run(sig.String(), func(t *testing.T) {
			name := "signal" + strconv.Itoa(code)
			s := spec{name: name, source: file, gateways: f.addrs(), rest: "limits: {rows: 5000}"}
			f.take()
			p := start(t, "run", s.file(t), "--json")
			sent := false
			first := whileRunning(p, 20*time.Millisecond, func() {
				if !sent && f.applied() > 1000 {
					p.signal(sig)
					sent = true
				}
			}).ends(t, code, "run the same command again to go on")
			// All that was acknowledged is settled and saved, so nothing of it is put again.
			before := f.take()
			if int(first.Written) != len(before) {
				t.Errorf("the books say %d written, the gateways saw %d rows", first.Written, len(before))
			}
			b := carry(t, s.quick(t)).ends(t, 0)
			if b.Run != first.Run || b.Resumed != 1 {
				t.Errorf("it did not go on: %+v", b)
			}
			if again := f.take(); len(again)+len(before) != 15_000 {
				t.Errorf("%d rows and then %d, want 15000 together", len(before), len(again))
			}
			f.equal(t, name, file, b.Timestamp, nil)
		})
	}
	t.Run("a second signal", func(t *testing.T) {
		s := spec{name: "twice", source: file, gateways: f.addrs(), rest: "limits: {rows: 5000}"}
		f.take()
		p := start(t, "run", s.file(t), "--json")
		ticks := 0
		var second time.Time
		hung := f.counts().Hung
		r := whileRunning(p, 50*time.Millisecond, func() {
			if f.applied() > 1000 {
				f.each(func(x *gateway.Faults) { x.Hang(true) })
			}
			if f.counts().Hung == hung {
				return
			}
			switch ticks++; ticks {
			case 1:
				p.signal(syscall.SIGINT)
			case 10:
				second = time.Now()
				p.signal(syscall.SIGINT)
			}
		})
		took := time.Since(second)
		r.ends(t, 130, "run the same command again to go on")
		if second.IsZero() || took > 15*time.Second {
			t.Errorf("second signal at %v, end %v later, want at once and not after the 30 s that a first one may take", second, took)
		}
		f.each(func(x *gateway.Faults) { x.Hang(false) })
		b := carry(t, s.quick(t)).ends(t, 0)
		f.equal(t, "twice", file, b.Timestamp, nil)
	})
}

func TestLimitDryRunAndAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	file := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 10_000})
	t.Run("dry run and plan write nothing", func(t *testing.T) {
		corrupt := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 5000, Corrupt: 3})
		yaml := spec{name: "dry", source: corrupt, gateways: f.addrs()}.file(t)
		f.take()
		r := carry(t, yaml, "--dry-run")
		b := r.ends(t, 3)
		if b.State != "partial" || b.Read != 5000 || b.Dead != 3 || !strings.Contains(r.stdout, `"dry_run":true`) {
			t.Errorf("the dry run gave %s", r.stdout)
		}
		plan := drover(t, "plan", yaml).must(t, 0)
		for _, s := range []string{"shard 0", "table dry", "to create  with 4 regions", "objectId", "cells", "would die"} {
			if !strings.Contains(plan.stdout, s) {
				t.Errorf("the plan does not show %q:\n%s", s, plan.stdout)
			}
		}
		drover(t, "status", yaml).must(t, 1)
		drover(t, "dead", "list", yaml).must(t, 1)
		if left, err := os.ReadDir(stateHome(t)); err != nil || len(left) != 0 {
			t.Errorf("the state folder has %v (%v)", left, err)
		}
		if n := f.applied(); n != 0 {
			t.Errorf("%d rows were put", n)
		}
		f.call(t, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			exists, err := c.TableExists(ctx, &thrift2.TTableName{Qualifier: []byte("dry")})
			if exists {
				t.Error("the table was created")
			}
			return err
		})
		// A dry run asks nobody, a plan says who did not answer.
		nobody := spec{name: "nobody", source: corrupt, gateways: `["127.0.0.1:1"]`}.file(t)
		carry(t, nobody, "--dry-run").ends(t, 3)
		if r := drover(t, "plan", nobody).must(t, 1); !strings.Contains(r.stdout, "HBase was not reached") {
			t.Errorf("the plan does not say that HBase was not reached: %s", r.stdout)
		}
	})
	t.Run("limit", func(t *testing.T) {
		s := spec{
			name: "limited", source: file, target: "{table: limited, create: true, existing: merge, families: {d: {versions: 1}}}", gateways: f.addrs(),
			rest: "limits: {rows: 5000}",
		}
		own := f.stop(t, s.file(t), 1000)
		yaml := s.quick(t)
		part := carry(t, yaml, "--limit", "250").ends(t, 0)
		if part.State != "partial" || part.Read != 250 || part.Written != 250 || part.Run == own.Run || part.Timestamp <= own.Timestamp {
			t.Errorf("the limited run gave %+v beside %+v", part, own)
		}
		b := carry(t, yaml).ends(t, 0)
		if b.Run != own.Run || b.State != "done" || b.Read != 10_000 {
			t.Errorf("the job's own run gave %+v, want %s done", b, own.Run)
		}
		again := carry(t, yaml, "--limit", "20000").ends(t, 0)
		if again.State != "partial" || again.Read != 10_000 || again.Run == own.Run {
			t.Errorf("a limit beyond the end gave %+v", again)
		}
		if last := carry(t, yaml).ends(t, 0); !last.Again || last.Run != own.Run {
			t.Errorf("afterwards the job says %+v, want run %s again", last, own.Run)
		}
		f.alike(t, "limited", check.Source{Path: file}, check.Mapping{Timestamp: again.Timestamp})
	})
	t.Run("again and fresh", func(t *testing.T) {
		s := spec{name: "again", source: file, target: "{table: again, create: true, families: {d: {versions: 1}}}", gateways: f.addrs()}
		first := carry(t, s.file(t)).ends(t, 0)
		f.take()
		again := carry(t, s.file(t)).ends(t, 0)
		if n := f.applied(); n != 0 || !again.Again {
			t.Errorf("a done run put %d rows, again is %v", n, again.Again)
		}
		again.Again, again.Seconds, again.PeakRSSBytes = false, first.Seconds, first.PeakRSSBytes
		if again != first {
			t.Errorf("the books were\n%+v, are\n%+v", first, again)
		}
		carry(t, s.file(t), "--fresh").ends(t, 1, "is not empty")
		if b := carry(t, s.file(t)).ends(t, 0); b.Run != first.Run || !b.Again {
			t.Errorf("after a refused new run the job says %+v", b)
		}
		s.target = "{table: again, existing: merge}"
		b := carry(t, s.file(t), "--fresh").ends(t, 0)
		if b.Run == first.Run || b.Again || b.Timestamp <= first.Timestamp || b.Written != 10_000 {
			t.Errorf("the fresh run gave %+v after %+v", b, first)
		}
		f.alike(t, "again", check.Source{Path: file}, check.Mapping{Timestamp: b.Timestamp})
	})
}

// Two jobs on one table share the lower limit for as long as both run, each with a state folder of its own.
func TestTwoJobsOneTable(t *testing.T) {
	t.Parallel()
	const low = 4000
	f := newFleet(t, 2)
	files := []string{
		dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 16_000, Seed: 1}),
		dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 20_000, Seed: 2}),
	}
	second := map[string]bool{}
	for _, d := range documents(t, files[1]) {
		second[d.key] = true
	}
	f.create(t, "both", "d")
	s := func(i int, limit string) string {
		return spec{
			name: "both" + strconv.Itoa(i), source: files[i], target: "{table: both, existing: merge}", gateways: f.addrs(), rest: "limits: {rows: " + limit + "}",
		}.file(t)
	}
	slow, fast := s(0, strconv.Itoa(low)), s(1, "1000000")
	var other *process
	var from time.Time
	var had int
	first := whileRunning(start(t, "run", slow, "--json"), 10*time.Millisecond, func() {
		if other == nil && f.applied() > 0 {
			from, had = time.Now(), f.applied()
			other = start(t, "run", fast, "--json", "--state", t.TempDir())
		}
	})
	if other == nil {
		t.Fatal("the first job put no row")
	}
	seen, took := f.applied()-had, time.Since(from)
	ofSecond := 0
	for key := range f.take() {
		if second[key] {
			ofSecond++
		}
	}
	first.ends(t, 0)
	after := other.wait().ends(t, 0)
	if ofSecond == 0 {
		t.Errorf("the second job put nothing beside the first")
	}
	if most := low*took.Seconds()*1.1 + 2*low/10; float64(seen) > most {
		t.Errorf("%d rows in %v, want at most %.0f", seen, took, most)
	}
	if after.LimitedSeconds == 0 {
		t.Error("the second job says that no limit held it")
	}
	t.Logf("%d rows in %.2f s of both, %d of them the second's: %.0f rows/s under a limit of %d", seen, took.Seconds(), ofSecond, float64(seen)/took.Seconds(), low)
	v, err := check.CountVersions(context.Background(), f.table("both"))
	must(t, err)
	if v.Rows != 36_000 || v.Cells != v.Columns {
		t.Errorf("%+v, want 36000 rows", v)
	}
}

// A dump of several collections goes to a table each, in every shape that mongodump gives it.
func TestCollections(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	parts := []dumpgen.Collection{
		{Database: "shop", Name: "a", Options: dumpgen.Options{Profile: dumpgen.Every, Docs: 400, Seed: 1}},
		{Database: "shop", Name: "b", Options: dumpgen.Options{Profile: dumpgen.Flat5, Docs: 3000, Seed: 2}},
		{Database: "other", Name: "a", Options: dumpgen.Options{Profile: dumpgen.KB, Docs: 900, Seed: 3}},
	}
	dir := t.TempDir()
	folder := filepath.Join(dir, "dump")
	paths := map[string]string{}
	for i, c := range parts {
		must(t, os.MkdirAll(filepath.Join(folder, c.Database), 0o755))
		path := filepath.Join(folder, c.Database, c.Name+[]string{".bson", ".bson.gz", ".bson.gz"}[i])
		_, err := dumpgen.File(context.Background(), path, c.Options)
		must(t, err)
		paths[c.Database+"."+c.Name] = path
	}
	var archive bytes.Buffer
	_, err := dumpgen.Archive(context.Background(), &archive, parts, 50_000)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "dump.archive"), archive.Bytes(), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "dump.archive.gz"), zipped(t, archive.Bytes()), 0o644))
	for _, c := range []struct{ name, path string }{
		{"folder", folder}, {"archive", filepath.Join(dir, "dump.archive")}, {"archivegz", filepath.Join(dir, "dump.archive.gz")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spec{
				name: c.name, source: c.path, gateways: f.addrs(),
				target: fmt.Sprintf(`{table: "%s_{database}_{collection}", create: true, regions: 3, families: {d: {versions: 5}}}`, c.name),
			}
			crash(t, "acked:3", s.file(t))
			r := carry(t, s.file(t))
			b := r.ends(t, 0)
			var sums struct {
				Tables []struct {
					Table, Collection string
					Written           int64
				} `json:"tables"`
			}
			must(t, json.Unmarshal([]byte(r.stdout), &sums))
			if len(sums.Tables) != len(parts) {
				t.Fatalf("the JSON lists %+v", sums.Tables)
			}
			for _, p := range parts {
				table := c.name + "_" + p.Database + "_" + p.Name
				i := slices.IndexFunc(sums.Tables, func(x struct {
					Table, Collection string
					Written           int64
				},
				) bool {
					return x.Table == table
				})
				if i < 0 || sums.Tables[i].Written != p.Options.Docs {
					t.Errorf("the JSON's tables do not have %s with %d documents: %+v", table, p.Options.Docs, sums.Tables)
				}
				source := check.Source{Path: c.path, Collection: p.Database + "." + p.Name}
				if c.path == folder {
					source = check.Source{Path: paths[source.Collection]}
				}
				f.alike(t, table, source, check.Mapping{Timestamp: b.Timestamp})
			}
			if b.Written != 4300 || b.Read != 4300 {
				t.Errorf("the sums are %+v, want 4300 documents", b)
			}
		})
	}
	t.Run("one gzipped file", func(t *testing.T) {
		file := paths["shop.b"]
		yaml := spec{name: "gz", source: file, gateways: f.addrs()}.file(t)
		crash(t, "acked:2", yaml)
		b := carry(t, yaml).ends(t, 0)
		f.equal(t, "gz", file, b.Timestamp, nil)
	})
	t.Run("one table for all", func(t *testing.T) {
		carry(t, spec{name: "noname", source: folder, gateways: f.addrs()}.file(t)).ends(t, 1, "{collection}")
	})
	t.Run("gzip cut off", func(t *testing.T) {
		whole, err := os.ReadFile(paths["shop.b"])
		must(t, err)
		file := filepath.Join(t.TempDir(), "c.bson.gz")
		must(t, os.WriteFile(file, whole[:len(whole)/2], 0o644))
		b := carry(t, spec{name: "gzcut", source: file, gateways: f.addrs()}.file(t)).ends(t, 1, file, "offset")
		if b.Read == 0 || b.Read >= 3000 {
			t.Errorf("%d documents before the cut", b.Read)
		}
	})
}

// What is wrong with a command line or a job file is told without looking outside: exit 64, nothing on stdout, no state.
func TestUsage(t *testing.T) {
	t.Parallel()
	sound := spec{name: "usage", source: "nowhere.bson", gateways: `["127.0.0.1:1"]`}.file(t)
	gen := filepath.Join(t.TempDir(), "there.bson")
	must(t, os.WriteFile(gen, []byte("precious"), 0o644))
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"rnu"}, `unknown command "rnu"`},
		{[]string{"--nosuch"}, "unknown flag: --nosuch"},
		{[]string{"run"}, "accepts 1 arg(s), received 0"},
		{[]string{"run", sound, sound}, "accepts 1 arg(s), received 2"},
		{[]string{"run", sound, "--nosuch"}, "unknown flag: --nosuch"},
		{[]string{"run", sound, "--limit", "many"}, `invalid argument "many"`},
		{[]string{"run", sound, "--limit", "-1"}, "want a number of documents from 1"},
		{[]string{"run", "nosuch.yaml", "--json"}, "no such file"},
		{[]string{"DROVER_CRASH=nosuch:1", "run", sound}, "nosuch"},
		{[]string{"plan"}, "accepts 1 arg(s)"},
		{[]string{"plan", sound, "--rows", "x"}, `invalid argument "x"`},
		{[]string{"status"}, "accepts between 1 and 2 arg(s)"},
		{[]string{"status", "nosuch.yaml"}, "no such file"},
		{[]string{"status", sound, "run1"}, "only where a pool is"},
		{[]string{"worker"}, "no pool is named"},
		{[]string{"worker", "--zookeeper", "zk1"}, "--zookeeper"},
		{[]string{"worker", "--zookeeper", "zk1:2181", "--label", "east"}, "want KEY=VALUE"},
		{[]string{"submit", sound}, "no pool is named"},
		{[]string{"DROVER_ZOOKEEPER=zk1", "run", sound}, "DROVER_ZOOKEEPER"},
		{[]string{"run", sound, "--state", "zookeeper"}, "no pool is named"},
		{[]string{"run", sound, "--state", "zookeeper", "--zookeeper", "zk1:2181", "--limit", "5"}, "--limit"},
		{[]string{"pause", "--zookeeper", "zk1:2181"}, "or --table TABLE"},
		{[]string{"pause", "slow", "--table", "t", "--zookeeper", "zk1:2181"}, "or --table TABLE"},
		{[]string{"throttle", "t", "--zookeeper", "zk1:2181"}, "want limits"},
		{[]string{"throttle", "t", "--rows", "0", "--zookeeper", "zk1:2181"}, "drover pause --table"},
		{[]string{"throttle", "t", "--bytes", "8M", "--zookeeper", "zk1:2181"}, "did you mean 8MiB"},
		{[]string{"cancel"}, "want cancel JOB [RUN]"},
		{[]string{"dead", "lits", sound}, `unknown command "lits"`},
		{[]string{"dead", "list"}, "accepts 1 arg(s)"},
		{[]string{"dead", "show", sound}, "accepts 3 arg(s)"},
		{[]string{"dead", "show", sound, "one", "5"}, `shard "one": want a number`},
		{[]string{"dead", "replay"}, "accepts 1 arg(s)"},
		{[]string{"dead", "replay", sound, "--run", "r1"}, "name the pool too"},
		{[]string{"dead", "replay", sound, "--run", "r1", "--state", "x", "--zookeeper", "zk1:2181"}, "leave out --state"},
		{[]string{"gateway", "extra"}, `unknown command "extra"`},
		{[]string{"gateway", "--listen"}, "flag needs an argument"},
		{[]string{"gen"}, "accepts 1 arg(s)"},
		{[]string{"gen", "--force", "--profile=nosuch", gen}, `profile "nosuch"`},
		{[]string{"gen", "--force", "--docs=-1", gen}, "docs is -1"},
		{[]string{"version", "extra"}, `unknown command "extra"`},
	} {
		t.Run(strings.Join(c.args[:min(len(c.args), 2)], " "), func(t *testing.T) {
			r := drover(t, c.args...).must(t, 64)
			if !strings.Contains(r.stderr, c.says) {
				t.Errorf("%q does not say %q: %s", c.args, c.says, r.stderr)
			}
			if r.stdout != "" {
				t.Errorf("%q printed %s", c.args, r.stdout)
			}
		})
	}
	if data, err := os.ReadFile(gen); err != nil || string(data) != "precious" {
		t.Errorf("a wrong command line cost a file: %q, %v", data, err)
	}
	for _, c := range []struct{ text, says string }{
		{"name: x\nsource: {mongodmp: a}\n", ":2:10: source.mongodmp: unknown key; did you mean \"mongodump\"?"},
		{"name: x\ntarget:\n  table: t\n  regions: 0\n", ":4:12: target.regions: want a whole number from 1"},
		{"name: [\n", ":1:7: "},
		{"name: x y\n", ":1:7: name: \"x y\" has a blank"},
	} {
		yaml := jobFile(t, c.text)
		for _, command := range [][]string{{"run", yaml, "--json"}, {"run", yaml, "--dry-run"}, {"plan", yaml}, {"status", yaml}, {"dead", "list", yaml}} {
			r := drover(t, command...).must(t, 64)
			if !strings.Contains(r.stderr, yaml+c.says) || r.stdout != "" {
				t.Errorf("%s of %q: want %q\nstdout: %s\nstderr: %s", command[0], c.text, c.says, r.stdout, r.stderr)
			}
		}
	}
	// What takes a look outside is not usage: the certificate that is not there.
	tls := spec{name: "tls", source: "nowhere.bson", gateways: `["127.0.0.1:1"], tls: {ca: nosuch.pem}`}.file(t)
	carry(t, tls).ends(t, 1, "nosuch.pem")
	if left, err := os.ReadDir(stateHome(t)); err != nil || len(left) != 0 {
		t.Errorf("the state folder has %v (%v)", left, err)
	}
	drover(t, "completion", "bash").must(t, 0)
	drover(t, "version").must(t, 0)
	drover(t, "help").must(t, 0)
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	must(t, errors.Join(err, z.Close()))
	return out.Bytes()
}
