package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"drover/hbase"
	"drover/hbase/gateway"
)

func gatewayCommand() *cobra.Command {
	var o struct {
		listen, dir     string
		framed, compact bool
		http            bool
		dialect         string
	}
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Serve an embedded gateway: HBase's Thrift2 service over a local folder",
		Long: `Serves HBase's Thrift2 service with HBase's semantics from a local folder, for laptops, demos and tests. It is no
replacement for a cluster: one process, one disk.`,
		Args: cobra.NoArgs,
		RunE: ran(func(*cobra.Command, []string) error {
			if o.dialect != "1.x" && o.dialect != "2.x" {
				return usageError{fmt.Errorf("--dialect %q: want 2.x or 1.x", o.dialect)}
			}
			s, err := gateway.Open(gateway.Options{
				Listen: o.listen, Dir: o.dir, Transport: hbase.Transport{Framed: o.framed, Compact: o.compact, HTTP: o.http}, Old: o.dialect == "1.x", Log: logger(os.Stderr, false),
			})
			if err != nil {
				return err
			}
			where := "in memory"
			if o.dir != "" {
				where = "in " + o.dir
			}
			fmt.Printf("serving HBase Thrift2 on %s, tables %s\n", s.Addr(), where)
			ctx, stop := interruptible()
			defer stop()
			<-ctx.Done()
			return s.Close()
		}),
	}
	c.Flags().StringVar(&o.listen, "listen", "127.0.0.1:9090", "address to listen on")
	c.Flags().StringVar(&o.dir, "dir", "", "folder of the tables (default: in memory, gone at the end)")
	c.Flags().BoolVar(&o.framed, "framed", false, "speak the framed transport")
	c.Flags().BoolVar(&o.compact, "compact", false, "speak the compact protocol")
	c.Flags().BoolVar(&o.http, "http", false, "speak Thrift over HTTP")
	c.Flags().StringVar(&o.dialect, "dialect", "2.x", "HBase whose methods it knows: 1.x has none about tables and namespaces")
	return c
}
