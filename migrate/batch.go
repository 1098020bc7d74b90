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

	mu      sync.Mutex
	moves   map[string]Move         // guarded by mu
	status  map[string]*progressLog // guarded by mu
	queue   []string                // users that wait for a worker; guarded by mu
	open    int                     // users in the queue, with a worker, or in recovery; guarded by mu
	wake    chan struct{}           // closed and renewed when anything changes; guarded by mu
	paused  bool                    // guarded by mu
	stopped bool                    // guarded by mu
	ended   bool                    // no worker is left; guarded by mu
	cancel  context.CancelCauseFunc // guarded by mu
}

// progressLog is what status shows of a user.
type progressLog struct {
	progress *Progress
	began    time.Time
	ended    time.Time
	running  bool
	err      string
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

func newBatch(spec BatchSpec, j *journal) *batch {
	b := &batch{spec: spec, journal: j, routes: &routeTable{m: make(map[string]savedRoute)},
		moves: make(map[string]Move, len(spec.Users)), status: make(map[string]*progressLog), wake: make(chan struct{})}
	for _, u := range spec.Users {
		b.moves[u] = NewMove(spec.until())
		b.status[u] = &progressLog{}
	}
	return b
}

// restore takes over what the journal says.
func (b *batch) restore(r *replayed) {
	for u, m := range r.moves {
		m.until = b.spec.until()
		b.moves[u] = m
		if c, err := readCertificate(b.journal.dir, u); err == nil && m.Done() {
			p := &Progress{} // what status shows of those who are done
			p.Messages.Store(int64(c.Messages))
			p.MessagesDone.Store(int64(c.Messages))
			b.status[u].progress = p
		}
	}
	maps.Copy(b.routes.m, r.routes)
	b.paused, b.stopped = r.order == orderPause, r.order == orderStop
}

// begin fills the queue; users who are on hold go by heldUsers.
func (b *batch) begin(cancel context.CancelCauseFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel, b.ended = cancel, false
	for _, u := range b.spec.Users {
		m := b.moves[u]
		if m.Done() || b.stopped && !m.held() {
			continue
		}
		b.open++
		if !m.held() {
			b.queue = append(b.queue, u)
		}
	}
}

// held reports a move whose hold was cut off by a crash, or whose flip is not
// finished: it is looked at whatever an operator ordered.
func (m Move) held() bool { return m.State == Holding || m.Activated || m.State == Flipped }

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

// parallel bounds the workers by what the old store may be asked for.
func (b *batch) parallel(from *backend.Store) int {
	n := cmp.Or(b.spec.Parallel, 4)
	if from != nil && from.MaxConnections > 0 {
		n = min(n, from.MaxConnections)
	}
	return max(1, min(n, len(b.spec.Users)))
}

// next is the next user for a worker; it waits while the batch is paused or
// users are in recovery, and ends when nothing is left.
func (b *batch) next(ctx context.Context) (string, bool) {
	for {
		b.mu.Lock()
		if ctx.Err() != nil || b.open == 0 || b.stopped && len(b.queue) == 0 {
			b.mu.Unlock()
			return "", false
		}
		if len(b.queue) > 0 && !b.paused {
			u := b.queue[0]
			b.queue = b.queue[1:]
			b.mu.Unlock()
			return u, true
		}
		wake := b.wake
		b.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
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
	if m := b.moves[user]; m.Done() || b.stopped || m.held() {
		b.open--
	} else {
		b.queue = append([]string{user}, b.queue...)
	}
	b.changed()
}

// finished takes a user off a worker; a paused one waits in the queue.
func (b *batch) finished(user string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.moves[user].State == Paused && !b.stopped {
		b.queue = append(b.queue, user)
	} else {
		b.open--
	}
	b.changed()
}

func (b *batch) moveOf(user string) Move {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.moves[user]
	if m.State == Paused && !b.paused {
		m, _ = m.Next(Event{Kind: EvContinue})
	}
	return m
}

// show keeps what status tells of a user.
func (b *batch) show(user string, m Move) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moves[user] = m
	b.changed()
}

func (b *batch) running(user string, on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status[user]
	s.running = on
	if on && s.began.IsZero() {
		s.began = time.Now()
	}
	s.ended = time.Time{}
	if !on {
		s.ended = time.Now()
	}
	b.changed()
}

func (b *batch) attach(user string, p *Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status[user].progress = p
}

func (b *batch) broken(user string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status[user].err = err.Error()
}

func (b *batch) pausing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.paused || b.stopped
}

func (b *batch) active() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended
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
func (b *batch) end(log *slog.Logger) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.complete() {
		if err := b.journal.compact(&b.spec, b.moves, b.routes, b.stopped); err != nil {
			log.Warn("journal not compacted", "batch", b.spec.ID, "error", err)
		}
	}
	b.journal.close()
	b.changed()
}

// user is one user's status.
func (b *batch) user(name string) UserStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.userLocked(name)
}

func (b *batch) userLocked(name string) UserStatus {
	m, s := b.moves[name], b.status[name]
	u := UserStatus{User: name, State: m.State, Reason: cmp.Or(s.err, m.Reason), Tries: m.Tries, Running: s.running}
	if p := s.progress; p != nil {
		u.Messages, u.MessagesDone = p.Messages.Load(), p.MessagesDone.Load()
		u.Octets, u.OctetsDone = p.Octets.Load(), p.OctetsDone.Load()
	}
	if !s.began.IsZero() {
		end := s.ended
		if end.IsZero() {
			end = time.Now()
		}
		u.Elapsed = end.Sub(s.began)
		if sec := u.Elapsed.Seconds(); sec > 0 {
			u.Rate = float64(u.OctetsDone) / sec
		}
	}
	return u
}

// snapshot is the batch's status, and a channel that closes at the next change.
func (b *batch) snapshot() (*BatchStatus, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := &BatchStatus{ID: b.spec.ID, From: b.spec.From, To: b.spec.To, Paused: b.paused, Stopped: b.stopped, Finished: b.ended,
		Counts: make(map[State]int)}
	for _, u := range b.spec.Users {
		us := b.userLocked(u)
		st.Users = append(st.Users, us)
		st.Counts[us.State]++
	}
	return st, b.wake
}

// users whose move failed, for a retry.
func (b *batch) failed() (users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.spec.Users {
		if b.moves[u].State == Failed {
			users = append(users, u)
		}
	}
	return slices.Clip(users)
}
