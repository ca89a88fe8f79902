package runner

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"drover/checkpoints"
	"drover/jobs"
)

// Status tells how a job stands from its state folder alone, whether or not a process works on it. ok is false when it was
// never run there.
func Status(ctx context.Context, stateDir string, j jobs.Job) (res Result, ok bool, err error) {
	f := &folder{dir: filepath.Join(stateDir, j.Name)}
	r := &run{cfg: Config{Job: j, StateDir: stateDir}, ctx: ctx, folder: f, log: slog.New(slog.DiscardHandler), mon: &Monitor{}}
	rec, err := f.job()
	if err != nil || rec.Run == "" {
		return res, false, err
	}
	if r.plan, err = f.plan(rec.Run); err != nil {
		if errors.Is(err, checkpoints.ErrNone) {
			err = nil
		}
		return res, false, err
	}
	if err := r.load(); err != nil {
		return res, false, err
	}
	state, reason := Stopped, "the process that ran it is gone: run the job again to go on"
	last, err := f.result(rec.Run)
	if err != nil {
		return res, false, err
	}
	if last != nil && last.State != Running {
		state, reason = last.State, last.Reason
	}
	if holder := f.holder(); holder != nil {
		state, reason = Running, holder.Error()
	}
	res = r.result(state, nil)
	res.Reason = reason
	return res, true, nil
}

// holder says who works in the folder, nil for nobody. It takes the lock for an instant when nobody does, and makes nothing.
func (f *folder) holder() error {
	path := filepath.Join(f.dir, "lock")
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	l, err := checkpoints.Lock(path)
	if err == nil {
		l.Unlock()
		return nil
	}
	if errors.Is(err, checkpoints.ErrLocked) {
		return err
	}
	return nil
}

// runningElsewhere gives the books of the process that holds the job, as it saved them last.
func (r *run) runningElsewhere(reason string) Result {
	res, ok, err := Status(r.ctx, r.cfg.StateDir, r.cfg.Job)
	if !ok || err != nil {
		res = Result{Tables: []TableBooks{}}
	}
	res.Job, res.State, res.Reason = r.cfg.Job.Name, Running, reason
	return res
}

// Failure is the result of a run that could not begin.
func Failure(job string, err error) Result {
	state, reason := stateOf(err)
	return Result{Job: job, State: state, Reason: reason, Err: err, PeakRSSBytes: PeakRSS(), Tables: []TableBooks{}}
}
