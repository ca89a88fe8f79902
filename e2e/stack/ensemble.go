package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EnsembleOptions says what ensemble to start.
type EnsembleOptions struct {
	Servers int           // 0 is 3
	Tick    time.Duration // 0 is 500 ms: sessions between 1 and 10 s

	// Dir is empty or missing, and stays after Close. "" is a temporary folder that Close removes.
	Dir string
	Log io.Writer // one line for each step; nil is none
}

// Ensemble is a running ZooKeeper without HBase: servers of one quorum, or a single one. Each is a process that can be
// killed, stopped and started again.
type Ensemble struct {
	Dir     string
	Servers []*Process

	files Stack // the folder, and what is in it
}

// StartEnsemble starts one and returns when every server takes sessions, in a second or two when Java is at hand.
func StartEnsemble(ctx context.Context, o EnsembleOptions) (*Ensemble, error) {
	if o.Servers == 0 {
		o.Servers = 3
	}
	if o.Tick == 0 {
		o.Tick = 500 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	j, err := findJava(ctx, o.Log)
	if err != nil {
		return nil, fmt.Errorf("start ensemble: %w", err)
	}
	e := &Ensemble{}
	e.files.java, e.files.log = j, o.Log
	if err := e.files.makeDir(o.Dir); err != nil {
		return nil, fmt.Errorf("start ensemble: %w", err)
	}
	e.Dir = e.files.Dir
	began := time.Now()
	if err := e.start(ctx, o); err != nil {
		err = fmt.Errorf("start ensemble: %w", err)
		return nil, errors.Join(err, e.Close())
	}
	fmt.Fprintf(o.Log, "ensemble of %d is up after %.1f s in %s\n", o.Servers, time.Since(began).Seconds(), e.Dir)
	return e, nil
}

func (e *Ensemble) start(ctx context.Context, o EnsembleOptions) error {
	ports, err := freePorts(3 * o.Servers) // clients, followers, election
	if err != nil {
		return err
	}
	var quorum strings.Builder
	if o.Servers > 1 {
		// initLimit and syncLimit are in ticks. A leader that hangs is left after syncLimit, which has to be well below
		// the two thirds of a session timeout that a client takes to notice; the least session timeout is 2 ticks.
		quorum.WriteString("initLimit=20\nsyncLimit=4\n")
		for i := range o.Servers {
			fmt.Fprintf(&quorum, "server.%d=127.0.0.1:%d:%d\n", i+1, ports[3*i+1], ports[3*i+2])
		}
	}
	for i := range o.Servers {
		name := fmt.Sprintf("zookeeper%d", i+1)
		data := filepath.Join(e.Dir, name)
		if err := os.MkdirAll(data, 0o755); err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(data, "myid"), strconv.AppendInt(nil, int64(i+1), 10), 0o644); err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
		cfg := filepath.Join(e.Dir, name+".cfg")
		text := fmt.Sprintf("tickTime=%d\ndataDir=%s\nclientPort=%d\n%s%s", o.Tick.Milliseconds(), data, ports[3*i], zooCommon, quorum.String())
		if err := os.WriteFile(cfg, []byte(text), 0o644); err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
		p, err := e.files.add(name, ports[3*i], nil, zookeeperHeap, small, "org.apache.zookeeper.server.quorum.QuorumPeerMain", cfg)
		if err != nil {
			return err
		}
		p.ready = serves(p)
		e.Servers = append(e.Servers, p)
	}
	return e.Restart(ctx)
}

// Restart starts servers that are dead, all if none are named, and lets stopped ones go on, and returns when they all serve.
// Together, since one alone does not serve before there is a quorum.
func (e *Ensemble) Restart(ctx context.Context, servers ...*Process) error {
	if len(servers) == 0 {
		servers = e.Servers
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, p := range servers {
		wg.Go(func() {
			if !p.Alive() {
				errs[i] = p.Restart(ctx)
			} else if errs[i] = p.Cont(); errs[i] == nil {
				errs[i] = p.await(ctx)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Leader finds the server that leads, which for a single one is itself. For a while after it was stopped an old leader may
// think that it still leads beside the new one: then there is no answer.
func (e *Ensemble) Leader(ctx context.Context) (*Process, error) {
	var leaders []*Process
	for _, p := range e.Servers {
		if !p.Alive() {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, time.Second)
		out, err := fourLetters(ask, p.Addr, "srvr")
		cancel()
		if err == nil && (bytes.Contains(out, []byte("Mode: leader")) || bytes.Contains(out, []byte("Mode: standalone"))) {
			leaders = append(leaders, p)
		}
	}
	if len(leaders) != 1 {
		return nil, fmt.Errorf("find the leader: %d servers say that they lead", len(leaders))
	}
	return leaders[0], nil
}

// Ask sends a four-letter command to a server and gives its answer.
func (e *Ensemble) Ask(ctx context.Context, p *Process, command string) (string, error) {
	out, err := fourLetters(ctx, p.Addr, command)
	return string(out), err
}

// Addrs lists where the servers take clients.
func (e *Ensemble) Addrs() []string {
	addrs := make([]string, len(e.Servers))
	for i, p := range e.Servers {
		addrs[i] = p.Addr
	}
	return addrs
}

// Close kills every server and removes a temporary folder. Calling it again does nothing.
func (e *Ensemble) Close() error { return e.files.Close() }
