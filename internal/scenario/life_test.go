package scenario

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// life is what users do while they are moved: each has a session in IDLE and
// one that reads and flags, and mail arrives.
type life struct {
	quiet   []string // users who write nothing and get no mail
	killed  bool
	idle    map[string]*mailtest.Checker
	reading map[string]*mailtest.Checker
	mail    *mailtest.Deliverer
}

// lifeOptions say what the test allows.
type lifeOptions struct {
	quiet     []string
	reconnect bool // connections may be lost: the node is killed
}

// startLife lets everybody work through the proxy.
func startLife(t *testing.T, f *farm, n *node, o lifeOptions) *life {
	t.Helper()
	l := &life{quiet: o.quiet, killed: o.reconnect, idle: map[string]*mailtest.Checker{}, reading: map[string]*mailtest.Checker{}}
	var busy []string
	for i, u := range f.users() {
		quiet := slices.Contains(o.quiet, u)
		if !quiet {
			busy = append(busy, u+"@"+domain)
		}
		c := mailtest.CheckerOptions{Addr: n.imap, User: u, Password: password, NoExpunges: true,
			Reconnect: o.reconnect, Seed: uint64(i)}
		c.Name, c.Keyword = u+" idle", "$Idle" // a keyword belongs to one client
		l.idle[u] = mailtest.NewChecker(t, c)
		l.idle[u].Idle()
		c.Name, c.Keyword, c.ReadOnly, c.Interval = u+" reading", "$Read", quiet, 100*time.Millisecond
		l.reading[u] = mailtest.NewChecker(t, c)
		l.reading[u].ReadAndFlag()
	}
	l.mail = mailtest.StartDeliverer(t, mailtest.DelivererOptions{Addr: n.lmtp, Recipients: busy, PerSecond: 1, Mail: mailtest.Corpus(t)})
	return l
}

// record is what the drivers' journals say at the end.
type record struct {
	idle, reading map[string]*mailtest.Report
	mail          []mailtest.Delivery
	killed        bool // answers were lost: what was not acknowledged may have happened
}

// stop ends everybody's day and returns the journals.
func (l *life) stop() record {
	r := record{idle: map[string]*mailtest.Report{}, reading: map[string]*mailtest.Report{}, mail: l.mail.Stop(), killed: l.killed}
	for u, c := range l.idle {
		r.idle[u] = c.Stop()
	}
	for u, c := range l.reading {
		r.reading[u] = c.Stop()
	}
	return r
}

// check fails the test for everything that made no sense to a client, and for
// every session that was closed although the rules let it be attached.
func (r record) check(t *testing.T) {
	t.Helper()
	for _, reports := range []map[string]*mailtest.Report{r.idle, r.reading} {
		for _, report := range reports {
			report.Check(t)
			if report.Reconnects > 0 || len(report.Byes) > 0 {
				t.Errorf("%s was disconnected %d times: %q", report.Name, report.Reconnects, report.Byes)
			}
		}
	}
	for _, d := range r.mail {
		if d.Acked.IsZero() {
			t.Errorf("a delivery was never acknowledged: %+v", d)
		}
	}
}

// checkHeard fails for mail that a session in IDLE did not hear of, or, when it
// was delivered to our own store, heard of late.
func (r record) checkHeard(t *testing.T, flipped map[string]time.Time) {
	t.Helper()
	const late = 3 * time.Second // two cores also copy, compress and check meanwhile
	var delays []time.Duration
	for _, d := range r.mail {
		user := strings.TrimSuffix(d.Recipient, "@"+domain)
		report := r.idle[user]
		heard, ok := report.Heard(d.MessageID)
		switch {
		case !ok:
			t.Errorf("%s never heard of %s, delivered %v after its flip", report.Name, d.MessageID, d.Acked.Sub(flipped[user]))
		case d.Acked.After(flipped[user]):
			delays = append(delays, heard.Sub(d.Acked))
			if heard.Sub(d.Acked) > late {
				t.Errorf("%s heard of %s only %v after it was delivered", report.Name, d.MessageID, heard.Sub(d.Acked))
			}
		}
	}
	t.Logf("from delivery to IDLE at our store, of %d: p50 %v, p99 %v", len(delays), mailtest.Percentile(delays, 50), mailtest.Percentile(delays, 99))
}

// explain returns the differences of a user that no journal explains: each
// must be a write that was acknowledged after the flip.
func (r record) explain(user string, flip time.Time, ds []difference, ids map[uint32]string) []string {
	var left []string
	for _, d := range ds {
		switch {
		case d.what == changedFlags && r.flagged(user, flip, d):
		case d.what == newMessage && r.delivered(user, flip, ids[d.uid]):
		default:
			left = append(left, d.String())
		}
	}
	return left
}

func (r record) flagged(user string, flip time.Time, d difference) bool {
	for _, w := range r.reading[user].Writes {
		if w.Mailbox == d.folder && w.UID == d.uid && (w.Acked.After(flip) || r.killed && w.Acked.IsZero()) {
			return true
		}
	}
	return false
}

// delivered reports whether a message is a delivery, and was acknowledged
// after the flip.
func (r record) delivered(user string, flip time.Time, id string) bool {
	for _, d := range r.mail {
		if d.MessageID == id && strings.HasPrefix(d.Recipient, user+"@") {
			return d.Acked.After(flip)
		}
	}
	return false
}

// deliveries are one user's.
func (r record) deliveries(user string) []mailtest.Delivery {
	var mine []mailtest.Delivery
	for _, d := range r.mail {
		if d.Recipient == user+"@"+domain {
			mine = append(mine, d)
		}
	}
	return mine
}

// pauses are the longest pause of each session around its user's flip.
func (r record) pauses(flipped map[string]time.Time) []time.Duration {
	var ps []time.Duration
	for u, report := range r.reading {
		at := flipped[u]
		ps = append(ps, report.During(at.Add(-5*time.Second), at.Add(5*time.Second)).Took)
	}
	return ps
}

func (r record) String() string {
	writes := 0
	for _, report := range r.reading {
		writes += len(report.Acked())
	}
	return fmt.Sprintf("%d sessions, %d deliveries, %d flag changes", len(r.idle)+len(r.reading), len(r.mail), writes)
}
