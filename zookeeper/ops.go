package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

// AnyVersion, as a version, is whichever the node has.
const AnyVersion = -1

// maxRequest is what servers take unless told otherwise, in bytes. One that gets more cuts the connection.
const maxRequest = 0xfffff

// Stat is what the ensemble knows of a node beside its data.
type Stat = zk.Stat

// Flag says what kind of node to create.
type Flag int32

// Ephemeral nodes go with the session that created them, whose ID is their Stat.EphemeralOwner.
const Ephemeral Flag = zk.FlagEphemeral

// Bound has the client's calls, for one session only.
type Bound struct{ ops }

// In gives the calls that fail with ErrSessionLost once s is not the present session any more. What is decided under a
// session is written with In, so that it cannot take effect under the next.
func (c *Client) In(s Session) *Bound {
	if s.N == 0 {
		s.N = -1 // no session: it never was and never will be
	}
	return &Bound{ops{c: c, n: s.N}}
}

// ops are the calls. Each belongs to one session, at the latest from when it is made and there is one, and never reaches
// the servers under another. It ends with its context, and after the session timeout at the latest; while there is no
// connection it waits so long for one. Reading, Sync and CreateAll are repeated within that time when a connection breaks.
type ops struct {
	c *Client
	n int // the session's number; 0 is whichever there is
}

// Get reads a node.
func (o ops) Get(ctx context.Context, path string) ([]byte, Stat, error) {
	r, err := call(ctx, o, "get "+path, true, func(z *zk.Conn) (r reply, err error) {
		data, stat, err := z.Get(path)
		return reply{data: data, stat: fill(stat)}, err
	})
	return r.data, r.stat, err
}

// Exists tells whether there is a node, and what is known of it.
func (o ops) Exists(ctx context.Context, path string) (bool, Stat, error) {
	r, err := call(ctx, o, "look for "+path, true, func(z *zk.Conn) (reply, error) {
		exists, stat, err := z.Exists(path)
		if !exists {
			stat = nil
		}
		return reply{exists: exists, stat: fill(stat)}, err
	})
	return r.exists, r.stat, err
}

// Children lists the names of a node's children, in no order.
func (o ops) Children(ctx context.Context, path string) ([]string, Stat, error) {
	r, err := call(ctx, o, "list "+path, true, func(z *zk.Conn) (reply, error) {
		names, stat, err := z.Children(path)
		return reply{children: names, stat: fill(stat)}, err
	})
	return r.children, r.stat, err
}

// Create makes a node whose parent exists.
func (o ops) Create(ctx context.Context, path string, data []byte, flags ...Flag) error {
	op := CreateOp(path, data, flags...)
	if err := o.fits("create "+path, op); err != nil {
		return err
	}
	r := op.request(o.c.config.ACL).(*zk.CreateRequest)
	_, err := call(ctx, o, "create "+path, false, func(z *zk.Conn) (string, error) {
		return z.Create(r.Path, r.Data, r.Flags, r.Acl)
	})
	return err
}

// CreateAll makes a persistent node without data, and those above it, unless they exist.
func (o ops) CreateAll(ctx context.Context, path string) error {
	if path == "/" {
		return nil
	}
	create := func() error {
		_, err := call(ctx, o, "create "+path, true, func(z *zk.Conn) (string, error) {
			return z.Create(path, []byte{}, 0, o.c.config.ACL)
		})
		if errors.Is(err, ErrNodeExists) {
			return nil
		}
		return err
	}
	err := create()
	if !errors.Is(err, ErrNoNode) {
		return err
	}
	if err := o.CreateAll(ctx, path[:max(strings.LastIndexByte(path, '/'), 1)]); err != nil {
		return err
	}
	return create()
}

// Set writes a node that has this version, and gives what is known of it after.
func (o ops) Set(ctx context.Context, path string, data []byte, version int32) (Stat, error) {
	if err := o.fits("set "+path, SetOp(path, data, version)); err != nil {
		return Stat{}, err
	}
	return call(ctx, o, "set "+path, false, func(z *zk.Conn) (Stat, error) {
		stat, err := z.Set(path, data, version)
		return fill(stat), err
	})
}

// Delete removes a node that has this version and no children.
func (o ops) Delete(ctx context.Context, path string, version int32) error {
	_, err := call(ctx, o, "delete "+path, false, func(z *zk.Conn) (struct{}, error) {
		return struct{}{}, z.Delete(path, version)
	})
	return err
}

// Sync waits until the server that this client is connected to has all that was written before, by whomever. Reads after
// it see that.
func (o ops) Sync(ctx context.Context, path string) error {
	_, err := call(ctx, o, "sync "+path, true, func(z *zk.Conn) (string, error) { return z.Sync(path) })
	return err
}

// Op is one operation of a Multi.
type Op struct {
	kind    string // "create", "set", "delete", "check"
	path    string
	data    []byte
	version int32
	flags   Flag
}

// Check is the condition that a node has this version.
func Check(path string, version int32) Op { return Op{kind: "check", path: path, version: version} }

// SetOp is Set.
func SetOp(path string, data []byte, version int32) Op {
	return Op{kind: "set", path: path, data: data, version: version}
}

// DeleteOp is Delete.
func DeleteOp(path string, version int32) Op {
	return Op{kind: "delete", path: path, version: version}
}

// CreateOp is Create.
func CreateOp(path string, data []byte, flags ...Flag) Op {
	op := Op{kind: "create", path: path, data: data}
	for _, f := range flags {
		op.flags |= f
	}
	return op
}

func (op Op) String() string {
	switch op.kind {
	case "create":
		return "create " + op.path
	case "":
		return "no operation"
	default:
		return fmt.Sprintf("%s %s at version %d", op.kind, op.path, op.version)
	}
}

func (op Op) request(acl []ACL) any {
	switch op.kind {
	case "create":
		data := op.data
		if data == nil {
			data = []byte{} // no data at all is a thing of its own to some clients
		}
		return &zk.CreateRequest{Path: op.path, Data: data, Acl: acl, Flags: int32(op.flags)}
	case "set":
		return &zk.SetDataRequest{Path: op.path, Data: op.data, Version: op.version}
	case "delete":
		return &zk.DeleteRequest{Path: op.path, Version: op.version}
	case "check":
		return &zk.CheckVersionRequest{Path: op.path, Version: op.version}
	}
	return nil
}

// Result is what became of one operation.
type Result struct {
	Stat Stat  // of a set
	Err  error // of the operation; nil when the multi succeeded
}

// Multi does all operations or none, in order and at once. When one cannot be done, the error is an OpError that names the
// first such one, and the results say the same of each.
func (o ops) Multi(ctx context.Context, list ...Op) ([]Result, error) {
	what := "write " + describe(list)
	if err := o.fits(what, list...); err != nil {
		return nil, err
	}
	requests := make([]any, len(list))
	for i, op := range list {
		if requests[i] = op.request(o.c.config.ACL); requests[i] == nil {
			return nil, fmt.Errorf("%s: operation %d is none", what, i)
		}
	}
	answers, err := call(ctx, o, what, false, func(z *zk.Conn) ([]zk.MultiResponse, error) {
		answers, err := z.Multi(requests...)
		if len(answers) == len(list) {
			err = nil // each answer has its own
		}
		return answers, err
	})
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(list))
	failed := -1
	for i, a := range answers {
		if a.Stat != nil {
			results[i].Stat = *a.Stat
		}
		if a.Error != nil && failed < 0 {
			failed = i
		}
	}
	if failed < 0 {
		return results, nil
	}
	for i := range results {
		results[i].Err = ErrRolledBack
	}
	// The first error is the cause: those behind it were not tried.
	cause, known := meaning(answers[failed].Error)
	if !known {
		cause = answers[failed].Error
	}
	results[failed].Err = cause
	return results, fmt.Errorf("%s: %w", what, &OpError{Index: failed, Op: list[failed], Err: cause})
}

// describe names a list of operations for errors, shortly.
func describe(list []Op) string {
	if len(list) == 0 {
		return "nothing"
	}
	text := list[0].path
	for _, op := range list[1:] {
		if len(text) > 200 {
			return fmt.Sprintf("%s and others (%d operations)", text, len(list))
		}
		text += ", " + op.path
	}
	return text
}

// fits tells whether operations are small enough to be sent: in a little more than they take.
func (o ops) fits(what string, list ...Op) error {
	acl := 0
	for _, a := range o.c.config.ACL {
		acl += 12 + len(a.Scheme) + len(a.ID)
	}
	size := 64
	for _, op := range list {
		size += 64 + acl + len(op.path) + len(op.data)
	}
	if size > maxRequest {
		return fmt.Errorf("%s: %d bytes: %w", what, size, ErrTooLarge)
	}
	return nil
}

// reply is what any reading call gives.
type reply struct {
	exists   bool
	data     []byte
	children []string
	stat     Stat
}

func fill(s *zk.Stat) Stat {
	if s == nil {
		return Stat{}
	}
	return *s
}

// call makes a call of the library's under o's session. Only one that again says may be repeated is, when its answer is lost.
func call[T any](ctx context.Context, o ops, what string, again bool, f func(*zk.Conn) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, o.c.config.SessionTimeout)
	defer cancel()
	var none T
	for {
		l, err := o.acquire(ctx)
		if err != nil {
			return none, fmt.Errorf("%s: %w", what, err)
		}
		o.n = l.session.N
		value, err := run(ctx, l, f)
		if err == nil {
			return value, nil
		}
		if again && errors.Is(err, ErrUnknown) {
			// What may be repeated leaves nothing unknown.
			if errors.Is(err, ErrSessionLost) {
				err = ErrSessionLost
			} else if errors.Is(err, ErrClosed) {
				err = ErrClosed
			} else {
				select {
				case <-time.After(20*time.Millisecond + rand.N(30*time.Millisecond)):
					continue
				case <-ctx.Done():
					err = o.c.notConnected(ctx)
				}
			}
		}
		return none, fmt.Errorf("%s: %w", what, err)
	}
}

// acquire waits for the connection of o's session, and counts a call in.
func (o ops) acquire(ctx context.Context) (*link, error) {
	c := o.c
	for {
		c.mu.Lock()
		l, closed, state, changed := c.link, c.closed, c.state, c.changed
		switch {
		case closed:
			c.mu.Unlock()
			return nil, ErrClosed
		case o.n == 0 && !l.dead && l.session.N != 0:
			o.n = l.session.N
		case o.n != 0 && (o.n != l.session.N || l.dead):
			c.mu.Unlock()
			return nil, ErrSessionLost
		}
		if state == Connected && !l.dead {
			select {
			case l.calls <- struct{}{}:
				c.wg.Add(1)
				c.mu.Unlock()
				return l, nil
			default:
			}
		}
		c.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return nil, c.notConnected(ctx)
		}
		if state == Connected {
			// Every place is taken by a call under way.
			select {
			case l.calls <- struct{}{}:
				<-l.calls
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// run makes a call that acquire counted in. It ends with ctx and with the link, whatever the library does; the library's
// call ends with the link, or when its connection breaks.
func run[T any](ctx context.Context, l *link, f func(*zk.Conn) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	go func() { // counted in Client.wg
		defer l.c.wg.Done()
		defer func() { <-l.calls }()
		value, err := f(l.conn)
		answered <- answer{value, err}
	}()
	var none T
	select {
	case a := <-answered:
		if a.err == nil {
			return a.value, nil
		}
		return none, l.meaning(a.err)
	case <-ctx.Done():
		return none, fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
	case <-l.over:
		return none, l.meaning(zk.ErrConnectionClosed)
	}
}

// meaning turns an error of the library's into one of ours.
func (l *link) meaning(err error) error {
	if ours, known := meaning(err); known {
		return ours
	}
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	over := ErrSessionLost
	if c.closed {
		over = ErrClosed
	}
	switch {
	case errors.Is(err, zk.ErrNoServer): // it was still queued when the link ended
		return over
	case c.closed || l.dead:
		return fmt.Errorf("%w: %w", over, ErrUnknown)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
