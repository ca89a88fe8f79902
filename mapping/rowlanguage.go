package mapping

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"
)

// ofRows is the language of row mappings. The row key is key, a column is family.qualifier, or doc["family"]["qualifier"] with
// any names. Both are text whatever their bytes, since most tables hold text; so everything that gives bytes to documents
// gives text here, and lengths and places count bytes.
var ofRows = language{
	builtins:  slices.DeleteFunc(slices.Clone(builtins), func(s string) bool { return s == "len" }), // it counts characters
	functions: rowFunctions(),
	text:      true,
	grow: func(path []step, name string, number bool) ([]step, bool, string) {
		switch {
		case len(path) == 0 && number:
			return nil, false, ""
		case path == nil && name == rowKey:
			return []step{{}}, true, ""
		case len(path) == 0 && name == "":
			return nil, false, "a family has a name"
		case len(path) == 1 && isKey(path):
			return nil, false, "" // a byte of it
		case len(path) == 2 && number:
			return nil, false, ""
		case len(path) == 2:
			return nil, false, fmt.Sprintf("%s.%s.%s is no column; a qualifier with a dot in it is written %s[%q]",
				path[0].name, path[1].name, name, path[0].name, path[1].name+"."+name)
		}
		return append(slices.Clone(path), step{name: name}), true, ""
	},
	whole: func(path []step) string {
		switch {
		case len(path) == 0:
			return `doc stands for the whole row and needs constant names, such as doc["d"]["a b"]`
		case len(path) == 1 && !isKey(path):
			return fmt.Sprintf(`%s is a column family; name a column of it, such as %[1]s.name or %[1]s["odd name"]. The row key is key`, path[0].name)
		}
		return ""
	},
}

// rowKey is the name of the row key. Its path is one step without a name, which no family has.
const rowKey = "key"

func isKey(path []step) bool { return len(path) == 1 && path[0].name == "" }

// rowFunctions are those of documents with text for bytes, and those that read what is in cells.
func rowFunctions() []function {
	binary, text := reflect.TypeFor[[]byte](), reflect.TypeFor[string]()
	var out []function
	for _, f := range functions {
		run, types := f.run, f.types
		f.run = func(args ...any) (any, error) {
			x, err := run(args...)
			if b, ok := x.([]byte); ok {
				x = string(b)
			}
			return x, err
		}
		f.types = nil
		for _, t := range types {
			typ := reflect.TypeOf(t).Elem()
			if typ.Out(0) == binary {
				in := make([]reflect.Type, typ.NumIn())
				for i := range in {
					in[i] = typ.In(i)
				}
				typ = reflect.FuncOf(in, []reflect.Type{text}, typ.IsVariadic())
			}
			f.types = append(f.types, reflect.New(typ).Interface())
		}
		out = append(out, f)
	}
	return append(out,
		function{name: "len", types: []any{new(func(any) int)}, run: length},
		function{name: "number", types: []any{new(func(any) int64)}, run: number64},
		function{name: "double", types: []any{new(func(any) float64)}, run: double},
		function{name: "time", types: []any{new(func(any) time.Time)}, run: millis},
	)
}

// length is how many bytes a text has, or elements an array.
func length(args ...any) (any, error) {
	switch x := args[0].(type) {
	case string:
		return len(x), nil
	case nil:
		return nil, errors.New("there is nothing; the row has no such column")
	}
	if v := reflect.ValueOf(args[0]); v.Kind() == reflect.Slice {
		return v.Len(), nil
	}
	return nil, fmt.Errorf("%s has no length", kind(args[0]))
}

// number64 reads a whole number as HBase's Bytes writes it: 1, 2, 4 or 8 bytes, big-endian.
func number64(args ...any) (any, error) {
	s, err := cellText(args[0])
	if err != nil {
		return nil, err
	}
	switch len(s) {
	case 1:
		return int64(int8(s[0])), nil
	case 2:
		return int64(int16(binary.BigEndian.Uint16([]byte(s)))), nil
	case 4:
		return int64(int32(binary.BigEndian.Uint32([]byte(s)))), nil
	case 8:
		return int64(binary.BigEndian.Uint64([]byte(s))), nil
	}
	return nil, fmt.Errorf("%d bytes are no number; 1, 2, 4 or 8 are. Digits are read by int", len(s))
}

// double reads a floating-point number of 4 or 8 bytes, big-endian.
func double(args ...any) (any, error) {
	s, err := cellText(args[0])
	if err != nil {
		return nil, err
	}
	switch len(s) {
	case 4:
		return float64(math.Float32frombits(binary.BigEndian.Uint32([]byte(s)))), nil
	case 8:
		return math.Float64frombits(binary.BigEndian.Uint64([]byte(s))), nil
	}
	return nil, fmt.Errorf("%d bytes are no floating-point number; 4 or 8 are", len(s))
}

// millis reads a time of 8 bytes: milliseconds since 1970, big-endian.
func millis(args ...any) (any, error) {
	s, err := cellText(args[0])
	if err != nil {
		return nil, err
	}
	if len(s) != 8 {
		return nil, fmt.Errorf("%d bytes are no time; 8 are. A text is read by date", len(s))
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64([]byte(s)))).UTC(), nil
}

func cellText(x any) (string, error) {
	switch x := x.(type) {
	case string:
		return x, nil
	case nil:
		return "", errors.New("there is nothing; the row has no such column")
	}
	return "", fmt.Errorf("%s is not what a cell holds", kind(x))
}
