package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/zeebo/xxh3"

	"drover/durable"
	"drover/fleet"
)

// backupHead is the first line of a backup's file. The backup follows it.
const backupHead = "drover backup 1 xxh3 %016x\n"

func backupCommand() *cobra.Command {
	var pool poolFlags
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Save the pool's jobs, runs and checkpoints into a file",
		Long: `Saves all of the pool that cannot be made again: tables' limits, jobs, runs, and the plans and checkpoints of those that are not over.
The pool works on meanwhile. The file is written as a whole, durably, with a checksum.`,
		Args: cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			return pool.at(nil, func(ctx context.Context, p fleet.Pool) error {
				b, err := p.Backup(ctx)
				if err != nil {
					return err
				}
				data, err := json.Marshal(b)
				if err != nil {
					return fmt.Errorf("write the backup: %w", err)
				}
				file := append(fmt.Appendf(nil, backupHead, xxh3.Hash(data)), data...)
				if err := durable.Replace(args[0], file); err != nil {
					return fmt.Errorf("write %s: %w%s", args[0], err, durable.Advice(err, ""))
				}
				runs := 0
				for _, j := range b.Jobs {
					runs += len(j.Runs)
				}
				fmt.Printf("%s: %s, %s, %s\n", filepath.Base(args[0]), plural(len(b.Jobs), "job"), plural(runs, "run"), size(float64(len(file))))
				return nil
			})
		}),
	}
	pool.add(c)
	return c
}

func restoreCommand() *cobra.Command {
	var pool poolFlags
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in the place of what the pool has, and let what was held go on",
		Long: `Puts a backup's jobs, runs and checkpoints in the place of those that are there. What was done since the backup is done again, which
changes nothing in HBase. Where a pool holds everything since its ZooKeeper shows something older than was seen, it goes on from here.`,
		Args: cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			b, err := readBackup(args[0])
			if err != nil {
				return err
			}
			return pool.at(nil, func(ctx context.Context, p fleet.Pool) error {
				if err := p.Restore(ctx, b); err != nil {
					return err
				}
				fmt.Printf("restored %s as of %s\n", plural(len(b.Jobs), "job"), b.At.Local().Format("2006-01-02 15:04:05"))
				return nil
			})
		}),
	}
	pool.add(c)
	return c
}

func readBackup(path string) (*fleet.Backup, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	head, data, _ := bytes.Cut(file, []byte("\n"))
	var sum uint64
	if n, err := fmt.Sscanf(string(head)+"\n", backupHead, &sum); n != 1 || err != nil {
		return nil, fmt.Errorf("read the backup: %s is none of this version of drover: it does not begin with %q", path, "drover backup 1")
	}
	if xxh3.Hash(data) != sum {
		return nil, fmt.Errorf("read the backup: %s is damaged, its checksum does not match: take another one", path)
	}
	b := &fleet.Backup{}
	if err := json.Unmarshal(data, b); err != nil {
		return nil, fmt.Errorf("read the backup %s: %w", path, err)
	}
	return b, nil
}
