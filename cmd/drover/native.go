package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"drover/hbase/native"
)

// nativeCommand is what a child process of drover runs, so that what it does can neither block nor end the parent.
func nativeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    native.Command + " QUORUM",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			c, err := native.Status(args[0])
			if err != nil {
				return err
			}
			return printJSON(os.Stdout, c)
		}),
	}
}

// nativeServeCommand is the child that reads tables past the gateways, for as long as its parent keeps its standard input open.
func nativeServeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    native.ServeCommand + " QUORUM LANES",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			lanes, err := strconv.Atoi(args[1])
			if err != nil {
				return fmt.Errorf("lanes: %w", err)
			}
			return native.Serve(args[0], lanes, os.Stdin)
		}),
	}
}

// nativeRelayCommand is the child that passes on to HBase what comes over the connections its parent hands to it, for as long as that
// keeps the other end of the control socket, file descriptor 3.
func nativeRelayCommand() *cobra.Command {
	return &cobra.Command{
		Use:    native.RelayCommand + " QUORUM",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: ran(func(_ *cobra.Command, args []string) error {
			return native.ServeRelay(args[0], os.NewFile(3, "control"))
		}),
	}
}

func printCluster(w io.Writer, c native.Cluster) {
	fmt.Fprintf(w, "\ncluster %s, HBase %s, master %s\n", c.ID, c.Version, c.Master)
	for _, s := range c.Servers {
		fmt.Fprintf(w, "  region server %-32s %5d regions %8d requests/s\n", s.Name, s.Regions, s.Requests)
	}
	for _, d := range c.Dead {
		fmt.Fprintf(w, "  DEAD          %s\n", d)
	}
}
