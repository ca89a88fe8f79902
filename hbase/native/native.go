// Package native speaks with HBase itself, past the gateways: it asks for what Thrift2 cannot tell and for the rows of tables, and
// has a gateway of one's own, which puts and deletes too. It does so through gohbase, behind an interface small enough to be served
// by another client one day. Where region servers cannot be reached, or ask for Kerberos, this is not the way: use the gateways.
//
// gohbase's calls can block without end while ZooKeeper or the master is away, and some of its paths end the process. So nothing
// of it runs where rows are moved. It runs in a child process of the same binary, whose death is only an error: Ask starts one for
// one question and kills it when its time is over, a Client keeps one that reads tables, and starts another when it died or hangs, and
// a Gateway keeps one that serves Thrift2, over connections that it hands to it.
//
// A lane is a socket between a Client and its child, with one call at a time; a page is what a call of a scan brings. A scan stays
// open in the child between the pages of a lane, as long as each page goes on where the one before it ended: this is an
// optimisation that Clients cannot see, for each call says all that is needed to begin the scan anew.
package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tsuna/gohbase"
)

// Cluster is what the master says of itself and its region servers.
type Cluster struct {
	ID      string   `json:"id"`
	Version string   `json:"version"`
	Master  string   `json:"master"`
	Servers []Server `json:"servers"`
	Dead    []string `json:"dead,omitempty"` // servers the master has given up
}

// Server is a live region server.
type Server struct {
	Name     string `json:"name"` // host:port
	Regions  int    `json:"regions"`
	Requests int64  `json:"requests"` // a second, as the master last heard
}

// Status asks the master that a ZooKeeper quorum ("host:port,host:port") names. It may block for as long as it likes and
// may end the process: see Ask.
func Status(quorum string) (Cluster, error) {
	logrus.SetLevel(logrus.FatalLevel) // what is not fatal comes back as an error
	hosts, options := clientOptions(quorum)
	return statusOf(gohbase.NewAdminClient(hosts, options...), quorum)
}

func statusOf(master gohbase.AdminClient, quorum string) (Cluster, error) {
	s, err := master.ClusterStatus()
	if err != nil {
		return Cluster{}, fmt.Errorf("ask the master that %s names: %w", quorum, err)
	}
	c := Cluster{ID: s.GetClusterId().GetClusterId(), Version: s.GetHbaseVersion().GetVersion()}
	if m := s.GetMaster(); m != nil {
		c.Master = fmt.Sprintf("%s:%d", m.GetHostName(), m.GetPort())
	}
	for _, l := range s.GetLiveServers() {
		c.Servers = append(c.Servers, Server{
			Name:    fmt.Sprintf("%s:%d", l.GetServer().GetHostName(), l.GetServer().GetPort()),
			Regions: len(l.GetServerLoad().GetRegionLoads()), Requests: int64(l.GetServerLoad().GetNumberOfRequests()),
		})
	}
	for _, d := range s.GetDeadServers() {
		c.Dead = append(c.Dead, fmt.Sprintf("%s:%d", d.GetHostName(), d.GetPort()))
	}
	return c, nil
}

// Command is the hidden command by which a child process of the same binary runs Status and prints a Cluster as JSON.
const Command = "native-status"

// Ask runs Status in a child process and gives it at most the time given.
func Ask(ctx context.Context, quorum string, atMost time.Duration) (Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	var said strings.Builder
	cmd := itself(ctx, Command, quorum)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return Cluster{}, fmt.Errorf("no HBase master answered through ZooKeeper %s within %v: check the address and that the master is up", quorum, atMost)
	}
	if err != nil {
		return Cluster{}, errors.New(strings.TrimSpace(said.String()))
	}
	var c Cluster
	if err := json.Unmarshal(out, &c); err != nil {
		return Cluster{}, fmt.Errorf("read what the child process said of %s: %w", quorum, err)
	}
	return c, nil
}
