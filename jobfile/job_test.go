package jobfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"drover/fleet/tick"
	"drover/hbase"
	"drover/jobs"
	"drover/jobs/hbasetable"
)

// load reads a good file of testdata.
func load(t *testing.T, name string) *File {
	t.Helper()
	f, err := Load(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if f.Job().Source == nil || f.Job().Mapping == nil {
		t.Fatal("a job without source or mapping")
	}
	return f
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func TestGoodFiles(t *testing.T) {
	for _, test := range []struct {
		file     string
		want     jobs.Job // without source and mapping
		warnings int
	}{
		{
			file: "issue.yaml",
			want: jobs.Job{
				Name: "shipwrecks",
				Target: jobs.Target{
					Table: "shipwrecks", Existing: jobs.Refuse, Create: true, Regions: 8, Durability: hbase.SyncWAL,
					Families: []hbase.Family{{Name: "d", Versions: 1, Compression: "none", Bloom: "row", Encoding: "none"}},
				},
				Limits:      jobs.Limits{Rows: 5000, Bytes: 8 << 20},
				Gateways:    jobs.Gateways{Static: []string{"127.0.0.1:9090", "127.0.0.1:9091"}, OutageLimit: 30 * time.Minute},
				DeadLetters: jobs.DeadLetters{To: absolute(t, "testdata/DIR")},
			},
		},
		{
			file: "everything.yaml",
			want: jobs.Job{
				Name: "ships-2024.v1_a", Shards: 100_000,
				Target: jobs.Target{
					Table: "fleet:ships", Existing: jobs.Merge, Create: true, Regions: 100_000, Durability: hbase.SkipWAL,
					Families: []hbase.Family{
						{Name: "d", Versions: 3, Compression: "zstd", Bloom: "rowcol", TTL: 90 * 24 * time.Hour, Encoding: "fast_diff"},
						{Name: "e", Versions: 1, Compression: "none", Bloom: "row", Encoding: "none"},
						{Name: "f", Versions: 1, Compression: "none", Bloom: "row", Encoding: "none"},
					},
				},
				Limits: jobs.Limits{Rows: 5000, Bytes: 1_500_000},
				Ramp:   jobs.Ramp{Steps: []int{10, 30, 50, 70, 85, 100}, Every: time.Minute},
				Gateways: jobs.Gateways{
					Static:      []string{"gw1.example.org:9090", "10.0.0.2:9091", "[fe80::1]:9090"},
					Transport:   hbase.Transport{Compact: true, HTTP: true, Path: "/thrift", TLS: &tls.Config{ServerName: "gateways.example.org", MinVersion: tls.VersionTLS12}},
					Connections: 16,
					OutageLimit: 90 * time.Minute,
				},
				DeadLetters: jobs.DeadLetters{Max: jobs.Unlimited, To: absolute(t, "testdata/letters")},
			},
			warnings: 1,
		},
		{
			file: "framed.yaml",
			want: jobs.Job{
				Name:        "framed",
				Target:      jobs.Target{Table: "{database}:{collection}_v2", Existing: jobs.Refuse, Regions: 1, Durability: hbase.SyncWAL},
				Limits:      jobs.Limits{Bytes: 65536},
				Gateways:    jobs.Gateways{Static: []string{"gw1:9090"}, Subset: 4, Transport: hbase.Transport{Framed: true, MaxFrame: 4 << 20, TLS: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}},
				DeadLetters: jobs.DeadLetters{Max: 25},
			},
			warnings: 1,
		},
		{
			file: "embedded.yaml",
			want: jobs.Job{
				Name:     "embedded",
				Target:   jobs.Target{Table: "ships", Existing: jobs.Refuse, Regions: 1, Durability: hbase.AsyncWAL},
				Gateways: jobs.Gateways{Embedded: absolute(t, "testdata/gw"), OutageLimit: 30 * time.Minute},
			},
			warnings: 1,
		},
		{
			file: "native.yaml",
			want: discovered(jobs.Gateways{Native: "zk1:2181,zk2:2181/hbase-secure"}),
		},
		{
			file: "file.yaml",
			want: discovered(jobs.Gateways{File: absolute(t, "testdata/gateways.json"), Zone: "dc1"}),
		},
		{
			file: "dns.yaml",
			want: discovered(jobs.Gateways{DNS: "_thrift._tcp.example.org"}),
		},
		{
			file: "zookeeper.yaml",
			want: discovered(jobs.Gateways{
				ZooKeeper: &jobs.ZooKeeper{
					Ensemble: jobs.Ensemble{
						Servers: []string{"zk1.example.org:2181", "zk2.example.org:2181", "[fe80::3]:2181"}, Path: "/buzzthrift",
						SessionTimeout: 20 * time.Second, Auth: "env:DROVER_ZOOKEEPER_AUTH", TLS: true,
					},
					Address: "{name}.example.org:9090",
				},
				Zone:  "dc1/rack7",
				Zones: []jobs.Zone{{Name: "dc1", Gateways: []string{"10.1.0.0/16", "thrift_1?"}}, {Name: "dc2", Gateways: []string{"*"}}},
			}),
		},
		{
			file: "zookeeper-map.yaml",
			want: discovered(jobs.Gateways{ZooKeeper: &jobs.ZooKeeper{
				Ensemble:  jobs.Ensemble{Servers: []string{"zk1:2181"}, Path: "/buzzthrift", Auth: "digest:drover:secret", TLS: true},
				Addresses: map[string]string{"thrift_11": "10.0.0.11:9090", "thrift_15": "gw15.example.org:9090"},
			}}),
			warnings: 2,
		},
		{
			file: "pool.yaml",
			want: pooled(jobs.Job{
				Limits: jobs.Limits{Rows: 5000},
				Daily:  jobs.Daily{Windows: "mon-fri 08:00-18:00: 20%, sat,sun: 50 %", Zone: "Europe/Berlin"},
				Pool: &jobs.Ensemble{
					Servers: []string{"zk1.example.org:2181", "zk2.example.org:2181"}, Path: "/drover/east",
					SessionTimeout: 30 * time.Second, Auth: "env:DROVER_ZOOKEEPER_AUTH", TLS: true,
				},
				Pooled: true, Priority: jobs.Urgent, Weight: 1000,
				Needs:       map[string]string{"dc": "east", "rack": "7", "example.org/dumps": "nfs"},
				DeadLetters: jobs.DeadLetters{To: "/mnt/shared/letters", Shared: true},
			}),
		},
		{
			file: "pool-short.yaml",
			want: pooled(jobs.Job{
				Limits:   jobs.Limits{Bytes: 8 << 20},
				Daily:    jobs.Daily{Windows: "night: 100%, day: 20%"},
				Pool:     &jobs.Ensemble{Servers: []string{"zk1:2181", "zk2:2181"}, Path: "/drover/main"},
				Priority: jobs.Low, Weight: 1,
				DeadLetters: jobs.DeadLetters{Table: "drover_dead"},
			}),
		},
		{
			file: "pool-table.yaml",
			want: pooled(jobs.Job{
				Pool:        &jobs.Ensemble{Servers: []string{"zk1:2181"}, Path: "/drover/main", TLS: true},
				DeadLetters: jobs.DeadLetters{Table: "ops:letters"},
			}),
			warnings: 1,
		},
	} {
		t.Run(test.file, func(t *testing.T) {
			f := load(t, test.file)
			if diff := cmp.Diff(test.want, f.Job(), cmpopts.IgnoreFields(jobs.Job{}, "Source", "Mapping"), cmpopts.IgnoreUnexported(tls.Config{})); diff != "" {
				t.Errorf("job differs (-want +got):\n%s", diff)
			}
			if n := len(f.Warnings()); n != test.warnings {
				t.Errorf("%d warnings, want %d: %q", n, test.warnings, f.Warnings())
			}
		})
	}
}

// discovered is the job of the files that differ in their gateways only.
func discovered(g jobs.Gateways) jobs.Job {
	g.OutageLimit = defaultOutage
	return jobs.Job{Name: "ships", Target: jobs.Target{Table: "ships", Existing: jobs.Refuse, Regions: 1, Durability: hbase.SyncWAL}, Gateways: g}
}

// pooled completes the job of the files that differ in what they say to a pool.
func pooled(j jobs.Job) jobs.Job {
	base := discovered(jobs.Gateways{Static: []string{"gw1:9090"}})
	j.Name, j.Target, j.Gateways = base.Name, base.Target, base.Gateways
	return j
}

func TestSchedules(t *testing.T) {
	for file, want := range map[string]*tick.Settings{
		"pool.yaml": {
			Cron: "30 2 * * mon-fri", Zone: "Europe/Berlin", Overlap: tick.Replace, Misfire: 10 * time.Minute, CatchUp: 3, Deadline: 6 * time.Hour,
			Blackout: []string{"2026-12-24..2026-12-26", "mon 02:00-04:00"},
		},
		"pool-short.yaml": {Cron: "0 3 * * *"},
		"pool-table.yaml": {Cron: "@daily", Blackout: []string{"sat"}},
		"issue.yaml":      nil,
	} {
		if diff := cmp.Diff(want, load(t, file).Schedule()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func TestParseZooKeeper(t *testing.T) {
	for text, want := range map[string]jobs.Ensemble{
		"zk1:2181,zk2:2181/drover/east": {Servers: []string{"zk1:2181", "zk2:2181"}, Path: "/drover/east"},
		" [::1]:2181 , zk2:2181 ":       {Servers: []string{"[::1]:2181", "zk2:2181"}, Path: "/drover/main"},
	} {
		got, err := ParseZooKeeper(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", text, err, diff)
		}
	}
	for text, want := range map[string]string{
		"": "names no server", "/drover/main": "names no server", "zk1": `as in "zk1:2181"`, "zk1:2181,": "a comma too many", "zk1:2181,ZK1:2181": "twice",
		"zk1:2181/": "want a node for the pool", "zk1:2181/zookeeper": "ZooKeeper's own", "zk1:2181/a//b": "empty step", "zk1:2181/a/": "ends with '/'",
		"zookeeper://zk1:2181": "is a URL", "zk1:99999": "want a number from 1 to 65535",
	} {
		if e, err := ParseZooKeeper(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v, %v; want %q", text, e, err, want)
		}
	}
}

func TestPoolTLSIsTheSectionsOwn(t *testing.T) {
	f := load(t, "pool-table.yaml")
	if c, err := f.PoolTLS(); err != nil || c == nil || !c.InsecureSkipVerify {
		t.Errorf("got %+v, %v", c, err)
	}
	if c, err := f.ZooKeeperTLS(); err != nil || c != nil {
		t.Errorf("that of the gateways' ensemble is %+v, %v", c, err)
	}
}

func TestPriorityIsAClass(t *testing.T) {
	for p, want := range map[jobs.Priority]int{jobs.Urgent: 0, jobs.High: 1, jobs.Normal: 2, "": 2, jobs.Low: 3} {
		if got := p.Class(); got != want {
			t.Errorf("%q: class %d, want %d", p, got, want)
		}
	}
}

func TestWarningsTellOfLossAndTrust(t *testing.T) {
	for file, want := range map[string]string{
		"everything.yaml": "target.durability is skip_wal: rows that a run counts as written are LOST",
		"embedded.yaml":   "target.durability is async_wal: rows that a run counts as written are LOST",
		"framed.yaml":     "gateways.tls.insecure_skip_verify is set",
	} {
		if got := strings.Join(load(t, file).Warnings(), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s warns %q, want %q in it", file, got, want)
		}
	}
}

// TestPathsStartFromTheJobFile loads one file from two working directories, as a shell and cron do.
func TestPathsStartFromTheJobFile(t *testing.T) {
	want := load(t, "everything.yaml")
	t.Chdir("testdata")
	got, err := Load("everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Job().Source.Describe(), got.Job().Source.Describe()); diff != "" {
		t.Errorf("the source depends on the working directory:\n%s", diff)
	}
	if a, b := want.Job().DeadLetters.To, got.Job().DeadLetters.To; a != b || !filepath.IsAbs(a) {
		t.Errorf("dead letters go to %s and to %s, want one absolute folder", a, b)
	}
	if diff := cmp.Diff(want.tls, got.tls, cmp.AllowUnexported(tlsFiles{})); diff != "" {
		t.Errorf("the TLS files depend on the working directory:\n%s", diff)
	}
	if got.tls.ca != filepath.Join(absolute(t, "."), "tls/ca.pem") || got.tls.cert != "/etc/drover/cert.pem" {
		t.Errorf("TLS files are %+v", got.tls)
	}
}

func TestUnreadableFileIsNotAFault(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "job.yaml"))
	var faults *Errors
	if !errors.Is(err, fs.ErrNotExist) || errors.As(err, &faults) {
		t.Errorf("error is %v, want one that says the file does not exist", err)
	}
}

// TestFamiliesAreThoseTheMappingWrites compares what this package believes a mapping writes to with what it says itself.
func TestFamiliesAreThoseTheMappingWrites(t *testing.T) {
	const head = "name: a\nsource: {mongodump: a}\ntarget: {table: a, create: true, families: {none: }}\ngateways: {embedded: a}\n"
	for _, spec := range []string{
		`{family: d}`,
		`{family: d, document: "e:_doc"}`,
		`{document: "e:_doc"}`,
		`{family: d, document: _doc}`,
		`{family: d, columns: [{from: a, to: "f:a"}]}`,
		`{family: d, columns: [{from: a, to: a}, {from: b, to: "g:b"}]}`,
		`{columns: [{from: a, to: "f:a"}, {from: b, to: "g:b"}], document: "f:_doc"}`,
	} {
		f, err := Parse("job.yaml", []byte(strings.ReplaceAll(head, "create: true, families: {none: }", "create: false")+"map: "+spec+"\n"))
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		writes := f.Job().Mapping.Families()
		var refused *Errors
		if _, err := Parse("job.yaml", []byte(head+"map: "+spec+"\n")); !errors.As(err, &refused) {
			t.Errorf("%s: error is %v, want one fault for each family of %v", spec, err, writes)
			continue
		}
		for _, family := range writes {
			if !strings.Contains(refused.Error(), `family "`+family+`" is not among`) {
				t.Errorf("%s writes to family %s, which is not refused:\n%v", spec, family, refused)
			}
		}
		all := "{" + strings.Join(writes, ": , ") + ": }"
		if _, err := Parse("job.yaml", []byte(strings.ReplaceAll(head, "{none: }", all)+"map: "+spec+"\n")); err != nil {
			t.Errorf("%s with families %s: %v", spec, all, err)
		}
	}
}

func TestAFrameBoundsTheRow(t *testing.T) {
	for gateways, want := range map[string]int{
		`static: ["a:1"]`:                                    0,
		`static: ["a:1"], framed: true`:                      2<<20 - frameRoom,
		`static: ["a:1"], framed: true, max_frame: 64KiB`:    64<<10 - frameRoom,
		`static: ["a:1"], framed: false`:                     0,
		`static: ["a:1"], http: true`:                        0,
		`framed: true, max_frame: 16777216, static: ["a:1"]`: 16<<20 - frameRoom,
	} {
		d := &decoder{walker: walker{at: map[string]span{}, bad: map[string]bool{}}}
		root, ok := d.parse([]byte("gateways: {" + gateways + "}\n"))
		if !ok {
			t.Fatal(d.faults)
		}
		d.root(root)
		if got := d.file.maxRow(); got != want {
			t.Errorf("%s: rows have at most %d bytes, want %d", gateways, got, want)
		}
	}
}

func TestTLSReadsItsFilesWhenAsked(t *testing.T) {
	dir := t.TempDir()
	job := func(keys string) *File {
		t.Helper()
		f, err := Parse(filepath.Join(dir, "job.yaml"), []byte("name: a\nsource: {mongodump: a}\ntarget: {table: a}\nmap: {family: d}\ngateways: {static: [\"gw:1\"], "+keys+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if c, err := job("http: false").TLS(); c != nil || err != nil {
		t.Errorf("without tls: got %v, %v; want nil, nil", c, err)
	}
	if c, err := job("tls: {}").TLS(); err != nil || c == nil || c.RootCAs != nil || c.InsecureSkipVerify {
		t.Errorf("tls: {}: got %+v, %v; want the system's certificates", c, err)
	}

	f := job("tls: {ca: ca.pem, cert: me.pem, key: me.key, server_name: gw}")
	if f.Job().Gateways.Transport.TLS == nil {
		t.Error("before its files are read the transport is plain: a caller that forgets TLS would send in the clear")
	}
	if _, err := f.TLS(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "gateways.tls.ca") {
		t.Errorf("without the CA's file: error is %v", err)
	}
	cert, key := selfSigned(t)
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", []byte("not a certificate"))
	if _, err := f.TLS(); err == nil || !strings.Contains(err.Error(), "no certificate in PEM form") {
		t.Errorf("with a CA's file of another kind: error is %v", err)
	}
	write("ca.pem", cert)
	if _, err := f.TLS(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "gateways.tls.cert") {
		t.Errorf("without the certificate's file: error is %v", err)
	}
	write("me.pem", cert)
	write("me.key", key)
	c, err := f.TLS()
	if err != nil || c.RootCAs == nil || len(c.Certificates) != 1 || c.ServerName != "gw" {
		t.Errorf("with all files: got %+v, %v", c, err)
	}
}

func selfSigned(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gw"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// TestWaysOfWriting checks values that are right in more than one form.
func TestWaysOfWriting(t *testing.T) {
	const head = "name: a\nsource: {mongodump: a}\ntarget: {table: a}\nmap: {family: d}\n"
	for _, test := range []struct {
		yaml string
		got  func(jobs.Job) any
		want any
	}{
		{`gateways: {static: [gw1:9090, 10.0.0.1:9090]}`, func(j jobs.Job) any { return j.Gateways.Static }, []string{"gw1:9090", "10.0.0.1:9090"}},
		{"gateways:\n  static:\n  - gw1:9090\n  - '[::1]:9'\n", func(j jobs.Job) any { return j.Gateways.Static }, []string{"gw1:9090", "[::1]:9"}},
		{`gateways: {embedded: /a/../b/}`, func(j jobs.Job) any { return j.Gateways.Embedded }, "/b"},
		{`gateways: {embedded: ./gw}`, func(j jobs.Job) any { return j.Gateways.Embedded }, "gw"},
		{`gateways: {embedded: a, outage_limit: 0}`, func(j jobs.Job) any { return j.Gateways.OutageLimit }, time.Duration(0)},
		{`gateways: {embedded: a, outage_limit: 0s}`, func(j jobs.Job) any { return j.Gateways.OutageLimit }, time.Duration(0)},
		{`gateways: {embedded: a, outage_limit: 1d2h3m4s5ms}`, func(j jobs.Job) any { return j.Gateways.OutageLimit }, 26*time.Hour + 3*time.Minute + 4*time.Second + 5*time.Millisecond},
		{`gateways: {native: zk1:2181}`, func(j jobs.Job) any { return j.Gateways.Native }, "zk1:2181"},
		{`gateways: {native: "zk1:2181,[::1]:2182/hbase-secure"}`, func(j jobs.Job) any { return j.Gateways.Native }, "zk1:2181,[::1]:2182/hbase-secure"},
		{`gateways: {native: "zk1:2181", connections: 3}`, func(j jobs.Job) any { return j.Gateways.Connections }, 3},
		{`gateways: {native: "zk1:2181", outage_limit: 0}`, func(j jobs.Job) any { return j.Gateways.OutageLimit }, time.Duration(0)},
		{`gateways: {static: ["a:1"], http: true}`, func(j jobs.Job) any { return j.Gateways.Transport }, hbase.Transport{HTTP: true, Path: "/"}},
		{"gateways: {embedded: a}\nlimits: {}", func(j jobs.Job) any { return j.Limits }, jobs.Limits{}},
		{"gateways: {embedded: a}\nlimits: {bytes: 1}", func(j jobs.Job) any { return j.Limits.Bytes }, int64(1)},
		{"gateways: {embedded: a}\nlimits: {bytes: 2 GiB}", func(j jobs.Job) any { return j.Limits.Bytes }, int64(2 << 30)},
		{"gateways: {embedded: a}\nlimits: {bytes: 3KB}", func(j jobs.Job) any { return j.Limits.Bytes }, int64(3000)},
		{"gateways: {embedded: a}\nlimits: {bytes: '512KiB'}", func(j jobs.Job) any { return j.Limits.Bytes }, int64(512 << 10)},
		{"gateways: {embedded: a}\nlimits: {bytes: 8388607TiB}", func(j jobs.Job) any { return j.Limits.Bytes }, int64(8388607 << 40)},
		{"gateways: {embedded: a}\ndead_letters: {}", func(j jobs.Job) any { return j.DeadLetters }, jobs.DeadLetters{}},
		{"\uFEFF# byte order mark\n---\ngateways: {embedded: a}\n...\n", func(j jobs.Job) any { return j.Name }, "a"},
	} {
		text := head + test.yaml + "\n"
		if rest, ok := strings.CutPrefix(test.yaml, "\uFEFF# byte order mark\n---\n"); ok {
			text = "\uFEFF# byte order mark\n---\n" + head + rest
		}
		f, err := Parse("job.yaml", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", test.yaml, err)
			continue
		}
		if diff := cmp.Diff(test.want, test.got(f.Job())); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.yaml, diff)
		}
	}
}

func TestAFileThatIsNoJobIsRefusedAtOnce(t *testing.T) {
	for name, data := range map[string]string{
		"too large":                strings.Repeat("# a comment\n", maxFile/12+1),
		"deep flow":                strings.Repeat("[", maxFile/2),
		"deep mappings":            strings.Repeat("{a: ", maxFile/8),
		"deep lists":               strings.Repeat("- ", maxFile/2),
		"deep lists over lines":    strings.Repeat("[\n", maxFile/3),
		"many anchors":             strings.Repeat("&a ", maxFile/3),
		"many tags":                strings.Repeat("!a ", maxFile/3),
		"many explicit keys":       strings.Repeat("? ", maxFile/2),
		"explicit keys over lines": strings.Repeat("?\n", maxFile/2),
	} {
		start := time.Now()
		_, err := Parse("job.yaml", []byte(data))
		var faults *Errors
		if !errors.As(err, &faults) {
			t.Errorf("%s: error is %v, want *Errors", name, err)
		}
		if spent := time.Since(start); spent > 5*time.Second {
			t.Errorf("%s: took %v", name, spent)
		}
	}
}

// TestAThousandColumns holds the size of a real job, at the most.
func TestAThousandColumns(t *testing.T) {
	var b strings.Builder
	b.WriteString("name: a\nsource: {mongodump: a}\ntarget: {table: a}\ngateways: {embedded: a}\nmap:\n  columns:\n")
	for i := range 1000 {
		s := string(rune('a'+i%26)) + strings.Repeat("x", 1+i/26)
		b.WriteString("    - {from: " + s + ".field, to: \"d:" + s + "\", encoding: json}\n")
	}
	if _, err := Parse("job.yaml", []byte(b.String())); err != nil {
		t.Fatal(err)
	}
}

// sources counts the ways in which gateways are named.
func sources(g jobs.Gateways) int {
	n := 0
	for _, given := range []bool{g.Static != nil, g.File != "", g.DNS != "", g.ZooKeeper != nil, g.Embedded != "", g.Native != ""} {
		if given {
			n++
		}
	}
	return n
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/faults/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Parse("job.yaml", data)
		if err == nil {
			j := got.Job()
			if j.Name == "" || j.Source == nil || j.Mapping == nil || j.Target.Table == "" || sources(j.Gateways) != 1 {
				t.Fatalf("no fault and no whole job: %+v", j)
			}
			return
		}
		var e *Errors
		if !errors.As(err, &e) {
			t.Fatalf("error is %v, want *Errors", err)
		}
		checkFaults(t, []byte(strings.TrimPrefix(string(data), "\uFEFF")), e)
	})
}

// A table read natively needs no gateway of its own, and may have the target's name: the clusters tell then.
func TestNativeSource(t *testing.T) {
	for yaml, want := range map[string]string{
		`{table: t, via: native, zookeeper: "zk1:2181,zk2:2181/hbase-secure"}`: "zk1:2181,zk2:2181/hbase-secure",
		`{table: u, via: gateways}`: "",
	} {
		f, err := Parse("job.yaml", []byte("name: a\nsource: {hbase: "+yaml+"}\ntarget: {table: t}\ngateways: {static: [\"gw:1\"]}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := f.Job().Source.(*hbasetable.Source); !ok || s.Options().Quorum != want {
			t.Errorf("%s: got %+v", yaml, s.Options())
		}
	}
}
