package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"mailferry/backend"
)

// Engine moves batches of users. Safe for concurrent use.
type Engine struct {
	opt      Options // read-only
	timing   Timing
	log      *slog.Logger
	slots    *semaphore.Weighted // room for holds
	hosts    *hosts
	leases   leases
	captured *captured
	soaks    *soaks
	hooks    []*hookRunner
	signer   *Signer

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	endHooks context.CancelFunc
	hooksEnd sync.WaitGroup

	ticking     sync.Once
	resumed     chan struct{} // closed when Resume has read the batches
	resumedOnce sync.Once
	before      []BatchID // on disk when the engine was made; read-only

	starts sync.Mutex // one Start at a time: who is busy is looked at before

	mu      sync.Mutex
	batches map[BatchID]*batch // guarded by mu
	holding int                // users whose hold makes copying wait; guarded by mu
	calm    chan struct{}      // closed when holding is 0; guarded by mu
	closed  bool               // guarded by mu
}

// New makes an engine; before Start or Resume it writes nothing but the key
// that signs certificates, which the first one makes.
func New(o Options) (*Engine, error) {
	if o.Dir == "" || o.Placements == nil || o.Lookup == nil {
		return nil, errors.New("migrate: Dir, Placements and Lookup are needed")
	}
	if o.Holds <= 0 {
		o.Holds = 2
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{opt: o, timing: o.Timing.withDefaults(), log: o.Logger, slots: semaphore.NewWeighted(int64(o.Holds) * fullHold),
		batches: make(map[BatchID]*batch), calm: make(chan struct{}), resumed: make(chan struct{})}
	var err error
	if e.signer, err = OpenSigner(o.Dir); err != nil {
		return nil, fmt.Errorf("key of the certificates: %w", err)
	}
	if o.NoResume {
		e.resumedOnce.Do(func() { close(e.resumed) })
	} else if e.before, err = batches(o.Dir); err != nil {
		return nil, fmt.Errorf("batches on disk: %w", err)
	}
	if e.captured, err = newCaptured(o.Logger); err != nil {
		return nil, fmt.Errorf("key for captured logins: %w", err)
	}
	close(e.calm)
	e.hosts = newHosts(o.Dial)
	e.hosts.backoff = e.timing.BackOff
	ctx, end := context.WithCancel(context.Background())
	e.endHooks = end
	for _, h := range o.Hooks {
		r := newHookRunner(h, e.log, o.Metrics.Hook, e.timing.BackOff)
		e.hooks = append(e.hooks, r)
		e.hooksEnd.Go(func() { r.run(ctx) })
	}
	if o.Metrics.Throttle != nil {
		e.hosts.tell = o.Metrics.Throttle
	}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	e.soaks = newSoaks(e)
	return e, nil
}

// errClosed is the end of everything under an engine.
var errClosed = backend.NewError(backend.KindUnavailable, "The migration engine is shut down.")

// Start begins a batch and returns when it is in the journal; the moves go on
// until they are done, or the engine is closed. KindExists: the ID is taken.
// KindConflict: a user is part of a batch that runs, or that Resume has not read
// yet.
func (e *Engine) Start(ctx context.Context, spec BatchSpec) (BatchID, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if spec.ID == "" {
		spec.ID = BatchID(time.Now().UTC().Format("20060102-150405.000000"))
	}
	if !validID(spec.ID) {
		return "", backend.NewError(backend.KindInvalid, "A batch is named by letters, digits, dots and dashes.")
	}
	if len(spec.Users) == 0 {
		return "", backend.NewError(backend.KindInvalid, "No users are named.")
	}
	if !spec.POP3.Valid() {
		return "", backend.Errorf(backend.KindInvalid, "", "pop3 is %q: auto, always or never", spec.POP3)
	}
	if !spec.Order.Valid() {
		return "", backend.Errorf(backend.KindInvalid, "", "order is %q: csv, name, size or last-login", spec.Order)
	}
	if spec.OnOrder && (spec.CopyOnly || spec.Dry) {
		return "", backend.NewError(backend.KindInvalid, "A copy flips nobody: it cannot wait for an order to do so.")
	}
	spec.Users = unique(spec.Users)
	spec.order()
	if err := e.checkStores(&spec); err != nil {
		return "", err
	}
	if err := e.checkHooks(&spec); err != nil {
		return "", err
	}
	if err := e.loadedAll(ctx); err != nil {
		return "", err
	}
	e.starts.Lock()
	defer e.starts.Unlock()
	if spec.Soak > 0 && e.opt.Own == nil {
		return "", backend.NewError(backend.KindInvalid, "This engine cannot read its own store: no soak is possible.")
	}
	for _, u := range spec.Users {
		if e.soaks.has(u) {
			return "", errSoaking(u)
		}
	}
	if busy := e.busy(spec.Users); busy != "" {
		return "", errBusy(busy)
	}
	j, err := createJournal(e.dir(spec.ID), &spec, time.Now().UTC())
	if errors.Is(err, errExist) {
		return "", backend.Errorf(backend.KindExists, "A batch has this name.", "%w", err)
	}
	if err != nil {
		return "", fmt.Errorf("journal of batch %s: %w", spec.ID, err)
	}
	b := newBatch(spec, j, e.log)
	if err := e.launch(b); err != nil {
		return "", err
	}
	// It begins while its first line becomes durable: what may not be done twice
	// waits for that.
	if err := j.begun(); err != nil {
		e.withdraw(b, err)
		return "", fmt.Errorf("journal of batch %s: %w", spec.ID, err)
	}
	return spec.ID, nil
}

// withdraw ends a batch that was launched and has no journal.
func (e *Engine) withdraw(b *batch, why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.batches, b.spec.ID)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel(why)
}

func errBusy(user string) error {
	return backend.Errorf(backend.KindConflict, "A user is part of a batch that runs.", "user %q", user)
}

// checkStores wants every store that a batch names to be configured.
func (e *Engine) checkStores(spec *BatchSpec) error {
	checked := map[string]bool{}
	for _, u := range spec.Users {
		o := spec.of(u)
		if (o.To == "" || !checked[o.To]) && e.opt.Stores[o.To] == nil {
			return backend.Errorf(backend.KindInvalid, "The new store is not configured.", "store %q of user %q", o.To, u)
		}
		if o.From != "" && !checked[o.From] && e.opt.Stores[o.From] == nil {
			return backend.Errorf(backend.KindInvalid, "The old store is not configured.", "store %q of user %q", o.From, u)
		}
		checked[o.To], checked[o.From] = true, true
	}
	return e.foreign(spec)
}

func (e *Engine) dir(id BatchID) string { return filepath.Join(e.opt.Dir, string(id)) }

func validID(id BatchID) bool {
	s := string(id)
	return s != "" && s[0] != '.' && len(s) < 100 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_", r))
	})
}

func unique(users []string) (out []string) {
	seen := make(map[string]bool, len(users))
	for _, u := range users {
		if !seen[u] {
			seen[u], out = true, append(out, u)
		}
	}
	return out
}

// busy names a user who is part of a batch that is not finished.
func (e *Engine) busy(users []string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range e.batches {
		if !b.active() {
			continue
		}
		for _, u := range users {
			if !b.doneWith(u) {
				return u
			}
		}
	}
	return ""
}

// ObserveLatency tells how long a live user waited for the answer of a store, whose
// address counts where the store serves several. It is cheap and may be called by
// many at once.
func (e *Engine) ObserveLatency(store, host string, d time.Duration) {
	if s := e.opt.Stores[store]; s == nil || s.Address != "" {
		host = ""
	}
	e.hosts.observe(store, host, d)
}

// tick looks at the pace of things every second, until the engine is closed.
func (e *Engine) tick() {
	t := time.NewTicker(e.timing.Tick)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			e.hosts.tick(now)
			e.captured.expire(now)
			e.mu.Lock()
			for _, b := range e.batches {
				if b.active() {
					b.summary() // measures
				}
			}
			e.mu.Unlock()
		case <-e.ctx.Done():
			return
		}
	}
}

// launch runs a batch until it is finished or the engine is closed.
func (e *Engine) launch(b *batch) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		b.journal.close()
		return errClosed
	}
	e.batches[b.spec.ID] = b
	e.ticking.Do(func() { e.wg.Go(e.tick) })
	ctx, cancel := context.WithCancelCause(e.ctx)
	b.begin(cancel)
	e.wg.Go(func() {
		defer cancel(nil)
		e.work(ctx, b)
	})
	return nil
}

// Resume goes on with every batch on disk that is not finished, users on hold
// first; a hold that no batch knows of is ended. It is called once, when placements
// can be read; batches that were started before are left as they are. It returns
// without waiting for the moves.
func (e *Engine) Resume(ctx context.Context) error {
	defer e.resumedOnce.Do(func() { close(e.resumed) })
	e.starts.Lock() // a batch whose journal Start has just made is in e.batches, too
	defer e.starts.Unlock()
	ids, err := batches(e.opt.Dir)
	if err != nil {
		return fmt.Errorf("batches on disk: %w", err)
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e.loaded(id) != nil {
			continue
		}
		j, r, e2 := openJournal(e.dir(id))
		if errors.Is(e2, errNotBegun) {
			e.log.Warn("a batch had not begun when the process ended", "batch", id)
			err = errors.Join(err, removeNotBegun(e.dir(id)))
			continue
		}
		if e2 != nil {
			e.log.Error("batch cannot be read", "batch", id, "error", e2)
			err = errors.Join(err, e2)
			continue
		}
		b := newBatch(r.spec, j, e.log)
		b.restore(r)
		if e2 := e.launch(b); e2 != nil {
			return e2
		}
		e.soaks.restore(b, r)
	}
	e.soaks.sweep()
	e.wg.Go(e.releaseOrphans)
	return err
}

// work runs the batch's users, Parallel at a time. Users who were on hold when
// the process died come first and beside that number: they wait for it.
func (e *Engine) work(ctx context.Context, b *batch) {
	defer e.sweepSecrets()
	defer b.end()
	defer e.leases.leaveAll(b.spec.ID)
	defer e.captured.leaveAll(b)
	hot := newFollowers(ctx)
	defer hot.close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, u := range b.heldUsers() {
		wg.Go(func() {
			e.runUser(ctx, b, e.driver(b, u, false), func(m Move) bool { return !m.held() })
			b.requeue(u)
		})
	}
	crew := &crew{}
	crew.hire = func() {
		wg.Go(func() {
			for {
				u, flip, ok := b.next(ctx)
				if !ok {
					return
				}
				hot.cool(u)
				d := e.driver(b, u, flip)
				d.crew = crew
				e.runUser(ctx, b, d, func(m Move) bool { return m.State == Flipped || m.State == Ready && !b.mayFlip(u) })
				if d.move.State != Flipped {
					if d.move.State == Ready && !d.move.Done() && !b.pausing(false) && ctx.Err() == nil {
						hot.keep(d) // before anybody can take the user again
					}
					b.finished(u)
					if d.move.State == Waiting && e.captured.has(d.route.entry.User) { // they logged in just now
						b.loggedIn(u)
					}
					continue
				}
				wg.Go(func() { // the directory may be away: no worker waits for it
					e.runUser(ctx, b, d, func(Move) bool { return false })
					b.finished(u)
				})
			}
		})
	}
	crew.grow(b.parallel(e.opt.Stores))
}

func (e *Engine) driver(b *batch, user string, flip bool) *driver {
	return &driver{e: e, b: b, user: user, flip: flip, move: b.moveOf(user), log: e.log.With("batch", b.spec.ID, "user", user)}
}

func (e *Engine) runUser(ctx context.Context, b *batch, d *driver, enough func(Move) bool) {
	b.running(d.user, true)
	defer b.running(d.user, false)
	if err := d.run(ctx, enough); err != nil && ctx.Err() == nil {
		d.log.Error("move ended", "state", d.move.State, "error", err)
		if unwritten := (*journalError)(nil); errors.As(err, &unwritten) && b.journal.usable() {
			b.unwritten(d.user, unwritten)
		} else {
			b.broken(d.user, err)
		}
	}
	d.present()
	if d.move.Done() {
		e.leases.leave(d.route.entry.User, d.lease())
		e.captured.leave(d.route.entry.User, b)
	}
	if d.move.State == Soaking {
		e.soaks.add(b, d.user, time.Now())
	}
}

// holdBegins makes copying wait.
func (e *Engine) holdBegins() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.holding++; e.holding == 1 {
		e.calm = make(chan struct{})
	}
}

func (e *Engine) holdEnds() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.holding--; e.holding == 0 {
		close(e.calm)
	}
}

func (e *Engine) crowded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holding > 0
}

// yield waits until nobody is on hold.
func (e *Engine) yield(ctx context.Context) error {
	e.mu.Lock()
	calm := e.calm
	e.mu.Unlock()
	select {
	case <-calm:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *Engine) stateChanged(b *batch, user string, from, to State) {
	if f := e.opt.Metrics.State; f != nil {
		f(from, to)
	}
	e.tellHooks(b, user, from, to)
	if f := b.spec.OnChange; f != nil {
		f(b.user(user))
	}
}

func (e *Engine) passed(p *pass, octets int64) {
	if f := e.opt.Metrics.Octets; f != nil && octets > 0 {
		f(octets)
	}
	if f := e.opt.Metrics.Placed; f != nil && p != nil {
		f(p.Filed, p.Renamed)
	}
	if f := e.opt.Metrics.Messages; f != nil && p != nil {
		f(p.Copied, p.Vanished, p.Flagged)
	}
}

// Close ends all moves at their next safe point and waits for them: a hold that
// runs is flipped or aborted first. What is not done goes on at the next Resume.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel(errClosed)
	e.wg.Wait()
	e.endHooks()
	e.hooksEnd.Wait()
	return nil
}
