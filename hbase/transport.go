package hbase

import (
	"crypto/tls"
	"time"
)

// Transport says how gateways are spoken to. It cannot be detected, so it is configuration; the zero value is the default
// of HBase's own gateway: unframed binary over TCP.
type Transport struct {
	Framed  bool // also what hsha, nonblocking and threadedselector servers speak
	Compact bool
	HTTP    bool        // POST to Path, "/" by default
	Path    string      // with HTTP
	TLS     *tls.Config // nil is plain

	// MaxFrame is the largest message a framed gateway takes, in bytes. 0 is HBase's default of 2 MiB when framed, and no
	// bound otherwise. A row that cannot fit is refused before it is sent.
	MaxFrame int

	// ConnectTimeout bounds connecting, TLS included. 0 is 5 s.
	ConnectTimeout time.Duration
}
