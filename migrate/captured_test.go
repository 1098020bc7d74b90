package migrate

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

// lockedBuffer takes a log from many.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// capturing is a rig whose old store takes nothing but users' own passwords.
func capturing(t *testing.T, users int) (*rig, *lockedBuffer) {
	r := newRig(t, users, 5)
	r.src.passwords = map[string]string{}
	for _, u := range r.users() {
		r.src.passwords[u] = "Geheim-" + u
	}
	r.src.store.Login = backend.Login{Mode: backend.LoginUser, Capture: time.Hour}
	log := &lockedBuffer{}
	r.opt.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return r, log
}

// login is one that the old store has accepted, as the proxy tells of it.
func (r *rig) login(e *Engine, user string) {
	e.LoggedIn("old", user, backend.Secret(r.src.passwords[user]))
}

// awaitState waits until a user is in a state.
func awaitState(t *testing.T, e *Engine, id BatchID, user string, want State) {
	t.Helper()
	b, err := e.batch(id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		b.mu.Lock()
		u, wake := b.userLocked(user), b.wake
		b.mu.Unlock()
		if u.State == want && (want != Waiting || !u.Running) {
			return
		}
		if await(ctx, wake, time.Time{}); ctx.Err() != nil {
			t.Fatalf("%s is %v (%s), not %v", user, u.State, u.Reason, want)
		}
	}
}

// noSecret wants a secret neither in a log nor in a file.
func noSecret(t *testing.T, dir string, log *lockedBuffer, secrets ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		for _, s := range secrets {
			if bytes.Contains(text, []byte(s)) {
				t.Errorf("a password is in %s", path)
			}
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files: %v", files, err)
	}
	for _, s := range secrets {
		if strings.Contains(log.String(), s) {
			t.Errorf("a password is in the log:\n%s", log)
		}
	}
}

// A user of a store without an admin's login waits for the next login, and moves
// with its password. Those who never log in keep no wave waiting.
func TestCaptureMovesAtLogin(t *testing.T) {
	r, log := capturing(t, 3)
	e := r.engine(t)
	r.login(e, "u00") // before the order: nobody wants it
	id := start(t, e, BatchSpec{Users: r.users(), WaveSize: 1, POP3: POP3Never})
	for _, u := range r.users() {
		awaitState(t, e, id, u, Waiting)
	}
	// A user waits a moment before they are counted among those who do.
	st := until(t, e, id, func(st *BatchStatus) bool { return st.Waits == "3 users have to log in first" })
	if st.Counts[Waiting] != 3 || e.WaitingForLogin() != 3 {
		t.Fatalf("%+v", st)
	}
	if u := st.Users[0]; u.Reason != reasonAwaits {
		t.Errorf("%+v", u)
	}
	r.login(e, "u02")
	awaitState(t, e, id, "u02", Final)
	e.LoggedIn("other", "u00", "Geheim-u00") // not the old store
	e.LoggedIn("old", "u09", "Geheim-u09")   // nobody who moves
	if n := e.WaitingForLogin(); n != 2 {
		t.Errorf("%d wait", n)
	}
	r.login(e, "u00")
	r.login(e, "u01")
	st = wait(t, e, id)
	r.complete(t)
	if st.Counts[Final] != 3 {
		t.Errorf("%+v", st)
	}
	if n := strings.Count(log.String(), "login captured for a move"); n != 3 {
		t.Errorf("%d captures are logged:\n%s", n, log)
	}
	if len(e.captured.users) != 0 || e.captured.kept != 0 {
		t.Errorf("still kept: %v", e.captured.users)
	}
	noSecret(t, r.opt.Dir, log, "Geheim-")
}

// Without consent nothing is taken, and the move fails as it always did.
func TestCaptureNeedsConsent(t *testing.T) {
	r, log := capturing(t, 1)
	r.src.store.Login.Capture = 0
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users(), POP3: POP3Never})
	r.login(e, "u00")
	if st := wait(t, e, id); st.Counts[Failed] != 1 || strings.Contains(log.String(), "captured") {
		t.Errorf("%+v\n%s", st, log)
	}
}

// A restart forgets passwords: the user waits for the login after it, and the
// copy goes on.
func TestCaptureForgottenByRestart(t *testing.T) {
	r, log := capturing(t, 1)
	e := r.engine(t)
	closed := windowAt(t, time.Now().Add(3*time.Hour), time.Now().Add(4*time.Hour))
	id := start(t, e, BatchSpec{Users: r.users(), FlipWindow: closed, POP3: POP3Never})
	awaitState(t, e, id, "u00", Waiting)
	r.login(e, "u00")
	awaitState(t, e, id, "u00", Ready) // copied, and followed
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = r.engine(t)
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitState(t, e, id, "u00", Waiting)
	r.login(e, "u00")
	awaitState(t, e, id, "u00", Ready)
	noSecret(t, r.opt.Dir, log, "Geheim-")
}

// A password that was changed at the old store is tried once, not again and
// again; the next login goes on.
func TestCaptureOfChangedPassword(t *testing.T) {
	r, log := capturing(t, 1)
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users(), POP3: POP3Never})
	awaitState(t, e, id, "u00", Waiting)
	e.LoggedIn("old", "u00", "Wrong-geheim")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b, _ := e.batch(id)
	for {
		b.mu.Lock()
		u, wake := b.userLocked("u00"), b.wake
		b.mu.Unlock()
		if u.State == Waiting && u.Reason == reasonRefused && !u.Running {
			break
		}
		if await(ctx, wake, time.Time{}); ctx.Err() != nil {
			t.Fatalf("%+v", u)
		}
	}
	if e.captured.has("u00") {
		t.Error("the password is kept")
	}
	r.login(e, "u00")
	wait(t, e, id)
	r.complete(t)
	noSecret(t, r.opt.Dir, log, "Geheim-", "Wrong-geheim")
}

// What is captured is sealed, bounded in number and size, and gone when its time is over.
func TestCapturedBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := newCaptured(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		store := &backend.Store{Name: "old", Login: backend.Login{Capture: time.Hour}}
		b := newBatch(BatchSpec{ID: "b"}, nil, nil)
		c.ask("anna", "old", b, "anna")
		c.put(store, "anna", backend.Secret(strings.Repeat("x", maxCapturedSize+1)))
		if c.has("anna") {
			t.Error("a huge password is kept")
		}
		c.put(store, "anna", "secret")
		if bytes.Contains(c.users["anna"].sealed, []byte("secret")) {
			t.Error("it is not sealed")
		}
		sealed := c.users["anna"].sealed
		c.refused("anna", "older") // another login came between
		if p, ok := c.ask("anna", "old", b, "anna"); !ok || p != "secret" {
			t.Errorf("%q %v", p.Reveal(), ok)
		}
		time.Sleep(time.Hour)
		c.expire(time.Now())
		if c.has("anna") || c.kept != 0 || !bytes.Equal(sealed, make([]byte, len(sealed))) {
			t.Error("its time is over")
		}
		c.put(store, "anna", "secret")
		c.kept = maxCaptured
		c.ask("bert", "old", b, "bert")
		c.put(store, "bert", "secret")
		if c.has("bert") {
			t.Error("there was no room")
		}
		c.put(store, "anna", "changed") // takes no more room
		if p, ok := c.ask("anna", "old", b, "anna"); !ok || p != "changed" {
			t.Errorf("%q %v", p.Reveal(), ok)
		}
	})
}
