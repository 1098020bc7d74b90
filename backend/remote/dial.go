package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"time"

	"mailferry/backend"
)

// DefaultTimeout bounds the dial, and each wait for the store until login.
const DefaultTimeout = 5 * time.Second

// loginFactor stretches the wait for the answer to a login: stores delay the
// refusal of wrong passwords, and ask directories of their own.
const loginFactor = 4

// Target says where to log in, and as whom.
type Target struct {
	Store *backend.Store
	Host  string // overrides Store.Address when not empty
	// User is the mailbox owner's name as the store knows it.
	User string
	// Password is the user's own; used with backend.LoginUser only (and with
	// LoginProxyAuth where that is the same). Token: it is an OAuth token.
	Password backend.Secret
	Token    bool
	// Client and Session say whom the connection is for, where Store.Identity
	// wants it told.
	Client  net.Addr
	Session string
	// Raw asks a POP3 server for messages as they are: one that speaks UTF8 (RFC
	// 6856) wraps those with 8-bit headers for clients that do not say they do.
	Raw bool
	// Learned lets an IMAP login carry the first Survey with it, when the host is
	// far away and has shown what it can; nil: never. Client.Survey takes it.
	Learned *Learned
	// Dial opens TCP connections; nil: a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout is DefaultTimeout when zero.
	Timeout time.Duration
}

func (t *Target) timeout() time.Duration {
	if t.Timeout > 0 {
		return t.Timeout
	}
	return DefaultTimeout
}

func (t *Target) host() string {
	if t.Host != "" {
		return t.Host
	}
	return t.Store.Address
}

// dial opens the TCP connection for p, TLS around it when the store's mode is
// implicit.
func (t *Target) dial(ctx context.Context, p backend.Protocol) (net.Conn, error) {
	if t.Store == nil || t.host() == "" {
		return nil, backend.Errorf(backend.KindBug, "", "dial %s: store without address", p)
	}
	conn, err := t.connect(ctx, p)
	if err != nil {
		return nil, t.unavailable(p, stepDial, ended(ctx, err))
	}
	if t.Store.Identity == backend.IdentityProxy {
		_ = conn.SetWriteDeadline(time.Now().Add(t.timeout()))
		if _, err := conn.Write(t.proxyHeader(conn.RemoteAddr())); err != nil {
			conn.Close()
			return nil, t.unavailable(p, "PROXY", ended(ctx, err))
		}
		_ = conn.SetWriteDeadline(time.Time{})
	}
	if t.Store.TLSFor(p) != backend.TLSImplicit {
		return conn, nil
	}
	return t.startTLS(ctx, p, conn)
}

// connect opens the TCP connection.
func (t *Target) connect(ctx context.Context, p backend.Protocol) (net.Conn, error) {
	addr := net.JoinHostPort(t.host(), strconv.Itoa(t.Store.Port(p)))
	if t.Dial == nil {
		d := net.Dialer{Timeout: t.timeout()}
		return d.DialContext(ctx, "tcp", addr)
	}
	limited, cancel := context.WithTimeout(ctx, t.timeout())
	defer cancel()
	return t.Dial(limited, "tcp", addr)
}

// startTLS ends the handshake within the timeout, or closes conn.
func (t *Target) startTLS(ctx context.Context, p backend.Protocol, conn net.Conn) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, t.timeout())
	defer cancel()
	tc := tls.Client(conn, t.tlsConfig())
	if err := tc.HandshakeContext(limited); err != nil {
		conn.Close()
		return nil, t.unavailable(p, "TLS", ended(ctx, err))
	}
	return tc, nil
}

// ended prefers the reason why ctx ended to what that made of an operation.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (t *Target) tlsConfig() *tls.Config {
	c := &tls.Config{}
	if t.Store.TLSConfig != nil {
		c = t.Store.TLSConfig.Clone()
	}
	if c.ServerName == "" {
		c.ServerName = t.host()
	}
	return c
}

// unavailable wraps what went wrong between us and the store.
func (t *Target) unavailable(p backend.Protocol, step string, err error) error {
	return backend.Errorf(backend.KindUnavailable, "The mail store cannot be reached.",
		"%s of store %s at %s: %w", p, t.Store.Name, t.host(), &StepError{step, err})
}

// Steps that somebody asks for.
const (
	stepDial  = "dial"
	stepLogin = "login"
)

// StepError says at which step a connection to a store failed: dial, PROXY,
// TLS, greeting, STARTTLS, CAPABILITY, ID, login and their like.
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// Unreached reports whether err says that no TCP connection came about, which
// is nobody's fault but the store's.
func Unreached(err error) bool {
	var e *StepError
	return errors.As(err, &e) && e.Step == stepDial
}

// BeforeLogin reports whether the store failed before it was shown credentials,
// so that another try costs nothing.
func BeforeLogin(err error) bool {
	var e *StepError
	return errors.As(err, &e) && e.Step != stepLogin
}
