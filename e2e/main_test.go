// Package e2e holds the tests of the whole: the real binary, real dump files and a real HBase with its gateways, judged by
// e2e/check. What can be shown with less belongs beside the package it is about.
//
// Tests that look at a rate or harm servers of the shared stack run alone, one after the other, before the others, which are
// parallel. Counts are reduced unless DROVER_PROVE=1; DROVER_SEED=n repeats what a seed once did.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drover/e2e/stack"
	"drover/e2e/wire"
	"drover/hbase/thrift2"
)

// binary is the drover that the tests run, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(fleetMemberEnv) != "" {
		os.Exit(fleetMember())
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "drover-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "drover")
	if out, err := exec.Command("go", "build", "-o", binary, "drover/cmd/drover").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build cmd/drover: %v\n%s", err, out)
		return 1
	}
	defer func() {
		if err := stack.CloseShared(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// proving tells whether counts are full.
func proving() bool { return os.Getenv("DROVER_PROVE") == "1" }

// scaled picks a count. What a test did in the end it says itself.
func scaled(full, reduced int) int {
	if proving() {
		return full
	}
	return reduced
}

// beside lets a test run beside others, but alone where its figures are for docs/proof.md. It is for tests that wait, for ZooKeeper or a
// limit, for most of their time.
func beside(t *testing.T) {
	if !proving() {
		t.Parallel()
	}
}

// seed gives a test its randomness and prints how to repeat it.
func seed(t testing.TB) *rand.Rand {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("DROVER_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("DROVER_SEED=%s: want a number from 0", s)
		}
	}
	t.Logf("DROVER_SEED=%d repeats this", n)
	return rand.New(rand.NewPCG(n, n))
}

// books is the JSON object that drover prints at its end.
type books struct {
	Job            string  `json:"job"`
	Run            string  `json:"run"`
	State          string  `json:"state"`
	Read           int64   `json:"read"`
	Written        int64   `json:"written"`
	Filtered       int64   `json:"filtered"`
	Dead           int64   `json:"dead"`
	Rows           int64   `json:"rows"`
	Cells          int64   `json:"cells"`
	Bytes          int64   `json:"bytes"`
	Resumed        int     `json:"resumed"`
	Shards         int     `json:"shards"`
	Calls          int64   `json:"calls"`
	Retries        int64   `json:"retries"`
	LimitedSeconds float64 `json:"limited_seconds"`
	SlowedSeconds  float64 `json:"slowed_seconds"`
	Seconds        float64 `json:"seconds"`
	PeakRSSBytes   int64   `json:"peak_rss_bytes"`
	Timestamp      int64   `json:"timestamp"`
	Reason         string  `json:"reason"`
	Again          bool    `json:"again"` // books of a run done before; nothing moved
}

// result is how a run of the binary ended.
type result struct {
	stdout, stderr string
	code           int            // exit code; -1 when a signal ended it
	signal         syscall.Signal // 0 when none did
	json           books          // zero unless --json was given and something was printed
}

// process is a drover that was started and is waited for once.
type process struct {
	t              testing.TB
	cmd            *exec.Cmd
	cancel         context.CancelFunc
	stdout, stderr bytes.Buffer
}

// runTimeout ends a drover that hangs.
const runTimeout = 10 * time.Minute

// start starts the binary with arguments and, where they hold "=" before any other sign, settings of its environment first:
// start(t, "DROVER_CRASH=sent:3", "run", "job.yaml"). State and budgets go into a folder of the test unless set.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	return startIn(t, nil, args...)
}

// startIn is start by another command, which becomes drover.
func startIn(t testing.TB, by []string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	env := append(os.Environ(), "XDG_STATE_HOME="+stateHome(t))
	for len(args) > 0 && isSetting(args[0]) {
		env = append(env, args[0])
		args = args[1:]
	}
	line := append(append(by, binary), args...)
	p := &process{t: t, cmd: exec.CommandContext(ctx, line[0], line[1:]...), cancel: cancel}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		cancel()
		t.Fatalf("start drover: %v", err)
	}
	// A test that fails before it waits must not leave the process behind.
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
		cancel()
	})
	return p
}

func isSetting(arg string) bool {
	name, _, ok := strings.Cut(arg, "=")
	return ok && name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

// stateHome is the one folder in which all runs of a test keep their state, so that a second goes on where the first stood.
func stateHome(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("drover-state-%d-%s", os.Getpid(), strings.NewReplacer("/", "_", " ", "_").Replace(t.Name())))
	if err := os.Mkdir(dir, 0o700); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
	} else if !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return dir
}

// signal sends the process a signal; one that has ended already takes none.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("send %v to drover: %v", s, err)
	}
}

// wait waits for the end.
func (p *process) wait() result {
	p.t.Helper()
	err := p.cmd.Wait()
	p.cancel()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("run drover: %v", err)
	}
	r := result{stdout: p.stdout.String(), stderr: p.stderr.String(), code: p.cmd.ProcessState.ExitCode()}
	if ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.signal = ws.Signal()
	}
	if one := strings.TrimSuffix(r.stdout, "\n"); strings.HasPrefix(one, "{") && !strings.Contains(one, "\n") {
		if err := json.Unmarshal(p.stdout.Bytes(), &r.json); err != nil {
			p.t.Errorf("drover's JSON: %v\n%s", err, r.stdout)
		}
	}
	return r
}

// drover runs the binary to its end. See start for arguments that are settings.
func drover(t testing.TB, args ...string) result {
	t.Helper()
	return start(t, args...).wait()
}

// must fails the test unless drover ended with this code.
func (r result) must(t testing.TB, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("drover ended with %d (%v), want %d\nstdout: %s\nstderr: %s", r.code, r.signal, code, r.stdout, r.stderr)
	}
	return r
}

// close checks that the books add up.
func (b books) close(t testing.TB) {
	t.Helper()
	if b.Read != b.Written+b.Filtered+b.Dead {
		t.Errorf("the books do not close: read %d, written %d, filtered %d, dead %d", b.Read, b.Written, b.Filtered, b.Dead)
	}
}

// jobFile writes a job file and gives its path.
func jobFile(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// root is the folder of go.mod.
func root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("find go.mod: %v", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// sampleData gives the sample mongodump files, sorted by path.
func sampleData(t testing.TB) []string {
	t.Helper()
	dir := filepath.Join(root(t), "..", "shared", "data")
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.bson"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skipf("no mongodump files (DATABASE/COLLECTION.bson) in %s: this test reads MongoDB's sample data from there", dir)
	}
	return files
}

var tables atomic.Int64

// newTable gives the name of a table that does not exist, which goes when the test ends.
func newTable(t testing.TB, s *stack.Stack) string {
	t.Helper()
	name := fmt.Sprintf("t%d_%d", os.Getpid(), tables.Add(1))
	t.Cleanup(func() { dropTable(t, s, name) })
	return name
}

// dropTable drops a table if it exists.
func dropTable(t testing.TB, s *stack.Stack, name string) {
	t.Helper()
	table := &thrift2.TTableName{Ns: []byte("default"), Qualifier: []byte(name)}
	if ns, q, ok := strings.Cut(name, ":"); ok {
		table = &thrift2.TTableName{Ns: []byte(ns), Qualifier: []byte(q)}
	}
	err := gatewayCall(s, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		exists, err := c.TableExists(ctx, table)
		if err != nil || !exists {
			return err
		}
		if off, err := c.IsTableDisabled(ctx, table); err != nil {
			return err
		} else if !off {
			if err := c.DisableTable(ctx, table); err != nil {
				return err
			}
		}
		return c.DeleteTable(ctx, table)
	})
	if err != nil {
		t.Errorf("drop table %s: %v", name, err)
	}
}

// gatewayCall makes one call through the first gateway of the stack that lives.
func gatewayCall(s *stack.Stack, call func(context.Context, *thrift2.THBaseServiceClient) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, g := range s.Gateways {
		if g.Alive() {
			return wire.Call(ctx, g.Addr, g.Protocol, call)
		}
	}
	return errors.New("no gateway lives")
}
