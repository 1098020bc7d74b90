package migrate

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
	"mailferry/store"
)

// popSource is a real old store whose POP3 shows ids of one format.
type popSource struct {
	*source
	pop3 string // host:port
	log  func() string
}

// ask is the list of POP3 as the user gets it.
func (s *popSource) ask(t *testing.T) (ids []string) {
	t.Helper()
	c := s.text(t)
	m, err := c.Maildrop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	for i := range m.Len() {
		ids = append(ids, m.UIDL(i))
	}
	return ids
}

func (s *popSource) text(t *testing.T) *remote.POP3Client {
	t.Helper()
	st := *s.store
	st.Login = backend.Login{Mode: backend.LoginUser}
	c, err := remote.DialPOP3(t.Context(), remote.Target{Store: &st, User: s.user, Password: backend.Secret(s.password), Raw: true})
	if err != nil {
		t.Fatal(err)
	}
	return remote.NewPOP3Client(c)
}

func withPOP3(s *source, addr string) *popSource {
	_, port, _ := net.SplitHostPort(addr)
	s.store.Ports[backend.POP3], _ = strconv.Atoi(port)
	return &popSource{source: s, pop3: addr}
}

// fillPOP3 makes an INBOX with holes, equal sizes, equal headers and equal
// messages, and a second mailbox.
func (s *popSource) fillPOP3(t *testing.T) *mailtest.IMAPConn {
	t.Helper()
	c := s.conn(t)
	msg := func(n int, body string) []byte {
		return []byte(fmt.Sprintf("From: a@example.org\r\nSubject: message %04d\r\nMessage-Id: <%d@x>\r\n\r\n%s\r\n", n, n, body))
	}
	when := func(n int) time.Time { return time.Date(2020, 1, n+1, 0, 0, 0, 0, time.UTC) }
	for n := range 12 {
		c.Append("INBOX", `\Seen`, when(n), msg(n, strings.Repeat("x", n%3*100)))
	}
	for n := range 3 { // one header, bodies of one length
		c.Append("INBOX", "", when(n), msg(77, strings.Repeat(string(rune('a'+n)), 50)))
	}
	for n := range 2 { // nothing tells them apart
		c.Append("INBOX", "", when(n), msg(88, "twins"))
	}
	c.Append("INBOX", "", when(20), bytes.ReplaceAll(msg(99, "..\r\n.\r\nend"), []byte("Subject"), []byte("Status: O\r\nSubject")))
	c.Cmd("SELECT INBOX")
	c.Cmd(`UID STORE 3,9:10 +FLAGS.SILENT (\Deleted)`)
	c.Cmd("EXPUNGE")
	c.Cmd("CLOSE") // Courier has no UNSELECT
	c.Cmd("CREATE %s", mailtest.Quote(s.box("Other")))
	c.Append(s.box("Other"), "", time.Time{}, msg(5, "elsewhere"))
	return c
}

// movePOP3 moves the user into our own store.
func (s *popSource) movePOP3(t *testing.T, own *store.Store, spec BatchSpec, change func()) (UserStatus, *Certificate) {
	t.Helper()
	places := newFakePlacements()
	places.quiet = func(user string, epoch uint64) []backend.Confirmation {
		if change != nil {
			change()
			change = nil
		}
		return []backend.Confirmation{{Node: "n1", User: user, Epoch: epoch, Frozen: 1}}
	}
	e, err := New(Options{Dir: t.TempDir(), Importer: own.Importer(), Placements: places, Timing: Timing{BackOff: time.Millisecond},
		Stores: map[string]*backend.Store{"old": s.store, "home": {Name: "home", Type: backend.StoreLocal}},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	spec.Users = []string{s.user}
	st := wait(t, e, start(t, e, spec))
	c, err := e.Certificate(s.user)
	if err != nil && st.Users[0].State == Final {
		t.Fatal(err)
	}
	return st.Users[0], c
}

// drop is what our POP3 shows.
func drop(t *testing.T, own *store.Store, user string) (ids []string) {
	t.Helper()
	a, err := own.Account(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	d, err := a.Maildrop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.Messages {
		ids = append(ids, d.UIDL(&d.Messages[i]))
	}
	return ids
}

func dovecotPOP3(t *testing.T, extra string) *popSource {
	return dovecotDrop(t, mailtest.DovecotOptions{Extra: extra})
}

func dovecotDrop(t *testing.T, o mailtest.DovecotOptions) *popSource {
	d := mailtest.StartDovecot(t, o)
	s := &source{addr: d.IMAP, user: "anna", password: d.Password, sep: d.Separator, prefix: d.Prefix,
		store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster,
			User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})}
	p := withPOP3(s, d.POP3)
	p.log = d.Log
	return p
}

func cyrusPOP3(t *testing.T, extra string) *popSource {
	c := mailtest.StartCyrus(t, mailtest.CyrusOptions{Users: []string{"anna"}, Extra: extra})
	s := &source{addr: c.IMAP, user: "anna", password: c.Password, sep: c.Separator, prefix: c.Prefix,
		store: storeAt(t, backend.StoreCyrus, c.IMAP, backend.Login{Mode: backend.LoginAuthzid,
			User: c.Admin, Secret: backend.Secret(c.AdminPassword)})}
	return withPOP3(s, c.POP3)
}

// TestPOP3Identities: whatever ids a server makes, ours shows the same ones in
// the same order, also of mail that came in the hold. Ids that follow a pattern
// cost one POP3 session and no message.
func TestPOP3Identities(t *testing.T) {
	for _, k := range []struct {
		name  string
		start func(t *testing.T) *popSource
		form  backend.UIDLFormat
	}{
		{"dovecot", func(t *testing.T) *popSource { return dovecotPOP3(t, "") }, backend.UIDLDovecot},
		{"dovecot-old", func(t *testing.T) *popSource { return dovecotPOP3(t, "pop3_uidl_format = %08Xv%08Xu") }, backend.UIDLDovecotOld},
		{"dovecot-guid", func(t *testing.T) *popSource { return dovecotPOP3(t, "pop3_uidl_format = %g") }, ""},
		{"cyrus", func(t *testing.T) *popSource { return cyrusPOP3(t, "") }, backend.UIDLCyrus},
		{"cyrus-uidonly", func(t *testing.T) *popSource { return cyrusPOP3(t, "uidl_format: uidonly") }, backend.UIDLPlain},
		{"cyrus-dovecot", func(t *testing.T) *popSource { return cyrusPOP3(t, "uidl_format: dovecot") }, backend.UIDLDovecot},
		{"cyrus-courier", func(t *testing.T) *popSource { return cyrusPOP3(t, "uidl_format: courier") }, backend.UIDLDashed},
	} {
		t.Run(k.name, func(t *testing.T) {
			s, own := k.start(t), ownStore(t)
			c := s.fillPOP3(t)
			before := s.ask(t)
			st, cert := s.movePOP3(t, own, BatchSpec{To: "home"}, func() {
				c.Append("INBOX", "", time.Time{}, []byte("Subject: in the hold\r\n\r\nlate\r\n"))
				c.Cmd("SELECT INBOX")
				c.Cmd(`UID STORE 5 +FLAGS.SILENT (\Deleted)`)
				c.Cmd("EXPUNGE")
				c.Cmd("UNSELECT")
			})
			if st.State != Final {
				t.Fatalf("%+v", st)
			}
			if s.log != nil && k.form != "" { // ours and the test's own before
				log := s.log()
				if n := strings.Count(log, "pop3-login: Info: Login: user=<anna>"); n != 2 {
					t.Errorf("%d POP3 sessions", n-1)
				}
				if n := strings.Count(log, "top=0/0, retr=0/0"); n != 2 {
					t.Errorf("POP3 sessions without a message: %d\n%s", n, log)
				}
			}
			old, ours := s.ask(t), drop(t, own, s.user)
			if !slices.Equal(old, ours) || len(old) != len(before) {
				t.Errorf("old store %q\nnew store %q", old, ours)
			}
			p := cert.POP3
			t.Logf("%+v, hold %v", *p, cert.Pause.Hold)
			if p == nil || !p.Compared || p.Flipped != "equal" || p.Form != k.form || p.Unmatched+p.Elsewhere+p.Hidden != 0 {
				t.Errorf("certificate: %+v", p)
			}
		})
	}
}
