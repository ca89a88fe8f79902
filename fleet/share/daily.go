package share

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"drover/fleet/hours"
)

// Daily is a schedule of a limit by time of day. The zero value is all of the limit, always.
type Daily struct {
	zone  *time.Location
	rules []rule
}

type rule struct {
	window hours.Window
	factor float64
}

// ParseDaily reads windows with the part of the limit that holds in each: "night: 100 %, day: 20 %" or "mon-fri 08:00-18:00: 20 %, sat,sun: 50 %". The first window that
// contains an instant counts, and outside all of them the limit is whole; 0 % is a pause. hours.Parse says how a window is written.
func ParseDaily(text string, zone *time.Location) (Daily, error) {
	d := Daily{zone: zone}
	window := "" // what of a window with a comma in it was read so far
	for part := range strings.SplitSeq(text, ",") {
		window += part
		i := strings.LastIndex(window, ":")
		percent, ok := "", false
		if i >= 0 {
			percent, ok = strings.CutSuffix(strings.TrimSpace(window[i+1:]), "%")
		}
		if !ok {
			window += ","
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(percent), 64)
		if err != nil || !(f >= 0 && f <= 100) {
			return Daily{}, fmt.Errorf("%q: %q is no share of the limit; want 0 %% to 100 %%", strings.TrimSpace(window), strings.TrimSpace(window[i+1:]))
		}
		w, err := hours.Parse(window[:i])
		if err != nil {
			return Daily{}, err
		}
		d.rules = append(d.rules, rule{w, f / 100})
		window = ""
	}
	if window != "" {
		return Daily{}, fmt.Errorf("%q: want windows with shares of the limit, such as night: 100 %%, day: 20 %%", strings.TrimSuffix(window, ","))
	}
	return d, nil
}

// Factor is the part of the limit that holds at an instant. It changes on full minutes only.
func (d Daily) Factor(t time.Time) float64 {
	if d.zone != nil {
		t = t.In(d.zone)
	}
	for _, r := range d.rules {
		if r.window.Contains(t) {
			return r.factor
		}
	}
	return 1
}
