package pop3d_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/pop3d"
	"mailferry/store/storetest"
)

// patience bounds each read of a test.
const patience = 20 * time.Second

// world is a store with the user anna and a server in front of it.
type world struct {
	t      testing.TB
	store  *store.Store
	server *pop3d.Server
}

func newWorld(t testing.TB, change ...func(*pop3d.Options)) *world {
	t.Helper()
	e, err := storetest.NewEngine(store.NewMachine(), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return newWorldOver(t, e, change...)
}

func newWorldOver(t testing.TB, e engine.Engine, change ...func(*pop3d.Options)) *world {
	t.Helper()
	st, err := store.New(store.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: st}
	o := pop3d.Options{Store: st,
		Authenticate: func(_ context.Context, name string, p backend.Secret) (string, error) {
			switch p.Reveal() {
			case "secret", "with spaces ":
				return strings.ToLower(name), nil
			case "down":
				return "", backend.NewError(backend.KindUnavailable, "directory is away")
			}
			return "", backend.NewError(backend.KindAuthentication, "wrong")
		},
		ProxyLogin: func(_ context.Context, name string, p backend.Secret) error {
			if name != "proxy" || p.Reveal() != "token" {
				return backend.NewError(backend.KindAuthentication, "wrong")
			}
			return nil
		}}
	for _, f := range change {
		f(&o)
	}
	if w.server, err = pop3d.New(o); err != nil {
		t.Fatal(err)
	}
	w.addUser("anna")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		st.Close()
	})
	return w
}

func (w *world) addUser(name string) {
	w.t.Helper()
	_, err := w.store.CreateUser(context.Background(), store.NewUser{Name: name})
	if err != nil && !backend.IsKind(err, backend.KindExists) {
		w.t.Fatal(err)
	}
}

func (w *world) account() *store.Account {
	w.t.Helper()
	a, err := w.store.Account(context.Background(), "anna")
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// file appends messages to anna's INBOX.
func (w *world) file(texts ...string) {
	w.t.Helper()
	a := w.account()
	for _, text := range texts {
		b, err := a.NewBody(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		io.WriteString(b, text)
		body, err := b.Finish()
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := a.Append(context.Background(), store.Append{Mailbox: backend.Inbox, Body: body}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func mail(subject string) string {
	return "From: anna@example.org\r\nSubject: " + subject + "\r\n\r\nhello\r\n.dots\r\n.\r\nend\r\n"
}

// conn is a client for dialogues.
type conn struct {
	t   testing.TB
	nc  net.Conn
	r   *bufio.Reader
	log []string
}

// dial connects with the server's view of the connection.
func (w *world) dial(info pop3d.ConnInfo) *conn {
	w.t.Helper()
	a, b := line.Pipe()
	go w.server.ServeConn(context.Background(), b, info)
	c := &conn{t: w.t, nc: a, r: bufio.NewReader(a)}
	w.t.Cleanup(func() { a.Close() })
	c.expect("+OK mailferry ready")
	return c
}

// login is a trusted connection on which anna is logged in.
func (w *world) login() *conn {
	w.t.Helper()
	c := w.dial(pop3d.ConnInfo{Trusted: true})
	c.is("+OK", "USER anna")
	c.is("+OK Maildrop has", "PASS secret")
	return c
}

func (c *conn) fail(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("%s\n  %s", fmt.Sprintf(format, args...), strings.Join(c.log[max(0, len(c.log)-40):], "\n  "))
}

func (c *conn) raw(s string) {
	c.t.Helper()
	c.log = append(c.log, fmt.Sprintf("C: %.300q", s))
	c.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c.nc, s); err != nil {
		c.fail("write: %v", err)
	}
}

func (c *conn) line() string {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(patience))
	l, err := c.r.ReadString('\n')
	if err != nil {
		c.fail("read: %v", err)
	}
	c.log = append(c.log, fmt.Sprintf("S: %.300q", l))
	if !strings.HasSuffix(l, "\r\n") {
		c.fail("a line ends without CRLF: %q", l)
	}
	return strings.TrimSuffix(l, "\r\n")
}

// expect reads a line that begins like want.
func (c *conn) expect(want string) string {
	c.t.Helper()
	l := c.line()
	if !strings.HasPrefix(l, want) {
		c.fail("got %q, want %q", l, want)
	}
	return l
}

// is sends a command whose answer begins like want.
func (c *conn) is(want, format string, args ...any) string {
	c.t.Helper()
	c.raw(fmt.Sprintf(format, args...) + "\r\n")
	return c.expect(want)
}

// many is the rest of an answer of many lines, as it is on the wire.
func (c *conn) many() string {
	c.t.Helper()
	var all strings.Builder
	for {
		l := c.line()
		if l == "." {
			return all.String()
		}
		all.WriteString(l + "\r\n")
	}
}

// multi sends a command with an answer of many lines, which it returns joined.
func (c *conn) multi(format string, args ...any) string {
	c.t.Helper()
	c.is("+OK", format, args...)
	return strings.ReplaceAll(strings.TrimSuffix(c.many(), "\r\n"), "\r\n", "|")
}

// closed reads to the end of the connection and returns the lines.
func (c *conn) closed() []string {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(c.r)
	if err != nil {
		c.fail("the connection is not closed: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(rest), "\r\n"), "\r\n")
}

// gone expects the end of the connection and nothing before it.
func (c *conn) gone() {
	c.t.Helper()
	if l := c.closed(); l[0] != "" {
		c.fail("unexpected %q", l)
	}
}
