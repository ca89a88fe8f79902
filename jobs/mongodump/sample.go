package mongodump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"drover/jobs"
)

// sampleBytes is how much of a collection a sample looks at, behind the starts of its shards: all of a small one, and of a
// large one what is read in a moment, because a plan should not cost what a run does.
const sampleBytes = 6 * shardBytes

// sampleChunk is how much is read at once. Of a file with manyShards, which spread a sample enough, it is all that is looked at of each,
// unless its documents are too few.
const sampleChunk, manyShards = 256 << 10, 16

// Sample implements jobs.Source. A plain file gives an equal part from behind each shard's start, evenly spread there; a
// stream gives its first documents, and is read up to them.
func (s *Source) Sample(ctx context.Context, l jobs.Layout, c jobs.Collection, n int, f func(raw []byte) error) error {
	if n <= 0 {
		return nil
	}
	id, err := parseIdentity(l)
	if err != nil {
		return err
	}
	x := id.of(c.Database, c.Name)
	if x == nil {
		x = id.of("", "")
	}
	if x == nil {
		return fmt.Errorf("sample %s: the plan has no collection %s.%s", s.path, c.Database, c.Name)
	}
	in, err := s.reopen(&id, x)
	if err != nil {
		return err
	}
	defer in.Close()
	if x.Kind == plainKind {
		return samplePlain(ctx, in, x, l.Shards, n, f)
	}
	w, err := newWalker(in, x)
	if err != nil {
		return quiet(err)
	}
	return sampleStream(ctx, w, c, n, f)
}

// quiet ends a sample without an error where the dump is broken: the run meets the break and says so.
func quiet(err error) error {
	if _, ok := errors.AsType[*jobs.BrokenError](err); ok || err == io.EOF {
		return nil
	}
	return err
}

func sampleStream(ctx context.Context, w walker, c jobs.Collection, n int, f func(raw []byte) error) error {
	var buf []byte
	for i := 0; n > 0; i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		length, err := w.peek()
		if err != nil {
			return quiet(err)
		}
		if is, _ := w.collection(); is.Name != c.Name || is.Database != c.Database {
			if err := w.skip(); err != nil {
				return quiet(err)
			}
			continue
		}
		if length > len(buf) {
			buf = make([]byte, max(length, walkBuffer))
		}
		if err := w.read(buf[:length]); err != nil {
			return quiet(err)
		}
		if err := f(buf[:length:length]); err != nil {
			return err
		}
		n--
	}
	return nil
}

func samplePlain(ctx context.Context, in *os.File, x *file, all []jobs.Shard, n int, f func(raw []byte) error) error {
	var shards []jobs.Shard
	for _, sh := range all {
		if sh.Database == x.Database && sh.Collection == x.Collection {
			shards = append(shards, sh)
		}
	}
	reach := sampleBytes / int64(max(1, len(shards)))
	for i, sh := range shards {
		part := n*(i+1)/len(shards) - n*i/len(shards)
		if part == 0 {
			continue
		}
		there, reach, short := 0, reach, reach
		if len(shards) >= manyShards {
			short = min(sampleChunk, reach)
		}
		for _, r := range []int64{short, reach} {
			there, reach = 0, r
			if err := near(ctx, in, x, sh, r, func([]byte) error { there++; return nil }); err != nil {
				return err
			}
			if there >= part {
				break
			}
		}
		part = min(part, there)
		k := 0
		err := near(ctx, in, x, sh, reach, func(raw []byte) error {
			k++
			if k*part/there == (k-1)*part/there {
				return nil
			}
			return f(raw)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// near calls f with the documents that start within reach of a shard's start, in bytes.
func near(ctx context.Context, in *os.File, x *file, sh jobs.Shard, reach int64, f func(raw []byte) error) error {
	start, err := offsetOf(sh.Start, 0)
	if err != nil {
		return err
	}
	end, err := offsetOf(sh.End, x.Size)
	if err != nil {
		return err
	}
	p := &plain{f: in, mem: unbounded{}, off: start, end: end, resumed: -1}
	for p.off < start+reach {
		c, err := p.next(ctx)
		if err != nil {
			return quiet(err)
		}
		for _, raw := range c.Docs {
			if err = f(raw); err != nil {
				break
			}
		}
		c.Free()
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// unbounded is the memory of a sample, which holds one chunk at a time.
type unbounded struct{}

func (unbounded) Acquire(ctx context.Context, _ int) error { return ctx.Err() }
func (unbounded) Adjust(int)                               {}
func (unbounded) Chunk() int                               { return sampleChunk }
