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

// localIMAP is the way from this node's proxy to our own store: a connection
// within the process, on which the proxy logs in for the user with a secret
// that is made at each start and known to nobody else.
type localIMAP struct {
	server *imapd.Server
	store  backend.Store // as remote.DialIMAP wants it
}

// proxyName is who the proxy logs in as.
const proxyName = "proxy"

// buildIMAP makes the IMAP server of our own store. It has no listener: clients
// come through the proxy.
func (a *App) buildIMAP(context.Context) error {
	if a.store == nil {
		return nil
	}
	secret := backend.Secret(rand.Text())
	server, err := imapd.New(imapd.Options{
		Store: a.store,
		Authenticate: func(ctx context.Context, name string, p backend.Secret) (string, error) {
			u, err := a.store.Authenticate(ctx, name, p)
			return u.Name, err
		},
		ProxyLogin: func(_ context.Context, name string, p backend.Secret) error {
			if name != proxyName || subtle.ConstantTimeCompare([]byte(p.Reveal()), []byte(secret.Reveal())) != 1 {
				return backend.NewError(backend.KindAuthentication, "wrong name or password")
			}
			return nil
		},
		Limits: imapd.Limits{Idle: a.conf.Limits.IdleTimeout, AppendSize: int64(a.conf.Limits.Message)},
		Logger: a.log.With("part", "imap"), Metrics: a.o.Registry,
	})
	if err != nil {
		return err
	}
	a.local = &localIMAP{server: server, store: backend.Store{Name: a.conf.LocalStore().Name, Type: backend.StoreLocal,
		Address: "localhost", TLS: backend.TLSNone,
		Login: backend.Login{Mode: backend.LoginAuthzid, User: proxyName, Secret: secret}}}
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

// connect opens a connection on which the user is logged in: by the proxy's
// word, or by the user's own password where nobody has checked it.
func (l *localIMAP) connect(ctx context.Context, r proxy.ConnectRequest) (proxy.BackendConn, error) {
	st := l.store
	if r.CheckPassword {
		st.Login = backend.Login{Mode: backend.LoginUser}
	}
	client := ""
	if r.Client != nil {
		client = r.Client.String()
	}
	conn, err := remote.DialIMAP(ctx, remote.Target{Store: &st, User: r.Route.User, Password: r.Password,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := line.Pipe()
			// Ends with the connection; the server's Shutdown waits for it.
			go l.server.ServeConn(context.Background(), theirs, imapd.ConnInfo{Trusted: true, Remote: client})
			return ours, nil
		}})
	if err != nil {
		return proxy.BackendConn{}, err
	}
	nc, buffered, caps := conn.Detach()
	return proxy.BackendConn{Conn: nc, Buffered: buffered, Caps: caps}, nil
}
