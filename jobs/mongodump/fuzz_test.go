package mongodump

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"drover/jobs"
	"drover/jobs/mongodump/dumpgen"
)

// FuzzSplit compares the walk over lengths with one that takes them one by one.
func FuzzSplit(f *testing.F) {
	f.Add([]byte{5, 0, 0, 0, 0, 5, 0, 0, 0, 0}, int64(0))
	f.Add([]byte{6, 0, 0, 0, 0}, int64(1))
	f.Add([]byte{255, 255, 255, 255, 0, 0}, int64(100))
	f.Add([]byte{5, 0, 0, 0, 0, 1, 2}, int64(0))
	f.Fuzz(func(t *testing.T, data []byte, more int64) {
		if len(data) > 1<<16 || more < 0 || more > 1<<30 {
			return
		}
		b := &block{buf: data}
		next, fault := b.split(len(data), int64(len(data))+more)
		whole, end := 0, 0
		for len(data)-end >= 4 && whole < chunkDocs {
			l := lengthOf(data[end:])
			if l < minDocBytes || l > len(data)-end {
				break
			}
			end += l
			whole++
		}
		if b.used != end || len(b.docs) != whole || len(b.starts) != whole {
			t.Fatalf("%d documents of %d bytes, not %d of %d", len(b.docs), b.used, whole, end)
		}
		for i, d := range b.docs {
			if lengthOf(d) != len(d) || !bytes.Equal(d, data[b.starts[i]:int(b.starts[i])+len(d)]) {
				t.Fatalf("document %d has %d bytes", i, len(d))
			}
		}
		if fault != "" && next != 0 {
			t.Fatalf("fault %q and next %d", fault, next)
		}
		if next != 0 && (next <= len(data)-end || int64(next) > int64(len(data)-end)+more) {
			t.Fatalf("next is %d with %d here and %d more", next, len(data)-end, more)
		}
	})
}

// FuzzArchive looks for panics, endless loops, and errors that do not say where the archive is broken.
func FuzzArchive(f *testing.F) {
	var buf bytes.Buffer
	o := dumpgen.Options{Profile: dumpgen.Flat5, Docs: 2}
	cs := []dumpgen.Collection{{Database: "d", Name: "a", Options: o}, {Database: "d", Name: "system.js", Options: o}}
	if _, err := dumpgen.Archive(f.Context(), &buf, cs, 1); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add(buf.Bytes()[:len(buf.Bytes())/2])
	f.Add([]byte(archiveMagic + "\x05\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &documents{name: "fuzz", in: bufio.NewReaderSize(bytes.NewReader(data), walkBuffer)}
		a, err := newArchive(d)
		total := 0
		for k := 0; err == nil; k++ {
			var n int
			if n, err = a.peek(); err != nil {
				break
			}
			if again, err := a.peek(); again != n || err != nil {
				t.Fatalf("peek gave %d, then %d, %v", n, again, err)
			}
			at := a.offset()
			if !bytes.Equal(data[at:at+4], []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}) {
				t.Fatalf("document at %d of %d bytes", at, n)
			}
			if k%2 == 0 || n > len(data) {
				err = a.skip()
			} else {
				err = a.read(make([]byte, n))
			}
			if err == nil && a.offset() != at+int64(n) {
				t.Fatalf("at %d after the document at %d of %d bytes", a.offset(), at, n)
			}
			total += n
		}
		if b, ok := errors.AsType[*jobs.BrokenError](err); err != io.EOF && (!ok || b.Reason == "" || b.Offset < 0 || b.Offset > int64(len(data))) {
			t.Fatalf("after %d bytes of documents: %v", total, err)
		}
	})
}
