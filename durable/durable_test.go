package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestReplaceIsWholeForReadersAndLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	texts := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000), nil}
	if err := Replace(path, texts[0]); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for _, text := range texts {
		writers.Go(func() {
			for range 20 {
				if err := Replace(path, text); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
				return
			}
			if !bytes.Equal(data, texts[0]) && !bytes.Equal(data, texts[1]) && len(data) != 0 {
				t.Errorf("read %d bytes that nobody wrote", len(data))
				return
			}
		}
	})
	writers.Wait()
	close(done)
	readers.Wait()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("in the folder are %v, %v; want the file alone", files, err)
	}
}

func TestReplaceWithoutAFolderLeavesTheFileAsItWas(t *testing.T) {
	if err := Replace(filepath.Join(t.TempDir(), "missing", "file"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v, want fs.ErrNotExist", err)
	}
	// A folder in the place of the file cannot be replaced, and nothing stays beside it.
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "file", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(dir, "file"), []byte("x")); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("in the folder are %v, %v; want what was there", files, err)
	}
}
