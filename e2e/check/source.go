package check

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Source is a file of documents one after another, or an archive of several collections, either of them gzipped when its
// name ends in ".gz".
type Source struct {
	Path       string
	Collection string // of an archive, "database.collection"; "" for a plain file
}

// entry is one document, found again by its offset.
type entry struct {
	key    string
	offset int64
	size   int32
}

// index is a source in the order of row keys. It keeps a key and 32 bytes a document, not the documents.
type index struct {
	file      *os.File
	remove    bool // file is a temporary copy
	entries   []entry
	documents int64
	omitted   int64
	bad       []string // documents that have no key, in words
	badCount  int64
}

func (x *index) close() error {
	err := x.file.Close()
	if x.remove {
		err = errors.Join(err, os.Remove(x.file.Name()))
	}
	return err
}

// document reads one document again.
func (x *index) document(e entry) (bson.Raw, error) {
	doc := make([]byte, e.size)
	if _, err := x.file.ReadAt(doc, e.offset); err != nil {
		return nil, fmt.Errorf("read %s at offset %d: %w", x.file.Name(), e.offset, err)
	}
	return doc, nil
}

// open reads the whole source once. What is compressed or in an archive goes into a temporary file, for there is no other
// way back to a document in it.
func (s Source) open(m *Mapping) (*index, error) {
	file, err := os.Open(s.Path)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	x := &index{file: file}
	if strings.HasSuffix(s.Path, ".gz") || s.Collection != "" {
		plain, err := s.unpack(file)
		if err = errors.Join(err, file.Close()); err != nil {
			if plain != nil {
				err = errors.Join(err, plain.Close(), os.Remove(plain.Name()))
			}
			return nil, fmt.Errorf("unpack %s: %w", s.Path, err)
		}
		x.file, x.remove = plain, true
	}
	if err := x.read(m); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", s.Path, err), x.close())
	}
	return x, nil
}

func (s Source) unpack(file *os.File) (*os.File, error) {
	var in io.Reader = bufio.NewReaderSize(file, 1<<20)
	if strings.HasSuffix(s.Path, ".gz") {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		in = bufio.NewReaderSize(z, 1<<20)
	}
	plain, err := os.CreateTemp("", "drover-check-*.bson")
	if err != nil {
		return nil, err
	}
	out := bufio.NewWriterSize(plain, 1<<20)
	if s.Collection == "" {
		_, err = io.Copy(out, in)
	} else {
		err = unarchive(out, in, s.Collection)
	}
	return plain, errors.Join(err, out.Flush())
}

// read fills the index from the file.
func (x *index) read(m *Mapping) error {
	if _, err := x.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	in := bufio.NewReaderSize(x.file, 1<<20)
	var offset int64
	var doc []byte
	for {
		var err error
		doc, err = readDocument(in, doc)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("document at offset %d: %w", offset, err)
		}
		x.documents++
		if m.Omit != nil && m.Omit(doc) {
			x.omitted++
		} else if key, err := m.key(doc); err != nil {
			x.badCount++
			if len(x.bad) < maxListed {
				x.bad = append(x.bad, fmt.Sprintf("document at offset %d: %v", offset, err))
			}
		} else {
			x.entries = append(x.entries, entry{string(key), offset, int32(len(doc))})
		}
		offset += int64(len(doc))
	}
	slices.SortFunc(x.entries, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.offset, b.offset))
	})
	return nil
}

// readDocument reads one document into buf, which grows, or gives io.EOF between two.
func readDocument(in io.Reader, buf []byte) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return buf, err
	}
	n := int32(binary.LittleEndian.Uint32(length[:]))
	if n < 5 || n > 64<<20 {
		return buf, fmt.Errorf("its length is %d", n)
	}
	buf = append(slices.Grow(buf[:0], int(n)), length[:]...)[:n]
	if _, err := io.ReadFull(in, buf[4:]); err != nil {
		return buf, fmt.Errorf("its end is missing: %w", err)
	}
	return buf, nil
}

// unarchive copies the documents of one collection out of a mongodump archive: magic, a header document and one for each
// collection, a terminator, then blocks of a namespace document, documents and a terminator.
func unarchive(out io.Writer, in io.Reader, collection string) error {
	var magic [4]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil {
		return err
	}
	if !bytes.Equal(magic[:], []byte{0x6d, 0xe2, 0x99, 0x81}) {
		return fmt.Errorf("it starts with % x: not an archive", magic)
	}
	found := false
	take, first := false, false // first: the next document names the namespace of its block
	var buf []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if head == [4]byte{0xff, 0xff, 0xff, 0xff} {
			take, first = false, true
			continue
		}
		var err error
		if buf, err = readDocument(io.MultiReader(bytes.NewReader(head[:]), in), buf); err != nil {
			return err
		}
		if first {
			db, _ := lookup(buf, "db")
			name, _ := lookup(buf, "collection")
			d, _ := db.StringValueOK()
			c, _ := name.StringValueOK()
			take, first = d+"."+c == collection, false
			found = found || take
			continue
		}
		if take {
			if _, err := out.Write(buf); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("it holds no collection %s", collection)
	}
	return nil
}
