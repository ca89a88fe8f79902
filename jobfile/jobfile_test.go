package jobfile

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the expected outputs under testdata anew")

// TestFaults reads every file of testdata/faults, each with a mistake in it, and compares what is printed with the .txt
// beside it. After a change of wording run it with -update, and read the difference.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files with faults, %v; want at least 100", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse("job.yaml", data)
			var faults *Errors
			if !errors.As(err, &faults) {
				t.Fatalf("error is %v, want *Errors", err)
			}
			checkFaults(t, data, faults)
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("printed:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// checkFaults checks what holds for the faults of any file.
func checkFaults(t *testing.T, data []byte, e *Errors) {
	t.Helper()
	if len(e.Faults) == 0 {
		t.Fatal("an error without a fault")
	}
	lines := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	for i, f := range e.Faults {
		if f.Line < 1 || f.Line > len(lines) {
			t.Fatalf("fault %+v is outside the file's %d lines", f, len(lines))
		}
		if n := len([]rune(lines[f.Line-1])); f.Column < 1 || f.Column > n+1 {
			t.Errorf("fault %+v is outside its line of %d characters", f, n)
		}
		if strings.TrimSpace(f.Msg) == "" {
			t.Errorf("fault %+v says nothing", f)
		}
		if i > 0 && f.Line < e.Faults[i-1].Line {
			t.Errorf("fault %+v comes after one of line %d", f, e.Faults[i-1].Line)
		}
		if slices.ContainsFunc(e.Faults[:i], func(g Fault) bool { return f == g }) {
			t.Errorf("fault %+v is reported twice", f)
		}
	}
	if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
		t.Errorf("a control character in %q", e.Error())
	}
}

var (
	index      = regexp.MustCompile(`\[\d+\]`)
	familyPath = regexp.MustCompile(`^target\.families\.[^.]+\.`)
)

// generic turns the path of a value into the path of its key in sections.
func generic(path string) string {
	return familyPath.ReplaceAllString(index.ReplaceAllString(path, ""), "target.families.")
}

// TestEveryKeyIsTestedRightAndWrong fails for a key of the format that no test file sets well, or none wrongly.
func TestEveryKeyIsTestedRightAndWrong(t *testing.T) {
	wrong, right := map[string]bool{}, map[string]bool{}
	for _, pattern := range []string{"testdata/faults/*.yaml", "testdata/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			d := &decoder{walker: walker{at: map[string]span{}, bad: map[string]bool{}}}
			if root, ok := d.parse(data); ok {
				d.root(root)
			}
			for _, f := range d.faults {
				wrong[generic(f.Path)] = true
			}
			if len(d.faults) == 0 {
				for p := range d.at {
					right[generic(p)] = true
				}
			}
		}
	}
	for section, keys := range sections {
		for _, key := range keys {
			path := join(strings.Replace(section, rowSection, "map", 1), key)
			if !wrong[path] {
				t.Errorf("no file of testdata/faults has a fault at %s", path)
			}
			if !right[path] {
				t.Errorf("no good file of testdata sets %s", path)
			}
		}
	}
}
