package store_test

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

// TestImportRenames: mailboxes go to other names with all they hold, also in a
// circle and over INBOX, and a Rename that is repeated changes nothing.
func TestImportRenames(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		imp := importUser(t, s, "anna").(backend.RenamingImport)
		for i, name := range []backend.MailboxName{backend.Inbox, "a", "b", path("b", "c")} {
			m := openImport(t, imp, name, uint32(10+i))
			put(t, m, importMessage(t, m, 7, uint64(20+i), fmt.Sprint("in ", name), imap.FlagSeen))
			seal(t, m, 9, uint64(30+i), 9)
		}
		round := []backend.ImportRename{{From: backend.Inbox, To: "old", UIDValidity: 10}, {From: "a", To: "b", UIDValidity: 11},
			{From: "b", To: "a", UIDValidity: 12}, {From: path("b", "c"), To: path("a", "c"), UIDValidity: 13}}
		for range 2 {
			if err := imp.Rename(ctx, round); err != nil {
				t.Fatal(err)
			}
			have, err := imp.Mailboxes(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range have {
				got = append(got, fmt.Sprintf("%q %d %d %d %v", m.Name, m.UIDValidity, m.Messages, m.SealedModSeq, m.Sealed))
			}
			wantStrings(t, got, []string{`"a" 12 1 32 true`, `"a\x00c" 13 1 33 true`, `"b" 11 1 31 true`, `"old" 10 1 30 true`})
		}
		wantKind(t, imp.Rename(ctx, []backend.ImportRename{{From: "a", To: "old", UIDValidity: 12}}), backend.KindExists)
		wantKind(t, imp.Rename(ctx, []backend.ImportRename{{From: "a", To: "new", UIDValidity: 11}}), backend.KindNotFound)
		wantKind(t, imp.Rename(ctx, []backend.ImportRename{{From: "a", To: "x", UIDValidity: 12}, {From: "b", To: "x", UIDValidity: 11}}),
			backend.KindInvalid)
		wantKind(t, imp.Activate(ctx, 1), backend.KindInvalid) // there is no INBOX now
		seal(t, openImport(t, imp, backend.Inbox, 14), 1, 1, 1)
		if err := imp.Activate(ctx, 1); err != nil {
			t.Fatal(err)
		}
		f := account(t, s, "anna")
		wantStrings(t, f.names(), []string{"INBOX", "a", "a/c", "b", "old"})
		for name, text := range map[backend.MailboxName]string{"a": "in b", "b": "in a", "old": "in INBOX"} {
			m := oneMessage(t, f, name, 7)
			if got := f.read(m); got != text {
				t.Errorf("%s holds %q, want %q", name, got, text)
			}
		}
		wantKind(t, imp.Rename(ctx, []backend.ImportRename{{From: "a", To: "z", UIDValidity: 12}}), backend.KindConflict)
	})
}

// oneMessage is one message of a mailbox.
func oneMessage(t *testing.T, f fixture, name backend.MailboxName, uid imap.UID) store.Message {
	t.Helper()
	s := f.snapshot(name)
	defer s.Close()
	for m, err := range s.Messages(imap.UIDSet{{Start: uid, Stop: uid}}) {
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Fatalf("%s: no UID %d", name, uid)
	return store.Message{}
}

// TestImportPutsCopies: a message may be filed with a body that is there, and
// only with the one that was named; the original may go afterwards.
func TestImportPutsCopies(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		imp := importUser(t, s, "anna")
		from, to := openImport(t, imp, backend.Inbox, 1), openImport(t, imp, "to", 2)
		texts := map[imap.UID]string{1: "Subject: one\r\n\r\n1\r\n", 2: "Subject: two\r\n\r\n2\r\n"}
		for uid, text := range texts {
			put(t, from, importMessage(t, from, uid, 5, text, "old"))
		}
		put(t, to, importMessage(t, to, 3, 6, "another"))
		date := time.Date(2011, 2, 3, 4, 5, 6, 0, time.FixedZone("", -3600))
		copyOf := func(original, uid imap.UID, text string, flags ...imap.Flag) backend.ImportCopy {
			return backend.ImportCopy{ImportMessage: backend.ImportMessage{UID: uid, ModSeq: 40, InternalDate: date, Flags: flags},
				Original: original, Size: int64(len(text)), Digest: sha256.Sum256([]byte(text))}
		}
		list := []backend.ImportCopy{
			copyOf(1, 3, texts[1]),              // a UID that is taken
			copyOf(1, 10, texts[1], "new"),      //
			copyOf(1, 11, texts[2]),             // not what is there
			copyOf(9, 12, texts[1]),             // nothing is there
			copyOf(2, 20, texts[2], "\\Seen"),   //
			copyOf(2, 21, texts[2], "\\Seen"),   // twice the same body
			copyOf(2, 22, texts[2]+" and more"), // another size
		}
		for range 2 {
			filed, err := to.(backend.CopyingImport).PutCopies(ctx, backend.Inbox, list)
			if err != nil || filed.String() != "10,20:21" {
				t.Fatalf("filed %v, %v", filed, err)
			}
		}
		wantStrings(t, imported(t, to), []string{"3 6 []", "10 40 [new]", "20 40 [\\Seen]", "21 40 [\\Seen]"})
		if err := from.Vanish(ctx, imap.UIDSetNum(1, 2), 50); err != nil {
			t.Fatal(err)
		}
		seal(t, from, 3, 50, 3)
		seal(t, to, 30, 50, 30)
		if err := imp.Activate(ctx, 1); err != nil {
			t.Fatal(err)
		}
		f := account(t, s, "anna")
		for uid, text := range map[imap.UID]string{10: texts[1], 20: texts[2], 21: texts[2]} {
			m := oneMessage(t, f, "to", uid)
			if got := f.read(m); got != text || !m.InternalDate.Equal(date) || m.UIDL != "" {
				t.Errorf("UID %d: %q %+v", uid, got, m)
			}
		}
	})
}
