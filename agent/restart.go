package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"drover/zookeeper"
)

// Restart says how a gateway may be restarted. One at a time over the fleet: whoever restarts holds an ephemeral node beside the
// gateways' path, under one session, and writes when it did into another, whose version decides between two who think that
// they hold it.
type Restart struct {
	Run func(ctx context.Context) error // restarts the gateway; nil never does

	After   time.Duration // how long it must have been not ok for a trouble that a restart may mend. 0 is 60 s
	Timeout time.Duration // of Run. 0 is 2 min
	Settle  time.Duration // how long it may take after Run until it is sound, before another one's turn. 0 is 2 min

	// Every is the least time between two restarts in the fleet, by ZooKeeper's clock. It is no less than Timeout and Settle
	// together, so that even a session that is lost meanwhile lets no second one begin. 0 is 5 min. For one gateway it doubles
	// with each restart that did not help.
	Every time.Duration
}

func (r Restart) withDefaults() Restart {
	for _, d := range []struct {
		at *time.Duration
		d  time.Duration
	}{{&r.After, time.Minute}, {&r.Timeout, 2 * time.Minute}, {&r.Settle, 2 * time.Minute}, {&r.Every, 5 * time.Minute}} {
		if *d.at == 0 {
			*d.at = d.d
		}
	}
	return r
}

func (r Restart) validate() error {
	if r = r.withDefaults(); r.Run != nil && r.Every < r.Timeout+r.Settle {
		return fmt.Errorf("restarts every %v: it must be no less than the command's time and that to settle, %v + %v", r.Every, r.Timeout, r.Settle)
	}
	return nil
}

// restarts is what is known of this gateway's.
type restarts struct {
	running bool
	tries   int       // since the gateway was last ok for as long as restarts are apart
	next    time.Time // not before
	said    string    // why not, so that it is said once
}

const mostTries = 6 // beyond which the wait grows no more

// considerRestart restarts the gateway if it is time, its node says so, and nobody holds that node.
func (a *agent) considerRestart(ctx context.Context, now time.Time) {
	j, r := a.judge, &a.restarts
	if a.Restart.Run == nil || r.running || a.draining || j.ok || a.held != "" || !a.node.Exists || !a.memory.wrote(a.node) ||
		!a.last.Trouble.curable() || now.Sub(j.since) < a.Restart.After || now.Before(r.next) {
		return
	}
	r.running = true
	why := j.why()
	a.wg.Go(func() { a.restored <- a.restart(ctx, why) })
}

// errNotNow is why a restart has to wait.
type errNotNow struct{ why string }

func (e errNotNow) Error() string { return e.why }

const askAgain = 10 * time.Second

func (a *agent) restartEnded(err error, now time.Time) {
	r := &a.restarts
	r.running = false
	if e, wait := errors.AsType[errNotNow](err); wait {
		if e.why != r.said {
			a.Log.Info("the gateway waits for its restart", "why", e.why)
		}
		r.said, r.next = e.why, now.Add(askAgain)
		return
	}
	r.said = ""
	r.next = now.Add(a.Restart.Every << min(r.tries, mostTries))
	r.tries++
	if err != nil {
		a.Log.Error("the restart did not go well", "error", err, "not_again_before", r.next.Format(time.DateTime))
	} else {
		a.Log.Info("the gateway was restarted and is sound")
	}
}

// restart takes the fleet's lock, asks whether the fleet can spare a gateway, and runs the command.
func (a *agent) restart(ctx context.Context, why string) error {
	session := a.Ensemble.Session()
	z := a.Ensemble.Within(session)
	fleet, name := path.Split(a.Path)
	fleet = path.Clean(fleet)
	folder := fleet + ".agents"
	lock, last := folder+"/restarting", folder+"/restarted"
	notNow := func(what string, err error) error { return errNotNow{what + ": " + err.Error()} }

	note, _ := json.Marshal(map[string]string{"gateway": name, "why": why})
	if err := z.CreateAll(ctx, folder); err != nil {
		return notNow("ZooKeeper", err)
	}
	err := z.Create(ctx, lock, note, zookeeper.Ephemeral)
	if errors.Is(err, zookeeper.ErrNodeExists) || errors.Is(err, zookeeper.ErrUnknown) {
		// Whose it is, its owner tells.
	} else if err != nil {
		return notNow("ZooKeeper", err)
	}
	raw, held, err := z.Get(ctx, lock)
	if err != nil {
		return notNow("the lock of restarts", err)
	}
	if held.EphemeralOwner != session.ID {
		return errNotNow{fmt.Sprintf("another gateway is being restarted: %.200s", raw)}
	}
	defer func() {
		// Its version does not matter: it is ephemeral, and z works under the session that made it only.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := z.Delete(release, lock, held.Version); err != nil {
			a.Log.Debug("the lock of restarts goes with the session", "error", err)
		}
	}()

	_, before, err := z.Get(ctx, last)
	switch {
	case errors.Is(err, zookeeper.ErrNoNode):
	case err != nil:
		return notNow("the last restart", err)
	default:
		// Both times are ZooKeeper's own.
		if since := time.Duration(held.Ctime-before.Mtime) * time.Millisecond; since < a.Restart.Every {
			return errNotNow{"there was a restart in the fleet less than " + a.Restart.Every.String() + " ago"}
		}
	}
	ok, all, err := census(ctx, z, fleet)
	if err != nil {
		return notNow("the fleet", err)
	}
	if 2*ok < all {
		return errNotNow{"less than half of the fleet is ok, so it is not this gateway alone"}
	}
	if before.Czxid == 0 {
		err = z.Create(ctx, last, note)
	} else {
		_, err = z.Set(ctx, last, note, before.Version)
	}
	if err != nil {
		return notNow("the last restart", err)
	}

	a.Log.Warn("restarting the gateway", "reason", why, "fleet_ok", ok, "fleet", all)
	// The end of the agent does not cut it in the middle.
	run, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.Restart.Timeout)
	defer cancel()
	if err := a.Restart.Run(run); err != nil {
		return fmt.Errorf("run the restart command: %w", err)
	}
	ended := time.Now()
	for a.soundAt.Load() <= ended.UnixNano() {
		if time.Since(ended) > a.Restart.Settle {
			return fmt.Errorf("the gateway is not sound %v after its restart", a.Restart.Settle)
		}
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
	return nil
}

// census counts the gateways of a fleet, and those that are ok.
func census(ctx context.Context, z Nodes, fleet string) (ok, all int, err error) {
	names, _, err := z.Children(ctx, fleet)
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		raw, _, err := z.Get(ctx, fleet+"/"+name)
		if errors.Is(err, zookeeper.ErrNoNode) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		all++
		if d, err := parseData(raw); err == nil {
			if says, err := d.ok(); err == nil && says {
				ok++
			}
		}
	}
	return ok, all, nil
}
