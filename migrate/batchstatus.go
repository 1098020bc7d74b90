package migrate

import (
	"cmp"
	"slices"
	"time"
)

// What a batch tells of itself.

// user is one user's status.
func (b *batch) user(name string) UserStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.userLocked(name)
}

func (b *batch) userLocked(name string) UserStatus {
	m, s := b.moves[name], b.status[name]
	u := UserStatus{User: name, State: m.State, Reason: cmp.Or(s.err, m.Reason), Tries: m.Tries, Running: s.running}
	if m.State == Soaking {
		u.SoakUntil = time.Unix(m.SoakUntil, 0).UTC()
	}
	f := s.figures()
	u.Messages, u.MessagesDone, u.Octets, u.OctetsDone = max(f.messages, f.planned), f.messagesDone, f.octets, f.octetsDone
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

// snapshot is the batch's status with all users, and a channel that closes at the
// next change.
func (b *batch) snapshot() (*BatchStatus, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.summaryLocked()
	st.Users = make([]UserStatus, 0, len(b.spec.Users))
	for _, u := range b.spec.Users {
		st.Users = append(st.Users, b.userLocked(u))
	}
	return st, b.wake
}

// away says of a user at work that a store cannot be reached, and why; empty: it can.
func (b *batch) away(user, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.status[user]; s.away != why {
		s.away = why
		b.touch(user)
		b.changed()
	}
}

// awayLocked says why nobody at work gets on; callers hold mu.
func (b *batch) awayLocked() (why string) {
	for _, s := range b.atWork {
		if s.away == "" {
			return ""
		}
		if why == "" || s.away < why { // one of them, and the same one again
			why = s.away
		}
	}
	return why
}

// summary is the status without the users.
func (b *batch) summary() *BatchStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.summaryLocked()
}

func (b *batch) summaryLocked() *BatchStatus {
	st := &BatchStatus{ID: b.spec.ID, From: b.spec.From, To: b.spec.To, Until: b.spec.until(), Paused: b.paused, Stopped: b.stopped, Finished: b.ended,
		Counts: make(map[State]int), Waits: b.halt, Total: len(b.spec.Users), Running: len(b.atWork),
		Passwords: b.secrets && b.ended}
	for s, n := range b.counts {
		if n > 0 {
			st.Counts[s] = n
		}
	}
	if b.queue != nil {
		st.Waves, st.Wave = len(b.queue.waves), min(b.queue.now+1, len(b.queue.waves))
		if !b.paused && !b.ended {
			st.Waits = cmp.Or(b.queue.waiting(time.Now()), b.awayLocked())
		}
	}
	f, done, total := b.measure(time.Now())
	st.Messages, st.MessagesDone, st.Octets, st.OctetsDone = f.messages, f.messagesDone, f.octets, f.octetsDone
	st.Worked = b.pace.worked
	if st.Share = 1; !b.ended {
		_, st.Rate = b.pace.rates(done, float64(f.octetsDone))
		if st.Waits == "" && !b.paused { // else nobody knows
			st.Left = b.pace.left(done, total)
		}
		st.Share = done / max(total, 1)
	}
	return st
}

// changes is the status with those users alone who are at work or in set, which
// it empties; with all, also those who failed.
func (b *batch) changes(set map[string]bool, all bool) (*BatchStatus, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := b.summaryLocked()
	for u := range b.atWork {
		set[u] = true
	}
	if all {
		for _, u := range b.spec.Users {
			if m := b.moves[u]; m.State == Failed || b.status[u].err != "" {
				set[u] = true
			}
		}
	}
	for u := range set {
		st.Users = append(st.Users, b.userLocked(u))
	}
	clear(set)
	slices.SortFunc(st.Users, func(x, y UserStatus) int { return cmp.Compare(x.User, y.User) })
	return st, b.wake
}

// over reports whether the batch is finished, and gives what tells of the next change.
func (b *batch) over() (bool, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended, b.wake
}

// page gives users in the order of the batch from the index from on, those that
// keep accepts, at most limit; next is where to go on, -1 at the end.
func (b *batch) page(from, limit int, keep func(*UserStatus) bool) (users []UserStatus, next int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := max(0, from); i < len(b.spec.Users); i++ {
		if len(users) == limit {
			return users, i
		}
		if u := b.userLocked(b.spec.Users[i]); keep == nil || keep(&u) {
			users = append(users, u)
		}
	}
	return users, -1
}
