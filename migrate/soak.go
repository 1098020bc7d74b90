package migrate

import (
	"cmp"
	priority "container/heap"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mailferry/backend"
)

// soakWorkers is how many soaking users are looked at, rolled back or finalised
// at a time, over all batches.
const soakWorkers = 4

// soaks look after the users of all batches who are soaking: each is looked at
// in turn, and orders go first. Safe for concurrent use.
type soaks struct {
	e *Engine

	mu    sync.Mutex
	m     map[soakKey]*soakEntry // guarded by mu
	names map[string]int         // of users, as batches and the directory name them; guarded by mu
	queue soakQueue              // those nobody works on; guarded by mu
	wake  chan struct{}          // guarded by mu; closed and replaced when the queue changes
	once  sync.Once
}

type soakKey struct {
	batch BatchID
	user  string
}

// soakOrder is what an operator wants of a soaking user.
type soakOrder uint8

const (
	orderLook soakOrder = iota
	orderRollback
	orderFinalise
)

type soakEntry struct {
	b        *batch
	user     string
	names    []string
	due      time.Time
	order    soakOrder
	failures int
	at       int // in the queue; -1: somebody works on it
}

// soakQueue is a heap: orders first, then who is due.
type soakQueue []*soakEntry

func (q soakQueue) Len() int { return len(q) }
func (q soakQueue) Less(i, j int) bool {
	if x, y := q[i].order != orderLook, q[j].order != orderLook; x != y {
		return x
	}
	return q[i].due.Before(q[j].due)
}
func (q soakQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i]; q[i].at, q[j].at = i, j }
func (q *soakQueue) Push(x any) {
	en := x.(*soakEntry)
	en.at = len(*q)
	*q = append(*q, en)
}
func (q *soakQueue) Pop() any {
	old := *q
	en := old[len(old)-1]
	old[len(old)-1] = nil
	*q, en.at = old[:len(old)-1], -1
	return en
}

func newSoaks(e *Engine) *soaks {
	return &soaks{e: e, m: make(map[soakKey]*soakEntry), names: make(map[string]int), wake: make(chan struct{})}
}

// errSoaking refuses to move a user onwards whose last move may be rolled back.
func errSoaking(user string) error {
	return backend.Errorf(backend.KindConflict, "The user's last move is soaking: finalise it, or roll it back, first.", "user %q", user)
}

// add takes a soaking user on.
func (s *soaks) add(b *batch, user string, due time.Time) {
	s.once.Do(func() {
		for range soakWorkers {
			s.e.wg.Go(func() { s.work(s.e.ctx) })
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	key := soakKey{b.spec.ID, user}
	if s.m[key] != nil {
		return
	}
	en := &soakEntry{b: b, user: user, due: due, names: []string{user}}
	if r, ok := b.routes.get(user); ok && r.User != user {
		en.names = append(en.names, r.User)
	}
	for _, n := range en.names {
		s.names[n]++
	}
	if b.moveOf(user).Back {
		en.order = orderRollback
	}
	s.m[key] = en
	priority.Push(&s.queue, en)
	s.changed()
}

// restore takes on the users of a batch who were soaking when the process ended.
func (s *soaks) restore(b *batch, r *replayed) {
	for n, u := range r.spec.Users {
		if m, ok := r.moves[u]; ok && m.State == Soaking { // not all at once
			s.add(b, u, time.Now().Add(time.Duration(n)*time.Millisecond))
		}
	}
}

// rebind gives the users of a batch that was read anew to it.
func (s *soaks) rebind(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, en := range s.m {
		if en.b.spec.ID == b.spec.ID {
			en.b = b
		}
	}
}

// has reports whether a user is soaking.
func (s *soaks) has(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[user] > 0
}

// changed wakes the workers; callers hold mu.
func (s *soaks) changed() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// next waits for a user whose turn it is.
func (s *soaks) next(ctx context.Context) *soakEntry {
	for ctx.Err() == nil {
		s.mu.Lock()
		var at time.Time
		if len(s.queue) > 0 {
			if at = s.queue[0].due; s.queue[0].order != orderLook || !at.After(time.Now()) {
				en := priority.Pop(&s.queue).(*soakEntry)
				s.mu.Unlock()
				return en
			}
		}
		wake := s.wake
		s.mu.Unlock()
		await(ctx, wake, at)
	}
	return nil
}

func (s *soaks) work(ctx context.Context) {
	for {
		en := s.next(ctx)
		if en == nil {
			return
		}
		s.mu.Lock()
		order, b := en.order, en.b
		s.mu.Unlock()
		failed := s.e.soakTurn(ctx, b, en.user, order)
		s.mu.Lock()
		if en.failures++; !failed {
			en.failures = 0
		}
		if m := en.b.moveOf(en.user); m.State != Soaking {
			delete(s.m, soakKey{en.b.spec.ID, en.user})
			for _, n := range en.names {
				if s.names[n]--; s.names[n] == 0 {
					delete(s.names, n)
				}
			}
			if m.Done() { // else whoever still works on it does
				s.e.forgetSoak(en.b, en.user)
			}
		} else {
			if en.order == order {
				en.order = orderLook
			}
			en.due = time.Now().Add(s.e.timing.Soak << min(en.failures, 6))
			priority.Push(&s.queue, en)
		}
		s.changed()
		s.mu.Unlock()
	}
}

// order tells what to do with a user next. KindNotFound: the user is not soaking.
func (s *soaks) order(b *batch, user string, o soakOrder) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	en := s.m[soakKey{b.spec.ID, user}]
	if en == nil {
		return backend.Errorf(backend.KindNotFound, "The user is not soaking.", "user %q of batch %s is %s", user, b.spec.ID, b.moveOf(user).State)
	}
	en.order = o
	if en.at >= 0 {
		priority.Fix(&s.queue, en.at)
	}
	s.changed()
	return nil
}

// sweep removes the maps of users who soak no longer: a crash may have left them.
func (s *soaks) sweep() {
	dir := filepath.Join(s.e.opt.Dir, soakDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // there is none
	}
	keep := make(map[string]bool)
	s.e.mu.Lock()
	for id, b := range s.e.batches { // holds that a crash cut off are being ended meanwhile
		for _, u := range b.heldOrSoaking() {
			keep[s.e.soakDir(id, u)] = true
		}
	}
	s.e.mu.Unlock()
	s.mu.Lock()
	for key := range s.m {
		keep[s.e.soakDir(key.batch, key.user)] = true
	}
	s.mu.Unlock()
	for _, x := range entries {
		if path := filepath.Join(dir, x.Name()); !keep[path] {
			if err := os.RemoveAll(path); err != nil {
				s.e.log.Warn("a map of UIDs is left", "dir", path, "error", err)
			}
		}
	}
}

// forgetSoak removes what only a soak needs.
func (e *Engine) forgetSoak(b *batch, user string) {
	if err := os.RemoveAll(e.soakDir(b.spec.ID, user)); err != nil {
		e.log.Warn("a map of UIDs is left", "user", user, "error", err)
	}
	e.sweepSecrets()
}

// soakTurn does what is to do for a user; it reports a failure.
func (e *Engine) soakTurn(ctx context.Context, b *batch, user string, order soakOrder) (failed bool) {
	d := e.driver(b, user, false)
	if d.move.State == Soaking && order == orderRollback {
		return e.rollBackTurn(ctx, d)
	}
	defer func() { e.leases.leave(d.route.entry.User, d.lease()) }()
	if d.move.State != Soaking {
		return false
	}
	defer d.cleanup()
	err := d.look(ctx)
	if over := time.Now().Unix() >= d.move.SoakUntil; ctx.Err() == nil && (order == orderFinalise || over && err == nil) {
		if err != nil { // the old store may be gone for good
			d.log.Warn("the old store could not be looked at before the end of the soak", "error", err)
		}
		err = d.finalise(ctx)
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		d.log.Warn("soak", "error", err)
	}
	d.because(err)
	return err != nil
}

// rollBackTurn returns when the user is back on the old store, or stays on the
// new one. What is owed behind the flip back takes no worker: the directory may
// be away for long.
func (e *Engine) rollBackTurn(ctx context.Context, d *driver) (failed bool) {
	back, ended := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var err error
	e.wg.Go(func() {
		defer close(ended)
		defer func() { e.leases.leave(d.route.entry.User, d.lease()) }()
		d.b.running(d.user, true)
		defer d.b.running(d.user, false)
		err = d.rollBack(ctx, func(m Move) {
			if m.State == RolledBack {
				once.Do(func() { close(back) })
			}
		})
		if err != nil && ctx.Err() == nil {
			d.log.Error("roll-back ended", "state", d.move.State, "error", err)
		}
		if d.move.State == RolledBack && d.move.Done() {
			e.forgetSoak(d.b, d.user)
		}
	})
	select {
	case <-back:
		return false
	case <-ended:
		return d.move.State == Soaking && ctx.Err() == nil
	}
}

// look is one pass over both stores, without hurry: it lets holds pass.
func (d *driver) look(ctx context.Context) error {
	if err := d.e.yield(ctx); err != nil {
		return err
	}
	if err := d.openReverse(ctx); err != nil {
		return err
	}
	return d.reversePass(ctx)
}

// reversePass is a pass, with what there is to tell of it.
func (d *driver) reversePass(ctx context.Context) error {
	late, p, err := d.rev.pass(ctx)
	followed := 0
	if p != nil {
		followed = p.Copied + p.Vanished + p.Flagged
	}
	if f := d.e.opt.Metrics.Soak; f != nil && late+followed > 0 {
		f(late, followed)
	}
	if late+followed > 0 {
		d.log.Info("soak", "late", late, "followed", followed)
	}
	if ctx.Err() == nil && (err == nil || late > 0) && d.hold == nil {
		d.noteSoak(func(s *SoakReport) {
			s.Late += len(d.rev.late)
			s.LateMail = append(s.LateMail, d.rev.late...)
			if err == nil {
				s.Exceptions = d.rev.notes()
			}
		})
		d.rev.late = nil
	}
	return err
}

// because shows what keeps a soaking user from following, or from the end.
func (d *driver) because(err error) {
	m := d.move
	if m.State != Soaking {
		return
	}
	reason := ""
	if err != nil {
		reason = err.Error()
	} else if m.Reason != "" && len(m.Reason) > len(notRolledBack) && m.Reason[:len(notRolledBack)] == notRolledBack {
		return // until the next order
	}
	if reason == m.Reason {
		return
	}
	m.Reason = reason
	if err := d.become(m); err != nil {
		d.log.Error("journal", "error", err)
	}
}

// finalise ends the soak, when the certificate is clean, and the directory and
// the placement say the new store.
func (d *driver) finalise(ctx context.Context) error {
	if err := d.findRoute(ctx); err != nil {
		return err
	}
	c, err := readCertificate(d.b.journal.dir, d.user)
	switch {
	case err != nil:
		return fmt.Errorf("certificate: %w", err)
	case c.Level != "compared", c.Grade != "perfect" && c.Grade != "exceptions" && !d.b.spec.AllowSkipped:
		return backend.Errorf(backend.KindConflict, "The certificate is not clean.", "it is %s, %s", c.Level, c.Grade)
	}
	p, ok, err := d.e.opt.Placements.Get(ctx, d.route.entry.User)
	switch {
	case err != nil:
		return err
	case !ok || p.State != backend.PlacementActive || p.Store != d.route.to.Name:
		return backend.Errorf(backend.KindConflict, "The user is elsewhere by now.", "placement: %s on %q, not on %q", p.State, p.Store, d.route.to.Name)
	}
	entry, err := d.e.opt.Lookup(ctx, d.user)
	switch {
	case err != nil:
		return fmt.Errorf("directory: %w", err)
	case entry.Store != d.route.to.Name:
		return backend.Errorf(backend.KindConflict, "The directory does not name the new store yet.", "it says %q, not %q", entry.Store, d.route.to.Name)
	}
	next, _ := d.move.Next(Event{Kind: EvSettled})
	return d.become(next)
}

// Rollback brings soaking users back to their old store: all of the batch, or
// those named. It returns when the orders are given; users shows how it goes.
// KindNotFound: nobody is soaking there.
func (e *Engine) Rollback(id BatchID, users []string) (BatchID, []string, error) {
	return e.orderSoaks(id, users, orderRollback)
}

// Finalise ends soaks before their time, like Rollback.
func (e *Engine) Finalise(id BatchID, users []string) (BatchID, []string, error) {
	return e.orderSoaks(id, users, orderFinalise)
}

// orderSoaks finds the batch of users when none is named: the latest in which
// all of them are soaking.
func (e *Engine) orderSoaks(id BatchID, users []string, o soakOrder) (BatchID, []string, error) {
	if id == "" && len(users) > 0 {
		if id = e.soaks.batchOf(users); id == "" {
			text := "These users are not all soaking, or not in one batch: mailferry migrate show tells their states."
			if len(users) == 1 {
				text = "The user is not soaking: mailferry migrate show tells the state."
			}
			return "", nil, backend.Errorf(backend.KindNotFound, text, "users %q", users)
		}
	}
	b, err := e.batch(id)
	if err != nil {
		return "", nil, err
	}
	if len(users) == 0 {
		users = b.soaking()
	}
	if len(users) == 0 {
		return "", nil, backend.Errorf(backend.KindNotFound, "Nobody of this batch is soaking.", "batch %s", b.spec.ID)
	}
	for k, u := range users {
		if users[k] = e.soaks.named(b, u); users[k] == "" {
			return "", nil, backend.Errorf(backend.KindNotFound, "The user is not soaking.", "user %q of batch %s", u, b.spec.ID)
		}
	}
	for _, u := range users {
		if err := e.soaks.order(b, u, o); err != nil {
			return "", nil, err
		}
	}
	return b.spec.ID, users, nil
}

// ordered are the users of a batch whose order waits, or is being carried out.
func (s *soaks) ordered(id BatchID) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]bool)
	for key, en := range s.m {
		if key.batch == id && en.order != orderLook {
			out[key.user] = true
		}
	}
	return out
}

// named is a soaking user as the batch names them; empty: there is none.
func (s *soaks) named(b *batch, user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[soakKey{b.spec.ID, user}] != nil {
		return user
	}
	for _, en := range s.m {
		if en.b == b && slices.Contains(en.names, user) {
			return en.user
		}
	}
	return ""
}

// batchOf is the latest batch in which all users are soaking.
func (s *soaks) batchOf(users []string) (latest BatchID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[BatchID]int)
	for _, u := range users {
		in := make(map[BatchID]bool)
		for _, en := range s.m {
			if slices.Contains(en.names, u) {
				in[en.b.spec.ID] = true
			}
		}
		for id := range in {
			found[id]++
		}
	}
	for id, n := range found {
		if n == len(users) && cmp.Compare(id, latest) > 0 {
			latest = id
		}
	}
	return latest
}

// heldOrSoaking are the users whose old store follows, or may have to again: no
// user comes from another state to a soak that has a map already.
func (b *batch) heldOrSoaking() (users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.spec.Users {
		if m := b.moves[u]; m.held() || m.State == Soaking {
			users = append(users, u)
		}
	}
	return users
}

// soaking are the batch's users in that state.
func (b *batch) soaking() (users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.spec.Users {
		if b.moves[u].State == Soaking {
			users = append(users, u)
		}
	}
	return users
}
