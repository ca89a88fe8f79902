package zookeeper

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// hosts is the order in which servers are tried, and how long to wait before each. An order holds every server once: the
// local ones first, each group shuffled, and the server that was lost last of all. Names are resolved anew for each order;
// one that has no answer keeps the addresses it had. All but settled is for the library's one loop.
type hosts struct {
	local, others []string
	timeout       time.Duration // of the session: as negotiated, once it is
	resolve       func(ctx context.Context, host string) ([]string, error)
	ended         func() bool // the link is over: nothing is to be tried
	ctx           context.Context

	queue   []string          // addresses to try, host:port
	names   map[string]string // address → the name that it came from, host:port
	known   map[string][]string
	current string
	lost    string       // where the last session was served
	orders  atomic.Int32 // begun since a session last stood
	first   bool         // nothing was tried yet: no need to wait
	wait    time.Duration
}

func (h *hosts) Init([]string) error { return nil }
func (h *hosts) Len() int            { return len(h.local) + len(h.others) }

// Next gives an address. Its flag makes the library fail what it has not sent and wait a second, or for its end.
func (h *hosts) Next() (string, bool) {
	if h.ended() {
		return "", true
	}
	step := jitterStep(h.timeout)
	h.wait = rand.N(step)
	if len(h.queue) == 0 {
		h.queue = h.order()
		if n := h.orders.Add(1); n > 1 {
			// Clients that found nobody come again within a third of the session timeout, in which they had better be heard.
			back := min(step<<min(n-1, 10), h.timeout/3, 5*time.Second)
			h.wait = back/2 + rand.N(back/2)
		}
	}
	if h.first {
		h.first, h.wait = false, 0
	}
	h.current, h.queue = h.queue[0], h.queue[1:]
	return h.current, false
}

// Connected comes after a handshake.
func (h *hosts) Connected() {
	h.lost, h.queue = h.current, nil
}

// settled says that a session stands: the next loss is a new one.
func (h *hosts) settled() {
	h.orders.Store(0)
}

// next tells about the address that Next gave last: how long to wait before it is dialed, and its name.
func (h *hosts) next() (wait time.Duration, name string) {
	return h.wait, h.names[h.current]
}

func (h *hosts) order() []string {
	h.names = map[string]string{}
	order := append(h.addresses(h.local), h.addresses(h.others)...)
	if i := slices.Index(order, h.lost); i >= 0 {
		order = append(slices.Delete(order, i, i+1), h.lost)
	}
	return order
}

// addresses resolves servers and shuffles what comes out.
func (h *hosts) addresses(servers []string) []string {
	ctx, cancel := context.WithTimeout(h.ctx, h.timeout/6)
	defer cancel()
	found := make([][]string, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			host, port, err := net.SplitHostPort(s)
			if err != nil {
				return
			}
			ips, err := h.resolve(ctx, host)
			if err != nil {
				return
			}
			for _, ip := range ips {
				found[i] = append(found[i], net.JoinHostPort(ip, port))
			}
		})
	}
	wg.Wait()
	var all []string
	for i, s := range servers {
		switch {
		case len(found[i]) > 0:
			h.known[s] = found[i]
		case len(h.known[s]) > 0:
			found[i] = h.known[s]
		default:
			found[i] = []string{s} // dialing it tells what is wrong with the name
		}
		for _, a := range found[i] {
			if _, twice := h.names[a]; !twice {
				h.names[a] = s
				all = append(all, a)
			}
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// jitterStep is over how long the clients of a server that went spread what they do next.
func jitterStep(timeout time.Duration) time.Duration {
	return max(min(timeout/20, 500*time.Millisecond), time.Millisecond)
}
