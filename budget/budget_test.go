package budget

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLocalWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		m := NewLocal(Limits{Rows: 100, Bytes: 10_000})
		defer m.Close()
		start := time.Now()
		steps := []struct {
			rows, bytes int
			at          time.Duration // when it is let through
		}{
			{50, 10, 0},
			{100, 50, 500 * time.Millisecond},
			{1, 20_000, 1500 * time.Millisecond}, // more than a second's bytes
			{0, 1, 3480 * time.Millisecond},      // the bytes idled for 500 ms, of which 20 are saved
			{1, 1, 3480*time.Millisecond + 100*time.Microsecond},
		}
		for i, s := range steps {
			before := time.Now()
			waited, err := m.Wait(ctx, s.rows, s.bytes)
			if err != nil {
				t.Fatal(err)
			}
			if at := time.Since(start); at != s.at || waited != time.Since(before) {
				t.Fatalf("step %d came at %v and says it waited %v, want %v", i, at, waited, s.at)
			}
		}
	})
}

func TestLocalOrderAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewLocal(Limits{Rows: 1000})
		start := time.Now()
		var mu sync.Mutex
		var us []used
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for time.Since(start) < 10*time.Second {
					if _, err := m.Wait(t.Context(), 10, 100); err != nil {
						t.Error(err)
					}
					mu.Lock()
					us = append(us, used{int64(time.Since(start)), [dimensions]int64{10, 100}})
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if n := len(us); n < 970 || n > 1020 {
			t.Fatalf("%d batches of 10 rows in 10 s at 1000 rows/s", n)
		}
		if got, _ := most(us, rows); got > 1030 {
			t.Fatalf("%d rows in a second", got)
		}
	})
}

func TestLocalChangeReachesSleepers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewLocal(Limits{Rows: 1})
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { m.Wait(t.Context(), 1000, 0) })
		synctest.Wait()
		wg.Go(func() {
			if _, err := m.Wait(t.Context(), 1, 0); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if err := m.SetLimits(Limits{Rows: 1000}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if d := time.Since(start); d < 900*time.Millisecond || d > 1300*time.Millisecond {
			t.Fatalf("behind 1000 rows at 1000 rows/s for %v", d)
		}
		if err := m.SetLimits(Limits{Rows: -1}); err == nil {
			t.Fatal("took a negative limit")
		}
		if got := m.Limits(); got != (Limits{Rows: 1000}) {
			t.Fatalf("limits %v", got)
		}
	})
}

func TestLocalCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewLocal(Limits{Rows: 10})
		m.Wait(t.Context(), 10, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if waited, err := m.Wait(ctx, 10, 0); !errors.Is(err, context.DeadlineExceeded) || waited != 300*time.Millisecond {
			t.Fatalf("%v, %v", waited, err)
		}
		if _, err := m.Wait(ctx, 1, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("wait with a context that is over: %v", err)
		}
		start := time.Now()
		m.Wait(t.Context(), 1, 0)
		if d := time.Since(start); d != 1700*time.Millisecond {
			t.Fatalf("behind a place that was given up for %v, want 1.7s: it is lost, not given out again", d)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := m.Wait(t.Context(), 1, 0); !errors.Is(err, ErrClosed) {
				t.Errorf("wait across Close: %v", err)
			}
		})
		synctest.Wait()
		for range 2 {
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
		if err := m.SetLimits(Limits{}); !errors.Is(err, ErrClosed) {
			t.Fatalf("limits after Close: %v", err)
		}
	})
}

func join(t *testing.T, dir, key string, l Limits) *Member {
	t.Helper()
	m, err := Join(dir, key, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// look makes m look at the members now, which it else does every recheck.
func look(t *testing.T, m *Member) Limits {
	t.Helper()
	if err := m.locked(t.Context(), true, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return m.Limits()
}

// die is what the kernel does for a process that dies.
func die(m *Member) {
	<-m.gate
	m.closed = true
	m.folder.member.Close()
	m.folder.state.Close()
	m.leave()
}

func TestMembers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "budgets")
	a := join(t, dir, "ships@cluster", Limits{Rows: 100})
	b := join(t, dir, "ships@cluster", Limits{Rows: 200, Bytes: 1000})
	c := join(t, dir, "ships@cluster", Limits{})
	other := join(t, dir, "ships@other", Limits{Rows: 1})
	expect := func(m *Member, want Limits) {
		t.Helper()
		if got := look(t, m); got != want {
			t.Fatalf("limits %+v, want %+v", got, want)
		}
	}
	for _, m := range []*Member{a, b, c} {
		expect(m, Limits{100, 1000})
	}
	expect(other, Limits{Rows: 1})
	if err := a.SetLimits(Limits{Rows: 300}); err != nil {
		t.Fatal(err)
	}
	expect(c, Limits{200, 1000})
	files := func() int {
		found, err := filepath.Glob(filepath.Join(a.folder.dir, "*"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	die(b)
	if n := files(); n != 3 {
		t.Fatalf("%d members' files before the dead one is found, want 3", n)
	}
	expect(c, Limits{Rows: 300})
	if n := files(); n != 2 {
		t.Fatalf("%d members' files after, want 2", n)
	}
	a.Close()
	if n := files(); n != 1 {
		t.Fatalf("%d members' files after one left, want 1", n)
	}
	expect(c, Limits{})
	key, err := os.ReadFile(filepath.Join(c.folder.dir, "key"))
	if err != nil || string(key) != "ships@cluster\n" {
		t.Fatalf("the key reads %q, %v", key, err)
	}
	for path, want := range map[string]fs.FileMode{
		dir: fs.ModeDir | rootMode, c.folder.dir: fs.ModeDir | keyMode,
		filepath.Join(c.folder.dir, stateName): fileMode,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("mode of %s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if _, err := Join(dir, "x", Limits{Rows: -1}); err == nil {
		t.Fatal("joined with a negative limit")
	}
	if _, err := Join("/dev/null/x", "x", Limits{}); err == nil {
		t.Fatal("joined in a folder that cannot be")
	}
}

// A living member whose file cannot be read does not lift what was in force.
func TestUnreadableMember(t *testing.T) {
	dir := t.TempDir()
	a, b := join(t, dir, "k", Limits{Rows: 100}), join(t, dir, "k", Limits{Rows: 500})
	if err := a.folder.member.Truncate(3); err != nil {
		t.Fatal(err)
	}
	if got := look(t, b); got != (Limits{Rows: 100}) {
		t.Fatalf("limits %+v, want 100 rows", got)
	}
}

// A state that is cut off or overwritten, or of another boot, starts anew from now; nobody waits for a place of the old one.
func TestStateLost(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, f *folder){
		"empty":    func(t *testing.T, f *folder) { f.state.Truncate(0) },
		"cut off":  func(t *testing.T, f *folder) { f.state.Truncate(50) },
		"longer":   func(t *testing.T, f *folder) { f.state.WriteAt([]byte("x"), stateSize+40) },
		"garbage":  func(t *testing.T, f *folder) { f.state.WriteAt([]byte(strings.Repeat("x", stateSize)), 0) },
		"bit":      func(t *testing.T, f *folder) { f.state.WriteAt([]byte{'X'}, 60) },
		"the boot": func(t *testing.T, f *folder) { f.boot[3]++ },
	} {
		t.Run(name, func(t *testing.T) {
			m := join(t, t.TempDir(), "k", Limits{Rows: 1000})
			r := place{reservation: reservation{tokens: [dimensions]int64{100_000, 0}}}
			for range 2 { // the second one has a place 100 s away
				r.made = false
				if _, err := m.ask(t.Context(), &r); err != nil {
					t.Fatal(err)
				}
			}
			era := m.state.era
			harm(t, m.folder)
			r.tokens[rows] = 1
			wait, err := m.ask(t.Context(), &r)
			if err != nil || wait > 0 {
				t.Fatalf("wait %v, %v after the schedule was lost, want none", wait, err)
			}
			if m.state.era == era {
				t.Fatal("the loss was not noticed")
			}
			next := place{reservation: reservation{tokens: [dimensions]int64{1000, 0}}}
			m.ask(t.Context(), &next)
			last := place{reservation: reservation{tokens: [dimensions]int64{1, 0}}}
			if wait, err := m.ask(t.Context(), &last); err != nil || wait < 900*time.Millisecond || wait > 1100*time.Millisecond {
				t.Fatalf("wait %v, %v in the new schedule, want a second", wait, err)
			}
		})
	}
}

// Somebody removes the whole folder under the members: they meet again in a new one.
func TestFolderRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "budgets")
	a, b := join(t, dir, "k", Limits{Rows: 10}), join(t, dir, "k", Limits{Rows: 20})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := look(t, b); got != (Limits{Rows: 20}) {
		t.Fatalf("limits %+v before the other came too", got)
	}
	look(t, a)
	if got := look(t, b); got != (Limits{Rows: 10}) {
		t.Fatalf("limits %+v, want the lower again", got)
	}
}

// A lock that its holder never gives back, as a stopped process does not, does not keep a caller beyond its context.
func TestLockHeld(t *testing.T) {
	m := join(t, t.TempDir(), "k", Limits{Rows: 10})
	hold, err := os.OpenFile(filepath.Join(m.folder.dir, stateName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	if err := lock(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := m.Wait(ctx, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wait: %v", err)
	}
	unlock(hold)
	if _, err := m.Wait(t.Context(), 1, 1); err != nil {
		t.Fatal(err)
	}
}

const childEnv = "BUDGET_TEST_CHILD"

// TestMain makes the test binary a process that uses a budget, when it is told to: dir, rows/s, batch, callers, seconds.
func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv(childEnv), "|"); len(args) == 5 {
		if err := use(args[0], args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func use(dir string, args []string) error {
	var n [4]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(args[i]); err != nil {
			return err
		}
	}
	m, err := Join(dir, "shared", Limits{Rows: int64(n[0])})
	if err != nil {
		return err
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n[3])*time.Second)
	defer cancel()
	fmt.Println("joined")
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n[2] {
		wg.Go(func() {
			for ctx.Err() == nil {
				batch := 1 + rand.IntN(n[1])
				if _, err := m.Wait(ctx, batch, 1000); err != nil {
					return
				}
				now, _ := hostNow()
				mu.Lock()
				fmt.Fprintln(out, now, batch)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	<-ctx.Done()
	return nil
}

func child(t *testing.T, dir string, rate, batch, callers, seconds int) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d|%d|%d|%d", childEnv, dir, rate, batch, callers, seconds))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "joined" {
		t.Fatalf("the child says %q", lines.Text())
	}
	return c, lines
}

// Two real processes share one rate. The tight bounds are the schedule's tests'; these leave room for a busy machine, where
// a process can be held up between its tokens and its clock.
func TestProcessesShare(t *testing.T) {
	const rate, batch, seconds = 5000, 100, 3
	dir := t.TempDir()
	join(t, dir, "shared", Limits{Rows: rate}) // until both have ended: the second one's own limit is higher
	var us []used
	var children []*bufio.Scanner
	var cmds []*exec.Cmd
	for _, own := range []int{rate, 3 * rate} {
		c, lines := child(t, dir, own, batch, 4, seconds)
		cmds, children = append(cmds, c), append(children, lines)
	}
	var first, last int64
	var sum int64
	for i, lines := range children {
		count := 0
		for lines.Scan() {
			var u used
			if _, err := fmt.Sscan(lines.Text(), &u.at, &u.n[rows]); err != nil {
				t.Fatal(err)
			}
			us = append(us, u)
			sum += u.n[rows]
			count++
			if first == 0 || u.at < first {
				first = u.at
			}
			last = max(last, u.at)
		}
		if err := cmds[i].Wait(); err != nil {
			t.Fatal(err)
		}
		if count == 0 {
			t.Fatalf("process %d got nothing", i)
		}
		t.Logf("process %d: %d batches", i, count)
	}
	got, _ := most(us, rows)
	mean := float64(sum) / (float64(last-first) / float64(second))
	t.Logf("at %d rows/s: at most %d in a second, %.0f/s on average over %v", rate, got, mean, time.Duration(last-first))
	if got > rate*13/10+batch {
		t.Errorf("%d rows in a second at %d rows/s", got, rate)
	}
	if mean < 0.6*rate {
		t.Errorf("%.0f rows/s at %d rows/s with eight callers waiting", mean, rate)
	}
}

// A process that is killed takes its limit with it, also for those who sleep because of it.
func TestKilledProcessLiftsItsLimit(t *testing.T) {
	dir := t.TempDir()
	m := join(t, dir, "shared", Limits{})
	c, _ := child(t, dir, 1, 1, 0, 60)
	if got := look(t, m); got != (Limits{Rows: 1}) {
		t.Fatalf("limits %+v beside a process with 1 row/s", got)
	}
	if _, err := m.Wait(t.Context(), 3600, 0); err != nil {
		t.Fatal(err)
	}
	behind := make(chan error)
	go func() {
		_, err := m.Wait(t.Context(), 1, 0)
		behind <- err
	}()
	c.Process.Kill()
	c.Wait()
	killed := time.Now()
	if err := <-behind; err != nil {
		t.Fatal(err)
	}
	if d := time.Since(killed); d > 3*time.Second {
		t.Errorf("waited %v for a dead process's limit", d)
	}
	if got := m.Limits(); got != (Limits{}) {
		t.Fatalf("limits %+v after the process died", got)
	}
}

func BenchmarkWaitUnlimited(b *testing.B) {
	m, err := Join(b.TempDir(), "k", Limits{})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Wait(b.Context(), 100, 1000); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWaitLimited(b *testing.B) {
	m, err := Join(b.TempDir(), "k", Limits{Rows: 1 << 40, Bytes: 1 << 50})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Wait(b.Context(), 100, 1000); err != nil {
			b.Fatal(err)
		}
	}
}
