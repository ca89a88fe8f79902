package lettertable

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"drover/deadletters"
	"drover/hbase"
)

// Open opens the letters of a run to append, and makes the table if it is missing. timestamp is that of the run's plan. The sink
// writes through the pool, which outlives it, for as long as ctx lives and a little longer, since what a run settled is saved after it
// was told to end.
func (t Table) Open(ctx context.Context, pool *hbase.Pool, run string, timestamp int64) (deadletters.Sink, error) {
	if err := t.ready(ctx, pool); err != nil {
		return nil, fmt.Errorf("open dead letters in table %s: %w", t.Name, err)
	}
	return &sink{
		t: t, piece: min(cmp.Or(t.Piece, maxPiece), maxPiece), run: run, timestamp: timestamp, ctx: ctx, pool: pool,
		batch: hbase.AcquireBatch(hbase.SyncWAL),
	}, nil
}

// grace is how long a sink goes on after its context has ended.
const grace = 10 * time.Second

// sink is a deadletters.Sink. What is appended waits in a batch, of a little more than a piece at the most.
type sink struct {
	t         Table
	piece     int
	run       string
	timestamp int64
	ctx       context.Context // of the run
	pool      *hbase.Pool

	mu     sync.Mutex
	batch  *hbase.Batch
	closed bool
}

// Append is deadletters.Sink's.
func (s *sink) Append(x deadletters.Letter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.Run = s.run
	if err := s.append(x); err != nil {
		return fmt.Errorf("append dead letter of shard %d at %s to table %s: %w", x.Shard, x.Position, s.t.Name, err)
	}
	return nil
}

func (s *sink) append(x deadletters.Letter) error {
	if s.closed {
		return deadletters.ErrClosed
	}
	made := len(x.Document) == 0 // and is again by who reads it
	if err := x.Complete(); err != nil {
		return err
	}
	if made {
		x.Document = nil
	}
	h := head{Letter: x, Piece: s.piece, RawBytes: len(x.Raw), JSONBytes: len(x.Document)}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	key := s.t.key(s.run, x.Shard, x.Position)
	size := len(x.Raw) + len(x.Document) + len(text)
	if size <= s.piece { // all of it is one put, which is there or not
		if err := s.room(size); err != nil {
			return err
		}
		s.batch.Begin(key)
		s.cell(qualifier("raw", s.piece, 0), x.Raw)
		s.cell(qualifier("json", s.piece, 0), x.Document)
		s.cell([]byte("letter"), text)
		s.batch.End()
		return nil
	}
	for _, d := range []struct {
		what  string
		bytes []byte
	}{{"raw", x.Raw}, {"json", x.Document}} {
		for at := 0; at < len(d.bytes); at += s.piece {
			p := d.bytes[at:min(at+s.piece, len(d.bytes))]
			if err := s.room(len(p)); err != nil {
				return err
			}
			s.put(key, qualifier(d.what, s.piece, at), p)
		}
	}
	if err := s.flush(); err != nil { // the pieces are there before what says that they are
		return err
	}
	s.put(key, []byte("letter"), text)
	return nil
}

// Replayed is deadletters.Sink's.
func (s *sink) Replayed(r deadletters.Replay) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := deadletters.ErrClosed
	if !s.closed {
		err = s.replayed(r)
	}
	if err != nil {
		return fmt.Errorf("note replay of shard %d at %s in table %s: %w", r.Shard, r.Position, s.t.Name, err)
	}
	return nil
}

func (s *sink) replayed(r deadletters.Replay) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := s.room(len(text)); err != nil {
		return err
	}
	s.put(s.t.key(s.run, r.Shard, r.Position), []byte("replayed"), text)
	return nil
}

func (s *sink) put(key, qualifier, value []byte) {
	s.batch.Begin(key)
	s.cell(qualifier, value)
	s.batch.End()
}

func (s *sink) cell(qualifier, value []byte) {
	if len(value) > 0 {
		s.batch.Cell(hbase.Put, []byte(family), qualifier, s.timestamp, value)
	}
}

// room sends what waits when n bytes more would be too many for a call.
func (s *sink) room(n int) error {
	if s.batch.Rows() == 0 || s.batch.Bytes()+n <= s.piece {
		return nil
	}
	return s.flush()
}

// flush sends what waits. After an error it still waits.
func (s *sink) flush() error {
	if s.batch.Rows() == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(s.ctx))
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() {
		time.AfterFunc(grace, func() { cancel(context.Cause(s.ctx)) })
	})()
	applied, err := s.pool.Apply(ctx, s.t.Name, s.batch)
	if err != nil {
		return err
	}
	if len(applied.Refused) > 0 {
		return fmt.Errorf("HBase refuses it: %s", applied.Refused[0].Reason)
	}
	s.batch.Release()
	s.batch = hbase.AcquireBatch(hbase.SyncWAL)
	return nil
}

// Sync is deadletters.Sink's. After an error what was appended waits for the next one.
func (s *sink) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("sync dead letters in table %s: %w", s.t.Name, deadletters.ErrClosed)
	}
	return s.sync()
}

func (s *sink) sync() error {
	if err := s.flush(); err != nil {
		return fmt.Errorf("sync dead letters in table %s: %w", s.t.Name, err)
	}
	return nil
}

// Close is deadletters.Sink's.
func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.sync()
	s.batch.Release()
	s.batch = nil
	return err
}
