package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// The inside of a large literal needs no look: between two sockets without TLS
// the kernel moves it by itself (splice(2)). That goes piece by piece, so that
// the connection which is written to is not taken from others for long.
const (
	spliceLeast = 128 << 10 // of a literal's rest: what is less goes through the tracker
	splicePiece = 1 << 20
	spliceTime  = 250 * time.Millisecond // for which a piece waits for octets
)

// spans is a framing that knows how many octets to come need no look.
type spans interface {
	// upSpan and downSpan are how many there are of each side, upPassed and
	// downPassed take n of them.
	upSpan() uint64
	upPassed(n uint64)
	downSpan() uint64
	downPassed(n uint64)
}

func (t *tracker) upSpan() uint64 {
	if t.up.state != upLiteral || t.up.refusal != "" || t.up.cmd.selects() {
		return 0
	}
	return t.up.left
}

func (t *tracker) upPassed(n uint64) {
	if t.up.left -= n; t.up.left == 0 {
		t.up.state = upRest
	}
}

func (t *tracker) downSpan() uint64 {
	if t.down.state != downLiteral || t.down.swallow {
		return 0
	}
	return t.down.left
}

func (t *tracker) downPassed(n uint64) {
	if t.down.left -= n; t.down.left == 0 {
		t.down.state = downRest
	}
}

// tcpOf is the connection below our own wrappers; nil: it is something else,
// or TLS is on it.
func tcpOf(c net.Conn) *net.TCPConn {
	for range 8 {
		if t, ok := c.(*net.TCPConn); ok {
			return t
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if _, secret := c.(*tls.Conn); secret || !ok {
			return nil
		}
		c = w.NetConn()
	}
	return nil
}

// piece moves up to n octets. late: the source had none any more for a while,
// or ended; all that was taken from it has been written.
func piece(dst, src *net.TCPConn, n uint64) (moved int64, late bool, err error) {
	begin := time.Now()
	dst.SetWriteDeadline(begin.Add(writeLimit))
	moved, err = io.CopyN(dst, src, int64(min(n, splicePiece)))
	switch took := time.Since(begin); {
	case err == io.EOF:
		return moved, true, nil
	case errors.Is(err, os.ErrDeadlineExceeded) && took >= spliceTime && took < writeLimit:
		return moved, true, nil
	}
	return moved, false, err
}

// spliceDown moves what it can of a literal to the client, with nothing held in
// a buffer. The rest is downLeg's, and so is the end of the stream.
func (s *session) spliceDown(l *leg) error {
	tr, ok := s.tr.(spans)
	if !ok || l.tcp == nil || s.client.tcp == nil {
		return nil
	}
	for {
		s.clientW.Lock()
		s.mu.Lock()
		n := tr.downSpan()
		if s.leg != l || s.closing || n < spliceLeast {
			s.mu.Unlock()
			s.clientW.Unlock()
			return nil
		}
		s.mu.Unlock()
		l.SetReadDeadline(time.Now().Add(spliceTime))
		moved, late, err := piece(s.client.tcp, l.tcp, n)
		l.SetReadDeadline(time.Time{})
		l.quiet.armed = time.Time{}
		s.mu.Lock()
		tr.downPassed(uint64(moved))
		if late && s.closing { // the client's deadline, perhaps: see lockClient
			err = errReplaced
		}
		s.mu.Unlock()
		s.clientW.Unlock()
		s.p.downOctets.Add(float64(moved))
		if late || err != nil {
			return err
		}
	}
}

// spliceUp moves what it can of a literal to the backend, with nothing held in
// a buffer. The rest is up's.
func (s *session) spliceUp() {
	tr, ok := s.tr.(spans)
	if !ok || s.client.tcp == nil {
		return
	}
	for {
		s.backendW.Lock()
		s.mu.Lock()
		l, n, closing := s.leg, tr.upSpan(), s.closing
		s.mu.Unlock()
		if closing || l.tcp == nil || n < spliceLeast || !s.client.within(spliceTime) {
			s.backendW.Unlock()
			return
		}
		moved, late, err := piece(l.tcp, s.client.tcp, n)
		s.client.without()
		s.mu.Lock()
		tr.upPassed(uint64(moved))
		s.mu.Unlock()
		s.backendW.Unlock()
		s.p.upOctets.Add(float64(moved))
		s.active.Store(time.Now().UnixNano())
		if err != nil {
			l.Close() // down sees it
		}
		if late || err != nil {
			return
		}
	}
}

// within bounds reads of the connection itself; false: the reader was woken or
// is about to end.
func (w *wakeReader) within(d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.woken || !w.closing.IsZero() {
		return false
	}
	w.Conn.SetReadDeadline(time.Now().Add(d))
	return true
}

// without ends what within began.
func (w *wakeReader) without() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing.IsZero() {
		w.Conn.SetReadDeadline(time.Time{})
		w.quiet.armed = time.Time{}
	}
}
