package dumpgen

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Generator makes documents one after the other. Each depends on the options and its number alone.
type Generator struct {
	o       Options
	n       int64 // of the next document
	stats   Stats
	payload tail
	text    []byte // printable ASCII to take strings from, twice textBytes long
	noise   []byte // random bytes, as long
	process [5]byte
}

// textBytes is how many places a string can start at; a longer one is put together of several.
const textBytes = 1 << 16

// New gives a generator, or all that is wrong with the options.
func New(o Options) (*Generator, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	g := &Generator{o: o, text: make([]byte, 2*textBytes), noise: make([]byte, 2*textBytes)}
	r := random(mix(o.Seed))
	for i := 0; i < textBytes; i += 8 {
		binary.LittleEndian.PutUint64(g.noise[i:], r.next())
	}
	const letters = "etaoinshrdlucmfwypvbgkjqxz ETAOINSHRDLU 0123456789 .,-     eeaaoi"
	for i := range textBytes {
		g.text[i] = letters[g.noise[i]&63]
	}
	copy(g.text[textBytes:], g.text[:textBytes])
	copy(g.noise[textBytes:], g.noise[:textBytes])
	binary.LittleEndian.PutUint32(g.process[:], uint32(r.next()))
	g.process[4] = byte(r.next())
	g.payload = tailOf(o.AvgBytes, o.MaxBytes)
	return g, nil
}

// More tells whether there are documents left.
func (g *Generator) More() bool { return g.n < g.o.Docs }

// Stats says what was made so far.
func (g *Generator) Stats() Stats { return g.stats }

// Append appends the next document. Only while More.
func (g *Generator) Append(dst []byte) []byte {
	start := len(dst)
	i := g.n
	g.n++
	r := random(mix(g.o.Seed ^ mix(uint64(i)+1)))
	d := doc{b: append(dst, 0, 0, 0, 0)}
	g.id(&d, i)
	switch g.o.Profile {
	case Flat5:
		g.flat5(&d, &r, i)
	case KB:
		g.kb(&d, &r, start)
	case Every:
		g.every(&d, &r, i)
	case Big:
		g.big(&d, &r, i)
	}
	d.b = append(d.b, 0)
	c := int64(g.o.Corrupt)
	if (i+1)*c/g.o.Docs > i*c/g.o.Docs {
		d.corrupt(start, &r)
		g.stats.Corrupt++
	}
	binary.LittleEndian.PutUint32(d.b[start:], uint32(len(d.b)-start))
	g.stats.Docs++
	g.stats.Bytes += int64(len(d.b) - start)
	return d.b
}

// perSecond is how many documents share the seconds of an ObjectID.
const perSecond = 1000

// epoch is the first document's time in seconds, 2024-01-01.
const epoch = 1_704_067_200

func (g *Generator) id(d *doc, i int64) {
	kind := g.o.ID
	if kind == Mixed {
		kind = IDs[i%3]
	}
	switch kind {
	case Int:
		d.int64("_id", i)
	case String:
		d.head(0x02, "_id")
		d.b = binary.LittleEndian.AppendUint32(d.b, 17)
		const digits = "0123456789abcdef"
		// mix is a bijection, so the digits are unique.
		for v, s := mix(uint64(i)^g.o.Seed), 60; s >= 0; s -= 4 {
			d.b = append(d.b, digits[v>>s&15])
		}
		d.b = append(d.b, 0)
	default:
		d.objectID("_id", g.objectID(i))
	}
}

func (g *Generator) objectID(i int64) (id [12]byte) {
	binary.BigEndian.PutUint32(id[:], uint32(epoch+i/perSecond))
	copy(id[4:], g.process[:])
	id[9], id[10], id[11] = byte(i>>16), byte(i>>8), byte(i)
	return id
}

// idBytes is the size of the nth _id's value under the bytes encoding.
func (g *Generator) idBytes(i int64) int {
	kind := g.o.ID
	if kind == Mixed {
		kind = IDs[i%3]
	}
	switch kind {
	case Int:
		return 8
	case String:
		return 16
	}
	return 12
}

// flat5 makes values of 200 bytes together: the _id, 8, 8, 60, and the rest.
func (g *Generator) flat5(d *doc, r *random, i int64) {
	d.int64("n", int64(r.next()))
	d.date("at", g.date(r))
	d.string("name", g.text, r, 60)
	d.string("note", g.text, r, 200-8-8-60-g.idBytes(i))
}

func (g *Generator) kb(d *doc, r *random, start int) {
	size := g.o.AvgBytes - g.o.AvgBytes/8 + r.below(max(1, g.o.AvgBytes/4))
	if g.o.Skew {
		size = g.payload.size(r)
	}
	d.string("name", g.text, r, 12+r.below(12))
	d.string("email", g.text, r, 16+r.below(12))
	d.string("city", g.text, r, 6+r.below(12))
	d.bool("active", r.below(2) == 1)
	d.int32("age", int32(r.below(100)))
	d.double("balance", float64(int64(r.next()>>24))/100)
	d.date("created", g.date(r))
	at := d.open(0x03, "address")
	d.string("street", g.text, r, 20)
	d.int32("number", int32(r.below(300)))
	d.string("zip", g.text, r, 5)
	d.end(at)
	at = d.open(0x04, "tags")
	for _, name := range indexes[:r.below(4)] {
		d.string(name, g.text, r, 8)
	}
	d.end(at)
	const around = 4 + 1 + len("about\x00") + 1 + 1 // of the last string, and the document's end
	d.string("about", g.text, r, max(0, size-(len(d.b)-start)-around))
}

func (g *Generator) big(d *doc, r *random, i int64) {
	d.int64("n", i)
	d.string("name", g.text, r, 20)
	d.binary("data", 0, g.noise, r, g.payload.size(r))
}

// indexes are the first array element names.
var indexes = [...]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}

// every makes a field of each BSON type, some with edge values.
func (g *Generator) every(d *doc, r *random, i int64) {
	doubles := [...]float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), math.MaxFloat64, math.SmallestNonzeroFloat64, 1.5}
	d.double("double", doubles[r.below(len(doubles))])
	words := [...]string{"", "å ∑ 漢字 😀", "a\x00b", "plain", "\"quoted\" \\ \n"}
	d.text("string", words[r.below(len(words))])
	at := d.open(0x03, "document")
	d.int32("a", int32(r.next()))
	inner := d.open(0x03, "b")
	d.string("c", g.text, r, r.below(20))
	d.null("d")
	d.end(inner)
	d.end(at)
	at = d.open(0x04, "array")
	for k, name := range indexes[:r.below(len(indexes))] {
		if k%2 == 0 {
			d.int64(name, int64(r.next()))
		} else {
			d.string(name, g.text, r, r.below(9))
		}
	}
	d.end(at)
	subtypes := [...]byte{0, 1, 5, 6, 0x80, 0xff}
	d.binary("binary", subtypes[r.below(len(subtypes))], g.noise, r, r.below(40))
	d.binary("uuid", 4, g.noise, r, 16)
	d.oldBinary("old_binary", g.noise, r, r.below(20))
	d.head(0x06, "undefined")
	d.objectID("object_id", g.objectID(i^1))
	d.bool("bool", r.below(2) == 1)
	dates := [...]int64{0, -1, math.MinInt64, math.MaxInt64, g.date(r), g.date(r)}
	d.date("date", dates[r.below(len(dates))])
	d.null("null")
	d.regex("regex", "^a[0-9]+$", "im")
	d.pointer("db_pointer", "shop.orders", g.objectID(i))
	d.textAs(0x0d, "javascript", "function() { return 1; }")
	d.textAs(0x0e, "symbol", "sym")
	d.scoped("code_with_scope", "x + y", int32(r.next()))
	ints := [...]int32{0, -1, math.MinInt32, math.MaxInt32, int32(r.next())}
	d.int32("int32", ints[r.below(len(ints))])
	d.head(0x11, "timestamp")
	d.b = binary.LittleEndian.AppendUint64(d.b, r.next())
	longs := [...]int64{0, -1, math.MinInt64, math.MaxInt64, int64(r.next())}
	d.int64("int64", longs[r.below(len(longs))])
	// Exponent and sign first, then 113 bits: 0, 1.5, infinity, not a number, and the largest there is.
	decimals := [...][2]uint64{
		{0x3040000000000000, 0},
		{0x303e000000000000, 15},
		{0x7800000000000000, 0},
		{0x7c00000000000000, 0},
		{0x5fffed09bead87c0, 0x378d8e63ffffffff},
	}
	x := decimals[r.below(len(decimals))]
	d.head(0x13, "decimal128")
	d.b = binary.LittleEndian.AppendUint64(d.b, x[1])
	d.b = binary.LittleEndian.AppendUint64(d.b, x[0])
	d.head(0xff, "min_key")
	d.head(0x7f, "max_key")
	d.string("payload", g.text, r, g.payload.size(r))
}

// date is a time in the twenty years before the epoch, in milliseconds.
func (g *Generator) date(r *random) int64 {
	return epoch*1000 - int64(r.next()%(20*365*86400*1000))
}

// tail is a heavy-tailed distribution of sizes: each doubling is half as likely, up to a bound.
type tail struct {
	base, levels, top int
}

// tailOf gives the distribution with about this average: each level adds three quarters of the base to it.
func tailOf(avg, top int) tail {
	base := max(1, min(avg, top))
	t := tail{top: top}
	for range 8 {
		t.base = base
		t.levels = max(1, bits.Len(uint(top/base)))
		base = max(1, avg*4/(3*t.levels))
	}
	return t
}

func (t tail) size(r *random) int {
	v := r.next()
	level := min(bits.TrailingZeros64(v), t.levels-1)
	low := t.base << level
	return min(t.top, low+int(v>>32)%low)
}

// random is a splitmix64 sequence: fast, and the same for ever, which the standard library does not promise of all its own.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	return mix(uint64(*r))
}

// below gives a number in [0, n).
func (r *random) below(n int) int {
	hi, _ := bits.Mul64(r.next(), uint64(n))
	return int(hi)
}

// mix is the finisher of splitmix64, a bijection.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
