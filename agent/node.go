package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"drover/zookeeper"
)

// data is the JSON object of a node, its fields in order and their values as they stand.
type data []field

type field struct {
	name  string
	value json.RawMessage
}

// parseData reads a node's data. None at all is an object without fields.
func parseData(raw []byte) (data, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	start, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("it is no JSON: %w", err)
	}
	if start != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	var d data
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("it is no sound JSON: %w", err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("it is no sound JSON: %w", err)
		}
		// Of a name that stands twice, readers take the last value.
		d = append(d.without(name.(string)), field{name.(string), value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("it is no sound JSON: %w", err)
	}
	if dec.More() {
		return nil, errors.New("there is more behind its JSON object")
	}
	return d, nil
}

func (d data) without(name string) data {
	return slices.DeleteFunc(slices.Clone(d), func(f field) bool { return f.name == name })
}

// with sets a field, where it stands or else at the end.
func (d data) with(name string, value any) data {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(err) // bools and strings only
	}
	d = slices.Clone(d)
	for i := range d {
		if d[i].name == name {
			d[i].value = raw
			return d
		}
	}
	return append(d, field{name, raw})
}

// ok is what the node says. A node that says nothing is taken as clients take it: an address alone is one to use.
func (d data) ok() (bool, error) {
	for _, f := range d {
		if f.name == "ok" {
			var ok bool
			if err := json.Unmarshal(f.value, &ok); err != nil {
				return false, fmt.Errorf("its ok is %.40q, and neither true nor false", f.value)
			}
			return ok, nil
		}
	}
	return len(d) > 0, nil
}

// bytes gives the object. One that has ok alone is exactly {"ok": true} or {"ok": false}, as some clients compare it.
func (d data) bytes() []byte {
	out := []byte("{")
	for i, f := range d {
		if i > 0 {
			out = append(out, ", "...)
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			panic(err) // it was read from JSON, or is ours
		}
		out = append(out, name...)
		out = append(out, ": "...)
		out = append(out, f.value...)
	}
	return append(out, '}')
}

// rewrite gives a node's data that says ok or not. Its other fields stay; reason, unless it is "", stands beside a false one.
func rewrite(raw []byte, ok bool, reason string) ([]byte, error) {
	d, err := parseData(raw)
	if err != nil {
		return nil, err
	}
	if len(d) == 0 {
		d = data{}
	}
	d = d.with("ok", ok)
	if reason != "" {
		if ok {
			d = d.without("reason")
		} else {
			d = d.with("reason", reason)
		}
	}
	return d.bytes(), nil
}

// mark identifies one writing of a node: another node at the same path has another Czxid, another writing another version.
type mark struct {
	Czxid   int64 `json:"czxid"`
	Version int32 `json:"version"`
}

func markOf(s zookeeper.Stat) mark { return mark{s.Czxid, s.Version} }

// memory is what the agent wrote last, and what it is about to write. It is kept in a file, so that an agent that starts again
// tells its own false from that of a person.
type memory struct {
	Path string `json:"path"`
	Own  *mark  `json:"own,omitempty"`

	// Intent is a write that was sent and of which no answer is known: the version it replaces, -1 for a node that is created,
	// and the data.
	Intent *intent `json:"intent,omitempty"`
}

type intent struct {
	Czxid   int64  `json:"czxid"`
	Version int32  `json:"version"`
	Data    string `json:"data"`
}

// wrote tells whether what stands is the agent's own.
func (m memory) wrote(n zookeeper.Node) bool {
	if m.Own != nil && *m.Own == markOf(n.Stat) {
		return true
	}
	i := m.Intent
	return i != nil && n.Stat.Version == i.Version+1 && string(n.Data) == i.Data && (i.Version < 0 || n.Stat.Czxid == i.Czxid)
}

// doing is what is to be done about a node.
type doing int

const (
	leave doing = iota
	write
	create
)

// stance is what is known of the node, and what may be done about it.
type stance struct {
	doing doing
	data  []byte // to be written or created
	held  string // why the node is left as it is though the agent would have it otherwise; "" when it is not
}

// facts decide about a node.
type facts struct {
	node   zookeeper.Node
	memory memory
	want   bool   // what the node is to say
	reason string // to stand beside a false one; "" is none
	create bool   // a node that is missing may be created
	seen   bool   // there was one, which is gone
}

// decide says what to do. The present node's version is the condition of a write, so that it is decided by what stands then.
func decide(f facts) stance {
	if !f.node.Exists {
		switch {
		case f.seen:
			return stance{held: "its node was deleted: it stays so until the agent is started again"}
		case !f.create:
			return stance{held: "there is no node: create it, or let the agent do so with --create"}
		case !f.want:
			return stance{}
		}
		fresh, _ := rewrite(nil, true, "")
		return stance{doing: create, data: fresh}
	}
	d, err := parseData(f.node.Data)
	if err != nil {
		return stance{held: fmt.Sprintf("its data %.60q cannot be kept: %v", f.node.Data, err)}
	}
	says, err := d.ok()
	if err != nil {
		return stance{held: err.Error()}
	}
	if len(d) > 0 && says == f.want {
		return stance{}
	}
	if !says && len(d) > 0 && !f.memory.wrote(f.node) {
		return stance{held: "somebody else set ok to false, and only they take it back"}
	}
	text, err := rewrite(f.node.Data, f.want, f.reason)
	if err != nil {
		return stance{held: err.Error()}
	}
	return stance{doing: write, data: text}
}
