package proxy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"mailferry/backend"
)

// Limits of the relay. A client that takes nothing for writeLimit is gone.
const (
	writeLimit = 5 * time.Minute
	closeLimit = time.Second // for last words, and for the last octets of the other side
)

// codeBad tells a client that breaks the protocol goodbye.
const codeBad = "BAD"

// leg is one backend connection of a session.
type leg struct {
	net.Conn
	pre   []byte       // received before the relay began
	tcp   *net.TCPConn // below; nil: not without TLS
	quiet quiet        // down's
	berth berth
}

func (s *session) newLeg(b BackendConn) *leg {
	return &leg{Conn: b.Conn, pre: b.Buffered, tcp: tcpOf(b.Conn), quiet: quietOf(&s.p.parker, b.Conn)}
}

// Close ends the connection; who is parked there learns of it.
func (l *leg) Close() error {
	err := l.Conn.Close()
	l.berth.leave()
	return err
}

// session is one client that has logged in. Two goroutines carry its octets:
// up, from client to backend, and down; each ends while nothing comes (see
// berth). A user's hold acts on it from a third.
type session struct {
	p        *Proxy
	proto    *protocol
	id       string
	user     string
	client   wakeReader
	started  time.Time
	log      labelled
	password backend.Secret // kept only where the store has no delegated login

	upBuf, downBuf buffer // of their goroutines
	upOut, downOut output
	probe          probe

	// clientW and backendW are held over a write, so that lines stay whole.
	// Order: clientW, mu; backendW, mu; never both of the former.
	clientW  sync.Mutex
	backendW sync.Mutex

	mu       sync.Mutex
	tr       framing
	leg      *leg
	route    backend.Route
	at       string        // the host behind, where it is not the route's
	closing  bool          // the client hears nothing more from the backend
	leaving  bool          // was asked to leave
	parted   bool          // has had its last word
	frozen   chan struct{} // closed when the tracker has come to rest
	quiet    chan struct{} // closed when the last command of a closing session is answered
	held     time.Time     // since when the client waits
	refusals int           // holds that a long command has refused

	active atomic.Int64  // when the client last sent something, in Unix nanoseconds
	done   chan struct{} // closed when the session has ended
	sides  atomic.Int32  // of up and down, those that have not ended
	ended  func()        // run's
}

func newSession(f *front, client net.Conn, b BackendConn, route backend.Route, tr framing) *session {
	s := &session{p: f.p, proto: f.proto, id: f.id, user: route.User, client: wakeReader{Conn: client}, started: time.Now(),
		log: label(f.p.logs[f.proto.name], slog.String("session", f.id), slog.String("user", route.User)), route: route,
		tr:   tr,
		done: make(chan struct{})}
	s.leg, s.client.quiet, s.client.tcp = s.newLeg(b), quietOf(&f.p.parker, client), tcpOf(client)
	s.active.Store(s.started.UnixNano())
	return s
}

// run carries octets until one side ends, closes both connections, and calls
// ended. It does not wait. What the client has sent already is in upBuf.
func (s *session) run(ended func()) {
	s.ended = ended
	s.sides.Store(2)
	go s.up()
	go s.down()
}

// sideEnded is the last act of up and of down.
func (s *session) sideEnded() {
	if s.sides.Add(-1) > 0 {
		return
	}
	s.client.Close()
	s.mu.Lock()
	s.leg.Close()
	s.mu.Unlock()
	close(s.done)
	s.ended()
}

// up carries the client's octets, from the start or after it was parked.
func (s *session) up() {
	for {
		more, err := s.feedUp()
		if err != nil {
			s.bye(codeBad, err.Error())
			break
		}
		if len(s.upBuf.bytes()) == 0 {
			s.spliceUp()
		}
		p, full := s.upBuf.space()
		if full && more {
			s.bye(codeBad, errLineTooLong.Error())
			break
		}
		if full { // blocked, and as much is held as may be
			p = nil
		}
		if err = s.readClient(p); err == nil {
			continue
		}
		if errors.Is(err, errQuiet) {
			s.upBuf.park()
			if len(s.upBuf.bytes()) == 0 && s.client.park(s.up) {
				return
			}
			continue
		}
		if errors.Is(err, io.EOF) && s.clientDone() {
			s.sideEnded()
			return
		}
		break
	}
	defer s.sideEnded()
	s.cut()
	s.client.plain()
	io.Copy(io.Discard, io.LimitReader(s.client.Conn, 1<<20)) // bounded by down's last words
}

// readClient reads once, or is woken. Without room it only waits to be woken:
// a read of nothing would not wait.
func (s *session) readClient(p []byte) error {
	if p == nil {
		return s.client.await(s.done, s.over)
	}
	n, err := s.client.read(p)
	s.upBuf.filled(n)
	if errors.Is(err, errWoken) {
		return nil
	}
	if n > 0 {
		s.p.upOctets.Add(float64(n))
		s.active.Store(time.Now().UnixNano())
		return nil
	}
	return err
}

// feedUp lets the tracker take what there is.
func (s *session) feedUp() (more bool, err error) {
	out := &s.upOut
	out.reset()
	s.mu.Lock()
	if s.closing {
		s.upBuf.drop(len(s.upBuf.bytes()))
		s.mu.Unlock()
		return true, nil
	}
	idle := s.p.o.Latency != nil && s.tr.quiet()
	n, more := s.tr.fromClient(s.upBuf.bytes(), out)
	l, inject := s.leg, s.tr.injects()
	s.mu.Unlock()
	if idle && len(out.backend) > 0 && s.probe.begin() {
		s.probe.sent.Store(time.Now().UnixNano())
	}
	s.carryOut(l, out)
	s.upBuf.drop(n)
	if s.upBuf.r == s.upBuf.w {
		s.upBuf.rest()
	}
	if inject {
		s.flushInject()
	}
	return more, out.fatal
}

// flushInject sends our own lines when the client may get them; otherwise down
// does.
func (s *session) flushInject() {
	s.clientW.Lock()
	defer s.clientW.Unlock()
	s.mu.Lock()
	b := s.tr.takeInject()
	s.mu.Unlock()
	s.toClient(b)
}

// clientDone handles the end of the client's stream: what it sent before still
// counts. It reports whether the backend was told; otherwise the session ends.
func (s *session) clientDone() bool {
	for {
		s.mu.Lock()
		held, closing, l := s.tr.gate(), s.closing, s.leg
		s.mu.Unlock()
		left := len(s.upBuf.bytes()) > 0
		if closing || held && !left {
			return false
		}
		if !left {
			return closeWrite(l.Conn) == nil
		}
		if s.client.await(s.done, s.over) != nil {
			return false
		}
		before := len(s.upBuf.bytes())
		if more, err := s.feedUp(); err != nil || more && len(s.upBuf.bytes()) == before {
			return false
		}
	}
}

// over reports that the backend side has ended.
func (s *session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// errParked: down goes on in another goroutine, later.
var errParked = errors.New("parked")

// down carries the backend's octets, from one backend connection after the
// other, from the start or after it was parked.
func (s *session) down() {
	for {
		s.mu.Lock()
		l := s.leg
		s.mu.Unlock()
		err := s.downLeg(l)
		if err == errParked {
			return
		}
		s.mu.Lock()
		same := s.leg == l
		s.mu.Unlock()
		if same {
			s.backendGone(err)
			s.sideEnded()
			return
		}
		s.downBuf.drop(len(s.downBuf.bytes()))
	}
}

func (s *session) downLeg(l *leg) error {
	if len(l.pre) > 0 {
		s.downBuf.preload(l.pre)
		l.pre = nil
	}
	for {
		if len(s.downBuf.bytes()) > 0 {
			if err := s.feedDown(l); err != nil {
				return err
			}
		}
		if len(s.downBuf.bytes()) == 0 {
			if err := s.spliceDown(l); err != nil {
				return err
			}
		}
		p, full := s.downBuf.space()
		if full {
			return s.proto.unknown
		}
		l.quiet.arm(l.Conn)
		n, err := l.Read(p)
		s.downBuf.filled(n)
		if n > 0 {
			s.p.downOctets.Add(float64(n))
			if s.probe.sent.Load() != 0 {
				s.answered()
			}
		}
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			l.quiet.disarm(l.Conn)
			s.downBuf.park()
			if len(s.downBuf.bytes()) == 0 && l.berth.park(l.quiet.parker, l.quiet.raw, s.down) {
				return errParked
			}
			continue
		}
		if n == 0 && err != nil {
			return err
		}
	}
}

var errReplaced = errors.New("backend connection was replaced")

func (s *session) feedDown(l *leg) error {
	out := &s.downOut
	out.reset()
	s.clientW.Lock()
	s.mu.Lock()
	if s.leg != l || s.closing {
		s.mu.Unlock()
		s.clientW.Unlock()
		return errReplaced
	}
	n := s.tr.fromBackend(s.downBuf.bytes(), out)
	inject := s.tr.takeInject()
	if s.quiet != nil && s.tr.quiet() {
		close(s.quiet)
		s.quiet = nil
	}
	s.mu.Unlock()
	out.toClient(inject)
	err := s.toClient(out.client...)
	s.clientW.Unlock()
	s.downBuf.drop(n)
	if s.downBuf.r == s.downBuf.w {
		s.downBuf.rest()
	}
	s.carryOut(l, out)
	return errors.Join(err, out.fatal)
}

// carryOut does what a step wants done apart from the client's octets.
func (s *session) carryOut(l *leg, out *output) {
	if len(out.backend) > 0 {
		s.backendW.Lock()
		err := write(l.Conn, writeLimit, out.backend)
		s.backendW.Unlock()
		if err != nil {
			l.Close() // down sees it
		}
	}
	if out.frozen {
		s.mu.Lock()
		if s.frozen != nil {
			close(s.frozen)
			s.frozen = nil
		}
		s.mu.Unlock()
	}
	if out.wake {
		s.client.wake()
	}
}

// toClient writes to the client; the caller holds clientW.
func (s *session) toClient(parts ...[]byte) error {
	return write(s.client.Conn, writeLimit, parts)
}

// backendGone ends the session after the backend's last octet: the client gets
// what is left, our BYE if the backend said none, and the end of the stream.
func (s *session) backendGone(err error) {
	s.clientW.Lock()
	s.mu.Lock()
	silent := s.closing
	unsaid := s.tr.boundary() && !s.tr.ended() && len(s.downBuf.bytes()) == 0
	s.closing = true
	s.release()
	s.mu.Unlock()
	if !silent {
		s.toClient(s.downBuf.bytes())
		if unsaid {
			s.toClient([]byte(s.proto.goodbye("UNAVAILABLE", "The mail store has closed the connection")))
		}
		if err != nil && !errors.Is(err, io.EOF) {
			s.log.Debug("backend connection failed", "error", err)
		}
	}
	s.client.SetWriteDeadline(time.Now().Add(closeLimit))
	closeWrite(s.client.Conn)
	s.clientW.Unlock()
	s.client.finish(closeLimit)
	s.client.wake()
}

// release lets go of everybody who waits for the session. The caller holds mu.
func (s *session) release() {
	for _, c := range []*chan struct{}{&s.frozen, &s.quiet} {
		if *c != nil {
			close(*c)
			*c = nil
		}
	}
}

// bye says goodbye at a boundary and ends the session, within little more than
// closeLimit. code is BYE's response code, or codeBad for a client that broke
// the protocol. It does not wait for the session's end.
func (s *session) bye(code, text string) {
	s.mu.Lock()
	s.closing = true // nothing of the backend any more
	s.release()
	l, again := s.leg, s.parted
	s.parted = true
	s.mu.Unlock()
	s.lockClient()
	s.mu.Lock()
	ok := s.tr.boundary() && !again
	s.mu.Unlock()
	if ok {
		write(s.client.Conn, closeLimit, [][]byte{[]byte(s.proto.goodbye(code, text))})
	}
	s.clientW.Unlock()
	l.Close()
	s.client.wake()
}

// lockClient takes clientW from a writer that may be stuck with a client that
// does not read: after closeLimit its write is ended.
func (s *session) lockClient() {
	limit := time.Now().Add(closeLimit)
	for !s.clientW.TryLock() {
		if time.Now().After(limit) {
			s.client.SetWriteDeadline(time.Unix(1, 0)) // again and again: the writer may just have set its own
		}
		timer := time.NewTimer(5 * time.Millisecond)
		<-timer.C
	}
}

// cut ends the backend connection, and with it the session.
func (s *session) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leg.Close()
}

// write sends parts as one; several small ones are joined, since each may cost
// a TLS record.
func write(c net.Conn, limit time.Duration, parts [][]byte) error {
	total, last := 0, 0
	for i, p := range parts {
		total += len(p)
		if len(p) > 0 {
			last = i
		}
	}
	if total == 0 {
		return nil
	}
	c.SetWriteDeadline(time.Now().Add(limit))
	if len(parts[last]) == total {
		_, err := c.Write(parts[last])
		return err
	}
	if total > bigBuffer {
		for _, p := range parts {
			if _, err := c.Write(p); err != nil {
				return err
			}
		}
		return nil
	}
	b := bigBuffers.Get().(*[]byte)
	defer bigBuffers.Put(b)
	n := 0
	for _, p := range parts {
		n += copy((*b)[n:], p)
	}
	_, err := c.Write((*b)[:n])
	return err
}

// closeWrite ends our direction; a connection that cannot is closed.
func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}
