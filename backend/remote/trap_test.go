package remote

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// client logs in to a scripted server.
func client(t testing.TB, caps string, play func(*script)) *Client {
	t.Helper()
	store := serve(t, func(s *script) {
		s.loggedIn(caps)
		play(s)
	})
	conn, err := DialIMAP(context.Background(), Target{Store: store, User: "anna", Password: "x"})
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(conn)
	c.SetProgressTimeout(5 * time.Second)
	t.Cleanup(func() { c.Close() })
	return c
}

// selected opens INBOX with n messages.
func selected(t testing.TB, n int, play func(*script)) *Client {
	t.Helper()
	c := client(t, "", func(s *script) {
		s.ok("EXAMINE", fmt.Sprintf("* %d EXISTS", n), "* OK [UIDVALIDITY 7] ok", "* OK [UIDNEXT 100] next")
		play(s)
	})
	if _, err := c.Examine(context.Background(), "INBOX", SelectOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// listed runs a listing over what the server sends and shows it line by line.
func listed(t *testing.T, lines ...string) []string {
	t.Helper()
	c := selected(t, len(lines), func(s *script) {
		s.ok("UID FETCH", lines...)
		s.ok("NOOP") // the connection is still good
	})
	var got []string
	_, err := c.FetchMeta(context.Background(), FetchMeta{UIDs: "1:*", Items: FetchAll}, func(m *Meta) error {
		date := m.DateRaw
		if !m.Date.IsZero() {
			date = m.Date.Format(time.RFC3339)
		}
		got = append(got, fmt.Sprintf("%d %v %s %d", m.UID, m.Flags, date, m.Size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Noop(context.Background()); err != nil {
		t.Fatal(err)
	}
	return got
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTrapInvalidDates(t *testing.T) {
	dates := []string{"00-Jan-2020 00:00:00 +0000", "30-Feb-2020 00:00:00 +0000", "01-Jan-2020 24:00:00 +0000",
		"01-Jan-20 00:00:00 +0000", "01-Jan-2020 00:00:00 GMT", "01-Jan-0001 00:00:00 +0000", "30-Dec-1899 00:00:00 +0000",
		"01-Jan-2020 00:00:00 +2560", ""}
	var lines, want []string
	for i, d := range dates {
		lines = append(lines, fmt.Sprintf(`* %d FETCH (UID %d FLAGS (\Seen) INTERNALDATE "%s" RFC822.SIZE 5)`, i+1, i+1, d))
		want = append(want, fmt.Sprintf(`%d [\Seen] %s 5`, i+1, d))
	}
	lines = append(lines, `* 10 FETCH (UID 10 FLAGS () INTERNALDATE NIL RFC822.SIZE 5)`,
		`* 11 FETCH (UID 11 FLAGS () INTERNALDATE " 1-Jan-2020 01:02:03 -1130" RFC822.SIZE 5)`,
		`* 12 FETCH (UID 12 FLAGS () INTERNALDATE "9-jul-2020 01:02:03 +1400" RFC822.SIZE 5)`)
	want = append(want, `10 []  5`, `11 [] 2020-01-01T01:02:03-11:30 5`, `12 [] 2020-07-09T01:02:03+14:00 5`)
	wantLines(t, listed(t, lines...), want...)
}

func TestTrapOddFlags(t *testing.T) {
	wantLines(t, listed(t,
		`* 1 FETCH (FLAGS (Foo[1] a%b a\b "x" \ \Seen) UID 1 RFC822.SIZE 1)`,
		"* 2 FETCH (FLAGS (gr\xfc\xdf  doppelt \\Recent) UID 2 RFC822.SIZE 1)",
		`* 3 FETCH (FLAGS () UID 3 RFC822.SIZE 1)`,
		`* 4 FETCH (FLAGS ((nested) {3}`+"\r\nabc"+` x]y) UID 4 RFC822.SIZE 1)`,
		`* 5 FETCH (FLAGS NIL UID 5 RFC822.SIZE 1)`,
	), `1 [Foo[1] a%b a\b "x" \ \Seen]  1`, "2 [gr\xfc\xdf doppelt]  1", `3 []  1`, `4 [x]y]  1`, `5 []  1`)
}

func TestTrapSizes(t *testing.T) {
	wantLines(t, listed(t, `* 1 FETCH (UID 1 FLAGS () RFC822.SIZE NIL)`, `* 2 FETCH (UID 2 FLAGS () RFC822.SIZE -5)`,
		`* 3 FETCH (UID 3 FLAGS () RFC822.SIZE 4294967297)`), `1 []  -1`, `2 []  -1`, `3 []  4294967297`)
}

func TestTrapUntaggedDataInBetween(t *testing.T) {
	wantLines(t, listed(t, `* XFOO some (data "in {3}" here`, `* LSUB () "/" x`, `* VANISHED 3:4`, `* NO [ALERT] the disk is full`,
		`* OK [THROTTLED] slow down`, `* 2 EXPUNGE`, `* 7 EXISTS`, `* BAD what`, `*`, ``, `rubbish line`, `* 99999999999 EXISTS`,
		`* 1 FETCH (FLAGS (\Flagged))`, `* XLIT {9}`+"\r\nmf1 OK no)", `* 1 FETCH (UID 5 FLAGS (\Seen) RFC822.SIZE 1 X-GM-LABELS ("a" (b {2}`+"\r\n()"+`) NIL) EMAILID (M1))`),
		`5 [\Seen]  1`)
}

func TestTrapBrokenResponseCostsItself(t *testing.T) {
	wantLines(t, listed(t, `* 1 FETCH (UID 1 FLAGS (\Seen RFC822.SIZE 1`, `* 2 FETCH UID 2`, `* 3 FETCH (UID 0 FLAGS ())`,
		`* 4 FETCH (UID 4 FLAGS () INTERNALDATE "unclosed)`, `* 5 FETCH (UID 5 FLAGS () RFC822.SIZE 9)`), `5 []  9`)
}

func TestTrapMailboxNames(t *testing.T) {
	c := client(t, "NAMESPACE", func(s *script) {
		a, b, n := s.want(`LIST "" "*"`), s.want("LSUB"), s.want("NAMESPACE")
		s.send(`* LIST () "/" "R&D"`, `* LIST (\HasNoChildren) "/" "gr&APw-n"`, "* LIST () \"/\" \"L\xe4tin\"", "* LIST () \"/\" {6}\r\nr\xc3\xbc\"\\x",
			`* LIST () "/" INBOX`, `* LIST () "/" inbox`, `* LIST (\Noselect) "/" 2024`, `* LIST () NIL flat`, `* LIST () "/" "two  blanks "`, `* LIST ( "`, a+" OK done",
			`* LSUB (\Noselect) "/" parent`, `* LSUB () "/" "gone away"`, b+" OK done",
			`* NAMESPACE (("" "/")) (("user." "." "X-PARAM" ("a"))) NIL`, n+" OK done")
		for range 8 {
			l := s.line()
			tag, rest, _ := strings.Cut(l, " ")
			name := strings.TrimSuffix(strings.TrimPrefix(rest, "STATUS "), " (MESSAGES UIDNEXT UIDVALIDITY)")
			if strings.HasSuffix(name, "}") { // a literal, after our consent
				s.send("+ go on")
				name += "\r\n" + strings.TrimSuffix(s.line(), " (MESSAGES UIDNEXT UIDVALIDITY)")
			}
			s.send("* STATUS "+name+" (MESSAGES 3 UIDNEXT 4 UIDVALIDITY 5 X-NEW 6)", tag+" OK done")
		}
	})
	a, err := c.Survey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range a.Mailboxes {
		n := uint32(0)
		if m.Status != nil {
			n = m.Status.Messages
		}
		got = append(got, fmt.Sprintf("%q %q %v %v %d", m.Raw, m.Name, m.ValidName, m.Selectable(), n))
	}
	wantLines(t, got, `"R&D" "R&D" false true 3`, `"gr&APw-n" "grün" true true 3`, `"L\xe4tin" "Lätin" false true 3`,
		`"rü\"\\x" "rü\"\\x" false true 3`, `"INBOX" "INBOX" true true 3`, `"2024" "2024" true false 0`, `"flat" "flat" true true 3`,
		`"two  blanks " "two  blanks " true true 3`)
	if len(a.Subscriptions) != 2 || a.Namespaces.Other[0].Prefix != "user." || a.Namespaces.Personal[0].Delimiter != "/" {
		t.Errorf("account %+v", a)
	}
}

func TestNamesRoundTrip(t *testing.T) {
	for _, s := range []string{"", "INBOX", "R&D", "Entwürfe", "日本語", "a😀b", "tab\tinside", "&-&"} {
		if got, ok := DecodeName(EncodeName(s)); !ok || got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

// bodies is a BodySource that asks for given sets.
type bodies struct {
	sets    []imap.UIDSet
	got     []string
	body    string
	answers []error
}

func (b *bodies) NextSet() (imap.UIDSet, int64, bool) {
	if len(b.sets) == 0 {
		return nil, 0, false
	}
	s := b.sets[0]
	b.sets = b.sets[1:]
	return s, 100, true
}

func (b *bodies) Body(size int64, r io.Reader) error {
	data, err := io.ReadAll(r)
	b.body = string(data)
	return err
}

func (b *bodies) Message(m *Meta) error {
	b.got = append(b.got, fmt.Sprintf("%d %d %q", m.UID, m.Body, b.body))
	b.body = ""
	return nil
}

func (b *bodies) Answered(_ imap.UIDSet, err error) error {
	b.answers = append(b.answers, err)
	return nil
}

func TestTrapBodies(t *testing.T) {
	c := selected(t, 9, func(s *script) {
		// Both commands are sent before the first is answered.
		a, b := s.want("UID FETCH 1:5 (UID BODY.PEEK[])"), s.want("UID FETCH 6:9 (UID BODY.PEEK[])")
		s.send("* 1 FETCH (UID 1 BODY[] {12}\r\n) OK {3}\r\nmf)", "* 2 FETCH (BODY[] {2}\r\nhi UID 2)", `* 3 FETCH (UID 3 BODY[] NIL)`,
			`* 4 FETCH (UID 4 BODY[] "quoted \" one")`, "* 5 FETCH (UID 5 BODY[] {0}\r\n)", a+" OK done",
			"* 6 FETCH (FLAGS (\\Seen) UID 6)", "* 7 EXPUNGE", "* 6 FETCH (BODY[HEADER] {2}\r\nxx BODY[]<0> {1}\r\ny UID 7)",
			"* 8 FETCH (UID 8 BODY[] ~{3}\r\na\x00b)", "* 9 FETCH (UID 9 BODY[] {2}\r\nzz", b+" NO [EXPUNGEISSUED] some are gone")
		s.ok("NOOP")
	})
	src := &bodies{sets: []imap.UIDSet{{{Start: 1, Stop: 5}}, {{Start: 6, Stop: 9}}}}
	if err := c.FetchBodies(context.Background(), src, Window{}); err != nil {
		t.Fatal(err)
	}
	wantLines(t, src.got, `1 2 ") OK {3}\r\nmf"`, `2 2 "hi"`, `3 1 ""`, `4 2 "quoted \" one"`, `5 2 ""`, `6 0 ""`, `7 0 ""`, `8 2 "a\x00b"`, `0 2 "zz"`)
	if len(src.answers) != 2 || src.answers[0] != nil || !backend.IsKind(src.answers[1], backend.KindTemporary) {
		t.Errorf("answers %v", src.answers)
	}
	if err := c.Noop(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestTrapCutInsideLiteral(t *testing.T) {
	c := selected(t, 1, func(s *script) {
		s.want("UID FETCH")
		_, _ = io.WriteString(s.conn, "* 1 FETCH (UID 1 BODY[] {100}\r\nonly a part")
	})
	src := &bodies{sets: []imap.UIDSet{{{Start: 1, Stop: 1}}}}
	err := c.FetchBodies(context.Background(), src, Window{})
	if !backend.IsKind(err, backend.KindUnavailable) || len(src.got) != 0 {
		t.Errorf("error %v, messages %q", err, src.got)
	}
	if err := c.Noop(context.Background()); err == nil {
		t.Error("a broken client goes on")
	}
}

func TestTrapByeIsExplained(t *testing.T) {
	c := selected(t, 1, func(s *script) {
		s.want("NOOP")
		s.send("* BYE [UNAVAILABLE] session expired")
	})
	if err := c.Noop(context.Background()); !backend.IsKind(err, backend.KindTemporary) || !strings.Contains(err.Error(), "session expired") {
		t.Errorf("error %v", err)
	}
}

func TestTrapDeadPeer(t *testing.T) {
	release := make(chan struct{})
	c := selected(t, 1, func(s *script) { s.want("NOOP"); <-release })
	defer close(release)
	c.SetProgressTimeout(50 * time.Millisecond)
	if err := c.Noop(context.Background()); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("error %v", err)
	}
}

func TestTrapQResync(t *testing.T) {
	c := client(t, "ENABLE CONDSTORE QRESYNC", func(s *script) {
		s.ok("ENABLE QRESYNC", "* ENABLED QRESYNC")
		s.ok(`EXAMINE "INBOX" (QRESYNC (7 50))`, "* 1 FETCH (UID 3 FLAGS (old))", "* OK [CLOSED] previous", "* 5 EXISTS", "* 1 RECENT", "* OK [UIDVALIDITY 7] v",
			"* OK [HIGHESTMODSEQ 60] m", "* OK [UIDNEXT 12] n", "* VANISHED (EARLIER) 1:4,9,4294967295", "* 2 FETCH (UID 7 FLAGS (\\Seen) MODSEQ (55))")
		s.ok("UID FETCH", "* VANISHED 7", "* 1 FETCH (UID 6 FLAGS ())")
	})
	ctx := context.Background()
	if err := c.Enable(ctx, "QRESYNC"); err != nil {
		t.Fatal(err)
	}
	var changed []string
	sel, err := c.Examine(ctx, "INBOX", SelectOptions{QResync: &QResync{7, 50}, Changed: func(m *Meta) error {
		changed = append(changed, fmt.Sprint(m.UID, m.Flags, m.ModSeq))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(sel.Vanished) != "1:4,9,4294967295" || sel.HighestModSeq != 60 || sel.Exists != 5 || sel.UIDNext != 12 || !sel.Resynced {
		t.Errorf("selected %+v", sel)
	}
	wantLines(t, changed[len(changed)-1:], `7 [\Seen] 55`)
	gone, err := c.FetchMeta(ctx, FetchMeta{UIDs: "1:*"}, func(*Meta) error { return nil })
	if err != nil || gone.String() != "7" || sel.Exists != 4 {
		t.Errorf("vanished %v, %d messages, %v", gone, sel.Exists, err)
	}
}

func TestTrapSearchIsOnlyAClaim(t *testing.T) {
	c := selected(t, 2, func(s *script) {
		s.ok("UID SEARCH ALL", "* SEARCH 1 2 3 9 (MODSEQ 5)", "* SEARCH", "* SEARCH x")
	})
	set, err := c.Search(context.Background(), "ALL")
	if err != nil || set.String() != "1:3,9" {
		t.Errorf("%v %v", set, err)
	}
}

func TestIdle(t *testing.T) {
	c := selected(t, 2, func(s *script) {
		tag := s.want("IDLE")
		s.send("+ idling", "* 3 EXISTS")
		if l := s.line(); l != "DONE" {
			t.Errorf("server got %q", l)
		}
		s.send(tag + " OK done")
		s.ok("NOOP")
	})
	changed, err := c.Idle(context.Background(), time.Minute)
	if err != nil || !changed || c.selected.Exists != 3 {
		t.Errorf("%v %v", changed, err)
	}
	if err := c.Noop(context.Background()); err != nil {
		t.Error(err)
	}
}

// FuzzScanner reads any bytes as responses: no panic, no endless loop, no
// memory beyond the bounds.
func FuzzScanner(f *testing.F) {
	for _, s := range []string{"* 1 FETCH (UID 1 FLAGS (a b) BODY[] {3}\r\nabc)\r\n", "* LIST () \"/\" {4}\r\nabcd\r\n", "* VANISHED (EARLIER) 1:4,5\r\n",
		"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n", "* STATUS x (MESSAGES 1)\r\n", "+ ok\r\n", "a OK [CODE \"]\" x] text\r\n", "* SEARCH 1 2\r\n", "* 1 FETCH ((((((\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Client{conn: &IMAPConn{scan: newScanner(strings.NewReader(string(data)))}, selected: &Selected{Exists: 1}}
		acct, seen := &Account{}, map[string]*Status{}
		survey := c.surveyHandler(acct, seen)
		sel := &Selected{}
		for range 10000 {
			_, err := c.next(func(r response) (lineState, error) {
				if state, err := survey(r); state != lineUnknown || err != nil {
					return state, err
				}
				if r.name == "FETCH" {
					_, err := c.fetchData(r.num, func(size int64, r io.Reader) error {
						_, err := io.Copy(io.Discard, r)
						return err
					})
					return lineOpen, err
				}
				return c.selectData(sel, SelectOptions{}, r)
			})
			if err != nil {
				return
			}
		}
	})
}
