package jobfile

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"drover/hbase"
	"drover/jobs"
	"drover/jobs/hbasetable"
	"drover/jobs/mongodump"
	"drover/mapping"
)

// sections lists the keys of the format, by the path of the mapping they stand in.
var sections = map[string][]string{
	"": {
		"name", "source", "shards", "target", "map", "limits", "gateways", "dead_letters", "zookeeper", "state", "priority", "weight", "schedule", "needs",
	},
	"source":          {"mongodump", "hbase"},
	"target":          {"table", "existing", "create", "regions", "families", "durability"},
	"target.families": {"versions", "compression", "bloom", "ttl", "encoding"},
	"map":             {"key", "key_encoding", "family", "encoding", "timestamp", "document", "columns", "filter", "empty"},
	"map.columns":     {"from", "to", "encoding"},
	"limits":          {"rows", "bytes", "ramp", "ramp_every", "daily", "zone"},
	"gateways": {
		"static", "file", "dns", "zookeeper", "embedded", "native", "zone", "zones", "framed", "compact", "http", "tls", "max_frame", "connections", "subset", "outage_limit",
	},
	"gateways.tls":           tlsKeys,
	"gateways.zookeeper":     {"servers", "path", "address", "session_timeout", "auth", "tls"},
	"gateways.zookeeper.tls": tlsKeys,
	"dead_letters":           {"max", "to", "shared"},
	"zookeeper":              {"servers", "path", "session_timeout", "auth", "tls"},
	"zookeeper.tls":          tlsKeys,
	"schedule":               {"cron", "zone", "overlap", "misfire", "catch_up", "blackout", "deadline"},
	"source.hbase": {
		"table", "via", "zookeeper", "start", "stop", "prefix", "from", "to", "columns", "versions", "filter", "raw", "gateways", "limits",
	},
	"source.hbase.gateways":     {"static", "framed", "compact", "http", "tls", "max_frame", "connections", "outage_limit"},
	"source.hbase.gateways.tls": tlsKeys,
	"source.hbase.limits":       {"rows", "bytes"},
	rowSection:                  {"key", "families", "columns", "drop", "filter"},
}

var tlsKeys = []string{"ca", "cert", "key", "insecure_skip_verify", "server_name"}

// sourcesOfGateways are the keys of which a job has one.
var sourcesOfGateways = []string{"static", "file", "dns", "zookeeper", "embedded", "native"}

// refusedWith are the keys that have no meaning with a source of gateways.
var refusedWith = map[string]struct {
	what string
	keys []string
}{
	"embedded": {"an embedded gateway", []string{"framed", "compact", "http", "tls", "max_frame", "zone", "zones"}},
	"native":   {"drover's own native gateway", []string{"framed", "compact", "http", "tls", "max_frame", "zone", "zones", "subset"}},
}

const (
	maxRegions     = 100_000
	maxShards      = 100_000 // of each collection; a checkpoint and the pool's nodes hold all of them
	maxConnections = 256
	maxGateways    = 1000
	defaultOutage  = 30 * time.Minute // long enough for a cluster's restart, short enough for a night's job to report by morning
	defaultFrame   = 2 << 20          // HBase's own
	minFrame       = 64 << 10         // below that the header and one modest row do not fit
	maxFrame       = math.MaxInt32    // a frame's length is a Java int
	minSession     = time.Second      // below that a pause of the collector ends it
	maxSession     = 5 * time.Minute
	minRampEvery   = time.Second // below that no answer says how a step is taken
	maxRampEvery   = 24 * time.Hour
)

// frameRoom is what a frame needs beside one row, in bytes: the call's header, the table's name (HBase's folder names keep
// it under 512) and the fields around the row.
const frameRoom = 4 << 10

// decoder fills a File from the tree, section by section.
type decoder struct {
	walker
	folder string
	file   File
	rows   bool // the source is a table
}

func (d *decoder) root(v value) {
	o, ok := d.object(v, "")
	if !ok {
		return
	}
	job := &d.file.job
	if f, ok := d.require(o, "name", "the job's name, which its runs and state are filed under"); ok {
		job.Name = d.name(f)
	}
	if f, ok := d.require(o, "source", "where documents come from: {mongodump: PATH} or {hbase: {table: NAME}}"); ok {
		job.Source = d.source(f)
	}
	if f, ok := o.fields["shards"]; ok {
		n, _ := d.whole(f, 1, maxShards)
		job.Shards = int(n)
	}
	if f, ok := d.require(o, "target", "the table to write to: {table: NAME}"); ok {
		d.target(f)
	}
	job.Gateways.OutageLimit = defaultOutage
	if f, ok := d.require(o, "gateways", `how HBase is reached: {static: ["HOST:PORT"]} or {embedded: DIR}`); ok {
		d.gateways(f)
	}
	if f, ok := o.fields["limits"]; ok {
		if o, ok := d.object(f, "limits"); ok {
			d.limits(o, &job.Limits)
			d.daily(o)
			d.ramp(o, &job.Ramp)
		}
	}
	if f, ok := o.fields["dead_letters"]; ok {
		d.deadLetters(f)
	}
	d.pool(o)
	if d.rows {
		d.rowMapping(o)
		if s, ok := job.Source.(*hbasetable.Source); ok {
			d.sameTable(o, s)
			d.ownFilter(s)
		}
	} else if f, ok := d.require(o, "map", "how documents become rows: at least {family: NAME}"); ok {
		d.mapping(f)
	}
}

// require gives a field, and reports its absence at the key of the mapping that lacks it.
func (d *decoder) require(o object, key, what string) (value, bool) {
	f, ok := o.fields[key]
	if !ok && !d.bad[join(o.path, key)] {
		d.add(o.key, join(o.path, key), "is missing; give %s", what)
	}
	return f, ok
}

func (d *decoder) name(v value) string {
	s, ok := d.text(v, "a name")
	if !ok {
		return ""
	}
	if msg := checkName(s); msg != "" {
		d.wrong(v, "%s", msg)
	}
	return s
}

// source reads the one kind that is given.
func (d *decoder) source(v value) jobs.Source {
	o, ok := d.object(v, "source")
	if !ok {
		return nil
	}
	switch kinds := o.order; {
	case len(o.fields) == 0 && !d.badUnder(o.path):
		d.wrong(v, "names no source; give mongodump: PATH or hbase: {table: NAME}")
		return nil
	case len(o.fields) > 1:
		d.wrong(v, "names %d sources, %s; a job has exactly one", len(o.fields), strings.Join(kinds, " and "))
		return nil
	}
	if f, ok := o.fields["mongodump"]; ok {
		if p, ok := d.path(f, "the path of a .bson file, a dump folder or an archive"); ok {
			return mongodump.New(p)
		}
	}
	if f, ok := o.fields["hbase"]; ok {
		d.rows = true
		if s := d.table(f); s != nil {
			return s
		}
	}
	return nil
}

func (d *decoder) target(v value) {
	o, ok := d.object(v, "target")
	if !ok {
		return
	}
	t := &d.file.job.Target
	if f, ok := d.require(o, "table", "the table's name, as NAME or NAMESPACE:NAME"); ok {
		if s, ok := d.text(f, "a table name"); ok {
			if msg := checkTable(s); msg != "" {
				d.wrong(f, "%s", msg)
			}
			t.Table = s
		}
	}
	t.Existing = jobs.Refuse
	if f, ok := o.fields["existing"]; ok {
		if s, ok := d.word(f, []string{string(jobs.Refuse), string(jobs.Merge)}); ok {
			t.Existing = jobs.Existing(s)
		}
	}
	create, known := false, true
	if f, ok := o.fields["create"]; ok {
		create, known = d.yes(f)
		t.Create = create
	}
	t.Regions = 1
	regions, hasRegions := o.fields["regions"]
	if hasRegions {
		if n, ok := d.whole(regions, 1, maxRegions); ok {
			t.Regions = int(n)
		}
	}
	families, hasFamilies := o.fields["families"]
	if hasFamilies {
		t.Families = d.families(families)
	}
	switch {
	case !known:
	case create && !hasFamilies && d.rows: // they are the source's
	case create && !hasFamilies && !d.bad[join(o.path, "families")]:
		d.add(o.fields["create"].key, join(o.path, "families"), "is missing; a table that is created needs its families, such as {d: {}}")
	case !create:
		const advice = "only has a meaning with create: true; add that, or take this out"
		if hasRegions {
			d.add(regions.key, regions.path, advice)
		}
		if hasFamilies {
			d.add(families.key, families.path, advice)
		}
	}
	t.Durability = hbase.SyncWAL
	if f, ok := o.fields["durability"]; ok {
		t.Durability = d.durability(f)
	}
}

func (d *decoder) durability(v value) hbase.Durability {
	s, ok := d.word(v, []string{"sync_wal", "fsync_wal", "async_wal", "skip_wal"})
	if !ok {
		return hbase.SyncWAL
	}
	switch s {
	case "fsync_wal":
		return hbase.FsyncWAL
	case "async_wal":
		d.warn("target.durability is async_wal: rows that a run counts as written are LOST if a region server dies before it writes its log")
		return hbase.AsyncWAL
	case "skip_wal":
		d.warn("target.durability is skip_wal: rows that a run counts as written are LOST if a region server dies before it flushes, which can be hours later")
		return hbase.SkipWAL
	}
	return hbase.SyncWAL
}

func (d *decoder) families(v value) []hbase.Family {
	o, ok := d.entries(v, "a mapping of family names, such as {d: {versions: 1}}")
	if !ok {
		return nil
	}
	if len(o.order) == 0 && !d.badUnder(o.path) {
		d.wrong(v, "names no family; a table has at least one, such as {d: {}}")
		return nil
	}
	out := make([]hbase.Family, 0, len(o.order))
	for _, name := range o.order {
		f := o.fields[name]
		if msg := checkFamily(name); msg != "" {
			d.add(f.key, f.path, "%s", msg)
		}
		out = append(out, d.family(name, f))
	}
	return out
}

func (d *decoder) family(name string, v value) hbase.Family {
	out := hbase.Family{Name: name, Versions: 1, Compression: "none", Bloom: "row", Encoding: "none"}
	if _, bare := v.node.(*ast.NullNode); bare { // `d:` alone is a family with every default
		return out
	}
	o, ok := d.object(v, "target.families")
	if !ok {
		return out
	}
	if f, ok := o.fields["versions"]; ok {
		if n, ok := d.whole(f, 1, math.MaxInt32); ok {
			out.Versions = int(n)
		}
	}
	if f, ok := o.fields["compression"]; ok {
		out.Compression, _ = d.word(f, []string{"none", "gz", "snappy", "lz4", "zstd", "lzo", "bzip2"})
	}
	if f, ok := o.fields["bloom"]; ok {
		out.Bloom, _ = d.word(f, []string{"none", "row", "rowcol"})
	}
	if f, ok := o.fields["encoding"]; ok {
		out.Encoding, _ = d.word(f, []string{"none", "prefix", "diff", "fast_diff", "row_index_v1"})
	}
	if f, ok := o.fields["ttl"]; ok {
		ttl, ok := d.duration(f)
		if ok && (ttl%time.Second != 0 || ttl/time.Second >= math.MaxInt32) {
			d.wrong(f, "want whole seconds, fewer than %d of them, or 0 for ever", math.MaxInt32)
		}
		out.TTL = ttl
	}
	return out
}

func (d *decoder) mapping(v value) {
	o, ok := d.object(v, "map")
	if !ok {
		return
	}
	s := mapping.Spec{MaxRow: d.file.maxRow()}
	for _, x := range []struct {
		key, want string
		to        *string
	}{
		{"key", "a field path or an expression", &s.Key},
		{"family", "a column family", &s.Family},
		{"document", "a column, as family:qualifier", &s.Document},
		{"filter", "an expression", &s.Filter},
	} {
		if f, ok := o.fields[x.key]; ok {
			*x.to, _ = d.text(f, x.want)
		}
	}
	if f, ok := o.fields["key_encoding"]; ok {
		s.KeyEncoding = d.encoding(f)
	}
	if f, ok := o.fields["encoding"]; ok {
		s.Encoding = d.encoding(f)
	}
	if f, ok := o.fields["empty"]; ok {
		s.Empty, _ = d.word(f, []string{"dead", "skip"})
	}
	if f, ok := o.fields["timestamp"]; ok {
		if _, number := f.node.(*ast.IntegerNode); number {
			n, _ := d.whole(f, 0, hbase.MaxTimestamp)
			s.Timestamp = fmt.Sprint(n)
		} else {
			s.Timestamp, _ = d.text(f, "plan, a field path, or milliseconds since 1970")
		}
	}
	if f, ok := o.fields["columns"]; ok {
		s.Columns = d.columns(f)
	}
	d.written(s)
	if s.Family == "" && (d.bad["map.family"] || d.bad["map.columns"] || d.bad["map.document"]) {
		s.Family = "d" // stands in, so that its lack is not reported as a second fault
	}

	compiled, err := mapping.Compile(s)
	var faults mapping.Faults
	switch {
	case errors.As(err, &faults):
		for _, f := range faults {
			d.explain(o, f)
		}
	case err != nil:
		d.add(o.key, o.path, "%v", err)
	default:
		d.file.job.Mapping = compiled
	}
}

// maxRow is the size of the largest row that the gateways take in one call, in bytes; 0 is any.
func (f *File) maxRow() int {
	if t := f.job.Gateways.Transport; t.Framed {
		return cmp.Or(t.MaxFrame, defaultFrame) - frameRoom
	}
	return 0
}

// explain reports a fault of the mapping at the value it is about, or at the nearest mapping around a value that is
// missing. A fault in what was reported already is only its echo.
func (d *decoder) explain(o object, f mapping.Fault) {
	path := join(o.path, f.Field)
	for p := path; p != ""; p = parent(p) {
		if d.bad[p] && p != o.path {
			return
		}
	}
	if d.badUnder(path) {
		return
	}
	at := o.key
	for p := path; p != "" && p != o.path; p = parent(p) {
		if place, ok := d.at[p]; ok {
			at = place
			break
		}
	}
	d.add(at, path, "%s", f.Msg)
}

// parent takes the last step off a path.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// badUnder tells whether something inside the value at path was reported.
func (d *decoder) badUnder(path string) bool {
	for p := range d.bad {
		if strings.HasPrefix(p, path+".") || strings.HasPrefix(p, path+"[") {
			return true
		}
	}
	return false
}

func (d *decoder) columns(v value) []mapping.Column {
	items, ok := d.list(v, `a list of columns, such as [{from: a.b, to: "d:b"}]`)
	if !ok {
		return nil
	}
	if len(items) == 0 {
		d.wrong(v, "is empty; take the key out to write every top-level field")
	}
	out := make([]mapping.Column, len(items)) // one for each item, so that the mapping's faults can be placed
	for i, item := range items {
		o, ok := d.object(item, "map.columns")
		if !ok {
			continue
		}
		if f, ok := d.require(o, "from", "the field to write, such as location.city"); ok {
			out[i].From, _ = d.text(f, "a field path")
		}
		if f, ok := d.require(o, "to", "the column to write to, such as d:city"); ok {
			out[i].To, _ = d.text(f, "a column, as family:qualifier")
		}
		if f, ok := o.fields["encoding"]; ok {
			out[i].Encoding = d.encoding(f)
		}
	}
	return out
}

func (d *decoder) encoding(v value) mapping.Encoding {
	s, _ := d.word(v, []string{string(mapping.Bytes), string(mapping.BSON), string(mapping.JSON)})
	return mapping.Encoding(s)
}

// written reports every column that goes to a family which the table is not created with. Where the table is there
// already, only HBase knows its families.
func (d *decoder) written(s mapping.Spec) {
	target := d.file.job.Target
	if !target.Create || len(target.Families) == 0 || d.badUnder("target.families") {
		return
	}
	known := make([]string, len(target.Families))
	for i, f := range target.Families {
		known[i] = f.Name
	}
	check := func(path, family string) {
		if family == "" || slices.Contains(known, family) || d.bad[path] {
			return
		}
		advice := "add it there"
		if near := nearest(family, known); near != "" {
			advice = fmt.Sprintf("did you mean %q?", near)
		}
		d.add(d.at[path], path, "family %q is not among target.families (%s); %s", family, strings.Join(known, ", "), advice)
	}
	used := len(s.Columns) == 0 // then every field is written to map.family
	column := func(path, to string) {
		if family, _, ok := strings.Cut(to, ":"); ok {
			check(path, family)
		} else if to != "" {
			used = true
		}
	}
	column("map.document", s.Document)
	for i, c := range s.Columns {
		column(fmt.Sprintf("map.columns[%d].to", i), c.To)
	}
	if used {
		check("map.family", s.Family)
	}
}

func (d *decoder) limits(o object, l *jobs.Limits) {
	if f, ok := o.fields["rows"]; ok {
		l.Rows, _ = d.whole(f, 1, math.MaxInt64)
	}
	if f, ok := o.fields["bytes"]; ok {
		l.Bytes, _ = d.size(f, 1, math.MaxInt64)
	}
}

func (d *decoder) ramp(o object, r *jobs.Ramp) {
	if f, ok := o.fields["ramp"]; ok {
		items, _ := d.list(f, "a list of percentages, such as [10, 30, 100]")
		for _, item := range items {
			n, ok := d.whole(item, 1, 100)
			switch last := len(r.Steps) - 1; {
			case !ok:
			case last >= 0 && int(n) <= r.Steps[last]:
				d.wrong(item, "%d %% after %d %%: each step of a ramp is higher than the one before", n, r.Steps[last])
			default:
				r.Steps = append(r.Steps, int(n))
			}
		}
		if items != nil && len(items) == 0 {
			d.wrong(f, "has no step; give percentages, such as [10, 30, 100], or leave the key out")
		}
	}
	if f, ok := o.fields["ramp_every"]; ok {
		t, ok := d.duration(f)
		if ok && (t < minRampEvery || t > maxRampEvery) {
			d.wrong(f, "want a time from 1s to 24h")
		}
		r.Every = t
		if o.fields["ramp"].node == nil {
			d.add(f.key, f.path, "has no meaning without limits.ramp")
		}
	}
}

func (d *decoder) gateways(v value) {
	o, ok := d.object(v, "gateways")
	if !ok {
		return
	}
	g := &d.file.job.Gateways
	d.sourceOfGateways(o)
	d.zones(o)
	if f, ok := o.fields["subset"]; ok {
		n, _ := d.whole(f, 1, maxGateways)
		g.Subset = int(n)
	}
	if f, ok := o.fields["connections"]; ok {
		n, _ := d.whole(f, 1, maxConnections)
		g.Connections = int(n)
	}
	if f, ok := o.fields["outage_limit"]; ok {
		if t, ok := d.duration(f); ok {
			g.OutageLimit = t
		}
	}
	d.transport(o)
	if given := d.sourcesGiven(o); len(given) == 1 && (g.Embedded != "" || g.Native != "") {
		no := refusedWith[given[0]]
		for _, key := range no.keys {
			if f, ok := o.fields[key]; ok {
				d.add(f.key, f.path, "has no meaning for %s; take it out", no.what)
			}
		}
	}
}

func (d *decoder) sourcesGiven(o object) []string {
	return slices.DeleteFunc(slices.Clone(o.order), func(key string) bool { return !slices.Contains(sourcesOfGateways, key) })
}

// sourceOfGateways reads who the gateways are.
func (d *decoder) sourceOfGateways(o object) {
	g := &d.file.job.Gateways
	given := d.sourcesGiven(o)
	switch {
	case len(given) > 1:
		slices.SortFunc(given, func(a, b string) int { return slices.Index(sourcesOfGateways, a) - slices.Index(sourcesOfGateways, b) })
		which := strings.Join(given[:len(given)-1], ", ") + " and " + given[len(given)-1]
		all := "both"
		if len(given) > 2 {
			all = "all"
		}
		last := o.fields[given[len(given)-1]]
		d.add(last.key, last.path, "%s are %s given; a job uses one of them", which, all)
	case len(given) == 0 && !slices.ContainsFunc(sourcesOfGateways, func(key string) bool { return d.bad[join(o.path, key)] }):
		d.add(o.key, o.path, `names no gateway; give static: ["HOST:PORT"], file: PATH, dns: "NAME:PORT", zookeeper: {servers: […], path: PATH}, embedded: DIR or native: "ZOOKEEPER:PORT"`)
	}
	for _, key := range given {
		f := o.fields[key]
		switch key {
		case "static":
			g.Static = d.addresses(f, "gw1:9090", "a gateway")
		case "file":
			g.File, _ = d.path(f, "the path of a file that names gateways")
		case "dns":
			g.DNS = d.dns(f)
		case "zookeeper":
			g.ZooKeeper = d.zookeeper(f)
		case "embedded":
			g.Embedded, _ = d.path(f, "the folder of the embedded gateway's data")
		case "native":
			g.Native = d.quorum(f)
		}
	}
}

func (d *decoder) dns(v value) string {
	s, ok := d.quoted(v, `a name with a port, such as "gateways.example.org:9090", or that of SRV records, such as _thrift._tcp.example.org`, "")
	if !ok {
		return ""
	}
	if msg := checkDNS(s); msg != "" {
		d.wrong(v, "%s", msg)
	}
	return s
}

func (d *decoder) zookeeper(v value) *jobs.ZooKeeper {
	o, ok := d.object(v, "gateways.zookeeper")
	if !ok {
		return nil
	}
	z := &jobs.ZooKeeper{}
	d.ensemble(o, &z.Ensemble, &d.file.zookeeperTLS)
	if f, ok := d.require(o, "path", "the node whose children are the gateways, such as /buzzthrift"); ok {
		if z.Path, ok = d.text(f, "the path of a node, such as /buzzthrift"); ok {
			if msg := checkNode(z.Path); msg != "" {
				d.wrong(f, "%s", msg)
			}
		}
	}
	if f, ok := o.fields["address"]; ok {
		d.addressRule(f, z)
	}
	return z
}

// addressRule reads a template, or a mapping of names to addresses.
func (d *decoder) addressRule(v value, z *jobs.ZooKeeper) {
	if s, ok := v.node.(*ast.StringNode); ok {
		z.Address = s.Value
		if msg := checkAddressRule(s.Value); msg != "" {
			d.wrong(v, "%s", msg)
		}
		return
	}
	o, ok := d.entries(v, `a template, such as "{name}.example.org:9090", or a mapping of names to addresses, such as {thrift_11: "10.0.0.11:9090"}`)
	if !ok {
		return
	}
	if len(o.order) == 0 && !d.badUnder(o.path) {
		d.wrong(v, "is empty; take the key out, or give each node's name its address")
	}
	z.Addresses = map[string]string{}
	for _, name := range o.order {
		f := o.fields[name]
		s, ok := d.quoted(f, "an address, HOST:PORT", "")
		if !ok {
			continue
		}
		if msg := checkAddress(s); msg != "" {
			d.wrong(f, "%s", msg)
		}
		z.Addresses[name] = s
	}
}

// zones reads where this process is, and where gateways are.
func (d *decoder) zones(o object) {
	g := &d.file.job.Gateways
	if f, ok := o.fields["zone"]; ok {
		if g.Zone, ok = d.text(f, "a zone, such as dc1 or dc1/rack7"); ok {
			if msg := checkZone(g.Zone); msg != "" {
				d.wrong(f, "%s", msg)
			}
		}
	}
	f, ok := o.fields["zones"]
	if !ok {
		return
	}
	z, ok := d.entries(f, `a mapping of zones to gateways, such as {dc1: ["10.1.0.0/16"], dc2: ["gw2*"]}`)
	if !ok {
		return
	}
	if len(z.order) == 0 && !d.badUnder(z.path) {
		d.wrong(f, `is empty; take the key out, or name zones, such as {dc1: ["10.1.0.0/16"]}`)
	}
	for _, name := range z.order {
		f := z.fields[name]
		if msg := checkZone(name); msg != "" {
			d.add(f.key, f.path, "%s", msg)
		}
		items, ok := d.list(f, `a list of patterns, such as ["10.1.0.0/16", "gw1*"]`)
		if !ok {
			continue
		}
		zone := jobs.Zone{Name: name}
		for _, item := range items {
			s, ok := d.text(item, "a pattern of gateways")
			if !ok {
				continue
			}
			if msg := checkPattern(s); msg != "" {
				d.wrong(item, "%s", msg)
			}
			zone.Gateways = append(zone.Gateways, s)
		}
		g.Zones = append(g.Zones, zone)
	}
}

// addresses reads a list of addresses, each of them once.
func (d *decoder) addresses(v value, example, what string) []string {
	items, ok := d.list(v, fmt.Sprintf(`a list of addresses, such as [%q, %q]`, example, strings.Replace(example, "1", "2", 1)))
	if !ok {
		return nil
	}
	if len(items) == 0 {
		d.wrong(v, `is empty; give at least one address, such as [%q]`, example)
	}
	lines := map[string]int{}
	var out []string
	for _, item := range items {
		s, ok := d.quoted(item, "an address, HOST:PORT", "")
		if !ok {
			continue
		}
		if msg := checkAddress(s); msg != "" {
			_, port, _ := strings.Cut(example, ":")
			d.wrong(item, "%s", strings.ReplaceAll(msg, ":9090", ":"+port))
			continue
		}
		same := strings.ToLower(s)
		if line, twice := lines[same]; twice {
			d.wrong(item, "%s stands twice, first in line %d; %s is named once", quote(s), line, what)
			continue
		}
		lines[same] = d.place(item).line
		out = append(out, s)
	}
	return out
}

// transport reads how gateways are spoken to.
func (d *decoder) transport(o object) {
	t := &d.file.job.Gateways.Transport
	if f, ok := o.fields["framed"]; ok {
		t.Framed, _ = d.yes(f)
	}
	if f, ok := o.fields["compact"]; ok {
		t.Compact, _ = d.yes(f)
	}
	if f, ok := o.fields["http"]; ok {
		switch n := f.node.(type) {
		case *ast.StringNode:
			if msg := checkHTTPPath(n.Value); msg != "" {
				d.wrong(f, "%s", msg)
			}
			t.HTTP, t.Path = true, n.Value
		default:
			if t.HTTP, _ = d.yes(f); t.HTTP {
				t.Path = "/"
			}
		}
	}
	if t.Framed && t.HTTP {
		d.add(o.fields["framed"].key, o.fields["framed"].path, "framed and http are both given; a gateway that speaks HTTP takes no frames: take one out")
	}
	if f, ok := o.fields["max_frame"]; ok {
		if n, ok := d.size(f, minFrame, maxFrame); ok {
			t.MaxFrame = int(n)
		}
		if !t.Framed && !d.bad["gateways.framed"] {
			d.add(f.key, f.path, "only has a meaning with framed: true; add that, or take this out")
		}
	}
	if f, ok := o.fields["tls"]; ok {
		if d.file.tls = d.tls(f, o.path); d.file.tls != nil {
			t.TLS = d.file.tls.base()
		}
	}
}

// tls reads the section tls of one around it.
func (d *decoder) tls(v value, around string) *tlsFiles {
	o, ok := d.object(v, around+".tls")
	if !ok {
		return nil
	}
	files := &tlsFiles{at: v.path}
	for _, x := range []struct {
		key string
		to  *string
	}{{"ca", &files.ca}, {"cert", &files.cert}, {"key", &files.key}} {
		if f, ok := o.fields[x.key]; ok {
			*x.to, _ = d.path(f, "the path of a PEM file")
		}
	}
	cert, hasCert := o.fields["cert"]
	key, hasKey := o.fields["key"]
	if hasCert && !hasKey && !d.bad[join(o.path, "key")] {
		d.add(cert.key, cert.path, "needs its private key beside it, under key")
	}
	if hasKey && !hasCert && !d.bad[join(o.path, "cert")] {
		d.add(key.key, key.path, "needs its certificate beside it, under cert")
	}
	if f, ok := o.fields["server_name"]; ok {
		files.serverName, _ = d.text(f, "the name that the servers' certificates are for")
	}
	if f, ok := o.fields["insecure_skip_verify"]; ok {
		if files.insecure, _ = d.yes(f); files.insecure {
			if _, ok := o.fields["ca"]; ok {
				d.add(f.key, f.path, "with it %s.ca would not be looked at; take one of them out", v.path)
			}
			what := "gateway"
			if around != "gateways" {
				what = "server"
			}
			d.warn(fmt.Sprintf("%s.insecure_skip_verify is set: whoever can answer at a %s's address is believed to be that %s", v.path, what, what))
		}
	}
	return files
}

func (d *decoder) deadLetters(v value) {
	o, ok := d.object(v, "dead_letters")
	if !ok {
		return
	}
	l := &d.file.job.DeadLetters
	if f, ok := o.fields["max"]; ok {
		if n, text := f.node.(*ast.StringNode); text {
			if n.Value == "unlimited" {
				l.Max = jobs.Unlimited
			} else if near := nearest(n.Value, []string{"unlimited"}); near != "" {
				d.wrong(f, "want a whole number of at least 0, or unlimited, got %s; did you mean %q?", quote(n.Value), near)
			} else {
				d.wrong(f, "want a whole number of at least 0, or unlimited, got %s", quote(n.Value))
			}
		} else if i, ok := f.node.(*ast.IntegerNode); ok && i.GetToken().Value == "-1" {
			d.wrong(f, "want a whole number of at least 0, or unlimited, got -1; for any number write unlimited")
		} else {
			l.Max, _ = d.whole(f, 0, math.MaxInt64)
		}
	}
	to, hasTo := o.fields["to"]
	if hasTo {
		d.lettersTo(to)
	}
	if f, ok := o.fields["shared"]; ok {
		l.Shared, _ = d.yes(f)
		switch {
		case !l.Shared || d.bad["dead_letters.to"]:
		case l.Table != "":
			d.add(f.key, f.path, "is about a folder, and a table is everywhere: take it out")
		case !hasTo:
			d.add(f.key, f.path, "needs the folder that all workers see beside it, under to")
		}
	}
}

// defaultLetters is the table of `dead_letters: {to: "hbase:"}`.
const defaultLetters = "drover_dead"

// lettersTo reads a folder, or the name of a table behind "hbase:".
func (d *decoder) lettersTo(v value) {
	const want = `the folder for dead letters, or "hbase:TABLE" for a table`
	l := &d.file.job.DeadLetters
	text, ok := d.text(v, want)
	if !ok {
		return
	}
	table, inHBase := strings.CutPrefix(text, "hbase:")
	if !inHBase {
		l.To, _ = d.path(v, want)
		return
	}
	l.Table = cmp.Or(table, defaultLetters)
	msg := checkTable(l.Table)
	switch target := d.file.job.Target.Table; {
	case strings.ContainsAny(l.Table, "{}"):
		msg = "is the name of one table: it has no placeholders"
	case msg == "" && strings.TrimPrefix(target, "default:") == strings.TrimPrefix(l.Table, "default:"):
		msg = "is the table that the job writes to; letters need one of their own, such as \"hbase:" + defaultLetters + "\""
	}
	if msg != "" {
		d.wrong(v, "%s", msg)
	}
}

func (d *decoder) warn(text string) { d.file.warnings = append(d.file.warnings, text) }

// path reads a path and makes it independent of the working directory.
func (d *decoder) path(v value, want string) (string, bool) {
	s, ok := d.text(v, want)
	if !ok {
		return "", false
	}
	if msg := checkPath(s); msg != "" {
		d.wrong(v, "%s", msg)
		return "", false
	}
	return resolve(d.folder, s), true
}

// size reads a number of bytes.
func (d *decoder) size(v value, low, high int64) (int64, bool) {
	s, ok := d.scalar(v, "a size in bytes, such as 8MiB")
	if !ok {
		return 0, false
	}
	n, msg := parseSize(s)
	if msg == "" && (n < low || n > high) {
		msg = fmt.Sprintf("want a size from %s to %s, got %s", showSize(low), showSize(high), s)
		if high == math.MaxInt64 {
			msg = fmt.Sprintf("want a size of at least %s, got %s", showSize(low), s)
		}
	}
	if msg != "" {
		d.wrong(v, "%s", msg)
		return 0, false
	}
	return n, true
}

// duration reads a length of time.
func (d *decoder) duration(v value) (time.Duration, bool) {
	s, ok := d.scalar(v, "a length of time, such as 30m, or 0")
	if !ok {
		return 0, false
	}
	t, msg := parseDuration(s)
	if msg != "" {
		d.wrong(v, "%s", msg)
		return 0, false
	}
	return t, true
}
