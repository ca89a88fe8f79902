// Package hbasetable reads an HBase table, through Thrift gateways or past them: a range of its rows, whole, with every version and
// timestamp, and with the deletes where they are asked for. Not for anything but a table, and not for following one: rows
// that come or go while it is read may be read or not.
//
// A document is one row in the packed form of package hbase; its cells are in HBase's order, the newest version of a column
// first. A cursor is a row key as text (hbase.KeyText). What becomes a shard: a run of neighbouring rows, cut at region boundaries
// and at keys that cheap key-only scans found, so that shards hold about the same number of rows. What is left of one can be cut
// again in the same way while it is read.
//
// Rows come in pages, each of which asks a gateway that keeps nothing of it, so that the next page may come from another.
// No page is believed because it came: its keys must ascend inside the range that was asked for, and it must start with the
// last row of the page before it (the anchor), which it is asked for too. So a page that belongs to another scan, one that
// skips rows, and an end that is none are found by the page itself. A shard's first page has no anchor: its first row is
// asked for once more. Where the anchor is really gone, because somebody deleted it meanwhile, three answers have to say so.
package hbasetable

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"drover/hbase"
	"drover/jobs"
)

// Options says what to read of which table. The zero value of a field is all of it.
type Options struct {
	Table       string // "table" or "namespace:table"
	Start, Stop []byte // rows of [Start, Stop)
	From, To    int64  // cells with timestamps in [From, To), in milliseconds
	Columns     []Column
	Versions    int    // the newest of each column; 0 is all
	Filter      string // in HBase's filter language; it must decide row by row
	Raw         bool   // deletes, and what they hide, too

	// Quorum is HBase's own ZooKeeper, "host:port,host:port" with HBase's root behind it where that is not /hbase, of a table
	// that is read from the region servers themselves, past all gateways; "" is through them. It may change between resumes,
	// if the cluster stays.
	Quorum string
	// Gateways is another cluster's, nil the job's own. With Limits it may change between resumes, if the cluster stays.
	Gateways *jobs.Gateways
	Limits   jobs.Limits // of reading; rows and packed bytes a second
}

// Column is a column, or with AllOf its whole family.
type Column struct {
	Family, Qualifier string
	AllOf             bool
}

func (c Column) String() string {
	if c.AllOf {
		return c.Family
	}
	return c.Family + ":" + hbase.KeyText([]byte(c.Qualifier))
}

// Prefix gives the first row key behind all keys with a prefix; nil when there is none.
func Prefix(prefix []byte) (stop []byte) {
	for n := len(prefix); n > 0; n-- {
		if prefix[n-1] < math.MaxUint8 {
			stop = bytes.Clone(prefix[:n])
			stop[n-1]++
			return stop
		}
	}
	return nil
}

// Cluster is what the source needs of HBase. Its methods are called from several goroutines at once; they ask again by
// themselves for what may pass, and their errors are final.
type Cluster interface {
	// ScanPage fills page with up to n rows from s.Start on, through any gateway.
	ScanPage(ctx context.Context, table string, s *hbase.Scan, n int, page *hbase.Page) error
	// Regions lists a table's regions in order of their keys; none for a table that does not exist.
	Regions(ctx context.Context, table string) ([]hbase.Region, error)
	// ClusterID is the name that the cluster gave itself, or another that stays the same.
	ClusterID(ctx context.Context) (string, error)
}

// Link is how a source reaches HBase. It lives as long as the source is used.
type Link struct {
	Cluster Cluster

	// Pace waits until so many rows and bytes may be read; nil does not. What a page turns out to hold beyond what was waited
	// for is waited for before the next.
	Pace func(ctx context.Context, rows, bytes int) error
}

// Source is a table. It holds no connections: Connect gives it its way to HBase.
type Source struct {
	opts Options
	link Link
	paid paid
}

// New gives the source for a table. It does no I/O.
func New(o Options) *Source { return &Source{opts: o} }

// Options is what the source was made of.
func (s *Source) Options() Options { return s.opts }

// Connect gives the source its way to HBase. It comes before all use of the source but Describe, Render and Name.
func (s *Source) Connect(l Link) { s.link = l }

// Name is the table as a collection: its namespace and its name.
func (s *Source) Name() jobs.Collection {
	namespace, name, found := strings.Cut(s.opts.Table, ":")
	if !found {
		namespace, name = "default", s.opts.Table
	}
	return jobs.Collection{Database: namespace, Name: name}
}

// Is tells whether a name, or a template of names, gives the source's own table.
func (s *Source) Is(table string) bool {
	c := s.Name()
	table = strings.NewReplacer("{collection}", c.Name, "{database}", c.Database).Replace(table)
	if !strings.Contains(table, ":") {
		table = "default:" + table
	}
	return table == c.Database+":"+c.Name
}

// Describe implements jobs.Source. By which way the cluster is reached, and how fast it is read, is not part of it.
func (s *Source) Describe() map[string]string {
	o := s.opts
	c := s.Name()
	d := map[string]string{"hbase.table": c.Database + ":" + c.Name, "hbase.versions": "all"}
	set := func(key, value string, there bool) {
		if there {
			d["hbase."+key] = value
		}
	}
	set("start", hbase.KeyText(o.Start), len(o.Start) > 0)
	set("stop", hbase.KeyText(o.Stop), len(o.Stop) > 0)
	set("from", strconv.FormatInt(o.From, 10), o.From > 0)
	set("to", strconv.FormatInt(o.To, 10), o.To > 0)
	set("versions", strconv.Itoa(o.Versions), o.Versions > 0)
	set("filter", o.Filter, o.Filter != "")
	set("raw", "true", o.Raw)
	columns := make([]string, len(o.Columns))
	for i, c := range o.Columns {
		columns[i] = c.String()
	}
	slices.Sort(columns)
	set("columns", strings.Join(columns, ", "), len(columns) > 0)
	return d
}

// identity is Layout.Identity in JSON. The table itself may change while it is read, so nothing of its content is in it.
type identity struct {
	Cluster string   `json:"cluster"`
	Places  []string `json:"places,omitempty"` // keys to sample at
}

// Check implements jobs.Source: the cluster must be the planned one.
func (s *Source) Check(ctx context.Context, l jobs.Layout) error {
	var was identity
	if err := json.Unmarshal(l.Identity, &was); err != nil {
		return fmt.Errorf("decode the identity of table %s in the plan: %w", s.opts.Table, err)
	}
	now, err := s.link.Cluster.ClusterID(ctx)
	if err != nil {
		return err
	}
	if now != was.Cluster {
		return &jobs.ChangedError{What: fmt.Sprintf("table %s: its cluster was %s, is %s", s.opts.Table, was.Cluster, now)}
	}
	return nil
}

// scan is what a page of [start, stop) asks for.
func (s *Source) scan(start, stop []byte) hbase.Scan {
	o := &s.opts
	out := hbase.Scan{
		Start: start, Stop: stop, MaxVersions: math.MaxInt32, Raw: o.Raw, Filter: o.Filter,
		TimeRange: hbase.TimeRange{From: o.From, To: o.To},
	}
	if o.Versions > 0 {
		out.MaxVersions = o.Versions
	}
	for _, c := range o.Columns {
		var q []byte
		if !c.AllOf {
			q = []byte(c.Qualifier)
			if q == nil {
				q = []byte{}
			}
		}
		out.Columns = append(out.Columns, hbase.NewColumn([]byte(c.Family), q))
	}
	return out
}

// span is the range of a shard's cursors.
func (s *Source) span(sh jobs.Shard) (start, stop []byte, err error) {
	start, stop = s.opts.Start, s.opts.Stop
	if sh.Start != "" {
		if start, err = hbase.ParseKey(string(sh.Start)); err != nil {
			return nil, nil, fmt.Errorf("shard %d starts at: %w", sh.N, err)
		}
	}
	if sh.End != "" {
		if stop, err = hbase.ParseKey(string(sh.End)); err != nil {
			return nil, nil, fmt.Errorf("shard %d ends at: %w", sh.N, err)
		}
	}
	return start, stop, nil
}

// after is the first key behind a row's.
func after(key []byte) []byte { return append(bytes.Clone(key), 0) }
