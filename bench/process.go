package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// roleVariable says as what this binary runs when it is its own helper.
const roleVariable = "DROVER_BENCH_ROLE"

// help runs a helper. Its end is its standard input's, so that none outlives the bench.
func help(role string, args []string) int {
	var err error
	switch role {
	case "ack":
		err = ackMain(args, os.Stdin, os.Stdout)
	case "loop":
		err = loopMain(args)
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", role, err)
		return 1
	}
	return 0
}

func helper(ctx context.Context, role string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd, nil
}

// usage is what a process cost.
type usage struct {
	wall time.Duration
	cpu  time.Duration // user and system
	rss  int64         // at the peak, bytes
}

func usageOf(s *os.ProcessState, wall time.Duration) usage {
	return usage{wall: wall, cpu: s.UserTime() + s.SystemTime()}
}

// watchMemory follows what the kernel counts as a process's most resident memory until stop. It is not in what wait4 gives: there the
// memory of the process that forked it counts too.
func watchMemory(pid int) (stop func() int64) {
	quit, most := make(chan struct{}), make(chan int64)
	go func() {
		var high int64
		for {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if _, after, ok := bytes.Cut(text, []byte("VmHWM:")); ok && err == nil {
				var kb int64
				fmt.Sscan(string(after[:min(len(after), 40)]), &kb)
				high = kb << 10
			}
			select {
			case <-quit:
				most <- high
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(quit); return <-most }
}

// ackServer is the process that only acknowledges.
type ackServer struct {
	addr string
	cmd  *exec.Cmd
	in   io.Closer
	out  *bufio.Reader
	errs bytes.Buffer
}

// startAck starts it for a table that is split at the keys given. log is a file for the arrivals, or "".
func startAck(ctx context.Context, log string, splits [][]byte) (*ackServer, error) {
	var hex []string
	for _, k := range splits {
		hex = append(hex, fmt.Sprintf("%x", k))
	}
	cmd, err := helper(ctx, "ack", log, strings.Join(hex, ","))
	if err != nil {
		return nil, err
	}
	a := &ackServer{cmd: cmd}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the ack server: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the ack server: %w", err)
	}
	a.in, a.out = in, bufio.NewReader(out)
	cmd.Stderr = &a.errs
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the ack server: %w", err)
	}
	line, err := a.out.ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the ack server: it gives no address: %w", err), a.stop())
	}
	a.addr = strings.TrimSpace(line)
	return a, nil
}

// stop ends the server, after which its log is complete.
func (a *ackServer) stop() error {
	a.in.Close()
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("the ack server ended with %w: %s", err, bytes.TrimSpace(a.errs.Bytes()))
	}
	return nil
}

// job is a job file for drover with the default mapping.
type job struct {
	name, file, table string
	source            string // in place of file: what stands behind "source:", of a job that needs no map
	gateways          []string
	through           string // in place of gateways: what stands behind "gateways:"
	rows              int    // limit
}

// static is the gateways of a job file, with what else is said of them.
func static(addrs []string, more ...string) string {
	return "{" + strings.Join(append([]string{`static: ["` + strings.Join(addrs, `","`) + `"]`}, more...), ", ") + "}"
}

// books are what drover's --json says of a run, as far as it is used here.
type books struct {
	State          string  `json:"state"`
	Reason         string  `json:"reason"`
	Rows           int64   `json:"rows"`
	Cells          int64   `json:"cells"`
	Bytes          int64   `json:"bytes"`
	Shards         int     `json:"shards"`
	Retries        int64   `json:"retries"`
	Seconds        float64 `json:"seconds"`
	LimitedSeconds float64 `json:"limited_seconds"`
	PeakRSSBytes   int64   `json:"peak_rss_bytes"`
}

// move runs drover on a job to its end, as a process of its own with state of its own.
func (b *bench) move(ctx context.Context, j job, env ...string) (books, usage, error) {
	var bk books
	dir, err := os.MkdirTemp(b.dir, "run-")
	if err != nil {
		return bk, usage{}, fmt.Errorf("run drover: %w", err)
	}
	defer os.RemoveAll(dir)
	limits := ""
	if j.rows > 0 {
		limits = fmt.Sprintf("limits: {rows: %d}\n", j.rows)
	}
	source := j.source
	if source == "" {
		source = fmt.Sprintf("{mongodump: %q}\nmap: {key: _id, family: d}", j.file)
	}
	through := j.through
	if through == "" {
		through = static(j.gateways)
	}
	text := fmt.Sprintf("name: %s\nsource: %s\ntarget: {table: %q, existing: merge}\n%sgateways: %s\n", j.name, source, j.table, limits, through)
	file := filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return bk, usage{}, fmt.Errorf("run drover: %w", err)
	}
	cmd := exec.CommandContext(ctx, b.drover, "run", file, "--json", "--quiet", "--state", filepath.Join(dir, "state"))
	cmd.Env = append(append(os.Environ(), "DROVER_BUDGETS="+filepath.Join(b.dir, "budgets")), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return bk, usage{}, fmt.Errorf("run drover: %w", err)
	}
	memory := watchMemory(cmd.Process.Pid)
	err = cmd.Wait()
	wall, high := time.Since(began), memory()
	if err != nil {
		return bk, usage{}, fmt.Errorf("run drover: %w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	if err := json.Unmarshal(out.Bytes(), &bk); err != nil {
		return bk, usage{}, fmt.Errorf("run drover: read its books: %w", err)
	}
	if bk.State != "done" {
		return bk, usage{}, fmt.Errorf("run drover: it ended %s: %s", bk.State, bk.Reason)
	}
	u := usageOf(cmd.ProcessState, wall)
	u.rss = high
	return bk, u, nil
}
