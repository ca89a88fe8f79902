package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"drover/e2e/check"
	"drover/e2e/stack"
	"drover/hbase/native"
)

// childOf is the process that another started for a hidden command of drover; 0 is none.
func childOf(parent int, command string) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// After the name, which is in parentheses, come its state and its parent.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		line, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil || string(fields[1]) != strconv.Itoa(parent) || !bytes.Contains(line, []byte("\x00"+command+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil {
			return pid
		}
	}
	return 0
}

// Real HBase: a table is copied past the gateways, both ways, while the regions of the target are flushed, split, moved and merged, and
// the process that passes the rows on is killed and stopped again and again.
func TestNativeGateway(t *testing.T) {
	t.Parallel()
	s := stack.Shared(t)
	r := seed(t)
	call := gatewayCaller(s)
	n := scaled(200_000, 20_000)
	from, to := newTable(t, s), newTable(t, s)
	splits := [][]byte{[]byte("4"), []byte("user-0")}
	tableOf(t, call, from, splits, "a", "b")
	tableOf(t, call, to, splits, "a", "b")
	fillTable(t, call, from, r, 0, n, true)
	yaml := nativeJob(t, s, from, to, fmt.Sprintf("limits: {rows: %d}", n/scaled(20, 8)))
	stop := stir(t, s, to, r.Uint64())
	p := start(t, "run", yaml, "--json")
	kills, stops, next := 0, 0, time.Now().Add(2*time.Second)
	b := whileRunning(p, 50*time.Millisecond, func() {
		child := childOf(p.cmd.Process.Pid, native.RelayCommand)
		if child == 0 || time.Now().Before(next) {
			return
		}
		if (kills+stops)%3 < 2 {
			must(t, syscall.Kill(child, syscall.SIGKILL))
			kills++
		} else {
			must(t, syscall.Kill(child, syscall.SIGSTOP))
			time.Sleep(time.Second)
			must(t, syscall.Kill(child, syscall.SIGCONT))
			stops++
		}
		next = time.Now().Add(time.Duration(500+r.IntN(1500)) * time.Millisecond)
	}).ends(t, 0)
	did := stop()
	if kills == 0 || stops == 0 {
		t.Errorf("%d kills and %d stops: nothing was shown", kills, stops)
	}
	if child := childOf(p.cmd.Process.Pid, native.RelayCommand); child != 0 {
		t.Errorf("process %d is left behind", child)
	}
	got := sameRows(t, check.Table{Addr: s.Addrs()[0], Name: from}, check.Table{Addr: s.Addrs()[1], Name: to}, false)
	if int64(got.rows) != b.Rows || b.Dead != 0 || got.rows == 0 {
		t.Errorf("the books say %+v, the tables %+v", b, got)
	}
	t.Logf("%d rows, %d cells in %d shards, %.1f s, %d retries; %d kills, %d stops of a second; %s", got.rows, got.cells, b.Shards, b.Seconds, b.Retries, kills, stops, did)
}

// nativeJob copies a table to one that is there, past the gateways.
func nativeJob(t testing.TB, s *stack.Stack, from, to, rest string) string {
	t.Helper()
	return jobFile(t, fmt.Sprintf("name: %s\nsource: {hbase: {table: %s, via: native, zookeeper: %q}}\ntarget: {table: %s, existing: merge}\ngateways: {native: %q, outage_limit: 2m}\n%s\n",
		to, from, s.ZooKeeper, to, s.ZooKeeper, rest))
}
