package migrate

import (
	"context"
	"fmt"
	"time"

	"mailferry/backend"
)

// rollBack carries a roll-back out, until nothing is owed behind the flip back or
// it was given up, and shows each state to seen. It ends with an error when ctx
// does; what it leaves is in the journal.
func (d *driver) rollBack(ctx context.Context, seen func(Move)) error {
	if !d.move.Back {
		next, _ := d.move.Next(Event{Kind: EvRollback})
		if err := d.become(next); err != nil {
			return err
		}
	}
	return d.run(ctx, func(m Move) bool {
		seen(m)
		return false
	})
}

// reverseReady brings the old store up to date until little is missing, compares
// it, waits for a slot, and allows the hold.
func (d *driver) reverseReady(ctx context.Context) (Event, error) {
	ev, err := d.reverseGrant(ctx)
	if err != nil || ev.Kind != EvGrant {
		d.release()
	}
	if ctx.Err() != nil {
		return Event{}, context.Cause(ctx)
	}
	return ev, err
}

func (d *driver) reverseGrant(ctx context.Context) (Event, error) {
	if err := d.openReverse(ctx); err != nil {
		return d.outcome(EvGrant, err)
	}
	for n := 1; ; n++ {
		began := time.Now()
		err := d.reversePass(ctx)
		if err == nil {
			err = d.rev.compare(ctx, false) // repairs what others changed, and makes the one in the hold short
		}
		if err != nil {
			d.closeReverse()
			// That they differ may be somebody's change meanwhile.
			if backend.IsKind(err, backend.KindConflict) && d.failures < d.b.attempts() {
				err = backend.Errorf(backend.KindTemporary, "", "%w", err)
			}
			return d.outcome(EvGrant, err)
		}
		took := time.Since(began)
		if d.slot > 0 && took < d.e.timing.Hold/2 {
			break
		}
		if n > maxPasses {
			return Event{Kind: EvGaveUp, Reason: fmt.Sprintf("after %d passes one still takes %v: too long for a hold of %v", n-1, took.Round(time.Millisecond), d.e.timing.Hold)}, nil
		}
		if d.slot == 0 && took < d.e.timing.Hold/2 {
			if err := d.acquire(ctx); err != nil {
				return Event{}, err
			}
		}
	}
	p, ok, err := d.e.opt.Placements.Get(ctx, d.route.entry.User)
	switch {
	case err != nil:
		return d.outcome(EvGrant, err)
	case !ok || p.State != backend.PlacementActive || p.Store != d.route.to.Name:
		return Event{Kind: EvGaveUp, Reason: fmt.Sprintf("the user is not on store %q any more: %s on %q, by %q", d.route.to.Name, p.State, p.Store, p.Move)}, nil
	}
	hctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.e.timing.Hold)
	d.hold = &hold{ctx: hctx, cancel: cancel, began: time.Now()}
	d.rev.held = true
	d.visitor.urgent.Store(true)
	d.holdBegins()
	return Event{Kind: EvGrant, Base: p.Epoch}, nil
}

// reverseDelta is the pass after which the new store stands still.
func (d *driver) reverseDelta(ctx context.Context) error {
	if err := d.reversePass(ctx); err != nil {
		return err
	}
	return d.rev.displace(ctx)
}

// reportBack collects what the roll-back meant to sessions, and tells it in the
// certificate.
func (d *driver) reportBack(ctx context.Context) Event {
	if err := d.findRoute(ctx); err != nil {
		return Event{Kind: EvReported}
	}
	wait, cancel := context.WithTimeout(ctx, d.e.timing.Report)
	defer cancel()
	reports, err := d.e.opt.Placements.AwaitResumed(wait, d.route.entry.User, d.move.Base+2)
	if err != nil && wait.Err() == nil {
		d.log.Warn("no reports of the proxies", "error", err)
	}
	at := time.Now().UTC()
	if p, ok, err := d.e.opt.Placements.Get(ctx, d.route.entry.User); err == nil && ok && p.Epoch == d.move.Base+2 {
		at = p.Since
	}
	took := time.Duration(0)
	if d.pause != nil {
		took = d.pause.Hold
	}
	d.noteSoak(func(s *SoakReport) {
		s.RolledBack, s.Back = &at, pauseOf(took, d.move.Tries+1, reports)
		if d.rev != nil {
			s.Late += len(d.rev.late)
			s.LateMail = append(s.LateMail, d.rev.late...)
			s.Exceptions = d.rev.notes()
			s.Messages, s.Mailboxes = d.rev.messages, len(d.rev.acct.boxes)
		}
	})
	return Event{Kind: EvReported}
}
