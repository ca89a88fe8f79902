// Package hours knows windows of the week and the calendar, as people write them: "mon-fri 08:00-18:00".
//
// A window is by the wall clock of a zone that is given when asking. So one of 02:00-03:00 does not happen on a day whose clock jumps over
// it, and lasts twice as long on a day that has that hour twice.
//
// Not for instants at which something is to happen: package tick has those.
package hours

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const day = 24 * 60

// Window is a part of each day, of some days of the week, or of some dates. The zero value is all the time.
type Window struct {
	text     string
	from, to int     // minutes of the day; to <= from passes midnight, and both 0 is the whole day
	days     [7]bool // by time.Weekday, of the day on which the window starts; none means all
	first    int     // dates as year*10000 + month*100 + day, both included; 0 is all
	last     int
}

func (w Window) String() string { return w.text }

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// Parse reads up to three words, in this order:
//
//   - dates: 2026-12-24 or 2026-12-24..2027-01-01
//   - days of the week: mon-fri, sat,sun
//   - times: 08:00-18:00, where 22:00-06:00 passes midnight and belongs to the day on which it starts; day is 08:00-20:00, night the other half
//
// What is left out is all days, or the whole day.
func Parse(text string) (Window, error) {
	w := Window{text: strings.Join(strings.Fields(text), " ")}
	words := strings.Fields(strings.ToLower(text))
	if len(words) == 0 {
		return w, fmt.Errorf("an empty window: want one such as mon-fri 08:00-18:00, 22:00-06:00 or 2026-12-24")
	}
	parsers := []func(*Window, string) (bool, error){(*Window).dates, (*Window).weekdays, (*Window).times}
	for _, word := range words {
		done := false
		for len(parsers) > 0 && !done {
			var err error
			if done, err = parsers[0](&w, word); err != nil {
				return Window{}, fmt.Errorf("window %q: %w", text, err)
			}
			parsers = parsers[1:]
		}
		if !done {
			return Window{}, fmt.Errorf("window %q: %q is out of place; want dates, days and times in this order, such as 2026-12-24 or mon-fri 08:00-18:00", text, word)
		}
	}
	return w, nil
}

func (w *Window) dates(word string) (bool, error) {
	if len(word) < 5 || word[4] != '-' {
		return false, nil
	}
	first, last, ok := strings.Cut(word, "..")
	if !ok {
		last = first
	}
	var err error
	if w.first, err = date(first); err != nil {
		return false, err
	}
	if w.last, err = date(last); err != nil {
		return false, err
	}
	if w.last < w.first {
		return false, fmt.Errorf("%s ends before it starts", word)
	}
	return true, nil
}

func date(text string) (int, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return 0, fmt.Errorf("%q is no date; want one such as 2026-12-24", text)
	}
	return number(t), nil
}

func number(t time.Time) int {
	y, m, d := t.Date()
	return y*10000 + int(m)*100 + d
}

func (w *Window) weekdays(word string) (bool, error) {
	if word[0] >= '0' && word[0] <= '9' || word == "day" || word == "night" {
		return false, nil
	}
	for span := range strings.SplitSeq(word, ",") {
		first, last, ok := strings.Cut(span, "-")
		if !ok {
			last = first
		}
		a, err := weekday(first)
		if err != nil {
			return false, err
		}
		b, err := weekday(last)
		if err != nil {
			return false, err
		}
		for d := a; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == b {
				break
			}
		}
	}
	return true, nil
}

func weekday(text string) (int, error) {
	for i, d := range weekdays {
		if d == text {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is no day of the week; want sun, mon, tue, wed, thu, fri or sat", text)
}

func (w *Window) times(word string) (bool, error) {
	switch word {
	case "day":
		word = "08:00-20:00"
	case "night":
		word = "20:00-08:00"
	}
	from, to, ok := strings.Cut(word, "-")
	if !ok {
		return false, fmt.Errorf("%q is no span of time; want one such as 08:00-18:00", word)
	}
	var err error
	if w.from, err = minute(from); err != nil {
		return false, err
	}
	if w.to, err = minute(to); err != nil {
		return false, err
	}
	if w.from == day {
		return false, fmt.Errorf("%s starts at 24:00; write 00:00", word)
	}
	if w.from == w.to {
		return false, fmt.Errorf("%s is empty; for the whole day leave the time out", word)
	}
	return true, nil
}

func minute(text string) (int, error) {
	h, m, ok := strings.Cut(text, ":")
	hour, err1 := strconv.ParseUint(h, 10, 8)
	min, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err1 != nil || err2 != nil || len(m) != 2 || len(h) > 2 || min > 59 || hour > 24 || hour == 24 && min > 0 {
		return 0, fmt.Errorf("%q is no time of day; want 00:00 to 24:00", text)
	}
	return int(hour)*60 + int(min), nil
}

// Contains tells whether an instant is in the window, by the clock of t's location.
func (w Window) Contains(t time.Time) bool {
	h, m, _ := t.Clock()
	now := h*60 + m
	switch {
	case w.from == 0 && w.to == 0:
		return w.on(t, 0)
	case w.from < w.to:
		return now >= w.from && now < w.to && w.on(t, 0)
	case now >= w.from:
		return w.on(t, 0)
	case now < w.to:
		return w.on(t, -1) // it started on the day before
	}
	return false
}

// on tells whether the window may start on t's date, some days later.
func (w Window) on(t time.Time, days int) bool {
	y, m, d := t.Date()
	noon := time.Date(y, m, d+days, 12, 0, 0, 0, time.UTC) // the calendar only; no zone's clock jumps here
	if n := number(noon); w.first != 0 && (n < w.first || n > w.last) {
		return false
	}
	return w.days == [7]bool{} || w.days[noon.Weekday()]
}
