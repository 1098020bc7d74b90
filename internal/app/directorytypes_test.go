package app

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/directory"
	"mailferry/internal/mailtest"
)

// replicated waits until the first directory's copy is complete.
func replicated(t *testing.T, a *App) {
	t.Helper()
	r := a.dirs.current.copies[0]
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond) // a real server answers
	defer tick.Stop()
	for !r.Live() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("the replica is not complete")
		}
	}
}

// TestReplicaOutlivesRestart: the directory goes away, the node restarts, and
// users whom it never saw are known, and let in by passwords where these are
// the store's matter.
func TestReplicaOutlivesRestart(t *testing.T) {
	slapd := mailtest.StartSlapd(t, mailtest.SlapdOptions{Users: []mailtest.LDAPUser{{UID: "anna", MailHost: "home"}, {UID: "bernd", MailHost: "home"}}})
	s := newSetup(t, anyPort+fmt.Sprintf(`directories:
  - {name: company, type: ldap, servers: ["%s"], base: "%s", bind_dn: "%s", bind_password: %s, filter: "(|(uid={user})(mail={user}))", replica: {}}
`, slapd.URL, slapd.People, slapd.ReaderDN, slapd.ReadPass))
	a := s.start(t)
	replicated(t, a)
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	replicated(t, a)
	if e, err := a.dirs.Lookup(t.Context(), "anna"); err != nil || e.Store != "home" {
		t.Fatalf("%+v, %v", e, err)
	}
	slapd.SetAttr(t, "anna", "mailHost", "elsewhere")
	if e, err := a.dirs.fresh(t.Context(), "anna"); err != nil || e.Store != "elsewhere" {
		t.Errorf("fresh: %+v, %v", e, err)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	slapd.Stop()
	a = s.start(t)
	if e, err := a.dirs.Lookup(t.Context(), "bernd@example.org"); err != nil || e.User != "bernd" || e.Store != "home" {
		t.Errorf("in an outage, after a restart: %+v, %v", e, err)
	}
	if e, err := a.dirs.Lookup(t.Context(), "nobody"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("nobody knows: %+v, %v", e, err)
	}
}

// TestDirectoryTypes opens each type that the configuration knows.
func TestDirectoryTypes(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user := r.Header.Get("Auth-User"); strings.HasPrefix(user, "w") {
			w.Header().Set("Auth-Server", "home")
			w.Header().Set("Auth-Status", "OK")
			return
		}
		w.Header().Set("Auth-Status", "Invalid login")
	}))
	defer web.Close()
	s := newSetup(t, anyPort+fmt.Sprintf(`directories:
  - {name: local, type: local}
  - {name: web, type: http, url: "%s/auth", header: X-Auth-Key, header_value: key}
  - {name: rules, type: regex, rules: [{match: "r[0-9]+", store: home}]}
  - {name: domain, type: ad, servers: ["ldaps://192.0.2.1"], base: "dc=corp", groups: ["cn=mail,dc=corp"], referrals: follow, timeout: 10ms,
     attributes: {services: extensionAttribute1, port: extensionAttribute2, host: extensionAttribute3, quota: extensionAttribute4},
     remember_passwords: 5m, replica: {feed: dirsync, max_users: 1000}}
`, web.URL))
	a := s.start(t)
	for name, want := range map[string]string{"wanda": "web", "r17": "rules"} {
		if e, err := a.dirs.Lookup(t.Context(), name); err != nil || e.Directory != want || e.Store != "home" {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if e, err := a.dirs.Lookup(t.Context(), "somebody"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("a domain that is away: %+v, %v", e, err)
	}
	if d, ok := a.dirs.current.chain.Directory("domain"); !ok {
		t.Error("no domain")
	} else if _, ok := d.(*directory.Replica); !ok {
		t.Errorf("the domain is a %T", d)
	}
}
