package share

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

const (
	// quantum is what all parts are multiples of. Sums of such numbers are exact in any order, so "at most 1" is meant literally.
	quantum = 1.0 / (1 << 30)
	// floor is what all less urgent work together keeps of what more urgent work could take: enough to stay alive and to be seen.
	floor = 0.05
	// least is what a worker that wants anything keeps of its fair part, even if it used nothing lately: enough to start with.
	least = 0.1
)

// Want is what a worker could use of a budget, for the jobs of one class. A worker has one for each class that its jobs are of; several of
// one class are added up.
type Want struct {
	Worker string
	Demand float64 // what it could use now, in the unit of Divide's limit; +Inf: unknown, or more than it gets
	Weight float64 // of its jobs, against other wants of the class; 0 counts as 1
	Class  int     // 0 is served first, the rest keep a floor
	Cap    float64 // the largest part that the worker may ever have, over all classes; 0 or 1: no cap
}

// Divide says which part of limit each worker should have: as much as it demands where there is enough, else max-min fair by weight, class
// after class. What nobody demands is given out too, by weight, so that a worker can use more before anybody has heard of it. A limit of
// 0 (pause) or +Inf is divided as if all demanded everything. The sum is at most 1.
//
// What parts are still in force elsewhere is not its business; a [Ledger] knows.
func Divide(limit float64, wants []Want) map[string]float64 {
	claims := merge(limit, wants)
	caps := map[string]float64{}
	for _, w := range wants {
		c := w.Cap
		if !(c > 0) || c > 1 {
			c = 1
		}
		if old, ok := caps[w.Worker]; ok {
			c = min(old, c)
		}
		caps[w.Worker] = c
	}

	parts := make(map[string]float64, len(caps))
	free := 1.0
	give := func(claims []claim, room float64) {
		for i := range claims {
			claims[i].bound = min(claims[i].bound, max(0, caps[claims[i].worker]-parts[claims[i].worker]))
		}
		fill(room, claims)
		for _, c := range claims {
			parts[c.worker] += c.got
			free -= c.got
		}
	}
	for rest := claims; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].class == rest[0].class {
			n++
		}
		below := 0.0
		for _, c := range rest[n:] {
			below += c.bound
		}
		give(rest[:n], free-min(floor*free, below))
		rest = rest[n:]
	}

	// The spare goes to everybody who may have more: a claim for each worker, and its class does not matter, since all have what they demand.
	if free > 0 {
		spare := map[string]claim{}
		for _, c := range claims {
			s := spare[c.worker]
			spare[c.worker] = claim{worker: c.worker, weight: s.weight + c.weight, bound: 1}
		}
		give(slices.SortedFunc(maps.Values(spare), byWorker), free)
	}
	for w, p := range parts {
		parts[w] = down(max(0, p))
	}
	return parts
}

// down rounds to the next lower part.
func down(p float64) float64 { return math.Floor(p/quantum) * quantum }

// claim is what one worker may get in one filling.
type claim struct {
	worker string
	weight float64
	bound  float64 // the most it can take
	class  int
	got    float64
}

func byWorker(a, b claim) int { return cmp.Compare(a.worker, b.worker) }

// merge makes one claim of each worker's wants of a class, sorted by class and worker.
func merge(limit float64, wants []Want) []claim {
	claims := make([]claim, 0, len(wants))
	for _, w := range wants {
		c := claim{worker: w.Worker, weight: w.Weight, class: w.Class, bound: 1}
		if !(c.weight > 0) || math.IsInf(c.weight, 1) {
			c.weight = 1
		}
		if limit > 0 && !math.IsInf(limit, 1) {
			c.bound = max(0, w.Demand/limit)
			if math.IsNaN(c.bound) {
				c.bound = 0
			}
		}
		claims = append(claims, c)
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.class, b.class), byWorker(a, b), cmp.Compare(a.weight, b.weight), cmp.Compare(a.bound, b.bound))
	})
	merged := claims[:0]
	for _, c := range claims {
		if n := len(merged); n > 0 && merged[n-1].class == c.class && merged[n-1].worker == c.worker {
			merged[n-1].weight += c.weight
			merged[n-1].bound += c.bound
			continue
		}
		merged = append(merged, c)
	}
	weights := map[int]float64{}
	for _, c := range merged {
		weights[c.class] += c.weight
	}
	for i, c := range merged {
		merged[i].bound = min(1, max(c.bound, least*c.weight/weights[c.class]))
	}
	return merged
}

// fill pours room into claims until it is used up or all are full, always into those that have least for their weight. It sets got.
func fill(room float64, claims []claim) {
	order := make([]*claim, len(claims))
	weight := 0.0
	for i := range claims {
		order[i] = &claims[i]
		weight += claims[i].weight
	}
	slices.SortStableFunc(order, func(a, b *claim) int { return cmp.Compare(a.bound/a.weight, b.bound/b.weight) })
	for _, c := range order {
		c.got = max(0, min(c.bound, room*c.weight/weight))
		room -= c.got
		weight -= c.weight
		if weight <= 0 {
			weight = c.weight // rounding; only the last has nobody behind it
		}
	}
}
