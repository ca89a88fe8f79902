package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
)

// ackMain serves a gateway's socket, unframed and binary, that takes every putMultiple and keeps nothing, until in ends. It
// prints its address first. Arguments: a file for the arrivals, and the keys between regions in hexadecimal.
func ackMain(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("want a log file and split keys")
	}
	h := &ackHandler{}
	if args[1] != "" {
		for s := range strings.SplitSeq(args[1], ",") {
			k, err := hex.DecodeString(s)
			if err != nil {
				return fmt.Errorf("split key %q: %w", s, err)
			}
			h.splits = append(h.splits, k)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &acks{handler: h, keep: args[0] != ""}
	fmt.Fprintln(out, l.Addr())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Not waited for: the client ends it, or the process does.
			go s.serve(c)
		}
	})
	_, err = io.Copy(io.Discard, in)
	l.Close()
	serving.Wait()
	if args[0] != "" {
		err = errors.Join(err, s.save(args[0]))
	}
	return err
}

// arrival is one putMultiple: when its first byte was read, and its rows.
type arrival struct {
	at   int64 // Unix nanoseconds
	rows int
}

type acks struct {
	handler *ackHandler
	keep    bool

	mu       sync.Mutex
	arrivals []arrival
}

func (s *acks) save(path string) error {
	var b bytes.Buffer
	s.mu.Lock()
	for _, a := range s.arrivals {
		fmt.Fprintln(&b, a.at, a.rows)
	}
	s.mu.Unlock()
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func readArrivals(path string) ([]arrival, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []arrival
	for line := range strings.Lines(string(text)) {
		var a arrival
		if _, err := fmt.Sscan(line, &a.at, &a.rows); err != nil {
			return nil, fmt.Errorf("read arrivals: line %q: %w", line, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// serve answers one connection. putMultiple is passed over by hand, all else goes through the generated code.
func (s *acks) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 256<<10)
	transport := thrift.NewStreamTransport(in, c)
	proto := thrift.NewTBinaryProtocolConf(transport, &thrift.TConfiguration{})
	processor := thrift2.NewTHBaseServiceProcessor(s.handler)
	for {
		head, err := in.Peek(8)
		if err != nil {
			return
		}
		now := time.Now()
		n := int(binary.BigEndian.Uint32(head[4:]))
		if binary.BigEndian.Uint32(head)&^0xff != thrift.VERSION_1 || n > 100 {
			fmt.Fprintf(os.Stderr, "bench ack: this is no unframed binary call: % x\n", head)
			return
		}
		if head, err = in.Peek(8 + n + 4); err != nil {
			return
		}
		if string(head[8:8+n]) != "putMultiple" {
			if ok, err := processor.Process(context.Background(), proto, proto); !ok {
				fmt.Fprintln(os.Stderr, "bench ack:", err)
				return
			}
			continue
		}
		reply := ackReply(head[8+n:])
		in.Discard(8 + n + 4)
		w := passer{in: in}
		rows := w.putMultiple()
		if w.err != nil {
			fmt.Fprintln(os.Stderr, "bench ack: read rows:", w.err)
			return
		}
		if s.keep {
			s.mu.Lock()
			s.arrivals = append(s.arrivals, arrival{now.UnixNano(), rows})
			s.mu.Unlock()
		}
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

// ackBytes is the size of a reply to putMultiple.
const ackBytes = 4 + 4 + len("putMultiple") + 4 + 1

// ackReply is a void reply to putMultiple with a sequence number as it was received.
func ackReply(seq []byte) []byte {
	b := make([]byte, 0, ackBytes)
	b = binary.BigEndian.AppendUint32(b, thrift.VERSION_1|uint32(thrift.REPLY))
	b = binary.BigEndian.AppendUint32(b, uint32(len("putMultiple")))
	b = append(b, "putMultiple"...)
	b = append(b, seq...)
	return append(b, 0)
}

// isAck tells whether a reply, of which the first ackBytes were read, is a void one.
func isAck(b []byte) bool {
	return binary.BigEndian.Uint32(b) == thrift.VERSION_1|uint32(thrift.REPLY) && b[ackBytes-1] == 0
}

// passer finds the end of encoded structs without keeping anything.
type passer struct {
	in  *bufio.Reader
	err error
}

func (p *passer) take(n int) []byte {
	var zero [8]byte
	if p.err != nil {
		return zero[:n]
	}
	b, err := p.in.Peek(n)
	if err != nil {
		p.err = err
		return zero[:n]
	}
	p.in.Discard(n)
	return b
}

func (p *passer) pass(n int) {
	if p.err == nil {
		_, p.err = p.in.Discard(n)
	}
}

// putMultiple passes the arguments of the call and gives the number of rows.
func (p *passer) putMultiple() (rows int) {
	for p.err == nil {
		t := p.take(1)[0]
		if t == thrift.STOP {
			break
		}
		id := binary.BigEndian.Uint16(p.take(2))
		if t == thrift.LIST && id == 2 {
			head := p.take(5)
			elem := head[0]
			rows = int(binary.BigEndian.Uint32(head[1:]))
			for range rows {
				p.value(elem)
			}
			continue
		}
		p.value(t)
	}
	return rows
}

func (p *passer) value(t byte) {
	switch t {
	case thrift.BOOL, thrift.BYTE:
		p.pass(1)
	case thrift.I16:
		p.pass(2)
	case thrift.I32:
		p.pass(4)
	case thrift.I64, thrift.DOUBLE:
		p.pass(8)
	case thrift.STRING:
		p.pass(int(binary.BigEndian.Uint32(p.take(4))))
	case thrift.STRUCT:
		for p.err == nil {
			t := p.take(1)[0]
			if t == thrift.STOP {
				return
			}
			p.pass(2)
			p.value(t)
		}
	case thrift.LIST, thrift.SET:
		head := p.take(5)
		elem, n := head[0], int(binary.BigEndian.Uint32(head[1:]))
		for range n {
			if p.err != nil {
				return
			}
			p.value(elem)
		}
	default:
		if p.err == nil {
			p.err = fmt.Errorf("unexpected type %d", t)
		}
	}
}

// ackHandler answers what drover asks before it puts. Any table is there, empty and enabled, with family d. What it does not
// know panics, which ends the measurement with the name of the call.
type ackHandler struct {
	thrift2.THBaseService
	splits [][]byte
}

func (*ackHandler) TableExists(context.Context, *thrift2.TTableName) (bool, error) { return true, nil }
func (*ackHandler) IsTableEnabled(context.Context, *thrift2.TTableName) (bool, error) {
	return true, nil
}
func (*ackHandler) GetClusterId(context.Context) (string, error) { return "bench", nil }
func (*ackHandler) GetThriftServerType(context.Context) (thrift2.TThriftServerType, error) {
	return thrift2.TThriftServerType_TWO, nil
}

func (*ackHandler) GetTableDescriptor(_ context.Context, name *thrift2.TTableName) (*thrift2.TTableDescriptor, error) {
	return &thrift2.TTableDescriptor{TableName: name, Columns: []*thrift2.TColumnFamilyDescriptor{{Name: []byte("d")}}}, nil
}

func (*ackHandler) GetScannerResults(context.Context, []byte, *thrift2.TScan, int32) ([]*thrift2.TResult_, error) {
	return nil, nil
}

// GetAllRegionLocations deals the regions out to three servers.
func (h *ackHandler) GetAllRegionLocations(_ context.Context, table []byte) ([]*thrift2.THRegionLocation, error) {
	bounds := append(append([][]byte{{}}, h.splits...), []byte{})
	var all []*thrift2.THRegionLocation
	for i := range len(bounds) - 1 {
		port := int32(16020 + i%3)
		all = append(all, &thrift2.THRegionLocation{
			ServerName: &thrift2.TServerName{HostName: "ack", Port: &port},
			RegionInfo: &thrift2.THRegionInfo{TableName: table, StartKey: bounds[i], EndKey: bounds[i+1]},
		})
	}
	return all, nil
}
