package migrate

import (
	"context"
	"time"

	"mailferry/backend"
)

// AwaitOrders tells of soaking users who were ordered to be rolled back or finalised, each
// once, as soon as the order is carried out or was given up: where they stand then,
// Reason says why they stand where they did. A user without an order is told of at
// once, so after a restart of the process, which forgets orders that nobody had
// begun. It ends when all are told, or with the error of ctx or tell.
// KindNotFound: no such batch, or a user is not part of it.
func (e *Engine) AwaitOrders(ctx context.Context, id BatchID, users []string, tell func(UserStatus) error) error {
	b, err := e.batch(id)
	if err != nil {
		return err
	}
	open := make(map[string]bool, len(users))
	for _, u := range users {
		if !b.has(u) {
			return backend.Errorf(backend.KindNotFound, "A user is not part of the batch.", "user %q, batch %q", u, id)
		}
		open[u] = true
	}
	for rest := time.NewTimer(0); ; {
		// The channels come before the look, so that no change falls in between.
		ordered, moved := e.soaks.news(), b.news()
		for _, u := range users {
			if !open[u] || e.soaks.hasOrder(b.spec.ID, u) { // first: who has none any more is shown as it ended
				continue
			}
			st := b.user(u)
			if st.Running && st.Reason == "" {
				continue
			}
			delete(open, u)
			if err := tell(st); err != nil {
				return err
			}
		}
		if len(open) == 0 {
			return nil
		}
		select {
		case <-ordered:
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-e.ctx.Done():
			return errClosed
		}
		// Of many changes at once, one look tells.
		rest.Reset(watchInterval / 10)
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// news closes when an order is given or carried out.
func (s *soaks) news() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wake
}

// hasOrder reports that a user's order waits, or is being carried out.
func (s *soaks) hasOrder(id BatchID, user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	en := s.m[soakKey{id, user}]
	return en != nil && en.order != orderLook
}

// news closes when anything changes.
func (b *batch) news() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wake
}

func (b *batch) has(user string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.moves[user]
	return ok
}
