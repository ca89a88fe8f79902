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

// gauges judge by metrics, which are read at each look.
type gauges struct {
	threads int64 // 0 is not known
	last    Metrics
	still   int // readings in a row in which calls waited and none ended
}

// stillReadings is how many readings without a move are no chance: they are as far apart as looks.
const stillReadings = 3

func (g *gauges) read(m Metrics) (Trouble, string) {
	if m.Queue > 0 && m.Queue == g.last.Queue && m.Ops == g.last.Ops {
		g.still++
	} else {
		g.still = 0
	}
	g.last = m
	switch {
	case g.threads > 0 && m.Workers >= g.threads:
		return Exhausted, fmt.Sprintf("%d connections hold its %d threads", m.Workers, g.threads)
	case g.still >= stillReadings:
		return Stalled, fmt.Sprintf("%d calls wait, and none has ended since the last %d readings", m.Queue, g.still)
	}
	return Sound, ""
}
