package mongodump

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"

	"drover/jobs"
)

const (
	storedBuffer = 256 << 10 // read of the file at once
	walkBuffer   = 64 << 10  // and of what is in it
)

// stream reads a file that cannot be read by offset: gzipped, or an archive, or both.
type stream struct {
	f      *os.File
	walk   walker
	mem    jobs.Memory
	from   int64 // the offset to resume at
	begun  bool
	told   int64 // stored bytes that chunks have covered
	broken error // found behind the documents of a chunk, to be given next
}

// walker finds the documents of a stream one after the other.
type walker interface {
	// peek gives the length of the next document and leaves the stream at its start. It may be repeated. io.EOF is the sound
	// end of the stream.
	peek() (int, error)
	// collection is the one of the document that peek found, and block grows with each run of one collection's documents.
	collection() (c jobs.Collection, block int)
	// read reads the document that peek found, all of it; skip passes over it.
	read(b []byte) error
	skip() error
	// offset is of the stream's next byte, stored of the file's.
	offset() int64
	stored() int64
}

// newWalker starts at the beginning of a gzipped file or an archive.
func newWalker(f *os.File, x *file) (walker, error) {
	d, err := newDocuments(f, x)
	if err != nil {
		return nil, err
	}
	if x.Kind == gzipKind {
		return &zipped{documents: d, of: jobs.Collection{Database: x.Database, Name: x.Collection}}, nil
	}
	return newArchive(d)
}

func (s *stream) close() error { return s.f.Close() }

func (s *stream) next(ctx context.Context) (*jobs.Chunk, error) {
	if s.broken != nil {
		return nil, s.broken
	}
	if !s.begun {
		s.begun = true
		if err := s.seek(ctx); err != nil {
			return nil, err
		}
		s.told = s.walk.stored()
	}
	length, err := s.walk.peek()
	if err != nil {
		return nil, err
	}
	b, err := newBlock(ctx, s.mem, max(chunkFor(s.mem), length))
	if err != nil {
		return nil, fmt.Errorf("wait for memory to read %s: %w", s.f.Name(), err)
	}
	b.base = s.walk.offset()
	c, block := s.walk.collection()
	for b.used+length <= len(b.buf) && len(b.docs) < chunkDocs {
		if err = s.walk.read(b.buf[b.used : b.used+length]); err != nil {
			break
		}
		b.add(length)
		if length, err = s.walk.peek(); err != nil {
			break
		}
		if _, is := s.walk.collection(); is != block {
			break
		}
	}
	s.broken = err
	if len(b.docs) == 0 {
		b.free()
		return nil, err
	}
	covered := s.walk.stored() - s.told
	s.told = s.walk.stored()
	return b.seal(c, covered), nil
}

// seek walks to the offset to resume at.
func (s *stream) seek(ctx context.Context) error {
	if s.from == 0 {
		return nil
	}
	for n := 0; s.walk.offset() != s.from; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		length, err := s.walk.peek()
		at := s.walk.offset()
		switch {
		case err == io.EOF:
			return s.astray("beyond the end of it at " + fmt.Sprint(at))
		case err != nil:
			return err
		case at == s.from:
			return nil
		case at+int64(length) > s.from:
			return s.astray(fmt.Sprintf("not a document's start: the nearest is at %d", at))
		}
		if err := s.walk.skip(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) astray(where string) error {
	return &jobs.BrokenError{
		File: s.f.Name(), Offset: s.from,
		Reason: "the run resumes here, which is " + where + "; the checkpoint belongs to another file: start with --fresh if the file is right",
	}
}

// inflated gives what is in a file.
func inflated(f io.Reader, x *file) (io.Reader, error) {
	if x.Kind == archiveKind {
		return f, nil
	}
	z, err := gzip.NewReader(bufio.NewReaderSize(f, storedBuffer))
	if err != nil {
		return nil, gzipFault(err)
	}
	return &inflater{z}, nil
}

// inflater tells broken compressed data from a broken document in it.
type inflater struct{ z *gzip.Reader }

func (r *inflater) Read(b []byte) (int, error) {
	n, err := r.z.Read(b)
	if err != nil && err != io.EOF {
		err = gzipFault(err)
	}
	return n, err
}

// compressionError says in words how compressed data is broken.
type compressionError string

func (e compressionError) Error() string { return string(e) }

func gzipFault(err error) error {
	if _, ok := errors.AsType[flate.CorruptInputError](err); ok {
		return compressionError("the compressed data is corrupt")
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return compressionError("truncated: the compressed data ends early")
	case errors.Is(err, gzip.ErrChecksum):
		return compressionError("the compressed data is corrupt: its checksum is another")
	case errors.Is(err, gzip.ErrHeader):
		return compressionError("what follows the compressed data is not gzip")
	}
	return err
}

// counter counts what is read of the file.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// documents reads the documents of a stream, and what lies between them in an archive.
type documents struct {
	name   string
	file   counter
	in     *bufio.Reader
	pos    int64 // of in's next byte
	length int   // of the document at pos, 0 if not peeked at
}

func newDocuments(f *os.File, x *file) (*documents, error) {
	d := &documents{name: f.Name(), file: counter{r: f}}
	in, err := inflated(&d.file, x)
	if err != nil {
		return nil, d.fail(err, 0)
	}
	d.in = bufio.NewReaderSize(in, walkBuffer)
	return d, nil
}

func (d *documents) offset() int64 { return d.pos }

func (d *documents) stored() int64 { return d.file.n }

// head gives the next four bytes, which the stream has not passed, or fewer at its end.
func (d *documents) head() ([]byte, error) {
	b, err := d.in.Peek(4)
	if err == io.EOF {
		err = nil
	}
	if err != nil {
		return nil, d.fail(err, 0)
	}
	return b, nil
}

// peekLength is peek where a document must come.
func (d *documents) peekLength(head []byte) (int, error) {
	if len(head) < 4 {
		return 0, d.broken(tailFault(int64(len(head))))
	}
	l := lengthOf(head)
	if fault := lengthFault(l, maxDocBytes); fault != "" {
		return 0, d.broken(fault)
	}
	d.length = l
	return l, nil
}

func (d *documents) read(b []byte) error {
	n, err := io.ReadFull(d.in, b)
	if err != nil {
		return d.fail(err, n)
	}
	d.pos += int64(n)
	d.length = 0
	return nil
}

// pass passes over the document, giving its bytes to see if that is not nil.
func (d *documents) pass(see func([]byte)) error {
	start := d.pos
	for left := d.length; left > 0; {
		b, err := d.in.Peek(min(left, walkBuffer))
		if len(b) == 0 && err != nil {
			n := int(d.pos - start)
			d.pos = start
			return d.fail(err, n)
		}
		if see != nil {
			see(b)
		}
		d.pos += int64(len(b))
		left -= len(b)
		d.in.Discard(len(b))
	}
	d.length = 0
	return nil
}

// fail explains an error n bytes into the document at pos.
func (d *documents) fail(err error, n int) error {
	if c, ok := errors.AsType[compressionError](err); ok {
		return d.broken(string(c))
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return d.broken(lengthFault(d.length, int64(n)))
	}
	return fmt.Errorf("read %s at offset %d: %w", d.name, d.pos, err)
}

func (d *documents) broken(reason string) error {
	return &jobs.BrokenError{File: d.name, Offset: d.pos, Reason: reason}
}

// zipped is a gzipped .bson file.
type zipped struct {
	*documents
	of jobs.Collection
}

func (z *zipped) collection() (jobs.Collection, int) { return z.of, 0 }

func (z *zipped) skip() error { return z.pass(nil) }

func (z *zipped) peek() (int, error) {
	if z.length > 0 {
		return z.length, nil
	}
	head, err := z.head()
	if err != nil {
		return 0, err
	}
	if len(head) == 0 {
		return 0, io.EOF
	}
	return z.peekLength(head)
}
