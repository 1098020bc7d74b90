package line

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// PipeBuffer bounds what is on its way in each direction of a Pipe.
const PipeBuffer = 64 << 10

// pipeStart is the size a direction's buffer starts with; it doubles on demand,
// so that a quiet connection stays small.
const pipeStart = 2 << 10

// fullRings keeps buffers of full size, which a direction gives back whenever
// it is empty and somebody waits for octets: most connections are quiet.
var fullRings = sync.Pool{New: func() any { return new([PipeBuffer]byte) }}

// Pipe returns the two ends of an in-memory connection: full duplex, buffered
// by PipeBuffer octets in each direction, with deadlines and CloseWrite, as a
// socket has them. A proxy reaches the store of its own node through it, and
// tests use it in place of sockets (it counts as blocked in testing/synctest).
func Pipe() (*PipeConn, *PipeConn) {
	a, b := newFlow(), newFlow()
	return &PipeConn{in: a, out: b}, &PipeConn{in: b, out: a}
}

// PipeConn is one end of a Pipe. It implements net.Conn and is safe for
// concurrent use.
type PipeConn struct {
	in, out *flow
}

var _ net.Conn = (*PipeConn)(nil)

func (c *PipeConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *PipeConn) Write(p []byte) (int, error) { return c.out.write(p) }

// CloseWrite tells the peer that nothing more comes; reading goes on.
func (c *PipeConn) CloseWrite() error {
	c.out.finish()
	return nil
}

// Close ends both directions. The peer can still read what was written.
func (c *PipeConn) Close() error {
	c.out.finish()
	c.in.abandon()
	return nil
}

// SetDeadline sets both deadlines.
func (c *PipeConn) SetDeadline(t time.Time) error {
	c.in.reader.set(t)
	c.out.writer.set(t)
	return nil
}

// SetReadDeadline is for Read.
func (c *PipeConn) SetReadDeadline(t time.Time) error {
	c.in.reader.set(t)
	return nil
}

// SetWriteDeadline is for Write.
func (c *PipeConn) SetWriteDeadline(t time.Time) error {
	c.out.writer.set(t)
	return nil
}

// LocalAddr is the address "pipe".
func (c *PipeConn) LocalAddr() net.Addr { return pipeAddr{} }

// RemoteAddr is the address "pipe".
func (c *PipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// flow is one direction: a ring of octets between one end's Write and the
// other's Read.
type flow struct {
	mu     sync.Mutex
	ring   []byte
	start  int
	n      int
	busy   bool // was of full size before
	reader pipeSide
	writer pipeSide
	// finished: the writer sends no more; abandoned: the reader is gone.
	finished, abandoned bool
}

// pipeSide is where the goroutines of one side wait.
type pipeSide struct {
	f       *flow
	cond    sync.Cond
	waiting int
	at      time.Time // deadline, zero: none
	expired bool
	timer   *time.Timer
	version int // of the deadline, so that a late timer does no harm
}

func newFlow() *flow {
	f := &flow{}
	f.reader.f, f.writer.f = f, f
	f.reader.cond.L, f.writer.cond.L = &f.mu, &f.mu
	return f
}

func (s *pipeSide) wait() {
	s.arm()
	s.waiting++
	s.cond.Wait()
	s.waiting--
}

// arm starts the deadline's timer, once somebody waits: most deadlines are
// replaced without ever being waited for.
func (s *pipeSide) arm() {
	if s.at.IsZero() || s.timer != nil {
		return
	}
	version := s.version
	s.timer = time.AfterFunc(time.Until(s.at), func() { s.expire(version) })
}

func (s *pipeSide) expire(version int) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if version == s.version {
		s.expired = true
		s.cond.Broadcast()
	}
}

func (s *pipeSide) late() bool {
	return s.expired || !s.at.IsZero() && !time.Now().Before(s.at)
}

func (s *pipeSide) set(t time.Time) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.version++
	s.at, s.expired = t, false
	if s.waiting > 0 {
		if s.late() {
			s.expired = true
			s.cond.Broadcast()
		} else {
			s.arm()
		}
	}
}

func (s *pipeSide) wake() {
	if s.waiting > 0 {
		s.cond.Broadcast()
	}
}

func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.abandoned:
			return 0, net.ErrClosed
		case f.reader.late():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case f.n > 0:
			return f.take(p), nil
		case f.finished:
			return 0, io.EOF
		}
		f.shrink()
		f.reader.wait()
	}
}

// shrink gives an empty ring of full size back.
func (f *flow) shrink() {
	if len(f.ring) == PipeBuffer {
		fullRings.Put((*[PipeBuffer]byte)(f.ring))
		f.ring, f.start, f.busy = nil, 0, true
	}
}

// take moves octets out. A waiting writer is woken when half of the ring is
// free, not for every octet.
func (f *flow) take(p []byte) int {
	n := copy(p, f.ring[f.start:min(f.start+f.n, len(f.ring))])
	if n < len(p) && n < f.n {
		n += copy(p[n:], f.ring[:f.n-n])
	}
	f.start = (f.start + n) % len(f.ring)
	f.n -= n
	if f.n == 0 {
		f.start = 0
	}
	if f.n <= len(f.ring)/2 {
		f.writer.wake()
	}
	return n
}

func (f *flow) write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	done := 0
	for {
		switch {
		case f.finished:
			return done, net.ErrClosed
		case f.abandoned:
			return done, io.ErrClosedPipe
		case f.writer.late():
			return done, os.ErrDeadlineExceeded
		}
		if n := f.put(p[done:]); n > 0 {
			done += n
			f.reader.wake()
		}
		if done == len(p) {
			return done, nil
		}
		f.writer.wait()
	}
}

// put moves octets in, as many as there is room for.
func (f *flow) put(p []byte) int {
	if free := len(f.ring) - f.n; free < len(p) && len(f.ring) < PipeBuffer {
		f.grow(f.n + len(p))
	}
	total := 0
	for len(p) > 0 && f.n < len(f.ring) {
		end := (f.start + f.n) % len(f.ring)
		limit := len(f.ring)
		if end < f.start {
			limit = f.start
		}
		n := copy(f.ring[end:limit], p)
		f.n += n
		p = p[n:]
		total += n
	}
	return total
}

func (f *flow) grow(need int) {
	size := max(len(f.ring), pipeStart)
	if f.busy { // it would grow to its full size step by step once more
		size = PipeBuffer
	}
	for size < need && size < PipeBuffer {
		size *= 2
	}
	var ring []byte
	if size == PipeBuffer {
		ring = fullRings.Get().(*[PipeBuffer]byte)[:]
	} else {
		ring = make([]byte, size)
	}
	n := copy(ring, f.ring[f.start:min(f.start+f.n, len(f.ring))])
	copy(ring[n:], f.ring[:f.n-n])
	f.ring, f.start = ring, 0
}

func (f *flow) finish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finished = true
	f.reader.cond.Broadcast()
	f.writer.cond.Broadcast()
	if f.writer.timer != nil {
		f.writer.timer.Stop()
	}
}

func (f *flow) abandon() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abandoned = true
	f.ring, f.start, f.n = nil, 0, 0
	f.reader.cond.Broadcast()
	f.writer.cond.Broadcast()
	if f.reader.timer != nil {
		f.reader.timer.Stop()
	}
}
