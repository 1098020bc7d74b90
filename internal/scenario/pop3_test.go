package scenario

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// popUsers are users who have POP3 clients that leave mail on the server, and
// who are logged in by POP3 most of the time.
type popUsers struct {
	node     *node
	all      []*popUser
	stopping chan struct{}
	polls    sync.WaitGroup
}

type popUser struct {
	node    *node
	name    string
	quiet   bool          // gets no mail
	between time.Duration // from one session to the next
	home    string        // of fetchmail
	getmail *mailtest.GetmailClient
	first   []string // the ids before

	sessions []popSession
	later    int // logins that were told to come again
	faults   []string
}

// popSession is one that ended as its client wanted.
type popSession struct{ in, out time.Time }

// newPOPUsers lets the clients of some users fetch what is there.
func newPOPUsers(t *testing.T, f *farm, n *node, quiet []string, names ...string) *popUsers {
	t.Helper()
	mailtest.Require(t, "fetchmail", "getmail")
	p := &popUsers{node: n, stopping: make(chan struct{})}
	for _, s := range f.stores {
		for _, u := range s.users {
			if !slices.Contains(names, u) {
				continue
			}
			user := &popUser{node: n, name: u, quiet: slices.Contains(quiet, u), home: t.TempDir()}
			if s.kind == "cyrus" { // it locks a maildrop, and the move has to see it, too
				user.between = 300 * time.Millisecond
			}
			if user.quiet {
				user.getmail = mailtest.NewGetmail(t, "POP3", mailtest.Account{Addr: n.pop3, User: u, Password: password}, false)
			}
			user.setUp(t)
			p.all = append(p.all, user)
		}
	}
	return p
}

func (u *popUser) setUp(t *testing.T) {
	t.Helper()
	_, port, _ := net.SplitHostPort(u.node.pop3)
	rc := fmt.Sprintf("poll 127.0.0.1 protocol pop3 port %s uidl user %q password %q keep sslproto '' no rewrite mda \"cat >> %s/box\"\n",
		port, u.name, password, u.home)
	if err := os.WriteFile(filepath.Join(u.home, "rc"), []byte(rc), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if u.first, err = u.session(0); err != nil || len(u.first) < 3 {
		t.Fatalf("%s: %d messages by POP3, %v", u.name, len(u.first), err)
	}
	if got := u.fetchmail(t); got < len(u.first) {
		t.Fatalf("fetchmail of %s has fetched %d of %d messages", u.name, got, len(u.first))
	}
	if u.getmail != nil {
		if got := strings.Count("\n"+u.getmail.Run(t).Got, "\nFrom "); got < len(u.first) {
			t.Fatalf("getmail of %s has fetched %d of %d messages", u.name, got, len(u.first))
		}
	}
}

// fetched is fetchmail's word for one message.
var fetched = regexp.MustCompile(`(?m)^reading message \S+ `)

// fetchmail runs and returns how many messages it has fetched. It ends with 1
// when there is nothing new.
func (u *popUser) fetchmail(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "fetchmail", "-v", "-f", filepath.Join(u.home, "rc"), "-i", filepath.Join(u.home, "ids"),
		"--pidfile", filepath.Join(u.home, "pid"), "-N")
	cmd.Env = append(os.Environ(), "HOME="+u.home, "FETCHMAILHOME="+u.home, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("fetchmail of %s: %v\n%s", u.name, err, out)
	}
	return len(fetched.FindAll(out, -1))
}

// poll begins sessions until stop.
func (p *popUsers) poll() {
	for _, u := range p.all {
		p.polls.Go(func() { u.poll(p.stopping) })
	}
}

func (p *popUsers) stop() {
	close(p.stopping)
	p.polls.Wait()
}

// poll has one session after the other. A login may be told to come again; a
// session that was let in is served to its end, and what it lists is what was
// there, in its order, with new mail behind it.
func (u *popUser) poll(stopping chan struct{}) {
	for {
		ids, err := u.session(300 * time.Millisecond)
		switch {
		case err == nil:
			u.compare(ids)
		case strings.Contains(err.Error(), "[SYS/TEMP]"), strings.Contains(err.Error(), "[IN-USE]"):
			u.later++
		default:
			u.faults = append(u.faults, err.Error())
		}
		pause := time.NewTimer(u.between)
		select {
		case <-stopping:
			pause.Stop()
			return
		case <-pause.C:
		}
		if len(u.faults) > 3 {
			return
		}
	}
}

func (u *popUser) compare(ids []string) {
	if u.quiet && len(ids) != len(u.first) || len(ids) < len(u.first) || !slices.Equal(ids[:len(u.first)], u.first) {
		u.faults = append(u.faults, fmt.Sprintf("ids %.300q, before %.300q", ids, u.first))
	}
}

// session lists ids, asks for the state until it has lasted so long, and quits.
func (u *popUser) session(lasts time.Duration) (ids []string, err error) {
	conn, err := net.DialTimeout("tcp", u.node.pop3, 10*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &popConn{conn, bufio.NewReader(conn)}
	for _, cmd := range []string{"", "USER " + u.name, "PASS " + password} {
		if err := c.say(cmd); err != nil {
			return nil, err
		}
	}
	s := popSession{in: time.Now()}
	if ids, err = c.list(); err != nil {
		return nil, err
	}
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for time.Since(s.in) < lasts {
		if err := c.say("STAT"); err != nil {
			return nil, fmt.Errorf("in a session: %w", err)
		}
		<-pace.C
	}
	s.out = time.Now()
	if err := c.say("QUIT"); err != nil {
		return nil, fmt.Errorf("at its end: %w", err)
	}
	u.sessions = append(u.sessions, s)
	return ids, nil
}

// popConn is a connection of POP3.
type popConn struct {
	net.Conn
	in *bufio.Reader
}

// say sends a command, empty: none, and wants success.
func (c *popConn) say(cmd string) error {
	if cmd != "" {
		fmt.Fprintf(c, "%s\r\n", cmd)
	}
	l, err := c.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(l, "+OK") {
		return fmt.Errorf("%.4s: %.80q, %w", cmd, l, err)
	}
	return nil
}

func (c *popConn) list() (ids []string, err error) {
	if err := c.say("UIDL"); err != nil {
		return nil, err
	}
	for {
		l, err := c.in.ReadString('\n')
		if err != nil || l == ".\r\n" {
			return ids, err
		}
		_, id, _ := strings.Cut(strings.TrimSpace(l), " ")
		ids = append(ids, id)
	}
}

// check runs the clients once more: they fetch what is new, and our store counts.
func (p *popUsers) check(t *testing.T, certs map[string]certificate) {
	t.Helper()
	if n := p.node.given(t); n != 0 {
		t.Errorf("our store gave out %d messages by POP3 before a client asked for one", n)
	}
	atHold := 0
	for _, u := range p.all {
		u.check(t, certs[u.name])
		c := certs[u.name]
		if began := c.Flipped.Add(-c.Pause.Hold); u.wasIn(began) {
			atHold++
		}
	}
	if atHold == 0 {
		t.Errorf("no user was logged in by POP3 when put on hold")
	}
	t.Logf("%d of %d users were logged in by POP3 when put on hold", atHold, len(p.all))
}

// wasIn reports whether a session of the user's was under way.
func (u *popUser) wasIn(at time.Time) bool {
	return slices.ContainsFunc(u.sessions, func(s popSession) bool { return s.in.Before(at) && s.out.After(at) })
}

func (u *popUser) check(t *testing.T, c certificate) {
	t.Helper()
	ids, err := u.session(0)
	if err != nil {
		t.Errorf("%s by POP3: %v", u.name, err)
	}
	u.compare(ids)
	for _, f := range u.faults {
		t.Errorf("%s by POP3: %s", u.name, f)
	}
	before := u.node.given(t)
	if got, given := u.fetchmail(t), u.node.given(t)-before; given != len(ids)-len(u.first) || got != given {
		t.Errorf("fetchmail of %s was given %d messages and has fetched %d; %d are new", u.name, given, got, len(ids)-len(u.first))
	}
	if u.getmail != nil {
		before = u.node.given(t)
		u.getmail.Run(t)
		if given := u.node.given(t) - before; given != 0 {
			t.Errorf("getmail of %s, who got no mail, was given %d messages", u.name, given)
		}
	}
	t.Logf("%s: %d messages by POP3 before, %d after; %d sessions, %d logins told to come again; %+v", u.name, len(u.first), len(ids),
		len(u.sessions), u.later, c.POP3)
	if c.POP3 == nil || !c.POP3.Compared || c.POP3.Flipped != "equal" || c.POP3.Unmatched != 0 || c.POP3.Messages < len(u.first) ||
		u.quiet && c.POP3.Messages != len(u.first) {
		t.Errorf("certificate of %s: %+v", u.name, c.POP3)
	}
}

// given is how many messages our store has given out by POP3, by RETR or TOP, as
// fetchmail does.
func (n *node) given(t *testing.T) int {
	t.Helper()
	sum := 0
	for _, m := range popGiven.FindAllSubmatch(n.metrics(t), -1) {
		sum += number(t, m[1])
	}
	return sum
}

var popGiven = regexp.MustCompile(`(?m)^mailferry_pop3_commands_total\{command="(?:RETR|TOP)",result="ok"\} (\d+)$`)
