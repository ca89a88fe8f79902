package fleet

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"drover/checkpoints"
)

// placing plays rounds of place on made-up members until nothing changes.
type placing struct {
	seats  []seat
	pieces []*piece
	owner  map[*piece]int // -1 nobody
}

// place has it decided who gets what, as things are.
func (p *placing) place(moves int) (given []placement, back []*piece, left int) {
	var loose []*piece
	for i := range p.seats {
		p.seats[i].has = nil
	}
	for _, x := range p.pieces {
		if o := p.owner[x]; o >= 0 {
			p.seats[o].has = append(p.seats[o].has, x)
		} else {
			loose = append(loose, x)
		}
	}
	return place(p.seats, loose, moves)
}

func (p *placing) round(moves int) (changed bool, moved int) {
	given, back, left := p.place(moves)
	for i, s := range p.seats {
		for _, x := range s.has {
			if s.begun == nil {
				p.seats[i].begun = map[string]bool{}
			}
			p.seats[i].begun[x.key.at] = true
		}
	}
	for _, g := range given {
		p.owner[g.piece] = g.seat
		g.piece.fresh, g.piece.had, g.piece.meant = false, true, ""
	}
	for _, x := range back { // let go at once
		p.owner[x] = -1
		x.back, x.fresh = false, true
	}
	return len(given)+len(back) > 0, moves - left
}

// Whatever the pool, placing ends; every piece that somebody can take is with somebody while there is room, nobody has more
// than it can or what it cannot, and no two members of one kind differ by more than one.
func TestPlaceSettles(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, seed))
		p := &placing{owner: map[*piece]int{}}
		same := r.IntN(2) == 0
		for i := range 1 + r.IntN(12) {
			s := seat{id: fmt.Sprint(i), capacity: 8, begun: map[string]bool{}}
			for a := range 2 {
				s.begun[fmt.Sprint(a)] = r.IntN(2) == 0
			}
			if !same {
				s.capacity = r.IntN(12)
				s.labels = map[string]string{"dc": fmt.Sprint(r.IntN(2))}
			}
			p.seats = append(p.seats, s)
		}
		for n := range r.IntN(120) {
			x := &piece{key: shardKey{fmt.Sprint(r.IntN(2)), n}, fresh: r.IntN(2) == 0, had: r.IntN(2) == 0, class: r.IntN(2)}
			if !same && r.IntN(4) == 0 {
				x.needs = map[string]string{"dc": fmt.Sprint(r.IntN(2))}
			}
			p.pieces = append(p.pieces, x)
			p.owner[x] = r.IntN(len(p.seats)+1) - 1
		}
		rounds := 0
		for ; rounds < 500; rounds++ {
			changed, moved := p.round(20)
			if moved > 20 {
				t.Fatalf("seed %d: %d moves at once, 20 were allowed", seed, moved)
			}
			if !changed {
				break
			}
		}
		if rounds == 500 {
			t.Fatalf("seed %d: it never settles", seed)
		}
		load := make([]int, len(p.seats))
		for _, x := range p.pieces {
			if o := p.owner[x]; o >= 0 {
				load[o]++
				if p.seats[o].capacity == 0 {
					t.Errorf("seed %d: a member that takes none has %v", seed, x.key)
				}
			}
		}
		for i, s := range p.seats {
			if load[i] > s.capacity {
				t.Errorf("seed %d: %d pieces at one that takes %d", seed, load[i], s.capacity)
			}
		}
		for _, x := range p.pieces {
			if p.owner[x] >= 0 {
				continue
			}
			for i, s := range p.seats {
				if load[i] < s.capacity && fits(s.labels, x.needs) {
					t.Errorf("seed %d: a piece waits, and %s has room", seed, s.id)
				}
			}
		}
		if same {
			for i := range load {
				for k := range load {
					if load[i]-load[k] > 1 {
						t.Errorf("seed %d: loads %v", seed, load)
					}
				}
			}
		}
	}
}

// Who is new to a run gets one of its shards that were under way, and others when it has begun; what somebody died of goes to those
// who work on the run already.
func TestPlaceSparesNewcomers(t *testing.T) {
	begun := map[string]bool{"a": true}
	p := &placing{owner: map[*piece]int{}, seats: []seat{{id: "old", capacity: 8, begun: begun}, {id: "older", capacity: 8, begun: begun}, {id: "new", capacity: 8}}}
	for n := range 9 {
		x := &piece{key: shardKey{"a", n}, had: true}
		p.pieces = append(p.pieces, x)
		p.owner[x] = n%3 - 1 // three of somebody who is gone, three of each that is old
	}
	load := func() (n [3]int) {
		for _, x := range p.pieces {
			if o := p.owner[x]; o >= 0 {
				n[o]++
			}
		}
		return n
	}
	p.seats[2].begun = map[string]bool{}
	given := func() {
		given, back, _ := p.place(20)
		for _, g := range given {
			p.owner[g.piece] = g.seat
		}
		for _, x := range back {
			p.owner[x], x.back = -1, false
		}
	}
	given()
	if n := load(); n[2] != 0 || n[0]+n[1] < 8 { // one is on its way
		t.Errorf("of what was left without an owner: %v", n)
	}
	for range 4 { // asked back, given, and nothing more until it has begun
		given()
	}
	if n := load(); n[2] != 1 || n[0]+n[1] != 8 {
		t.Errorf("one is to be had by who is new: %v", n)
	}
	p.seats[2].begun["a"] = true
	for range 4 {
		given()
	}
	if n := load(); n != [3]int{3, 3, 3} {
		t.Errorf("when it has begun: %v", n)
	}
}

func TestPlaceMakesRoomForUrgentOnes(t *testing.T) {
	p := &placing{owner: map[*piece]int{}, seats: []seat{{id: "a", capacity: 4}, {id: "b", capacity: 4}}}
	for n := range 8 {
		x := &piece{key: shardKey{"slow", n}, class: 1}
		p.pieces = append(p.pieces, x)
		p.owner[x] = n % 2
	}
	for n := range 3 {
		x := &piece{key: shardKey{"urgent", n}, fresh: true}
		p.pieces = append(p.pieces, x)
		p.owner[x] = -1
	}
	for range 20 {
		p.round(50)
	}
	for x, o := range p.owner {
		if x.class == 0 && o < 0 {
			t.Errorf("%v waits behind less urgent ones", x.key)
		}
	}
}

// When half of a pool goes at once, it is given a session timeout to come back; one member is not waited for.
func TestHalfAPoolIsWaitedFor(t *testing.T) {
	const timeout = 10 * time.Second
	pool := func(members int) *leader {
		l := newLeader(newMachine(), "/p", "me", timeout, newMemory(), 1, func() string { return "x" })
		for i := range members {
			m := l.member(fmt.Sprint(i))
			m.present = true
			m.has[shardKey{"a", i}] = &shardState{}
		}
		return l
	}
	l := pool(6)
	l.lost(l.members["0"])
	if !l.taking() {
		t.Error("one of six is waited for")
	}
	l.now = time.Second
	l.lost(l.members["1"])
	l.lost(l.members["2"])
	if l.taking() {
		t.Error("half of the pool vanished within a second, and is not waited for")
	}
	l.now += timeout + 1
	if !l.taking() {
		t.Error("half of the pool is waited for without end")
	}
	slow := pool(6)
	for i := range 3 {
		slow.now = time.Duration(i) * 3 * timeout
		slow.lost(slow.members[fmt.Sprint(i)])
		if !slow.taking() {
			t.Error("members that went one by one are waited for")
		}
	}
}

func TestTile(t *testing.T) {
	mark := func(start, end string, of int, planned string) checkpoints.Mark {
		return checkpoints.Mark{Shard: []byte(fmt.Sprintf(`{"start":%q,"end":%q}`, start, end)), Of: of, Planned: planned}
	}
	whole := func() map[int]checkpoints.Mark {
		return map[int]checkpoints.Mark{
			0: mark("", "5", 0, "9"), 1: mark("9", "", 1, ""),
			2: mark("7", "9", 0, ""), 3: mark("5", "7", 0, ""),
		}
	}
	if err := tile(whole(), 2, 4); err != nil {
		t.Errorf("split shards that tile: %v", err)
	}
	for name, harm := range map[string]func(map[int]checkpoints.Mark){
		"a shard is gone":    func(m map[int]checkpoints.Mark) { delete(m, 1) },
		"a piece is gone":    func(m map[int]checkpoints.Mark) { delete(m, 3); m[3] = mark("9", "", 1, "") },
		"a gap":              func(m map[int]checkpoints.Mark) { m[3] = mark("6", "7", 0, "") },
		"an overlap":         func(m map[int]checkpoints.Mark) { m[3] = mark("5", "8", 0, "") },
		"twice":              func(m map[int]checkpoints.Mark) { m[3] = mark("7", "9", 0, "") },
		"it ends too early":  func(m map[int]checkpoints.Mark) { m[2] = mark("7", "8", 0, "") },
		"of nothing planned": func(m map[int]checkpoints.Mark) { m[3] = mark("5", "7", 2, "") },
		"cut short":          func(m map[int]checkpoints.Mark) { m[1] = mark("9", "12", 1, "") },
	} {
		m := whole()
		harm(m)
		if err := tile(m, 2, 4); err == nil {
			t.Errorf("%s: it tiles all the same", name)
		}
	}
}
