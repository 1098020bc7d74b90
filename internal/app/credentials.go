package app

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/config"
	"mailferry/proxy"
)

// clientCerts judges users' certificates, by the authorities of the last
// reload.
type clientCerts struct {
	current atomic.Pointer[clientRule]
}

type clientRule struct {
	roots *x509.CertPool
	field string
}

// load reads the authorities; without any nobody is let in.
func (c *clientCerts) load(t *config.TLS) error {
	if t.ClientCA == "" {
		c.current.Store(nil)
		return nil
	}
	text, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return err
	}
	r := &clientRule{roots: x509.NewCertPool(), field: t.ClientUser}
	if !r.roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("%s: no certificate in it", t.ClientCA)
	}
	c.current.Store(r)
	return nil
}

// certify implements proxy.Options.Certify.
func (c *clientCerts) certify(chain []*x509.Certificate) (string, error) {
	r := c.current.Load()
	if r == nil {
		return "", errors.New("no authority is configured any more")
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: r.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", err
	}
	if r.field == config.ClientUserCN {
		if leaf.Subject.CommonName == "" {
			return "", errors.New("it has no common name")
		}
		return leaf.Subject.CommonName, nil
	}
	if n := len(leaf.EmailAddresses); n != 1 {
		return "", fmt.Errorf("it has %d mail addresses, and one is wanted", n)
	}
	return leaf.EmailAddresses[0], nil
}

// loginOptions sets who may log in to the proxy otherwise than by a password.
func (a *App) loginOptions(o *proxy.Options) error {
	o.Tokens = proxy.Tokens{Claim: a.conf.Tokens.Claim, Scope: a.conf.Tokens.Scope, Configuration: a.conf.Tokens.Configuration,
		Offer: slices.ContainsFunc(a.conf.Stores, func(s config.Store) bool { return s.Tokens })}
	if a.conf.TLS.ClientCA == "" {
		return nil
	}
	if err := a.clients.load(&a.conf.TLS); err != nil {
		return fmt.Errorf("tls.client_ca: %w", err)
	}
	o.Certify = a.clients.certify
	return nil
}

// tokenSource is where the tokens of a store's login come from.
func tokenSource(o *config.OAuth) (backend.TokenSource, error) {
	switch {
	case o.TokenFile != "":
		return remote.NewTokenFile(o.TokenFile), nil
	case o.ServiceAccount != "":
		c, err := clientTLS(o.CA, "")
		if err != nil {
			return nil, err
		}
		return remote.NewServiceAccount(o.ServiceAccount, o.Scopes, c)
	}
	c, err := clientTLS(o.CA, "")
	if err != nil {
		return nil, err
	}
	return remote.NewClientCredentials(remote.ClientCredentials{URL: o.TokenURL, ClientID: o.ClientID, Secret: o.ClientSecret, Scopes: o.Scopes, TLS: c}), nil
}
