package gateway

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"drover/hbase/thrift2"
)

// Keys in Pebble. The table's number is never used again, so rows written late into a dropped table are never seen.
//
//	"c"                    the cluster id
//	"n" name               a namespace's configuration, JSON
//	"q"                    the last table number given out, 4 bytes big-endian
//	"d" table              a table's record, JSON
//	"t" number row         a row: the number is 4 bytes big-endian, the row key is as it is, and so rows sort bytewise
//
// A row's value is its cells one after another (cells.go), put there by Pebble's merges: a write appends, and rowMerger
// settles what was appended. Nothing that HBase would only drop in a major compaction is dropped.
const (
	keyCluster   = 'c'
	keyNamespace = 'n'
	keyNumber    = 'q'
	keyTable     = 'd'
	keyRow       = 't'
)

// Store is the one "HBase" behind its Servers. It is safe for concurrent use.
type Store struct {
	db      *pebble.DB
	cluster string
	fsync   bool

	// mu guards what the tables are. Writes of rows hold it shared while they apply, so that a table that was disabled
	// or dropped takes no row after the call for that has returned.
	mu         sync.RWMutex
	tables     map[string]*table // by full name
	namespaces map[string]map[string]string
	number     uint32
	closed     bool

	spread atomic.Int32 // region servers that are pretended; 0 is one

	latest sync.Mutex // held by deletes of "the latest version", which read and then write
}

// table is immutable; a change makes another one.
type table struct {
	name     string // "ns:t", or "t" in the default namespace
	number   uint32
	splits   [][]byte // ascending
	disabled bool
	desc     *thrift2.TTableDescriptor // complete, never handed out to be changed
	families []family                  // by name
}

type family struct {
	name        string
	versions    int
	minVersions int
	ttl         int64 // milliseconds; 0 is for ever
	keepDeleted bool
}

type tableRecord struct {
	Number   uint32   `json:"number"`
	Splits   [][]byte `json:"splits,omitempty"`
	Disabled bool     `json:"disabled,omitempty"`
	Desc     []byte   `json:"desc"` // TTableDescriptor in Thrift's binary protocol
}

// StoreOptions says where a Store lives.
type StoreOptions struct {
	Dir   string // "" keeps all in memory
	Fsync bool   // see Options.Fsync
	Log   *slog.Logger
}

// OpenStore opens the store in dir, which is made if missing; "" keeps all in memory. One process at a time can have it open.
func OpenStore(dir string) (*Store, error) { return openStore(StoreOptions{Dir: dir}) }

func openStore(o StoreOptions) (*Store, error) {
	opts := &pebble.Options{
		Merger:                      rowMerger,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		Logger:                      quietLogger{o.Log},
	}
	dir := o.Dir
	if dir == "" {
		opts.FS, dir = vfs.NewMem(), "mem"
	} else {
		opts.FS = vfs.Default
		if !o.Fsync {
			opts.FS = killSafe{opts.FS}
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the gateway's folder: %w", err)
		}
		lock, err := pebble.LockDirectory(dir, vfs.Default)
		if err != nil {
			return nil, fmt.Errorf("the gateway's folder %s is in use by another gateway (%w): stop that one, or choose another folder", dir, err)
		}
		defer lock.Close() // Pebble holds its own reference once it is open
		opts.Lock = lock
	}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open the gateway's store in %s: %w", dir, err)
	}
	s := &Store{db: db, fsync: o.Fsync, tables: map[string]*table{}, namespaces: map[string]map[string]string{}}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the gateway's store in %s: %w", dir, err), db.Close())
	}
	return s, nil
}

// Close ends the store. Its Servers must be closed before. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the gateway's store: %w", err)
	}
	return nil
}

// Spread pretends that the regions of every table are on n region servers, of one host and several ports.
func (s *Store) Spread(n int) { s.spread.Store(int32(n)) }

// ClusterID is made once for a store, and kept in it.
func (s *Store) ClusterID() string { return s.cluster }

func (s *Store) load() error {
	id, err := s.value([]byte{keyCluster})
	if err != nil {
		return err
	}
	if id == nil {
		var u [16]byte
		rand.Read(u[:])
		u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
		id = fmt.Appendf(nil, "%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
		if err := s.db.Set([]byte{keyCluster}, id, pebble.Sync); err != nil {
			return err
		}
	}
	s.cluster = string(id)

	last, err := s.value([]byte{keyNumber})
	if err != nil {
		return err
	}
	if len(last) == 4 {
		s.number = binary.BigEndian.Uint32(last)
	}

	s.namespaces["default"], s.namespaces["hbase"] = nil, nil
	err = s.each(keyNamespace, func(name string, value []byte) error {
		var conf map[string]string
		if err := json.Unmarshal(value, &conf); err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		s.namespaces[name] = conf
		return nil
	})
	if err != nil {
		return err
	}
	return s.each(keyTable, func(name string, value []byte) error {
		var r tableRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		desc := thrift2.NewTTableDescriptor()
		if err := thrift.NewTDeserializer().Read(context.Background(), desc, r.Desc); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		s.tables[name] = newTable(name, r.Number, r.Splits, r.Disabled, desc)
		return nil
	})
}

// value is nil when the key is absent.
func (s *Store) value(key []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v = slices.Clone(v)
	return v, closer.Close()
}

func (s *Store) each(prefix byte, f func(name string, value []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefix}, UpperBound: []byte{prefix + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err == nil {
			err = f(string(it.Key()[1:]), v)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

func newTable(name string, number uint32, splits [][]byte, disabled bool, desc *thrift2.TTableDescriptor) *table {
	t := &table{name: name, number: number, splits: splits, disabled: disabled, desc: desc}
	for _, c := range desc.Columns {
		f := family{name: string(c.Name), versions: int(c.GetMaxVersions()), minVersions: int(c.GetMinVersions())}
		if ttl := c.GetTimeToLive(); ttl != forever {
			f.ttl = int64(ttl) * 1000
		}
		f.keepDeleted = c.GetKeepDeletedCells() != thrift2.TKeepDeletedCells_FALSE
		t.families = append(t.families, f)
	}
	return t
}

// family finds a family without an allocation, nil when there is none.
func (t *table) family(name []byte) *family {
	for i := range t.families {
		if t.families[i].name == string(name) {
			return &t.families[i]
		}
	}
	return nil
}

// prefixLen is how much of a row's key in Pebble comes before the row key.
const prefixLen = 5

func (t *table) appendKey(dst, row []byte) []byte {
	dst = append(dst, keyRow)
	dst = binary.BigEndian.AppendUint32(dst, t.number)
	return append(dst, row...)
}

// table finds a table by the name a client gave it.
func (s *Store) table(name []byte) *table {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tables[plainName(name)]
}

// saveLocked makes t the table of its name, durably. Callers hold mu.
func (s *Store) saveLocked(t *table) error {
	desc, err := thrift.NewTSerializer().Write(context.Background(), t.desc)
	if err != nil {
		return fmt.Errorf("encode table %s: %w", t.name, err)
	}
	record, err := json.Marshal(tableRecord{Number: t.number, Splits: t.splits, Disabled: t.disabled, Desc: desc})
	if err != nil {
		return fmt.Errorf("encode table %s: %w", t.name, err)
	}
	b := s.db.NewBatch()
	defer b.Close()
	old := s.tables[t.name]
	if old != nil && old.number != t.number {
		if err := dropRows(b, old); err != nil {
			return err
		}
	}
	if err := b.Set(append([]byte{keyTable}, t.name...), record, nil); err != nil {
		return err
	}
	if err := b.Set([]byte{keyNumber}, binary.BigEndian.AppendUint32(nil, s.number), nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("save table %s: %w", t.name, err)
	}
	s.tables[t.name] = t
	return nil
}

func (s *Store) dropLocked(t *table) error {
	b := s.db.NewBatch()
	defer b.Close()
	if err := dropRows(b, t); err != nil {
		return err
	}
	if err := b.Delete(append([]byte{keyTable}, t.name...), nil); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("drop table %s: %w", t.name, err)
	}
	delete(s.tables, t.name)
	return nil
}

func dropRows(b *pebble.Batch, t *table) error {
	after := *t
	after.number++
	return b.DeleteRange(t.appendKey(nil, nil), after.appendKey(nil, nil), nil)
}

func (s *Store) tableNames() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.tables))
}

// killSafe makes a write-ahead log that survives the end of the process at any instant, not of the machine: a commit waits
// for write(2) and not for the disk. Everything but the log is still fsynced.
type killSafe struct{ vfs.FS }

const walCategory = "pebble-wal"

func (fs killSafe) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return unsynced(fs.FS.Create(name, c))(c)
}

func (fs killSafe) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return unsynced(fs.FS.ReuseForWrite(oldname, newname, c))(c)
}

func (fs killSafe) Unwrap() vfs.FS { return fs.FS }

func unsynced(f vfs.File, err error) func(vfs.DiskWriteCategory) (vfs.File, error) {
	return func(c vfs.DiskWriteCategory) (vfs.File, error) {
		if err != nil || c != walCategory {
			return f, err
		}
		return logFile{f}, nil
	}
}

type logFile struct{ vfs.File }

func (logFile) Sync() error                { return nil }
func (logFile) SyncData() error            { return nil }
func (logFile) SyncTo(int64) (bool, error) { return false, nil }

// quietLogger passes on what Pebble cannot go on after, and drops its running commentary.
type quietLogger struct{ log *slog.Logger }

func (quietLogger) Infof(string, ...any) {}

func (l quietLogger) Errorf(format string, args ...any) {
	if l.log != nil {
		l.log.Error("pebble: " + fmt.Sprintf(format, args...))
	}
}

func (l quietLogger) Fatalf(format string, args ...any) {
	panic("pebble: " + fmt.Sprintf(format, args...))
}
