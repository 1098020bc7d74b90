package line

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Errors of reading. I/O errors of the connection come through as they are.
var (
	// ErrLineTooLong: the line exceeds the bound. What was collected of it is
	// dropped; SkipLine gets rid of the rest.
	ErrLineTooLong = errors.New("line: too long")
	// ErrWoken: Wait was ended by Wake before an octet came.
	ErrWoken = errors.New("line: woken")
	// ErrIdle: Wait's idle time passed without an octet.
	ErrIdle = errors.New("line: idle for too long")
)

// DefaultBuffer is the size of a Reader's buffer. Longer lines are possible:
// they are collected in memory of their own, up to the bound that the caller
// gives.
const DefaultBuffer = 4096

// Reader reads lines, literals and raw octets from a connection through one
// fixed buffer. Wake apart, it belongs to one goroutine.
type Reader struct {
	conn net.Conn
	buf  []byte
	r, w int    // buf[r:w] is received and unread
	long []byte // a line longer than buf, reused

	progress time.Duration // see Progress

	mu      sync.Mutex // guards what follows, and the read deadline
	waiting bool
	woken   bool
}

var readBuffers = sync.Pool{New: func() any { return new([DefaultBuffer]byte) }}

// NewReader returns a Reader with a buffer of size octets (0: DefaultBuffer).
func NewReader(conn net.Conn, size int) *Reader {
	if size <= 0 || size == DefaultBuffer {
		return &Reader{conn: conn, buf: readBuffers.Get().(*[DefaultBuffer]byte)[:]}
	}
	return &Reader{conn: conn, buf: make([]byte, size)}
}

// Wait returns nil once at least one octet can be read, waiting for it at most
// idle (0: for ever); from then on the connection's read deadline is command
// away (0: none). Octets that are buffered count at once. Errors: ErrIdle,
// ErrWoken, or the connection's (io.EOF when the peer has closed).
func (r *Reader) Wait(idle, command time.Duration) error {
	if r.r < r.w {
		r.SetTimeout(command)
		return nil
	}
	if !r.beginWait(idle) {
		return ErrWoken
	}
	err := r.fill()
	woken := r.endWait(command)
	switch {
	case err == nil:
		if woken { // data came first; the wake-up is for the next Wait
			r.Wake()
		}
		return nil
	case woken && errors.Is(err, os.ErrDeadlineExceeded):
		return ErrWoken
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrIdle
	}
	return err
}

// beginWait reports false when a wake-up is pending, which it consumes.
func (r *Reader) beginWait(idle time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.woken {
		r.woken = false
		return false
	}
	r.waiting = true
	r.conn.SetReadDeadline(deadline(idle))
	return true
}

func (r *Reader) endWait(command time.Duration) (woken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	woken = r.woken
	r.waiting, r.woken = false, false
	r.conn.SetReadDeadline(deadline(command))
	return woken
}

// Wake ends the running Wait with ErrWoken, or the next one when none runs.
// Wake-ups coalesce. It never disturbs a command that is being read. Safe for
// concurrent use.
func (r *Reader) Wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.woken = true
	if r.waiting {
		r.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// SetTimeout sets the read deadline d from now; 0 removes it.
func (r *Reader) SetTimeout(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn.SetReadDeadline(deadline(d))
}

// Progress makes every further read of the connection wait at most d for an
// octet, in place of one deadline for the whole: for long literals. 0 ends it.
func (r *Reader) Progress(d time.Duration) { r.progress = d }

func deadline(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// fill reads once from the connection into a buffer that has room.
func (r *Reader) fill() error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if r.w == len(r.buf) {
		copy(r.buf, r.buf[r.r:r.w])
		r.r, r.w = 0, r.w-r.r
	}
	n, err := r.readConn(r.buf[r.w:])
	r.w += n
	return err
}

// readConn reads at least one octet or fails.
func (r *Reader) readConn(p []byte) (int, error) {
	for range 100 {
		if r.progress > 0 {
			r.SetTimeout(r.progress)
		}
		n, err := r.conn.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// Fill reads more octets behind the buffered ones and returns at least one
// more. It fails with ErrLineTooLong when the buffer is full.
func (r *Reader) Fill() error {
	if r.w-r.r == len(r.buf) {
		return ErrLineTooLong
	}
	return r.fill()
}

// Buffered returns what is received and unread, without reading. It stays
// valid until the next call.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard drops the first n of the buffered octets.
func (r *Reader) Discard(n int) { r.r += min(n, r.w-r.r) }

// ReadLine returns the next line without its end (CRLF, or a bare LF). The
// line, its end included, has at most max octets, else ErrLineTooLong. It
// stays valid until the next call. A line cut off by the end of the stream is
// io.ErrUnexpectedEOF.
func (r *Reader) ReadLine(max int) ([]byte, error) {
	r.long = r.long[:0]
	for searched := 0; ; {
		part := r.buf[r.r:r.w]
		if i := bytes.IndexByte(part[searched:], '\n'); i >= 0 {
			i += searched
			if len(r.long)+i+1 > max {
				return nil, r.unreadLong()
			}
			r.r += i + 1
			return r.endLine(part[:i]), nil
		}
		if len(r.long)+len(part) >= max {
			return nil, r.unreadLong()
		}
		searched = len(part)
		if len(part) == len(r.buf) {
			r.long = append(r.long, part...)
			r.r, r.w, searched = 0, 0, 0
		}
		if err := r.fill(); err != nil {
			if err == io.EOF && len(r.long)+r.w-r.r > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

func (r *Reader) endLine(tail []byte) []byte {
	l := tail
	if len(r.long) > 0 {
		r.long = append(r.long, tail...)
		l = r.long
	}
	if n := len(l); n > 0 && l[n-1] == '\r' {
		l = l[:n-1]
	}
	if cap(r.long) > 1<<20 {
		r.long = nil // l keeps the array for as long as the caller does
	}
	return l
}

// unreadLong gives up a line that is too long; what was collected of it is
// dropped, so that SkipLine finds the rest.
func (r *Reader) unreadLong() error {
	r.long = r.long[:0]
	return ErrLineTooLong
}

// SkipLine drops octets up to and including the next LF, at most max of them
// (ErrLineTooLong beyond that). It returns the last octets before the line's
// end, enough to see an IMAP literal announced there.
func (r *Reader) SkipLine(max int) (tail []byte, err error) {
	var keep []byte
	for n := 0; n <= max; {
		part := r.buf[r.r:r.w]
		if i := bytes.IndexByte(part, '\n'); i >= 0 {
			r.r += i + 1
			return bytes.TrimSuffix(lastOctets(keep, part[:i]), []byte("\r")), nil
		}
		n += len(part)
		keep = lastOctets(keep, part)
		r.r = r.w
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	return nil, ErrLineTooLong
}

// lastOctets is the end of a followed by b, in memory of its own.
func lastOctets(a, b []byte) []byte {
	const enough = 32
	all := append(bytes.Clone(a), b[max(0, len(b)-enough):]...)
	return all[max(0, len(all)-enough):]
}

// ReadByte reads one octet.
func (r *Reader) ReadByte() (byte, error) {
	for r.r == r.w {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	b := r.buf[r.r]
	r.r++
	return b, nil
}

// Read reads octets: first the buffered ones, large reads then straight from
// the connection.
func (r *Reader) Read(p []byte) (int, error) {
	if r.r == r.w {
		if len(p) >= len(r.buf) {
			return r.readConn(p)
		}
		if len(p) == 0 {
			return 0, nil
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// Exactly returns a reader of exactly the next n octets. The stream's end
// before that is io.ErrUnexpectedEOF. Read it to its end, or Drain it, before
// the Reader is used again.
func (r *Reader) Exactly(n int64) *Exact { return &Exact{r: r, n: n} }

// Exact is a reader of a known number of octets.
type Exact struct {
	r *Reader
	n int64
}

// Left is the number of octets not yet read.
func (e *Exact) Left() int64 { return e.n }

func (e *Exact) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.n {
		p = p[:e.n]
	}
	n, err := e.r.Read(p)
	e.n -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Drain drops the rest.
func (e *Exact) Drain() error {
	_, err := io.Copy(io.Discard, e)
	return err
}
