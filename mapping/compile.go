package mapping

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"drover/hbase"
	"drover/jobs"
)

// Mapping is a compiled Spec. It is immutable; mappers of several goroutines share it.
type Mapping struct {
	refs   []ref // the values that key, timestamp and expressions need, each path once
	key    int   // in refs, when keyExpr is nil
	keyEnc encoding

	keyExpr *expression
	filter  *expression // nil lets all through

	stamp   int   // in refs, or one of the below
	fixedTS int64 // with stampFixed

	allFields    bool // family is set, and every top-level field is a column of it
	family       []byte
	enc          encoding // with allFields
	columns      []column
	document     *target // of the whole document; nil is none
	documentName string  // its family:qualifier

	skipEmpty bool
	maxRow    int
	describe  map[string]string
	families  []string

	typers sync.Pool // of *Mapper, for KeyType
}

// What Mapping.stamp is when it is not a field.
const (
	stampPlan  = -1
	stampFixed = -2
)

// ref is a value of a document that has to be found before its row can begin.
type ref struct {
	text string // as the Spec has it, for reasons
	path []step
}

// column is where a value goes. path is what comes after the top-level field.
type column struct {
	target
	from string // as the Spec has it, for reasons
	path []step
	enc  encoding
	top  string // the top-level field
}

// target is one column of HBase.
type target struct {
	hbase.Column
	size int // hbase.CellBytes without key and value
}

func newTarget(family, qualifier []byte) target {
	return target{
		Column: hbase.NewColumn(family, qualifier),
		size:   hbase.CellBytes(0, len(family), len(qualifier), 0),
	}
}

// plainPath matches the keys that are field paths at sight; all else is an expression.
var plainPath = regexp.MustCompile(`^[\pL_][\pL\pN_]*(\.[\pL\pN_]+)*$`)

var digits = regexp.MustCompile(`^-?[0-9]+$`)

// Compile checks a Spec and makes it ready. The error is Faults with all that is wrong.
func Compile(s Spec) (*Mapping, error) {
	c := compiler{m: &Mapping{stamp: stampPlan, maxRow: s.MaxRow, skipEmpty: s.Empty == "skip"}}
	m := c.m

	if s.Key == "" {
		s.Key = "_id"
	}
	s.Key, s.Filter = strings.TrimSpace(s.Key), strings.TrimSpace(s.Filter)
	m.keyEnc = c.encoding("key_encoding", s.KeyEncoding, encBytes)
	c.key(s.Key)
	m.enc = c.encoding("encoding", s.Encoding, encBytes)
	if s.Family != "" {
		if why := badFamily(s.Family); why != "" {
			c.fault("family", "%s", why)
		}
	}
	c.timestamp(s.Timestamp)
	targets := map[string]string{} // family:qualifier, and what goes there
	if s.Document != "" {
		family, qualifier := c.target("document", s.Document, s.Family)
		col := newTarget([]byte(family), []byte(qualifier))
		m.document, m.documentName = &col, family+":"+qualifier
		targets[family+":"+qualifier] = "document"
	}
	c.columns(s, targets)
	if s.Filter != "" {
		e, why := c.compileExpression(s.Filter, true)
		if why != "" {
			c.fault("filter", "%s", why)
		}
		m.filter = e
	}
	if s.Empty != "" && s.Empty != "dead" && s.Empty != "skip" {
		c.fault("empty", "is %q; write dead (a document that maps to no cell is a dead letter) or skip", s.Empty)
	}
	if s.MaxRow < 0 {
		c.fault("max_row", "is %d; write a number of bytes, or 0 for no bound", s.MaxRow)
	}
	if len(c.faults) > 0 {
		return nil, c.faults
	}
	c.describe(s)
	return m, nil
}

// compiler gathers the faults of a Spec while it is made into m.
type compiler struct {
	m        *Mapping
	rows     bool // expressions are about rows of a table
	faults   Faults
	families []string
}

func (c *compiler) fault(field, format string, args ...any) {
	c.faults = append(c.faults, Fault{field, fmt.Sprintf(format, args...)})
}

func (c *compiler) encoding(field string, e Encoding, def encoding) encoding {
	switch e {
	case "":
		return def
	case Bytes:
		return encBytes
	case BSON:
		return encBSON
	case JSON:
		return encJSON
	}
	c.fault(field, "is %q; write bytes, bson or json", string(e))
	return def
}

// ref returns the number of a path in m.refs.
func (c *compiler) ref(text string, path []step) int {
	for i := range c.m.refs {
		if slices.Equal(c.m.refs[i].path, path) {
			return i
		}
	}
	c.m.refs = append(c.m.refs, ref{text, path})
	return len(c.m.refs) - 1
}

func (c *compiler) key(s string) {
	if plainPath.MatchString(s) {
		path, _ := parsePath(s)
		c.m.key = c.ref(s, path)
		return
	}
	e, why := c.compileExpression(s, false)
	switch {
	case why != "":
		c.fault("key", "%s", why)
	case e.only >= 0: // just a field, in the form that takes any name
		c.m.key = e.only
	case len(e.fields) == 0:
		c.fault("key", "%q names no field, so all documents would be one row; name at least one, such as _id", s)
	default:
		c.m.keyExpr = e
	}
}

func (c *compiler) timestamp(s string) {
	switch {
	case s == "" || s == "plan":
	case digits.MatchString(s):
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil || ms < 0 || ms > hbase.MaxTimestamp {
			c.fault("timestamp", "is %s; write 0 to %d milliseconds, a field or plan", s, int64(hbase.MaxTimestamp))
		}
		c.m.stamp, c.m.fixedTS = stampFixed, ms
	default:
		path, why := parsePath(s)
		if why != "" {
			c.fault("timestamp", "%s", why)
			return
		}
		c.m.stamp = c.ref(s, path)
	}
}

// target parts "family:qualifier"; without a colon the family is the Spec's.
func (c *compiler) target(field, to, family string) (string, string) {
	f, q, ok := strings.Cut(to, ":")
	if !ok {
		f, q = family, to
		if family == "" {
			c.fault(field, "is %q, without a family; write family:qualifier, or set family", to)
			return f, q
		}
	} else if why := badFamily(f); why != "" {
		c.fault(field, "is %q: %s", to, why)
		return f, q
	}
	if to == "" {
		c.fault(field, "is empty; write family:qualifier")
	}
	c.families = append(c.families, f)
	return f, q
}

func (c *compiler) columns(s Spec, targets map[string]string) {
	m := c.m
	if len(s.Columns) == 0 {
		if s.Family == "" {
			if s.Document == "" {
				c.fault("family", "is missing; name the column family that the fields go to, such as d")
			}
			return
		}
		m.allFields, m.family = true, []byte(s.Family)
		c.families = append(c.families, s.Family)
		return
	}
	for i, sc := range s.Columns {
		field := fmt.Sprintf("columns[%d]", i)
		enc := c.encoding(field+".encoding", sc.Encoding, m.enc)
		path, why := parsePath(sc.From)
		if why != "" {
			c.fault(field+".from", "%s", why)
		}
		if sc.To == "" {
			c.fault(field+".to", "is empty; write family:qualifier")
			continue
		}
		family, qualifier := c.target(field+".to", sc.To, s.Family)
		if other, ok := targets[family+":"+qualifier]; ok && family != "" {
			c.fault(field+".to", "is %s:%s, where %s goes already; give each its own qualifier", family, qualifier, other)
			continue
		}
		targets[family+":"+qualifier] = field
		if why != "" {
			continue
		}
		m.columns = append(m.columns, column{newTarget([]byte(family), []byte(qualifier)), sc.From, path[1:], enc, path[0].name})
	}
}

// badFamily says what HBase has against a column family's name.
func badFamily(s string) string {
	bad := func(r rune) bool { return r < ' ' || r == 0x7F || r == ':' || r == '/' || r == '\\' }
	switch {
	case s == "":
		return "the family's name is empty; give one, such as d"
	case len(s) > 127:
		return fmt.Sprintf("the family's name has %d bytes; HBase takes at most 127", len(s))
	case s[0] == '.' || s == "recovered.edits" || strings.ContainsFunc(s, bad):
		return fmt.Sprintf("%q is no name for a family; it must not start with a dot nor have colons, slashes or control characters in it", s)
	}
	return ""
}

// describe states in canonical form all that a row depends on.
func (c *compiler) describe(s Spec) {
	m := c.m
	d := map[string]string{"map.key": s.Key, "map.key_encoding": m.keyEnc.String(), "map.timestamp": "plan", "map.empty": "dead"}
	if s.Timestamp != "" {
		d["map.timestamp"] = s.Timestamp
	}
	if m.stamp == stampFixed {
		d["map.timestamp"] = strconv.FormatInt(m.fixedTS, 10)
	}
	if m.skipEmpty {
		d["map.empty"] = "skip"
	}
	if s.Filter != "" {
		d["map.filter"] = s.Filter
	}
	if m.document != nil {
		d["map.document"] = m.documentName
	}
	if m.allFields {
		d["map.family"], d["map.encoding"] = s.Family, m.enc.String()
	}
	for i, sc := range s.Columns {
		family, qualifier := c.target("", sc.To, s.Family)
		d["map.columns["+family+":"+qualifier+"]"] = sc.From + " as " + m.columns[i].enc.String()
	}
	slices.Sort(c.families)
	m.describe, m.families = d, slices.Compact(c.families)
}

// Describe gives all that a row depends on, by its name in the job file.
func (m *Mapping) Describe() map[string]string {
	d := make(map[string]string, len(m.describe))
	for k, v := range m.describe {
		d[k] = v
	}
	return d
}

// Families lists the column families that rows can have cells in, sorted.
func (m *Mapping) Families() []string { return slices.Clone(m.families) }

// KeyType is the type of the document's key value, such as "objectId", "binary(4)" or, of an expression's result, "string".
// It is "" when the key encoding keeps types apart by itself, and when the document has no key, is filtered out or is corrupt.
func (m *Mapping) KeyType(raw []byte) string {
	if m.keyEnc != encBytes {
		return ""
	}
	p, _ := m.typers.Get().(*Mapper)
	if p == nil {
		p = m.newMapper(0, "")
	}
	defer m.typers.Put(p)
	p.trim()
	if o, _ := p.prepare(raw); o != jobs.Mapped {
		return ""
	}
	return typeName(p.keyTyp, p.keyVal)
}

// Mapper makes a mapper for one goroutine. Rows do not depend on the collection.
func (m *Mapping) Mapper(_ string, timestamp int64, keyType string) jobs.Mapper {
	return m.newMapper(timestamp, keyType)
}
