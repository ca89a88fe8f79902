package mapping_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/mapping"
)

func noFunction(name string) string {
	return "there is no function " + name + "; there are abs, all, any, be, ceil, concat, count, date, duration, filter, find, first, fixed, float, floor, hasPrefix, hasSuffix, hash, hex, indexOf, int, invert, join, last, lastIndexOf, len, lower, map, max, min, none, one, pad, repeat, replace, reverse, round, salt, split, str, sum, trim, trimPrefix, trimSuffix, upper"
}

func TestFaults(t *testing.T) {
	col := func(from, to string) mapping.Spec {
		return mapping.Spec{Family: "d", Columns: []mapping.Column{{From: "ok", To: "ok"}, {From: from, To: to}}}
	}
	for _, c := range []struct {
		spec        mapping.Spec
		field, want string
	}{
		{mapping.Spec{}, "family", "is missing; name the column family that the fields go to, such as d"},
		{mapping.Spec{Family: "a:b"}, "family", `"a:b" is no name for a family; it must not start with a dot nor have colons, slashes or control characters in it`},
		{mapping.Spec{Family: ".a"}, "family", `".a" is no name for a family; it must not start with a dot nor have colons, slashes or control characters in it`},
		{mapping.Spec{Family: "d", Encoding: "xml"}, "encoding", `is "xml"; write bytes, bson or json`},
		{mapping.Spec{Family: "d", KeyEncoding: "hex"}, "key_encoding", `is "hex"; write bytes, bson or json`},
		{mapping.Spec{Family: "d", Empty: "die"}, "empty", `is "die"; write dead (a document that maps to no cell is a dead letter) or skip`},
		{mapping.Spec{Family: "d", MaxRow: -1}, "max_row", `is -1; write a number of bytes, or 0 for no bound`},
		{mapping.Spec{Family: "d", Timestamp: "-5"}, "timestamp", `is -5; write 0 to 9223372036854775806 milliseconds, a field or plan`},
		{mapping.Spec{Family: "d", Timestamp: "9223372036854775807"}, "timestamp", `is 9223372036854775807; write 0 to 9223372036854775806 milliseconds, a field or plan`},
		{mapping.Spec{Family: "d", Timestamp: "99999999999999999999"}, "timestamp", `is 99999999999999999999; write 0 to 9223372036854775806 milliseconds, a field or plan`},
		{mapping.Spec{Family: "d", Timestamp: "a..b"}, "timestamp", `"a..b" has an empty name between dots; write it as a.b or a.0.b`},
		{mapping.Spec{Document: "doc"}, "document", `is "doc", without a family; write family:qualifier, or set family`},
		{mapping.Spec{Document: ":doc"}, "document", `is ":doc": the family's name is empty; give one, such as d`},
		{col("", "d:x"), "columns[1].from", "is empty; give a field name, such as _id"},
		{col("a.", "d:x"), "columns[1].from", `"a." has an empty name between dots; write it as a.b or a.0.b`},
		{col("a", ""), "columns[1].to", "is empty; write family:qualifier"},
		{col("a", "ok"), "columns[1].to", "is d:ok, where columns[0] goes already; give each its own qualifier"},
		{col("a", "d:ok"), "columns[1].to", "is d:ok, where columns[0] goes already; give each its own qualifier"},
		{mapping.Spec{Columns: []mapping.Column{{From: "a", To: "x"}}}, "columns[0].to", `is "x", without a family; write family:qualifier, or set family`},
		{mapping.Spec{Document: "d:x", Columns: []mapping.Column{{From: "a", To: "d:x"}}}, "columns[0].to", "is d:x, where document goes already; give each its own qualifier"},
		{mapping.Spec{Columns: []mapping.Column{{From: "a", To: "d:x", Encoding: "text"}}}, "columns[0].encoding", `is "text"; write bytes, bson or json`},
		{mapping.Spec{Family: "d", Key: `"constant"`}, "key", `"\"constant\"" names no field, so all documents would be one row; name at least one, such as _id`},
		{mapping.Spec{Family: "d", Key: "nosuch(_id)"}, "key", noFunction("nosuch")},
		{mapping.Spec{Family: "d", Key: "now()"}, "key", noFunction("now")},
		{mapping.Spec{Family: "d", Key: "_id | now()"}, "key", noFunction("now")},
		{mapping.Spec{Family: "d", Key: "sortBy(_id, #)[0]"}, "key", noFunction("sortBy")},
		{mapping.Spec{Family: "d", Key: "keys(_id)[0]"}, "key", noFunction("keys")},
		{mapping.Spec{Family: "d", Key: "salt(_id, 300)"}, "key", "salt takes 2 to 256, not 300"},
		{mapping.Spec{Family: "d", Key: "salt(_id, -3)"}, "key", "salt takes 2 to 256, not -3"},
		{mapping.Spec{Family: "d", Key: "hash(_id, 17)"}, "key", "hash takes 1 to 16, not 17"},
		{mapping.Spec{Family: "d", Key: "salt(_id)"}, "key", "not enough arguments to call salt (column 1)"},
		{mapping.Spec{Family: "d", Key: `pad(_id, "3")`}, "key", "cannot use string as argument (type int) to call pad  (column 10)"},
		{mapping.Spec{Family: "d", Key: "a."}, "key", "unexpected end of expression (column 2)"},
		{mapping.Spec{Family: "d", Key: "a + "}, "key", "unexpected token EOF (column 3)"},
		{mapping.Spec{Family: "d", Key: "doc"}, "", ""}, // a field of that name
		{mapping.Spec{Family: "d", Key: "doc[x]"}, "key", `doc stands for the whole document and needs a constant field name, such as doc["a b"]`},
		{mapping.Spec{Family: "d", Key: `$env["a"]`}, "key", "$env is not there; fields are reached by their names"},
		{mapping.Spec{Family: "d", Key: "a.b(c)"}, "key", "calls a.b, which is no function"},
		{mapping.Spec{Family: "d", Filter: `hex(_id) > 5`}, "filter", "invalid operation: > (mismatched types string and int) (column 10)"},
		{mapping.Spec{Family: "d", Filter: `hex(_id)`}, "filter", "gives string; a filter gives true or false, such as depth > 10"},
		{mapping.Spec{Family: "d", Filter: `1 + 1`}, "filter", "gives int; a filter gives true or false, such as depth > 10"},
		{mapping.Spec{Family: "d", Filter: `s matches "("`}, "filter", "error parsing regexp: missing closing ): `(` (column 3)"},
		{mapping.Spec{Family: "d", Filter: "a >\n> b"}, "filter", `unexpected token Operator(">") (line 2, column 1)`},
	} {
		_, err := mapping.Compile(c.spec)
		var got mapping.Faults
		if c.field != "" {
			if !errors.As(err, &got) {
				t.Errorf("%+v: no faults, but %v", c.spec, err)
				continue
			}
			if diff := cmp.Diff(mapping.Faults{{Field: c.field, Msg: c.want}}, got); diff != "" {
				t.Errorf("%+v: -want +got\n%s", c.spec, diff)
			}
		} else if err != nil {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := mapping.Compile(mapping.Spec{
		Key: "hash(", KeyEncoding: "x", Family: ":", Encoding: "y", Timestamp: "-1", Document: "e", Filter: "(", Empty: "z",
		Columns: []mapping.Column{{Encoding: "w"}},
	})
	var fs mapping.Faults
	errors.As(err, &fs)
	var got []string
	for _, f := range fs {
		got = append(got, f.Field)
	}
	want := []string{"key_encoding", "key", "encoding", "family", "timestamp", "columns[0].encoding", "columns[0].from", "columns[0].to", "filter", "empty"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
