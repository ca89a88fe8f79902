// Package deadletters keeps the documents that HBase will never take, each with the reason, so that a person can mend the
// cause and replay them.
//
//   - A letter is one such document. Its identity is (run, shard, position): a run that goes over the same documents again
//     after a crash writes the same letter again, which counts once.
//   - A sink is where one run's letters go. There are two: a log, and package lettertable's in an HBase table.
//   - A log is a folder of a run's letters: DIR/RUN/letters-000001.jsonl and so on, one JSON object a line. Where several processes
//     write to one folder, each has a log of its own, DIR/RUN/WORKER; who reads them takes them for one.
//   - A letter is replayed when its document was written after all; the sink notes it beside the letter.
//
// A letter must be durable (Sink.Sync) before the watermark passes its document.
//
// Not for trouble that may pass: only proof makes a dead letter.
package deadletters

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// The stages at which a document dies.
const (
	Mapping = "mapping" // the mapping refuses it
	HBase   = "hbase"   // HBase refuses its row
)

// Letter is a dead document.
type Letter struct {
	Run      string `json:"run"`
	Shard    int    `json:"shard"`
	Position string `json:"position"` // where the document starts, in the source's words

	Collection string `json:"collection,omitempty"`
	Table      string `json:"table"`
	Key        string `json:"key,omitempty"` // the row key as text or hex, if there is one
	Stage      string `json:"stage"`
	Reason     string `json:"reason"`
	Attempts   int    `json:"attempts"`

	// Document is the document as JSON, for people and other tools: of BSON as canonical Extended JSON, which Append makes
	// from Raw when it is not given; of all else what Show makes. It is null when Raw cannot be decoded, or is over
	// MaxDocument; DecodeError then says so.
	Document    json.RawMessage `json:"document"`
	DecodeError string          `json:"decode_error,omitempty"`
	Raw         []byte          `json:"raw"` // the document as it was read, whatever is wrong with it

	Time time.Time `json:"time"`
}

// Sink is where the letters of one run go. Its methods may be called from several goroutines.
type Sink interface {
	// Append adds a letter; its Run is the sink's. It is durable after the next Sync that returns nil. After an error the letter is
	// not there, and the caller may go on.
	Append(Letter) error

	// Replayed notes that the document of a letter was written after all. Noting it again changes nothing. It is durable after the
	// next Sync that returns nil.
	Replayed(Replay) error

	// Sync makes everything durable that was appended and noted. It may block for as long as what it writes to is away.
	Sync() error

	// Close syncs and closes. A second time it does nothing. The other methods give ErrClosed after it.
	Close() error
}

// MaxDocument is the size of Raw, in bytes, up to which a letter has its document as JSON too, which can be ten
// times as large and is built in memory. Raw is always whole.
const MaxDocument = 1 << 20

// Show sets Document, where Raw is no BSON, by a func that knows what it is.
func (x *Letter) Show(render func(raw []byte) (json.RawMessage, error)) {
	x.Document = json.RawMessage("null")
	if len(x.Raw) > MaxDocument {
		x.DecodeError = tooLarge(x.Raw)
		return
	}
	document, err := render(x.Raw)
	if err != nil {
		x.DecodeError = err.Error()
		return
	}
	x.Document = document
}

func tooLarge(raw []byte) string {
	return fmt.Sprintf("not decoded: its %d bytes are over %d, see raw", len(raw), MaxDocument)
}

// Complete makes Document what a sink keeps: in one line, and where it is not given, of Raw, as far as that can be decoded.
func (x *Letter) Complete() error {
	switch {
	case len(x.Document) > 0:
		var flat bytes.Buffer
		if err := json.Compact(&flat, x.Document); err != nil { // a newline would end the line of a log
			return fmt.Errorf("letter's document: %w", err)
		}
		x.Document = flat.Bytes()
	case len(x.Raw) > MaxDocument:
		x.DecodeError = tooLarge(x.Raw)
	default:
		var err error
		if x.Document, err = ExtendedJSON(x.Raw); err != nil {
			x.DecodeError = err.Error()
		}
	}
	if x.Document == nil {
		x.Document = json.RawMessage("null")
	}
	return nil
}

// ExtendedJSON is a BSON document as canonical Extended JSON.
func ExtendedJSON(raw []byte) (json.RawMessage, error) {
	if err := bson.Raw(raw).Validate(); err != nil {
		return nil, fmt.Errorf("decode document of %d bytes: %w", len(raw), err)
	}
	text, err := bson.MarshalExtJSON(bson.Raw(raw), true, false)
	if err != nil {
		return nil, fmt.Errorf("decode document of %d bytes: %w", len(raw), err)
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("decode document of %d bytes: it has no valid Extended JSON", len(raw))
	}
	return text, nil
}

// The kinds of lines.
const (
	kindLetter   = "letter"
	kindReplayed = "replayed"
)

// line is what begins every line of a log, in this order, so that an identity can be read without the document after it.
type line struct {
	Kind     string `json:"kind"`
	Run      string `json:"run"`
	Shard    int    `json:"shard"`
	Position string `json:"position"`
}

// write writes x as one line. The document is not copied, and raw goes through as a stream: a letter can be large.
func (x Letter) write(w io.Writer) error {
	if err := x.Complete(); err != nil {
		return err
	}
	document, raw := x.Document, x.Raw
	head, err := json.Marshal(struct {
		Kind string `json:"kind"`
		Letter
		Document *struct{} `json:"document,omitempty"` // these two come after, by hand
		Raw      *struct{} `json:"raw,omitempty"`
	}{Kind: kindLetter, Letter: x})
	if err != nil {
		return err
	}
	head = append(head[:len(head)-1], `,"document":`...)
	if _, err := w.Write(head); err != nil {
		return err
	}
	if _, err := w.Write(document); err != nil {
		return err
	}
	if _, err := io.WriteString(w, `,"raw":"`); err != nil {
		return err
	}
	e := base64.NewEncoder(base64.StdEncoding, w)
	if _, err := e.Write(raw); err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\"}\n")
	return err
}

// Replay says that the document of a letter was written after all, and what that added to the books of its table.
type Replay struct {
	Run      string `json:"-"`
	Shard    int    `json:"-"`
	Position string `json:"-"`

	Table string    `json:"table"`
	Cells int64     `json:"cells"`
	Bytes int64     `json:"bytes"` // encoded
	Time  time.Time `json:"time"`
}

// replay is a Replay as a line.
type replay struct {
	line
	Replay
}
