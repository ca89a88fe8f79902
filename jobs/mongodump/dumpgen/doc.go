package dumpgen

import (
	"encoding/binary"
	"math"
)

// doc appends BSON elements to b. The document's own length and end are the caller's.
type doc struct {
	b []byte
}

func (d *doc) head(kind byte, name string) {
	d.b = append(d.b, kind)
	d.b = append(d.b, name...)
	d.b = append(d.b, 0)
}

func (d *doc) null(name string) { d.head(0x0a, name) }

func (d *doc) double(name string, v float64) {
	d.head(0x01, name)
	d.b = binary.LittleEndian.AppendUint64(d.b, math.Float64bits(v))
}

func (d *doc) int32(name string, v int32) {
	d.head(0x10, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(v))
}

func (d *doc) int64(name string, v int64) {
	d.head(0x12, name)
	d.b = binary.LittleEndian.AppendUint64(d.b, uint64(v))
}

// date takes milliseconds since 1970.
func (d *doc) date(name string, ms int64) {
	d.head(0x09, name)
	d.b = binary.LittleEndian.AppendUint64(d.b, uint64(ms))
}

func (d *doc) bool(name string, v bool) {
	d.head(0x08, name)
	if v {
		d.b = append(d.b, 1)
	} else {
		d.b = append(d.b, 0)
	}
}

func (d *doc) objectID(name string, id [12]byte) {
	d.head(0x07, name)
	d.b = append(d.b, id[:]...)
}

func (d *doc) text(name, v string) { d.textAs(0x02, name, v) }

// textAs appends a string, or another type that is laid out as one.
func (d *doc) textAs(kind byte, name, v string) {
	d.head(kind, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(len(v)+1))
	d.b = append(d.b, v...)
	d.b = append(d.b, 0)
}

// string appends n bytes of text from anywhere in it.
func (d *doc) string(name string, text []byte, r *random, n int) {
	d.head(0x02, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(n+1))
	d.fill(text, r, n)
	d.b = append(d.b, 0)
}

func (d *doc) binary(name string, subtype byte, noise []byte, r *random, n int) {
	d.head(0x05, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(n))
	d.b = append(d.b, subtype)
	d.fill(noise, r, n)
}

// oldBinary appends subtype 2, which has its length twice.
func (d *doc) oldBinary(name string, noise []byte, r *random, n int) {
	d.head(0x05, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(n+4))
	d.b = append(d.b, 2)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(n))
	d.fill(noise, r, n)
}

// fill appends n bytes of pool, which is twice textBytes long.
func (d *doc) fill(pool []byte, r *random, n int) {
	for n > 0 {
		o := r.below(textBytes)
		k := min(n, textBytes)
		d.b = append(d.b, pool[o:o+k]...)
		n -= k
	}
}

func (d *doc) regex(name, pattern, options string) {
	d.head(0x0b, name)
	d.b = append(d.b, pattern...)
	d.b = append(d.b, 0)
	d.b = append(d.b, options...)
	d.b = append(d.b, 0)
}

// pointer appends the deprecated DBPointer.
func (d *doc) pointer(name, collection string, id [12]byte) {
	d.textAs(0x0c, name, collection)
	d.b = append(d.b, id[:]...)
}

// scoped appends JavaScript with a scope of one variable.
func (d *doc) scoped(name, code string, x int32) {
	at := d.open(0x0f, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(len(code)+1))
	d.b = append(d.b, code...)
	d.b = append(d.b, 0)
	scope := len(d.b)
	d.b = append(d.b, 0, 0, 0, 0)
	d.int32("x", x)
	d.end(scope)
	binary.LittleEndian.PutUint32(d.b[at:], uint32(len(d.b)-at))
}

// open starts an embedded document or array, which end ends given where it starts.
func (d *doc) open(kind byte, name string) int {
	d.head(kind, name)
	d.b = append(d.b, 0, 0, 0, 0)
	return len(d.b) - 4
}

func (d *doc) end(at int) {
	d.b = append(d.b, 0)
	binary.LittleEndian.PutUint32(d.b[at:], uint32(len(d.b)-at))
}

// corrupt breaks the document that starts at start, in one of three ways. Its length is set after.
func (d *doc) corrupt(start int, r *random) {
	switch r.below(3) {
	case 0: // a type that does not exist
		d.b[start+4] = 0x20
	case 1: // no end
		d.b[len(d.b)-1] = 0x7e
	case 2: // a string longer than the document
		d.b = d.b[:len(d.b)-1]
		d.head(0x02, "broken")
		d.b = binary.LittleEndian.AppendUint32(d.b, math.MaxInt32)
		d.b = append(d.b, 0, 0)
	}
}
