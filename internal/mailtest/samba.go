package mailtest

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/sys/unix"
)

// SambaOptions describe an Active Directory domain.
type SambaOptions struct {
	Users  []SambaUser
	Groups []SambaGroup
	// LDIF is applied last, as the system: it may set what an administrator
	// cannot. {base} stands for the domain's DN.
	LDIF string
	// Plain allows passwords without TLS; a domain refuses them by default.
	Plain bool
}

// SambaUser is one user below CN=Users.
type SambaUser struct {
	Name     string // sAMAccountName and CN
	Password string // "": none; the account needs none then
	Attrs    map[string][]string
}

// SambaGroup is a global security group with members given by their CN.
type SambaGroup struct {
	Name    string
	Members []string
}

// Samba is a running domain controller, alone in a network namespace of its
// own, since its ports are fixed: only Dial reaches it. Passwords have no
// rules; three wrong ones lock an account.
type Samba struct {
	Realm, Domain      string // corp.example.org, CORP
	Base, People       string // the domain's DN, and CN=Users below it
	URL, TLSURL        string // what Dial understands
	AdminDN, AdminPass string
	CA                 *CA
	d                  *daemon
	dir                string
}

// StartSamba provisions a domain in a temporary directory and runs its
// controller with nothing but LDAP; that takes about 8 s.
func StartSamba(t testing.TB, o SambaOptions) *Samba {
	t.Helper()
	Require(t, "samba")
	s := &Samba{Realm: "corp.example.org", Domain: "CORP", Base: "DC=corp,DC=example,DC=org", URL: "ldap://127.0.0.1",
		TLSURL: "ldaps://127.0.0.1", AdminPass: "adminpass.1A", CA: NewCA(t), dir: tempDir(t, "", "samba")}
	s.People = "CN=Users," + s.Base
	s.AdminDN = "CN=Administrator," + s.People
	bin, _ := program("samba")
	s.d = &daemon{name: "samba", dir: s.dir, argv: []string{"unshare", "--net", "sh", "-c",
		`ip link set lo up && exec "$0" -i -M single -s "$1"`, bin, filepath.Join(s.dir, "run.conf")}}
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	s.provision(t, o)
	s.d.run(t)
	s.await(t)
	return s
}

// provision makes the domain's database and fills it.
func (s *Samba) provision(t testing.TB, o SambaOptions) {
	t.Helper()
	strong := "yes"
	if o.Plain {
		strong = "no"
	}
	write(t, strings.NewReplacer("{dir}", s.dir, "{realm}", s.Realm, "{domain}", s.Domain, "{strong}", strong,
		"{ca}", s.CA.Cert, "{cert}", s.CA.Server, "{key}", s.CA.Key).Replace(sambaConf), s.dir, "run.conf")
	write(t, strings.ReplaceAll(s.ldif(o), "{base}", s.Base), s.dir, "users.ldif")
	write(t, sambaSeed, s.dir, "seed.py")
	// samba refuses a key that others may read.
	key, err := os.ReadFile(s.CA.Key)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "key.pem"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	const script = `set -e; ip link set lo up; cd "$0"
		samba-tool domain provision --realm="$1" --domain="$2" --adminpass="$3" --server-role=dc --dns-backend=NONE \
			--targetdir="$0" --host-ip=127.0.0.1 --option="bind interfaces only=yes" --option="interfaces=lo"
		/usr/bin/python3 seed.py run.conf private/sam.ldb users.ldif`
	cmd := exec.Command("unshare", "--net", "sh", "-c", script, s.dir, strings.ToUpper(s.Realm), s.Domain, s.AdminPass)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("samba: provision: %v\n%s", err, out)
	}
}

const sambaConf = `[global]
netbios name = DC1
realm = {realm}
workgroup = {domain}
server role = active directory domain controller
server services = ldap
private dir = {dir}/private
state directory = {dir}/state
cache directory = {dir}/cache
lock directory = {dir}
pid directory = {dir}
ncalrpc dir = {dir}/ncalrpc
winbindd socket directory = {dir}/winbind
log file = {dir}/samba.log
bind interfaces only = yes
interfaces = lo
ldap server require strong auth = {strong}
tls enabled = yes
tls cafile = {ca}
tls certfile = {cert}
tls keyfile = {dir}/key.pem
`

// sambaSeed applies the LDIF in one transaction, as the system.
const sambaSeed = `import sys
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
lp = LoadParm()
lp.load(sys.argv[1])
db = SamDB(session_info=system_session(), lp=lp, url=sys.argv[2])
db.transaction_start()
for record in open(sys.argv[3]).read().split("\n\n"):
    if record.strip():
        (db.modify_ldif if "\nchangetype: modify" in record else db.add_ldif)(record.strip() + "\n\n")
db.transaction_commit()
`

// ldif is everything that is added to the fresh domain.
func (s *Samba) ldif(o SambaOptions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "dn: %s\nchangetype: modify\nreplace: minPwdLength\nminPwdLength: 1\n-\nreplace: minPwdAge\nminPwdAge: 0\n-\n"+
		"replace: pwdProperties\npwdProperties: 0\n-\nreplace: lockoutThreshold\nlockoutThreshold: 3\n\n", s.Base)
	for _, u := range o.Users {
		fmt.Fprintf(&b, "dn: %s\nobjectClass: user\nsAMAccountName: %s\n", s.DN(u.Name), u.Name)
		if _, set := u.Attrs["userAccountControl"]; !set {
			fmt.Fprintf(&b, "userAccountControl: %d\n", map[bool]int{true: 512, false: 544}[u.Password != ""])
		}
		if u.Password != "" {
			fmt.Fprintf(&b, "unicodePwd:: %s\n", base64.StdEncoding.EncodeToString([]byte(unicodePwd(u.Password))))
		}
		for attr, values := range u.Attrs {
			for _, v := range values {
				fmt.Fprintf(&b, "%s: %s\n", attr, v)
			}
		}
		b.WriteString("\n")
	}
	for _, g := range o.Groups {
		fmt.Fprintf(&b, "dn: %s\nobjectClass: group\nsAMAccountName: %s\n", s.DN(g.Name), g.Name)
		for _, m := range g.Members {
			fmt.Fprintf(&b, "member: %s\n", s.DN(m))
		}
		b.WriteString("\n")
	}
	return b.String() + o.LDIF
}

// unicodePwd is a password as the attribute of that name takes it.
func unicodePwd(p string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(`"` + p + `"`)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// await returns when the controller answers.
func (s *Samba) await(t testing.TB) {
	t.Helper()
	ready := waitFor(startLimit, func() bool {
		c, err := s.Dial(t.Context(), "tcp", "127.0.0.1:636")
		if err == nil {
			c.Close()
		}
		return err == nil || !s.d.alive()
	})
	if !ready || !s.d.alive() {
		t.Fatalf("samba does not answer:\n%s\n%s", tail(s.d.out, 4000), tail(filepath.Join(s.dir, "samba.log"), 4000))
	}
}

// Dial connects within the controller's namespace; the address must be an IP
// address. It fits where a dialer is an option.
func (s *Samba) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	ch := make(chan result, 1)
	go func() {
		// The thread changes its namespace, and back: if it ended with the
		// goroutine, so would every process that it started with a Pdeathsig.
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			ch <- result{nil, err}
			return
		}
		defer unix.Close(home)
		defer func() {
			if unix.Setns(home, unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", s.d.pid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			ch <- result{nil, fmt.Errorf("samba is down: %w", err)}
			return
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			ch <- result{nil, err}
			return
		}
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		ch <- result{c, err}
	}()
	r := <-ch
	return r.c, r.err
}

// Client is the TLS configuration with which this controller is trusted.
func (s *Samba) Client() *tls.Config { return s.CA.Client() }

// DN is the name of a user's or group's entry.
func (s *Samba) DN(cn string) string { return fmt.Sprintf("CN=%s,%s", ldap.EscapeDN(cn), s.People) }

// Admin returns a connection bound as the administrator; the caller closes it.
func (s *Samba) Admin(t testing.TB) *ldap.Conn {
	t.Helper()
	raw, err := s.Dial(t.Context(), "tcp", "127.0.0.1:636")
	if err != nil {
		t.Fatal(err)
	}
	conf := s.Client()
	conf.ServerName = "127.0.0.1"
	c := ldap.NewConn(tls.Client(raw, conf), true)
	c.Start()
	if err := c.Bind(s.AdminDN, s.AdminPass); err != nil {
		t.Fatalf("samba: bind as administrator: %v", err)
	}
	return c
}

// Add adds a user to the running domain.
func (s *Samba) Add(t testing.TB, u SambaUser) {
	t.Helper()
	c := s.Admin(t)
	defer c.Close()
	r := ldap.NewAddRequest(s.DN(u.Name), nil)
	r.Attribute("objectClass", []string{"user"})
	r.Attribute("sAMAccountName", []string{u.Name})
	r.Attribute("userAccountControl", []string{"544"})
	if u.Password != "" {
		r.Attribute("unicodePwd", []string{unicodePwd(u.Password)})
	}
	for k, v := range u.Attrs {
		r.Attribute(k, v)
	}
	if err := c.Add(r); err != nil {
		t.Fatalf("samba: add %s: %v", u.Name, err)
	}
}

// Delete removes a user or group.
func (s *Samba) Delete(t testing.TB, cn string) {
	t.Helper()
	c := s.Admin(t)
	defer c.Close()
	if err := c.Del(ldap.NewDelRequest(s.DN(cn), nil)); err != nil {
		t.Fatalf("samba: delete %s: %v", cn, err)
	}
}

// SetAttr replaces the values of one attribute of a user; without values it
// removes the attribute. The attribute password sets the password.
func (s *Samba) SetAttr(t testing.TB, cn, attr string, values ...string) {
	t.Helper()
	c := s.Admin(t)
	defer c.Close()
	if attr == "password" {
		attr, values = "unicodePwd", slices.Clone(values)
		values[0] = unicodePwd(values[0])
	}
	r := ldap.NewModifyRequest(s.DN(cn), nil)
	r.Replace(attr, values)
	if err := c.Modify(r); err != nil {
		t.Fatalf("samba: modify %s: %v", cn, err)
	}
}

// Stop ends the controller; Start runs it again with the same data.
func (s *Samba) Stop() { s.d.stop() }

// Start runs a stopped controller again.
func (s *Samba) Start(t testing.TB) { t.Helper(); s.d.start(t); s.await(t) }
