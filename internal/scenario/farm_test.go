package scenario

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mailferry/internal/mailtest"
)

const (
	password = "secret" // of every user
	domain   = "example.org"
)

// oldStore is a real store that users leave.
type oldStore struct {
	name   string // in the configuration and in the directory
	kind   string // dovecot, cyrus or courier
	users  []string
	imap   string
	lmtp   string // empty: it has none
	pop3   string
	ca     *mailtest.CA
	login  string   // the YAML of its login
	master []string // mailseed's flags to log in as any user
}

// farm is what an ISP has before the move: a directory and old stores with mail.
type farm struct {
	dir    string
	ldap   *mailtest.Slapd
	stores []*oldStore
	seed   string // the mailseed program
}

// newFarm starts the directory and four old stores, whose delimiters, prefixes
// and ways to log in differ, and fills them with n messages a user.
func newFarm(t *testing.T, users, n int) *farm {
	t.Helper()
	mailtest.Require(t, "slapd", "dovecot", "cyrus", "courier", "corpus", "mbsync", "offlineimap")
	f := &farm{dir: t.TempDir(), seed: mailtest.Mailseed(t)}
	names := userNames(users)
	a, b, c := users*6/20, users*11/20, users*16/20
	f.stores = []*oldStore{
		newDovecot(t, "old1", names[:a]),
		newCyrus(t, "old2", names[a:b], mailtest.CyrusOptions{}),
		newCyrus(t, "old3", names[b:c], mailtest.CyrusOptions{UnixHierarchySep: true, AltNamespace: true}),
		newCourier(t, "old4", names[c:]),
	}
	f.ldap = mailtest.StartSlapd(t, mailtest.SlapdOptions{})
	for _, s := range f.stores {
		for _, u := range s.users {
			f.ldap.AddUsers(t, mailtest.LDAPUser{UID: u, Mail: u + "@" + domain, Password: password, MailHost: s.name})
		}
		f.fill(t, s, n)
	}
	return f
}

func userNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("u%02d", i+1)
	}
	return names
}

func newDovecot(t *testing.T, name string, users []string) *oldStore {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{UsernameFormat: "%Ln", Password: password})
	return &oldStore{
		name: name, kind: "dovecot", users: users, imap: d.IMAP, lmtp: d.LMTP, pop3: d.POP3, ca: d.CA,
		login:  fmt.Sprintf("{mode: master, user: %s, password: %s}", d.MasterUser, d.MasterPassword),
		master: []string{"-master", d.MasterUser, "-pass", d.MasterPassword},
	}
}

func newCyrus(t *testing.T, name string, users []string, o mailtest.CyrusOptions) *oldStore {
	o.Users, o.Password = users, password
	c := mailtest.StartCyrus(t, o)
	return &oldStore{
		name: name, kind: "cyrus", users: users, imap: c.IMAP, lmtp: c.LMTP, pop3: c.POP3, ca: c.CA,
		login:  fmt.Sprintf("{mode: authzid, user: %s, password: %s}", c.Admin, c.AdminPassword),
		master: []string{"-master", c.Admin, "-master-by", "authzid", "-pass", c.AdminPassword},
	}
}

// fill loads real mail in twenty folders with umlauts, flags and keywords.
func (f *farm) fill(t *testing.T, s *oldStore, n int) {
	t.Helper()
	f.mailseed(t, "load", append(s.access(),
		"-corpus", mailtest.CorpusDir(t), "-messages", fmt.Sprint(n), "-big", "0")...)
}

// access are mailseed's flags for this store and its users.
func (s *oldStore) access() []string {
	return append([]string{"-addr", s.imap, "-users", strings.Join(s.users, ",")}, s.master...)
}

// mailseed runs the judge, which shares no code with us.
func (f *farm) mailseed(t *testing.T, verb string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(f.seed, append([]string{verb}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("mailseed %s: %v\n%s", verb, err, stderr.String())
	}
	return out
}

// migrate orders a move of users by a file that has the passwords of those
// whose store has no administrator. It returns what the command printed, when it
// is done, or at once with --detach.
func (f *farm) migrate(ctx context.Context, t *testing.T, n *node, users []string, args ...string) string {
	t.Helper()
	out, errs, code := n.run(ctx, append([]string{"migrate", "--to", "home", "--users", f.list(t, users)}, args...)...)
	if code != 0 {
		t.Fatalf("migrate ended with %d\n%s%s", code, out, errs)
	}
	t.Logf("migrate:\n%s%s", out, errs)
	return strings.TrimSpace(out)
}

// list is such a file.
func (f *farm) list(t *testing.T, users []string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("user,password\n")
	for _, s := range f.stores {
		for _, u := range s.users {
			if !slices.Contains(users, u) {
				continue
			}
			own := ""
			if s.kind == "courier" {
				own = password
			}
			fmt.Fprintf(&b, "%s,%s\n", u, own)
		}
	}
	path := filepath.Join(t.TempDir(), "users.csv")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// users are all users of the farm, in order.
func (f *farm) users() []string {
	var all []string
	for _, s := range f.stores {
		all = append(all, s.users...)
	}
	return all
}

// config writes the node's configuration: the farm's directory, its old stores
// and our own, all in one move group.
func (f *farm) config(t *testing.T, node *node) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "data: %s\n", filepath.Join(f.dir, "data"))
	fmt.Fprintf(&b, "listen: {imap: [%q], imaps: [], pop3: [%q], pop3s: [], lmtp: [%q], submission: [], submissions: [], admin: []}\n", node.imap, node.pop3, node.lmtp)
	fmt.Fprintf(&b, "tls: {cleartext_login: loopback}\n")
	l := f.ldap
	fmt.Fprintf(&b, `directories:
  - name: company
    type: ldap
    servers: [%q]
    starttls: true
    ca: %q
    bind_dn: %q
    bind_password: %q
    base: %q
    filter: "(|(uid={user})(mail={user}))"
    attributes: {user: uid, store: mailHost}
    passwords: bind
    write: {bind_dn: %q, password: %q}
stores:
  - {name: home, type: local}
`, l.URL, l.CA.Cert, l.ReaderDN, l.ReadPass, l.People, l.MoverDN, l.MoverPass)
	names := []string{"home"}
	for _, s := range f.stores {
		host, imap, _ := strings.Cut(s.imap, ":")
		_, pop3, _ := strings.Cut(s.pop3, ":")
		ports := fmt.Sprintf("imap: %s, pop3: %s", imap, pop3)
		if _, lmtp, ok := strings.Cut(s.lmtp, ":"); ok {
			ports += ", lmtp: " + lmtp
		}
		fmt.Fprintf(&b, "  - {name: %s, type: %s, address: %q, ports: {%s}, tls: starttls, ca: %q, login: %s}\n",
			s.name, s.kind, host, ports, s.ca.Cert, s.login)
		names = append(names, s.name)
	}
	fmt.Fprintf(&b, "move_groups:\n  - {name: farm, stores: [%s]}\n", strings.Join(names, ", "))
	path := filepath.Join(f.dir, "mailferry.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
