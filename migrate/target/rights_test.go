package target

import (
	"slices"
	"testing"

	"mailferry/backend"
)

func TestRights(t *testing.T) {
	for _, k := range []struct{ told, now, old, left string }{
		{"lr", "lr", "lr", ""},
		{"lrswipcda", "aeiklprstwx", "acdilprsw", ""}, // RFC 2086
		{"lrswipkxtecda", "aeiklprstwx", "acdilprsw", ""},
		{"lrk", "klr", "lr", "k"}, // c would give x as well
		{"lrtcd", "lrt", "lr", "t"},
		{"lrte", "elrt", "dlr", ""},
	} {
		now := newRights(k.told)
		if old, left := oldRights(now); now != k.now || old != k.old || left != k.left {
			t.Errorf("%q: %q, old %q without %q; want %+v", k.told, now, old, left, k)
		}
	}
}

func TestIdentifiers(t *testing.T) {
	for _, k := range []struct {
		id   string
		kind backend.StoreType
		from string
		to   string
		want string // empty: it has none
	}{
		{"bert", backend.StoreDovecot, "anna", "anna", "bert"},
		{"-bert", backend.StoreCyrus, "anna", "anna", "-bert"},
		{"$staff", backend.StoreCyrus, "anna", "anna", "group:staff"},
		{"-group:staff", backend.StoreDovecot, "anna", "anna", "-$staff"},
		{"group=staff", backend.StoreDovecot, "anna", "anna", "$staff"},
		{"user=bert", backend.StoreCyrus, "anna", "anna", "bert"},
		{"bert", backend.StoreCourier, "anna", "anna", "user=bert"},
		{"anna", backend.StoreDovecot, "anna", "anna", "owner"},
		{"owner", backend.StoreCyrus, "anna", "a.meier", "a.meier"},
		{"anna", backend.StoreCyrus, "anna@old.example", "anna@new.example", "anna@new.example"},
		{"anyone", backend.StoreCyrus, "anna", "anna", "anyone"},
		{"authenticated", backend.StoreDovecot, "anna", "anna", "authenticated"},
		{"authenticated", backend.StoreCyrus, "anna", "anna", ""}, // anyone would be more
		{"anonymous", backend.StoreDovecot, "anna", "anna", ""},
		{"$staff", backend.StoreGeneric, "anna", "anna", ""},
		{"#global", backend.StoreDovecot, "anna", "anna", ""},
		{"administrators", backend.StoreDovecot, "anna", "anna", ""},
		{"bert", backend.StoreCyrus, "anna", "anna@new.example", "bert@new.example"},
		{"bert@old.example", backend.StoreCyrus, "anna@old.example", "anna@new.example", "bert@new.example"},
		{"bert@old.example", backend.StoreCyrus, "anna@old.example", "anna", "bert"},
		{"bert@else.example", backend.StoreCyrus, "anna@old.example", "anna@new.example", "bert@else.example"},
		{"bert", backend.StoreCyrus, "anna", "a.meier", ""}, // who is that there?
		{"carl", backend.StoreCyrus, "anna", "a.meier", "c.schmidt"},
	} {
		x := identifiers{kind: k.kind, from: k.from, to: k.to, names: map[string]string{"carl": "c.schmidt"}}
		got, why := x.at(parseIdentifier(k.id, k.from))
		if got != k.want || (why == "") != (k.want != "") {
			t.Errorf("%q of %s at %s of %s: %q (%s), want %q", k.id, k.from, k.kind, k.to, got, why, k.want)
		}
	}
}

func TestSieveArguments(t *testing.T) {
	const script = `# fileinto "comment";
require ["fileinto", "vnd.x"]; /* fileinto "other"; */
if header :contains "subject" "fileinto" {
  FileInto :create "Work \"a\"";
} else { redirect "x@y"; fileinto text: # why not
dotted
..line
.
; }
keep; fileinto "broken`
	if got := required([]byte(script)); !slices.Equal(got, []string{"fileinto", "vnd.x"}) {
		t.Errorf("required %q", got)
	}
	if got := filedInto([]byte(script)); !slices.Equal(got, []string{`Work "a"`, "dotted\n.line\n"}) {
		t.Errorf("filed into %q", got)
	}
}

func FuzzSieve(f *testing.F) {
	f.Add([]byte("require \"a\"; text:\n.\n /* # \""))
	f.Fuzz(func(_ *testing.T, b []byte) {
		required(b)
		filedInto(b)
	})
}
