package mapping

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

// appendJSON appends a checked value as canonical Extended JSON, without white space and with names in their order, as the
// driver's MarshalExtJSON writes it. Where JSON cannot hold the value as it is, why says so. It gives up once more than limit
// bytes are appended, so that a value that no cell can take costs no memory; what it returns then is longer than limit.
func appendJSON(dst []byte, typ byte, v []byte, limit int) (_ []byte, why string) {
	switch typ {
	case tDouble:
		dst = append(dst, `{"$numberDouble":"`...)
		dst = appendDouble(dst, math.Float64frombits(binary.LittleEndian.Uint64(v)))
		return append(dst, `"}`...), ""
	case tString:
		return appendQuoted(dst, text(v))
	case tDocument, tArray:
		return appendJSONDocument(dst, typ, v, limit)
	case tBinary:
		payload, ok := binaryPayload(v)
		if !ok {
			return dst, badOldBinary
		}
		dst = append(dst, `{"$binary":{"base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, payload)
		dst = append(dst, `","subType":"`...)
		dst = hex.AppendEncode(dst, v[4:5])
		return append(dst, `"}}`...), ""
	case tUndefined:
		return append(dst, `{"$undefined":true}`...), ""
	case tObjectID:
		return appendJSONObjectID(dst, v), ""
	case tBool:
		return strconv.AppendBool(dst, v[0] == 1), ""
	case tDate:
		dst = append(dst, `{"$date":{"$numberLong":"`...)
		dst = strconv.AppendInt(dst, int64At(v), 10)
		return append(dst, `"}}`...), ""
	case tNull:
		return append(dst, "null"...), ""
	case tRegex:
		i := bytes.IndexByte(v, 0)
		dst = append(dst, `{"$regularExpression":{"pattern":`...)
		if dst, why = appendQuoted(dst, v[:i]); why != "" {
			return dst, why
		}
		dst = append(dst, `,"options":`...)
		if dst, why = appendQuoted(dst, sorted(v[i+1:len(v)-1])); why != "" {
			return dst, why
		}
		return append(dst, "}}"...), ""
	case tDBPointer:
		dst = append(dst, `{"$dbPointer":{"$ref":`...)
		if dst, why = appendQuoted(dst, v[4:len(v)-13]); why != "" {
			return dst, why
		}
		dst = append(dst, `,"$id":`...)
		dst = appendJSONObjectID(dst, v[len(v)-12:])
		return append(dst, "}}"...), ""
	case tCode, tSymbol:
		name := `{"$code":`
		if typ == tSymbol {
			name = `{"$symbol":`
		}
		if dst, why = appendQuoted(append(dst, name...), text(v)); why != "" {
			return dst, why
		}
		return append(dst, '}'), ""
	case tCodeWithScope:
		scope := 8 + int32At(v, 4)
		if dst, why = appendQuoted(append(dst, `{"$code":`...), text(v[4:scope])); why != "" {
			return dst, why
		}
		dst = append(dst, `,"$scope":`...)
		if dst, why = appendJSONDocument(dst, tDocument, v[scope:], limit); why != "" {
			return dst, why
		}
		return append(dst, '}'), ""
	case tInt32:
		dst = append(dst, `{"$numberInt":"`...)
		dst = strconv.AppendInt(dst, int64(int32At(v, 0)), 10)
		return append(dst, `"}`...), ""
	case tTimestamp:
		dst = append(dst, `{"$timestamp":{"t":`...)
		dst = strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint32(v[4:])), 10)
		dst = append(dst, `,"i":`...)
		dst = strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint32(v)), 10)
		return append(dst, "}}"...), ""
	case tInt64:
		dst = append(dst, `{"$numberLong":"`...)
		dst = strconv.AppendInt(dst, int64At(v), 10)
		return append(dst, `"}`...), ""
	case tDecimal:
		dst = append(dst, `{"$numberDecimal":"`...)
		return append(appendDecimal(dst, v), `"}`...), ""
	case tMinKey:
		return append(dst, `{"$minKey":1}`...), ""
	default: // the last of the checked types
		return append(dst, `{"$maxKey":1}`...), ""
	}
}

func appendJSONDocument(dst []byte, typ byte, v []byte, limit int) (_ []byte, why string) {
	open, end := byte('{'), byte('}')
	if typ == tArray {
		open, end = '[', ']'
	}
	start := len(dst)
	dst = append(dst, open)
	for p := 4; p < len(v)-1; {
		if len(dst)-start > limit {
			return dst, ""
		}
		if p > 4 {
			dst = append(dst, ',')
		}
		t := v[p]
		q := p + 1 + bytes.IndexByte(v[p+1:], 0)
		if typ == tDocument {
			if dst, why = appendQuoted(dst, v[p+1:q]); why != "" {
				return dst, why
			}
			dst = append(dst, ':')
		}
		p = skip(v, q+1, t)
		if dst, why = appendJSON(dst, t, v[q+1:p], limit); why != "" {
			return dst, why
		}
	}
	return append(dst, end), ""
}

func appendJSONObjectID(dst, id []byte) []byte {
	dst = append(dst, `{"$oid":"`...)
	dst = hex.AppendEncode(dst, id)
	return append(dst, `"}`...)
}

// appendDouble writes the shortest text that reads back as f, and a whole number with ".0" unless it has an exponent.
func appendDouble(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'G', -1, 64)
	for _, c := range dst[start:] {
		if c == 'E' || c == '.' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

// appendDecimal writes a Decimal128 (16 bytes, little-endian) in its canonical text: plain where that needs no padding and at
// most five zeros after the point, else scientific. So 1.0 and 1.00 differ.
func appendDecimal(dst, v []byte) []byte {
	lo, hi := binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])
	negative := hi>>63 == 1
	if negative && hi>>58&0x1F != 0x1F {
		dst = append(dst, '-')
	}
	exp := int(hi >> 49 & 0x3FFF)
	switch {
	case hi>>58&0x1F == 0x1F:
		return append(dst, "NaN"...)
	case hi>>58&0x1F == 0x1E:
		return append(dst, "Infinity"...)
	case hi>>61&3 == 3: // the other form can only state coefficients that are too large; they count as 0
		exp = int(hi >> 47 & 0x3FFF)
		hi, lo = 0, 0
	default:
		hi &= 1<<49 - 1
	}
	exp -= 6176

	// 113 bits are at most 35 digits: 16 above and 19 below.
	const e19 = 10_000_000_000_000_000_000
	var buf [40]byte
	above, below := bits.Div64(hi, lo, e19)
	digits := buf[:0]
	if above > 0 {
		digits = strconv.AppendUint(digits, above, 10)
		n := len(digits)
		digits = strconv.AppendUint(digits, below, 10)
		if pad := 19 - (len(digits) - n); pad > 0 {
			tail := len(digits) - n
			digits = digits[:n+19]
			copy(digits[n+pad:], digits[n:n+tail])
			for i := range pad {
				digits[n+i] = '0'
			}
		}
	} else {
		digits = strconv.AppendUint(digits, below, 10)
	}

	scientific := exp + len(digits) - 1
	if exp > 0 || scientific < -6 {
		dst = append(dst, digits[0])
		if len(digits) > 1 {
			dst = append(dst, '.')
			dst = append(dst, digits[1:]...)
		}
		dst = append(dst, 'E')
		if scientific >= 0 {
			dst = append(dst, '+')
		}
		return strconv.AppendInt(dst, int64(scientific), 10)
	}
	if exp == 0 {
		return append(dst, digits...)
	}
	point := len(digits) + exp // digits before the point
	if point > 0 {
		dst = append(dst, digits[:point]...)
		dst = append(dst, '.')
		return append(dst, digits[point:]...)
	}
	dst = append(dst, "0."...)
	for range -point {
		dst = append(dst, '0')
	}
	return append(dst, digits...)
}

// appendQuoted writes a JSON string. JSON holds only UTF-8: replacing what is not would make different values equal.
func appendQuoted(dst, s []byte) (_ []byte, why string) {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\b':
				dst = append(dst, `\b`...)
			case '\f':
				dst = append(dst, `\f`...)
			case '\n':
				dst = append(dst, `\n`...)
			case '\r':
				dst = append(dst, `\r`...)
			case '\t':
				dst = append(dst, `\t`...)
			default:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && n == 1 {
			return dst, "text is not UTF-8, which JSON needs; use the encoding bson"
		}
		if r == '\u2028' || r == '\u2029' { // line ends in JavaScript, though not in JSON
			dst = append(dst, s[start:i]...)
			dst = append(dst, '\\', 'u', '2', '0', '2', hexDigits[r&15])
			start = i + n
		}
		i += n
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"'), ""
}

// sorted gives the bytes of a regex's options in order; most have them so already.
func sorted(s []byte) []byte {
	for i := 1; i < len(s); i++ {
		if s[i] < s[i-1] {
			r := []rune(string(s))
			slices.Sort(r)
			return []byte(string(r))
		}
	}
	return s
}
