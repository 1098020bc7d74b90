package imapd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/imapd"
	"mailferry/store/storetest"
)

// patience bounds each read of a test.
const patience = 20 * time.Second

// world is a store with the user anna and a server in front of it.
type world struct {
	t      testing.TB
	store  *store.Store
	server *imapd.Server
	views  *views
}

func newWorld(t testing.TB, change ...func(*imapd.Options)) *world {
	t.Helper()
	e, err := storetest.NewEngine(store.NewMachine(), 2)
	if err != nil {
		t.Fatal(err)
	}
	v := &views{Engine: e}
	st, err := store.New(store.Options{Engine: v})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: st, views: v}
	w.addUser("anna")
	o := imapd.Options{Store: st,
		Authenticate: func(_ context.Context, name string, p backend.Secret) (string, error) {
			if p.Reveal() != "secret" {
				return "", backend.NewError(backend.KindAuthentication, "wrong")
			}
			return strings.ToLower(name), nil
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
	if w.server, err = imapd.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		st.Close()
		e.Close()
	})
	return w
}

func (w *world) addUser(name string) {
	w.t.Helper()
	if _, err := w.store.CreateUser(context.Background(), store.NewUser{Name: name}); err != nil {
		w.t.Fatal(err)
	}
}

// conn is a client for dialogues.
type conn struct {
	t    testing.TB
	nc   net.Conn
	r    *bufio.Reader
	tags int
	log  []string
}

// dial connects with the server's view of the connection.
func (w *world) dial(info imapd.ConnInfo) *conn {
	w.t.Helper()
	a, b := line.Pipe()
	go w.server.ServeConn(context.Background(), b, info)
	c := &conn{t: w.t, nc: a, r: bufio.NewReader(a)}
	w.t.Cleanup(func() { a.Close() })
	c.expect(`^\* OK \[CAPABILITY IMAP4rev1 .*mailferry ready$`)
	return c
}

// login is a trusted connection on which anna is logged in.
func (w *world) login() *conn {
	w.t.Helper()
	c := w.dial(imapd.ConnInfo{Trusted: true})
	c.ok("LOGIN anna secret")
	return c
}

func (c *conn) fail(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("%s\n  %s", fmt.Sprintf(format, args...), strings.Join(c.log[max(0, len(c.log)-60):], "\n  "))
}

func (c *conn) raw(s string) {
	c.t.Helper()
	c.log = append(c.log, fmt.Sprintf("C: %.300q", s))
	c.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c.nc, s); err != nil {
		c.fail("write: %v", err)
	}
}

func (c *conn) send(format string, args ...any) {
	c.t.Helper()
	c.raw(fmt.Sprintf(format, args...) + "\r\n")
}

var literalEnd = regexp.MustCompile(`\{(\d+)\}$`)

// read reads one response with its literals.
func (c *conn) read() (string, error) {
	c.nc.SetReadDeadline(time.Now().Add(patience))
	var all strings.Builder
	for {
		l, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		l = strings.TrimSuffix(l, "\r\n")
		all.WriteString(l)
		m := literalEnd.FindStringSubmatch(l)
		if m == nil {
			c.log = append(c.log, fmt.Sprintf("S: %.300q", all.String()))
			return all.String(), nil
		}
		n, _ := strconv.Atoi(m[1])
		b := make([]byte, n)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return "", err
		}
		all.WriteString("\r\n")
		all.Write(b)
	}
}

func (c *conn) line() string {
	c.t.Helper()
	s, err := c.read()
	if err != nil {
		c.fail("read: %v", err)
	}
	return s
}

func (c *conn) expect(pattern string) []string {
	c.t.Helper()
	l := c.line()
	m := regexp.MustCompile(`(?s)` + pattern).FindStringSubmatch(l)
	if m == nil {
		c.fail("got %q, want %s", l, pattern)
	}
	return m
}

// cmd sends a command and returns its untagged responses and the tagged one,
// without its tag.
func (c *conn) cmd(format string, args ...any) (untagged []string, tagged string) {
	c.t.Helper()
	c.tags++
	tag := "t" + strconv.Itoa(c.tags)
	c.send("%s %s", tag, fmt.Sprintf(format, args...))
	return c.until(tag)
}

func (c *conn) until(tag string) (untagged []string, tagged string) {
	c.t.Helper()
	for {
		l := c.line()
		if rest, ok := strings.CutPrefix(l, tag+" "); ok {
			return untagged, rest
		}
		if !strings.HasPrefix(l, "* ") {
			c.fail("unexpected %q", l)
		}
		untagged = append(untagged, strings.TrimPrefix(l, "* "))
	}
}

// ok is cmd that must end with OK; it returns the untagged responses.
func (c *conn) ok(format string, args ...any) []string {
	c.t.Helper()
	u, tagged := c.cmd(format, args...)
	if !strings.HasPrefix(tagged, "OK") {
		c.fail("%s: %s", fmt.Sprintf(format, args...), tagged)
	}
	return u
}

// is compares all responses of a command, joined by "|"; the tagged one comes
// last and is compared up to the given length.
func (c *conn) is(want string, format string, args ...any) {
	c.t.Helper()
	u, tagged := c.cmd(format, args...)
	got := strings.Join(append(u, tagged), "|")
	if !strings.HasPrefix(got, want) {
		c.fail("%s\ngot  %s\nwant %s", fmt.Sprintf(format, args...), got, want)
	}
}

func (c *conn) append(mailbox, flags, msg string) {
	c.t.Helper()
	c.tags++
	tag := "t" + strconv.Itoa(c.tags)
	c.raw(fmt.Sprintf("%s APPEND %s (%s) {%d+}\r\n%s\r\n", tag, mailbox, flags, len(msg), msg))
	if _, tagged := c.until(tag); !strings.HasPrefix(tagged, "OK [APPENDUID ") {
		c.fail("APPEND: %s", tagged)
	}
}

// closed reads until the server closes, and returns what came.
func (c *conn) closed() []string {
	c.t.Helper()
	var lines []string
	for {
		l, err := c.read()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				c.fail("the connection stays open: %v", err)
			}
			return lines
		}
		lines = append(lines, l)
	}
}

// mail is a small message.
func mail(subject string) string {
	return "From: Anna <anna@example.org>\r\nTo: bob@example.org\r\nSubject: " + subject + "\r\nDate: Mon, 2 Mar 2026 10:00:00 +0100\r\n" +
		"Message-ID: <" + subject + "@example.org>\r\n\r\nHello " + subject + "\r\n"
}

// filled is a logged-in connection with n messages in INBOX.
func (w *world) filled(n int) *conn {
	c := w.login()
	for i := range n {
		c.append("INBOX", "", mail("m"+strconv.Itoa(i+1)))
	}
	return c
}
