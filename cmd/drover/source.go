package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"drover/discovery"
	"drover/durable"
	"drover/hbase"
	"drover/jobfile"
	"drover/jobs"
	"drover/runner"
	"drover/zookeeper"
)

// gatewaySource is where the gateways of a job are learned of, ready to be guarded.
type gatewaySource struct {
	provider  discovery.Provider
	what      string // for people
	dir       string // of its guards on this host
	trust     bool   // a person's own list
	readOnly  bool   // nothing is kept on this host
	zone      string // where this process is
	transport hbase.Transport
	close     func()
}

// zoneOf is where this process is: DROVER_ZONE goes before the job file, which may be the same on every host.
func zoneOf(g jobs.Gateways) string {
	if z := os.Getenv("DROVER_ZONE"); z != "" {
		return z
	}
	return g.Zone
}

// openGateways opens the source that g names, which is no gateway of drover's own. f has the TLS files of ZooKeeper; nil is none.
func openGateways(f *jobfile.File, g jobs.Gateways, log *slog.Logger) (*gatewaySource, error) {
	s := &gatewaySource{zone: zoneOf(g), transport: g.Transport, close: func() {}}
	var zones []discovery.Zone
	for _, z := range g.Zones {
		zones = append(zones, discovery.Zone{Name: z.Name, Gateways: z.Gateways})
	}
	var id string
	switch {
	case g.File != "":
		s.provider, s.what, id = discovery.File(g.File), "file "+g.File, "file "+g.File
	case g.DNS != "":
		s.provider, s.what, id = discovery.DNS{Name: g.DNS}, "dns "+g.DNS, "dns "+strings.ToLower(g.DNS)
	case g.ZooKeeper != nil:
		z := g.ZooKeeper
		client, err := openZooKeeper(f.ZooKeeperTLS, &z.Ensemble, s.zone, zones, log)
		if err != nil {
			return nil, err
		}
		s.close = func() { client.Close() }
		s.provider = discovery.ZooKeeper{Ensemble: client, Path: z.Path, Rule: discovery.Rule{Template: z.Address, Map: z.Addresses}}
		s.what = "zookeeper " + strings.Join(z.Servers, ",") + " " + z.Path
		id = "zookeeper " + sorted(z.Servers) + " " + z.Path
	default:
		s.provider, s.trust = discovery.Static(g.Static), true
		s.what, id = "static, "+plural(len(g.Static), "gateway"), "static "+sorted(g.Static)
	}
	if len(zones) > 0 {
		s.provider = discovery.Zoned{Provider: s.provider, Zones: zones}
	}
	kind, _, _ := strings.Cut(id, " ")
	s.dir = filepath.Join(gatewaysDir(), fmt.Sprintf("%s-%016x", kind, xxh3.HashString(id)))
	return s, nil
}

func sorted(list []string) string {
	return strings.ToLower(strings.Join(slices.Sorted(slices.Values(list)), ","))
}

func openZooKeeper(tlsOf func() (*tls.Config, error), z *jobs.Ensemble, zone string, zones []discovery.Zone, log *slog.Logger) (*zookeeper.Client, error) {
	c := zookeeper.Config{Servers: z.Servers, SessionTimeout: z.SessionTimeout, Log: log}
	for _, s := range z.Servers {
		if discovery.SameCentre(zone, discovery.ZoneOf(zones, discovery.Gateway{Addr: s})) {
			c.Local = append(c.Local, s)
		}
	}
	if z.Auth != "" {
		auth, err := zookeeperAuth(z.Auth)
		if err != nil {
			return nil, err
		}
		c.Auth = []zookeeper.Auth{auth}
	}
	if z.TLS {
		conf, err := tlsOf()
		if err != nil {
			return nil, err
		}
		c.TLS = conf
	}
	return zookeeper.Open(c)
}

func zookeeperAuth(s string) (zookeeper.Auth, error) {
	if name, ok := strings.CutPrefix(s, "env:"); ok {
		if s = os.Getenv(name); s == "" {
			return zookeeper.Auth{}, fmt.Errorf("the ZooKeeper auth names the variable %s, which is not set: give it digest:USER:PASSWORD", name)
		}
	}
	scheme, credential, ok := strings.Cut(s, ":")
	if !ok || scheme != "digest" || !strings.Contains(credential, ":") {
		return zookeeper.Auth{}, errors.New("the ZooKeeper auth is not digest:USER:PASSWORD") // it is a secret: it is not shown
	}
	return zookeeper.Auth{Scheme: scheme, Credential: credential}, nil
}

// guard makes the guard of the source on this host.
func (s *gatewaySource) guard(alert func(discovery.Alert)) *discovery.Guard {
	return &discovery.Guard{
		Provider: s.provider, Dir: s.dir, ReadOnly: s.readOnly, Trust: s.trust, Alert: alert,
		Probe: func(ctx context.Context, addr string) error { return probeGateway(ctx, addr, s.transport) },
	}
}

// follow gives the gateways to use until ctx ends: those that the guard believes, near ones first. Alerts are logged, and given to
// told, which may be nil.
func (s *gatewaySource) follow(ctx context.Context, log *slog.Logger, told func(discovery.Alert), healthy func(addr string) bool, update func([]hbase.Endpoint)) error {
	if !s.readOnly {
		s.note()
	}
	guard := s.guard(func(a discovery.Alert) {
		tell(log, a)
		if told != nil {
			told(a)
		}
	})
	p := &discovery.Prefer{Zone: s.zone}
	far := false
	return discovery.Near(ctx, guard.Run, p, healthy, func(gs []discovery.Gateway) {
		if now := p.Far(); now != far {
			far = now
			if far {
				log.Warn("gateways: too few of the own zone are healthy, others are used too", "zone", s.zone)
			} else {
				log.Info("gateways: those of the own zone are healthy again, and used alone", "zone", s.zone)
			}
		}
		update(endpoints(gs))
	})
}

// sourceFile says in a guard's folder which source it is of.
const sourceFile = "source"

// note writes what the folder is of, for a pin that names no source. It is of use to people only: its failure is the guard's to
// report, when that writes there.
func (s *gatewaySource) note() {
	path := filepath.Join(s.dir, sourceFile)
	if have, err := os.ReadFile(path); err == nil && string(have) == s.what+"\n" {
		return
	}
	if durable.MakeDir(s.dir) == nil {
		_ = durable.Replace(path, []byte(s.what+"\n"))
	}
}

// probeGateway tells whether a gateway answers and reaches HBase. What HBase says does not matter.
func probeGateway(ctx context.Context, addr string, t hbase.Transport) error {
	if f := hbase.Diagnose(ctx, addr, t); f.Condition != hbase.Sound {
		return fmt.Errorf("%s: %s", f.Condition, f.Reason)
	}
	return nil
}

// over is what is said at the end of an alert.
var over = map[discovery.AlertKind]string{
	discovery.HeldAlert:     "nothing is held any more",
	discovery.LastGoodAlert: "the source was read",
	discovery.PinAlert:      "the pin was taken away",
	discovery.ProblemAlert:  "the source can be read again",
	discovery.DiskAlert:     "what is known of them is kept again",
}

// tell logs an alert.
func tell(log *slog.Logger, a discovery.Alert) {
	if a.Text == "" {
		log.Info("gateways: " + over[a.Kind])
		return
	}
	log.Warn("gateways: " + plainText(a.Text))
}

func endpoints(gs []discovery.Gateway) []hbase.Endpoint {
	eps := make([]hbase.Endpoint, len(gs))
	for i, g := range gs {
		eps[i] = hbase.Endpoint{Addr: g.Addr}
	}
	return eps
}

// healthIn tells how the run's pool finds a gateway.
func healthIn(m *runner.Monitor) func(addr string) bool {
	return func(addr string) bool {
		for _, g := range m.Look().Gateways.Gateways {
			if g.Addr == addr {
				return g.State == "healthy" || g.State == "slow"
			}
		}
		return true
	}
}
