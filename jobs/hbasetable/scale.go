package hbasetable

import (
	"bytes"
	"math/big"

	"drover/hbase"
)

// scale puts the row keys of a range on a line, so that one can say which key is about in the middle of two. What the keys
// have in common at their start is left out, and of the rest each byte is a digit: the first one of those between the first
// and the last key's, all others of those that occur in a sample. In keys of decimal or hexadecimal digits a gap between "9"
// and "A" would else count as much as what is in use.
type scale struct {
	prefix []byte
	low    byte       // the least value of the first digit
	first  int64      // how many values that has
	value  []byte     // of the other digits, ascending
	digit  [256]int64 // of a byte value: how many of value are below it
}

const (
	// mostValues is how many byte values may occur in a sample and be taken for all. Beyond that there are 256.
	mostValues = 80
	// digits is how far a key is looked at, beyond the first digit.
	digits = 24
)

// newScale looks at ascending rows, the first of them the range's first, and at the range's last key.
func newScale(rows []hbase.PackedRow, last []byte) *scale {
	s := &scale{}
	first := rows[0].Key()
	n := 0
	for n < len(first) && n < len(last) && first[n] == last[n] {
		n++
	}
	s.prefix = bytes.Clone(first[:n])
	high := byte(0)
	if n < len(last) {
		high = last[n]
	}
	if n < len(first) {
		s.low = first[n]
	}
	s.first = int64(high) - int64(s.low) + 1
	var used [256]bool
	use := func(key []byte) {
		for _, c := range key[min(n+1, len(key)):] {
			used[c] = true
		}
	}
	for _, r := range rows {
		use(r.Key())
	}
	use(last)
	for c := range 256 {
		if used[c] {
			s.value = append(s.value, byte(c))
		}
	}
	if len(s.value) > mostValues || len(s.value) < 2 {
		s.value = s.value[:0]
		for c := range 256 {
			s.value = append(s.value, byte(c))
		}
	}
	below := int64(0)
	for c := range 256 {
		s.digit[c] = below
		if int(below) < len(s.value)-1 && s.value[below] == byte(c) {
			below++
		}
	}
	return s
}

// at is where a key is. Keys before the range are at its start, those behind it at its end.
func (s *scale) at(key []byte) *big.Int {
	x := new(big.Int)
	rest, ok := bytes.CutPrefix(key, s.prefix)
	switch {
	case !ok && bytes.Compare(key, s.prefix) > 0:
		x.SetInt64(s.first)
		rest = nil
	case len(rest) > 0:
		x.SetInt64(max(0, min(int64(rest[0])-int64(s.low), s.first-1)))
		rest = rest[1:]
	}
	base, d := big.NewInt(int64(len(s.value))), new(big.Int)
	for i := range digits {
		x.Mul(x, base)
		if i < len(rest) {
			x.Add(x, d.SetInt64(s.digit[rest[i]]))
		}
	}
	return x
}

// key is the key at x.
func (s *scale) key(x *big.Int) []byte {
	base, d := big.NewInt(int64(len(s.value))), new(big.Int)
	rest := make([]byte, digits+1)
	x = new(big.Int).Set(x)
	for i := digits; i > 0; i-- {
		x.DivMod(x, base, d)
		rest[i] = s.value[d.Int64()]
	}
	rest[0] = s.low + byte(min(x.Int64(), s.first-1))
	for n := len(rest); n > 1 && rest[n-1] == s.value[0]; n-- {
		rest = rest[:n-1]
	}
	return append(bytes.Clone(s.prefix), rest...)
}

// between is the key that is k of n parts of the way from one place to another.
func (s *scale) between(from, to *big.Int, k, n int64) []byte {
	x := new(big.Int).Sub(to, from)
	x.Mul(x, big.NewInt(k))
	x.Div(x, big.NewInt(n))
	return s.key(x.Add(x, from))
}

// ratio is (c-a)/(b-a), for a < b.
func ratio(a, b, c *big.Int) float64 {
	over := new(big.Float).SetInt(new(big.Int).Sub(c, a))
	under := new(big.Float).SetInt(new(big.Int).Sub(b, a))
	f, _ := over.Quo(over, under).Float64()
	return f
}
