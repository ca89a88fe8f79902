package jobfile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"

	"drover/fleet/share"
	"drover/fleet/tick"
	"drover/jobs"
)

// What a job file says to a pool of workers.

const (
	defaultPool   = "/drover/main"
	defaultPort   = ":9090" // in the advice of checkAddress
	zookeeperPort = ":2181"
	maxWeight     = 1000
	maxCatchUp    = 100 // as tick has it
)

// Schedule is when the pool is to run the job; nil is never by itself.
func (f *File) Schedule() *tick.Settings { return f.schedule }

// PoolTLS is TLS for `zookeeper.tls`.
func (f *File) PoolTLS() (*tls.Config, error) { return f.poolTLS.load() }

// ParseZooKeeper reads where a pool of workers is, as the flag --zookeeper and the variable DROVER_ZOOKEEPER have it:
// "zk1:2181,zk2:2181/drover/main", where the path may be left out. The error says what is wrong with the text and what would be
// right, for whoever names the flag or the variable before it.
func ParseZooKeeper(text string) (jobs.Ensemble, error) {
	if strings.Contains(text, "://") {
		return jobs.Ensemble{}, fmt.Errorf("%s is a URL; want addresses with commas between them, as in zk1:2181,zk2:2181%s", quote(text), defaultPool)
	}
	e := jobs.Ensemble{Path: defaultPool}
	servers, path, found := strings.Cut(text, "/")
	if found {
		e.Path = "/" + path
	}
	if strings.TrimSpace(servers) == "" {
		return jobs.Ensemble{}, fmt.Errorf("%s names no server; want addresses, and the pool's node where it is not %s, as in zk1:2181,zk2:2181%s", quote(text), defaultPool, defaultPool)
	}
	seen := map[string]bool{}
	for s := range strings.SplitSeq(servers, ",") {
		s = strings.TrimSpace(s)
		if s == "" {
			return jobs.Ensemble{}, fmt.Errorf("%s has a comma too many; want addresses with one between them, as in zk1:2181,zk2:2181", quote(text))
		}
		if msg := checkAddress(s); msg != "" {
			return jobs.Ensemble{}, errors.New(strings.ReplaceAll(msg, defaultPort, zookeeperPort))
		}
		same := strings.ToLower(s)
		if seen[same] {
			return jobs.Ensemble{}, fmt.Errorf("%s stands twice; a server is named once", quote(s))
		}
		seen[same] = true
		e.Servers = append(e.Servers, s)
	}
	if msg := checkPool(e.Path); msg != "" {
		return jobs.Ensemble{}, errors.New(msg)
	}
	return e, nil
}

// checkPool checks the node of a pool.
func checkPool(s string) string {
	if s == "/" {
		return "/ is the root of all that is in ZooKeeper; want a node for the pool alone, such as " + defaultPool
	}
	if s == "/zookeeper" || strings.HasPrefix(s, "/zookeeper/") {
		return fmt.Sprintf("%s is ZooKeeper's own; want a node such as %s", quote(s), defaultPool)
	}
	return checkNode(s)
}

// pool reads the keys at the top of the file that are about a pool.
func (d *decoder) pool(o object) {
	job := &d.file.job
	zk, hasPool := o.fields["zookeeper"]
	if hasPool {
		job.Pool = d.poolEnsemble(zk)
	}
	if f, ok := o.fields["priority"]; ok {
		s, _ := d.word(f, []string{string(jobs.Urgent), string(jobs.High), string(jobs.Normal), string(jobs.Low)})
		job.Priority = jobs.Priority(s)
	}
	if f, ok := o.fields["weight"]; ok {
		n, _ := d.whole(f, 1, maxWeight)
		job.Weight = int(n)
	}
	if f, ok := o.fields["schedule"]; ok {
		d.file.schedule = d.schedule(f)
	}
	if f, ok := o.fields["needs"]; ok {
		job.Needs = d.labels(f)
	}
	if f, ok := o.fields["state"]; ok {
		s, ok := d.word(f, []string{"local", "zookeeper"})
		job.Pooled = ok && s == "zookeeper"
		if job.Pooled && !hasPool && !d.bad["zookeeper"] {
			d.wrong(f, `needs the pool's ensemble beside it: give zookeeper: {servers: ["zk1:2181", "zk2:2181"]}, or take this out`)
		}
	}
}

// poolEnsemble reads a mapping, or the text of ParseZooKeeper.
func (d *decoder) poolEnsemble(v value) *jobs.Ensemble {
	if s, text := v.node.(*ast.StringNode); text {
		e, err := ParseZooKeeper(s.Value)
		if err != nil {
			d.wrong(v, "%v", err)
		}
		return &e
	}
	o, ok := d.object(v, "zookeeper")
	if !ok {
		return nil
	}
	e := &jobs.Ensemble{Path: defaultPool}
	d.ensemble(o, e, &d.file.poolTLS)
	if f, ok := o.fields["path"]; ok {
		if e.Path, ok = d.text(f, "the pool's node, such as "+defaultPool); ok {
			if msg := checkPool(e.Path); msg != "" {
				d.wrong(f, "%s", msg)
			}
		}
	}
	return e
}

// ensemble reads what a section says of an ensemble and the session with it. Its path is the section's own.
func (d *decoder) ensemble(o object, e *jobs.Ensemble, conf **tlsFiles) {
	if f, ok := d.require(o, "servers", `the ensemble's addresses, such as ["zk1:2181", "zk2:2181"]`); ok {
		e.Servers = d.addresses(f, "zk1:2181", "a server")
	}
	if f, ok := o.fields["session_timeout"]; ok {
		if t, ok := d.duration(f); ok {
			if t < minSession || t > maxSession {
				d.wrong(f, "want a length of time from 1s to 5m, got %s", t)
			}
			e.SessionTimeout = t
		}
	}
	if f, ok := o.fields["auth"]; ok {
		if e.Auth, ok = d.text(f, "digest:USER:PASSWORD, or env:NAME of a variable that holds it"); ok {
			if msg := checkAuth(e.Auth); msg != "" {
				d.wrong(f, "%s", msg)
			} else if strings.HasPrefix(e.Auth, "digest:") {
				d.warn(o.path + ".auth holds a password: whoever can read the job file has it; env:NAME takes it from a variable")
			}
		}
	}
	if f, ok := o.fields["tls"]; ok {
		e.TLS = true
		*conf = d.tls(f, o.path)
	}
}

// everyDay stands in for a schedule's cron while another key of it is checked.
const everyDay = "0 0 * * *"

// schedule reads a cron text, or a mapping of tick.Settings.
func (d *decoder) schedule(v value) *tick.Settings {
	s := &tick.Settings{}
	if _, mapping := v.node.(*ast.MappingNode); !mapping {
		text, ok := d.quoted(v, `a cron text, such as "0 3 * * *", or a mapping with keys (`+strings.Join(sections["schedule"], ", ")+")", "")
		if ok {
			s.Cron = text
			d.ticks(v, "cron", tick.Settings{Cron: text})
		}
		return s
	}
	o, ok := d.object(v, "schedule")
	if !ok {
		return s
	}
	if f, ok := d.require(o, "cron", `minute, hour, day of the month, month and day of the week, such as "0 3 * * *"`); ok {
		if s.Cron, ok = d.text(f, `minute, hour, day of the month, month and day of the week, such as "0 3 * * *"`); ok {
			d.ticks(f, "cron", tick.Settings{Cron: s.Cron})
		}
	}
	if f, ok := o.fields["zone"]; ok {
		s.Zone = d.zone(f)
	}
	if f, ok := o.fields["overlap"]; ok {
		w, _ := d.word(f, []string{string(tick.Skip), string(tick.Queue), string(tick.Replace)})
		s.Overlap = tick.Overlap(w)
	}
	if f, ok := o.fields["misfire"]; ok {
		if s.Misfire, ok = d.duration(f); ok && s.Misfire == 0 {
			d.wrong(f, "want more than 0: it is how late the pool may be and the run still starts, such as 10m")
		}
	}
	if f, ok := o.fields["deadline"]; ok {
		s.Deadline, _ = d.duration(f)
	}
	if f, ok := o.fields["catch_up"]; ok {
		if n, ok := d.whole(f, 0, maxCatchUp); ok {
			s.CatchUp = int(n)
			d.ticks(f, "catch_up", tick.Settings{Cron: everyDay, CatchUp: s.CatchUp})
		}
	}
	if f, ok := o.fields["blackout"]; ok {
		s.Blackout = d.blackout(f)
	}
	return s
}

// blackout reads one window, or a list of them.
func (d *decoder) blackout(v value) (windows []string) {
	const want = `windows in which nothing starts, such as ["mon-fri 08:00-18:00", 2026-12-24]`
	items := []value{v}
	if _, list := v.node.(*ast.SequenceNode); list {
		var ok bool
		if items, ok = d.list(v, want); !ok {
			return nil
		}
		if len(items) == 0 {
			d.wrong(v, "is empty; take the key out, or give "+want)
		}
	}
	for _, item := range items {
		if text, ok := d.quoted(item, want, ""); ok {
			d.ticks(item, "blackout:", tick.Settings{Cron: everyDay, Blackout: []string{text}})
			windows = append(windows, text)
		}
	}
	return windows
}

func (d *decoder) zone(v value) string {
	text, ok := d.text(v, "a zone, such as Europe/Berlin or UTC")
	if ok {
		d.ticks(v, "zone", tick.Settings{Cron: everyDay, Zone: text})
	}
	return text
}

// ticks reports what a schedule finds wrong with one of its settings; about is how its text names that.
func (d *decoder) ticks(v value, about string, s tick.Settings) {
	if _, err := tick.Parse(s); err != nil {
		d.wrong(v, "%s", strings.TrimPrefix(err.Error(), about+" "))
	}
}

// daily reads which part of the limits holds when: the text of share.ParseDaily, or a mapping of windows to parts.
func (d *decoder) daily(o object) {
	daily := &d.file.job.Daily
	zone, hasZone := o.fields["zone"]
	if hasZone {
		daily.Zone = d.zone(zone)
	}
	f, ok := o.fields["daily"]
	if !ok {
		if hasZone && !d.bad["limits.daily"] {
			d.add(zone.key, zone.path, "has no meaning without limits.daily")
		}
		return
	}
	if l := d.file.job.Limits; l == (jobs.Limits{}) && !d.bad["limits.rows"] && !d.bad["limits.bytes"] {
		d.add(f.key, f.path, "is a part of limits, and there are none; give rows or bytes beside it")
	}
	if _, mapping := f.node.(*ast.MappingNode); !mapping {
		const want = `windows with the part of the limits in each, such as "night: 100%, day: 20%"`
		if daily.Windows, ok = d.quoted(f, want, ""); ok {
			if _, err := share.ParseDaily(daily.Windows, time.UTC); err != nil {
				d.wrong(f, "%v", err)
			}
		}
		return
	}
	windows, ok := d.entries(f, "a mapping of windows to parts of the limits, such as {night: 100%, day: 20%}")
	if !ok {
		return
	}
	if len(windows.order) == 0 && !d.badUnder(windows.path) {
		d.wrong(f, "is empty; take the key out, or give windows, such as {night: 100%%, day: 20%%}")
	}
	var texts []string
	for _, window := range windows.order {
		f := windows.fields[window]
		part, ok := d.quoted(f, "a part of the limits, such as 20%", "")
		if !ok {
			continue
		}
		text := window + ": " + part
		if _, err := share.ParseDaily(text, time.UTC); err != nil {
			d.wrong(f, "%v", err)
		}
		texts = append(texts, text)
	}
	daily.Windows = strings.Join(texts, ", ")
}

// labels reads the labels that a worker must have.
func (d *decoder) labels(v value) map[string]string {
	o, ok := d.entries(v, "a mapping of labels to their values, such as {dc: east}")
	if !ok {
		return nil
	}
	if len(o.order) == 0 && !d.badUnder(o.path) {
		d.wrong(v, "is empty; take the key out, or name labels, such as {dc: east}")
	}
	out := map[string]string{}
	for _, name := range o.order {
		f := o.fields[name]
		if odd := stranger(name, "_.-/"); odd != "" || name == "" {
			d.add(f.key, f.path, "%s is no label: want letters, digits, '_', '.', '-' and '/'", quote(name))
			continue
		}
		s, ok := d.text(f, "the value that a worker's label must have")
		if !ok {
			continue
		}
		if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.Contains(s, ",") {
			d.wrong(f, "%s has a comma or a character in it that cannot be printed; no worker's label has them", quote(s))
		}
		out[name] = s
	}
	return out
}
