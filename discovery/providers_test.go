package discovery

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/zookeeper"
)

func TestStaticRefusesASetOfNobodyAndOneItCannotUse(t *testing.T) {
	for _, s := range []Static{nil, {"10.0.0.1"}} {
		err := s.Run(t.Context(), func(View) { t.Error("update was called") })
		if err == nil {
			t.Errorf("no error for %q", []string(s))
		}
	}
}

func fileRig(t *testing.T) rig {
	path := filepath.Join(t.TempDir(), "gateways")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return rig{
		Provider: File(path), delay: fileEvery,
		set:   func(addrs ...string) { write("# gateways\n" + strings.Join(addrs, "\n") + "\n") },
		fail:  func() { write("10.0.0.1:9090\n10.0.0.2:90") },
		clear: func() { write("# all commented out\n") },
	}
}

// fakeDNS answers as it is told.
type fakeDNS struct {
	mu  sync.Mutex
	ips []netip.Addr
	srv []*net.SRV
	err error
	n   int
}

func (f *fakeDNS) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	ips := slices.Clone(f.ips)
	if len(ips) > 0 { // a server turns its answers round
		k := f.n % len(ips)
		ips = append(ips[k:], ips[:k]...)
	}
	return ips, f.err
}

func (f *fakeDNS) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return "", slices.Clone(f.srv), f.err
}

func resolverRig(name string) rig {
	f := &fakeDNS{}
	d := DNS{Name: name, Resolver: f}
	return rig{
		Provider: d, delay: dnsEvery,
		set: func(addrs ...string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.ips, f.srv, f.err = nil, nil, nil
			for _, a := range addrs {
				ap := netip.MustParseAddrPort(a)
				f.ips = append(f.ips, netip.AddrFrom16(ap.Addr().As16())) // IPv4 in IPv6, as resolvers may give it
				f.srv = append(f.srv, &net.SRV{Target: ap.Addr().String() + ".", Port: ap.Port()})
			}
		},
		fail: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.err = &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
		},
		clear: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.ips, f.srv = nil, nil
		},
	}
}

func dnsRig(*testing.T) rig { return resolverRig("gw.example.org:9090") }
func srvRig(*testing.T) rig { return resolverRig("_thrift._tcp.example.org") }

func TestAGatewayWithAddressesOfBothKindsIsOne(t *testing.T) {
	f := &fakeDNS{ips: []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.0.1")}}
	d := DNS{Name: "gw:9090", Resolver: f}
	gs, err := d.resolve(t.Context())
	if err != nil || !slices.Equal(addrs(gs), []string{"10.0.0.1:9090"}) {
		t.Errorf("got %v, %v; want the IPv4 address alone", gs, err)
	}
	f.ips = f.ips[:1]
	gs, err = d.resolve(t.Context())
	if err != nil || !slices.Equal(addrs(gs), []string{"[2001:db8::1]:9090"}) {
		t.Errorf("got %v, %v; want the IPv6 address", gs, err)
	}
}

// fakeZoo is an ensemble in memory. Each watch has a goroutine of its own, as with a real one callbacks of different watches
// come at once.
type fakeZoo struct {
	mu      sync.Mutex
	nodes   map[string]string // data by full path
	err     map[string]error
	away    bool                     // nothing is heard of it
	slow    map[string]time.Duration // what is told of a path comes so late
	changed chan struct{}
}

func newZoo() *fakeZoo {
	return &fakeZoo{nodes: map[string]string{}, err: map[string]error{}, slow: map[string]time.Duration{}, changed: make(chan struct{})}
}

// do changes the ensemble and tells every watch.
func (z *fakeZoo) do(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
	close(z.changed)
	z.changed = make(chan struct{})
}

func (z *fakeZoo) watch(ctx context.Context, call func() (do func())) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			z.mu.Lock()
			changed := z.changed
			do := func() {}
			if !z.away {
				do = call()
			}
			z.mu.Unlock()
			if ctx.Err() != nil {
				return
			}
			do()
			select {
			case <-changed:
			case <-time.After(30 * time.Second):
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (z *fakeZoo) State() zookeeper.State {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.away {
		return zookeeper.Suspended
	}
	return zookeeper.Connected
}

func (z *fakeZoo) WatchNode(ctx context.Context, path string, f func(zookeeper.Node)) (stop func()) {
	return z.watch(ctx, func() func() {
		data, there := z.nodes[path]
		n := zookeeper.Node{Exists: there, Data: []byte(data), Err: z.err[path]}
		late := z.slow[path]
		return func() {
			select {
			case <-time.After(late):
			case <-ctx.Done():
			}
			f(n)
		}
	})
}

func (z *fakeZoo) WatchChildren(ctx context.Context, path string, f func(zookeeper.Listing)) (stop func()) {
	return z.watch(ctx, func() func() {
		_, there := z.nodes[path]
		l := zookeeper.Listing{Exists: there, Err: z.err[path]}
		for p := range z.nodes {
			if name, ok := strings.CutPrefix(p, path+"/"); ok {
				l.Children = append(l.Children, name)
			}
		}
		slices.Sort(l.Children)
		return func() { f(l) }
	})
}

// zooRig fails by an error that waiting alone does not mend.
func zooRig(*testing.T) rig {
	z := newZoo()
	return rig{
		delay:    time.Second,
		Provider: ZooKeeper{Ensemble: z, Path: "/buzzthrift", Rule: Rule{Template: "10.0.0.{number}:9090"}},
		set: func(addrs ...string) {
			z.do(func() {
				clear(z.nodes)
				clear(z.err)
				z.away = false
				z.nodes["/buzzthrift"] = ""
				for _, a := range addrs {
					n := strings.TrimSuffix(strings.TrimPrefix(a, "10.0.0."), ":9090")
					z.nodes["/buzzthrift/thrift_"+n] = `{"ok": true}`
				}
			})
		},
		fail: func() { z.do(func() { z.err["/buzzthrift"] = errors.New("odd") }) },
		clear: func() {
			z.do(func() {
				clear(z.nodes)
				z.nodes["/buzzthrift"] = ""
			})
		},
	}
}

// zooAwayRig fails by losing its connection.
func zooAwayRig(t *testing.T) rig {
	r := zooRig(t)
	z := r.Provider.(ZooKeeper).Ensemble.(*fakeZoo)
	r.fail = func() { z.do(func() { z.away = true }) }
	r.delay = zkPatience + 2*time.Second
	return r
}

// zoo runs a provider over nodes of /buzzthrift and gives the view of each step.
func zoo(t *testing.T, rule Rule, f func(z *fakeZoo, v *views, ended chan error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		z := newZoo()
		z.nodes["/buzzthrift"] = ""
		ctx, cancel := context.WithCancel(t.Context())
		v := &views{}
		ended := make(chan error, 1)
		go func() { ended <- ZooKeeper{z, "/buzzthrift", rule}.Run(ctx, v.update(t)) }()
		f(z, v, ended)
		cancel()
		<-ended
	})
}

func TestWhatTheDataOfANodeSays(t *testing.T) {
	data := map[string]string{
		"thrift_1":       `{"ok": true}`,
		"thrift_2":       ` {"ok":true} `,
		"thrift_3":       `{"ok": false}`,
		"thrift_4":       `{"ok": false, "reason": "threads exhausted"}`,
		"thrift_5":       `{"ok": tr`,
		"thrift_6":       ``,
		"thrift_7":       `yes`,
		"thrift_8":       `{"ok": "true"}`,
		"thrift_9":       `{}`,
		"thrift_10":      `{"ok": true, "zone": "dc2", "since": "2024-01-01"}`,
		"gw":             `{"host": "gw1.example", "port": 9091}`,
		"gw-quoted":      `{"ok": true, "host": "gw2.example", "port": "9091"}`,
		"gw-addr":        `{"ok": true, "addr": "GW3.example:9091"}`,
		"gw-half":        `{"ok": true, "host": "gw4.example"}`,
		"gw-text":        "gw5.example:9091\n",
		"gw-none":        `{"ok": true}`,
		"10.9.9.9:9090":  `{"ok": true}`,
		"gw-same":        "gw5.example:9091",
		"thrift_11":      `{"ok": true, "addr": "other:1"}`,
		"thrift_mapped":  `{"ok": true}`,
		"thrift_mapped2": `{"ok": false}`,
	}
	want := []Gateway{
		{Addr: "10.9.9.9:9090", Name: "10.9.9.9:9090"},
		{Addr: "gw1.example:9091", Name: "gw"},
		{Addr: "gw3.example:9091", Name: "gw-addr"},
		{Name: "gw-half", Out: "has one of host and port; want both"},
		{Name: "gw-none", Out: "neither its data nor its name is an address: give gateways.zookeeper.address a rule"},
		{Addr: "gw2.example:9091", Name: "gw-quoted"},
		{Addr: "gw5.example:9091", Name: "gw-same"},
		{Addr: "gw5.example:9091", Name: "gw-text", Out: "has the address of gw-same (gw5.example:9091)"},
		{Addr: "h1:1", Name: "thrift_1"},
		{Addr: "h2:1", Name: "thrift_2"},
		{Addr: "h3:1", Name: "thrift_3", Out: "ok is false"},
		{Addr: "h4:1", Name: "thrift_4", Out: "ok is false: threads exhausted"},
		{Addr: "h5:1", Name: "thrift_5", Out: `its data "{\"ok\": tr" is not sound JSON: invalid character ' ' in literal true (expecting 'u')`},
		{Addr: "h6:1", Name: "thrift_6", Out: `its data is empty; want {"ok": true}, or host:port`},
		{Addr: "h7:1", Name: "thrift_7", Out: `its data is "yes"; want {"ok": true}, or host:port`},
		{Addr: "h8:1", Name: "thrift_8", Out: `its data "{\"ok\": \"true\"}" is not sound JSON: ok is a string, which it cannot be`},
		{Addr: "h9:1", Name: "thrift_9", Out: `its data "{}" has neither ok nor an address; want {"ok": true}, or host:port`},
		{Addr: "h10:1", Name: "thrift_10", Zone: "dc2"},
		{Addr: "other:1", Name: "thrift_11"},
		{Addr: "mapped:9090", Name: "thrift_mapped"},
		{Addr: "mapped:9091", Name: "thrift_mapped2", Out: "ok is false"},
	}
	rule := Rule{Map: map[string]string{"thrift_mapped": "mapped:9090", "thrift_mapped2": "mapped:9091"}}
	for n := range 10 {
		rule.Map["thrift_"+string(rune('1'+n))] = "h" + string(rune('1'+n)) + ":1"
	}
	rule.Map["thrift_10"] = "h10:1"
	zoo(t, rule, func(z *fakeZoo, v *views, _ chan error) {
		z.do(func() {
			for name, d := range data {
				z.nodes["/buzzthrift/"+name] = d
			}
		})
		if d := cmp.Diff(want, v.last(0).Gateways); d != "" {
			t.Errorf("- wanted + seen:\n%s", d)
		}
	})
}

func TestAddressRules(t *testing.T) {
	for _, test := range []struct{ template, name, want string }{
		{"{name}.example:9090", "thrift_11", "thrift_11.example:9090"},
		{"10.0.0.{number}:9090", "thrift_07", "10.0.0.7:9090"},
		{"gw{digits}:9090", "thrift_07", "gw07:9090"},
		{"10.0.{number}.1:9090", "thrift_000", "10.0.0.1:9090"},
		{"10.0.0.{number}:9090", "thrift", ""},
		{"{name}:9090", "a b", ""},
		{"{name}", "gw:1", "gw:1"},
	} {
		got, err := Rule{Template: test.template}.apply(test.name)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s of %s is %q, %v; want %q", test.template, test.name, got, err, test.want)
		}
	}
}

func TestAMissingPermissionAtTheStartIsFatalAndNamesPathAndPermission(t *testing.T) {
	for _, path := range []string{"/buzzthrift", "/buzzthrift/thrift_1"} {
		synctest.Test(t, func(t *testing.T) {
			z := newZoo()
			z.nodes["/buzzthrift"] = ""
			z.nodes["/buzzthrift/thrift_1"] = `{"ok": true}`
			z.err[path] = zookeeper.ErrNoAuth
			err := ZooKeeper{Ensemble: z, Path: "/buzzthrift"}.Run(t.Context(), func(v View) { t.Errorf("a view of what cannot be read: %+v", v) })
			if err == nil || !strings.Contains(err.Error(), path+":") || !strings.Contains(err.Error(), "READ") {
				t.Errorf("error is %v, want one that names %s and READ", err, path)
			}
		})
	}
}

func TestAPermissionThatIsTakenAwayLaterIsAProblem(t *testing.T) {
	zoo(t, Rule{Template: "{name}:1"}, func(z *fakeZoo, v *views, ended chan error) {
		z.do(func() { z.nodes["/buzzthrift/a"], z.nodes["/buzzthrift/b"] = `{"ok": true}`, `{"ok": true}` })
		v.last(0)
		z.do(func() { z.err["/buzzthrift/b"] = zookeeper.ErrNoAuth })
		got := v.last(0)
		want := []Gateway{{Addr: "a:1", Name: "a"}, {Addr: "b:1", Name: "b", Out: "the permission READ is missing"}}
		if d := cmp.Diff(want, got.Gateways); d != "" {
			t.Errorf("without the permission on a child, - wanted + seen:\n%s", d)
		}
		z.do(func() { z.err["/buzzthrift"] = zookeeper.ErrNoAuth })
		if got = v.last(0); !strings.Contains(got.Problem, "READ") || len(got.Set()) != 1 {
			t.Errorf("without the permission on the path: %+v", got)
		}
		select {
		case err := <-ended:
			t.Errorf("Run ended with %v", err)
		default:
		}
	})
}

func TestAPathThatIsMissingIsShownAndNoEmptySet(t *testing.T) {
	zoo(t, Rule{Template: "{name}:1"}, func(z *fakeZoo, v *views, _ chan error) {
		z.do(func() { z.nodes["/buzzthrift/a"] = `{"ok": true}` })
		v.last(0)
		z.do(func() { clear(z.nodes) })
		if got := v.last(0); !got.Known || !strings.Contains(got.Problem, "no node /buzzthrift") {
			t.Errorf("without the path: %+v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		v := &views{}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { ZooKeeper{Ensemble: newZoo(), Path: "/buzzthrift"}.Run(ctx, v.update(t)) })
		if got := v.last(time.Minute); got.Known || !strings.Contains(got.Problem, "no node /buzzthrift") {
			t.Errorf("at a start without the path: %+v", got)
		}
	})
}

func TestAStartIsNeverSeenAsASmallFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZoo()
		z.nodes["/buzzthrift"] = ""
		for i, n := range "abcdefgh" {
			z.nodes["/buzzthrift/"+string(n)] = `{"ok": true}`
			z.slow["/buzzthrift/"+string(n)] = time.Duration(i) * time.Second
		}
		ctx, cancel := context.WithCancel(t.Context())
		v := &views{}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { ZooKeeper{z, "/buzzthrift", Rule{Template: "{name}:1"}}.Run(ctx, v.update(t)) })
		if got := v.last(10 * time.Second); len(got.Set()) != 8 {
			t.Fatalf("the view is %+v, want all 8", got)
		}
		for _, view := range v.all {
			if n := len(view.Set()); n != 8 && view.Known {
				t.Errorf("a view of %d of the 8 gateways at the start", n)
			}
		}
		if v.all[0].Problem == "" {
			t.Error("that the ensemble is late was not shown")
		}
		z.do(func() {
			z.err["/buzzthrift/a"] = errors.New("odd")
			z.nodes["/buzzthrift/new"], z.slow["/buzzthrift/new"] = `{"ok": true}`, time.Second
		})
		got := v.last(500 * time.Millisecond)
		if len(got.Set()) != 7 || got.Gateways[0].Out != "cannot be read: odd" {
			t.Errorf("a new node that is not read yet, and one that cannot be: %+v", got)
		}
		if got = v.last(time.Second); len(got.Set()) != 8 {
			t.Errorf("with the new node read: %+v", got)
		}
	})
}

func TestFiles(t *testing.T) {
	one := []Gateway{{Addr: "10.0.0.1:9090"}}
	for text, want := range map[string][]Gateway{
		"10.0.0.1:9090\n":                  one,
		"\n  10.0.0.1:9090  # the first\n": one,
		"10.0.0.1:9090\r\n":                one,
		"10.0.0.1:9090\n10.0.0.1:9090\n":   one,
		"10.0.0.1:09090\n":                 one,
		"[::1]:9090\n":                     {{Addr: "[::1]:9090"}},
		`["10.0.0.1:9090"]`:                one,
		" [\n\"10.0.0.1:9090\" ]\n":        one,
		`{"gateways": [{"addr": "10.0.0.1:9090"}], "from": "source"}`:             one,
		`[{"host": "a", "port": 1, "zone": "dc1", "name": "x"}, {"addr": "b:2"}]`: {{Addr: "a:1", Zone: "dc1", Name: "x"}, {Addr: "b:2"}},
		`[{"host": "::1", "port": 1, "name": "n", "ok": false}, "b:2"]`:           {{Addr: "[::1]:1", Name: "n", Out: "ok is false"}, {Addr: "b:2"}},
		`[{"addr": "b:2", "name": "one"}, {"addr": "b:2", "name": "two"}]`:        {{Addr: "b:2", Name: "one"}, {Addr: "b:2", Name: "two", Out: "has the address of one (b:2)"}},
		"": nil, "\n": nil, "# nobody\n": nil, "10.0.0.1:9090": nil, "10.0.0.1:9090\n10.0.0.": nil, "10.0.0.1\n": nil, "[]": nil, "{}": nil,
		`["10.0.0.1:9090"`: nil, `{"gateways": ["10.0.0.1:9090"`: nil, `[null]`: nil, `[1]`: nil, `[{}]`: nil, `["a:1"]x`: nil, `["a"]`: nil,
		"http://a:1\n": nil, "a:0\n": nil, "a:65536\n": nil, ":1\n": nil, "a b:1\n": nil, `{"gateways": {}}`: nil,
	} {
		got, err := ParseFile([]byte(text))
		if d := cmp.Diff(want, got); d != "" || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, - wanted + read:\n%s", text, err, d)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte("a:1\n# x\n[::1]:2\n"))
	f.Add([]byte(`{"gateways":[{"host":"a","port":"1"},"b:2"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		gs, err := ParseFile(data)
		if err == nil && len(gs) == 0 {
			t.Error("no gateway and no error")
		}
		for i, g := range gs {
			if again, err := ParseAddr(g.Addr); err != nil || again != g.Addr {
				t.Errorf("%q is no address of the one form: %q, %v", g.Addr, again, err)
			}
			if g.Out == "" && has(View{Gateways: gs[:i]}.Set(), g.Addr) {
				t.Errorf("%s stands twice", g.Addr)
			}
		}
	})
}

func FuzzParseData(f *testing.F) {
	for _, s := range []string{`{"ok": true}`, `{"ok":false,"reason":"x"}`, "a:1", `{"host":"a","port":1}`, ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseData(data)
		ch := child{read: true, node: zookeeper.Node{Exists: true, Data: data}}
		g := ch.gateway("thrift_1", Rule{})
		if g.Out == "" {
			if _, bad := ParseAddr(g.Addr); err != nil || bad != nil || e.OK != nil && !*e.OK {
				t.Errorf("%q is of the set as %+v (%v)", data, g, err)
			}
		}
	})
}
