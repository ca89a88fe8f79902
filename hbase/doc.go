// Package hbase speaks to HBase through its Thrift2 gateways: it encodes rows, sends them, reads them back, looks after
// tables, and says of each error what the caller should do.
//
// The words used here:
//
//   - A gateway is one HBase Thrift2 server, itself a client of the cluster. Several serve one cluster, and any of them can
//     do any call. A Conn is one connection to one gateway and carries one call at a time; the Pool holds the connections
//     to all of them, and alone retries.
//   - A batch is an append-only buffer of rows that are already encoded for the wire, with the offset of each, so that any
//     run of rows of it is sent without encoding or copying anything again.
//   - A row is a key and its cells. A cell is one column at one timestamp and an op, what it does there: put a value, or
//     delete a version, a column or a family. Thrift has a call for puts and another for deletes, so a batch keeps the two
//     apart: the order of cells of one op is kept, the order between puts and deletes of one row is not.
//   - A kind is what an error asks of the caller: to ask again, to ask elsewhere, to send less, to look after the table, or
//     to give the row up. Classify is the one place that decides.
//
// An answer that was cut, late or garbled is neither success nor failure: the rows may be there or may arrive later. It
// comes back as an error of kind Elsewhere, and since cells state their timestamps, sending the rows again is harmless.
//
// Not for HBase without gateways, nor for snapshots, bulk load, flush or region moves: Thrift has none of these.
package hbase
