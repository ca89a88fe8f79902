package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"drover/e2e/wire"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
)

// Gateways of HBase 1.x know nothing about tables: what they can do is done through them, and a person is told the rest. One of
// HBase 2 beside them, of the same store, is used by the tests alone, as the hbase shell would be.

func oldFleet(t *testing.T) (old, shell *fleet) {
	t.Helper()
	shell = newFleet(t, 1)
	old = &fleet{seen: map[string]int{}}
	for range 2 {
		s, err := gateway.Open(gateway.Options{Store: shell.servers[0].Store(), Old: true})
		must(t, err)
		t.Cleanup(func() { must(t, s.Close()) })
		old.servers = append(old.servers, s)
	}
	return old, shell
}

func TestAJobThroughGatewaysOfHBase1(t *testing.T) {
	t.Parallel()
	old, shell := oldFleet(t)
	source := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 5000, Seed: 1})
	yaml := jobFile(t, fmt.Sprintf(`name: old
source: {mongodump: %s}
target: {table: old, create: true, regions: 3, families: {d: {versions: 2}}}
map: {key: _id, family: d}
gateways: {static: %s, outage_limit: 20s}
`, source, old.addrs()))

	began := time.Now()
	out := drover(t, "run", "--quiet", yaml).must(t, 1)
	if !strings.Contains(out.stderr, "HBase 1.x") || !strings.Contains(out.stderr, "create 'old', {NAME => 'd'") || !strings.Contains(out.stderr, "SPLITS => [") {
		t.Errorf("the reason has no command for the hbase shell: %s", out.stderr)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	// What the command would do, with its boundaries.
	_, command, _ := strings.Cut(out.stderr, "SPLITS => [")
	command, _, _ = strings.Cut(command, "]")
	var splits [][]byte
	for _, key := range strings.Split(command, ", ") {
		splits = append(splits, []byte(strings.Trim(key, `'"`)))
	}
	tableOf(t, shell.caller(), "old", splits, "d")
	res := drover(t, "run", "--json", "--quiet", yaml).must(t, 0)
	res.json.close(t)
	if res.json.Written != 5000 {
		t.Errorf("the books say %+v", res.json)
	}
	shell.equal(t, "old", source, res.json.Timestamp, nil)
	if out := drover(t, "endpoints", "--static", strings.Join([]string{old.servers[0].Addr(), old.servers[1].Addr()}, ",")).must(t, 0); strings.Count(out.stdout, "answers") != 2 {
		t.Errorf("endpoints says:\n%s", out.stdout)
	}
}

func TestACopyOfATableThroughGatewaysOfHBase1(t *testing.T) {
	t.Parallel()
	r := seed(t)
	old, shell := oldFleet(t)
	tableOf(t, shell.caller(), "from", [][]byte{[]byte("4"), []byte("user-")}, "a", "b")
	fillTable(t, shell.caller(), "from", r, 0, 3000, true)
	tableOf(t, shell.caller(), "to", [][]byte{[]byte("5")}, "a", "b")
	b := carry(t, rowJob(t, "old-rows", "{table: from, raw: true}", "{table: to}", "", old.addrs())).ends(t, 0)
	b.close(t)
	if got := sameRows(t, shell.table("from"), shell.table("to"), true); got.rows == 0 || got.deletes == 0 {
		t.Errorf("the tables have %+v", got)
	}
}

// A job goes on when the gateways of its cluster are of both kinds.
func TestAJobThroughGatewaysOfBothKinds(t *testing.T) {
	t.Parallel()
	old, shell := oldFleet(t)
	source := dump(t, dumpgen.Options{Profile: dumpgen.Flat5, Docs: 5000, Seed: 2})
	tableOf(t, shell.caller(), "mixed", nil, "d")
	both := &fleet{servers: append(append([]*gateway.Server{}, old.servers...), shell.servers...)}
	res := drover(t, "run", "--json", "--quiet", jobFile(t, fmt.Sprintf(`name: mixed
source: {mongodump: %s}
target: {table: mixed}
map: {key: _id, family: d}
gateways: {static: %s, outage_limit: 20s}
`, source, both.addrs()))).must(t, 0)
	res.json.close(t)
	shell.equal(t, "mixed", source, res.json.Timestamp, nil)
}

func TestTheDialectOfTheGatewayCommand(t *testing.T) {
	t.Parallel()
	drover(t, "gateway", "--dialect", "0.98").must(t, 64)
	addr := "127.0.0.1:" + closedPort(t)
	p := start(t, "gateway", "--dialect", "1.x", "--listen", addr)
	soon(t, 20*time.Second, func() error {
		err := wire.Call(t.Context(), addr, wire.Protocol{}, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
			_, err := c.ListNamespaces(ctx)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "Invalid method name: 'listNamespaces'") {
			return fmt.Errorf("listNamespaces: %v", err)
		}
		return nil
	})
	p.signal(15)
	p.wait().must(t, 0)
}
