package mongodump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"drover/jobs"
)

// plain reads a range of an uncompressed .bson file by offset, so that each chunk is read straight into its own buffer. A
// document that is cut by the end of one read is read again with the next.
type plain struct {
	f          *os.File
	collection jobs.Collection
	mem        jobs.Memory
	off, end   int64
	resumed    int64 // the offset of a cursor that was given, or -1
}

func (p *plain) next(ctx context.Context) (*jobs.Chunk, error) {
	if p.off == p.end {
		return nil, io.EOF
	}
	remain := p.end - p.off
	want := int(min(int64(chunkFor(p.mem)), remain))
	for {
		b, err := newBlock(ctx, p.mem, want)
		if err != nil {
			return nil, fmt.Errorf("wait for memory to read %s: %w", p.f.Name(), err)
		}
		if err := readAt(p.f, b.buf[:want], p.off); err != nil {
			b.free()
			return nil, err
		}
		b.base = p.off
		length, fault := b.split(want, remain)
		if len(b.docs) > 0 {
			p.off += int64(b.used)
			return b.seal(p.collection, int64(b.used)), nil
		}
		b.free()
		if fault != "" {
			return nil, p.broken(fault)
		}
		want = length // one document larger than a chunk
	}
}

func (p *plain) broken(fault string) error {
	if p.off == p.resumed {
		fault += "; as this is where the run resumes, either the file is broken here or the checkpoint belongs to " +
			"another file: start with --fresh if the file is right"
	}
	return &jobs.BrokenError{File: p.f.Name(), Offset: p.off, Reason: fault}
}

func (p *plain) close() error { return p.f.Close() }

// readAt fills b from the file. That the file ends before is a change: its size was compared when it was opened.
func readAt(f *os.File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return &jobs.ChangedError{What: fmt.Sprintf("%s: it was longer when it was opened, and ends at %d now", f.Name(), off+int64(n))}
	}
	return fmt.Errorf("read %s at offset %d: %w", f.Name(), off, err)
}
