package remote

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// link is a connection whose reads and writes each have to make progress
// within a time, whatever the length of the whole exchange, and which a
// context can interrupt.
type link struct {
	net.Conn
	raw syscall.RawConn // of the socket; nil: not known

	mu      sync.Mutex
	timeout time.Duration // per read or write; 0: none
	until   time.Time     // of the whole exchange; zero: none
	wrote   time.Time     // the last write that made progress
	cut     bool          // interrupted: every deadline is in the past
}

// newLink takes conn over; each read and write has to make progress within timeout.
func newLink(conn net.Conn, timeout time.Duration) *link {
	l := &link{Conn: conn, timeout: timeout}
	for c := conn; c != nil; {
		if s, ok := c.(syscall.Conn); ok {
			l.raw, _ = s.SyscallConn()
			break
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = w.NetConn()
	}
	return l
}

// setTimeout bounds each read and write from now on; it returns the bound before.
func (l *link) setTimeout(d time.Duration) (before time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, l.timeout = l.timeout, d
	return before
}

// setUntil bounds the whole exchange; 0 ends the bound.
func (l *link) setUntil(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Time{}
	if d > 0 {
		l.until = time.Now().Add(d)
	}
}

// Read waits for the peer as long as it says something, or takes what we write
// meanwhile.
func (l *link) Read(p []byte) (int, error) {
	for {
		l.arm(l.Conn.SetReadDeadline)
		n, err := l.Conn.Read(p)
		var ne net.Error
		if n == 0 && errors.As(err, &ne) && ne.Timeout() && l.writing() {
			continue
		}
		return n, err
	}
}

func (l *link) Write(p []byte) (int, error) {
	l.arm(l.Conn.SetWriteDeadline)
	n, err := l.Conn.Write(p)
	if err == nil && l.raw != nil {
		eager(l.raw)
	}
	if n > 0 {
		l.mu.Lock()
		l.wrote = time.Now()
		l.mu.Unlock()
	}
	return n, err
}

// writing reports whether a write made progress within the timeout.
func (l *link) writing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.cut && l.until.IsZero() && l.timeout > 0 && time.Since(l.wrote) < l.timeout
}

// abandon lets reads come to an end: what has arrived is still given, then an
// error.
func (l *link) abandon() {
	type halfCloser interface{ CloseWrite() error }
	if c, ok := l.Conn.(halfCloser); ok && c.CloseWrite() == nil {
		l.setTimeout(abandonTime)
		l.mu.Lock()
		l.wrote = time.Time{}
		_ = l.SetReadDeadline(time.Now().Add(abandonTime))
		l.mu.Unlock()
		return
	}
	l.Close()
}

// abandonTime is how long the peer may take to say why it hung up.
const abandonTime = 2 * time.Second

func (l *link) arm(set func(time.Time) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.cut:
		_ = set(time.Unix(1, 0))
	case l.timeout > 0:
		t := time.Now().Add(l.timeout)
		if !l.until.IsZero() && l.until.Before(t) {
			t = l.until
		}
		_ = set(t)
	default:
		_ = set(time.Time{})
	}
}

// watch interrupts the connection when ctx ends; release stops watching. An
// interrupted connection is of no further use.
func (l *link) watch(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		l.cut = true
		_ = l.SetDeadline(time.Unix(1, 0))
		l.mu.Unlock()
	})
	return func() { stop() }
}

// cause is why an exchange under ctx failed: the context's end rather than the
// deadline that it made pass.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, net.ErrClosed) {
			return context.Cause(ctx)
		}
	}
	return err
}
