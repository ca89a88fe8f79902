// Command stack starts a whole HBase on this machine, prints where it is and keeps it until Ctrl-C: something to run
// drover against by hand.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"drover/e2e/stack"
)

func main() {
	var o stack.Options
	flag.IntVar(&o.RegionServers, "regionservers", 3, "region servers to start")
	flag.IntVar(&o.Gateways, "gateways", 3, "Thrift2 gateways to start")
	flag.StringVar(&o.Dir, "dir", "", "empty or missing folder for data and logs, kept afterwards (default: a temporary one)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "stack takes no arguments, but got %q: see stack -help\n", flag.Args())
		os.Exit(64)
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(o stack.Options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o.Log = os.Stderr
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	var sum int64
	show := func(p *stack.Process) {
		rss := p.RSS()
		sum += rss
		fmt.Printf("%-14s %-16s pid %-7d %4d MB  %s\n", p.Name, p.Addr, p.PID(), rss>>20, p.Log)
	}
	show(s.Quorum)
	show(s.Master)
	for _, p := range s.RegionServers {
		show(p)
	}
	for _, p := range s.Gateways {
		show(p)
	}
	fmt.Printf("cluster %s, %d MB in all\n", s.ClusterID, sum>>20)
	fmt.Printf("gateways: {static: %q}\n", s.Addrs())
	fmt.Println("Ctrl-C ends it")
	<-ctx.Done()
	stop() // a second Ctrl-C kills
	return s.Close()
}
