package migrate

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mailferry/backend"
)

// batch is a batch that this process knows.
type batch struct {
	spec    BatchSpec // read-only
	journal *journal
	routes  *routeTable
	log     *slog.Logger

	mu      sync.Mutex
	moves   map[string]Move         // guarded by mu
	status  map[string]*progressLog // guarded by mu
	queue   *queue                  // users that wait for a worker; guarded by mu
	open    int                     // users in the queue, with a worker, or in recovery; guarded by mu
	wake    chan struct{}           // closed and renewed when anything changes; guarded by mu
	paused  bool                    // guarded by mu
	halt    string                  // why it paused itself; guarded by mu
	failed0 []string                // failed before this process, and count for the rule to stop at; guarded by mu
	stopped bool                    // guarded by mu
	secrets bool                    // passwords are on the disk; guarded by mu
	again   map[string]bool         // who go on where they are when the journal takes lines again; guarded by mu
	ordered map[string]bool         // users who may be flipped, where an order is needed; guarded by mu
	ended   bool                    // no worker is left; guarded by mu
	counts  map[State]int           // guarded by mu
	sum     figures                 // of users who are not at work; guarded by mu
	atWork  map[string]*progressLog // at work; guarded by mu
	pace    estimator               // guarded by mu
	dirty   map[int]map[string]bool // changed users, for each who watches; guarded by mu
	cancel  context.CancelCauseFunc // guarded by mu

	watchers int // ever; guarded by mu

	// silent has, by address, how a port that nobody named did not answer: the
	// batch's other users need not wait for it.
	silent sync.Map
}

// progressLog is what status shows of a user.
type progressLog struct {
	progress *Progress // nil: never looked at
	kept     figures   // what progress was at the end of a process before
	began    time.Time
	ended    time.Time
	running  bool
	err      string
	away     string // why no connection can be made to a store; empty: it can
}

// routeTable keeps where users come from.
type routeTable struct {
	mu sync.Mutex
	m  map[string]savedRoute // guarded by mu
}

func (t *routeTable) put(user string, r savedRoute) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m[user] = r
}

func (t *routeTable) get(user string) (savedRoute, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.m[user]
	return r, ok
}

func newBatch(spec BatchSpec, j *journal, log *slog.Logger) *batch {
	b := &batch{spec: spec, journal: j, log: log, routes: &routeTable{m: make(map[string]savedRoute)},
		moves: make(map[string]Move, len(spec.Users)), status: make(map[string]*progressLog, len(spec.Users)), wake: make(chan struct{}),
		ordered: map[string]bool{}, again: map[string]bool{}, counts: map[State]int{}, atWork: map[string]*progressLog{}, dirty: map[int]map[string]bool{}}
	logs := make([]progressLog, len(spec.Users))
	for i, u := range spec.Users {
		b.moves[u] = spec.newMove()
		b.status[u] = &logs[i]
	}
	b.counts[Listed] = len(spec.Users)
	for _, o := range spec.Each {
		b.secrets = b.secrets || o.Password != ""
	}
	return b
}

// restore takes over what the journal says.
func (b *batch) restore(r *replayed) {
	for u, m := range r.moves {
		m.until, m.soak = b.spec.until(), b.spec.Soak > 0
		b.counts[b.moves[u].State]--
		b.counts[m.State]++
		b.moves[u] = m
	}
	for u, f := range r.figures { // what status shows of those who are done, or soon are
		if s := b.status[u]; s != nil && (b.moves[u].Done() || b.moves[u].held()) {
			s.kept = f
			b.sum.add(f, 1)
		}
	}
	maps.Copy(b.routes.m, r.routes)
	maps.Copy(b.ordered, r.cutover)
	b.paused, b.stopped, b.halt = r.order == orderPause, r.order == orderStop, r.why
	for u, m := range b.moves {
		if m.State == Failed && !r.forgiven[u] {
			b.failed0 = append(b.failed0, u)
		}
	}
}

// begin fills the queue; users who are on hold go by heldUsers.
func (b *batch) begin(cancel context.CancelCauseFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel, b.ended = cancel, false
	b.queue = newQueue(&b.spec)
	b.queue.orders = b.ordered
	for _, u := range b.failed0 {
		b.queue.failed[b.queue.wave[u]]++
	}
	b.open = b.queue.fill(func(u string) (needs, ahead bool) {
		m := b.moves[u]
		return !m.Done() && !(b.stopped && !m.held()), m.held()
	})
}

// held reports a move whose hold was cut off by a crash, or whose flip is not
// finished: it is looked at whatever an operator ordered.
func (m Move) held() bool {
	return m.State == Holding || m.Activated || m.State == Flipped || m.State == RolledBack && m.Back
}

func (b *batch) heldUsers() (users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.spec.Users {
		if m := b.moves[u]; m.held() && !m.Done() {
			users = append(users, u)
		}
	}
	return users
}

func (b *batch) attempts() int { return cmp.Or(b.spec.Attempts, 8) }

// parallel bounds the workers by what the old store may be asked for, when there
// is one for all users.
func (b *batch) parallel(stores map[string]*backend.Store) int {
	n := cmp.Or(b.spec.Parallel, 4)
	if from := b.spec.sources(); len(from) == 1 && stores[from[0]] != nil && stores[from[0]].MaxConnections > 0 {
		n = min(n, stores[from[0]].MaxConnections)
	}
	return max(1, min(n, len(b.spec.Users)))
}

// next is the next user for a worker, flip when they only have to be flipped; it
// waits while the batch is paused, users are in recovery or a window is closed,
// and ends when nothing is left.
func (b *batch) next(ctx context.Context) (user string, flip, ok bool) {
	for {
		b.mu.Lock()
		if ctx.Err() != nil || b.open == 0 || b.stopped {
			b.mu.Unlock()
			return "", false, false
		}
		var again time.Time
		if !b.paused {
			user, flip, again = b.queue.next(time.Now())
		}
		wake := b.wake
		b.mu.Unlock()
		if user != "" {
			return user, flip, true
		}
		await(ctx, wake, again)
	}
}

// await waits for a channel, for a moment of the clock unless it is zero, or for
// ctx.
func await(ctx context.Context, wake <-chan struct{}, at time.Time) {
	var tick <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(max(time.Until(at), time.Millisecond))
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-wake:
	case <-tick:
	case <-ctx.Done():
	}
}

// changed wakes whoever waits for news; callers hold mu.
func (b *batch) changed() {
	close(b.wake)
	b.wake = make(chan struct{})
}

// requeue puts a recovered user back into the line.
func (b *batch) requeue(user string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.moves[user]; m.Done() || b.stopped || m.held() && !b.again[user] {
		b.endedLocked(user)
	} else {
		b.queue.back(user)
	}
	delete(b.again, user)
	b.changed()
}

// finished takes a user off a worker; a paused one waits in the line, one who is
// ready and may not be flipped yet among those.
func (b *batch) finished(user string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch m := b.moves[user]; {
	case b.stopped:
		b.endedLocked(user)
	case m.State == Paused:
		b.queue.back(user)
	case m.State == Waiting && b.status[user].err == "":
		b.queue.sleep(user)
	case m.State == Ready && !m.Done() && b.status[user].err == "":
		b.queue.park(user)
	case b.again[user] && !m.Done():
		b.queue.back(user)
	default:
		b.endedLocked(user)
	}
	delete(b.again, user)
	b.changed()
}

// unwritten pauses the batch because its journal does not take a change of a user:
// most likely the disk is full. What is known is in memory, and a later line says
// all that the missing one did.
func (b *batch) unwritten(user string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.again[user] = true
	b.pauseLocked(err)
}

// pauseFor pauses the batch until an operator says that it may go on.
func (b *batch) pauseFor(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pauseLocked(err)
	b.changed()
}

func (b *batch) pauseLocked(err error) {
	if !b.stopped {
		b.paused, b.halt = true, err.Error()
	}
}

// endedLocked counts a user who needs nothing more, and halts the batch when too
// many failed; callers hold mu.
func (b *batch) endedLocked(user string) {
	b.open--
	halt := b.queue.done(user, b.moves[user].State == Failed)
	if halt == "" || b.paused || b.stopped || b.open == 0 {
		return
	}
	b.paused, b.halt = true, halt
	if err := b.journal.order(record{Order: orderPause, Why: halt, Time: time.Now().UTC()}); err != nil {
		b.halt += "; this is not in the journal: " + err.Error()
	}
}

func (b *batch) moveOf(user string) Move {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moves[user]
}

// show keeps what status tells of a user.
func (b *batch) show(user string, m Move) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[b.moves[user].State]--
	b.counts[m.State]++
	b.moves[user] = m
	b.touch(user)
	b.changed()
}

// touch notes a user for those who watch; callers hold mu.
func (b *batch) touch(user string) {
	for _, d := range b.dirty {
		d[user] = true
	}
}

func (b *batch) running(user string, on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, now := b.status[user], time.Now()
	b.measure(now)
	if s.running != on {
		if s.running = on; on {
			b.atWork[user] = s
			b.sum.add(s.figures(), -1)
		} else {
			delete(b.atWork, user)
			b.sum.add(s.figures(), 1)
		}
	}
	if on && s.began.IsZero() {
		s.began = now
	}
	s.ended = time.Time{}
	if !on {
		s.ended = now
	}
	b.touch(user)
	b.changed()
}

// figures are a user's; callers hold the batch's mu.
func (s *progressLog) figures() figures {
	if s.progress == nil {
		return s.kept
	}
	return s.progress.figures()
}

// measure keeps account of how fast work gets done; callers hold mu. It is
// called at every change and, while users are at work, every second.
func (b *batch) measure(now time.Time) (f figures, done, total float64) {
	f = b.sum
	for _, s := range b.atWork {
		f.add(s.figures(), 1)
	}
	ended := b.counts[Final] + b.counts[Failed] + b.counts[RolledBack] + b.counts[Flipped] + b.counts[Soaking]
	switch b.spec.until() {
	case Ready:
		ended += b.counts[Ready]
	case Checked:
		ended += b.counts[Checked]
	}
	done, total = f.work(len(b.spec.Users), ended)
	b.pace.observe(now, len(b.atWork) > 0 && !b.paused, done, float64(f.octetsDone))
	return f, done, total
}

// watch gives a set of users who change from now on, until the returned function
// is called; changes empties it.
func (b *batch) watch() (set map[string]bool, cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers++
	id := b.watchers
	set = map[string]bool{}
	b.dirty[id] = set
	return set, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.dirty, id)
	}
}

func (b *batch) attach(user string, p *Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status[user]
	if !s.running {
		b.sum.add(s.figures(), -1)
		b.sum.add(p.figures(), 1)
	}
	s.progress = p
}

func (b *batch) broken(user string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status[user].err = err.Error()
	b.touch(user)
}

// pausing reports that no user may go on: by an order, or because the window is
// closed. flip is for one who was taken to be flipped.
func (b *batch) pausing(flip bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.paused || b.stopped || !b.spec.Window.Open(time.Now()) && !(flip && b.spec.flips().Open(time.Now()))
}

func (b *batch) active() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended
}

// brokenOff reports a batch that ended although users need something more.
func (b *batch) brokenOff() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && !b.complete()
}

func (b *batch) doneWith(user string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.moves[user]
	return !ok || m.Done()
}

// complete reports that no user of the batch needs anything more; callers hold mu.
func (b *batch) complete() bool {
	for _, m := range b.moves {
		if !m.Done() && !(b.stopped && !m.held()) {
			return false
		}
	}
	return true
}

// end closes the journal, compacted when the batch is finished; nobody works on
// the batch any more.
func (b *batch) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.complete() {
		if err := b.journal.compact(&b.spec, b.moves, func(u string) figures { return b.status[u].figures() }, b.routes, b.stopped); err != nil {
			b.log.Warn("journal not compacted", "batch", b.spec.ID, "error", err)
		}
	}
	if err := b.journal.park(b.complete()); err != nil {
		b.log.Error("the end of a batch is not in its journal", "batch", b.spec.ID, "error", err)
	}
	b.changed()
}

// users whose move failed, or was rolled back, for a retry.
func (b *batch) failed() (users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.spec.Users {
		if m := b.moves[u]; m.State == Failed || m.State == RolledBack && m.Done() {
			users = append(users, u)
		}
	}
	return slices.Clip(users)
}
