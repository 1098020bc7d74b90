package mailtest

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"
)

// Pebble is a running certificate authority that speaks ACME, for which every
// name leads to 127.0.0.1.
type Pebble struct {
	Directory string // RFC 8555
	CA        *CA    // of the directory's own certificate
	// HTTPPort and TLSPort are where it asks for challenges.
	HTTPPort, TLSPort int

	management string
}

// StartPebble starts letsencrypt's pebble and a DNS server for it.
func StartPebble(t testing.TB) *Pebble {
	t.Helper()
	Require(t, "pebble")
	p := &Pebble{CA: NewCA(t), HTTPPort: FreePort(t), TLSPort: FreePort(t)}
	listen, management, dns, control := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	p.Directory, p.management = "https://localhost:"+port(listen)+"/dir", "https://localhost:"+port(management)
	dir := filepath.Join(cacheDir(), "pebble")
	names := &daemon{name: "challtestsrv", dir: tempDir(t, "", "challtestsrv"), addr: []string{control}, argv: []string{
		filepath.Join(dir, "pebble-challtestsrv"), "-dnsserver", dns, "-management", control, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""}}
	names.run(t)
	work := tempDir(t, "", "pebble")
	conf := fmt.Sprintf(`{"pebble": {"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q,
"httpPort": %d, "tlsPort": %d, "ocspResponderURL": "", "externalAccountBindingRequired": false}}`,
		listen, management, p.CA.Server, p.CA.Key, p.HTTPPort, p.TLSPort)
	d := &daemon{name: "pebble", dir: work, addr: []string{listen, management}, argv: []string{
		"/usr/bin/env", "PEBBLE_VA_NOSLEEP=1", filepath.Join(dir, "pebble"), "-config", write(t, conf, work, "pebble.json"), "-dnsserver", dns}}
	d.run(t)
	return p
}

// Client trusts what the authority issues, and no other.
func (p *Pebble) Client(t testing.TB, name string) *tls.Config {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: p.CA.Client()}}
	defer c.CloseIdleConnections()
	res, err := c.Get(p.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("pebble's root: %q", text)
	}
	return &tls.Config{RootCAs: pool, ServerName: name}
}
