package migrate

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/line"
	"mailferry/internal/mailtest"
	"mailferry/store"
	"mailferry/store/imapd"
)

// served is an own store with its IMAP server, which believes any password.
type served struct {
	store  *store.Store
	server *imapd.Server
}

func serveOwn(t testing.TB) *served {
	t.Helper()
	return serveIMAP(t, ownStore(t))
}

// serveIMAP lets anybody in.
func serveIMAP(t testing.TB, st *store.Store) *served {
	t.Helper()
	s := &served{store: st}
	var err error
	s.server, err = imapd.New(imapd.Options{Store: s.store, ClearLogin: true,
		Authenticate: func(_ context.Context, name string, _ backend.Secret) (string, error) { return name, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.server.Shutdown(context.Background()) })
	return s
}

// side is the store as an audit sees it.
func (s *served) side(name, user string) AuditSide {
	st := &backend.Store{Name: name, Type: backend.StoreLocal, Address: "localhost", TLS: backend.TLSNone}
	return AuditSide{Name: name, Dial: func(ctx context.Context) (*remote.Client, error) {
		c, err := remote.DialIMAP(ctx, remote.Target{Store: st, User: user, Password: "x",
			Dial: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := line.Pipe()
				go s.server.ServeConn(context.Background(), theirs, imapd.ConnInfo{Trusted: true})
				return ours, nil
			}})
		if err != nil {
			return nil, err
		}
		return remote.NewClient(c), nil
	}}
}

// audited is what importUser files.
type audited struct {
	validity, next uint32
	modseq         uint64
	subs           []backend.MailboxName
	boxes          []backend.MailboxName
	msgs           []auditedMessage
}

type auditedMessage struct {
	uid   imap.UID
	date  time.Time
	flags []imap.Flag
	body  string
}

func exampleUser() audited {
	u := audited{validity: 7, next: 40, modseq: 90, subs: []backend.MailboxName{"INBOX"}, boxes: []backend.MailboxName{"INBOX", "Sent"}}
	for i := range 12 {
		u.msgs = append(u.msgs, auditedMessage{uid: imap.UID(3*i + 1), date: time.Unix(1e9+int64(i), 0),
			flags: []imap.Flag{imap.FlagSeen, "Work"}, body: fmt.Sprintf("Subject: %d\r\n\r\nbody %d\r\n", i, i)})
	}
	return u
}

func (s *served) importUser(t testing.TB, user string, u audited) {
	t.Helper()
	ctx := context.Background()
	fatal := func(err error) {
		if t.Helper(); err != nil {
			t.Fatal(err)
		}
	}
	imp, err := s.store.Importer().Import(ctx, user, backend.ImportOptions{Namespace: backend.DefaultNamespace})
	fatal(err)
	for _, name := range u.boxes {
		box, err := imp.Open(ctx, backend.ImportMailbox{Name: name, UIDValidity: u.validity})
		fatal(err)
		for _, m := range u.msgs {
			w, err := box.NewBody(ctx)
			fatal(err)
			_, err = w.Write([]byte(m.body))
			fatal(err)
			b, err := w.Finish()
			fatal(err)
			fatal(box.Put(ctx, []backend.ImportMessage{{UID: m.uid, ModSeq: 5, InternalDate: m.date, Flags: m.flags, Body: b}}))
		}
		fatal(box.Seal(ctx, u.next, u.modseq, 0))
	}
	fatal(imp.Subscriptions(ctx, u.subs))
	fatal(imp.Activate(ctx, 2))
}

// TestAuditFindsEveryFault puts one fault after the other into a copy.
func TestAuditFindsEveryFault(t *testing.T) {
	old, now := serveOwn(t), serveOwn(t)
	old.importUser(t, "u", exampleUser())
	for i, tt := range []struct {
		name  string
		o     AuditOptions
		spoil func(u *audited)
		want  string
	}{
		{"nothing", AuditOptions{Bodies: 100, Cached: true}, func(*audited) {}, ""},
		{"nothing, by content", AuditOptions{ByContent: true}, func(*audited) {}, ""},
		{"one octet", AuditOptions{Bodies: 100}, func(u *audited) { u.msgs[4].body = "Subject: 4\r\n\r\nbody 5\r\n" }, "octets:2"},
		{"one octet, by content", AuditOptions{ByContent: true}, func(u *audited) { u.msgs[4].body = "Subject: 4\r\n\r\nbody 5\r\n" },
			"message extra:2 message missing:2"},
		{"one octet more", AuditOptions{}, func(u *audited) { u.msgs[4].body += "x" }, "size:2"},
		{"a flag", AuditOptions{}, func(u *audited) { u.msgs[11].flags = []imap.Flag{imap.FlagSeen} }, "flags:2"},
		{"a flag, by content", AuditOptions{ByContent: true}, func(u *audited) { u.msgs[11].flags = nil }, "flags:2"},
		{"a date", AuditOptions{}, func(u *audited) { u.msgs[0].date = time.Unix(5, 0) }, "date:2"},
		{"a date, by content", AuditOptions{ByContent: true}, func(u *audited) { u.msgs[0].date = time.Unix(5, 0) }, "date:2"},
		{"a UID", AuditOptions{}, func(u *audited) { u.msgs[3].uid++ }, "message extra:2 message missing:2"},
		{"a UID, by content", AuditOptions{ByContent: true}, func(u *audited) { u.msgs[3].uid++ }, ""},
		{"a message less", AuditOptions{}, func(u *audited) { u.msgs = u.msgs[1:] }, "message missing:2"},
		{"a message twice, by content", AuditOptions{ByContent: true}, func(u *audited) {
			m := u.msgs[2]
			m.uid++
			u.msgs = slices.Insert(u.msgs, 3, m)
		}, "message extra:2"},
		{"UIDVALIDITY", AuditOptions{}, func(u *audited) { u.validity = 8 }, "uidvalidity:2"},
		{"UIDNEXT", AuditOptions{}, func(u *audited) { u.next = 41 }, "uidnext:2"},
		{"new mail", AuditOptions{New: true, Bodies: 100}, func(u *audited) {
			u.next = 41
			u.msgs = append(u.msgs, auditedMessage{uid: 40, date: time.Now(), body: "x"})
		}, ""},
		{"a mailbox less", AuditOptions{}, func(u *audited) { u.boxes = u.boxes[:1] }, "mailbox missing:1"},
		{"a mailbox more", AuditOptions{}, func(u *audited) { u.boxes = append(u.boxes, "Extra") }, "mailbox extra:1"},
		{"a subscription", AuditOptions{}, func(u *audited) { u.subs = []backend.MailboxName{"Sent"} }, "subscription:2"},
		{"a header field", AuditOptions{Cached: true}, func(u *audited) { u.msgs[0].body = "Subject: x\r\n\r\nbody 0\r\n" }, "envelope: other:2 header:2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := exampleUser()
			tt.spoil(&u)
			user := fmt.Sprint("copy", i)
			now.importUser(t, user, u)
			res, err := RunAudit(context.Background(), "u", old.side("old", "u"), now.side("new", user), tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := classes(res); got != tt.want || res.Equal != (tt.want == "") {
				t.Errorf("found %q (equal %v), want %q: %+v", got, res.Equal, tt.want, res.Differences)
			}
			if want := int64(12 * min(len(u.boxes), 2)); res.Messages != want || res.Mailboxes != 2 {
				t.Errorf("%d messages in %d mailboxes", res.Messages, res.Mailboxes)
			}
		})
	}
}

func classes(a *Audit) string {
	var list []string
	for class, n := range a.Classes {
		list = append(list, fmt.Sprintf("%s:%d", class, n))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// TestAuditOfRealStores copies from each real store and compares everything
// with what our own store then shows.
func TestAuditOfRealStores(t *testing.T) {
	realSources(t, func(t *testing.T, s *source) {
		ctx := context.Background()
		s.fill(t, s.conn(t))
		own := serveOwn(t)
		a := newAccount(s.user, s.dial, own.store.Importer())
		defer a.close()
		if p, err := a.sync(ctx); err != nil || p.err() != nil {
			t.Fatal(err, p.err())
		}
		if n, err := a.prove(ctx, 100); err != nil || n == 0 {
			t.Errorf("prove: %d messages, %v", n, err)
		}
		if err := a.imp.Activate(ctx, 2); err != nil {
			t.Fatal(err)
		}
		res, err := RunAudit(ctx, s.user, AuditSide{Name: "old", Dial: s.dial}, own.side("home", s.user), AuditOptions{Bodies: 100, Cached: true})
		if err != nil {
			t.Fatal(err)
		}
		if !res.Equal || res.Bodies != res.Messages || res.Messages < 100 {
			t.Errorf("%d messages, %d bodies: %s\n%v", res.Messages, res.Bodies, classes(res), res.Differences)
		}
		c := s.conn(t)
		c.Append("INBOX", "", time.Time{}, bodies[0])
		res, err = RunAudit(ctx, s.user, AuditSide{Name: "old", Dial: s.dial}, own.side("home", s.user), AuditOptions{})
		if err != nil || res.Equal || res.Classes[ClassMissing] != 1 || res.Classes[ClassUIDNext] != 1 {
			t.Errorf("one more message at the source: %s, %v", classes(res), err)
		}
	}, "dovecot-prefix", "cyrus-alt")
}

// TestAuditCorpus counts by class what clients keep for ever and what our store
// writes in another form than the old one did; docs/migration.md names the reasons.
func TestAuditCorpus(t *testing.T) {
	corpus := mailtest.Corpus(t)
	n := 250
	if mailtest.Soaking() {
		n = corpus.Len()
	}
	realSources(t, func(t *testing.T, s *source) {
		ctx := context.Background()
		c := s.conn(t)
		for i := range n {
			c.Append("INBOX", "", time.Unix(1e9, 0), corpus.Message(t, i*corpus.Len()/n))
		}
		own := serveOwn(t)
		a := newAccount(s.user, s.dial, own.store.Importer())
		defer a.close()
		if p, err := a.sync(ctx); err != nil || p.err() != nil {
			t.Fatal(err, p.err())
		}
		if err := a.imp.Activate(ctx, 2); err != nil {
			t.Fatal(err)
		}
		res, err := RunAudit(ctx, s.user, AuditSide{Name: "old", Dial: s.dial}, own.side("home", s.user),
			AuditOptions{Bodies: 100, Cached: true, Samples: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for class := range res.Classes {
			switch class {
			case ClassEnvelopeSpace, ClassEnvelopeAddress, ClassStructureCharset, ClassStructureEncoding:
			case ClassStructure: // three in 6,000 break MIME itself
				if res.Classes[class] > n/2000 {
					t.Errorf("%d structures differ", res.Classes[class])
				}
			default:
				t.Errorf("class %q differs", class)
			}
		}
		if s.store.Type == backend.StoreDovecot && len(res.Classes) > 0 {
			t.Errorf("from Dovecot something differs: %s: %v", classes(res), res.Differences)
		}
		t.Logf("%d messages: %s", res.Messages, classes(res))
		for _, d := range res.Differences {
			if d.Class == ClassEnvelope || d.Class == ClassStructure {
				t.Logf("%s UID %d: %s", d.Class, d.UID, d.What)
			}
		}
	}, "dovecot", "cyrus")
}
