package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// documents calls f with each document of a generated file, which f must not keep.
func documents(path string, f func(doc []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewReaderSize(file, 1<<20)
	var doc []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		n := int(binary.LittleEndian.Uint32(head[:]))
		doc = append(slices.Grow(doc[:0], n), head[:]...)[:n]
		if _, err := io.ReadFull(in, doc[4:]); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if err := f(doc); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
}

// idOf gives the _id of a generated document, an ObjectID and the first field.
func idOf(doc []byte) ([]byte, error) {
	head := []byte{0x07, '_', 'i', 'd', 0}
	if len(doc) < 21 || !bytes.Equal(doc[4:9], head) {
		return nil, errors.New("a document does not start with an ObjectID named _id")
	}
	return doc[9:21], nil
}

// splitKeys cuts a file's keys into regions of equal size.
func splitKeys(path string, regions int) ([][]byte, error) {
	var keys [][]byte
	err := documents(path, func(doc []byte) error {
		id, err := idOf(doc)
		keys = append(keys, slices.Clone(id))
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(keys, bytes.Compare)
	var splits [][]byte
	for i := 1; i < regions; i++ {
		splits = append(splits, keys[len(keys)*i/regions])
	}
	return splits, nil
}
