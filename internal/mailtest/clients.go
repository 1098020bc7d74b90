package mailtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Account tells a real client where its mail is.
type Account struct {
	Addr     string // IMAP, host:port
	CA       *CA    // implicit TLS, verified with this authority; nil: clear text
	User     string
	Password string
}

// clientLimit bounds one run of a client.
const clientLimit = 5 * time.Minute

// MailClient is mbsync or offlineimap with a local copy of an account, which
// it brings up to date with each Run.
type MailClient struct {
	Name  string
	Local string // Maildir tree; a folder's name is its path

	argv []string
	env  []string
}

// NewMbsync sets up mbsync for all folders of an account, in both directions,
// without expunging.
func NewMbsync(t testing.TB, a Account) *MailClient {
	t.Helper()
	Require(t, "mbsync")
	dir := t.TempDir()
	m := &MailClient{Name: "mbsync", Local: filepath.Join(dir, "mail")}
	makeDir(t, m.Local)
	host, tls := "127.0.0.1", "SSLType None"
	if a.CA != nil {
		host, tls = "localhost", "SSLType IMAPS\nCertificateFile "+a.CA.Cert
	}
	rc := fmt.Sprintf(mbsyncConf, host, port(a.Addr), a.User, a.Password, tls, m.Local, dir)
	m.argv = []string{"mbsync", "-c", write(t, rc, dir, "rc"), "-a"}
	return m
}

const mbsyncConf = `IMAPAccount far
Host %s
Port %s
User %s
Pass %s
%s
AuthMechs LOGIN
Timeout 120

IMAPStore far
Account far

MaildirStore near
Path %[6]s/
Inbox %[6]s/INBOX
SubFolders Verbatim

Channel c
Far :far:
Near :near:
Patterns *
Create Near
Remove None
Expunge None
CopyArrivalDate yes
SyncState %[7]s/
`

// NewOfflineIMAP sets up offlineimap for all folders of an account.
func NewOfflineIMAP(t testing.TB, a Account) *MailClient {
	t.Helper()
	Require(t, "offlineimap")
	dir := t.TempDir()
	m := &MailClient{Name: "offlineimap", Local: filepath.Join(dir, "mail"), env: []string{"HOME=" + dir}}
	makeDir(t, m.Local)
	host, tls := "127.0.0.1", "ssl = no\nstarttls = no"
	if a.CA != nil {
		host, tls = "localhost", "ssl = yes\nsslcacertfile = "+a.CA.Cert
	}
	rc := fmt.Sprintf(offlineConf, dir, m.Local, host, port(a.Addr), a.User, a.Password, tls)
	m.argv = []string{"offlineimap", "-c", write(t, rc, dir, "rc"), "-o", "-u", "basic"}
	return m
}

const offlineConf = `[general]
metadata = %s/meta
accounts = a
maxsyncaccounts = 1
[Account a]
localrepository = l
remoterepository = r
[Repository l]
type = Maildir
localfolders = %s
sep = /
[Repository r]
type = IMAP
remotehost = %s
remoteport = %s
remoteuser = %s
remotepass = %s
%s
auth_mechanisms = PLAIN, LOGIN
maxconnections = 2
expunge = no
`

// Synced is what a run of a client did to its local copy.
type Synced struct {
	Messages int // in the local copy
	New      int // files that were not there before the run
	Gone     int
	Output   string
}

// Run brings the local copy up to date and fails the test when the client
// reports an error.
func (m *MailClient) Run(t testing.TB) Synced {
	t.Helper()
	before := m.messages(t)
	out, err := run(m.env, "", m.argv...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", m.Name, err, out)
	}
	after := m.messages(t)
	s := Synced{Output: out, Messages: len(after)}
	for name := range after {
		if _, ok := before[name]; !ok {
			s.New++
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			s.Gone++
		}
	}
	return s
}

// Digests counts the local messages of each folder by the SHA-256 of their
// octets with LF line ends, without headers that the clients add.
func (m *MailClient) Digests(t testing.TB) map[string]map[[sha256.Size]byte]int {
	t.Helper()
	all := map[string]map[[sha256.Size]byte]int{}
	for _, path := range m.messages(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		folder, _ := filepath.Rel(m.Local, filepath.Dir(filepath.Dir(path)))
		if all[folder] == nil {
			all[folder] = map[[sha256.Size]byte]int{}
		}
		all[folder][sha256.Sum256([]byte(withoutClientHeaders(string(b))))]++
	}
	return all
}

func withoutClientHeaders(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	header, body, _ := strings.Cut(s, "\n\n")
	var keep []string
	for line := range strings.SplitSeq(header, "\n") {
		if !strings.HasPrefix(line, "X-TUID:") && !strings.HasPrefix(line, "X-OfflineIMAP:") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "\n") + "\n\n" + body
}

// messages maps folder and unique name of each local message to its file.
func (m *MailClient) messages(t testing.TB) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(m.Local, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if sub := filepath.Base(filepath.Dir(path)); sub != "cur" && sub != "new" {
			return nil
		}
		name, _, _ := strings.Cut(e.Name(), ":")
		name, _, _ = strings.Cut(name, ",") // U= and FMD5= follow
		files[filepath.Dir(filepath.Dir(path))+"/"+name] = path
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Curl runs curl and returns what it writes; the authority, when there is
// one, is the only one it trusts. Errors fail the test.
func Curl(t testing.TB, ca *CA, args ...string) string {
	t.Helper()
	Require(t, "curl")
	argv := []string{"curl", "-sS", "--max-time", "60"}
	if ca != nil {
		argv = append(argv, "--cacert", ca.Cert)
	}
	out, err := run(nil, "", append(argv, args...)...)
	if err != nil {
		t.Fatalf("curl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// MuttRead opens an account's INBOX with mutt on a terminal of its own, copies
// all messages to a local mailbox, and returns that mailbox (mbox format).
func MuttRead(t testing.TB, a Account) string {
	t.Helper()
	Require(t, "mutt", "script")
	dir := t.TempDir()
	box := filepath.Join(dir, "box")
	scheme, host := "imap", "127.0.0.1"
	rc := "set ssl_starttls=no\nset ssl_force_tls=no\n"
	if a.CA != nil {
		scheme, host = "imaps", "localhost"
		rc = "set certificate_file=" + a.CA.Cert + "\nset ssl_verify_host=yes\n"
	}
	rc += fmt.Sprintf(`set imap_user="%s" imap_pass="%s" imap_authenticators="login:plain"
set folder="" spoolfile="%s://%s:%s/INBOX" mbox_type=mbox confirmappend=no confirmcreate=no copy=no delete=no
set move=no mark_old=no wait_key=no quit=yes imap_passive=yes timeout=5 sleep_time=0 auto_tag=yes record="" header_cache=""
push "<tag-pattern>~A<enter><tag-prefix><copy-message>%s<enter><quit>"
`, a.User, a.Password, scheme, host, port(a.Addr), box)
	out, err := run([]string{"TERM=xterm", "HOME=" + dir}, "", "script", "-qec",
		"mutt -n -F "+write(t, rc, dir, "rc"), "/dev/null")
	if err != nil {
		t.Fatalf("mutt: %v\n%s", err, out)
	}
	b, err := os.ReadFile(box)
	if err != nil {
		t.Fatalf("mutt copied nothing: %v\n%s", err, out)
	}
	return string(b)
}

// MuttSend sends a message by mutt in batch mode over a submission server, for
// example smtp://anna:secret@127.0.0.1:1587/.
func MuttSend(t testing.TB, ca *CA, smtpURL, from, to, subject, body string) {
	t.Helper()
	Require(t, "mutt")
	dir := t.TempDir()
	rc := fmt.Sprintf("set smtp_url=\"%s\" from=\"%s\" use_from=yes use_envelope_from=yes record=\"\" copy=no\n", smtpURL, from)
	if ca != nil {
		rc += "set ssl_starttls=yes ssl_force_tls=yes certificate_file=" + ca.Cert + "\n"
	} else {
		rc += "set ssl_starttls=no ssl_force_tls=no\n"
	}
	out, err := run([]string{"HOME=" + dir}, body, "mutt", "-n", "-F", write(t, rc, dir, "rc"), "-s", subject, "--", to)
	if err != nil {
		t.Fatalf("mutt: %v\n%s", err, out)
	}
}

// run runs a client to its end.
func run(env []string, input string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), clientLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func makeDir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}
