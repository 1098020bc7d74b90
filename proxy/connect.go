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

// Connect implements Connector for IMAP.
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
	conn, err := remote.DialIMAP(ctx, remote.Target{Store: &st, Host: r.Route.Host, User: r.Route.User,
		Password: r.Password, Dial: c.Dial, Logger: c.Logger})
	if err != nil {
		return BackendConn{}, err
	}
	nc, buffered, caps := conn.Detach()
	return BackendConn{Conn: nc, Buffered: buffered, Caps: caps}, nil
}

// delegated reports whether a session can log in at st without the user's
// password.
func delegated(st *backend.Store) bool {
	return st.Local() || st.Login.Mode == backend.LoginAuthzid || st.Login.Mode == backend.LoginMaster
}
