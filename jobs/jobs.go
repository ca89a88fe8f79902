// Package jobs says what a job is: a source cut into shards, a mapping that makes documents rows, a target table and the
// limits to keep. All of it is plain values and small interfaces; nothing here moves a row (package runner does).
//
// A source's key space is cut into shards, contiguous half-open ranges that tile it exactly once. Positions in it are
// cursors: text whose meaning only the source knows, such as a byte offset of a file. The runner keeps, compares for
// equality and hands back cursors, and never computes with them.
package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"drover/hbase"
)

// Cursor is a position in a source, between two documents. "" as a shard's start is the very beginning, as its end the
// very end.
type Cursor string

// Shard is a contiguous half-open range [Start, End) of a source's key space.
type Shard struct {
	N          int    `json:"n"`                    // its number in the plan, from 0
	Database   string `json:"database,omitempty"`   // with Collection, which of the layout's collections it is part of
	Collection string `json:"collection,omitempty"` // "" when one shard holds several collections (an archive)
	Start      Cursor `json:"start"`
	End        Cursor `json:"end"`
	Bytes      int64  `json:"bytes"`           // source bytes as stored (compressed, if they are), for ETA; an estimate
	Check      string `json:"check,omitempty"` // source's own mark of what stands at Start, compared on every Open
}

// Collection is one collection found in a source.
type Collection struct {
	Database string `json:"database,omitempty"`
	Name     string `json:"name"`
	Bytes    int64  `json:"bytes"` // as stored; 0 when unknown
}

// Layout is what planning finds in a source: made once, saved in the plan, given back on each resume.
type Layout struct {
	Identity    json.RawMessage `json:"identity"` // how the source knows it is still the same; opaque to the runner
	Collections []Collection    `json:"collections"`
	Shards      []Shard         `json:"shards"`
}

// Source is where documents come from. Its methods may be called from several goroutines at once.
type Source interface {
	// Describe gives the source's part of the fingerprint: what the job file says of it, in canonical form (key to value),
	// so that a difference can be named.
	Describe() map[string]string

	// Plan reads as much of the source as it must to cut it into about want shards for each collection that can be cut.
	// It changes nothing.
	Plan(ctx context.Context, want int) (Layout, error)

	// Check compares the source with a saved layout's identity. A *ChangedError names what differs.
	Check(ctx context.Context, l Layout) error

	// Sample calls f with up to n documents of one of the layout's collections, spread over it as cheaply as the source can
	// (a stream gives its first n). The raw document is valid during the call only. A document that cannot be read ends the
	// sample quietly; an error of f ends it too and is returned.
	Sample(ctx context.Context, l Layout, c Collection, n int, f func(raw []byte) error) error

	// Open gives a reader over the shard from a cursor of an earlier reader of it, or from the start for "". It checks first
	// that the source is the planned one (*ChangedError). What the reader holds is acquired from mem. ctx bounds the opening
	// only: the reader belongs to the caller and lives until Close.
	Open(ctx context.Context, mem Memory, l Layout, s Shard, from Cursor) (Reader, error)
}

// Splitter is a Source whose shards can be cut while they are read.
type Splitter interface {
	// Split cuts what is left of the shard beyond after, a cursor of a reader of it, in two parts of about the same size in stored
	// bytes: head is [s.Start, m) and rest [m, s.End), both with Bytes and Check as Plan would give them, and m is beyond after. ok is
	// false when it cannot be cut, because it is a stream or too little is left.
	Split(ctx context.Context, l Layout, s Shard, after Cursor) (head, rest Shard, ok bool, err error)
}

// Renderer is a Source whose documents are not BSON: it shows one, for dead letters and people.
type Renderer interface {
	// Render gives the document as JSON. The error says why it cannot be decoded.
	Render(raw []byte) (json.RawMessage, error)
}

// Reader yields the documents of one shard in order. It is used by one goroutine, and may read ahead with one of its own,
// which Close ends and waits for.
type Reader interface {
	// Next returns the next documents, at least one, or io.EOF after the last. Chunks hold about 1 MiB, or one document when
	// that is larger. A *BrokenError says that nothing more can be read of this shard; documents before the break have been
	// returned. ctx bounds the wait for memory and input.
	Next(ctx context.Context) (*Chunk, error)
	Close() error
}

// Memory bounds what is held at once for the whole process. A reader acquires before it reads.
type Memory interface {
	// Acquire waits until n bytes are free, or for n beyond the whole bound until nothing else is held.
	Acquire(ctx context.Context, n int) error
	// Adjust corrects an acquired amount by delta without waiting, and so may exceed the bound for a while.
	Adjust(delta int)
}

// Crowded is a Memory that many readers share: they hold less each, so that all of them can go on.
type Crowded interface {
	// Chunk is how many bytes of documents a chunk should hold at most now, unless one document is larger.
	Chunk() int
}

// Chunk is a run of consecutive documents of one collection. Whoever receives it owns it and its documents until Free.
type Chunk struct {
	Database   string
	Collection string
	// Docs are opaque to the runner, and what the source's mapping understands: raw BSON, its int32 length first (the length is
	// sound, what is inside may not be), or an hbase.PackedRow.
	Docs   [][]byte
	Stored int64 // source bytes as stored that this chunk covers, for progress

	// Held is what Free gives back to the Memory of Open, in bytes: at first an estimate of three times the documents, as
	// they are encoded from the chunk. Whoever needs more or less calls Memory.Adjust and changes Held by the same amount.
	Held int

	// At gives the cursor where document i starts; At(len(Docs)) is where the next chunk starts. Not after Free.
	At func(i int) Cursor
	// Free gives Held and the documents back. Once; it may be after the reader's Close.
	Free func()
}

// Outcome is what became of a document in the mapping.
type Outcome uint8

// The outcomes of a mapping.
const (
	Mapped   Outcome = iota // one row was appended
	Filtered                // the filter, or `empty: skip`, left it out
	Refused                 // the mapping can never make a row of it: a dead letter
)

// Mapping is a compiled mapping, shared and immutable.
type Mapping interface {
	// Describe gives the mapping's part of the fingerprint, as Source.Describe does.
	Describe() map[string]string
	// Families lists the column families that the mapping can write to.
	Families() []string
	// KeyType tells which BSON type the row key of this document has, as a word such as "objectId"; "" when the encoding
	// does not depend on it or the document gives no key (missing, filtered, corrupt).
	KeyType(raw []byte) string
	// Mapper makes a mapper for one goroutine. timestamp is the plan's, keyType what the plan recorded ("" for none).
	Mapper(collection string, timestamp int64, keyType string) Mapper
}

// Mapper turns documents into rows: a pure function of document and plan. Used by one goroutine.
type Mapper interface {
	// Map appends the document's row to the batch that route gives for its key, or nothing. For Refused, why says what is
	// wrong in words for the person who has to mend it; it is valid until the next call.
	Map(raw []byte, route func(key []byte) *hbase.Batch) (o Outcome, why string)
}

// Existing says what to do when the target table has rows as a run starts.
type Existing string

// The policies for an existing table.
const (
	Refuse Existing = "refuse"
	Merge  Existing = "merge"
)

// Target is the table to write to.
type Target struct {
	Table      string // name or namespace:name, or a template with {collection} and {database}
	Existing   Existing
	Create     bool
	Regions    int // wanted when it is created; at least 1
	Families   []hbase.Family
	Durability hbase.Durability
}

// Limits are per second, for the table. 0 is none.
type Limits struct {
	Rows  int64
	Bytes int64
}

// Daily is the part of the limits that holds by the time of day. The zero value is all of them, always. A pool keeps it.
type Daily struct {
	Windows string // "night: 100 %, day: 20 %"; see fleet/share.ParseDaily
	Zone    string // as in the zone database; "" is UTC
}

// Ramp is how a job starts: with a percentage of its limits, or without any of its calls in flight, that goes up by steps.
type Ramp struct {
	Steps []int         // percent, ascending, 1 to 100; none is 100 from the start
	Every time.Duration // the least time at a step; 0 is the default
}

// Unlimited as DeadLetters.Max lets any number die.
const Unlimited = -1

// DeadLetters says how many documents may die and where their letters go.
type DeadLetters struct {
	Max    int64
	To     string // folder; "" is the state folder
	Shared bool   // To is a folder that all workers see
	Table  string // in place of a folder
}

// Gateways says how HBase is reached. One of Static, File, DNS, ZooKeeper, Embedded and Native is set.
type Gateways struct {
	Static      []string   // host:port
	File        string     // a file that names them
	DNS         string     // host:port to resolve, or the name of SRV records
	ZooKeeper   *ZooKeeper // nodes that name them
	Embedded    string     // folder of an embedded gateway's data
	Native      string     // HBase's own ZooKeeper, "host:port,host:port/root", for a gateway of drover's own in front of the region servers
	Zone        string     // where this process is, "dc1" or "dc1/rack7"; "" does not matter
	Zones       []Zone
	Transport   hbase.Transport
	Connections int           // per gateway; 0 is the default
	Subset      int           // gateways that a process uses at once; 0 is all
	OutageLimit time.Duration // how long nothing may be writable before the run stops; 0 waits for ever
}

// Ensemble says where in which ZooKeeper something is.
type Ensemble struct {
	Servers        []string      // host:port
	Path           string        // of the node
	SessionTimeout time.Duration // 0 is the default
	Auth           string        // "digest:USER:PASSWORD", "env:NAME" of a variable that holds that, or ""
	TLS            bool
}

// ZooKeeper says where in which ensemble gateways are registered: they are the children of its node.
type ZooKeeper struct {
	Ensemble
	Address   string            // template of a gateway's address; "" is none
	Addresses map[string]string // addresses by the names of children
}

// Zone says which gateways are in a zone.
type Zone struct {
	Name     string
	Gateways []string // patterns of names, hosts or addresses, and IP prefixes
}

// Priority is a class of jobs: a pool serves a higher one first.
type Priority string

// The classes. "" is Normal.
const (
	Urgent Priority = "urgent"
	High   Priority = "high"
	Normal Priority = "normal"
	Low    Priority = "low"
)

// Class is the priority as a number: 0 is served first, 3 last.
func (p Priority) Class() int {
	switch p {
	case Urgent:
		return 0
	case High:
		return 1
	case Low:
		return 3
	}
	return 2
}

// Job is what to move. A value: it holds no connections and may be copied.
type Job struct {
	Name        string
	Source      Source
	Shards      int // into how many each collection that can be cut is cut; 0 is by how many are moved at once
	Mapping     Mapping
	Target      Target
	Limits      Limits
	Daily       Daily
	Ramp        Ramp
	Gateways    Gateways
	DeadLetters DeadLetters

	// What a pool of workers needs to know.
	Pool     *Ensemble         // where it is; nil where the job file does not say
	Pooled   bool              // the job's state is in the pool's ZooKeeper, and not in a folder
	Priority Priority          // "" is Normal
	Weight   int               // against other jobs of its class; 0 is 1
	Needs    map[string]string // labels that a worker must have
}

// BrokenError says that a shard cannot be read beyond Offset.
type BrokenError struct {
	File   string
	Offset int64  // bytes into the file, or into the stream inside it when it is compressed
	Reason string // "document length 7 is below 5"
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("read %s at offset %d: %s", e.File, e.Offset, e.Reason)
}

// ChangedError says that a source is no longer the one that was planned.
type ChangedError struct {
	What string // "dump/a.bson: size was 100, is 120"
}

func (e *ChangedError) Error() string {
	return "the source changed since the run was planned: " + e.What
}
