// Package lettertable keeps dead letters in an HBase table, so that they are in one place whichever host they come from. A letter is
// a row:
//
//	row key     JOB/RUN/SHARD/POSITION, the shard in eight digits. Jobs and runs have no '/' in their names, so that a position may
//	            have some, and a run's letters are the rows of one prefix. Of a very long position it is the beginning and a hash
//	d:letter    the letter without its document, as JSON. It is written last: a row without it is no letter
//	d:raw:P:N   the document from byte N on, in pieces of P bytes, at most a MiB; N has ten digits
//	d:json:P:N  the document as JSON, likewise, where it cannot be made of raw
//	d:replayed  the replay of the letter, as JSON
//
// Every cell has the plan's timestamp, so that a letter which is written again is the same version, and so is a replay.
//
// A letter that is written again with pieces of another size gets them beside the old ones, and stays whole until d:letter names the new
// size.
//
// Not for any other rows: the table is the letters' own.
package lettertable

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"drover/deadletters"
	"drover/hbase"
)

// Table says where the letters of a job are. It is a value.
type Table struct {
	Name string // NAME or NAMESPACE:NAME
	Job  string

	// Piece is the most bytes of a document that a cell holds, and of what one call carries beside that; 0 is 1 MiB. A framed
	// gateway takes no more than its largest message.
	Piece int
}

const (
	maxPiece    = 1 << 20
	maxPosition = 8 << 10 // bytes of a position that a row key has
	family      = "d"
)

var (
	columnLetter   = hbase.NewColumn([]byte(family), []byte("letter"))
	columnReplayed = hbase.NewColumn([]byte(family), []byte("replayed"))
)

// spec is the table as it is created.
func (t Table) spec() hbase.TableSpec {
	return hbase.TableSpec{Name: t.Name, Families: []hbase.Family{{Name: family, Versions: 1}}}
}

// key is a letter's row.
func (t Table) key(run string, shard int, position string) []byte {
	if len(position) > maxPosition {
		position = fmt.Sprintf("%s\x00%x", position[:maxPosition], sha256.Sum256([]byte(position)))
	}
	return fmt.Appendf(nil, "%s%08d/%s", t.prefix(run), shard, position)
}

func (t Table) prefix(run string) string { return t.Job + "/" + run + "/" }

// head is d:letter.
type head struct {
	deadletters.Letter
	Document *struct{} `json:"document,omitempty"` // these two are cells of their own
	Raw      *struct{} `json:"raw,omitempty"`

	Piece     int `json:"piece"`
	RawBytes  int `json:"raw_bytes"`
	JSONBytes int `json:"json_bytes,omitempty"` // 0: made of raw
}

// ready creates the table if it is missing.
func (t Table) ready(ctx context.Context, pool *hbase.Pool) error {
	admin := hbase.NewAdmin(pool)
	there, err := admin.TableExists(ctx, t.Name)
	if err != nil {
		return err
	}
	if !there {
		return t.create(ctx, admin)
	}
	info, err := admin.Describe(ctx, t.Name)
	if errors.Is(err, hbase.ErrUnknownMethod) {
		return nil // an old gateway: the first letter shows it
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(info.Families, func(f hbase.Family) bool { return f.Name == family }) {
		return fmt.Errorf("table %s has no family %s, so that it is none for dead letters: name another as dead_letters.to, which is created", t.Name, family)
	}
	return nil
}

func (t Table) create(ctx context.Context, admin *hbase.Admin) error {
	err := admin.Create(ctx, t.spec())
	if err == nil || ctx.Err() != nil {
		return err
	}
	if there, terr := admin.TableExists(ctx, t.Name); terr == nil && there {
		return nil // another process was faster
	}
	if errors.Is(err, hbase.ErrUnknownMethod) {
		err = errors.New("the gateways are of HBase 1.x and cannot create it")
	}
	return fmt.Errorf("create table %s: %w. Create it in the hbase shell, then run again: %s", t.Name, err, hbase.ShellCreate(t.spec()))
}

// Read indexes the letters of a run. Without the table there are none.
func (t Table) Read(ctx context.Context, pool *hbase.Pool, run string) (*deadletters.Index, error) {
	fail := func(err error) (*deadletters.Index, error) {
		return nil, fmt.Errorf("read dead letters of run %s in table %s: %w", run, t.Name, err)
	}
	there, err := hbase.NewAdmin(pool).TableExists(ctx, t.Name)
	if err != nil {
		return fail(err)
	}
	var entries []*deadletters.Entry
	var damaged []string
	if there {
		err = t.rows(ctx, pool, run, func(key []byte, cells hbase.CellWalk) {
			e, err := entry(cells)
			switch {
			case err != nil:
				damaged = append(damaged, fmt.Sprintf("row %s of table %s: %v", hbase.KeyText(key), t.Name, err))
			case e == nil: // of a letter that nobody wrote, or not to its end
			case e.Run != run || string(t.key(run, e.Shard, e.Position)) != string(key):
				damaged = append(damaged, fmt.Sprintf("row %s of table %s: it holds a letter of run %s, shard %d at %s", hbase.KeyText(key), t.Name, e.Run, e.Shard, e.Position))
			default:
				entries = append(entries, e)
			}
		})
		if err != nil {
			return fail(err)
		}
	}
	return deadletters.NewIndex(entries, damaged, func(e deadletters.Entry, whole bool) (deadletters.Letter, error) {
		l, err := t.letter(ctx, pool, e, whole)
		if err != nil {
			return l, fmt.Errorf("read dead letter of shard %d at %s in table %s: %w", e.Shard, e.Position, t.Name, err)
		}
		return l, nil
	}), nil
}

// pageRows is how many letters are listed at once.
const pageRows = 500

// rows walks over the letters of a run, without their documents. Each page begins with the last row of the page before it, which
// proves that the gateway left none out between them.
func (t Table) rows(ctx context.Context, pool *hbase.Pool, run string, each func(key []byte, cells hbase.CellWalk)) error {
	prefix := t.prefix(run)
	s := hbase.Scan{
		Start: []byte(prefix), Stop: []byte(strings.TrimSuffix(prefix, "/") + "0"), // '0' comes after '/'
		Columns: []hbase.Column{columnLetter, columnReplayed},
	}
	var page hbase.Page
	for first := true; ; first = false {
		if err := pool.ScanPage(ctx, t.Name, &s, pageRows, &page); err != nil {
			return err
		}
		rows := page.Rows
		if !first {
			if len(rows) == 0 || string(rows[0].Key()) != string(s.Start) {
				return fmt.Errorf("a gateway left out row %s", hbase.KeyText(s.Start))
			}
			rows = rows[1:]
		}
		if len(rows) == 0 {
			return nil
		}
		for _, r := range rows {
			each(r.Key(), r.Cells())
		}
		s.Start = slices.Clone(rows[len(rows)-1].Key())
	}
}

// entry is a row of the listing; nil when it has no letter.
func entry(cells hbase.CellWalk) (*deadletters.Entry, error) {
	var e *deadletters.Entry
	var replay *deadletters.Replay
	for c := (hbase.Cell{}); cells.Next(&c); {
		switch string(c.Qualifier) {
		case "letter":
			var h head
			if err := json.Unmarshal(c.Value, &h); err != nil {
				return nil, err
			}
			e = &deadletters.Entry{Run: h.Run, Shard: h.Shard, Position: h.Position}
		case "replayed":
			replay = &deadletters.Replay{}
			if err := json.Unmarshal(c.Value, replay); err != nil {
				return nil, err
			}
		}
	}
	if e != nil && replay != nil {
		replay.Run, replay.Shard, replay.Position = e.Run, e.Shard, e.Position
		e.Replay = replay
	}
	return e, nil
}

// letter reads a letter, whole or without its document.
func (t Table) letter(ctx context.Context, pool *hbase.Pool, e deadletters.Entry, whole bool) (deadletters.Letter, error) {
	key := t.key(e.Run, e.Shard, e.Position)
	s := hbase.Scan{Start: key, Stop: append(slices.Clone(key), 0)}
	if !whole {
		s.Columns = []hbase.Column{columnLetter}
	}
	var page hbase.Page
	if err := pool.ScanPage(ctx, t.Name, &s, 1, &page); err != nil {
		return deadletters.Letter{}, err
	}
	if len(page.Rows) == 0 {
		return deadletters.Letter{}, errors.New("it is not there any more")
	}
	pieces := map[string][]byte{}
	cells := page.Rows[0].Cells()
	for c := (hbase.Cell{}); cells.Next(&c); {
		pieces[string(c.Qualifier)] = c.Value
	}
	var h head
	if err := json.Unmarshal(pieces["letter"], &h); err != nil {
		return deadletters.Letter{}, err
	}
	l := h.Letter
	if !whole {
		return l, nil
	}
	var err error
	if l.Raw, err = join(pieces, "raw", h.Piece, h.RawBytes); err != nil {
		return deadletters.Letter{}, err
	}
	if h.JSONBytes > 0 {
		if l.Document, err = join(pieces, "json", h.Piece, h.JSONBytes); err != nil {
			return deadletters.Letter{}, err
		}
	}
	return l, l.Complete()
}

func qualifier(what string, piece, at int) []byte {
	return fmt.Appendf(nil, "%s:%d:%010d", what, piece, at)
}

// join puts a document of n bytes together.
func join(pieces map[string][]byte, what string, piece, n int) ([]byte, error) {
	out := []byte{}
	for len(out) < n {
		p := pieces[string(qualifier(what, piece, len(out)))]
		if len(p) == 0 || len(p) > n-len(out) {
			return nil, fmt.Errorf("its %s breaks off at byte %d of %d", what, len(out), n)
		}
		out = append(out, p...)
	}
	return out, nil
}
