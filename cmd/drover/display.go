package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"drover/discovery"
	"drover/hbase"
	"drover/runner"
)

// display shows a run while it goes: two lines that renew themselves on a terminal, a log line now and then elsewhere.
// It is also where log lines are written, so that they come out above the bar.
type display struct {
	out      io.Writer
	name     string
	mon      monitor
	tty      bool
	quiet    bool
	quit     chan struct{}
	wg       sync.WaitGroup
	mu       sync.Mutex
	bars     *mpb.Progress
	rates    rates
	alerts   map[discovery.AlertKind]string // of the gateways' source, by mu
	stopping sync.Once
	pool     func() string // why nothing is sent, by mu; nil is no pool
}

const (
	redraw    = 200 * time.Millisecond
	logEvery  = 10 * time.Second
	rateOver  = 5 * time.Second
	barSpaces = 24
)

// monitor is what a display looks at: a runner.Monitor, or a pool's run.
type monitor interface{ Look() runner.Progress }

func newDisplay(out io.Writer, name string, mon monitor, tty, quiet bool) *display {
	return &display{out: out, name: name, mon: mon, tty: tty, quiet: quiet, quit: make(chan struct{})}
}

// Write puts log lines above the bar.
func (d *display) Write(p []byte) (int, error) {
	d.mu.Lock()
	bars := d.bars
	d.mu.Unlock()
	if bars != nil {
		if n, err := bars.Write(p); err == nil {
			return n, nil
		}
	}
	return d.out.Write(p)
}

func (d *display) start() {
	if d.quiet {
		return
	}
	d.look()
	if !d.tty {
		d.wg.Go(d.logLines)
		return
	}
	d.mu.Lock()
	d.bars = mpb.New(mpb.WithOutput(d.out), mpb.WithRefreshRate(redraw), mpb.WithWidth(120))
	line := func(f func(runner.Progress) string) mpb.BarFiller {
		return mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
			s := f(d.look())
			if r := []rune(s); st.AvailableWidth > 1 && len(r) > st.AvailableWidth-1 {
				s = string(r[:st.AvailableWidth-1])
			}
			_, err := io.WriteString(w, s)
			return err
		})
	}
	top := d.bars.MustAdd(0, line(d.barLine), mpb.BarRemoveOnComplete())
	low := d.bars.MustAdd(0, line(d.lowLine), mpb.BarRemoveOnComplete())
	bars := d.bars
	d.mu.Unlock()
	d.wg.Go(func() {
		<-d.quit
		top.Abort(true)
		low.Abort(true)
		bars.Wait()
	})
}

func (d *display) stop() {
	d.stopping.Do(func() {
		close(d.quit)
		d.wg.Wait()
		d.mu.Lock()
		d.bars = nil
		d.mu.Unlock()
	})
}

func (d *display) look() runner.Progress {
	p := d.mon.Look()
	d.rates.add(time.Now(), p)
	return p
}

func (d *display) logLines() {
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p := d.look()
			fmt.Fprintf(d.out, "%s %s · %s\n", time.Now().Format(time.TimeOnly), d.barLine(p), d.lowLine(p))
		case <-d.quit:
			return
		}
	}
}

// barLine is the job with its bar, rates and ETA.
func (d *display) barLine(p runner.Progress) string {
	if p.Total == 0 {
		return fmt.Sprintf("%s  %s…", d.name, p.Phase)
	}
	docs, bytes, stored := d.rates.perSecond()
	done := float64(p.Stored) / float64(p.Total)
	full := int(done*barSpaces + 0.5)
	full = min(max(full, 0), barSpaces)
	eta := "--"
	if stored > 0 {
		eta = short(time.Duration(float64(p.Total-p.Stored) / stored * float64(time.Second)))
	}
	return fmt.Sprintf("%s %s%s %3.0f %%  %s rows/s  %s/s  ETA %s%s  shards %d/%d%s",
		d.name, strings.Repeat("█", full), strings.Repeat("░", barSpaces-full), done*100, count(docs), size(bytes), eta, gatewaysNote(p.Gateways),
		p.Ended, p.Shards, deadNote(p))
}

// alert keeps what the second line says of the gateways' source.
func (d *display) alert(a discovery.Alert) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.alerts == nil {
		d.alerts = map[discovery.AlertKind]string{}
	}
	d.alerts[a.Kind] = plainText(a.Text)
}

// held gives who says why the pool lets nothing be sent.
func (d *display) held(why func() string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pool = why
}

// lowLine is what the run waits for, and what is wrong with the gateways' source.
func (d *display) lowLine(p runner.Progress) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := waitLine(p)
	if d.pool != nil {
		if why := d.pool(); why != "" {
			text = why + " · " + text
		}
	}
	for _, kind := range []discovery.AlertKind{discovery.HeldAlert, discovery.LastGoodAlert, discovery.PinAlert, discovery.ProblemAlert} {
		if t := d.alerts[kind]; t != "" {
			t, _, _ = strings.Cut(t, ";") // what to do about it stands in the log
			text += " · gateways " + string(kind) + ": " + t
		}
	}
	return text
}

func deadNote(p runner.Progress) string {
	if p.Counts.Dead == 0 {
		return ""
	}
	return fmt.Sprintf("  dead %d", p.Counts.Dead)
}

// gatewaysNote is empty where they are not this process's.
func gatewaysNote(s hbase.Stats) string {
	if len(s.Gateways) == 0 {
		return ""
	}
	return "  gateways " + inUse(s)
}

func inUse(s hbase.Stats) string {
	up := 0
	for _, g := range s.Gateways {
		if g.State == "healthy" || g.State == "slow" {
			up++
		}
	}
	return fmt.Sprintf("%d/%d", up, len(s.Gateways))
}

// waitLine says what the run waits for most.
func waitLine(p runner.Progress) string {
	if len(p.Paused) > 0 {
		var out []string
		for _, t := range slices.Sorted(maps.Keys(p.Paused)) {
			name := "table " + t + " "
			if t == "" {
				name = ""
			}
			out = append(out, name+"paused: "+p.Paused[t])
		}
		return strings.Join(out, "; ")
	}
	if len(p.Slowed) > 0 {
		return slowedLine(p) + rampNote(p)
	}
	var total time.Duration
	var most runner.Wait
	for w, d := range p.Waits {
		total += d
		if most == "" || d > p.Waits[most] || d == p.Waits[most] && w < most {
			most = w
		}
	}
	if total <= 0 {
		return p.Phase
	}
	return fmt.Sprintf("waits most for %s (%.0f %% of the time)", most, 100*float64(p.Waits[most])/float64(total)) + rampNote(p)
}

// slowedLine says what HBase has no room for: the slowest first, and how many there are beside the first few.
func slowedLine(p runner.Progress) string {
	const most = 3
	var out []string
	for _, s := range p.Slowed[:min(len(p.Slowed), most)] {
		of := "its rate before"
		if s.Limited {
			of = "the limit"
		}
		out = append(out, fmt.Sprintf("%s, %s, %d %% of %s", s.Table, s.Why, s.Percent, of))
	}
	if n := len(p.Slowed) - most; n > 0 {
		out = append(out, fmt.Sprintf("and %d more", n))
	}
	return "slowed by HBase: " + strings.Join(out, "; ")
}

// rampNote says where ramps stand.
func rampNote(p runner.Progress) string {
	var out []string
	for _, t := range slices.Sorted(maps.Keys(p.Ramps)) {
		out = append(out, fmt.Sprintf("%s %d %%", t, p.Ramps[t]))
	}
	if len(out) == 0 {
		return ""
	}
	return " · ramp: " + strings.Join(out, ", ")
}

// rates keeps a few seconds of looks, for rates that follow what happens.
type rates struct {
	mu   sync.Mutex
	look []sighting
}

type sighting struct {
	at                  time.Time
	docs, bytes, stored int64
}

func (r *rates) add(now time.Time, p runner.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look = append(r.look, sighting{now, p.Counts.Rows, p.Counts.Bytes, p.Stored})
	for len(r.look) > 2 && now.Sub(r.look[0].at) > max(rateOver, logEvery+time.Second) {
		r.look = r.look[1:]
	}
}

func (r *rates) perSecond() (docs, bytes, stored float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.look) < 2 {
		return 0, 0, 0
	}
	a, b := r.look[0], r.look[len(r.look)-1]
	s := b.at.Sub(a.at).Seconds()
	if s <= 0 {
		return 0, 0, 0
	}
	return float64(b.docs-a.docs) / s, float64(b.bytes-a.bytes) / s, float64(b.stored-a.stored) / s
}

func count(f float64) string {
	switch {
	case f >= 1e6:
		return fmt.Sprintf("%.1fM", f/1e6)
	case f >= 1e4:
		return fmt.Sprintf("%.1fk", f/1e3)
	}
	return fmt.Sprintf("%.0f", f)
}

func size(f float64) string {
	switch {
	case f >= 1<<30:
		return fmt.Sprintf("%.1f GB", f/(1<<30))
	case f >= 1<<20:
		return fmt.Sprintf("%.1f MB", f/(1<<20))
	}
	return fmt.Sprintf("%.0f kB", f/(1<<10))
}

func short(d time.Duration) string {
	switch {
	case d >= 100*time.Hour:
		return ">100h"
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()+0.5))
}

// printBooks writes a run's end for people.
func printBooks(w io.Writer, r runner.Result) {
	head := fmt.Sprintf("%s: %s", r.Job, strings.ReplaceAll(string(r.State), "_", " "))
	switch {
	case r.State == runner.DeadLetters:
		head = fmt.Sprintf("%s: done, with %d dead letters (drover dead list JOB.yaml)", r.Job, r.Dead)
	case r.Again:
		head += ", by an earlier run: nothing was moved (--fresh starts a new one)"
	case r.DryRun:
		head = fmt.Sprintf("%s: dry run, nothing was written", r.Job)
	case r.State == runner.Partial:
		head = fmt.Sprintf("%s: limited run ended; the job's own run is untouched", r.Job)
	}
	fmt.Fprintln(w, head)
	if r.Run != "" {
		sign := "="
		if r.Read != r.Written+r.Filtered+r.Dead {
			sign = "≠"
		}
		fmt.Fprintf(w, "  run        %s, %s, %s, %d retries, %.1f s, held by limits %.1f s, by HBase %.1f s\n", r.Run, plural(r.Resumed, "resume"), plural(r.Shards, "shard"), r.Retries, r.Seconds, r.LimitedSeconds, r.SlowedSeconds)
		fmt.Fprintf(w, "  documents  read %d %s written %d + filtered %d + dead %d\n", r.Read, sign, r.Written, r.Filtered, r.Dead)
		fmt.Fprintf(w, "  HBase      rows %d, cells %d, %s encoded, timestamp %d\n", r.Rows, r.Cells, size(float64(r.Bytes)), r.Timestamp)
		if len(r.Tables) > 1 {
			for _, t := range r.Tables {
				fmt.Fprintf(w, "    %-30s read %d, written %d, filtered %d, dead %d\n", t.Table, t.Read, t.Written, t.Filtered, t.Dead)
			}
		}
	}
	if r.Reason != "" {
		fmt.Fprintln(w, "  reason    ", r.Reason)
	}
}
