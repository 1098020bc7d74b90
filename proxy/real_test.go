package proxy

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// realStore is a foreign store as it is in life, with a delegated login.
type realStore struct {
	store *backend.Store
	addr  string // to prepare mailboxes directly
	user  string

	prefix, sep string           // of mailbox names
	options     func(o *Options) // of a proxy in front of it; nil: none
}

func realDovecot(t *testing.T) realStore {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{UsernameFormat: "%Ln",
		Users: map[string]string{"anna": "secret", "bert": "secret"}})
	return realStore{user: "anna", addr: d.IMAP, sep: d.Separator, store: &backend.Store{Name: "old", Type: backend.StoreDovecot, Address: "localhost",
		Ports: map[backend.Protocol]int{backend.IMAP: portOf(t, d.IMAP), backend.POP3: portOf(t, d.POP3),
			backend.ManageSieve: portOf(t, d.Sieve), backend.LMTP: portOf(t, d.LMTP)}, TLSConfig: d.CA.Client(),
		Login: backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)}}}
}

func realCyrus(t *testing.T) realStore {
	c := mailtest.StartCyrus(t, mailtest.CyrusOptions{})
	c.AddUsers(t, "anna", "bert")
	return realStore{user: "anna", addr: c.IMAP, prefix: c.Prefix, sep: c.Separator, store: &backend.Store{Name: "old", Type: backend.StoreCyrus, Address: "localhost",
		Ports: map[backend.Protocol]int{backend.IMAP: portOf(t, c.IMAP), backend.POP3: portOf(t, c.POP3),
			backend.ManageSieve: portOf(t, c.Sieve), backend.LMTP: portOf(t, c.LMTP)}, TLSConfig: c.CA.Client(),
		Login: backend.Login{Mode: backend.LoginAuthzid, User: c.Admin, Secret: backend.Secret(c.AdminPassword)}}}
}

func realCourier(t *testing.T) realStore {
	c := mailtest.StartCourier(t, mailtest.CourierOptions{Extra: "IMAP_ENHANCEDIDLE=1"})
	return realStore{user: "anna", addr: c.IMAP, prefix: c.Prefix, sep: c.Separator, store: &backend.Store{Name: "old", Type: backend.StoreCourier,
		Address: "localhost", Ports: map[backend.Protocol]int{backend.IMAP: portOf(t, c.IMAP), backend.POP3: portOf(t, c.POP3)},
		TLSConfig: c.CA.Client(), Login: backend.Login{Mode: backend.LoginUser}}}
}

func portOf(t *testing.T, addr string) int {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHoldOnRealStores: a session in IDLE and one between commands come to
// rest on servers as they are, their views are the mailbox, and after an abort
// they go on without having heard a word.
func TestHoldOnRealStores(t *testing.T) {
	for name, start := range map[string]func(*testing.T) realStore{"dovecot": realDovecot, "cyrus": realCyrus} {
		t.Run(name, func(t *testing.T) {
			mailtest.Require(t, name)
			r := start(t)
			ps, all := newPlacements(), testStores()
			all["old"] = r.store
			p, addr := serveReal(t, Options{Placements: ps, Stores: all, Connector: RemoteConnector{}, Directory: newDirectory()})
			idler, reader := mailtest.DialIMAP(t, addr), mailtest.DialIMAP(t, addr)
			idler.Login(r.user, "secret")
			reader.Login(r.user, "secret")
			for i := range 5 {
				reader.Append("INBOX", "", time.Now(), []byte("Subject: "+strconv.Itoa(i)+"\r\n\r\nx\r\n"))
			}
			reader.Cmd("SELECT INBOX")
			reader.Cmd("STORE 2,4 +FLAGS (\\Deleted)")
			reader.Cmd("EXPUNGE")
			uids := strings.Join(reader.Cmd("UID SEARCH ALL"), " ")
			idler.Cmd("SELECT INBOX")
			idler.Send("i IDLE")
			idler.Expect(`^\+ `)

			ps.hold(r.user, "old")
			if c := <-ps.confirmed; c.Frozen != 2 || c.Refused != "" {
				t.Fatalf("confirmation %+v", c)
			}
			for _, s := range p.reg.all(r.user) {
				s.mu.Lock()
				cmd := string(s.tr.(*tracker).resumeCommand())
				s.mu.Unlock()
				if !strings.Contains(cmd, " VIEW 1,3,5") || !strings.Contains(uids, "1 3 5") {
					t.Errorf("the mailbox has %q, the view is %q", uids, cmd)
				}
			}
			ps.activate(r.user, "old")
			if rep := <-ps.resumed; rep.Resumed != 2 {
				t.Errorf("report %+v", rep)
			}
			reader.Append("INBOX", "", time.Now(), []byte("Subject: news\r\n\r\nx\r\n"))
			idler.Expect(`^\* 4 EXISTS`)
			idler.Send("DONE")
			idler.Until("i", "OK")
			reader.Cmd("FETCH 1:* (FLAGS)")
		})
	}
}

// serveLMTP serves a proxy for LMTP, to anna@example.org and bert@example.org.
func (r realStore) serveLMTP(t *testing.T) (addr string) {
	t.Helper()
	all, dir := testStores(), newDirectory()
	all["old"] = r.store
	for _, u := range []string{"anna", "bert"} {
		dir.entries[u] = backend.Entry{User: u, Store: "old"}
		dir.entries[u+"@example.org"] = dir.entries[u]
	}
	o := Options{Stores: all, Connector: RemoteConnector{}, Directory: dir}
	if r.options != nil {
		r.options(&o)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	served := make(chan error, 1)
	go func() { served <- p.ServeLMTP(l) }()
	t.Cleanup(func() {
		if err := p.Shutdown(t.Context()); err != nil {
			_ = err // the context of a test is over in its clean-up: connections are cut
		}
		<-served
	})
	return l.Addr().String()
}

// serveReal serves a proxy for IMAP on a socket.
func serveReal(t *testing.T, o Options) (*Proxy, string) {
	t.Helper()
	return serveRealOf(t, &imap, o)
}

// dialReal connects to a proxy for proto in front of the store, on a socket.
func (r realStore) dialReal(t *testing.T, proto *protocol) *peer {
	t.Helper()
	return dialPeer(t, r.serve(t, proto))
}

// serve serves a proxy in front of the store on a socket.
func (r realStore) serve(t *testing.T, proto *protocol) (addr string) {
	t.Helper()
	all := testStores()
	all["old"] = r.store
	dir := newDirectory()
	dir.entries["bert"] = backend.Entry{User: "bert", Store: "old", CheckPassword: true}
	o := Options{Stores: all, Connector: RemoteConnector{}, Directory: dir}
	if r.options != nil {
		r.options(&o)
	}
	_, addr = serveRealOf(t, proto, o)
	return addr
}

func (r realStore) dialPOP3(t *testing.T) *peer {
	t.Helper()
	c := r.dialReal(t, &pop3)
	c.expect("+OK")
	return c
}

// serveRealOf serves a proxy on a socket.
func serveRealOf(t *testing.T, proto *protocol, o Options) (*Proxy, string) {
	t.Helper()
	o.FailureDelay = -1
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.serveProtocol(l, proto, false) }()
	t.Cleanup(func() {
		if err := p.Shutdown(t.Context()); err != nil {
			_ = err // the context of a test is over in its clean-up: connections are cut
		}
		<-served
	})
	return p, l.Addr().String()
}
