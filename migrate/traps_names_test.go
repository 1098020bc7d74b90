package migrate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

func TestTrapNamesThatMeet(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 1), filled("R&D", 2), filled("R&-D", 3), filled("a//b", 4), filled("c/", 5)}})
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	synced(t, a)
	for name, n := range map[string]int{"R&D": 3, "R&D_": 2, "c": 5} {
		if got := len(fs.box(t, "anna", name).msgs); got != n {
			t.Errorf("%s has %d messages, want %d", name, got, n)
		}
	}
	if n := len(fs.box(t, "anna", "a", "_", "b").msgs); n != 4 {
		t.Errorf("%d messages", n)
	}
	if got := strings.Count(exceptionsOf(a), "became"); got != 3 {
		t.Errorf("%d exceptions: %s", got, exceptionsOf(a))
	}
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
