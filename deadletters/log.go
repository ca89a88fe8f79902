package deadletters

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"drover/crashpoint"
	"drover/durable"
)

// maxFile is the size at which a log goes on in a new file. A letter is never cut in two, so one file may be larger.
const maxFile = 64 << 20

// ErrClosed is what a log's methods return after Close.
var ErrClosed = errors.New("the dead letters are closed")

// Log is the Sink of a folder. One process at a time may have it open, which the run's lock or the worker's name sees to.
type Log struct {
	run string
	dir string // of this run, or of this worker in it
	max int64  // maxFile, less in tests

	worker bool // the folder is one of several of the run

	mu       sync.Mutex
	file     *os.File // nil until something is appended, and after Close
	buffer   *bufio.Writer
	number   int   // of the newest file; 0 is none
	size     int64 // of whole lines in it
	newName  bool  // the folder does not hold the file's name durably
	unsynced bool  // whole lines wait for an fsync
	letters  bool  // there are letters among them
	closed   bool
	poisoned error
}

// Open opens a run's letters in a folder to append, and makes the folders that are missing. A last line that a crash cut
// off is removed: it was never synced.
func Open(dir, run string) (*Log, error) { return openAt(dir, run, "") }

// OpenWorker is Open for a folder that several processes write to: worker is a name that no other process has while this one lives.
func OpenWorker(dir, run, worker string) (*Log, error) {
	if !isName(worker) {
		return nil, fmt.Errorf("open dead letters in %s: worker %q is no name of a folder", filepath.Join(dir, run), worker)
	}
	return openAt(dir, run, worker)
}

func openAt(dir, run, worker string) (*Log, error) {
	l, err := open(dir, run, worker)
	if err != nil {
		return nil, fmt.Errorf("open dead letters in %s: %w%s", filepath.Join(dir, run, worker), err, durable.Advice(err, " as dead_letters.to"))
	}
	return l, nil
}

func isName(s string) bool { return s != "" && s == filepath.Base(s) && !strings.HasPrefix(s, ".") }

func open(dir, run, worker string) (*Log, error) {
	if !isName(run) {
		return nil, fmt.Errorf("run %q is no name of a folder", run)
	}
	l := &Log{run: run, dir: filepath.Join(dir, run, worker), max: maxFile, worker: worker != ""}
	if err := durable.MakeDir(l.dir); err != nil {
		return nil, err
	}
	if err := unix.Access(l.dir, unix.W_OK|unix.X_OK); err != nil { // now, not when the first document has died
		return nil, &fs.PathError{Op: "write to", Path: l.dir, Err: err}
	}
	files, err := list(l.dir)
	if err != nil {
		return nil, err
	}
	if len(files) > 0 {
		l.number = files[len(files)-1]
		if err := l.mend(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// mend opens the newest file and cuts off what comes after its last whole line.
func (l *Log) mend() error {
	f, err := os.OpenFile(fileName(l.dir, l.number), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	size, err := wholeLines(f)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return err
	}
	// The process before may have died between making the file and syncing the folder, or between a write and its sync.
	l.use(f, size)
	l.newName, l.unsynced = true, true
	return nil
}

func (l *Log) use(f *os.File, size int64) {
	l.file, l.size = f, size
	if l.buffer == nil {
		l.buffer = bufio.NewWriterSize(nil, 64<<10)
	}
}

// wholeLines is how many bytes of f its whole lines take.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	block := make([]byte, 64<<10)
	for end := info.Size(); end > 0; {
		start := max(0, end-int64(len(block)))
		b := block[:end-start]
		if _, err := f.ReadAt(b, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

// Append is Sink's. After an error the log is as it was, so that the caller can go on when, say, the disk has room again.
func (l *Log) Append(x Letter) error {
	x.Run = l.run
	if err := l.append(x.write, true); err != nil {
		return fmt.Errorf("append dead letter of shard %d at %s to %s: %w%s", x.Shard, x.Position, l.dir, err, durable.Advice(err, " as dead_letters.to"))
	}
	return nil
}

// Replayed is Sink's.
func (l *Log) Replayed(r Replay) error {
	text, err := json.Marshal(replay{line{kindReplayed, r.Run, r.Shard, r.Position}, r})
	if err == nil {
		err = l.append(func(w io.Writer) error {
			_, err := w.Write(append(text, '\n'))
			return err
		}, false)
	}
	if err != nil {
		return fmt.Errorf("note replay of shard %d at %s in %s: %w%s", r.Shard, r.Position, l.dir, err, durable.Advice(err, " as dead_letters.to"))
	}
	return nil
}

func (l *Log) append(write func(io.Writer) error, letter bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if l.file == nil || l.size >= l.max {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	w := counter{w: l.file}
	l.buffer.Reset(&w)
	err := write(l.buffer)
	if err == nil {
		err = l.buffer.Flush()
	}
	if err != nil {
		if undo := l.undo(); undo != nil {
			l.poisoned = fmt.Errorf("cut off a line that was half written: %w", undo)
		}
		return err
	}
	l.size += w.n
	l.unsynced = true
	l.letters = l.letters || letter
	return nil
}

func (l *Log) usable() error {
	if l.closed {
		return ErrClosed
	}
	if l.poisoned != nil {
		return fmt.Errorf("an earlier write left it in doubt, start again to go on from what is on disk: %w", l.poisoned)
	}
	return nil
}

// undo takes back what was written of a line.
func (l *Log) undo() error {
	if err := l.file.Truncate(l.size); err != nil {
		return err
	}
	_, err := l.file.Seek(l.size, io.SeekStart)
	return err
}

// rotate goes on in a new file.
func (l *Log) rotate() error {
	if err := l.sync(); err != nil {
		return err
	}
	f, err := os.OpenFile(fileName(l.dir, l.number+1), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // it holds people's documents
	if err != nil {
		return err
	}
	if l.file != nil {
		l.file.Close() // synced
	}
	l.number++
	l.use(f, 0)
	l.newName = true
	return nil
}

// Sync is Sink's. After a failed fsync it is not known what the disk has: the log is
// poisoned and all its methods but Close fail.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.usable()
	if err == nil {
		err = l.sync()
	}
	if err != nil {
		return fmt.Errorf("sync dead letters in %s: %w%s", l.dir, err, durable.Advice(err, " as dead_letters.to"))
	}
	return nil
}

func (l *Log) sync() error {
	if l.file == nil {
		return nil
	}
	if l.unsynced {
		if err := l.file.Sync(); err != nil {
			l.poisoned = err
			return err
		}
		l.unsynced = false
	}
	if l.newName {
		if err := durable.SyncDir(l.dir); err != nil {
			l.poisoned = err
			return err
		}
		l.newName = false
	}
	if l.letters {
		l.letters = false
		crashpoint.Pass(crashpoint.Letter)
	}
	return nil
}

// Close syncs and closes. A second time it does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	var err error
	if l.poisoned == nil {
		err = l.sync()
	}
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	if l.number == 0 && l.worker {
		os.Remove(l.dir) // nobody comes back to it; one that is not empty stays
	}
	l.file, l.closed = nil, true
	if err != nil {
		return fmt.Errorf("close dead letters in %s: %w%s", l.dir, err, durable.Advice(err, " as dead_letters.to"))
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

const (
	filePrefix = "letters-"
	fileSuffix = ".jsonl"
)

func fileName(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%s%06d%s", filePrefix, number, fileSuffix))
}

// list gives the numbers of a log's files, ascending.
func list(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		var n int
		if _, err := fmt.Sscanf(e.Name(), filePrefix+"%d"+fileSuffix, &n); err == nil && !e.IsDir() && fileName(dir, n) == filepath.Join(dir, e.Name()) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}
