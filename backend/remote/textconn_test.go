package remote

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
)

// dialTextTest logs in as anna and reads what the store says behind that.
func dialTextTest(t *testing.T, dial func(context.Context, Target) (*TextConn, error), store *backend.Store) (*TextConn, error) {
	t.Helper()
	c, err := dial(t.Context(), Target{Store: store, User: "anna", Password: "pass word", Timeout: 2 * time.Second})
	if err != nil {
		return nil, err
	}
	conn, buffered := c.Detach()
	rest, _ := io.ReadAll(conn)
	conn.Close()
	if got := string(buffered) + string(rest); got != "behind\r\n" {
		t.Errorf("behind the login came %q", got)
	}
	return c, nil
}

// exact reads a line that has to be this one.
func (s *script) exact(want string) {
	if got := s.line(); got != want {
		s.t.Errorf("server got %q, want %q", got, want)
	}
}

func TestPOP3LoginModes(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, tt := range map[string]struct {
		login backend.Login
		caps  []string
		want  []string // lines, each answered by "+OK" or what stands behind a bar
	}{
		"authzid": {backend.Login{Mode: backend.LoginAuthzid, User: "adm", Secret: "s"}, []string{"SASL LOGIN PLAIN"},
			[]string{"AUTH PLAIN " + plain64("anna\x00adm\x00s")}},
		"master": {backend.Login{Mode: backend.LoginMaster, User: "adm", Secret: "s"}, nil,
			[]string{"USER anna*adm", "PASS s"}},
		"master with a space": {backend.Login{Mode: backend.LoginMaster, User: "a m", Secret: "s"}, []string{"sasl plain"},
			[]string{"AUTH PLAIN " + plain64("\x00anna*a m\x00s")}},
		"user": {backend.Login{}, nil, []string{"USER anna", "PASS pass word"}},
		"long": {backend.Login{Mode: backend.LoginAuthzid, User: "adm", Secret: backend.Secret(long)}, []string{"SASL PLAIN"},
			[]string{"AUTH PLAIN|+ ", plain64("anna\x00adm\x00" + long)}},
	} {
		t.Run(name, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send("+OK hi <1@x>")
				if tt.caps != nil {
					s.exact("CAPA")
					s.send(append(append([]string{"+OK"}, tt.caps...), ".")...)
				}
				for i, w := range tt.want {
					w, answer, ok := strings.Cut(w, "|")
					if !ok {
						answer = "+OK"
					}
					s.exact(w)
					if s.send(answer); i == len(tt.want)-1 {
						s.send("behind")
					}
				}
			})
			store.Login = tt.login
			if _, err := dialTextTest(t, DialPOP3, store); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPOP3Raw: who reads messages as they are says so before the login, to those
// who understand.
func TestPOP3Raw(t *testing.T) {
	for name, tt := range map[string]struct {
		typ    backend.StoreType
		caps   string // empty: not asked
		answer string // to UTF8, empty: not said
	}{
		"courier": {backend.StoreCourier, "UTF8 USER", "+OK"},
		"refused": {backend.StoreGeneric, "UTF8", "-ERR no"},
		"without": {backend.StoreGeneric, "UTF8X", ""},
		"dovecot": {backend.StoreDovecot, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send("+OK hi")
				if tt.caps != "" {
					s.exact("CAPA")
					s.send("+OK", tt.caps, ".")
				}
				if tt.answer != "" {
					s.exact("UTF8")
					s.send(tt.answer)
				}
				s.exact("USER anna")
				s.send("+OK")
				s.exact("PASS pass word")
				s.send("+OK", "behind")
			})
			store.Type = tt.typ
			raw := func(ctx context.Context, target Target) (*TextConn, error) {
				target.Raw = true
				return DialPOP3(ctx, target)
			}
			if _, err := dialTextTest(t, raw, store); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPOP3Refusals(t *testing.T) {
	for text, want := range map[string]backend.Kind{
		"-ERR [AUTH] no":         backend.KindAuthentication,
		"-ERR no":                backend.KindAuthentication,
		"-ERR [IN-USE] locked":   backend.KindConflict,
		"-ERR [SYS/TEMP] later":  backend.KindTemporary,
		"-ERR [sys/perm] broken": backend.KindTemporary,
		"+OKAY":                  backend.KindUnavailable,
		"":                       backend.KindUnavailable,
	} {
		t.Run(text, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send("+OK hi")
				s.exact("USER anna")
				s.send("+OK")
				s.exact("PASS pass word")
				if text != "" {
					s.send(text)
				}
			})
			if _, err := dialTextTest(t, DialPOP3, store); backend.KindOf(err) != want {
				t.Errorf("%v is %v, want %v", err, backend.KindOf(err), want)
			}
		})
	}
}

const sieveCaps = "\"IMPLEMENTATION\" {3}\r\nx y\r\n\"SASL\" \"LOGIN PLAIN\"\r\n\"SIEVE\" \"fileinto\"\r\n\"STARTTLS\"\r\nOK"

func TestManageSieveLogin(t *testing.T) {
	store := serve(t, func(s *script) {
		s.send(sieveCaps)
		s.exact(`AUTHENTICATE "PLAIN" "` + plain64("anna\x00adm\x00s") + `"`)
		s.send(`OK "in"`, "behind")
	})
	store.Login = backend.Login{Mode: backend.LoginAuthzid, User: "adm", Secret: "s"}
	c, err := dialTextTest(t, DialManageSieve, store)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Caps(), ","); got != `"SIEVE" "fileinto"` {
		t.Errorf("capabilities %s", got)
	}
}

func TestManageSieveRefusals(t *testing.T) {
	for text, want := range map[string]backend.Kind{
		`NO "no"`:                      backend.KindAuthentication,
		`NO (TRYLATER) "later"`:        backend.KindTemporary,
		"NO (TRYLATER) {5}\r\nlater":   backend.KindTemporary,
		`NO (REFERRAL "sieve://x") ""`: backend.KindUnavailable,
		`BYE "gone"`:                   backend.KindUnavailable,
		"":                             backend.KindUnavailable,
	} {
		t.Run(text, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send(sieveCaps)
				s.line()
				if text != "" {
					s.send(text)
				}
			})
			if _, err := dialTextTest(t, DialManageSieve, store); backend.KindOf(err) != want {
				t.Errorf("%v is %v, want %v", err, backend.KindOf(err), want)
			}
		})
	}
}

// TestTextTLS: nothing is sent to a store before TLS, and nothing that came
// before TLS counts.
func TestTextTLS(t *testing.T) {
	cert, pool := certificate(t)
	pop := func(behind string) func(*script) {
		return func(s *script) {
			s.send("+OK hi")
			s.exact("STLS")
			s.send("+OK go" + behind)
			if behind != "" {
				return
			}
			s.startTLS(cert)
			s.exact("USER anna")
			s.send("+OK")
			s.exact("PASS pass word")
			s.send("+OK", "behind")
		}
	}
	sieve := func(behind string) func(*script) {
		return func(s *script) {
			s.send(`"STARTTLS"`, `"SASL" ""`, "OK")
			s.exact("STARTTLS")
			s.send("OK" + behind)
			if behind != "" {
				return
			}
			s.startTLS(cert)
			s.send(`"SASL" "PLAIN"`, "OK")
			s.exact(`AUTHENTICATE "PLAIN" "` + plain64("\x00anna\x00pass word") + `"`)
			s.send("OK", "behind")
		}
	}
	silent := func(hello ...string) func(*script) {
		return func(s *script) {
			s.send(hello...)
			for l := s.line(); l != ""; l = s.line() {
				if l != "STLS" {
					s.t.Errorf("sent in clear: %q", l)
				}
				s.send("-ERR no")
			}
		}
	}
	for i, tt := range []struct {
		dial func(context.Context, Target) (*TextConn, error)
		play func(*script)
		ok   bool
	}{
		{DialPOP3, pop(""), true}, {DialPOP3, pop("\r\n+OK injected"), false}, {DialPOP3, silent("+OK hi"), false},
		{DialManageSieve, sieve(""), true}, {DialManageSieve, sieve("\r\n\"SASL\" \"PLAIN\"\r\nOK"), false},
		{DialManageSieve, silent(`"SASL" "PLAIN"`, "OK"), false},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			store := serve(t, tt.play)
			store.TLS, store.TLSConfig = backend.TLSStartTLS, &tls.Config{RootCAs: pool}
			_, err := dialTextTest(t, tt.dial, store)
			if tt.ok != (err == nil) || err != nil && !backend.IsKind(err, backend.KindUnavailable) {
				t.Errorf("error %v", err)
			}
		})
	}
}
