package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
)

// entry is a gateway as JSON has it: the data of a node, or an element of a file.
type entry struct {
	OK      *bool       `json:"ok"`
	Addr    string      `json:"addr"`
	Address string      `json:"address"`
	Host    string      `json:"host"`
	Port    json.Number `json:"port"`
	Name    string      `json:"name"`
	Zone    string      `json:"zone"`
	Reason  string      `json:"reason"` // why it is not ok
	Out     string      `json:"out"`    // the same, as drover writes it
}

// addr is the address that the entry names; "" when it names none.
func (e entry) addr() (string, error) {
	switch {
	case e.Addr != "":
		return ParseAddr(e.Addr)
	case e.Address != "":
		return ParseAddr(e.Address)
	case e.Host != "" && e.Port != "":
		return ParseAddr(net.JoinHostPort(strings.Trim(e.Host, "[]"), e.Port.String()))
	case e.Host != "" || e.Port != "":
		return "", errors.New("has one of host and port; want both")
	}
	return "", nil
}

// out is why the entry is not to be used, "" when it may be.
func (e entry) out() string {
	switch {
	case e.Out != "":
		return e.Out
	case e.OK != nil && !*e.OK && e.Reason != "":
		return "ok is false: " + e.Reason
	case e.OK != nil && !*e.OK:
		return "ok is false"
	}
	return ""
}

// parseData reads a node's data: a JSON object, or host:port. The error is why it cannot be used.
func parseData(data []byte) (entry, error) {
	const want = `want {"ok": true}, or host:port`
	data = bytes.TrimSpace(data)
	switch {
	case len(data) == 0:
		return entry{}, errors.New("its data is empty; " + want)
	case data[0] == '{':
		var e entry
		if err := json.Unmarshal(data, &e); err != nil {
			return entry{}, fmt.Errorf("its data %s is not sound JSON: %w", excerpt(data), plainJSON(err))
		}
		if e.OK == nil && e.Addr == "" && e.Address == "" && e.Host == "" {
			return entry{}, fmt.Errorf("its data %s has neither ok nor an address; %s", excerpt(data), want)
		}
		return e, nil
	}
	addr, err := ParseAddr(string(data))
	if err != nil {
		return entry{}, fmt.Errorf("its data is %s; %s", excerpt(data), want)
	}
	return entry{Addr: addr}, nil
}

// plainJSON is the error in the words of who wrote the JSON.
func plainJSON(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field != "" {
		return fmt.Errorf("%s is a %s, which it cannot be", e.Field, e.Value)
	}
	return err
}

// excerpt quotes the start of what may be anything.
func excerpt(data []byte) string {
	const most = 60
	if len(data) > most {
		return fmt.Sprintf("%q…", data[:most])
	}
	return fmt.Sprintf("%q", data)
}

// ParseFile reads the gateways of a file: JSON, that is a list of addresses or of objects, or an object with such a list under
// "gateways"; or else text with a host:port on each line and comments behind #. Each line of a text has its end: one that
// lacks it may be half written. A file that names no gateway is an error.
func ParseFile(data []byte) ([]Gateway, error) {
	var gs []Gateway
	var err error
	switch text := bytes.TrimSpace(data); {
	case len(text) == 0:
		return nil, errors.New("it is empty")
	case text[0] == '{':
		var object struct {
			Gateways []json.RawMessage `json:"gateways"`
		}
		if err := json.Unmarshal(text, &object); err != nil {
			return nil, fmt.Errorf("it is not sound JSON: %w", plainJSON(err))
		}
		gs, err = parseElements(object.Gateways)
	case isList(text):
		var list []json.RawMessage
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, fmt.Errorf("it is not sound JSON: %w", plainJSON(err))
		}
		gs, err = parseElements(list)
	default:
		gs, err = parseLines(data)
	}
	if err != nil {
		return nil, err
	}
	if len(gs) == 0 {
		return nil, errors.New("it names no gateway")
	}
	return unique(gs), nil
}

// isList tells a JSON list from the brackets of an IPv6 address.
func isList(text []byte) bool {
	if text[0] != '[' {
		return false
	}
	rest := bytes.TrimSpace(text[1:])
	return len(rest) == 0 || bytes.IndexByte([]byte(`"{]`), rest[0]) >= 0
}

func parseElements(list []json.RawMessage) ([]Gateway, error) {
	var gs []Gateway
	for i, raw := range list {
		var e entry
		var err error
		if raw[0] == '"' {
			err = json.Unmarshal(raw, &e.Addr)
		} else {
			err = json.Unmarshal(raw, &e)
		}
		g := Gateway{Name: e.Name, Zone: e.Zone, Out: e.out()}
		if err == nil {
			if g.Addr, err = e.addr(); err == nil && g.Addr == "" {
				err = errors.New("has no addr")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("gateway %d: %w", i+1, plainJSON(err))
		}
		gs = append(gs, g)
	}
	return gs, nil
}

func parseLines(data []byte) ([]Gateway, error) {
	var gs []Gateway
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if !bytes.HasSuffix(line, []byte("\n")) {
			return nil, fmt.Errorf("line %d has no line end: the file may be half written; end it with one", n)
		}
		text, _, _ := bytes.Cut(line, []byte("#"))
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		addr, err := ParseAddr(string(text))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		gs = append(gs, Gateway{Addr: addr})
	}
	return gs, nil
}
