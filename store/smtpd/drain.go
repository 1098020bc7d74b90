package smtpd

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// drainer ends connections at a command boundary: go-smtp answers a read that
// times out there with 421 and closes. Its connections go on for as long as a
// message is being received, and are refused a longer wait after it.
type drainer struct {
	net.Listener

	mu       sync.Mutex
	draining bool
	conns    map[*drainConn]bool
}

func newDrainer(l net.Listener) *drainer {
	return &drainer{Listener: l, conns: make(map[*drainConn]bool)}
}

func (d *drainer) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	dc := &drainConn{Conn: c, owner: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns[dc] = true
	return dc, nil
}

// drain wakes every connection that waits for a command.
func (d *drainer) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	for c := range d.conns {
		if !c.busy {
			c.Conn.SetReadDeadline(longAgo)
		}
	}
}

var longAgo = time.Unix(1, 0)

// drainConn is a connection of a drainer; busy is guarded by the owner's mu.
type drainConn struct {
	net.Conn
	owner *drainer
	busy  bool
}

func (c *drainConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// SetReadDeadline allows no further wait for a command while draining.
func (c *drainConn) SetReadDeadline(t time.Time) error {
	c.owner.mu.Lock()
	defer c.owner.mu.Unlock()
	if c.owner.draining && !c.busy {
		t = longAgo
	}
	return c.Conn.SetReadDeadline(t)
}

// Busy marks c, or the connection below its TLS, as receiving a message until
// the returned function is called.
func Busy(c net.Conn) (done func()) {
	for {
		switch conn := c.(type) {
		case *drainConn:
			conn.setBusy(true)
			return func() { conn.setBusy(false) }
		case *tls.Conn:
			c = conn.NetConn()
		default:
			return func() {}
		}
	}
}

func (c *drainConn) setBusy(v bool) {
	c.owner.mu.Lock()
	defer c.owner.mu.Unlock()
	c.busy = v
	if c.owner.draining && !v {
		c.Conn.SetReadDeadline(longAgo)
	}
}
