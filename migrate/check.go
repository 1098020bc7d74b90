package migrate

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"mailferry/backend"
)

// invalid is a refusal that no retry changes.
func invalid(text, format string, args ...any) error {
	return backend.Errorf(backend.KindInvalid, text, format, args...)
}

// resolve finds out who a user is, and from where to where they move.
func (e *Engine) resolve(ctx context.Context, spec *BatchSpec, user string) (route, error) {
	entry, err := e.opt.Lookup(ctx, user)
	if err != nil {
		return route{}, fmt.Errorf("user %q: %w", user, err)
	}
	p, placed, err := e.opt.Placements.Get(ctx, entry.User)
	if err != nil {
		return route{}, fmt.Errorf("placement of %q: %w", entry.User, err)
	}
	o := spec.of(user)
	r := route{entry: entry, to: e.opt.Stores[o.To]}
	if r.to == nil {
		return r, invalid("The new store is not configured.", "store %q", o.To)
	}
	if placed {
		r.from, r.host = e.opt.Stores[p.Store], p.Host
	} else if r.from, r.host, err = e.storeOf(entry.Store, o.From); err != nil {
		return r, err
	}
	switch {
	case r.from == nil:
		return r, invalid("The user's store is not known.", "user %q", user)
	case r.from == r.to:
		return r, backend.Errorf(backend.KindExists, "The user is at the new store already.", "user %q", user)
	case o.From != "" && r.from.Name != o.From:
		return r, invalid("The user is at another store.", "user %q is at %q, not at %q", user, r.from.Name, o.From)
	case r.from.Local():
		return r, invalid("Users cannot be moved away from our own store yet.", "user %q", user)
	case !r.to.Local() && !spec.CopyOnly && !spec.Dry:
		return r, invalid("A foreign store cannot take a user over, only a copy.", "store %q is of type %q", r.to.Name, r.to.Type)
	}
	return r, nil
}

// storeOf finds the store that a directory names, by its name or an address.
func (e *Engine) storeOf(named, from string) (s *backend.Store, host string, err error) {
	if named == "" {
		named = from
	}
	if s := e.opt.Stores[named]; s != nil {
		return s, "", nil
	}
	if host, _, err := net.SplitHostPort(named); err == nil {
		named = host
	}
	var open *backend.Store
	for _, s := range e.opt.Stores {
		if s.Address != "" && s.Address == named {
			return s, "", nil
		}
		if !s.Local() && s.Address == "" && (from == "" || s.Name == from) {
			if open != nil {
				return nil, "", invalid("More than one store could serve this user.", "address %q", named)
			}
			open = s
		}
	}
	return open, named, nil
}

// check finds what would stop a move before anything is copied.
func (d *driver) check(ctx context.Context) error {
	r, err := d.e.resolve(ctx, &d.b.spec, d.user)
	if err != nil {
		return err
	}
	if !r.entry.CheckPassword && r.to.Local() {
		return invalid("The new store would not know this user's password.",
			"directory %q has the store check passwords (passwords: pass); users are created here without one: set passwords: bind, or give %q a password here first",
			r.entry.Directory, r.entry.User)
	}
	if o := d.b.spec.Each[d.user]; d.b.spec.Soak > 0 && r.from.Login.Captures() && o.Password == "" && o.PasswordFile == "" {
		return invalid("The old store cannot follow the new one: nobody has this user's password there behind the flip.", "user %q at store %q", d.user, r.from.Name)
	}
	if d.e.soaks.has(r.entry.User) {
		return errSoaking(r.entry.User)
	}
	if err := d.e.leases.take(r.entry.User, d.lease(), d.move.held()); err != nil {
		return err
	}
	d.route = r
	if err := d.prepare(ctx); err != nil {
		return err
	}
	pl, err := d.acct.survey(ctx)
	d.heard(ctx, err)
	if err != nil {
		return err
	}
	if d.acct.filter == nil && !slices.ContainsFunc(pl.boxes, func(p planned) bool { return p.name == backend.Inbox }) {
		return invalid("The old store lists no INBOX for this user.", "user %q at store %q", d.user, r.from.Name)
	}
	if d.b.spec.Dry {
		if !r.to.Local() {
			if err := d.acct.planSide(ctx, pl); err != nil {
				return err
			}
		}
		d.certifyPlan(pl)
	}
	d.acct.looked = pl
	saved := savedRoute{User: r.entry.User, From: r.from.Name, Host: r.host, To: r.to.Name}
	d.b.routes.put(d.user, saved)
	return d.b.journal.route(d.user, saved, time.Now())
}

// certifyPlan writes what a dry run found.
func (d *driver) certifyPlan(pl *plan) {
	c := &Certificate{User: d.user, From: d.route.from.Name, To: d.route.to.Name, Batch: d.b.spec.ID, Written: time.Now().UTC(),
		Level: "checked", Grade: "perfect", Namespace: pl.namespace, Exception: pl.exceptions}
	for _, p := range pl.boxes {
		c.Mailboxes = append(c.Mailboxes, MailboxCertificate{Name: p.shown, UIDValidity: p.status.UIDValidity, UIDNext: p.status.UIDNext,
			HighestModSeq: p.status.HighestModSeq, Messages: p.status.Messages, NoSelect: p.hollow})
		c.Messages += uint64(p.status.Messages)
	}
	d.acct.certifySide(c)
	if len(c.Exception) > 0 {
		c.Grade = "exceptions"
	}
	d.acct.progress.Messages.Store(int64(c.Messages))
	d.acct.progress.Surveyed.Store(true)
	if err := d.e.certificate(d.b, c); err != nil {
		d.log.Error("certificate not written", "error", err)
	}
}
