package mongodump

import (
	"context"
	"fmt"

	"drover/jobs"
)

// leastPart is what each part of a split must have to read, in bytes. A reader has up to 3 MiB under way ahead of its caller,
// and who takes a part over opens the file, hashes its ends and saves a mark: below two chunks the part would be read by the
// time that it has changed hands.
const leastPart = 2 * chunkBytes

// Split implements jobs.Splitter, for plain files: gzip and archives are streams, and stay whole. The boundary is the document's start
// that is nearest to the middle of what is left, found by the lengths of the documents from after to there, which costs no
// more than reading them; where they are large only their starts are read. The numbers of both parts are the shard's.
//
// Where the chain of lengths breaks before the middle the shard stays whole, without an error: whoever reads it meets the
// break and says where it is. A break behind the middle is in rest.
func (s *Source) Split(ctx context.Context, l jobs.Layout, sh jobs.Shard, after jobs.Cursor) (head, rest jobs.Shard, ok bool, err error) {
	head, rest, ok, err = s.split(ctx, l, sh, after)
	if err != nil {
		return head, rest, false, fmt.Errorf("split shard %d of %s: %w", sh.N, s.path, err)
	}
	return head, rest, ok, nil
}

func (s *Source) split(ctx context.Context, l jobs.Layout, sh jobs.Shard, after jobs.Cursor) (head, rest jobs.Shard, ok bool, err error) {
	id, err := parseIdentity(l)
	if err != nil {
		return head, rest, false, err
	}
	x := id.of(sh.Database, sh.Collection)
	if x == nil {
		return head, rest, false, fmt.Errorf("the plan has no file of collection %s.%s", sh.Database, sh.Collection)
	}
	if x.Kind != plainKind {
		return head, rest, false, nil
	}
	start, off, end, err := x.span(sh, after)
	if err != nil || end-off < 2*leastPart {
		return head, rest, false, err
	}
	f, err := s.reopen(&id, x)
	if err != nil {
		return head, rest, false, err
	}
	defer f.Close()
	at, err := cuts(ctx, f, off, end, 2)
	if err != nil || len(at) == 0 {
		return head, rest, false, err
	}
	m := at[0]
	if m-off < leastPart || end-m < leastPart { // one large document is nearly all that is left
		return head, rest, false, nil
	}
	head, rest = sh, sh
	head.End, head.Bytes = cursorAt(m), m-start
	rest.Start, rest.Bytes = cursorAt(m), end-m
	if rest.Check, err = mark(f, m, x.Size); err != nil {
		return head, rest, false, err
	}
	return head, rest, true, nil
}
