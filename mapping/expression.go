package mapping

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/checker"
	"github.com/expr-lang/expr/checker/nature"
	exprcompiler "github.com/expr-lang/expr/compiler"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/optimizer"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"
)

// root is the name of the whole document in expressions, for fields whose names are not words: doc["a b"].
const root = "doc"

// builtins are the language's own functions that expressions may use. Left out is what depends on clocks, time zones or the
// order of a map, and what functions replaces.
var builtins = []string{
	"all", "none", "any", "one", "filter", "map", "find", "count", "sum", "len", "abs", "ceil", "floor", "round", "int", "float",
	"trim", "trimPrefix", "trimSuffix", "upper", "lower", "split", "replace", "repeat", "join", "indexOf", "lastIndexOf",
	"hasPrefix", "hasSuffix", "max", "min", "first", "last", "duration",
}

// language is what an expression can name and call.
type language struct {
	builtins  []string
	functions []function
	text      bool // bytes are text: b"\xff" is a text of one byte

	// grow says what a name, or a number, after a path means: a longer path, ok, or, where it means no path, nothing or why not.
	// The path of a name that stands first is nil, and that of doc empty.
	grow func(path []step, name string, number bool) (longer []step, ok bool, why string)
	// whole says why a path that is as long as it gets reaches no value, or "".
	whole func(path []step) (why string)
}

// ofDocuments is the language of document mappings.
var ofDocuments = language{
	builtins: builtins, functions: functions,
	grow: func(path []step, name string, number bool) ([]step, bool, string) {
		if number && len(path) == 0 {
			return nil, false, ""
		}
		return append(slices.Clone(path), newStep(name)), true, ""
	},
	whole: func(path []step) string {
		if len(path) == 0 {
			return `doc stands for the whole document and needs a constant field name, such as doc["a b"]`
		}
		return ""
	},
}

// expression is a compiled key or filter. Only the fields that it names are decoded.
//
// Where the language's own operators would fail on what any collection has, missing fields and mixed types, they are replaced:
// a comparison with nil is false, nil counts as false, an objectId compares with its hex text, and whole numbers and doubles
// compare as numbers. An order between values of different types is false, but for a date, which is an error: the document is
// refused.
type expression struct {
	program *vm.Program
	fields  []int    // refs of the Mapping
	names   []string // of the fields, in the program
	only    int      // the ref, when the expression is nothing but a field; else -1
}

// compileExpression compiles an expression; a filter has to give true or false.
func (c *compiler) compileExpression(text string, filter bool) (_ *expression, why string) {
	lang := &ofDocuments
	if c.rows {
		lang = &ofRows
	}
	cfg := conf.CreateNew()
	cfg.WithEnv(map[string]any{})
	cfg.Strict = false // fields have any type
	for name := range cfg.Builtins {
		if !slices.Contains(lang.builtins, name) {
			cfg.Disabled[name] = true
		}
	}
	for _, f := range slices.Concat(lang.functions, operators) {
		cfg.Functions[f.name] = f.builtin()
	}
	tree, err := parser.ParseWithConfig(text, cfg)
	if err != nil {
		return nil, exprError(err)
	}

	names := names{lang: lang, lets: map[string]bool{}, callees: map[ast.Node]bool{}}
	ast.Walk(&tree.Node, &names)
	if names.why != "" {
		return nil, names.why
	}
	fields := fields{names: &names, grow: lang.grow, paths: map[ast.Node][]step{}}
	ast.Walk(&tree.Node, &fields)
	if fields.why != "" {
		return nil, fields.why
	}
	e := &expression{only: -1}
	used := used{c: c, e: e, lang: lang, paths: fields.paths}
	ast.Walk(&tree.Node, &used)
	if used.why != "" {
		return nil, used.why
	}
	if path, ok := fields.paths[unchained(tree.Node)]; ok {
		e.only = c.ref(text, path)
		if !filter {
			return e, ""
		}
	}

	if _, err := checker.Check(tree, cfg); err != nil {
		return nil, exprError(err)
	}
	ast.Walk(&tree.Node, &lenient{cache: &cfg.NtCache})
	if filter {
		asBool(&tree.Node, &cfg.NtCache)
	}
	typ, err := checker.Check(tree, cfg)
	if err != nil {
		return nil, exprError(err)
	}
	if filter && typ.Kind() != reflect.Bool && typ.Kind() != reflect.Interface {
		return nil, fmt.Sprintf("gives %s; a filter gives true or false, such as depth > 10", typ)
	}
	if err := optimizer.Optimize(&tree.Node, cfg); err != nil {
		return nil, exprError(err)
	}
	if e.program, err = exprcompiler.Compile(tree, cfg); err != nil {
		return nil, exprError(err)
	}
	return e, ""
}

// exprError words an error of the expression's compiler or of a run on one line.
func exprError(err error) string {
	var e *file.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	if e.Line > 1 {
		return fmt.Sprintf("%s (line %d, column %d)", e.Message, e.Line, e.Column+1)
	}
	return fmt.Sprintf("%s (column %d)", e.Message, e.Column+1)
}

func unchained(n ast.Node) ast.Node {
	if c, ok := n.(*ast.ChainNode); ok {
		return c.Node
	}
	return n
}

// names notes which names are not fields: functions that are called, and variables.
type names struct {
	lang    *language
	lets    map[string]bool
	callees map[ast.Node]bool
	why     string
}

func (v *names) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.VariableDeclaratorNode:
		v.lets[n.Name] = true
	case *ast.CallNode:
		v.callees[n.Callee] = true
		callee, ok := n.Callee.(*ast.IdentifierNode)
		if !ok {
			v.why = fmt.Sprintf("calls %s, which is no function", n.Callee)
			return
		}
		i := slices.IndexFunc(v.lang.functions, func(f function) bool { return f.name == callee.Value })
		if i < 0 {
			v.why = v.lang.noFunction(callee.Value)
			return
		}
		if why := v.lang.functions[i].checkConstants(n.Arguments); why != "" {
			v.why = why
		}
	case *ast.BuiltinNode: // some of which cannot be disabled
		if !slices.Contains(v.lang.builtins, n.Name) {
			v.why = v.lang.noFunction(n.Name)
		}
	case *ast.BytesNode:
		if v.lang.text {
			ast.Patch(node, &ast.StringNode{Value: string(n.Value)})
		}
	case *ast.IdentifierNode:
		if n.Value == "$env" {
			v.why = "$env is not there; fields are reached by their names"
		}
	}
}

func (l *language) noFunction(name string) string {
	all := slices.Clone(l.builtins)
	for i := range l.functions {
		all = append(all, l.functions[i].name)
	}
	slices.Sort(all)
	return fmt.Sprintf("there is no function %s; there are %s", name, strings.Join(all, ", "))
}

// fields puts one name in the place of each chain of names, such as location.city, that reaches a field. Children come before
// their parents, so that chains grow from the left.
type fields struct {
	names *names
	grow  func(path []step, name string, number bool) ([]step, bool, string)
	paths map[ast.Node][]step // of the nodes put in place; empty for doc itself
	why   string
}

func (v *fields) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if v.names.callees[n] || v.names.lets[n.Value] {
			return
		}
		if n.Value == root {
			v.paths[n] = []step{}
			return
		}
		v.put(node, nil, n.Value, false)
	case *ast.MemberNode:
		path, ok := v.paths[unchained(n.Node)]
		if !ok {
			return
		}
		switch p := n.Property.(type) {
		case *ast.StringNode:
			v.put(node, path, p.Value, false)
		case *ast.IntegerNode:
			if p.Value >= 0 {
				v.put(node, path, fmt.Sprint(p.Value), true)
			}
		}
	}
}

func (v *fields) put(node *ast.Node, path []step, name string, number bool) {
	path, ok, why := v.grow(path, name, number)
	if why != "" {
		v.why = why
	}
	if !ok {
		return
	}
	n := &ast.IdentifierNode{Value: pathName(path)}
	ast.Patch(node, n)
	v.paths[n] = path
}

// pathName names a field in a program. No name that a person writes has a NUL.
func pathName(path []step) string {
	var b strings.Builder
	for _, s := range path {
		b.WriteByte(0)
		b.WriteString(s.name)
	}
	return b.String()
}

// used gathers the fields that are left in the tree.
type used struct {
	c     *compiler
	e     *expression
	lang  *language
	paths map[ast.Node][]step
	why   string
}

func (v *used) Visit(node *ast.Node) {
	path, ok := v.paths[*node]
	if !ok {
		return
	}
	if why := v.lang.whole(path); why != "" {
		v.why = why
		return
	}
	text := make([]string, len(path))
	for i, s := range path {
		text[i] = s.name
	}
	r := v.c.ref(strings.Join(text, "."), path)
	if !slices.Contains(v.e.fields, r) {
		v.e.fields, v.e.names = append(v.e.fields, r), append(v.e.names, pathName(path))
	}
}

// lenient puts functions in the place of operators whose operands' types are known only when the expression runs.
type lenient struct {
	cache *nature.Cache
}

func (v *lenient) Visit(node *ast.Node) {
	unknown := func(n ast.Node) bool { return n.Nature().IsUnknown(v.cache) }
	switch n := (*node).(type) {
	case *ast.UnaryNode:
		if n.Operator == "!" || n.Operator == "not" {
			asBool(&n.Node, v.cache)
		}
	case *ast.ConditionalNode:
		asBool(&n.Cond, v.cache)
	case *ast.BinaryNode:
		switch n.Operator {
		case "and", "&&", "or", "||":
			asBool(&n.Left, v.cache)
			asBool(&n.Right, v.cache)
		case "==", "!=", "<", "<=", ">", ">=", "in":
			if unknown(n.Left) || unknown(n.Right) || n.Operator == "in" {
				asCall(node, operatorPrefix+n.Operator, n.Left, n.Right)
			}
		}
	}
}

// asBool lets nil count as false.
func asBool(node *ast.Node, cache *nature.Cache) {
	if (*node).Nature().IsUnknown(cache) {
		asCall(node, operatorPrefix+"bool", *node)
	}
}

// asCall puts a call of one of the operators in a node's place.
func asCall(node *ast.Node, name string, args ...ast.Node) {
	callee := &ast.IdentifierNode{Value: name}
	callee.SetLocation((*node).Location())
	n := &ast.CallNode{Callee: callee, Arguments: args}
	n.SetType(reflect.TypeFor[bool]())
	ast.Patch(node, n)
}

// runner runs expressions for one Mapper.
type runner struct {
	vm  vm.VM
	env map[string]any
	buf []byte
}

func (r *runner) filter(p *Mapper, raw []byte, e *expression) (keep bool, why string) {
	x, why := r.eval(p, raw, e)
	if why != "" {
		return false, why
	}
	return keeps(x)
}

// keeps is a filter's result.
func keeps(x any) (keep bool, why string) {
	keep, ok := x.(bool)
	if !ok && x != nil {
		return false, fmt.Sprintf("gives %s, not true or false", kind(x))
	}
	return keep, ""
}

// key gives the result as a BSON value, which is valid until the next call.
func (r *runner) key(p *Mapper, raw []byte, e *expression) (typ byte, v []byte, why string) {
	x, why := r.eval(p, raw, e)
	if why != "" {
		return 0, nil, why
	}
	if x == nil {
		return 0, nil, "expression gives nothing; a field that it names is missing or null"
	}
	typ, r.buf, why = appendBSON(r.buf[:0], x)
	return typ, r.buf, why
}

func (r *runner) eval(p *Mapper, raw []byte, e *expression) (_ any, why string) {
	if r.env == nil {
		r.env = make(map[string]any)
	}
	for i, f := range e.fields {
		typ, v, why := p.value(raw, f)
		if why != "" {
			return nil, why
		}
		if r.env[e.names[i]], why = toAny(typ, v); why != "" {
			return nil, fmt.Sprintf("field %q: %s", p.m.refs[f].text, why)
		}
	}
	return r.exec(e)
}

// exec runs an expression whose fields are in env.
func (r *runner) exec(e *expression) (_ any, why string) {
	x, err := r.vm.Run(e.program, r.env)
	if err != nil {
		return nil, exprError(err)
	}
	return x, ""
}
