package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase"
	"drover/hbase/thrift2"
)

// encode makes the message of a putMultiple with the generated code.
func encode(t testing.TB, compact bool, table string, puts []*thrift2.TPut) []byte {
	t.Helper()
	buf := thrift.NewTMemoryBuffer()
	var p thrift.TProtocol = thrift.NewTBinaryProtocolConf(buf, nil)
	if compact {
		p = thrift.NewTCompactProtocolConf(buf, nil)
	}
	ctx := context.Background()
	args := thrift2.THBaseServicePutMultipleArgs{Table: []byte(table), Tputs: puts}
	for _, err := range []error{
		p.WriteMessageBegin(ctx, "putMultiple", thrift.CALL, 7), args.Write(ctx, p), p.WriteMessageEnd(ctx), p.Flush(ctx),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// decodeByHand gives what the hand-written decoder sees, as the generated code would have it.
func decodeByHand(w *wire) (table string, puts []*thrift2.TPut) {
	var p putCall
	p.decode(w, false)
	for _, r := range p.rows {
		put := &thrift2.TPut{Row: bytes.Clone(w.at(r.key)), ColumnValues: []*thrift2.TColumnValue{}}
		if r.hasTS {
			put.Timestamp = &r.ts
		}
		if r.ttl != 0 {
			put.Attributes = map[string][]byte{"_ttl": binary.BigEndian.AppendUint64(nil, uint64(r.ttl))}
		}
		if r.durable != 0 {
			d := thrift2.TDurability(r.durable)
			put.Durability = &d
		}
		for _, c := range p.cells[r.cell:r.end] {
			v := &thrift2.TColumnValue{Family: bytes.Clone(w.at(c.family)), Qualifier: bytes.Clone(w.at(c.qualifier)), Value: bytes.Clone(w.at(c.value))}
			if c.hasTS {
				v.Timestamp = &c.ts
			}
			put.ColumnValues = append(put.ColumnValues, v)
		}
		puts = append(puts, put)
	}
	return string(w.at(p.table)), puts
}

func randomPuts(r *rand.Rand) []*thrift2.TPut {
	piece := func(n int) []byte {
		b := make([]byte, r.IntN(n))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	stamp := func() *int64 {
		if r.IntN(3) == 0 {
			return nil
		}
		ts := int64(r.Uint64())
		return &ts
	}
	puts := []*thrift2.TPut{}
	for range r.IntN(40) {
		p := &thrift2.TPut{Row: piece(30), Timestamp: stamp(), ColumnValues: []*thrift2.TColumnValue{}}
		if r.IntN(2) == 0 {
			p.Attributes = map[string][]byte{"_ttl": binary.BigEndian.AppendUint64(nil, 1+uint64(r.Uint32()))}
		}
		if r.IntN(2) == 0 {
			d := thrift2.TDurability(1 + r.IntN(4))
			p.Durability = &d
		}
		for range r.IntN(20) {
			p.ColumnValues = append(p.ColumnValues, &thrift2.TColumnValue{Family: piece(4), Qualifier: piece(200), Value: piece(300), Timestamp: stamp()})
		}
		puts = append(puts, p)
	}
	return puts
}

func TestDecodeAsGenerated(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		puts := randomPuts(r)
		for _, compact := range []bool{false, true} {
			message := encode(t, compact, "a table", puts)
			w := &wire{compact: compact, src: &dribble{message, r}}
			name, seq := w.message()
			if string(w.at(name)) != "putMultiple" || seq != 7 {
				t.Fatalf("compact %v: header %q %d", compact, w.at(name), seq)
			}
			table, got := decodeByHand(w)
			if w.err != nil || table != "a table" || w.pos != len(message) {
				t.Fatalf("compact %v: table %q, %d of %d bytes, %v", compact, table, w.pos, len(message), w.err)
			}
			if len(got) != len(puts) {
				t.Fatalf("compact %v: %d rows, want %d", compact, len(got), len(puts))
			}
			for i := range puts {
				if !reflect.DeepEqual(puts[i], got[i]) {
					t.Fatalf("compact %v: row %d: %v, want %v", compact, i, got[i], puts[i])
				}
			}
		}
	}
}

// dribble gives a message in pieces of random lengths, of which some end within a cell and some hold many.
type dribble struct {
	rest []byte
	r    *rand.Rand
}

func (d *dribble) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+d.r.IntN(1<<d.r.IntN(14)))], d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// FuzzWire feeds garbage to the decoder: it must end, without a panic and without memory that the input does not pay for.
func FuzzWire(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, compact := range []bool{false, true} {
		f.Add(encode(f, compact, "t", randomPuts(r)), compact)
	}
	f.Add([]byte{0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff}, false)
	f.Fuzz(func(t *testing.T, message []byte, compact bool) {
		w := &wire{compact: compact, src: bytes.NewReader(message)}
		w.message()
		var p putCall
		p.decode(w, false)
		if w.pos > len(message) || len(w.buf) > 4*len(message)+64<<10 {
			t.Fatalf("read %d and hold %d of %d bytes", w.pos, len(w.buf), len(message))
		}
		if w.err == nil {
			p.check()
		}
	})
}

func benchRows(n int) []*thrift2.TPut {
	puts := make([]*thrift2.TPut, n)
	sync := thrift2.TDurability_SYNC_WAL
	ts := int64(1_700_000_000_000)
	for i := range puts {
		p := &thrift2.TPut{Row: fmt.Appendf(nil, "row-%09d", i), Durability: &sync}
		for c := range 5 {
			p.ColumnValues = append(p.ColumnValues, &thrift2.TColumnValue{
				Family: []byte("d"), Qualifier: fmt.Appendf(nil, "column%d", c), Value: bytes.Repeat([]byte{'x'}, 40), Timestamp: &ts,
			})
		}
		puts[i] = p
	}
	return puts
}

// BenchmarkPutMultiple sends calls of 1,000 rows of 5 cells over one connection, each time other rows.
func BenchmarkPutMultiple(b *testing.B) {
	s, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	h := &handler{s}
	one := int32(1)
	err = h.CreateTable(b.Context(), &thrift2.TTableDescriptor{
		TableName: &thrift2.TTableName{Qualifier: []byte("t")}, Columns: []*thrift2.TColumnFamilyDescriptor{{Name: []byte("d"), MaxVersions: &one}},
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	benchPut(b, s.Addr())
}

func BenchmarkNull(b *testing.B) {
	s, err := Null("", hbase.Transport{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	benchPut(b, s.Addr())
	if s.Rows() != int64(b.N)*1000 {
		b.Fatalf("counted %d rows of %d", s.Rows(), b.N*1000)
	}
}

func benchPut(b *testing.B, addr string) {
	const rows = 1000
	message := encode(b, false, "t", benchRows(rows))
	mark := []byte("row-")
	var at []int // where the nine digits of each key are
	for i := 0; ; {
		n := bytes.Index(message[i:], mark)
		if n < 0 {
			break
		}
		at = append(at, i+n+len(mark))
		i += n + len(mark)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	reply := make([]byte, len(appendReply(nil, false, "putMultiple", 7)))
	next := 0
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	start := time.Now()
	for b.Loop() {
		for _, i := range at {
			n := next
			next++
			for d := 8; d >= 0; d-- {
				message[i+d] = byte('0' + n%10)
				n /= 10
			}
		}
		if _, err := c.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, reply); err != nil {
			b.Fatal(err)
		}
		if reply[len(reply)-1] != 0 || reply[3] != 2 {
			b.Fatalf("refused: %q", reply)
		}
	}
	b.ReportMetric(float64(next)/time.Since(start).Seconds(), "rows/s")
}
