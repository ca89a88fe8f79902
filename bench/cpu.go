package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"drover/jobs/mongodump/dumpgen"
)

// Targets of part b.
const (
	mostCPURatio   = 2.5
	mostCPUSeconds = 2.0 // per million rows
)

// loopRows is drover's own batch.
const loopRows = 1000

// cpu is part b.
func (b *bench) cpu(ctx context.Context) error {
	docs := int64(2_000_000)
	if b.quick {
		docs = 50_000
	}
	file, err := b.dump(ctx, dumpgen.Flat5, docs)
	if err != nil {
		return err
	}
	splits, err := splitKeys(file, 4)
	if err != nil {
		return err
	}
	ack, err := startAck(ctx, "", splits)
	if err != nil {
		return err
	}
	err = b.cpuPairs(ctx, ack, file, docs)
	return errors.Join(err, ack.stop())
}

func (b *bench) cpuPairs(ctx context.Context, ack *ackServer, file string, docs int64) error {
	millions := float64(docs) / 1e6
	j := job{name: "bench-b", file: file, table: "bench", gateways: []string{ack.addr}}
	var drover, bare, droverWall, bareWall []float64
	one := func() error {
		bk, u, err := b.move(ctx, j)
		if err != nil {
			return err
		}
		if bk.Rows != docs || bk.Cells != 5*docs {
			return fmt.Errorf("drover moved %d rows of %d cells, want %d of %d", bk.Rows, bk.Cells, docs, 5*docs)
		}
		drover = append(drover, u.cpu.Seconds()/millions)
		droverWall = append(droverWall, float64(docs)/u.wall.Seconds())
		return nil
	}
	other := func() error {
		u, err := runLoop(ctx, ack.addr, file)
		bare = append(bare, u.cpu.Seconds()/millions)
		bareWall = append(bareWall, float64(docs)/u.wall.Seconds())
		return err
	}
	for i := range b.pairs {
		// The order alternates, so that what drifts favours neither.
		first, second := one, other
		if i%2 == 1 {
			first, second = other, one
		}
		if err := errors.Join(first(), second()); err != nil {
			return err
		}
		b.logf("b: pair %d: drover %.2f, bare loop %.2f CPU s a million rows", i+1, drover[i], bare[i])
	}
	if b.profile != "" { // a run more, for taking a profile costs CPU
		path, err := filepath.Abs(b.profile)
		if err != nil {
			return err
		}
		if _, _, err := b.move(ctx, j, "DROVER_CPUPROFILE="+path); err != nil {
			return err
		}
	}
	ratio := spreadOf(ratios(drover, bare))
	b.report.add(&part{
		title:  fmt.Sprintf("b. CPU a million rows of 5 cells and 200 payload bytes, %d rows into a process that only acknowledges", docs),
		header: spreadHeader,
		rows: [][]string{
			spreadOf(drover).row("drover, CPU s", "%.2f"),
			spreadOf(bare).row("bare loop, CPU s", "%.2f"),
			ratio.row("ratio", "%.2f"),
			spreadOf(droverWall).row("drover, rows/s", "%.0f"),
			spreadOf(bareWall).row("bare loop, rows/s (one connection, one call at a time)", "%.0f"),
		},
	})
	b.report.judge(ratio.median <= mostCPURatio, fmt.Sprintf("(b) CPU ÷ bare loop at most %.1f", mostCPURatio), fmt.Sprintf("%.2f", ratio.median))
	b.report.judge(spreadOf(drover).median <= mostCPUSeconds, fmt.Sprintf("(b) CPU s a million rows at most %.1f", mostCPUSeconds),
		fmt.Sprintf("%.2f", spreadOf(drover).median))
	return nil
}

// runLoop runs the bare loop as a process.
func runLoop(ctx context.Context, addr, file string) (usage, error) {
	cmd, err := helper(ctx, "loop", addr, file, "bench", fmt.Sprint(loopRows))
	if err != nil {
		return usage{}, err
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.Stdout = os.Stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return usage{}, fmt.Errorf("run the bare loop: %w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	return usageOf(cmd.ProcessState, time.Since(began)), nil
}
