package hbase

import "math"

// What HBase refuses whatever the table, so that it can be found before anything is sent. Sizes are bytes.
const (
	MaxKeyBytes  = math.MaxInt16     // a row key's length is a Java short
	MaxCellBytes = 10 << 20          // hbase.client.keyvalue.maxsize, over CellBytes
	MaxTimestamp = math.MaxInt64 - 1 // MaxInt64 means "now" to HBase
)

// Op says what a cell does to its column.
type Op uint8

// The ops, in the words of HBase's delete types.
const (
	Put           Op = iota
	DeleteVersion    // one version: exactly the cell's timestamp
	DeleteColumn     // every version up to the cell's timestamp
	DeleteFamily     // every column of the family up to the cell's timestamp; the qualifier is empty

	// DeleteFamilyVersion deletes every column of the family at exactly the cell's timestamp; the qualifier is empty.
	// Only a raw scan finds it.
	DeleteFamilyVersion
)

var opNames = [...]string{
	Put: "put", DeleteVersion: "delete version", DeleteColumn: "delete column", DeleteFamily: "delete family",
	DeleteFamilyVersion: "delete family version",
}

func (o Op) String() string { return opNames[o] }

// Durability is how a put is written to the write-ahead log. The values are HBase's.
type Durability int32

// The durabilities. The zero value leaves it to the table, which drover never does: every put states one.
const (
	UseDefault Durability = iota
	SkipWAL
	AsyncWAL
	SyncWAL
	FsyncWAL
)

// Cell is one decoded cell of a row.
type Cell struct {
	Op        Op
	Family    []byte
	Qualifier []byte
	Timestamp int64 // milliseconds
	Value     []byte
}

// Row is one decoded row: of a batch for dead letters and dry runs, or of a scan.
type Row struct {
	Key   []byte
	Cells []Cell
}

// CellBytes is the size HBase compares with its 10 MiB limit for a cell of these lengths.
func CellBytes(key, family, qualifier, value int) int {
	return 4 + 8 + 2 + key + 1 + family + qualifier + 8 + 1 + value
}
