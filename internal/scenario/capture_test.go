package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// newCaptureOffice is a node in front of a Courier and a Dovecot without master
// user; anna, bert and cleo are at the former, dora at the latter.
func newCaptureOffice(t *testing.T) (o *office, c *mailtest.Courier) {
	t.Helper()
	mailtest.Require(t, "slapd", "courier", "dovecot")
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	const secret = "t4inted-secret"
	c = mailtest.StartCourier(t, mailtest.CourierOptions{Password: secret})
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{Password: secret})
	var users []mailtest.LDAPUser
	for _, u := range []string{"anna", "bert", "cleo"} {
		users = append(users, mailtest.LDAPUser{UID: u, MailHost: "courier", Password: secret})
	}
	l := mailtest.StartSlapd(t, mailtest.SlapdOptions{Users: append(users, mailtest.LDAPUser{UID: "dora", MailHost: "dovecot", Password: secret})})
	dir := t.TempDir()
	port := func() string { return fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)) }
	o = &office{ldap: l, dovecot: d, pop3: port(), node: &node{program: path, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "mailferry.yaml"),
		imap: port(), lmtp: port()}}
	text := fmt.Sprintf(`data: %s
log: {level: debug}
listen: {imap: [%q], lmtp: [%q], pop3: [%q], imaps: [], pop3s: [], submission: [], submissions: [], admin: []}
directories:
  - {name: company, type: ldap, servers: [%q], starttls: true, ca: %q, bind_dn: %q, bind_password: %q, base: %q,
     filter: "(|(uid={user})(mail={user}))", attributes: {user: uid, store: mailHost}, write: {bind_dn: %q, password: %q}}
stores:
  - {name: home, type: local}
  - {name: courier, type: courier, address: 127.0.0.1, ports: {imap: %s, pop3: %s}, ca: %q, login: {mode: user, capture: 1h}}
  - {name: dovecot, type: dovecot, address: 127.0.0.1, ports: {imap: %s, pop3: %s}, ca: %q, login: {mode: user, capture: 1h}}
move_groups: [{name: farm, stores: [home, courier, dovecot]}]
`, o.data, o.imap, o.lmtp, o.pop3, l.URL, l.CA.Cert, l.ReaderDN, l.ReadPass, l.People, l.MoverDN, l.MoverPass,
		portOf(c.IMAP), portOf(c.POP3), c.CA.Cert, portOf(d.IMAP), portOf(d.POP3), d.CA.Cert)
	if err := os.WriteFile(o.config, []byte(text), 0o600); err != nil {
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
	return o, c
}

// awaitMove polls until a user's move is in a state.
func (o *office) awaitMove(t *testing.T, user, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		out, _, _ := o.run(ctx, "migrate", "show", "--json", "--state", state)
		if strings.Contains(out, `"`+user+`"`) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			all, _, _ := o.run(t.Context(), "migrate", "show")
			t.Fatalf("%s is not %s:\n%s", user, state, all)
		}
	}
}

// TestCaptureAtLogin: users of stores without an admin's login move when they
// log in, by IMAP or by POP3, with the password that the store has just taken;
// a wrong one changes nothing, and a node that was killed waits for the next
// login. Nothing on the disk and in the log has the password.
func TestCaptureAtLogin(t *testing.T) {
	const secret = "t4inted-secret"
	o, c := newCaptureOffice(t)
	for i, u := range []string{"anna", "bert", "cleo"} {
		imap := mailtest.DialIMAP(t, c.IMAP)
		imap.Login(u, secret) // makes the maildir
		for n := range 3 + i {
			imap.Append("INBOX", "", time.Time{}, fmt.Appendf(nil, "Subject: %d\r\n\r\nbody\r\n", n))
		}
		imap.Close()
	}
	d := mailtest.DialIMAP(t, o.dovecot.IMAP)
	d.Login("dora", secret)
	d.Append("INBOX", "", time.Time{}, []byte("Subject: one\r\n\r\nbody\r\n"))
	d.Close()

	users := []string{"anna", "bert", "cleo", "dora"}
	o.must(t, 0, append([]string{"migrate", "--to", "home", "--detach"}, users...)...)
	for _, u := range users {
		o.awaitMove(t, u, "waiting for login")
	}
	contains(t, o.must(t, 0, "migrate", "status"), "4 users have to log in first")
	contains(t, o.must(t, 0, "migrate", "show"), "waiting for login", "waits for the user's next login")
	if n := o.counter(t, "mailferry_migrate_waiting_for_login_users"); n != 4 {
		t.Errorf("the metric says that %d users wait", n)
	}

	k := dialTalk(t, o.imap)
	k.say(t, "", "* OK")
	k.say(t, "a LOGIN anna wr0ng-secret", "a NO [AUTHENTICATIONFAILED]")
	o.awaitMove(t, "anna", "waiting for login")
	k.say(t, "b LOGIN anna "+secret, "b OK")
	o.awaitMove(t, "anna", "final")
	contains(t, k.say(t, "c SELECT INBOX", "c OK"), "* 3 EXISTS") // the same connection

	p := dialTalk(t, o.pop3)
	p.say(t, "", "+OK")
	p.say(t, "USER bert", "+OK")
	p.say(t, "PASS "+secret, "+OK")
	p.say(t, "STAT", "+OK 4 ")
	_, before, _ := strings.Cut(p.say(t, "UIDL", "."), "\n")
	p.say(t, "QUIT", "+OK")
	o.awaitMove(t, "bert", "final")
	p = dialTalk(t, o.pop3)
	p.say(t, "", "+OK")
	p.say(t, "USER bert", "+OK")
	p.say(t, "PASS "+secret, "+OK")
	if _, after, _ := strings.Cut(p.say(t, "UIDL", "."), "\n"); after != before {
		t.Errorf("POP3 ids before %q, after %q", before, after)
	}

	o.kill()
	o.start(t)
	o.awaitMove(t, "cleo", "waiting for login")
	for user, n := range map[string]int{"cleo": 5, "dora": 1} {
		k := dialTalk(t, o.imap)
		k.say(t, "", "* OK")
		k.say(t, "a LOGIN "+user+" "+secret, "a OK")
		o.awaitMove(t, user, "final")
		contains(t, k.say(t, "b SELECT INBOX", "b OK"), fmt.Sprintf("* %d EXISTS", n))
	}
	contains(t, tail(o.log.Name(), 1<<20), "login captured for a move", "consent=stores.courier.login.capture")
	o.clean(t, "t4inted", "wr0ng")
}

// clean wants words in no file of the node.
func (o *office) clean(t *testing.T, words ...string) {
	t.Helper()
	dir := filepath.Dir(o.config)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, w := range words {
			if bytes.Contains(text, []byte(w)) {
				t.Errorf("%q is in %s", w, path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
