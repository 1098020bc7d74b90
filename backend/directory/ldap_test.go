package directory

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/text/unicode/norm"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// startSlapd runs a real server with the suite's users.
func startSlapd(t testing.TB) *mailtest.Slapd {
	t.Helper()
	return mailtest.StartSlapd(t, mailtest.SlapdOptions{Users: []mailtest.LDAPUser{
		{UID: "anna", MailHost: "old1"},
		{UID: "otto", MailHost: "old1", Attrs: map[string][]string{"employeeType": {"disabled"}}},
		{UID: "bernd"},
	}})
}

func ldapOptions(s *mailtest.Slapd) LDAPOptions {
	return LDAPOptions{
		Name: "company", Servers: []string{s.URL}, Base: s.People,
		BindDN: s.ReaderDN, BindPassword: backend.Secret(s.ReadPass),
		Filter:     "(&(objectClass=inetOrgPerson)(|(uid={user})(mail={user})))",
		Attributes: LDAPAttributes{User: "uid", Store: "mailHost", Disabled: "employeeType"}, CheckPassword: true,
		WriteDN: s.MoverDN, WritePassword: backend.Secret(s.MoverPass),
		ConnectTimeout: time.Second, RequestTimeout: time.Second,
	}
}

func openLDAP(t testing.TB, o LDAPOptions) *LDAP {
	t.Helper()
	d, err := NewLDAP(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestLDAP(t *testing.T) {
	s := startSlapd(t)
	ways := map[string]func(*LDAPOptions){
		"clear":    func(*LDAPOptions) {},
		"starttls": func(o *LDAPOptions) { o.StartTLS, o.TLSConfig = true, s.Client() },
		"ldaps":    func(o *LDAPOptions) { o.Servers, o.TLSConfig = []string{s.TLSURL}, s.Client() },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			testDirectory(t, func(t *testing.T) subject {
				s.SetAttr(t, "anna", "mailHost", "old1")
				s.SetAttr(t, "bernd", "mailHost")
				o := ldapOptions(s)
				way(&o)
				gate := &gate{}
				o.Dial = gate.dial
				return subject{dir: openLDAP(t, o), away: gate.shut}
			})
		})
	}
}

// gate is the network between us and a server: it can be shut (connections are
// refused), or turned into a black hole (they are accepted, nothing answers).
type gate struct {
	mu    sync.Mutex
	state string
	conns []net.Conn
	dials int
	// through opens connections; nil: a net.Dialer
	through func(ctx context.Context, network, address string) (net.Conn, error)
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dials++
	switch g.state {
	case "shut":
		return nil, fmt.Errorf("dial %s: connection refused", address)
	case "mute":
		here, there := net.Pipe()
		go func() {
			var b [4096]byte
			for {
				if _, err := there.Read(b[:]); err != nil {
					return
				}
			}
		}()
		return here, nil
	}
	through := g.through
	if through == nil {
		through = new(net.Dialer).DialContext
	}
	c, err := through(ctx, network, address)
	if err != nil {
		return nil, err
	}
	h := &holed{Conn: c}
	g.conns = append(g.conns, h)
	return h, nil
}

func (g *gate) set(state string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = state
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

// hole lets connections that are there go silent, and new ones.
func (g *gate) hole() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = "mute"
	for _, c := range g.conns {
		c.(*holed).silent.Store(true)
	}
}

// holed is a connection whose requests can get lost.
type holed struct {
	net.Conn
	silent atomic.Bool
}

func (h *holed) Write(b []byte) (int, error) {
	if h.silent.Load() {
		return len(b), nil
	}
	return h.Conn.Write(b)
}

func (g *gate) shut() { g.set("shut") }

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dials
}

func TestLDAPNamesAreVerified(t *testing.T) {
	s := startSlapd(t)
	for name, o := range map[string]LDAPOptions{
		"unknown authority": {Servers: []string{s.TLSURL}},
		"other name":        {Servers: []string{s.TLSURL}, TLSConfig: mailtest.NewCA(t).Client()},
		"starttls":          {Servers: []string{s.URL}, StartTLS: true},
	} {
		t.Run(name, func(t *testing.T) {
			base := ldapOptions(s)
			base.Servers, base.StartTLS, base.TLSConfig = o.Servers, o.StartTLS, o.TLSConfig
			if _, err := openLDAP(t, base).Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
				t.Errorf("an unverified server answered: %v", err)
			}
		})
	}
}

func TestLDAPBrokenConnectionsAreReplaced(t *testing.T) {
	s := startSlapd(t)
	g := &gate{}
	o := ldapOptions(s)
	o.Dial = g.dial
	d := openLDAP(t, o)
	for range 3 {
		if _, err := d.Lookup(t.Context(), "anna"); err != nil {
			t.Fatal(err)
		}
		g.set("") // breaks what is pooled
	}
	s.Stop()
	if _, err := d.Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Fatalf("server is down: %v", err)
	}
	s.Start(t)
	d.servers[0].recovered() // the rest is over
	if _, err := d.Lookup(t.Context(), "anna"); err != nil {
		t.Errorf("server is back: %v", err)
	}
}

func TestLDAPFailoverAndReturn(t *testing.T) {
	s := startSlapd(t)
	for _, fault := range []string{"shut", "mute"} {
		t.Run(fault, func(t *testing.T) {
			preferred, other := &gate{state: fault}, &gate{}
			o := ldapOptions(s)
			o.Servers = []string{"ldap://preferred.test", "ldap://other.test"}
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if strings.HasPrefix(address, "preferred") {
					return preferred.dial(ctx, network, s.Addr)
				}
				return other.dial(ctx, network, s.Addr)
			}
			d := openLDAP(t, o)
			lookup := func() time.Duration {
				t.Helper()
				begin := time.Now()
				if _, err := d.Lookup(t.Context(), "anna"); err != nil {
					t.Fatal(err)
				}
				return time.Since(begin)
			}
			if took := lookup(); took > 3*time.Second {
				t.Errorf("first lookup took %v", took)
			}
			tried := preferred.count()
			if took := lookup(); took > 500*time.Millisecond {
				t.Errorf("second lookup took %v", took)
			}
			if n := preferred.count(); n != tried {
				t.Errorf("the dead server was asked again at once")
			}
			preferred.set("")
			d.servers[0].mu.Lock()
			d.servers[0].downTil = time.Now() // the rest is over
			d.servers[0].mu.Unlock()
			lookup() // starts the probe
			d.servers[0].wg.Wait()
			if !d.servers[0].up() {
				t.Fatal("the preferred server did not come back")
			}
			before := other.count()
			other.shut()
			lookup()
			if other.count() != before {
				t.Error("the preferred server is well, and another one was asked")
			}
		})
	}
}

func TestLDAPEndsInTime(t *testing.T) {
	s := startSlapd(t)
	g := &gate{state: "mute"}
	o := ldapOptions(s)
	o.Servers = []string{"ldap://a.test", "ldap://b.test", "ldap://c.test", "ldap://d.test"}
	o.ConnectTimeout, o.RequestTimeout = 2*time.Second, 3*time.Second
	o.Dial = g.dial
	d := openLDAP(t, o)
	begin := time.Now()
	_, err := d.Lookup(t.Context(), "anna")
	if took := time.Since(begin); !backend.IsKind(err, backend.KindUnavailable) || took > lookupLimit+500*time.Millisecond {
		t.Errorf("%v after %v", err, took)
	}
}

func TestLDAPAmbiguousAndBadEntries(t *testing.T) {
	s := startSlapd(t)
	s.AddUsers(t, mailtest.LDAPUser{UID: "twin1", Mail: "twin@example.org"}, mailtest.LDAPUser{UID: "twin2", Mail: "twin@example.org"},
		mailtest.LDAPUser{UID: "hosts", Attrs: map[string][]string{"mailHost": {"a"}}},
		mailtest.LDAPUser{UID: "evil", Attrs: map[string][]string{"mailHost": {"a\r\nb"}}},
		mailtest.LDAPUser{UID: "names"})
	s.SetAttr(t, "names", "uid", "names", "names2")
	d := openLDAP(t, ldapOptions(s))
	for _, name := range []string{"twin@example.org", "evil", "names", "names2"} {
		if e, err := d.Lookup(t.Context(), name); !backend.IsKind(err, backend.KindConflict) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	o := ldapOptions(s)
	o.Base = "ou=elsewhere," + s.Base
	if _, err := openLDAP(t, o).Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("a base that does not exist: %v", err)
	}
	o = ldapOptions(s)
	o.BindPassword = "wrong"
	if _, err := openLDAP(t, o).Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("our own credentials are wrong: %v", err)
	}
}

func TestLDAPListPages(t *testing.T) {
	s := startSlapd(t)
	var many []mailtest.LDAPUser
	for i := range 2*listPage + 10 {
		many = append(many, mailtest.LDAPUser{UID: fmt.Sprint("u", i), MailHost: "farm"})
	}
	s.AddUsers(t, many...)
	d := openLDAP(t, ldapOptions(s))
	n := 0
	for _, err := range d.Users(t.Context(), "mailHost=farm") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != len(many) {
		t.Errorf("%d users listed, want %d", n, len(many))
	}
	for range d.Users(t.Context(), "") {
		break // leaving early must not hang or leak
	}
}

func TestLDAPOptionsAreChecked(t *testing.T) {
	good := LDAPOptions{Name: "x", Servers: []string{"ldap://a"}, Filter: "(uid={user})", Base: "dc=x"}
	for name, change := range map[string]func(*LDAPOptions){
		"no servers":       func(o *LDAPOptions) { o.Servers = nil },
		"scheme":           func(o *LDAPOptions) { o.Servers = []string{"http://a"} },
		"filter":           func(o *LDAPOptions) { o.Filter = "(uid={user}" },
		"filter no name":   func(o *LDAPOptions) { o.Filter = "(uid=x)" },
		"base":             func(o *LDAPOptions) { o.Base = "people" },
		"no bind password": func(o *LDAPOptions) { o.BindDN = "cn=x" },
	} {
		o := good
		change(&o)
		if _, err := NewLDAP(o); !backend.IsKind(err, backend.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d := openLDAP(t, good); d.o.ListFilter != "(uid=*)" {
		t.Errorf("list filter %q", d.o.ListFilter)
	}
}

// FuzzLDAPNames throws names at a real server: whatever is found must be the
// entry with that very name.
func FuzzLDAPNames(f *testing.F) {
	s := startSlapd(f)
	d := openLDAP(f, ldapOptions(s))
	for _, seed := range []string{"anna", "*", "an*", "anna)(uid=*", "*)(uid=*))(|(uid=*", "anna\x00", `an\2a`, "(", ")", `\`,
		"%2a", "anna@example.org", "ANNA", "ａnna", "an\u00adna", "anna\u200b", "uid=anna", "a&b", "|", "!(uid=x)", "an/na", "anna,ou=people"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		e, err := d.Lookup(t.Context(), name)
		if err != nil {
			if !backend.IsKind(err, backend.KindNotFound) {
				t.Fatalf("%q: %v", name, err)
			}
			return
		}
		local, _, _ := strings.Cut(prepared(name), "@")
		if local != e.User {
			t.Fatalf("%q matched %+v", name, e)
		}
	})
}

// prepared is how LDAP compares names: RFC 4518 maps characters to nothing and
// applies NFKC, and case is ignored.
func prepared(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == 0xad, r == 0x34f, r == 0x1806, r >= 0x180b && r <= 0x180e, r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e,
			r >= 0x2060 && r <= 0x206f, r >= 0xfe00 && r <= 0xfe0f, r == 0xfeff, r >= 0xfff9 && r <= 0xfffc:
			return -1
		}
		return r
	}, s)
	return strings.ToLower(norm.NFKC.String(s))
}
