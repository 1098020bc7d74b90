package target

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Options are what an Importer of one user's account at a foreign store needs.
type Options struct {
	// Dir keeps the map of this pair of accounts; it is locked while in use.
	Dir string
	// Dial logs in to the target.
	Dial func(context.Context) (*remote.Client, error)
	// DialSieve logs in to the target's ManageSieve; nil: it has none. DialAdmin
	// logs in to its IMAP as the administrator who otherwise acts for the user;
	// nil: nobody does.
	DialSieve func(context.Context) (*remote.TextConn, error)
	DialAdmin func(context.Context) (*remote.Client, error)
	// From and To are the user's names on both sides; empty: as Import has it.
	From, To string
	Rules    *Rules // nil: none
	Log      *slog.Logger
	// Settle is how long a target may go on filing what a broken connection
	// had sent; default 2 s.
	Settle time.Duration
	// Exact is set where the target follows the store to which its users moved;
	// the Import is a Follower then.
	Exact *Exact
}

// New makes an Importer for one user.
func New(o Options) backend.Importer {
	if o.Rules == nil {
		o.Rules = &Rules{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Settle = cmp.Or(o.Settle, 2*time.Second)
	return &importer{o: o}
}

// Import implements backend.Importer. KindConflict: another copy between the
// same accounts is running. The Import is an io.Closer.
func (f *importer) Import(ctx context.Context, user string, o backend.ImportOptions) (backend.Import, error) {
	i, err := f.opened(ctx, user)
	if err != nil {
		return nil, err
	}
	i.source = o.Namespace
	return i, nil
}

// open locks and reads the maps of a user.
func (o Options) open(user string) (*account, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	i := &account{o: o, user: user, boxes: make(map[backend.MailboxName]*mailbox),
		ours: make(map[string]bool), notes: make(map[string]backend.ImportNote)}
	if err := i.lock(); err != nil {
		return nil, err
	}
	if err := i.load(); err != nil {
		i.Close()
		return nil, err
	}
	if o.Exact != nil {
		var err error
		if i.late, err = openLate(o.Dir); err != nil {
			i.Close()
			return nil, err
		}
	}
	return i, nil
}

// account is a user's account at the target: a backend.ForeignImport.
type account struct {
	// Set at start; source by Import.
	o      Options
	user   string
	source backend.Namespace
	locked *os.File

	mu     sync.Mutex // of the connection, and what hangs on it
	client *remote.Client
	app    *remote.Appender
	lost   time.Time  // when a connection broke that had sent messages
	sent   []*sending // whose answers may not be filed
	broken int        // connections that broke

	surveyed time.Time // when Begin made list; guarded by mu
	noLogin  error     // of Begin, not told yet; guarded by mu

	state    sync.Mutex // below mu
	boxes    map[backend.MailboxName]*mailbox
	files    int
	index    *os.File
	notes    map[string]backend.ImportNote
	list     *remote.Account // the target as of the last Prepare
	prepared map[backend.MailboxName]bool
	created  map[string]bool                            // by this process; guarded by mu
	ours     map[string]bool                            // names whose subscription a copy made; guarded by mu
	orphans  map[string]bool                            // names that a copy took away; guarded by mu
	uses     map[backend.MailboxName][]imap.MailboxAttr // of the source; guarded by mu

	// Of an exact target.
	late       *lateLog
	watched    bool // list is of the Watch before this Prepare; guarded by mu
	displacing bool // guarded by mu
}

// lock keeps a second copy between the same accounts out.
func (i *account) lock() error {
	f, err := os.OpenFile(filepath.Join(i.o.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return backend.Errorf(backend.KindConflict, "Another copy of this account is running.", "%s: %w", f.Name(), err)
	}
	i.locked = f
	return nil
}

// indexed is a line of the index: where a mailbox's map is. The last line of a
// name counts.
type indexed struct {
	Name backend.MailboxName `json:"name"`
	Raw  string              `json:"raw"`            // at the target, on the wire, as octets
	Want string              `json:"want,omitempty"` // what the rules named it, if the target refused that
	File int                 `json:"file,omitempty"`
	From string              `json:"from,omitempty"` // its name before a rename that may not be done
	Gone bool                `json:"gone,omitempty"`
	// Of a line without a name: Raw was subscribed at the target by a copy, or,
	// with Gone, is not any more.
	Subscribed bool `json:"subscribed,omitempty"`
}

func (i *account) load() error {
	f, err := os.OpenFile(filepath.Join(i.o.Dir, "index"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	i.index = f
	known := make(map[backend.MailboxName]indexed)
	r := bufio.NewScanner(f)
	r.Buffer(nil, 1<<20)
	for r.Scan() {
		var x indexed
		if json.Unmarshal(r.Bytes(), &x) != nil {
			continue // torn by a crash: its map was not used yet
		}
		if x.Subscribed {
			if i.ours[x.Raw] = true; x.Gone {
				delete(i.ours, x.Raw)
			}
			continue
		}
		i.files = max(i.files, x.File)
		if known[x.Name] = x; x.Gone {
			delete(known, x.Name)
		}
	}
	if err := r.Err(); err != nil {
		return err
	}
	for name, x := range known {
		m, err := i.openMap(x.File)
		if err != nil {
			return err
		}
		i.boxes[name] = &mailbox{i: i, name: name, raw: x.Raw, want: x.Want, from: x.From, file: x.File, m: m}
	}
	return nil
}

func (i *account) openMap(file int) (*uidMap, error) {
	path := filepath.Join(i.o.Dir, fmt.Sprintf("%06d.map", file))
	m, err := openMap(path)
	if !errors.Is(err, errMapDamaged) {
		return m, err
	}
	// What is at the target will be known again by its content.
	i.o.Log.Error("a map of UIDs is damaged: made anew", "file", path)
	if err := os.Rename(path, path+".damaged"); err != nil {
		return nil, err
	}
	return openMap(path)
}

// record writes a line of the index, durably.
func (i *account) record(x indexed) error {
	if err := i.write(x); err != nil {
		return err
	}
	return i.index.Sync()
}

// write writes a line of the index without syncing it.
func (i *account) write(x indexed) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = i.index.Write(append(b, '\n'))
	return err
}

// Close ends the connection and gives the account free.
func (i *account) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	_ = i.quiesce()
	if i.client != nil {
		_ = i.client.Logout()
		i.client = nil
	}
	i.state.Lock()
	defer i.state.Unlock()
	for _, b := range i.boxes {
		b.m.close()
	}
	if i.index != nil {
		i.index.Close()
	}
	if i.late != nil {
		i.late.f.Close()
	}
	return i.locked.Close()
}

// Rest gives up the connection; the next command dials again.
func (i *account) Rest() {
	i.mu.Lock()
	defer i.mu.Unlock()
	_ = i.quiesce() // what was not answered is looked for when it is needed
	if i.client != nil {
		_ = i.client.Logout()
		i.client = nil
	}
}

// connect gives the connection, a new one when there is none; callers hold mu.
// Nothing is on the way afterwards.
func (i *account) connect(ctx context.Context) (*remote.Client, error) {
	if err := i.quiesce(); err != nil {
		i.o.Log.Info("connection to the target lost", "error", err)
	}
	if i.client != nil {
		return i.client, nil
	}
	var c *remote.Client
	err := i.noLogin
	if i.noLogin = nil; err == nil {
		c, err = i.o.Dial(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	i.client = c
	return c, nil
}

// quiesce waits for the answers to all APPENDs; callers hold mu.
func (i *account) quiesce() error {
	if i.app == nil {
		return nil
	}
	err := i.app.Close()
	i.app = nil
	for _, s := range i.sent { // so that nothing is in doubt that was answered
		if e := s.file(); err == nil {
			err = e
		}
	}
	i.sent = nil
	if err != nil {
		i.drop()
	}
	return err
}

// drop gives the connection up; callers hold mu.
func (i *account) drop() {
	if i.client != nil {
		_ = i.client.Close()
	}
	if i.app != nil {
		_ = i.quiesce()
	}
	if i.client != nil {
		i.client = nil
	}
	i.lost = time.Now()
	i.broken++
}

// do runs commands on the connection. One that had been idle and is gone costs
// one fresh dial; callers hold mu.
func (i *account) do(ctx context.Context, fn func(*remote.Client) error) error {
	fresh := i.client == nil
	for {
		c, err := i.connect(ctx)
		if err != nil {
			return err
		}
		err = fn(c)
		if err == nil || refusal(err) {
			return err
		}
		i.drop()
		if fresh || ctx.Err() != nil {
			return fmt.Errorf("target: %w", err)
		}
		fresh = true
	}
}

// refusal reports an error after which the connection is as good as before.
func refusal(err error) bool {
	var s *remote.StatusError
	var d *decided
	return errors.As(err, &s) || errors.As(err, &d)
}

// decided is an error of our own, not of the connection.
type decided struct{ error }

func (d *decided) Unwrap() error { return d.error }

// note keeps what the target could not take, once.
func (i *account) note(n backend.ImportNote) {
	i.state.Lock()
	defer i.state.Unlock()
	if len(i.notes) < 10000 {
		i.notes[fmt.Sprint(n.Mailbox, n.UID, n.What)] = n
	}
}

// Notes implements backend.ForeignImport.
func (i *account) Notes() (out []backend.ImportNote) {
	i.state.Lock()
	defer i.state.Unlock()
	for _, n := range i.notes {
		out = append(out, n)
	}
	return out
}

// Mailboxes implements backend.Import.
func (i *account) Mailboxes(context.Context) (out []backend.ImportedMailbox, err error) {
	i.mu.Lock() // of checked
	defer i.mu.Unlock()
	i.state.Lock()
	defer i.state.Unlock()
	for name, b := range i.boxes {
		h := b.m.header()
		stored, _ := b.m.counts()
		if !b.checked { // nobody knows what the target has by now
			h.UIDNext, h.ModSeq = 0, 0
		}
		out = append(out, backend.ImportedMailbox{ImportMailbox: backend.ImportMailbox{Name: name, UIDValidity: h.SrcValidity},
			Messages: stored, UIDNext: h.UIDNext, HighestModSeq: h.ModSeq, FirstRecent: h.FirstRecent,
			Sealed: i.o.Exact != nil && b.checked, SealedModSeq: h.ModSeq})
	}
	return out, nil
}

func (i *account) box(name backend.MailboxName) *mailbox {
	i.state.Lock()
	defer i.state.Unlock()
	return i.boxes[name]
}

// Open implements backend.Import.
func (i *account) Open(ctx context.Context, m backend.ImportMailbox) (backend.MailboxImport, error) {
	if m.NoSelect {
		return nil, nil // a level of names: there as soon as there is something below
	}
	b := i.box(m.Name)
	if b == nil || b.raw == "" {
		if err := i.Prepare(ctx, []backend.ImportMailbox{m}); err != nil {
			return nil, err
		}
		if b = i.box(m.Name); b == nil {
			return nil, backend.Errorf(backend.KindBug, "", "mailbox %q was not prepared", m.Name)
		}
	}
	if b.failed != nil {
		return nil, b.failed
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return b, b.begin(ctx, m.UIDValidity)
}

// Remove implements backend.Import. Without Rules.DeleteFolders the target keeps
// the mailbox.
func (i *account) Remove(ctx context.Context, name backend.MailboxName) error {
	b := i.box(name)
	if b == nil {
		return nil
	}
	switch {
	case !i.o.Rules.DeleteFolders:
		i.note(backend.ImportNote{Mailbox: name, What: "gone from the old store: left at the target (delete folders is off)"})
	case name == backend.Inbox || i.shared(b):
	default:
		i.mu.Lock()
		err := i.do(ctx, func(c *remote.Client) error { return c.DeleteMailbox(ctx, b.raw) })
		i.mu.Unlock()
		if err != nil && !backend.IsKind(err, backend.KindNotFound) {
			return fmt.Errorf("delete %q at the target: %w", b.raw, err)
		}
		i.mu.Lock()
		i.orphaned(b.raw)
		i.mu.Unlock()
	}
	i.state.Lock()
	defer i.state.Unlock()
	if b.name != backend.Inbox {
		delete(i.prepared, name)
	}
	delete(i.boxes, name)
	b.m.close()
	for _, suffix := range []string{"", ".flags"} {
		_ = os.Remove(b.m.path + suffix)
	}
	return i.record(indexed{Name: name, Gone: true})
}

// shared reports whether another mailbox of the source goes to the same one.
func (i *account) shared(b *mailbox) bool {
	i.state.Lock()
	defer i.state.Unlock()
	for _, o := range i.boxes {
		if o != b && o.raw == b.raw {
			return true
		}
	}
	return false
}

var errForeign = backend.NewError(backend.KindInvalid, "A foreign store cannot take over a user: its mailboxes have UIDs of their own.")

// Activate implements backend.Import: it always fails.
func (i *account) Activate(context.Context, uint64) error { return errForeign }

// Reopen implements backend.Import: it always fails.
func (i *account) Reopen(context.Context, uint64) error { return errForeign }

// Digest implements backend.Import; of the map, in the old store's terms.
func (i *account) Digest(_ context.Context, name backend.MailboxName) (d backend.MailboxDigest, err error) {
	b := i.box(name)
	if b == nil {
		return d, backend.Errorf(backend.KindNotFound, "", "mailbox %q", name)
	}
	h := b.m.header()
	d = backend.MailboxDigest{UIDValidity: h.SrcValidity, UIDNext: h.UIDNext, HighestModSeq: h.ModSeq}
	err = b.m.each(func(r record) bool {
		if r.state == stateStored {
			d.Count++
			backend.AddSum(&d.Messages, backend.SumMessage(imap.UID(r.src), b.m.flagsOf(r.flags)))
		}
		return true
	})
	return d, err
}
