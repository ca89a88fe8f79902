package share

import (
	"fmt"
	"maps"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func total(parts map[string]float64) float64 {
	sum := 0.0
	for _, p := range parts {
		sum += p
	}
	return sum
}

func TestDivide(t *testing.T) {
	inf := math.Inf(1)
	tests := []struct {
		name  string
		limit float64
		wants []Want
		want  map[string]float64
	}{
		{"nobody", 100, nil, map[string]float64{}},
		{"alone", 100, []Want{{Worker: "a", Demand: 1}}, map[string]float64{"a": 1}},
		{"all want all", 100, []Want{{Worker: "a", Demand: inf}, {Worker: "b", Demand: inf}}, map[string]float64{"a": 0.5, "b": 0.5}},
		{"weights", 100, []Want{{Worker: "a", Demand: inf, Weight: 3}, {Worker: "b", Demand: inf, Weight: 1}}, map[string]float64{"a": 0.75, "b": 0.25}},
		{"who wants little gets it", 100, []Want{{Worker: "a", Demand: 10}, {Worker: "b", Demand: inf}}, map[string]float64{"a": 0.1, "b": 0.9}},
		{"max-min", 100, []Want{{Worker: "a", Demand: 20}, {Worker: "b", Demand: 50}, {Worker: "c", Demand: 90}}, map[string]float64{"a": 0.2, "b": 0.4, "c": 0.4}},
		{"the spare", 100, []Want{{Worker: "a", Demand: 10}, {Worker: "b", Demand: 50}}, map[string]float64{"a": 0.3, "b": 0.7}},
		{"urgent first, the rest keep a floor", 100, []Want{{Worker: "a", Demand: inf, Class: 1}, {Worker: "b", Demand: inf}}, map[string]float64{"a": 0.05, "b": 0.95}},
		{"what urgent work leaves", 100, []Want{{Worker: "a", Demand: inf, Class: 1}, {Worker: "b", Demand: 30}}, map[string]float64{"a": 0.7, "b": 0.3}},
		{"both classes at one worker", 100, []Want{{Worker: "a", Demand: inf, Class: 1}, {Worker: "a", Demand: 20}, {Worker: "b", Demand: 30}}, map[string]float64{"a": 0.7, "b": 0.3}},
		{"cap", 100, []Want{{Worker: "a", Demand: inf, Cap: 0.125}, {Worker: "b", Demand: 5}}, map[string]float64{"a": 0.125, "b": 0.875}},
		{"a cap over classes", 100, []Want{{Worker: "a", Demand: 10, Cap: 0.25}, {Worker: "a", Demand: 90, Class: 1, Cap: 0.25}}, map[string]float64{"a": 0.25}},
		{"pause", 0, []Want{{Worker: "a", Demand: 0}, {Worker: "b", Demand: inf}}, map[string]float64{"a": 0.5, "b": 0.5}},
		{"no limit", inf, []Want{{Worker: "a", Demand: 1}, {Worker: "b", Demand: inf}}, map[string]float64{"a": 0.5, "b": 0.5}},
		{"one who idles keeps a little", 100, []Want{{Worker: "a"}, {Worker: "b", Demand: inf}}, map[string]float64{"a": 0.05, "b": 0.95}},
		{"nonsense", 100, []Want{{Worker: "a", Demand: math.NaN(), Weight: -1, Cap: math.NaN()}, {Worker: "b", Demand: -5, Weight: inf, Cap: -1}}, map[string]float64{"a": 0.5, "b": 0.5}},
	}
	for _, test := range tests {
		got := Divide(test.limit, test.wants)
		if !maps.EqualFunc(got, test.want, func(a, b float64) bool { return math.Abs(a-b) <= 2*quantum }) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func drawWants(t *rapid.T) []Want {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Want {
		return Want{
			Worker: fmt.Sprint("w", rapid.IntRange(0, 11).Draw(t, "worker")),
			Demand: rapid.OneOf(rapid.Float64Range(0, 300), rapid.Just(math.Inf(1)), rapid.Just(0.0)).Draw(t, "demand"),
			Weight: rapid.SampledFrom([]float64{0, 1, 1, 3, 0.1}).Draw(t, "weight"),
			Class:  rapid.IntRange(0, 2).Draw(t, "class"),
			Cap:    rapid.SampledFrom([]float64{0, 1, 0.25, 0.03}).Draw(t, "cap"),
		}
	}), 0, 30).Draw(t, "wants")
}

func TestDivideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wants := drawWants(t)
		limit := rapid.SampledFrom([]float64{0, 100, 1000, math.Inf(1)}).Draw(t, "limit")
		ideal := Divide(limit, wants)
		if sum := total(ideal); sum > 1 {
			t.Fatalf("sum %v", sum)
		}
		shuffled := rapid.Permutation(wants).Draw(t, "shuffled")
		if again := Divide(limit, shuffled); !maps.EqualFunc(ideal, again, func(a, b float64) bool { return math.Abs(a-b) <= 2*quantum }) {
			t.Fatalf("the order of wants matters: %v, %v", ideal, again)
		}
		capped := 0.0
		caps := map[string]float64{}
		for _, w := range wants {
			c := w.Cap
			if c == 0 {
				c = 1
			}
			if old, ok := caps[w.Worker]; ok {
				c = min(c, old)
			}
			caps[w.Worker] = c
		}
		for w, p := range ideal {
			capped += caps[w]
			if p < 0 || p > caps[w] {
				t.Fatalf("%s has %v of at most %v", w, p, caps[w])
			}
			if p < least*floor*floor*0.1/40/4 && total(ideal) < 1 {
				t.Fatalf("%s has %v", w, p)
			}
		}
		if sum := total(ideal); sum < min(1, capped)-100*quantum {
			t.Fatalf("only %v of %v are given out", sum, min(1, capped))
		}
	})
}

// TestDivideIsFair checks the definition of max-min fairness itself: nobody who has less than its demand could gain at the cost of only those who have
// more for their weight.
func TestDivideIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "workers")
		wants := make([]Want, n)
		weights := 0.0
		for i := range wants {
			wants[i] = Want{
				Worker: fmt.Sprint(i), Weight: rapid.SampledFrom([]float64{1, 2, 5}).Draw(t, "weight"),
				Demand: rapid.Float64Range(1, 200).Draw(t, "demand"),
			}
			weights += wants[i].Weight
		}
		got := Divide(100, wants)
		level := 0.0 // the most that anybody has for its weight beyond what it asked for
		for _, w := range wants {
			level = max(level, got[w.Worker]/w.Weight)
		}
		for _, w := range wants {
			demand := max(w.Demand/100, least*w.Weight/weights)
			if got[w.Worker] < min(1, demand)-2*quantum && got[w.Worker]/w.Weight < level-1e-6 {
				t.Fatalf("%+v has %v for its weight, while others have %v", w, got[w.Worker]/w.Weight, level)
			}
		}
	})
}

func BenchmarkDivide(b *testing.B) {
	wants := make([]Want, 1000)
	for i := range wants {
		wants[i] = Want{Worker: fmt.Sprint(i), Demand: float64(i * 7 % 31), Weight: float64(1 + i%3), Class: i % 2}
	}
	for b.Loop() {
		Divide(10_000, wants)
	}
}
