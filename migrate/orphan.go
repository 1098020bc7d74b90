package migrate

import (
	"context"
	"log/slog"
	"time"

	"mailferry/backend"
)

// A hold is an orphan when no batch on this disk knows of it: its journal was
// lost. Nobody else would ever end it. One that is younger than orphanHolds
// times a hold's limit may be another node's, and is left to it.
const orphanHolds = 3

// releaseOrphans gives users whose hold is an orphan back to their old store.
// It runs once, beside the moves, until the placements could be read.
func (e *Engine) releaseOrphans() {
	for wait := e.timing.BackOff; ; wait = min(2*wait, time.Minute) {
		all, err := e.opt.Placements.All(e.ctx)
		if err == nil {
			for _, p := range all {
				if p.State == backend.PlacementHolding && !e.knows(p) {
					e.wg.Go(func() { e.releaseOrphan(p) })
				}
			}
			return
		}
		e.log.Warn("placements cannot be read", "error", err)
		if !e.sleep(wait) {
			return
		}
	}
}

// sleep waits for d; false when the engine is closed.
func (e *Engine) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.ctx.Done():
		return false
	}
}

// knows reports whether a batch of this engine will end this hold.
func (e *Engine) knows(p backend.Placement) bool {
	e.mu.Lock()
	b := e.batches[BatchID(p.Move)]
	e.mu.Unlock()
	return b != nil && b.holds(p.User)
}

// holds reports whether a move of the batch is at work on the hold of user, by
// the name of the placement.
func (b *batch) holds(user string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, m := range b.moves {
		if r, ok := b.routes.get(name); m.held() && !m.Done() && (name == user || ok && r.User == user) {
			return true
		}
	}
	return false
}

// releaseOrphan ends a hold as an abort does: the placement first, under the
// next epoch, so that no late flip succeeds, then the target is closed.
func (e *Engine) releaseOrphan(p backend.Placement) {
	log := e.log.With("user", p.User, "batch", p.Move)
	if !e.sleep(time.Until(p.Since.Add(orphanHolds * e.timing.Hold))) {
		return
	}
	swapped := false
	for wait := e.timing.BackOff; ; wait = min(2*wait, time.Minute) {
		done, err := e.tryRelease(&p, &swapped, log)
		if done {
			return
		}
		log.Warn("an orphaned hold is not ended yet", "error", err)
		if !e.sleep(wait) {
			return
		}
	}
}

func (e *Engine) tryRelease(p *backend.Placement, swapped *bool, log *slog.Logger) (done bool, err error) {
	ctx, cancel := context.WithTimeout(e.ctx, swapTimeout)
	defer cancel()
	if !*swapped {
		now, ok, err := e.opt.Placements.Get(ctx, p.User)
		if err != nil {
			return false, err
		}
		if !ok || now.Epoch != p.Epoch || now.State != backend.PlacementHolding || e.knows(now) {
			return true, nil // somebody ended it
		}
		back := now
		back.State, back.Target, back.Epoch, back.Since = backend.PlacementActive, "", now.Epoch+1, time.Now().UTC()
		if err := e.opt.Placements.Swap(ctx, back); err != nil {
			return false, err // looked at again
		}
		*swapped = true
		log.Warn("a hold without a batch was ended: the user stays on the old store", "store", now.Store)
	}
	if s := e.opt.Stores[p.Target]; s == nil || !s.Local() {
		return true, nil
	}
	if err := reopen(ctx, e.opt.Importer, nil, p.User, p.Epoch+1); err != nil && retriable(err) {
		return false, err
	} else if err != nil {
		log.Warn("the copy was not closed", "error", err)
	}
	return true, nil
}
