package hours

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func TestContains(t *testing.T) {
	tests := []struct {
		window, zone string
		in, out      []string
	}{
		{
			"mon-fri 08:00-18:00", "UTC",
			[]string{"2026-05-04T08:00:00Z", "2026-05-08T17:59:59Z"},
			[]string{"2026-05-04T07:59:59Z", "2026-05-04T18:00:00Z", "2026-05-09T12:00:00Z"},
		},
		{
			"fri 22:00-06:00", "UTC", // belongs to the day on which it starts
			[]string{"2026-05-08T22:00:00Z", "2026-05-09T05:59:00Z"},
			[]string{"2026-05-08T05:00:00Z", "2026-05-09T22:00:00Z", "2026-05-09T06:00:00Z"},
		},
		{"sat-mon", "UTC", []string{"2026-05-09T00:00:00Z", "2026-05-11T23:59:59Z"}, []string{"2026-05-12T00:00:00Z"}},
		{"sun,wed", "UTC", []string{"2026-05-10T00:00:00Z", "2026-05-06T00:00:00Z"}, []string{"2026-05-11T00:00:00Z"}},
		{
			"2026-12-24..2027-01-01", "Europe/Berlin",
			[]string{"2026-12-23T23:00:00Z", "2027-01-01T22:59:59Z"},
			[]string{"2026-12-23T22:59:59Z", "2027-01-01T23:00:00Z"},
		},
		{"2026-12-31 20:00-04:00", "UTC", []string{"2026-12-31T20:00:00Z", "2027-01-01T03:00:00Z"}, []string{"2026-12-31T03:00:00Z"}},
		{"20:00-24:00", "UTC", []string{"2026-12-31T23:59:59Z"}, []string{"2027-01-01T00:00:00Z"}},
		{"00:00-24:00", "UTC", []string{"2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"}, nil},
		{"Night", "UTC", []string{"2026-05-04T20:00:00Z", "2026-05-04T07:59:00Z"}, []string{"2026-05-04T08:00:00Z"}},
		{"Mon-Fri  day", "UTC", []string{"2026-05-04T08:00:00Z"}, []string{"2026-05-09T08:00:00Z"}},
		// The hour that comes twice is in it twice; the one that is jumped over never.
		{"02:00-03:00", "Europe/Berlin", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"}, []string{"2026-03-29T00:59:00Z", "2026-03-29T01:00:00Z", "2026-10-25T02:00:00Z"}},
	}
	for _, test := range tests {
		w, err := Parse(test.window)
		if err != nil {
			t.Error(err)
			continue
		}
		zone, err := time.LoadLocation(test.zone)
		if err != nil {
			t.Fatal(err)
		}
		for want, times := range map[bool][]string{true: test.in, false: test.out} {
			for _, text := range times {
				at, err := time.Parse(time.RFC3339, text)
				if err != nil {
					t.Fatal(err)
				}
				if got := w.Contains(at.In(zone)); got != want {
					t.Errorf("%s in %s contains %s: %v", w, test.zone, text, got)
				}
			}
		}
	}
	if !(Window{}).Contains(time.Now()) {
		t.Error("the zero value is all the time")
	}
}

func TestParseFaults(t *testing.T) {
	for text, want := range map[string]string{
		"": "empty", "mon-fry": "day of the week", "08:00": "span of time", "8-18": "08:00 to 24:00|00:00 to 24:00", "24:00-06:00": "write 00:00", "08:00-08:00": "leave the time out",
		"08:00-18:00 mon": "out of place", "2026-13-01": "no date", "2026-12-24..2026-12-23": "ends before", "12:60-13:00": "no time of day", "24:01-25:00": "no time of day", "mon tue": "span of time",
	} {
		_, err := Parse(text)
		ok := err != nil
		if ok {
			ok = false
			for alternative := range strings.SplitSeq(want, "|") {
				ok = ok || strings.Contains(err.Error(), alternative)
			}
		}
		if !ok {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"mon-fri 08:00-18:00", "2026-12-24..2027-01-01 night", "sat,sun", "22:00-06:00", "day"} {
		f.Add(text)
	}
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		w, err := Parse(text)
		if err != nil {
			return
		}
		w.Contains(now)
		again, err := Parse(w.String())
		if err != nil || again != w {
			t.Fatalf("%q reads back as %+v, %v; want %+v", w, again, err, w)
		}
	})
}
