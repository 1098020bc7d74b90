package migrate

import (
	"context"

	"mailferry/backend"
	"mailferry/backend/remote"
)

func (d *driver) dialSource(ctx context.Context) (*remote.Client, error) {
	return d.dialPlaced(ctx, func() {})
}

// dialAccount is dialSource for the account, whose target begins meanwhile.
func (d *driver) dialAccount(ctx context.Context) (*remote.Client, error) {
	c, err := d.dialPlaced(ctx, func() {
		if !d.b.spec.Dry {
			d.acct.begin(ctx)
		}
	})
	if err != nil {
		d.acct.rest()
	}
	return c, err
}

// dialPlaced calls placed when there is a place for the connection.
func (d *driver) dialPlaced(ctx context.Context, placed func()) (*remote.Client, error) {
	t, leave, err := d.target(ctx)
	if err != nil {
		return nil, err
	}
	placed()
	t.Learned = &d.host().learned
	return d.dialAt(ctx, t, leave)
}

func (d *driver) dialAt(ctx context.Context, t remote.Target, leave func()) (*remote.Client, error) {
	c, err := dialIMAP(ctx, t)
	d.heard(ctx, err)
	if room, _ := refusal(err, false); !room && backend.IsKind(err, backend.KindAuthentication) {
		d.e.captured.refused(d.route.entry.User, t.Password) // a second try could lock the user out
	}
	if err != nil {
		leave()
		return nil, err
	}
	h := d.host()
	c.Throttled = func(text string) {
		d.e.hosts.outcome(h, backend.Errorf(backend.KindTemporary, "", "[THROTTLED] %s", text))
	}
	return c, nil
}

func dialIMAP(ctx context.Context, t remote.Target) (*remote.Client, error) {
	conn, err := remote.DialIMAP(ctx, t)
	if err != nil {
		return nil, err
	}
	c := remote.NewClient(conn)
	if t.Store.Compress == backend.CompressAlways {
		if err := c.Compress(ctx); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// another takes the place of a further connection to the source, if there is one.
func (d *driver) another() (dial dialer, release func(), ok bool) {
	pl := d.e.hosts.further(d.host(), &d.visitor)
	if pl == nil {
		return nil, nil, false
	}
	return func(ctx context.Context) (*remote.Client, error) {
		t, err := d.account()
		if err != nil {
			return nil, err
		}
		t.Dial = pl.dial
		return d.dialAt(ctx, t, pl.leave)
	}, pl.leave, true
}

// maildrop is the POP3 side of an account; nil where the user has none.
func (d *driver) maildrop() *maildrop {
	mode := d.b.spec.POP3
	if mode == POP3Never || mode != POP3Always && !d.route.entry.Allows(backend.POP3) {
		return nil
	}
	m := &maildrop{mode: mode, force: d.b.spec.ForcePOP3, named: d.route.from.Ports[backend.POP3] != 0, dial: d.dialPOP3,
		dialEarly: d.earlyPOP3}
	if to := d.route.to; !to.Local() {
		m.dialNew = func(ctx context.Context) (*remote.POP3Client, error) { return d.dialForeignPOP3(ctx, to) }
	}
	return m
}

func (d *driver) dialPOP3(ctx context.Context) (*remote.POP3Client, error) {
	t, leave, err := d.target(ctx)
	if err != nil {
		return nil, err
	}
	t.Raw = true
	c, err := remote.DialPOP3(ctx, t)
	if err != nil {
		leave()
		return nil, err
	}
	return remote.NewPOP3Client(c), nil
}

// sideState is what the account needs to read what is beside mail.
func (d *driver) sideState() *sideState {
	rules := d.b.spec.Rules
	from := d.route.from
	return &sideState{named: from.Ports[backend.ManageSieve] != 0, noScripts: rules != nil && rules.NoSieve,
		dial: d.b.unlessSilent(from, d.route.host, func(ctx context.Context) (*remote.TextConn, error) {
			t, leave, err := d.target(ctx)
			if err != nil {
				return nil, err
			}
			c, err := remote.DialManageSieve(ctx, t)
			if err != nil {
				leave()
			}
			return c, err
		})}
}

// host is that of the old store.
func (d *driver) host() *host { return d.e.hosts.of(d.route.from, d.route.host) }

// heard takes what came of a login or of a pass; it reports whether the store
// refused for want of room, which is nobody's fault.
func (d *driver) heard(ctx context.Context, err error) bool {
	if d.route.from == nil || ctx.Err() != nil {
		return false
	}
	return d.e.hosts.outcome(d.host(), err)
}

// target is the user at the old store, with a place for one connection, which
// leave gives up unless the connection was opened: then its end does. It waits
// until the store may be asked for it.
func (d *driver) target(ctx context.Context) (t remote.Target, leave func(), err error) {
	if t, err = d.account(); err != nil {
		return t, nil, err
	}
	pl, err := d.e.hosts.place(ctx, d.host(), &d.visitor)
	if err != nil {
		return t, nil, err
	}
	t.Dial = pl.dial
	return t, pl.leave, nil
}

// account is the user at the old store, with their login.
func (d *driver) account() (remote.Target, error) {
	t := d.targetAt(d.route.from, d.route.host)
	o := d.b.spec.of(d.user)
	if err := o.LogIn(&t); err != nil || !d.captures() {
		return t, err
	}
	var ok bool
	if t.Password, ok = d.e.captured.ask(d.route.entry.User, d.route.from.Name, d.b, d.user); !ok {
		return t, errAwaitsLogin
	}
	return t, nil
}

// dialForeign is dialSource for a foreign store as the new one, within its limits.
func (d *driver) dialForeign(ctx context.Context, to *backend.Store) (*remote.Client, error) {
	h := d.e.hosts.of(to, "")
	pl, err := d.e.hosts.place(ctx, h, &d.guest)
	if err != nil {
		return nil, err
	}
	t := d.targetAt(to, "")
	t.Dial = pl.dial
	c, err := dialIMAP(ctx, t)
	if err != nil {
		pl.leave()
	}
	if ctx.Err() == nil {
		d.e.hosts.outcome(h, err)
	}
	return c, err
}

// targetAt is the user at a store, as the store's configuration says it.
func (d *driver) targetAt(s *backend.Store, host string) remote.Target {
	t := remote.Target{Store: s, Host: host, User: d.route.entry.User, Dial: d.e.opt.Dial}
	if f := d.e.opt.Account; f != nil {
		t.User, t.Password = f(s, d.route.entry.User)
	}
	return t
}
