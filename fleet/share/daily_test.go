package share

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func TestDaily(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		daily, at string
		want      float64
	}{
		{"night: 100 %, day: 20 %", "2026-05-04T05:59:00Z", 1},
		{"night: 100 %, day: 20 %", "2026-05-04T06:00:00Z", 0.2},
		{"night: 100 %, day: 20 %", "2026-12-04T06:59:00Z", 1}, // in winter
		{"mon-fri 08:00-18:00: 0%, sat,sun: 50%", "2026-05-04T08:00:00Z", 0},
		{"mon-fri 08:00-18:00: 0%, sat,sun: 50%", "2026-05-04T17:00:00Z", 1},
		{"mon-fri 08:00-18:00: 0%, sat,sun: 50%", "2026-05-03T17:00:00Z", 0.5},
		{"2026-12-24..2026-12-26: 12.5 %, day: 20 %", "2026-12-25T10:00:00Z", 0.125},
	}
	for _, test := range tests {
		d, err := ParseDaily(test.daily, berlin)
		if err != nil {
			t.Error(err)
			continue
		}
		at, _ := time.Parse(time.RFC3339, test.at)
		if got := d.Factor(at); got != test.want {
			t.Errorf("%s at %s: %v, want %v", test.daily, test.at, got, test.want)
		}
	}
	if f := (Daily{}).Factor(time.Now()); f != 1 {
		t.Error(f)
	}
	for text, want := range map[string]string{
		"": "such as night", "day": "such as night", "day: 20": "such as night", "day: 120 %": "0 % to 100 %", "day: x %": "0 % to 100 %", "day: -1 %": "0 %",
		"dey: 20 %": "day of the week", "day: 20 %,": "such as night", ": 20 %": "empty window",
	} {
		if _, err := ParseDaily(text, berlin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseDaily(f *testing.F) {
	f.Add("night: 100 %, day: 20 %")
	f.Add("mon-fri 08:00-18:00: 20 %, sat,sun: 50 %")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDaily(text, time.UTC)
		if err != nil {
			return
		}
		if f := d.Factor(time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)); !(f >= 0 && f <= 1) {
			t.Fatal(f)
		}
	})
}
