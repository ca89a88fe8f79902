package hbase

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"drover/hbase/thrift2"
)

// Family describes a column family, as it is created and as it is found.
type Family struct {
	Name        string
	Versions    int           // 1 and up
	Compression string        // none, gz, snappy, lz4, zstd, lzo, bzip2
	Bloom       string        // none, row, rowcol
	TTL         time.Duration // 0 is for ever
	Encoding    string        // of data blocks: none, prefix, diff, fast_diff, row_index_v1
}

// word is a value of a family's attribute in our words and in Thrift's.
type word[T ~int64] struct {
	name  string
	value T
}

// The first of each is what "" means.
var (
	compressions = []word[thrift2.TCompressionAlgorithm]{
		{"none", thrift2.TCompressionAlgorithm_NONE},
		{"gz", thrift2.TCompressionAlgorithm_GZ},
		{"snappy", thrift2.TCompressionAlgorithm_SNAPPY},
		{"lz4", thrift2.TCompressionAlgorithm_LZ4},
		{"zstd", thrift2.TCompressionAlgorithm_ZSTD},
		{"lzo", thrift2.TCompressionAlgorithm_LZO},
		{"bzip2", thrift2.TCompressionAlgorithm_BZIP2},
	}
	blooms = []word[thrift2.TBloomFilterType]{
		{"row", thrift2.TBloomFilterType_ROW},
		{"none", thrift2.TBloomFilterType_NONE},
		{"rowcol", thrift2.TBloomFilterType_ROWCOL},
	}
	encodings = []word[thrift2.TDataBlockEncoding]{
		{"none", thrift2.TDataBlockEncoding_NONE},
		{"prefix", thrift2.TDataBlockEncoding_PREFIX},
		{"diff", thrift2.TDataBlockEncoding_DIFF},
		{"fast_diff", thrift2.TDataBlockEncoding_FAST_DIFF},
		{"row_index_v1", thrift2.TDataBlockEncoding_ROW_INDEX_V1},
	}
)

func valueOf[T ~int64](what, name string, words []word[T]) (*T, error) {
	names := make([]string, len(words))
	for i, w := range words {
		if w.name == name || name == "" {
			return &w.value, nil
		}
		names[i] = w.name
	}
	return nil, fmt.Errorf("%s %q: want one of %s", what, name, strings.Join(names, ", "))
}

func nameOf[T interface {
	~int64
	String() string
}](value *T, words []word[T]) string {
	if value == nil {
		return words[0].name
	}
	if i := slices.IndexFunc(words, func(w word[T]) bool { return w.value == *value }); i >= 0 {
		return words[i].name
	}
	return strings.ToLower((*value).String())
}

// foreverSeconds is HBase's time to live of what never ends.
const foreverSeconds = math.MaxInt32

func (f *Family) ttlSeconds() (int32, error) {
	s := f.TTL / time.Second
	switch {
	case f.TTL == 0:
		return foreverSeconds, nil
	case f.TTL < 0 || f.TTL%time.Second != 0 || s >= foreverSeconds:
		return 0, fmt.Errorf("ttl %v: want whole seconds from 1 to %d, or 0 for ever", f.TTL, foreverSeconds-1)
	}
	return int32(s), nil
}

func (f *Family) versions() int { return max(f.Versions, 1) }

func (f *Family) thrift() (*thrift2.TColumnFamilyDescriptor, error) {
	if f.Name == "" || strings.ContainsAny(f.Name, ":/") || f.Name[0] == '.' {
		return nil, fmt.Errorf("family %q: a name has at least one letter, no ':' or '/' and no '.' at its start", f.Name)
	}
	if f.Versions < 0 || f.Versions > math.MaxInt32 {
		return nil, fmt.Errorf("family %s: versions %d: want 1 to %d", f.Name, f.Versions, math.MaxInt32)
	}
	d := thrift2.NewTColumnFamilyDescriptor()
	d.Name = []byte(f.Name)
	versions := int32(f.versions())
	d.MaxVersions = &versions
	var err error
	if d.CompressionType, err = valueOf("compression", f.Compression, compressions); err != nil {
		return nil, fmt.Errorf("family %s: %w", f.Name, err)
	}
	if d.BloomnFilterType, err = valueOf("bloom", f.Bloom, blooms); err != nil {
		return nil, fmt.Errorf("family %s: %w", f.Name, err)
	}
	if d.DataBlockEncoding, err = valueOf("encoding", f.Encoding, encodings); err != nil {
		return nil, fmt.Errorf("family %s: %w", f.Name, err)
	}
	ttl, err := f.ttlSeconds()
	if err != nil {
		return nil, fmt.Errorf("family %s: %w", f.Name, err)
	}
	d.TimeToLive = &ttl
	return d, nil
}

func familyOf(d *thrift2.TColumnFamilyDescriptor) Family {
	f := Family{
		Name:        string(d.Name),
		Versions:    max(int(d.GetMaxVersions()), 1),
		Compression: nameOf(d.CompressionType, compressions),
		Bloom:       nameOf(d.BloomnFilterType, blooms),
		Encoding:    nameOf(d.DataBlockEncoding, encodings),
	}
	if s := d.GetTimeToLive(); s > 0 && s < foreverSeconds {
		f.TTL = time.Duration(s) * time.Second
	}
	return f
}

// shell is the family in the hbase shell's words.
func (f *Family) shell() string {
	pick := func(name, unset string) string {
		if name == "" {
			name = unset
		}
		return quote([]byte(strings.ToUpper(name)))
	}
	s := fmt.Sprintf("{NAME => %s, VERSIONS => %d, COMPRESSION => %s, BLOOMFILTER => %s, DATA_BLOCK_ENCODING => %s",
		quote([]byte(f.Name)), f.versions(), pick(f.Compression, compressions[0].name), pick(f.Bloom, blooms[0].name),
		pick(f.Encoding, encodings[0].name))
	if f.TTL > 0 {
		s += fmt.Sprintf(", TTL => %d", f.TTL/time.Second)
	}
	return s + "}"
}

// quote writes bytes for the hbase shell, which reads \xNN with capital digits in split keys itself: in single quotes
// Ruby leaves them alone.
func quote(p []byte) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, c := range p {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("_-.: ", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02X`, c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}
