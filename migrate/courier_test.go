package migrate

import (
	"context"
	"slices"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

func courierSource(t *testing.T, extra string) *popSource {
	c := mailtest.StartCourier(t, mailtest.CourierOptions{Extra: extra})
	s := &source{addr: c.IMAP, user: "anna", password: c.Password, sep: c.Separator, prefix: c.Prefix,
		store: storeAt(t, backend.StoreCourier, c.IMAP, backend.Login{Mode: backend.LoginUser})}
	return withPOP3(s, c.POP3)
}

// TestMoveFromCourier: a store without administrator, modseqs, UIDNEXT in SELECT
// and LIST-STATUS is read with the user's own password. Mail, subscriptions,
// access rights, POP3 ids and their order arrive.
func TestMoveFromCourier(t *testing.T) {
	// Its POP3 counts UIDs of its own, so that its ids are kept one by one.
	for name, form := range map[string]struct {
		extra string
		form  backend.UIDLFormat
	}{
		"default": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, own := courierSource(t, form.extra), ownStore(t)
			c := s.fillPOP3(t)
			// Its POP3 wraps these, and makes the wrapping anew each time, for clients
			// that do not speak UTF8; nor does their size tell them apart.
			for _, word := range []string{"gr\xc3\xbc\xc3\x9f", "s\xc3\xbc\xc3\x9f."} {
				c.Append("INBOX", `\Seen`, time.Time{}, []byte("From: a@example.org\r\nSubject: "+word+"\r\n\r\ntext\r\n"))
			}
			c.Cmd("SUBSCRIBE INBOX.Other")
			c.Cmd("SUBSCRIBE INBOX.Gone")
			c.Cmd("SETACL INBOX.Other bert lr")
			t.Logf("before: %q", s.ask(t))
			each := map[string]UserOptions{s.user: {Password: backend.Secret(s.password)}}
			st, cert := s.movePOP3(t, own, BatchSpec{To: "home", Each: each}, func() {
				c.Append("INBOX", "", time.Time{}, []byte("Subject: in the hold\r\n\r\nlate\r\n"))
				c.Cmd("SELECT INBOX")
				c.Cmd(`UID STORE 5 +FLAGS.SILENT (\Deleted)`)
				c.Cmd("EXPUNGE")
				c.Cmd("SELECT INBOX.Other")
			})
			if st.State != Final {
				t.Fatalf("%+v", st)
			}
			t.Logf("%+v %+v hold %v", cert.POP3, cert.Side, cert.Pause.Hold)
			for _, e := range cert.Exception {
				t.Logf("%+v", e)
			}
			if old, ours := s.ask(t), drop(t, own, s.user); !slices.Equal(old, ours) {
				t.Errorf("old store %q\nnew store %q", old, ours)
			}
			if p := cert.POP3; p == nil || p.Form != form.form || !p.Compared || p.Flipped != "equal" || p.Unmatched != 0 {
				t.Errorf("POP3: %+v", p)
			}
			conn, err := remote.DialIMAP(t.Context(), remote.Target{Store: s.store, User: s.user, Password: backend.Secret(s.password)})
			if err != nil {
				t.Fatal(err)
			}
			old := remote.NewClient(conn)
			defer old.Close()
			survey, err := old.Survey(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			a, err := own.Account(t.Context(), s.user)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range survey.Mailboxes {
				name, _ := cert.Namespace.Name(m.Name)
				mb, err := a.Mailbox(t.Context(), name)
				if err != nil || m.Status != nil && (mb.UIDValidity != m.Status.UIDValidity || uint32(mb.UIDNext) != m.Status.UIDNext || mb.Messages != m.Status.Messages) {
					t.Errorf("%s: %+v, %v; want %+v", m.Name, mb, err, m.Status)
				}
			}
			unread := 0
			in, err := a.Mailbox(t.Context(), backend.Inbox)
			if err == nil {
				unread = int(in.Unseen)
			}
			if unread != 7 { // what was matched by POP3 stays unread
				t.Errorf("%d unread messages, %v", unread, err)
			}
			subs, err := a.Subscriptions(t.Context())
			if err != nil || !slices.Contains(subs, "Gone") || !slices.Contains(subs, "Other") {
				t.Errorf("subscriptions %q, %v", subs, err)
			}
			d, err := a.SideData(t.Context())
			if err != nil || !slices.ContainsFunc(d.ACLs, func(l backend.MailboxACL) bool {
				return l.Mailbox == "Other" && slices.Contains(l.Entries, backend.ACLEntry{Identifier: "bert", Rights: "lr"})
			}) {
				t.Errorf("access rights %+v, %v", d, err)
			}
		})
	}
}
