package checkpoints

import (
	"testing"

	"pgregory.net/rapid"
)

// plain is a window as the words say it: a list.
type plain struct {
	first   Seq
	results []*Result // by document; nil is pending
}

func (m *plain) add() Seq {
	m.results = append(m.results, nil)
	return m.first + Seq(len(m.results)) - 1
}

func (m *plain) settle(s Seq, r Result) { m.results[s-m.first] = &r }

func (m *plain) advance(f func(Seq, Result)) {
	for len(m.results) > 0 && m.results[0] != nil {
		f(m.first, *m.results[0])
		m.results = m.results[1:]
		m.first++
	}
}

// highest is the mutant: it lets everything go up to the highest settled document.
type highest struct{ plain }

func (m *highest) advance(f func(Seq, Result)) {
	for i := len(m.results) - 1; i >= 0; i-- {
		if m.results[i] == nil {
			continue
		}
		for _, r := range m.results[:i+1] {
			if r == nil {
				r = &Result{}
			}
			f(m.first, *r)
			m.first++
		}
		m.results = m.results[i+1:]
		return
	}
}

type window interface {
	add() Seq
	settle(Seq, Result)
	advance(func(Seq, Result))
}

// real is the Window, whose places are the sequence numbers themselves.
type real struct {
	Window[Seq]
	n Seq
}

func (w *real) add() Seq {
	w.n++
	return w.Add(w.n - 1)
}
func (w *real) settle(s Seq, r Result)      { w.Settle(s, r) }
func (w *real) advance(f func(Seq, Result)) { w.Advance(f) }

// checkWindow does the same to a window and to the plain one, and fails when they differ or when something unsettled leaves.
func checkWindow(t interface {
	rapid.TB
}, draw *rapid.T, w window,
) {
	type left struct {
		s Seq
		r Result
	}
	var model plain
	var pending []Seq
	settled := map[Seq]bool{}
	for range rapid.IntRange(1, 300).Draw(draw, "steps") {
		switch rapid.IntRange(0, 4).Draw(draw, "step") {
		case 0, 1:
			s := w.add()
			if want := model.add(); s != want {
				t.Fatalf("added %d, want %d", s, want)
			}
			pending = append(pending, s)
		case 2, 3:
			if len(pending) == 0 {
				continue
			}
			i := rapid.IntRange(0, len(pending)-1).Draw(draw, "which")
			s := pending[i]
			pending = append(pending[:i], pending[i+1:]...)
			r := Result{Outcome: uint8(s % 3), Cells: int32(s), Bytes: int32(s) * 7, Rows: 1}
			settled[s] = true
			w.settle(s, r)
			model.settle(s, r)
		case 4:
			var got, want []left
			w.advance(func(s Seq, r Result) { got = append(got, left{s, r}) })
			model.advance(func(s Seq, r Result) { want = append(want, left{s, r}) })
			for _, g := range got {
				if !settled[g.s] {
					t.Fatalf("document %d left without being settled", g.s)
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d documents left, want %d", len(got), len(want))
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("left %v, want %v", got[i], want[i])
				}
			}
		}
	}
	if w, ok := w.(*real); ok {
		if w.Len() != len(model.results) {
			t.Fatalf("length %d, want %d", w.Len(), len(model.results))
		}
		if p, ok := w.Oldest(); ok != (len(model.results) > 0) || ok && p != model.first {
			t.Fatalf("oldest %d %v, want %d", p, ok, model.first)
		}
	}
}

func TestWindow(t *testing.T) {
	rapid.Check(t, func(draw *rapid.T) { checkWindow(draw, draw, &real{}) })
}

// found is a TB that notes a failure.
type found struct {
	rapid.TB
	failed bool
}

type stop struct{}

func (f *found) Fatalf(string, ...any) {
	f.failed = true
	panic(stop{})
}

// The check must tell a window that skips from one that does not.
func TestWindowCheckFindsSkipping(t *testing.T) {
	caught := 0
	rapid.Check(t, func(draw *rapid.T) {
		f := &found{TB: draw}
		func() {
			defer func() {
				if r := recover(); r != nil && !f.failed {
					panic(r)
				}
			}()
			checkWindow(f, draw, &highest{})
		}()
		if f.failed {
			caught++
		}
	})
	if caught == 0 {
		t.Fatal("a window that lets unsettled documents go passed every check")
	}
	t.Logf("found in %d checks", caught)
}

func TestWindowPanicsOnMisuse(t *testing.T) {
	for name, f := range map[string]func(w *Window[int]){
		"never added":         func(w *Window[int]) { w.Settle(1, Result{}) },
		"added to none":       func(w *Window[int]) { new(Window[int]).Settle(0, Result{}) },
		"twice":               func(w *Window[int]) { w.Settle(0, Result{}); w.Settle(0, Result{}) },
		"twice, long settled": func(w *Window[int]) { w.Settle(0, Result{}); w.Advance(func(int, Result) {}); w.Settle(0, Result{}) },
		"far":                 func(w *Window[int]) { w.Settle(1<<63, Result{}) },
	} {
		t.Run(name, func(t *testing.T) {
			var w Window[int]
			w.Add(7)
			defer func() {
				if recover() == nil {
					t.Fatal("no panic")
				}
			}()
			f(&w)
		})
	}
}

func TestWindowDoesNotAllocate(t *testing.T) {
	var w Window[[2]int64]
	var seqs [1000]Seq
	round := func() {
		for i := range seqs {
			seqs[i] = w.Add([2]int64{int64(i), 0})
		}
		for i := range seqs {
			w.Settle(seqs[len(seqs)-1-i], Result{})
		}
		w.Advance(func([2]int64, Result) {})
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Fatalf("%v allocations a round, want none", n)
	}
}

// BenchmarkWindow adds, settles in another order and advances; an operation is a document.
func BenchmarkWindow(b *testing.B) {
	type place struct {
		chunk *int
		index int
	}
	chunk := new(int)
	var w Window[place]
	var seqs [256]Seq
	var rows int64
	f := func(_ place, r Result) { rows += int64(r.Rows) }
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(seqs) {
		for i := range seqs {
			seqs[i] = w.Add(place{chunk, i})
		}
		for i := range seqs {
			w.Settle(seqs[i^1], Result{Rows: 1})
		}
		w.Advance(f)
	}
	if rows < int64(b.N) {
		b.Fatal("documents are missing")
	}
}
