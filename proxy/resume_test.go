package proxy

import (
	"crypto/tls"
	"testing"

	"mailferry/internal/mailtest"
)

// TestTLSResumption: a client that comes back is spared the certificate, with
// TLS 1.3 and 1.2.
func TestTLSResumption(t *testing.T) {
	ca := mailtest.NewCA(t)
	addr, _, _ := onSockets(t, Options{TLS: ca.ServerConfig(t)}, true)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := ca.Client()
		cfg.MinVersion, cfg.MaxVersion, cfg.ClientSessionCache = version, version, tls.NewLRUClientSessionCache(1)
		for i := range 2 {
			c := dialPeer(t, addr)
			if err := c.overTLS(cfg); err != nil {
				t.Fatal(err)
			}
			c.expect("* OK") // the tickets of TLS 1.3 have come with it
			if state := c.Conn.(*tls.Conn).ConnectionState(); state.DidResume != (i == 1) {
				t.Errorf("%s, connection %d: resumed %v", tls.VersionName(version), i+1, state.DidResume)
			}
			c.Close()
		}
	}
}
