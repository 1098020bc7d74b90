package proxy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"mailferry/backend"
	"mailferry/internal/line"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// directory is one in memory. Names are users; what is in them decides.
type directory struct {
	mu      sync.Mutex
	entries map[string]backend.Entry
	err     error
	lookups []string
	nobody  int
}

func newDirectory() *directory {
	d := &directory{entries: map[string]backend.Entry{}}
	for _, u := range []string{"anna", "bernd"} {
		d.entries[u] = backend.Entry{User: u, Directory: "test", Store: "old", CheckPassword: true}
	}
	d.entries["otto"] = backend.Entry{User: "otto", Store: "old", CheckPassword: true, Disabled: true}
	d.entries["passer"] = backend.Entry{User: "passer", Store: "old"}
	d.entries["homer"] = backend.Entry{User: "homer", Store: "home", CheckPassword: true}
	d.entries["nostore"] = backend.Entry{User: "nostore", CheckPassword: true}
	d.entries["badstore"] = backend.Entry{User: "badstore", Store: "elsewhere", CheckPassword: true}
	return d
}

func (d *directory) Name() string { return "test" }

func (d *directory) Lookup(_ context.Context, name string) (backend.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lookups = append(d.lookups, name)
	if d.err != nil {
		return backend.Entry{}, d.err
	}
	e, ok := d.entries[name]
	if !ok {
		return e, backend.NewError(backend.KindNotFound, "")
	}
	return e, nil
}

func (d *directory) Authenticate(_ context.Context, _ backend.Entry, p backend.Secret) error {
	switch p {
	case "secret", "p\\w\"d":
		return nil
	case "down":
		return backend.NewError(backend.KindUnavailable, "")
	}
	return backend.NewError(backend.KindAuthentication, "")
}

func (d *directory) AuthenticateNobody(context.Context, backend.Secret) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nobody++
}

// placements is a table in memory.
type placements struct {
	mu        sync.Mutex
	known     map[string]backend.Placement
	subs      map[int]func(backend.Placement)
	err       error
	confirmed chan backend.Confirmation
	resumed   chan backend.Resumption
}

func newPlacements() *placements {
	return &placements{known: map[string]backend.Placement{}, subs: map[int]func(backend.Placement){},
		confirmed: make(chan backend.Confirmation, 100), resumed: make(chan backend.Resumption, 100)}
}

func (ps *placements) Placement(_ context.Context, user string) (backend.Placement, bool, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p, ok := ps.known[user]
	return p, ok, ps.err
}

func (ps *placements) Subscribe(fn func(backend.Placement)) func() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	id := len(ps.subs)
	ps.subs[id] = fn
	return func() {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		delete(ps.subs, id)
	}
}

func (ps *placements) Confirm(_ context.Context, c backend.Confirmation) error {
	ps.confirmed <- c
	return nil
}

func (ps *placements) Resumed(_ context.Context, r backend.Resumption) error {
	ps.resumed <- r
	return nil
}

func (ps *placements) set(p backend.Placement) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p.Epoch = ps.known[p.User].Epoch + 1
	ps.known[p.User] = p
	for _, fn := range ps.subs {
		fn(p)
	}
}

func (ps *placements) hold(user, store string) {
	ps.set(backend.Placement{User: user, State: backend.PlacementHolding, Store: store, Target: "home"})
}

func (ps *placements) activate(user, store string) {
	ps.set(backend.Placement{User: user, State: backend.PlacementActive, Store: store})
}

// stores finds "old" and "old2" (foreign) and "home" (our own).
type stores map[string]*backend.Store

func testStores() stores {
	admin := backend.Login{Mode: backend.LoginAuthzid, User: "proxy", Secret: "x"}
	return stores{
		"old":  {Name: "old", Type: backend.StoreDovecot, Address: "192.0.2.1", Login: admin},
		"old2": {Name: "old2", Type: backend.StoreCyrus, Address: "192.0.2.2", Login: admin},
		"user": {Name: "user", Type: backend.StoreCourier, Address: "192.0.2.3", Login: backend.Login{Mode: backend.LoginUser}},
		"home": {Name: "home", Type: backend.StoreLocal},
	}
}

func (s stores) Find(name string) (*backend.Store, string, error) {
	st := s[name]
	if st == nil {
		return nil, "", backend.NewError(backend.KindUnavailable, "")
	}
	return st, st.Address, nil
}

// connector hands the store's end of each new connection to the test.
type connector struct {
	conns  chan *peer
	mu     sync.Mutex
	err    error
	caps   []string
	asked  []ConnectRequest
	answer chan struct{} // when not nil, Connect waits for it
}

var testCaps = []string{"IMAP4rev1", "LITERAL+", "IDLE", "ENABLE", "CONDSTORE", "UIDPLUS", "NAMESPACE", "MOVE", "UNSELECT",
	"COMPRESS=DEFLATE", "NOTIFY", "ID", "QRESYNC", "CONTEXT=SEARCH", "SEARCHRES"}

func (c *connector) Connect(ctx context.Context, r ConnectRequest) (BackendConn, error) {
	c.mu.Lock()
	c.asked = append(c.asked, r)
	err, caps, answer := c.err, c.caps, c.answer
	c.mu.Unlock()
	if answer != nil {
		select {
		case <-answer:
		case <-ctx.Done():
			return BackendConn{}, backend.Errorf(backend.KindUnavailable, "", "%w", ctx.Err())
		}
	}
	if err != nil {
		return BackendConn{}, err
	}
	if r.CheckPassword && r.Password != "secret" {
		return BackendConn{}, backend.NewError(backend.KindAuthentication, "")
	}
	here, there := line.Pipe()
	c.conns <- newPeer(there)
	return BackendConn{Conn: here, Caps: caps}, nil
}

func (c *connector) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// pipeListener accepts in-memory connections.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn {
	here, there := line.Pipe()
	l.conns <- there
	return here
}

// peer is one end of a dialogue, client or store, driven line by line.
type peer struct {
	net.Conn
	r   *bufio.Reader
	t   *testing.T
	log []string
}

func newPeer(c net.Conn) *peer { return &peer{Conn: c, r: bufio.NewReader(c)} }

func (p *peer) send(s string) {
	p.t.Helper()
	p.log = append(p.log, "> "+s)
	p.SetWriteDeadline(time.Now().Add(time.Minute))
	if _, err := p.Write([]byte(s)); err != nil {
		p.fail("write: %v", err)
	}
}

func (p *peer) sendLine(format string, args ...any) {
	p.t.Helper()
	p.send(fmt.Sprintf(format, args...) + "\r\n")
}

// line reads one line without its end.
func (p *peer) line() string {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(2 * time.Minute))
	l, err := p.r.ReadString('\n')
	if err != nil {
		p.fail("read %q: %v", l, err)
	}
	p.log = append(p.log, "< "+l)
	return strings.TrimSuffix(strings.TrimSuffix(l, "\n"), "\r")
}

// expect reads a line that begins like this.
func (p *peer) expect(prefix string) string {
	p.t.Helper()
	l := p.line()
	if !strings.HasPrefix(l, prefix) {
		p.fail("got %q, want %q", l, prefix)
	}
	return l
}

// end expects the end of the stream.
func (p *peer) end() {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if l, err := p.r.ReadString('\n'); err == nil || strings.Contains(err.Error(), "deadline") {
		p.fail("got %q, %v, want the end", l, err)
	}
}

// silent checks that nothing has come.
func (p *peer) silent() {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(time.Millisecond))
	if b, err := p.r.Peek(1); err == nil {
		l, _ := p.r.Peek(p.r.Buffered())
		p.fail("got %q %q, want silence", b, l)
	}
}

func (p *peer) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf(format+"\n%s", append(args, strings.Join(p.log, ""))...)
}

// world is a proxy with fakes around it, in a bubble of fake time.
type world struct {
	t   *testing.T
	dir *directory
	ps  *placements
	con *connector
	p   *Proxy
	l   *pipeListener
}

// inWorld runs a test in a bubble; nothing may be left running.
func inWorld(t *testing.T, change func(*Options), run func(*world)) {
	t.Helper()
	inWorldOf(t, &imap, change, run)
}

// inWorldOf is inWorld for any protocol.
func inWorldOf(t *testing.T, proto *protocol, change func(*Options), run func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: newDirectory(), ps: newPlacements(), l: newPipeListener(),
			con: &connector{conns: make(chan *peer, 100), caps: testCaps}}
		o := Options{Node: "n1", Directory: w.dir, Placements: w.ps, Stores: testStores(), Connector: w.con,
			Capabilities: map[string][]string{"home": {"IMAP4rev1", "LITERAL+", "IDLE", "ENABLE", "CONDSTORE", "UIDPLUS", "NAMESPACE", "MOVE", "UNSELECT", "ID", "RESUME"}},
			Groups:       []Group{{Name: "farm", Stores: []string{"old", "home"}}}}
		if change != nil {
			change(&o)
		}
		p, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		w.p = p
		served := make(chan error, 1)
		go func() { served <- p.serveProtocol(w.l, proto, false) }()
		defer w.end(served)
		run(w)
	})
}

// end stops the proxy and looks for what is left over.
func (w *world) end(served <-chan error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.p.Shutdown(ctx); err != nil {
		w.t.Errorf("shutdown: %v", err)
	}
	if err := <-served; err != nil {
		w.t.Error(err)
	}
	for _, u := range w.p.reg.users {
		if !u.holding {
			w.t.Errorf("user %s is left over: %d sessions, %d tickets", u.key, len(u.sessions), len(u.tickets))
		}
	}
}

// client connects and reads the greeting.
func (w *world) client() *peer {
	w.t.Helper()
	c := newPeer(w.l.dial())
	c.t = w.t
	c.expect("* OK [CAPABILITY IMAP4rev1")
	return c
}

// login brings a client to the authenticated state; b is the store's end.
func (w *world) login(user string) (c, b *peer) {
	w.t.Helper()
	c = w.client()
	c.sendLine("l LOGIN %s secret", user)
	b = w.backend()
	c.expect("l OK [CAPABILITY ")
	return c, b
}

func (w *world) backend() *peer {
	w.t.Helper()
	b := <-w.con.conns
	b.t = w.t
	return b
}

// ask sends a command through and has the store answer it.
func (w *world) ask(c, b *peer, cmd string, answers ...string) {
	w.t.Helper()
	c.sendLine("%s", cmd)
	b.expect(cmd)
	for _, a := range answers {
		b.sendLine("%s", a)
	}
	for _, a := range answers {
		c.expect(a)
	}
}

// selected brings a client into a mailbox of n messages with UIDs 11, 12 ...
func (w *world) selected(user string, n int) (c, b *peer) {
	w.t.Helper()
	c, b = w.login(user)
	w.ask(c, b, "s SELECT INBOX", "* FLAGS (\\Seen)", fmt.Sprintf("* %d EXISTS", n), "* OK [UIDVALIDITY 77] ok",
		"* OK [HIGHESTMODSEQ 99] ok", "s OK [READ-WRITE] done")
	return c, b
}

// answerView answers the proxy's question for the view.
func answerView(b *peer, uids ...int) {
	b.t.Helper()
	l := b.line()
	tag, rest, _ := strings.Cut(l, " ")
	if rest != "FETCH 1:* (UID)" {
		b.fail("got %q, want the question for the view", l)
	}
	for i, uid := range uids {
		b.sendLine("* %d FETCH (UID %d)", i+1, uid)
	}
	b.sendLine("%s OK done", tag)
}
