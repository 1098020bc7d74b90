package directory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

func TestLDAPMapping(t *testing.T) {
	o := LDAPOptions{Name: "x", Servers: []string{"ldap://a"}, Filter: "(uid={user})", Base: "dc=x", DefaultStore: "home",
		Attributes: LDAPAttributes{Host: "mailHost", Store: "farm", Port: "mailPort", Quota: "mailQuota", Services: "mailService", Recipients: "mail"}}
	d := openLDAP(t, o)
	entry := func(extra map[string][]string) (backend.Entry, error) {
		attrs := map[string][]string{"UID": {"anna"}} // names of attributes have no case
		maps.Copy(attrs, extra)
		return d.entry(ldap.NewEntry("uid=anna,dc=x", attrs))
	}
	e, err := entry(map[string][]string{"farm": {"cyrus"}, "mailHost": {"10.0.0.7"}, "mailPort": {"1143", "pop3:1110"}, "mailQuota": {"2 GiB"},
		"mailService": {"imap, Sieve", "SMTP"}, "mail": {"SMTP:a@x.org", "b@x.org", "x500:/o=x"}})
	if err != nil || e.Store != "cyrus" || e.Host != "10.0.0.7" || e.Ports[backend.IMAP] != 1143 || e.Ports[backend.POP3] != 1110 || e.Quota != 2<<30 ||
		!slices.Equal(e.Recipients, []string{"a@x.org", "b@x.org"}) {
		t.Errorf("%+v, %v", e, err)
	}
	for p, want := range map[backend.Protocol]bool{backend.IMAP: true, backend.POP3: false, backend.ManageSieve: true, backend.Submission: true, backend.LMTP: true} {
		if e.Allows(p) != want {
			t.Errorf("allows %s: %v", p, !want)
		}
	}
	if e, err = entry(map[string][]string{"mailHost": {"10.0.0.7"}}); err != nil || e.Store != "10.0.0.7" || e.Host != "" || !e.Allows(backend.POP3) {
		t.Errorf("a host alone: %+v, %v", e, err)
	}
	if e, err = entry(map[string][]string{"mailService": {"none"}, "mailQuota": {"much"}}); err != nil || e.Allows(backend.IMAP) || e.Quota != 0 || e.Store != "home" {
		t.Errorf("no service: %+v, %v", e, err)
	}
	for _, bad := range []map[string][]string{{"mailPort": {"0"}}, {"mailPort": {"99999"}}, {"mailPort": {"143", "144"}}, {"mailPort": {"x:1"}},
		{"mailHost": {"a", "b"}}, {"mailHost": {"a\r\nb"}}, {"farm": {"a", "b"}}} {
		if e, err := entry(bad); !backend.IsKind(err, backend.KindConflict) {
			t.Errorf("%v: %+v, %v", bad, e, err)
		}
	}
}

func TestQuotaWords(t *testing.T) {
	for s, want := range map[string]int64{"": 0, "0": 0, "-5": 0, "1000": 1000, "10B": 10, "5k": 5 << 10, "5 MB": 5 << 20, "1GiB": 1 << 30, "2T": 2 << 40,
		"9223372036854775807": 1<<63 - 1, "9223372036854775807k": 0, "1X": 0, "1kk": 0, "G": 0, "1.5G": 0} {
		if got := quota(s); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
}

func TestFindEntry(t *testing.T) {
	any, cyrus := &backend.Store{Name: "farm", Type: backend.StoreCyrus}, &backend.Store{Name: "old1", Type: backend.StoreCyrus, Address: "10.0.0.5"}
	s, err := NewStores([]*backend.Store{any, cyrus, {Name: "home", Type: backend.StoreLocal}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ store, host, want, dial string }{
		{"farm", "10.1.1.1", "farm", "10.1.1.1"}, {"10.1.1.1", "", "farm", "10.1.1.1"}, {"old1", "", "old1", "10.0.0.5"}, {"old1", "10.0.0.5", "old1", "10.0.0.5"},
		{"home", "", "home", ""}, {"old1", "10.1.1.1", "", ""}, {"home", "10.1.1.1", "", ""}, {"farm", "", "", ""}, {"farm", "a b", "", ""}, {"", "10.1.1.1", "", ""},
	} {
		st, dial, err := s.FindEntry(backend.Entry{Store: c.store, Host: c.host})
		if c.want == "" && !backend.IsKind(err, backend.KindUnavailable) || c.want != "" && (err != nil || st.Name != c.want || dial != c.dial) {
			t.Errorf("%+v: %+v, %q, %v", c, st, dial, err)
		}
	}
}

func TestLDAPReferrals(t *testing.T) {
	t.Parallel()
	far := mailtest.StartSlapd(t, mailtest.SlapdOptions{Users: []mailtest.LDAPUser{{UID: "fara", MailHost: "old2"}, {UID: "anna"}}})
	near := startSlapd(t)
	c := near.Dial(t)
	defer c.Close()
	r := ldap.NewAddRequest("ou=far,"+near.People, []ldap.Control{ldap.NewControlManageDsaIT(true)})
	r.Attribute("objectClass", []string{"referral", "extensibleObject"})
	r.Attribute("ou", []string{"far"})
	r.Attribute("ref", []string{far.URL + "/" + far.People + "??sub"})
	if err := c.Add(r); err != nil {
		t.Fatal(err)
	}
	lookup := func(follow bool, base, name string) (backend.Entry, error) {
		o := ldapOptions(near)
		o.FollowReferrals = follow
		if base != "" {
			o.Base = base
		}
		return openLDAP(t, o).Lookup(t.Context(), name)
	}
	if e, err := lookup(false, "", "anna"); err != nil || e.Store != "old1" {
		t.Errorf("ignored: %+v, %v", e, err)
	}
	if e, err := lookup(false, "", "fara"); !backend.IsKind(err, backend.KindNotFound) {
		t.Errorf("ignored: %+v, %v", e, err)
	}
	if e, err := lookup(true, "", "fara"); err != nil || e.Store != "old2" {
		t.Errorf("followed: %+v, %v", e, err)
	}
	if e, err := lookup(true, "", "anna"); !backend.IsKind(err, backend.KindConflict) {
		t.Errorf("one user at both: %+v, %v", e, err)
	}
	if e, err := lookup(false, "ou=far,"+near.People, "fara"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("nothing but a referral, ignored: %+v, %v", e, err)
	}
	if e, err := lookup(true, "ou=far,"+near.People, "fara"); err != nil || e.Store != "old2" {
		t.Errorf("nothing but a referral, followed: %+v, %v", e, err)
	}
	far.Stop()
	if e, err := lookup(true, "", "anna"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("the other server might know a second one: %+v, %v", e, err)
	}
}

func TestFilterShapes(t *testing.T) {
	for filter, want := range map[string]error{
		"(uid={user})": nil, "(&(objectClass=x)(|(uid={user})(mail={user})))": nil, "(&(a=*)(!(b=1))(uid={local})(o={domain}))": nil,
		"(|(uid={user})(&(mail={user})(x=1)))": errFilterShape, "(!(uid={user}))": errFilterShape, "(mail={user}*)": errFilterShape,
		"(uid:caseExactMatch:={user})": errFilterShape, "(|(uid={user})(x=*))": errFilterShape,
	} {
		if _, err := testedAttributes(filter); !errors.Is(err, want) {
			t.Errorf("%s: %v", filter, err)
		}
	}
	names, _ := testedAttributes("(&(objectClass=x)(|(UID={user})(mail={local}@{domain})))")
	if fmt.Sprint(names) != "[uid mail]" {
		t.Errorf("names %v", names)
	}
}
