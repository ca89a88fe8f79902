package e2e

import (
	"context"
	endian "encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"drover/e2e/check"
	"drover/e2e/stack"
	"drover/e2e/wire"
	"drover/hbase/gateway"
	"drover/hbase/thrift2"
	"drover/jobs/mongodump/dumpgen"
)

// tally counts rows applied, in tenths of a second since it began; hot are those of a range of keys.
type tally struct {
	mu       sync.Mutex
	began    time.Time
	all, hot []int
	lo, hi   string // the hot range; hi "" is none
}

func (y *tally) watch(f *fleet) {
	y.began = time.Now()
	for _, s := range f.servers {
		s.Faults().Observe(func(_ string, key []byte, _ int) {
			y.mu.Lock()
			defer y.mu.Unlock()
			i := int(time.Since(y.began) / (100 * time.Millisecond))
			for len(y.all) <= i {
				y.all, y.hot = append(y.all, 0), append(y.hot, 0)
			}
			y.all[i]++
			if k := string(key); y.hi != "" && k >= y.lo && k < y.hi {
				y.hot[i]++
			}
		})
	}
}

// rate is rows a second between two times: all, and without the hot ones.
func (y *tally) rate(from, to time.Time) (all, cool float64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	a, b := int(from.Sub(y.began)/(100*time.Millisecond)), int(to.Sub(y.began)/(100*time.Millisecond))
	for i := max(a, 0); i < min(b, len(y.all)); i++ {
		all += float64(y.all[i])
		cool += float64(y.all[i] - y.hot[i])
	}
	s := to.Sub(from).Seconds()
	return all / s, cool / s
}

// back waits until the rate of two seconds is 90 % of want, and gives how long that took.
func (y *tally) back(t *testing.T, want float64) time.Duration {
	t.Helper()
	from := time.Now()
	for time.Since(from) < 40*time.Second {
		now := time.Now()
		if all, _ := y.rate(now.Add(-2*time.Second), now); all >= 0.9*want {
			return time.Since(from)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(from)
}

// bounds gives the keys of a table's region.
func (f *fleet) bounds(t *testing.T, table string, region int) (lo, hi []byte) {
	t.Helper()
	err := wire.Call(context.Background(), f.servers[0].Addr(), wire.Protocol{}, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		found, err := c.GetAllRegionLocations(ctx, []byte(table))
		if err == nil && len(found) > region {
			lo, hi = found[region].RegionInfo.StartKey, found[region].RegionInfo.EndKey
		}
		return err
	})
	must(t, err)
	if len(hi) == 0 {
		t.Fatalf("%s has no region %d with an end", table, region)
	}
	return lo, hi
}

// A quota, and a region that takes a twentieth of its rows: both slow what they are about, cost no row, no gateway and few
// repeats, and are forgotten when they end.
func TestBackPressure(t *testing.T) {
	const limit = 3000
	before, during := 5*time.Second, time.Duration(scaled(60, 12))*time.Second
	for _, test := range []struct {
		name  string
		takes float64
		hot   bool
		says  string
	}{
		{"quota", 1000, false, "a quota is used up"},
		{"hot region", 150, true, "is too busy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			beside(t)
			r := seed(t)
			docs := limit * (int((before+during)/time.Second) + 14)
			file := dump(t, dumpgen.Options{Docs: int64(docs), Seed: r.Uint64(), ID: dumpgen.String})
			f := newFleet(t, 3)
			f.servers[0].Store().Spread(4)
			var y tally
			y.watch(f)
			table := strings.ReplaceAll(test.name, " ", "_")
			p := start(t, "run", job(t, table, file, table, f.addrs(), fmt.Sprintf("limits: {rows: %d}", limit)), "--json")
			wait := time.Now()
			for now := wait; ; now = time.Now() {
				if all, _ := y.rate(now.Add(-2*time.Second), now); all > 0.9*limit {
					break
				}
				if time.Since(wait) > time.Minute {
					t.Fatal("the job does not come to its rate")
				}
				time.Sleep(100 * time.Millisecond)
			}
			q := &gateway.Quota{Rows: test.takes, Region: test.hot}
			if test.hot {
				q.Lo, q.Hi = f.bounds(t, table, 1)
				y.mu.Lock()
				y.lo, y.hi = string(q.Lo), string(q.Hi)
				y.mu.Unlock()
			}
			time.Sleep(2 * time.Second)
			at := time.Now()
			_, cool := y.rate(at.Add(-2*time.Second), at)
			for _, s := range f.servers {
				s.Faults().Quota(q)
			}
			time.Sleep(during)
			end := time.Now()
			all, mean := y.rate(at.Add(2*time.Second), end)
			// Rows for a hot region lie in memory, and when that is full the others wait with them.
			_, others := y.rate(at.Add(2*time.Second), at.Add(12*time.Second))
			for _, s := range f.servers {
				s.Faults().Lift()
			}
			took := y.back(t, limit)
			res := p.wait().must(t, 0)
			res.json.close(t)
			passed, refused := q.Counts()
			share := float64(refused) / float64(res.json.Rows)
			t.Logf("%.0f rows/s meanwhile, others %.0f of %.0f for ten seconds, %.0f in all; %.1f s until 90 %%; %d rows refused of %d (%.1f %%), %d passed the quota, %d retries, slowed %.1f s",
				all, others, cool, mean, took.Seconds(), refused, res.json.Rows, 100*share, passed, res.json.Retries, res.json.SlowedSeconds)
			var seconds []string
			for s := at.Add(-2 * time.Second); s.Before(end.Add(took)); s = s.Add(time.Second) {
				all, cool := y.rate(s, s.Add(time.Second))
				seconds = append(seconds, fmt.Sprintf("%.0f+%.0f", cool, all-cool))
			}
			t.Logf("rows/s by the second, others and hot, from 2 s before: %s", strings.Join(seconds, " "))
			if refused == 0 || f.counts().OverQuota == 0 {
				t.Error("nothing was refused")
			}
			if res.json.Dead != 0 {
				t.Errorf("%d dead letters", res.json.Dead)
			}
			if share > 0.1 {
				t.Errorf("%.1f %% of the rows were refused, want at most 10 %%", 100*share)
			}
			if took > 30*time.Second {
				t.Errorf("90 %% back after %v, want 30 s", took)
			}
			if strings.Contains(res.stderr, "set aside") {
				t.Error("a gateway was set aside")
			}
			if !strings.Contains(res.stderr, test.says) {
				t.Errorf("nowhere is said that %s:\n%s", test.says, res.stderr)
			}
			if res.json.SlowedSeconds < 1 {
				t.Errorf("slowed for %.1f s", res.json.SlowedSeconds)
			}
			if !test.hot && all < 0.7*test.takes {
				t.Errorf("%.0f rows/s under a quota of %.0f", all, test.takes)
			}
			if test.hot && others < 0.8*cool {
				t.Errorf("the other servers' rows came at %.0f/s, before %.0f: want 80 %%", others, cool)
			}
			f.equal(t, table, file, res.json.Timestamp, nil)
		})
	}
}

// setQuota lets each region server of real HBase write this many rows a second to a table, as set_quota in its shell does; 0 lifts
// that.
func setQuota(t *testing.T, s *stack.Stack, table string, rows uint64) {
	t.Helper()
	// Quotas{throttle: Throttle{write_num: TimedQuota{time_unit: SECONDS, soft_limit: rows, scope: MACHINE}}}
	timed := append(endian.AppendUvarint([]byte{0x08, 4, 0x10}, rows), 0x20, 2)
	throttle := append([]byte{0x1a, byte(len(timed))}, timed...)
	value := append([]byte{'P', 'B', 'U', 'F', 0x12, byte(len(throttle))}, throttle...)
	row := []byte("t." + table)
	set := func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		if rows == 0 {
			return c.DeleteSingle(ctx, []byte("hbase:quota"), &thrift2.TDelete{Row: row, DeleteType: thrift2.TDeleteType_DELETE_COLUMNS})
		}
		return c.Put(ctx, []byte("hbase:quota"), &thrift2.TPut{Row: row, ColumnValues: []*thrift2.TColumnValue{
			{Family: []byte("q"), Qualifier: []byte("s"), Value: value},
		}})
	}
	var err error
	// The master makes the table of quotas when all else is up.
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Second) {
		if err = gatewayCall(s, set); err == nil {
			return
		}
	}
	t.Fatalf("set the quota of %s: %v", table, err)
}

// A quota of real HBase: it is kept to without a dead letter, an ejected gateway or many repeats, and forgotten when it is lifted.
func TestRealQuota(t *testing.T) {
	s := stack.Shared(t)
	const limit, quota = 2000, 500
	during := time.Duration(scaled(60, 15)) * time.Second
	docs := quota*int(during/time.Second) + scaled(40, 30)*limit
	file := dump(t, dumpgen.Options{Docs: int64(docs), Seed: seed(t).Uint64(), ID: dumpgen.String})
	table := newTable(t, s)
	job := spec{
		name: table, source: file, gateways: gatewayList(s),
		target:  fmt.Sprintf("{table: %s, create: true, regions: 1, families: {d: {versions: 1}}}", table),
		mapping: "{key: _id, family: d}",
		rest:    fmt.Sprintf("limits: {rows: %d}", limit),
	}
	setQuota(t, s, table, 1<<40) // so that it is there
	t.Cleanup(func() { setQuota(t, s, table, 0) })
	p := start(t, "run", job.file(t), "--json")
	for began := time.Now(); settled(t, table) < 5*limit; time.Sleep(200 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("nothing is written")
		}
	}
	setQuota(t, s, table, quota)
	const before = 6 * time.Second
	time.Sleep(before) // until it is known, and its measure is found
	from, at := settled(t, table), time.Now()
	for time.Since(at) < during {
		time.Sleep(2 * time.Second)
		t.Logf("%.0f s: %d rows", time.Since(at).Seconds(), settled(t, table)-from)
	}
	meanwhile := float64(settled(t, table)-from) / time.Since(at).Seconds()
	setQuota(t, s, table, 0)
	lifted := time.Now()
	took := time.Duration(0)
	for last, then := settled(t, table), lifted; took == 0 && time.Since(lifted) < 40*time.Second; {
		time.Sleep(4 * time.Second) // two checkpoints
		now := settled(t, table)
		rate := float64(now-last) / time.Since(then).Seconds()
		t.Logf("%.0f s after: %.0f rows/s", time.Since(lifted).Seconds(), rate)
		if last, then = now, time.Now(); rate >= 0.9*limit {
			took = time.Since(lifted)
		}
	}
	res := p.wait().must(t, 0)
	res.json.close(t)
	t.Logf("%.0f rows/s under a quota of %d; 90 %% back after %v; %d retries among %d calls for %d rows; slowed for %.1f s",
		meanwhile, quota, took, res.json.Retries, res.json.Calls, res.json.Rows, res.json.SlowedSeconds)
	if res.json.Dead != 0 || strings.Contains(res.stderr, "set aside") {
		t.Errorf("%d dead letters; stderr: %s", res.json.Dead, res.stderr)
	}
	if !strings.Contains(res.stderr, "a quota is used up") {
		t.Errorf("no quota was met: %s", res.stderr)
	}
	// It is the watermark that is looked at, which one batch that waits holds back: it says nothing of the least.
	// Nor of the most without what was taken before and only then passed.
	if most := 1.1 * quota * (during + before).Seconds() / during.Seconds(); meanwhile > most {
		t.Errorf("%.0f rows/s under a quota of %d, want at most %.0f with what came before", meanwhile, quota, most)
	}
	if res.json.Retries > res.json.Calls/10 {
		t.Errorf("%d retries of %d calls, want at most a tenth", res.json.Retries, res.json.Calls)
	}
	if took == 0 || took > 34*time.Second { // the last look took four of them
		t.Errorf("90 %% of the rate back after %v, want 30 s", took)
	}
	realEqual(t, s, table, file, check.Mapping{Timestamp: res.json.Timestamp})
}
