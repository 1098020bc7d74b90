// Package submission takes mail from our own users (RFC 6409) and hands it to a
// Router, which knows where the recipients live.
package submission

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/store/smtpd"
)

// Authenticator knows the users. Safe for concurrent use.
type Authenticator interface {
	// Authenticate returns the canonical user. KindAuthentication: wrong;
	// KindUnavailable: it cannot be told.
	Authenticate(ctx context.Context, name string, password backend.Secret) (user string, err error)
	// Owns reports whether a user may send from an address.
	Owns(ctx context.Context, user, address string) (bool, error)
}

// Router files mail for the recipients that it accepts. *store.Store is one
// for its own users. Safe for concurrent use.
type Router interface {
	// Recipient says whether an address can get mail now. What it returns goes
	// to DeliverStream as it is. KindNotFound: no such address here.
	Recipient(ctx context.Context, address string) (recipient string, err error)
	// DeliverStream reads a message once, to its end, and files it for each
	// recipient. The errors are in the recipients' order; nil means durable.
	DeliverStream(ctx context.Context, from string, recipients []string, body io.Reader) []error
}

// Cleartext says who may log in without TLS.
type Cleartext string

// CleartextLoopback, the default, is for peers on this machine.
const (
	CleartextLoopback Cleartext = "loopback"
	CleartextNever    Cleartext = "never"
	CleartextAlways   Cleartext = "always"
)

// Options configure a Server. Users and Router are required.
type Options struct {
	Users  Authenticator
	Router Router
	// LocalDomain reports whether all addresses of a domain are ours, for the
	// text of a refusal. May be nil.
	LocalDomain    func(domain string) bool
	Domain         string      // our name; "localhost" when empty
	TLSConfig      *tls.Config // nil: no STARTTLS, no implicit TLS
	Cleartext      Cleartext
	MaxSize        int64 // octets of a message; default 64 MiB
	MaxRecipients  int   // per transaction; default 100 (RFC 5321 4.5.3.1.8)
	MaxConnections int64 // default 1000
	Logger         *slog.Logger
	Now            func() time.Time // nil: time.Now
}

const (
	defaultMaxSize        = 64 << 20
	defaultMaxRecipients  = 100
	defaultMaxConnections = 1000
	// maxLine bounds what a peer without a password can make us hold.
	maxLine      = 128 << 10
	readTimeout  = 10 * time.Minute // for a command, and for a whole message
	writeTimeout = time.Minute
)

// Server is a submission server.
type Server struct {
	*smtpd.Server
	options Options
	log     *slog.Logger
	open    atomic.Int64
}

// New returns a server; it runs with Serve and ServeTLS and ends with Shutdown.
func New(o Options) *Server {
	setDefault(&o.Domain, "localhost")
	setDefault(&o.Cleartext, CleartextLoopback)
	setDefault(&o.MaxSize, defaultMaxSize)
	setDefault(&o.MaxRecipients, defaultMaxRecipients)
	setDefault(&o.MaxConnections, defaultMaxConnections)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{options: o, log: o.Logger}
	srv := smtp.NewServer(smtp.BackendFunc(s.newSession))
	srv.Domain = o.Domain
	srv.TLSConfig = o.TLSConfig
	srv.MaxMessageBytes = o.MaxSize
	srv.MaxRecipients = o.MaxRecipients
	srv.MaxLineLength = maxLine
	srv.ReadTimeout, srv.WriteTimeout = readTimeout, writeTimeout
	srv.AllowInsecureAuth = o.Cleartext != CleartextNever // per connection: see session.mayLogin
	srv.EnableSMTPUTF8 = true
	s.Server = smtpd.NewServer(srv, o.Logger)
	return s
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Serve accepts connections that begin in clear text, until Shutdown.
func (s *Server) Serve(l net.Listener) error { return s.Server.Serve(l, nil) }

// ServeTLS accepts connections that begin with TLS (RFC 8314), until Shutdown.
func (s *Server) ServeTLS(l net.Listener) error { return s.Server.Serve(l, s.options.TLSConfig) }

func (s *Server) newSession(c *smtp.Conn) (smtp.Session, error) {
	if s.open.Add(1) > s.options.MaxConnections {
		s.open.Add(-1)
		return nil, &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "too many connections"}
	}
	ctx, cancel := context.WithCancel(s.Context())
	return &session{server: s, conn: c, ctx: ctx, cancel: cancel}, nil
}
