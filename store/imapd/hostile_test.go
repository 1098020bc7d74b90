package imapd_test

import (
	"strings"
	"testing"

	"mailferry/store/imapd"
)

func TestHostileInput(t *testing.T) {
	w := newWorld(t, func(o *imapd.Options) { o.Limits.AppendSize = 1000 })
	t.Run("line before the login", func(t *testing.T) {
		c := w.dial(imapd.ConnInfo{Trusted: true})
		c.raw("a LOGIN " + strings.Repeat("x", 13000) + " y\r\nb NOOP\r\n")
		c.expect(`^\* BAD \[TOOBIG\]`)
		c.expect(`^b OK`)
	})
	t.Run("literal before the login", func(t *testing.T) {
		c := w.dial(imapd.ConnInfo{Trusted: true})
		c.raw("a LOGIN {9999999}\r\n")
		c.expect(`^a BAD \[TOOBIG\]`) // is not asked for
		c.raw("b LOGIN {9999999+}\r\n")
		if l := c.closed(); len(l) != 1 || !strings.HasPrefix(l[0], "* BYE") {
			t.Errorf("got %q", l)
		}
	})
	t.Run("message", func(t *testing.T) {
		c := w.login()
		c.send("a APPEND INBOX {1001}")
		c.expect(`^a NO \[TOOBIG\]`)
		c.raw("b APPEND INBOX {1001+}\r\n" + strings.Repeat("x", 1001) + "\r\nc NOOP\r\n")
		c.expect(`^b NO \[TOOBIG\]`)
		c.expect(`^c OK`)
		c.is("NO [CANNOT]", "APPEND INBOX {0+}\r\n")
		c.raw("e APPEND INBOX (\\Seen) {5+}\r\nabc\r\n tail\r\nf NOOP\r\n")
		c.expect(`^e BAD`)
		c.expect(`^f OK`)
		c.is("STATUS INBOX (MESSAGES 0)|OK", "STATUS INBOX (MESSAGES)")
	})
	t.Run("names that write into protocols", func(t *testing.T) {
		c := w.dial(imapd.ConnInfo{Trusted: true})
		c.is("NO [AUTHENTICATIONFAILED]", "LOGIN {6+}\r\nan\r\nna secret")
		c.is("NO [AUTHENTICATIONFAILED]", "LOGIN anna {8+}\r\nsec\r\nret")
		c.ok("LOGIN anna secret")
		c.is("NO [CANNOT]", "CREATE {5+}\r\na\r\nbc")
	})
	t.Run("hang-up within a message", func(t *testing.T) {
		c := w.login()
		c.raw("a APPEND INBOX {500+}\r\nabc")
		c.nc.Close()
		d := w.login()
		d.is("STATUS INBOX (MESSAGES 0)|OK", "STATUS INBOX (MESSAGES)")
	})
}

func TestWithheldCapabilities(t *testing.T) {
	w := newWorld(t, func(o *imapd.Options) { o.Withhold = []string{"MOVE", "QRESYNC"} })
	c := w.filled(1)
	if u := c.ok("CAPABILITY"); strings.Contains(u[0], "MOVE") || strings.Contains(u[0], "QRESYNC") || !strings.Contains(u[0], "CONDSTORE") {
		t.Errorf("capabilities: %q", u)
	}
	c.ok("SELECT INBOX")
	c.is("BAD", "MOVE 1 Trash")
	c.is("ENABLED CONDSTORE|OK", "ENABLE QRESYNC CONDSTORE")
	d := w.dial(imapd.ConnInfo{Trusted: true, Withhold: []string{"idle"}})
	d.ok("LOGIN anna secret")
	d.is("BAD", "IDLE")
}

func TestMultiAppend(t *testing.T) {
	c := newWorld(t).login()
	c.is("OK [APPENDUID ", "APPEND INBOX (\\Seen) {3+}\r\nabc (\\Flagged) \" 1-Feb-2020 03:04:05 +0100\" {3+}\r\ndef")
	c.ok("SELECT INBOX")
	c.is(`2 FETCH (FLAGS (\Flagged \Recent) INTERNALDATE " 1-Feb-2020 03:04:05 +0100")|OK`, "FETCH 2 (FLAGS INTERNALDATE)")
}
