package mongodump

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/zeebo/xxh3"

	"drover/jobs"
)

// identity is how a dump is known again: Layout.Identity in JSON. The documents at the shards' starts are in Shard.Check.
type identity struct {
	Folder bool   `json:"folder,omitempty"`
	Files  []file `json:"files"` // by path
}

// at is the path of a file of the dump at path, given as in the identity.
func (id *identity) at(path, rel string) string {
	if id.Folder {
		return filepath.Join(path, filepath.FromSlash(rel))
	}
	return path
}

// file is one file of a dump as it was planned.
type file struct {
	Path       string    `json:"path"` // with slashes, relative to the folder; the base name when the source is one file
	Kind       kind      `json:"kind"`
	Database   string    `json:"database,omitempty"` // both empty for an archive
	Collection string    `json:"collection,omitempty"`
	Size       int64     `json:"size"`
	Modified   time.Time `json:"modified"`
	Head       string    `json:"head"` // xxh3-128 of the first and last endBytes, in hex
	Tail       string    `json:"tail"`
}

// endBytes at each end of a file are hashed.
const endBytes = 64 << 10

// stamp sets what is known of the open file itself: size, time and hashes.
func (x *file) stamp(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	x.Size = info.Size()
	x.Modified = info.ModTime().UTC()
	n := min(endBytes, x.Size)
	if x.Head, err = hash(f, 0, n); err != nil {
		return err
	}
	x.Tail, err = hash(f, x.Size-n, n)
	return err
}

// differs says how a file that stands where was stood is another one, or nothing.
func (x *file) differs(was *file, path string) error {
	what := ""
	switch {
	case x.Size != was.Size:
		what = fmt.Sprintf("size was %d, is %d", was.Size, x.Size)
	case x.Head != was.Head:
		what = fmt.Sprintf("its first %d bytes are others", min(endBytes, x.Size))
	case x.Tail != was.Tail:
		what = fmt.Sprintf("its last %d bytes are others", min(endBytes, x.Size))
	case !x.Modified.Equal(was.Modified):
		what = fmt.Sprintf("it was modified at %s, and now at %s; if it was only touched, set the time back with touch -d %s",
			stampOf(was.Modified), stampOf(x.Modified), stampOf(was.Modified))
	default:
		return nil
	}
	return &jobs.ChangedError{What: path + ": " + what}
}

func stampOf(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// hash is the xxh3-128 of n bytes of the file from off.
func hash(f *os.File, off, n int64) (string, error) {
	h := xxh3.New128()
	if _, err := io.Copy(h, io.NewSectionReader(f, off, n)); err != nil {
		return "", fmt.Errorf("read %s at offset %d: %w", f.Name(), off, err)
	}
	sum := h.Sum128().Bytes()
	return hex.EncodeToString(sum[:]), nil
}

// mark is Shard.Check for a shard of a .bson file: the hash of the document at its start, or of what is there instead.
func mark(f *os.File, off, size int64) (string, error) {
	remain := size - off
	n := min(endBytes, remain)
	var length [4]byte
	if remain >= 4 {
		if err := readAt(f, length[:], off); err != nil {
			return "", err
		}
		if l := lengthOf(length[:]); lengthFault(l, remain) == "" {
			n = int64(l)
		}
	}
	return hash(f, off, n)
}

func parseIdentity(l jobs.Layout) (identity, error) {
	var id identity
	if err := json.Unmarshal(l.Identity, &id); err != nil {
		return id, fmt.Errorf("read the plan's identity of the dump: %w", err)
	}
	return id, nil
}

// reopen opens a planned file and compares it with the plan.
func (s *Source) reopen(id *identity, was *file) (*os.File, error) {
	f, err := openRegular(id.at(s.path, was.Path))
	if err != nil {
		return nil, err
	}
	var is file
	if err = is.stamp(f); err == nil {
		err = is.differs(was, f.Name())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Check implements jobs.Source. It compares the list of files, each file, and the document at each shard's start.
func (s *Source) Check(ctx context.Context, l jobs.Layout) error {
	id, err := parseIdentity(l)
	if err != nil {
		return err
	}
	found, err := s.find()
	if err != nil {
		return err
	}
	for i := range found.Files {
		is := func(x file) bool { return x.Path == found.Files[i].Path }
		if !slices.ContainsFunc(id.Files, is) {
			return &jobs.ChangedError{What: found.Files[i].Path + ": it was not there"}
		}
	}
	for i := range id.Files {
		if err := s.checkFile(ctx, &id, &id.Files[i], l.Shards); err != nil {
			return err
		}
	}
	return nil
}

func (s *Source) checkFile(ctx context.Context, id *identity, x *file, shards []jobs.Shard) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := s.reopen(id, x)
	if err != nil {
		return err
	}
	defer f.Close()
	for i := range shards {
		if shards[i].Database == x.Database && shards[i].Collection == x.Collection {
			if err := checkStart(f, x, &shards[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkStart compares the document at a shard's start with the plan.
func checkStart(f *os.File, x *file, sh *jobs.Shard) error {
	if sh.Check == "" {
		return nil
	}
	off, err := offsetOf(sh.Start, 0)
	if err != nil {
		return fmt.Errorf("shard %d of %s: start %w", sh.N, x.Path, err)
	}
	if off > x.Size {
		return fmt.Errorf("shard %d of %s starts at %d, beyond the file's %d bytes", sh.N, x.Path, off, x.Size)
	}
	is, err := mark(f, off, x.Size)
	if err != nil {
		return err
	}
	if is != sh.Check {
		return &jobs.ChangedError{What: fmt.Sprintf("%s: the document at offset %d is another", f.Name(), off)}
	}
	return nil
}

// of is the file of a collection, or the archive for a shard of no named one.
func (id *identity) of(database, collection string) *file {
	i := slices.IndexFunc(id.Files, func(x file) bool { return x.Database == database && x.Collection == collection })
	if i < 0 {
		return nil
	}
	return &id.Files[i]
}
