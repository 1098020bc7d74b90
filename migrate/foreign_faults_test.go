package migrate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/migrate/target"
)

// memTarget is a target in memory whose APPEND misbehaves: fault decides each.
type memTarget struct {
	store *backend.Store
	user  *imapmemserver.User
	fault func(n int, body string, o *imap.AppendOptions) (file bool, err error)
	after func(n int) error // instead of the answer to what was filed; may be nil
	// create answers the nth CREATE; made says whether it does it all the same.
	create func(n int) (made bool, err error)

	mu sync.Mutex
	n  int // APPENDs so far
	c  int // CREATEs
}

type targetSession struct {
	*imapmemserver.UserSession
	m *memTarget
}

func (s *targetSession) Login(string, string) error {
	s.UserSession = imapmemserver.NewUserSession(s.m.user)
	return nil
}

func (s *targetSession) Create(box string, o *imap.CreateOptions) error {
	s.m.mu.Lock()
	s.m.c++
	n := s.m.c
	s.m.mu.Unlock()
	if s.m.create == nil {
		return s.UserSession.Create(box, o)
	}
	made, err := s.m.create(n)
	if made {
		if e := s.UserSession.Create(box, o); e != nil {
			return e
		}
	}
	return err
}

func (s *targetSession) Append(box string, r imap.LiteralReader, o *imap.AppendOptions) (*imap.AppendData, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	s.m.mu.Lock()
	s.m.n++
	n := s.m.n
	s.m.mu.Unlock()
	if s.m.fault != nil {
		if file, err := s.m.fault(n, string(b), o); err != nil || !file {
			return nil, err
		}
	}
	data, err := s.m.user.Append(box, &literal{*bytes.NewReader(b), int64(len(b))}, o)
	if err == nil && s.m.after != nil {
		err = s.m.after(n)
	}
	return data, err
}

func startTarget(t *testing.T, caps ...imap.Cap) *memTarget {
	t.Helper()
	m := &memTarget{user: imapmemserver.NewUser("u00", "x")}
	if err := m.user.Create("INBOX", nil); err != nil {
		t.Fatal(err)
	}
	set := imap.CapSet{imap.CapIMAP4rev1: {}}
	for _, c := range caps {
		set[c] = struct{}{}
	}
	srv := imapserver.New(&imapserver.Options{Caps: set, InsecureAuth: true,
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return &targetSession{UserSession: imapmemserver.NewUserSession(nil), m: m}, nil, nil
		}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	m.store = storeAt(t, backend.StoreGeneric, ln.Addr().String(), backend.Login{Mode: backend.LoginMaster, User: "admin", Secret: "s"})
	m.store.Name = "to"
	return m
}

// bodies of the target's INBOX and Sent, with how often each is there.
func (m *memTarget) bodies(t *testing.T) map[string]int {
	t.Helper()
	src := &source{store: m.store, user: "u00"}
	c, err := src.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return readAll(t, c, "INBOX", "Sent")
}

func no(code imap.ResponseCode) error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: "refused by the test"}
}

// TestForeignFaults copies 30 messages into targets that refuse, lie and lack
// every extension.
func TestForeignFaults(t *testing.T) {
	for _, k := range []struct {
		name    string
		caps    []imap.Cap
		fault   func(n int, body string, o *imap.AppendOptions) (bool, error)
		rules   *target.Rules
		filter  *Filter
		before  func(t *testing.T, m *memTarget)
		state   State
		have    int    // different messages at the target
		extra   int    // of them not the source's
		mention string // in the reason or an exception
	}{
		{name: "plain IMAP4rev1", state: Ready, have: 30},
		{name: "UIDPLUS and LITERAL+", caps: []imap.Cap{imap.CapUIDPlus, imap.CapLiteralPlus}, state: Ready, have: 30},
		{name: "refuses one message", caps: []imap.Cap{imap.CapUIDPlus}, state: Ready, have: 29, mention: "the target refused it",
			fault: func(_ int, body string, _ *imap.AppendOptions) (bool, error) {
				if strings.Contains(body, "message 7 of") {
					return false, no("CANNOT")
				}
				return true, nil
			}},
		{name: "cannot make a mailbox for now", state: Ready, have: 30,
			before: func(_ *testing.T, m *memTarget) {
				m.create = func(n int) (bool, error) {
					if n == 1 {
						return false, no(imap.ResponseCodeUnavailable)
					}
					return true, nil
				}
			}},
		{name: "has a mailbox that it does not list", state: Ready, have: 30,
			before: func(_ *testing.T, m *memTarget) {
				m.create = func(int) (bool, error) { return true, no(imap.ResponseCodeAlreadyExists) }
			}},
		{name: "over quota", caps: []imap.Cap{imap.CapUIDPlus}, state: Failed, have: 5, mention: "over quota",
			fault: func(n int, _ string, _ *imap.AppendOptions) (bool, error) {
				if n > 5 {
					return false, no(imap.ResponseCodeOverQuota)
				}
				return true, nil
			}},
		{name: "finds one message too big", caps: []imap.Cap{imap.CapUIDPlus}, state: Ready, have: 29, mention: "the target refused it",
			fault: func(_ int, body string, _ *imap.AppendOptions) (bool, error) {
				if strings.Contains(body, "message 9 of") {
					return false, no("TOOBIG")
				}
				return true, nil
			}},
		{name: "loses a mailbox on the way", caps: []imap.Cap{imap.CapUIDPlus}, state: Ready, have: 30,
			before: func(t *testing.T, m *memTarget) {
				m.fault = func(n int, _ string, _ *imap.AppendOptions) (bool, error) {
					if n != 20 {
						return true, nil
					}
					if err := m.user.Delete("Sent"); err != nil {
						t.Error(err)
					}
					return false, no(imap.ResponseCodeTryCreate)
				}
			}},
		{name: "says OK and files nothing, once", state: Ready, have: 30,
			fault: func(n int, _ string, _ *imap.AppendOptions) (bool, error) { return n != 4, nil }},
		{name: "refuses for a while", state: Ready, have: 30,
			fault: func(n int, _ string, _ *imap.AppendOptions) (bool, error) {
				if n%7 == 3 {
					return false, no(imap.ResponseCodeUnavailable)
				}
				return true, nil
			}},
		{name: "a limit of our own", state: Ready, have: 0, rules: &target.Rules{MaxSize: 20}, mention: "the target takes 20"},
		{name: "copied before by another tool", state: Ready, have: 30,
			before: func(t *testing.T, m *memTarget) { m.fill(t, 0, 12) }},
		{name: "mirror, guarded", caps: []imap.Cap{imap.CapUIDPlus}, rules: &target.Rules{Delete: true}, state: Ready, have: 70, extra: 40,
			before: func(t *testing.T, m *memTarget) { m.fill(t, 100, 140) }, mention: "none was"},
		{name: "mirror", caps: []imap.Cap{imap.CapUIDPlus}, rules: &target.Rules{Delete: true, MassDelete: true}, state: Ready, have: 30,
			before: func(t *testing.T, m *memTarget) { m.fill(t, 100, 140) }, mention: "only the target had"},
		{name: "filter", filter: &Filter{Exclude: []string{"^Sent$"}}, state: Ready, have: 15},
		{name: "folders only", filter: &Filter{FoldersOnly: true}, state: Ready, have: 0},
		{name: "renamed by a rule", rules: &target.Rules{Map: map[string]string{"INBOX": "Sent"}}, state: Ready, have: 30, mention: "together with"},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			src, m := startMem(t, 1, 30), startTarget(t, k.caps...)
			src.store.Name, m.fault = "from", k.fault
			if k.before != nil {
				k.before(t, m)
			}
			dir := t.TempDir()
			e := foreignEngine(t, dir, src.store, m.store, nil)
			st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"u00"}, To: "to", Filter: k.filter, Rules: k.rules, Attempts: 40}))
			if st.Users[0].State != k.state {
				t.Fatalf("%+v", st.Users[0])
			}
			said := st.Users[0].Reason
			if c, err := e.Certificate("u00"); err == nil {
				said += fmt.Sprint(c.Exception)
			}
			if !strings.Contains(said, k.mention) {
				t.Errorf("nobody says %q: %s", k.mention, said)
			}
			got, extra := m.bodies(t), 0
			for body, n := range got {
				if n != 1 {
					t.Errorf("%d times %.40q", n, body)
				}
				if beyond.MatchString(body) {
					extra++
				}
			}
			if len(got) != k.have || extra != k.extra {
				t.Errorf("%d messages, %d of them not the source's; want %d and %d", len(got), extra, k.have, k.extra)
			}
			if k.name == "refuses one message" {
				kept, _ := filepath.Glob(filepath.Join(dir, foreignDir, "*", "quarantine", "*.eml"))
				if len(kept) != 1 {
					t.Fatalf("quarantine: %v", kept)
				}
				if b, err := os.ReadFile(kept[0]); err != nil || !strings.Contains(string(b), "message 7 of") {
					t.Errorf("%q, %v", b, err)
				}
			}
		})
	}
}

// TestForeignFlagsOfDoubts copies into a target that keeps messages, loses their
// flags and does not say that it has them, as a store does that dies while it
// files: what is found there again gets its flags, and keeps those that its
// owner has set meanwhile, but not the keyword that a killed Dovecot calls a
// letter whose name it has not written down.
func TestForeignFlagsOfDoubts(t *testing.T) {
	t.Parallel()
	src, m := startMem(t, 1, 0), startTarget(t, imap.CapUIDPlus)
	src.store.Name, m.store.Type = "from", backend.StoreDovecot
	for n := range 12 {
		src.deliver(t, "u00", "INBOX", fmt.Sprint("flagged ", n)) // \Flagged
	}
	m.fault = func(n int, _ string, o *imap.AppendOptions) (bool, error) {
		if n%3 == 1 {
			o.Flags = []imap.Flag{imap.FlagSeen, "unknown-0", "unknown-to-me"}
		}
		return true, nil
	}
	m.after = func(n int) error {
		if n%3 == 1 {
			return no(imap.ResponseCodeUnavailable)
		}
		return nil
	}
	e := foreignEngine(t, t.TempDir(), src.store, m.store, nil)
	st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"u00"}, To: "to", Attempts: 40}))
	if st.Users[0].State != Ready {
		t.Fatalf("%+v", st.Users[0])
	}
	c, err := (&source{store: m.store, user: "u00"}).dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Examine(context.Background(), "INBOX", remote.SelectOptions{}); err != nil {
		t.Fatal(err)
	}
	flagged, seen, owners, madeUp := 0, 0, 0, 0
	if _, err := c.FetchMeta(context.Background(), remote.FetchMeta{UIDs: "1:*"}, func(m *remote.Meta) error {
		for _, f := range m.Flags { // the target in memory gives them in small letters
			switch strings.ToLower(string(f)) {
			case `\flagged`:
				flagged++
			case `\seen`:
				seen++
			case "unknown-to-me":
				owners++
			case "unknown-0":
				madeUp++
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if flagged != 12 || seen == 0 || owners != seen {
		t.Errorf("%d of 12 messages have their flag; %d and %d of those in doubt have the owner's", flagged, seen, owners)
	}
	if madeUp > 0 {
		t.Errorf("%d messages have a keyword that nobody set", madeUp)
	}
}

var beyond = regexp.MustCompile(`message 1\d\d of`)

// fill puts messages there as another tool would have copied them.
func (m *memTarget) fill(t *testing.T, from, to int) {
	t.Helper()
	if err := m.user.Create("Sent", nil); err != nil {
		t.Fatal(err)
	}
	for n := from; n < to; n++ {
		msg := fmt.Sprintf("Subject: message %d of u00\r\n\r\n%s\r\n", n, strings.Repeat("body ", 50))
		if _, err := m.user.Append([]string{"INBOX", "Sent"}[n%2], &literal{*bytes.NewReader([]byte(msg)), int64(len(msg))}, &imap.AppendOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// readAll reads the bodies of mailboxes; one that is not there is empty.
func readAll(t *testing.T, c *remote.Client, boxes ...string) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for _, box := range boxes {
		sel, err := c.Examine(context.Background(), box, remote.SelectOptions{})
		if backend.IsKind(err, backend.KindInvalid) || backend.IsKind(err, backend.KindNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if sel.Exists > 0 {
			if err := c.FetchBodies(context.Background(), &bodyReader{got: got}, remote.Window{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return got
}

// bodyReader is a remote.BodySource of a whole mailbox.
type bodyReader struct {
	got   map[string]int
	asked bool
}

func (b *bodyReader) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	if b.asked {
		return nil, 0, false
	}
	b.asked = true
	return imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}, 1 << 20, true
}

func (b *bodyReader) Body(_ int64, r io.Reader) error {
	text, err := io.ReadAll(r)
	b.got[string(text)]++
	return err
}

func (b *bodyReader) Message(*remote.Meta) error        { return nil }
func (b *bodyReader) Answered(imap.UIDSet, error) error { return nil }
