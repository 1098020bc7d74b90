package mailtest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// wire is an IMAP connection seen from the client, strict about line ends and
// literals. One goroutine reads and one writes.
type wire struct {
	conn  net.Conn
	r     *bufio.Reader
	limit time.Duration // for each read and write

	mu  sync.Mutex
	log []string // the last lines, long ones cut
}

const (
	transcriptLines = 60
	maxLiteral      = 256 << 20
	maxResponse     = 1 << 20 // one line
)

func newWire(c net.Conn, limit time.Duration) *wire {
	return &wire{conn: c, r: bufio.NewReaderSize(c, 64<<10), limit: limit}
}

func dialWire(addr string, config *tls.Config, limit time.Duration) (*wire, error) {
	d := &net.Dialer{Timeout: limit}
	if config == nil {
		c, err := d.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		return newWire(c, limit), nil
	}
	c, err := tls.DialWithDialer(d, "tcp", addr, config)
	if err != nil {
		return nil, err
	}
	return newWire(c, limit), nil
}

// response reads one response with its literals in place, without the last
// CRLF. A line that does not end in CRLF is an error.
func (w *wire) response() (string, error) { return w.responseBy(time.Now().Add(w.limit)) }

func (w *wire) responseBy(deadline time.Time) (string, error) {
	if err := w.conn.SetReadDeadline(deadline); err != nil {
		return "", err
	}
	var b strings.Builder
	for {
		line, err := w.line()
		b.WriteString(line)
		if err != nil {
			if b.Len() > 0 {
				w.note("S: " + b.String() + " <" + err.Error() + ">")
			}
			return b.String(), err
		}
		n, ok := literalSize(line)
		if !ok {
			w.note("S: " + b.String())
			return b.String(), nil
		}
		if n > maxLiteral {
			return b.String(), fmt.Errorf("literal of %d octets", n)
		}
		b.WriteString("\r\n")
		if _, err := io.CopyN(&b, w.r, n); err != nil {
			return b.String(), fmt.Errorf("inside a literal: %w", noEOF(err))
		}
	}
}

func (w *wire) line() (string, error) {
	var b []byte
	for {
		part, err := w.r.ReadSlice('\n')
		b = append(b, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if len(b) > 0 {
				err = fmt.Errorf("inside a line: %w", noEOF(err))
			}
			return string(b), err
		}
		if len(b) > maxResponse {
			return string(b[:100]), errors.New("endless line")
		}
	}
	s, ok := strings.CutSuffix(string(b), "\r\n")
	if !ok {
		return string(b), errors.New("line without CRLF")
	}
	return s, nil
}

// literalSize recognises {n} and {n+} at the end of a line.
func literalSize(line string) (int64, bool) {
	if !strings.HasSuffix(line, "}") {
		return 0, false
	}
	i := strings.LastIndexByte(line, '{')
	if i < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(line[i+1:len(line)-1], "+"), 10, 64)
	return n, err == nil && n >= 0
}

// send writes octets as they are.
func (w *wire) send(s string) error {
	w.note("C: " + strings.TrimSuffix(masked(s), "\r\n"))
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.limit)); err != nil {
		return err
	}
	_, err := io.WriteString(w.conn, s)
	return err
}

func (w *wire) close() error { return w.conn.Close() }

func (w *wire) note(s string) {
	if len(s) > 300 {
		s = fmt.Sprintf("%s ... (%d octets)", s[:300], len(s))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.log) >= transcriptLines {
		w.log = append(w.log[:0], w.log[1:]...)
	}
	w.log = append(w.log, time.Now().Format("05.000 ")+s)
}

// transcript is the end of the dialogue.
func (w *wire) transcript() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.log, "\n")
}

// masked hides passwords from transcripts.
func masked(s string) string {
	f := strings.SplitN(s, " ", 4)
	if len(f) == 4 && strings.EqualFold(f[1], "LOGIN") {
		return strings.Join(f[:3], " ") + " ***"
	}
	return s
}

// noEOF turns an end between two responses into one inside a response.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
