package agent

import (
	"context"
	"errors"
	"sync"
	"time"
)

// glance is a look and what it was made of.
type glance struct {
	Look
	metrics *Metrics // nil when they were not read
}

// watch looks at the gateway until ctx ends.
func (a *agent) watch(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	canary := &canary{}
	if a.Canary != nil {
		wg.Go(func() { canary.run(ctx, a.Canary, a.CanaryEvery) })
	}
	for {
		began := time.Now()
		l := a.examine(ctx, canary)
		select {
		case a.looks <- l:
		case <-ctx.Done():
			return
		}
		if !sleep(ctx, a.Every-time.Since(began)) {
			return
		}
	}
}

// examine makes one look: metrics explain what the probe found, and the canary speaks where it found nothing.
func (a *agent) examine(ctx context.Context, c *canary) (l glance) {
	var m Metrics
	err := errNoMetrics
	var wg sync.WaitGroup
	if a.Metrics != nil {
		wg.Go(func() { m, err = a.Metrics(ctx) })
	}
	l.Trouble, l.Reason = a.Probe(ctx)
	wg.Wait()
	l.At = time.Now()
	if err == nil {
		l.metrics = &m
		a.gauges.read(m, l.At)
		a.gauges.explain(&l.Look)
	}
	if l.Trouble == Sound {
		if why := c.trouble(); why != "" {
			l.Trouble, l.Reason = Blocked, why
		}
	}
	return l
}

var errNoMetrics = errors.New("no metrics")

// canary is a row that is written again and again.
type canary struct {
	mu  sync.Mutex
	bad string
}

func (c *canary) run(ctx context.Context, sing func(context.Context) error, every time.Duration) {
	for {
		err := sing(ctx)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.bad = ""
		if err != nil {
			c.bad = err.Error()
		}
		c.mu.Unlock()
		if !sleep(ctx, every) {
			return
		}
	}
}

func (c *canary) trouble() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
