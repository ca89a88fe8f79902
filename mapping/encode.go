package mapping

import (
	"encoding/binary"

	"drover/hbase"
)

// encoding is an Encoding that is known to be one.
type encoding uint8

const (
	encBytes encoding = iota
	encBSON
	encJSON
)

func (e encoding) String() string { return string([...]Encoding{Bytes, BSON, JSON}[e]) }

const badOldBinary = "binary of the old subtype 2 whose inner length does not fit; use the encoding bson"

// text is the content of a checked string, code or symbol.
func text(v []byte) []byte { return v[4 : len(v)-1] }

func int64At(v []byte) int64 { return int64(binary.LittleEndian.Uint64(v)) }

// binaryPayload is the content of a checked binary, for the old subtype without its inner length. It is false when that
// length does not fit.
func binaryPayload(v []byte) ([]byte, bool) {
	if v[4] != oldBinary {
		return v[5:], true
	}
	if len(v) < 9 || int32At(v, 5) != len(v)-9 {
		return nil, false
	}
	return v[9:], true
}

// within gives the part of a checked value that is its encoding as it stands. ok is false when there is none, and it has to
// be appended.
func within(enc encoding, typ byte, v []byte) (part []byte, ok bool) {
	if enc != encBytes {
		return nil, false
	}
	switch typ {
	case tString:
		return text(v), true
	case tObjectID:
		return v, true
	case tBinary:
		return binaryPayload(v)
	}
	return nil, false
}

// appendEncoded appends a checked value in an encoding. why says what cannot be encoded so. null has no bytes under encBytes,
// which the caller has to look for.
func appendEncoded(dst []byte, enc encoding, typ byte, v []byte) (_ []byte, why string) {
	switch enc {
	case encBSON:
		return append(append(dst, typ), v...), ""
	case encJSON:
		return appendJSON(dst, typ, v, hbase.MaxCellBytes)
	}
	switch typ {
	case tInt32:
		return binary.BigEndian.AppendUint32(dst, binary.LittleEndian.Uint32(v)), ""
	case tDouble, tInt64, tDate, tTimestamp:
		return binary.BigEndian.AppendUint64(dst, binary.LittleEndian.Uint64(v)), ""
	case tBool:
		return append(dst, -v[0]), "" // true is (byte) -1 to HBase
	case tString:
		return append(dst, text(v)...), ""
	case tObjectID:
		return append(dst, v...), ""
	case tBinary:
		payload, ok := binaryPayload(v)
		if !ok {
			return dst, badOldBinary
		}
		return append(dst, payload...), ""
	case tDecimal:
		return appendDecimal(dst, v), ""
	case tNull:
		return dst, ""
	}
	return appendJSON(dst, typ, v, hbase.MaxCellBytes)
}
