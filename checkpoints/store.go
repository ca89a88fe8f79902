package checkpoints

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Counts are of one table, or of several together. The books close when Read = Written + Filtered + Dead.
type Counts struct {
	Read     int64 `json:"read"`     // documents
	Written  int64 `json:"written"`  // documents
	Filtered int64 `json:"filtered"` // documents
	Dead     int64 `json:"dead"`     // documents
	Rows     int64 `json:"rows"`     // settled, each once
	Cells    int64 `json:"cells"`
	Bytes    int64 `json:"bytes"` // encoded and acknowledged
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.Read += o.Read
	c.Written += o.Written
	c.Filtered += o.Filtered
	c.Dead += o.Dead
	c.Rows += o.Rows
	c.Cells += o.Cells
	c.Bytes += o.Bytes
}

// Sub takes o from c.
func (c *Counts) Sub(o Counts) {
	c.Add(Counts{-o.Read, -o.Written, -o.Filtered, -o.Dead, -o.Rows, -o.Cells, -o.Bytes})
}

// Balanced tells whether the books close.
func (c Counts) Balanced() bool { return c.Read == c.Written+c.Filtered+c.Dead }

// Checkpoint is a shard's watermark and what lies before it.
type Checkpoint struct {
	Shard  int               `json:"shard"`
	Cursor string            `json:"cursor"` // where the first document that is not settled starts; the source's words
	Done   bool              `json:"done,omitempty"`
	Stored int64             `json:"stored,omitempty"` // source bytes as stored behind the watermark, for progress
	Tables map[string]Counts `json:"tables,omitempty"` // by target table; all of [start of shard, Cursor)
}

// Totals are of the whole run over its resumes, beside the counts of its shards.
type Totals struct {
	Calls   int64         `json:"calls,omitempty"`  // to gateways, for batches and their parts
	Retries int64         `json:"retries"`          // those that were not acknowledged, so that their rows went again
	Limited time.Duration `json:"limited"`          // spent waiting for the limits; nanoseconds
	Slowed  time.Duration `json:"slowed,omitempty"` // while HBase's answers held anything back; nanoseconds
	Resumed int           `json:"resumed"`          // how often the run was taken up again
	Dead    int64         `json:"dead,omitempty"`   // letters written, in a store that several processes share
}

// Store keeps the checkpoints of one run. It belongs to one process at a time, which holds the right to the run (a Lock,
// a lease); its methods may be called from several goroutines.
//
// A store that several processes share decides each write by the right to the shard that its caller holds at that instant,
// as part of the write, never by what it read before; it refuses a write without that right and changes nothing then.
type Store interface {
	// Load returns the newest checkpoint of each shard that has one, and the totals. The caller owns the map. A run that
	// never saved has none: that is no error.
	Load(ctx context.Context) (map[int]Checkpoint, Totals, error)

	// Save replaces the checkpoints of the shards in changed, and the totals. It keeps neither changed nor its maps.
	// When it returns nil they are durable. After an error each of them may be or not be there, so the caller gives them,
	// or later ones, again; those that were saved before still stand. ctx may end the wait before anything is written, not
	// a write under way.
	Save(ctx context.Context, changed []Checkpoint, t Totals) error
}

// FileStore is a Store in one record that holds all shards. A save rewrites it: milliseconds at a thousand shards, most of
// it the disk's; a run with many more wants another store.
type FileStore struct {
	record  Record
	warning string

	mu     sync.Mutex
	shards map[int]Checkpoint
	totals Totals
}

type stored struct {
	Totals Totals       `json:"totals"`
	Shards []Checkpoint `json:"shards"` // ascending
}

// OpenFile reads the checkpoints in a folder, which need not exist yet. The errors are those of Record.Load, but for
// ErrNone. The caller holds the folder's Lock.
func OpenFile(dir, binding string) (*FileStore, error) {
	s := &FileStore{
		record: Record{Dir: dir, Name: "checkpoint", Kind: "checkpoint", Format: 1, Binding: binding, Crash: true},
		shards: map[int]Checkpoint{},
	}
	payload, warning, err := s.record.Load()
	if errors.Is(err, ErrNone) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.warning = warning
	var have stored
	if err := json.Unmarshal(payload, &have); err != nil {
		return nil, fmt.Errorf("read the checkpoints in %s: %w", filepath.Join(dir, s.record.Name), err)
	}
	s.totals = have.Totals
	for _, c := range have.Shards {
		s.shards[c.Shard] = c
	}
	return s, nil
}

// Warning is "", or what OpenFile found damaged and could do without, for a person.
func (s *FileStore) Warning() string { return s.warning }

// Load implements Store.
func (s *FileStore) Load(context.Context) (map[int]Checkpoint, Totals, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	shards := make(map[int]Checkpoint, len(s.shards))
	for n, c := range s.shards {
		c.Tables = maps.Clone(c.Tables)
		shards[n] = c
	}
	return shards, s.totals, nil
}

// Save implements Store.
func (s *FileStore) Save(ctx context.Context, changed []Checkpoint, t Totals) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	// What is given is settled whether or not this save succeeds, so it may stay for the next one.
	for _, c := range changed {
		c.Tables = maps.Clone(c.Tables)
		s.shards[c.Shard] = c
	}
	s.totals = t
	payload, err := s.encode()
	if err != nil {
		return fmt.Errorf("encode %d checkpoints: %w", len(s.shards), err)
	}
	return s.record.Save(payload)
}

// encode gives each shard a line of its own, so that people and diff can read it.
func (s *FileStore) encode() ([]byte, error) {
	totals, err := json.Marshal(s.totals)
	if err != nil {
		return nil, err
	}
	out := fmt.Appendf(nil, `{"totals":%s,"shards":[`, totals)
	for i, n := range slices.Sorted(maps.Keys(s.shards)) {
		line, err := json.Marshal(s.shards[n])
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(out, '\n'), line...)
	}
	return append(out, "\n]}"...), nil
}
