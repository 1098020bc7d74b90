package serve

import (
	"context"
	"crypto/tls"

	"mailferry/backend"
	"mailferry/internal/line"
)

// Logins are a server's rules of who may log in, and where.
type Logins struct {
	// Authenticate checks a password and returns the user's canonical name.
	Authenticate func(ctx context.Context, name string, password backend.Secret) (canonical string, err error)
	// ProxyLogin checks the credentials of a proxy that logs in on behalf of a
	// user; nil: nobody may.
	ProxyLogin func(ctx context.Context, name string, secret backend.Secret) error
	TLSConfig  *tls.Config // nil: no STARTTLS
	ClearLogin bool        // passwords may pass where anybody can listen
}

// secure reports whether nobody can listen.
func (c *Conn) secure() bool {
	_, tls := c.TLS()
	return tls || c.peer.TLS || c.peer.Trusted
}

// MayStartTLS reports whether TLS can begin: it is configured and not there yet.
func (c *Conn) MayStartTLS() bool {
	_, tls := c.TLS()
	return c.logins.TLSConfig != nil && !tls && !c.peer.TLS
}

// MayLogin reports whether passwords are taken now. The session has to ask
// before Authenticate, which does not.
func (c *Conn) MayLogin() bool { return c.secure() || c.logins.ClearLogin }

// Authenticate returns the user to act as. A proxy names the user it acts for
// (delegated), proves who it is itself, and needs a connection that nobody can
// listen on.
func (c *Conn) Authenticate(ctx context.Context, p line.Plain) (user string, delegated bool, err error) {
	if p.Authzid == "" || p.Authzid == p.Name {
		user, err = c.logins.Authenticate(ctx, p.Name, backend.Secret(p.Password))
		return user, false, err
	}
	if c.logins.ProxyLogin == nil || !c.secure() {
		return "", false, backend.NewError(backend.KindAuthentication, "Authorisation identity is not accepted")
	}
	return p.Authzid, true, c.logins.ProxyLogin(ctx, p.Name, backend.Secret(p.Password))
}
