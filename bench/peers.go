package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"drover/jobs/mongodump/dumpgen"
)

//go:embed peers/load.py
var happybaseScript []byte

//go:embed peers/Load.java
var mutatorProgram []byte

// happybaseVersion is what the script was tried with.
const happybaseVersion = "happybase==1.3.0"

// peers is part f. It has no target.
//
// The other programs get their rows from a file of cells that are encoded already, which they read before their clock
// starts; drover reads BSON, and its clock and CPU are the whole process's. That favours the others.
func (b *bench) peers(ctx context.Context) error {
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	return errors.Join(b.peersOn(ctx, c), c.stop())
}

// contestant is one program's way to move the rows.
type contestant struct {
	name string
	run  func(ctx context.Context, table string) (wall, cpu time.Duration, err error)
}

func (b *bench) peersOn(ctx context.Context, c *cluster) error {
	docs := int64(5000 * b.seconds)
	file, err := b.dump(ctx, dumpgen.KB, docs)
	if err != nil {
		return err
	}
	splits, err := splitKeys(file, regions)
	if err != nil {
		return err
	}
	cells := filepath.Join(b.dir, "cells")
	if err := writeCells(file, cells); err != nil {
		return err
	}
	all := []contestant{{"drover run", func(ctx context.Context, table string) (wall, cpu time.Duration, err error) {
		_, u, err := b.move(ctx, job{name: "bench-f", file: file, table: table, gateways: c.Addrs()})
		return u.wall, u.cpu, err
	}}}
	mutators, err := b.mutators(ctx, c, cells)
	if err != nil {
		return err
	}
	all = append(all, mutators...)
	scripts, err := b.scripts(ctx, c, cells)
	if err != nil {
		return err
	}
	all = append(all, scripts...)

	rates, cpus, clusters := make([][]float64, len(all)), make([][]float64, len(all)), make([][]float64, len(all))
	rounds := min(b.pairs, 3)
	millions := float64(docs) / 1e6
	for round := range rounds + 1 { // the first warms the servers up
		for i, x := range all {
			if round == 0 && i > 2 {
				continue
			}
			err := c.fresh(ctx, splits, func(table string) error {
				before := c.cpu()
				wall, cpu, err := x.run(ctx, table)
				if err != nil {
					return err
				}
				if round == 0 {
					return c.holds(ctx, table, file, 100)
				}
				clusters[i] = append(clusters[i], (c.cpu()-before).Seconds()/millions)
				rates[i] = append(rates[i], float64(docs)/wall.Seconds())
				cpus[i] = append(cpus[i], cpu.Seconds()/millions)
				b.logf("f: %s: %.0f rows/s", x.name, float64(docs)/wall.Seconds())
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
		}
	}
	p := &part{
		title:  fmt.Sprintf("f. Beside other programs: %d documents of 1 KB, %d rounds", docs, rounds),
		header: []string{"", "rows/s: least", "median", "greatest", "drover is × as fast", "CPU s a million rows", "cluster's CPU s a million rows"},
	}
	var base spread
	for i, x := range all {
		s := spreadOf(rates[i])
		if i == 0 {
			base = s
		}
		p.rows = append(p.rows, append(s.row(x.name, "%.0f"), fmt.Sprintf("%.2f", base.median/s.median), fmt.Sprintf("%.1f", spreadOf(cpus[i]).median),
			fmt.Sprintf("%.0f", spreadOf(clusters[i]).median)))
	}
	p.notes = []string{
		"drover reads BSON and counts from start to exit of its process; the others have encoded cells in memory when their clock starts. Timestamps are fixed in all.",
		"BufferedMutator talks to the region servers itself, past the gateways. happybase has one Thrift1 gateway, beside which the three Thrift2 gateways idle; its CPU is not in the cluster's.",
	}
	b.report.add(p)
	return nil
}

// writeCells writes rows as big-endian lengths and bytes: the number of cells, the key, then column and value of each.
func writeCells(from, to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	var b []byte
	add := func(p []byte) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	err = documents(from, func(doc []byte) error {
		put, err := putOf(doc, 0)
		if err != nil {
			return err
		}
		b = binary.BigEndian.AppendUint32(b[:0], uint32(len(put.ColumnValues)))
		add(put.Row)
		for _, v := range put.ColumnValues {
			add(append([]byte("d:"), v.Qualifier...))
			add(v.Value)
		}
		_, err = w.Write(b)
		return err
	})
	return errors.Join(err, w.Flush(), f.Close())
}

// mutators compiles the Java program.
func (b *bench) mutators(ctx context.Context, c *cluster, cells string) ([]contestant, error) {
	dir := filepath.Join(b.dir, "java")
	if err := compileJava(ctx, c, dir, "Load", mutatorProgram); err != nil {
		return nil, err
	}
	var all []contestant
	for _, threads := range []int{1, 4} {
		all = append(all, contestant{fmt.Sprintf("BufferedMutator, threads: %d", threads), func(ctx context.Context, table string) (wall, cpu time.Duration, err error) {
			bin, args := c.Java(dir, "Load", table, cells, fmt.Sprint(threads))
			cmd := exec.CommandContext(ctx, bin, args...)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Run(); err != nil {
				return 0, 0, fmt.Errorf("run it: %w: %s", err, bytes.TrimSpace(errs.Bytes()))
			}
			return figures(lastLine(out.String()))
		}})
	}
	return all, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// figures reads a line of rows, seconds and CPU seconds.
func figures(line string) (wall, cpu time.Duration, err error) {
	var rows int
	var w, c float64
	if _, err := fmt.Sscan(line, &rows, &w, &c); err != nil {
		return 0, 0, fmt.Errorf("read its figures %q: %w", line, err)
	}
	return seconds(w), seconds(c), nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// scripts makes a virtual environment with happybase.
func (b *bench) scripts(ctx context.Context, c *cluster, cells string) ([]contestant, error) {
	venv := filepath.Join(b.dir, "venv")
	python := filepath.Join(venv, "bin", "python")
	if _, err := os.Stat(python); err != nil {
		if out, err := exec.CommandContext(ctx, "python3", "-m", "venv", venv).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a Python environment: %w: %s", err, out)
		}
	}
	if out, err := exec.CommandContext(ctx, python, "-m", "pip", "install", "-q", happybaseVersion).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("install happybase: %w: %s", err, out)
	}
	script := filepath.Join(b.dir, "load.py")
	if err := os.WriteFile(script, happybaseScript, 0o644); err != nil {
		return nil, err
	}
	gateway, err := c.AddThrift1(ctx)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(gateway.Addr)
	if err != nil {
		return nil, err
	}
	var all []contestant
	for _, processes := range []int{1, 4} {
		name := fmt.Sprintf("happybase, processes: %d", processes)
		all = append(all, contestant{name, func(ctx context.Context, table string) (wall, cpu time.Duration, err error) {
			return together(ctx, processes, func(ctx context.Context, i int) *exec.Cmd {
				return exec.CommandContext(ctx, python, script, port, table, cells, "1000", fmt.Sprint(i), fmt.Sprint(processes))
			})
		}})
	}
	return all, nil
}

// together runs processes that say when they are ready, lets them go at once, and gives the time of the slowest and the CPU
// of all.
func together(ctx context.Context, n int, command func(ctx context.Context, i int) *exec.Cmd) (wall, cpu time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type process struct {
		cmd  *exec.Cmd
		in   io.WriteCloser
		out  *bufio.Reader
		errs bytes.Buffer
	}
	var all []*process
	defer cancel()
	for i := range n {
		p := &process{cmd: command(ctx, i)}
		in, err := p.cmd.StdinPipe()
		if err != nil {
			return 0, 0, err
		}
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			return 0, 0, err
		}
		p.in, p.out = in, bufio.NewReader(out)
		p.cmd.Stderr = &p.errs
		if err := p.cmd.Start(); err != nil {
			return 0, 0, err
		}
		all = append(all, p)
	}
	line := func(p *process) (string, error) {
		s, err := p.out.ReadString('\n')
		if err != nil {
			cancel()
			p.cmd.Wait()
			return "", fmt.Errorf("it ended early: %w: %s", err, bytes.TrimSpace(p.errs.Bytes()))
		}
		return s, nil
	}
	for _, p := range all {
		if _, err := line(p); err != nil {
			return 0, 0, err
		}
	}
	for _, p := range all {
		fmt.Fprintln(p.in)
	}
	for _, p := range all {
		s, err := line(p)
		if err != nil {
			return 0, 0, err
		}
		w, c, err := figures(s)
		if err != nil {
			return 0, 0, err
		}
		wall, cpu = max(wall, w), cpu+c
		if err := p.cmd.Wait(); err != nil {
			return 0, 0, err
		}
	}
	return wall, cpu, nil
}
