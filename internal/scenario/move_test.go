package scenario

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// TestUsersMoveWhileConnected is the promise: twenty users with real mail move
// from three old stores to ours, four at a time, while each waits in one
// session and works in another, and mail arrives. Nobody can tell.
func TestUsersMoveWhileConnected(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	f := newFarm(t, 20, 300)
	n := newNode(t, f)
	clients := newClients(t, f, n)
	clients.syncAll(t)

	quiet := []string{"u05", "u07", "u14", "u20"} // of each store, some with real clients
	l := startLife(t, f, n, lifeOptions{quiet: quiet})
	l.mail.Await(t, 32)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, errs, code := n.run(ctx, append([]string{"migrate", "--to", "home", "--parallel", "4"}, f.users()...)...)
	t.Logf("migrate:\n%s%s", out, errs)
	if code != 0 {
		t.Fatalf("migrate ended with %d", code)
	}
	l.mail.Await(t, l.mail.Acked()+32)
	r := l.stop()
	t.Log(r)

	flipped := f.certificates(t, n, false)
	r.check(t)
	r.checkHeard(t, flipped)
	f.checkDirectory(t)
	f.checkMail(t, n, r, flipped, quiet)
	clients.checkNothingFetchedAgain(t, quiet)
	ps := r.pauses(flipped)
	t.Logf("longest pause that a reading session saw around its flip: p50 %v, p99 %v", mailtest.Percentile(ps, 50), mailtest.Percentile(ps, 99))
}

// certificate is what the tests read of a move's proof.
type certificate struct {
	User    string    `json:"user"`
	Level   string    `json:"level"`
	Grade   string    `json:"grade"`
	Flipped time.Time `json:"flipped"`
	Pause   *struct {
		Sessions, Attached, Resumed, Closed int
		Reasons                             []string
		P50, P99                            time.Duration
	} `json:"pause"`
}

// certificates fails for a move whose proof is not clean, or that closed a
// session of a node that was not killed, and returns when each user was flipped.
func (f *farm) certificates(t *testing.T, n *node, killed bool) map[string]time.Time {
	t.Helper()
	flipped := map[string]time.Time{}
	for _, u := range f.users() {
		out, errs, code := n.run(t.Context(), "migrate", "report", u, "--json")
		var c certificate
		if err := json.Unmarshal([]byte(out), &c); code != 0 || err != nil {
			t.Fatalf("no certificate of %s: exit code %d, %v\n%s%s", u, code, err, out, errs)
		}
		switch {
		case c.Grade != "perfect" || c.Level != "compared":
			t.Errorf("the certificate of %s is not clean: %s", u, out)
		case !killed && (c.Pause == nil || c.Pause.Closed > 0):
			t.Errorf("sessions of %s were closed: %s", u, out)
		case c.Flipped.IsZero():
			t.Errorf("the certificate of %s does not say when it was flipped: %s", u, out)
		}
		flipped[u] = c.Flipped
	}
	return flipped
}

// checkDirectory fails for users whose directory entry names another store.
func (f *farm) checkDirectory(t *testing.T) {
	t.Helper()
	for _, u := range f.users() {
		if at := f.ldap.MailHost(t, u); at != "home" {
			t.Errorf("the directory says that %s lives on %q", u, at)
		}
	}
}

// checkMail compares each user's frozen old mailboxes with the new ones.
func (f *farm) checkMail(t *testing.T, n *node, r record, flipped map[string]time.Time, quiet []string) {
	t.Helper()
	for _, s := range f.stores {
		old, oldFile := f.snapshot(t, s.name+"-frozen", s.access()...)
		access := s.access()
		access[1] = n.imap
		now, nowFile := f.snapshot(t, s.name+"-moved", append(access[:4:4], "-pass", password)...)
		for _, u := range s.users {
			ids := messageIDs(t, n, u)
			for _, d := range r.explain(u, flipped[u], differences(old[u], now[u]), ids) {
				t.Errorf("%s from %s: %s", u, s.name, d)
			}
			found := map[string]int{}
			for _, id := range ids {
				found[id]++
			}
			for _, fault := range mailtest.DeliveryFaults(r.deliveries(u), found) {
				t.Error(fault)
			}
		}
		f.checkQuiet(t, n, s, quiet, oldFile, nowFile)
	}
}

// checkQuiet has the judge compare those users who wrote nothing: not the
// least may differ.
func (f *farm) checkQuiet(t *testing.T, n *node, s *oldStore, quiet []string, oldFile, nowFile string) {
	t.Helper()
	mine := slices.DeleteFunc(slices.Clone(s.users), func(u string) bool { return !slices.Contains(quiet, u) })
	if len(mine) == 0 {
		return
	}
	want, got := f.only(t, oldFile, mine), f.only(t, nowFile, mine)
	v, text := f.verify(t, want, got)
	if !v.same() || s.kind == "dovecot" && !v.Exact {
		t.Errorf("%v, who wrote nothing, moved from %s with differences: %s", mine, s.name, text)
	}
	args := append([]string{"verify", "--from", s.name, "--to", "home", "--bodies", "100"}, mine...)
	if out, errs, code := n.run(t.Context(), args...); code != 0 {
		t.Errorf("verify of %v, who wrote nothing, ends with %d:\n%s%s", mine, code, out, errs)
	}
}

var (
	fetchedUID = regexp.MustCompile(`\bUID (\d+)`)
	fetchedID  = regexp.MustCompile(`(?i)Message-ID:[ \t]*(?:\r\n[ \t]+)?(<[^>\r\n]*>)`)
)

// messageIDs are the Message-IDs in a user's INBOX by UID.
func messageIDs(t *testing.T, n *node, user string) map[uint32]string {
	t.Helper()
	c := mailtest.DialIMAP(t, n.imap)
	defer c.Close()
	c.Login(user, password)
	c.Cmd("EXAMINE INBOX")
	ids := map[uint32]string{}
	for _, line := range c.Cmd("UID FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])") {
		uid, id := fetchedUID.FindStringSubmatch(line), fetchedID.FindStringSubmatch(line)
		if uid == nil || id == nil {
			continue
		}
		k, err := strconv.ParseUint(uid[1], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		ids[uint32(k)] = id[1]
	}
	return ids
}
