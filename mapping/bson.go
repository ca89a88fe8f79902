package mapping

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The BSON types. Their values are those on the wire.
const (
	tDouble        = 0x01
	tString        = 0x02
	tDocument      = 0x03
	tArray         = 0x04
	tBinary        = 0x05
	tUndefined     = 0x06
	tObjectID      = 0x07
	tBool          = 0x08
	tDate          = 0x09
	tNull          = 0x0A
	tRegex         = 0x0B
	tDBPointer     = 0x0C
	tCode          = 0x0D
	tSymbol        = 0x0E
	tCodeWithScope = 0x0F
	tInt32         = 0x10
	tTimestamp     = 0x11
	tInt64         = 0x12
	tDecimal       = 0x13
	tMaxKey        = 0x7F
	tMinKey        = 0xFF
)

// oldBinary is the binary subtype whose payload has a length of its own.
const oldBinary = 2

// maxDepth bounds the nesting of documents and arrays. MongoDB's own bound is 200, or up to 250 when it is configured so.
const maxDepth = 250

// fixedSize has, by type, the value's size in bytes where it is the same for all values and any bytes will do; -1 elsewhere.
var fixedSize = func() (t [256]int8) {
	for i := range t {
		t[i] = -1
	}
	for _, typ := range []byte{tUndefined, tNull, tMinKey, tMaxKey} {
		t[typ] = 0
	}
	for _, typ := range []byte{tDouble, tDate, tTimestamp, tInt64} {
		t[typ] = 8
	}
	t[tInt32], t[tObjectID], t[tDecimal] = 4, 12, 16
	return t
}()

// typeNames has the types' words, as they stand in the plan, in reasons and in the documentation.
var typeNames = [256]string{
	tDouble: "double", tString: "string", tDocument: "document", tArray: "array", tBinary: "binary", tUndefined: "undefined",
	tObjectID: "objectId", tBool: "bool", tDate: "date", tNull: "null", tRegex: "regex", tDBPointer: "dbPointer", tCode: "code",
	tSymbol: "symbol", tCodeWithScope: "codeWithScope", tInt32: "int32", tTimestamp: "timestamp", tInt64: "int64",
	tDecimal: "decimal128", tMaxKey: "maxKey", tMinKey: "minKey",
}

// typeName is the word for the type of a checked value; a binary's has the subtype in it, as bytes of two subtypes can be equal.
func typeName(typ byte, v []byte) string {
	if typ == tBinary {
		return "binary(" + strconv.Itoa(int(v[4])) + ")"
	}
	return typeNames[typ]
}

// typeNamed is the type, and of binary the subtype, that typeName gave a word. It is 0 for other words.
func typeNamed(word string) (typ, subtype byte) {
	if word == "" {
		return 0, 0
	}
	if rest, ok := strings.CutPrefix(word, "binary("); ok {
		n, err := strconv.ParseUint(strings.TrimSuffix(rest, ")"), 10, 8)
		if err != nil {
			return 0, 0
		}
		return tBinary, byte(n)
	}
	return byte(max(0, slices.Index(typeNames[:], word))), 0
}

func int32At(b []byte, p int) int { return int(int32(binary.LittleEndian.Uint32(b[p:]))) }

// checkValue checks the value of a type at raw[p:], which has to end at or before end, and returns where it ends. When it is
// corrupt, why is not empty and the int says where.
func checkValue(raw []byte, p, end int, typ byte, depth int) (next int, why string) {
	if n := int(fixedSize[typ]); n >= 0 {
		if end-p < n {
			return p, "value runs beyond its document"
		}
		return p + n, ""
	}
	switch typ {
	case tBool:
		if end-p < 1 {
			return p, "value runs beyond its document"
		}
		if raw[p] > 1 {
			return p, fmt.Sprintf("bool byte is 0x%02x, not 0 or 1", raw[p])
		}
		return p + 1, ""
	case tString, tCode, tSymbol:
		return checkString(raw, p, end)
	case tDocument, tArray:
		return checkDocument(raw, p, end, depth+1)
	case tBinary:
		if end-p < 5 {
			return p, "value runs beyond its document"
		}
		if n := int32At(raw, p); n < 0 || n > end-p-5 {
			return p, fmt.Sprintf("binary length %d is not 0 to %d", n, end-p-5)
		}
		return p + 5 + int32At(raw, p), ""
	case tRegex:
		for range 2 {
			i := bytes.IndexByte(raw[p:end], 0)
			if i < 0 {
				return p, "regex has no terminator"
			}
			p += i + 1
		}
		return p, ""
	case tDBPointer:
		p, why = checkString(raw, p, end)
		if why == "" && end-p < 12 {
			why = "value runs beyond its document"
		}
		if why != "" {
			return p, why
		}
		return p + 12, ""
	case tCodeWithScope:
		if end-p < 4 {
			return p, "value runs beyond its document"
		}
		n := int32At(raw, p)
		if n < 4 || n > end-p {
			return p, fmt.Sprintf("code with scope length %d is not 4 to %d", n, end-p)
		}
		last := p + n
		q, why := checkString(raw, p+4, last)
		if why != "" {
			return q, why
		}
		if q, why = checkDocument(raw, q, last, depth+1); why != "" {
			return q, why
		}
		if q != last {
			return p, fmt.Sprintf("code with scope length %d, but its parts have %d bytes", n, q-p)
		}
		return q, ""
	}
	return p, fmt.Sprintf("unknown type 0x%02x", typ)
}

// checkString is checkValue for a length-prefixed string.
func checkString(raw []byte, p, end int) (int, string) {
	if end-p < 5 {
		return p, "value runs beyond its document"
	}
	n := int32At(raw, p)
	if n < 1 || n > end-p-4 {
		return p, fmt.Sprintf("string length %d is not 1 to %d", n, end-p-4)
	}
	if raw[p+3+n] != 0 {
		return p + 3 + n, "string has no terminator"
	}
	return p + 4 + n, ""
}

// checkDocument is checkValue for a document or an array inside a document; depth is its own, 1 for one in the top level.
func checkDocument(raw []byte, p, end, depth int) (int, string) {
	if depth > maxDepth {
		return p, fmt.Sprintf("documents nest deeper than %d", maxDepth)
	}
	if end-p < 5 {
		return p, "value runs beyond its document"
	}
	n := int32At(raw, p)
	if n < 5 || n > end-p {
		return p, fmt.Sprintf("document length %d is not 5 to %d", n, end-p)
	}
	last := p + n - 1
	if raw[last] != 0 {
		return last, "document has no terminator"
	}
	p += 4
	for p < last {
		typ := raw[p]
		i := bytes.IndexByte(raw[p+1:last], 0)
		if i < 0 {
			return p + 1, "field name has no terminator"
		}
		var why string
		if p, why = checkValue(raw, p+i+2, last, typ, depth); why != "" {
			return p, why
		}
	}
	return last + 1, ""
}

// skip returns where the checked value of a type at b[p:] ends.
func skip(b []byte, p int, typ byte) int {
	if n := int(fixedSize[typ]); n >= 0 {
		return p + n
	}
	switch typ {
	case tBool:
		return p + 1
	case tString, tCode, tSymbol:
		return p + 4 + int32At(b, p)
	case tBinary:
		return p + 5 + int32At(b, p)
	case tRegex:
		p += bytes.IndexByte(b[p:], 0) + 1
		return p + bytes.IndexByte(b[p:], 0) + 1
	case tDBPointer:
		return p + 4 + int32At(b, p) + 12
	}
	return p + int32At(b, p) // document, array, code with scope
}

// elements walks a checked document or array, b with its length and terminator, until f returns false.
func elements(b []byte, f func(name []byte, typ byte, v []byte) bool) {
	for p := 4; p < len(b)-1; {
		typ := b[p]
		i := p + 1 + bytes.IndexByte(b[p+1:], 0)
		end := skip(b, i+1, typ)
		if !f(b[p+1:i], typ, b[i+1:end]) {
			return
		}
		p = end
	}
}

// step is one part of a field path. index is its number, or -1 when it is none and so selects nothing in an array.
type step struct {
	name  string
	index int
}

// parsePath parts a field path at its dots.
func parsePath(s string) (path []step, why string) {
	if s == "" {
		return nil, "is empty; give a field name, such as _id"
	}
	for name := range strings.SplitSeq(s, ".") {
		if name == "" {
			return nil, fmt.Sprintf("%q has an empty name between dots; write it as a.b or a.0.b", s)
		}
		if strings.ContainsRune(name, 0) {
			return nil, fmt.Sprintf("%q has a NUL in it, which no field name can have", s)
		}
		path = append(path, newStep(name))
	}
	return path, ""
}

func newStep(name string) step {
	n, err := strconv.ParseUint(name, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != name {
		return step{name, -1}
	}
	return step{name, int(n)}
}

// follow goes on from a checked value along a path. typ 0 says that nothing is there; twice that a name on the path is there
// two times, so that the path does not say which.
func follow(typ byte, v []byte, path []step) (_ byte, _ []byte, twice bool) {
	for i := range path {
		s := &path[i]
		var found byte
		var at []byte
		switch typ {
		case tDocument:
			for p := 4; p < len(v)-1; {
				t := v[p]
				q := p + 1 + bytes.IndexByte(v[p+1:], 0)
				end := skip(v, q+1, t)
				if string(v[p+1:q]) == s.name {
					if found != 0 {
						return 0, nil, true
					}
					found, at = t, v[q+1:end]
				}
				p = end
			}
		case tArray:
			if s.index < 0 {
				return 0, nil, false
			}
			n := 0
			for p := 4; p < len(v)-1; n++ {
				t := v[p]
				q := p + 2 + bytes.IndexByte(v[p+1:], 0)
				end := skip(v, q, t)
				if n == s.index {
					found, at = t, v[q:end]
					break
				}
				p = end
			}
		}
		if found == 0 {
			return 0, nil, false
		}
		typ, v = found, at
	}
	return typ, v, false
}
