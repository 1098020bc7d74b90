package migrate

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// TestUnchangedSecondRun: another process that finds nothing new waits for the
// store twice, at login and at its survey, however many mailboxes and messages
// there are; and follows what changed from where the first one stood.
func TestUnchangedSecondRun(t *testing.T) {
	seen := map[backend.StoreType]bool{}
	realSources(t, func(t *testing.T, s *source) {
		if seen[s.store.Type] {
			t.Skip("once for each kind of store")
		}
		seen[s.store.Type] = true
		boxes := s.manyFolders(t, 30, 2)
		own, tap, ids := ownStore(t), &wiretap{}, filepath.Join(t.TempDir(), "ids")
		account := func() *account {
			a := newAccount(s.user, s.tapped(tap), own.Importer())
			a.ids = newContentIDs(ids)
			return a
		}
		first := account()
		synced(t, first)
		first.close()

		second := account()
		tap.reset()
		if p := synced(t, second); p.Changed != 0 || p.Copied != 0 {
			t.Errorf("unchanged account: %+v", p)
		}
		second.close()
		turns := int64(3) // greeting, login, survey
		if s.store.Type == backend.StoreCyrus {
			turns++ // mailboxes made in one second look alike: all are opened at once
		}
		if c, err := s.dial(t.Context()); err == nil {
			if !c.Has("CONDSTORE") {
				t.Skip("a store without modseqs has to be listed")
			}
			c.Close()
		}
		t.Logf("%d turns, %d commands", tap.turns.Load(), tap.commands.Load())
		if n := tap.turns.Load(); n > turns {
			t.Errorf("%d turns for an unchanged account", n)
		}

		c := s.conn(t)
		c.Append(s.box(boxes[7]...), `\Flagged`, time.Time{}, bodies[0])
		c.Cmd("SELECT %s", mailtest.Quote(s.box(boxes[9]...)))
		c.Cmd(`UID STORE 1 +FLAGS.SILENT (\Deleted)`)
		c.Cmd("UID EXPUNGE 1")
		c.Cmd(`UID STORE 2 FLAGS (\Answered)`)
		third := account()
		defer third.close()
		tap.reset()
		if p := synced(t, third); p.Changed != 2 || p.Copied != 1 || p.Vanished != 1 || p.Flagged < 1 {
			t.Errorf("changed account: %+v", p)
		}
		t.Logf("delta: %d turns, %d commands", tap.turns.Load(), tap.commands.Load())
		if err := third.sumAhead(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := third.compare(context.Background(), false); err != nil {
			t.Error(err)
		}
	})
}

// TestUnchangedBatch: so does a batch as a whole, its check included, over one
// connection, and what it writes says that the user was copied.
func TestUnchangedBatch(t *testing.T) {
	realSources(t, func(t *testing.T, s *source) {
		s.unlikeFolders(t, 10)
		tap := &wiretap{}
		e, err := New(Options{Dir: t.TempDir(), Importer: ownStore(t).Importer(), Placements: newFakePlacements(), Dial: tap.dial,
			Stores: map[string]*backend.Store{"old": s.store, "home": {Name: "home", Type: backend.StoreLocal}},
			Lookup: func(_ context.Context, user string) (backend.Entry, error) {
				return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		run := func() *Certificate {
			tap.reset()
			id := start(t, e, BatchSpec{Users: []string{s.user}, To: "home", CopyOnly: true, POP3: POP3Never})
			if st := wait(t, e, id); st.Counts[Ready] != 1 {
				t.Fatalf("%+v", st)
			}
			c, err := e.Certificate(s.user)
			if err != nil || c.Batch != id || c.Level != "copied" {
				t.Fatalf("certificate %+v, %v", c, err)
			}
			return c
		}
		first := run()
		again := run()
		// greeting, login, survey, and LOGOUT, whose answer nobody waits for
		if n := tap.turns.Load(); n > 4 {
			t.Errorf("%d turns, %d commands for an unchanged user", n, tap.commands.Load())
		}
		if again.Messages != first.Messages || again.Messages == 0 || len(again.Mailboxes) != len(first.Mailboxes) {
			t.Errorf("certificates of %d and %d messages", first.Messages, again.Messages)
		}
	}, "dovecot", "cyrus")
}

// A copy that is ahead of its own seal, because the store changed while it was
// listed, is not taken for up to date by the next process.
func TestSecondRunFollowsFromTheSeal(t *testing.T) {
	h := startHostile(t, &hostile{caps: "CONDSTORE", boxes: []*hostileBox{filled("INBOX", 6)}})
	box := h.boxes[0]
	box.modseq = 100
	h.bend = func(_ int, line string, answer []string) []string {
		for i, l := range answer { // one message is ahead of what EXAMINE said
			if len(l) > 20 && l[:9] == "* 2 FETCH" && box.modseq == 100 {
				answer[i] = fmt.Sprintf(`* 2 FETCH (UID 2 FLAGS (\Seen) INTERNALDATE "%s" RFC822.SIZE %d MODSEQ (102))`, box.msgs[1].date, len(box.msgs[1].body))
				if strings.Contains(line, "BODY") {
					answer[i] = fmt.Sprintf("* 2 FETCH (UID 2 BODY[] {%d}\r\n%s)", len(box.msgs[1].body), box.msgs[1].body)
				}
			}
		}
		return answer
	}
	own := ownStore(t)
	a := h.into(own.Importer())
	synced(t, a)
	a.close()
	h.mu.Lock()
	box.modseq, box.msgs[3].flags, box.msgs[1].flags = 102, `\Answered`, `\Seen`
	h.mu.Unlock()
	a = h.into(own.Importer())
	defer a.close()
	if p := synced(t, a); p.Changed != 1 {
		t.Errorf("second run: %+v", p)
	}
	if err := a.compare(t.Context(), false); err != nil {
		t.Error(err)
	}
}
