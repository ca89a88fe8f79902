// Package deploy holds the test of the units, manifests and Dockerfile beside it, and of what docs/*.md say of commands and files:
// each command and flag is one that the binary has, each variable one that the code reads, each link leads somewhere.
package deploy

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"

	"drover/jobfile"
)

const (
	// drain is how long a worker that is told to end may take: what is in flight is waited for at most 30 s, and the leader's word that it
	// has heard at most a session timeout, which is 10 s by default.
	drain = 40 * time.Second
	root  = ".."
)

// drover is the binary, built by TestMain.
var drover string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "drover-deploy-")
		if err == nil {
			defer os.RemoveAll(dir)
			drover = filepath.Join(dir, "drover")
			var out []byte
			if out, err = exec.Command("go", "build", "-o", drover, "drover/cmd/drover").CombinedOutput(); err != nil {
				err = fmt.Errorf("build cmd/drover: %w\n%s", err, out)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

var (
	usageLine = regexp.MustCompile(`(?m)^Usage:\n  drover (.*)$`)
	flagLine  = regexp.MustCompile(`(?m)^ +(?:-(\w), )?    ?(?:--([\w-]+))( \w+)?   *\S`)
	upperWord = regexp.MustCompile(`^[A-Z]`)
)

// command gives what is wrong with the words behind "drover": the command, its flags and their values' types, as the binary parses them,
// and how many other words there are.
func command(words []string) error {
	cmd := exec.Command(drover, append(slices.Clone(words), "--help")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	help, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	usage := usageLine.FindStringSubmatch(string(help))
	if usage == nil {
		return nil // a command that only has others, asked for its help
	}
	takes := map[string]bool{}
	for _, f := range flagLine.FindAllStringSubmatch(string(help), -1) {
		takes["--"+f[2]] = f[3] != ""
		if f[1] != "" {
			takes["-"+f[1]] = f[3] != ""
		}
	}
	var name, needs, others []string
	for w := range strings.FieldsSeq(usage[1]) {
		switch {
		case upperWord.MatchString(w):
			needs = append(needs, w)
		case strings.HasPrefix(w, "["):
		default:
			name = append(name, w)
		}
	}
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "--":
			others = append(others, words[i+1:]...)
			i = len(words)
		case strings.HasPrefix(w, "-") && len(w) > 1:
			if !strings.Contains(w, "=") && takes[w] {
				i++
			}
		default:
			others = append(others, w)
		}
	}
	if n := len(others) - len(name); n < len(needs) {
		return fmt.Errorf("it wants %v, and has %v", needs, others[min(len(name), len(others)):])
	}
	return nil
}

// value is the default of a flag of a command.
func value(t *testing.T, command, flag string) time.Duration {
	t.Helper()
	help, err := exec.Command(drover, command, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`--` + flag + ` .*\(default ([^)]*)\)`).FindSubmatch(help)
	if m == nil {
		t.Fatalf("drover %s has no --%s", command, flag)
	}
	d, err := time.ParseDuration(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCommandFindsFaults(t *testing.T) {
	for _, good := range []string{"worker --capacity 8 --label dc=east", "submit job.yaml --wait", "drain w1", "agent drain --node n --zookeeper z:1", "endpoints --write=f x.yaml"} {
		if err := command(strings.Fields(good)); err != nil {
			t.Errorf("drover %s: %v", good, err)
		}
	}
	for _, bad := range []string{"wrker", "worker --capcity 8", "worker --capacity eight", "submit --wait", "agent drian --node n --nope", "drain --zookeeper w1"} {
		if err := command(strings.Fields(bad)); err == nil {
			t.Errorf("drover %s is taken", bad)
		}
	}
}

// unit is a systemd unit: by section and key, its values in their order.
type unit map[string]map[string][]string

func parseUnit(text string) (unit, error) {
	u := unit{}
	section := ""
	for i, line := range strings.Split(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
			u[section] = map[string][]string{}
		case !ok || section == "" || key == "" || strings.ContainsAny(key, " \t"):
			return nil, fmt.Errorf("line %d: %q is neither a section nor a setting in one", i+1, line)
		default:
			u[section][key] = append(u[section][key], value)
		}
	}
	for name := range u {
		if !slices.Contains([]string{"Unit", "Service", "Install"}, name) {
			return nil, fmt.Errorf("section %s", name)
		}
	}
	return u, nil
}

func (u unit) one(t *testing.T, section, key string) string {
	t.Helper()
	if v := u[section][key]; len(v) == 1 {
		return v[0]
	}
	t.Fatalf("%s.%s is %q, want one", section, key, u[section][key])
	return ""
}

// words splits as a shell and systemd do, without variables: by blanks that are not quoted.
func words(line string) (list []string) {
	var word strings.Builder
	quote, in := rune(0), false
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				list = append(list, word.String())
			}
			word.Reset()
			in = false
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if in {
		list = append(list, word.String())
	}
	return list
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func glob(t *testing.T, patterns ...string) (all []string) {
	t.Helper()
	for _, p := range patterns {
		files, err := filepath.Glob(p)
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", p, err)
		}
		all = append(all, files...)
	}
	return all
}

func TestUnits(t *testing.T) {
	stops := map[string]time.Duration{
		"drover-worker.service":    drain,
		"drover-agent.service":     value(t, "agent", "drain") + value(t, "agent", "restart-timeout"),
		"drover-endpoints.service": 0,
	}
	var units []string
	for _, file := range glob(t, "*.service") {
		t.Run(file, func(t *testing.T) {
			text := read(t, file)
			u, err := parseUnit(text)
			if err != nil {
				t.Fatal(err)
			}
			path, rest, _ := strings.Cut(u.one(t, "Service", "ExecStart"), " ")
			if path != "/usr/local/bin/drover" {
				t.Errorf("ExecStart begins with %s", path)
			}
			line := words(rest)
			// A word that is a variable is split into words, or nothing: those that the head of the unit shows.
			line = slices.DeleteFunc(line, func(w string) bool { return strings.HasPrefix(w, "$") && !strings.HasPrefix(w, "${") })
			if err := command(line); err != nil {
				t.Errorf("ExecStart: drover %q: %v", line, err)
			}
			if m := regexp.MustCompile(`(?m)^# +(\w+_FLAGS)=(.*)$`).FindStringSubmatch(text); m != nil {
				if !strings.Contains(rest, "$"+m[1]) {
					t.Errorf("$%s is not in ExecStart", m[1])
				}
				if err := command(append(line, words(m[2])...)); err != nil {
					t.Errorf("with %s: %v", m[1], err)
				}
			} else if strings.Contains(rest, "_FLAGS") {
				t.Error("the head of the unit shows no flags")
			}
			stop, known := stops[file]
			if !known {
				t.Fatal("say how long its end may take")
			}
			if have := u["Service"]["TimeoutStopSec"]; stop > 0 {
				seconds, err := strconv.Atoi(u.one(t, "Service", "TimeoutStopSec"))
				if err != nil || time.Duration(seconds)*time.Second <= stop {
					t.Errorf("TimeoutStopSec is %s, want more than the %v that it may take", have, stop)
				}
				if mode := u.one(t, "Service", "KillMode"); mode != "mixed" {
					t.Errorf("KillMode %s: what it started must not end before it", mode)
				}
			}
			if s := u["Service"]["KillSignal"]; s != nil && s[0] != "SIGTERM" && s[0] != "SIGINT" {
				t.Errorf("KillSignal %s: it does not drain", s)
			}
		})
		units = append(units, file)
	}
	t.Run("verify", func(t *testing.T) {
		tool, err := exec.LookPath("systemd-analyze")
		if err != nil {
			t.Skip("systemd-analyze is not installed: the units' settings are not checked")
		}
		dir := t.TempDir()
		args := []string{"verify", "--man=no", "--recursive-errors=no"}
		for _, file := range units {
			copied := filepath.Join(dir, file)
			text := strings.ReplaceAll(read(t, file), "/usr/local/bin/drover", drover)
			if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			args = append(args, copied)
		}
		// It says what it does not know, and may end with 0 all the same.
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	})
}

func TestParseUnitRefuses(t *testing.T) {
	for _, text := range []string{"Type=exec\n", "[Service]\nnothing\n", "[Sevice]\nType=exec\n", "[Service]\nType exec=1\n"} {
		if u, err := parseUnit(text); err == nil {
			t.Errorf("%q is taken as %v", text, u)
		}
	}
}

// cluster is all that the manifests make, by kind and name.
type cluster struct {
	deployments map[string]apps.Deployment
	cronJobs    map[string]batch.CronJob
	budgets     map[string]policy.PodDisruptionBudget
	configs     map[string]core.ConfigMap
	secrets     map[string]core.Secret
}

var separator = regexp.MustCompile(`(?m)^---\s*$`)

// decode takes a manifest; what Kubernetes does not know, or stands twice, is a fault.
func (c *cluster) decode(text string) error {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal([]byte(text), &head); err != nil {
		return err
	}
	name := head.Metadata.Name
	if name == "" {
		return fmt.Errorf("a %s without a name", head.Kind)
	}
	switch kind := head.APIVersion + " " + head.Kind; kind {
	case "apps/v1 Deployment":
		return add(&c.deployments, name, text)
	case "batch/v1 CronJob":
		return add(&c.cronJobs, name, text)
	case "policy/v1 PodDisruptionBudget":
		return add(&c.budgets, name, text)
	case "v1 ConfigMap":
		return add(&c.configs, name, text)
	case "v1 Secret":
		return add(&c.secrets, name, text)
	default:
		return fmt.Errorf("%s is not looked for", kind)
	}
}

func add[T any](to *map[string]T, name, text string) error {
	var v T
	if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, there := (*to)[name]; there {
		return fmt.Errorf("%s stands twice", name)
	}
	if *to == nil {
		*to = map[string]T{}
	}
	(*to)[name] = v
	return nil
}

func TestManifests(t *testing.T) {
	var c cluster
	for _, file := range glob(t, "kubernetes/*.yaml") {
		for _, text := range separator.Split(read(t, file), -1) {
			if err := c.decode(text); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if len(c.deployments) == 0 || len(c.cronJobs) == 0 || len(c.budgets) == 0 || len(c.secrets) == 0 {
		t.Errorf("a kind is missing: %d deployments, %d cron jobs, %d budgets, %d secrets", len(c.deployments), len(c.cronJobs), len(c.budgets), len(c.secrets))
	}
	images := map[string]bool{}
	for name, d := range c.deployments {
		pod := d.Spec.Template
		for k, v := range d.Spec.Selector.MatchLabels {
			if pod.Labels[k] != v {
				t.Errorf("deployment %s looks for %s=%s, and its pods have %v", name, k, v, pod.Labels)
			}
		}
		if s := pod.Spec.TerminationGracePeriodSeconds; s == nil || time.Duration(*s)*time.Second <= drain {
			t.Errorf("deployment %s: its pods need more than %v to drain", name, drain)
		}
		for budget, b := range c.budgets {
			for k, v := range b.Spec.Selector.MatchLabels {
				if pod.Labels[k] != v {
					t.Errorf("budget %s looks for %s=%s, and the pods of %s have %v", budget, k, v, name, pod.Labels)
				}
			}
		}
		c.pod(t, name, pod.Spec, images)
	}
	for name, j := range c.cronJobs {
		c.pod(t, name, j.Spec.JobTemplate.Spec.Template.Spec, images)
		if p := j.Spec.JobTemplate.Spec.PodFailurePolicy; p != nil {
			for _, r := range p.Rules {
				container := r.OnExitCodes.ContainerName
				if !slices.ContainsFunc(j.Spec.JobTemplate.Spec.Template.Spec.Containers, func(x core.Container) bool { return container != nil && x.Name == *container }) {
					t.Errorf("cron job %s: its failure policy names no container", name)
				}
			}
		}
	}
	if len(images) != 1 {
		t.Errorf("images %v: want one version for all", images)
	}
	jobs := 0
	for name, m := range c.configs {
		for file, text := range m.Data {
			if filepath.Ext(file) != ".yaml" {
				continue
			}
			jobs++
			f, err := jobfile.Parse("/jobs/"+file, []byte(text))
			if err != nil {
				t.Errorf("job %s of %s: %v", file, name, err)
			} else if w := f.Warnings(); len(w) > 0 {
				t.Errorf("job %s of %s: %v", file, name, w)
			}
		}
	}
	if jobs == 0 {
		t.Error("no job")
	}
}

var reference = regexp.MustCompile(`\$\((\w+)\)`)

// pod checks what a pod starts, and that what it refers to is there.
func (c *cluster) pod(t *testing.T, name string, p core.PodSpec, images map[string]bool) {
	t.Helper()
	volumes := map[string]core.Volume{}
	for _, v := range p.Volumes {
		volumes[v.Name] = v
	}
	for _, x := range p.Containers {
		images[x.Image] = true
		env := map[string]bool{}
		for _, e := range x.Env {
			env[e.Name] = true
			from := e.ValueFrom
			switch {
			case from == nil || from.FieldRef != nil:
			case from.SecretKeyRef != nil:
				s := c.secrets[from.SecretKeyRef.Name]
				if _, there := s.StringData[from.SecretKeyRef.Key]; !there {
					t.Errorf("%s: %s is of secret %s, which has no %s", name, e.Name, from.SecretKeyRef.Name, from.SecretKeyRef.Key)
				}
			case from.ConfigMapKeyRef != nil:
				if _, there := c.configs[from.ConfigMapKeyRef.Name].Data[from.ConfigMapKeyRef.Key]; !there {
					t.Errorf("%s: %s is of config map %s, which has no %s", name, e.Name, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
				}
			}
		}
		for _, arg := range x.Args {
			for _, m := range reference.FindAllStringSubmatch(arg, -1) {
				if !env[m[1]] {
					t.Errorf("%s: %s names no variable of the container", name, arg)
				}
			}
		}
		if err := command(x.Args); err != nil {
			t.Errorf("%s: drover %q: %v", name, x.Args, err)
		}
		for _, m := range x.VolumeMounts {
			v, there := volumes[m.Name]
			if !there {
				t.Errorf("%s: there is no volume %s", name, m.Name)
			}
			if v.ConfigMap == nil {
				continue
			}
			config, there := c.configs[v.ConfigMap.Name]
			if !there {
				t.Errorf("%s: there is no config map %s", name, v.ConfigMap.Name)
			}
			for _, arg := range x.Args {
				if file, below := strings.CutPrefix(arg, m.MountPath+"/"); below && config.Data[file] == "" {
					t.Errorf("%s: config map %s has no %s", name, v.ConfigMap.Name, file)
				}
			}
		}
		if !*x.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s: its files can be written", name)
		}
	}
}

func TestManifestsAreStrict(t *testing.T) {
	for _, bad := range []string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndat: {}\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b}\ndata: {a: b}\n",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: four}\n",
		"apiVersion: v2\nkind: ConfigMap\nmetadata: {name: a}\n", "apiVersion: v1\nkind: ConfigMap\n",
	} {
		if err := new(cluster).decode(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestDockerfile(t *testing.T) {
	text := read(t, "Dockerfile")
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, root+"/go.mod"))
	if !strings.Contains(text, "FROM golang:"+version[1]+" ") {
		t.Errorf("it is not built with Go %s, of go.mod", version[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^RUN make (\w+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(read(t, root+"/Makefile"), "\n"+m[1]+":") {
			t.Errorf("there is no make %s", m[1])
		}
	}
}

// sources is the text of all of the project's Go files but tests.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			all.WriteString(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// Every variable that is named is read somewhere: by its name, or as the agent's, which has one for each flag.
func TestVariables(t *testing.T) {
	code := sources(t)
	help, err := exec.Command(drover, "agent", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range glob(t, "*.service", "kubernetes/*.yaml", root+"/docs/*.md", root+"/README.md") {
		for _, name := range regexp.MustCompile(`\bDROVER_[A-Z_]+\b`).FindAllString(read(t, file), -1) {
			seen++
			flag, agents := strings.CutPrefix(name, "DROVER_AGENT_")
			flag = strings.ToLower(strings.ReplaceAll(flag, "_", "-"))
			tests := name == "DROVER_PROVE" || name == "DROVER_RECORD" || name == "DROVER_SEED"
			if !strings.Contains(code, `"`+name+`"`) && !tests && !(agents && strings.Contains(string(help), "--"+flag+" ")) {
				t.Errorf("%s: nothing reads %s", file, name)
			}
		}
	}
	if seen == 0 {
		t.Error("no variable is named")
	}
}

var (
	fence   = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	setting = regexp.MustCompile(`^[A-Z_]+=\S*$`)
)

// TestDocumentedCommands takes each line of the examples in the documents that calls drover.
func TestDocumentedCommands(t *testing.T) {
	seen := 0
	for _, file := range glob(t, root+"/docs/*.md", root+"/README.md") {
		for _, block := range fence.FindAllStringSubmatch(read(t, file), -1) {
			for line := range strings.SplitSeq(block[1], "\n") {
				line = strings.TrimPrefix(line, "$ ")
				for _, cut := range []string{" #", " | ", " >", " 2>", " &"} {
					line, _, _ = strings.Cut(line, cut)
				}
				w := words(line)
				for len(w) > 0 && setting.MatchString(w[0]) {
					w = w[1:]
				}
				if len(w) < 2 || w[0] != "drover" {
					continue
				}
				seen++
				if err := command(w[1:]); err != nil {
					t.Errorf("%s: %s: %v", file, line, err)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d commands were found", seen)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`)
)

// anchors are what GitHub makes of a document's headings.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		name := strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
		for n, base := 1, name; all[name]; n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		all[name] = true
	}
	return all
}

// TestLinks follows each link of the documents to a file, and to a heading where it names one.
func TestLinks(t *testing.T) {
	seen := 0
	for _, file := range glob(t, root+"/*.md", root+"/docs/*.md", root+"/models/*.md") {
		text := read(t, file)
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			seen++
			path, anchor, named := strings.Cut(m[1], "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s leads nowhere", file, m[1])
			} else if named && !anchors(read(t, target))[anchor] {
				t.Errorf("%s: %s has no such heading", file, m[1])
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d links were found", seen)
	}
}

func TestAnchors(t *testing.T) {
	got := anchors("# The job file\n## source.hbase\n## A, b & c\n## Size\n## Size\n```\n# none\n```\n")
	for _, want := range []string{"the-job-file", "sourcehbase", "a-b--c", "size", "size-1"} {
		if !got[want] {
			t.Errorf("no %s in %v", want, got)
		}
	}
	if len(got) != 5 {
		t.Errorf("anchors %v", got)
	}
}
