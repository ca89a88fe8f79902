// Package tick decides what becomes of each instant of a job's schedule.
//
//   - An instant is a moment at which the job is due. It has a name, its UTC time, and exactly one decision, ever.
//   - fired: a run is made for it; skipped: it was looked at in time, and must not run; missed: nobody looked in time.
//   - A misfire is how late an instant may be looked at and still count as in time.
//   - Catching up is to fire instants that would be missed, the newest ones.
//   - A blackout is a window in which nothing fires.
//   - A deadline is how long after its instant a run may last.
//
// [Decide] is a pure function of the schedule, the newest instant that was decided, the runs that are not over and the time. Whoever leads writes
// each decision under its instant's name, together with the run that it makes, in one conditional write; so one who dies between
// any two writes is followed by another who goes on from what was written, and an instant is never decided twice.
//
// # When a clock is changed
//
// A schedule that names hours happens once for each time of the wall clock: a time that the clock jumps over happens as it lands, and of a
// time that comes twice the first counts. A schedule for every hour ("*/15 * * * *") goes by real time: nothing happens in an hour that does
// not exist, and all of it again in one that comes twice.
//
// A binary that may run where there is no zone database must import time/tzdata.
//
// Not for timeouts, intervals since a start, or anything that happens more often than once a minute.
package tick

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"drover/fleet/hours"
)

// Overlap is what happens to an instant while a run of the job is not over.
type Overlap string

// The ways to overlap.
const (
	Skip    Overlap = "skip"    // the instant is skipped; what a schedule does that says nothing
	Queue   Overlap = "queue"   // its run waits for those before it; while one waits, further instants are skipped
	Replace Overlap = "replace" // the runs before it are cancelled, and its run starts when they have stopped
)

// Settings are a schedule as a job file has it. The zero value of each but Cron is its default.
type Settings struct {
	Cron     string        // minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly
	Zone     string        // as in the zone database; empty is UTC
	Overlap  Overlap       // empty is Skip
	Misfire  time.Duration // 0 is a minute: long enough for a change of the leader
	CatchUp  int           // how many late instants are fired at once, at most
	Deadline time.Duration // from the instant; 0 is none. An instant that is looked at after it is missed.
	Blackout []string      // windows as hours.Parse reads them, in Zone
}

const (
	defaultMisfire = time.Minute
	maxCatchUp     = 100
	// maxLate is how many instants are decided at once, at most. The older ones of a schedule that nobody looked at for that long have one decision.
	maxLate = 1000
)

// Schedule is checked settings. It is never changed.
type Schedule struct {
	Settings
	zone     *time.Location
	blackout []hours.Window
	spec     cron.SpecSchedule // of what a clock shows, as if that were UTC
	hourly   bool              // it is for every hour
}

// Parse checks settings, and tells all that is wrong with them.
func Parse(s Settings) (*Schedule, error) {
	p := &Schedule{Settings: s}
	var errs []error
	fault := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }

	var err error
	if p.zone, err = time.LoadLocation(s.Zone); err != nil || s.Zone == "Local" {
		fault("zone %q is not known; want one such as Europe/Berlin or UTC", s.Zone)
		p.zone = time.UTC
	}
	switch s.Overlap {
	case "":
		p.Overlap = Skip
	case Skip, Queue, Replace:
	default:
		fault("overlap %q: want skip, queue or replace", s.Overlap)
	}
	switch {
	case s.Misfire < 0:
		fault("misfire %v: want more than 0", s.Misfire)
	case s.Misfire == 0:
		p.Misfire = defaultMisfire
	}
	if s.CatchUp < 0 || s.CatchUp > maxCatchUp {
		fault("catch_up %d: want 0 to %d", s.CatchUp, maxCatchUp)
	}
	if s.Deadline < 0 {
		fault("deadline %v: want 0 (none) or more", s.Deadline)
	}
	for _, text := range s.Blackout {
		w, err := hours.Parse(text)
		if err != nil {
			fault("blackout: %w", err)
		}
		p.blackout = append(p.blackout, w)
	}
	if err := p.parseCron(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

func (s *Schedule) parseCron() (err error) {
	text := strings.TrimSpace(s.Cron)
	want := "want minute, hour, day of the month, month and day of the week, such as 30 2 * * mon-fri"
	switch {
	case text == "":
		return fmt.Errorf("cron is empty; %s", want)
	case strings.Contains(text, "="):
		return fmt.Errorf("cron %q: the zone has a key of its own, zone", text)
	case strings.HasPrefix(text, "@every"):
		return fmt.Errorf("cron %q: intervals have no instants of their own; write */15 * * * * for every 15 minutes", text)
	}
	defer func() { // the parser trusts some fields more than it should
		if r := recover(); r != nil {
			err = fmt.Errorf("cron %q: %v; %s", text, r, want)
		}
	}()
	parsed, err := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor).Parse(text)
	if err != nil {
		return fmt.Errorf("cron %q: %w; %s", text, err, want)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return fmt.Errorf("cron %q: %s", text, want)
	}
	const all = 1<<24 - 1
	s.spec, s.hourly = *spec, spec.Hour&all == all
	s.spec.Location = time.UTC
	if s.spec.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return fmt.Errorf("cron %q: there is no such day", text)
	}
	return nil
}

// Next is the first instant after t; the zero time when there is none in the next years.
func (s *Schedule) Next(t time.Time) time.Time {
	t = t.In(s.zone)
	if s.hourly {
		return s.nextHourly(t)
	}
	for w := wall(t); ; {
		if w = s.spec.Next(w); w.IsZero() {
			return time.Time{}
		}
		if at := landed(w, s.zone); at.After(t) {
			return at
		}
	}
}

// nextHourly goes from one change of the clock to the next, since between them a clock shows each time once.
func (s *Schedule) nextHourly(t time.Time) time.Time {
	for from := t; ; {
		_, end := from.ZoneBounds()
		shown := wall(from)
		if from.After(t) {
			shown = shown.Add(-1) // the moment after a change may be an instant itself
		}
		w := s.spec.Next(shown)
		if w.IsZero() {
			return time.Time{}
		}
		if at := from.Add(w.Sub(wall(from))); end.IsZero() || at.Before(end) {
			return at
		}
		from = end
	}
}

// wall is what a clock shows, as if it were UTC.
func wall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// landed is the first instant at which the clocks of a zone show w, or, when they jump over it, the one at which they land.
func landed(w time.Time, zone *time.Location) time.Time {
	near := time.Date(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), 0, zone)
	start, end := near.ZoneBounds()
	var first time.Time
	for _, probe := range []time.Time{near, start.Add(-1), end} {
		_, offset := probe.In(zone).Zone()
		at := w.Add(-time.Duration(offset) * time.Second).In(zone)
		if wall(at).Equal(w) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	switch {
	case !first.IsZero():
		return first
	case wall(near).After(w):
		return start
	}
	return end
}

// Name is an instant's name: its decision is written under it, and the run that it makes is called so.
func Name(at time.Time) string { return at.UTC().Format(nameLayout) }

const nameLayout = "20060102T150405Z"

// Instant is the instant of a name.
func Instant(name string) (time.Time, error) { return time.Parse(nameLayout, name) }

// Outcome is what was decided.
type Outcome string

// The outcomes.
const (
	Fired   Outcome = "fired"
	Skipped Outcome = "skipped"
	Missed  Outcome = "missed"
)

// Decision is what becomes of an instant.
type Decision struct {
	At      time.Time `json:"at"` // UTC
	Outcome Outcome   `json:"outcome"`
	Why     string    `json:"why,omitempty"` // it was not fired, or later than it should; for people

	// Of a fired one: its run, runs that are to be cancelled, and runs that must be over before it starts.
	Run    string   `json:"run,omitempty"`
	Cancel []string `json:"cancel,omitempty"`
	After  []string `json:"after,omitempty"`
}

// Run is a run of the job that is not over.
type Run struct {
	ID      string
	At      time.Time // its instant; zero when somebody submitted it
	Waiting bool      // it has not started, because of runs before it
}

// Decide decides all instants after last, up to now, in their order. last is the newest instant that has a decision, or when the schedule was
// made or changed; runs are all runs of the job that are not over, in any order. A clock that went back has nothing to decide.
//
// Of instants that nobody looked at in time the newest, as many as CatchUp, are treated as if in time, unless their deadline has passed. Fired
// runs count as running for the instants after them.
func (s *Schedule) Decide(last time.Time, runs []Run, now time.Time) []Decision {
	instants, folded := s.between(last, now)
	late := 0
	for _, at := range instants {
		if now.Sub(at) > s.Misfire && !s.over(at, now) {
			late++
		}
	}
	open := append([]Run(nil), runs...)
	decisions := make([]Decision, 0, len(instants))
	for i, at := range instants {
		d := Decision{At: at.UTC()}
		behind := now.Sub(at)
		caught := false
		switch {
		case s.over(at, now):
			d.Outcome, d.Why = Missed, fmt.Sprintf("looked at %v late, after its deadline", round(behind))
		case behind > s.Misfire:
			if caught = late <= s.CatchUp; !caught {
				d.Outcome, d.Why = Missed, fmt.Sprintf("looked at %v late", round(behind))
			}
			late--
		}
		if i == 0 && folded > 0 {
			d.Why += fmt.Sprintf(", and so were %d before it", folded)
		}
		if d.Outcome == "" {
			s.fire(&d, open)
			if d.Outcome == Fired {
				if caught {
					d.Why = fmt.Sprintf("caught up %v late", round(behind))
				}
				open = append(open, Run{ID: d.Run, At: at, Waiting: len(d.After) > 0})
			}
		}
		decisions = append(decisions, d)
	}
	return decisions
}

// fire decides an instant that is in time.
func (s *Schedule) fire(d *Decision, open []Run) {
	at := d.At.In(s.zone)
	for _, w := range s.blackout {
		if w.Contains(at) {
			d.Outcome, d.Why = Skipped, "blackout "+w.String()
			return
		}
	}
	d.Outcome, d.Run = Fired, Name(at)
	if len(open) == 0 {
		return
	}
	var ids []string
	waiting := ""
	for _, r := range open {
		ids = append(ids, r.ID)
		if r.Waiting {
			waiting = r.ID
		}
	}
	switch {
	case s.Overlap == Replace:
		d.Cancel, d.After = ids, ids
	case s.Overlap == Queue && waiting == "":
		d.After = ids
	case s.Overlap == Queue:
		*d = Decision{At: d.At, Outcome: Skipped, Why: "run " + waiting + " waits already"}
	default:
		*d = Decision{At: d.At, Outcome: Skipped, Why: "run " + ids[0] + " is not over"}
	}
}

// between lists the instants in (last, now], but only the newest when they are very many; folded says how many older ones there are.
func (s *Schedule) between(last, now time.Time) (instants []time.Time, folded int) {
	for at := s.Next(last); !at.IsZero() && !at.After(now); at = s.Next(at) {
		instants = append(instants, at)
		if len(instants) == 2*maxLate {
			folded += copy(instants, instants[maxLate:])
			instants = instants[:maxLate]
		}
	}
	if n := len(instants) - maxLate; n > 0 {
		folded += n
		instants = instants[n:]
	}
	return instants, folded
}

func (s *Schedule) over(at, now time.Time) bool {
	return s.Deadline > 0 && now.Sub(at) >= s.Deadline
}

// Overdue are the runs whose deadline has passed, and that are to be cancelled, in the order given.
func (s *Schedule) Overdue(runs []Run, now time.Time) (ids []string) {
	for _, r := range runs {
		if !r.At.IsZero() && s.over(r.At, now) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

func round(d time.Duration) time.Duration { return d.Round(time.Second) }
