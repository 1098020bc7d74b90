package target

import (
	"path/filepath"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

func TestSubstitution(t *testing.T) {
	for _, k := range []struct{ expr, in, want string }{
		{"s/a/b/", "aa", "ba"},
		{"s/a/b/g", "aa", "bb"},
		{"s,^Work/,Archive/Work/,", "Work/2024", "Archive/Work/2024"},
		{`s/^(.*)\/(.*)$/$2.\1/`, "a/b", "b.a"},
		{"s{(x)}{${1}$}", "x", "x$"},
		{"s#INBOX#In Box#i", "inbox", "In Box"},
		{`s/\./_/g`, "a.b", "a_b"},
		{"s|a\\|b|c|", "a|b", "c"},
		{"tr/a-c/A-C/", "abcd", "ABCd"},
		{"y/:/_/", "a:b", "a_b"},
		{"tr,/,.,", "a/b", "a.b"},
	} {
		s, err := ParseSubstitution(k.expr)
		if err != nil {
			t.Errorf("%s: %v", k.expr, err)
		} else if got := s.Apply(k.in); got != k.want {
			t.Errorf("%s on %q: %q, want %q", k.expr, k.in, got, k.want)
		}
	}
	for _, bad := range []string{"", "s", "s/a/b", "s/a/b/e", "m/a/", "s/(/b/", "tr/a/b/d", "s/(?<=x)a/b/"} {
		if _, err := ParseSubstitution(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzSubstitution(f *testing.F) {
	f.Add("s/a/$1/g", "banana")
	f.Add("tr{a-z}{A-Z}", "x")
	f.Fuzz(func(_ *testing.T, expr, in string) {
		if s, err := ParseSubstitution(expr); err == nil {
			s.Apply(in)
		}
	})
}

func TestNames(t *testing.T) {
	prefix := "Mail/"
	for _, k := range []struct {
		rules  Rules
		target backend.Namespace
		parts  []string
		want   string
	}{
		{Rules{}, backend.Namespace{Delimiter: "/"}, []string{"A", "B"}, "A/B"},
		{Rules{}, backend.Namespace{Prefix: "INBOX.", Delimiter: "."}, []string{"A", "B.C"}, "INBOX.A.B_C"},
		{Rules{}, backend.Namespace{Prefix: "INBOX.", Delimiter: "."}, []string{"INBOX"}, "INBOX"},
		{Rules{Prefix: &prefix}, backend.Namespace{Delimiter: "/"}, []string{"A"}, "Mail/A"},
		{Rules{Subfolder: "Old"}, backend.Namespace{Delimiter: "/"}, []string{"A"}, "Old/A"},
		{Rules{Map: map[string]string{"A.B": "C"}}, backend.Namespace{Delimiter: "/"}, []string{"A", "B"}, "C"},
		{Rules{Regex: []string{"s/^A/X/", "s/X/Y/"}}, backend.Namespace{Delimiter: "/"}, []string{"A", "B"}, "Y/B"},
	} {
		n, err := newNamer(&k.rules, backend.Namespace{Delimiter: "."}, k.target)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := n.name(&backend.ImportMailbox{Name: backend.JoinName(k.parts...)}); got != k.want {
			t.Errorf("%v by %+v: %q, want %q", k.parts, k.rules, got, k.want)
		}
	}
}

// TestMapSurvives: what was written is there after the process is gone, also
// behind a torn end.
func TestMapSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1.map")
	m, err := openMap(path)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.setHead(func(h *mapHeader) { h.SrcValidity, h.ModSeq = 7, 1<<40 }))
	recs := []record{{src: 5, dst: 1, size: 10}, {src: 9, dst: 1, size: 20}, {src: 7, dst: 1}}
	must(m.intend(recs, [][]imap.Flag{{imap.FlagSeen}, nil, {imap.FlagSeen, "Arbeit"}}))
	must(m.settle(5, stateStored, 100))
	must(m.intend([]record{{src: 9, dst: 101}}, [][]imap.Flag{{imap.FlagDraft}}))
	if _, err := m.f.WriteAt([]byte("torn"), headerSize+4*recordSize); err != nil {
		t.Fatal(err)
	}
	m.close()
	m, err = openMap(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if h := m.header(); h.SrcValidity != 7 || h.ModSeq != 1<<40 {
		t.Errorf("header %+v", h)
	}
	if stored, doubts := m.counts(); stored != 1 || doubts != 2 {
		t.Errorf("%d stored, %d in doubt", stored, doubts)
	}
	var order []uint32
	must(m.each(func(r record) bool { order = append(order, r.src); return true }))
	if len(order) != 3 || order[0] != 5 || order[1] != 7 || order[2] != 9 {
		t.Errorf("order %v", order)
	}
	if r, ok, err := m.get(9); err != nil || !ok || r.dst != 101 || m.flagsOf(r.flags)[0] != imap.FlagDraft {
		t.Errorf("%+v %v %v", r, ok, err)
	}
}

// TestIdentity: what stores change in a message changes its octets, not its
// identity; what makes another message does.
func TestIdentity(t *testing.T) {
	sum := func(s string) digest {
		d := newIdentity()
		for i := range len(s) { // in any portions
			_, _ = d.Write([]byte{s[i]})
		}
		whole := newIdentity()
		_, _ = whole.Write([]byte(s))
		if d.sum() != whole.sum() {
			t.Errorf("%q: portions matter", s)
		}
		return whole.sum()
	}
	a := sum("Subject: gr\xfc\xdf\r\n\r\nb\xf6dy\x00\r\n")
	for _, same := range []string{"Subject: gr\xfc\xdf\n\nb\xf6dy\x00\n", "Subject: grXX\r\n\r\nb\xf6dy\x80\r\n"} {
		if b := sum(same); b.id() != a.id() || b == a {
			t.Errorf("%q: %x, %x", same, a, b)
		}
	}
	for _, other := range []string{"Subject: gr\xfc\xdf\r\n\r\nbXdy\x00\r\n", "Subject: gr\xfc\r\n\r\nb\xf6dy\x00\r\n"} {
		if sum(other).id() == a.id() {
			t.Errorf("%q is taken for another", other)
		}
	}
}
