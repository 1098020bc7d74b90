package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

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

// TestTicketsAreGoodForADay: the keys are changed, so that a ticket is worth
// nothing a day later, though nobody came in between.
func TestTicketsAreGoodForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := mailtest.NewCA(t)
		server, client := ca.ServerConfig(t), ca.Client()
		rotateTickets(server)
		client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for i, step := range []struct {
			wait   time.Duration
			resume bool
		}{
			{0, false},
			{11 * time.Hour, true}, // a new ticket, of the same key
			{2 * time.Hour, true},  // of the second key
			{23 * time.Hour, true}, // of the third
			{24 * time.Hour, false},
			{time.Hour, true},
		} {
			time.Sleep(step.wait)
			a, b := net.Pipe()
			go func() { // as long as the client
				c := tls.Server(a, server)
				defer c.Close()
				_, _ = c.Write([]byte("*"))
			}()
			c := tls.Client(b, client)
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // tickets come first
				t.Fatal(err)
			}
			if got := c.ConnectionState().DidResume; got != step.resume {
				t.Errorf("connection %d: resumed %v", i, got)
			}
			b.Close()
		}
	})
}
