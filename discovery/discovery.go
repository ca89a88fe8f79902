// Package discovery says who the gateways are: the addresses at which HBase's Thrift servers may be found. How they feel,
// and which of them to use, is the business of hbase.Pool. Not for finding anything else, and not for probing: a provider
// that must know whether an address answers is given a func for it.
//
// Every provider has this one method, and cmd calls it as d.Run(ctx, pool.Update):
//
//	Run(ctx context.Context, update func(addrs []string)) error
//
// Run calls update with the whole set, as host:port, once it is known and again each time it changes, from one goroutine
// and never two calls at once; update owns the slice. A set that cannot be read for a while leaves the last one standing.
// Run returns nil when ctx ends, with nothing left running, and an error only for what waiting cannot mend.
//
// Static is the one provider so far. A file that is watched, DNS and ZooKeeper are to follow.
package discovery

import (
	"context"
	"errors"
	"slices"
)

// Static is a set of gateways that never changes, as host:port.
type Static []string

// Run gives the set once and waits for the end of ctx. It takes no copy: the set is not to be changed.
func (s Static) Run(ctx context.Context, update func(addrs []string)) error {
	if len(s) == 0 {
		return errors.New("no gateway is named: give gateways.static at least one host:port")
	}
	update(slices.Clone(s))
	<-ctx.Done()
	return nil
}
