package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Guard stands between a source and those who use its gateways, because a source can be wrong in ways that cost more than a
// stale set does. What is stale the pool sorts out by itself.
//
//   - An empty set is never believed.
//   - A set that lacks half or more of five or more gateways, at once or within ten minutes, is held: the set before it stays
//     in use, whole, and nothing new joins it, until none of the lost answers a probe any more, or an operator confirms.
//   - The set believed last is kept in a file. It serves while the source cannot be read at the start, and what the source says
//     then is judged against it.
//   - A pin, another file, goes before all of that until it is taken away.
//
// A Guard is used for one Run at a time; Status may be called from other goroutines.
type Guard struct {
	Provider Provider
	Dir      string // for the files; made when needed. "" keeps none, and knows no pin
	ReadOnly bool   // the files are read and not written
	Trust    bool   // hold no loss: the source is a person's own word, such as a list in a job file

	// Probe tells whether the gateway at an address answers; it gets a context with a deadline. It is called for those lost,
	// some at once. nil: only an operator can confirm.
	Probe func(ctx context.Context, addr string) error

	// Alert is told what a person should know, from Run's goroutine; it must not block. May be nil.
	Alert func(Alert)

	mu     sync.Mutex
	status Status
}

// AlertKind is what an alert is about. There is one alert of each kind at a time.
type AlertKind string

// The kinds of alerts.
const (
	HeldAlert     AlertKind = "held"      // a change is not believed
	LastGoodAlert AlertKind = "last-good" // the file serves
	PinAlert      AlertKind = "pin"       // a pin is in force
	ProblemAlert  AlertKind = "problem"   // the source cannot be read
	DiskAlert     AlertKind = "disk"      // the guard's files cannot be read or written
)

// Alert begins with a text and ends with "".
type Alert struct {
	Kind AlertKind
	Text string
}

// Status is what a guard does at one moment, for people to look at. Its slices are not to be changed.
type Status struct {
	From     Origin    // of Use
	Use      []Gateway // the set in use
	View     View      // what the source says
	Held     *Held     // nil: nothing is held
	LastGood time.Time // when the file served from was written; zero when it does not serve
	Pinned   time.Time // since when; zero without a pin
	PinnedBy string    // the file that the pin was made of
	Disk     string    // what is wrong with the guard's files
}

// Status may be called at any time.
func (g *Guard) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status
}

const (
	guardEvery   = time.Second // how often the pin and the confirmation are looked at
	probeTimeout = 5 * time.Second
)

// guarding is one Run of a guard.
type guarding struct {
	*Guard
	core
	lastGood, pinned note
	pinErr, keepErr  string    // why the pin cannot be read, and the other files not be kept
	saved            note      // as the file of the last good set has it; zero is not known
	again            time.Time // not before this is a file written that could not be
	noted            string    // the token in the file of held changes; "" is none
	used             []Gateway
	alerts           map[AlertKind]string
}

// begin reads the files. A pin that cannot be read is an error: it was meant to go before all else.
func (g *Guard) begin(now time.Time) (*guarding, error) {
	r := &guarding{Guard: g, core: core{trust: g.Trust, started: now}, alerts: map[AlertKind]string{}}
	if err := r.readPin(); err != nil {
		return nil, err
	}
	last, found, err := load(g.Dir, lastGoodFile)
	if err != nil {
		r.keepErr = err.Error()
	}
	if found && !g.Trust {
		r.lastGood, r.saved, r.good, r.gone, r.at = last, last, last.Gateways, last.Gone, last.At
	}
	if h, found, err := load(g.Dir, heldFile); err == nil && found {
		r.noted = h.Token
	}
	return r, nil
}

func (r *guarding) readPin() error {
	pin, found, err := load(r.Dir, pinFile)
	if err != nil { // the one in memory stays
		return fmt.Errorf("the pin of these gateways cannot be read: %w; pin them again with drover endpoints pin, or take it away with drover endpoints unpin", err)
	}
	r.pinned, r.pin = pin, nil
	if found {
		r.pin = pin.Gateways
	}
	return nil
}

func (r *guarding) readConfirm() {
	if r.held == nil || r.held.Empty {
		return
	}
	if c, found, err := load(r.Dir, confirmFile); err == nil && found {
		r.confirm(c.At, c.Token)
	}
}

// Run gives the set in use once there is one and each time that it changes, never an empty one, from one goroutine; update
// owns the slice. It returns nil when ctx ends, with nothing left running, and an error for what waiting cannot mend.
func (g *Guard) Run(ctx context.Context, update func([]Gateway)) error {
	r, err := g.begin(time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	views, ended, results := make(chan View), make(chan error, 1), make(chan probeResult)
	wg.Go(func() {
		ended <- g.Provider.Run(ctx, func(v View) {
			select {
			case views <- v:
			case <-ctx.Done():
			}
		})
	})
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	var fatal error
	for {
		r.publish(time.Now(), update)
		select {
		case v := <-views:
			r.see(time.Now(), v)
			r.readConfirm()
		case res := <-results:
			r.probed(res.addr, res.err)
		case fatal = <-ended:
			if ctx.Err() != nil {
				return nil
			}
			if fatal == nil {
				fatal = errors.New("the source of gateways ended by itself")
			}
			r.view.Problem = fatal.Error()
		case <-tick.C:
			r.pinErr = ""
			if err := r.readPin(); err != nil {
				r.pinErr = err.Error()
			}
			r.readConfirm()
		case <-ctx.Done():
			return nil
		}
		if fatal != nil && r.pin == nil {
			return fatal
		}
		if g.Probe == nil {
			continue
		}
		for _, lost := range r.probes(time.Now()) {
			wg.Go(func() {
				pctx, cancel := context.WithTimeout(ctx, probeTimeout)
				defer cancel()
				err := g.Probe(pctx, lost.Addr)
				select {
				case results <- probeResult{lost.Addr, err}:
				case <-ctx.Done():
				}
			})
		}
	}
}

type probeResult struct {
	addr string
	err  error
}

// publish makes known what changed.
func (r *guarding) publish(now time.Time, update func([]Gateway)) {
	r.keep(now)
	s := r.state(now)
	r.mu.Lock()
	r.status = s
	r.mu.Unlock()
	r.announce(s)
	if len(s.Use) > 0 && !slices.Equal(s.Use, r.used) {
		r.used = s.Use
		update(slices.Clone(s.Use))
	}
}

// keepAgain is when a file is written again that could not be.
const keepAgain = time.Minute

// keep writes what later processes and commands want to know.
func (r *guarding) keep(now time.Time) {
	if r.Dir == "" || r.ReadOnly || !r.spoke || now.Before(r.again) {
		return
	}
	want := ""
	if r.held != nil {
		want = r.held.Token
	}
	if r.isSaved() && want == r.noted {
		return
	}
	if err := r.write(now, want); err != nil {
		r.keepErr, r.again = err.Error(), now.Add(keepAgain)
		return
	}
	r.keepErr = ""
}

// isSaved tells whether the file has the set that is believed. That of nobody is not saved.
func (r *guarding) isSaved() bool {
	return len(r.good) == 0 || slices.Equal(r.good, r.saved.Gateways) &&
		slices.EqualFunc(r.gone, r.saved.Gone, func(a, b loss) bool { return a.Gateway == b.Gateway })
}

func (r *guarding) write(now time.Time, want string) error {
	if !r.isSaved() {
		n := note{At: now, Gateways: r.good, Gone: slices.Clone(r.gone)}
		if err := save(r.Dir, lastGoodFile, n); err != nil {
			return err
		}
		r.saved = n
	}
	if want == r.noted {
		return nil
	}
	if want != "" {
		if err := save(r.Dir, heldFile, note{At: r.held.Since, Token: want}); err != nil {
			return err
		}
	} else if err := os.Remove(filepath.Join(r.Dir, heldFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.noted = want
	return nil
}

func (r *guarding) state(now time.Time) Status {
	set, from := r.use(now)
	s := Status{From: from, Use: slices.Clone(set), View: r.view, Held: r.held, Disk: cmp.Or(r.pinErr, r.keepErr)}
	s.View.Gateways = slices.Clone(s.View.Gateways)
	if h := r.held; h != nil {
		c := *h
		c.silent = map[string]int{}
		for a, n := range h.silent {
			c.silent[a] = n
		}
		s.Held = &c
	}
	if from == LastGood {
		s.LastGood = r.lastGood.At
	}
	if r.pin != nil {
		s.Pinned, s.PinnedBy = r.pinned.At, r.pinned.From
	}
	return s
}

// Alerts are the alerts that a status gives cause for, by kind.
func (s Status) Alerts() map[AlertKind]string {
	out := map[AlertKind]string{}
	if s.Held != nil {
		text := s.Held.Why() + "; going on with " + count(len(s.Use)) + " of before"
		switch {
		case s.Held.Empty && len(s.Use) == 0:
			text = s.Held.Why() + ", and none is known from before: mend the source, or pin a set with drover endpoints pin"
		case s.Pinned.IsZero() && s.Held.Empty:
			text += "; mend the source, or pin a set with drover endpoints pin"
		case s.Pinned.IsZero():
			text += " until none of the lost answers, or a person runs drover endpoints confirm"
		default:
			text = s.Held.Why() // a pin is in force: it changes nothing
		}
		out[HeldAlert] = text
	}
	if s.From == LastGood {
		out[LastGoodAlert] = fmt.Sprintf("the source of gateways has not been read yet: going on with the last good set, %s, of %s",
			count(len(s.Use)), s.LastGood.Local().Format(time.DateTime))
	}
	if !s.Pinned.IsZero() {
		out[PinAlert] = fmt.Sprintf("%s of %s pinned since %s, whatever the source says, until drover endpoints unpin",
			count(len(s.Use)), s.PinnedBy, s.Pinned.Local().Format(time.DateTime))
	}
	if s.View.Problem != "" {
		out[ProblemAlert] = s.View.Problem
	}
	if s.Disk != "" {
		out[DiskAlert] = s.Disk
	}
	return out
}

func count(n int) string {
	if n == 1 {
		return "1 gateway"
	}
	return fmt.Sprintf("%d gateways", n)
}

func (r *guarding) announce(s Status) {
	now := s.Alerts()
	for _, kind := range []AlertKind{PinAlert, ProblemAlert, LastGoodAlert, HeldAlert, DiskAlert} {
		if now[kind] == r.alerts[kind] {
			continue
		}
		r.alerts[kind] = now[kind]
		if r.Alert != nil {
			r.Alert(Alert{kind, now[kind]})
		}
	}
}

// Look tells what the guard would do now: it asks the source, for at most wait, and reads the guard's files. It changes
// nothing, and probes nothing.
func (g *Guard) Look(ctx context.Context, wait time.Duration) (Status, error) {
	r, err := g.begin(time.Now())
	if err != nil {
		return Status{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var last View
	err = g.Provider.Run(ctx, func(v View) {
		if last = v; v.Known {
			cancel()
		}
	})
	if err != nil {
		last.Problem = err.Error()
	}
	now := time.Now()
	if !last.Known && last.Problem == "" {
		last.Problem = fmt.Sprintf("the source has not answered in %s", wait)
	}
	r.see(now, last)
	r.readConfirm()
	if h, found, err := load(g.Dir, heldFile); err == nil && found && r.held != nil && h.Token == r.held.Token {
		r.held.Since = h.At
	}
	r.started = now.Add(-patience)
	return r.state(now), nil
}
