package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
)

var shared struct {
	mu    sync.Mutex
	tried bool
	stack *Stack
	err   error
}

// Shared gives the one stack of this test process, started on first use, with every server running: what an earlier test
// killed or stopped is brought back. So a test that harms servers must not run in parallel with others. TestMain calls
// CloseShared.
//
// DROVER_STACK_DIR names an empty folder in which its logs and data stay after the tests. Without Java or Maven the test is skipped, except where CI=true: there a missing stack is a failure.
func Shared(t testing.TB) *Stack {
	t.Helper()
	if testing.Short() {
		t.Skip("starting HBase takes half a minute: not with -short")
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.tried {
		shared.tried = true
		var log bytes.Buffer
		shared.stack, shared.err = Start(context.Background(), Options{Dir: os.Getenv("DROVER_STACK_DIR"), Log: &log})
		t.Logf("%s", bytes.TrimSpace(log.Bytes()))
	}
	if errors.Is(shared.err, ErrNoTools) && os.Getenv("CI") != "true" {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	if err := shared.stack.Mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	return shared.stack
}

// CloseShared ends the shared stack, if there is one.
func CloseShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.stack == nil {
		return nil
	}
	return shared.stack.Close()
}

// Mend lets stopped servers go on and starts dead ones again, AddGateway's excepted. It returns when those that it started
// serve.
func (s *Stack) Mend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// In the order in which they need each other.
	servers := append([]*Process{s.Quorum, s.Master}, s.RegionServers...)
	var dead []*Process
	for _, p := range append(servers, s.Gateways...) {
		if !p.Alive() {
			dead = append(dead, p)
		} else if err := p.Cont(); err != nil {
			return fmt.Errorf("mend stack: %w", err)
		}
	}
	for _, p := range dead {
		if err := p.Restart(ctx); err != nil {
			return fmt.Errorf("mend stack: %w", err)
		}
	}
	return nil
}
