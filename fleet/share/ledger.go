package share

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

const (
	// starved is the part of its fair part with which a worker is left alone. A ledger that followed every change of demand would write to
	// all workers all the time.
	starved = 0.9
	// near is the part of its fair part that a worker is not written to for.
	near = 0.01
	// idle is how much of the limit may be with nobody, or with those that do not use it, before anything is moved.
	idle = 0.005
)

// Grant is a worker's right to a part of a budget. IDs of one worker's grants of one budget grow, whoever leads.
type Grant struct {
	ID   uint64  `json:"id"`
	Part float64 `json:"part"`
}

// Newest is the grant in force of those that an assign node lists; none is the zero Grant, which gives nothing.
func Newest(listed []Grant) Grant {
	if len(listed) == 0 {
		return Grant{}
	}
	return slices.MaxFunc(listed, func(a, b Grant) int { return cmp.Compare(a.ID, b.ID) })
}

// Ledger is a leader's knowledge of one budget: which grants may be in force. A new leader makes a new one from the assign nodes, the
// workers' nodes and their heartbeats, after its election. It is not safe for concurrent use.
//
// Of each worker it counts the largest of its newest grant and of those before it, until a heartbeat names the newest; the worker has then taken it
// up for good. So a new leader may count more than 1, where a worker vanished after it had named a smaller grant. The grants of a worker whose node is gone count for one session timeout more: by then its local deadline has
// passed, which is why it need not be asked.
type Ledger struct {
	session time.Duration
	workers map[string]*holding
}

// holding is what may be in force at one worker.
type holding struct {
	grants []Grant // by ID; all but the newest are there because the worker has not named the newest yet
	gone   bool
	until  time.Duration // when gone: the grants count until then
}

func (h *holding) largest() float64 {
	p := 0.0
	for _, g := range h.grants {
		p = max(p, g.Part)
	}
	return p
}

func (h *holding) pending() bool { return len(h.grants) > 1 }

// NewLedger makes the ledger of a budget of which nothing is granted. session is the session timeout of the workers, as negotiated.
func NewLedger(session time.Duration) *Ledger {
	return &Ledger{session: session, workers: map[string]*holding{}}
}

// Load tells what a worker's assign node lists, to a new leader. For a worker whose node is not there, Gone must follow, with the
// time of the election.
func (l *Ledger) Load(worker string, listed []Grant) {
	if len(listed) == 0 {
		return
	}
	h := l.holding(worker)
	h.grants = append(h.grants, listed...)
	slices.SortFunc(h.grants, func(a, b Grant) int { return cmp.Compare(a.ID, b.ID) })
	h.grants = slices.CompactFunc(h.grants, func(a, b Grant) bool { return a.ID == b.ID })
}

func (l *Ledger) holding(worker string) *holding {
	h := l.workers[worker]
	if h == nil {
		h = &holding{}
		l.workers[worker] = h
	}
	return h
}

// Seen tells that a heartbeat named the grant which its worker has taken up. Older ones have ended; a newer one may be in force at any moment.
// The newest stays even when it gives nothing, because the worker's IDs go on from it.
func (l *Ledger) Seen(worker string, id uint64) {
	h := l.workers[worker]
	if h == nil {
		return
	}
	h.grants = slices.DeleteFunc(h.grants, func(g Grant) bool { return g.ID < id })
}

// Gone tells that a worker's node was found missing at a time of the leader's clock. It may be told again; the first counts.
func (l *Ledger) Gone(worker string, now time.Duration) {
	if h := l.workers[worker]; h != nil && !h.gone {
		h.gone, h.until = true, now+l.session
	}
}

// Held are the parts that may be in force.
func (l *Ledger) Held(now time.Duration) map[string]float64 {
	held := map[string]float64{}
	for w, h := range l.workers {
		if p := h.largest(); p > 0 && !(h.gone && now >= h.until) {
			held[w] = p
		}
	}
	return held
}

// Listed is what the worker's assign node has to list of this budget.
func (l *Ledger) Listed(worker string) []Grant {
	if h := l.workers[worker]; h != nil {
		return slices.Clone(h.grants)
	}
	return nil
}

// Expires is when the next grant of a vanished worker ends to count, and it is worth planning again; false when there is none.
func (l *Ledger) Expires() (at time.Duration, ok bool) {
	for _, h := range l.workers {
		if h.gone && (!ok || h.until < at) {
			at, ok = h.until, true
		}
	}
	return at, ok
}

// Plan gives what is free to those that have least of what [Divide] says they should have, and takes from those that have more where somebody is
// starved, or more than a little is in the wrong place. A worker that wants nothing loses all. It returns
// the workers whose assign nodes have to list something else now, sorted; write Listed of them, each at least until one write
// succeeded. New grants count from now on, written or not. Wants of workers that are gone are ignored.
//
// A worker that has not named its newest grant gets no other before it has. Assign nodes of vanished workers of which nothing is Listed any
// more are to be deleted; the successor of a leader that did not get to it counts them once more, which is safe, and late.
func (l *Ledger) Plan(now time.Duration, limit float64, wants []Want) []string {
	maps.DeleteFunc(l.workers, func(_ string, h *holding) bool { return h.gone && now >= h.until })
	return l.plan(limit, wants, l.Held(now))
}

// stand is where a worker is, and where it should be.
type stand struct {
	worker  string
	holding *holding
	target  float64
	newest  float64 // its newest grant's part
}

// full is how much of its target a worker has; above 1 it has more.
func (s stand) full() float64 {
	if s.target == 0 {
		return math.Inf(1)
	}
	return s.newest / s.target
}

func (l *Ledger) plan(limit float64, wants []Want, held map[string]float64) (changed []string) {
	wants = slices.DeleteFunc(slices.Clone(wants), func(w Want) bool {
		h := l.workers[w.Worker]
		return h != nil && h.gone
	})
	target := Divide(limit, wants)
	for w := range target {
		l.holding(w)
	}
	room := 1.0 // what nobody holds
	for _, p := range held {
		room -= p
	}
	free, starving, lacking := room, false, 0.0 // free: with what is about to be given back
	var stands []stand
	for w, h := range l.workers {
		if h.gone {
			continue
		}
		s := stand{w, h, target[w], Newest(h.grants).Part}
		free += h.largest() - s.newest
		starving = starving || s.full() < starved
		lacking += max(0, s.target-s.newest)
		if !h.pending() {
			stands = append(stands, s)
		}
	}
	slices.SortFunc(stands, func(a, b stand) int {
		return cmp.Or(cmp.Compare(a.full(), b.full()), cmp.Compare(a.worker, b.worker))
	})
	give := func(s stand, part float64) {
		s.holding.grants = append(s.holding.grants, Grant{Newest(s.holding.grants).ID + 1, part})
		changed = append(changed, s.worker)
	}

	// Those that have least of what they should have come first. A worker whose part would hardly change is left alone.
	for _, s := range stands {
		missing := s.target - s.newest
		part := down(min(missing, max(0, room)))
		if part < missing && part < (1-starved)*s.target || missing <= near*s.target {
			continue
		}
		give(s, s.newest+part)
		room -= part
	}
	// Those that have most over it give first, and only as many of them as it takes.
	for _, s := range slices.Backward(stands) {
		_, wanted := target[s.worker]
		if s.newest <= s.target || wanted && !(starving || lacking > idle) || wanted && free >= lacking {
			continue
		}
		give(s, s.target)
		free += s.newest - s.target
	}
	slices.Sort(changed)
	return changed
}
