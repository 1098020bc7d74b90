package remote

import (
	"context"
	"io"
	"net"
	"testing"

	"mailferry/backend"
)

func TestProxyHeaderGoesFirst(t *testing.T) {
	for client, want := range map[string]string{
		"192.0.2.7":   proxySignature + "\x21\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01\x12\x34",
		"2001:db8::7": proxySignature + "\x21\x21\x00\x24\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x12\x34",
		"":            proxySignature + "\x20\x00\x00\x00",
	} {
		t.Run(client, func(t *testing.T) {
			store := serve(t, func(s *script) {
				got := make([]byte, len(want))
				if io.ReadFull(s.r, got); string(got) != want {
					t.Errorf("got %q, want %q", got, want)
				}
				if client != "" {
					io.ReadFull(s.r, make([]byte, 2)) // our port there
				}
				s.send("+OK")
				s.exact("USER anna")
				s.send("+OK")
				s.exact("PASS x")
				s.send("+OK")
			})
			store.Identity = backend.IdentityProxy
			target := Target{Store: store, User: "anna", Password: "x"}
			if client != "" {
				target.Client = &net.TCPAddr{IP: net.ParseIP(client), Port: 0x1234}
			}
			c, err := DialPOP3(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	}
}

// TestIdentityIsToldOnlyWhereWanted: nothing of a client leaves us otherwise,
// and before TLS nothing at all.
func TestIdentityIsToldOnlyWhereWanted(t *testing.T) {
	for identity, id := range map[backend.Identity]string{
		"": "", backend.IdentityNative: `ID ("name" "mailferry" "x-originating-ip" "192.0.2.7" "x-originating-port" "99" "x-session-id" "s1")`} {
		store := serve(t, func(s *script) {
			s.send("* OK [CAPABILITY IMAP4rev1 ID AUTH=PLAIN SASL-IR] hi")
			if id != "" {
				s.ok(id, "* ID NIL")
			}
			s.send(s.want("AUTHENTICATE PLAIN") + " OK [CAPABILITY IMAP4rev1] in")
		})
		store.Identity = identity
		c, err := DialIMAP(context.Background(), Target{Store: store, User: "anna", Password: "x", Session: "s1",
			Client: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 99}})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// TestProxyHeaderNamesTheSession by the TLV of a unique id.
func TestProxyHeaderNamesTheSession(t *testing.T) {
	target := Target{Session: "s1", Client: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 99}}
	h := target.proxyHeader(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 143})
	want := proxySignature + "\x21\x11\x00\x11\xc0\x00\x02\x07\x7f\x00\x00\x01\x00\x63\x00\x8f\x05\x00\x02s1"
	if string(h) != want {
		t.Errorf("%q, want %q", h, want)
	}
}
