package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Metrics are what a gateway's info port tells of it.
type Metrics struct {
	Workers int64 // connections: each holds a thread, or waits for one
	Queue   int64 // calls, or connections, that wait
	Ops     int64 // calls ended since it started, of all kinds
}

// metricsPatience bounds a reading of the info port.
const metricsPatience = 3 * time.Second

// ReadMetrics reads /jmx at an info port, host:port.
func ReadMetrics(ctx context.Context, addr string) (Metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, metricsPatience)
	defer cancel()
	url := "http://" + addr + "/jmx?qry=Hadoop:service=HBase,name=Thrift,*"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Metrics{}, fmt.Errorf("read %s: %w", url, err)
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return Metrics{}, err // it names the address
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return Metrics{}, fmt.Errorf("read %s: %s", url, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return Metrics{}, fmt.Errorf("read %s: %w", url, err)
	}
	m, err := parseMetrics(body)
	if err != nil {
		return Metrics{}, fmt.Errorf("read %s: %w", url, err)
	}
	return m, nil
}

// parseMetrics adds up the beans of a Thrift server, of which a process has one.
func parseMetrics(body []byte) (m Metrics, err error) {
	var page struct {
		Beans []map[string]json.RawMessage `json:"beans"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return m, fmt.Errorf("it is no JSON of a Java server: %w", err)
	}
	found := false
	for _, bean := range page.Beans {
		if !bytes.Contains(bean["name"], []byte("sub=Thrift")) {
			continue
		}
		found = true
		for name, raw := range bean {
			var n float64
			if json.Unmarshal(raw, &n) != nil {
				continue
			}
			switch {
			case name == "numActiveWorkers":
				m.Workers += int64(n)
			case name == "callQueueLen":
				m.Queue += int64(n)
			case strings.HasSuffix(name, "_num_ops"):
				m.Ops += int64(n)
			}
		}
	}
	if !found {
		return m, errors.New("it has no metrics of a Thrift server: is it the gateway's info port?")
	}
	return m, nil
}

// metricsAge is more than how old a reading may be: HBase makes a new one every 10 s.
const metricsAge = 11 * time.Second

// gauges explain by metrics what the probe found. They find nothing by themselves: a probe that was answered over a connection
// of its own had a thread, whatever a reading of 10 s ago says.
type gauges struct {
	threads int64 // 0 is not known
	last    Metrics
	moved   time.Time // when Ops last changed
}

// read takes a reading.
func (g *gauges) read(m Metrics, now time.Time) {
	if m.Ops != g.last.Ops || g.moved.IsZero() {
		g.moved = now
	}
	g.last = m
}

// explain says more of a look at a gateway that is stalled.
func (g *gauges) explain(l *Look) {
	if l.Trouble != Stalled {
		return
	}
	m := g.last
	switch idle := l.At.Sub(g.moved); {
	case g.threads > 0 && m.Workers >= g.threads:
		l.Trouble, l.Reason = Exhausted, fmt.Sprintf("%d connections hold its %d threads", m.Workers, g.threads)
	case idle > 2*metricsAge:
		l.Reason += fmt.Sprintf("; none of its calls has ended for %v, and %d wait", idle.Round(time.Second), m.Queue)
	}
}
