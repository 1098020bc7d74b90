package app

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// TestACME: certificates come from a real authority, by either challenge, and
// serve without a restart; until then and for other names the self-signed one
// does. A restart finds them on disk, a reload may want other names.
func TestACME(t *testing.T) {
	authority := mailtest.StartPebble(t)
	conf := func(names, ports string) string {
		return anyPort + fmt.Sprintf("tls: {acme: {names: [%s], email: postmaster@example.org, directory: %q, ca: %q, listen: 127.0.0.1, %s}}\n",
			names, authority.Directory, authority.CA.Cert, ports)
	}
	byTLS := fmt.Sprintf("http_port: 0, tls_port: %d", authority.TLSPort)
	byHTTP := fmt.Sprintf("http_port: %d, tls_port: 0", authority.HTTPPort)
	s := newSetup(t, conf("imap.example.org, mail.example.org", byTLS))
	a := s.start(t)
	leaf := func(name string) (issuer string, trusted bool) {
		t.Helper()
		c, err := tls.Dial("tcp", a.Addr("imaps"), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		issuer = c.ConnectionState().PeerCertificates[0].Issuer.CommonName
		v, err := tls.Dial("tcp", a.Addr("imaps"), authority.Client(t, name))
		if err == nil {
			v.Close()
		}
		return issuer, err == nil
	}
	await := func(name string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			if _, ok := leaf(name); ok {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no certificate for %s:\n%s", name, s.log.String())
			}
			time.Sleep(20 * time.Millisecond) // an authority of another process: nobody tells us
		}
	}
	await("imap.example.org")
	await("mail.example.org")
	for _, other := range []string{"localhost", "other.example.org"} {
		if issuer, _ := leaf(other); !strings.HasPrefix(issuer, "mailferry authority") {
			t.Errorf("%s is served by %q", other, issuer)
		}
	}
	// One more name by a reload, by the other challenge. A session goes on.
	c, err := tls.Dial("tcp", a.Addr("imaps"), authority.Client(t, "mail.example.org"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.write(t, conf("imap.example.org, mail.example.org, pop.example.org", byHTTP))
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	await("pop.example.org")
	if _, err := fmt.Fprintf(c, "a NOOP\r\n"); err != nil {
		t.Error(err)
	}
	answer := make([]byte, 4096)
	if n, err := c.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "* OK") {
		t.Errorf("%q %v", answer[:n], err)
	}
	keys, err := filepath.Glob(filepath.Join(s.data, dirTLS, "acme", "certificates", "*", "*", "*.key"))
	if err != nil || len(keys) != 3 {
		t.Fatalf("%q %v", keys, err)
	}
	for _, k := range keys {
		if st, err := os.Stat(k); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", k, st.Mode(), err)
		}
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	// Without the authority, what is on disk serves from the first moment.
	s.write(t, strings.Replace(conf("pop.example.org", byHTTP), authority.Directory, "https://localhost:1/dir", 1))
	a = s.start(t)
	if issuer, ok := leaf("localhost"); !strings.HasPrefix(issuer, "mailferry authority") || ok {
		t.Errorf("localhost is served by %q", issuer)
	}
}
