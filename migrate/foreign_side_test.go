package migrate

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
	"mailferry/migrate/target"
)

// sidePeer is a real store with side data.
type sidePeer struct {
	*peer
	imap, sieve, password string
	show                  func(name string) string
	admin                 func(t *testing.T) *mailtest.IMAPConn
}

func (p *sidePeer) conn(t *testing.T, user string) *mailtest.IMAPConn {
	c := mailtest.DialIMAP(t, p.imap)
	c.Login(user, p.password)
	return c
}

func (p *sidePeer) sievePort() {
	_, port, _ := net.SplitHostPort(p.sieve)
	p.store.Ports[backend.ManageSieve], _ = strconv.Atoi(port)
}

func dovecotSidePeer(t *testing.T, name, extra string) *sidePeer {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{Extra: dovecotSide + extra})
	p := &sidePeer{imap: d.IMAP, sieve: d.Sieve, password: d.Password, show: func(n string) string { return n },
		peer: &peer{store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser,
			Secret: backend.Secret(d.MasterPassword)})}}
	p.store.Name = name
	p.sievePort()
	return p
}

func cyrusSidePeer(t *testing.T, name string) *sidePeer {
	c := mailtest.StartCyrus(t, mailtest.CyrusOptions{Users: []string{"anna", "bert"}})
	p := &sidePeer{imap: c.IMAP, sieve: c.Sieve, password: c.Password,
		show: func(n string) string {
			if n == "INBOX" {
				return n
			}
			return "INBOX." + strings.ReplaceAll(n, "/", ".")
		},
		peer: &peer{store: storeAt(t, backend.StoreCyrus, c.IMAP, backend.Login{Mode: backend.LoginAuthzid, User: c.Admin,
			Secret: backend.Secret(c.AdminPassword)})}}
	p.store.Name = name
	p.admin = func(t *testing.T) *mailtest.IMAPConn {
		a := mailtest.DialIMAP(t, c.IMAP)
		a.Login(c.Admin, c.AdminPassword)
		return a
	}
	p.sievePort()
	return p
}

// side reads what a user has beside mail with the client that moves use.
func (p *sidePeer) side(t *testing.T, user string, names ...string) (*remote.Side, []backend.SieveScript) {
	t.Helper()
	target := remote.Target{Store: p.store, User: user}
	c, err := dialIMAP(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var raws []string
	for _, n := range names {
		raws = append(raws, p.show(n))
	}
	s, err := c.Side(t.Context(), raws)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := remote.DialManageSieve(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	scripts, _, err := remote.Scripts(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return s, scripts
}

// TestForeignSideData carries what users have beside mail from one real store
// into another; a second run changes nothing, and changes go the right way.
func TestForeignSideData(t *testing.T) {
	for _, k := range []struct {
		name     string
		from, to func(t *testing.T, name string) *sidePeer
		group    string // at the target
	}{
		{"dovecot-dovecot", func(t *testing.T, n string) *sidePeer { return dovecotSidePeer(t, n, "") },
			func(t *testing.T, n string) *sidePeer { return dovecotSidePeer(t, n, "") }, "$staff"},
		{"dovecot-cyrus", func(t *testing.T, n string) *sidePeer { return dovecotSidePeer(t, n, "") }, cyrusSidePeer, "group:staff"},
		{"cyrus-dovecot", cyrusSidePeer, func(t *testing.T, n string) *sidePeer { return dovecotSidePeer(t, n, "") }, "$staff"},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			from, to := k.from(t, "from"), k.to(t, "to")
			c := from.conn(t, "anna")
			c.Append("INBOX", "", time.Time{}, bodies[0])
			box := func(n string) string { return mailtest.Quote(from.show(n)) }
			c.Cmd("CREATE %s", box("Other"))
			c.Cmd("CREATE %s (USE (\\Sent))", box("Gone out"))
			c.Cmd("SETACL %s bert lrk", box("Other"))
			if from.admin == nil {
				c.Cmd("SETACL %s $staff lrs", box("Other"))
			} else {
				c.Cmd("SETACL %s group:staff lrs", box("Other"))
				a := from.admin(t)
				a.Cmd("SETQUOTA user.anna (STORAGE 20480)")
			}
			c.Cmd(`SETMETADATA %s (/private/comment "mine" /shared/comment {4+}`+"\r\na\r\nb"+`)`, box("Other"))
			putScripts(t, from.sieve, "anna", from.password,
				backend.SieveScript{Name: "main", Text: []byte("require [\"fileinto\"];\r\nfileinto \"" + from.show("Other") + "\";\r\n")},
				backend.SieveScript{Name: "old one", Text: []byte("# \xc3\xa4\r\nkeep;\r\n")})

			dir := t.TempDir()
			e := foreignEngine(t, dir, from.store, to.store, nil)
			run := func(spec BatchSpec) *Certificate {
				t.Helper()
				spec.Users, spec.To, spec.Rules = []string{"anna"}, "to", &target.Rules{}
				st := wait(t, e, begin(t, e, spec))
				cert, err := e.CertificateIn(st.ID, "anna")
				if err != nil || cert.Side == nil {
					t.Fatalf("%v: %+v %+v", err, cert, st.Users)
				}
				t.Logf("changes: %q\nexceptions: %+v", cert.Side.Changes, cert.Exception)
				return cert
			}
			plan := run(BatchSpec{Dry: true})
			cert := run(BatchSpec{})
			for _, what := range plan.Side.Changes {
				if !strings.Contains(what, " created") && !slices.Contains(cert.Side.Changes, what) && !strings.Contains(what, "special use") && !strings.Contains(what, "quota") {
					t.Errorf("the plan had %q", what)
				}
			}
			s, scripts := to.side(t, "anna", "Other", "INBOX")
			other := to.show("Other")
			for _, want := range []backend.ACLEntry{{Identifier: "bert", Rights: "klr"}, {Identifier: k.group, Rights: "lrs"}} {
				if !slices.ContainsFunc(s.ACLs[other], func(e backend.ACLEntry) bool {
					return e.Identifier == want.Identifier && strings.Trim(e.Rights, "c") == want.Rights
				}) {
					t.Errorf("access rights %v: want %v", s.ACLs[other], want)
				}
			}
			for name, value := range map[string]string{"/private/comment": "mine", "/shared/comment": "a\r\nb"} {
				if !slices.ContainsFunc(s.Metadata[other], func(e backend.MetadataEntry) bool { return e.Name == name && string(e.Value) == value }) {
					t.Errorf("annotations %v: want %s %q", s.Metadata[other], name, value)
				}
			}
			if len(scripts) != 2 || !scripts[0].Active || scripts[1].Name != "old one" {
				t.Errorf("scripts %+v", scripts)
			}
			if from.admin != nil || to.admin != nil {
				if !slices.ContainsFunc(cert.Exception, func(e Exception) bool { return strings.Contains(e.What, "files into") }) {
					t.Error("the renamed mailbox of the script is not named")
				}
			}
			if to.admin != nil && !strings.Contains(fmt.Sprint(s.Quotas), "102400") {
				t.Errorf("quota %v", s.Quotas)
			}
			// A second run changes nothing; the owner's own changes stay.
			if cert := run(BatchSpec{}); len(cert.Side.Changes) > 0 {
				t.Errorf("second run: %q", cert.Side.Changes)
			}
			mine := to.conn(t, "anna")
			mine.Cmd("SETACL %s bert l", mailtest.Quote(other))
			c.Cmd("SETACL %s carl lr", box("Other"))
			c.Cmd("DELETEACL %s %s", box("Other"), map[bool]string{true: "$staff", false: "group:staff"}[from.admin == nil])
			run(BatchSpec{})
			s, _ = to.side(t, "anna", "Other")
			list := fmt.Sprint(s.ACLs[other])
			if !strings.Contains(list, "{bert l}") || !strings.Contains(list, "{carl lr}") || strings.Contains(list, "staff") {
				t.Errorf("access rights after changes on both sides: %s", list)
			}
		})
	}
}
