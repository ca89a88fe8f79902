// Package share divides what a table may take among the workers of a pool, and spends a worker's part of it exactly.
//
//   - A budget is a limit of rows and bytes a second for one kind of work (puts, scans) on one table, or on a namespace.
//   - A part is a fraction of a budget's limit, whatever the limit is at the moment: cutting, raising and pausing need nobody who divides.
//   - A grant is a worker's right to a part. Its newest grant is in force, and ends all older ones as soon as the worker has taken it up.
//   - A want is what a worker could use.
//   - A ticket is a batch that waits to be paid for.
//
// The leader has a [Ledger] for each budget. It knows which grants may still be in force somewhere, lets their sum never exceed 1, and so
// shrinks before it grows. A worker has a [Meter] for each budget: it collects tokens only while its grant is sure to be its own, and saves up
// no more than 20 ms of its part. So in every window of W seconds all workers together collect at most limit × W tokens and 2 % of a
// second's limit, through joins, deaths and changes of the leader. A batch goes when it is paid in full; what gateways see is later than
// what is collected, by at most what the waiting batches hold.
//
// Everything here is a function of events and times that are passed in. Times of workers and leaders are CLOCK_BOOTTIME, which goes on while
// a machine sleeps and which nobody sets; each process has its own, and none is ever compared with another's. [Account] alone waits.
//
// Not for one host without ZooKeeper: package budget lets the processes there share without anybody who divides.
package share

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// Kind is the kind of work that a budget limits. Each kind of a table has a budget of its own.
type Kind uint8

// The kinds of work.
const (
	Puts Kind = iota
	Scans
)

func (k Kind) String() string {
	switch k {
	case Puts:
		return "puts"
	case Scans:
		return "scans"
	}
	return fmt.Sprintf("kind %d", k)
}

// MarshalText writes puts or scans.
func (k Kind) MarshalText() ([]byte, error) {
	if k > Scans {
		return nil, fmt.Errorf("write %v: a budget is of puts or scans", k)
	}
	return []byte(k.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (k *Kind) UnmarshalText(text []byte) error {
	switch string(text) {
	case "puts":
		*k = Puts
	case "scans":
		*k = Scans
	default:
		return fmt.Errorf("a budget is of puts or scans, not of %q", text)
	}
	return nil
}

// Limit is how much all workers together may use in a second. 0 is a pause, +Inf no limit.
//
// As JSON a dimension without a limit is left out: {"rows":5000} limits rows only, {"rows":0,"bytes":0} is a pause, {} no limit.
type Limit struct {
	Rows, Bytes float64
}

var (
	// NoLimit lets everything pass.
	NoLimit = Limit{math.Inf(1), math.Inf(1)}
	// Pause lets nothing pass.
	Pause = Limit{}
)

// String is the limit for people.
func (l Limit) String() string {
	if l == Pause {
		return "nothing"
	}
	var parts []string
	if !math.IsInf(l.Rows, 1) {
		parts = append(parts, fmt.Sprintf("%.0f rows/s", l.Rows))
	}
	if !math.IsInf(l.Bytes, 1) {
		parts = append(parts, fmt.Sprintf("%.0f bytes/s", l.Bytes))
	}
	if len(parts) == 0 {
		return "any rate"
	}
	return strings.Join(parts, " and ")
}

// Lowest is the lowest of limits in each dimension: a table's limit is the lowest of its running jobs' and throttle's. Of none it is no limit.
func Lowest(limits ...Limit) Limit {
	low := NoLimit
	for _, l := range limits {
		low.Rows, low.Bytes = min(low.Rows, l.Rows), min(low.Bytes, l.Bytes)
	}
	return low
}

// Times is the limit scaled by a factor, as a day's schedule gives it. A scaled pause is a pause, and no limit stays none but for the factor 0.
func (l Limit) Times(factor float64) Limit {
	if factor <= 0 {
		return Pause
	}
	return Limit{l.Rows * factor, l.Bytes * factor}
}

// Part is the fraction of the limit that using rows and bytes a second takes, in the dimension that is nearer to its limit: 0 without a
// limit, +Inf of a pause.
func (l Limit) Part(rows, bytes float64) float64 {
	return max(part(rows, l.Rows), part(bytes, l.Bytes))
}

func part(use, limit float64) float64 {
	switch {
	case use <= 0 || math.IsInf(limit, 1):
		return 0
	case limit <= 0:
		return math.Inf(1)
	}
	return use / limit
}

// Check says what is wrong with a limit.
func (l Limit) Check() error {
	if !(l.Rows >= 0) || !(l.Bytes >= 0) {
		return fmt.Errorf("a limit of %v rows/s and %v bytes/s: it must be 0 (pause) or more", l.Rows, l.Bytes)
	}
	return nil
}

type wireLimit struct {
	Rows  *float64 `json:"rows,omitempty"`
	Bytes *float64 `json:"bytes,omitempty"`
}

// MarshalJSON leaves out what is not limited.
func (l Limit) MarshalJSON() ([]byte, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	var w wireLimit
	if !math.IsInf(l.Rows, 1) {
		w.Rows = &l.Rows
	}
	if !math.IsInf(l.Bytes, 1) {
		w.Bytes = &l.Bytes
	}
	return json.Marshal(w)
}

// UnmarshalJSON refuses limits below 0.
func (l *Limit) UnmarshalJSON(text []byte) error {
	var w wireLimit
	if err := json.Unmarshal(text, &w); err != nil {
		return err
	}
	read := NoLimit
	if w.Rows != nil {
		read.Rows = *w.Rows
	}
	if w.Bytes != nil {
		read.Bytes = *w.Bytes
	}
	if err := read.Check(); err != nil {
		return err
	}
	*l = read
	return nil
}
