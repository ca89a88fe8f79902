package hbase

import "time"

// Family describes a column family, as it is created and as it is found.
type Family struct {
	Name        string
	Versions    int           // 1 and up
	Compression string        // none, gz, snappy, lz4, zstd, lzo, bzip2
	Bloom       string        // none, row, rowcol
	TTL         time.Duration // 0 is for ever
	Encoding    string        // of data blocks: none, prefix, diff, fast_diff, row_index_v1
}
