package app

import (
	"context"
	"net"

	"mailferry/backend/remote"
	"mailferry/proxy"
	"mailferry/store/pop3d"
)

// localPOP3 is the way from this node's proxy to the POP3 server of our own
// store, within the process.
type localPOP3 struct {
	server *pop3d.Server
	login  localLogin
}

// buildPOP3 makes the POP3 server of our own store. It has no listener: clients
// come through the proxy.
func (a *App) buildPOP3(context.Context) error {
	if a.store == nil {
		return nil
	}
	login := a.newLocalLogin()
	server, err := pop3d.New(pop3d.Options{Store: a.store, Authenticate: login.authenticate, ProxyLogin: login.proxy,
		Logger: a.log.With("part", "pop3"), Metrics: a.o.Registry})
	if err != nil {
		return err
	}
	a.pop3 = &localPOP3{server: server, login: login}
	a.parts = append(a.parts, part{name: "pop3", serve: untilDone, stop: server.Shutdown})
	return nil
}

// connect opens a connection on which the user is logged in.
func (l *localPOP3) connect(ctx context.Context, r proxy.ConnectRequest) (proxy.BackendConn, error) {
	conn, err := remote.DialPOP3(ctx, l.login.target(r, func(nc net.Conn, client string) {
		l.server.ServeConn(context.Background(), nc, pop3d.ConnInfo{Trusted: true, Remote: client})
	}))
	if err != nil {
		return proxy.BackendConn{}, err
	}
	nc, buffered := conn.Detach()
	return proxy.BackendConn{Conn: nc, Buffered: buffered, Caps: conn.Caps()}, nil
}
