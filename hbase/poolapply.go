package hbase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/crashpoint"
)

// Refusal is a row that HBase will never take, with proof: the row alone got the same error three times, through two
// gateways where two are healthy, and another row of the table was accepted through each of them afterwards.
type Refusal struct {
	Row      int // of the batch
	Reason   string
	Attempts int // how many times the row was sent
}

// Applied says how a batch ended.
type Applied struct {
	Refused  []Refusal     // every other row is acknowledged, unless there is an error
	Attempts int           // calls made
	Failed   int           // those that were not acknowledged
	Resent   int           // rows sent again, counted each time, and rows put again to see whether the table accepts any
	Wait     time.Duration // for the pacer
	Call     time.Duration // for gateways and their answers
}

// Apply sends a batch, its puts and then its deletes, and blocks until every row is acknowledged or proved refused,
// whatever happens to gateways and table meanwhile. Only the end of ctx, *OutageError, *TableError, a Pacer's error and
// ErrClosed end it before; what of the batch is written is then unknown. The batch must not change until Apply returns.
// A row that was refused is not deleted from.
func (p *Pool) Apply(ctx context.Context, name string, b *Batch) (Applied, error) {
	if b.Rows() == 0 {
		return Applied{}, nil
	}
	ctx, leave, err := p.enter(ctx)
	if err != nil {
		return Applied{}, fmt.Errorf("write %d rows to %s: %w", b.Rows(), name, err)
	}
	defer leave()
	a := apply{p: p, ctx: ctx, t: p.table(name), since: time.Now()}
	a.t.under.Add(1)
	defer a.t.under.Add(-1)
	var stop func()
	a.right, a.wait, stop = holding(ctx)
	defer stop()
	if b.all.puts > 0 {
		a.todo = append(a.todo, piece{b: b, hi: b.Rows()})
		err = a.run()
	}
	if err == nil && b.HasDeletes() {
		a.deletes = true
		a.todo = append(a.todo[:0], a.accepted(b)...)
		err = a.run()
	}
	p.mu.Lock()
	p.retries += int64(a.out.Failed)
	p.waited += a.out.Wait
	p.inCall += a.out.Call
	p.mu.Unlock()
	if err != nil {
		return a.out, fmt.Errorf("write %d rows to %s: %w", b.Rows(), name, err)
	}
	return a.out, nil
}

// apply is one Apply under way, in one goroutine.
type apply struct {
	p       *Pool
	ctx     context.Context // of the calls
	wait    context.Context // of the waiting between them
	right   *Right          // nil is for ever
	t       *table
	since   time.Time
	deletes bool // deletes are sent, and not puts

	todo  []piece // to be sent, the last one next
	held  []piece // of one refused row each, until there is proof or an acknowledgement
	never uint64  // the number of the first answer that refused a row, 0 when there is none
	alone int     // rows refused alone since then

	out Applied
}

// piece is a run of rows that is sent with one call.
type piece struct {
	b      *Batch
	lo, hi int
	rows   []int // which of the caller's rows those of b are; nil: the same

	sent     bool // its rows were sent before
	tries    int  // how many times
	slow     int  // how often its time was doubled after a timeout
	stuck    int  // timeouts that were of no gateway's making
	again    int  // answers in a row that the cluster is busy
	divided  bool // a quota had it divided
	blind    bool // reading the rows back told nothing
	refusals []refusal
}

// refusal is an answer that a row alone will never be taken.
type refusal struct {
	g      *gateway
	seq    uint64 // the answer's number
	same   string // equal for answers that say the same
	reason string
}

func (pc *piece) len() int { return pc.hi - pc.lo }

// size is what a call carries: rows with something to send, and their encoded bytes.
func (a *apply) size(pc *piece) (rows, bytes int) {
	from, to := pc.b.start(pc.lo), pc.b.rows[pc.hi-1]
	if !pc.b.HasDeletes() {
		return pc.len(), to.put - from.put
	}
	for _, r := range pc.b.rows[pc.lo:pc.hi] {
		if a.deletes && r.dels > 0 || !a.deletes && r.puts > 0 {
			rows++
		}
	}
	if a.deletes {
		return rows, to.del - from.del
	}
	return rows, to.put - from.put
}

// accepted is the batch without the refused rows.
func (a *apply) accepted(b *Batch) []piece {
	var pieces []piece
	lo := 0
	refused := make([]int, 0, len(a.out.Refused)+1)
	for _, r := range a.out.Refused {
		refused = append(refused, r.Row)
	}
	slices.Sort(refused)
	for _, row := range append(refused, b.Rows()) {
		if lo < row {
			pieces = append(pieces, piece{b: b, lo: lo, hi: row})
		}
		lo = row + 1
	}
	return pieces
}

// run sends until nothing is left. Rows that were refused come last, so that the others are witnesses of the table's
// health.
func (a *apply) run() error {
	for {
		var pc piece
		var avoid []*gateway
		if n := len(a.todo); n > 0 {
			pc = a.todo[n-1]
			a.todo = a.todo[:n-1]
		} else if n := len(a.held); n > 0 {
			pc = a.held[n-1]
			a.held = a.held[:n-1]
			done, refusers, err := a.prove(&pc)
			if err != nil {
				return err
			}
			if done {
				continue
			}
			avoid = refusers
		} else {
			return nil
		}
		if err := a.step(pc, avoid); err != nil {
			return err
		}
	}
}

// step sends one piece once and decides what becomes of it.
func (a *apply) step(pc piece, avoid []*gateway) error {
	rows, bytes := a.size(&pc)
	if rows == 0 {
		return nil
	}
	probing, err := a.p.gate(a.wait, a.t, a.since)
	if err != nil {
		return err
	}
	w := waiter{lane: a.p.writes, since: a.since, avoid: avoid, first: pc.sent && pc.len() == 1}
	if pc.len() > 1 {
		w.shrink = func() (int, int) {
			rows, bytes, hi := 0, 0, pc.hi
			for n := (pc.len() + trialPart - 1) / trialPart; rows == 0; n *= 2 { // not every row has something to send
				pc.hi = min(pc.lo+n, hi)
				rows, bytes = a.size(&pc)
			}
			if rest := pc; pc.hi < hi {
				rest.lo, rest.hi = pc.hi, hi
				a.todo = append(a.todo, rest)
			}
			return rows, bytes
		}
	}
	ans, err := a.send(&w, rows, bytes, pc.slow, pc.sent, func(ctx context.Context, l link) error {
		if a.deletes {
			return l.DeleteMultiple(ctx, a.t.name, pc.b, pc.lo, pc.hi)
		}
		return l.PutMultiple(ctx, a.t.name, pc.b, pc.lo, pc.hi)
	})
	if err != nil {
		if probing {
			a.p.leave(a.t)
		}
		return err
	}
	if ans.reached {
		pc.sent = true
		pc.tries++
	}
	if ans.kind != Again {
		pc.again = 0
	}
	switch ans.kind {
	case 0:
		a.p.rowsDone(ans.g, ans.rows)
		if a.deletes {
			a.p.ack(a.t, ans, nil, -1)
			return nil
		}
		crashpoint.Pass(crashpoint.Acked)
		a.p.ack(a.t, ans, pc.b, pc.lo)
		return nil
	case Table:
		a.p.pause(a.t, ans, reasonOf(ans.err), false, probing)
		pc.refusals = nil
		a.todo = append(a.todo, pc)
		return nil
	case Never:
		return a.refused(pc, ans, probing)
	case Smaller:
		if pc.len() > 1 {
			a.split(pc, 2)
			break
		}
		return a.refused(pc, ans, probing)
	case Again:
		pc.again++
		if pc.tooMuch(ans) {
			pc.divided = true
			a.split(pc, quotaParts)
		} else {
			a.todo = append(a.todo, pc)
		}
		if notServing(ans.err) && (probing || a.t.unservedLong(time.Now())) && a.disabled(ans.g) {
			a.p.pause(a.t, ans, tableDisabled, false, probing)
			return nil
		}
		if probing {
			a.p.leave(a.t)
		}
		return a.p.writes.rest(a.wait, a.since, pc.again-1, ans.wait)
	default:
		switch {
		case ans.stuck:
			// Regions come back elsewhere, and a call that waits for them is the last to know.
			pc.stuck++
			pc.slow = max(pc.slow, 1+pc.stuck/stuckTries)
		case ans.late:
			pc.slow++
		}
		a.todo = append(a.todo, pc)
		// A gateway tries a disabled table again by itself, for minutes, before it answers at all.
		if ans.late && a.disabled(ans.g) {
			a.p.pause(a.t, ans, tableDisabled, false, probing)
			return nil
		}
	}
	if probing {
		a.p.leave(a.t)
	}
	return nil
}

// stuckTries is how often a call that waits for something behind its gateway is given the same time: it may also just be slow.
const stuckTries = 4

// notServing tells of an answer that no server serves the region. HBase says so for a few seconds while a region moves, and
// for as long as a table is disabled.
func notServing(err error) bool { return strings.Contains(Reason(err), "NotServingRegionException") }

const tableDisabled = "the table is disabled"

// disabled asks whether the table is, after an answer of g that may mean it. Where that cannot be told soon, it is not. The
// master answers, so nothing of the table's budget is spent. Calls stuck on a disabled table have every gateway set aside
// before long, so the question goes over a connection of its own to a few gateways at once, whatever their state; those who
// ask at the same time share it.
func (a *apply) disabled(g *gateway) bool { return a.p.disabled(a.ctx, a.t, g.host) }

// disabled asks a few gateways, first among them when it is not nil.
func (p *Pool) disabled(ctx context.Context, t *table, first *host) bool {
	off, _, _ := p.asking.Do(t.name, func() (any, error) { return p.askDisabled(ctx, t.name, first), nil })
	if off == true {
		p.writes.absolve()
	}
	return off == true
}

func (p *Pool) askDisabled(ctx context.Context, table string, first *host) bool {
	const askedAtOnce = 3
	ctx, cancel := context.WithTimeout(ctx, shortestTimeout)
	defer cancel()
	var ask []string
	if first != nil {
		ask = append(ask, first.addr)
	}
	p.mu.Lock()
	for _, h := range p.hosts {
		if h != first && len(ask) < askedAtOnce {
			ask = append(ask, h.addr)
		}
	}
	p.mu.Unlock()
	type told struct {
		off bool
		err error
	}
	answers := make(chan told, len(ask))
	for _, addr := range ask {
		p.wg.Go(func() {
			var t told
			var l link
			if l, t.err = p.dial(ctx, addr); t.err == nil {
				t.off, t.err = l.Disabled(ctx, table)
				l.Close()
			}
			answers <- t
		})
	}
	for range ask {
		t := <-answers
		p.log.Debug("asked whether the table is disabled", "table", table, "disabled", t.off, "error", t.err)
		if t.err == nil {
			return t.off
		}
	}
	return false
}

// send waits for the pacer and makes one call.
func (a *apply) send(w *waiter, rows, bytes, slow int, resent bool, do func(context.Context, link) error) (answer, error) {
	for {
		start := time.Now()
		if a.right != nil {
			if err := a.right.Sure(a.wait); err != nil {
				return answer{}, err
			}
		}
		err := a.p.pace(a.wait, a.t.name, rows, bytes)
		paced := time.Now()
		a.out.Wait += paced.Sub(start)
		if err != nil {
			return answer{}, err
		}
		ans, err := a.guarded(w, rows, bytes, slow, do)
		a.out.Call += time.Since(paced)
		if errors.Is(err, errUnsure) {
			rows, bytes = ans.rows, ans.bytes
			continue // nothing was sent
		}
		if ans.g != nil {
			a.out.Attempts++
			if err != nil || ans.kind != 0 {
				a.out.Failed++
			}
			if resent && ans.reached {
				a.out.Resent += ans.rows
			}
		}
		if err != nil {
			return ans, err
		}
		a.p.observe(a.t.name, ans)
		a.p.witness(a.ctx, a.t.name, ans)
		return ans, nil
	}
}

// split puts a piece back in parts, the first one next.
func (a *apply) split(pc piece, parts int) {
	n := pc.len()
	parts = min(parts, n)
	for i := parts - 1; i >= 0; i-- {
		part := pc
		part.lo, part.hi = pc.lo+n*i/parts, pc.lo+n*(i+1)/parts
		part.refusals = nil
		a.todo = append(a.todo, part)
	}
}

// refused looks for the row that a never error is about.
//
// One read tells which rows of a piece are there after all, and only the rest is sent again. Where that tells nothing,
// the piece is sent in four parts: with halves, every row would be sent once and a half on the way to the bad one twice
// over, with quarters all levels below the first together are a third of the piece. So a refused row costs at most 4/3
// of its batch, and the few calls of the proof.
func (a *apply) refused(pc piece, ans answer, probing bool) error {
	if a.never == 0 {
		a.never = ans.seq
	}
	reason := reasonOf(ans.err)
	alone := pc.len() == 1
	a.t.mu.Lock()
	ofRows, accepting := a.t.ofRows, a.t.lastAck > a.never
	a.t.mu.Unlock()

	switch {
	case probing && !ofRows:
		a.p.resume(a.t) // the table answers for rows again
	case probing, alone && !accepting:
		// Is it the row or the table?
		v, err := a.takes(ans.g, ans.seq)
		if err != nil {
			if probing {
				a.p.leave(a.t)
			}
			return err
		}
		if alone {
			a.alone++
		}
		switch {
		case v == yes && probing:
			a.p.resume(a.t)
		case v == no, probing, v == unknown && a.alone >= aloneLimit:
			a.p.pause(a.t, ans, reason, true, probing)
			pc.refusals = nil
			if alone {
				a.held = slices.Insert(a.held, 0, pc)
				return nil
			}
		}
	}
	if alone {
		pc.refusals = append(pc.refusals, refusal{ans.g, ans.seq, sameness(ans), reason})
		a.held = append(a.held, pc)
		return nil
	}
	if !pc.blind && !a.deletes {
		pc.blind = true
		absent, err := a.absent(&pc)
		if err != nil {
			return err
		}
		switch {
		case absent == nil || len(absent) == pc.len():
		case len(absent) == 0:
			return nil
		default:
			a.todo = append(a.todo, pc.only(absent))
			return nil
		}
	}
	a.split(pc, 4)
	return nil
}

// aloneLimit is how many rows are refused alone, while the table was never seen to accept any, before the table is
// thought to be at fault and paused. It goes on being tried, with the rows that are left.
const aloneLimit = 3

// only copies some rows of a piece.
func (pc piece) only(rows []int) piece {
	own := new(Batch)
	numbers := make([]int, len(rows))
	for k, i := range rows {
		own.AppendRow(pc.b, i)
		numbers[k] = pc.row(i)
	}
	pc.b, pc.lo, pc.hi, pc.rows = own, 0, len(rows), numbers
	return pc
}

// row is the caller's number of row i of the piece's batch.
func (pc *piece) row(i int) int {
	if pc.rows == nil {
		return i
	}
	return pc.rows[i]
}

// absent reads which rows of a piece are not there, as numbers of the piece's batch. nil means that it can't be told.
func (a *apply) absent(pc *piece) ([]int, error) {
	a.t.mu.Lock()
	noReads := a.t.noReads
	a.t.mu.Unlock()
	if noReads {
		return nil, nil
	}
	rows := make([]int, 0, pc.len())
	for i := pc.lo; i < pc.hi; i++ {
		rows = append(rows, i)
	}
	var found []bool
	ans, err := a.send(&waiter{lane: a.p.reads, since: a.since, first: true}, 0, 0, 0, false, func(ctx context.Context, l link) error {
		var err error
		found, err = l.Exists(ctx, a.t.name, pc.b, rows)
		return err
	})
	if err != nil {
		return nil, err
	}
	if ans.kind == Never || ans.kind == Table {
		a.t.mu.Lock()
		a.t.noReads = true
		a.t.mu.Unlock()
	}
	if ans.kind != 0 || len(found) != len(rows) {
		return nil, nil
	}
	absent := rows[:0]
	for k, i := range rows {
		if !found[k] {
			absent = append(absent, i)
			continue
		}
		// It was accepted, though nobody said so: it can be a witness.
		a.p.remember(a.t, pc.b, i, ans.at)
	}
	return absent, nil
}

// verdict says whether a table accepts rows through a gateway.
type verdict uint8

const (
	unknown verdict = iota // no row is known that it should accept
	yes
	no
	gone // the gateway can't be asked
)

// takes tells whether the table accepted a row through the gateway after an answer. When no traffic shows it, a row
// that was accepted lately is put again.
func (a *apply) takes(g *gateway, after uint64) (verdict, error) {
	for try := 0; ; try++ {
		if a.t.ackedVia(g, after) {
			return yes, nil
		}
		a.t.mu.Lock()
		k := a.t.row
		a.t.mu.Unlock()
		if k == nil {
			return unknown, nil
		}
		ans, err := a.send(&waiter{lane: a.p.writes, since: a.since, only: g, first: true}, 1, k.b.Bytes(), try, true, k.put)
		if errors.Is(err, errGone) {
			return gone, nil
		}
		if err != nil {
			return unknown, err
		}
		switch ans.kind {
		case 0:
			a.p.ack(a.t, ans, nil, -1)
		case Table, Never, Smaller:
			return no, nil
		case Again:
			if err := a.p.writes.rest(a.wait, a.since, try, ans.wait); err != nil {
				return unknown, err
			}
		}
	}
}

// proofRefusals is how many times a row alone must get the same error.
const proofRefusals = 3

// prove completes the proof against a row, or says through which gateways it should not be sent once more.
func (a *apply) prove(pc *piece) (done bool, avoid []*gateway, err error) {
	same, through := pc.most()
	if len(same) < proofRefusals || len(through) < 2 && a.p.healthy() >= 2 {
		if len(through) < 2 {
			avoid = through
		}
		return false, avoid, nil
	}
	for _, i := range same {
		r := &pc.refusals[i]
		v, err := a.takes(r.g, r.seq)
		if err != nil {
			return false, nil, err
		}
		switch v {
		case yes:
			continue
		case gone:
			pc.refusals = slices.Delete(pc.refusals, i, i+1)
		default: // it is the table
			a.p.pause(a.t, answer{g: r.g, seq: r.seq}, r.reason, true, false)
			pc.refusals = nil
		}
		return false, nil, nil
	}
	last := pc.refusals[same[len(same)-1]]
	a.out.Refused = append(a.out.Refused, Refusal{Row: pc.row(pc.lo), Reason: last.reason, Attempts: pc.tries})
	a.p.log.Debug("row refused", "table", a.t.name, "reason", last.reason)
	return true, nil, nil
}

// most gives the refusals that say the same, of what was said most often, and the gateways that said it.
func (pc *piece) most() (same []int, through []*gateway) {
	for i, r := range pc.refusals {
		var these []int
		for j, other := range pc.refusals[i:] {
			if other.same == r.same {
				these = append(these, i+j)
			}
		}
		if len(these) > len(same) {
			same = these
		}
	}
	for _, i := range same {
		if g := pc.refusals[i].g; !slices.ContainsFunc(through, func(o *gateway) bool { return o.addr == g.addr }) {
			through = append(through, g)
		}
	}
	return same, through
}

func (p *Pool) healthy() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writes.healthyLocked()
}

func (p *Pool) rowsDone(g *gateway, rows int) {
	p.mu.Lock()
	g.rows += int64(rows)
	p.mu.Unlock()
}
