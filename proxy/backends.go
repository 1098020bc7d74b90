package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// BackendsOptions configure Backends.
type BackendsOptions struct {
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error) // nil: a net.Dialer
	Logger   *slog.Logger
	Registry prometheus.Registerer // nil: no metrics
}

// Backends are the ways to foreign stores over the network: they try a store's
// addresses in order, know which are away, and bound the sessions of each. It
// is a Connector. Safe for concurrent use.
type Backends struct {
	o      BackendsOptions
	one    RemoteConnector
	ctx    context.Context // of probes
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	health map[place]*health // of addresses that are in trouble
	rooms  map[room]*seats   // of stores with a bound of sessions
}

// Bounds of one login.
const (
	connectRounds = 3                      // over a store's addresses
	connectPause  = 250 * time.Millisecond // before the second round; the third waits twice as long
	seatWait      = 5 * time.Second        // for a place at a store that is full
	maxHops       = 2                      // referrals that are followed
)

// NewBackends makes the ways to foreign stores; nothing is dialled yet.
func NewBackends(o BackendsOptions) (*Backends, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Backends{o: o, one: RemoteConnector{Dial: o.Dial}, health: map[place]*health{}, rooms: map[room]*seats{}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if o.Registry == nil {
		return b, nil
	}
	return b, o.Registry.Register(b)
}

// Close ends the probes. Connections stay.
func (b *Backends) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.wg.Wait()
}

// Connect implements Connector. A store that cannot be reached is tried again
// within the login, at each of its addresses; credentials that it has refused
// are not.
func (b *Backends) Connect(ctx context.Context, r ConnectRequest) (conn BackendConn, err error) {
	st := storeFor(r.Route)
	err = b.eachHost(ctx, &st, r, func(host string) error {
		conn, err = b.connectAt(ctx, &st, r, host)
		return err
	})
	return conn, err
}

// DialLMTP opens an LMTP connection, greeting unread, as Options.DialLMTP wants
// it.
func (b *Backends) DialLMTP(ctx context.Context, route backend.Route) (conn net.Conn, err error) {
	st := storeFor(route)
	r := ConnectRequest{Route: route, Protocol: backend.LMTP}
	err = b.eachHost(ctx, &st, r, func(host string) error {
		conn, err = remote.DialLMTP(ctx, remote.Target{Store: &st, Host: host, User: route.User, Dial: b.o.Dial})
		return err
	})
	return conn, err
}

// eachHost has try done at the store's addresses until one works out.
func (b *Backends) eachHost(ctx context.Context, st *backend.Store, r ConnectRequest, try func(host string) error) error {
	var last error
	hosts := hostsOf(st, r.Route.Host)
	for round := range connectRounds {
		if round > 0 && !pause(ctx, connectPause<<(round-1)) {
			return last
		}
		for _, host := range hosts {
			at := placeOf(st, host, r.Protocol)
			if !b.isUp(at) {
				continue
			}
			err := try(host)
			b.observe(ctx, at, st, r.Client, err)
			if err == nil || !remote.BeforeLogin(err) || ctx.Err() != nil {
				return err
			}
			last = err
		}
		if b.allAway(st, hosts, r.Protocol) {
			break
		}
	}
	if last == nil {
		last = backend.Errorf(backend.KindUnavailable, "The mail store cannot be reached.", "%s of store %s is away: %s",
			r.Protocol, st.Name, b.describe(st, hosts, r.Protocol))
	}
	return last
}

// Where is the host that a connection for the route is made to now: the first of
// the store's addresses that is not away, or the first where all are.
func (b *Backends) Where(r backend.Route, p backend.Protocol) string {
	st := storeFor(r)
	hosts := hostsOf(&st, r.Host)
	for _, host := range hosts {
		if b.isUp(placeOf(&st, host, p)) {
			return host
		}
	}
	return hosts[0]
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hostsOf are the addresses to try: the store's own in order, or the one that
// the directory names.
func hostsOf(st *backend.Store, host string) []string {
	if st.Address == "" || host != "" && !strings.EqualFold(host, st.Address) || len(st.Alternates) == 0 {
		return []string{host}
	}
	return append([]string{st.Address}, st.Alternates...)
}

// connectAt logs in at one address, or where that one refers to.
func (b *Backends) connectAt(ctx context.Context, st *backend.Store, r ConnectRequest, host string) (BackendConn, error) {
	for hop := 0; ; hop++ {
		leave, err := b.enter(ctx, st, host)
		if err != nil {
			return BackendConn{}, err
		}
		r.Route.Host = host
		conn, err := b.one.Connect(ctx, r)
		if err == nil {
			conn.Host = host
			if leave != nil {
				conn.Conn = &seated{Conn: conn.Conn, leave: leave}
			}
			return conn, nil
		}
		if leave != nil {
			leave()
		}
		var ref *remote.Referral
		if !errors.As(err, &ref) {
			if hop > 0 && backend.IsKind(err, backend.KindUnavailable) { // not the fault of the host that referred
				err = backend.Errorf(backend.KindUnavailable, "", "behind a referral: %v", err)
			}
			return BackendConn{}, err
		}
		if hop == maxHops || !serves(st, ref.Host) {
			return BackendConn{}, backend.Errorf(backend.KindUnavailable, "", "referral to %q is not followed: %w", ref.Host, err)
		}
		b.o.Logger.Debug("store refers to another server", "store", st.Name, "host", host, "to", ref.Host, "session", r.Session)
		host = ref.Host
	}
}

// serves reports whether a host that a store refers to is the store's own: one
// of its addresses, or any whose certificate proves it where the store serves
// any host. A store may not send a user's password to somebody else.
func serves(st *backend.Store, host string) bool {
	if st.Address == "" {
		return st.TLS != backend.TLSNone
	}
	same := func(a string) bool { return strings.EqualFold(a, host) }
	return same(st.Address) || slices.ContainsFunc(st.Alternates, same)
}

// room is one address of a store, whatever the protocol.
type room struct{ store, host string }

// seats counts the sessions at an address, and who waits to be one.
type seats struct {
	taken   int
	waiting []chan struct{}
}

// enter takes a place at an address that has a bound of sessions, waiting a
// while for one; leave is nil where there is no bound. As many may wait as may
// be there.
func (b *Backends) enter(ctx context.Context, st *backend.Store, host string) (leave func(), err error) {
	if st.MaxSessions == 0 {
		return nil, nil
	}
	key := room{st.Name, host}
	full := backend.Errorf(backend.KindTemporary, "The mail store asks to try again later.", "store %s has %d sessions at %s, which is its bound", st.Name, st.MaxSessions, host)
	b.mu.Lock()
	s := b.rooms[key]
	if s == nil {
		s = &seats{}
		b.rooms[key] = s
	}
	leave = sync.OnceFunc(func() { b.leave(key, s) })
	if s.taken < st.MaxSessions {
		s.taken++
		b.mu.Unlock()
		return leave, nil
	}
	if len(s.waiting) >= st.MaxSessions {
		b.mu.Unlock()
		return nil, full
	}
	turn := make(chan struct{})
	s.waiting = append(s.waiting, turn)
	b.mu.Unlock()
	timer := time.NewTimer(seatWait)
	defer timer.Stop()
	select {
	case <-turn: // the place came with it
		return leave, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	i := slices.Index(s.waiting, turn)
	if i < 0 { // it came just now
		b.mu.Unlock()
		return leave, nil
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	b.mu.Unlock()
	if ctx.Err() != nil {
		return nil, backend.Errorf(backend.KindUnavailable, "", "%w", context.Cause(ctx))
	}
	return nil, full
}

// leave gives a place to who waits longest.
func (b *Backends) leave(key room, s *seats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(s.waiting) > 0 {
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
		return
	}
	if s.taken--; s.taken == 0 {
		delete(b.rooms, key)
	}
}

// seated is a connection that takes a place until it is closed.
type seated struct {
	net.Conn
	leave func()
}

// NetConn is the connection itself.
func (s *seated) NetConn() net.Conn { return s.Conn }

// CloseWrite closes the sending half.
func (s *seated) CloseWrite() error { return closeWrite(s.Conn) }

// Close gives the place back, once.
func (s *seated) Close() error {
	s.leave()
	return s.Conn.Close()
}

func (b *Backends) describe(st *backend.Store, hosts []string, p backend.Protocol) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	for _, host := range hosts {
		if h := b.health[placeOf(st, host, p)]; h != nil && h.down() {
			list = append(list, fmt.Sprintf("%s since %s (%s)", host, h.since.Format(time.RFC3339), h.why))
		}
	}
	return strings.Join(list, ", ")
}
