// Package sinktest is what every deadletters.Sink and what is read of it must pass.
package sinktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"drover/deadletters"
)

// Place is an empty place for letters.
type Place struct {
	Open func(t *testing.T, run string) deadletters.Sink
	Read func(t *testing.T, run string) *deadletters.Index
}

var when = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)

func document(t *testing.T, n int, text string) []byte {
	t.Helper()
	raw, err := bson.Marshal(bson.D{{Key: "_id", Value: int32(n)}, {Key: "text", Value: text}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func letter(t *testing.T, shard int, position string) deadletters.Letter {
	return deadletters.Letter{
		Run: "run1", Shard: shard, Position: position, Collection: "ships", Table: "ns:ships", Key: "00ff", Stage: deadletters.HBase,
		Reason: "Column family nofam\ndoes not exist", Attempts: 3, Raw: document(t, shard, "line\nbreak \"quoted\" <é>"), Time: when,
	}
}

// found reads a run's letters, by shard and position.
func found(t *testing.T, x *deadletters.Index) map[string]deadletters.Entry {
	t.Helper()
	if d := x.Damaged(); len(d) > 0 {
		t.Errorf("damaged: %v", d)
	}
	out := map[string]deadletters.Entry{}
	for e := range x.Entries() {
		id := fmt.Sprintf("%d:%s", e.Shard, e.Position)
		if _, twice := out[id]; twice {
			t.Errorf("letter %.80s stands twice", id)
		}
		out[id] = e
	}
	return out
}

func appendAll(t *testing.T, s deadletters.Sink, letters ...deadletters.Letter) {
	t.Helper()
	for _, x := range letters {
		if err := s.Append(x); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
}

// Run runs the suite; empty gives a new place each time.
func Run(t *testing.T, empty func(t *testing.T) Place) {
	t.Run("letters come back", func(t *testing.T) { comeBack(t, empty(t)) })
	t.Run("identity", func(t *testing.T) { identity(t, empty(t)) })
	t.Run("replays", func(t *testing.T) { replays(t, empty(t)) })
	t.Run("runs are apart", func(t *testing.T) { runs(t, empty(t)) })
	t.Run("many at once", func(t *testing.T) { many(t, empty(t)) })
	t.Run("close", func(t *testing.T) { closes(t, empty(t)) })
}

func comeBack(t *testing.T, p Place) {
	if n := len(found(t, p.Read(t, "run1"))); n != 0 {
		t.Fatalf("%d letters before any", n)
	}
	s := p.Open(t, "run1")
	plain := letter(t, 0, "100")
	broken := letter(t, 0, "200")
	broken.Raw = broken.Raw[:len(broken.Raw)-3]
	given := letter(t, 0, "300")
	given.Document, given.Raw = json.RawMessage("{\n \"a\": 1\n}"), nil
	shown := letter(t, 1, "1")
	shown.Document, shown.DecodeError, shown.Raw = json.RawMessage("null"), "no such thing", []byte{1, 2, 3}
	large := letter(t, 1, "2")
	large.Raw = document(t, 1, strings.Repeat("0123456789abcdef", 5<<20/16)) // over MaxDocument, and over any call's size
	both := letter(t, 1, "3")
	both.Raw = bytes.Repeat([]byte{7, 0, 255}, 1<<20)
	both.Document = json.RawMessage(`"` + strings.Repeat("x", 2<<20) + `"`)
	appendAll(t, s, plain, broken, given, shown, large, both)

	plain.Document = json.RawMessage(`{"_id":{"$numberInt":"0"},"text":"line\nbreak \"quoted\" <é>"}`)
	broken.Document = json.RawMessage("null")
	given.Document, given.Raw = json.RawMessage(`{"a":1}`), []byte{}
	large.Document = json.RawMessage("null")
	x := p.Read(t, "run1")
	got := found(t, x)
	for _, want := range []deadletters.Letter{plain, broken, given, shown, large, both} {
		e, ok := got[fmt.Sprintf("%d:%s", want.Shard, want.Position)]
		if !ok {
			t.Errorf("letter of shard %d at %s is not there", want.Shard, want.Position)
			continue
		}
		l, err := x.Letter(e)
		if err != nil {
			t.Error(err)
			continue
		}
		if want.DecodeError == "" && string(want.Document) == "null" {
			if want.DecodeError = l.DecodeError; want.DecodeError == "" {
				t.Errorf("letter at %s does not say why it has no document", want.Position)
			}
		}
		if !bytes.Equal(l.Raw, want.Raw) || !bytes.Equal(l.Document, want.Document) {
			t.Errorf("letter at %s reads %d bytes and %d as JSON, want %d and %d", want.Position, len(l.Raw), len(l.Document), len(want.Raw), len(want.Document))
		}
		l.Raw, l.Document, want.Raw, want.Document = nil, nil, nil, nil
		if brief, err := x.Brief(e); err != nil || cmp.Diff(l, brief) != "" {
			t.Errorf("letter at %s without its document: %v, - read + brief:\n%s", want.Position, err, cmp.Diff(l, brief))
		}
		if d := cmp.Diff(want, l); d != "" {
			t.Errorf("letter at %s, - wanted + read:\n%s", want.Position, d)
		}
	}
	if len(got) != 6 {
		t.Errorf("%d letters, want 6", len(got))
	}
}

// A letter that is written again is one, as it was last written; positions are any text.
func identity(t *testing.T, p Place) {
	long := strings.Repeat("p", 20<<10)
	positions := []string{"1", "10", "a/b", "a/b/c", "/", "a b\\x00ü", long + "1", long + "2"}
	s := p.Open(t, "run1")
	for _, at := range positions {
		appendAll(t, s, letter(t, 1, at), letter(t, 11, at))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = p.Open(t, "run1") // the run went on from before them
	again := letter(t, 1, "a/b")
	again.Reason = "the last"
	appendAll(t, s, again, letter(t, 11, long+"1"))
	x := p.Read(t, "run1")
	got := found(t, x)
	if want := 2 * len(positions); len(got) != want || x.Counts().Letters != int64(want) {
		t.Errorf("%d letters, counted %d, want %d", len(got), x.Counts().Letters, want)
	}
	for _, at := range positions {
		for _, shard := range []int{1, 11} {
			l, err := x.Letter(got[fmt.Sprintf("%d:%s", shard, at)])
			if err != nil || l.Position != at || l.Shard != shard {
				t.Errorf("letter of shard %d at %.80s: %v", shard, at, err)
			}
		}
	}
	if l, err := x.Letter(got["1:a/b"]); err != nil || l.Reason != "the last" {
		t.Errorf("a letter that was written again says %q, %v", l.Reason, err)
	}
}

func replays(t *testing.T, p Place) {
	s := p.Open(t, "run1")
	appendAll(t, s, letter(t, 1, "1"), letter(t, 2, "2"))
	replay := deadletters.Replay{Run: "run1", Shard: 2, Position: "2", Table: "ns:ships", Cells: 3, Bytes: 77, Time: when}
	unknown := replay
	unknown.Position = "unknown"
	for _, r := range []deadletters.Replay{replay, replay, unknown} {
		if err := s.Replayed(r); err != nil {
			t.Fatal(err)
		}
	}
	appendAll(t, s, letter(t, 2, "2")) // the run went on from before it
	x := p.Read(t, "run1")
	got := found(t, x)
	if d := cmp.Diff(&replay, got["2:2"].Replay); d != "" {
		t.Errorf("replay, - noted + read:\n%s", d)
	}
	if got["1:1"].Replay != nil || len(got) != 2 {
		t.Errorf("letters %+v: want two, of which one was replayed", got)
	}
	if c := x.Counts(); c.Letters != 2 || c.Replayed != 1 {
		t.Errorf("counts %+v", c)
	}
}

func runs(t *testing.T, p Place) {
	for i, run := range []string{"run1", "run", "run10", "run1.2"} {
		x := letter(t, i, "1")
		x.Run = "" // the sink's
		appendAll(t, p.Open(t, run), x)
	}
	for i, run := range []string{"run1", "run", "run10", "run1.2"} {
		got := found(t, p.Read(t, run))
		if e, ok := got[fmt.Sprintf("%d:1", i)]; !ok || len(got) != 1 || e.Run != run {
			t.Errorf("run %s has %+v", run, got)
		}
	}
}

func many(t *testing.T, p Place) {
	const writers, each = 8, 150
	s := p.Open(t, "run1")
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := s.Append(letter(t, w, fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
				if i%50 == w {
					if err := s.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := len(found(t, p.Read(t, "run1"))); n != writers*each {
		t.Errorf("%d letters, want %d", n, writers*each)
	}
}

func closes(t *testing.T, p Place) {
	s := p.Open(t, "run1")
	if err := s.Append(letter(t, 1, "1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for what, err := range map[string]error{
		"append": s.Append(letter(t, 1, "2")), "replayed": s.Replayed(deadletters.Replay{Run: "run1", Position: "1"}), "sync": s.Sync(),
	} {
		if !errors.Is(err, deadletters.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if n := len(found(t, p.Read(t, "run1"))); n != 1 {
		t.Errorf("%d letters, want the one from before Close", n)
	}
}
