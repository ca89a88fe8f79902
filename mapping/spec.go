// Package mapping makes rows of documents: it says which key, columns, encodings and timestamp a BSON document gets in
// HBase, and refuses the documents of which HBase would never take the row.
//
// A Spec is a mapping as a person writes it; Compile checks it and gives a Mapping, which is shared and immutable; a Mapper
// belongs to one goroutine and appends rows to batches. What a document becomes depends on the document, the Spec and
// the plan's timestamp and key type, and on nothing else: no clock, no chance, no earlier document.
//
// Words: a field path reaches a value inside a document, with dots between names and numbers for array elements; an
// expression computes one (expression.go has its functions); an encoding says how a value becomes a cell's bytes.
//
// Documents stay raw BSON here. To read single documents at leisure, use the driver's bson package instead.
package mapping

import "strings"

// Encoding says how a BSON value becomes a cell's bytes.
type Encoding string

// The encodings; docs/job-file.md has the table of every BSON type under each.
const (
	Bytes Encoding = "bytes" // HBase's Bytes.toBytes: readable by other tools, not reversible
	BSON  Encoding = "bson"  // type byte, then the value's own BSON bytes: lossless
	JSON  Encoding = "json"  // canonical Extended JSON
)

// Column maps one field to one column.
type Column struct {
	From     string   // field path, dots between names; a number selects an array element
	To       string   // family:qualifier; the qualifier alone where Spec.Family is set
	Encoding Encoding // "" is the Spec's
}

// Spec is a mapping as the job file states it. The zero value of a field is its default.
type Spec struct {
	Key         string   // field path or expression; "" is _id
	KeyEncoding Encoding // "" is bytes
	Family      string   // for columns whose To has no family, and for all fields without Columns
	Encoding    Encoding // "" is bytes
	Timestamp   string   // "" and "plan": the plan's; a field path; or milliseconds in digits
	Document    string   // family:qualifier for the whole document as BSON; "" is none
	Columns     []Column // empty: every top-level field becomes Family:<field>, unless Document is set and Family is not
	Filter      string   // expression; "" lets all through
	Empty       string   // "" and "dead", or "skip"

	// MaxRow bounds an encoded row, where gateways take frames of a limited size; 0 is no bound. Not part of the fingerprint.
	MaxRow int
}

// Fault is one thing wrong with a Spec.
type Fault struct {
	Field string // path in the job file's words: "key", "columns[2].to", "filter"
	Msg   string // what is wrong and what would be right
}

// Faults are all things found wrong with a Spec.
type Faults []Fault

func (f Faults) Error() string {
	msgs := make([]string, len(f))
	for i, x := range f {
		msgs[i] = "map." + x.Field + ": " + x.Msg
	}
	return strings.Join(msgs, "; ")
}
