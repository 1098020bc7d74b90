package migrate

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"mailferry/backend"
)

// errAwaitsLogin: the old store is entered by the user's own password alone, and
// there is none at hand.
var errAwaitsLogin = backend.NewError(backend.KindTemporary, "The user has not logged in since.")

const (
	reasonAwaits  = "waits for the user's next login"
	reasonRefused = "the old store does not take the user's password any more; waits for the next login"
)

const (
	// maxCaptured bounds the passwords that are kept; users beyond wait for another login.
	maxCaptured = 16384
	// maxCapturedSize is the longest password that is kept.
	maxCapturedSize = 1024
)

// captured keeps passwords of users who logged in while a move waits for that.
// They are sealed by a key of this process and never leave its memory. Safe for
// concurrent use.
type captured struct {
	aead cipher.AEAD
	log  *slog.Logger

	mu    sync.Mutex
	users map[string]*capture // whose moves want a password, by canonical name; guarded by mu
	kept  int                 // with a password; guarded by mu
}

// capture is what a move wants, and maybe has.
type capture struct {
	store  string
	batch  *batch
	name   string // as the batch names the user
	sealed []byte // behind its nonce; nil: none
	until  time.Time
}

func newCaptured(log *slog.Logger) (*captured, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &captured{aead: aead, log: log, users: map[string]*capture{}}, err
}

// ask says that a user's move wants their password at a store, now and from
// every login until leave; ok: there is one.
func (c *captured) ask(user, store string, b *batch, name string) (password backend.Secret, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.users[user]
	if w == nil || w.batch != b || w.store != store {
		c.wipe(w)
		w = &capture{store: store, batch: b, name: name}
		c.users[user] = w
	}
	return c.open(user, w)
}

// open unseals a password; callers hold mu.
func (c *captured) open(user string, w *capture) (backend.Secret, bool) {
	if w.sealed != nil && !time.Now().Before(w.until) {
		c.wipe(w)
	}
	if w.sealed == nil {
		return "", false
	}
	n := c.aead.NonceSize()
	text, err := c.aead.Open(nil, w.sealed[:n], w.sealed[n:], []byte(user))
	if err != nil {
		c.wipe(w)
		return "", false
	}
	defer clear(text)
	return backend.Secret(text), true
}

// wipe forgets a password; callers hold mu.
func (c *captured) wipe(w *capture) {
	if w != nil && w.sealed != nil {
		clear(w.sealed)
		w.sealed = nil
		c.kept--
	}
}

// has reports that a move has its user's password.
func (c *captured) has(user string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.users[user]
	return w != nil && w.sealed != nil
}

// put keeps the password of a user whose move wants it, for so long.
func (c *captured) put(store *backend.Store, user string, password backend.Secret) {
	c.mu.Lock()
	w := c.users[user]
	if w == nil || w.store != store.Name {
		c.mu.Unlock()
		return
	}
	if w.sealed == nil && c.kept >= maxCaptured || len(password) > maxCapturedSize {
		c.mu.Unlock()
		c.log.Warn("a login was not captured: there is no room", "user", user, "store", store.Name)
		return
	}
	nonce := make([]byte, c.aead.NonceSize(), c.aead.NonceSize()+len(password)+c.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		c.mu.Unlock()
		return
	}
	c.wipe(w)
	text := []byte(password.Reveal())
	w.sealed, w.until = c.aead.Seal(nonce, nonce, text, []byte(user)), time.Now().Add(store.Login.Capture)
	clear(text)
	c.kept++
	b, name, until := w.batch, w.name, w.until
	c.mu.Unlock()
	c.log.Info("login captured for a move", "user", user, "store", store.Name, "batch", b.spec.ID,
		"consent", "stores."+store.Name+".login.capture", "until", until.UTC().Format(time.RFC3339))
	b.loggedIn(name)
}

// refused forgets a password that the store did not take; one that was captured
// meanwhile stays.
func (c *captured) refused(user string, password backend.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.users[user]; w != nil {
		if have, ok := c.open(user, w); ok && have == password {
			c.wipe(w)
		}
	}
}

// leave ends what a batch wanted of a user, leaveAll of everybody.
func (c *captured) leave(user string, b *batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.users[user]; w != nil && w.batch == b {
		c.wipe(w)
		delete(c.users, user)
	}
}

func (c *captured) leaveAll(b *batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for user, w := range c.users {
		if w.batch == b {
			c.wipe(w)
			delete(c.users, user)
		}
	}
}

// expire forgets passwords whose time is over.
func (c *captured) expire(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.users {
		if !now.Before(w.until) {
			c.wipe(w)
		}
	}
}

// LoggedIn hands over the password with which a user (their canonical name) has
// just logged in at a store. It is kept only where the store's configuration
// allows it (Login.Capture) and a move of the user wants it, sealed in memory,
// until the move is done or that time is over. It is quick and may be called by many at once.
func (e *Engine) LoggedIn(store, user string, password backend.Secret) {
	if s := e.opt.Stores[store]; s != nil && s.Login.Captures() && password != "" {
		e.captured.put(s, user, password)
	}
}

// WaitingForLogin counts the users whose moves wait for a login.
func (e *Engine) WaitingForLogin() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range e.batches {
		if b.active() {
			b.mu.Lock()
			n += b.counts[Waiting]
			b.mu.Unlock()
		}
	}
	return n
}

// captures reports that the user's mail is read by a password that only they know.
func (d *driver) captures() bool {
	o := d.b.spec.Each[d.user]
	return d.route.from != nil && d.route.from.Login.Captures() && o.Password == "" && o.PasswordFile == ""
}

// awaiting is the event for an error that only another login of the user ends.
func (d *driver) awaiting(err error) (Event, bool) {
	switch {
	case errors.Is(err, errAwaitsLogin):
		return Event{Kind: EvAwait, Reason: reasonAwaits}, true
	case d.captures() && backend.IsKind(err, backend.KindAuthentication):
		return Event{Kind: EvAwait, Reason: reasonRefused}, true
	}
	return Event{}, false
}

// loggedIn puts a user who waited for a login back into the line.
func (b *batch) loggedIn(user string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.queue != nil && b.queue.awake(user) {
		b.changed()
	}
}
