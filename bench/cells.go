package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/apache/thrift/lib/go/thrift"
	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/hbase/thrift2"
)

// putOf gives a document's row under the default mapping into family d, by the mongo driver and the generated code: a way
// that shares nothing with drover's own.
func putOf(doc []byte, timestamp int64) (*thrift2.TPut, error) {
	elements, err := bson.Raw(doc).Elements()
	if err != nil {
		return nil, err
	}
	put := thrift2.NewTPut()
	put.Timestamp = &timestamp // counts for cells without one: the least bytes, as drover sends them
	durability := thrift2.TDurability_SYNC_WAL
	put.Durability = &durability
	for _, e := range elements {
		value, err := valueOf(e.Value())
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", e.Key(), err)
		}
		if e.Key() == "_id" {
			put.Row = value
		}
		put.ColumnValues = append(put.ColumnValues, &thrift2.TColumnValue{
			Family: []byte("d"), Qualifier: []byte(e.Key()), Value: value,
		})
	}
	return put, nil
}

// valueOf encodes the types that the profiles flat5 and kb have, as HBase's Bytes.toBytes.
func valueOf(v bson.RawValue) ([]byte, error) {
	switch v.Type {
	case bson.TypeString:
		return []byte(v.StringValue()), nil
	case bson.TypeObjectID:
		return bytes.Clone(v.Value), nil
	case bson.TypeInt32:
		return binary.BigEndian.AppendUint32(nil, binary.LittleEndian.Uint32(v.Value)), nil
	case bson.TypeInt64, bson.TypeDouble, bson.TypeDateTime:
		return binary.BigEndian.AppendUint64(nil, binary.LittleEndian.Uint64(v.Value)), nil
	case bson.TypeBoolean:
		if v.Boolean() {
			return []byte{0xff}, nil
		}
		return []byte{0}, nil
	case bson.TypeEmbeddedDocument, bson.TypeArray:
		text, err := bson.MarshalExtJSON(bson.D{{Key: "v", Value: v}}, true, false)
		if err != nil {
			return nil, err
		}
		return text[len(`{"v":`) : len(text)-1], nil
	}
	return nil, fmt.Errorf("type %s is not foreseen", v.Type)
}

// encoded are rows as TPut structs in the binary protocol, in the order of the file.
type encoded struct {
	keys  [][]byte
	bytes []byte
	ends  []int // of each row in bytes
	cells int
}

func (e *encoded) len() int { return len(e.ends) }

func (e *encoded) row(i int) []byte {
	start := 0
	if i > 0 {
		start = e.ends[i-1]
	}
	return e.bytes[start:e.ends[i]]
}

// encode reads a file and encodes its documents.
func encode(ctx context.Context, path string, timestamp int64) (*encoded, error) {
	e := &encoded{}
	buf := thrift.NewTMemoryBuffer()
	proto := thrift.NewTBinaryProtocolConf(buf, &thrift.TConfiguration{})
	err := documents(path, func(doc []byte) error {
		put, err := putOf(doc, timestamp)
		if err != nil {
			return err
		}
		buf.Reset()
		if err := put.Write(ctx, proto); err != nil {
			return err
		}
		e.bytes = append(e.bytes, buf.Bytes()...)
		e.ends = append(e.ends, len(e.bytes))
		e.keys = append(e.keys, put.Row)
		e.cells += len(put.ColumnValues)
		return ctx.Err()
	})
	return e, err
}
