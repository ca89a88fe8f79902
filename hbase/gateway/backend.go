package gateway

import (
	"drover/hbase"
	"drover/hbase/thrift2"
)

// Backend is an HBase elsewhere, that a Server speaks Thrift2 for. Its methods are called by many goroutines at once. What they
// return as *thrift2.TIOError reaches the client as it is; of other errors clients learn that there was one, as with HBase's own.
type Backend interface {
	// THBaseService is all calls but put and putMultiple, of which Methods names those that are known.
	thrift2.THBaseService
	Methods() []string

	// PutRows carries out put and putMultiple. The rows are such that HBase's client would send them; single tells that it is
	// put, whose errors are not summed up.
	PutRows(table string, rows Rows, single bool) error
}

// Rows are the rows of one put. They, and all that they give, are valid until the call is answered.
type Rows struct {
	w *wire
	p *putCall
}

// Row is one of Rows.
type Row struct {
	Key        []byte
	Cells      int
	TTL        int64 // milliseconds; 0 is none
	Durability hbase.Durability
}

// Cell is a cell of a Row.
type Cell struct {
	Family, Qualifier, Value []byte
	Timestamp                int64 // math.MaxInt64 is the server's clock
}

// Len is how many rows there are.
func (r Rows) Len() int { return len(r.p.rows) }

// Row is the row of that number, from 0.
func (r Rows) Row(i int) Row {
	row := &r.p.rows[i]
	return Row{Key: r.w.at(row.key), Cells: int(row.end - row.cell), TTL: row.ttl, Durability: row.durable}
}

// Cell is a cell of a row by its number, from 0.
func (r Rows) Cell(i, j int) Cell {
	row := &r.p.rows[i]
	c := &r.p.cells[int(row.cell)+j]
	return Cell{Family: r.w.at(c.family), Qualifier: r.w.at(c.qualifier), Value: r.w.at(c.value), Timestamp: c.stamp(row)}
}
