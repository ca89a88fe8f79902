package gateway

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/apache/thrift/lib/go/thrift"

	"drover/hbase/thrift2"
)

// session is what one connection, or one HTTP request, needs to carry out calls. It is used by one goroutine at a time.
type session struct {
	s         *Server
	wire      wire
	put       putCall
	sent      int // bytes of the last reply
	processor *thrift2.THBaseServiceProcessor
}

func (s *Server) session() *session {
	e := &session{s: s, wire: wire{compact: s.trans.Compact}}
	var known []string
	switch {
	case s.backend != nil:
		e.processor, known = thrift2.NewTHBaseServiceProcessor(s.backend), s.backend.Methods()
	case s.old:
		known = oldMethods
		fallthrough
	default:
		e.processor = thrift2.NewTHBaseServiceProcessor(&handler{s})
	}
	if known != nil {
		maps.DeleteFunc(e.processor.ProcessorMap(), func(name string, _ thrift.TProcessorFunction) bool { return !slices.Contains(known, name) })
	}
	return e
}

// oldMethods are those of HBase 1.x that the embedded gateway has. Its puts are decoded by hand and known either way.
var oldMethods = []string{
	"exists", "existsAll", "get", "getMultiple", "put", "putMultiple", "deleteSingle", "deleteMultiple",
	"openScanner", "getScannerRows", "closeScanner", "getScannerResults", "getRegionLocation", "getAllRegionLocations",
}

// converse carries out the calls of one connection until either side ends it.
func (s *Server) converse(c net.Conn) {
	defer c.Close()
	e := s.session()
	for {
		err := e.turn(c)
		if err == nil {
			continue
		}
		if t, ok := errors.AsType[thrift.TProtocolException](err); ok || errors.Is(err, errTooLong) {
			s.log.Warn("end a Thrift connection that sent no valid call; do framing and protocol agree?", "client", c.RemoteAddr(), "error", errors.Join(err, t))
		}
		return
	}
}

// turn reads one call and answers it.
func (e *session) turn(c net.Conn) error {
	w := &e.wire
	if !e.s.trans.Framed {
		w.begin()
		w.src = c
		return e.answer(c, 0)
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(e.s.trans.MaxFrame) {
		return errTooLong // HBase's servers close the connection without a word too
	}
	if err := w.load(io.LimitReader(c, int64(n)), int(n)); err != nil {
		return err
	}
	w.out = append(w.out, head[:]...)
	return e.answer(c, 4)
}

// answer carries out the call in the wire and sends the reply, of which the first bytes are left for the frame's length.
func (e *session) answer(c io.Writer, header int) error {
	wrote, err := e.call()
	w := &e.wire
	if len(w.out) > header {
		if header == 4 {
			binary.BigEndian.PutUint32(w.out, uint32(len(w.out)-4))
		}
		reply := w.out
		var cut error
		if wrote && err == nil {
			reply, cut = e.s.faults.trim(reply)
		}
		var broken error
		if e.sent, broken = c.Write(reply); broken != nil {
			return broken
		}
		err = errors.Join(err, cut)
	}
	if len(w.out) > keepBuffer {
		w.out = nil
	}
	return err
}

// call carries out one call and leaves the reply in the wire. wrote tells that rows were applied; an error, that the
// connection cannot go on.
func (e *session) call() (wrote bool, err error) {
	w := &e.wire
	start := w.pos
	method, seq := w.message()
	if w.err != nil {
		return false, w.err
	}
	ctx := context.Background()
	out := e.protocol()
	switch name := string(w.at(method)); name {
	case "put", "putMultiple":
		single := name == "put"
		e.put.decode(w, single)
		if w.err != nil {
			return false, w.err
		}
		if err := e.s.faults.before(e.s.done); err != nil {
			return false, err
		}
		err := e.s.put(w, &e.put, single)
		if errors.Is(err, errClosed) {
			return false, err
		}
		if err == nil {
			w.out = appendReply(w.out, w.compact, name, seq)
			return true, nil
		}
		return false, replyPut(ctx, out, name, seq, err)
	default:
		if err := e.s.faults.before(e.s.done); err != nil {
			return false, err
		}
		w.pos = start
		_, failed := e.processor.Process(ctx, e.protocol(), &exact{TProtocol: out})
		if w.err != nil {
			return false, w.err
		}
		if errors.Is(failed, errClosed) {
			return false, errClosed
		}
		if _, ok := errors.AsType[thrift.TProtocolException](failed); ok {
			return false, failed
		}
		return failed == nil && (name == "deleteSingle" || name == "deleteMultiple"), nil
	}
}

func (e *session) protocol() thrift.TProtocol {
	if e.wire.compact {
		return thrift.NewTCompactProtocolConf(&e.wire, nil)
	}
	return thrift.NewTBinaryProtocolConf(&e.wire, nil)
}

// replyPut answers a put that was refused, or that was applied in part.
func replyPut(ctx context.Context, out thrift.TProtocol, method string, seq int32, err error) error {
	kind := thrift.TMessageType(thrift.EXCEPTION)
	var body thrift.TStruct = thrift.NewTApplicationException(thrift.INTERNAL_ERROR, "Internal error processing "+method)
	if io, ok := errors.AsType[*thrift2.TIOError](err); ok {
		kind = thrift.REPLY
		body = &thrift2.THBaseServicePutMultipleResult{Io: io} // put's result has the same fields
	}
	return errors.Join(out.WriteMessageBegin(ctx, method, kind, seq), body.Write(ctx, out), out.WriteMessageEnd(ctx))
}

// exact leaves out the reasons that the generated code for Go adds to internal errors and HBase's Java code does not, and names
// an unknown method as that does.
type exact struct {
	thrift.TProtocol
	internal string // what the message starts with while an exception is written
}

func (x *exact) WriteMessageBegin(ctx context.Context, name string, kind thrift.TMessageType, seq int32) error {
	if kind == thrift.EXCEPTION {
		x.internal = "Internal error processing " + name
	}
	return x.TProtocol.WriteMessageBegin(ctx, name, kind, seq)
}

func (x *exact) WriteString(ctx context.Context, value string) error {
	if x.internal != "" && strings.HasPrefix(value, x.internal) {
		value = x.internal
	}
	if method, ok := strings.CutPrefix(value, "Unknown function "); ok && x.internal != "" {
		value = "Invalid method name: '" + method + "'"
	}
	return x.TProtocol.WriteString(ctx, value)
}

// serveHTTP carries out calls that are POSTed, one a request.
func (s *Server) serveHTTP(l net.Listener) {
	path := s.trans.Path
	if path == "" {
		path = "/"
	}
	mux := http.NewServeMux()
	mux.HandleFunc(path, s.post)
	server := &http.Server{
		Handler:      mux,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1 only, as HBase's
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.work.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.work.Done()
			}
		},
	}
	server.Serve(l) // ends when Close closes the listener
	server.Close()
}

func (s *Server) post(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxMessage))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	e := s.session()
	e.wire.buf, e.wire.end = body, len(body)
	rw.Header().Set("Content-Type", "application/x-thrift")
	if err := e.answer(rw, 0); err != nil {
		if e.sent > 0 {
			http.NewResponseController(rw).Flush()
		}
		panic(http.ErrAbortHandler) // closes the connection in the middle of the reply
	}
}
