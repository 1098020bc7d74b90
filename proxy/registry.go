package proxy

import (
	"context"
	"strings"
	"sync"
	"time"

	"mailferry/backend"
)

// registry knows the sessions, and what of each user is under way: logins that
// have not become sessions yet, and deliveries. A hold stops them there.
type registry struct {
	p *Proxy

	mu    sync.Mutex
	users map[string]*user
	stop  bool
	wg    sync.WaitGroup // of the goroutines that carry holds out
}

// user is everything of one user on this node; guarded by registry.mu.
type user struct {
	key      string
	sessions map[*session]struct{}
	tickets  map[*ticket]struct{}
	waiting  map[*time.Time]struct{} // since when logins and deliveries wait

	epoch   uint64        // of the newest placement seen
	holding bool          // that placement is a hold
	changes uint64        // counts placements
	changed chan struct{} // closed at the next placement; nil: nobody waits
	settled chan struct{} // closed when a ticket is given back; nil: nobody waits
	queue   []backend.Placement
	running bool
	pauses  []time.Duration // of logins and deliveries, for the report
}

// ticket allows a login or delivery to open connections for a user. Until it is
// given back, a hold is not confirmed.
type ticket struct {
	u        *user
	r        *registry
	cancel   context.CancelFunc // ends a login's connect when a hold begins; nil for deliveries
	delivery bool
}

func newRegistry(p *Proxy) *registry { return &registry{p: p, users: map[string]*user{}} }

// userKey folds case: names of users are compared without it.
func userKey(name string) string { return strings.ToLower(name) }

// get returns the user's record; the caller holds mu.
func (r *registry) get(name string) *user {
	key := userKey(name)
	u := r.users[key]
	if u == nil {
		u = &user{key: key, sessions: map[*session]struct{}{}, tickets: map[*ticket]struct{}{}}
		r.users[key] = u
	}
	return u
}

// tidy forgets a user of whom nothing is left; the caller holds mu.
func (r *registry) tidy(u *user) {
	if len(u.sessions)+len(u.tickets)+len(u.waiting) == 0 && !u.holding && !u.running {
		delete(r.users, u.key)
	}
}

// admit returns a ticket and the placement that rules, once the user is not on
// hold; it waits for that up to limit. ctx ends when a hold begins during a
// login. KindTemporary: still on hold.
func (r *registry) admit(ctx context.Context, name string, delivery bool, limit time.Duration) (context.Context, *ticket, *backend.Placement, error) {
	var timer *time.Timer // most have nothing to wait for
	since := time.Now()
	for {
		tctx, t, changes := r.open(ctx, name, delivery)
		pl, ok, err := r.p.o.Placements.Placement(ctx, name)
		if err != nil {
			t.close()
			return nil, nil, nil, err
		}
		if r.usable(t, ok, pl) {
			if !ok {
				return tctx, t, nil, nil
			}
			return tctx, t, &pl, nil
		}
		changed, forget := r.await(t.u, &since, changes)
		t.close()
		if timer == nil {
			timer = time.NewTimer(limit - time.Since(since))
			defer timer.Stop()
		}
		select {
		case <-changed:
			forget()
		case <-timer.C:
			forget()
			return nil, nil, nil, backend.NewError(backend.KindTemporary, "The mailbox is being moved, please try again")
		case <-ctx.Done():
			forget()
			return nil, nil, nil, backend.Errorf(backend.KindUnavailable, "", "waiting for a hold of %s: %w", name, ctx.Err())
		}
	}
}

// open makes a ticket; changes is how many placements there have been so far.
func (r *registry) open(ctx context.Context, name string, delivery bool) (_ context.Context, _ *ticket, changes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.get(name)
	t := &ticket{u: u, r: r, delivery: delivery}
	if !delivery {
		ctx, t.cancel = context.WithCancel(ctx)
	}
	u.tickets[t] = struct{}{}
	return ctx, t, u.changes
}

// usable reports whether neither the table nor its news speak of a hold. The
// ticket exists by now: a hold that begins later finds it.
func (r *registry) usable(t *ticket, ok bool, pl backend.Placement) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !t.u.holding && !(ok && pl.State == backend.PlacementHolding)
}

// await returns what is closed once there have been more than so many placements.
func (r *registry) await(u *user, since *time.Time, changes uint64) (changed <-chan struct{}, forget func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.waiting == nil {
		u.waiting = map[*time.Time]struct{}{}
	}
	u.waiting[since] = struct{}{}
	if u.changed == nil {
		u.changed = make(chan struct{})
	}
	changed = u.changed
	if u.changes != changes {
		done := make(chan struct{})
		close(done)
		changed = done
	}
	return changed, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(u.waiting, since)
		r.tidy(u)
	}
}

// close gives the ticket back; again is harmless.
func (t *ticket) close() {
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.drop()
}

// drop is close with mu held.
func (t *ticket) drop() {
	if _, ok := t.u.tickets[t]; !ok {
		return
	}
	if t.cancel != nil {
		t.cancel()
	}
	delete(t.u.tickets, t)
	if t.u.settled != nil {
		close(t.u.settled)
		t.u.settled = nil
	}
	t.r.tidy(t.u)
}

// enter turns a login's ticket into a session. It fails with errRerouted when a
// hold began or the proxy stops, and when the user has sessions enough: the
// session must not exist then.
func (r *registry) enter(t *ticket, s *session) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := t.u.tickets[t]; !ok || t.u.holding || r.stop {
		return errRerouted
	}
	if most := r.p.o.MaxPerUser; most > 0 && len(t.u.sessions) >= most {
		return &loginError{outcomeTooMany, backend.Errorf(backend.KindTemporary, "", "user has %d sessions", most)}
	}
	t.u.sessions[s] = struct{}{}
	t.drop()
	r.p.metrics.sessions.Inc()
	return nil
}

// leave takes a session out that has ended.
func (r *registry) leave(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.users[userKey(s.user)]
	if u == nil {
		return
	}
	if _, ok := u.sessions[s]; ok {
		delete(u.sessions, s)
		r.p.metrics.sessions.Dec()
	}
	r.tidy(u)
}

// all lists the sessions of one user, or of everybody.
func (r *registry) all(name string) []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*session
	for key, u := range r.users {
		if name != "" && key != userKey(name) {
			continue
		}
		for s := range u.sessions {
			out = append(out, s)
		}
	}
	return out
}

// changed takes a placement from the table; it does not block.
func (r *registry) changed(p backend.Placement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.get(p.User)
	if p.Epoch <= u.epoch || r.stop {
		r.tidy(u)
		return
	}
	u.epoch, u.holding = p.Epoch, p.State == backend.PlacementHolding
	u.changes++
	if u.changed != nil {
		close(u.changed)
		u.changed = nil
	}
	if u.holding {
		u.pauses = nil
	} else {
		for since := range u.waiting {
			u.pauses = append(u.pauses, time.Since(*since))
		}
	}
	u.queue = append(u.queue, p)
	if !u.running {
		u.running = true
		r.wg.Go(func() { r.run(u) })
	}
}

// run carries out a user's placements in their order; one goroutine per user
// whose placement changes.
func (r *registry) run(u *user) {
	for {
		r.mu.Lock()
		if len(u.queue) == 0 || r.stop {
			u.running = false
			r.tidy(u)
			r.mu.Unlock()
			return
		}
		p := u.queue[0]
		u.queue = u.queue[1:]
		obsolete := len(u.queue) > 0
		sessions := make([]*session, 0, len(u.sessions))
		for s := range u.sessions {
			sessions = append(sessions, s)
		}
		r.mu.Unlock()
		switch {
		case p.State == backend.PlacementHolding && !obsolete:
			r.p.freeze(u, p, sessions)
		case p.State == backend.PlacementActive:
			r.p.thaw(u, p, sessions)
		}
	}
}

// quiesce cancels logins that are under way and waits until no ticket is out.
// It reports what is still out after limit.
func (r *registry) quiesce(u *user, limit time.Duration) (logins, deliveries int) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		r.mu.Lock()
		logins, deliveries = 0, 0
		for t := range u.tickets {
			if t.delivery {
				deliveries++
				continue
			}
			logins++
			t.cancel()
		}
		if u.settled == nil {
			u.settled = make(chan struct{})
		}
		settled := u.settled
		r.mu.Unlock()
		if logins+deliveries == 0 {
			return 0, 0
		}
		select {
		case <-settled:
		case <-timer.C:
			return logins, deliveries
		}
	}
}
