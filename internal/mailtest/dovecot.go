package mailtest

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// DovecotOptions describes a Dovecot. The zero value is a maildir store with
// the separator "/" and no prefix, in which every user exists.
type DovecotOptions struct {
	Separator      string            // default "/"
	Prefix         string            // e.g. "INBOX."
	Format         string            // maildir (default), sdbox or mdbox
	MasterUser     string            // default "master"; as user*master and as SASL PLAIN authzid
	MasterPassword string            // default "masterpass"
	Password       string            // of every user; default "secret"
	Users          map[string]string // when set only these exist, with these passwords
	UsernameFormat string            // auth_username_format; default "%Lu", "%Ln" drops the domain
	CA             *CA               // of its certificate; default a new one
	Extra          string            // more lines of dovecot.conf
}

// Dovecot is a running Dovecot 2.3. All addresses are host:port; IMAP, POP3
// and Sieve offer STARTTLS and take plain-text logins.
type Dovecot struct {
	IMAP, IMAPS, POP3, POP3S, LMTP, Sieve string

	Separator, Prefix          string
	MasterUser, MasterPassword string
	Password                   string
	CA                         *CA
	MailDir                    string // a directory per user below it

	conf string
	log  string
	d    *daemon
}

// markUser logs in to mark a place in the log.
const markUser = "mailferry.mark"

// mailUID owns the mail of every instance; it needs no name on the machine.
const mailUID = 5000

// StartDovecot starts a Dovecot in a temporary directory, with IMAP, POP3,
// LMTP (with Sieve) and ManageSieve, without fsync.
func StartDovecot(t testing.TB, o DovecotOptions) *Dovecot {
	t.Helper()
	Require(t, "dovecot")
	d := &Dovecot{
		IMAP: freeAddr(t), IMAPS: freeAddr(t), POP3: freeAddr(t), POP3S: freeAddr(t), LMTP: freeAddr(t), Sieve: freeAddr(t),
		Separator: orString(o.Separator, "/"), Prefix: o.Prefix, Password: orString(o.Password, "secret"),
		MasterUser: orString(o.MasterUser, "master"), MasterPassword: orString(o.MasterPassword, "masterpass"),
		CA: certOf(t, o.CA),
	}
	dir := tempDir(t, "", "dovecot")
	d.MailDir, d.log = filepath.Join(dir, "mail"), filepath.Join(dir, "log")
	if err := os.Mkdir(d.MailDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(d.MailDir, mailUID, mailUID); err != nil {
		t.Fatal(err)
	}
	write(t, d.MasterUser+":{PLAIN}"+d.MasterPassword+"\n", dir, "masters")
	write(t, passwdFile(o.Users), dir, "users")
	d.conf = write(t, d.config(dir, o), dir, "dovecot.conf")
	bin, _ := program("dovecot")
	d.d = &daemon{name: "dovecot", dir: dir, logs: []string{d.log}, argv: []string{bin, "-F", "-c", d.conf},
		addr: []string{d.IMAP, d.IMAPS, d.POP3, d.POP3S, d.LMTP, d.Sieve}}
	d.d.run(t)
	return d
}

func passwdFile(users map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:{PLAIN}nobody knows::::::\n", markUser)
	for _, u := range slices.Sorted(maps.Keys(users)) {
		fmt.Fprintf(&b, "%s:{PLAIN}%s::::::\n", u, users[u])
	}
	return b.String()
}

// Addr is the host and port of a protocol: imap imaps pop3 pop3s lmtp sieve.
func (d *Dovecot) Addr(protocol string) string {
	return map[string]string{"imap": d.IMAP, "imaps": d.IMAPS, "pop3": d.POP3,
		"pop3s": d.POP3S, "lmtp": d.LMTP, "sieve": d.Sieve}[protocol]
}

// Log returns what the server has logged.
func (d *Dovecot) Log() string { return tail(d.log, 1<<30) }

// Pid is the master process.
func (d *Dovecot) Pid() int { return d.d.pid() }

// Stop ends the server and all sessions; Start runs it again with the same
// mail and ports.
func (d *Dovecot) Stop() { d.d.stop() }

// Kill ends all its processes at once, without warning.
func (d *Dovecot) Kill() { d.d.kill() }

// Start runs a stopped server again. It removes lock files first, as an
// administrator does who knows that nobody holds them: for one that a killed
// process has not written its number into, Dovecot waits two minutes, in silence.
func (d *Dovecot) Start(t testing.TB) {
	t.Helper()
	_ = filepath.WalkDir(d.MailDir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, ".lock") {
			_ = os.Remove(path)
		}
		return nil
	})
	d.d.start(t)
}

// Forget removes a user's mail, in which no session may be open.
func (d *Dovecot) Forget(t testing.TB, user string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(d.MailDir, user)); err != nil {
		t.Fatal(err)
	}
}

// Doveadm runs doveadm against this instance and returns what it prints.
func (d *Dovecot) Doveadm(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("doveadm", append([]string{"-c", d.conf}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("doveadm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Fetched is what IMAP sessions took out of a store.
type Fetched struct {
	Sessions           int
	Headers, Bodies    int // messages of which headers only, or a body part, were sent
	HeaderBytes, Bytes int64
}

var (
	loginLine  = regexp.MustCompile(`imap-login: Info: Login: user=<([^>]*)>`)
	logoutLine = regexp.MustCompile(`imap\(([^)]*)\)<.*: Info: .* in=\d+ out=\d+ hdr_count=(\d+) hdr_bytes=(\d+) body_count=(\d+) body_bytes=(\d+)`)
)

// Fetched counts what a user's sessions have fetched since the server was
// first started. It waits until every session of the user has ended, because
// the server counts at the end of a session, and fails the test when one does
// not. A message fetched twice counts twice.
func (d *Dovecot) Fetched(t testing.TB, user string) Fetched {
	t.Helper()
	// All earlier logins are in the log when this one is.
	before, _ := parseFetched(d.Log(), markUser)
	c := DialIMAP(t, d.IMAP)
	c.Login(markUser+"*"+d.MasterUser, d.MasterPassword)
	c.Cmd("LOGOUT")
	c.Close()
	var f Fetched
	ended := waitFor(startLimit, func() bool {
		log := d.Log()
		mark, _ := parseFetched(log, markUser)
		var logins int
		f, logins = parseFetched(log, user)
		return mark.Sessions > before.Sessions && f.Sessions == logins
	})
	if !ended {
		t.Fatalf("dovecot: sessions of %s are still open", user)
	}
	return f
}

// FetchedSoFar is Fetched for the sessions that have ended by now.
func (d *Dovecot) FetchedSoFar(user string) Fetched {
	f, _ := parseFetched(d.Log(), user)
	return f
}

// parseFetched adds up the sessions that ended and counts the logins.
func parseFetched(log, user string) (f Fetched, logins int) {
	for line := range strings.Lines(log) {
		if m := loginLine.FindStringSubmatch(line); m != nil && m[1] == user {
			logins++
			continue
		}
		m := logoutLine.FindStringSubmatch(line)
		if m == nil || m[1] != user {
			continue
		}
		f.Sessions++
		n := func(i int) int64 { v, _ := strconv.ParseInt(m[i], 10, 64); return v }
		f.Headers += int(n(2))
		f.HeaderBytes += n(3)
		f.Bodies += int(n(4))
		f.Bytes += n(5)
	}
	return f, logins
}
