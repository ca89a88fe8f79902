package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"drover/jobs/mongodump/dumpgen"
)

// mostMemory is the target of part e, in bytes at the peak.
const mostMemory = 200_000_000

// memory is part e.
func (b *bench) memory(ctx context.Context) error {
	bytes := int64(4 << 30)
	if b.quick {
		bytes = 256 << 20
	}
	docs := bytes / (256 << 10) // the profile's average; the sum is below
	file, err := b.dump(ctx, dumpgen.Big, docs)
	if err != nil {
		return err
	}
	if b.keep == "" {
		defer os.Remove(file)
	}
	size, largest := int64(0), 0
	err = documents(file, func(doc []byte) error {
		size += int64(len(doc))
		largest = max(largest, len(doc))
		return nil
	})
	if err != nil {
		return err
	}
	ack, err := startAck(ctx, "", nil)
	if err != nil {
		return err
	}
	bk, u, err := b.move(ctx, job{name: "bench-e", file: file, table: "bench", gateways: []string{ack.addr}})
	if err = errors.Join(err, ack.stop()); err != nil {
		return err
	}
	const mb = 1e6
	b.report.add(&part{
		title:  "e. Memory with fields of up to 9 MB",
		header: []string{"file MB", "documents", "largest, MB", "peak RSS, MB", "the kernel's count, MB", "MB/s", "CPU s"},
		rows: [][]string{{
			fmt.Sprintf("%.0f", float64(size)/mb), fmt.Sprint(bk.Rows), fmt.Sprintf("%.1f", float64(largest)/mb), fmt.Sprintf("%.0f", float64(bk.PeakRSSBytes)/mb),
			fmt.Sprintf("%.0f", float64(u.rss)/mb), fmt.Sprintf("%.0f", float64(size)/mb/u.wall.Seconds()), fmt.Sprintf("%.1f", u.cpu.Seconds()),
		}},
	})
	peak := max(bk.PeakRSSBytes, u.rss)
	b.report.judge(peak <= mostMemory, fmt.Sprintf("(e) peak memory at most %d MB", mostMemory/1_000_000), fmt.Sprintf("%.0f MB", float64(peak)/mb))
	return nil
}
