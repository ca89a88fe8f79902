package stack

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is a process that is a shell script, for what does not need Java. It serves when the file "up" is there.
func shell(t *testing.T, script string) *Process {
	t.Helper()
	dir := t.TempDir()
	p := &Process{Name: "shell", Log: filepath.Join(dir, "log"), bin: "/bin/sh", args: []string{"-c", script}}
	p.ready = func(context.Context, time.Time) error {
		_, err := os.Stat(filepath.Join(dir, "up"))
		return err
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestProcess(t *testing.T) {
	p := shell(t, "echo run >> runs; touch up; exec sleep 1000")
	if p.Alive() || p.PID() != 0 || p.RSS() != 0 {
		t.Error("it lives before its start")
	}
	if err := p.Stop(); err == nil {
		t.Error("a process that does not run was stopped")
	}
	for range 2 {
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !p.Alive() || p.RSS() == 0 {
			t.Error("it does not live after its start")
		}
	}
	runs, err := os.ReadFile(filepath.Join(filepath.Dir(p.Log), "runs"))
	if err != nil || string(runs) != "run\nrun\n" {
		t.Errorf("it ran %q, %v, want twice", runs, err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Error("a stopped process counts as dead")
	}
	pid := p.PID()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Kill process %d is there: %v", pid, err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
	if err := p.Restart(t.Context()); err == nil {
		t.Error("it starts after the stack was closed")
	}
}

func TestStartThatFails(t *testing.T) {
	p := shell(t, "echo port taken >&2; exit 3")
	err := p.Restart(t.Context())
	if err == nil || !strings.Contains(err.Error(), "port taken") || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("got %v, want the end of its log", err)
	}
	p = shell(t, "exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.Restart(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a timeout", err)
	}
	if p.Alive() {
		t.Error("after a failed start it lives")
	}
}

// The death signal comes when the thread that forked ends. A locked goroutine that ends takes its thread with it.
func TestProcessOutlivesTheThreadThatAskedForIt(t *testing.T) {
	p := shell(t, "touch up; exec sleep 1000")
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- p.Restart(context.Background())
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
		t.Error("it ended with a thread")
	case <-time.After(300 * time.Millisecond):
	}
}

// TestProcessEndsWithItsStarter runs itself as a starter, kills that and looks for its child.
func TestProcessEndsWithItsStarter(t *testing.T) {
	if os.Getenv("STACK_TEST_STARTER") != "" {
		p := shell(t, "touch up; exec sleep 1000")
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("child " + strconv.Itoa(p.PID()) + "\n")
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcessEndsWithItsStarter$")
	cmd.Env = append(os.Environ(), "STACK_TEST_STARTER=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "child ")))
	if err != nil {
		t.Fatalf("the starter says %q", line[:n])
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("its child %d is not there: %v", pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !gone(pid); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives 10 s after its starter's end", pid)
		}
	}
}

// gone tells whether a process has ended. One that nobody waits for stays as a zombie.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	return bytes.Contains(b, []byte(") Z "))
}

func TestWriteConf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	want := merge(map[string]string{"a": "1", "b": "<&>"}, map[string]string{"a": "2"})
	if err := writeConf(dir, want); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "hbase-site.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Properties []struct {
			Name  string `xml:"name"`
			Value string `xml:"value"`
		} `xml:"property"`
	}
	if err := xml.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	if len(got.Properties) != 2 || got.Properties[0].Value != "2" || got.Properties[1].Value != "<&>" {
		t.Errorf("got %+v", got)
	}
}

func TestFreePorts(t *testing.T) {
	ports, err := freePorts(20)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if seen[p] || p < 10000 || p >= 32000 {
			t.Errorf("port %d twice or out of range", p)
		}
		seen[p] = true
	}
	if len(ports) != 20 {
		t.Errorf("got %d ports, want 20", len(ports))
	}
}

func TestClasspath(t *testing.T) {
	dir := t.TempDir()
	jar := filepath.Join(dir, "a.jar")
	list := filepath.Join(dir, "classpath")
	if err := os.WriteFile(list, []byte(jar+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok := readClasspath(list); ok {
		t.Error("a list of jars that are not there is taken")
	}
	if err := os.WriteFile(jar, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if cp, ok := readClasspath(list); !ok || cp != jar {
		t.Errorf("got %q, %v, want %q", cp, ok, jar)
	}
}

// fakeMaven puts a script named mvn first in PATH.
func fakeMaven(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mvn"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestMavenIsTriedTwice(t *testing.T) {
	dir := t.TempDir()
	fakeMaven(t, `
if [ ! -e "$0.failed" ]; then touch "$0.failed"; echo "connection reset"; exit 1; fi
for a; do case $a in -Dmdep.outputFile=*) echo /dev/null > "${a#*=}";; esac; done
`)
	var log bytes.Buffer
	cp, err := classpath(t.Context(), &log, dir)
	if err != nil || cp != "/dev/null" {
		t.Fatalf("got %q, %v", cp, err)
	}
	if !strings.Contains(log.String(), "connection reset") {
		t.Errorf("the log does not tell of the first failure: %s", log.String())
	}
	fakeMaven(t, "echo called; exit 1")
	if cp, err := classpath(t.Context(), io.Discard, dir); err != nil || cp != "/dev/null" {
		t.Errorf("the second time: %q, %v, want it from the cache", cp, err)
	}
	if _, err := classpath(t.Context(), io.Discard, t.TempDir()); err == nil || !strings.Contains(err.Error(), "called") {
		t.Errorf("got %v, want what Maven said", err)
	}
}

func TestMissingTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("JAVA_HOME", "")
	if _, err := javaBinary(); !errors.Is(err, ErrNoTools) || !strings.Contains(err.Error(), "openjdk-17-jdk-headless") {
		t.Errorf("without java: %v", err)
	}
	t.Setenv("JAVA_HOME", t.TempDir())
	if _, err := javaBinary(); !errors.Is(err, ErrNoTools) || !strings.Contains(err.Error(), "JAVA_HOME") {
		t.Errorf("with a wrong JAVA_HOME: %v", err)
	}
	if _, err := classpath(t.Context(), io.Discard, t.TempDir()); !errors.Is(err, ErrNoTools) || !strings.Contains(err.Error(), "maven") {
		t.Errorf("without mvn: %v", err)
	}
}

func TestOldJava(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "java")
	for text, ok := range map[string]bool{
		`openjdk version "1.8.0_402"`: false,
		`openjdk version "11.0.2"`:    false,
		`openjdk version "17.0.15"`:   true,
		`openjdk version "21"`:        true,
		`some other Java`:             true,
	} {
		if err := os.WriteFile(bin, []byte("#!/bin/sh\necho '"+text+"' >&2\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := checkVersion(t.Context(), bin); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestStartRefusesAFullFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := &Stack{}
	if err := s.makeDir(dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("got %v", err)
	}
}
