package directory

import (
	"testing"

	"mailferry/backend"
)

func TestRegex(t *testing.T) {
	d, err := NewRegex(RegexOptions{Name: "rules", DefaultStore: "last", Rules: []RegexRule{
		{Match: `[a-k].*`, Store: "old1"},
		{Match: `(.*)@(.*)`, User: "${1}_${2}", Store: "mail.${2}"},
		{Match: `bad(.*)`, Store: "${1} "},
		{Match: `x+`},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]string{"anna": {"anna", "old1"}, "otto@x.org": {"otto_x.org", "mail.x.org"}, "xx": {"xx", "last"}} {
		if e, err := d.Lookup(t.Context(), name); err != nil || e.User != want[0] || e.Store != want[1] || e.CheckPassword {
			t.Errorf("%s: %+v %v", name, e, err)
		}
	}
	for name, kind := range map[string]backend.Kind{"otto": backend.KindNotFound, "xxy": backend.KindNotFound, "": backend.KindNotFound} {
		if _, err := d.Lookup(t.Context(), name); !backend.IsKind(err, kind) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := d.Authenticate(t.Context(), backend.Entry{User: "anna"}, "secret"); !backend.IsKind(err, backend.KindAuthentication) {
		t.Error(err)
	}
	if _, err := NewRegex(RegexOptions{Rules: []RegexRule{{Match: "("}}}); !backend.IsKind(err, backend.KindInvalid) {
		t.Error(err)
	}
}
