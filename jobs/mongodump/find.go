package mongodump

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// kind is what a file holds, found by its first bytes.
type kind string

const (
	plainKind       kind = "bson"
	gzipKind        kind = "gzip"
	archiveKind     kind = "archive"
	gzipArchiveKind kind = "archive.gz"
)

// archiveMagic starts an archive. As a document length it would be negative.
const archiveMagic = "\x6d\xe2\x99\x81"

// kindOf looks at the start of a file. What starts as gzip could also be a document of 559,903 bytes: it is gzip when it
// can be inflated, or is named so.
func kindOf(f *os.File) (kind, error) {
	var head [4]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if string(head[:n]) == archiveMagic {
		return archiveKind, nil
	}
	zipped := strings.HasSuffix(f.Name(), ".gz")
	if n < 3 && zipped {
		return gzipKind, nil // and truncated
	}
	if n < 3 || head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 {
		return plainKind, nil
	}
	z, err := gzip.NewReader(io.NewSectionReader(f, 0, 1<<62))
	if err == nil {
		n, err = io.ReadFull(z, head[:])
		if string(head[:n]) == archiveMagic {
			return gzipArchiveKind, nil
		}
	}
	if err == nil || err == io.EOF || zipped {
		return gzipKind, nil
	}
	return plainKind, nil
}

// find lists the files that make up the dump, without opening them.
func (s *Source) find() (identity, error) {
	var id identity
	info, err := os.Stat(s.path)
	if err != nil {
		return id, hint(err)
	}
	if !info.IsDir() {
		abs, err := filepath.Abs(s.path)
		if err != nil {
			return id, fmt.Errorf("find the folder of %s: %w", s.path, err)
		}
		x := named(filepath.Base(abs), filepath.Base(filepath.Dir(abs)))
		if err := x.rename(s.path); err != nil {
			return id, err
		}
		if isOplog(s.path) {
			return id, oplogError(s.path)
		}
		id.Files = []file{x}
		return id, nil
	}
	id.Folder = true
	root, err := filepath.EvalSymlinks(s.path)
	if err != nil {
		return id, hint(err)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return id, fmt.Errorf("find the folder of %s: %w", s.path, err)
	}
	byName := make(map[string]string) // namespace to path
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return hint(err)
		}
		if d.Type()&fs.ModeSymlink != 0 {
			if to, err := os.Stat(p); err == nil && to.IsDir() {
				return fmt.Errorf("plan %s: %s is a link to a folder, and links are not followed; put the folder itself there", s.path, p)
			}
		}
		if d.IsDir() || !strings.HasSuffix(strings.TrimSuffix(p, ".gz"), ".bson") {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if isOplog(p) {
			return oplogError(p)
		}
		x := named(filepath.ToSlash(rel), filepath.Base(filepath.Dir(filepath.Join(abs, rel))))
		if err := x.rename(p); err != nil {
			return err
		}
		if isSystem(x.Collection) {
			return nil
		}
		ns := x.Database + "." + x.Collection
		if other, ok := byName[ns]; ok {
			return fmt.Errorf("plan %s: %s and %s both hold %s; leave one of them in the folder", s.path, other, x.Path, ns)
		}
		byName[ns] = x.Path
		id.Files = append(id.Files, x)
		return nil
	})
	if err != nil {
		return id, err
	}
	if len(id.Files) == 0 {
		return id, fmt.Errorf("plan %s: no .bson or .bson.gz file of a collection in this folder", s.path)
	}
	return id, nil
}

// named takes the names of database and collection from a relative path and the folder that the file lies in.
func named(rel, folder string) file {
	name := strings.TrimSuffix(strings.TrimSuffix(path.Base(rel), ".gz"), ".bson")
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	return file{Path: rel, Database: folder, Collection: name}
}

// cutNames is the length in bytes from which mongodump cuts file names off. Such a file has its whole name in the metadata.
const cutNames = 238

// rename takes the collection's name from the metadata beside the file at p when the file's own name was cut off.
func (x *file) rename(p string) error {
	name := strings.TrimSuffix(filepath.Base(p), ".gz")
	if len(strings.TrimSuffix(name, ".bson")) < cutNames {
		return nil
	}
	f, err := os.Open(metadataOf(p))
	if err != nil {
		return fmt.Errorf("find the whole name of collection %s: %w", x.Collection, err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(p, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
	var metadata struct {
		Name string `json:"collectionName"`
	}
	if err := json.NewDecoder(r).Decode(&metadata); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if metadata.Name != "" {
		x.Collection = metadata.Name
	}
	return nil
}

// metadataOf is the path of the metadata beside a .bson or .bson.gz file.
func metadataOf(p string) string {
	name, zipped := strings.CutSuffix(p, ".gz")
	name = strings.TrimSuffix(name, ".bson") + ".metadata.json"
	if zipped {
		name += ".gz"
	}
	return name
}

// isOplog tells the oplog of a dump from a collection of that name, which has metadata.
func isOplog(p string) bool {
	if strings.TrimSuffix(filepath.Base(p), ".gz") != "oplog.bson" {
		return false
	}
	_, err := os.Stat(metadataOf(p))
	return err != nil
}

func oplogError(p string) error {
	return fmt.Errorf("plan %s: this is the oplog of a dump taken with --oplog, and without it the collections are not of one "+
		"moment; restore the dump with mongorestore --oplogReplay and dump again without --oplog, or leave the oplog out", p)
}

// isSystem tells collections that belong to the server. Buckets are a time series' documents as stored, and are kept.
func isSystem(collection string) bool {
	collection = strings.TrimPrefix(collection, "$admin.")
	return strings.HasPrefix(collection, "system.") && !strings.HasPrefix(collection, "system.buckets.")
}

// openRegular opens a file of the dump.
func openRegular(p string) (*os.File, error) {
	info, err := os.Stat(p) // before it is opened: a pipe would wait for its other end
	if err != nil {
		return nil, hint(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read the dump %s: it is not a regular file, and could not be read again on a resume; write it to disk first", p)
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, hint(err)
	}
	return f, nil
}

// hint adds to an error of a path what to do about it.
func hint(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the dump: %w; source.mongodump names a .bson file, a dump folder or an archive", err)
	}
	return fmt.Errorf("read the dump: %w", err)
}
