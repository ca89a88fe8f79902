package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// order says in which order pre-encoded rows are sent.
type order string

const (
	inFileOrder order = "file"         // neighbours together, frames one after the other: few regions at a time
	framesMixed order = "frames mixed" // neighbours together, frames in no order: each to one region, all regions at once
	rowsMixed   order = "rows mixed"   // every frame to all regions

)

var orders = []order{inFileOrder, framesMixed, rowsMixed}

// shape is how pre-encoded rows are sent.
type shape struct {
	batch       int // rows a frame
	connections int // to each gateway, one frame in flight on each
	order       order
}

func (s shape) String() string {
	return fmt.Sprintf("%d rows × %d connections, %s", s.batch, s.connections, s.order)
}

// frame is the message of one call.
type frame []byte

// frames cuts rows into calls, complete with heads, so that sending them costs one write each.
func frames(e *encoded, table string, s shape) []frame {
	n := e.len()
	index := make([]int, n)
	for i := range index {
		index[i] = i
	}
	r := rand.New(rand.NewPCG(1, 2))
	if s.order == rowsMixed {
		r.Shuffle(n, func(i, j int) { index[i], index[j] = index[j], index[i] })
	}
	var all []frame
	for lo := 0; lo < n; lo += s.batch {
		rows := index[lo:min(lo+s.batch, n)]
		size := 64 + len(table)
		for _, i := range rows {
			size += len(e.row(i))
		}
		f := appendPutMultiple(make([]byte, 0, size), uint32(len(all)+1), table)
		f = binary.BigEndian.AppendUint32(f, uint32(len(rows)))
		for _, i := range rows {
			f = append(f, e.row(i)...)
		}
		all = append(all, append(f, 0))
	}
	if s.order == framesMixed {
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all
}

// blast sends frames over plain sockets, each connection the next one as soon as its last is acknowledged, and gives how
// long that took, connecting included.
func blast(ctx context.Context, addrs []string, all []frame, connections int) (time.Duration, error) {
	began := time.Now()
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range connections {
		for _, addr := range addrs {
			g.Go(func() error {
				var d net.Dialer
				c, err := d.DialContext(ctx, "tcp", addr)
				if err != nil {
					return err
				}
				defer c.Close()
				stop := context.AfterFunc(ctx, func() { c.Close() })
				defer stop()
				var reply [ackBytes]byte
				for {
					i := int(next.Add(1)) - 1
					if i >= len(all) {
						return nil
					}
					if _, err := c.Write(all[i]); err != nil {
						return fmt.Errorf("send a frame to %s: %w", addr, err)
					}
					if _, err := io.ReadFull(c, reply[:]); err != nil {
						return fmt.Errorf("read an answer of %s: %w", addr, err)
					}
					if !isAck(reply[:]) {
						return fmt.Errorf("%s does not acknowledge a frame: % x", addr, reply)
					}
				}
			})
		}
	}
	err := g.Wait()
	return time.Since(began), err
}
