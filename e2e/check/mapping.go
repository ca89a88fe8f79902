package check

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Mapping says which cells are expected of a document, in the words of the job file. The zero value is the default mapping
// into family "d": the key is _id, every top-level field a column, everything in encoding "bytes".
type Mapping struct {
	Key         string // field path; "" is _id
	KeyEncoding string // "" is bytes
	Family      string // "" is d
	Encoding    string // "" is bytes
	Columns     []Column
	Document    string // family:qualifier of the whole document as BSON; "" is none

	// Timestamp is that of every cell. 0 says that it is not known: then all cells must have one and the same, which the
	// report gives.
	Timestamp     int64
	TimestampFrom string // field path to a date, ObjectID or integer that gives each document's instead

	// RowKey replaces Key and KeyEncoding, for keys that are expressions.
	RowKey func(doc bson.Raw) ([]byte, error)
	// Omit tells of a document that must have no row, because it was filtered or is dead.
	Omit func(doc bson.Raw) bool
}

// Column maps one field to one column.
type Column struct {
	From     string // field path
	To       string // family:qualifier
	Encoding string // "" is the mapping's
}

type cell struct {
	family, qualifier, value []byte
	timestamp                int64 // 0: not known
	json                     bool  // the value is JSON text
}

func (c cell) column() string { return string(c.family) + ":" + string(c.qualifier) }

func compareColumns(a, b cell) int {
	return cmp.Or(bytes.Compare(a.family, b.family), bytes.Compare(a.qualifier, b.qualifier))
}

// key gives a document's row key.
func (m *Mapping) key(doc bson.Raw) ([]byte, error) {
	if m.RowKey != nil {
		return m.RowKey(doc)
	}
	path := cmp.Or(m.Key, "_id")
	v, ok := lookup(doc, path)
	if !ok {
		return nil, fmt.Errorf("it has no field %s for its key", path)
	}
	key, ok, err := encode(m.KeyEncoding, v)
	if err != nil {
		return nil, fmt.Errorf("field %s as key: %w", path, err)
	}
	if !ok || len(key) == 0 {
		return nil, fmt.Errorf("field %s gives an empty key", path)
	}
	return key, nil
}

// cells gives the cells expected of a document, in the order of a table: by family, then qualifier.
func (m *Mapping) cells(doc bson.Raw) ([]cell, error) {
	timestamp := m.Timestamp
	if m.TimestampFrom != "" {
		var err error
		if timestamp, err = m.timestampOf(doc); err != nil {
			return nil, err
		}
	}
	var cells []cell
	add := func(column []byte, encoding string, v bson.RawValue) error {
		family, qualifier, ok := bytes.Cut(column, []byte(":"))
		if !ok {
			return fmt.Errorf("column %q: want family:qualifier", column)
		}
		encoding = cmp.Or(encoding, m.Encoding)
		value, ok, err := encode(encoding, v)
		if err != nil {
			return fmt.Errorf("column %s: %w", column, err)
		}
		if ok {
			cells = append(cells, cell{family, qualifier, value, timestamp, isJSON(encoding, v.Type)})
		}
		return nil
	}
	switch {
	case len(m.Columns) > 0:
		for _, c := range m.Columns {
			if v, ok := lookup(doc, c.From); ok {
				if err := add([]byte(c.To), c.Encoding, v); err != nil {
					return nil, err
				}
			}
		}
	case m.Document == "":
		elements, err := doc.Elements()
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			if err := add([]byte(cmp.Or(m.Family, "d")+":"+e.Key()), "", e.Value()); err != nil {
				return nil, err
			}
		}
	}
	if m.Document != "" {
		family, qualifier, _ := strings.Cut(m.Document, ":")
		cells = append(cells, cell{[]byte(family), []byte(qualifier), doc, timestamp, false})
	}
	slices.SortStableFunc(cells, compareColumns)
	for i := 1; i < len(cells); i++ {
		if compareColumns(cells[i-1], cells[i]) == 0 {
			return nil, fmt.Errorf("two of its fields map to column %s", cells[i].column())
		}
	}
	return cells, nil
}

func (m *Mapping) timestampOf(doc bson.Raw) (int64, error) {
	v, ok := lookup(doc, m.TimestampFrom)
	if !ok {
		return 0, fmt.Errorf("it has no field %s for its timestamp", m.TimestampFrom)
	}
	switch v.Type {
	case bson.TypeDateTime:
		return v.DateTime(), nil
	case bson.TypeObjectID:
		return v.ObjectID().Timestamp().UnixMilli(), nil
	case bson.TypeInt32:
		return int64(v.Int32()), nil
	case bson.TypeInt64:
		return v.Int64(), nil
	}
	return 0, fmt.Errorf("field %s is a %s, which is no timestamp", m.TimestampFrom, v.Type)
}
