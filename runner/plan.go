package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"drover/hbase"
	"drover/jobs"
)

// Fingerprint is what must stay the same between the resumes of a run, part by part so that a difference can be named.
type Fingerprint struct {
	Source map[string]string `json:"source"`
	Map    map[string]string `json:"map"`
	Table  string            `json:"table"`
}

func fingerprint(j jobs.Job) Fingerprint {
	return Fingerprint{Source: j.Source.Describe(), Map: j.Mapping.Describe(), Table: j.Target.Table}
}

// diff names what differs between the planned fingerprint and the present one, in the job file's words.
func (f Fingerprint) diff(now Fingerprint) []string {
	var out []string
	parts := func(section string, was, is map[string]string) {
		keys := slices.Sorted(maps.Keys(was))
		for k := range is {
			if _, ok := was[k]; !ok {
				keys = append(keys, k)
			}
		}
		for _, k := range keys {
			if was[k] != is[k] {
				out = append(out, fmt.Sprintf("%s.%s was %q, is %q", section, k, was[k], is[k]))
			}
		}
	}
	parts("source", f.Source, now.Source)
	parts("map", f.Map, now.Map)
	if f.Table != now.Table {
		out = append(out, fmt.Sprintf("target.table was %q, is %q", f.Table, now.Table))
	}
	return out
}

// Plan is a run's shards, its timestamp and its fingerprint. Made once and saved before anything else happens.
type Plan struct {
	Run         string      `json:"run"`
	Job         string      `json:"job"`
	Created     time.Time   `json:"created"`
	Timestamp   int64       `json:"timestamp"` // milliseconds; of every cell whose time is the plan's
	Fingerprint Fingerprint `json:"fingerprint"`
	Layout      jobs.Layout `json:"layout"`
	Tables      []TablePlan `json:"tables"`
	Limit       int64       `json:"limit,omitempty"` // documents; a limited run is never the job's run
}

// TablePlan is what the plan says of one collection's table.
type TablePlan struct {
	Database   string   `json:"database,omitempty"`
	Collection string   `json:"collection"`
	Table      string   `json:"table"`
	KeyType    string   `json:"key_type,omitempty"` // of the sampled keys; another type later is a dead letter
	Create     bool     `json:"create,omitempty"`   // it was missing: the run creates it, with Splits
	Splits     [][]byte `json:"splits,omitempty"`
}

// namespace names a collection: two databases of one dump may have collections of one name.
type namespace struct{ database, collection string }

func (n namespace) String() string {
	if n.database == "" {
		return n.collection
	}
	return n.database + "." + n.collection
}

func (t TablePlan) namespace() namespace { return namespace{t.Database, t.Collection} }

// newRunID gives an id never used again: the time it was made, and chance.
func newRunID(now time.Time) string {
	var r [4]byte
	rand.Read(r[:])
	return now.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(r[:])
}

// expand gives the table's name for one collection.
func expand(template string, c jobs.Collection) string {
	return strings.NewReplacer("{collection}", c.Name, "{database}", c.Database).Replace(template)
}

// tables assigns each collection its table, without looking at HBase.
func tables(template string, cols []jobs.Collection) ([]TablePlan, error) {
	if len(cols) == 0 {
		return nil, refuse("the source has no collections: nothing to move")
	}
	out := make([]TablePlan, 0, len(cols))
	by := map[string]string{}
	for _, c := range cols {
		t := expand(template, c)
		if prev, ok := by[t]; ok {
			return nil, refuse("target.table %q sends both %s and %s to table %s: use {collection}, or {database} too, in target.table", template, prev, c.Name, t)
		}
		if err := hbase.CheckTableName(t); err != nil {
			return nil, refuse("target.table %q gives %q for collection %s: %v", template, t, c.Name, err)
		}
		by[t] = c.Name
		out = append(out, TablePlan{Database: c.Database, Collection: c.Name, Table: t})
	}
	return out, nil
}

// sampled is what a sample of a collection tells before it is moved.
type sampled struct {
	Documents int
	KeyType   string
	Keys      [][]byte // of the mapped rows, as sampled
	Rows      []hbase.Row
	RowBytes  []int
	Refused   []string // reasons, the first few
	Filtered  int
}

// sample maps up to n documents of a collection. keep bounds how many rows are kept decoded.
func sample(ctx context.Context, j jobs.Job, l jobs.Layout, c jobs.Collection, ts int64, n, keep int) (sampled, error) {
	var s sampled
	var mapper jobs.Mapper
	types := map[string]int{}
	var order []string
	batch := hbase.AcquireBatch(j.Target.Durability)
	defer func() { batch.Release() }()
	err := j.Source.Sample(ctx, l, c, n, func(raw []byte) error {
		s.Documents++
		kt := j.Mapping.KeyType(raw)
		if kt != "" {
			if types[kt] == 0 {
				order = append(order, kt)
			}
			types[kt]++
		}
		if mapper == nil {
			mapper = j.Mapping.Mapper(c.Name, ts, kt)
		}
		if batch.Rows() > 256 {
			batch.Release()
			batch = hbase.AcquireBatch(j.Target.Durability)
		}
		switch o, why := mapper.Map(raw, func([]byte) *hbase.Batch { return batch }); o {
		case jobs.Mapped:
			i := batch.Rows() - 1
			s.Keys = append(s.Keys, slices.Clone(batch.Key(i)))
			if len(s.Rows) < keep {
				s.Rows = append(s.Rows, batch.Row(i))
				s.RowBytes = append(s.RowBytes, batch.RowBytes(i))
			}
		case jobs.Filtered:
			s.Filtered++
		case jobs.Refused:
			if len(s.Refused) < 5 {
				s.Refused = append(s.Refused, strings.Clone(why))
			}
		}
		if kt == "" && s.Documents == 1 {
			mapper = nil // the first document told no key type: let a later one
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	if len(order) > 1 {
		return s, refuse("collection %s: its keys have mixed types in a sample of %d documents (%s), and key_encoding bytes could make two of them one row: set map.key_encoding to bson or json",
			c.Name, s.Documents, strings.Join(order, ", "))
	}
	if len(order) == 1 {
		s.KeyType = order[0]
		return s, nil
	}
	if s.Documents == 0 || len(s.Keys) > 0 {
		return s, nil
	}
	// The sample gave no key: all of it is filtered, say. The first document that has one decides.
	err = j.Source.Sample(ctx, l, c, math.MaxInt, func(raw []byte) error {
		if s.KeyType = j.Mapping.KeyType(raw); s.KeyType != "" {
			return errFound
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFound) {
		return s, err
	}
	return s, nil
}

var errFound = errors.New("found")

// splits cuts sampled keys into regions of like size. Fewer come back when the sample has too few distinct keys.
func splits(keys [][]byte, regions int) [][]byte {
	sorted := slices.SortedFunc(slices.Values(keys), func(a, b []byte) int { return strings.Compare(string(a), string(b)) })
	sorted = slices.CompactFunc(sorted, func(a, b []byte) bool { return string(a) == string(b) })
	var out [][]byte
	for i := 1; i < regions; i++ {
		k := sorted[i*len(sorted)/max(regions, 1):]
		if len(k) == 0 || i*len(sorted)/regions == 0 {
			continue
		}
		if n := len(out); n > 0 && string(out[n-1]) >= string(k[0]) {
			continue
		}
		out = append(out, k[0])
	}
	return out
}

// cluster is what planning and running need of HBase; hbase.Pool and hbase.Admin over it.
type cluster struct {
	pool  *hbase.Pool
	admin *hbase.Admin
}

// checkTable compares a table with what the job needs of it, as a run starts. It fills Create, and refuses what a person
// has to decide.
func (c cluster) checkTable(ctx context.Context, j jobs.Job, t *TablePlan) error {
	exists, err := c.admin.TableExists(ctx, t.Table)
	if err != nil {
		return err
	}
	if !exists {
		if !j.Target.Create {
			return refuse("table %s does not exist: create it, or set target.create: true with target.families. In the hbase shell: %s",
				t.Table, hbase.ShellCreate(hbase.TableSpec{Name: t.Table, Families: familiesOr(j)}))
		}
		t.Create = true
		return nil
	}
	info, err := c.admin.Describe(ctx, t.Table)
	if errors.Is(err, hbase.ErrUnknownMethod) { // HBase 1.x cannot tell of its tables: what is wrong shows in the first batch
		return c.checkEmpty(ctx, j, t)
	}
	if err != nil {
		return err
	}
	if err := hasFamilies(j, t.Table, info); err != nil {
		return err
	}
	enabled, err := c.admin.Enabled(ctx, t.Table)
	if err != nil && !errors.Is(err, hbase.ErrUnknownMethod) { // a gateway of HBase 1.x beside others
		return err
	}
	if err == nil && !enabled {
		return refuse("table %s is disabled: enable it first (hbase shell: enable '%s')", t.Table, t.Table)
	}
	return c.checkEmpty(ctx, j, t)
}

func (c cluster) checkEmpty(ctx context.Context, j jobs.Job, t *TablePlan) error {
	if j.Target.Existing != jobs.Refuse {
		return nil
	}
	empty, err := c.admin.Empty(ctx, t.Table)
	if err != nil {
		return err
	}
	if !empty {
		return refuse("table %s is not empty and target.existing is refuse: empty it, choose another table, or set target.existing: merge", t.Table)
	}
	return nil
}

func hasFamilies(j jobs.Job, table string, info *hbase.TableInfo) error {
	var have []string
	for _, f := range info.Families {
		have = append(have, f.Name)
	}
	for _, f := range j.Mapping.Families() {
		if !slices.Contains(have, f) {
			return refuse("table %s has no column family %q, which map writes to (it has %s): correct map, or add it (hbase shell: alter '%s', NAME => '%s')",
				table, f, strings.Join(have, ", "), table, f)
		}
	}
	return nil
}

// familiesOr gives the job's families, or the mapping's with HBase's defaults, for advice.
func familiesOr(j jobs.Job) []hbase.Family {
	if len(j.Target.Families) > 0 {
		return j.Target.Families
	}
	var out []hbase.Family
	for _, f := range j.Mapping.Families() {
		out = append(out, hbase.Family{Name: f, Versions: 1})
	}
	return out
}
