package lmtpd_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
	"mailferry/store/lmtpd"
	"mailferry/store/storetest"
)

func newStore(t *testing.T, users ...string) *store.Store {
	t.Helper()
	e, err := storetest.NewEngine(store.NewMachine(), 2)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		storetest.Check(t, s)
		s.Close()
		e.Close()
	})
	for _, u := range users {
		if _, err := s.CreateUser(t.Context(), store.NewUser{Name: u}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func serve(t *testing.T, o lmtpd.Options) (*lmtpd.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Domain = "mx.example.org"
	s := lmtpd.New(o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// peer speaks LMTP by hand and fails the test on an unexpected reply.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	log  strings.Builder
}

func dial(t *testing.T, addr string) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &peer{t: t, conn: c, r: bufio.NewReader(c)}
}

func (p *peer) send(text string) {
	p.t.Helper()
	fmt.Fprintf(&p.log, "C: %.100s\n", text)
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Fatalf("%v after\n%s", err, &p.log)
	}
}

// want reads one reply, which must begin so.
func (p *peer) want(prefix string) string {
	p.t.Helper()
	for {
		line, err := p.r.ReadString('\n')
		fmt.Fprintf(&p.log, "S: %s", line)
		if err != nil {
			p.t.Fatalf("%v instead of %q after\n%s", err, prefix, &p.log)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, prefix) {
			p.t.Fatalf("reply is not %q in\n%s", prefix, &p.log)
		}
		return line
	}
}

func (p *peer) hello() {
	p.t.Helper()
	p.want("220 ")
	p.send("LHLO edge.example.org\r\n")
	p.want("250 ")
}

func message(t *testing.T, s *store.Store, user string, uid imap.UID) string {
	t.Helper()
	a, err := s.Account(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	mb, err := a.Mailbox(t.Context(), backend.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := a.Snapshot(t.Context(), mb.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	m, err := snap.Message(uid)
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.OpenMessage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDeliveryPerRecipient(t *testing.T) {
	s := newStore(t, "anna@example.org", "bob@example.org", "carl@example.org")
	_, addr := serve(t, lmtpd.Options{Deliverer: s})
	p := dial(t, addr)
	p.hello()
	p.send("MAIL FROM:<x@y.example> BODY=8BITMIME SIZE=1000\r\nRCPT TO:<anna@example.org>\r\n" +
		"RCPT TO:<nobody@example.org>\r\nRCPT TO:<bob+list@example.org>\r\nRCPT TO:<carl@example.org>\r\nDATA\r\n")
	for _, want := range []string{"250 ", "250 ", "550 5.1.1", "250 ", "250 ", "354 "} {
		p.want(want)
	}
	if err := s.DeleteUser(t.Context(), "carl@example.org"); err != nil {
		t.Fatal(err)
	}
	p.send("Subject: caf\xc3\xa9\r\n\r\n..dot\r\n.\r\n")
	p.want("250 2.1.5 <anna@example.org>")
	p.want("250 2.1.5 <bob+list@example.org>")
	p.want("550 5.1.1 <carl@example.org>")
	for _, user := range []string{"anna@example.org", "bob@example.org"} {
		got := message(t, s, user, 1)
		if !strings.HasPrefix(got, "Return-Path: <x@y.example>\r\nReceived: from edge.example.org ([127.0.0.1])\r\n\tby mx.example.org with LMTP id ") ||
			!strings.HasSuffix(got, "\r\nSubject: caf\xc3\xa9\r\n\r\n.dot\r\n") {
			t.Errorf("message of %s is %q", user, got)
		}
	}
	p.send("QUIT\r\n")
	p.want("221 ")
}

func TestLimits(t *testing.T) {
	s := newStore(t, "anna@x.example", "bob@x.example")
	_, addr := serve(t, lmtpd.Options{Deliverer: s, MaxSize: 1000, MaxRecipients: 1})
	p := dial(t, addr)
	p.hello()
	p.send("MAIL FROM:<> SIZE=1001\r\n")
	p.want("552 5.3.4")
	p.send("MAIL FROM:<>\r\nRCPT TO:<anna@x.example>\r\nRCPT TO:<bob@x.example>\r\nDATA\r\n")
	p.want("250 ")
	p.want("250 ")
	p.want("452 4.5.3")
	p.want("354 ")
	p.send(strings.Repeat("0123456789\r\n", 100) + ".\r\n")
	p.want("552 5.3.4 <anna@x.example>")
	p.send("MAIL FROM:<>\r\nRCPT TO:<anna@x.example>\r\nDATA\r\n")
	p.want("250 ")
	p.want("250 ")
	p.want("354 ")
	p.send("small\r\n.\r\n")
	p.want("250 2.1.5 <anna@x.example>")
	if got := message(t, s, "anna@x.example", 1); !strings.HasPrefix(got, "Return-Path: <>\r\n") || !strings.Contains(got, "\tfor <anna@x.example>;\r\n") {
		t.Errorf("message is %q", got)
	}
}

// TestLongLines: mail with lines above RFC 5321's 998 octets exists.
func TestLongLines(t *testing.T) {
	s := newStore(t, "anna@x.example")
	_, addr := serve(t, lmtpd.Options{Deliverer: s})
	p := dial(t, addr)
	p.hello()
	p.send("MAIL FROM:<>\r\nRCPT TO:<anna@x.example>\r\nDATA\r\n")
	p.want("250 ")
	p.want("250 ")
	p.want("354 ")
	long := strings.Repeat("x", 100_000)
	p.send(long + "\r\n.\r\n")
	p.want("250 ")
	if got := message(t, s, "anna@x.example", 1); !strings.HasSuffix(got, long+"\r\n") {
		t.Error("the long line is not there")
	}
}

// gate holds deliveries back.
type gate struct {
	lmtpd.Deliverer
	entered, open chan struct{}
}

func (g gate) DeliverStream(ctx context.Context, from string, to []string, r io.Reader) []error {
	close(g.entered)
	<-g.open
	return g.Deliverer.DeliverStream(ctx, from, to, r)
}

func TestShutdownFinishesDeliveries(t *testing.T) {
	s := newStore(t, "anna@x.example")
	g := gate{s, make(chan struct{}), make(chan struct{})}
	server, addr := serve(t, lmtpd.Options{Deliverer: g})
	idle, busy := dial(t, addr), dial(t, addr)
	idle.hello()
	busy.hello()
	busy.send("MAIL FROM:<>\r\nRCPT TO:<anna@x.example>\r\nDATA\r\n")
	busy.want("250 ")
	busy.want("250 ")
	busy.want("354 ")
	<-g.entered
	done := make(chan error, 1)
	go func() { done <- server.Shutdown(context.Background()) }()
	idle.want("421 ")
	busy.send("hello\r\n.\r\n")
	close(g.open)
	busy.want("250 ")
	busy.want("421 ")
	if err := <-done; err != nil {
		t.Error(err)
	}
	message(t, s, "anna@x.example", 1)
}

func TestPeerGoesAwayInTheMiddle(t *testing.T) {
	s := newStore(t, "anna@x.example")
	got := make(chan []error, 1)
	_, addr := serve(t, lmtpd.Options{Deliverer: spy{s, got}})
	p := dial(t, addr)
	p.hello()
	p.send("MAIL FROM:<>\r\nRCPT TO:<anna@x.example>\r\nDATA\r\n")
	p.want("250 ")
	p.want("250 ")
	p.want("354 ")
	p.send("half a line")
	p.conn.Close()
	if errs := <-got; errs[0] == nil {
		t.Error("half a message was filed")
	}
	a, _ := s.Account(t.Context(), "anna@x.example")
	if mb, err := a.Mailbox(t.Context(), backend.Inbox); err != nil || mb.Messages != 0 {
		t.Errorf("%d messages, %v", mb.Messages, err)
	}
}

type spy struct {
	lmtpd.Deliverer
	got chan []error
}

func (s spy) DeliverStream(ctx context.Context, from string, to []string, r io.Reader) []error {
	errs := s.Deliverer.DeliverStream(ctx, from, to, r)
	s.got <- errs
	return errs
}
