package app

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mailferry/internal/config"
)

func TestSelfSignedIsTrustedByItsAuthority(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	pair, err := ensureSelfSigned(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, name := range []string{"localhost", "127.0.0.1"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	info, err := os.Stat(pair.Key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", info.Mode(), err)
	}
}

func TestSelfSignedIsKeptUntilItsLastMonth(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	serial := func(now time.Time) string {
		t.Helper()
		pair, err := ensureSelfSigned(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber.String()
	}
	first := serial(now)
	if serial(now.Add(300*24*time.Hour)) != first {
		t.Error("made anew while it was good")
	}
	if serial(now.Add(380*24*time.Hour)) == first {
		t.Error("not renewed in its last month")
	}
}

func TestFailedLoadKeepsCertificates(t *testing.T) {
	var c certificates
	if err := c.load(nil, t.TempDir(), time.Now()); err != nil {
		t.Fatal(err)
	}
	before := c.current.Load()
	if err := c.load([]config.Certificate{{Cert: "absent.pem", Key: "absent.key"}}, "", time.Now()); err == nil {
		t.Error("a missing file is no error")
	}
	if c.current.Load() != before {
		t.Error("a failed load changed what is served")
	}
}
