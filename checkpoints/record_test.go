package checkpoints

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drover/crashpoint"
)

func plan(dir string) *Record {
	return &Record{Dir: dir, Name: "plan", Kind: "plan", Format: 2, Binding: "job \"a\"\nline"}
}

func save(t *testing.T, r *Record, payload string) {
	t.Helper()
	if err := r.Save([]byte(payload)); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, r *Record, want string, warned bool) {
	t.Helper()
	got, warning, err := r.Load()
	if err != nil || string(got) != want {
		t.Fatalf("loaded %q, %v; want %q", got, err, want)
	}
	if (warning != "") != warned {
		t.Fatalf("warning %q, want one: %v", warning, warned)
	}
}

func TestRecordGenerations(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	r := plan(dir)
	if _, _, err := r.Load(); !errors.Is(err, ErrNone) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("load of nothing: %v, want ErrNone", err)
	}
	for i := range 4 {
		save(t, r, fmt.Sprint("generation ", i))
		load(t, plan(dir), fmt.Sprint("generation ", i), false)
	}
	text, err := os.ReadFile(filepath.Join(dir, "plan"))
	if err != nil || !strings.HasPrefix(string(text), `drover plan 2 "job \"a\"\nline" 12 `) || !strings.HasSuffix(string(text), "\ngeneration 3\n") {
		t.Fatalf("the file reads %q, %v", text, err)
	}
	prev := plan(dir)
	prev.Name = "plan.prev"
	load(t, prev, "generation 2", false)
	if _, err := os.Stat(filepath.Join(dir, "plan.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("plan.tmp is left: %v", err)
	}
}

// Every single damage to the newest generation is seen, and the one before it takes its place.
func TestRecordDamage(t *testing.T) {
	dir := t.TempDir()
	r := plan(dir)
	save(t, r, "one")
	save(t, r, "two")
	path := filepath.Join(dir, "plan")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for n := range whole { // cut off anywhere
		write(whole[:n])
		load(t, plan(dir), "one", true)
	}
	for n := range whole { // one bit flipped anywhere
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[n] ^= 1 << bit
			write(b)
			load(t, plan(dir), "one", true)
		}
	}
	write(append(bytes.Clone(whole), 'x'))
	load(t, plan(dir), "one", true)

	// A save over the damage keeps the whole one: at no step may the damaged file push it out.
	write(whole[:20])
	r = plan(dir)
	save(t, r, "three")
	load(t, plan(dir), "three", false)
	write(whole[:20])
	load(t, plan(dir), "one", true)

	if err := os.WriteFile(path+".prev", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err = plan(dir).Load()
	if c, ok := errors.AsType[*CorruptError](err); !ok || c.Path != path || !strings.Contains(err.Error(), "restore one of them") {
		t.Fatalf("both damaged: %v, want a *CorruptError that says what to do", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err = plan(dir).Load(); !isCorrupt(err) {
		t.Fatalf("one missing, one damaged: %v, want a *CorruptError", err)
	}
}

func isCorrupt(err error) bool {
	_, ok := errors.AsType[*CorruptError](err)
	return ok
}

func TestRecordOfAnother(t *testing.T) {
	dir := t.TempDir()
	save(t, plan(dir), "old")
	newer := plan(dir)
	newer.Format = 5
	save(t, newer, "new")
	_, _, err := plan(dir).Load()
	if e, ok := errors.AsType[*NewerFormatError](err); !ok || e.Have != 5 || e.Know != 2 {
		t.Fatalf("newer format: %v, want a *NewerFormatError of 5 and 2, not the generation before", err)
	}
	if err := plan(dir).Save([]byte("x")); err == nil {
		t.Fatal("replaced what a newer drover wrote")
	}
	load(t, newer, "new", false)

	other := plan(dir)
	other.Format, other.Binding = 5, "job b"
	_, _, err = other.Load()
	if e, ok := errors.AsType[*BindingError](err); !ok || e.Have != plan(dir).Binding || e.Want != "job b" {
		t.Fatalf("other binding: %v, want a *BindingError", err)
	}
	kind := plan(dir)
	kind.Kind = "checkpoint"
	if _, _, err := kind.Load(); !isCorrupt(err) {
		t.Fatalf("other kind: %v, want a *CorruptError", err)
	}
}

// full makes the next Save of r meet a full disk: a write to /dev/full fails like one.
func full(t *testing.T, r *Record) (mend func()) {
	t.Helper()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("needs /dev/full: ", err)
	}
	tmp := r.path() + ".tmp"
	if err := os.Symlink("/dev/full", tmp); err != nil {
		t.Fatal(err)
	}
	return func() { os.Remove(tmp) }
}

func TestRecordDiskFull(t *testing.T) {
	dir := t.TempDir()
	r := plan(dir)
	save(t, r, "one")
	mend := full(t, r)
	err := r.Save([]byte("two"))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), r.path()) || !strings.Contains(err.Error(), "make room") {
		t.Fatalf("save on a full disk: %v, want ENOSPC, the path and what to do", err)
	}
	mend()
	load(t, plan(dir), "one", false)
	save(t, r, "two")
	load(t, plan(dir), "two", false)
}

func TestRecordReadOnly(t *testing.T) {
	dir := readOnly(t, func(dir string) { save(t, plan(dir), "one") })
	r := plan(dir)
	err := r.Save([]byte("two"))
	if !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("save in a read-only folder: %v, want EROFS or EACCES and the path", err)
	}
	load(t, plan(dir), "one", false)
	if _, err := Lock(filepath.Join(dir, "lock")); !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("lock in a read-only folder: %v, want EROFS or EACCES", err)
	}
}

// readOnly is a folder that prepare filled and nobody can write to: by its mode, or for root, who does not care for modes,
// by a mount.
func readOnly(t *testing.T, prepare func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	if os.Getuid() != 0 {
		prepare(dir)
		if err := os.Chmod(dir, 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(dir, 0o755) })
		return dir
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("root needs to mount a tmpfs: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	prepare(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip("root needs to remount a tmpfs: ", err)
	}
	return dir
}

func TestRecordPoisoned(t *testing.T) {
	dir := t.TempDir()
	r := plan(dir)
	save(t, r, "one")
	// A pipe takes the bytes and refuses the fsync.
	if err := syscall.Mkfifo(r.path()+".tmp", 0o644); err != nil {
		t.Fatal(err)
	}
	hold, err := os.OpenFile(r.path()+".tmp", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	if err := r.Save([]byte("two")); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("save with a failing fsync: %v, want EINVAL", err)
	}
	os.Remove(r.path() + ".tmp")
	if err := r.Save([]byte("three")); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "earlier fsync") {
		t.Fatalf("save after a failed fsync: %v, want the first error again", err)
	}
	load(t, plan(dir), "one", false)
}

const childEnv = "CHECKPOINTS_TEST_CHILD"

// TestMain makes the test binary the process that dies or holds a lock, when it is told to.
func TestMain(m *testing.M) {
	switch args := strings.Split(os.Getenv(childEnv), "|"); args[0] {
	case "save":
		if err := crashpoint.Arm(args[2]); err != nil {
			panic(err)
		}
		r := plan(args[1])
		r.Crash = true
		if err := r.Save([]byte("new")); err != nil {
			panic(err)
		}
		os.Exit(0)
	case "lock":
		if _, err := Lock(args[1]); err != nil {
			panic(err)
		}
		fmt.Println("locked")
		select {}
	}
	os.Exit(m.Run())
}

func child(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+strings.Join(args, "|"))
	c.Stderr = os.Stderr
	return c
}

// A process killed at each step of a save leaves the old generation or the new one.
func TestRecordKilled(t *testing.T) {
	for point, want := range map[string]string{
		crashpoint.Written: "old", crashpoint.Renamed: "new", crashpoint.Synced: "new",
	} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/first=%v", point, first), func(t *testing.T) {
				dir := t.TempDir()
				if !first {
					save(t, plan(dir), "older")
					save(t, plan(dir), "old")
				}
				err := child(t, "save", dir, point).Run()
				exit, ok := errors.AsType[*exec.ExitError](err)
				if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("the child ended with %v, want SIGKILL", err)
				}
				if first && want == "old" {
					if _, _, err := plan(dir).Load(); !errors.Is(err, ErrNone) {
						t.Fatalf("loaded: %v, want ErrNone", err)
					}
				} else {
					load(t, plan(dir), want, false)
				}
				save(t, plan(dir), "next")
				load(t, plan(dir), "next", false)
			})
		}
	}
}

// Between the two renames the newest name is missing; that is no damage.
func TestRecordBetweenRenames(t *testing.T) {
	dir := t.TempDir()
	r := plan(dir)
	save(t, r, "one")
	if err := os.Rename(r.path(), r.path()+".prev"); err != nil {
		t.Fatal(err)
	}
	load(t, plan(dir), "one", false)
	save(t, plan(dir), "two")
	load(t, plan(dir), "two", false)
}

func FuzzDecode(f *testing.F) {
	f.Add(encode("plan", 1, "b", []byte("{}")))
	f.Add(encode("plan", 1, "", nil))
	f.Add([]byte("drover plan 1 \"\" 0 "))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, payload, err := decode(b)
		if err != nil {
			return
		}
		if again := encode(h.kind, h.format, h.binding, payload); !bytes.Equal(again, b) {
			t.Fatalf("%q decodes, and encodes to %q", b, again)
		}
	})
}
