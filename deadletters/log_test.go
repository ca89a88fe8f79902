package deadletters

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/crashpoint"
)

var when = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)

func document(t testing.TB, n int) []byte {
	t.Helper()
	raw, err := bson.Marshal(bson.D{{Key: "_id", Value: int32(n)}, {Key: "text", Value: "line\nbreak \"quoted\" <é>"}, {Key: "d", Value: 1.5}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func letter(t testing.TB, n int) Letter {
	return Letter{
		Shard: n % 3, Position: fmt.Sprint(n * 100), Collection: "ships", Table: "ns:ships", Key: fmt.Sprintf("%04x", n), Stage: HBase,
		Reason: "Column family nofam\ndoes not exist", Attempts: 3, Raw: document(t, n), Time: when,
	}
}

func openLog(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(dir, "run1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func appendAll(t testing.TB, l *Log, letters ...Letter) {
	t.Helper()
	for _, x := range letters {
		if err := l.Append(x); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, dir string) (*Index, []Entry) {
	t.Helper()
	x, err := Read(dir, "run1")
	if err != nil {
		t.Fatal(err)
	}
	return x, slices.Collect(x.Entries())
}

// positions is what identifies the letters, with a star for those replayed and a mark for each repeat.
func positions(es []Entry) string {
	var out []string
	for _, e := range es {
		s := fmt.Sprintf("%d:%s", e.Shard, e.Position) + strings.Repeat("'", e.Repeats)
		if e.Replay != nil {
			s += "*"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestAppendAndRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "letters")
	if x, es := read(t, dir); len(es) != 0 || x.Counts() != (Counts{}) {
		t.Fatalf("%d letters before any", len(es))
	}
	l := openLog(t, dir)
	broken := letter(t, 2)
	broken.Raw = broken.Raw[:len(broken.Raw)-3]
	given := letter(t, 3)
	given.Document, given.Raw = json.RawMessage("{\n \"a\": 1\n}"), nil
	appendAll(t, l, letter(t, 1), broken, given)

	x, es := read(t, dir)
	var got []Letter
	for _, e := range es {
		g, err := x.Letter(e)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, g)
	}
	want := []Letter{letter(t, 1), broken, given}
	for i := range want {
		want[i].Run = "run1"
	}
	want[0].Document = json.RawMessage(`{"_id":{"$numberInt":"1"},"text":"line\nbreak \"quoted\" <é>","d":{"$numberDouble":"1.5"}}`)
	want[1].Document = json.RawMessage("null")
	want[1].DecodeError = got[1].DecodeError
	want[2].Document, want[2].Raw = json.RawMessage(`{"a":1}`), []byte{}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("letters, - wanted + read:\n%s", d)
	}
	if !strings.Contains(got[1].DecodeError, "decode document of") {
		t.Fatalf("a document that cannot be decoded says %q", got[1].DecodeError)
	}
	lines, err := os.ReadFile(fileName(filepath.Join(dir, "run1"), 1))
	if err != nil || bytes.Count(lines, []byte("\n")) != 3 {
		t.Fatalf("%q, %v: want three lines", lines, err)
	}
	info, err := os.Stat(fileName(filepath.Join(dir, "run1"), 1))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v: want documents readable by their owner only", info.Mode(), err)
	}
}

func TestRepeatsAndReplays(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	again := letter(t, 1)
	again.Reason = "the last"
	appendAll(t, l, letter(t, 1), letter(t, 2), again, letter(t, 4))
	replay := Replay{Run: "run1", Shard: 2, Position: "200", Table: "ns:ships", Cells: 3, Bytes: 77, Time: when}
	unknown, second := replay, replay
	unknown.Position, second.Cells = "unknown", 4
	for _, r := range []Replay{replay, second, unknown} { // noted twice, it is one
		if err := l.Replayed(r); err != nil {
			t.Fatal(err)
		}
	}
	appendAll(t, l, letter(t, 2)) // the run went on from before it: still written
	x, es := read(t, dir)
	if got := positions(es); got != "1:100' 2:200'* 1:400" {
		t.Fatalf("letters %s", got)
	}
	if d := cmp.Diff(&replay, es[1].Replay); d != "" {
		t.Fatalf("replay, - noted first + read:\n%s", d)
	}
	if got, err := x.Letter(es[0]); err != nil || got.Reason != "the last" {
		t.Fatalf("a repeated letter says %q, %v", got.Reason, err)
	}
	count, err := Count(dir, "run1")
	if want := (Counts{Letters: 3, Replayed: 1, Repeats: 2}); err != nil || count != want || x.Counts() != want {
		t.Fatalf("counts %+v, %v, want %+v", count, err, want)
	}
	if len(x.Damaged()) != 0 {
		t.Fatalf("damaged: %v", x.Damaged())
	}
}

// Cut off at every byte of the last line, the log goes on after the whole ones.
func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	appendAll(t, l, letter(t, 1))
	whole := l.size
	appendAll(t, l, letter(t, 2))
	all := l.size
	l.Close()
	path := fileName(filepath.Join(dir, "run1"), 1)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := whole; n < all; n++ {
		if err := os.WriteFile(path, text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if x, es := read(t, dir); positions(es) != "1:100" || len(x.Damaged()) > 0 {
			t.Fatalf("cut at %d: read %s, damaged %v", n, positions(es), x.Damaged())
		}
		l, err := Open(dir, "run1")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(letter(t, 4)); err != nil {
			t.Fatal(err)
		}
		l.file.Close() // without the fsync of Close, which takes most of this test's time
		if x, es := read(t, dir); positions(es) != "1:100 1:400" || len(x.Damaged()) > 0 {
			t.Fatalf("cut at %d: then read %s, damaged %v", n, positions(es), x.Damaged())
		}
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 300<<10), 0o600); err != nil { // no whole line in many blocks
		t.Fatal(err)
	}
	appendAll(t, openLog(t, dir), letter(t, 5))
	if _, es := read(t, dir); positions(es) != "2:500" {
		t.Fatalf("read %s", positions(es))
	}
}

// A line that is no letter is named and does not hide the others.
func TestDamagedLine(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	appendAll(t, l, letter(t, 1), letter(t, 2), letter(t, 3))
	path := fileName(filepath.Join(dir, "run1"), 1)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	clear(lines[1][:40])
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	x, es := read(t, dir)
	if positions(es) != "1:100 0:300" || len(x.Damaged()) != 1 || !strings.Contains(x.Damaged()[0], "000001.jsonl line 2") {
		t.Fatalf("read %s, damaged %v", positions(es), x.Damaged())
	}
	// Damage behind the identity is found when the letter is read.
	copy(lines[0][len(lines[0])-20:], "\"\"\"")
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Letter(es[0]); err == nil || !strings.Contains(err.Error(), "shard 1 at 100") {
		t.Fatalf("a damaged letter reads: %v", err)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	l.max = 2000
	var want []string
	for n := range 40 {
		if n == 20 { // a restart goes on in the newest file
			l.Close()
			l = openLog(t, dir)
			l.max = 2000
		}
		appendAll(t, l, letter(t, n))
		want = append(want, fmt.Sprintf("%d:%d", n%3, n*100))
	}
	files, err := list(filepath.Join(dir, "run1"))
	if err != nil || len(files) < 5 || files[0] != 1 || files[len(files)-1] != len(files) {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, n := range files {
		info, err := os.Stat(fileName(filepath.Join(dir, "run1"), n))
		if err != nil || info.Size() > 2000+1000 {
			t.Fatalf("file %d: %v bytes, %v", n, info.Size(), err)
		}
	}
	x, es := read(t, dir)
	if got := positions(es); got != strings.Join(want, " ") {
		t.Fatalf("read %s", got)
	}
	for _, e := range es {
		if g, err := x.Letter(e); err != nil || g.Position != e.Position {
			t.Fatalf("letter %v: %v %v", e, g.Position, err)
		}
	}
}

func TestLargeDocument(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	raw, err := bson.Marshal(bson.D{{Key: "blob", Value: bytes.Repeat([]byte{7}, 15<<20)}})
	if err != nil {
		t.Fatal(err)
	}
	large := letter(t, 1)
	large.Raw = raw
	allocated := func(f func()) int64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return int64(after.TotalAlloc - before.TotalAlloc)
	}
	if n := allocated(func() { appendAll(t, l, large, large) }); n > 1<<20 {
		t.Errorf("%d bytes allocated to append two letters of %d", n, len(raw))
	}
	appendAll(t, l, letter(t, 2))
	if n := allocated(func() { read(t, dir) }); n > 1<<20 {
		t.Errorf("%d bytes allocated to index three letters", n)
	}
	x, es := read(t, dir)
	if positions(es) != "1:100' 2:200" {
		t.Fatalf("read %s", positions(es))
	}
	g, err := x.Letter(es[0])
	if err != nil || !bytes.Equal(g.Raw, raw) || string(g.Document) != "null" || !strings.Contains(g.DecodeError, "see raw") {
		t.Fatalf("a letter of %d bytes: %v, %.50s, %s", len(g.Raw), err, g.Document, g.DecodeError)
	}
}

func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	l.max = 20_000
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 20 {
				if err := l.Append(letter(t, g*20+n)); err != nil {
					t.Error(err)
				}
				if err := l.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if x, es := read(t, dir); len(es) != 160 || x.Counts().Repeats != 0 || len(x.Damaged()) != 0 {
		t.Fatalf("%d letters, %+v, damaged %v", len(es), x.Counts(), x.Damaged())
	}
}

func mount(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skip("needs to be root to mount a tmpfs: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// On a full disk nothing half written stays, and the log goes on when there is room.
func TestDiskFull(t *testing.T) {
	dir := mount(t, "size=256k")
	l := openLog(t, dir)
	appendAll(t, l, letter(t, 1))
	large := letter(t, 2)
	large.Document, large.Raw = json.RawMessage("{}"), make([]byte, 300<<10)
	err := l.Append(large)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "make room") {
		t.Fatalf("append on a full disk: %v", err)
	}
	appendAll(t, l, letter(t, 4))
	if x, es := read(t, dir); positions(es) != "1:100 1:400" || len(x.Damaged()) != 0 {
		t.Fatalf("read %s, damaged %v", positions(es), x.Damaged())
	}
}

func TestReadOnly(t *testing.T) {
	dir := mount(t, "size=256k")
	appendAll(t, openLog(t, dir), letter(t, 1))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		// The log above is open to write.
		syscall.Unmount(dir, syscall.MNT_DETACH)
		dir = mount(t, "ro")
	}
	for _, run := range []string{"run1", "run2"} {
		if _, err := Open(dir, run); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "dead_letters.to") {
			t.Fatalf("open in a read-only folder: %v", err)
		}
	}
}

func TestMisuse(t *testing.T) {
	for _, run := range []string{"", ".", "..", "a/b", "../a"} {
		if _, err := Open(t.TempDir(), run); err == nil {
			t.Errorf("opened the letters of run %q", run)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, "run1"); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("opened in a file: %v", err)
	}
	dir := t.TempDir()
	l := openLog(t, dir)
	bad := letter(t, 1)
	bad.Document = json.RawMessage("{")
	if err := l.Append(bad); err == nil {
		t.Error("appended a document that is no JSON")
	}
	appendAll(t, l, letter(t, 2))
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := l.Append(letter(t, 3)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after Close: %v", err)
	}
	if err := l.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("sync after Close: %v", err)
	}
	if _, es := read(t, dir); positions(es) != "2:200" {
		t.Errorf("read %s", positions(es))
	}
}

func TestPoisoned(t *testing.T) {
	l := openLog(t, t.TempDir())
	appendAll(t, l, letter(t, 1))
	file := l.file
	r, w, err := os.Pipe() // takes bytes and refuses the fsync
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer file.Close()
	l.file = w
	if err := l.Append(letter(t, 2)); err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("sync: %v", err)
	}
	l.file = file
	if err := l.Sync(); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("sync after a failed one: %v, want the same again", err)
	}
	if err := l.Append(letter(t, 3)); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("append after a failed sync: %v", err)
	}
}

const childEnv = "DEADLETTERS_TEST_CHILD"

// TestMain makes the test binary the process that dies once its letter is durable, when it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := crashpoint.Arm(crashpoint.Letter); err != nil {
			panic(err)
		}
		l, err := Open(dir, "run1")
		if err == nil {
			err = l.Sync() // there is nothing, so it does not pass the point
		}
		if err == nil {
			err = l.Replayed(Replay{Run: "run1", Position: "0", Time: when}) // no letter either
		}
		if err == nil {
			err = l.Sync()
		}
		if err == nil {
			err = l.Append(Letter{Position: "7", Time: when})
		}
		if err == nil {
			err = l.Sync()
		}
		panic(fmt.Sprint("still alive: ", err))
	}
	os.Exit(m.Run())
}

func TestCrashPoint(t *testing.T) {
	dir := t.TempDir()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := c.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v: %s", err, out)
	}
	if _, es := read(t, dir); positions(es) != "0:7" {
		t.Fatalf("read %s", positions(es))
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"letters-000002.jsonl", "letters-1000000.jsonl", "letters-2.jsonl", "letters-000003.jsonl.bak", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := list(dir); err != nil || !slices.Equal(got, []int{2, 1_000_000}) {
		t.Fatalf("files %v, %v", got, err)
	}
	if _, err := list(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func FuzzLine(f *testing.F) {
	var b bytes.Buffer
	letter(f, 1).write(&b)
	f.Add(b.Bytes())
	f.Add([]byte(`{"kind":"replayed","run":"r","shard":1,"position":"2"`))
	f.Fuzz(func(t *testing.T, head []byte) {
		x := &Index{byID: map[identity]*Entry{}}
		replayed := map[identity]*Replay{}
		if err := x.add(head, "f", 0, 1, replayed); err != nil && len(x.entries)+len(replayed) > 0 {
			t.Fatal("indexed a line that it refuses")
		}
	})
}

// Whatever a document holds, its letter is one line that reads back.
func FuzzLetter(f *testing.F) {
	f.Add(document(f, 1), "key", "reason")
	f.Add([]byte{}, "\xff", "a\nb")
	f.Fuzz(func(t *testing.T, raw []byte, key, reason string) {
		var b bytes.Buffer
		x := Letter{Run: "r", Position: key, Key: key, Reason: reason, Raw: raw, Time: when}
		if err := x.write(&b); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b.Bytes(), []byte("\n")); n != 1 || b.Bytes()[b.Len()-1] != '\n' {
			t.Fatalf("%d lines", n)
		}
		var back Letter
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || !bytes.Equal(back.Raw, raw) {
			t.Fatalf("%s reads back with %v", b.Bytes(), err)
		}
		if _, err := parseLine(b.Bytes()); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l := openLog(b, b.TempDir())
	x := letter(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(x); err != nil {
			b.Fatal(err)
		}
	}
}
