package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/internal/mailtest"
)

// What these tests cover of the list of threats: docs/security.md.

// TestControlsInEveryField: CR, LF, NUL and their like in any field of any way
// to log in reach neither a directory nor a store, and end nothing.
func TestControlsInEveryField(t *testing.T) {
	lit := func(s string) string { return fmt.Sprintf("{%d+}\r\n%s", len(s), s) }
	fields := map[string]func(bad string) string{ // the whole message, in base64
		"PLAIN authzid":     func(b string) string { return "PLAIN " + plain("x"+b, "anna", "secret") },
		"PLAIN user":        func(b string) string { return "PLAIN " + plain("", "an"+b+"na", "secret") },
		"PLAIN password":    func(b string) string { return "PLAIN " + plain("", "anna", "sec"+b+"ret") },
		"LOGIN user":        func(b string) string { return "LOGIN " + b64("an"+b+"na") + " " + b64("secret") },
		"LOGIN password":    func(b string) string { return "LOGIN " + b64("anna") + " " + b64("sec"+b+"ret") },
		"XOAUTH2 user":      func(b string) string { return "XOAUTH2 " + xoauth2("an"+b+"na", "secret") },
		"XOAUTH2 token":     func(b string) string { return "XOAUTH2 " + xoauth2("anna", "sec"+b+"ret") },
		"OAUTHBEARER user":  func(b string) string { return "OAUTHBEARER " + oauthBearer("an"+b+"na", "secret") },
		"OAUTHBEARER token": func(b string) string { return "OAUTHBEARER " + oauthBearer("anna", "sec"+b+"ret") },
	}
	for name, d := range tokenDialogues {
		for _, bad := range []string{"\r\n", "\r", "\n", "\x00", "\x1b", "\x7f", "\t", "\r\nb NOOP\r\n"} {
			t.Run(fmt.Sprintf("%s %q", name, bad), func(t *testing.T) {
				inWorldOf(t, d.proto, tokenWorld(""), func(w *world) {
					w.p.o.FailureDelay = -1
					for field, message := range fields {
						parts := strings.Fields(message(bad))
						mech := parts[0]
						if name == "managesieve" {
							mech = `"` + mech + `"`
						}
						c := newPeer(w.l.dial())
						c.t = t
						for !strings.HasPrefix(c.line(), d.greeting) {
						}
						c.sendLine("%s%s%s", d.begin, mech, d.initial(parts[1]))
						l := c.line()
						for strings.HasPrefix(l, "+") || strings.HasPrefix(l, `"`) { // the second question, or the reason
							answer := ""
							if len(parts) == 3 {
								answer = parts[2]
							}
							c.sendLine("%s", d.answer(answer))
							l = c.line()
						}
						if !strings.Contains(l, "NO") && !strings.Contains(l, "BAD") && !strings.Contains(l, "-ERR") {
							t.Errorf("%s: %q", field, l)
						}
						c.sendLine("%s", map[string]string{"imap": "z NOOP", "pop3": "NOOP", "managesieve": "NOOP"}[name])
						c.expect(map[string]string{"imap": "z OK", "pop3": "-ERR Unknown", "managesieve": "OK"}[name])
						c.Close()
					}
					if name == "imap" {
						c := w.client()
						for _, cmd := range []string{lit("an"+bad+"na") + " secret", "anna " + lit("sec"+bad+"ret")} {
							c.send("a LOGIN " + cmd + "\r\n")
							c.expect("a NO [AUTHENTICATIONFAILED]")
						}
					}
					if name == "pop3" && !strings.ContainsAny(bad, "\r\n") {
						c := w.popClient()
						for _, cmds := range [][2]string{{"an" + bad + "na", "secret"}, {"anna", "sec" + bad + "ret"}} {
							c.sendLine("USER %s", cmds[0])
							c.expect("+OK")
							c.sendLine("PASS %s", cmds[1])
							c.expect("-ERR [AUTH]")
						}
					}
					if len(w.dir.lookups) > 0 || len(w.con.asked) > 0 {
						t.Errorf("looked up %q, asked stores %d times", w.dir.lookups, len(w.con.asked))
					}
				})
			})
		}
	}
}

// TestControlsInRecipients is the same for deliveries.
func TestControlsInRecipients(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		l := newPipeListener()
		go m.p.ServeLMTP(l)
		for _, bad := range []string{"\r", "\x00", "\x1b", "\x7f", "\t", "\u0085", "> X<"} {
			c := newPeer(l.dial())
			c.t = t
			c.expect("220")
			c.sendLine("LHLO x")
			for !strings.HasPrefix(c.line(), "250 ") {
			}
			c.sendLine("MAIL FROM:<a@example.org>")
			c.expect("250")
			c.sendLine("RCPT TO:<an%sna@example.org>", bad)
			c.expect("5")
			c.Close()
		}
		if len(m.dir.lookups) > 0 {
			t.Errorf("looked up %q", m.dir.lookups)
		}
	})
}

// TestCredentialFormsInEverySplit: all ways to write name and password, cut by
// the network anywhere.
func TestCredentialFormsInEverySplit(t *testing.T) {
	const pw = `p\w"d`
	forms := func(s string) map[string]string {
		return map[string]string{"quoted": `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`,
			"literal": fmt.Sprintf("{%d}\r\n%s", len(s), s), "literal+": fmt.Sprintf("{%d+}\r\n%s", len(s), s)}
	}
	users, passwords := forms("anna"), forms(pw)
	users["atom"] = "anna"
	for u, user := range users {
		for p, password := range passwords {
			t.Run(u+" "+p, func(t *testing.T) {
				inWorld(t, nil, func(w *world) {
					cmd := "a LOGIN " + user + " " + password + "\r\n"
					for cut := range len(cmd) {
						c := w.client()
						c.send(cmd[:cut])
						synctest.Wait()
						c.send(cmd[cut:])
						l := c.line()
						for strings.HasPrefix(l, "+ ") {
							l = c.line()
						}
						if !strings.HasPrefix(l, "a OK") {
							c.fail("cut at %d: %q", cut, l)
						}
						w.backend().Close()
						c.Close()
					}
				})
			})
		}
	}
}

// TestAnnouncedIsHonoured: each mechanism that is announced is begun.
func TestAnnouncedIsHonoured(t *testing.T) {
	for name, d := range tokenDialogues {
		inWorldOf(t, d.proto, tokenWorld(""), func(w *world) {
			c := newPeer(w.l.dial())
			c.t = t
			for !strings.HasPrefix(c.line(), d.greeting) {
			}
			var mechs []string
			for _, f := range c.announced(name) {
				if m, ok := strings.CutPrefix(f, "AUTH="); ok || name != "imap" {
					mechs = append(mechs, m)
				}
			}
			if len(mechs) != 4 {
				t.Errorf("%s announces %q", name, mechs)
			}
			for _, m := range mechs {
				if name == "managesieve" {
					m = `"` + m + `"`
				}
				c.sendLine("%s%s", d.begin, m)
				if l := c.line(); !strings.HasPrefix(l, "+ ") && !strings.HasPrefix(l, `"`) {
					t.Errorf("%s %s: %q", name, m, l)
				}
				c.sendLine("%s", d.answer("*"))
				c.line()
			}
		})
	}
}

// announced asks for what the connection is offered: capabilities of IMAP, SASL
// mechanisms of the others.
func (p *peer) announced(proto string) (list []string) {
	p.t.Helper()
	ask, end, key := "c CAPABILITY", "c OK", "* CAPABILITY "
	switch proto {
	case "pop3":
		ask, end, key = "CAPA", ".", "SASL "
	case "managesieve":
		ask, end, key = "CAPABILITY", "OK", `"SASL" "`
	}
	p.sendLine("%s", ask)
	for l := p.line(); !strings.HasPrefix(l, end); l = p.line() {
		if rest, ok := strings.CutPrefix(l, key); ok {
			list = strings.Fields(strings.Trim(rest, `"`))
		}
	}
	return list
}

// A store's part of a login, step by step: what it says first, and to each
// line it hears.
var storeSteps = map[string][]string{
	"imap":        {"* OK hi\r\n", "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n{tag} OK\r\n", "+ \r\n", "{tag} OK [CAPABILITY IMAP4rev1] in\r\n"},
	"pop3":        {"+OK hi\r\n", "+OK\r\n", "+OK in\r\n"},
	"managesieve": {"\"SIEVE\" \"fileinto\"\r\n\"SASL\" \"PLAIN\"\r\nOK\r\n", "OK\r\n"},
}

// playing is a store that says its first n steps, then it dies, or hangs.
func playing(steps []string, n int, hang bool) func(net.Conn) {
	return func(c net.Conn) {
		r, tag := bufio.NewReader(c), ""
		for i, s := range steps[:n] {
			if i > 0 {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if t, _, ok := strings.Cut(l, " "); ok {
					tag = t
				}
			}
			fmt.Fprint(c, strings.ReplaceAll(s, "{tag}", tag))
		}
		if n == len(steps) || hang {
			_, _ = io.Copy(io.Discard, r)
		}
	}
}

// inFarmWorld is a world whose stores are in a farm, behind Backends; the user
// passer's store, old at a, checks the password.
func inFarmWorld(t *testing.T, proto *protocol, hosts map[string]func(net.Conn), change func(*Options), run func(*world, *farm)) {
	t.Helper()
	f := newFarm(hosts)
	var b *Backends
	inWorldOf(t, proto, func(o *Options) {
		var err error
		if b, err = NewBackends(BackendsOptions{Dial: f.dial, Logger: o.Logger}); err != nil {
			t.Fatal(err)
		}
		st := testStores()
		st["old"] = &backend.Store{Name: "old", Type: backend.StoreDovecot, Address: "a", TLS: backend.TLSNone, TakesTokens: true}
		o.Connector, o.Stores, o.DialLMTP = b, st, b.DialLMTP
		if change != nil {
			change(o)
		}
	}, func(w *world) {
		defer f.wg.Wait()
		defer b.Close()
		run(w, f)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.p.Shutdown(ctx) // the stores end with their sessions
	})
}

// TestStoreDiesInEachState: whenever a store dies or hangs on the way to a
// session, the client hears "later", keeps its connection, and gets in on it
// when the store is back.
func TestStoreDiesInEachState(t *testing.T) {
	for name, d := range tokenDialogues {
		steps := storeSteps[name]
		for n := range len(steps) {
			for _, hang := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s after %d steps, hang %v", name, n, hang), func(t *testing.T) {
					inFarmWorld(t, d.proto, map[string]func(net.Conn){"a": playing(steps, n, hang)}, nil, func(w *world, f *farm) {
						diesThenReturns(w, f, name)
					})
				})
			}
		}
		t.Run(name+" refused", func(t *testing.T) {
			inFarmWorld(t, d.proto, map[string]func(net.Conn){}, nil, func(w *world, f *farm) { diesThenReturns(w, f, name) })
		})
	}
}

func diesThenReturns(w *world, f *farm, name string) {
	d := tokenDialogues[name]
	c := newPeer(w.l.dial())
	c.t = w.t
	for !strings.HasPrefix(c.line(), d.greeting) {
	}
	mech := "PLAIN"
	if name == "managesieve" {
		mech = `"PLAIN"`
	}
	c.sendLine("%s%s%s", d.begin, mech, d.initial(plain("", "passer", "secret")))
	c.expect(d.temp)
	f.set("a", playing(storeSteps[name], len(storeSteps[name]), false))
	time.Sleep(probeEvery + time.Second)
	c.sendLine("%s%s%s", d.begin, mech, d.initial(plain("", "passer", "secret")))
	c.expect(d.ok)
}

// TestStoreDiesBehindALogin: between commands, in an answer, at the goodbye.
func TestStoreDiesBehindALogin(t *testing.T) {
	words := map[string]struct{ cmd, half, quit, bye string }{
		"imap":        {"b NOOP", "* 1 EX", "z LOGOUT", "* BYE"},
		"pop3":        {"RETR 1", "+OK\r\nhal", "QUIT", "-ERR [SYS/TEMP]"},
		"managesieve": {"LISTSCRIPTS", "\"a", "LOGOUT", "BYE (TRYLATER)"},
	}
	for name, d := range tokenDialogues {
		x := words[name]
		for at, behind := range map[string]string{"between commands": "", "in an answer": x.cmd, "at the goodbye": x.quit} {
			t.Run(name+" "+at, func(t *testing.T) {
				inWorldOf(t, d.proto, nil, func(w *world) {
					c := newPeer(w.l.dial())
					c.t = t
					for !strings.HasPrefix(c.line(), d.greeting) {
					}
					mech := "PLAIN"
					if name == "managesieve" {
						mech = `"PLAIN"`
					}
					c.sendLine("%s%s%s", d.begin, mech, d.initial(plain("", "anna", "secret")))
					b := w.backend()
					c.expect(d.ok)
					if behind == "" {
						b.Close()
						c.expect(x.bye)
						c.end()
						return
					}
					c.sendLine("%s", behind)
					b.expect(behind)
					if behind == x.cmd {
						b.send(x.half)
					}
					b.Close()
					rest, err := io.ReadAll(c.r)
					if err != nil || behind == x.cmd && !strings.HasPrefix(string(rest), x.half) {
						t.Errorf("the client hears %q, %v", rest, err)
					}
				})
			})
		}
	}
}

// TestGoodbyeArrives: the answer to the last command reaches the client, though
// both sides hang up at once behind it.
func TestGoodbyeArrives(t *testing.T) {
	for name, x := range map[string]struct{ quit, answer string }{
		"imap": {"z LOGOUT", "* BYE bye\r\nz OK out\r\n"}, "pop3": {"QUIT", "+OK out\r\n"}, "managesieve": {"LOGOUT", "OK \"out\"\r\n"},
	} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the client hangs up first: %v", name, half), func(t *testing.T) {
				d := tokenDialogues[name]
				inWorldOf(t, d.proto, nil, func(w *world) {
					c := newPeer(w.l.dial())
					c.t = t
					for !strings.HasPrefix(c.line(), d.greeting) {
					}
					mech := "PLAIN"
					if name == "managesieve" {
						mech = `"PLAIN"`
					}
					c.sendLine("%s%s%s", d.begin, mech, d.initial(plain("", "anna", "secret")))
					b := w.backend()
					c.expect(d.ok)
					c.sendLine("%s", x.quit)
					if half {
						c.Conn.(interface{ CloseWrite() error }).CloseWrite()
					}
					b.expect(x.quit)
					b.send(x.answer)
					b.Close()
					if got, err := io.ReadAll(c.r); string(got) != x.answer || err != nil {
						t.Errorf("got %q, %v", got, err)
					}
				})
			})
		}
	}
}

// The same for deliveries: what a store's LMTP service says, step by step.
var lmtpSteps = []string{"220 hi\r\n", "250 hi\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 filed\r\n"}

func playingLMTP(n int) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for i, s := range lmtpSteps[:n] {
			for last := ""; i > 0 && (last == "" || i == 5 && last != ".\r\n"); {
				var err error
				if last, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			fmt.Fprint(c, s)
		}
		if n == len(lmtpSteps) {
			_, _ = io.Copy(io.Discard, r)
		}
	}
}

func TestStoreDiesInEachStateOfADelivery(t *testing.T) {
	for n := range len(lmtpSteps) + 1 {
		t.Run(fmt.Sprintf("after %d steps", n), func(t *testing.T) {
			hosts := map[string]func(net.Conn){}
			if n > 0 {
				hosts["a"] = playingLMTP(n - 1)
			}
			inFarmWorld(t, &imap, hosts, nil, func(w *world, f *farm) {
				l := newPipeListener()
				go w.p.ServeLMTP(l)
				w.dir.entries["passer@example.org"] = w.dir.entries["passer"]
				c := newPeer(l.dial())
				c.t = t
				c.expect("220")
				c.sendLine("LHLO x")
				for !strings.HasPrefix(c.line(), "250 ") {
				}
				deliver := func(want string) {
					t.Helper()
					for _, l := range []string{"MAIL FROM:<a@example.org>", "RCPT TO:<passer@example.org>"} {
						c.sendLine("%s", l)
						c.expect("250")
					}
					c.sendLine("DATA")
					c.expect("354")
					c.send("Subject: x\r\n\r\nx\r\n.\r\n")
					c.expect(want)
				}
				deliver("451 4.3.0")
				f.set("a", playingLMTP(len(lmtpSteps)))
				time.Sleep(probeEvery + time.Second)
				deliver("250")
				c.Close()
			})
		})
	}
}

// TestStoreTextIsNotShown: what a store says of a login is for the log alone.
func TestStoreTextIsNotShown(t *testing.T) {
	const told = "passer of host17 is gone"
	refusals := map[string][]string{
		"imap":        {"{tag} NO %s", "{tag} NO [AUTHENTICATIONFAILED] %s", "{tag} NO [UNAVAILABLE] %s", "{tag} BAD %s", "* BYE %s", "{tag} NO [REFERRAL imap://passer@evil/] %s"},
		"pop3":        {"-ERR %s", "-ERR [AUTH] %s", "-ERR [SYS/TEMP] %s", "-ERR [IN-USE] %s", "-ERR [REFERRAL pop://passer@evil/] %s"},
		"managesieve": {"NO \"%s\"", "NO (TRYLATER) \"%s\"", "BYE \"%s\"", "NO (REFERRAL \"sieve://evil\") \"%s\"", "BYE (REFERRAL \"sieve://evil\") \"%s\""},
	}
	for name, list := range refusals {
		for _, r := range list {
			t.Run(name+" "+r, func(t *testing.T) {
				d, steps := tokenDialogues[name], storeSteps[name]
				steps = append(append([]string{}, steps[:len(steps)-1]...), fmt.Sprintf(r, told)+"\r\n")
				inFarmWorld(t, d.proto, map[string]func(net.Conn){"a": playing(steps, len(steps), false)}, nil, func(w *world, f *farm) {
					c := newPeer(w.l.dial())
					c.t = t
					for !strings.HasPrefix(c.line(), d.greeting) {
					}
					mech := "PLAIN"
					if name == "managesieve" {
						mech = `"PLAIN"`
					}
					c.sendLine("%s%s%s", d.begin, mech, d.initial(plain("", "passer", "secret")))
					if l := c.line(); strings.Contains(l, "host17") || strings.Contains(l, "evil") || strings.Contains(l, "REFERRAL") {
						t.Errorf("the client hears %q", l)
					}
					if strings.Contains(f.dialled(), "evil") {
						t.Error("the referral was followed")
					}
				})
			})
		}
	}
}

// TestLMTPSTARTTLSInjection: what comes in clear behind STARTTLS is not heard.
func TestLMTPSTARTTLSInjection(t *testing.T) {
	ca := mailtest.NewCA(t)
	_, _, p := onSockets(t, Options{TLS: ca.ServerConfig(t)}, false)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go p.ServeLMTP(l)
	c := dialPeer(t, l.Addr().String())
	c.expect("220")
	c.sendLine("LHLO x")
	for !strings.HasPrefix(c.line(), "250 ") {
	}
	c.send("STARTTLS\r\nLHLO evil\r\nMAIL FROM:<evil@example.org>\r\n")
	c.expect("220")
	if err := c.overTLS(ca.Client()); err == nil { // else the connection is over: good as well
		c.sendLine("LHLO x")
		for !strings.HasPrefix(c.line(), "250 ") {
		}
		c.sendLine("RCPT TO:<anna>")
		c.expect("50")
	}
}

// TestPOP3NameIsForgottenBySTLS: a name that came in clear is nobody's.
func TestPOP3NameIsForgottenBySTLS(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, _, _ := onSocketsOf(t, &pop3, Options{TLS: ca.ServerConfig(t)}, false)
	c := dialPeer(t, addr)
	c.expect("+OK")
	c.sendLine("USER anna")
	c.expect("+OK")
	c.sendLine("STLS")
	c.expect("+OK")
	if err := c.overTLS(ca.Client()); err != nil {
		t.Fatal(err)
	}
	c.sendLine("PASS secret")
	c.expect("-ERR No user name was given")
}

// TestOldTLSIsRefused: TLS 1.1 and older on no listener.
func TestOldTLSIsRefused(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, _, _ := onSockets(t, Options{TLS: ca.ServerConfig(t)}, true)
	c := dialPeer(t, addr)
	cfg := ca.Client()
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if err := c.overTLS(cfg); err == nil {
		t.Error("TLS 1.1 is taken")
	}
}

// syncBuffer is a log that many write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestNoSecretIsLogged: marked secrets go through every way to log in, right
// and wrong, at a store that repeats what it hears, at the lowest log level.
func TestNoSecretIsLogged(t *testing.T) {
	const mark = "t4inted"
	echo := func(name string) func(net.Conn) {
		return func(c net.Conn) {
			steps := storeSteps[name]
			r := bufio.NewReader(c)
			fmt.Fprint(c, steps[0])
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				tag, rest, _ := strings.Cut(strings.TrimRight(l, "\r\n"), " ")
				switch {
				case strings.HasPrefix(rest, "CAPABILITY"):
					fmt.Fprintf(c, "* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\n%s OK\r\n", tag)
				case strings.HasPrefix(l, "USER"):
					fmt.Fprint(c, "+OK\r\n")
				case name == "imap":
					fmt.Fprintf(c, "%s NO you say %s\r\n", tag, rest)
				case name == "pop3":
					fmt.Fprintf(c, "-ERR you say %s\r\n", rest)
				default:
					fmt.Fprintf(c, "NO \"you say %s\"\r\n", strings.ReplaceAll(rest, `"`, ""))
				}
			}
		}
	}
	for name, d := range tokenDialogues {
		t.Run(name, func(t *testing.T) {
			log := &syncBuffer{}
			var shown []string
			inFarmWorld(t, d.proto, map[string]func(net.Conn){"a": echo(name)}, func(o *Options) {
				o.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				o.Connector.(*Backends).o.Logger = o.Logger
				o.Tokens.Offer, o.FailureDelay = true, -1
			}, func(w *world, _ *farm) {
				for _, user := range []string{"passer", "anna", "nemo"} {
					for _, m := range [][]string{
						{"PLAIN", plain("", user, mark)}, {"PLAIN", plain(mark, user, mark)}, {"LOGIN", b64(user), b64(mark)}, {"PLAIN", plain("", user, mark+"\r\n")},
						{"XOAUTH2", xoauth2(user, mark)}, {"OAUTHBEARER", oauthBearer(user, mark)}, {"OAUTHBEARER", oauthBearer("", "e30."+mark+".x")},
						{"XOAUTH2", b64("user=" + user + "\x01auth=Bearer " + mark)}, {"GSSAPI", b64(mark)},
					} {
						c := newPeer(w.l.dial())
						c.t = t
						for !strings.HasPrefix(c.line(), d.greeting) {
						}
						mech := m[0]
						if name == "managesieve" {
							mech = `"` + mech + `"`
						}
						c.sendLine("%s%s%s", d.begin, mech, d.initial(m[1]))
						l := c.line()
						for strings.HasPrefix(l, "+ ") || strings.HasPrefix(l, `"`) {
							shown = append(shown, l)
							c.sendLine("%s", d.answer(append(m, "")[2]))
							l = c.line()
						}
						shown = append(shown, l)
						c.Close()
					}
					if name == "imap" {
						c := w.client()
						c.sendLine("a LOGIN %s %s", user, mark)
						shown = append(shown, c.line())
						c.Close()
					}
				}
				sessions, err := json.Marshal(w.p.Sessions(Match{}))
				if err != nil {
					t.Fatal(err)
				}
				shown = append(shown, string(sessions), fmt.Sprintf("%+v %#v", w.p.o.Stores, backend.Login{Secret: mark}))
			})
			text := log.String()
			if !strings.Contains(text, "login denied") || !strings.Contains(text, "you say") {
				t.Fatalf("the log has not what the store said:\n%s", text)
			}
			for _, s := range append(shown, text) {
				for _, secret := range []string{mark, strings.TrimRight(b64(mark), "="), plain("", "passer", mark), xoauth2("passer", mark)} {
					if i := strings.Index(s, secret); i >= 0 {
						t.Errorf("%q is in %q", secret, s[max(0, i-200):min(len(s), i+100)])
					}
				}
			}
		})
	}
}

// muteDirectory answers nothing until it is told to stop.
type muteDirectory struct{ directory }

func (*muteDirectory) Lookup(ctx context.Context, _ string) (backend.Entry, error) {
	<-ctx.Done()
	return backend.Entry{}, backend.Errorf(backend.KindUnavailable, "", "%w", ctx.Err())
}

// TestMuteDirectoryIsAnswered: a directory that hangs costs a client some
// seconds, and it is told to come back.
func TestMuteDirectoryIsAnswered(t *testing.T) {
	inWorld(t, func(o *Options) { o.Directory = &muteDirectory{} }, func(w *world) {
		begin := time.Now()
		c := w.client()
		c.sendLine("a LOGIN anna secret")
		c.expect("a NO [UNAVAILABLE]")
		if d := time.Since(begin); d > lookupLimit {
			t.Errorf("after %s", d)
		}
	})
}

// TestClientsDoNotSayWhoTheyAre: what only a trusted balancer may say changes
// nothing when a client says it.
func TestClientsDoNotSayWhoTheyAre(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.client()
		c.sendLine(`a ID ("x-originating-ip" "192.0.2.99" "x-originating-port" "7" "x-session-id" "mine")`)
		c.expect("* ID (\"name\" \"mailferry\")")
		c.expect("a OK")
		c.sendLine("b XCLIENT ADDR=192.0.2.99")
		c.expect("b BAD")
		c.sendLine("c LOGIN anna secret")
		w.backend()
		c.expect("c OK")
		if got := w.con.asked[0]; got.Client.String() != "pipe" || got.Session == "mine" {
			t.Errorf("believed: %v, %s", got.Client, got.Session)
		}
	})
	inPOP3(t, nil, func(w *world) {
		c := w.popClient()
		c.sendLine("XCLIENT ADDR=192.0.2.99")
		c.expect("-ERR")
	})
}

// TestLMTPBounds: lines have a bound before they have a meaning.
func TestLMTPBounds(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		l := newPipeListener()
		go m.p.ServeLMTP(l)
		c := newPeer(l.dial())
		c.t = t
		c.expect("220")
		go func() { _, _ = io.Copy(c.Conn, io.LimitReader(endless{}, 1<<20)) }()
		c.expect("5")
		c.Close()
		if len(m.dir.lookups) > 0 {
			t.Errorf("looked up %q", m.dir.lookups)
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// addressed is a connection from an address of our choice.
type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }

// TestSilentHandshakes: a client that says nothing where TLS, or a balancer's
// header, is to begin is sent away in time.
func TestSilentHandshakes(t *testing.T) {
	cfg := mailtest.NewCA(t).ServerConfig(t)
	balancer := netip.MustParsePrefix("192.0.2.0/24")
	for name, tt := range map[string]struct {
		implicit bool
		from     string
		say      string
		after    time.Duration
	}{
		"implicit TLS": {true, "198.51.100.1", "", 10 * time.Second}, "a slow hello": {true, "198.51.100.1", "\x16\x03\x01", 10 * time.Second},
		"STARTTLS": {false, "198.51.100.1", "a STARTTLS\r\n", 10 * time.Second}, "a balancer": {false, "192.0.2.1", "", headerLimit}, "a slow header": {true, "192.0.2.1", "PROX", headerLimit},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(o *Options) { o.TLS, o.Balancers = cfg, []netip.Prefix{balancer} }, func(w *world) {
				begin := time.Now()
				here, there := line.Pipe()
				done := make(chan struct{})
				go func() {
					defer close(done)
					w.p.handle(addressed{there, &net.TCPAddr{IP: net.ParseIP(tt.from), Port: 1}}, &imap, tt.implicit, func() {})
				}()
				if _, err := here.Write([]byte(tt.say)); err != nil {
					t.Fatal(err)
				}
				<-done
				if took := time.Since(begin); took != tt.after {
					t.Errorf("after %s", took)
				}
				here.Close()
			})
		})
	}
}
