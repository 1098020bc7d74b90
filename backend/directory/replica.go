package directory

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
)

// Feeds are the ways in which a replica learns of changes. FeedAuto takes the
// best that the server offers.
const (
	FeedAuto     = "auto"
	FeedSyncrepl = "syncrepl" // RFC 4533, refreshAndPersist (OpenLDAP): pushed
	FeedDirSync  = "dirsync"  // Active Directory: asked for every Poll
	FeedPoll     = "poll"     // by modifyTimestamp or whenChanged, every Poll
)

// ReplicaOptions configure a Replica.
type ReplicaOptions struct {
	// Source is asked, and copied. It stays the caller's to close, after Close.
	Source *LDAP
	// Path keeps the replica over a restart; empty: memory alone.
	Path string
	Feed string // default FeedAuto
	// Poll is how often changes are asked for (0: 2 s for FeedDirSync, else
	// 30 s). Full is how often everything is read anew; only so does FeedPoll
	// see what was deleted (0: 1 h; with the other feeds, a day).
	Poll, Full time.Duration
	// Stale is for how long a replica stands in for directories that are away
	// (0: 7 days).
	Stale time.Duration
	// MaxUsers bounds memory (0: 2,000,000). A directory with more has no
	// replica.
	MaxUsers int
	// Changed is called after a change, with the handles and the names that
	// entries had or have; Chain.Changed fits. It must not call back.
	Changed  func(directory string, ids, names []string)
	Logger   *slog.Logger
	Registry prometheus.Registerer // nil: no metrics
}

// Replica is a directory with a copy of all its users' routes. While changes
// flow in, names that it knows are answered from memory, others by the source;
// when the source cannot tell, by what was copied, within Stale. It never says
// that nobody has a name. Passwords are checked by the source.
type Replica struct {
	o      ReplicaOptions
	src    *LDAP
	log    *slog.Logger
	now    func() time.Time
	wanted []string
	cancel context.CancelFunc
	wg     sync.WaitGroup
	gauge  prometheus.Gauge

	mu      sync.Mutex
	table   *entryTable
	head    replicaHeader
	live    bool                 // changes flow in
	doubt   map[entryID]struct{} // changed by us, or suspected: ask the source
	dirty   bool                 // differs from the file
	changed chan struct{}        // closed at each change of state; for waiting
}

var (
	_ backend.Directory   = (*Replica)(nil)
	_ backend.RouteWriter = (*Replica)(nil)
	_ backend.UserLister  = (*Replica)(nil)
)

// NewReplica checks the options and reads the file; Start begins to copy.
func NewReplica(o ReplicaOptions) (*Replica, error) {
	o.Feed = cmp.Or(o.Feed, FeedAuto)
	o.Stale = cmp.Or(o.Stale, 7*24*time.Hour)
	o.MaxUsers = cmp.Or(o.MaxUsers, 2_000_000)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := o.Source
	if g, ok := d.form.(generic); ok {
		if _, err := testedAttributes(g.d.o.Filter); err != nil {
			return nil, backend.Errorf(backend.KindInvalid, "", "directory %s: %w", d.Name(), err)
		}
	}
	r := &Replica{o: o, src: d, log: o.Logger.With("directory", d.Name()), now: d.o.Now, wanted: d.replicated(),
		table: newEntryTable(d.form.tested()), doubt: map[entryID]struct{}{}, changed: make(chan struct{})}
	r.gauge = prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailferry_directory_replica_users",
		Help: "Users in the replica of a directory.", ConstLabels: prometheus.Labels{"directory": d.Name()}})
	if o.Registry != nil {
		if err := o.Registry.Register(r.gauge); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// load reads the file, when there is one.
func (r *Replica) load() {
	if r.o.Path == "" {
		return
	}
	t := newEntryTable(r.table.names)
	h, err := readReplica(r.o.Path, r.src.source(), r.o.MaxUsers, func(id entryID, row string) {
		if in, err := unpackEntry(row); err == nil {
			t.put(id, in)
		}
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return
	case err != nil:
		r.log.Warn("the replica on disk is not used", "error", err)
		return
	}
	if ad, ok := r.src.form.(*activeDirectory); ok && h.Realm != "" {
		ad.learn(h.Domain, h.Realm)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table, r.head = t, h
	r.note()
	r.log.Info("replica of the directory is read", "users", len(t.rows), "last_contact", h.Contact)
}

// note tells those who wait, and the metrics. The caller holds mu.
func (r *Replica) note() {
	r.gauge.Set(float64(len(r.table.rows)))
	close(r.changed)
	r.changed = make(chan struct{})
}

// Start reads the file and begins to copy; it does not wait.
func (r *Replica) Start() {
	r.load()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.wg.Go(func() { r.run(ctx) })
}

// Close ends the copying and writes the file.
func (r *Replica) Close() error {
	if r.cancel == nil {
		return nil
	}
	r.cancel()
	r.wg.Wait()
	r.cancel = nil
	return r.save()
}

// save writes the file when something changed since it was written.
func (r *Replica) save() error {
	r.mu.Lock()
	if r.o.Path == "" || !r.dirty || r.head.Complete.IsZero() {
		r.mu.Unlock()
		return nil
	}
	h := r.head
	h.Directory, h.Source = r.src.Name(), r.src.source()
	if ad, ok := r.src.form.(*activeDirectory); ok {
		h.Domain, h.Realm, _ = ad.recall()
	}
	rows := make(map[entryID]string, len(r.table.rows)) // rows never change: this copies headers alone
	for id, row := range r.table.all() {
		rows[id] = row
	}
	r.dirty = false
	r.mu.Unlock()
	err := writeReplica(r.o.Path, h, rows)
	if err != nil {
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
		r.log.Error("replica of the directory is not written", "error", err)
	}
	return err
}

// Name is the source's.
func (r *Replica) Name() string { return r.src.Name() }

// Live reports whether the replica is complete and changes flow in.
func (r *Replica) Live() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live
}

// trusted reports whether what is known may be answered without asking.
// Nobody tells of users who leave a group, so groups are always asked for.
func (r *Replica) trusted() bool {
	ad, ok := r.src.form.(*activeDirectory)
	return r.live && !(ok && ad.grouped)
}

// Lookup implements backend.Directory.
func (r *Replica) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	if !validName(name) {
		return backend.Entry{}, notFound(r.Name(), name)
	}
	found, err, sure := r.recall(ctx, name)
	if sure {
		return found, err
	}
	in, asked := r.src.find(ctx, name)
	if asked == nil {
		e, asked := r.src.entry(in)
		r.settle(name, found, e)
		return e, asked
	}
	if backend.IsKind(asked, backend.KindUnavailable) && (err != nil || found.User != "") && r.fresh() {
		r.log.Debug("directory cannot tell, its replica is used", "name", name, "error", asked)
		return found, err
	}
	return backend.Entry{}, asked
}

// LookupFresh asks the source, whatever is known. KindUnavailable: it is away.
func (r *Replica) LookupFresh(ctx context.Context, name string) (backend.Entry, error) {
	if tracing(ctx) {
		trace(ctx, "replica of directory "+r.Name(), "%s; the directory itself is asked here", r.state())
	}
	return r.src.Lookup(ctx, name)
}

// Fresh is a lookup that no memory answers, for decisions that last.
func Fresh(ctx context.Context, d backend.Directory, name string) (backend.Entry, error) {
	type fresh interface {
		LookupFresh(ctx context.Context, name string) (backend.Entry, error)
	}
	if f, ok := d.(fresh); ok {
		return f.LookupFresh(ctx, name)
	}
	return d.Lookup(ctx, name)
}

// settle ends the doubt about a name when the source says what was known.
func (r *Replica) settle(name string, known, told backend.Entry) {
	if known.User != "" && reflect.DeepEqual(known, told) {
		r.suspect(name, false)
	}
}

// recall answers from memory: an entry, or the refusal of an ambiguous one.
// Neither: the name is not here. sure: there is no need to ask the source.
func (r *Replica) recall(ctx context.Context, name string) (e backend.Entry, err error, sure bool) {
	if ad, ok := r.src.form.(*activeDirectory); ok {
		if _, _, known := ad.recall(); !known {
			return e, nil, false
		}
	}
	filter, none, err := r.src.form.find(ctx, name)
	if err != nil || none {
		return e, nil, false
	}
	t, err := compileTest(filter, r.table.names)
	if err != nil {
		return e, nil, false
	}
	r.mu.Lock()
	ids, found := r.table.find(t)
	sure = r.trusted() && len(found) > 0
	for _, id := range ids {
		if _, doubted := r.doubt[id]; doubted {
			sure = false
		}
	}
	r.mu.Unlock()
	switch len(found) {
	case 0:
		return e, nil, false
	case 1:
		e, err = r.src.entry(found[0])
		return e, err, sure
	}
	return e, r.src.ambiguous(name, found[0].DN, found[1].DN), sure
}

// fresh reports whether the copy is young enough to stand in.
func (r *Replica) fresh() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.head.Complete.IsZero() && r.now().Sub(r.head.Contact) < r.o.Stale
}

// Invalidate makes the next lookups of a name ask the source, until the feed
// has brought the entry again or the source has said the same.
func (r *Replica) Invalidate(name string) {
	if validName(name) {
		r.suspect(name, true)
	}
}

func (r *Replica) suspect(name string, doubted bool) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing is to be asked
	filter, none, err := r.src.form.find(ctx, name)
	if err != nil || none {
		return
	}
	t, err := compileTest(filter, r.table.names)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ids, _ := r.table.find(t)
	for _, id := range ids {
		if doubted {
			r.doubt[id] = struct{}{}
		} else {
			delete(r.doubt, id)
		}
	}
}

// Authenticate implements backend.Directory.
func (r *Replica) Authenticate(ctx context.Context, e backend.Entry, password backend.Secret) error {
	return r.src.Authenticate(ctx, e, password)
}

// AuthenticateNobody spends the time of a failing Authenticate.
func (r *Replica) AuthenticateNobody(ctx context.Context, password backend.Secret) {
	r.src.AuthenticateNobody(ctx, password)
}

// SetStore implements backend.RouteWriter; until the feed has brought the
// change, the user's entry is read from the source.
func (r *Replica) SetStore(ctx context.Context, e backend.Entry, store string) error {
	err := r.src.SetStore(ctx, e, store)
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, row := range r.table.all() {
		if dn, _, _ := cutString(row); strings.EqualFold(dn, e.ID) {
			r.doubt[id] = struct{}{}
		}
	}
	return err
}

// Users lists the source's users.
func (r *Replica) Users(ctx context.Context, filter string) iter.Seq2[backend.Entry, error] {
	return r.src.Users(ctx, filter)
}
