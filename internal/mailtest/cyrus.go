package mailtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// CyrusOptions describes a Cyrus. The zero value has the netnews hierarchy:
// separator ".", everything below "INBOX.".
type CyrusOptions struct {
	UnixHierarchySep bool     // separator "/" instead of "."
	AltNamespace     bool     // personal folders beside INBOX, no prefix
	Users            []string // with their INBOXes; more by AddUsers
	Password         string   // of every user; default "secret"
	CA               *CA      // of its certificate; default a new one
	Extra            string   // more lines of imapd.conf
}

// Cyrus is a running Cyrus 3.6. IMAP takes plain-text logins and offers
// STARTTLS; Admin may log in as any user by SASL PLAIN authzid. LMTP takes
// bare names and addresses of any domain.
type Cyrus struct {
	IMAP, IMAPS, POP3, LMTP, Sieve string // host:port

	Separator, Prefix    string
	Admin, AdminPassword string
	Password             string
	CA                   *CA

	in string // its directory as seen inside the root
	d  *daemon
}

// CyrusRoot is the root directory in which Cyrus is installed.
func CyrusRoot() string { return envOr("CYRUS_ROOT", filepath.Join(cacheDir(), "cyrus")) }

// StartCyrus starts a Cyrus in a directory of its own below CyrusRoot. It
// offers IMAP, POP3, LMTP and ManageSieve.
func StartCyrus(t testing.TB, o CyrusOptions) *Cyrus {
	t.Helper()
	Require(t, "cyrus")
	c := &Cyrus{
		IMAP: freeAddr(t), IMAPS: freeAddr(t), POP3: freeAddr(t), LMTP: freeAddr(t), Sieve: freeAddr(t),
		Separator: ".", Prefix: "INBOX.", Admin: "cyrus", AdminPassword: "adminpass",
		Password: orString(o.Password, "secret"), CA: certOf(t, o.CA),
	}
	if o.UnixHierarchySep {
		c.Separator, c.Prefix = "/", "INBOX/"
	}
	if o.AltNamespace {
		c.Prefix = ""
	}
	dir := tempDir(t, filepath.Join(CyrusRoot(), "tmp"), "cyrus")
	c.in = strings.TrimPrefix(dir, strings.TrimSuffix(CyrusRoot(), "/"))
	for _, sub := range []string{"conf/db", "conf/log", "conf/msg", "conf/proc", "conf/quota",
		"conf/socket", "conf/user", "spool", "proc", "lock", "sock", "sieve"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.writeConfig(t, dir, o)
	c.setPasswords(t, c.AdminPassword, c.Admin)
	c.setPasswords(t, c.Password, o.Users...)
	c.inside(t, "", "chown", "-R", "cyrus:mail", c.in)
	c.d = &daemon{name: "cyrus", dir: dir, addr: []string{c.IMAP, c.IMAPS, c.POP3, c.LMTP, c.Sieve}, argv: []string{
		chroot(), CyrusRoot(), "/usr/lib/cyrus/bin/master", "-D", "-C", c.in + "/imapd.conf",
		"-M", c.in + "/cyrus.conf", "-p", c.in + "/master.pid", "-l", "1024"}}
	c.d.run(t)
	c.createInboxes(t, o.Users)
	return c
}

func (c *Cyrus) writeConfig(t testing.TB, dir string, o CyrusOptions) {
	t.Helper()
	cert, _ := os.ReadFile(c.CA.Server)
	key, _ := os.ReadFile(c.CA.Key)
	write(t, string(cert), dir, "cert.pem")
	write(t, string(key), dir, "key.pem")
	yes := map[bool]string{true: "yes", false: "no"}
	r := strings.NewReplacer("{in}", c.in, "{admin}", c.Admin, "{unix}", yes[o.UnixHierarchySep],
		"{alt}", yes[o.AltNamespace], "{extra}", o.Extra, "{imap}", c.IMAP, "{imaps}", c.IMAPS,
		"{pop3}", c.POP3, "{lmtp}", c.LMTP, "{sieve}", c.Sieve)
	write(t, r.Replace(cyrusImapdConf), dir, "imapd.conf")
	write(t, r.Replace(cyrusMasterConf), dir, "cyrus.conf")
}

const cyrusImapdConf = `configdirectory: {in}/conf
defaultpartition: default
partition-default: {in}/spool
proc_path: {in}/proc
mboxname_lockpath: {in}/lock
sievedir: {in}/sieve
lmtpsocket: {in}/sock/lmtp
idlesocket: {in}/sock/idle
notifysocket: {in}/sock/notify
servername: localhost
unixhierarchysep: {unix}
altnamespace: {alt}
virtdomains: off
conversations: 0
admins: {admin}
proxyservers: {admin}
allowplaintext: yes
sasl_mech_list: PLAIN LOGIN
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {in}/sasldb2
tls_server_cert: {in}/cert.pem
tls_server_key: {in}/key.pem
tls_sessions_db_path: {in}/conf/tls_sessions.db
lmtp_downcase_rcpt: yes
duplicatesuppression: no
specialusealways: 1
popminpoll: 0
poptimeout: 10
maxlogins_per_user: 0
maxlogins_per_host: 0
umask: 077
{extra}
`

const cyrusMasterConf = `START {
  recover cmd="/usr/sbin/cyrus ctl_cyrusdb -r -C {in}/imapd.conf"
  idled cmd="idled -C {in}/imapd.conf"
}
SERVICES {
  imap cmd="imapd -U 100 -C {in}/imapd.conf" listen="{imap}" proto="tcp4" prefork=1 maxchild=2000
  imaps cmd="imapd -s -U 100 -C {in}/imapd.conf" listen="{imaps}" proto="tcp4" prefork=0 maxchild=2000
  pop3 cmd="pop3d -U 100 -C {in}/imapd.conf" listen="{pop3}" proto="tcp4" prefork=0 maxchild=500
  lmtp cmd="lmtpd -a -C {in}/imapd.conf" listen="{lmtp}" proto="tcp4" prefork=0 maxchild=100
  sieve cmd="timsieved -C {in}/imapd.conf" listen="{sieve}" proto="tcp4" prefork=0 maxchild=100
}
EVENTS {
  checkpoint cmd="/usr/sbin/cyrus ctl_cyrusdb -c -C {in}/imapd.conf" period=30
}
`

// AddUsers makes users with their INBOXes.
func (c *Cyrus) AddUsers(t testing.TB, users ...string) {
	t.Helper()
	c.setPasswords(t, c.Password, users...)
	c.createInboxes(t, users)
}

func (c *Cyrus) setPasswords(t testing.TB, password string, users ...string) {
	t.Helper()
	const script = `f=$1 p=$2; shift 2; for u; do printf %s "$p" | saslpasswd2 -p -c -f "$f" -u localhost "$u" || exit 1; done; chown cyrus:mail "$f"`
	if len(users) > 0 {
		c.inside(t, "", append([]string{"sh", "-c", script, "sh", c.in + "/sasldb2", password}, users...)...)
	}
}

// Forget removes a user's mail, in which no session may be open, and makes a new
// INBOX.
func (c *Cyrus) Forget(t testing.TB, user string) {
	t.Helper()
	conn := DialIMAP(t, c.IMAP)
	defer conn.Close()
	conn.Login(c.Admin, c.AdminPassword)
	inbox := Quote("user" + c.Separator + user)
	conn.Cmd("SETACL %s %s lrswipkxtecda", inbox, c.Admin)
	conn.Cmd("DELETE %s", inbox)
	conn.Cmd("CREATE %s", inbox)
	conn.Cmd("LOGOUT")
}

// createInboxes is the administrator's part of a new user.
func (c *Cyrus) createInboxes(t testing.TB, users []string) {
	t.Helper()
	if len(users) == 0 {
		return
	}
	conn := DialIMAP(t, c.IMAP)
	defer conn.Close()
	conn.Login(c.Admin, c.AdminPassword)
	for _, u := range users {
		conn.Cmd("CREATE %s", Quote("user"+c.Separator+u))
	}
	conn.Cmd("LOGOUT")
}

// inside runs a program in Cyrus' root, with the input given.
func (c *Cyrus) inside(t testing.TB, input string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(chroot(), append([]string{CyrusRoot()}, argv...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH=/usr/lib/cyrus/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cyrus: %s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// Tool runs one of Cyrus' own programs against this instance, for example
// Tool(t, "reconstruct", "-r", "user.anna"), as the user cyrus.
func (c *Cyrus) Tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	argv := []string{"setpriv", "--reuid=cyrus", "--regid=mail", "--clear-groups", name, "-C", c.in + "/imapd.conf"}
	return c.inside(t, "", append(argv, args...)...)
}

// Log returns the end of what the master process wrote. Cyrus itself logs to
// syslog, which its root does not have.
func (c *Cyrus) Log() string { return tail(c.d.out, 64<<10) }

// Pid is the master process.
func (c *Cyrus) Pid() int { return c.d.pid() }

// Stop ends the server; Start runs it again with the same mail and ports.
func (c *Cyrus) Stop() { c.d.stop() }

// Kill ends all its processes at once, without warning.
func (c *Cyrus) Kill() { c.d.kill() }

// Start runs a stopped server again.
func (c *Cyrus) Start(t testing.TB) { t.Helper(); c.d.start(t) }

func chroot() string {
	p, err := program("chroot")
	if err != nil {
		return "/usr/sbin/chroot"
	}
	return p
}
