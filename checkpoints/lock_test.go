package checkpoints

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "lock")
	l, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path)
	held, ok := errors.AsType[*LockedError](err)
	if !ok || !errors.Is(err, ErrLocked) || held.PID != os.Getpid() || held.Started.IsZero() || held.Host == "" {
		t.Fatalf("second lock: %v, want ErrLocked with its holder", err)
	}
	for range 2 {
		if err := l.Unlock(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Lock(path)
	if err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("an old lock's second Unlock freed the new one: %v", err)
	}
	again.Unlock()
}

func TestLockOfDeadProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	c := child(t, "lock", path)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || strings.TrimSpace(line) != "locked" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	_, err = Lock(path)
	if held, ok := errors.AsType[*LockedError](err); !ok || held.PID != c.Process.Pid {
		t.Fatalf("lock beside process %d: %v, want ErrLocked by it", c.Process.Pid, err)
	}
	c.Process.Kill()
	c.Wait()
	l, err := Lock(path)
	if err != nil {
		t.Fatalf("lock after its holder was killed: %v", err)
	}
	l.Unlock()
}
