package proxy

import (
	"encoding/binary"
	"net"
	"time"
)

// What a proxy understands of calls: the first bytes of each, in Thrift's unframed binary protocol. A client sends nothing
// between a call and its answer, so a call starts with the first bytes after an answer, and an answer with the first bytes
// after a call. A stream of anything else passes too, as calls without a method.

// Call is what the first bytes of a call tell.
type Call struct {
	Method string
	Rows   int    // of a putMultiple
	Key    []byte // of its first row; not to be changed
}

// ThrottleRows bounds the rows of putMultiple calls to this many a second over all connections together: calls are taken
// one after the other, as by a server of this capacity. 0 lifts the bound.
func (p *Proxy) ThrottleRows(perSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rowRate = perSecond
}

// HoldCalls lets no call of this method pass, while others do, until it is called with "".
func (p *Proxy) HoldCalls(method string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heldMethod = method
	if p.heldCalls != nil {
		close(p.heldCalls)
	}
	p.heldCalls = make(chan struct{})
}

// Garble passes other bytes in the place of those of answers, as many.
func (p *Proxy) Garble(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.garble = on
}

// Truncate passes this many bytes of each answer and then closes the connection, properly. 0 ends it.
func (p *Proxy) Truncate(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.truncate = n
}

// Retarget passes new connections on to another server. Reset ends those there are.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// OnAcknowledged has f called with every putMultiple that the server answered without an error, when the answer passes. f
// must not call the proxy.
func (p *Proxy) OnAcknowledged(f func(Call)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acknowledged = f
}

// OnCall has f called with every call that a client begins, as it comes, and with the port that it comes from. f must not call the proxy.
func (p *Proxy) OnCall(f func(port int, c Call)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began = f
}

// catchUp is how much of what a throttle did not use, because timers are late, may be used afterwards.
const catchUp = 50 * time.Millisecond

// begin looks at bytes on their way up, and holds back a call that starts with them. It tells whether the link goes on.
func (p *Proxy) begin(l *link, data []byte) bool {
	l.mu.Lock()
	first := !l.calling
	if first {
		l.calling, l.call = true, parseCall(data)
	}
	c := l.call
	l.mu.Unlock()
	if !first {
		return true
	}
	p.mu.Lock()
	p.counts.Calls++
	if c.Rows > 0 {
		p.counts.Puts++
	}
	perSecond, f := p.rowRate, p.began
	p.mu.Unlock()
	if f != nil {
		f(l.client.RemoteAddr().(*net.TCPAddr).Port, c)
	}
	if c.Rows > 0 && perSecond > 0 && !p.take(l, time.Duration(c.Rows)*time.Second/time.Duration(perSecond)) {
		return false
	}
	p.mu.Lock()
	for c.Method != "" && p.heldMethod == c.Method {
		changed := p.heldCalls
		p.counts.HeldCalls++
		p.mu.Unlock()
		select {
		case <-changed:
		case <-l.ctx.Done():
			return false
		}
		p.mu.Lock()
	}
	p.mu.Unlock()
	return true
}

// take waits for its turn and then for as long as the work takes.
func (p *Proxy) take(l *link, work time.Duration) bool {
	select {
	case p.turn <- struct{}{}:
	case <-l.ctx.Done():
		return false
	}
	defer func() { <-p.turn }()
	now := time.Now()
	if earliest := now.Add(-catchUp); p.free.Before(earliest) {
		p.free = earliest
	}
	p.free = p.free.Add(work)
	t := time.NewTimer(p.free.Sub(now))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.ctx.Done():
		p.free = time.Now()
		return false
	}
}

// answer looks at bytes on their way down: it says which of them pass, and whether the link ends with them.
func (p *Proxy) answer(l *link, data []byte) (_ []byte, end bool) {
	l.mu.Lock()
	first, c := l.calling, l.call
	if first {
		l.calling, l.passed = false, 0
	}
	before := l.passed
	l.passed += len(data)
	l.mu.Unlock()

	p.mu.Lock()
	garble, truncate, f := p.garble, p.truncate, p.acknowledged
	switch {
	case garble:
		p.counts.Garbled++
	case truncate > 0 && before+len(data) > truncate:
		p.counts.Truncated++
	case first && c.Rows > 0 && acknowledges(data):
		p.counts.Rows += int64(c.Rows)
		p.counts.Acknowledged++
	default:
		f = nil
	}
	p.mu.Unlock()
	switch {
	case garble:
		for i := range data {
			data[i] = byte(i)*7 + 0x47
		}
	case truncate > 0 && before+len(data) > truncate:
		return data[:max(0, truncate-before)], true
	case f != nil:
		f(c)
	}
	return data, false
}

const (
	version    = 0x80010000
	typeCall   = 1
	typeReply  = 2
	typeString = 11
	typeStruct = 12
	typeList   = 15
)

// reader takes values off the front of a message; ok is false once it was too short or something else.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) bytes(n int) []byte {
	if !r.ok || n < 0 || n > len(r.b) {
		r.ok = false
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) number() int {
	v := r.bytes(4)
	if v == nil {
		return 0
	}
	return int(int32(binary.BigEndian.Uint32(v)))
}

// field reads the head of a field, which must be this one.
func (r *reader) field(typ byte, id uint16) {
	v := r.bytes(3)
	r.ok = r.ok && v[0] == typ && binary.BigEndian.Uint16(v[1:]) == id
}

// header reads a message's, and gives its method.
func (r *reader) header(typ int) string {
	v := uint32(r.number())
	r.ok = r.ok && v == version|uint32(typ)
	name := r.bytes(r.number())
	r.number() // sequence
	return string(name)
}

func parseCall(b []byte) (c Call) {
	r := reader{b, true}
	name := r.header(typeCall)
	if !r.ok {
		return c
	}
	c.Method = name
	if name != "putMultiple" {
		return c
	}
	r.field(typeString, 1) // the table
	r.bytes(r.number())
	r.field(typeList, 2)
	elem := r.bytes(1)
	rows := r.number()
	if !r.ok || elem[0] != typeStruct {
		return c
	}
	r.field(typeString, 1) // the first row's key
	key := r.bytes(r.number())
	c.Rows = rows
	if r.ok {
		c.Key = append([]byte(nil), key...)
	}
	return c
}

// acknowledges tells whether an answer to putMultiple is one without an error: a reply with nothing in it.
func acknowledges(b []byte) bool {
	r := reader{b, true}
	r.header(typeReply)
	stop := r.bytes(1)
	return r.ok && stop[0] == 0
}
