// Package lmtpd takes mail in by LMTP (RFC 2033) and hands it to a Deliverer:
// the store itself, or a front that knows where each recipient lives.
package lmtpd

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/store/smtpd"
)

// Deliverer files mail. The errors are backend errors; their kind decides the
// reply. *store.Store is one. Safe for concurrent use.
type Deliverer interface {
	// Recipient says whether an address can get mail now. What it returns goes
	// to DeliverStream as it is: the canonical user for the store.
	Recipient(ctx context.Context, address string) (recipient string, err error)
	// DeliverStream reads a message once, to its end, and files it for each
	// recipient. The errors are in the recipients' order; nil means durable.
	DeliverStream(ctx context.Context, from string, recipients []string, body io.Reader) []error
}

// Options configure a Server. Deliverer is required.
type Options struct {
	Deliverer      Deliverer
	Domain         string // our name in the greeting and in Received; "localhost" when empty
	MaxSize        int64  // octets of a message; default 128 MiB
	MaxRecipients  int    // per transaction; default 1000
	MaxConnections int64  // default 1000
	Logger         *slog.Logger
}

const (
	defaultMaxSize        = 128 << 20
	defaultMaxRecipients  = 1000
	defaultMaxConnections = 1000
	// maxLine bounds a line, in commands and in messages. RFC 5321 says 998
	// octets; mail with lines of hundreds of kilobytes exists, and a peer on
	// LMTP is our own edge.
	maxLine = 1 << 20
	// readTimeout bounds the wait for a command, and the receipt of a message.
	readTimeout  = 10 * time.Minute
	writeTimeout = time.Minute
)

// Server is an LMTP server.
type Server struct {
	*smtpd.Server
	options Options
	log     *slog.Logger
	open    atomic.Int64
}

// New returns a server; it runs with Serve and ends with Shutdown.
func New(o Options) *Server {
	if o.Domain == "" {
		o.Domain = "localhost"
	}
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
	if o.MaxRecipients == 0 {
		o.MaxRecipients = defaultMaxRecipients
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = defaultMaxConnections
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: o, log: o.Logger}
	srv := smtp.NewServer(smtp.BackendFunc(s.newSession))
	srv.LMTP = true
	srv.Domain = o.Domain
	srv.MaxMessageBytes = o.MaxSize
	srv.MaxRecipients = o.MaxRecipients
	srv.MaxLineLength = maxLine
	srv.ReadTimeout, srv.WriteTimeout = readTimeout, writeTimeout
	srv.EnableSMTPUTF8 = true
	s.Server = smtpd.NewServer(srv, o.Logger)
	return s
}

// Serve accepts connections until Shutdown, then returns nil.
func (s *Server) Serve(l net.Listener) error { return s.Server.Serve(l, nil) }

func (s *Server) newSession(c *smtp.Conn) (smtp.Session, error) {
	if s.open.Add(1) > s.options.MaxConnections {
		s.open.Add(-1)
		return nil, &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "too many connections"}
	}
	ctx, cancel := context.WithCancel(s.Context())
	return &session{server: s, conn: c, ctx: ctx, cancel: cancel}, nil
}

// session is one connection; go-smtp calls it from one goroutine at a time.
type session struct {
	server     *Server
	conn       *smtp.Conn
	ctx        context.Context
	cancel     context.CancelFunc
	from       string
	addresses  []string // as the peer wrote them
	recipients []string // as the deliverer wants them
}

// Reset implements smtp.Session.
func (s *session) Reset() { s.from, s.addresses, s.recipients = "", nil, nil }

// Logout implements smtp.Session.
func (s *session) Logout() error {
	s.cancel()
	s.server.open.Add(-1)
	return nil
}

// Mail implements smtp.Session.
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	r, err := s.server.options.Deliverer.Recipient(s.ctx, to)
	if err != nil {
		s.logFailure("recipient refused", to, err)
		return smtpd.Reply(err)
	}
	s.addresses, s.recipients = append(s.addresses, to), append(s.recipients, r)
	return nil
}

// Data implements smtp.Session; LMTP never calls it.
func (s *session) Data(io.Reader) error {
	return backend.NewError(backend.KindBug, "not LMTP")
}

// LMTPData implements smtp.LMTPSession: one reply per recipient, each after its
// copy is durable.
func (s *session) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	defer smtpd.Busy(s.conn.Conn())()
	trace := smtpd.TraceOf(s.conn, s.server.options.Domain, "LMTP")
	if len(s.addresses) == 1 {
		trace.Recipient = s.addresses[0]
	}
	start := time.Now()
	errs := s.server.options.Deliverer.DeliverStream(s.ctx, s.from, s.recipients,
		smtpd.Prepend(smtpd.ReturnPath(s.from)+trace.Received(), r))
	for i, err := range errs {
		if err == nil {
			status.SetStatus(s.addresses[i], smtpd.Delivered)
			continue
		}
		s.logFailure("delivery failed", s.addresses[i], err)
		status.SetStatus(s.addresses[i], smtpd.Reply(err))
	}
	s.server.log.Debug("delivery", "id", trace.ID, "recipients", len(errs), "took", time.Since(start))
	return nil
}

// logFailure logs what an administrator can act on; a wrong address is the
// sender's fault.
func (s *session) logFailure(what, address string, err error) {
	level := slog.LevelWarn
	switch backend.KindOf(err) {
	case backend.KindNotFound, backend.KindPermission, backend.KindInvalid, backend.KindTooLarge:
		level = slog.LevelDebug
	}
	s.server.log.Log(s.ctx, level, what, "recipient", address, "error", err)
}
