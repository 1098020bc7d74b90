package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/internal/mailtest"
)

// TestLoginsWithoutAPassword: curl gets in with tokens and certificates through
// a node as an operator configures it, to a store that checks tokens and to one
// at which the node has tokens of its own.
func TestLoginsWithoutAPassword(t *testing.T) {
	mailtest.Require(t, "dovecot", "curl")
	issuer, ca := mailtest.NewIssuer(t), mailtest.NewCA(t)
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{CA: ca, Extra: issuer.DovecotConf(t)})
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("anna@example.org::old\nbernd@example.org::office\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("address: localhost, ca: %s, ports: {imap: %s, pop3: %s}", ca.Cert, portOf(d.IMAP), portOf(d.POP3))
	s := newSetup(t, anyPort+fmt.Sprintf(`
tls: {certificates: [{cert: %s, key: %s}], client_ca: %s, cleartext_login: never}
tokens: {scope: mail}
directories: [{name: people, type: file, path: %s, passwords: pass}]
roles: [proxy]
stores:
  - {name: old, type: dovecot, %s, tokens: true, login: {mode: master, user: %s, password: %s}}
  - {name: office, type: exchange, %[5]s, login: {mode: oauth, oauth: {service_account: %[8]s, scopes: ["https://mail.google.com/"]}}}
`, ca.Server, ca.Key, ca.Cert, users, at, d.MasterUser, d.MasterPassword, issuer.ServiceAccount(t)))
	a := s.start(t)
	curl := func(user, how string) string {
		protocol, rest, _ := strings.Cut(how, " ")
		out, err := shell(t, fmt.Sprintf("curl -sS --max-time 30 --cacert %s -u %s: %s '%s://localhost:%s/'", ca.Cert, user, rest, protocol, portOf(a.Addr(protocol))), "")
		if err != nil {
			out += fmt.Sprintf(" (%v)", err)
		}
		return out
	}
	cert := func(user string) string {
		c, k := ca.Issue(t, user)
		return " --cert " + c + " --key " + k + " --login-options AUTH=EXTERNAL"
	}
	bearer := func(user, mech string) string {
		return " --oauth2-bearer " + mailtest.TokenOf(user) + " --login-options AUTH=" + mech
	}
	for _, tt := range []struct{ user, how, want string }{
		{"anna@example.org", "imaps" + bearer("anna@example.org", "OAUTHBEARER"), "INBOX"},
		{"anna@example.org", "imaps" + bearer("anna@example.org", "XOAUTH2"), "INBOX"},
		{"anna@example.org", "pop3s" + bearer("anna@example.org", "OAUTHBEARER"), ""},
		{"anna@example.org", "pop3s" + bearer("anna@example.org", "XOAUTH2"), ""},
		{"anna@example.org", "imaps" + bearer("bernd@example.org", "OAUTHBEARER"), "denied"},
		{"anna@example.org", "imaps" + bearer("bernd@example.org", "XOAUTH2"), "denied"},
		{"bernd@example.org", "imaps" + bearer("bernd@example.org", "XOAUTH2"), "denied"}, // office takes none from users
		{"anna@example.org", "imaps" + cert("anna@example.org"), "INBOX"},
		{"anna@example.org", "pop3s" + cert("anna@example.org"), ""},
		{"bernd@example.org", "imaps" + cert("bernd@example.org"), "INBOX"}, // by the node's own token
		{"bernd@example.org", "pop3s" + cert("bernd@example.org"), ""},
		{"anna@example.org", "imaps" + cert("bernd@example.org"), "denied"},
	} {
		got := curl(tt.user, tt.how)
		if tt.want == "" && strings.TrimSpace(got) != "" || !strings.Contains(got, tt.want) {
			t.Errorf("curl -u %s %s: %q", tt.user, tt.how, got)
		}
	}
	if strings.Contains(s.log.String(), mailtest.TokenOf("")) {
		t.Error("a token is in the log")
	}
}
