package submission_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/mail"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/internal/mailtest"
	"mailferry/store"
	"mailferry/store/storetest"
	"mailferry/store/submission"
)

type setup struct {
	store    *store.Store
	ca       *mailtest.CA
	plain    string // address with STARTTLS
	implicit string
}

func newSetup(t *testing.T, change func(*submission.Options)) setup {
	t.Helper()
	e, err := storetest.NewEngine(store.NewMachine(), 2)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		storetest.Check(t, s)
		s.Close()
		e.Close()
	})
	hash, err := store.HashPassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []store.NewUser{{Name: "anna@x.example", PasswordHash: hash, Aliases: []string{"info@x.example"}}, {Name: "bob@x.example"}} {
		if _, err := s.CreateUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	ca := mailtest.NewCA(t)
	o := submission.Options{Users: submission.LocalUsers{Store: s}, Router: s, Domain: "mx.x.example",
		TLSConfig: ca.ServerConfig(t), LocalDomain: func(d string) bool { return d == "x.example" }}
	if change != nil {
		change(&o)
	}
	server := submission.New(o)
	listen := func(serve func(net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- serve(l) }()
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return l.Addr().String()
	}
	out := setup{s, ca, listen(server.Serve), listen(server.ServeTLS)}
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return out
}

func (s setup) dial(t *testing.T, how string) *smtp.Client {
	t.Helper()
	tc := s.ca.Client()
	tc.ServerName = "localhost"
	var c *smtp.Client
	var err error
	switch how {
	case "starttls":
		c, err = smtp.DialStartTLS(s.plain, tc)
	case "implicit":
		c, err = smtp.DialTLS(s.implicit, tc)
	default:
		c, err = smtp.Dial(s.plain)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// inbox reads a message of a user's INBOX.
func (s setup) inbox(t *testing.T, user string, uid imap.UID) *mail.Message {
	t.Helper()
	a, err := s.store.Account(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	mb, err := a.Mailbox(t.Context(), backend.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := a.Snapshot(t.Context(), mb.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	m, err := snap.Message(uid)
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.OpenMessage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := mail.ReadMessage(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return parsed
}

func wantCode(t *testing.T, err error, code int, text string) {
	t.Helper()
	var reply *smtp.SMTPError
	if !errors.As(err, &reply) || reply.Code != code || !strings.Contains(reply.Message, text) {
		t.Fatalf("error %v, want %d %q", err, code, text)
	}
}

func TestSubmit(t *testing.T) {
	s := newSetup(t, nil)
	for i, how := range []string{"starttls", "implicit"} {
		t.Run(how, func(t *testing.T) {
			c := s.dial(t, how)
			login := sasl.NewPlainClient("", "anna@x.example", "secret")
			if how == "implicit" {
				login = sasl.NewLoginClient("anna@x.example", "secret")
			}
			if err := c.Auth(login); err != nil {
				t.Fatal(err)
			}
			err := c.SendMail("info@x.example", []string{"bob@x.example", "anna+notes@x.example"},
				strings.NewReader("Subject: hello\r\n\r\nhi\r\n"))
			if err != nil {
				t.Fatal(err)
			}
			for _, user := range []string{"bob@x.example", "anna@x.example"} {
				m := s.inbox(t, user, imap.UID(i+1))
				if _, err := m.Header.Date(); err != nil {
					t.Errorf("Date: %v", err)
				}
				id, received := m.Header.Get("Message-ID"), m.Header.Get("Received")
				if !strings.HasSuffix(id, "@mx.x.example>") || !strings.Contains(received, "with ESMTPSA id") ||
					m.Header.Get("Subject") != "hello" || m.Header.Get("Return-Path") != "<info@x.example>" {
					t.Errorf("header %v", m.Header)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s := newSetup(t, nil)
	c := s.dial(t, "starttls")
	wantCode(t, c.Mail("anna@x.example", nil), 530, "authentication")
	wantCode(t, c.Auth(sasl.NewPlainClient("", "anna@x.example", "wrong")), 535, "")
	wantCode(t, c.Auth(sasl.NewPlainClient("", "bob@x.example", "")), 535, "") // has no password
	wantCode(t, c.Auth(sasl.NewPlainClient("bob@x.example", "anna@x.example", "secret")), 535, "")
	if err := c.Auth(sasl.NewPlainClient("", "ANNA@x.example", "secret")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.Mail("bob@x.example", nil), 550, "may not send")
	wantCode(t, c.Mail("stranger@else.example", nil), 550, "may not send")
	if err := c.Mail("anna@x.example", nil); err != nil {
		t.Fatal(err)
	}
	wantCode(t, c.Rcpt("someone@else.example", nil), 550, "does not send mail to other servers")
	wantCode(t, c.Rcpt("nobody@x.example", nil), 550, "no such user")
}

func TestCleartextPolicy(t *testing.T) {
	for policy, code := range map[submission.Cleartext]int{submission.CleartextLoopback: 0, submission.CleartextNever: 523} {
		s := newSetup(t, func(o *submission.Options) { o.Cleartext = policy })
		c := s.dial(t, "plain")
		err := c.Auth(sasl.NewPlainClient("", "anna@x.example", "secret"))
		if code == 0 && err != nil {
			t.Errorf("%s: %v", policy, err)
		}
		if code != 0 {
			if ok := c.SupportsAuth(sasl.Plain); ok {
				t.Errorf("%s: AUTH is announced", policy)
			}
			wantCode(t, err, code, "TLS")
		}
	}
}

// faulty fails for one recipient.
type faulty struct {
	submission.Router
	bad string
}

func (f faulty) DeliverStream(ctx context.Context, from string, to []string, r io.Reader) []error {
	errs := f.Router.DeliverStream(ctx, from, to, r)
	for i := range to {
		if to[i] == f.bad && from != "" {
			errs[i] = backend.NewError(backend.KindOverQuota, "mailbox is full")
		}
	}
	return errs
}

func TestReportToSender(t *testing.T) {
	s := newSetup(t, func(o *submission.Options) { o.Router = faulty{o.Router, "bob@x.example"} })
	c := s.dial(t, "starttls")
	if err := c.Auth(sasl.NewPlainClient("", "anna@x.example", "secret")); err != nil {
		t.Fatal(err)
	}
	text := "From: <anna@x.example>\r\n\r\nhi\r\n"
	if err := c.SendMail("anna@x.example", []string{"anna@x.example", "bob@x.example"}, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	report := s.inbox(t, "anna@x.example", 2)
	body, _ := io.ReadAll(report.Body)
	if !strings.Contains(string(body), "<bob@x.example>: mailbox is full") || !strings.Contains(string(body), "Status: 4.2.2") {
		t.Errorf("report %s", body)
	}
	wantCode(t, c.SendMail("anna@x.example", []string{"bob@x.example"}, strings.NewReader(text)), 452, "full")
}

func TestLongHeaderIsRefused(t *testing.T) {
	s := newSetup(t, nil)
	c := s.dial(t, "starttls")
	if err := c.Auth(sasl.NewPlainClient("", "anna@x.example", "secret")); err != nil {
		t.Fatal(err)
	}
	err := c.SendMail("anna@x.example", []string{"bob@x.example"}, strings.NewReader(strings.Repeat("X: y\r\n", 100_000)+"\r\n"))
	wantCode(t, err, 552, "header")
}
