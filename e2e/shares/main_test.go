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
	text.WriteString("fault,20.0,30.0,1,1,000 & back\nfault,21.0,22.0,-1,both\n")
	for i := range 600 {
		second := 100
		if i >= 200 && i < 300 {
			second = 0
		}
		fmt.Fprintf(&text, "%.1f,100,%d\n", float64(i)/10, second)
	}
	r, err := read(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if s := r.shares(25); s[0] != 1 || s[1] != 0 {
		t.Errorf("shares in the fault %v", s)
	}
	if s := r.shares(40); s[0] != 0.5 || s[1] != 0.5 {
		t.Errorf("shares after it %v", s)
	}
	if s := r.shares(1000); s != nil {
		t.Errorf("shares of no rows %v", s)
	}
	svg := string(draw([]recording{r, r}))
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
	}
	if n := strings.Count(svg, "1,000 &amp; back"); n != 2 {
		t.Errorf("the fault is named %d times, want once a panel", n)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, text := range []string{"", "fault,1,2,0\n", "x,1\n", "1.0,1,2\n1.1,1\n", "1.0\n"} {
		if _, err := read(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
