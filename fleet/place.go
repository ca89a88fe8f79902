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
	has      []*piece        // that it works on or was told to; those asked back included
	begun    map[string]bool // attempts that it has saved something of: it sees the source, reaches the table and has a part of the limit
}

// piece is a shard that is not done.
type piece struct {
	key   shardKey
	class int               // 0 is the most urgent
	order int               // of its run, for those of one class
	needs map[string]string // labels that a worker must have
	fresh bool              // nobody has it: giving it moves nothing
	had   bool              // somebody had it once, and whoever gets it is to go on at once
	back  bool              // was asked back
	meant string            // the seat that it was asked back for; "" is none
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
//
// Who has not begun to work on a run gets one of its shards that were under way and then, when it has begun, others: until then
// it opens the source, looks at the table and waits for a part of the limit, and a shard that was given to it would stand still.
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
	expected := map[expectation]bool{}
	for _, s := range seats {
		for _, p := range s.has {
			expected[expectation{s.id, p.key.at}] = true
			expected[expectation{p.meant, p.key.at}] = true
		}
	}
	for _, p := range loose {
		expected[expectation{p.meant, p.key.at}] = true
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
		expected[expectation{seats[best].id, p.key.at}] = true
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
	// Balance: from the fullest to the emptiest that can have something of it.
	for moves > 0 {
		from, to := -1, -1
		for i, s := range seats {
			if s.capacity > 0 && (from < 0 || fuller(load[i], s.capacity, load[from], seats[from].capacity)) {
				from = i
			}
		}
		if from < 0 {
			break
		}
		var p *piece
		for i, s := range seats {
			if i == from || load[i] >= s.capacity || to >= 0 && !fuller(load[to]+1, seats[to].capacity, load[i]+1, s.capacity) {
				continue
			}
			if c := spare(seats[from], s, expected); c != nil {
				to, p = i, c
			}
		}
		if to < 0 || !fuller(load[from], seats[from].capacity, load[to]+1, seats[to].capacity) || load[from]-load[to] < 2 {
			break
		}
		p.meant = seats[to].id
		expected[expectation{p.meant, p.key.at}] = true
		ask(p)
		load[from]--
		load[to]++
	}
	return given, back, moves
}

// expectation is that a seat has, or will have, a shard of an attempt.
type expectation struct{ seat, at string }

// spare is what one seat can give up for another.
func spare(from, to seat, expected map[expectation]bool) *piece {
	for _, p := range slices.Backward(from.has) {
		if !p.back && fits(to.labels, p.needs) && (to.begun[p.key.at] || !expected[expectation{to.id, p.key.at}]) {
			return p
		}
	}
	return nil
}

// fuller compares a of capacity ca with b of capacity cb.
func fuller(a, ca, b, cb int) bool { return a*cb > b*ca }

func better(seats []seat, load []int, p *piece, i, than int) bool {
	a, b := seats[i], seats[than]
	if avoids := p.avoid == a.id; avoids != (p.avoid == b.id) {
		return !avoids
	}
	if meant := p.meant == a.id; meant != (p.meant == b.id) {
		return meant
	}
	if begun := a.begun[p.key.at]; p.had && begun != b.begun[p.key.at] {
		return begun
	}
	return fuller(load[than]+1, b.capacity, load[i]+1, a.capacity)
}
