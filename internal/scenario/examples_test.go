package scenario

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mailferry/internal/mailtest"
)

// newExample runs a configuration of docs/examples: nothing is changed in it but
// addresses, paths and the words given, each of which must be there.
func newExample(t *testing.T, file string, ca *mailtest.CA, words map[string]string) *office {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("../../docs/examples", file))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := &office{node: &node{program: path, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "mailferry.yaml")}}
	port := func() string { return fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)) }
	o.imap, o.lmtp, o.pop3, o.pop3s, o.imaps = port(), port(), port(), port(), port()
	for from, to := range map[string]string{"/var/lib/mailferry": o.data, `":143"`: quoted(o.imap), `":993"`: quoted(o.imaps), `":110"`: quoted(o.pop3),
		`":995"`: quoted(o.pop3s), `"127.0.0.1:2424"`: quoted(o.lmtp), "/etc/mailferry/mail.pem": ca.Server, "/etc/mailferry/mail.key": ca.Key,
		"/etc/mailferry/company-ca.pem": ca.Cert} {
		words[from] = to
	}
	changed := string(text)
	for from, to := range words {
		if !strings.Contains(changed, from) {
			t.Fatalf("%s does not contain %q", file, from)
		}
		changed = strings.ReplaceAll(changed, from, to)
	}
	if strings.Contains(changed, "/etc/mailferry/") {
		t.Fatalf("a path is left in:\n%s", changed)
	}
	if err := os.WriteFile(o.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if o.log, err = os.Create(filepath.Join(dir, "node.log")); err != nil {
		t.Fatal(err)
	}
	o.start(t)
	t.Cleanup(func() {
		o.kill()
		if t.Failed() {
			t.Logf("the node's log ends with:\n%s", tail(o.log.Name(), 16<<10))
		}
		o.log.Close()
	})
	return o
}

func quoted(s string) string { return `"` + s + `"` }

// file writes a secret and names its file.
func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// secure is a dialogue over TLS from the first octet.
func secure(t *testing.T, address string, ca *mailtest.CA) *talk {
	t.Helper()
	k := dialTalk(t, address)
	k.Conn = tls.Client(k.Conn, ca.Client())
	k.r.Reset(k.Conn)
	return k
}

// reads logs in by IMAP and POP3 and sees n messages.
func (o *office) reads(t *testing.T, ca *mailtest.CA, name, password string, n int) {
	t.Helper()
	k := secure(t, o.imaps, ca)
	k.say(t, "", "* OK")
	k.say(t, `a LOGIN "`+strings.ReplaceAll(name, `\`, `\\`)+`" "`+password+`"`, "a OK")
	contains(t, k.say(t, "b SELECT INBOX", "b OK"), fmt.Sprintf("* %d EXISTS", n))
	p := secure(t, o.pop3s, ca)
	p.say(t, "", "+OK")
	p.say(t, "USER "+name, "+OK")
	p.say(t, "PASS "+password, "+OK")
	p.say(t, "STAT", fmt.Sprintf("+OK %d ", n))
	p.say(t, "QUIT", "+OK")
	// Without TLS nobody gets in.
	plain := dialTalk(t, o.imap)
	contains(t, plain.say(t, "", "* OK"), "LOGINDISABLED")
	plain.say(t, "a LOGIN anna "+password, "a NO [PRIVACYREQUIRED]")
}

// TestExamplePerditionCyrusLDAP: what README says of it is seen.
func TestExamplePerditionCyrusLDAP(t *testing.T) {
	mailtest.Require(t, "slapd", "cyrus")
	ca := mailtest.NewCA(t)
	one := mailtest.StartCyrus(t, mailtest.CyrusOptions{CA: ca, Users: []string{"anna"}})
	l := mailtest.StartSlapd(t, mailtest.SlapdOptions{CA: ca, Users: []mailtest.LDAPUser{{UID: "anna", MailHost: "cyrus1"}, {UID: "bert", MailHost: "cyrus2"}}})
	ports := func(imap, pop3, lmtp string) string {
		return fmt.Sprintf("127.0.0.1\n    ports: {imap: %s, pop3: %s, lmtp: %s}", portOf(imap), portOf(pop3), portOf(lmtp))
	}
	gone := fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	o := newExample(t, "perdition-cyrus-ldap.yaml", ca, map[string]string{
		`"ldap://ldap1.example.org", "ldap://ldap2.example.org"`: quoted("ldap://"+gone) + ", " + quoted(l.URL),
		"cn=mailferry,dc=example,dc=org":                         l.ReaderDN, "/etc/mailferry/ldap.password": secretFile(t, l.ReadPass),
		"cyrus1.example.org": ports(one.IMAP, one.POP3, one.LMTP), "cyrus2.example.org": ports(gone, gone, gone)})
	o.deliver(t, "anna")
	o.reads(t, ca, "anna", "secret", 1)
	o.reads(t, ca, "anna@example.org", "secret", 1)
	wrong := secure(t, o.imaps, ca)
	wrong.say(t, "a LOGIN anna wrong", "a NO [AUTHENTICATIONFAILED]")
	// bert's server is away: nobody is sent to another one.
	wrong.say(t, "b LOGIN bert secret", "b NO [UNAVAILABLE]")
	contains(t, o.must(t, 0, "explain", "anna"), "anna on cyrus1 (cyrus at 127.0.0.1", "login as user anna with the client's password, which the store checks")
}

// TestExampleActiveDirectoryDovecot: what README says of it is seen.
func TestExampleActiveDirectoryDovecot(t *testing.T) {
	mailtest.Require(t, "samba", "dovecot")
	ca := mailtest.NewCA(t)
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{CA: ca, UsernameFormat: "%Ln", MasterUser: "mailferry", Extra: "login_trusted_networks = 127.0.0.0/8"})
	s := mailtest.StartSamba(t, mailtest.SambaOptions{
		Users: []mailtest.SambaUser{{Name: "anna", Password: "secret", Attrs: map[string][]string{"userPrincipalName": {"anna@corp.example.org"},
			"mail": {"anna.berg@example.org"}, "proxyAddresses": {"SMTP:anna.berg@example.org", "smtp:ab@example.org"}}}, {Name: "clerk", Password: "secret"},
			{Name: "mailferry", Password: "readpass.1A", Attrs: map[string][]string{"userPrincipalName": {"mailferry@corp.example.org"}}}},
		Groups: []mailtest.SambaGroup{{Name: "staff", Members: []string{"anna"}}, {Name: "mail-users", Members: []string{"staff"}}}})
	address := expose(t, s, "127.0.0.1:636")
	both, err := os.ReadFile(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(s.CA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca.Cert, append(both, theirs...), 0o644); err != nil {
		t.Fatal(err)
	}
	gone := fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	o := newExample(t, "active-directory-dovecot.yaml", ca, map[string]string{
		`"ldaps://dc1.corp.example.org", "ldaps://dc2.corp.example.org"`: quoted("ldaps://"+gone) + ", " + quoted("ldaps://"+address),
		"/etc/mailferry/ad.password":                                     secretFile(t, "readpass.1A"), "/etc/mailferry/dovecot.password": secretFile(t, d.MasterPassword),
		`":4190"`:              quoted(fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))),
		"dovecot1.example.org": fmt.Sprintf("127.0.0.1\n    ports: {imap: %s, pop3: %s, managesieve: %s, lmtp: %s}", portOf(d.IMAP), portOf(d.POP3), portOf(d.Sieve), portOf(d.LMTP))})
	o.deliverTo(t, "anna@corp.example.org")
	for _, name := range []string{"anna", `CORP\anna`, "anna@corp.example.org", "anna.berg@example.org", "ab@example.org"} {
		o.reads(t, ca, name, "secret", 1)
	}
	k := secure(t, o.imaps, ca)
	k.say(t, "a LOGIN anna wrong", "a NO [AUTHENTICATIONFAILED]")
	k.say(t, "b LOGIN clerk secret", "b NO [AUTHENTICATIONFAILED]") // in no group
	contains(t, o.must(t, 0, "explain", "ab@example.org"), "memberOf:1.2.840.113556.1.4.1941:=CN=mail-users", "anna*mailferry (master)", "replica of directory corp")
	// No controller can be reached: who was there before goes on. A wrong
	// password has made the node forget the right one.
	o.reads(t, ca, "anna", "secret", 1)
	s.Stop()
	o.reads(t, ca, "anna", "secret", 1)
}

// expose has a port of the domain controller, whose network is its own, on
// loopback.
func expose(t *testing.T, s *mailtest.Samba, port string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				to, err := s.Dial(t.Context(), "tcp", port)
				if err != nil {
					return
				}
				defer to.Close()
				wg.Go(func() {
					_, _ = io.Copy(to, c)
					to.Close()
				})
				_, _ = io.Copy(c, to)
			})
		}
	})
	return l.Addr().String()
}
