package migrate

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"mailferry/backend"
)

// popMessage is a message of a scripted POP3 server.
type popMessage struct{ id, text string }

// servePOP3 is a POP3 server that shows what it is told, whatever IMAP has.
func servePOP3(t *testing.T, msgs []popMessage) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "+OK hello\r\n")
			for in := bufio.NewScanner(c); in.Scan(); {
				word, arg, _ := strings.Cut(in.Text(), " ")
				n := 0
				fmt.Sscan(arg, &n)
				if word == "CAPA" {
					fmt.Fprintf(c, "-ERR what?\r\n")
					continue
				}
				fmt.Fprintf(c, "+OK\r\n")
				switch word {
				case "UIDL", "LIST":
					for i, m := range msgs {
						v := m.id
						if word == "LIST" {
							v = fmt.Sprint(len(m.text))
						}
						fmt.Fprintf(c, "%d %s\r\n", i+1, v)
					}
					fmt.Fprintf(c, ".\r\n")
				case "TOP", "RETR":
					fmt.Fprintf(c, "%s\r\n.\r\n", strings.TrimSuffix(msgs[n-1].text, "\r\n"))
				}
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).Port
}

// TestPOP3WithoutMessage: an id whose message is in another mailbox, or nowhere,
// keeps the user at the old store, unless that is accepted.
func TestPOP3WithoutMessage(t *testing.T) {
	src := startMem(t, 1, 4) // two messages in INBOX, two in Sent
	text := func(n int) string {
		return fmt.Sprintf("Subject: message %d of u00\r\n\r\n%s\r\n", n, strings.Repeat("body ", 50))
	}
	for name, tt := range map[string]struct {
		msgs  []popMessage
		force bool
		state State
		cert  POP3Certificate
	}{
		"in disorder": {msgs: []popMessage{{"b", text(2)}, {"a", text(0)}}, state: Final,
			cert: POP3Certificate{Messages: 2, ByHeader: 2, Compared: true, Flipped: "equal"}},
		"one id twice": {msgs: []popMessage{{"same", text(2)}, {"same", text(0)}}, state: Final,
			cert: POP3Certificate{Messages: 2, ByHeader: 2, Compared: true, Flipped: "equal"}},
		"hidden": {msgs: []popMessage{{"b", text(2)}}, state: Final,
			cert: POP3Certificate{Messages: 1, ByHeader: 1, Hidden: 1, Compared: true, Flipped: "equal"}},
		"elsewhere": {msgs: []popMessage{{"a", text(0)}, {"x", text(1)}}, state: Failed},
		"nowhere":   {msgs: []popMessage{{"a", text(0)}, {"x", text(9)}}, state: Failed},
		"accepted": {msgs: []popMessage{{"a", text(0)}, {"x", text(1)}, {"y", text(9)}, {"b", text(2)}}, force: true, state: Final,
			cert: POP3Certificate{Messages: 4, ByHeader: 2, Elsewhere: 1, Unmatched: 1, Compared: true, Flipped: "equal"}},
		"no ids": {state: Final, cert: POP3Certificate{Hidden: 2, Compared: true, Flipped: "equal"}},
		"long and odd ids": {msgs: []popMessage{{strings.Repeat("z", 200), text(0)}, {"\xe4 {5}", text(2)}}, state: Final,
			cert: POP3Certificate{Messages: 2, ByHeader: 2, Compared: true, Flipped: "equal"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, own := &popSource{source: &source{store: new(backend.Store), user: "u00"}}, ownStore(t)
			*s.store = *src.store
			s.store.Ports = map[backend.Protocol]int{backend.IMAP: src.store.Ports[backend.IMAP], backend.POP3: servePOP3(t, tt.msgs)}
			st, cert := s.movePOP3(t, own, BatchSpec{To: "home", ForcePOP3: tt.force}, nil)
			if st.State != tt.state {
				t.Fatalf("%+v", st)
			}
			if tt.state != Final {
				if !strings.Contains(st.Reason, "unique ids") {
					t.Errorf("reason %q", st.Reason)
				}
				return
			}
			if *cert.POP3 != tt.cert {
				t.Errorf("%+v\nwant %+v", *cert.POP3, tt.cert)
			}
			var want []string
			for _, m := range tt.msgs {
				if m.id != "x" && m.id != "y" {
					want = append(want, m.id)
				}
			}
			ours := drop(t, own, "u00")
			if len(ours) != 2 || !slices.Equal(ours[:len(want)], want) {
				t.Errorf("our list %q, want %q first", ours, want)
			}
		})
	}
}

// TestPOP3Absent: a store without POP3 does not stop a move, unless POP3 was
// asked for.
func TestPOP3Absent(t *testing.T) {
	src := startMem(t, 1, 2)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	for _, mode := range []POP3Mode{POP3Auto, POP3Never, POP3Always} {
		s, own := &popSource{source: &source{store: new(backend.Store), user: "u00"}}, ownStore(t)
		*s.store = *src.store
		if mode == POP3Always {
			s.store.Ports = map[backend.Protocol]int{backend.IMAP: src.store.Ports[backend.IMAP], backend.POP3: dead}
		}
		st, cert := s.movePOP3(t, own, BatchSpec{To: "home", POP3: mode, Attempts: 2}, nil)
		if want := map[bool]State{true: Failed, false: Final}[mode == POP3Always]; st.State != want {
			t.Errorf("%s: %+v", mode, st)
		}
		if mode == POP3Auto && (cert.POP3 == nil || cert.POP3.Left == "" || cert.Grade != "perfect") {
			t.Errorf("certificate %+v", cert)
		}
	}
}

// TestHeaderSum: what servers are known to change makes no difference.
func TestHeaderSum(t *testing.T) {
	sum := func(s string) [32]byte {
		t.Helper()
		h, err := headerSum(strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	long := strings.Repeat("x", 4090)
	base := "Subject: one\r\n folded\r\nX-Long: " + long + long + "\r\n\r\n"
	for name, s := range map[string]string{
		"lines end by LF":      strings.ReplaceAll(base, "\r\n", "\n"),
		"state":                "Status: RO\r\n" + base,
		"state, folded":        "X-Keywords: a\r\n b\r\n" + base,
		"a line that is none":  "garbage\r\n" + base,
		"a name that is none":  "a b: c\r\n" + base,
		"blanks at the end":    strings.Replace(base, "one\r\n", "one \t\r\n", 1),
		"CR CR LF ends it":     strings.TrimSuffix(base, "\r\n") + "\r\r\nbody",
		"the text is no part":  base + "text",
		"nothing ends the end": strings.TrimSuffix(base, "\r\n"),
	} {
		if sum(s) != sum(base) {
			t.Errorf("%s: another sum", name)
		}
	}
	if sum(base) == sum(strings.Replace(base, "one", "two", 1)) || sum("") == sum(base) {
		t.Error("another header, the same sum")
	}
	one, _ := textSum(strings.NewReader("a\r\n\r\nb"))
	for s, same := range map[string]bool{"a\n\nb\n": true, "a\r\n\r\nb\r\n\r\n": true, "a\r\nb": false, "a\r\n\r\nc": false} {
		if got, _ := textSum(strings.NewReader(s)); (got == one) != same {
			t.Errorf("%q: same is %v", s, !same)
		}
	}
}

// FuzzHeaderSum: any octets have a sum, in finite time.
func FuzzHeaderSum(f *testing.F) {
	f.Add([]byte("Subject: x\r\n y\r\n\r\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lf := strings.ReplaceAll(string(b), "\r\n", "\n")
		x, err := headerSum(strings.NewReader(lf))
		y, err2 := headerSum(strings.NewReader(strings.ReplaceAll(lf, "\n", "\r\n")))
		if err != nil || err2 != nil || x != y {
			t.Errorf("%q: %x %v, with CRLF %x %v", b, x, err, y, err2)
		}
	})
}
