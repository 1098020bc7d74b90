package scenario

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"mailferry/internal/mailtest"
)

// newCourier is a store without administrator: moves need the users' passwords.
// It has no LMTP: a gate in front of it files mail in its Maildirs.
func newCourier(t *testing.T, name string, users []string) *oldStore {
	c := mailtest.StartCourier(t, mailtest.CourierOptions{Password: password})
	return &oldStore{name: name, kind: "courier", users: users, imap: c.IMAP, lmtp: startGate(t, c), pop3: c.POP3, ca: c.CA,
		login: "{mode: user}", master: []string{"-pass", password}}
}

// startGate serves LMTP with STARTTLS for the users of a Courier and returns
// its address.
func startGate(t *testing.T, c *mailtest.Courier) string {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(c.CA.Server, c.CA.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &gate{t: t, courier: c}, nil }))
	s.LMTP, s.Domain, s.TLSConfig = true, "localhost", &tls.Config{Certificates: []tls.Certificate{cert}}
	s.MaxLineLength = 1 << 20 // as most stores, it takes whatever comes
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return l.Addr().String()
}

// gate is one connection to it.
type gate struct {
	t       *testing.T
	courier *mailtest.Courier
	to      []string
}

func (g *gate) Mail(string, *smtp.MailOptions) error { return nil }

func (g *gate) Rcpt(to string, _ *smtp.RcptOptions) error {
	g.to = append(g.to, strings.TrimSuffix(to, "@"+domain))
	return nil
}

func (g *gate) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	for _, user := range g.to {
		g.courier.Deliver(g.t, user, "", string(text))
	}
	return nil
}

func (g *gate) Reset()        { g.to = nil }
func (g *gate) Logout() error { return nil }

var statusNext = regexp.MustCompile(`\(UIDNEXT (\d+)\)`)

// askNext completes a manifest of a store whose SELECT tells no UIDNEXT.
func askNext(t *testing.T, imap string, users map[string]*userManifest) {
	t.Helper()
	for user, u := range users {
		c := mailtest.DialIMAP(t, imap)
		c.Login(user, password)
		for _, f := range u.Folders {
			if f.NoSelect || f.UIDNext != 0 {
				continue
			}
			m := statusNext.FindStringSubmatch(strings.Join(c.Cmd("STATUS %s (UIDNEXT)", mailtest.Quote(f.Raw)), "\n"))
			if m == nil {
				t.Fatalf("%s: no UIDNEXT of %s", user, f.Raw)
			}
			n, err := strconv.ParseUint(m[1], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			f.UIDNext = uint32(n)
		}
		c.Close()
	}
}
