package migrate

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/cluster"
	"mailferry/internal/mailtest"
	"mailferry/store"
)

// ownStore is the real store with the real engine on a real disk.
func ownStore(t testing.TB) *store.Store {
	t.Helper()
	n, err := cluster.Open(cluster.Options{NodeID: 1, Dir: t.TempDir(), Shards: 2, Machine: store.NewMachine(),
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Options{Engine: n})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); n.Close(context.Background()) })
	return s
}

// TestMoveIntoOwnStore moves a user from each real old store into our own; the
// first flip is spoilt behind the Activate.
func TestMoveIntoOwnStore(t *testing.T) {
	realSources(t, func(t *testing.T, s *source) {
		s.fill(t, s.conn(t))
		own, places := ownStore(t), newFakePlacements()
		spoilt := false
		places.fail = func(op string) error {
			if p := places.m[s.user]; op == "swap" && p.Epoch == 1 && !spoilt {
				spoilt = true
				return backend.NewError(backend.KindUnavailable, "no quorum")
			}
			return nil
		}
		e, err := New(Options{Dir: t.TempDir(), Importer: own.Importer(), Placements: places, Timing: Timing{BackOff: time.Millisecond},
			Stores: map[string]*backend.Store{"old": s.store, "home": {Name: "home", Type: backend.StoreLocal}},
			Lookup: func(_ context.Context, user string) (backend.Entry, error) {
				return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		st := wait(t, e, start(t, e, BatchSpec{Users: []string{s.user}, Reread: 100}))
		if u := st.Users[0]; u.State != Final || u.Tries != 1 {
			t.Fatalf("status %+v", u)
		}
		c, err := e.Certificate(s.user)
		if err != nil || c.Grade != "perfect" || c.Level != "compared" || c.Reread != c.Messages {
			t.Errorf("certificate %+v, %v", c, err)
		}
		t.Logf("hold of %v", c.Pause.Hold)
		a, err := own.Account(context.Background(), s.user)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.Mailboxes {
			name, _ := c.Namespace.Name(m.Name)
			mb, err := a.Mailbox(context.Background(), name)
			if err != nil || mb.UIDValidity != m.UIDValidity || uint32(mb.UIDNext) != m.UIDNext || mb.Messages != m.Messages {
				t.Errorf("%s: %+v, %v; want %+v", m.Name, mb, err, m)
			}
		}
	})
}

// seeded is a Dovecot with one mailbox of real messages.
func seeded(b *testing.B, messages int) *source {
	corpus := mailtest.CorpusDir(b)
	d := mailtest.StartDovecot(b, mailtest.DovecotOptions{})
	seed := filepath.Join(b.TempDir(), "mailseed")
	for _, argv := range [][]string{
		{"go", "build", "-o", seed, "mailferry/bench/mailseed"},
		{seed, "load", "-addr", d.IMAP, "-pass", d.Password, "-users", "big", "-corpus", corpus, "-profile", "flat",
			"-messages", fmt.Sprint(messages), "-manifest", filepath.Join(b.TempDir(), "m.json")},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	return &source{user: "big", password: d.Password, addr: d.IMAP,
		store: storeAt(b, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})}
}

// BenchmarkCopy copies one mailbox of BENCH_MESSAGES (default 5,000) real
// messages from Dovecot: raw into nowhere, parsed and hashed, into our store.
func BenchmarkCopy(b *testing.B) {
	n := 5000
	if s := os.Getenv("BENCH_MESSAGES"); s != "" {
		fmt.Sscan(s, &n)
	}
	s := seeded(b, n)
	ctx := context.Background()
	b.Run("drain", func(b *testing.B) {
		for range b.N {
			octets := drain(b, s)
			b.SetBytes(octets)
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "msg/s")
	})
	run := func(importer func() backend.Importer) func(b *testing.B) {
		return func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				a := newAccount(s.user, s.dial, importer())
				b.StartTimer()
				p, err := a.sync(ctx)
				if err == nil {
					err = p.err()
				}
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(a.progress.OctetsDone.Load())
				a.close()
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "msg/s")
		}
	}
	b.Run("read", run(func() backend.Importer { return nowhere{} }))
	b.Run("store", run(func() backend.Importer { return ownStore(b).Importer() }))
	b.Run("asked", func(b *testing.B) { // what the source alone takes for a login and a survey
		for b.Loop() {
			c, err := s.dial(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := c.Survey(ctx); err != nil {
				b.Fatal(err)
			}
			_ = c.Logout()
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "users/s")
	})
	b.Run("unchanged", func(b *testing.B) {
		a := newAccount(s.user, s.dial, nowhere{})
		if _, err := a.sync(ctx); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			a.close() // a login each
			if p, err := a.sync(ctx); err != nil || p.Changed != 0 {
				b.Fatal(p, err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "users/s")
	})
}

// drain reads everything with the least possible work.
func drain(b *testing.B, s *source) (octets int64) {
	conn, err := remote.DialIMAP(context.Background(), remote.Target{Store: s.store, User: s.user})
	if err != nil {
		b.Fatal(err)
	}
	c, _, _ := conn.Detach()
	defer c.Close()
	fmt.Fprintf(c, "a EXAMINE INBOX\r\nb UID FETCH 1:* (UID FLAGS INTERNALDATE BODY.PEEK[])\r\nc LOGOUT\r\n")
	octets, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
	if err != nil {
		b.Fatal(err)
	}
	return octets
}

// nowhere takes everything and keeps hashes only.
type nowhere struct{ noImport }

type noImport = backend.Import

func (n nowhere) Import(context.Context, string, backend.ImportOptions) (backend.Import, error) {
	return n, nil
}
func (nowhere) Mailboxes(context.Context) ([]backend.ImportedMailbox, error) { return nil, nil }
func (nowhere) Subscriptions(context.Context, []backend.MailboxName) error   { return nil }
func (nowhere) Open(context.Context, backend.ImportMailbox) (backend.MailboxImport, error) {
	return nowhereBox{}, nil
}

type nowhereBox struct{}

func (nowhereBox) NewBody(context.Context) (backend.BodyWriter, error) {
	return &hashed{newBodyHash()}, nil
}
func (nowhereBox) Put(context.Context, []backend.ImportMessage) error    { return nil }
func (nowhereBox) SetFlags(context.Context, []backend.ImportFlags) error { return nil }
func (nowhereBox) Vanish(context.Context, imap.UIDSet, uint64) error     { return nil }
func (nowhereBox) Seal(context.Context, uint32, uint64, uint32) error    { return nil }
func (nowhereBox) Messages(context.Context) iter.Seq2[backend.ImportedMessage, error] {
	return func(func(backend.ImportedMessage, error) bool) {}
}

type hashed struct{ *bodyHash }

func (h *hashed) Finish() (backend.Body, error) { return h, nil }
func (h *hashed) Abort()                        {}
func (h *hashed) Discard()                      {}
