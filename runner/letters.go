package runner

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drover/checkpoints"
	"drover/deadletters"
	"drover/hbase"
	"drover/jobs"
)

// LetterStore keeps the dead letters of a job's runs elsewhere than in a folder: in HBase, through the pool of the job's gateways.
type LetterStore interface {
	// Open opens the letters of a run to append; timestamp is the plan's. The sink is of no use after ctx or the pool has ended.
	Open(ctx context.Context, pool *hbase.Pool, run string, timestamp int64) (deadletters.Sink, error)

	// Read indexes the letters of a run; one without any has an empty index.
	Read(ctx context.Context, pool *hbase.Pool, run string) (*deadletters.Index, error)
}

func (r *run) lettersDir() string {
	return (&folder{dir: filepath.Join(r.cfg.StateDir, r.cfg.Job.Name)}).letters(r.cfg.Job)
}

// openLetters opens the letters of the run to append.
func (r *run) openLetters() (deadletters.Sink, error) {
	if err := r.lettersElsewhere(); err != nil {
		return nil, err
	}
	if r.cfg.Letters != nil {
		return r.cfg.Letters.Open(r.ctx, r.pool, r.plan.Run, r.plan.Timestamp)
	}
	var l *deadletters.Log
	var err error
	if r.shared || r.cfg.Job.DeadLetters.Shared {
		l, err = deadletters.OpenWorker(r.lettersDir(), r.plan.Run, workerName())
	} else {
		l, err = deadletters.Open(r.lettersDir(), r.plan.Run)
	}
	if err != nil {
		return nil, err // and no sink that holds a nil log
	}
	return l, nil
}

func (r *run) lettersElsewhere() error {
	if t := r.cfg.Job.DeadLetters.Table; t != "" && r.cfg.Letters == nil {
		return fmt.Errorf("dead letters belong to table %s, and nothing here keeps them there", t)
	}
	return nil
}

// workerName is one that no other process has, and no other work of this one.
func workerName() string {
	host, err := os.Hostname()
	if host = strings.Trim(host, "./"); err != nil || host == "" {
		host = "worker"
	}
	return host + "-" + strings.ToLower(rand.Text()[:12])
}

// readLetters indexes the letters of a run.
func (r *run) readLetters(run string) (*deadletters.Index, error) {
	if err := r.lettersElsewhere(); err != nil {
		return nil, err
	}
	if r.cfg.Letters == nil {
		return deadletters.Read(r.lettersDir(), run)
	}
	if err := r.connect(); err != nil {
		return nil, err
	}
	return r.cfg.Letters.Read(r.ctx, r.pool, run)
}

// Letters opens the letters of a job's run, without their documents, and names the run: "" is the newest of the state folder. done
// ends what reading takes, and is called when the index is not used any more.
func Letters(ctx context.Context, cfg Config, id string) (x *deadletters.Index, run string, done func(), err error) {
	if id == "" {
		rec, err := (&folder{dir: filepath.Join(cfg.StateDir, cfg.Job.Name)}).job()
		if err != nil {
			return nil, "", nil, err
		}
		if id = rec.Run; id == "" {
			return nil, "", nil, refuse("%s was never run with its state in %s", cfg.Job.Name, cfg.StateDir)
		}
	}
	r := newRun(ctx, cfg)
	if x, err = r.readLetters(id); err != nil {
		r.disconnect()
		return nil, "", nil, err
	}
	return x, id, r.disconnect, nil
}

// replays is what replays changed in a run's books, by table: dead becomes written. Of letters in a table it is what the last
// replay left, so that books can be shown where HBase is not reached.
func (f *folder) replays(j jobs.Job, p *Plan) (map[string]checkpoints.Counts, error) {
	if j.DeadLetters.Table != "" {
		sums, err := read[map[string]checkpoints.Counts](f, f.record(p.Run, "replays"))
		if errors.Is(err, checkpoints.ErrNone) {
			return nil, nil
		}
		return sums, err
	}
	x, err := deadletters.Read(f.letters(j), p.Run)
	if err != nil {
		return nil, err
	}
	return replaysIn(x), nil
}

func replaysIn(x *deadletters.Index) map[string]checkpoints.Counts {
	out := map[string]checkpoints.Counts{}
	for e := range x.Entries() {
		if e.Replay == nil {
			continue
		}
		c := out[e.Replay.Table]
		c.Add(checkpoints.Counts{Written: 1, Dead: -1, Rows: 1, Cells: e.Replay.Cells, Bytes: e.Replay.Bytes})
		out[e.Replay.Table] = c
	}
	return out
}

// keepReplays records what the replays of letters in a table come to. A process that dies before it leaves the letters replayed and
// the books as they were; the next replay, which has nothing left to do, mends those.
func (r *run) keepReplays() error {
	if r.cfg.Letters == nil {
		return nil
	}
	x, err := r.readLetters(r.plan.Run)
	if err != nil {
		return err
	}
	return save(r.folder.record(r.plan.Run, "replays"), replaysIn(x))
}
