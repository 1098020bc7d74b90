package mailtest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Issuer is a tiny authorization server (OAuth 2.0): a token of a user is
// TokenOf the user, and there are no others. It grants tokens to service
// accounts for their subjects (RFC 7523) and tells servers whose a token is
// (RFC 7662).
type Issuer struct {
	URL string

	dir string
}

// NewIssuer starts an issuer, which ends with the test.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		user, ok := strings.CutPrefix(r.PostFormValue("token"), "token-of-")
		answer(w, map[string]any{"active": ok, "email": user})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		var claims struct {
			Sub string `json:"sub"`
		}
		if parts := strings.Split(r.PostFormValue("assertion"), "."); len(parts) == 3 {
			payload, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err == nil {
				_ = json.Unmarshal(payload, &claims)
			}
		}
		answer(w, map[string]any{"access_token": TokenOf(claims.Sub), "token_type": "Bearer", "expires_in": 3600})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return &Issuer{URL: s.URL, dir: tempDir(t, "", "issuer")}
}

// TokenOf is the token of a user.
func TokenOf(user string) string { return "token-of-" + user }

// DovecotConf has a Dovecot ask the issuer for tokens (DovecotOptions.Extra).
func (i *Issuer) DovecotConf(t testing.TB) string {
	t.Helper()
	conf := write(t, "introspection_url = "+i.URL+"/introspect\nintrospection_mode = post\nforce_introspection = yes\n"+
		"username_attribute = email\nactive_attribute = active\nactive_value = true\n", i.dir, "oauth2.conf")
	return "auth_mechanisms = plain login xoauth2 oauthbearer\n" +
		"passdb {\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = " + conf + "\n}\n"
}

// ServiceAccount writes the key file of an account that may have tokens of all
// users, as Google gives them out.
func (i *Issuer) ServiceAccount(t testing.TB) (file string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, fmt.Sprintf(`{"client_email": "ferry@example.org", "private_key_id": "1", "private_key": %q, "token_uri": %q}`,
		encodePEM("PRIVATE KEY", der), i.URL+"/token"), i.dir, "key.json")
}
