// Package crashpoint kills the process at named steps, so that tests can ask of each: killed here, what does the next run
// do? It does nothing unless Arm was given a point, which only cmd does, from the environment.
package crashpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// The steps of a run, in the order a document meets them.
const (
	Planned    = "planned"            // the plan is durable, no table was touched
	Created    = "table-created"      // the table is there
	Sent       = "sent"               // a batch's last byte is written to a gateway
	Acked      = "acked"              // a batch is acknowledged, nothing is recorded yet
	Letter     = "letter-synced"      // dead letters are durable, the mark is not
	Written    = "checkpoint-written" // the new checkpoint's bytes are in its temporary file
	Renamed    = "checkpoint-renamed" // it has its name, the folder is not synced
	Synced     = "checkpoint-synced"  // it is durable
	BooksClose = "done"               // every shard is settled and saved, the run is not yet marked done
	MarkedDone = "marked-done"        // the run is marked done
)

// Points lists every step, for tests that go through them all.
var Points = []string{Planned, Created, Sent, Acked, Letter, Written, Renamed, Synced, BooksClose, MarkedDone}

type armed struct {
	point string
	left  atomic.Int64
}

var current atomic.Pointer[armed]

// Arm makes the nth passing of a point kill the process with SIGKILL; spec is "point" or "point:n". "" disarms.
func Arm(spec string) error {
	if spec == "" {
		current.Store(nil)
		return nil
	}
	name, count, found := strings.Cut(spec, ":")
	n := int64(1)
	if found {
		var err error
		if n, err = strconv.ParseInt(count, 10, 64); err != nil || n < 1 {
			return fmt.Errorf("crash point %q: the count after ':' must be a number from 1", spec)
		}
	}
	for _, p := range Points {
		if p == name {
			a := &armed{point: name}
			a.left.Store(n)
			current.Store(a)
			return nil
		}
	}
	return fmt.Errorf("crash point %q: unknown, want one of %s", name, strings.Join(Points, ", "))
}

// Pass marks that the process passes a step.
func Pass(point string) {
	a := current.Load()
	if a == nil || a.point != point || a.left.Add(-1) != 0 {
		return
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way: nothing after this step may happen
}
