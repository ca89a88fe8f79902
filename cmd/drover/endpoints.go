package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"drover/discovery"
	"drover/durable"
	"drover/hbase"
	"drover/jobfile"
	"drover/jobs"
	"drover/runner"
)

// sourceFlags name a source of gateways where there is no job file.
type sourceFlags struct {
	static, zookeeper     []string
	file, dns, path       string
	address, auth         string
	framed, compact, http bool
	lookFor               time.Duration
	json                  bool
	write, format         string
}

func (o *sourceFlags) add(c *cobra.Command) {
	c.Flags().StringSliceVar(&o.static, "static", nil, "gateways, HOST:PORT,…")
	c.Flags().StringVar(&o.file, "file", "", "file that names the gateways")
	c.Flags().StringVar(&o.dns, "dns", "", "NAME:PORT to resolve, or the name of SRV records")
	c.Flags().StringSliceVar(&o.zookeeper, "zookeeper", nil, "ensemble, HOST:PORT,…")
	c.Flags().StringVar(&o.path, "path", "/buzzthrift", "with --zookeeper: the node whose children are the gateways")
	c.Flags().StringVar(&o.address, "address", "", `with --zookeeper: template of addresses, such as "{name}.example.org:9090"`)
	c.Flags().StringVar(&o.auth, "auth", "", "with --zookeeper: env:NAME of a variable that holds digest:USER:PASSWORD")
	c.Flags().BoolVar(&o.framed, "framed", false, "gateways speak the framed transport")
	c.Flags().BoolVar(&o.compact, "compact", false, "gateways speak the compact protocol")
	c.Flags().BoolVar(&o.http, "http", false, "gateways speak Thrift over HTTP")
}

// open opens the source of a job file, or of the flags.
func (o *sourceFlags) open(args []string, log *slog.Logger) (*gatewaySource, error) {
	given := 0
	for _, set := range []bool{len(o.static) > 0, o.file != "", o.dns != "", len(o.zookeeper) > 0, len(args) > 0} {
		if set {
			given++
		}
	}
	if given != 1 {
		return nil, usageError{errors.New("name one source of gateways: JOB.yaml, --zookeeper, --file, --dns or --static")}
	}
	if len(args) > 0 {
		f, err := loadJob(args[0])
		if err != nil {
			return nil, err
		}
		g := f.Job().Gateways
		switch {
		case g.Native != "":
			return nil, usageError{errors.New("the job goes past the gateways (gateways.native), through one of its own that lives only beside its run: there are no endpoints")}
		case g.Embedded != "":
			return nil, usageError{errors.New("the job has an embedded gateway, which lives only inside its run: there are no endpoints")}
		}
		if g.Transport.TLS, err = f.TLS(); err != nil {
			return nil, err
		}
		return openGateways(f, g, log)
	}
	g := jobs.Gateways{Static: o.static, DNS: o.dns, Transport: hbase.Transport{Framed: o.framed, Compact: o.compact, HTTP: o.http, Path: "/"}}
	if o.file != "" {
		path, err := filepath.Abs(o.file)
		if err != nil {
			return nil, err
		}
		g.File = path
	}
	if len(o.zookeeper) > 0 {
		g.ZooKeeper = &jobs.ZooKeeper{Ensemble: jobs.Ensemble{Servers: o.zookeeper, Path: o.path, Auth: o.auth}, Address: o.address}
	}
	return openGateways((*jobfile.File)(nil), g, log)
}

func endpointsCommand() *cobra.Command {
	var o sourceFlags
	c := &cobra.Command{
		Use:   "endpoints [JOB.yaml]",
		Short: "Show the gateways that a job would use, and steer which those are",
		Long: `Shows each gateway of a source: its address, what the source says of it, whether it is in use, and whether it answers now.
The source is that of a job file, or is named by flags.

A change that takes away half or more of five or more gateways is held until none of those answers any more; drover
endpoints confirm makes the runs of this host believe it. drover endpoints pin makes them use the gateways of a file, whatever the
source says. Both, and the last good set, are kept in $DROVER_GATEWAYS (default $XDG_STATE_HOME/drover-gateways).

With --write it stays and keeps a file up to date for programs of this host, under the same guard. The file is replaced at once and
never empty.

Exit code 1: no gateway in use answers.`,
		Args: cobra.MaximumNArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			if !slices.Contains(formats, o.format) {
				return usageError{fmt.Errorf("--format %q: want one of %s", o.format, strings.Join(formats, ", "))}
			}
			ctx, stop := interruptible()
			defer stop()
			if o.write != "" {
				return o.keepFile(ctx, args)
			}
			return o.show(ctx, args)
		}),
	}
	o.add(c)
	c.Flags().DurationVar(&o.lookFor, "wait", 5*time.Second, "how long the source may take to answer")
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	c.Flags().StringVar(&o.write, "write", "", "stay, and keep this file up to date")
	c.Flags().StringVar(&o.format, "format", "json", "of --write: json, list or haproxy")
	c.AddCommand(endpointsPinCommand(), endpointsUnpinCommand(), endpointsConfirmCommand())
	return c
}

// endpointRow is one gateway of the listing.
type endpointRow struct {
	Name    string   `json:"name,omitempty"`
	Addr    string   `json:"addr,omitempty"`
	Zone    string   `json:"zone,omitempty"`
	Source  string   `json:"source"` // in, out, gone or unknown
	Used    bool     `json:"used"`
	Answers *bool    `json:"answers,omitempty"` // absent: not probed, for want of an address
	Probe   string   `json:"probe,omitempty"`   // answers, dead, silent, blocked or wrong protocol
	Old     bool     `json:"old,omitempty"`     // of HBase 1.x: it lacks methods, and puts and scans work
	Millis  *float64 `json:"millis,omitempty"`  // that the answer took
	Reason  string   `json:"reason,omitempty"`
}

// rowsOf joins what the source says and what is in use.
func rowsOf(s discovery.Status) []endpointRow {
	var rows []endpointRow
	listed := map[string]bool{}
	used := map[string]bool{}
	for _, g := range s.Use {
		used[g.Addr] = true
	}
	for _, g := range s.View.Gateways {
		r := endpointRow{Name: g.Name, Addr: g.Addr, Zone: g.Zone, Source: "in", Reason: g.Out}
		if g.Out != "" {
			r.Source = "out"
		}
		r.Used = used[g.Addr] && !listed[g.Addr]
		if g.Addr != "" {
			listed[g.Addr] = true
		}
		rows = append(rows, r)
	}
	for _, g := range s.Use {
		if listed[g.Addr] {
			continue
		}
		r := endpointRow{Name: g.Name, Addr: g.Addr, Zone: g.Zone, Source: "gone", Used: true}
		if !s.View.Known {
			r.Source = "unknown"
		}
		rows = append(rows, r)
	}
	return rows
}

// probeAll asks every gateway at once whether it answers.
func probeAll(ctx context.Context, rows []endpointRow, t hbase.Transport) {
	const atOnce, patience = 32, 10 * time.Second
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range rows {
		r := &rows[i]
		if r.Addr == "" {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			f := hbase.Diagnose(ctx, r.Addr, t)
			took := float64(f.Took.Microseconds()) / 1000
			ok := f.Condition == hbase.Sound
			r.Answers, r.Millis, r.Old, r.Probe = &ok, &took, f.Old, "answers"
			if ok {
				return
			}
			r.Probe = string(f.Condition)
			why := f.Reason
			if r.Reason != "" {
				why = r.Reason + "; " + why
			}
			r.Reason = why
		})
	}
	wg.Wait()
}

func (o *sourceFlags) show(ctx context.Context, args []string) error {
	src, err := o.open(args, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer src.close()
	status, err := src.guard(nil).Look(ctx, o.lookFor)
	if err != nil {
		return err
	}
	rows := rowsOf(status)
	probeAll(ctx, rows, src.transport)
	if o.json {
		err = printJSON(os.Stdout, struct {
			Source   string                         `json:"source"`
			From     discovery.Origin               `json:"from"`
			Alerts   map[discovery.AlertKind]string `json:"alerts,omitempty"`
			Held     *discovery.Held                `json:"held,omitempty"`
			Gateways []endpointRow                  `json:"gateways"`
		}{src.what, status.From, status.Alerts(), status.Held, rows})
	} else {
		width, _, terr := term.GetSize(int(os.Stdout.Fd()))
		if terr != nil {
			width = 0
		}
		err = printEndpoints(os.Stdout, src.what, status, rows, width)
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(rows, func(r endpointRow) bool { return r.Used && r.Answers != nil && *r.Answers }) {
		return exit{runner.ExitFailed}
	}
	return nil
}

// printEndpoints writes the listing for people; a width of 0 cuts nothing.
func printEndpoints(w io.Writer, what string, s discovery.Status, rows []endpointRow, width int) error {
	from := map[discovery.Origin]string{
		discovery.Source: "as the source says", discovery.LastGood: "the last good set", discovery.Pinned: "pinned", discovery.Nowhere: "none is known",
	}[s.From]
	if s.From == discovery.Source && s.Held != nil {
		from = "as the source said before"
	}
	fmt.Fprintf(w, "%s: %s in use, %s\n", plainText(what), plural(len(s.Use), "gateway"), from)
	alerts := s.Alerts()
	for _, kind := range slices.Sorted(maps.Keys(alerts)) {
		fmt.Fprintf(w, "%-9s %s\n", strings.ToUpper(string(kind)), plainText(alerts[kind]))
	}
	if s.Held != nil {
		fmt.Fprintf(w, "          held since %s\n", s.Held.Since.Local().Format(time.DateTime))
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "ADDRESS\tNAME\tZONE\tSOURCE\tUSED\tPROBE\tLATENCY\tREASON")
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return plainText(s)
	}
	for _, r := range rows {
		used, probe, latency := "no", "-", "-"
		if r.Used {
			used = "yes"
		}
		if r.Answers != nil {
			probe = r.Probe
			if r.Old {
				probe += " (1.x)"
			}
			if *r.Answers {
				latency = fmt.Sprintf("%.1f ms", *r.Millis)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(r.Addr), dash(r.Name), dash(r.Zone), r.Source, used, probe, latency, plainText(r.Reason))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(table.String()) {
		line = strings.TrimRight(line, " \n")
		if r := []rune(line); width > 20 && len(r) > width {
			line = string(r[:width-1]) + "…"
		}
		fmt.Fprintln(w, line)
	}
	return nil
}

// plainText keeps what others wrote, into a node or a file, from steering a terminal.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

var formats = []string{"json", "list", "haproxy"}

// render writes a set for other programs.
func render(format, what string, gs []discovery.Gateway) ([]byte, error) {
	switch format {
	case "list":
		out := fmt.Appendf(nil, "# written by drover endpoints from %s; it is replaced when that changes\n", plainText(what))
		for _, g := range gs {
			out = fmt.Append(out, g.Addr)
			if g.Name != "" {
				out = fmt.Append(out, " # ", plainText(g.Name))
			}
			out = append(out, '\n')
		}
		return out, nil
	case "haproxy":
		out := fmt.Appendf(nil, "# written by drover endpoints from %s; reload haproxy when it changes\nbackend drover_gateways\n    mode tcp\n    balance leastconn\n", plainText(what))
		taken := map[string]bool{}
		for _, g := range gs {
			host, port, err := net.SplitHostPort(g.Addr)
			if err != nil {
				return nil, err
			}
			out = fmt.Appendf(out, "    server %s %s check\n", serverName(g, taken), haproxyAddress(host, port))
		}
		return out, nil
	}
	data, err := json.MarshalIndent(struct {
		Source   string              `json:"source"`
		Gateways []discovery.Gateway `json:"gateways"`
	}{what, gs}, "", "  ")
	return append(data, '\n'), err
}

func haproxyAddress(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}

// serverName is a name that haproxy takes, and that no other server has.
func serverName(g discovery.Gateway, taken map[string]bool) string {
	name := g.Name
	if name == "" {
		name = g.Addr
	}
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '_'
	}, name)
	for base, n := name, 2; taken[name]; n++ {
		name = fmt.Sprintf("%s_%d", base, n)
	}
	taken[name] = true
	return name
}

// keepFile keeps a file up to date until ctx ends.
func (o *sourceFlags) keepFile(ctx context.Context, args []string) error {
	log := logger(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	src, err := o.open(args, log)
	if err != nil {
		return err
	}
	defer src.close()
	path, err := filepath.Abs(o.write)
	if err != nil {
		return err
	}
	src.note()
	w := &fileKeeper{path: path, format: o.format, what: src.what, log: log}
	log.Info("keeping a file of gateways", "file", path, "source", src.what)
	return w.run(ctx, src.guard(func(a discovery.Alert) { tell(log, a) }).Run)
}

// fileKeeper writes sets into a file. A set that could not be written is tried again until it is, or there is a newer one.
type fileKeeper struct {
	path, format, what string
	log                *slog.Logger
}

const writeAgain = 10 * time.Second

func (k *fileKeeper) run(ctx context.Context, source func(context.Context, func([]discovery.Gateway)) error) error {
	sets := make(chan []discovery.Gateway)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		ended <- source(ctx, func(gs []discovery.Gateway) {
			select {
			case sets <- gs:
			case <-ctx.Done():
			}
		})
	})
	var now []discovery.Gateway
	var again <-chan time.Time
	for {
		select {
		case now = <-sets:
		case <-again:
		case err := <-ended:
			return err
		}
		again = nil
		if err := k.write(now); err != nil {
			k.log.Error("gateways not written; the file is as it was", "file", k.path, "error", err)
			again = time.After(writeAgain)
		}
	}
}

func (k *fileKeeper) write(gs []discovery.Gateway) error {
	data, err := render(k.format, k.what, gs)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(k.path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := durable.Replace(k.path, data); err != nil {
		return fmt.Errorf("write %s: %w%s", k.path, err, durable.Advice(err, " with --write"))
	}
	k.log.Info("gateways written", "file", k.path, "gateways", len(gs))
	return nil
}

// folder is that of the source which a command about pins is for: the one that is named, or the only one that this host knows.
func (o *sourceFlags) folder(args []string) (dir, what string, err error) {
	if len(args) == 0 && len(o.static) == 0 && o.file == "" && o.dns == "" && len(o.zookeeper) == 0 {
		return onlySource(gatewaysDir())
	}
	src, err := o.open(args, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", "", err
	}
	defer src.close()
	src.note()
	return src.dir, src.what, nil
}

// onlySource is the source of which there is a folder, if it is the only one.
func onlySource(root string) (dir, what string, err error) {
	files, err := filepath.Glob(filepath.Join(root, "*", sourceFile))
	if err != nil {
		return "", "", err
	}
	if len(files) == 0 {
		return "", "", usageError{errors.New("no source of gateways was used on this host yet: name one, by JOB.yaml or a flag")}
	}
	var known []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return "", "", err
		}
		known = append(known, strings.TrimSpace(string(data)))
	}
	if len(files) > 1 {
		return "", "", usageError{fmt.Errorf("this host knows %d sources of gateways (%s): name the one you mean, by JOB.yaml or a flag", len(files), strings.Join(known, "; "))}
	}
	return filepath.Dir(files[0]), known[0], nil
}

func endpointsPinCommand() *cobra.Command {
	var o sourceFlags
	c := &cobra.Command{
		Use:   "pin FILE [JOB.yaml]",
		Short: "Use the gateways of a file, whatever the source says, until unpin",
		Long: `Every drover of this host that uses the source takes the gateways of the file instead, within a second, and after restarts too.
The file is read once: JSON, or a HOST:PORT on each line. The source is that of a job file, or is named by flags; neither is needed
on a host that knows only one.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("read the gateways to pin: %w", err)
			}
			gs, err := discovery.ParseFile(data)
			if err != nil {
				return usageError{fmt.Errorf("read the gateways to pin from %s: %w", args[0], err)}
			}
			dir, what, err := o.folder(args[1:])
			if err != nil {
				return err
			}
			if err := discovery.Pin(dir, path, gs, time.Now()); err != nil {
				return err
			}
			fmt.Printf("pinned %s of %s in the place of %s, until drover endpoints unpin\n", plural(len(discovery.View{Gateways: gs}.Set()), "gateway"), args[0], what)
			return nil
		}),
	}
	o.add(c)
	return c
}

func endpointsUnpinCommand() *cobra.Command {
	var o sourceFlags
	c := &cobra.Command{
		Use:   "unpin [JOB.yaml]",
		Short: "Go back from pinned gateways to those of the source",
		Args:  cobra.MaximumNArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			dir, what, err := o.folder(args)
			if err != nil {
				return err
			}
			was, err := discovery.Unpin(dir)
			if err != nil {
				return fmt.Errorf("take the pin away: %w", err)
			}
			if !was {
				fmt.Printf("nothing was pinned in the place of %s\n", what)
				return nil
			}
			fmt.Printf("unpinned: the gateways are those of %s again\n", what)
			return nil
		}),
	}
	o.add(c)
	return c
}

func endpointsConfirmCommand() *cobra.Command {
	var o sourceFlags
	c := &cobra.Command{
		Use:   "confirm [JOB.yaml]",
		Short: "Believe a loss of gateways that is held",
		Long: `Asks the source, shows what would be lost, and makes the runs of this host believe exactly that set. Another loss is held again.
The source is that of a job file, or is named by flags.`,
		Args: cobra.MaximumNArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			ctx, stop := interruptible()
			defer stop()
			src, err := o.open(args, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer src.close()
			s, err := src.guard(nil).Look(ctx, 10*time.Second)
			if err != nil {
				return err
			}
			switch {
			case !s.View.Known:
				return fmt.Errorf("the source cannot be read, so there is nothing to confirm: %s", s.View.Problem)
			case s.Held == nil:
				fmt.Println("nothing is held: the gateways are as the source says")
				return nil
			case s.Held.Empty:
				return errors.New("the source names no gateway that may be used, which cannot be confirmed: mend the source, or pin a set with drover endpoints pin")
			}
			if err := discovery.Confirm(src.dir, s.Held.Token, time.Now()); err != nil {
				return err
			}
			fmt.Printf("confirmed: %s; %s in use from now on\n", s.Held.Why(), plural(len(s.Held.Wanted), "gateway"))
			return nil
		}),
	}
	o.add(c)
	return c
}
