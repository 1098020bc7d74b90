package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// driver carries out one user's move: it asks the state machine what to do,
// does it, and tells it the outcome.
type driver struct {
	// Set at start.
	e    *Engine
	b    *batch
	user string // as the batch names it
	flip bool   // taken up to be flipped, after a copy that waited for a window
	log  *slog.Logger

	// Owned by run.
	move     Move
	route    route
	acct     *account
	failures int    // in a row
	refusals int    // for want of room, in a row
	why      string // it failed, as metrics call it; empty: its holds did
	beside   int    // failures of what is read beside mail, in a row
	absent   absence
	passes   int
	stuck    int       // retries of an abort during shutdown
	slot     int64     // of the room for holds; 0: none
	synced   time.Time // the end of a short pass, behind which nothing was done
	visitor  visitor   // at the host of the old store
	guest    visitor   // at that of a foreign new one
	crew     *crew     // nil: nobody's
	owed     bool      // a second look at what was copied
	rev      *reverse  // the old store following the new one; nil: not now
	hold     *hold
	pause    *Pause
	flipped  time.Time
}

// route is what check finds out: who the user is, and from where to where.
type route struct {
	entry    backend.Entry
	from, to *backend.Store
	host     string
}

// savedRoute is the part of a route that a restart needs without asking anybody.
type savedRoute struct {
	User string `json:"user"`
	From string `json:"from"`
	Host string `json:"host,omitempty"`
	To   string `json:"to"`
}

// hold is one attempt's clock.
type hold struct {
	ctx    context.Context
	cancel context.CancelFunc
	began  time.Time
	// pressing makes copying wait later; nil: it waits already.
	pressing *time.Timer
}

// run takes the move on until enough says so, at the latest until it is done or
// paused. It ends with an error when ctx does; what it leaves is in the journal.
func (d *driver) run(ctx context.Context, enough func(Move) bool) error {
	defer d.cleanup()
	next, todo := d.move.Begin()
	if d.move.State == Paused && !d.b.pausing(d.flip) {
		next, todo = d.move.Next(Event{Kind: EvContinue})
	}
	if err := d.become(next); err != nil {
		return err
	}
	for !d.move.rests() && d.move.State != Paused && d.move.State != Waiting && !enough(d.move) {
		ev, err := d.step(ctx, &todo)
		if err != nil {
			return err
		}
		if d.hold != nil && d.hold.ctx.Err() != nil {
			d.move, _ = d.move.Next(Event{Kind: EvExpired})
		}
		next, acts := d.move.Next(ev)
		switch err := d.become(next); {
		case err == nil:
		case refusable(acts):
			// What may not be begun without a record is not begun, and nothing else soon.
			if d.b.journal.usable() {
				d.b.pauseFor(err)
			}
			next, acts = next.Next(Event{Kind: EvFailed, Reason: err.Error()})
			d.move = next
		case next.State == Holding:
			// The user is given back: that needs no record, the placement tells.
			d.log.Error("a hold goes on without its journal", "error", err)
		default:
			return err
		}
		todo = append(todo, acts...)
	}
	return nil
}

// refusable actions change something outside, and have to be in the journal
// before; the machine takes EvFailed for them.
func refusable(acts []Action) bool {
	return len(acts) == 1 && (acts[0] == DoSwapHold || acts[0] == DoActivate)
}

// step performs the next action, or waits for a slot when the user is ready.
func (d *driver) step(ctx context.Context, todo *[]Action) (Event, error) {
	if d.move.State != Holding && d.move.State != Flipped && !d.move.Back {
		if ctx.Err() != nil {
			return Event{}, context.Cause(ctx)
		}
		if d.b.pausing(d.flip) {
			*todo = nil
			return Event{Kind: EvPause}, nil
		}
	}
	if d.move.State == Ready {
		return d.grant(ctx)
	}
	if len(*todo) == 0 {
		return Event{}, fmt.Errorf("nothing to do in state %v", d.move.State)
	}
	a := (*todo)[0]
	*todo = (*todo)[1:]
	return d.do(ctx, a)
}

// become records m, when its persisted part changed, and shows it.
func (d *driver) become(m Move) error {
	was := d.move
	d.move = m
	if was.State == Holding && m.State != Holding {
		d.endHold(m)
		d.release()
	}
	if d.move.persisted() == was.persisted() {
		return nil
	}
	if was.State != m.State {
		d.log.Info("move", "from", was.State, "to", m.State, "reason", m.Reason)
	}
	d.b.show(d.user, m)
	if err := d.b.journal.moved(d.user, m, d.copied(m), time.Now(), was.repeatable() && m.repeatable()); err != nil {
		return &journalError{err}
	}
	if was.State != m.State {
		d.e.stateChanged(d.b, d.user, was.State, m.State)
		if f := d.e.opt.Metrics.Failed; f != nil && m.State == Failed {
			f(cmp.Or(d.why, "hold"))
		}
	}
	return nil
}

// journalError: a change is not in the journal.
type journalError struct{ err error }

func (e *journalError) Error() string { return "the journal cannot be written: " + e.err.Error() }
func (e *journalError) Unwrap() error { return e.err }

// copied is what the journal keeps of a move that is done, or may be when the process
// is killed.
func (d *driver) copied(m Move) (f figures) {
	if d.acct != nil && (m.Done() || m.State == Ready || m.held()) {
		f = d.acct.progress.figures()
	}
	return f
}

// persisted is the part of a move that the journal keeps.
func (m Move) persisted() Move {
	return Move{State: m.State, Base: m.Base, Activated: m.Activated, Tries: m.Tries, Prior: m.Prior, Reason: m.Reason,
		Opened: m.Opened, SoakUntil: m.SoakUntil, Back: m.Back}
}

// repeatable reports a move of which nothing can be seen outside but a copy that
// is not in use: from an older state of it a restart comes to the same.
func (m Move) repeatable() bool { return m.State <= Ready && !m.Activated && !m.Back }

// do performs an action. Once a user is on hold the end of ctx does not stop
// it: the hold has limits of its own.
func (d *driver) do(ctx context.Context, a Action) (Event, error) {
	free := context.WithoutCancel(ctx)
	switch a {
	case DoCheck:
		return d.outcome(EvChecked, d.check(ctx))
	case DoSync:
		return d.sync(ctx)
	case DoSwapHold:
		return d.swapHold(free), nil
	case DoAwaitQuiet:
		return d.awaitQuiet(), nil
	case DoLastDelta:
		return d.lastDelta(), nil
	case DoCompare:
		return d.compare(), nil
	case DoActivate:
		return held(EvActivated, d.acct.imp.Activate(d.hold.ctx, d.move.Base+2)), nil
	case DoSwapNew:
		return d.swap(free, d.there(), 2), nil
	case DoSwapOld:
		return d.swap(free, d.here(), 2), nil
	case DoFence:
		return d.swap(free, d.here(), 1), nil
	case DoLookup:
		return d.lookup(free), nil
	case DoReopen:
		return d.reopen(free), nil
	case DoSetStore:
		return d.setStore(free), nil
	case DoReport:
		return d.report(free), nil
	case DoBackOff:
		return d.backOff(ctx)
	case DoReverse:
		return d.reverseReady(ctx)
	}
	return Event{}, fmt.Errorf("unknown action %v", a)
}

// held is the outcome of a step of a hold.
func held(good EventKind, err error) Event {
	if err != nil {
		return Event{Kind: EvFailed, Reason: err.Error()}
	}
	return Event{Kind: good}
}

// outcome is that of a check or a pass: failures are tried again, but for those
// that will not go away.
func (d *driver) outcome(good EventKind, err error) (Event, error) {
	if err == nil {
		d.failures, d.refusals, d.why = 0, 0, ""
		d.present()
		return Event{Kind: good}, nil
	}
	if d.away(err, good != EvChecked) {
		return Event{Kind: EvFailed, Reason: err.Error()}, nil
	}
	return d.failed(good, err)
}

// failed is the outcome of an attempt that failed, and not because the store is away.
func (d *driver) failed(good EventKind, err error) (Event, error) {
	if ev, ok := d.awaiting(err); ok {
		d.failures, d.refusals = 0, 0
		return ev, nil
	}
	if room, _ := refusal(err, false); room {
		// The store has no room now: that is no failure of this user, unless it
		// never ends.
		d.refusals++
		d.log.Info("the store has no room", "state", d.move.State, "refusals", d.refusals, "error", err)
		if d.refusals >= patientRefusals*d.b.attempts() {
			return Event{Kind: EvGaveUp, Reason: err.Error()}, nil
		}
		return Event{Kind: EvFailed, Reason: err.Error()}, nil
	}
	if o := d.b.spec.Each[d.user]; backend.IsKind(err, backend.KindAuthentication) && d.route.from != nil {
		switch {
		case o.Password != "":
			err = fmt.Errorf("%w (with the password that the batch was given: name the right one in another batch)", err)
		case o.PasswordFile != "":
			err = fmt.Errorf("%w (with the password in %s)", err, o.PasswordFile)
		}
	}
	d.why = backend.KindOf(err).String()
	d.failures++
	d.log.Warn("attempt failed", "state", d.move.State, "attempt", d.failures, "error", err)
	switch k := backend.KindOf(err); {
	case gone(err) && good != EvChecked && d.failures < d.b.attempts():
		// A mailbox that was renamed or deleted since it was listed: the next pass
		// sees what became of it.
	case k == backend.KindAuthentication, k == backend.KindPermission, k == backend.KindConflict, k == backend.KindInvalid,
		k == backend.KindNotFound, k == backend.KindExists, d.failures >= d.b.attempts():
		return Event{Kind: EvGaveUp, Reason: err.Error()}, nil
	}
	return Event{Kind: EvFailed, Reason: err.Error()}, nil
}

// gone reports that the old store has not, or does not open, a mailbox that it
// has listed. Dovecot and Cyrus say so without a code at times, as of anything else.
func gone(err error) bool {
	var s *remote.StatusError
	return backend.IsKind(err, backend.KindNotFound) ||
		errors.As(err, &s) && s.Command == "EXAMINE" && s.Status == "NO" && s.Code == ""
}

// sync is one pass.
func (d *driver) sync(ctx context.Context) (Event, error) {
	if err := d.prepare(ctx); err != nil {
		return d.outcome(EvSynced, err)
	}
	began := time.Now()
	done := d.acct.progress.OctetsDone.Load()
	p, err := d.acct.sync(ctx)
	if err == nil {
		err = p.err()
	}
	if ctx.Err() != nil {
		return Event{}, context.Cause(ctx)
	}
	if d.b.pausing(d.flip) {
		return Event{Kind: EvPause}, nil
	}
	d.heard(ctx, err)
	d.e.passed(p, d.acct.progress.OctetsDone.Load()-done)
	took := time.Since(began)
	if d.passes++; err == nil && d.passes > maxPasses && took >= d.e.timing.Hold/2 {
		return Event{Kind: EvGaveUp, Reason: fmt.Sprintf("after %d passes one still takes %v: too long for a hold of %v",
			d.passes, took.Round(time.Millisecond), d.e.timing.Hold)}, nil
	}
	ev, _ := d.outcome(EvSynced, err)
	// A store without modseqs is listed whole in every pass: when passes grow
	// no shorter, half a hold has to do.
	ev.Fast = took < d.e.timing.ReadyDelta || d.passes > patientPasses && took < d.e.timing.Hold/2
	if d.synced = (time.Time{}); ev.Kind == EvSynced && ev.Fast {
		d.synced = time.Now()
	}
	ev.Same = p != nil && p.nothing()
	if p != nil && p.Changed > 0 {
		d.owed = true
	}
	d.widen()
	if err == nil && d.b.spec.CopyOnly {
		if err := d.besideMail(ctx); err != nil {
			return d.besideFailed(err)
		}
		write := d.e.certificate
		if ev.Same && d.passes == 1 {
			write = d.e.certificateLine
		}
		_ = d.certifyTo("copied", write)
	}
	return ev, nil
}

// besideMail is what a copy does beside mail: of what an earlier run copied, a move
// takes the second look.
func (d *driver) besideMail(ctx context.Context) error {
	if !d.owed && !d.acct.sideDue() {
		return nil
	}
	if d.owed {
		if err := d.secondLook(ctx); err != nil {
			return err
		}
	}
	if err := d.acct.identities(ctx); err != nil {
		return err
	}
	if err := d.acct.sideData(ctx, false); err != nil {
		return err
	}
	d.owed, d.beside = false, 0
	return nil
}

// patientRefusals: so many refusals for want of room weigh as much as a failure.
const patientRefusals = 8

// yield lets holds pass; it ends a copy that is to be paused.
func (d *driver) yield(ctx context.Context) error {
	if d.b.pausing(d.flip) {
		return backend.NewError(backend.KindTemporary, "The batch is paused.")
	}
	if err := d.e.yield(ctx); err != nil {
		return err
	}
	return d.host().rest(ctx, &d.visitor)
}

// patientPasses are tried for a short one; after maxPasses a user who cannot be
// copied quickly enough to be held is given up.
const (
	patientPasses = 4
	maxPasses     = 30
)

// prepare finds the route after a restart, and opens the account.
func (d *driver) prepare(ctx context.Context) error {
	if err := d.findRoute(ctx); err != nil {
		return err
	}
	if d.acct == nil {
		importer, err := d.importer()
		if err != nil {
			return err
		}
		d.acct = newAccount(d.route.entry.User, d.dialAccount, importer)
		if err := d.configure(); err != nil {
			d.acct = nil
			return err
		}
		d.acct.log, d.acct.yield = d.log, d.yield
		d.acct.crowded = func() bool {
			return d.hold == nil && (d.e.crowded() || d.b.pausing(d.flip) || d.host().tooMany(&d.visitor))
		}
		d.acct.pop3, d.acct.side = d.maildrop(), d.sideState()
		d.acct.another = d.another
		if d.route.to.Local() {
			d.acct.ids = newContentIDs(d.idsFile())
			d.acct.strict = d.b.spec.prove(d.route.from) >= 100
		}
		d.b.attach(d.user, d.acct.progress)
	}
	return nil
}

// findRoute takes the route from the journal, or asks for it.
func (d *driver) findRoute(ctx context.Context) error {
	if d.route.from != nil {
		return nil
	}
	if r, ok := d.b.routes.get(d.user); ok {
		d.route.from, d.route.to, d.route.host = d.e.opt.Stores[r.From], d.e.opt.Stores[r.To], r.Host
		d.route.entry.User = r.User
		if err := d.e.leases.take(r.User, d.lease(), d.move.held()); err != nil {
			d.route = route{}
			return err
		}
		if d.route.from == nil || d.route.to == nil {
			d.route = route{}
			return backend.Errorf(backend.KindInvalid, "A store is no longer configured.", "stores %q and %q", r.From, r.To)
		}
		return nil
	}
	r, err := d.e.resolve(ctx, &d.b.spec, d.user)
	if err == nil {
		err = d.e.leases.take(r.entry.User, d.lease(), d.move.held())
	}
	if err == nil {
		d.route = r
	}
	return err
}

func (d *driver) lease() lease { return lease{batch: d.b.spec.ID, name: d.user} }

// backOff waits: shortly for a user who is on hold, with growing delays else.
func (d *driver) backOff(ctx context.Context) (Event, error) {
	wait := d.e.timing.BackOff << min(max(d.failures, d.beside, d.absent.times), 6)
	if d.move.State == Holding {
		wait = d.e.timing.BackOff / 10
	}
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1))
	stop := ctx.Done()
	if d.move.State == Holding && d.stuck < maxStuck {
		// Somebody waits for this hold to end: shutting down comes second,
		// but not for ever.
		if stop = nil; ctx.Err() != nil {
			d.stuck++
		}
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return Event{Kind: EvRetry}, nil
	case <-stop:
		return Event{}, context.Cause(ctx)
	}
}

// maxStuck is how often an abort is tried while the engine shuts down.
const maxStuck = 20

func (d *driver) cleanup() {
	d.endHold(d.move)
	d.release()
	d.closeReverse()
	if d.acct != nil {
		d.acct.close()
	}
	if s := d.move.State; (s == Final || s == Soaking) && d.route.to != nil && d.route.to.Local() {
		if err := removeIDs(d.idsFile()); err != nil {
			d.log.Warn("a file that is needed no more is left", "error", err)
		}
	}
	if d.move.State == Flipped { // what is left needs no memory of the mail
		d.acct.forget()
	}
}
