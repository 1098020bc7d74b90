package directory

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
)

// identity is what a connection is bound as; each has a pool of its own,
// because a bind changes the identity of its connection.
type identity int

const (
	searchIdentity identity = iota
	verifyIdentity
	writeIdentity
	identities
)

// Connections rest unused for idleLimit at most (Active Directory closes them
// after 900 s) and live for ageLimit, so that load spreads again after a fault.
const (
	idleLimit = 5 * time.Minute
	ageLimit  = time.Hour
	minRest   = time.Second
	maxRest   = 5 * time.Second
)

// ldapConn is one connection. Its requests are made by one goroutine at a time.
type ldapConn struct {
	*ldap.Conn
	raw    net.Conn
	born   time.Time
	used   time.Time
	reused bool
}

// sever breaks the connection under a running request.
func (c *ldapConn) sever() { c.raw.Close() }

func (c *ldapConn) close() {
	c.raw.Close() // first: the library's Close would wait for a stuck writer
	c.Conn.Close()
}

// ldapServer is one server with its pools and its health.
type ldapServer struct {
	d       *LDAP
	url     string
	addr    string
	tls     *tls.Config // nil: none
	upfront bool        // TLS before LDAP
	slots   [identities]chan struct{}

	ctx    context.Context // of probes; ended by close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	idle    [identities][]*ldapConn
	closed  bool
	downTil time.Time // zero: up
	rest    time.Duration
	probing bool
	err     error
}

func newLDAPServer(raw string, d *LDAP) (*ldapServer, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme != "ldap" && u.Scheme != "ldaps" {
		return nil, fmt.Errorf("server %q: want ldap://host or ldaps://host", raw)
	}
	s := &ldapServer{d: d, url: raw, upfront: u.Scheme == "ldaps"}
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "389", true: "636"}[s.upfront]
	}
	s.addr = net.JoinHostPort(u.Hostname(), port)
	if s.upfront || d.o.StartTLS {
		s.tls = &tls.Config{}
		if d.o.TLSConfig != nil {
			s.tls = d.o.TLSConfig.Clone()
		}
		if s.tls.ServerName == "" {
			s.tls.ServerName = u.Hostname()
		}
		s.tls.MinVersion = max(s.tls.MinVersion, tls.VersionTLS12)
	}
	for i := range s.slots {
		s.slots[i] = make(chan struct{}, d.o.PoolSize)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func (s *ldapServer) close() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	idle := s.idle
	s.idle = [identities][]*ldapConn{}
	s.mu.Unlock()
	for _, l := range idle {
		for _, c := range l {
			c.close()
		}
	}
	s.wg.Wait()
}

// do runs one request. A pooled connection that turns out to be broken is
// replaced once, without blame for the server.
func (s *ldapServer) do(ctx context.Context, id identity, fn func(*ldap.Conn) error) error {
	select {
	case s.slots[id] <- struct{}{}:
		defer func() { <-s.slots[id] }()
	case <-ctx.Done():
		return fmt.Errorf("%s: all connections are busy: %w", s.url, ctx.Err())
	}
	for {
		c, err := s.get(ctx, id)
		if err != nil {
			return err
		}
		err = s.request(ctx, c, fn)
		if err == nil {
			s.put(id, c)
			return nil
		}
		c.close()
		if !c.reused || !broken(err) || errors.Is(err, errTimeout) || ctx.Err() != nil {
			return err
		}
		s.drop(id) // its siblings are as old
	}
}

// broken reports whether err is about the connection and no server's answer.
// What go-ldap finds while it writes a request carries no result code.
func broken(err error) bool {
	var answer *ldap.Error
	return !errors.As(err, &answer) || answer.ResultCode == ldap.ErrorNetwork
}

// errTimeout: the server took the request and said nothing.
var errTimeout = errors.New("no answer in time")

func (s *ldapServer) request(ctx context.Context, c *ldapConn, fn func(*ldap.Conn) error) error {
	limit := s.d.o.RequestTimeout
	if t, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(t))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, c.sever)
	err := fn(c.Conn)
	if !stop() && err != nil {
		return fmt.Errorf("%s: %w after %s: %w", s.url, errTimeout, limit.Round(time.Millisecond), err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.url, err)
	}
	return nil
}

func (s *ldapServer) get(ctx context.Context, id identity) (*ldapConn, error) {
	now := time.Now()
	s.mu.Lock()
	for n := len(s.idle[id]); n > 0; n = len(s.idle[id]) {
		c := s.idle[id][n-1]
		s.idle[id] = s.idle[id][:n-1]
		if c.IsClosing() || now.Sub(c.used) > idleLimit || now.Sub(c.born) > ageLimit {
			defer c.close()
			continue
		}
		s.mu.Unlock()
		c.reused = true
		return c, nil
	}
	s.mu.Unlock()
	return s.dial(ctx, id)
}

func (s *ldapServer) put(id identity, c *ldapConn) {
	c.used = time.Now()
	s.mu.Lock()
	if !s.closed && len(s.idle[id]) < s.d.o.PoolSize {
		s.idle[id] = append(s.idle[id], c)
		c = nil
	}
	s.mu.Unlock()
	if c != nil {
		c.close()
	}
}

func (s *ldapServer) drop(id identity) {
	s.mu.Lock()
	l := s.idle[id]
	s.idle[id] = nil
	s.mu.Unlock()
	for _, c := range l {
		c.close()
	}
}

// dial opens, protects and binds a connection within the connect timeout.
func (s *ldapServer) dial(ctx context.Context, id identity) (*ldapConn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.d.o.ConnectTimeout)
	defer cancel()
	raw, err := s.d.o.Dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, fmt.Errorf("%s: connect: %w", s.url, err)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	c, err := s.open(ctx, raw, id)
	if !stop() && err == nil {
		c.close()
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s: %w", s.url, err)
	}
	return c, nil
}

func (s *ldapServer) open(ctx context.Context, raw net.Conn, id identity) (*ldapConn, error) {
	nc := raw
	if s.upfront {
		t := tls.Client(raw, s.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		nc = t
	}
	lc := ldap.NewConn(nc, s.upfront)
	lc.Start()
	c := &ldapConn{Conn: lc, raw: raw, born: time.Now(), used: time.Now()}
	if s.tls != nil && !s.upfront {
		if err := lc.StartTLS(s.tls); err != nil {
			c.close()
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	dn, password := s.d.o.BindDN, s.d.o.BindPassword
	switch id {
	case verifyIdentity:
		return c, nil
	case writeIdentity:
		dn, password = s.d.o.WriteDN, s.d.o.WritePassword
	}
	if dn == "" {
		return c, nil
	}
	if err := bind(c.Conn, dn, password); err != nil {
		c.close()
		if ldap.IsErrorWithCode(err, ldap.LDAPResultStrongAuthRequired) {
			err = fmt.Errorf("the server refuses passwords without TLS, use ldaps:// or starttls: %w", err)
		}
		return nil, fmt.Errorf("bind as %s: %w", dn, err)
	}
	return c, nil
}

func bind(c *ldap.Conn, dn string, password backend.Secret) error {
	if password == "" {
		return errors.New("empty password")
	}
	return c.Bind(dn, password.Reveal())
}
