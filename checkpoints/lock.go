package checkpoints

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"drover/durable"
)

// ErrLocked says that another process works there. The error that Lock returns is a *LockedError too.
var ErrLocked = errors.New("already in use")

// LockedError says who holds a lock. All but Path is zero when the holder has only just begun.
type LockedError struct {
	Path    string    `json:"-"`
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Started time.Time `json:"started"`
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is already in use by a process that has just started: wait for it to end, or stop it", e.Path)
	}
	return fmt.Sprintf("%s is already in use by process %d on %s since %s: wait for it to end, or stop it", e.Path, e.PID, e.Host,
		e.Started.Format(time.RFC3339))
}

// Is makes it an ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// FileLock is a lock that is held. The kernel gives it back when the process dies, however it dies.
type FileLock struct {
	mu   sync.Mutex
	file *os.File // nil once unlocked
}

// Lock takes the lock at path and never waits for it: ErrLocked when another holds it, in this process or any other of this
// host. The folder is made if it is missing. The file stays when the lock is given back, because removing it would let two
// processes lock two files of one name; what is written in it is for people.
//
// On a network file system it is as good as that file system's flock.
func Lock(path string) (*FileLock, error) {
	if err := durable.MakeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("lock %s: %w%s", path, err, durable.Advice(err, ""))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w%s", err, durable.Advice(err, ""))
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		held := &LockedError{Path: path}
		if data, err := os.ReadFile(path); err == nil {
			json.Unmarshal(data, held) // half written or empty: then who holds it is not known, only that it is held
		}
		return nil, held
	}
	host, _ := os.Hostname()
	text, err := json.Marshal(LockedError{PID: os.Getpid(), Host: host, Started: time.Now().Truncate(time.Second)})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w%s", path, err, durable.Advice(err, ""))
	}
	return &FileLock{file: f}, nil
}

// Unlock gives the lock back. A second time it does nothing.
func (l *FileLock) Unlock() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	f.Truncate(0) // nobody holds it, so nobody is named; the flock decides, whatever is left in the file
	return f.Close()
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
