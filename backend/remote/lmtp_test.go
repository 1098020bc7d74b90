package remote

import (
	"context"
	"crypto/tls"
	"testing"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
)

// transaction delivers a message with go-smtp's client.
func transaction(t *testing.T, store *backend.Store) {
	t.Helper()
	conn, err := DialLMTP(context.Background(), Target{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	c := smtp.NewClientLMTP(conn)
	defer c.Close()
	if err := c.Hello("proxy"); err != nil {
		t.Fatal(err)
	}
	if err := c.Mail("a@example.org", nil); err != nil {
		t.Fatal(err)
	}
}

// lmtpSession answers LHLO and MAIL.
func lmtpSession(s *script) {
	if l := s.line(); l != "LHLO proxy" {
		s.t.Errorf("server got %q", l)
	}
	s.send("250-old", "250 PIPELINING")
	s.line()
	s.send("250 ok")
}

func TestDialLMTP(t *testing.T) {
	store := serve(t, func(s *script) { s.send("220 old LMTP"); lmtpSession(s) })
	transaction(t, store)
}

func TestDialLMTPStartTLS(t *testing.T) {
	cert, pool := certificate(t)
	store := serve(t, func(s *script) {
		s.send("220-old LMTP", "220 ready")
		s.line()
		s.send("250-old", "250-STARTTLS", "250 PIPELINING")
		if l := s.line(); l != "STARTTLS" {
			t.Errorf("server got %q", l)
		}
		s.send("220 go")
		s.startTLS(cert)
		lmtpSession(s)
	})
	store.TLS, store.TLSConfig = backend.TLSStartTLS, &tls.Config{RootCAs: pool}
	transaction(t, store)
}

func TestDialLMTPRefusals(t *testing.T) {
	tests := []struct {
		name string
		play func(*script)
		want backend.Kind
	}{
		{"busy", func(s *script) { s.send("421 too many") }, backend.KindTemporary},
		{"rubbish", func(s *script) { s.send("* OK IMAP") }, backend.KindUnavailable},
		{"no STARTTLS", func(s *script) { s.send("220 x"); s.line(); s.send("250 x") }, backend.KindUnavailable},
		{"injected", func(s *script) {
			s.send("220 x")
			s.line()
			s.send("250-x", "250 STARTTLS")
			s.line()
			_, _ = s.conn.Write([]byte("220 go\r\n250 evil\r\n"))
		}, backend.KindUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			store := serve(t, tt.play)
			store.TLS = backend.TLSStartTLS
			if _, err := DialLMTP(context.Background(), Target{Store: store}); !backend.IsKind(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}
