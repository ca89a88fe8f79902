package hbasetable

import (
	"encoding/json"
	"fmt"

	"drover/hbase"
)

// row is a packed row for people.
type row struct {
	Key   string `json:"key"`
	Cells []cell `json:"cells"`
}

type cell struct {
	Op        string  `json:"op,omitempty"` // of deletes
	Family    string  `json:"family"`
	Qualifier *string `json:"qualifier,omitempty"` // a family's delete has none
	Timestamp int64   `json:"timestamp"`
	Value     *string `json:"value,omitempty"` // deletes have none
}

// Render implements jobs.Renderer: a row as JSON, with all bytes as hbase.KeyText writes them.
func (s *Source) Render(raw []byte) (json.RawMessage, error) {
	packed := hbase.PackedRow(raw)
	if err := packed.Check(); err != nil {
		return nil, fmt.Errorf("decode row of %d bytes: %w", len(raw), err)
	}
	out := row{Key: hbase.KeyText(packed.Key()), Cells: []cell{}}
	w := packed.Cells()
	for c := (hbase.Cell{}); w.Next(&c); {
		x := cell{Family: hbase.KeyText(c.Family), Timestamp: c.Timestamp}
		if c.Op != hbase.Put {
			x.Op = c.Op.String()
		}
		if c.Op != hbase.DeleteFamily && c.Op != hbase.DeleteFamilyVersion {
			q := hbase.KeyText(c.Qualifier)
			x.Qualifier = &q
		}
		if c.Op == hbase.Put {
			v := hbase.KeyText(c.Value)
			x.Value = &v
		}
		out.Cells = append(out.Cells, x)
	}
	return json.Marshal(out)
}
