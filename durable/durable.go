// Package durable makes folders and whole files that survive a power cut, and says what to do about the file system's
// errors. What is written into the folders in any other way is their owners' to sync.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MakeDir makes a folder and those above it that are missing, durably.
func MakeDir(dir string) error {
	dir = filepath.Clean(dir)
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MakeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// SyncDir makes durable which names a folder holds. After an error it is not known what the disk has; it is not to be tried
// again.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Replace makes data what the file holds, durably and at once: who reads it meanwhile sees the old file or the new one, and
// never half of one. The folder must be there. Several processes may do it at the same time; the last one wins. After an error
// the old file stands, unless only the last step, making the name durable, is in doubt.
func Replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // finds nothing once it is renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Advice says, to be put behind an error's text, what to do next about it; "" when that is not known. where names the other
// place that could be used instead.
func Advice(err error, where string) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "; make room there, then run again: it resumes"
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return "; make the folder writable, or name another" + where
	}
	return ""
}
