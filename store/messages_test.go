package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

func TestAppendKeepsEverything(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		date := time.Date(2019, 5, 6, 7, 8, 9, 0, time.FixedZone("", -(3*3600+1800)))
		out, err := f.Append(f.ctx,
			store.Append{Mailbox: "Sent", Flags: []imap.Flag{`\SEEN`, "Work", "work"}, InternalDate: date,
				Body: stage(t, f.Account, "one")},
			store.Append{Mailbox: "Sent", Body: stage(t, f.Account, "second")})
		if err != nil || len(out) != 2 || out[0].UID != 1 || out[1].UID != 2 || out[0].ModSeq != 2 {
			t.Fatal(out, err)
		}
		snap := f.snapshot("Sent")
		defer snap.Close()
		m, err := snap.Message(1)
		if err != nil {
			t.Fatal(err)
		}
		if m.InternalDate.Format(time.RFC3339) != date.Format(time.RFC3339) || fmt.Sprint(m.Flags) != `[\Seen Work]` ||
			m.Size != 3 || !m.Recent || m.SaveDate.IsZero() || f.read(m) != "one" {
			t.Errorf("message is %+v", m)
		}
		mb := snap.Mailbox()
		if mb.Messages != 2 || mb.Unseen != 1 || mb.Size != 9 || mb.Recent != 2 || mb.UIDNext != 3 ||
			fmt.Sprint(mb.Flags) != "[Work]" {
			t.Errorf("mailbox is %+v", mb)
		}
		_, err = f.Append(f.ctx, store.Append{Mailbox: "nowhere", Body: stage(t, f.Account, "x")})
		wantKind(t, err, backend.KindNotFound)
	})
}

func TestStoreFlags(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		for i := range 3 {
			f.append(backend.Inbox, fmt.Sprint(i))
		}
		id := f.mailbox(backend.Inbox).ID
		set := imap.UIDSet{{Start: 2, Stop: 9}}
		steps := []struct {
			op    store.FlagOp
			flags []imap.Flag
			since uint64
			want  string // changed and failed
			after []string
		}{
			{store.FlagsAdd, []imap.Flag{"Foo", imap.FlagSeen}, 0, "[2 3] ", []string{"1 2 []", `2 5 [\Seen Foo]`, `3 5 [\Seen Foo]`}},
			{store.FlagsAdd, []imap.Flag{"FOO"}, 0, "[] ", []string{"1 2 []", `2 5 [\Seen Foo]`, `3 5 [\Seen Foo]`}},
			{store.FlagsRemove, []imap.Flag{"foo", "unknown"}, 0, "[2 3] ", []string{"1 2 []", `2 6 [\Seen]`, `3 6 [\Seen]`}},
			{store.FlagsReplace, []imap.Flag{imap.FlagDeleted}, 5, "[] 2:3", []string{"1 2 []", `2 6 [\Seen]`, `3 6 [\Seen]`}},
			{store.FlagsReplace, nil, 0, "[2 3] ", []string{"1 2 []", "2 7 []", "3 7 []"}},
		}
		for i, st := range steps {
			changed, failed, err := f.StoreFlags(f.ctx, id, set, st.op, st.flags, st.since)
			if err != nil {
				t.Fatal(err)
			}
			uids := []imap.UID{}
			for _, m := range changed {
				uids = append(uids, m.UID)
			}
			if got := fmt.Sprint(uids, failed); got != st.want {
				t.Errorf("step %d: %s, want %s", i, got, st.want)
			}
			wantStrings(t, f.list(backend.Inbox), st.after)
		}
	})
}

func TestExpungeAndChanges(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		for i := range 5 {
			f.append(backend.Inbox, fmt.Sprint(i)) // modseqs 2 to 6
		}
		id := f.mailbox(backend.Inbox).ID
		if _, _, err := f.StoreFlags(f.ctx, id, imap.UIDSetNum(1, 3, 4), store.FlagsAdd, []imap.Flag{imap.FlagDeleted}, 0); err != nil {
			t.Fatal(err)
		}
		gone, modseq, err := f.Expunge(f.ctx, id, imap.UIDSetNum(2, 3, 4))
		if err != nil || gone.String() != "3:4" || modseq != 8 {
			t.Fatal(gone, modseq, err)
		}
		f.append(backend.Inbox, "new")
		snap := f.snapshot(backend.Inbox)
		defer snap.Close()
		var got []string
		for c, err := range snap.Changes(6) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(c.UID, c.ModSeq, c.Vanished, c.New))
		}
		wantStrings(t, got, []string{"1 7 false false", "3 8 true false", "4 8 true false", "6 9 false true"})
		for _, tc := range []struct {
			since uint64
			known imap.UIDSet
			want  string
		}{{0, nil, "3:4"}, {8, nil, ""}, {7, imap.UIDSet{{Start: 4, Stop: 100}}, "4"}, {7, imap.UIDSetNum(1, 2), ""}} {
			if set, err := snap.VanishedSince(tc.since, tc.known); err != nil || set.String() != tc.want {
				t.Errorf("VanishedSince(%d, %v) = %q, %v", tc.since, tc.known, set, err)
			}
		}
		gone, _, err = f.Expunge(f.ctx, id, nil)
		if err != nil || gone.String() != "1" {
			t.Fatal(gone, err)
		}
	})
}

func TestCopyAndMove(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		for i := range 4 {
			f.append(backend.Inbox, fmt.Sprint("text ", i), "First", imap.Flag(fmt.Sprint("K", i)))
		}
		f.append("Trash", "there before", "K2")
		inbox := f.mailbox(backend.Inbox)
		res, err := f.Copy(f.ctx, inbox.ID, imap.UIDSetNum(2, 3), "Trash")
		if err != nil || res.Source.String() != "2:3" || res.Dest.String() != "2:3" || res.UIDValidity != f.mailbox("Trash").UIDValidity {
			t.Fatal(res, err)
		}
		wantStrings(t, f.list("Trash"), []string{"1 2 [K2]", "2 3 [First K1]", "3 3 [K2 First]"})
		res, err = f.Move(f.ctx, inbox.ID, imap.UIDSet{{Start: 3, Stop: 99}}, "Trash")
		if err != nil || res.Source.String() != "3:4" || res.Dest.String() != "4:5" {
			t.Fatal(res, err)
		}
		wantStrings(t, f.list(backend.Inbox), []string{"1 2 [First K0]", "2 3 [First K1]"})
		res, err = f.Copy(f.ctx, inbox.ID, imap.UIDSet{{Start: 1, Stop: 99}}, backend.Inbox)
		if err != nil || res.Dest.String() != "5:6" {
			t.Fatal(res, err)
		}
		snap := f.snapshot("Trash")
		defer snap.Close()
		m, err := snap.Message(5)
		if err != nil || f.read(m) != "text 3" {
			t.Errorf("moved message: %v", err)
		}
		_, err = f.Copy(f.ctx, inbox.ID, imap.UIDSetNum(1), "nowhere")
		wantKind(t, err, backend.KindNotFound)
	})
}

func TestClaimRecent(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		f.append(backend.Inbox, "one")
		f.append(backend.Inbox, "two")
		id := f.mailbox(backend.Inbox).ID
		for i, want := range []string{"1 3", "3 3"} {
			first, next, err := f.ClaimRecent(f.ctx, id)
			if err != nil || fmt.Sprint(first, next) != want {
				t.Errorf("claim %d: %d %d %v", i, first, next, err)
			}
		}
		f.append(backend.Inbox, "three")
		if mb := f.mailbox(backend.Inbox); mb.Recent != 1 {
			t.Errorf("%d recent", mb.Recent)
		}
	})
}

// TestLargeSets crosses the size of a step.
func TestLargeSets(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store.Store) {
		f := newUser(t, s, "u")
		const n = 2500
		batch := make([]store.Append, 0, 500)
		for i := range n {
			batch = append(batch, store.Append{Mailbox: backend.Inbox, Body: stage(t, f.Account, fmt.Sprint(i))})
			if len(batch) == cap(batch) {
				if _, err := f.Append(f.ctx, batch...); err != nil {
					t.Fatal(err)
				}
				batch = batch[:0]
			}
		}
		id, all := f.mailbox(backend.Inbox).ID, imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}
		changed, _, err := f.StoreFlags(f.ctx, id, all, store.FlagsAdd, []imap.Flag{imap.FlagDeleted}, 0)
		if err != nil || len(changed) != n {
			t.Fatal(len(changed), err)
		}
		res, err := f.Copy(f.ctx, id, all, backend.Inbox)
		if err != nil || res.Dest.String() != "2501:5000" {
			t.Fatal(res, err)
		}
		res, err = f.Move(f.ctx, id, imap.UIDSet{{Start: 2501, Stop: 1<<32 - 1}}, "Trash")
		if err != nil || res.Dest.String() != "1:2500" {
			t.Fatal(res, err)
		}
		gone, _, err := f.Expunge(f.ctx, id, nil)
		if err != nil || gone.String() != "1:2500" {
			t.Fatal(gone, err)
		}
		if err := f.Delete(f.ctx, "Trash"); err != nil {
			t.Fatal(err)
		}
	})
}
