package mongodump

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"drover/jobs"
	"drover/jobs/mongodump/dumpgen"
)

var _ jobs.Splitter = (*Source)(nil)

// sized makes documents of these sizes: lengths that are sound around bytes that are no BSON, which nothing here may look at.
func sized(seed uint64, sizes ...int) []byte {
	rnd := rand.NewChaCha8([32]byte{byte(seed)})
	var out []byte
	for _, n := range sizes {
		start := len(out)
		out = append(out, make([]byte, n)...)
		_, _ = rnd.Read(out[start:])
		binary.LittleEndian.PutUint32(out[start:], uint32(n))
	}
	return out
}

// spot is a document as a test compares it.
type spot struct {
	at, after jobs.Cursor
	hash      uint64
}

// spots reads a shard from a cursor on.
func spots(s *Source, l jobs.Layout, sh jobs.Shard, from jobs.Cursor) (docs []spot, err error) {
	r, err := s.Open(context.Background(), newMemory(256<<20), l, sh, from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for {
		c, err := r.Next(context.Background())
		if err == io.EOF {
			return docs, nil
		}
		if err != nil {
			return docs, err
		}
		for i, raw := range c.Docs {
			docs = append(docs, spot{c.At(i), c.At(i + 1), xxh3.Hash(raw)})
		}
		c.Free()
	}
}

func repeat(n, size int) []int { return slices.Repeat([]int{size}, n) }

// TestSplitTiles cuts shards at random cursors, the parts again, and compares what is read with the whole.
func TestSplitTiles(t *testing.T) {
	mixed := make([]int, 0, 2000)
	rnd := rand.New(rand.NewPCG(1, 2))
	for sum := 0; sum < 24<<20; {
		n := minDocBytes + rnd.IntN(3000)
		if rnd.IntN(400) == 0 {
			n = rnd.IntN(4<<20) + chunkBytes
		}
		mixed = append(mixed, n)
		sum += n
	}
	shapes := map[string][]int{
		"small":             repeat(12<<20/700, 700),
		"mixed":             mixed,
		"larger than reads": repeat(8, 3<<20+17),
		"as large as may":   {100, maxDocBytes, 100, maxDocBytes, 100},
		"one":               {maxDocBytes},
		"little":            repeat(3, 1<<20),
	}
	names := make([]string, 0, len(shapes))
	dir := filepath.Join(t.TempDir(), "shop")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, sizes := range shapes {
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(dir, name+".bson"), sized(uint64(len(name)), sizes...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	split, whole := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := New(filepath.Join(dir, rapid.SampledFrom(names).Draw(t, "shape")+".bson"))
		l, err := s.Plan(context.Background(), rapid.IntRange(1, 3).Draw(t, "want"))
		if err != nil {
			t.Fatal(err)
		}
		sh := rapid.SampledFrom(l.Shards).Draw(t, "shard")
		all, err := spots(s, l, sh, "")
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if len(all) == 0 {
				t.Fatalf("the part %+v has no documents", sh)
			}
			// k is how many documents are read, and likelier few, as then much is left.
			k := rapid.OneOf(rapid.Just(0), rapid.IntRange(0, len(all)/4), rapid.IntRange(0, len(all)), rapid.IntRange(max(0, len(all)-2), len(all))).Draw(t, "read")
			after := sh.Start
			if k > 0 {
				after = all[k-1].after
			} else if rapid.Bool().Draw(t, "none") {
				after = ""
			}
			head, rest, ok, err := s.Split(context.Background(), l, sh, after)
			if err != nil {
				t.Fatal(err)
			}
			from, _ := offsetOf(after, 0)
			if after == "" {
				from, _ = offsetOf(sh.Start, 0)
			}
			end, _ := offsetOf(all[len(all)-1].after, 0)
			if !ok {
				whole++
				longest := int64(0)
				for _, d := range all[k:] {
					a, _ := offsetOf(d.at, 0)
					b, _ := offsetOf(d.after, 0)
					longest = max(longest, b-a)
				}
				if end-from >= 2*leastPart+2*longest {
					t.Fatalf("whole, with %d bytes left and no document of more than %d", end-from, longest)
				}
				return
			}
			split++
			m, err := offsetOf(head.End, 0)
			if err != nil || m-from < leastPart || end-m < leastPart {
				t.Fatalf("cut at %s, between %d and %d (%v)", head.End, from, end, err)
			}
			if head.Start != sh.Start || rest.Start != head.End || rest.End != sh.End || head.Bytes+rest.Bytes != sh.Bytes || rest.Bytes != end-m {
				t.Fatalf("%+v was cut into %+v and %+v", sh, head, rest)
			}
			if head.Check != sh.Check || rest.Check == "" || rest.Database != sh.Database || rest.Collection != sh.Collection {
				t.Fatalf("%+v was cut into %+v and %+v", sh, head, rest)
			}
			i := slices.IndexFunc(all, func(d spot) bool { return d.at == rest.Start })
			if i <= k {
				t.Fatalf("cut at %s, which is document %d of %d with %d read", rest.Start, i, len(all), k)
			}
			if largest := int64(maxDocBytes); max(m-from, end-m) > (end-from)/2+largest {
				t.Fatalf("parts of %d and %d bytes", m-from, end-m)
			}
			left, err := spots(s, l, head, after)
			if err != nil || !slices.Equal(left, all[k:i]) {
				t.Fatalf("the head gives %d documents from %s, not %d: %v", len(left), after, i-k, err)
			}
			right, err := spots(s, l, rest, "")
			if err != nil || !slices.Equal(right, all[i:]) {
				t.Fatalf("the rest gives %d documents, not %d: %v", len(right), len(all)-i, err)
			}
			sh, all = rest, all[i:]
			if rapid.Bool().Draw(t, "head") {
				if all, err = spots(s, l, head, ""); err != nil {
					t.Fatal(err)
				}
				sh = head
			}
		}
	})
	if split == 0 || whole == 0 {
		t.Errorf("%d shards were split, %d stayed whole", split, whole)
	}
	t.Logf("%d shards were split, %d stayed whole", split, whole)
}

// What Plan would record of a shard that begins where rest does is what rest has.
func TestSplitIsAsPlanned(t *testing.T) {
	s := New(put(t, "c.bson", sized(1, repeat(40, 512<<10)...)))
	one, err := s.Plan(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Plan(t.Context(), 2)
	if err != nil || len(two.Shards) != 2 {
		t.Fatalf("%d shards: %v", len(two.Shards), err)
	}
	head, rest, ok, err := s.Split(t.Context(), one, one.Shards[0], "")
	if err != nil || !ok {
		t.Fatalf("split: %v, %v", ok, err)
	}
	rest.N = two.Shards[1].N
	if head != two.Shards[0] || rest != two.Shards[1] {
		t.Errorf("split into\n%+v and\n%+v, planned were\n%+v and\n%+v", head, rest, two.Shards[0], two.Shards[1])
	}
}

// A chain of lengths that is broken stays as readable as it was: before the middle the shard is whole, behind it the rest has
// the break, and the reader's error is the same.
func TestSplitBroken(t *testing.T) {
	const docs, size = 40, 512 << 10
	for at, want := range map[int]bool{2: false, 19: false, 20: true, 39: true} {
		b := sized(1, repeat(docs, size)...)
		binary.LittleEndian.PutUint32(b[at*size:], 3)
		s := New(put(t, "c.bson", b))
		l, err := s.Plan(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		sh := l.Shards[0]
		all, whole := spots(s, l, sh, "")
		if _, ok := errors.AsType[*jobs.BrokenError](whole); !ok || len(all) != at {
			t.Fatalf("broken at document %d: %d are read, then %v", at, len(all), whole)
		}
		head, rest, ok, err := s.Split(t.Context(), l, sh, "")
		if err != nil || ok != want {
			t.Fatalf("broken at document %d: split %v, %v", at, ok, err)
		}
		if !ok {
			continue
		}
		left, err := spots(s, l, head, "")
		if err != nil {
			t.Fatal(err)
		}
		right, err := spots(s, l, rest, "")
		if err == nil || err.Error() != whole.Error() || !slices.Equal(append(left, right...), all) {
			t.Errorf("broken at document %d: %d and %d documents, then %v; the whole gave %v", at, len(left), len(right), err, whole)
		}
	}
}

func TestSplitStreams(t *testing.T) {
	plain := bytesOf(t, dumpgen.Options{Profile: dumpgen.Every, Docs: 3000, Seed: 3})
	for name, p := range map[string]string{
		"gzip":    put(t, "c.bson.gz", zip(t, plain)),
		"archive": put(t, "dump.archive", archiveOf(t)),
		"both":    put(t, "dump.archive.gz", zip(t, archiveOf(t))),
	} {
		s := New(p)
		l, err := s.Plan(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, ok, err := s.Split(t.Context(), l, l.Shards[0], "0"); ok || err != nil {
			t.Errorf("%s: split %v, %v", name, ok, err)
		}
	}
}

func TestSplitErrors(t *testing.T) {
	b := sized(1, repeat(40, 512<<10)...)
	p := put(t, "c.bson", b)
	s := New(p)
	l, err := s.Plan(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []jobs.Cursor{"x", "-1", "0", "99999999999"} { // 0 is before the second shard
		if _, _, ok, err := s.Split(t.Context(), l, l.Shards[1], after); ok || err == nil {
			t.Errorf("split at cursor %s: %v, %v", after, ok, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, ok, err := s.Split(ctx, l, l.Shards[0], ""); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("split under a context that ended: %v, %v", ok, err)
	}
	rewrite(t, p, append(b, sized(2, 100)...))
	if _, _, ok, err := s.Split(t.Context(), l, l.Shards[0], ""); ok || !isChanged(err) {
		t.Errorf("split of a file that changed: %v, %v", ok, err)
	}
}

func isChanged(err error) bool {
	_, ok := errors.AsType[*jobs.ChangedError](err)
	return ok
}
