package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"drover/jobs/mongodump/dumpgen"
)

func genCommand() *cobra.Command {
	var o struct {
		dumpgen.Options
		profile, id string
		force       bool
	}
	c := &cobra.Command{
		Use:   "gen FILE.bson[.gz]",
		Short: "Write a mongodump of made-up documents, the same for the same seed",
		Long: `Writes a collection as mongodump would, for demos, tests and measurements. Profiles:
  flat5   five fields, about 200 bytes of payload, all of one size
  kb      documents of about 1 KB with a dozen fields
  every   every BSON type, also the deprecated ones, sizes heavy-tailed
  big     fields of up to 9 MB`,
		Args: cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			ctx, stop := interruptible()
			defer stop()
			o.Options.Profile, o.Options.ID = dumpgen.Profile(o.profile), dumpgen.ID(o.id)
			if err := o.Options.Validate(); err != nil {
				return usageError{err}
			}
			path := args[0]
			flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
			if o.force {
				flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				return err
			}
			f, err := os.OpenFile(path, flags, 0o666)
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("%s is there already: name another file, or overwrite it with --force", path)
			}
			if err != nil {
				return err
			}
			began := time.Now()
			var w io.Writer = f
			finish := f.Close
			if strings.HasSuffix(path, ".gz") {
				z := gzip.NewWriter(f)
				w, finish = z, func() error { return errors.Join(z.Close(), f.Close()) }
			}
			stats, err := dumpgen.Write(ctx, w, o.Options)
			if err = errors.Join(err, finish()); err != nil {
				os.Remove(path)
				return err
			}
			fmt.Printf("%s: %d documents, %s of BSON, %d corrupt, seed %d, in %.1f s\n", path, stats.Docs, size(float64(stats.Bytes)), stats.Corrupt,
				o.Seed, time.Since(began).Seconds())
			return nil
		}),
	}
	c.Flags().Int64Var(&o.Docs, "docs", 100_000, "number of documents")
	c.Flags().Uint64Var(&o.Seed, "seed", 1, "the same seed and options give the same bytes")
	c.Flags().StringVar(&o.profile, "profile", string(dumpgen.KB), "flat5, kb, every or big")
	c.Flags().StringVar(&o.id, "id", string(dumpgen.ObjectID), "type of _id: objectid, int, string or mixed")
	c.Flags().IntVar(&o.AvgBytes, "avg", 0, "average bytes of a document (0: the profile's)")
	c.Flags().IntVar(&o.MaxBytes, "max", 0, "most bytes of a payload field, where sizes vary (0: the profile's)")
	c.Flags().BoolVar(&o.Skew, "skew", false, "heavy-tailed sizes for kb too")
	c.Flags().IntVar(&o.Corrupt, "corrupt", 0, "how many documents are broken inside a sound length")
	c.Flags().BoolVar(&o.force, "force", false, "overwrite the file")
	return c
}
