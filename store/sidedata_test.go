package store_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailferry/backend"
	"mailferry/store"
	"mailferry/store/storetest"
)

// TestSideData: what belongs to a user beside mail is kept, replaced and read
// back, follows its mailbox, and survives a restart.
func TestSideData(t *testing.T) {
	fs := vfs.NewMem()
	n := clusterEngine(t, fs)
	s, err := store.New(store.Options{Engine: n})
	if err != nil {
		t.Fatal(err)
	}
	imp := importUser(t, s, "anna")
	inbox, box := openImport(t, imp, backend.Inbox, 7), openImport(t, imp, path("a", "b"), 8)
	side := imp.(backend.SideImport)
	d := &backend.SideData{
		Quotas: []backend.QuotaRoot{{Root: "", Limits: []backend.QuotaLimit{{Resource: "STORAGE", Usage: 1, Limit: 1 << 40}}}},
		ACLs: []backend.MailboxACL{{Mailbox: path("a", "b"), Entries: []backend.ACLEntry{{Identifier: "-eve", Rights: "w"},
			{Identifier: "anna", Rights: "lrswipkxtea"}}}},
		Metadata: []backend.MailboxMetadata{{Mailbox: "", Entries: []backend.MetadataEntry{{Name: "/shared/motd", Value: []byte{0, 255}}}},
			{Mailbox: path("a", "b"), Entries: []backend.MetadataEntry{{Name: "/private/comment", Value: []byte("x")},
				{Name: "/shared/big", Value: bytes.Repeat([]byte("y"), backend.MaxSideValue)}}}},
		Scripts: []backend.SieveScript{{Name: "main", Text: bytes.Repeat([]byte("keep;\r\n"), 70000), Active: true},
			{Name: "old", Text: []byte{}, Inactive: "because"}},
		Shared:     []backend.SharedSeen{{Mailbox: "user.bert", UIDValidity: 9, Seen: "1:5,7"}},
		Subscribed: []string{"shared.news", "user.bert"},
	}
	set := func(d *backend.SideData) []backend.MailboxName {
		t.Helper()
		absent, err := side.SetSideData(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return absent
	}
	read := func(want *backend.SideData, from func(context.Context) (*backend.SideData, error)) {
		t.Helper()
		got, err := from(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(want, got) {
			t.Fatalf("got %.2000q\nwant %.2000q", fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	other := *d
	other.ACLs = append([]backend.MailboxACL{{Mailbox: path("gone")}}, d.ACLs...)
	if absent := set(&other); len(absent) != 1 || absent[0] != path("gone") {
		t.Errorf("absent: %q", absent)
	}
	set(d) // again: nothing changes
	read(d, side.SideData)

	fewer := &backend.SideData{Quotas: d.Quotas, Scripts: d.Scripts[:1]}
	set(fewer)
	read(fewer, side.SideData)
	set(d)

	for _, bad := range []*backend.SideData{
		{Scripts: []backend.SieveScript{{Name: "a", Active: true}, {Name: "b", Active: true}}},
		{Scripts: []backend.SieveScript{{Name: "a", Text: make([]byte, backend.MaxSideValue+1)}}},
	} {
		if _, err := side.SetSideData(t.Context(), bad); err == nil {
			t.Errorf("%d scripts were taken", len(bad.Scripts))
		}
	}

	seal(t, inbox, 1, 0, 0)
	seal(t, box, 1, 0, 0)
	if err := imp.Activate(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := side.SetSideData(t.Context(), fewer); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("side data of an active user: %v", err)
	}
	storetest.Check(t, s)
	s.Close()
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	s = newStore(t, clusterEngine(t, fs))
	f := account(t, s, "anna")
	read(d, f.SideData)
	if err := f.Rename(t.Context(), path("a", "b"), path("c", "b")); err != nil {
		t.Fatal(err)
	}
	got, err := f.SideData(t.Context())
	if err != nil || got.ACLs[0].Mailbox != path("c", "b") {
		t.Errorf("behind a rename: %+v, %v", got.ACLs, err)
	}
	if err := f.Delete(t.Context(), path("c", "b")); err != nil {
		t.Fatal(err)
	}
	if got, err = f.SideData(t.Context()); err != nil || len(got.ACLs) != 0 || len(got.Metadata) != 1 || len(got.Scripts) != 2 {
		t.Errorf("behind a delete: %+v, %v", got, err)
	}
	storetest.Check(t, s)
	if err := s.DeleteUser(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	imp = importUser(t, s, "anna")
	read(&backend.SideData{}, imp.(backend.SideImport).SideData)
}
