package hbase

import (
	"bufio"
	"encoding/binary"
	"io"
	"slices"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
)

// maxReply bounds a reply, in bytes. Memory grows as bytes arrive and never by a length that a reply states.
const maxReply = 512 << 20

// decoder reads one message of either protocol. The first error sticks: what is read after it is zero, so only loops need
// to look at err. After a message, settle leaves r where the message ends.
type decoder struct {
	r       *bufio.Reader
	left    int64  // bytes of the message not taken from r, or of the bound where the transport does not say
	ahead   []byte // buffered in r and part of the message; what is read is cut off its front
	peeked  int    // what ahead was when it was peeked
	compact bool
	flag    bool // value of the boolean field read last, which compact keeps in the field's header
	err     error
}

// reset starts a message of at most n bytes.
func (d *decoder) reset(r *bufio.Reader, n int64) {
	d.r, d.left, d.ahead, d.peeked, d.err = r, n, nil, 0, nil
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.settle()
}

// settle takes from r what has been read. After an error nobody reads from r any more, and ahead may not be of it.
func (d *decoder) settle() {
	if d.err == nil {
		n := d.peeked - len(d.ahead)
		d.r.Discard(n)
		d.left -= int64(n)
	}
	d.ahead, d.peeked = nil, 0
}

func (d *decoder) remaining() int64 { return d.left - int64(d.peeked-len(d.ahead)) }

var zeros [16]byte

// take is the next n <= 16 bytes, valid until the next read.
func (d *decoder) take(n int) []byte {
	if n > len(d.ahead) {
		d.fill(n)
	}
	p := d.ahead[:n]
	d.ahead = d.ahead[n:]
	return p
}

// fill makes ahead at least n bytes; zeros, after an error.
func (d *decoder) fill(n int) {
	d.settle()
	if d.err == nil && int64(n) > d.left {
		d.err = garbage("message ends within a value")
	}
	if d.err == nil {
		_, err := d.r.Peek(n)
		d.err = noEOF(err)
	}
	if d.err != nil {
		d.ahead, d.peeked = zeros[:n], n
		return
	}
	d.ahead, _ = d.r.Peek(int(min(int64(d.r.Buffered()), d.left)))
	d.peeked = len(d.ahead)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (d *decoder) u8() byte { return d.take(1)[0] }

func (d *decoder) varint() uint64 {
	var v uint64
	for shift := 0; shift < 70; shift += 7 {
		b := d.u8()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	d.fail(garbage("number too long"))
	return 0
}

func (d *decoder) zigzag() int64 {
	v := d.varint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) i32() int32 {
	if d.compact {
		return int32(d.zigzag())
	}
	return int32(binary.BigEndian.Uint32(d.take(4)))
}

func (d *decoder) i64() int64 {
	if d.compact {
		return d.zigzag()
	}
	return int64(binary.BigEndian.Uint64(d.take(8)))
}

// size is a length or a count, checked against what is left: all that it can count takes a byte at least.
func (d *decoder) size() int {
	var n int64
	if d.compact {
		n = int64(d.varint())
	} else {
		n = int64(int32(binary.BigEndian.Uint32(d.take(4))))
	}
	if left := d.remaining(); n < 0 || n > left {
		d.fail(garbage("length %d in a message with %d bytes left", n, left))
		return 0
	}
	return int(n)
}

// raw appends the next n bytes to dst.
func (d *decoder) raw(dst []byte, n int) []byte {
	if n <= len(d.ahead) {
		dst = append(dst, d.ahead[:n]...)
		d.ahead = d.ahead[n:]
		return dst
	}
	d.settle()
	const step = 64 << 10
	for n > 0 && d.err == nil {
		m := min(n, step)
		at := len(dst)
		dst = slices.Grow(dst, m)[:at+m]
		if _, err := io.ReadFull(d.r, dst[at:]); err != nil {
			d.fail(noEOF(err))
			return dst[:at]
		}
		d.left -= int64(m)
		n -= m
	}
	return dst
}

func (d *decoder) discard(n int) {
	d.settle()
	if d.err != nil {
		return
	}
	m, err := d.r.Discard(n)
	d.left -= int64(m)
	if err != nil {
		d.fail(noEOF(err))
	}
}

// text reads a string and keeps its beginning.
func (d *decoder) text() string {
	const longest = 64 << 10
	n := d.size()
	m := min(n, longest)
	s := string(d.raw(nil, m))
	d.discard(n - m)
	return s
}

// field reads a field's header: its type, in the binary protocol's numbers and tStop at the end, and its id.
func (d *decoder) field(last int16) (typ byte, id int16) {
	if !d.compact {
		if typ = d.u8(); typ == tStop {
			return tStop, 0
		}
		return typ, int16(binary.BigEndian.Uint16(d.take(2)))
	}
	h := d.u8()
	if h&0xf == 0 {
		return tStop, 0
	}
	if delta := int16(h >> 4); delta != 0 {
		id = last + delta
	} else {
		id = int16(d.zigzag())
	}
	d.flag = h&0xf == cTrue
	return d.plainType(h & 0xf), id
}

// boolean reads the value of a boolean field.
func (d *decoder) boolean() bool {
	if d.compact {
		return d.flag
	}
	return d.u8() == 1
}

func (d *decoder) list() (elem byte, n int) {
	if !d.compact {
		elem = d.u8()
		return elem, d.size()
	}
	h := d.u8()
	if n = int(h >> 4); n == 15 {
		n = d.size()
	}
	return d.plainType(h & 0xf), n
}

// skip reads over a value. element says that it stands in a container, where compact gives a boolean a byte.
func (d *decoder) skip(typ byte, element bool, depth int) {
	if depth > 16 {
		d.fail(garbage("structs nest too deep"))
		return
	}
	switch typ {
	case tBool:
		if !d.compact || element {
			d.u8()
		}
	case tByte:
		d.u8()
	case tI16:
		if d.compact {
			d.varint()
		} else {
			d.take(2)
		}
	case tI32:
		d.i32()
	case tI64:
		d.i64()
	case tDouble:
		d.take(8)
	case tString:
		d.discard(d.size())
	case tStruct:
		for id := int16(0); d.err == nil; {
			var t byte
			if t, id = d.field(id); t == tStop {
				return
			}
			d.skip(t, false, depth+1)
		}
	case tList, tSet:
		elem, n := d.list()
		for ; n > 0 && d.err == nil; n-- {
			d.skip(elem, true, depth+1)
		}
	case tMap:
		key, val, n := d.mapping()
		for ; n > 0 && d.err == nil; n-- {
			d.skip(key, true, depth+1)
			d.skip(val, true, depth+1)
		}
	default:
		d.fail(garbage("type %d", typ))
	}
}

func (d *decoder) mapping() (key, val byte, n int) {
	if !d.compact {
		key, val = d.u8(), d.u8()
		return key, val, d.size()
	}
	if n = d.size(); n == 0 {
		return 0, 0, 0
	}
	kv := d.u8()
	return d.plainType(kv >> 4), d.plainType(kv & 0xf), n
}

// begin reads a message's header. A TApplicationException is read to its end and returned; any other error means that the
// stream cannot be trusted any more.
func (d *decoder) begin(method string, seq int32) error {
	var kind byte
	var id int32
	if d.compact {
		if p := d.u8(); p != cMagic {
			d.fail(garbage("message starts with %#x", p))
		}
		kind = d.u8()
		if kind&0x1f != cVersion {
			d.fail(garbage("compact version %d", kind&0x1f))
		}
		kind >>= 5
		id = int32(uint32(d.varint()))
		d.name(method)
	} else {
		v := binary.BigEndian.Uint32(d.take(4))
		if v&0xffffff00 != version1 {
			d.fail(garbage("message starts with %#08x", v))
		}
		kind = byte(v)
		d.name(method)
		id = int32(binary.BigEndian.Uint32(d.take(4)))
	}
	if id != seq {
		d.fail(garbage("reply to call %d, asked was %d", id, seq))
	}
	switch {
	case d.err != nil:
	case kind == exceptionMessage:
		return d.applicationException()
	case kind != replyMessage:
		d.fail(garbage("message of type %d", kind))
	}
	return d.err
}

// name reads the method's name, which must be the one called.
func (d *decoder) name(want string) {
	if n := d.size(); n != len(want) {
		d.fail(garbage("reply to a method of %d letters, asked was %s", n, want))
		return
	}
	var buf [32]byte
	if got := d.raw(buf[:0], len(want)); d.err == nil && string(got) != want {
		d.fail(garbage("reply to %q, asked was %s", got, want))
	}
}

func (d *decoder) applicationException() error {
	text, code := "", int32(0)
	for id := int16(0); d.err == nil; {
		var t byte
		switch t, id = d.field(id); {
		case t == tStop && d.err == nil:
			return thrift.NewTApplicationException(code, text)
		case id == 1 && t == tString:
			text = d.text()
		case id == 2 && t == tI32:
			code = d.i32()
		default:
			d.skip(t, false, 0)
		}
	}
	return d.err
}

// result reads a call's result: success for field 0, a TIOError as the error for field 1. The error is the server's own
// when d.err is nil, and the stream is then in order.
func (d *decoder) result(success func(typ byte)) error {
	var thrown *thrift2.TIOError
	for id := int16(0); d.err == nil; {
		var t byte
		switch t, id = d.field(id); {
		case t == tStop:
			if d.err == nil && thrown != nil {
				return thrown
			}
			return d.err
		case id == 0 && success != nil:
			success(t)
		case id == 1 && t == tStruct:
			thrown = d.ioError()
		default:
			d.skip(t, false, 0)
		}
	}
	return d.err
}

func (d *decoder) ioError() *thrift2.TIOError {
	e := new(thrift2.TIOError)
	for id := int16(0); d.err == nil; {
		var t byte
		switch t, id = d.field(id); {
		case t == tStop:
			return e
		case id == 1 && t == tString:
			s := d.text()
			e.Message = &s
		case id == 2 && t == tBool:
			b := d.boolean()
			e.CanRetry = &b
		default:
			d.skip(t, false, 0)
		}
	}
	return e
}
