package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"mailferry/internal/admin"
)

// node is a running node with two users.
type node struct {
	*App
	admin *admin.Client
	tls   *tls.Config // trusts the node
}

func startNode(t *testing.T) *node {
	t.Helper()
	return startNodeWith(t, anyPort)
}

func startNodeWith(t *testing.T, text string) *node {
	t.Helper()
	s := newSetup(t, text)
	n := &node{App: s.start(t), admin: admin.NewClient(s.data)}
	t.Cleanup(n.admin.Close)
	for _, name := range []string{"anna@example.org", "bob@example.org"} {
		if _, err := n.admin.AddUser(t.Context(), admin.NewUser{Name: name, Password: "secret", Aliases: []string{"x" + name}}); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(s.data, dirTLS, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	n.tls = &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()}
	n.tls.RootCAs.AppendCertsFromPEM(ca)
	return n
}

// imap logs in with TLS from the first byte.
func (n *node) imap(user, password string) (*imapclient.Client, error) {
	c, err := imapclient.DialTLS(n.Addr("imaps"), &imapclient.Options{TLSConfig: n.tls})
	if err != nil {
		return nil, err
	}
	if err := c.Login(user, password).Wait(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// submit sends a message as a mail program does.
func (n *node) submit(user, password, from string, to ...string) error {
	c, err := smtp.DialStartTLS(n.Addr("submission"), n.tls)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", user, password)); err != nil {
		return err
	}
	return c.SendMail(from, to, strings.NewReader("From: "+from+"\r\nSubject: hello\r\n\r\nIt works.\r\n"))
}

func TestMailBetweenOwnUsers(t *testing.T) {
	n := startNode(t)
	if err := n.submit("anna@example.org", "secret", "anna@example.org", "xbob@example.org", "anna@example.org"); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"anna@example.org", "bob@example.org"} {
		c, err := n.imap(user, "secret")
		if err != nil {
			t.Fatal(err)
		}
		if box, err := c.Select("INBOX", nil).Wait(); err != nil || box.NumMessages != 1 {
			t.Errorf("%s: %+v %v", user, box, err)
		}
		c.Close()
	}
}

func TestSubmissionRefusals(t *testing.T) {
	n := startNode(t)
	tests := []struct {
		name, user, password, from, to string
		code                           int
	}{
		{"mail for others", "anna@example.org", "secret", "anna@example.org", "someone@elsewhere.example", 550},
		{"nobody of ours", "anna@example.org", "secret", "anna@example.org", "nobody@example.org", 550},
		{"another's address", "anna@example.org", "secret", "bob@example.org", "anna@example.org", 550},
		{"wrong password", "anna@example.org", "wrong", "anna@example.org", "bob@example.org", 535},
		{"unknown user", "nobody@example.org", "secret", "anna@example.org", "bob@example.org", 535},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := n.submit(tt.user, tt.password, tt.from, tt.to)
			var refused *smtp.SMTPError
			if !errors.As(err, &refused) || refused.Code/10 != tt.code/10 {
				t.Errorf("%v, want %d", err, tt.code)
			}
		})
	}
}

func TestWhoAndKick(t *testing.T) {
	n := startNode(t)
	c, err := n.imap("anna@example.org", "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := n.admin.Sessions(t.Context(), admin.SessionFilter{})
	if err != nil || len(list) != 1 || list[0].User != "anna@example.org" || list[0].Store != "home" || list[0].State != "selected INBOX" {
		t.Errorf("sessions %+v %v", list, err)
	}
	if k, err := n.admin.Kick(t.Context(), admin.SessionFilter{User: "anna@example.org"}); err != nil || k != 1 {
		t.Errorf("kicked %d %v", k, err)
	}
	select {
	case <-c.Closed():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
	}
}

// TestDrain ends the sessions of a store and puts logins off until it is over.
func TestDrain(t *testing.T) {
	n := startNode(t)
	c, err := n.imap("anna@example.org", "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := n.admin.Drain(t.Context(), "home", 50); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Closed():
	case <-time.After(20 * time.Second):
		t.Fatal("the session goes on")
	}
	if c, err := n.imap("anna@example.org", "secret"); err == nil {
		c.Close()
		t.Error("a login during the drain")
	} else if !strings.Contains(err.Error(), "UNAVAILABLE") {
		t.Error(err)
	}
	if d, err := n.admin.Drains(t.Context()); err != nil || len(d) != 1 || d[0].Asked != 1 {
		t.Errorf("%+v %v", d, err)
	}
	if err := n.admin.StopDrain(t.Context(), "home"); err != nil {
		t.Fatal(err)
	}
	again, err := n.imap("anna@example.org", "secret")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestDisabledUser loses the session, cannot log in and gets no mail.
func TestDisabledUser(t *testing.T) {
	n := startNode(t)
	c, err := n.imap("bob@example.org", "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := n.admin.SetDisabled(t.Context(), "bob@example.org", true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Closed():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
	}
	if c, err := n.imap("bob@example.org", "secret"); err == nil {
		c.Close()
		t.Error("a disabled user logs in")
	}
	if err := n.submit("bob@example.org", "secret", "bob@example.org", "anna@example.org"); err == nil {
		t.Error("a disabled user submits mail")
	}
	if err := n.submit("anna@example.org", "secret", "anna@example.org", "bob@example.org"); err == nil {
		t.Error("a disabled user gets mail")
	}
}

// TestStopSaysGoodbye: clients hear BYE before the connection ends.
func TestStopSaysGoodbye(t *testing.T) {
	n := startNode(t)
	conn, err := net.Dial("tcp", n.Addr("imap"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("a LOGIN anna@example.org secret\r\n")); err != nil {
		t.Fatal(err)
	}
	read := readUntil(t, conn, "a OK")
	if err := n.Stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, read)
	}
	readUntil(t, conn, "* BYE")
}

// readUntil reads until text has come.
func readUntil(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	var got strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), text) {
		n, err := conn.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("no %q in %q: %v", text, got.String(), err)
		}
	}
	return got.String()
}
