package hbase

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
)

// Condition is what a diagnosis finds of a gateway.
type Condition string

// The conditions, each with what to do about it.
const (
	Sound         Condition = ""
	Dead          Condition = "dead"           // nobody listens, or connections are closed at once: start it
	Silent        Condition = "silent"         // it accepts connections and answers none: frozen, or all its threads are taken
	WrongProtocol Condition = "wrong protocol" // it is no Thrift2 gateway, or framing and protocol are set otherwise: mend the job file or the port
	Blocked       Condition = "blocked"        // it answers, and does not reach HBase: look at HBase, then restart it
)

// silent tells a gateway that keeps its callers waiting.
func (c Condition) silent() bool { return c == Silent || c == Blocked }

// Finding is what a diagnosis says of a gateway.
type Finding struct {
	Condition Condition
	Reason    string        // in words; "" when it is sound
	Old       bool          // it lacks methods that came with HBase 2: puts and scans work
	Took      time.Duration // until it reached HBase
}

// aliveTimeout bounds a call that a gateway answers by itself, reachTimeout one for which it asks HBase: it tries for long by
// itself when a region server is gone.
const (
	aliveTimeout = 2 * time.Second
	reachTimeout = 5 * time.Second
)

// Diagnose finds out how a gateway feels, with two small reads over a connection of its own. Nothing is written, so a stalled
// write-ahead log is not seen.
func Diagnose(ctx context.Context, addr string, t Transport) Finding {
	f, _ := diagnose(ctx, func(ctx context.Context) (link, error) { return Dial(ctx, addr, t) })
	return f
}

// diagnose is diagnose of one of the pool's. Where a new connection is not answered and one from before is, no thread is
// left, and the gateway goes on with the connections that it has.
func (p *Pool) diagnose(ctx context.Context, h *host) (Finding, error) {
	f, err := diagnose(ctx, func(ctx context.Context) (link, error) { return p.dial(ctx, h.addr) })
	if f.Condition != Silent {
		return f, err
	}
	p.mu.Lock()
	n := len(h.idle)
	if n == 0 {
		p.mu.Unlock()
		return f, err
	}
	l := h.idle[n-1]
	h.idle = h.idle[:n-1]
	p.mu.Unlock()
	old, alive := bounded(ctx, aliveTimeout, l.Alive)
	p.mu.Lock()
	defer p.unlock()
	if alive != nil || h.gone || p.closed {
		p.doomed = append(p.doomed, l)
		return f, err
	}
	h.idle = append(h.idle, l)
	p.fullLocked(h, time.Now())
	return Finding{Old: old, Took: f.Took}, nil
}

func (p *Pool) fullLocked(h *host, now time.Time) {
	if h.full.IsZero() {
		p.log.Warn("gateway has no thread for another connection", "gateway", h.addr)
	}
	h.full = now.Add(p.jitter(fullFor))
}

// diagnose gives an error with every finding that is not sound.
func diagnose(ctx context.Context, dial func(context.Context) (link, error)) (f Finding, err error) {
	start := time.Now()
	defer func() {
		f.Took = time.Since(start)
		if err != nil {
			f.Reason = reasonOf(err)
		}
	}()
	l, err := bounded(ctx, aliveTimeout, func(ctx context.Context) (link, error) { return dial(ctx) })
	if err != nil {
		f.Condition = Dead
		return f, err
	}
	defer l.Close()
	f.Old, err = bounded(ctx, aliveTimeout, l.Alive)
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		f.Condition = Silent
		return f, fmt.Errorf("accepts connections and answers none in %s: it is frozen, all its threads are taken, or it wants another framing", aliveTimeout)
	case isProtocol(err):
		f.Condition = WrongProtocol
		return f, err
	default:
		f.Condition = Dead
		return f, err
	}
	_, err = bounded(ctx, reachTimeout, func(ctx context.Context) (struct{}, error) { return struct{}{}, l.Reach(ctx) })
	switch kind, _ := Classify(err); {
	case err == nil:
	case errors.Is(err, ErrUnknownMethod), isProtocol(err):
		f.Condition = WrongProtocol
		return f, err
	case errors.Is(err, context.DeadlineExceeded):
		f.Condition = Blocked
		return f, fmt.Errorf("answers, and does not reach HBase in %s", reachTimeout)
	case kind == Elsewhere || kind == Again:
		f.Condition = Blocked
		return f, err
	default:
		err = nil // HBase said something, if only that this may not be read
	}
	return f, nil
}

// isProtocol tells of an answer that no Thrift2 gateway gives to a client of the same settings.
func isProtocol(err error) bool {
	if errors.Is(err, errGarbage) {
		return true
	}
	e, ok := errors.AsType[thrift.TProtocolException](err)
	return ok && (e.TypeId() == thrift.BAD_VERSION || e.TypeId() == thrift.INVALID_DATA || e.TypeId() == thrift.SIZE_LIMIT)
}

func bounded[T any](ctx context.Context, d time.Duration, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	v, err := f(ctx)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return v, err
}

// Alive asks what the gateway answers by itself. old tells that it does not know the question, as before HBase 2.
func (c *Conn) Alive(ctx context.Context) (old bool, err error) {
	err = c.Call(ctx, func(ctx context.Context, client *thrift2.THBaseServiceClient) error {
		t, err := client.GetThriftServerType(ctx)
		if err == nil && t != thrift2.TThriftServerType_TWO {
			return garbage("a Thrift1 server, and Thrift2 is needed: start the gateway as thrift2")
		}
		return err
	})
	if errors.Is(err, ErrUnknownMethod) {
		return true, nil
	}
	return false, err
}

// Reach makes the gateway ask HBase something small.
func (c *Conn) Reach(ctx context.Context) error {
	return c.Call(ctx, func(ctx context.Context, client *thrift2.THBaseServiceClient) error {
		_, err := client.Exists(ctx, []byte("hbase:meta"), &thrift2.TGet{Row: []byte("x")})
		return err
	})
}
