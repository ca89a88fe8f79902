package mapping

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/zeebo/xxh3"
)

// The Go types of BSON values in expressions, where Go's own will not do: doubles, int32 and int64, strings, bools, []byte
// for binary (the subtype is lost), time.Time for dates, map[string]any, []any, and nil for null, undefined and what is
// missing.
type (
	objectID [12]byte
	decimal  [16]byte
	opaque   struct { // any other type: it can be compared for equality and encoded
		typ byte
		v   string
	}
)

// toAny decodes a checked value for an expression.
func toAny(typ byte, v []byte) (_ any, why string) {
	switch typ {
	case 0, tNull, tUndefined:
		return nil, ""
	case tDouble:
		return math.Float64frombits(binary.LittleEndian.Uint64(v)), ""
	case tString:
		return string(text(v)), ""
	case tBool:
		return v[0] == 1, ""
	case tInt32:
		return int32(int32At(v, 0)), ""
	case tInt64:
		return int64At(v), ""
	case tDate:
		return time.UnixMilli(int64At(v)).UTC(), ""
	case tObjectID:
		return objectID(v), ""
	case tDecimal:
		return decimal(v), ""
	case tBinary:
		payload, ok := binaryPayload(v)
		if !ok {
			return nil, badOldBinary
		}
		return bytes.Clone(payload), ""
	case tArray:
		a := []any{}
		elements(v, func(_ []byte, typ byte, v []byte) bool {
			var x any
			x, why = toAny(typ, v)
			a = append(a, x)
			return why == ""
		})
		return a, why
	case tDocument:
		m := make(map[string]any)
		elements(v, func(name []byte, typ byte, v []byte) bool {
			if _, twice := m[string(name)]; twice {
				why = fmt.Sprintf("field %q is there twice", name)
				return false
			}
			m[string(name)], why = toAny(typ, v)
			return why == ""
		})
		return m, why
	}
	return opaque{typ, string(v)}, ""
}

// appendBSON appends what an expression gave as a BSON value and says its type.
func appendBSON(dst []byte, x any) (typ byte, _ []byte, why string) {
	le := binary.LittleEndian
	switch x := x.(type) {
	case string:
		dst = le.AppendUint32(dst, uint32(len(x)+1))
		return tString, append(append(dst, x...), 0), ""
	case []byte:
		dst = append(le.AppendUint32(dst, uint32(len(x))), 0)
		return tBinary, append(dst, x...), ""
	case int:
		return tInt64, le.AppendUint64(dst, uint64(x)), ""
	case int64:
		return tInt64, le.AppendUint64(dst, uint64(x)), ""
	case int32:
		return tInt32, le.AppendUint32(dst, uint32(x)), ""
	case float64:
		return tDouble, le.AppendUint64(dst, math.Float64bits(x)), ""
	case bool:
		if x {
			return tBool, append(dst, 1), ""
		}
		return tBool, append(dst, 0), ""
	case time.Time:
		return tDate, le.AppendUint64(dst, uint64(x.UnixMilli())), ""
	case objectID:
		return tObjectID, append(dst, x[:]...), ""
	case decimal:
		return tDecimal, append(dst, x[:]...), ""
	case opaque:
		return x.typ, append(dst, x.v...), ""
	case nil:
		return 0, dst, "there is nothing; a field is missing or null"
	}
	return 0, dst, fmt.Sprintf("%s has no bytes of its own; name a field in it", kind(x))
}

// asBytes gives a value's bytes under the encoding bytes, in memory that nothing else uses.
func asBytes(x any) ([]byte, error) {
	switch x := x.(type) {
	case string:
		return []byte(x), nil
	case []byte:
		return bytes.Clone(x), nil
	case objectID:
		return bytes.Clone(x[:]), nil
	}
	typ, v, why := appendBSON(nil, x)
	if why == "" {
		v, why = appendEncoded(nil, encBytes, typ, v)
	}
	if why != "" {
		return nil, errors.New(why)
	}
	return v, nil
}

// kind names a value's type in reasons, with its article.
func kind(x any) string {
	word := fmt.Sprintf("%T", x)
	switch x := x.(type) {
	case nil:
		return "null"
	case []byte:
		word = "binary"
	case []any:
		word = "array"
	case map[string]any:
		word = "document"
	default:
		if typ, _, why := appendBSON(nil, x); why == "" {
			word = typeNames[typ]
		}
	}
	if strings.ContainsRune("aeiou", rune(word[0])) {
		return "an " + word
	}
	return "a " + word
}

// function is one that expressions can call.
type function struct {
	name  string
	types []any // func types, one for each form
	run   func(args ...any) (any, error)

	least, most int // of the second argument, where it is a number that has bounds
}

// sized is a function of a value and a number within bounds, which is the most where it may be left out and is.
func sized(name string, least, most int, types []any, run func(x any, n int) (any, error)) function {
	return function{name: name, types: types, least: least, most: most, run: func(args ...any) (any, error) {
		if len(args) == 1 {
			return run(args[0], most)
		}
		n, err := whole(args[1])
		if err != nil {
			return nil, err
		}
		if n < int64(least) || n > int64(most) {
			return nil, fmt.Errorf("takes %d to %d, not %d", least, most, n)
		}
		return run(args[0], int(n))
	}}
}

// operatorPrefix starts the names of functions that stand for operators; nobody can write it.
const operatorPrefix = "operator "

var functions = []function{
	{name: "concat", types: []any{new(func(any, ...any) any)}, run: concat},
	sized("pad", 1, 1000, []any{new(func(any, int) string)}, pad),
	sized("fixed", 1, math.MaxInt16, []any{new(func(any, int) []byte)}, fixed),
	{name: "reverse", types: []any{new(func(any) []byte)}, run: reverse},
	sized("hash", 1, 16, []any{new(func(any) []byte), new(func(any, int) []byte)}, hash),
	sized("salt", 2, 256, []any{new(func(any, int) []byte)}, salt),
	{name: "hex", types: []any{new(func(any) string)}, run: hexText},
	{name: "str", types: []any{new(func(any) string)}, run: str},
	{name: "be", types: []any{new(func(any) []byte)}, run: be},
	{name: "invert", types: []any{new(func(any) []byte)}, run: invert},
	{name: "date", types: []any{new(func(any) time.Time)}, run: date},
}

// operators are what lenient puts in the place of the language's.
var operators = []function{
	{name: operatorPrefix + "bool", types: []any{new(func(any) bool)}, run: func(args ...any) (any, error) { return truth(args[0]) }},
	{name: operatorPrefix + "==", types: compares, run: func(args ...any) (any, error) { return equal(args[0], args[1]), nil }},
	{name: operatorPrefix + "!=", types: compares, run: func(args ...any) (any, error) { return !equal(args[0], args[1]), nil }},
	{name: operatorPrefix + "<", types: compares, run: ordered(func(c int) bool { return c < 0 })},
	{name: operatorPrefix + "<=", types: compares, run: ordered(func(c int) bool { return c <= 0 })},
	{name: operatorPrefix + ">", types: compares, run: ordered(func(c int) bool { return c > 0 })},
	{name: operatorPrefix + ">=", types: compares, run: ordered(func(c int) bool { return c >= 0 })},
	{name: operatorPrefix + "in", types: compares, run: func(args ...any) (any, error) { return in(args[0], args[1]) }},
}

var compares = []any{new(func(any, any) bool)}

func (f *function) builtin() *builtin.Function {
	b := &builtin.Function{Name: f.name, Func: func(args ...any) (any, error) {
		x, err := f.run(args...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		return x, nil
	}}
	for _, t := range f.types {
		b.Types = append(b.Types, reflect.TypeOf(t).Elem())
	}
	return b
}

// checkConstants finds a second argument out of bounds where it is written as a number.
func (f *function) checkConstants(args []ast.Node) string {
	if f.most == 0 || len(args) < 2 {
		return ""
	}
	switch n := args[1].(type) {
	case *ast.IntegerNode:
		if n.Value < f.least || n.Value > f.most {
			return fmt.Sprintf("%s takes %d to %d, not %d", f.name, f.least, f.most, n.Value)
		}
	case *ast.UnaryNode:
		if n.Operator == "-" {
			return fmt.Sprintf("%s takes %d to %d, not %s", f.name, f.least, f.most, n)
		}
	}
	return ""
}

// concat joins texts to a text, and all else to bytes.
func concat(args ...any) (any, error) {
	texts := true
	var b []byte
	for _, x := range args {
		if s, ok := x.(string); ok {
			b = append(b, s...)
			continue
		}
		texts = false
		part, err := asBytes(x)
		if err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	if texts {
		return string(b), nil
	}
	return b, nil
}

// pad writes a whole number of 0 and up, or a text of digits, with zeros before it in exactly n digits.
func pad(x any, n int) (any, error) {
	s, ok := x.(string)
	if !ok {
		i, err := whole(x)
		if err != nil {
			return nil, err
		}
		if i < 0 {
			return nil, fmt.Errorf("%d is negative, and would not sort", i)
		}
		s = strconv.FormatInt(i, 10)
	}
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return nil, fmt.Errorf("%q is no whole number of 0 and up", s)
	}
	if len(s) > n {
		return nil, fmt.Errorf("%s has more than %d digits", s, n)
	}
	return strings.Repeat("0", n-len(s)) + s, nil
}

// fixed fills the bytes of x with zero bytes at the end up to n.
func fixed(x any, n int) (any, error) {
	b, err := asBytes(x)
	if err != nil {
		return nil, err
	}
	if len(b) > n {
		return nil, fmt.Errorf("%d bytes do not fit in %d", len(b), n)
	}
	return append(b, make([]byte, n-len(b))...), nil
}

func reverse(args ...any) (any, error) {
	b, err := asBytes(args[0])
	slices.Reverse(b)
	return b, err
}

// hash is XXH3-128 with seed 0 in its canonical form, big-endian, or the first n bytes of that.
func hash(x any, n int) (any, error) {
	b, err := asBytes(x)
	if err != nil {
		return nil, err
	}
	h := xxh3.Hash128(b).Bytes()
	return h[:n], nil
}

// salt puts one byte before x: XXH3-64 of x with seed 0, modulo n.
func salt(x any, n int) (any, error) {
	b, err := asBytes(x)
	if err != nil {
		return nil, err
	}
	return slices.Insert(b, 0, byte(xxh3.Hash(b)%uint64(n))), nil
}

func hexText(args ...any) (any, error) {
	b, err := asBytes(args[0])
	return hex.EncodeToString(b), err
}

// str gives the text of a value that has one.
func str(args ...any) (any, error) {
	switch x := args[0].(type) {
	case string:
		return x, nil
	case []byte:
		if !utf8.Valid(x) {
			return nil, errors.New("binary is not UTF-8; use hex")
		}
		return string(x), nil
	case bool:
		return strconv.FormatBool(x), nil
	case int, int32, int64:
		i, _ := whole(x)
		return strconv.FormatInt(i, 10), nil
	case float64:
		return string(appendDouble(nil, x)), nil
	case time.Time:
		return x.Format("2006-01-02T15:04:05.000Z"), nil
	case objectID:
		return hex.EncodeToString(x[:]), nil
	case decimal:
		return string(appendDecimal(nil, x[:])), nil
	}
	b, err := asBytes(args[0])
	return string(b), err
}

// be gives a number or a date in big-endian bytes: 4 of an int32, 8 of the others.
func be(args ...any) (any, error) {
	switch x := args[0].(type) {
	case int, int32, int64, float64, time.Time:
		return asBytes(x)
	}
	return nil, fmt.Errorf("%s has no big-endian bytes; numbers and dates have", kind(args[0]))
}

// invert makes later times sort first: MaxInt64 less the milliseconds, in 8 big-endian bytes.
func invert(args ...any) (any, error) {
	var ms int64
	if t, ok := args[0].(time.Time); ok {
		ms = t.UnixMilli()
	} else {
		var err error
		if ms, err = whole(args[0]); err != nil {
			return nil, err
		}
	}
	if ms < 0 {
		return nil, fmt.Errorf("%d ms is before 1970", ms)
	}
	return binary.BigEndian.AppendUint64(nil, uint64(math.MaxInt64-ms)), nil
}

// date reads a time: a text in UTC unless it has an offset, milliseconds, or an objectId's second.
func date(args ...any) (any, error) {
	switch x := args[0].(type) {
	case time.Time:
		return x, nil
	case objectID:
		return time.Unix(int64(binary.BigEndian.Uint32(x[:])), 0).UTC(), nil
	case string:
		for _, layout := range []string{"2006-01-02", time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
			if t, err := time.Parse(layout, x); err == nil {
				return t.UTC(), nil
			}
		}
		return nil, fmt.Errorf("%q is no date; write 2006-01-02 or 2006-01-02T15:04:05Z", x)
	}
	ms, err := whole(args[0])
	return time.UnixMilli(ms).UTC(), err
}

// whole is the value of a whole number of any type.
func whole(x any) (int64, error) {
	switch x := x.(type) {
	case int:
		return int64(x), nil
	case int32:
		return int64(x), nil
	case int64:
		return x, nil
	case float64:
		if x == math.Trunc(x) && math.Abs(x) <= 1<<53 {
			return int64(x), nil
		}
		return 0, fmt.Errorf("%v is no whole number", x)
	}
	return 0, fmt.Errorf("%s is no number", kind(x))
}

func truth(x any) (bool, error) {
	switch x := x.(type) {
	case nil:
		return false, nil
	case bool:
		return x, nil
	}
	return false, fmt.Errorf("%s is not true or false", kind(x))
}

// number is a numeric value: whole when ok is 1, a double when it is 2.
func number(x any) (i int64, f float64, ok int) {
	switch x := x.(type) {
	case int:
		return int64(x), float64(x), 1
	case int32:
		return int64(x), float64(x), 1
	case int64:
		return x, float64(x), 1
	case float64:
		return 0, x, 2
	case decimal:
		f, err := strconv.ParseFloat(string(appendDecimal(nil, x[:])), 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return 0, 0, 0
		}
		return 0, f, 2
	}
	return 0, 0, 0
}

// compare orders two values. It is not ok when they have no order; NaN has none with any number.
func compare(a, b any) (c int, ok bool) {
	ai, af, an := number(a)
	bi, bf, bn := number(b)
	switch {
	case an == 1 && bn == 1:
		return cmp.Compare(ai, bi), true
	case an > 0 && bn > 0:
		return cmp.Compare(af, bf), !math.IsNaN(af) && !math.IsNaN(bf)
	}
	switch x := a.(type) {
	case string:
		switch y := b.(type) {
		case string:
			return cmp.Compare(x, y), true
		case objectID:
			return cmp.Compare(strings.ToLower(x), hex.EncodeToString(y[:])), len(x) == 24
		}
	case objectID:
		switch y := b.(type) {
		case objectID:
			return bytes.Compare(x[:], y[:]), true
		case string:
			return cmp.Compare(hex.EncodeToString(x[:]), strings.ToLower(y)), len(y) == 24
		}
	case []byte:
		if y, ok := b.([]byte); ok {
			return bytes.Compare(x, y), true
		}
	case time.Time:
		if y, ok := b.(time.Time); ok {
			return x.Compare(y), true
		}
	case time.Duration:
		if y, ok := b.(time.Duration); ok {
			return cmp.Compare(x, y), true
		}
	}
	return 0, false
}

// ordered is an order comparison. Between values that have no order it is false, as in MongoDB's own queries: a collection
// often holds a number in one document and an empty text in the next. But a date against anything else is a mistake of
// the expression that would leave out everything in silence, so it is an error.
func ordered(holds func(int) bool) func(args ...any) (any, error) {
	return func(args ...any) (any, error) {
		a, b := args[0], args[1]
		if c, ok := compare(a, b); ok {
			return holds(c), nil
		}
		_, x := a.(time.Time)
		_, y := b.(time.Time)
		if x != y && a != nil && b != nil {
			return nil, fmt.Errorf(`%s and %s have no order; write a date as date("2020-01-01")`, kind(a), kind(b))
		}
		return false, nil
	}
}

func equal(a, b any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	switch x := a.(type) {
	case bool:
		y, ok := b.(bool)
		return ok && x == y
	case opaque:
		y, ok := b.(opaque)
		return ok && x == y
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, equal)
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			w, ok := y[k]
			if !ok || !equal(v, w) {
				return false
			}
		}
		return true
	}
	c, ok := compare(a, b)
	return ok && c == 0
}

// in looks for x in an array, or as a field's name in a document.
func in(x, where any) (bool, error) {
	switch w := where.(type) {
	case nil:
		return false, nil
	case []any:
		return slices.ContainsFunc(w, func(y any) bool { return equal(x, y) }), nil
	case map[string]any:
		name, ok := x.(string)
		if ok {
			_, ok = w[name]
		}
		return ok, nil
	}
	if v := reflect.ValueOf(where); v.Kind() == reflect.Slice { // of numbers, as a range is
		for i := range v.Len() {
			if equal(x, v.Index(i).Interface()) {
				return true, nil
			}
		}
		return false, nil
	}
	return false, fmt.Errorf("nothing can be in %s", kind(where))
}
