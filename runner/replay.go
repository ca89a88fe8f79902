package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"drover/checkpoints"
	"drover/deadletters"
	"drover/hbase"
	"drover/jobs"
)

// ReplayResult is what a replay came to.
type ReplayResult struct {
	Run      string   `json:"run"`
	Replayed int      `json:"replayed"`
	Still    int      `json:"still_dead"`
	Reasons  []string `json:"reasons,omitempty"` // of those still dead, the first few
}

// Replay writes the dead documents of the job's newest run after all, with that run's timestamp, and moves them from dead to
// written in its books. remap allows a mapping that differs from the run's: what refused the documents may have been mended
// there. Killed at any point, it can be run again: a document written twice is the same row.
func Replay(ctx context.Context, cfg Config, remap bool) (ReplayResult, error) {
	r := newRun(ctx, cfg)
	defer r.disconnect()
	var err error
	if r.folder, err = openFolder(cfg.StateDir, cfg.Job.Name, r.log); err != nil {
		return ReplayResult{}, err
	}
	defer r.folder.close()
	rec, err := r.folder.job()
	if err != nil {
		return ReplayResult{}, err
	}
	if rec.Run == "" {
		return ReplayResult{}, refuse("%s was never run with its state in %s", cfg.Job.Name, cfg.StateDir)
	}
	if r.plan, err = r.folder.plan(rec.Run); err != nil {
		return ReplayResult{}, err
	}
	if err := r.load(); err != nil {
		return ReplayResult{Run: rec.Run}, err
	}
	res, err := r.replayLetters(remap)
	if r.letters != nil { // else nothing was replayed
		if kept := r.keepReplays(); err == nil {
			err = kept
		}
	}
	return res, err
}

// ReplayPooled is Replay for a run that a pool ended, whose letters are where every host finds them. moved is what this replay and
// those before it came to, by table, for the pool to keep: also after an error.
func ReplayPooled(ctx context.Context, cfg Config, id string, plan []byte, remap bool) (res ReplayResult, moved map[string]checkpoints.Counts, err error) {
	r := newRun(ctx, cfg)
	defer r.disconnect()
	res.Run = id
	if cfg.Letters == nil && !cfg.Job.DeadLetters.Shared {
		return res, nil, refuse("the letters of run %s are on the hosts of the workers that wrote them: only those in a table, or in a folder that is declared shared, can be replayed. Name the folder they were gathered in as dead_letters.to, with shared: true", id)
	}
	r.shared, r.plan = true, new(Plan)
	if err := json.Unmarshal(plan, r.plan); err != nil {
		return res, nil, fmt.Errorf("read the plan of run %s: %w", id, err)
	}
	r.plan.Run = id
	for i := range r.plan.Tables {
		r.plan.Tables[i].Create = false // it was there, and an empty one would take the letters as if it were
	}
	r.saver = newSaver(nil, map[int]checkpoints.Checkpoint{}) // which saves nothing: the books are the pool's
	if res, err = r.replayLetters(remap); r.letters == nil {
		return res, nil, err
	}
	x, xerr := r.readLetters(id)
	if xerr != nil {
		return res, nil, errors.Join(err, xerr)
	}
	return res, replaysIn(x), err
}

// replayLetters replays what is dead of the plan's run.
func (r *run) replayLetters(remap bool) (ReplayResult, error) {
	res := ReplayResult{Run: r.plan.Run}
	now := fingerprint(r.cfg.Job)
	now.Source = r.plan.Fingerprint.Source // the documents come from the letters
	if diff := r.plan.Fingerprint.diff(now); len(diff) > 0 && !(remap && now.Table == r.plan.Fingerprint.Table) {
		return res, refuse("the job is not the one that run %s was planned with: %s. If that is what mends the documents, say so with --remap", res.Run, diff)
	}
	if err := r.prepare(); err != nil {
		return res, err
	}
	x, err := r.readLetters(res.Run)
	if err != nil {
		return res, err
	}
	err = r.replay(x, &res)
	return res, err
}

// replayAtOnce bounds the letters in memory between two syncs.
const replayAtOnce = 64

func (r *run) replay(x *deadletters.Index, res *ReplayResult) error {
	var todo []deadletters.Entry
	for e := range x.Entries() {
		if e.Replay == nil {
			todo = append(todo, e)
		}
	}
	for len(todo) > 0 {
		part := todo[:min(replayAtOnce, len(todo))]
		todo = todo[len(part):]
		var wg sync.WaitGroup
		outcomes := make([]replayed, len(part))
		for i, e := range part {
			wg.Go(func() { outcomes[i] = r.replayOne(x, e) })
		}
		wg.Wait()
		for i, o := range outcomes {
			switch {
			case o.err != nil:
				return errors.Join(o.err, r.letters.Sync())
			case o.why != "":
				res.Still++
				if len(res.Reasons) < 5 {
					res.Reasons = append(res.Reasons, fmt.Sprintf("shard %d, position %s: %s", part[i].Shard, part[i].Position, o.why))
				}
			default:
				if err := r.letters.Replayed(o.replay); err != nil {
					return err
				}
				res.Replayed++
			}
		}
		if err := r.letters.Sync(); err != nil {
			return err
		}
	}
	return nil
}

type replayed struct {
	replay deadletters.Replay
	why    string // still dead
	err    error
}

func (r *run) replayOne(x *deadletters.Index, e deadletters.Entry) replayed {
	l, err := x.Letter(e)
	if err != nil {
		return replayed{err: err}
	}
	var t *table
	for _, c := range r.tables {
		if c.plan.Table == l.Table {
			t = c
		}
	}
	if t == nil {
		return replayed{err: fmt.Errorf("letter of shard %d at %s is for table %s, which the plan does not have", l.Shard, l.Position, l.Table)}
	}
	keyType := t.plan.KeyType
	if keyType != "" && r.cfg.Job.Mapping.KeyType(l.Raw) == "" {
		keyType = ""
	}
	b := hbase.AcquireBatch(r.cfg.Job.Target.Durability)
	defer b.Release()
	o, why := r.cfg.Job.Mapping.Mapper(l.Collection, r.plan.Timestamp, keyType).Map(l.Raw, func([]byte) *hbase.Batch { return b })
	if o != jobs.Mapped {
		if o == jobs.Filtered {
			why = "the filter leaves it out"
		}
		return replayed{why: why}
	}
	applied, err := r.pool.Apply(r.ctx, l.Table, b)
	if err != nil {
		return replayed{err: err}
	}
	if len(applied.Refused) > 0 {
		return replayed{why: applied.Refused[0].Reason}
	}
	return replayed{replay: deadletters.Replay{
		Run: l.Run, Shard: l.Shard, Position: l.Position, Table: l.Table,
		Cells: int64(b.Cells()), Bytes: int64(b.Bytes()), Time: time.Now().UTC(),
	}}
}
