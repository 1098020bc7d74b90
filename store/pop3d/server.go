package pop3d

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
	"mailferry/store"
	"mailferry/store/serve"
)

// Options are what a Server is built from.
type Options struct {
	Store *store.Store
	// Authenticate checks a password and returns the canonical name of the
	// user. KindAuthentication: wrong; KindUnavailable: it cannot tell.
	Authenticate func(ctx context.Context, name string, password backend.Secret) (canonical string, err error)
	// ProxyLogin checks the credentials of a proxy that logs in on behalf of a
	// user (SASL PLAIN with an authorisation identity). nil: nobody may. It is
	// asked only on connections that are trusted or under TLS.
	ProxyLogin func(ctx context.Context, name string, secret backend.Secret) error
	TLSConfig  *tls.Config // nil: no STLS
	// ClearLogin permits passwords without TLS on connections that are not
	// trusted (RFC 2595 section 2.2).
	ClearLogin bool
	Limits     Limits
	Logger     *slog.Logger          // nil: discard
	Metrics    prometheus.Registerer // nil: none
	Hostname   string                // in the greeting; may be empty
}

// Limits bound what one connection may do; a zero field takes its default.
type Limits struct {
	Idle        time.Duration // between commands of a logged-in client; 10 min (RFC 1939 section 3)
	Login       time.Duration // for each command until the login; 3 min
	Command     time.Duration // from the first octet of a command to its end; 1 min
	LoginErrors int           // failed logins of a connection; 5
	BadCommands int           // wrong commands in a row; 20, before the login a quarter of it
}

func (l *Limits) setDefaults() {
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&l.Idle, 10 * time.Minute}, {&l.Login, 3 * time.Minute}, {&l.Command, time.Minute}} {
		if *d.p <= 0 {
			*d.p = d.v
		}
	}
	if l.LoginErrors <= 0 {
		l.LoginErrors = 5
	}
	if l.BadCommands <= 0 {
		l.BadCommands = 20
	}
}

// ConnInfo is what the caller knows of a connection.
type ConnInfo struct {
	// Trusted connections come from our own proxy, in process or verified:
	// passwords may pass without TLS.
	Trusted bool
	// TLS says that the connection is protected below what is handed in.
	TLS bool
	// Remote is the client's address for logs.
	Remote string
}

// Server serves POP3. It is safe for concurrent use.
type Server struct {
	o        Options      // read-only
	logins   serve.Logins // read-only
	log      *slog.Logger
	met      *metrics
	sessions serve.Group
}

// New returns a Server. It owns no goroutine until it serves.
func New(o Options) (*Server, error) {
	if o.Store == nil || o.Authenticate == nil {
		return nil, errors.New("pop3d: Store and Authenticate must be set")
	}
	o.Limits.setDefaults()
	logins := serve.Logins{Authenticate: o.Authenticate, ProxyLogin: o.ProxyLogin, TLSConfig: o.TLSConfig, ClearLogin: o.ClearLogin}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, err
	}
	return &Server{o: o, logins: logins, log: o.Logger, met: m}, nil
}

// Serve accepts connections until Shutdown or the listener's end, which are no
// errors. Temporary errors back off from 5 ms to 1 s.
func (s *Server) Serve(l net.Listener) error {
	return s.sessions.Accept(l, s.log, func(c net.Conn) {
		s.ServeConn(context.Background(), c, ConnInfo{Remote: c.RemoteAddr().String()})
	})
}

// ServeConn serves one connection to its end and closes it. When ctx ends, the
// session says goodbye at its next command boundary.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, info ConnInfo) {
	defer c.Close()
	se := newSession(s, c, info)
	s.sessions.Run(se.conn, func() {
		s.met.sessions.Inc()
		defer s.met.sessions.Dec()
		se.serve(ctx)
	})
}

// Shutdown stops accepting; every session says goodbye at its next command boundary.
// When ctx ends first, the rest is closed and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error { return s.sessions.Shutdown(ctx) }
