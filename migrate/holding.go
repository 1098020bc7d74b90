package migrate

import (
	"context"
	"fmt"
	"time"

	"mailferry/backend"
)

// swapTimeout bounds one write of the placement; the outcome of one that takes
// longer is looked up.
const swapTimeout = 3 * time.Second

// grant reads bodies again, waits for a slot, brings the copy up to date once more, and allows the
// hold.
func (d *driver) grant(ctx context.Context) (Event, error) {
	if d.slot == 0 {
		if d.move.Tries > 0 { // what spoilt the last hold may need a moment
			if _, err := d.backOff(ctx); err != nil {
				return Event{}, err
			}
		}
		if err := d.secondLook(ctx); err != nil {
			return d.besideFailed(err)
		}
		if ev, ok, err := d.pop3Ready(ctx); !ok {
			return ev, err
		}
		if err := d.acquire(ctx); err != nil {
			return Event{}, err
		}
	}
	ev := Event{Kind: EvSynced, Fast: true}
	if time.Since(d.synced) > freshPass { // it may have waited long
		var err error
		if ev, err = d.sync(ctx); err != nil || ev.Kind != EvSynced || !ev.Fast {
			d.release()
			return ev, err
		}
	}
	d.synced = time.Time{}
	if err := d.acct.sumAhead(ctx); err != nil {
		d.release()
		return d.besideFailed(err)
	}
	if err := d.acct.sideData(ctx, false); err != nil {
		d.release()
		return d.besideFailed(err)
	}
	d.beside = 0
	p, ok, err := d.e.opt.Placements.Get(ctx, d.route.entry.User)
	switch {
	case err != nil:
		d.release()
		return d.outcome(EvGrant, err)
	case ok && p.State == backend.PlacementHolding:
		d.release()
		return Event{Kind: EvGaveUp, Reason: fmt.Sprintf("on hold already, by %q", p.Move)}, nil
	case ok && p.Store != d.route.from.Name:
		d.release()
		return Event{Kind: EvGaveUp, Reason: fmt.Sprintf("the user is on store %q, not on %q", p.Store, d.route.from.Name)}, nil
	}
	if !d.b.mayFlip(d.user) { // the window was closed while it waited: run ends, and the user is parked
		d.release()
		return ev, nil
	}
	hctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.e.timing.Hold)
	d.hold = &hold{ctx: hctx, cancel: cancel, began: time.Now()}
	d.visitor.urgent.Store(true)
	d.holdBegins()
	return Event{Kind: EvGrant, Base: p.Epoch}, nil
}

// pop3Ready reads POP3 identities before the hold. ok is false when another
// pass has to come first, or the move cannot go on.
func (d *driver) pop3Ready(ctx context.Context) (ev Event, ok bool, err error) {
	var before map[string]bool
	if d.acct.pop3 != nil {
		before = d.acct.pop3.open
	}
	if err := d.acct.identities(ctx); err != nil {
		ev, err := d.besideFailed(err)
		return ev, false, err
	}
	again, err := d.acct.settled(before)
	if err != nil {
		ev, err := d.outcome(EvSynced, err)
		return ev, false, err
	}
	return Event{Kind: EvSynced}, !again, nil
}

// besideFailed is the outcome of a failure to read what is beside mail. Passes
// that succeed in between do not count: a service that is not there beside IMAP is not
// waited for as a store is that is away.
func (d *driver) besideFailed(err error) (Event, error) {
	ev, err := d.failed(EvSynced, err)
	if ev.Kind == EvAwait {
		return ev, err
	}
	if d.beside++; d.beside >= d.b.attempts() {
		ev = Event{Kind: EvGaveUp, Reason: ev.Reason}
	}
	return ev, err
}

// endHold stops the clock of a hold, if one runs.
func (d *driver) endHold(m Move) {
	if d.hold == nil {
		return
	}
	took := time.Since(d.hold.began)
	flipped := m.State == Flipped || m.State == RolledBack
	if flipped {
		d.pause = &Pause{Hold: took, Attempts: m.Tries + 1}
	}
	d.hold.cancel()
	if d.hold.pressing == nil || !d.hold.pressing.Stop() {
		d.e.holdEnds()
	}
	d.hold = nil
	d.visitor.urgent.Store(false)
	if f := d.e.opt.Metrics.Hold; f != nil {
		f(took, flipped)
	}
}

// freshPass is how long ago a pass may have ended that makes another one needless
// before a hold: the one in the hold will be short.
const freshPass = 250 * time.Millisecond

// trip is the round trip to a store that is far away; 0: it is near, or not known.
func (d *driver) trip() time.Duration {
	if d.acct == nil || d.acct.client == nil || d.move.Back {
		return 0
	}
	if rtt := d.acct.client.RTT(); rtt >= d.acct.lines.far {
		return rtt
	}
	return 0
}

// acquire waits for room for a hold. One over a long line waits for the line most
// of the time, so that more of them have room.
func (d *driver) acquire(ctx context.Context) error {
	n := holdRoom(d.trip())
	if err := d.e.slots.Acquire(ctx, n); err != nil {
		return context.Cause(ctx)
	}
	d.slot = n
	return nil
}

func (d *driver) release() {
	if d.slot > 0 {
		d.e.slots.Release(d.slot)
		d.slot = 0
	}
}

// fullHold is the room that a hold of a store near by takes.
const fullHold = 12

// holdRoom is what a hold takes of it when the store is rtt away: as many at a time
// as there are workers (see workersAt), six times as many at most.
func holdRoom(rtt time.Duration) int64 {
	return max(fullHold/6, int64(fullHold*tripWorker/(tripWorker+rtt)))
}

// holdBegins makes copying wait, at once for a hold near by. One of a store that
// is far away loads nothing while it waits for the line: only when it takes longer
// than it should does the copying of others have to stand back.
func (d *driver) holdBegins() {
	if trip := d.trip(); trip > 0 {
		d.hold.pressing = time.AfterFunc(holdTrips*trip, d.e.holdBegins)
		return
	}
	d.e.holdBegins()
}

// holdTrips is how many round trips a hold takes when nothing is in its way, and a few more.
const holdTrips = 6

func (d *driver) placement(state backend.PlacementState, store, host string, plus uint64) backend.Placement {
	return backend.Placement{User: d.route.entry.User, State: state, Store: store, Host: host,
		Epoch: d.move.Base + plus, Move: string(d.b.spec.ID), Since: time.Now().UTC()}
}

func (d *driver) swapHold(ctx context.Context) Event {
	here := d.here()
	p := d.placement(backend.PlacementHolding, here.store, here.host, 1)
	p.Target = d.there().store
	return d.write(ctx, p)
}

// end is a store as a placement names it.
type end struct{ store, host string }

// here is the end of the way from which the user comes, there the other one: a
// roll-back goes from the new store to the old one.
func (d *driver) here() end {
	if d.move.Back {
		return end{d.route.to.Name, ""}
	}
	return end{d.route.from.Name, d.route.host}
}

func (d *driver) there() end {
	if d.move.Back {
		return end{d.route.from.Name, d.route.host}
	}
	return end{d.route.to.Name, ""}
}

func (d *driver) swap(ctx context.Context, to end, plus uint64) Event {
	if d.hold != nil && to == d.there() && d.hold.ctx.Err() != nil {
		// Too late to flip. Nothing was written, which the look-up will find.
		return Event{Kind: EvSwapLost, Reason: "the hold took too long"}
	}
	return d.write(ctx, d.placement(backend.PlacementActive, to.store, to.host, plus))
}

func (d *driver) write(ctx context.Context, p backend.Placement) Event {
	ctx, cancel := context.WithTimeout(ctx, swapTimeout)
	defer cancel()
	if err := d.e.opt.Placements.Swap(ctx, p); err != nil {
		return Event{Kind: EvSwapLost, Reason: err.Error()}
	}
	return Event{Kind: EvSwapped}
}

// awaitQuiet wants every proxy's word that nothing of the user is under way.
func (d *driver) awaitQuiet() Event {
	ctx, cancel := context.WithTimeout(d.hold.ctx, d.e.timing.Quiet)
	defer cancel()
	cs, err := d.e.opt.Placements.AwaitQuiet(ctx, d.route.entry.User, d.move.Base+1)
	for _, c := range cs {
		if c.Refused != "" {
			return Event{Kind: EvRefused, Reason: fmt.Sprintf("node %s: %s", c.Node, c.Refused)}
		}
	}
	if err == nil {
		err = ctx.Err() // what came may not be all
	}
	return held(EvQuiet, err)
}

// lastDelta is the pass after which the source stands still; it seals.
func (d *driver) lastDelta() Event {
	if d.move.Back {
		return held(EvSealed, d.reverseDelta(d.hold.ctx))
	}
	d.acct.onHold = true
	p, err := d.acct.sync(d.hold.ctx)
	d.acct.onHold = false
	if err == nil {
		err = p.err()
	}
	if err == nil {
		err = d.acct.identities(d.hold.ctx)
	}
	if err == nil {
		err = d.acct.sideData(d.hold.ctx, true)
	}
	return held(EvSealed, err)
}

// compare proves equality and writes what it found down, before the flip:
// afterwards a crash could not find it out again.
func (d *driver) compare() Event {
	if d.move.Back {
		return held(EvEqual, d.rev.compare(d.hold.ctx, true))
	}
	err := d.acct.compare(d.hold.ctx, d.b.spec.AllowSkipped)
	if err == nil {
		err = d.acct.comparePOP3(d.hold.ctx)
	}
	if err == nil { // nobody is flipped without one
		if err = d.certify("compared"); err != nil {
			err = fmt.Errorf("the certificate cannot be written: %w", err)
			d.b.pauseFor(err)
		}
	}
	return held(EvEqual, err)
}

// lookup reads the placement.
func (d *driver) lookup(ctx context.Context) Event {
	ctx, cancel := context.WithTimeout(ctx, swapTimeout)
	defer cancel()
	if err := d.findRoute(ctx); err != nil { // after a restart
		return Event{Kind: EvFailed, Reason: err.Error()}
	}
	p, ok, err := d.e.opt.Placements.Get(ctx, d.route.entry.User)
	if err != nil {
		return Event{Kind: EvFailed, Reason: err.Error()}
	}
	return Event{Kind: EvPlacement, At: d.where(p, ok)}
}

// where says what a record means to this move.
func (d *driver) where(p backend.Placement, ok bool) PlacementAt {
	base := d.move.Base
	switch {
	case !ok && base == 0, p.Epoch == base:
		return AtBase
	case p.Move != string(d.b.spec.ID):
		return AtElse
	case p.Epoch == base+1 && p.State == backend.PlacementHolding:
		return AtHold
	case p.Epoch <= base+2 && p.State == backend.PlacementActive && p.Store == d.there().store:
		return AtNew
	case p.Epoch <= base+2 && p.State == backend.PlacementActive:
		return AtOld
	}
	return AtElse
}

// reopen closes the target to clients again after an aborted hold.
func (d *driver) reopen(ctx context.Context) Event {
	ctx, cancel := context.WithTimeout(ctx, swapTimeout)
	defer cancel()
	epoch := d.move.Base + 2
	if d.move.Back {
		epoch = d.move.Opened
		if err := d.findRoute(ctx); err != nil { // after a restart
			return Event{Kind: EvFailed, Reason: err.Error()}
		}
	}
	if err := reopen(ctx, d.e.opt.Importer, d.acct, d.route.entry.User, epoch); err != nil {
		return Event{Kind: EvFailed, Reason: err.Error()}
	}
	if d.acct != nil {
		d.acct.reopened()
	}
	return Event{Kind: EvReopened}
}

// reopen works with and without a running import.
func reopen(ctx context.Context, importer backend.Importer, a *account, user string, epoch uint64) error {
	var imp backend.Import
	if a != nil {
		imp = a.imp
	}
	if imp == nil {
		var err error
		if imp, err = importer.Import(ctx, user, backend.ImportOptions{}); err != nil {
			return err
		}
	}
	return imp.Reopen(ctx, epoch)
}

// setStore writes the directory. One that cannot be written leaves the
// placement in force.
func (d *driver) setStore(ctx context.Context) Event {
	if err := d.prepareFlipped(ctx); err != nil {
		return Event{Kind: EvFailed, Reason: err.Error()}
	}
	if d.e.opt.SetStore == nil {
		return Event{Kind: EvStored}
	}
	err := d.e.opt.SetStore(ctx, d.route.entry, d.there().store)
	if backend.IsKind(err, backend.KindPermission) {
		d.log.Warn("the directory cannot be written: the placement goes on ruling", "error", err)
		err = nil
	}
	if err != nil {
		d.failures++
	}
	return held(EvStored, err)
}

// prepareFlipped finds the directory's entry, which a restart forgets.
func (d *driver) prepareFlipped(ctx context.Context) error {
	if err := d.findRoute(ctx); err != nil {
		return err
	}
	if d.route.entry.Directory != "" {
		return nil
	}
	entry, err := d.e.opt.Lookup(ctx, d.user)
	if err == nil {
		d.route.entry = entry
	}
	return err
}

// report collects what the flip meant to sessions, and writes the certificate.
func (d *driver) report(ctx context.Context) Event {
	if d.move.Back {
		return d.reportBack(ctx)
	}
	if d.findRoute(ctx) == nil {
		ctx, cancel := context.WithTimeout(ctx, d.e.timing.Report)
		defer cancel()
		reports, err := d.e.opt.Placements.AwaitResumed(ctx, d.route.entry.User, d.move.Base+2)
		if err != nil && ctx.Err() == nil {
			d.log.Warn("no reports of the proxies", "error", err)
		}
		if p, ok, err := d.e.opt.Placements.Get(ctx, d.route.entry.User); err == nil && ok && p.Epoch == d.move.Base+2 {
			d.flipped = p.Since
		}
		took, tries := time.Duration(0), d.move.Tries+1
		if d.pause != nil {
			took = d.pause.Hold
		}
		d.pause = pauseOf(took, tries, reports)
		if d.acct != nil {
			d.acct.flippedPOP3(ctx)
		}
	}
	_ = d.certify("compared") // it is there already, without the reports
	return Event{Kind: EvReported, Until: time.Now().Add(d.b.spec.Soak).Unix()}
}

// certify writes the certificate, and logs a failure; one that was written at the flip is only
// given the reports when the process was restarted since.
func (d *driver) certify(level string) error { return d.certifyTo(level, d.e.certificate) }

// certifyTo is certify with the place for the certificate.
func (d *driver) certifyTo(level string, write func(*batch, *Certificate) error) error {
	var c *Certificate
	if d.acct != nil {
		c = d.acct.certify(level)
	} else if c, _ = readCertificate(d.b.journal.dir, d.user); c == nil {
		c = &Certificate{Level: level, Grade: "unknown: the engine was restarted behind the flip"}
	}
	c.User, c.To, c.Batch, c.Written, c.Pause = d.user, d.b.spec.To, d.b.spec.ID, time.Now().UTC(), d.pause
	if d.route.from != nil {
		c.From = d.route.from.Name
	}
	if !d.flipped.IsZero() {
		c.Flipped = &d.flipped
	}
	err := write(d.b, c)
	if err != nil {
		d.log.Error("certificate not written", "error", err)
	}
	return err
}
