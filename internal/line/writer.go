package line

import (
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// WriteBuffer is the size of a Writer's buffer.
const WriteBuffer = 8192

// Writer buffers what goes to a connection. Its first error sticks: later
// writes do nothing and Flush reports it, so a response may be written without
// a look at each result. It belongs to one goroutine.
type Writer struct {
	conn    net.Conn
	buf     []byte
	timeout time.Duration
	written int64
	err     error
}

var writeBuffers = sync.Pool{New: func() any { return new([WriteBuffer]byte) }}

// NewWriter returns a Writer whose single writes to the connection may take up
// to timeout (0: for ever).
func NewWriter(conn net.Conn, timeout time.Duration) *Writer {
	return &Writer{conn: conn, buf: writeBuffers.Get().(*[WriteBuffer]byte)[:0], timeout: timeout}
}

// Err is the error that sticks.
func (w *Writer) Err() error { return w.err }

// Written counts the octets handed to the connection.
func (w *Writer) Written() int64 { return w.written }

// Pending is the number of octets that wait for a Flush.
func (w *Writer) Pending() int { return len(w.buf) }

// Flush hands everything to the connection.
func (w *Writer) Flush() error {
	if len(w.buf) > 0 {
		w.send(w.buf)
		w.buf = w.buf[:0]
	}
	return w.err
}

func (w *Writer) send(p []byte) {
	if w.err != nil {
		return
	}
	if w.timeout > 0 {
		w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	}
	n, err := w.conn.Write(p)
	w.written += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	w.err = err
}

func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if len(w.buf)+len(p) > cap(w.buf) {
		w.Flush()
		if len(p) >= cap(w.buf) {
			w.send(p)
			return len(p), w.err
		}
	}
	w.buf = append(w.buf, p...)
	return len(p), w.err
}

// WriteString writes s.
func (w *Writer) WriteString(s string) (int, error) {
	for t := s; len(t) > 0; {
		if len(w.buf) == cap(w.buf) && w.Flush() != nil {
			return 0, w.err
		}
		n := min(len(t), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, t[:n]...)
		t = t[n:]
	}
	return len(s), w.err
}

// WriteByte writes one octet.
func (w *Writer) WriteByte(b byte) error {
	if len(w.buf) == cap(w.buf) && w.Flush() != nil {
		return w.err
	}
	w.buf = append(w.buf, b)
	return w.err
}

// WriteUint writes n in decimal.
func (w *Writer) WriteUint(n uint64) {
	if cap(w.buf)-len(w.buf) < 20 {
		w.Flush()
	}
	w.buf = strconv.AppendUint(w.buf, n, 10)
}

// ReadFrom copies from r to its end, through the buffer.
func (w *Writer) ReadFrom(r io.Reader) (total int64, err error) {
	for w.err == nil {
		if len(w.buf) == cap(w.buf) && w.Flush() != nil {
			break
		}
		n, err := r.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+n]
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
	return total, w.err
}
