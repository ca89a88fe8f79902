package jobfile

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxFile bounds a job file, in bytes: thousands of columns fit, and a dump given by mistake is not parsed.
	maxFile = 256 << 10
	// maxDepth bounds the nesting: the format needs 4, and the parser's memory grows with the square of it.
	maxDepth = 32
)

// walker reads values out of the syntax tree and gathers every fault on the way. Its readers give false for a value that
// they have reported, so that a caller never reports the consequences of a fault.
type walker struct {
	lines  []string
	faults []Fault
	at     map[string]span // where each value stands, by path
	bad    map[string]bool // paths that have a fault
}

// span is a place in the source: characters of one line.
type span struct{ line, column, width int }

// value is a node of the tree with its path and the place of the key or dash that leads to it.
type value struct {
	node ast.Node
	path string
	key  span
}

// object is a mapping of the tree.
type object struct {
	value
	fields map[string]value
	order  []string
}

// parse gives the root of the only document in data. Without one it has reported why.
func (w *walker) parse(data []byte) (root value, ok bool) {
	if len(data) > maxFile {
		w.add(span{1, 1, 0}, "", "the file has %d bytes; a job file has at most %d: is it the right file?", len(data), maxFile)
		return value{}, false
	}
	text := strings.TrimPrefix(string(data), "\uFEFF")
	w.lines = strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range w.lines {
		for column, r := range []rune(line) {
			switch {
			case r == utf8.RuneError && !utf8.ValidString(line):
				w.add(span{i + 1, column + 1, 1}, "", "not UTF-8 text; save the file as UTF-8")
				return value{}, false
			case r < ' ' && r != '\t' || r == 0x7f || r == 0x2028 || r == 0x2029 || r == 0x85:
				w.add(span{i + 1, column + 1, 1}, "", "control character %U; take it out (in a quoted text it can be written as an escape)", r)
				return value{}, false
			}
		}
	}
	tokens := lexer.Tokenize(text)
	if !w.shallow(tokens) {
		return value{}, false
	}
	file, err := parseTokens(tokens)
	if err != nil {
		w.syntax(err)
		return value{}, false
	}
	var docs []*ast.DocumentNode
	for _, d := range file.Docs {
		if d.Body != nil {
			docs = append(docs, d)
		}
	}
	if len(docs) == 0 {
		w.add(span{1, 1, 0}, "", "there is nothing in the file; a job needs name, source, target, map and gateways")
		return value{}, false
	}
	for _, d := range docs[1:] {
		w.add(w.span(first(d.Body)), "", "a second YAML document; a job file holds one job: move this one to a file of its own")
	}
	root = value{node: docs[0].Body}
	root.key = span{1, 1, 0} // what the whole file lacks is nowhere in it
	return root, true
}

// parseTokens parses with duplicate keys let through, since the walk reports them better. The parser has panicked on
// malformed input before; that must not take the process with it.
func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			file, err = nil, fmt.Errorf("the YAML parser gave up: %v", r)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// shallow refuses nesting that no job file has.
func (w *walker) shallow(tokens token.Tokens) bool {
	flow, leads, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			leads, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			leads++
		}
		if flow > maxDepth || leads > maxDepth {
			w.add(w.span(t), "", "nested too deeply for a job file")
			return false
		}
	}
	return true
}

// syntax reports what the parser could not read, with the usual cause where there is one.
func (w *walker) syntax(err error) {
	var e yaml.Error
	if !errors.As(err, &e) || e.GetToken() == nil {
		w.add(span{1, 1, 1}, "", "not valid YAML: %v", err)
		return
	}
	msg, at := e.GetMessage(), w.span(e.GetToken())
	line := w.lines[at.line-1]
	switch {
	case strings.Contains(msg, "tab character") || strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		msg += "; indent with spaces, not tabs"
	case strings.Contains(msg, "mapping value is not allowed"):
		msg += `; check the indentation from here on, and quote a text that has ": " in it`
	case strings.Contains(msg, "map key-value is pre-defined"), strings.Contains(msg, "non-map value"):
		msg += "; check the indentation, and quote a text that runs on"
	}
	w.add(at, "", "not valid YAML: %s", msg)
}

// add reports a fault. Places outside the source, which a parser may give for what is missing at its end, are moved into it.
func (w *walker) add(at span, path, format string, args ...any) {
	at = w.clamp(at)
	w.faults = append(w.faults, Fault{Line: at.line, Column: at.column, Path: path, Msg: fmt.Sprintf(format, args...), width: at.width})
	w.bad[path] = true
}

func (w *walker) clamp(at span) span {
	at.line = max(1, min(at.line, len(w.lines)))
	length := 0
	if len(w.lines) > 0 {
		length = utf8.RuneCountInString(w.lines[at.line-1])
	}
	at.column = max(1, min(at.column, length+1))
	return at
}

// wrong reports a fault of v itself.
func (w *walker) wrong(v value, format string, args ...any) {
	w.add(w.place(v), v.path, format, args...)
}

// place is where v stands, or its key when there is nothing to point at.
func (w *walker) place(v value) span {
	if t := first(v.node); t != nil && t.Type != token.ImplicitNullType {
		return w.span(t)
	}
	return v.key
}

// first is the token that a node starts with. A block mapping's own token is its first colon.
func first(n ast.Node) *token.Token {
	switch n := n.(type) {
	case nil:
		return nil
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return first(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return first(n.Key)
	}
	return n.GetToken()
}

// span measures a token in the source.
func (w *walker) span(t *token.Token) span {
	if t == nil {
		return span{1, 1, 1}
	}
	at := w.clamp(span{t.Position.Line, t.Position.Column, 1})
	rest := []rune(w.lines[at.line-1])[at.column-1:]
	switch t.Type {
	case token.DoubleQuoteType, token.SingleQuoteType:
		at.width = len(rest) // closed on a later line
		for i := 1; i < len(rest); i++ {
			if rest[i] == '\\' && t.Type == token.DoubleQuoteType {
				i++
			} else if rest[0] == rest[i] {
				if t.Type == token.SingleQuoteType && i+1 < len(rest) && rest[i+1] == '\'' {
					i++
					continue
				}
				at.width = i + 1
				break
			}
		}
	case token.StringType:
		word, _, more := strings.Cut(t.Value, " ")
		line := []rune(w.lines[at.line-1])
		// The parser counts a column or two too many for a text that goes on in the next line.
		for column := at.column; column > 0 && column > at.column-4; column-- {
			if from := string(line[column-1:]); strings.HasPrefix(from, t.Value) {
				at.column, at.width = column, max(1, utf8.RuneCountInString(t.Value))
				break
			} else if more && strings.HasPrefix(from, word) {
				at.column, at.width = column, utf8.RuneCountInString(strings.TrimRight(from, " "))
				break
			}
		}
	default:
		if strings.HasPrefix(string(rest), t.Value) {
			at.width = max(1, utf8.RuneCountInString(t.Value))
		}
	}
	return at
}

// object reads a mapping with the keys of a section: unknown and repeated keys are reported.
func (w *walker) object(v value, section string) (object, bool) {
	o, ok := w.entries(v, "a mapping with keys ("+strings.Join(sections[section], ", ")+")")
	if !ok {
		return o, false
	}
	for _, name := range slices.Clone(o.order) {
		if slices.Contains(sections[section], name) {
			continue
		}
		f := o.fields[name]
		delete(o.fields, name)
		o.order = slices.DeleteFunc(o.order, func(s string) bool { return s == name })
		near := meant(name, section)
		if near == "" {
			w.add(f.key, f.path, "unknown key; %s", advise(name, section))
			continue
		}
		w.add(f.key, f.path, "unknown key; did you mean %q?", near)
		if _, taken := o.fields[near]; !taken {
			// Read on as if it were, so that the faults of its value show too and it is not reported as missing.
			f.path = join(v.path, near)
			o.fields[near] = f
			o.order = append(o.order, near)
			w.at[f.path] = w.place(f)
		}
	}
	return o, true
}

// meant gives the key of a section that an unknown one was meant to be, or "".
func meant(name, section string) string {
	if near := nearest(name, sections[section]); near != "" || len(homes(name)) > 0 {
		return near
	}
	return longer(name, sections[section])
}

// homes lists the sections that have a key.
func homes(name string) []string {
	var in []string
	for section, keys := range sections {
		if slices.Contains(keys, name) {
			in = append(in, section)
		}
	}
	slices.Sort(in)
	return in
}

// advise says where an unknown key of a section belongs.
func advise(name, section string) string {
	if about := aboutTables(name, section); about != "" {
		return about
	}
	switch in := homes(name); {
	case len(in) == 0:
		return "known here: " + strings.Join(sections[section], ", ")
	default:
		if in[0] == "" {
			in[0] = "the top of the file"
		}
		return "it belongs to " + oneOf(in)
	}
}

// entries reads a mapping with keys of any name, reporting those that come twice.
func (w *walker) entries(v value, want string) (object, bool) {
	o := object{value: v, fields: map[string]value{}}
	if !w.plain(v) {
		return o, false
	}
	var pairs []*ast.MappingValueNode
	switch n := v.node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		w.wrong(v, "has no value; want %s", want)
		return o, false
	default:
		w.wrong(v, "want %s, got %s", want, kind(v.node))
		return o, false
	}
	for _, p := range pairs {
		key := value{node: p.Key, path: v.path, key: w.span(first(p.Key))}
		if p.Key.IsMergeKey() {
			w.wrong(key, "merge keys (<<) are not supported in a job file; write the keys out")
			continue
		}
		if !w.plain(key) {
			continue
		}
		var name string
		switch n := p.Key.(type) {
		case *ast.StringNode:
			name = n.Value
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
			name = n.GetToken().Value
		default:
			w.wrong(key, "want a plain word as key, got %s", kind(p.Key))
			continue
		}
		field := value{node: p.Value, path: join(v.path, name), key: key.key}
		if before, twice := o.fields[name]; twice {
			w.add(field.key, field.path, "the key stands twice, first in line %d; keep one", before.key.line)
			continue
		}
		o.fields[name] = field
		o.order = append(o.order, name)
		w.at[field.path] = w.place(field)
	}
	return o, true
}

// list reads a sequence.
func (w *walker) list(v value, want string) ([]value, bool) {
	if !w.plain(v) {
		return nil, false
	}
	n, ok := v.node.(*ast.SequenceNode)
	if !ok {
		if _, null := v.node.(*ast.NullNode); null {
			w.wrong(v, "has no value; want %s", want)
		} else {
			w.wrong(v, "want %s, got %s", want, kind(v.node))
		}
		return nil, false
	}
	items := make([]value, len(n.Values))
	for i, item := range n.Values {
		items[i] = value{node: item, path: fmt.Sprintf("%s[%d]", v.path, i), key: w.place(v)}
		if i < len(n.Entries) && n.Entries[i] != nil {
			items[i].key = w.span(n.Entries[i].Start)
		}
		w.at[items[i].path] = w.place(items[i])
	}
	return items, true
}

// plain refuses anchors, aliases and tags: a job file is read by people in a hurry.
func (w *walker) plain(v value) bool {
	switch v.node.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		w.wrong(v, "anchors and aliases (& and *) are not supported in a job file; write the value out, or quote a text that starts with & or *")
		return false
	case *ast.TagNode:
		w.wrong(v, "tags (!) are not supported in a job file; take it out, or quote a text that starts with !")
		return false
	}
	return true
}

// text reads a text. One over several lines (| or >) is read without its last line ends.
func (w *walker) text(v value, want string) (string, bool) {
	return w.quoted(v, want, "; quote it to make it a text: %q")
}

// quoted is text with the advice for a value that YAML takes for something else, "" for none.
func (w *walker) quoted(v value, want, advice string) (string, bool) {
	if !w.plain(v) {
		return "", false
	}
	switch n := v.node.(type) {
	case *ast.StringNode:
		if n.Value == "" {
			w.wrong(v, "is empty; want %s", want)
			return "", false
		}
		return n.Value, true
	case *ast.LiteralNode:
		if s := strings.TrimRight(n.Value.Value, "\n"); s != "" {
			return s, true
		}
		w.wrong(v, "is empty; want %s", want)
	case *ast.NullNode:
		w.wrong(v, "has no value; want %s", want)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if advice != "" {
			advice = fmt.Sprintf(advice, n.GetToken().Value)
		}
		w.wrong(v, "want %s, got %s%s", want, kind(n), advice)
	case *ast.MappingNode:
		if s, ok := colonText(n); ok {
			return s, true
		}
		switch {
		case advice == "":
			w.wrong(v, "want %s, got a mapping", want)
		case n.IsFlowStyle:
			w.wrong(v, "want %s, got a mapping; quote a text that starts with {", want)
		default:
			w.wrong(v, "want %s, got a mapping; quote a text that has \": \" in it", want)
		}
	default:
		w.wrong(v, "want %s, got %s", want, kind(n))
	}
	return "", false
}

// colonText mends what the parser makes of [host:9090] inside {}: a colon without a blank after it does not make a mapping
// in YAML.
func colonText(n *ast.MappingNode) (string, bool) {
	if n.IsFlowStyle || len(n.Values) != 1 {
		return "", false
	}
	p := n.Values[0]
	key, colon, val := p.Key.GetToken(), p.Start, p.Value.GetToken()
	for _, t := range []*token.Token{key, val} {
		if t == nil || t.Type != token.StringType && t.Type != token.IntegerType {
			return "", false
		}
	}
	if colon == nil || colon.Position.Line != val.Position.Line || colon.Position.Column+1 != val.Position.Column {
		return "", false
	}
	return key.Value + ":" + val.Value, true
}

// word reads one of a few words.
func (w *walker) word(v value, words []string) (string, bool) {
	s, ok := w.quoted(v, oneOf(words), "")
	if !ok || slices.Contains(words, s) {
		return s, ok
	}
	if near := cmp.Or(nearest(s, words), longer(s, words)); near != "" {
		w.wrong(v, "want %s, got %s; did you mean %q?", oneOf(words), quote(s), near)
	} else {
		w.wrong(v, "want %s, got %s", oneOf(words), quote(s))
	}
	return "", false
}

// yes reads a boolean.
func (w *walker) yes(v value) (bool, bool) {
	if !w.plain(v) {
		return false, false
	}
	switch n := v.node.(type) {
	case *ast.BoolNode:
		return n.Value, true
	case *ast.NullNode:
		w.wrong(v, "has no value; want true or false")
	case *ast.StringNode:
		advice := ""
		switch strings.ToLower(n.Value) {
		case "yes", "on", "y", "true":
			advice = "; write true, without quotes"
		case "no", "off", "n", "false":
			advice = "; write false, without quotes"
		}
		w.wrong(v, "want true or false, got %s%s", kind(n), advice)
	default:
		w.wrong(v, "want true or false, got %s", kind(n))
	}
	return false, false
}

// whole reads a whole number within bounds.
func (w *walker) whole(v value, low, high int64) (int64, bool) {
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	if high == math.MaxInt64 {
		want = fmt.Sprintf("a whole number of at least %d", low)
	}
	if !w.plain(v) {
		return 0, false
	}
	switch n := v.node.(type) {
	case *ast.IntegerNode:
		text := n.GetToken().Value
		digits := strings.ReplaceAll(strings.TrimLeft(text, "+-"), "_", "")
		if len(digits) > 1 && digits[0] == '0' {
			w.wrong(v, "want %s, got %s; write it in decimal, without a leading 0", want, text)
			return 0, false
		}
		i, err := strconv.ParseInt(strings.ReplaceAll(strings.TrimPrefix(text, "+"), "_", ""), 10, 64)
		if err != nil || i < low || i > high {
			w.wrong(v, "want %s, got %s", want, text)
			return 0, false
		}
		return i, true
	case *ast.NullNode:
		w.wrong(v, "has no value; want %s", want)
	case *ast.StringNode:
		switch number := strings.Trim(n.Value, "0123456789") == ""; {
		case number && n.Token.Type == token.StringType: // beyond what the parser takes for a number
			w.wrong(v, "want %s, got %s", want, n.Value)
		case number:
			w.wrong(v, "want %s, got %s; take the quotes off", want, kind(n))
		default:
			w.wrong(v, "want %s, got %s", want, kind(n))
		}
	default:
		w.wrong(v, "want %s, got %s", want, kind(n))
	}
	return 0, false
}

// scalar gives the characters of a number or a text, for values such as 8MiB and 30m that are written as either.
func (w *walker) scalar(v value, want string) (string, bool) {
	if n, ok := v.node.(*ast.IntegerNode); ok {
		return n.GetToken().Value, true
	}
	if n, ok := v.node.(*ast.FloatNode); ok {
		return n.GetToken().Value, true
	}
	return w.quoted(v, want, "")
}

// kind names a node as a reader of the file would.
func kind(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return "the text " + quote(n.Value)
	case *ast.LiteralNode:
		return "the text " + quote(n.Value.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + n.GetToken().Value
	case *ast.BoolNode:
		return n.GetToken().Value
	case *ast.NullNode:
		return "nothing"
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode:
		if s, ok := colonText(n); ok {
			return "the text " + quote(s)
		}
		return "a mapping"
	case *ast.MappingValueNode:
		return "a mapping"
	}
	return "something else"
}

// quote quotes a value for a message, cut to a length that can be read.
func quote(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return strconv.Quote(string(r[:most])) + "…"
	}
	return strconv.Quote(s)
}

func join(path, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) || key == "" {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
