package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"mailferry/internal/config"
)

// certificates serves the configured certificates and can exchange them while
// connections are served.
type certificates struct {
	current atomic.Pointer[[]tls.Certificate]
	acme    atomic.Pointer[acmeManager] // nil: none
}

// load reads the files, or the generated pair in dir when none are configured.
// On error what is served stays.
func (c *certificates) load(files []config.Certificate, dir string, now time.Time) error {
	if len(files) == 0 {
		generated, err := ensureSelfSigned(dir, now)
		if err != nil {
			return err
		}
		files = []config.Certificate{generated}
	}
	var certs []tls.Certificate
	var errs []error
	for _, f := range files {
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %s: %w", f.Cert, err))
			continue
		}
		certs = append(certs, cert)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	c.current.Store(&certs)
	return nil
}

// get chooses by the name that the client asks for: a certificate from an
// authority before those in files, of which the first serves the rest.
func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if m := c.acme.Load(); m != nil {
		if cert := m.get(hello); cert != nil {
			return cert, nil
		}
	}
	certs := *c.current.Load()
	for i := range certs {
		if hello.SupportsCertificate(&certs[i]) == nil {
			return &certs[i], nil
		}
	}
	return &certs[0], nil
}

// ciphers of TLS 1.2: those of Mozilla's intermediate profile that Go has, which
// has no CBC in it. Those of TLS 1.3 are not for us to choose.
var ciphers = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// config is for all listeners; it follows later loads.
func (c *certificates) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: ciphers, GetCertificate: c.get}
}

// The generated pair is renewed at a start in its last month. The authority
// stays, so that clients which trust it go on doing so.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 397 * 24 * time.Hour // what clients accept at most
	renewBefore     = 30 * 24 * time.Hour
)

// ensureSelfSigned makes dir/ca.pem and a certificate signed by it, unless they
// are there.
func ensureSelfSigned(dir string, now time.Time) (config.Certificate, error) {
	pair := config.Certificate{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "cert.key")}
	if have, err := tls.LoadX509KeyPair(pair.Cert, pair.Key); err == nil && have.Leaf.NotAfter.Sub(now) > renewBefore {
		return pair, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return pair, err
	}
	authority, err := ensureAuthority(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"), now)
	if err != nil {
		return pair, fmt.Errorf("certificate authority: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	leaf := &x509.Certificate{
		Subject:     pkix.Name{CommonName: host},
		DNSNames:    []string{"localhost", host},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:   now.Add(-time.Hour), NotAfter: now.Add(certificateLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	return pair, writeSigned(pair.Cert, pair.Key, leaf, authority)
}

func ensureAuthority(certFile, keyFile string, now time.Time) (*tls.Certificate, error) {
	if have, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
		return &have, nil
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "mailferry authority of this installation"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	if err := writeSigned(certFile, keyFile, template, nil); err != nil {
		return nil, err
	}
	made, err := tls.LoadX509KeyPair(certFile, keyFile)
	return &made, err
}

// writeSigned makes a key and a certificate for it, signed by authority or by
// itself. The certificate comes last: with it the pair is complete.
func writeSigned(certFile, keyFile string, template *x509.Certificate, authority *tls.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return err
	}
	parent, signer := template, any(key)
	if authority != nil {
		parent, signer = authority.Leaf, authority.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyFile, 0o600, "PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return writePEM(certFile, 0o644, "CERTIFICATE", der)
}

func writePEM(file string, mode os.FileMode, kind string, der []byte) error {
	return writeFile(file, mode, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// writeFile replaces a file as a whole: after a crash it is the old or the new one.
func writeFile(file string, mode os.FileMode, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
