package mapping

import (
	"bytes"
	"encoding/hex"
	"math"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"pgregory.net/rapid"

	"drover/hbase"
	"drover/jobs"
)

var testID = bson.ObjectID{0x50, 0x7f, 0x1f, 0x77, 0xbc, 0xf8, 0x6c, 0xd7, 0x99, 0x43, 0x90, 0x11}

// none says that there is no cell.
const none = "none"

func decimalOf(s string) bson.Decimal128 {
	d, err := bson.ParseDecimal128(s)
	if err != nil {
		panic(err)
	}
	return d
}

// encodings has every BSON type under each encoding. Bytes and BSON are in hexadecimal, but for text after "=".
var encodings = []struct {
	typ               string
	value             any
	bytes, bson, json string
}{
	{"double", 1.5, "3ff8000000000000", "01 000000000000f83f", `{"$numberDouble":"1.5"}`},
	{"double", 0.0, "0000000000000000", "01 0000000000000000", `{"$numberDouble":"0.0"}`},
	{"double", math.Copysign(0, -1), "8000000000000000", "01 0000000000000080", `{"$numberDouble":"-0.0"}`},
	{"double", math.Inf(-1), "fff0000000000000", "01 000000000000f0ff", `{"$numberDouble":"-Infinity"}`},
	{"double", 1e300, "7e37e43c8800759c", "01 9c7500883ce4377e", `{"$numberDouble":"1E+300"}`},
	{"string", "héy\n", "68c3a9790a", "02 06000000 68c3a9790a 00", `"héy\n"`},
	{"string", "", "", "02 01000000 00", `""`},
	{
		"document",
		bson.D{{Key: "a", Value: int32(1)}, {Key: "b", Value: nil}},
		`={"a":{"$numberInt":"1"},"b":null}`,
		"03 0f000000 10 6100 01000000 0a 6200 00", `{"a":{"$numberInt":"1"},"b":null}`,
	},
	{"document", bson.D{}, `={}`, "03 05000000 00", `{}`},
	{"array", bson.A{true, "x"}, `=[true,"x"]`, "04 12000000 08 3000 01 02 3100 02000000 7800 00", `[true,"x"]`},
	{"array", bson.A{}, `=[]`, "04 05000000 00", `[]`},
	{"binary(0)", bson.Binary{Data: []byte{1, 2}}, "0102", "05 02000000 00 0102", `{"$binary":{"base64":"AQI=","subType":"00"}}`},
	{"binary(0)", bson.Binary{}, "", "05 00000000 00", `{"$binary":{"base64":"","subType":"00"}}`},
	{"binary(4)", bson.Binary{Subtype: 4, Data: []byte("0123456789abcdef")}, "=0123456789abcdef", "05 10000000 04 30313233343536373839616263646566", `{"$binary":{"base64":"MDEyMzQ1Njc4OWFiY2RlZg==","subType":"04"}}`},
	{"binary(2)", bson.Binary{Subtype: 2, Data: []byte{1, 2}}, "0102", "05 06000000 02 02000000 0102", `{"$binary":{"base64":"AQI=","subType":"02"}}`},
	{"undefined", bson.Undefined{}, `={"$undefined":true}`, "06", `{"$undefined":true}`},
	{"objectId", testID, "507f1f77bcf86cd799439011", "07 507f1f77bcf86cd799439011", `{"$oid":"507f1f77bcf86cd799439011"}`},
	{"bool", true, "ff", "08 01", "true"},
	{"bool", false, "00", "08 00", "false"},
	{"date", bson.DateTime(1356351330501), "0000013bccd6d8c5", "09 c5d8d6cc3b010000", `{"$date":{"$numberLong":"1356351330501"}}`},
	{"date", bson.DateTime(-1), "ffffffffffffffff", "09 ffffffffffffffff", `{"$date":{"$numberLong":"-1"}}`},
	{"null", nil, none, "0a", "null"},
	{"regex", bson.Regex{Pattern: "a/b", Options: "im"}, `={"$regularExpression":{"pattern":"a/b","options":"im"}}`, "0b 612f6200 696d00", `{"$regularExpression":{"pattern":"a/b","options":"im"}}`},
	{"dbPointer", bson.DBPointer{DB: "d.c", Pointer: testID}, `={"$dbPointer":{"$ref":"d.c","$id":{"$oid":"507f1f77bcf86cd799439011"}}}`, "0c 04000000 642e6300 507f1f77bcf86cd799439011", `{"$dbPointer":{"$ref":"d.c","$id":{"$oid":"507f1f77bcf86cd799439011"}}}`},
	{"code", bson.JavaScript("f()"), `={"$code":"f()"}`, "0d 04000000 66282900", `{"$code":"f()"}`},
	{"symbol", bson.Symbol("s"), `={"$symbol":"s"}`, "0e 02000000 7300", `{"$symbol":"s"}`},
	{
		"codeWithScope",
		bson.CodeWithScope{Code: "f()", Scope: bson.D{{Key: "x", Value: true}}},
		`={"$code":"f()","$scope":{"x":true}}`,
		"0f 15000000 04000000 66282900 09000000 08 7800 01 00", `{"$code":"f()","$scope":{"x":true}}`,
	},
	{"int32", int32(-2), "fffffffe", "10 feffffff", `{"$numberInt":"-2"}`},
	{"timestamp", bson.Timestamp{T: 5, I: 7}, "0000000500000007", "11 07000000 05000000", `{"$timestamp":{"t":5,"i":7}}`},
	{"int64", int64(1) << 40, "0000010000000000", "12 0000000000010000", `{"$numberLong":"1099511627776"}`},
	{"decimal128", decimalOf("1.00"), "=1.00", "13 6400000000000000 0000000000003c30", `{"$numberDecimal":"1.00"}`},
	{"decimal128", decimalOf("-1.5E+10"), "=-1.5E+10", "13 0f00000000000000 00000000000052b0", `{"$numberDecimal":"-1.5E+10"}`},
	{"decimal128", decimalOf("NaN"), "=NaN", "13 0000000000000000 000000000000007c", `{"$numberDecimal":"NaN"}`},
	{"minKey", bson.MinKey{}, `={"$minKey":1}`, "ff", `{"$minKey":1}`},
	{"maxKey", bson.MaxKey{}, `={"$maxKey":1}`, "7f", `{"$maxKey":1}`},
}

func TestEncodings(t *testing.T) {
	seen := map[byte]bool{}
	for _, c := range encodings {
		raw, err := bson.Marshal(bson.D{{Key: "v", Value: c.value}})
		if err != nil {
			t.Fatal(err)
		}
		typ, v := raw[4], raw[7:len(raw)-1]
		seen[typ] = true
		if got := typeName(typ, v); got != c.typ {
			t.Errorf("type name of %v: got %s, want %s", c.value, got, c.typ)
		}
		for enc, want := range map[Encoding]string{Bytes: c.bytes, BSON: c.bson, JSON: "=" + c.json} {
			m, err := Compile(Spec{Key: "k", Family: "d", Encoding: enc, Columns: []Column{{From: "v", To: "v"}, {From: "k", To: "k"}}})
			if err != nil {
				t.Fatal(err)
			}
			doc, err := bson.Marshal(bson.D{{Key: "k", Value: "key"}, {Key: "v", Value: c.value}})
			if err != nil {
				t.Fatal(err)
			}
			b := hbase.AcquireBatch(hbase.SyncWAL)
			if o, why := m.Mapper("", 1, "").Map(doc, func([]byte) *hbase.Batch { return b }); o != jobs.Mapped {
				t.Fatalf("%s as %s: %s", c.typ, enc, why)
			}
			got := none
			for _, cell := range b.Row(0).Cells {
				if string(cell.Qualifier) == "v" {
					got = string(cell.Value)
				}
			}
			if want != none {
				want = unhex(want)
			}
			if got != want {
				t.Errorf("%s %v as %s: got %q, want %q", c.typ, c.value, enc, got, want)
			}
			b.Release()
		}
	}
	for typ, name := range typeNames {
		if name != "" && !seen[byte(typ)] {
			t.Errorf("the table has no %s", name)
		}
	}
}

func unhex(s string) string {
	if text, ok := strings.CutPrefix(s, "="); ok {
		return text
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestTypeNames(t *testing.T) {
	for typ, name := range typeNames {
		if name == "" || typ == tBinary {
			continue
		}
		if got, _ := typeNamed(name); got != byte(typ) {
			t.Errorf("type named %s: got 0x%02x, want 0x%02x", name, got, typ)
		}
	}
	if typ, sub := typeNamed("binary(128)"); typ != tBinary || sub != 128 {
		t.Errorf("type named binary(128): got 0x%02x, %d", typ, sub)
	}
}

// values draws a value of any BSON type.
func values(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		most := 20
		if depth == 0 {
			most = 17
		}
		str := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\"\\/<>&'", "\u2028\u2029\x7f", "\b\f\n\r\t\x01", "日本"}))
		var id bson.ObjectID
		for i := range id {
			id[i] = rapid.Byte().Draw(t, "id")
		}
		switch rapid.IntRange(0, most).Draw(t, "type") {
		case 0:
			return rapid.Float64().Draw(t, "v")
		case 1:
			return rapid.SampledFrom([]float64{0, 1, -1, 1e20, 1e21, 1e22, 1e-7, 123456789, math.NaN(), math.Inf(1), math.MaxFloat64, 5e-324}).Draw(t, "v")
		case 2:
			return str.Draw(t, "v")
		case 3:
			sub := rapid.Byte().Draw(t, "sub")
			least := 0
			if sub == oldBinary {
				least = 1 // the driver leaves the inner length of an empty one in its payload
			}
			return bson.Binary{Subtype: sub, Data: rapid.SliceOfN(rapid.Byte(), least, 9).Draw(t, "v")}
		case 4:
			return bson.Undefined{}
		case 5:
			return id
		case 6:
			return rapid.Bool().Draw(t, "v")
		case 7:
			return bson.DateTime(rapid.Int64().Draw(t, "v"))
		case 8:
			return nil
		case 9:
			return bson.Regex{Pattern: strings.ReplaceAll(str.Draw(t, "v"), "\x00", ""), Options: rapid.StringMatching(`[a-z]{0,4}`).Draw(t, "o")}
		case 10:
			return bson.DBPointer{DB: rapid.StringMatching(`[a-zß.]{0,8}`).Draw(t, "v"), Pointer: id}
		case 11:
			return bson.JavaScript(str.Draw(t, "v"))
		case 12:
			return bson.Symbol(str.Draw(t, "v"))
		case 13:
			return rapid.Int32().Draw(t, "v")
		case 14:
			return bson.Timestamp{T: rapid.Uint32().Draw(t, "t"), I: rapid.Uint32().Draw(t, "i")}
		case 15:
			return rapid.Int64().Draw(t, "v")
		case 16:
			return decimals().Draw(t, "v")
		case 17:
			return rapid.SampledFrom([]any{bson.MinKey{}, bson.MaxKey{}}).Draw(t, "v")
		case 18:
			return documents(depth-1).Draw(t, "v")
		case 19:
			return bson.A(rapid.SliceOfN(values(depth-1), 0, 4).Draw(t, "v"))
		default:
			return bson.CodeWithScope{Code: bson.JavaScript(str.Draw(t, "v")), Scope: documents(depth-1).Draw(t, "s")}
		}
	})
}

func documents(depth int) *rapid.Generator[bson.D] {
	return rapid.Custom(func(t *rapid.T) bson.D {
		d := bson.D{}
		for _, name := range rapid.SliceOfNDistinct(rapid.String(), 0, 5, rapid.ID[string]).Draw(t, "names") {
			d = append(d, bson.E{Key: strings.ReplaceAll(name, "\x00", "0"), Value: values(depth).Draw(t, name)})
		}
		return d
	})
}

// decimals draws any 128 bits, and such as have exponents and coefficients of every size.
func decimals() *rapid.Generator[bson.Decimal128] {
	return rapid.Custom(func(t *rapid.T) bson.Decimal128 {
		h, l := rapid.Uint64().Draw(t, "h"), rapid.Uint64().Draw(t, "l")
		if rapid.Bool().Draw(t, "plain") {
			h = uint64(6176+rapid.IntRange(-45, 12).Draw(t, "exp"))<<49 | h&(1<<rapid.IntRange(0, 49).Draw(t, "high")-1)
			l &= 1<<rapid.IntRange(0, 63).Draw(t, "low") - 1
		}
		return bson.NewDecimal128(h, l)
	})
}

func TestJSONIsTheDrivers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw, err := bson.Marshal(documents(3).Draw(t, "doc"))
		if err != nil {
			t.Skip(err)
		}
		want, err := bson.MarshalExtJSON(bson.Raw(raw), true, false)
		if err != nil {
			t.Skip(err)
		}
		got, why := appendJSON(nil, tDocument, raw, hbase.MaxCellBytes)
		if why != "" || !bytes.Equal(got, want) {
			t.Fatalf("got %s %s\nwant %s", got, why, want)
		}
		if end, why := checkDocument(raw, 0, len(raw), 0); end != len(raw) || why != "" {
			t.Fatalf("check ends at %d of %d: %s", end, len(raw), why)
		}
		if end := skip(raw, 0, tDocument); end != len(raw) {
			t.Fatalf("skip ends at %d of %d", end, len(raw))
		}
	})
}

func TestDecimalIsTheDrivers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := decimals().Draw(t, "d")
		raw, err := bson.Marshal(bson.D{{Key: "", Value: d}})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendDecimal(nil, raw[6:22])); got != d.String() {
			t.Fatalf("got %s, want %s", got, d)
		}
	})
}

// An old empty binary, and a namespace that needs escapes, are where the driver's JSON is not the value.
func TestJSONBeyondTheDriver(t *testing.T) {
	got, _ := appendJSON(nil, tBinary, []byte{4, 0, 0, 0, 2, 0, 0, 0, 0}, 100)
	if want := `{"$binary":{"base64":"","subType":"02"}}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got, _ = appendJSON(nil, tDBPointer, append([]byte("\x02\x00\x00\x00\"\x00"), testID[:]...), 100)
	if want := `{"$dbPointer":{"$ref":"\"","$id":{"$oid":"507f1f77bcf86cd799439011"}}}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
