package discovery

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

func TestStaticGivesItsSetOnceAndEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := Static{"10.0.0.1:9090", "10.0.0.2:9090"}
		var got [][]string
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx, func(addrs []string) { got = append(got, addrs) }) }()

		synctest.Wait()
		if len(got) != 1 || !slices.Equal(got[0], s) {
			t.Fatalf("updates are %v, want one with %v", got, s)
		}
		got[0][0] = "changed by its owner"
		if s[0] != "10.0.0.1:9090" {
			t.Error("update was given the set itself and not a copy of it")
		}
		select {
		case err := <-ended:
			t.Fatalf("Run returned %v before its context ended", err)
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v at the end of its context, want nil", err)
		}
		if len(got) != 1 {
			t.Errorf("%d updates, want 1", len(got))
		}
	})
}

func TestStaticWithoutGatewaysIsAnError(t *testing.T) {
	err := Static(nil).Run(t.Context(), func([]string) { t.Error("update was called with no gateway") })
	if err == nil {
		t.Error("no error for a set of nobody")
	}
}
