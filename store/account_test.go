package store_test

import (
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

func TestMailboxTree(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "Anna@Example.org")
		wantStrings(t, f.names(), []string{"INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"})
		if _, err := f.Create(f.ctx, path("a", "b", "c"), nil); err != nil {
			t.Fatal(err)
		}
		first := f.mailbox(path("a", "b"))
		if !first.HasChildren || first.NoSelect {
			t.Errorf("superior is %+v", first)
		}
		_, err := f.Create(f.ctx, path("a"), nil)
		wantKind(t, err, backend.KindExists)
		if err := f.Rename(f.ctx, path("a", "b"), path("x", "y")); err != nil {
			t.Fatal(err)
		}
		wantStrings(t, f.names(), []string{"INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash", "a", "x", "x/y", "x/y/c"})
		wantKind(t, f.Rename(f.ctx, path("x"), path("x", "z")), backend.KindInvalid)
		wantKind(t, f.Rename(f.ctx, path("x"), path("a")), backend.KindExists)
		if got := f.mailbox(path("x", "y")); got.ID != first.ID || got.UIDValidity != first.UIDValidity {
			t.Errorf("renamed mailbox is %+v, was %+v", got, first)
		}
		if err := f.Delete(f.ctx, path("x", "y")); err != nil {
			t.Fatal(err)
		}
		if mb := f.mailbox(path("x", "y")); !mb.NoSelect {
			t.Error("a deleted mailbox with children is selectable")
		}
		wantKind(t, f.Delete(f.ctx, path("x", "y")), backend.KindConflict)
		wantKind(t, f.Delete(f.ctx, backend.Inbox), backend.KindPermission)
		wantKind(t, f.Delete(f.ctx, path("nothing")), backend.KindNotFound)
		again, err := f.Create(f.ctx, path("x", "y"), nil)
		if err != nil || again.UIDValidity <= first.UIDValidity {
			t.Errorf("created again with UIDVALIDITY %d after %d: %v", again.UIDValidity, first.UIDValidity, err)
		}
	})
}

func TestRenameNeverReusesIdentity(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		one, _ := f.Create(f.ctx, "one", nil)
		if err := f.Rename(f.ctx, "one", "two"); err != nil {
			t.Fatal(err)
		}
		if err := f.Rename(f.ctx, "two", "one"); err != nil {
			t.Fatal(err)
		}
		if got := f.mailbox("one"); got.UIDValidity <= one.UIDValidity {
			t.Errorf("the name had UIDVALIDITY %d before and has %d now", one.UIDValidity, got.UIDValidity)
		}
	})
}

func TestRenameInbox(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		f.append(backend.Inbox, "one", imap.FlagSeen)
		f.append(backend.Inbox, "two", "Work")
		if _, err := f.Create(f.ctx, path("INBOX", "child"), nil); err != nil {
			t.Fatal(err)
		}
		if err := f.Rename(f.ctx, backend.Inbox, path("old", "mail")); err != nil {
			t.Fatal(err)
		}
		wantStrings(t, f.list(backend.Inbox), nil)
		wantStrings(t, f.list(path("old", "mail")), []string{`1 2 [\Seen]`, "2 2 [Work]"})
		f.mailbox(path("INBOX", "child"))
	})
}

func TestSubscriptions(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		if err := f.Subscribe(f.ctx, "not there", true); err != nil {
			t.Fatal(err)
		}
		if err := f.Subscribe(f.ctx, "Junk", false); err != nil {
			t.Fatal(err)
		}
		names, err := f.Subscriptions(f.ctx)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range names {
			got = append(got, string(n))
		}
		wantStrings(t, got, []string{"Archive", "Drafts", "INBOX", "Sent", "Trash", "not there"})
		if f.mailbox("Junk").Subscribed || !f.mailbox("Sent").Subscribed {
			t.Error("Subscribed does not follow")
		}
	})
}

func TestWatchers(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		box := f.Watch(f.mailbox(backend.Inbox).ID)
		defer box.Close()
		list := f.WatchList()
		defer list.Close()
		f.append(backend.Inbox, "hello")
		<-box.C
		if _, err := f.Create(f.ctx, "new", nil); err != nil {
			t.Fatal(err)
		}
		<-list.C
	})
}

func TestUsers(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		u, err := s.CreateUser(ctx, store.NewUser{Name: "Anna@example.org", Aliases: []string{"info@example.org"}})
		if err != nil || u.State != store.UserActive {
			t.Fatal(u, err)
		}
		for _, name := range []string{"anna@EXAMPLE.org", "INFO@example.org"} {
			if got, err := s.User(ctx, name); err != nil || got.ID != u.ID || got.Name != "Anna@example.org" {
				t.Errorf("User(%q) = %+v, %v", name, got, err)
			}
			_, err := s.CreateUser(ctx, store.NewUser{Name: name})
			wantKind(t, err, backend.KindExists)
		}
		b, err := s.CreateUser(ctx, store.NewUser{Name: "bob"})
		if err != nil || b.Shard == u.Shard {
			t.Fatalf("bob is on shard %d like Anna: %v", b.Shard, err)
		}
		_, err = s.UpdateUser(ctx, "bob", func(u *store.User) error {
			u.Aliases = append(u.Aliases, "info@example.org")
			return nil
		})
		wantKind(t, err, backend.KindExists)
		if _, err = s.UpdateUser(ctx, "anna@example.org", func(u *store.User) error {
			u.Aliases = nil
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		_, err = s.User(ctx, "info@example.org")
		wantKind(t, err, backend.KindNotFound)
		list, err := s.Users(ctx, "anna@example.org", 10)
		if err != nil || len(list) != 1 || list[0].Name != "bob" {
			t.Errorf("Users = %v, %v", list, err)
		}
	})
}

func TestDeleteUser(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		before := f.append(backend.Inbox, "hello")
		if err := s.DeleteUser(f.ctx, "u"); err != nil {
			t.Fatal(err)
		}
		_, err := s.Account(f.ctx, "u")
		wantKind(t, err, backend.KindNotFound)
		_, err = f.Mailboxes(f.ctx)
		wantKind(t, err, backend.KindNotFound)
		wantKind(t, s.DeleteUser(f.ctx, "u"), backend.KindNotFound)
		g := newUser(t, s, "u")
		if after := g.append(backend.Inbox, "hello"); after.UIDValidity <= before.UIDValidity {
			t.Errorf("UIDVALIDITY %d after %d", after.UIDValidity, before.UIDValidity)
		}
	})
}
