package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

func inPOP3(t *testing.T, change func(*Options), run func(*world)) {
	t.Helper()
	inWorldOf(t, &pop3, change, run)
}

func (w *world) popClient() *peer {
	w.t.Helper()
	c := newPeer(w.l.dial())
	c.t = w.t
	c.expect("+OK ")
	return c
}

// popLogin brings a client into TRANSACTION; b is the store's end.
func (w *world) popLogin(user string) (c, b *peer) {
	w.t.Helper()
	c = w.popClient()
	c.sendLine("USER %s", user)
	c.expect("+OK")
	c.sendLine("PASS secret")
	b = w.backend()
	c.expect("+OK Logged in")
	return c, b
}

func TestPOP3Login(t *testing.T) {
	const pw = `p\w"d`
	plainPW := plain("", "anna", pw)
	for name, lines := range map[string][]string{
		"USER PASS":       {"USER anna|+OK", "PASS " + pw + "|+OK Logged in"},
		"lower case":      {"user anna|+OK", "pass " + pw + "|+OK Logged in"},
		"another try":     {"USER bernd|+OK", "USER anna|+OK", "PASS " + pw + "|+OK Logged in"},
		"PLAIN at once":   {"AUTH PLAIN " + plainPW + "|+OK Logged in"},
		"plain at once":   {"auth plain " + plainPW + "|+OK Logged in"},
		"PLAIN in steps":  {"AUTH PLAIN|+ ", plainPW + "|+OK Logged in"},
		"LOGIN in steps":  {"AUTH LOGIN|+ VXNlcm5hbWU6", "YW5uYQ==|+ UGFzc3dvcmQ6", "cFx3ImQ=|+OK Logged in"},
		"LOGIN with name": {"AUTH LOGIN YW5uYQ==|+ UGFzc3dvcmQ6", "cFx3ImQ=|+OK Logged in"},
		"after a mistake": {"USER anna|+OK", "PASS wrong|-ERR [AUTH] ", "USER anna|+OK", "PASS " + pw + "|+OK Logged in"},
	} {
		t.Run(name, func(t *testing.T) {
			inPOP3(t, nil, func(w *world) {
				c := w.popClient()
				for _, l := range lines {
					l, want, _ := strings.Cut(l, "|")
					c.sendLine("%s", l)
					c.expect(want)
				}
				w.backend()
				if got := w.con.asked[0]; got.Protocol != backend.POP3 || got.Route.User != "anna" || got.CheckPassword {
					t.Errorf("asked for %+v", got)
				}
			})
		})
	}
}

func TestPOP3BeforeLogin(t *testing.T) {
	for cmd, want := range map[string][]string{
		"CAPA": {"+OK", "TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "USER", "SASL PLAIN LOGIN",
			"IMPLEMENTATION mailferry", "."},
		"AUTH":                  {"+OK", "PLAIN", "LOGIN", "."},
		"APOP anna 0123":        {"-ERR APOP is not supported"},
		"STLS":                  {"-ERR STLS is not available"},
		"STAT":                  {"-ERR Unknown command"},
		"":                      {"-ERR Unknown command"},
		"PASS secret":           {"-ERR No user name"},
		"USER":                  {"-ERR Invalid user name"},
		"USER anna b":           {"-ERR Invalid user name"},
		"AUTH GSSAPI":           {"-ERR Unsupported mechanism"},
		"AUTH PLAIN !":          {"-ERR Invalid response"},
		"AUTH PLAIN =":          {"-ERR Invalid response"},
		"AUTH PLAIN\r\n*":       {"+ ", "-ERR Invalid response"},
		"AUTH LOGIN\r\n\r\n":    {"+ ", "+ ", "-ERR [AUTH] Authentication failed"},
		"USER a\x00b\r\nPASS x": {"+OK", "-ERR [AUTH] Authentication failed"},
		"AUTH PLAIN " + plain("", "anna\r\nDELE 1", "secret"): {"-ERR [AUTH] Authentication failed"},
		"AUTH PLAIN " + plain("", "anna", "secret\r\nDELE 1"): {"-ERR [AUTH] Authentication failed"},
		"AUTH PLAIN " + plain("bernd", "anna", "secret"):      {"-ERR [AUTH] Authentication failed"},
		"QUIT": {"+OK Logging out"},
	} {
		t.Run(fmt.Sprintf("%.30q", cmd), func(t *testing.T) {
			inPOP3(t, nil, func(w *world) {
				c := w.popClient()
				c.send(cmd + "\r\n")
				for _, l := range want {
					c.expect(l)
				}
				if cmd == "QUIT" {
					c.end()
					return
				}
				c.sendLine("CAPA")
				c.expect("+OK")
				if len(w.con.asked) > 0 {
					t.Error("the store was asked")
				}
			})
		})
	}
}

func TestPOP3Outcomes(t *testing.T) {
	for name, tt := range map[string]struct {
		user, password string
		prepare        func(*world)
		want           string
	}{
		"wrong password":     {"anna", "wrong", nil, "-ERR [AUTH] Authentication failed"},
		"unknown user":       {"nemo", "secret", nil, "-ERR [AUTH] Authentication failed"},
		"disabled user":      {"otto", "secret", nil, "-ERR [AUTH] Authentication failed"},
		"wrong at the store": {"passer", "wrong", nil, "-ERR [AUTH] Authentication failed"},
		"directory away":     {"anna", "secret", func(w *world) { w.dir.err = backend.NewError(backend.KindUnavailable, "") }, "-ERR [SYS/TEMP] "},
		"store away":         {"anna", "secret", func(w *world) { w.con.err = backend.NewError(backend.KindUnavailable, "") }, "-ERR [SYS/TEMP] "},
		"in use":             {"anna", "secret", func(w *world) { w.con.err = backend.NewError(backend.KindConflict, "") }, "-ERR [IN-USE] "},
		"no service":         {"anna", "secret", func(w *world) { w.con.err = fmt.Errorf("x: %w", ErrNoService) }, "-ERR [SYS/TEMP] POP3 is not available"},
	} {
		t.Run(name, func(t *testing.T) {
			inPOP3(t, nil, func(w *world) {
				if tt.prepare != nil {
					tt.prepare(w)
				}
				c := w.popClient()
				c.sendLine("USER %s", tt.user)
				c.expect("+OK")
				c.sendLine("PASS %s", tt.password)
				c.expect(tt.want)
				w.dir.err = nil
				w.con.fail(nil)
				c.sendLine("AUTH PLAIN %s", plain("", "anna", "secret"))
				c.expect("+OK Logged in")
			})
		})
	}
}

func TestPOP3Bounds(t *testing.T) {
	inPOP3(t, nil, func(w *world) {
		c := w.popClient()
		for range 3 {
			c.sendLine("AUTH PLAIN %s", plain("", "anna", "wrong"))
			c.expect("-ERR [AUTH]")
		}
		c.expect("-ERR Too many failed logins")
		c.end()
		c = w.popClient()
		for range maxCommands {
			c.sendLine("NOOP")
			c.expect("-ERR Unknown")
		}
		c.expect("-ERR Too many commands")
		c.end()
		c = w.popClient()
		c.sendLine("USER %s", strings.Repeat("x", 13000))
		c.expect("-ERR Command line is too long")
		c.end()
		c = w.popClient()
		begin := time.Now()
		c.expect("-ERR Disconnected for inactivity")
		if waited := time.Since(begin); waited != 30*time.Second {
			t.Errorf("waited %s", waited)
		}
		c.end()
	})
	inPOP3(t, func(o *Options) { o.CleartextLogin = CleartextNever }, func(w *world) {
		c := w.popClient()
		for _, l := range []string{"USER anna", "PASS secret", "AUTH PLAIN " + plain("", "anna", "secret")} {
			c.sendLine("%s", l)
			c.expect("-ERR TLS is required")
		}
		c.sendLine("CAPA")
		for l := c.line(); l != "."; l = c.line() {
			if strings.HasPrefix(l, "SASL") || l == "USER" {
				t.Errorf("%q is announced without TLS", l)
			}
		}
	})
}

// TestPOP3Relay: what is pipelined arrives in order, our own answers stand
// where they belong, and bodies do not end early.
func TestPOP3Relay(t *testing.T) {
	inPOP3(t, nil, func(w *world) {
		c := w.popClient()
		c.send("USER anna\r\nPASS secret\r\nSTAT\r\nFOO\r\nRETR 1\r\nUSER x\r\nLIST\r\nUIDL 1\r\nAUTH\r\nQUIT\r\n")
		b := w.backend()
		for _, l := range []string{"STAT", "RETR 1", "LIST", "UIDL 1", "QUIT"} {
			b.expect(l)
		}
		body := "+OK\r\n.\r.\r\n..\r\n\n.\r\n\r\n.\r\r\n.x\r\n"
		for _, part := range strings.SplitAfter("+OK 1 2\r\n"+body+".\r\n+OK\r\n.\r\n-ERR none\r\n+OK bye\r\n", ".") {
			b.send(part)
			synctest.Wait()
		}
		got := ""
		want := "+OK\r\n+OK Logged in\r\n+OK 1 2\r\n-ERR Unknown command\r\n" + body + ".\r\n-ERR Already logged in\r\n+OK\r\n.\r\n-ERR none\r\n" +
			"-ERR Already logged in\r\n+OK bye\r\n"
		for strings.Count(got, "\n") < strings.Count(want, "\n") {
			l, err := c.r.ReadString('\n')
			if got += l; err != nil {
				break
			}
		}
		if got != want {
			t.Errorf("got %q\nwant %q", got, want)
		}
		b.Close()
		c.end()
	})
}

func TestPOP3StoreGoesAway(t *testing.T) {
	inPOP3(t, nil, func(w *world) {
		c, b := w.popLogin("anna")
		b.Close()
		c.expect("-ERR [SYS/TEMP] The mail store has closed the connection")
		c.end()
		c, b = w.popLogin("anna")
		c.sendLine("RETR 1")
		b.expect("RETR 1")
		b.send("+OK\r\nhalf")
		b.Close()
		c.expect("+OK")
		if l, err := c.r.ReadString('\n'); l != "half" || err == nil {
			t.Errorf("got %q", l)
		}
		c, b = w.popLogin("anna")
		b.sendLine("* OK this is IMAP")
		c.expect("-ERR [SYS/TEMP] The mail store has closed the connection")
		c.end()
		b.end()
	})
}

func TestPOP3Shutdown(t *testing.T) {
	inPOP3(t, nil, func(w *world) {
		c, b := w.popLogin("anna")
		c.sendLine("RETR 1")
		b.expect("RETR 1")
		go w.p.Shutdown(context.Background())
		synctest.Wait()
		b.send("+OK\r\nx\r\n.\r\n")
		for _, want := range []string{"+OK", "x", ".", "-ERR [SYS/TEMP] Server is shutting down"} {
			c.expect(want)
		}
		c.end()
	})
}

// TestPOP3Hold: a session goes on during a hold; when it ends in time, its
// store is quiet. New logins wait.
func TestPOP3Hold(t *testing.T) {
	inPOP3(t, nil, func(w *world) {
		c, b := w.popLogin("anna")
		w.ask(c, b, "DELE 1", "+OK gone")
		w.ps.hold("anna", "old")
		late := w.popClient()
		late.sendLine("AUTH PLAIN %s", plain("", "anna", "secret"))
		synctest.Wait()
		w.ask(c, b, "STAT", "+OK 0 0")
		w.ask(c, b, "QUIT", "+OK bye")
		synctest.Wait()
		if len(w.ps.confirmed) > 0 {
			t.Fatal("confirmed before the store has closed")
		}
		b.Close()
		w.confirmed(0, 0, "")
		c.end()
		late.silent()
		w.ps.activate("anna", "home")
		w.resumed(0, 0, 0)
		w.backend()
		late.expect("+OK Logged in")
	})
}

// TestPOP3HoldOfALongSession: it spoils two holds, and is closed behind its
// reply by the third, which is confirmed when the store has closed.
func TestPOP3HoldOfALongSession(t *testing.T) {
	inPOP3(t, nil, func(w *world) {
		c, b := w.popLogin("anna")
		for range 2 {
			begin := time.Now()
			w.ps.hold("anna", "old")
			w.confirmed(0, 0, "runs for more than 2s")
			if waited := time.Since(begin); waited != 2*time.Second {
				t.Errorf("refused after %s", waited)
			}
			w.ps.activate("anna", "old")
			w.resumed(0, 1, 0)
			w.ask(c, b, "NOOP", "+OK")
		}
		c.sendLine("RETR 1")
		b.expect("RETR 1")
		w.ps.hold("anna", "old")
		synctest.Wait()
		c.sendLine("DELE 1") // too late
		synctest.Wait()
		b.send("+OK\r\nx\r\n.\r\n")
		for _, want := range []string{"+OK", "x", ".", "-ERR [SYS/TEMP] Your mailbox is being moved"} {
			c.expect(want)
		}
		b.end()
		synctest.Wait()
		if len(w.ps.confirmed) > 0 {
			t.Fatal("confirmed before the store has closed")
		}
		b.Close()
		w.confirmed(0, 0, "")
		c.end()
		w.ps.activate("anna", "home")
		w.resumed(0, 0, 0)
	})
}

// TestPOP3HoldWithAStoreThatHangs: a reply that does not come, and a store that
// does not close, are cut at the third hold.
func TestPOP3HoldWithAStoreThatHangs(t *testing.T) {
	for name, busy := range map[string]bool{"in a reply": true, "between commands": false} {
		t.Run(name, func(t *testing.T) {
			inPOP3(t, nil, func(w *world) {
				c, b := w.popLogin("anna")
				for range 2 {
					w.ps.hold("anna", "old")
					w.confirmed(0, 0, "runs for more than 2s")
					w.ps.activate("anna", "old")
					w.resumed(0, 1, 0)
				}
				if busy {
					c.sendLine("RETR 1")
					b.expect("RETR 1")
					b.send("+OK\r\nx\r\n")
					synctest.Wait()
				}
				w.ps.hold("anna", "old")
				w.confirmed(0, 0, "")
				b.end()
				if len(w.p.Sessions(Match{})) > 0 {
					t.Error("the session is left")
				}
			})
		})
	}
}

// TestPOP3RealStores: USER and PASS, a delegated login behind them, and
// retrieval, on servers as they are.
func TestPOP3RealStores(t *testing.T) {
	for name, start := range map[string]func(*testing.T) realStore{"dovecot": realDovecot, "cyrus": realCyrus} {
		t.Run(name, func(t *testing.T) {
			mailtest.Require(t, name)
			r := start(t)
			direct := mailtest.DialIMAP(t, r.addr)
			direct.Login(r.user, "secret")
			direct.Append("INBOX", "", time.Now(), []byte("Subject: a\r\n\r\n.dot\r\n.\r\nend\r\n"))
			direct.Cmd("LOGOUT")
			c := r.dialPOP3(t)
			for _, l := range []string{"USER anna|+OK", "PASS secret|+OK Logged in", "STAT|+OK 1 ", "RETR 1|+OK"} {
				l, want, _ := strings.Cut(l, "|")
				c.sendLine("%s", l)
				c.expect(want)
			}
			body := ""
			for l := c.line(); l != "."; l = c.line() {
				body += l + "\n"
			}
			if !strings.HasSuffix(body, "\n\n..dot\n..\nend\n") {
				t.Errorf("body %q", body)
			}
			c.sendLine("DELE 1")
			c.expect("+OK")
			c.sendLine("QUIT")
			c.expect("+OK")
			c.end()
			again := r.dialPOP3(t)
			again.send("USER anna\r\nPASS secret\r\nSTAT\r\nQUIT\r\n")
			for _, want := range []string{"+OK", "+OK Logged in", "+OK 0 0", "+OK"} {
				again.expect(want)
			}
		})
	}
}

func TestSTLS(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, con, _ := onSocketsOf(t, &pop3, Options{TLS: ca.ServerConfig(t), CleartextLogin: CleartextNever}, false)
	c := dialPeer(t, addr)
	c.expect("+OK")
	c.sendLine("STLS")
	c.expect("+OK Begin TLS")
	if err := c.overTLS(ca.Client()); err != nil {
		t.Fatal(err)
	}
	c.sendLine("STLS")
	c.expect("-ERR STLS is not available")
	c.send("USER anna\r\nPASS secret\r\nNOOP\r\n")
	b := <-con.conns
	b.t = t
	b.expect("NOOP")
	b.sendLine("+OK noop")
	for _, want := range []string{"+OK", "+OK Logged in", "+OK noop"} {
		c.expect(want)
	}

	c = dialPeer(t, addr)
	c.expect("+OK")
	c.send("STLS\r\nUSER anna\r\n")
	c.expect("-ERR Data behind STLS")
	c.expect("-ERR Protocol error")
	c.end()

	addr, _, _ = onSocketsOf(t, &pop3, Options{TLS: ca.ServerConfig(t)}, true)
	c = dialPeer(t, addr)
	if err := c.overTLS(ca.Client()); err != nil {
		t.Fatal(err)
	}
	c.expect("+OK")
}
