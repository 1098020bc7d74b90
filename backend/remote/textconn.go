package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"mailferry/backend"
)

// maxReply bounds a line, maxLines the lines of one reply before login.
const (
	maxReply = 8 << 10
	maxLines = 200
)

// TextConn is a POP3 or ManageSieve connection on which a user is logged in.
// It is used by one goroutine and ends in Detach or Close.
type TextConn struct {
	target   Target
	protocol backend.Protocol
	link     *link
	r        *bufio.Reader
	caps     []string // lines as announced, before login
}

// step is one step of a login, named for errors.
type step struct {
	name string
	do   func(context.Context) error
}

// dialText connects and runs the steps of a login, each of which has to make
// progress within the timeout, all together within a multiple of it.
func dialText(ctx context.Context, t Target, p backend.Protocol, steps func(*TextConn) []step) (*TextConn, error) {
	conn, err := t.dial(ctx, p)
	if err != nil {
		return nil, err
	}
	l := newLink(conn, t.timeout())
	c := &TextConn{target: t, protocol: p, link: l, r: bufio.NewReaderSize(l, maxReply)}
	ctx, cancel := context.WithTimeout(ctx, (4+loginFactor)*t.timeout())
	defer cancel()
	defer l.watch(ctx)()
	for _, s := range steps(c) {
		if err := s.do(ctx); err != nil {
			c.Close()
			if backend.KindOf(err) != backend.KindBug {
				return nil, err
			}
			return nil, t.unavailable(p, s.name, cause(ctx, err))
		}
	}
	l.setTimeout(0)
	return c, nil
}

// line reads a line without its end.
func (c *TextConn) line() (string, error) {
	b, err := c.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("a line of more than %d octets", maxReply)
	}
	return strings.TrimRight(string(b), "\r\n"), err
}

func (c *TextConn) send(line string) error {
	_, err := c.link.Write([]byte(line + "\r\n"))
	return err
}

// plaintext reports whether TLS is still to come.
func (c *TextConn) plaintext() bool {
	m := c.target.Store.TLSFor(c.protocol)
	return m != backend.TLSImplicit && m != backend.TLSNone
}

// startTLS ends the handshake after the store's go-ahead.
func (c *TextConn) startTLS(ctx context.Context) error {
	// What came behind the go-ahead came from anybody (CVE-2011-0411).
	if n := c.r.Buffered(); n > 0 {
		return fmt.Errorf("%d octets behind the go-ahead for TLS", n)
	}
	conn, err := c.target.startTLS(ctx, c.protocol, c.link.Conn)
	if err != nil {
		return err
	}
	c.link.mu.Lock()
	c.link.Conn = conn
	c.link.mu.Unlock()
	c.caps = nil
	return nil
}

// patience stretches the timeout for the answer to a login.
func (c *TextConn) patience() (restore func()) {
	c.link.setTimeout(loginFactor * c.target.timeout())
	return func() { c.link.setTimeout(c.target.timeout()) }
}

// loginRefused gives a refusal its kind by the store's code.
func (c *TextConn) loginRefused(code, arg, reply string) error {
	err := fmt.Errorf("%s login of %q at store %s: %s", c.protocol, c.target.User, c.target.Store.Name, reply)
	switch {
	case code == "IN-USE":
		return backend.Errorf(backend.KindConflict, "The mailbox is in use.", "%w", err)
	case code == "SYS/TEMP", code == "SYS/PERM", code == "LOGIN-DELAY", code == "TRYLATER":
		return backend.Errorf(backend.KindTemporary, "The mail store asks to try again later.", "%w", err)
	case code == "REFERRAL":
		err = c.target.unavailable(c.protocol, stepLogin, err)
		if host := referralHost(code + " " + arg); host != "" {
			return &Referral{Host: host, err: err}
		}
		return err
	case code == "ENCRYPT-NEEDED", code == "AUTH-TOO-WEAK", code == "TRANSITION-NEEDED":
		return c.target.unavailable(c.protocol, stepLogin, err)
	}
	return backend.Errorf(backend.KindAuthentication, "Authentication failed.", "%w", err)
}

// Caps are the capability lines that the store announced before login, without
// those of login and TLS.
func (c *TextConn) Caps() []string { return slices.Clone(c.caps) }

// Detach hands the connection over, with what the store has sent already. The
// TextConn is of no further use.
func (c *TextConn) Detach() (conn net.Conn, buffered []byte) {
	if n := c.r.Buffered(); n > 0 {
		b, _ := c.r.Peek(n)
		buffered = slices.Clone(b)
	}
	_ = c.link.Conn.SetDeadline(time.Time{})
	return c.link.Conn, buffered
}

// Close drops the connection without a word.
func (c *TextConn) Close() error { return c.link.Close() }
