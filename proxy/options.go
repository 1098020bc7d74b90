package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
)

// CleartextLogin says who may log in without TLS.
type CleartextLogin string

// CleartextLoopback, the default, lets clients on the loopback interface log
// in without TLS, and nobody else.
const (
	CleartextLoopback CleartextLogin = "loopback"
	CleartextNever    CleartextLogin = "never"
	CleartextAlways   CleartextLogin = "always"
)

// Stores resolves what directories and placements call a store;
// directory.Stores is one.
type Stores interface {
	// Find returns the store and the address to dial (empty for our own).
	// KindUnavailable: nothing configured fits.
	Find(name string) (st *backend.Store, host string, err error)
}

// ConnectRequest asks for a backend connection on which a user is logged in.
type ConnectRequest struct {
	Route    backend.Route
	Protocol backend.Protocol
	// Password is the client's. When CheckPassword is set, nobody has checked
	// it: the store must, whatever its login mode, with the user's own name,
	// and KindAuthentication is the answer to a wrong one. When it is not set,
	// the user has proven who they are; Password is only for stores whose login
	// mode is LoginUser, and empty when the session does not keep it. Token: it
	// is an OAuth token; CheckPassword is set then.
	Password      backend.Secret
	Token         bool
	CheckPassword bool
	Client        net.Addr // for the store's log
	Session       string   // id of the session, for logs on both sides
}

// ErrNoService is within a Connector's error when the user's store does not
// serve the protocol at all.
var ErrNoService = errors.New("the store does not serve this protocol")

// Connector opens backend connections. Errors: KindAuthentication (with
// CheckPassword: the client's password is wrong; else our own credentials
// are), KindConflict (another session has the mailbox for itself),
// KindTemporary, KindUnavailable. It must end soon after ctx does.
type Connector interface {
	Connect(ctx context.Context, r ConnectRequest) (BackendConn, error)
}

// BackendConn is a connection in the authenticated state, nothing selected.
type BackendConn struct {
	net.Conn
	Buffered []byte   // received already, to be read first
	Caps     []string // announced after login
	Host     string   // where it is, if not at the route's host
}

// Deliverer files messages in our own store.
type Deliverer interface {
	// Deliver files m for each of m.Recipients and answers in their order; nil
	// means durable. Other kinds than KindTemporary and KindUnavailable are
	// final for that recipient.
	Deliver(ctx context.Context, m Message) []error
}

// Message is one accepted message for users of our own store.
type Message struct {
	From       string   // envelope sender, may be empty
	Recipients []string // canonical user names
	Size       int64
	// Open returns a fresh reader of the octets, CRLF lines, each time. Readers
	// are valid until Deliver returns and may be used at the same time.
	Open func() io.Reader
	// ID is random and stays the same in our own repetitions.
	ID string
}

// Group is a move group: stores between which users may move.
type Group struct {
	Name   string
	Stores []string
}

// Options configure a Proxy. Values are read-only after New.
type Options struct {
	Node       string // name in confirmations and logs
	Directory  backend.Directory
	Placements backend.PlacementReader // nil: the directory alone routes
	Stores     Stores
	Connector  Connector
	Deliverer  Deliverer // nil: no LMTP to our own store
	// DialLMTP opens an LMTP connection to a foreign store, greeting unread;
	// nil: remote.DialLMTP.
	DialLMTP func(ctx context.Context, r backend.Route) (net.Conn, error)

	Groups []Group
	// Capabilities are what each store (by name) offers after login. Our own
	// store's list is exact; those of foreign stores are replaced by what they
	// announce as soon as somebody logs in there. A store without one is taken
	// to offer what its profile does.
	Capabilities map[string][]string
	// Resumable are the ENABLEd features that our own store's RESUME restores;
	// nil: CONDSTORE and QRESYNC.
	Resumable []string

	TLS            *tls.Config // nil: no TLS is offered
	CleartextLogin CleartextLogin
	Domain         string // name in greetings; default: Node
	Tokens         Tokens
	// Certify tells the user whom a client's certificate proves, for EXTERNAL;
	// chain is what the client sent, its own first, unverified. nil: clients are
	// not asked for certificates.
	Certify func(chain []*x509.Certificate) (user string, err error)

	LoginTimeout   time.Duration // a connection without login; 0: 60 s
	CommandTimeout time.Duration // waiting for a command before login; 0: 30 s
	HandshakeLimit time.Duration // TLS handshake; 0: 10 s
	FailureDelay   time.Duration // answer to a wrong password not before this; 0: 500 ms; negative: none
	HoldWait       time.Duration // logins and deliveries of a held user; 0: 10 s
	CommandLimit   time.Duration // a command in flight at a hold; 0: 2 s
	ViewLimit      time.Duration // the old store's answer with the view; 0: 3 s
	AttachLimit    time.Duration // connection, login and RESUME at the new store; 0: 5 s
	// Balancers are networks whose connections begin with a PROXY header (v1 or
	// v2), which says who the client is. Nobody else is believed.
	Balancers []netip.Prefix

	MaxConnections int // of clients; 0: 20,000
	MaxPerAddress  int // connections of an IPv4 address or IPv6 /64, loopback apart; 0: any number
	MaxPerUser     int // sessions of a user; 0: any number
	// MaxFailures bounds the wrong passwords of a user that are checked within
	// an hour: beyond, only the password that was right last is. 0: no bound.
	MaxFailures   int
	MaxMessage    int64  // LMTP; 0: 64 MiB
	MaxRecipients int    // LMTP; 0: 1,000
	SpoolDir      string // for LMTP bodies above 256 KiB; empty: os.TempDir

	Logger   *slog.Logger
	Registry prometheus.Registerer
	// Latency, if set, is told how long clients wait for a store's first answer to
	// a command, for one in eight of those that are not pipelined. It must be quick.
	Latency func(store, host string, d time.Duration)

	// LoggedIn, if set, is told of logins at stores that take nothing but the user's
	// own password and whose configuration allows it (Login.Capture): the store has
	// just accepted it. It must be quick, and keep to itself what it is told.
	LoggedIn func(store, user string, password backend.Secret)

	// Seen, if set, is told of each login when it has a session: the user, and the name
	// that was given. It must be quick.
	Seen func(user, name string)

	parkAfter time.Duration // of tests; 0: parkAfter
}

func (o *Options) defaults() error {
	o.Node = cmp.Or(o.Node, "node1")
	o.Domain = cmp.Or(o.Domain, o.Node)
	o.CleartextLogin = cmp.Or(o.CleartextLogin, CleartextLoopback)
	o.LoginTimeout = cmp.Or(o.LoginTimeout, time.Minute)
	o.CommandTimeout = cmp.Or(o.CommandTimeout, 30*time.Second)
	o.HandshakeLimit = cmp.Or(o.HandshakeLimit, 10*time.Second)
	o.FailureDelay = cmp.Or(o.FailureDelay, 500*time.Millisecond)
	o.HoldWait = cmp.Or(o.HoldWait, 10*time.Second)
	o.CommandLimit = cmp.Or(o.CommandLimit, 2*time.Second)
	o.ViewLimit = cmp.Or(o.ViewLimit, 3*time.Second)
	o.AttachLimit = cmp.Or(o.AttachLimit, 5*time.Second)
	o.MaxConnections = cmp.Or(o.MaxConnections, 20_000)
	o.MaxMessage = cmp.Or(o.MaxMessage, 64<<20)
	o.MaxRecipients = cmp.Or(o.MaxRecipients, 1000)
	if o.Resumable == nil {
		o.Resumable = []string{"CONDSTORE", "QRESYNC"}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Placements == nil {
		o.Placements = noPlacements{}
	}
	if o.Directory == nil || o.Stores == nil || o.Connector == nil {
		return errors.New("proxy: Directory, Stores and Connector are required")
	}
	switch o.CleartextLogin {
	case CleartextLoopback, CleartextNever, CleartextAlways:
		return nil
	}
	return errors.New("proxy: unknown cleartext_login " + string(o.CleartextLogin))
}

// noPlacements is the table of a proxy whose users never move.
type noPlacements struct{}

func (noPlacements) Placement(context.Context, string) (backend.Placement, bool, error) {
	return backend.Placement{}, false, nil
}
func (noPlacements) Subscribe(func(backend.Placement)) func()            { return func() {} }
func (noPlacements) Confirm(context.Context, backend.Confirmation) error { return nil }
func (noPlacements) Resumed(context.Context, backend.Resumption) error   { return nil }
