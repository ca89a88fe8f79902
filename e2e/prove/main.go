// Command prove runs every test at full counts and writes docs/proof.md: what was shown, with seeds, on which commit and
// machine. `make prove` calls it. It fails when a test fails, after writing what was found.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// event is a line of `go test -json`.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

type shown struct {
	pkg, name, outcome string
	seconds            float64
	said               []string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "prove:", err)
		os.Exit(1)
	}
}

func run() error {
	commit := output("git", "rev-parse", "--short=12", "HEAD")
	if output("git", "status", "--porcelain", "--", ":!docs/proof.md") != "" {
		commit += ", with changes"
	}
	began := time.Now()
	args := append([]string{"test", "-json", "-count=1", "-p", "1", "-parallel", "4", "-timeout", "4h"}, os.Args[1:]...)
	if len(os.Args) == 1 {
		args = append(args, "./...")
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "DROVER_PROVE=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	tests, err := collect(out)
	if err != nil {
		return err
	}
	failed := cmd.Wait()

	var doc bytes.Buffer
	fmt.Fprintf(&doc, "# Proof\n\nWhat `make prove` showed: every test at full counts. A seed repeats a test: `DROVER_SEED=n DROVER_PROVE=1 go test -count=1 -run NAME ./PACKAGE`.\n\n")
	fmt.Fprintf(&doc, "| | |\n|---|---|\n| commit | %s |\n| date | %s, %v in all |\n| machine | %s |\n| Go | %s |\n| Java | %s |\n",
		commit, began.UTC().Format("2006-01-02 15:04 MST"), time.Since(began).Round(time.Second), machine(), runtime.Version(), java())
	pass, fail := 0, 0
	for _, t := range tests {
		if t.outcome == "pass" {
			pass++
		} else {
			fail++
		}
	}
	fmt.Fprintf(&doc, "| result | %d passed, %d not |\n", pass, fail)
	fmt.Fprintf(&doc, "\n## End to end\n\n")
	for _, t := range tests {
		if !strings.HasSuffix(t.pkg, "/e2e") && t.name != "TestFences" { // which is beside what it is about, and on a real ensemble
			continue
		}
		fmt.Fprintf(&doc, "### %s: %s, %.0f s\n\n", t.name, t.outcome, t.seconds)
		if len(t.said) > 0 {
			fmt.Fprintf(&doc, "```\n%s\n```\n\n", strings.Join(t.said, "\n"))
		}
	}
	fmt.Fprintf(&doc, "## Packages\n\n| package | tests passed | not |\n|---|---|---|\n")
	by := map[string][2]int{}
	var names []string
	for _, t := range tests {
		c, ok := by[t.pkg]
		if !ok {
			names = append(names, t.pkg)
		}
		if t.outcome == "pass" {
			c[0]++
		} else {
			c[1]++
		}
		by[t.pkg] = c
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Fprintf(&doc, "| %s | %d | %d |\n", n, by[n][0], by[n][1])
	}
	if err := os.WriteFile(filepath.Join("docs", "proof.md"), doc.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Printf("%d passed, %d failed\n", pass, fail)
	return failed
}

var location = regexp.MustCompile(`^\s*\w+_test\.go:\d+: `)

// collect reads the events, shows the tests as they end, and keeps what they said.
func collect(r io.Reader) ([]*shown, error) {
	var tests []*shown
	by := map[string]*shown{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Test == "" {
			continue
		}
		top, sub, _ := strings.Cut(e.Test, "/")
		key := e.Package + " " + top
		t := by[key]
		if t == nil {
			t = &shown{pkg: e.Package, name: top, outcome: "did not end"}
			by[key] = t
			tests = append(tests, t)
		}
		switch e.Action {
		case "output":
			if location.MatchString(e.Output) {
				line := strings.TrimRight(location.ReplaceAllString(e.Output, ""), "\n")
				if sub != "" {
					line = sub + ": " + line
				}
				t.said = append(t.said, line)
			}
		case "pass", "fail", "skip":
			if sub == "" {
				t.outcome, t.seconds = e.Action, e.Elapsed
				fmt.Printf("%-5s %6.1f s  %s %s\n", e.Action, e.Elapsed, e.Package, top)
			}
		}
	}
	return tests, lines.Err()
}

func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			model = strings.TrimSpace(strings.TrimLeft(line, "\t: "))
		}
	}
	memory := ""
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(info), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf(", %d GiB of memory", (kib+512<<10)>>20)
		}
	}
	return fmt.Sprintf("%s, %d cores%s, %s/%s", model, runtime.NumCPU(), memory, runtime.GOOS, runtime.GOARCH)
}

func java() string {
	out, err := exec.Command("java", "-version").CombinedOutput()
	if err != nil {
		return "none"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
