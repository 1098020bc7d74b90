package proxy

import (
	"context"
	"errors"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
)

// loginError carries an outcome with the cause for the log.
type loginError struct {
	outcome outcome
	err     error
}

func (e *loginError) Error() string { return e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

func denied(err error) error      { return &loginError{outcomeDenied, err} }
func unavailable(err error) error { return &loginError{outcomeUnavailable, err} }

// nobodyAuthenticator is a Directory that can spend the time of a failing
// Authenticate for a user that does not exist.
type nobodyAuthenticator interface {
	AuthenticateNobody(ctx context.Context, password backend.Secret)
}

// maxReroutes bounds how often a login starts over because a hold came in
// between.
const maxReroutes = 5

// login turns credentials into a session that is registered and may be run: the
// order is controls, lookup, placement and hold, password, backend connection.
// Nothing is sent to a store for a user who is not known and not let in.
func (p *Proxy) login(ctx context.Context, f *front, c credentials) (*session, error) {
	if c.token == mechOAuthBearer && c.user == "" {
		return nil, denied(errors.New("the token's user is not named, and tokens.claim finds none in it"))
	}
	if c.user == "" || !line.ValidCredential(c.user) || !c.validSecret() {
		p.nobody(ctx, c.password)
		return nil, denied(errors.New("control characters, or nothing, in the credentials"))
	}
	entry, err := p.lookup(ctx, c.user)
	if err == nil && entry.Disabled {
		err = backend.Errorf(backend.KindNotFound, "", "user is disabled: %s", entry.Reason)
	} else if err == nil && !entry.Allows(f.proto.name) {
		err = backend.Errorf(backend.KindNotFound, "", "user may not use %s", f.proto.name)
	}
	if backend.IsKind(err, backend.KindNotFound) {
		p.nobody(ctx, c.password)
		return nil, denied(err)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	// Wait for a hold before the password is checked, so that the check is as
	// short before the connection as it can be.
	// A token or a certificate says nothing of the user's password.
	password := c.token == "" && !c.proven
	if password && entry.CheckPassword {
		_, t, _, err := p.reg.admit(ctx, entry.User, false, p.o.HoldWait)
		if err != nil {
			return nil, held(err)
		}
		t.close()
	}
	if password && !p.guard.mayCheck(entry.User, c.password) {
		p.nobody(ctx, c.password)
		return nil, denied(errors.New("too many wrong passwords within an hour: this one is not checked"))
	}
	if password && entry.CheckPassword {
		err := p.o.Directory.Authenticate(ctx, entry, c.password)
		if p.learn(entry, c.password, err); backend.IsKind(err, backend.KindAuthentication) {
			return nil, denied(err)
		} else if err != nil {
			return nil, unavailable(err)
		}
	}
	for range maxReroutes {
		s, err := p.open(ctx, f, entry, c)
		if !errors.Is(err, errRerouted) {
			return s, err
		}
	}
	return nil, unavailable(errRerouted)
}

var errRerouted = errors.New("a hold began during the login")

// open connects to the store that rules now. errRerouted: a hold began
// meanwhile, nothing is left open.
func (p *Proxy) open(ctx context.Context, f *front, entry backend.Entry, c credentials) (*session, error) {
	cctx, t, pl, err := p.reg.admit(ctx, entry.User, false, p.o.HoldWait)
	if err != nil {
		return nil, held(err)
	}
	defer t.close()
	route, err := p.route(entry, pl)
	if err != nil {
		return nil, unavailable(err)
	}
	if err := mayShow(c, route.Store, f.proto.name); err != nil {
		return nil, err
	}
	password := c.token == "" && !c.proven
	storeChecks := c.token != "" || password && !entry.CheckPassword
	b, err := p.o.Connector.Connect(cctx, ConnectRequest{Route: route, Protocol: f.proto.name, Password: c.password, Token: c.token != "",
		CheckPassword: storeChecks, Client: f.c.NetConn().RemoteAddr(), Session: f.id})
	if password && storeChecks {
		p.learn(entry, c.password, err)
	}
	switch {
	case err != nil && cctx.Err() != nil && ctx.Err() == nil:
		return nil, errRerouted
	case backend.IsKind(err, backend.KindAuthentication) && storeChecks:
		return nil, denied(err)
	case backend.IsKind(err, backend.KindConflict):
		return nil, &loginError{outcomeInUse, err}
	case errors.Is(err, ErrNoService):
		return nil, &loginError{outcomeNoService, err}
	case err != nil:
		return nil, unavailable(err)
	}
	target := ""
	if pl != nil {
		target = pl.Target
	}
	nc, _ := f.c.Hijack()
	s := newSession(f, nc, b, route, f.proto.follow(f, route, target, b))
	s.at = b.Host
	// Tokens are not kept: they are over before a session is.
	if password && (!delegated(route.Store, f.proto.name) || storeChecks && p.keepsPasswords(route.Store, f.proto.name)) {
		s.password = c.password
	}
	if err := p.reg.enter(t, s); err != nil {
		b.Close()
		return nil, err
	}
	if f := p.o.LoggedIn; f != nil && password && route.Store.Login.Captures() {
		f(route.Store.Name, entry.User, c.password)
	}
	if f := p.o.Seen; f != nil {
		f(entry.User, c.user)
	}
	return s, nil
}

// learn tells the guard how a check of a password went.
func (p *Proxy) learn(entry backend.Entry, password backend.Secret, err error) {
	if err == nil || backend.IsKind(err, backend.KindAuthentication) {
		p.guard.checked(entry.User, password, err == nil)
	}
}

// keepsPasswords reports whether a user of st may move to a store without
// delegated login, for which the session then keeps the password in memory.
func (p *Proxy) keepsPasswords(st *backend.Store, proto backend.Protocol) bool {
	for _, name := range p.profiles.groups[st.Name] {
		if other, _, err := p.o.Stores.Find(name); err == nil && !delegated(other, proto) {
			return true
		}
	}
	return false
}

func held(err error) error {
	if backend.IsKind(err, backend.KindTemporary) {
		return &loginError{outcomeHeld, err}
	}
	return unavailable(err)
}

// lookupLimit bounds a lookup from here; the directory has limits of its own.
const lookupLimit = 6 * time.Second

func (p *Proxy) lookup(ctx context.Context, name string) (backend.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	return p.o.Directory.Lookup(ctx, name)
}

// nobody does the work of checking a password, for its time alone.
func (p *Proxy) nobody(ctx context.Context, password backend.Secret) {
	if n, ok := p.o.Directory.(nobodyAuthenticator); ok && password != "" && line.ValidSecret(string(password)) {
		n.AuthenticateNobody(ctx, password)
	}
}

// route is the placement's store, or the directory's where none rules. There is
// no default.
func (p *Proxy) route(entry backend.Entry, pl *backend.Placement) (backend.Route, error) {
	if pl != nil {
		r, err := p.routeOf(*pl)
		r.Entry = entry
		if err == nil && p.drains.on(r.Store.Name) {
			err = errDrained(r.Store.Name)
		}
		return r, err
	}
	if entry.Store == "" {
		return backend.Route{}, backend.Errorf(backend.KindUnavailable, "", "directory %s names no store for %s", entry.Directory, entry.User)
	}
	st, host, err := p.o.Stores.Find(entry.Store)
	if err == nil && p.drains.on(st.Name) {
		err = errDrained(st.Name)
	}
	if err == nil && entry.Host != "" && !st.Local() {
		host = entry.Host
	}
	return backend.Route{User: entry.User, Store: st, Host: host, Entry: entry}, err
}

func (p *Proxy) routeOf(pl backend.Placement) (backend.Route, error) {
	name := pl.Store
	st, host, err := p.o.Stores.Find(name)
	if err != nil && pl.Host != "" {
		st, host, err = p.o.Stores.Find(pl.Host)
	}
	if err == nil && pl.Host != "" && !st.Local() {
		host = pl.Host
	}
	return backend.Route{User: pl.User, Store: st, Host: host, Epoch: pl.Epoch}, err
}

// Route is where a login or delivery of a user would go now.
func (p *Proxy) Route(ctx context.Context, entry backend.Entry) (backend.Route, error) {
	pl, ok, err := p.o.Placements.Placement(ctx, entry.User)
	if err != nil {
		return backend.Route{}, err
	}
	if !ok {
		return p.route(entry, nil)
	}
	return p.route(entry, &pl)
}
