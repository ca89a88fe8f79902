package tick

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func parse(t interface {
	Helper()
	Fatal(args ...any)
}, s Settings,
) *Schedule {
	t.Helper()
	p, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestClockChanges(t *testing.T) {
	tests := []struct {
		zone, cron, from string
		want             []string
	}{
		// 02:00 becomes 03:00 on 29 March 2026, 03:00 becomes 02:00 on 25 October.
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T00:00:00+01:00", []string{
			"2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00",
		}},
		{"Europe/Berlin", "0,30 2,3 * * *", "2026-03-28T12:00:00+01:00", []string{
			"2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00", "2026-03-30T02:00:00+02:00",
		}},
		{"Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00+02:00", []string{
			"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00",
		}},
		{"Europe/Berlin", "30 * * * *", "2026-03-29T01:00:00+01:00", []string{
			"2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00",
		}},
		{"Europe/Berlin", "30 * * * *", "2026-10-25T02:00:00+02:00", []string{
			"2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00",
		}},
		{"Europe/Berlin", "0 * * * *", "2026-10-25T01:30:00+02:00", []string{
			"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00",
		}},
		{"America/New_York", "0 0 * * *", "2026-11-01T00:00:00-04:00", []string{"2026-11-02T00:00:00-05:00"}},
		// Midnight itself is jumped over.
		{"America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00:00-03:00", []string{
			"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00",
		}},
		{"America/Sao_Paulo", "0 * 4 * *", "2018-11-03T12:00:00-03:00", []string{
			"2018-11-04T01:00:00-02:00", "2018-11-04T02:00:00-02:00",
		}},
		// Half an hour: 02:00 becomes 02:30 on 4 October 2026, 02:00 becomes 01:30 on 5 April.
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00+10:30", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00+11:00", []string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
		// 30 December 2011 did not exist.
		{"Pacific/Apia", "0 9 * * *", "2011-12-29T12:00:00-10:00", []string{
			"2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00",
		}},
		{"", "0 0 29 2 *", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
		{"UTC", "@weekly", "2026-01-01T00:00:00Z", []string{"2026-01-04T00:00:00Z"}},
	}
	for _, test := range tests {
		s := parse(t, Settings{Cron: test.cron, Zone: test.zone})
		now := at(test.from)
		for _, want := range test.want {
			if now = s.Next(now); !now.Equal(at(want)) {
				t.Errorf("%s in %s: %s, want %s", test.cron, test.zone, now.Format(time.RFC3339), want)
			}
		}
	}
}

// oracle lists the instants of a span by looking at the clock in every minute.
func oracle(s *Schedule, from, to time.Time) (instants []time.Time) {
	matches := func(w time.Time) bool {
		return s.spec.Next(w.Add(-1)).Equal(w)
	}
	happened := map[time.Time]bool{}
	shown := wall(from.In(s.zone))
	for at := from.Add(time.Minute); !at.After(to); at = at.Add(time.Minute) {
		w := wall(at.In(s.zone))
		due := false
		if s.hourly {
			due = matches(w)
		} else {
			for skipped := shown.Add(time.Minute); !skipped.After(w); skipped = skipped.Add(time.Minute) {
				if matches(skipped) && !happened[skipped] {
					happened[skipped], due = true, true
				}
			}
		}
		if due {
			instants = append(instants, at)
		}
		shown = w
	}
	return instants
}

func TestNextAgainstEveryMinute(t *testing.T) {
	zones := map[string]time.Time{ // with a time that is a day and a half before a change of the clock
		"Europe/Berlin":       at("2026-03-28T00:00:00Z"),
		"Europe/Dublin":       at("2026-10-24T00:00:00Z"),
		"America/New_York":    at("2026-10-31T00:00:00Z"),
		"America/Sao_Paulo":   at("2018-11-03T00:00:00Z"),
		"America/Havana":      at("2026-10-31T00:00:00Z"),
		"Australia/Lord_Howe": at("2026-04-04T00:00:00Z"),
		"Pacific/Apia":        at("2011-12-29T00:00:00Z"),
		"Africa/Casablanca":   at("2026-02-14T00:00:00Z"),
		"Asia/Kolkata":        at("2026-02-14T00:00:00Z"),
	}
	crons := []string{
		"* * * * *", "*/15 * * * *", "0 * * * *", "7 * * * sun", "30 2 * * *", "0,30 1-3 * * *", "*/20 2 * * *", "0 0 * * *", "59 23 * * *", "0 */2 * * *", "45 1 29-31 * *", "30 0,12 * * sat,sun",
	}
	changes := 0
	for zone, from := range zones {
		to := from.Add(80 * time.Hour)
		for _, c := range crons {
			s := parse(t, Settings{Cron: c, Zone: zone})
			if _, a := from.In(s.zone).Zone(); true {
				if _, b := to.In(s.zone).Zone(); a != b {
					changes++
				}
			}
			var got []time.Time
			for at := s.Next(from); !at.After(to); at = s.Next(at) {
				got = append(got, at)
			}
			want := oracle(s, from, to)
			if !slices.EqualFunc(got, want, time.Time.Equal) {
				t.Errorf("%s in %s from %v:\n%v\nwant\n%v", c, zone, from, got, want)
			}
		}
	}
	if changes < 8*len(crons) {
		t.Fatalf("only %d of %d spans have a change of the clock", changes, len(zones)*len(crons))
	}
}

func TestDecide(t *testing.T) {
	day := func(h, m int) time.Time { return time.Date(2026, 5, 4, h, m, 0, 0, time.UTC) } // a Monday
	fired := func(h, m int) Decision {
		return Decision{At: day(h, m), Outcome: Fired, Run: Name(day(h, m))}
	}
	after := func(d Decision, cancel bool, ids ...string) Decision {
		d.After = ids
		if cancel {
			d.Cancel = ids
		}
		return d
	}
	tests := []struct {
		name     string
		settings Settings
		last     time.Time
		runs     []Run
		now      time.Time
		want     []Decision
	}{
		{"nothing is due", Settings{}, day(1, 0), nil, day(1, 59), []Decision{}},
		{"in time", Settings{}, day(1, 0), nil, day(2, 0), []Decision{fired(2, 0)}},
		{"the clock went back", Settings{}, day(3, 0), nil, day(2, 0), []Decision{}},
		{"nobody looked", Settings{}, day(1, 0), nil, day(4, 0), []Decision{
			{At: day(2, 0), Outcome: Missed, Why: "looked at 2h0m0s late"},
			{At: day(3, 0), Outcome: Missed, Why: "looked at 1h0m0s late"},
			fired(4, 0),
		}},
		{"caught up", Settings{CatchUp: 1, Overlap: Queue}, day(1, 0), nil, day(3, 30), []Decision{
			{At: day(2, 0), Outcome: Missed, Why: "looked at 1h30m0s late"},
			{At: day(3, 0), Outcome: Fired, Run: Name(day(3, 0)), Why: "caught up 30m0s late"},
		}},
		{"caught up, and skipped for that", Settings{CatchUp: 5}, day(2, 0), nil, day(4, 0), []Decision{
			{At: day(3, 0), Outcome: Fired, Run: Name(day(3, 0)), Why: "caught up 1h0m0s late"},
			{At: day(4, 0), Outcome: Skipped, Why: "run 20260504T030000Z is not over"},
		}},
		{"misfire", Settings{Misfire: time.Hour}, day(1, 0), nil, day(2, 59), []Decision{fired(2, 0)}},
		{"overlap skip", Settings{Overlap: Skip}, day(1, 0), []Run{{ID: "a"}}, day(2, 0), []Decision{
			{At: day(2, 0), Outcome: Skipped, Why: "run a is not over"},
		}},
		{"overlap queue", Settings{Overlap: Queue, Misfire: 2 * time.Hour}, day(1, 0), []Run{{ID: "a"}}, day(3, 0), []Decision{
			after(fired(2, 0), false, "a"),
			{At: day(3, 0), Outcome: Skipped, Why: "run 20260504T020000Z waits already"},
		}},
		{"overlap replace", Settings{Overlap: Replace}, day(1, 0), []Run{{ID: "a"}, {ID: "b", Waiting: true}}, day(2, 0), []Decision{
			after(fired(2, 0), true, "a", "b"),
		}},
		{"blackout", Settings{Blackout: []string{"mon-fri 02:00-03:00"}}, day(1, 0), nil, day(3, 0).Add(-time.Hour), []Decision{
			{At: day(2, 0), Outcome: Skipped, Why: "blackout mon-fri 02:00-03:00"},
		}},
		{"blackout by the zone's clock", Settings{Zone: "Asia/Tokyo", Blackout: []string{"11:00-11:01"}}, day(1, 0), nil, day(2, 0), []Decision{
			{At: day(2, 0), Outcome: Skipped, Why: "blackout 11:00-11:01"},
		}},
		{"deadline", Settings{CatchUp: 9, Deadline: 90 * time.Minute, Overlap: Queue}, day(1, 0), nil, day(4, 0), []Decision{
			{At: day(2, 0), Outcome: Missed, Why: "looked at 2h0m0s late, after its deadline"},
			{At: day(3, 0), Outcome: Fired, Run: Name(day(3, 0)), Why: "caught up 1h0m0s late"},
			after(fired(4, 0), false, Name(day(3, 0))),
		}},
	}
	for _, test := range tests {
		test.settings.Cron = "0 * * * *"
		got := parse(t, test.settings).Decide(test.last, test.runs, test.now)
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, d)
		}
	}
}

func TestDecideAfterYears(t *testing.T) {
	s := parse(t, Settings{Cron: "* * * * *", CatchUp: 2, Overlap: Queue})
	now := at("2026-05-04T00:00:00Z")
	got := s.Decide(now.AddDate(-1, 0, 0), nil, now)
	if len(got) != maxLate {
		t.Fatalf("%d decisions for a year of minutes", len(got))
	}
	if want := fmt.Sprintf("and so were %d before it", 365*24*60-maxLate); !strings.Contains(got[0].Why, want) || got[0].Outcome != Missed {
		t.Errorf("first %+v, want a missed one that says %q", got[0], want)
	}
	fired := 0
	for _, d := range got {
		if d.Outcome == Fired {
			fired++
		}
	}
	if fired != 2 { // one caught up, one that waits for it; the rest would wait too
		t.Errorf("%d fired", fired)
	}
}

func TestOverdue(t *testing.T) {
	s := parse(t, Settings{Cron: "@daily", Deadline: time.Hour})
	now := at("2026-05-04T01:00:00Z")
	runs := []Run{{ID: "by hand"}, {ID: "old", At: now.Add(-time.Hour)}, {ID: "new", At: now.Add(-time.Minute)}}
	if got := s.Overdue(runs, now); !slices.Equal(got, []string{"old"}) {
		t.Errorf("overdue: %v", got)
	}
}

func TestParseFaults(t *testing.T) {
	tests := []struct {
		settings Settings
		want     string
	}{
		{Settings{}, "cron is empty"},
		{Settings{Cron: "61 * * * *"}, "61"},
		{Settings{Cron: "* * * *"}, "want minute, hour"},
		{Settings{Cron: "@every 5m"}, "*/15 * * * *"},
		{Settings{Cron: "CRON_TZ=UTC 0 0 * * *"}, "zone has a key of its own"},
		{Settings{Cron: "TZ=UTC"}, "zone has a key of its own"},
		{Settings{Cron: "0 0 30 2 *"}, "no such day"},
		{Settings{Cron: "@daily", Zone: "Europe/Berlln"}, `zone "Europe/Berlln" is not known`},
		{Settings{Cron: "@daily", Zone: "Local"}, "not known"},
		{Settings{Cron: "@daily", Overlap: "both"}, "skip, queue or replace"},
		{Settings{Cron: "@daily", Misfire: -1}, "misfire"},
		{Settings{Cron: "@daily", CatchUp: 101}, "0 to 100"},
		{Settings{Cron: "@daily", Deadline: -1}, "deadline"},
		{Settings{Cron: "@daily", Blackout: []string{"25:00-26:00"}}, "25:00"},
	}
	for _, test := range tests {
		if _, err := Parse(test.settings); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.settings, err, test.want)
		}
	}
	_, err := Parse(Settings{Zone: "x", Overlap: "y", CatchUp: -1})
	for _, want := range []string{"zone", "overlap", "catch_up", "cron"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("all faults at once: %v lacks %s", err, want)
		}
	}
}

// TestOneDecisionPerInstant has leaders that look at odd times, die between any two writes, and follow each other; runs end at odd times too. Whatever
// they do, each instant has one decision.
func TestOneDecisionPerInstant(t *testing.T) {
	kinds := map[Outcome]int{}
	deaths := 0
	rapid.Check(t, func(t *rapid.T) {
		s := parse(t, Settings{
			Cron:     rapid.SampledFrom([]string{"*/5 * * * *", "0 * * * *", "*/30 1-4 * * *", "15 2 * * *"}).Draw(t, "cron"),
			Zone:     rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"}).Draw(t, "zone"),
			Overlap:  rapid.SampledFrom([]Overlap{Skip, Queue, Replace}).Draw(t, "overlap"),
			Misfire:  rapid.SampledFrom([]time.Duration{0, 10 * time.Minute}).Draw(t, "misfire"),
			CatchUp:  rapid.IntRange(0, 3).Draw(t, "catch up"),
			Deadline: rapid.SampledFrom([]time.Duration{0, 20 * time.Minute, 5 * time.Hour}).Draw(t, "deadline"),
			Blackout: rapid.SampledFrom([][]string{nil, {"02:10-03:10"}}).Draw(t, "blackout"),
		})
		start := rapid.SampledFrom([]time.Time{at("2026-03-28T20:00:00Z"), at("2026-10-24T20:00:00Z"), at("2026-04-04T10:00:00Z")}).Draw(t, "start")
		last, now := start, start
		decided := map[string]Decision{}
		var runs []Run
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{-60, 1, 30, 300, 1700, 9000}).Draw(t, "step")) * time.Second)
			runs = slices.DeleteFunc(runs, func(Run) bool { return rapid.Bool().Draw(t, "ends") })
			for i := range runs {
				runs[i].Waiting = runs[i].Waiting && i > 0
			}
			ds := s.Decide(last, runs, now)
			if again := s.Decide(last, slices.Clone(runs), now); cmp.Diff(ds, again) != "" {
				t.Fatalf("decided twice, differently: %s", cmp.Diff(ds, again))
			}
			if len(ds) > 0 && rapid.IntRange(0, 3).Draw(t, "dies") == 0 {
				ds = ds[:rapid.IntRange(0, len(ds)-1).Draw(t, "after")]
				deaths++
			}
			for _, d := range ds {
				if _, ok := decided[Name(d.At)]; ok {
					t.Fatalf("%v decided again", d.At)
				}
				if !d.At.After(last) || d.At.After(now) {
					t.Fatalf("decided %v, which is not in (%v, %v]", d.At, last, now)
				}
				decided[Name(d.At)] = d
				last = d.At
				kinds[d.Outcome]++
				if (d.Outcome == Fired) != (d.Run != "") || d.Outcome != Fired && (d.Why == "" || len(d.After)+len(d.Cancel) > 0) {
					t.Fatalf("%+v", d)
				}
				if d.Outcome != Fired {
					continue
				}
				if len(s.blackout) > 0 && s.blackout[0].Contains(d.At.In(s.zone)) || s.over(d.At, now) {
					t.Fatalf("fired %+v in a blackout or after its deadline", d)
				}
				runs = slices.DeleteFunc(runs, func(r Run) bool { return slices.Contains(d.Cancel, r.ID) })
				runs = append(runs, Run{ID: d.Run, At: d.At, Waiting: len(d.After) > len(d.Cancel)})
				if limit := map[Overlap]int{Skip: 1, Queue: 2, Replace: 1}[s.Overlap]; len(runs) > limit && s.Overlap != Queue {
					t.Fatalf("%d runs at once with overlap %s", len(runs), s.Overlap)
				}
				waiting := 0
				for _, r := range runs {
					if r.Waiting {
						waiting++
					}
				}
				if waiting > 1 {
					t.Fatalf("%d runs wait", waiting)
				}
			}
		}
		for _, d := range s.Decide(last, runs, now) {
			decided[Name(d.At)] = d
		}
		if all, _ := s.between(start, now); now.After(last) && len(all) != len(decided) {
			t.Fatalf("%d decisions for %d instants", len(decided), len(all))
		}
	})
	t.Logf("%v, %d leaders died", kinds, deaths)
	if kinds[Fired] == 0 || kinds[Skipped] == 0 || kinds[Missed] == 0 || deaths == 0 {
		t.Fatal("some outcome never came")
	}
}

func TestDecisionAsJSON(t *testing.T) {
	d := Decision{At: at("2026-05-04T02:00:00Z"), Outcome: Fired, Run: "r", After: []string{"a"}}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var back Decision
	if err := json.Unmarshal(text, &back); err != nil || cmp.Diff(d, back) != "" {
		t.Fatalf("%s: %v", text, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range []string{"30 2 * * mon-fri", "@daily", "@every 1s", "*/5 1-3,7 1 jan ?", "TZ=", "TZ=UTC * * * * *", "1-2-3 * * * *", "*/0 * * * *", "0 0 31 2 *"} {
		f.Add(c, "Europe/Berlin", "mon-fri 08:00-18:00")
	}
	f.Fuzz(func(t *testing.T, c, zone, blackout string) {
		s, err := Parse(Settings{Cron: c, Zone: zone, Blackout: []string{blackout}})
		if err != nil {
			return
		}
		now := at("2026-03-28T20:00:00Z")
		if next := s.Next(now); !next.IsZero() && !next.After(now) {
			t.Fatalf("%q in %q: the instant after %v is %v", c, zone, now, next)
		}
	})
}
