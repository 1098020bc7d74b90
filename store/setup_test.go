package store_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster"
	"mailferry/cluster/engine"
	"mailferry/store"
	"mailferry/store/storetest"
)

// eachEngine runs a test over the engine in memory and over the real one.
func eachEngine(t *testing.T, test func(t *testing.T, s *store.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, newStore(t, memoryEngine(t))) })
	t.Run("cluster", func(t *testing.T) { test(t, newStore(t, clusterEngine(t, vfs.NewMem()))) })
}

func memoryEngine(t testing.TB) *storetest.Engine {
	t.Helper()
	e, err := storetest.NewEngine(store.NewMachine(), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func clusterEngine(t testing.TB, fs vfs.FS) *cluster.Node {
	t.Helper()
	n, err := cluster.Open(cluster.Options{NodeID: 1, Dir: "data", FS: fs, Shards: 2, Machine: store.NewMachine(),
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n
}

// clock is a time that moves a second with each look.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

func newStore(t testing.TB, e engine.Engine) *store.Store {
	t.Helper()
	s, err := store.New(store.Options{Engine: e, Now: newClock().Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			storetest.Check(t, s)
		}
		s.Close()
	})
	return s
}

// fixture is an account with shortcuts that fail the test.
type fixture struct {
	*store.Account
	t   testing.TB
	ctx context.Context
}

func newUser(t testing.TB, s *store.Store, name string) fixture {
	t.Helper()
	if _, err := s.CreateUser(t.Context(), store.NewUser{Name: name}); err != nil {
		t.Fatal(err)
	}
	return account(t, s, name)
}

func account(t testing.TB, s *store.Store, name string) fixture {
	t.Helper()
	a, err := s.Account(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return fixture{a, t, t.Context()}
}

func stage(t testing.TB, a *store.Account, text string) engine.StagedBody {
	t.Helper()
	w, err := a.NewBody(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f fixture) append(name backend.MailboxName, text string, flags ...imap.Flag) store.Appended {
	f.t.Helper()
	out, err := f.Append(f.ctx, store.Append{Mailbox: name, Flags: flags, Body: stage(f.t, f.Account, text)})
	if err != nil {
		f.t.Fatal(err)
	}
	return out[0]
}

func (f fixture) mailbox(name backend.MailboxName) store.Mailbox {
	f.t.Helper()
	mb, err := f.Mailbox(f.ctx, name)
	if err != nil {
		f.t.Fatalf("mailbox %q: %v", name, err)
	}
	return mb
}

func (f fixture) snapshot(name backend.MailboxName) *store.Snapshot {
	f.t.Helper()
	s, err := f.Snapshot(f.ctx, f.mailbox(name).ID)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// list shows a mailbox as "uid modseq flags" lines.
func (f fixture) list(name backend.MailboxName) []string {
	f.t.Helper()
	s := f.snapshot(name)
	defer s.Close()
	var out []string
	for m, err := range s.Messages(imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}) {
		if err != nil {
			f.t.Fatal(err)
		}
		out = append(out, fmt.Sprint(m.UID, m.ModSeq, m.Flags))
	}
	return out
}

func (f fixture) names() []string {
	f.t.Helper()
	list, err := f.Mailboxes(f.ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	var out []string
	for _, mb := range list {
		out = append(out, strings.ReplaceAll(string(mb.Name), backend.NameSeparator, "/"))
	}
	return out
}

func (f fixture) read(m store.Message) string {
	f.t.Helper()
	r, err := f.OpenMessage(f.ctx, m)
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

func wantKind(t testing.TB, err error, k backend.Kind) {
	t.Helper()
	if !backend.IsKind(err, k) {
		t.Helper()
		t.Fatalf("error %v, want kind %q", err, k)
	}
}

func wantStrings(t testing.TB, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func path(names ...string) backend.MailboxName { return backend.JoinName(names...) }
