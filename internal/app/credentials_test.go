package app

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"mailferry/internal/config"
	"mailferry/internal/mailtest"
)

func TestClientCertificates(t *testing.T) {
	ca, other := mailtest.NewCA(t), mailtest.NewCA(t)
	chain := func(ca *mailtest.CA, names ...string) []*x509.Certificate {
		cert, key := ca.Issue(t, names...)
		c, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{c.Leaf}
	}
	for name, tt := range map[string]struct {
		field, file string
		chain       []*x509.Certificate
		want        string
	}{
		"mail address":       {config.ClientUserEmail, ca.Cert, chain(ca, "Anna", "anna@example.org"), "anna@example.org"},
		"common name":        {config.ClientUserCN, ca.Cert, chain(ca, "anna"), "anna"},
		"no mail address":    {config.ClientUserEmail, ca.Cert, chain(ca, "anna"), ""},
		"two mail addresses": {config.ClientUserEmail, ca.Cert, chain(ca, "anna@example.org", "root@example.org"), ""},
		"another authority":  {config.ClientUserCN, ca.Cert, chain(other, "anna"), ""},
		"none any more":      {config.ClientUserCN, "", chain(ca, "anna"), ""},
	} {
		var c clientCerts
		if err := c.load(&config.TLS{ClientCA: tt.file, ClientUser: tt.field}); err != nil {
			t.Fatal(err)
		}
		if got, err := c.certify(tt.chain); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if err := new(clientCerts).load(&config.TLS{ClientCA: ca.Key}); err == nil {
		t.Error("a file without certificates is taken")
	}
}
