package mailtest

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dialogueLimit bounds each read and write of an IMAPConn.
const dialogueLimit = 30 * time.Second

// IMAPConn is an IMAP client for dialogues in tests: it sends what it is told
// and is strict about what comes back. Every method fails the test, with the
// transcript, when the server does not do as expected; so it belongs to the
// test's own goroutine. Formats are those of fmt.Sprintf.
type IMAPConn struct {
	Greeting string

	t    testing.TB
	w    *wire
	tags int
}

// DialIMAP connects in clear text and reads the greeting.
func DialIMAP(t testing.TB, addr string) *IMAPConn { t.Helper(); return dialIMAP(t, addr, nil) }

// DialIMAPS connects with implicit TLS.
func DialIMAPS(t testing.TB, addr string, config *tls.Config) *IMAPConn {
	t.Helper()
	return dialIMAP(t, addr, config)
}

func dialIMAP(t testing.TB, addr string, config *tls.Config) *IMAPConn {
	t.Helper()
	w, err := dialWire(addr, config, dialogueLimit)
	if err != nil {
		t.Fatal(err)
	}
	c := &IMAPConn{t: t, w: w}
	t.Cleanup(c.Close)
	c.Greeting = c.Line()
	if !strings.HasPrefix(c.Greeting, "* OK") && !strings.HasPrefix(c.Greeting, "* PREAUTH") {
		c.fail("greeting %q", c.Greeting)
	}
	return c
}

func (c *IMAPConn) fail(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), c.w.transcript())
}

// Transcript is the end of the dialogue so far, passwords hidden.
func (c *IMAPConn) Transcript() string { return c.w.transcript() }

// Line reads one response, its literals included, without the last CRLF.
func (c *IMAPConn) Line() string {
	c.t.Helper()
	s, err := c.w.response()
	if err != nil {
		c.fail("read: %v", err)
	}
	return s
}

// Send writes one line; CRLF is added.
func (c *IMAPConn) Send(format string, args ...any) {
	c.t.Helper()
	c.Raw(fmt.Sprintf(format, args...) + "\r\n")
}

// Raw writes octets as they are.
func (c *IMAPConn) Raw(s string) {
	c.t.Helper()
	if err := c.w.send(s); err != nil {
		c.fail("write: %v", err)
	}
}

// Expect reads one response, which must match the regular expression, and
// returns what its groups matched (the whole first).
func (c *IMAPConn) Expect(pattern string) []string {
	c.t.Helper()
	line := c.Line()
	m := regexp.MustCompile(`(?s)` + pattern).FindStringSubmatch(line)
	if m == nil {
		c.fail("got %q, want %s", line, pattern)
	}
	return m
}

// ExpectClosed reads until the server closes and returns what still came.
func (c *IMAPConn) ExpectClosed() []string {
	c.t.Helper()
	var lines []string
	for {
		s, err := c.w.response()
		if err != nil {
			if isTimeout(err) {
				c.fail("the connection stays open")
			}
			return lines
		}
		lines = append(lines, s)
	}
}

// Tag returns a fresh tag.
func (c *IMAPConn) Tag() string {
	c.tags++
	return "t" + strconv.Itoa(c.tags)
}

// Cmd sends a command with a fresh tag, expects its tagged OK and returns the
// untagged responses before it. The tagged line comes last.
func (c *IMAPConn) Cmd(format string, args ...any) []string {
	c.t.Helper()
	return c.CmdStatus("OK", format, args...)
}

// CmdStatus is Cmd for a command that is to end with another status: OK, NO
// or BAD, or with a code as in "NO [OVERQUOTA]".
func (c *IMAPConn) CmdStatus(status, format string, args ...any) []string {
	c.t.Helper()
	tag := c.Tag()
	c.Send("%s %s", tag, fmt.Sprintf(format, args...))
	return c.Until(tag, status)
}

// Until reads up to the tagged response, which must begin with the status.
func (c *IMAPConn) Until(tag, status string) []string {
	c.t.Helper()
	var lines []string
	for {
		line := c.Line()
		lines = append(lines, line)
		if rest, ok := strings.CutPrefix(line, tag+" "); ok {
			if rest != status && !strings.HasPrefix(rest, status+" ") {
				c.fail("got %q, want %s", line, status)
			}
			return lines
		}
		if !strings.HasPrefix(line, "* ") {
			c.fail("unexpected %q", line)
		}
	}
}

// Login logs in by LOGIN.
func (c *IMAPConn) Login(user, password string) {
	c.t.Helper()
	c.Cmd("LOGIN %s %s", Quote(user), Quote(password))
}

// AuthPlain logs in by AUTHENTICATE PLAIN, as user with the rights of authc
// and its password; without SASL-IR, so that every server takes it.
func (c *IMAPConn) AuthPlain(user, authc, password string) {
	c.t.Helper()
	tag := c.Tag()
	c.Send("%s AUTHENTICATE PLAIN", tag)
	c.Expect(`^\+`)
	c.Send("%s", base64.StdEncoding.EncodeToString([]byte(user+"\x00"+authc+"\x00"+password)))
	c.Until(tag, "OK")
}

// StartTLS changes to TLS.
func (c *IMAPConn) StartTLS(config *tls.Config) {
	c.t.Helper()
	c.Cmd("STARTTLS")
	if n := c.w.r.Buffered(); n > 0 {
		c.fail("%d octets in clear text after STARTTLS", n)
	}
	conn := tls.Client(c.w.conn, config)
	if err := conn.Handshake(); err != nil {
		c.fail("TLS: %v", err)
	}
	c.w.conn = conn
	c.w.r.Reset(conn)
}

// Append appends a message by a synchronising literal and returns the tagged
// line. Flags are as in `\Seen $Work`; a zero date is left out.
func (c *IMAPConn) Append(mailbox, flags string, date time.Time, msg []byte) string {
	c.t.Helper()
	tag := c.Tag()
	when := ""
	if !date.IsZero() {
		when = date.Format(`"_2-Jan-2006 15:04:05 -0700" `)
	}
	c.Send("%s APPEND %s (%s) %s{%d}", tag, Quote(mailbox), flags, when, len(msg))
	for line := c.Line(); !strings.HasPrefix(line, "+"); line = c.Line() {
		if !strings.HasPrefix(line, "* ") {
			c.fail("APPEND: %q", line)
		}
	}
	c.Raw(string(msg) + "\r\n")
	lines := c.Until(tag, "OK")
	return lines[len(lines)-1]
}

// Close ends the connection without a LOGOUT.
func (c *IMAPConn) Close() { c.w.close() }

// Quote makes an IMAP quoted string, or a non-synchronising literal when it
// holds octets that a quoted string cannot.
func Quote(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return fmt.Sprintf("{%d+}\r\n%s", len(s), s)
		}
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
