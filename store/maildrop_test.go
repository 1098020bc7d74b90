package store_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

func maildrop(t *testing.T, a *store.Account) *store.Maildrop {
	t.Helper()
	d, err := a.Maildrop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// drops shows a maildrop as "uid=uidl" in its order.
func drops(t *testing.T, a *store.Account) string {
	t.Helper()
	d := maildrop(t, a)
	var out []string
	for i := range d.Messages {
		out = append(out, fmt.Sprintf("%d=%s", d.Messages[i].UID, d.UIDL(&d.Messages[i])))
	}
	return strings.Join(out, " ")
}

func TestMaildrop(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "anna")
		inbox, err := f.Mailbox(t.Context(), backend.Inbox)
		if err != nil {
			t.Fatal(err)
		}
		if d := maildrop(t, f.Account); len(d.Messages) != 0 || d.Size != 0 || d.Mailbox != inbox.ID {
			t.Errorf("empty maildrop: %+v", d)
		}
		for i := range 4 {
			f.append(backend.Inbox, strings.Repeat("x", 10+i))
		}
		v := inbox.UIDValidity
		if got, want := drops(t, f.Account), fmt.Sprintf("1=%d.1 2=%d.2 3=%d.3 4=%d.4", v, v, v, v); got != want {
			t.Errorf("maildrop %s, want %s", got, want)
		}
		d := maildrop(t, f.Account)
		if d.Size != 46 || d.Messages[1].Size != 11 {
			t.Errorf("sizes: %d, %d", d.Size, d.Messages[1].Size)
		}
		r, err := f.OpenMaildrop(t.Context(), &d.Messages[2])
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); string(b) != strings.Repeat("x", 12) || err != nil {
			t.Errorf("octets %q, %v", b, err)
		}
		r.Close()
		for range 2 { // the second time they are gone
			if err := f.Remove(t.Context(), d.Mailbox, []imap.UID{4, 1, 3}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Remove(t.Context(), d.Mailbox, nil); err != nil {
			t.Fatal(err)
		}
		if got, want := drops(t, f.Account), fmt.Sprintf("2=%d.2", v); got != want {
			t.Errorf("after Remove: %s, want %s", got, want)
		}
	})
}

func TestMaildropLock(t *testing.T) {
	s := newStore(t, memoryEngine(t))
	anna, ben := newUser(t, s, "anna"), newUser(t, s, "ben")
	unlock, ok := anna.LockMaildrop()
	if !ok {
		t.Fatal("not locked")
	}
	if _, ok := account(t, s, "anna").LockMaildrop(); ok {
		t.Error("locked twice")
	}
	other, ok := ben.LockMaildrop()
	if !ok {
		t.Error("locked for another user")
	}
	defer other()
	unlock()
	again, ok := anna.LockMaildrop()
	if !ok {
		t.Error("not locked again")
	}
	unlock() // must not free what another session holds
	if _, ok := anna.LockMaildrop(); ok {
		t.Error("unlocked by a session that had ended")
	}
	again()
}

// A user comes from a server with ids of its own and an order of its own.
func TestMaildropOfMovedUser(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		_, err := s.Importer().Import(ctx, "anna", backend.ImportOptions{UIDLFormat: "%q"})
		wantKind(t, err, backend.KindInvalid)
		var imp backend.Import
		for _, o := range []backend.ImportOptions{{}, {UIDLFormat: backend.UIDLDovecot}, {}} { // the last keeps it
			if imp, err = s.Importer().Import(ctx, "anna", o); err != nil {
				t.Fatal(err)
			}
		}
		m := openImport(t, imp, backend.Inbox, 0x6b02)
		for uid := range imap.UID(6) {
			msg := importMessage(t, m, uid+1, 0, fmt.Sprint("text", uid))
			if uid > 1 {
				msg.UIDL = ""
			}
			put(t, m, msg)
		}
		seal(t, m, 7, 0, 0)
		err = m.(backend.POP3Import).SetPOP3(ctx, []backend.ImportPOP3{{UID: 2, UIDL: "old 2", Order: 2}, {UID: 3, UIDL: "dup", Order: 1},
			{UID: 4, UIDL: "dup", Order: 4}, {UID: 5, UIDL: "bad\r\n", Order: 3}, {UID: 99, UIDL: "x", Order: 5}})
		if err != nil {
			t.Fatal(err)
		}
		if err := imp.Activate(ctx, 3); err != nil { // the seal still counts
			t.Fatal(err)
		}
		f := account(t, s, "anna")
		f.append(backend.Inbox, "new")
		want := "3=dup 2=old 2 5=0000000500006b02 4=dup 1=uidl1 6=0000000600006b02 7=0000000700006b02"
		if got := drops(t, f.Account); got != want {
			t.Errorf("maildrop %s, want %s", got, want)
		}
		if u := f.User(); u.UIDLFormat != backend.UIDLDovecot {
			t.Errorf("format %q", u.UIDLFormat)
		}
		wantKind(t, m.(backend.POP3Import).SetPOP3(ctx, []backend.ImportPOP3{{UID: 1}}), backend.KindConflict)
		checkCopiesWithoutPOP3(t, f)
	})
}

// Ids and places name a message in one mailbox: they stay behind.
func checkCopiesWithoutPOP3(t *testing.T, f fixture) {
	t.Helper()
	inbox := maildrop(t, f.Account).Mailbox
	for _, way := range [][2]backend.MailboxName{{backend.Inbox, "away"}, {"away", backend.Inbox}} {
		if way[1] != backend.Inbox {
			if _, err := f.Create(t.Context(), way[1], nil); err != nil {
				t.Fatal(err)
			}
		}
		mb, err := f.Mailbox(t.Context(), way[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Copy(t.Context(), mb.ID, imap.UIDSet{{Start: 1, Stop: 3}}, way[1]); err != nil {
			t.Fatal(err)
		}
	}
	d := maildrop(t, f.Account)
	if d.Mailbox != inbox || !slices.ContainsFunc(d.Messages, func(m store.MaildropMessage) bool { return m.UID == 10 }) {
		t.Fatalf("copies: %+v", d)
	}
	if got, want := drops(t, f.Account), "7=0000000700006b02 8=0000000800006b02 9=0000000900006b02 10=0000000a00006b02"; !strings.HasSuffix(got, want) {
		t.Errorf("copies: %s, want %s", got, want)
	}
}
