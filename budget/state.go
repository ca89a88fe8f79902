package budget

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"
)

// state is what the members of a key share.
type state struct {
	boot     [16]byte // the boot whose clock the times are of; another boot's state is worth nothing
	era      uint64   // changes when the schedule was lost, so that places in the lost one are not used
	checked  int64    // when the members were last looked at
	schedule schedule
}

const (
	stateMagic = "drvrbgt1"
	stateSize  = 8 + 16 + 8 + 8 + dimensions*6*8 + 8
)

// append encodes s, with a checksum.
func (s *state) append(b []byte) []byte {
	b = append(b, stateMagic...)
	b = append(b, s.boot[:]...)
	b = binary.LittleEndian.AppendUint64(b, s.era)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.checked))
	for _, c := range s.schedule {
		for _, v := range [...]int64{c.rate, c.anchor, c.ticks, c.lag, c.next, c.full} {
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		}
	}
	return binary.LittleEndian.AppendUint64(b, xxh3.Hash(b))
}

// parse decodes s, or returns false and leaves it alone when the bytes are not whole or cannot be true.
func (s *state) parse(b []byte, now int64) bool {
	if len(b) != stateSize || string(b[:8]) != stateMagic ||
		binary.LittleEndian.Uint64(b[stateSize-8:]) != xxh3.Hash(b[:stateSize-8]) {
		return false
	}
	var n state
	copy(n.boot[:], b[8:])
	b = b[24:]
	next := func() int64 {
		v := binary.LittleEndian.Uint64(b)
		b = b[8:]
		return int64(v)
	}
	n.era, n.checked = uint64(next()), next()
	for d := range n.schedule {
		c := &n.schedule[d]
		for _, v := range [...]*int64{&c.rate, &c.anchor, &c.ticks, &c.lag, &c.next, &c.full} {
			*v = next()
			if *v > never || *v < -never {
				return false
			}
		}
		if c.rate < 0 || c.anchor > now {
			return false
		}
	}
	if n.checked > now {
		return false
	}
	*s = n
	return true
}
