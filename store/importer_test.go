package store_test

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

func importUser(t *testing.T, s *store.Store, user string) backend.Import {
	t.Helper()
	imp, err := s.Importer().Import(t.Context(), user, backend.ImportOptions{
		Namespace: backend.Namespace{Prefix: "INBOX.", Delimiter: "."}})
	if err != nil {
		t.Fatal(err)
	}
	return imp
}

func openImport(t *testing.T, imp backend.Import, name backend.MailboxName, validity uint32) backend.MailboxImport {
	t.Helper()
	m, err := imp.Open(t.Context(), backend.ImportMailbox{Name: name, UIDValidity: validity})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func importMessage(t *testing.T, m backend.MailboxImport, uid imap.UID, modseq uint64, text string, flags ...imap.Flag) backend.ImportMessage {
	t.Helper()
	w, err := m.NewBody(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, text)
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return backend.ImportMessage{UID: uid, ModSeq: modseq, Flags: flags, Body: b, UIDL: fmt.Sprint("uidl", uid),
		InternalDate: time.Date(2010, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))}
}

func put(t *testing.T, m backend.MailboxImport, msgs ...backend.ImportMessage) {
	t.Helper()
	if err := m.Put(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
}

func seal(t *testing.T, m backend.MailboxImport, uidNext uint32, modseq uint64, recent uint32) {
	t.Helper()
	if err := m.Seal(t.Context(), uidNext, modseq, recent); err != nil {
		t.Fatal(err)
	}
}

func imported(t *testing.T, m backend.MailboxImport) []string {
	t.Helper()
	var out []string
	for msg, err := range m.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(msg.UID, msg.ModSeq, msg.Flags))
	}
	return out
}

func TestImportKeepsIdentity(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		imp := importUser(t, s, "anna")
		_, err := s.Account(ctx, "anna")
		wantKind(t, err, backend.KindUnavailable)
		errs := s.Deliver(ctx, delivery(t, s, "hello", "anna"))
		wantKind(t, errs[0], backend.KindTemporary)

		inbox := openImport(t, imp, backend.Inbox, 77)
		wantKind(t, imp.Activate(ctx, 3), backend.KindInvalid) // not sealed
		put(t, inbox, importMessage(t, inbox, 9, 500, "nine", imap.FlagSeen, "Work"), importMessage(t, inbox, 4, 400, "four"))
		put(t, inbox, importMessage(t, inbox, 5, 410, "five"), importMessage(t, inbox, 9, 500, "nine", imap.FlagSeen, "Work"))
		wantKind(t, inbox.Put(ctx, []backend.ImportMessage{importMessage(t, inbox, 9, 500, "other")}), backend.KindConflict)
		if err := inbox.SetFlags(ctx, []backend.ImportFlags{{UID: 4, ModSeq: 600, Flags: []imap.Flag{"work"}}, {UID: 1000, ModSeq: 601}}); err != nil {
			t.Fatal(err)
		}
		if err := inbox.Vanish(ctx, imap.UIDSet{{Start: 5, Stop: 8}}, 610); err != nil {
			t.Fatal(err)
		}
		wantStrings(t, imported(t, inbox), []string{"4 600 [Work]", `9 500 [\Seen Work]`})
		wantKind(t, inbox.Seal(ctx, 9, 700, 0), backend.KindInvalid)
		seal(t, inbox, 12, 700, 9)
		if err := imp.Subscriptions(ctx, []backend.MailboxName{"INBOX", "gone"}); err != nil {
			t.Fatal(err)
		}
		d, err := imp.Digest(ctx, backend.Inbox)
		want := backend.MailboxDigest{UIDValidity: 77, UIDNext: 12, HighestModSeq: 700, Count: 2}
		backend.AddSum(&want.Messages, backend.SumMessage(4, []imap.Flag{"work"}))
		backend.AddSum(&want.Messages, backend.SumMessage(9, []imap.Flag{"WORK", imap.FlagSeen}))
		if err != nil || d != want {
			t.Errorf("digest %+v, %v", d, err)
		}
		if err := imp.Activate(ctx, 3); err != nil {
			t.Fatal(err)
		}
		wantKind(t, inbox.Put(ctx, []backend.ImportMessage{importMessage(t, inbox, 20, 0, "late")}), backend.KindConflict)

		f := account(t, s, "anna")
		if ns := f.User().Namespace; ns.Prefix != "INBOX." {
			t.Errorf("namespace %+v", ns)
		}
		snap := f.snapshot(backend.Inbox)
		defer snap.Close()
		m, err := snap.Message(9)
		if err != nil || m.UIDL != "uidl9" || m.InternalDate.Format(time.RFC3339) != "2010-01-02T03:04:05+01:00" ||
			!m.Recent || f.read(m) != "nine" {
			t.Errorf("message %+v, %v", m, err)
		}
		if mb := snap.Mailbox(); mb.Recent != 1 || mb.UIDValidity != 77 {
			t.Errorf("mailbox %+v", mb)
		}
		if set, err := snap.VanishedSince(650, imap.UIDSet{{Start: 1, Stop: 20}}); err != nil || set.String() != "1:3,5:8,10:11" {
			t.Errorf("vanished %v, %v", set, err)
		}
		if got := f.append(backend.Inbox, "after"); got.UID != 12 || got.ModSeq != 701 {
			t.Errorf("appended %+v", got)
		}
		if mb, err := f.Create(ctx, "new", nil); err != nil || mb.UIDValidity <= 77 {
			t.Errorf("created %+v, %v", mb, err)
		}
	})
}

func TestImportEpochs(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		imp := importUser(t, s, "u")
		inbox := openImport(t, imp, backend.Inbox, 5)
		seal(t, inbox, 1, 0, 0)
		wantKind(t, imp.Activate(ctx, 0), backend.KindConflict)
		for range 2 { // repeated after a crash
			if err := imp.Activate(ctx, 3); err != nil {
				t.Fatal(err)
			}
		}
		wantKind(t, imp.Activate(ctx, 4), backend.KindConflict)
		wantKind(t, imp.Reopen(ctx, 4), backend.KindConflict)
		imp = importUser(t, s, "u") // a restarted move takes it up again
		_, err := imp.Open(ctx, backend.ImportMailbox{Name: "x", UIDValidity: 1})
		wantKind(t, err, backend.KindConflict)
		f := account(t, s, "u")
		for range 2 {
			if err := imp.Reopen(ctx, 3); err != nil {
				t.Fatal(err)
			}
		}
		_, err = s.Account(ctx, "u")
		wantKind(t, err, backend.KindUnavailable)
		_, err = f.Create(ctx, "x", nil)
		wantKind(t, err, backend.KindUnavailable)
		_, err = f.Mailboxes(ctx)
		wantKind(t, err, backend.KindUnavailable)
		seal(t, inbox, 1, 0, 0)
		wantKind(t, imp.Activate(ctx, 3), backend.KindConflict) // that epoch is over
		if err := imp.Reopen(ctx, 7); err != nil {              // an abort that overtakes its Activate
			t.Fatal(err)
		}
		wantKind(t, imp.Activate(ctx, 7), backend.KindConflict)
		if err := imp.Activate(ctx, 9); err != nil {
			t.Fatal(err)
		}
		f.append(backend.Inbox, "works again")
	})
}

func TestSealCountsInItsHoldOnly(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		imp := importUser(t, s, "u")
		inbox := openImport(t, imp, backend.Inbox, 5)
		seal(t, inbox, 3, 0, 0)
		put(t, inbox, importMessage(t, inbox, 1, 0, "x"))
		wantKind(t, imp.Activate(ctx, 1), backend.KindInvalid)
		seal(t, inbox, 3, 0, 0)
		if err := imp.Activate(ctx, 1); err != nil {
			t.Fatal(err)
		}
		if err := imp.Reopen(ctx, 1); err != nil {
			t.Fatal(err)
		}
		wantKind(t, imp.Activate(ctx, 2), backend.KindInvalid)
	})
}

func TestImportOverUsers(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		newUser(t, s, "empty")
		imp := importUser(t, s, "empty")
		if list, err := imp.Mailboxes(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("mailboxes %v, %v", list, err)
		}
		used := newUser(t, s, "used")
		used.append("Sent", "hello")
		_, err := s.Importer().Import(t.Context(), "used", backend.ImportOptions{})
		wantKind(t, err, backend.KindConflict)
	})
}

func TestImportNewUIDValidityStartsAnew(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		imp := importUser(t, s, "u")
		old := openImport(t, imp, backend.Inbox, 5)
		put(t, old, importMessage(t, old, 1, 0, "x"), importMessage(t, old, 2, 0, "x"))
		same := openImport(t, imp, backend.Inbox, 5)
		wantStrings(t, imported(t, same), []string{"1 2 []", "2 2 []"})
		anew := openImport(t, imp, backend.Inbox, 6)
		wantStrings(t, imported(t, anew), nil)
		wantKind(t, old.Put(ctx, []backend.ImportMessage{importMessage(t, old, 3, 0, "x")}), backend.KindNotFound)
		if _, err := imp.Open(ctx, backend.ImportMailbox{Name: "node", NoSelect: true}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := imp.Remove(ctx, "node"); err != nil {
				t.Fatal(err)
			}
		}
		list, err := imp.Mailboxes(ctx)
		if err != nil || len(list) != 1 || list[0].UIDValidity != 6 || list[0].UIDNext != 0 {
			t.Errorf("mailboxes %+v, %v", list, err)
		}
	})
}

func TestImportManyInSteps(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		imp := importUser(t, s, "u")
		m := openImport(t, imp, backend.Inbox, 5)
		var msgs []backend.ImportMessage
		for uid := imap.UID(1); uid <= 1700; uid++ {
			msgs = append(msgs, importMessage(t, m, uid, 0, fmt.Sprint(uid)))
		}
		put(t, m, msgs...)
		if err := m.Vanish(t.Context(), imap.UIDSet{{Start: 1, Stop: 1699}}, 0); err != nil {
			t.Fatal(err)
		}
		if got := imported(t, m); len(got) != 1 {
			t.Errorf("left: %d", len(got))
		}
	})
}

// delivery is a message whose octets can be staged as often as wanted.
func delivery(t testing.TB, s *store.Store, text string, users ...string) store.Delivery {
	return store.Delivery{Recipients: users, ID: s.NewDeliveryID(), Body: stager(t, s, text)}
}
