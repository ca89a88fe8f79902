package hbase

import (
	"context"
	"errors"
)

// Right is what an Apply may send only as long as it holds, such as the lease of a shard that several processes could work on.
type Right struct {
	// Until ends when the right is gone, with the cause that Apply then returns. Calls under way are waited for all the same.
	Until context.Context

	// Sure returns nil at once while it is sure that the right holds, waits while it is not, and fails with ctx's error or when
	// the right is gone. It is asked before every attempt, and again when the connection is at hand.
	Sure func(ctx context.Context) error
}

type rightKey struct{}

// WithRight gives the context for what is sent under a right.
func WithRight(ctx context.Context, r *Right) context.Context {
	return context.WithValue(ctx, rightKey{}, r)
}

// errUnsure cuts a call before anything of it was sent.
var errUnsure = errors.New("it is not sure any more that the right holds")

// past is a context that has ended: Sure does not wait with it.
var past = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// valued is a context with the values of another beside its own: a Pacer goes by those of an Apply's.
type valued struct {
	context.Context
	more context.Context
}

func (v valued) Value(key any) any {
	if x := v.Context.Value(key); x != nil { // before, for package context looks for what ends it here
		return x
	}
	return v.more.Value(key)
}

// holding gives the context for all that waits without anything being sent: it ends with ctx and with the right.
func holding(ctx context.Context) (r *Right, wait context.Context, stop func()) {
	r, _ = ctx.Value(rightKey{}).(*Right)
	if r == nil {
		return nil, ctx, func() {}
	}
	wait, cancel := context.WithCancelCause(valued{r.Until, ctx})
	unhook := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	return r, wait, func() {
		unhook()
		cancel(nil)
	}
}

// guarded makes one call through the gateway that suits it, as once does, if the right holds at that instant. What it carried is in
// the answer.
func (a *apply) guarded(w *waiter, rows, bytes, slow int, do func(context.Context, link) error) (ans answer, err error) {
	g, err := a.p.acquire(a.wait, w)
	if err != nil {
		return answer{}, err
	}
	if w.shrink != nil && a.p.tries(g) {
		rows, bytes = w.shrink()
	}
	defer func() { ans.rows, ans.bytes = rows, bytes }()
	units := work(rows, bytes)
	if a.right == nil {
		return a.p.through(a.ctx, g, units, slow, do)
	}
	ctx, cancel := context.WithCancelCause(a.ctx)
	defer cancel(nil)
	return a.p.through(ctx, g, units, slow, func(ctx context.Context, l link) error {
		if a.right.Sure(past) != nil {
			cancel(errUnsure)
			return errUnsure
		}
		return do(ctx, l)
	})
}
