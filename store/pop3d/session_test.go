package pop3d_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/internal/mailtest"
	"mailferry/store/pop3d"
)

const capabilities = "TOP|UIDL|RESP-CODES|PIPELINING|AUTH-RESP-CODE|USER|SASL PLAIN|EXPIRE NEVER|IMPLEMENTATION mailferry"

func TestSession(t *testing.T) {
	w := newWorld(t)
	w.file(mail("one"), mail("second"), "x")
	c := w.dial(pop3d.ConnInfo{Trusted: true})
	c.is("+OK", "USER anna")
	c.is("+OK Maildrop has 3 messages (128 octets)", "PASS secret")
	if got := c.multi("CAPA"); got != capabilities {
		t.Errorf("CAPA: %s", got)
	}
	c.is("+OK 3 128", "STAT")
	if got := c.multi("LIST"); got != "1 62|2 65|3 1" {
		// One octet is the message's size, though its line goes out with an end.
		t.Errorf("LIST: %s", got)
	}
	c.is("+OK 2 65", "LIST 2")
	mb, err := w.account().Mailbox(context.Background(), backend.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	v := mb.UIDValidity
	if got, want := c.multi("uidl"), fmt.Sprintf("1 %d.1|2 %d.2|3 %d.3", v, v, v); got != want {
		t.Errorf("UIDL: %s, want %s", got, want)
	}
	c.is(fmt.Sprintf("+OK 3 %d.3", v), "UIDL 3")
	c.is("+OK 62 octets", "RETR 1")
	if got := c.many(); got != strings.ReplaceAll(mail("one"), "\r\n.", "\r\n..") {
		t.Errorf("RETR: %q", got)
	}
	c.is("+OK", "RETR 3")
	if got := c.many(); got != "x\r\n" {
		t.Errorf("RETR: %q", got)
	}
	header := "From: anna@example.org|Subject: second|"
	for n, want := range []string{header, header + "|hello", header + "|hello|..dots", header + "|hello|..dots|..", header + "|hello|..dots|..|end"} {
		if got := c.multi("TOP 2 %d", n); got != want {
			t.Errorf("TOP 2 %d: %q", n, got)
		}
	}
	if got := c.multi("TOP 2 99999999999999999999999"); got != header+"|hello|..dots|..|end" {
		t.Errorf("TOP of everything: %q", got)
	}
	c.is("+OK", "NOOP")
	c.is("+OK Goodbye", "QUIT")
	c.gone()
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	w.file(mail("1"), mail("2"), mail("3"), mail("4"))
	c := w.login()
	c.is("+OK", "DELE 2")
	c.is("-ERR No such message", "DELE 2")
	c.is("-ERR No such message", "RETR 2")
	c.is("-ERR No such message", "TOP 2 1")
	c.is("-ERR No such message", "LIST 2")
	c.is("-ERR No such message", "UIDL 2")
	c.is("+OK", "DELE 4")
	if got := c.multi("LIST"); got != "1 60|3 60" { // numbers stay
		t.Errorf("LIST: %s", got)
	}
	c.is("+OK 2 120", "STAT")
	c.is("+OK Maildrop has 4 messages (240 octets)", "RSET")
	c.is("+OK 4 240", "STAT")
	c.is("+OK", "DELE 3")
	c.nc.Close() // no QUIT, no UPDATE
	w.waitFree()
	c = w.login()
	c.is("+OK 4 240", "STAT")
	for _, n := range []int{3, 1} {
		c.is("+OK", "DELE %d", n)
	}
	c.is("+OK", "QUIT")
	c.gone()
	c = w.login() // the maildrop is free when QUIT is answered
	c.is("+OK 2 120", "STAT")
	if got := c.multi("UIDL"); !strings.HasSuffix(got, ".4") || !strings.Contains(got, ".2|") {
		t.Errorf("UIDL: %s", got)
	}
}

// waitFree waits until nobody has anna's maildrop.
func (w *world) waitFree() {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if unlock, ok := w.account().LockMaildrop(); ok {
			unlock()
			return
		}
	}
	w.t.Fatal("the maildrop stays locked")
}

// Every command in every state: what it says where it does not belong, and with
// wrong arguments.
func TestCommandsInStates(t *testing.T) {
	w := newWorld(t, func(o *pop3d.Options) { o.Limits.BadCommands = 1000 })
	w.file(mail("x"))
	c := w.dial(pop3d.ConnInfo{Trusted: true})
	for _, cmd := range []string{"STAT", "LIST", "LIST 1", "UIDL", "RETR 1", "TOP 1 1", "DELE 1", "RSET", "NOOP"} {
		c.is("-ERR Log in first", "%s", cmd)
	}
	for _, cmd := range []string{"PASS secret", "USER", "USER  ", "CAPA x", "QUIT x", "STLS", "AUTH NTLM", "APOP anna x", "", " ", "USER\tanna",
		"XTND", "\x00\xff"} {
		c.is("-ERR ", "%s", cmd)
	}
	if got := c.multi("CAPA"); got != capabilities {
		t.Errorf("CAPA: %s", got)
	}
	c.is("+OK", "USER nobody")
	c.is("+OK", "user anna")
	c.is("+OK", "pass with spaces ")
	for _, cmd := range []string{"USER anna", "PASS secret", "AUTH PLAIN", "AUTH", "STLS"} {
		c.is("-ERR You are logged in", "%s", cmd)
	}
	for _, cmd := range []string{"RETR", "RETR x", "RETR 1 1", "RETR -1", "RETR +1", "RETR 0", "RETR 2", "RETR 99999999999999999999", "TOP", "TOP 1",
		"TOP x 1", "TOP 1 x", "TOP 1 -1", "TOP 1 1 1", "TOP 2 1", "DELE", "DELE 0", "DELE x", "LIST 0", "LIST x", "UIDL 2", "NOOP x", "STAT x",
		"RSET x", "LAST", "retr1"} {
		c.is("-ERR ", "%s", cmd)
	}
	c.is("-ERR Line is too long", "NOOP %s", strings.Repeat("x", 20000))
	c.is("+OK 1 60", "STAT")
	c.raw("noop\n") // a bare LF ends a line, too
	c.expect("+OK")
}

func TestLoginFailures(t *testing.T) {
	w := newWorld(t)
	c := w.dial(pop3d.ConnInfo{Trusted: true})
	c.is("+OK", "USER anna")
	c.is("-ERR [AUTH] Authentication failed", "PASS wrong")
	c.is("-ERR USER comes first", "PASS secret") // the name is used up
	c.is("+OK", "USER nobody")
	c.is("-ERR [AUTH] Authentication failed", "PASS secret") // as with a wrong password
	c.is("+OK", "USER anna")
	c.is("-ERR [SYS/TEMP] directory is away", "PASS down")
	for range 2 {
		c.is("+OK", "USER a\x01")
		c.is("-ERR [AUTH]", "PASS secret")
	}
	c.is("-ERR [AUTH]", "AUTH PLAIN AGFubmEAd3Jvbmc=")
	c.gone()
	c = w.dial(pop3d.ConnInfo{Trusted: true})
	for range 4 {
		c.is("-ERR Unknown command", "GET / HTTP/1.1")
	}
	c.is("-ERR Unknown command", "GET / HTTP/1.1")
	if l := c.closed(); len(l) != 1 || l[0] != "-ERR Too many wrong commands" {
		t.Errorf("after five bad commands: %q", l)
	}
	c = w.dial(pop3d.ConnInfo{Trusted: true})
	go func() { // more than anybody skips
		for range 200 {
			if _, err := c.nc.Write(make([]byte, 10000)); err != nil {
				return
			}
		}
	}()
	c.expect("-ERR Line is too long")
}

func TestAuth(t *testing.T) {
	w := newWorld(t)
	c := w.dial(pop3d.ConnInfo{TLS: true})
	if got := c.multi("AUTH"); got != "PLAIN" {
		t.Errorf("AUTH: %s", got)
	}
	c.is("+ ", "AUTH PLAIN")
	c.is("-ERR Authentication cancelled", "*")
	c.is("-ERR Invalid response", "AUTH PLAIN =")
	c.is("-ERR Invalid response", "AUTH PLAIN !")
	c.is("+ ", "auth plain")
	c.is("+OK", "AGFubmEAc2VjcmV0") // anna, secret
	c.is("+OK", "QUIT")
	for _, info := range []pop3d.ConnInfo{{TLS: true}, {Trusted: true}} {
		c = w.dial(info)
		c.is("-ERR [AUTH]", "AUTH PLAIN YW5uYQBwcm94eQB3cm9uZw==")                 // anna, proxy, wrong
		c.is("+OK Maildrop has 0 messages", "AUTH PLAIN YW5uYQBwcm94eQB0b2tlbg==") // anna, proxy, token
		c.is("+OK 0 0", "STAT")
		if got := c.multi("LIST"); got != "" {
			t.Errorf("LIST of nothing: %q", got)
		}
		c.is("+OK", "QUIT")
	}
	w = newWorld(t, func(o *pop3d.Options) { o.ClearLogin = true })
	c = w.dial(pop3d.ConnInfo{})
	c.is("-ERR [AUTH]", "AUTH PLAIN YW5uYQBwcm94eQB0b2tlbg==") // not for all to hear
	c.is("+OK", "AUTH PLAIN YW5uYQBhbm5hAHNlY3JldA==")         // anna, anna, secret
}

func TestLoginNeedsTLS(t *testing.T) {
	c := newWorld(t).dial(pop3d.ConnInfo{})
	if got := c.multi("CAPA"); strings.Contains(got, "SASL") || strings.Contains(got, "USER") || strings.Contains(got, "STLS") {
		t.Errorf("capabilities in clear: %s", got)
	}
	for _, cmd := range []string{"USER anna", "PASS secret", "AUTH PLAIN", "AUTH PLAIN AGFubmEAc2VjcmV0"} {
		c.is("-ERR [AUTH] Passwords are not accepted without TLS", "%s", cmd)
	}
	if got := c.multi("AUTH"); got != "" {
		t.Errorf("mechanisms in clear: %s", got)
	}
}

func TestSTLS(t *testing.T) {
	ca := mailtest.NewCA(t)
	w := newWorld(t, func(o *pop3d.Options) { o.TLSConfig = ca.ServerConfig(t); o.ClearLogin = true })
	c := w.dial(pop3d.ConnInfo{})
	if got := c.multi("CAPA"); !strings.Contains(got, "|STLS|") {
		t.Errorf("CAPA in clear: %s", got)
	}
	c.is("+OK", "USER anna")
	c.is("+OK", "STLS")
	config := ca.Client()
	config.ServerName = "localhost"
	tc := tls.Client(c.nc, config)
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.nc, c.r = tc, bufio.NewReader(tc)
	if got := c.multi("CAPA"); got != capabilities {
		t.Errorf("CAPA under TLS: %s", got)
	}
	c.is("-ERR TLS is not possible now", "STLS")
	c.is("-ERR USER comes first", "PASS secret") // what was said in clear is forgotten
	c.is("+OK", "USER anna")
	c.is("+OK", "PASS secret")
	c.is("-ERR You are logged in", "STLS")

	e := w.dial(pop3d.ConnInfo{})
	e.raw("STLS\r\nUSER anna\r\nPASS secret\r\n")
	e.expect("-ERR Octets in clear behind STLS")
	e.gone()
}

func TestPipelining(t *testing.T) {
	w := newWorld(t)
	w.file(mail("x"))
	c := w.dial(pop3d.ConnInfo{Trusted: true})
	c.raw("USER anna\r\nPASS secret\r\nSTAT\r\nRETR 1\r\nDELE 1\r\nQUIT\r\nSTAT\r\n")
	c.expect("+OK Password")
	c.expect("+OK Maildrop has 1 messages (60 octets)")
	c.expect("+OK 1 60")
	c.expect("+OK 60 octets")
	c.many()
	c.expect("+OK Marked")
	c.expect("+OK Goodbye")
	c.gone() // nothing after QUIT
}

func TestInUse(t *testing.T) {
	w := newWorld(t)
	first := w.login()
	c := w.dial(pop3d.ConnInfo{Trusted: true})
	c.is("+OK", "USER Anna")
	c.is("-ERR [IN-USE]", "PASS secret")
	c.is("+OK", "USER anna")
	c.is("-ERR [AUTH]", "PASS wrong") // a wrong password learns nothing
	first.is("+OK", "QUIT")
	c.is("-ERR [AUTH]", "AUTH PLAIN YW5uYQBwcm94eQB3cm9uZw==")
	c.is("+OK", "AUTH PLAIN AGFubmEAc2VjcmV0")
}

func TestShutdown(t *testing.T) {
	w := newWorld(t)
	w.file(mail("x"))
	c := w.login()
	c.is("+OK", "DELE 1")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	c.expect("-ERR [SYS/TEMP] Server is shutting down")
	c.gone()
	if d, err := w.account().Maildrop(ctx); err != nil || len(d.Messages) != 1 {
		t.Errorf("without QUIT: %+v, %v", d, err)
	}
	w.waitFree()
	a, b := line.Pipe()
	w.server.ServeConn(ctx, b, pop3d.ConnInfo{})
	if n, err := a.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("a session began after Shutdown")
	}
}

// An idle session ends without UPDATE and without a word (RFC 1939 section 3).
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.file(mail("x"))
		for _, login := range []bool{false, true} {
			c := w.dial(pop3d.ConnInfo{Trusted: true})
			want := 3 * time.Minute
			if login {
				want = 10 * time.Minute
				c.is("+OK", "USER anna")
				c.is("+OK", "PASS secret")
				c.is("+OK", "DELE 1")
			}
			began := time.Now()
			c.nc.SetReadDeadline(time.Time{})
			if _, err := c.r.ReadByte(); err == nil {
				t.Error("a word at the end")
			}
			if got := time.Since(began); got != want {
				t.Errorf("after login %v: ended after %v, want %v", login, got, want)
			}
		}
		c := w.login()
		c.is("+OK 1 60", "STAT")
		c.is("+OK", "QUIT")
	})
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	w := newWorld(t, func(o *pop3d.Options) { o.Metrics = r })
	w.file(mail("x"), mail("y"))
	c := w.login()
	c.multi("RETR 1")
	c.is("+OK", "DELE 2")
	c.is("-ERR", "NONSENSE")
	c.is("+OK", "QUIT")
	c.gone()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	for _, name := range []string{"mailferry_pop3_messages_retrieved_total", "mailferry_pop3_messages_deleted_total",
		"mailferry_pop3_commands_total RETR ok", "mailferry_pop3_commands_total unknown err"} {
		if got[name] != 1 {
			t.Errorf("%s is %v, want 1: %v", name, got[name], got)
		}
	}
	if _, err := pop3d.New(pop3d.Options{Store: w.store, Metrics: r}); err == nil {
		t.Error("a server without Authenticate")
	}
}
