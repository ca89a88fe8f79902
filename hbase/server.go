package hbase

import (
	"context"
	"time"
)

type serverKey struct{}

// ForServer gives the context for an Apply whose rows are all for one region server. While that one answers through no gateway and
// others do, it is no gateway's fault. Names are host:port.
func ForServer(ctx context.Context, name string) context.Context {
	if name == "" {
		return ctx
	}
	return context.WithValue(ctx, serverKey{}, name)
}

// server is how a region server answers, through whichever gateways. nil is one that nobody named. The pool's mutex guards it.
type server struct {
	calls    int       // in flight
	owes     time.Time // since when there have been some
	answered time.Time // the last success
	resumed  time.Time // when it answered again after it had owed something for long
}

// serverGap is for how long a server must have owed an answer to be thought to have been away.
const serverGap = shortestTimeout / 2

func (l *lane) serverLocked(ctx context.Context) *server {
	name, _ := ctx.Value(serverKey{}).(string)
	if name == "" {
		return nil
	}
	s := l.servers[name]
	if s == nil {
		s = &server{}
		l.servers[name] = s
	}
	return s
}

func (s *server) begins(now time.Time) {
	if s == nil {
		return
	}
	if s.calls == 0 {
		s.owes = now
	}
	s.calls++
}

func (s *server) ends(now time.Time, well bool) {
	if s == nil {
		return
	}
	s.calls--
	if !well {
		return
	}
	from := s.owes
	if s.answered.After(from) {
		from = s.answered
	}
	if now.Sub(from) > serverGap {
		s.resumed = now
	}
	s.answered = now
}

// steady tells whether the server answered others all the time since a call began, lastly after half of it; or may have.
func (s *server) steady(began, half time.Time) bool {
	return s == nil || s.answered.After(half) && !s.resumed.After(began)
}

// doubtMost is how many times in a row a gateway that owes answers is asked whether it lives, before it is not believed any more.
const doubtMost = 3

// doubtLocked has a gateway asked whether it lives, that owes an answer to a call since start, and a region server may owe it that.
// false says that it has been asked often enough.
func (l *lane) doubtLocked(g *gateway, now, start time.Time) bool {
	p := l.pool
	if g.asked || !start.After(g.doubted) {
		return true
	}
	if g.state != healthy || g.doubts == doubtMost || p.closed {
		return false
	}
	g.asked, g.doubted = true, now
	g.doubts++
	p.wg.Go(func() {
		f, err := p.diagnose(p.root, g.host)
		p.mu.Lock()
		defer p.unlock()
		g.asked = false
		// What it does not reach may be what it waits for.
		if err != nil && f.Condition != Blocked && g.state == healthy && p.root.Err() == nil {
			l.setAsideLocked(g, time.Now(), now, f.Condition.silent(), err)
			l.dispatchLocked(time.Now())
		}
	})
	return true
}
