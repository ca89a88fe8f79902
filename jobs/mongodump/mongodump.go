// Package mongodump reads what MongoDB's mongodump writes: a .bson file, a dump folder, an --archive file, and each of them
// gzipped, told apart by their content. Not for a running MongoDB, and not for oplogs, which it refuses.
//
// A dump is a folder of databases, each a folder of collection files; a collection file is documents one after the other,
// each with its own length first, and nothing else to find a document's start by. An archive interleaves blocks of several
// collections in one stream.
//
// What becomes a shard: a plain .bson file is cut at document starts into several, found by a pass over the lengths; a
// gzipped file is one, and an archive with all its collections is one. What is left of a shard of a plain file can be cut
// again while it is read. Cursors are decimal byte offsets, into the file or into the stream inside it. A resumed stream is
// inflated and walked through up to its cursor, which must be a document's start. A plain file is read from its cursor on: of
// one that is no document's start, it is noticed when the length there is none, and relied on otherwise, as the file's
// identity and the checkpoint's checksum were compared before.
//
// What is left out: collections that belong to the server (system.*, but not system.buckets.*, which are a time series'
// documents as stored), metadata files, and every file of a folder that is not named .bson or .bson.gz.
package mongodump

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"drover/jobs"
)

// Source is a dump at a path. It holds no open files.
type Source struct {
	path string
}

// New gives the source for a dump. It does no I/O.
func New(path string) *Source { return &Source{path: path} }

// Describe implements jobs.Source.
func (s *Source) Describe() map[string]string {
	abs, err := filepath.Abs(s.path)
	if err != nil {
		abs = filepath.Clean(s.path)
	}
	return map[string]string{"mongodump": abs}
}

// Plan implements jobs.Source. A plain file is read once, for its lengths only, when it is large enough to be cut.
func (s *Source) Plan(ctx context.Context, want int) (jobs.Layout, error) {
	id, err := s.find()
	if err != nil {
		return jobs.Layout{}, err
	}
	var l jobs.Layout
	for i := range id.Files {
		if err := s.planFile(ctx, &id, &id.Files[i], want, &l); err != nil {
			return jobs.Layout{}, err
		}
	}
	for i := range l.Shards {
		l.Shards[i].N = i
	}
	l.Identity, err = json.Marshal(id)
	if err != nil {
		return jobs.Layout{}, fmt.Errorf("encode the identity of %s: %w", s.path, err)
	}
	return l, nil
}

// planFile completes x and adds its collections and shards to the layout.
func (s *Source) planFile(ctx context.Context, id *identity, x *file, want int, l *jobs.Layout) error {
	f, err := openRegular(id.at(s.path, x.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := x.stamp(f); err != nil {
		return err
	}
	if x.Kind, err = kindOf(f); err != nil {
		return err
	}
	switch x.Kind {
	case archiveKind, gzipArchiveKind:
		if id.Folder {
			return fmt.Errorf("plan %s: %s is an archive among collection files; name it as the source of a job of its own", s.path, x.Path)
		}
		x.Database, x.Collection = "", ""
		d, err := newDocuments(f, x)
		if err != nil {
			return err
		}
		a, err := newArchive(d)
		if err != nil {
			return err
		}
		found, err := a.collections()
		if err != nil {
			return err
		}
		l.Collections = append(l.Collections, found...)
		l.Shards = append(l.Shards, jobs.Shard{Bytes: x.Size})
		return nil
	}
	l.Collections = append(l.Collections, jobs.Collection{Database: x.Database, Name: x.Collection, Bytes: x.Size})
	var at []int64
	if x.Kind == plainKind {
		if at, err = cuts(ctx, f, 0, x.Size, min(int64(want), x.Size/shardBytes)); err != nil {
			return fmt.Errorf("plan %s: %w", s.path, err)
		}
	}
	return cut(f, x, at, l)
}

// cut adds the shards of a collection's file to the layout.
func cut(f *os.File, x *file, at []int64, l *jobs.Layout) error {
	sh := jobs.Shard{Database: x.Database, Collection: x.Collection}
	start := int64(0)
	for i := range len(at) + 1 {
		end := x.Size
		sh.Start, sh.End = sh.End, ""
		if i < len(at) {
			end = at[i]
			sh.End = cursorAt(end)
		}
		sh.Bytes = end - start
		if x.Kind == plainKind {
			var err error
			if sh.Check, err = mark(f, start, x.Size); err != nil {
				return err
			}
		}
		l.Shards = append(l.Shards, sh)
		start = end
	}
	return nil
}

// Open implements jobs.Source.
func (s *Source) Open(ctx context.Context, mem jobs.Memory, l jobs.Layout, sh jobs.Shard, from jobs.Cursor) (jobs.Reader, error) {
	id, err := parseIdentity(l)
	if err != nil {
		return nil, err
	}
	x := id.of(sh.Database, sh.Collection)
	if x == nil {
		return nil, fmt.Errorf("open shard %d of %s: the plan has no file of collection %s.%s", sh.N, s.path, sh.Database, sh.Collection)
	}
	f, err := s.reopen(&id, x)
	if err != nil {
		return nil, err
	}
	r, err := open(ctx, mem, f, x, sh, from)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open shard %d of %s: %w", sh.N, s.path, err)
	}
	return r, nil
}

// open takes f over unless it gives an error.
func open(ctx context.Context, mem jobs.Memory, f *os.File, x *file, sh jobs.Shard, from jobs.Cursor) (*reader, error) {
	if x.Kind != plainKind {
		off, err := offsetOf(from, 0)
		if err != nil {
			return nil, err
		}
		w, err := newWalker(f, x)
		if err != nil {
			return nil, err
		}
		return newReader(ctx, f.Name(), &stream{f: f, walk: w, mem: mem, from: off}), nil
	}
	start, off, end, err := x.span(sh, from)
	if err != nil {
		return nil, err
	}
	if err := checkStart(f, x, &sh); err != nil {
		return nil, err
	}
	p := &plain{
		f: f, mem: mem, off: off, end: end, resumed: -1,
		collection: jobs.Collection{Database: x.Database, Name: x.Collection},
	}
	if from != "" && off != start {
		p.resumed = off
	}
	return newReader(ctx, f.Name(), p), nil
}

// span is the range of a shard of a plain file and where a cursor is in it, in bytes.
func (x *file) span(sh jobs.Shard, from jobs.Cursor) (start, off, end int64, err error) {
	if start, err = offsetOf(sh.Start, 0); err != nil {
		return 0, 0, 0, err
	}
	if off, err = offsetOf(from, start); err != nil {
		return 0, 0, 0, err
	}
	if end, err = offsetOf(sh.End, x.Size); err != nil {
		return 0, 0, 0, err
	}
	if start > end || end > x.Size {
		return 0, 0, 0, fmt.Errorf("the shard [%d, %d) is not inside %s of %d bytes: the plan is of another file", start, end, x.Path, x.Size)
	}
	if off < start || off > end {
		return 0, 0, 0, fmt.Errorf("cursor %d is not inside the shard [%d, %d) of %s: the checkpoint is of another plan", off, start, end, x.Path)
	}
	return start, off, end, nil
}
