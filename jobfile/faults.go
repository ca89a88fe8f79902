package jobfile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fault is one thing wrong with a job file.
type Fault struct {
	Line   int    // from 1
	Column int    // from 1, in characters
	Path   string // the key at fault, "map.columns[2].to"; "" when it is the file as a whole
	Msg    string // what is wrong and what would be right

	width int // characters to underline; 0 shows no source
}

// Errors are all the faults found in a job file, in the order of the file; there is at least one.
type Errors struct {
	File   string
	Faults []Fault

	lines []string // the source, for excerpts
}

// excerptWidth is how many characters of a source line are shown: lines longer than that are cut around the fault.
const excerptWidth = 110

// Error prints each fault on a line as file:line:column: path: message, with the source line under it.
func (e *Errors) Error() string {
	var b strings.Builder
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, f.Line, f.Column)
		if f.Path != "" {
			b.WriteString(f.Path + ": ")
		}
		b.WriteString(f.Msg)
		e.excerpt(&b, f)
	}
	return b.String()
}

func (e *Errors) excerpt(b *strings.Builder, f Fault) {
	if f.width == 0 || f.Line > len(e.lines) || strings.TrimSpace(e.lines[f.Line-1]) == "" {
		return
	}
	line, before := []rune(strings.ToValidUTF8(e.lines[f.Line-1], "\uFFFD")), f.Column-1
	var head, tail string
	if start := before - excerptWidth/2; start > 0 && len(line) > excerptWidth {
		line, before, head = line[start:], before-start, "…"
	}
	if len(line) > excerptWidth {
		line, tail = line[:excerptWidth], "…"
	}
	for i, r := range line {
		if !unicode.IsPrint(r) && r != '\t' {
			line[i] = '\uFFFD' // a job file must not be able to steer a terminal
		}
	}
	before = min(before, len(line))
	indent := make([]rune, before)
	for i := range indent {
		indent[i] = ' '
		if line[i] == '\t' {
			indent[i] = '\t'
		}
	}
	width := max(1, min(f.width, len(line)-before))
	fmt.Fprintf(b, "\n%6d | %s%s%s", f.Line, head, string(line), tail)
	fmt.Fprintf(b, "\n       | %s%s%s", strings.Repeat(" ", utf8.RuneCountInString(head)), string(indent), strings.Repeat("^", width))
}

func sortFaults(faults []Fault) {
	slices.SortStableFunc(faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// nearest gives the candidate that a person who wrote word most likely meant, or "".
func nearest(word string, candidates []string) string {
	plain := func(s string) string {
		return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(s), "-", "_"), " ", "_")
	}
	best, least := "", 1+min(3, max(1, len(word)/3))
	for _, c := range candidates {
		if d := distance(plain(word), plain(c)); d < least && d < len(c) {
			best, least = c, d
		}
	}
	return best
}

// longer gives the candidate that word says in a longer or shorter way, such as max for maximum or ca for ca_file, or "".
func longer(word string, candidates []string) string {
	for _, c := range candidates {
		if strings.HasPrefix(word, c) || strings.HasSuffix(word, "_"+c) || len(word) > 2 && strings.HasPrefix(c, word) {
			return c
		}
	}
	return ""
}

// distance counts the letters to change, add, drop or swap with their neighbour to make b of a.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var older, old, row [65]int
	for j := range len(b) + 1 {
		old[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(old[j]+change, old[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], older[j-1]+1)
			}
		}
		older, old = old, row
	}
	return old[len(b)]
}

// oneOf lists words for a message: "a, b or c".
func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
