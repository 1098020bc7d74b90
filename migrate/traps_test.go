package migrate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/mailtest"
	"mailferry/store"
)

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

// A store that wants raw octets in LIST encoded in commands gets them so.
func TestTrapNameIsKnownInTheOtherForm(t *testing.T) {
	encoded := filled("Entw&APw-rfe", 3)
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 1), encoded}})
	h.bend = func(_ int, line string, answer []string) []string {
		for i, l := range answer {
			if strings.HasPrefix(l, "* LIST") && strings.Contains(l, "Entw") {
				answer[i] = "* LIST () \"/\" {9}\r\nEntw\xc3\xbcrfe"
			}
		}
		return answer
	}
	s := settle(t, h)
	if m, got := s.box("Entwürfe"); m.Messages != 3 || got[2].body != encoded.msgs[1].body {
		t.Errorf("mailbox %+v", m)
	}
}

// Names that some take for equal stay apart.
func TestTrapNamesThatDifferLittle(t *testing.T) {
	names := []string{"INBOX", "Trash", "trash", "Caf&AOk-", "Cafe&AwE-", "Sent", "Sent "}
	var boxes []*hostileBox
	for i, n := range names {
		boxes = append(boxes, filled(n, i+1))
	}
	h := startHostile(t, &hostile{boxes: boxes})
	s := settle(t, h)
	for i, n := range []string{"INBOX", "Trash", "trash", "Café", "Cafe\u0301", "Sent", "Sent "} {
		if m, _ := s.box(n); int(m.Messages) != i+1 {
			t.Errorf("%q has %d messages", n, m.Messages)
		}
	}
}

// Hierarchy is kept as components: a name may hold another store's separator.
func TestTrapSeparatorInAName(t *testing.T) {
	h := startHostile(t, &hostile{sep: ".", boxes: []*hostileBox{filled("INBOX", 1), filled("a/b", 2), filled("a.b", 3), filled("a_b", 4)}})
	s := settle(t, h)
	for n, want := range map[string]uint32{"a/b": 2, "a\x00b": 3, "a_b": 4} {
		if m, _ := s.box(strings.Split(n, "\x00")...); m.Messages != want {
			t.Errorf("%q has %d messages", n, m.Messages)
		}
	}
	if ns := s.User().Namespace; ns.Delimiter != "." || ns.Show(backend.JoinName("a", "b")) != "a.b" {
		t.Errorf("namespace %+v", ns)
	}
}

// Only the personal namespace is the user's own; its prefix is kept for clients.
func TestTrapNamespaces(t *testing.T) {
	h := startHostile(t, &hostile{caps: "NAMESPACE", sep: ".", boxes: []*hostileBox{filled("INBOX", 1), filled("INBOX.Sent", 2),
		filled("user.bob", 3), filled("user.bob.x", 3), filled("shared.news", 4), filled("#news.misc", 5)}})
	h.bend = func(_ int, line string, answer []string) []string {
		if line == "NAMESPACE" {
			return []string{`* NAMESPACE (("INBOX." ".")) (("user." ".")) (("shared." ".")("#news." "."))`, "OK done"}
		}
		return answer
	}
	s := settle(t, h)
	boxes, err := s.Mailboxes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range boxes {
		names = append(names, s.User().Namespace.Show(m.Name))
	}
	slices.Sort(names)
	if got := fmt.Sprint(names); got != "[INBOX INBOX.Sent]" {
		t.Errorf("mailboxes %s", got)
	}
	if got := strings.Count(exceptionsOf(s.copy), "not part of this account"); got != 4 {
		t.Errorf("%d exceptions: %s", got, exceptionsOf(s.copy))
	}
}

// Special use is an attribute. No name is taken for it, or changed.
func TestTrapSpecialUse(t *testing.T) {
	sent := filled("Gesendet", 2)
	sent.attrs = `\HasNoChildren \Sent`
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 1), sent, filled("Sent", 3), filled("Papierkorb", 1)}})
	s := settle(t, h)
	for n, want := range map[string]string{"Gesendet": `[\Sent]`, "Sent": "[]", "Papierkorb": "[]"} {
		if m, _ := s.box(n); fmt.Sprint(m.SpecialUse) != want {
			t.Errorf("%s has %v", n, m.SpecialUse)
		}
	}
}

// No name is too odd: blanks, controls, wildcards, length, depth, empty levels.
func TestTrapAwkwardNames(t *testing.T) {
	deep := strings.Repeat("d/", 49) + "d"
	long := strings.Repeat("x", 300)
	names := []string{"INBOX", " leading", "trailing ", "two  blanks", "tab\there", "bell\x07", "50%", "a*", `quo"te`, `back\slash`,
		"dbox-Mails", "~tilde", "..", long, deep, "2024", "NIL", "(", "{5}"}
	boxes := []*hostileBox{}
	for i, n := range names {
		boxes = append(boxes, filled(n, i+1))
	}
	h := startHostile(t, &hostile{caps: "LITERAL+", boxes: boxes})
	s := settle(t, h)
	for i, n := range names {
		if m, _ := s.box(strings.Split(n, "/")...); int(m.Messages) != i+1 {
			t.Errorf("%q has %d messages, want %d", n, m.Messages, i+1)
		}
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

// Folders without mail, names without a mailbox, and very many of both.
func TestTrapManyFolders(t *testing.T) {
	n := 600
	if mailtest.Soaking() {
		n = 100_000
	}
	boxes := []*hostileBox{filled("INBOX", 1)}
	for i := range n {
		b := filled(fmt.Sprintf("f%02d/%06d", i%50, i), i%3%2)
		if i < 50 {
			b.name, b.attrs = fmt.Sprintf("f%02d", i), []string{`\Noselect`, `\NonExistent`, `\HasChildren`}[i%3]
		}
		boxes = append(boxes, b)
	}
	h := startHostile(t, &hostile{boxes: boxes})
	s := settle(t, h)
	all, err := s.Mailboxes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hollow, messages := 0, 0
	for _, m := range all {
		if m.NoSelect {
			hollow++
		}
		messages += int(m.Messages)
	}
	want := 1
	for _, b := range boxes[1:] {
		if !strings.Contains(b.attrs, "No") {
			want += len(b.msgs)
		}
	}
	if len(all) != n+1 || hollow != 34 || messages != want {
		t.Errorf("%d mailboxes, %d hollow, %d messages of %d", len(all), hollow, messages, want)
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
