package remote

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"time"

	"github.com/klauspost/compress/flate"

	"mailferry/backend"
)

// FarAway is the round trip from which a line is taken for a long one: there
// octets may be dearer than the work of compressing them.
const FarAway = 10 * time.Millisecond

// RTT is the shortest time that the store took for an answer so far; 0: unknown.
func (c *Client) RTT() time.Duration { return c.conn.rtt }

// CanCompress reports whether Compress makes sense: the store offers it, its
// configuration does not forbid it, and it is not on already.
func (c *Client) CanCompress() bool {
	return c.broken == nil && !c.conn.compressed && c.conn.target.Store.Compress != backend.CompressNever && c.Has("COMPRESS=DEFLATE")
}

// Compress turns COMPRESS=DEFLATE on (RFC 4978), inside TLS where there is
// TLS. A store that refuses is not asked again.
func (c *Client) Compress(ctx context.Context) error {
	if !c.CanCompress() {
		return nil
	}
	c.conn.compressed = true
	_, err := c.one(ctx, nil, command{text("COMPRESS DEFLATE")})
	if backend.IsKind(err, backend.KindInvalid) || backend.IsKind(err, backend.KindTemporary) && c.broken == nil {
		return nil // a capability is a claim
	}
	if err != nil {
		return err
	}
	c.conn.deflate()
	return nil
}

// deflate wraps the connection; what the scanner has read ahead is compressed
// already.
func (c *IMAPConn) deflate() {
	var ahead []byte
	if n := c.scan.r.Buffered(); n > 0 {
		b, _ := c.scan.r.Peek(n)
		ahead = slices.Clone(b)
		_, _ = c.scan.r.Discard(n)
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	inner := c.link.Conn
	c.link.Conn = &deflated{Conn: inner, r: flate.NewReader(bufio.NewReaderSize(io.MultiReader(bytes.NewReader(ahead), inner), readBuffer)),
		w: flate.NewStatelessWriter(inner)}
}

// deflated is a connection with DEFLATE in both directions. What is sent are
// short commands: each Write is compressed for itself and needs no memory.
type deflated struct {
	net.Conn
	r io.Reader
	w io.Writer
}

func (d *deflated) Read(p []byte) (int, error)  { return d.r.Read(p) }
func (d *deflated) Write(p []byte) (int, error) { return d.w.Write(p) }
