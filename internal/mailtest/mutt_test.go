package mailtest

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
)

// inbox is an SMTP server that passes on every message it takes.
type inbox struct{ got chan string }

func (b inbox) NewSession(*smtp.Conn) (smtp.Session, error) { return b, nil }
func (b inbox) Mail(string, *smtp.MailOptions) error        { return nil }
func (b inbox) Rcpt(string, *smtp.RcptOptions) error        { return nil }
func (b inbox) Reset()                                      {}
func (b inbox) Logout() error                               { return nil }
func (b inbox) Data(r io.Reader) error {
	m, err := io.ReadAll(r)
	b.got <- string(m)
	return err
}

func TestMuttSends(t *testing.T) {
	b := inbox{make(chan string, 1)}
	ca := NewCA(t)
	s := smtp.NewServer(b)
	s.Domain, s.TLSConfig = "localhost", ca.ServerConfig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	for _, a := range []*CA{nil, ca} {
		MuttSend(t, a, "smtp://localhost:"+port(l.Addr().String())+"/", "anna@example.org", "bert@example.org", "hello", "A body.\n")
		if m := <-b.got; !strings.Contains(m, "Subject: hello") || !strings.Contains(m, "A body.") {
			t.Errorf("mutt sent %q", m)
		}
	}
}
