// Package check compares a table with the file it was filled from, cell by cell, as a witness that shares nothing with what
// it testifies about: it reads the file, encodes and scans by its own code, written from the description of the job file.
// Where drover and check differ, one of them misreads that description.
//
// A million documents take their keys and 32 bytes each in memory; the table and the file are read side by side in the
// order of keys. Nothing outside tests may use it: a job's own check of what it wrote is another matter.
package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

// Table is a table as one gateway shows it.
type Table struct {
	Addr     string
	Protocol wire.Protocol
	Name     string // name or namespace:name
}

// Report says what a comparison found.
type Report struct {
	Documents   int64    // read from the source
	Omitted     int64    // of these, by Mapping.Omit: no row is expected of them
	Rows        int64    // in the table
	Cells       int64    // in the table, every version
	Timestamp   int64    // that all cells have in common, 0 if they have not
	Differences int64    // all of them
	First       []string // the first in words
}

// Err is nil when table and file are the same.
func (r Report) Err() error {
	if r.Differences == 0 {
		return nil
	}
	return errors.New(r.String())
}

func (r Report) String() string {
	s := fmt.Sprintf("%d documents (%d without a row), %d rows, %d cells, %d differences", r.Documents, r.Omitted, r.Rows, r.Cells, r.Differences)
	for _, d := range r.First {
		s += "\n\t" + d
	}
	if n := r.Differences - int64(len(r.First)); n > 0 && len(r.First) > 0 {
		s += fmt.Sprintf("\n\tand %d more", n)
	}
	return s
}

func (r *Report) differ(format string, args ...any) {
	r.Differences++
	if len(r.First) < maxListed {
		r.First = append(r.First, fmt.Sprintf(format, args...))
	}
}

// Equal compares a table with a source under a mapping: every expected cell must be there with its value and timestamp, and
// nothing else. The error is about reading them; differences are in the report.
func Equal(ctx context.Context, t Table, s Source, m Mapping) (Report, error) {
	x, err := s.open(&m)
	if err != nil {
		return Report{}, err
	}
	c := comparison{index: x, mapping: &m, timestamp: m.Timestamp}
	err = errors.Join(c.run(ctx, t), x.close())
	if err != nil {
		return Report{}, fmt.Errorf("compare %s with %s: %w", t.Name, s.Path, err)
	}
	return c.report, nil
}

type comparison struct {
	*index
	mapping   *Mapping
	report    Report
	at        int   // entries before it are compared
	timestamp int64 // that cells must have; 0 until the first is seen
	mixed     bool  // cells have different timestamps
}

func (c *comparison) run(ctx context.Context, t Table) error {
	r := &c.report
	r.Documents, r.Omitted = c.documents, c.omitted
	for _, b := range c.bad {
		r.differ("%s", b)
	}
	r.Differences += c.badCount - int64(len(c.bad))

	scan := Scan{Table: t, rows: c.page}
	if err := scan.Each(ctx, c.row); err != nil {
		return err
	}
	if err := c.missingBefore(nil); err != nil {
		return err
	}
	if !c.mixed {
		r.Timestamp = c.timestamp
	}
	return nil
}

// page tells how many of the next expected rows fit into one call.
func (c *comparison) page() int {
	size := 0
	for i, e := range c.entries[c.at:] {
		size += int(e.size)
		if size > pageBytes || i == pageRows {
			return max(1, i)
		}
	}
	// The last page of the source. Rows that do not belong here would follow, of any size.
	return max(1, min(len(c.entries)-c.at+1, pageRows))
}

// missingBefore reports the documents whose keys come before key as missing; nil is the end.
func (c *comparison) missingBefore(key []byte) error {
	for c.at < len(c.entries) {
		e := c.entries[c.at]
		if key != nil && e.key >= string(key) {
			return nil
		}
		c.at++
		doc, err := c.document(e)
		if err != nil {
			return err
		}
		cells, err := c.mapping.cells(doc)
		switch {
		case err != nil:
			c.report.differ("document at offset %d: %v", e.offset, err)
		case len(cells) > 0:
			c.report.differ("row %s is missing (document at offset %d)", text([]byte(e.key)), e.offset)
		}
	}
	return nil
}

// row compares one row of the table with its document.
func (c *comparison) row(got *thrift2.TResult_) error {
	r := &c.report
	r.Rows++
	r.Cells += int64(len(got.ColumnValues))
	if err := c.missingBefore(got.Row); err != nil {
		return err
	}
	if c.at == len(c.entries) || c.entries[c.at].key != string(got.Row) {
		r.differ("row %s is in the table with %d cells, and no document gives it", text(got.Row), len(got.ColumnValues))
		return nil
	}
	e := c.entries[c.at]
	c.at++
	for ; c.at < len(c.entries) && c.entries[c.at].key == e.key; c.at++ {
		r.differ("row %s: the documents at offsets %d and %d both give it", text(got.Row), e.offset, c.entries[c.at].offset)
	}
	doc, err := c.document(e)
	if err != nil {
		return err
	}
	want, err := c.mapping.cells(doc)
	if err != nil {
		r.differ("document at offset %d: %v", e.offset, err)
		return nil
	}
	c.cells(got, want)
	return nil
}

func (c *comparison) cells(got *thrift2.TResult_, want []cell) {
	r := &c.report
	row := text(got.Row)
	have := got.ColumnValues
	for len(have) > 0 || len(want) > 0 {
		var order int
		var h cell
		switch {
		case len(have) == 0:
			order = 1
		default:
			h = cell{family: have[0].Family, qualifier: have[0].Qualifier, value: have[0].Value, timestamp: have[0].GetTimestamp()}
			order = -1
			if len(want) > 0 {
				order = compareColumns(h, want[0])
			}
		}
		switch {
		case order < 0:
			r.differ("row %s: cell %s at %d = %s is not expected", row, h.column(), h.timestamp, text(h.value))
			have = have[1:]
		case order > 0:
			r.differ("row %s: cell %s = %s is missing", row, want[0].column(), text(want[0].value))
			want = want[1:]
		default:
			w := want[0]
			if !bytes.Equal(h.value, w.value) && !(w.json && sameJSON(h.value, w.value)) {
				r.differ("row %s: cell %s is %s, want %s", row, w.column(), text(h.value), text(w.value))
			}
			c.checkTimestamp(row, h, w)
			have, want = have[1:], want[1:]
			// The newest version is compared; older ones of the column are too many.
			for len(have) > 0 && bytes.Equal(have[0].Family, w.family) && bytes.Equal(have[0].Qualifier, w.qualifier) {
				r.differ("row %s: cell %s has a second version at %d beside %d", row, w.column(), have[0].GetTimestamp(), h.timestamp)
				have = have[1:]
			}
		}
	}
}

func (c *comparison) checkTimestamp(row string, have, want cell) {
	if c.mapping.TimestampFrom != "" {
		if have.timestamp != want.timestamp {
			c.report.differ("row %s: cell %s is at %d, want %d from the document", row, want.column(), have.timestamp, want.timestamp)
		}
		if c.timestamp == 0 {
			c.timestamp = have.timestamp
		}
		c.mixed = c.mixed || have.timestamp != c.timestamp
		return
	}
	if c.timestamp == 0 {
		c.timestamp = have.timestamp
	}
	if have.timestamp != c.timestamp {
		c.mixed = true
		c.report.differ("row %s: cell %s is at %d, want %d", row, want.column(), have.timestamp, c.timestamp)
	}
}

// text shows bytes, shortened.
func text(b []byte) string {
	const most = 60
	more := ""
	if len(b) > most {
		more = fmt.Sprintf("… (%d bytes)", len(b))
		b = b[:most]
	}
	if utf8.Valid(b) && !strings.ContainsFunc(string(b), unicode.IsControl) {
		return fmt.Sprintf("%q%s", b, more)
	}
	return fmt.Sprintf("%x%s", b, more)
}
