package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/store"
	"mailferry/store/message"
)

// subject is that of the structure kept with a message, "" without one.
func (f fixture) subject(name backend.MailboxName) string {
	f.t.Helper()
	snap := f.snapshot(name)
	defer snap.Close()
	blob, err := snap.Structure(snap.Mailbox().UIDNext - 1)
	if err != nil {
		f.t.Fatal(err)
	}
	var m message.Message
	if m.UnmarshalBinary(blob) != nil {
		return ""
	}
	return m.Envelope.Subject.Value
}

// TestStructureIsKept: whichever way a message comes, its structure is there.
func TestStructureIsKept(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		mail := func(subject string) string { return "Subject: " + subject + "\r\n\r\ntext\r\n" }
		want := func(way string, f fixture, name backend.MailboxName) {
			t.Helper()
			if got := f.subject(name); got != way {
				t.Errorf("%s: the structure's subject is %q", way, got)
			}
		}
		f.append(backend.Inbox, mail("append"))
		want("append", f, backend.Inbox)
		if _, err := f.Copy(f.ctx, f.mailbox(backend.Inbox).ID, imap.UIDSet{{Start: 1, Stop: 9}}, "Sent"); err != nil {
			t.Fatal(err)
		}
		want("append", f, "Sent")
		newUser(t, s, "v")
		for _, err := range s.DeliverStream(f.ctx, "", []string{"v", "u"}, strings.NewReader(mail("stream"))) {
			if err != nil {
				t.Fatal(err)
			}
		}
		want("stream", f, backend.Inbox)
		want("stream", account(t, s, "v"), backend.Inbox)
		errs := s.Deliver(f.ctx, store.Delivery{Recipients: []string{"u"}, Body: func(ctx context.Context, id engine.ShardID) (engine.StagedBody, error) {
			w, err := s.NewBody(ctx, id)
			if err != nil {
				return nil, err
			}
			fmt.Fprint(w, mail("deliver"))
			return w.Finish()
		}})
		if errs[0] != nil {
			t.Fatal(errs)
		}
		want("deliver", f, backend.Inbox)
		imp := importUser(t, s, "moved")
		m := openImport(t, imp, backend.Inbox, 7)
		put(t, m, importMessage(t, m, 5, 9, mail("import")))
		seal(t, m, 6, 9, 0)
		if err := imp.Activate(f.ctx, 1); err != nil {
			t.Fatal(err)
		}
		want("import", account(t, s, "moved"), backend.Inbox)
	})
}

// TestAppendOfManyStructures: those that do not fit into the command are left
// out, the messages are not.
func TestAppendOfManyStructures(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		text := "To: " + strings.Repeat("a@b, ", 3000) + "c@d\r\n\r\n"
		var msgs []store.Append
		for range 100 {
			msgs = append(msgs, store.Append{Mailbox: backend.Inbox, Body: stage(t, f.Account, text)})
		}
		if _, err := f.Append(f.ctx, msgs...); err != nil {
			t.Fatal(err)
		}
		if n := f.mailbox(backend.Inbox).Messages; n != 100 {
			t.Errorf("%d messages", n)
		}
	})
}
