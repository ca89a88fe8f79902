package check

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// encode gives the cell that a value becomes. There is none for null under "bytes".
func encode(encoding string, v bson.RawValue) (cell []byte, exists bool, err error) {
	switch encoding {
	case "bson":
		return append([]byte{byte(v.Type)}, v.Value...), true, nil
	case "json":
		cell, err = extendedJSON(v)
		return cell, true, err
	case "bytes", "":
		return encodeBytes(v)
	}
	return nil, false, fmt.Errorf("encoding %q: want bytes, bson or json", encoding)
}

func encodeBytes(v bson.RawValue) (cell []byte, exists bool, err error) {
	b := v.Value
	switch v.Type {
	case bson.TypeNull:
		return nil, false, nil
	case bson.TypeInt32:
		if len(b) != 4 {
			return nil, false, errSize(v)
		}
		return binary.BigEndian.AppendUint32(nil, binary.LittleEndian.Uint32(b)), true, nil
	case bson.TypeInt64, bson.TypeDouble, bson.TypeDateTime, bson.TypeTimestamp:
		// All four are eight bytes, little-endian in BSON. A timestamp's seconds are its high half there too.
		if len(b) != 8 {
			return nil, false, errSize(v)
		}
		return binary.BigEndian.AppendUint64(nil, binary.LittleEndian.Uint64(b)), true, nil
	case bson.TypeString:
		s, ok := v.StringValueOK()
		if !ok {
			return nil, false, errSize(v)
		}
		return []byte(s), true, nil
	case bson.TypeBoolean:
		if len(b) != 1 {
			return nil, false, errSize(v)
		}
		if b[0] != 0 {
			return []byte{0xff}, true, nil
		}
		return []byte{0}, true, nil
	case bson.TypeObjectID:
		if len(b) != 12 {
			return nil, false, errSize(v)
		}
		return bytes.Clone(b), true, nil
	case bson.TypeBinary:
		_, payload, ok := v.BinaryOK()
		if !ok {
			return nil, false, errSize(v)
		}
		return bytes.Clone(payload), true, nil
	case bson.TypeDecimal128:
		d, ok := v.Decimal128OK()
		if !ok {
			return nil, false, errSize(v)
		}
		return []byte(d.String()), true, nil
	}
	cell, err = extendedJSON(v)
	return cell, true, err
}

func errSize(v bson.RawValue) error {
	return fmt.Errorf("a %s of %d bytes is corrupt", v.Type, len(v.Value))
}

// extendedJSON gives the canonical Extended JSON of one value, without white space.
func extendedJSON(v bson.RawValue) ([]byte, error) {
	// An empty binary of the old subtype: the driver writes its inner length as if it were data.
	if v.Type == bson.TypeBinary && bytes.Equal(v.Value, []byte{4, 0, 0, 0, bson.TypeBinaryBinaryOld, 0, 0, 0, 0}) {
		return []byte(`{"$binary":{"base64":"","subType":"02"}}`), nil
	}
	// The driver marshals documents only, so the value goes into one and its wrapping comes off again.
	doc := make([]byte, 4, 4+3+len(v.Value)+1)
	doc = append(doc, byte(v.Type), 'v', 0)
	doc = append(doc, v.Value...)
	doc = append(doc, 0)
	binary.LittleEndian.PutUint32(doc, uint32(len(doc)))
	text, err := bson.MarshalExtJSON(bson.Raw(doc), true, false)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", v.Type, err)
	}
	inner, ok := bytes.CutPrefix(text, []byte(`{"v":`))
	if !ok || len(inner) == 0 {
		return nil, fmt.Errorf("write %s as JSON: %s", v.Type, text)
	}
	return inner[:len(inner)-1], nil
}

// isJSON tells whether a value's cell is JSON text.
func isJSON(encoding string, t bson.Type) bool {
	switch encoding {
	case "json":
		return true
	case "bson":
		return false
	}
	switch t {
	case bson.TypeInt32, bson.TypeInt64, bson.TypeDouble, bson.TypeDateTime, bson.TypeTimestamp, bson.TypeString,
		bson.TypeBoolean, bson.TypeObjectID, bson.TypeBinary, bson.TypeDecimal128, bson.TypeNull:
		return false
	}
	return true
}

// sameJSON tells whether two texts hold the same tokens in the same order. JSON leaves it open how a character in a string
// is escaped, so the bytes may differ; white space between tokens may not.
func sameJSON(a, b []byte) bool {
	var compact bytes.Buffer
	if json.Compact(&compact, a) != nil || compact.Len() != len(a) {
		return false
	}
	da, db := json.NewDecoder(bytes.NewReader(a)), json.NewDecoder(bytes.NewReader(b))
	da.UseNumber()
	db.UseNumber()
	for {
		ta, ea := da.Token()
		tb, eb := db.Token()
		if ea != nil || eb != nil {
			return errors.Is(ea, io.EOF) && errors.Is(eb, io.EOF)
		}
		if ta != tb {
			return false
		}
	}
}

// lookup walks a path of names with dots between them. In an array a number is an index.
func lookup(doc bson.Raw, path string) (bson.RawValue, bool) {
	name, rest, deeper := strings.Cut(path, ".")
	v, ok := field(doc, name, false)
	for ok && deeper {
		var in bson.Raw
		switch v.Type {
		case bson.TypeEmbeddedDocument, bson.TypeArray:
			in = bson.Raw(v.Value)
		default:
			return bson.RawValue{}, false
		}
		isArray := v.Type == bson.TypeArray
		name, rest, deeper = strings.Cut(rest, ".")
		v, ok = field(in, name, isArray)
	}
	return v, ok
}

func field(doc bson.Raw, name string, isArray bool) (bson.RawValue, bool) {
	elements, err := doc.Elements()
	if err != nil {
		return bson.RawValue{}, false
	}
	if isArray {
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= len(elements) {
			return bson.RawValue{}, false
		}
		return elements[i].Value(), true
	}
	for _, e := range elements {
		if e.Key() == name {
			return e.Value(), true
		}
	}
	return bson.RawValue{}, false
}
