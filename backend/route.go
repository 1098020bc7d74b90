package backend

import (
	"context"
	"crypto/tls"
	"iter"
	"slices"
	"time"
)

// Protocol names a protocol of mail access or delivery.
type Protocol string

// The protocols.
const (
	IMAP        Protocol = "imap"
	POP3        Protocol = "pop3"
	ManageSieve Protocol = "managesieve"
	LMTP        Protocol = "lmtp"
	Submission  Protocol = "submission"
)

// StoreType is the profile of a store: what it is and what it is known to do.
type StoreType string

// The profiles; StoreLocal is our own store, in process.
const (
	StoreLocal    StoreType = "local"
	StoreCyrus    StoreType = "cyrus"
	StoreDovecot  StoreType = "dovecot"
	StoreCourier  StoreType = "courier"
	StoreAxigen   StoreType = "axigen"
	StoreExchange StoreType = "exchange"
	StoreGmail    StoreType = "gmail"
	StoreGeneric  StoreType = "generic"
)

// TLSMode is how a connection to a store is protected.
type TLSMode string

// TLSStartTLS is the default: refuse to log in when the store does not offer it.
const (
	TLSStartTLS TLSMode = "starttls"
	TLSImplicit TLSMode = "implicit"
	TLSNone     TLSMode = "none"
)

// LoginMode is how the proxy or a copy logs in to a store on behalf of a user.
type LoginMode string

// LoginUser is the user's own name and secret. The others need an admin's:
// LoginAuthzid by SASL PLAIN with an authorisation identity (Cyrus
// proxyservers, Dovecot master users, our own store), LoginMaster by
// user*master names (Dovecot), LoginProxyAuth by the command PROXYAUTH behind
// the admin's own login (Netscape, Sun, Oracle; IMAP only: in the other
// protocols it is LoginUser), LoginOAuth by a token of Login.Tokens under the
// user's name (Exchange Online, Google).
const (
	LoginUser      LoginMode = "user"
	LoginAuthzid   LoginMode = "authzid"
	LoginMaster    LoginMode = "master"
	LoginProxyAuth LoginMode = "proxyauth"
	LoginOAuth     LoginMode = "oauth"
)

// Delegates reports whether a login in mode m needs nothing from the user in
// protocol p.
func (m LoginMode) Delegates(p Protocol) bool {
	switch m {
	case LoginAuthzid, LoginMaster, LoginOAuth:
		return true
	case LoginProxyAuth:
		return p == IMAP
	}
	return false
}

// TokenSource gives access tokens (OAuth 2.0) that let us log in for users.
// Safe for concurrent use.
type TokenSource interface {
	// Token is a token for the user; it may come from memory. KindUnavailable:
	// there is none to be had now. It ends soon after ctx does.
	Token(ctx context.Context, user string) (Secret, error)
	// Refused tells that a store did not take a token: it is not given again.
	Refused(user string, token Secret)
}

// Login holds the credentials of delegated login.
type Login struct {
	Mode      LoginMode
	User      string // admin's name; unused with LoginUser
	Secret    Secret
	Separator string      // LoginMaster; default "*"
	Tokens    TokenSource // LoginOAuth
	// Capture is how long the password of a user's login may be kept in memory for
	// their move, with LoginUser; 0: not at all.
	Capture time.Duration
}

// Captures reports that passwords of logins may be kept for moves.
func (l *Login) Captures() bool {
	return l.Capture > 0 && (l.Mode == LoginUser || l.Mode == "")
}

// Identity is how a store is told whom a connection is for.
type Identity string

// IdentityNone tells nothing. IdentityNative: IMAP's ID with x-originating-ip,
// Dovecot's XCLIENT in POP3 and ManageSieve; the store must be configured to
// trust us. IdentityProxy: a PROXY v2 header before anything else.
const (
	IdentityNone   Identity = "none"
	IdentityNative Identity = "native"
	IdentityProxy  Identity = "proxy"
)

// Secret hides itself in logs, dumps and errors.
type Secret string

// String never shows the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString never shows the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalText never shows the secret; slog, JSON and YAML use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal gives the secret itself, for the wire only.
func (s Secret) Reveal() string { return string(s) }

// Store is a configured store. The value is read-only after start.
type Store struct {
	Name    string // as routes and placements name it
	Type    StoreType
	Address string // host or IP; empty: any host that the directory names
	// Alternates are further addresses of the same store, in the order in which
	// they are tried while Address is away.
	Alternates []string
	Ports      map[Protocol]int
	TLS        TLSMode
	LMTPTLS    TLSMode // of deliveries, which carry no passwords; empty: TLS
	// SieveTLS is the TLS mode of ManageSieve; empty: TLS.
	SieveTLS TLSMode
	// TLSConfig verifies the store's certificate; nil: system roots and the
	// host name. It is cloned before use.
	TLSConfig *tls.Config
	Login     Login
	Identity  Identity // empty: IdentityNone
	// TakesTokens: the store checks OAuth tokens of users (OAUTHBEARER or
	// XOAUTH2, whichever it announces).
	TakesTokens bool
	// MaxSessions bounds the proxy's connections to each address; 0: any number.
	MaxSessions int
	// Compress says when a migration asks the store to compress.
	Compress Compress
	// MaxConnections bounds connections of a migration to this store; 0: default.
	MaxConnections int
	// MaxLogins and MaxOctets bound the logins and the octets read per second of
	// migrations; 0: no limit.
	MaxLogins float64
	MaxOctets int64
}

// Compress says when COMPRESS=DEFLATE is used with a store that offers it.
type Compress string

// CompressAuto, also the empty one: when the store is far away and the line is
// slow.
const (
	CompressAuto   Compress = "auto"
	CompressAlways Compress = "always"
	CompressNever  Compress = "never"
)

// Local reports whether s is our own store.
func (s *Store) Local() bool { return s.Type == StoreLocal }

// TLSFor is how connections for p are protected.
func (s *Store) TLSFor(p Protocol) TLSMode {
	if p == LMTP && s.LMTPTLS != "" {
		return s.LMTPTLS
	}
	if p == ManageSieve && s.SieveTLS != "" {
		return s.SieveTLS
	}
	return s.TLS
}

// Port is the port for p: the configured one or the protocol's default for the
// TLS mode.
func (s *Store) Port(p Protocol) int {
	if n := s.Ports[p]; n != 0 {
		return n
	}
	implicit := s.TLS == TLSImplicit
	switch {
	case p == IMAP && implicit:
		return 993
	case p == IMAP:
		return 143
	case p == POP3 && implicit:
		return 995
	case p == POP3:
		return 110
	case p == ManageSieve:
		return 4190
	case p == LMTP:
		return 24
	default:
		return 587
	}
}

// Entry is what a directory knows of a user.
type Entry struct {
	// User is the canonical name: the mailbox owner and the key of placements,
	// in the form that stores know.
	User      string
	Directory string // which directory answered
	ID        string // the directory's own handle (a DN); empty when it has none
	// Store is a configured store's name, or an address that a configured
	// store without address serves. Empty: the directory knows the user but
	// not the store; only a placement can route them.
	Store string
	// Host is the address to dial at a Store that serves any host; empty: Store
	// says it all. Ports are those of this user's server, where they differ
	// from the store's; nil: they do not.
	Host  string
	Ports map[Protocol]int
	// Quota is the room in bytes that the directory grants; 0: it says nothing.
	Quota int64
	// Services are the protocols that the user may use; nil: all. Ask Allows.
	Services []Protocol
	Disabled bool
	// Reason says why the user is disabled, for the log alone.
	Reason string
	// CheckPassword: the directory checks passwords (Directory.Authenticate);
	// false: the store does.
	CheckPassword bool
	// Recipients: further addresses that deliver to this user; may be empty.
	Recipients []string
}

// Allows reports whether the user may log in by p. Deliveries (LMTP) are not a
// service that can be taken away.
func (e *Entry) Allows(p Protocol) bool {
	return e.Services == nil || p == LMTP || slices.Contains(e.Services, p)
}

// Route is a resolved way to a user's mailbox.
type Route struct {
	User  string // canonical name
	Store *Store
	Host  string // the address to dial; empty for our own store
	Entry Entry
	Epoch uint64 // of the placement that decided, 0 when the directory did
}

// Directory knows users. Implementations are safe for concurrent use.
type Directory interface {
	// Name is the configured name, for logs and explain.
	Name() string
	// Lookup finds the user that a client calls name (a login name, or an
	// address for deliveries). KindNotFound: nobody has that name here.
	// KindUnavailable: the directory cannot tell. Any other error is a refusal
	// (two entries where one was expected: KindConflict).
	Lookup(ctx context.Context, name string) (Entry, error)
	// Authenticate checks a password of an entry that it returned with
	// CheckPassword. KindAuthentication: wrong (an empty one always is).
	// KindUnavailable: it cannot tell.
	Authenticate(ctx context.Context, e Entry, password Secret) error
}

// RouteWriter is a Directory that can rewrite the store of a user, as a flip
// does. SetStore is idempotent.
type RouteWriter interface {
	SetStore(ctx context.Context, e Entry, store string) error
}

// UserLister is a Directory that can list its users. filter is in the
// directory's own language (an LDAP filter); empty: all users.
type UserLister interface {
	Users(ctx context.Context, filter string) iter.Seq2[Entry, error]
}
