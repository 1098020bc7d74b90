package migrate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/google/go-cmp/cmp"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/line"
	"mailferry/internal/mailtest"
	"mailferry/store"
	"mailferry/store/imapd"
)

// soakRig is a user who moves from a real old store to our real one, and the
// engine with what it needs for a soak.
type soakRig struct {
	t      *testing.T
	old    *source
	own    *store.Store
	places *fakePlacements
	server *imapd.Server
	opt    Options

	mu     sync.Mutex
	says   string // the directory
	engine *Engine
	batch  BatchID
}

// ownIMAP serves our store within the process.
func ownIMAP(t testing.TB, s *store.Store) *imapd.Server {
	server, err := imapd.New(imapd.Options{Store: s, Logger: slog.New(slog.DiscardHandler),
		Authenticate: func(_ context.Context, name string, _ backend.Secret) (string, error) { return name, nil },
		ProxyLogin:   func(context.Context, string, backend.Secret) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Shutdown(context.Background()) })
	return server
}

func dialOwnIMAP(ctx context.Context, server *imapd.Server, user string) (*remote.Client, error) {
	st := &backend.Store{Name: "home", Type: backend.StoreLocal, Address: "localhost", TLS: backend.TLSNone,
		Login: backend.Login{Mode: backend.LoginAuthzid, User: "engine", Secret: "x"}}
	c, err := remote.DialIMAP(ctx, remote.Target{Store: st, User: user, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := line.Pipe()
		go server.ServeConn(context.Background(), theirs, imapd.ConnInfo{Trusted: true})
		return ours, nil
	}})
	if err != nil {
		return nil, err
	}
	return remote.NewClient(c), nil
}

func newSoakRig(t *testing.T, s *source) *soakRig {
	r := &soakRig{t: t, old: s, own: ownStore(t), places: newFakePlacements(), says: "old"}
	r.server = ownIMAP(t, r.own)
	r.opt = Options{Dir: t.TempDir(), Importer: r.own.Importer(), Placements: r.places,
		Timing: Timing{BackOff: 5 * time.Millisecond, Soak: 20 * time.Millisecond, Report: time.Millisecond, Settle: 50 * time.Millisecond},
		Stores: map[string]*backend.Store{"old": s.store, "home": {Name: "home", Type: backend.StoreLocal}},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return backend.Entry{User: user, Directory: "d", Store: r.says, CheckPassword: true}, nil
		},
		SetStore: func(_ context.Context, _ backend.Entry, store string) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.says = store
			return nil
		},
		Own: func(ctx context.Context, user string) (*remote.Client, error) {
			return dialOwnIMAP(ctx, r.server, user)
		}}
	if testing.Verbose() {
		r.opt.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	t.Cleanup(func() {
		if r.engine != nil {
			r.engine.Close()
		}
	})
	return r
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// open makes the engine anew, as a restart does.
func (r *soakRig) open() {
	r.t.Helper()
	if r.engine != nil {
		r.engine.Close()
	}
	e, err := New(r.opt)
	if err != nil {
		r.t.Fatal(err)
	}
	r.engine = e
	if err := e.Resume(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

// move flips the user; the soak begins.
func (r *soakRig) move(soak time.Duration) {
	r.t.Helper()
	r.open()
	r.batch = start(r.t, r.engine, BatchSpec{Users: []string{r.old.user}, Soak: soak, Reread: -1})
	if st := wait(r.t, r.engine, r.batch); st.Users[0].State != Soaking {
		r.t.Fatalf("status %+v", st.Users[0])
	}
}

func (r *soakRig) user() UserStatus {
	st, err := r.engine.Status(r.batch)
	if err != nil {
		r.t.Fatal(err)
	}
	return st.Users[0]
}

// await waits until ok holds; the engine works meanwhile.
func (r *soakRig) await(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			r.t.Fatalf("not yet: %s; %+v", what, r.user())
		}
		b, _ := r.engine.batch(r.batch)
		_, changed := b.snapshot()
		await(context.Background(), changed, time.Now().Add(20*time.Millisecond))
	}
}

func (r *soakRig) ownConn() *mailtest.IMAPConn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		defer ln.Close()
		nc, err := ln.Accept()
		if err == nil {
			r.server.ServeConn(context.Background(), nc, imapd.ConnInfo{Trusted: true})
		}
	}()
	c := mailtest.DialIMAP(r.t, ln.Addr().String())
	c.Login(r.old.user, "x")
	return c
}

// account is what an IMAP client sees: by mailbox its counters, and each message
// with UID, flags, date and octets.
func seen(c *remote.Client, err error) (map[string][]string, error) {
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx := context.Background()
	a, err := c.Survey(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, e := range a.Mailboxes {
		if !e.Selectable() {
			continue
		}
		sel, err := c.Examine(ctx, e.Raw, remote.SelectOptions{})
		if err != nil {
			return nil, err
		}
		lines := []string{fmt.Sprintf("UIDVALIDITY %d", sel.UIDValidity), fmt.Sprintf("UIDNEXT %d", sel.UIDNext)}
		if sel.Exists > 0 {
			var set imap.UIDSet
			set.AddRange(1, 0)
			if err := c.FetchItems(ctx, set, "FLAGS INTERNALDATE BODY.PEEK[]", func(uid imap.UID, v map[string]remote.Value) error {
				var flags []imap.Flag
				for _, f := range v["FLAGS"].List {
					if f.Text != `\Recent` {
						flags = append(flags, imap.Flag(f.Text))
					}
				}
				lines = append(lines, fmt.Sprintf("%d %s %s %x", uid, sorted(flags), strings.TrimLeft(v["INTERNALDATE"].Text, " 0"), sha256.Sum256([]byte(v["BODY[]"].Text))))
				return nil
			}); err != nil {
				return nil, err
			}
		}
		out[e.Raw] = lines
	}
	for _, s := range a.Subscriptions {
		out["subscribed"] = append(out["subscribed"], s.Raw)
	}
	slices.Sort(out["subscribed"])
	return out, nil
}

func (r *soakRig) seenOld() map[string][]string {
	r.t.Helper()
	a, err := seen(r.old.dial(context.Background()))
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *soakRig) seenOwn() map[string][]string {
	r.t.Helper()
	a, err := seen(dialOwnIMAP(context.Background(), r.server, r.old.user))
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// differs compares two accounts, but for the UIDVALIDITY of mailboxes that are
// younger than the move.
func differs(own, old map[string][]string, young ...string) string {
	for _, y := range young {
		for _, side := range []map[string][]string{own, old} {
			if len(side[y]) > 0 {
				side[y] = side[y][1:]
			}
		}
	}
	return cmp.Diff(own, old)
}

// equal waits until the old store has what the new one has.
func (r *soakRig) equal(young ...string) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		d := ""
		old, err := seen(r.old.dial(context.Background()))
		if err != nil {
			d = err.Error() // a mailbox was renamed under our hands
		} else if d = differs(r.seenOwn(), old, young...); d == "" {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("the stores differ (new -, old +): %s\n%+v", d, r.user())
		}
	}
}

func letter(n string) []byte {
	return []byte("From: a@example.org\r\nSubject: " + n + "\r\nMessage-Id: <" + n + "@soak>\r\n\r\nHello " + n + "\r\n")
}

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

// TestSoakFollowsBothWays: what happens at the new store happens at the old one
// under the same UIDs, what comes late to the old one is carried over once; the
// roll-back brings the user back to all of it, and the user can be moved again.
func TestSoakFollowsBothWays(t *testing.T) {
	realSources(t, func(t *testing.T, s *source) {
		s.fill(t, s.conn(t))
		r := newSoakRig(t, s)
		r.move(time.Hour)
		c := r.ownConn()
		box := func(b ...string) string { return mailtest.Quote(s.box(b...)) }

		c.Cmd("SELECT INBOX")
		c.Append("INBOX", `\Flagged`, noon, letter("new one"))
		c.Append("INBOX", "Arbeit", noon, letter("comes and goes"))
		c.Append("INBOX", "", noon, letter("new two"))
		c.Cmd("NOOP")
		c.Cmd(`UID STORE 26 +FLAGS (\Deleted)`)
		c.Cmd(`UID STORE 3,7 +FLAGS (\Deleted)`)
		c.Cmd("UID EXPUNGE 3,7,26")
		c.Cmd(`UID STORE 1:5 +FLAGS ($Soak)`)
		c.Cmd(`UID STORE 10 FLAGS (\Seen)`)
		c.Append("INBOX", "", noon, letter("the last, and gone"))
		c.Cmd("NOOP")
		c.Cmd(`UID STORE 28 +FLAGS (\Deleted)`)
		c.Cmd("UID EXPUNGE 28")
		c.Cmd("CREATE %s", box("Neu"))
		c.Cmd("SUBSCRIBE %s", box("Neu"))
		c.Append(s.box("Neu"), `\Seen`, noon, letter("in a new folder"))
		c.Cmd("RENAME %s %s", box("Projekte", "2024"), box("Projekte", "2025"))
		c.Cmd("UNSUBSCRIBE %s", box("Projekte", "2024"))
		c.Cmd("DELETE %s", box("leer"))
		c.Cmd("UNSUBSCRIBE %s", box("leer"))
		young := []string{s.box("Neu")}
		if s.store.Type == backend.StoreCyrus { // it gives renamed mailboxes a new one
			young = append(young, s.box("Projekte", "2025"))
		}
		r.equal(young...)

		old := s.conn(t)
		old.Append("INBOX", `\Flagged`, noon, letter("late one"))
		old.Append(s.box("Projekte", "2025"), "", noon.Add(time.Hour), letter("late two"))
		r.await("late mail in the report", func() bool {
			cert, err := r.engine.Certificate(s.user)
			return err == nil && cert.Soak != nil && cert.Soak.Late == 2
		})
		r.equal(young...)
		if n := strings.Count(fmt.Sprint(r.seenOwn()), fmt.Sprintf("%x", sha256.Sum256(letter("late one")))); n != 1 {
			t.Fatalf("late mail is there %d times", n)
		}

		// Both at once: the old store gives the new store's UID to something else.
		r.engine.Close()
		old.Append("INBOX", "", noon, letter("late three"))
		c.Append("INBOX", "", noon, letter("in its way"))
		r.open()
		r.await("the message in the way", func() bool {
			cert, err := r.engine.Certificate(s.user)
			return err == nil && cert.Soak.Late == 3 && slices.ContainsFunc(cert.Soak.Exceptions, func(e Exception) bool {
				return strings.Contains(e.What, "its UID is taken")
			})
		})

		want := r.seenOwn()
		if _, _, err := r.engine.Rollback("", []string{s.user}); err != nil {
			t.Fatal(err)
		}
		r.await("rolled back", func() bool { return r.user().State == RolledBack && !r.user().Running })
		if p, _, _ := r.places.Get(context.Background(), s.user); p.Store != "old" || p.State != backend.PlacementActive || r.says != "old" {
			t.Errorf("placement %+v, directory %q", p, r.says)
		}
		got := r.seenOld()
		moved := func(lines []string) (out []string) { // but for the one whose UID was taken
			for _, l := range lines {
				if !strings.Contains(l, fmt.Sprintf("%x", sha256.Sum256(letter("in its way")))) && !strings.HasPrefix(l, "UIDNEXT") {
					out = append(out, l)
				}
			}
			return out
		}
		if n := len(moved(got["INBOX"])) - len(got["INBOX"]); n != -2 {
			t.Errorf("the message in the way is there %d times", -1-n)
		}
		want["INBOX"], got["INBOX"] = moved(want["INBOX"]), moved(got["INBOX"])
		if d := differs(want, got, young...); d != "" {
			t.Errorf("after the roll-back (new -, old +): %s", d)
		}
		if _, err := r.opt.Own(context.Background(), s.user); err == nil {
			t.Error("the new store lets the user in still")
		}
		cert, err := r.engine.Certificate(s.user)
		if err != nil || cert.Soak.RolledBack == nil || cert.Soak.Back.Hold == 0 || cert.Soak.Messages == 0 {
			t.Errorf("report %+v, %v", cert.Soak, err)
		}

		// The life at the old store goes on, and the user moves again.
		old.Append("INBOX", "", noon, letter("behind the roll-back"))
		spec, err := r.engine.RetrySpec(r.batch)
		if err != nil {
			t.Fatal(err)
		}
		r.batch = start(t, r.engine, spec)
		if st := wait(t, r.engine, r.batch); st.Users[0].State != Soaking {
			t.Fatalf("second move: %+v", st.Users[0])
		}
		r.equal()
		if _, _, err := r.engine.Finalise(r.batch, nil); err != nil {
			t.Fatal(err)
		}
		r.await("final", func() bool { return r.user().State == Final })
	})
}
