package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"drover/hbase"
	"drover/hbase/gateway"
	"drover/hbase/native"
	"drover/jobfile"
)

func gatewayCommand() *cobra.Command {
	var o struct {
		listen, dir     string
		framed, compact bool
		http            bool
		dialect, hbase  string
	}
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Serve HBase's Thrift2 service over a local folder, or in front of a real HBase",
		Long: `Serves HBase's Thrift2 service with HBase's semantics from a local folder, for laptops, demos and tests, where it is no
replacement for a cluster: one process, one disk; or, with --hbase, passes all on to a real HBase.

--hbase names HBase's own ZooKeeper. Region servers have to be reached from here, without Kerberos and without TLS. Filters in HBase's
filter language are refused, but for those that drover itself uses. What goes wrong in the HBase client may end the process: have it
started again by who started it.`,
		Example: `  drover gateway --dir tables
  drover gateway --hbase zk1:2181,zk2:2181,zk3:2181 --listen :9090`,
		Args: cobra.NoArgs,
		RunE: ran(func(cmd *cobra.Command, _ []string) error {
			if o.dialect != "1.x" && o.dialect != "2.x" {
				return usageError{fmt.Errorf("--dialect %q: want 2.x or 1.x", o.dialect)}
			}
			opts := gateway.Options{
				Listen: o.listen, Dir: o.dir, Transport: hbase.Transport{Framed: o.framed, Compact: o.compact, HTTP: o.http}, Old: o.dialect == "1.x", Log: logger(os.Stderr, false),
			}
			where := "tables in memory"
			switch {
			case cmd.Flags().Changed("hbase"):
				for _, other := range []string{"dir", "dialect"} {
					if cmd.Flags().Changed(other) {
						return usageError{fmt.Errorf("--hbase and --%s are both given: with --hbase the tables and the methods are those of that HBase; give one of them", other)}
					}
				}
				if err := jobfile.CheckQuorum(o.hbase); err != nil {
					return usageError{fmt.Errorf("--hbase: %w", err)}
				}
				opts.Backend, where = native.NewRelay(o.hbase), "in front of the HBase of "+o.hbase
			case o.dir != "":
				where = "tables in " + o.dir
			}
			s, err := gateway.Open(opts)
			if err != nil {
				return err
			}
			fmt.Printf("serving HBase Thrift2 on %s, %s\n", s.Addr(), where)
			ctx, stop := interruptible()
			defer stop()
			<-ctx.Done()
			return s.Close()
		}),
	}
	c.Flags().StringVar(&o.listen, "listen", "127.0.0.1:9090", "address to listen on")
	c.Flags().StringVar(&o.dir, "dir", "", "folder of the tables (default: in memory, gone at the end)")
	c.Flags().StringVar(&o.hbase, "hbase", "", "pass all on to the HBase whose own ZooKeeper this is, HOST:PORT,…, with its root behind it where that is not /hbase")
	c.Flags().BoolVar(&o.framed, "framed", false, "speak the framed transport")
	c.Flags().BoolVar(&o.compact, "compact", false, "speak the compact protocol")
	c.Flags().BoolVar(&o.http, "http", false, "speak Thrift over HTTP")
	c.Flags().StringVar(&o.dialect, "dialect", "2.x", "HBase whose methods it knows: 1.x has none about tables and namespaces")
	return c
}
