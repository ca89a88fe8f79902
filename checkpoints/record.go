package checkpoints

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/zeebo/xxh3"

	"drover/crashpoint"
	"drover/durable"
)

// ErrNone says that nothing was ever saved. It is an fs.ErrNotExist.
var ErrNone = fmt.Errorf("nothing saved yet: %w", fs.ErrNotExist)

// Record is one durable value in a folder, with its predecessor:
//
//	NAME        the newest generation
//	NAME.prev   the one before
//	NAME.tmp    one that is being written; never read
//
// A generation is text: a header line, then the payload and a newline. The header is the same in every format, so that an
// older drover can say what it found:
//
//	drover KIND FORMAT "BINDING" LENGTH CHECKSUM
//
// LENGTH is the payload's in bytes, CHECKSUM the XXH3-64 in hex of the header before it and the payload after it.
//
// At every instant of a Save, one generation with a name is whole. One process at a time may save (see Lock); any may
// load meanwhile. The methods may be called from several goroutines.
type Record struct {
	Dir     string // made by the first Save
	Name    string
	Kind    string // one word, such as "plan"
	Format  int    // of the payload, from 1. Load gives newer ones a *NewerFormatError, and older ones to the caller
	Binding string // what the payload belongs to, such as a fingerprint; Load compares it
	Crash   bool   // pass crashpoint's Written, Renamed and Synced

	mu       sync.Mutex
	sound    bool // NAME is known to be whole, or not to be there
	poisoned error
}

// CorruptError says that no generation of a record can be read.
type CorruptError struct {
	Path         string
	Reason, Prev string // what is wrong with the newest generation and with the one before
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged (%s) and so is %s.prev (%s): restore one of them from a backup; "+
		"or move the folder %s away, and the next run starts from the beginning", e.Path, e.Reason, filepath.Base(e.Path), e.Prev,
		filepath.Dir(e.Path))
}

// NewerFormatError says that a newer drover wrote the record.
type NewerFormatError struct {
	Path       string
	Have, Know int
}

func (e *NewerFormatError) Error() string {
	return fmt.Sprintf("%s has format %d, this drover knows formats up to %d: use the version that wrote it, or a newer one",
		e.Path, e.Have, e.Know)
}

// BindingError says that the record belongs to something else.
type BindingError struct {
	Path       string
	Have, Want string
}

func (e *BindingError) Error() string {
	return fmt.Sprintf("%s belongs to %q, not to %q: it was made by another plan, do not mix their folders", e.Path, e.Have, e.Want)
}

// damage is why a generation cannot be used.
type damage string

func (d damage) Error() string { return string(d) }

func (r *Record) path() string { return filepath.Join(r.Dir, r.Name) }

// Load returns the payload of the newest whole generation, or ErrNone. When that is the previous one because the newest is
// damaged, warning says so: what is lost is the last save, so work is repeated.
func (r *Record) Load() (payload []byte, warning string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := r.path()
	payload, err = r.read(path)
	if err == nil {
		return payload, "", nil
	}
	broken, isDamage := errors.AsType[damage](err)
	missing := errors.Is(err, fs.ErrNotExist)
	if !isDamage && !missing {
		return nil, "", err
	}
	payload, prevErr := r.read(path + ".prev")
	prevBroken, prevIsDamage := errors.AsType[damage](prevErr)
	prevMissing := errors.Is(prevErr, fs.ErrNotExist)
	switch {
	case prevErr == nil && missing: // the instant between the two renames of a Save
		return payload, "", nil
	case prevErr == nil:
		return payload, fmt.Sprintf("%s is damaged (%s): going on from the generation before it", path, broken), nil
	case missing && prevMissing:
		return nil, "", fmt.Errorf("load %s %s: %w", r.Kind, path, ErrNone)
	case prevIsDamage || prevMissing:
		reason := func(d damage, missing bool) string {
			if missing {
				return "it is not there"
			}
			return string(d)
		}
		return nil, "", &CorruptError{Path: path, Reason: reason(broken, missing), Prev: reason(prevBroken, prevMissing)}
	default:
		return nil, "", prevErr
	}
}

// Save makes payload the newest generation. When it returns nil the payload is durable; after an error the one before it
// still stands, unless only the last step, making the new name durable, is in doubt. Disk full, read-only and the like can
// be seen with errors.Is, and a later Save may succeed; but not after a failed fsync, because the kernel may then have
// dropped what was written while saying that all is well: the record is poisoned, and every later Save fails. What a newer
// drover wrote is not replaced.
func (r *Record) Save(payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.poisoned != nil {
		return fmt.Errorf("save %s %s: an earlier fsync failed, start again to go on from what is on disk: %w", r.Kind, r.path(), r.poisoned)
	}
	if err := r.save(payload); err != nil {
		return fmt.Errorf("save %s %s: %w%s", r.Kind, r.path(), err, durable.Advice(err, ""))
	}
	return nil
}

func (r *Record) save(payload []byte) error {
	path := r.path()
	if err := durable.MakeDir(r.Dir); err != nil {
		return err
	}
	if err := r.write(path+".tmp", payload); err != nil {
		return err
	}
	r.pass(crashpoint.Written)
	// A damaged newest generation must not push a whole one out of NAME.prev. After a Save of our own it is known to be whole.
	if !r.sound {
		_, err := r.read(path)
		_, broken := errors.AsType[damage](err)
		_, other := errors.AsType[*BindingError](err)
		if err != nil && !broken && !other && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		r.sound = !broken
	}
	if r.sound {
		if err := os.Rename(path, path+".prev"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err // NAME may be missing now, which the next Save takes for sound: right, NAME.prev is
	}
	r.sound = true
	r.pass(crashpoint.Renamed)
	if err := durable.SyncDir(r.Dir); err != nil {
		r.poisoned = err
		return err
	}
	r.pass(crashpoint.Synced)
	return nil
}

func (r *Record) pass(point string) {
	if r.Crash {
		crashpoint.Pass(point)
	}
}

func (r *Record) write(path string, payload []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(encode(r.Kind, r.Format, r.Binding, payload))
	if err == nil {
		if err = f.Sync(); err != nil {
			r.poisoned = err
		}
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(path) // best effort: on a full disk its bytes are wanted
	}
	return err
}

func (r *Record) read(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", r.Kind, err)
	}
	h, payload, err := decode(data)
	if err != nil {
		return nil, err
	}
	switch {
	case h.kind != r.Kind:
		return nil, damage(fmt.Sprintf("it is a %s, not a %s", h.kind, r.Kind))
	case h.format > r.Format:
		return nil, &NewerFormatError{Path: path, Have: h.format, Know: r.Format}
	case h.binding != r.Binding:
		return nil, &BindingError{Path: path, Have: h.binding, Want: r.Binding}
	}
	return payload, nil
}

const magic = "drover"

type header struct {
	kind    string
	format  int
	binding string
}

func encode(kind string, format int, binding string, payload []byte) []byte {
	head := fmt.Appendf(nil, "%s %s %d %s %d ", magic, kind, format, strconv.QuoteToASCII(binding), len(payload))
	out := make([]byte, 0, len(head)+len(payload)+18)
	out = append(out, head...)
	out = fmt.Appendf(out, "%016x\n", checksum(head, payload))
	out = append(out, payload...)
	return append(out, '\n')
}

// decode returns a damage for every input that encode did not make.
func decode(data []byte) (header, []byte, error) {
	line, rest, found := bytes.Cut(data, []byte("\n"))
	if !found {
		return header{}, nil, damage("its first line is cut off")
	}
	var h header
	text, ok := strings.CutPrefix(string(line), magic+" ")
	if !ok {
		return header{}, nil, damage("its first line is not that of a record")
	}
	h.kind, text, _ = strings.Cut(text, " ")
	format, text, _ := strings.Cut(text, " ")
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return header{}, nil, damage("its first line is not that of a record")
	}
	length, sum, _ := strings.Cut(strings.TrimPrefix(text[len(quoted):], " "), " ")
	var formatErr, lengthErr error
	h.format, formatErr = strconv.Atoi(format)
	n, lengthErr := strconv.Atoi(length)
	h.binding, err = strconv.Unquote(quoted)
	if formatErr != nil || lengthErr != nil || err != nil {
		return header{}, nil, damage("its first line is not that of a record")
	}
	payload, ended := bytes.CutSuffix(rest, []byte("\n"))
	if !ended || len(payload) != n {
		return header{}, nil, damage(fmt.Sprintf("it holds %d bytes where its first line says %d", len(rest), n+1))
	}
	if head := line[:len(line)-len(sum)]; fmt.Sprintf("%016x", checksum(head, payload)) != sum {
		return header{}, nil, damage("its checksum is wrong")
	}
	return h, payload, nil
}

func checksum(head, payload []byte) uint64 {
	var h xxh3.Hasher
	h.Write(head)
	h.Write(payload)
	return h.Sum64()
}
