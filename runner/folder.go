package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"drover/checkpoints"
	"drover/jobs"
)

// format is the version of what is in a state folder. A process refuses what is newer than it knows.
const format = 1

// folder is a job's state folder, held by one process at a time:
//
//	lock                       who holds it
//	job                        the job's newest run, and the last plan timestamp ever used
//	runs/<run>/plan            made once
//	runs/<run>/checkpoints     watermarks and books, every two seconds
//	runs/<run>/result          how the run ended last
//	runs/<run>/replays         what replays changed in the books, where the letters are in a table
//	letters/<run>/             dead letters, unless dead_letters.to names another place
type folder struct {
	dir  string
	lock *checkpoints.FileLock
	log  *slog.Logger // of what is damaged and could be done without; nil: discarded
}

type jobRecord struct {
	Run           string `json:"run"`
	LastTimestamp int64  `json:"last_timestamp"`
}

type resultRecord struct {
	State  State     `json:"state"`
	Reason string    `json:"reason,omitempty"`
	Ended  time.Time `json:"ended"` // or began, while State is Running
}

// ended says that nothing of the run is left to do.
func (r *resultRecord) ended() bool { return r.State == Done || r.State == DeadLetters }

// openFolder makes the job's folder and takes its lock.
func openFolder(root, job string, log *slog.Logger) (*folder, error) {
	f := &folder{dir: filepath.Join(root, job), log: log}
	var err error
	if f.lock, err = checkpoints.Lock(filepath.Join(f.dir, "lock")); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *folder) close()                   { f.lock.Unlock() }
func (f *folder) runDir(run string) string { return filepath.Join(f.dir, "runs", run) }

// letters is where the job's dead letters lie.
func (f *folder) letters(j jobs.Job) string {
	if j.DeadLetters.To != "" {
		return j.DeadLetters.To
	}
	return filepath.Join(f.dir, "letters")
}

func (f *folder) record(run, name string) *checkpoints.Record {
	r := &checkpoints.Record{Dir: f.dir, Name: name, Kind: name, Format: format}
	if run != "" {
		r.Dir, r.Binding = f.runDir(run), run
	}
	return r
}

func (f *folder) warn(warning string) {
	if warning != "" && f.log != nil {
		f.log.Warn(warning)
	}
}

func read[T any](f *folder, rec *checkpoints.Record) (T, error) {
	var v T
	payload, warning, err := rec.Load()
	if err != nil {
		return v, err
	}
	f.warn(warning)
	if err := json.Unmarshal(payload, &v); err != nil {
		return v, fmt.Errorf("read %s: %w", filepath.Join(rec.Dir, rec.Name), err)
	}
	return v, nil
}

func save(rec *checkpoints.Record, v any) error {
	payload, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return rec.Save(payload)
}

func (f *folder) job() (jobRecord, error) {
	r, err := read[jobRecord](f, f.record("", "job"))
	if errors.Is(err, checkpoints.ErrNone) {
		return jobRecord{}, nil
	}
	return r, err
}

func (f *folder) saveJob(r jobRecord) error { return save(f.record("", "job"), r) }

func (f *folder) plan(run string) (*Plan, error) {
	p, err := read[Plan](f, f.record(run, "plan"))
	if err != nil {
		return nil, err
	}
	return &p, nil
}

func (f *folder) savePlan(p *Plan) error { return save(f.record(p.Run, "plan"), p) }

// result gives how a run ended last, or nil when it never did.
func (f *folder) result(run string) (*resultRecord, error) {
	r, err := read[resultRecord](f, f.record(run, "result"))
	if errors.Is(err, checkpoints.ErrNone) {
		return nil, nil
	}
	return &r, err
}

func (f *folder) saveResult(run string, r resultRecord) error {
	return save(f.record(run, "result"), r)
}
