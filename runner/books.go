package runner

import (
	"context"
	"errors"
	"maps"
	"slices"
	"syscall"
	"time"

	"drover/checkpoints"
	"drover/crashpoint"
	"drover/hbase"
)

// finish saves what is settled and says how the run ended.
func (r *run) finish() Result {
	r.mon.setPhase("ending")
	// The last save is not bound to the run's context: a second signal ends what is in flight, not this.
	if err := r.saver.save(context.WithoutCancel(r.ctx)); err != nil {
		r.note(err)
	}
	r.mu.Lock()
	failures := slices.Clone(r.failures)
	r.mu.Unlock()
	if len(failures) > 0 {
		return r.ended(worst(failures))
	}
	_, _, ended := r.saver.books()
	switch {
	case r.cfg.DryRun || r.plan.Limit > 0:
		if closed(r.cfg.Drain) {
			return r.ended(errDrained)
		}
		return r.close(Partial)
	case ended < len(r.plan.Layout.Shards):
		return r.ended(errDrained)
	}
	crashpoint.Pass(crashpoint.BooksClose)
	state := Done
	if r.progressBooks().Dead > 0 {
		state = DeadLetters
	}
	return r.close(state)
}

// worst picks the failure to show: one that needs a person before one that does not.
func worst(errs []error) error {
	for _, err := range errs {
		if s, _ := stateOf(err); s == Failed {
			return err
		}
	}
	return errs[0]
}

// close marks the run as ended in its record.
func (r *run) close(state State) Result {
	res := r.result(state, nil)
	if r.folder == nil {
		return res
	}
	if err := r.folder.saveResult(r.plan.Run, resultRecord{State: state, Ended: time.Now().UTC()}); err != nil {
		return r.ended(err)
	}
	crashpoint.Pass(crashpoint.MarkedDone)
	return res
}

// ended gives the result of a run that an error ended, and records it as far as possible: the record is for people.
func (r *run) ended(err error) Result {
	state, reason := stateOf(err)
	if state == Running {
		return r.runningElsewhere(reason)
	}
	res := r.result(state, err)
	res.Reason = reason
	if r.folder != nil && r.plan != nil && r.saver != nil {
		if rerr := r.folder.saveResult(r.plan.Run, resultRecord{State: state, Reason: reason, Ended: time.Now().UTC()}); rerr != nil {
			r.log.Warn("the run's end is not recorded; its progress is", "error", rerr)
		}
	}
	return res
}

// stateOf says what an error makes of a run, and in which words.
func stateOf(err error) (State, string) {
	var stop *StopError
	var outage *hbase.OutageError
	var tableErr *hbase.TableError
	var locked *checkpoints.LockedError
	switch {
	case errors.As(err, &locked):
		return Running, err.Error()
	case errors.Is(err, errDrained), errors.Is(err, context.Canceled):
		return Stopped, "stopped on request: run the same command again to go on"
	case errors.As(err, &stop), errors.As(err, &outage), errors.As(err, &tableErr):
		return Stopped, err.Error()
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return Stopped, err.Error() // what to do is said where it is written
	}
	return Failed, err.Error()
}

func (r *run) totals() checkpoints.Totals {
	t := r.books
	if r.shared {
		t.Dead = r.dead.Load()
	}
	t.Calls += r.calls.Load()
	t.Retries += r.retries.Load()
	if r.pacer != nil {
		t.Limited += r.pacer.limits.total()
		t.Slowed += r.pacer.slow.total()
	}
	return t
}

// result gives the books as they are.
func (r *run) result(state State, err error) Result {
	res := Result{Job: r.cfg.Job.Name, State: state, Err: err, Tables: []TableBooks{}}
	if r.plan != nil {
		res.Run, res.Timestamp, res.Shards = r.plan.Run, r.plan.Timestamp, len(r.plan.Layout.Shards)
	}
	if r.saver == nil {
		return res
	}
	t := r.totals()
	res.Calls, res.Retries, res.LimitedSeconds, res.SlowedSeconds, res.Resumed = t.Calls, t.Retries, seconds(t.Limited), seconds(t.Slowed), t.Resumed
	by := r.saver.byTable()
	if r.folder != nil {
		replays, rerr := r.folder.replays(r.cfg.Job, r.plan)
		if rerr != nil {
			r.log.Warn("replays are not counted", "error", rerr)
		}
		for name, c := range replays {
			sum := by[name]
			sum.Add(c)
			by[name] = sum
		}
	}
	for _, tp := range r.plan.Tables {
		c := by[tp.Table]
		res.Tables = append(res.Tables, TableBooks{Table: tp.Table, Collection: tp.Collection, Counts: c})
	}
	for c := range maps.Values(by) {
		res.Counts.Add(c)
	}
	if (state == Done || state == DeadLetters) && res.Dead == 0 {
		res.State = Done // what was dead has been replayed since
	}
	return res
}

func (r *run) account(a hbase.Applied) {
	r.calls.Add(int64(a.Attempts))
	r.retries.Add(int64(a.Failed))
}
