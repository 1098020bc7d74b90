package scenario

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// TestPOP3UsersMove: users of POP3 move from Dovecot, Cyrus and Courier while
// they poll. Unique ids and order never change, and fetchmail and getmail, with
// what they remember from before, fetch no message again: our store counts.
func TestPOP3UsersMove(t *testing.T) {
	if testing.Short() {
		t.Skip("starts four servers")
	}
	mailtest.Require(t, "slapd", "dovecot", "cyrus", "courier", "corpus", "fetchmail", "getmail")
	f := &farm{dir: t.TempDir(), seed: mailtest.Mailseed(t)}
	f.stores = []*oldStore{
		newDovecot(t, "old1", []string{"p01"}),
		newCyrus(t, "old2", []string{"p02"}, mailtest.CyrusOptions{}),
		newCourier(t, "old3", []string{"p03"}),
	}
	f.ldap = mailtest.StartSlapd(t, mailtest.SlapdOptions{})
	for _, s := range f.stores {
		f.ldap.AddUsers(t, mailtest.LDAPUser{UID: s.users[0], Mail: s.users[0] + "@" + domain, Password: password, MailHost: s.name})
		if s.kind == "courier" {
			s.append(t, 6)
			continue
		}
		f.fill(t, s, 24)
	}
	n := newNode(t, f)
	var all []*popUser
	for _, u := range f.users() {
		all = append(all, newPOPUser(t, n, u))
	}
	stop := make(chan struct{})
	var polls sync.WaitGroup
	for _, u := range all {
		polls.Go(func() { u.poll(stop) })
	}
	out, errs, code := n.run(t.Context(), "migrate", "--to", "home", "--users", f.passwords(t))
	close(stop)
	polls.Wait()
	t.Logf("migrate:\n%s%s", out, errs)
	if code != 0 {
		t.Fatalf("migrate ended with %d", code)
	}
	for _, u := range all {
		u.check(t)
	}
	if c := n.counter(t, "mailferry_pop3_messages_retrieved_total"); c != 0 {
		t.Errorf("our store gave out %d messages by POP3", c)
	}
	f.checkDirectory(t)
}

// append files mail one by one, in the plainest way: mailseed sends more at once
// than Courier takes.
func (s *oldStore) append(t *testing.T, n int) {
	t.Helper()
	for _, u := range s.users {
		c := mailtest.DialIMAP(t, s.imap)
		c.Login(u, password)
		for i := range n {
			text := fmt.Sprintf("Received: by x; Fri, 27 Nov 2026 10:00:00 +0000\r\nFrom: a@example.org\r\nSubject: %d\r\nMessage-Id: <%d@x>\r\n\r\n%s\r\n",
				i, i, strings.Repeat("text ", i%7))
			c.Append("INBOX", []string{"", `\Seen`, `\Flagged`}[i%3], time.Time{}, []byte(text))
		}
		c.Cmd("SELECT INBOX")
		c.Cmd(`STORE 2:3 +FLAGS.SILENT (\Deleted)`)
		c.Cmd("EXPUNGE")
		c.Close()
	}
}

// passwords is a file of all users with their passwords.
func (f *farm) passwords(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("user,password\n")
	for _, s := range f.stores {
		for _, u := range s.users {
			own := ""
			if s.kind == "courier" {
				own = password
			}
			fmt.Fprintf(&b, "%s,%s\n", u, own)
		}
	}
	path := filepath.Join(f.dir, "users.csv")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// popUser has clients that leave mail on the server, a session of IMAP that
// waits, and a loop that lists ids.
type popUser struct {
	node    *node
	name    string
	getmail *mailtest.GetmailClient // of one of them
	home    string                  // of fetchmail
	imap    *mailtest.IMAPConn
	first   []string // the ids before

	polls  int
	faults []string
}

func newPOPUser(t *testing.T, n *node, name string) *popUser {
	t.Helper()
	u := &popUser{node: n, name: name, home: t.TempDir()}
	if name == "p03" { // it forks for each message, and loses a child now and then for a minute: few messages
		u.getmail = mailtest.NewGetmail(t, "POP3", mailtest.Account{Addr: n.pop3, User: name, Password: password}, false)
	}
	_, port, _ := net.SplitHostPort(n.pop3)
	rc := fmt.Sprintf("poll 127.0.0.1 protocol pop3 port %s uidl user %q password %q keep sslproto '' no rewrite mda \"cat >> %s/box\"\n",
		port, name, password, u.home)
	if err := os.WriteFile(filepath.Join(u.home, "rc"), []byte(rc), 0o600); err != nil {
		t.Fatal(err)
	}
	u.imap = mailtest.DialIMAP(t, n.imap)
	u.imap.Login(name, password)
	u.imap.Cmd("SELECT INBOX")
	var err error
	if u.first, err = u.list(); err != nil || len(u.first) < 3 {
		t.Fatalf("%s: %d messages, %v", name, len(u.first), err)
	}
	fetched := []string{u.fetchmail(t)}
	if u.getmail != nil {
		fetched = append(fetched, u.getmail.Run(t).Got)
	}
	for i, got := range fetched {
		if have := strings.Count("\n"+got, "\nFrom ") + strings.Count("\n"+got, "\nReceived: "); have < len(u.first) {
			t.Fatalf("client %d of %s has fetched %d octets for %d messages", i, name, len(got), len(u.first))
		}
	}
	return u
}

// fetchmail runs and returns what it has got so far. It ends with 1 when there
// is nothing new.
func (u *popUser) fetchmail(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "fetchmail", "-f", filepath.Join(u.home, "rc"), "-i", filepath.Join(u.home, "ids"),
		"--pidfile", filepath.Join(u.home, "pid"), "-N")
	cmd.Env = append(os.Environ(), "HOME="+u.home, "FETCHMAILHOME="+u.home, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("fetchmail of %s: %v\n%s", u.name, err, out)
	}
	b, _ := os.ReadFile(filepath.Join(u.home, "box"))
	return string(b)
}

// list is one POP3 session.
func (u *popUser) list() (ids []string, err error) {
	c, err := net.DialTimeout("tcp", u.node.pop3, 10*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	in := bufio.NewReader(c)
	for _, cmd := range []string{"", "USER " + u.name, "PASS " + password, "UIDL"} {
		if cmd != "" {
			fmt.Fprintf(c, "%s\r\n", cmd)
		}
		l, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(l, "+OK") {
			return nil, fmt.Errorf("%.4s: %.80q, %w", cmd, l, err)
		}
	}
	for {
		l, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if l == ".\r\n" {
			break
		}
		_, id, _ := strings.Cut(strings.TrimSpace(l), " ")
		ids = append(ids, id)
	}
	fmt.Fprintf(c, "QUIT\r\n")
	_, err = in.ReadString('\n')
	return ids, err
}

// poll lists until stop. A login may be told to come again, and a session that
// lasts too long be ended; what is listed has to be what it was.
func (u *popUser) poll(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		ids, err := u.list()
		if err != nil && !strings.Contains(err.Error(), "[SYS/TEMP]") && !strings.Contains(err.Error(), "[IN-USE]") {
			u.faults = append(u.faults, err.Error())
		}
		if err == nil && !slices.Equal(ids, u.first) {
			u.faults = append(u.faults, fmt.Sprintf("ids %.300q, before %.300q", ids, u.first))
		}
		if u.polls++; len(u.faults) > 3 {
			return
		}
	}
}

// check runs the clients once more.
func (u *popUser) check(t *testing.T) {
	t.Helper()
	for _, f := range u.faults {
		t.Errorf("%s polls: %s", u.name, f)
	}
	ids, err := u.list()
	if err != nil || !slices.Equal(ids, u.first) {
		t.Errorf("%s: ids %.300q, %v; before %.300q", u.name, ids, err, u.first)
	}
	if u.getmail != nil { // what it fetches, our store counts
		u.getmail.Run(t)
	}
	u.fetchmail(t)
	u.imap.Cmd("NOOP") // on the connection from before
	out, errs, code := u.node.run(t.Context(), "migrate", "report", u.name, "--json")
	var c struct {
		Grade string
		Pause *struct{ Attached, Closed int }
		POP3  *struct {
			Form, Flipped       string
			Messages, Unmatched int
			Compared            bool
		}
	}
	if err := json.Unmarshal([]byte(out), &c); code != 0 || err != nil {
		t.Fatalf("no certificate of %s: %v\n%s%s", u.name, err, out, errs)
	}
	t.Logf("%s: %d polls, %+v, %+v, %s", u.name, u.polls, *c.POP3, *c.Pause, c.Grade)
	if c.POP3 == nil || !c.POP3.Compared || c.POP3.Flipped != "equal" || c.POP3.Messages != len(u.first) || c.Pause.Attached == 0 {
		t.Errorf("certificate of %s: %s", u.name, out)
	}
}
