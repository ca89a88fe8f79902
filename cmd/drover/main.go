// Command drover moves MongoDB collections into HBase through its Thrift gateways: in bulk, resumably, and no faster than it
// was told. See `drover help` and the README.
//
// One file a command. What is decided here is only how the parts are wired and how people are spoken to.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	_ "time/tzdata" // schedules name zones, also on hosts without them

	"github.com/spf13/cobra"

	"drover/crashpoint"
	"drover/runner"
)

// exit ends the process with a code after everything was said.
type exit struct{ code int }

func (e exit) Error() string { return fmt.Sprintf("exit %d", e.code) }

// usageError is a mistake in the command line or the job file, found without looking outside.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func main() {
	if err := crashpoint.Arm(os.Getenv("DROVER_CRASH")); err != nil {
		fmt.Fprintln(os.Stderr, "drover:", err)
		os.Exit(runner.ExitUsage)
	}
	stop := profile(os.Getenv("DROVER_CPUPROFILE"))
	code := execute()
	stop()
	os.Exit(code)
}

// profile writes a CPU profile of the process to a file, for the bench.
func profile(path string) (stop func()) {
	if path == "" {
		return func() {}
	}
	f, err := os.Create(path)
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "drover: profile:", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}
}

func execute() int {
	root := &cobra.Command{
		Use:   "drover",
		Short: "Move MongoDB collections into HBase, in bulk and resumably",
		Long: `drover reads a MongoDB dump in shards, maps documents to rows and puts them through all healthy HBase Thrift gateways,
under a rate limit per table. Progress is checkpointed: a run that was killed goes on where it was.

Exit codes: 0 done · 1 failed, needs a person · 3 done, with dead letters · 4 differences · 5 already running ·
6 stopped, run again to go on · 64 usage or job file wrong · 130, 143 ended by a signal, run again to go on`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(runCommand(), planCommand(), statusCommand(), deadCommand(), endpointsCommand(), agentCommand(), gatewayCommand(), genCommand(), nativeCommand(), nativeServeCommand(), nativeRelayCommand(), versionCommand(),
		workerCommand(), submitCommand(), jobsCommand(), pauseCommand(), resumeCommand(), cancelCommand(), throttleCommand(), workersCommand(), drainCommand(), undrainCommand(),
		backupCommand(), restoreCommand(), auditCommand(), ticksCommand())
	err := root.Execute()
	var code exit
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return code.code
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "drover:", usage.err)
		return runner.ExitUsage
	case isCobra(err):
		fmt.Fprintln(os.Stderr, "drover:", err)
		return runner.ExitUsage
	}
	fmt.Fprintln(os.Stderr, "drover:", err)
	return runner.ExitFailed
}

// ranError marks errors of commands that ran, so that what is left is the command line's own.
type ranError struct{ err error }

func (e ranError) Error() string { return e.err.Error() }
func (e ranError) Unwrap() error { return e.err }

func isCobra(err error) bool {
	var ran ranError
	return !errors.As(err, &ran)
}

// ran wraps a command's function so that its errors are told from usage errors.
func ran(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd, args)
		var code exit
		var usage usageError
		if err == nil || errors.As(err, &code) || errors.As(err, &usage) {
			return err
		}
		return ranError{err}
	}
}
