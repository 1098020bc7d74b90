package proxy

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// introspector is an authorization server that knows a few tokens (RFC 7662).
func introspector(t *testing.T, users map[string]string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, ok := users[r.PostFormValue("token")]
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"active": ok, "email": user})
	}))
	t.Cleanup(s.Close)
	return s
}

// oauthDovecot is a Dovecot that has tokens checked by an authorization server.
func oauthDovecot(t *testing.T, url string) *mailtest.Dovecot {
	dir, err := os.MkdirTemp("", "oauth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf := filepath.Join(dir, "oauth2.conf")
	text := "introspection_url = " + url + "/introspect\nintrospection_mode = post\nforce_introspection = yes\n" +
		"username_attribute = email\nactive_attribute = active\nactive_value = true\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return mailtest.StartDovecot(t, mailtest.DovecotOptions{Extra: "auth_mechanisms = plain login xoauth2 oauthbearer\n" +
		"passdb {\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = " + conf + "\n}\n"})
}

// TestTokensAtDovecot: tokens go through to a store that has them checked, in
// all three protocols; a token of somebody else opens nothing.
func TestTokensAtDovecot(t *testing.T) {
	d := oauthDovecot(t, introspector(t, map[string]string{"anna-token": "anna", "bernd-token": "bernd"}).URL)
	all := testStores()
	all["old"] = &backend.Store{Name: "old", Type: backend.StoreDovecot, Address: "localhost", TLSConfig: d.CA.Client(), TakesTokens: true,
		Ports: map[backend.Protocol]int{backend.IMAP: portOf(t, d.IMAP), backend.POP3: portOf(t, d.POP3), backend.ManageSieve: portOf(t, d.Sieve)},
		Login: backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)}}
	for name, dia := range tokenDialogues {
		for _, mech := range []string{"XOAUTH2", "OAUTHBEARER"} {
			t.Run(name+" "+mech, func(t *testing.T) {
				message, empty, word := xoauth2, "", mech
				if mech == "OAUTHBEARER" {
					message, empty = oauthBearer, "AQ=="
				}
				if name == "managesieve" {
					word = `"` + mech + `"`
				}
				_, addr := serveRealOf(t, dia.proto, Options{Stores: all, Connector: RemoteConnector{}, Directory: newDirectory(),
					Tokens: Tokens{Offer: true, Scope: "mail", Configuration: "https://id.example.org"}})
				c := dialPeer(t, addr)
				for !strings.HasPrefix(c.line(), dia.greeting) {
				}
				for _, token := range []string{"nobody-token", "bernd-token"} {
					c.sendLine("%s%s%s", dia.begin, word, dia.initial(message("anna", token)))
					wantReason(t, mech, dia.challenge(c.line()))
					c.sendLine("%s", dia.answer(empty))
					c.expect(dia.no)
				}
				c.sendLine("%s%s%s", dia.begin, word, dia.initial(message("anna", "anna-token")))
				c.expect(dia.ok)
				c.sendLine("%s", map[string]string{"imap": "b NOOP", "pop3": "STAT", "managesieve": "LISTSCRIPTS"}[name])
				c.expect(map[string]string{"imap": "b OK", "pop3": "+OK 0 0", "managesieve": "OK"}[name])
			})
		}
	}
}
