package runner

import (
	"errors"
	"fmt"
	"time"

	"drover/checkpoints"
)

// State is where a run stands, in the words of the JSON output.
type State string

// The states of a run.
const (
	Done        State = "done"         // everything settled, nothing dead
	Partial     State = "partial"      // a limited or dry run came to its end
	DeadLetters State = "dead_letters" // everything settled, some of it dead
	Failed      State = "failed"       // needs a person
	Running     State = "running"      // another process holds the job
	Stopped     State = "stopped"      // resumable as it is
)

// Exit codes. 2 is never used: it is what a Go panic gives.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitDeadLetters = 3
	ExitDifferences = 4
	ExitRunning     = 5
	ExitStopped     = 6
	ExitUsage       = 64
)

// TableBooks are the books of one target table.
type TableBooks struct {
	Table      string `json:"table"`
	Collection string `json:"collection,omitempty"`
	checkpoints.Counts
}

// Result is what a run came to, over all its resumes unless said otherwise.
type Result struct {
	Job   string `json:"job"`
	Run   string `json:"run"`
	State State  `json:"state"`
	checkpoints.Counts
	Resumed        int          `json:"resumed"`
	Shards         int          `json:"shards"`
	Calls          int64        `json:"calls"`           // to gateways, for batches and their parts
	Retries        int64        `json:"retries"`         // calls that were not acknowledged, so that their rows went again
	LimitedSeconds float64      `json:"limited_seconds"` // on the clock: while the limits held anything back
	SlowedSeconds  float64      `json:"slowed_seconds"`  // on the clock: while busy answers of HBase held anything back
	Seconds        float64      `json:"seconds"`         // of this process
	PeakRSSBytes   int64        `json:"peak_rss_bytes"`  // of this process
	Timestamp      int64        `json:"timestamp"`       // the plan's, milliseconds
	Tables         []TableBooks `json:"tables"`
	Reason         string       `json:"reason,omitempty"` // why it is not done, and what to do
	DryRun         bool         `json:"dry_run,omitempty"`
	Again          bool         `json:"again,omitempty"` // these are the books of a run that was done before; nothing moved
	Signal         string       `json:"signal,omitempty"`

	Err error `json:"-"`
}

// ExitCode gives the process's exit code for a result that no signal ended.
func (r Result) ExitCode() int {
	switch r.State {
	case Done:
		return ExitDone
	case Partial:
		if r.Dead > 0 {
			return ExitDeadLetters
		}
		return ExitDone
	case DeadLetters:
		return ExitDeadLetters
	case Running:
		return ExitRunning
	case Stopped:
		return ExitStopped
	default:
		return ExitFailed
	}
}

// StopError ends a run that can be resumed as it is, or after what Reason asks for.
type StopError struct {
	Reason string
	Err    error
}

func (e *StopError) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Err.Error()
}

func (e *StopError) Unwrap() error { return e.Err }

// RefusedError says that a run may not go on, or start, as it is asked for: a person has to decide.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// BooksError says that documents are unaccounted for. It is a defect of drover, and the run must not be called done.
type BooksError struct {
	Shard  int
	Read   int64
	Counts checkpoints.Counts
}

func (e *BooksError) Error() string {
	return fmt.Sprintf("the books of shard %d do not close: read %d, written %d, filtered %d, dead %d; nothing is lost at the source, please report this",
		e.Shard, e.Read, e.Counts.Written, e.Counts.Filtered, e.Counts.Dead)
}

// errDrained ends a shard that was asked to stop and has saved what it settled.
var errDrained = errors.New("stopped")

func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond)) / float64(time.Second)
}
