package hbase

import (
	"encoding/binary"
	"net/http"
	"strconv"
)

// The binary protocol's message header, and the types of messages in both protocols.
const (
	version1 = 0x80010000

	callMessage      = 1
	replyMessage     = 2
	exceptionMessage = 3
)

// defaultMaxFrame is HBase's hbase.regionserver.thrift.framed.max_frame_size_in_mb.
const defaultMaxFrame = 2 << 20

// frameLimit is the largest message to send, in bytes without framing; 0 is no bound.
func (t *Transport) frameLimit() int {
	if t.MaxFrame == 0 && t.Framed && !t.HTTP {
		return defaultMaxFrame
	}
	return t.MaxFrame
}

// appendCall writes what comes before the rows of a putMultiple or deleteMultiple of n structs. After them comes tStop.
func appendCall(p []byte, compact bool, method string, seq int32, table string, n int) []byte {
	if compact {
		p = append(p, cMagic, callMessage<<5|cVersion)
		p = binary.AppendUvarint(p, uint64(uint32(seq)))
		p = binary.AppendUvarint(p, uint64(len(method)))
		p = append(p, method...)
		p = append(p, 1<<4|cBinary)
		p = binary.AppendUvarint(p, uint64(len(table)))
		p = append(p, table...)
		return appendCompactList(p, 1, n)
	}
	p = binary.BigEndian.AppendUint32(p, version1|callMessage)
	p = binary.BigEndian.AppendUint32(p, uint32(len(method)))
	p = append(p, method...)
	p = binary.BigEndian.AppendUint32(p, uint32(seq))
	p = append(p, tString, 0, 1)
	p = binary.BigEndian.AppendUint32(p, uint32(len(table)))
	p = append(p, table...)
	p = append(p, tList, 0, 2, tStruct)
	return binary.BigEndian.AppendUint32(p, uint32(n))
}

// appendEnvelope writes what the transport wants before a message of n bytes.
func (t *Transport) appendEnvelope(p []byte, host string, n int) []byte {
	switch {
	case t.HTTP:
		path := t.Path
		if path == "" {
			path = "/"
		}
		p = append(p, "POST "+path+" HTTP/1.1\r\nHost: "+host+
			"\r\nContent-Type: application/x-thrift\r\nAccept: application/x-thrift\r\nUser-Agent: drover\r\nContent-Length: "...)
		p = strconv.AppendInt(p, int64(n), 10)
		return append(p, "\r\n\r\n"...)
	case t.Framed:
		return binary.BigEndian.AppendUint32(p, uint32(n))
	}
	return p
}

// postRequest tells http.ReadResponse what it reads the answer to.
var postRequest = &http.Request{Method: http.MethodPost}
