package proxy

import (
	"bytes"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
)

// lmtpServers are the running servers and their connections.
type lmtpServers struct {
	mu       sync.Mutex
	stopping bool
	servers  []*lmtpServer
	conns    map[*lmtpConn]struct{}
}

// lmtpServer serves one listener.
type lmtpServer struct {
	*smtp.Server
	l     net.Listener
	ended chan struct{} // closed when nothing is accepted any more
}

// lmtpListener gives each connection its record.
type lmtpListener struct {
	net.Listener
	p *Proxy
}

func (l lmtpListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c := &lmtpConn{Conn: nc, s: &l.p.lmtp, id: newID(), own: inProcess(nc), since: now, active: now}
	l.p.metrics.connections.WithLabelValues(string(backend.LMTP)).Inc()
	l.p.lmtp.enter(c)
	return c, nil
}

func (s *lmtpServers) enter(c *lmtpConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[*lmtpConn]struct{}{}
	}
	s.conns[c] = struct{}{}
	if s.stopping {
		c.leave()
	}
}

// end asks connections to leave and returns how many were not on their way. The
// node's own parts stay: what they bring was accepted already.
func (s *lmtpServers) end(m *Match) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if i := c.info(); !c.own && m.fits(&i) && c.leave() {
			n++
		}
	}
	return n
}

// infos describes the connections of mail servers.
func (s *lmtpServers) infos() (out []SessionInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if !c.own {
			out = append(out, c.info())
		}
	}
	return out
}

// lmtpConn is a mail server's connection. It can be asked to leave: go-smtp,
// which reads, then finds that the time for the next command is over and
// answers 421.
type lmtpConn struct {
	net.Conn
	s     *lmtpServers
	id    string
	own   bool // a part of this node sends
	since time.Time
	bare  bareNames

	mu      sync.Mutex
	secure  *tls.Conn // over it
	busy    bool      // a message is on its way
	leaving bool
	active  time.Time // when a message came or was answered last
}

// connOf is the record of a connection of a server of ours.
func connOf(nc net.Conn) *lmtpConn {
	if t, ok := nc.(*tls.Conn); ok {
		c := t.NetConn().(*lmtpConn)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.secure = t
		return c
	}
	return nc.(*lmtpConn)
}

// leave ends a connection at its next command boundary; false: it is on its way.
func (c *lmtpConn) leave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := c.leaving
	c.leaving = true
	if !c.busy {
		c.Conn.SetReadDeadline(past)
	}
	return !again
}

// setBusy says that a message is on its way, or not any more.
func (c *lmtpConn) setBusy(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy, c.active = on, time.Now()
	if c.leaving && !on {
		c.Conn.SetReadDeadline(past)
	}
}

var past = time.Unix(1, 0)

// SetReadDeadline leaves no time for a command that will not be heard.
func (c *lmtpConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving && !c.busy {
		t = past
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn; again is harmless.
func (c *lmtpConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// Write implements net.Conn. A connection that was asked to leave is not told
// that it was idle.
func (c *lmtpConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	leaving := c.leaving
	c.mu.Unlock()
	if !leaving || !bytes.HasPrefix(p, []byte("421 4.4.2 ")) {
		if _, err := c.Conn.Write(c.bare.reply(p)); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if _, err := c.Conn.Write([]byte("421 4.3.2 Server is closed for maintenance, please connect again\r\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *lmtpConn) info() SessionInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := SessionInfo{ID: c.id, Protocol: backend.LMTP, Client: c.RemoteAddr().String(),
		Since: c.since, Active: c.active, Busy: c.busy, Leaving: c.leaving}
	if c.secure != nil {
		i.TLS = tlsVersion(c.secure)
	}
	return i
}

// inProcess reports a connection of the node's own parts.
func inProcess(c net.Conn) bool {
	a := c.RemoteAddr()
	return a == nil || a.Network() == "pipe"
}
