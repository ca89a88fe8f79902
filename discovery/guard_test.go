package discovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fleet gives gateways g1 … gn by their numbers.
func fleet(numbers ...int) []Gateway {
	var gs []Gateway
	for _, n := range numbers {
		gs = append(gs, Gateway{Addr: fmt.Sprintf("10.0.0.%d:9090", n), Name: fmt.Sprintf("thrift_%d", n)})
	}
	return gs
}

func upTo(n int) []Gateway {
	var numbers []int
	for i := range n {
		numbers = append(numbers, i+1)
	}
	return fleet(numbers...)
}

func known(gs []Gateway) View { return View{Known: true, Gateways: gs} }

func same(a, b []Gateway) bool { return slices.Equal(addrs(a), addrs(b)) }

// TestWhatTheGuardBelieves goes through single changes of a set.
func TestWhatTheGuardBelieves(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to []Gateway
		trust    bool
		held     bool
	}{
		{"the first set", nil, upTo(3), false, false},
		{"more", upTo(3), upTo(9), false, false},
		{"fewer than half lost of ten", upTo(10), upTo(6), false, false},
		{"half lost of ten", upTo(10), upTo(5), false, true},
		{"to 40 %", upTo(10), upTo(4), false, true},
		{"two lost of five", upTo(5), upTo(3), false, false},
		{"three lost of five", upTo(5), upTo(2), false, true},
		{"three lost of four", upTo(4), upTo(1), false, false},
		{"all replaced", upTo(5), fleet(11, 12, 13, 14, 15), false, true},
		{"half replaced", upTo(6), fleet(1, 2, 3, 14, 15, 16), false, true},
		{"one replaced by many", upTo(6), fleet(1, 2, 3, 4, 5, 14, 15, 16, 17, 18, 19), false, false},
		{"to none", upTo(10), nil, false, true},
		{"one to none", upTo(1), nil, false, true},
		{"a person's own word", upTo(10), upTo(1), true, false},
		{"a person's own word of nobody", upTo(10), nil, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := time.Now()
			c := core{trust: test.trust, started: now}
			if test.from != nil {
				c.see(now, known(test.from))
			}
			c.see(now, known(test.to))
			want := test.to
			if test.held {
				want = test.from
			}
			set, from := c.use(now)
			if (c.held != nil) != test.held || !same(set, want) || from != Source {
				t.Errorf("held %v, in use %v of %q; want held %v, %v", c.held, addrs(set), from, test.held, addrs(want))
			}
			if c.held != nil && c.held.Empty != (len(test.to) == 0) {
				t.Errorf("held as empty: %v", c.held.Empty)
			}
		})
	}
}

// TestNodesDeletedOneByOneAreOneLoss is what a script does that deletes nodes: no single step is large.
func TestNodesDeletedOneByOneAreOneLoss(t *testing.T) {
	now := time.Now()
	c := core{started: now}
	c.see(now, known(upTo(10)))
	for n := 9; n >= 4; n-- {
		now = now.Add(time.Minute)
		c.see(now, known(upTo(n)))
		if held := c.held != nil; held != (n <= 5) {
			t.Fatalf("with %d of 10 left, held is %v", n, held)
		}
	}
	if set, _ := c.use(now); !same(set, upTo(10)) {
		t.Errorf("in use are %v, want all ten as before the loss began", addrs(set))
	}
	if c.held.Of != 10 || len(c.held.Lost) != 6 {
		t.Errorf("held is a loss of %d of %d, want 6 of 10", len(c.held.Lost), c.held.Of)
	}
	c.see(now, known(upTo(10)))
	if c.held != nil {
		t.Error("still held after all came back")
	}
}

func TestASlowDeclineAndARollingRestartAreNotHeld(t *testing.T) {
	now := time.Now()
	c := core{started: now}
	c.see(now, known(upTo(10)))
	for n := 9; n >= 5; n-- {
		now = now.Add(4 * time.Minute)
		if c.see(now, known(upTo(n))); c.held != nil {
			t.Fatalf("one in four minutes, down to %d, is held: %s", n, c.held.Why())
		}
	}
	c = core{started: now}
	c.see(now, known(upTo(10)))
	for n := range 10 {
		without := slices.Delete(upTo(10), n, n+1)
		for _, set := range [][]Gateway{without, upTo(10)} {
			now = now.Add(10 * time.Second)
			if c.see(now, known(set)); c.held != nil {
				t.Fatalf("a restart of one after the other is held at the %dth: %s", n+1, c.held.Why())
			}
		}
	}
}

func TestALossIsBelievedOnceNoneOfTheLostAnswers(t *testing.T) {
	now := time.Now()
	c := core{started: now}
	c.see(now, known(upTo(10)))
	c.see(now, known(upTo(4)))
	silent := errors.New("connection refused")
	round := func(answers map[int]bool) {
		t.Helper()
		probes := c.probes(now)
		if !same(probes, fleet(5, 6, 7, 8, 9, 10)) {
			t.Fatalf("probes of %v, want the lost ones", addrs(probes))
		}
		if again := c.probes(now.Add(probeEvery - 1)); again != nil {
			t.Fatalf("a second round of probes at once: %v", again)
		}
		for _, g := range probes {
			var err error = silent
			if answers[int(g.Addr[len("10.0.0.")]-'0')] {
				err = nil
			}
			c.probed(g.Addr, err)
		}
		now = now.Add(probeEvery)
	}
	round(nil)
	round(map[int]bool{7: true})
	round(nil) // the second silence of all but 7
	if c.held == nil {
		t.Fatal("believed after one silence of a gateway that had answered")
	}
	if a, s := c.held.Answering(); a != 0 || s != 6 {
		t.Errorf("%d answer and %d do not, want 0 and 6", a, s)
	}
	c.see(now, known(upTo(4))) // the same again, as after a reconnection, starts nothing anew
	round(nil)
	if set, _ := c.use(now); c.held != nil || !same(set, upTo(4)) {
		t.Fatalf("after two silences of each: held %v, in use %v", c.held, addrs(set))
	}
	// What was settled does not count again.
	c.see(now, known(upTo(3)))
	if c.held != nil {
		t.Errorf("a small loss after one that was believed is held: %s", c.held.Why())
	}
}

func TestAnEmptySetIsNeverBelievedAndProbesNobody(t *testing.T) {
	now := time.Now()
	c := core{started: now}
	c.see(now, known(upTo(6)))
	c.see(now, known(nil))
	if p := c.probes(now); p != nil {
		t.Errorf("probes of %v", p)
	}
	for _, g := range upTo(6) {
		c.probed(g.Addr, errors.New("gone"))
		c.probed(g.Addr, errors.New("gone"))
	}
	c.confirm(now, c.held.Token)
	c.confirm(now, token(nil))
	if set, _ := c.use(now); c.held == nil || !same(set, upTo(6)) {
		t.Errorf("held %v, in use %v; want all six for ever", c.held, addrs(set))
	}
	since := c.held.Since
	c.see(now.Add(time.Hour), known(nil))
	if c.held.Since != since {
		t.Error("the same hold began anew")
	}
}

func TestAConfirmationIsOfOneSetOnly(t *testing.T) {
	now := time.Now()
	c := core{started: now}
	c.see(now, known(upTo(10)))
	c.see(now, known(upTo(4)))
	old := c.held.Token
	c.see(now, known(upTo(2)))
	if c.confirm(now, old); c.held == nil {
		t.Fatal("a confirmation of 4 gateways made it believe 2")
	}
	c.confirm(now, c.held.Token)
	if set, _ := c.use(now); c.held != nil || !same(set, upTo(2)) {
		t.Errorf("after the confirmation: held %v, in use %v", c.held, addrs(set))
	}
	if token(fleet(1, 2)) != token(fleet(2, 1)) || token(fleet(1, 2)) == token(fleet(1)) {
		t.Error("a token depends on the order, or not on the set")
	}
}

// scripted is a provider that a test moves.
type scripted struct {
	views chan View
	err   chan error
}

func script() *scripted { return &scripted{make(chan View), make(chan error)} }

func (s *scripted) Run(ctx context.Context, update func(View)) error {
	for {
		select {
		case v := <-s.views:
			update(v)
		case err := <-s.err:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// watch is a guard that runs in a bubble.
type watch struct {
	*Guard
	t       *testing.T
	source  *scripted
	mu      sync.Mutex
	sets    [][]Gateway
	alerts  []Alert
	silent  map[string]bool // what does not answer a probe
	probed  map[string]int
	cancel  context.CancelFunc
	ended   chan error
	started time.Time
}

func guardOver(t *testing.T, dir string) *watch {
	w := &watch{t: t, source: script(), silent: map[string]bool{}, probed: map[string]int{}, ended: make(chan error, 1), started: time.Now()}
	w.Guard = &Guard{
		Provider: w.source, Dir: dir,
		Probe: func(_ context.Context, addr string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.probed[addr]++
			if w.silent[addr] {
				return errors.New("silent")
			}
			return nil
		},
		Alert: func(a Alert) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.alerts = append(w.alerts, a)
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	go func() {
		w.ended <- w.Run(ctx, func(gs []Gateway) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(gs) == 0 {
				t.Error("an empty set was given")
			}
			w.sets = append(w.sets, gs)
		})
	}()
	synctest.Wait()
	return w
}

func (w *watch) stop() error {
	w.cancel()
	err := <-w.ended
	synctest.Wait()
	return err
}

// see tells the guard of a view and waits for what it does.
func (w *watch) see(v View) {
	w.source.views <- v
	synctest.Wait()
}

func (w *watch) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// use checks the set that was given last.
func (w *watch) use(want []Gateway, from Origin) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var last []Gateway
	if len(w.sets) > 0 {
		last = w.sets[len(w.sets)-1]
	}
	if s := w.Status(); !same(last, want) || s.From != from || !same(s.Use, want) {
		w.t.Fatalf("given are %v, in use %v from %q; want %v from %q", addrs(last), addrs(s.Use), s.From, addrs(want), from)
	}
}

// alert gives the text of an alert that stands, "" when it does not.
func (w *watch) alert(kind AlertKind) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := ""
	for _, a := range w.alerts {
		if a.Kind == kind {
			text = a.Text
		}
	}
	return text
}

func bubble(t *testing.T, f func(t *testing.T, dir string)) {
	dir := filepath.Join(t.TempDir(), "a", "guard")
	synctest.Test(t, func(t *testing.T) { f(t, dir) })
}

func TestTheLastGoodSetServesWhileTheSourceIsDownAtTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		w := guardOver(t, dir)
		w.see(known(upTo(10)))
		w.use(upTo(10), Source)
		w.stop()

		w = guardOver(t, dir)
		w.see(View{Problem: "no connection"})
		w.wait(patience - time.Millisecond)
		w.use(nil, Nowhere)
		w.wait(2 * time.Second)
		w.use(upTo(10), LastGood)
		if got := w.alert(LastGoodAlert); !strings.Contains(got, "10 gateways") {
			t.Errorf("the alert is %q", got)
		}
		if w.alert(ProblemAlert) != "no connection" {
			t.Errorf("the problem's alert is %q", w.alert(ProblemAlert))
		}
		// What the source says at last is judged against it.
		w.see(known(upTo(4)))
		w.use(upTo(10), Source)
		if w.alert(HeldAlert) == "" || w.alert(LastGoodAlert) != "" || w.alert(ProblemAlert) != "" {
			t.Errorf("alerts are %+v, want the held one alone", w.alerts)
		}
		w.see(known(upTo(9)))
		w.use(upTo(9), Source)
		w.stop()

		w = guardOver(t, dir)
		w.wait(time.Minute)
		w.use(upTo(9), LastGood)
		w.stop()
	})
}

func TestWithoutALastGoodSetNothingIsGivenUntilTheSourceSpeaks(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		w := guardOver(t, dir)
		w.see(known(nil))
		w.wait(time.Hour)
		w.use(nil, Nowhere)
		if got := w.alert(HeldAlert); !strings.Contains(got, "pin") {
			t.Errorf("the alert %q does not say what to do", got)
		}
		w.see(known(upTo(1)))
		w.use(upTo(1), Source)
		w.stop()
	})
}

func TestADamagedLastGoodFileIsNotUsed(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"a changed byte": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut off":        func(b []byte) []byte { return b[:len(b)-20] },
		"empty":          func([]byte) []byte { return nil },
		"newer":          func(b []byte) []byte { return []byte(strings.Replace(string(b), " 1 ", " 2 ", 1)) },
		"another file":   func(b []byte) []byte { return []byte(strings.Replace(string(b), lastGoodFile, pinFile, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				w := guardOver(t, dir)
				w.see(known(upTo(5)))
				w.stop()
				path := filepath.Join(dir, lastGoodFile)
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, spoil(data), 0o644); err != nil {
					t.Fatal(err)
				}
				w = guardOver(t, dir)
				w.wait(time.Minute)
				w.use(nil, Nowhere)
				if !strings.Contains(w.alert(DiskAlert), path) {
					t.Errorf("the alert is %q", w.alert(DiskAlert))
				}
				w.see(known(upTo(3)))
				w.use(upTo(3), Source)
				if w.alert(DiskAlert) != "" {
					t.Errorf("the alert stays after the file was written anew: %q", w.alert(DiskAlert))
				}
				w.stop()
			})
		})
	}
}

func TestAPinGoesBeforeEverythingAndSurvivesRestarts(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		w := guardOver(t, dir)
		w.see(known(upTo(10)))
		if err := Pin(dir, "gateways.txt", fleet(77), time.Now()); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		w.use(fleet(77), Pinned)
		if w.alert(PinAlert) == "" {
			t.Error("no alert of the pin")
		}
		w.see(known(upTo(9)))
		w.see(known(nil))
		w.use(fleet(77), Pinned)
		w.stop()

		w = guardOver(t, dir)
		w.use(fleet(77), Pinned) // at once: it waits for no source
		w.source.err <- errors.New("no permission")
		synctest.Wait()
		w.use(fleet(77), Pinned)
		if w.alert(ProblemAlert) != "no permission" {
			t.Errorf("the source's end is shown as %q", w.alert(ProblemAlert))
		}
		was, err := Unpin(dir)
		if !was || err != nil {
			t.Fatalf("unpin: %v, %v", was, err)
		}
		if err := <-w.ended; err == nil || err.Error() != "no permission" {
			t.Errorf("without the pin Run ends with %v, want what ended the source", err)
		}
		if was, err := Unpin(dir); was || err != nil {
			t.Errorf("a second unpin: %v, %v", was, err)
		}

		w = guardOver(t, dir)
		w.wait(time.Minute)
		w.use(upTo(9), LastGood) // what was believed while the pin was in force
		w.stop()
		if err := Pin(dir, "x", []Gateway{{Addr: "a:1", Out: "ok is false"}}, time.Now()); err == nil {
			t.Error("a pin of nobody was taken")
		}
	})
}

func TestADamagedPinEndsAStartAndChangesNothingLater(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		w := guardOver(t, dir)
		w.see(known(upTo(3)))
		if err := os.WriteFile(filepath.Join(dir, pinFile), []byte("10.0.0.1:9090\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		w.use(upTo(3), Source)
		if w.alert(DiskAlert) == "" {
			t.Error("no alert of the damaged pin")
		}
		w.stop()
		w = guardOver(t, dir)
		if err := <-w.ended; err == nil || !strings.Contains(err.Error(), "unpin") {
			t.Errorf("a start with a damaged pin: %v", err)
		}
	})
}

func TestAHeldLossEndsByProbesByConfirmationAndByItself(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		w := guardOver(t, dir)
		w.see(known(upTo(10)))
		w.see(known(upTo(4)))
		w.use(upTo(10), Source)
		w.wait(time.Hour)
		w.use(upTo(10), Source) // all of the lost answer
		if n := w.probed["10.0.0.5:9090"]; n < 300 || n > 400 || w.probed["10.0.0.1:9090"] != 0 {
			t.Errorf("probes in an hour: %v; want about 360 of the lost and none of the others", w.probed)
		}
		if n := len(w.alerts); n != 1 {
			t.Errorf("%d alerts of one hold, want 1: %+v", n, w.alerts)
		}
		s, err := (&Guard{Provider: w.source, Dir: dir}).Look(t.Context(), time.Second)
		if err != nil || s.Held != nil || s.From != LastGood {
			t.Errorf("a look without the source: %+v, %v", s, err)
		}

		w.mu.Lock()
		for _, g := range fleet(5, 6, 7, 8, 9, 10) {
			w.silent[g.Addr] = true
		}
		w.mu.Unlock()
		w.wait(2*probeEvery + time.Second)
		w.use(upTo(4), Source)
		if w.alert(HeldAlert) != "" {
			t.Errorf("the alert stays: %q", w.alert(HeldAlert))
		}

		w.see(known(upTo(10)))
		w.see(known(fleet(1, 2)))
		w.mu.Lock()
		clear(w.silent)
		w.mu.Unlock()
		w.use(upTo(10), Source)
		if err := Confirm(dir, w.Status().Held.Token, time.Now()); err != nil {
			t.Fatal(err)
		}
		w.wait(time.Second)
		w.use(fleet(1, 2), Source)

		// An old confirmation of the same set is not one of a new loss.
		w.see(known(upTo(10)))
		w.wait(time.Second)
		w.see(known(fleet(1, 2)))
		w.wait(2 * time.Second)
		w.use(upTo(10), Source)
		w.see(known(upTo(10)))
		w.use(upTo(10), Source)
		if w.Status().Held != nil {
			t.Error("still held after all came back")
		}
		w.stop()
	})
}

func TestAHoldIsSeenByOtherProcessesWithItsBeginning(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		w := guardOver(t, dir)
		w.see(known(upTo(10)))
		w.see(known(upTo(4)))
		began := time.Now()
		w.wait(time.Hour)
		look := func() Status {
			t.Helper()
			other := script()
			go func() { other.views <- known(upTo(4)) }()
			s, err := (&Guard{Provider: other, Dir: dir}).Look(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := look()
		if s.Held == nil || !s.Held.Since.Equal(began) || !same(s.Use, upTo(10)) {
			t.Fatalf("the status is %+v, want the loss held since %v", s, began)
		}
		w.stop()
		if s = look(); s.Held == nil {
			t.Error("without a guard running the loss is not held any more")
		}
		if err := Confirm(dir, s.Held.Token, time.Now()); err != nil {
			t.Fatal(err)
		}
		if s = look(); s.Held != nil || !same(s.Use, upTo(4)) {
			t.Errorf("once it is confirmed: %+v", s)
		}
		w = guardOver(t, dir)
		w.see(known(upTo(4)))
		w.use(upTo(4), Source)
		w.stop()
		if _, err := os.Stat(filepath.Join(dir, heldFile)); err == nil {
			t.Error("the file of what is held stays")
		}
	})
}

// Another process that starts in the middle of a slow loss must not take what is left by then for all there was.
func TestALossInStepsIsOneLossForOtherProcessesToo(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		w := guardOver(t, dir)
		for n := 10; n >= 6; n-- {
			w.see(known(upTo(n)))
			w.wait(time.Second)
		}
		w.use(upTo(6), Source)
		other := guardOver(t, dir)
		other.see(known(upTo(6)))
		other.use(upTo(6), Source)
		for _, g := range []*watch{w, other} {
			g.see(known(upTo(5)))
			g.use(upTo(10), Source)
			if g.alert(HeldAlert) == "" {
				t.Error("the last step of the loss is not held")
			}
		}
		w.stop()
		other.stop()
		w = guardOver(t, dir)
		w.wait(patience + time.Second)
		w.use(upTo(10), LastGood)
		w.see(known(upTo(5)))
		w.use(upTo(10), Source)
		w.stop()
	})
}

func TestAFolderThatCannotBeWrittenIsAnAlertAndNoMore(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		parent := filepath.Dir(dir)
		if err := os.WriteFile(parent, nil, 0o644); err != nil { // a file where a folder has to be
			t.Fatal(err)
		}
		w := guardOver(t, "")
		w.see(known(upTo(3)))
		w.use(upTo(3), Source)
		if len(w.alerts) > 0 {
			t.Errorf("without a folder: %+v", w.alerts)
		}
		w.stop()
		w = guardOver(t, filepath.Join(parent, "x"))
		if err := <-w.ended; err == nil { // whether there is a pin is not known
			t.Error("a folder that cannot be looked into: no error")
		}
		if err := os.Remove(parent); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(parent), 0o755); err != nil {
			t.Fatal(err)
		}
		w = guardOver(t, filepath.Join(parent, "x"))
		if err := os.WriteFile(parent, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		w.see(known(upTo(3)))
		w.use(upTo(3), Source)
		if w.alert(DiskAlert) == "" {
			t.Error("no alert of a folder that cannot be written")
		}
		if err := os.Remove(parent); err != nil {
			t.Fatal(err)
		}
		w.wait(keepAgain + time.Second)
		if w.alert(DiskAlert) != "" {
			t.Errorf("it was not tried again: %q", w.alert(DiskAlert))
		}
		w.stop()
		w = guardOver(t, filepath.Join(parent, "x"))
		w.wait(time.Minute)
		w.use(upTo(3), LastGood)
		w.stop()
	})
}

func FuzzDecodeNote(f *testing.F) {
	f.Add([]byte("drover pin 1 0000000000000000\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var n note
		if err := decode(pinFile, data, &n); err == nil && !strings.HasPrefix(string(data), "drover pin 1 ") {
			t.Errorf("%q was taken for a pin", data)
		}
	})
}
