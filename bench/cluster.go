package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"drover/e2e/stack"
	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

// regions is how many each measured table has: three a server.
const regions = 9

// cluster is the real HBase of parts a, c and f.
type cluster struct {
	*stack.Stack
	framed []*stack.Process // gateways beside the stack's, for part g
	tables int
}

// Heaps in MiB, as small servers have them; those of the tests are smaller still. With these the collectors' pauses in the region
// servers took a tenth less time than with 768 MiB.
const (
	regionServerHeap = 1024
	gatewayHeap      = 512
)

// gatewaySite: a gateway that gives up in seconds, which tests want, would turn a busy moment into an error here.
var gatewaySite = map[string]string{
	"hbase.client.operation.timeout": "120000", "hbase.rpc.timeout": "60000", "hbase.client.retries.number": "15",
}

func (b *bench) startCluster(ctx context.Context) (*cluster, error) {
	dir := filepath.Join(b.dir, "stack")
	if err := os.RemoveAll(dir); err != nil { // of an earlier run, with -keep
		return nil, fmt.Errorf("remove the last stack: %w", err)
	}
	s, err := stack.Start(ctx, stack.Options{
		Dir: dir, Log: b.log, GatewaySite: gatewaySite, RegionServerHeap: regionServerHeap, GatewayHeap: gatewayHeap,
	})
	if err != nil {
		return nil, err
	}
	return &cluster{Stack: s}, nil
}

// stop ends the servers and removes their data.
func (c *cluster) stop() error {
	return errors.Join(c.Close(), os.RemoveAll(filepath.Join(c.Dir, "hbase")))
}

func (c *cluster) call(ctx context.Context, f func(context.Context, *thrift2.THBaseServiceClient) error) error {
	g := c.Gateways[0]
	return wire.Call(ctx, g.Addr, g.Protocol, f)
}

// fresh makes a table that nobody has used, split at the keys given, and calls f. It is gone afterwards.
func (c *cluster) fresh(ctx context.Context, splits [][]byte, f func(table string) error) error {
	c.tables++
	name := fmt.Sprintf("bench%d", c.tables)
	t := &thrift2.TTableName{Ns: []byte("default"), Qualifier: []byte(name)}
	versions := int32(1)
	err := c.call(ctx, func(ctx context.Context, h *thrift2.THBaseServiceClient) error {
		d := &thrift2.TTableDescriptor{TableName: t, Columns: []*thrift2.TColumnFamilyDescriptor{{Name: []byte("d"), MaxVersions: &versions}}}
		return h.CreateTable(ctx, d, splits)
	})
	if err != nil {
		return fmt.Errorf("create table %s: %w", name, err)
	}
	err = f(name)
	gone := c.call(context.WithoutCancel(ctx), func(ctx context.Context, h *thrift2.THBaseServiceClient) error {
		if err := h.DisableTable(ctx, t); err != nil {
			return err
		}
		return h.DeleteTable(ctx, t)
	})
	if gone != nil {
		gone = fmt.Errorf("drop table %s: %w", name, gone)
	}
	return errors.Join(err, gone)
}

// spent is the CPU that the cluster's processes have used.
type spent struct {
	servers   time.Duration // ZooKeeper's, the master's, and the region servers'
	gateways  time.Duration
	compilers time.Duration // what region servers and gateways spent of it on compiling their own code
}

func (s spent) all() time.Duration { return s.servers + s.gateways }

func (s spent) since(before spent) spent {
	return spent{s.servers - before.servers, s.gateways - before.gateways, s.compilers - before.compilers}
}

// spent is what they have used so far.
func (c *cluster) spent() spent {
	return spent{
		servers:   cpuOf(append([]*stack.Process{c.Quorum, c.Master}, c.RegionServers...)),
		gateways:  cpuOf(c.Gateways) + cpuOf(c.framed),
		compilers: compilersOf(c.RegionServers) + compilersOf(c.Gateways) + compilersOf(c.framed),
	}
}

// cpu is what all the cluster's processes have used so far.
func (c *cluster) cpu() time.Duration { return c.spent().all() }

func cpuOf(all []*stack.Process) time.Duration {
	var sum time.Duration
	for _, p := range all {
		_, d := statCPU(fmt.Sprintf("/proc/%d/stat", p.PID()))
		sum += d
	}
	return sum
}

// compilersOf is what the threads that compile Java have used. They end when they have nothing to do, and are not in it then.
func compilersOf(all []*stack.Process) time.Duration {
	var sum time.Duration
	for _, p := range all {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		if err != nil {
			continue
		}
		for _, t := range threads {
			if name, d := statCPU(t); strings.HasPrefix(name, "C1 Comp") || strings.HasPrefix(name, "C2 Comp") {
				sum += d
			}
		}
	}
	return sum
}

// statCPU reads the name and the user and system time of a process or a thread that still lives.
func statCPU(path string) (name string, used time.Duration) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", 0
	}
	// After the name, which is in parentheses, user and system time are fields 12 and 13.
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[to+1:])
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err == nil {
			ticks += n
		}
	}
	return string(b[from+1 : to]), time.Duration(ticks) * (time.Second / 100) // Linux shows hundredths to programs, whatever the kernel's tick
}

// holds checks that some of the rows are in a table as they were encoded, but for the timestamp.
func (c *cluster) holds(ctx context.Context, table string, file string, n int) error {
	var puts []*thrift2.TPut
	r := rand.New(rand.NewPCG(3, 4))
	seen := 0
	err := documents(file, func(doc []byte) error {
		seen++
		i := len(puts)
		if i >= n { // a sample of even chances
			if i = r.IntN(seen); i >= n {
				return nil
			}
		}
		put, err := putOf(doc, 0)
		if err != nil {
			return err
		}
		if i < len(puts) {
			puts[i] = put
		} else {
			puts = append(puts, put)
		}
		return nil
	})
	if err != nil {
		return err
	}
	gets := make([]*thrift2.TGet, len(puts))
	for i, p := range puts {
		gets[i] = &thrift2.TGet{Row: p.Row}
	}
	return c.call(ctx, func(ctx context.Context, h *thrift2.THBaseServiceClient) error {
		rows, err := h.GetMultiple(ctx, []byte(table), gets)
		if err != nil {
			return fmt.Errorf("read rows of %s back: %w", table, err)
		}
		for i, p := range puts {
			if len(rows[i].ColumnValues) != len(p.ColumnValues) {
				return fmt.Errorf("row %x of %s has %d cells, want %d", p.Row, table, len(rows[i].ColumnValues), len(p.ColumnValues))
			}
			want := map[string][]byte{}
			for _, v := range p.ColumnValues {
				want[string(v.Qualifier)] = v.Value
			}
			for _, v := range rows[i].ColumnValues {
				if !bytes.Equal(want[string(v.Qualifier)], v.Value) {
					return fmt.Errorf("row %x of %s has %q in column %s, want %q", p.Row, table, v.Value, v.Qualifier, want[string(v.Qualifier)])
				}
			}
		}
		return nil
	})
}
