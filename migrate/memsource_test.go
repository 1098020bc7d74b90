package migrate

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"

	"mailferry/backend"
)

// memSource is an old store in memory: a server that is not ours, without
// modseqs, so that deltas are merges.
type memSource struct {
	store *backend.Store
	users map[string]*imapmemserver.User
	sizes map[string]int
	// passwords of users who log in themselves; nil: the admin does.
	passwords map[string]string
	// most sessions at a time, 0: any; others are refused.
	most          int32
	open, refused atomic.Int32
}

type memSession struct {
	*imapmemserver.UserSession
	s  *memSource
	in bool
}

func (m *memSession) Login(user, password string) error {
	u := m.s.users[strings.TrimSuffix(user, "*admin")]
	if want, own := m.s.passwords[user]; u == nil || m.s.passwords != nil && (!own || want != password) {
		return imapserver.ErrAuthFailed
	}
	if n := m.s.open.Add(1); m.s.most > 0 && n > m.s.most {
		m.s.open.Add(-1)
		m.s.refused.Add(1)
		return &imap.Error{Type: imap.StatusResponseTypeNo, Code: imap.ResponseCodeLimit, Text: "too many"}
	}
	m.in = true
	m.UserSession = imapmemserver.NewUserSession(u)
	return nil
}

func (m *memSession) Close() error {
	if m.in {
		m.in = false
		m.s.open.Add(-1)
	}
	return m.UserSession.Close()
}

func startMem(t testing.TB, users, messages int) *memSource {
	t.Helper()
	s := &memSource{users: map[string]*imapmemserver.User{}, sizes: map[string]int{}}
	for i := range users {
		name := fmt.Sprintf("u%02d", i)
		u := imapmemserver.NewUser(name, "x")
		for _, box := range []string{"INBOX", "Sent"} {
			if err := u.Create(box, nil); err != nil {
				t.Fatal(err)
			}
		}
		s.users[name] = u
		for n := range messages {
			s.deliver(t, name, []string{"INBOX", "Sent"}[n%2], fmt.Sprintf("message %d of %s", n, name))
		}
	}
	srv := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return &memSession{UserSession: imapmemserver.NewUserSession(nil), s: s}, nil, nil
		},
		Caps: imap.CapSet{imap.CapIMAP4rev1: {}}, InsecureAuth: true,
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	s.store = storeAt(t, backend.StoreGeneric, ln.Addr().String(), backend.Login{Mode: backend.LoginMaster, User: "admin", Secret: "s"})
	return s
}

func (s *memSource) deliver(t testing.TB, user, box, subject string) {
	t.Helper()
	msg := "Subject: " + subject + "\r\n\r\n" + strings.Repeat("body ", 50) + "\r\n"
	_, err := s.users[user].Append(box, &literal{*bytes.NewReader([]byte(msg)), int64(len(msg))},
		&imap.AppendOptions{Flags: []imap.Flag{imap.FlagFlagged}})
	if err != nil {
		t.Error(err)
	}
	s.sizes[user]++
}

type literal struct {
	bytes.Reader
	size int64
}

func (l *literal) Size() int64 { return l.size }

// fakePlacements is the placement table with one proxy that agrees.
type fakePlacements struct {
	mu    sync.Mutex
	m     map[string]backend.Placement
	fail  func(op string) error
	quiet func(user string, epoch uint64) []backend.Confirmation
	// holding counts users on hold now, and most at once.
	holding, most int
	history       map[string][]backend.Placement
}

func newFakePlacements() *fakePlacements {
	return &fakePlacements{m: map[string]backend.Placement{}, history: map[string][]backend.Placement{}}
}

func (p *fakePlacements) op(name string) error {
	if p.fail != nil {
		return p.fail(name)
	}
	return nil
}

func (p *fakePlacements) Get(_ context.Context, user string) (backend.Placement, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.op("get"); err != nil {
		return backend.Placement{}, false, err
	}
	pl, ok := p.m[user]
	return pl, ok, nil
}

func (p *fakePlacements) Swap(_ context.Context, pl backend.Placement) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.op("swap"); err != nil {
		return err
	}
	if p.m[pl.User].Epoch != pl.Epoch-1 {
		return backend.NewError(backend.KindConflict, "another epoch")
	}
	p.m[pl.User] = pl
	p.history[pl.User] = append(p.history[pl.User], pl)
	p.holding = 0
	for _, x := range p.m {
		if x.State == backend.PlacementHolding {
			p.holding++
		}
	}
	p.most = max(p.most, p.holding)
	return p.op("swapped") // the answer may get lost
}

func (p *fakePlacements) AwaitQuiet(_ context.Context, user string, epoch uint64) ([]backend.Confirmation, error) {
	p.mu.Lock()
	err := p.op("quiet")
	quiet := p.quiet
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if quiet != nil {
		return quiet(user, epoch), nil
	}
	return []backend.Confirmation{{Node: "n1", User: user, Epoch: epoch, Frozen: 1}}, nil
}

func (p *fakePlacements) AwaitResumed(_ context.Context, user string, epoch uint64) ([]backend.Resumption, error) {
	return []backend.Resumption{{Node: "n1", User: user, Epoch: epoch, Attached: 1, Pauses: []time.Duration{40 * time.Millisecond}}}, nil
}

func (p *fakePlacements) All(context.Context) (list []backend.Placement, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pl := range p.m {
		list = append(list, pl)
	}
	return list, nil
}
