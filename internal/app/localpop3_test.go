package app

import (
	"crypto/tls"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// pop is a POP3 client at the node's front.
type pop struct {
	t *testing.T
	*textproto.Conn
}

func (n *node) pop(t *testing.T) pop {
	t.Helper()
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", n.Addr("pop3s"), n.tls)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	p := pop{t, textproto.NewConn(nc)}
	t.Cleanup(func() { p.Close() })
	p.read("+OK")
	return p
}

// is sends a command whose answer begins like want.
func (p pop) is(want, command string) string {
	p.t.Helper()
	if err := p.PrintfLine("%s", command); err != nil {
		p.t.Fatal(err)
	}
	return p.read(want)
}

func (p pop) read(want string) string {
	p.t.Helper()
	l, err := p.ReadLine()
	if err != nil || !strings.HasPrefix(l, want) {
		p.t.Fatalf("got %q, want %q (%v)", l, want, err)
	}
	return l
}

// lines is the rest of an answer of many lines.
func (p pop) lines() []string {
	p.t.Helper()
	l, err := p.ReadDotLines()
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// TestPOP3OfOwnUsers reads and deletes mail of our own store through the front.
func TestPOP3OfOwnUsers(t *testing.T) {
	n := startNodeWith(t, anyPort)
	for range 2 {
		if err := n.submit("anna@example.org", "secret", "anna@example.org", "bob@example.org"); err != nil {
			t.Fatal(err)
		}
	}
	c := n.pop(t)
	c.is("+OK", "USER bob@example.org")
	c.is("-ERR [AUTH]", "PASS wrong")
	c.is("+OK", "USER xbob@example.org") // an alias
	c.is("+OK", "PASS secret")
	c.is("+OK 2 ", "STAT")
	other := n.pop(t)
	other.is("+OK", "USER bob@example.org")
	other.is("-ERR [IN-USE]", "PASS secret")
	c.is("+OK", "UIDL")
	if ids := c.lines(); len(ids) != 2 || !strings.HasSuffix(ids[0], ".1") || !strings.HasSuffix(ids[1], ".2") {
		t.Errorf("UIDL: %q", ids)
	}
	c.is("+OK", "RETR 1")
	if text := strings.Join(c.lines(), "|"); !strings.HasSuffix(text, "|Subject: hello||It works.") {
		t.Errorf("RETR: %q", text)
	}
	c.is("+OK", "DELE 1")
	c.is("+OK", "QUIT")
	other.is("+OK", "USER bob@example.org")
	other.is("+OK", "PASS secret")
	other.is("+OK 1 ", "STAT")
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	other.read("-ERR [SYS/TEMP]")
}
