package main

import (
	"testing"

	"drover/runner"
)

// The second line says why a run is slow: a pause before all, then what HBase has no room for.
func TestWaitLine(t *testing.T) {
	busy := runner.Slowed{Table: "ships", Server: "rs1:16020", Why: "region server rs1:16020 is too busy", Percent: 40}
	quota := runner.Slowed{Table: "ships", Why: "a quota is used up", Percent: 55, Limited: true}
	for _, test := range []struct {
		p    runner.Progress
		want string
	}{
		{runner.Progress{Phase: "moving"}, "moving"},
		{runner.Progress{Slowed: []runner.Slowed{busy}}, "slowed by HBase: ships, region server rs1:16020 is too busy, 40 % of its rate before"},
		{
			runner.Progress{Slowed: []runner.Slowed{busy, quota}, Ramps: map[string]int{"ships": 30}},
			"slowed by HBase: ships, region server rs1:16020 is too busy, 40 % of its rate before; ships, a quota is used up, 55 % of the limit · ramp: ships 30 %",
		},
		{runner.Progress{Slowed: []runner.Slowed{quota}, Paused: map[string]string{"": "no gateway answers: a:1: refused"}}, "paused: no gateway answers: a:1: refused"},
	} {
		if got := waitLine(test.p); got != test.want {
			t.Errorf("line is %q, want %q", got, test.want)
		}
	}
}
