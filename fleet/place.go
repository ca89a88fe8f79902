package fleet

import (
	"cmp"
	"slices"
)

// seat is a member that can have shards.
type seat struct {
	id       string
	capacity int // shards; 0 takes none and gives back what it has
	labels   map[string]string
	has      []*piece // that it works on or was told to; those asked back included
}

// piece is a shard that is not done.
type piece struct {
	key   shardKey
	class int               // 0 is the most urgent
	order int               // of its run, for those of one class
	needs map[string]string // labels that a worker must have
	fresh bool              // nobody ever had it: giving it moves nothing
	back  bool              // was asked back
	avoid string            // the seat that failed at it, taken only when there is no other
}

// fits tells whether a worker's labels have all that is needed.
func fits(labels, needs map[string]string) bool {
	for k, v := range needs {
		if labels[k] != v {
			return false
		}
	}
	return true
}

type placement struct {
	piece *piece
	seat  int
}

// place decides who gets the pieces that nobody has, and which are asked back so that somebody else gets them: the most
// urgent first, to whom has the largest part of its capacity free. moves bounds how many pieces that somebody had before
// change hands; what is left of it is returned. Pieces are asked back only while none wait, one step towards balance at a
// time, and only for a difference of two shards or more, so that nothing goes to and fro.
func place(seats []seat, loose []*piece, moves int) (given []placement, back []*piece, left int) {
	load := make([]int, len(seats))
	room := 0
	for i, s := range seats {
		load[i] = len(s.has)
		room += max(0, s.capacity-load[i])
	}
	slices.SortFunc(loose, func(a, b *piece) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.order, b.order), cmp.Compare(a.key.n, b.key.n), cmp.Compare(a.key.at, b.key.at))
	})
	var waiting []*piece
	for _, p := range loose {
		if len(p.needs) > 0 && !slices.ContainsFunc(seats, func(s seat) bool { return s.capacity > 0 && fits(s.labels, p.needs) }) {
			continue // nobody here can take it: it waits without keeping others from what they could have
		}
		if room == 0 || !p.fresh && moves == 0 {
			waiting = append(waiting, p)
			continue
		}
		best := -1
		for i, s := range seats {
			if load[i] >= s.capacity || !fits(s.labels, p.needs) {
				continue
			}
			if best < 0 || better(seats, load, p, i, best) {
				best = i
			}
		}
		if best < 0 {
			waiting = append(waiting, p)
			continue
		}
		if !p.fresh {
			moves--
		}
		load[best]++
		room--
		given = append(given, placement{p, best})
	}
	ask := func(p *piece) {
		p.back = true
		back = append(back, p)
		moves--
	}
	// Who takes no shards gives all back, as far as there is room for them elsewhere, or nobody is to work here at all.
	for i, s := range seats {
		for _, p := range s.has {
			if s.capacity < len(s.has) && moves > 0 && !p.back && load[i] > s.capacity {
				ask(p)
				load[i]--
			}
		}
	}
	coming := 0
	for _, s := range seats {
		for _, p := range s.has {
			if p.back {
				coming++
			}
		}
	}
	// Urgent pieces that found no room have less urgent ones make some.
	for _, w := range waiting {
		if coming > 0 {
			coming--
			continue
		}
		var least *piece
		for _, s := range seats {
			if s.capacity == 0 || !fits(s.labels, w.needs) {
				continue
			}
			for _, p := range s.has {
				if !p.back && p.class > w.class && (least == nil || p.class > least.class) {
					least = p
				}
			}
		}
		if least == nil || moves <= 0 || room > 0 {
			break
		}
		ask(least)
	}
	if len(waiting) > 0 || coming > 0 || len(back) > 0 {
		return given, back, moves
	}
	// Balance: from the fullest to the emptiest.
	for moves > 0 {
		from, to := -1, -1
		for i, s := range seats {
			if s.capacity == 0 {
				continue
			}
			if from < 0 || fuller(load[i], s.capacity, load[from], seats[from].capacity) {
				from = i
			}
			if load[i] < s.capacity && (to < 0 || fuller(load[to]+1, seats[to].capacity, load[i]+1, s.capacity)) {
				to = i
			}
		}
		if from < 0 || to < 0 || from == to || !fuller(load[from], seats[from].capacity, load[to]+1, seats[to].capacity) ||
			load[from]-load[to] < 2 {
			break
		}
		var p *piece
		for _, c := range slices.Backward(seats[from].has) {
			if !c.back && fits(seats[to].labels, c.needs) {
				p = c
				break
			}
		}
		if p == nil {
			break
		}
		ask(p)
		load[from]--
		load[to]++
	}
	return given, back, moves
}

// fuller compares a of capacity ca with b of capacity cb.
func fuller(a, ca, b, cb int) bool { return a*cb > b*ca }

func better(seats []seat, load []int, p *piece, i, than int) bool {
	if avoids, other := p.avoid == seats[i].id, p.avoid == seats[than].id; avoids != other {
		return other
	}
	return fuller(load[than]+1, seats[than].capacity, load[i]+1, seats[i].capacity)
}
