package hbase

import (
	"context"
	"errors"
	"testing"
)

// What waits under a right ends with either, and is paced by what the caller's context says of it.
func TestWaitingUnderARight(t *testing.T) {
	type key struct{}
	gone := errors.New("the right is gone")
	for name, end := range map[string]func(right, caller context.CancelCauseFunc){
		"the right ends":  func(right, _ context.CancelCauseFunc) { right(gone) },
		"the caller ends": func(_, caller context.CancelCauseFunc) { caller(gone) },
	} {
		t.Run(name, func(t *testing.T) {
			until, right := context.WithCancelCause(t.Context())
			ctx, caller := context.WithCancelCause(context.WithValue(t.Context(), key{}, "server 3"))
			_, wait, stop := holding(WithRight(ctx, &Right{Until: until}))
			defer stop()
			if v := wait.Value(key{}); v != "server 3" {
				t.Errorf("it waits with the value %v", v)
			}
			end(right, caller)
			<-wait.Done()
			if err := context.Cause(wait); !errors.Is(err, gone) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
