package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
)

// Proxy is the front of a node. Safe for concurrent use.
type Proxy struct {
	o        Options
	log      *slog.Logger
	logs     map[backend.Protocol]*slog.Logger // of their sessions
	metrics  *metrics
	profiles *profiles
	guard    *guard
	reg      *registry
	unwatch  func()
	lmtp     lmtpServers
	tls      sync.Map // *tls.Config by ALPN name
	parker   parker
	drains   drains

	upOctets, downOctets prometheus.Counter

	ctx    context.Context // ended by Shutdown
	cancel context.CancelFunc

	mu        sync.Mutex
	stopping  bool
	listeners map[net.Listener]struct{}
	conns     map[net.Conn]struct{}
	wg        sync.WaitGroup // of connections
}

// New makes a proxy and begins to follow the placements. It serves nothing yet.
func New(o Options) (*Proxy, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	p := &Proxy{o: o, log: o.Logger, metrics: m, profiles: newProfiles(&o), guard: newGuard(&o),
		listeners: map[net.Listener]struct{}{}, conns: map[net.Conn]struct{}{}}
	p.upOctets, p.downOctets = m.octets.WithLabelValues("up"), m.octets.WithLabelValues("down")
	p.logs = map[backend.Protocol]*slog.Logger{}
	for _, name := range []backend.Protocol{backend.IMAP, backend.POP3, backend.ManageSieve, backend.LMTP} {
		p.logs[name] = p.log.With("protocol", string(name))
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.parker.after = cmp.Or(o.parkAfter, parkAfter)
	p.reg = newRegistry(p)
	p.unwatch = o.Placements.Subscribe(p.reg.changed)
	return p, nil
}

// ServeIMAP accepts IMAP clients on l until Shutdown, which closes l; then it
// returns nil. implicitTLS: TLS from the first octet.
func (p *Proxy) ServeIMAP(l net.Listener, implicitTLS bool) error {
	return p.serveProtocol(l, &imap, implicitTLS)
}

// ServePOP3 is ServeIMAP for POP3.
func (p *Proxy) ServePOP3(l net.Listener, implicitTLS bool) error {
	return p.serveProtocol(l, &pop3, implicitTLS)
}

// ServeManageSieve is ServeIMAP for ManageSieve, which knows STARTTLS only.
func (p *Proxy) ServeManageSieve(l net.Listener) error {
	return p.serveProtocol(l, &managesieve, false)
}

func (p *Proxy) serveProtocol(l net.Listener, proto *protocol, implicitTLS bool) error {
	if implicitTLS && p.o.TLS == nil {
		l.Close()
		return errors.New("proxy: implicit TLS without certificates")
	}
	full := func(nc net.Conn) { p.tooMany(nc, proto, implicitTLS) }
	return p.serve(l, func(nc net.Conn, over func()) { p.handle(nc, proto, implicitTLS, over) }, full)
}

// tlsFor is the TLS configuration for a protocol. The protocol's name is
// demanded of clients that speak ALPN (RFC 7301), against cross-protocol attacks.
//
// There is one per protocol, because the keys of session tickets are its own:
// a client resumes what it began under the same configuration.
func (p *Proxy) tlsFor(proto *protocol) *tls.Config {
	if c, ok := p.tls.Load(proto.alpn); ok {
		return c.(*tls.Config)
	}
	c := p.o.TLS.Clone()
	c.NextProtos = []string{proto.alpn}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	p.askCertificate(c)
	if !c.SessionTicketsDisabled {
		rotateTickets(c)
	}
	first, _ := p.tls.LoadOrStore(proto.alpn, c)
	return first.(*tls.Config)
}

func (p *Proxy) track(l net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return false
	}
	p.listeners[l] = struct{}{}
	return true
}

func (p *Proxy) untrack(l net.Listener) {
	l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.listeners, l)
}

// refusers bounds the connections that are being sent away at a time.
const refusers = 100

// begin counts a connection. full: there are too many, or the node is being
// drained, and it is only to be told so; not ok: not even that.
func (p *Proxy) begin(nc net.Conn) (full, ok bool) {
	draining := p.drains.on("")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping || len(p.conns) >= p.o.MaxConnections+refusers {
		return false, false
	}
	full = draining || len(p.conns) >= p.o.MaxConnections
	p.conns[nc] = struct{}{}
	p.wg.Add(1)
	return full, true
}

// tooMany sends a client away that is one too many. Where TLS would have to
// come first, that is no use.
func (p *Proxy) tooMany(nc net.Conn, proto *protocol, implicit bool) {
	p.metrics.logins.WithLabelValues("refused").Inc()
	text := "Too many connections, please try again"
	if p.drains.on("") {
		text = "Server is closed for maintenance, please connect again"
	}
	if !implicit {
		write(nc, closeLimit, [][]byte{[]byte(proto.goodbye("UNAVAILABLE", text))})
	}
	nc.Close()
}

func (p *Proxy) end(nc net.Conn) {
	nc.Close()
	p.mu.Lock()
	delete(p.conns, nc)
	p.mu.Unlock()
	p.wg.Done()
}

// SessionInfo describes a session that is logged in, or a mail server's
// connection, which has no user.
type SessionInfo struct {
	ID       string           `json:"id"`
	User     string           `json:"user"`
	Protocol backend.Protocol `json:"protocol"`
	Client   string           `json:"client"`
	Store    string           `json:"store"`
	Host     string           `json:"host,omitempty"`
	TLS      string           `json:"tls,omitempty"` // version, empty without
	Since    time.Time        `json:"since"`
	Active   time.Time        `json:"active"` // when the client last sent something
	Busy     bool             `json:"busy"`   // a command is under way
	Leaving  bool             `json:"leaving"`
	Mailbox  string           `json:"mailbox,omitempty"` // selected, as the client named it
	Idle     bool             `json:"idle"`              // in IDLE
	Held     bool             `json:"held"`
	// Unattachable is why the session would be closed by a move; empty: it
	// would be carried over.
	Unattachable string `json:"unattachable,omitempty"`
}

// Sessions lists the sessions that m means, in no order.
func (p *Proxy) Sessions(m Match) []SessionInfo {
	out := p.lmtp.infos()
	for _, s := range p.reg.all(m.User) {
		out = append(out, s.info())
	}
	return slices.DeleteFunc(out, func(i SessionInfo) bool { return !m.fits(&i) })
}

func (s *session) info() SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := SessionInfo{ID: s.id, User: s.user, Protocol: s.proto.name, Client: s.client.RemoteAddr().String(),
		Store: s.route.Store.Name, Host: cmp.Or(s.at, s.route.Host), Since: s.started, TLS: tlsVersion(s.client.Conn),
		Active: time.Unix(0, s.active.Load()), Busy: !s.tr.quiet(), Leaving: s.leaving || s.closing,
		Held: !s.held.IsZero(), Unattachable: string(s.tr.outlook())}
	s.tr.describe(&i)
	return i
}

// tlsVersion names the version of TLS on a connection, empty without.
func tlsVersion(c net.Conn) string {
	t, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return ""
	}
	return tls.VersionName(t.ConnectionState().Version)
}

// Shutdown stops accepting, lets each session end the command that runs, says
// BYE, and waits for all connections until ctx ends, when they are cut. It
// returns ctx's error in that case. Again is harmless.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	first := !p.stopping
	p.stopping = true
	for l := range p.listeners {
		l.Close()
	}
	p.mu.Unlock()
	if first {
		p.unwatch()
	}
	p.reg.mu.Lock()
	p.reg.stop = true
	p.reg.mu.Unlock()
	p.cancel()
	var wg sync.WaitGroup
	wg.Go(func() { p.lmtp.shutdown(ctx) })
	for _, s := range p.reg.all("") {
		wg.Go(func() { s.farewell(ctx, "Server is shutting down") })
	}
	wg.Wait()
	idle := make(chan struct{})
	go func() {
		p.wg.Wait()
		p.reg.wg.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		p.parker.close()
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	for nc := range p.conns {
		nc.Close()
	}
	p.mu.Unlock()
	for _, s := range p.reg.all("") { // those that are parked
		s.cut()
		s.client.wake()
	}
	<-idle
	p.parker.close()
	return ctx.Err()
}

// farewell says BYE once the commands in flight are answered, or ctx ends.
func (s *session) farewell(ctx context.Context, text string) {
	s.mu.Lock()
	s.tr.stop()
	var quiet chan struct{}
	if !s.tr.quiet() && !s.closing {
		if s.quiet == nil {
			s.quiet = make(chan struct{})
		}
		quiet = s.quiet
	}
	s.mu.Unlock()
	if quiet != nil {
		select {
		case <-quiet:
		case <-ctx.Done():
		}
	}
	s.bye("UNAVAILABLE", text)
}
