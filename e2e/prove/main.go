// Command prove runs every test at full counts and writes docs/proof.md: what was shown, with seeds, on which commit and
// machine. `make prove` calls it. It fails when a test fails, after writing what was found.
//
// With arguments, which are those of go test, it runs what they name, and what docs/proof.md says of other tests stays:
//
//	go run ./e2e/prove -run 'TestPool' ./e2e
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
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

	at := fmt.Sprintf("%s, %s", commit, began.UTC().Format("2006-01-02"))
	sections := map[string]string{}
	var order []string
	add := func(name, text string) {
		if sections[name] == "" {
			order = append(order, name)
		}
		sections[name] = text
	}
	was := ""
	if len(os.Args) > 1 {
		old, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for name, text := range read(string(old)) {
			add(name, text)
		}
		_, was, _ = strings.Cut(string(old), packages)
	}
	pass, fail := 0, 0
	for _, t := range tests {
		if t.outcome == "did not end" && len(os.Args) > 1 {
			continue // ended by hand: what is known stays
		}
		if t.outcome == "pass" {
			pass++
		} else {
			fail++
		}
		if !strings.HasSuffix(t.pkg, "/e2e") && !slices.Contains(beside, t.name) {
			continue
		}
		text := fmt.Sprintf("### %s: %s, %.0f s (%s)\n\n", t.name, t.outcome, t.seconds, at)
		if len(t.said) > 0 {
			text += fmt.Sprintf("```\n%s\n```\n\n", strings.Join(t.said, "\n"))
		}
		add(t.name, text)
	}
	well := 0
	for _, text := range sections {
		if heading, _, _ := strings.Cut(text, "\n"); strings.Contains(heading, ": pass, ") {
			well++
		}
	}
	var doc bytes.Buffer
	fmt.Fprintf(&doc, "# Proof\n\nWhat `make prove` showed: tests at full counts, each with the commit and the day of its last run. A seed repeats a test: `DROVER_SEED=n DROVER_PROVE=1 go test -count=1 -run NAME ./PACKAGE`.\n\n")
	fmt.Fprintf(&doc, "| | |\n|---|---|\n| last run | %s, %v |\n| machine | %s |\n| Go | %s |\n| Java | %s |\n| end to end | %d tests passed, %d not |\n",
		at, time.Since(began).Round(time.Second), machine(), runtime.Version(), java(), well, len(sections)-well)
	fmt.Fprintf(&doc, "\n## End to end\n\n")
	for _, name := range order {
		doc.WriteString(sections[name])
	}
	doc.WriteString(packages)
	if was != "" {
		doc.WriteString(was)
	} else {
		writePackages(&doc, tests, at)
	}
	if err := os.WriteFile(path, doc.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Printf("%d passed, %d failed\n", pass, fail)
	return failed
}

// beside are tests of packages that show what those end to end do.
var beside = []string{"TestFences", "TestSimulation", "TestServersPutBackHoldAll"}

const packages = "## Packages\n\n"

var path = filepath.Join("docs", "proof.md")

// read gives what a written proof says of each test end to end.
func read(doc string) iter.Seq2[string, string] {
	return func(yield func(name, text string) bool) {
		doc, _, _ = strings.Cut(doc, packages)
		for _, part := range strings.Split("\n"+doc, "\n### ")[1:] {
			if name, _, ok := strings.Cut(part, ":"); ok && !yield(name, "### "+strings.TrimRight(part, "\n")+"\n\n") {
				return
			}
		}
	}
}

func writePackages(doc *bytes.Buffer, tests []*shown, at string) {
	fmt.Fprintf(doc, "Of %s.\n\n| package | tests passed | not |\n|---|---|---|\n", at)
	by := map[string][2]int{}
	for _, t := range tests {
		c := by[t.pkg]
		if t.outcome == "pass" {
			c[0]++
		} else {
			c[1]++
		}
		by[t.pkg] = c
	}
	for _, n := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(doc, "| %s | %d | %d |\n", n, by[n][0], by[n][1])
	}
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
				line = strings.ReplaceAll(line, os.TempDir()+"/", "") // of this machine
				if sub != "" {
					line = sub + ": " + line
				}
				t.said = append(t.said, line)
			}
		case "pass", "fail", "skip":
			if sub == "" {
				t.outcome, t.seconds = e.Action, e.Elapsed
				fmt.Printf("%-5s %6.1f s  %s %s\n", e.Action, e.Elapsed, e.Package, top)
				if e.Action == "fail" {
					fmt.Println("\t" + strings.Join(t.said, "\n\t"))
				}
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
