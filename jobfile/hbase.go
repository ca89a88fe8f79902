package jobfile

import (
	"cmp"
	"crypto/tls"
	"errors"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"drover/hbase"
	"drover/jobs"
	"drover/jobs/hbasetable"
	"drover/mapping"
)

// What a job whose source is a table says otherwise than others.

// rowSection is the section `map` of such a job.
const rowSection = "map of a source.hbase"

// table reads source.hbase.
func (d *decoder) table(v value) *hbasetable.Source {
	o, ok := d.object(v, "source.hbase")
	if !ok {
		return nil
	}
	var s hbasetable.Options
	if f, ok := d.require(o, "table", "the table's name, as NAME or NAMESPACE:NAME"); ok {
		if s.Table, ok = d.text(f, "a table name"); ok {
			msg := checkTable(s.Table)
			if strings.ContainsAny(s.Table, "{}") {
				msg = "is the name of one table: it has no placeholders"
			}
			if msg != "" {
				d.wrong(f, "%s", msg)
			}
		}
	}
	d.rowRange(o, &s)
	s.From, s.To = d.instant(o, "from"), d.instant(o, "to")
	if f, ok := o.fields["to"]; ok && !d.bad[f.path] && s.To <= s.From {
		d.wrong(f, "ends the time range at %d ms, which is not after its start at %d; no cell is in it", s.To, s.From)
	}
	if f, ok := o.fields["versions"]; ok {
		if n, text := f.node.(*ast.StringNode); !text {
			n, _ := d.whole(f, 1, math.MaxInt32)
			s.Versions = int(n)
		} else if n.Value != "all" {
			d.wrong(f, "want all, or a whole number of at least 1, got %s", quote(n.Value))
		}
	}
	if f, ok := o.fields["raw"]; ok {
		s.Raw, _ = d.yes(f)
	}
	if f, ok := o.fields["columns"]; ok {
		s.Columns = d.tableColumns(f, s.Raw)
	}
	if f, ok := o.fields["filter"]; ok {
		if s.Filter, ok = d.text(f, "a filter in HBase's language, such as PrefixFilter('a')"); ok {
			if name := wholeScan.FindString(s.Filter); name != "" {
				d.wrong(f, "%s counts over a whole scan, and a table is read in pages; take a filter that decides row by row or cell by cell", name)
			}
		}
	}
	if f, ok := o.fields["limits"]; ok {
		if o, ok := d.object(f, "source.hbase.limits"); ok {
			d.limits(o, &s.Limits)
		}
	}
	if f, ok := o.fields["gateways"]; ok {
		s.Gateways = d.tableGateways(f)
	}
	d.way(o, &s)
	return hbasetable.New(s)
}

// way reads how the table is reached: through gateways, or past them.
func (d *decoder) way(o object, s *hbasetable.Options) {
	via := "gateways"
	f, hasVia := o.fields["via"]
	if hasVia {
		v, ok := d.word(f, []string{"gateways", "native"})
		if !ok {
			return
		}
		via = v
	}
	quorum, hasQuorum := o.fields["zookeeper"]
	if via != "native" {
		if hasQuorum {
			d.add(quorum.key, quorum.path, "is for via: native, which reads from the region servers themselves; add that, or take it out")
		}
		return
	}
	if !hasQuorum {
		d.add(f.key, join(o.path, "zookeeper"), `is missing; give HBase's own ZooKeeper, such as "zk1:2181,zk2:2181"`)
	} else {
		s.Quorum = d.quorum(quorum)
	}
	if g, ok := o.fields["gateways"]; ok {
		d.add(g.key, g.path, "stands beside via: native, which goes past gateways; take one of them out")
	}
	if g, ok := o.fields["filter"]; ok {
		d.add(g.key, g.path, "is in a language that gateways know and region servers do not; take via: native out, or filter in map")
	}
}

// quorum reads where HBase's own ZooKeeper is.
func (d *decoder) quorum(v value) string {
	q, ok := d.text(v, `HBase's own ZooKeeper, such as "zk1:2181,zk2:2181"`)
	if !ok {
		return ""
	}
	if msg := checkQuorum(q); msg != "" {
		d.wrong(v, "%s", msg)
	}
	return q
}

// CheckQuorum checks the address of HBase's own ZooKeeper as a job file has it: "zk1:2181,zk2:2181", with HBase's root behind it where
// that is not /hbase. The error says what is wrong with the text, for whoever names the flag before it.
func CheckQuorum(text string) error {
	if msg := checkQuorum(text); msg != "" {
		return errors.New(msg)
	}
	return nil
}

// wholeScan matches the filters that do not decide row by row.
var wholeScan = regexp.MustCompile(`\b(PageFilter|ColumnCountGetFilter)\b`)

// rowRange reads start and stop, or prefix.
func (d *decoder) rowRange(o object, s *hbasetable.Options) {
	start, hasStart := o.fields["start"]
	stop, hasStop := o.fields["stop"]
	prefix, hasPrefix := o.fields["prefix"]
	if hasStart {
		s.Start = d.rowKey(start)
	}
	if hasStop {
		s.Stop = d.rowKey(stop)
	}
	if hasStart && hasStop && string(s.Start) >= string(s.Stop) && !d.bad[start.path] && !d.bad[stop.path] {
		d.wrong(stop, "is not after start; no row is between them")
	}
	if !hasPrefix {
		return
	}
	if hasStart || hasStop {
		d.add(prefix.key, prefix.path, "stands beside start or stop; give either the prefix or the range")
		return
	}
	s.Start = d.rowKey(prefix)
	s.Stop = hbasetable.Prefix(s.Start)
}

// rowKey reads a row key as hbase.KeyText writes it.
func (d *decoder) rowKey(v value) []byte {
	s, ok := d.text(v, `a row key, such as user_1 or 'a\x00b'`)
	if !ok {
		return nil
	}
	if n, ok := v.node.(*ast.StringNode); ok && n.Token.Type == token.DoubleQuoteType && strings.ContainsFunc(s, odd) {
		d.wrong(v, `has characters that are not plain ASCII: between double quotes YAML itself makes one of \xNN; write it between single quotes, as in 'a\x00b'`)
		return nil
	}
	key, err := hbase.ParseKey(s)
	if err != nil {
		d.wrong(v, "%v", err)
	}
	return key
}

func odd(r rune) bool { return r < ' ' || r > '~' }

// instant reads a timestamp in milliseconds: a number, or a date in UTC.
func (d *decoder) instant(o object, key string) int64 {
	f, ok := o.fields[key]
	if !ok {
		return 0
	}
	if _, number := f.node.(*ast.IntegerNode); number {
		n, _ := d.whole(f, 0, hbase.MaxTimestamp)
		return n
	}
	const want = "milliseconds since 1970, or a date such as 2024-01-31 or 2024-01-31T12:00:00Z"
	s, ok := d.quoted(f, want, "")
	if !ok {
		return 0
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			if t.UnixMilli() < 0 {
				break
			}
			return t.UnixMilli()
		}
	}
	d.wrong(f, "want %s, got %s", want, quote(s))
	return 0
}

// tableColumns reads the families and columns to read.
func (d *decoder) tableColumns(v value, raw bool) []hbasetable.Column {
	items, ok := d.list(v, `a list of families and columns, such as [d, "e:name"]`)
	if !ok {
		return nil
	}
	if len(items) == 0 {
		d.wrong(v, "is empty; take the key out to read every column")
	}
	var out []hbasetable.Column
	for _, item := range items {
		s, ok := d.text(item, `a family, such as d, or a column, such as "d:name"`)
		if !ok {
			continue
		}
		family, qualifier, column := strings.Cut(s, ":")
		if msg := checkFamily(family); msg != "" {
			d.wrong(item, "%s", msg)
			continue
		}
		q, err := hbase.ParseKey(qualifier)
		switch {
		case err != nil:
			d.wrong(item, "%v", err)
		case column && raw:
			d.wrong(item, "names a column, and with raw: true HBase takes families only: write %s, and drop what is too much in map", quote(family))
		default:
			out = append(out, hbasetable.Column{Family: family, Qualifier: string(q), AllOf: !column})
		}
	}
	return out
}

// tableGateways reads the gateways of another cluster. They are read before the job's own.
func (d *decoder) tableGateways(v value) *jobs.Gateways {
	o, ok := d.object(v, "source.hbase.gateways")
	if !ok {
		return nil
	}
	g := &jobs.Gateways{OutageLimit: defaultOutage}
	if f, ok := d.require(o, "static", `the other cluster's gateways, such as ["gw1:9090"]`); ok {
		g.Static = d.addresses(f, "gw1:9090", "a gateway")
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
	own := &d.file.job.Gateways
	g.Transport, own.Transport = own.Transport, hbase.Transport{}
	d.file.sourceTLS, d.file.tls = d.file.tls, nil
	return g
}

// SourceTLS is TLS for the gateways of source.hbase.
func (f *File) SourceTLS() (*tls.Config, error) { return f.sourceTLS.load() }

// rowMapping reads the map of a job whose source is a table. Without any, every row is copied as it is.
func (d *decoder) rowMapping(root object) {
	s := mapping.RowSpec{MaxRow: d.file.maxRow()}
	o := object{value: value{path: "map", key: root.key}}
	if v, ok := root.fields["map"]; ok {
		if o, ok = d.object(v, rowSection); !ok {
			return
		}
	}
	if f, ok := o.fields["key"]; ok {
		s.Key, _ = d.text(f, "an expression of the row's key and columns")
	}
	if f, ok := o.fields["filter"]; ok {
		s.Filter, _ = d.text(f, "an expression of the row's key and columns")
	}
	if f, ok := o.fields["families"]; ok {
		s.Families = d.familyRules(f)
	}
	if f, ok := o.fields["columns"]; ok {
		s.Columns = d.columnRules(f)
	}
	if f, ok := o.fields["drop"]; ok {
		if items, ok := d.list(f, `a list of families and columns, such as [d, "e:name"]`); ok {
			if len(items) == 0 {
				d.wrong(f, "is empty; take the key out to drop nothing")
			}
			s.Drop = make([]string, len(items))
			for i, item := range items {
				s.Drop[i], _ = d.text(item, `a family, such as d, or a column, such as "d:name"`)
			}
		}
	}
	compiled, err := mapping.CompileRows(s)
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
		d.writtenRows(o, compiled)
	}
}

func (d *decoder) familyRules(v value) []mapping.FamilyRule {
	o, ok := d.entries(v, "a mapping of the source's families to the target's, such as {d: data}")
	if !ok {
		return nil
	}
	if len(o.order) == 0 && !d.badUnder(o.path) {
		d.wrong(v, "is empty; take the key out to keep the families' names")
	}
	var out []mapping.FamilyRule
	for _, from := range o.order {
		if to, ok := d.text(o.fields[from], "a column family"); ok {
			out = append(out, mapping.FamilyRule{From: from, To: to})
		}
	}
	return out
}

func (d *decoder) columnRules(v value) []mapping.ColumnRule {
	items, ok := d.list(v, `a list of columns to rename, such as [{from: "d:a", to: "e:b"}]`)
	if !ok {
		return nil
	}
	if len(items) == 0 {
		d.wrong(v, "is empty; take the key out to keep the columns' names")
	}
	out := make([]mapping.ColumnRule, len(items)) // one for each item, so that the mapping's faults can be placed
	for i, item := range items {
		o, ok := d.object(item, "map.columns")
		if !ok {
			continue
		}
		if f, ok := d.require(o, "from", "the column in the source's table, such as d:name"); ok {
			out[i].From, _ = d.text(f, "a column, as family:qualifier")
		}
		if f, ok := d.require(o, "to", "the column to write to, such as e:name"); ok {
			out[i].To, _ = d.text(f, "a column, as family:qualifier")
		}
		if f, ok := o.fields["encoding"]; ok {
			d.add(f.key, f.path, "is about documents; a row's cells keep their bytes: take it out")
		}
	}
	return out
}

// writtenRows reports rules that lead to a family which the table is not created with.
func (d *decoder) writtenRows(o object, m *mapping.RowMapping) {
	target := d.file.job.Target
	if !target.Create || len(target.Families) == 0 || d.badUnder("target.families") {
		return
	}
	known := map[string]bool{}
	for _, f := range target.Families {
		known[f.Name] = true
	}
	for _, name := range m.Renamed() {
		if !known[name] {
			d.add(o.key, o.path, "leads to the family %q, which is not among target.families; add it there", name)
		}
	}
}

// sameTable reports a copy of a table to itself. Where the source has gateways of its own or none, only the clusters can tell.
func (d *decoder) sameTable(root object, s *hbasetable.Source) {
	o := s.Options()
	to := d.file.job.Target.Table
	if o.Gateways != nil || o.Quorum != "" || o.Table == "" || to == "" {
		return
	}
	if s.Is(to) {
		d.add(cmp.Or(d.at["target.table"], root.key), "target.table", "is the source's own table; name another, or give the source's cluster under source.hbase.gateways")
	}
}

// ownFilter reports a filter in HBase's language where the table is read through drover's own native gateway.
func (d *decoder) ownFilter(s *hbasetable.Source) {
	const path = "source.hbase.filter"
	if o := s.Options(); d.file.job.Gateways.Native == "" || o.Gateways != nil || o.Filter == "" || d.bad[path] {
		return
	}
	d.add(d.at[path], path, "is in a language that HBase's gateways know and region servers do not, and gateways.native goes past them; filter in map, or give source.hbase.gateways")
}

// aboutTables gives the advice for a key of `map` that stands in a job of the other kind, or "".
func aboutTables(name, section string) string {
	switch {
	case section == rowSection && contains("map", name):
		return "it is about documents, and a table has rows: take it out"
	case section == "map" && contains(rowSection, name):
		return "it is about rows of a table, for source: {hbase: …}"
	}
	return ""
}

func contains(section, key string) bool { return slices.Contains(sections[section], key) }
