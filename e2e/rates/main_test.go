package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestDraw(t *testing.T) {
	var text strings.Builder
	text.WriteString("event,40.0,w1 & its shards\nlimit,3000\n")
	for i := range 90 {
		rows, workers := 3000, 4
		if i >= 40 {
			rows, workers = 1500, 3
		}
		fmt.Fprintf(&text, "%d,%d,%d\n", 2*(i+1), rows, workers)
	}
	r, err := read(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if r.rate[0] != 1500 || r.rate[60] != 750 || r.crew[60] != 3 {
		t.Errorf("the rates are %v and %v, with %v workers", r.rate[0], r.rate[60], r.crew[60])
	}
	cut := r.cut()
	if at := cut.events[0].at; at != 20 || cut.at[len(cut.at)-1] > 38 || cut.at[0] != 0 {
		t.Errorf("the event is cut to %v of %v", at, cut.at)
	}
	svg := string(draw(cut))
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
	}
	if n := strings.Count(svg, "w1 &amp; its shards"); n != 1 {
		t.Errorf("the event is named %d times, want once", n)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, text := range []string{"", "limit,3000\n", "1,2,3\n", "limit,3000\n2,1,1\n1,1,1\n", "limit,3000\nx,1,1\n", "limit,3000\n1,2\n", "event,x,name\n"} {
		if _, err := read(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
