// Command shares draws, from what the end-to-end tests of gateway faults recorded, each gateway's share of the acknowledged
// rows over time. It writes an SVG to standard output, one panel for each recording:
//
//	DROVER_RECORD=/tmp/rec DROVER_PROVE=1 go test -count=1 -run TestGatewayFaults ./e2e
//	go run ./e2e/shares /tmp/rec/*.csv >docs/gateways-faults.svg
//
// A recording has a line "fault,FROM,TO,GATEWAY,NAME" for each fault, in seconds and counting gateways from 0, -1 being all
// of them, and a line "SECONDS,ROWS,ROWS,…" for each tenth of a second, with what each gateway acknowledged in it.
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
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "shares:", err)
		os.Exit(1)
	}
}

func run(files []string, out io.Writer) error {
	if len(files) == 0 {
		return errors.New("name the recordings to draw, as in: shares ways.csv servers.csv >faults.svg")
	}
	var all []recording
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		r, err := read(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		all = append(all, r)
	}
	_, err := out.Write(draw(all))
	return err
}

type recording struct {
	faults []fault
	at     []float64   // seconds, ascending
	rows   [][]float64 // acknowledged since the time before, by gateway
}

type fault struct {
	from, to float64 // seconds
	gateway  int     // -1 is none of them in particular
	name     string
}

// read parses a recording, and starts its clock where the first rows were acknowledged.
func read(r io.Reader) (recording, error) {
	var x recording
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		rest, isFault := strings.CutPrefix(lines.Text(), "fault,")
		most := -1
		if isFault {
			most = 4 // a name may have a comma in it
		}
		parts := strings.SplitN(rest, ",", most)
		values := make([]float64, len(parts))
		for i, p := range parts {
			v, err := strconv.ParseFloat(p, 64)
			if err != nil && !(isFault && i == 3) {
				return x, fmt.Errorf("line %d: %q is no number", n, p)
			}
			values[i] = v
		}
		switch {
		case isFault && len(parts) == 4:
			x.faults = append(x.faults, fault{values[0], values[1], int(values[2]), parts[3]})
		case isFault || len(parts) < 2 || len(x.rows) > 0 && len(parts)-1 != len(x.rows[0]):
			return x, fmt.Errorf("line %d: %q is neither a fault nor a count for each gateway", n, lines.Text())
		default:
			x.at, x.rows = append(x.at, values[0]), append(x.rows, values[1:])
		}
	}
	if err := lines.Err(); err != nil {
		return x, err
	}
	if len(x.rows) == 0 {
		return x, errors.New("it counts nothing")
	}
	return x, nil
}

// cut leaves the time from a little before the first fault to a little after the last, counted from its beginning.
func (x recording) cut() recording {
	if len(x.faults) == 0 {
		return x
	}
	const margin = 10
	last := x.faults[len(x.faults)-1].to
	from, to := x.faults[0].from-margin, last+2*margin
	// The run is ended some time after the last gateway is back, and no row is acknowledged for a while.
	silent := 0.0
	for i, t := range x.at {
		if t < last {
			continue
		}
		if slices.Max(x.rows[i]) > 0 {
			silent = t
		} else if silent > 0 && t > silent+smoothed {
			to = min(to, silent)
			break
		}
	}
	var y recording
	for i, t := range x.at {
		if t >= from && t <= to {
			y.at, y.rows = append(y.at, t-from), append(y.rows, x.rows[i])
		}
	}
	for _, f := range x.faults {
		f.from -= from
		f.to -= from
		y.faults = append(y.faults, f)
	}
	return y
}

// smoothed is the span over which a share is averaged, in seconds, around the moment that it is shown for. A call of 1000 rows
// takes a third of one.
const smoothed = 2.0

// shares gives each gateway's at one moment, between 0 and 1, or nil when nothing was acknowledged about then.
func (x recording) shares(at float64) []float64 {
	sums := make([]float64, len(x.rows[0]))
	total := 0.0
	for i, t := range x.at {
		if math.Abs(t-at) > smoothed/2 {
			continue
		}
		for g, n := range x.rows[i] {
			sums[g] += n
			total += n
		}
	}
	if total == 0 {
		return nil
	}
	for g := range sums {
		sums[g] /= total
	}
	return sums
}

// The picture's measures, in pixels.
const (
	width     = 960
	left      = 92 // of the axis
	right     = 16
	strip     = 58 // a gateway's height
	gap       = 8
	labelRow  = 16
	axisBelow = 34
	top       = 30
	highest   = 0.75 // the share at a strip's upper edge
)

var colours = []string{"#1f6f9f", "#2a8f7a", "#a8672a", "#7a5aa8", "#8a8a2a"}

func draw(all []recording) []byte {
	var b bytes.Buffer
	y := float64(top)
	for _, x := range all {
		y = panel(&b, x.cut(), y)
	}
	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %d %.0f" font-family="system-ui, sans-serif" font-size="11" fill="#333">`+"\n", width, y, width, y)
	svg.WriteString("<title>Each gateway's share of the acknowledged rows through faults</title>\n")
	fmt.Fprintf(&svg, `<rect width="%d" height="%.0f" fill="#fff"/>`+"\n", width, y)
	fmt.Fprintf(&svg, `<text x="%d" y="18" font-size="13" font-weight="600">Share of acknowledged rows, by gateway</text>`+"\n", left)
	fmt.Fprintf(&svg, `<rect x="%d" y="8" width="12" height="12" fill="#d33" fill-opacity=".18"/><text x="%d" y="18">fault of this gateway</text>`+"\n", width-right-250, width-right-233)
	fmt.Fprintf(&svg, `<path d="M%d 14h14" stroke="#999" stroke-dasharray="3 3"/><text x="%d" y="18">an equal share</text>`+"\n", width-right-108, width-right-90)
	svg.Write(b.Bytes())
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

// panel draws one recording from y downwards, and says where it ends.
func panel(b *bytes.Buffer, x recording, y float64) float64 {
	const span = width - left - right
	gateways := len(x.rows[0])
	end := x.at[len(x.at)-1]
	px := func(t float64) float64 { return left + span*math.Min(math.Max(t/end, 0), 1) }

	// Labels that would run into each other go into different rows; a line leads from each to its fault.
	const perLetter = 6.0
	var rows []float64 // where the last label of each ends
	type label struct {
		x, begin float64
		row      int
	}
	labels := make([]label, len(x.faults))
	for i, f := range x.faults {
		w := perLetter * float64(len(f.name))
		begin := math.Min(px(f.from), left+span-w)
		row := 0
		for row < len(rows) && rows[row] > begin-10 {
			row++
		}
		if row == len(rows) {
			rows = append(rows, 0)
		}
		rows[row] = begin + w
		labels[i] = label{begin, px(f.from), row}
	}
	y += 10
	stripsTop := y + float64(len(rows))*labelRow + 6
	stripTop := func(g int) float64 { return stripsTop + float64(g)*(strip+gap) }
	bottom := stripTop(gateways-1) + strip

	for i, f := range x.faults {
		l := labels[i]
		ly := y + float64(l.row+1)*labelRow - 3
		first, last := f.gateway, f.gateway
		fill := `fill="#d33" fill-opacity=".18"`
		if f.gateway < 0 {
			first, last, fill = 0, gateways-1, `fill="#888" fill-opacity=".2"`
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f">%s</text>`+"\n", l.x, ly, html.EscapeString(f.name))
		fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f" stroke="#bbb" stroke-width=".7"/>`+"\n", l.begin, ly+3, stripTop(first))
		for g := first; g <= last; g++ {
			fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" %s/>`+"\n", px(f.from), stripTop(g), math.Max(px(f.to)-px(f.from), 1.5), strip, fill)
		}
	}
	const step = 0.5
	for g := range gateways {
		bottom := stripTop(g) + strip
		py := func(share float64) float64 { return bottom - strip*math.Min(share/highest, 1) }
		colour := colours[g%len(colours)]
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#ccc"/>`+"\n", left, bottom, width-right)
		var line strings.Builder
		for t := 0.0; t <= end; t += step {
			share := 0.0
			if s := x.shares(t); s != nil {
				share = s[g]
			}
			fmt.Fprintf(&line, "L%.1f %.1f", px(t), py(share))
		}
		edge := strings.TrimPrefix(line.String(), "L")
		fmt.Fprintf(b, `<path d="M%d %.1fL%sV%.1fZ" fill="%s" fill-opacity=".3"/>`+"\n", left, bottom, edge, bottom, colour)
		fmt.Fprintf(b, `<path d="M%s" fill="none" stroke="%s" stroke-width="1.2"/>`+"\n", edge, colour)
		equal := py(1 / float64(gateways))
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#999" stroke-width=".8" stroke-dasharray="3 3"/>`+"\n", left, equal, width-right)
		fmt.Fprintf(b, `<text x="%d" y="%.1f" fill="%s" font-weight="600">gateway %d</text>`+"\n", 8, bottom-strip/2-8, colour, g+1)
		for _, share := range []float64{0, 1 / float64(gateways)} {
			fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end" font-size="9" fill="#777">%.0f %%</text>`+"\n", left-4, py(share)+3, 100*share)
		}
	}
	every := 10.0
	for end/every > 16 {
		every *= 2
	}
	for t := 0.0; t <= end; t += every {
		fmt.Fprintf(b, `<path d="M%.1f %.1fv4" stroke="#999"/><text x="%.1f" y="%.1f" text-anchor="middle" font-size="10" fill="#555">%.0f s</text>`+"\n",
			px(t), bottom, px(t), bottom+15, t)
	}
	return bottom + axisBelow
}
