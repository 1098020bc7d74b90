package directory

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// bulk is more than one page of a domain holds.
const bulk = 1100

// adUsers are the suite's users and one for each name form and account state.
func adUsers() []mailtest.SambaUser {
	store := func(s string) map[string][]string { return map[string][]string{"extensionName": {s}} }
	users := []mailtest.SambaUser{
		{Name: "anna", Password: "secret", Attrs: store("old1")},
		{Name: "otto", Password: "secret", Attrs: map[string][]string{"extensionName": {"old1"}, "userAccountControl": {"514"}}},
		{Name: "bernd", Password: "secret"},
		{Name: "clara", Password: "secret", Attrs: map[string][]string{"userPrincipalName": {"c.lara@upn.example.org"},
			"mail": {"clara@mail.example.org"}, "extensionName": {"old1"},
			"proxyAddresses": {"SMTP:clara@mail.example.org", "smtp:cl@alias.example.org", "X500:/o=x/cn=clara"}}},
		{Name: "twin", Password: "secret", Attrs: map[string][]string{"userPrincipalName": {"twin1@example.org"}, "mail": {"twins@example.org"}}},
		{Name: "twin2", Password: "secret", Attrs: map[string][]string{"mail": {"twins@example.org"}}},
		{Name: "late", Password: "secret", Attrs: map[string][]string{"accountExpires": {"131000000000000000"}}},
		{Name: "change", Password: "secret"}, {Name: "locked", Password: "secret"}, {Name: "night", Password: "secret"},
		{Name: "desk", Password: "secret", Attrs: map[string][]string{"userWorkstations": {"OTHER"}}},
	}
	for i := range bulk {
		users = append(users, mailtest.SambaUser{Name: fmt.Sprint("bulk", i), Attrs: map[string][]string{"department": {"bulk"}}})
	}
	return users
}

// adSystem sets what only the system may.
const adSystem = `dn: CN=change,CN=Users,{base}
changetype: modify
replace: pwdLastSet
pwdLastSet: 0

dn: CN=night,CN=Users,{base}
changetype: modify
replace: logonHours
logonHours:: AAAAAAAAAAAAAAAAAAAAAAAAAAAA

`

func adOptions(s *mailtest.Samba) ADOptions {
	return ADOptions{LDAPOptions: LDAPOptions{
		Name: "ad", Servers: []string{s.TLSURL}, TLSConfig: s.Client(), Base: s.Base, BindDN: s.AdminDN, BindPassword: backend.Secret(s.AdminPass),
		Attributes:    LDAPAttributes{User: "sAMAccountName", Store: "extensionName"},
		CheckPassword: true, Dial: s.Dial, WriteDN: s.AdminDN, WritePassword: backend.Secret(s.AdminPass),
		ConnectTimeout: 5 * time.Second, RequestTimeout: 5 * time.Second,
	}}
}

func openAD(t testing.TB, o ADOptions) *LDAP {
	t.Helper()
	d, err := NewAD(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestAD runs against one domain, which takes seconds to make.
func TestAD(t *testing.T) {
	t.Parallel()
	var groups []mailtest.SambaGroup
	member := "anna"
	for i := range 5 {
		name := fmt.Sprint("level", i)
		groups = append(groups, mailtest.SambaGroup{Name: name, Members: []string{member}})
		member = name
	}
	s := mailtest.StartSamba(t, mailtest.SambaOptions{Users: adUsers(), Groups: groups, LDIF: adSystem})
	t.Run("suite", func(t *testing.T) { testADSuite(t, s) })
	t.Run("names", func(t *testing.T) { testADNames(t, s) })
	t.Run("states", func(t *testing.T) { testADStates(t, s) })
	t.Run("groups", func(t *testing.T) { testADGroups(t, s) })
	t.Run("pages", func(t *testing.T) { testADPages(t, s) })
	t.Run("referrals", func(t *testing.T) { testADReferrals(t, s) })
	t.Run("cleartext", func(t *testing.T) { testADCleartext(t, s) })
	t.Run("injection", func(t *testing.T) { testADInjection(t, s) })
	t.Run("replica", func(t *testing.T) { testADReplica(t, s) })
}

func testADSuite(t *testing.T, s *mailtest.Samba) {
	testDirectory(t, func(t *testing.T) subject {
		s.SetAttr(t, "anna", "extensionName", "old1")
		s.SetAttr(t, "bernd", "extensionName")
		g := &gate{through: s.Dial}
		o := adOptions(s)
		o.Dial, o.Filter = g.dial, "(|(cn=anna)(cn=otto)(cn=bernd))"
		return subject{dir: openAD(t, o), away: g.shut}
	})
}

func testADNames(t *testing.T, s *mailtest.Samba) {
	d := openAD(t, adOptions(s))
	for name, want := range map[string]string{
		"clara": "clara", "CLARA": "clara", `CORP\clara`: "clara", `corp\Clara`: "clara", `corp.example.org\clara`: "clara",
		"clara@corp.example.org": "clara", "c.lara@upn.example.org": "clara", "clara@mail.example.org": "clara",
		"cl@alias.example.org": "clara", "Twin1@example.org": "twin", "twin": "twin",
	} {
		e, err := d.Lookup(t.Context(), name)
		if err != nil || e.User != want {
			t.Errorf("%s: %+v, %v", name, e, err)
			continue
		}
		if err := d.Authenticate(t.Context(), e, "secret"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want == "clara" && strings.Join(e.Recipients, " ") != "clara@mail.example.org cl@alias.example.org" {
			t.Errorf("%s: recipients %v", name, e.Recipients)
		}
	}
	for name, kind := range map[string]backend.Kind{"twins@example.org": backend.KindConflict, `OTHER\clara`: backend.KindNotFound,
		`CORP\`: backend.KindNotFound, `\clara`: backend.KindNotFound, `CORP\c.lara@upn.example.org`: backend.KindNotFound,
		"clara@elsewhere.example.org": backend.KindNotFound, "/o=x/cn=clara": backend.KindNotFound, "Administrators": backend.KindNotFound} {
		if e, err := d.Lookup(t.Context(), name); !backend.IsKind(err, kind) {
			t.Errorf("%s: %+v, %v, want %v", name, e, err, kind)
		}
	}
}

func testADStates(t *testing.T, s *mailtest.Samba) {
	clock := time.Now()
	var log bytes.Buffer
	o := adOptions(s)
	o.Now, o.Logger = func() time.Time { return clock }, slog.New(slog.NewTextHandler(&log, nil))
	d := openAD(t, o)
	entry := func(name string) backend.Entry {
		e, err := d.Lookup(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	want := func(name string, password backend.Secret, state AccountState) {
		t.Helper()
		err := d.Authenticate(t.Context(), entry(name), password)
		var account *AccountError
		if !backend.IsKind(err, backend.KindAuthentication) || !errors.As(err, &account) || account.State != state {
			t.Errorf("%s: %v, want %v", name, err, state)
			return
		}
		if backend.UserText(err) != backend.UserText(wrongPassword("ad", "x")) || !strings.Contains(err.Error(), state.String()) {
			t.Errorf("%s: user reads %q, the log %q", name, backend.UserText(err), err)
		}
	}
	want("clara", "wrong", StateWrongPassword)
	want("otto", "secret", StateDisabled)
	want("late", "secret", StateAccountExpired)
	want("change", "secret", StateMustChange)
	want("night", "secret", StateLogonHours)
	for range 3 {
		want("locked", "wrong", StateWrongPassword)
	}
	want("locked", "secret", StateLocked)
	if e := entry("late"); !e.Disabled || e.Reason != StateAccountExpired.String() {
		t.Errorf("expired account: %+v", e)
	}
	s.SetAttr(t, "locked", "lockoutTime", "0")
	want("locked", "secret", StateLocked) // our shield still rests
	clock = clock.Add(lockRest + time.Second)
	if err := d.Authenticate(t.Context(), entry("locked"), "secret"); err != nil {
		t.Errorf("unlocked: %v", err)
	}
}

func testADGroups(t *testing.T, s *mailtest.Samba) {
	for level, want := range map[string]backend.Kind{"level4": 0, "level0": 0, "nowhere": backend.KindNotFound} {
		o := adOptions(s)
		o.Groups = []string{s.DN(level)}
		d := openAD(t, o)
		if e, err := d.Lookup(t.Context(), "anna"); want == 0 && (err != nil || e.User != "anna") || want != 0 && !backend.IsKind(err, want) {
			t.Errorf("anna in %s: %+v, %v", level, e, err)
		}
		if e, err := d.Lookup(t.Context(), "bernd"); !backend.IsKind(err, backend.KindNotFound) {
			t.Errorf("bernd in %s: %+v, %v", level, e, err)
		}
	}
	slapd := startSlapd(t)
	o := ADOptions{LDAPOptions: ldapOptions(slapd), Groups: []string{s.DN("level0")}}
	o.Filter = ""
	if e, err := openAD(t, o).Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) || !errors.Is(err, errNotAD) {
		t.Errorf("groups of a server that knows no chains: %+v, %v", e, err)
	}
}

func testADPages(t *testing.T, s *mailtest.Samba) {
	n := 0
	for _, err := range openAD(t, adOptions(s)).Users(t.Context(), "(department=bulk)") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != bulk {
		t.Errorf("%d users listed, want %d", n, bulk)
	}
}

func testADReferrals(t *testing.T, s *mailtest.Samba) {
	for _, follow := range []bool{false, true} {
		o := adOptions(s)
		o.FollowReferrals = follow
		if e, err := openAD(t, o).Lookup(t.Context(), "anna"); err != nil || e.User != "anna" {
			t.Errorf("follow %v: references to system partitions: %+v, %v", follow, e, err)
		}
		o.Base = "DC=elsewhere,DC=example,DC=net"
		if e, err := openAD(t, o).Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
			t.Errorf("follow %v: another domain's base: %+v, %v", follow, e, err)
		}
	}
}

func testADCleartext(t *testing.T, s *mailtest.Samba) {
	o := adOptions(s)
	o.Servers = []string{s.URL}
	if _, err := openAD(t, o).Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("a domain that wants TLS: %v", err)
	}
	o.StartTLS = true
	if _, err := openAD(t, o).Lookup(t.Context(), "anna"); err != nil {
		t.Error(err)
	}
}

func testADInjection(t *testing.T, s *mailtest.Samba) {
	d := openAD(t, adOptions(s))
	rounds := 300
	if mailtest.Soaking() {
		rounds = 100_000
	}
	throwNames(t, d, rounds, func(name string, e backend.Entry) bool {
		for _, form := range []string{e.User, `corp\` + e.User, `corp.example.org\` + e.User, e.User + "@corp.example.org"} {
			if prepared(name) == form {
				return true
			}
		}
		return false
	})
}

func TestADStatesByCode(t *testing.T) {
	a := &activeDirectory{}
	for code, want := range map[string]AccountState{
		"52e": StateWrongPassword, "525": StateNoSuchUser, "530": StateLogonHours, "531": StateWorkstation, "532": StatePasswordExpired,
		"533": StateDisabled, "701": StateAccountExpired, "773": StateMustChange, "775": StateLocked, "0000052E": StateWrongPassword,
	} {
		reason := a.bindError(ldap.NewError(ldap.LDAPResultInvalidCredentials,
			fmt.Errorf("80090308: LdapErr: DSID-0C09041C, comment: AcceptSecurityContext error, data %s, v4563\x00", code)))
		var account *AccountError
		if !errors.As(reason, &account) || account.State != want {
			t.Errorf("data %s: %v, want %v", code, reason, want)
		}
	}
	for _, code := range []uint16{ldap.LDAPResultStrongAuthRequired, ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.ErrorNetwork} {
		if reason := a.bindError(ldap.NewError(code, errors.New("x"))); reason != nil {
			t.Errorf("result %d blames the user: %v", code, reason)
		}
	}
}

func TestADOptionsAreChecked(t *testing.T) {
	good := LDAPOptions{Name: "x", Servers: []string{"ldap://a"}, Base: "dc=x"}
	for name, change := range map[string]func(*ADOptions){
		"names in the filter": func(o *ADOptions) { o.Filter = "(mail={user})" },
		"filter":              func(o *ADOptions) { o.Filter = "(mail=" },
		"group":               func(o *ADOptions) { o.Groups = []string{"mailers"} },
	} {
		o := ADOptions{LDAPOptions: good}
		change(&o)
		if _, err := NewAD(o); !backend.IsKind(err, backend.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	openAD(t, ADOptions{LDAPOptions: good})
}
