package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

func inSieve(t *testing.T, change func(*Options), run func(*world)) {
	t.Helper()
	inWorldOf(t, &managesieve, func(o *Options) {
		o.Connector.(*connector).caps = []string{`"SIEVE" "fileinto"`}
		if change != nil {
			change(o)
		}
	}, run)
}

// capabilities reads up to the OK and returns the names.
func (p *peer) capabilities() string {
	p.t.Helper()
	var names []string
	for l := p.line(); !strings.HasPrefix(l, "OK"); l = p.line() {
		names = append(names, strings.Trim(strings.Fields(l)[0], `"`))
	}
	return strings.Join(names, " ")
}

func (w *world) sieveClient() *peer {
	w.t.Helper()
	c := newPeer(w.l.dial())
	c.t = w.t
	if got := c.capabilities(); got != "IMPLEMENTATION SIEVE SASL VERSION" {
		c.fail("capabilities %s", got)
	}
	return c
}

func (w *world) sieveLogin(user string) (c, b *peer) {
	w.t.Helper()
	c = w.sieveClient()
	c.sendLine(`AUTHENTICATE "PLAIN" "%s"`, plain("", user, "secret"))
	b = w.backend()
	c.expect(`OK "Logged in"`)
	return c, b
}

func TestManageSieveLogin(t *testing.T) {
	const pw = `p\w"d`
	msg := plain("", "anna", pw)
	for name, lines := range map[string][]string{
		"at once":         {`AUTHENTICATE "PLAIN" "` + msg + `"|OK "Logged in"`},
		"lower case":      {`authenticate "plain" "` + msg + `"|OK "Logged in"`},
		"literals":        {"AUTHENTICATE {5+}\r\nPLAIN {" + fmt.Sprint(len(msg)) + "+}\r\n" + msg + `|OK "Logged in"`},
		"in steps":        {`AUTHENTICATE "PLAIN"|""`, `"` + msg + `"|OK "Logged in"`},
		"literal in step": {`AUTHENTICATE "PLAIN"|""`, "{" + fmt.Sprint(len(msg)) + "+}\r\n" + msg + `|OK "Logged in"`},
		"LOGIN":           {`AUTHENTICATE "LOGIN"|"VXNlcm5hbWU6"`, `"YW5uYQ=="|"UGFzc3dvcmQ6"`, `"cFx3ImQ="|OK "Logged in"`},
		"after a mistake": {`AUTHENTICATE "PLAIN" "` + plain("", "anna", "wrong") + `"|NO "Authentication failed"`,
			`AUTHENTICATE "PLAIN" "` + msg + `"|OK "Logged in"`},
	} {
		t.Run(name, func(t *testing.T) {
			inSieve(t, nil, func(w *world) {
				c := w.sieveClient()
				for _, l := range lines {
					l, want, _ := strings.Cut(l, "|")
					c.sendLine("%s", l)
					c.expect(want)
				}
				w.backend()
				if got := w.con.asked[0]; got.Protocol != backend.ManageSieve || got.Route.User != "anna" {
					t.Errorf("asked for %+v", got)
				}
			})
		})
	}
}

func TestManageSieveBeforeLogin(t *testing.T) {
	for cmd, want := range map[string][]string{
		"CAPABILITY":                      {`"IMPLEMENTATION" "mailferry"`, `"SIEVE" "fileinto `, `"SASL" "PLAIN LOGIN"`, `"VERSION" "1.0"`, "OK"},
		"NOOP":                            {"OK"},
		"NOOP \"x\"":                      {"OK (TAG {1}", `x) "done"`},
		"STARTTLS":                        {`NO "STARTTLS is not available"`},
		"LISTSCRIPTS":                     {`NO "Unknown command`},
		"":                                {`NO "Unknown command`},
		"NOOP x":                          {`NO "String expected`},
		`AUTHENTICATE "GSSAPI"`:           {`NO "Unsupported mechanism"`},
		`AUTHENTICATE PLAIN`:              {"NO"},
		`AUTHENTICATE "PLAIN" "!"`:        {`NO "Invalid response"`},
		"AUTHENTICATE \"PLAIN\"\r\n\"*\"": {`""`, `NO "Invalid response"`},
		"AUTHENTICATE \"PLAIN\"\r\nx":     {`""`, `NO "Invalid response"`},
		"AUTHENTICATE {9000+}\r\n" + strings.Repeat("x", 9000):                    {`NO "Too long"`},
		"AUTHENTICATE {104857600}":                                                {"NO"},
		`AUTHENTICATE "PLAIN" "` + plain("", "anna\r\nx", "secret") + `"`:         {`NO "Authentication failed"`},
		`AUTHENTICATE "PLAIN" "` + plain("", "anna", "secret\r\nSETACTIVE") + `"`: {`NO "Authentication failed"`},
		`AUTHENTICATE "PLAIN" "` + plain("bernd", "anna", "secret") + `"`:         {`NO "Authentication failed"`},
		"LOGOUT": {"OK"},
	} {
		t.Run(fmt.Sprintf("%.30q", cmd), func(t *testing.T) {
			inSieve(t, nil, func(w *world) {
				c := w.sieveClient()
				c.send(cmd + "\r\n")
				for _, l := range want {
					c.expect(l)
				}
				if cmd == "LOGOUT" {
					c.end()
					return
				}
				c.sendLine("NOOP")
				c.expect("OK")
				if len(w.con.asked) > 0 {
					t.Error("the store was asked")
				}
			})
		})
	}
}

func TestManageSieveOutcomes(t *testing.T) {
	for name, tt := range map[string]struct {
		user    string
		prepare func(*world)
		want    string
	}{
		"unknown user":   {"nemo", nil, `NO "Authentication failed"`},
		"disabled user":  {"otto", nil, `NO "Authentication failed"`},
		"directory away": {"anna", func(w *world) { w.dir.err = backend.NewError(backend.KindUnavailable, "") }, "NO (TRYLATER) "},
		"store away":     {"anna", func(w *world) { w.con.err = backend.NewError(backend.KindUnavailable, "") }, "NO (TRYLATER) "},
		"no service":     {"anna", func(w *world) { w.con.err = fmt.Errorf("x: %w", ErrNoService) }, "NO (TRYLATER) \"ManageSieve is not"},
	} {
		t.Run(name, func(t *testing.T) {
			inSieve(t, nil, func(w *world) {
				if tt.prepare != nil {
					tt.prepare(w)
				}
				c := w.sieveClient()
				c.sendLine(`AUTHENTICATE "PLAIN" "%s"`, plain("", tt.user, "secret"))
				c.expect(tt.want)
			})
		})
	}
}

func TestManageSieveBounds(t *testing.T) {
	inSieve(t, nil, func(w *world) {
		c := w.sieveClient()
		c.sendLine("NOOP \"%s\"", strings.Repeat("x", 13000))
		c.expect(`BYE "Command line is too long"`)
		c.end()
		c = w.sieveClient()
		for range 3 {
			c.sendLine(`AUTHENTICATE "PLAIN" "%s"`, plain("", "anna", "wrong"))
			c.expect("NO")
		}
		c.expect(`BYE "Too many failed logins"`)
		c.end()
		c = w.sieveClient()
		c.expect(`BYE "Disconnected for inactivity"`)
		c.end()
	})
}

// TestManageSieveRelay: scripts pass in both directions whatever they look
// like, and our own answers stand where they belong.
func TestManageSieveRelay(t *testing.T) {
	inSieve(t, nil, func(w *world) {
		c, b := w.sieveLogin("anna")
		script := "keep;\r\nOK\r\nLOGOUT\r\n{3+}\r\n\""
		put := fmt.Sprintf("PUTSCRIPT \"a\" {%d+}\r\n%s\r\n", len(script), script)
		for _, part := range strings.SplitAfter(put+"STARTTLS\r\nGETSCRIPT \"a\"\r\nAUTHENTICATE \"PLAIN\" {4+}\r\nKEEP\r\nNOOP\r\n", "\n") {
			c.send(part)
			synctest.Wait()
		}
		got := ""
		for want := put + "GETSCRIPT \"a\"\r\nNOOP\r\n"; got != want; {
			if got += b.line() + "\r\n"; !strings.HasPrefix(want, got) {
				t.Fatalf("the store got %q, want %q", got, want)
			}
		}
		answers := []string{"OK (WARNINGS) {4}\r\nOK\r\n\r\n", fmt.Sprintf("{%d}\r\n%s\r\nOK\r\n", len(script), script), "NO {0}\r\n\r\n"}
		b.send(strings.Join(answers, ""))
		want := answers[0] + "NO \"Already logged in\"\r\n" + answers[1] + "NO \"Already logged in\"\r\n" + answers[2]
		for got = ""; got != want; {
			if got += c.line() + "\r\n"; !strings.HasPrefix(want, got) {
				t.Fatalf("the client got %q, want %q", got, want)
			}
		}
		c.sendLine("PUTSCRIPT \"a\" {3}")
		c.expect(`BYE "literals need a plus sign"`)
		c.end()
	})
}

func TestManageSieveStoreGoesAway(t *testing.T) {
	inSieve(t, nil, func(w *world) {
		c, b := w.sieveLogin("anna")
		b.Close()
		c.expect("BYE (TRYLATER) ")
		c.end()
		c, b = w.sieveLogin("anna")
		b.sendLine("BYE \"I go\"")
		c.expect("BYE \"I go\"")
		b.Close()
		c.end()
		c, b = w.sieveLogin("anna")
		b.sendLine("* OK this is IMAP")
		c.expect("BYE (TRYLATER) ")
		c.end()
	})
}

// TestManageSieveMoves: a session has no state, so it is carried over where the
// new store announces the same, and goes on where a hold is taken back.
func TestManageSieveMoves(t *testing.T) {
	inSieve(t, nil, func(w *world) {
		c, b := w.sieveLogin("anna")
		c.send("PUTSCRIPT \"a\" {4+}\r\nke")
		b.expect("PUTSCRIPT")
		w.ps.hold("anna", "old")
		synctest.Wait()
		c.send("ep\r\nLISTSCRIPTS\r\n")
		b.expect("keep")
		b.sendLine("OK")
		w.confirmed(1, 0, "")
		c.expect("OK")
		b.silent()
		w.ps.activate("anna", "old")
		w.resumed(0, 1, 0)
		b.expect("LISTSCRIPTS")
		b.sendLine("OK")
		c.expect("OK")

		w.ps.hold("anna", "old")
		w.confirmed(1, 0, "")
		c.sendLine("NOOP")
		synctest.Wait()
		w.ps.activate("anna", "old2")
		next := w.backend()
		w.resumed(1, 0, 0)
		b.end()
		next.expect("NOOP")
		next.sendLine("OK")
		c.expect("OK")

		w.con.mu.Lock()
		w.con.caps = []string{`"SIEVE" "fileinto reject"`}
		w.con.mu.Unlock()
		w.ps.hold("anna", "old2")
		w.confirmed(1, 0, "")
		w.ps.activate("anna", "old")
		w.backend().end()
		w.resumed(0, 0, 1, reasonForeign)
		c.expect("BYE (TRYLATER) ")
		c.end()
	})
}

func TestManageSieveSTARTTLS(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, con, _ := onSocketsOf(t, &managesieve, Options{TLS: ca.ServerConfig(t), CleartextLogin: CleartextNever}, false)
	c := dialPeer(t, addr)
	if got := c.capabilities(); got != "IMPLEMENTATION SIEVE SASL STARTTLS VERSION" {
		t.Errorf("capabilities %s", got)
	}
	c.sendLine(`AUTHENTICATE "PLAIN" "%s"`, plain("", "anna", "secret"))
	c.expect("NO (ENCRYPT-NEEDED)")
	c.sendLine("STARTTLS")
	c.expect("OK")
	if err := c.overTLS(ca.Client()); err != nil {
		t.Fatal(err)
	}
	if got := c.capabilities(); got != "IMPLEMENTATION SIEVE SASL VERSION" {
		t.Errorf("capabilities %s", got)
	}
	c.sendLine(`AUTHENTICATE "PLAIN" "%s"`, plain("", "anna", "secret"))
	<-con.conns
	c.expect("OK")

	c = dialPeer(t, addr)
	c.capabilities()
	c.send("STARTTLS\r\nNOOP\r\n")
	c.expect(`NO "Data behind STARTTLS"`)
	c.expect("BYE")
	c.end()
}

// TestManageSieveShutdown: the command that runs is answered, then BYE.
func TestManageSieveShutdown(t *testing.T) {
	inSieve(t, nil, func(w *world) {
		c, b := w.sieveLogin("anna")
		c.sendLine("LISTSCRIPTS")
		b.expect("LISTSCRIPTS")
		go w.p.Shutdown(context.Background())
		synctest.Wait()
		c.silent()
		b.send("\"main\" ACTIVE\r\nOK\r\n")
		for _, want := range []string{"\"main\" ACTIVE", "OK", "BYE (TRYLATER) \"Server is shutting down"} {
			c.expect(want)
		}
		c.end()
	})
}
