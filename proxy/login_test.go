package proxy

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

func plain(authzid, user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(authzid + "\x00" + user + "\x00" + password))
}

// TestLoginCredentialsArriveExactly: all ways to write names and passwords.
func TestLoginCredentialsArriveExactly(t *testing.T) {
	const pw = `p\w"d`
	forms := map[string]string{
		"quoted":            `a LOGIN "anna" "p\\w\"d"`,
		"literals":          "a LOGIN {4}\r\nanna {5}\r\n" + pw,
		"literals+":         "a LOGIN {4+}\r\nanna {5+}\r\n" + pw,
		"atom and literal":  "a LOGIN anna {5}\r\n" + pw,
		"literal and quote": "a LOGIN {4+}\r\nanna \"p\\\\w\\\"d\"",
		"plain at once":     "a AUTHENTICATE PLAIN " + plain("", "anna", pw),
		"plain authzid":     "a AUTHENTICATE PLAIN " + plain("anna", "anna", pw),
		"plain lower case":  "a authenticate plain " + plain("", "anna", pw),
		"plain in steps":    "a AUTHENTICATE PLAIN\r\n" + plain("", "anna", pw),
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				c := w.client()
				for _, l := range strings.SplitAfter(form+"\r\n", "\r\n") {
					c.send(l)
					synctest.Wait() // each line on its own
				}
				w.backend()
				l := c.line()
				for strings.HasPrefix(l, "+ ") {
					l = c.line()
				}
				if !strings.HasPrefix(l, "a OK [CAPABILITY IMAP4rev1 ") {
					c.fail("got %q", l)
				}
				if got := w.con.asked[0]; got.Route.User != "anna" || got.Route.Store.Name != "old" || got.CheckPassword {
					t.Errorf("asked for %+v", got)
				}
			})
		})
	}
}

func TestLoginOutcomes(t *testing.T) {
	tests := []struct {
		name, user, password string
		prepare              func(*world)
		want                 string
		nobody               int
	}{
		{"wrong password", "anna", "wrong", nil, "NO [AUTHENTICATIONFAILED] Authentication failed", 0},
		{"unknown user", "nemo", "secret", nil, "NO [AUTHENTICATIONFAILED] Authentication failed", 1},
		{"disabled user", "otto", "secret", nil, "NO [AUTHENTICATIONFAILED] Authentication failed", 1},
		{"wrong at the store", "passer", "wrong", nil, "NO [AUTHENTICATIONFAILED] Authentication failed", 0},
		{"directory away", "anna", "secret", func(w *world) { w.dir.err = backend.NewError(backend.KindUnavailable, "x") }, "NO [UNAVAILABLE]", 0},
		{"directory away for unknown", "nemo", "secret", func(w *world) { w.dir.err = backend.NewError(backend.KindUnavailable, "x") }, "NO [UNAVAILABLE]", 0},
		{"two entries", "anna", "secret", func(w *world) { w.dir.err = backend.NewError(backend.KindConflict, "x") }, "NO [UNAVAILABLE]", 0},
		{"directory cannot check", "anna", "down", nil, "NO [UNAVAILABLE]", 0},
		{"table behind", "anna", "secret", func(w *world) { w.ps.err = backend.NewError(backend.KindUnavailable, "x") }, "NO [UNAVAILABLE]", 0},
		{"no store", "nostore", "secret", nil, "NO [UNAVAILABLE]", 0},
		{"store not configured", "badstore", "secret", nil, "NO [UNAVAILABLE]", 0},
		{"store down", "anna", "secret", func(w *world) { w.con.err = backend.NewError(backend.KindUnavailable, "x") }, "NO [UNAVAILABLE]", 0},
		{"admin refused", "anna", "secret", func(w *world) { w.con.err = backend.NewError(backend.KindAuthentication, "x") }, "NO [UNAVAILABLE]", 0},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				if tc.prepare != nil {
					tc.prepare(w)
				}
				c := w.client()
				c.sendLine("a LOGIN %s %s", tc.user, tc.password)
				c.expect("a " + tc.want)
				if w.dir.nobody != tc.nobody {
					t.Errorf("%d dummy verifications, want %d", w.dir.nobody, tc.nobody)
				}
				// The connection survives.
				w.dir.err, w.ps.err = nil, nil
				w.con.fail(nil)
				c.sendLine("b LOGIN anna secret")
				c.expect("b OK [CAPABILITY")
			})
		})
	}
}

// TestLoginWithoutADirectoryCheckIsCheckedByTheStore: nobody may get in on the
// proxy's delegated login alone.
func TestLoginWithoutADirectoryCheckIsCheckedByTheStore(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.login("passer")
		if !w.con.asked[0].CheckPassword || w.con.asked[0].Password != "secret" {
			t.Error("the store was not asked to check the password")
		}
	})
}

func TestLoginControlCharactersNeverReachTheDirectory(t *testing.T) {
	for name, msg := range map[string]string{
		"CR LF in user": plain("", "anna\r\nx", "secret"), "CR LF in password": plain("", "anna", "secret\r\nx"),
		"tab": plain("", "anna\t", "secret"), "DEL": plain("", "anna\x7f", "secret"),
		"escape in password": plain("", "anna", "\x1b"), "other identity": plain("bernd", "anna", "secret"),
		"bad UTF-8": plain("", "anna\xff", "secret"),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				c := w.client()
				c.sendLine("a AUTHENTICATE PLAIN %s", msg)
				c.expect("a NO [AUTHENTICATIONFAILED] Authentication failed")
				if len(w.dir.lookups) > 0 {
					t.Errorf("looked up %q", w.dir.lookups)
				}
			})
		})
	}
	inWorld(t, nil, func(w *world) {
		c := w.client()
		c.send("a LOGIN {8+}\r\nanna\r\nbc secret\r\n")
		c.expect("a NO [AUTHENTICATIONFAILED]")
		c.sendLine("b AUTHENTICATE PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00an\x00na\x00secret")))
		c.expect("b BAD")
	})
}

func TestLoginSameTimeForUnknownAndWrong(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		var took []time.Duration
		c := w.client()
		for _, cmd := range []string{"a LOGIN nemo secret", "a LOGIN anna wrong"} {
			begin := time.Now()
			c.sendLine("%s", cmd)
			c.expect("a NO")
			took = append(took, time.Since(begin))
		}
		if took[0] != took[1] {
			t.Errorf("unknown %v, wrong %v", took[0], took[1])
		}
	})
}

func TestLoginThreeFailures(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.client()
		for range 3 {
			c.sendLine("a LOGIN anna wrong")
			c.expect("a NO")
		}
		c.expect("* BYE")
		c.end()
	})
}

func TestLoginTemporaryTroubleIsNoFailure(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.con.err = backend.NewError(backend.KindUnavailable, "x")
		c := w.client()
		for range 5 {
			c.sendLine("a LOGIN anna secret")
			c.expect("a NO [UNAVAILABLE]")
		}
		w.con.fail(nil)
		c.sendLine("b LOGIN anna secret")
		c.expect("b OK")
	})
}

func TestBeforeLoginCommands(t *testing.T) {
	tests := map[string][]string{
		"a CAPABILITY":                          {"* CAPABILITY IMAP4rev1 LITERAL- SASL-IR ID AUTH=PLAIN", "a OK"},
		"a NOOP":                                {"a OK"},
		"a noop":                                {"a OK"},
		"a ID NIL":                              {"* ID (", "a OK"},
		"a ID (\"name\" \"x\" \"version\" NIL)": {"* ID (", "a OK"},
		"a ID (\"name\" {3+}\r\nabc)":           {"* ID (", "a OK"},
		"a LOGOUT":                              {"* BYE", "a OK"},
		"a STARTTLS":                            {"a BAD"},
		"a SELECT INBOX":                        {"a BAD"},
		"a RESUME NIL ()":                       {"a BAD"},
		"a":                                     {"a BAD"},
		"":                                      {"* BAD"},
		"a LOGIN anna":                          {"a BAD"},
		"a LOGIN anna secret more":              {"a BAD"},
		"a LOGIN anna {104857600}":              {"a BAD [TOOBIG]"},
		"a LOGIN anna {8193}":                   {"a BAD [TOOBIG]"},
		"a AUTHENTICATE PLAIN !!!":              {"a BAD"},
		"a AUTHENTICATE PLAIN =":                {"a BAD"},
		"a AUTHENTICATE PLAIN\r\n*":             {"+ ", "a BAD"},
		"a AUTHENTICATE GSSAPI":                 {"a NO"},
		"a AUTHENTICATE":                        {"a BAD"},
		"a ID (" + strings.Repeat("(", 50):      {"a BAD"},
	}
	for cmd, want := range tests {
		t.Run(fmt.Sprintf("%.30q", cmd), func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				c := w.client()
				c.send(cmd + "\r\n")
				for _, l := range want {
					c.expect(l)
				}
				if strings.HasPrefix(cmd, "a LOGOUT") {
					c.end()
					return
				}
				c.sendLine("z NOOP")
				c.expect("z OK")
			})
		})
	}
}

func TestBeforeLoginBounds(t *testing.T) {
	t.Run("endless line", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c := w.client()
			c.send("a " + strings.Repeat("x", 13000))
			c.expect("* BYE")
			c.end()
		})
	})
	t.Run("20 commands", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c := w.client()
			for range maxCommands {
				c.sendLine("a NOOP")
				c.expect("a OK")
			}
			c.expect("* BYE")
			c.end()
		})
	})
	t.Run("30 s of silence", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c := w.client()
			begin := time.Now()
			c.expect("* BYE")
			c.end()
			if d := time.Since(begin); d != 30*time.Second {
				t.Errorf("after %v", d)
			}
		})
	})
	t.Run("60 s in all", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c := w.client()
			begin := time.Now()
			for range 2 {
				time.Sleep(25 * time.Second) // fake time
				c.sendLine("a NOOP")
				c.expect("a OK")
			}
			c.expect("* BYE")
			c.end()
			if d := time.Since(begin); d != 60*time.Second {
				t.Errorf("after %v", d)
			}
		})
	})
	t.Run("an octet now and then", func(t *testing.T) {
		inWorld(t, nil, func(w *world) {
			c := w.client()
			for range 7 {
				if _, err := c.Write([]byte("x")); err != nil {
					break
				}
				time.Sleep(10 * time.Second) // fake time
			}
			c.expect("* BYE")
			c.end()
		})
	})
}

func TestPipelinedCommandsReachTheStoreInOrder(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c := w.client()
		w.con.answer = make(chan struct{})
		c.send("a LOGIN anna secret\r\nb NOOP\r\nc LIST \"\" {1+}\r\n*\r\nd STATUS INBOX (MESSAGES)\r\n")
		synctest.Wait()
		c.silent() // nothing is answered before the login
		close(w.con.answer)
		b := w.backend()
		for _, l := range []string{"b NOOP", `c LIST "" {1+}`, "*", "d STATUS"} {
			b.expect(l)
		}
		b.send("b OK done\r\nc OK done\r\nd OK done\r\n")
		c.expect("a OK [CAPABILITY")
		for _, l := range []string{"b OK", "c OK", "d OK"} {
			c.expect(l)
		}
	})
}

func TestCleartextLogin(t *testing.T) {
	never := func(o *Options) { o.CleartextLogin = CleartextNever }
	inWorld(t, never, func(w *world) {
		c := newPeer(w.l.dial())
		c.t = t
		if l := c.line(); !strings.Contains(l, "LOGINDISABLED") || strings.Contains(l, "AUTH=") {
			t.Errorf("greeting %q", l)
		}
		for _, cmd := range []string{"a LOGIN anna secret", "a AUTHENTICATE PLAIN", "a AUTHENTICATE PLAIN " + plain("", "anna", "secret")} {
			c.sendLine("%s", cmd)
			c.expect("a NO [PRIVACYREQUIRED]")
		}
		if len(w.dir.lookups) > 0 {
			t.Errorf("looked up %q", w.dir.lookups)
		}
	})
}
