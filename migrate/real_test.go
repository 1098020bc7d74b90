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

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

// source is a real old store with one user.
type source struct {
	store       *backend.Store
	addr        string
	user        string
	password    string
	sep, prefix string
	learned     remote.Learned
	kill        func()           // -9
	start       func(testing.TB) // again, behind kill
}

func storeAt(t testing.TB, typ backend.StoreType, addr string, login backend.Login) *backend.Store {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	return &backend.Store{Name: "old", Type: typ, Address: host, Ports: map[backend.Protocol]int{backend.IMAP: n},
		TLS: backend.TLSNone, Login: login}
}

// realSources runs test against every kind of real store, or those named.
func realSources(t *testing.T, test func(t *testing.T, s *source), only ...string) {
	dovecot := func(o mailtest.DovecotOptions) func(t *testing.T) *source {
		return func(t *testing.T) *source {
			d := mailtest.StartDovecot(t, o)
			return &source{addr: d.IMAP, user: "anna", password: d.Password, sep: d.Separator, prefix: d.Prefix, kill: d.Kill, start: d.Start,
				store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster,
					User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})}
		}
	}
	cyrus := func(o mailtest.CyrusOptions) func(t *testing.T) *source {
		return func(t *testing.T) *source {
			o.Users = []string{"anna"}
			c := mailtest.StartCyrus(t, o)
			return &source{addr: c.IMAP, user: "anna", password: c.Password, sep: c.Separator, prefix: c.Prefix, kill: c.Kill, start: c.Start,
				store: storeAt(t, backend.StoreCyrus, c.IMAP, backend.Login{Mode: backend.LoginAuthzid,
					User: c.Admin, Secret: backend.Secret(c.AdminPassword)})}
		}
	}
	for _, k := range []struct {
		name  string
		start func(t *testing.T) *source
	}{
		{"dovecot", dovecot(mailtest.DovecotOptions{})},
		{"dovecot-prefix", dovecot(mailtest.DovecotOptions{Separator: ".", Prefix: "INBOX.", Format: "mdbox"})},
		{"cyrus", cyrus(mailtest.CyrusOptions{})},
		{"cyrus-alt", cyrus(mailtest.CyrusOptions{UnixHierarchySep: true, AltNamespace: true})},
	} {
		if len(only) == 0 || slices.Contains(only, k.name) {
			t.Run(k.name, func(t *testing.T) { test(t, k.start(t)) })
		}
	}
}

func (s *source) dial(ctx context.Context) (*remote.Client, error) {
	c, err := remote.DialIMAP(ctx, remote.Target{Store: s.store, User: s.user, Learned: &s.learned})
	if err != nil {
		return nil, err
	}
	return remote.NewClient(c), nil
}

func (s *source) conn(t testing.TB) *mailtest.IMAPConn {
	c := mailtest.DialIMAP(t, s.addr)
	c.Login(s.user, s.password)
	return c
}

// box is a mailbox name as this store shows it, in wire form.
func (s *source) box(components ...string) string {
	if len(components) == 1 && components[0] == "INBOX" {
		return "INBOX"
	}
	return s.prefix + remote.EncodeName(strings.Join(components, s.sep))
}

var bodies = [][]byte{
	[]byte("From: a@example.org\r\nSubject: one\r\nMessage-Id: <1@x>\r\n\r\nHello\r\n"),
	[]byte("From: a@example.org\r\nSubject: one\r\nMessage-Id: <1@x>\r\n\r\nOther body, same header\r\n"),
	[]byte("x"),
	[]byte("\r\n"),
	[]byte("no header at all\r\n\r\n"),
	[]byte("Subject: gr\xfc\xdf\r\n\r\nLatin-1 \xe4\xf6\r\n"),
	[]byte("Subject: long\r\n\r\n" + strings.Repeat("0123456789", 20000) + "\r\n"),
	[]byte("Subject: brackets\r\n\r\n) OK {5}\r\n* 1 EXPUNGE\r\nmf1 OK done\r\n"),
}

// fill makes folders and messages that tools are known to trip over.
func (s *source) fill(t testing.TB, c *mailtest.IMAPConn) [][]string {
	t.Helper()
	boxes := [][]string{{"INBOX"}, {"Entwürfe"}, {"R&D"}, {"Projekte"}, {"Projekte", "2024"}, {"日本語"}, {"two  blanks"}, {"leer"}}
	zones := []*time.Location{time.UTC, time.FixedZone("", 5*3600+1800), time.FixedZone("", -11*3600), time.FixedZone("", 14*3600)}
	for i, b := range boxes {
		name := s.box(b...)
		if b[0] != "INBOX" {
			c.Cmd("CREATE %s", mailtest.Quote(name))
		}
		if b[0] == "leer" {
			continue
		}
		for n := range 24 {
			flags := []string{`\Seen`, `\Flagged $Forwarded`, "", `\Answered \Deleted`, `\Draft Arbeit`, "Junk NonJunk"}[(n+i)%6]
			body := bodies[(n+i)%len(bodies)]
			if s.store.Type == backend.StoreCyrus && !bytes.Contains(body, []byte(": ")) {
				body = bodies[0] // it refuses messages without a header
			}
			c.Append(name, flags, time.Date(2003+n, 2, 28, n, 59, 1, 0, zones[n%4]), body)
		}
		c.Cmd("SELECT %s", mailtest.Quote(name))
		c.Cmd(`UID STORE 3,7:9,24 +FLAGS.SILENT (\Deleted)`)
		c.Cmd(`UID EXPUNGE 3,7:9,24`)
		c.Cmd("UNSELECT")
		c.Cmd("SUBSCRIBE %s", mailtest.Quote(name))
	}
	return boxes
}

// equal compares the copy with the source, read by another client.
func (s *source) equal(t testing.TB, fs *fakeStore, boxes [][]string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := imapclient.New(conn, nil)
	defer c.Close()
	if err := c.Login(s.user, s.password).Wait(); err != nil {
		t.Fatal(err)
	}
	for _, components := range boxes {
		name := components[0]
		if len(components) > 1 || name != "INBOX" {
			name = s.prefix + strings.Join(components, s.sep)
		}
		s.equalBox(t, c, name, fs.box(t, s.user, components...))
	}
}

func (s *source) equalBox(t testing.TB, c *imapclient.Client, name string, b *fakeBox) {
	t.Helper()
	sel, err := c.Select(name, &imap.SelectOptions{ReadOnly: true, CondStore: true}).Wait()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if sel.UIDValidity != b.meta.UIDValidity || uint32(sel.UIDNext) != b.next || sel.HighestModSeq != b.modseq || int(sel.NumMessages) != len(b.msgs) {
		t.Errorf("%s: source %d %d %d %d, copy %d %d %d %d (uidvalidity, uidnext, modseq, messages)", name, sel.UIDValidity, sel.UIDNext,
			sel.HighestModSeq, sel.NumMessages, b.meta.UIDValidity, b.next, b.modseq, len(b.msgs))
	}
	if sel.NumMessages == 0 {
		return
	}
	msgs, err := c.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{UID: true, Flags: true, InternalDate: true, ModSeq: true,
		BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, m := range msgs {
		got := b.msgs[m.UID]
		if got == nil {
			t.Errorf("%s: UID %d lost", name, m.UID)
			continue
		}
		if !bytes.Equal(got.data, m.BodySection[0].Bytes) {
			t.Errorf("%s: UID %d: octets differ", name, m.UID)
		}
		if !got.InternalDate.Equal(m.InternalDate) || got.InternalDate.Format("-0700") != m.InternalDate.Format("-0700") {
			t.Errorf("%s: UID %d: date %v, source %v", name, m.UID, got.InternalDate, m.InternalDate)
		}
		if f, g := sorted(got.Flags), sorted(m.Flags); f != g || got.ModSeq != m.ModSeq {
			t.Errorf("%s: UID %d: flags %s modseq %d, source %s %d", name, m.UID, f, got.ModSeq, g, m.ModSeq)
		}
	}
}

func sorted(flags []imap.Flag) string {
	list := make([]string, 0, len(flags))
	for _, f := range flags {
		if f != `\Recent` {
			list = append(list, strings.ToLower(string(f)))
		}
	}
	slices.Sort(list)
	return fmt.Sprint(list)
}

func TestRealCopyAndFollow(t *testing.T) {
	realSources(t, func(t *testing.T, s *source) {
		ctx := context.Background()
		fs := newFakeStore()
		c := s.conn(t)
		boxes := s.fill(t, c)
		a := newAccount(s.user, s.dial, fs)
		defer a.close()
		pass := func(what string) *pass {
			t.Helper()
			p, err := a.sync(ctx)
			if err == nil {
				err = p.err()
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			s.equal(t, fs, boxes)
			if err := a.compare(ctx, false); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return p
		}
		pass("copy")
		copied := fs.puts
		if p := pass("nothing changed"); p.Changed != 0 {
			t.Errorf("unchanged account: %+v", p)
		}

		c.Cmd("SELECT INBOX")
		c.Cmd(`UID STORE 1:5 +FLAGS (\Flagged Neu)`)
		c.Cmd(`UID STORE 11 +FLAGS.SILENT (\Deleted)`)
		c.Cmd("UID EXPUNGE 11")
		c.Append("INBOX", `\Seen`, time.Time{}, bodies[0])
		c.Cmd("UID COPY 12:13 %s", mailtest.Quote(s.box("leer")))
		if p := pass("delta"); p.Copied != 3 || p.Vanished != 1 {
			t.Errorf("delta: %+v", p)
		}
		if fs.puts != copied+3 {
			t.Errorf("%d messages put for 3 new ones", fs.puts-copied)
		}

		// The connection has this mailbox selected: its status must not be
		// what the session last saw.
		c.Append(s.box("leer"), "", time.Time{}, bodies[0])
		if p := pass("new mail in the selected mailbox"); p.Copied != 1 {
			t.Errorf("new mail in the selected mailbox: %+v", p)
		}

		// More than a tenth of a mailbox goes: only after a second listing.
		c.Cmd("SELECT %s", mailtest.Quote(s.box("Entwürfe")))
		c.Cmd(`STORE 1:* +FLAGS.SILENT (\Deleted)`)
		c.Cmd("EXPUNGE")
		c.Cmd("UNSELECT")
		c.Cmd("RENAME %s %s", mailtest.Quote(s.box("R&D")), mailtest.Quote(s.box("F&E")))
		c.Cmd("DELETE %s", mailtest.Quote(s.box("leer")))
		boxes = slices.DeleteFunc(boxes, func(b []string) bool { return b[0] == "leer" })
		boxes[slices.IndexFunc(boxes, func(b []string) bool { return b[0] == "R&D" })] = []string{"F&E"}
		pass("expunge, rename, delete")

		// A new process finds what is there and fetches nothing.
		a.close()
		copied = fs.puts
		a = newAccount(s.user, s.dial, fs)
		pass("resume")
		if fs.puts != copied {
			t.Errorf("resume put %d messages", fs.puts-copied)
		}
		if cert := a.certify("compared"); cert.Grade != "perfect" {
			t.Errorf("certificate %+v", cert)
		}
	})
}
