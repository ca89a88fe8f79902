package mapping

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"drover/hbase"
	"drover/jobs"
)

// RowSpec is a mapping of a table's rows as the job file states it. The zero value copies every row as it is.
type RowSpec struct {
	Key      string // expression; "" is the row's own key
	Families []FamilyRule
	Columns  []ColumnRule
	Drop     []string // families, or columns as family:qualifier
	Filter   string   // expression; "" lets all through

	// MaxRow bounds an encoded row, as in Spec.
	MaxRow int
}

// FamilyRule gives all columns of a family to another, but those that a ColumnRule names.
type FamilyRule struct{ From, To string }

// ColumnRule renames one column. Both are family:qualifier, the qualifier as hbase.KeyText writes it.
type ColumnRule struct{ From, To string }

// RowMapping is a compiled RowSpec. It is immutable; mappers of several goroutines share it.
type RowMapping struct {
	refs   []ref // what key and filter name: the key or a column each
	key    *expression
	filter *expression

	families []family // those that rules name, and those that they lead to
	rest     family   // any other
	identity bool     // no rule about families or columns

	maxRow   int
	describe map[string]string
	targets  []string // families that rows can have cells in, as far as they are known
}

// family is what becomes of a source's column family.
type family struct {
	name    []byte // nil is any
	to      []byte // nil is the same
	drop    bool   // but for columns
	others  bool   // columns of other families go to the same family
	mixed   bool   // columns that go there may meet
	columns []columnRule
}

// columnRule is a column with a rule of its own.
type columnRule struct {
	qualifier []byte
	drop      bool
	family    []byte
	to        []byte
	mixed     bool // other columns may go to the same place
	moved     bool // out of the family: its deletes have to go along
}

// CompileRows checks a RowSpec and makes it ready. The error is Faults with all that is wrong.
func CompileRows(s RowSpec) (*RowMapping, error) {
	c := rowCompiler{compiler: compiler{m: &Mapping{}, rows: true}, rules: map[string]*family{}}
	m := &RowMapping{maxRow: s.MaxRow, describe: map[string]string{"map.key": "key"}}
	s.Key, s.Filter = strings.TrimSpace(s.Key), strings.TrimSpace(s.Filter)
	if s.Key != "" && s.Key != rowKey {
		e, why := c.compileExpression(s.Key, false)
		switch {
		case why != "":
			c.fault("key", "%s", why)
		case len(e.fields) == 0:
			c.fault("key", "%q names neither key nor a column, so all rows would be one; name at least one, such as key", s.Key)
		}
		m.key = e
		m.describe["map.key"] = s.Key
	}
	if s.Filter != "" {
		e, why := c.compileExpression(s.Filter, true)
		if why != "" {
			c.fault("filter", "%s", why)
		}
		m.filter = e
		m.describe["map.filter"] = s.Filter
	}
	if s.MaxRow < 0 {
		c.fault("max_row", "is %d; write a number of bytes, or 0 for no bound", s.MaxRow)
	}
	c.read(s, m.describe)
	if len(c.faults) > 0 {
		return nil, c.faults
	}
	m.refs = c.m.refs
	c.settle(m)
	return m, nil
}

// rowCompiler gathers the rules of a RowSpec, by their families.
type rowCompiler struct {
	compiler
	rules map[string]*family
	order []string
}

func (c *rowCompiler) family(name string) *family {
	f := c.rules[name]
	if f == nil {
		f = &family{name: []byte(name)}
		c.rules[name] = f
		c.order = append(c.order, name)
	}
	return f
}

// column parts family:qualifier.
func (c *rowCompiler) column(field, s string) (family string, qualifier []byte, ok bool) {
	family, q, found := strings.Cut(s, ":")
	if !found {
		c.fault(field, "is %q, which is no column; write family:qualifier", s)
		return "", nil, false
	}
	if why := badFamily(family); why != "" {
		c.fault(field, "is %q: %s", s, why)
		return "", nil, false
	}
	qualifier, err := hbase.ParseKey(q)
	if err != nil {
		c.fault(field, "%v", err)
		return "", nil, false
	}
	return family, qualifier, true
}

func (c *rowCompiler) read(s RowSpec, describe map[string]string) {
	renamed := map[string]bool{}
	for _, r := range s.Families {
		field := "families." + r.From
		bad := false
		for _, name := range []string{r.From, r.To} {
			if why := badFamily(name); why != "" && !bad {
				c.fault(field, "%s", why)
				bad = true
			}
		}
		if renamed[r.From] {
			c.fault(field, "family %q is renamed twice; keep one", r.From)
		}
		renamed[r.From] = true
		if !bad && r.From != r.To {
			c.family(r.From).to = []byte(r.To)
			describe["map.families."+r.From] = r.To
		}
	}
	from, to := map[string]string{}, map[string]string{}
	for i, r := range s.Columns {
		field := fmt.Sprintf("columns[%d]", i)
		f, q, ok := c.column(field+".from", r.From)
		tf, tq, tok := c.column(field+".to", r.To)
		if !ok || !tok {
			continue
		}
		source, target := f+":"+hbase.KeyText(q), tf+":"+hbase.KeyText(tq)
		if other, twice := from[source]; twice {
			c.fault(field+".from", "is %s, of which %s says already where it goes", source, other)
			continue
		}
		from[source] = field
		if other, twice := to[target]; twice {
			c.fault(field+".to", "is %s, where %s goes already; give each its own column", target, other)
			continue
		}
		to[target] = field
		rule := c.family(f)
		rule.columns = append(rule.columns, columnRule{qualifier: q, family: []byte(tf), to: tq})
		describe["map.columns["+source+"]"] = target
	}
	for i, d := range s.Drop {
		field := fmt.Sprintf("drop[%d]", i)
		if !strings.Contains(d, ":") {
			if why := badFamily(d); why != "" {
				c.fault(field, "%s", why)
				continue
			}
			if renamed[d] {
				c.fault(field, "family %q is renamed by families; either rename it or drop it", d)
				continue
			}
			c.family(d).drop = true
			describe["map.drop["+d+"]"] = "family"
			continue
		}
		f, q, ok := c.column(field, d)
		if !ok {
			continue
		}
		name := f + ":" + hbase.KeyText(q)
		if other, twice := from[name]; twice {
			c.fault(field, "is %s, of which %s says already where it goes", name, other)
			continue
		}
		from[name] = field
		rule := c.family(f)
		rule.columns = append(rule.columns, columnRule{qualifier: q, drop: true})
		describe["map.drop["+name+"]"] = "column"
	}
}

// settle lists the families of the rules, those that they lead to included.
func (c *rowCompiler) settle(m *RowMapping) {
	m.identity = len(c.rules) == 0
	for _, name := range slices.Clone(c.order) {
		f := c.rules[name]
		c.family(f.home())
		for _, col := range f.columns {
			if !col.drop {
				c.family(string(col.family))
			}
		}
	}
	var all []family
	for _, name := range slices.Sorted(slices.Values(c.order)) {
		all = append(all, *c.rules[name])
	}
	m.meet(all)
}

// home is the family that columns without rules of their own go to.
func (f *family) home() string {
	if f.to != nil {
		return string(f.to)
	}
	return string(f.name)
}

// meet takes the families that a source may have, and finds out where columns of different ones go to one place.
func (m *RowMapping) meet(all []family) {
	feeds := map[string]int{}    // by target family: source families whose columns go there
	visitors := map[string]int{} // and columns that go there out of others
	for i := range all {
		f := &all[i]
		if !f.drop {
			feeds[f.home()]++
		}
		for i := range f.columns {
			col := &f.columns[i]
			col.moved = !col.drop && (f.drop || string(col.family) != f.home())
			col.mixed = !col.drop
			if col.moved {
				visitors[string(col.family)]++
			}
		}
	}
	seen := map[string]bool{}
	for i := range all {
		f := &all[i]
		f.others = feeds[f.home()] > 1 || visitors[f.home()] > 0
		f.mixed = f.others
		for _, col := range f.columns {
			if !col.drop {
				seen[string(col.family)] = true
				f.mixed = f.mixed || !col.moved // it may meet the column whose name it takes
			}
		}
		if !f.drop {
			seen[f.home()] = true
		}
	}
	m.families, m.targets = all, slices.Sorted(maps.Keys(seen))
}

// Bind completes the mapping by the families that the source's table has: Families then lists all that rows can go to. The
// error names what the mapping speaks of and the table does not have.
func (m *RowMapping) Bind(source []string) (*RowMapping, error) {
	var missing []string
	need := func(name string) {
		if !slices.Contains(source, name) && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	for _, r := range m.refs {
		if !isKey(r.path) {
			need(r.path[0].name)
		}
	}
	for _, f := range m.families {
		if f.to != nil || f.drop || len(f.columns) > 0 {
			need(string(f.name))
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("map speaks of the column families %s, which the source's table does not have (it has %s)",
			strings.Join(missing, ", "), strings.Join(source, ", "))
	}
	bound := *m
	var all []family
	for _, name := range source {
		f := *m.rule([]byte(name))
		f.name, f.columns = []byte(name), slices.Clone(f.columns)
		all = append(all, f)
	}
	bound.meet(all)
	return &bound, nil
}

// Target is the family that the columns of a source's family go to, but those with rules of their own; "" when they are
// dropped.
func (m *RowMapping) Target(source string) string {
	f := m.rule([]byte(source))
	switch {
	case f.drop:
		return ""
	case f.to != nil:
		return string(f.to)
	}
	return source
}

// rule is the rule of a source's family.
func (m *RowMapping) rule(name []byte) *family {
	for i := range m.families {
		if f := &m.families[i]; string(f.name) == string(name) {
			return f
		}
	}
	return &m.rest
}

// Describe gives all that a row depends on, by its name in the job file.
func (m *RowMapping) Describe() map[string]string { return maps.Clone(m.describe) }

// Families lists the column families that rows can have cells in, sorted: those that rules name, and after Bind all.
func (m *RowMapping) Families() []string { return slices.Clone(m.targets) }

// Renamed lists the families that rules lead to, sorted.
func (m *RowMapping) Renamed() []string {
	seen := map[string]bool{}
	for _, f := range m.families {
		if f.to != nil {
			seen[string(f.to)] = true
		}
		for _, c := range f.columns {
			if !c.drop {
				seen[string(c.family)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// KeyType implements jobs.Mapping. A row's key has no type.
func (m *RowMapping) KeyType([]byte) string { return "" }

// Mapper makes a mapper for one goroutine. Rows depend neither on the collection nor on the plan's timestamp.
func (m *RowMapping) Mapper(string, int64, string) jobs.Mapper {
	return &RowMapper{m: m, values: make([][]byte, len(m.refs))}
}
