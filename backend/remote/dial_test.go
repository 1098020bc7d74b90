package remote

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"testing"
	"time"

	"mailferry/backend"
)

func dialTest(t *testing.T, store *backend.Store) (*IMAPConn, error) {
	t.Helper()
	c, err := DialIMAP(context.Background(), Target{
		Store: store, User: "anna@example.org", Password: "pass word", Timeout: 2 * time.Second,
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestDialLoginModes(t *testing.T) {
	tests := []struct {
		name  string
		login backend.Login
		caps  string
		want  string // the command as the server sees it
	}{
		{"authzid with SASL-IR", backend.Login{Mode: backend.LoginAuthzid, User: "adm", Secret: "s"},
			"AUTH=PLAIN SASL-IR", "AUTHENTICATE PLAIN " + plain64("anna@example.org\x00adm\x00s")},
		{"master", backend.Login{Mode: backend.LoginMaster, User: "adm", Secret: "s"},
			"AUTH=PLAIN SASL-IR", "AUTHENTICATE PLAIN " + plain64("\x00anna@example.org*adm\x00s")},
		{"master by LOGIN", backend.Login{Mode: backend.LoginMaster, User: "adm", Secret: `a"b\c`},
			"", `LOGIN "anna@example.org*adm" "a\"b\\c"`},
		{"user by LOGIN", backend.Login{}, "", `LOGIN "anna@example.org" "pass word"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send("* OK [CAPABILITY IMAP4rev1 " + tt.caps + "] hi")
				tag := s.want(tt.want)
				s.send("* CAPABILITY IMAP4rev1 IDLE", tag+" OK in", "* 1 EXISTS")
			})
			store.Login = tt.login
			c, err := dialTest(t, store)
			if err != nil {
				t.Fatal(err)
			}
			if !c.Has("idle") || c.Has("SASL-IR") {
				t.Errorf("capabilities after login: %q", c.Caps())
			}
		})
	}
}

func plain64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestDialWithoutInitialResponse(t *testing.T) {
	store := serve(t, func(s *script) {
		s.send("* OK hi")
		s.ok("CAPABILITY", "* CAPABILITY IMAP4rev1 AUTH=PLAIN")
		tag := s.want("AUTHENTICATE PLAIN")
		s.send("+ ")
		if got := s.line(); got != plain64("\x00anna@example.org\x00pass word") {
			t.Errorf("response %q", got)
		}
		s.send(tag + " OK in")
		s.ok("CAPABILITY", "* CAPABILITY IMAP4rev1 QRESYNC")
	})
	c, err := dialTest(t, store)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Has("QRESYNC") {
		t.Errorf("capabilities %q", c.Caps())
	}
}

func TestDialLiteralPassword(t *testing.T) {
	store := serve(t, func(s *script) {
		s.send("* OK [CAPABILITY IMAP4rev1] hi")
		tag := s.want(`LOGIN "anna@example.org" {5}`)
		s.send("+ go on")
		if got := s.line(); got != "grü!" {
			t.Errorf("literal %q", got)
		}
		s.send(tag + " OK [CAPABILITY IMAP4rev1] in")
	})
	_, err := DialIMAP(context.Background(), Target{Store: store, User: "anna@example.org", Password: "grü!"})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDialRefusals(t *testing.T) {
	login := func(answer string) func(*script) {
		return func(s *script) {
			s.send("* OK [CAPABILITY IMAP4rev1] hi")
			s.send(s.want("LOGIN") + " " + answer)
		}
	}
	greet := func(line string) func(*script) {
		return func(s *script) { s.send(line) }
	}
	tests := []struct {
		name string
		play func(*script)
		want backend.Kind
	}{
		{"wrong password", login("NO [AUTHENTICATIONFAILED] no"), backend.KindAuthentication},
		{"NO without a code", login("NO no"), backend.KindAuthentication},
		{"BAD", login("BAD what"), backend.KindUnavailable},
		{"UNAVAILABLE", login("NO [UNAVAILABLE] later"), backend.KindTemporary},
		{"INUSE", login("NO [INUSE] locked"), backend.KindTemporary},
		{"LIMIT", login("NO [LIMIT] too many"), backend.KindTemporary},
		{"BYE greeting", greet("* BYE shutting down"), backend.KindUnavailable},
		{"BYE UNAVAILABLE", greet("* BYE [UNAVAILABLE] soon"), backend.KindTemporary},
		{"PREAUTH", greet("* PREAUTH welcome"), backend.KindUnavailable},
		{"rubbish", greet("220 smtp.example.org ESMTP"), backend.KindUnavailable},
		{"empty line", greet(""), backend.KindUnavailable},
		{"hang-up", func(*script) {}, backend.KindUnavailable},
		{"hang-up with BYE at login", func(s *script) {
			s.send("* OK [CAPABILITY IMAP4rev1] hi")
			s.want("LOGIN")
			s.send("* BYE [LIMIT] too many connections")
		}, backend.KindTemporary},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := dialTest(t, serve(t, tt.play)); !backend.IsKind(err, tt.want) {
				t.Errorf("error %v, want kind %v", err, tt.want)
			}
		})
	}
}

func TestDialRefusesControls(t *testing.T) {
	store := serve(t, func(s *script) {
		s.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi")
		if got := s.line(); got != "" {
			t.Errorf("server got %q", got)
		}
	})
	for _, pw := range []backend.Secret{"a\x00b", "a\r\nmf9 LOGOUT", "a\tb"} {
		_, err := DialIMAP(context.Background(), Target{Store: store, User: "anna", Password: pw})
		if !backend.IsKind(err, backend.KindAuthentication) {
			t.Errorf("password %q: %v", pw.Reveal(), err)
		}
	}
}

func TestDialStartTLS(t *testing.T) {
	cert, pool := certificate(t)
	play := func(behind string) func(*script) {
		return func(s *script) {
			s.send("* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN SASL-IR] hi")
			tag := s.want("STARTTLS")
			_, _ = io.WriteString(s.conn, tag+" OK go\r\n"+behind)
			if behind != "" {
				return
			}
			s.startTLS(cert)
			if s.line() == "" {
				return // handshake refused
			}
			s.send("* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR", "mf2 OK done")
			s.send(s.want("AUTHENTICATE PLAIN") + " OK [CAPABILITY IMAP4rev1 IDLE] in")
		}
	}
	t.Run("verified", func(t *testing.T) {
		store := serve(t, play(""))
		store.TLS, store.TLSConfig = backend.TLSStartTLS, &tls.Config{RootCAs: pool}
		c, err := dialTest(t, store)
		if err != nil {
			t.Fatal(err)
		}
		conn, _, _ := c.Detach()
		if _, ok := conn.(*tls.Conn); !ok {
			t.Errorf("connection is a %T", conn)
		}
	})
	t.Run("unknown authority", func(t *testing.T) {
		store := serve(t, play(""))
		store.TLS = backend.TLSStartTLS
		if _, err := dialTest(t, store); !backend.IsKind(err, backend.KindUnavailable) {
			t.Error(err)
		}
	})
	t.Run("injected behind the OK", func(t *testing.T) {
		store := serve(t, play("* CAPABILITY AUTH=EVIL\r\n"))
		store.TLS, store.TLSConfig = "", &tls.Config{RootCAs: pool}
		if _, err := dialTest(t, store); !backend.IsKind(err, backend.KindUnavailable) {
			t.Error(err)
		}
	})
	t.Run("not offered", func(t *testing.T) {
		store := serve(t, func(s *script) {
			s.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi")
			if got := s.line(); got != "" {
				t.Errorf("server got %q", got)
			}
		})
		store.TLS = ""
		if _, err := dialTest(t, store); !backend.IsKind(err, backend.KindUnavailable) {
			t.Error(err)
		}
	})
}

func TestDialHonoursContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("shut down")
	store := serve(t, func(s *script) {
		cancel(why) // and no greeting
		s.line()
	})
	_, err := DialIMAP(ctx, Target{Store: store, User: "anna", Password: "x", Timeout: time.Minute})
	if !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}

func TestDialDetach(t *testing.T) {
	store := serve(t, func(s *script) {
		s.send("* OK [CAPABILITY IMAP4rev1] hi")
		tag := s.want("LOGIN")
		_, _ = io.WriteString(s.conn, tag+" OK [CAPABILITY IMAP4rev1] in\r\n* OK still")
		_, _ = io.WriteString(s.conn, " here\r\n")
	})
	c, err := dialTest(t, store)
	if err != nil {
		t.Fatal(err)
	}
	conn, buffered, _ := c.Detach()
	rest, err := io.ReadAll(conn)
	if got := string(buffered) + string(rest); err != nil || got != "* OK still here\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}
