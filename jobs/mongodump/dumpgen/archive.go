package dumpgen

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Collection is what to generate for one collection of an archive.
type Collection struct {
	Database, Name string
	Options        Options
}

const (
	archiveMagic = "\x6d\xe2\x99\x81"
	terminator   = "\xff\xff\xff\xff"
)

// Archive writes what mongodump --archive does: blocks of the collections in turn, each of about blockBytes or one
// document, until all are written.
func Archive(ctx context.Context, w io.Writer, collections []Collection, blockBytes int) (Stats, error) {
	type part struct {
		Collection
		*Generator
		crc uint64
	}
	var total Stats
	parts := make([]part, len(collections))
	d := doc{b: append([]byte(nil), archiveMagic...)}
	at := d.begin()
	d.int32("concurrent_collections", int32(len(collections)))
	d.text("version", "0.1")
	d.text("server_version", "7.0.14")
	d.text("tool_version", "100.10.0")
	d.end(at)
	for i, c := range collections {
		g, err := New(c.Options)
		if err != nil {
			return total, fmt.Errorf("collection %s.%s: %w", c.Database, c.Name, err)
		}
		parts[i] = part{Collection: c, Generator: g}
		at := d.begin()
		d.text("db", c.Database)
		d.text("collection", c.Name)
		d.text("metadata", string(Metadata(c.Database, c.Name)))
		d.int32("size", 0)
		d.text("type", "collection")
		d.end(at)
	}
	d.b = append(d.b, terminator...)
	table := crc64.MakeTable(crc64.ECMA)
	for len(parts) > 0 {
		live := parts[:0]
		for _, p := range parts {
			d.namespace(p.Database, p.Name, false, 0)
			start := len(d.b)
			for p.More() && len(d.b)-start < blockBytes {
				d.b = p.Append(d.b)
			}
			p.crc = crc64.Update(p.crc, table, d.b[start:])
			d.b = append(d.b, terminator...)
			if p.More() {
				live = append(live, p)
			} else {
				d.namespace(p.Database, p.Name, true, p.crc)
				d.b = append(d.b, terminator...)
				total.add(p.Stats())
			}
			if _, err := w.Write(d.b); err != nil {
				return total, fmt.Errorf("write a generated archive: %w", err)
			}
			if err := ctx.Err(); err != nil {
				return total, err
			}
			d.b = d.b[:0]
		}
		parts = live
	}
	return total, nil
}

func (s *Stats) add(o Stats) {
	s.Docs += o.Docs
	s.Corrupt += o.Corrupt
	s.Bytes += o.Bytes
}

// begin starts a document, which end ends.
func (d *doc) begin() int {
	d.b = append(d.b, 0, 0, 0, 0)
	return len(d.b) - 4
}

func (d *doc) namespace(database, collection string, eof bool, crc uint64) {
	at := d.begin()
	d.text("db", database)
	d.text("collection", collection)
	d.bool("EOF", eof)
	d.int64("CRC", int64(crc))
	d.end(at)
}

// Metadata is the content of the .metadata.json beside a collection's file.
func Metadata(database, collection string) []byte {
	type index struct {
		V         int            `json:"v"`
		Key       map[string]int `json:"key"`
		Name      string         `json:"name"`
		Namespace string         `json:"ns"`
	}
	b, err := json.Marshal(struct {
		Options    struct{} `json:"options"`
		Indexes    []index  `json:"indexes"`
		Collection string   `json:"collectionName"`
		Type       string   `json:"type"`
	}{
		Indexes:    []index{{V: 2, Key: map[string]int{"_id": 1}, Name: "_id_", Namespace: database + "." + collection}},
		Collection: collection,
		Type:       "collection",
	})
	if err != nil {
		panic(err) // strings and integers always encode
	}
	return b
}

// File writes the documents to a new file, gzipped if its name ends in .gz, with its metadata beside it if the name before
// that ends in .bson. The folder gives the database's name.
func File(ctx context.Context, path string, o Options) (Stats, error) {
	name, zipped := strings.CutSuffix(path, ".gz")
	stats, err := create(path, zipped, func(w io.Writer) (Stats, error) { return Write(ctx, w, o) })
	name, isBSON := strings.CutSuffix(name, ".bson")
	if err != nil || !isBSON {
		return stats, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return stats, fmt.Errorf("find the folder of %s: %w", path, err)
	}
	beside := name + ".metadata.json"
	if zipped {
		beside += ".gz"
	}
	_, err = create(beside, zipped, func(w io.Writer) (Stats, error) {
		_, err := w.Write(Metadata(filepath.Base(filepath.Dir(abs)), filepath.Base(name)))
		return Stats{}, err
	})
	return stats, err
}

// create makes a file of what write writes. A file that could not be completed is left as it is.
func create(path string, zipped bool, write func(io.Writer) (Stats, error)) (stats Stats, err error) {
	f, err := os.Create(path)
	if err != nil {
		return stats, fmt.Errorf("generate: %w", err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = fmt.Errorf("generate %s: %w", path, e)
		}
	}()
	if !zipped {
		return write(f)
	}
	b := bufio.NewWriterSize(f, flushBytes)
	z := gzip.NewWriter(b)
	if stats, err = write(z); err != nil {
		return stats, err
	}
	if err = z.Close(); err == nil {
		err = b.Flush()
	}
	if err != nil {
		err = fmt.Errorf("generate %s: %w", path, err)
	}
	return stats, err
}
