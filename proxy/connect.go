package proxy

import (
	"context"
	"maps"
	"net"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// RemoteConnector reaches foreign stores over the network.
type RemoteConnector struct {
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: a net.Dialer
}

// Connect implements Connector.
func (c RemoteConnector) Connect(ctx context.Context, r ConnectRequest) (BackendConn, error) {
	st := storeFor(r.Route)
	switch {
	case r.CheckPassword:
		st.Login = backend.Login{Mode: backend.LoginUser}
	case !delegated(&st, r.Protocol):
		if r.Password == "" {
			return BackendConn{}, backend.Errorf(backend.KindUnavailable, "", "store %s wants the user's own password", st.Name)
		}
	}
	t := remote.Target{Store: &st, Host: r.Route.Host, User: r.Route.User, Password: r.Password, Token: r.Token, Dial: c.Dial,
		Client: r.Client, Session: r.Session}
	switch r.Protocol {
	case backend.POP3:
		return detachText(remote.DialPOP3(ctx, t))
	case backend.ManageSieve:
		return detachText(remote.DialManageSieve(ctx, t))
	}
	conn, err := remote.DialIMAP(ctx, t)
	if err != nil {
		return BackendConn{}, err
	}
	nc, buffered, caps := conn.Detach()
	return BackendConn{Conn: nc, Buffered: buffered, Caps: caps}, nil
}

// storeFor is the store of a route with the ports that the directory gives for
// this user; the value is the caller's own.
func storeFor(r backend.Route) backend.Store {
	st := *r.Store
	if e := r.Entry; len(e.Ports) > 0 && (r.Epoch == 0 || e.Store == st.Name) {
		st.Ports = maps.Clone(st.Ports)
		if st.Ports == nil {
			st.Ports = map[backend.Protocol]int{}
		}
		maps.Copy(st.Ports, e.Ports)
	}
	return st
}

func detachText(conn *remote.TextConn, err error) (BackendConn, error) {
	if err != nil {
		return BackendConn{}, err
	}
	nc, buffered := conn.Detach()
	return BackendConn{Conn: nc, Buffered: buffered, Caps: conn.Caps()}, nil
}

// delegated reports whether a session can log in at st without the user's
// password.
func delegated(st *backend.Store, p backend.Protocol) bool {
	return st.Local() || st.Login.Mode.Delegates(p)
}

// PortOf is the port that a session on a route is opened at.
func PortOf(r backend.Route, p backend.Protocol) int {
	st := storeFor(r)
	return st.Port(p)
}
