package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/thrift/lib/go/thrift"
)

// maxMessage bounds one message, in bytes, as the Java library's default does. Garbage read as a length ends the connection
// at it, and never becomes an allocation: the buffer grows with what has arrived.
const maxMessage = 100 << 20

// keepBuffer is the largest buffer a connection holds on to between two messages, in bytes.
const keepBuffer = 16 << 20

var errTooLong = fmt.Errorf("message over %d bytes", maxMessage)

// wire reads the messages of one connection into one buffer, so that the hot calls can be decoded by hand and refer to the
// message by offset. It is also the transport that the generated code reads the other calls from.
//
// Decoding is sticky: after the first fault every read gives zero and err tells why. The protocol is binary, or compact.
type wire struct {
	src     io.Reader // nil when the whole message is in buf
	compact bool

	buf []byte // buf[:end] is read, buf[:pos] is decoded; a message starts at 0
	pos int
	end int
	err error

	out []byte // the reply, until it is sent
}

// begin forgets the message before, and keeps what has arrived after it.
func (w *wire) begin() {
	if w.pos == w.end && len(w.buf) > keepBuffer {
		w.buf = nil
	}
	if w.pos > 0 {
		copy(w.buf, w.buf[w.pos:w.end])
		w.end -= w.pos
		w.pos = 0
	}
	w.err = nil
	w.out = w.out[:0]
}

// load makes the n bytes of a frame the message.
func (w *wire) load(r io.Reader, n int) error {
	if n < 0 || n > maxMessage {
		return errTooLong
	}
	w.src, w.pos, w.end, w.err, w.out = r, 0, 0, nil, w.out[:0]
	if len(w.buf) > keepBuffer && n <= keepBuffer {
		w.buf = nil
	}
	ok := w.need(n)
	w.src = nil
	if !ok {
		return w.err
	}
	return nil
}

// need makes n bytes available from pos on.
func (w *wire) need(n int) bool {
	if w.end-w.pos >= n {
		return true
	}
	return w.fill(n)
}

func (w *wire) fill(n int) bool {
	if w.err != nil {
		return false
	}
	if n < 0 || w.pos+n > maxMessage {
		w.err = errTooLong
		return false
	}
	if w.src == nil {
		w.err = io.ErrUnexpectedEOF
		return false
	}
	for w.end-w.pos < n {
		if w.end == len(w.buf) {
			grown := make([]byte, max(32<<10, 2*len(w.buf)))
			copy(grown, w.buf[:w.end])
			w.buf = grown
		}
		got, err := w.src.Read(w.buf[w.end:])
		w.end += got
		if err != nil && w.end-w.pos < n {
			if w.end > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			w.err = err
			return false
		}
	}
	return true
}

func (w *wire) u8() byte {
	if !w.need(1) {
		return 0
	}
	b := w.buf[w.pos]
	w.pos++
	return b
}

func (w *wire) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 70; shift += 7 {
		b := w.u8()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	w.fail("varint over 10 bytes")
	return 0
}

func (w *wire) zigzag() int64 {
	u := w.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (w *wire) fail(what string) {
	if w.err == nil {
		w.err = thrift.NewTProtocolExceptionWithType(thrift.INVALID_DATA, errors.New(what))
	}
}

func (w *wire) i16() int16 {
	if w.compact {
		return int16(w.zigzag())
	}
	if !w.need(2) {
		return 0
	}
	v := binary.BigEndian.Uint16(w.buf[w.pos:])
	w.pos += 2
	return int16(v)
}

func (w *wire) i32() int32 {
	if w.compact {
		return int32(w.zigzag())
	}
	if !w.need(4) {
		return 0
	}
	v := binary.BigEndian.Uint32(w.buf[w.pos:])
	w.pos += 4
	return int32(v)
}

func (w *wire) i64() int64 {
	if w.compact {
		return w.zigzag()
	}
	if !w.need(8) {
		return 0
	}
	v := binary.BigEndian.Uint64(w.buf[w.pos:])
	w.pos += 8
	return int64(v)
}

// size reads a length or a count.
func (w *wire) size() int {
	var n int64
	if w.compact {
		n = int64(int32(w.uvarint()))
	} else {
		n = int64(w.i32())
	}
	if n < 0 || n > maxMessage {
		w.fail("negative or huge size")
		return 0
	}
	return int(n)
}

// span is a piece of the message.
type span struct{ off, n int32 }

func (w *wire) bytes() span {
	n := w.size()
	if !w.need(n) {
		return span{}
	}
	s := span{int32(w.pos), int32(n)}
	w.pos += n
	return s
}

func (w *wire) at(s span) []byte { return w.buf[s.off : s.off+s.n : s.off+s.n] }

// Compact's types, and what binary calls them.
var compactTypes = [16]byte{
	0: thrift.STOP, 1: thrift.BOOL, 2: thrift.BOOL, 3: thrift.BYTE, 4: thrift.I16, 5: thrift.I32, 6: thrift.I64,
	7: thrift.DOUBLE, 8: thrift.STRING, 9: thrift.LIST, 10: thrift.SET, 11: thrift.MAP, 12: thrift.STRUCT, 13: thrift.UUID,
}

// field reads a field's header; last is the id of the field before it in this struct. STOP ends the struct, as does a fault.
// A bool's value is part of the header in compact: only skip may follow one.
func (w *wire) field(last *int16) byte {
	t := w.u8()
	if w.err != nil {
		return thrift.STOP
	}
	if !w.compact {
		if t != thrift.STOP {
			*last = w.i16()
		}
		return t
	}
	if t&0x0f == 0 {
		return thrift.STOP
	}
	if delta := t >> 4; delta != 0 {
		*last += int16(delta)
	} else {
		*last = int16(w.zigzag())
	}
	return compactTypes[t&0x0f]
}

// list reads a list's header.
func (w *wire) list() (elem byte, n int) {
	h := w.u8()
	if !w.compact {
		return h, w.size()
	}
	n = int(h >> 4)
	if n == 15 {
		n = w.size()
	}
	return compactTypes[h&0x0f], n
}

// mapping reads a map's header.
func (w *wire) mapping() (key, value byte, n int) {
	if !w.compact {
		key, value = w.u8(), w.u8()
		return key, value, w.size()
	}
	if n = w.size(); n == 0 {
		return 0, 0, 0
	}
	t := w.u8()
	return compactTypes[t>>4], compactTypes[t&0x0f], n
}

// skip passes over a value; inField tells that it follows a field's header directly.
func (w *wire) skip(t byte, inField bool, depth int) {
	if depth > 64 {
		w.fail("nested too deep")
	}
	if w.err != nil {
		return
	}
	switch t {
	case thrift.BOOL:
		if !w.compact || !inField {
			w.u8()
		}
	case thrift.BYTE:
		w.u8()
	case thrift.I16:
		w.i16()
	case thrift.I32:
		w.i32()
	case thrift.I64:
		w.i64()
	case thrift.DOUBLE:
		w.pass(8)
	case thrift.UUID:
		w.pass(16)
	case thrift.STRING:
		w.bytes()
	case thrift.LIST, thrift.SET:
		elem, n := w.list()
		for i := 0; i < n && w.err == nil; i++ {
			w.skip(elem, false, depth+1)
		}
	case thrift.MAP:
		k, v, n := w.mapping()
		for i := 0; i < n && w.err == nil; i++ {
			w.skip(k, false, depth+1)
			w.skip(v, false, depth+1)
		}
	case thrift.STRUCT:
		var last int16
		for {
			f := w.field(&last)
			if f == thrift.STOP {
				return
			}
			w.skip(f, true, depth+1)
		}
	default:
		w.fail("unknown type")
	}
}

func (w *wire) pass(n int) {
	if w.need(n) {
		w.pos += n
	}
}

// message reads a call's header. The name is a piece of the message.
func (w *wire) message() (name span, seq int32) {
	if w.compact {
		if w.u8() != 0x82 {
			w.fail("not a compact message")
		}
		if w.u8()&0x1f != 1 {
			w.fail("unknown compact version")
		}
		seq = int32(w.uvarint())
		return w.bytes(), seq
	}
	head := uint32(w.i32())
	if head&0x80000000 == 0 { // old clients: the name's length, the name, the type
		if head > 1<<10 {
			w.fail("not a binary message")
			return span{}, 0
		}
		if w.need(int(head)) {
			name = span{int32(w.pos), int32(head)}
			w.pos += int(head)
		}
		w.u8()
		return name, w.i32()
	}
	if head&0xffff0000 != 0x80010000 {
		w.fail("unknown binary version")
	}
	return w.bytes(), w.i32()
}

// Read and the methods after it make wire the transport of the generated code.
func (w *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !w.need(1) {
		return 0, w.err
	}
	n := copy(p, w.buf[w.pos:w.end])
	w.pos += n
	return n, nil
}

// ReadByte reads one byte.
func (w *wire) ReadByte() (byte, error) {
	if !w.need(1) {
		return 0, w.err
	}
	w.pos++
	return w.buf[w.pos-1], nil
}

// Write appends to the reply.
func (w *wire) Write(p []byte) (int, error) { w.out = append(w.out, p...); return len(p), nil }

// WriteByte appends to the reply.
func (w *wire) WriteByte(b byte) error { w.out = append(w.out, b); return nil }

// WriteString appends to the reply.
func (w *wire) WriteString(s string) (int, error) { w.out = append(w.out, s...); return len(s), nil }

// Flush does nothing: the connection sends the reply once the call is over.
func (w *wire) Flush(context.Context) error { return nil }

// RemainingBytes is unknown.
func (w *wire) RemainingBytes() uint64 { return thrift.UnknownRemainingBytes }

// Open, IsOpen and Close do nothing: the connection belongs to the server's loop.
func (w *wire) Open() error  { return nil }
func (w *wire) IsOpen() bool { return true }
func (w *wire) Close() error { return nil }
