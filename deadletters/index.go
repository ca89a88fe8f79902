package deadletters

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

// Entry is one letter of an index.
type Entry struct {
	Run      string
	Shard    int
	Position string
	Repeats  int     // how often it was written again
	Replay   *Replay // when its document was written after all; the first, if it was noted more than once

	file   string // of a log; the rest too
	offset int64
	length int64
}

// Index is the letters of one run, without their documents: some 200 bytes of memory each.
type Index struct {
	entries []*Entry
	byID    map[identity]*Entry // nil once all is read
	damaged []string
	letter  func(e Entry, whole bool) (Letter, error)
}

// NewIndex makes an index of letters that were read elsewhere than in a folder, each once. letter reads one, whole or with or without
// its document, as it likes.
func NewIndex(entries []*Entry, damaged []string, letter func(e Entry, whole bool) (Letter, error)) *Index {
	return &Index{entries: entries, damaged: damaged, letter: letter}
}

type identity struct {
	run      string
	shard    int
	position string
}

// Counts are of letters, each once.
type Counts struct {
	Letters  int64
	Replayed int64 // among Letters
	Repeats  int64 // lines that only repeat a letter
}

// Read indexes the letters of a run in a folder, those of all workers. A run without letters has an empty index. It may be read
// while the run goes on: a line that is not whole yet is left out.
func Read(dir, run string) (*Index, error) {
	x := &Index{byID: map[identity]*Entry{}, letter: readLetter}
	files, err := allFiles(filepath.Join(dir, run))
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	replayed := map[identity]*Replay{}
	for _, file := range files {
		if err := x.scan(file, replayed); err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
	}
	for id, r := range replayed {
		if e := x.byID[id]; e != nil {
			e.Replay = r
		}
	}
	x.byID = nil
	return x, nil
}

// Count counts a run's letters.
func Count(dir, run string) (Counts, error) {
	x, err := Read(dir, run)
	if err != nil {
		return Counts{}, err
	}
	return x.Counts(), nil
}

// Counts counts the letters.
func (x *Index) Counts() Counts {
	var c Counts
	for _, e := range x.entries {
		c.Letters++
		c.Repeats += int64(e.Repeats)
		if e.Replay != nil {
			c.Replayed++
		}
	}
	return c
}

// Damaged names the lines that are no letters, for a person: what a power cut left of lines that were never synced, or what
// somebody edited.
func (x *Index) Damaged() []string { return x.damaged }

// Entries yields the letters in the order in which they were first written.
func (x *Index) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, e := range x.entries {
			if !yield(*e) {
				return
			}
		}
	}
}

// Letter reads a letter with its document, as it was last written.
func (x *Index) Letter(e Entry) (Letter, error) { return x.letter(e, true) }

// Brief reads a letter without its document.
func (x *Index) Brief(e Entry) (Letter, error) {
	l, err := x.letter(e, false)
	l.Document, l.Raw = nil, nil
	return l, err
}

// allFiles lists a run's files: those of its folder, then each worker's.
func allFiles(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dirs := []string{dir}
	for _, e := range entries {
		if e.IsDir() && isName(e.Name()) {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	for _, d := range dirs {
		numbers, err := list(d)
		if err != nil {
			return nil, err
		}
		for _, n := range numbers {
			files = append(files, fileName(d, n))
		}
	}
	return files, nil
}

func readLetter(e Entry, _ bool) (Letter, error) {
	fail := func(err error) (Letter, error) {
		return Letter{}, fmt.Errorf("read dead letter of shard %d at %s in %s: %w", e.Shard, e.Position, e.file, err)
	}
	f, err := os.Open(e.file)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	var l Letter
	if err := json.NewDecoder(io.NewSectionReader(f, e.offset, e.length)).Decode(&l); err != nil {
		return fail(err)
	}
	if l.Run != e.Run || l.Shard != e.Shard || l.Position != e.Position {
		return fail(fmt.Errorf("another letter stands there: shard %d at %s", l.Shard, l.Position))
	}
	return l, nil
}

// prefix is how much of a line is kept to find its identity. Positions are far shorter.
const prefix = 64 << 10

// scan indexes one file, holding no more of a line than its beginning.
func (x *Index) scan(file string, replayed map[identity]*Replay) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, prefix)
	var offset int64
	for n := 1; ; n++ {
		head, length, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if why := x.add(head, file, offset, length, replayed); why != nil {
			x.damaged = append(x.damaged, fmt.Sprintf("%s line %d: %v", file, n, why))
		}
		offset += length
	}
}

// readLine reads over the next whole line and returns its length with its first prefix bytes, which are valid until the next
// call. io.EOF comes after the last whole one.
func readLine(r *bufio.Reader) (head []byte, length int64, err error) {
	head, err = r.ReadSlice('\n')
	length = int64(len(head))
	if !errors.Is(err, bufio.ErrBufferFull) {
		return head, length, err
	}
	head = bytes.Clone(head)
	for errors.Is(err, bufio.ErrBufferFull) {
		var more []byte
		more, err = r.ReadSlice('\n')
		length += int64(len(more))
	}
	return head, length, err
}

func (x *Index) add(head []byte, file string, offset, length int64, replayed map[identity]*Replay) error {
	l, err := parseLine(head)
	if err != nil {
		return err
	}
	id := identity{l.Run, l.Shard, l.Position}
	switch l.Kind {
	case kindReplayed:
		r := replay{line: l}
		if err := json.Unmarshal(head, &r); err != nil {
			return err
		}
		r.Replay.Run, r.Replay.Shard, r.Replay.Position = l.Run, l.Shard, l.Position
		if replayed[id] == nil { // also of a letter that is repeated later: its document has been written
			replayed[id] = &r.Replay
		}
	case kindLetter:
		e := x.byID[id]
		if e == nil {
			e = &Entry{Run: l.Run, Shard: l.Shard, Position: l.Position, Repeats: -1}
			x.byID[id] = e
			x.entries = append(x.entries, e)
		}
		e.Repeats++
		e.file, e.offset, e.length = file, offset, length
	}
	return nil // other kinds are a newer drover's
}

// parseLine reads what begins a line; the line may be cut off after that.
func parseLine(head []byte) (l line, err error) {
	d := json.NewDecoder(bytes.NewReader(head))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return line{}, errors.New("it does not begin a JSON object")
	}
	for _, field := range []struct {
		name string
		to   any
	}{{"kind", &l.Kind}, {"run", &l.Run}, {"shard", &l.Shard}, {"position", &l.Position}} {
		if t, err := d.Token(); err != nil || t != field.name {
			return line{}, fmt.Errorf("it has no %s where a letter has it", field.name)
		}
		if err := d.Decode(field.to); err != nil {
			return line{}, fmt.Errorf("its %s: %w", field.name, err)
		}
	}
	return l, nil
}
