package checkpoints_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drover/checkpoints"
	"drover/checkpoints/checkpointstest"
)

func TestFileStore(t *testing.T) {
	dirs := map[string]string{} // by test
	checkpointstest.Run(t, func(t *testing.T) checkpoints.Store {
		if dirs[t.Name()] == "" {
			dirs[t.Name()] = filepath.Join(t.TempDir(), "run")
		}
		s, err := checkpoints.OpenFile(dirs[t.Name()], "f1")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestFileStoreErrors(t *testing.T) {
	dir := t.TempDir()
	s, err := checkpoints.OpenFile(dir, "f1")
	if err != nil {
		t.Fatal(err)
	}
	for _, cursor := range []string{"1", "2"} {
		if err := s.Save(context.Background(), []checkpoints.Checkpoint{{Shard: 4, Cursor: cursor}}, checkpoints.Totals{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := checkpoints.OpenFile(dir, "f2"); err == nil || !strings.Contains(err.Error(), `"f2"`) {
		t.Fatalf("another fingerprint: %v", err)
	}
	path := filepath.Join(dir, "checkpoint")
	if err := os.Truncate(path, 30); err != nil {
		t.Fatal(err)
	}
	if s, err = checkpoints.OpenFile(dir, "f1"); err != nil || !strings.Contains(s.Warning(), path) {
		t.Fatalf("damaged: %v, want a warning", err)
	}
	if have, _, _ := s.Load(context.Background()); have[4].Cursor != "1" {
		t.Fatalf("damaged: loaded %v, want the generation before", have)
	}
	if err := os.Truncate(path+".prev", 0); err != nil {
		t.Fatal(err)
	}
	_, err = checkpoints.OpenFile(dir, "f1")
	if _, ok := errors.AsType[*checkpoints.CorruptError](err); !ok {
		t.Fatalf("both damaged: %v", err)
	}
}

func TestCounts(t *testing.T) {
	a := checkpoints.Counts{Read: 10, Written: 7, Filtered: 2, Dead: 1, Rows: 8, Cells: 80, Bytes: 800}
	if !a.Balanced() {
		t.Fatal("10 = 7 + 2 + 1 does not balance")
	}
	b := a
	b.Add(checkpoints.Counts{1, 2, 3, 4, 5, 6, 7})
	if b != (checkpoints.Counts{11, 9, 5, 5, 13, 86, 807}) || b.Balanced() {
		t.Fatalf("added up to %+v", b)
	}
	b.Sub(checkpoints.Counts{1, 2, 3, 4, 5, 6, 7})
	if a != b {
		t.Fatalf("%+v after adding and taking away, want %+v", b, a)
	}
}

// BenchmarkFileStoreSave saves one changed shard of a thousand: what a run with that many does every two seconds.
func BenchmarkFileStoreSave(b *testing.B) {
	s, err := checkpoints.OpenFile(b.TempDir(), "sha256:0123456789abcdef")
	if err != nil {
		b.Fatal(err)
	}
	var all []checkpoints.Checkpoint
	for n := range 1000 {
		all = append(all, checkpoints.Checkpoint{Shard: n, Cursor: fmt.Sprint(n * 1_000_000), Tables: map[string]checkpoints.Counts{
			"ns:shipwrecks": {Read: 123456, Written: 123456, Rows: 123456, Cells: 1234560, Bytes: 123456789},
		}})
	}
	if err := s.Save(context.Background(), all, checkpoints.Totals{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Save(context.Background(), all[:1], checkpoints.Totals{}); err != nil {
			b.Fatal(err)
		}
	}
}
