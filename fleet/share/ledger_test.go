package share

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func backlogged(workers ...string) (wants []Want) {
	for _, w := range workers {
		wants = append(wants, Want{Worker: w, Demand: math.Inf(1)})
	}
	return wants
}

func TestLedgerShrinksBeforeItGrows(t *testing.T) {
	l := NewLedger(10 * sec)
	if changed := l.Plan(0, 100, backlogged("a")); !slices.Equal(changed, []string{"a"}) {
		t.Fatal(changed)
	}
	if g := l.Listed("a"); !slices.Equal(g, []Grant{{1, 1}}) {
		t.Fatal(g)
	}
	l.Seen("a", 1)
	both := backlogged("a", "b")
	if changed := l.Plan(sec, 100, both); !slices.Equal(changed, []string{"a"}) {
		t.Fatalf("%v changed; b has to wait for a", changed)
	}
	if g := l.Listed("a"); !slices.Equal(g, []Grant{{1, 1}, {2, 0.5}}) {
		t.Fatalf("a's node lists %v, want both", g)
	}
	if changed := l.Plan(2*sec, 100, both); changed != nil {
		t.Fatalf("%v changed before a has named its grant", changed)
	}
	l.Seen("a", 2)
	if changed := l.Plan(3*sec, 100, both); !slices.Equal(changed, []string{"b"}) {
		t.Fatal(changed)
	}
	if g := l.Listed("a"); !slices.Equal(g, []Grant{{2, 0.5}}) {
		t.Fatalf("a's node lists %v", g)
	}
	l.Seen("b", 1)

	// b leaves in order: it wants nothing, and says that it has nothing.
	if changed := l.Plan(4*sec, 100, backlogged("a")); !slices.Equal(changed, []string{"b"}) {
		t.Fatal(changed)
	}
	l.Seen("b", 2)
	if changed := l.Plan(5*sec, 100, backlogged("a")); !slices.Equal(changed, []string{"a"}) {
		t.Fatal(changed)
	}
	if h := l.Held(5 * sec); !maps.Equal(h, map[string]float64{"a": 1}) {
		t.Fatal(h)
	}
}

func TestLedgerVanished(t *testing.T) {
	l := NewLedger(10 * sec)
	l.Plan(0, 100, backlogged("a", "b"))
	l.Seen("a", 1)
	l.Gone("b", 3*sec)
	l.Gone("b", 9*sec)
	if changed := l.Plan(12*sec, 100, backlogged("a", "b")); changed != nil {
		t.Fatalf("%v changed while b's grant counts", changed)
	}
	if at, ok := l.Expires(); !ok || at != 13*sec {
		t.Fatal(at, ok)
	}
	if changed := l.Plan(13*sec, 100, backlogged("a")); !slices.Equal(changed, []string{"a"}) || l.Held(13 * sec)["a"] != 1 {
		t.Fatal(changed)
	}
	if _, ok := l.Expires(); ok {
		t.Fatal("something still expires")
	}

	// A new leader counts what a vanished worker's node lists from its election on.
	l = NewLedger(10 * sec)
	l.Load("a", []Grant{{3, 0.25}})
	l.Load("b", []Grant{{8, 0.75}, {9, 0.5}})
	l.Gone("b", 100*sec)
	if h := l.Held(109 * sec); h["b"] != 0.75 {
		t.Fatal(h)
	}
	l.Plan(110*sec, 100, backlogged("a"))
	if g := l.Listed("a"); !slices.Equal(g, []Grant{{3, 0.25}, {4, 1}}) {
		t.Fatal(g)
	}
}

func TestLedgerLeavesThemAlone(t *testing.T) {
	l := NewLedger(10 * sec)
	wants := []Want{{Worker: "a", Demand: 20}, {Worker: "b", Demand: math.Inf(1)}, {Worker: "c", Demand: math.Inf(1)}}
	l.Plan(0, 100, wants)
	for w := range l.Held(0) {
		l.Seen(w, 1)
	}
	wants[0].Demand = 20.3
	if changed := l.Plan(sec, 100, wants); changed != nil {
		t.Fatalf("%v changed for a demand that is a little higher", changed)
	}
	wants[0].Demand = 40
	if changed := l.Plan(sec, 100, wants); !slices.Equal(changed, []string{"b", "c"}) {
		t.Fatalf("%v changed; b and c have to give", changed)
	}
}

// TestLedgerProperties has workers that take up grants late or never, vanish, and leaders that follow each other. world knows what each worker
// really spends by.
func TestLedgerProperties(t *testing.T) {
	leaders, vanished := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		const session = 10 * sec
		type worker struct {
			node    bool // its own node is there
			dead    time.Duration
			inForce Grant
			named   uint64
			listed  []Grant // its assign node
		}
		world := map[string]*worker{}
		l := NewLedger(session)
		now := time.Duration(0)
		var unwritten []string
		most := 1.0 // a new leader cannot know what a vanished worker had named, and may count more
		elect := func() {
			l = NewLedger(session)
			unwritten = nil
			for name, w := range world {
				l.Load(name, w.listed)
				if w.node {
					l.Seen(name, w.named)
				} else {
					l.Gone(name, now)
				}
			}
			most = max(1, total(l.Held(now)))
		}
		spent := func() float64 {
			sum := 0.0
			for _, w := range world {
				if w.node || now < w.dead+session {
					sum += w.inForce.Part
				}
			}
			return sum
		}
		for i := range rapid.IntRange(1, 80).Draw(t, "events") {
			now += time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond
			names := slices.Sorted(maps.Keys(world))
			pick := func() *worker {
				if len(names) == 0 {
					return nil
				}
				return world[rapid.SampledFrom(names).Draw(t, "who")]
			}
			switch rapid.IntRange(0, 7).Draw(t, "event") {
			case 0:
				world[fmt.Sprint("w", i)] = &worker{node: true}
			case 1:
				if w := pick(); w != nil && w.node {
					w.node, w.dead = false, now
					vanished++
				}
				for _, name := range names {
					if !world[name].node {
						l.Gone(name, now)
					}
				}
			case 2:
				leaders++
				elect()
			case 3: // takes up what its node lists, and does not say so yet
				if w := pick(); w != nil && w.node {
					w.inForce = Newest(w.listed)
				}
			case 4:
				for name, w := range world {
					if w.node {
						w.named = w.inForce.ID
						l.Seen(name, w.named)
					}
				}
			default:
				var wants []Want
				for _, name := range names {
					if world[name].node && rapid.IntRange(0, 5).Draw(t, "wants") > 0 {
						wants = append(wants, Want{Worker: name, Demand: rapid.SampledFrom([]float64{0, 5, 60, math.Inf(1)}).Draw(t, "demand")})
					}
				}
				unwritten = append(unwritten, l.Plan(now, 100, wants)...)
				for _, name := range unwritten {
					if w := world[name]; w != nil && rapid.IntRange(0, 3).Draw(t, "written") > 0 {
						w.listed = l.Listed(name)
					}
				}
				for _, name := range names {
					if !world[name].node && l.Listed(name) == nil {
						delete(world, name) // its assign node goes when nothing in it counts any more
					}
				}
			}
			if sum := total(l.Held(now)); sum > most {
				t.Fatalf("the ledger counts %v", sum)
			}
			if sum := spent(); sum > 1 {
				t.Fatalf("workers spend %v of the limit", sum)
			}
		}
	})
	if leaders == 0 || vanished == 0 {
		t.Fatal("no leader changed, or nobody vanished")
	}
}

func TestLimitJSON(t *testing.T) {
	for text, want := range map[string]Limit{
		`{}`: NoLimit, `{"rows":5000}`: {5000, math.Inf(1)}, `{"rows":0,"bytes":0}`: Pause, `{"rows":1.5,"bytes":1e+21}`: {1.5, 1e21},
	} {
		var l Limit
		if err := json.Unmarshal([]byte(text), &l); err != nil || l != want {
			t.Errorf("%s is %v (%v)", text, l, err)
		}
		if back, err := json.Marshal(l); err != nil || string(back) != text {
			t.Errorf("%v is %s (%v), want %s", l, back, err, text)
		}
	}
	var l Limit
	if err := json.Unmarshal([]byte(`{"rows":-1}`), &l); err == nil {
		t.Error("took a negative limit")
	}
	if low := Lowest(Limit{5, math.Inf(1)}, Limit{7, 3}); low != (Limit{5, 3}) || Lowest() != NoLimit {
		t.Error(low)
	}
	if p := (Limit{100, 1000}).Part(10, 500); p != 0.5 {
		t.Error(p)
	}
	if l := (Limit{100, math.Inf(1)}).Times(0.2); l != (Limit{20, math.Inf(1)}) || NoLimit.Times(0) != Pause {
		t.Error(l)
	}
	var k Kind
	if err := k.UnmarshalText([]byte("scans")); err != nil || k != Scans {
		t.Error(k, err)
	}
	if k.UnmarshalText([]byte("all")) == nil {
		t.Error("took a budget of all")
	}
}
