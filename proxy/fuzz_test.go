package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
)

// FuzzBeforeLogin feeds a connection before login with anything: it must end,
// within bounds, and whatever reaches the directory is a clean name.
func FuzzBeforeLogin(f *testing.F) {
	fuzzBeforeLogin(f, &imap, []string{
		"a LOGIN anna secret\r\nb NOOP\r\n", "a LOGIN {4}\r\nanna {6+}\r\nsecret\r\n", "a AUTHENTICATE PLAIN\r\nAGFubmEAc2VjcmV0\r\n",
		"a AUTHENTICATE PLAIN AGFubmEAc2VjcmV0\r\n", "a ID (\"name\" {3}\r\nabc)\r\n", "a STARTTLS\r\n\x16\x03\x01", "a CAPABILITY\r\na LOGOUT\r\n",
		"a LOGIN {99999999999999999999}\r\n", "a LOGIN \"a\\\"\" \"\\\\\"\r\n", "\x00\x00\r\n", "a\r\n\r\n", "a LOGIN (((( x\r\n",
		"a AUTHENTICATE XOAUTH2 " + xoauth2("anna", "t") + "\r\n\r\n", "a AUTHENTICATE OAUTHBEARER\r\n" + oauthBearer("", "t") + "\r\nAQ==\r\n",
	})
}

func FuzzPOP3BeforeLogin(f *testing.F) {
	fuzzBeforeLogin(f, &pop3, []string{"USER anna\r\nPASS secret\r\nSTAT\r\n", "CAPA\r\nQUIT\r\n", "AUTH\r\nAUTH PLAIN\r\n*\r\n", "AUTH LOGIN YW5uYQ==\r\nc2VjcmV0\r\n",
		"STLS\r\nUSER x\r\n", "USER\r\nPASS\r\nAPOP a b\r\n", "AUTH XOAUTH2 " + xoauth2("anna", "t") + "\r\n\r\n", "PASS  \r\n", "\x00\r\n"})
}

func FuzzManageSieveBeforeLogin(f *testing.F) {
	fuzzBeforeLogin(f, &managesieve, []string{"AUTHENTICATE \"PLAIN\" \"AGFubmEAc2VjcmV0\"\r\nNOOP\r\n", "CAPABILITY\r\nLOGOUT\r\n", "NOOP {3+}\r\nabc\r\n",
		"AUTHENTICATE {5+}\r\nPLAIN\r\n{16+}\r\nAGFubmEAc2VjcmV0\r\n", "AUTHENTICATE \"XOAUTH2\" \"" + xoauth2("anna", "t") + "\"\r\n\"\"\r\n", "STARTTLS\r\n", "{9}\r\n"})
}

// fuzzBeforeLogin plays what a client sends to a front that offers everything.
func fuzzBeforeLogin(f *testing.F, proto *protocol, seeds []string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	dir := newDirectory()
	con := &connector{conns: make(chan *peer, 1), caps: testCaps}
	o := Options{Directory: dir, Connector: con, FailureDelay: -1}
	tokenWorld("email")(&o)
	p, err := New(o)
	if err != nil {
		f.Fatal(err)
	}
	l := newPipeListener()
	served := make(chan error, 1)
	go func() { served <- p.serveProtocol(l, proto, false) }()
	f.Cleanup(func() {
		p.Shutdown(f.Context())
		<-served
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		dir.lookups = dir.lookups[:0]
		c := l.dial()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			select { // a login may come: its store says goodbye at once
			case b := <-con.conns:
				b.Close()
			case <-t.Context().Done():
			}
		}()
		if _, err := c.Write(in); err == nil {
			c.(interface{ CloseWrite() error }).CloseWrite()
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !isClosed(err) {
			t.Fatal(err)
		}
		c.Close()
		dir.mu.Lock()
		defer dir.mu.Unlock()
		for _, name := range dir.lookups {
			if !line.ValidCredential(name) || name == "" {
				t.Fatalf("looked up %q", name)
			}
		}
	})
}

func isClosed(err error) bool { return err == net.ErrClosed || err == io.ErrClosedPipe }

// FuzzLMTP is FuzzBeforeLogin for deliveries, which have no login.
func FuzzLMTP(f *testing.F) {
	for _, s := range []string{"LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n", "RCPT TO:<\x00>\r\n", "STARTTLS\r\nMAIL\r\n",
		"LHLO x\r\nMAIL FROM:<> SIZE=99999999999999 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<\"a b\"@c>\r\nBDAT 1 LAST\r\nx", "LHLO\r\n\r\nRSET\r\nVRFY x\r\nAUTH PLAIN\r\n"} {
		f.Add([]byte(s))
	}
	dir := newDirectory()
	p, err := New(Options{Directory: dir, Stores: testStores(), Connector: &connector{}, SpoolDir: f.TempDir(),
		DialLMTP: func(context.Context, backend.Route) (net.Conn, error) {
			return nil, backend.NewError(backend.KindUnavailable, "")
		}})
	if err != nil {
		f.Fatal(err)
	}
	l := newPipeListener()
	served := make(chan error, 1)
	go func() { served <- p.ServeLMTP(l) }()
	f.Cleanup(func() {
		p.Shutdown(f.Context())
		<-served
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		dir.lookups = dir.lookups[:0]
		c := l.dial()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(in); err == nil {
			c.(interface{ CloseWrite() error }).CloseWrite()
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !isClosed(err) {
			t.Fatal(err)
		}
		c.Close()
		dir.mu.Lock()
		defer dir.mu.Unlock()
		for _, name := range dir.lookups {
			if !line.ValidCredential(name) {
				t.Fatalf("looked up %q", name)
			}
		}
	})
}

// FuzzProxyHeader: a header is read or refused, and never more than it.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 192.0.2.1 4660 143\r\n* x"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v4Header + "a LOGIN"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00rest"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		addr, err := readProxyHeader(r)
		if err == nil && addr != nil && addr.String() == "" {
			t.Errorf("%q gives %v", in, addr)
		}
		if read := len(in) - r.Len(); err == nil && read > 16+1<<16 {
			t.Errorf("%d octets read", read)
		}
	})
}

// FuzzLines: whatever both sides of a session of lines say, in two pieces, the
// tracker keeps its bounds and does not fall over; the pieces do not matter to
// what the store hears.
func FuzzLines(f *testing.F) {
	f.Add("STAT\r\nRETR 1\r\nQUIT\r\n", "+OK 1 2\r\n+OK\r\n.\r.\r\n..\r\n.\r\n+OK\r\n", 3, 5)
	f.Add("PUTSCRIPT {1+}\r\na {4+}\r\nO\r\nK\r\nNOOP\r\n", "OK (WARNINGS) {4}\r\nOK\r\n\r\nOK\r\n", 9, 2)
	f.Fuzz(func(t *testing.T, up, down string, cutUp, cutDown int) {
		for _, d := range []*dialect{&pop3Dialect, &sieveDialect} {
			whole, _ := heard(d, up, down, 0, 0)
			parts, tr := heard(d, up, down, at(cutUp, up), at(cutDown, down))
			if whole != parts {
				t.Errorf("the store hears %q, and %q in pieces", whole, parts)
			}
			if len(tr.flight) > strings.Count(up, "\n")+1 {
				t.Errorf("%d commands in flight", len(tr.flight))
			}
		}
	})
}

func at(n int, s string) int { return int(uint(n) % uint(len(s)+1)) }

// heard is what the store hears, up to the first word that ends the session.
func heard(d *dialect, up, down string, cutUp, cutDown int) (string, *lineTracker) {
	tr := &lineTracker{dialect: d}
	var store bytes.Buffer
	feed := func(piece []byte, f func([]byte, *output) int) (rest []byte, over bool) {
		var out output
		n := f(piece, &out)
		for _, b := range out.backend {
			store.Write(b)
		}
		tr.takeInject()
		return piece[n:], out.fatal != nil
	}
	client := func(b []byte, o *output) int { n, _ := tr.fromClient(b, o); return n }
	rest, over := feed([]byte(up[:cutUp]), client)
	if !over {
		_, over = feed(append(bytes.Clone(rest), up[cutUp:]...), client)
	}
	if over {
		return "", tr
	}
	if rest, over = feed([]byte(down[:cutDown]), tr.fromBackend); !over {
		feed(append(bytes.Clone(rest), down[cutDown:]...), tr.fromBackend)
	}
	return store.String(), tr
}
