package remote

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
)

// script is a scripted server: one handler per connection, played on a real
// loopback socket. Lines are sent with CRLF; expectations match prefixes.
type script struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// serve starts a server that plays play once per connection, and gives a store
// that points to it.
func serve(t testing.TB, play func(*script)) *backend.Store {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			play(&script{t: t, conn: conn, r: bufio.NewReader(conn)})
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	port := ln.Addr().(*net.TCPAddr).Port
	return &backend.Store{
		Name: "old", Type: backend.StoreGeneric, Address: "127.0.0.1", TLS: backend.TLSNone,
		Ports: map[backend.Protocol]int{backend.IMAP: port, backend.LMTP: port, backend.POP3: port, backend.ManageSieve: port},
	}
}

func (s *script) send(lines ...string) {
	for _, l := range lines {
		if _, err := s.conn.Write([]byte(l + "\r\n")); err != nil {
			return
		}
	}
}

// line reads a line; "" when the client is gone.
func (s *script) line() string {
	l, err := s.r.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimRight(l, "\r\n")
}

// want reads a command that begins with prefix behind its tag, gives the tag.
func (s *script) want(prefix string) (tag string) {
	l := s.line()
	tag, rest, _ := strings.Cut(l, " ")
	if !strings.HasPrefix(rest, prefix) {
		s.t.Errorf("server got %q, want %q", l, prefix)
	}
	return tag
}

// ok answers a command with OK.
func (s *script) ok(prefix string, untagged ...string) {
	tag := s.want(prefix)
	s.send(untagged...)
	s.send(tag + " OK done")
}

// loggedIn plays greeting and login.
func (s *script) loggedIn(caps string) {
	s.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] ready")
	tag := s.want("AUTHENTICATE PLAIN")
	s.send(tag + " OK [CAPABILITY IMAP4rev1 " + caps + "] in")
}

// startTLS upgrades the server's side.
func (s *script) startTLS(cert tls.Certificate) {
	tc := tls.Server(s.conn, &tls.Config{Certificates: []tls.Certificate{cert}})
	s.conn, s.r = tc, bufio.NewReader(tc)
}

// certificate makes a self-signed certificate for 127.0.0.1.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
