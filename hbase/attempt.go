package hbase

import (
	"context"
	"strings"
	"time"
)

// Attempt is one answered call of an Apply.
type Attempt struct {
	Gateway     string // host:port
	Kind        Kind   // 0 is success
	Strain      Strain // what of the cluster is overloaded, where the answer says so
	Wait        time.Duration
	Rows, Bytes int // that the call carried
	Start, End  time.Time
}

// Witness is a Pacer that is told of each call with what it carried, as soon as it is answered. ctx is the Apply's own, with
// its values: so a caller can tell its batches apart, in Wait too. It must not block.
type Witness interface {
	Witness(ctx context.Context, table string, a Attempt)
}

func (p *Pool) witness(ctx context.Context, table string, a answer) {
	w, ok := p.opts.Pacer.(Witness)
	if !ok {
		return
	}
	t := Attempt{Gateway: a.g.addr, Kind: a.kind, Wait: a.wait, Rows: a.rows, Bytes: a.bytes, Start: a.start, End: a.at}
	switch {
	case a.kind == Again:
		t.Strain = StrainOf(a.err)
	case a.stuck:
		t.Strain = Unanswering
	}
	w.Witness(ctx, table, t)
}

// Strain says what is overloaded, in an error that says so.
type Strain uint8

// The strains. The zero Strain is none: a region that moves is not overloaded.
const (
	RegionBusy  Strain = iota + 1 // a region's memstore or locks
	QueueFull                     // a region server's queue of calls
	QuotaSpent                    // a quota of a table, user, namespace or server
	Unanswering                   // a region server leaves the gateway without an answer
)

var strains = []struct {
	strain Strain
	text   string
}{
	{QuotaSpent, "ThrottlingException"},
	{QuotaSpent, "exceeded - wait"},
	{RegionBusy, "RegionTooBusyException"},
	{RegionBusy, "Over memstore limit"},
	{RegionBusy, "Above memstore limit"},
	{RegionBusy, "Failed to obtain lock"},
	{RegionBusy, "failed to get a lock in"},
	{QueueFull, "CallQueueTooBigException"},
	{QueueFull, "Call queue is full"},
	{QueueFull, "CallDroppedException"},
	{QueueFull, "ServerOverloadedException"},
	{Unanswering, "CallTimeoutException"},
	{Unanswering, "CallTimedOutException"},
	{Unanswering, "SocketTimeoutException"},
}

// StrainOf reads the strain from what a server wrote.
func StrainOf(err error) Strain {
	if err == nil {
		return 0
	}
	text := reasonOf(err)
	for _, s := range strains {
		if strings.Contains(text, s.text) {
			return s.strain
		}
	}
	return 0
}

// Parts of a batch that a quota refused: at once where no wait is named, for smaller ones take what it would have to wait for; and
// again after some tries, for one that is larger than the quota lets through at once never goes.
const (
	quotaParts = 4
	quotaTries = 4 // as it is, before each further division
)

// tooMuch tells whether a piece should be divided, having been refused by a quota.
func (pc *piece) tooMuch(ans answer) bool {
	soon := !pc.divided && ans.wait == 0
	return pc.len() > 1 && (soon || pc.again%quotaTries == 0) && StrainOf(ans.err) == QuotaSpent
}
