package scenario

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// office is a small place: a directory, a Dovecot (old1), a Cyrus (old2), and a
// node in front of them whose configuration the test may add to.
type office struct {
	*node
	ldap    *mailtest.Slapd
	dovecot *mailtest.Dovecot
	cyrus   *mailtest.Cyrus
	// of examples
	imaps, pop3, pop3s string
}

// newOffice has the users anna and bert at old1 and cleo at old2. more is added
// to the configuration, store to that of old1.
func newOffice(t *testing.T, more, store string) *office {
	t.Helper()
	imap, lmtp := fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	return newOfficeAt(t, imap, lmtp, more, store)
}

// newOfficeAt is newOffice on given addresses, for tests that name the others.
func newOfficeAt(t *testing.T, imap, lmtp, more, store string) *office {
	t.Helper()
	mailtest.Require(t, "slapd", "dovecot", "cyrus")
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	o := &office{
		ldap: mailtest.StartSlapd(t, mailtest.SlapdOptions{Users: []mailtest.LDAPUser{
			{UID: "anna", MailHost: "old1"}, {UID: "bert", MailHost: "old1"}, {UID: "cleo", MailHost: "old2"}}}),
		dovecot: mailtest.StartDovecot(t, mailtest.DovecotOptions{UsernameFormat: "%Ln", Extra: "login_trusted_networks = 127.0.0.0/8\n" +
			`login_log_format_elements = user=<%u> method=%m rip=%r lip=%l mpid=%e %c session=<%{session}>`}),
		cyrus: mailtest.StartCyrus(t, mailtest.CyrusOptions{Users: []string{"cleo", "bert"}}),
	}
	dir := t.TempDir()
	o.node = &node{program: path, data: filepath.Join(dir, "data"), config: filepath.Join(dir, "mailferry.yaml"),
		imap: imap, lmtp: lmtp}
	l, d, c := o.ldap, o.dovecot, o.cyrus
	text := fmt.Sprintf(`data: %s
directories:
  - {name: company, type: ldap, servers: [%q], starttls: true, ca: %q, bind_dn: %q, bind_password: %q, base: %q,
     filter: "(|(uid={user})(mail={user}))", attributes: {user: uid, store: mailHost}}
stores:
  - {name: home, type: local}
  - {name: old1, type: dovecot, address: 127.0.0.1, ports: {imap: %s, pop3: %s, managesieve: %s, lmtp: %s}, ca: %q, login: {mode: master, user: %s, password: %s}%s}
  - {name: old2, type: cyrus, address: 127.0.0.1, ports: {imap: %s, lmtp: %s}, lmtp_tls: none, ca: %q, login: {mode: authzid, user: %s, password: %s}}
move_groups: [{name: farm, stores: [home, old1, old2]}]
`, o.data, l.URL, l.CA.Cert, l.ReaderDN, l.ReadPass, l.People,
		portOf(d.IMAP), portOf(d.POP3), portOf(d.Sieve), portOf(d.LMTP), d.CA.Cert, d.MasterUser, d.MasterPassword, store,
		portOf(c.IMAP), portOf(c.LMTP), c.CA.Cert, c.Admin, c.AdminPassword)
	if !strings.Contains(more, "listen:") {
		text += o.listen("")
	}
	if err := os.WriteFile(o.config, []byte(text+more), 0o600); err != nil {
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

// listen is the section of listeners; others go on.
func (o *office) listen(others string) string {
	return fmt.Sprintf("listen: {imap: [%q], lmtp: [%q], imaps: [], pop3: [], pop3s: [], submission: [], submissions: [], admin: []%s}\n", o.imap, o.lmtp, others)
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// must runs a command that has to end with this code.
func (o *office) must(t *testing.T, code int, args ...string) string {
	t.Helper()
	stdout, stderr, got := o.run(t.Context(), args...)
	if got != code {
		t.Fatalf("mailferry %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout
}

// contains checks what a command printed.
func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

// talk is a dialogue of lines.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func dialTalk(t *testing.T, address string) *talk {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &talk{c, bufio.NewReader(c)}
}

// say sends a line, empty: none, and reads up to one that begins with until.
func (k *talk) say(t *testing.T, line, until string) string {
	t.Helper()
	if line != "" {
		if _, err := fmt.Fprintf(k, "%s\r\n", line); err != nil {
			t.Fatal(err)
		}
	}
	all := ""
	for {
		l, err := k.r.ReadString('\n')
		if all += l; err != nil {
			t.Fatalf("after %q, waiting for %q: %v\n%s", line, until, err, all)
		}
		if strings.HasPrefix(l, until) {
			return all
		}
	}
}

// login is an IMAP client that is logged in.
func (o *office) login(t *testing.T, user string) *talk {
	t.Helper()
	k := dialTalk(t, o.imap)
	k.say(t, "", "* OK")
	k.say(t, "a LOGIN "+user+" secret", "a OK")
	return k
}

// deliver brings a message to a user of example.org by LMTP.
func (o *office) deliver(t *testing.T, user string) {
	t.Helper()
	o.deliverTo(t, user+"@example.org")
}

func (o *office) deliverTo(t *testing.T, to string) {
	t.Helper()
	k := dialTalk(t, o.lmtp)
	k.say(t, "", "220 ")
	k.say(t, "LHLO test", "250 ")
	k.say(t, "MAIL FROM:<sender@example.org>", "250 ")
	k.say(t, "RCPT TO:<"+to+">", "250 ")
	k.say(t, "DATA", "354 ")
	k.say(t, "Subject: hello\r\n\r\nbody\r\n.", "250 ")
	k.say(t, "QUIT", "221 ")
}

// TestRoutesAreExplainedAndVerified with a real directory and real stores.
func TestRoutesAreExplainedAndVerified(t *testing.T) {
	o := newOffice(t, "", "")
	o.deliver(t, "anna")
	o.deliver(t, "bert")
	o.deliver(t, "cleo")

	out := o.must(t, 0, "explain", "Cleo@Example.org")
	contains(t, out, `search below "ou=people,dc=example,dc=org" for (|(uid=Cleo@Example.org)(mail=Cleo@Example.org))`,
		"entry uid=cleo,ou=people,dc=example,dc=org; uid: cleo; mailHost: old2", "none, so the directory decides",
		"imap: "+o.cyrus.IMAP+", TLS starttls, login as admin "+o.cyrus.Admin+" for cleo (authzid)",
		"lmtp: "+o.cyrus.LMTP, "=> cleo on old2 (cyrus at 127.0.0.1", "directory down: temporary failure")
	if strings.Contains(out, o.cyrus.AdminPassword) || strings.Contains(out, o.ldap.ReadPass) {
		t.Errorf("a secret is shown:\n%s", out)
	}
	o.login(t, "cleo")
	contains(t, o.must(t, 0, "explain", "cleo"), "cache: user cleo, store old2, ", "directory down: from the cache: user cleo, store old2, for 2")
	contains(t, o.must(t, 1, "explain", "nobody"), "no entry", "none knows \"nobody\"")
	var e struct {
		User, Store, Decided string
		Ways                 []struct{ Protocol, Address string }
	}
	if err := json.Unmarshal([]byte(o.must(t, 0, "explain", "anna", "--json")), &e); err != nil || e.User != "anna" || e.Store != "old1" ||
		e.Decided != "directory company" || len(e.Ways) != 2 || e.Ways[0].Address != o.dovecot.IMAP {
		t.Errorf("%+v %v", e, err)
	}

	contains(t, o.must(t, 0, "verify-routes"), "3 routes compared, 3 right")
	// What goes wrong at ISPs: the directory was changed and the mail was not
	// moved; nobody made the mailbox; a store that is gone.
	o.ldap.SetAttr(t, "bert", "mailHost", "old2")
	o.ldap.AddUsers(t, mailtest.LDAPUser{UID: "carl", MailHost: "old2"}, mailtest.LDAPUser{UID: "dora", MailHost: "old9"})
	out = o.must(t, 3, "verify-routes", "--parallel", "2")
	contains(t, out, "bert: missing at old2: no mail at old2, but old1 has 1 messages", "carl: nowhere at old2: no mailbox at old2",
		`dora: unrouted: unavailable: no configured store is called "old9"`, "5 routes compared, 2 right, 1 missing, 1 nowhere, 1 unrouted")
	contains(t, o.must(t, 0, "verify-routes", "anna", "--all"), "anna: right at old1")
	contains(t, o.must(t, 3, "verify-routes", "nobody"), "no directory knows this user")
	var vs []struct{ User, Verdict string }
	if err := json.Unmarshal([]byte(o.must(t, 3, "verify-routes", "--where", "(mailHost=old2)", "--json")), &vs); err != nil || len(vs) != 2 {
		t.Errorf("%+v %v", vs, err)
	}

	o.ldap.Stop()
	out = o.must(t, 0, "explain", "cleo")
	contains(t, out, "stands in for the directory", "=> cleo on old2")
	contains(t, o.must(t, 1, "explain", "anna@elsewhere.example"), "ends the search", "directory down: temporary failure")
	o.must(t, 1, "verify-routes")
	o.ldap.Start(t)
	o.dovecot.Stop()
	contains(t, o.must(t, 3, "verify-routes", "anna"), "anna: unknown at old1: old1: ")
}

// TestSessionsAreEndedPolitely: who, kick and drain with real stores, and what
// their clients see.
func TestSessionsAreEndedPolitely(t *testing.T) {
	o := newOffice(t, "", "")
	anna, bert, cleo := o.login(t, "anna"), o.login(t, "bert"), o.login(t, "cleo")
	anna.say(t, "b SELECT INBOX", "b OK")
	contains(t, o.must(t, 0, "who"), "anna  imap      127.0.0.1:", "old1   selected INBOX", "old2")
	var list []struct{ ID, User string }
	if err := json.Unmarshal([]byte(o.must(t, 0, "who", "--store", "old2", "--client", "127.0.0.0/8", "--json")), &list); err != nil || len(list) != 1 || list[0].User != "cleo" {
		t.Fatalf("%+v %v", list, err)
	}
	contains(t, o.must(t, 0, "kick", "--session", list[0].ID), "1 sessions end")
	cleo.say(t, "", "* BYE [UNAVAILABLE] Disconnected by the administrator")
	contains(t, o.must(t, 0, "drain", "old1", "--rate", "100/s"), "store old1 is empty and takes no sessions until")
	anna.say(t, "", "* BYE [UNAVAILABLE] Server is closed for maintenance")
	bert.say(t, "", "* BYE")
	late := dialTalk(t, o.imap)
	late.say(t, "a LOGIN anna secret", "a NO [UNAVAILABLE]")
	late.say(t, "b LOGIN cleo secret", "b OK")
	contains(t, o.must(t, 1, "explain", "anna"), "store old1 is being drained")
	o.must(t, 0, "drain", "stop", "old1")
	o.login(t, "anna")
}

// TestOneSessionIDInBothLogs: the id of a session in our log is in the store's
// log as well, for each protocol; and no log, even at level debug, holds a
// password. A reload changes levels and outputs under a session that goes on.
func TestOneSessionIDInBothLogs(t *testing.T) {
	pop := fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	sieve := fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	imap, lmtp := fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	logs := t.TempDir()
	listen := fmt.Sprintf("listen: {imap: [%q], lmtp: [%q], pop3: [%q], managesieve: [%q], imaps: [], pop3s: [], submission: [], submissions: [], admin: []}\n", imap, lmtp, pop, sieve)
	output := "log: {level: debug, outputs: [{to: file, path: %s/all.log}, {to: file, path: %s/pop3.log, services: [pop3], format: json, keep: 168h}]}\n"
	o := newOfficeAt(t, imap, lmtp, listen+fmt.Sprintf(output, logs, logs), ", identity: native")
	k := o.login(t, "anna")
	p := dialTalk(t, pop)
	p.say(t, "", "+OK")
	p.say(t, "USER anna", "+OK")
	p.say(t, "PASS secret", "+OK")
	s := dialTalk(t, sieve)
	s.say(t, "", "OK")
	s.say(t, `AUTHENTICATE "PLAIN" "`+base64.StdEncoding.EncodeToString([]byte("\x00anna\x00secret"))+`"`, "OK")
	k.say(t, "b NOOP", "b OK")
	wrong := dialTalk(t, imap)
	wrong.say(t, "a LOGIN anna hunter2", "a NO")
	ids := map[string]string{}
	var list []struct{ ID, Protocol string }
	if err := json.Unmarshal([]byte(o.must(t, 0, "who", "anna", "--json")), &list); err != nil || len(list) != 3 {
		t.Fatalf("%+v %v", list, err)
	}
	for _, i := range list {
		ids[i.Protocol] = i.ID
	}
	all := tail(logs+"/all.log", 1<<20)
	for protocol, id := range ids {
		if !regexp.MustCompile("(?m)msg=login.* protocol=" + protocol + " session=" + id).MatchString(all) {
			t.Errorf("no login of session %s by %s in our log:\n%s", id, protocol, all)
		}
		theirs := regexp.MustCompile("(?m)" + protocol + `-login: Info: Login: user=<anna>.*rip=127\.0\.0\.1.* session=<` + id + ">")
		if !theirs.MatchString(o.dovecot.Log()) {
			t.Errorf("no login of session %s by %s in the store's log:\n%s", id, protocol, o.dovecot.Log())
		}
	}
	only := tail(logs+"/pop3.log", 1<<20)
	if !strings.Contains(only, `"session":"`+ids["pop3"]+`"`) || strings.Contains(only, ids["imap"]) {
		t.Errorf("the log of POP3:\n%s", only)
	}
	for _, secret := range []string{"secret", "hunter2", o.dovecot.MasterPassword, o.cyrus.AdminPassword, o.ldap.ReadPass} {
		if text := all + only + tail(o.log.Name(), 1<<20); strings.Contains(strings.ReplaceAll(text, "admin.secret", ""), secret) {
			t.Errorf("the password %q is in a log", secret)
		}
	}

	// Another file, another level; sessions and deliveries go on.
	text, err := os.ReadFile(o.config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(strings.Replace(string(text), "level: debug", "level: warn, levels: {imap: info}", 1), "all.log", "other.log")
	if err := os.WriteFile(o.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for range 1000 { // the reload ends with the new file
		if _, err = os.Stat(logs + "/other.log"); err == nil {
			break
		}
		k.say(t, "c NOOP", "c OK")
	}
	k.say(t, "d SELECT INBOX", "d OK")
	p.say(t, "STAT", "+OK")
	s.say(t, "LISTSCRIPTS", "OK")
	o.login(t, "bert").say(t, "e NOOP", "e OK")
	if other := tail(logs+"/other.log", 1<<20); !strings.Contains(other, "user=bert") || strings.Contains(other, "DEBUG") {
		t.Errorf("the log after the reload:\n%s", other)
	}
}
