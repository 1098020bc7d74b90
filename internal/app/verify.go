package app

import (
	"context"
	"net"
	"sync"

	"golang.org/x/sync/errgroup"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/admin"
	"mailferry/migrate"
	"mailferry/proxy"
	"mailferry/store/imapd"
)

// Verify implements admin.Verifications: each user's mail at two stores is
// compared over IMAP, as a client would see it.
func (m *migrations) Verify(ctx context.Context, r admin.VerifyRequest, fn func(admin.Verification) error) error {
	if r.From == "" || r.To == "" || r.From == r.To {
		return backend.NewError(backend.KindInvalid, "two different stores have to be named: from and to")
	}
	if r.Bodies < 0 || r.Bodies > 100 {
		return backend.NewError(backend.KindInvalid, "the share of bodies is a percentage: 0 to 100")
	}
	if err := m.checkStores(r.From, r.To); err != nil {
		return err
	}
	users := r.Users
	if r.Where != "" {
		var err error
		if users, err = m.selected(ctx, r.Where, ""); err != nil {
			return err
		}
	}
	if len(users) == 0 {
		return backend.NewError(backend.KindInvalid, "no users are named")
	}
	if r.Parallel <= 0 {
		r.Parallel = m.app.conf.Migrate.Parallel
	}
	options := migrate.AuditOptions{Bodies: r.Bodies, Cached: r.Cached, ByContent: r.ByContent, New: r.New, Samples: r.Samples}
	var mu sync.Mutex // one call of fn at a time
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Parallel)
	for _, user := range users {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v := m.verifyUser(ctx, user, r, options)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			return fn(v)
		})
	}
	return g.Wait()
}

// verifyUser compares one user's mail; what hinders is part of the result.
func (m *migrations) verifyUser(ctx context.Context, name string, r admin.VerifyRequest, o migrate.AuditOptions) admin.Verification {
	from, to := r.From, r.To
	entry, err := m.app.dirs.Lookup(ctx, name)
	switch {
	case backend.IsKind(err, backend.KindNotFound):
		entry = backend.Entry{User: name} // left the directory, but not the stores
	case err != nil:
		return admin.Verification{User: name, From: from, To: to, Error: err.Error()}
	}
	there := r.Each[name]
	as := migrate.UserOptions{Login: there.Login, Password: backend.Secret(there.Password), PasswordFile: there.PasswordFile}
	res, _ := migrate.RunAudit(ctx, entry.User, m.side(&entry, from, as), m.side(&entry, to, migrate.UserOptions{}), o) // its error is in res
	v := admin.Verification{User: name, From: from, To: to, Equal: res.Equal, Mailboxes: res.Mailboxes, Messages: res.Messages,
		Bodies: res.Bodies, New: res.New, Error: res.Error}
	for class, n := range res.Classes {
		if v.Classes == nil {
			v.Classes = make(map[string]int)
		}
		v.Classes[string(class)] = n
	}
	for _, d := range res.Differences {
		v.Differences = append(v.Differences, admin.VerifyDifference{Class: string(d.Class), Mailbox: d.Mailbox, UID: uint32(d.UID), What: d.What})
	}
	return v
}

// side is a store as an audit sees it, for one user, who logs in there as the
// options say.
func (m *migrations) side(e *backend.Entry, store string, as migrate.UserOptions) migrate.AuditSide {
	return migrate.AuditSide{Name: store, Dial: func(ctx context.Context) (*remote.Client, error) {
		conn, err := m.dialAs(ctx, e, store, as)
		if err != nil {
			return nil, err
		}
		return remote.NewClient(conn), nil
	}}
}

// dialAs logs in at a store for a user, whoever checks their password.
func (m *migrations) dialAs(ctx context.Context, e *backend.Entry, name string, as migrate.UserOptions) (*remote.IMAPConn, error) {
	var st *backend.Store
	for _, s := range m.app.stores {
		if s.Name == name {
			st = s
		}
	}
	if st.Local() {
		local := m.app.local
		return remote.DialIMAP(ctx, local.login.target(proxy.ConnectRequest{Route: backend.Route{User: e.User, Store: st}},
			func(nc net.Conn, client string) {
				local.server.ServeConn(context.Background(), nc, imapd.ConnInfo{Trusted: true, Remote: client})
			}))
	}
	t := remote.Target{Store: st, Host: st.Address, User: e.User}
	if err := as.LogIn(&t); err != nil {
		return nil, err
	}
	if st.Login.Mode == backend.LoginUser && t.Password == "" {
		return nil, backend.Errorf(backend.KindInvalid, "", "store %s has no delegated login: and the password of %s is not known", name, e.User)
	}
	if t.Host == "" { // any host that the directory names
		s, h, err := m.app.routes.Find(e.Store)
		if err != nil || s.Name != name {
			return nil, backend.Errorf(backend.KindInvalid, "", "store %s has no address, and the directory names none for %s", name, e.User)
		}
		t.Host = h
	}
	return remote.DialIMAP(ctx, t)
}
