package app

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/internal/mailtest"
	"mailferry/migrate"
)

// farm is an old store with its directory, and a node before them.
type farm struct {
	old  *mailtest.Dovecot
	ldap *mailtest.Slapd
	node *App
	data string

	setup *setup
}

// farmConfig names the peers as docs/migration.md says.
const farmConfig = anyPort + `
directories:
  - name: company
    type: ldap
    servers: [%q]
    ca: %q
    bind_dn: %q
    bind_password: %q
    base: %q
    filter: (&(objectClass=inetOrgPerson)(|(uid={user})(mail={user})))
    list_filter: (objectClass=inetOrgPerson)
    attributes: {user: uid, store: mailHost, recipients: mail}
    write: {bind_dn: %q, password: %q}
  - {name: local, type: local}
stores:
  - {name: home, type: local}
  - name: old1
    type: dovecot
    address: localhost
    ca: %q
    ports: {imap: %s, lmtp: %s}
    login: {mode: master, user: %q, password: %q}
move_groups:
  - {name: farm, stores: [old1, home]}
`

// startFarm runs peers and a node; users live on the old store.
func startFarm(t *testing.T, users ...string) *farm {
	t.Helper()
	mailtest.Require(t, "slapd", "dovecot")
	ca := mailtest.NewCA(t)
	f := &farm{old: mailtest.StartDovecot(t, mailtest.DovecotOptions{CA: ca, Separator: ".", Prefix: "INBOX.", UsernameFormat: "%Ln"}),
		ldap: mailtest.StartSlapd(t, mailtest.SlapdOptions{CA: ca})}
	for _, u := range users {
		f.ldap.AddUsers(t, mailtest.LDAPUser{UID: u, MailHost: "old1"})
	}
	s := newSetup(t, fmt.Sprintf(farmConfig, f.ldap.TLSURL, ca.Cert, f.ldap.ReaderDN, f.ldap.ReadPass, f.ldap.People, f.ldap.MoverDN,
		f.ldap.MoverPass, ca.Cert, portOf(f.old.IMAP), portOf(f.old.LMTP), f.old.MasterUser, f.old.MasterPassword))
	f.node, f.data, f.setup = s.start(t), s.data, s
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the node:\n%s", s.log.String())
		}
	})
	return f
}

func portOf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	return port
}

// login opens a session through the proxy.
func (f *farm) login(t *testing.T, user, password string, o *imapclient.Options) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialInsecure(f.node.Addr("imap"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Login(user, password).Wait(); err != nil {
		t.Fatalf("login of %s: %v", user, err)
	}
	return c
}

// deliver sends a message by LMTP through the proxy.
func (f *farm) deliver(t *testing.T, to, subject string) {
	t.Helper()
	if err := f.send(to, subject); err != nil {
		t.Fatalf("delivery to %s: %v", to, err)
	}
}

func (f *farm) send(to, subject string) error {
	conn, err := net.Dial("tcp", f.node.Addr("lmtp"))
	if err != nil {
		return err
	}
	c := smtp.NewClientLMTP(conn)
	defer c.Close()
	text := "From: a@example.org\r\nTo: " + to + "\r\nSubject: " + subject + "\r\n\r\nHello.\r\n"
	return c.SendMail("a@example.org", []string{to}, strings.NewReader(text))
}

// TestMoveWhileConnected is the whole way once: a login by LDAP, a delivery and
// a session on the old store; the move; the same session and a delivery on the
// new one.
func TestMoveWhileConnected(t *testing.T) {
	f := startFarm(t, "anna")
	for i := range 5 {
		f.deliver(t, "anna@example.org", fmt.Sprintf("before %d", i))
	}
	heard := make(chan uint32, 16)
	idler := f.login(t, "anna", "secret", &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(d *imapclient.UnilateralDataMailbox) {
			if d.NumMessages != nil {
				heard <- *d.NumMessages
			}
		}}})
	box, err := idler.Select("INBOX", nil).Wait()
	if err != nil || box.NumMessages != 5 {
		t.Fatalf("on the old store: %+v %v", box, err)
	}
	idle, err := idler.Idle()
	if err != nil {
		t.Fatal(err)
	}
	reader := f.login(t, "anna@example.org", "secret", nil)
	if _, err := reader.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}

	cert := f.move(t, "anna")
	if cert.Grade != "perfect" || cert.Messages != 5 || cert.Pause == nil || cert.Pause.Closed > 0 {
		t.Errorf("certificate %+v, pause %+v", cert, cert.Pause)
	}
	if host := f.ldap.MailHost(t, "anna"); host != "home" {
		t.Errorf("directory says %q", host)
	}

	f.deliver(t, "anna@example.org", "after")
	select {
	case n := <-heard:
		if n != 6 {
			t.Errorf("the idle session heard of %d messages", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("the idle session hears nothing of new mail")
	}
	if err := idle.Close(); err != nil {
		t.Errorf("idle: %v", err)
	}
	if err := idle.Wait(); err != nil {
		t.Errorf("idle: %v", err)
	}
	if err := reader.Noop().Wait(); err != nil { // tells it of the sixth
		t.Error(err)
	}
	got, err := reader.Fetch(imap.SeqSetNum(1, 6), &imap.FetchOptions{UID: true, Envelope: true}).Collect()
	if err != nil || len(got) != 2 || got[0].UID != 1 || got[1].Envelope.Subject != "after" {
		t.Errorf("the reading session after the move: %v %v", got, err)
	}
	f.verify(t)
	f.old.Stop() // nobody needs it any more
	again := f.login(t, "anna", "secret", nil)
	after, err := again.Select("INBOX", nil).Wait()
	if err != nil || after.NumMessages != 6 || after.UIDValidity != box.UIDValidity {
		t.Errorf("on the new store: %+v %v", after, err)
	}
}

// verify compares the frozen old store with the new one: what came since the
// flip is new, or a difference.
func (f *farm) verify(t *testing.T) {
	t.Helper()
	c := admin.NewClient(f.data)
	defer c.Close()
	for _, strict := range []bool{false, true} {
		var got []admin.Verification
		err := c.Verify(t.Context(), admin.VerifyRequest{Users: []string{"anna"}, From: "old1", To: "home", Bodies: 100, Cached: true, New: !strict},
			func(v admin.Verification) error { got = append(got, v); return nil })
		if err != nil || len(got) != 1 || got[0].Equal == strict || got[0].Messages != 5 || got[0].Bodies != 5 {
			t.Errorf("verify, strict %v: %+v %v", strict, got, err)
		}
		if strict && got[0].Classes["message extra"] != 1 {
			t.Errorf("verify finds %v", got[0].Classes)
		}
	}
	err := c.Verify(t.Context(), admin.VerifyRequest{Users: []string{"anna"}, From: "old1", To: "nowhere"}, nil)
	if !backend.IsKind(err, backend.KindInvalid) {
		t.Errorf("verify with a store that is not there: %v", err)
	}
}

// move moves a user by the admin API and returns the certificate.
func (f *farm) move(t *testing.T, user string) *migrate.Certificate {
	t.Helper()
	c := admin.NewClient(f.data)
	defer c.Close()
	b, err := c.Migrations().Start(t.Context(), admin.MoveRequest{Users: []string{user}, To: "home"})
	if err != nil {
		t.Fatal(err)
	}
	var last admin.Batch
	err = c.Migrations().Watch(t.Context(), b.ID, func(b admin.Batch) error {
		last = b
		return nil
	})
	if err != nil || last.Moved != 1 {
		t.Fatalf("move: %+v %v", last, err)
	}
	text, err := c.Migrations().Report(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	cert := &migrate.Certificate{}
	if err := json.Unmarshal(text, cert); err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestDryRunAndFilter changes nothing.
func TestDryRunAndFilter(t *testing.T) {
	f := startFarm(t, "anna", "bob")
	f.deliver(t, "anna@example.org", "one")
	c := admin.NewClient(f.data)
	defer c.Close()
	b, err := c.Migrations().Start(t.Context(), admin.MoveRequest{Where: "(uid=a*)", From: "old1", To: "home", Dry: true})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Migrations().Watch(t.Context(), b.ID, func(next admin.Batch) error {
		b = next
		return nil
	})
	page, err2 := c.Migrations().Moves(t.Context(), admin.MoveQuery{Batch: b.ID, States: []string{"checked"}})
	if err != nil || err2 != nil || b.Users != 1 || b.Moved != 1 || len(page.Moves) != 1 || page.Moves[0].User != "anna" || page.Next != -1 {
		t.Errorf("%+v %v, %+v %v", b, err, page, err2)
	}
	if host := f.ldap.MailHost(t, "anna"); host != "old1" {
		t.Errorf("directory says %q", host)
	}
	e, err := c.Explain(t.Context(), "anna@example.org")
	if err != nil || !strings.Contains(e.Route, "old1 (dovecot at localhost") {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := os.Stat(filepath.Join(f.data, dirMoves, b.ID)); err != nil {
		t.Errorf("journal: %v", err)
	}
}
