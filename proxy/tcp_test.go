package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// onSockets serves a proxy on real sockets, where TLS, half-closed connections
// and full buffers are what they are.
func onSockets(t testing.TB, o Options, implicit bool) (addr string, con *connector, p *Proxy) {
	t.Helper()
	return onSocketsOf(t, &imap, o, implicit)
}

func onSocketsOf(t testing.TB, proto *protocol, o Options, implicit bool) (addr string, con *connector, p *Proxy) {
	t.Helper()
	con = &connector{conns: make(chan *peer, 100), caps: testCaps}
	o.Directory, o.Stores, o.FailureDelay = newDirectory(), testStores(), -1
	o.parkAfter = cmp.Or(o.parkAfter, time.Millisecond) // again and again, wherever a session is
	if o.Connector == nil {
		o.Connector = con
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.serveProtocol(l, proto, implicit) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		<-served
	})
	return l.Addr().String(), con, p
}

func dialPeer(t *testing.T, addr string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c := newPeer(nc)
	c.t = t
	return c
}

// overTLS makes the client's side of the handshake.
func (p *peer) overTLS(cfg *tls.Config) error {
	tc := tls.Client(p.Conn, cfg)
	p.SetDeadline(time.Now().Add(10 * time.Second))
	err := tc.Handshake()
	log := p.log
	*p = peer{Conn: tc, r: newPeer(tc).r, t: p.t, log: log}
	return err
}

func TestSTARTTLS(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, con, _ := onSockets(t, Options{TLS: ca.ServerConfig(t), CleartextLogin: CleartextNever}, false)
	c := dialPeer(t, addr)
	if l := c.expect("* OK [CAPABILITY"); !strings.Contains(l, "STARTTLS") || !strings.Contains(l, "LOGINDISABLED") {
		t.Errorf("greeting %q", l)
	}
	c.sendLine("a STARTTLS")
	c.expect("a OK")
	if err := c.overTLS(ca.Client()); err != nil {
		t.Fatal(err)
	}
	c.sendLine("b CAPABILITY")
	if l := c.line(); strings.Contains(l, "STARTTLS") || strings.Contains(l, "LOGINDISABLED") || !strings.Contains(l, "AUTH=PLAIN") {
		t.Errorf("after TLS: %q", l)
	}
	c.expect("b OK")
	c.sendLine("c STARTTLS")
	c.expect("c BAD")
	c.send("d LOGIN anna secret\r\ne NOOP\r\n")
	b := <-con.conns
	b.t = t
	c.expect("d OK")
	b.expect("e NOOP")
	b.sendLine("e OK done")
	c.expect("e OK")
}

// TestSTARTTLSInjection: a command in clear behind STARTTLS is never executed.
func TestSTARTTLSInjection(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, _, _ := onSockets(t, Options{TLS: ca.ServerConfig(t)}, false)
	c := dialPeer(t, addr)
	c.expect("* OK")
	c.send("a STARTTLS\r\nb NOOP\r\n")
	c.expect("a BAD")
	c.expect("* BYE")
	c.end()
}

func TestImplicitTLS(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, con, _ := onSockets(t, Options{TLS: ca.ServerConfig(t), CleartextLogin: CleartextNever}, true)
	c := dialPeer(t, addr)
	if err := c.overTLS(ca.Client()); err != nil {
		t.Fatal(err)
	}
	c.expect("* OK")
	c.sendLine("a LOGIN anna secret")
	b := <-con.conns
	b.t = t
	c.expect("a OK")
	// Octets in both directions, more than any buffer.
	body := strings.Repeat("0123456789abcdef", 1<<16)
	c.sendLine("b FETCH 1 BODY[]")
	b.expect("b FETCH")
	go fmt.Fprintf(b.Conn, "* 1 FETCH (BODY[] {%d}\r\n%s)\r\nb OK done\r\n", len(body), body)
	c.expect("* 1 FETCH")
	got := make([]byte, len(body))
	if _, err := io.ReadFull(c.r, got); err != nil || string(got) != body {
		t.Fatalf("body: %v", err)
	}
	c.expect(")")
	c.expect("b OK")
	go fmt.Fprintf(c.Conn, "c APPEND INBOX {%d+}\r\n%s\r\n", len(body), body)
	b.expect("c APPEND")
	if _, err := io.ReadFull(b.r, got); err != nil || string(got) != body {
		t.Fatalf("literal: %v", err)
	}
	b.expect("")
	b.sendLine("c OK done")
	c.expect("c OK")

	other := dialPeer(t, addr)
	cfg := ca.Client()
	cfg.NextProtos = []string{"h2"}
	if err := other.overTLS(cfg); err == nil {
		t.Error("a client of another protocol was let in")
	}
}

func TestHalfClose(t *testing.T) {
	addr, con, _ := onSockets(t, Options{}, false)
	c := dialPeer(t, addr)
	c.expect("* OK")
	c.send("a LOGIN anna secret\r\nb NOOP\r\nz LOGOUT\r\n")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b := <-con.conns
	b.t = t
	b.expect("b NOOP")
	b.expect("z LOGOUT")
	b.send("b OK done\r\n* BYE bye\r\nz OK done\r\n")
	b.Close()
	for _, l := range []string{"a OK", "b OK", "* BYE bye", "z OK"} {
		c.expect(l)
	}
	c.end()
}

// TestStoreDiesMidLiteral: nothing is written into the middle of a literal.
func TestStoreDiesMidLiteral(t *testing.T) {
	addr, con, _ := onSockets(t, Options{}, false)
	c := dialPeer(t, addr)
	c.expect("* OK")
	c.send("a LOGIN anna secret\r\nb FETCH 1 BODY[]\r\n")
	b := <-con.conns
	b.t = t
	b.expect("b FETCH")
	b.send("* 1 FETCH (BODY[] {100}\r\nabc")
	b.Close()
	c.expect("a OK")
	c.expect("* 1 FETCH")
	rest, err := io.ReadAll(c.r)
	if string(rest) != "abc" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}

// TestBackPressure: a client that does not read blocks the store, and nothing
// is piled up in between.
func TestBackPressure(t *testing.T) {
	addr, con, _ := onSockets(t, Options{}, false)
	c := dialPeer(t, addr)
	c.expect("* OK")
	c.send("a LOGIN anna secret\r\n")
	b := <-con.conns
	b.t = t
	const most = 64 << 20
	b.send(fmt.Sprintf("* 1 FETCH (BODY[] {%d}\r\n", most))
	chunk := make([]byte, 64<<10)
	sent := 0
	for sent < most {
		b.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := b.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	if sent >= most/2 {
		t.Errorf("%d octets went through to a client that reads nothing", sent)
	}
}

func TestPostLoginLineBound(t *testing.T) {
	addr, con, _ := onSockets(t, Options{}, false)
	c := dialPeer(t, addr)
	c.expect("* OK")
	c.send("a LOGIN anna secret\r\n")
	b := <-con.conns
	b.t = t
	c.expect("a OK")
	c.send("b FETCH " + strings.Repeat("1,", 20_000) + "1 FLAGS\r\n") // long, and allowed
	if l := b.line(); len(l) < 40_000 {
		t.Errorf("%d octets arrived", len(l))
	}
	b.sendLine("b OK done")
	c.expect("b OK")
	go c.Write([]byte("c FETCH " + strings.Repeat("1,", 50_000)))
	c.expect("* BAD")
	c.expect("* BYE")
	b.end()
}

// TestByeToAClientThatDoesNotRead: a stuck writer does not hold up a hold.
func TestByeToAClientThatDoesNotRead(t *testing.T) {
	addr, con, p := onSockets(t, Options{}, false)
	c := dialPeer(t, addr)
	c.expect("* OK")
	c.send("a LOGIN anna secret\r\n")
	b := <-con.conns
	b.t = t
	b.send(fmt.Sprintf("* 1 FETCH (BODY[] {%d}\r\n", 64<<20))
	chunk := make([]byte, 64<<10)
	for {
		b.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := b.Write(chunk); err != nil {
			break
		}
	}
	s := p.reg.all("anna")[0]
	begin := time.Now()
	s.bye("UNAVAILABLE", "go")
	<-s.done
	if d := time.Since(begin); d > 4*closeLimit {
		t.Errorf("took %v", d)
	}
}
