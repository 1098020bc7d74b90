package serve

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"mailferry/internal/line"
)

// Peer is what is known of a connection from below.
type Peer struct {
	Trusted bool // our own proxy, in process or verified
	TLS     bool // protected below what is handed in
}

// Conn is one session's connection. It belongs to the session's goroutine, ID,
// Stop, Stopping, Kill and Wake apart.
type Conn struct {
	*line.Conn
	id       uint64
	raw      net.Conn // below TLS; never replaced
	peer     Peer
	logins   *Logins
	stopping atomic.Bool
}

var connCount atomic.Uint64

// NewConn wraps c; logins must not change any more.
func NewConn(c net.Conn, peer Peer, logins *Logins) *Conn {
	return &Conn{Conn: line.NewConn(c), id: connCount.Add(1), raw: c, peer: peer, logins: logins}
}

// ID names the session in logs. No other session of the process has it.
func (c *Conn) ID() string { return strconv.FormatUint(c.id, 36) }

// Stop asks for a goodbye at the next command boundary: it wakes a Wait, and
// Stopping is true from now on.
func (c *Conn) Stop() {
	c.stopping.Store(true)
	c.Wake()
}

// Stopping reports whether Stop was called.
func (c *Conn) Stopping() bool { return c.stopping.Load() }

// Kill closes the connection of a session that does not come to a boundary, or
// whose client can be told nothing else any more.
func (c *Conn) Kill() { c.raw.Close() }

// Loop runs next, which waits for a command and serves it, until that returns
// false, and flushes in between and at last. The end of ctx is a Stop: next's
// context outlives it, so that a command comes to its end. An error is that of
// a write; next was not called after it.
func (c *Conn) Loop(ctx context.Context, next func(context.Context) bool) error {
	stop := context.AfterFunc(ctx, c.Stop)
	defer stop()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	for {
		if err := c.flushIfQuiet(); err != nil {
			return err
		}
		if !next(ctx) {
			break
		}
	}
	c.Flush() // the client may be gone, which is no news at the end
	return nil
}

// flushIfQuiet sends what is written, unless the client has sent more commands
// already: then their answers go together.
func (c *Conn) flushIfQuiet() error {
	if len(c.Buffered()) > 0 && c.Writer.Err() == nil {
		return nil
	}
	return c.Flush()
}

// StartTLS sends ok, the protocol's go-ahead, and takes up to limit for the
// handshake. Its errors are those of line.Conn.StartTLSServer.
func (c *Conn) StartTLS(ctx context.Context, limit time.Duration, ok string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.StartTLSServer(ctx, c.logins.TLSConfig, ok)
}
