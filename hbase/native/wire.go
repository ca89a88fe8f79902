package native

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"drover/hbase"
)

// A lane is a socket between parent and child that has one request on its way at a time: the length of a JSON request, 4 bytes
// big-endian, and the request. Its answer is frames, each a kind, 1 byte, and the length of what follows, 4 bytes: any number of
// frameWait, each of which says that the child is at work and no more, and one of the others.
const (
	frameWait  = 'w' // nothing follows
	framePage  = 'p' // flags, 1 byte · need, 4 · number of rows, 4 · length of each row, 4 · the rows, packed
	frameValue = 'v' // JSON
	frameError = 'e' // an answerError in JSON

	frameHead = 1 + 4
	pageHead  = 1 + 4 + 4

	flagMore = 1

	// largestRequest bounds what a child takes: keys and columns.
	largestRequest = 16 << 20
	// largestValue bounds an answer that is no page: regions by the ten thousand.
	largestValue = 256 << 20
)

// What a request asks for.
const (
	opPage     = "page"     // *hbase.Page
	opRegions  = "regions"  // []hbase.Region
	opCluster  = "cluster"  // Cluster
	opDescribe = "describe" // []hbase.Family; none for a table that does not exist
)

type request struct {
	Op    string `json:"op"`
	Table string `json:"table,omitempty"`

	// Of a page. What is not in spec may differ between pages of one scan.
	Spec  spec   `json:"spec"`
	Start []byte `json:"start,omitempty"`
	Rows  int    `json:"rows,omitempty"`
	Limit int    `json:"limit,omitempty"` // bytes of packed rows; 0 is none
	// Once says that no page is likely to follow this one.
	Once bool `json:"once,omitempty"`

	// Millis is how long one call to HBase may take.
	Millis int64 `json:"millis"`
}

// spec is a hbase.Scan without its start.
type spec struct {
	Stop     []byte   `json:"stop,omitempty"`
	Columns  []column `json:"columns,omitempty"`
	Versions int      `json:"versions,omitempty"`
	From     int64    `json:"from,omitempty"`
	To       int64    `json:"to,omitempty"`
	Raw      bool     `json:"raw,omitempty"`
	Filter   string   `json:"filter,omitempty"`
	Reversed bool     `json:"reversed,omitempty"`
}

type column struct {
	Family    []byte `json:"f"`
	Qualifier []byte `json:"q"` // null is the whole family
}

func specOf(s *hbase.Scan) spec {
	out := spec{
		Stop: s.Stop, Versions: max(s.MaxVersions, 1), From: s.TimeRange.From, To: s.TimeRange.To,
		Raw: s.Raw, Filter: s.Filter, Reversed: s.Reversed,
	}
	for i := range s.Columns {
		f, q := s.Columns[i].Names()
		out.Columns = append(out.Columns, column{f, q})
	}
	return out
}

// answerError is an error that the child met.
type answerError struct {
	Text  string `json:"text"`
	Final bool   `json:"final,omitempty"` // asking again is of no use
	Fresh bool   `json:"fresh,omitempty"` // an open scanner is gone: asking again at once opens another
}

func writeRequest(w io.Writer, r *request) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(body) > largestRequest {
		return fmt.Errorf("request of %d bytes: at most %d", len(body), largestRequest)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...))
	return err
}

func readRequest(r io.Reader, q *request) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > largestRequest {
		return fmt.Errorf("request of %d bytes: at most %d", n, largestRequest)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	*q = request{}
	return json.Unmarshal(body, q)
}

func putFrameHead(p []byte, kind byte, n int) {
	p[0] = kind
	binary.BigEndian.PutUint32(p[1:], uint32(n))
}

func writeValue(w io.Writer, kind byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	p := make([]byte, frameHead, frameHead+len(body))
	putFrameHead(p, kind, len(body))
	_, err = w.Write(append(p, body...))
	return err
}

func readFrameHead(r io.Reader) (kind byte, n int, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	return head[0], int(binary.BigEndian.Uint32(head[1:])), nil
}

func readValue(r io.Reader, n int, v any) error {
	if n > largestValue {
		return fmt.Errorf("answer of %d bytes: at most %d", n, largestValue)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// readPage reads what follows the head of a framePage.
func readPage(r io.Reader, n int, page *hbase.Page, scratch *scratch) error {
	var head [pageHead]byte
	if n < pageHead {
		return fmt.Errorf("page of %d bytes", n)
	}
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	rows := int(binary.BigEndian.Uint32(head[5:]))
	left := n - pageHead
	if rows > left/4 {
		return fmt.Errorf("page of %d bytes with %d rows", n, rows)
	}
	raw := scratch.bytes(4 * rows)
	if _, err := io.ReadFull(r, raw); err != nil {
		return err
	}
	left -= len(raw)
	scratch.sizes = scratch.sizes[:0]
	for ; len(raw) > 0; raw = raw[4:] {
		size := int(binary.BigEndian.Uint32(raw))
		if size > left {
			return fmt.Errorf("page of %d bytes has a row of %d", n, size)
		}
		left -= size
		scratch.sizes = append(scratch.sizes, size)
	}
	if left != 0 {
		return fmt.Errorf("page of %d bytes with %d that are no row's", n, left)
	}
	if err := page.Fill(r, scratch.sizes); err != nil {
		return err
	}
	page.More = head[0]&flagMore != 0
	page.Need = int(binary.BigEndian.Uint32(head[1:]))
	return nil
}

// scratch is kept from page to page.
type scratch struct {
	buf   []byte
	sizes []int
}

func (s *scratch) bytes(n int) []byte {
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	return s.buf[:n]
}

func fits32(n int) uint32 { return uint32(min(n, math.MaxUint32)) }
