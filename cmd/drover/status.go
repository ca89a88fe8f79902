package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"drover/runner"
)

func statusCommand() *cobra.Command {
	var o struct {
		json  bool
		state string
	}
	c := &cobra.Command{
		Use:   "status JOB.yaml",
		Short: "Say how a job stands, running or not",
		Args:  cobra.ExactArgs(1),
		RunE: ran(func(cmd *cobra.Command, args []string) error {
			f, err := loadJob(args[0])
			if err != nil {
				return err
			}
			ctx, stop := interruptible()
			defer stop()
			res, ok, err := runner.Status(ctx, stateDir(o.state), f.Job())
			if err != nil {
				return err
			}
			if !ok {
				fmt.Fprintf(os.Stderr, "%s was never run with its state in %s\n", f.Job().Name, stateDir(o.state))
				return exit{runner.ExitFailed}
			}
			if o.json {
				return printJSON(os.Stdout, res)
			}
			printBooks(os.Stdout, res)
			return nil
		}),
	}
	c.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	c.Flags().StringVar(&o.state, "state", "", "folder of the job's state (default $XDG_STATE_HOME/drover)")
	return c
}
