package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// eager asks for bodies as soon as a listing begins, at any distance.
var eager = lineRule{far: -1, look: 1 << 40, most: 1, sample: 1}

// TestBodiesAskedForWhileListing: the newest messages are asked for before their
// listing has ended, and every body is read once.
func TestBodiesAskedForWhileListing(t *testing.T) {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{})
	s := &source{addr: d.IMAP, user: "anna", password: d.Password, sep: d.Separator, prefix: d.Prefix,
		store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser,
			Secret: backend.Secret(d.MasterPassword)})}
	boxes := s.manyFolders(t, 1, 4500)
	c := s.conn(t)
	c.Cmd("SELECT INBOX")
	c.Cmd(`UID STORE 4480:4485,12 +FLAGS (\Deleted)`)
	c.Cmd("EXPUNGE")
	var octets [2]int64
	for i, rule := range []lineRule{defaultLines, eager} {
		tap, fs := &wiretap{}, newFakeStore()
		a := newAccount(s.user, s.tapped(tap), fs)
		a.lines = rule
		synced(t, a)
		octets[i] = tap.octets.Load()
		s.equal(t, fs, boxes)
		if fs.puts != 4493 {
			t.Errorf("%d messages put", fs.puts)
		}
		if err := a.compare(context.Background(), false); err != nil {
			t.Error(err)
		}
		a.close()
	}
	if octets[1] > octets[0]*11/10 {
		t.Errorf("%d octets read, %d without", octets[1], octets[0])
	}
}

// TestBodiesAskedForTooSoon: whatever becomes of what was asked for while the
// listing was coming, the copy is whole.
func TestBodiesAskedForTooSoon(t *testing.T) {
	early := func(line string) bool { return strings.HasPrefix(line, "UID FETCH") && strings.Contains(line, "BODY") }
	tests := []struct {
		name string
		bend func(h *hostile) func(conn int, line string, answer []string) []string
	}{
		{"refused", func(*hostile) func(int, string, []string) []string {
			n := 0
			return func(_ int, line string, answer []string) []string {
				if early(line) {
					if n++; n <= 3 {
						return []string{"NO [CANNOT] not so"}
					}
				}
				return answer
			}
		}},
		{"the listing is not whole", func(*hostile) func(int, string, []string) []string {
			n := 0
			return func(_ int, line string, answer []string) []string {
				if strings.HasPrefix(line, "UID FETCH 1:* (UID FLAGS INTERNALDATE") {
					if n++; n == 1 {
						return slices.Delete(slices.Clone(answer), 100, 120)
					}
				}
				return answer
			}
		}},
		{"the listing is refused", func(*hostile) func(int, string, []string) []string {
			n := 0
			return func(_ int, line string, answer []string) []string {
				if strings.HasPrefix(line, "UID FETCH 1:* (UID FLAGS INTERNALDATE") {
					if n++; n == 1 {
						return append(slices.Clone(answer[:50]), "NO [INUSE] not now")
					}
				}
				return answer
			}
		}},
		{"another mailbox is served", func(h *hostile) func(int, string, []string) []string {
			n, lying := 0, false
			return func(_ int, line string, answer []string) []string {
				switch {
				case strings.HasPrefix(line, `EXAMINE "INBOX"`):
					if n++; n == 1 {
						lying = true
						return []string{"NO [INUSE] not now"}
					}
					lying = false
				case strings.HasPrefix(line, "EXAMINE"):
					lying = false
				case lying && strings.HasPrefix(line, "UID FETCH"):
					return append(h.boxes[1].fetch(strings.TrimPrefix(line, "UID ")), "OK done")
				}
				return answer
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 4500), filled("Other", 4500)}})
			for i, m := range h.boxes[1].msgs {
				m.body = fmt.Sprintf("Subject: another %d\r\n\r\nbody\r\n", i)
			}
			fs := newFakeStore()
			a := h.account(fs)
			a.lines = eager
			h.bend = tt.bend(h)
			pl, err := a.survey(t.Context())
			if err == nil {
				err = a.open(t.Context(), pl)
			}
			if err != nil {
				t.Fatal(err)
			}
			res := &pass{}
			for _, p := range pl.boxes { // one by one, as large ones are copied
				if err := a.syncBox(t.Context(), p, res); err != nil {
					t.Error(err)
				}
			}
			a.close()
			h.mu.Lock()
			defer h.mu.Unlock()
			if !slices.ContainsFunc(h.seen, func(l string) bool { return early(l) && strings.Contains(l, ":*") }) {
				t.Error("nothing was asked for early")
			}
			for _, b := range h.boxes {
				got := fs.box(t, "anna", b.name).msgs
				if len(got) != len(b.msgs) {
					t.Errorf("%s: %d messages of %d", b.name, len(got), len(b.msgs))
				}
				for uid, m := range got {
					if string(m.data) != b.msgs[uid-1].body {
						t.Fatalf("%s: UID %d is another message", b.name, uid)
					}
				}
			}
		})
	}
}
