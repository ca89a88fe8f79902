package hbase

import (
	"encoding/binary"
	"sync"
)

// The compact protocol's own numbers.
const (
	cMagic   = 0x82
	cVersion = 1
	cTrue    = 1

	cI32    = 5
	cI64    = 6
	cBinary = 8
	cList   = 9
	cStruct = 12
)

// plainTypes are the binary protocol's numbers for the compact types.
var plainTypes = [...]byte{
	1: tBool, 2: tBool, 3: tByte, 4: tI16, cI32: tI32, cI64: tI64, 7: tDouble, cBinary: tString,
	cList: tList, 10: tSet, 11: tMap, cStruct: tStruct,
}

func (d *decoder) plainType(c byte) byte {
	if c == 0 || int(c) >= len(plainTypes) {
		d.fail(garbage("compact type %d", c))
		return tStop
	}
	return plainTypes[c]
}

var compacts = sync.Pool{New: func() any { return new([]byte) }}

func releaseCompact(p *[]byte) {
	if cap(*p) <= maxPooled {
		compacts.Put(p)
	}
}

func appendZigzag(p []byte, v int64) []byte {
	return binary.AppendUvarint(p, uint64(v<<1)^uint64(v>>63))
}

func appendCompactBinary(p, v []byte) []byte {
	p = binary.AppendUvarint(p, uint64(len(v)))
	return append(p, v...)
}

// appendCompactList opens a list of structs in a field whose id is delta above the last one's.
func appendCompactList(p []byte, delta byte, n int) []byte {
	p = append(p, delta<<4|cList)
	if n < 15 {
		return append(p, byte(n)<<4|cStruct)
	}
	return binary.AppendUvarint(append(p, 0xf0|cStruct), uint64(n))
}

// appendCompactPuts writes TPut structs of a batch in the compact protocol.
func appendCompactPuts(p, puts []byte) []byte {
	for w := (walk{puts}); len(w.p) > 0; {
		p = append(p, 1<<4|cBinary)
		p = appendCompactBinary(p, w.binary())
		n := int(binary.BigEndian.Uint32(w.p[4:]))
		w.skip(8)
		p = appendCompactList(p, 1, n)
		for range n {
			c, own := w.put()
			p = append(p, 1<<4|cBinary)
			p = appendCompactBinary(p, c.Family)
			p = append(p, 1<<4|cBinary)
			p = appendCompactBinary(p, c.Qualifier)
			p = append(p, 1<<4|cBinary)
			p = appendCompactBinary(p, c.Value)
			if own {
				p = append(p, 1<<4|cI64)
				p = appendZigzag(p, c.Timestamp)
			}
			p = append(p, tStop)
		}
		p = append(p, 1<<4|cI64)
		p = appendZigzag(p, w.i64())
		p = append(p, 3<<4|cI32)
		p = appendZigzag(p, int64(w.i32()))
		p = append(p, tStop)
		w.skip(1)
	}
	return p
}

// appendCompactDeletes writes TDelete structs of a batch in the compact protocol.
func appendCompactDeletes(p, dels []byte) []byte {
	for w := (walk{dels}); len(w.p) > 0; {
		p = append(p, 1<<4|cBinary)
		p = appendCompactBinary(p, w.binary())
		c, durability := w.del()
		p = appendCompactList(p, 1, 1)
		p = append(p, 1<<4|cBinary)
		p = appendCompactBinary(p, c.Family)
		stamp := byte(2)
		if c.Op == DeleteVersion || c.Op == DeleteColumn {
			p = append(p, 1<<4|cBinary)
			p = appendCompactBinary(p, c.Qualifier)
			stamp = 1
		}
		p = append(p, stamp<<4|cI64)
		p = appendZigzag(p, c.Timestamp)
		p = append(p, tStop)
		last := byte(2)
		if c.Op != DeleteColumn {
			p = append(p, 2<<4|cI32)
			p = appendZigzag(p, int64(deleteTypes[c.Op]))
			last = 4
		}
		p = append(p, (7-last)<<4|cI32)
		p = appendZigzag(p, int64(durability))
		p = append(p, tStop)
	}
	return p
}
