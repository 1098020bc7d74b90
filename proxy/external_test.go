package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"mailferry/internal/mailtest"
)

// certifyBy lets in those whose certificate an authority has signed, under the
// name in it.
func certifyBy(ca *mailtest.CA) func([]*x509.Certificate) (string, error) {
	return func(chain []*x509.Certificate) (string, error) {
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: ca.Client().RootCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			return "", err
		}
		if len(chain[0].DNSNames) != 1 {
			return "", errors.New("no name")
		}
		return chain[0].DNSNames[0], nil
	}
}

func withCertificate(t *testing.T, server, client *mailtest.CA, name string) *tls.Config {
	cfg := server.Client()
	if client != nil {
		cert, key := client.Issue(t, name)
		c, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{c}
	}
	return cfg
}

// TestExternal: a certificate opens its owner's mailbox, at stores with
// delegated login, and nothing else.
func TestExternal(t *testing.T) {
	ca, other := mailtest.NewCA(t), mailtest.NewCA(t)
	addr, con, _ := onSockets(t, Options{TLS: ca.ServerConfig(t), Certify: certifyBy(ca)}, true)
	dial := func(cfg *tls.Config) (*peer, string) {
		c := dialPeer(t, addr)
		if err := c.overTLS(cfg); err != nil {
			t.Fatal(err)
		}
		return c, c.expect("* OK")
	}
	// Without a certificate, or with one of another authority, it is not even
	// offered; a password still does.
	for _, client := range []*mailtest.CA{nil, other} {
		c, greeting := dial(withCertificate(t, ca, client, "anna"))
		if strings.Contains(greeting, "EXTERNAL") {
			t.Errorf("offered: %s", greeting)
		}
		c.sendLine("a AUTHENTICATE EXTERNAL =")
		c.expect("a NO [CANNOT]")
		c.sendLine("b LOGIN anna secret")
		c.expect("b OK")
	}
	c, greeting := dial(withCertificate(t, ca, ca, "anna"))
	if !strings.Contains(greeting, "AUTH=EXTERNAL") {
		t.Errorf("not offered: %s", greeting)
	}
	before := len(con.asked)
	c.sendLine("a AUTHENTICATE EXTERNAL %s", b64("bernd"))
	c.expect("a NO [AUTHENTICATIONFAILED]")
	for _, bad := range []string{"an\r\nna", "anna\x00", "anna\x00bernd"} {
		c.sendLine("a AUTHENTICATE EXTERNAL %s", b64(bad))
		c.expect("a BAD")
	}
	c.sendLine("b AUTHENTICATE EXTERNAL")
	c.expect("+ ")
	c.sendLine("")
	c.expect("b OK")
	if len(con.asked) != before+1 {
		t.Fatalf("%d connections for one login", len(con.asked)-before)
	}
	if got := con.asked[before]; got.Route.User != "anna" || got.CheckPassword || got.Password != "" || got.Token {
		t.Errorf("the store was asked for %+v", got)
	}
	// The same with an initial response, for a user whose store would check the
	// password: it is the certificate that counts.
	c, _ = dial(withCertificate(t, ca, ca, "passer"))
	c.sendLine("a AUTHENTICATE EXTERNAL %s", b64("passer"))
	c.expect("a OK")
	// Unknown and disabled users.
	for _, name := range []string{"nemo", "otto"} {
		c, _ = dial(withCertificate(t, ca, ca, name))
		c.sendLine("a AUTHENTICATE EXTERNAL =")
		c.expect("a NO [AUTHENTICATIONFAILED]")
	}
}

// TestExternalWithoutDelegation: a store that wants the user's password cannot
// be entered on a certificate, and the client is told what to do.
func TestExternalWithoutDelegation(t *testing.T) {
	ca := mailtest.NewCA(t)
	for name, d := range map[string]struct {
		proto              *protocol
		greeting, cmd, end string
	}{
		"imap": {&imap, "* OK", "a AUTHENTICATE EXTERNAL =", "a NO [CANNOT] This mailbox needs"}, "pop3": {&pop3, "+OK", "AUTH EXTERNAL =", "-ERR [SYS/PERM] This mailbox needs"},
		"managesieve": {&managesieve, "OK", `AUTHENTICATE "EXTERNAL" ""`, `NO "This mailbox needs`},
	} {
		t.Run(name, func(t *testing.T) {
			addr, con, p := onSocketsOf(t, d.proto, Options{TLS: ca.ServerConfig(t), Certify: certifyBy(ca)}, true)
			dir := p.o.Directory.(*directory)
			e := dir.entries["anna"]
			e.Store = "user"
			dir.entries["anna"] = e
			c := dialPeer(t, addr)
			if err := c.overTLS(withCertificate(t, ca, ca, "anna")); err != nil {
				t.Fatal(err)
			}
			for !strings.HasPrefix(c.line(), d.greeting) {
			}
			c.sendLine("%s", d.cmd)
			c.expect(d.end)
			if len(con.asked) > 0 {
				t.Error("the store was asked")
			}
		})
	}
}
