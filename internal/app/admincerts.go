package app

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"mailferry/internal/config"
)

// adminCerts decides which client certificates are admins'. It can be loaded
// again while connections are served.
type adminCerts struct {
	current atomic.Pointer[adminPool]
}

type adminPool struct {
	pool  *x509.CertPool
	names []string // empty: any
}

// load reads the authorities; without any, nobody is an admin by a certificate.
func (c *adminCerts) load(conf *config.Admin) error {
	if conf.ClientCA == "" {
		c.current.Store(nil)
		return nil
	}
	text, err := os.ReadFile(conf.ClientCA)
	if err != nil {
		return fmt.Errorf("admin.client_ca: %w", err)
	}
	p := &adminPool{pool: x509.NewCertPool(), names: conf.Clients}
	if !p.pool.AppendCertsFromPEM(text) {
		return fmt.Errorf("admin.client_ca: %s: no certificate in it", conf.ClientCA)
	}
	c.current.Store(p)
	return nil
}

// ask has clients of a listener asked for a certificate while there are
// authorities; one that they have not signed ends the handshake.
func (c *adminCerts) ask(base *tls.Config) *tls.Config {
	out := base.Clone()
	out.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		p := c.current.Load()
		if p == nil {
			return nil, nil
		}
		asks := base.Clone()
		asks.ClientAuth, asks.ClientCAs = tls.VerifyClientCertIfGiven, p.pool
		asks.SessionTicketsDisabled = true // who is an admin is decided anew each time
		return asks, nil
	}
	return out
}

// admin is the name of the admin whose certificate was shown, empty when there
// is none. The present authorities count, whatever the handshake saw.
func (c *adminCerts) admin(s *tls.ConnectionState) string {
	p := c.current.Load()
	if p == nil || len(s.PeerCertificates) == 0 {
		return ""
	}
	leaf, between := s.PeerCertificates[0], x509.NewCertPool()
	for _, i := range s.PeerCertificates[1:] {
		between.AddCert(i)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: p.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return ""
	}
	names := append(append([]string{leaf.Subject.CommonName}, leaf.DNSNames...), leaf.EmailAddresses...)
	for _, n := range names {
		if n != "" && (len(p.names) == 0 || slices.Contains(p.names, n)) {
			return n
		}
	}
	return ""
}
