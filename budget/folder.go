package budget

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// folder is where the members of one key meet:
//
//	DIR/<hash of the key>/key             the key, for people
//	DIR/<hash of the key>/state           the schedule; its lock guards everything here
//	DIR/<hash of the key>/<random>.member what a member brings; locked by it for as long as it lives
//
// Members come, change, are looked at and go with the state locked, so nobody takes one that is being made for a dead one.
type folder struct {
	dir    string
	key    string
	boot   [16]byte
	state  *os.File
	member *os.File // locked for life
	name   string   // of the member's file in dir
	buffer [stateSize + 1]byte
}

// about is a member's file.
type about struct {
	PID   int    `json:"pid"`
	Host  string `json:"host"`
	Since string `json:"since"`
	Limits
}

// Every user of the host may take part, and take away what another's dead process left: the key's folder has no sticky bit.
const (
	rootMode  = 0o777 | fs.ModeSticky
	keyMode   = 0o777
	fileMode  = 0o666
	suffix    = ".member"
	stateName = "state"
)

func openFolder(dir, key string) (*folder, error) {
	boot, err := hostBoot()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(key))
	f := &folder{dir: filepath.Join(dir, hex.EncodeToString(sum[:8])), key: key, boot: boot}
	if err := makeDir(dir, rootMode); err != nil {
		return nil, err
	}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

// open makes and opens what is missing. The member's file comes later, under the lock.
func (f *folder) open() error {
	if err := makeDir(f.dir, keyMode); err != nil {
		return err
	}
	text, err := create(filepath.Join(f.dir, "key"))
	if err != nil {
		return err
	}
	_, err = text.WriteAt([]byte(f.key+"\n"), 0)
	if closeErr := text.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	f.state, err = create(filepath.Join(f.dir, stateName))
	return err
}

// close leaves the budget. The kernel would do so when the process ends.
func (f *folder) close() error {
	var errs []error
	if f.member != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		// Without the state's lock a file is left, which the others find unlocked.
		if err := lock(ctx, f.state); err == nil {
			errs = append(errs, ignoreMissing(os.Remove(filepath.Join(f.dir, f.name))))
		}
		errs = append(errs, f.member.Close())
	}
	errs = append(errs, f.state.Close())
	f.member = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("leave the budget of %s: %w", f.key, err)
	}
	return nil
}

// update reads the state into s, looks at the members if it is time, runs do and writes the state back, all under the lock.
func (f *folder) update(ctx context.Context, s *state, own Limits, look bool, do func(now int64)) error {
	if err := lock(ctx, f.state); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("lock the budget of %s: %w", f.key, err)
	}
	defer func() { unlock(f.state) }() // of the file that it is by then: see reopen
	if err := f.locked(ctx, s, own, look, do); err != nil {
		return fmt.Errorf("use the budget of %s in %s: %w", f.key, f.dir, err)
	}
	return nil
}

func (f *folder) locked(ctx context.Context, s *state, own Limits, look bool, do func(now int64)) error {
	now, err := f.read(s)
	if err != nil {
		return err
	}
	if look || now-s.checked >= int64(recheck) {
		if moved, err := f.moved(); err != nil {
			return err
		} else if moved {
			if err := f.reopen(ctx); err != nil {
				return err
			}
			if now, err = f.read(s); err != nil {
				return err
			}
		}
		l, err := f.look(own, Limits{s.schedule[rows].rate, s.schedule[bytes].rate}, look)
		if err != nil {
			return err
		}
		s.checked = now
		s.schedule.set(now, l)
	}
	do(now)
	_, err = f.state.WriteAt(s.append(f.buffer[:0]), 0)
	return err
}

// read reads the state. One that is damaged, or of another boot, begins anew now: nothing is saved up, and places in it are
// taken again in the new one.
func (f *folder) read(s *state) (now int64, err error) {
	n, err := f.state.ReadAt(f.buffer[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if now, err = hostNow(); err != nil {
		return 0, err
	}
	if !s.parse(f.buffer[:n], now) || s.boot != f.boot {
		*s = state{boot: f.boot, era: rand.Uint64(), checked: now - int64(recheck)}
		return now, f.state.Truncate(0) // a longer file would be damaged for ever
	}
	return now, nil
}

// moved tells whether the folder was removed, or replaced, under the open files.
func (f *folder) moved() (bool, error) {
	have, err := f.state.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(filepath.Join(f.dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return err == nil && !os.SameFile(have, there), err
}

// reopen goes over to the folder that is there now, and locks its state.
func (f *folder) reopen(ctx context.Context) error {
	old := f.state
	if err := makeDir(filepath.Dir(f.dir), rootMode); err != nil {
		return err
	}
	if err := f.open(); err != nil {
		f.state = old
		return err
	}
	old.Close()
	return lock(ctx, f.state)
}

// look finds the members that live, removes the others, and returns the lowest of the living's limits. before are the
// limits until now, which stand for those of a member that cannot be read.
func (f *folder) look(own, before Limits, write bool) (Limits, error) {
	if err := f.present(own, write); err != nil {
		return Limits{}, err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return Limits{}, err
	}
	lowest := own
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) || e.Name() == f.name {
			continue
		}
		l, alive, err := f.lookAt(e.Name(), before)
		if err != nil {
			return Limits{}, err
		}
		if alive {
			lowest = lowest.lower(l)
		}
	}
	return lowest, nil
}

func (f *folder) lookAt(name string, before Limits) (l Limits, alive bool, err error) {
	path := filepath.Join(f.dir, name)
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Limits{}, false, nil
	}
	if err != nil {
		return Limits{}, false, err
	}
	defer file.Close()
	err = flock(file, syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil {
		return Limits{}, false, ignoreMissing(os.Remove(path))
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return Limits{}, false, err
	}
	var a about
	if err := json.NewDecoder(file).Decode(&a); err != nil || a.check() != nil {
		return before, true, nil
	}
	return a.Limits, true, nil
}

// present makes sure that this member's file is there and, for write, says what it brings.
func (f *folder) present(own Limits, write bool) error {
	if f.member != nil {
		have, err := f.member.Stat()
		if err != nil {
			return err
		}
		there, err := os.Lstat(filepath.Join(f.dir, f.name))
		if err != nil || !os.SameFile(have, there) {
			f.member.Close()
			f.member = nil
		}
	}
	if f.member == nil {
		name := fmt.Sprintf("%016x%s", rand.Uint64(), suffix)
		file, err := create(filepath.Join(f.dir, name))
		if err != nil {
			return err
		}
		if err := flock(file, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			file.Close()
			return err
		}
		f.member, f.name, write = file, name, true
	}
	if !write {
		return nil
	}
	host, _ := os.Hostname()
	text, err := json.Marshal(about{PID: os.Getpid(), Host: host, Since: time.Now().Format(time.RFC3339), Limits: own})
	if err != nil {
		return err
	}
	if err := f.member.Truncate(0); err != nil {
		return err
	}
	_, err = f.member.WriteAt(append(text, '\n'), 0)
	return err
}

// create opens a file, which it makes for every user if it is missing, and never another file through a link.
func create(path string) (*os.File, error) {
	const flags = os.O_RDWR | syscall.O_NOFOLLOW
	file, err := os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return os.OpenFile(path, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := widen(path, fileMode); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// makeDir makes a folder and those above it that are missing; only the last gets the mode.
func makeDir(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode.Perm()); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return widen(path, mode)
}

// widen undoes the umask, for something that was just made.
func widen(path string, mode fs.FileMode) error { return os.Chmod(path, mode) }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lock waits for a file's lock. It asks again and again because the kernel's own wait cannot be cancelled, and a holder
// that is stopped holds it for as long as that.
func lock(ctx context.Context, file *os.File) error {
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, 2*time.Millisecond) {
		err := flock(file, syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func unlock(file *os.File) { flock(file, syscall.LOCK_UN) }

func flock(file *os.File, how int) error {
	for {
		if err := syscall.Flock(int(file.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
