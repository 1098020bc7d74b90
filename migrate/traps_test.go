package migrate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

func TestTrapMessageThatIsListedButNotGiven(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 70)}})
	h.boxes[0].msgs[3].nobody = true
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	if n := len(fs.box(t, "anna", "INBOX").msgs); n != 69 {
		t.Errorf("%d messages copied", n)
	}
	if got := exceptionsOf(a); got != "INBOX 4 the old store lists this message but does not give it skipped=true\n" {
		t.Errorf("exceptions %q", got)
	}
	if err := a.compare(context.Background(), false); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("a skipped message is equal: %v", err)
	}
	if err := a.compare(context.Background(), true); err != nil {
		t.Errorf("with skipped messages allowed: %v", err)
	}
}

// Courier serves a made-up message in the place of one that went.
func TestTrapGhostBody(t *testing.T) {
	h := startHostile(t, &hostile{typ: backend.StoreCourier, boxes: []*hostileBox{filled("INBOX", 5)}})
	box := h.boxes[0]
	h.bend = func(_ int, line string, answer []string) []string {
		switch {
		case strings.Contains(line, "BODY.PEEK") && len(box.msgs) == 5:
			const ghost = "From: System Administrator\r\nSubject: message unavailable\r\n\r\ngone\r\n"
			for i, s := range answer {
				if strings.Contains(s, "(UID 2 ") {
					answer[i] = fmt.Sprintf("* 2 FETCH (UID 2 BODY[] {%d}\r\n%s)", len(ghost), ghost)
				}
			}
		case line == "NOOP":
			box.msgs = slices.Delete(box.msgs, 1, 2)
			answer = append([]string{"* 2 EXPUNGE"}, answer...)
		}
		return answer
	}
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	b := fs.box(t, "anna", "INBOX")
	if len(b.msgs) != 4 || b.msgs[2] != nil {
		t.Errorf("%d messages, the made-up one: %+v", len(b.msgs), b.msgs[2])
	}
}

func TestTrapWrongSizeOfAGoodMessage(t *testing.T) {
	h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{filled("INBOX", 3)}})
	h.boxes[0].msgs[1].size = 9999
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	if b := fs.box(t, "anna", "INBOX"); len(b.msgs) != 3 {
		t.Errorf("%d messages", len(b.msgs))
	}
	if !strings.Contains(exceptionsOf(a), "announced 9999 octets") {
		t.Errorf("exceptions %q", exceptionsOf(a))
	}
}

func TestTrapListingShorterThanExists(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 8)}})
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.Contains(line, "FETCH 1:*") {
			return append(answer[:5], "OK done")
		}
		return answer
	}
	a := h.account(newFakeStore())
	defer a.close()
	p, err := a.sync(context.Background())
	if err != nil || !backend.IsKind(p.err(), backend.KindTemporary) {
		t.Errorf("%v %v", err, p.err())
	}
}

func TestTrapDatesAndFlagsOfTheCopy(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 2)}})
	h.boxes[0].msgs[0].date, h.boxes[0].msgs[0].flags = "30-Feb-2020 00:00:00 +0000", `\Seen Foo[1] a%b`
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	m := fs.box(t, "anna", "INBOX").msgs[1]
	if got := fmt.Sprint(m.InternalDate.Format("2006-01-02 -0700"), m.Flags); got != `2015-04-03 +0200[\Seen Foo[1=5D a=25b]` {
		t.Errorf("message has %s", got)
	}
	for _, want := range []string{`flag "Foo[1]"`, `flag "a%b"`, "taken from Date"} {
		if !strings.Contains(exceptionsOf(a), want) {
			t.Errorf("no exception about %s in %q", want, exceptionsOf(a))
		}
	}
}

// Nothing that a copy sends may change the old store.
func TestTrapNothingIsChangedAtTheSource(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 20)}})
	a := h.account(newFakeStore())
	synced(t, a)
	a.close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range h.seen {
		if strings.HasPrefix(line, "SELECT") || strings.Contains(line, "BODY[") || strings.Contains(line, "RFC822 ") || strings.Contains(line, "STORE") {
			t.Errorf("sent %q", line)
		}
	}
}

// docs/traps.md says which trap each of these tests is.

// settled is a user who was copied from a hostile store into ours, and opened.
type settled struct {
	*store.Account
	t    *testing.T
	copy *account
}

// settle copies h's user into our own store and lets clients in.
func settle(t *testing.T, h *hostile) *settled {
	t.Helper()
	own := ownStore(t)
	a := h.into(own.Importer())
	t.Cleanup(a.close)
	synced(t, a)
	if err := a.compare(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := a.imp.Activate(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	acct, err := own.Account(t.Context(), "anna")
	if err != nil {
		t.Fatal(err)
	}
	return &settled{acct, t, a}
}

// kept is a message as our store gives it.
type kept struct {
	store.Message
	body string
}

func (s *settled) box(components ...string) (store.Mailbox, map[int]kept) {
	s.t.Helper()
	m, err := s.Mailbox(s.t.Context(), backend.JoinName(components...))
	if err != nil {
		all, _ := s.Mailboxes(s.t.Context())
		for _, b := range all {
			s.t.Logf("there is %q", b.Name)
		}
		s.t.Fatalf("mailbox %q: %v", components, err)
	}
	snap, err := s.Snapshot(s.t.Context(), m.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	defer snap.Close()
	got := make(map[int]kept)
	for msg, err := range snap.Messages(imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}) {
		if err != nil {
			s.t.Fatal(err)
		}
		r, err := s.OpenMessage(s.t.Context(), msg)
		if err != nil {
			s.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			s.t.Fatal(err)
		}
		r.Close()
		got[int(msg.UID)] = kept{msg, string(data)}
	}
	return m, got
}

// same wants every message of b in our store, octet by octet, and no other.
func (s *settled) same(b *hostileBox) map[int]kept {
	s.t.Helper()
	m, got := s.box(b.name)
	for _, want := range b.msgs {
		if got[want.uid].body != want.body {
			s.t.Errorf("%s: UID %d has %d octets that are not the %d of the old store", b.name, want.uid, len(got[want.uid].body), len(want.body))
		}
	}
	if len(got) != len(b.msgs) || int(m.UIDNext) != b.next || int(m.UIDValidity) != b.validity {
		s.t.Errorf("%s: %d messages, UIDNEXT %d, UIDVALIDITY %d; want %d, %d, %d", b.name, len(got), m.UIDNext, m.UIDValidity,
			len(b.msgs), b.next, b.validity)
	}
	return got
}

// holding makes a box of these bodies.
func holding(name string, bodies ...string) *hostileBox {
	b := filled(name, len(bodies))
	for i, body := range bodies {
		b.msgs[i].body = body
	}
	return b
}

func repeated(n int, body func(i int) string) (list []string) {
	for i := range n {
		list = append(list, body(i))
	}
	return list
}

// A message is what its UID says, whatever its header does not.
func TestTrapNoMessageID(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{holding("INBOX", repeated(1000, func(i int) string {
		return fmt.Sprintf("\r\nno header, body %d\r\n", i/2)
	})...)}})
	settle(t, h).same(h.boxes[0])
}

func TestTrapEqualHeadersOtherBody(t *testing.T) {
	const head = "From: a@x\r\nMessage-Id: <same@x>\r\nReceived: by x\r\n\r\n"
	h := startHostile(t, &hostile{boxes: []*hostileBox{holding("INBOX", head+"one\r\n", head+"two\r\n")}})
	settle(t, h).same(h.boxes[0])
}

func TestTrapIdenticalCopies(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{holding("INBOX", repeated(50, func(int) string {
		return "Message-Id: <1@x>\r\n\r\nequal\r\n"
	})...)}})
	s := settle(t, h)
	s.same(h.boxes[0])
}

// A store that writes its messages anew at each reading gives no second copy,
// and is named in the report.
func TestTrapBodyChangesAtEachReading(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 12)}})
	box, n := h.boxes[0], 0
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.Contains(line, "BODY.PEEK") {
			for i, m := range box.msgs {
				n++
				if k := slices.IndexFunc(answer, func(s string) bool { return strings.Contains(s, fmt.Sprintf("(UID %d ", m.uid)) }); k >= 0 {
					body := fmt.Sprintf("X-Reading: %08d\r\n%s", n, m.body)
					answer[k] = fmt.Sprintf("* %d FETCH (UID %d BODY[] {%d}\r\n%s)", i+1, m.uid, len(body), body)
				}
			}
		}
		return answer
	}
	fs := newFakeStore()
	for range 2 { // a second process finds all of it
		a := h.account(fs)
		synced(t, a)
		synced(t, a)
		if got := len(fs.box(t, "anna", "INBOX").msgs); got != 12 || fs.puts != 12 {
			t.Errorf("%d messages, %d put", got, fs.puts)
		}
		a.close()
	}
	a := h.account(newFakeStore())
	defer a.close()
	synced(t, a)
	if !strings.Contains(exceptionsOf(a), "gives other octets at each reading") {
		t.Errorf("exceptions %q", exceptionsOf(a))
	}
}

func TestTrapDateZones(t *testing.T) {
	zones := []string{"-1200", "-0930", "-0000", "+0000", "+0545", "+1245", "+1400"}
	box := filled("INBOX", len(zones))
	for i, z := range zones {
		box.msgs[i].date = "29-Feb-2020 23:59:59 " + z
	}
	h := startHostile(t, &hostile{boxes: []*hostileBox{box}})
	got := settle(t, h).same(box)
	for i, z := range zones {
		want := strings.Replace(z, "-0000", "+0000", 1)
		if d := got[i+1].InternalDate.Format("02-Jan-2006 15:04:05 -0700"); d != "29-Feb-2020 23:59:59 "+want {
			t.Errorf("zone %s became %s", z, d)
		}
	}
}

// Flags that no list of permanent flags holds come over all the same, \Deleted
// as it is, and $MDNSent, so that no receipt is sent twice.
func TestTrapFlagsBeyondPermanentFlags(t *testing.T) {
	box := filled("INBOX", 2)
	box.msgs[0].flags = `\FORWARDED \Deleted $MDNSent $Forwarded NonJunk`
	box.msgs[1].flags = `\Seen \Recent`
	h := startHostile(t, &hostile{boxes: []*hostileBox{box}})
	got := settle(t, h).same(box)
	if f := sorted(got[1].Flags); f != `[$forwarded $mdnsent \deleted \forwarded nonjunk]` {
		t.Errorf("flags %s", f)
	}
	if f := sorted(got[2].Flags); f != `[\seen]` {
		t.Errorf("flags %s", f)
	}
}

func TestTrapManyKeywords(t *testing.T) {
	box := filled("INBOX", 300)
	for i, m := range box.msgs {
		m.flags = fmt.Sprintf("keyword%d common", i)
	}
	box.msgs[0].flags = strings.Join(repeated(300, func(i int) string { return fmt.Sprintf("keyword%d", i) }), " ")
	h := startHostile(t, &hostile{boxes: []*hostileBox{box}})
	got := settle(t, h).same(box)
	if len(got[1].Flags) != 300 || sorted(got[300].Flags) != "[common keyword299]" {
		t.Errorf("%d flags, %v", len(got[1].Flags), got[300].Flags)
	}
}

// \Recent is of the old store's next client, and of ours after the flip.
func TestTrapRecent(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 9)}})
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.HasPrefix(line, "EXAMINE") {
			answer = append([]string{"* 2 RECENT"}, answer...)
		}
		return answer
	}
	m, got := settle(t, h).box("INBOX")
	if m.Recent != 2 || m.FirstRecent != 8 || got[7].Recent || !got[8].Recent {
		t.Errorf("mailbox %+v", m)
	}
}

// Octets are kept as they are served, whatever they are.
func TestTrapOctets(t *testing.T) {
	const eicar = `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-` + `ANTIVIRUS-TEST-FILE!$H+H*`
	h := startHostile(t, &hostile{boxes: []*hostileBox{holding("INBOX",
		"Subject: nul\r\n\r\na\x00b\x00\r\n",
		"Subject: endings\n\nbare LF\nCR\rCRLF\r\n\r",
		"Subject: gr\xfc\xdf \xff\xfe\r\n\r\n\x80\x81\r\n",
		"From anna Thu Jan  1 00:00:00 1970\r\nSubject: mbox\r\n\r\nx\r\n",
		"Subject: x\r\nthis line has no colon\r\n: neither a name\r\n\r\nx\r\n",
		strings.Repeat("X-Many: header\r\n", 1500)+"\r\nx\r\n",
		"Subject: "+strings.Repeat("long", 16<<10)+"\r\n\r\nx\r\n",
		"Subject: line\r\n\r\n"+strings.Repeat("0123456789", 100<<10)+"\r\n",
		"", "x", "\r\n", "\r\n\r\n", strings.Repeat("(", 5000)+"\r\n",
		"Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n--\r\n",
		"Subject: virus\r\n\r\n"+eicar+"\r\n",
		") OK {5}\r\n* 1 EXPUNGE\r\nmf1 OK done\r\n",
	)}})
	settle(t, h).same(h.boxes[0])
}

// Courier gives a mailbox its UIDVALIDITY in SELECT only, and tells no UIDNEXT.
func TestTrapCourierSelect(t *testing.T) {
	h := startHostile(t, &hostile{typ: backend.StoreCourier, boxes: []*hostileBox{filled("INBOX", 3)}})
	box := h.boxes[0]
	box.next = 9
	h.bend = func(_ int, line string, answer []string) []string {
		return slices.DeleteFunc(answer, func(s string) bool { return strings.Contains(s, "[UIDNEXT") })
	}
	s := settle(t, h)
	s.same(box)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.ContainsFunc(h.seen, func(l string) bool { return strings.HasPrefix(l, "SELECT") }) {
		t.Error("no SELECT")
	}
}

// A message of any size is a stream.
func TestTrapLargeMessage(t *testing.T) {
	body := bytes.Repeat([]byte("Subject: large\r\n\r\n0123456789abcdef0123456789abcdef\r\n"), 400<<10)
	h := startHostile(t, &hostile{boxes: []*hostileBox{holding("INBOX", string(body))}})
	_, got := settle(t, h).box("INBOX")
	if got[1].body != string(body) {
		t.Errorf("%d octets of %d", len(got[1].body), len(body))
	}
}

// A message that the new store cannot hold costs itself, and is reported.
func TestTrapMessageBeyondTheTarget(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 12)}})
	h.boxes[0].msgs[4].body = strings.Repeat("too large ", 20_000)
	fs := newFakeStore()
	fs.most = 100_000
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	if n := len(fs.box(t, "anna", "INBOX").msgs); n != 11 {
		t.Errorf("%d messages", n)
	}
	if got := exceptionsOf(a); got != "INBOX 5 the new store takes no message of 200000 octets skipped=true\n" {
		t.Errorf("exceptions %q", got)
	}
}
