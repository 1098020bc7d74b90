package mailtest

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

// SlapdOptions describes a directory server.
type SlapdOptions struct {
	Base  string     // suffix; default dc=example,dc=org
	CA    *CA        // for ldaps and StartTLS; default a new one
	Users []LDAPUser // added at start
	Extra string     // more lines for the database's section of slapd.conf
}

// LDAPUser is one inetOrgPerson below ou=people.
type LDAPUser struct {
	UID      string
	Mail     string // default UID@example.org
	Password string // default "secret"
	MailHost string // the store; none when empty
	Attrs    map[string][]string
}

// Slapd is a running directory server. Anybody may read all but passwords;
// MoverDN may write mailHost; AdminDN may do everything.
type Slapd struct {
	Addr, TLSAddr      string // ldap (with StartTLS) and ldaps, host:port
	URL, TLSURL        string
	Base, People       string // suffix, and ou=people below it
	AdminDN, AdminPass string
	ReaderDN, ReadPass string // for searches without a size limit
	MoverDN, MoverPass string
	CA                 *CA
	d                  *daemon
}

// StartSlapd starts OpenLDAP with an mdb database in a temporary directory,
// with the schemas core, cosine, inetorgperson and misc (mailHost,
// mailLocalAddress of inetLocalMailRecipient) and the syncrepl provider.
func StartSlapd(t testing.TB, o SlapdOptions) *Slapd {
	t.Helper()
	Require(t, "slapd")
	base := o.Base
	if base == "" {
		base = "dc=example,dc=org"
	}
	s := &Slapd{
		Addr: freeAddr(t), TLSAddr: freeAddr(t), Base: base, People: "ou=people," + base,
		AdminDN: "cn=admin," + base, AdminPass: "adminpass",
		ReaderDN: "cn=mailferry," + base, ReadPass: "readpass",
		MoverDN: "cn=mover," + base, MoverPass: "movepass",
		CA: certOf(t, o.CA),
	}
	s.URL, s.TLSURL = "ldap://"+s.Addr, "ldaps://localhost:"+port(s.TLSAddr)
	dir := tempDir(t, "", "slapd")
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	bin, _ := program("slapd")
	s.d = &daemon{name: "slapd", dir: dir, addr: []string{s.Addr, s.TLSAddr}, argv: []string{
		bin, "-d", "0", "-f", write(t, s.conf(dir, o.Extra), dir, "slapd.conf"),
		"-h", "ldap://" + s.Addr + "/ ldaps://" + s.TLSAddr + "/"}}
	s.d.run(t)
	s.addBase(t)
	s.AddUsers(t, o.Users...)
	return s
}

func (s *Slapd) conf(dir, extra string) string {
	return strings.NewReplacer("{dir}", dir, "{base}", s.Base, "{ca}", s.CA.Cert, "{cert}", s.CA.Server,
		"{key}", s.CA.Key, "{admin}", s.AdminDN, "{adminpass}", s.AdminPass, "{reader}", s.ReaderDN,
		"{mover}", s.MoverDN, "{extra}", extra).Replace(slapdConf)
}

const slapdConf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/misc.schema
pidfile {dir}/slapd.pid
argsfile {dir}/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload syncprov
loglevel none
threads 4
sizelimit 500
TLSCACertificateFile {ca}
TLSCertificateFile {cert}
TLSCertificateKeyFile {key}
database mdb
suffix "{base}"
rootdn "{admin}"
rootpw {adminpass}
directory {dir}/db
maxsize 268435456
dbnosync
index objectClass,mail,uid,mailHost,mailLocalAddress eq
index entryCSN,entryUUID eq
limits dn.exact="{reader}" size=unlimited time=unlimited
access to attrs=userPassword by dn.exact="{mover}" read by anonymous auth by self write by * none
access to * by dn.exact="{mover}" write by * read
{extra}
overlay syncprov
`

// addBase makes the suffix, ou=people, and the entries that bind.
func (s *Slapd) addBase(t testing.TB) {
	t.Helper()
	c := s.Dial(t)
	defer c.Close()
	rdn, _, _ := strings.Cut(s.Base, ",")
	_, dc, _ := strings.Cut(rdn, "=")
	add := func(dn string, attrs map[string][]string) {
		t.Helper()
		r := ldap.NewAddRequest(dn, nil)
		for k, v := range attrs {
			r.Attribute(k, v)
		}
		if err := c.Add(r); err != nil {
			t.Fatalf("slapd: add %s: %v", dn, err)
		}
	}
	add(s.Base, map[string][]string{"objectClass": {"dcObject", "organization"}, "o": {"example"}, "dc": {dc}})
	add(s.People, map[string][]string{"objectClass": {"organizationalUnit"}, "ou": {"people"}})
	for dn, pass := range map[string]string{s.ReaderDN: s.ReadPass, s.MoverDN: s.MoverPass} {
		rdn, _, _ := strings.Cut(dn, ",")
		add(dn, map[string][]string{"objectClass": {"organizationalRole", "simpleSecurityObject"},
			"cn": {strings.TrimPrefix(rdn, "cn=")}, "userPassword": {pass}})
	}
}

// Dial returns a connection bound as the administrator; the caller closes it.
func (s *Slapd) Dial(t testing.TB) *ldap.Conn {
	t.Helper()
	c, err := ldap.DialURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Bind(s.AdminDN, s.AdminPass); err != nil {
		t.Fatal(err)
	}
	return c
}

// Client is the TLS configuration with which this server is trusted.
func (s *Slapd) Client() *tls.Config { return s.CA.Client() }

// UserDN is the name of a user's entry.
func (s *Slapd) UserDN(uid string) string {
	return fmt.Sprintf("uid=%s,%s", ldap.EscapeDN(uid), s.People)
}

// AddUsers adds entries below ou=people.
func (s *Slapd) AddUsers(t testing.TB, users ...LDAPUser) {
	t.Helper()
	c := s.Dial(t)
	defer c.Close()
	for _, u := range users {
		r := ldap.NewAddRequest(s.UserDN(u.UID), nil)
		classes := []string{"inetOrgPerson", "inetLocalMailRecipient"}
		r.Attribute("objectClass", classes)
		r.Attribute("uid", []string{u.UID})
		r.Attribute("cn", []string{u.UID})
		r.Attribute("sn", []string{u.UID})
		r.Attribute("mail", []string{orString(u.Mail, u.UID+"@example.org")})
		r.Attribute("userPassword", []string{orString(u.Password, "secret")})
		if u.MailHost != "" {
			r.Attribute("mailHost", []string{u.MailHost})
		}
		for k, v := range u.Attrs {
			r.Attribute(k, v)
		}
		if err := c.Add(r); err != nil {
			t.Fatalf("slapd: add %s: %v", u.UID, err)
		}
	}
}

// Attr returns the values of one attribute of a user.
func (s *Slapd) Attr(t testing.TB, uid, attr string) []string {
	t.Helper()
	c := s.Dial(t)
	defer c.Close()
	res, err := c.Search(ldap.NewSearchRequest(s.UserDN(uid), ldap.ScopeBaseObject, ldap.NeverDerefAliases,
		1, 0, false, "(objectClass=*)", []string{attr}, nil))
	if err != nil {
		t.Fatalf("slapd: read %s: %v", uid, err)
	}
	return res.Entries[0].GetAttributeValues(attr)
}

// MailHost returns the store that the directory names for a user.
func (s *Slapd) MailHost(t testing.TB, uid string) string {
	t.Helper()
	return strings.Join(s.Attr(t, uid, "mailHost"), " ")
}

// SetAttr replaces the values of one attribute of a user; without values it
// removes the attribute.
func (s *Slapd) SetAttr(t testing.TB, uid, attr string, values ...string) {
	t.Helper()
	c := s.Dial(t)
	defer c.Close()
	r := ldap.NewModifyRequest(s.UserDN(uid), nil)
	r.Replace(attr, values)
	if err := c.Modify(r); err != nil {
		t.Fatalf("slapd: modify %s: %v", uid, err)
	}
}

// Pid is the server's process.
func (s *Slapd) Pid() int { return s.d.pid() }

// Log returns the end of what the server wrote.
func (s *Slapd) Log() string { return tail(s.d.out, 64<<10) }

// Stop ends the server; Start runs it again with the same data and ports.
func (s *Slapd) Stop() { s.d.stop() }

// Start runs a stopped server again.
func (s *Slapd) Start(t testing.TB) { t.Helper(); s.d.start(t) }

func orString(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
