package migrate

import (
	"fmt"
	"slices"
	"time"

	"mailferry/backend"
)

// orderCutover lets a user be flipped whose batch waits for that; without a user,
// everybody.
const orderCutover = "cutover"

// Cutover orders the flip of users who are copied: all of the batch, or those
// named; without a batch the latest one that has them all. In a batch that waits
// for orders (OnOrder) they are flipped as soon as they are ready; users of a
// finished batch that was a copy (CopyOnly) become a batch of their own, under
// the same rules, which fetches what is new only. It tells the batch in which they are, and who
// they are, when the order is in the journal. KindNotFound: no such batch, or
// nobody in it is copied. KindConflict: the batch takes no such order.
func (e *Engine) Cutover(id BatchID, users []string) (BatchID, []string, error) {
	b, err := e.toCutOver(id, users)
	if err != nil {
		return "", nil, err
	}
	if !b.spec.OnOrder || !b.active() {
		return e.moveCopied(b, users)
	}
	names, all := users, len(users) == 0
	if all {
		names = []string{""}
	}
	for _, u := range names {
		if err := b.journal.order(record{Order: orderCutover, User: u, Time: time.Now().UTC()}); err != nil {
			return "", nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range names {
		b.ordered[u] = true
	}
	b.changed()
	if all {
		users = nil
		for _, u := range b.spec.Users {
			if m := b.moves[u]; !m.Done() {
				users = append(users, u)
			}
		}
	}
	return b.spec.ID, users, nil
}

// toCutOver finds the batch that is meant.
func (e *Engine) toCutOver(id BatchID, users []string) (*batch, error) {
	if id != "" {
		b, err := e.batch(id)
		for _, u := range users {
			if err == nil && !slices.Contains(b.spec.Users, u) {
				err = backend.Errorf(backend.KindNotFound, "A user is not part of the batch.", "user %q, batch %q", u, id)
			}
		}
		return b, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var latest *batch
	for _, b := range e.batches {
		if (b.spec.OnOrder || b.spec.CopyOnly) && (latest == nil || b.spec.ID > latest.spec.ID) &&
			!slices.ContainsFunc(users, func(u string) bool { return b.doneWithout(u) }) {
			latest = b
		}
	}
	if latest == nil || len(users) == 0 {
		return nil, backend.NewError(backend.KindNotFound, "No batch has copied these users and waits for an order.")
	}
	return latest, nil
}

// doneWithout reports that a user is not part of the batch, or that nothing is left to
// order for them.
func (b *batch) doneWithout(user string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.moves[user]
	return !ok || m.Done() && m.State != Ready
}

// moveCopied begins the batch that moves users whom another one has copied.
func (e *Engine) moveCopied(b *batch, users []string) (BatchID, []string, error) {
	if !b.spec.CopyOnly || b.spec.Dry || b.active() {
		return "", nil, backend.Errorf(backend.KindConflict, "The batch does not wait for an order to flip anybody.", "batch %q", b.spec.ID)
	}
	b.mu.Lock()
	if len(users) == 0 {
		users = b.spec.Users
	}
	var copied []string
	for _, u := range users {
		if b.moves[u].State == Ready {
			copied = append(copied, u)
		}
	}
	b.mu.Unlock()
	if len(copied) == 0 {
		return "", nil, backend.Errorf(backend.KindNotFound, "Nobody of the batch is copied.", "batch %q", b.spec.ID)
	}
	for _, u := range copied {
		if to := b.spec.Target(u); e.opt.Stores[to] == nil || !e.opt.Stores[to].Local() {
			return "", nil, backend.Errorf(backend.KindConflict, "A foreign store cannot take a user over.", "user %q, store %q", u, to)
		}
	}
	spec := b.spec.only(copied)
	spec.CopyOnly = false
	id, err := e.Start(e.ctx, spec)
	return id, copied, err
}

// only is a new batch of some users under the same rules.
func (s *BatchSpec) only(users []string) BatchSpec {
	spec := *s
	spec.ID, spec.Users, spec.Each, spec.OnChange = "", users, nil, nil
	for _, u := range users {
		if o, ok := s.Each[u]; ok {
			if spec.Each == nil {
				spec.Each = map[string]UserOptions{}
			}
			spec.Each[u] = o
		}
	}
	return spec
}

// mayFlip reports that a user may be flipped now.
func (b *batch) mayFlip(user string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queue.ordered(user) && b.spec.flips().Open(time.Now())
}

// ordered reports that nothing but the window keeps a user from being flipped.
func (q *queue) ordered(user string) bool {
	return !q.spec.OnOrder || q.orders[user] || q.orders[""]
}

// parkedNext is the first of those who wait to be flipped and may be, -1: none.
func (q *queue) parkedNext() int { return slices.IndexFunc(q.parked, q.ordered) }

// parkedWait says in words what those wait for who are copied.
func (q *queue) parkedWait(t time.Time) string {
	if q.parkedNext() < 0 {
		return fmt.Sprintf("%d users are copied and followed; mailferry migrate cutover flips them", len(q.parked))
	}
	return fmt.Sprintf("%d users are copied; the window for flips opens %s", len(q.parked), clock(q.spec.flips().Next(t)))
}
