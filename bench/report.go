package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report gathers tables and verdicts. Each is printed as soon as it is complete.
type report struct {
	out   io.Writer
	quick bool
	head  []string
	parts []*part
	marks []verdict
}

// part is one table.
type part struct {
	title  string
	header []string
	rows   [][]string
	notes  []string
}

// verdict is one target and what became of it.
type verdict struct {
	target string
	figure string
	pass   bool
}

func newReport(ctx context.Context, out io.Writer, o options) *report {
	commit := "unknown"
	if b, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output(); err == nil {
		commit = string(bytes.TrimSpace(b))
	}
	r := &report{out: out, quick: o.quick, head: []string{
		"commit " + commit,
		"machine " + machine(),
		runtime.Version(),
		time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		fmt.Sprintf("seed %d", o.seed),
		fmt.Sprintf("load when started %s", loadAverage()),
		fmt.Sprintf("%d pairs, %d s each", o.pairs, o.seconds),
	}}
	fmt.Fprintln(out, strings.Join(r.head, " · "))
	return r
}

// loadAverage is of the last minute: on a shared machine it says how much to believe.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// add prints a table and keeps it for the Markdown.
func (r *report) add(p *part) {
	r.parts = append(r.parts, p)
	width := make([]int, len(p.header))
	for _, row := range append([][]string{p.header}, p.rows...) {
		for i, s := range row {
			width[i] = max(width[i], len([]rune(s)))
		}
	}
	fmt.Fprintf(r.out, "\n%s\n", p.title)
	for _, row := range append([][]string{p.header}, p.rows...) {
		for i, s := range row {
			pad := strings.Repeat(" ", width[i]-len([]rune(s)))
			if i == 0 {
				fmt.Fprintf(r.out, "  %s%s", s, pad)
			} else {
				fmt.Fprintf(r.out, "  %s%s", pad, s)
			}
		}
		fmt.Fprintln(r.out)
	}
	for _, n := range p.notes {
		fmt.Fprintln(r.out, "  "+n)
	}
}

// judge records whether a target is met.
func (r *report) judge(pass bool, target, figure string) {
	v := verdict{target, figure, pass}
	r.marks = append(r.marks, v)
	fmt.Fprintln(r.out, r.line(v))
}

func (r *report) line(v verdict) string {
	word := "MISS"
	switch {
	case v.pass:
		word = "PASS"
	case r.quick:
		word = "miss (not judged)"
	}
	return fmt.Sprintf("  %s  %s: %s", word, v.target, v.figure)
}

func (r *report) missed() bool {
	return slices.ContainsFunc(r.marks, func(v verdict) bool { return !v.pass })
}

func (r *report) verdicts() {
	fmt.Fprintln(r.out)
	for _, v := range r.marks {
		fmt.Fprintln(r.out, r.line(v))
	}
}

func (r *report) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Bench\n\n%s\n\n", strings.Join(r.head, " · "))
	for _, v := range r.marks {
		fmt.Fprintf(&b, "* %s\n", strings.TrimSpace(r.line(v)))
	}
	for _, p := range r.parts {
		fmt.Fprintf(&b, "\n## %s\n\n", p.title)
		line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
		line(p.header)
		rule := slices.Repeat([]string{"---:"}, len(p.header))
		rule[0] = "---"
		line(rule)
		for _, row := range p.rows {
			line(row)
		}
		for _, n := range p.notes {
			fmt.Fprintf(&b, "\n%s\n", n)
		}
	}
	return b.Bytes()
}

// spread is what a number was over the pairs.
type spread struct{ min, median, max float64 }

// spreadOf wants at least one.
func spreadOf(v []float64) spread {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return spread{s[0], (s[(n-1)/2] + s[n/2]) / 2, s[n-1]}
}

// row is a table's line of a name and the spread.
func (s spread) row(name, format string) []string {
	return []string{name, fmt.Sprintf(format, s.min), fmt.Sprintf(format, s.median), fmt.Sprintf(format, s.max)}
}

var spreadHeader = []string{"", "least", "median", "greatest"}

// ratios divides pair by pair.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}
