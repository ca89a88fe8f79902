package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drover/zookeeper"
)

// Say sets ok in a node by hand, as a person would: an agent takes it for somebody else's, and a false one stands until
// somebody takes it back. It tells what the node says then. reason, unless it is "", is put beside a false ok, and taken away from
// beside a true one.
func Say(ctx context.Context, z Nodes, path string, ok bool, reason string) (string, error) {
	for {
		raw, stat, err := z.Get(ctx, path)
		if errors.Is(err, zookeeper.ErrNoNode) {
			return "", fmt.Errorf("there is no node %s: correct --node or --path", path)
		}
		if err != nil {
			return "", err
		}
		text, err := rewrite(raw, ok, reason)
		if err != nil {
			return "", fmt.Errorf("the node %s has the data %.60q, in which ok cannot be set: %w", path, raw, err)
		}
		// Written even if it says so already, for then an agent did, which would take it back.
		_, err = z.Set(ctx, path, text, stat.Version)
		switch {
		case err == nil:
			return string(text), nil
		case errors.Is(err, zookeeper.ErrUnknown) && !errors.Is(err, zookeeper.ErrSessionLost):
			if err := z.Sync(ctx, path); err != nil {
				return "", err
			}
		case !errors.Is(err, zookeeper.ErrBadVersion):
			return "", err
		}
	}
}

// Emptied waits until the gateway's metrics tell of no connection, in a reading that is newer than this call. false is that ctx
// ended before, as it always does where metrics is nil.
func Emptied(ctx context.Context, metrics func(context.Context) (Metrics, error)) bool {
	if !sleep(ctx, metricsAge) {
		return false
	}
	for metrics != nil {
		if m, err := metrics(ctx); err == nil && m.Workers == 0 {
			return true
		}
		if !sleep(ctx, time.Second) {
			return false
		}
	}
	<-ctx.Done()
	return false
}
