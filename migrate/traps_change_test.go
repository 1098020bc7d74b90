package migrate

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

func TestTrapExpungedInBetween(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 20)}})
	box := h.boxes[0]
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.Contains(line, "BODY.PEEK") && len(box.msgs) == 20 {
			box.msgs = slices.Delete(box.msgs, 4, 5)
			answer = slices.DeleteFunc(answer, func(s string) bool { return strings.Contains(s, "(UID 5 ") })
			answer[len(answer)-1] = "NO [EXPUNGEISSUED] some are gone"
		}
		if line == "NOOP" {
			answer = append([]string{"* 5 EXPUNGE"}, answer...)
		}
		return answer
	}
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	if n := len(fs.box(t, "anna", "INBOX").msgs); n != 19 || exceptionsOf(a) != "" {
		t.Errorf("%d messages copied, exceptions %q", n, exceptionsOf(a))
	}
	if err := a.compare(context.Background(), false); err != nil {
		t.Error(err)
	}
}

func TestTrapUIDValidityChanges(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 9)}})
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	h.mu.Lock()
	h.boxes[0] = filled("INBOX", 4)
	h.boxes[0].validity = 8
	h.mu.Unlock()
	synced(t, a)
	if b := fs.box(t, "anna", "INBOX"); len(b.msgs) != 4 || b.meta.UIDValidity != 8 {
		t.Errorf("%d messages under %d", len(b.msgs), b.meta.UIDValidity)
	}
	if !strings.Contains(exceptionsOf(a), "UIDVALIDITY changed from 7 to 8") {
		t.Errorf("exceptions %q", exceptionsOf(a))
	}
}

// A listing that lies about a whole mailbox removes nothing.
func TestTrapMassDeletionNeedsTwoListings(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 60)}})
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	h.mu.Lock()
	h.bend = func(conn int, line string, answer []string) []string {
		if conn == 1 && strings.HasPrefix(line, "EXAMINE") {
			answer[0] = "* 2 EXISTS"
		}
		if conn == 1 && strings.Contains(line, "FETCH 1:*") {
			answer = append(answer[:2], "OK done")
		}
		return answer
	}
	h.mu.Unlock()
	p, err := a.sync(context.Background())
	if err == nil {
		err = p.err()
	}
	if !backend.IsKind(err, backend.KindTemporary) || len(fs.box(t, "anna", "INBOX").msgs) != 60 {
		t.Errorf("error %v, %d messages", err, len(fs.box(t, "anna", "INBOX").msgs))
	}
	h.mu.Lock()
	h.bend, h.boxes[0].msgs = nil, h.boxes[0].msgs[:2] // now it is true
	h.mu.Unlock()
	synced(t, a)
	if n := len(fs.box(t, "anna", "INBOX").msgs); n != 2 {
		t.Errorf("%d messages after a confirmed removal", n)
	}
}

// A folder that is missing from one listing is not removed.
func TestTrapMissingFolderNeedsTwoListings(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 2), filled("Sent", 3)}})
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	h.mu.Lock()
	h.bend = func(conn int, line string, answer []string) []string {
		if conn == 1 && strings.HasPrefix(line, "LIST") {
			answer = append(answer[:1], "OK done")
		}
		return answer
	}
	h.mu.Unlock()
	if p, err := a.sync(context.Background()); err == nil && p.err() == nil {
		t.Error("a folder that one listing left out was removed")
	}
	if n := len(fs.box(t, "anna", "Sent").msgs); n != 3 {
		t.Errorf("%d messages", n)
	}
}

func TestTrapModSeqGoesDown(t *testing.T) {
	h := startHostile(t, &hostile{caps: "CONDSTORE", boxes: []*hostileBox{filled("INBOX", 6)}})
	h.boxes[0].modseq = 90
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	h.mu.Lock()
	h.boxes[0].modseq, h.boxes[0].msgs[2].flags = 40, `\Answered`
	h.mu.Unlock()
	synced(t, a)
	// Our flags stay behind only if nobody looked.
	if f := fs.box(t, "anna", "INBOX").msgs[3].Flags; len(f) != 1 || f[0] != imap.FlagAnswered {
		t.Errorf("flags %v", f)
	}
}

func TestTrapOneBadFolderStopsNoOther(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 2), filled("Bad", 3), filled("Good", 4)}})
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.HasPrefix(line, `EXAMINE "Bad"`) {
			return []string{"NO [SERVERBUG] cannot open"}
		}
		return answer
	}
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	p, err := a.sync(context.Background())
	if err != nil || len(p.Errors) != 1 || len(fs.box(t, "anna", "Good").msgs) != 4 {
		t.Errorf("%v %+v", err, p)
	}
}

// Refusals are told apart by what they mean: later, never, or not this way.
func TestTrapThrottle(t *testing.T) {
	for _, k := range []struct {
		name   string
		answer []string // to LOGIN; empty: the connection ends
		first  []string // to the first command behind it
		want   backend.Kind
	}{
		{"limit", []string{"NO [LIMIT] too many connections"}, nil, backend.KindTemporary},
		{"throttled", []string{"NO [THROTTLED] slow down"}, nil, backend.KindTemporary},
		{"in use", []string{"NO [INUSE] locked"}, nil, backend.KindTemporary},
		{"unavailable", []string{"NO [UNAVAILABLE] directory is away"}, nil, backend.KindTemporary},
		{"bye", []string{"* BYE [UNAVAILABLE] later", "NO bye"}, nil, backend.KindTemporary},
		{"silent hang-up", []string{}, nil, backend.KindUnavailable},
		{"wrong password", []string{"NO [AUTHENTICATIONFAILED] no"}, nil, backend.KindAuthentication},
		{"authenticated but not connected", nil, []string{"BAD User is authenticated but not connected."}, backend.KindTemporary},
		{"hang-up behind the login", nil, []string{}, backend.KindUnavailable},
		{"bye behind the login", nil, []string{"* BYE [THROTTLED] Suggested Backoff Time: 299961 milliseconds", "NO bye"}, backend.KindTemporary},
	} {
		t.Run(k.name, func(t *testing.T) {
			h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 1)}})
			h.bend = func(_ int, line string, answer []string) []string {
				switch {
				case strings.HasPrefix(line, "LOGIN"):
					if k.answer != nil {
						return k.answer
					}
				case k.first != nil:
					return k.first
				}
				return answer
			}
			a := h.account(newFakeStore())
			defer a.close()
			_, err := a.sync(context.Background())
			if !backend.IsKind(err, k.want) {
				t.Errorf("error of kind %v: %v", backend.KindOf(err), err)
			}
		})
	}
}

// A line that breaks inside a message costs that message once more, and no
// other: what was complete is kept.
func TestTrapCutInsideAMessage(t *testing.T) {
	box := filled("INBOX", 400)
	for _, m := range box.msgs {
		m.body += strings.Repeat("0123456789abcdef", 500)
	}
	h := startHostile(t, &hostile{boxes: []*hostileBox{box}})
	relay := mailtest.NewRelay(t, net.JoinHostPort(h.store.Address, fmt.Sprint(h.store.Ports[backend.IMAP])))
	h.store = storeAt(t, h.typ, relay.Addr, h.store.Login)
	fs := newFakeStore()
	relay.CutAfter(mailtest.ToClient, 1<<20)
	a := h.account(fs)
	defer a.close()
	p, err := a.sync(context.Background())
	if err == nil && p.err() == nil {
		t.Fatal("nobody noticed that the line was cut")
	}
	for uid, m := range fs.box(t, "anna", "INBOX").msgs {
		if string(m.data) != box.msgs[uid-1].body {
			t.Errorf("UID %d is not whole", uid)
		}
	}
	synced(t, a)
	if got := len(fs.box(t, "anna", "INBOX").msgs); got != 400 || fs.puts != 400 {
		t.Errorf("%d messages, %d put", got, fs.puts)
	}
}

// A mailbox that was emptied and made anew while it was copied is started anew.
func TestTrapUIDValidityChangesWhileCopying(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 600)}})
	cut := false
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.Contains(line, "BODY.PEEK") && !cut {
			cut = true
			h.boxes[0] = holding("INBOX", repeated(600, func(i int) string { return fmt.Sprintf("Subject: anew %d\r\n\r\nx\r\n", i) })...)
			h.boxes[0].validity = 8
			return []string{} // the line breaks
		}
		return answer
	}
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	if p, err := a.sync(context.Background()); err == nil && p.err() == nil {
		t.Fatal("nobody noticed that the line was cut")
	}
	synced(t, a)
	b := fs.box(t, "anna", "INBOX")
	if b.meta.UIDValidity != 8 || len(b.msgs) != 600 {
		t.Errorf("UIDVALIDITY %d, %d messages", b.meta.UIDValidity, len(b.msgs))
	}
	for uid, m := range b.msgs {
		if !strings.HasPrefix(string(m.data), "Subject: anew") {
			t.Fatalf("UID %d is of the mailbox before", uid)
		}
	}
}

// A mailbox without modseqs at a store that has them is compared flag by flag.
func TestTrapNoModSeq(t *testing.T) {
	h := startHostile(t, &hostile{caps: "CONDSTORE", boxes: []*hostileBox{filled("INBOX", 6)}})
	h.bend = func(_ int, line string, answer []string) []string {
		switch {
		case strings.HasPrefix(line, "EXAMINE"):
			return append([]string{"* OK [NOMODSEQ] none"}, answer...)
		case strings.Contains(line, "MODSEQ"):
			if strings.HasPrefix(line, "UID FETCH") {
				return []string{"BAD no modseqs here"}
			}
		}
		return answer
	}
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	h.mu.Lock()
	h.boxes[0].msgs[2].flags = `\Answered`
	h.mu.Unlock()
	synced(t, a)
	if f := fs.box(t, "anna", "INBOX").msgs[3].Flags; len(f) != 1 || f[0] != imap.FlagAnswered {
		t.Errorf("flags %v", f)
	}
}

// Mail that comes while we copy is there after the next pass, once.
func TestTrapDeliveryWhileCopying(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 500)}})
	box := h.boxes[0]
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.Contains(line, "BODY.PEEK") && len(box.msgs) < 520 {
			m := *box.msgs[0]
			m.uid, m.body = box.next, fmt.Sprintf("Subject: late %d\r\n\r\nx\r\n", box.next)
			box.next++
			box.msgs = append(box.msgs, &m)
			answer = append([]string{fmt.Sprintf("* %d EXISTS", len(box.msgs))}, answer...)
		}
		return answer
	}
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	for range 40 {
		synced(t, a)
		if a.compare(t.Context(), false) == nil {
			break
		}
	}
	got := fs.box(t, "anna", "INBOX").msgs
	if len(got) != len(box.msgs) || fs.puts != len(box.msgs) {
		t.Errorf("%d messages, %d put; the old store has %d", len(got), fs.puts, len(box.msgs))
	}
}

// A store that hangs up on idle connections costs one more login.
func TestTrapIdleConnectionIsDropped(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 3)}})
	relay := mailtest.NewRelay(t, net.JoinHostPort(h.store.Address, fmt.Sprint(h.store.Ports[backend.IMAP])))
	h.store = storeAt(t, h.typ, relay.Addr, h.store.Login)
	a := h.account(newFakeStore())
	defer a.close()
	synced(t, a)
	relay.CutAll()
	synced(t, a)
}

// Copies and removals are two things: an interrupted pass forgets neither.
func TestTrapInterruptedBetweenCopyAndRemoval(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 40)}})
	box := h.boxes[0]
	fs := newFakeStore()
	a := h.account(fs)
	synced(t, a)
	for _, op := range []string{"setflags", "vanish", "put", "seal"} {
		h.mu.Lock()
		m := *box.msgs[0]
		m.uid = box.next
		box.next++
		box.msgs[5].flags = "after-" + op
		box.msgs = append(box.msgs[1:], &m)
		h.mu.Unlock()
		fs.fail = func(o string) error {
			if o == op {
				return backend.NewError(backend.KindUnavailable, "killed")
			}
			return nil
		}
		if p, err := a.sync(context.Background()); err == nil && p.err() == nil {
			t.Errorf("%s: nobody noticed", op)
		}
		fs.fail = nil
		a.close()
		a = h.account(fs) // another process
		synced(t, a)
		if err := a.compare(t.Context(), false); err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
	a.close()
}

// A user is in one batch at a time.
func TestTrapTwoRunsForOneUser(t *testing.T) {
	src := startMem(t, 1, 400)
	fs, release := newFakeStore(), make(chan struct{})
	first := true
	fs.fail = func(op string) error {
		if op == "put" && first {
			first = false
			<-release
		}
		return nil
	}
	e, err := New(Options{Dir: t.TempDir(), Importer: fs, Placements: newFakePlacements(), Timing: Timing{BackOff: time.Millisecond},
		Stores: map[string]*backend.Store{"old": src.store, "home": {Name: "home", Type: backend.StoreLocal}},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	id := start(t, e, BatchSpec{Users: []string{"u00"}, CopyOnly: true})
	if _, err := e.Start(t.Context(), BatchSpec{Users: []string{"u00"}, To: "home"}); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("a second batch of the same user: %v", err)
	}
	close(release)
	wait(t, e, id)
}
