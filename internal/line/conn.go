package line

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// ErrEarlyData: the peer sent octets in clear behind STARTTLS. They could have
// been injected (CVE-2011-0411), so the switch is refused.
var ErrEarlyData = errors.New("line: octets in clear behind STARTTLS")

// DefaultWriteTimeout bounds one write to a peer that does not read.
const DefaultWriteTimeout = 5 * time.Minute

// Conn is a connection with its Reader and Writer, which STARTTLS replaces
// together. It belongs to one goroutine, Wake and Close apart.
type Conn struct {
	*Reader
	*Writer
	nc net.Conn
}

// NewConn wraps nc.
func NewConn(nc net.Conn) *Conn {
	return &Conn{Reader: NewReader(nc, 0), Writer: NewWriter(nc, DefaultWriteTimeout), nc: nc}
}

// NetConn is the connection below, TLS included.
func (c *Conn) NetConn() net.Conn { return c.nc }

// TLS returns the state of TLS; ok is false in clear.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	t, ok := c.nc.(*tls.Conn)
	if !ok {
		return state, false
	}
	return t.ConnectionState(), true
}

// Close closes the connection without a Flush. Safe for concurrent use.
func (c *Conn) Close() error { return c.nc.Close() }

// Hijack gives the connection away, with what was received and not read. The
// Conn must not be used any more.
func (c *Conn) Hijack() (nc net.Conn, received []byte) { return c.nc, c.Reader.Buffered() }

// Release gives the buffers to later connections; the connection itself stays
// open. What Hijack returned, and the Conn, must not be used any more.
func (c *Conn) Release() {
	if len(c.Reader.buf) == DefaultBuffer {
		clear(c.Reader.buf) // it held a password
		readBuffers.Put((*[DefaultBuffer]byte)(c.Reader.buf))
	}
	if cap(c.Writer.buf) == WriteBuffer {
		writeBuffers.Put((*[WriteBuffer]byte)(c.Writer.buf[:WriteBuffer]))
	}
	c.Reader.buf, c.Writer.buf = nil, nil
}

// StartTLSServer sends ok (the protocol's go-ahead line) and becomes the
// server of a TLS connection. When octets are waiting in clear it sends
// nothing and returns ErrEarlyData; after any other error the connection must
// be closed.
func (c *Conn) StartTLSServer(ctx context.Context, cfg *tls.Config, ok string) error {
	if len(c.Reader.Buffered()) > 0 {
		return ErrEarlyData
	}
	c.Writer.WriteString(ok)
	if err := c.Writer.Flush(); err != nil {
		return err
	}
	return c.switchTo(ctx, tls.Server(c.nc, cfg))
}

// StartTLSClient becomes the client of a TLS connection, after the server's
// go-ahead was read. cfg.ServerName must be set. After an error the connection
// must be closed; what came in clear behind the go-ahead is ErrEarlyData.
func (c *Conn) StartTLSClient(ctx context.Context, cfg *tls.Config) error {
	if len(c.Reader.Buffered()) > 0 {
		return ErrEarlyData
	}
	if err := c.Writer.Flush(); err != nil {
		return err
	}
	return c.switchTo(ctx, tls.Client(c.nc, cfg))
}

func (c *Conn) switchTo(ctx context.Context, t *tls.Conn) error {
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	c.Reader.mu.Lock() // Wake may run
	defer c.Reader.mu.Unlock()
	c.nc, c.Reader.conn, c.Writer.conn = t, t, t
	return nil
}
