package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"time"

	"mailferry/internal/line"
)

// front is one client connection before login. It belongs to one goroutine.
type front struct {
	p        *Proxy
	proto    *protocol
	id       string
	log      labelled
	c        *line.Conn
	d        *line.Decoder
	deadline time.Time // of the login
	commands int
	failures int
	name     string // of POP3's USER
	cert     certified
}

// Accept errors back off from 5 ms to 1 s, as net/http does.
const (
	minBackOff = 5 * time.Millisecond
	maxBackOff = time.Second
)

// serve accepts connections until l is closed or the proxy stops. It closes l.
func (p *Proxy) serve(l net.Listener, handle func(nc net.Conn, over func()), full func(net.Conn)) error {
	if !p.track(l) {
		l.Close()
		return nil
	}
	defer p.untrack(l)
	backOff := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err == nil {
			backOff = 0
			p.dispatch(nc, handle, full)
			continue
		}
		if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		var ne net.Error
		if !errors.As(err, &ne) {
			return err
		}
		backOff = min(max(2*backOff, minBackOff), maxBackOff)
		p.log.Warn("accept failed", "error", err, "retry", backOff)
		select {
		case <-time.After(backOff):
		case <-p.ctx.Done():
			return nil
		}
	}
}

// dispatch begins one connection in a goroutine of its own, or sends it away
// when there are too many. handle calls over when the connection is, which may
// be later than it returns.
func (p *Proxy) dispatch(nc net.Conn, handle func(nc net.Conn, over func()), tooMany func(net.Conn)) {
	full, ok := p.begin(nc)
	if !ok {
		nc.Close()
		return
	}
	over := func() { p.end(nc) }
	if full {
		go func() {
			defer over()
			tooMany(nc)
		}()
		return
	}
	go handle(nc, over)
}

// handle is one client's life up to the login. The session goes on by itself,
// on fresh stacks: those of TLS and login are deep.
func (p *Proxy) handle(nc net.Conn, proto *protocol, implicit bool, over func()) {
	goesOn := false
	defer func() {
		if !goesOn {
			over()
		}
	}()
	id := newID()
	nc, err := p.unwrap(nc)
	if err != nil {
		p.log.Warn("connection of a balancer without a PROXY header", "session", id, "balancer", nc.RemoteAddr().String(), "error", err)
		nc.Close()
		return
	}
	log := label(p.logs[proto.name], slog.String("session", id), slog.Any("client", address{nc.RemoteAddr()}))
	p.metrics.connections.WithLabelValues(string(proto.name)).Inc()
	prefix := prefixOf(nc.RemoteAddr())
	if !p.guard.enter(prefix) {
		log.Info("too many connections of this address")
		p.tooMany(nc, proto, implicit)
		return
	}
	defer func() {
		if !goesOn {
			p.guard.leave(prefix)
		}
	}()
	if implicit {
		t := tls.Server(nc, p.tlsFor(proto))
		// A deadline, since a context would cost a goroutine more.
		nc.SetDeadline(time.Now().Add(p.o.HandshakeLimit))
		stop := context.AfterFunc(p.ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
		err := t.Handshake()
		if stop() {
			nc.SetDeadline(time.Time{})
		}
		if err != nil {
			log.Debug("TLS handshake failed", "error", err)
			nc.Close()
			return
		}
		nc = t
	}
	f := &front{p: p, proto: proto, id: id, log: log, c: line.NewConn(nc), deadline: time.Now().Add(p.o.LoginTimeout)}
	f.d = line.NewDecoder(f.c.Reader, line.PreLogin)
	f.d.Continue = func() error {
		f.c.WriteString("+ go ahead\r\n")
		return f.c.Flush()
	}
	// Writes to a client that does not read must end as well.
	guard := time.AfterFunc(p.o.LoginTimeout+p.o.HoldWait+lookupLimit, func() { nc.Close() })
	s, received := f.run()
	guard.Stop()
	if s == nil {
		f.c.Close()
		f.c.Release()
		return
	}
	s.upBuf.preload(received)
	f.c.Release()
	goesOn = true
	s.run(func() {
		p.reg.leave(s)
		if s.log.on(slog.LevelInfo) {
			s.log.Info("session ended", "after", time.Since(s.started).Round(time.Millisecond))
		}
		p.guard.leave(prefix)
		over()
	})
}

// run leads a client through the dialogue before login; nil: it did not log in.
func (f *front) run() (*session, []byte) {
	ctx := f.p.ctx
	// A stopping proxy ends the wait for commands.
	defer context.AfterFunc(ctx, f.c.Wake)()
	if f.proto.greet(f) != nil {
		return nil, nil
	}
	for {
		c, err := f.proto.read(ctx, f)
		if err != nil {
			if ctx.Err() != nil {
				f.proto.bye(f, "Server is shutting down")
			}
			return nil, nil
		}
		begin := time.Now()
		if !f.penalty(ctx, c.user) {
			return nil, nil
		}
		s, err := f.p.login(ctx, f, c)
		if err == nil {
			return f.admitted(s, c, begin)
		}
		if !f.refused(ctx, c, err, begin) {
			return nil, nil
		}
	}
}

// penalty lets an attempt wait after wrong passwords; false: it need not go on.
func (f *front) penalty(ctx context.Context, name string) bool {
	wait := f.p.guard.penalty(prefixOf(f.c.NetConn().RemoteAddr()), userKey(name))
	if wait == 0 {
		return true
	}
	f.log.Info("login has to wait after wrong passwords", "user", name, "wait", wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// admitted answers the login and hands the connection over to the relay, with
// what the client has sent already.
func (f *front) admitted(s *session, c credentials, begin time.Time) (*session, []byte) {
	f.c.SetTimeout(0)
	s.clientW.Lock()
	err := f.proto.welcome(f, c, s)
	s.clientW.Unlock()
	if err != nil {
		s.cut()
		s.client.Close() // run ends at once
	}
	f.p.guard.right(prefixOf(s.client.RemoteAddr()), userKey(c.user))
	f.p.metrics.logins.WithLabelValues("ok").Inc()
	f.p.metrics.loginTime.Observe(time.Since(begin).Seconds())
	if s.log.on(slog.LevelInfo) {
		s.log.Info("login", "store", s.route.Store.Name, "host", cmp.Or(s.at, s.route.Host), "epoch", s.route.Epoch, "client", s.client.RemoteAddr().String(),
			"took", time.Since(begin).Round(time.Microsecond))
	}
	_, received := f.c.Hijack()
	return s, received
}

// refused answers a failed login; false ends the connection.
func (f *front) refused(ctx context.Context, c credentials, err error, begin time.Time) bool {
	o := outcomeUnavailable
	var le *loginError
	if errors.As(err, &le) {
		o = le.outcome
	}
	if o != outcomeDenied {
		f.p.metrics.logins.WithLabelValues("unavailable").Inc()
		f.log.Warn("login is not possible now", "user", c.user, "error", err)
		return f.proto.refuse(f, c, o) == nil
	}
	f.p.metrics.logins.WithLabelValues("denied").Inc()
	f.log.Info("login denied", "user", c.user, "error", err)
	f.p.guard.failed(prefixOf(f.c.NetConn().RemoteAddr()), userKey(c.user))
	f.failures++
	if wait := f.p.o.FailureDelay - time.Since(begin); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if c.token != "" && f.tokenRefused(c) != nil {
		return false
	}
	if f.proto.refuse(f, c, o) != nil {
		return false
	}
	if f.failures >= maxFailures {
		f.proto.bye(f, "Too many failed logins")
		return false
	}
	return true
}

// offersTLS reports whether STARTTLS is possible now.
func (f *front) offersTLS() bool {
	_, on := f.c.TLS()
	return !on && f.p.o.TLS != nil
}

// mayLogin reports whether credentials are taken on this connection.
func (f *front) mayLogin() bool {
	if _, on := f.c.TLS(); on {
		return true
	}
	switch f.p.o.CleartextLogin {
	case CleartextAlways:
		return true
	case CleartextLoopback:
		return loopback(f.c.NetConn().RemoteAddr())
	}
	return false
}

func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback() || a.Network() == "pipe" || a.Network() == "unix"
}

// newID names a session in the logs of both sides.
func newID() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
