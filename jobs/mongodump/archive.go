package mongodump

import (
	"fmt"
	"hash/crc64"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/jobs"
)

// archive walks through an archive: the magic, a header document, a document for each collection and a terminator, and then
// blocks. A block is a header that names its collection, documents, and a terminator. A header with EOF true ends a
// collection and has the checksum of all its documents; its block is empty.
type archive struct {
	*documents
	spaces map[string]*space // by database.collection
	listed []*space          // in the prelude's order
	now    *space            // whose block the stream is in, or nil between blocks
	blocks int
}

// space is what is known of one collection of an archive.
type space struct {
	jobs.Collection
	crc     uint64 // of its documents so far
	wanted  bool
	started bool
	ended   bool
	kind    string // of the prelude: collection, view, timeseries; empty in old archives
}

const terminator = "\xff\xff\xff\xff"

// newArchive reads up to the first block.
func newArchive(d *documents) (*archive, error) {
	a := &archive{documents: d, spaces: make(map[string]*space)}
	head, err := a.head()
	if err != nil {
		return nil, err
	}
	if string(head) != archiveMagic {
		return nil, a.broken("an archive does not start like this")
	}
	a.discard(4)
	if _, err := a.document(); err != nil {
		return nil, err
	}
	for {
		end, err := a.terminated()
		if err != nil {
			return nil, err
		}
		if end {
			return a, nil
		}
		at := a.pos
		raw, err := a.document()
		if err != nil {
			return nil, err
		}
		s, err := a.space(raw, at)
		if err != nil {
			return nil, err
		}
		s.kind, _ = raw.Lookup("type").StringValueOK()
		a.listed = append(a.listed, s)
	}
}

// collections are those that will be read. An archive with an oplog is refused.
func (a *archive) collections() ([]jobs.Collection, error) {
	var found []jobs.Collection
	for _, s := range a.listed {
		if s.Database == "" && s.Name == "oplog" {
			return nil, oplogError(a.name)
		}
		if s.wanted && s.kind != "view" {
			found = append(found, s.Collection)
		}
	}
	return found, nil
}

func (a *archive) discard(n int) {
	a.in.Discard(n) // of bytes that were peeked at
	a.pos += int64(n)
}

// terminated passes over a terminator if there is one here.
func (a *archive) terminated() (bool, error) {
	head, err := a.head()
	if err != nil || string(head) != terminator {
		return false, err
	}
	a.discard(4)
	return true, nil
}

// document reads a document of the archive's own.
func (a *archive) document() (bson.Raw, error) {
	head, err := a.head()
	if err != nil {
		return nil, err
	}
	n, err := a.peekLength(head)
	if err != nil {
		return nil, err
	}
	at := a.pos
	raw := make(bson.Raw, 0, min(n, walkBuffer)) // a broken length allocates no more than there is
	if err := a.pass(func(b []byte) { raw = append(raw, b...) }); err != nil {
		return nil, err
	}
	if err := raw.Validate(); err != nil {
		return nil, a.brokenAt(at, fmt.Sprintf("a header of the archive is broken: %v", err))
	}
	return raw, nil
}

// space is the collection that a header at offset at names.
func (a *archive) space(header bson.Raw, at int64) (*space, error) {
	database, ok := header.Lookup("db").StringValueOK()
	name, ok2 := header.Lookup("collection").StringValueOK()
	if !ok || !ok2 {
		return nil, a.brokenAt(at, "a header of the archive names no db and collection")
	}
	ns := database + "." + name
	s := a.spaces[ns]
	if s == nil {
		s = &space{Collection: jobs.Collection{Database: database, Name: name}, wanted: !isSystem(name)}
		a.spaces[ns] = s
	}
	return s, nil
}

func (a *archive) brokenAt(at int64, reason string) error {
	return &jobs.BrokenError{File: a.name, Offset: at, Reason: reason}
}

// peek implements walker. Documents of unwanted collections are passed over.
func (a *archive) peek() (int, error) {
	for a.length == 0 || !a.now.wanted {
		if err := a.advance(); err != nil {
			return 0, err
		}
	}
	return a.length, nil
}

// advance goes to the next document, of whatever collection: past one that is not wanted, a terminator, or a header.
func (a *archive) advance() error {
	if a.length > 0 {
		return a.skip()
	}
	head, err := a.head()
	if err != nil {
		return err
	}
	if a.now == nil {
		if len(head) == 0 {
			return a.complete()
		}
		return a.header()
	}
	if string(head) == terminator {
		a.discard(4)
		a.now = nil
		return nil
	}
	if a.now.ended {
		return a.broken(fmt.Sprintf("a document of %s.%s after its end", a.now.Database, a.now.Name))
	}
	_, err = a.peekLength(head)
	return err
}

// header starts a block, or ends a collection.
func (a *archive) header() error {
	at := a.pos
	raw, err := a.document()
	if err != nil {
		return err
	}
	s, err := a.space(raw, at)
	if err != nil {
		return err
	}
	if s.ended {
		return a.brokenAt(at, fmt.Sprintf("a block of %s.%s after its end", s.Database, s.Name))
	}
	s.started = true
	a.now = s
	a.blocks++
	if eof, _ := raw.Lookup("EOF").BooleanOK(); eof {
		s.ended = true
		crc, ok := raw.Lookup("CRC").Int64OK()
		if !ok || uint64(crc) != s.crc {
			return a.brokenAt(at, fmt.Sprintf("the documents of %s.%s do not have the checksum that the archive gives: some are damaged", s.Database, s.Name))
		}
	}
	return nil
}

// complete is what the end of the stream between two blocks means.
func (a *archive) complete() error {
	for _, s := range a.spaces {
		if s.started && !s.ended {
			return a.broken(fmt.Sprintf("truncated: the archive ends before the end of %s.%s", s.Database, s.Name))
		}
	}
	for _, s := range a.listed {
		buckets := a.spaces[s.Database+".system.buckets."+s.Name]
		if !s.started && s.kind != "view" && buckets == nil {
			return a.broken(fmt.Sprintf("truncated: the archive ends before %s.%s", s.Database, s.Name))
		}
	}
	return io.EOF
}

func (a *archive) collection() (jobs.Collection, int) { return a.now.Collection, a.blocks }

// ecma is the polynomial of the checksums.
var ecma = crc64.MakeTable(crc64.ECMA)

func (a *archive) read(b []byte) error {
	if err := a.documents.read(b); err != nil {
		return err
	}
	a.now.crc = crc64.Update(a.now.crc, ecma, b)
	return nil
}

func (a *archive) skip() error {
	return a.pass(func(b []byte) { a.now.crc = crc64.Update(a.now.crc, ecma, b) })
}
