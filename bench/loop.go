package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

// loopMain is the least that a program must do to move a file of the flat5 profile: read it, walk the BSON, append the same
// cells as drover does, write them to one socket, read the acknowledgement. No checks that the data does not need, no
// retries, no checkpoints, no second connection. Arguments: address, file, table, rows a batch.
func loopMain(args []string) error {
	if len(args) != 4 {
		return errors.New("want an address, a file, a table and rows a batch")
	}
	rows, err := strconv.Atoi(args[3])
	if err != nil || rows < 1 {
		return fmt.Errorf("rows a batch: %q", args[3])
	}
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	l := loop{conn: c, table: args[2], batch: rows}
	return l.move(f)
}

type loop struct {
	conn  net.Conn
	table string
	batch int

	out   []byte // the call being made
	count int    // offset in out of its number of rows
	rows  int    // in it
	seq   uint32
}

const loopTimestamp = 1_700_000_000_000

func (l *loop) move(f io.Reader) error {
	in := bufio.NewReaderSize(f, 1<<20)
	l.begin()
	for {
		head, err := in.Peek(4)
		if err == io.EOF && len(head) == 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("read a document: %w", err)
		}
		n := int(binary.LittleEndian.Uint32(head))
		doc, err := in.Peek(n) // flat5's fit into the buffer
		if err != nil {
			return fmt.Errorf("read a document: %w", err)
		}
		if err := l.row(doc); err != nil {
			return err
		}
		in.Discard(n)
		if l.rows == l.batch {
			if err := l.send(); err != nil {
				return err
			}
			l.begin()
		}
	}
	if l.rows == 0 {
		return nil
	}
	return l.send()
}

// begin starts a call.
func (l *loop) begin() {
	l.seq++
	l.out = append(appendPutMultiple(l.out[:0], l.seq, l.table), 0, 0, 0, 0)
	l.count, l.rows = len(l.out)-4, 0
}

// appendPutMultiple appends a call up to its number of rows. The rows, each a TPut, and a zero complete it.
func appendPutMultiple(b []byte, seq uint32, table string) []byte {
	b = append(b, 0x80, 1, 0, 1, 0, 0, 0, byte(len("putMultiple")))
	b = append(b, "putMultiple"...)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = append(b, 11, 0, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(table)))
	b = append(b, table...)
	return append(b, 15, 0, 2, 12)
}

// row appends a document as a TPut.
func (l *loop) row(doc []byte) error {
	b := append(l.out, 11, 0, 1, 0, 0, 0, 12)
	key := len(b)
	b = append(b, "............"...)
	b = append(b, 15, 0, 2, 12, 0, 0, 0, 0)
	cells := len(b) - 4
	n := uint32(0)
	for p := doc[4:]; p[0] != 0; n++ {
		kind := p[0]
		p = p[1:]
		end := 0
		for p[end] != 0 {
			end++
		}
		name := p[:end]
		p = p[end+1:]
		b = append(b, 11, 0, 1, 0, 0, 0, 1, 'd', 11, 0, 2)
		b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
		b = append(b, name...)
		b = append(b, 11, 0, 3)
		switch kind {
		case 0x02:
			size := binary.LittleEndian.Uint32(p)
			b = binary.BigEndian.AppendUint32(b, size-1)
			b = append(b, p[4:4+size-1]...)
			p = p[4+size:]
		case 0x07:
			b = append(b, 0, 0, 0, 12)
			b = append(b, p[:12]...)
			copy(b[key:], p[:12]) // the one ObjectID is the _id
			p = p[12:]
		case 0x09, 0x12:
			b = append(b, 0, 0, 0, 8)
			b = binary.BigEndian.AppendUint64(b, binary.LittleEndian.Uint64(p))
			p = p[8:]
		default:
			return fmt.Errorf("field %s has type %#x, which flat5 has not", name, kind)
		}
		b = append(b, 0)
	}
	binary.BigEndian.PutUint32(b[cells:], n)
	b = append(b, 10, 0, 3) // the timestamp of all cells
	b = binary.BigEndian.AppendUint64(b, loopTimestamp)
	l.out = append(b, 8, 0, 6, 0, 0, 0, 3, 0) // SYNC_WAL
	l.rows++
	return nil
}

// send completes the call and waits for its acknowledgement.
func (l *loop) send() error {
	binary.BigEndian.PutUint32(l.out[l.count:], uint32(l.rows))
	l.out = append(l.out, 0)
	if _, err := l.conn.Write(l.out); err != nil {
		return fmt.Errorf("send %d rows: %w", l.rows, err)
	}
	var reply [ackBytes]byte
	if _, err := io.ReadFull(l.conn, reply[:]); err != nil {
		return fmt.Errorf("read the answer for %d rows: %w", l.rows, err)
	}
	if !isAck(reply[:]) {
		return fmt.Errorf("%d rows are not acknowledged: % x", l.rows, reply)
	}
	return nil
}
