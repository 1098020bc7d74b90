package mailtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// CA is a certificate authority that exists for one test. Its files are
// readable for everybody, because servers read them after giving up root.
type CA struct {
	Cert   string // PEM file with the authority's certificate
	Server string // PEM file with a certificate for localhost, 127.0.0.1 and ::1
	Key    string // PEM file with Server's key

	dir    string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// NewCA makes an authority and a server certificate for localhost.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{dir: tempDir(t, "", "ca")}
	t.Cleanup(func() { os.RemoveAll(ca.dir) })
	tmpl := ca.template("mailferry test authority")
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	ca.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.Cert = write(t, encodePEM("CERTIFICATE", der), ca.dir, "ca.pem")
	ca.Server, ca.Key = ca.Issue(t, "localhost", "127.0.0.1", "::1")
	return ca
}

// Issue writes a certificate for servers and clients with the names, IP and
// mail addresses given, and its key, and returns the two PEM files. The first
// name is the common name, too.
func (ca *CA) Issue(t testing.TB, names ...string) (cert, key string) {
	t.Helper()
	tmpl := ca.template(names[0])
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else if strings.Contains(name, "@") {
			tmpl.EmailAddresses = append(tmpl.EmailAddresses, name)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, k.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	base := tmpl.SerialNumber.String()
	cert = write(t, encodePEM("CERTIFICATE", der), ca.dir, base+".pem")
	key = write(t, encodePEM("PRIVATE KEY", kder), ca.dir, base+".key")
	return cert, key
}

// Client is a TLS configuration that trusts this authority only.
func (ca *CA) Client() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// ServerConfig is a TLS configuration that shows the localhost certificate.
func (ca *CA) ServerConfig(t testing.TB) *tls.Config {
	t.Helper()
	c, err := tls.LoadX509KeyPair(ca.Server, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{c}}
}

func (ca *CA) template(name string) *x509.Certificate {
	ca.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(ca.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// certOf returns the authority given, or a new one.
func certOf(t testing.TB, ca *CA) *CA {
	t.Helper()
	if ca == nil {
		return NewCA(t)
	}
	return ca
}
