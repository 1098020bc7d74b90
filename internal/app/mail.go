package app

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/internal/config"
	"mailferry/proxy"
	"mailferry/store/smtpd"
	"mailferry/store/submission"
)

// proxyNodes names the nodes whose proxies must confirm a hold.
func (a *App) proxyNodes() []string {
	if !a.conf.HasRole(config.RoleProxy) {
		return nil
	}
	return []string{a.conf.Node}
}

// buildMail joins proxy, our own store's protocols and submission. What is
// listed first is stopped last: the proxy needs the store's servers to say
// goodbye to its clients.
func (a *App) buildMail(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = a.conf.Node
	}
	if err := a.buildIMAP(ctx); err != nil {
		return err
	}
	if err := a.buildPOP3(ctx); err != nil {
		return err
	}
	if err := a.buildProxy(host); err != nil {
		return err
	}
	a.buildSubmission(host)
	return nil
}

// buildProxy makes the front: its listeners and its ways to the stores.
func (a *App) buildProxy(host string) (err error) {
	if !a.conf.HasRole(config.RoleProxy) {
		return nil
	}
	o := proxy.Options{
		Node: a.conf.Node, Domain: host, Directory: a.dirs, Placements: a.places, Stores: a.routes,
		TLS: a.certs.config(), CleartextLogin: proxy.CleartextLogin(a.conf.TLS.CleartextLogin),
		Capabilities: map[string][]string{}, LoginTimeout: a.conf.Limits.LoginTimeout,
		Balancers: networks(a.conf.Balancers), MaxConnections: a.conf.Limits.Connections, MaxPerAddress: a.conf.Limits.PerAddress, MaxPerUser: a.conf.Limits.PerUser,
		MaxFailures: a.conf.Limits.FailedLogins, MaxMessage: int64(a.conf.Limits.Message),
		MaxRecipients: a.conf.Limits.Recipients, SpoolDir: a.path(dirSpool),
		Logger: a.log.With("part", "proxy"), Registry: a.o.Registry,
	}
	o.TLS.SessionTicketsDisabled = !a.conf.TLS.SessionTickets
	if a.conf.HasRole(config.RoleMigrate) {
		o.Latency = func(store, host string, d time.Duration) {
			if a.moves != nil {
				a.moves.ObserveLatency(store, host, d)
			}
		}
		a.keepLogins()
		o.Seen = func(user, name string) { a.logins.Seen(a.o.Now(), user, name) }
		o.LoggedIn = func(store, user string, password backend.Secret) {
			if a.moves != nil {
				a.moves.LoggedIn(store, user, password)
			}
		}
	}
	if a.backends, err = proxy.NewBackends(proxy.BackendsOptions{Logger: o.Logger, Registry: a.o.Registry}); err != nil {
		return err
	}
	a.life.onClose("backends", func() error { a.backends.Close(); return nil })
	o.Connector, o.DialLMTP = connector{local: a.local, pop3: a.pop3, foreign: a.backends}, a.backends.DialLMTP
	if err := a.loginOptions(&o); err != nil {
		return err
	}
	if err := os.MkdirAll(o.SpoolDir, 0o700); err != nil {
		return err
	}
	if a.store != nil {
		o.Deliverer = deliverer{store: a.store, domain: host, now: a.o.Now}
		o.Capabilities[a.conf.LocalStore().Name] = a.local.capabilities()
	}
	for _, g := range a.conf.MoveGroups {
		o.Groups = append(o.Groups, proxy.Group{Name: g.Name, Stores: g.Stores})
	}
	if a.proxy, err = proxy.New(o); err != nil {
		return err
	}
	a.inward = newPipeListener()
	p := part{name: "proxy", serve: untilDone, stop: a.proxy.Shutdown}
	for name, serve := range map[string]func(net.Listener) error{
		"imap":        func(l net.Listener) error { return a.proxy.ServeIMAP(l, false) },
		"imaps":       func(l net.Listener) error { return a.proxy.ServeIMAP(l, true) },
		"pop3":        func(l net.Listener) error { return a.proxy.ServePOP3(l, false) },
		"pop3s":       func(l net.Listener) error { return a.proxy.ServePOP3(l, true) },
		"managesieve": func(l net.Listener) error { return a.proxy.ServeManageSieve(l) },
	} {
		for _, l := range a.listeners[name] {
			p.also = append(p.also, func() error { return serve(l) })
		}
	}
	for _, l := range append(a.listeners["lmtp"], a.inward) {
		p.also = append(p.also, func() error { return a.proxy.ServeLMTP(l) })
	}
	a.parts = append(a.parts, p)
	return nil
}

// networks reads what the configuration has checked.
func networks(list []string) (out []netip.Prefix) {
	for _, n := range list {
		out = append(out, netip.MustParsePrefix(n).Masked())
	}
	return out
}

// buildSubmission takes mail of logged-in users; the proxy routes it.
func (a *App) buildSubmission(host string) {
	if !a.conf.HasRole(config.RoleIngress) || a.proxy == nil {
		return
	}
	c := a.certs.config()
	c.SessionTicketsDisabled = true // few come back soon
	s := submission.New(submission.Options{
		Users: submitters{dirs: a.dirs, app: a}, Router: router{dirs: a.dirs, dial: a.inward.dial, domain: host},
		Domain: host, TLSConfig: c, Cleartext: submission.Cleartext(a.conf.TLS.CleartextLogin),
		MaxSize: int64(a.conf.Limits.Message), MaxRecipients: a.conf.Limits.Recipients,
		Logger: a.log.With("part", "submission"), Now: a.o.Now,
	})
	p := part{name: "submission", serve: untilDone, stop: s.Shutdown}
	for _, l := range a.listeners["submission"] {
		p.also = append(p.also, func() error { return s.Serve(l) })
	}
	for _, l := range a.listeners["submissions"] {
		p.also = append(p.also, func() error { return s.ServeTLS(l) })
	}
	a.parts = append(a.parts, p)
}

// connector opens the proxy's backend connections: to our own store within the
// process, to foreign ones over the network.
type connector struct {
	local   *localIMAP // nil without the role store
	pop3    *localPOP3 // likewise
	foreign proxy.Connector
}

// Connect implements proxy.Connector.
func (c connector) Connect(ctx context.Context, r proxy.ConnectRequest) (proxy.BackendConn, error) {
	if !r.Route.Store.Local() {
		return c.foreign.Connect(ctx, r)
	}
	if c.local == nil {
		return proxy.BackendConn{}, backend.Errorf(backend.KindUnavailable, "", "this node has not the role store")
	}
	switch r.Protocol {
	case backend.IMAP:
		return c.local.connect(ctx, r)
	case backend.POP3:
		return c.pop3.connect(ctx, r)
	default:
		return proxy.BackendConn{}, backend.Errorf(backend.KindUnavailable, "", "%w: our own store has no %s", proxy.ErrNoService, r.Protocol)
	}
}

// addProxyService shows the proxy in the admin API.
func (a *App) addProxyService(s *admin.Service) {
	if a.proxy != nil {
		s.Sessions = sessions{a.proxy, a.dirs}
	}
}

// submitters are those who may submit mail: the users of all directories.
type submitters struct {
	dirs *directories
	app  *App
}

// Authenticate implements submission.Authenticator. Where the store checks
// passwords, it is asked by a login.
func (s submitters) Authenticate(ctx context.Context, name string, p backend.Secret) (string, error) {
	wrong := backend.NewError(backend.KindAuthentication, "wrong name or password")
	e, err := s.dirs.Lookup(ctx, name)
	switch {
	case backend.IsKind(err, backend.KindNotFound):
		s.dirs.AuthenticateNobody(ctx, p)
		return "", wrong
	case err != nil:
		return "", err
	}
	if e.CheckPassword {
		err = s.dirs.Authenticate(ctx, e, p)
	} else {
		err = s.app.tryLogin(ctx, e, p)
	}
	if err == nil && e.Disabled {
		err = wrong
	}
	return e.User, err
}

// tryLogin has the user's store check a password.
func (a *App) tryLogin(ctx context.Context, e backend.Entry, p backend.Secret) error {
	name := e.Store
	if placed, ok, err := a.places.Placement(ctx, e.User); err != nil {
		return err
	} else if ok {
		name = placed.Store
	}
	st, host, err := a.routes.Find(name)
	if err != nil {
		return err
	}
	c := connector{local: a.local, pop3: a.pop3, foreign: a.backends}
	conn, err := c.Connect(ctx, proxy.ConnectRequest{Route: backend.Route{User: e.User, Store: st, Host: host, Entry: e},
		Protocol: backend.IMAP, Password: p, CheckPassword: true, Client: &net.TCPAddr{IP: net.IPv6loopback}, Session: smtpd.NewID()})
	if err != nil {
		return err
	}
	return conn.Close()
}

// Owns implements submission.Authenticator: an address belongs to the user to
// whom it delivers.
func (s submitters) Owns(ctx context.Context, user, address string) (bool, error) {
	e, err := s.dirs.Lookup(ctx, address)
	if backend.IsKind(err, backend.KindNotFound) {
		return false, nil
	}
	return err == nil && e.User == user, err
}
