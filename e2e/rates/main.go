// Command rates draws, from what the end-to-end test of a killed leader recorded, rows a second at the gateways and the number of
// workers over time. It writes an SVG to standard output:
//
//	DROVER_RECORD=/tmp/rec go test -count=1 -run TestPoolLeaderKilled ./e2e
//	go run ./e2e/rates /tmp/rec/leader-kill.csv >docs/pool-leader-kill.svg
//
// A recording has a line "event,SECONDS,NAME" for each event, a line "limit,ROWS" with the table's limit in rows a second, and a
// line "SECONDS,ROWS,WORKERS" for each second, with what the gateways applied since the line before and who is in the pool then.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rates:", err)
		os.Exit(1)
	}
}

func run(files []string, out io.Writer) error {
	if len(files) != 1 {
		return errors.New("name the recording to draw, as in: rates leader-kill.csv >kill.svg")
	}
	f, err := os.Open(files[0])
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := read(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", files[0], err)
	}
	_, err = out.Write(draw(r.cut()))
	return err
}

type recording struct {
	limit  float64 // rows a second
	events []event
	at     []float64 // seconds, ascending
	rate   []float64 // rows a second since the time before
	crew   []float64 // workers then
}

type event struct {
	at   float64 // seconds
	name string
}

func read(r io.Reader) (recording, error) {
	var x recording
	lines := bufio.NewScanner(r)
	before := 0.0
	for n := 1; lines.Scan(); n++ {
		parts := strings.SplitN(lines.Text(), ",", 3)
		numbers := map[int]float64{}
		for i, p := range parts {
			if v, err := strconv.ParseFloat(p, 64); err == nil {
				numbers[i] = v
			}
		}
		_, first := numbers[0]
		_, second := numbers[1]
		_, third := numbers[2]
		switch {
		case parts[0] == "event" && len(parts) == 3 && second:
			x.events = append(x.events, event{numbers[1], parts[2]})
		case parts[0] == "limit" && len(parts) == 2 && second:
			x.limit = numbers[1]
		case first && second && third && numbers[0] > before:
			x.at = append(x.at, numbers[0])
			x.rate = append(x.rate, numbers[1]/(numbers[0]-before))
			x.crew = append(x.crew, numbers[2])
			before = numbers[0]
		default:
			return x, fmt.Errorf("line %d: %q is no event, limit, or later second", n, lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		return x, err
	}
	if len(x.at) == 0 || x.limit <= 0 {
		return x, errors.New("it has no seconds, or no limit")
	}
	return x, nil
}

// cut leaves the time from a little before the first event to a little after the last, counted from its beginning.
func (x recording) cut() recording {
	if len(x.events) == 0 {
		return x
	}
	from, to := max(0, x.events[0].at-20), x.events[len(x.events)-1].at+18
	y := recording{limit: x.limit}
	for i, t := range x.at {
		if t >= from && t <= to {
			y.at, y.rate, y.crew = append(y.at, t-from), append(y.rate, x.rate[i]), append(y.crew, x.crew[i])
		}
	}
	for _, e := range x.events {
		y.events = append(y.events, event{e.at - from, e.name})
	}
	return y
}

// The picture's measures, in pixels.
const (
	width     = 960
	left      = 76 // of the axis
	right     = 20
	tall      = 200 // the rate's panel
	short     = 56  // the workers'
	labelRow  = 17
	top       = 34
	gap       = 22
	axisBelow = 34
	head      = 1.2 // the rate at the panel's upper edge, in limits
)

func draw(x recording) []byte {
	var b bytes.Buffer
	end := x.at[len(x.at)-1]
	px := func(t float64) float64 { return left + (width-left-right)*math.Min(math.Max(t/end, 0), 1) }
	rateTop := float64(top + 8 + labelRow*len(x.events))
	rateBottom := rateTop + tall
	crewTop := rateBottom + gap
	crewBottom := crewTop + short
	py := func(rate float64) float64 { return rateBottom - tall*math.Min(rate/x.limit/head, 1) }
	most := 1.0
	for _, n := range x.crew {
		most = max(most, n)
	}
	cy := func(n float64) float64 { return crewBottom - short*n/(most+0.5) }

	height := crewBottom + axisBelow
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %d %.0f" font-family="system-ui, sans-serif" font-size="12" fill="#333">`+"\n", width, height, width, height)
	b.WriteString("<title>Rows a second at the gateways and workers in the pool while the leader is killed</title>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%.0f" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="13" font-weight="600">Rows a second at the gateways, and workers in the pool</text>`+"\n", left)

	for _, q := range []float64{0, 1.0 / 3, 2.0 / 3} {
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#e4e4e4"/><text x="%d" y="%.1f" text-anchor="end" font-size="10" fill="#777">%.0f</text>`+"\n",
			left, py(q*x.limit), width-right, left-6, py(q*x.limit)+4, q*x.limit)
	}
	area(&b, x, px, py, rateBottom)
	fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#c33" stroke-dasharray="5 4"/><text x="%d" y="%.1f" text-anchor="end" font-size="10" fill="#c33">%.0f</text>`+"\n",
		left, py(x.limit), width-right, left-6, py(x.limit)+4, x.limit)
	fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end" font-size="10" fill="#c33">the table's limit</text>`+"\n", width-right, py(x.limit)-11)

	fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end" font-size="10" fill="#777">workers</text>`+"\n", left-6, crewTop+2)
	var steps strings.Builder
	for i := range x.at {
		if i == 0 {
			fmt.Fprintf(&steps, "M%.1f %.1f", px(0), cy(x.crew[0]))
		} else if x.crew[i] != x.crew[i-1] {
			fmt.Fprintf(&steps, "H%.1fV%.1f", px(x.at[i]), cy(x.crew[i]))
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" font-size="11" fill="#2a6f5f">%.0f</text>`+"\n", px(x.at[i])+20, cy(x.crew[i])+14, x.crew[i])
		}
	}
	fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" font-size="11" fill="#2a6f5f">%.0f</text>`+"\n", px(0)+5, cy(x.crew[0])+14, x.crew[0])
	fmt.Fprintf(&b, `<path d="%sH%.1f" fill="none" stroke="#2a8f7a" stroke-width="2"/>`+"\n", steps.String(), px(end))

	for i, e := range x.events {
		y := float64(top + labelRow*(i+1))
		at := px(e.at)
		fmt.Fprintf(&b, `<path d="M%.1f %.1fV%.1f" stroke="#555" stroke-width=".8" stroke-dasharray="2 3"/>`+"\n", at, y-9, crewBottom)
		anchor, shift := "start", 5.0
		if at > width*3/4 {
			anchor, shift = "end", -5
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", at+shift, y, anchor, html.EscapeString(e.name))
	}
	fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#bbb"/>`+"\n", left, crewBottom, width-right)
	every := 10.0
	for end/every > 16 {
		every *= 2
	}
	for t := 0.0; t <= end; t += every {
		fmt.Fprintf(&b, `<path d="M%.1f %.1fv4" stroke="#999"/><text x="%.1f" y="%.1f" text-anchor="middle" font-size="10" fill="#555">%.0f s</text>`+"\n",
			px(t), crewBottom, px(t), crewBottom+16, t)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// area draws the rate as steps, one for each second.
func area(b *bytes.Buffer, x recording, px, py func(float64) float64, bottom float64) {
	var line strings.Builder
	before := 0.0
	for i, t := range x.at {
		if i == 0 {
			fmt.Fprintf(&line, "%.1f %.1f", px(0), py(x.rate[0]))
		} else {
			fmt.Fprintf(&line, "L%.1f %.1fH%.1f", px(before), py(x.rate[i]), px(t))
		}
		before = t
	}
	fmt.Fprintf(b, `<path d="M%.1f %.1fL%sV%.1fZ" fill="#1f6f9f" fill-opacity=".25"/>`+"\n", px(0), bottom, line.String(), bottom)
	fmt.Fprintf(b, `<path d="M%s" fill="none" stroke="#1f6f9f" stroke-width="1.4"/>`+"\n", line.String())
}
