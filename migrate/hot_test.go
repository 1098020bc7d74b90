package migrate

import (
	"context"
	"testing"
	"time"

	"mailferry/backend"
)

// TestHotCopyHearsOfNewMail: while a copy is hot, what changes at the source is
// brought over because the source says so: nobody asks for an hour.
func TestHotCopyHearsOfNewMail(t *testing.T) {
	seen := map[backend.StoreType]bool{}
	realSources(t, func(t *testing.T, s *source) {
		if seen[s.store.Type] {
			t.Skip("once for each kind of store")
		}
		seen[s.store.Type] = true
		s.manyFolders(t, 3, 2)
		fs := newFakeStore()
		sealed := make(chan struct{}, 1000)
		fs.fail = func(op string) error {
			if op == "seal" {
				sealed <- struct{}{}
			}
			return nil
		}
		a := newAccount(s.user, s.dial, fs)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.stayHot(ctx, time.Hour) }()
		boxes := [][]string{{"INBOX"}}
		if c, err := s.dial(ctx); err != nil {
			t.Fatal(err)
		} else {
			if c.Has("NOTIFY") {
				boxes = append(boxes, []string{"Ordner 02"})
			}
			t.Logf("NOTIFY: %v, IDLE: %v", c.Has("NOTIFY"), c.Has("IDLE"))
			c.Close()
		}
		wait := func(box []string, want int) {
			t.Helper()
			for {
				fs.mu.Lock()
				n := 0
				if u := fs.users[s.user]; u != nil && u.boxes[backend.JoinName(box...)] != nil {
					n = len(u.boxes[backend.JoinName(box...)].msgs)
				}
				fs.mu.Unlock()
				if n == want {
					return
				}
				select {
				case <-sealed:
				case <-time.After(time.Minute):
					t.Fatalf("%v has %d messages, want %d", box, n, want)
				}
			}
		}
		wait([]string{"Ordner 02"}, 2)
		c := s.conn(t)
		for round := range 3 {
			for _, box := range boxes {
				began := time.Now()
				c.Append(s.box(box...), "", time.Time{}, bodies[0])
				wait(box, 3+round)
				t.Logf("%v: in the copy after %v", box, time.Since(began))
			}
		}
		c.Cmd("SELECT INBOX")
		c.Cmd(`UID STORE 1 +FLAGS.SILENT (\Deleted)`)
		c.Cmd("UID EXPUNGE 1")
		wait([]string{"INBOX"}, 4)
		cancel()
		<-done
		a.close()
	})
}

// TestFollowersEndBeforeAnybodyElse: users who wait for the window of flips are followed,
// and let go before they are flipped.
func TestFollowersEndBeforeAnybodyElse(t *testing.T) {
	src := startMem(t, 3, 6)
	fs := newFakeStore()
	e, err := New(Options{Dir: t.TempDir(), Importer: fs, Placements: newFakePlacements(), Timing: Timing{BackOff: time.Millisecond},
		Stores: map[string]*backend.Store{"old": src.store, "home": {Name: "home", Type: backend.StoreLocal}},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	id := start(t, e, BatchSpec{Users: []string{"u00", "u01"}, CopyOnly: true})
	wait(t, e, id)
	e.mu.Lock()
	b := e.batches[id]
	e.mu.Unlock()
	f := newFollowers(t.Context())
	for _, u := range []string{"u00", "u01"} {
		d := e.driver(b, u, false)
		if err := d.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.keep(d)
		f.keep(d) // once
	}
	if len(f.run) != 2 {
		t.Errorf("%d users are followed", len(f.run))
	}
	f.cool("u00")
	f.cool("u00")
	f.cool("nobody")
	if len(f.run) != 1 {
		t.Errorf("%d users are followed", len(f.run))
	}
	f.close()
}
