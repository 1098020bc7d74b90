package app

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"net"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/line"
	"mailferry/proxy"
	"mailferry/store/imapd"
)

// localLogin is how this node's proxy logs in at our own store for a user: with
// a secret that is made at each start and known to nobody else.
type localLogin struct {
	authenticate func(ctx context.Context, name string, p backend.Secret) (string, error)
	proxy        func(ctx context.Context, name string, p backend.Secret) error
	store        backend.Store // as backend/remote wants it
}

// proxyName is who the proxy logs in as.
const proxyName = "proxy"

func (a *App) newLocalLogin() localLogin {
	secret := backend.Secret(rand.Text())
	return localLogin{
		authenticate: func(ctx context.Context, name string, p backend.Secret) (string, error) {
			u, err := a.store.Authenticate(ctx, name, p)
			return u.Name, err
		},
		proxy: func(_ context.Context, name string, p backend.Secret) error {
			if name != proxyName || subtle.ConstantTimeCompare([]byte(p.Reveal()), []byte(secret.Reveal())) != 1 {
				return backend.NewError(backend.KindAuthentication, "wrong name or password")
			}
			return nil
		},
		store: backend.Store{Name: a.conf.LocalStore().Name, Type: backend.StoreLocal, Address: "localhost", TLS: backend.TLSNone,
			Login: backend.Login{Mode: backend.LoginAuthzid, User: proxyName, Secret: secret}},
	}
}

// target is a login for the user over connections that serve takes: by the
// proxy's word, or by the user's own password where nobody has checked it. A
// connection ends with its other end; the server's Shutdown waits for it.
func (l localLogin) target(r proxy.ConnectRequest, serve func(nc net.Conn, client string)) remote.Target {
	st := l.store
	if r.CheckPassword {
		st.Login = backend.Login{Mode: backend.LoginUser}
	}
	client := ""
	if r.Client != nil {
		client = r.Client.String()
	}
	return remote.Target{Store: &st, User: r.Route.User, Password: r.Password,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := line.Pipe()
			go serve(theirs, client)
			return ours, nil
		}}
}

// localIMAP is the way from this node's proxy to our own store: a connection
// within the process.
type localIMAP struct {
	server *imapd.Server
	login  localLogin
}

// buildIMAP makes the IMAP server of our own store. It has no listener: clients
// come through the proxy.
func (a *App) buildIMAP(context.Context) error {
	if a.store == nil {
		return nil
	}
	login := a.newLocalLogin()
	server, err := imapd.New(imapd.Options{
		Store: a.store, Authenticate: login.authenticate, ProxyLogin: login.proxy,
		Limits: imapd.Limits{Idle: a.conf.Limits.IdleTimeout, AppendSize: int64(a.conf.Limits.Message)},
		Logger: a.log.With("part", "imap"), Metrics: a.o.Registry,
	})
	if err != nil {
		return err
	}
	a.local = &localIMAP{server: server, login: login}
	a.parts = append(a.parts, part{name: "imap", serve: untilDone, stop: server.Shutdown})
	return nil
}

// capabilities are what our own store offers after login.
func (l *localIMAP) capabilities() []string {
	if l == nil {
		return nil
	}
	return imapd.Capabilities()
}

// connect opens a connection on which the user is logged in.
func (l *localIMAP) connect(ctx context.Context, r proxy.ConnectRequest) (proxy.BackendConn, error) {
	conn, err := remote.DialIMAP(ctx, l.login.target(r, func(nc net.Conn, client string) {
		l.server.ServeConn(context.Background(), nc, imapd.ConnInfo{Trusted: true, Remote: client})
	}))
	if err != nil {
		return proxy.BackendConn{}, err
	}
	nc, buffered, caps := conn.Detach()
	return proxy.BackendConn{Conn: nc, Buffered: buffered, Caps: caps}, nil
}
