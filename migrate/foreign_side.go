package migrate

import (
	"context"
	"fmt"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/migrate/target"
)

// maxSideChanges are told of one user.
const maxSideChanges = 200

// foreignSide reads what is beside mail and has a foreign store take of it what
// it lets be set.
func (a *account) foreignSide(ctx context.Context, to backend.SideTarget) error {
	return a.carrySide(ctx, to.CarrySide)
}

// carrySide reads side data and gives them to carry.
func (a *account) carrySide(ctx context.Context, carry func(context.Context, *backend.SideData) (*backend.SideCarried, error)) error {
	s := a.side
	next := &sideState{dial: s.dial, named: s.named, noScripts: s.noScripts}
	d, err := a.readSide(ctx, next, false)
	if err != nil {
		return fmt.Errorf("side data of %s: %w", a.user, err)
	}
	d.Sort()
	done, err := carry(ctx, d)
	if err != nil {
		return fmt.Errorf("side data of %s: %w", a.user, err)
	}
	for _, n := range done.Left {
		next.note(a.showSide(n.Mailbox), "%s", n.What)
	}
	for i, n := range done.Changed {
		if i == maxSideChanges {
			next.cert.Changes = append(next.cert.Changes, fmt.Sprintf("and %d more", len(done.Changed)-i))
			break
		}
		what := n.What
		if n.Mailbox != "" {
			what = a.showSide(n.Mailbox) + ": " + what
		}
		next.cert.Changes = append(next.cert.Changes, what)
	}
	next.cert.Changes = append(s.cert.Changes, next.cert.Changes...) // of an earlier pass
	next.read, next.data = true, d
	*s = *next
	return nil
}

// showSide is a mailbox as the old store shows it; the server itself has no name.
func (a *account) showSide(name backend.MailboxName) string {
	if name == "" {
		return ""
	}
	return a.namespace.Show(name)
}

// sideDue reports a copy into a foreign store that has not looked at side data
// in this run: they may have changed though no mail did.
func (a *account) sideDue() bool { return a.ordered && a.side != nil && !a.side.read }

// planSide finds out what a copy would create and set at a foreign target.
func (a *account) planSide(ctx context.Context, pl *plan) error {
	if err := a.open(ctx, pl); err != nil {
		return err
	}
	to, ok := a.imp.(backend.SideTarget)
	if !ok {
		return nil
	}
	a.planned, a.foreign, a.subscribed = pl.exceptions, pl.foreign, pl.subscribed
	for _, p := range pl.boxes {
		a.boxes[p.name] = &box{planned: p}
	}
	return a.carrySide(ctx, func(ctx context.Context, d *backend.SideData) (*backend.SideCarried, error) {
		return to.PlanSide(ctx, importBoxes(pl), d)
	})
}

// names are the user's on both sides.
func (d *driver) names() (from, to string) {
	from, to = d.targetAt(d.route.from, "").User, d.targetAt(d.route.to, "").User
	if login := d.b.spec.of(d.user).Login; login != "" {
		from = login
	}
	return from, to
}

// foreignTarget is what a foreign store as the new one needs beside its map.
func (d *driver) foreignTarget(to *backend.Store) target.Options {
	from, name := d.names()
	o := target.Options{Dir: d.mapDir(), Rules: d.b.spec.Rules, Log: d.log, Settle: d.e.timing.Settle, From: from, To: name,
		Dial:      func(ctx context.Context) (*remote.Client, error) { return d.dialForeign(ctx, to) },
		DialSieve: d.b.unlessSilent(to, "", func(ctx context.Context) (*remote.TextConn, error) { return d.dialForeignSieve(ctx, to) })}
	if m := to.Login.Mode; (m == backend.LoginAuthzid || m == backend.LoginProxyAuth) && to.Login.User != "" {
		o.DialAdmin = func(ctx context.Context) (*remote.Client, error) { return d.dialForeignAdmin(ctx, to) }
	}
	return o
}

// dialForeignSieve logs in to the ManageSieve of a foreign store as the new one.
func (d *driver) dialForeignSieve(ctx context.Context, to *backend.Store) (*remote.TextConn, error) {
	pl, err := d.e.hosts.place(ctx, d.e.hosts.of(to, ""), &d.guest)
	if err != nil {
		return nil, err
	}
	t := d.targetAt(to, "")
	t.Dial = pl.dial
	c, err := remote.DialManageSieve(ctx, t)
	if err != nil {
		pl.leave()
	}
	return c, err
}

// dialForeignAdmin logs in as the administrator of a foreign store himself.
func (d *driver) dialForeignAdmin(ctx context.Context, to *backend.Store) (*remote.Client, error) {
	pl, err := d.e.hosts.place(ctx, d.e.hosts.of(to, ""), &d.guest)
	if err != nil {
		return nil, err
	}
	t := d.targetAt(to, "")
	t.Dial, t.User = pl.dial, to.Login.User
	c, err := dialIMAP(ctx, t)
	if err != nil {
		pl.leave()
	}
	return c, err
}

// unlessSilent dials ManageSieve; a port that the configuration does not name and
// that did not answer one user is not tried for the batch's others.
func (b *batch) unlessSilent(s *backend.Store, host string, dial func(context.Context) (*remote.TextConn, error)) func(context.Context) (*remote.TextConn, error) {
	if s.Ports[backend.ManageSieve] != 0 {
		return dial
	}
	return func(ctx context.Context) (*remote.TextConn, error) {
		key := hostName(s.Name, host)
		if err, ok := b.silent.Load(key); ok {
			return nil, err.(error)
		}
		c, err := dial(ctx)
		if err != nil && ctx.Err() == nil && remote.Unreached(err) {
			b.silent.Store(key, err)
		}
		return c, err
	}
}
