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
// from four old stores to ours, four at a time, while each waits in one session
// and works in another, some use POP3 beside it, and mail arrives. Nobody can
// tell.
//
// Courier is asked for less than the others, because it has less: no modseqs,
// so that HIGHESTMODSEQ and MODSEQ begin with ours, and no UIDNEXT in SELECT, so
// that the old one is what STATUS says. Its POP3 makes ids of numbers of its own,
// for which there is no form: they have to be the same all the same.
func TestUsersMoveWhileConnected(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	f := newFarm(t, 20, 300)
	n := newNode(t, f)
	clients := newClients(t, f, n)
	clients.syncAll(t)

	quiet := []string{"u05", "u07", "u14", "u20"} // of each store, some with real clients
	drops := newPOPUsers(t, f, n, quiet, "u02", "u05", "u08", "u07", "u13", "u14", "u18", "u20")
	l := startLife(t, f, n, lifeOptions{quiet: quiet})
	drops.poll()
	l.mail.Await(t, 32)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f.migrate(ctx, t, n, f.users(), "--parallel", "4")
	l.mail.Await(t, l.mail.Acked()+32)
	drops.stop()
	r := l.stop()
	t.Log(r)

	certs := f.certificates(t, n, false)
	flipped := flips(certs)
	r.check(t)
	r.checkHeard(t, flipped)
	f.checkDirectory(t)
	f.checkMail(t, n, r, flipped, quiet)
	clients.checkNothingFetchedAgain(t, quiet)
	drops.check(t, certs)
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
		Hold, P50, P99                      time.Duration
	} `json:"pause"`
	POP3 *struct {
		Form, Flipped, Left string
		Messages, Unmatched int
		Compared            bool
	} `json:"pop3"`
}

// flips are the times at which users were flipped.
func flips(certs map[string]certificate) map[string]time.Time {
	at := map[string]time.Time{}
	for u, c := range certs {
		at[u] = c.Flipped
	}
	return at
}

// certificates fails for a move whose proof is not clean, or that closed a
// session of a node that was not killed.
func (f *farm) certificates(t *testing.T, n *node, killed bool) map[string]certificate {
	t.Helper()
	certs := map[string]certificate{}
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
		certs[u] = c
	}
	return certs
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
		if s.kind == "courier" {
			askNext(t, s.imap, old)
		}
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
	if s.kind == "courier" {
		v.UIDNext.Higher = 0 // the judge looks in SELECT; checkMail has asked STATUS
	}
	if !v.same() || s.kind == "dovecot" && !v.Exact {
		t.Errorf("%v, who wrote nothing, moved from %s with differences: %s", mine, s.name, text)
	}
	if out, errs, code := n.run(t.Context(), "verify", "--from", s.name, "--to", "home", "--bodies", "100", "--users", f.list(t, mine)); code != 0 {
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
