package remote

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
)

// endpoint gives out tokens t1, t2 ....
func endpoint(t *testing.T, answer func(n int32, w http.ResponseWriter, r *http.Request)) (url string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(asked.Add(1), w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func grant(n int32, w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":3600}`, n)
}

func TestClientCredentials(t *testing.T) {
	url, asked := endpoint(t, func(n int32, w http.ResponseWriter, r *http.Request) {
		id, secret, basic := r.BasicAuth()
		if !basic {
			id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
		}
		if id != "app" || secret != "s3" || r.PostFormValue("scope") != "mail" || r.PostFormValue("grant_type") != "client_credentials" {
			t.Errorf("request %v", r.PostForm)
		}
		grant(n, w, r)
	})
	s := NewClientCredentials(ClientCredentials{URL: url, ClientID: "app", Secret: "s3", Scopes: []string{"mail"}})
	var wg sync.WaitGroup
	for _, user := range []string{"anna", "bernd", "anna", "carla"} {
		wg.Go(func() {
			if got, err := s.Token(t.Context(), user); err != nil || got != "t1" {
				t.Errorf("%s: %q, %v", user, got.Reveal(), err)
			}
		})
	}
	wg.Wait()
	if asked.Load() != 1 {
		t.Errorf("the endpoint was asked %d times", asked.Load())
	}
	s.Refused("anna", "t0")
	if got, _ := s.Token(t.Context(), "anna"); got != "t1" {
		t.Error("the refusal of an older token counts")
	}
	s.Refused("anna", "t1")
	k := s.(*tokens).known[""]
	k.until = time.Now().Add(-time.Second)
	if got, _ := s.Token(t.Context(), "anna"); got != "t2" {
		t.Errorf("a refused token is given again: %q", got.Reveal())
	}
}

// TestTokenEndpointAway: logins fail at once while the endpoint does, with
// nothing of the secret in the error.
func TestTokenEndpointAway(t *testing.T) {
	url, asked := endpoint(t, func(_ int32, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, secret, _ := r.BasicAuth()
		fmt.Fprintf(w, `{"error":"invalid_client","error_description":"no %s%s"}`, secret, r.PostFormValue("client_secret"))
	})
	s := NewClientCredentials(ClientCredentials{URL: url, ClientID: "app", Secret: "s3cr3t"})
	for range 5 {
		_, err := s.Token(t.Context(), "anna")
		if err == nil || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("error %v", err)
		}
	}
	if n := asked.Load(); n > 2 { // the library tries two ways to show the secret
		t.Errorf("asked %d times", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hung := newTokens(s.(*tokens).fetch, func(string) string { return "" })
	hung.known[""] = &token{done: make(chan struct{})}
	if _, err := hung.Token(ctx, "anna"); !errors.Is(err, context.Canceled) {
		t.Errorf("a login that is over waits for a token: %v", err)
	}
}

func TestServiceAccount(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(key)
	var subjects sync.Map
	url, asked := endpoint(t, func(n int32, w http.ResponseWriter, r *http.Request) {
		payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(r.PostFormValue("assertion"), ".")[1])
		var claims map[string]any
		_ = json.Unmarshal(payload, &claims)
		subjects.Store(claims["sub"], claims["scope"])
		grant(n, w, r)
	})
	file := filepath.Join(t.TempDir(), "key.json")
	text, _ := json.Marshal(map[string]string{"client_email": "ferry@project", "private_key_id": "k", "token_uri": url,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := NewServiceAccount(file, []string{"https://mail.google.com/"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"anna@example.org", "bernd@example.org", "anna@example.org"} {
		if _, err := s.Token(t.Context(), user); err != nil {
			t.Fatal(err)
		}
		if scope, ok := subjects.Load(user); !ok || scope != "https://mail.google.com/" {
			t.Errorf("no token for %s: %v", user, scope)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("asked %d times for two users", asked.Load())
	}
	if _, err := NewServiceAccount(os.Args[0], nil, nil); err == nil {
		t.Error("any file is a key file")
	}
}

func TestTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	s := NewTokenFile(file)
	if _, err := s.Token(t.Context(), "anna"); err == nil {
		t.Error("no file, no error")
	}
	for _, want := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Token(t.Context(), "anna"); err != nil || got.Reveal() != want {
			t.Errorf("%q, %v", got.Reveal(), err)
		}
	}
}

// fixedToken is a source with one token, which counts refusals.
type fixedToken struct {
	backend.Secret
	refused atomic.Int32
}

func (f *fixedToken) Token(context.Context, string) (backend.Secret, error) { return f.Secret, nil }
func (f *fixedToken) Refused(_ string, t backend.Secret) {
	if t == f.Secret {
		f.refused.Add(1)
	}
}

func TestDialOAuth(t *testing.T) {
	const user = "anna@example.org"
	xoauth := plain64("user=" + user + "\x01auth=Bearer tok\x01\x01")
	bearer := plain64("n,a=" + user + ",\x01auth=Bearer tok\x01\x01")
	for name, tt := range map[string]struct {
		caps   string
		dialog func(s *script)
		kind   backend.Kind
	}{
		"XOAUTH2": {"AUTH=XOAUTH2 AUTH=PLAIN SASL-IR", func(s *script) {
			s.send(s.want("AUTHENTICATE XOAUTH2 "+xoauth) + " OK [CAPABILITY IMAP4rev1] in")
		}, 0},
		"OAUTHBEARER in steps": {"AUTH=OAUTHBEARER AUTH=XOAUTH2", func(s *script) {
			tag := s.want("AUTHENTICATE OAUTHBEARER")
			s.send("+ ")
			if l := s.line(); l != bearer {
				t.Errorf("message %q", l)
			}
			s.send(tag + " OK [CAPABILITY IMAP4rev1] in")
		}, 0},
		"XOAUTH2 refused": {"AUTH=XOAUTH2 SASL-IR", func(s *script) {
			tag := s.want("AUTHENTICATE XOAUTH2 " + xoauth)
			s.send("+ eyJzdGF0dXMiOiI0MDEifQ==")
			if l := s.line(); l != "" {
				t.Errorf("answer %q", l)
			}
			s.send(tag + " NO [AUTHENTICATIONFAILED] no, tok is bad")
		}, backend.KindAuthentication},
		"OAUTHBEARER refused": {"AUTH=OAUTHBEARER SASL-IR", func(s *script) {
			tag := s.want("AUTHENTICATE OAUTHBEARER " + bearer)
			s.send("+ eyJzdGF0dXMiOiI0MDEifQ==")
			if l := s.line(); l != "AQ==" {
				t.Errorf("answer %q", l)
			}
			s.send(tag + " NO no")
		}, backend.KindAuthentication},
		"not offered": {"AUTH=PLAIN", func(*script) {}, backend.KindUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send("* OK [CAPABILITY IMAP4rev1 " + tt.caps + "] hi")
				tt.dialog(s)
			})
			source := &fixedToken{Secret: "tok"}
			store.Login = backend.Login{Mode: backend.LoginOAuth, Tokens: source}
			_, err := dialTest(t, store)
			if tt.kind == 0 && err != nil || tt.kind != 0 && backend.KindOf(err) != tt.kind {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "tok is") {
				t.Errorf("the token is in the error: %v", err)
			}
			if refused := source.refused.Load() == 1; refused != (tt.kind == backend.KindAuthentication) {
				t.Errorf("the source was told of a refusal: %v", refused)
			}
		})
	}
}

func TestDialProxyAuth(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		kind   backend.Kind
	}{"taken": {"OK you are", 0}, "refused": {"NO no such user", backend.KindAuthentication}} {
		t.Run(name, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send("* OK [CAPABILITY IMAP4rev1] hi")
				s.send(s.want(`LOGIN "adm" "s"`) + " OK in")
				tag := s.want(`PROXYAUTH "anna@example.org"`)
				s.send(tag + " " + tt.answer)
				if tt.kind == 0 {
					s.ok("CAPABILITY", "* CAPABILITY IMAP4rev1 QUOTA")
				}
			})
			store.Login = backend.Login{Mode: backend.LoginProxyAuth, User: "adm", Secret: "s"}
			c, err := dialTest(t, store)
			if tt.kind != 0 {
				if !backend.IsKind(err, tt.kind) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || !c.Has("QUOTA") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestReferrals(t *testing.T) {
	for code, want := range map[string]string{
		"REFERRAL imap://anna;AUTH=*@mail2.example.org/": "mail2.example.org", `REFERRAL "sieve://[2001:db8::1]:4190"`: "2001:db8::1",
		"REFERRAL": "", "REFERRAL %%%": "", "LIMIT imap://x/": "", "referral pop://b:110": "b",
	} {
		if got := referralHost(code); got != want {
			t.Errorf("%s: %q", code, got)
		}
	}
	store := serve(t, func(s *script) {
		s.send("* OK [CAPABILITY IMAP4rev1] hi")
		s.send(s.want(`LOGIN "anna@example.org" "pass word"`) + " NO [REFERRAL imap://anna@b.example.org/] try there")
	})
	_, err := dialTest(t, store)
	var r *Referral
	if !errors.As(err, &r) || r.Host != "b.example.org" || !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("error %v", err)
	}
}
