package remote

import (
	"context"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
)

const farCaps = "IMAP4rev1 NAMESPACE LIST-STATUS CONDSTORE"

// far knows a host that is far away.
func far() *Learned {
	return &Learned{way: mechPlain, caps: strings.Fields(farCaps), rtt: 40 * time.Millisecond}
}

// hastily logs in and surveys.
func hastily(t *testing.T, store *backend.Store, l *Learned) (*Account, error) {
	t.Helper()
	conn, err := DialIMAP(context.Background(), Target{Store: store, User: "anna", Password: "secret", Learned: l, Timeout: 100 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	c := NewClient(conn)
	defer c.Close()
	return c.Survey(context.Background())
}

// serveDovecot is serve of a kind of store that allows it.
func serveDovecot(t *testing.T, play func(*script)) *backend.Store {
	store := serve(t, play)
	store.Type = backend.StoreDovecot
	return store
}

func (s *script) greet() { s.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] ready") }

// answerSurvey answers the commands of a survey, whose tags these are.
func (s *script) answerSurvey(tags ...string) {
	s.send(`* LIST () "/" INBOX`, "* STATUS INBOX (MESSAGES 3 UIDNEXT 4 UIDVALIDITY 5 HIGHESTMODSEQ 6)", tags[0]+" OK done",
		`* LSUB () "/" Old`, tags[1]+" OK done", `* NAMESPACE (("" "/")) NIL NIL`, tags[2]+" OK done")
}

func (s *script) wantSurvey() []string {
	return []string{s.want(`LIST "" "*" RETURN (STATUS (MESSAGES UIDNEXT UIDVALIDITY HIGHESTMODSEQ))`), s.want("LSUB"), s.want("NAMESPACE")}
}

func wantAccount(t *testing.T, a *Account, err error) {
	t.Helper()
	if err != nil || len(a.Mailboxes) != 1 || a.Mailboxes[0].Status == nil || a.Mailboxes[0].Status.Messages != 3 ||
		len(a.Subscriptions) != 1 || len(a.Namespaces.Personal) != 1 {
		t.Errorf("survey %+v, %v", a, err)
	}
}

// TestSurveyWithLogin: the store gets both before it has answered either.
func TestSurveyWithLogin(t *testing.T) {
	for _, told := range []string{"[CAPABILITY " + farCaps + "] in", "in"} {
		store := serveDovecot(t, func(s *script) {
			s.greet()
			login := s.want("AUTHENTICATE PLAIN")
			tags := s.wantSurvey()
			s.send(login + " OK " + told)
			s.answerSurvey(tags...)
			s.ok("NOOP")
		})
		l := far()
		conn, err := DialIMAP(context.Background(), Target{Store: store, User: "anna", Password: "secret", Learned: l})
		if err != nil {
			t.Fatal(err)
		}
		c := NewClient(conn)
		a, err := c.Survey(context.Background())
		wantAccount(t, a, err)
		if err := c.Noop(context.Background()); err != nil || !c.Has("LIST-STATUS") || !l.proven {
			t.Errorf("%q: %v, %v, proven %v", told, err, c.conn.caps, l.proven)
		}
		c.Close()
	}
}

// TestSurveyWithLoginUnused: what nobody asks for is read and dropped.
func TestSurveyWithLoginUnused(t *testing.T) {
	store := serveDovecot(t, func(s *script) {
		s.greet()
		login := s.want("AUTHENTICATE PLAIN")
		tags := s.wantSurvey()
		s.send(login + " OK in")
		s.answerSurvey(tags...)
		s.ok("EXAMINE", "* 3 EXISTS", "* OK [UIDVALIDITY 5] ok")
		s.answerSurvey(s.wantSurvey0()...)
	})
	conn, err := DialIMAP(context.Background(), Target{Store: store, User: "anna", Password: "secret", Learned: far()})
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(conn)
	defer c.Close()
	if sel, err := c.Examine(context.Background(), "INBOX", SelectOptions{}); err != nil || sel.Exists != 3 || sel.UIDValidity != 5 {
		t.Errorf("%+v, %v", sel, err)
	}
	a, err := c.Survey(context.Background())
	wantAccount(t, a, err)
}

// wantSurvey0 is wantSurvey behind the command that leaves a mailbox.
func (s *script) wantSurvey0() []string {
	s.ok("CLOSE")
	return s.wantSurvey()
}

// TestTrapNothingBehindTheLogin: stores that lose, refuse or disturb what comes
// with a login get the next one alone, and no account suffers for it.
func TestTrapNothingBehindTheLogin(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(s *script, login string, tags []string)
		once bool // the same login succeeds all the same
		kind backend.Kind
	}{
		{"refuses them", func(s *script, login string, tags []string) {
			s.send(login+" OK in", tags[0]+" BAD what", tags[1]+" BAD what", tags[2]+" BAD what")
			s.answerSurvey(s.wantSurvey()...)
		}, true, 0},
		{"refuses one", func(s *script, login string, tags []string) {
			s.send(login+" OK in", `* LIST () "/" INBOX`, tags[0]+" OK done", tags[1]+" NO not now", tags[2]+" OK done")
			s.answerSurvey(s.wantSurvey()...)
		}, true, 0},
		{"answers them first", func(s *script, login string, tags []string) {
			s.send(tags[0]+" BAD log in", tags[1]+" BAD log in", tags[2]+" BAD log in", login+" OK in")
		}, false, backend.KindUnavailable},
		{"loses the first", func(s *script, login string, tags []string) {
			s.send(login+" OK in", tags[1]+" OK done", tags[2]+" OK done")
		}, false, backend.KindUnavailable},
		{"loses them", func(s *script, login string, _ []string) { s.send(login + " OK in"); s.line() }, false, backend.KindUnavailable},
		{"hangs up", func(*script, string, []string) {}, false, backend.KindUnavailable},
		{"says BAD", func(s *script, login string, _ []string) { s.send(login + " BAD no pipelining") }, false, backend.KindUnavailable},
		{"says NO", func(s *script, login string, _ []string) { s.send(login + " NO go away") }, false, backend.KindUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := 0
			store := serveDovecot(t, func(s *script) {
				s.greet()
				login := s.want("AUTHENTICATE PLAIN")
				if conn++; conn == 1 {
					tt.play(s, login, s.wantSurvey())
					return
				}
				s.send(login + " OK [CAPABILITY " + farCaps + "] in")
				s.answerSurvey(s.wantSurvey()...)
			})
			l := far()
			a, err := hastily(t, store, l)
			if tt.once {
				wantAccount(t, a, err)
			} else if !backend.IsKind(err, tt.kind) {
				t.Errorf("first: %v", err)
			}
			for range 2 { // it learns again, and is not trusted again
				a, err := hastily(t, store, l)
				wantAccount(t, a, err)
				l.rtt = 40 * time.Millisecond
			}
			if _, ok := l.expect(mechPlain); ok {
				t.Error("the host is trusted again")
			}
		})
	}
}

// TestSurveyWithLoginWrongPassword: a host that is known to take both refuses a
// login for what it is, and is trusted as before.
func TestSurveyWithLoginWrongPassword(t *testing.T) {
	store := serveDovecot(t, func(s *script) {
		s.greet()
		login := s.want("AUTHENTICATE PLAIN")
		tags := s.wantSurvey()
		s.send(login+" NO [AUTHENTICATIONFAILED] no", tags[0]+" BAD log in", tags[1]+" BAD log in", tags[2]+" BAD log in")
	})
	l := far()
	l.proven = true
	if _, err := hastily(t, store, l); !backend.IsKind(err, backend.KindAuthentication) {
		t.Error(err)
	}
	if _, ok := l.expect(mechPlain); !ok {
		t.Error("the host is not trusted any more")
	}
}

// TestLearns: only a store that is far away and tells its capabilities with the
// OK of a login gets more with the next one.
func TestLearns(t *testing.T) {
	for _, tt := range []struct {
		told string
		rtt  time.Duration
		want bool
	}{
		{farCaps, 40 * time.Millisecond, true},
		{farCaps, time.Millisecond, false},
		{"", 40 * time.Millisecond, false},
	} {
		c := &IMAPConn{rtt: tt.rtt, target: Target{Learned: &Learned{}}}
		if tt.told != "" {
			c.setCaps(tt.told)
		}
		if err := c.loggedIn(context.Background(), mechPlain, response{tag: "mf1", name: "OK"}, nil); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.target.Learned.expect(mechPlain); ok != tt.want {
			t.Errorf("%+v: %v", tt, ok)
		}
		if _, ok := c.target.Learned.expect("LOGIN"); ok {
			t.Errorf("%+v: another way to log in", tt)
		}
	}
}
