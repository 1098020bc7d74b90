package remote

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// link is a connection whose reads and writes each have to make progress
// within a time, whatever the length of the whole exchange, and which a
// context can interrupt.
type link struct {
	net.Conn

	mu      sync.Mutex
	timeout time.Duration // per read or write; 0: none
	until   time.Time     // of the whole exchange; zero: none
	cut     bool          // interrupted: every deadline is in the past
}

func (l *link) setTimeout(d time.Duration) {
	l.mu.Lock()
	l.timeout = d
	l.mu.Unlock()
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

func (l *link) Read(p []byte) (int, error) {
	l.arm(l.Conn.SetReadDeadline)
	return l.Conn.Read(p)
}

func (l *link) Write(p []byte) (int, error) {
	l.arm(l.Conn.SetWriteDeadline)
	return l.Conn.Write(p)
}

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
