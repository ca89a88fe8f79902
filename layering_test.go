// Package drover holds the test that keeps the house in order: which of our packages may import which (docs/design.md).
package drover

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rooms says what each package may import, of ours. What is below a room is part of it, unless it is named itself.
var rooms = map[string][]string{
	"crashpoint":        {},
	"durable":           {},
	"spare":             {},
	"hbase":             {"crashpoint", "spare"},
	"hbase/gateway":     {"hbase"},
	"hbase/native":      {"hbase", "hbase/gateway", "spare"},
	"jobs":              {"hbase"},
	"jobs/mongodump":    {"jobs", "hbase"},
	"jobs/hbasetable":   {"jobs", "hbase"},
	"mapping":           {"jobs", "hbase"},
	"jobfile":           {"jobs", "jobs/mongodump", "jobs/hbasetable", "mapping", "hbase", "fleet/share", "fleet/tick"},
	"checkpoints":       {"crashpoint", "durable", "zookeeper"},
	"budget":            {},
	"deadletters":       {"crashpoint", "durable"},
	"discovery":         {"zookeeper", "durable"},
	"agent":             {"zookeeper", "durable"},
	"zookeeper":         {},
	"fleet":             {"zookeeper", "checkpoints", "jobs", "fleet/share", "fleet/tick"},
	"fleet/share":       {"fleet/hours"},
	"fleet/tick":        {"fleet/hours"},
	"fleet/hours":       {},
	"runner":            {"jobs", "hbase", "checkpoints", "budget", "deadletters", "crashpoint", "pressure", "spare"},
	"pressure":          {},
	"cmd/drover":        {"*"},
	"e2e":               {"*"},
	"bench":             {"*"},
	"deploy":            {"jobfile"},
	"hbase/gatewaytest": {"hbase", "hbase/gateway"},

	"deadletters/lettertable": {"deadletters", "hbase"},
	"deadletters/sinktest":    {"deadletters"},
}

func room(path string) string {
	best := ""
	for r := range rooms {
		if (path == r || strings.HasPrefix(path, r+"/")) && len(r) > len(best) {
			best = r
		}
	}
	return best
}

func TestLayering(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		path, ours := strings.CutPrefix(p.ImportPath, "drover/")
		if !ours {
			continue
		}
		seen++
		from := room(path)
		if from == "" {
			t.Errorf("package %s has no room: name it in layering_test.go and docs/design.md, or put it into one", path)
			continue
		}
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, "drover/")
			to := room(imp)
			if !ours || to == from || slices.Contains(rooms[from], to) || slices.Contains(rooms[from], "*") {
				continue
			}
			t.Errorf("%s imports %s: %s may import only %v", path, imp, from, rooms[from])
		}
	}
	if seen < 5 {
		t.Fatalf("only %d packages seen", seen)
	}
}
