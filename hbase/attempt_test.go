package hbase

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

type witness struct {
	mu   sync.Mutex
	seen []Attempt
	keys []any
}

type witnessKey struct{}

func (w *witness) Wait(ctx context.Context, _ string, _, _ int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = append(w.keys, ctx.Value(witnessKey{}))
	return ctx.Err()
}

func (w *witness) Observe(string, Kind, time.Duration) {}

func (w *witness) Witness(ctx context.Context, _ string, a Attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, a)
	w.keys = append(w.keys, ctx.Value(witnessKey{}))
}

// A batch that a quota refuses is divided, again when it is refused again and again, and a witness hears of every call, with its Apply's context.
func TestQuotaDividesAndIsWitnessed(t *testing.T) {
	w := &witness{}
	bubble(t, []string{"a:1", "b:1"}, PoolOptions{Pacer: w}, func(t *testing.T, c *cluster, p *Pool) {
		refused := 0
		c.script = func(string, int) (error, bool) {
			if refused++; refused <= quotaTries {
				return fail(Again, "org.apache.hadoop.hbase.quotas.RpcThrottlingException: number of requests exceeded - wait 1sec, 20ms"), false
			}
			return nil, true
		}
		ctx := context.WithValue(context.Background(), witnessKey{}, "mine")
		if _, err := p.Apply(ctx, "t", testBatch("row", 100)); err != nil {
			t.Fatal(err)
		}
		var rows []int
		for i, a := range w.seen {
			rows = append(rows, a.Rows)
			if busy := i < quotaTries; busy != (a.Kind == Again) || busy != (a.Strain == QuotaSpent) {
				t.Errorf("call %d was seen as %v, strain %d", i, a.Kind, a.Strain)
			}
			if a.End.Before(a.Start) || a.Bytes == 0 || a.Gateway == "" {
				t.Errorf("call %d was seen as %+v", i, a)
			}
		}
		if want := []int{100, 25, 25, 25, 6, 6, 6, 7, 25, 25, 25}; !slices.Equal(rows, want) {
			t.Errorf("calls of %v rows, want %v", rows, want)
		}
		for i, k := range w.keys {
			if k != "mine" {
				t.Errorf("event %d came with %v", i, k)
			}
		}
	})
}

func TestStrain(t *testing.T) {
	for text, want := range map[string]Strain{
		"Failed 2 actions: org.apache.hadoop.hbase.RegionTooBusyException: Over memstore limit=512.0 M": RegionBusy,
		"Failed 3 actions: Over memstore limit=4.0 M, regionName=t,,1.abc.: 3 times":                    RegionBusy,
		"Failed 1 action: RpcThrottlingException: 1 time, servers with issues: localhost,16020,1":       QuotaSpent,
		"write size exceeded - wait 3mins, 0sec":                                                        QuotaSpent,
		"CallQueueTooBigException: Call queue is full on localhost,16020,1, too many items queued ?":    QueueFull,
		"Call to localhost:16020 failed: CallTimeoutException: Call[id=1] took more than 6000ms":        Unanswering,
		"NotServingRegionException: t,,1.abc. is not online":                                            0,
		"": 0,
	} {
		if got := StrainOf(fail(Again, text)); got != want {
			t.Errorf("%q is strain %d, want %d", text, got, want)
		}
	}
	if got := StrainOf(nil); got != 0 {
		t.Errorf("no error is strain %d", got)
	}
}
