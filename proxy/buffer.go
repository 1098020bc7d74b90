package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Sizes of relay buffers: an idle direction has smallBuffer octets, one that
// flows borrows bigBuffer from a pool, and only a command line longer than
// that grows further, to maxLine.
const (
	smallBuffer = 512
	bigBuffer   = 32 << 10
)

var bigBuffers = sync.Pool{New: func() any { b := make([]byte, bigBuffer); return &b }}

// buffer holds octets between a read and the tracker. It belongs to one
// goroutine.
type buffer struct {
	data  []byte
	r, w  int
	big   *[]byte // borrowed
	last  int     // size of the last read
	more  bool    // it filled all the room
	small [smallBuffer]byte
}

func (b *buffer) bytes() []byte { return b.data[b.r:b.w] }

func (b *buffer) drop(n int) { b.r += n }

// space returns room for a read, borrowing or growing when the last read
// filled what there was; full reports that the bound is reached.
func (b *buffer) space() (p []byte, full bool) {
	if b.data == nil {
		b.data = b.small[:]
	}
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
	if b.big == nil && b.more {
		b.grow()
	}
	if b.r > 0 && (b.w == len(b.data) || b.w-b.r <= smallBuffer) {
		b.w = copy(b.data, b.data[b.r:b.w])
		b.r = 0
	}
	if b.w == len(b.data) {
		if len(b.data) > maxLine {
			return nil, true
		}
		b.grow()
	}
	return b.data[b.w:], false
}

func (b *buffer) grow() {
	old := b.bytes()
	if b.big == nil {
		b.big = bigBuffers.Get().(*[]byte)
		b.data = *b.big
	} else {
		b.data = make([]byte, maxLine+smallBuffer)
	}
	b.w = copy(b.data, old)
	b.r, b.more = 0, false
}

// filled takes n octets that were read.
func (b *buffer) filled(n int) {
	b.w += n
	b.last, b.more = n, b.w == len(b.data)
}

// flowing is the size of a read above which more is expected to follow: the
// borrowed buffer is kept. What usually ends a flow, the answer to IDLE or NOOP,
// is smaller.
const flowing = 2 << 10

// rest gives a borrowed buffer back when little is held and little came last.
func (b *buffer) rest() {
	if b.big == nil || b.w-b.r > smallBuffer || b.last >= flowing {
		return
	}
	n := copy(b.small[:], b.bytes())
	bigBuffers.Put(b.big)
	b.big, b.data, b.r, b.w = nil, b.small[:], 0, n
}

// park gives a borrowed buffer back when nothing is held.
func (b *buffer) park() {
	if b.big != nil && b.r == b.w {
		bigBuffers.Put(b.big)
		b.big, b.data, b.r, b.w = nil, b.small[:], 0, 0
	}
}

// preload puts octets that were received before the relay began.
func (b *buffer) preload(p []byte) {
	b.data = b.small[:]
	for len(p) > 0 {
		room, full := b.space()
		if full {
			return
		}
		n := copy(room, p)
		b.w += n
		p = p[n:]
	}
}

// errWoken ends a read that wake interrupted, errQuiet one in which nothing has
// come for so long that the reader may be parked.
var (
	errWoken = errors.New("woken")
	errQuiet = errors.New("nothing has come")
)

// wakeReader reads from a connection and can be woken. One goroutine reads,
// any may wake.
type wakeReader struct {
	net.Conn
	mu      sync.Mutex
	waiting bool
	woken   bool
	bell    chan struct{} // for await
	closing time.Time     // read deadline at the end of a session

	tcp   *net.TCPConn // below; nil: not without TLS
	quiet quiet
	berth berth
}

// quiet lets reads end when nothing comes, by a read deadline that is renewed
// now and then. It belongs to the reading goroutine.
type quiet struct {
	parker *parker
	raw    syscall.RawConn // nil: reads wait for ever
	armed  time.Time
}

func quietOf(k *parker, c net.Conn) quiet { return quiet{parker: k, raw: socketOf(c)} }

// arm sets c's read deadline where it is due.
func (q *quiet) arm(c net.Conn) {
	if q.raw == nil {
		return
	}
	if now := time.Now(); now.Sub(q.armed) >= q.parker.after/4 {
		c.SetReadDeadline(now.Add(q.parker.after))
		q.armed = now
	}
}

// disarm takes the deadline away.
func (q *quiet) disarm(c net.Conn) {
	if !q.armed.IsZero() {
		c.SetReadDeadline(time.Time{})
		q.armed = time.Time{}
	}
}

// read is Read that a wake ends with errWoken; a wake that finds no read ends
// the next one.
func (w *wakeReader) read(p []byte) (int, error) {
	w.mu.Lock()
	if w.woken {
		w.woken = false
		w.mu.Unlock()
		return 0, errWoken
	}
	w.waiting = true
	if w.closing.IsZero() {
		w.quiet.arm(w.Conn)
	}
	w.mu.Unlock()
	n, err := w.Conn.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	woken := w.woken
	w.waiting = false
	if !woken && n == 0 && w.closing.IsZero() && errors.Is(err, os.ErrDeadlineExceeded) {
		w.quiet.disarm(w.Conn)
		return 0, errQuiet
	}
	if woken {
		w.quiet.armed = time.Time{}
		w.Conn.SetReadDeadline(w.closing)
		if n > 0 {
			return n, nil // the wake-up is for the next read
		}
		w.woken = false
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, errWoken
		}
	}
	return n, err
}

func (w *wakeReader) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.woken = true
	if w.bell != nil {
		select {
		case w.bell <- struct{}{}:
		default:
		}
	}
	if w.waiting {
		w.Conn.SetReadDeadline(time.Unix(1, 0))
	}
	w.berth.leave()
}

// park parks the reader, unless it was woken or is about to end.
func (w *wakeReader) park(resume func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.woken && w.closing.IsZero() && w.berth.park(w.quiet.parker, w.quiet.raw, resume)
}

// plain makes reads of the connection itself wait, up to what finish allows.
func (w *wakeReader) plain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing.IsZero() {
		w.quiet.disarm(w.Conn)
	}
	w.quiet.raw = nil
}

// finish bounds what is still read.
func (w *wakeReader) finish(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = time.Now().Add(d)
	w.Conn.SetReadDeadline(w.closing)
}

// await waits for a wake without reading, until ended is closed or over says
// that the session is; then it returns net.ErrClosed.
func (w *wakeReader) await(ended <-chan struct{}, over func() bool) error {
	w.mu.Lock()
	if w.bell == nil {
		w.bell = make(chan struct{}, 1)
	}
	if w.woken {
		w.woken = false
		w.mu.Unlock()
		if over() {
			return net.ErrClosed
		}
		return nil
	}
	bell := w.bell
	w.mu.Unlock()
	select {
	case <-bell:
		w.mu.Lock()
		w.woken = false
		w.mu.Unlock()
	case <-ended:
		return net.ErrClosed
	}
	if over() {
		return net.ErrClosed
	}
	return nil
}
