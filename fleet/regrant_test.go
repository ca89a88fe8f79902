package fleet

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"drover/fleet/share"
)

// In a large pool somebody's demand changes at any moment. What the leader writes because of that is bounded, everybody has
// a turn, and a first grant does not wait.
func TestOrdersOfGrantsAreBounded(t *testing.T) {
	const members, seconds = 500, 60
	rnd := rand.New(rand.NewPCG(1, 1))
	b := budget{Table: "t", Kind: share.Puts}
	l := newLeader(newMachine(), "/p", "me", 30*time.Second, newMemory(), 1, func() string { return "name" })
	l.ready = true
	l.tables["t"] = &tableState{known: true, exists: true, record: tableRecord{Jobs: NoLimits, Factor: 1}}
	for i := range members {
		m := l.member(fmt.Sprintf("w%03d", i))
		m.present, m.seen = true, true
	}
	orders, first := map[string]int{}, map[string]time.Duration{}
	for now := time.Duration(0); now < seconds*time.Second; now += 250 * time.Millisecond {
		for _, m := range l.members {
			if now == 0 || rnd.IntN(40) == 0 { // once in ten seconds
				m.beat.Wants = []want{{budget: b, Demand: rnd.Float64() * 4 / members}}
			}
		}
		l.tick(now)
		for _, e := range l.take() {
			for _, o := range e.ops {
				id, is := strings.CutPrefix(o.path, "/p/assign/")
				if !is {
					continue
				}
				m := l.members[id]
				if r, err := decode[orderRecord](o.path, o.data); err != nil {
					t.Fatal(err)
				} else if len(r.Grants) > 0 {
					if _, had := first[id]; had {
						orders[id]++
					} else {
						first[id] = now
					}
					m.beat.Grants = []seen{{b, share.Newest(r.Grants[0].List).ID}}
				}
			}
			l.answered(now, answer{id: e.id, index: -1})
		}
		for _, m := range l.members {
			l.named(m)
		}
	}
	all, late, most := 0, 0, time.Duration(0)
	for id := range l.members {
		all += orders[id]
		if orders[id] == 0 {
			late++
		}
		most = max(most, first[id])
	}
	t.Logf("%d orders for %d members in %d s, %d members had none; the last first grant came after %v", all, members, seconds, late, most)
	if all > 2000 {
		t.Errorf("%d orders that only change grants in %d s", all, seconds)
	}
	if late > members/10 || len(first) < members || most > 5*time.Second {
		t.Errorf("%d members had no second grant, %d a first one, the last of these after %v", late, len(first), most)
	}
}
