package remote

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"mailferry/backend"
)

// IMAPConn is a connection on which a user is logged in and nothing is
// selected. It is used by one goroutine at a time, and ends in Detach, in
// NewClient's Client, or in Close.
type IMAPConn struct {
	target Target
	link   *link
	scan   *scanner
	w      *bufio.Writer // NewClient's; a login sends line by line
	caps   []string      // upper case, as last announced
	// announced: caps are of the present state (RFC 9051 6.1.1: they change
	// with TLS and with login).
	announced  bool
	tags       int
	sent       time.Time     // the last command, or the dial
	rtt        time.Duration // the shortest answer; 0: none yet
	compressed bool          // COMPRESS was asked for
	queued     *queued       // went out with the login; nil: nothing
}

// DialIMAP connects, protects the connection as the store's TLS mode says, and
// logs in as its login mode says. Errors: KindAuthentication: the store refused
// the credentials, with a delegated login the admin's, so that a client must
// not be told that its password is wrong; KindTemporary: the store asks to try
// later; KindUnavailable: it cannot be reached, or does not behave.
func DialIMAP(ctx context.Context, t Target) (*IMAPConn, error) {
	conn, err := t.dial(ctx, backend.IMAP)
	if err != nil {
		return nil, err
	}
	c := newIMAPConn(t, conn)
	if err := c.login(ctx); err != nil {
		c.Close()
		return nil, err
	}
	c.link.setTimeout(0)
	return c, nil
}

func newIMAPConn(t Target, conn net.Conn) *IMAPConn {
	l := newLink(conn, t.timeout())
	return &IMAPConn{target: t, link: l, scan: newScanner(l), sent: time.Now()}
}

// login takes the connection from the greeting to the authenticated state.
func (c *IMAPConn) login(ctx context.Context) error {
	// Each wait is short; a store that trickles must end as well.
	c.link.setUntil((4 + loginFactor) * c.target.timeout())
	defer c.link.setUntil(0)
	defer c.link.watch(ctx)()
	for _, s := range &imapSteps {
		if err := s.do(c, ctx); err != nil {
			return c.failed(ctx, s.name, err)
		}
	}
	return nil
}

// imapSteps are the steps of a login.
var imapSteps = [...]struct {
	name string
	do   func(*IMAPConn, context.Context) error
}{
	{"greeting", (*IMAPConn).greeting}, {"STARTTLS", (*IMAPConn).upgrade}, {"CAPABILITY", (*IMAPConn).capability},
	{"ID", (*IMAPConn).tellOrigin}, {stepLogin, (*IMAPConn).authenticate}, {"CAPABILITY", (*IMAPConn).capability},
}

// failed gives err a kind, unless it has one.
func (c *IMAPConn) failed(ctx context.Context, step string, err error) error {
	if backend.KindOf(err) != backend.KindBug {
		return err
	}
	return c.target.unavailable(backend.IMAP, step, cause(ctx, err))
}

// greeting accepts OK. PREAUTH is refused: the store would not ask who we are.
func (c *IMAPConn) greeting(context.Context) error {
	r, err := c.scan.response()
	if err != nil {
		return err
	}
	switch {
	case r.tag == "*" && r.name == "OK":
		if c.target.Store.TLS != backend.TLSImplicit { // there it comes with the handshake
			c.answered()
		}
		c.notice(r)
		return nil
	case r.tag == "*" && r.name == "BYE":
		return refused(r, &StepError{"greeting", fmt.Errorf("BYE [%s] %s", r.code, r.text)})
	}
	return fmt.Errorf("unexpected greeting %q %q", r.tag, r.name)
}

// upgrade runs STARTTLS when the mode asks for it, the default.
func (c *IMAPConn) upgrade(ctx context.Context) error {
	if c.target.Store.TLS == backend.TLSImplicit || c.target.Store.TLS == backend.TLSNone {
		return nil
	}
	if err := c.capability(ctx); err != nil {
		return err
	}
	if !c.Has("STARTTLS") {
		return fmt.Errorf("the store does not offer STARTTLS")
	}
	r, err := c.command("STARTTLS")
	if err != nil {
		return err
	}
	if r.name != "OK" {
		return fmt.Errorf("STARTTLS refused: %s %s", r.name, r.text)
	}
	// What came behind the OK came from anybody (CVE-2011-0411).
	if n := c.scan.r.Buffered(); n > 0 {
		return fmt.Errorf("%d octets behind the OK of STARTTLS", n)
	}
	conn, err := c.target.startTLS(ctx, backend.IMAP, c.link.Conn)
	if err != nil {
		return err
	}
	c.link.mu.Lock()
	c.link.Conn = conn
	c.link.mu.Unlock()
	c.announced, c.caps = false, nil
	return nil
}

// capability asks for the capabilities unless they were announced.
func (c *IMAPConn) capability(context.Context) error {
	if c.announced {
		return nil
	}
	r, err := c.command("CAPABILITY")
	if err != nil {
		return err
	}
	if r.name != "OK" {
		return fmt.Errorf("CAPABILITY refused: %s %s", r.name, r.text)
	}
	return nil
}

// notice keeps capabilities from response codes and untagged responses.
func (c *IMAPConn) notice(r response) {
	if r.code == "CAPABILITY" {
		c.setCaps(r.arg)
	}
}

func (c *IMAPConn) setCaps(list string) {
	c.caps = strings.Fields(strings.ToUpper(list))
	c.announced = true
}

// Has reports whether the store announces a capability in its present state.
func (c *IMAPConn) Has(name string) bool { return slices.Contains(c.caps, strings.ToUpper(name)) }

// nextTag is unlike the tags that clients use, so that transcripts of both
// sides can be told apart.
func (c *IMAPConn) nextTag() string {
	c.tags++
	return fmt.Sprintf("mf%d", c.tags)
}

// command sends a line and awaits its tagged response; untagged ones are
// noticed and dropped. BYE and a continuation that nobody asked for are errors.
func (c *IMAPConn) command(line string) (response, error) {
	tag := c.nextTag()
	if err := c.send(tag + " " + line + "\r\n"); err != nil {
		return response{}, err
	}
	return c.await(tag, nil)
}

// answered takes the time of an answer.
func (c *IMAPConn) answered() {
	if d := time.Since(c.sent); c.rtt == 0 || d < c.rtt {
		c.rtt = d
	}
}

func (c *IMAPConn) send(s string) error {
	c.sent = time.Now()
	_, err := c.link.Write([]byte(s))
	return err
}

// await reads up to tag's response. more answers continuation requests; nil
// makes them an error.
func (c *IMAPConn) await(tag string, more func() error) (response, error) {
	var bye *response
	for {
		r, err := c.scan.response()
		switch {
		case err != nil && bye != nil:
			return *bye, refused(*bye, fmt.Errorf("BYE [%s] %s", bye.code, bye.text))
		case err != nil:
			return r, err
		case r.tag == tag:
			if !r.status() {
				return r, fmt.Errorf("tagged %q", r.name)
			}
			c.answered()
			if bye != nil && r.name != "OK" { // the goodbye says why
				return *bye, refused(*bye, fmt.Errorf("BYE [%s] %s", bye.code, bye.text))
			}
			c.notice(r)
			return r, nil
		case r.tag == "+":
			if more == nil {
				return r, fmt.Errorf("continuation request that nobody asked for")
			}
			if err := more(); err != nil {
				return r, err
			}
		case r.status():
			c.notice(r)
			if r.tag != "*" && c.queued != nil {
				c.queued.early = true
			}
			if r.name == "BYE" {
				bye = &r
			}
		default:
			if err := c.untagged(r); err != nil {
				return r, err
			}
		}
	}
}

// untagged reads a data response that arrives before or during login.
func (c *IMAPConn) untagged(r response) error {
	if r.name == "" {
		return nil // its line is read
	}
	if r.name == "CAPABILITY" {
		list, err := c.scan.text()
		if err != nil {
			return err
		}
		c.setCaps(list)
		return nil
	}
	return c.scan.skipLine()
}

// Detach hands the connection over: what the store has sent already, and its
// capabilities. The IMAPConn is of no further use.
func (c *IMAPConn) Detach() (conn net.Conn, buffered []byte, caps []string) {
	if n := c.scan.r.Buffered(); n > 0 {
		b, _ := c.scan.r.Peek(n)
		buffered = slices.Clone(b)
	}
	c.scan.release()
	_ = c.link.Conn.SetDeadline(time.Time{})
	return c.link.Conn, buffered, c.caps
}

// growWriter prepares for sending messages.
func (c *IMAPConn) growWriter() {
	if c.w.Size() < readBuffer {
		c.w = bufio.NewWriterSize(c.link, readBuffer) // nothing is buffered between commands
	}
}

// Caps are the capabilities announced after login, upper case.
func (c *IMAPConn) Caps() []string { return slices.Clone(c.caps) }

// Close drops the connection without a LOGOUT.
func (c *IMAPConn) Close() error { return c.link.Close() }
