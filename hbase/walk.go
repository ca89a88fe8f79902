package hbase

import "encoding/binary"

// The binary protocol's types that drover meets.
const (
	tStop   = 0
	tBool   = 2
	tByte   = 3
	tDouble = 4
	tI16    = 6
	tI32    = 8
	tI64    = 10
	tString = 11
	tStruct = 12
	tMap    = 13
	tSet    = 14
	tList   = 15
)

// deleteTypes are HBase's numbers for the deleting ops. Thrift leaves out the default, deleteDefault.
var deleteTypes = [...]uint32{DeleteVersion: 0, DeleteColumn: deleteDefault, DeleteFamily: 2, DeleteFamilyVersion: 3}

const deleteDefault = 1

func appendBinary(p, v []byte) []byte {
	p = binary.BigEndian.AppendUint32(p, uint32(len(v)))
	return append(p, v...)
}

// keyAt is the row of the TPut or TDelete that p starts with.
func keyAt(p []byte) []byte {
	end := 7 + int(binary.BigEndian.Uint32(p[3:]))
	return p[7:end:end]
}

// walk reads what Batch wrote, in the same order, and trusts it. Its results are slices of the batch.
type walk struct{ p []byte }

func (w *walk) skip(n int) { w.p = w.p[n:] }

// binary reads a field of bytes, its header included.
func (w *walk) binary() []byte {
	v := keyAt(w.p)
	w.p = w.p[7+len(v):]
	return v
}

func (w *walk) i64() int64 {
	v := int64(binary.BigEndian.Uint64(w.p[3:]))
	w.p = w.p[11:]
	return v
}

func (w *walk) i32() int32 {
	v := int32(binary.BigEndian.Uint32(w.p[3:]))
	w.p = w.p[7:]
	return v
}

// rowTS is the timestamp of the one TPut that there is.
func (w *walk) rowTS() int64 {
	end := walk{w.p[len(w.p)-RowEnd:]}
	return end.i64()
}

// put reads a TColumnValue, and whether it has a timestamp of its own.
func (w *walk) put() (c Cell, own bool) {
	c = Cell{Family: w.binary(), Qualifier: w.binary(), Value: w.binary()}
	if own = w.p[0] == tI64; own {
		c.Timestamp = w.i64()
	}
	w.skip(1)
	return c, own
}

// del reads a TDelete after its row.
func (w *walk) del() (Cell, Durability) {
	w.skip(8)
	c := Cell{Op: DeleteColumn, Family: w.binary()}
	if w.p[0] == tString {
		c.Qualifier = w.binary()
	}
	c.Timestamp = w.i64()
	w.skip(1)
	if w.p[2] == 4 {
		switch w.i32() {
		case 0:
			c.Op = DeleteVersion
		case 2:
			c.Op = DeleteFamily
		case 3:
			c.Op = DeleteFamilyVersion
		}
	}
	d := Durability(w.i32())
	w.skip(1)
	return c, d
}
