package proxy

import (
	"context"
	"log/slog"
	"net"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// RemoteConnector reaches foreign stores over the network.
type RemoteConnector struct {
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error) // nil: a net.Dialer
	Logger *slog.Logger
}

// Connect implements Connector.
func (c RemoteConnector) Connect(ctx context.Context, r ConnectRequest) (BackendConn, error) {
	st := *r.Route.Store
	switch {
	case r.CheckPassword:
		st.Login = backend.Login{Mode: backend.LoginUser}
	case st.Login.Mode == backend.LoginUser || st.Login.Mode == "":
		if r.Password == "" {
			return BackendConn{}, backend.Errorf(backend.KindUnavailable, "", "store %s wants the user's own password", st.Name)
		}
	}
	t := remote.Target{Store: &st, Host: r.Route.Host, User: r.Route.User, Password: r.Password, Dial: c.Dial, Logger: c.Logger}
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

func detachText(conn *remote.TextConn, err error) (BackendConn, error) {
	if err != nil {
		return BackendConn{}, err
	}
	nc, buffered := conn.Detach()
	return BackendConn{Conn: nc, Buffered: buffered, Caps: conn.Caps()}, nil
}

// delegated reports whether a session can log in at st without the user's
// password.
func delegated(st *backend.Store) bool {
	return st.Local() || st.Login.Mode == backend.LoginAuthzid || st.Login.Mode == backend.LoginMaster
}
