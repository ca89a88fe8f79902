package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"drover/checkpoints"
	"drover/fleet/share"
	"drover/fleet/tick"
)

// format is of all records. A process that finds another names who wrote it and what to do, and touches nothing.
const format = 1

// head is what every record begins with, in every format.
type head struct {
	V int `json:"v"`
}

// FormatError says that a record was written by a drover that does not go with this one.
type FormatError struct {
	Path       string
	Have, Know int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format %d, this drover knows %d: use the same version of drover on every host of the pool", e.Path, e.Have, e.Know)
}

func decode[T any](path string, data []byte) (T, error) {
	var h head
	var r T
	if err := json.Unmarshal(data, &h); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	if h.V != format {
		return r, &FormatError{Path: path, Have: h.V, Know: format}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

func encode(record any) []byte {
	data, err := json.Marshal(record)
	if err != nil {
		panic(err) // none of our records can fail
	}
	return data
}

// termRecord stands in the term's node, and as proof of who wrote it in the leader's.
type termRecord struct {
	head
	Leader string `json:"leader,omitempty"` // id of the incarnation
	// Restored names the last restore. When it changes, what was seen before it counts no more.
	Restored string `json:"restored,omitempty"`
	// Held says who saw that ZooKeeper went back, and what: everything is held until a restore, also by those who have seen nothing
	// of what was before.
	Held string `json:"held,omitempty"`
}

// beatRecord is what a member tells.
type beatRecord struct {
	head
	Name     string            `json:"name"`
	Version  string            `json:"version,omitempty"` // of drover
	Labels   map[string]string `json:"labels,omitempty"`
	Capacity int               `json:"capacity"`
	Draining bool              `json:"draining,omitempty"`
	// Left says that it works on nothing, spends nothing and takes nothing any more: what it had can be given away at once.
	Left   bool            `json:"left,omitempty"`
	Seen   int64           `json:"seen"` // Rev of the order that it obeys
	Grants []seen          `json:"grants,omitempty"`
	Begun  []string        `json:"begun,omitempty"` // attempts that it has saved something of
	Let    []let           `json:"let,omitempty"`   // shards of its order that it will not work on any more
	Asked  []asked         `json:"asked,omitempty"`
	Wants  []want          `json:"wants,omitempty"`
	Held   string          `json:"held,omitempty"`  // why it holds everything, for people
	Stats  json.RawMessage `json:"stats,omitempty"` // for people
	Plans  bool            `json:"plans,omitempty"` // it can plan runs
}

// let is a shard that its owner let go: it writes nothing more under that epoch.
type let struct {
	At    string `json:"at"`
	N     int    `json:"n"`
	Epoch int32  `json:"epoch"`
	Done  bool   `json:"done,omitempty"`
	Why   string `json:"why,omitempty"` // the fault that ended it
}

// asked is what a member says to being asked to split a shard, for as long as the order asks, and that one is whole for as
// long as it has it.
type asked struct {
	At    string `json:"at"`
	N     int    `json:"n"`
	Epoch int32  `json:"epoch"`
	Ask   int64  `json:"ask,omitempty"`   // the one that is answered: the shard was split
	Whole bool   `json:"whole,omitempty"` // it cannot be split
}

// budget names what is divided: a table's limit for one kind of work.
type budget struct {
	Table string     `json:"table"`
	Kind  share.Kind `json:"kind"`
}

func compareBudgets(a, b budget) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Kind, b.Kind))
}

// want is what a member could use of a budget, for its jobs of one class. See share.Want.
type want struct {
	budget
	Demand float64 `json:"demand"` // part of the limit; negative is unknown
	Weight float64 `json:"weight,omitempty"`
	Class  int     `json:"class,omitempty"`
	Cap    float64 `json:"cap,omitempty"`
	// Limit is that of work which is no run of the pool; nil is none.
	Limit *share.Limit `json:"limit,omitempty"`
}

// seen names the newest grant that a member has taken up.
type seen struct {
	budget
	ID uint64 `json:"id"`
}

// orderRecord is what the leader tells a member.
type orderRecord struct {
	head
	Rev    int64             `json:"rev"`  // grows with each write
	Term   int32             `json:"term"` // of the writer
	Shards map[string][]slot `json:"shards,omitempty"`
	Plans  []runRef          `json:"plans,omitempty"` // runs that it is to plan, as who leads may not see their sources
	// Grants lists for each budget all that may still be spent: the newest, which is in force, and those before it until a beat
	// names it.
	Grants []grants `json:"grants,omitempty"`
}

// runRef names a run, as of a version: what is planned for another one is of no use.
type runRef struct {
	Job     string `json:"job"`
	ID      string `json:"id"`
	Version int32  `json:"version"`
}

// slot is a shard that a member has.
type slot struct {
	N     int   `json:"n"`
	Epoch int32 `json:"e"`
	Back  bool  `json:"b,omitempty"` // asked back: save and let go
	// Ask asks to split it, when it is not 0. A later ask of the same shard and epoch has a higher number.
	Ask int64 `json:"q,omitempty"`
}

// grants are a member's of one budget. A part is of the limit as it is at the moment.
type grants struct {
	budget
	List []share.Grant `json:"list"`
}

// Limits are what all members together may do to a table. A pause is a limit of zero.
type Limits struct {
	Puts  share.Limit `json:"puts"`
	Scans share.Limit `json:"scans"`
}

// NoLimits let everything pass.
var NoLimits = Limits{share.NoLimit, share.NoLimit}

func (l Limits) lowest(o Limits) Limits {
	return Limits{share.Lowest(l.Puts, o.Puts), share.Lowest(l.Scans, o.Scans)}
}

// Of is the limit of one kind of work.
func (l Limits) Of(k share.Kind) share.Limit {
	if k == share.Scans {
		return l.Scans
	}
	return l.Puts
}

// tableRecord is a table's limit. The leader writes Jobs, commands the rest, each on condition of the version it read.
type tableRecord struct {
	head
	Jobs     Limits  `json:"jobs"` // the lowest of the jobs that are not over
	Throttle *Limits `json:"throttle,omitempty"`
	Paused   bool    `json:"paused,omitempty"`
	Factor   float64 `json:"factor"` // by the time of day
}

// limits are what is in force.
func (t tableRecord) limits() Limits {
	l := t.Jobs
	if t.Throttle != nil {
		l = l.lowest(*t.Throttle)
	}
	if t.Paused {
		return Limits{}
	}
	if t.Factor != 1 {
		l = Limits{l.Puts.Times(t.Factor), l.Scans.Times(t.Factor)}
	}
	return l
}

// jobRecord is a job that was submitted at least once.
type jobRecord struct {
	head
	Spec   Spec   `json:"spec"`
	Newest string `json:"newest,omitempty"` // run
	Last   int64  `json:"last,omitempty"`   // the newest plan's timestamp
	Paused bool   `json:"paused,omitempty"` // its schedule fires nothing
	// Since is when the schedule was submitted: it fires nothing before.
	Since  time.Time `json:"since,omitzero"`
	Ticked time.Time `json:"ticked,omitzero"` // the newest instant that was decided
}

// Spec is a job as it was submitted.
type Spec struct {
	File     []byte            `json:"file"`               // the job file; the pool does not look into it
	Class    int               `json:"class,omitempty"`    // 0 is the most urgent
	Weight   float64           `json:"weight,omitempty"`   // of its wants; 0 is 1
	Schedule *tick.Settings    `json:"schedule,omitempty"` // nil fires never
	Needs    map[string]string `json:"needs,omitempty"`    // labels that a worker must have, to plan and to work
	Planned  bool              `json:"planned,omitempty"`  // File brings a plan: whoever leads can take it from there
	Limits   map[string]Limits `json:"limits,omitempty"`   // by table
	Daily    string            `json:"daily,omitempty"`    // the part of the limits by the time of day; see share.ParseDaily
	Zone     string            `json:"zone,omitempty"`     // of Daily; "" is UTC
}

// State is how it stands with a run.
type State string

// The states of a run.
const (
	Planning  State = "planning"
	Running   State = "running"
	Paused    State = "paused"
	Done      State = "done"
	Failed    State = "failed" // Resume goes on where it stood
	Cancelled State = "cancelled"
)

func (s State) final() bool { return s == Done || s == Cancelled }

// runRecord is a run.
type runRecord struct {
	head
	State       State     `json:"state"`
	Reason      string    `json:"reason,omitempty"`
	Spec        Spec      `json:"spec"`
	By          string    `json:"by,omitempty"`
	At          time.Time `json:"at"` // submitted
	Ended       time.Time `json:"ended,omitzero"`
	Instant     time.Time `json:"instant,omitzero"` // of the schedule that fired it
	Behind      []string  `json:"behind,omitempty"` // runs of the job that must be over before it starts
	Timestamp   int64     `json:"timestamp,omitempty"`
	Attempt     string    `json:"attempt,omitempty"` // name of the published folder
	Fingerprint string    `json:"fingerprint,omitempty"`
	Planned     int       `json:"planned,omitempty"` // shards of the plan
	Shards      int       `json:"shards,omitempty"`  // with those of splits
	Parts       int       `json:"parts,omitempty"`   // of the plan's text
	Books       *Books    `json:"books,omitempty"`
	Replays     Replays   `json:"replays,omitempty"`
	Write       string    `json:"write"` // names the write, so that who got no answer can look
}

// end changes the state to one in which nothing moves. wall may be nil.
func (r *runRecord) end(s State, why, write string, wall func() time.Time) {
	r.State, r.Reason, r.Write = s, why, write
	if wall != nil {
		r.Ended = wall().UTC()
	}
}

// Replays is what replays of dead letters changed in a run's books, by table: dead became written.
type Replays map[string]checkpoints.Counts

// auditRecord is one control command.
type auditRecord struct {
	head
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	What string    `json:"what"`
}
