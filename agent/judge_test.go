package agent

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// judged feeds a judge looks that are 2 s apart: '.' is sound, 'x' is trouble, '_' is 2 s without a look. It gives a '+' or '-' for
// each change, and a space for each look that changed nothing.
func judged(j *judge, now *time.Time, looks string) string {
	var out []byte
	for _, c := range []byte(looks) {
		*now = now.Add(2 * time.Second)
		if c == '_' {
			out = append(out, ' ')
			continue
		}
		l := Look{At: *now}
		if c == 'x' {
			l.Trouble = Dead
		}
		switch {
		case !j.look(l):
			out = append(out, ' ')
		case j.ok:
			out = append(out, '+')
		default:
			out = append(out, '-')
		}
	}
	return string(out)
}

func TestJudge(t *testing.T) {
	rules := Rules{After: 4 * time.Second, Down: 10 * time.Second, MaxDown: 40 * time.Second, Up: 6 * time.Second}
	for _, c := range []struct{ name, looks, want string }{
		{"sound from the start", "......", "   +  "},
		{"in trouble from the start", "xxxxxx", "      "},
		{"one look of trouble is nothing", "....x....", "   +     "},
		{"trouble, not before it was ok for long enough", "....xxx", "   +  -"},
		{"trouble, and back after the time out", "........xx.......", "   +     -    +  "},
		{"one sound look brings nobody back", "........xx.x.x.x.x.x.x", "   +     -            "},
		{"every other look", "........x.x.x.x.x.x", "   +        -      "},
		{"one long gap is one look", "........x___________.", "   +                 "},
		{"a quick relapse doubles the time out", "........xx.....xxx.............", "   +     -    +  -         +   "},
	} {
		now := start
		if got := judged(newJudge(rules), &now, c.looks); got != c.want {
			t.Errorf("%s:\nlooks %q\ngot   %q\nwant  %q", c.name, c.looks, got, c.want)
		}
	}
}

func TestAnotherOnesOkStandsAsLongAsTheLastTimeOut(t *testing.T) {
	j := newJudge(Rules{After: 4 * time.Second, Down: 10 * time.Second, MaxDown: 40 * time.Second, Up: 6 * time.Second})
	now := start
	judged(j, &now, "........xx")
	for _, want := range []string{"    -", "         -", "                   -"} {
		if j.ok {
			t.Fatal("it is ok")
		}
		j.told(now)
		if got := judged(j, &now, "xxxxxxxxxxxxxxxxxxxx"[:len(want)]); got != want {
			t.Errorf("the verdict changed as %q, want %q", got, want)
		}
	}
}

func TestTheJudgeNeverFlaps(t *testing.T) {
	seeds := 2000
	first := rand.Uint64()
	if s := os.Getenv("DROVER_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = n, 1
	}
	flips, quick := 0, 0
	for n := range seeds {
		seed := first + uint64(n)
		r := rand.New(rand.NewPCG(seed, seed))
		rules := Rules{
			After: time.Duration(1+r.IntN(10)) * time.Second, Down: time.Duration(5+r.IntN(30)) * time.Second,
			Up: time.Duration(r.IntN(20)) * time.Second,
		}
		rules.MaxDown = rules.Down << r.IntN(6)
		rules = rules.withDefaults()
		j := newJudge(rules)
		now, changed, out := start, start, time.Duration(0)
		bad := r.Float64()
		adversary := r.IntN(3) == 0 // looks at the verdict and answers with what would change it
		const span = 2 * time.Hour
		count := 0
		for now.Before(start.Add(span)) {
			now = now.Add(time.Duration(r.IntN(4000)) * time.Millisecond)
			if r.IntN(50) == 0 {
				bad = r.Float64()
			}
			l := Look{At: now}
			if adversary && j.ok || !adversary && r.Float64() < bad {
				l.Trouble = Stalled
			}
			if !j.look(l) {
				continue
			}
			stood := now.Sub(changed)
			if j.ok {
				if count > 0 && stood < out {
					t.Fatalf("DROVER_SEED=%d: out for %v, and %v was due", seed, stood, out)
				}
			} else {
				if stood < rules.Up {
					t.Fatalf("DROVER_SEED=%d: ok for %v", seed, stood)
				}
				due := rules.Down
				if out > 0 && stood < calm*out {
					due = min(2*out, rules.MaxDown)
					quick++
				}
				if j.hold != due {
					t.Fatalf("DROVER_SEED=%d: out for %v at least after %v of ok and %v out; want %v", seed, j.hold, stood, out, due)
				}
				out = due
			}
			changed = now
			count++
		}
		flips += count
		// Whoever relapses quickly is soon out for MaxDown each time; whoever does not is ok for four times as long as he was out.
		if most := 2*int(span/min(rules.MaxDown+rules.Up, 5*rules.Down)) + 16; count > most {
			t.Fatalf("DROVER_SEED=%d: %d changes in %v under %+v, more than %d", seed, count, span, rules, most)
		}
	}
	if flips < seeds || quick == 0 && seeds > 1 {
		t.Errorf("only %d changes, %d quick relapses: nothing was shown", flips, quick)
	}
}

func TestTheJudgeComesToAnEnd(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := Rules{MaxDown: 2 * time.Minute}.withDefaults()
		j := newJudge(rules)
		now := start
		for range r.IntN(300) {
			now = now.Add(2 * time.Second)
			l := Look{At: now}
			if r.IntN(2) == 0 {
				l.Trouble = Dead
			}
			j.look(l)
		}
		for _, trouble := range []Trouble{Dead, Sound} {
			from := now
			for j.ok != (trouble == Sound) {
				now = now.Add(2 * time.Second)
				j.look(Look{At: now, Trouble: trouble})
				if now.Sub(from) > rules.MaxDown+3*rules.After {
					t.Fatalf("seed %d: after %v of %q the verdict is still ok=%v", seed, now.Sub(from), trouble, j.ok)
				}
			}
		}
	}
}
